//! Replicas, snapshots and clones: created, resized, deleted (`docs/disk-format.md` §5, §6 cases 14, 15, 23).
//!
//! The `apply_` functions change memory exactly as the record says; the live pool and the replay share them.

use pool_format::{MovedClass, ObjectKind, ObjectRecord, ObjectState, Record, Uuid};

use crate::admit::Claim;
use crate::api::{Answer, HostOp, Mutation, PoolError};
use crate::pool::{MapInfo, Object, Op, Pool, Stop, Wait};
use crate::write::MOVED_MAX;

/// Ring positions a change of objects can fill.
const OBJECT_BLOCKS: u64 = 2;

/// Extents one step of a deletion looks at.
const DELETE_STEP: usize = 16;

impl Pool {
    pub(crate) fn step_object(&mut self, id: u64, op: &mut Op) -> Result<Answer, Stop> {
        let touched = match &op.host {
            HostOp::Snapshot { object, .. }
            | HostOp::Delete { object }
            | HostOp::Resize { object, .. } => Some(*object),
            _ => None,
        };
        if let Some(object) = touched {
            // Before anything else is waited for: what was asked for later comes after.
            if self.mutation != Mutation::SnapshotWithoutDrain {
                self.lock(id, op, (object, 0, u64::MAX), true)?;
            }
        }
        let claim = match op.host {
            HostOp::Delete { .. } | HostOp::Resize { .. } => Claim::Frees,
            _ => Claim::New,
        };
        self.admit(op, OBJECT_BLOCKS, claim)?;
        let answer = match op.host.clone() {
            HostOp::Create {
                uuid,
                name,
                size,
                is_thick,
                block_shift,
            } => self.create((uuid, name), size, (is_thick, block_shift))?,
            HostOp::Snapshot { object, uuid, name } => {
                self.check_range(object, 0, 1)?;
                self.snapshot(object, uuid, name)?
            }
            HostOp::Clone { object, uuid, name } => self.clone_snapshot(object, uuid, name)?,
            HostOp::Delete { object } => self.delete(object)?,
            HostOp::Resize { object, size } => self.resize(op, object, size)?,
            HostOp::Read { .. }
            | HostOp::Write { .. }
            | HostOp::WritePart { .. }
            | HostOp::Unmap { .. }
            | HostOp::Flush
            | HostOp::Checkpoint
            | HostOp::Seal
            | HostOp::Extent { .. }
            | HostOp::Scrub { .. }
            | HostOp::AddDisk(_)
            | HostOp::GrowDisk { .. }
            | HostOp::Evacuate { .. }
            | HostOp::KeepDisk { .. }
            | HostOp::RemoveDisk { .. }
            | HostOp::Double
            | HostOp::Release => return Err(PoolError::Invalid.into()),
        };
        if op.is_locked {
            // The change is made; what comes behind it need not wait for its flush.
            op.is_locked = false;
            self.unlock(id);
        }
        self.change_made(id, op, answer)
    }

    fn blank_record(
        &mut self,
        kind: ObjectKind,
        uuid: Uuid,
        name: String,
        size: u64,
    ) -> Result<ObjectRecord, PoolError> {
        let record = ObjectRecord {
            id: self.object_next,
            kind,
            state: ObjectState::Live,
            block_shift: 12,
            is_thick: false,
            home: self.emptiest_disk(),
            uuid,
            map: self.map_next,
            base: 0,
            dead: self.map_next + 1,
            size,
            reserved: 0,
            previous: 0,
            previous_epoch: 0,
            epoch: 0,
            map_root: None,
            dead_root: None,
            mapped: 0,
            created_s: 0,
            name,
            attributes: Vec::new(),
        };
        if size == 0 || size > 1 << 48 || !record.fits() {
            return Err(PoolError::Invalid);
        }
        self.object_next += 1;
        self.map_next += 2;
        Ok(record)
    }

    pub(crate) fn emptiest_disk(&self) -> u16 {
        let disks = (0..self.root.disks.len() as u16).filter(|disk| self.is_in_service(*disk));
        let free = |disk: &u16| -> u64 {
            let slabs = self.space.slabs.iter().filter(|slab| slab.disk == *disk);
            slabs
                .map(|slab| match slab.kind {
                    pool_format::SlabKind::Free => u64::from(self.space.geometry.data_blocks()),
                    pool_format::SlabKind::Data => u64::from(slab.free),
                    _ => 0,
                })
                .sum()
        };
        // The first of equals.
        let disks: Vec<u16> = disks.collect();
        disks.into_iter().rev().max_by_key(free).unwrap_or(0)
    }

