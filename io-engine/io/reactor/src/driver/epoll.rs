//! Readiness by epoll, files by a pool of threads: for kernels and sandboxes without io_uring.
//!
//! Read watches are edge-triggered and stay in the set, so that re-arming costs no system call. That is enough for a
//! one-shot watch here, because its owner always tries until nothing is left before it relies on the watch again.
//! Write watches are switched on when wanted and off when they fired: a registered `EPOLLOUT` would be reported along with
//! every arrival.

use std::io;
use std::os::fd::{BorrowedFd, OwnedFd, RawFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::event::{Timespec, epoll};
use rustix::io::Errno;

use super::pool::Pool;
use super::{Completion, Direction, Source, Token, Watch};
use crate::config::Limits;
use crate::files::Request;
use crate::mailbox::Bell;
use crate::stats::{self, ReactorStats};

/// Events fetched in one call; more follow with the next.
const EVENTS_PER_WAIT: usize = 256;

/// While the reactor is not asleep, cold streams are asked for this often: late enough to cost little, soon enough to go
/// unnoticed beside a wake.
const LOOK_PERIOD: Duration = Duration::from_micros(20);

/// The epoll driver of one reactor.
pub(crate) struct Epoll {
    set: OwnedFd,
    events: Vec<epoll::Event>,
    looked_at: Instant,
    pool: Pool,
    stats: Arc<ReactorStats>,
}

impl Epoll {
    pub(crate) fn new(
        limits: &Limits,
        bell: Arc<Bell>,
        stats: Arc<ReactorStats>,
    ) -> io::Result<Self> {
        let set = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        let pool = Pool::start(limits.file_threads, limits.file_ops, bell)?;
        Ok(Self {
            set,
            events: Vec::with_capacity(EVENTS_PER_WAIT),
            looked_at: Instant::now(),
            pool,
            stats,
        })
    }

    fn control(
        &mut self,
        fd: BorrowedFd<'_>,
        source: Source,
        watch: &mut Watch,
        writes: bool,
    ) -> rustix::io::Result<()> {
        let mut flags = epoll::EventFlags::IN | epoll::EventFlags::RDHUP | epoll::EventFlags::ET;
        flags.set(epoll::EventFlags::OUT, writes);
        let data = epoll::EventData::new_u64(Token::new(source, Direction::Read).0);
        stats::add(&self.stats.syscalls.control, 1);
        if watch.registered {
            epoll::modify(&self.set, fd, data, flags)?;
        } else {
            epoll::add(&self.set, fd, data, flags)?;
        }
        *watch = Watch {
            read: true,
            write: writes,
            registered: true,
        };
        Ok(())
    }

    pub(crate) fn watch(
        &mut self,
        fd: BorrowedFd<'_>,
        source: Source,
        direction: Direction,
        watch: &mut Watch,
    ) -> rustix::io::Result<()> {
        match direction {
            Direction::Read if watch.read => Ok(()),
            Direction::Write if watch.write => Ok(()),
            Direction::Read => self.control(fd, source, watch, watch.write),
            Direction::Write => self.control(fd, source, watch, true),
        }
    }

    pub(crate) fn note_fired(
        &mut self,
        fd: BorrowedFd<'_>,
        source: Source,
        direction: Direction,
        watch: &mut Watch,
    ) {
        if direction == Direction::Write && watch.write {
            // Cannot fail for a registered descriptor; if it did, writability would be reported once too often.
            let _ = self.control(fd, source, watch, false);
        }
    }

    pub(crate) fn unwatch(&mut self, fd: BorrowedFd<'_>, _source: Source, watch: &mut Watch) {
        if watch.registered {
            stats::add(&self.stats.syscalls.control, 1);
            // Fails only if it is not in the set, which is what is wanted.
            let _ = epoll::delete(&self.set, fd);
        }
        *watch = Watch::default();
    }

    pub(crate) fn start(&mut self, index: u32, fd: RawFd, request: Request) -> bool {
        self.pool.start_request(index, fd, request);
        true
    }

    pub(crate) fn poll(&mut self, out: &mut Vec<Completion>) {
        self.pool.collect(out);
        let now = Instant::now();
        if now.saturating_duration_since(self.looked_at) >= LOOK_PERIOD {
            self.looked_at = now;
            self.wait(Some(Duration::ZERO), out);
        }
    }

    pub(crate) fn has_news(&self) -> bool {
        self.pool.has_results()
    }

    pub(crate) fn sleep(&mut self, timeout: Option<Duration>, out: &mut Vec<Completion>) {
        self.wait(timeout, out);
        self.looked_at = Instant::now();
        self.pool.collect(out);
    }

    fn wait(&mut self, timeout: Option<Duration>, out: &mut Vec<Completion>) {
        stats::add(&self.stats.syscalls.enter, 1);
        let timeout = timeout.map(round_up_to_ms);
        self.events.clear();
        let spare = rustix::buffer::spare_capacity(&mut self.events);
        match epoll::wait(&self.set, spare, timeout.as_ref()) {
            Ok(_) | Err(Errno::INTR) => {}
            // Only a broken descriptor or argument could cause this, and both are ours.
            Err(errno) => panic!("epoll_wait on the reactor's own set: {errno}"),
        }
        for event in &self.events {
            let token = Token(event.data.u64());
            let flags = event.flags;
            let failed = flags.intersects(epoll::EventFlags::ERR | epoll::EventFlags::HUP);
            if failed || flags.intersects(epoll::EventFlags::IN | epoll::EventFlags::RDHUP) {
                out.push(Completion { token, result: 0 });
            }
            if failed || flags.contains(epoll::EventFlags::OUT) {
                let token = Token::new(token.source(), Direction::Write);
                out.push(Completion { token, result: 0 });
            }
        }
    }

    pub(crate) fn cancel_all(&mut self) {
        self.pool.cancel_queued();
    }
}

/// `epoll_wait` before Linux 5.11 knows milliseconds only: a deadline is never reported early.
fn round_up_to_ms(timeout: Duration) -> Timespec {
    let ms = timeout
        .as_nanos()
        .div_ceil(1_000_000)
        .min(u128::from(u32::MAX >> 1)) as i64;
    Timespec {
        tv_sec: ms / 1000,
        tv_nsec: (ms % 1000 * 1_000_000) as _,
    }
}
