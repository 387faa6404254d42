//! Opening: labels, newest root, tables, journal, and what has to be durable before the first answer (`docs/disk-format.md` §5, §6 cases 17 to 21).
//!
//! Touches no tree node. Every copy that is missing is written again before anything that only an older root needs is overwritten.

use std::collections::BTreeMap;

use pool_format::{
    Area, BLOCK, DiskEntry, DiskState, JournalBlock, JournalHeader, Label, OBJECTS_PER_PAGE,
    ObjectRecord, Root, SlabRecord, parse_object_page, parse_slab_page,
};

use crate::api::{Done, DoneResult, PoolError, Source, Status, Target};
use crate::device::{MISSING, Purpose};
use crate::flush::Waiter;
use crate::journal::Journal;
use crate::pool::{MapInfo, Object, Pool};
use crate::sane::{check_root, check_slabs};
use crate::space::Space;
use crate::tables::root_places;

/// Journal blocks read at once.
const RUN: u64 = 16;

/// Ring positions an opening needs, beyond void records.
const OPEN_ROOM: u64 = 8;

/// What an opening pool reads.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) enum Wanted {
    /// A label of the driver's disk.
    Label { disk: usize, is_last: bool },
    /// A root slot of a disk.
    Root { disk: usize, area: Area, slot: u64 },
    /// Positions of the table space.
    Table { first: u32, count: u32, copy: usize },
    /// Journal blocks from a ring position on.
    Journal { first: u64, count: u64, copy: usize },
    /// Data of a map record above the mark.
    Check { block: usize, record: usize },
    /// A copy being written again.
    Rewrite,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Stage {
    Labels,
    Claims,
    Roots,
    Tables,
    Journal,
    Check,
    /// Copies that were missing are being written.
    Rewrite,
    Flush,
    /// Making room in a journal that is all but full.
    Checkpoint,
    Void,
}

pub(crate) struct Opening {
    stage: Stage,
    outstanding: usize,
    disk_blocks: Vec<u64>,
    labels: BTreeMap<usize, Label>,
    /// What each end of each disk had.
    ends: BTreeMap<(usize, bool), Label>,
    is_foreign: bool,
    roots: Vec<(usize, Area, Root)>,
    /// Pages wanted by position: CRC, and the slab page or object page it is.
    pages: BTreeMap<u32, (u32, bool, usize)>,
    slabs: BTreeMap<usize, Vec<SlabRecord>>,
    objects: BTreeMap<usize, Vec<ObjectRecord>>,
    runs: [Vec<u8>; 2],
    next: u64,
    chain: u32,
    pub(crate) newest_mark: u64,
    pub(crate) blocks: Vec<JournalBlock>,
    /// CRCs of the data of map records above the mark; `None` when it could not be read.
    pub(crate) checks: BTreeMap<(usize, usize), Option<Vec<u32>>>,
    error: Option<PoolError>,
}

impl Pool {
    pub(crate) fn begin_open(&mut self, disk_blocks: &[u64]) {
        let mut opening = Opening {
            stage: Stage::Labels,
            outstanding: 0,
            disk_blocks: disk_blocks.to_vec(),
            labels: BTreeMap::new(),
            ends: BTreeMap::new(),
            is_foreign: false,
            roots: Vec::new(),
            pages: BTreeMap::new(),
            slabs: BTreeMap::new(),
            objects: BTreeMap::new(),
            runs: [Vec::new(), Vec::new()],
            next: 0,
            chain: 0,
            newest_mark: 0,
            blocks: Vec::new(),
            checks: BTreeMap::new(),
            error: None,
        };
        for (disk, blocks) in disk_blocks.iter().enumerate() {
            for (is_last, block) in [(false, 0), (true, blocks.saturating_sub(1))] {
                self.want(
                    &mut opening,
                    (disk, block),
                    1,
                    Wanted::Label { disk, is_last },
                );
            }
        }
        if disk_blocks.is_empty() {
            opening.error = Some(PoolError::NoPool);
        }
        self.opening = Some(opening);
    }

