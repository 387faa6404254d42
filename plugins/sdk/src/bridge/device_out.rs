//! Drivers and devices handed out as tables.

use std::ffi::c_void;
use std::sync::Arc;

use abi::*;
use units::Blocks;

use super::convert::{capabilities_out, geometry_out};
use super::engine_in::Engine;
use super::guard::Image;
use super::queue_out::QueueCell;
use super::text::{fill_text, refuse, text};
use crate::block::{Device, DeviceDriver, OpenError};
use crate::services::Services;
use crate::uri::DeviceUri;

/// What stands behind a driver's table.
pub(super) struct DriverCell {
    driver: Box<dyn DeviceDriver>,
    image: Arc<Image>,
    engine: Arc<Engine>,
}

impl DriverCell {
    /// Hands a driver out, for as long as the process.
    pub(super) fn hand_out(
        driver: Box<dyn DeviceDriver>,
        image: Arc<Image>,
        engine: Arc<Engine>,
    ) -> IoeDriver {
        let cell = Box::leak(Box::new(Self {
            driver,
            image,
            engine,
        }));
        IoeDriver {
            table: &DRIVER_TABLE,
            context: std::ptr::from_mut(cell).cast(),
        }
    }
}

static DRIVER_TABLE: IoeDriverTable = IoeDriverTable {
    size: size_of::<IoeDriverTable>() as u32,
    version: IOE_ABI_VERSION,
    schemes: Some(schemes),
    open: Some(open),
    check: Some(check),
};

// Each function below is called by the owner of the table with the context it was given and arguments as the contract
// says: that is what their blocks rely on.

/// # Safety
/// `driver` is that of [`DriverCell::hand_out`].
unsafe fn driver_cell<'a>(driver: *mut c_void) -> &'a DriverCell {
    // SAFETY: leaked, never written.
    unsafe { &*driver.cast::<DriverCell>() }
}

unsafe extern "C" fn schemes(driver: *mut c_void, room: *mut IoeText) -> i32 {
    // SAFETY: the owner's call.
    let cell = unsafe { driver_cell(driver) };
    cell.image.status("schemes", || {
        // SAFETY: room lent for the call.
        unsafe { fill_text(room, &cell.driver.schemes().join(",")) };
        IOE_OK
    })
}

unsafe extern "C" fn open(
    driver: *mut c_void,
    _engine: *const IoeEngine,
    uri: IoeStr,
    device: *mut IoeDevice,
    failure: *mut IoeFailure,
) -> i32 {
    // SAFETY: the owner's call, with text lent for it.
    let (cell, uri) = unsafe { (driver_cell(driver), text(uri)) };
    cell.image.status("open", || {
        let services: Arc<dyn Services> = cell.engine.clone();
        let opened = DeviceUri::parse(uri)
            .map_err(OpenError::from)
            .and_then(|uri| cell.driver.open_with(uri, &services));
        match opened {
            Ok(opened) => {
                let engine = Some(cell.engine.clone());
                // SAFETY: room for a device, lent for the call.
                unsafe { device.write(DeviceCell::hand_out(opened, cell.image.clone(), engine)) };
                IOE_OK
            }
            // SAFETY: room lent for the call.
            Err(error) => unsafe { refuse(failure, &error) },
        }
    })
}

unsafe extern "C" fn check(driver: *mut c_void, uri: IoeStr, failure: *mut IoeFailure) -> i32 {
    // SAFETY: the owner's call, with text lent for it.
    let (cell, uri) = unsafe { (driver_cell(driver), text(uri)) };
    cell.image.status("check", || {
        let checked = DeviceUri::parse(uri).and_then(|uri| cell.driver.check(uri));
        match checked {
            Ok(()) => IOE_OK,
            // SAFETY: room lent for the call.
            Err(error) => unsafe { refuse(failure, &OpenError::from(error)) },
        }
    })
}

/// What stands behind a device's table.
pub(super) struct DeviceCell {
    /// None after a panic: what panicked is kept where it is and not touched.
    device: Option<Box<dyn Device>>,
    image: Arc<Image>,
    engine: Option<Arc<Engine>>,
}

impl DeviceCell {
    /// Hands a device out; whoever has the table owns it.
    pub(super) fn hand_out(
        device: Box<dyn Device>,
        image: Arc<Image>,
        engine: Option<Arc<Engine>>,
    ) -> IoeDevice {
        let cell = Box::new(Self {
            device: Some(device),
            image,
            engine,
        });
        IoeDevice {
            table: &DEVICE_TABLE,
            context: Box::into_raw(cell).cast(),
        }
    }

    fn enter(&mut self, what: &str, code: impl FnOnce(&mut dyn Device) -> i32) -> i32 {
        let Some(device) = &mut self.device else {
            return IOE_PANICKED;
        };
        let status = self.image.guard(what, || code(&mut **device));
        status.unwrap_or_else(|| {
            std::mem::forget(self.device.take());
            IOE_PANICKED
        })
    }
}

