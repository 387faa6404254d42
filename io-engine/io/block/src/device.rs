//! [`BlockDevice`]: the device queue with everything the engine promises around it.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use sdk::block::{Capabilities, Extent, Geometry, IoError, IoResult, IoTag, Op, Queue, Submitted};
use sdk::host::{FileDone, Host};
use units::BlockRange;

use crate::guards::{Admission, Guards};
use crate::health::Health;
use crate::request::{InflightIo, OpKind, Request, Stage, Stamps};
use crate::slots::{Inflight, Slots};
use crate::slow::{Finished, SlowLog};
use crate::stats::IoStats;
use crate::tally::Tally;
use crate::work::{Abilities, Answer, Next, Work};

/// How a device is run.
#[derive(Clone, Debug)]
pub struct DeviceConfig {
    /// Name for log lines.
    pub name: String,
    /// Time from submission after which an I/O is answered `Timeout`.
    pub deadline: Duration,
    /// Time from reception, waiting for the host's data not counted, after which a finished I/O is logged as slow.
    pub slow_io: Duration,
    /// Most I/O in flight, at least 1; one more is answered `Busy`.
    pub inflight_max: usize,
    /// Most overdue I/O whose buffers the device may sit on; one more takes the device offline.
    pub overdue_max: usize,
}

/// A device on its reactor.
///
/// Each submitted request is answered exactly once: by [`BlockDevice::submit`] or [`BlockDevice::poll_completion`].
/// Requests in flight together are not ordered, except that a compare-and-write is atomic against other changes of
/// its range.
pub struct BlockDevice {
    queue: Box<dyn Queue>,
    geometry: Geometry,
    capabilities: Capabilities,
    abilities: Abilities,
    config: DeviceConfig,
    slots: Slots,
    guards: Guards,
    holding: Holding,
    done: VecDeque<(u64, IoResult)>,
    overdue: usize,
    /// The queue is polled and said that it has work.
    busy: bool,
    offline: Option<&'static str>,
    health: Arc<Health>,
    unflushed: Unflushed,
    /// I/O answered while the device has it, that nobody was told of.
    expired: VecDeque<u64>,
    tally: Tally,
    slow_log: SlowLog,
}

/// Changes a flush would make durable.
#[derive(Default)]
struct Unflushed {
    /// Completed without being durable, since the start.
    changes: u64,
    /// Of those, the first so many are.
    flushed: u64,
}

/// I/O held back, and what may let it go on.
#[derive(Default)]
struct Holding {
    waiting: VecDeque<usize>,
    /// A guard went away, so that something may be able to go.
    recheck: bool,
    /// A piece is ready that was put off only to let others have the reactor.
    next_piece: bool,
}

impl BlockDevice {
    /// Wraps a queue of a device of this size. Tables are allocated here; the data path allocates nothing of its own.
    pub fn new(
        queue: Box<dyn Queue>,
        geometry: Geometry,
        capabilities: Capabilities,
        config: DeviceConfig,
    ) -> Self {
        let slots = config.inflight_max.max(1);
        Self {
            queue,
            geometry,
            capabilities,
            abilities: Abilities::new(&capabilities, geometry.block_size),
            slots: Slots::new(slots),
            guards: Guards::new(slots),
            holding: Holding {
                waiting: VecDeque::with_capacity(slots),
                ..Holding::default()
            },
            done: VecDeque::with_capacity(slots),
            overdue: 0,
            busy: false,
            offline: None,
            health: Arc::default(),
            unflushed: Unflushed::default(),
            expired: VecDeque::new(),
            tally: Tally::default(),
            slow_log: SlowLog::default(),
            config,
        }
    }

    /// Starts `request`, known to the caller as `tag`.
    ///
    /// # Errors
    /// Through the result: `OutOfRange` past the end, `Busy` with `inflight_max` in flight, `Gone` once offline,
    /// `Timeout` for a change of blocks an overdue write may still reach, and whatever the device answers.
    #[inline]
    pub fn submit(
        &mut self,
        host: &mut dyn Host,
        tag: u64,
        request: Request,
        stamps: Stamps,
    ) -> Submitted {
        let (kind, range) = (request.kind(), request.range());
        if !range.is_within(self.geometry.blocks) || self.offline.is_some() {
            return self.refuse(kind, range);
        }
        let Some((vacant, io_tag)) = self.slots.vacant() else {
            self.tally
                .record_in_turn(kind.into(), 0, false, Duration::ZERO);
            return Submitted::Done(Err(IoError::Busy));
        };
        let durable = request.is_durable();
        let op = match request {
            Request::Read { range, buf } => Op::Read { range, buf },
            Request::Write { range, buf, fua } if self.guards.is_empty() => {
                Op::Write { range, buf, fua }
            }
            Request::Flush => Op::Flush,
            stepwise => return self.submit_stepwise(host, tag, stepwise, stamps),
        };
        let now = host.now();
        let io = Inflight {
            tag,
            kind,
            range,
            durable,
            orphan: false,
            received: stamps.received,
            waits: stamps.waits,
            submitted: now,
            stage: Stage::Device,
            sequence: 0,
            covers: self.unflushed.changes,
        };
        match self.queue.submit(host, io_tag, op) {
            Submitted::Done(result) => {
                self.slots.renew(vacant);
                Submitted::Done(self.finish(&finished(&io, now), result))
            }
            Submitted::Pending => {
                self.slots.occupy(io);
                Submitted::Pending
            }
        }
    }

