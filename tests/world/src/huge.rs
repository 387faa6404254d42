//! A pool of 16 TiB with as many extents as asked for, written straight onto sparse disks: playing it would take days.
//!
//! Every replica and snapshot has a map of its own in which no two blocks join, and a dead list with what the one before it had: what is left when each
//! block was written again, in any order, between any two snapshots. Data is not written. The check that anybody can run finds nothing wrong with it.

use std::collections::BTreeMap;
use std::fmt;
use std::time::{Duration, Instant};

use pool_core::{
    Answer, DeviceOp, Done, DoneResult, HostOp, Limits, Mutation, Pool, PoolError, Request, Source,
    Status, Target, check,
};
use pool_format::{
    Area, BLOCK, Bitmap, DirectoryEntry, Extent, Geometry, INNER_MAX, Inner, LEAF_MAX, NO_TWIN,
    Node, NodeBody, NodePtr, OBJECTS_PER_PAGE, ObjectKind, ObjectRecord, ObjectState, Root,
    SLABS_PER_PAGE, SlabKind, SlabRecord, Uuid, emit_object_page, emit_slab_page, parse_slab_page,
    plain_crc,
};

use crate::big::{UUID, make, resident_kib};
use crate::disk::{Disk, Keep};
use crate::rng::Rng;
use crate::world::Reader;

/// Writes left in the journal at the cut.
const TAIL: u64 = 8000;

/// Reads that are counted.
const READS: u64 = 2000;

/// What an opening took.
#[derive(Clone, Copy, Debug)]
pub struct Opening {
    /// Device requests: reads, and all.
    pub reads: u64,
    /// Writes and flushes.
    pub writes: u64,
    /// Blocks read.
    pub blocks: u64,
    /// Time, with the simulated disks.
    pub took: Duration,
    /// Memory above what the disks take, at most.
    pub memory_kib: u64,
}

/// What was found.
#[derive(Clone, Debug)]
pub struct Huge {
    objects: usize,
    extents: u64,
    clean: Opening,
    crashed: Opening,
    reads_each: f64,
    snapshot_writes: u64,
    reachable: u64,
}

impl fmt::Display for Opening {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} reads ({} MiB), {} writes and flushes, {:?}, {} MiB of memory",
            self.reads,
            (self.blocks * BLOCK as u64) >> 20,
            self.writes,
            self.took,
            self.memory_kib / 1024
        )
    }
}

impl fmt::Display for Huge {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "{} objects, {} extents in maps on 16 TiB; the check finds {} blocks in use and nothing wrong",
            self.objects, self.extents, self.reachable
        )?;
        writeln!(f, "opened clean: {}", self.clean)?;
        writeln!(f, "opened with {TAIL} writes unflushed: {}", self.crashed)?;
        write!(
            f,
            "a read of a block anywhere: {:.2} device reads; a snapshot: {} metadata writes",
            self.reads_each, self.snapshot_writes
        )
    }
}

/// Builds metadata on disks.
struct Builder {
    disks: Vec<Disk>,
    geometry: Geometry,
    uuid: Uuid,
    root: Root,
    slabs: Vec<SlabRecord>,
    /// Where to look for the next free slab of each disk.
    free_from: [usize; 2],
    bitmaps: BTreeMap<u32, Bitmap>,
    /// Next node: slab and block.
    node: Option<(u32, u32)>,
    /// Next block of data on each disk: slab and block.
    data: [Option<(u32, u32)>; 2],
}