    fn want(&mut self, opening: &mut Opening, place: (usize, u64), count: u32, what: Wanted) {
        let target = match what {
            Wanted::Check { .. } => Target::Check,
            _ => Target::Core,
        };
        opening.outstanding += 1;
        self.devices
            .read(place, count, target, Purpose::Open { what });
    }

    pub(crate) fn handle_open(&mut self, what: Wanted, result: DoneResult) {
        let Some(mut opening) = self.opening.take() else {
            return;
        };
        opening.outstanding -= 1;
        let (bytes, crcs) = match result {
            Ok(Done::Bytes(bytes)) => (bytes, None),
            Ok(Done::Crcs(crcs)) => (Vec::new(), Some(crcs)),
            Ok(Done::Nothing | Done::Merged { .. }) => (Vec::new(), None),
            Err(_) if what == Wanted::Rewrite => {
                opening.error = Some(PoolError::Faulted);
                (Vec::new(), None)
            }
            Err(_) => (Vec::new(), None),
        };
        match what {
            Wanted::Label { disk, is_last } => opening.take_label(disk, is_last, &bytes),
            Wanted::Root { disk, area, slot } => {
                if let Ok(root) = Root::parse(&bytes, &self.uuid, slot, &self.space.geometry) {
                    opening.roots.push((disk, area, root));
                }
            }
            Wanted::Table { first, count, copy } => {
                self.take_table(&mut opening, &bytes, (first, count), copy)
            }
            Wanted::Journal { copy, .. } => opening.runs[copy] = bytes,
            Wanted::Check { block, record } => {
                opening.checks.insert((block, record), crcs);
            }
            Wanted::Rewrite => {}
        }
        self.opening = Some(opening);
    }

    /// Goes on when everything asked for has come.
    pub(crate) fn step_open(&mut self) {
        let Some(mut opening) = self.opening.take() else {
            return;
        };
        if opening.error.is_none() && opening.outstanding == 0 {
            let result = match opening.stage {
                Stage::Labels => self.take_labels(&mut opening),
                Stage::Claims => self.take_claims(&mut opening),
                Stage::Roots => self.read_tables(&mut opening),
                Stage::Tables => self.take_tables(&mut opening),
                Stage::Journal => self.take_run(&mut opening),
                Stage::Check => self.replay_all(&mut opening),
                Stage::Rewrite if self.is_read_only() => {
                    self.status = Status::Ready;
                    return;
                }
                Stage::Rewrite => {
                    opening.stage = Stage::Flush;
                    self.flushes.want(Waiter::Open);
                    Ok(())
                }
                Stage::Flush => Ok(()),
                Stage::Checkpoint | Stage::Void => {
                    if self.journal.settled + 1 >= opening.next {
                        self.status = Status::Ready;
                        return;
                    }
                    Ok(())
                }
            };
            opening.error = result.err();
            self.again |= opening.outstanding == 0
                && !matches!(
                    opening.stage,
                    Stage::Claims | Stage::Checkpoint | Stage::Void
                );
            if opening.stage == Stage::Flush && self.flushes.is_running() {
                self.again = false;
            }
        }
        if let Some(error) = opening.error {
            self.status = Status::Failed(error);
            return;
        }
        self.opening = Some(opening);
    }

    fn take_labels(&mut self, opening: &mut Opening) -> Result<(), PoolError> {
        let newest = opening
            .labels
            .values()
            .max_by_key(|label| label.sequence)
            .cloned();
        let newest = newest.ok_or(PoolError::NoPool)?;
        if opening.is_foreign
            || opening
                .labels
                .values()
                .any(|label| label.pool != newest.pool || label.geometry != newest.geometry)
        {
            return Err(PoolError::Damaged("disks of different pools"));
        }
        self.uuid = newest.pool;
        self.space = Space::new(newest.geometry, Vec::new());
        opening.stage = Stage::Claims;
        self.take_claims(opening)
    }

