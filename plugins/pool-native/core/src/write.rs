//! Host writes (`docs/disk-format.md` §5, §6 cases 2 to 8).

use pool_format::{
    MAP_BLOCKS_MAX, MovedClass, MovedOut, NO_TWIN, ObjectKind, ObjectState, Record, stored_crc,
};

use crate::admit::Claim;
use crate::api::{Answer, DoneResult, HostOp, Mutation, PoolError, Source};
use crate::device::{Purpose, WritePiece};
use crate::overlay::Placed;
use crate::pool::{Object, Op, Pool, Stop, Wait};
use crate::space::{Found, Held};

/// Extents one record moves out at most; with their blocks they fit a journal block.
pub(crate) const MOVED_MAX: usize = 64;

/// What lies at a run of blocks to be written.
enum Plan {
    /// These can be overwritten where they are.
    InPlace { len: u64, address: u64 },
    /// These need new blocks and displace extents.
    New { len: u64, moved: Vec<MovedOut> },
}

impl Pool {
    pub(crate) fn step_write(
        &mut self,
        id: u64,
        op: &mut Op,
        what: (u64, u64, bool),
    ) -> Result<Answer, Stop> {
        let (object, block, _) = what;
        let HostOp::Write { crcs, .. } = &op.host else {
            return Err(PoolError::Invalid.into());
        };
        let (count, crcs) = (crcs.len() as u64, crcs.clone());
        self.check_range(object, block, count)?;
        self.lock(id, op, (object, block, block + count), true)?;
        self.step_blocks(id, op, what, &crcs)
    }

    /// Writes whole blocks with these checks, in a range that is locked.
    pub(crate) fn step_blocks(
        &mut self,
        id: u64,
        op: &mut Op,
        (object, block, fua): (u64, u64, bool),
        crcs: &[u32],
    ) -> Result<Answer, Stop> {
        let count = crcs.len() as u64;
        let claim = if self.is_thick(object) {
            Claim::Reserved
        } else {
            Claim::New
        };
        match self.admit(op, count / 25 + 2, claim) {
            Err(Stop::Fail(PoolError::NoSpace)) => return Err(self.wait_for_space(op, object)),
            admitted => admitted?,
        }
        while op.cursor < count {
            let at = op.cursor as usize;
            match self.write_next(id, op, (object, block + op.cursor), &crcs[at..]) {
                Ok(len) => op.cursor += len,
                Err(Stop::Fail(PoolError::NoSpace)) => return Err(self.wait_for_space(op, object)),
                Err(stop) => return Err(stop),
            }
        }
        if op.outstanding > 0 {
            return Err(Wait::Own.into());
        }
        if fua {
            return self.change_made(id, op, Answer::Done);
        }
        Ok(Answer::Done)
    }

    /// # Errors
    /// Why the range of the object cannot be written.
    pub(crate) fn check_range(&self, object: u64, block: u64, count: u64) -> Result<(), PoolError> {
        let record = &self
            .objects
            .get(&object)
            .ok_or(PoolError::NoSuchObject)?
            .record;
        match (record.state, record.kind) {
            (ObjectState::Deleting | ObjectState::Discarded, _) => {
                return Err(PoolError::NoSuchObject);
            }
            (ObjectState::Live, ObjectKind::Snapshot) => return Err(PoolError::ReadOnly),
            (ObjectState::Live, ObjectKind::Replica) => {}
        }
        match block.checked_add(count) {
            Some(end) if end <= record.size && count > 0 => Ok(()),
            Some(_) | None => Err(PoolError::OutOfRange),
        }
    }

    /// Waits for space: a thick replica until what was freed can be used again, others no longer than the limit.
    fn wait_for_space(&mut self, op: &mut Op, object: u64) -> Stop {
        let since = *op.since_ms.get_or_insert(self.now_ms);
        if self.now_ms - since >= self.limits.space_wait_ms && !self.is_thick(object) {
            return PoolError::NoSpace.into();
        }
        if let Some(newest) = self.space.quarantine.iter().map(|held| held.sequence).max() {
            self.flushes.want_settled(newest);
        }
        Wait::Space.into()
    }

