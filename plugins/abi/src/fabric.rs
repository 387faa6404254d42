//! The fabric kind: NVMe-oF transports. Subsystems and commands are the engine's.

use core::ffi::c_void;

use crate::host::{IoeEngine, IoeHost};
use crate::value::{IoeAddress, IoeBuf, IoeFailure, IoeSegment, IoeStr, IoeText};

/// A transport.
#[repr(C)]
#[cfg_attr(feature = "layout", derive(abi_stable::StableAbi))]
#[derive(Clone, Copy)]
pub struct IoeFabricDriver {
    /// Operations.
    pub table: *const IoeFabricDriverTable,
    /// Passed as their first argument.
    pub context: *mut c_void,
}

/// Operations of a transport. Any thread may call them, also at the same time.
#[repr(C)]
#[cfg_attr(feature = "layout", derive(abi_stable::StableAbi))]
#[derive(Clone, Copy)]
pub struct IoeFabricDriverTable {
    /// Bytes of this table.
    pub size: u32,
    /// `IOE_ABI_VERSION` of the plugin.
    pub version: u32,
    /// Its name, e.g. `tcp`. Required.
    pub name: Option<unsafe extern "C" fn(driver: *mut c_void, name: *mut IoeText) -> i32>,
    /// Makes its part for one reactor, used there only. `IOE_OK` or `IOE_REFUSED`. Required.
    pub open: Option<
        unsafe extern "C" fn(
            driver: *mut c_void,
            engine: *const IoeEngine,
            settings: *const IoeFabricSettings,
            fabric: *mut IoeFabric,
            failure: *mut IoeFailure,
        ) -> i32,
    >,
    /// Frees a connection between two reactors that will not arrive. Any thread. Required.
    pub parcel_drop: Option<unsafe extern "C" fn(driver: *mut c_void, parcel: *mut c_void)>,
}

/// Limits of a transport on one reactor.
#[repr(C)]
#[cfg_attr(feature = "layout", derive(abi_stable::StableAbi))]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IoeFabricSettings {
    /// Bytes of this struct.
    pub size: u32,
    /// `IOE_FABRIC_HEADER_DIGEST`, `IOE_FABRIC_DATA_DIGEST`.
    pub flags: u32,
    /// Connections at once.
    pub connections_max: u32,
    /// Bytes of in-capsule data on I/O queues.
    pub in_capsule_bytes: u32,
    /// Bytes one command transfers at most.
    pub transfer_bytes_max: u32,
    /// Entries of the largest submission queue.
    pub queue_depth: u32,
    /// Time from accept to the end of Connect, in ms.
    pub handshake_timeout_ms: u32,
    /// Time a host may go without progress it owes, in ms.
    pub progress_timeout_ms: u32,
}

/// A transport on one reactor.
#[repr(C)]
#[cfg_attr(feature = "layout", derive(abi_stable::StableAbi))]
#[derive(Clone, Copy)]
pub struct IoeFabric {
    /// Operations.
    pub table: *const IoeFabricTable,
    /// Passed as their first argument.
    pub context: *mut c_void,
}

/// What happened on a transport.
#[repr(C)]
#[cfg_attr(feature = "layout", derive(abi_stable::StableAbi))]
#[derive(Clone, Copy)]
pub struct IoeFabricEvent {
    /// Bytes of this struct.
    pub size: u32,
    /// `IOE_FABRIC_CONNECTED`, `_CAPSULE`, `_FETCHED` or `_CLOSED`.
    pub kind: u32,
    /// `IOE_FABRIC_DATA_OK`.
    pub flags: u32,
    /// Zero.
    pub reserved: u32,
    /// The connection: dense slot in the low, generation in the high half.
    pub conn: u64,
    /// Of fetched data: the number given to `fetch`.
    pub token: u64,
    /// Of a capsule: the submission queue entry.
    pub sqe: [u8; 64],
    /// Of a capsule: in-capsule data, or none. Of fetched data: the buffer, filled.
    pub data: IoeBuf,
    /// Of a new connection: our end.
    pub local: IoeAddress,
    /// Of a new connection: the host's end.
    pub peer: IoeAddress,
    /// Of a closed connection: why, a stable word of at most 64 bytes; valid as long as the process.
    pub reason: IoeStr,
}

/// An answer to a command.
#[repr(C)]
#[cfg_attr(feature = "layout", derive(abi_stable::StableAbi))]
#[derive(Clone, Copy)]
pub struct IoeFabricAnswer {
    /// Bytes of this struct.
    pub size: u32,
    /// `IOE_FABRIC_IMPLICIT`.
    pub flags: u32,
    /// The completion queue entry.
    pub cqe: [u8; 16],
    /// Data in a buffer, or none.
    pub data: IoeBuf,
    /// Data lent; the segments belong to the callee from here on, the array does not.
    pub segments: *const IoeSegment,
    /// How many.
    pub segment_count: u32,
    /// Zero.
    pub reserved: u32,
}