    /// Nothing else is read before it is known who holds the disks.
    fn take_claims(&mut self, opening: &mut Opening) -> Result<(), PoolError> {
        let disks: Vec<usize> = opening.labels.keys().copied().collect();
        if self.step_claims(&disks)? {
            return self.read_roots(opening);
        }
        Ok(())
    }

    fn read_roots(&mut self, opening: &mut Opening) -> Result<(), PoolError> {
        let geometry = self.space.geometry;
        let labels = opening.labels.clone();
        for (disk, label) in labels {
            if opening.disk_blocks[disk] < label.disk_blocks {
                return Err(PoolError::Damaged("a disk is smaller than its label says"));
            }
            // A disk that is growing has labels of two sizes.
            let ends = [false, true].map(|is_last| opening.ends.get(&(disk, is_last)));
            let mut sizes: Vec<u64> = ends.iter().flatten().map(|end| end.disk_blocks).collect();
            sizes.sort_unstable();
            sizes.dedup();
            for slot in 0..2 {
                let fronts = (Area::Front, geometry.root_slot(0, Area::Front, slot));
                let backs = sizes.iter().map(|blocks| {
                    let block = geometry.root_slot(*blocks, Area::Back, slot);
                    (Area::Back, block)
                });
                for (area, block) in std::iter::once(fronts).chain(backs) {
                    let what = Wanted::Root { disk, area, slot };
                    self.want(opening, (disk, block), geometry.root_blocks, what);
                }
            }
        }
        opening.stage = Stage::Roots;
        Ok(())
    }

    fn read_tables(&mut self, opening: &mut Opening) -> Result<(), PoolError> {
        let newest = opening
            .roots
            .iter()
            .max_by_key(|(_, _, root)| root.checkpoint);
        let root = newest
            .map(|(_, _, root)| root.clone())
            .ok_or(PoolError::Damaged("no valid root"))?;
        let mut order = Vec::new();
        for (index, entry) in root.disks.iter().enumerate() {
            let found = opening
                .labels
                .iter()
                .find(|(_, label)| label.disk == entry.uuid)
                // One that was removed is none of the pool's, whatever its label says.
                .filter(|_| entry.state != DiskState::Gone);
            if found.is_some_and(|(disk, _)| opening.disk_blocks[*disk] < entry.blocks) {
                return Err(PoolError::Damaged("a disk is smaller than the root says"));
            }
            match found {
                Some((disk, _)) => order.push(*disk),
                None if self.is_read_only() || entry.state == DiskState::Gone => {
                    order.push(MISSING)
                }
                None => return Err(PoolError::MissingDisk(index as u16)),
            }
            self.labels.push(known_label(
                opening,
                entry,
                index,
                found.map(|(disk, _)| *disk),
            ));
        }
        check_root(&root, &self.space.geometry)?;
        for (disk, _, _) in &mut opening.roots {
            *disk = order
                .iter()
                .position(|place| place == disk)
                .unwrap_or(usize::MAX);
        }
        self.devices.is_dirty = vec![true; order.len()];
        self.devices.order = order;
        for (page, entry) in root.slab_pages.iter().enumerate() {
            opening
                .pages
                .insert(entry.position, (entry.crc, true, page));
        }
        for (page, entry) in root.object_pages.iter().enumerate() {
            opening
                .pages
                .insert(entry.position, (entry.crc, false, page));
        }
        if opening.pages.len() != root.slab_pages.len() + root.object_pages.len() {
            return Err(PoolError::Damaged("two pages in one place"));
        }
        self.root = root;
        let positions: Vec<u32> = opening.pages.keys().copied().collect();
        for (first, count) in runs(&positions, self.space.geometry.slab_blocks) {
            self.read_table(opening, (first, count), 0);
        }
        opening.stage = Stage::Tables;
        Ok(())
    }

