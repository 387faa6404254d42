//! Slabs moved to another place while they are used: off a disk that leaves, or second copies to a second disk (`docs/disk-format.md` §5, §6 case 24).
//!
//! Decides what is moved where, and when it counts. A slab is copied run by run; what is alike in both places is written in both; when all of it is, the
//! next checkpoint's root names the new place. Until that root is durable the old place is whole, from then on the new one.
//! Which writes go to both is [`crate::moving`]'s to say. Disks that leave and are removed are in `leave.rs`. One slab is on its way at a time.
//!
//! Invariants: a slab that others are moved to is of kind 6 until nothing is in flight to the place it gets; a block in use that cannot be read is
//! never moved.

use pool_format::{BLOCK, DiskState, SlabKind, SlabRecord, TableSlab};

use crate::api::{Answer, Done, DoneResult, HostOp, Leaving, Mutation, PoolError, Source, Target};
use crate::device::Purpose;
use crate::moving::RUN_BLOCKS;
use crate::pool::{Op, Pool, Stop, Wait};

/// Two slabs that change places.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Exchange {
    slab: u32,
    target: u32,
    from: (u16, u32),
    to: (u16, u32),
}

impl Exchange {
    pub(crate) fn slabs(&self) -> impl Iterator<Item = u32> {
        [self.slab, self.target].into_iter()
    }

    /// The record of a slab as the checkpoint that exchanges them has it.
    pub(crate) fn record(&self, slab: u32, record: SlabRecord) -> SlabRecord {
        let place = match slab {
            _ if slab == self.slab => self.to,
            _ if slab == self.target => self.from,
            _ => (record.disk, record.chunk),
        };
        SlabRecord {
            disk: place.0,
            chunk: place.1,
            ..record
        }
    }

    /// The table space as that checkpoint's root has it.
    pub(crate) fn apply(&self, tables: &mut [TableSlab]) {
        for table in tables {
            for copy in 0..2 {
                if (table.disk[copy], table.chunk[copy]) == self.from {
                    (table.disk[copy], table.chunk[copy]) = self.to;
                }
            }
        }
    }
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Step {
    /// Copying runs.
    Copy,
    /// Waiting for the root that names the new place.
    Exchange,
    /// Waiting for what is in flight to the old place.
    Drain,
    /// Given up: waiting for what is in flight to the new place.
    Drop(PoolError),
}

/// What is being done with the run at the cursor.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Phase {
    Reading,
    /// The other copy of metadata, because this one cannot be read.
    ReadingTwin,
    Writing,
}

/// A slab on its way.
struct Job {
    slab: u32,
    exchange: Exchange,
    step: Step,
    phase: Phase,
    done: Option<DoneResult>,
    /// Runs before this block are read one block at a time: a read failed.
    single_until: u64,
    /// The checkpoint that makes the exchange.
    checkpoint: Option<u64>,
}

/// An operation that moves slabs, or changes the state of a disk.
pub(crate) struct Relocation {
    pub(crate) op: u64,
    job: Option<Job>,
}

impl Pool {
    pub(crate) fn step_relocation(&mut self, id: u64, op: &mut Op) -> Result<Answer, Stop> {
        match &self.relocation {
            Some(relocation) if relocation.op != id => return Err(PoolError::Busy.into()),
            None if self.growth.is_some() => return Err(PoolError::Busy.into()),
            Some(_) => {}
            None => self.relocation = Some(Relocation { op: id, job: None }),
        }
        let result = match op.host.clone() {
            HostOp::Evacuate { disk } => self.evacuate(op, disk),
            HostOp::KeepDisk { disk } => self.keep_disk(op, disk),
            HostOp::RemoveDisk { disk } => self.remove_disk(op, disk),
            HostOp::Double => self.double(),
            HostOp::Read { .. }
            | HostOp::Write { .. }
            | HostOp::WritePart { .. }
            | HostOp::Unmap { .. }
            | HostOp::Flush
            | HostOp::Create { .. }
            | HostOp::Snapshot { .. }
            | HostOp::Clone { .. }
            | HostOp::Delete { .. }
            | HostOp::Resize { .. }
            | HostOp::Checkpoint
            | HostOp::Seal
            | HostOp::Extent { .. }
            | HostOp::Scrub { .. }
            | HostOp::AddDisk(_)
            | HostOp::GrowDisk { .. }
            | HostOp::Release => Err(PoolError::Invalid.into()),
        };
        if !matches!(result, Err(Stop::Wait(_))) {
            self.relocation = None;
        }
        result
    }

