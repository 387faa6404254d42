//! A pool on simulated disks beside a model of it: requests answered in any order, operations checked when they end.

use std::collections::BTreeMap;

use pool_core::{
    Answer, Blocks, Claimant, CreateDisk, CreatePool, DeviceError, DeviceOp, Done, HostOp, Limits,
    Mutation, Pool, PoolError, Request, Source, Status, Target, check, plan_create,
};
use pool_format::{BLOCK, Geometry, plain_crc};

use crate::disk::{Block, Disk, Keep};
use crate::model::{Model, Value};
use crate::rng::Rng;

/// Bounds small enough that each is met.
pub const LIMITS: Limits = Limits {
    operations_max: 64,
    overlay_max: 60,
    nodes_max: 16,
    pages_max: 4,
    regions_open_max: 5,
    flush_interval_ms: 1000,
    space_wait_ms: 5000,
    bases_max: 3,
    reserve_slabs: 4,
    discards_max: 0,
};

/// Requests finished before a stuck one goes on, at most, beyond 50.
const STUCK_MAX: u64 = 500;

/// What an operation in progress means to the model.
enum Meaning {
    Write {
        volume: u64,
        entry: u64,
        is_durable: bool,
    },
    Read {
        volume: u64,
        block: usize,
        from: Vec<u64>,
    },
    Flush {
        covered: BTreeMap<(u64, usize), u64>,
    },
    Create {
        volume: u64,
    },
    Copy {
        volume: u64,
        of: u64,
    },
    Delete {
        volume: u64,
    },
    Resize {
        volume: u64,
        size: usize,
        entry: u64,
    },
    Scrub,
    Grow,
    Remove {
        disk: usize,
    },
    Other,
}

/// A request a disk is working on.
struct Working {
    request: Request,
    written: Vec<u64>,
    covered: Vec<u64>,
    /// Stuck until the disks have finished so much, unless nothing else is left to finish.
    until: u64,
}

impl Working {
    fn is_data(&self) -> bool {
        let source = match &self.request.op {
            DeviceOp::Write { source, .. } => source,
            DeviceOp::Read { .. } | DeviceOp::Discard { .. } | DeviceOp::Flush => return false,
        };
        matches!(source, Source::Host { .. })
    }
}

/// The pool, its disks and what its host knows.
pub struct World {
    /// Chance.
    pub rng: Rng,
    /// The disks.
    pub disks: Vec<Disk>,
    /// The pool.
    pub pool: Pool,
    /// What its host knows.
    pub model: Model,
    limits: Limits,
    mutation: Mutation,
    working: Vec<Working>,
    buffers: BTreeMap<u64, Vec<Block>>,
    meanings: BTreeMap<u64, Meaning>,
    next_tag: u64,
    now_ms: u64,
    scrub_from: u64,
    /// Events of the device side so far.
    pub writes_done: u64,
    /// What was found wrong first.
    pub wrong: Option<String>,
    /// Operations answered with an expected error.
    pub refused: u64,
    /// Whether early requests starve.
    starves: bool,
    /// Chance in a thousand that a request gets stuck for a while.
    pub stuck: u64,
    /// Whether the disks finish no write of a host's data.
    pub holds_data: bool,
    finished: u64,
    /// Host operations taken and answers given so far: what the host knows changes with them only.
    pub changes: u64,
    /// Chance in a thousand that a flush or a write of metadata fails.
    pub errors: u64,
    /// How the last operation on a disk ended.
    pub relocated: Option<Result<Answer, PoolError>>,
    /// Whether large volumes fill the pool.
    pub is_crowded: bool,
    /// What happened, when it is to be kept.
    pub trace: Option<Vec<String>>,
}

/// Bytes of a block that holds `value`.
pub fn block_of(value: &Value) -> Block {
    let mut bytes = Vec::with_capacity(BLOCK);
    for stamp in value {
        for _ in 0..64 {
            bytes.extend_from_slice(&stamp.to_le_bytes());
        }
    }
    bytes.into()
}

/// What a block holds.
pub fn value_of(bytes: &[u8]) -> Value {
    let mut value = [0; 8];
    for (sector, stamp) in value.iter_mut().enumerate() {
        let at = sector * 512;
        let mut le = [0; 8];
        le.copy_from_slice(&bytes[at..at + 8]);
        *stamp = u64::from_le_bytes(le);
    }
    value
}

/// Fresh disks with a pool on them.
///
/// # Panics
/// When the pool cannot be created.
pub fn new_disks(sizes: &[u64], atomic_unit: usize, journal_blocks: u32) -> Vec<Disk> {
    let mut disks: Vec<Disk> = sizes
        .iter()
        .map(|size| Disk::new(*size, atomic_unit))
        .collect();
    let member = |(index, size): (usize, &u64)| CreateDisk {
        uuid: [index as u8 + 1; 16],
        blocks: *size,
        atomic_unit: atomic_unit as u32,
    };
    let pool = CreatePool {
        uuid: [0xAB; 16],
        name: "world".to_owned(),
        geometry: Geometry {
            journal_blocks,
            ..Geometry::TINY
        },
        disks: sizes.iter().enumerate().map(member).collect(),
        created_s: 0,
    };
    for part in plan_create(&pool).expect("a pool of this size can be created") {
        for write in part {
            let ids = disks[write.disk].submit(write.block, &write.bytes);
            disks[write.disk].complete(&ids);
        }
        for disk in &mut disks {
            let covered = disk.flush_begins();
            disk.flush_ends(&covered);
        }
    }
    disks
}

