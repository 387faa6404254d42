//! A reactor for tests: does file operations on the spot with plain system calls, and whatever faults it is told to.
//!
//! Plugin authors drive their queues with it; it needs no ring, thread or clock. Time stands still until
//! [`TestHost::advance`].

use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, IoSlice, IoSliceMut};
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt;
use std::time::{Duration, Instant};

use rustix::fs::{FallocateFlags, fallocate};
use rustix::io::Errno;
use sdk::buf::Buf;
use sdk::host::{
    FileDone, FileError, FileId, FileOp, Host, HostError, OwnerId, StreamError, StreamId,
};

use crate::random::Random;

/// Most files a [`TestHost`] takes.
pub const FILES_MAX: usize = 64;

/// Something that can drive a queue: a [`TestHost`], or a real reactor in the engine's own tests.
pub trait Driven {
    /// The operations lent to the queue.
    fn host(&mut self) -> &mut dyn Host;

    /// The owner for which completions are collected.
    fn owner(&self) -> OwnerId;

    /// Waits for the next file completion of [`Driven::owner`]; `None` if none can come or none came in a long time.
    fn next_file_done(&mut self) -> Option<FileDone>;

    /// Lets time pass until `at`, which a queue waits for.
    fn wait_until(&mut self, at: Instant) {
        std::thread::sleep(at.saturating_duration_since(Instant::now()));
    }
}

/// The test reactor.
pub struct TestHost {
    now: Instant,
    files: Vec<Option<(File, OwnerId)>>,
    done: VecDeque<(OwnerId, FileDone)>,
    faults: Faults,
    order: Option<Random>,
    counts: Counts,
}

/// What goes wrong on purpose.
#[derive(Default)]
struct Faults {
    errors: VecDeque<FileError>,
    refusals: usize,
    move_max: Option<usize>,
    buffer_max: Option<usize>,
}

/// Operations a [`TestHost`] has done, by kind.
#[derive(Clone, Copy, Default, Debug, PartialEq, Eq)]
pub struct Counts {
    /// Reads.
    pub reads: usize,
    /// Writes.
    pub writes: usize,
    /// Writes that had to be durable.
    pub durable_writes: usize,
    /// Syncs.
    pub syncs: usize,
    /// Holes punched.
    pub holes: usize,
    /// Ranges zeroed.
    pub zeroes: usize,
}

impl Default for TestHost {
    fn default() -> Self {
        Self::new()
    }
}

impl TestHost {
    /// A host without files whose time is that of its making.
    pub fn new() -> Self {
        Self {
            now: Instant::now(),
            files: Vec::new(),
            done: VecDeque::new(),
            faults: Faults::default(),
            order: None,
            counts: Counts::default(),
        }
    }

    /// Moves time on.
    pub fn advance(&mut self, by: Duration) {
        self.now += by;
    }

    /// Completes operations in an order drawn from `seed`, not in that of submission.
    pub fn shuffle(&mut self, seed: u64) {
        self.order = Some(Random::new(seed));
    }

    /// Fails the next operation that is not already to fail, without doing it.
    pub fn fail_next(&mut self, error: FileError) {
        self.faults.errors.push_back(error);
    }

    /// Hands the next `count` operations back, as a reactor whose table is full does.
    pub fn refuse_next(&mut self, count: usize) {
        self.faults.refusals = count;
    }

    /// Moves at most `bytes` (at least 1) in each read and write, or any number again.
    pub fn limit_moves(&mut self, bytes: Option<usize>) {
        self.faults.move_max = bytes.map(|bytes| bytes.max(1));
    }

    /// Has no buffers to give (`true`), or has them again.
    pub fn withhold_buffers(&mut self, withhold: bool) {
        self.limit_buffers(withhold.then_some(0));
    }

    /// Has no buffers longer than so many bytes; `None` ends the limit.
    pub fn limit_buffers(&mut self, bytes: Option<usize>) {
        self.faults.buffer_max = bytes;
    }

    /// Operations done so far.
    pub fn counts(&self) -> Counts {
        self.counts
    }

    /// Files that are open.
    pub fn open_files(&self) -> usize {
        self.files.iter().flatten().count()
    }

    /// The next completion and whose it is.
    pub fn poll_file_done(&mut self) -> Option<(OwnerId, FileDone)> {
        let at = match &mut self.order {
            None => 0,
            Some(order) => order.below(self.done.len() as u64) as usize,
        };
        self.done.remove(at)
    }

