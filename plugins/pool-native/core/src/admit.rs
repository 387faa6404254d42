//! What an operation has to have before it begins: its range, and room in journal, overlay and metadata.
//!
//! Invariants: operations on overlapping ranges go in the order they came; what is promised to one is not promised to another.

use crate::api::PoolError;
use crate::pool::{Op, Pool, Stop, Wait};

/// Nodes kept free beyond what a checkpoint needs, so that what frees space can go on when nothing else can.
const METADATA_MARGIN: usize = 16;

/// A range an operation works on.
pub(crate) struct Lock {
    pub(crate) op: u64,
    pub(crate) object: u64,
    pub(crate) start: u64,
    pub(crate) end: u64,
    pub(crate) is_exclusive: bool,
}

/// What an operation may take of the metadata's room.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Claim {
    /// It frees: the last of it.
    Frees,
    /// It is a thick replica's: what is kept for it.
    Reserved,
    /// What nobody else counts on.
    New,
}

impl Pool {
    /// Takes the range for `id`, or waits for earlier operations on it; first come, first served.
    pub(crate) fn lock(
        &mut self,
        id: u64,
        op: &mut Op,
        range: (u64, u64, u64),
        is_exclusive: bool,
    ) -> Result<(), Wait> {
        let (object, start, end) = range;
        if !op.is_locked {
            op.is_locked = true;
            self.locks.push(Lock {
                op: id,
                object,
                start,
                end,
                is_exclusive,
            });
        }
        let is_blocked = self
            .locks
            .iter()
            .take_while(|lock| lock.op != id)
            .any(|lock| {
                lock.object == object
                    && lock.start < end
                    && start < lock.end
                    && (lock.is_exclusive || is_exclusive)
            });
        if is_blocked { Err(Wait::Lock) } else { Ok(()) }
    }

    pub(crate) fn unlock(&mut self, id: u64) {
        self.locks.retain(|lock| lock.op != id);
        self.wake(Wait::Lock);
    }

    /// Promises ring positions to an operation once, or waits for a checkpoint to make room.
    ///
    /// # Errors
    /// `NoSpace` when a checkpoint would not help.
    pub(crate) fn admit(&mut self, op: &mut Op, blocks: u64, claim: Claim) -> Result<(), Stop> {
        if op.promised > 0 {
            return Ok(());
        }
        let is_full = self.active.len() > 2 * self.limits.overlay_max;
        let (need, room) = self.metadata();
        let is_merged = self.active.len() + self.frozen.len() == 0;
        let is_tight = match claim {
            Claim::Frees => room < need,
            // What it needs is kept for it; only what a checkpoint needs for a while may be short.
            Claim::Reserved => room < need + METADATA_MARGIN && !is_merged,
            Claim::New => room < 2 * need + METADATA_MARGIN + self.reserved_nodes(),
        };
        if is_tight && is_merged {
            return Err(PoolError::NoSpace.into());
        }
        if !self.journal.has_room(blocks) || is_full || is_tight {
            self.wants_checkpoint = true;
            return Err(Wait::Journal.into());
        }
        op.promised = blocks;
        self.journal.promised += blocks;
        Ok(())
    }

    /// Nodes the next checkpoint can need at most, and nodes there is room for.
    fn metadata(&self) -> (usize, usize) {
        let changes = self.active.len() + self.frozen.len();
        let (used, free) = self.space.nodes();
        let promised = self.thick_slabs() + self.moves_left;
        let slabs = self.space.free_slabs().saturating_sub(promised);
        let room = free + slabs / 2 * self.space.geometry.node_blocks() as usize;
        // Each change touches a path of nodes, but no more than there are; and can begin a new leaf.
        let need = (4 * changes).min(used + changes) + 8;
        (need, room)
    }
}
