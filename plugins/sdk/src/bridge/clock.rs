//! Times as they cross: nanoseconds of the engine's clock.

use std::time::{Duration, Instant};

/// Nanoseconds at which the engine's clock begins: enough that no time of interest lies before it.
const BEGIN_NS: u64 = 1 << 50;

/// Ties the clock of this side to the engine's. The two functions are inverse to each other.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Clock {
    instant: Instant,
    ns: u64,
}

impl Clock {
    /// The engine's clock.
    pub(crate) fn begin() -> Self {
        Self {
            instant: Instant::now(),
            ns: BEGIN_NS,
        }
    }

    /// The clock of a side that was told the engine's time just now.
    pub(crate) fn joined(ns: u64) -> Self {
        Self {
            instant: Instant::now(),
            ns,
        }
    }

    /// Never 0, which stands for no time.
    #[inline]
    pub(crate) fn to_ns(self, at: Instant) -> u64 {
        match at.checked_duration_since(self.instant) {
            Some(since) => self.ns.saturating_add(nanos(since)),
            None => self.ns.saturating_sub(nanos(self.instant - at)).max(1),
        }
    }

    /// A time out of reach is the furthest that can be told.
    #[inline]
    pub(crate) fn to_instant(self, ns: u64) -> Instant {
        let (later, by) = (ns >= self.ns, Duration::from_nanos(ns.abs_diff(self.ns)));
        let at = match later {
            true => self.instant.checked_add(by),
            false => self.instant.checked_sub(by),
        };
        at.unwrap_or(self.instant)
    }
}

#[inline]
fn nanos(duration: Duration) -> u64 {
    duration
        .as_secs()
        .saturating_mul(1_000_000_000)
        .saturating_add(u64::from(duration.subsec_nanos()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_and_back_is_the_same_time() {
        let clock = Clock::joined(5_000_000_000);
        for ms in [0u64, 1, 999, 4_999] {
            let by = Duration::from_millis(ms);
            for at in [
                clock.instant + by,
                clock.instant.checked_sub(by).unwrap_or(clock.instant),
            ] {
                assert_eq!(clock.to_instant(clock.to_ns(at)), at);
            }
        }
        assert_ne!(clock.to_ns(clock.instant), 0);
    }
}
