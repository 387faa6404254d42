//! The engine's control path for tests: devices of given drivers, a store in memory, counters and log lines to look at.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use sdk::block::{Device, DeviceDriver, OpenError};
use sdk::services::{KEY_LEN_MAX, Level, Services, StoreError, VALUE_LEN_MAX};
use sdk::uri::{DeviceUri, UriError};

/// Services that open devices with drivers of the test's.
pub struct TestServices {
    drivers: Vec<Box<dyn DeviceDriver>>,
    me: Weak<TestServices>,
    kept: Mutex<Kept>,
}

#[derive(Default)]
struct Kept {
    values: BTreeMap<String, Vec<u8>>,
    counts: BTreeMap<String, u64>,
    lines: Vec<(Level, String)>,
}

impl TestServices {
    /// Services over `drivers`.
    pub fn new(drivers: Vec<Box<dyn DeviceDriver>>) -> Arc<Self> {
        Arc::new_cyclic(|me| Self {
            drivers,
            me: me.clone(),
            kept: Mutex::default(),
        })
    }

    /// What a counter stands at.
    pub fn counted(&self, name: &str) -> u64 {
        self.kept().counts.get(name).copied().unwrap_or(0)
    }

    /// Lines logged so far, oldest first.
    pub fn lines(&self) -> Vec<(Level, String)> {
        self.kept().lines.clone()
    }

    fn kept(&self) -> MutexGuard<'_, Kept> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn check_key(key: &str) -> Result<(), StoreError> {
    if key.is_empty() || key.len() > KEY_LEN_MAX {
        return Err(StoreError::BadKey);
    }
    Ok(())
}

impl Services for TestServices {
    fn open_device(&self, uri: &str) -> Result<Box<dyn Device>, OpenError> {
        let uri = DeviceUri::parse(uri)?;
        let mut drivers = self.drivers.iter();
        let Some(driver) = drivers.find(|driver| driver.schemes().contains(&uri.scheme())) else {
            let known: Vec<&str> = self
                .drivers
                .iter()
                .flat_map(|d| d.schemes())
                .copied()
                .collect();
            return Err(OpenError::Uri(UriError::UnknownScheme {
                scheme: uri.scheme().to_owned(),
                known: known.join(", "),
            }));
        };
        let me: Arc<dyn Services> = self.me.upgrade().expect("borrowed from its Arc");
        driver.open_with(uri, &me)
    }

    fn load(&self, key: &str) -> Result<Option<Vec<u8>>, StoreError> {
        check_key(key)?;
        Ok(self.kept().values.get(key).cloned())
    }

    fn store(&self, key: &str, value: Option<&[u8]>) -> Result<(), StoreError> {
        check_key(key)?;
        match value {
            Some(value) if value.len() > VALUE_LEN_MAX => return Err(StoreError::TooLarge),
            Some(value) => self.kept().values.insert(key.to_owned(), value.to_vec()),
            None => self.kept().values.remove(key),
        };
        Ok(())
    }

    fn count(&self, name: &str, add: u64) {
        *self.kept().counts.entry(name.to_owned()).or_default() += add;
    }

    fn log(&self, level: Level, text: &str) {
        self.kept().lines.push((level, text.to_owned()));
    }
}
