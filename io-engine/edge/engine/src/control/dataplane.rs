//! The contract between the control side and the reactors.
//!
//! What it decides: the calls the control side may make, the facts it gets back, and the kinds of failure it can tell
//! apart. What it does not: names, identities, persistence and who may call (all in `control`), nor how a reactor obeys.
//!
//! Contract of an implementation:
//! - Every call may be made from any thread, several at a time; calls about one object are made one after another.
//! - A call is done when every reactor has acknowledged it: after `remove_subsystem` no host reaches the subsystem, after
//!   `close_device` the engine holds neither the device nor its file.
//! - The caller has validated NQNs (`nqn::validate`) and made identities durable; the implementation trusts them.
//! - Nothing here panics on a device's, a peer's or the operator's input.

use std::net::SocketAddr;
use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use plugin_host::PluginInfo;
use uuid::Uuid;

use crate::control::stats::IoStats;

/// Names an open device for as long as it is open; never reused within one process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DeviceHandle(pub u64);

/// What a device answered when it was opened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeviceInfo {
    /// Handle for every later call.
    pub handle: DeviceHandle,
    /// Name of the device, as the driver derives it from the URI.
    pub name: String,
    /// Driver and kind, for people (`Malloc disk`, `AIO file`).
    pub product_name: String,
    /// Bytes per logical block: 512 or 4096.
    pub block_size: u32,
    /// Size in logical blocks.
    pub blocks: u64,
    /// Identity the device itself carries or was given in its URI.
    pub uuid: Option<Uuid>,
    /// One line for people: how writes, discard, write zeroes and flush are done (`O_DIRECT, discard native`).
    pub capabilities: String,
}

/// What kind of problem a data-plane call met. Stable: the gRPC status follows from it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProblemKind {
    /// The URI, its scheme or one of its parameters is not acceptable.
    InvalidUri,
    /// Another argument is out of range.
    InvalidArgument,
    /// The file, device, subsystem or namespace does not exist.
    NotFound,
    /// An object of that name exists already.
    AlreadyExists,
    /// Somebody else holds the object (another process, another subsystem).
    Busy,
    /// The operating system refused access.
    PermissionDenied,
    /// A limit was reached or memory is short.
    ResourceExhausted,
    /// The object cannot do this.
    Unsupported,
    /// The object did not answer in time.
    Timeout,
    /// The state store could not be written; nothing has changed.
    NotStored,
    /// The file system of the state store is full; nothing has changed.
    StoreFull,
    /// Anything else: an I/O error, a reactor that is gone.
    Internal,
}

/// A refused or failed data-plane call: a stable kind, and one sentence for people that names the object and the fix.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{detail}")]
pub struct Problem {
    kind: ProblemKind,
    detail: String,
}

impl Problem {
    /// A problem of `kind`; `detail` is one sentence without a final dot.
    pub fn new(kind: ProblemKind, detail: impl Into<String>) -> Self {
        Self {
            kind,
            detail: detail.into(),
        }
    }

    /// The stable kind.
    pub fn kind(&self) -> ProblemKind {
        self.kind
    }
}

/// One namespace of a subsystem.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NamespaceSpec {
    /// Namespace id, 1 and up.
    pub nsid: u32,
    /// Device that holds the blocks.
    pub device: DeviceHandle,
    /// Identity reported by namespace identification descriptor 3h.
    pub uuid: Uuid,
    /// Identity reported by namespace identification descriptor 2h and Identify Namespace.
    pub nguid: [u8; 16],
    /// What hosts may do with its blocks.
    pub access: Access,
}

/// What those a device is served to may do with its blocks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Access {
    /// Read and change them.
    #[default]
    ReadWrite,
    /// Read them.
    ReadOnly,
}

impl Access {
    /// Whether nobody may change them.
    pub const fn is_read_only(self) -> bool {
        match self {
            Self::ReadWrite => false,
            Self::ReadOnly => true,
        }
    }

