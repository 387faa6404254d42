//! Everything of a reactor that does not depend on the type of its messages: when the thread may sleep, what wakes it,
//! and what becomes of what the kernel reports.
//!
//! It sleeps only if nothing queued here could make an event by itself: no operation waits to be started, every hot
//! stream was found empty, no listener is due, and spinning does not pay. The mailbox is looked at last, after the sleep has been
//! announced (see `mailbox`).

use std::collections::VecDeque;
use std::mem;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

use buffers::Arena;
use sdk::host::{FileDone, OwnerId, StreamId};

use crate::config::{ReactorConfig, ReactorError, SocketOptions};
use crate::driver::{Completion, Direction, Driver, GENERATION_MASK, Source, Watch};
use crate::files::{Files, Step};
use crate::listener::Listeners;
use crate::log_limit::LogLimit;
use crate::mailbox::Bell;
use crate::quota;
use crate::reactor::Event;
use crate::spin::{Spin, SpinLimits};
use crate::stats::{self, ReactorStats};
use crate::streams::{Streams, Verdict};
use crate::wakes::Wakes;

/// How often operations in flight are looked over for overdue ones; bounds a sleep while there are any.
const OVERDUE_PERIOD: Duration = Duration::from_secs(1);

/// Log lines of one kind a second that peers can cause: a refused socket option, a pause in accepting.
const LOG_LINES_PER_SECOND: u32 = 1;

/// Everything that does not depend on the type of messages.
pub(crate) struct Core {
    pub(crate) now: Instant,
    /// Up to where time has been accounted for.
    accounted: Instant,
    pub(crate) driver: Driver,
    pub(crate) streams: Streams,
    pub(crate) files: Files,
    pub(crate) arena: Arena,
    pub(crate) sockets: SocketOptions,
    pub(crate) stats: Arc<ReactorStats>,
    pub(crate) did: Did,
    /// Operations the driver had no room for.
    pub(crate) backlog: VecDeque<u32>,
    /// Operations that ended without a system call.
    finished: Vec<(OwnerId, FileDone)>,
    /// Streams that wait for room but could not be watched; they are told to try again.
    unwatched: Vec<StreamId>,
    pub(crate) listeners: Listeners,
    pub(crate) wakes: Arc<Wakes>,
    /// What peers bring about is logged through it.
    pub(crate) log: LogLimit,
    pub(crate) bell: Arc<Bell>,
    pub(crate) bell_watch: Watch,
    spin: Spin,
    pub(crate) completions: Vec<Completion>,
    to_arm: Vec<StreamId>,
    overdue_after: Duration,
    overdue_seen_at: Instant,
}

/// What the caller did since the turn began.
#[derive(Default)]
pub(crate) struct Did {
    /// Anything useful.
    pub(crate) work: bool,
    /// Received bytes, a completion or a message.
    pub(crate) receive: bool,
    /// Sent bytes.
    pub(crate) send: bool,
    /// Slept first.
    pub(crate) sleep: bool,
    /// Had file operations in flight when it began.
    pub(crate) awaited_file: bool,
}

impl Core {
    pub(crate) fn new(config: ReactorConfig, bell: Arc<Bell>) -> Result<Self, ReactorError> {
        let now = Instant::now();
        let limits = config.limits;
        let stats = Arc::new(ReactorStats::default());
        let arena = Arena::new(config.arena_bytes).map_err(ReactorError::Arena)?;
        stats::set(&stats.arena_bytes, arena.stats().bytes as u64);
        let driver = Driver::new(config.driver, &limits, &bell, &stats)?;
        let mut spin = SpinLimits {
            host: Duration::from_micros(config.spin_us_max.into()),
            file: Duration::from_micros(config.spin_file_us_max.into()),
        };
        if spin.host + spin.file > Duration::ZERO && quota::is_limited() {
            tracing::info!("a CPU quota applies, the reactor does not spin");
            spin = SpinLimits::NEVER;
        }
        let mut core = Self {
            now,
            accounted: now,
            driver,
            streams: Streams::new(limits.streams),
            files: Files::new(limits.files, limits.file_ops),
            arena,
            sockets: config.sockets,
            stats,
            did: Did::default(),
            backlog: VecDeque::with_capacity(limits.file_ops as usize),
            finished: Vec::new(),
            unwatched: Vec::new(),
            listeners: Listeners::default(),
            wakes: Wakes::new(bell.clone()),
            log: LogLimit::new(LOG_LINES_PER_SECOND),
            bell,
            bell_watch: Watch::default(),
            spin: Spin::new(spin, now),
            completions: Vec::with_capacity(1024),
            to_arm: Vec::with_capacity(limits.streams as usize),
            overdue_after: config.overdue_after,
            overdue_seen_at: now,
        };
        core.watch_bell()
            .map_err(|e| ReactorError::Wake(e.into()))?;
        Ok(core)
    }

