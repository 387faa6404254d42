//! The engine as a table, one for each plugin.

use std::ffi::c_void;
use std::sync::Arc;
use std::time::Instant;

use abi::*;

use super::clock::Clock;
use super::device_out::DeviceCell;
use super::guard::Image;
use super::queue_in::Remotes;
use super::text::{bytes, fill, refuse, text};
use crate::block::OpenError;
use crate::services::{Level, Services, StoreError};

/// What stands behind the engine's table of one plugin. Lives as long as the process.
pub struct EngineContext {
    image: Arc<Image>,
    remotes: Arc<Remotes>,
}

impl EngineContext {
    /// The engine as one plugin sees it, through services that know whose they are.
    pub fn new(services: Arc<dyn Services>) -> &'static Self {
        let clock = Clock::begin();
        Box::leak(Box::new(Self {
            image: Arc::new(Image { services, clock }),
            remotes: Arc::new(Remotes::default()),
        }))
    }

    pub(super) fn raw(&'static self) -> IoeEngine {
        IoeEngine {
            table: &ENGINE_TABLE,
            context: std::ptr::from_ref(self).cast_mut().cast(),
        }
    }

    pub(super) fn clock(&self) -> Clock {
        self.image.clock
    }

    pub(super) fn services(&self) -> &Arc<dyn Services> {
        &self.image.services
    }

    pub(super) fn remotes(&self) -> &Arc<Remotes> {
        &self.remotes
    }
}

static ENGINE_TABLE: IoeEngineTable = IoeEngineTable {
    size: size_of::<IoeEngineTable>() as u32,
    version: IOE_ABI_VERSION,
    now_ns: Some(now_ns),
    log: Some(log),
    count: Some(count),
    load: Some(load),
    store: Some(store),
    open_device: Some(open_device),
    wake: Some(wake),
    complete_from_any_thread: Some(complete_from_any_thread),
    memory_take: Some(memory_take),
    memory_give: Some(memory_give),
};

/// # Safety
/// `context` is that of [`EngineContext::raw`].
unsafe fn context(context: *mut c_void) -> &'static EngineContext {
    // SAFETY: leaked by `new`, never written.
    unsafe { &*context.cast::<EngineContext>() }
}

// Each function below is called by a plugin with the context it was given and arguments as the contract says: that is
// what their blocks rely on.

unsafe extern "C" fn now_ns(engine: *mut c_void) -> u64 {
    // SAFETY: the plugin's context.
    unsafe { context(engine) }.clock().to_ns(Instant::now())
}

unsafe extern "C" fn log(engine: *mut c_void, level: u32, line: IoeStr) {
    // SAFETY: the plugin's context, and text lent for the call.
    let (context, line) = unsafe { (context(engine), text(line)) };
    let level = match level {
        IOE_LOG_ERROR => Level::Error,
        IOE_LOG_WARN => Level::Warn,
        IOE_LOG_INFO => Level::Info,
        _ => Level::Debug,
    };
    context.services().log(level, line);
}

unsafe extern "C" fn count(engine: *mut c_void, name: IoeStr, add: u64) {
    // SAFETY: the plugin's context, and text lent for the call.
    let (context, name) = unsafe { (context(engine), text(name)) };
    context.services().count(name, add);
}

fn store_refusal(error: &StoreError) -> OpenError {
    OpenError::Unsuitable {
        what: "the store".to_owned(),
        reason: error.to_string(),
    }
}

unsafe extern "C" fn load(
    engine: *mut c_void,
    key: IoeStr,
    value: *mut IoeText,
    failure: *mut IoeFailure,
) -> i32 {
    // SAFETY: the plugin's context, and text lent for the call.
    let (context, key) = unsafe { (context(engine), text(key)) };
    match context.services().load(key) {
        Ok(None) => IOE_GONE,
        Ok(Some(found)) => {
            // SAFETY: room lent for the call.
            if unsafe { fill(value, &found) } {
                return IOE_OK;
            }
            // SAFETY: room lent for the call.
            if let Some(room) = unsafe { value.as_mut() } {
                room.len = u32::try_from(found.len()).unwrap_or(u32::MAX);
            }
            // SAFETY: room lent for the call.
            unsafe { refuse(failure, &store_refusal(&StoreError::TooLarge)) }
        }
        // SAFETY: room lent for the call.
        Err(error) => unsafe { refuse(failure, &store_refusal(&error)) },
    }
}

unsafe extern "C" fn store(
    engine: *mut c_void,
    key: IoeStr,
    value: IoeStr,
    failure: *mut IoeFailure,
) -> i32 {
    // SAFETY: the plugin's context, text and bytes lent for the call.
    let (context, key, found) = unsafe { (context(engine), text(key), bytes(value)) };
    let value = (!value.data.is_null()).then_some(found);
    match context.services().store(key, value) {
        Ok(()) => IOE_OK,
        // SAFETY: room lent for the call.
        Err(error) => unsafe { refuse(failure, &store_refusal(&error)) },
    }
}

unsafe extern "C" fn open_device(
    engine: *mut c_void,
    uri: IoeStr,
    device: *mut IoeDevice,
    failure: *mut IoeFailure,
) -> i32 {
    // SAFETY: the plugin's context, and text lent for the call.
    let (context, uri) = unsafe { (context(engine), text(uri)) };
    match context.services().open_device(uri) {
        Ok(opened) => {
            // SAFETY: room for a device, lent for the call.
            unsafe { device.write(DeviceCell::hand_out(opened, context.image.clone(), None)) };
            IOE_OK
        }
        // SAFETY: room lent for the call.
        Err(error) => unsafe { refuse(failure, &error) },
    }
}

unsafe extern "C" fn wake(engine: *mut c_void, remote: u64) {
    // SAFETY: the plugin's context.
    unsafe { context(engine) }.remotes.wake(remote);
}

unsafe extern "C" fn complete_from_any_thread(
    engine: *mut c_void,
    remote: u64,
    tag: u64,
    status: i32,
) -> i32 {
    // SAFETY: the plugin's context.
    unsafe { context(engine) }
        .remotes
        .complete(remote, tag, status)
}

unsafe extern "C" fn memory_take(
    engine: *mut c_void,
    what: IoeStr,
    bytes: u64,
    failure: *mut IoeFailure,
) -> i32 {
    // SAFETY: the plugin's context, and text lent for the call.
    let (context, what) = unsafe { (context(engine), text(what)) };
    match context.services().take_memory(what, bytes) {
        Ok(()) => IOE_OK,
        // SAFETY: room lent for the call.
        Err(error) => unsafe { refuse(failure, &error) },
    }
}

unsafe extern "C" fn memory_give(engine: *mut c_void, bytes: u64) {
    // SAFETY: the plugin's context.
    unsafe { context(engine) }.services().give_memory(bytes);
}