    /// Passes on a finished file operation of the device's queue.
    pub fn handle_file_done(&mut self, host: &mut dyn Host, done: FileDone) {
        self.queue.handle_file_done(host, done);
    }

    /// Passes on a call of another thread for the device's queue.
    pub fn handle_wake(&mut self, host: &mut dyn Host) {
        self.queue.handle_wake(host);
    }

    /// The next answer to a request that was pending. Goes on with requests of several steps on the way, which is why
    /// it takes the host. To be called until `None` after file completions, timeouts and turns.
    #[inline]
    pub fn poll_completion(&mut self, host: &mut dyn Host) -> Option<(u64, IoResult)> {
        loop {
            if let Some(done) = self.done.pop_front() {
                return Some(done);
            }
            if self.holding.recheck {
                self.run_waiting(host);
                continue;
            }
            let (io_tag, result) = self.queue.poll_completion()?;
            if let Some(done) = self.handle_answer(host, io_tag, result) {
                return Some(done);
            }
        }
    }

    /// Whether [`BlockDevice::handle_turn`] has something to do, should a turn come.
    pub fn has_waiting(&self) -> bool {
        !self.holding.waiting.is_empty()
            || self.queue.poll_timeout().is_some()
            || self.queue.is_polled()
    }

    /// Whether a turn should come at once, without sleeping.
    pub fn wants_turn(&self) -> bool {
        self.holding.next_piece || self.holding.recheck || !self.done.is_empty() || self.busy
    }

    /// Goes on with requests that wait for a buffer or for their next piece, and tells the device that a time it waits
    /// for has come. Answers come by `poll_completion`.
    pub fn handle_turn(&mut self, host: &mut dyn Host) {
        if self.queue.poll_timeout().is_some_and(|at| at <= host.now()) {
            self.queue.handle_timeout(host);
        }
        self.busy = self.queue.is_polled() && self.queue.handle_turn(host);
        if !self.holding.waiting.is_empty() {
            self.run_waiting(host);
        }
    }

    /// When [`BlockDevice::handle_timeout`] or [`BlockDevice::handle_turn`] wants to be called.
    pub fn poll_timeout(&self) -> Option<Instant> {
        let deadline = self
            .slots
            .oldest()
            .and_then(|(_, oldest)| oldest.submitted.checked_add(self.config.deadline));
        deadline.into_iter().chain(self.queue.poll_timeout()).min()
    }

    /// Which parts of a range on the device hold data, see [`Queue::extents`]; one extent where the device cannot tell.
    pub fn extents(&mut self, range: BlockRange) -> Vec<Extent> {
        let whole = || {
            vec![Extent {
                blocks: range.count,
                allocated: true,
                zero: false,
            }]
        };
        self.queue.extents(range).unwrap_or_else(whole)
    }

    /// Answers what is overdue at `now` with `Timeout`. What the device has of it stays the device's, buffer and all,
    /// until it completes; past `overdue_max` such I/O the device is taken offline.
    pub fn handle_timeout(&mut self, now: Instant) {
        while let Some((index, io)) = self.slots.oldest() {
            if now.saturating_duration_since(io.submitted) < self.config.deadline {
                return;
            }
            self.tally.stats_mut().timeouts += 1;
            self.give_up(index, now, IoError::Timeout);
            if self.overdue > self.config.overdue_max {
                let reason = match self.config.overdue_max {
                    0 => "an operation did not end by its deadline",
                    _ => "too many operations never completed",
                };
                self.take_offline(now, reason);
                return;
            }
        }
    }

