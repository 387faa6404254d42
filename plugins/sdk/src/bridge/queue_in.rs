//! A queue behind a table: every completion is checked against what was asked.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use abi::*;
use units::BlockRange;

use super::clock::Clock;
use super::convert::{
    BadSegments, NO_DONE, error_in, extent_in, file_done_out, geometry_out, op_out, payload_in,
    range_out,
};
use super::guard::Faults;
use super::host_out::{Frame, keep};
use super::queue_out::QueueCell;
use super::slots::Slots;
use super::watch::{Mark, Watch};
use crate::block::{Extent, Geometry, IoError, IoResult, IoTag, Op, Queue, QueueSeed, Submitted};
use crate::buf::Payload;
use crate::host::{FileDone, Host, OwnerId, Waker};
use crate::services::{Level, Services};

/// Ends taken out in one call.
const BATCH: usize = 8;
/// Extents asked for in one call.
const EXTENTS_MAX: usize = 64;
/// Ends from other threads that wait for the reactor, at most; further ones are refused.
const MAILBOX_MAX: usize = 1 << 16;

/// What a table came with: whose it is, the engine's clock, where faults are counted and logged.
#[derive(Clone)]
pub(super) struct Origin {
    pub(super) name: Arc<str>,
    pub(super) clock: Clock,
    pub(super) faults: Arc<Faults>,
    pub(super) services: Option<Arc<dyn Services>>,
    pub(super) remotes: Option<Arc<Remotes>>,
    pub(super) watch: Arc<Watch>,
    /// The plugin is part of this program: its objects on reactors are used as they are, without tables between.
    pub(super) is_own: bool,
}

impl Origin {
    fn log(&self, line: &str) {
        if let Some(services) = &self.services {
            services.log(Level::Error, line);
        }
    }

    #[cold]
    pub(super) fn panicked(&self, object: &str) {
        if self.faults.note(&self.faults.panics) {
            self.log(&format!(
                "its {object} panicked and is offline until it is made again"
            ));
        }
    }

    #[cold]
    pub(super) fn bad_answer(&self, what: &str) {
        if self.faults.note(&self.faults.bad_answers) {
            self.log(&format!("answered what was not asked: {what}"));
        }
    }

    #[cold]
    fn unknown_completion(&self, tag: u64) {
        if self.faults.note(&self.faults.unknown_completions) {
            self.log(&format!(
                "completed operation {tag:#x}, which had ended or never begun; ignored"
            ));
        }
    }
}

/// Functions of a queue, checked to be there where they must be.
#[derive(Clone, Copy)]
struct Calls {
    table: IoeQueueTable,
    submit: unsafe extern "C" fn(
        *mut std::ffi::c_void,
        *const IoeHost,
        *const IoeOp,
        *mut IoeDone,
    ) -> i32,
    drop: unsafe extern "C" fn(*mut std::ffi::c_void),
}

/// A queue on its way to its reactor.
pub(super) struct RemoteSeed {
    raw: IoeQueue,
    calls: Calls,
    geometry: Geometry,
    origin: Origin,
    /// `false` once the queue took over.
    owns: bool,
}

// SAFETY: a queue that was not started may be moved between threads (contract of `IoeQueueTable`).
unsafe impl Send for RemoteSeed {}

impl RemoteSeed {
    /// The queue behind `raw`; `None` if its table lacks what every queue has.
    ///
    /// # Safety
    /// `raw` is what `queue_open` gave away.
    pub(super) unsafe fn new(raw: IoeQueue, geometry: Geometry, origin: Origin) -> Option<Self> {
        // SAFETY: the caller's; a table says how large it is.
        let table = unsafe { super::root::table_in(raw.table) }?;
        Some(Self {
            calls: Calls {
                submit: table.submit?,
                drop: table.drop?,
                table,
            },
            raw,
            geometry,
            origin,
            owns: true,
        })
    }
}

impl Drop for RemoteSeed {
    fn drop(&mut self) {
        if self.owns {
            // SAFETY: the queue is ours and was never started.
            unsafe { (self.calls.drop)(self.raw.context) }
        }
    }
}

