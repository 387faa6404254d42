//! Replies the target makes (identify pages, logs, features), until the host has taken them.
//!
//! They are the only memory a host can make the engine take that is not the arena's: a host that asks for pages and does
//! not read them is disconnected once it has [`HOST_BYTES_MAX`] of them, or all hosts together [`TOTAL_BYTES_MAX`].

use std::sync::Arc;

use sdk::buf::{Chunk, Payload, Segment, Segments};

use super::admission::PeerId;

/// Most bytes of replies one host may leave unread: many times what a host asks for at once, even of hundreds of
/// controllers at a reconnect.
const HOST_BYTES_MAX: usize = 16 << 20;
/// Most bytes of replies all hosts of a reactor may leave unread.
const TOTAL_BYTES_MAX: usize = 64 << 20;
/// What a reply counts at least, which bounds their number.
const COST_MIN: usize = 4096;
/// Replies after which it is first looked which of them are sent.
const SWEEP_MIN: usize = 64;

const _: () = assert!(HOST_BYTES_MAX <= TOTAL_BYTES_MAX / 4);

struct Unread {
    chunk: Arc<Chunk>,
    peer: PeerId,
    cost: usize,
}

/// Replies that may not be sent so far.
#[derive(Default)]
pub(super) struct Replies {
    unread: Vec<Unread>,
    bytes: usize,
    sweep_at: usize,
}

impl Replies {
    /// `bytes` as a payload for `peer`; `None` when it, or all together, left too many unread.
    pub(super) fn reply(&mut self, peer: PeerId, bytes: Box<[u8]>) -> Option<Payload> {
        let len = bytes.len();
        let cost = len.max(COST_MIN);
        if self.unread.len() >= self.sweep_at || self.bytes + cost > HOST_BYTES_MAX {
            self.sweep();
        }
        let all = self.bytes + cost;
        if all > TOTAL_BYTES_MAX || all > HOST_BYTES_MAX && self.of(peer) + cost > HOST_BYTES_MAX {
            return None;
        }
        let chunk = Arc::new(Chunk::from(bytes));
        let mut segments = Segments::new();
        segments.push(Segment::new(Arc::clone(&chunk), 0, len)?);
        self.bytes = all;
        self.unread.push(Unread { chunk, peer, cost });
        Some(Payload::Lent(segments))
    }

    /// Forgets those nobody else refers to: they are sent, or their connection is gone.
    fn sweep(&mut self) {
        self.unread
            .retain(|unread| Arc::strong_count(&unread.chunk) > 1);
        self.bytes = self.unread.iter().map(|unread| unread.cost).sum();
        self.sweep_at = (2 * self.unread.len()).max(SWEEP_MIN);
    }

    fn of(&self, peer: PeerId) -> usize {
        let its = self.unread.iter().filter(|unread| unread.peer == peer);
        its.map(|unread| unread.cost).sum()
    }
}

#[cfg(test)]
mod tests {
    use std::net::{IpAddr, Ipv4Addr};

    use super::super::admission::{Admission, HostKey};
    use super::*;

    fn page(len: usize) -> Box<[u8]> {
        vec![7; len].into_boxed_slice()
    }

    #[test]
    fn unread_replies_are_bounded_by_host_and_in_all_and_come_back_when_sent() {
        let mut admission = Admission::new(1 << 20);
        let hosts: Vec<PeerId> = (0..5)
            .map(|last| HostKey::Address(IpAddr::V4(Ipv4Addr::new(192, 0, 2, last))))
            .map(|key| admission.join(key))
            .collect();
        let mut replies = Replies::default();
        let mut unread = Vec::new();
        for host in &hosts[..4] {
            for _ in 0..4 {
                unread.push(
                    replies
                        .reply(*host, page(HOST_BYTES_MAX / 4))
                        .expect("room"),
                );
            }
            assert!(
                replies.reply(*host, page(1)).is_none(),
                "a host has its part"
            );
        }
        assert!(
            replies.reply(hosts[4], page(1)).is_none(),
            "all have theirs"
        );
        assert_eq!(
            unread.pop().map(|sent| sent.len()),
            Some(HOST_BYTES_MAX / 4)
        );
        assert!(replies.reply(hosts[3], page(HOST_BYTES_MAX / 4)).is_some());
        unread.clear();
        assert!(replies.reply(hosts[0], page(HOST_BYTES_MAX)).is_some());
    }

    #[test]
    fn small_replies_are_bounded_in_number_and_sent_ones_are_forgotten() {
        let mut admission = Admission::new(1 << 20);
        let host = admission.join(HostKey::Nqn("h".into()));
        let mut replies = Replies::default();
        let unread: Vec<_> = std::iter::from_fn(|| replies.reply(host, page(16))).collect();
        assert_eq!(unread.len(), HOST_BYTES_MAX / COST_MIN);
        drop(unread);
        for _ in 0..100_000 {
            assert!(replies.reply(host, page(16)).is_some());
            assert!(replies.unread.len() <= SWEEP_MIN);
        }
    }
}
