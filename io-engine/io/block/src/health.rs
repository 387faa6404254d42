//! Whether a device is offline, for those to see who are not on its reactor.

use std::fmt;
use std::sync::{Arc, OnceLock};

/// Called on the device's reactor; it must return at once.
pub type Listener = Arc<dyn Fn() + Send + Sync>;

/// Set once, when the device is taken offline. A device that is opened again has a new one.
#[derive(Default)]
pub struct Health {
    reason: OnceLock<&'static str>,
    listener: OnceLock<Listener>,
}

impl Health {
    /// Why the device is offline; `None` while it is not.
    pub fn offline_reason(&self) -> Option<&'static str> {
        self.reason.get().copied()
    }

    /// Has `listener` called when the device is taken offline (at once if it is), and at every [`Health::tell`]. The first
    /// one stays.
    pub fn listen(&self, listener: Listener) {
        // A second listener is not needed by anybody.
        let _ = self.listener.set(listener);
        if self.reason.get().is_some() {
            self.tell();
        }
    }

    /// Calls who listens: something about the device is to be looked at.
    pub fn tell(&self) {
        if let Some(listener) = self.listener.get() {
            listener();
        }
    }

    /// Notes the reason. Tells whether it is the first, which stays.
    pub(crate) fn set_offline(&self, reason: &'static str) -> bool {
        let is_first = self.reason.set(reason).is_ok();
        if is_first {
            self.tell();
        }
        is_first
    }
}

impl fmt::Debug for Health {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Health").field(&self.reason).finish()
    }
}
