//! Merging: flag over environment over file over default, then the checks that span several keys.

use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::str::FromStr;

use crate::environment::Environment;
use crate::error::{ConfigError, ConfigErrorKind};
use crate::file::{FileTree, MemoryFile, NbdFile, NvmfFile, PluginsFile, ReactorsFile};
use crate::filter;
use crate::limits::{self, Connections, GRPC_PORT, KeepAliveS, NVMF_PORT, PerHost};
use crate::listen::{Listen, Origin, select_interface};
use crate::place::Source;
use crate::ports;
use crate::values::{Advertise, CpuList, ExportAddress, NodeName};
use crate::{Config, Io, ListenAddress, Log, Memory, Nbd, Nvmf, Plugins, Reactors};

/// The socket of the NBD server in the state directory.
const NBD_SOCKET: &str = "nbd.sock";

/// What the command line said, as text; checked while merging so that flag and file are refused alike.
#[derive(Clone, Debug, Default)]
pub struct Overrides {
    /// `--config FILE`
    pub config: Option<PathBuf>,
    /// `--state-dir DIR`
    pub state_dir: Option<PathBuf>,
    /// `--grpc ADDR:PORT`
    pub grpc: Option<String>,
    /// `-g`, `--grpc-endpoint` `IP[:PORT]`: upstream's older form of the above
    pub grpc_endpoint: Option<String>,
    /// `--grpc-ip IP` or the first positional argument
    pub grpc_ip: Option<String>,
    /// `--grpc-port PORT` or the second positional argument
    pub grpc_port: Option<String>,
    /// `--nvmf ADDR:PORT`, repeatable
    pub nvmf: Vec<String>,
    /// `-T`, `--tgt-iface` interface to listen on
    pub interface: Option<String>,
    /// `--metrics ADDR:PORT`
    pub metrics: Option<String>,
    /// `--driver auto|uring|epoll`
    pub driver: Option<String>,
    /// `--tcp-congestion NAME`
    pub tcp_congestion: Option<String>,
    /// `-l CPULIST`
    pub cpus: Option<String>,
    /// `-m MASK`
    pub mask: Option<String>,
    /// `-N NODE`
    pub node_name: Option<String>,
    /// `-F FORMAT`
    pub log_format: Option<String>,
    /// `--log-level FILTER`
    pub log_level: Option<String>,
}

/// Parses the value of `flag`, if it was given.
fn flag<T: FromStr<Err = String>>(
    flag: &'static str,
    value: &Option<String>,
) -> Result<Option<T>, ConfigError> {
    let parsed = value.as_deref().map(str::parse).transpose();
    parsed.map_err(|problem| ConfigError::flag(flag, problem))
}

pub(crate) fn merge(
    tree: FileTree,
    flags: &Overrides,
    environment: &Environment,
) -> Result<Config, ConfigError> {
    let source = tree.source;
    let reactors = reactors(&tree.reactors, flags, environment, &source)?;
    let memory = memory(&tree.memory, &reactors, environment, &source)?;
    let metrics_flag: Option<Listen<9502>> = flag("--metrics", &flags.metrics)?;
    let metrics = match (metrics_flag, tree.metrics.listen) {
        (Some(listen), _) => Some((listen, Origin::Flag("--metrics"))),
        (None, Some(listen)) => Some((listen, Origin::File("metrics.listen"))),
        (None, None) => None,
    };
    let metrics = metrics.map(|(listen, origin)| ListenAddress {
        address: listen.0,
        origin,
    });
    let (state_dir, state_dir_origin) = state_dir(tree.state_dir, flags, environment, &source)?;
    let nvmf = nvmf(tree.nvmf, flags, environment, &source)?;
    let grpc = grpc(tree.grpc.listen, flags)?;
    let nbd = nbd(tree.nbd, &state_dir, &source)?;
    ports::check(&grpc, metrics.as_ref(), &nvmf.listen, &nbd, &source)?;
    let (node_name, unfit_hostname) = node_name(tree.node_name, flags, environment)?;
    Ok(Config {
        node_name,
        unfit_hostname,
        nbd,
        state_dir,
        state_dir_origin,
        nvmf,
        grpc,
        metrics,
        log: log(tree.log.format, tree.log.level, flags, environment, &source)?,
        io: Io {
            slow_io_ms: tree.io.slow_io_ms.unwrap_or(limits::SLOW_MS),
            device_deadline_s: tree.io.device_deadline_s.unwrap_or(limits::DEADLINE_S),
        },
        plugins: plugins(tree.plugins, environment),
        devices: tree.device,
        source,
        reactors,
        memory,
    })
}

