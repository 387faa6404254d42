//! The I/O side: turns block operations into file operations of the reactor.
//!
//! **Errors of a sync are final.** When `fdatasync` fails, the kernel has dropped the pages it could not write and
//! marked them clean: the next sync would succeed although the data is gone. So the first failed sync (or durable write
//! that failed for another reason than space) makes the device answer `Gone` to everything from then on, for good.
//! For the same reason one sync is in flight at a time, started after the writes it covers completed, and flushes
//! that come meanwhile share the next one; and without `O_DIRECT` a durable write is a write and such a sync, so that
//! nothing else collects the error.
//!
//! **A disk that was pulled.** The kernel leaves it open with no size: writes fail for want of space, and reads end at once.
//! So when an operation on a block device fails, its size is looked at, and without one the answer is `Gone`.
//!
//! **A full reactor.** An operation the reactor hands back waits in a FIFO and is tried again when another of this
//! queue completes. If none is in flight, no completion would come, and the operation is answered `Busy`.

use std::collections::VecDeque;
use std::fs::File;
use std::mem;

use sdk::block::{Geometry, IoError, IoResult, IoTag, Op, Queue, Submitted};
use sdk::buf::Payload;
use sdk::host::{FileDone, FileError, FileId, FileOp, Host};
use sdk::services::Level;
use units::BlockRange;

use crate::claim::Kind;
use crate::entries::{Entries, Entry, Step, Zero};
use crate::file::QueuePlace;
use crate::limits::{DEPTH, ERROR_LINES_MAX};
use crate::probe;

/// The completion number of the sync in flight; entries are numbered from 0.
const SYNC: u64 = u64::MAX;

/// What a queue has to know about its file.
pub(crate) struct QueueConfig {
    pub(crate) path: String,
    pub(crate) kind: Kind,
    /// Another descriptor of a block device, to ask for its size.
    pub(crate) disk: Option<File>,
    pub(crate) geometry: Geometry,
    pub(crate) direct: bool,
    /// Whether zeroing a range is worth trying.
    pub(crate) zeroes: bool,
    /// Whether deallocating a range is worth trying.
    pub(crate) holes: bool,
}

/// A file's queue.
pub(crate) struct FileQueue {
    file: FileId,
    config: QueueConfig,
    entries: Entries,
    /// Operations the reactor had no room for.
    backlog: VecDeque<(u64, FileOp)>,
    /// Operations the reactor has.
    in_host: usize,
    sync: Sync,
    done: VecDeque<(IoTag, IoResult)>,
    error_lines: u32,
    place: QueuePlace,
}

/// The sync in flight and the next one, as entries they complete.
#[derive(Default)]
struct Sync {
    in_flight: bool,
    covered: Vec<u64>,
    next: Vec<u64>,
}

impl FileQueue {
    pub(crate) fn new(file: FileId, config: QueueConfig, place: QueuePlace) -> Self {
        Self {
            file,
            config,
            entries: Entries::new(DEPTH),
            backlog: VecDeque::with_capacity(DEPTH + 1),
            in_host: 0,
            sync: Sync {
                in_flight: false,
                covered: Vec::with_capacity(DEPTH),
                next: Vec::with_capacity(DEPTH),
            },
            done: VecDeque::with_capacity(DEPTH),
            error_lines: 0,
            place,
        }
    }

    /// Gives a file operation to the reactor, or to the backlog.
    #[inline]
    fn send(&mut self, host: &mut dyn Host, user: u64, op: FileOp) {
        let op = if self.backlog.is_empty() {
            match host.submit_file(self.file, user, op) {
                Ok(()) => {
                    self.in_host += 1;
                    return;
                }
                Err(op) => op,
            }
        } else {
            op
        };
        self.backlog.push_back((user, op));
        self.give_up_backlog_if_stuck();
    }

    fn drain_backlog(&mut self, host: &mut dyn Host) {
        while let Some((user, op)) = self.backlog.pop_front() {
            match host.submit_file(self.file, user, op) {
                Ok(()) => self.in_host += 1,
                Err(op) => {
                    self.backlog.push_front((user, op));
                    break;
                }
            }
        }
        self.give_up_backlog_if_stuck();
    }