    /// The host of these I/O is gone and may come back to write the same blocks: what the device does not have yet is
    /// aborted, further steps of what it has included, and later changes of a range wait until an orphaned one in the
    /// device has ended, so that it cannot overwrite what was acknowledged after it.
    pub fn orphan(&mut self, now: Instant, is_orphan: impl Fn(u64) -> bool) {
        let orphans: Vec<usize> = self
            .slots
            .iter()
            .filter(|(_, io)| io.stage != Stage::Overdue && is_orphan(io.tag))
            .map(|(index, _)| index)
            .collect();
        for index in orphans {
            self.slots.io(index).orphan = true;
            let io = *self.slots.io(index);
            match io.stage {
                Stage::Waiting => self.give_up(index, now, IoError::Aborted),
                Stage::Device if io.kind.is_change() => {
                    self.guards.hold_orphan(index, io.sequence, io.range);
                }
                Stage::Device | Stage::Overdue => {}
            }
        }
    }

    /// Answers everything with `Gone` from here on, I/O in flight included.
    #[cold]
    pub fn take_offline(&mut self, now: Instant, reason: &'static str) {
        if self.health.set_offline(reason) {
            tracing::warn!(
                device = %self.config.name,
                reason,
                fix = "mend the device, then open it again: io-engine-client bdev rescan <device>",
                "device is offline: every I/O on it fails"
            );
            self.offline = Some(reason);
        }
        while let Some((index, _)) = self.slots.oldest() {
            self.give_up(index, now, IoError::Gone);
        }
    }

    /// Whether the device is offline and why, for other threads.
    pub fn health(&self) -> Arc<Health> {
        Arc::clone(&self.health)
    }

    /// The device has this size from here on. Block sizes never change: a device that says so is taken offline.
    pub fn set_geometry(&mut self, now: Instant, geometry: Geometry) {
        if geometry.block_size != self.geometry.block_size {
            self.take_offline(now, "its block size changed");
            return;
        }
        self.geometry = geometry;
        self.queue.set_geometry(geometry);
    }

    /// Whether changes were acknowledged that no flush made durable: lost with the device, if it loses its cache.
    pub fn has_unflushed(&self) -> bool {
        self.capabilities.volatile_cache && self.unflushed.changes > self.unflushed.flushed
    }

    /// Size.
    pub fn geometry(&self) -> Geometry {
        self.geometry
    }

    /// What the device can do by itself.
    pub fn capabilities(&self) -> &Capabilities {
        &self.capabilities
    }

    /// Counters since the start or the last reset; what ended in a turn is in them from [`BlockDevice::end_turn`] on.
    pub fn stats(&self) -> &IoStats {
        self.tally.stats()
    }

    /// Sets all counters to zero.
    pub fn reset_stats(&mut self) {
        self.tally = Tally::default();
    }

    /// Whether something waits for [`BlockDevice::end_turn`] to be counted.
    #[inline]
    pub fn is_behind(&self) -> bool {
        self.tally.is_behind()
    }

    /// The turn ends after `length`, its answers on their way: counts what began and ended in it.
    pub fn end_turn(&mut self, length: Duration) {
        self.tally.end_turn(length);
        let (name, slow_io) = (&self.config.name, self.config.slow_io);
        self.tally.stats_mut().slow += self.slow_log.end_turn(name, slow_io, length);
    }

    /// The tag of an I/O that is answered while the device has it, so that it goes on being listed; to be asked until `None`
    /// before its answer from `poll_completion` is passed on.
    #[inline]
    pub fn poll_expired(&mut self) -> Option<u64> {
        self.expired.pop_front()
    }

    /// All I/O in flight, overdue ones included, in no order.
    pub fn inflight(&self) -> impl Iterator<Item = InflightIo> {
        self.slots.iter().map(|(_, io)| InflightIo {
            tag: io.tag,
            op: io.kind,
            range: io.range,
            received: io.received,
            waits: io.waits,
            submitted: io.submitted,
            stage: io.stage,
        })
    }

    /// Overdue I/O whose buffers the device still has.
    pub fn overdue(&self) -> usize {
        self.overdue
    }

    /// Whether nothing is in flight, in the device or here.
    pub fn is_idle(&self) -> bool {
        self.slots.is_empty() && self.done.is_empty()
    }

    /// Gives back what the reactor lent to the queue. The device must be idle.
    ///
    /// # Panics
    /// If it is not.
    pub fn close(mut self, host: &mut dyn Host) {
        assert!(self.is_idle(), "a device is closed with I/O in flight");
        self.queue.close(host);
    }

    #[cold]
    fn refuse(&mut self, kind: OpKind, range: BlockRange) -> Submitted {
        self.tally
            .record_in_turn(kind.into(), 0, false, Duration::ZERO);
        let error = match range.is_within(self.geometry.blocks) {
            true => IoError::Gone,
            false => IoError::OutOfRange,
        };
        Submitted::Done(Err(error))
    }

