//! Checkpoints: the overlay becomes trees, tables and a root (`docs/disk-format.md` §5, §6 cases 16 to 19).
//!
//! Invariants: nothing the durable root names is overwritten; the root is written after a flush that covers all it names; what only the old root
//! used becomes free after the new one is durable.

use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

use pool_format::{DiskState, Node, NodePtr, ObjectKind, ObjectState, Root, SlabKind, SlabRecord};

use crate::api::{DoneResult, Mutation, Source};
use crate::device::Purpose;
use crate::flush::Waiter;
use crate::grow::Room;
use crate::overlay::{Change, Overlay};
use crate::pool::{MapInfo, Object, Pool, Wait};
use crate::relocate::Exchange;
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
    pub(crate) number: u64,
    start: u64,
    chain: u32,
    pub(crate) epoch: u64,
    object_next: u64,
    map_next: u64,
    pub(crate) objects: BTreeMap<u64, Object>,
    pub(crate) object_slots: BTreeSet<usize>,
    open_regions: Vec<u64>,
    tasks: Vec<Task>,
    current: Option<Current>,
    pub(crate) roots: BTreeMap<u64, Option<NodePtr>>,
    fresh: BTreeMap<u64, Rc<Node>>,
    spare: Vec<u64>,
    dead: Overlay,
    freed: Vec<u64>,
    released: usize,
    pub(crate) outstanding: usize,
    is_flushed: bool,
    pub(crate) root: Option<Root>,
    /// What it adds to the pool.
    pub(crate) room: Option<Room>,
    /// The slab it puts in another place.
    pub(crate) exchange: Option<Exchange>,
    states: Vec<DiskState>,
    root_disks: [u16; 2],
    journal_disks: [u16; 2],
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
        let number = self.root.checkpoint + 1;
        let room = self.room_to_add(number);
        let exchange = self.exchange_to_make(number);
        let root_disks = self.metadata_disks(self.root.root_disks, room.as_ref());
        let journal_disks = self.metadata_disks(self.root.journal_disks, room.as_ref());
        // What is journalled from here on lies where this root will look for it, too.
        self.journal_next = (journal_disks != self.root.journal_disks).then_some(journal_disks);
        self.checkpoint = Some(Checkpoint {
            stage: Stage::Merge,
            number,
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
            room,
            exchange,
            states: self.states.clone(),
            root_disks,
            journal_disks,
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
        let Some((slab, twin)) = self.free_pair() else {
            return false;
        };
        self.pair_up((slab, SlabKind::Meta), (twin, SlabKind::MetaTwin));
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

    pub(crate) fn write_twice(&mut self, checkpoint: &mut Checkpoint, address: u64, bytes: &[u8]) {
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
        let Some((slab_pages, object_pages, table_slabs)) = pages else {
            self.fault();
            return false;
        };
        let mut root = Root {
            checkpoint: checkpoint.number,
            journal_start: checkpoint.start,
            journal_chain: checkpoint.chain,
            era: self.journal.era(),
            epoch: checkpoint.epoch,
            object_next: checkpoint.object_next,
            map_next: checkpoint.map_next,
            slab_pages,
            object_pages,
            table_slabs,
            open_regions: std::mem::take(&mut checkpoint.open_regions),
            root_disks: checkpoint.root_disks,
            journal_disks: checkpoint.journal_disks,
            ..self.root.clone()
        };
        for (entry, state) in root.disks.iter_mut().zip(&checkpoint.states) {
            entry.state = *state;
        }
        if let Some(room) = &checkpoint.room {
            self.add_to_root(&mut root, room);
        }
        checkpoint.root = Some(root);
        true
    }

    fn finish_checkpoint(&mut self, checkpoint: Checkpoint) {
        let Some(root) = checkpoint.root else {
            return;
        };
        self.journal
            .handle_root(root.checkpoint, root.journal_start);
        self.root = root;
        self.journal_next = None;
        if let Some(exchange) = checkpoint.exchange {
            self.exchanged(exchange);
        }
        if let Some(room) = checkpoint.room {
            self.take_room(room);
        }
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
