//! Checkpoints: the overlay becomes trees, tables and a root (`docs/disk-format.md` §5, §6 cases 16 to 19).
//!
//! Invariants: nothing the durable root names is overwritten; the root is written after a flush that covers all it names; what only the old root
//! used becomes free after the new one is durable.

use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

use pool_format::{
    Area, BLOCK, DirectoryEntry, NO_TWIN, Node, NodePtr, OBJECTS_PER_PAGE, ObjectKind, ObjectState,
    Root, SLABS_PER_PAGE, SlabKind, SlabRecord, emit_object_page, emit_slab_page,
};

use crate::api::{DoneResult, Mutation, Source};
use crate::device::Purpose;
use crate::flush::Waiter;
use crate::overlay::{Change, Overlay};
use crate::pool::{MapInfo, Object, Pool, Wait};
use crate::tree::{Merge, finish, touched};

/// Changes merged at once.
const BATCH: usize = 128;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Stage {
    /// Merging maps, then dead lists.
    Merge,
    /// Writing off the nodes of the old trees.
    Free,
    /// Waiting for all writes.
    Write,
    /// Waiting for the flush before the root.
    Barrier,
    /// Waiting for the root's copies.
    Root,
    /// Waiting for the flush of the root.
    Final,
}

/// A tree to be merged.
struct Task {
    map: u64,
    owner: u64,
    is_dead: bool,
}

struct Current {
    task: Task,
    root: Option<NodePtr>,
    changes: Vec<Change>,
    at: usize,
    dirty: BTreeMap<u64, Node>,
    loaded: BTreeMap<u64, Rc<Node>>,
}

pub(crate) struct Checkpoint {
    stage: Stage,
    number: u64,
    start: u64,
    chain: u32,
    epoch: u64,
    object_next: u64,
    map_next: u64,
    objects: BTreeMap<u64, Object>,
    object_slots: BTreeSet<usize>,
    open_regions: Vec<u64>,
    tasks: Vec<Task>,
    current: Option<Current>,
    roots: BTreeMap<u64, Option<NodePtr>>,
    fresh: BTreeMap<u64, Rc<Node>>,
    spare: Vec<u64>,
    dead: Overlay,
    freed: Vec<u64>,
    released: usize,
    outstanding: usize,
    is_flushed: bool,
    root: Option<Root>,
}

impl Pool {
    /// Begins a checkpoint when one is due, and takes it as far as it goes.
    pub(crate) fn step_checkpoint(&mut self) {
        if self.checkpoint.is_none() {
            let is_due =
                self.journal.is_half_full() || self.active.len() >= self.limits.overlay_max;
            if !self.wants_checkpoint && !is_due {
                return;
            }
            if let Some(slab) = self.space.unloaded_change() {
                if self.load_bitmap(slab) != Wait::Now {
                    return;
                }
                return self.step_checkpoint();
            }
            self.freeze();
        }
        while let Some(mut checkpoint) = self.checkpoint.take() {
            let goes_on = self.checkpoint_stage(&mut checkpoint);
            if checkpoint.stage == Stage::Final && goes_on {
                self.finish_checkpoint(checkpoint);
                return;
            }
            self.checkpoint = Some(checkpoint);
            if !goes_on {
                return;
            }
        }
    }

    fn freeze(&mut self) {
        self.wants_checkpoint = false;
        if self.journal.is_filling() {
            self.journal.close();
        }
        self.frozen = std::mem::take(&mut self.active);
        self.space.freeze();
        let objects = self.objects.clone();
        let tasks = self.tasks(&objects);
        let mut open_regions: Vec<u64> = self.regions.open.keys().copied().collect();
        if self.mutation == Mutation::ForgetOpenRegions {
            open_regions.clear();
        }
        if self.mutation == Mutation::TrimBeforeRoot {
            self.journal.start = self.journal.next;
        }
        self.checkpoint = Some(Checkpoint {
            stage: Stage::Merge,
            number: self.root.checkpoint + 1,
            start: self.journal.next,
            chain: self.journal.chain(),
            epoch: self.epoch,
            object_next: self.object_next,
            map_next: self.map_next,
            objects,
            object_slots: std::mem::take(&mut self.dirty_objects),
            open_regions,
            tasks,
            current: None,
            roots: BTreeMap::new(),
            fresh: BTreeMap::new(),
            spare: Vec::new(),
            dead: Overlay::default(),
            freed: Vec::new(),
            released: 0,
            outstanding: 0,
            is_flushed: false,
            root: None,
        });
    }

