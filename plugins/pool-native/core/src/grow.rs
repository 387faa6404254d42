//! More room: a disk is added, or one has become larger (`docs/disk-format.md` §5, §6 cases 25 and 27).
//!
//! What the new room needs before anything may point there is written and flushed first: on a new disk empty root slots, then labels; on one that
//! grew an empty root area and the label at the new end. Then a checkpoint whose root names it. Its slabs are free from there on.
//!
//! Invariant: until that root is durable nothing is placed in the new room, and nothing of the old end is overwritten.

use pool_format::{
    Area, BLOCK, DirectoryEntry, DiskEntry, DiskState, Label, Root, SLABS_PER_PAGE, SlabKind,
    SlabRecord, TableSlab,
};

use crate::api::{Answer, DoneResult, HostOp, NewDisk, PoolError, Source};
use crate::device::Purpose;
use crate::pool::{Pool, Stop, Wait};
use crate::tables::free_slab;

/// Disks of a pool.
pub(crate) const DISKS_MAX: usize = 64;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Step {
    /// Emptying root slots.
    Wipe,
    /// Writing labels that the old root does not contradict.
    Labels,
    /// Waiting for a root that names the new room.
    Checkpoint,
    /// Writing the label that was left as it was.
    Last,
}

/// What a checkpoint adds.
#[derive(Clone, Debug)]
pub(crate) struct Room {
    pub(crate) disk: usize,
    pub(crate) entry: DiskEntry,
    pub(crate) slabs: Vec<SlabRecord>,
}

/// A growth in progress.
pub(crate) struct Growth {
    op: u64,
    step: Step,
    outstanding: usize,
    is_flushing: bool,
    has_failed: bool,
    label: Label,
    is_new: bool,
    pub(crate) room: Room,
    /// The checkpoint that contains it, once one has begun.
    checkpoint: Option<u64>,
}

impl Pool {
    pub(crate) fn step_growth(&mut self, id: u64, host: &HostOp) -> Result<Answer, Stop> {
        match &self.growth {
            Some(growth) if growth.op != id => return Err(PoolError::Busy.into()),
            Some(_) => {}
            None if self.relocation.is_some() => return Err(PoolError::Busy.into()),
            None => {
                let growth = match host {
                    HostOp::AddDisk(disk) => self.plan_add(id, disk)?,
                    HostOp::GrowDisk { disk, blocks } => self.plan_grow(id, *disk, *blocks)?,
                    _ => return Err(PoolError::Invalid.into()),
                };
                self.growth = Some(growth);
                self.wipe();
            }
        }
        self.go_on_growing()
    }

    fn plan_add(&mut self, op: u64, disk: &NewDisk) -> Result<Growth, PoolError> {
        let geometry = self.space.geometry;
        let is_known = self.root.disks.iter().any(|known| known.uuid == disk.uuid)
            || self.devices.order.contains(&disk.position);
        let first = self.labels.first().ok_or(PoolError::Invalid)?.clone();
        if is_known || disk.blocks < geometry.blocks_min() || disk.blocks > 1 << 48 {
            return Err(PoolError::Invalid);
        }
        let index = self.root.disks.len();
        let room = Room {
            disk: index,
            entry: DiskEntry {
                uuid: disk.uuid,
                blocks: disk.blocks,
                state: DiskState::InService,
            },
            slabs: (0..geometry.chunks(disk.blocks))
                .map(|chunk| free_slab(index as u16, chunk))
                .collect(),
        };
        self.check_fits(&room)?;
        self.devices.order.push(disk.position);
        self.devices.is_dirty.push(false);
        let label = Label {
            disk: disk.uuid,
            index: index as u16,
            atomic_unit: disk.atomic_unit,
            disk_blocks: disk.blocks,
            sequence: 1,
            ..first
        };
        Ok(Growth::new(op, label, true, room))
    }

