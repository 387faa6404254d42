//! The I/O side: judges each operation by the plan and carries the verdict out.
//!
//! The way of an operation: delay before submission, then the fault that hit it, then the overlay, then the device below;
//! on the way back what [`After`] says, then delay of the answer, then stuckness of the answer. Every step may end in
//! holding the operation, from which it goes on at the next step.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use sdk::block::{Extent, Geometry, IoError, IoResult, IoTag, Op, Queue, QueueSeed, Submitted};
use sdk::buf::Buf;
use sdk::host::{FileDone, Host, OwnerId};
use units::{BlockRange, Blocks, Lba};

use crate::after::{After, ReadRot};
use crate::damage::damage_blocks;
use crate::held::{Held, Next, Waiting};
use crate::limits::LOOK_INTERVAL;
use crate::plan::{Ask, Hit, Verdict};
use crate::rule::{Fault, OpKind, Stage};
use crate::shared::{Shared, State, later};
use crate::writeback::Writeback;

/// A queue on its way to its reactor.
pub(crate) struct FaultSeed {
    /// Of the device below.
    pub(crate) inner: Box<dyn QueueSeed>,
    /// Rules and overlay.
    pub(crate) shared: Arc<Shared>,
    /// Size.
    pub(crate) geometry: Geometry,
}

impl QueueSeed for FaultSeed {
    fn open(
        self: Box<Self>,
        host: &mut dyn Host,
        owner: OwnerId,
    ) -> Result<Box<dyn Queue>, IoError> {
        let now = host.now();
        Ok(Box::new(FaultQueue {
            inner: self.inner.open(host, owner)?,
            geometry: self.geometry,
            now,
            commands_seen: self.shared.commands(),
            shared: self.shared,
            after: BTreeMap::new(),
            held: Held::new(now),
            flush: Writeback::default(),
            done: VecDeque::new(),
        }))
    }
}

struct FaultQueue {
    inner: Box<dyn Queue>,
    shared: Arc<Shared>,
    geometry: Geometry,
    /// Time of the last call that told it.
    now: Instant,
    commands_seen: u64,
    /// What is still to be done to operations below.
    after: BTreeMap<IoTag, After>,
    held: Held,
    flush: Writeback,
    done: VecDeque<(IoTag, IoResult)>,
}

/// What the overlay makes of an operation.
enum Route {
    /// To the device below, with newer data for its answer.
    Below(Op),
    /// It is complete.
    Done(IoResult),
    /// It is complete after a flush; so many power cuts before.
    Flush(u64),
}

impl FaultQueue {
    fn is_on_device(&self, range: Option<BlockRange>) -> bool {
        range.is_none_or(|range| range.is_within(self.geometry.blocks))
    }

    /// An operation whose delays before submission are over.
    fn begin(&mut self, host: &mut dyn Host, tag: IoTag, op: Op, verdict: Verdict) -> Submitted {
        let range = OpKind::of(&op).1;
        // The device below refuses it as it always does.
        if !self.is_on_device(range) {
            return self.inner.submit(host, tag, op);
        }
        let mut after = After {
            range,
            delay: verdict.delay_complete,
            ..After::default()
        };
        if !after.delay.is_zero() {
            self.shared.services().count("hits_delay", 1);
        }
        let Some(hit) = verdict.hit else {
            return self.carry_out(host, tag, op, after, false);
        };
        self.shared.services().count(counter(hit.fault), 1);
        match hit.fault {
            Fault::Stuck {
                stage: Stage::Submit,
            } => {
                let rest = Verdict {
                    hit: None,
                    ..verdict
                };
                match self.hold(tag, Some(hit.rule), None, Next::Begin(op, rest)) {
                    None => Submitted::Pending,
                    Some(Next::Begin(op, _)) => self.carry_out(host, tag, op, after, false),
                    Some(Next::Answer(result, _)) => Submitted::Done(result),
                }
            }
            Fault::Error {
                kind,
                stage: Stage::Submit,
            } => self.finish(tag, Err(kind.error(hit.blocks)), after),
            Fault::Torn { keep, answer } => {
                let error = answer.map(|kind| kind.error(hit.blocks));
                match torn(op, keep, self.geometry.block_size.shift()) {
                    Some(op) => {
                        after.answer = error;
                        self.carry_out(host, tag, op, after, false)
                    }
                    None => self.finish(tag, error.map_or(Ok(None), Err), after),
                }
            }
            Fault::Lose { .. } => self.carry_out(host, tag, op, after, true),
            fault => {
                let op = self.distort(op, fault, hit, &mut after);
                self.carry_out(host, tag, op, after, false)
            }
        }
    }

