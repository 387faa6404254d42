//! Host reads.

use pool_format::{ObjectState, stored_crc};

use crate::api::{Answer, Done, DoneResult, PoolError, Target};
use crate::device::{Purpose, ReadPiece};
use crate::pool::{Op, Pool, Stop, Wait};

impl Pool {
    pub(crate) fn step_read(
        &mut self,
        id: u64,
        op: &mut Op,
        what: (u64, u64, u32),
    ) -> Result<Answer, Stop> {
        let (object, block, count) = what;
        let record = &self
            .objects
            .get(&object)
            .ok_or(PoolError::NoSuchObject)?
            .record;
        if record.state != ObjectState::Live {
            return Err(PoolError::NoSuchObject.into());
        }
        let (map, size) = (record.map, record.size);
        let end = block
            .checked_add(u64::from(count))
            .filter(|end| *end <= size && count > 0);
        let end = end.ok_or(PoolError::OutOfRange)?;
        self.lock(id, op, (object, block, end), false)?;
        while op.cursor < u64::from(count) {
            let at = op.cursor as u32;
            let key = block + op.cursor;
            let (len, value, _) = self.find(map, key, end - key)?;
            match value {
                None => {
                    op.holes.push((at, len as u32));
                    op.cursor += len;
                }
                Some((address, _)) => {
                    let len = self.in_region(address, len);
                    self.read_piece(id, op, (key, address), len as u32)?;
                    op.cursor += len;
                }
            }
        }
        if op.outstanding > 0 {
            return Err(Wait::Own.into());
        }
        Ok(Answer::Read {
            holes: std::mem::take(&mut op.holes),
            unverified: op.unverified,
        })
    }

    /// The run of blocks that lie together, or are holes together, from a block on.
    pub(crate) fn step_extent(&mut self, (object, block): (u64, u64)) -> Result<Answer, Stop> {
        let object = self.objects.get(&object).ok_or(PoolError::NoSuchObject)?;
        let (map, size) = (object.record.map, object.record.size);
        if block >= size || object.record.state != ObjectState::Live {
            return Err(PoolError::OutOfRange.into());
        }
        let (len, value, _) = self.find(map, block, size - block)?;
        let address = value.map(|(address, _)| address);
        Ok(Answer::Extent { len, address })
    }

    fn read_piece(
        &mut self,
        id: u64,
        op: &mut Op,
        (block, address): (u64, u64),
        count: u32,
    ) -> Result<(), Stop> {
        let place = self
            .space
            .locate(address, 0)
            .filter(|_| self.space.is_data(address));
        let Some(place) = place else {
            return Err(PoolError::Damaged("an extent lies outside of data").into());
        };
        if self.is_missing(place.0) {
            return Err(PoolError::MissingDisk(place.0 as u16).into());
        }
        let expected = self.expected(address, count)?;
        let at = op.cursor as u32;
        op.outstanding += 1;
        let piece = ReadPiece {
            op: id,
            at,
            block,
            address,
            expected,
            is_second: false,
        };
        self.devices.read(
            place,
            count,
            Target::Host { tag: op.tag, at },
            Purpose::Read(piece),
        );
        Ok(())
    }

    /// Compares what was read; what differs is read once more, under the same lock, before it counts.
    pub(crate) fn handle_read_piece(&mut self, mut piece: ReadPiece, result: DoneResult) {
        let slab = self.space.geometry.slab_of(piece.address) as usize;
        let generation = self.space.slabs.get(slab).map_or(0, |slab| slab.generation);
        let plain = match result {
            Ok(Done::Crcs(plain)) => plain,
            Ok(Done::Nothing | Done::Bytes(_) | Done::Merged { .. }) | Err(_) => Vec::new(),
        };
        let mut bad = None;
        let mut unverified = 0;
        for (i, expected) in piece.expected.iter().enumerate() {
            let found = plain
                .get(i)
                .map(|plain| stored_crc(*plain, piece.address + i as u64, generation));
            match (found, *expected) {
                (Some(_), 0) => unverified += 1,
                (Some(found), expected) if found == expected => {}
                (Some(_) | None, _) => {
                    let (first, _) = *bad.get_or_insert((i as u64, 0));
                    bad = Some((first, i as u64 - first + 1));
                }
            }
        }
        if bad.is_some() && !piece.is_second {
            piece.is_second = true;
            self.read_again(piece);
            return;
        }
        if let Some(op) = self.ops.get_mut(&piece.op) {
            op.outstanding -= 1;
            op.unverified += unverified;
            if let Some((first, count)) = bad {
                op.error = Some(PoolError::Medium {
                    block: piece.block + first,
                    count,
                });
            }
            if op.outstanding == 0 {
                self.resume(piece.op);
            }
        }
    }

    fn read_again(&mut self, piece: ReadPiece) {
        let tag = self.ops.get(&piece.op).map(|op| op.tag);
        let (Some(tag), Some(place)) = (tag, self.space.locate(piece.address, 0)) else {
            return;
        };
        let count = piece.expected.len() as u32;
        let target = Target::Host { tag, at: piece.at };
        self.devices
            .read(place, count, target, Purpose::Read(piece));
    }
}