    /// Trees to merge, last first: maps by id, so that a base comes before what is based on it, then dead lists.
    fn tasks(&self, objects: &BTreeMap<u64, Object>) -> Vec<Task> {
        let mut maps = Vec::new();
        let mut dead = Vec::new();
        for (id, object) in objects {
            let map = object.record.map;
            let is_based = self.maps.get(&map).is_some_and(|info| info.base != 0);
            if is_based || self.frozen.has(map) {
                maps.push(Task {
                    map,
                    owner: *id,
                    is_dead: false,
                });
            }
            dead.push(Task {
                map: object.record.dead,
                owner: *id,
                is_dead: true,
            });
        }
        maps.sort_by_key(|task| std::cmp::Reverse(task.map));
        dead.append(&mut maps);
        dead
    }

    /// Does what the stage asks; answers whether to come back at once.
    fn checkpoint_stage(&mut self, checkpoint: &mut Checkpoint) -> bool {
        match checkpoint.stage {
            Stage::Merge => {
                if checkpoint.current.is_none() {
                    match checkpoint.tasks.pop() {
                        Some(task) => self.begin_merge(checkpoint, task),
                        None => {
                            self.space
                                .return_nodes(&std::mem::take(&mut checkpoint.spare));
                            checkpoint.stage = Stage::Free;
                        }
                    }
                    return true;
                }
                self.merge(checkpoint)
            }
            Stage::Free => self.write_off(checkpoint),
            Stage::Write if checkpoint.outstanding == 0 => {
                checkpoint.stage = Stage::Barrier;
                checkpoint.is_flushed = self.mutation == Mutation::SkipRootBarrier;
                if !checkpoint.is_flushed {
                    self.flushes.want(Waiter::Checkpoint);
                }
                true
            }
            Stage::Barrier if checkpoint.is_flushed => {
                self.write_root(checkpoint);
                checkpoint.stage = Stage::Root;
                true
            }
            Stage::Root if checkpoint.outstanding == 0 => {
                checkpoint.is_flushed = false;
                self.flushes.want(Waiter::Checkpoint);
                checkpoint.stage = Stage::Final;
                false
            }
            Stage::Final => checkpoint.is_flushed,
            Stage::Write | Stage::Barrier | Stage::Root => false,
        }
    }

    pub(crate) fn checkpoint_flushed(&mut self) {
        if let Some(checkpoint) = &mut self.checkpoint {
            checkpoint.is_flushed = true;
        }
    }

    pub(crate) fn handle_checkpoint_written(&mut self, result: DoneResult) {
        if result.is_err() {
            self.fault();
        }
        if let Some(checkpoint) = &mut self.checkpoint {
            checkpoint.outstanding -= 1;
        }
    }

    fn begin_merge(&mut self, checkpoint: &mut Checkpoint, task: Task) {
        let info = self.maps.get(&task.map).copied().unwrap_or_default();
        let known = |map: u64| match checkpoint.roots.get(&map) {
            Some(root) => *root,
            None => self.maps.get(&map).and_then(|info| info.root),
        };
        let root = if info.base == 0 {
            info.root
        } else {
            known(info.base)
        };
        let mut changes = self.frozen.changes(task.map);
        if task.is_dead {
            // What the merges of maps displaced joins what records displaced.
            let mut all = Overlay::default();
            for change in changes.iter().chain(&checkpoint.dead.changes(task.map)) {
                all.insert(task.map, change.key, change.len, change.value, 0);
            }
            changes = all.changes(task.map);
        }
        if changes.is_empty() && info.base == 0 {
            return;
        }
        checkpoint.current = Some(Current {
            task,
            root,
            changes,
            at: 0,
            dirty: BTreeMap::new(),
            loaded: BTreeMap::new(),
        });
    }

