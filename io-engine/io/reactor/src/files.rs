//! Files lent to the reactor and the operations on them.
//!
//! Decides how an operation continues after the kernel moved fewer bytes than asked, and when it is done. How it
//! reaches the kernel is the driver's business.
//!
//! Invariants: an operation keeps its buffer from submission to completion; a descriptor stays open while an operation
//! on it is in flight; tables never grow.

use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::ptr::NonNull;
use std::time::{Duration, Instant};

use rustix::io::Errno;
use sdk::host::{FileDone, FileError, FileId, FileOp, OwnerId};

use crate::errno::file_error;

/// A read that ends on no multiple of this met the end of the file: storage is read in sectors.
const SECTOR_BYTES: u32 = 512;

/// One system call's worth of a file operation. Pointers are into the buffer of the operation it is part of.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Request {
    Read {
        ptr: NonNull<u8>,
        len: u32,
        offset: u64,
    },
    Write {
        ptr: NonNull<u8>,
        len: u32,
        offset: u64,
        durable: bool,
    },
    Sync,
    PunchHole {
        offset: u64,
        len: u64,
    },
    ZeroRange {
        offset: u64,
        len: u64,
    },
}

struct File {
    fd: OwnedFd,
    owner: OwnerId,
    inflight: u32,
    closing: bool,
}

struct FileSlot {
    generation: u16,
    file: Option<File>,
}

/// An operation the kernel may be working on.
struct InFlight {
    file: u16,
    owner: OwnerId,
    user: u64,
    op: FileOp,
    /// Bytes of the buffer that were moved before this submission.
    from: u32,
    since: Instant,
}

/// What follows from a completion.
pub(crate) enum Step {
    /// The operation continues; start it again.
    Again,
    /// It is done.
    Done(OwnerId, FileDone),
}

/// Both tables.
pub(crate) struct Files {
    files: Vec<FileSlot>,
    files_free: Vec<u16>,
    ops: Vec<Option<InFlight>>,
    ops_free: Vec<u32>,
}

impl Files {
    pub(crate) fn new(files: u32, ops: u32) -> Self {
        let slot = |_| FileSlot {
            generation: 1,
            file: None,
        };
        Self {
            files: (0..files).map(slot).collect(),
            files_free: (0..files).rev().map(|i| i as u16).collect(),
            ops: (0..ops).map(|_| None).collect(),
            ops_free: (0..ops).rev().collect(),
        }
    }

    /// Files lent.
    pub(crate) fn lent(&self) -> usize {
        self.files.len() - self.files_free.len()
    }

    /// Operations in flight.
    pub(crate) fn inflight(&self) -> usize {
        self.ops.len() - self.ops_free.len()
    }

    /// Takes in a file; `None` when the table is full.
    pub(crate) fn adopt(&mut self, fd: OwnedFd, owner: OwnerId) -> Option<FileId> {
        let index = self.files_free.pop()?;
        let slot = &mut self.files[index as usize];
        slot.file = Some(File {
            fd,
            owner,
            inflight: 0,
            closing: false,
        });
        Some(FileId(u32::from(slot.generation) << 16 | u32::from(index)))
    }

    fn file_mut(&mut self, id: FileId) -> Option<(u16, &mut File)> {
        let index = (id.0 & 0xffff) as u16;
        let slot = self.files.get_mut(index as usize)?;
        if u32::from(slot.generation) != id.0 >> 16 {
            return None;
        }
        slot.file.as_mut().map(|file| (index, file))
    }

    /// Closes a file, at once or after its last operation. A stale id is ignored.
    pub(crate) fn close(&mut self, id: FileId) {
        let Some((index, file)) = self.file_mut(id) else {
            return;
        };
        file.closing = true;
        self.reap(index);
    }

    /// Drops a closing file that nothing uses.
    fn reap(&mut self, index: u16) {
        let slot = &mut self.files[index as usize];
        if slot
            .file
            .as_ref()
            .is_some_and(|f| f.closing && f.inflight == 0)
        {
            slot.file = None;
            slot.generation = slot.generation.wrapping_add(1).max(1);
            self.files_free.push(index);
        }
    }

    /// Enters an operation into the table. Hands it back when there is no room or no such file.
    pub(crate) fn begin(
        &mut self,
        id: FileId,
        user: u64,
        op: FileOp,
        now: Instant,
    ) -> Result<u32, FileOp> {
        let Some(&index) = self.ops_free.last() else {
            return Err(op);
        };
        let (file, owner) = match self.file_mut(id) {
            Some((slot, file)) if !file.closing => {
                file.inflight += 1;
                (slot, file.owner)
            }
            _ => return Err(op),
        };
        self.ops_free.pop();
        let from = moved(&op);
        self.ops[index as usize] = Some(InFlight {
            file,
            owner,
            user,
            op,
            from,
            since: now,
        });
        Ok(index)
    }

    /// What to ask of the kernel next for operation `index`, and of which descriptor; `None` when nothing is left to
    /// move.
    pub(crate) fn request(&mut self, index: u32) -> Option<(RawFd, Request)> {
        let inflight = self.ops.get_mut(index as usize)?.as_mut()?;
        let fd = self.files[inflight.file as usize]
            .file
            .as_ref()?
            .fd
            .as_raw_fd();
        next_request(&mut inflight.op).map(|request| (fd, request))
    }