    fn create(
        &mut self,
        (uuid, name): (Uuid, String),
        size: u64,
        (is_thick, block_shift): (bool, u8),
    ) -> Result<Answer, PoolError> {
        if !matches!(block_shift, 9 | 12) {
            return Err(PoolError::Invalid);
        }
        if is_thick && size <= 1 << 48 && !self.can_reserve(size, size) {
            return Err(PoolError::NoSpace);
        }
        let mut record = self.blank_record(ObjectKind::Replica, uuid, name, size)?;
        record.block_shift = block_shift;
        record.is_thick = is_thick;
        record.reserved = if is_thick { size } else { 0 };
        let object = record.id;
        self.journal.push(&Record::Object(Box::new(record.clone())));
        self.apply_object(record);
        Ok(Answer::Created { object })
    }

    fn clone_snapshot(
        &mut self,
        snapshot: u64,
        uuid: Uuid,
        name: String,
    ) -> Result<Answer, PoolError> {
        let source = &self
            .objects
            .get(&snapshot)
            .ok_or(PoolError::NoSuchObject)?
            .record;
        if source.kind != ObjectKind::Snapshot || source.state != ObjectState::Live {
            return Err(PoolError::NoSuchObject);
        }
        let source = source.clone();
        let mut record = self.blank_record(ObjectKind::Replica, uuid, name, source.size)?;
        record.base = source.map;
        record.block_shift = source.block_shift;
        record.home = source.home;
        record.mapped = source.mapped;
        record.previous = source.id;
        record.previous_epoch = source.epoch;
        let object = record.id;
        self.journal.push(&Record::Object(Box::new(record.clone())));
        self.apply_object(record);
        Ok(Answer::Created { object })
    }

    pub(crate) fn apply_object(&mut self, mut record: ObjectRecord) {
        record.map_root = None;
        record.dead_root = None;
        let origin = self.objects.get(&record.previous);
        if let Some(origin) = origin.filter(|_| record.base != 0) {
            record.mapped = origin.record.mapped;
        }
        self.object_next = self.object_next.max(record.id + 1);
        self.map_next = self.map_next.max(record.map.max(record.dead) + 1);
        let info = MapInfo {
            root: None,
            base: record.base,
        };
        self.maps.insert(record.map, info);
        self.maps.insert(record.dead, MapInfo::default());
        self.insert_object(record);
    }

    pub(crate) fn insert_object(&mut self, record: ObjectRecord) {
        let taken: std::collections::BTreeSet<usize> =
            self.objects.values().map(|object| object.slot).collect();
        let slot = (0..).find(|slot| !taken.contains(slot)).unwrap_or_default();
        self.dirty_objects.insert(slot);
        let object = Object {
            record,
            slot,
            cursor: 0,
            delete_after: 0,
            shared_until: (0, 0),
            taking: 0,
        };
        self.objects.insert(object.record.id, object);
        self.recount_reserve();
    }

    fn snapshot(&mut self, origin: u64, uuid: Uuid, name: String) -> Result<Answer, Stop> {
        let record = self.objects[&origin].record.clone();
        let mut depth = 0;
        let mut map = record.map;
        while let Some(info) = self.maps.get(&map).filter(|info| info.base != 0) {
            depth += 1;
            map = info.base;
        }
        if depth >= self.limits.bases_max {
            self.wants_checkpoint = true;
            return Err(Wait::Checkpoint.into());
        }
        if record.is_thick && !self.can_reserve(record.size - record.reserved, 0) {
            // Every block can be written once more.
            return Err(PoolError::NoSpace.into());
        }
        let mut snapshot = self.blank_record(ObjectKind::Snapshot, uuid, name, record.size)?;
        snapshot.home = record.home;
        snapshot.block_shift = record.block_shift;
        snapshot.mapped = record.mapped;
        snapshot.epoch = self.epoch;
        // The ids set aside go to the replica; the snapshot takes over the replica's.
        let (map, dead) = (snapshot.map, snapshot.dead);
        (snapshot.map, snapshot.dead) = (record.map, record.dead);
        let object = snapshot.id;
        let epoch = self.epoch + 1;
        self.journal.push(&Record::Snapshot {
            origin,
            map,
            dead,
            epoch,
            snapshot: Box::new(snapshot.clone()),
        });
        self.apply_snapshot(origin, (map, dead, epoch), snapshot);
        Ok(Answer::Created { object })
    }

