//! Freed blocks on their way back: settled, no longer read, discarded on the device (`docs/disk-format.md` §5, §6 cases 12 and 13).

use crate::api::Mutation;
use crate::device::Purpose;
use crate::pool::{Pool, Wait};
use crate::space::Held;

/// Blocks discarded with one request at most: a replica's worth of them in one would keep a device busy for long.
const DISCARD_BLOCKS_MAX: u32 = 16_384;

impl Pool {
    /// Lets freed blocks go whose records are settled and that nobody still reads (§6 case 13).
    pub(crate) fn step_quarantine(&mut self) {
        if self.space.quarantine.is_empty() {
            return;
        }
        // An operation that waits has nothing in flight, and looks again at the map when it goes on.
        let busy = self.ops.iter().find(|(_, op)| op.outstanding > 0);
        let oldest = busy.map_or(u64::MAX, |(id, _)| *id);
        let limit = match self.mutation {
            Mutation::ReuseAtOnce => u64::MAX,
            _ => self.journal.settled,
        };
        let gone = self
            .space
            .release(|held| held.sequence <= limit && held.stamp < oldest);
        if gone.is_empty() {
            return;
        }
        for held in gone {
            if self.limits.discards_max > 0 && self.space.is_data(held.address) {
                self.space.hold_discard(held, DISCARD_BLOCKS_MAX);
            } else {
                self.space.unuse(held.address, held.len);
            }
        }
        self.issue_discards();
        self.wake(Wait::Space);
    }

    /// Asks devices to discard what waits for it, no more at once than the limit.
    fn issue_discards(&mut self) {
        while self.space.discarding.len() < self.limits.discards_max {
            let Some(held) = self.space.next_discard() else {
                return;
            };
            let Held { address, len, .. } = held;
            if self.mutation == Mutation::ReuseBeforeDiscard {
                self.space.unuse(address, len);
            }
            if let Some(place) = self.space.locate(address, 0) {
                self.devices
                    .discard(place, len, Purpose::Discard { address });
            }
        }
    }

    /// Whatever came of it: what a free block reads as is nobody's business.
    pub(crate) fn handle_discarded(&mut self, address: u64) {
        if let Some(held) = self.space.discarding.remove(&address) {
            self.space.unuse(held.address, held.len);
        }
        self.issue_discards();
        self.wake(Wait::Space);
    }

    /// Freed blocks that cannot be used again yet: waiting for their records to settle, and for their discard.
    pub fn reclaiming_blocks(&self) -> (u64, u64) {
        self.space.reclaiming()
    }
}
