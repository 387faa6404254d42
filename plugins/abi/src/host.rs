//! What the engine lends: the engine's table for any thread, a reactor's table for the length of a call.

use core::ffi::c_void;

use crate::device::IoeDevice;
use crate::value::{IoeBuf, IoeDone, IoeFailure, IoeFileOp, IoeIoVec, IoeStr, IoeText};

/// The engine, as one plugin sees it. Valid as long as the process; any thread may use it.
#[repr(C)]
#[cfg_attr(feature = "layout", derive(abi_stable::StableAbi))]
#[derive(Clone, Copy)]
pub struct IoeEngine {
    /// Operations.
    pub table: *const IoeEngineTable,
    /// Passed as their first argument.
    pub context: *mut c_void,
}

/// Operations of the engine.
#[repr(C)]
#[cfg_attr(feature = "layout", derive(abi_stable::StableAbi))]
#[derive(Clone, Copy)]
pub struct IoeEngineTable {
    /// Bytes of this table.
    pub size: u32,
    /// `IOE_ABI_VERSION` of the engine.
    pub version: u32,
    /// Nanoseconds since a point in the past; the clock of every time in this contract.
    pub now_ns: Option<unsafe extern "C" fn(engine: *mut c_void) -> u64>,
    /// A line in the engine's log under the plugin's name. `level` is `IOE_LOG_*`.
    pub log: Option<unsafe extern "C" fn(engine: *mut c_void, level: u32, text: IoeStr)>,
    /// Adds to a counter of the plugin's.
    pub count: Option<unsafe extern "C" fn(engine: *mut c_void, name: IoeStr, add: u64)>,
    /// Reads what was stored under a key: `IOE_OK`, `IOE_GONE` if there is nothing, or `IOE_REFUSED`. A value longer than
    /// the room is refused with `len` set to its length. Blocks.
    pub load: Option<
        unsafe extern "C" fn(
            engine: *mut c_void,
            key: IoeStr,
            value: *mut IoeText,
            failure: *mut IoeFailure,
        ) -> i32,
    >,
    /// Stores a value durably; null data removes the key. `IOE_OK` or `IOE_REFUSED`. Blocks.
    pub store: Option<
        unsafe extern "C" fn(
            engine: *mut c_void,
            key: IoeStr,
            value: IoeStr,
            failure: *mut IoeFailure,
        ) -> i32,
    >,
    /// Opens another device by URI. `IOE_OK` or `IOE_REFUSED`. Blocks. The device is the caller's until it closes it.
    pub open_device: Option<
        unsafe extern "C" fn(
            engine: *mut c_void,
            uri: IoeStr,
            device: *mut IoeDevice,
            failure: *mut IoeFailure,
        ) -> i32,
    >,
    /// Has `wake` of the object behind a remote handle called on its reactor. Returns at once.
    pub wake: Option<unsafe extern "C" fn(engine: *mut c_void, remote: u64)>,
    /// Completes an operation of the queue behind a remote handle, from any thread. A buffer is not passed: the engine
    /// keeps those of operations completed this way. `IOE_GONE` if the queue is closed.
    pub complete_from_any_thread: Option<
        unsafe extern "C" fn(engine: *mut c_void, remote: u64, tag: u64, status: i32) -> i32,
    >,
    /// Asks for memory of the process to keep data in, before it is used; `what` names the object in the refusal. `IOE_OK`, or
    /// `IOE_REFUSED` when the machine, or the operator's limit, has no room for it. Not on a reactor. Since 1.1.
    pub memory_take: Option<
        unsafe extern "C" fn(
            engine: *mut c_void,
            what: IoeStr,
            bytes: u64,
            failure: *mut IoeFailure,
        ) -> i32,
    >,
    /// Gives back memory that was asked for and is freed. Returns at once. Since 1.1.
    pub memory_give: Option<unsafe extern "C" fn(engine: *mut c_void, bytes: u64)>,
}

/// A reactor, for the length of one call into the plugin.
#[repr(C)]
#[cfg_attr(feature = "layout", derive(abi_stable::StableAbi))]
#[derive(Clone, Copy)]
pub struct IoeHost {
    /// Operations.
    pub table: *const IoeHostTable,
    /// Passed as their first argument.
    pub context: *mut c_void,
}