    /// Faults that change the operation or its answer and nothing else.
    fn distort(&self, op: Op, fault: Fault, hit: Hit, after: &mut After) -> Op {
        match fault {
            Fault::Stuck { .. } => after.stuck = Some(hit.rule),
            Fault::Error { kind, .. } => after.answer = Some(kind.error(hit.blocks)),
            Fault::Misdirect { shift } => {
                after.misdirected = true;
                return misdirected(op, shift, self.geometry.blocks);
            }
            Fault::Rot(rot) => {
                let (blocks, seed) = (hit.blocks, hit.seed);
                let Op::Write {
                    range,
                    mut buf,
                    fua,
                } = op
                else {
                    after.rot = Some(ReadRot { rot, seed, blocks });
                    return op;
                };
                let size = self.geometry.block_size;
                let first = blocks.start.0.saturating_sub(range.start.0);
                let from = (first << size.shift()) as usize;
                let to = from + (blocks.count.0 << size.shift()) as usize;
                if let Some(bytes) = buf.get_mut(from..to) {
                    damage_blocks(rot, seed, blocks.start.0, size, bytes);
                }
                return Op::Write { range, buf, fua };
            }
            Fault::Delay { .. } | Fault::Torn { .. } | Fault::Lose { .. } => {}
        }
        op
    }

    /// An operation as it reaches the overlay and the device below; `lose` if a rule loses it.
    fn carry_out(
        &mut self,
        host: &mut dyn Host,
        tag: IoTag,
        op: Op,
        mut after: After,
        lose: bool,
    ) -> Submitted {
        let flushing = !self.flush.is_idle();
        let shift = self.geometry.block_size.shift();
        let route = self
            .shared
            .with(|state| route(state, op, shift, lose, flushing, &mut after));
        match route {
            Route::Done(result) => self.finish(tag, result, after),
            Route::Flush(cuts) => {
                self.keep(tag, after);
                self.flush.push(tag, cuts);
                self.pump(host);
                Submitted::Pending
            }
            Route::Below(op) => match self.inner.submit(host, tag, op) {
                Submitted::Done(result) => self.finish(tag, result, after),
                Submitted::Pending => {
                    self.keep(tag, after);
                    Submitted::Pending
                }
            },
        }
    }

    fn keep(&mut self, tag: IoTag, after: After) {
        if !after.is_nothing() {
            self.after.insert(tag, after);
        }
    }

    /// The device below, or a rule, has answered.
    fn finish(&mut self, tag: IoTag, result: IoResult, after: After) -> Submitted {
        match self.settle(tag, result, after) {
            Some(result) => Submitted::Done(result),
            None => Submitted::Pending,
        }
    }

    /// What the caller is told; nothing if the answer is held back.
    fn settle(&mut self, tag: IoTag, result: IoResult, after: After) -> Option<IoResult> {
        let result = after.answer(self.geometry.block_size, result);
        let next = Next::Answer(result, after.stuck);
        if after.delay.is_zero() {
            return self.answer(tag, next);
        }
        match self.hold(tag, None, Some(after.delay), next) {
            None => None,
            Some(next) => self.answer(tag, next),
        }
    }

    /// An answer whose delay is over.
    fn answer(&mut self, tag: IoTag, next: Next) -> Option<IoResult> {
        let Next::Answer(result, stuck) = next else {
            return None;
        };
        if stuck.is_none() {
            return Some(result);
        }
        match self.hold(tag, stuck, None, Next::Answer(result, None)) {
            Some(Next::Answer(result, _)) => Some(result),
            Some(Next::Begin(..)) | None => None,
        }
    }

    /// Holds an operation, for a time or by a rule until it is let go. Gives it back if too many are held, or if the rule
    /// is gone.
    fn hold(
        &mut self,
        tag: IoTag,
        rule: Option<u32>,
        wait: Option<Duration>,
        next: Next,
    ) -> Option<Next> {
        if self.held.is_full() {
            return Some(next);
        }
        let Some(number) = self.shared.with(|state| state.plan.hold(rule)) else {
            return Some(next);
        };
        self.shared.add_held();
        let waiting = Waiting {
            tag,
            number,
            rule,
            next,
        };
        self.held.hold(self.now, wait, waiting);
        None
    }

    /// An operation held so far goes on.
    fn go_on(&mut self, host: &mut dyn Host, waiting: Waiting) {
        self.shared.sub_held(1);
        let tag = waiting.tag;
        let result = match waiting.next {
            Next::Begin(op, verdict) => match self.begin(host, tag, op, verdict) {
                Submitted::Done(result) => Some(result),
                Submitted::Pending => None,
            },
            next @ Next::Answer(..) => self.answer(tag, next),
        };
        self.done.extend(result.map(|result| (tag, result)));
    }

