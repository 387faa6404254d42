//! Whether looking again at once is better than sleeping.
//!
//! A sleep costs its waker and us one wake (25–30 µs measured on the reference machine), so after a response has been
//! sent it pays to look on for about that long: if the host's next command comes within it, the wake is saved; if not,
//! no more is lost than the wake would have cost. It pays for longer (`spin_us_max`) only while commands arrive
//! more often than that. It never pays under a CPU quota, nor while another thread waits for this CPU: what it waits for may be
//! the very command we spin for.

use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use rustix::fs::{Mode, OFlags};

/// What one sleep and wake costs; see the module head.
const WAKE_COST: Duration = Duration::from_micros(30);

/// How often the scheduler is asked about contention while spinning: a read of about 1 µs, so 0.05 % of the time.
const CONTENTION_PERIOD: Duration = Duration::from_millis(2);

/// An older reading says nothing about the present; it only starts a new period.
const CONTENTION_STALE: Duration = Duration::from_millis(50);

/// Waiting for the CPU below this is noise: interrupts, kernel threads, the wake itself.
const CONTENTION_NOISE: Duration = Duration::from_micros(100);

/// How long to sleep promptly after contention was seen: twice as long each time it is seen again, half as long after each
/// period without. A kernel thread that passes costs a few milliseconds of spinning; a program that stays keeps its CPU but
/// for a fiftieth.
const CONTENTION_REST_MIN: Duration = Duration::from_millis(4);
const CONTENTION_REST_MAX: Duration = Duration::from_millis(100);

/// Weight of the newest gap in the mean: one eighth, so that about eight arrivals decide.
const GAP_SHIFT: u32 = 3;

/// The spinning policy of one reactor.
pub(crate) struct Spin {
    max: Duration,
    last_send: Option<Instant>,
    last_arrival: Instant,
    gap_ns_mean: u64,
    resting_until: Option<Instant>,
    /// How long the next rest is.
    rest: Duration,
    scheduler: Option<RunDelay>,
    read_at: Instant,
    read_delay: Duration,
}

impl Spin {
    /// `max` of zero never spins. Must be called on the reactor's own thread.
    pub(crate) fn new(max: Duration, now: Instant) -> Self {
        // Without the scheduler's figures contention cannot be seen, and spinning might starve somebody: do not spin.
        let scheduler = if max.is_zero() {
            None
        } else {
            RunDelay::open()
        };
        let read_delay = scheduler
            .as_ref()
            .and_then(RunDelay::read)
            .unwrap_or_default();
        Self {
            max,
            last_send: None,
            last_arrival: now,
            gap_ns_mean: u64::MAX >> GAP_SHIFT,
            resting_until: None,
            rest: CONTENTION_REST_MIN,
            scheduler,
            read_at: now,
            read_delay,
        }
    }

    #[inline]
    pub(crate) fn note_send(&mut self, now: Instant) {
        self.last_send = Some(now);
    }

    /// Something arrived: data, a completion, a message.
    #[inline]
    pub(crate) fn note_arrival(&mut self, now: Instant) {
        let gap = now.saturating_duration_since(self.last_arrival).as_nanos();
        self.last_arrival = now;
        // A long silence counts as ten times the longest spin, so that it is forgotten within some dozen arrivals.
        let ceiling = self.max.as_nanos() * 10;
        let gap = gap.min(ceiling) as u64;
        let mean = self.gap_ns_mean.min(ceiling as u64);
        self.gap_ns_mean = mean - (mean >> GAP_SHIFT) + (gap >> GAP_SHIFT);
    }

    /// Whether to look again at once, at `now`, when there is nothing to do.
    pub(crate) fn pays(&mut self, now: Instant) -> bool {
        let (Some(sent), true) = (self.last_send, self.scheduler.is_some()) else {
            return false;
        };
        if now.saturating_duration_since(sent) >= self.window() {
            return false;
        }
        if let Some(until) = self.resting_until {
            if now < until {
                return false;
            }
            self.resting_until = None;
        }
        !self.is_contended(now)
    }

    fn window(&self) -> Duration {
        let is_frequent = u128::from(self.gap_ns_mean) < self.max.as_nanos();
        if is_frequent {
            self.max
        } else {
            self.max.min(WAKE_COST)
        }
    }

    fn is_contended(&mut self, now: Instant) -> bool {
        let elapsed = now.saturating_duration_since(self.read_at);
        if elapsed < CONTENTION_PERIOD {
            return false;
        }
        let Some(delay) = self.scheduler.as_ref().and_then(RunDelay::read) else {
            self.scheduler = None;
            return true;
        };
        let waited = delay.saturating_sub(self.read_delay);
        self.read_at = now;
        self.read_delay = delay;
        let contended = is_contention(waited, elapsed);
        if contended {
            self.resting_until = Some(now + self.rest);
        }
        self.rest = next_rest(self.rest, contended);
        contended
    }
}

