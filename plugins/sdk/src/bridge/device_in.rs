//! Drivers and devices behind tables.

use std::ffi::c_void;
use std::sync::{Arc, Mutex, PoisonError};

use abi::*;
use units::Blocks;

use super::convert::{capabilities_in, geometry_in};
use super::engine_out::EngineContext;
use super::queue_in::{Origin, RemoteSeed};
use super::root::table_in;
use super::text::{Room, ask, lend, refusable};
use crate::block::{Capabilities, Device, DeviceDriver, Geometry, OpenError, QueueSeed};
use crate::services::Services;
use crate::uri::{DeviceUri, UriError};

/// Longest answer to a command, in bytes.
const ANSWER_BYTES: usize = 64 << 10;

/// A driver behind a table. Lives as long as the process.
pub(super) struct RemoteDriver {
    context: *mut c_void,
    open: unsafe extern "C" fn(
        *mut c_void,
        *const IoeEngine,
        IoeStr,
        *mut IoeDevice,
        *mut IoeFailure,
    ) -> i32,
    check: Option<unsafe extern "C" fn(*mut c_void, IoeStr, *mut IoeFailure) -> i32>,
    schemes: &'static [&'static str],
    engine: IoeEngine,
    origin: Origin,
}

// SAFETY: any thread may call a driver, also at the same time (contract of `IoeDriverTable`); the rest is read only.
unsafe impl Send for RemoteDriver {}
// SAFETY: as above.
unsafe impl Sync for RemoteDriver {}

impl RemoteDriver {
    /// The driver behind `raw`; the error says what is missing.
    ///
    /// # Safety
    /// `raw` is what a plugin's entry brought.
    pub(super) unsafe fn new(
        raw: &IoeDriver,
        context: &'static EngineContext,
        origin: Origin,
    ) -> Result<Self, String> {
        // SAFETY: the caller's; a table says how large it is.
        let table = unsafe { table_in(raw.table) }.ok_or("a driver without a table")?;
        let schemes = table.schemes.ok_or("a driver without `schemes`")?;
        let open = table.open.ok_or("a driver without `open`")?;
        // SAFETY: room lent for the call.
        let text = ask(|room| unsafe { schemes(raw.context, room) });
        let list: Vec<&'static str> = text
            .split(',')
            .filter(|scheme| !scheme.is_empty())
            .map(|scheme| &*Box::leak(scheme.to_owned().into_boxed_str()))
            .collect();
        if list.is_empty() {
            return Err("a driver without a scheme".to_owned());
        }
        Ok(Self {
            context: raw.context,
            open,
            check: table.check,
            schemes: Box::leak(list.into_boxed_slice()),
            engine: context.raw(),
            origin,
        })
    }
}

impl DeviceDriver for RemoteDriver {
    fn schemes(&self) -> &'static [&'static str] {
        self.schemes
    }

    fn check(&self, uri: DeviceUri) -> Result<(), UriError> {
        let Some(check) = self.check else {
            return Ok(());
        };
        let checked = refusable(uri.text(), |failure| {
            // SAFETY: text and room lent for the call.
            unsafe { check(self.context, lend(uri.text()), failure) }
        });
        match checked {
            Err(OpenError::Uri(error)) => Err(error),
            // What is not about the text only opening tells.
            Err(_) | Ok(()) => Ok(()),
        }
    }

    fn open(&self, uri: DeviceUri) -> Result<Box<dyn Device>, OpenError> {
        let mut raw = IoeDevice {
            table: std::ptr::null(),
            context: std::ptr::null_mut(),
        };
        refusable(uri.text(), |failure| {
            // SAFETY: text, engine and room lent for the call.
            unsafe {
                (self.open)(
                    self.context,
                    &self.engine,
                    lend(uri.text()),
                    &mut raw,
                    failure,
                )
            }
        })?;
        // SAFETY: the plugin gave the device away.
        unsafe { RemoteDevice::take_in(raw, self.origin.clone()) }
    }

    /// The plugin has services of its own since it was entered.
    fn open_with(
        &self,
        uri: DeviceUri,
        services: &Arc<dyn Services>,
    ) -> Result<Box<dyn Device>, OpenError> {
        let _ = services;
        self.open(uri)
    }
}