impl World {
    /// Opens the pool on `disks` with [`LIMITS`]; the model says what should be there.
    pub fn open(disks: Vec<Disk>, model: Model, seed: u64, mutation: Mutation) -> Self {
        Self::open_with(disks, model, seed, mutation, LIMITS)
    }

    /// Opens the pool on `disks` with bounds of its own.
    pub fn open_with(
        disks: Vec<Disk>,
        model: Model,
        seed: u64,
        mutation: Mutation,
        limits: Limits,
    ) -> Self {
        let sizes: Vec<u64> = disks.iter().map(Disk::blocks).collect();
        let discards_max = if disks.iter().any(|disk| disk.discards) {
            2
        } else {
            0
        };
        let limits = Limits {
            discards_max,
            ..limits
        };
        let mut rng = Rng::new(seed);
        Self {
            starves: rng.below(3) == 0,
            stuck: 0,
            holds_data: false,
            finished: 0,
            changes: 0,
            errors: 0,
            rng,
            pool: Pool::open(&sizes, limits, mutation),
            disks,
            model,
            limits,
            mutation,
            working: Vec::new(),
            buffers: BTreeMap::new(),
            meanings: BTreeMap::new(),
            next_tag: 1,
            now_ms: 0,
            scrub_from: 0,
            writes_done: 0,
            wrong: None,
            refused: 0,
            relocated: None,
            is_crowded: false,
            trace: None,
        }
    }

    /// Opens the pool in the name of a process of one host.
    pub fn claim(&mut self, pid: u32) {
        let sizes: Vec<u64> = self.disks.iter().map(Disk::blocks).collect();
        let claimant = Claimant {
            host: [0xC1; 16],
            boot: [1; 16],
            pid,
            began_s: 0,
        };
        self.pool = Pool::open_claimed(&sizes, self.limits, self.mutation, claimant);
    }

    /// Opens for reading only, on some of the disks.
    pub fn open_read_only(disks: Vec<Disk>, model: Model, seed: u64) -> Self {
        let mut world = Self::open(disks, model, seed, Mutation::None);
        let sizes: Vec<u64> = world.disks.iter().map(Disk::blocks).collect();
        world.pool = Pool::open_read_only(&sizes, LIMITS);
        world
    }

    fn complain(&mut self, what: String) {
        self.wrong.get_or_insert(what);
    }

    /// Requests the disks finished so far.
    pub fn finished(&self) -> u64 {
        self.finished
    }

    /// Operations not answered yet.
    pub fn outstanding(&self) -> usize {
        self.meanings.len()
    }

    /// Takes requests out of the pool and hands them to the disks.
    fn take_requests(&mut self) {
        while let Some(request) = self.pool.poll_request() {
            let disk = &mut self.disks[request.disk];
            let mut working = Working {
                written: Vec::new(),
                covered: Vec::new(),
                until: 0,
                request,
            };
            if self.stuck > 0 && self.rng.per_mille(self.stuck) {
                working.until = self.finished + 50 + self.rng.below(STUCK_MAX);
            }
            match &working.request.op {
                DeviceOp::Write {
                    block,
                    source: Source::Core(bytes),
                } => working.written = disk.submit(*block, bytes),
                DeviceOp::Write {
                    block,
                    source: Source::Host { tag, at, count },
                } => {
                    let buffer = &self.buffers[tag][*at as usize..(*at + *count) as usize];
                    working.written = disk.submit(*block, &buffer.concat());
                }
                DeviceOp::Discard { block, count } if disk.discards => {
                    working.written = disk.discard(*block, *count);
                }
                DeviceOp::Flush => working.covered = disk.flush_begins(),
                DeviceOp::Read { .. } | DeviceOp::Discard { .. } => {}
            }
            self.working.push(working);
        }
    }

    /// Which request a disk finishes next: any, or in some worlds mostly a late one, so that early ones starve.
    fn pick(&mut self) -> Option<usize> {
        self.finished += 1;
        let is_held = |working: &Working| self.holds_data && working.is_data();
        let is_free = |working: &Working| working.until <= self.finished && !is_held(working);
        let free = self
            .working
            .iter()
            .filter(|working| is_free(working))
            .count();
        if free > 0 && free < self.working.len() {
            let nth = self.rng.below(free as u64) as usize;
            let mut all = self.working.iter().enumerate();
            let found = all.by_ref().filter(|(_, working)| is_free(working));
            return found.map(|(at, _)| at).nth(nth);
        }
        if self.working.iter().all(is_held) {
            return None;
        }
        let count = self.working.len() as u64;
        if self.starves && self.rng.below(40) > 0 {
            return Some((count - 1 - self.rng.below(count.min(3))) as usize);
        }
        Some(self.rng.below(count) as usize)
    }