/// Whether having `waited` for the CPU during `elapsed` means that somebody else needs it. A preempting thread keeps
/// the CPU for a slice of milliseconds, so a tenth is a clear sign; a single interrupt or wake is far below.
fn is_contention(waited: Duration, elapsed: Duration) -> bool {
    elapsed < CONTENTION_STALE && waited >= CONTENTION_NOISE && waited * 10 >= elapsed
}

fn next_rest(rest: Duration, contended: bool) -> Duration {
    if contended {
        (rest * 2).min(CONTENTION_REST_MAX)
    } else {
        (rest / 2).max(CONTENTION_REST_MIN)
    }
}

/// The scheduler's account of how long this thread was ready but did not run.
struct RunDelay(OwnedFd);

impl RunDelay {
    fn open() -> Option<Self> {
        let flags = OFlags::RDONLY | OFlags::CLOEXEC;
        let fd = rustix::fs::open("/proc/thread-self/schedstat", flags, Mode::empty()).ok()?;
        let this = Self(fd);
        this.read().is_some().then_some(this)
    }

    fn read(&self) -> Option<Duration> {
        let mut text = [0u8; 96];
        let n = rustix::io::pread(&self.0, &mut text, 0).ok()?;
        parse_run_delay(&text[..n])
    }
}

/// The second of `schedstat`'s three numbers, in nanoseconds (kernel `Documentation/scheduler/sched-stats.rst`).
fn parse_run_delay(text: &[u8]) -> Option<Duration> {
    let text = str::from_utf8(text).ok()?;
    let delay_ns = text.split_ascii_whitespace().nth(1)?.parse().ok()?;
    Some(Duration::from_nanos(delay_ns))
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn us(n: u64) -> Duration {
        Duration::from_micros(n)
    }

    #[test]
    fn it_spins_one_wake_cost_after_a_send_and_longer_only_under_load() {
        let start = Instant::now();
        let mut spin = Spin::new(us(100), start);
        assert!(!spin.pays(start), "nothing was sent");
        spin.note_send(start);
        assert!(spin.pays(start + us(29)));
        assert!(!spin.pays(start + us(31)), "arrivals are rare so far");
        // Forty arrivals, 20 µs apart, within the 2 ms in which the scheduler is not asked.
        let mut now = start;
        for _ in 0..40 {
            now += us(20);
            spin.note_arrival(now);
        }
        spin.note_send(now);
        assert!(spin.pays(now + us(90)));
        assert!(!spin.pays(now + us(100)), "spin_us_max bounds it");
    }

    #[test]
    fn zero_never_spins() {
        let start = Instant::now();
        let mut spin = Spin::new(Duration::ZERO, start);
        spin.note_send(start);
        spin.note_arrival(start);
        assert!(!spin.pays(start));
    }

    #[test]
    fn one_silence_is_forgotten_soon() {
        let start = Instant::now();
        let mut spin = Spin::new(us(100), start);
        let mut now = start + Duration::from_secs(3600);
        spin.note_arrival(now);
        for _ in 0..40 {
            now += us(10);
            spin.note_arrival(now);
        }
        assert_eq!(spin.window(), us(100));
    }

    #[test]
    fn contention_is_a_share_of_the_time() {
        let period = CONTENTION_PERIOD;
        assert!(is_contention(us(200), period));
        assert!(!is_contention(us(199), period));
        assert!(!is_contention(us(90), us(100)), "noise");
        assert!(!is_contention(us(40_000), us(60_000)), "stale");
    }

    #[test]
    fn rests_grow_while_somebody_stays_and_shrink_when_it_is_gone() {
        let mut rest = CONTENTION_REST_MIN;
        for _ in 0..10 {
            rest = next_rest(rest, true);
        }
        assert_eq!(rest, CONTENTION_REST_MAX);
        assert_eq!(next_rest(rest, false), CONTENTION_REST_MAX / 2);
        for _ in 0..10 {
            rest = next_rest(rest, false);
        }
        assert_eq!(rest, CONTENTION_REST_MIN);
    }

    #[test]
    fn schedstat_is_read_by_position() {
        assert_eq!(
            parse_run_delay(b"123 456 7\n"),
            Some(Duration::from_nanos(456))
        );
        assert_eq!(parse_run_delay(b"123"), None);
        assert_eq!(parse_run_delay(b""), None);
    }
}