/// In the state directory, which only this user enters, unless the file says where.
fn nbd(tree: NbdFile, state_dir: &Path, source: &Source) -> Result<Nbd, ConfigError> {
    let default = || vec![ExportAddress::socket_in(state_dir, NBD_SOCKET)];
    let listen = tree.listen.unwrap_or_else(default);
    if listen.is_empty() {
        let problem = "names no address; leave it out for a socket in the state directory";
        return Err(source.bad_value(&Origin::File("nbd.listen"), problem));
    }
    Ok(Nbd { listen })
}

/// The operator's files, then directories: those of the file, of the environment, and the one beside the program.
fn plugins(tree: PluginsFile, environment: &Environment) -> Plugins {
    let mut directories = tree.directories.unwrap_or_default();
    directories.extend(environment.plugin_path.iter().cloned());
    directories.extend(environment.plugin_directory.clone());
    Plugins {
        built_in: tree.built_in.unwrap_or(true),
        files: tree.files.unwrap_or_default(),
        directories,
        isolate: tree.isolate.unwrap_or_default().into_iter().collect(),
        load_timeout_s: tree.load_timeout_s.unwrap_or(limits::LOAD_TIMEOUT_S),
    }
}

/// The name, and the host name where it is none.
fn node_name(
    file: Option<NodeName>,
    flags: &Overrides,
    environment: &Environment,
) -> Result<(NodeName, Option<String>), ConfigError> {
    if let Some(name) = flag("-N", &flags.node_name)?.or(file) {
        return Ok((name, None));
    }
    // A host name the kernel allows but we do not is not worth a refused start, but a word.
    let host = environment.hostname.as_deref();
    match host.map(str::parse) {
        Some(Ok(name)) => Ok((name, None)),
        Some(Err(_)) | None => {
            let name = "mayastor-node".parse().expect("a valid node name");
            Ok((name, host.map(str::to_owned)))
        }
    }
}

fn state_dir(
    file: Option<PathBuf>,
    flags: &Overrides,
    environment: &Environment,
    source: &Source,
) -> Result<(PathBuf, Origin), ConfigError> {
    let given = match (&flags.state_dir, file) {
        (Some(dir), _) => Some((dir.clone(), Origin::Flag("--state-dir"))),
        (None, Some(dir)) => Some((dir, Origin::File("state_dir"))),
        (None, None) => None,
    };
    if let Some((dir, origin)) = given {
        if dir.as_os_str().is_empty() {
            let problem = "is empty; name a directory, or leave it out for the default one";
            return Err(source.bad_value(&origin, problem));
        }
        let absolute = match &environment.working_dir {
            // Without the dots in between, as it is shown in addresses.
            Some(base) => base.join(dir).components().collect(),
            None => dir,
        };
        return Ok((absolute, origin));
    }
    let origin = Origin::Default("state_dir");
    if environment.is_root {
        return Ok((PathBuf::from("/var/lib/io-engine"), origin));
    }
    let xdg = environment.xdg_state_home.clone();
    let base = xdg.or_else(|| {
        environment
            .home
            .as_ref()
            .map(|home| home.join(".local/state"))
    });
    base.map(|base| (base.join("io-engine"), origin)).ok_or_else(|| {
        let problem = "neither XDG_STATE_HOME nor HOME names a directory for state; give one with --state-dir DIR";
        ConfigError::new(ConfigErrorKind::BadValue, "environment", "state_dir", problem)
    })
}

