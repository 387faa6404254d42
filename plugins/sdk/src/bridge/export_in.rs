//! Protocols and their servers behind tables.

use std::ffi::c_void;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;

use abi::*;

use super::convert::{
    NO_BUF, NO_DONE, address_in, address_out, capabilities_out, end_out, extent_out, geometry_out,
    op_in, range_in,
};
use super::engine_out::EngineContext;
use super::export_out::PartCell;
use super::fabric_in::{ParcelDrop, Reasons, RemoteParcel};
use super::host_out::Frame;
use super::queue_in::Origin;
use super::root::table_in;
use super::text::{ask, lend, refusable, text};
use super::watch::Mark;
use crate::block::{Extent, Geometry, IoResult, OpenError};
use crate::buf::Segments;
use crate::export::{
    Export, ExportDriver, ExportEvent, ExportSeed, ExportServer, ExportSettings, Volume, VolumeId,
};
use crate::fabric::{ConnId, Parcel};
use crate::host::{Host, HostError, ListenerId, OwnerId, StreamId};
use crate::services::Services;

/// `EIO`: what stands for a refusal whose number was not told.
const EIO: i32 = 5;

/// A protocol behind a table. Lives as long as the process.
pub(super) struct RemoteExportDriver {
    context: *mut c_void,
    open: unsafe extern "C" fn(
        *mut c_void,
        *const IoeEngine,
        *const IoeExportSettings,
        *mut IoeExportServer,
        *mut IoeFailure,
    ) -> i32,
    parcels: ParcelDrop,
    protocol: &'static str,
    engine: IoeEngine,
    origin: Origin,
    reasons: Arc<Reasons>,
}

// SAFETY: any thread may call a protocol, also at the same time (contract of `IoeExportDriverTable`); the rest is read
// only.
unsafe impl Send for RemoteExportDriver {}
// SAFETY: as above.
unsafe impl Sync for RemoteExportDriver {}

impl RemoteExportDriver {
    /// The protocol behind `raw`; the error says what is missing.
    ///
    /// # Safety
    /// `raw` is what a plugin's entry brought.
    pub(super) unsafe fn new(
        raw: &IoeExportDriver,
        context: &'static EngineContext,
        origin: Origin,
    ) -> Result<Self, String> {
        // SAFETY: the caller's; a table says how large it is.
        let table = unsafe { table_in(raw.table) }.ok_or("a protocol without a table")?;
        let protocol = table.protocol.ok_or("a protocol without `protocol`")?;
        // SAFETY: room lent for the call.
        let protocol = ask(|room| unsafe { protocol(raw.context, room) });
        if protocol.is_empty() {
            return Err("a protocol without a name".to_owned());
        }
        Ok(Self {
            context: raw.context,
            open: table.open.ok_or("a protocol without `open`")?,
            parcels: ParcelDrop {
                driver: raw.context,
                parcel_drop: table
                    .parcel_drop
                    .ok_or("a protocol without `parcel_drop`")?,
            },
            protocol: Box::leak(protocol.into_boxed_str()),
            engine: context.raw(),
            origin,
            reasons: Arc::default(),
        })
    }
}

fn number(value: usize) -> u32 {
    u32::try_from(value).unwrap_or(u32::MAX)
}

