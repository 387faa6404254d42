//! Which call into a plugin is under way on a reactor, so that one that blocks can be named.
//!
//! Each object marks the beginning and the end of a call by counting; an odd count that stays the same is a call that
//! does not return. The mark costs two stores that no other thread waits for.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant};

/// Calls of one object.
#[derive(Debug)]
pub(super) struct Mark {
    kind: &'static str,
    /// Even between calls, odd during one.
    count: AtomicU64,
}

impl Mark {
    #[inline]
    pub(super) fn enter(&self) {
        self.step();
    }

    #[inline]
    pub(super) fn leave(&self) {
        self.step();
    }

    #[inline]
    fn step(&self) {
        // Only the object's own thread writes.
        let count = self.count.load(Ordering::Relaxed);
        self.count.store(count.wrapping_add(1), Ordering::Relaxed);
    }
}

/// The objects of one plugin on reactors.
#[derive(Debug, Default)]
pub struct Watch {
    marks: Mutex<Vec<Looked>>,
}

#[derive(Debug)]
struct Looked {
    mark: Weak<Mark>,
    /// The count when it was looked at last, and since when it has been that.
    last: (u64, Instant),
    told: bool,
}

/// A call that has not returned for a while.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Blocked {
    /// What is being called: `queue`, `fabric`, `export`.
    pub object: &'static str,
    /// For how long at least.
    pub since: Duration,
}

impl Watch {
    fn marks(&self) -> MutexGuard<'_, Vec<Looked>> {
        self.marks.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// An object whose calls are marked.
    pub(super) fn mark(&self, kind: &'static str) -> Arc<Mark> {
        let mark = Arc::new(Mark {
            kind,
            count: AtomicU64::new(0),
        });
        self.marks().push(Looked {
            mark: Arc::downgrade(&mark),
            last: (0, Instant::now()),
            told: false,
        });
        mark
    }

    /// Calls that have been under way since an earlier look at least `limit` ago, each told once. To be asked for every now
    /// and then.
    pub fn look(&self, now: Instant, limit: Duration) -> Vec<Blocked> {
        let mut blocked = Vec::new();
        self.marks().retain_mut(|looked| {
            let Some(mark) = looked.mark.upgrade() else {
                return false;
            };
            let count = mark.count.load(Ordering::Relaxed);
            if count != looked.last.0 {
                (looked.last, looked.told) = ((count, now), false);
            }
            let since = now.saturating_duration_since(looked.last.1);
            if count % 2 == 1 && since >= limit && !looked.told {
                looked.told = true;
                blocked.push(Blocked {
                    object: mark.kind,
                    since,
                });
            }
            true
        });
        blocked
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_call_that_does_not_return_is_told_once() {
        let (watch, limit) = (Watch::default(), Duration::from_secs(1));
        let mark = watch.mark("queue");
        let start = Instant::now();
        let at = |ms| start + Duration::from_millis(ms);
        assert!(watch.look(at(0), limit).is_empty());
        mark.enter();
        assert!(watch.look(at(100), limit).is_empty());
        assert!(watch.look(at(900), limit).is_empty());
        let since = Duration::from_secs(1);
        let object = "queue";
        assert_eq!(watch.look(at(1100), limit), [Blocked { object, since }]);
        assert!(watch.look(at(9000), limit).is_empty(), "told already");
        mark.leave();
        mark.enter();
        assert!(watch.look(at(9100), limit).is_empty(), "another call");
        mark.leave();
        assert!(
            watch.look(at(99_000), limit).is_empty(),
            "nothing is called"
        );
        drop(mark);
        watch.look(at(99_100), limit);
        assert!(watch.marks().is_empty());
    }
}
