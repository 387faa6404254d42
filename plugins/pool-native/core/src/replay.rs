//! Replay of the journal into the overlay (`docs/disk-format.md` §5, §6 cases 3 to 6 and 21).
//!
//! Map records above the newest mark are compared with the data. A block that does not match never happened: what it displaced stays in use, and
//! stands in for it in what later records say they displaced.

use std::collections::{BTreeMap, BTreeSet};

use pool_format::{IntegrityPage, MovedOut, Record, SlabKind, SlabRecord, VoidEntry, stored_crc};

use crate::api::{Mutation, PoolError, Target};
use crate::device::Purpose;
use crate::open::{Opening, Wanted};
use crate::overlay::Placed;
use crate::pool::{Object, Pool};
use crate::region::Adoption;
use crate::sane::fit;

/// Void entries in one record.
const VOIDS: usize = 100;

/// What became of the newest record of a block above the mark.
#[derive(Clone, Copy)]
enum Fate {
    /// It never happened; this is what lies there.
    Dropped(Option<Placed>),
    /// It happened.
    Applied,
}

#[derive(Default)]
struct Replay {
    fates: BTreeMap<(u64, u64), Fate>,
    voids: BTreeSet<(u64, u16, u16)>,
    dropped: Vec<VoidEntry>,
    open: BTreeSet<u64>,
    /// The object that owns each map, until a record changes that.
    owners: Option<BTreeMap<u64, u64>>,
    /// The newest journal block that gave each address away.
    taken: BTreeMap<u64, u64>,
}

impl Pool {
    /// Asks for the data of map records above the mark.
    ///
    /// # Errors
    /// `Damaged` for a slab record that cannot be.
    pub(crate) fn read_checks(&mut self, opening: &mut Opening) -> Result<(), PoolError> {
        let blocks = std::mem::take(&mut opening.blocks);
        for block in &blocks {
            for record in &block.records {
                if let Record::Slab { slab, record } = record {
                    self.replay_slab(*slab, record)?;
                }
            }
        }
        for (i, block) in blocks.iter().enumerate() {
            if block.header.sequence <= opening.newest_mark || self.mutation == Mutation::TrustTail
            {
                continue;
            }
            for (j, record) in block.records.iter().enumerate() {
                if let Record::Map { address, crcs, .. } = record
                    && let Some(place) = self.space.locate(*address, 0)
                {
                    opening.want_checks();
                    let what = Wanted::Check {
                        block: i,
                        record: j,
                    };
                    self.devices.read(
                        place,
                        crcs.len() as u32,
                        Target::Check,
                        Purpose::Open { what },
                    );
                }
            }
        }
        opening.blocks = blocks;
        Ok(())
    }

    /// A free slab becomes one for data, where it lies.
    fn replay_slab(&mut self, slab: u32, record: &SlabRecord) -> Result<(), PoolError> {
        let old = self.space.slabs.get(slab as usize).copied();
        let is_new = old.is_some_and(|old| {
            old.kind == SlabKind::Free
                && record.kind == SlabKind::Data
                && (old.disk, old.chunk) == (record.disk, record.chunk)
        });
        if !is_new || record.bitmap_crc != 0 {
            return Err(PoolError::Damaged("a record gives a slab away twice"));
        }
        self.space.set_slab(slab, *record);
        Ok(())
    }

    /// Applies every record, then goes on to service.
    pub(crate) fn replay_all(&mut self, opening: &mut Opening) -> Result<(), PoolError> {
        if opening.is_waiting() {
            return Ok(());
        }
        self.limits = fit(self.limits, &self.space.geometry);
        let blocks = std::mem::take(&mut opening.blocks);
        let mut replay = Replay {
            open: self.root.open_regions.iter().copied().collect(),
            ..Replay::default()
        };
        for block in &blocks {
            for record in &block.records {
                if let Record::Void(entries) = record {
                    for entry in entries {
                        let all = entry.first..entry.first.saturating_add(entry.count);
                        replay
                            .voids
                            .extend(all.map(|at| (entry.sequence, entry.record, at)));
                    }
                }
            }
        }
        for (i, block) in blocks.iter().enumerate() {
            for (j, record) in block.records.iter().enumerate() {
                let check = opening.checks.get(&(i, j)).cloned().flatten();
                self.replay_record(
                    &mut replay,
                    (block.header.sequence, j as u16),
                    record,
                    check,
                )?;
            }
        }
        opening.blocks = blocks;
        self.recount_reserve();
        self.space.hold_only(|address, sequence| {
            // Given away again since it was freed: in use, or freed by a later record that holds it, too.
            replay
                .taken
                .get(&address)
                .is_none_or(|taken| *taken <= sequence)
        });
        for (slab, bitmap) in std::mem::take(&mut self.rebuilt) {
            self.space.rebuild(slab, bitmap);
        }
        self.open_found(&replay.open)?;
        self.begin_service(opening);
        opening.blocks.clear();
        if self.mutation != Mutation::SkipVoid {
            self.pending_voids = replay
                .dropped
                .chunks(VOIDS)
                .map(|part| Record::Void(part.to_vec()))
                .collect();
        }
        Ok(())
    }