    fn read_table(&mut self, opening: &mut Opening, (first, count): (u32, u32), copy: usize) {
        let blocks = self.space.geometry.slab_blocks;
        let slab = self.root.table_slabs[(first / blocks) as usize];
        let block = self.space.geometry.chunk(slab.chunk[copy]) + u64::from(first % blocks);
        let place = (usize::from(slab.disk[copy]), block);
        self.want(opening, place, count, Wanted::Table { first, count, copy });
    }

    fn take_table(
        &mut self,
        opening: &mut Opening,
        bytes: &[u8],
        (first, count): (u32, u32),
        copy: usize,
    ) {
        for i in 0..count {
            let position = first + i;
            let Some((crc, is_slabs, page)) = opening.pages.get(&position).copied() else {
                continue;
            };
            let at = i as usize * BLOCK;
            let bytes = bytes.get(at..at + BLOCK).unwrap_or_default();
            let is_good = if is_slabs {
                let records = parse_slab_page(bytes, &self.uuid, position, crc);
                records.is_ok_and(|records| opening.slabs.insert(page, records).is_none())
            } else {
                let records = parse_object_page(bytes, &self.uuid, position, crc);
                records.is_ok_and(|records| opening.objects.insert(page, records).is_none())
            };
            match (is_good, copy) {
                (true, 0) => {}
                (true, _) => self.rewrite_table(opening, position, bytes.to_vec()),
                (false, 0) => self.read_table(opening, (position, 1), 1),
                (false, _) => {
                    opening.error = Some(PoolError::Damaged("a table page in both copies"))
                }
            }
        }
    }

    fn rewrite_table(&mut self, opening: &mut Opening, position: u32, bytes: Vec<u8>) {
        let blocks = self.space.geometry.slab_blocks;
        let slab = self.root.table_slabs[(position / blocks) as usize];
        let block = self.space.geometry.chunk(slab.chunk[0]) + u64::from(position % blocks);
        self.rewrite(opening, (usize::from(slab.disk[0]), block), bytes);
    }

    fn rewrite(&mut self, opening: &mut Opening, place: (usize, u64), bytes: Vec<u8>) {
        if self.is_read_only() {
            return;
        }
        opening.outstanding += 1;
        let what = Wanted::Rewrite;
        self.devices
            .write(place, Source::Core(bytes), Purpose::Open { what });
    }

    fn take_tables(&mut self, opening: &mut Opening) -> Result<(), PoolError> {
        let slabs: Vec<SlabRecord> = std::mem::take(&mut opening.slabs)
            .into_values()
            .flatten()
            .collect();
        check_slabs(&slabs, &self.root, &self.space.geometry)?;
        self.space = Space::new(self.space.geometry, slabs);
        self.states = self.root.disks.iter().map(|disk| disk.state).collect();
        self.free_what_was_left();
        for (page, records) in std::mem::take(&mut opening.objects) {
            for (index, record) in records.into_iter().enumerate() {
                let lists = [
                    (record.map, record.map_root),
                    (record.dead, record.dead_root),
                ];
                for (list, root) in lists {
                    if self.maps.insert(list, MapInfo { root, base: 0 }).is_some()
                        || list >= self.root.map_next
                    {
                        return Err(PoolError::Damaged("two objects share a map"));
                    }
                }
                let object = Object {
                    slot: page * OBJECTS_PER_PAGE + index,
                    cursor: 0,
                    delete_after: self.root.checkpoint + 1,
                    shared_until: (0, 0),
                    taking: 0,
                    record,
                };
                let id = object.record.id;
                if id >= self.root.object_next || self.objects.insert(id, object).is_some() {
                    return Err(PoolError::Damaged("two objects share an id"));
                }
            }
        }
        self.recount_reserve();
        self.epoch = self.root.epoch;
        self.object_next = self.root.object_next;
        self.map_next = self.root.map_next;
        opening.next = self.root.journal_start;
        opening.chain = self.root.journal_chain;
        opening.stage = Stage::Journal;
        self.read_run(opening);
        Ok(())
    }