    /// `ReadOnly` if `read_only`.
    pub const fn of(read_only: bool) -> Self {
        match read_only {
            true => Self::ReadOnly,
            false => Self::ReadWrite,
        }
    }
}

/// A subsystem as it is to be served.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SubsystemSpec {
    /// NVMe qualified name of the subsystem.
    pub nqn: String,
    /// Serial number, at most 20 ASCII characters.
    pub serial: String,
    /// Host NQNs that may connect; `None` lets any host in, an empty list none.
    pub allowed_hosts: Option<Vec<String>>,
    /// Namespaces, ascending by `nsid`.
    pub namespaces: Vec<NamespaceSpec>,
}

/// A device that is to be served over another protocol than NVMe-oF.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExportSpec {
    /// The device.
    pub device: DeviceHandle,
    /// Name clients ask for.
    pub name: String,
    /// Protocol, as its plugin calls it: `nbd`.
    pub protocol: String,
    /// What clients may do with its blocks.
    pub access: Access,
}

/// Load and state of one reactor.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ReactorStats {
    /// CPU the thread is pinned to; `None` where it floats.
    pub cpu: Option<u32>,
    /// `uring` or `epoll`.
    pub driver: String,
    /// Time spent doing work, since start, in nanoseconds.
    pub busy_ns: u64,
    /// Time spent looking for work without finding any, in nanoseconds.
    pub spin_ns: u64,
    /// Time spent asleep, in nanoseconds.
    pub sleep_ns: u64,
    /// Connections that live on this reactor, counted from their acceptance.
    pub connections: u64,
    /// Commands executing on this reactor.
    pub inflight: u64,
    /// Arena size in bytes.
    pub arena_bytes: u64,
    /// Arena bytes lent out.
    pub arena_used_bytes: u64,
    /// Arena bytes held by overdue device operations.
    pub arena_quarantined_bytes: u64,
    /// Steps of commands that had to wait for memory, since start.
    pub memory_waits: u64,
    /// Steps of commands that wait for memory at the moment.
    pub memory_waiting: u64,
}

/// An operation in a device, or a command that waits for memory or its host's data before it comes to its device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InflightIo {
    /// Subsystem it was sent to.
    pub subnqn: String,
    /// Host that sent it.
    pub hostnqn: String,
    /// Controller id.
    pub cntlid: u16,
    /// Queue id.
    pub qid: u16,
    /// Command id.
    pub cid: u16,
    /// Namespace id; 0 for commands without one.
    pub nsid: u32,
    /// Device it works on, once it is known.
    pub device: Option<DeviceHandle>,
    /// Name of the operation (`read`, `write`, `flush`, ..; `other` for a command no device does).
    pub operation: String,
    /// First logical block; 0 where the operation has none, and before it comes to its device.
    pub lba: u64,
    /// Number of logical blocks; 0 where the operation has none, and before it comes to its device.
    pub blocks: u32,
    /// Stage the command has reached and how long after its arrival it did so, in order.
    pub stages: Vec<(String, Duration)>,
    /// Time since its arrival.
    pub age: Duration,
}

/// A host's association with one of our subsystems.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ControllerInfo {
    /// Subsystem NQN.
    pub subnqn: String,
    /// Host NQN.
    pub hostnqn: String,
    /// Host identifier (128 bit).
    pub hostid: Uuid,
    /// Controller id.
    pub cntlid: u16,
    /// Connected I/O queues (the admin queue is not counted).
    pub io_queues: u32,
    /// Keep-alive timeout in milliseconds; 0 when the host asked for none.
    pub kato_ms: u32,
    /// Address of the host's admin connection.
    pub peer: Option<SocketAddr>,
    /// When the controller was created.
    pub since: SystemTime,
}

