//! Protocols and their servers handed out as tables.

use std::ffi::c_void;
use std::sync::Arc;
use std::time::{Duration, Instant};

use abi::*;

use super::convert::{
    NO_BUF, address_in, address_out, capabilities_in, error_in, extent_in, geometry_in, op_out,
    payload_in, range_out,
};
use super::engine_in::Engine;
use super::guard::Image;
use super::host_in::RemoteHost;
use super::text::{fill_text, lend, refuse, text};
use crate::block::{Extent, IoError, Op};
use crate::export::{
    Export, ExportDriver, ExportEvent, ExportSeed, ExportServer, ExportSettings, Volume, VolumeId,
};
use crate::fabric::{ConnId, Parcel};
use crate::host::{HostError, ListenerId, OwnerId, StreamId};
use crate::services::Services;

/// What stands behind a protocol's table.
pub(super) struct ExportDriverCell {
    driver: Box<dyn ExportDriver>,
    image: Arc<Image>,
    engine: Arc<Engine>,
}

impl ExportDriverCell {
    /// Hands a protocol out, for as long as the process.
    pub(super) fn hand_out(
        driver: Box<dyn ExportDriver>,
        image: Arc<Image>,
        engine: Arc<Engine>,
    ) -> IoeExportDriver {
        let cell = Box::leak(Box::new(Self {
            driver,
            image,
            engine,
        }));
        IoeExportDriver {
            table: &DRIVER_TABLE,
            context: std::ptr::from_mut(cell).cast(),
        }
    }
}

static DRIVER_TABLE: IoeExportDriverTable = IoeExportDriverTable {
    size: size_of::<IoeExportDriverTable>() as u32,
    version: IOE_ABI_VERSION,
    protocol: Some(protocol),
    open: Some(open),
    parcel_drop: Some(parcel_drop),
};

// Each function below is called by the owner of the table with the context it was given and arguments as the contract
// says: that is what their blocks rely on.

/// # Safety
/// `driver` is that of [`ExportDriverCell::hand_out`].
unsafe fn driver_cell<'a>(driver: *mut c_void) -> &'a ExportDriverCell {
    // SAFETY: leaked, never written.
    unsafe { &*driver.cast::<ExportDriverCell>() }
}

unsafe extern "C" fn protocol(driver: *mut c_void, room: *mut IoeText) -> i32 {
    // SAFETY: the owner's call.
    let cell = unsafe { driver_cell(driver) };
    cell.image.status("protocol", || {
        // SAFETY: room lent for the call.
        unsafe { fill_text(room, cell.driver.protocol()) };
        IOE_OK
    })
}

