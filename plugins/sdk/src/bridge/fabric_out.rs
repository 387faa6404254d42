//! Transports handed out as tables.

use std::ffi::c_void;
use std::sync::Arc;
use std::time::{Duration, Instant};

use abi::*;
use nvme_spec::Cqe;

use super::convert::{address_in, address_out, payload_in};
use super::engine_in::Engine;
use super::fabric_in::Reasons;
use super::guard::Image;
use super::host_in::RemoteHost;
use super::text::{fill_text, lend, refuse, text};
use crate::buf::Buf;
use crate::fabric::{ConnId, Fabric, FabricDriver, FabricEvent, FabricSettings, Parcel};
use crate::host::StreamId;
use crate::services::Services;

/// What stands behind a transport's table.
pub(super) struct FabricDriverCell {
    driver: Box<dyn FabricDriver>,
    image: Arc<Image>,
    engine: Arc<Engine>,
}

impl FabricDriverCell {
    /// Hands a transport out, for as long as the process.
    pub(super) fn hand_out(
        driver: Box<dyn FabricDriver>,
        image: Arc<Image>,
        engine: Arc<Engine>,
    ) -> IoeFabricDriver {
        let cell = Box::leak(Box::new(Self {
            driver,
            image,
            engine,
        }));
        IoeFabricDriver {
            table: &DRIVER_TABLE,
            context: std::ptr::from_mut(cell).cast(),
        }
    }
}

static DRIVER_TABLE: IoeFabricDriverTable = IoeFabricDriverTable {
    size: size_of::<IoeFabricDriverTable>() as u32,
    version: IOE_ABI_VERSION,
    name: Some(name),
    open: Some(open),
    parcel_drop: Some(parcel_drop),
};

// Each function below is called by the owner of the table with the context it was given and arguments as the contract
// says: that is what their blocks rely on.

/// # Safety
/// `driver` is that of [`FabricDriverCell::hand_out`].
unsafe fn driver_cell<'a>(driver: *mut c_void) -> &'a FabricDriverCell {
    // SAFETY: leaked, never written.
    unsafe { &*driver.cast::<FabricDriverCell>() }
}

unsafe extern "C" fn name(driver: *mut c_void, room: *mut IoeText) -> i32 {
    // SAFETY: the owner's call.
    let cell = unsafe { driver_cell(driver) };
    cell.image.status("name", || {
        // SAFETY: room lent for the call.
        unsafe { fill_text(room, cell.driver.name()) };
        IOE_OK
    })
}

unsafe extern "C" fn open(
    driver: *mut c_void,
    _engine: *const IoeEngine,
    settings: *const IoeFabricSettings,
    fabric: *mut IoeFabric,
    failure: *mut IoeFailure,
) -> i32 {
    // SAFETY: the owner's call, with settings lent for it.
    let (cell, raw) = unsafe { (driver_cell(driver), &*settings) };
    let settings = FabricSettings {
        connections_max: raw.connections_max,
        in_capsule_bytes: raw.in_capsule_bytes,
        transfer_bytes_max: raw.transfer_bytes_max,
        queue_depth: raw.queue_depth,
        header_digest: raw.flags & IOE_FABRIC_HEADER_DIGEST != 0,
        data_digest: raw.flags & IOE_FABRIC_DATA_DIGEST != 0,
        handshake_timeout: Duration::from_millis(u64::from(raw.handshake_timeout_ms)),
        progress_timeout: Duration::from_millis(u64::from(raw.progress_timeout_ms)),
    };
    cell.image.status("open", || {
        let services: Arc<dyn Services> = cell.engine.clone();
        match cell.driver.open(&settings, &services) {
            Ok(opened) => {
                let handed = FabricCell::hand_out(opened, cell.image.clone(), cell.engine.clone());
                // SAFETY: room for a transport, lent for the call.
                unsafe { fabric.write(handed) };
                IOE_OK
            }
            // SAFETY: room lent for the call.
            Err(error) => unsafe { refuse(failure, &error) },
        }
    })
}

unsafe extern "C" fn parcel_drop(driver: *mut c_void, parcel: *mut c_void) {
    // SAFETY: the owner's call, which gives the parcel away.
    let (cell, parcel) = unsafe { (driver_cell(driver), Box::from_raw(parcel.cast::<Parcel>())) };
    // A panic while dropping has nobody left to answer to; it is logged.
    let _ = cell.image.guard("drop of a connection", || drop(parcel));
}

