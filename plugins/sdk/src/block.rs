//! The block contract: what a device promises and how it is driven.
//!
//! Logical blocks of 512 or 4096 bytes. A completed flush (or write with `fua`) survives power loss; a completed write
//! without it may not. Blocks within one write may reach the medium in any order; each block of the atomic unit is
//! whole or not at all. A device may change size and may disappear: both are reported by its next operation.
//! Operations in flight together are not ordered; the caller orders what overlaps.
//!
//! Who checks: the caller guarantees that a range lies within the last geometry it was told and that buffers are
//! exactly as long as the range. A device that shrank answers [`IoError::OutOfRange`].
//!
//! Errors are semantic, never errno.

use std::fmt;
use std::sync::Arc;
use std::time::Instant;

use units::{BlockRange, BlockSize, Blocks};

use crate::buf::{Buf, Payload};
use crate::host::{FileDone, Host, OwnerId};
use crate::services::Services;
use crate::uri::{DeviceUri, UriError};

/// Size of a device.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Geometry {
    /// Bytes in a block.
    pub block_size: BlockSize,
    /// Number of blocks.
    pub blocks: Blocks,
}

impl Geometry {
    /// Size in bytes; saturates at `u64::MAX`.
    pub fn bytes(&self) -> u64 {
        self.blocks.bytes(self.block_size).unwrap_or(u64::MAX)
    }
}

/// How a device does an optional operation.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Support {
    /// Not at all; the engine emulates it or refuses.
    None,
    /// In software, at about the cost of writing.
    Emulated,
    /// By itself.
    Native,
}

/// What a device can do beyond reading, writing and flushing.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Capabilities {
    /// [`Op::WriteZeroes`].
    pub write_zeroes: Support,
    /// [`Op::Discard`].
    pub discard: Support,
    /// Whether completed writes may be volatile until a flush.
    pub volatile_cache: bool,
    /// Whether reads without a buffer are answered with lent segments.
    pub lends_reads: bool,
    /// Blocks written whole or not at all on power loss, at least 1.
    pub atomic_blocks: u32,
    /// Whether `O_DIRECT` is in use, or `None` where the question makes no sense.
    pub direct: Option<bool>,
}

/// A run of blocks with one status.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Extent {
    /// How long it is.
    pub blocks: Blocks,
    /// Whether space is taken for it.
    pub allocated: bool,
    /// Whether it is known to read as zeroes.
    pub zero: bool,
}

/// An operation on a device.
#[derive(Debug)]
pub enum Op {
    /// Reads a range. `buf` is as long as the range, or absent if the device lends reads.
    Read {
        /// Blocks to read.
        range: BlockRange,
        /// Destination.
        buf: Option<Buf>,
    },
    /// Writes a range.
    Write {
        /// Blocks to write.
        range: BlockRange,
        /// Source, as long as the range.
        buf: Buf,
        /// Whether the data must be durable on completion.
        fua: bool,
    },
    /// Makes a range read as zeroes.
    WriteZeroes {
        /// Blocks to zero.
        range: BlockRange,
        /// Whether the device may deallocate the range to do so.
        deallocate: bool,
        /// Whether the zeroes must be durable on completion.
        fua: bool,
    },
    /// Tells that the contents of a range are not needed; they may then read as anything until written.
    Discard {
        /// Blocks to give back.
        range: BlockRange,
    },
    /// Makes all completed writes durable.
    Flush,
}

/// Names the operation an in-flight I/O belongs to; chosen by the caller, given back on completion.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct IoTag(pub u64);

/// How an operation ended: a read gives its data, everything else nothing.
pub type IoResult = Result<Option<Payload>, IoError>;

/// What `submit` did with an operation.
#[derive(Debug)]
pub enum Submitted {
    /// It is complete.
    Done(IoResult),
    /// It completes later, through [`Queue::poll_completion`].
    Pending,
}

/// Why an operation failed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum IoError {
    /// The range is not on the device.
    OutOfRange,
    /// The device, or what it stands on, has no room.
    NoSpace,
    /// Blocks in this range could not be read or written.
    Medium(BlockRange),
    /// The device is gone or was taken offline.
    Gone,
    /// No answer in time.
    Timeout,
    /// The device does not do that.
    NotSupported,
    /// The device has no room for another operation at the moment.
    Busy,
    /// A compare found other data, at this byte of the range.
    CompareFailed(u64),
    /// The operation was cancelled.
    Aborted,
}