/// Operations of a reactor. None blocks. Ids of closed objects are answered like closed ones.
#[repr(C)]
#[cfg_attr(feature = "layout", derive(abi_stable::StableAbi))]
#[derive(Clone, Copy)]
pub struct IoeHostTable {
    /// Bytes of this table.
    pub size: u32,
    /// `IOE_ABI_VERSION` of the engine.
    pub version: u32,
    /// Time of this turn of the reactor; see `IoeEngineTable::now_ns`.
    pub now_ns: Option<unsafe extern "C" fn(host: *mut c_void) -> u64>,
    /// A buffer of `len` bytes, at most 1 MiB: `IOE_OK`, or `IOE_BUSY` while there is none.
    pub alloc: Option<unsafe extern "C" fn(host: *mut c_void, len: u32, buf: *mut IoeBuf) -> i32>,
    /// Ends an operation of the queue being called.
    pub complete: Option<unsafe extern "C" fn(host: *mut c_void, done: *const IoeDone)>,
    /// Lends a file; the descriptor is the host's from here on, whatever the answer. `IOE_OK`, `IOE_TOO_MANY`,
    /// `IOE_SYSTEM`.
    pub file_adopt:
        Option<unsafe extern "C" fn(host: *mut c_void, fd: i32, owner: u32, file: *mut u32) -> i32>,
    /// Closes a file once its operations ended.
    pub file_close: Option<unsafe extern "C" fn(host: *mut c_void, file: u32)>,
    /// Starts a file operation; its buffer is the host's if the answer is `IOE_OK`, else the caller's. `IOE_BUSY`: later.
    pub file_submit: Option<
        unsafe extern "C" fn(host: *mut c_void, file: u32, user: u64, op: *const IoeFileOp) -> i32,
    >,
    /// Receives into pieces in order: bytes, or minus `IOE_WOULD_BLOCK`, `IOE_CLOSED`, `IOE_SYSTEM`.
    pub stream_recv: Option<
        unsafe extern "C" fn(
            host: *mut c_void,
            stream: u64,
            pieces: *const IoeIoVec,
            count: u32,
            os_error: *mut i32,
        ) -> i64,
    >,
    /// Sends pieces in order: bytes, or as `stream_recv`.
    pub stream_send: Option<
        unsafe extern "C" fn(
            host: *mut c_void,
            stream: u64,
            pieces: *const IoeIoVec,
            count: u32,
            os_error: *mut i32,
        ) -> i64,
    >,
    /// Stops (1) or resumes (0) `readable` of a stream.
    pub stream_pause: Option<unsafe extern "C" fn(host: *mut c_void, stream: u64, paused: u32)>,
    /// Ends the sending side of a stream behind the bytes taken; receiving goes on.
    pub stream_end: Option<unsafe extern "C" fn(host: *mut c_void, stream: u64)>,
    /// Closes a stream.
    pub stream_close: Option<unsafe extern "C" fn(host: *mut c_void, stream: u64)>,
    /// Takes a stream's descriptor away, or -1.
    pub stream_detach: Option<unsafe extern "C" fn(host: *mut c_void, stream: u64) -> i32>,
    /// Lends a connected socket; the descriptor is the host's from here on, whatever the answer.
    pub stream_attach: Option<
        unsafe extern "C" fn(host: *mut c_void, fd: i32, owner: u32, stream: *mut u64) -> i32,
    >,
    /// Lends a listening socket; as `file_adopt`.
    pub listener_adopt: Option<
        unsafe extern "C" fn(host: *mut c_void, fd: i32, owner: u32, listener: *mut u32) -> i32,
    >,
    /// Closes a listener.
    pub listener_close: Option<unsafe extern "C" fn(host: *mut c_void, listener: u32)>,
    /// Sets the one timer of the object being called to a time, or `IOE_NEVER`; its `timer` is called then, once.
    pub timer_set: Option<unsafe extern "C" fn(host: *mut c_void, at_ns: u64)>,
    /// A handle by which other threads reach the object being called (`wake`, `complete_from_any_thread`); 0 where the
    /// host cannot. The same each time.
    pub remote: Option<unsafe extern "C" fn(host: *mut c_void, owner: u32) -> u64>,
}