    /// Lets a disk finish one request, any of them. `false` when there is none.
    pub fn finish_one(&mut self) -> bool {
        self.take_requests();
        let Some(at) = self.pick() else {
            return false;
        };
        let working = self.working.remove(at);
        self.note(|| match &working.request.op {
            DeviceOp::Write {
                block,
                source: Source::Core(_),
            } => format!("  wrote metadata {}/{block}", working.request.disk),
            op => format!("  done {}/{op:?}", working.request.disk),
        });
        let is_metadata = matches!(
            working.request.op,
            DeviceOp::Flush
                | DeviceOp::Write {
                    source: Source::Core(_),
                    ..
                }
        );
        let fails = is_metadata && self.errors > 0 && self.rng.per_mille(self.errors);
        let happens = !fails || self.rng.below(2) == 0;
        let disk = &mut self.disks[working.request.disk];
        let result = match &working.request.op {
            DeviceOp::Write { .. } if fails => {
                // Half of the time it happened all the same.
                if happens {
                    disk.complete(&working.written);
                } else {
                    disk.forget(&working.written);
                }
                Err(DeviceError::Medium)
            }
            DeviceOp::Flush if fails => Err(DeviceError::Medium),
            DeviceOp::Write { .. } => {
                disk.complete(&working.written);
                self.writes_done += 1;
                Ok(Done::Nothing)
            }
            DeviceOp::Discard { .. } => {
                disk.complete(&working.written);
                Ok(Done::Nothing)
            }
            DeviceOp::Flush => {
                disk.flush_ends(&working.covered);
                Ok(Done::Nothing)
            }
            DeviceOp::Read {
                block,
                count,
                target,
            } => {
                let blocks: Option<Vec<Block>> = (*block..*block + u64::from(*count))
                    .map(|block| disk.read(block))
                    .collect();
                match blocks {
                    Some(blocks) => Ok(Self::read_done(&mut self.buffers, *target, &blocks)),
                    None => Err(DeviceError::Medium),
                }
            }
        };
        self.pool.handle_done(working.request.id, result);
        self.take_requests();
        self.take_answers();
        true
    }

    fn read_done(
        buffers: &mut BTreeMap<u64, Vec<Block>>,
        target: Target,
        blocks: &[Block],
    ) -> Done {
        match target {
            Target::Core => Done::Bytes(blocks.concat()),
            Target::Check => Done::Crcs(blocks.iter().map(|block| plain_crc(block)).collect()),
            Target::Merge { tag, first, count } => {
                let mut merged = blocks[0].to_vec();
                let kept = usize::from(first) * 512..usize::from(first + count) * 512;
                if let Some(buffer) = buffers.get_mut(&tag) {
                    merged[kept.clone()].copy_from_slice(&buffer[0][kept]);
                    buffer[0] = merged.as_slice().into();
                }
                Done::Merged {
                    old: plain_crc(&blocks[0]),
                    new: plain_crc(&merged),
                }
            }
            Target::Host { tag, at } => {
                if let Some(buffer) = buffers.get_mut(&tag) {
                    for (i, block) in blocks.iter().enumerate() {
                        buffer[at as usize + i] = Block::clone(block);
                    }
                }
                Done::Crcs(blocks.iter().map(|block| plain_crc(block)).collect())
            }
        }
    }

    fn note(&mut self, what: impl FnOnce() -> String) {
        if let Some(trace) = &mut self.trace {
            trace.push(what());
        }
    }

    fn submit(&mut self, op: HostOp, meaning: Meaning, buffer: Vec<Block>) {
        let tag = self.next_tag;
        self.next_tag += 1;
        let entry = self.model.next_id() - 1;
        self.note(|| match &op {
            HostOp::Write {
                object,
                block,
                crcs,
                fua,
            } => format!(
                "{tag}: write {object} {block}+{} fua {fua} as {entry}",
                crcs.len()
            ),
            op => format!("{tag}: {op:?} as {entry}"),
        });
        self.changes += 1;
        self.buffers.insert(tag, buffer);
        self.meanings.insert(tag, meaning);
        self.pool.submit(tag, op);
        self.take_requests();
        self.take_answers();
    }

    fn take_answers(&mut self) {
        while let Some((tag, result)) = self.pool.poll_answer() {
            let buffer = self.buffers.remove(&tag).unwrap_or_default();
            self.changes += 1;
            self.note(|| format!("{tag} answered {result:?}"));
            match self.meanings.remove(&tag) {
                Some(meaning) => self.answered(meaning, result, buffer),
                None => self.complain(format!("operation {tag} was answered twice")),
            }
        }
    }

