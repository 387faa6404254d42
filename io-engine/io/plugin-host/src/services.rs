//! The engine's services as one plugin gets them: its own keys, counters and log lines, everybody's devices.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use sdk::block::{Device, OpenError};
use sdk::services::{KEY_LEN_MAX, Level, Services, StoreError, VALUE_LEN_MAX};

use crate::host::Shared;

/// Different counters of one plugin; more are dropped.
const COUNTERS_MAX: usize = 64;
/// Longest name of a counter, in bytes.
const COUNTER_LEN_MAX: usize = 64;

/// Where plugins' values are kept. Keys of different plugins are different keys. May block.
pub trait Store: Send + Sync {
    /// What was last stored.
    ///
    /// # Errors
    /// A sentence.
    fn load(&self, plugin: &str, key: &str) -> Result<Option<Vec<u8>>, String>;

    /// Stores durably, or removes.
    ///
    /// # Errors
    /// A sentence.
    fn store(&self, plugin: &str, key: &str, value: Option<&[u8]>) -> Result<(), String>;
}

/// Counters of one plugin.
#[derive(Default)]
pub(crate) struct Counters(Mutex<BTreeMap<String, u64>>);

impl Counters {
    fn table(&self) -> MutexGuard<'_, BTreeMap<String, u64>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn add(&self, name: &str, add: u64) {
        let is_name = !name.is_empty()
            && name.len() <= COUNTER_LEN_MAX
            && name
                .bytes()
                .all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_');
        let mut table = self.table();
        if let Some(count) = table.get_mut(name) {
            *count = count.wrapping_add(add);
        } else if is_name && table.len() < COUNTERS_MAX {
            table.insert(name.to_owned(), add);
        }
    }

    /// All of them.
    pub(crate) fn all(&self) -> Vec<(String, u64)> {
        self.table()
            .iter()
            .map(|(name, count)| (name.clone(), *count))
            .collect()
    }
}

/// The engine, to one plugin.
pub(crate) struct PluginServices {
    pub(crate) plugin: String,
    pub(crate) engine: Weak<Shared>,
    pub(crate) store: Option<Arc<dyn Store>>,
    pub(crate) counters: Arc<Counters>,
}

impl PluginServices {
    fn store_for(&self, key: &str) -> Result<&Arc<dyn Store>, StoreError> {
        if key.is_empty() || key.len() > KEY_LEN_MAX {
            return Err(StoreError::BadKey);
        }
        self.store
            .as_ref()
            .ok_or_else(|| StoreError::Failed("this engine keeps no values".to_owned()))
    }
}

impl Services for PluginServices {
    fn open_device(&self, uri: &str) -> Result<Box<dyn Device>, OpenError> {
        match self.engine.upgrade() {
            Some(engine) => engine.open_device(uri),
            None => Err(OpenError::Unsuitable {
                what: uri.to_owned(),
                reason: "the engine is going down".to_owned(),
            }),
        }
    }

    fn load(&self, key: &str) -> Result<Option<Vec<u8>>, StoreError> {
        let store = self.store_for(key)?;
        store.load(&self.plugin, key).map_err(StoreError::Failed)
    }

    fn store(&self, key: &str, value: Option<&[u8]>) -> Result<(), StoreError> {
        if value.is_some_and(|value| value.len() > VALUE_LEN_MAX) {
            return Err(StoreError::TooLarge);
        }
        let store = self.store_for(key)?;
        store
            .store(&self.plugin, key, value)
            .map_err(StoreError::Failed)
    }

    fn count(&self, name: &str, add: u64) {
        self.counters.add(name, add);
    }

    fn log(&self, level: Level, text: &str) {
        let plugin = self.plugin.as_str();
        match level {
            Level::Error => tracing::error!(plugin, "{text}"),
            Level::Warn => tracing::warn!(plugin, "{text}"),
            Level::Info => tracing::info!(plugin, "{text}"),
            Level::Debug => tracing::debug!(plugin, "{text}"),
        }
    }

    fn take_memory(&self, what: &str, bytes: u64) -> Result<(), OpenError> {
        let engine = self.engine.upgrade();
        let ledger = engine.as_ref().and_then(|engine| engine.memory());
        ledger.map_or(Ok(()), |ledger| ledger.take(what, bytes))
    }

    fn give_memory(&self, bytes: u64) {
        let engine = self.engine.upgrade();
        if let Some(ledger) = engine.as_ref().and_then(|engine| engine.memory()) {
            ledger.give(bytes);
        }
    }
}
