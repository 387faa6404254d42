//! Transports behind tables.

use std::any::Any;
use std::collections::BTreeSet;
use std::ffi::c_void;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use abi::*;
use nvme_spec::{Cqe, Sqe};

use super::convert::{NO_BUF, address_in, address_out};
use super::engine_out::EngineContext;
use super::fabric_out::FabricCell;
use super::host_out::Frame;
use super::queue_in::Origin;
use super::root::table_in;
use super::text::{ask, lend, refusable, text};
use super::watch::Mark;
use crate::block::OpenError;
use crate::buf::{Buf, Payload, apart};
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
        let ms = |time: Duration| u32::try_from(time.as_millis()).unwrap_or(u32::MAX);
        let settings = IoeFabricSettings {
            size: size_of::<IoeFabricSettings>() as u32,
            flags: flag(settings.header_digest, IOE_FABRIC_HEADER_DIGEST)
                | flag(settings.data_digest, IOE_FABRIC_DATA_DIGEST),
            connections_max: settings.connections_max,
            in_capsule_bytes: settings.in_capsule_bytes,
            transfer_bytes_max: settings.transfer_bytes_max,
            queue_depth: settings.queue_depth,
            handshake_timeout_ms: ms(settings.handshake_timeout),
            progress_timeout_ms: ms(settings.progress_timeout),
        };
        let mut raw = IoeFabric {
            table: std::ptr::null(),
            context: std::ptr::null_mut(),
        };
        refusable(&self.name, |failure| {
            // SAFETY: settings, engine and room lent for the call.
            unsafe { (self.open)(self.context, &self.engine, &settings, &mut raw, failure) }
        })?;
        if self.origin.is_own {
            // SAFETY: the plugin gave the transport away.
            if let Some(fabric) = unsafe { FabricCell::take_back(&raw) } {
                return Ok(fabric);
            }
        }
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
            events: Events {
                room: Box::new([NO_EVENT; BATCH]),
                at: 0,
                count: 0,
                may_be_more: false,
            },
            may_have_sent: false,
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

/// Events taken out in one call.
const BATCH: usize = 16;

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
        *mut u64,
    ) -> i32,
    readable: OnStream,
    writable: OnStream,
    timer: OnHost,
    events: unsafe extern "C" fn(*mut c_void, *mut IoeFabricEvent, u32) -> i32,
    fetch: unsafe extern "C" fn(*mut c_void, u64, u32, u64, *const IoeBuf) -> i32,
    respond: unsafe extern "C" fn(*mut c_void, u64, *const IoeFabricAnswer) -> i32,
    forget: unsafe extern "C" fn(*mut c_void, u64, u32) -> i32,
    flush: OnHost,
    sent: unsafe extern "C" fn(*mut c_void, *mut u64, *mut u64) -> i32,
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
            events: table.events?,
            fetch: table.fetch?,
            respond: table.respond?,
            forget: table.forget?,
            flush: table.flush?,
            sent: table.sent?,
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
    events: Events,
    /// It was called since it last said that nothing was sent.
    may_have_sent: bool,
}

/// Events taken out of a plugin and not passed on yet.
struct Events {
    /// Where the plugin writes them; those outside `at..count` are blank.
    room: Box<[IoeFabricEvent; BATCH]>,
    at: usize,
    count: usize,
    /// The plugin was called since it last said that there are no more.
    may_be_more: bool,
}

impl Events {
    /// The next one taken out, or its kind if that is none. Blanks its room.
    #[inline]
    fn take(&mut self, reasons: &Reasons) -> Option<Result<FabricEvent, u32>> {
        if self.at == self.count {
            return None;
        }
        let raw = &mut self.room[self.at];
        self.at += 1;
        let event = event_in(raw, reasons);
        let kind = raw.kind;
        (raw.kind, raw.flags) = (0, 0);
        Some(event.ok_or(kind))
    }
}

