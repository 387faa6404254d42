//! Threads that do blocking file calls for the epoll driver.
//!
//! Invariants: the queue and the results never hold more than the reactor's operation table, so neither grows; each
//! started request yields exactly one result; a thread touches a buffer only between taking the request and giving its
//! result.
#![expect(
    unsafe_code,
    reason = "buffers and descriptors are lent to other threads for the time of one call"
)]

use std::collections::VecDeque;
use std::io;
use std::io::{IoSlice, IoSliceMut};
use std::os::fd::{BorrowedFd, RawFd};
use std::sync::atomic::{AtomicPtr, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;

use rustix::fs::FallocateFlags;
use rustix::io::{Errno, ReadWriteFlags};

use super::{Completion, Direction, Source, Token};
use crate::files::Request;
use crate::mailbox::Bell;

/// The buffer's part of a request in a form that may cross threads: an atomic pointer is `Send` and keeps its
/// provenance.
struct Span {
    ptr: AtomicPtr<u8>,
    len: usize,
}

enum Call {
    Read(Span, u64),
    Write(Span, u64, ReadWriteFlags),
    Sync,
    Allocate(FallocateFlags, u64, u64),
}

struct Job {
    index: u32,
    fd: RawFd,
    call: Call,
}

struct Queue {
    jobs: VecDeque<Job>,
    stopping: bool,
}

struct Shared {
    queue: Mutex<Queue>,
    filled: Condvar,
    results: Mutex<Vec<(u32, i32)>>,
    /// Length of `results`, readable without the lock.
    results_len: AtomicUsize,
    bell: Arc<Bell>,
}

/// A lock whose holder panicked is consistent all the same: every critical section is one push, pop or swap.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The threads of one reactor.
pub(crate) struct Pool {
    shared: Arc<Shared>,
}

impl Pool {
    /// Starts `threads` threads that ring `bell` for each result; at most `requests` are ever in flight.
    pub(crate) fn start(threads: u32, requests: u32, bell: Arc<Bell>) -> io::Result<Self> {
        let pool = Self {
            shared: Arc::new(Shared {
                queue: Mutex::new(Queue {
                    jobs: VecDeque::with_capacity(requests as usize),
                    stopping: false,
                }),
                filled: Condvar::new(),
                results: Mutex::new(Vec::with_capacity(requests as usize)),
                results_len: AtomicUsize::new(0),
                bell,
            }),
        };
        for _ in 0..threads {
            let shared = pool.shared.clone();
            // Detached on purpose: a thread that hangs in a call must not hang whoever ends the reactor.
            thread::Builder::new()
                .name("file-io".into())
                .spawn(move || shared.serve())?;
        }
        Ok(pool)
    }

    /// Queues a request. Always succeeds: the queue has room for the whole operation table.
    pub(crate) fn start_request(&self, index: u32, fd: RawFd, request: Request) {
        let span = |ptr: std::ptr::NonNull<u8>, len: u32| Span {
            ptr: AtomicPtr::new(ptr.as_ptr()),
            len: len as usize,
        };
        let hole = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        let zero = FallocateFlags::ZERO_RANGE | FallocateFlags::KEEP_SIZE;
        let call = match request {
            Request::Read { ptr, len, offset } => Call::Read(span(ptr, len), offset),
            Request::Write {
                ptr,
                len,
                offset,
                durable,
            } => {
                let flags = if durable {
                    ReadWriteFlags::DSYNC
                } else {
                    ReadWriteFlags::empty()
                };
                Call::Write(span(ptr, len), offset, flags)
            }
            Request::Sync => Call::Sync,
            Request::PunchHole { offset, len } => Call::Allocate(hole, offset, len),
            Request::ZeroRange { offset, len } => Call::Allocate(zero, offset, len),
        };
        lock(&self.shared.queue)
            .jobs
            .push_back(Job { index, fd, call });
        self.shared.filled.notify_one();
    }

    /// Whether results wait.
    pub(crate) fn has_results(&self) -> bool {
        self.shared.results_len.load(Ordering::Acquire) != 0
    }

    /// Appends all results.
    pub(crate) fn collect(&self, out: &mut Vec<Completion>) {
        if !self.has_results() {
            return;
        }
        let mut results = lock(&self.shared.results);
        self.shared.results_len.store(0, Ordering::Relaxed);
        out.extend(results.drain(..).map(|(index, result)| Completion {
            token: Token::new(Source::File(index), Direction::Read),
            result,
        }));
    }

    /// Answers every request no thread has taken yet with `ECANCELED`.
    pub(crate) fn cancel_queued(&self) {
        let mut queue = lock(&self.shared.queue);
        while let Some(job) = queue.jobs.pop_front() {
            self.shared
                .report(job.index, -Errno::CANCELED.raw_os_error());
        }
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        lock(&self.shared.queue).stopping = true;
        self.shared.filled.notify_all();
    }
}

impl Shared {
    /// A thread's life.
    fn serve(&self) {
        while let Some(job) = self.next_job() {
            let result = match perform(&job) {
                Ok(n) => i32::try_from(n).unwrap_or(i32::MAX),
                Err(errno) => -errno.raw_os_error(),
            };
            self.report(job.index, result);
            self.bell.ring();
        }
    }

    fn next_job(&self) -> Option<Job> {
        let mut queue = lock(&self.queue);
        loop {
            if let Some(job) = queue.jobs.pop_front() {
                return Some(job);
            }
            if queue.stopping {
                return None;
            }
            queue = self
                .filled
                .wait(queue)
                .unwrap_or_else(PoisonError::into_inner);
        }
    }

    fn report(&self, index: u32, result: i32) {
        let mut results = lock(&self.results);
        results.push((index, result));
        self.results_len.store(results.len(), Ordering::Release);
    }
}

/// Does the call a job asks for; bytes moved.
fn perform(job: &Job) -> rustix::io::Result<usize> {
    // SAFETY: the reactor's file table keeps the descriptor open while an operation on it is in flight, and this one is
    // until its result is reported.
    let fd = unsafe { BorrowedFd::borrow_raw(job.fd) };
    match &job.call {
        Call::Read(span, offset) => {
            let ptr = span.ptr.load(Ordering::Relaxed);
            // SAFETY: the reactor's operation table owns the buffer, touches it not, and keeps it until the result is
            // reported (or leaks it with the arena); its bytes are initialised. The queue's lock orders the two threads.
            let bytes = unsafe { std::slice::from_raw_parts_mut(ptr, span.len) };
            rustix::io::preadv(fd, &mut [IoSliceMut::new(bytes)], *offset)
        }
        Call::Write(span, offset, flags) => {
            let ptr = span.ptr.load(Ordering::Relaxed);
            // SAFETY: as for reading; nobody writes to the buffer while this operation owns it.
            let bytes = unsafe { std::slice::from_raw_parts(ptr, span.len) };
            let pieces = [IoSlice::new(bytes)];
            // Plain `pwritev` exists everywhere; the flag needs `pwritev2`.
            if flags.is_empty() {
                rustix::io::pwritev(fd, &pieces, *offset)
            } else {
                rustix::io::pwritev2(fd, &pieces, *offset, *flags)
            }
        }
        Call::Sync => rustix::fs::fdatasync(fd).map(|()| 0),
        Call::Allocate(mode, offset, len) => {
            rustix::fs::fallocate(fd, *mode, *offset, *len).map(|()| 0)
        }
    }
}