impl ExportDriver for RemoteExportDriver {
    fn protocol(&self) -> &'static str {
        self.protocol
    }

    fn open(
        &self,
        settings: &ExportSettings,
        _services: &Arc<dyn Services>,
    ) -> Result<Box<dyn ExportServer>, OpenError> {
        let listen: Vec<IoeStr> = settings
            .listen
            .iter()
            .map(|address| lend(address))
            .collect();
        let timeout_ms = settings.handshake_timeout.as_millis();
        let settings = IoeExportSettings {
            size: size_of::<IoeExportSettings>() as u32,
            listen_count: number(listen.len()),
            listen: listen.as_ptr(),
            connections_max: number(settings.connections_max),
            transfer_bytes_max: settings.transfer_bytes_max,
            requests_max: number(settings.requests_max),
            handshake_timeout_ms: u32::try_from(timeout_ms).unwrap_or(u32::MAX),
        };
        let mut raw = IoeExportServer {
            table: std::ptr::null(),
            context: std::ptr::null_mut(),
        };
        refusable(self.protocol, |failure| {
            // SAFETY: settings, engine and room lent for the call.
            unsafe { (self.open)(self.context, &self.engine, &settings, &mut raw, failure) }
        })?;
        // SAFETY: the plugin gave the server away.
        let table: Option<IoeExportServerTable> = unsafe { table_in(raw.table) };
        let server = table.and_then(|table| {
            Some(RemoteServer {
                context: raw.context,
                uri: table.uri?,
                seat_open: table.seat_open?,
                close: table.close?,
                parcels: self.parcels,
                origin: self.origin.clone(),
                reasons: self.reasons.clone(),
            })
        });
        match server {
            Some(server) => Ok(Box::new(server)),
            None => Err(lacks(
                self.protocol,
                "its table lacks a function every server has",
            )),
        }
    }
}

fn lacks(what: &str, reason: &str) -> OpenError {
    OpenError::Unsuitable {
        what: what.to_owned(),
        reason: reason.to_owned(),
    }
}

/// A server behind a table.
struct RemoteServer {
    context: *mut c_void,
    uri: unsafe extern "C" fn(*mut c_void, IoeStr, *mut IoeText) -> i32,
    seat_open: unsafe extern "C" fn(*mut c_void, *mut IoeExport, *mut IoeFailure) -> i32,
    close: unsafe extern "C" fn(*mut c_void),
    parcels: ParcelDrop,
    origin: Origin,
    reasons: Arc<Reasons>,
}

// SAFETY: a server may be called by any thread, one at a time (contract of `IoeExportServerTable`), which the engine's
// exclusive ownership of it ensures.
unsafe impl Send for RemoteServer {}
// SAFETY: as above; `uri` is answered by any thread without changing anything.
unsafe impl Sync for RemoteServer {}

impl ExportServer for RemoteServer {
    fn uri(&self, name: &str) -> String {
        // SAFETY: text and room lent for the call.
        ask(|room| unsafe { (self.uri)(self.context, lend(name), room) })
    }

    fn open_seat(&mut self) -> Result<Box<dyn ExportSeed>, OpenError> {
        let mut raw = IoeExport {
            table: std::ptr::null(),
            context: std::ptr::null_mut(),
        };
        refusable("a part of an export server", |failure| {
            // SAFETY: room lent for the call.
            unsafe { (self.seat_open)(self.context, &mut raw, failure) }
        })?;
        if self.origin.is_own {
            // SAFETY: the plugin gave the part away.
            if let Some(seed) = unsafe { PartCell::take_back(&raw) } {
                return Ok(seed);
            }
        }
        // SAFETY: the plugin gave the part away.
        let calls = unsafe { table_in(raw.table) }.and_then(Calls::new);
        let Some(calls) = calls else {
            return Err(lacks(
                "a part of an export server",
                "its table lacks a function",
            ));
        };
        Ok(Box::new(RemoteSeat(Some(RemoteExport {
            context: raw.context,
            calls,
            parcels: self.parcels,
            mark: self.origin.watch.mark("export"),
            origin: self.origin.clone(),
            reasons: self.reasons.clone(),
            timer: None,
            dead: false,
        }))))
    }
}

impl Drop for RemoteServer {
    fn drop(&mut self) {
        // SAFETY: the server is ours, and this is the last call.
        unsafe { (self.close)(self.context) }
    }
}

type OnVolume = unsafe extern "C" fn(*mut c_void, *const IoeHost, u64) -> i32;
type OnHost = unsafe extern "C" fn(*mut c_void, *const IoeHost) -> i32;

