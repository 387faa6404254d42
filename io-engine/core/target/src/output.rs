//! What the target asks of its engine.

use nvme_spec::{Cqe, Sqe};
use units::BlockRange;

use crate::{CmdId, DeviceKey, PersistToken, PersistedReservations, QpairId, SubsystemId};

/// One thing to do, in the order it was decided.
///
/// Per command the sequence is `[Fetch] → Io* → Respond`, any prefix of it ended by `Release` when the connection is gone.
#[derive(Debug)]
pub enum Output {
    /// Get `len` bytes of command data from the host (R2T), then call [`crate::Target::handle_data`].
    Fetch {
        /// Connection to ask.
        qp: QpairId,
        /// Command the data belong to.
        cmd: CmdId,
        /// Its identifier on the wire.
        cid: u16,
        /// Bytes to get, at least 1.
        len: u32,
        /// The target reads these bytes itself: pass them to `handle_data` (at most 4 KiB). Otherwise the engine keeps
        /// them for the [`IoOp`] that follows and the slice passed is not looked at.
        by_value: bool,
    },
    /// Perform `op` on `device`, then call [`crate::Target::handle_io_done`]. A command may need several, one at a time.
    Io {
        /// Connection the command came from.
        qp: QpairId,
        /// Command; its data (in capsule or fetched) are the engine's.
        cmd: CmdId,
        /// Device of the namespace.
        device: DeviceKey,
        /// What to do.
        op: IoOp,
    },
    /// Send a response capsule, with data before it if there are any.
    Respond {
        /// Connection to answer on.
        qp: QpairId,
        /// The command that ends here, when it ever got an id; its slot and buffers are free after sending.
        cmd: Option<CmdId>,
        /// Completion, head pointer included.
        cqe: Cqe,
        /// Data to send first.
        data: ReplyData,
        /// The transport may replace the response capsule by the success flag of its last data PDU.
        success_flag_allowed: bool,
    },
    /// The command ended without a response (its connection is gone): its slot and buffers are free.
    Release {
        /// The command.
        cmd: CmdId,
    },
    /// Command `cid` gets no answer, though its connection stays: it is an event request that a reset of its controller
    /// dropped. It never had a slot; the transport no longer counts it as outstanding.
    Forgotten {
        /// Connection it came on.
        qp: QpairId,
        /// Its identifier on the wire, which the host may use again.
        cid: u16,
    },
    /// Close the connection after sending what was already emitted for it, then call
    /// [`crate::Target::handle_disconnected`].
    Disconnect {
        /// Connection to close.
        qp: QpairId,
        /// Why, for log and metrics.
        reason: DisconnectReason,
    },
    /// A connection became a queue of a host's controller; [`crate::Target::describe`] says whose. Comes before the answer
    /// to its Connect, once a connection.
    Associated {
        /// Connection.
        qp: QpairId,
    },
    /// A Connect named a subsystem this target does not have. Either move the connection to the subsystem's home
    /// ([`crate::Target::handle_disconnected`] here, [`crate::Target::replay_connect`] there) or call
    /// [`crate::Target::refuse_connect`].
    Unrouted {
        /// Connection.
        qp: QpairId,
        /// The Connect command and its data.
        connect: Box<UnroutedConnect>,
    },
    /// Make `request.state` durable, then call [`crate::Target::handle_persisted`].
    Persist {
        /// Names this request in the answer.
        token: PersistToken,
        /// What to store under which key.
        request: Box<PersistRequest>,
    },
    /// Something an operator wants to know.
    Event(Box<ControllerEvent>),
}

const _: () = assert!(size_of::<Output>() <= 96);

/// A device operation. Ranges are inside the namespace and not empty; byte counts follow from its block size.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum IoOp {
    /// Read into a buffer the engine allocates; at most MDTS.
    Read {
        /// Blocks to read.
        range: BlockRange,
    },
    /// Write the command's data.
    Write {
        /// Blocks to write.
        range: BlockRange,
        /// Complete only when durable.
        fua: bool,
    },
    /// Make completed writes durable.
    Flush,
    /// Write zeroes; no data.
    WriteZeroes {
        /// Blocks to clear.
        range: BlockRange,
        /// The host would like them deallocated as well (DEAC).
        unmap: bool,
        /// Complete only when durable.
        fua: bool,
    },
    /// Deallocate; a hint.
    Discard {
        /// Blocks no longer needed.
        range: BlockRange,
    },
    /// Compare the command's data with the medium; [`IoError::CompareFailed`] when they differ.
    Compare {
        /// Blocks to compare.
        range: BlockRange,
    },
    /// Fused pair: compare `compare`'s data, and only if equal write this command's, atomically.
    CompareAndWrite {
        /// Blocks of both halves.
        range: BlockRange,
        /// The first half, whose data are compared; answered by this operation's completion too.
        compare: CmdId,
        /// Complete only when durable.
        fua: bool,
    },
}

