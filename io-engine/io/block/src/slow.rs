//! The slow-I/O log: at most a few lines a second, none lost from the count.
//!
//! An I/O is slow by the time that is ours: from reception to completion, less the wait for data the host had yet to send. The
//! line tells the parts; `device_us` is from submission on and includes waiting for another change of the same blocks.
//!
//! What a device did at once ended with the turn of the reactor, whose length is known at its end: it is judged then. One that
//! had taken less than half of what is slow before the turn is slow if the turn alone is.

use std::time::{Duration, Instant};

use sdk::block::IoError;

use crate::limits::{LATE_MAX, SLOW_LOG_MAX, SLOW_LOG_WINDOW};
use crate::request::{OpKind, Waits};
use units::BlockRange;

/// A finished I/O with its stamps.
#[derive(Clone, Copy)]
pub(crate) struct Finished {
    pub(crate) tag: u64,
    pub(crate) kind: OpKind,
    pub(crate) range: BlockRange,
    pub(crate) durable: bool,
    pub(crate) covers: u64,
    pub(crate) received: Instant,
    pub(crate) waits: Waits,
    pub(crate) submitted: Instant,
    pub(crate) completed: Instant,
}

impl Finished {
    /// From reception to completion, without the time the host took to send its data.
    #[inline]
    pub(crate) fn ours(&self) -> Duration {
        self.completed
            .saturating_duration_since(self.received)
            .saturating_sub(self.waits.host_data())
    }
}

/// A finished I/O and its error.
type Ended = (Finished, Option<IoError>);

/// The slow I/O of one device, and the rate limit of their log lines.
#[derive(Default)]
pub(crate) struct SlowLog {
    /// Ended in this turn after at least half of what is slow.
    late: Vec<Ended>,
    /// The first of the others that did.
    sample: Option<Ended>,
    /// Number of the others.
    others: u64,
    window_start: Option<Instant>,
    logged: u32,
    suppressed: u64,
}

impl SlowLog {
    /// Takes note of an I/O that ends with this turn. Tells whether it is slow already and judged; the rest is, with the turn's
    /// length, by [`SlowLog::end_turn`].
    #[inline]
    pub(crate) fn note_in_turn(
        &mut self,
        io: &Finished,
        error: Option<IoError>,
        slow_io: Duration,
    ) -> bool {
        let ours = io.ours();
        if ours >= slow_io / 2 {
            if self.late.len() < LATE_MAX {
                self.late.push((*io, error));
                return false;
            }
            if ours >= slow_io {
                return true;
            }
        }
        self.others += 1;
        if self.sample.is_none() {
            self.sample = Some((*io, error));
        }
        false
    }

    /// Logs what was slow with a turn of this length; answers how many.
    pub(crate) fn end_turn(&mut self, device: &str, slow_io: Duration, length: Duration) -> u64 {
        let mut slow = 0;
        let (others, sample) = (std::mem::take(&mut self.others), self.sample.take());
        for at in 0..self.late.len() {
            let (mut io, error) = self.late[at];
            io.completed += length;
            if io.ours() >= slow_io {
                self.record(device, &io, error);
                slow += 1;
            }
        }
        self.late.clear();
        if length >= slow_io
            && let Some((mut io, error)) = sample
        {
            io.completed += length;
            self.record(device, &io, error);
            self.suppressed += others - 1;
            slow += others;
        }
        slow
    }

    /// Logs a slow I/O, or counts it for the next line.
    #[cold]
    pub(crate) fn record(&mut self, device: &str, io: &Finished, error: Option<IoError>) {
        let Some(suppressed) = self.admit(io.completed) else {
            return;
        };
        let before = io.submitted.saturating_duration_since(io.received);
        let waited = io.waits.host_data() + io.waits.buffer();
        let outcome: &dyn std::fmt::Display = match &error {
            None => &"ok",
            Some(error) => error,
        };
        tracing::warn!(
            device,
            tag = io.tag,
            op = io.kind.name(),
            blocks = %io.range,
            ours_us = io.ours().as_micros(),
            waiting_for_buffer_us = io.waits.buffer_us,
            other_before_device_us = before.saturating_sub(waited).as_micros(),
            device_us = io.completed.saturating_duration_since(io.submitted).as_micros(),
            waiting_for_host_data_us = io.waits.host_data_us,
            %outcome,
            suppressed,
            "slow I/O"
        );
    }

    /// Whether a line may be written at `now`; with it, how many were left out since the last.
    pub(crate) fn admit(&mut self, now: Instant) -> Option<u64> {
        let age = self
            .window_start
            .map_or(Duration::MAX, |start| now.saturating_duration_since(start));
        if age >= SLOW_LOG_WINDOW {
            self.window_start = Some(now);
            self.logged = 0;
        }
        if self.logged >= SLOW_LOG_MAX {
            self.suppressed += 1;
            return None;
        }
        self.logged += 1;
        Some(std::mem::take(&mut self.suppressed))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_limited_and_the_rest_counted() {
        let mut log = SlowLog::default();
        let start = Instant::now();
        for _ in 0..SLOW_LOG_MAX {
            assert_eq!(log.admit(start), Some(0));
        }
        for _ in 0..5 {
            assert_eq!(log.admit(start), None);
        }
        assert_eq!(log.admit(start + SLOW_LOG_WINDOW), Some(5));
        assert_eq!(log.admit(start + SLOW_LOG_WINDOW), Some(0));
    }
}
