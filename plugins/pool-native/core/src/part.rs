//! Writes of parts of a block, for replicas with logical blocks of 512 bytes (`docs/disk-format.md` §5, §6 case 7).
//!
//! The driver's buffer is one block with zeros around what is written. What lies there already is read into the rest of it, checked first: a
//! block that fails its check is not made to look whole. From there on it is the write of a block.

use pool_format::stored_crc;

use crate::api::{Answer, Done, DoneResult, HostOp, PoolError, Target};
use crate::device::Purpose;
use crate::pool::{Op, Pool, Stop, Wait};

/// Sectors of 512 bytes in a block.
const SECTORS: u8 = 8;

/// Shift of a logical block of 512 bytes.
const SHIFT_SECTOR: u8 = 9;

/// The read before a write of a part.
#[derive(Debug)]
pub(crate) struct MergePiece {
    op: u64,
    address: u64,
    expected: u32,
    is_second: bool,
}

impl Pool {
    pub(crate) fn step_part(
        &mut self,
        id: u64,
        op: &mut Op,
        what: (u64, u64, bool),
    ) -> Result<Answer, Stop> {
        let (object, block, _) = what;
        let HostOp::WritePart {
            first, count, crc, ..
        } = op.host
        else {
            return Err(PoolError::Invalid.into());
        };
        self.check_range(object, block, 1)?;
        let is_inside = count > 0 && first < SECTORS && count <= SECTORS - first;
        if !is_inside || self.objects[&object].record.block_shift != SHIFT_SECTOR {
            return Err(PoolError::Invalid.into());
        }
        self.lock(id, op, (object, block, block + 1), true)?;
        if op.merged.is_none() {
            if op.outstanding > 0 {
                return Err(Wait::Own.into());
            }
            let map = self.objects[&object].record.map;
            match self.find(map, block, 1)? {
                (_, None, _) => op.merged = Some(crc),
                (_, Some((address, _)), _) => return Err(self.begin_merge_part(id, op, address)),
            }
        }
        let crcs: Vec<u32> = op.merged.into_iter().collect();
        self.step_blocks(id, op, what, &crcs)
    }

    fn begin_merge_part(&mut self, id: u64, op: &mut Op, address: u64) -> Stop {
        let place = self
            .space
            .locate(address, 0)
            .filter(|_| self.space.is_data(address));
        if place.is_none() {
            return PoolError::Damaged("an extent lies outside of data").into();
        }
        let expected = match self.expected(address, 1) {
            Ok(expected) => expected[0],
            Err(wait) => return wait.into(),
        };
        op.outstanding += 1;
        let piece = MergePiece {
            op: id,
            address,
            expected,
            is_second: false,
        };
        self.read_part(op.tag, &op.host, piece);
        Wait::Own.into()
    }

    fn read_part(&mut self, tag: u64, host: &HostOp, piece: MergePiece) {
        let HostOp::WritePart { first, count, .. } = *host else {
            return;
        };
        if let Some(place) = self.space.locate(piece.address, 0) {
            let target = Target::Merge { tag, first, count };
            self.devices.read(place, 1, target, Purpose::Merge(piece));
        }
    }

    /// What was there is in the buffer; what fails its check is read once more before it counts.
    pub(crate) fn handle_merge(&mut self, mut piece: MergePiece, result: DoneResult) {
        let slab = self.space.geometry.slab_of(piece.address) as usize;
        let generation = self.space.slabs.get(slab).map_or(0, |slab| slab.generation);
        let merged = match result {
            Ok(Done::Merged { old, new }) => {
                let found = stored_crc(old, piece.address, generation);
                (piece.expected == 0 || piece.expected == found).then_some(new)
            }
            Ok(Done::Nothing | Done::Bytes(_) | Done::Crcs(_)) | Err(_) => None,
        };
        let Some(op) = self.ops.get_mut(&piece.op) else {
            return;
        };
        if merged.is_none() && !piece.is_second {
            piece.is_second = true;
            let (tag, host) = (op.tag, op.host.clone());
            return self.read_part(tag, &host, piece);
        }
        op.outstanding -= 1;
        op.merged = merged;
        if let (None, HostOp::WritePart { block, .. }) = (merged, &op.host) {
            op.error = Some(PoolError::Medium {
                block: *block,
                count: 1,
            });
        }
        self.resume(piece.op);
    }
}