/// The event a plugin wrote; `None` for one that breaks the contract.
#[inline]
fn event_in(raw: &mut IoeFabricEvent, reasons: &Reasons) -> Option<FabricEvent> {
    let conn = ConnId(raw.conn);
    let data_ok = raw.flags & IOE_FABRIC_DATA_OK != 0;
    let data = match raw.data.data.is_null() {
        true => None,
        // SAFETY: the plugin gives the buffer away with the event.
        false => unsafe { Buf::from_abi(std::mem::replace(&mut raw.data, NO_BUF)) },
    };
    match raw.kind {
        IOE_FABRIC_CAPSULE => Some(FabricEvent::Capsule {
            conn,
            sqe: Sqe(raw.sqe),
            data,
            data_ok,
        }),
        IOE_FABRIC_FETCHED => Some(FabricEvent::Fetched {
            conn,
            token: raw.token,
            buf: data?,
            data_ok,
        }),
        IOE_FABRIC_CONNECTED => Some(FabricEvent::Connected {
            conn,
            local: address_in(&raw.local)?,
            peer: address_in(&raw.peer)?,
        }),
        IOE_FABRIC_CLOSED => Some(FabricEvent::Closed {
            conn,
            // SAFETY: the word is valid as long as the process.
            reason: reasons.keep(unsafe { text(raw.reason) }),
        }),
        _ => None,
    }
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
            clock: &self.origin.clock,
            timer: &mut self.timer,
            inbox: None,
        };
        let (calls, context) = (&self.calls, self.context);
        (self.events.may_be_more, self.may_have_sent) = (true, true);
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

    /// Takes the next events out of the plugin.
    fn refill(&mut self) {
        let events = &mut self.events;
        // SAFETY: room for that many events, lent for the call.
        let status =
            unsafe { (self.calls.events)(self.context, events.room.as_mut_ptr(), BATCH as u32) };
        (events.at, events.count) = (0, usize::try_from(status).unwrap_or(0).min(BATCH));
        events.may_be_more = events.count == BATCH;
        if status < 0 {
            self.heed(status);
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
    ) -> Option<ConnId> {
        if self.dead {
            host.close_stream(stream);
            return None;
        }
        let (local, peer) = (address_out(Some(local)), address_out(Some(peer)));
        let mut conn = 0;
        // SAFETY: addresses and room lent for a call on the transport's reactor.
        let status = self.call(host, |calls, context, host| unsafe {
            (calls.accepted)(context, host, stream.0, &local, &peer, &mut conn)
        });
        (self.heed(status) == IOE_OK).then_some(ConnId(conn))
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
            match self.events.take(&self.reasons) {
                Some(Ok(event)) => return Some(event),
                Some(Err(kind)) => self
                    .origin
                    .bad_answer(&format!("a fabric event of kind {kind}")),
                None if self.dead || !self.events.may_be_more => return None,
                None => self.refill(),
            }
        }
    }

    fn fetch(&mut self, conn: ConnId, cid: u16, token: u64, buf: Buf) {
        if self.dead {
            return;
        }
        self.events.may_be_more = true;
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
        self.events.may_be_more = true;
        let mut raw = IoeFabricAnswer {
            size: size_of::<IoeFabricAnswer>() as u32,
            flags: if implicit { IOE_FABRIC_IMPLICIT } else { 0 },
            cqe: cqe.to_bytes(),
            data: NO_BUF,
            segments: std::ptr::null(),
            segment_count: 0,
            reserved: 0,
        };
        let mut array;
        match data {
            None => {}
            Some(Payload::Buf(buf)) => raw.data = buf.into_abi(),
            Some(Payload::Lent(segments)) => {
                array = segments;
                (raw.segments, raw.segment_count) = apart(&mut array);
            }
        }
        // SAFETY: buffer and segments go to the transport; the array is lent for the call.
        let status = unsafe { (self.calls.respond)(self.context, conn.0, &raw) };
        self.heed(status);
    }

    fn forget(&mut self, conn: ConnId, cid: u16) {
        if self.dead {
            return;
        }
        self.events.may_be_more = true;
        // SAFETY: a call on the transport's reactor.
        let status = unsafe { (self.calls.forget)(self.context, conn.0, u32::from(cid)) };
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

    #[inline]
    fn poll_sent(&mut self) -> Option<(ConnId, usize)> {
        if self.dead || !self.may_have_sent {
            return None;
        }
        let (mut conn, mut bytes) = (0, 0);
        // SAFETY: room for two numbers, lent for the call.
        let status = unsafe { (self.calls.sent)(self.context, &mut conn, &mut bytes) };
        let sent = usize::try_from(bytes).unwrap_or(usize::MAX);
        self.may_have_sent = self.heed(status) == 1;
        self.may_have_sent.then_some((ConnId(conn), sent))
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
        // What was taken out holds buffers.
        while self.events.take(&self.reasons).is_some() {}
        if !self.dead {
            // SAFETY: the transport is ours, and this is its thread.
            unsafe { (self.calls.drop)(self.context) }
        }
    }
}