    pub(crate) fn apply_snapshot(
        &mut self,
        origin: u64,
        new: (u64, u64, u64),
        mut snapshot: ObjectRecord,
    ) {
        let (map, dead, epoch) = new;
        let Some(replica) = self.objects.get_mut(&origin) else {
            return;
        };
        let old = &mut replica.record;
        snapshot.base = self.maps.get(&old.map).map_or(0, |info| info.base);
        // What replay dropped of the replica is not in the snapshot either.
        snapshot.mapped = old.mapped;
        snapshot.previous = old.previous;
        snapshot.previous_epoch = old.previous_epoch;
        snapshot.map_root = old.map_root.take();
        snapshot.dead_root = old.dead_root.take();
        old.base = old.map;
        old.map = map;
        old.dead = dead;
        old.previous = snapshot.id;
        old.previous_epoch = snapshot.epoch;
        if old.is_thick {
            old.reserved = old.size;
        }
        let base = old.base;
        self.dirty_objects.insert(replica.slot);
        self.maps.insert(map, MapInfo { root: None, base });
        self.maps.insert(dead, MapInfo::default());
        self.epoch = self.epoch.max(epoch);
        self.object_next = self.object_next.max(snapshot.id + 1);
        self.map_next = self.map_next.max(map.max(dead) + 1);
        self.insert_object(snapshot);
    }

    fn resize(&mut self, op: &mut Op, object: u64, size: u64) -> Result<Answer, Stop> {
        self.check_range(object, 0, 1)?;
        let old = self.objects[&object].record.size;
        if size == 0 || size > 1 << 48 {
            return Err(PoolError::Invalid.into());
        }
        if size < old {
            self.unmap_range(op, object, (size, old))?;
        }
        let more = size.saturating_sub(old);
        if self.is_thick(object) && more > 0 && !self.can_reserve(more, more) {
            return Err(PoolError::NoSpace.into());
        }
        let record = &self.objects[&object].record;
        let reserved = resized_reserve(record, size);
        self.journal.push(&Record::Resize {
            object,
            size,
            reserved,
        });
        self.apply_resize(object, size);
        Ok(Answer::Done)
    }

    /// The reserve follows from what has happened: of what a record says it was, replay may have dropped a part.
    pub(crate) fn apply_resize(&mut self, object: u64, size: u64) {
        if let Some(object) = self.objects.get_mut(&object) {
            object.record.reserved = resized_reserve(&object.record, size);
            object.record.size = size;
            self.dirty_objects.insert(object.slot);
        }
        self.recount_reserve();
    }

    fn successors(&self, object: u64) -> Vec<u64> {
        let after = self
            .objects
            .values()
            .filter(|other| other.record.previous == object);
        after.map(|other| other.record.id).collect()
    }

    fn delete(&mut self, object: u64) -> Result<Answer, PoolError> {
        let record = &self
            .objects
            .get(&object)
            .ok_or(PoolError::NoSuchObject)?
            .record;
        if record.state != ObjectState::Live {
            return Err(PoolError::NoSuchObject);
        }
        let state = if self.can_be_deleted(object) {
            ObjectState::Deleting
        } else {
            ObjectState::Discarded
        };
        let state = Some(state);
        self.journal.push(&Record::State { object, state });
        self.apply_state(object, state);
        Ok(Answer::Done)
    }

