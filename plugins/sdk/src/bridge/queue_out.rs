//! A queue handed out as a table.

use std::ffi::c_void;
use std::sync::Arc;
use std::time::Instant;

use abi::*;

use super::convert::{
    done_out, end_out, extent_out, file_done_in, geometry_in, op_in, point, range_in,
};
use super::engine_in::Engine;
use super::guard::Image;
use super::host_in::RemoteHost;
use crate::block::{IoTag, Queue, QueueSeed, Submitted};
use crate::buf::Segments;
use crate::host::OwnerId;

/// What stands behind the table.
pub(super) struct QueueCell {
    image: Arc<Image>,
    /// The engine, on the plugin's side of the line.
    engine: Option<Arc<Engine>>,
    stage: Stage,
    /// The timer as the host knows it.
    timer: Option<Instant>,
    /// Segments of the ends last taken out, until the next call.
    lent: Vec<IoeSegment>,
    /// Segments of the end last returned by `submit`, until the next one.
    array: Segments,
}

enum Stage {
    Seed(Box<dyn QueueSeed>),
    Started(Box<dyn Queue>),
    /// It panicked, or its start failed. What panicked is kept where it is and not touched.
    Dead,
}

impl QueueCell {
    /// Hands a queue out; whoever has the table owns it.
    pub(super) fn hand_out(
        seed: Box<dyn QueueSeed>,
        image: Arc<Image>,
        engine: Option<Arc<Engine>>,
    ) -> IoeQueue {
        let table = match seed.may_be_polled() {
            true => &POLLED_TABLE,
            false => &QUEUE_TABLE,
        };
        let cell = Box::new(Self {
            image,
            engine,
            stage: Stage::Seed(seed),
            timer: None,
            lent: Vec::new(),
            array: Segments::new(),
        });
        IoeQueue {
            table,
            context: Box::into_raw(cell).cast(),
        }
    }

    /// The queue behind `raw` without its table, if that is one of this side and the queue was not started. Then `raw` is used up.
    ///
    /// # Safety
    /// `raw` is a queue the caller owns.
    pub(super) unsafe fn take_back(raw: &IoeQueue) -> Option<Box<dyn QueueSeed>> {
        let tables = [&raw const QUEUE_TABLE, &raw const POLLED_TABLE];
        if !tables.contains(&raw.table) {
            return None;
        }
        // SAFETY: only `hand_out` passes on these tables, with such a cell; the caller owns it.
        let mut cell = unsafe { Box::from_raw(raw.context.cast::<Self>()) };
        match std::mem::replace(&mut cell.stage, Stage::Dead) {
            Stage::Seed(seed) => Some(seed),
            stage @ (Stage::Started(_) | Stage::Dead) => {
                cell.stage = stage;
                // It stays where its table says.
                let _ = Box::into_raw(cell);
                None
            }
        }
    }

    /// Runs the queue's code. After a panic it is never entered again, nor dropped.
    #[inline]
    fn enter<R>(
        &mut self,
        what: &str,
        code: impl FnOnce(&mut dyn Queue, &mut Vec<IoeSegment>) -> R,
    ) -> Option<R> {
        let Stage::Started(queue) = &mut self.stage else {
            return None;
        };
        let (queue, lent) = (&mut **queue, &mut self.lent);
        let done = self.image.guard(what, || code(queue, lent));
        if done.is_none() {
            self.kill();
        }
        done
    }

