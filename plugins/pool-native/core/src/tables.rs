//! What a checkpoint writes besides tree nodes: bitmaps, table pages, the root (`docs/disk-format.md` §4.3, §4.4, §4.6).
//!
//! Invariants: a bitmap goes to the version that is not current, a table page to a position the durable root does not name.

use std::collections::{BTreeMap, BTreeSet};

use pool_format::{
    Area, BLOCK, DirectoryEntry, NO_TWIN, OBJECTS_PER_PAGE, ObjectRecord, Root, SLABS_PER_PAGE,
    SlabKind, SlabRecord, TableSlab, emit_object_page, emit_slab_page,
};

use crate::api::Source;
use crate::checkpoint::Checkpoint;
use crate::device::Purpose;
use crate::pool::Pool;

/// The slab table's pages, the object table's, and the table space.
type Directory = (Vec<DirectoryEntry>, Vec<DirectoryEntry>, Vec<TableSlab>);

impl Pool {
    /// Two free slabs for metadata, on both metadata disks where there is room.
    pub(crate) fn free_pair(&self) -> Option<(usize, usize)> {
        let [first, second] = self.metadata_disks(self.root.root_disks, None);
        let free_on = |disk: u16, not: Option<usize>| {
            let mut slabs = self.space.slabs.iter().enumerate();
            let found = slabs.find(|(slab, record)| {
                record.kind == SlabKind::Free && record.disk == disk && Some(*slab) != not
            });
            found.map(|(slab, _)| slab)
        };
        let slab = free_on(first, None).or_else(|| free_on(second, None))?;
        let twin = free_on(second, Some(slab)).or_else(|| free_on(first, Some(slab)))?;
        Some((slab, twin))
    }

    /// Takes two free slabs as copies of each other, in the checkpoint in progress.
    pub(crate) fn pair_up(&mut self, first: (usize, SlabKind), second: (usize, SlabKind)) {
        let free = self.space.geometry.node_blocks() as u16;
        for ((number, kind), (other, _)) in [(first, second), (second, first)] {
            self.space.set_slab_frozen(number as u32, |record| {
                record.kind = kind;
                record.twin = other as u32;
                record.generation = record.generation.wrapping_add(1);
                record.bitmap_crc = 0;
                record.free = free;
            });
        }
    }

    pub(crate) fn emit_bitmaps(&mut self, checkpoint: &mut Checkpoint) {
        let Some(frozen) = &mut self.space.frozen else {
            return;
        };
        let touched = std::mem::take(&mut frozen.touched);
        let images = std::mem::take(&mut frozen.bits);
        for slab in touched {
            let Some(image) = images.get(&slab) else {
                continue;
            };
            let record = self.space.slabs[slab as usize];
            let is_meta = record.kind == SlabKind::Meta;
            let version = 1 - record.bitmap_version;
            let (bytes, crc) = image.emit(&self.uuid, slab, record.generation, checkpoint.number);
            for copy in 0..2 {
                let offset = self.space.geometry.bitmap(u32::from(version), copy);
                let address = self.space.geometry.address(slab, offset);
                if is_meta {
                    self.write_twice(checkpoint, address, &bytes);
                } else if let Some(place) = self.space.locate(address, 0) {
                    self.devices
                        .write(place, Source::Core(bytes.clone()), Purpose::Checkpoint);
                    checkpoint.outstanding += 1;
                }
            }
            let free = self
                .space
                .geometry
                .node_blocks()
                .saturating_sub(image.count()) as u16;
            self.space.set_slab_frozen(slab, |record| {
                record.bitmap_version = version;
                record.bitmap_crc = crc;
                if is_meta {
                    record.free = free;
                }
            });
        }
    }

    /// Writes changed table pages to free positions; `None` when there are not enough.
    pub(crate) fn emit_pages(&mut self, checkpoint: &mut Checkpoint) -> Option<Directory> {
        let added = checkpoint.room.as_ref().map_or(0, |room| room.slabs.len());
        let slab_count = self.space.slabs.len() + added;
        let object_count = checkpoint
            .objects
            .values()
            .map(|object| object.slot + 1)
            .max();
        let object_count = object_count.unwrap_or(0).div_ceil(OBJECTS_PER_PAGE);
        let pages = slab_count.div_ceil(SLABS_PER_PAGE) + object_count;
        let mut tables = self.root.table_slabs.clone();
        if !self.ensure_table_room(&mut tables, pages) {
            return None;
        }
        let mut slab_pages = self.root.slab_pages.clone();
        let object_pages = self.root.object_pages.clone();
        let mut used: BTreeSet<u32> = slab_pages
            .iter()
            .chain(&object_pages)
            .map(|page| page.position)
            .collect();
        let positions = tables.len() as u32 * self.space.geometry.slab_blocks;
        let mut free = move || {
            let position = (0..positions).find(|position| !used.contains(position))?;
            used.insert(position);
            Some(position)
        };
        let frozen = self.space.frozen.take().unwrap_or_default();
        slab_pages.resize(
            slab_count.div_ceil(SLABS_PER_PAGE),
            DirectoryEntry::default(),
        );
        let mut changed = frozen.pages;
        if let Some(exchange) = &checkpoint.exchange {
            changed.extend(exchange.slabs().map(|slab| slab as usize / SLABS_PER_PAGE));
        }
        if added > 0 {
            changed.extend(self.space.slabs.len() / SLABS_PER_PAGE..slab_pages.len());
        }
        for page in changed {
            let first = page * SLABS_PER_PAGE;
            let last = (first + SLABS_PER_PAGE).min(slab_count);
            let records: Vec<SlabRecord> = (first..last)
                .filter_map(|slab| {
                    let known = frozen.slabs.get(&(slab as u32));
                    let known = known.or_else(|| self.space.slabs.get(slab));
                    let new = || {
                        checkpoint
                            .room
                            .as_ref()?
                            .slabs
                            .get(slab - self.space.slabs.len())
                    };
                    let record = known.or_else(new).copied()?;
                    let exchange = checkpoint.exchange.as_ref();
                    Some(exchange.map_or(record, |it| it.record(slab as u32, record)))
                })
                .collect();
            let position = free()?;
            let (bytes, crc) = emit_slab_page(&records, &self.uuid, (position, checkpoint.number));
            slab_pages[page] = DirectoryEntry { position, crc };
            self.write_table(checkpoint, (&tables, position), &bytes);
        }
        let object_pages = self.emit_objects(checkpoint, object_pages, &tables, &mut free)?;
        if let Some(exchange) = &checkpoint.exchange {
            exchange.apply(&mut tables);
        }
        Some((slab_pages, object_pages, tables))
    }

