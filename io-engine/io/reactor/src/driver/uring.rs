//! io_uring: files, readiness and sleeping through one ring.
//!
//! Submissions are queued in memory and go to the kernel once a turn, together with the wait if there is one. The kernel is
//! entered only when something is queued, when it says that completions are ready to be run, or to sleep.
//!
//! Invariants: the ring is used by the thread that made it (`SINGLE_ISSUER`); completions are never lost (`NODROP`, and an
//! overflow is fetched as soon as it shows); memory behind requests is kept by `files::Files`.
#![expect(
    unsafe_code,
    reason = "queueing an entry vouches for the memory and descriptor it names"
)]

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, RawFd};
use std::sync::Arc;
use std::time::Duration;

use io_uring::types::{CancelBuilder, Fd, FsyncFlags, SubmitArgs, Timespec};
use io_uring::{EnterFlags, IoUring, Probe, opcode, squeue};
use rustix::io::Errno;

use super::{Completion, Direction, Source, Token, Watch};
use crate::config::Limits;
use crate::files::Request;
use crate::stats::{self, ReactorStats};

/// Entries the submission queue holds; when it is full it is handed over at once.
const SQ_ENTRIES: u32 = 1024;

/// File requests handed over together, at most. Of a longer batch the kernel prepares every request, some microseconds each,
/// before it tells the disk of the first (it plugs the queue for more than two); a disk that waits costs more than the
/// system calls saved.
const HELD_MAX: u32 = 2;

/// `POLLIN | POLLRDHUP` and `POLLOUT` of poll(2).
const POLL_READ: u32 = 0x0001 | 0x2000;
const POLL_WRITE: u32 = 0x0004;

/// `FALLOC_FL_KEEP_SIZE` with `FALLOC_FL_PUNCH_HOLE` or `FALLOC_FL_ZERO_RANGE` (fallocate(2)).
const PUNCH_HOLE: i32 = 0x01 | 0x02;
const ZERO_RANGE: i32 = 0x01 | 0x10;

/// `RWF_DSYNC` of pwritev2(2).
const RWF_DSYNC: i32 = 0x02;

/// How the kernel runs completions, best first.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum TaskRun {
    /// When the reactor asks (Linux 6.1).
    Deferred,
    /// At the next system call (Linux 5.19).
    Cooperative,
    /// By interrupting the thread.
    Interrupting,
}

/// Makes a ring with the best completion mode the kernel knows, and checks that it can do what the reactor needs.
fn build(sq: u32, cq: u32) -> io::Result<(IoUring, TaskRun)> {
    let mut result = Err(io::ErrorKind::Unsupported.into());
    for mode in [
        TaskRun::Deferred,
        TaskRun::Cooperative,
        TaskRun::Interrupting,
    ] {
        result = build_with(mode, sq, cq).map(|ring| (ring, mode));
        // An unknown flag is answered with EINVAL; anything else will not change with other flags.
        let retry =
            matches!(&result, Err(e) if e.raw_os_error() == Some(Errno::INVAL.raw_os_error()));
        if !retry {
            break;
        }
    }
    let (ring, mode) = result?;
    require(&ring)?;
    Ok((ring, mode))
}

/// What `build` makes of the largest sizes the kernel has the memory for. A smaller ring enters the kernel more often, and what
/// exceeds its completion queue waits in the kernel; nothing else differs.
fn largest<T>(cq: u32, mut build: impl FnMut(u32, u32) -> io::Result<T>) -> io::Result<T> {
    let sizes = [
        (SQ_ENTRIES, cq),
        (SQ_ENTRIES, 2 * SQ_ENTRIES),
        (256, 512),
        (64, 128),
    ];
    let mut result = Err(io::ErrorKind::OutOfMemory.into());
    for (entries, completions) in sizes {
        result = build(entries, completions);
        match &result {
            Err(error) if error.kind() == io::ErrorKind::OutOfMemory => {}
            Ok(_) if (entries, completions) != sizes[0] => {
                tracing::warn!(
                    entries,
                    completions,
                    fix = "raise the limit of locked memory (LimitMEMLOCK=, ulimit -l)",
                    "io_uring is smaller than it should be: the kernel has no memory for more"
                );
                break;
            }
            Ok(_) | Err(_) => break,
        }
    }
    result
}

fn build_with(mode: TaskRun, sq: u32, cq: u32) -> io::Result<IoUring> {
    let mut builder = IoUring::builder();
    builder.dontfork().setup_clamp().setup_cqsize(cq);
    match mode {
        TaskRun::Deferred => {
            builder.setup_single_issuer().setup_defer_taskrun();
            builder.setup_taskrun_flag().setup_submit_all();
        }
        TaskRun::Cooperative => {
            builder
                .setup_coop_taskrun()
                .setup_taskrun_flag()
                .setup_submit_all();
        }
        TaskRun::Interrupting => {}
    }
    builder.build(sq)
}