/// Data of a response.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum ReplyData {
    /// None.
    None,
    /// That many bytes from the buffer the engine holds for the command.
    FromIo(u32),
    /// These bytes (identify pages, log pages, features); never longer than the host's buffer.
    Bytes(Box<[u8]>),
}

/// How a device operation failed; mapped to an NVMe status in one place.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum IoError {
    /// Range not on the device (it shrank).
    OutOfRange,
    /// No space for the write, after the engine's own patience.
    NoSpace,
    /// The medium failed to read or write, or its checksum did not match.
    Medium,
    /// The data differ.
    CompareFailed,
    /// A reservation below refuses it.
    ReservationConflict,
    /// The device is gone.
    Gone,
    /// No answer within the deadline.
    Timeout,
    /// The device cannot do this.
    NotSupported,
    /// Aborted by the engine, for instance on shutdown.
    Aborted,
    /// No memory or slot now; the host should try again.
    Busy,
    /// The device is read-only.
    ReadOnly,
    /// Anything else.
    Internal,
}

/// Why a connection is to be closed.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum DisconnectReason {
    /// No Connect command in time.
    ConnectTimeout,
    /// The first command was not Connect.
    NotConnected,
    /// More commands outstanding than the queue has entries.
    QueueOverflow,
    /// No sign of life from the host within the keep alive timeout.
    KeepAliveExpired,
    /// The subsystem was removed.
    SubsystemRemoved,
    /// The host was taken off the allow list.
    HostNotAllowed,
    /// The controller was reset or shut down.
    ControllerReset,
    /// The controller's admin queue is gone.
    AdminQueueGone,
    /// The host sent Disconnect.
    HostRequest,
    /// The transport connection went away by itself; never part of [`Output::Disconnect`].
    TransportGone,
}

impl DisconnectReason {
    /// A stable name for logs and counters.
    pub const fn name(self) -> &'static str {
        match self {
            Self::ConnectTimeout => "connect_timeout",
            Self::NotConnected => "command_before_connect",
            Self::QueueOverflow => "queue_overflow",
            Self::KeepAliveExpired => "keep_alive_expired",
            Self::SubsystemRemoved => "subsystem_removed",
            Self::HostNotAllowed => "host_not_allowed",
            Self::ControllerReset => "controller_reset",
            Self::AdminQueueGone => "admin_queue_gone",
            Self::HostRequest => "host_request",
            Self::TransportGone => "transport_gone",
        }
    }
}

/// A Connect command waiting for a decision where its subsystem lives.
#[derive(Clone, Debug)]
pub struct UnroutedConnect {
    /// The command.
    pub sqe: Sqe,
    /// Its data, 1024 bytes.
    pub data: [u8; 1024],
    /// Subsystem it names.
    pub subnqn: String,
    /// Host that asks.
    pub hostnqn: String,
}

/// Reservation state to be stored.
#[derive(Clone, Debug)]
pub struct PersistRequest {
    /// Subsystem.
    pub subsystem: SubsystemId,
    /// Its NQN.
    pub nqn: String,
    /// Namespace.
    pub nsid: u32,
    /// Engine's name of its device.
    pub device: DeviceKey,
    /// State to store in place of the previous one.
    pub state: PersistedReservations,
}

/// A host came or went.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ControllerEvent {
    /// What happened.
    pub kind: ControllerEventKind,
    /// Subsystem NQN.
    pub subnqn: String,
    /// Host NQN.
    pub hostnqn: String,
    /// Host identifier.
    pub hostid: [u8; 16],
    /// Controller id.
    pub cntlid: u16,
}

/// Kinds of [`ControllerEvent`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ControllerEventKind {
    /// A controller was created by a Connect on an admin queue.
    Connected,
    /// A controller is gone.
    Disconnected,
    /// A controller is going because its keep alive timer ran out; `Disconnected` follows.
    KeepAliveExpired,
}
