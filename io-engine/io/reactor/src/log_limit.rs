//! A bound on what peers can make a thread write into its log.
//!
//! Decides which of many messages of one kind are written: the first few a second; the rest are counted, and the count is
//! told once the second is over. Does not write anything. Bounded by the kinds the program names, none of which come from a
//! peer.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

/// How long one window lasts.
const WINDOW: Duration = Duration::from_secs(1);

/// See the module documentation.
#[derive(Debug)]
pub struct LogLimit {
    per_second: u32,
    kinds: BTreeMap<&'static str, Window>,
    /// Not later than any summary that is due.
    next: Option<Instant>,
}

#[derive(Debug)]
struct Window {
    since: Instant,
    written: u32,
    held_back: u64,
}

impl LogLimit {
    /// Lets `per_second` messages of each kind through in any second.
    pub fn new(per_second: u32) -> Self {
        Self {
            per_second,
            kinds: BTreeMap::new(),
            next: None,
        }
    }

    /// Whether a message of `kind` is to be written; one that is not is counted.
    pub fn admit(&mut self, now: Instant, kind: &'static str) -> bool {
        let window = self.kinds.entry(kind).or_insert(Window {
            since: now,
            written: 0,
            held_back: 0,
        });
        if window.held_back == 0 && now.saturating_duration_since(window.since) >= WINDOW {
            window.since = now;
            window.written = 0;
        }
        if window.written < self.per_second {
            window.written += 1;
            return true;
        }
        window.held_back += 1;
        let due = window.since + WINDOW;
        self.next = Some(self.next.map_or(due, |next| next.min(due)));
        false
    }

    /// When [`LogLimit::poll_summary`] has something to tell.
    pub fn poll_timeout(&self) -> Option<Instant> {
        self.next
    }

    /// A kind whose second is over by `now`, and how many of its messages were held back in it.
    pub fn poll_summary(&mut self, now: Instant) -> Option<(&'static str, u64)> {
        if self.next.is_none_or(|next| now < next) {
            return None;
        }
        let due = self.kinds.iter_mut().find(|(_, window)| {
            window.held_back > 0 && now.saturating_duration_since(window.since) >= WINDOW
        });
        if let Some((kind, window)) = due {
            let held_back = std::mem::take(&mut window.held_back);
            // A flood that goes on is told of by its summaries: its first messages say nothing new.
            window.since = now;
            return Some((*kind, held_back));
        }
        self.next = self
            .kinds
            .values()
            .filter(|window| window.held_back > 0)
            .map(|window| window.since + WINDOW)
            .min();
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_of_a_kind_are_written_and_the_rest_summed_up() {
        let start = Instant::now();
        let at = |ms| start + Duration::from_millis(ms);
        let mut limit = LogLimit::new(3);
        let written = (0..500).filter(|ms| limit.admit(at(*ms), "bad")).count();
        assert_eq!(written, 3);
        assert!(limit.admit(at(500), "other"));
        assert_eq!(limit.poll_timeout(), Some(at(1000)));
        assert_eq!(limit.poll_summary(at(999)), None);
        assert_eq!(limit.poll_summary(at(1000)), Some(("bad", 497)));
        assert_eq!(limit.poll_summary(at(1000)), None);
        assert_eq!(limit.poll_timeout(), None);
    }

    #[test]
    fn a_flood_that_goes_on_costs_one_line_a_second_and_then_ends() {
        let start = Instant::now();
        let at = |ms| start + Duration::from_millis(ms);
        let mut limit = LogLimit::new(3);
        let (mut lines, mut told) = (0, 0);
        for ms in 0..10_000 {
            lines += usize::from(limit.admit(at(ms), "bad"));
            while let Some((_, count)) = limit.poll_summary(at(ms)) {
                lines += 1;
                told += count;
            }
        }
        assert!(lines <= 3 + 10, "{lines}");
        while let Some((_, count)) = limit.poll_summary(at(11_000)) {
            told += count;
        }
        // Each message is written or told of.
        assert_eq!(told, 10_000 - 3);
        assert!(limit.admit(at(12_500), "bad"), "quiet again");
    }

    #[test]
    fn a_trickle_is_written_as_it_comes() {
        let start = Instant::now();
        let mut limit = LogLimit::new(2);
        for second in 0..20 {
            let now = start + Duration::from_millis(second * 700);
            assert!(limit.admit(now, "slow"));
        }
        assert_eq!(limit.poll_timeout(), None);
    }
}