    fn give_up_backlog_if_stuck(&mut self) {
        if self.in_host > 0 {
            return;
        }
        while let Some((user, _)) = self.backlog.pop_front() {
            if user == SYNC {
                // Nobody would start the next one either.
                self.sync.covered.append(&mut self.sync.next);
                self.end_sync(Err(IoError::Busy));
            } else {
                self.complete(user, Err(IoError::Busy));
            }
        }
    }

    #[inline]
    fn complete(&mut self, number: u64, result: IoResult) {
        if let Some(entry) = self.entries.remove(number) {
            self.done.push_back((entry.tag, result));
        }
    }

    fn request_sync(&mut self, host: &mut dyn Host, number: u64) {
        self.sync.next.push(number);
        self.start_sync(host);
    }

    fn start_sync(&mut self, host: &mut dyn Host) {
        if self.sync.in_flight || self.sync.next.is_empty() {
            return;
        }
        mem::swap(&mut self.sync.covered, &mut self.sync.next);
        self.sync.in_flight = true;
        self.send(host, SYNC, FileOp::Sync);
    }

    fn end_sync(&mut self, result: Result<(), IoError>) {
        self.sync.in_flight = false;
        let mut covered = mem::take(&mut self.sync.covered);
        for number in covered.drain(..) {
            self.complete(number, result.map(|()| None));
        }
        // Back to where it was, empty, for its memory.
        self.sync.covered = covered;
    }

    fn handle_sync_done(&mut self, host: &mut dyn Host, result: Result<u32, FileError>) {
        let result = match result {
            Ok(_) if self.place.state().is_lost() => Err(IoError::Gone),
            Ok(_) => Ok(()),
            // It did not run, so it has collected no error either.
            Err(FileError::Cancelled) => Err(IoError::Aborted),
            Err(error) => {
                self.lose("fdatasync", error);
                Err(IoError::Gone)
            }
        };
        self.end_sync(result);
        self.start_sync(host);
    }

    /// Data that was written is not on the medium and nobody can say which: the end of the device.
    #[cold]
    fn lose(&mut self, what: &'static str, error: FileError) {
        if !self.place.state().is_lost() {
            self.place.state().set_lost();
            let path = &self.config.path;
            self.place.state().log(
                Level::Error,
                &format!(
                    "{path}: {what}: {error}: written data may be lost; the device is offline until it is opened again (bdev rescan)"
                ),
            );
        }
    }

    #[cold]
    fn log_error(&mut self, what: &'static str, range: BlockRange, error: FileError) {
        if self.error_lines < ERROR_LINES_MAX {
            self.error_lines += 1;
            let last = self.error_lines == ERROR_LINES_MAX;
            let (path, last) = (
                &self.config.path,
                if last { " (no more are logged)" } else { "" },
            );
            let line = format!("{path}: {what} of blocks {range}: {error}{last}");
            self.place.state().log(Level::Warn, &line);
        }
    }

    /// The semantic error for a failed operation on `range`.
    #[cold]
    fn io_error(&mut self, what: &'static str, range: BlockRange, error: FileError) -> IoError {
        let answer = match error {
            FileError::Cancelled => return IoError::Aborted,
            FileError::Gone => IoError::Gone,
            _ if self.has_vanished() => IoError::Gone,
            FileError::NoSpace => return IoError::NoSpace,
            FileError::Medium | FileError::NotSupported | FileError::Other(_) => {
                IoError::Medium(range)
            }
        };
        self.log_error(what, range, error);
        answer
    }

    /// Whether the disk below is gone although it is open.
    fn has_vanished(&self) -> bool {
        let size = |disk| probe::size_bytes(disk, Kind::BlockDevice);
        self.config
            .disk
            .as_ref()
            .is_some_and(|disk| size(disk).is_ok_and(|bytes| bytes == 0))
    }

    fn offset(&self, range: BlockRange) -> u64 {
        range.start.0 << self.config.geometry.block_size.shift()
    }

    fn len(&self, range: BlockRange) -> u64 {
        range.count.0 << self.config.geometry.block_size.shift()
    }

    /// The blocks of `range` from byte `moved` on.
    fn rest_of(&self, range: BlockRange, moved: u32) -> BlockRange {
        let done = u64::from(moved) >> self.config.geometry.block_size.shift();
        let done = done.min(range.count.0);
        BlockRange::new(range.start.0 + done, range.count.0 - done)
    }

