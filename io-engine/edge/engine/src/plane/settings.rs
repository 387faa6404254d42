//! From the configuration file's words to the reactors'.

use std::collections::BTreeMap;
use std::time::Duration;

use block::DeviceConfig;
use engine_config::{Config, Driver, Nvmf};
use nvme_target::TargetConfig;
use nvme_target::limits::ADMIN_QUEUE_DEPTH_MAX;
use plugin_host::Isolation;
use reactor::{DriverChoice, Limits, ReactorConfig, SocketOptions};
use transport_nvmf_tcp::TcpConfig;

use super::shards::PlaneConfig;
use crate::control::SUBSYSTEMS_MAX;

/// Streams beside the connections allowed, so that one too many is accepted, counted and closed.
const STREAMS_BESIDE: u32 = 64;
/// Descriptors of a reactor beside its streams: a ring, an event and the listeners.
const OWN_DESCRIPTORS: u32 = 16;
/// What a reactor's table takes at most.
const STREAMS_MAX: u32 = 65_536;
/// Files a reactor may hold open besides one for each device.
const FILES: u32 = 1024;
/// I/O in flight on one device; one more is answered Busy, which hosts retry. As many as a reactor has file operations.
const INFLIGHT_MAX: usize = 4096;
/// Overdue I/O a device may sit on before it is taken offline.
const OVERDUE_MAX: usize = 64;
/// How long a host may leave sent data unacknowledged before its connections are dropped.
const TCP_USER_TIMEOUT: Duration = Duration::from_secs(30);

/// Descriptors left to the control side where there are enough: 256 calls, 64 scrapes, the state store, plugins, and the
/// devices' own.
const CONTROL_DESCRIPTORS: u64 = 512;

/// Connections of a reactor with which an engine is of use: a host needs two, and may have half of them.
const CONNECTIONS_MIN: u32 = 4;

/// Descriptors a process needs for `reactors` reactors that hosts can connect to.
fn descriptors_needed(reactors: usize) -> u64 {
    let each = u64::from(STREAMS_BESIDE + OWN_DESCRIPTORS + CONNECTIONS_MIN);
    let all = each * reactors.max(1) as u64;
    all + CONTROL_DESCRIPTORS.min(all)
}

/// Why a process that may open `limit` descriptors is not to start; `None` if it may.
pub fn too_few_descriptors(limit: u64, reactors: usize) -> Option<String> {
    let needed = descriptors_needed(reactors);
    (limit < needed).then(|| {
        format!(
            "the limit of open files (RLIMIT_NOFILE) is {limit}, and no host could connect: {reactors} reactors and the \
             control side need {needed}; raise the hard limit (LimitNOFILE= of the unit, ulimit -Hn)"
        )
    })
}

/// Connections a reactor may have in a process that may open `limit` descriptors: what the control side leaves, which could
/// otherwise neither take a call nor store a change once hosts have them all.
pub fn connections_within(limit: u64, reactors: usize) -> u32 {
    let control = CONTROL_DESCRIPTORS.min(limit.div_ceil(2));
    let each = (limit - control) / reactors.max(1) as u64;
    let each = each.saturating_sub(u64::from(STREAMS_BESIDE + OWN_DESCRIPTORS));
    u32::try_from(each).unwrap_or(u32::MAX).max(1)
}

impl PlaneConfig {
    /// Takes connections back to what `limit` descriptors allow; `None` has no limit. Parts of them shrink alike.
    pub fn within_descriptors(mut self, limit: Option<u64>) -> Self {
        let wanted = u32::try_from(self.tcp.connections_max).unwrap_or(u32::MAX);
        let most = limit.map_or(u32::MAX, |limit| connections_within(limit, self.cpus.len()));
        if wanted <= most {
            return self;
        }
        tracing::warn!(
            limit,
            connections = most,
            wanted,
            fix = "raise the limit of open files (LimitNOFILE=, ulimit -n), or lower nvmf.connections_max",
            "a reactor takes fewer connections than nvmf.connections_max: the rest of the descriptors is the control side's"
        );
        let part = |of: u32| {
            let part = u64::from(of) * u64::from(most) / u64::from(wanted.max(1));
            // A host that may connect has an admin queue and one for I/O.
            u32::try_from(part).unwrap_or(most).max(of.min(2))
        };
        self.target.host_qpairs_max = part(self.target.host_qpairs_max);
        self.address_connections_max = part(self.address_connections_max);
        self.target.controllers_max = self.target.controllers_max.min(most);
        self.target.qpairs_max = most;
        self.tcp.connections_max = most as usize;
        self.reactor.limits.streams = (most + STREAMS_BESIDE).min(STREAMS_MAX);
        self
    }