/// Whose changes of data [`DataPlane::settle`] waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Writers {
    /// Everybody's; for devices no host reaches any longer.
    All,
    /// Those whose host was disconnected, and those answered before the device was done; for devices others go on using.
    Gone,
}

/// What the control side asks of the reactors.
#[async_trait]
pub trait DataPlane: Send + Sync + 'static {
    /// Opens the device `uri` names. The URI parsed; scheme, path and parameters are the driver's to check.
    ///
    /// # Errors
    /// `InvalidUri`, `NotFound`, `Busy`, `PermissionDenied`, `ResourceExhausted`, `Internal`. Nothing stays open.
    async fn open_device(&self, uri: &str) -> Result<DeviceInfo, Problem>;

    /// Closes a device no namespace refers to.
    ///
    /// # Errors
    /// `NotFound`, `Busy` (a namespace still refers to it), `Internal`.
    async fn close_device(&self, handle: DeviceHandle) -> Result<(), Problem>;

    /// Takes over a changed size and tells connected hosts; answers the new size in logical blocks.
    ///
    /// `blocks` sets the size of a device whose size is ours to choose (RAM); `None` re-reads it from the medium.
    ///
    /// # Errors
    /// `NotFound`, `Unsupported`, `ResourceExhausted`, `Internal`.
    async fn resize_device(
        &self,
        handle: DeviceHandle,
        blocks: Option<u64>,
    ) -> Result<u64, Problem>;

    /// Closes a device and opens it again from `uri`, which named it before: what brings back one that was lost. The handle
    /// stays, and with it the namespaces on the device, whose I/O fails meanwhile; their hosts stay connected and are told of
    /// a changed size.
    ///
    /// # Errors
    /// Those of `open_device`; `NotFound` (the handle), `Busy` while operations from before are still in the old device,
    /// `InvalidArgument` if the block size is another one. The device does no I/O then.
    async fn reopen_device(&self, handle: DeviceHandle, uri: &str) -> Result<DeviceInfo, Problem>;

    /// Why an open device does no I/O (it was lost, or did not open again), with the fix; `None` when it is well.
    fn device_fault(&self, handle: DeviceHandle) -> Option<String>;

    /// Waits until nothing that `writers` have in these devices can change their data any longer.
    ///
    /// # Errors
    /// `Timeout` after a bounded time, telling how many writes are left; `Internal`.
    async fn settle(&self, devices: &[DeviceHandle], writers: Writers) -> Result<(), Problem>;

    /// Starts to serve a subsystem. Reservations are read back through the reservation store before it is visible.
    ///
    /// # Errors
    /// `AlreadyExists`, `NotFound` (a device), `ResourceExhausted`, `Internal`. Nothing is visible then.
    async fn add_subsystem(&self, spec: SubsystemSpec) -> Result<(), Problem>;

    /// Stops serving a subsystem and disconnects its hosts. No reservation record of it is written afterwards. What they have in its devices goes on, see `settle`.
    ///
    /// # Errors
    /// `NotFound`, `Internal`.
    async fn remove_subsystem(&self, nqn: &str) -> Result<(), Problem>;

    /// Replaces the allow list; a connected host that is no longer on it is disconnected. `None` lets any host in. What a host
    /// that was disconnected has in the devices goes on, see `settle`.
    ///
    /// # Errors
    /// `NotFound`, `Internal`.
    async fn set_allowed_hosts(&self, nqn: &str, hosts: Option<Vec<String>>)
    -> Result<(), Problem>;

    /// Adds a namespace to a served subsystem and tells its hosts.
    ///
    /// # Errors
    /// `NotFound`, `AlreadyExists` (the nsid), `ResourceExhausted`, `Internal`.
    async fn add_namespace(&self, nqn: &str, namespace: NamespaceSpec) -> Result<(), Problem>;

    /// Removes a namespace and tells the hosts. No reservation record of it is written afterwards. What they have in its device goes on, see `settle`.
    ///
    /// # Errors
    /// `NotFound`, `Internal`.
    async fn remove_namespace(&self, nqn: &str, nsid: u32) -> Result<(), Problem>;

    /// Has a device obey a command of its own language, and answers what it says.
    ///
    /// # Errors
    /// `NotFound`, `InvalidArgument` for a command it does not know or a device without commands, `Internal`.
    async fn command_device(&self, handle: DeviceHandle, command: &str) -> Result<String, Problem>;

    /// Serves a device over another protocol; answers the URI clients reach it by.
    ///
    /// # Errors
    /// `NotFound` (the device), `Unsupported` (the protocol), `Busy` (a namespace refers to the device, or the server's address
    /// is in use), `AlreadyExists`, `Internal`.
    async fn add_export(&self, spec: ExportSpec) -> Result<String, Problem>;

    /// Serves a device no longer over another protocol: its clients are disconnected. What they have in it goes on, see
    /// `settle`.
    ///
    /// # Errors
    /// `NotFound`, `Internal`.
    async fn remove_export(&self, device: DeviceHandle) -> Result<(), Problem>;

    /// What an operator should know about open devices that work: one sentence with the fix each.
    async fn device_warnings(&self) -> Vec<(DeviceHandle, String)> {
        Vec::new()
    }

    /// Waits until a device was taken offline, or a host was told of a loss, since the last such wait ended.
    async fn changed(&self) {
        std::future::pending().await
    }

    /// Open devices of which acknowledged writes may be lost, with the NQNs of the hosts that know: each other host is told
    /// by a flush that fails, once.
    async fn losses(&self) -> Vec<(DeviceHandle, Vec<String>)> {
        Vec::new()
    }

    /// Has hosts of an open device told of a loss, all but `told`; with `None`, none is.
    ///
    /// # Errors
    /// `NotFound`, `Busy` while the device is not open, `Internal`.
    async fn set_loss(
        &self,
        handle: DeviceHandle,
        told: Option<Vec<String>>,
    ) -> Result<(), Problem>;

    /// Counters of every open device, summed over the reactors.
    async fn device_stats(&self) -> Vec<(DeviceHandle, IoStats)>;

    /// Counters of every served subsystem, summed over the reactors; the key is the NQN.
    async fn subsystem_stats(&self) -> Vec<(String, IoStats)>;

    /// Sets every counter of `device_stats` and `subsystem_stats` to zero.
    async fn reset_stats(&self);

    /// Connections and commands dropped or refused since start, by reason; reasons are `snake_case` and fixed.
    async fn drop_counts(&self) -> Vec<(&'static str, u64)>;

    /// One entry a reactor, in reactor order.
    async fn reactors(&self) -> Vec<ReactorStats>;

    /// Commands in a device, or waiting for memory or their host's data, oldest first; at most `limit`.
    async fn inflight(&self, limit: usize) -> Vec<InflightIo>;

    /// Hosts' associations with our subsystems, the discovery subsystem among them.
    async fn controllers(&self) -> Vec<ControllerInfo>;

    /// Addresses the NVMe/TCP fabric listens on, with the real ports.
    fn listeners(&self) -> Vec<SocketAddr>;

    /// Loads a plugin: a file of one of the configured directories, by its name there.
    ///
    /// # Errors
    /// `NotFound`, `AlreadyExists` when another plugin serves what it brings, `InvalidArgument` when it cannot be loaded, with
    /// the reason.
    async fn load_plugin(&self, file: &str) -> Result<PluginInfo, Problem>;

    /// Takes out a plugin that was loaded and that nothing uses.
    ///
    /// # Errors
    /// `NotFound`, `Busy` with what uses it, `Unsupported` for one that is linked in.
    async fn unload_plugin(&self, name: &str) -> Result<(), Problem>;

    /// The plugins there are, in the order they were taken in.
    fn plugins(&self) -> Vec<PluginInfo> {
        Vec::new()
    }
}