impl Builder {
    fn new() -> Result<Self, String> {
        let disks = make()?;
        let geometry = Geometry::DEFAULT;
        let start = geometry.root_slot(0, Area::Front, 1);
        let blocks = start..start + u64::from(geometry.root_blocks);
        let bytes: Vec<u8> = blocks
            .filter_map(|block| disks[0].read(block))
            .flat_map(|bytes| bytes.to_vec())
            .collect();
        let root = Root::parse(&bytes, &UUID, 1, &geometry).map_err(|error| error.to_string())?;
        let mut slabs = Vec::new();
        for page in &root.slab_pages {
            let table = root.table_slabs[(page.position / geometry.slab_blocks) as usize];
            let block =
                geometry.chunk(table.chunk[0]) + u64::from(page.position % geometry.slab_blocks);
            let bytes = disks[usize::from(table.disk[0])].read(block);
            let bytes = bytes.ok_or("a table page cannot be read")?;
            let records = parse_slab_page(&bytes, &UUID, page.position, page.crc);
            slabs.extend(records.map_err(|error| error.to_string())?);
        }
        Ok(Self {
            disks,
            geometry,
            uuid: UUID,
            root,
            slabs,
            free_from: [0, 0],
            bitmaps: BTreeMap::new(),
            node: None,
            data: [None, None],
        })
    }

    fn take_slab(&mut self, disk: usize, kind: SlabKind) -> u32 {
        let is_free =
            |slab: &SlabRecord| slab.kind == SlabKind::Free && usize::from(slab.disk) == disk;
        let from = self.free_from[disk];
        let found = self.slabs[from..].iter().position(is_free);
        let slab = from + found.expect("16 TiB are enough");
        self.free_from[disk] = slab;
        let record = &mut self.slabs[slab];
        record.kind = kind;
        record.generation = 1;
        record.free = match kind {
            SlabKind::Data => self.geometry.data_blocks() as u16,
            _ => self.geometry.node_blocks() as u16,
        };
        if matches!(kind, SlabKind::Data | SlabKind::Meta) {
            let empty = Bitmap::new(self.geometry.slab_blocks);
            self.bitmaps.insert(slab as u32, empty);
        }
        slab as u32
    }

    fn mark(&mut self, slab: u32, block: u32) {
        if let Some(bitmap) = self.bitmaps.get_mut(&slab) {
            bitmap.set(block, true);
        }
        self.slabs[slab as usize].free -= 1;
    }

    fn place(&self, slab: u32, block: u32) -> (usize, u64) {
        let record = &self.slabs[slab as usize];
        let block = self.geometry.chunk(record.chunk) + u64::from(block);
        (usize::from(record.disk), block)
    }

    fn write(&mut self, (disk, block): (usize, u64), bytes: &[u8]) {
        for (i, bytes) in bytes.chunks(BLOCK).enumerate() {
            self.disks[disk].replace(block + i as u64, bytes);
        }
    }

    fn next_node(&mut self) -> u64 {
        let (slab, block) = match self.node {
            Some((slab, block)) if block < self.geometry.node_blocks() => (slab, block),
            Some(_) | None => {
                let slab = self.take_slab(0, SlabKind::Meta);
                let twin = self.take_slab(1, SlabKind::MetaTwin);
                self.slabs[slab as usize].twin = twin;
                self.slabs[twin as usize].twin = slab;
                (slab, 0)
            }
        };
        self.mark(slab, block);
        self.node = Some((slab, block + 1));
        self.geometry.address(slab, block)
    }

    fn next_block(&mut self, disk: usize) -> u64 {
        loop {
            let (slab, block) = match self.data[disk] {
                Some((slab, block)) if block < self.geometry.node_blocks() => (slab, block),
                Some(_) | None => (self.take_slab(disk, SlabKind::Data), 0),
            };
            self.data[disk] = Some((slab, block + 1));
            let address = self.geometry.address(slab, block);
            if self.geometry.region_of(address).is_some() {
                self.mark(slab, block);
                return address;
            }
        }
    }

    fn write_node(&mut self, node: &Node) -> NodePtr {
        let address = self.next_node();
        let (bytes, crc) = node.emit(&self.uuid, address, 2);
        let slab = self.geometry.slab_of(address);
        let twin = self.slabs[slab as usize].twin;
        for slab in [slab, twin] {
            let place = self.place(slab, self.geometry.offset_of(address));
            self.write(place, &bytes);
        }
        NodePtr {
            address,
            birth: node.birth,
            crc,
            height: node.level + 1,
        }
    }