    /// Disks on their way out, and how far that is.
    pub fn leaving(&self) -> Vec<Leaving> {
        let leaving = self.root.disks.iter().enumerate();
        let leaving = leaving.filter(|(_, entry)| entry.state == DiskState::Leaving);
        leaving
            .map(|(disk, _)| {
                let moving = self.devices.moving.as_ref();
                let moving = moving.filter(|moving| moving.from.0 == disk);
                Leaving {
                    disk: disk as u16,
                    slabs: self.slabs_on(disk as u16) as u32,
                    copied: moving.map_or(0, crate::moving::Moving::cursor),
                }
            })
            .collect()
    }

    /// Metadata slabs of which both copies lie on one disk although there is another in service.
    pub fn undoubled(&self) -> u32 {
        self.undoubled_slabs().count() as u32
    }

    fn undoubled_slabs(&self) -> impl Iterator<Item = u32> {
        let is_alone = (0..self.states.len() as u16)
            .filter(|disk| self.is_in_service(*disk))
            .count()
            < 2;
        let slabs = self.space.slabs.iter().enumerate();
        slabs
            .filter(move |(_, record)| {
                let is_twin = matches!(record.kind, SlabKind::MetaTwin | SlabKind::TableTwin);
                let other = self.space.slabs.get(record.twin as usize);
                !is_alone && is_twin && other.is_some_and(|other| other.disk == record.disk)
            })
            .map(|(slab, _)| slab as u32)
    }

    fn double(&mut self) -> Result<Answer, Stop> {
        if !self.has_job() {
            let Some(slab) = self.undoubled_slabs().next() else {
                return Ok(Answer::Moved { left: 0 });
            };
            self.begin_job(slab)?;
        }
        self.step_job()?;
        let left = self.undoubled();
        Ok(Answer::Moved { left })
    }

    pub(crate) fn has_job(&self) -> bool {
        let relocation = self.relocation.as_ref();
        relocation.is_some_and(|relocation| relocation.job.is_some())
    }

    /// A free slab on another disk: for data the fullest disk that takes all that is left to move, so that what was together stays together; for
    /// metadata one that does not hold its other copy, if there is one.
    fn target_for(&self, slab: u32) -> Option<u32> {
        let record = self.space.slabs[slab as usize];
        let is_data = record.kind == SlabKind::Data;
        let other = self.space.slabs.get(record.twin as usize);
        let other = other.filter(|_| !is_data).map(|other| other.disk);
        let disks = 0..self.states.len() as u16;
        let disks = disks.filter(|disk| self.is_in_service(*disk) && *disk != record.disk);
        let free = |disk: u16| {
            let all = self.space.slabs.iter();
            all.filter(|slab| slab.kind == SlabKind::Free && slab.disk == disk)
                .count()
        };
        let left = self.slabs_on(record.disk);
        let mut choices: Vec<(bool, bool, usize, u16)> = disks
            .map(|disk| {
                let free = free(disk);
                let takes_all = free >= left;
                let rank = if takes_all { free } else { usize::MAX - free };
                (other == Some(disk), !takes_all, rank, disk)
            })
            .filter(|(_, _, rank, _)| *rank != usize::MAX && *rank != 0)
            .collect();
        choices.sort_unstable();
        let (_, _, _, disk) = *choices.first()?;
        let mut all = self.space.slabs.iter();
        let found = all.position(|slab| slab.kind == SlabKind::Free && slab.disk == disk);
        found.map(|slab| slab as u32)
    }