    /// Writes changed pages of the object table to positions that `free` gives.
    fn emit_objects(
        &mut self,
        checkpoint: &mut Checkpoint,
        mut object_pages: Vec<DirectoryEntry>,
        tables: &[TableSlab],
        free: &mut dyn FnMut() -> Option<u32>,
    ) -> Option<Vec<DirectoryEntry>> {
        let slots: BTreeMap<usize, u64> = checkpoint
            .objects
            .iter()
            .map(|(id, object)| (object.slot, *id))
            .collect();
        let count = slots
            .keys()
            .next_back()
            .map_or(0, |slot| slot / OBJECTS_PER_PAGE + 1);
        object_pages.resize(count, DirectoryEntry::default());
        let dirty: BTreeSet<usize> = checkpoint
            .object_slots
            .iter()
            .map(|slot| slot / OBJECTS_PER_PAGE)
            .collect();
        for page in dirty.into_iter().filter(|page| *page < count) {
            let range = page * OBJECTS_PER_PAGE..(page + 1) * OBJECTS_PER_PAGE;
            let records: Vec<_> = slots
                .range(range)
                .map(|(_, id)| self.object_image(checkpoint, *id))
                .collect();
            let position = free()?;
            let (bytes, crc) =
                emit_object_page(&records, &self.uuid, (position, checkpoint.number));
            object_pages[page] = DirectoryEntry { position, crc };
            self.write_table(checkpoint, (tables, position), &bytes);
        }
        Some(object_pages)
    }

    fn object_image(&self, checkpoint: &Checkpoint, id: u64) -> ObjectRecord {
        let mut record = checkpoint.objects[&id].record.clone();
        let root = |map: u64| match checkpoint.roots.get(&map) {
            Some(root) => *root,
            None => self.maps.get(&map).and_then(|info| info.root),
        };
        record.map_root = root(record.map);
        record.dead_root = root(record.dead);
        record.base = 0;
        record
    }

    fn write_table(
        &mut self,
        checkpoint: &mut Checkpoint,
        (tables, position): (&[TableSlab], u32),
        bytes: &[u8],
    ) {
        let blocks = self.space.geometry.slab_blocks;
        let slab = tables[(position / blocks) as usize];
        for copy in 0..2 {
            let at = self.space.geometry.chunk(slab.chunk[copy]) + u64::from(position % blocks);
            let place = (usize::from(slab.disk[copy]), at);
            self.devices
                .write(place, Source::Core(bytes.to_vec()), Purpose::Checkpoint);
            checkpoint.outstanding += 1;
        }
    }

    pub(crate) fn write_root(&mut self, checkpoint: &mut Checkpoint) {
        let Some(root) = &checkpoint.root else {
            return;
        };
        if root.emitted_len() > self.space.geometry.root_blocks as usize * BLOCK {
            return self.fault();
        }
        let bytes = root.emit(&self.uuid);
        for place in root_places(&self.space.geometry, root) {
            self.devices
                .write(place, Source::Core(bytes.clone()), Purpose::Checkpoint);
            checkpoint.outstanding += 1;
        }
    }
}

/// Places of a root's copies: both ends of both metadata disks.
pub(crate) fn root_places(geometry: &pool_format::Geometry, root: &Root) -> Vec<(usize, u64)> {
    let mut disks = root.root_disks.to_vec();
    disks.dedup();
    let mut places = Vec::new();
    for disk in disks {
        let blocks = root.disks[usize::from(disk)].blocks;
        for area in [Area::Front, Area::Back] {
            places.push((
                usize::from(disk),
                geometry.root_slot(blocks, area, root.slot()),
            ));
        }
    }
    places
}

/// Slab record of a chunk nobody uses.
pub(crate) fn free_slab(disk: u16, chunk: u32) -> SlabRecord {
    SlabRecord {
        kind: SlabKind::Free,
        bitmap_version: 0,
        disk,
        chunk,
        twin: NO_TWIN,
        generation: 0,
        bitmap_crc: 0,
        free: 0,
    }
}