    fn answered(
        &mut self,
        meaning: Meaning,
        result: Result<Answer, PoolError>,
        buffer: Vec<Block>,
    ) {
        if result == Err(PoolError::Faulted) && self.errors > 0 {
            // The host knows nothing about it, as after a cut.
            if let Meaning::Write { entry, .. } = meaning {
                self.model.fail(entry);
            }
            return;
        }
        if let Err(error) = &result {
            self.refused += 1;
            let is_thick = |volume: u64| {
                let volume = self.model.volumes.get(&volume);
                volume.is_some_and(|volume| volume.is_thick)
            };
            let is_expected = match meaning {
                // What a thick replica writes was set aside for it.
                Meaning::Write { volume, .. } if is_thick(volume) => {
                    matches!(error, PoolError::NoSuchObject | PoolError::OutOfRange)
                }
                // An operation behind a deletion finds nothing, one behind a resize less, a full pool no space.
                Meaning::Read { .. } => {
                    matches!(error, PoolError::NoSuchObject | PoolError::OutOfRange)
                }
                // Another growth is going on, or there is no room in the root.
                Meaning::Grow | Meaning::Remove { .. } => {
                    matches!(
                        error,
                        PoolError::Busy
                            | PoolError::Invalid
                            | PoolError::NoRoom { .. }
                            | PoolError::DiskInUse(_)
                    ) || self.errors > 0 && *error == PoolError::Device
                }
                _ => matches!(
                    error,
                    PoolError::NoSuchObject
                        | PoolError::OutOfRange
                        | PoolError::NoSpace
                        | PoolError::OpenedReadOnly
                ),
            };
            if !is_expected {
                self.complain(format!("answered with: {error}"));
            }
        }
        if matches!(meaning, Meaning::Grow | Meaning::Remove { .. }) {
            self.relocated = Some(result.clone());
        }
        match (meaning, result) {
            (
                Meaning::Write {
                    volume,
                    entry,
                    is_durable,
                },
                Ok(_),
            ) => self.model.finish(volume, entry, is_durable),
            (Meaning::Write { entry, .. }, Err(_)) => self.model.fail(entry),
            (
                Meaning::Read {
                    volume,
                    block,
                    from,
                },
                Ok(Answer::Read { holes, .. }),
            ) => {
                self.check_read(volume, block, &from, buffer, &holes);
            }
            (Meaning::Scrub, Ok(Answer::Scrubbed(found))) => {
                self.scrub_from = found.next;
                if found.region.is_none() {
                    self.scrub_from = 0;
                }
                if !found.bad.is_empty() {
                    self.complain(format!("a scrub finds rot where there is none: {found:?}"));
                }
            }
            (Meaning::Remove { disk }, Ok(_)) => self.disks[disk].is_detached = true,
            (Meaning::Flush { covered }, Ok(_)) => self.model.flush_ends(&covered),
            (Meaning::Create { volume }, Ok(Answer::Created { object })) => {
                self.created(volume, object)
            }
            (Meaning::Copy { volume, of }, Ok(Answer::Created { object })) => {
                self.model.pin(volume, of);
                self.created(volume, object);
            }
            (Meaning::Create { volume } | Meaning::Copy { volume, .. }, Err(_)) => {
                self.model.volumes.remove(&volume);
            }
            (Meaning::Delete { volume }, Ok(_)) => {
                if let Some(volume) = self.model.volumes.get_mut(&volume) {
                    volume.is_gone = true;
                }
            }
            (
                Meaning::Resize {
                    volume,
                    size,
                    entry,
                },
                Ok(_),
            ) => {
                self.model.finish(volume, entry, true);
                self.model.resize(volume, size);
                if let Some(volume) = self.model.volumes.get_mut(&volume) {
                    volume.other_size = None;
                }
            }
            (
                Meaning::Read { .. }
                | Meaning::Create { .. }
                | Meaning::Copy { .. }
                | Meaning::Scrub
                | Meaning::Grow
                | Meaning::Other,
                Ok(_),
            )
            | (_, Err(_)) => {}
        }
    }

    fn created(&mut self, volume: u64, object: u64) {
        if let Some(volume) = self.model.volumes.get_mut(&volume) {
            volume.id = Some(object);
            volume.is_certain = true;
        }
    }

    fn check_read(
        &mut self,
        volume: u64,
        block: usize,
        from: &[u64],
        mut buffer: Vec<Block>,
        holes: &[(u32, u32)],
    ) {
        for (first, count) in holes {
            for i in *first..*first + *count {
                buffer[i as usize] = block_of(&[0; 8]);
            }
        }
        let mut wrong = None;
        if let Some(volume) = self.model.volumes.get_mut(&volume) {
            for (i, bytes) in buffer.iter().enumerate() {
                let value = value_of(bytes);
                let Some(cell) = volume.cells.get_mut(block + i) else {
                    continue;
                };
                if !cell.allows(&value, from[i]) {
                    wrong = Some(format!(
                        "block {} of {:?} reads {value:?}, not one of {:?}",
                        block + i,
                        volume.id,
                        cell.entries
                    ));
                } else if !volume.is_replica {
                    cell.settle(value);
                }
            }
        }
        if let Some(wrong) = wrong {
            self.complain(wrong);
        }
    }

