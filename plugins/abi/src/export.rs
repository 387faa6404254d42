//! The export kind: other protocols over the engine's devices.

use core::ffi::c_void;

use crate::host::{IoeEngine, IoeHost};
use crate::value::{
    IoeAddress, IoeCapabilities, IoeDone, IoeExtent, IoeFailure, IoeGeometry, IoeOp, IoeStr,
    IoeText,
};

/// A protocol.
#[repr(C)]
#[cfg_attr(feature = "layout", derive(abi_stable::StableAbi))]
#[derive(Clone, Copy)]
pub struct IoeExportDriver {
    /// Operations.
    pub table: *const IoeExportDriverTable,
    /// Passed as their first argument.
    pub context: *mut c_void,
}

/// Operations of a protocol. Any thread may call them, also at the same time. All required.
#[repr(C)]
#[cfg_attr(feature = "layout", derive(abi_stable::StableAbi))]
#[derive(Clone, Copy)]
pub struct IoeExportDriverTable {
    /// Bytes of this table.
    pub size: u32,
    /// `IOE_ABI_VERSION` of the plugin.
    pub version: u32,
    /// The word a share names it by, e.g. `nbd`.
    pub protocol: Option<unsafe extern "C" fn(driver: *mut c_void, protocol: *mut IoeText) -> i32>,
    /// Opens a server: `IOE_OK` or `IOE_REFUSED`. May block.
    pub open: Option<
        unsafe extern "C" fn(
            driver: *mut c_void,
            engine: *const IoeEngine,
            settings: *const IoeExportSettings,
            server: *mut IoeExportServer,
            failure: *mut IoeFailure,
        ) -> i32,
    >,
    /// Frees a connection between two reactors that will not arrive. Any thread.
    pub parcel_drop: Option<unsafe extern "C" fn(driver: *mut c_void, parcel: *mut c_void)>,
}

/// How a server is run.
#[repr(C)]
#[cfg_attr(feature = "layout", derive(abi_stable::StableAbi))]
#[derive(Clone, Copy)]
pub struct IoeExportSettings {
    /// Bytes of this struct.
    pub size: u32,
    /// Number of `listen`.
    pub listen_count: u32,
    /// Where to listen: `tcp://ADDRESS:PORT` or `unix:///PATH`.
    pub listen: *const IoeStr,
    /// Connections at once on one reactor.
    pub connections_max: u32,
    /// Bytes one request transfers at most; at most 1 MiB.
    pub transfer_bytes_max: u32,
    /// Requests of one connection in flight.
    pub requests_max: u32,
    /// Time from accept until a volume is chosen, in ms.
    pub handshake_timeout_ms: u32,
}

/// A running server.
#[repr(C)]
#[cfg_attr(feature = "layout", derive(abi_stable::StableAbi))]
#[derive(Clone, Copy)]
pub struct IoeExportServer {
    /// Operations.
    pub table: *const IoeExportServerTable,
    /// Passed as their first argument.
    pub context: *mut c_void,
}

/// Operations of a server, on the control path. Any thread, never two at a time. All required.
#[repr(C)]
#[cfg_attr(feature = "layout", derive(abi_stable::StableAbi))]
#[derive(Clone, Copy)]
pub struct IoeExportServerTable {
    /// Bytes of this table.
    pub size: u32,
    /// `IOE_ABI_VERSION` of the plugin.
    pub version: u32,
    /// The URI of the volume called `name`.
    pub uri:
        Option<unsafe extern "C" fn(server: *mut c_void, name: IoeStr, uri: *mut IoeText) -> i32>,
    /// Makes the part for the next reactor, to be started there: `IOE_OK` or `IOE_REFUSED`.
    pub seat_open: Option<
        unsafe extern "C" fn(
            server: *mut c_void,
            part: *mut IoeExport,
            failure: *mut IoeFailure,
        ) -> i32,
    >,
    /// Closes the server and frees it; its parts are gone.
    pub close: Option<unsafe extern "C" fn(server: *mut c_void)>,
}

/// A server's part on one reactor.
#[repr(C)]
#[cfg_attr(feature = "layout", derive(abi_stable::StableAbi))]
#[derive(Clone, Copy)]
pub struct IoeExport {
    /// Operations.
    pub table: *const IoeExportTable,
    /// Passed as their first argument.
    pub context: *mut c_void,
}

/// A device to be served.
#[repr(C)]
#[cfg_attr(feature = "layout", derive(abi_stable::StableAbi))]
#[derive(Clone, Copy)]
pub struct IoeVolume {
    /// Bytes of this struct.
    pub size: u32,
    /// `IOE_VOLUME_READ_ONLY`, `IOE_VOLUME_HERE`.
    pub flags: u32,
    /// Its number.
    pub id: u64,
    /// The name clients ask for.
    pub name: IoeStr,
    /// Text for listings.
    pub description: IoeStr,
    /// Size.
    pub geometry: IoeGeometry,
    /// What the device does.
    pub capabilities: IoeCapabilities,
}

