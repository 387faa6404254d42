//! Requests to devices and what they were for.

use std::collections::{BTreeMap, VecDeque};

use pool_format::{MovedOut, NodePtr};

use crate::api::{DeviceError, DeviceOp, Done, DoneResult, Request, Source, Target};
use crate::moving::Moving;

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
    /// A run of a slab on its way to another place, read or written.
    Copy,
    /// The claim of the disk at this position, read or written.
    Claim { position: usize },
    /// A label taken off a disk that was removed, or the flush behind it.
    Wipe,
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

/// A request made and not yet answered.
struct Pending {
    disk: usize,
    block: u64,
    count: u64,
    is_write: bool,
    /// It writes the new place of a slab on its way there.
    is_mirror: bool,
    /// The other place of the same write failed.
    has_failed: bool,
    /// The other place of the same write.
    pair: Option<u64>,
    /// Handed over to the one of a pair that ends last.
    purpose: Option<Purpose>,
}

fn extent(op: &DeviceOp) -> (u64, u64) {
    match op {
        DeviceOp::Read { block, count, .. } | DeviceOp::Discard { block, count } => {
            (*block, u64::from(*count))
        }
        DeviceOp::Write { block, source } => (*block, source.blocks()),
        DeviceOp::Flush => (0, 0),
    }
}

/// Requests made and not yet taken or answered.
#[derive(Default)]
pub(crate) struct Devices {
    next: u64,
    out: VecDeque<Request>,
    /// Claims: they go before everything else.
    claims: VecDeque<Request>,
    /// Whether nothing but claims is handed out.
    pub(crate) is_held: bool,
    lost: VecDeque<u64>,
    pending: BTreeMap<u64, Pending>,
    /// The slab on its way to another place.
    pub(crate) moving: Option<Moving>,
    /// Position in the driver's list of each disk of the pool.
    pub(crate) order: Vec<usize>,
    /// Disks written since their last flush was asked for.
    pub(crate) is_dirty: Vec<bool>,
}

impl Devices {
    /// Reads the claim of a disk, by its position in the driver's list.
    pub(crate) fn read_claim(&mut self, place: (usize, u64), target: Target, purpose: Purpose) {
        let (block, count) = (place.1, 1);
        let op = DeviceOp::Read {
            block,
            count,
            target,
        };
        self.submit_claim(place.0, op, purpose);
    }

    /// Writes it.
    pub(crate) fn write_claim(&mut self, place: (usize, u64), source: Source, purpose: Purpose) {
        let block = place.1;
        self.submit_claim(place.0, DeviceOp::Write { block, source }, purpose);
    }

    fn submit_claim(&mut self, position: usize, op: DeviceOp, purpose: Purpose) {
        let id = self.next;
        self.next += 1;
        let disk = self.order.iter().position(|known| *known == position);
        let (block, count) = extent(&op);
        let pending = Pending {
            disk: disk.unwrap_or(position),
            block,
            count,
            is_write: false,
            is_mirror: false,
            has_failed: false,
            pair: None,
            purpose: Some(purpose),
        };
        self.pending.insert(id, pending);
        let disk = position;
        self.claims.push_back(Request { id, disk, op });
    }

    /// Hands out nothing any more.
    pub(crate) fn stop(&mut self) {
        self.out.clear();
        self.claims.clear();
    }

    fn submit(&mut self, disk: usize, op: DeviceOp, purpose: Option<Purpose>) -> u64 {
        let id = self.next;
        self.next += 1;
        let (block, count) = extent(&op);
        let pending = Pending {
            disk,
            block,
            count,
            is_write: matches!(op, DeviceOp::Write { .. }),
            is_mirror: purpose.is_none(),
            has_failed: false,
            pair: None,
            purpose,
        };
        self.pending.insert(id, pending);
        let disk = self.order.get(disk).copied().unwrap_or(disk);
        if disk == MISSING {
            self.lost.push_back(id);
        } else {
            self.out.push_back(Request { id, disk, op });
        }
        id
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
        self.submit(disk, op, Some(purpose));
    }