    fn submit_stepwise(
        &mut self,
        host: &mut dyn Host,
        tag: u64,
        request: Request,
        stamps: Stamps,
    ) -> Submitted {
        let (kind, range) = (request.kind(), request.range());
        if kind == OpKind::CompareAndWrite && !self.guards.has_room() {
            self.tally
                .record_in_turn(kind.into(), 0, false, Duration::ZERO);
            return Submitted::Done(Err(IoError::Busy));
        }
        let sequence = self.slots.next_sequence();
        let index = self.slots.occupy(Inflight {
            tag,
            kind,
            range,
            durable: request.is_durable(),
            orphan: false,
            received: stamps.received,
            waits: stamps.waits,
            submitted: host.now(),
            stage: Stage::Waiting,
            sequence,
            covers: 0,
        });
        *self.slots.work(index) = Work::new(request);
        if kind == OpKind::CompareAndWrite {
            self.guards.lock(index, sequence, range);
        }
        match self.drive(host, index) {
            Some(result) => Submitted::Done(self.retire(index, host.now(), result).1),
            None => Submitted::Pending,
        }
    }

    /// Takes an I/O as far as it goes; a result is its end, `None` means the device has it or it waits.
    fn drive(&mut self, host: &mut dyn Host, index: usize) -> Option<IoResult> {
        loop {
            if self.slots.io(index).orphan {
                return Some(Err(IoError::Aborted));
            }
            match self.admit(index) {
                Admission::Go => {}
                Admission::Refused => return Some(Err(IoError::Timeout)),
                Admission::Wait => {
                    self.park(index);
                    return None;
                }
            }
            let range = self.slots.io(index).range;
            let work = self.slots.work(index);
            let op = match work.next(host, &self.abilities, range) {
                Next::Op(op) => op,
                Next::Finished(result) => return Some(result),
                Next::Wait => {
                    self.park(index);
                    return None;
                }
            };
            self.slots.io(index).stage = Stage::Device;
            self.guards.start(index);
            self.slots.renew(index);
            let io_tag = self.slots.tag_of(index);
            let Submitted::Done(result) = self.queue.submit(host, io_tag, op) else {
                return None;
            };
            let work = self.slots.work(index);
            match work.absorb(&mut self.abilities, range, result) {
                Answer::Finished(result) => return Some(result),
                Answer::Continue => {}
                Answer::NextPiece => {
                    self.park(index);
                    self.holding.next_piece = true;
                    return None;
                }
            }
        }
    }

    /// Whether the guards let the next step of an I/O go.
    fn admit(&mut self, index: usize) -> Admission {
        let io = self.slots.io(index);
        if self.guards.is_empty() || !io.kind.is_change() {
            return Admission::Go;
        }
        let (kind, sequence, range) = (io.kind, io.sequence, io.range);
        // A compare-and-write in its second step has the range for itself: nothing could start since its first.
        let admission = self.guards.admit(sequence, range);
        if admission == Admission::Go && kind == OpKind::CompareAndWrite {
            let in_device = |(other, io): (usize, &Inflight)| {
                other != index
                    && io.stage == Stage::Device
                    && io.kind.is_change()
                    && io.range.overlaps(range)
            };
            if self.slots.iter().any(in_device) {
                return Admission::Wait;
            }
        }
        admission
    }

    fn park(&mut self, index: usize) {
        self.slots.io(index).stage = Stage::Waiting;
        self.holding.waiting.push_back(index);
    }

    fn run_waiting(&mut self, host: &mut dyn Host) {
        self.holding.recheck = false;
        self.holding.next_piece = false;
        for _ in 0..self.holding.waiting.len() {
            let Some(index) = self.holding.waiting.pop_front() else {
                return;
            };
            if let Some(result) = self.drive(host, index) {
                let done = self.retire(index, host.now(), result);
                self.done.push_back(done);
            }
        }
    }

    #[inline]
    fn handle_answer(
        &mut self,
        host: &mut dyn Host,
        io_tag: IoTag,
        result: IoResult,
    ) -> Option<(u64, IoResult)> {
        let Some(index) = self.slots.find(io_tag) else {
            self.tally.stats_mut().stray_completions += 1;
            return None;
        };
        let io = *self.slots.io(index);
        let work = self.slots.work(index);
        if io.stage == Stage::Device && matches!(work, Work::Single) {
            return Some(self.retire(index, host.now(), result));
        }
        let answer = match io.stage {
            Stage::Device => work.absorb(&mut self.abilities, io.range, result),
            Stage::Overdue => {
                self.handle_late(index);
                return None;
            }
            Stage::Waiting => {
                self.tally.stats_mut().stray_completions += 1;
                return None;
            }
        };
        let result = match answer {
            Answer::Finished(result) => result,
            Answer::Continue | Answer::NextPiece => self.drive(host, index)?,
        };
        Some(self.retire(index, host.now(), result))
    }