    /// Sets a place aside and begins to copy.
    pub(crate) fn begin_job(&mut self, slab: u32) -> Result<(), Stop> {
        let record = self.space.slabs[slab as usize];
        let primary = match record.kind {
            SlabKind::MetaTwin => record.twin,
            _ => slab,
        };
        let has_bitmap = matches!(
            record.kind,
            SlabKind::Data | SlabKind::Meta | SlabKind::MetaTwin
        );
        if has_bitmap && !self.space.bits.contains_key(&primary) {
            match self.load_bitmap(primary) {
                Wait::Now => {}
                wait => return Err(wait.into()),
            }
        }
        let free = self.space.free_slabs();
        let target = self.target_for(slab);
        let Some(target) = target.filter(|_| free > self.limits.reserve_slabs as usize) else {
            return Err(self.no_room(1, free.saturating_sub(self.limits.reserve_slabs as usize)));
        };
        let to = self.space.slabs[target as usize];
        let kind = SlabKind::Leaving;
        self.space.set_slab(target, SlabRecord { kind, ..to });
        let geometry = self.space.geometry;
        let place = |record: &SlabRecord| (usize::from(record.disk), geometry.chunk(record.chunk));
        let blocks = u64::from(geometry.slab_blocks);
        self.devices.begin_move(place(&record), place(&to), blocks);
        if let Some(moving) = &mut self.devices.moving {
            moving.forgets = self.mutation == Mutation::MoveWithoutMirror;
        }
        let job = Job {
            slab,
            exchange: Exchange {
                slab,
                target,
                from: (record.disk, record.chunk),
                to: (to.disk, to.chunk),
            },
            step: Step::Copy,
            phase: Phase::Reading,
            done: None,
            single_until: 0,
            checkpoint: None,
        };
        if let Some(relocation) = &mut self.relocation {
            relocation.job = Some(job);
        }
        self.recount_moves();
        Ok(())
    }

    pub(crate) fn no_room(&self, slabs: usize, free: usize) -> Stop {
        let blocks = |slabs: usize| slabs as u64 * u64::from(self.space.geometry.slab_blocks);
        let (needed, free) = (blocks(slabs), blocks(free));
        PoolError::NoRoom { needed, free }.into()
    }

    pub(crate) fn recount_moves(&mut self) {
        let leaving = (0..self.states.len() as u16)
            .filter(|disk| self.states[usize::from(*disk)] == DiskState::Leaving);
        let left: usize = leaving.map(|disk| self.slabs_on(disk)).sum();
        let job = self.relocation.as_ref().and_then(|it| it.job.as_ref());
        // One on its way has its place already.
        let on_its_way = job.is_some_and(|job| {
            let disk = self.space.slabs[job.slab as usize].disk;
            self.states[usize::from(disk)] == DiskState::Leaving
        });
        self.moves_left = left - usize::from(on_its_way);
    }

    /// Takes the slab on its way as far as it goes; well when it has arrived.
    pub(crate) fn step_job(&mut self) -> Result<(), Stop> {
        loop {
            let Some(mut job) = self.relocation.as_mut().and_then(|it| it.job.take()) else {
                return Err(PoolError::Faulted.into());
            };
            let result = self.step_of_job(&mut job);
            let is_over = match (&result, job.step) {
                (Ok(true), _) | (Err(Stop::Fail(_)), _) => true,
                (Ok(false) | Err(Stop::Wait(_)), _) => false,
            };
            if !is_over && let Some(relocation) = &mut self.relocation {
                relocation.job = Some(job);
            }
            if is_over {
                self.recount_moves();
                self.wake(Wait::Space);
            }
            if result? {
                return Ok(());
            }
        }
    }

