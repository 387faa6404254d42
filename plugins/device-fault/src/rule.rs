//! What a rule says: which operations it is for, and what happens to them.
//!
//! Plain values and their text form, no state: how often a rule hit is the plan's business. `docs/device-fault.md` is
//! the same in words.
//!
//! Invariants: a [`Rule`] that exists is within the ranges given at its fields; its text form parses to an equal rule.

mod text;

use std::fmt;
use std::time::Duration;

use sdk::block::{IoError, Op};
use units::BlockRange;

pub(crate) use text::{RuleError, parse, range_of, set_window};

/// A kind of operation.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum OpKind {
    /// Read.
    Read,
    /// Write.
    Write,
    /// Write zeroes.
    Zeroes,
    /// Discard.
    Discard,
    /// Flush.
    Flush,
}

impl OpKind {
    /// Every kind with its name, in the order in which lists of them are written.
    pub(crate) const NAMES: [(Self, &'static str); 5] = [
        (Self::Read, "read"),
        (Self::Write, "write"),
        (Self::Zeroes, "zeroes"),
        (Self::Discard, "discard"),
        (Self::Flush, "flush"),
    ];

    /// Kind, blocks (a flush has none) and durability of an operation.
    pub(crate) fn of(op: &Op) -> (Self, Option<BlockRange>, bool) {
        match op {
            Op::Read { range, .. } => (Self::Read, Some(*range), false),
            Op::Write { range, fua, .. } => (Self::Write, Some(*range), *fua),
            Op::WriteZeroes { range, fua, .. } => (Self::Zeroes, Some(*range), *fua),
            Op::Discard { range } => (Self::Discard, Some(*range), false),
            Op::Flush => (Self::Flush, None, false),
        }
    }
}

/// A set of kinds of operations.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) struct Ops(u8);

impl Ops {
    /// Every kind.
    pub(crate) const ALL: Self = Self(0b1_1111);

    /// The kinds given.
    pub(crate) fn of(kinds: &[OpKind]) -> Self {
        Self(kinds.iter().fold(0, |bits, kind| bits | 1 << *kind as u8))
    }

    /// Whether `kind` is one of them.
    pub(crate) fn contains(self, kind: OpKind) -> bool {
        self.0 & (1 << kind as u8) != 0
    }

    /// Whether all of them are in `other`.
    pub(crate) fn is_within(self, other: Self) -> bool {
        self.0 & !other.0 == 0
    }
}

impl fmt::Display for Ops {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if *self == Self::ALL {
            return f.write_str("all");
        }
        let mut joint = "";
        for (kind, name) in OpKind::NAMES {
            if self.contains(kind) {
                write!(f, "{joint}{name}")?;
                joint = "+";
            }
        }
        Ok(())
    }
}

/// When a rule acts on an operation.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) enum Stage {
    /// Before the device below gets it.
    #[default]
    Submit,
    /// After the device below has done it.
    Complete,
}

impl fmt::Display for Stage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Submit => "submit",
            Self::Complete => "complete",
        })
    }
}

/// The device errors by name.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) enum ErrorKind {
    /// [`IoError::OutOfRange`].
    OutOfRange,
    /// [`IoError::NoSpace`].
    NoSpace,
    /// [`IoError::Medium`], naming the blocks of the operation that are in the rule's range.
    #[default]
    Medium,
    /// [`IoError::Gone`].
    Gone,
    /// [`IoError::Timeout`].
    Timeout,
    /// [`IoError::NotSupported`].
    NotSupported,
    /// [`IoError::Busy`].
    Busy,
    /// [`IoError::CompareFailed`] at the first byte.
    CompareFailed,
    /// [`IoError::Aborted`].
    Aborted,
}

impl ErrorKind {
    /// Every kind with its name.
    pub(crate) const NAMES: [(Self, &'static str); 9] = [
        (Self::OutOfRange, "out-of-range"),
        (Self::NoSpace, "no-space"),
        (Self::Medium, "medium"),
        (Self::Gone, "gone"),
        (Self::Timeout, "timeout"),
        (Self::NotSupported, "not-supported"),
        (Self::Busy, "busy"),
        (Self::CompareFailed, "compare-failed"),
        (Self::Aborted, "aborted"),
    ];

    /// The error, for an operation of which `blocks` are affected.
    pub(crate) fn error(self, blocks: BlockRange) -> IoError {
        match self {
            Self::OutOfRange => IoError::OutOfRange,
            Self::NoSpace => IoError::NoSpace,
            Self::Medium => IoError::Medium(blocks),
            Self::Gone => IoError::Gone,
            Self::Timeout => IoError::Timeout,
            Self::NotSupported => IoError::NotSupported,
            Self::Busy => IoError::Busy,
            Self::CompareFailed => IoError::CompareFailed(0),
            Self::Aborted => IoError::Aborted,
        }
    }
}

impl fmt::Display for ErrorKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = Self::NAMES.iter().find(|(kind, _)| kind == self);
        f.write_str(name.map_or("", |(_, name)| name))
    }
}