static DEVICE_TABLE: IoeDeviceTable = IoeDeviceTable {
    size: size_of::<IoeDeviceTable>() as u32,
    version: IOE_ABI_VERSION,
    name: Some(name),
    product: Some(product),
    geometry: Some(geometry),
    capabilities: Some(capabilities),
    uuid: Some(uuid),
    queue_open: Some(queue_open),
    resize: Some(resize),
    command: Some(command),
    warning: Some(warning),
    close: Some(close),
};

/// # Safety
/// `device` is that of [`DeviceCell::hand_out`], not yet closed, called by one thread at a time.
unsafe fn cell<'a>(device: *mut c_void) -> &'a mut DeviceCell {
    // SAFETY: the caller's.
    unsafe { &mut *device.cast::<DeviceCell>() }
}

unsafe extern "C" fn name(device: *mut c_void, room: *mut IoeText) -> i32 {
    // SAFETY: the owner's call.
    unsafe { cell(device) }.enter("name", |device| {
        // SAFETY: room lent for the call.
        unsafe { fill_text(room, device.name()) };
        IOE_OK
    })
}

unsafe extern "C" fn product(device: *mut c_void, room: *mut IoeText) -> i32 {
    // SAFETY: the owner's call.
    unsafe { cell(device) }.enter("product_name", |device| {
        // SAFETY: room lent for the call.
        unsafe { fill_text(room, device.product_name()) };
        IOE_OK
    })
}

unsafe extern "C" fn geometry(device: *mut c_void, room: *mut IoeGeometry) -> i32 {
    // SAFETY: the owner's call.
    unsafe { cell(device) }.enter("geometry", |device| {
        // SAFETY: room lent for the call.
        unsafe { room.write(geometry_out(device.geometry())) };
        IOE_OK
    })
}

unsafe extern "C" fn capabilities(device: *mut c_void, room: *mut IoeCapabilities) -> i32 {
    // SAFETY: the owner's call.
    unsafe { cell(device) }.enter("capabilities", |device| {
        // SAFETY: room lent for the call.
        unsafe { room.write(capabilities_out(device.capabilities())) };
        IOE_OK
    })
}

unsafe extern "C" fn uuid(device: *mut c_void, room: *mut u8) -> i32 {
    // SAFETY: the owner's call.
    unsafe { cell(device) }.enter("uuid", |device| match device.uuid() {
        Some(uuid) => {
            // SAFETY: room for 16 bytes, lent for the call.
            unsafe { room.copy_from_nonoverlapping(uuid.as_ptr(), uuid.len()) };
            IOE_OK
        }
        None => IOE_NOT_SUPPORTED,
    })
}

unsafe extern "C" fn queue_open(
    device: *mut c_void,
    queue: *mut IoeQueue,
    failure: *mut IoeFailure,
) -> i32 {
    // SAFETY: the owner's call.
    let cell = unsafe { cell(device) };
    let (image, engine) = (cell.image.clone(), cell.engine.clone());
    cell.enter("open_queue", |device| match device.open_queue() {
        Ok(seed) => {
            // SAFETY: room for a queue, lent for the call.
            unsafe { queue.write(QueueCell::hand_out(seed, image, engine)) };
            IOE_OK
        }
        // SAFETY: room lent for the call.
        Err(error) => unsafe { refuse(failure, &error) },
    })
}

unsafe extern "C" fn resize(
    device: *mut c_void,
    blocks: u64,
    room: *mut IoeGeometry,
    failure: *mut IoeFailure,
) -> i32 {
    let blocks = (blocks != IOE_BLOCKS_OF_MEDIUM).then_some(Blocks(blocks));
    // SAFETY: the owner's call.
    unsafe { cell(device) }.enter("resize", |device| match device.resize(blocks) {
        Ok(geometry) => {
            // SAFETY: room lent for the call.
            unsafe { room.write(geometry_out(geometry)) };
            IOE_OK
        }
        // SAFETY: room lent for the call.
        Err(error) => unsafe { refuse(failure, &error) },
    })
}

unsafe extern "C" fn command(
    device: *mut c_void,
    line: IoeStr,
    answer: *mut IoeText,
    failure: *mut IoeFailure,
) -> i32 {
    // SAFETY: the owner's call, with text lent for it.
    let (cell, line) = unsafe { (cell(device), text(line)) };
    cell.enter("handle_command", |device| {
        match device.handle_command(line) {
            Ok(words) => {
                // SAFETY: room lent for the call.
                unsafe { fill_text(answer, &words) };
                IOE_OK
            }
            // SAFETY: room lent for the call.
            Err(error) => unsafe { refuse(failure, &error) },
        }
    })
}

unsafe extern "C" fn warning(device: *mut c_void, room: *mut IoeText) -> i32 {
    // SAFETY: the owner's call.
    unsafe { cell(device) }.enter("warning", |device| {
        // SAFETY: room lent for the call.
        unsafe { fill_text(room, device.warning().as_deref().unwrap_or_default()) };
        IOE_OK
    })
}

unsafe extern "C" fn close(device: *mut c_void) {
    // SAFETY: the owner's last call.
    let cell = unsafe { Box::from_raw(device.cast::<DeviceCell>()) };
    let image = cell.image.clone();
    // A panic while dropping has nobody left to answer to; it is logged.
    let _ = image.guard("drop of a device", || drop(cell));
}