    /// Writes random values.
    pub fn write(&mut self, volume: u64, block: usize, count: usize, fua: bool) {
        let stamp = self.model.next_id() * 4096;
        let value = |block: usize| [stamp + block as u64; 8];
        let entry = self.model.begin(volume, block..block + count, value);
        let buffer: Vec<Block> = (block..block + count)
            .map(|block| block_of(&value(block)))
            .collect();
        let crcs = buffer.iter().map(|block| plain_crc(block)).collect();
        let Some(object) = self.id(volume) else {
            return;
        };
        let op = HostOp::Write {
            object,
            block: block as u64,
            crcs,
            fua,
        };
        let meaning = Meaning::Write {
            volume,
            entry,
            is_durable: fua,
        };
        self.submit(op, meaning, buffer);
    }

    /// Writes a random value to some sectors of a block.
    pub fn write_part(&mut self, volume: u64, block: usize, (first, count): (u8, u8), fua: bool) {
        let Some(object) = self.id(volume) else {
            return;
        };
        let stamp = self.model.next_id() * 4096 + block as u64;
        let sectors = usize::from(first)..usize::from(first + count);
        let entry = self.model.begin_part(volume, block, sectors.clone(), stamp);
        let mut value = [0; 8];
        value[sectors].fill(stamp);
        let buffer = block_of(&value);
        let op = HostOp::WritePart {
            object,
            block: block as u64,
            first,
            count,
            crc: plain_crc(&buffer),
            fua,
        };
        let meaning = Meaning::Write {
            volume,
            entry,
            is_durable: fua,
        };
        self.submit(op, meaning, vec![buffer]);
    }

    fn id(&self, volume: u64) -> Option<u64> {
        self.model.volumes.get(&volume)?.id
    }

    /// Reads and compares.
    pub fn read(&mut self, volume: u64, block: usize, count: usize) {
        let Some(object) = self.id(volume) else {
            return;
        };
        // A snapshot does not change: whatever it may be at all, it may be at any time.
        let is_replica = self.model.volumes[&volume].is_replica;
        let cells = &self.model.volumes[&volume].cells[block..block + count];
        let from = cells
            .iter()
            .map(|cell| if is_replica { cell.last_done() } else { 0 })
            .collect();
        let op = HostOp::Read {
            object,
            block: block as u64,
            count: count as u32,
        };
        self.submit(
            op,
            Meaning::Read {
                volume,
                block,
                from,
            },
            vec![block_of(&[u64::MAX; 8]); count],
        );
    }

    /// Discards.
    pub fn unmap(&mut self, volume: u64, block: usize, count: usize) {
        let Some(object) = self.id(volume) else {
            return;
        };
        let entry = self.model.begin(volume, block..block + count, |_| [0; 8]);
        let op = HostOp::Unmap {
            object,
            block: block as u64,
            count: count as u64,
        };
        let meaning = Meaning::Write {
            volume,
            entry,
            is_durable: false,
        };
        self.submit(op, meaning, Vec::new());
    }

    /// Flushes.
    pub fn flush(&mut self) {
        let covered = self.model.flush_begins();
        self.submit(HostOp::Flush, Meaning::Flush { covered }, Vec::new());
    }

    /// Creates a replica.
    pub fn create(&mut self, size: usize) {
        self.create_as(size, false);
    }

    /// Creates a replica, thick or thin.
    pub fn create_as(&mut self, size: usize, is_thick: bool) {
        let volume = self.model.add(size);
        if let Some(volume) = self.model.volumes.get_mut(&volume) {
            volume.is_thick = is_thick;
        }
        let uuid = self.model.volumes[&volume].uuid;
        let op = HostOp::Create {
            uuid,
            name: format!("v{volume}"),
            size: size as u64,
            is_thick,
            block_shift: 9,
        };
        self.submit(op, Meaning::Create { volume }, Vec::new());
    }

    /// Takes a snapshot, or clones one.
    pub fn copy(&mut self, of: u64) {
        let Some(object) = self.id(of) else { return };
        let is_clone = !self.model.volumes[&of].is_replica;
        let volume = self.model.copy(of, is_clone);
        let uuid = self.model.volumes[&volume].uuid;
        let name = format!("v{volume}");
        let op = if is_clone {
            HostOp::Clone { object, uuid, name }
        } else {
            HostOp::Snapshot { object, uuid, name }
        };
        self.submit(op, Meaning::Copy { volume, of }, Vec::new());
    }

    /// Deletes a volume.
    pub fn delete(&mut self, volume: u64) {
        let Some(object) = self.id(volume) else {
            return;
        };
        if let Some(volume) = self.model.volumes.get_mut(&volume) {
            volume.is_going = true;
        }
        self.submit(
            HostOp::Delete { object },
            Meaning::Delete { volume },
            Vec::new(),
        );
    }

