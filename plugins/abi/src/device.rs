//! The device kind: driver, device, queue.

use core::ffi::c_void;

use crate::host::{IoeEngine, IoeHost};
use crate::value::{
    IoeCapabilities, IoeDone, IoeExtent, IoeFailure, IoeFileDone, IoeGeometry, IoeOp, IoeRange,
    IoeStr, IoeText,
};

/// Opens devices of certain URI schemes.
#[repr(C)]
#[cfg_attr(feature = "layout", derive(abi_stable::StableAbi))]
#[derive(Clone, Copy)]
pub struct IoeDriver {
    /// Operations.
    pub table: *const IoeDriverTable,
    /// Passed as their first argument.
    pub context: *mut c_void,
}

/// Operations of a driver. Any thread may call them, also at the same time.
#[repr(C)]
#[cfg_attr(feature = "layout", derive(abi_stable::StableAbi))]
#[derive(Clone, Copy)]
pub struct IoeDriverTable {
    /// Bytes of this table.
    pub size: u32,
    /// `IOE_ABI_VERSION` of the plugin.
    pub version: u32,
    /// Its schemes, separated by commas. Required.
    pub schemes: Option<unsafe extern "C" fn(driver: *mut c_void, schemes: *mut IoeText) -> i32>,
    /// Opens a device: `IOE_OK` or `IOE_REFUSED`. May block. Required.
    pub open: Option<
        unsafe extern "C" fn(
            driver: *mut c_void,
            engine: *const IoeEngine,
            uri: IoeStr,
            device: *mut IoeDevice,
            failure: *mut IoeFailure,
        ) -> i32,
    >,
    /// Whether the text of a URI is one `open` takes: `IOE_OK`, or `IOE_REFUSED` with what `open` would refuse it with. What it
    /// names is not looked at. Null: only opening tells.
    pub check: Option<
        unsafe extern "C" fn(driver: *mut c_void, uri: IoeStr, failure: *mut IoeFailure) -> i32,
    >,
}

/// An open device.
#[repr(C)]
#[cfg_attr(feature = "layout", derive(abi_stable::StableAbi))]
#[derive(Clone, Copy)]
pub struct IoeDevice {
    /// Operations.
    pub table: *const IoeDeviceTable,
    /// Passed as their first argument.
    pub context: *mut c_void,
}

/// Operations of a device, on the control path: they may block. Any thread, never two at a time.
#[repr(C)]
#[cfg_attr(feature = "layout", derive(abi_stable::StableAbi))]
#[derive(Clone, Copy)]
pub struct IoeDeviceTable {
    /// Bytes of this table.
    pub size: u32,
    /// `IOE_ABI_VERSION` of the plugin.
    pub version: u32,
    /// Its name, unique per kind. Required.
    pub name: Option<unsafe extern "C" fn(device: *mut c_void, name: *mut IoeText) -> i32>,
    /// What it is, for humans. Required.
    pub product: Option<unsafe extern "C" fn(device: *mut c_void, product: *mut IoeText) -> i32>,
    /// Its size. Required.
    pub geometry:
        Option<unsafe extern "C" fn(device: *mut c_void, geometry: *mut IoeGeometry) -> i32>,
    /// What it does; the same as long as it is open. Required.
    pub capabilities: Option<
        unsafe extern "C" fn(device: *mut c_void, capabilities: *mut IoeCapabilities) -> i32,
    >,
    /// Identity given in the URI into 16 bytes: `IOE_OK`, or `IOE_NOT_SUPPORTED` if there is none. Null: never any.
    pub uuid: Option<unsafe extern "C" fn(device: *mut c_void, uuid: *mut u8) -> i32>,
    /// Makes a queue, to be started on its reactor: `IOE_OK` or `IOE_REFUSED`. Required.
    pub queue_open: Option<
        unsafe extern "C" fn(
            device: *mut c_void,
            queue: *mut IoeQueue,
            failure: *mut IoeFailure,
        ) -> i32,
    >,
    /// Sets the number of blocks, or looks at the medium (`IOE_BLOCKS_OF_MEDIUM`): `IOE_OK` or `IOE_REFUSED`. Null: the
    /// size never changes.
    pub resize: Option<
        unsafe extern "C" fn(
            device: *mut c_void,
            blocks: u64,
            geometry: *mut IoeGeometry,
            failure: *mut IoeFailure,
        ) -> i32,
    >,
    /// Obeys an operator's command. Null: there are none.
    pub command: Option<
        unsafe extern "C" fn(
            device: *mut c_void,
            command: IoeStr,
            answer: *mut IoeText,
            failure: *mut IoeFailure,
        ) -> i32,
    >,
    /// What an operator should know about the device although it works, as one sentence with the fix; empty if nothing.
    /// Null: never anything.
    pub warning: Option<unsafe extern "C" fn(device: *mut c_void, warning: *mut IoeText) -> i32>,
    /// Closes the device and frees it; its queues are gone. Required.
    pub close: Option<unsafe extern "C" fn(device: *mut c_void)>,
}