/// Functions of a server's part, all there.
struct Calls {
    start: unsafe extern "C" fn(*mut c_void, *const IoeHost, u32) -> i32,
    add_volume: unsafe extern "C" fn(*mut c_void, *const IoeVolume) -> i32,
    remove_volume: OnVolume,
    set_geometry: unsafe extern "C" fn(*mut c_void, u64, *const IoeGeometry) -> i32,
    accepted: unsafe extern "C" fn(*mut c_void, *const IoeHost, u32, u64, *const IoeAddress) -> i32,
    readable: OnVolume,
    writable: OnVolume,
    io_done: unsafe extern "C" fn(*mut c_void, *const IoeHost, *const IoeDone) -> i32,
    extents_done:
        unsafe extern "C" fn(*mut c_void, *const IoeHost, u64, *const IoeExtent, u32) -> i32,
    timer: OnHost,
    event: unsafe extern "C" fn(*mut c_void, *mut IoeExportEvent) -> i32,
    flush: OnHost,
    detach: unsafe extern "C" fn(*mut c_void, *const IoeHost, u64, *mut *mut c_void) -> i32,
    attach: unsafe extern "C" fn(*mut c_void, *const IoeHost, *mut c_void) -> i32,
    connections: unsafe extern "C" fn(*mut c_void) -> u64,
    close: OnHost,
    drop: unsafe extern "C" fn(*mut c_void),
}

impl Calls {
    fn new(table: IoeExportTable) -> Option<Self> {
        Some(Self {
            start: table.start?,
            add_volume: table.add_volume?,
            remove_volume: table.remove_volume?,
            set_geometry: table.set_geometry?,
            accepted: table.accepted?,
            readable: table.readable?,
            writable: table.writable?,
            io_done: table.io_done?,
            extents_done: table.extents_done?,
            timer: table.timer?,
            event: table.event?,
            flush: table.flush?,
            detach: table.detach?,
            attach: table.attach?,
            connections: table.connections?,
            close: table.close?,
            drop: table.drop?,
        })
    }
}

/// A server's part on its way to its reactor.
struct RemoteSeat(Option<RemoteExport>);

// SAFETY: a part that was not started may be moved between threads (contract of `seat_open`).
unsafe impl Send for RemoteSeat {}

impl ExportSeed for RemoteSeat {
    fn open(
        mut self: Box<Self>,
        host: &mut dyn Host,
        owner: OwnerId,
    ) -> Result<Box<dyn Export>, HostError> {
        let Some(mut part) = self.0.take() else {
            return Err(HostError::System(EIO));
        };
        // SAFETY: first call, on the part's reactor.
        let status = part.call(host, |calls, context, host| unsafe {
            (calls.start)(context, host, owner.0)
        });
        match part.heed(status) {
            IOE_OK => Ok(Box::new(part)),
            IOE_TOO_MANY => Err(HostError::TooMany),
            _ => Err(HostError::System(EIO)),
        }
    }
}

/// A server's part behind a table, on its reactor.
struct RemoteExport {
    context: *mut c_void,
    mark: Arc<Mark>,
    calls: Calls,
    parcels: ParcelDrop,
    origin: Origin,
    reasons: Arc<Reasons>,
    timer: Option<Instant>,
    dead: bool,
}

impl RemoteExport {
    #[inline]
    fn call(
        &mut self,
        host: &mut dyn Host,
        call: impl FnOnce(&Calls, *mut c_void, *const IoeHost) -> i32,
    ) -> i32 {
        let frame = Frame {
            host,
            clock: &self.origin.clock,
            timer: &mut self.timer,
            inbox: None,
        };
        let (calls, context) = (&self.calls, self.context);
        self.mark.enter();
        let done = frame.lend(|host| call(calls, context, host));
        self.mark.leave();
        done
    }

    /// Notes a panic of the plugin: the part does nothing any more.
    #[inline]
    fn heed(&mut self, status: i32) -> i32 {
        if (status == IOE_PANICKED || status == -IOE_PANICKED) && !self.dead {
            self.dead = true;
            self.timer = None;
            self.origin.panicked("export");
        }
        status
    }