    /// Resizes a replica.
    pub fn resize(&mut self, volume: u64, size: usize) {
        let Some(object) = self.id(volume) else {
            return;
        };
        let old = self.model.volumes[&volume].cells.len();
        let entry = self.model.begin(volume, size.min(old)..old, |_| [0; 8]);
        if let Some(volume) = self.model.volumes.get_mut(&volume) {
            volume.other_size = Some(size);
        }
        let op = HostOp::Resize {
            object,
            size: size as u64,
        };
        self.submit(
            op,
            Meaning::Resize {
                volume,
                size,
                entry,
            },
            Vec::new(),
        );
    }

    /// Asks for a checkpoint.
    pub fn ask_checkpoint(&mut self) {
        self.submit(HostOp::Checkpoint, Meaning::Other, Vec::new());
    }

    /// Asks for a seal of idle regions.
    pub fn ask_seal(&mut self) {
        self.submit(HostOp::Seal, Meaning::Other, Vec::new());
    }

    /// Scrubs the next region.
    pub fn ask_scrub(&mut self) {
        let from = self.scrub_from;
        self.submit(HostOp::Scrub { from }, Meaning::Scrub, Vec::new());
    }

    /// Adds a disk: one that was left over when an earlier attempt was cut, or a new one.
    pub fn add_disk(&mut self, blocks: u64) {
        let members = self.pool.disks().len();
        if members == self.disks.len() {
            let mut disk = self.disks[0].like(blocks);
            disk.discards = self.disks[0].discards;
            self.disks.push(disk);
        }
        let disk = pool_core::NewDisk {
            position: members,
            uuid: [members as u8 + 1; 16],
            blocks: self.disks[members].blocks(),
            atomic_unit: 512,
        };
        self.submit(HostOp::AddDisk(disk), Meaning::Grow, Vec::new());
    }

    /// Marks a disk as leaving, or moves the next slab off it.
    pub fn evacuate(&mut self, disk: usize) {
        for disk in &mut self.disks {
            disk.is_shrunk = true;
        }
        let disk = disk as u16;
        self.submit(HostOp::Evacuate { disk }, Meaning::Grow, Vec::new());
    }

    /// Takes a disk back into service.
    pub fn keep_disk(&mut self, disk: usize) {
        let disk = disk as u16;
        self.submit(HostOp::KeepDisk { disk }, Meaning::Grow, Vec::new());
    }

    /// Removes a disk; when that is answered, it is taken away.
    pub fn remove_disk(&mut self, disk: usize) {
        let op = HostOp::RemoveDisk { disk: disk as u16 };
        self.submit(op, Meaning::Remove { disk }, Vec::new());
    }

    /// Moves a second copy of metadata to another disk.
    pub fn double(&mut self) {
        self.submit(HostOp::Double, Meaning::Grow, Vec::new());
    }

    /// A disk becomes larger, and the pool is told.
    pub fn grow_disk(&mut self, disk: usize, by: u64) {
        self.disks[disk].grow(by);
        let op = HostOp::GrowDisk {
            disk: disk as u16,
            blocks: self.disks[disk].blocks(),
        };
        self.submit(op, Meaning::Grow, Vec::new());
    }

    /// Lets time pass.
    pub fn pass(&mut self, ms: u64) {
        self.now_ms += ms;
        self.pool.handle_time(self.now_ms);
        self.take_requests();
        self.take_answers();
    }

    /// Runs until the pool has nothing left to do.
    pub fn settle(&mut self) {
        for _ in 0..20_000 {
            if self.wrong.is_some() {
                return;
            }
            if self.finish_one() {
                continue;
            }
            if self.pool.is_idle() && self.meanings.is_empty() {
                return;
            }
            self.pass(300);
        }
        self.complain(format!(
            "never comes to rest: {} operations",
            self.meanings.len()
        ));
    }

    /// Finishes opening.
    ///
    /// # Errors
    /// Why the pool refuses.
    pub fn wait_open(&mut self) -> Result<(), PoolError> {
        for _ in 0..20_000 {
            match self.pool.status() {
                Status::Ready => return Ok(()),
                Status::Failed(error) => return Err(error),
                Status::Opening => {}
            }
            if !self.finish_one() {
                self.pass(300);
            }
        }
        Err(PoolError::Busy)
    }

    /// The disks after a cut at this moment, as `keep` decides for each disk and block.
    pub fn cut(&self, keep: &mut dyn FnMut(usize, usize) -> Keep) -> Vec<Disk> {
        self.disks
            .iter()
            .enumerate()
            .map(|(at, disk)| disk.cut(&mut |index| keep(at, index)))
            .collect()
    }

    /// Bounds and bug this world runs with.
    pub fn setup(&self) -> (Limits, Mutation) {
        (self.limits, self.mutation)
    }