/// Functions of a device, checked to be there where they must be.
struct Calls {
    queue_open: unsafe extern "C" fn(*mut c_void, *mut IoeQueue, *mut IoeFailure) -> i32,
    close: unsafe extern "C" fn(*mut c_void),
    table: IoeDeviceTable,
}

/// A device behind a table.
pub(super) struct RemoteDevice {
    context: *mut c_void,
    calls: Calls,
    name: String,
    product: String,
    geometry: Geometry,
    capabilities: Capabilities,
    uuid: Option<[u8; 16]>,
    origin: Origin,
    /// Held by calls that take `&self`: a device is called by one thread at a time.
    calling: Mutex<()>,
}

// SAFETY: a device may be called by any thread, one at a time (contract of `IoeDeviceTable`); only methods that take
// `&mut self`, or hold `calling`, call it.
unsafe impl Send for RemoteDevice {}
// SAFETY: as above.
unsafe impl Sync for RemoteDevice {}

/// What a device said of itself when it was opened.
struct Facts {
    name: String,
    product: String,
    geometry: Geometry,
    capabilities: Capabilities,
    uuid: Option<[u8; 16]>,
}

impl Facts {
    /// # Safety
    /// `raw` is a device the caller owns, `table` its table.
    unsafe fn ask(raw: &IoeDevice, table: &IoeDeviceTable) -> Result<Self, &'static str> {
        let (Some(name), Some(product), Some(geometry), Some(capabilities)) = (
            table.name,
            table.product,
            table.geometry,
            table.capabilities,
        ) else {
            return Err("its table lacks a function every device has");
        };
        let mut size = IoeGeometry {
            block_size: 0,
            reserved: 0,
            blocks: 0,
        };
        let mut able = IoeCapabilities {
            size: size_of::<IoeCapabilities>() as u32,
            write_zeroes: 0,
            discard: 0,
            flags: 0,
            atomic_blocks: 1,
            direct: 0,
        };
        let mut uuid = [0; 16];
        // SAFETY: room lent for each call; the device is the caller's.
        unsafe {
            if geometry(raw.context, &mut size) != IOE_OK
                || capabilities(raw.context, &mut able) != IOE_OK
            {
                return Err("it does not say how large it is or what it can do");
            }
            let has_uuid = table
                .uuid
                .is_some_and(|ask| ask(raw.context, uuid.as_mut_ptr()) == IOE_OK);
            Ok(Self {
                name: ask(|room| name(raw.context, room)),
                product: ask(|room| product(raw.context, room)),
                geometry: geometry_in(size).ok_or("its block size is neither 512 nor 4096")?,
                capabilities: capabilities_in(able),
                uuid: has_uuid.then_some(uuid),
            })
        }
    }
}

impl RemoteDevice {
    /// The device behind `raw`, which is closed again if it is not one.
    ///
    /// # Errors
    /// [`OpenError::Unsuitable`] for a table that lacks something or an answer out of range.
    ///
    /// # Safety
    /// `raw` is what an `open` gave away.
    pub(super) unsafe fn take_in(
        raw: IoeDevice,
        origin: Origin,
    ) -> Result<Box<dyn Device>, OpenError> {
        let unsuitable = |reason: &str| OpenError::Unsuitable {
            what: format!("a device of plugin '{}'", origin.name),
            reason: reason.to_owned(),
        };
        // SAFETY: the caller's; a table says how large it is.
        let table = unsafe { table_in(raw.table) };
        let Some((table, close)) = table.and_then(|table| Some((table, table.close?))) else {
            return Err(unsuitable("its table is not one of a device"));
        };
        // SAFETY: the device is ours.
        let facts = unsafe { Facts::ask(&raw, &table) };
        let whole = facts.and_then(|facts| {
            let queue_open = table.queue_open.ok_or("its table lacks `queue_open`")?;
            Ok((facts, queue_open))
        });
        let (facts, queue_open) = match whole {
            Ok(whole) => whole,
            Err(reason) => {
                // SAFETY: the device is ours, and this is the last call.
                unsafe { close(raw.context) };
                return Err(unsuitable(reason));
            }
        };
        Ok(Box::new(Self {
            context: raw.context,
            calls: Calls {
                queue_open,
                close,
                table,
            },
            name: facts.name,
            product: facts.product,
            geometry: facts.geometry,
            capabilities: facts.capabilities,
            uuid: facts.uuid,
            origin,
            calling: Mutex::new(()),
        }))
    }

