//! Disks that leave a pool: marked, emptied slab by slab, removed; or taken back (`docs/disk-format.md` §5, §6 cases 28 and 29).
//!
//! A state of a disk counts with the root that says it. Chunks of a disk that leaves are of kind 6, so that nothing is placed there; roots and
//! journal go to other disks with the same root. How slabs get off it is in `relocate.rs`.
//!
//! Invariant: a disk is removed by a root that names nothing on it.

use pool_format::{BLOCK, DiskState, SlabKind, SlabRecord};

use crate::api::{Answer, PoolError, Source};
use crate::device::{MISSING, Purpose};
use crate::grow::Room;
use crate::pool::{Op, Pool, Stop, Wait};

impl Pool {
    pub(crate) fn is_in_service(&self, disk: u16) -> bool {
        self.states.get(usize::from(disk)) == Some(&DiskState::InService)
    }

    /// Slabs that hold something, on a disk.
    pub(crate) fn slabs_on(&self, disk: u16) -> usize {
        let is_used = |slab: &&SlabRecord| !matches!(slab.kind, SlabKind::Free | SlabKind::Leaving);
        let here = self.space.slabs.iter().filter(|slab| slab.disk == disk);
        here.filter(is_used).count()
    }

    /// What an earlier life of the pool set aside to move a slab to, or left of a disk that was taken back, is free.
    pub(crate) fn free_what_was_left(&mut self) {
        for slab in 0..self.space.slabs.len() as u32 {
            let record = self.space.slabs[slab as usize];
            if record.kind == SlabKind::Leaving && self.is_in_service(record.disk) {
                self.set_free(slab);
            }
        }
        self.recount_moves();
    }

    /// Disks for roots or journal: those that are, as long as they are in service, on two disks when there are two.
    pub(crate) fn metadata_disks(&self, at_present: [u16; 2], room: Option<&Room>) -> [u16; 2] {
        let states = self.states.iter().enumerate();
        let mut in_service: Vec<u16> = states
            .filter(|(_, state)| **state == DiskState::InService)
            .map(|(disk, _)| disk as u16)
            .collect();
        let added = room.map(|room| room.disk as u16);
        in_service.extend(added.filter(|disk| usize::from(*disk) == self.states.len()));
        let mut disks = at_present;
        for copy in 0..2 {
            let other = disks[1 - copy];
            let is_well = in_service.contains(&disks[copy]);
            if is_well && (copy == 0 || disks[copy] != other) {
                continue;
            }
            let another = in_service.iter().find(|disk| **disk != other);
            disks[copy] = match (another, in_service.first()) {
                (Some(disk), _) => *disk,
                (None, Some(only)) if !is_well => *only,
                (None, _) => disks[copy],
            };
        }
        disks
    }

    /// Waits until a root is durable that was begun after this was first asked.
    fn await_root(&mut self, op: &mut Op) -> Result<(), Stop> {
        let next = self.root.checkpoint + 1 + u64::from(self.checkpoint.is_some());
        let wanted = *op.checkpoint.get_or_insert(next);
        if self.root.checkpoint >= wanted {
            return Ok(());
        }
        let begun = self.checkpoint.as_ref().map(|checkpoint| checkpoint.number);
        self.wants_checkpoint |= begun.is_none_or(|begun| begun < wanted);
        Err(Wait::Checkpoint.into())
    }

    /// Marks the disk, then moves the next slab off it.
    pub(crate) fn evacuate(&mut self, op: &mut Op, disk: u16) -> Result<Answer, Stop> {
        let left = |pool: &Self| Answer::Moved {
            left: pool.slabs_on(disk) as u32,
        };
        if self.has_job() {
            self.step_job()?;
            return Ok(left(self));
        }
        match self.states.get(usize::from(disk)) {
            Some(DiskState::InService) => self.mark_leaving(disk)?,
            Some(DiskState::Leaving) => {}
            Some(DiskState::Gone) | None => return Err(PoolError::Invalid.into()),
        }
        if self.root.disks[usize::from(disk)].state != DiskState::Leaving || op.checkpoint.is_some()
        {
            self.await_root(op)?;
        }
        let Some(slab) = self.next_to_move(disk) else {
            return Ok(left(self));
        };
        self.begin_job(slab)?;
        self.step_job()?;
        Ok(left(self))
    }