    /// Compares what is there after a cut with what may be, and takes what is there for granted from then on.
    pub fn compare_after_cut(&mut self) {
        let found: BTreeMap<[u8; 16], (u64, usize, bool)> = self
            .pool
            .objects()
            .map(|object| {
                let is_live = object.state == pool_format::ObjectState::Live;
                (object.uuid, (object.id, object.size as usize, is_live))
            })
            .collect();
        let numbers: Vec<u64> = self.model.volumes.keys().copied().collect();
        for number in numbers {
            let volume = &self.model.volumes[&number];
            let live = found.get(&volume.uuid).filter(|(_, _, is_live)| *is_live);
            match live {
                Some(_) if volume.is_gone => {
                    self.complain(format!("volume {number} was deleted and is back"))
                }
                Some((id, size, _)) => self.adopt_volume(number, *id, *size),
                None if volume.is_certain && !volume.is_going => {
                    self.complain(format!("volume {number} is lost"))
                }
                None => {
                    self.model.volumes.remove(&number);
                }
            }
        }
        let known: Vec<[u8; 16]> = self
            .model
            .volumes
            .values()
            .map(|volume| volume.uuid)
            .collect();
        if found
            .iter()
            .any(|(uuid, (_, _, is_live))| *is_live && !known.contains(uuid))
        {
            self.complain("an object nobody created".to_owned());
        }
        let numbers: Vec<u64> = self.model.volumes.keys().copied().collect();
        for number in numbers {
            self.read_back(number);
        }
    }

    fn adopt_volume(&mut self, number: u64, id: u64, size: usize) {
        let Some(volume) = self.model.volumes.get_mut(&number) else {
            return;
        };
        volume.id = Some(id);
        volume.is_certain = true;
        volume.is_going = false;
        let may_be = size == volume.cells.len() || volume.other_size == Some(size);
        volume.other_size = None;
        if !may_be {
            self.complain(format!("volume {number} has {size} blocks"));
            return;
        }
        self.model.resize(number, size);
    }

    /// Reads a whole volume and settles its cells on what was read.
    fn read_back(&mut self, number: u64) {
        let count = self.model.volumes[&number].cells.len();
        let Some(object) = self.id(number) else {
            return;
        };
        let tag = self.next_tag;
        self.next_tag += 1;
        self.buffers
            .insert(tag, vec![block_of(&[u64::MAX; 8]); count]);
        let op = HostOp::Read {
            object,
            block: 0,
            count: count as u32,
        };
        self.pool.submit(tag, op);
        for _ in 0..20_000 {
            if let Some((answered, result)) = self.pool.poll_answer() {
                if answered == tag {
                    self.settle_volume(number, tag, result);
                    return;
                }
            } else if !self.finish_without_answers() {
                self.pass(300);
            }
        }
        self.complain(format!("volume {number} cannot be read: no answer"));
    }

    /// Reads one block, and nothing else meanwhile.
    ///
    /// # Errors
    /// What the pool answers; `Busy` when it does not.
    pub fn read_block(&mut self, number: u64, block: u64) -> Result<Value, PoolError> {
        let object = self.id(number).ok_or(PoolError::NoSuchObject)?;
        let tag = self.next_tag;
        self.next_tag += 1;
        self.buffers.insert(tag, vec![block_of(&[u64::MAX; 8])]);
        let count = 1;
        self.pool.submit(
            tag,
            HostOp::Read {
                object,
                block,
                count,
            },
        );
        for _ in 0..20_000 {
            if let Some((answered, result)) = self.pool.poll_answer() {
                if answered == tag {
                    let buffer = self.buffers.remove(&tag).unwrap_or_default();
                    return match result? {
                        Answer::Read { holes, .. } if holes.is_empty() => Ok(value_of(&buffer[0])),
                        Answer::Read { .. }
                        | Answer::Done
                        | Answer::Created { .. }
                        | Answer::Extent { .. }
                        | Answer::Moved { .. }
                        | Answer::Scrubbed(_) => Ok([0; 8]),
                    };
                }
            } else if !self.finish_without_answers() {
                self.pass(300);
            }
        }
        Err(PoolError::Busy)
    }

    /// Scrubs everything; answers the addresses of bad blocks.
    ///
    /// # Errors
    /// What the pool answers; `Busy` when it does not.
    pub fn scrub_all(&mut self) -> Result<Vec<u64>, PoolError> {
        let mut bad = Vec::new();
        let mut from = 0;
        loop {
            let tag = self.next_tag;
            self.next_tag += 1;
            self.pool.submit(tag, HostOp::Scrub { from });
            let mut answer = Err(PoolError::Busy);
            for _ in 0..20_000 {
                if let Some((answered, result)) = self.pool.poll_answer() {
                    if answered == tag {
                        answer = result;
                        break;
                    }
                } else if !self.finish_without_answers() {
                    self.pass(300);
                }
            }
            if let Answer::Scrubbed(mut found) = answer? {
                bad.append(&mut found.bad);
                if found.region.is_none() {
                    return Ok(bad);
                }
                from = found.next;
            }
        }
    }