    fn open_found(&mut self, open: &BTreeSet<u64>) -> Result<(), PoolError> {
        if self.mutation == Mutation::SkipAdoption {
            return Ok(());
        }
        let regions = self.space.slabs.len() as u64 * u64::from(self.space.geometry.regions());
        if open.range(regions..).next().is_some() {
            return Err(PoolError::Damaged("an open region lies outside of data"));
        }
        for region in open {
            let address = self.space.geometry.region_start(*region);
            if !self.space.is_data(address) {
                return Err(PoolError::Damaged("an open region lies outside of data"));
            }
            let slab = self.space.geometry.slab_of(address) as usize;
            let page = IntegrityPage::new(
                self.space.slabs[slab].generation,
                self.space.geometry.region_blocks,
            );
            self.regions.insert_open(*region, page, 0, Adoption::Wanted);
        }
        Ok(())
    }

    fn replay_record(
        &mut self,
        replay: &mut Replay,
        at: (u64, u16),
        record: &Record,
        check: Option<Vec<u32>>,
    ) -> Result<(), PoolError> {
        let sequence = at.0;
        self.know_owners(replay, record);
        match record {
            Record::Map {
                map,
                block,
                address,
                birth,
                crcs,
                moved,
            } => {
                if !self.space.is_data(*address) || !self.maps.contains_key(map) {
                    return Err(PoolError::Damaged("a record names what does not exist"));
                }
                let slab = self.space.geometry.slab_of(*address) as usize;
                let generation = self.space.slabs[slab].generation;
                for (i, crc) in crcs.iter().enumerate() {
                    let (key, placed) = (block + i as u64, (address + i as u64, *birth));
                    let here: Vec<MovedOut> = one_block(moved, key).into_iter().collect();
                    let here = self.true_moved(replay, *map, &here);
                    let differs = check.as_ref().is_some_and(|check| {
                        let plain = check.get(i).copied();
                        plain.map(|plain| stored_crc(plain, placed.0, generation)) != Some(*crc)
                    });
                    let is_void = replay.voids.contains(&(sequence, at.1, i as u16));
                    if differs || is_void {
                        let left = here.first().map(|extent| (extent.address, extent.birth));
                        replay.drop_block((*map, key), left);
                        if !is_void {
                            replay.note(at, i as u16);
                        }
                        continue;
                    }
                    replay.apply_block((*map, key));
                    replay.taken.insert(placed.0, sequence);
                    self.active.insert(*map, key, 1, Some(placed), sequence);
                    self.space.record(placed.0, 1, true);
                    self.replay_displace(replay, *map, (1, &here), sequence);
                }
            }
            Record::Unmap {
                map,
                block,
                count,
                moved,
            } => {
                let end = block
                    .checked_add(*count)
                    .ok_or(PoolError::Damaged("a record goes past the end"))?;
                let all = self.true_moved(replay, *map, moved);
                for (_, fate) in replay.fates.range_mut((*map, *block)..(*map, end)) {
                    *fate = Fate::Applied;
                }
                self.active.insert(*map, *block, *count, None, sequence);
                self.replay_displace(replay, *map, (0, &all), sequence);
            }
            Record::Open { region, .. } => {
                replay.open.insert(*region);
            }
            Record::Seal { region } => {
                replay.open.remove(region);
            }
            Record::Slab { .. } | Record::Void(_) => {}
            Record::Object(record) => {
                self.check_new(record.id, &[record.map, record.dead])?;
                if record.base != 0 && !self.maps.contains_key(&record.base) {
                    return Err(PoolError::Damaged("a record names what does not exist"));
                }
                self.apply_object((**record).clone());
            }
            Record::Snapshot {
                origin,
                map,
                dead,
                epoch,
                snapshot,
            } => {
                self.check_new(snapshot.id, &[*map, *dead])?;
                self.apply_snapshot(*origin, (*map, *dead, *epoch), (**snapshot).clone());
            }
            Record::Resize { object, size, .. } => self.apply_resize(*object, *size),
            Record::State { object, state } => self.apply_state(*object, *state),
            Record::Dead {
                from,
                to,
                address,
                count,
                birth,
                class,
            } => {
                if address.checked_add(*count).is_none() || *count == 0 {
                    return Err(PoolError::Damaged("a record goes past the end"));
                }
                self.apply_dead((*from, *to), (*address, *count, *birth), *class, sequence);
            }
        }
        Ok(())
    }