    /// Begins the write of the next run of blocks; answers how many.
    fn write_next(
        &mut self,
        id: u64,
        op: &mut Op,
        (object, block): (u64, u64),
        crcs: &[u32],
    ) -> Result<u64, Stop> {
        match self.plan(object, block, crcs.len() as u64)? {
            Plan::InPlace { len, address } => {
                let region = self
                    .space
                    .geometry
                    .region_of(address)
                    .filter(|_| self.space.is_data(address));
                let Some((region, _)) = region else {
                    return Err(PoolError::Damaged("an extent lies outside of data").into());
                };
                self.ready_region(region, true)?;
                let at = (object, block, address);
                self.issue(id, op, at, &crcs[..len as usize], None);
                Ok(len)
            }
            Plan::New { len, moved } => {
                let (address, got) = self.choose(object, len as u32)?;
                let len = u64::from(got);
                let (region, _) = self
                    .space
                    .geometry
                    .region_of(address)
                    .expect("only data blocks are chosen");
                self.ready_region(region, false)?;
                self.space.take(address, got);
                self.count_taking(object, len, true);
                let moved = clip_moved(&moved, block + len);
                let birth = self.epoch;
                self.issue(
                    id,
                    op,
                    (object, block, address),
                    &crcs[..len as usize],
                    Some((moved, birth)),
                );
                if let Some(object) = self.objects.get_mut(&object) {
                    object.cursor = address + len;
                }
                Ok(len)
            }
        }
    }

    fn issue(
        &mut self,
        id: u64,
        op: &mut Op,
        (object, block, address): (u64, u64, u64),
        plain: &[u32],
        new: Option<(Vec<MovedOut>, u64)>,
    ) {
        let generation = self.space.slabs[self.space.geometry.slab_of(address) as usize].generation;
        let crcs: Vec<u32> = plain
            .iter()
            .enumerate()
            .map(|(i, crc)| stored_crc(*crc, address + i as u64, generation))
            .collect();
        let source = Source::Host {
            tag: op.tag,
            at: op.cursor as u32,
            count: crcs.len() as u32,
        };
        let place = self.space.locate(address, 0).expect("found in a slab");
        self.count_region_write(address, true);
        op.outstanding += 1;
        let piece = WritePiece {
            op: id,
            object,
            block,
            address,
            crcs,
            new,
        };
        self.devices.write(place, source, Purpose::Write(piece));
    }

    /// Whether the first block can be overwritten where it is, and how far that goes.
    fn plan(&mut self, object: u64, block: u64, count: u64) -> Result<Plan, Stop> {
        let Object {
            record,
            shared_until,
            ..
        } = &self.objects[&object];
        let (map, own_after) = (record.map, record.previous_epoch);
        let in_place_after = match shared_until {
            (until, epoch) if *until > self.journal.durable => own_after.max(*epoch),
            _ => own_after,
        };
        let (len, value, sequence) = self.find(map, block, count)?;
        if let Some((address, birth)) = value
            && self.may_overwrite(birth, in_place_after, sequence)
        {
            return Ok(Plan::InPlace {
                len: self.in_region(address, len),
                address,
            });
        }
        let is_thick = self.is_thick(object);
        if let Some((_, birth)) = value
            && is_thick
            && birth > own_after
        {
            return Err(self.wait_to_overwrite(object, sequence));
        }
        let want = count.min(MAP_BLOCKS_MAX as u64);
        let mut moved = Vec::new();
        let mut done = 0;
        while done < want && moved.len() < MOVED_MAX {
            let (len, value, sequence) = self.find(map, block + done, want - done)?;
            if let Some((address, birth)) = value {
                let is_in_place = self.may_overwrite(birth, in_place_after, sequence);
                if done > 0 && (is_in_place || is_thick && birth > own_after) {
                    break;
                }
                let extent = (block + done, len);
                moved.push(self.moved_out(extent, (address, birth), own_after));
            }
            done += len;
        }
        Ok(Plan::New { len: done, moved })
    }

    /// A block of a thick replica's own waits until it can be overwritten: a new one for it is not reserved.
    fn wait_to_overwrite(&mut self, object: u64, sequence: u64) -> Stop {
        let (until, _) = self.objects[&object].shared_until;
        self.flushes.want_settled(sequence);
        self.flushes.want_durable(until);
        Wait::Durable.into()
    }

    fn may_overwrite(&self, birth: u64, own_after: u64, sequence: u64) -> bool {
        let is_own = birth > own_after || self.mutation == Mutation::InPlaceShared;
        let is_settled =
            sequence <= self.journal.settled || self.mutation == Mutation::InPlaceUnsettled;
        is_own && is_settled
    }

    /// How far from `address` the region goes.
    pub(crate) fn in_region(&self, address: u64, len: u64) -> u64 {
        match self.space.geometry.region_of(address) {
            Some((_, index)) => len.min(u64::from(self.space.geometry.region_blocks - index)),
            None => 1,
        }
    }

    /// What becomes of an extent an object stops using.
    pub(crate) fn moved_out(
        &self,
        (key, len): (u64, u64),
        (address, birth): Placed,
        own_after: u64,
    ) -> MovedOut {
        let is_own = birth > own_after || self.mutation == Mutation::FreeShared;
        MovedOut {
            key,
            address,
            birth,
            len: len as u32,
            class: if is_own {
                MovedClass::Free
            } else {
                MovedClass::Dead
            },
        }
    }

