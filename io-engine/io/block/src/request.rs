//! What can be asked of a device, and what is told about it while it is under way.

use std::time::{Duration, Instant};

use sdk::buf::Buf;
use units::BlockRange;

/// A request. Buffers are exactly as long as the range.
#[derive(Debug)]
pub enum Request {
    /// Reads a range into `buf`, or lends it where the device lends reads and `buf` is absent.
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
        /// Source.
        buf: Buf,
        /// Whether the data must be durable on completion.
        fua: bool,
    },
    /// Makes a range read as zeroes.
    WriteZeroes {
        /// Blocks to zero.
        range: BlockRange,
        /// Whether the device may deallocate to do so.
        deallocate: bool,
        /// Whether the zeroes must be durable on completion.
        fua: bool,
    },
    /// Tells that the contents of a range are not needed. Advisory: a device that cannot discard completes it without
    /// effect.
    Discard {
        /// Blocks to give back.
        range: BlockRange,
    },
    /// Makes all completed writes durable.
    Flush,
    /// Compares a range with `buf`; a difference is `CompareFailed` with the first differing byte.
    Compare {
        /// Blocks to compare.
        range: BlockRange,
        /// Expected contents.
        buf: Buf,
    },
    /// Writes `write` if the range holds `compare`; no other change of the range happens in between.
    CompareAndWrite {
        /// Blocks to compare and write.
        range: BlockRange,
        /// Expected contents.
        compare: Buf,
        /// New contents.
        write: Buf,
        /// Whether the new contents must be durable on completion.
        fua: bool,
    },
}

/// The kind of a [`Request`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum OpKind {
    /// [`Request::Read`].
    Read,
    /// [`Request::Write`].
    Write,
    /// [`Request::WriteZeroes`].
    WriteZeroes,
    /// [`Request::Discard`].
    Discard,
    /// [`Request::Flush`].
    Flush,
    /// [`Request::Compare`].
    Compare,
    /// [`Request::CompareAndWrite`].
    CompareAndWrite,
}

impl OpKind {
    /// Whether it may change data.
    pub const fn is_change(self) -> bool {
        match self {
            Self::Write | Self::WriteZeroes | Self::Discard | Self::CompareAndWrite => true,
            Self::Read | Self::Flush | Self::Compare => false,
        }
    }

    /// Lower-case name for logs and metrics.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Read => "read",
            Self::Write => "write",
            Self::WriteZeroes => "write-zeroes",
            Self::Discard => "discard",
            Self::Flush => "flush",
            Self::Compare => "compare",
            Self::CompareAndWrite => "compare-and-write",
        }
    }
}

impl Request {
    /// Its kind.
    #[inline]
    pub const fn kind(&self) -> OpKind {
        match self {
            Self::Read { .. } => OpKind::Read,
            Self::Write { .. } => OpKind::Write,
            Self::WriteZeroes { .. } => OpKind::WriteZeroes,
            Self::Discard { .. } => OpKind::Discard,
            Self::Flush => OpKind::Flush,
            Self::Compare { .. } => OpKind::Compare,
            Self::CompareAndWrite { .. } => OpKind::CompareAndWrite,
        }
    }

    /// Whether its completion promises that something is durable.
    #[inline]
    pub const fn is_durable(&self) -> bool {
        match self {
            Self::Write { fua, .. }
            | Self::WriteZeroes { fua, .. }
            | Self::CompareAndWrite { fua, .. } => *fua,
            Self::Flush => true,
            Self::Read { .. } | Self::Discard { .. } | Self::Compare { .. } => false,
        }
    }

    /// The blocks it concerns; empty at 0 for a flush.
    #[inline]
    pub const fn range(&self) -> BlockRange {
        match self {
            Self::Read { range, .. }
            | Self::Write { range, .. }
            | Self::WriteZeroes { range, .. }
            | Self::Discard { range }
            | Self::Compare { range, .. }
            | Self::CompareAndWrite { range, .. } => *range,
            Self::Flush => BlockRange::new(0, 0),
        }
    }
}

/// When the caller saw an I/O; the block layer adds submission and completion.
///
/// All stamps are [`Host::now`](sdk::host::Host::now), read once a turn: they lag by at most a turn, and an I/O that
/// completes in the turn of its submission took as long as that turn
/// ([`BlockDevice::end_turn`](crate::BlockDevice::end_turn)). That granularity is accepted for not reading a clock per I/O.
#[derive(Clone, Copy, Debug)]
pub struct Stamps {
    /// When the command was received.
    pub received: Instant,
    /// What it waited for between then and its submission.
    pub waits: Waits,
}

/// What a command waited for before its submission, in microseconds; saturates at 71 minutes.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Waits {
    /// The host's data: from the moment they were asked for. The one wait that is not ours.
    pub host_data_us: u32,
    /// A buffer.
    pub buffer_us: u32,
}

impl Waits {
    /// The wait for the host's data.
    pub const fn host_data(&self) -> Duration {
        Duration::from_micros(self.host_data_us as u64)
    }

    /// The wait for a buffer.
    pub const fn buffer(&self) -> Duration {
        Duration::from_micros(self.buffer_us as u64)
    }
}

/// Where an I/O in flight is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Stage {
    /// Held back: for a compare-and-write on its range, for a buffer, or for its next piece.
    Waiting,
    /// In the device.
    Device,
    /// Answered `Timeout` or `Gone`, while the device still has its buffer.
    Overdue,
}

/// An I/O in flight, for listing.
#[derive(Clone, Copy, Debug)]
pub struct InflightIo {
    /// The caller's tag.
    pub tag: u64,
    /// What was asked.
    pub op: OpKind,
    /// On which blocks; empty for a flush.
    pub range: BlockRange,
    /// When the caller received it.
    pub received: Instant,
    /// What it waited for before it was submitted.
    pub waits: Waits,
    /// When it was submitted here.
    pub submitted: Instant,
    /// Where it is.
    pub stage: Stage,
}