    /// Merges the next changes of the current tree; `false` when something has to be read first.
    fn merge(&mut self, checkpoint: &mut Checkpoint) -> bool {
        let Some(mut current) = checkpoint.current.take() else {
            return true;
        };
        let end = (current.at + BATCH).min(current.changes.len());
        let batch = &current.changes[current.at..end];
        if batch.is_empty() {
            self.finish_merge(checkpoint, current);
            return true;
        }
        let (nodes, fresh) = (&mut self.nodes, &checkpoint.fresh);
        let (dirty, loaded) = (&current.dirty, &mut current.loaded);
        let mut have = |pointer: &NodePtr| {
            if let Some(node) = dirty.get(&pointer.address) {
                return Some(Rc::new(node.clone()));
            }
            let known = loaded
                .get(&pointer.address)
                .or_else(|| fresh.get(&pointer.address))
                .cloned();
            let node = known.or_else(|| nodes.find(pointer))?;
            loaded.insert(pointer.address, Rc::clone(&node));
            Some(node)
        };
        let count = match touched(current.root, batch, &mut have) {
            Ok(count) => count,
            Err(miss) => {
                checkpoint.current = Some(current);
                if self.lost_nodes.contains(&miss.0.address) {
                    self.fault();
                    return false;
                }
                self.load_node(miss.0);
                return false;
            }
        };
        if !self.set_aside(checkpoint, 2 * count + batch.len() / 30 + 4) {
            checkpoint.current = Some(current);
            return false;
        }
        self.apply_batch(checkpoint, &mut current, end);
        checkpoint.current = Some(current);
        true
    }

    fn apply_batch(&mut self, checkpoint: &mut Checkpoint, current: &mut Current, end: usize) {
        let owner = &checkpoint.objects[&current.task.owner].record;
        let birth = match owner.kind {
            ObjectKind::Snapshot if !current.task.is_dead => owner.epoch.min(checkpoint.epoch),
            ObjectKind::Snapshot | ObjectKind::Replica => checkpoint.epoch,
        };
        let mut displaced = Vec::new();
        let mut merge = Merge {
            map: current.task.map,
            birth,
            loaded: &current.loaded,
            dirty: &mut current.dirty,
            spare: &mut checkpoint.spare,
            displaced: &mut displaced,
        };
        current.root = merge.apply(current.root, &current.changes[current.at..end]);
        current.at = end;
        current.loaded.clear();
        let is_going = owner.state == ObjectState::Deleting && owner.kind == ObjectKind::Replica;
        for pointer in displaced {
            if current.task.is_dead || pointer.birth > owner.previous_epoch {
                checkpoint.freed.push(pointer.address);
                if self.mutation == Mutation::ReuseNodesAtOnce {
                    self.space.record_node(pointer.address, false);
                    self.space.return_nodes(&[pointer.address]);
                }
            } else if !is_going {
                let value = Some((pointer.address, pointer.birth));
                checkpoint
                    .dead
                    .insert(owner.dead, pointer.address, 1, value, 0);
            }
        }
    }