    pub(crate) fn watch_bell(&mut self) -> rustix::io::Result<()> {
        let watch = &mut self.bell_watch;
        self.driver
            .watch(self.bell.fd(), Source::Bell, Direction::Read, watch)
    }

    /// Reads the clock and books the time since it was last read.
    pub(crate) fn begin_turn(&mut self) {
        let now = Instant::now();
        let did = mem::take(&mut self.did);
        let account = if did.work {
            &self.stats.busy_ns
        } else {
            &self.stats.spin_ns
        };
        stats::add(account, (now - self.accounted).as_nanos() as u64);
        if did.receive {
            // What a turn finds it finds at its start, or when it wakes.
            self.spin
                .note_arrival(self.now, did.sleep, did.awaited_file);
        }
        if did.receive || did.send {
            self.spin.note_work(now, did.send);
        }
        self.now = now;
        self.accounted = now;
        self.did.awaited_file = self.files.inflight() > 0;
        stats::add(&self.stats.turns, 1);
        self.publish();
    }

    /// Copies figures kept elsewhere to where other threads see them.
    fn publish(&mut self) {
        let arena = self.arena.stats();
        stats::set(&self.stats.arena_used_bytes, arena.used_bytes as u64);
        stats::set(
            &self.stats.arena_used_bytes_peak,
            arena.used_bytes_peak as u64,
        );
        stats::set(&self.stats.arena_refusals, arena.refusals);
        stats::set(&self.stats.streams, self.streams.open() as u64);
        stats::set(&self.stats.files, self.files.lent() as u64);
        stats::set(&self.stats.file_ops_inflight, self.files.inflight() as u64);
        if self.now.saturating_duration_since(self.overdue_seen_at) >= OVERDUE_PERIOD {
            self.overdue_seen_at = self.now;
            let (operations, bytes) = self.files.overdue(self.now, self.overdue_after);
            stats::set(&self.stats.file_ops_overdue, operations);
            stats::set(&self.stats.overdue_bytes, bytes);
        }
    }

    /// Whether nothing here makes an event without the kernel or another thread, and spinning does not pay.
    pub(crate) fn may_sleep(&mut self, until: Option<Instant>) -> bool {
        until.is_none_or(|t| t > self.now)
            && self.backlog.is_empty()
            && self.finished.is_empty()
            && self.unwatched.is_empty()
            && !self.listeners.list.iter().any(|l| l.is_due(self.now))
            && self.streams.is_drained()
            && !self.spin.pays(self.now, self.files.inflight() > 0)
    }

    /// Gives the kernel what is queued and takes what is done, without waiting.
    pub(crate) fn look(&mut self) {
        self.driver.poll(&mut self.completions);
    }

    /// Waits for the kernel or the bell. The watches are armed and the sleep is announced.
    pub(crate) fn sleep(&mut self, until: Option<Instant>) {
        let pauses = self
            .listeners
            .list
            .iter()
            .filter(|l| l.ready)
            .filter_map(|l| l.paused_until);
        let overdue = (self.files.inflight() > 0).then(|| self.now + OVERDUE_PERIOD);
        let wake_at = pauses.chain(until).chain(overdue).min();
        let timeout = wake_at.map(|t| t.saturating_duration_since(self.now));
        self.driver.sleep(timeout, &mut self.completions);
        self.bell.announce_awake();
        self.now = Instant::now();
        stats::add(
            &self.stats.sleep_ns,
            (self.now - self.accounted).as_nanos() as u64,
        );
        stats::add(&self.stats.wakes, 1);
        self.did.sleep = true;
        self.spin.note_wake();
        self.accounted = self.now;
    }

    /// Arms everything that may wake the thread.
    pub(crate) fn arm_all(&mut self) {
        let to_arm = &mut self.to_arm;
        self.streams
            .review(self.now, true, |verdict| match verdict {
                Verdict::Arm(id) | Verdict::Offer(id) => to_arm.push(id),
            });
        self.arm_streams();
        if let Err(error) = self.watch_bell() {
            tracing::error!(%error, "wake-up descriptor cannot be watched");
        }
    }