/// What an export asks for or tells.
#[repr(C)]
#[cfg_attr(feature = "layout", derive(abi_stable::StableAbi))]
#[derive(Clone, Copy)]
pub struct IoeExportEvent {
    /// Bytes of this struct.
    pub size: u32,
    /// `IOE_EXPORT_IO`, `_EXTENTS`, `_MOVE`, `_OPENED`, `_CLOSED`.
    pub kind: u32,
    /// The connection, where one is meant.
    pub conn: u64,
    /// The volume, where one is meant.
    pub volume: u64,
    /// Of I/O: the operation, its tag the token; its buffer is the engine's from here on. Of extents: range and tag.
    pub op: IoeOp,
    /// Of an opened connection: the client's end.
    pub peer: IoeAddress,
    /// Of a closed connection: why, a stable word of at most 64 bytes; valid as long as the process.
    pub reason: IoeStr,
}

/// Operations of a server's part on its reactor; none blocks. All required.
#[repr(C)]
#[cfg_attr(feature = "layout", derive(abi_stable::StableAbi))]
#[derive(Clone, Copy)]
pub struct IoeExportTable {
    /// Bytes of this table.
    pub size: u32,
    /// `IOE_ABI_VERSION` of the plugin.
    pub version: u32,
    /// First call on the reactor; listening sockets are lent here.
    pub start:
        Option<unsafe extern "C" fn(part: *mut c_void, host: *const IoeHost, owner: u32) -> i32>,
    /// A volume is served from here on.
    pub add_volume:
        Option<unsafe extern "C" fn(part: *mut c_void, volume: *const IoeVolume) -> i32>,
    /// A volume is not served any more.
    pub remove_volume:
        Option<unsafe extern "C" fn(part: *mut c_void, host: *const IoeHost, volume: u64) -> i32>,
    /// A volume has this size from here on.
    pub set_geometry: Option<
        unsafe extern "C" fn(part: *mut c_void, volume: u64, geometry: *const IoeGeometry) -> i32,
    >,
    /// A client connected.
    pub accepted: Option<
        unsafe extern "C" fn(
            part: *mut c_void,
            host: *const IoeHost,
            listener: u32,
            stream: u64,
            peer: *const IoeAddress,
        ) -> i32,
    >,
    /// A stream may have bytes to read.
    pub readable:
        Option<unsafe extern "C" fn(part: *mut c_void, host: *const IoeHost, stream: u64) -> i32>,
    /// A stream that refused bytes takes them again.
    pub writable:
        Option<unsafe extern "C" fn(part: *mut c_void, host: *const IoeHost, stream: u64) -> i32>,
    /// An operation ended; its tag is the token. Buffer and segments are the export's from here on, the array is not.
    pub io_done: Option<
        unsafe extern "C" fn(part: *mut c_void, host: *const IoeHost, done: *const IoeDone) -> i32,
    >,
    /// What a range holds.
    pub extents_done: Option<
        unsafe extern "C" fn(
            part: *mut c_void,
            host: *const IoeHost,
            token: u64,
            extents: *const IoeExtent,
            count: u32,
        ) -> i32,
    >,
    /// Its timer ran out.
    pub timer: Option<unsafe extern "C" fn(part: *mut c_void, host: *const IoeHost) -> i32>,
    /// Takes the next event out: 1, 0 if there is none, or minus `IOE_PANICKED`.
    pub event: Option<unsafe extern "C" fn(part: *mut c_void, event: *mut IoeExportEvent) -> i32>,
    /// Sends what is queued and goes on with what waited.
    pub flush: Option<unsafe extern "C" fn(part: *mut c_void, host: *const IoeHost) -> i32>,
    /// Takes a connection off this reactor: `IOE_OK` and a parcel, or `IOE_GONE`.
    pub detach: Option<
        unsafe extern "C" fn(
            part: *mut c_void,
            host: *const IoeHost,
            conn: u64,
            parcel: *mut *mut c_void,
        ) -> i32,
    >,
    /// Takes a connection over; the parcel is used up whatever the answer: `IOE_OK` or `IOE_TOO_MANY`.
    pub attach: Option<
        unsafe extern "C" fn(part: *mut c_void, host: *const IoeHost, parcel: *mut c_void) -> i32,
    >,
    /// Connections open.
    pub connections: Option<unsafe extern "C" fn(part: *mut c_void) -> u64>,
    /// Closes connections and listeners; no I/O is in flight.
    pub close: Option<unsafe extern "C" fn(part: *mut c_void, host: *const IoeHost) -> i32>,
    /// Frees it.
    pub drop: Option<unsafe extern "C" fn(part: *mut c_void)>,
}