    fn plan_grow(&mut self, op: u64, disk: u16, blocks: u64) -> Result<Growth, PoolError> {
        let geometry = self.space.geometry;
        let index = usize::from(disk);
        let label = self.labels.get(index).ok_or(PoolError::Invalid)?.clone();
        let entry = self.root.disks[index];
        let (old, new) = (geometry.chunks(entry.blocks), geometry.chunks(blocks));
        let is_out = self.is_missing(index) || !self.is_in_service(disk);
        if blocks <= entry.blocks || blocks > 1 << 48 || is_out {
            return Err(PoolError::Invalid);
        }
        let room = Room {
            disk: index,
            entry: DiskEntry { blocks, ..entry },
            slabs: (old..new).map(|chunk| free_slab(disk, chunk)).collect(),
        };
        // What is written at the new end before the new root is durable must not touch the old end.
        if blocks - entry.blocks < 2 * u64::from(geometry.root_blocks) + 1 {
            return Err(PoolError::Invalid);
        }
        self.check_fits(&room)?;
        let label = Label {
            disk_blocks: blocks,
            sequence: label.sequence + 1,
            ..label
        };
        Ok(Growth::new(op, label, false, room))
    }

    /// The root has to hold it, with all pages.
    fn check_fits(&self, room: &Room) -> Result<(), PoolError> {
        let slabs = self.space.slabs.len() + room.slabs.len();
        let pages = slabs.div_ceil(SLABS_PER_PAGE) + self.root.object_pages.len();
        let root = Root {
            slab_pages: vec![DirectoryEntry::default(); pages],
            open_regions: vec![0; self.limits.regions_open_max],
            ..self.root.clone()
        };
        let is_too_much =
            root.emitted_len() + 4 * BLOCK / 16 > self.space.geometry.root_blocks as usize * BLOCK;
        if is_too_much || room.disk >= DISKS_MAX || u32::try_from(slabs).is_err() {
            return Err(PoolError::Invalid);
        }
        Ok(())
    }

    fn write_grown(&mut self, block: u64, bytes: Vec<u8>) {
        if let Some(growth) = &mut self.growth {
            growth.outstanding += 1;
            let place = (growth.room.disk, block);
            self.devices
                .write(place, Source::Core(bytes), Purpose::Grow);
        }
    }

    /// No root of an earlier life is to be found there.
    fn wipe(&mut self) {
        let Some(growth) = &self.growth else { return };
        let (blocks, is_new) = (growth.room.entry.blocks, growth.is_new);
        let mut places = Vec::new();
        for slot in 0..2 {
            if is_new {
                places.push(self.space.geometry.root_slot(blocks, Area::Front, slot));
            }
            places.push(self.space.geometry.root_slot(blocks, Area::Back, slot));
        }
        for block in places {
            self.write_grown(block, vec![0; BLOCK]);
        }
    }

    fn write_labels(&mut self, copies: &[u8]) {
        let Some(growth) = &self.growth else { return };
        let label = growth.label.clone();
        for copy in copies {
            let block = if *copy == 0 { 0 } else { label.disk_blocks - 1 };
            self.write_grown(block, label.emit(*copy));
        }
    }

    pub(crate) fn handle_grown(&mut self, result: DoneResult) {
        if let Some(growth) = &mut self.growth {
            growth.outstanding -= 1;
            growth.has_failed |= result.is_err();
            let (op, is_new) = (growth.op, growth.is_new);
            if result.is_err() && !is_new {
                // What else a failed flush of a member lost nobody knows.
                self.fault();
            }
            self.resume(op);
        }
    }