    /// The next answer of the device below that is for the caller.
    fn take_inner(&mut self) -> Option<(IoTag, IoResult)> {
        while let Some((tag, result)) = self.inner.poll_completion() {
            let Err(result) = self.flush.absorb(tag, result) else {
                continue;
            };
            let Some(after) = self.after.remove(&tag) else {
                return Some((tag, result));
            };
            if let Some(result) = self.settle(tag, result, after) {
                return Some((tag, result));
            }
        }
        None
    }

    /// Goes on with flushes as far as they can.
    fn pump(&mut self, host: &mut dyn Host) {
        if self.flush.is_idle() {
            return;
        }
        loop {
            while let Some(done) = self.take_inner() {
                self.done.push_back(done);
            }
            let size = self.geometry.block_size;
            let ended = self.flush.step(host, &mut *self.inner, &self.shared, size);
            let Some((tag, result)) = ended else { return };
            let after = self.after.remove(&tag).unwrap_or_default();
            if let Some(result) = self.settle(tag, result, after) {
                self.done.push_back((tag, result));
            }
        }
    }

    /// Drops what is held back: after this nothing of the engine's is left here.
    fn let_fall(&mut self) {
        self.shared.sub_held(self.held.clear());
        self.flush.abandon(&self.shared);
        self.after.clear();
        self.done.clear();
    }
}

impl Queue for FaultQueue {
    fn submit(&mut self, host: &mut dyn Host, tag: IoTag, op: Op) -> Submitted {
        if !self.shared.is_armed() {
            return self.inner.submit(host, tag, op);
        }
        self.now = host.now();
        let (kind, range, fua) = OpKind::of(&op);
        if !self.is_on_device(range) {
            return self.inner.submit(host, tag, op);
        }
        let mut verdict = self.shared.judge(Ask { kind, range, fua }, self.now);
        let wait = std::mem::take(&mut verdict.delay_submit);
        if wait.is_zero() {
            return self.begin(host, tag, op, verdict);
        }
        self.shared.services().count("hits_delay", 1);
        match self.hold(tag, None, Some(wait), Next::Begin(op, verdict)) {
            None => Submitted::Pending,
            Some(Next::Begin(op, verdict)) => self.begin(host, tag, op, verdict),
            Some(Next::Answer(result, _)) => Submitted::Done(result),
        }
    }

    fn handle_file_done(&mut self, host: &mut dyn Host, done: FileDone) {
        self.now = host.now();
        self.inner.handle_file_done(host, done);
        self.pump(host);
    }

    fn poll_completion(&mut self) -> Option<(IoTag, IoResult)> {
        self.done.pop_front().or_else(|| self.take_inner())
    }

    fn poll_timeout(&self) -> Option<Instant> {
        let flush = if self.flush.is_ready() {
            Some(self.now)
        } else if self.flush.is_blocked() {
            Some(later(self.now, LOOK_INTERVAL))
        } else {
            None
        };
        [flush, self.held.poll_timeout(), self.inner.poll_timeout()]
            .into_iter()
            .flatten()
            .min()
    }

    fn handle_timeout(&mut self, host: &mut dyn Host) {
        self.now = host.now();
        if self.inner.poll_timeout().is_some_and(|at| at <= self.now) {
            self.inner.handle_timeout(host);
        }
        let commands = self.shared.commands();
        if commands != self.commands_seen {
            self.commands_seen = commands;
            let (shared, held) = (&self.shared, &mut self.held);
            let free = shared.with(|state| held.take_released(&state.plan));
            for waiting in free {
                self.go_on(host, waiting);
            }
        }
        self.held.looked(self.now);
        while let Some(waiting) = self.held.take_due(self.now) {
            self.go_on(host, waiting);
        }
        self.pump(host);
    }

    fn extents(&mut self, range: BlockRange) -> Option<Vec<Extent>> {
        let is_covered =
            self.shared.is_armed() && self.shared.with(|state| state.overlay.touches(range));
        // What the device below says of these blocks is not what they hold.
        if is_covered {
            return None;
        }
        self.inner.extents(range)
    }

    fn set_geometry(&mut self, geometry: Geometry) {
        self.geometry = geometry;
        self.inner.set_geometry(geometry);
    }

    fn close(&mut self, host: &mut dyn Host) {
        self.let_fall();
        self.inner.close(host);
    }
}