impl QueueSeed for RemoteSeed {
    fn open(
        mut self: Box<Self>,
        host: &mut dyn Host,
        owner: OwnerId,
    ) -> Result<Box<dyn Queue>, IoError> {
        self.owns = false;
        if self.origin.is_own {
            // SAFETY: the queue is ours and was not started.
            if let Some(seed) = unsafe { QueueCell::take_back(&self.raw) } {
                return seed.open(host, owner);
            }
        }
        let mut queue = Box::new(RemoteQueue {
            raw: self.raw,
            clock: self.origin.clock,
            mark: self.origin.watch.mark("queue"),
            calls: self.calls,
            inbox: Inbox {
                slots: Slots::default(),
                done: VecDeque::new(),
                shift: self.geometry.block_size.shift(),
                origin: self.origin.clone(),
                remote: None,
            },
            timer: None,
            dead: false,
        });
        let Some(start) = queue.calls.table.start else {
            return Ok(queue);
        };
        // SAFETY: first call, on the queue's reactor.
        match queue.call(host, |context, host| unsafe {
            start(context, host, owner.0)
        }) {
            IOE_OK => Ok(queue),
            status => {
                Err(error_in(status, range_out(BlockRange::new(0, 0))).unwrap_or(IoError::Gone))
            }
        }
    }
}

/// Where a queue's ends arrive.
pub(super) struct Inbox {
    slots: Slots,
    done: VecDeque<(IoTag, IoResult)>,
    shift: u32,
    origin: Origin,
    remote: Option<Remote>,
}

impl Inbox {
    /// An end, by callback or taken out.
    ///
    /// # Safety
    /// The caller gives the buffer and the segments of `done` away.
    #[inline]
    pub(super) unsafe fn take(&mut self, done: &IoeDone) {
        let Some(entry) = self.slots.remove(done.tag) else {
            // Whose the buffer is nobody can say: it stays where it is.
            self.origin.unknown_completion(done.tag);
            return;
        };
        // SAFETY: the caller's.
        let result = unsafe { self.absorb(entry.range, entry.bytes, done) };
        self.done.push_back((entry.tag, result));
    }

    /// How an operation on `range` ended that is to bring `bytes`.
    ///
    /// # Safety
    /// As [`Inbox::take`].
    #[inline]
    unsafe fn absorb(&self, range: BlockRange, bytes: Option<u64>, done: &IoeDone) -> IoResult {
        // SAFETY: the caller's.
        let payload = unsafe { payload_in(&done.buf, done.segments, done.segment_count) };
        if done.status != IOE_OK {
            return Err(self.failure(range, done));
        }
        let Some(bytes) = bytes else {
            return Ok(None);
        };
        match payload {
            Ok(Some(payload)) if payload.len() as u64 == bytes => Ok(Some(payload)),
            Ok(payload) => {
                let got = payload.map_or(0, |payload| payload.len());
                Err(self.wrong_length(range, bytes, got))
            }
            Err(BadSegments) => Err(self.wrong_length(range, bytes, 0)),
        }
    }

    #[cold]
    fn failure(&self, range: BlockRange, done: &IoeDone) -> IoError {
        error_in(done.status, done.detail).unwrap_or_else(|| {
            let status = done.status;
            self.origin
                .bad_answer(&format!("status {status} for blocks {range}"));
            IoError::Medium(range)
        })
    }

    #[cold]
    fn wrong_length(&self, range: BlockRange, bytes: u64, got: usize) -> IoError {
        self.origin.bad_answer(&format!(
            "{got} bytes for a read of {bytes} (blocks {range})"
        ));
        IoError::Medium(range)
    }

