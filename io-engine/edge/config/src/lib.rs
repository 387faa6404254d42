//! The typed configuration tree of io-engine.
//!
//! What it decides: which keys exist, their ranges and defaults, and how a file, flags and the environment are merged
//! (flag over environment over file over default). What it does not: whether an address is free or a directory is
//! writable; that is found out by using it.
//!
//! Invariants:
//! - A [`Config`] that exists is valid: every number is in its range, every list bounded.
//! - Nothing falls back silently. A key nobody knows, a value out of range or a file that cannot be read is a
//!   [`ConfigError`], one line that names file, key and fix; the daemon prints it and exits with status 2.
//! - Environment variables are read here ([`Environment`]) and nowhere else in the program.

mod bounded;
mod cgroup;
mod environment;
mod error;
mod file;
mod filter;
pub mod limits;
mod listen;
mod merge;
mod place;
mod ports;
mod values;

#[cfg(test)]
mod tests;

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

pub use bounded::Bounded;
pub use environment::{Environment, MemoryNow};
pub use error::{ConfigError, ConfigErrorKind};
pub use file::DeclaredDevice;
pub use listen::{InterfaceAddress, Origin, select_interface};
pub use merge::Overrides;
pub use values::{
    Congestion, CpuList, Driver, ExportAddress, InCapsuleBytes, LogFormat, LogStyle, NodeName,
    TransferKib,
};

use limits::{
    ArenaMib, Connections, DeadlineS, KeepAliveS, LoadTimeoutS, PerHost, ProgressS, QueueDepth,
    Queues, SlowMs, SpinUs,
};

/// Exit status of the daemon for every [`ConfigError`].
pub const EXIT_CONFIG: u8 = 2;

/// Everything the engine is told at start.
#[derive(Clone, Debug)]
pub struct Config {
    /// Name of this node.
    pub node_name: NodeName,
    /// The host name, where the node would have been called so and it is no node name.
    pub unfit_hostname: Option<String>,
    /// Directory of the state store and its lock; absolute, as clients are told of sockets in it.
    pub state_dir: PathBuf,
    /// Where `state_dir` came from.
    pub state_dir_origin: Origin,
    /// Reactors.
    pub reactors: Reactors,
    /// I/O memory.
    pub memory: Memory,
    /// The NVMe/TCP target.
    pub nvmf: Nvmf,
    /// Address of the gRPC server.
    pub grpc: ListenAddress,
    /// Address of the Prometheus endpoint; `None` serves none.
    pub metrics: Option<ListenAddress>,
    /// Logs.
    pub log: Log,
    /// Time limits of I/O.
    pub io: Io,
    /// NBD.
    pub nbd: Nbd,
    /// Plugins to load at start.
    pub plugins: Plugins,
    /// Devices to create and share at start.
    pub devices: Vec<DeclaredDevice>,
    /// What it was read from.
    pub(crate) source: place::Source,
}

/// `[reactors]`
#[derive(Clone, Debug)]
pub struct Reactors {
    /// One reactor a CPU. Default: the first CPU the process may run on.
    pub cpus: CpuList,
    /// How they wait.
    pub driver: Driver,
    /// Where `driver` came from.
    pub driver_origin: Origin,
    /// Upper bound of spinning for a host before sleeping.
    pub spin_us_max: SpinUs,
    /// Upper bound of spinning for file operations in flight before sleeping.
    pub spin_file_us_max: SpinUs,
}

/// `[memory]`
#[derive(Clone, Debug)]
pub struct Memory {
    /// I/O memory of one reactor.
    pub arena_mib: ArenaMib,
    /// Memory all RAM disks together may take, in bytes; `None` where it was not set and how much there is cannot be read.
    pub ram_disks_bytes_max: Option<u64>,
}

/// `[nvmf]`
#[derive(Clone, Debug)]
pub struct Nvmf {
    /// Addresses to listen on, at least one.
    pub listen: Vec<ListenAddress>,
    /// Address told to clients when listening on all; `None` picks the one of the default route.
    pub advertise: Option<IpAddr>,
    /// Connections of all hosts on one reactor.
    pub connections_max: Connections,
    /// Connections of one host on one reactor; not above `connections_max`.
    pub host_connections_max: PerHost,
    /// Connections from one address on one reactor, whatever hosts they say they are of; not above `connections_max`.
    pub address_connections_max: PerHost,
    /// Controllers of one host on one reactor.
    pub host_controllers_max: PerHost,
    /// I/O queues a controller.
    pub queues_max: Queues,
    /// Entries a queue.
    pub queue_depth_max: QueueDepth,
    /// Data a command capsule may carry.
    pub in_capsule_bytes: InCapsuleBytes,
    /// Largest transfer of one command.
    pub transfer_kib_max: TransferKib,
    /// Shorter keep-alive timeouts are raised to this.
    pub keep_alive_s_min: KeepAliveS,
    /// Longer keep-alive timeouts are refused; a host that asks for none gets none.
    pub keep_alive_s_max: KeepAliveS,
    /// A host that moves none of the bytes it owes for this long is disconnected.
    pub progress_timeout_s: ProgressS,
    /// TCP congestion control of accepted connections; `None` leaves the system's.
    pub tcp_congestion: Option<Congestion>,
    /// Where `tcp_congestion` came from.
    pub tcp_congestion_origin: Origin,
    /// Offer header digests.
    pub header_digest: bool,
    /// Offer data digests.
    pub data_digest: bool,
}