    fn execute(&mut self, file: usize, op: &mut FileOp) -> Result<u32, FileError> {
        if let Some(error) = self.faults.errors.pop_front() {
            return Err(error);
        }
        let Some(Some((file, _))) = self.files.get(file) else {
            return Err(FileError::Cancelled);
        };
        let move_max = self.faults.move_max.unwrap_or(usize::MAX);
        let moved = match op {
            FileOp::Read {
                offset,
                buf,
                filled,
            } => {
                self.counts.reads += 1;
                let start = *filled as usize;
                let end = buf.len().min(start.saturating_add(move_max));
                file.read_at(&mut buf[start..end], *offset + start as u64)
            }
            FileOp::Write {
                offset,
                buf,
                written,
                durable,
            } => {
                self.counts.writes += 1;
                let start = *written as usize;
                let end = buf.len().min(start.saturating_add(move_max));
                let moved = file.write_at(&buf[start..end], *offset + start as u64);
                if *durable {
                    self.counts.durable_writes += 1;
                    moved.and_then(|moved| file.sync_data().map(|()| moved))
                } else {
                    moved
                }
            }
            FileOp::Sync => {
                self.counts.syncs += 1;
                file.sync_data().map(|()| 0)
            }
            FileOp::PunchHole { offset, len } => {
                self.counts.holes += 1;
                let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
                fallocate(file, flags, *offset, *len)
                    .map(|()| 0)
                    .map_err(io::Error::from)
            }
            FileOp::ZeroRange { offset, len } => {
                self.counts.zeroes += 1;
                let flags = FallocateFlags::ZERO_RANGE | FallocateFlags::KEEP_SIZE;
                fallocate(file, flags, *offset, *len)
                    .map(|()| 0)
                    .map_err(io::Error::from)
            }
        };
        moved
            .map(|moved| u32::try_from(moved).unwrap_or(u32::MAX))
            .map_err(|error| file_error(&error))
    }
}

/// The semantic error for a failed system call, as every reactor maps it.
pub fn file_error(error: &io::Error) -> FileError {
    let errno = error.raw_os_error().unwrap_or(0);
    match Errno::from_raw_os_error(errno) {
        Errno::IO | Errno::ILSEQ | Errno::NODATA | Errno::UCLEAN => FileError::Medium,
        Errno::NOSPC | Errno::DQUOT | Errno::FBIG => FileError::NoSpace,
        Errno::NODEV | Errno::NXIO => FileError::Gone,
        Errno::OPNOTSUPP | Errno::INVAL => FileError::NotSupported,
        Errno::CANCELED => FileError::Cancelled,
        _ => FileError::Other(errno),
    }
}

impl Driven for TestHost {
    fn host(&mut self) -> &mut dyn Host {
        self
    }

    fn owner(&self) -> OwnerId {
        OwnerId(1)
    }

    fn next_file_done(&mut self) -> Option<FileDone> {
        self.poll_file_done().map(|(_, done)| done)
    }

    fn wait_until(&mut self, at: Instant) {
        self.now = self.now.max(at);
    }
}

impl Host for TestHost {
    fn now(&self) -> Instant {
        self.now
    }

    fn alloc(&mut self, len: usize) -> Option<Buf> {
        let max = self.faults.buffer_max.unwrap_or(1 << 20);
        (len <= max).then(|| Buf::from_heap(len))
    }

    fn adopt_file(&mut self, fd: OwnedFd, owner: OwnerId) -> Result<FileId, HostError> {
        if self.files.len() >= FILES_MAX {
            return Err(HostError::TooMany);
        }
        self.files.push(Some((File::from(fd), owner)));
        Ok(FileId(self.files.len() as u32 - 1))
    }

    fn close_file(&mut self, file: FileId) {
        if let Some(slot) = self.files.get_mut(file.0 as usize) {
            *slot = None;
        }
    }

    fn submit_file(&mut self, file: FileId, user: u64, mut op: FileOp) -> Result<(), FileOp> {
        let Some(Some((_, owner))) = self.files.get(file.0 as usize) else {
            return Err(op);
        };
        if self.faults.refusals > 0 {
            self.faults.refusals -= 1;
            return Err(op);
        }
        let owner = *owner;
        let result = self.execute(file.0 as usize, &mut op);
        self.done.push_back((owner, FileDone { user, result, op }));
        Ok(())
    }

    fn recv(&mut self, _: StreamId, _: &mut [IoSliceMut<'_>]) -> Result<usize, StreamError> {
        Err(StreamError::Closed)
    }

    fn send(&mut self, _: StreamId, _: &[IoSlice<'_>]) -> Result<usize, StreamError> {
        Err(StreamError::Closed)
    }

    fn pause_stream(&mut self, _: StreamId, _: bool) {}

    fn end_stream(&mut self, _: StreamId) {}

    fn close_stream(&mut self, _: StreamId) {}

    fn detach_stream(&mut self, _: StreamId) -> Option<OwnedFd> {
        None
    }

    fn attach_stream(&mut self, _: OwnedFd) -> Result<StreamId, HostError> {
        Err(HostError::TooMany)
    }
}