    /// As `enter`, with the host; sets the timer anew if the queue's changed.
    #[inline]
    fn enter_with_host<R>(
        &mut self,
        what: &str,
        host: *const IoeHost,
        code: impl FnOnce(&mut dyn Queue, &mut RemoteHost<'_>, &mut Segments) -> R,
    ) -> Option<R> {
        let Stage::Started(queue) = &mut self.stage else {
            return None;
        };
        let (queue, array) = (&mut **queue, &mut self.array);
        // SAFETY: the engine lends the host for this call.
        let mut host = unsafe { RemoteHost::new(host, &self.image.clock, self.engine.as_ref()) };
        let done = self.image.guard(what, || {
            let done = code(queue, &mut host, array);
            (done, queue.poll_timeout())
        });
        let Some((done, timer)) = done else {
            self.kill();
            return None;
        };
        if timer != self.timer {
            self.timer = timer;
            host.set_timer(timer);
        }
        Some(done)
    }

    #[cold]
    fn kill(&mut self) {
        std::mem::forget(std::mem::replace(&mut self.stage, Stage::Dead));
    }
}

/// Of a queue that never asks for turns, which then cost nothing.
static QUEUE_TABLE: IoeQueueTable = IoeQueueTable {
    turn: None,
    ..TABLE
};

static POLLED_TABLE: IoeQueueTable = TABLE;

const TABLE: IoeQueueTable = IoeQueueTable {
    size: size_of::<IoeQueueTable>() as u32,
    version: IOE_ABI_VERSION,
    start: Some(start),
    submit: Some(submit),
    poll: Some(poll),
    file_done: Some(file_done),
    timer: Some(timer),
    wake: Some(wake),
    turn: Some(turn),
    extents: Some(extents),
    set_geometry: Some(set_geometry),
    close: Some(close),
    drop: Some(drop_queue),
};

/// # Safety
/// `queue` is that of [`QueueCell::hand_out`], not yet dropped, called by one thread at a time.
#[inline]
unsafe fn cell<'a>(queue: *mut c_void) -> &'a mut QueueCell {
    // SAFETY: the caller's.
    unsafe { &mut *queue.cast::<QueueCell>() }
}

// Each function below is called by the owner of the table with the context it was given and arguments as the contract
// says: that is what their blocks rely on.

unsafe extern "C" fn start(queue: *mut c_void, host: *const IoeHost, owner: u32) -> i32 {
    // SAFETY: the owner's call.
    let cell = unsafe { cell(queue) };
    let Stage::Seed(seed) = std::mem::replace(&mut cell.stage, Stage::Dead) else {
        return IOE_INVALID;
    };
    let engine = cell.engine.clone();
    // SAFETY: the engine lends the host for this call.
    let mut host = unsafe { RemoteHost::new(host, &cell.image.clock, engine.as_ref()) };
    let opened = cell
        .image
        .guard("start of a queue", || seed.open(&mut host, OwnerId(owner)));
    match opened {
        Some(Ok(queue)) => {
            cell.stage = Stage::Started(queue);
            IOE_OK
        }
        Some(Err(error)) => done_out(0, Err(error), &mut cell.lent).status,
        None => IOE_PANICKED,
    }
}

unsafe extern "C" fn submit(
    queue: *mut c_void,
    host: *const IoeHost,
    op: *const IoeOp,
    done: *mut IoeDone,
) -> i32 {
    // SAFETY: the owner's call.
    let (cell, raw, done) = unsafe { (cell(queue), &*op, &mut *done) };
    let submitted = cell.enter_with_host("submit", host, |queue, host, array| {
        // SAFETY: the owner gives the buffer away.
        let op = match unsafe { op_in(raw) } {
            Ok(op) => op,
            Err(status) => return status,
        };
        match queue.submit(host, IoTag(raw.tag), op) {
            Submitted::Pending => IOE_PENDING,
            Submitted::Done(result) => {
                end_out(done, result, array);
                IOE_OK
            }
        }
    });
    submitted.unwrap_or(IOE_PANICKED)
}

unsafe extern "C" fn poll(queue: *mut c_void, done: *mut IoeDone, max: u32) -> i32 {
    // SAFETY: the owner's call, with room for `max` ends.
    let (cell, room) = unsafe {
        (
            cell(queue),
            std::slice::from_raw_parts_mut(done, max as usize),
        )
    };
    cell.lent.clear();
    let taken = cell.enter("poll", |queue, lent| {
        let mut taken = 0;
        while taken < room.len()
            && let Some((IoTag(tag), result)) = queue.poll_completion()
        {
            room[taken] = done_out(tag, result, lent);
            taken += 1;
        }
        taken
    });
    match taken {
        Some(taken) => {
            point(&mut room[..taken], &cell.lent);
            taken as i32
        }
        None => -IOE_PANICKED,
    }
}

unsafe extern "C" fn file_done(
    queue: *mut c_void,
    host: *const IoeHost,
    done: *const IoeFileDone,
) -> i32 {
    // SAFETY: the owner's call, which gives the buffer away.
    let (cell, done) = unsafe { (cell(queue), file_done_in(&*done)) };
    let Some(done) = done else { return IOE_INVALID };
    let entered = cell.enter_with_host("file_done", host, |queue, host, _| {
        queue.handle_file_done(host, done);
    });
    entered.map_or(IOE_PANICKED, |()| IOE_OK)
}

unsafe extern "C" fn timer(queue: *mut c_void, host: *const IoeHost) -> i32 {
    // SAFETY: the owner's call.
    let cell = unsafe { cell(queue) };
    // The host's timer has run out, whatever the queue wants next.
    cell.timer = None;
    let entered = cell.enter_with_host("timer", host, |queue, host, _| queue.handle_timeout(host));
    entered.map_or(IOE_PANICKED, |()| IOE_OK)
}

unsafe extern "C" fn wake(queue: *mut c_void, host: *const IoeHost) -> i32 {
    // SAFETY: the owner's call.
    let cell = unsafe { cell(queue) };
    let entered = cell.enter_with_host("wake", host, |queue, host, _| queue.handle_wake(host));
    entered.map_or(IOE_PANICKED, |()| IOE_OK)
}

unsafe extern "C" fn turn(queue: *mut c_void, host: *const IoeHost) -> i32 {
    // SAFETY: the owner's call.
    let cell = unsafe { cell(queue) };
    let busy = cell.enter_with_host("turn", host, |queue, host, _| {
        queue.is_polled() && queue.handle_turn(host)
    });
    busy.map_or(-IOE_PANICKED, i32::from)
}

unsafe extern "C" fn extents(
    queue: *mut c_void,
    range: IoeRange,
    extents: *mut IoeExtent,
    max: u32,
) -> i32 {
    // SAFETY: the owner's call, with room for `max` extents.
    let (cell, room) = unsafe {
        (
            cell(queue),
            std::slice::from_raw_parts_mut(extents, max as usize),
        )
    };
    match cell.enter("extents", |queue, _| queue.extents(range_in(range))) {
        Some(Some(found)) => {
            let taken = found.len().min(room.len());
            for (room, extent) in room.iter_mut().zip(&found) {
                *room = extent_out(extent);
            }
            taken as i32
        }
        Some(None) => -IOE_NOT_SUPPORTED,
        None => -IOE_PANICKED,
    }
}

unsafe extern "C" fn set_geometry(queue: *mut c_void, geometry: *const IoeGeometry) -> i32 {
    // SAFETY: the owner's call, with a size lent for it.
    let (cell, geometry) = unsafe { (cell(queue), geometry_in(*geometry)) };
    let Some(geometry) = geometry else {
        return IOE_INVALID;
    };
    let entered = cell.enter("set_geometry", |queue, _| queue.set_geometry(geometry));
    entered.map_or(IOE_PANICKED, |()| IOE_OK)
}

unsafe extern "C" fn close(queue: *mut c_void, host: *const IoeHost) -> i32 {
    // SAFETY: the owner's call.
    let cell = unsafe { cell(queue) };
    let entered = cell.enter_with_host("close", host, |queue, host, _| queue.close(host));
    entered.map_or(IOE_PANICKED, |()| IOE_OK)
}

unsafe extern "C" fn drop_queue(queue: *mut c_void) {
    // SAFETY: the owner's last call.
    let cell = unsafe { Box::from_raw(queue.cast::<QueueCell>()) };
    let image = cell.image.clone();
    // A panic while dropping has nobody left to answer to; it is logged.
    let _ = image.guard("drop of a queue", || drop(cell));
}
