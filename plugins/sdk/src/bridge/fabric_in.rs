//! Transports behind tables.

use std::any::Any;
use std::collections::BTreeSet;
use std::ffi::c_void;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use abi::*;
use nvme_spec::{Cqe, Sqe};

use super::convert::{NO_BUF, address_in, address_out};
use super::engine_out::EngineContext;
use super::host_out::Frame;
use super::queue_in::Origin;
use super::root::table_in;
use super::text::{ask, lend, refusable, text};
use super::watch::Mark;
use crate::block::OpenError;
use crate::buf::{Buf, Payload, Segment};
use crate::fabric::{Attached, ConnId, Fabric, FabricDriver, FabricEvent, FabricSettings, Parcel};
use crate::host::{Host, StreamId};
use crate::services::Services;

/// Different words for closed connections kept of one plugin; further ones read `other`.
const REASONS_MAX: usize = 256;

/// A transport behind a table. Lives as long as the process.
pub(super) struct RemoteFabricDriver {
    context: *mut c_void,
    open: unsafe extern "C" fn(
        *mut c_void,
        *const IoeEngine,
        *const IoeFabricSettings,
        *mut IoeFabric,
        *mut IoeFailure,
    ) -> i32,
    parcels: ParcelDrop,
    name: String,
    engine: IoeEngine,
    origin: Origin,
    reasons: Arc<Reasons>,
}

// SAFETY: any thread may call a transport, also at the same time (contract of `IoeFabricDriverTable`); the rest is read
// only.
unsafe impl Send for RemoteFabricDriver {}
// SAFETY: as above.
unsafe impl Sync for RemoteFabricDriver {}

impl RemoteFabricDriver {
    /// The transport behind `raw`; the error says what is missing.
    ///
    /// # Safety
    /// `raw` is what a plugin's entry brought.
    pub(super) unsafe fn new(
        raw: &IoeFabricDriver,
        context: &'static EngineContext,
        origin: Origin,
    ) -> Result<Self, String> {
        // SAFETY: the caller's; a table says how large it is.
        let table = unsafe { table_in(raw.table) }.ok_or("a transport without a table")?;
        let name = table.name.ok_or("a transport without `name`")?;
        // SAFETY: room lent for the call.
        let name = ask(|room| unsafe { name(raw.context, room) });
        if name.is_empty() {
            return Err("a transport without a name".to_owned());
        }
        Ok(Self {
            context: raw.context,
            open: table.open.ok_or("a transport without `open`")?,
            parcels: ParcelDrop {
                driver: raw.context,
                parcel_drop: table
                    .parcel_drop
                    .ok_or("a transport without `parcel_drop`")?,
            },
            name,
            engine: context.raw(),
            origin,
            reasons: Arc::default(),
        })
    }
}

impl FabricDriver for RemoteFabricDriver {
    fn name(&self) -> &str {
        &self.name
    }

    fn open(
        &self,
        settings: &FabricSettings,
        _services: &Arc<dyn Services>,
    ) -> Result<Box<dyn Fabric>, OpenError> {
        let flag = |set, flag| if set { flag } else { 0 };
        let timeout_ms = settings.handshake_timeout.as_millis();
        let settings = IoeFabricSettings {
            size: size_of::<IoeFabricSettings>() as u32,
            flags: flag(settings.header_digest, IOE_FABRIC_HEADER_DIGEST)
                | flag(settings.data_digest, IOE_FABRIC_DATA_DIGEST),
            connections_max: settings.connections_max,
            in_capsule_bytes: settings.in_capsule_bytes,
            transfer_bytes_max: settings.transfer_bytes_max,
            queue_depth: settings.queue_depth,
            handshake_timeout_ms: u32::try_from(timeout_ms).unwrap_or(u32::MAX),
            reserved: 0,
        };
        let mut raw = IoeFabric {
            table: std::ptr::null(),
            context: std::ptr::null_mut(),
        };
        refusable(&self.name, |failure| {
            // SAFETY: settings, engine and room lent for the call.
            unsafe { (self.open)(self.context, &self.engine, &settings, &mut raw, failure) }
        })?;
        // SAFETY: the plugin gave the transport away.
        let calls = unsafe { table_in(raw.table) }.and_then(Calls::new);
        let Some(calls) = calls else {
            return Err(OpenError::Unsuitable {
                what: self.name.clone(),
                reason: "its table lacks a function every transport has".to_owned(),
            });
        };
        Ok(Box::new(RemoteFabric {
            context: raw.context,
            calls,
            parcels: self.parcels,
            mark: self.origin.watch.mark("fabric"),
            origin: self.origin.clone(),
            reasons: self.reasons.clone(),
            timer: None,
            dead: false,
            room: NO_EVENT,
            lent: Vec::new(),
        }))
    }
}