    fn event(&self, raw: &IoeExportEvent) -> Option<ExportEvent> {
        let (conn, volume) = (ConnId(raw.conn), VolumeId(raw.volume));
        Some(match raw.kind {
            IOE_EXPORT_IO => ExportEvent::Io {
                volume,
                token: raw.op.tag,
                // SAFETY: the plugin gives the operation's buffer away.
                op: unsafe { op_in(&raw.op) }.ok()?,
            },
            IOE_EXPORT_EXTENTS => ExportEvent::Extents {
                volume,
                token: raw.op.tag,
                range: range_in(raw.op.range),
            },
            IOE_EXPORT_MOVE => ExportEvent::Move { conn, volume },
            IOE_EXPORT_OPENED => ExportEvent::Opened {
                conn,
                peer: address_in(&raw.peer),
                volume,
            },
            IOE_EXPORT_CLOSED => ExportEvent::Closed {
                conn,
                // SAFETY: the word is valid as long as the process.
                reason: self.reasons.keep(unsafe { text(raw.reason) }),
            },
            _ => return None,
        })
    }
}

impl Export for RemoteExport {
    fn add_volume(&mut self, volume: Volume) {
        if self.dead {
            return;
        }
        let flag = |set, flag| if set { flag } else { 0 };
        let raw = IoeVolume {
            size: size_of::<IoeVolume>() as u32,
            flags: flag(volume.read_only, IOE_VOLUME_READ_ONLY)
                | flag(volume.is_here, IOE_VOLUME_HERE),
            id: volume.id.0,
            name: lend(&volume.name),
            description: lend(&volume.description),
            geometry: geometry_out(volume.geometry),
            capabilities: capabilities_out(volume.capabilities),
        };
        // SAFETY: a volume lent for the call.
        let status = unsafe { (self.calls.add_volume)(self.context, &raw) };
        self.heed(status);
    }

    fn remove_volume(&mut self, host: &mut dyn Host, id: VolumeId) {
        if self.dead {
            return;
        }
        // SAFETY: a call on the part's reactor.
        let status = self.call(host, |calls, context, host| unsafe {
            (calls.remove_volume)(context, host, id.0)
        });
        self.heed(status);
    }

    fn set_geometry(&mut self, id: VolumeId, geometry: Geometry) {
        if self.dead {
            return;
        }
        // SAFETY: a size lent for the call.
        let status =
            unsafe { (self.calls.set_geometry)(self.context, id.0, &geometry_out(geometry)) };
        self.heed(status);
    }

    fn handle_accepted(
        &mut self,
        host: &mut dyn Host,
        listener: ListenerId,
        stream: StreamId,
        peer: Option<SocketAddr>,
    ) {
        if self.dead {
            host.close_stream(stream);
            return;
        }
        let peer = address_out(peer);
        // SAFETY: an address lent for a call on the part's reactor.
        let status = self.call(host, |calls, context, host| unsafe {
            (calls.accepted)(context, host, listener.0, stream.0, &peer)
        });
        self.heed(status);
    }

    fn handle_readable(&mut self, host: &mut dyn Host, stream: StreamId) {
        if self.dead {
            // Nobody reads it any more, and it would be offered again each turn.
            host.close_stream(stream);
            return;
        }
        // SAFETY: a call on the part's reactor.
        let status = self.call(host, |calls, context, host| unsafe {
            (calls.readable)(context, host, stream.0)
        });
        self.heed(status);
    }

    fn handle_writable(&mut self, host: &mut dyn Host, stream: StreamId) {
        if self.dead {
            return;
        }
        // SAFETY: a call on the part's reactor.
        let status = self.call(host, |calls, context, host| unsafe {
            (calls.writable)(context, host, stream.0)
        });
        self.heed(status);
    }

    fn handle_io_done(&mut self, host: &mut dyn Host, token: u64, result: IoResult) {
        if self.dead {
            return;
        }
        let mut done = IoeDone {
            tag: token,
            ..NO_DONE
        };
        let mut array = Segments::new();
        end_out(&mut done, result, &mut array);
        // SAFETY: buffer and segments go to the part; the array is lent for a call on its reactor.
        let status = self.call(host, |calls, context, host| unsafe {
            (calls.io_done)(context, host, &done)
        });
        self.heed(status);
    }