/// How much of a block rots.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Rot {
    /// So many bits are flipped, 1 to [`crate::limits::ROT_BITS_MAX`].
    Bits(u32),
    /// Each byte is replaced.
    All,
}

/// What a rule does to the operations it hits.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Fault {
    /// Holds them for `base` and a drawn part of `jitter`.
    Delay {
        /// At least this long.
        base: Duration,
        /// At most this much longer.
        jitter: Duration,
        /// When.
        stage: Stage,
    },
    /// Answers them with an error.
    Error {
        /// Which.
        kind: ErrorKind,
        /// Without doing them, or after.
        stage: Stage,
    },
    /// Does their first blocks only.
    Torn {
        /// How many; half of them, rounded down, if not given.
        keep: Option<u64>,
        /// The error that is answered; success if not given.
        answer: Option<ErrorKind>,
    },
    /// Keeps writes in the overlay until a flush; forgets flushes.
    Lose {
        /// Durable writes too.
        fua: bool,
    },
    /// Does them on other blocks.
    Misdirect {
        /// How many blocks further, not 0.
        shift: i64,
    },
    /// Damages data on its way from or to the device below.
    Rot(Rot),
    /// Holds them until told to let them go.
    Stuck {
        /// When.
        stage: Stage,
    },
}

impl Fault {
    /// Name of the kind, as in texts and counters.
    pub(crate) fn name(&self) -> &'static str {
        match self {
            Self::Delay { .. } => "delay",
            Self::Error { .. } => "error",
            Self::Torn { .. } => "torn",
            Self::Lose { .. } => "lose",
            Self::Misdirect { .. } => "misdirect",
            Self::Rot(_) => "rot",
            Self::Stuck { .. } => "stuck",
        }
    }

    /// The operations it can be for, and those it is for if the rule names none.
    pub(crate) fn ops(&self) -> (Ops, Ops) {
        use OpKind::{Flush, Read, Write, Zeroes};
        match self {
            Self::Delay { .. } | Self::Error { .. } | Self::Stuck { .. } => (Ops::ALL, Ops::ALL),
            Self::Torn { .. } => (Ops::of(&[Write, Zeroes]), Ops::of(&[Write, Zeroes])),
            Self::Lose { .. } => (Ops::of(&[Write, Zeroes, Flush]), Ops::of(&[Write, Zeroes])),
            Self::Misdirect { .. } => (Ops::of(&[Read, Write, Zeroes]), Ops::of(&[Write])),
            Self::Rot(_) => (Ops::of(&[Read, Write]), Ops::of(&[Read])),
        }
    }
}

/// A rule.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Rule {
    /// What it does.
    pub(crate) fault: Fault,
    /// Which operations it is for.
    pub(crate) ops: Ops,
    /// Only operations that touch these blocks, at least 1; a flush touches none. Without it, all of them.
    pub(crate) range: Option<BlockRange>,
    /// Operations let through first.
    pub(crate) skip: u64,
    /// Most hits, at least 1.
    pub(crate) count: Option<u64>,
    /// Hits in a million, 1 to 1 000 000.
    pub(crate) chance_ppm: u32,
    /// Seed of its draws; without one it follows from the device's seed and the rule's number.
    pub(crate) seed: Option<u64>,
    /// Start of its time, counted from the first operation the device is given once the rule is there.
    pub(crate) from: Duration,
    /// End of its time, later than `from`.
    pub(crate) until: Option<Duration>,
    /// The `inject://` URI it was made from.
    pub(crate) inject: Option<String>,
}

impl Rule {
    /// A rule that always hits, for the operations its fault is for by itself.
    pub(crate) fn new(fault: Fault) -> Self {
        Self {
            fault,
            ops: fault.ops().1,
            range: None,
            skip: 0,
            count: None,
            chance_ppm: 1_000_000,
            seed: None,
            from: Duration::ZERO,
            until: None,
            inject: None,
        }
    }
}

#[cfg(test)]
mod tests;