    #[cold]
    fn handle_late(&mut self, index: usize) {
        self.tally.stats_mut().late_completions += 1;
        self.overdue -= 1;
        self.slots.release(index);
        self.unguard(index);
    }

    /// Ends an I/O that the device does not have.
    #[inline]
    fn retire(&mut self, index: usize, now: Instant, result: IoResult) -> (u64, IoResult) {
        let io = self.slots.release(index);
        if !self.guards.is_empty() {
            self.unguard(index);
        }
        (io.tag, self.finish(&finished(&io, now), result))
    }

    fn unguard(&mut self, index: usize) {
        self.guards.release(index);
        self.holding.recheck = !self.holding.waiting.is_empty();
    }

    /// Answers an I/O that is not done; if the device has it, its slot and buffer wait for the device.
    fn give_up(&mut self, index: usize, now: Instant, error: IoError) {
        let io = *self.slots.io(index);
        if io.stage == Stage::Waiting {
            self.holding.waiting.retain(|waiting| *waiting != index);
            let done = self.retire(index, now, Err(error));
            self.done.push_back(done);
            return;
        }
        let io = finished(&io, now);
        let changes = match self.slots.work(index) {
            // The device reads; the write after it will not come.
            Work::Compare { .. } => false,
            Work::Single | Work::Held(_) | Work::Zeroes { .. } | Work::Discard { .. } => {
                io.kind.is_change()
            }
        };
        self.slots.expire(index);
        self.overdue += 1;
        // Somebody who does not ask is not kept account for.
        if self.expired.len() == self.config.inflight_max {
            self.expired.pop_front();
        }
        self.expired.push_back(io.tag);
        self.unguard(index);
        if changes {
            self.guards.hold_overdue(index, io.range);
        }
        let result = self.finish(&io, Err(error));
        self.done.push_back((io.tag, result));
    }

    /// Counts an I/O that ends, and checks what a device cannot be trusted with.
    #[inline]
    fn finish(&mut self, io: &Finished, result: IoResult) -> IoResult {
        let bytes = io.range.count.0 << self.geometry.block_size.shift();
        let result = match result {
            // A device that answers a read with anything but the range has not read it.
            Ok(payload) if io.kind == OpKind::Read => match payload {
                Some(payload) if payload.len() as u64 == bytes => Ok(Some(payload)),
                _ => Err(IoError::Medium(io.range)),
            },
            other => other,
        };
        if result.is_ok() {
            match io.kind {
                OpKind::Write | OpKind::WriteZeroes | OpKind::CompareAndWrite if !io.durable => {
                    self.unflushed.changes += 1;
                }
                OpKind::Flush => self.unflushed.flushed = self.unflushed.flushed.max(io.covers),
                OpKind::Read
                | OpKind::Write
                | OpKind::WriteZeroes
                | OpKind::Discard
                | OpKind::Compare
                | OpKind::CompareAndWrite => {}
            }
        }
        let (op, ok, error) = (
            io.kind.into(),
            result.is_ok(),
            result.as_ref().err().copied(),
        );
        let latency = io.completed.saturating_duration_since(io.submitted);
        let is_slow = if latency.is_zero() {
            self.tally.record_in_turn(op, bytes, ok, latency);
            self.slow_log.note_in_turn(io, error, self.config.slow_io)
        } else {
            self.tally.record(op, bytes, ok, latency);
            io.ours() >= self.config.slow_io
        };
        if is_slow {
            self.tally.stats_mut().slow += 1;
            self.slow_log.record(&self.config.name, io, error);
        }
        if matches!(result, Err(IoError::Gone)) && self.offline.is_none() {
            let reason = if io.durable {
                "a flush or durable write failed, and writes since the last flush may be lost"
            } else {
                "it, or the medium it stands on, is gone"
            };
            self.take_offline(io.completed, reason);
        }
        result
    }
}

#[inline]
fn finished(io: &Inflight, completed: Instant) -> Finished {
    Finished {
        tag: io.tag,
        kind: io.kind,
        range: io.range,
        durable: io.durable,
        covers: io.covers,
        received: io.received,
        waits: io.waits,
        submitted: io.submitted,
        completed,
    }
}