/// Refuses a ring of a kernel too old for what the reactor relies on (all in Linux 5.11).
fn require(ring: &IoUring) -> io::Result<()> {
    let params = ring.params();
    let mut known = Probe::new();
    ring.submitter().register_probe(&mut known)?;
    let codes = [
        opcode::Read::CODE,
        opcode::Write::CODE,
        opcode::Fsync::CODE,
        opcode::Fallocate::CODE,
        opcode::PollAdd::CODE,
        opcode::AsyncCancel::CODE,
    ];
    let is_enough = params.is_feature_nodrop()
        && params.is_feature_ext_arg()
        && params.is_feature_submit_stable()
        && codes.iter().all(|&code| known.is_supported(code));
    if is_enough {
        Ok(())
    } else {
        Err(io::ErrorKind::Unsupported.into())
    }
}

/// Tries a small ring, for [`crate::probe`].
pub(crate) fn probe_ring() -> io::Result<TaskRun> {
    build(4, 8).map(|(_, mode)| mode)
}

/// The io_uring driver of one reactor.
pub(crate) struct Uring {
    ring: IoUring,
    /// File requests that are queued and not handed over.
    held: u32,
    /// File requests not answered yet.
    requests: u32,
    stats: Arc<ReactorStats>,
}

impl Uring {
    pub(crate) fn new(limits: &Limits, stats: Arc<ReactorStats>) -> io::Result<Self> {
        // Two watches a stream and one completion an operation can be outstanding, though hardly all at once; what exceeds
        // the queue is kept by the kernel and fetched by the overflow path.
        let cq = (limits.file_ops + limits.streams)
            .next_power_of_two()
            .clamp(2 * SQ_ENTRIES, 1 << 15);
        let (ring, mode) = largest(cq, build)?;
        tracing::debug!(?mode, cq, "io_uring set up");
        Ok(Self::over(ring, stats))
    }

    fn over(ring: IoUring, stats: Arc<ReactorStats>) -> Self {
        Self {
            ring,
            held: 0,
            requests: 0,
            stats,
        }
    }

    /// Queues an entry, handing over the queue first if it is full. `false` if the kernel takes no more for the moment.
    ///
    /// # Safety
    /// Memory and descriptor named by `entry` stay valid until its completion.
    #[inline]
    unsafe fn push(&mut self, entry: &squeue::Entry) -> bool {
        // SAFETY: passed on to the caller.
        if unsafe { self.ring.submission().push(entry) }.is_ok() {
            return true;
        }
        self.enter(None);
        // SAFETY: passed on to the caller.
        unsafe { self.ring.submission().push(entry) }.is_ok()
    }

    pub(crate) fn watch(
        &mut self,
        fd: BorrowedFd<'_>,
        source: Source,
        direction: Direction,
        watch: &mut Watch,
    ) -> rustix::io::Result<()> {
        let (armed, events) = match direction {
            Direction::Read => (&mut watch.read, POLL_READ),
            Direction::Write => (&mut watch.write, POLL_WRITE),
        };
        if *armed {
            return Ok(());
        }
        let entry = opcode::PollAdd::new(Fd(fd.as_raw_fd()), events)
            .build()
            .user_data(Token::new(source, direction).0);
        // SAFETY: no memory is named. A descriptor that is closed before the queue is handed over makes the kernel watch
        // a stranger or nothing, and `unwatch`, queued behind, ends that; the token then names nobody.
        *armed = unsafe { self.push(&entry) };
        if *armed { Ok(()) } else { Err(Errno::BUSY) }
    }

    pub(crate) fn note_fired(
        &mut self,
        _fd: BorrowedFd<'_>,
        _source: Source,
        direction: Direction,
        watch: &mut Watch,
    ) {
        match direction {
            Direction::Read => watch.read = false,
            Direction::Write => watch.write = false,
        }
    }

    /// An armed watch holds the socket open in the kernel: without removing it the peer would not see us close.
    /// It is cancelled rather than removed: removal gives up on a watch that has just been woken, and if what woke it has been
    /// received meanwhile, the watch would be armed again.
    pub(crate) fn unwatch(&mut self, _fd: BorrowedFd<'_>, source: Source, watch: &mut Watch) {
        for (armed, direction) in [
            (watch.read, Direction::Read),
            (watch.write, Direction::Write),
        ] {
            if armed {
                let entry = opcode::AsyncCancel::new(Token::new(source, direction).0)
                    .build()
                    .user_data(Token::new(Source::Nobody, Direction::Read).0);
                // SAFETY: the entry names neither memory nor descriptor.
                if !unsafe { self.push(&entry) } {
                    tracing::warn!(
                        "watch of a closed socket could not be removed; it ends with the peer"
                    );
                }
            }
        }
        *watch = Watch::default();
    }