    /// Where a transfer of which `moved` of `len` bytes are done goes on; `None` if it got nowhere. `O_DIRECT` goes on
    /// at whole blocks only.
    fn resume_at(&self, before: u32, moved: u32) -> Option<u32> {
        let reached = before.saturating_add(moved);
        let mask = match self.config.direct {
            true => self.config.geometry.block_size.bytes() - 1,
            false => 0,
        };
        let reached = reached & !mask;
        (reached > before).then_some(reached)
    }

    fn handle_read_done(
        &mut self,
        host: &mut dyn Host,
        number: u64,
        range: BlockRange,
        done: FileDone,
    ) {
        let FileOp::Read {
            offset,
            buf,
            filled,
        } = done.op
        else {
            return self.complete(number, Err(IoError::Medium(range)));
        };
        let moved = match done.result {
            Ok(moved) => moved,
            Err(error) => {
                let error = self.io_error("read", range, error);
                return self.complete(number, Err(error));
            }
        };
        if u64::from(filled) + u64::from(moved) >= buf.len() as u64 {
            return self.complete(number, Ok(Some(Payload::Buf(buf))));
        }
        match self.resume_at(filled, moved) {
            Some(filled) => {
                let op = FileOp::Read {
                    offset,
                    buf,
                    filled,
                };
                self.send(host, number, op);
            }
            // The file ends early: it was cut off behind our back.
            None => {
                let rest = self.rest_of(range, filled);
                let error = self.io_error("read past the end", rest, FileError::Medium);
                self.complete(number, Err(error));
            }
        }
    }

    fn handle_write_done(
        &mut self,
        host: &mut dyn Host,
        number: u64,
        range: BlockRange,
        sync: bool,
        done: FileDone,
    ) {
        let FileOp::Write {
            offset,
            buf,
            written,
            durable,
        } = done.op
        else {
            return self.complete(number, Err(IoError::Medium(range)));
        };
        let moved = match done.result {
            Ok(moved) => moved,
            Err(error) => {
                let lost = durable && !matches!(error, FileError::NoSpace | FileError::Cancelled);
                let mut answer = self.io_error("write", range, error);
                if lost {
                    self.lose("durable write", error);
                    answer = IoError::Gone;
                }
                return self.complete(number, Err(answer));
            }
        };
        if u64::from(written) + u64::from(moved) >= buf.len() as u64 {
            drop(buf);
            if sync {
                self.request_sync(host, number);
            } else {
                self.complete(number, Ok(None));
            }
            return;
        }
        match self.resume_at(written, moved) {
            Some(written) => {
                let op = FileOp::Write {
                    offset,
                    buf,
                    written,
                    durable,
                };
                self.send(host, number, op);
            }
            None => {
                let rest = self.rest_of(range, written);
                let error = self.io_error("write went nowhere", rest, FileError::Medium);
                self.complete(number, Err(error));
            }
        }
    }

    /// How to zero a range with what the file is not known to lack.
    fn zero_op(&self, zero: Zero) -> Option<FileOp> {
        let (offset, len) = (self.offset(zero.range), self.len(zero.range));
        let hole = || FileOp::PunchHole { offset, len };
        if zero.deallocate && self.config.holes {
            return Some(hole());
        }
        if self.config.zeroes {
            return Some(FileOp::ZeroRange { offset, len });
        }
        // A hole in a file reads as zeroes for certain; for a disk, deallocating must be wanted.
        (self.config.kind == Kind::File && self.config.holes).then(hole)
    }

    fn start_zero(&mut self, host: &mut dyn Host, number: u64, zero: Zero) {
        match self.zero_op(zero) {
            Some(op) => self.send(host, number, op),
            None => self.complete(number, Err(IoError::NotSupported)),
        }
    }

    fn handle_zero_done(&mut self, host: &mut dyn Host, number: u64, zero: Zero, done: FileDone) {
        match done.result {
            Ok(_) if zero.fua => self.request_sync(host, number),
            Ok(_) => self.complete(number, Ok(None)),
            Err(FileError::NotSupported) => {
                match done.op {
                    FileOp::PunchHole { .. } => self.config.holes = false,
                    _ => self.config.zeroes = false,
                }
                self.start_zero(host, number, zero);
            }
            Err(error) => {
                let error = self.io_error("write zeroes", zero.range, error);
                self.complete(number, Err(error));
            }
        }
    }

    fn handle_discard_done(&mut self, number: u64, range: BlockRange, done: &FileDone) {
        let result = match done.result {
            Ok(_) => Ok(None),
            Err(FileError::NotSupported) => {
                self.config.holes = false;
                Err(IoError::NotSupported)
            }
            Err(error) => Err(self.io_error("discard", range, error)),
        };
        self.complete(number, result);
    }