    /// A tree of these extents, which are in order.
    fn tree(&mut self, map: u64, birth: u64, extents: &[Extent]) -> Option<NodePtr> {
        let mut level = 0;
        let mut nodes = Vec::new();
        for part in extents.chunks(LEAF_MAX) {
            let body = NodeBody::Leaf(part.to_vec());
            let node = Node {
                map,
                birth,
                level,
                body,
            };
            let child = self.write_node(&node);
            let key = part.first()?.key;
            nodes.push(Inner { key, child });
        }
        while nodes.len() > 1 {
            level += 1;
            let below = std::mem::take(&mut nodes);
            for part in below.chunks(INNER_MAX) {
                let key = part.first()?.key;
                let body = NodeBody::Inner(part.to_vec());
                let node = Node {
                    map,
                    birth,
                    level,
                    body,
                };
                let child = self.write_node(&node);
                nodes.push(Inner { key, child });
            }
        }
        nodes.first().map(|only| only.child)
    }

    /// Blocks of one object in order of their addresses, joined where one region holds them.
    fn joined(&self, blocks: &[u64], birth: u64) -> Vec<Extent> {
        let mut extents: Vec<Extent> = Vec::new();
        for address in blocks {
            let region = self.geometry.region_of(*address).map(|(region, _)| region);
            match extents.last_mut() {
                Some(last)
                    if last.address + u64::from(last.len) == *address
                        && self.geometry.region_of(last.address).map(|(at, _)| at) == region =>
                {
                    last.len += 1;
                }
                Some(_) | None => extents.push(Extent {
                    key: *address,
                    address: *address,
                    len: 1,
                    birth,
                }),
            }
        }
        extents
    }

    /// A replica with its snapshots, oldest first.
    fn family(&mut self, objects: &mut Vec<ObjectRecord>, number: u64, shape: (u64, u64)) {
        let (snapshots, blocks) = shape;
        let home = (number % 2) as usize;
        let mut before: Option<(u64, u64, Vec<u64>)> = None;
        for version in 0..=snapshots {
            let id = objects.len() as u64 + 1;
            let is_last = version == snapshots;
            let epoch = self.root.epoch;
            if !is_last {
                self.root.epoch += 1;
            }
            let here: Vec<u64> = (0..blocks).map(|_| self.next_block(home)).collect();
            let map: Vec<Extent> = here
                .iter()
                .rev()
                .enumerate()
                .map(|(i, address)| Extent {
                    key: 2 * i as u64,
                    address: *address,
                    len: 1,
                    birth: epoch,
                })
                .collect();
            let map_root = self.tree(2 * id, epoch, &map);
            let (previous, previous_epoch, dead_root) = match &before {
                Some((previous, born, blocks)) => {
                    let dead = self.joined(blocks, *born);
                    (*previous, *born, self.tree(2 * id + 1, epoch, &dead))
                }
                None => (0, 0, None),
            };
            let mut uuid = [0; 16];
            uuid[..8].copy_from_slice(&id.to_le_bytes());
            objects.push(ObjectRecord {
                id,
                kind: if is_last {
                    ObjectKind::Replica
                } else {
                    ObjectKind::Snapshot
                },
                state: ObjectState::Live,
                block_shift: 12,
                is_thick: false,
                home: home as u16,
                uuid,
                map: 2 * id,
                base: 0,
                dead: 2 * id + 1,
                size: 2 * blocks,
                reserved: 0,
                previous,
                previous_epoch,
                epoch: if is_last { 0 } else { epoch },
                map_root,
                dead_root,
                mapped: blocks,
                created_s: 0,
                name: format!("v{id}"),
                attributes: Vec::new(),
            });
            before = Some((id, epoch, here));
        }
    }

