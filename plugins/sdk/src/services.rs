//! What the engine lends a plugin on the control path: other devices, a small store, memory to keep data in, counters, log
//! lines.
//!
//! Decides nothing; the engine's side keeps what is stored apart by plugin, so that two plugins never see each other's
//! keys or counters. Nothing here is for the data path: calls may block, and none may be made on a reactor, except
//! [`Services::count`], [`Services::log`] and [`Services::give_memory`], which return at once.

use std::fmt;
use std::sync::Arc;

use crate::block::{Device, OpenError};

/// Longest key of [`Services::store`], in bytes.
pub const KEY_LEN_MAX: usize = 128;

/// Largest value of [`Services::store`], in bytes; a larger one is refused.
pub const VALUE_LEN_MAX: usize = 64 << 10;

/// How much a log line matters.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Level {
    /// The operator has to act.
    Error,
    /// Something is not as it should be; the engine copes.
    Warn,
    /// A normal event worth a line.
    Info,
    /// For whoever looks for a fault.
    Debug,
}

/// Why the store refused.
#[derive(Debug)]
#[non_exhaustive]
pub enum StoreError {
    /// The key is empty or longer than [`KEY_LEN_MAX`].
    BadKey,
    /// The value is longer than [`VALUE_LEN_MAX`].
    TooLarge,
    /// The engine's store failed, or there is none.
    Failed(String),
}

impl fmt::Display for StoreError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::BadKey => write!(f, "a key has 1 to {KEY_LEN_MAX} bytes"),
            Self::TooLarge => write!(f, "a value has at most {VALUE_LEN_MAX} bytes"),
            Self::Failed(reason) => write!(f, "the engine's store: {reason}"),
        }
    }
}

impl std::error::Error for StoreError {}

/// The engine, as a plugin sees it off the data path.
pub trait Services: Send + Sync {
    /// Opens another device by URI, through whatever plugin serves its scheme. The caller owns it, is its only user,
    /// and gives it back by dropping it. Blocks.
    ///
    /// # Errors
    /// Any [`OpenError`].
    fn open_device(&self, uri: &str) -> Result<Box<dyn Device>, OpenError>;

    /// What was last stored under `key`. Blocks.
    ///
    /// # Errors
    /// Any [`StoreError`].
    fn load(&self, key: &str) -> Result<Option<Vec<u8>>, StoreError>;

    /// Stores `value` under `key`, durably, or removes the key. Blocks.
    ///
    /// # Errors
    /// Any [`StoreError`].
    fn store(&self, key: &str, value: Option<&[u8]>) -> Result<(), StoreError>;

    /// Adds to a counter, which appears with the plugin's name among the engine's metrics. `name` is of `a-z`, `0-9`
    /// and `_`; others, and more than 64 different names, are dropped.
    fn count(&self, name: &str, add: u64);

    /// A line in the engine's log, under the plugin's name.
    fn log(&self, level: Level, text: &str);

    /// Asks for `bytes` of this process's memory to keep data in, before any of it is used: what devices hold together must
    /// fit in the machine, or the system kills the engine. `what` names the object in the refusal. Granted without limit
    /// where nobody counts. [`MemoryShare`] gives back by itself.
    ///
    /// # Errors
    /// [`OpenError::NoRoom`].
    fn take_memory(&self, _what: &str, _bytes: u64) -> Result<(), OpenError> {
        Ok(())
    }

    /// Gives back `bytes` that were taken and are freed.
    fn give_memory(&self, _bytes: u64) {}
}

/// Memory asked for by [`Services::take_memory`], given back when this is dropped.
pub struct MemoryShare {
    services: Arc<dyn Services>,
    what: String,
    bytes: u64,
}

impl MemoryShare {
    /// Asks for `bytes` for the object called `what`.
    ///
    /// # Errors
    /// [`OpenError::NoRoom`].
    pub fn take(services: &Arc<dyn Services>, what: &str, bytes: u64) -> Result<Self, OpenError> {
        services.take_memory(what, bytes)?;
        Ok(Self {
            services: services.clone(),
            what: what.to_owned(),
            bytes,
        })
    }

    /// Asks for more, or gives back what is beyond `bytes`.
    ///
    /// # Errors
    /// [`OpenError::NoRoom`]; the share is as large as before then.
    pub fn resize(&mut self, bytes: u64) -> Result<(), OpenError> {
        match bytes.checked_sub(self.bytes) {
            Some(more) if more > 0 => self.services.take_memory(&self.what, more)?,
            Some(_) => {}
            None => self.services.give_memory(self.bytes - bytes),
        }
        self.bytes = bytes;
        Ok(())
    }
}

impl Drop for MemoryShare {
    fn drop(&mut self) {
        self.services.give_memory(self.bytes);
    }
}
