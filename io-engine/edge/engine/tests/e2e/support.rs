//! A data plane on loopback, and hosts that connect to it.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use block::DeviceConfig;
use engine::control::dataplane::{Access, DataPlane, DeviceHandle, NamespaceSpec, SubsystemSpec};
use engine::plane::{Plane, PlaneConfig, ReservationStore, linked};
use io_engine_perf::{Client, ClientError, HostIdentity, SessionOptions, Target};
use nvme_target::TargetConfig;
use plugin_host::PluginHost;
use reactor::{DriverChoice, ReactorConfig};
use sdk::block::DeviceDriver;
use transport_nvmf_tcp::TcpConfig;
use uuid::Uuid;

/// Reservation records in memory, kept over a restart of the plane.
#[derive(Default)]
pub(crate) struct Records(Mutex<BTreeMap<(String, u32), Vec<u8>>>);

impl ReservationStore for Records {
    fn load(&self, nqn: &str, nsid: u32) -> Result<Option<Vec<u8>>, String> {
        Ok(self
            .0
            .lock()
            .expect("no panic")
            .get(&(nqn.to_owned(), nsid))
            .cloned())
    }

    fn save(&self, nqn: &str, nsid: u32, record: &[u8]) -> Result<(), String> {
        self.0
            .lock()
            .expect("no panic")
            .insert((nqn.to_owned(), nsid), record.to_vec());
        Ok(())
    }
}

/// The driver the suite runs on: `IO_ENGINE_TEST_DRIVER`, else whatever the machine has.
#[expect(
    clippy::disallowed_methods,
    reason = "the test command chooses the driver for the whole suite"
)]
pub(crate) fn driver() -> DriverChoice {
    match std::env::var("IO_ENGINE_TEST_DRIVER").as_deref() {
        Ok("uring") => DriverChoice::Uring,
        Ok("epoll") => DriverChoice::Epoll,
        _ => DriverChoice::Auto,
    }
}

/// One reactor, floating, with small limits that tests can reach.
pub(crate) fn config() -> PlaneConfig {
    PlaneConfig {
        cpus: vec![None],
        reactor: ReactorConfig {
            driver: driver(),
            arena_bytes: 32 << 20,
            ..ReactorConfig::default()
        },
        nvmf: vec![SocketAddr::from(([127, 0, 0, 1], 0))],
        target: TargetConfig {
            commands_max: 4096,
            ..TargetConfig::default()
        },
        address_connections_max: 4096,
        tcp: TcpConfig::default(),
        device: DeviceConfig {
            name: String::new(),
            deadline: Duration::from_secs(20),
            slow_io: Duration::from_secs(1),
            inflight_max: 4096,
            overdue_max: 64,
        },
        export_listen: BTreeMap::new(),
        plugin_directories: Vec::new(),
    }
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .expect("a runtime")
}

/// A running plane and the runtime its control side needs.
pub(crate) struct Rig {
    pub(crate) runtime: tokio::runtime::Runtime,
    pub(crate) plane: Arc<Plane>,
    pub(crate) records: Arc<Records>,
    handles: BTreeMap<String, DeviceHandle>,
    directory: PathBuf,
}

impl Rig {
    pub(crate) fn new() -> Self {
        Self::with(config(), Arc::default())
    }

    pub(crate) fn with(config: PlaneConfig, records: Arc<Records>) -> Self {
        Self::with_plugins(config, records, &linked(None, None))
    }

    pub(crate) fn with_plugins(
        config: PlaneConfig,
        records: Arc<Records>,
        plugins: &PluginHost,
    ) -> Self {
        let runtime = runtime();
        let store = Arc::clone(&records) as Arc<dyn ReservationStore>;
        let plane = Plane::start_from(config, store, plugins).expect("the plane starts");
        Self::around(runtime, plane, records)
    }

    /// With the device drivers and the reservation store of a test.
    pub(crate) fn with_store(
        config: PlaneConfig,
        store: Arc<dyn ReservationStore>,
        drivers: Vec<Box<dyn DeviceDriver>>,
    ) -> Self {
        let plane = Plane::start_with(config, store, drivers).expect("the plane starts");
        Self::around(runtime(), plane, Arc::default())
    }

    fn around(runtime: tokio::runtime::Runtime, plane: Arc<Plane>, records: Arc<Records>) -> Self {
        let directory = std::env::temp_dir().join(format!("engine-test-{}", Uuid::new_v4()));
        std::fs::create_dir_all(&directory).expect("a directory");
        Self {
            runtime,
            plane,
            records,
            handles: BTreeMap::new(),
            directory,
        }
    }