    fn write_bitmaps(&mut self) {
        for (slab, bitmap) in std::mem::take(&mut self.bitmaps) {
            let (bytes, crc) = bitmap.emit(&self.uuid, slab, 1, 2);
            let record = &mut self.slabs[slab as usize];
            record.bitmap_crc = crc;
            record.bitmap_version = 0;
            let twin = record.twin;
            for copy in 0..2 {
                let block = self.geometry.bitmap(0, copy);
                for slab in [slab, twin] {
                    if slab != NO_TWIN {
                        let place = self.place(slab, block);
                        self.write(place, &bytes);
                    }
                }
            }
        }
    }

    fn write_page(&mut self, position: u32, bytes: &[u8]) {
        let table = self.root.table_slabs[(position / self.geometry.slab_blocks) as usize];
        for copy in 0..2 {
            let block = self.geometry.chunk(table.chunk[copy])
                + u64::from(position % self.geometry.slab_blocks);
            self.write((usize::from(table.disk[copy]), block), bytes);
        }
    }

    fn write_root(&mut self, objects: &[ObjectRecord]) {
        let mut position = self.root.slab_pages.len() as u32;
        let slabs = std::mem::take(&mut self.slabs);
        let mut directory = Vec::new();
        for records in slabs.chunks(SLABS_PER_PAGE) {
            let (bytes, crc) = emit_slab_page(records, &self.uuid, (position, 2));
            self.write_page(position, &bytes);
            directory.push(DirectoryEntry { position, crc });
            position += 1;
        }
        self.root.slab_pages = directory;
        let mut directory = Vec::new();
        for records in objects.chunks(OBJECTS_PER_PAGE) {
            let (bytes, crc) = emit_object_page(records, &self.uuid, (position, 2));
            self.write_page(position, &bytes);
            directory.push(DirectoryEntry { position, crc });
            position += 1;
        }
        self.root.object_pages = directory;
        self.root.checkpoint = 2;
        self.root.object_next = objects.len() as u64 + 1;
        self.root.map_next = 2 * objects.len() as u64 + 2;
        let bytes = self.root.emit(&self.uuid);
        for disk in 0..2 {
            let blocks = self.disks[disk].blocks();
            for area in [Area::Front, Area::Back] {
                let block = self.geometry.root_slot(blocks, area, 0);
                self.write((disk, block), &bytes);
            }
        }
    }
}

/// Carries out requests at once, and counts them.
struct Driver {
    disks: Vec<Disk>,
    pool: Pool,
    reads: u64,
    writes: u64,
    blocks: u64,
    next_tag: u64,
}

impl Driver {
    fn open(disks: Vec<Disk>) -> Result<(Self, Opening), String> {
        // The peak counts from here on.
        std::fs::write("/proc/self/clear_refs", "5").map_err(|error| error.to_string())?;
        let before = resident_kib("VmRSS");
        let begun = Instant::now();
        let sizes: Vec<u64> = disks.iter().map(Disk::blocks).collect();
        let mut driver = Self {
            pool: Pool::open(&sizes, Limits::default(), Mutation::None),
            disks,
            reads: 0,
            writes: 0,
            blocks: 0,
            next_tag: 1,
        };
        driver.serve();
        if driver.pool.status() != Status::Ready {
            return Err(format!("{:?}", driver.pool.status()));
        }
        let opening = Opening {
            reads: driver.reads,
            writes: driver.writes,
            blocks: driver.blocks,
            took: begun.elapsed(),
            memory_kib: resident_kib("VmHWM").saturating_sub(before),
        };
        Ok((driver, opening))
    }