    fn read_run(&mut self, opening: &mut Opening) {
        let ring = u64::from(self.space.geometry.journal_blocks);
        let first = opening.next % ring;
        let count = RUN.min(ring - first);
        for copy in 0..2 {
            let place = (
                usize::from(self.root.journal_disks[copy]),
                self.space.geometry.journal(copy as u64) + first,
            );
            self.want(
                opening,
                place,
                count as u32,
                Wanted::Journal { first, count, copy },
            );
        }
    }

    /// Takes blocks of the chain out of a run; at its end, looks behind it for a sign that it should go on.
    fn take_run(&mut self, opening: &mut Opening) -> Result<(), PoolError> {
        let ring = u64::from(self.space.geometry.journal_blocks);
        let first = opening.next % ring;
        let count = RUN.min(ring - first);
        for i in 0..count {
            let sequence = opening.next;
            if sequence - self.root.journal_start >= ring {
                return Err(PoolError::Damaged("the journal is longer than its ring"));
            }
            let found: Vec<Option<JournalBlock>> = (0..2)
                .map(|copy| self.journal_block(opening, copy, i, first + i))
                .collect();
            let is_next = |block: &JournalBlock| {
                block.header.sequence == sequence && block.header.chain == opening.chain
            };
            let good = found
                .iter()
                .position(|block| block.as_ref().is_some_and(is_next));
            let Some(good) = good else {
                return self.end_of_chain(opening, first, (i, count));
            };
            let other = 1 - good;
            if !found[other].as_ref().is_some_and(is_next) {
                let bytes = piece(&opening.runs[good], i).to_vec();
                let block = self.space.geometry.journal(other as u64) + first + i;
                let disk = usize::from(self.root.journal_disks[other]);
                self.rewrite(opening, (disk, block), bytes);
            }
            if let Some(block) = found.into_iter().nth(good).flatten() {
                if block.header.checkpoint > self.root.checkpoint {
                    return Err(PoolError::Damaged("a newer root is missing"));
                }
                opening.newest_mark = opening.newest_mark.max(block.header.mark);
                opening.chain = block.crc;
                opening.next += 1;
                opening.blocks.push(block);
            }
        }
        self.read_run(opening);
        Ok(())
    }

    fn journal_block(
        &self,
        opening: &Opening,
        copy: usize,
        index: u64,
        place: u64,
    ) -> Option<JournalBlock> {
        JournalBlock::parse(piece(&opening.runs[copy], index), &self.uuid, place).ok()
    }

    /// A block that says one at or behind the end was durable makes the end damage (never the tail).
    fn end_of_chain(
        &mut self,
        opening: &mut Opening,
        first: u64,
        (from, count): (u64, u64),
    ) -> Result<(), PoolError> {
        let end = opening.next;
        for copy in 0..2 {
            for i in from..count {
                let header =
                    JournalHeader::parse(piece(&opening.runs[copy], i), &self.uuid, first + i);
                let Ok((header, _, _)) = header else {
                    continue;
                };
                if header.checkpoint > self.root.checkpoint {
                    return Err(PoolError::Damaged("a newer root is missing"));
                }
                if header.sequence >= end && header.mark >= end {
                    return Err(PoolError::Damaged("journal block lost"));
                }
            }
        }
        self.read_checks(opening)?;
        opening.stage = Stage::Check;
        Ok(())
    }

