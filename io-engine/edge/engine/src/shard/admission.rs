//! Who waits for memory, and how much of it each host holds.
//!
//! A command that needs a buffer when the arena has none waits here, in order of arrival. A host that holds more than
//! its share while others are connected waits too, and is passed by. The queue is bounded by the commands in flight.

use std::collections::VecDeque;
use std::net::IpAddr;

use nvme_target::Output;

/// One part in this many of the arena is kept for newcomers, Connect and in-capsule data.
const RESERVE_DIVISOR: usize = 8;

/// A step of a command that waits for a buffer of `len` bytes.
pub(super) struct Waiting {
    /// Share it is charged to.
    pub(super) peer: PeerId,
    /// Bytes it needs.
    pub(super) len: usize,
    /// The step, performed when the buffer is there.
    pub(super) step: Output,
}

/// A host address with connections.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct PeerId(usize);

struct Peer {
    address: IpAddr,
    connections: u32,
    held_bytes: usize,
}

/// See the module documentation.
pub(super) struct Admission {
    arena_bytes: usize,
    peers: Vec<Option<Peer>>,
    active_peers: usize,
    waiting: VecDeque<Waiting>,
    waits: u64,
}

impl Admission {
    pub(super) fn new(arena_bytes: usize) -> Self {
        Self {
            arena_bytes,
            peers: Vec::new(),
            active_peers: 0,
            waiting: VecDeque::new(),
            waits: 0,
        }
    }

    /// A connection from `address` opened.
    pub(super) fn join(&mut self, address: IpAddr) -> PeerId {
        let known = self
            .peers
            .iter()
            .position(|peer| peer.as_ref().is_some_and(|peer| peer.address == address));
        let slot = known.unwrap_or_else(|| {
            let free = self
                .peers
                .iter()
                .position(Option::is_none)
                .unwrap_or_else(|| {
                    self.peers.push(None);
                    self.peers.len() - 1
                });
            self.peers[free] = Some(Peer {
                address,
                connections: 0,
                held_bytes: 0,
            });
            free
        });
        if let Some(peer) = &mut self.peers[slot] {
            self.active_peers += usize::from(peer.connections == 0);
            peer.connections += 1;
        }
        PeerId(slot)
    }

    /// A connection of `peer` closed. What it held comes back by [`Admission::refund`]; until then its place is its own.
    pub(super) fn leave(&mut self, peer: PeerId) {
        if let Some(entry) = &mut self.peers[peer.0] {
            entry.connections -= 1;
            if entry.connections == 0 {
                self.active_peers -= 1;
            }
        }
        self.forget_if_gone(peer);
    }

    fn forget_if_gone(&mut self, peer: PeerId) {
        let slot = &mut self.peers[peer.0];
        if slot
            .as_ref()
            .is_some_and(|entry| entry.connections == 0 && entry.held_bytes == 0)
        {
            *slot = None;
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
        if let Some(peer) = &mut self.peers[peer.0] {
            peer.held_bytes += len;
        }
    }

    /// `peer` gave back `len` bytes.
    pub(super) fn refund(&mut self, peer: PeerId, len: usize) {
        if let Some(peer) = &mut self.peers[peer.0] {
            peer.held_bytes = peer.held_bytes.saturating_sub(len);
        }
        self.forget_if_gone(peer);
    }

    /// Whether somebody waits, so that newcomers queue behind.
    pub(super) fn is_waiting(&self) -> bool {
        !self.waiting.is_empty()
    }

    pub(super) fn wait(&mut self, waiting: Waiting) {
        self.waits += 1;
        self.waiting.push_back(waiting);
    }

    /// The next that may be served, at or after position `from`; its position is the next `from`.
    pub(super) fn next_eligible(&mut self, from: usize) -> Option<(usize, Waiting)> {
        let at = (from..self.waiting.len()).find(|at| {
            self.waiting
                .get(*at)
                .is_some_and(|waiting| self.may_take(waiting.peer, waiting.len))
        })?;
        self.waiting.remove(at).map(|waiting| (at, waiting))
    }

    /// Puts back one that still has to wait.
    pub(super) fn put_back(&mut self, at: usize, waiting: Waiting) {
        self.waiting.insert(at, waiting);
    }

    /// Steps that had to wait since start.
    pub(super) fn waits(&self) -> u64 {
        self.waits
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::Ipv4Addr;

    fn address(last: u8) -> IpAddr {
        IpAddr::V4(Ipv4Addr::new(192, 0, 2, last))
    }

    #[test]
    fn a_host_alone_leaves_a_reserve_and_beside_another_has_its_share() {
        let mut admission = Admission::new(1000);
        let greedy = admission.join(address(1));
        admission.charge(greedy, 800);
        assert!(admission.may_take(greedy, 75));
        assert!(!admission.may_take(greedy, 76));
        let other = admission.join(address(2));
        assert!(!admission.may_take(greedy, 1));
        assert!(admission.may_take(other, 437));
        admission.leave(other);
        assert!(admission.may_take(greedy, 75));
    }

    #[test]
    fn a_host_that_holds_nothing_is_never_refused() {
        let mut admission = Admission::new(1000);
        let one = admission.join(address(1));
        admission.join(address(2));
        assert!(admission.may_take(one, 5000));
    }

    #[test]
    fn what_a_gone_host_gives_back_is_not_credited_to_the_next() {
        let mut admission = Admission::new(1000);
        let gone = admission.join(address(1));
        admission.charge(gone, 300);
        admission.leave(gone);
        let next = admission.join(address(2));
        admission.charge(next, 800);
        admission.refund(gone, 300);
        assert!(!admission.may_take(next, 100));
    }

    #[test]
    fn waiting_is_served_in_order_passing_by_who_is_over_its_share() {
        let mut admission = Admission::new(1000);
        let (greedy, modest) = (admission.join(address(1)), admission.join(address(2)));
        admission.charge(greedy, 600);
        for (peer, len) in [(greedy, 10), (modest, 20), (greedy, 30)] {
            admission.wait(Waiting {
                peer,
                len,
                step: release(),
            });
        }
        let (at, first) = admission.next_eligible(0).unwrap();
        assert_eq!((at, first.len), (1, 20));
        assert!(admission.next_eligible(at).is_none());
        admission.refund(greedy, 600);
        assert_eq!(admission.next_eligible(0).unwrap().1.len, 10);
        assert_eq!(admission.waits(), 3);
    }

    fn release() -> Output {
        Output::Event(Box::new(nvme_target::ControllerEvent {
            kind: nvme_target::ControllerEventKind::Connected,
            subnqn: String::new(),
            hostnqn: String::new(),
            hostid: [0; 16],
            cntlid: 1,
        }))
    }
}