fn reactors(
    file: &ReactorsFile,
    flags: &Overrides,
    environment: &Environment,
    source: &Source,
) -> Result<Reactors, ConfigError> {
    let list: Option<CpuList> = flag("-l", &flags.cpus)?;
    let mask = flags.mask.as_deref().map(CpuList::from_mask).transpose();
    let mask = mask.map_err(|problem| ConfigError::flag("-m", problem))?;
    // Upstream: -l overrides -m.
    let given = match (list, mask, &file.cpus) {
        (Some(list), _, _) => Some((list, Origin::Flag("-l"))),
        (None, Some(mask), _) => Some((mask, Origin::Flag("-m"))),
        (None, None, Some(list)) => Some((list.clone(), Origin::File("reactors.cpus"))),
        (None, None, None) => None,
    };
    let allowed = &environment.cpus;
    let cpus = match given {
        Some((cpus, origin)) => {
            if let Some(cpu) = cpus.as_slice().iter().find(|cpu| !allowed.contains(cpu)) {
                let allowed: Vec<String> = allowed.iter().map(u32::to_string).collect();
                let problem = format!(
                    "CPU {cpu} does not exist or is not allowed to this process; use some of {}",
                    allowed.join(",")
                );
                return Err(source.bad_value(&origin, problem));
            }
            cpus
        }
        None => CpuList::new(vec![allowed.first().copied().unwrap_or(0)]).expect("one CPU"),
    };
    Ok(Reactors {
        cpus,
        driver_origin: match (&flags.driver, file.driver) {
            (Some(_), _) => Origin::Flag("--driver"),
            (None, Some(_)) => Origin::File("reactors.driver"),
            (None, None) => Origin::Default("reactors.driver"),
        },
        driver: flag("--driver", &flags.driver)?
            .or(file.driver)
            .unwrap_or_default(),
        spin_us_max: file.spin_us_max.unwrap_or(limits::SPIN_US),
        spin_file_us_max: file.spin_file_us_max.unwrap_or(limits::SPIN_FILE_US),
    })
}

fn memory(
    file: &MemoryFile,
    reactors: &Reactors,
    environment: &Environment,
    source: &Source,
) -> Result<Memory, ConfigError> {
    let arena_mib = file.arena_mib.unwrap_or(limits::ARENA_MIB);
    let count = reactors.cpus.as_slice().len() as u64;
    let wanted = u64::from(arena_mib.get()) * count;
    if let Some(there) = environment.memory_bytes.map(|bytes| bytes / (1024 * 1024)) {
        // A quarter stays for the rest of the process, page cache and kernel buffers of sockets.
        let usable = there - there / 4;
        if wanted > usable {
            let problem = format!(
                "{count} reactors with {} MiB each do not fit in three quarters of the {there} MiB this process may \
                 use; give at most {}, or fewer reactors",
                arena_mib.get(),
                usable / count
            );
            return Err(source.bad_value(&Origin::File("memory.arena_mib"), problem));
        }
    }
    Ok(Memory {
        arena_mib,
        ram_disks_bytes_max: ram_disks_bytes_max(file, wanted, environment, source)?,
    })
}

/// What the arenas leave of three quarters of the memory, unless the file says otherwise.
fn ram_disks_bytes_max(
    file: &MemoryFile,
    arenas_mib: u64,
    environment: &Environment,
    source: &Source,
) -> Result<Option<u64>, ConfigError> {
    const MIB: u64 = 1 << 20;
    let there_mib = environment.memory_bytes.map(|bytes| bytes / MIB);
    let usable = |spare: u64| there_mib.map(|mib| (mib - mib / spare).saturating_sub(arenas_mib));
    let Some(wanted) = file.ram_disks_mib_max else {
        return Ok(usable(limits::MEMORY_SPARE_DIVISOR).map(|mib| mib * MIB));
    };
    let wanted_mib = u64::from(wanted.get());
    if let (Some(most), Some(there)) = (usable(limits::MEMORY_SPARE_DIVISOR_MAX), there_mib)
        && wanted_mib > most
    {
        let problem = format!(
            "{wanted_mib} MiB beside {arenas_mib} MiB of I/O memory leave too little of the {there} MiB this process may use; \
             give at most {most}"
        );
        return Err(source.bad_value(&Origin::File("memory.ram_disks_mib_max"), problem));
    }
    Ok(Some(wanted_mib * MIB))
}