    /// One step; answers whether it was the last.
    fn step_of_job(&mut self, job: &mut Job) -> Result<bool, Stop> {
        let blocks = u64::from(self.space.geometry.slab_blocks);
        let Some(moving) = &self.devices.moving else {
            return self.drain(job);
        };
        let (from, to) = (moving.from, moving.to);
        if moving.has_failed && !moving.is_decided && !matches!(job.step, Step::Drop(_)) {
            job.step = Step::Drop(PoolError::Device);
        }
        match job.step {
            Step::Copy => self.copy(job, from, to),
            Step::Exchange => {
                // The root that names the new place takes `moving` away.
                self.wants_checkpoint |= job.checkpoint.is_none();
                Err(Wait::Checkpoint.into())
            }
            Step::Drain => self.drain(job),
            Step::Drop(error) => {
                if let Some(moving) = &mut self.devices.moving {
                    moving.has_failed = true;
                }
                if self.devices.is_busy_at(to, blocks) {
                    return Err(Wait::Own.into());
                }
                self.devices.moving = None;
                self.set_free(job.exchange.target);
                Err(error.into())
            }
        }
    }

    /// The old place is another slab's by now: it may be used, or taken away with its disk, when nothing is in flight there.
    fn drain(&mut self, job: &mut Job) -> Result<bool, Stop> {
        let (disk, chunk) = job.exchange.from;
        let place = (usize::from(disk), self.space.geometry.chunk(chunk));
        let blocks = u64::from(self.space.geometry.slab_blocks);
        if self.devices.is_busy_at(place, blocks) {
            return Err(Wait::Own.into());
        }
        if self.is_in_service(disk) {
            self.set_free(job.exchange.target);
        }
        Ok(true)
    }

    pub(crate) fn set_free(&mut self, slab: u32) {
        let record = self.space.slabs[slab as usize];
        let kind = SlabKind::Free;
        self.space.set_slab(slab, SlabRecord { kind, ..record });
        self.wake(Wait::Space);
    }

    fn copy(&mut self, job: &mut Job, from: (usize, u64), to: (usize, u64)) -> Result<bool, Stop> {
        if let Some(done) = job.done.take() {
            self.take_copied(job, done, to);
            return Ok(false);
        }
        let Some(moving) = &self.devices.moving else {
            return Ok(false);
        };
        let (cursor, is_running) = (moving.cursor(), moving.run().is_some());
        if is_running {
            return Err(Wait::Own.into());
        }
        let blocks = u64::from(self.space.geometry.slab_blocks);
        let needed = |at: u64| self.is_needed(job.slab, at as u32);
        let start = (cursor..blocks).find(|at| needed(*at)).unwrap_or(blocks);
        let most = if start < job.single_until {
            1
        } else {
            RUN_BLOCKS
        };
        let count = (start..blocks.min(start + most))
            .take_while(|at| needed(*at))
            .count() as u64;
        let is_half = self.mutation == Mutation::ExchangeHalfCopied && start > blocks / 2;
        let Some(moving) = &mut self.devices.moving else {
            return Ok(false);
        };
        moving.skip_to(if is_half { blocks } else { start });
        if moving.is_alike() {
            job.step = Step::Exchange;
            return Ok(false);
        }
        if !moving.begin_run(count) {
            return Err(Wait::Own.into());
        }
        job.phase = Phase::Reading;
        let place = (from.0, from.1 + start);
        self.devices
            .read(place, count as u32, Target::Core, Purpose::Copy);
        Err(Wait::Own.into())
    }

    /// Whether a block of a slab has to be copied. A block of data that is not in use need not: who takes it writes it, in both places.
    fn is_needed(&self, slab: u32, at: u32) -> bool {
        let record = self.space.slabs[slab as usize];
        let geometry = &self.space.geometry;
        let (bits, is_block) = match record.kind {
            SlabKind::Data => (
                slab,
                geometry.region_of(geometry.address(slab, at)).is_some(),
            ),
            SlabKind::Meta => (slab, at < geometry.node_blocks()),
            SlabKind::MetaTwin => (record.twin, at < geometry.node_blocks()),
            SlabKind::Table | SlabKind::TableTwin | SlabKind::Free | SlabKind::Leaving => {
                return true;
            }
        };
        !is_block || self.space.is_used(bits, at)
    }

