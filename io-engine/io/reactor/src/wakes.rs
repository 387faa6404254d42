//! Calls of other threads for objects of this reactor.
//!
//! An owner that was called for any number of times is told once. No call is lost, for the reason no message is (see
//! `mailbox`): a caller makes its mark visible before it rings, the reactor looks for marks after it announced its sleep.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use sdk::host::{OwnerId, Wake};

use crate::mailbox::Bell;

/// Who was called for.
pub(crate) struct Wakes {
    called: Mutex<Vec<OwnerId>>,
    any: AtomicBool,
    bell: Arc<Bell>,
}

impl Wakes {
    pub(crate) fn new(bell: Arc<Bell>) -> Arc<Self> {
        Arc::new(Self {
            called: Mutex::default(),
            any: AtomicBool::new(false),
            bell,
        })
    }

    fn called(&self) -> MutexGuard<'_, Vec<OwnerId>> {
        self.called.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether somebody was called for since the last take.
    pub(crate) fn has_any(&self) -> bool {
        self.any.load(Ordering::Acquire)
    }

    /// Takes out who was called for.
    pub(crate) fn take(&self) -> Vec<OwnerId> {
        self.any.store(false, Ordering::Release);
        std::mem::take(&mut *self.called())
    }
}

/// Calls for one owner.
pub(crate) struct Caller {
    pub(crate) wakes: Arc<Wakes>,
    pub(crate) owner: OwnerId,
}

impl Wake for Caller {
    fn wake(&self) {
        let mut called = self.wakes.called();
        if !called.contains(&self.owner) {
            called.push(self.owner);
        }
        drop(called);
        self.wakes.any.store(true, Ordering::Release);
        self.wakes.bell.ring();
    }
}