/// A queue of a device.
#[repr(C)]
#[cfg_attr(feature = "layout", derive(abi_stable::StableAbi))]
#[derive(Clone, Copy)]
pub struct IoeQueue {
    /// Operations.
    pub table: *const IoeQueueTable,
    /// Passed as their first argument.
    pub context: *mut c_void,
}

/// Operations of a queue, on its reactor; none blocks. `drop` of a queue that was never started may come from any thread.
#[repr(C)]
#[cfg_attr(feature = "layout", derive(abi_stable::StableAbi))]
#[derive(Clone, Copy)]
pub struct IoeQueueTable {
    /// Bytes of this table.
    pub size: u32,
    /// `IOE_ABI_VERSION` of the plugin.
    pub version: u32,
    /// First call on the reactor. `owner` names the queue when it lends files. Null: nothing to do.
    pub start:
        Option<unsafe extern "C" fn(queue: *mut c_void, host: *const IoeHost, owner: u32) -> i32>,
    /// Starts an operation, whose buffer is the queue's from here on. `IOE_OK`: it ended, and `done` says how; that comes as a
    /// success without buffer and segments, and what differs is to be written. `IOE_PENDING`: it ends later. `IOE_PANICKED`. Required.
    pub submit: Option<
        unsafe extern "C" fn(
            queue: *mut c_void,
            host: *const IoeHost,
            op: *const IoeOp,
            done: *mut IoeDone,
        ) -> i32,
    >,
    /// Takes ended operations out, at most `max`: how many, or minus `IOE_PANICKED`. Null: it only uses `complete`.
    pub poll: Option<unsafe extern "C" fn(queue: *mut c_void, done: *mut IoeDone, max: u32) -> i32>,
    /// A file operation ended; its buffer is the queue's from here on. Null: it has no files.
    pub file_done: Option<
        unsafe extern "C" fn(
            queue: *mut c_void,
            host: *const IoeHost,
            done: *const IoeFileDone,
        ) -> i32,
    >,
    /// Its timer ran out. Null: it has none.
    pub timer: Option<unsafe extern "C" fn(queue: *mut c_void, host: *const IoeHost) -> i32>,
    /// Another thread called for it. Null: nobody does.
    pub wake: Option<unsafe extern "C" fn(queue: *mut c_void, host: *const IoeHost) -> i32>,
    /// Called each turn while operations are in flight: 1 if it is busy and the reactor shall come again without
    /// sleeping, 0 if not, or minus `IOE_PANICKED`. Null: it is not polled.
    pub turn: Option<unsafe extern "C" fn(queue: *mut c_void, host: *const IoeHost) -> i32>,
    /// Which parts of a range hold data, as far as known without waiting: how many extents were written, at least one;
    /// `-IOE_NOT_SUPPORTED`: cannot tell. Null: never can.
    pub extents: Option<
        unsafe extern "C" fn(
            queue: *mut c_void,
            range: IoeRange,
            extents: *mut IoeExtent,
            max: u32,
        ) -> i32,
    >,
    /// The device has this size from here on. Null: its size never changes.
    pub set_geometry:
        Option<unsafe extern "C" fn(queue: *mut c_void, geometry: *const IoeGeometry) -> i32>,
    /// Gives back what the reactor lent; nothing is in flight. Null: nothing was lent.
    pub close: Option<unsafe extern "C" fn(queue: *mut c_void, host: *const IoeHost) -> i32>,
    /// Frees the queue. Required.
    pub drop: Option<unsafe extern "C" fn(queue: *mut c_void)>,
}