impl fmt::Display for IoError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::OutOfRange => f.write_str("range is not on the device"),
            Self::NoSpace => f.write_str("no space left"),
            Self::Medium(range) => write!(f, "medium error in blocks {range}"),
            Self::Gone => f.write_str("device is gone"),
            Self::Timeout => f.write_str("no answer from the device in time"),
            Self::NotSupported => f.write_str("operation not supported by the device"),
            Self::Busy => f.write_str("device has no room for another operation"),
            Self::CompareFailed(at) => write!(f, "compare failed at byte {at}"),
            Self::Aborted => f.write_str("operation aborted"),
        }
    }
}

impl std::error::Error for IoError {}

/// Why a device could not be opened or changed. Each names the thing, the reason and, where there is one, the fix.
#[derive(Debug)]
#[non_exhaustive]
pub enum OpenError {
    /// The URI is not one the driver takes.
    Uri(UriError),
    /// The thing named by the URI is not there.
    NotFound(String),
    /// It is in use; the text names the holder.
    InUse {
        /// What was to be opened.
        what: String,
        /// Who has it.
        holder: String,
    },
    /// It cannot be used as a device, for a reason the user can act on.
    Unsuitable {
        /// What was to be opened.
        what: String,
        /// Why not.
        reason: String,
    },
    /// The machine, or the operator's limit, has no room for it.
    NoRoom {
        /// What was to be opened or to grow.
        what: String,
        /// How much there is, and what to do.
        reason: String,
    },
    /// The operating system refused.
    System {
        /// What was tried on what.
        what: String,
        /// Why it failed.
        source: std::io::Error,
    },
}

impl fmt::Display for OpenError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Uri(error) => error.fmt(f),
            Self::NotFound(what) => {
                write!(f, "{what}: not found; check the path, or create it first")
            }
            Self::InUse { what, holder } => write!(f, "{what}: in use by {holder}"),
            Self::Unsuitable { what, reason } | Self::NoRoom { what, reason } => {
                write!(f, "{what}: {reason}")
            }
            Self::System { what, source } => write!(f, "{what}: {source}"),
        }
    }
}

impl std::error::Error for OpenError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Uri(error) => Some(error),
            Self::System { source, .. } => Some(source),
            _ => None,
        }
    }
}

impl From<UriError> for OpenError {
    fn from(error: UriError) -> Self {
        Self::Uri(error)
    }
}

/// Opens devices of certain URI schemes. Runs on the control path: it may block (files are opened, locked, probed).
pub trait DeviceDriver: Send + Sync {
    /// The schemes it serves, e.g. `["aio", "uring"]`.
    fn schemes(&self) -> &'static [&'static str];

    /// Whether `uri` says what [`DeviceDriver::open`] needs, as far as its text tells: host, path and parameters. What it
    /// names is not looked at. A configuration is checked with it before anything is started; a driver that learns more
    /// only by opening leaves the rest to `open`.
    ///
    /// # Errors
    /// What `open` would refuse the URI with.
    fn check(&self, _uri: DeviceUri) -> Result<(), UriError> {
        Ok(())
    }

    /// Opens the device `uri` names. Takes every parameter it knows and refuses the others
    /// ([`DeviceUri::finish`]). Claims what it opens exclusively: a second open, from this or another process, fails
    /// with [`OpenError::InUse`].
    ///
    /// # Errors
    /// Any [`OpenError`].
    fn open(&self, uri: DeviceUri) -> Result<Box<dyn Device>, OpenError>;

    /// Opens the device `uri` names with what the engine lends. The engine calls this one; a driver that needs nothing
    /// lent leaves it alone. One that stands on other devices opens them here and refuses in [`DeviceDriver::open`].
    ///
    /// # Errors
    /// Any [`OpenError`].
    fn open_with(
        &self,
        uri: DeviceUri,
        services: &Arc<dyn Services>,
    ) -> Result<Box<dyn Device>, OpenError> {
        let _ = services;
        self.open(uri)
    }
}

/// An open device. Dropping it releases the claim.
///
/// Lives on the control path; its [`Queue`] does the I/O on a reactor.
pub trait Device: Send + Sync {
    /// Name without scheme and parameters, unique per kind: for files the path.
    fn name(&self) -> &str;

    /// What it is, for humans: `RAM disk`, `File through io_uring`, ...
    fn product_name(&self) -> &str;

    /// Size now.
    fn geometry(&self) -> Geometry;