    /// The next slab on the disk; those with unreadable blocks come last.
    fn next_to_move(&mut self, disk: u16) -> Option<u32> {
        let mut next = None;
        for (slab, record) in self.space.slabs.iter().enumerate() {
            let slab = slab as u32;
            if record.disk != disk || matches!(record.kind, SlabKind::Free | SlabKind::Leaving) {
                continue;
            }
            if !self.unmovable.contains(&slab) {
                return Some(slab);
            }
            next = next.or(Some(slab));
        }
        // What was written since may be readable.
        self.unmovable.clear();
        next
    }

    /// # Errors
    /// `NoRoom` when what lies on the disk does not fit elsewhere beside all that is promised; `Invalid` for the last disk.
    fn mark_leaving(&mut self, disk: u16) -> Result<(), Stop> {
        let others = |slab: &&SlabRecord| slab.disk != disk && slab.kind == SlabKind::Free;
        let free = self.space.slabs.iter().filter(others).count();
        let disks = (0..self.states.len() as u16).filter(|disk| self.is_in_service(*disk));
        if disks.count() < 2 {
            return Err(PoolError::Invalid.into());
        }
        let needed = self.slabs_on(disk);
        let free = free.saturating_sub(self.promised_slabs());
        if needed > free {
            return Err(self.no_room(needed, free));
        }
        self.states[usize::from(disk)] = DiskState::Leaving;
        for slab in 0..self.space.slabs.len() as u32 {
            let record = self.space.slabs[slab as usize];
            if record.disk == disk && record.kind == SlabKind::Free {
                let kind = SlabKind::Leaving;
                self.space.set_slab(slab, SlabRecord { kind, ..record });
            }
        }
        self.recount_moves();
        let home = self.emptiest_disk();
        for object in self.objects.values_mut() {
            if object.record.home == disk {
                object.record.home = home;
                self.dirty_objects.insert(object.slot);
            }
        }
        Ok(())
    }

    pub(crate) fn keep_disk(&mut self, op: &mut Op, disk: u16) -> Result<Answer, Stop> {
        match self.states.get(usize::from(disk)) {
            Some(DiskState::Leaving) => self.states[usize::from(disk)] = DiskState::InService,
            Some(DiskState::InService) if op.checkpoint.is_some() => {}
            Some(DiskState::InService) => return Ok(Answer::Done),
            Some(DiskState::Gone) | None => return Err(PoolError::Invalid.into()),
        }
        self.await_root(op)?;
        self.free_what_was_left();
        Ok(Answer::Done)
    }

    pub(crate) fn remove_disk(&mut self, op: &mut Op, disk: u16) -> Result<Answer, Stop> {
        let index = usize::from(disk);
        match self.states.get(index) {
            Some(DiskState::Leaving) => {
                let left = self.slabs_on(disk);
                let is_named =
                    self.root.root_disks.contains(&disk) || self.root.journal_disks.contains(&disk);
                if left > 0 || is_named {
                    return Err(PoolError::DiskInUse(left as u32).into());
                }
                self.states[index] = DiskState::Gone;
            }
            Some(DiskState::Gone) if op.checkpoint.is_some() => {}
            Some(DiskState::InService) => {
                return Err(PoolError::DiskInUse(self.slabs_on(disk) as u32).into());
            }
            Some(DiskState::Gone) | None => return Err(PoolError::Invalid.into()),
        }
        self.await_root(op)?;
        if self.devices.is_pending_on(index) {
            return Err(Wait::Own.into());
        }
        // Labels, so that nobody takes it for a member; then a flush of them.
        let blocks = self.root.disks[index].blocks;
        op.cursor += 1;
        match op.cursor {
            1 => {
                for block in [0, blocks - 1] {
                    let bytes = Source::Core(vec![0; BLOCK]);
                    self.devices.write((index, block), bytes, Purpose::Wipe);
                }
                Err(Wait::Own.into())
            }
            2 => {
                self.devices.flush_apart(index, Purpose::Wipe);
                Err(Wait::Own.into())
            }
            _ => {
                self.devices.order[index] = MISSING;
                self.devices.is_dirty[index] = false;
                Ok(Answer::Done)
            }
        }
    }
}