    fn carry_out(&mut self, request: &Request) -> DoneResult {
        let disk = &mut self.disks[request.disk];
        match &request.op {
            DeviceOp::Read {
                block,
                count,
                target,
            } => {
                self.reads += 1;
                self.blocks += u64::from(*count);
                let all = (*block..*block + u64::from(*count)).filter_map(|block| disk.read(block));
                Ok(match target {
                    Target::Core => {
                        let mut bytes = Vec::with_capacity(*count as usize * BLOCK);
                        all.for_each(|block| bytes.extend_from_slice(&block));
                        Done::Bytes(bytes)
                    }
                    Target::Host { .. } | Target::Merge { .. } | Target::Check => {
                        Done::Crcs(all.map(|block| plain_crc(&block)).collect())
                    }
                })
            }
            DeviceOp::Write { block, source } => {
                self.writes += 1;
                let zero = |count: u32| vec![0; count as usize * BLOCK];
                let ids = match source {
                    Source::Core(bytes) => disk.submit(*block, bytes),
                    Source::Host { count, .. } => disk.submit(*block, &zero(*count)),
                };
                disk.complete(&ids);
                Ok(Done::Nothing)
            }
            DeviceOp::Discard { .. } => Ok(Done::Nothing),
            DeviceOp::Flush => {
                self.writes += 1;
                let covered = disk.flush_begins();
                disk.flush_ends(&covered);
                Ok(Done::Nothing)
            }
        }
    }

    fn serve(&mut self) {
        while let Some(request) = self.pool.poll_request() {
            let result = self.carry_out(&request);
            self.pool.handle_done(request.id, result);
        }
    }

    fn call(&mut self, op: HostOp) -> Result<Answer, String> {
        self.pool.submit(self.next_tag, op);
        self.next_tag += 1;
        self.serve();
        let (_, result) = self.pool.poll_answer().ok_or("not answered")?;
        result.map_err(|error: PoolError| error.to_string())
    }
}

/// Makes a pool of so many replicas and snapshots of each, with so many extents, opens it, uses it, cuts the power, and opens it again.
///
/// # Errors
/// What went wrong.
pub fn open_huge((replicas, snapshots): (u64, u64), extents: u64) -> Result<Huge, String> {
    let each = (extents / (replicas * (snapshots + 1))).max(1);
    let mut builder = Builder::new()?;
    let mut objects = Vec::new();
    for replica in 0..replicas {
        builder.family(&mut objects, replica, (snapshots, each));
    }
    builder.write_bitmaps();
    builder.write_root(&objects);
    let live: Vec<u64> = objects
        .iter()
        .filter(|object| object.kind == ObjectKind::Replica)
        .map(|object| object.id)
        .collect();
    let all: Vec<u64> = objects.iter().map(|object| object.id).collect();
    let report = check(&mut Reader(&builder.disks)).map_err(|error| error.to_string())?;
    if !report.is_clean() {
        return Err(format!("{:?}", report.faults.first()));
    }
    let disks = builder.disks;
    drop(objects);
    let (mut driver, clean) = Driver::open(disks)?;
    let mut rng = Rng::new(1);
    let reads = driver.reads;
    for _ in 0..READS {
        let object = all[rng.below(all.len() as u64) as usize];
        let block = 2 * rng.below(each);
        driver.call(HostOp::Read {
            object,
            block,
            count: 1,
        })?;
    }
    let reads_each = (driver.reads - reads) as f64 / READS as f64;
    let writes = driver.writes;
    driver.call(HostOp::Snapshot {
        object: live[0],
        uuid: [0xFF; 16],
        name: "one more".to_owned(),
    })?;
    // The flush of each disk is not a write.
    let snapshot_writes = driver.writes - writes - 2;
    let crc = plain_crc(&[0; BLOCK]);
    for _ in 0..TAIL {
        let object = live[rng.below(live.len() as u64) as usize];
        let block = rng.below(2 * each);
        driver.call(HostOp::Write {
            object,
            block,
            crcs: vec![crc],
            fua: false,
        })?;
    }
    let cut = driver.disks.iter().map(|disk| disk.cut(&mut |_| Keep::All));
    let cut: Vec<Disk> = cut.collect();
    drop(driver);
    let (driver, crashed) = Driver::open(cut)?;
    Ok(Huge {
        objects: driver.pool.objects().count(),
        extents: each * all.len() as u64,
        clean,
        crashed,
        reads_each,
        snapshot_writes,
        reachable: report.reachable,
    })
}