    /// What is wrong with an operation before it begins.
    fn refusal(&self, op: &Op) -> Option<IoError> {
        if self.place.state().is_lost() {
            return Some(IoError::Gone);
        }
        let (range, supported) = match op {
            Op::Read { range, buf } => (range, buf.is_some()),
            Op::Write { range, .. } => (range, true),
            Op::WriteZeroes { range, .. } => (range, self.config.zeroes || self.config.holes),
            Op::Discard { range } => (range, self.config.holes),
            Op::Flush => return None,
        };
        if !range.is_within(self.config.geometry.blocks) {
            return Some(IoError::OutOfRange);
        }
        (!supported).then_some(IoError::NotSupported)
    }

    /// Begins an operation that was not refused.
    fn start(&mut self, host: &mut dyn Host, number: u64, op: Op) {
        match op {
            Op::Read {
                range,
                buf: Some(buf),
            } => {
                let op = FileOp::Read {
                    offset: self.offset(range),
                    buf,
                    filled: 0,
                };
                self.send(host, number, op);
            }
            Op::Read { buf: None, .. } => self.complete(number, Err(IoError::NotSupported)),
            Op::Write { range, buf, fua } => {
                let op = FileOp::Write {
                    offset: self.offset(range),
                    buf,
                    written: 0,
                    durable: fua && self.config.direct,
                };
                self.send(host, number, op);
            }
            Op::WriteZeroes {
                range,
                deallocate,
                fua,
            } => {
                let zero = Zero {
                    range,
                    deallocate,
                    fua,
                };
                self.start_zero(host, number, zero);
            }
            Op::Discard { range } => {
                let op = FileOp::PunchHole {
                    offset: self.offset(range),
                    len: self.len(range),
                };
                self.send(host, number, op);
            }
            Op::Flush => self.request_sync(host, number),
        }
    }
}

impl Queue for FileQueue {
    fn submit(&mut self, host: &mut dyn Host, tag: IoTag, op: Op) -> Submitted {
        if let Some(error) = self.refusal(&op) {
            return Submitted::Done(Err(error));
        }
        let step = match &op {
            Op::Read { range, .. } => Step::Read { range: *range },
            Op::Write { range, fua, .. } => Step::Write {
                range: *range,
                sync: *fua && !self.config.direct,
            },
            Op::WriteZeroes {
                range,
                deallocate,
                fua,
            } => Step::Zero(Zero {
                range: *range,
                deallocate: *deallocate,
                fua: *fua,
            }),
            Op::Discard { range } => Step::Discard { range: *range },
            Op::Flush => Step::Flush,
        };
        let Some(number) = self.entries.insert(Entry { tag, step }) else {
            return Submitted::Done(Err(IoError::Busy));
        };
        self.start(host, number, op);
        // Given up at once: no completion of the reactor would make the caller look for it.
        if self.in_host == 0
            && self.done.back().is_some_and(|(done, _)| *done == tag)
            && let Some((_, result)) = self.done.pop_back()
        {
            return Submitted::Done(result);
        }
        Submitted::Pending
    }

    fn handle_file_done(&mut self, host: &mut dyn Host, done: FileDone) {
        self.in_host = self.in_host.saturating_sub(1);
        let user = done.user;
        if user == SYNC {
            self.handle_sync_done(host, done.result);
        } else if let Some(entry) = self.entries.peek(user) {
            match entry.step {
                Step::Read { range } => self.handle_read_done(host, user, range, done),
                Step::Write { range, sync } => {
                    self.handle_write_done(host, user, range, sync, done);
                }
                Step::Zero(zero) => self.handle_zero_done(host, user, zero, done),
                Step::Discard { range } => self.handle_discard_done(user, range, &done),
                // A flush is completed by the sync that covers it.
                Step::Flush => {}
            }
        }
        if !self.backlog.is_empty() {
            self.drain_backlog(host);
        }
    }

    fn poll_completion(&mut self) -> Option<(IoTag, IoResult)> {
        self.done.pop_front()
    }

    fn set_geometry(&mut self, geometry: Geometry) {
        self.config.geometry = geometry;
    }

    fn close(&mut self, host: &mut dyn Host) {
        host.close_file(self.file);
    }
}
