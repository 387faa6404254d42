//! Ranges that changes must keep off: compare-and-writes under way, and writes in the device that are overdue or whose host
//! is gone.
//!
//! A compare-and-write is atomic against other changes of its range on this device: it begins when no change of the
//! range is in the device, and changes submitted after it wait for its end.
//!
//! An overdue write was answered `Timeout`, but the device may still do it. A later change of the same blocks could
//! be overwritten by it after having been acknowledged, so such a change is refused until the device lets go.

use units::BlockRange;

use crate::limits::COMPARE_AND_WRITE_MAX;

/// What a change of a range has to do.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Admission {
    /// Go on.
    Go,
    /// Wait for a compare-and-write.
    Wait,
    /// Fail: an overdue write may still land there.
    Refused,
}

struct Lock {
    slot: usize,
    sequence: u64,
    range: BlockRange,
    /// Its read or write is in the device.
    started: bool,
}

/// The guarded ranges of a device.
pub(crate) struct Guards {
    locks: Vec<Lock>,
    overdue: Vec<(usize, BlockRange)>,
}

impl Guards {
    pub(crate) fn new(slots: usize) -> Self {
        Self {
            locks: Vec::with_capacity(COMPARE_AND_WRITE_MAX),
            overdue: Vec::with_capacity(slots),
        }
    }

    /// Whether any change is admitted; the one branch an ordinary I/O pays.
    #[inline]
    pub(crate) fn is_empty(&self) -> bool {
        self.locks.is_empty() && self.overdue.is_empty()
    }

    /// Whether another compare-and-write finds room.
    pub(crate) fn has_room(&self) -> bool {
        self.locks.len() < COMPARE_AND_WRITE_MAX
    }

    /// Whether a change of `range`, submitted as number `sequence`, may go to the device.
    pub(crate) fn admit(&self, sequence: u64, range: BlockRange) -> Admission {
        if self.overdue.iter().any(|(_, held)| held.overlaps(range)) {
            return Admission::Refused;
        }
        let in_the_way = |lock: &Lock| {
            lock.sequence != sequence
                && (lock.started || lock.sequence < sequence)
                && lock.range.overlaps(range)
        };
        if self.locks.iter().any(in_the_way) {
            return Admission::Wait;
        }
        Admission::Go
    }

    /// Locks the range of a compare-and-write from its submission on.
    pub(crate) fn lock(&mut self, slot: usize, sequence: u64, range: BlockRange) {
        self.locks.push(Lock {
            slot,
            sequence,
            range,
            started: false,
        });
    }

    /// The compare-and-write in `slot` goes to the device.
    pub(crate) fn start(&mut self, slot: usize) {
        if let Some(lock) = self.locks.iter_mut().find(|lock| lock.slot == slot) {
            lock.started = true;
        }
    }

    /// The change in `slot` is in the device, and nobody waits for it any longer.
    pub(crate) fn hold_orphan(&mut self, slot: usize, sequence: u64, range: BlockRange) {
        // A compare-and-write has its lock already.
        if !self.locks.iter().any(|lock| lock.slot == slot) {
            self.locks.push(Lock {
                slot,
                sequence,
                range,
                started: true,
            });
        }
    }

    /// The change in `slot` is overdue.
    pub(crate) fn hold_overdue(&mut self, slot: usize, range: BlockRange) {
        self.overdue.push((slot, range));
    }

    /// `slot` guards nothing any longer.
    pub(crate) fn release(&mut self, slot: usize) {
        self.locks.retain(|lock| lock.slot != slot);
        self.overdue.retain(|(held, _)| *held != slot);
    }
}