    /// Has `count` node addresses ready, out of metadata slabs in memory, on disk, or new ones.
    fn set_aside(&mut self, checkpoint: &mut Checkpoint, count: usize) -> bool {
        loop {
            let missing = count.saturating_sub(checkpoint.spare.len());
            let mut more = self.space.take_nodes(missing);
            checkpoint.spare.append(&mut more);
            if checkpoint.spare.len() >= count {
                return true;
            }
            let is_loadable = |(slab, record): &(usize, &SlabRecord)| {
                record.kind == SlabKind::Meta
                    && record.free > 0
                    && !self.space.bits.contains_key(&(*slab as u32))
            };
            if let Some((slab, _)) = self.space.slabs.iter().enumerate().find(is_loadable) {
                if self.load_bitmap(slab as u32) != Wait::Now {
                    return false;
                }
            } else if !self.add_metadata_slab() {
                // The reserve is there so that this does not happen; going on would lose what is in the overlay.
                self.fault();
                return false;
            }
        }
    }

    fn add_metadata_slab(&mut self) -> bool {
        let [first, second] = self.root.root_disks;
        let free_on = |disk: u16, not: Option<usize>| {
            let mut slabs = self.space.slabs.iter().enumerate();
            let found = slabs.find(|(slab, record)| {
                record.kind == SlabKind::Free && record.disk == disk && Some(*slab) != not
            });
            found.map(|(slab, _)| slab)
        };
        let Some(slab) = free_on(first, None) else {
            return false;
        };
        let Some(twin) = free_on(second, Some(slab)).or_else(|| free_on(first, Some(slab))) else {
            return false;
        };
        let free = self.space.geometry.node_blocks() as u16;
        for (number, kind, other) in [
            (slab, SlabKind::Meta, twin),
            (twin, SlabKind::MetaTwin, slab),
        ] {
            self.space.set_slab_frozen(number as u32, |record| {
                record.kind = kind;
                record.twin = other as u32;
                record.generation = record.generation.wrapping_add(1);
                record.bitmap_crc = 0;
                record.free = free;
            });
        }
        let bits = self.space.empty_bits();
        if let Some(frozen) = &mut self.space.frozen {
            frozen.bits.insert(slab as u32, bits.logical.clone());
        }
        self.space.bits.insert(slab as u32, bits);
        true
    }

    fn finish_merge(&mut self, checkpoint: &mut Checkpoint, mut current: Current) {
        let mut emitted = Vec::new();
        let at = (&self.uuid, checkpoint.number);
        let root = current
            .root
            .map(|root| finish(root, &mut current.dirty, at, &mut emitted));
        for (pointer, node, bytes) in emitted {
            self.space.record_node(pointer.address, true);
            self.lost_nodes.remove(&pointer.address);
            self.nodes.insert(&pointer, Rc::clone(&node));
            checkpoint.fresh.insert(pointer.address, node);
            self.write_twice(checkpoint, pointer.address, &bytes);
        }
        checkpoint.roots.insert(current.task.map, root);
        checkpoint
            .object_slots
            .insert(checkpoint.objects[&current.task.owner].slot);
    }

    fn write_twice(&mut self, checkpoint: &mut Checkpoint, address: u64, bytes: &[u8]) {
        for copy in 0..2 {
            let place = self
                .space
                .locate(address, copy)
                .expect("a metadata slab has a twin");
            self.devices
                .write(place, Source::Core(bytes.to_vec()), Purpose::Checkpoint);
            checkpoint.outstanding += 1;
        }
    }

    /// Writes off displaced nodes, then emits bitmaps and tables.
    fn write_off(&mut self, checkpoint: &mut Checkpoint) -> bool {
        while let Some(address) = checkpoint.freed.get(checkpoint.released).copied() {
            let slab = self.space.geometry.slab_of(address);
            if !self.space.bits.contains_key(&slab) && self.load_bitmap(slab) != Wait::Now {
                return false;
            }
            self.space.record_node(address, false);
            checkpoint.released += 1;
        }
        self.emit_bitmaps(checkpoint);
        let pages = self.emit_pages(checkpoint);
        checkpoint.stage = Stage::Write;
        let Some((slab_pages, object_pages)) = pages else {
            self.fault();
            return false;
        };
        checkpoint.root = Some(Root {
            checkpoint: checkpoint.number,
            journal_start: checkpoint.start,
            journal_chain: checkpoint.chain,
            era: self.journal.era(),
            epoch: checkpoint.epoch,
            object_next: checkpoint.object_next,
            map_next: checkpoint.map_next,
            slab_pages,
            object_pages,
            open_regions: std::mem::take(&mut checkpoint.open_regions),
            ..self.root.clone()
        });
        true
    }