/// What stands behind the table of a transport's part.
pub(super) struct FabricCell {
    /// None after a panic: what panicked is kept where it is and not touched.
    fabric: Option<Box<dyn Fabric>>,
    image: Arc<Image>,
    engine: Arc<Engine>,
    timer: Option<Instant>,
    /// Words the engine closed connections with.
    reasons: Reasons,
}

impl FabricCell {
    fn hand_out(fabric: Box<dyn Fabric>, image: Arc<Image>, engine: Arc<Engine>) -> IoeFabric {
        let cell = Box::new(Self {
            fabric: Some(fabric),
            image,
            engine,
            timer: None,
            reasons: Reasons::default(),
        });
        IoeFabric {
            table: &FABRIC_TABLE,
            context: Box::into_raw(cell).cast(),
        }
    }

    /// The transport behind `raw` without its table, if that is one of this side. Then `raw` is used up.
    ///
    /// # Safety
    /// `raw` is a transport the caller owns.
    pub(super) unsafe fn take_back(raw: &IoeFabric) -> Option<Box<dyn Fabric>> {
        if !std::ptr::eq(raw.table, &FABRIC_TABLE) {
            return None;
        }
        // SAFETY: only `hand_out` passes on this table, with such a cell; the caller owns it.
        let cell = unsafe { Box::from_raw(raw.context.cast::<Self>()) };
        cell.fabric
    }

    #[inline]
    fn enter<R>(&mut self, what: &str, code: impl FnOnce(&mut dyn Fabric) -> R) -> Option<R> {
        let fabric = &mut **self.fabric.as_mut()?;
        let done = self.image.guard(what, || code(fabric));
        if done.is_none() {
            std::mem::forget(self.fabric.take());
        }
        done
    }