/// `[log]`
#[derive(Clone, Debug)]
pub struct Log {
    /// Layout.
    pub format: LogFormat,
    /// Filter directives (`info`, `warn,engine=debug`).
    pub level: String,
    /// Where the filter came from.
    pub level_origin: Origin,
}

/// `[io]`
#[derive(Clone, Debug)]
pub struct Io {
    /// Commands slower than this are logged with their stages; zero logs none.
    pub slow_io_ms: SlowMs,
    /// A device operation not answered by then takes the device offline.
    pub device_deadline_s: DeadlineS,
}

/// `[nbd]`
#[derive(Clone, Debug)]
pub struct Nbd {
    /// Where NBD is served from the first share on; never empty.
    pub listen: Vec<ExportAddress>,
}

/// `[plugins]`
#[derive(Clone, Debug)]
pub struct Plugins {
    /// Whether the plugins linked into the program are used; if not, everything comes from files.
    pub built_in: bool,
    /// Files to load.
    pub files: Vec<PathBuf>,
    /// Directories whose `*.so` are loaded after them, in order.
    pub directories: Vec<PathBuf>,
    /// Names of plugins that get a reactor of their own, loaded or not.
    pub isolate: BTreeSet<String>,
    /// Time a child process has to load one, before this one does.
    pub load_timeout_s: LoadTimeoutS,
}

impl Io {
    /// `slow_io_ms` as a duration; `None` when off.
    pub fn slow_io(&self) -> Option<Duration> {
        (self.slow_io_ms.get() > 0).then(|| Duration::from_millis(self.slow_io_ms.get().into()))
    }

    /// `device_deadline_s` as a duration.
    pub fn device_deadline(&self) -> Duration {
        Duration::from_secs(self.device_deadline_s.get().into())
    }
}

/// An address to listen on, and the setting it came from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListenAddress {
    /// Address and port; port 0 lets the system choose.
    pub address: SocketAddr,
    /// The setting.
    pub origin: Origin,
}

impl Config {
    /// Merges the file named in `overrides`, the flags and the environment.
    ///
    /// # Errors
    /// Every kind but `AddressInUse`.
    pub fn load(overrides: &Overrides, environment: &Environment) -> Result<Self, ConfigError> {
        match &overrides.config {
            Some(path) => Self::parse(path, &file::read(path)?, overrides, environment),
            None => merge::merge(file::FileTree::default(), overrides, environment),
        }
    }

    /// Merges `text`, the contents of the file at `path`, the flags and the environment. Reads nothing.
    ///
    /// # Errors
    /// `Syntax`, `UnknownKey` and `BadValue`.
    pub fn parse(
        path: &Path,
        text: &str,
        overrides: &Overrides,
        environment: &Environment,
    ) -> Result<Self, ConfigError> {
        merge::merge(file::parse(path, text)?, overrides, environment)
    }

    /// The error of a setting that turned out wrong when it was used; `problem` ends with the fix.
    pub fn bad_value(&self, origin: &Origin, problem: impl Into<String>) -> ConfigError {
        self.source.bad_value(origin, problem)
    }

    /// The error of a declared device; `key` is its path (`device[1].uri`), `problem` ends with the fix.
    pub fn bad_device(&self, key: &str, problem: impl Into<String>) -> ConfigError {
        let kind = ConfigErrorKind::BadValue;
        ConfigError::new(kind, self.source.at(key), key, problem)
    }

    /// The error of an address that could not be listened on; `flag` is the flag that changes it.
    pub fn address_error(
        &self,
        listen: &ListenAddress,
        flag: &str,
        error: &std::io::Error,
        holder: Option<&str>,
    ) -> ConfigError {
        let address = listen.address;
        let problem = match error.kind() {
            std::io::ErrorKind::AddrInUse => {
                let by = holder
                    .map(|holder| format!(" by {holder}"))
                    .unwrap_or_default();
                format!(
                    "{address} is in use{by}; stop it, or choose another port with {flag} ADDR:PORT"
                )
            }
            std::io::ErrorKind::PermissionDenied => {
                format!(
                    "{address} is refused by the system; choose a port above 1023 with {flag} ADDR:PORT"
                )
            }
            std::io::ErrorKind::AddrNotAvailable => {
                format!(
                    "{address} is not an address of this machine; choose one with {flag} ADDR:PORT"
                )
            }
            _ if is_descriptors(error) => format!(
                "{address} cannot be listened on: no file may be opened any more ({error}); raise the limit of open \
                 files (LimitNOFILE=, ulimit -n)"
            ),
            _ => format!(
                "{address} cannot be listened on ({error}); choose another with {flag} ADDR:PORT"
            ),
        };
        let kind = ConfigErrorKind::AddressInUse;
        ConfigError::new(
            kind,
            self.source.of(&listen.origin),
            listen.origin.to_string(),
            problem,
        )
    }
}

/// Whether the process or the system has as many files open as it may.
fn is_descriptors(error: &std::io::Error) -> bool {
    let number = error.raw_os_error();
    [rustix::io::Errno::MFILE, rustix::io::Errno::NFILE]
        .iter()
        .any(|errno| number == Some(errno.raw_os_error()))
}