    pub(crate) fn apply_state(&mut self, id: u64, state: Option<ObjectState>) {
        let heirs = self.successors(id);
        let Some(object) = self.objects.get_mut(&id) else {
            return;
        };
        self.dirty_objects.insert(object.slot);
        let (previous, previous_epoch) = (object.record.previous, object.record.previous_epoch);
        match state {
            Some(state) => {
                object.record.state = state;
                object.cursor = 0;
                object.delete_after =
                    self.root.checkpoint + 1 + u64::from(self.checkpoint.is_some());
                if state == ObjectState::Deleting {
                    // What the heir alone still uses is its own from here on, to be overwritten once this is durable.
                    let (sequence, durable) = (self.journal.next, self.journal.durable);
                    self.relink(&heirs, |heir| {
                        let (until, epoch) = heir.shared_until;
                        let held = if until > durable { epoch } else { 0 };
                        heir.shared_until = (sequence, held.max(heir.record.previous_epoch));
                        heir.record.previous_epoch = previous_epoch;
                        if heir.record.is_thick && previous_epoch == 0 {
                            // With no snapshot before it every block of its map is its own again.
                            let record = &mut heir.record;
                            record.reserved = record.size.saturating_sub(record.mapped);
                        }
                    });
                }
            }
            None => {
                let (map, dead) = (object.record.map, object.record.dead);
                self.objects.remove(&id);
                self.maps.remove(&map);
                self.maps.remove(&dead);
                self.relink(&heirs, |heir| heir.record.previous = previous);
            }
        }
        self.recount_reserve();
    }

    fn relink(&mut self, heirs: &[u64], change: impl Fn(&mut Object)) {
        for heir in heirs {
            if let Some(heir) = self.objects.get_mut(heir) {
                change(heir);
                self.dirty_objects.insert(heir.slot);
            }
        }
    }

    /// Whether a deletion is going on.
    pub(crate) fn is_deleting(&self) -> bool {
        self.next_deletion().is_some()
    }

    fn is_being_deleted(&self, id: u64) -> bool {
        self.objects
            .get(&id)
            .is_some_and(|object| object.record.state == ObjectState::Deleting)
    }

    /// At most one object comes after it, and that is not going itself: a heir on its way out keeps no list of what it lets go.
    fn can_be_deleted(&self, id: u64) -> bool {
        let heirs = self.successors(id);
        heirs.len() <= 1 && !heirs.iter().any(|heir| self.is_being_deleted(*heir))
    }

    fn next_deletion(&self) -> Option<u64> {
        if self.going == 0 {
            return None;
        }
        let mut objects = self.objects.values();
        let is_next = |object: &&Object| match object.record.state {
            ObjectState::Live => false,
            // Its list is still being added to while what comes before it goes.
            ObjectState::Deleting => !self.is_being_deleted(object.record.previous),
            ObjectState::Discarded => self.can_be_deleted(object.record.id),
        };
        objects.find(is_next).map(|object| object.record.id)
    }

    /// Takes a deletion one step further.
    pub(crate) fn step_delete(&mut self) {
        let Some(id) = self.next_deletion() else {
            return;
        };
        let object = &self.objects[&id];
        if object.record.state == ObjectState::Discarded {
            if self.has_step_room() {
                let state = Some(ObjectState::Deleting);
                self.journal.push(&Record::State { object: id, state });
                self.apply_state(id, state);
            }
            return;
        }
        if self.root.checkpoint < object.delete_after {
            self.wants_checkpoint = true;
            return;
        }
        if !self.has_step_room() {
            return;
        }
        // A node or bitmap to wait for comes with a completion, and that leads here again.
        let _ = match self.successors(id).first().copied() {
            Some(heir) => self.delete_between(id, heir),
            None => self.delete_last(id),
        };
    }

    fn has_step_room(&mut self) -> bool {
        let has_room = self.journal.has_room(OBJECT_BLOCKS);
        self.wants_checkpoint |= !has_room;
        has_room
    }

    /// The object that nothing comes after: its own blocks are freed, the others belong to older snapshots.
    fn delete_last(&mut self, id: u64) -> Result<(), Stop> {
        let record = self.objects[&id].record.clone();
        let at = self.objects[&id].cursor;
        if at < record.size {
            let mut moved = Vec::new();
            let mut end = at;
            while end < record.size && moved.len() < MOVED_MAX {
                let (len, value, _) = self.find(record.map, end, record.size - end)?;
                if let Some(placed) = value {
                    let mut extent = self.moved_out((end, len), placed, record.previous_epoch);
                    if extent.class == MovedClass::Dead {
                        extent.class = MovedClass::Kept;
                    }
                    moved.push(extent);
                }
                end += len;
            }
            if !moved.is_empty() {
                let count = end - at;
                let change = Record::Unmap {
                    map: record.map,
                    block: at,
                    count,
                    moved: moved.clone(),
                };
                let sequence = self.journal.push(&change);
                self.active.insert(record.map, at, count, None, sequence);
                self.displace(record.dead, &moved, sequence);
            }
            self.set_cursor(id, end);
            return Ok(());
        }
        let end = self.address_end();
        let start = at - record.size;
        let next = self.walk_dead(record.dead, start, end, |_| Some((0, MovedClass::Kept)))?;
        self.set_cursor(id, record.size + next);
        if next >= end {
            self.finish_delete(id, true);
        }
        Ok(())
    }

