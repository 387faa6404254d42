//! What a device shares with its queues: rules and overlay behind a lock, and numbers that tell without it whether there
//! is anything to look at.
//!
//! The lock is held for the length of one decision or one copy, never across an operation of the device below or
//! anything that may block.

use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use sdk::services::Services;

use crate::overlay::Overlay;
use crate::plan::{Ask, Plan, Verdict};

/// What the lock guards.
pub(crate) struct State {
    /// The rules.
    pub(crate) plan: Plan,
    /// Writes not below yet.
    pub(crate) overlay: Overlay,
}

/// See the module documentation.
pub(crate) struct Shared {
    state: Mutex<State>,
    armed: AtomicBool,
    commands: AtomicU64,
    held: AtomicUsize,
    /// When the first operation came.
    epoch: OnceLock<Instant>,
    services: Arc<dyn Services>,
}

impl Shared {
    /// Rules and an overlay as they are at the start.
    pub(crate) fn new(plan: Plan, overlay: Overlay, services: Arc<dyn Services>) -> Self {
        Self {
            armed: AtomicBool::new(!plan.is_empty()),
            state: Mutex::new(State { plan, overlay }),
            commands: AtomicU64::new(0),
            held: AtomicUsize::new(0),
            epoch: OnceLock::new(),
            services,
        }
    }

    /// Whether operations have to be looked at at all.
    pub(crate) fn is_armed(&self) -> bool {
        self.armed.load(Ordering::Acquire)
    }

    /// Looks at the state or changes it.
    pub(crate) fn with<T>(&self, work: impl FnOnce(&mut State) -> T) -> T {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let result = work(&mut state);
        let armed = !state.plan.is_empty() || !state.overlay.is_empty();
        self.armed.store(armed, Ordering::Release);
        result
    }

    /// What the rules say about an operation given to a queue at `now`.
    pub(crate) fn judge(&self, ask: Ask, now: Instant) -> Verdict {
        let since = now.saturating_duration_since(*self.epoch.get_or_init(|| now));
        self.with(|state| state.plan.judge(ask, since))
    }

    /// Commands obeyed so far: a queue that holds operations looks again when this has changed.
    pub(crate) fn commands(&self) -> u64 {
        self.commands.load(Ordering::Acquire)
    }

    /// A command was obeyed.
    pub(crate) fn count_command(&self) {
        self.commands.fetch_add(1, Ordering::Release);
    }

    /// Operations the queues hold back.
    pub(crate) fn held(&self) -> usize {
        self.held.load(Ordering::Relaxed)
    }

    /// A queue holds one operation more.
    pub(crate) fn add_held(&self) {
        self.held.fetch_add(1, Ordering::Relaxed);
    }

    /// A queue holds so many operations fewer.
    pub(crate) fn sub_held(&self, count: usize) {
        self.held.fetch_sub(count, Ordering::Relaxed);
    }

    /// The engine.
    pub(crate) fn services(&self) -> &dyn Services {
        &*self.services
    }
}

/// `wait` after `now`; `now` itself past the end of time, which no bounded delay reaches.
pub(crate) fn later(now: Instant, wait: Duration) -> Instant {
    now.checked_add(wait).unwrap_or(now)
}