/// How connections between two reactors are freed.
#[derive(Clone, Copy)]
pub(super) struct ParcelDrop {
    pub(super) driver: *mut c_void,
    pub(super) parcel_drop: unsafe extern "C" fn(*mut c_void, *mut c_void),
}

/// A connection of a plugin between two reactors.
pub(super) struct RemoteParcel {
    raw: *mut c_void,
    free: ParcelDrop,
}

// SAFETY: a parcel may be moved to and freed on any thread (contract of `detach` and `parcel_drop`).
unsafe impl Send for RemoteParcel {}

impl RemoteParcel {
    pub(super) fn new(raw: *mut c_void, free: ParcelDrop) -> Self {
        Self { raw, free }
    }

    /// The plugin's parcel, if it is one of the plugin that has this driver.
    pub(super) fn open(parcel: Parcel, of: ParcelDrop) -> Option<*mut c_void> {
        let parcel: Box<dyn Any> = parcel;
        let parcel = parcel.downcast::<Self>().ok()?;
        if parcel.free.driver != of.driver {
            return None;
        }
        let raw = parcel.raw;
        std::mem::forget(parcel);
        Some(raw)
    }
}

impl Drop for RemoteParcel {
    fn drop(&mut self) {
        // SAFETY: the parcel is ours; any thread may free it.
        unsafe { (self.free.parcel_drop)(self.free.driver, self.raw) }
    }
}

/// Words for closed connections, kept as long as the process: there are few, and they come again.
#[derive(Default)]
pub(super) struct Reasons(Mutex<BTreeSet<&'static str>>);

impl Reasons {
    pub(super) fn keep(&self, word: &str) -> &'static str {
        let mut words = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = words.get(word) {
            return known;
        }
        let usable = !word.is_empty() && word.len() <= 64 && words.len() < REASONS_MAX;
        if !usable {
            return "other";
        }
        let kept: &'static str = Box::leak(word.to_owned().into_boxed_str());
        words.insert(kept);
        kept
    }
}

const NO_ADDRESS: IoeAddress = IoeAddress {
    family: IOE_ADDRESS_NONE,
    port: 0,
    bytes: [0; 16],
    scope: 0,
    reserved: 0,
};

const NO_EVENT: IoeFabricEvent = IoeFabricEvent {
    size: size_of::<IoeFabricEvent>() as u32,
    kind: 0,
    flags: 0,
    reserved: 0,
    conn: 0,
    token: 0,
    sqe: [0; 64],
    data: NO_BUF,
    local: NO_ADDRESS,
    peer: NO_ADDRESS,
    reason: IoeStr {
        data: std::ptr::null(),
        len: 0,
    },
};

type OnStream = unsafe extern "C" fn(*mut c_void, *const IoeHost, u64) -> i32;
type OnHost = unsafe extern "C" fn(*mut c_void, *const IoeHost) -> i32;

/// Functions of a transport, all there.
struct Calls {
    accepted: unsafe extern "C" fn(
        *mut c_void,
        *const IoeHost,
        u64,
        *const IoeAddress,
        *const IoeAddress,
    ) -> i32,
    readable: OnStream,
    writable: OnStream,
    timer: OnHost,
    event: unsafe extern "C" fn(*mut c_void, *mut IoeFabricEvent) -> i32,
    fetch: unsafe extern "C" fn(*mut c_void, u64, u32, u64, *const IoeBuf) -> i32,
    respond: unsafe extern "C" fn(*mut c_void, u64, *const IoeFabricAnswer) -> i32,
    flush: OnHost,
    close: unsafe extern "C" fn(*mut c_void, *const IoeHost, u64, IoeStr) -> i32,
    detach: unsafe extern "C" fn(*mut c_void, *const IoeHost, u64, *mut *mut c_void) -> i32,
    attach: unsafe extern "C" fn(*mut c_void, *const IoeHost, *mut c_void, *mut IoeAttached) -> i32,
    connections: unsafe extern "C" fn(*mut c_void) -> u64,
    drop: unsafe extern "C" fn(*mut c_void),
}

