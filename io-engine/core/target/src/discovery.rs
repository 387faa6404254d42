//! The discovery subsystem's log page (Base 2.0c §5.16.1.23): what the asking host may connect to, at the address it came
//! in on, which is one it can reach.

use std::sync::Arc;

use nvme_spec::discovery::{
    ADRFAM_IPV4, ADRFAM_IPV6, DiscoveryEntry, DiscoveryHeader, EFLAG_PERSISTENT, SUBTYPE_CURRENT,
    SUBTYPE_NVM,
};
use nvme_spec::event::AsyncEvent;
use nvme_spec::nqn::DISCOVERY_NQN;

use crate::config::DiscoveredSubsystem;
use crate::limits;
use crate::target::{DISCOVERY_SUBSYSTEM, Target};

/// What discovery shows.
#[derive(Debug, Default)]
pub(crate) struct Discovery {
    entries: Arc<[DiscoveredSubsystem]>,
    generation: u64,
}

impl Target {
    /// Replaces what discovery shows. `generation` is the log's GENCTR and must differ from the previous call's when the
    /// entries differ; hosts that asked for it are told.
    pub fn set_discovery(&mut self, entries: Arc<[DiscoveredSubsystem]>, generation: u64) {
        let changed = self.discovery.generation != generation;
        self.discovery = Discovery {
            entries,
            generation,
        };
        if changed {
            let controllers = self.subsystems[DISCOVERY_SUBSYSTEM].controllers.clone();
            for index in controllers {
                self.raise(index, AsyncEvent::DISCOVERY_CHANGED);
            }
        }
    }

    /// The page as far as `end`; what lies before `start` is left zero, so that a host reading a long page in pieces costs
    /// no more than the pieces.
    pub(crate) fn discovery_page(&self, q: u32, start: u64, end: u64) -> Vec<u8> {
        let qpair = &self.qpairs[q];
        let facts = &qpair.facts;
        let host = &self.controllers[qpair.controller].host.nqn;
        let adrfam = if facts.ipv6 { ADRFAM_IPV6 } else { ADRFAM_IPV4 };
        let entry = |subtype, nqn: &str| {
            let mut entry =
                DiscoveryEntry::tcp(adrfam, subtype, nqn, &facts.traddr, &facts.trsvcid);
            entry.admin_queue_entries_max = limits::ADMIN_QUEUE_DEPTH_MAX;
            if subtype == SUBTYPE_CURRENT {
                // Explicit persistent connections: keep alive and change notices are served.
                entry.eflags = EFLAG_PERSISTENT;
            }
            entry.emit()
        };
        let shown = || {
            core::iter::once((SUBTYPE_CURRENT, DISCOVERY_NQN)).chain(
                self.discovery
                    .entries
                    .iter()
                    .filter(|subsystem| subsystem.hosts.allows(host))
                    .take(limits::DISCOVERY_ENTRIES_MAX - 1)
                    .map(|subsystem| (SUBTYPE_NVM, subsystem.nqn.as_str())),
            )
        };
        let records = shown().count();
        let header = DiscoveryHeader {
            generation: self.discovery.generation,
            records: records as u64,
            record_format: 0,
        };
        let mut page = vec![0; DiscoveryHeader::LEN + records * DiscoveryEntry::LEN];
        page[..DiscoveryHeader::LEN].copy_from_slice(&header.emit());
        let slots = page[DiscoveryHeader::LEN..].chunks_exact_mut(DiscoveryEntry::LEN);
        for (at, (slot, (subtype, nqn))) in slots.zip(shown()).enumerate() {
            let from = (DiscoveryHeader::LEN + at * DiscoveryEntry::LEN) as u64;
            if from < end && from + DiscoveryEntry::LEN as u64 > start {
                slot.copy_from_slice(&entry(subtype, nqn));
            }
        }
        page
    }
}