    fn handle_extents(&mut self, host: &mut dyn Host, token: u64, extents: &[Extent]) {
        if self.dead {
            return;
        }
        let raw: Vec<IoeExtent> = extents.iter().map(extent_out).collect();
        // SAFETY: extents lent for a call on the part's reactor.
        let status = self.call(host, |calls, context, host| unsafe {
            (calls.extents_done)(context, host, token, raw.as_ptr(), number(raw.len()))
        });
        self.heed(status);
    }

    fn poll_timeout(&self) -> Option<Instant> {
        self.timer
    }

    fn handle_timeout(&mut self, host: &mut dyn Host) {
        self.timer = None;
        if self.dead {
            return;
        }
        // SAFETY: a call on the part's reactor.
        let status = self.call(host, |calls, context, host| unsafe {
            (calls.timer)(context, host)
        });
        self.heed(status);
    }

    fn poll_event(&mut self) -> Option<ExportEvent> {
        loop {
            if self.dead {
                return None;
            }
            let mut raw = NO_EVENT;
            // SAFETY: room for one event, lent for the call.
            let status = unsafe { (self.calls.event)(self.context, &mut raw) };
            if self.heed(status) != 1 {
                return None;
            }
            match self.event(&raw) {
                Some(event) => return Some(event),
                None => self
                    .origin
                    .bad_answer(&format!("an export event of kind {}", raw.kind)),
            }
        }
    }

    fn flush(&mut self, host: &mut dyn Host) {
        if self.dead {
            return;
        }
        // SAFETY: a call on the part's reactor.
        let status = self.call(host, |calls, context, host| unsafe {
            (calls.flush)(context, host)
        });
        self.heed(status);
    }

    fn detach(&mut self, host: &mut dyn Host, conn: ConnId) -> Option<Parcel> {
        if self.dead {
            return None;
        }
        let mut raw = std::ptr::null_mut();
        // SAFETY: room for a pointer, lent for a call on the part's reactor.
        let status = self.call(host, |calls, context, host| unsafe {
            (calls.detach)(context, host, conn.0, &mut raw)
        });
        (self.heed(status) == IOE_OK && !raw.is_null())
            .then(|| Box::new(RemoteParcel::new(raw, self.parcels)) as Parcel)
    }

    fn attach(&mut self, host: &mut dyn Host, parcel: Parcel) -> bool {
        if self.dead {
            return false;
        }
        let Some(parcel) = RemoteParcel::open(parcel, self.parcels) else {
            return false;
        };
        // SAFETY: the parcel goes to the part, in a call on its reactor.
        let status = self.call(host, |calls, context, host| unsafe {
            (calls.attach)(context, host, parcel)
        });
        self.heed(status) == IOE_OK
    }

    fn connections(&self) -> usize {
        if self.dead {
            return 0;
        }
        // SAFETY: a call on the part's reactor.
        let count = unsafe { (self.calls.connections)(self.context) };
        usize::try_from(count).unwrap_or(usize::MAX)
    }

    fn close(&mut self, host: &mut dyn Host) {
        if self.dead {
            return;
        }
        // SAFETY: a call on the part's reactor.
        let status = self.call(host, |calls, context, host| unsafe {
            (calls.close)(context, host)
        });
        self.heed(status);
    }
}

impl Drop for RemoteExport {
    fn drop(&mut self) {
        if !self.dead {
            // SAFETY: the part is ours, and this is its thread, or it was never started.
            unsafe { (self.calls.drop)(self.context) }
        }
    }
}

const NO_EVENT: IoeExportEvent = IoeExportEvent {
    size: size_of::<IoeExportEvent>() as u32,
    kind: 0,
    conn: 0,
    volume: 0,
    op: IoeOp {
        size: size_of::<IoeOp>() as u32,
        kind: 0,
        flags: 0,
        reserved: 0,
        tag: 0,
        range: IoeRange { start: 0, count: 0 },
        buf: NO_BUF,
    },
    peer: IoeAddress {
        family: IOE_ADDRESS_NONE,
        port: 0,
        bytes: [0; 16],
        scope: 0,
        reserved: 0,
    },
    reason: IoeStr {
        data: std::ptr::null(),
        len: 0,
    },
};