    #[inline]
    pub(crate) fn start(&mut self, index: u32, fd: RawFd, request: Request) -> bool {
        let fd = Fd(fd);
        let entry = match request {
            Request::Read { ptr, len, offset } => opcode::Read::new(fd, ptr.as_ptr(), len)
                .offset(offset)
                .build(),
            Request::Write {
                ptr,
                len,
                offset,
                durable,
            } => {
                let flags = if durable { RWF_DSYNC } else { 0 };
                opcode::Write::new(fd, ptr.as_ptr(), len)
                    .offset(offset)
                    .rw_flags(flags)
                    .build()
            }
            Request::Sync => opcode::Fsync::new(fd).flags(FsyncFlags::DATASYNC).build(),
            Request::PunchHole { offset, len } => opcode::Fallocate::new(fd, len)
                .offset(offset)
                .mode(PUNCH_HOLE)
                .build(),
            Request::ZeroRange { offset, len } => opcode::Fallocate::new(fd, len)
                .offset(offset)
                .mode(ZERO_RANGE)
                .build(),
        };
        let entry = entry.user_data(Token::new(Source::File(index), Direction::Read).0);
        // SAFETY: `files::Files` keeps the buffer behind the pointer, untouched, and the descriptor open until the
        // completion of operation `index` (a reactor that ends with operations in flight leaks both).
        let pushed = unsafe { self.push(&entry) };
        if pushed {
            self.held += 1;
            self.requests += 1;
            if self.held == HELD_MAX {
                self.enter(None);
            }
        }
        pushed
    }

    #[inline]
    pub(crate) fn poll(&mut self, out: &mut Vec<Completion>) {
        let queue = self.ring.submission();
        let has_work = !queue.is_empty() || queue.taskrun() || queue.cq_overflow();
        drop(queue);
        if has_work {
            self.enter(None);
        }
        self.reap(out);
    }

    pub(crate) fn sleep(&mut self, timeout: Option<Duration>, out: &mut Vec<Completion>) {
        if !self.ring.completion().is_empty() {
            return self.poll(out);
        }
        self.enter(Some(timeout));
        self.reap(out);
    }

    pub(crate) fn holds_requests(&self) -> bool {
        self.held > 0
    }

    /// Hands over the queue, runs completions, and with `wait` waits for one.
    fn enter(&mut self, wait: Option<Option<Duration>>) {
        stats::add(&self.stats.syscalls.enter, 1);
        self.held = 0;
        let result = match wait {
            None => self.ring.submitter().submit(),
            Some(timeout) => self.wait(timeout),
        };
        let Err(error) = result else { return };
        match error.raw_os_error().map(Errno::from_raw_os_error) {
            // Time is up; a signal; the kernel wants completions reaped or memory freed first: what is queued stays queued.
            Some(Errno::TIME | Errno::INTR | Errno::BUSY | Errno::AGAIN | Errno::NOMEM) => {}
            _ => panic!("io_uring_enter on the reactor's own ring: {error}"),
        }
    }

    /// Hands over the queue and waits for one completion.
    fn wait(&mut self, timeout: Option<Duration>) -> io::Result<usize> {
        let queued = self.ring.submission().len() as u32;
        let mut flags = EnterFlags::GETEVENTS | EnterFlags::EXT_ARG;
        // Armed watches are requests to the kernel, and an idle thread waiting for them would show as 100 % iowait. Waiting
        // for files is what that figure is for, and keeps the CPU from sleeping too deeply.
        if self.requests == 0 && self.ring.params().is_feature_no_iowait() {
            flags |= EnterFlags::NO_IOWAIT;
        }
        let limit = timeout.map(|t| Timespec::new().sec(t.as_secs()).nsec(t.subsec_nanos()));
        let mut args = SubmitArgs::new();
        if let Some(limit) = &limit {
            args = args.timespec(limit);
        }
        // SAFETY: with `EXT_ARG` the kernel reads one `SubmitArgs` and the time it points to, both alive during the call.
        // What the queued entries name is vouched for where they were pushed.
        unsafe {
            self.ring
                .submitter()
                .enter(queued, 1, flags.bits(), Some(&args))
        }
    }

    #[inline]
    fn reap(&mut self, out: &mut Vec<Completion>) {
        for cqe in self.ring.completion() {
            let token = Token(cqe.user_data());
            if let Source::File(_) = token.source() {
                self.requests -= 1;
            }
            out.push(Completion {
                token,
                result: cqe.result(),
            });
        }
    }

    pub(crate) fn cancel_all(&mut self) {
        let entry = opcode::AsyncCancel2::new(CancelBuilder::any().all())
            .build()
            .user_data(Token::new(Source::Nobody, Direction::Read).0);
        // SAFETY: the entry names neither memory nor descriptor. Kernels before 5.19 refuse it, and then requests are
        // waited for.
        unsafe { self.push(&entry) };
    }
}

#[cfg(test)]
mod tests;
