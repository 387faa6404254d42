//! Whether looking again at once is better than sleeping.
//!
//! A sleep costs its waker and us one wake (25–30 µs measured on the reference machine), so after a response has been
//! sent it pays to look on for about that long: if the host's next command comes within it, the wake is saved; if not,
//! no more is lost than the wake would have cost. It pays for longer (`spin_us_max`) only while the reactor is idle for
//! less than that between one turn with work and the next. The wake that a sleep costs is no part of it: with it, a
//! reactor that once slept would take the time it sleeps for the time its hosts take, and go on sleeping.
//!
//! What a file will answer is certain to come, so while operations are in flight it pays to look on for their mean wait, if
//! that is below `spin_file_us_max`: a CPU of a virtual machine that halts is given to a neighbour and comes back late.
//! A slower disk is slept for: there the wake is a small part of the wait.
//!
//! It never pays under a CPU quota, nor while another thread waits for this CPU: what it waits for may be the very
//! command we spin for.

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

/// Weight of the newest idle time in the mean: one eighth, so that about eight arrivals decide.
const IDLE_SHIFT: u32 = 3;

/// What a long silence counts in a mean, in longest spins, so that it is forgotten within some dozen arrivals.
const LONGEST_WAIT: u64 = 10;

/// The longest spins; zero never spins.
#[derive(Debug, Clone, Copy)]
pub(crate) struct SpinLimits {
    /// For a host's next command.
    pub(crate) host: Duration,
    /// For a file operation in flight.
    pub(crate) file: Duration,
}

impl SpinLimits {
    /// Sleeps at once.
    pub(crate) const NEVER: Self = Self {
        host: Duration::ZERO,
        file: Duration::ZERO,
    };
}

/// The spinning policy of one reactor.
pub(crate) struct Spin {
    max: SpinLimits,
    last_send: Option<Instant>,
    /// End of the last turn that received or sent.
    last_work: Instant,
    /// Time without work before an arrival.
    idle: MeanWait,
    /// The same while file operations were in flight.
    file_idle: MeanWait,
    resting_until: Option<Instant>,
    /// How long the next rest is.
    rest: Duration,
    scheduler: Option<RunDelay>,
    read_at: Instant,
    read_delay: Duration,
    /// Sleeps since it was read.
    wakes: u32,
}

impl Spin {
    /// Must be called on the reactor's own thread.
    pub(crate) fn new(max: SpinLimits, now: Instant) -> Self {
        // Without the scheduler's figures contention cannot be seen, and spinning might starve somebody: do not spin.
        let scheduler = if max.host.is_zero() && max.file.is_zero() {
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
            last_work: now,
            idle: MeanWait::new(max.host),
            file_idle: MeanWait::new(max.file),
            resting_until: None,
            rest: CONTENTION_REST_MIN,
            scheduler,
            read_at: now,
            read_delay,
            wakes: 0,
        }
    }

    /// The thread slept and was woken.
    #[inline]
    pub(crate) fn note_wake(&mut self) {
        self.wakes += 1;
    }

    /// Something arrived at `now`, at the end of a sleep or while awake, with file operations in flight or not: data, a
    /// completion, a message.
    #[inline]
    pub(crate) fn note_arrival(&mut self, now: Instant, slept: bool, awaited_file: bool) {
        let idle = now.saturating_duration_since(self.last_work);
        let idle = if slept {
            idle.saturating_sub(WAKE_COST)
        } else {
            idle
        };
        self.idle.note(idle);
        if awaited_file {
            self.file_idle.note(idle);
        }
    }

    /// A turn that received or sent ended at `now`.
    #[inline]
    pub(crate) fn note_work(&mut self, now: Instant, sent: bool) {
        self.last_work = now;
        if sent {
            self.last_send = Some(now);
        }
    }

