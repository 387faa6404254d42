//! Whether a host moves the bytes it owes, found out by a look now and then, so that an I/O costs no time stamp.
//!
//! Decides that a host has stalled, and in what. Does not decide when to look ([`PROGRESS_LOOK`] says how often), nor how
//! long is too long (the configuration does).
//!
//! | owed | progress | fault |
//! |---|---|---|
//! | the rest of a PDU that has begun, but for H2CData | a further part of a PDU is complete | `CapsuleStalled` |
//! | data an R2T asked for | [`PROGRESS_BYTES`] of it, or all of it | `DataStalled` |
//! | reading what is queued | [`PROGRESS_BYTES`] of it, or all of it | `ReaderStalled` |
//!
//! Invariants:
//! - Only time that was looked at counts: a process that was stopped finds no host guilty of it.
//! - Data is not owed before its R2T has been sent, nor anything while the adaptor does not receive.
//! - Bytes of R2Ts are numbered in the order they were asked for. Once as many have come as were asked for up to the end
//!   of an R2T, its turn has been, and only bytes of its own are progress: serving the others does not excuse it.

use crate::fault::FaultKind;
use crate::limits::{PROGRESS_BYTES, PROGRESS_LOOK};
use std::time::{Duration, Instant};

/// What a host owes at the time of a look. Figures but for `begun` count from the beginning of the connection.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Owed {
    /// Parts of PDUs complete so far, if the next one has begun.
    pub(crate) begun: Option<u64>,
    /// The R2T outstanding for longest.
    pub(crate) oldest: Option<Oldest>,
    /// Bytes R2Ts have asked for.
    pub(crate) asked: u64,
    /// Bytes that came for them.
    pub(crate) received: u64,
    /// Bytes the socket has taken.
    pub(crate) sent: u64,
    /// Bytes it has not taken.
    pub(crate) queued: u64,
    /// Whether bytes are received at all.
    pub(crate) is_open: bool,
}

/// An outstanding R2T.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Oldest {
    /// Bytes R2Ts had asked for when this one was the last: its name, and when its turn has been.
    pub(crate) due: u64,
    /// Bytes of it that are missing.
    pub(crate) missing: u64,
}

impl Owed {
    pub(crate) fn is_nothing(&self) -> bool {
        self.begun.is_none() && self.oldest.is_none() && self.queued == 0
    }
}

/// Time without progress in one thing.
#[derive(Clone, Copy, Debug)]
struct Stall<Goal> {
    goal: Goal,
    idle: Duration,
}

impl<Goal> Stall<Goal> {
    fn new(goal: Goal) -> Self {
        let idle = Duration::ZERO;
        Self { goal, idle }
    }
}

/// When data counts as progress.
#[derive(Clone, Copy, Debug)]
struct DataGoal {
    due: u64,
    /// Bytes received for any R2T, until this one's turn has been.
    received: u64,
    /// Bytes of this R2T that may still be missing; `None` if all are wanted.
    missing: Option<u64>,
    /// Bytes sent from which on the R2T is with the host.
    asked_at: u64,
}

/// What the looks at one connection found so far.
#[derive(Debug, Default)]
pub(crate) struct StallWatch {
    looked_at: Option<Instant>,
    pdu: Option<Stall<u64>>,
    data: Option<Stall<DataGoal>>,
    reader: Option<Stall<u64>>,
}

impl StallWatch {
    /// Looks at what is owed; the fault, once nothing came of one of the three for `timeout`.
    pub(crate) fn look(
        &mut self,
        now: Instant,
        timeout: Duration,
        owed: &Owed,
    ) -> Result<(), FaultKind> {
        let elapsed = self.looked_at.map_or(Duration::ZERO, |at| {
            now.saturating_duration_since(at).min(PROGRESS_LOOK * 2)
        });
        self.looked_at = (!owed.is_nothing()).then_some(now);
        self.look_at_reader(elapsed, owed);
        if owed.is_open {
            self.look_at_pdu(elapsed, owed);
            self.look_at_data(elapsed, owed);
        }
        let is_over = |idle: Option<Duration>| idle.is_some_and(|idle| idle >= timeout);
        if is_over(self.data.map(|stall| stall.idle)) {
            return Err(FaultKind::DataStalled);
        }
        if is_over(self.pdu.map(|stall| stall.idle)) {
            return Err(FaultKind::CapsuleStalled);
        }
        if is_over(self.reader.map(|stall| stall.idle)) {
            return Err(FaultKind::ReaderStalled);
        }
        Ok(())
    }

    fn look_at_pdu(&mut self, elapsed: Duration, owed: &Owed) {
        self.pdu = owed.begun.map(|parts| match self.pdu {
            Some(stall) if stall.goal == parts => Stall {
                idle: stall.idle + elapsed,
                ..stall
            },
            Some(_) | None => Stall::new(parts),
        });
    }

    fn look_at_reader(&mut self, elapsed: Duration, owed: &Owed) {
        self.reader = (owed.queued > 0).then(|| match self.reader {
            Some(stall) if owed.sent < stall.goal => Stall {
                idle: stall.idle + elapsed,
                ..stall
            },
            Some(_) | None => Stall::new(owed.sent + owed.queued.min(PROGRESS_BYTES)),
        });
    }

    fn look_at_data(&mut self, elapsed: Duration, owed: &Owed) {
        self.data = owed.oldest.map(|oldest| match self.data {
            Some(stall) if stall.goal.is_open(&oldest, owed.received) => {
                let is_asked = owed.sent >= stall.goal.asked_at;
                let elapsed = if is_asked { elapsed } else { Duration::ZERO };
                Stall {
                    idle: stall.idle + elapsed,
                    ..stall
                }
            }
            Some(_) | None => Stall::new(DataGoal::new(&oldest, owed)),
        });
    }
}

impl DataGoal {
    fn new(oldest: &Oldest, owed: &Owed) -> Self {
        let outstanding = owed.asked.saturating_sub(owed.received);
        Self {
            due: oldest.due,
            received: owed.received + outstanding.min(PROGRESS_BYTES),
            missing: oldest.missing.checked_sub(PROGRESS_BYTES),
            asked_at: owed.sent + owed.queued,
        }
    }

    /// Whether it has not been reached.
    fn is_open(&self, oldest: &Oldest, received: u64) -> bool {
        let its_turn_has_been = received >= self.due;
        self.due == oldest.due
            && self.missing.is_none_or(|goal| oldest.missing > goal)
            && (its_turn_has_been || received < self.received)
    }
}

#[cfg(test)]
mod tests;