    /// Ends that other threads announced. The buffers come back with them.
    fn take_announced(&mut self) {
        let Some(announced) = self.remote.as_ref().map(|remote| remote.mailbox.drain()) else {
            return;
        };
        for (tag, status) in announced {
            let Some(entry) = self.slots.remove(tag) else {
                self.origin.unknown_completion(tag);
                continue;
            };
            let done = IoeDone {
                status,
                tag,
                buf: entry.buf,
                ..NO_DONE
            };
            // SAFETY: the contract of `complete_from_any_thread` gives the operation's buffer back.
            let result = unsafe { self.absorb(entry.range, entry.bytes, &done) };
            self.done.push_back((entry.tag, result));
        }
    }

    /// The handle by which other threads reach this queue.
    pub(super) fn remote(&mut self, waker: Waker) -> u64 {
        if let Some(remote) = &self.remote {
            return remote.number;
        }
        let Some(remotes) = &self.origin.remotes else {
            return 0;
        };
        let remote = remotes.register(waker);
        let number = remote.number;
        self.remote = Some(remote);
        number
    }
}

/// A queue behind a table, on its reactor.
struct RemoteQueue {
    raw: IoeQueue,
    clock: Clock,
    mark: Arc<Mark>,
    calls: Calls,
    inbox: Inbox,
    timer: Option<Instant>,
    dead: bool,
}

impl RemoteQueue {
    /// Calls into the plugin; a panic there is the end of the queue.
    #[inline]
    fn call(
        &mut self,
        host: &mut dyn Host,
        call: impl FnOnce(*mut std::ffi::c_void, *const IoeHost) -> i32,
    ) -> i32 {
        let context = self.raw.context;
        let frame = Frame {
            host,
            clock: &self.clock,
            timer: &mut self.timer,
            inbox: Some(&mut self.inbox),
        };
        self.mark.enter();
        let status = frame.lend(|host| call(context, host));
        self.mark.leave();
        if status == IOE_PANICKED || status == -IOE_PANICKED {
            self.die();
        }
        status
    }

    /// Answers everything in flight with `Gone`. Buffers stay with the plugin, whose code may still point to them.
    #[cold]
    fn die(&mut self) {
        if self.dead {
            return;
        }
        self.dead = true;
        self.timer = None;
        self.inbox.origin.panicked("queue");
        let slots = &mut self.inbox.slots;
        for at in 0..slots.entries.len() {
            if slots.entries[at].live {
                slots.entries[at].live = false;
                slots.free.push(at as u32);
                let tag = slots.entries[at].tag;
                self.inbox.done.push_back((tag, Err(IoError::Gone)));
            }
        }
    }

    fn take_batch(&mut self) {
        let Some(poll) = self.calls.table.poll else {
            return;
        };
        let mut dones = [NO_DONE; BATCH];
        self.mark.enter();
        // SAFETY: room for `BATCH` ends, lent for the call.
        let taken = unsafe { poll(self.raw.context, dones.as_mut_ptr(), BATCH as u32) };
        self.mark.leave();
        if taken < 0 {
            self.die();
            return;
        }
        if taken as usize > BATCH {
            self.inbox.origin.bad_answer(&format!(
                "{taken} ends in room for {BATCH}; the rest cannot be there"
            ));
        }
        for done in dones.iter().take(taken as usize) {
            // SAFETY: the plugin gives away what the ends hold; segments are valid until the next call.
            unsafe { self.inbox.take(done) };
        }
    }
}

