//! Operations a reactor lends to the plugins it runs.
//!
//! Everything here returns at once. What cannot complete at once is reported later to the owner that asked for it.
//! The reactor owns what belongs to it: descriptors, the ring, timers, memory.

use std::fmt;
use std::io::{IoSlice, IoSliceMut};
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Instant;

use crate::buf::Buf;

/// What a host without sockets answers.
const EOPNOTSUPP: i32 = 95;

/// Who is told about a file operation's completion: a number the engine gave when it opened the object.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct OwnerId(pub u32);

/// A file lent to a reactor.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct FileId(pub u32);

/// A connected socket on a reactor: slot in the low, generation in the high half, so that a late event of a closed
/// stream never reaches its successor.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct StreamId(pub u64);

/// A listening socket lent to a reactor.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct ListenerId(pub u32);

/// Calls for an object on its reactor, from any thread; cheap to clone.
#[derive(Clone)]
pub struct Waker(Arc<dyn Wake>);

/// What stands behind a [`Waker`].
pub trait Wake: Send + Sync {
    /// Has the object's `handle_wake` called on its reactor, soon and at least once; returns at once. Does nothing once
    /// the object is closed.
    fn wake(&self);
}

impl Waker {
    /// A waker over `wake`.
    pub fn new(wake: Arc<dyn Wake>) -> Self {
        Self(wake)
    }

    /// See [`Wake::wake`].
    pub fn wake(&self) {
        self.0.wake();
    }
}

impl fmt::Debug for Waker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Waker(..)")
    }
}

/// A file operation. Offsets and lengths are bytes; alignment for `O_DIRECT` files is the caller's duty.
#[derive(Debug)]
pub enum FileOp {
    /// Reads `buf.len()` bytes at `offset` into `buf`.
    Read {
        /// Where to read.
        offset: u64,
        /// Destination.
        buf: Buf,
        /// Bytes of `buf` already filled, for continuing a short read.
        filled: u32,
    },
    /// Writes `buf` at `offset`.
    Write {
        /// Where to write.
        offset: u64,
        /// Source.
        buf: Buf,
        /// Bytes of `buf` already written, for continuing a short write.
        written: u32,
        /// Whether the data must be durable when the operation completes (`RWF_DSYNC`).
        durable: bool,
    },
    /// Makes completed writes durable (`fdatasync`).
    Sync,
    /// Deallocates a range, which then reads as zeroes (`FALLOC_FL_PUNCH_HOLE`).
    PunchHole {
        /// First byte.
        offset: u64,
        /// Bytes.
        len: u64,
    },
    /// Writes zeroes to a range (`FALLOC_FL_ZERO_RANGE`).
    ZeroRange {
        /// First byte.
        offset: u64,
        /// Bytes.
        len: u64,
    },
}

/// A finished file operation.
#[derive(Debug)]
pub struct FileDone {
    /// The number given at submission.
    pub user: u64,
    /// Bytes moved (0 for operations that move none), or why it failed.
    pub result: Result<u32, FileError>,
    /// The operation, with its buffer.
    pub op: FileOp,
}

/// Why a file operation failed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum FileError {
    /// The medium could not be read or written (`EIO`, `EILSEQ`, `ENODATA`, `EUCLEAN`).
    Medium,
    /// No space left below (`ENOSPC`, `EDQUOT`, `EFBIG`).
    NoSpace,
    /// The device is gone (`ENODEV`, `ENXIO`).
    Gone,
    /// The file does not support the operation (`EOPNOTSUPP`, `EINVAL`).
    NotSupported,
    /// The operation was cancelled.
    Cancelled,
    /// Anything else; the number is logged where it is handled.
    Other(i32),
}

impl fmt::Display for FileError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Medium => f.write_str("medium error"),
            Self::NoSpace => f.write_str("no space left on the underlying file system or device"),
            Self::Gone => f.write_str("device is gone"),
            Self::NotSupported => f.write_str("operation not supported by the file"),
            Self::Cancelled => f.write_str("operation cancelled"),
            Self::Other(errno) => write!(f, "operating system error {errno}"),
        }
    }
}