/// A connection taken over from another reactor.
#[repr(C)]
#[cfg_attr(feature = "layout", derive(abi_stable::StableAbi))]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IoeAttached {
    /// Its name here.
    pub conn: u64,
    /// Our end.
    pub local: IoeAddress,
    /// The host's end.
    pub peer: IoeAddress,
}

/// Operations of a transport on its reactor; none blocks. All required.
#[repr(C)]
#[cfg_attr(feature = "layout", derive(abi_stable::StableAbi))]
#[derive(Clone, Copy)]
pub struct IoeFabricTable {
    /// Bytes of this table.
    pub size: u32,
    /// `IOE_ABI_VERSION` of the plugin.
    pub version: u32,
    /// A host connected a stream: `IOE_OK` and the connection's name, or `IOE_TOO_MANY`; then the stream is closed and a
    /// closed event without a connection says so.
    pub accepted: Option<
        unsafe extern "C" fn(
            fabric: *mut c_void,
            host: *const IoeHost,
            stream: u64,
            local: *const IoeAddress,
            peer: *const IoeAddress,
            conn: *mut u64,
        ) -> i32,
    >,
    /// A stream may have bytes to read.
    pub readable:
        Option<unsafe extern "C" fn(fabric: *mut c_void, host: *const IoeHost, stream: u64) -> i32>,
    /// A stream that refused bytes takes them again.
    pub writable:
        Option<unsafe extern "C" fn(fabric: *mut c_void, host: *const IoeHost, stream: u64) -> i32>,
    /// Its timer ran out.
    pub timer: Option<unsafe extern "C" fn(fabric: *mut c_void, host: *const IoeHost) -> i32>,
    /// Takes events out, in order, at most `max`: how many, or minus `IOE_PANICKED`. The room comes with kind, flags and data
    /// zero; what the kind does not have need not be written.
    pub events: Option<
        unsafe extern "C" fn(fabric: *mut c_void, events: *mut IoeFabricEvent, max: u32) -> i32,
    >,
    /// Asks for the data of a command into a buffer, which is the transport's from here on.
    pub fetch: Option<
        unsafe extern "C" fn(
            fabric: *mut c_void,
            conn: u64,
            cid: u32,
            token: u64,
            buf: *const IoeBuf,
        ) -> i32,
    >,
    /// Answers a command: data first, then the completion.
    pub respond: Option<
        unsafe extern "C" fn(fabric: *mut c_void, conn: u64, answer: *const IoeFabricAnswer) -> i32,
    >,
    /// Command `cid` ended without an answer and gets none: it does not count as outstanding any more.
    pub forget: Option<unsafe extern "C" fn(fabric: *mut c_void, conn: u64, cid: u32) -> i32>,
    /// Sends what is queued and goes on with what waited.
    pub flush: Option<unsafe extern "C" fn(fabric: *mut c_void, host: *const IoeHost) -> i32>,
    /// Bytes of buffers answered with that were sent since this was asked last, a connection at a time: 1, 0 if there are no
    /// more, or minus `IOE_PANICKED`.
    pub sent:
        Option<unsafe extern "C" fn(fabric: *mut c_void, conn: *mut u64, bytes: *mut u64) -> i32>,
    /// Closes a connection.
    pub close: Option<
        unsafe extern "C" fn(
            fabric: *mut c_void,
            host: *const IoeHost,
            conn: u64,
            reason: IoeStr,
        ) -> i32,
    >,
    /// Takes a connection off this reactor: `IOE_OK` and a parcel, or `IOE_GONE`.
    pub detach: Option<
        unsafe extern "C" fn(
            fabric: *mut c_void,
            host: *const IoeHost,
            conn: u64,
            parcel: *mut *mut c_void,
        ) -> i32,
    >,
    /// Takes a connection over; the parcel is used up whatever the answer: `IOE_OK` or `IOE_TOO_MANY`.
    pub attach: Option<
        unsafe extern "C" fn(
            fabric: *mut c_void,
            host: *const IoeHost,
            parcel: *mut c_void,
            attached: *mut IoeAttached,
        ) -> i32,
    >,
    /// Connections open.
    pub connections: Option<unsafe extern "C" fn(fabric: *mut c_void) -> u64>,
    /// Frees it, on its reactor.
    pub drop: Option<unsafe extern "C" fn(fabric: *mut c_void)>,
}