impl Queue for RemoteQueue {
    #[inline]
    fn submit(&mut self, host: &mut dyn Host, tag: IoTag, op: Op) -> Submitted {
        if self.dead {
            return Submitted::Done(Err(IoError::Gone));
        }
        let (range, bytes) = match &op {
            Op::Read { range, .. } => (*range, Some(range.count.0 << self.inbox.shift)),
            Op::Write { range, .. } | Op::WriteZeroes { range, .. } | Op::Discard { range } => {
                (*range, None)
            }
            Op::Flush => (BlockRange::new(0, 0), None),
        };
        let Some(number) = self.inbox.slots.insert(tag, range, bytes) else {
            return Submitted::Done(Err(IoError::Busy));
        };
        let raw = op_out(op, number);
        let mut done = NO_DONE;
        let submit = self.calls.submit;
        // SAFETY: the operation's buffer goes to the queue; room for one end is lent.
        let status = self.call(host, |context, host| unsafe {
            submit(context, host, &raw, &mut done)
        });
        match status {
            IOE_PENDING => {
                self.inbox.slots.keep(number, &raw.buf);
                Submitted::Pending
            }
            IOE_PANICKED => {
                // `die` answered it with the others; the caller gets it from here.
                self.inbox.done.retain(|(other, _)| *other != tag);
                Submitted::Done(Err(IoError::Gone))
            }
            status => {
                if !self.inbox.slots.free(number) {
                    // Ended by callback and by return; the callback is on its way out.
                    self.inbox.origin.unknown_completion(number);
                    return Submitted::Pending;
                }
                if status != IOE_OK {
                    done.status = status;
                }
                // SAFETY: the plugin gives away what the end holds; segments are valid until the next call.
                Submitted::Done(unsafe { self.inbox.absorb(range, bytes, &done) })
            }
        }
    }

    fn handle_file_done(&mut self, host: &mut dyn Host, done: FileDone) {
        let Some(file_done) = self.calls.table.file_done.filter(|_| !self.dead) else {
            return;
        };
        let raw = file_done_out(done);
        // SAFETY: the buffer of the operation goes to the queue.
        self.call(host, |context, host| unsafe {
            file_done(context, host, &raw)
        });
    }

    fn poll_completion(&mut self) -> Option<(IoTag, IoResult)> {
        if let Some(done) = self.inbox.done.pop_front() {
            return Some(done);
        }
        if self.dead || self.inbox.slots.is_empty() {
            return None;
        }
        self.take_batch();
        self.inbox.done.pop_front()
    }

    fn handle_wake(&mut self, host: &mut dyn Host) {
        if self.dead {
            return;
        }
        self.inbox.take_announced();
        if let Some(wake) = self.calls.table.wake {
            // SAFETY: a call on the queue's reactor.
            self.call(host, |context, host| unsafe { wake(context, host) });
        }
    }

    fn is_polled(&self) -> bool {
        self.calls.table.turn.is_some() && !self.dead && !self.inbox.slots.is_empty()
    }

    fn handle_turn(&mut self, host: &mut dyn Host) -> bool {
        let Some(turn) = self.calls.table.turn.filter(|_| !self.dead) else {
            return false;
        };
        // SAFETY: a call on the queue's reactor.
        self.call(host, |context, host| unsafe { turn(context, host) }) == 1
    }

    fn poll_timeout(&self) -> Option<Instant> {
        self.timer
    }

    fn handle_timeout(&mut self, host: &mut dyn Host) {
        self.timer = None;
        let Some(timer) = self.calls.table.timer.filter(|_| !self.dead) else {
            return;
        };
        // SAFETY: a call on the queue's reactor.
        self.call(host, |context, host| unsafe { timer(context, host) });
    }

    fn extents(&mut self, range: BlockRange) -> Option<Vec<Extent>> {
        let extents = self.calls.table.extents.filter(|_| !self.dead)?;
        let empty = IoeExtent {
            blocks: 0,
            flags: 0,
            reserved: 0,
        };
        let mut raw = [empty; EXTENTS_MAX];
        self.mark.enter();
        // SAFETY: room for that many extents, lent for the call.
        let count = unsafe {
            extents(
                self.raw.context,
                range_out(range),
                raw.as_mut_ptr(),
                EXTENTS_MAX as u32,
            )
        };
        self.mark.leave();
        if count == -IOE_PANICKED {
            self.die();
        }
        let count = usize::try_from(count).ok()?.min(EXTENTS_MAX);
        let found: Vec<Extent> = raw[..count].iter().map(extent_in).collect();
        let blocks = found.iter().try_fold(0u64, |sum, extent| {
            sum.checked_add(extent.blocks.0)
                .filter(|sum| extent.blocks.0 > 0 && *sum <= range.count.0)
        });
        match blocks {
            Some(1..) => Some(found),
            Some(0) | None => {
                self.inbox
                    .origin
                    .bad_answer(&format!("extents that are not of blocks {range}"));
                None
            }
        }
    }