/// Why a stream could not move bytes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum StreamError {
    /// Nothing to read, or no room to write, at the moment; the owner is told when that changes.
    WouldBlock,
    /// The peer closed its side; no further bytes will come.
    Closed,
    /// The connection failed (`ECONNRESET`, `ETIMEDOUT`, …).
    Failed(i32),
}

/// What the reactor has no room for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum HostError {
    /// The table of files or operations is full.
    TooMany,
    /// The operating system refused.
    System(i32),
}

impl fmt::Display for HostError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TooMany => f.write_str("the reactor's table is full"),
            Self::System(errno) => write!(f, "operating system error {errno}"),
        }
    }
}

/// The operations of one reactor.
///
/// Contract: no call blocks or panics for any argument. Ids of other reactors or closed objects are answered like
/// closed ones.
pub trait Host {
    /// Time of this turn; read once a turn, so it is cheap and lags by at most a turn.
    fn now(&self) -> Instant;

    /// A buffer of `len` bytes (up to 1 MiB), or `None` while the arena has none; ask again on a later turn.
    fn alloc(&mut self, len: usize) -> Option<Buf>;

    /// Lends `fd` to the reactor; `owner` is told of completions.
    ///
    /// # Errors
    /// [`HostError::TooMany`] when the file table is full.
    fn adopt_file(&mut self, fd: OwnedFd, owner: OwnerId) -> Result<FileId, HostError>;

    /// Closes a file once its operations have completed.
    fn close_file(&mut self, file: FileId);

    /// Starts `op`; its completion carries `user`. Operations complete in any order.
    ///
    /// # Errors
    /// The operation is handed back when the reactor's operation table is full or the file is closed; submit it again
    /// on a later turn.
    fn submit_file(&mut self, file: FileId, user: u64, op: FileOp) -> Result<(), FileOp>;

    /// Receives into `bufs` in order, without blocking. Returns bytes received, at least 1.
    ///
    /// # Errors
    /// [`StreamError::WouldBlock`] when there is nothing; [`StreamError::Closed`] at the end.
    fn recv(&mut self, stream: StreamId, bufs: &mut [IoSliceMut<'_>])
    -> Result<usize, StreamError>;

    /// Sends from `bufs` in order, without blocking. Returns bytes taken, at least 1 of a non-empty total.
    ///
    /// # Errors
    /// [`StreamError::WouldBlock`] when the socket takes nothing; the owner gets one `writable` event when it does.
    fn send(&mut self, stream: StreamId, bufs: &[IoSlice<'_>]) -> Result<usize, StreamError>;

    /// Stops (`true`) or resumes (`false`) `readable` events of a stream, for back-pressure.
    fn pause_stream(&mut self, stream: StreamId, paused: bool);

    /// Ends the sending side of a stream behind the bytes the kernel has taken; receiving goes on. A stream closed while
    /// received bytes are unread is reset, which may cost the peer the last bytes sent to it: whoever has last words ends
    /// the stream first, receives for a while, and closes it then.
    fn end_stream(&mut self, stream: StreamId);

    /// Closes a stream. Queued bytes the kernel has taken are still sent, unless received ones are unread.
    fn close_stream(&mut self, stream: StreamId);

    /// Takes a stream away from this reactor, to be adopted by another.
    fn detach_stream(&mut self, stream: StreamId) -> Option<OwnedFd>;

    /// Adopts a connected, nonblocking socket.
    ///
    /// # Errors
    /// [`HostError::TooMany`] when the stream table is full.
    fn attach_stream(&mut self, fd: OwnedFd) -> Result<StreamId, HostError>;

    /// Lends a listening socket, TCP or Unix; `owner` is told of its connections.
    ///
    /// # Errors
    /// [`HostError::TooMany`] when the listener table is full; [`HostError::System`] with `EOPNOTSUPP` from a host that
    /// has no sockets.
    fn adopt_listener(&mut self, fd: OwnedFd, owner: OwnerId) -> Result<ListenerId, HostError> {
        let _ = (fd, owner);
        Err(HostError::System(EOPNOTSUPP))
    }

    /// Closes a listener.
    fn close_listener(&mut self, listener: ListenerId) {
        let _ = listener;
    }

    /// A way for other threads to call for the object `owner`; `None` from a host that is alone on its thread.
    fn waker(&mut self, owner: OwnerId) -> Option<Waker> {
        let _ = owner;
        None
    }
}
