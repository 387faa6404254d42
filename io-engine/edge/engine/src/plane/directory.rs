//! Which shard is home to which subsystem, and what discovery shows of them.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::RwLock;
use std::sync::atomic::{AtomicU64, Ordering};

use nvme_target::{AllowedHosts, DiscoveredSubsystem};

/// Homes by NQN. Read by reactors when a Connect names a subsystem that is not theirs; written by the control side.
#[derive(Default)]
pub(super) struct Directory {
    homes: RwLock<BTreeMap<String, usize>>,
    generation: AtomicU64,
}

impl Directory {
    /// The home of `nqn`, if it is served.
    pub(super) fn home(&self, nqn: &str) -> Option<usize> {
        // A reader that panicked cannot have changed anything.
        self.homes
            .read()
            .unwrap_or_else(|poisoned| poisoned.into_inner())
            .get(nqn)
            .copied()
    }

    /// Replaces all homes; answers the discovery entries and their generation.
    pub(super) fn publish(
        &self,
        subsystems: impl Iterator<Item = (String, usize, AllowedHosts)>,
    ) -> (Arc<[DiscoveredSubsystem]>, u64) {
        let mut homes = BTreeMap::new();
        let mut entries = Vec::new();
        for (nqn, home, hosts) in subsystems {
            homes.insert(nqn.clone(), home);
            entries.push(DiscoveredSubsystem { nqn, hosts });
        }
        *self
            .homes
            .write()
            .unwrap_or_else(|poisoned| poisoned.into_inner()) = homes;
        (
            entries.into(),
            self.generation.fetch_add(1, Ordering::Relaxed) + 1,
        )
    }
}
