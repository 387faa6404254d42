//! What the engine lends a plugin on the control path: other devices, a small store, counters, log lines.
//!
//! Decides nothing; the engine's side keeps what is stored apart by plugin, so that two plugins never see each other's
//! keys or counters. Nothing here is for the data path: calls may block, and none may be made on a reactor, except
//! [`Services::count`] and [`Services::log`], which return at once.

use std::fmt;

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
}