fn grpc(file: Option<Listen<GRPC_PORT>>, flags: &Overrides) -> Result<ListenAddress, ConfigError> {
    refuse_two_addresses(flags)?;
    if let Some(listen) = flag::<Listen<GRPC_PORT>>("--grpc", &flags.grpc)? {
        return Ok(ListenAddress {
            address: listen.0,
            origin: Origin::Flag("--grpc"),
        });
    }
    if let Some(listen) = flag::<Listen<GRPC_PORT>>("--grpc-endpoint", &flags.grpc_endpoint)? {
        return Ok(ListenAddress {
            address: listen.0,
            origin: Origin::Flag("--grpc-endpoint"),
        });
    }
    let base = file.map_or(SocketAddr::from(([0u16; 8], GRPC_PORT)), |listen| listen.0);
    if flags.grpc_ip.is_none() && flags.grpc_port.is_none() {
        let key = "grpc.listen";
        let origin = if file.is_some() {
            Origin::File(key)
        } else {
            Origin::Default(key)
        };
        return Ok(ListenAddress {
            address: base,
            origin,
        });
    }
    let ip = match &flags.grpc_ip {
        Some(text) => text.parse().map_err(|_| {
            ConfigError::flag(
                "--grpc-ip",
                format!("'{text}' is not an IP address; write e.g. 0.0.0.0 or ::"),
            )
        })?,
        None => base.ip(),
    };
    let port = match &flags.grpc_port {
        Some(text) => text.parse().map_err(|_| {
            ConfigError::flag(
                "--grpc-port",
                format!("'{text}' is not a port; give a number from 0 to 65535"),
            )
        })?,
        None => base.port(),
    };
    let origin = Origin::Flag(if flags.grpc_port.is_some() {
        "--grpc-port"
    } else {
        "--grpc-ip"
    });
    Ok(ListenAddress {
        address: SocketAddr::new(ip, port),
        origin,
    })
}

/// `--grpc` says all there is to say, and the others would be ignored. Of those the first overrides the rest, as upstream's
/// does, whose callers give several.
fn refuse_two_addresses(flags: &Overrides) -> Result<(), ConfigError> {
    let others = [
        ("--grpc-endpoint", &flags.grpc_endpoint),
        ("--grpc-ip", &flags.grpc_ip),
        ("--grpc-port", &flags.grpc_port),
    ];
    match others.iter().find(|(_, value)| value.is_some()) {
        Some((other, _)) if flags.grpc.is_some() => {
            let problem =
                "is given beside --grpc, which says where the API is served; leave one out";
            Err(ConfigError::flag(other, problem))
        }
        _ => Ok(()),
    }
}

