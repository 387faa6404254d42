//! The engine behind its table, as a plugin's code sees it.

use std::ffi::c_void;
use std::sync::Arc;

use abi::*;

use super::clock::Clock;
use super::device_in::RemoteDevice;
use super::guard::Faults;
use super::queue_in::Origin;
use super::root::table_in;
use super::text::{Room, lend, lend_bytes, refusable};
use crate::block::{Device, OpenError};
use crate::services::{Level, Services, StoreError, VALUE_LEN_MAX};

/// The engine, held by a plugin as long as the process.
pub(super) struct Engine {
    /// A copy: what an older engine does not have is absent in it.
    table: IoeEngineTable,
    context: *mut c_void,
    pub(super) clock: Clock,
}

// SAFETY: the engine's context and table are valid as long as the process and may be used by any thread (contract of
// `IoeEngine`).
unsafe impl Send for Engine {}
// SAFETY: as above.
unsafe impl Sync for Engine {}

impl Engine {
    /// The engine behind `raw`; `None` if it has no table, or one without a clock.
    ///
    /// # Safety
    /// `raw` is what the engine passes to a plugin's entry.
    pub(super) unsafe fn new(raw: *const IoeEngine) -> Option<Self> {
        // SAFETY: the caller's.
        let raw = unsafe { *raw.as_ref()? };
        // SAFETY: the caller's.
        let table = unsafe { table_in(raw.table)? };
        // SAFETY: any thread may ask the engine.
        let ns = unsafe { table.now_ns?(raw.context) };
        Some(Self {
            table,
            context: raw.context,
            clock: Clock::joined(ns),
        })
    }

    pub(super) fn wake(&self, remote: u64) {
        if let Some(wake) = self.table.wake {
            // SAFETY: any thread may call it with any number.
            unsafe { wake(self.context, remote) }
        }
    }
}

fn store_error(error: &OpenError) -> StoreError {
    StoreError::Failed(error.to_string())
}

impl Services for Engine {
    fn open_device(&self, uri: &str) -> Result<Box<dyn Device>, OpenError> {
        let Some(open_device) = self.table.open_device else {
            return Err(OpenError::Unsuitable {
                what: uri.to_owned(),
                reason: "this engine opens no devices for plugins".to_owned(),
            });
        };
        let mut raw = IoeDevice {
            table: std::ptr::null(),
            context: std::ptr::null_mut(),
        };
        refusable(uri, |failure| {
            // SAFETY: room for a device and a refusal, lent for the call.
            unsafe { open_device(self.context, lend(uri), &mut raw, failure) }
        })?;
        let origin = Origin {
            name: "the engine".into(),
            clock: self.clock,
            faults: Arc::new(Faults::default()),
            services: None,
            remotes: None,
            watch: Arc::default(),
            is_own: false,
        };
        // SAFETY: the engine gave the device away.
        unsafe { RemoteDevice::take_in(raw, origin) }
    }

    fn load(&self, key: &str) -> Result<Option<Vec<u8>>, StoreError> {
        let Some(load) = self.table.load else {
            return Err(StoreError::Failed("this engine keeps nothing".to_owned()));
        };
        let mut bytes = vec![0; VALUE_LEN_MAX];
        let mut room = Room::new(&mut bytes);
        let mut found = true;
        let loaded = refusable("the store", |failure| {
            // SAFETY: room for a value and a refusal, lent for the call.
            match unsafe { load(self.context, lend(key), room.raw(), failure) } {
                IOE_GONE => {
                    found = false;
                    IOE_OK
                }
                status => status,
            }
        });
        loaded.map_err(|error| store_error(&error))?;
        if room.asked() > VALUE_LEN_MAX {
            return Err(StoreError::TooLarge);
        }
        Ok(found.then(|| room.written().to_vec()))
    }

    fn store(&self, key: &str, value: Option<&[u8]>) -> Result<(), StoreError> {
        let Some(store) = self.table.store else {
            return Err(StoreError::Failed("this engine keeps nothing".to_owned()));
        };
        let none = IoeStr {
            data: std::ptr::null(),
            len: 0,
        };
        refusable("the store", |failure| {
            let value = value.map_or(none, lend_bytes);
            // SAFETY: key, value and room for a refusal, lent for the call.
            unsafe { store(self.context, lend(key), value, failure) }
        })
        .map_err(|error| store_error(&error))
    }

    fn count(&self, name: &str, add: u64) {
        if let Some(count) = self.table.count {
            // SAFETY: a name lent for the call.
            unsafe { count(self.context, lend(name), add) }
        }
    }

    fn log(&self, level: Level, text: &str) {
        let level = match level {
            Level::Error => IOE_LOG_ERROR,
            Level::Warn => IOE_LOG_WARN,
            Level::Info => IOE_LOG_INFO,
            Level::Debug => IOE_LOG_DEBUG,
        };
        if let Some(log) = self.table.log {
            // SAFETY: a text lent for the call.
            unsafe { log(self.context, level, lend(text)) }
        }
    }

    fn take_memory(&self, what: &str, bytes: u64) -> Result<(), OpenError> {
        let Some(memory_take) = self.table.memory_take else {
            return Ok(());
        };
        refusable(what, |failure| {
            // SAFETY: a name and room for a refusal, lent for the call.
            unsafe { memory_take(self.context, lend(what), bytes, failure) }
        })
    }

    fn give_memory(&self, bytes: u64) {
        if let Some(memory_give) = self.table.memory_give {
            // SAFETY: any thread may call it with any number.
            unsafe { memory_give(self.context, bytes) }
        }
    }
}
