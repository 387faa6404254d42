//! How much memory plugins may keep data in: RAM disks, and whatever else asks ([`sdk::services::Services::take_memory`]).
//!
//! What it decides: whether a wish fits. Two bounds, because either alone lets the system kill the engine: what the operator
//! gives such data together, and what the machine or the control group has at this moment, counting what was granted before
//! and is not in use so far. What it does not: read the machine; its figures are asked for.
//!
//! A grant is for all that may be written, so that no write fails, or kills, in the middle. What others take of the machine
//! afterwards is theirs to answer for; a part is left over for them and for the engine's own needs.

use std::sync::{Arc, Mutex, PoisonError};

use sdk::block::OpenError;

/// One part in this many of the memory there is stays free.
const SPARE_DIVISOR: u64 = 16;

const MIB: u64 = 1 << 20;

/// What a machine has, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MemoryFigures {
    /// What this process could get at this moment without anybody being killed.
    pub available: u64,
    /// Memory of this process that no file backs, and that is in use.
    pub used: u64,
}

/// Reads the machine; `None` where it does not tell.
pub type ReadMemory = Arc<dyn Fn() -> Option<MemoryFigures> + Send + Sync>;

/// The bounds.
#[derive(Clone)]
pub struct MemoryLimits {
    /// Bytes all data of plugins together may have.
    pub bytes_max: u64,
    /// The setting `bytes_max` came from, for refusals.
    pub key: &'static str,
    /// Memory this process may use in all: the machine's or its control group's.
    pub total: u64,
    /// What the engine takes for itself (arenas), whether or not it is in use.
    pub own: u64,
    /// Reads the machine.
    pub read: ReadMemory,
}

/// What is granted of it.
pub(crate) struct Ledger {
    limits: MemoryLimits,
    granted: Mutex<u64>,
}

impl Ledger {
    pub(crate) fn new(limits: MemoryLimits) -> Self {
        Self {
            limits,
            granted: Mutex::new(0),
        }
    }

    /// Grants `bytes` to the object called `what`.
    ///
    /// # Errors
    /// `NoRoom`, with what is left and the fix.
    pub(crate) fn take(&self, what: &str, bytes: u64) -> Result<(), OpenError> {
        let MemoryLimits { bytes_max, key, .. } = self.limits;
        // Held while the machine is read: two wishes must not be told of the same memory.
        let mut granted = self.granted.lock().unwrap_or_else(PoisonError::into_inner);
        let refused = |reason: String| {
            let what = what.to_owned();
            Err(OpenError::NoRoom { what, reason })
        };
        let wanted = bytes.div_ceil(MIB);
        let left = bytes_max.saturating_sub(*granted);
        if bytes > left {
            return refused(format!(
                "needs {wanted} MiB, and {} MiB are left of the {} MiB that {key} gives RAM disks; make it smaller, destroy \
                 another, or raise {key}",
                left / MIB,
                bytes_max / MIB
            ));
        }
        if let Some(free) = self.free_now(*granted)
            && bytes > free
        {
            return refused(format!(
                "needs {wanted} MiB, and this machine has {} MiB to give at the moment, whatever {key} says; make it \
                 smaller, destroy another, or free memory",
                free / MIB
            ));
        }
        *granted += bytes;
        Ok(())
    }

    /// Takes back what was granted.
    pub(crate) fn give(&self, bytes: u64) {
        let mut granted = self.granted.lock().unwrap_or_else(PoisonError::into_inner);
        *granted = granted.saturating_sub(bytes);
    }

    /// What can be granted beside what was, and is not in use so far.
    fn free_now(&self, granted: u64) -> Option<u64> {
        let MemoryFigures { available, used } = (self.limits.read)()?;
        let promised = (granted + self.limits.own).saturating_sub(used);
        let spare = self.limits.total / SPARE_DIVISOR;
        Some(available.saturating_sub(promised).saturating_sub(spare))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ledger(
        bytes_max_mib: u64,
        figures: impl Fn() -> (u64, u64) + Send + Sync + 'static,
    ) -> Ledger {
        Ledger::new(MemoryLimits {
            bytes_max: bytes_max_mib * MIB,
            key: "memory.ram_disks_mib_max",
            total: 1600 * MIB,
            own: 64 * MIB,
            read: Arc::new(move || {
                let (available, used) = figures();
                Some(MemoryFigures {
                    available: available * MIB,
                    used: used * MIB,
                })
            }),
        })
    }

    fn refusal(ledger: &Ledger, mib: u64) -> String {
        ledger
            .take("malloc:///m", mib * MIB)
            .unwrap_err()
            .to_string()
    }

    #[test]
    fn all_together_stay_within_the_operators_bound() {
        let ledger = ledger(100, || (1500, 64));
        ledger.take("malloc:///a", 60 * MIB).unwrap();
        assert_eq!(
            refusal(&ledger, 41),
            "malloc:///m: needs 41 MiB, and 40 MiB are left of the 100 MiB that memory.ram_disks_mib_max gives RAM disks; \
             make it smaller, destroy another, or raise memory.ram_disks_mib_max"
        );
        ledger.take("malloc:///b", 40 * MIB).unwrap();
        refusal(&ledger, 1);
        ledger.give(60 * MIB);
        ledger.take("malloc:///c", 60 * MIB).unwrap();
        assert!(ledger.take("malloc:///d", u64::MAX).is_err());
    }

    #[test]
    fn memory_granted_and_not_written_so_far_is_not_granted_twice() {
        // 1000 MiB there, 100 of which stay free; the arenas (64 MiB) are in use.
        let ledger = ledger(100_000, || (1000, 64));
        ledger.take("malloc:///a", 500 * MIB).unwrap();
        let line = refusal(&ledger, 401);
        assert!(
            line.starts_with("malloc:///m: needs 401 MiB, and this machine has 400 MiB"),
            "{line}"
        );
        ledger.take("malloc:///b", 400 * MIB).unwrap();
        refusal(&ledger, 1);
    }

    #[test]
    fn what_was_written_is_counted_by_the_machine_alone() {
        let ledger = ledger(100_000, || (500, 564));
        *ledger.granted.lock().unwrap() = 500 * MIB;
        ledger.take("malloc:///b", 400 * MIB).unwrap();
    }

    #[test]
    fn a_machine_that_does_not_tell_is_bounded_by_the_operator_alone() {
        let mut ledger = ledger(100, || (0, 0));
        refusal(&ledger, 1);
        ledger.limits.read = Arc::new(|| None);
        ledger.take("malloc:///a", 100 * MIB).unwrap();
        refusal(&ledger, 1);
    }
}