    /// Records of blocks ask for the owner of their map; records of objects change owners.
    fn know_owners(&self, replay: &mut Replay, record: &Record) {
        match record {
            Record::Map { .. } | Record::Unmap { .. } => {
                let objects = self.objects.iter();
                replay.owners.get_or_insert_with(|| {
                    objects
                        .map(|(id, object)| (object.record.map, *id))
                        .collect()
                });
            }
            Record::Object(_) | Record::Snapshot { .. } | Record::State { .. } => {
                replay.owners = None;
            }
            Record::Open { .. }
            | Record::Seal { .. }
            | Record::Slab { .. }
            | Record::Resize { .. }
            | Record::Void(_)
            | Record::Dead { .. } => {}
        }
    }

    fn owner(&self, replay: &Replay, map: u64) -> Option<&Object> {
        let id = replay.owners.as_ref()?.get(&map)?;
        self.objects.get(id)
    }

    /// Ids are never used twice: one that is known or from the past is damage, and cannot make a map its own base.
    fn check_new(&self, object: u64, lists: &[u64]) -> Result<(), PoolError> {
        let is_old = object < self.object_next || lists.iter().any(|list| *list < self.map_next);
        let is_absurd = object > 1 << 60 || lists.iter().any(|list| *list > 1 << 60);
        if is_old || is_absurd || lists[0] == lists[1] {
            return Err(PoolError::Damaged("a record uses an id again"));
        }
        Ok(())
    }

    /// A map took `count` new blocks and stopped using `moved`.
    fn replay_displace(
        &mut self,
        replay: &Replay,
        map: u64,
        (count, moved): (u64, &[MovedOut]),
        sequence: u64,
    ) {
        if self.mutation == Mutation::ForgetDisplaced {
            return;
        }
        let owner = self.owner(replay, map);
        let (id, dead) = owner.map_or((0, 0), |owner| (owner.record.id, owner.record.dead));
        self.account(id, count, moved);
        self.displace(dead, moved, sequence);
    }

    /// `moved` with what really lies there where records before never happened.
    fn true_moved(&self, replay: &Replay, map: u64, moved: &[MovedOut]) -> Vec<MovedOut> {
        if replay.fates.is_empty() {
            return moved.to_vec();
        }
        let owner = self.owner(replay, map);
        let own_after = owner.map_or(0, |owner| owner.record.previous_epoch);
        let is_going =
            owner.is_some_and(|owner| owner.record.state != pool_format::ObjectState::Live);
        let mut all = Vec::new();
        for extent in moved {
            for i in 0..u64::from(extent.len) {
                let key = extent.key + i;
                let as_said = MovedOut {
                    key,
                    address: extent.address + i,
                    len: 1,
                    ..*extent
                };
                match self.fate(replay, map, key) {
                    None | Some(Fate::Applied) => all.push(as_said),
                    Some(Fate::Dropped(None)) => {}
                    Some(Fate::Dropped(Some(placed))) => {
                        let mut found = self.moved_out((key, 1), placed, own_after);
                        if is_going && found.class == pool_format::MovedClass::Dead {
                            found.class = pool_format::MovedClass::Kept;
                        }
                        all.push(found);
                    }
                }
            }
        }
        all
    }

    fn fate(&self, replay: &Replay, map: u64, key: u64) -> Option<Fate> {
        let mut map = map;
        loop {
            if let Some(fate) = replay.fates.get(&(map, key)) {
                return Some(*fate);
            }
            map = self
                .maps
                .get(&map)
                .map(|info| info.base)
                .filter(|base| *base != 0)?;
        }
    }
}

impl Replay {
    fn drop_block(&mut self, at: (u64, u64), left: Option<Placed>) {
        self.fates.insert(at, Fate::Dropped(left));
    }

    fn apply_block(&mut self, at: (u64, u64)) {
        if !self.fates.is_empty() {
            self.fates.insert(at, Fate::Applied);
        }
    }

    fn note(&mut self, (sequence, record): (u64, u16), block: u16) {
        match self.dropped.last_mut() {
            Some(last)
                if (last.sequence, last.record) == (sequence, record)
                    && last.first + last.count == block =>
            {
                last.count += 1
            }
            Some(_) | None => self.dropped.push(VoidEntry {
                sequence,
                record,
                first: block,
                count: 1,
            }),
        }
    }
}

fn one_block(moved: &[MovedOut], key: u64) -> Option<MovedOut> {
    let extent = moved
        .iter()
        .find(|extent| (extent.key..extent.key + u64::from(extent.len)).contains(&key))?;
    Some(MovedOut {
        key,
        address: extent.address + (key - extent.key),
        len: 1,
        ..*extent
    })
}