    /// Free blocks for an object, on its home disk while there are any.
    fn choose(&mut self, object: u64, want: u32) -> Result<(u64, u32), Stop> {
        let (home, cursor) = {
            let object = &self.objects[&object];
            (object.record.home, object.cursor)
        };
        let is_thick = self.is_thick(object);
        let others = (0..self.root.disks.len() as u16).filter(|disk| *disk != home);
        for disk in std::iter::once(home).chain(others) {
            loop {
                let (want, may_assign) = if is_thick {
                    (want, self.may_assign_thick())
                } else {
                    let (most, may_assign) = self.unreserved();
                    (want.min(most.try_into().unwrap_or(want)), may_assign)
                };
                match self.space.find(disk, cursor, want, may_assign) {
                    Found::Run { address, len } => return Ok((address, len)),
                    Found::Load(slab) => return Err(self.load_bitmap(slab).into()),
                    Found::Assign(slab) => {
                        let record = self.space.assign(slab);
                        assert_eq!(record.twin, NO_TWIN, "data has one copy");
                        self.journal.push(&Record::Slab { slab, record });
                    }
                    Found::Nothing => break,
                }
            }
        }
        Err(PoolError::NoSpace.into())
    }

    pub(crate) fn handle_write_piece(&mut self, piece: WritePiece, result: DoneResult) {
        self.count_region_write(piece.address, false);
        let len = piece.crcs.len() as u32;
        if piece.new.is_some() {
            self.space.taken_no_more(len);
            self.count_taking(piece.object, u64::from(len), false);
        }
        match (&result, &piece.new) {
            (Ok(_), _) => {
                self.set_checks(piece.address, &piece.crcs);
                if piece.new.is_some() {
                    self.commit(&piece);
                }
            }
            (Err(_), Some(_)) => self.space.hold(Held {
                address: piece.address,
                len,
                sequence: 0,
                stamp: piece.op,
            }),
            (Err(_), None) => {}
        }
        if let Some(op) = self.ops.get_mut(&piece.op) {
            op.outstanding -= 1;
            if result.is_err() {
                op.error = Some(PoolError::Device);
            }
            if op.outstanding == 0 {
                self.resume(piece.op);
            }
        }
        self.wake(Wait::Region);
    }

    /// The data is written: the map says so from here on.
    fn commit(&mut self, piece: &WritePiece) {
        let object = self.objects.get(&piece.object);
        let (Some(object), Some((moved, birth))) = (object, &piece.new) else {
            return;
        };
        let (map, dead) = (object.record.map, object.record.dead);
        let own_after = object.record.previous_epoch;
        // The snapshot before may have begun to go since this was planned: what it alone used is the heir's, and the walk over the heir's
        // dead list may have passed already.
        let moved: Vec<MovedOut> = moved
            .iter()
            .map(|extent| {
                let key = (extent.key, u64::from(extent.len));
                self.moved_out(key, (extent.address, extent.birth), own_after)
            })
            .collect();
        self.account(piece.object, piece.crcs.len() as u64, &moved);
        let sequence = self.journal.push(&Record::Map {
            map,
            block: piece.block,
            address: piece.address,
            birth: *birth,
            crcs: piece.crcs.clone(),
            moved: moved.clone(),
        });
        let len = piece.crcs.len() as u64;
        self.active.insert(
            map,
            piece.block,
            len,
            Some((piece.address, *birth)),
            sequence,
        );
        self.space.record(piece.address, len as u32, true);
        self.displace(dead, &moved, sequence);
    }

    /// Frees or lists what a map stopped using.
    pub(crate) fn displace(&mut self, dead: u64, moved: &[MovedOut], sequence: u64) {
        for extent in moved {
            match extent.class {
                MovedClass::Free => {
                    self.space.record(extent.address, extent.len, false);
                    self.space.hold(Held {
                        address: extent.address,
                        len: extent.len,
                        sequence,
                        stamp: self.op_next - 1,
                    });
                }
                MovedClass::Dead => {
                    let value = Some((extent.address, extent.birth));
                    self.active.insert(
                        dead,
                        extent.address,
                        u64::from(extent.len),
                        value,
                        sequence,
                    );
                }
                MovedClass::Kept => {}
            }
        }
    }
}

/// The part of `moved` with keys below `end`.
fn clip_moved(moved: &[MovedOut], end: u64) -> Vec<MovedOut> {
    moved
        .iter()
        .filter(|extent| extent.key < end)
        .map(|extent| MovedOut {
            len: u64::from(extent.len).min(end - extent.key) as u32,
            ..*extent
        })
        .collect()
}