    /// Each step is written, then flushed, before the next.
    fn go_on_growing(&mut self) -> Result<Answer, Stop> {
        loop {
            let Some(growth) = &mut self.growth else {
                return Err(PoolError::Device.into());
            };
            if growth.outstanding > 0 {
                return Err(Wait::Own.into());
            }
            if growth.has_failed {
                return Err(self.give_up_growing());
            }
            if growth.step != Step::Checkpoint && !growth.is_flushing {
                growth.is_flushing = true;
                growth.outstanding += 1;
                let disk = growth.room.disk;
                self.devices.flush_apart(disk, Purpose::Grow);
                return Err(Wait::Own.into());
            }
            growth.is_flushing = false;
            match growth.step {
                Step::Wipe => {
                    growth.step = Step::Labels;
                    let copies: &[u8] = if growth.is_new { &[0, 1] } else { &[1] };
                    self.write_labels(copies);
                }
                Step::Labels => growth.step = Step::Checkpoint,
                Step::Checkpoint => {
                    if growth.checkpoint.is_none_or(|at| self.root.checkpoint < at) {
                        self.wants_checkpoint = true;
                        return Err(Wait::Checkpoint.into());
                    }
                    growth.step = Step::Last;
                    let label = growth.label.clone();
                    let is_new = growth.is_new;
                    self.keep_label(label);
                    if !is_new {
                        self.write_labels(&[0]);
                    }
                }
                Step::Last => {
                    self.growth = None;
                    return Ok(Answer::Done);
                }
            }
        }
    }

    fn keep_label(&mut self, label: Label) {
        match self.labels.get_mut(usize::from(label.index)) {
            Some(known) => *known = label,
            None => self.labels.push(label),
        }
    }

    /// A write failed. Before the root named the room it is as if nothing had been asked for; after, only a label is old.
    fn give_up_growing(&mut self) -> Stop {
        if let Some(growth) = self.growth.take()
            && growth.is_new
            && growth.step != Step::Last
        {
            self.devices.order.pop();
            self.devices.is_dirty.pop();
        }
        PoolError::Device.into()
    }

    /// Disks a flush has to cover: those of the pool, and one whose root is being written.
    pub(crate) fn disks_in_use(&self) -> usize {
        let members = self.root.disks.len();
        match &self.growth {
            Some(growth) if growth.checkpoint.is_some() => members.max(growth.room.disk + 1),
            Some(_) | None => members,
        }
    }

    /// What a checkpoint that begins at this moment adds.
    pub(crate) fn room_to_add(&mut self, checkpoint: u64) -> Option<Room> {
        let growth = self.growth.as_mut()?;
        if growth.step != Step::Checkpoint || growth.checkpoint.is_some() {
            return None;
        }
        growth.checkpoint = Some(checkpoint);
        Some(growth.room.clone())
    }

    /// The root that names the room.
    pub(crate) fn add_to_root(&mut self, root: &mut Root, room: &Room) {
        match root.disks.get_mut(room.disk) {
            Some(entry) => *entry = room.entry,
            None => root.disks.push(room.entry),
        }
        root.slabs += room.slabs.len() as u32;
    }

    /// The root is durable.
    pub(crate) fn take_room(&mut self, room: Room) {
        self.space.append(room.slabs);
        if room.disk == self.states.len() {
            self.states.push(room.entry.state);
        }
        // The journal's second copy may have moved: another checkpoint leaves nothing behind it that lies in one copy only.
        self.wants_checkpoint = true;
        self.wake(Wait::Space);
    }

    /// Has room for `pages` in the table space, with as many again for the next checkpoint; takes free slabs for it.
    pub(crate) fn ensure_table_room(&mut self, tables: &mut Vec<TableSlab>, pages: usize) -> bool {
        let per_slab = self.space.geometry.slab_blocks as usize;
        while tables.len() * per_slab < 2 * pages + 2 {
            let Some((slab, twin)) = self.free_pair() else {
                return tables.len() * per_slab > pages;
            };
            self.pair_up((slab, SlabKind::Table), (twin, SlabKind::TableTwin));
            let (a, b) = (self.space.slabs[slab], self.space.slabs[twin]);
            tables.push(TableSlab {
                disk: [a.disk, b.disk],
                chunk: [a.chunk, b.chunk],
                slab: slab as u32,
            });
        }
        true
    }
}

impl Growth {
    fn new(op: u64, label: Label, is_new: bool, room: Room) -> Self {
        Self {
            op,
            step: Step::Wipe,
            outstanding: 0,
            is_flushing: false,
            has_failed: false,
            label,
            is_new,
            room,
            checkpoint: None,
        }
    }
}