    /// A sparse file of `bytes` bytes that lives as long as the rig.
    pub(crate) fn file(&self, name: &str, bytes: u64) -> PathBuf {
        let path = self.directory.join(name);
        std::fs::File::create(&path)
            .and_then(|file| file.set_len(bytes))
            .expect("a file");
        path
    }

    pub(crate) fn open(&mut self, uri: &str) -> DeviceHandle {
        let info = self
            .runtime
            .block_on(self.plane.open_device(uri))
            .unwrap_or_else(|problem| panic!("{problem}"));
        self.handles.insert(uri.to_owned(), info.handle);
        info.handle
    }

    /// Opens the devices and serves them as namespaces 1, 2, … of `name`.
    pub(crate) fn serve(&mut self, name: &str, uris: &[&str]) -> String {
        let mut namespaces = Vec::new();
        for (at, uri) in uris.iter().enumerate() {
            let device = self.open(uri);
            namespaces.push(namespace(at as u32 + 1, device));
        }
        let nqn = format!("nqn.2019-05.io.openebs:{name}");
        let spec = SubsystemSpec {
            nqn: nqn.clone(),
            serial: "DCS0123456789abcdef".into(),
            allowed_hosts: None,
            namespaces,
        };
        self.runtime
            .block_on(self.plane.add_subsystem(spec))
            .unwrap_or_else(|problem| panic!("{problem}"));
        nqn
    }

    /// The device opened from `uri`.
    pub(crate) fn handle(&self, uri: &str) -> DeviceHandle {
        self.handles[uri]
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.plane.listeners()[0]
    }

    pub(crate) fn connect(&self, nqn: &str) -> Client {
        self.connect_as(
            nqn,
            "nqn.2014-08.org.nvmexpress:uuid:11111111-1111-1111-1111-111111111111",
            |_| {},
        )
        .unwrap_or_else(|error| panic!("{error}"))
    }

    pub(crate) fn connect_as(
        &self,
        nqn: &str,
        host: &str,
        change: impl FnOnce(&mut SessionOptions),
    ) -> Result<Client, ClientError> {
        self.connect_at(0, nqn, host, change)
    }

    /// As [`Rig::connect_as`], through the listener `at`.
    pub(crate) fn connect_at(
        &self,
        at: usize,
        nqn: &str,
        host: &str,
        change: impl FnOnce(&mut SessionOptions),
    ) -> Result<Client, ClientError> {
        let mut options = SessionOptions::new(HostIdentity::named(host));
        options.timeout = Duration::from_secs(20);
        change(&mut options);
        Client::connect(&Target::at(self.plane.listeners()[at], nqn), options)
    }

    /// Connections the first reactor has.
    pub(crate) fn connections(&self) -> u64 {
        self.runtime.block_on(self.plane.reactors())[0].connections
    }

    /// Connections dropped for any reason.
    pub(crate) fn drops_total(&self) -> u64 {
        let counts = self.runtime.block_on(self.plane.drop_counts());
        counts.into_iter().map(|(_, count)| count).sum()
    }

    /// The reason most connections were dropped for.
    pub(crate) fn most_frequent_drop(&self) -> &'static str {
        let counts = self.runtime.block_on(self.plane.drop_counts());
        let most = counts.into_iter().max_by_key(|(_, count)| *count);
        most.expect("something was dropped").0
    }

    pub(crate) fn drops(&self, reason: &str) -> u64 {
        let counts = self.runtime.block_on(self.plane.drop_counts());
        counts
            .into_iter()
            .find(|(name, _)| *name == reason)
            .map_or(0, |(_, count)| count)
    }

    /// Waits until `condition` holds; a test that waits in vain fails.
    pub(crate) fn until(&self, what: &str, mut condition: impl FnMut(&Self) -> bool) {
        for _ in 0..2000 {
            if condition(self) {
                return;
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        panic!("never happened: {what}");
    }

    /// Stops the plane and gives back what survives it.
    pub(crate) fn stop(self) -> Arc<Records> {
        Arc::clone(&self.records)
    }
}

impl Drop for Rig {
    fn drop(&mut self) {
        self.runtime.block_on(self.plane.stop());
        // A directory left behind in the temporary directory does no harm.
        let _ = std::fs::remove_dir_all(&self.directory);
    }
}

pub(crate) fn namespace(nsid: u32, device: DeviceHandle) -> NamespaceSpec {
    let uuid = Uuid::from_u128(0x1000 + u128::from(nsid));
    NamespaceSpec {
        nsid,
        device,
        uuid,
        nguid: *uuid.as_bytes(),
        access: Access::ReadWrite,
    }
}

/// Bytes that differ by position and `seed`.
pub(crate) fn pattern(seed: u64, len: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    (0..len)
        .map(|_| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state as u8
        })
        .collect()
}
