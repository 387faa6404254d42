//! What each host holds of the target's tables, by host NQN: controllers, connected queues, commands in flight.
//!
//! Decides whether a host may have one more. A host is its NQN, whatever addresses its connections come from; without
//! authentication the NQN is what the peer claims. Does not know addresses: connections without Connect are the engine's to
//! share out.
//!
//! Invariant: an entry lives as long as its host holds anything, so that a host which disconnects while a device has its
//! commands is the same host when it is back.

use std::collections::BTreeMap;

use crate::command::NONE;
use crate::limits;
use crate::slab::Slab;

#[derive(Debug)]
struct Holding {
    nqn: String,
    controllers: u32,
    queues: u32,
    commands: u32,
}

/// See the module documentation.
#[derive(Debug)]
pub(crate) struct Hosts {
    by_nqn: BTreeMap<String, u32>,
    holdings: Slab<Holding>,
}

impl Hosts {
    /// For up to `hosts_max` hosts, those counted that are gone but for commands in a device.
    pub(crate) fn new(hosts_max: u32) -> Self {
        Self {
            by_nqn: BTreeMap::new(),
            holdings: Slab::new(hosts_max),
        }
    }

    /// Controllers and connected queues of `nqn`.
    pub(crate) fn held(&self, nqn: &str) -> (u32, u32) {
        self.by_nqn
            .get(nqn)
            .and_then(|host| self.holdings.get(*host))
            .map_or((0, 0), |holding| (holding.controllers, holding.queues))
    }

    /// A controller of `nqn` came, with its admin queue; answers the host's index, `None` when there is no room.
    pub(crate) fn add_controller(&mut self, nqn: &str) -> Option<u32> {
        let host = match self.by_nqn.get(nqn) {
            Some(host) => *host,
            None => {
                let holding = Holding {
                    nqn: nqn.to_owned(),
                    controllers: 0,
                    queues: 0,
                    commands: 0,
                };
                let (host, _) = self.holdings.insert(holding).ok()?;
                self.by_nqn.insert(nqn.to_owned(), host);
                host
            }
        };
        self.holdings[host].controllers += 1;
        self.holdings[host].queues += 1;
        Some(host)
    }

    /// A controller of `host` went.
    pub(crate) fn remove_controller(&mut self, host: u32) {
        self.holdings[host].controllers -= 1;
        self.forget_if_gone(host);
    }

    /// An I/O queue of `host` was connected.
    pub(crate) fn add_queue(&mut self, host: u32) {
        self.holdings[host].queues += 1;
    }

    /// A queue of `host` was closed.
    pub(crate) fn remove_queue(&mut self, host: u32) {
        self.holdings[host].queues -= 1;
        self.forget_if_gone(host);
    }

    /// Whether `host` may have one more command in flight with `free` slots left for everybody: at most
    /// [`limits::HOST_SLOTS_PER_FREE`] times what is left, so that a newcomer finds slots however many hosts are greedy.
    #[inline]
    pub(crate) fn may_add_command(&self, host: u32, free: u32, extra: u32) -> bool {
        let bound = free
            .saturating_mul(limits::HOST_SLOTS_PER_FREE)
            .saturating_add(extra);
        host == NONE || self.holdings[host].commands < bound
    }

    /// A command of `host` got a slot; [`NONE`] is nobody.
    #[inline]
    pub(crate) fn add_command(&mut self, host: u32) {
        if host != NONE {
            self.holdings[host].commands += 1;
        }
    }

    /// A command of `host` ended; [`NONE`] is nobody.
    #[inline]
    pub(crate) fn remove_command(&mut self, host: u32) {
        if host != NONE {
            let holding = &mut self.holdings[host];
            holding.commands -= 1;
            if holding.commands == 0 && holding.queues == 0 {
                self.forget_if_gone(host);
            }
        }
    }

    /// Hosts that hold anything.
    pub(crate) fn len(&self) -> usize {
        self.holdings.len()
    }

    fn forget_if_gone(&mut self, host: u32) {
        let holding = &self.holdings[host];
        if (holding.controllers, holding.queues, holding.commands) == (0, 0, 0)
            && let Some(gone) = self.holdings.remove(host)
        {
            self.by_nqn.remove(&gone.nqn);
        }
    }
}