impl Calls {
    fn new(table: IoeFabricTable) -> Option<Self> {
        Some(Self {
            accepted: table.accepted?,
            readable: table.readable?,
            writable: table.writable?,
            timer: table.timer?,
            event: table.event?,
            fetch: table.fetch?,
            respond: table.respond?,
            flush: table.flush?,
            close: table.close?,
            detach: table.detach?,
            attach: table.attach?,
            connections: table.connections?,
            drop: table.drop?,
        })
    }
}

/// A transport behind a table, on its reactor.
struct RemoteFabric {
    context: *mut c_void,
    mark: Arc<Mark>,
    calls: Calls,
    parcels: ParcelDrop,
    origin: Origin,
    reasons: Arc<Reasons>,
    timer: Option<Instant>,
    dead: bool,
    /// Where the plugin writes its next event.
    room: IoeFabricEvent,
    /// Segments of the answer being passed.
    lent: Vec<IoeSegment>,
}

impl RemoteFabric {
    #[inline]
    fn call<R>(
        &mut self,
        host: &mut dyn Host,
        call: impl FnOnce(&Calls, *mut c_void, *const IoeHost) -> R,
    ) -> R {
        let frame = Frame {
            host,
            clock: self.origin.clock,
            timer: &mut self.timer,
            inbox: None,
        };
        let (calls, context) = (&self.calls, self.context);
        self.mark.enter();
        let done = frame.lend(|host| call(calls, context, host));
        self.mark.leave();
        done
    }

    /// Notes a panic of the plugin: the transport does nothing any more.
    #[inline]
    fn heed(&mut self, status: i32) -> i32 {
        if (status == IOE_PANICKED || status == -IOE_PANICKED) && !self.dead {
            self.dead = true;
            self.timer = None;
            self.origin.panicked("fabric");
        }
        status
    }

    fn take_event(&mut self) -> Option<FabricEvent> {
        let raw = &self.room;
        let conn = ConnId(raw.conn);
        let data_ok = raw.flags & IOE_FABRIC_DATA_OK != 0;
        // SAFETY: the plugin gives the buffer away with the event.
        let data = unsafe { Buf::from_abi(raw.data) };
        match (raw.kind, data) {
            (IOE_FABRIC_CONNECTED, _) => Some(FabricEvent::Connected {
                conn,
                local: address_in(&raw.local)?,
                peer: address_in(&raw.peer)?,
            }),
            (IOE_FABRIC_CAPSULE, data) => Some(FabricEvent::Capsule {
                conn,
                sqe: Sqe(raw.sqe),
                data,
                data_ok,
            }),
            (IOE_FABRIC_FETCHED, Some(buf)) => Some(FabricEvent::Fetched {
                conn,
                token: raw.token,
                buf,
                data_ok,
            }),
            (IOE_FABRIC_CLOSED, _) => Some(FabricEvent::Closed {
                conn,
                // SAFETY: the word is valid as long as the process.
                reason: self.reasons.keep(unsafe { text(raw.reason) }),
            }),
            _ => None,
        }
    }
}

impl Fabric for RemoteFabric {
    fn handle_accepted(
        &mut self,
        host: &mut dyn Host,
        stream: StreamId,
        local: SocketAddr,
        peer: SocketAddr,
    ) {
        if self.dead {
            host.close_stream(stream);
            return;
        }
        let (local, peer) = (address_out(Some(local)), address_out(Some(peer)));
        // SAFETY: addresses lent for a call on the transport's reactor.
        let status = self.call(host, |calls, context, host| unsafe {
            (calls.accepted)(context, host, stream.0, &local, &peer)
        });
        self.heed(status);
    }

    fn handle_readable(&mut self, host: &mut dyn Host, stream: StreamId) {
        if self.dead {
            // Nobody reads it any more, and it would be offered again each turn.
            host.close_stream(stream);
            return;
        }
        // SAFETY: a call on the transport's reactor.
        let status = self.call(host, |calls, context, host| unsafe {
            (calls.readable)(context, host, stream.0)
        });
        self.heed(status);
    }

