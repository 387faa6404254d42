//! Whether a device is offline, for those to see who are not on its reactor.

use std::sync::OnceLock;

/// Set once, when the device is taken offline. A device that is opened again has a new one.
#[derive(Debug, Default)]
pub struct Health(OnceLock<&'static str>);

impl Health {
    /// Why the device is offline; `None` while it is not.
    pub fn offline_reason(&self) -> Option<&'static str> {
        self.0.get().copied()
    }

    /// Notes the reason. Tells whether it is the first, which stays.
    pub(crate) fn set_offline(&self, reason: &'static str) -> bool {
        self.0.set(reason).is_ok()
    }
}