    /// What `config` says, for the reactors. `firmware` is the engine's version.
    pub fn new(config: &Config, firmware: &str) -> Self {
        let nvmf = &config.nvmf;
        let queue_depth = u16::try_from(nvmf.queue_depth_max.get()).unwrap_or(u16::MAX);
        let arena_bytes = (config.memory.arena_mib.get() as usize) << 20;
        Self {
            cpus: config
                .reactors
                .cpus
                .as_slice()
                .iter()
                .map(|cpu| Some(*cpu as usize))
                .collect(),
            reactor: ReactorConfig {
                driver: driver(config),
                arena_bytes,
                spin_us_max: config.reactors.spin_us_max.get(),
                spin_file_us_max: config.reactors.spin_file_us_max.get(),
                limits: Limits {
                    streams: (nvmf.connections_max.get() + STREAMS_BESIDE).min(STREAMS_MAX),
                    files: FILES,
                    ..Limits::default()
                },
                sockets: SocketOptions {
                    congestion: nvmf
                        .tcp_congestion
                        .as_ref()
                        .map(|name| name.as_str().to_owned()),
                    user_timeout: TCP_USER_TIMEOUT,
                },
                overdue_after: config.io.device_deadline(),
                ..ReactorConfig::default()
            },
            nvmf: nvmf.listen.iter().map(|listen| listen.address).collect(),
            target: TargetConfig {
                subsystems_max: SUBSYSTEMS_MAX,
                // Each controller has an admin connection, so the limit of connections is the one that counts.
                controllers_max: nvmf.connections_max.get(),
                qpairs_max: nvmf.connections_max.get(),
                host_controllers_max: nvmf.host_controllers_max.get(),
                host_qpairs_max: nvmf.host_connections_max.get(),
                io_queues_per_controller: u16::try_from(nvmf.queues_max.get()).unwrap_or(u16::MAX),
                queue_depth,
                mdts_bytes: nvmf.transfer_kib_max.bytes(),
                in_capsule_bytes: nvmf.in_capsule_bytes.get(),
                kato_ms_max: nvmf.keep_alive_s_max.get() * 1000,
                kato_ms_min: nvmf.keep_alive_s_min.get() * 1000,
                firmware: firmware.chars().take(8).collect(),
                ..TargetConfig::default()
            },
            address_connections_max: nvmf.address_connections_max.get(),
            tcp: tcp(nvmf, queue_depth),
            device: DeviceConfig {
                deadline: config.io.device_deadline(),
                slow_io: config.io.slow_io().unwrap_or(Duration::MAX),
                // Named when a device is opened.
                name: String::new(),
                inflight_max: INFLIGHT_MAX,
                overdue_max: OVERDUE_MAX,
            },
            export_listen: export_listen(config),
            plugin_directories: config.plugins.directories.clone(),
        }
    }
}

fn driver(config: &Config) -> DriverChoice {
    match config.reactors.driver {
        Driver::Auto => DriverChoice::Auto,
        Driver::Uring => DriverChoice::Uring,
        Driver::Epoll => DriverChoice::Epoll,
    }
}

/// The plugins `config` wants on reactors of their own.
pub fn isolation(config: &Config) -> Isolation {
    let names = config.plugins.isolate.clone();
    Isolation::new(names, driver(config), config.io.device_deadline())
}

/// Where servers listen, by protocol.
fn export_listen(config: &Config) -> BTreeMap<String, Vec<String>> {
    let nbd = config.nbd.listen.iter();
    let nbd = nbd.map(|address| address.as_str().to_owned());
    BTreeMap::from([("nbd".to_owned(), nbd.collect())])
}

fn tcp(nvmf: &Nvmf, queue_depth: u16) -> TcpConfig {
    TcpConfig {
        connections_max: nvmf.connections_max.get() as usize,
        in_capsule_bytes: nvmf.in_capsule_bytes.get(),
        transfer_bytes_max: nvmf.transfer_kib_max.bytes(),
        queue_depth: queue_depth.max(ADMIN_QUEUE_DEPTH_MAX).into(),
        header_digest: nvmf.header_digest,
        data_digest: nvmf.data_digest,
        progress_timeout: Duration::from_secs(nvmf.progress_timeout_s.get().into()),
        ..TcpConfig::default()
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use engine_config::{Environment, Overrides};

    use super::*;

    #[test]
    fn a_low_limit_of_descriptors_leaves_some_to_the_control_side() {
        assert_eq!(connections_within(1024, 1), 1024 - 512 - 80);
        assert_eq!(connections_within(1024, 2), 256 - 80);
        assert_eq!(connections_within(256, 1), 128 - 80);
        assert_eq!(connections_within(0, 1), 1);
        assert_eq!(connections_within(u64::MAX, 1), u32::MAX);

        for (reactors, needed) in [(1, 168), (2, 336), (6, 1008), (7, 588 + 512)] {
            assert_eq!(descriptors_needed(reactors), needed);
            assert_eq!(connections_within(needed, reactors), CONNECTIONS_MIN);
            assert!(connections_within(needed - 1, reactors) < CONNECTIONS_MIN);
            assert_eq!(too_few_descriptors(needed, reactors), None);
            assert!(too_few_descriptors(needed - 1, reactors).is_some());
        }

        let environment = Environment {
            home: Some("/home/u".into()),
            cpus: vec![0],
            ..Environment::default()
        };
        let text = "[nvmf]\nconnections_max = 1000\nhost_connections_max = 500\n";
        let config = Config::parse(
            Path::new("e.toml"),
            text,
            &Overrides::default(),
            &environment,
        );
        let new = || PlaneConfig::new(config.as_ref().unwrap(), "1");
        let lowered = new().within_descriptors(Some(1024));
        assert_eq!(lowered.tcp.connections_max, 432);
        assert_eq!(lowered.target.qpairs_max, 432);
        assert_eq!(lowered.target.host_qpairs_max, 216);
        assert_eq!(lowered.address_connections_max, 324);
        assert!(lowered.reactor.limits.streams < 512);
        for enough in [None, Some(4096)] {
            let kept = new().within_descriptors(enough);
            assert_eq!(
                (kept.tcp.connections_max, kept.target.host_qpairs_max),
                (1000, 500)
            );
        }
    }
}