    /// Whether to look again at once, at `now`, when there is nothing to do, with file operations in flight or not.
    pub(crate) fn pays(&mut self, now: Instant, awaits_file: bool) -> bool {
        let waited = now.saturating_duration_since(self.last_work);
        let host_is_near = self
            .last_send
            .is_some_and(|sent| now.saturating_duration_since(sent) < self.window());
        let file_is_near = awaits_file && self.file_idle.is_short() && waited < self.max.file;
        if self.scheduler.is_none() || !(host_is_near || file_is_near) {
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
        if self.idle.is_short() {
            self.max.host
        } else {
            self.max.host.min(WAKE_COST)
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
        let wakes = std::mem::take(&mut self.wakes);
        self.read_at = now;
        self.read_delay = delay;
        let contended = is_contention(waited, wakes, elapsed);
        if contended {
            self.resting_until = Some(now + self.rest);
        }
        self.rest = next_rest(self.rest, contended);
        contended
    }
}

/// A moving mean of waits, held against the longest spin.
struct MeanWait {
    ns: u64,
    max_ns: u64,
}

impl MeanWait {
    fn new(max: Duration) -> Self {
        let max_ns = max.as_nanos() as u64;
        Self {
            ns: max_ns * LONGEST_WAIT,
            max_ns,
        }
    }

    #[inline]
    fn note(&mut self, wait: Duration) {
        let wait = (wait.as_nanos() as u64).min(self.max_ns * LONGEST_WAIT);
        self.ns = self.ns - (self.ns >> IDLE_SHIFT) + (wait >> IDLE_SHIFT);
    }

    #[inline]
    fn is_short(&self) -> bool {
        self.ns < self.max_ns
    }
}

/// Whether having `waited` for the CPU during `elapsed`, in which there were `wakes`, means that somebody else needs it. A
/// preempting thread keeps the CPU for a slice of milliseconds, so a tenth is a clear sign; a single interrupt is far below.
///
/// The scheduler counts the time from a wake to running too, though nobody had the CPU. A reactor that took it for
/// contention would sleep more, and so be woken more.
fn is_contention(waited: Duration, wakes: u32, elapsed: Duration) -> bool {
    let waited = waited.saturating_sub(WAKE_COST * wakes);
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

    /// A bound for hosts; files are not looked for.
    const fn limits(host: u64) -> SpinLimits {
        SpinLimits {
            host: us(host),
            file: us(0),
        }
    }

    /// Forty completions of files, `wait` after the turn before each.
    fn serve_files(spin: &mut Spin, start: Instant, wait: Duration, slept: bool) -> Instant {
        let mut now = start;
        for _ in 0..40 {
            now += wait;
            spin.note_arrival(now, slept, true);
            spin.note_work(now, false);
        }
        now
    }

    #[test]
    fn a_quick_file_is_looked_for_while_it_works_and_no_longer() {
        let start = Instant::now();
        let max = SpinLimits {
            host: us(50),
            file: us(200),
        };
        let mut spin = Spin::new(max, start);
        assert!(!spin.pays(start, true), "nothing is known of it");
        // The wake that each sleep cost does not count.
        let now = serve_files(&mut spin, start, us(130), true);
        assert!(spin.pays(now + us(199), true));
        assert!(
            !spin.pays(now + us(200), true),
            "spin_file_us_max bounds it"
        );
        assert!(!spin.pays(now + us(10), false), "nothing is in flight");
    }

    #[test]
    fn a_slow_file_is_slept_for() {
        let start = Instant::now();
        let max = SpinLimits {
            host: us(50),
            file: us(200),
        };
        let mut spin = Spin::new(max, start);
        let now = serve_files(&mut spin, start, us(240), true);
        assert!(!spin.pays(now + us(1), true));
        let now = serve_files(&mut spin, now, us(60), false);
        assert!(spin.pays(now + us(1), true), "it became quick");
    }

    #[test]
    fn it_spins_one_wake_cost_after_a_send_and_longer_only_under_load() {
        let start = Instant::now();
        let mut spin = Spin::new(limits(100), start);
        assert!(!spin.pays(start, false), "nothing was sent");
        spin.note_work(start, true);
        assert!(spin.pays(start + us(29), false));
        assert!(
            !spin.pays(start + us(31), false),
            "arrivals are rare so far"
        );
        // Forty arrivals, 20 µs apart, within the 2 ms in which the scheduler is not asked.
        let now = arrive(&mut spin, start, 40, us(20), us(0), false);
        assert!(spin.pays(now + us(90), false));
        assert!(!spin.pays(now + us(100), false), "spin_us_max bounds it");
    }

    /// `times` turns, each `idle` after the one before and `busy` long, the last of which sends. The end of the last.
    fn arrive(
        spin: &mut Spin,
        start: Instant,
        times: u32,
        idle: Duration,
        busy: Duration,
        slept: bool,
    ) -> Instant {
        let mut now = start;
        for _ in 0..times {
            now += idle;
            spin.note_arrival(now, slept, false);
            now += busy;
            spin.note_work(now, true);
        }
        now
    }

    #[test]
    fn the_wake_of_a_sleep_is_not_the_hosts_time() {
        let start = Instant::now();
        let mut spin = Spin::new(limits(50), start);
        // Hosts answer within 35 µs; the reactor slept and was woken 30 µs later each time.
        arrive(&mut spin, start, 40, us(65), us(20), true);
        assert_eq!(spin.window(), us(50));
    }

    #[test]
    fn the_time_of_work_is_not_idle() {
        let start = Instant::now();
        let mut spin = Spin::new(limits(50), start);
        arrive(&mut spin, start, 40, us(20), us(500), false);
        assert_eq!(spin.window(), us(50));
    }

    #[test]
    fn hosts_that_take_longer_are_not_waited_for() {
        let start = Instant::now();
        let mut spin = Spin::new(limits(50), start);
        arrive(&mut spin, start, 40, us(90), us(1), true);
        assert_eq!(spin.window(), WAKE_COST);
    }

    #[test]
    fn zero_never_spins() {
        let start = Instant::now();
        let mut spin = Spin::new(limits(0), start);
        spin.note_arrival(start, false, false);
        spin.note_work(start, true);
        assert!(!spin.pays(start, false));
    }

    #[test]
    fn one_silence_is_forgotten_soon() {
        let start = Instant::now();
        let mut spin = Spin::new(limits(100), start);
        let hour = Duration::from_secs(3600);
        let now = arrive(&mut spin, start, 1, hour, us(0), true);
        arrive(&mut spin, now, 40, us(10), us(0), false);
        assert_eq!(spin.window(), us(100));
    }

    #[test]
    fn contention_is_a_share_of_the_time() {
        let period = CONTENTION_PERIOD;
        assert!(is_contention(us(200), 0, period));
        assert!(!is_contention(us(199), 0, period));
        assert!(!is_contention(us(90), 0, us(100)), "noise");
        assert!(!is_contention(us(40_000), 0, us(60_000)), "stale");
        assert!(!is_contention(us(500), 20, period), "its own wakes");
        assert!(is_contention(us(800), 20, period));
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