    #[inline]
    fn enter_with_host<R>(
        &mut self,
        what: &str,
        host: *const IoeHost,
        code: impl FnOnce(&mut dyn Fabric, &mut RemoteHost<'_>) -> R,
    ) -> Option<R> {
        let fabric = &mut **self.fabric.as_mut()?;
        // SAFETY: the engine lends the host for this call.
        let mut host = unsafe { RemoteHost::new(host, &self.image.clock, Some(&self.engine)) };
        let done = self.image.guard(what, || {
            let done = code(fabric, &mut host);
            (done, fabric.poll_timeout())
        });
        let Some((done, timer)) = done else {
            std::mem::forget(self.fabric.take());
            return None;
        };
        if timer != self.timer {
            self.timer = timer;
            host.set_timer(timer);
        }
        Some(done)
    }
}

fn answer(entered: Option<()>) -> i32 {
    entered.map_or(IOE_PANICKED, |()| IOE_OK)
}

static FABRIC_TABLE: IoeFabricTable = IoeFabricTable {
    size: size_of::<IoeFabricTable>() as u32,
    version: IOE_ABI_VERSION,
    accepted: Some(accepted),
    readable: Some(readable),
    writable: Some(writable),
    timer: Some(timer),
    events: Some(events),
    fetch: Some(fetch),
    respond: Some(respond),
    forget: Some(forget),
    flush: Some(flush),
    sent: Some(sent),
    close: Some(close),
    detach: Some(detach),
    attach: Some(attach),
    connections: Some(connections),
    drop: Some(drop_fabric),
};

/// # Safety
/// `fabric` is that of [`FabricCell::hand_out`], not yet dropped, on its reactor.
#[inline]
unsafe fn cell<'a>(fabric: *mut c_void) -> &'a mut FabricCell {
    // SAFETY: the caller's.
    unsafe { &mut *fabric.cast::<FabricCell>() }
}

unsafe extern "C" fn accepted(
    fabric: *mut c_void,
    host: *const IoeHost,
    stream: u64,
    local: *const IoeAddress,
    peer: *const IoeAddress,
    conn: *mut u64,
) -> i32 {
    // SAFETY: the owner's call, with addresses lent for it.
    let (cell, local, peer) = unsafe { (cell(fabric), address_in(&*local), address_in(&*peer)) };
    let (Some(local), Some(peer)) = (local, peer) else {
        return IOE_INVALID;
    };
    let accepted = cell.enter_with_host("accepted", host, |fabric, host| {
        fabric.handle_accepted(host, StreamId(stream), local, peer)
    });
    match accepted {
        Some(Some(named)) => {
            // SAFETY: room for one number, lent for the call.
            unsafe { conn.write(named.0) };
            IOE_OK
        }
        Some(None) => IOE_TOO_MANY,
        None => IOE_PANICKED,
    }
}

unsafe extern "C" fn readable(fabric: *mut c_void, host: *const IoeHost, stream: u64) -> i32 {
    // SAFETY: the owner's call.
    let cell = unsafe { cell(fabric) };
    answer(cell.enter_with_host("readable", host, |fabric, host| {
        fabric.handle_readable(host, StreamId(stream));
    }))
}

unsafe extern "C" fn writable(fabric: *mut c_void, host: *const IoeHost, stream: u64) -> i32 {
    // SAFETY: the owner's call.
    let cell = unsafe { cell(fabric) };
    answer(cell.enter_with_host("writable", host, |fabric, host| {
        fabric.handle_writable(host, StreamId(stream));
    }))
}

unsafe extern "C" fn timer(fabric: *mut c_void, host: *const IoeHost) -> i32 {
    // SAFETY: the owner's call.
    let cell = unsafe { cell(fabric) };
    // The host's timer has run out, whatever the fabric wants next.
    cell.timer = None;
    answer(cell.enter_with_host("timer", host, |fabric, host| fabric.handle_timeout(host)))
}

unsafe extern "C" fn events(fabric: *mut c_void, room: *mut IoeFabricEvent, max: u32) -> i32 {
    // SAFETY: the owner's call, with room for `max` events.
    let (cell, room) = unsafe {
        (
            cell(fabric),
            std::slice::from_raw_parts_mut(room, max as usize),
        )
    };
    let taken = cell.enter("events", |fabric| {
        let mut taken = 0;
        for room in room {
            let Some(event) = fabric.poll_event() else {
                break;
            };
            event_out(event, room);
            taken += 1;
        }
        taken
    });
    taken.unwrap_or(-IOE_PANICKED)
}

/// Writes an event into room that came blank.
#[inline]
fn event_out(event: FabricEvent, room: &mut IoeFabricEvent) {
    let ok = |data_ok| if data_ok { IOE_FABRIC_DATA_OK } else { 0 };
    match event {
        FabricEvent::Connected { conn, local, peer } => {
            (room.kind, room.conn) = (IOE_FABRIC_CONNECTED, conn.0);
            room.local = address_out(Some(local));
            room.peer = address_out(Some(peer));
        }
        FabricEvent::Capsule {
            conn,
            sqe,
            data,
            data_ok,
        } => {
            (room.kind, room.conn, room.flags) = (IOE_FABRIC_CAPSULE, conn.0, ok(data_ok));
            room.sqe = sqe.0;
            if let Some(data) = data {
                room.data = data.into_abi();
            }
        }
        FabricEvent::Fetched {
            conn,
            token,
            buf,
            data_ok,
        } => {
            (room.kind, room.conn, room.flags) = (IOE_FABRIC_FETCHED, conn.0, ok(data_ok));
            room.token = token;
            room.data = buf.into_abi();
        }
        FabricEvent::Closed { conn, reason } => {
            (room.kind, room.conn) = (IOE_FABRIC_CLOSED, conn.0);
            room.reason = lend(reason);
        }
    }
}

unsafe extern "C" fn fetch(
    fabric: *mut c_void,
    conn: u64,
    cid: u32,
    token: u64,
    buf: *const IoeBuf,
) -> i32 {
    // SAFETY: the owner's call, which gives the buffer away.
    let (cell, buf) = unsafe { (cell(fabric), Buf::from_abi(*buf)) };
    let (Some(buf), Ok(cid)) = (buf, u16::try_from(cid)) else {
        return IOE_INVALID;
    };
    answer(cell.enter("fetch", |fabric| {
        fabric.fetch(ConnId(conn), cid, token, buf)
    }))
}

unsafe extern "C" fn respond(fabric: *mut c_void, conn: u64, raw: *const IoeFabricAnswer) -> i32 {
    // SAFETY: the owner's call, with an answer lent for it.
    let (cell, raw) = unsafe { (cell(fabric), &*raw) };
    let responded = cell.enter("respond", |fabric| {
        // SAFETY: the owner gives buffer and segments away.
        let data = unsafe { payload_in(&raw.data, raw.segments, raw.segment_count) };
        let Ok(data) = data else {
            return IOE_INVALID;
        };
        let cqe = Cqe::from_bytes(&raw.cqe);
        let implicit = raw.flags & IOE_FABRIC_IMPLICIT != 0;
        fabric.respond(ConnId(conn), &cqe, data, implicit);
        IOE_OK
    });
    responded.unwrap_or(IOE_PANICKED)
}

unsafe extern "C" fn forget(fabric: *mut c_void, conn: u64, cid: u32) -> i32 {
    // SAFETY: the owner's call.
    let cell = unsafe { cell(fabric) };
    let Ok(cid) = u16::try_from(cid) else {
        return IOE_INVALID;
    };
    answer(cell.enter("forget", |fabric| fabric.forget(ConnId(conn), cid)))
}

unsafe extern "C" fn flush(fabric: *mut c_void, host: *const IoeHost) -> i32 {
    // SAFETY: the owner's call.
    let cell = unsafe { cell(fabric) };
    answer(cell.enter_with_host("flush", host, |fabric, host| fabric.flush(host)))
}

unsafe extern "C" fn sent(fabric: *mut c_void, conn: *mut u64, bytes: *mut u64) -> i32 {
    // SAFETY: the owner's call.
    let cell = unsafe { cell(fabric) };
    match cell.enter("sent", |fabric| fabric.poll_sent()) {
        Some(Some((named, count))) => {
            // SAFETY: room for two numbers, lent for the call.
            unsafe {
                conn.write(named.0);
                bytes.write(count as u64);
            }
            1
        }
        Some(None) => 0,
        None => -IOE_PANICKED,
    }
}

unsafe extern "C" fn close(
    fabric: *mut c_void,
    host: *const IoeHost,
    conn: u64,
    reason: IoeStr,
) -> i32 {
    // SAFETY: the owner's call, with a word lent for it.
    let (cell, word) = unsafe { (cell(fabric), text(reason)) };
    let reason = cell.reasons.keep(word);
    answer(cell.enter_with_host("close", host, |fabric, host| {
        fabric.close(host, ConnId(conn), reason);
    }))
}

unsafe extern "C" fn detach(
    fabric: *mut c_void,
    host: *const IoeHost,
    conn: u64,
    parcel: *mut *mut c_void,
) -> i32 {
    // SAFETY: the owner's call.
    let cell = unsafe { cell(fabric) };
    let detached = cell.enter_with_host("detach", host, |fabric, host| {
        fabric.detach(host, ConnId(conn))
    });
    match detached {
        Some(Some(taken)) => {
            let raw: *mut Parcel = Box::into_raw(Box::new(taken));
            // SAFETY: room for one pointer, lent for the call.
            unsafe { parcel.write(raw.cast()) };
            IOE_OK
        }
        Some(None) => IOE_GONE,
        None => IOE_PANICKED,
    }
}

unsafe extern "C" fn attach(
    fabric: *mut c_void,
    host: *const IoeHost,
    parcel: *mut c_void,
    attached: *mut IoeAttached,
) -> i32 {
    // SAFETY: the owner's call, which gives the parcel away.
    let (cell, parcel) = unsafe { (cell(fabric), Box::from_raw(parcel.cast::<Parcel>())) };
    match cell.enter_with_host("attach", host, |fabric, host| fabric.attach(host, *parcel)) {
        Some(Some(arrived)) => {
            let raw = IoeAttached {
                conn: arrived.conn.0,
                local: address_out(Some(arrived.local)),
                peer: address_out(Some(arrived.peer)),
            };
            // SAFETY: room lent for the call.
            unsafe { attached.write(raw) };
            IOE_OK
        }
        Some(None) => IOE_TOO_MANY,
        None => IOE_PANICKED,
    }
}

unsafe extern "C" fn connections(fabric: *mut c_void) -> u64 {
    // SAFETY: the owner's call.
    let cell = unsafe { cell(fabric) };
    cell.enter("connections", |fabric| fabric.connections() as u64)
        .unwrap_or(0)
}

unsafe extern "C" fn drop_fabric(fabric: *mut c_void) {
    // SAFETY: the owner's last call.
    let cell = unsafe { Box::from_raw(fabric.cast::<FabricCell>()) };
    let image = cell.image.clone();
    // A panic while dropping has nobody left to answer to; it is logged.
    let _ = image.guard("drop of a fabric", || drop(cell));
}