impl Drop for FaultQueue {
    fn drop(&mut self) {
        self.let_fall();
    }
}

/// Takes an operation through the overlay. `flushing`: a flush of this queue is under way; `lose`: a rule loses it.
fn route(
    state: &mut State,
    op: Op,
    shift: u32,
    lose: bool,
    flushing: bool,
    after: &mut After,
) -> Route {
    let overlay = &mut state.overlay;
    match op {
        Op::Read { range, buf } => {
            after.patches = overlay.patches(range);
            Route::Below(Op::Read { range, buf })
        }
        Op::Write { range, buf, fua } if lose || overlay.touches(range) => {
            let len = (range.count.0 << shift) as usize;
            let Some(bytes) = buf.get(..len) else {
                return Route::Done(Err(IoError::OutOfRange));
            };
            match overlay.absorb(range, Some(bytes)) {
                Ok(()) => taken_in(fua && !lose, overlay.cuts()),
                Err(_) if overlay.touches(range) => Route::Done(Err(IoError::Busy)),
                Err(_) => Route::Below(Op::Write { range, buf, fua }),
            }
        }
        Op::WriteZeroes {
            range,
            deallocate,
            fua,
        } if lose || overlay.touches(range) => match overlay.absorb(range, None) {
            Ok(()) => taken_in(fua && !lose, overlay.cuts()),
            Err(_) if overlay.touches(range) => Route::Done(Err(IoError::Busy)),
            Err(_) => Route::Below(Op::WriteZeroes {
                range,
                deallocate,
                fua,
            }),
        },
        Op::Discard { range } => {
            overlay.drop_blocks(range);
            Route::Below(Op::Discard { range })
        }
        Op::Flush if lose => Route::Done(Ok(None)),
        Op::Flush if flushing || !overlay.is_empty() => Route::Flush(overlay.cuts()),
        op @ (Op::Write { .. } | Op::WriteZeroes { .. } | Op::Flush) => Route::Below(op),
    }
}

fn taken_in(must_be_durable: bool, cuts: u64) -> Route {
    if must_be_durable {
        Route::Flush(cuts)
    } else {
        Route::Done(Ok(None))
    }
}

/// The first blocks of an operation: `keep` of them, or half. Nothing if that is none of them.
fn torn(op: Op, keep: Option<u64>, shift: u32) -> Option<Op> {
    let cut = |range: BlockRange| {
        let keep = keep.unwrap_or(range.count.0 / 2).min(range.count.0);
        (keep > 0).then(|| BlockRange::new(range.start.0, keep))
    };
    match op {
        Op::Write {
            range,
            mut buf,
            fua,
        } => {
            let range = cut(range)?;
            Buf::truncate(&mut buf, (range.count.0 << shift) as usize);
            Some(Op::Write { range, buf, fua })
        }
        Op::WriteZeroes {
            range,
            deallocate,
            fua,
        } => Some(Op::WriteZeroes {
            range: cut(range)?,
            deallocate,
            fua,
        }),
        other @ (Op::Read { .. } | Op::Discard { .. } | Op::Flush) => Some(other),
    }
}

/// The operation on blocks `shift` further, round the end of the device of `blocks` blocks.
fn misdirected(op: Op, shift: i64, blocks: Blocks) -> Op {
    let moved = |range: BlockRange| {
        // Start blocks from which the whole operation lies on the device; it does, so there is at least one.
        let places = i128::from(blocks.0 - range.count.0) + 1;
        let start = (i128::from(range.start.0) + i128::from(shift)).rem_euclid(places);
        BlockRange {
            start: Lba(start as u64),
            count: range.count,
        }
    };
    match op {
        Op::Read { range, buf } => Op::Read {
            range: moved(range),
            buf,
        },
        Op::Write { range, buf, fua } => Op::Write {
            range: moved(range),
            buf,
            fua,
        },
        Op::WriteZeroes {
            range,
            deallocate,
            fua,
        } => Op::WriteZeroes {
            range: moved(range),
            deallocate,
            fua,
        },
        other @ (Op::Discard { .. } | Op::Flush) => other,
    }
}

fn counter(fault: Fault) -> &'static str {
    match fault {
        Fault::Delay { .. } => "hits_delay",
        Fault::Error { .. } => "hits_error",
        Fault::Torn { .. } => "hits_torn",
        Fault::Lose { .. } => "hits_lose",
        Fault::Misdirect { .. } => "hits_misdirect",
        Fault::Rot(_) => "hits_rot",
        Fault::Stuck { .. } => "hits_stuck",
    }
}