    fn arm_streams(&mut self) {
        while let Some(id) = self.to_arm.pop() {
            let Some(stream) = self.streams.stream_mut(id) else {
                continue;
            };
            let source = source_of(id);
            let armed = self.driver.watch(
                stream.fd.as_fd(),
                source,
                Direction::Read,
                &mut stream.watch,
            );
            if armed.is_err() {
                // Out of kernel memory or watches: the stream stays hot, which costs CPU and loses nothing.
                self.streams.heat(id);
            }
        }
    }

    /// Turns what the kernel reported, and what waited here, into events.
    pub(crate) fn collect<M>(&mut self, events: &mut Vec<Event<M>>) {
        let mut completions = mem::take(&mut self.completions);
        for completion in completions.drain(..) {
            self.handle_completion(completion, events);
        }
        self.completions = completions;
        for _ in 0..self.backlog.len() {
            let Some(index) = self.backlog.pop_front() else {
                break;
            };
            self.launch(index);
        }
        let finished = self.finished.drain(..);
        events.extend(finished.map(|(owner, done)| Event::FileDone { owner, done }));
        events.extend(self.unwatched.drain(..).map(Event::Writable));
        self.accept(events);
    }

    fn handle_completion<M>(&mut self, completion: Completion, events: &mut Vec<Event<M>>) {
        let Completion { token, result } = completion;
        match token.source() {
            Source::Nobody => {}
            Source::File(index) => self.handle_file_result(index, result, events),
            Source::Bell => {
                let watch = &mut self.bell_watch;
                self.driver
                    .note_fired(self.bell.fd(), Source::Bell, Direction::Read, watch);
                self.bell.silence();
            }
            Source::Listener(id) => {
                let Some(l) = self.listeners.list.iter_mut().find(|l| l.id.0 == id) else {
                    return;
                };
                let source = token.source();
                self.driver
                    .note_fired(l.fd.as_fd(), source, Direction::Read, &mut l.watch);
                l.ready = true;
            }
            Source::Stream(slot, generation) => {
                let Some(id) = self.streams.by_token(slot, generation, GENERATION_MASK) else {
                    return;
                };
                let Some(stream) = self.streams.stream_mut(id) else {
                    return;
                };
                let direction = token.direction();
                self.driver.note_fired(
                    stream.fd.as_fd(),
                    token.source(),
                    direction,
                    &mut stream.watch,
                );
                match direction {
                    Direction::Read => self.streams.heat(id),
                    Direction::Write if mem::take(&mut stream.wants_room) => {
                        events.push(Event::Writable(id));
                    }
                    Direction::Write => {}
                }
            }
        }
    }

    fn handle_file_result<M>(&mut self, index: u32, result: i32, events: &mut Vec<Event<M>>) {
        match self.files.handle_result(index, result) {
            Some(Step::Done(owner, done)) => {
                stats::add(&self.stats.file_ops, 1);
                events.push(Event::FileDone { owner, done });
            }
            Some(Step::Again) => self.launch(index),
            None => {}
        }
    }

    /// Starts an operation of the table, or keeps it for the next turn.
    pub(crate) fn launch(&mut self, index: u32) {
        match self.files.request(index) {
            Some((fd, request)) => {
                if !self.driver.start(index, fd, request) {
                    self.backlog.push_back(index);
                }
            }
            None => {
                if let Some(Step::Done(owner, done)) = self.files.finish_empty(index) {
                    stats::add(&self.stats.file_ops, 1);
                    self.finished.push((owner, done));
                }
            }
        }
    }

    /// Offers hot streams to the caller and arms those gone cold.
    pub(crate) fn offer<M>(&mut self, events: &mut Vec<Event<M>>) {
        let before = events.len();
        let to_arm = &mut self.to_arm;
        self.streams
            .review(self.now, false, |verdict| match verdict {
                Verdict::Offer(id) => events.push(Event::Readable(id)),
                Verdict::Arm(id) => to_arm.push(id),
            });
        stats::add(&self.stats.hot_tries, (events.len() - before) as u64);
        self.arm_streams();
    }

    /// The stream gets one `Writable` when its socket has room.
    pub(crate) fn want_room(&mut self, id: StreamId) {
        let Some(stream) = self.streams.stream_mut(id) else {
            return;
        };
        stream.wants_room = true;
        let fd = stream.fd.as_fd();
        let watched = self
            .driver
            .watch(fd, source_of(id), Direction::Write, &mut stream.watch);
        if watched.is_err() {
            stream.wants_room = false;
            self.unwatched.push(id);
        }
    }
}

/// How watches name a stream.
pub(crate) fn source_of(id: StreamId) -> Source {
    Source::Stream((id.0 & 0xffff_ffff) as u32, (id.0 >> 32) as u32)
}
