//! Who waits for memory, and how much of it each host holds.
//!
//! A command that needs a buffer when the arena has none waits here, in order of arrival. A host that holds more than its
//! share while others want some waits too, and is passed by. The queues are bounded by the commands in flight.
//!
//! A host is its NQN, from whatever addresses it connects; a connection that has not said one so far counts for its
//! address. Only hosts that hold memory or wait for some share it: connections that are merely open take nothing from
//! anybody.

use std::collections::{BTreeMap, VecDeque};
use std::net::IpAddr;

use nvme_target::Output;

/// One part in this many of the arena is kept for newcomers, Connect and in-capsule data.
const RESERVE_DIVISOR: usize = 8;

/// A step of a command that waits for a buffer for which its host is charged `len` bytes.
pub(super) struct Waiting {
    /// Share it is charged to.
    pub(super) peer: PeerId,
    /// Bytes it needs.
    pub(super) len: usize,
    /// The step, performed when the buffer is there.
    pub(super) step: Output,
    /// Order of arrival.
    turn: u64,
}

/// Whom connections belong to.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) enum HostKey {
    /// Somebody at this address who has not connected to a subsystem so far.
    Address(IpAddr),
    /// The host of this NQN.
    Nqn(Box<str>),
}

/// A host with connections, or with something left to give back.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct PeerId(usize);

struct Peer {
    key: HostKey,
    connections: u32,
    held_bytes: usize,
    waiting: VecDeque<Waiting>,
}

impl Peer {
    fn wants_memory(&self) -> bool {
        self.held_bytes > 0 || !self.waiting.is_empty()
    }
}

/// See the module documentation.
pub(super) struct Admission {
    arena_bytes: usize,
    by_key: BTreeMap<HostKey, usize>,
    peers: Vec<Option<Peer>>,
    /// Peers that hold memory or wait for it.
    active_peers: usize,
    /// Peers that wait, in no order.
    waiting_peers: Vec<usize>,
    waits: u64,
}

impl Admission {
    pub(super) fn new(arena_bytes: usize) -> Self {
        Self {
            arena_bytes,
            by_key: BTreeMap::new(),
            peers: Vec::new(),
            active_peers: 0,
            waiting_peers: Vec::new(),
            waits: 0,
        }
    }

    /// A connection of `key` opened.
    pub(super) fn join(&mut self, key: HostKey) -> PeerId {
        let slot = match self.by_key.get(&key) {
            Some(slot) => *slot,
            None => {
                let free = self.peers.iter().position(Option::is_none);
                let free = free.unwrap_or_else(|| {
                    self.peers.push(None);
                    self.peers.len() - 1
                });
                self.by_key.insert(key.clone(), free);
                self.peers[free] = Some(Peer {
                    key,
                    connections: 0,
                    held_bytes: 0,
                    waiting: VecDeque::new(),
                });
                free
            }
        };
        if let Some(peer) = &mut self.peers[slot] {
            peer.connections += 1;
        }
        PeerId(slot)
    }

    /// Connections of `key`.
    pub(super) fn connections(&self, key: &HostKey) -> u32 {
        self.by_key
            .get(key)
            .and_then(|slot| self.peers[*slot].as_ref())
            .map_or(0, |peer| peer.connections)
    }

    /// A connection of `peer` closed. What it held comes back by [`Admission::refund`]; until then its place is its own.
    pub(super) fn leave(&mut self, peer: PeerId) {
        if let Some(entry) = &mut self.peers[peer.0] {
            entry.connections -= 1;
        }
        self.forget_if_gone(peer.0);
    }

    fn forget_if_gone(&mut self, slot: usize) {
        if let Some(peer) = &self.peers[slot]
            && peer.connections == 0
            && !peer.wants_memory()
        {
            self.by_key.remove(&peer.key);
            self.peers[slot] = None;
        }
    }

    /// Changes what `peer` holds or waits for, and keeps the count of those who do.
    fn change(&mut self, slot: usize, change: impl FnOnce(&mut Peer)) {
        if let Some(peer) = &mut self.peers[slot] {
            let before = peer.wants_memory();
            change(peer);
            let after = peer.wants_memory();
            self.active_peers = self.active_peers + usize::from(after) - usize::from(before);
        }
    }

    /// Whether `peer` may take `len` bytes more. Hosts share the arena evenly, less a reserve from which a newcomer is
    /// served before anybody gives anything back.
    pub(super) fn may_take(&self, peer: PeerId, len: usize) -> bool {
        let held = self.peers[peer.0]
            .as_ref()
            .map_or(0, |peer| peer.held_bytes);
        let shared = self.arena_bytes - self.arena_bytes / RESERVE_DIVISOR;
        held == 0 || held + len <= shared / self.active_peers.max(1)
    }

    /// `peer` holds `len` bytes more.
    pub(super) fn charge(&mut self, peer: PeerId, len: usize) {
        self.change(peer.0, |peer| peer.held_bytes += len);
    }

    /// `peer` gave back `len` bytes.
    pub(super) fn refund(&mut self, peer: PeerId, len: usize) {
        self.change(peer.0, |peer| {
            peer.held_bytes = peer.held_bytes.saturating_sub(len);
        });
        self.forget_if_gone(peer.0);
    }

    /// Whether somebody waits, so that newcomers queue behind.
    pub(super) fn is_waiting(&self) -> bool {
        !self.waiting_peers.is_empty()
    }

    /// Steps that wait.
    pub(super) fn waiting(&self) -> usize {
        let lengths = self.waiting_peers.iter();
        lengths
            .filter_map(|slot| self.peers[*slot].as_ref())
            .map(|peer| peer.waiting.len())
            .sum()
    }

    /// `step` waits for `len` bytes.
    pub(super) fn wait(&mut self, peer: PeerId, len: usize, step: Output) {
        self.waits += 1;
        let waiting = Waiting {
            peer,
            len,
            step,
            turn: self.waits,
        };
        self.queue(waiting, VecDeque::push_back);
    }

    /// The step that waits longest of those whose host may take what it needs; hosts over their share are passed by.
    pub(super) fn next_eligible(&mut self) -> Option<Waiting> {
        let (_, at) = (0..self.waiting_peers.len())
            .filter_map(|at| {
                let slot = self.waiting_peers[at];
                let first = self.peers[slot].as_ref()?.waiting.front()?;
                self.may_take(PeerId(slot), first.len)
                    .then_some((first.turn, at))
            })
            .min()?;
        let slot = self.waiting_peers[at];
        let mut taken = None;
        self.change(slot, |peer| taken = peer.waiting.pop_front());
        if self.peers[slot]
            .as_ref()
            .is_some_and(|peer| peer.waiting.is_empty())
        {
            self.waiting_peers.swap_remove(at);
        }
        self.forget_if_gone(slot);
        taken
    }

    /// Puts back one that still has to wait, at its old place.
    pub(super) fn put_back(&mut self, waiting: Waiting) {
        self.queue(waiting, VecDeque::push_front);
    }

    fn queue(&mut self, waiting: Waiting, put: fn(&mut VecDeque<Waiting>, Waiting)) {
        let slot = waiting.peer.0;
        let was_waiting = self.peers[slot]
            .as_ref()
            .is_some_and(|peer| !peer.waiting.is_empty());
        self.change(slot, |peer| put(&mut peer.waiting, waiting));
        if !was_waiting {
            self.waiting_peers.push(slot);
        }
    }

    /// Steps that had to wait since start.
    pub(super) fn waits(&self) -> u64 {
        self.waits
    }
}

#[cfg(test)]
mod tests;