unsafe extern "C" fn open(
    driver: *mut c_void,
    _engine: *const IoeEngine,
    settings: *const IoeExportSettings,
    server: *mut IoeExportServer,
    failure: *mut IoeFailure,
) -> i32 {
    // SAFETY: the owner's call, with settings lent for it.
    let (cell, raw) = unsafe { (driver_cell(driver), &*settings) };
    let listen: &[IoeStr] = match raw.listen_count {
        0 => &[],
        // SAFETY: the settings hold that many addresses.
        count => unsafe { std::slice::from_raw_parts(raw.listen, count as usize) },
    };
    let settings = ExportSettings {
        // SAFETY: texts lent for the call.
        listen: listen
            .iter()
            .map(|address| unsafe { text(*address) }.to_owned())
            .collect(),
        connections_max: raw.connections_max as usize,
        transfer_bytes_max: raw.transfer_bytes_max,
        requests_max: raw.requests_max as usize,
        handshake_timeout: Duration::from_millis(u64::from(raw.handshake_timeout_ms)),
    };
    cell.image.status("open", || {
        let services: Arc<dyn Services> = cell.engine.clone();
        match cell.driver.open(&settings, &services) {
            Ok(opened) => {
                let handed = ServerCell::hand_out(opened, cell.image.clone(), cell.engine.clone());
                // SAFETY: room for a server, lent for the call.
                unsafe { server.write(handed) };
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

/// What stands behind a server's table.
struct ServerCell {
    /// None after a panic: what panicked is kept where it is and not touched.
    server: Option<Box<dyn ExportServer>>,
    image: Arc<Image>,
    engine: Arc<Engine>,
}

impl ServerCell {
    fn hand_out(
        server: Box<dyn ExportServer>,
        image: Arc<Image>,
        engine: Arc<Engine>,
    ) -> IoeExportServer {
        let cell = Box::new(Self {
            server: Some(server),
            image,
            engine,
        });
        IoeExportServer {
            table: &SERVER_TABLE,
            context: Box::into_raw(cell).cast(),
        }
    }

    fn enter(&mut self, what: &str, code: impl FnOnce(&mut dyn ExportServer) -> i32) -> i32 {
        let Some(server) = &mut self.server else {
            return IOE_PANICKED;
        };
        let status = self.image.guard(what, || code(&mut **server));
        status.unwrap_or_else(|| {
            std::mem::forget(self.server.take());
            IOE_PANICKED
        })
    }
}

static SERVER_TABLE: IoeExportServerTable = IoeExportServerTable {
    size: size_of::<IoeExportServerTable>() as u32,
    version: IOE_ABI_VERSION,
    uri: Some(uri),
    seat_open: Some(seat_open),
    close: Some(close_server),
};

/// # Safety
/// `server` is that of [`ServerCell::hand_out`], not yet closed, called by one thread at a time.
unsafe fn server_cell<'a>(server: *mut c_void) -> &'a mut ServerCell {
    // SAFETY: the caller's.
    unsafe { &mut *server.cast::<ServerCell>() }
}

unsafe extern "C" fn uri(server: *mut c_void, name: IoeStr, room: *mut IoeText) -> i32 {
    // SAFETY: the owner's call, with text lent for it.
    let (cell, name) = unsafe { (server_cell(server), text(name)) };
    cell.enter("uri", |server| {
        // SAFETY: room lent for the call.
        unsafe { fill_text(room, &server.uri(name)) };
        IOE_OK
    })
}

unsafe extern "C" fn seat_open(
    server: *mut c_void,
    part: *mut IoeExport,
    failure: *mut IoeFailure,
) -> i32 {
    // SAFETY: the owner's call.
    let cell = unsafe { server_cell(server) };
    let (image, engine) = (cell.image.clone(), cell.engine.clone());
    cell.enter("open_seat", |server| match server.open_seat() {
        Ok(seed) => {
            // SAFETY: room lent for the call.
            unsafe { part.write(PartCell::hand_out(seed, image, engine)) };
            IOE_OK
        }
        // SAFETY: room lent for the call.
        Err(error) => unsafe { refuse(failure, &error) },
    })
}

unsafe extern "C" fn close_server(server: *mut c_void) {
    // SAFETY: the owner's last call.
    let cell = unsafe { Box::from_raw(server.cast::<ServerCell>()) };
    let image = cell.image.clone();
    // A panic while dropping has nobody left to answer to; it is logged.
    let _ = image.guard("drop of a server", || drop(cell));
}

/// What stands behind the table of a server's part.
pub(super) struct PartCell {
    stage: Stage,
    image: Arc<Image>,
    engine: Arc<Engine>,
    timer: Option<Instant>,
}

enum Stage {
    Seed(Box<dyn ExportSeed>),
    Started(Box<dyn Export>),
    /// It panicked, or its start failed. What panicked is kept where it is and not touched.
    Dead,
}

impl PartCell {
    /// The part behind `raw` without its table, if that is one of this side and the part was not started. Then `raw` is used up.
    ///
    /// # Safety
    /// `raw` is a part the caller owns.
    pub(super) unsafe fn take_back(raw: &IoeExport) -> Option<Box<dyn ExportSeed>> {
        if !std::ptr::eq(raw.table, &EXPORT_TABLE) {
            return None;
        }
        // SAFETY: only `hand_out` passes on this table, with such a cell; the caller owns it.
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

    fn hand_out(seed: Box<dyn ExportSeed>, image: Arc<Image>, engine: Arc<Engine>) -> IoeExport {
        let cell = Box::new(Self {
            stage: Stage::Seed(seed),
            image,
            engine,
            timer: None,
        });
        IoeExport {
            table: &EXPORT_TABLE,
            context: Box::into_raw(cell).cast(),
        }
    }

    #[cold]
    fn kill(&mut self) {
        std::mem::forget(std::mem::replace(&mut self.stage, Stage::Dead));
    }

    #[inline]
    fn enter<R>(&mut self, what: &str, code: impl FnOnce(&mut dyn Export) -> R) -> Option<R> {
        let Stage::Started(part) = &mut self.stage else {
            return None;
        };
        let done = self.image.guard(what, || code(&mut **part));
        if done.is_none() {
            self.kill();
        }
        done
    }

    #[inline]
    fn enter_with_host<R>(
        &mut self,
        what: &str,
        host: *const IoeHost,
        code: impl FnOnce(&mut dyn Export, &mut RemoteHost<'_>) -> R,
    ) -> Option<R> {
        let Stage::Started(part) = &mut self.stage else {
            return None;
        };
        // SAFETY: the engine lends the host for this call.
        let mut host = unsafe { RemoteHost::new(host, &self.image.clock, Some(&self.engine)) };
        let done = self.image.guard(what, || {
            let done = code(&mut **part, &mut host);
            (done, part.poll_timeout())
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
}

fn answer(entered: Option<()>) -> i32 {
    entered.map_or(IOE_PANICKED, |()| IOE_OK)
}

static EXPORT_TABLE: IoeExportTable = IoeExportTable {
    size: size_of::<IoeExportTable>() as u32,
    version: IOE_ABI_VERSION,
    start: Some(start),
    add_volume: Some(add_volume),
    remove_volume: Some(remove_volume),
    set_geometry: Some(set_geometry),
    accepted: Some(accepted),
    readable: Some(readable),
    writable: Some(writable),
    io_done: Some(io_done),
    extents_done: Some(extents_done),
    timer: Some(timer),
    event: Some(event),
    flush: Some(flush),
    detach: Some(detach),
    attach: Some(attach),
    connections: Some(connections),
    close: Some(close),
    drop: Some(drop_part),
};

/// # Safety
/// `part` is that of [`PartCell::hand_out`], not yet dropped, called by one thread at a time.
#[inline]
unsafe fn cell<'a>(part: *mut c_void) -> &'a mut PartCell {
    // SAFETY: the caller's.
    unsafe { &mut *part.cast::<PartCell>() }
}

unsafe extern "C" fn start(part: *mut c_void, host: *const IoeHost, owner: u32) -> i32 {
    // SAFETY: the owner's call.
    let cell = unsafe { cell(part) };
    let Stage::Seed(seed) = std::mem::replace(&mut cell.stage, Stage::Dead) else {
        return IOE_INVALID;
    };
    // SAFETY: the engine lends the host for this call.
    let mut host = unsafe { RemoteHost::new(host, &cell.image.clock, Some(&cell.engine)) };
    let opened = cell.image.guard("start of an export", || {
        seed.open(&mut host, OwnerId(owner))
    });
    match opened {
        Some(Ok(part)) => {
            cell.stage = Stage::Started(part);
            IOE_OK
        }
        Some(Err(HostError::TooMany)) => IOE_TOO_MANY,
        Some(Err(HostError::System(_))) => IOE_SYSTEM,
        None => IOE_PANICKED,
    }
}

unsafe extern "C" fn add_volume(part: *mut c_void, volume: *const IoeVolume) -> i32 {
    // SAFETY: the owner's call, with a volume lent for it.
    let (cell, raw) = unsafe { (cell(part), &*volume) };
    let Some(geometry) = geometry_in(raw.geometry) else {
        return IOE_INVALID;
    };
    let volume = Volume {
        id: VolumeId(raw.id),
        // SAFETY: texts lent for the call.
        name: unsafe { text(raw.name) }.to_owned(),
        // SAFETY: as above.
        description: unsafe { text(raw.description) }.to_owned(),
        geometry,
        capabilities: capabilities_in(raw.capabilities),
        read_only: raw.flags & IOE_VOLUME_READ_ONLY != 0,
        is_here: raw.flags & IOE_VOLUME_HERE != 0,
    };
    answer(cell.enter("add_volume", |part| part.add_volume(volume)))
}

unsafe extern "C" fn remove_volume(part: *mut c_void, host: *const IoeHost, volume: u64) -> i32 {
    // SAFETY: the owner's call.
    let cell = unsafe { cell(part) };
    answer(cell.enter_with_host("remove_volume", host, |part, host| {
        part.remove_volume(host, VolumeId(volume));
    }))
}

unsafe extern "C" fn set_geometry(
    part: *mut c_void,
    volume: u64,
    geometry: *const IoeGeometry,
) -> i32 {
    // SAFETY: the owner's call, with a size lent for it.
    let (cell, geometry) = unsafe { (cell(part), geometry_in(*geometry)) };
    let Some(geometry) = geometry else {
        return IOE_INVALID;
    };
    answer(cell.enter("set_geometry", |part| {
        part.set_geometry(VolumeId(volume), geometry)
    }))
}

unsafe extern "C" fn accepted(
    part: *mut c_void,
    host: *const IoeHost,
    listener: u32,
    stream: u64,
    peer: *const IoeAddress,
) -> i32 {
    // SAFETY: the owner's call, with an address lent for it.
    let (cell, peer) = unsafe { (cell(part), address_in(&*peer)) };
    answer(cell.enter_with_host("accepted", host, |part, host| {
        part.handle_accepted(host, ListenerId(listener), StreamId(stream), peer);
    }))
}

unsafe extern "C" fn readable(part: *mut c_void, host: *const IoeHost, stream: u64) -> i32 {
    // SAFETY: the owner's call.
    let cell = unsafe { cell(part) };
    answer(cell.enter_with_host("readable", host, |part, host| {
        part.handle_readable(host, StreamId(stream));
    }))
}

unsafe extern "C" fn writable(part: *mut c_void, host: *const IoeHost, stream: u64) -> i32 {
    // SAFETY: the owner's call.
    let cell = unsafe { cell(part) };
    answer(cell.enter_with_host("writable", host, |part, host| {
        part.handle_writable(host, StreamId(stream));
    }))
}

unsafe extern "C" fn io_done(part: *mut c_void, host: *const IoeHost, done: *const IoeDone) -> i32 {
    // SAFETY: the owner's call, with an end lent for it.
    let (cell, raw) = unsafe { (cell(part), &*done) };
    answer(cell.enter_with_host("io_done", host, |part, host| {
        // SAFETY: the owner gives buffer and segments away.
        let payload = unsafe { payload_in(&raw.buf, raw.segments, raw.segment_count) };
        let result = match (raw.status, payload) {
            (IOE_OK, Ok(payload)) => Ok(payload),
            (status, _) => Err(error_in(status, raw.detail).unwrap_or(IoError::Aborted)),
        };
        part.handle_io_done(host, raw.tag, result);
    }))
}

unsafe extern "C" fn extents_done(
    part: *mut c_void,
    host: *const IoeHost,
    token: u64,
    extents: *const IoeExtent,
    count: u32,
) -> i32 {
    // SAFETY: the owner's call.
    let cell = unsafe { cell(part) };
    let raw: &[IoeExtent] = match count {
        0 => &[],
        // SAFETY: that many extents, lent for the call.
        count => unsafe { std::slice::from_raw_parts(extents, count as usize) },
    };
    let extents: Vec<Extent> = raw.iter().map(extent_in).collect();
    answer(cell.enter_with_host("extents_done", host, |part, host| {
        part.handle_extents(host, token, &extents);
    }))
}

unsafe extern "C" fn timer(part: *mut c_void, host: *const IoeHost) -> i32 {
    // SAFETY: the owner's call.
    let cell = unsafe { cell(part) };
    // The host's timer has run out, whatever the export wants next.
    cell.timer = None;
    answer(cell.enter_with_host("timer", host, |part, host| part.handle_timeout(host)))
}

unsafe extern "C" fn event(part: *mut c_void, room: *mut IoeExportEvent) -> i32 {
    // SAFETY: the owner's call, with room for one event.
    let (cell, room) = unsafe { (cell(part), &mut *room) };
    let Some(event) = cell.enter("event", |part| part.poll_event()) else {
        return -IOE_PANICKED;
    };
    let Some(event) = event else { return 0 };
    room.op.buf = NO_BUF;
    match event {
        ExportEvent::Io { volume, token, op } => {
            (room.kind, room.volume) = (IOE_EXPORT_IO, volume.0);
            room.op = op_out(op, token);
        }
        ExportEvent::Extents {
            volume,
            token,
            range,
        } => {
            (room.kind, room.volume) = (IOE_EXPORT_EXTENTS, volume.0);
            room.op = op_out(Op::Flush, token);
            room.op.range = range_out(range);
        }
        ExportEvent::Move { conn, volume } => {
            (room.kind, room.conn, room.volume) = (IOE_EXPORT_MOVE, conn.0, volume.0);
        }
        ExportEvent::Opened { conn, peer, volume } => {
            (room.kind, room.conn, room.volume) = (IOE_EXPORT_OPENED, conn.0, volume.0);
            room.peer = address_out(peer);
        }
        ExportEvent::Closed { conn, reason } => {
            (room.kind, room.conn) = (IOE_EXPORT_CLOSED, conn.0);
            room.reason = lend(reason);
        }
    }
    1
}

unsafe extern "C" fn flush(part: *mut c_void, host: *const IoeHost) -> i32 {
    // SAFETY: the owner's call.
    let cell = unsafe { cell(part) };
    answer(cell.enter_with_host("flush", host, |part, host| part.flush(host)))
}

unsafe extern "C" fn detach(
    part: *mut c_void,
    host: *const IoeHost,
    conn: u64,
    parcel: *mut *mut c_void,
) -> i32 {
    // SAFETY: the owner's call.
    let cell = unsafe { cell(part) };
    match cell.enter_with_host("detach", host, |part, host| part.detach(host, ConnId(conn))) {
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

unsafe extern "C" fn attach(part: *mut c_void, host: *const IoeHost, parcel: *mut c_void) -> i32 {
    // SAFETY: the owner's call, which gives the parcel away.
    let (cell, parcel) = unsafe { (cell(part), Box::from_raw(parcel.cast::<Parcel>())) };
    match cell.enter_with_host("attach", host, |part, host| part.attach(host, *parcel)) {
        Some(true) => IOE_OK,
        Some(false) => IOE_TOO_MANY,
        None => IOE_PANICKED,
    }
}

unsafe extern "C" fn connections(part: *mut c_void) -> u64 {
    // SAFETY: the owner's call.
    let cell = unsafe { cell(part) };
    cell.enter("connections", |part| part.connections() as u64)
        .unwrap_or(0)
}

unsafe extern "C" fn close(part: *mut c_void, host: *const IoeHost) -> i32 {
    // SAFETY: the owner's call.
    let cell = unsafe { cell(part) };
    answer(cell.enter_with_host("close", host, |part, host| part.close(host)))
}

unsafe extern "C" fn drop_part(part: *mut c_void) {
    // SAFETY: the owner's last call.
    let cell = unsafe { Box::from_raw(part.cast::<PartCell>()) };
    let image = cell.image.clone();
    // A panic while dropping has nobody left to answer to; it is logged.
    let _ = image.guard("drop of an export", || drop(cell));
}