    /// Metadata is whole: what is to be durable before the first answer is written.
    pub(crate) fn begin_service(&mut self, opening: &mut Opening) {
        let newest = opening.blocks.last().map_or(0, |block| block.header.era);
        let era = newest.max(self.root.era).wrapping_add(1);
        let geometry = self.space.geometry;
        let at = (opening.next, opening.chain);
        self.journal = Journal::new(
            self.uuid,
            geometry.journal_blocks,
            era,
            at,
            self.root.journal_start,
            self.root.checkpoint,
        );
        let bytes = self.root.emit(&self.uuid);
        for (disk, block) in root_places(&geometry, &self.root) {
            let has = opening.roots.iter().any(|(on, area, root)| {
                let blocks = self.root.disks[disk].blocks;
                *on == disk
                    && geometry.root_slot(blocks, *area, root.slot()) == block
                    && *root == self.root
            });
            if !has {
                self.rewrite(opening, (disk, block), bytes.clone());
            }
        }
        opening.roots.clear();
        for (disk, label) in self.labels.clone().into_iter().enumerate() {
            let place = self.devices.order[disk];
            if place == MISSING {
                continue;
            }
            let copies = [(0, 0, false), (1, label.disk_blocks - 1, true)];
            for (copy, block, is_last) in copies {
                if opening.ends.get(&(place, is_last)) != Some(&label) {
                    self.rewrite(opening, (disk, block), label.emit(copy));
                }
            }
        }
        opening.stage = Stage::Rewrite;
    }

    pub(crate) fn opening_flushed(&mut self) {
        let Some(opening) = &mut self.opening else {
            return;
        };
        let voids = std::mem::take(&mut self.pending_voids);
        if self.journal.room() < OPEN_ROOM + voids.len() as u64 {
            // Cut after cut before a checkpoint could end: without one there is no room to go on. It leaves nothing that needs void records.
            opening.stage = Stage::Checkpoint;
            self.wants_checkpoint = true;
            return;
        }
        opening.stage = Stage::Void;
        for record in voids {
            self.journal.push(&record);
        }
        // An empty block of the new era settles everything before it.
        self.flushes.want_settled(opening.next - 1);
    }
}

impl Opening {
    /// Whether a checkpoint has to come before service.
    pub(crate) fn wants_checkpoint(&self) -> bool {
        self.stage == Stage::Checkpoint
    }

    fn take_label(&mut self, disk: usize, is_last: bool, bytes: &[u8]) {
        match Label::parse(bytes) {
            Ok(label) => {
                self.ends.insert((disk, is_last), label.clone());
                match self.labels.get(&disk) {
                    Some(other) if other.pool != label.pool => self.is_foreign = true,
                    Some(other) if other.sequence >= label.sequence => {}
                    Some(_) | None => {
                        self.labels.insert(disk, label);
                    }
                }
            }
            Err(pool_format::Malformed::Version(_) | pool_format::Malformed::Features(_))
                if !is_last =>
            {
                self.error = Label::parse(bytes).err().map(PoolError::Malformed);
            }
            Err(_) => {}
        }
    }

    pub(crate) fn want_checks(&mut self) {
        self.outstanding += 1;
    }

    pub(crate) fn is_waiting(&self) -> bool {
        self.outstanding > 0
    }
}

fn piece(bytes: &[u8], index: u64) -> &[u8] {
    let at = index as usize * BLOCK;
    bytes.get(at..at + BLOCK).unwrap_or_default()
}

/// The label a disk should have: its newest, with the size the root says.
fn known_label(opening: &Opening, entry: &DiskEntry, index: usize, disk: Option<usize>) -> Label {
    let found = disk.and_then(|disk| opening.labels.get(&disk));
    let any = found.or_else(|| opening.labels.values().next());
    let mut label = any.cloned().expect("a root was found on a labelled disk");
    if label.disk_blocks != entry.blocks {
        label.sequence += 1;
    }
    label.disk = entry.uuid;
    label.index = index as u16;
    label.disk_blocks = entry.blocks;
    label
}

/// Joins positions that lie close together into reads of at most 256 blocks within one table slab.
fn runs(positions: &[u32], slab_blocks: u32) -> Vec<(u32, u32)> {
    let mut joined: Vec<(u32, u32)> = Vec::new();
    for position in positions {
        match joined.last_mut() {
            Some((first, count))
                if *position - *first < 256
                    && *position <= *first + *count + 8
                    && *position / slab_blocks == *first / slab_blocks =>
            {
                *count = *position - *first + 1;
            }
            Some(_) | None => joined.push((*position, 1)),
        }
    }
    joined
}
