//! Counting what ends within a turn of the reactor.
//!
//! The clock is read once a turn, so by the stamps everything a device does at once takes no time at all, and an answer that
//! waits for the end of the turn is given at its begin. What ends in a turn is counted aside here, and with the turn's length
//! added when that is known ([`Tally::end_turn`]): one more look at the clock a turn, none an operation.
//!
//! Invariant: after [`Tally::end_turn`] everything is in [`Tally::stats`], exactly once.

use std::time::Duration;

use crate::limits::ACROSS_MAX;
use crate::stats::{CountedOp, IoStats};

/// Counters of one object.
#[derive(Debug, Default)]
pub struct Tally {
    stats: IoStats,
    /// Began and ended in this turn, by `CountedOp as usize`.
    within: [Within; CountedOp::ALL.len()],
    /// Began in an earlier turn, end with this one.
    across: Vec<Across>,
    is_behind: bool,
}

#[derive(Clone, Copy, Debug, Default)]
struct Within {
    ops: u64,
    bytes: u64,
    errors: u64,
}

#[derive(Debug)]
struct Across {
    op: CountedOp,
    bytes: u64,
    ok: bool,
    before: Duration,
}

impl Tally {
    /// Counts an operation whose latency is known.
    #[inline]
    pub fn record(&mut self, op: CountedOp, bytes: u64, ok: bool, latency: Duration) {
        self.stats.record(op, bytes, ok, latency);
    }

    /// Counts an operation that ends with this turn; `before` is what it took up to the turn's begin.
    #[inline]
    pub fn record_in_turn(&mut self, op: CountedOp, bytes: u64, ok: bool, before: Duration) {
        if before.is_zero() {
            let within = &mut self.within[op as usize];
            within.ops += 1;
            match ok {
                true => within.bytes += bytes,
                false => within.errors += 1,
            }
        } else if self.across.len() < ACROSS_MAX {
            self.across.push(Across {
                op,
                bytes,
                ok,
                before,
            });
        } else {
            return self.stats.record(op, bytes, ok, before);
        }
        self.is_behind = true;
    }

    /// Whether something waits for [`Tally::end_turn`].
    #[inline]
    pub fn is_behind(&self) -> bool {
        self.is_behind
    }

    /// Counts what ended in the turn, which took `length`.
    pub fn end_turn(&mut self, length: Duration) {
        if !std::mem::take(&mut self.is_behind) {
            return;
        }
        for (op, within) in CountedOp::ALL.into_iter().zip(&mut self.within) {
            if within.ops > 0 {
                let Within { ops, bytes, errors } = std::mem::take(within);
                self.stats.record_alike(op, ops, bytes, errors, length);
            }
        }
        for one in self.across.drain(..) {
            self.stats
                .record(one.op, one.bytes, one.ok, one.before + length);
        }
    }

    /// What is counted: all but what ended in a turn that goes on.
    pub fn stats(&self) -> &IoStats {
        &self.stats
    }

    /// For what is no operation's latency.
    pub fn stats_mut(&mut self) -> &mut IoStats {
        &mut self.stats
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OP: CountedOp = CountedOp::Read;

    #[test]
    fn what_ends_in_a_turn_takes_as_long_as_the_turn() {
        let us = Duration::from_micros;
        let (mut tally, mut one_by_one) = (Tally::default(), IoStats::default());
        for turn in [3, 700, 40] {
            for at in 0..10 {
                let (ok, before) = (at != 4, us(at / 8 * 100));
                tally.record_in_turn(OP, 4096, ok, before);
                one_by_one.record(OP, 4096, ok, before + us(turn));
            }
            assert!(tally.is_behind());
            assert_ne!(*tally.stats(), one_by_one);
            tally.end_turn(us(turn));
            assert!(!tally.is_behind());
            assert_eq!(*tally.stats(), one_by_one);
        }
        // A turn in which nothing ended changes nothing.
        tally.end_turn(us(1));
        assert_eq!(*tally.stats(), one_by_one);
        let reads = one_by_one.of(OP);
        assert_eq!(
            (reads.latency_ns_min, reads.latency_ns_max),
            (3_000, 800_000)
        );
    }

    #[test]
    fn none_is_lost_beyond_the_bound() {
        let mut tally = Tally::default();
        for _ in 0..ACROSS_MAX + 2 {
            tally.record_in_turn(OP, 1, true, Duration::from_micros(2));
        }
        tally.end_turn(Duration::from_micros(5));
        let reads = tally.stats().of(OP);
        assert_eq!(reads.ops as usize, ACROSS_MAX + 2);
        assert_eq!(
            (reads.latency_ns_min, reads.latency_ns_max),
            (2_000, 7_000),
            "those count up to the begin of the turn"
        );
    }
}