    /// What it can do.
    fn capabilities(&self) -> Capabilities;

    /// Identity given in the URI (`uuid=`), if any.
    fn uuid(&self) -> Option<[u8; 16]>;

    /// A queue for one reactor. `Send`, because it is made here and moved there before its first use.
    ///
    /// # Errors
    /// [`OpenError::System`] when a descriptor cannot be duplicated, [`OpenError::Unsuitable`] when the device has no
    /// queue left.
    fn open_queue(&mut self) -> Result<Box<dyn QueueSeed>, OpenError>;

    /// Sets the size to `blocks`, for a device whose size is ours to choose (RAM), or with `None` looks at the size of
    /// the medium again. Returns the new geometry; open queues see it with [`Queue::set_geometry`].
    ///
    /// # Errors
    /// [`OpenError::Unsuitable`] if the device cannot change its size that way, [`OpenError::System`] if its size cannot
    /// be read.
    fn resize(&mut self, blocks: Option<Blocks>) -> Result<Geometry, OpenError>;

    /// Obeys an operator's command, a line of the device's own language, and answers with text. What it changes takes
    /// effect for operations submitted after it returned.
    ///
    /// # Errors
    /// [`OpenError::Unsuitable`] for a device without commands and for a command it does not know.
    fn handle_command(&mut self, command: &str) -> Result<String, OpenError> {
        Err(OpenError::Unsuitable {
            what: format!("{} '{command}'", self.name()),
            reason: "the device takes no commands".to_owned(),
        })
    }

    /// What an operator should know about the device although it works (`its file was deleted`), as one sentence with
    /// the fix. Asked for every now and then; it may look at the medium's facts, not at its data.
    fn warning(&self) -> Option<String> {
        None
    }
}

/// A queue on its way to its reactor.
pub trait QueueSeed: Send {
    /// Makes the queue, on the reactor that will own it; file completions are sent to `owner`.
    ///
    /// # Errors
    /// [`IoError::Busy`] when the reactor's tables are full.
    fn open(
        self: Box<Self>,
        host: &mut dyn Host,
        owner: OwnerId,
    ) -> Result<Box<dyn Queue>, IoError>;

    /// Whether its queue will ever answer [`Queue::is_polled`] with `true`.
    fn may_be_polled(&self) -> bool {
        false
    }
}

/// The I/O side of a device on one reactor.
///
/// Submission never blocks. Each operation completes exactly once, by [`Submitted::Done`] or through
/// [`Queue::poll_completion`]. Dropping the queue is allowed once nothing is in flight.
pub trait Queue {
    /// Starts `op`.
    fn submit(&mut self, host: &mut dyn Host, tag: IoTag, op: Op) -> Submitted;

    /// A file operation of this queue finished. Devices without files never get one.
    fn handle_file_done(&mut self, host: &mut dyn Host, done: FileDone);

    /// The next finished operation that was [`Submitted::Pending`].
    fn poll_completion(&mut self) -> Option<(IoTag, IoResult)>;

    /// Another thread called for this queue, by the [`Waker`](crate::host::Waker) it got from its host.
    fn handle_wake(&mut self, host: &mut dyn Host) {
        let _ = host;
    }

    /// Whether [`Queue::handle_turn`] is to be called each turn while operations are in flight.
    fn is_polled(&self) -> bool {
        false
    }

    /// A turn of the reactor, for a queue that has to look for its completions. `true`: it is busy, and the reactor comes
    /// again without sleeping.
    fn handle_turn(&mut self, host: &mut dyn Host) -> bool {
        let _ = host;
        false
    }

    /// When [`Queue::handle_timeout`] wants to be called next; asked for after each other call.
    fn poll_timeout(&self) -> Option<Instant> {
        None
    }

    /// The time of [`Queue::poll_timeout`] has come.
    fn handle_timeout(&mut self, host: &mut dyn Host) {
        let _ = host;
    }

    /// Which parts of `range`, which is not empty, hold data, as far as it can be told without waiting: extents in order
    /// from its first block, at least one, at most the range. `None` if the device cannot tell; all of it is then taken
    /// for data.
    fn extents(&mut self, range: BlockRange) -> Option<Vec<Extent>> {
        let _ = range;
        None
    }

    /// The device has this size from here on.
    fn set_geometry(&mut self, geometry: Geometry);

    /// Gives back what the reactor lent; nothing is in flight.
    fn close(&mut self, host: &mut dyn Host);
}