    fn handle_writable(&mut self, host: &mut dyn Host, stream: StreamId) {
        if self.dead {
            return;
        }
        // SAFETY: a call on the transport's reactor.
        let status = self.call(host, |calls, context, host| unsafe {
            (calls.writable)(context, host, stream.0)
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
        // SAFETY: a call on the transport's reactor.
        let status = self.call(host, |calls, context, host| unsafe {
            (calls.timer)(context, host)
        });
        self.heed(status);
    }

    #[inline]
    fn poll_event(&mut self) -> Option<FabricEvent> {
        loop {
            if self.dead {
                return None;
            }
            (self.room.kind, self.room.flags, self.room.data) = (0, 0, NO_BUF);
            // SAFETY: room for one event, lent for the call.
            let status = unsafe { (self.calls.event)(self.context, &mut self.room) };
            if self.heed(status) != 1 {
                return None;
            }
            match self.take_event() {
                Some(event) => return Some(event),
                None => {
                    let kind = self.room.kind;
                    self.origin
                        .bad_answer(&format!("a fabric event of kind {kind}"));
                }
            }
        }
    }

    fn fetch(&mut self, conn: ConnId, cid: u16, token: u64, buf: Buf) {
        if self.dead {
            return;
        }
        let raw = buf.into_abi();
        // SAFETY: the buffer goes to the transport.
        let status =
            unsafe { (self.calls.fetch)(self.context, conn.0, u32::from(cid), token, &raw) };
        self.heed(status);
    }

    #[inline]
    fn respond(&mut self, conn: ConnId, cqe: &Cqe, data: Option<Payload>, implicit: bool) {
        if self.dead {
            return;
        }
        let mut raw = IoeFabricAnswer {
            size: size_of::<IoeFabricAnswer>() as u32,
            flags: if implicit { IOE_FABRIC_IMPLICIT } else { 0 },
            cqe: cqe.to_bytes(),
            data: NO_BUF,
            segments: std::ptr::null(),
            segment_count: 0,
            reserved: 0,
        };
        match data {
            None => {}
            Some(Payload::Buf(buf)) => raw.data = buf.into_abi(),
            Some(Payload::Lent(segments)) => {
                self.lent.clear();
                self.lent
                    .extend(segments.into_iter().map(Segment::into_abi));
                raw.segments = self.lent.as_ptr();
                raw.segment_count = self.lent.len() as u32;
            }
        }
        // SAFETY: buffer and segments go to the transport; the array is lent for the call.
        let status = unsafe { (self.calls.respond)(self.context, conn.0, &raw) };
        self.heed(status);
    }

    fn flush(&mut self, host: &mut dyn Host) {
        if self.dead {
            return;
        }
        // SAFETY: a call on the transport's reactor.
        let status = self.call(host, |calls, context, host| unsafe {
            (calls.flush)(context, host)
        });
        self.heed(status);
    }

    fn close(&mut self, host: &mut dyn Host, conn: ConnId, reason: &'static str) {
        if self.dead {
            return;
        }
        // SAFETY: a word lent for a call on the transport's reactor.
        let status = self.call(host, |calls, context, host| unsafe {
            (calls.close)(context, host, conn.0, lend(reason))
        });
        self.heed(status);
    }

    fn detach(&mut self, host: &mut dyn Host, conn: ConnId) -> Option<Parcel> {
        if self.dead {
            return None;
        }
        let mut raw = std::ptr::null_mut();
        // SAFETY: room for a pointer, lent for a call on the transport's reactor.
        let status = self.call(host, |calls, context, host| unsafe {
            (calls.detach)(context, host, conn.0, &mut raw)
        });
        (self.heed(status) == IOE_OK && !raw.is_null())
            .then(|| Box::new(RemoteParcel::new(raw, self.parcels)) as Parcel)
    }

    fn attach(&mut self, host: &mut dyn Host, parcel: Parcel) -> Option<Attached> {
        if self.dead {
            return None;
        }
        let parcel = RemoteParcel::open(parcel, self.parcels)?;
        let mut raw = IoeAttached {
            conn: 0,
            local: NO_ADDRESS,
            peer: NO_ADDRESS,
        };
        // SAFETY: the parcel goes to the transport; room lent for a call on its reactor.
        let status = self.call(host, |calls, context, host| unsafe {
            (calls.attach)(context, host, parcel, &mut raw)
        });
        if self.heed(status) != IOE_OK {
            return None;
        }
        Some(Attached {
            conn: ConnId(raw.conn),
            local: address_in(&raw.local)?,
            peer: address_in(&raw.peer)?,
        })
    }

    fn connections(&self) -> usize {
        if self.dead {
            return 0;
        }
        // SAFETY: a call on the transport's reactor.
        let count = unsafe { (self.calls.connections)(self.context) };
        usize::try_from(count).unwrap_or(usize::MAX)
    }
}

impl Drop for RemoteFabric {
    fn drop(&mut self) {
        if !self.dead {
            // SAFETY: the transport is ours, and this is its thread.
            unsafe { (self.calls.drop)(self.context) }
        }
    }
}