fn nvmf(
    file: NvmfFile,
    flags: &Overrides,
    environment: &Environment,
    source: &Source,
) -> Result<Nvmf, ConfigError> {
    let (keep_alive_s_min, keep_alive_s_max) = keep_alive(&file, source)?;
    let interface = interface(flags, environment, source)?;
    let listen = nvmf_listen(file.listen, flags, interface.clone(), source)?;
    let connections_max = file.connections_max.unwrap_or(limits::CONNECTIONS);
    let host_connections_max =
        host_connections_max(file.host_connections_max, connections_max, source)?;
    let pod_ip = pod_ip(environment, source)?;
    let advertise = file.advertise.map(|address| address.0);
    let advertise = advertise.or(interface.map(|(_, ip)| ip)).or(pod_ip);
    Ok(Nvmf {
        listen,
        advertise,
        connections_max,
        host_connections_max,
        address_connections_max: address_connections_max(
            file.address_connections_max,
            (connections_max, host_connections_max),
            source,
        )?,
        host_controllers_max: file
            .host_controllers_max
            .unwrap_or(limits::HOST_CONTROLLERS),
        queues_max: file.queues_max.unwrap_or(limits::QUEUES),
        queue_depth_max: file.queue_depth_max.unwrap_or(limits::QUEUE_DEPTH),
        in_capsule_bytes: file
            .in_capsule_bytes
            .unwrap_or(crate::InCapsuleBytes::DEFAULT),
        transfer_kib_max: file.transfer_kib_max.unwrap_or(crate::TransferKib::DEFAULT),
        keep_alive_s_min,
        keep_alive_s_max,
        progress_timeout_s: file.progress_timeout_s.unwrap_or(limits::PROGRESS_S),
        tcp_congestion_origin: match (&flags.tcp_congestion, &file.tcp_congestion) {
            (Some(_), _) => Origin::Flag("--tcp-congestion"),
            (None, Some(_)) => Origin::File("nvmf.tcp_congestion"),
            (None, None) => Origin::Default("nvmf.tcp_congestion"),
        },
        tcp_congestion: flag("--tcp-congestion", &flags.tcp_congestion)?.or(file.tcp_congestion),
        header_digest: file.header_digest.unwrap_or(true),
        data_digest: file.data_digest.unwrap_or(true),
    })
}

/// The address of the interface to listen on, and the setting that names it.
fn interface(
    flags: &Overrides,
    environment: &Environment,
    source: &Source,
) -> Result<Option<(Origin, IpAddr)>, ConfigError> {
    let (origin, selector) = match (&flags.interface, &environment.target_interface) {
        (Some(selector), _) => (Origin::Flag("-T"), selector),
        (None, Some(selector)) => (Origin::Variable("NVMF_TGT_IFACE"), selector),
        (None, None) => return Ok(None),
    };
    match select_interface(selector, &environment.interfaces) {
        Ok(ip) => Ok(Some((origin, ip))),
        Err(problem) => Err(source.bad_value(&origin, problem)),
    }
}

/// Shortest and longest keep-alive timeout.
fn keep_alive(file: &NvmfFile, source: &Source) -> Result<(KeepAliveS, KeepAliveS), ConfigError> {
    let min = file.keep_alive_s_min.unwrap_or(limits::KEEP_ALIVE_S_MIN);
    let max = file.keep_alive_s_max.unwrap_or(limits::KEEP_ALIVE_S_MAX);
    if min <= max {
        return Ok((min, max));
    }
    let problem = format!(
        "{} is above nvmf.keep_alive_s_max ({}); lower it",
        min.get(),
        max.get()
    );
    Err(source.bad_value(&Origin::File("nvmf.keep_alive_s_min"), problem))
}

fn pod_ip(environment: &Environment, source: &Source) -> Result<Option<IpAddr>, ConfigError> {
    let parsed = environment.pod_ip.as_deref().map(str::parse::<Advertise>);
    let address = parsed
        .transpose()
        .map_err(|problem| source.bad_value(&Origin::Variable("MY_POD_IP"), problem))?;
    Ok(address.map(|address| address.0))
}

/// Half of the connections, so that one host leaves room for others, unless the file says otherwise.
fn host_connections_max(
    file: Option<PerHost>,
    all: Connections,
    source: &Source,
) -> Result<PerHost, ConfigError> {
    let Some(max) = file else {
        let share = all.get().div_ceil(limits::HOST_CONNECTIONS_DIVISOR);
        return Ok(PerHost::new(share.into()).expect("at least 1, and below the limit of all"));
    };
    within_connections(max, all, "nvmf.host_connections_max", source)
}