    fn set_geometry(&mut self, geometry: Geometry) {
        if let Some(set_geometry) = self.calls.table.set_geometry.filter(|_| !self.dead) {
            self.mark.enter();
            // SAFETY: a size lent for the call.
            let status = unsafe { set_geometry(self.raw.context, &geometry_out(geometry)) };
            self.mark.leave();
            if status == IOE_PANICKED {
                self.die();
            }
        }
    }

    fn close(&mut self, host: &mut dyn Host) {
        if let Some(close) = self.calls.table.close.filter(|_| !self.dead) {
            // SAFETY: a call on the queue's reactor, with nothing in flight.
            self.call(host, |context, host| unsafe { close(context, host) });
        }
    }
}

impl Drop for RemoteQueue {
    fn drop(&mut self) {
        // A queue that panicked is not entered again, and one with operations in flight may still be at work on their
        // buffers: both are left as they are.
        if !self.dead && self.inbox.slots.is_empty() {
            // SAFETY: the queue is ours, and this is its thread.
            unsafe { (self.calls.drop)(self.raw.context) }
        }
        while let Some((_, result)) = self.inbox.done.pop_front() {
            if self.dead
                && let Ok(Some(Payload::Buf(buf))) = result
            {
                keep(buf);
            }
        }
    }
}

/// Queues other threads may reach, by number: slot in the low, generation in the high half, never 0.
#[derive(Default)]
pub(super) struct Remotes {
    table: Mutex<Vec<RemoteSlot>>,
}

#[derive(Default)]
struct RemoteSlot {
    generation: u32,
    reached: Option<(Waker, Arc<Mailbox>)>,
}

/// Ends announced by other threads.
#[derive(Default)]
struct Mailbox {
    announced: Mutex<Vec<(u64, i32)>>,
}

impl Mailbox {
    fn announced(&self) -> MutexGuard<'_, Vec<(u64, i32)>> {
        self.announced
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    fn drain(&self) -> Vec<(u64, i32)> {
        std::mem::take(&mut *self.announced())
    }
}

/// A queue's place in [`Remotes`], until dropped.
struct Remote {
    number: u64,
    mailbox: Arc<Mailbox>,
    remotes: Arc<Remotes>,
}

impl Drop for Remote {
    fn drop(&mut self) {
        if let Some(slot) = self.remotes.slots().get_mut(self.number as u32 as usize) {
            slot.reached = None;
        }
    }
}

impl Remotes {
    fn slots(&self) -> MutexGuard<'_, Vec<RemoteSlot>> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn register(self: &Arc<Self>, waker: Waker) -> Remote {
        let mut slots = self.slots();
        let at = slots.iter().position(|slot| slot.reached.is_none());
        let at = at.unwrap_or_else(|| {
            slots.push(RemoteSlot::default());
            slots.len() - 1
        });
        let mailbox = Arc::new(Mailbox::default());
        slots[at].generation += 1;
        slots[at].reached = Some((waker, mailbox.clone()));
        Remote {
            number: u64::from(slots[at].generation) << 32 | at as u64,
            mailbox,
            remotes: self.clone(),
        }
    }

    fn reach(&self, remote: u64) -> Option<(Waker, Arc<Mailbox>)> {
        let slots = self.slots();
        let slot = slots.get(remote as u32 as usize)?;
        (slot.generation == (remote >> 32) as u32).then(|| slot.reached.clone())?
    }

    pub(super) fn wake(&self, remote: u64) {
        if let Some((waker, _)) = self.reach(remote) {
            waker.wake();
        }
    }

    pub(super) fn complete(&self, remote: u64, tag: u64, status: i32) -> i32 {
        let Some((waker, mailbox)) = self.reach(remote) else {
            return IOE_GONE;
        };
        let mut announced = mailbox.announced();
        if announced.len() >= MAILBOX_MAX {
            return IOE_BUSY;
        }
        announced.push((tag, status));
        drop(announced);
        waker.wake();
        IOE_OK
    }
}