    fn emit_bitmaps(&mut self, checkpoint: &mut Checkpoint) {
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
    fn emit_pages(
        &mut self,
        checkpoint: &mut Checkpoint,
    ) -> Option<(Vec<DirectoryEntry>, Vec<DirectoryEntry>)> {
        let mut slab_pages = self.root.slab_pages.clone();
        let mut object_pages = self.root.object_pages.clone();
        let mut used: BTreeSet<u32> = slab_pages
            .iter()
            .chain(&object_pages)
            .map(|page| page.position)
            .collect();
        let positions = self.root.table_slabs.len() as u32 * self.space.geometry.slab_blocks;
        let mut free = move || {
            let position = (0..positions).find(|position| !used.contains(position))?;
            used.insert(position);
            Some(position)
        };
        let frozen = self.space.frozen.take().unwrap_or_default();
        slab_pages.resize(
            self.space.slabs.len().div_ceil(SLABS_PER_PAGE),
            DirectoryEntry::default(),
        );
        for page in frozen.pages {
            let first = page * SLABS_PER_PAGE;
            let last = (first + SLABS_PER_PAGE).min(self.space.slabs.len());
            let records: Vec<SlabRecord> = (first..last)
                .map(|slab| {
                    frozen
                        .slabs
                        .get(&(slab as u32))
                        .copied()
                        .unwrap_or(self.space.slabs[slab])
                })
                .collect();
            let position = free()?;
            let (bytes, crc) = emit_slab_page(&records, &self.uuid, (position, checkpoint.number));
            slab_pages[page] = DirectoryEntry { position, crc };
            self.write_table(checkpoint, position, &bytes);
        }
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
            self.write_table(checkpoint, position, &bytes);
        }
        Some((slab_pages, object_pages))
    }

    fn object_image(&self, checkpoint: &Checkpoint, id: u64) -> pool_format::ObjectRecord {
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

    fn write_table(&mut self, checkpoint: &mut Checkpoint, position: u32, bytes: &[u8]) {
        let blocks = self.space.geometry.slab_blocks;
        let slab = self.root.table_slabs[(position / blocks) as usize];
        for copy in 0..2 {
            let at = self.space.geometry.chunk(slab.chunk[copy]) + u64::from(position % blocks);
            let place = (usize::from(slab.disk[copy]), at);
            self.devices
                .write(place, Source::Core(bytes.to_vec()), Purpose::Checkpoint);
            checkpoint.outstanding += 1;
        }
    }

    fn write_root(&mut self, checkpoint: &mut Checkpoint) {
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

    fn finish_checkpoint(&mut self, checkpoint: Checkpoint) {
        let Some(root) = checkpoint.root else {
            return;
        };
        self.journal
            .handle_root(root.checkpoint, root.journal_start);
        self.root = root;
        self.frozen = Overlay::default();
        for (map, root) in &checkpoint.roots {
            if let Some(info) = self.maps.get_mut(map) {
                *info = MapInfo {
                    root: *root,
                    base: 0,
                };
            }
        }
        for object in self.objects.values_mut() {
            let record = &mut object.record;
            if let Some(root) = checkpoint.roots.get(&record.map) {
                record.map_root = *root;
                record.base = 0;
            }
            if let Some(root) = checkpoint.roots.get(&record.dead) {
                record.dead_root = *root;
            }
        }
        for address in &checkpoint.freed {
            self.nodes.forget(*address);
        }
        self.space.return_nodes(&checkpoint.freed);
        for wait in [Wait::Journal, Wait::Checkpoint, Wait::Space, Wait::Durable] {
            self.wake(wait);
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