    /// The kernel answered `result` (bytes, or a negative error number) for operation `index`. `None` for an index that
    /// is not in flight.
    pub(crate) fn handle_result(&mut self, index: u32, result: i32) -> Option<Step> {
        let inflight = self.ops.get_mut(index as usize)?.as_mut()?;
        match advance(&mut inflight.op, result) {
            None => Some(Step::Again),
            Some(outcome) => self.finish(index, outcome),
        }
    }

    /// Ends an operation for which nothing was left to move.
    pub(crate) fn finish_empty(&mut self, index: u32) -> Option<Step> {
        self.finish(index, Ok(()))
    }

    fn finish(&mut self, index: u32, outcome: Result<(), FileError>) -> Option<Step> {
        let InFlight {
            file,
            owner,
            user,
            op,
            from,
            ..
        } = self.ops.get_mut(index as usize)?.take()?;
        self.ops_free.push(index);
        if let Some(f) = self.files[file as usize].file.as_mut() {
            f.inflight -= 1;
        }
        self.reap(file);
        let result = outcome.map(|()| moved(&op) - from);
        Some(Step::Done(owner, FileDone { user, result, op }))
    }

    /// Number of operations in flight for longer than `limit`, and the buffer bytes they hold.
    pub(crate) fn overdue(&self, now: Instant, limit: Duration) -> (u64, u64) {
        let late = |o: &&InFlight| now.saturating_duration_since(o.since) > limit;
        let held = |o: &InFlight| match &o.op {
            FileOp::Read { buf, .. } | FileOp::Write { buf, .. } => buf.capacity() as u64,
            FileOp::Sync | FileOp::PunchHole { .. } | FileOp::ZeroRange { .. } => 0,
        };
        self.ops
            .iter()
            .flatten()
            .filter(late)
            .fold((0, 0), |(n, bytes), o| (n + 1, bytes + held(o)))
    }
}

/// Bytes of the buffer moved so far.
fn moved(op: &FileOp) -> u32 {
    match op {
        FileOp::Read { buf, filled, .. } => (*filled).min(buf.len() as u32),
        FileOp::Write { buf, written, .. } => (*written).min(buf.len() as u32),
        FileOp::Sync | FileOp::PunchHole { .. } | FileOp::ZeroRange { .. } => 0,
    }
}

/// The part of a buffer after its first `done` bytes.
fn rest(buf: &mut [u8], done: u32) -> Option<(NonNull<u8>, u32)> {
    let tail = buf.get_mut(done as usize..).filter(|t| !t.is_empty())?;
    Some((NonNull::from(&mut *tail).cast(), tail.len() as u32))
}

fn next_request(op: &mut FileOp) -> Option<Request> {
    match op {
        FileOp::Read {
            offset,
            buf,
            filled,
        } => {
            let (ptr, len) = rest(buf, *filled)?;
            let offset = offset.saturating_add(u64::from(*filled));
            Some(Request::Read { ptr, len, offset })
        }
        FileOp::Write {
            offset,
            buf,
            written,
            durable,
        } => {
            let (ptr, len) = rest(buf, *written)?;
            let offset = offset.saturating_add(u64::from(*written));
            Some(Request::Write {
                ptr,
                len,
                offset,
                durable: *durable,
            })
        }
        FileOp::Sync => Some(Request::Sync),
        FileOp::PunchHole { offset, len } => Some(Request::PunchHole {
            offset: *offset,
            len: *len,
        }),
        FileOp::ZeroRange { offset, len } => Some(Request::ZeroRange {
            offset: *offset,
            len: *len,
        }),
    }
}

/// Notes what the kernel did. `None`: the operation goes on.
fn advance(op: &mut FileOp, result: i32) -> Option<Result<(), FileError>> {
    if result < 0 {
        return match Errno::from_raw_os_error(-result) {
            Errno::INTR | Errno::AGAIN => None,
            other => Some(Err(file_error(other.raw_os_error()))),
        };
    }
    let n = result as u32;
    match op {
        FileOp::Read { buf, filled, .. } => {
            *filled = filled.saturating_add(n).min(buf.len() as u32);
            // Nothing, or part of a sector: the end of the file. What was read is the answer.
            let at_end = n == 0 || !n.is_multiple_of(SECTOR_BYTES);
            (at_end || *filled as usize == buf.len()).then_some(Ok(()))
        }
        FileOp::Write { buf, written, .. } => {
            *written = written.saturating_add(n).min(buf.len() as u32);
            if *written as usize == buf.len() {
                return Some(Ok(()));
            }
            // A write that moves nothing and names no reason would be repeated for ever.
            (n == 0).then_some(Err(file_error(Errno::IO.raw_os_error())))
        }
        FileOp::Sync | FileOp::PunchHole { .. } | FileOp::ZeroRange { .. } => Some(Ok(())),
    }
}

#[cfg(test)]
mod tests;