    fn finish_without_answers(&mut self) -> bool {
        self.take_requests();
        if self.working.is_empty() {
            return false;
        }
        let at = self.rng.below(self.working.len() as u64) as usize;
        self.working.swap(0, at);
        let working = self.working.swap_remove(0);
        let disk = &mut self.disks[working.request.disk];
        let result = match &working.request.op {
            DeviceOp::Write { .. } | DeviceOp::Discard { .. } => {
                disk.complete(&working.written);
                Ok(Done::Nothing)
            }
            DeviceOp::Flush => {
                disk.flush_ends(&working.covered);
                Ok(Done::Nothing)
            }
            DeviceOp::Read {
                block,
                count,
                target,
            } => {
                let blocks: Option<Vec<Block>> = (*block..*block + u64::from(*count))
                    .map(|block| disk.read(block))
                    .collect();
                match blocks {
                    Some(blocks) => Ok(Self::read_done(&mut self.buffers, *target, &blocks)),
                    None => Err(DeviceError::Medium),
                }
            }
        };
        self.pool.handle_done(working.request.id, result);
        true
    }

    fn settle_volume(&mut self, number: u64, tag: u64, result: Result<Answer, PoolError>) {
        let mut buffer = self.buffers.remove(&tag).unwrap_or_default();
        let holes = match result {
            Ok(Answer::Read { holes, .. }) => holes,
            Ok(_) => Vec::new(),
            Err(error) => {
                return self.complain(format!("after the cut volume {number} reads: {error}"));
            }
        };
        for (first, count) in holes {
            for i in first..first + count {
                buffer[i as usize] = block_of(&[0; 8]);
            }
        }
        let mut wrong = None;
        if let Some(volume) = self.model.volumes.get_mut(&number) {
            for (block, (cell, bytes)) in volume.cells.iter_mut().zip(&buffer).enumerate() {
                let value = value_of(bytes);
                if !cell.allows(&value, 0) {
                    wrong.get_or_insert_with(|| {
                        format!("after the cut block {block} of volume {number} ({:?}) is {value:?}, not one of {:?}", volume.id, cell.entries)
                    });
                }
                cell.settle(value);
            }
        }
        if let Some(wrong) = wrong {
            self.complain(wrong);
        }
    }

    /// Checks that objects have as many blocks mapped as their records say.
    fn check_counts(&mut self) {
        let objects: Vec<pool_format::ObjectRecord> = self.pool.objects().cloned().collect();
        let live = objects
            .iter()
            .filter(|object| object.state == pool_format::ObjectState::Live);
        for object in live {
            let (mut block, mut mapped) = (0, 0);
            while block < object.size {
                match self.extent(object.id, block) {
                    Ok((len, is_mapped)) => {
                        mapped += if is_mapped { len } else { 0 };
                        block += len;
                    }
                    Err(error) => {
                        return self.complain(format!("an extent of {object:?}: {error}"));
                    }
                }
            }
            if mapped != object.mapped {
                self.complain(format!("{mapped} blocks are mapped by {object:?}"));
            }
        }
    }

    /// How far the run of blocks from `block` on goes, and whether it is mapped.
    fn extent(&mut self, object: u64, block: u64) -> Result<(u64, bool), PoolError> {
        let tag = self.next_tag;
        self.next_tag += 1;
        self.pool.submit(tag, HostOp::Extent { object, block });
        for _ in 0..20_000 {
            if let Some((answered, result)) = self.pool.poll_answer() {
                if let (true, Answer::Extent { len, address }) = (answered == tag, result?) {
                    return Ok((len, address.is_some()));
                }
            } else if !self.finish_without_answers() {
                self.pass(300);
            }
        }
        Err(PoolError::Busy)
    }

    /// Checks that allocation equals reachability, once everything has come to rest behind a checkpoint.
    pub fn check_space(&mut self) {
        for _ in 0..2 {
            self.settle();
            self.ask_checkpoint();
        }
        self.settle();
        if self.wrong.is_some() {
            return;
        }
        self.check_counts();
        let is_off = |object: &&pool_format::ObjectRecord| {
            let is_alone = object.previous == 0 && object.is_thick;
            let is_live = object.state == pool_format::ObjectState::Live;
            is_alone && is_live && object.reserved + object.mapped != object.size
        };
        let off = self.pool.objects().find(is_off).cloned();
        if let Some(object) = off {
            self.complain(format!("the reserve of a thick replica is off: {object:?}"));
        }
        let uncovered = self.pool.uncovered_blocks();
        if uncovered > 0 {
            self.complain(format!("{uncovered} blocks are set aside and not there"));
        }
        match check(&mut Reader(&self.disks)) {
            Ok(report) if report.is_clean() => {}
            Ok(report) => self.complain(format!("{report:?}")),
            Err(error) => self.complain(format!("the check finds: {error}")),
        }
    }
}

/// Lends disks to a check.
pub struct Reader<'a>(pub &'a [Disk]);

impl Blocks for Reader<'_> {
    fn sizes(&self) -> Vec<u64> {
        self.0.iter().map(Disk::blocks).collect()
    }

    fn block(&mut self, disk: usize, block: u64) -> Option<Vec<u8>> {
        self.0[disk].read(block).map(|bytes| bytes.to_vec())
    }
}