    /// Writes; what lies in a slab on its way to another place, there too where that has been copied already. Both are one request to the caller.
    pub(crate) fn write(&mut self, (disk, block): (usize, u64), source: Source, purpose: Purpose) {
        let count = source.blocks();
        let moving = self.moving.as_mut();
        let other = moving.and_then(|moving| moving.meet((disk, block), count));
        let copy = other.as_ref().map(|_| source.clone());
        let id = self.submit(disk, DeviceOp::Write { block, source }, Some(purpose));
        if let Some(moving) = &mut self.moving {
            moving.begin_write(id, (disk, block), count);
        }
        if let (Some(other), Some(source)) = (other, copy) {
            let op = DeviceOp::Write {
                block: other.1,
                source,
            };
            let mirror = self.submit(other.0, op, None);
            for (one, other) in [(id, mirror), (mirror, id)] {
                if let Some(pending) = self.pending.get_mut(&one) {
                    pending.pair = Some(other);
                }
            }
            if let Some(moving) = &mut self.moving {
                moving.begin_write(mirror, (disk, block), count);
            }
        }
    }

    /// Begins to copy a slab's chunk to another; writes in flight there count from here on.
    pub(crate) fn begin_move(&mut self, from: (usize, u64), to: (usize, u64), blocks: u64) {
        let mut moving = Moving::new(from, to, blocks);
        for (id, pending) in self.pending.iter().filter(|(_, pending)| pending.is_write) {
            moving.begin_write(*id, (pending.disk, pending.block), pending.count);
        }
        self.moving = Some(moving);
    }

    /// Whether a request to these blocks of a disk is in flight.
    pub(crate) fn is_busy_at(&self, (disk, block): (usize, u64), blocks: u64) -> bool {
        let is_there = |pending: &Pending| {
            pending.disk == disk
                && pending.block < block + blocks
                && block < pending.block + pending.count
        };
        self.pending.values().any(is_there)
    }

    pub(crate) fn discard(&mut self, (disk, block): (usize, u64), count: u32, purpose: Purpose) {
        self.submit(disk, DeviceOp::Discard { block, count }, Some(purpose));
    }

    pub(crate) fn flush(&mut self, disk: usize, purpose: Purpose) {
        self.is_dirty[disk] = false;
        self.submit(disk, DeviceOp::Flush, Some(purpose));
    }

    /// Whether anything is in flight to a disk.
    pub(crate) fn is_pending_on(&self, disk: usize) -> bool {
        self.pending.values().any(|pending| pending.disk == disk)
    }

    /// A flush that other writes to the disk do not count on.
    pub(crate) fn flush_apart(&mut self, disk: usize, purpose: Purpose) {
        self.submit(disk, DeviceOp::Flush, Some(purpose));
    }

    /// A request to a disk that is missing, to be answered with an error.
    pub(crate) fn poll_lost(&mut self) -> Option<u64> {
        self.lost.pop_front()
    }

    pub(crate) fn has_lost(&self) -> bool {
        !self.lost.is_empty()
    }

    pub(crate) fn poll(&mut self) -> Option<Request> {
        let claim = self.claims.pop_front();
        claim.or_else(|| {
            let out = (!self.is_held).then_some(&mut self.out)?;
            out.pop_front()
        })
    }

    /// What `id` was for, and what came of it; `None` while the other place of the same write is outstanding. A write makes its disk dirty when
    /// it completes, whatever came of it.
    pub(crate) fn take(&mut self, id: u64, result: DoneResult) -> Option<(Purpose, DoneResult)> {
        let pending = self.pending.remove(&id)?;
        if let Some(is_dirty) = self.is_dirty.get_mut(pending.disk) {
            // A disk that could not be added may be gone from the list.
            *is_dirty |= pending.is_write;
        }
        let mut has_failed = result.is_err();
        if let Some(moving) = &mut self.moving {
            moving.end_write(id);
            if pending.is_mirror && has_failed && !moving.is_decided {
                // Nothing counts on the new place yet: the write is well, the move is not.
                moving.has_failed = true;
                has_failed = false;
            }
        }
        let other = pending.pair.and_then(|pair| self.pending.get_mut(&pair));
        match (other, pending.purpose) {
            (Some(other), purpose) => {
                other.has_failed |= has_failed;
                other.purpose = other.purpose.take().or(purpose);
                None
            }
            (None, None) => None,
            (None, Some(purpose)) if pending.pair.is_some() => {
                let result = if has_failed || pending.has_failed {
                    Err(DeviceError::Medium)
                } else {
                    Ok(Done::Nothing)
                };
                Some((purpose, result))
            }
            (None, Some(purpose)) => Some((purpose, result)),
        }
    }

    pub(crate) fn is_idle(&self) -> bool {
        self.pending.is_empty()
    }
}