    fn take_copied(&mut self, job: &mut Job, done: DoneResult, to: (usize, u64)) {
        let Some(moving) = &mut self.devices.moving else {
            return;
        };
        let Some((start, count)) = moving.run() else {
            return;
        };
        let bytes = match (job.phase, done) {
            (Phase::Writing, Ok(_)) => return moving.end_run(true),
            (Phase::Writing, Err(_)) => {
                moving.end_run(false);
                moving.has_failed = true;
                return;
            }
            (Phase::Reading | Phase::ReadingTwin, Ok(Done::Bytes(bytes))) => bytes,
            (Phase::Reading | Phase::ReadingTwin, Ok(_) | Err(_)) => {
                return self.copy_unreadable(job, (start, count), to);
            }
        };
        if moving.is_void() {
            return moving.end_run(false);
        }
        job.phase = Phase::Writing;
        let place = (to.0, to.1 + start);
        self.devices
            .write(place, Source::Core(bytes), Purpose::Copy);
    }

    /// What cannot be read is read block by block, metadata from its other copy. What stays unreadable is lost already; zeros fail its check as well.
    /// Data in use has no such check when its region is open at a crash: it stays where it is.
    fn copy_unreadable(&mut self, job: &mut Job, (start, count): (u64, u64), to: (usize, u64)) {
        let slab = job.slab;
        let record = self.space.slabs[slab as usize];
        let Some(moving) = &mut self.devices.moving else {
            return;
        };
        if count > 1 {
            job.single_until = start + count;
            return moving.end_run(false);
        }
        let twin = self.space.slabs.get(record.twin as usize).copied();
        if let (Phase::Reading, Some(twin)) = (job.phase, twin) {
            job.phase = Phase::ReadingTwin;
            let block = self.space.geometry.chunk(twin.chunk) + start;
            let place = (usize::from(twin.disk), block);
            return self.devices.read(place, 1, Target::Core, Purpose::Copy);
        }
        let address = self.space.geometry.address(slab, start as u32);
        let is_data = record.kind == SlabKind::Data
            && self.space.geometry.region_of(address).is_some()
            && self.space.is_used(slab, start as u32);
        if is_data {
            moving.end_run(false);
            self.unmovable.insert(slab);
            job.step = Step::Drop(PoolError::Unreadable(address));
            return;
        }
        if moving.is_void() {
            return moving.end_run(false);
        }
        job.phase = Phase::Writing;
        let bytes = Source::Core(vec![0; BLOCK]);
        let place = (to.0, to.1 + start);
        self.devices.write(place, bytes, Purpose::Copy);
    }

    pub(crate) fn handle_copied(&mut self, result: DoneResult) {
        let job = self.relocation.as_mut().and_then(|it| it.job.as_mut());
        if let Some(job) = job {
            job.done = Some(result);
        }
    }

    /// The exchange that a checkpoint which begins at this moment makes.
    pub(crate) fn exchange_to_make(&mut self, checkpoint: u64) -> Option<Exchange> {
        let moving = self.devices.moving.as_mut()?;
        let job = self.relocation.as_mut()?.job.as_mut()?;
        if job.step != Step::Exchange || moving.has_failed || job.checkpoint.is_some() {
            return None;
        }
        moving.is_decided = true;
        job.checkpoint = Some(checkpoint);
        Some(job.exchange)
    }

    /// The root that names the new place is durable.
    pub(crate) fn exchanged(&mut self, exchange: Exchange) {
        self.devices.moving = None;
        self.space.exchange(exchange.slab, exchange.target);
        if let Some(job) = self.relocation.as_mut().and_then(|it| it.job.as_mut()) {
            job.step = Step::Drain;
        }
        self.again = true;
    }
}