    /// A snapshot between others: what only it used is in its heir's dead list, born after the snapshot before it.
    fn delete_between(&mut self, id: u64, heir: u64) -> Result<(), Stop> {
        let record = self.objects[&id].record.clone();
        let at = self.objects[&id].cursor;
        let end = self.address_end();
        let heir_dead = self.objects[&heir].record.dead;
        if at < end {
            let own_after = record.previous_epoch;
            let next = self.walk_dead(heir_dead, at, end, |birth| {
                (birth > own_after).then_some((0, MovedClass::Free))
            })?;
            self.set_cursor(id, next);
            return Ok(());
        }
        let next = self.walk_dead(record.dead, at - end, end, |_| {
            Some((heir_dead, MovedClass::Dead))
        })?;
        self.set_cursor(id, end + next);
        if next >= end {
            self.finish_delete(id, false);
        }
        Ok(())
    }

    /// When the trees are empty the object goes; else a checkpoint has to empty them, and what it added is looked at again.
    fn finish_delete(&mut self, id: u64, with_map: bool) {
        let record = &self.objects[&id].record;
        let is_empty = |list: u64| {
            let info = self.maps.get(&list).copied().unwrap_or_default();
            info.root.is_none()
                && info.base == 0
                && !self.active.has(list)
                && !self.frozen.has(list)
        };
        if is_empty(record.dead) && (!with_map || is_empty(record.map)) {
            let state = None;
            self.journal.push(&Record::State { object: id, state });
            self.apply_state(id, state);
            return;
        }
        let after = self.root.checkpoint + 1 + u64::from(self.checkpoint.is_some());
        if let Some(object) = self.objects.get_mut(&id) {
            object.cursor = 0;
            object.delete_after = after;
        }
        self.wants_checkpoint = true;
    }

    fn set_cursor(&mut self, id: u64, cursor: u64) {
        if let Some(object) = self.objects.get_mut(&id) {
            object.cursor = cursor;
        }
    }

    fn address_end(&self) -> u64 {
        self.space.slabs.len() as u64 * u64::from(self.space.geometry.slab_blocks)
    }

    /// Looks at some extents of a dead list from `start` on, and moves those that `choose` wants, by birth. Answers how far it came.
    fn walk_dead(
        &mut self,
        list: u64,
        start: u64,
        end: u64,
        choose: impl Fn(u64) -> Option<(u64, MovedClass)>,
    ) -> Result<u64, Stop> {
        let mut at = start;
        let mut seen = 0;
        while at < end && seen < DELETE_STEP {
            let (len, value, _) = self.find(list, at, end - at)?;
            if let Some((address, birth)) = value {
                seen += 1;
                if let Some((to, class)) = choose(birth) {
                    let count = len;
                    let sequence = self.journal.push(&Record::Dead {
                        from: list,
                        to,
                        address,
                        count,
                        birth,
                        class,
                    });
                    self.apply_dead((list, to), (address, count, birth), class, sequence);
                }
            }
            at += len;
        }
        Ok(at)
    }

    pub(crate) fn apply_dead(
        &mut self,
        (from, to): (u64, u64),
        extent: (u64, u64, u64),
        class: MovedClass,
        sequence: u64,
    ) {
        let (address, count, birth) = extent;
        self.active.insert(from, address, count, None, sequence);
        match class {
            MovedClass::Free => {
                self.space.record(address, count as u32, false);
                self.space.hold(crate::space::Held {
                    address,
                    len: count as u32,
                    sequence,
                    stamp: self.op_next - 1,
                });
            }
            MovedClass::Dead => {
                self.active
                    .insert(to, address, count, Some((address, birth)), sequence)
            }
            MovedClass::Kept => {}
        }
    }
}

/// What is reserved at another size: what was cut off is unmapped by then, and so all of it was.
fn resized_reserve(record: &ObjectRecord, size: u64) -> u64 {
    if !record.is_thick {
        return 0;
    }
    let more = size.saturating_sub(record.size);
    let less = record.size.saturating_sub(size);
    (record.reserved.saturating_add(more))
        .saturating_sub(less)
        .min(size)
}
