//! Requests to devices and what they were for.

use std::collections::{BTreeMap, VecDeque};

use pool_format::{MovedOut, NodePtr};

use crate::api::{DeviceOp, Request, Source, Target};

/// Why a request was made.
#[derive(Debug)]
pub(crate) enum Purpose {
    /// Part of a host's write.
    Write(WritePiece),
    /// What lies around a host's write of a part of a block.
    Merge(crate::part::MergePiece),
    /// Part of a scrub.
    Scrub { op: u64 },
    /// Something a growing pool writes or flushes.
    Grow,
    /// Freed blocks from this address on are discarded.
    Discard { address: u64 },
    /// Part of a host's read.
    Read(ReadPiece),
    /// A tree node; copy 0 or 1.
    Node { pointer: NodePtr, copy: usize },
    /// A bitmap; copy 0 or 1.
    Bitmap { slab: u32, copy: u32 },
    /// An integrity page.
    Page { region: u64 },
    /// A journal block.
    Journal { sequence: u64 },
    /// Flush of a flush run.
    Flush,
    /// A write of a checkpoint.
    Checkpoint,
    /// The page of a region being sealed.
    Seal,
    /// The content of a region being adopted.
    Adopt { region: u64 },
    /// A good copy written over a bad one.
    Repair,
    /// Something an opening pool asked for.
    Open { what: crate::open::Wanted },
}

/// A run of blocks of a host's write that goes to one place.
#[derive(Debug)]
pub(crate) struct WritePiece {
    pub(crate) op: u64,
    pub(crate) object: u64,
    pub(crate) block: u64,
    pub(crate) address: u64,
    /// Stored checks.
    pub(crate) crcs: Vec<u32>,
    /// For blocks written to a new place: what they displace and their birth.
    pub(crate) new: Option<(Vec<MovedOut>, u64)>,
}

/// A run of blocks of a host's read.
#[derive(Debug)]
pub(crate) struct ReadPiece {
    pub(crate) op: u64,
    /// First block in the operation's buffer.
    pub(crate) at: u32,
    pub(crate) block: u64,
    pub(crate) address: u64,
    /// Stored checks to compare with; 0 is unknown.
    pub(crate) expected: Vec<u32>,
    pub(crate) is_second: bool,
}

/// Position of a disk that is not there.
pub(crate) const MISSING: usize = usize::MAX;

/// Requests made and not yet taken or answered.
#[derive(Default)]
pub(crate) struct Devices {
    next: u64,
    out: VecDeque<Request>,
    lost: VecDeque<u64>,
    pending: BTreeMap<u64, (usize, bool, Purpose)>,
    /// Position in the driver's list of each disk of the pool.
    pub(crate) order: Vec<usize>,
    /// Disks written since their last flush was asked for.
    pub(crate) is_dirty: Vec<bool>,
}

impl Devices {
    fn submit(&mut self, disk: usize, op: DeviceOp, purpose: Purpose) {
        let id = self.next;
        self.next += 1;
        let is_write = matches!(op, DeviceOp::Write { .. });
        self.pending.insert(id, (disk, is_write, purpose));
        let disk = self.order.get(disk).copied().unwrap_or(disk);
        if disk == MISSING {
            return self.lost.push_back(id);
        }
        self.out.push_back(Request { id, disk, op });
    }

    pub(crate) fn read(
        &mut self,
        (disk, block): (usize, u64),
        count: u32,
        target: Target,
        purpose: Purpose,
    ) {
        let op = DeviceOp::Read {
            block,
            count,
            target,
        };
        self.submit(disk, op, purpose);
    }

    pub(crate) fn write(&mut self, (disk, block): (usize, u64), source: Source, purpose: Purpose) {
        self.submit(disk, DeviceOp::Write { block, source }, purpose);
    }

    pub(crate) fn discard(&mut self, (disk, block): (usize, u64), count: u32, purpose: Purpose) {
        self.submit(disk, DeviceOp::Discard { block, count }, purpose);
    }

    pub(crate) fn flush(&mut self, disk: usize, purpose: Purpose) {
        self.is_dirty[disk] = false;
        self.submit(disk, DeviceOp::Flush, purpose);
    }

    /// A flush that other writes to the disk do not count on.
    pub(crate) fn flush_apart(&mut self, disk: usize, purpose: Purpose) {
        self.submit(disk, DeviceOp::Flush, purpose);
    }

    /// A request to a disk that is missing, to be answered with an error.
    pub(crate) fn poll_lost(&mut self) -> Option<u64> {
        self.lost.pop_front()
    }

    pub(crate) fn has_lost(&self) -> bool {
        !self.lost.is_empty()
    }

    pub(crate) fn poll(&mut self) -> Option<Request> {
        self.out.pop_front()
    }

    /// What `id` was for. A write makes its disk dirty when it completes, whatever came of it.
    pub(crate) fn take(&mut self, id: u64) -> Option<Purpose> {
        let (disk, is_write, purpose) = self.pending.remove(&id)?;
        if let Some(is_dirty) = self.is_dirty.get_mut(disk) {
            // A disk that could not be added may be gone from the list.
            *is_dirty |= is_write;
        }
        Some(purpose)
    }

    pub(crate) fn is_idle(&self) -> bool {
        self.pending.is_empty()
    }
}