    fn lacks(&self, what: &str) -> OpenError {
        OpenError::Unsuitable {
            what: self.name.clone(),
            reason: what.to_owned(),
        }
    }
}

impl Device for RemoteDevice {
    fn name(&self) -> &str {
        &self.name
    }

    fn product_name(&self) -> &str {
        &self.product
    }

    fn geometry(&self) -> Geometry {
        self.geometry
    }

    fn capabilities(&self) -> Capabilities {
        self.capabilities
    }

    fn uuid(&self) -> Option<[u8; 16]> {
        self.uuid
    }

    fn open_queue(&mut self) -> Result<Box<dyn QueueSeed>, OpenError> {
        let mut raw = IoeQueue {
            table: std::ptr::null(),
            context: std::ptr::null_mut(),
        };
        refusable(&self.name, |failure| {
            // SAFETY: room lent for the call.
            unsafe { (self.calls.queue_open)(self.context, &mut raw, failure) }
        })?;
        // SAFETY: the plugin gave the queue away.
        let seed = unsafe { RemoteSeed::new(raw, self.geometry, self.origin.clone()) };
        match seed {
            Some(seed) => Ok(Box::new(seed)),
            None => Err(self.lacks("its queue's table lacks a function every queue has")),
        }
    }

    fn resize(&mut self, blocks: Option<Blocks>) -> Result<Geometry, OpenError> {
        let Some(resize) = self.calls.table.resize else {
            return match blocks {
                None => Ok(self.geometry),
                Some(_) => Err(self.lacks("it cannot change its size")),
            };
        };
        let blocks = blocks.map_or(IOE_BLOCKS_OF_MEDIUM, |blocks| blocks.0);
        let mut raw = IoeGeometry {
            block_size: 0,
            reserved: 0,
            blocks: 0,
        };
        refusable(&self.name, |failure| {
            // SAFETY: room lent for the call.
            unsafe { resize(self.context, blocks, &mut raw, failure) }
        })?;
        match geometry_in(raw) {
            Some(geometry) => {
                self.geometry = geometry;
                Ok(geometry)
            }
            None => Err(self.lacks("its block size is neither 512 nor 4096")),
        }
    }

    fn warning(&self) -> Option<String> {
        self.ask_warning()
    }

    fn handle_command(&mut self, line: &str) -> Result<String, OpenError> {
        let Some(command) = self.calls.table.command else {
            return Err(self.lacks("the device takes no commands"));
        };
        let mut bytes = vec![0; ANSWER_BYTES];
        let mut room = Room::new(&mut bytes);
        refusable(&self.name, |failure| {
            // SAFETY: text and room lent for the call.
            unsafe { command(self.context, lend(line), room.raw(), failure) }
        })?;
        Ok(String::from_utf8_lossy(room.written()).into_owned())
    }
}

impl RemoteDevice {
    fn ask_warning(&self) -> Option<String> {
        let warning = self.calls.table.warning?;
        let _calling = self.calling.lock().unwrap_or_else(PoisonError::into_inner);
        // SAFETY: room lent for the call, which is the only one.
        let text = ask(|room| unsafe { warning(self.context, room) });
        (!text.is_empty()).then_some(text)
    }
}

impl Drop for RemoteDevice {
    fn drop(&mut self) {
        // SAFETY: the device is ours, and this is the last call.
        unsafe { (self.calls.close)(self.context) }
    }
}