/// All connections but a part for other addresses, and what one host may have, unless the file says otherwise.
fn address_connections_max(
    file: Option<PerHost>,
    (all, host): (Connections, PerHost),
    source: &Source,
) -> Result<PerHost, ConfigError> {
    let Some(max) = file else {
        let share = all.get() - all.get() / limits::ADDRESS_RESERVE_DIVISOR;
        let share = share.max(host.get());
        return Ok(PerHost::new(share.into()).expect("at least 1, and not above the limit of all"));
    };
    within_connections(max, all, "nvmf.address_connections_max", source)
}

fn within_connections(
    max: PerHost,
    all: Connections,
    key: &'static str,
    source: &Source,
) -> Result<PerHost, ConfigError> {
    if max.get() > all.get() {
        let problem = format!(
            "{} is above nvmf.connections_max ({}); lower it",
            max.get(),
            all.get()
        );
        return Err(source.bad_value(&Origin::File(key), problem));
    }
    Ok(max)
}

fn nvmf_listen(
    file: Option<Vec<Listen<NVMF_PORT>>>,
    flags: &Overrides,
    interface: Option<(Origin, IpAddr)>,
    source: &Source,
) -> Result<Vec<ListenAddress>, ConfigError> {
    let (addresses, origin) = if !flags.nvmf.is_empty() {
        let parse = |text: &String| text.parse::<Listen<NVMF_PORT>>().map(|listen| listen.0);
        let parsed: Result<Vec<SocketAddr>, String> = flags.nvmf.iter().map(parse).collect();
        let parsed = parsed.map_err(|problem| ConfigError::flag("--nvmf", problem))?;
        (parsed, Origin::Flag("--nvmf"))
    } else if let Some((origin, ip)) = interface {
        (vec![SocketAddr::new(ip, NVMF_PORT)], origin)
    } else if let Some(list) = file {
        let addresses = list.iter().map(|listen| listen.0).collect();
        (addresses, Origin::File("nvmf.listen"))
    } else {
        let all = SocketAddr::from(([0u16; 8], NVMF_PORT));
        (vec![all], Origin::Default("nvmf.listen"))
    };
    let refuse = |problem: String| source.bad_value(&origin, problem);
    if addresses.is_empty() || addresses.len() > limits::LISTENERS_MAX {
        let most = limits::LISTENERS_MAX;
        return Err(refuse(format!(
            "{} addresses; give 1 to {most}",
            addresses.len()
        )));
    }
    for (index, address) in addresses.iter().enumerate() {
        if address.port() != 0 && addresses[..index].contains(address) {
            return Err(refuse(format!("{address} is named twice; remove one")));
        }
        let mut others = addresses[..index].iter();
        if let Some(other) = others.find(|other| ports::overlap(**other, *address)) {
            return Err(refuse(format!(
                "{other} and {address} overlap: one takes the port of the other; remove one, or give it another port"
            )));
        }
    }
    Ok(addresses
        .into_iter()
        .map(|address| ListenAddress {
            address,
            origin: origin.clone(),
        })
        .collect())
}

fn log(
    format: Option<crate::LogFormat>,
    level: Option<String>,
    flags: &Overrides,
    environment: &Environment,
    source: &Source,
) -> Result<Log, ConfigError> {
    let (level, level_origin) = if let Some(level) = &flags.log_level {
        (level.clone(), Origin::Flag("--log-level"))
    } else if let Some(level) = &environment.rust_log {
        (level.clone(), Origin::Variable("RUST_LOG"))
    } else if let Some(level) = level {
        (level, Origin::File("log.level"))
    } else {
        ("info".to_owned(), Origin::Default("log.level"))
    };
    let level =
        filter::normalized(&level).map_err(|problem| source.bad_value(&level_origin, problem))?;
    let format = flag("-F", &flags.log_format)?
        .or(format)
        .unwrap_or_default();
    Ok(Log {
        format,
        level,
        level_origin,
    })
}
