//! The pool: its state, and how operations and completions move it.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use pool_format::{Bitmap, DiskEntry, DiskState, Label, NodePtr, ObjectRecord, Root, Uuid};

use crate::admit::Lock;
use crate::api::{
    Answer, DeviceError, DoneResult, HostOp, Limits, Mutation, PoolError, Request, Status, Tag,
};
use crate::checkpoint::Checkpoint;
use crate::claim::{Claimant, Claims};
use crate::device::{Devices, MISSING, Purpose};
use crate::flush::Flushes;
use crate::grow::Growth;
use crate::journal::Journal;
use crate::open::Opening;
use crate::overlay::{Overlay, Placed, Segment};
use crate::region::Regions;
use crate::relocate::Relocation;
use crate::reserve::Reserve;
use crate::scrub::Scrub;
use crate::space::Space;
use crate::tree::{self, NodeCache};

/// Steps of deletions between two events, so that operations get their turn.
const DELETIONS_PER_RUN: usize = 4;

/// What an operation waits for.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) enum Wait {
    /// Nothing: run again.
    Now,
    /// A tree node.
    Node(u64),
    /// A bitmap.
    Bitmap(u32),
    /// The page of a region.
    Page(u64),
    /// A region to be sealed.
    Region,
    /// The next flush to end.
    Durable,
    /// Space.
    Space,
    /// An earlier operation on the same range.
    Lock,
    /// Room in the journal and overlay.
    Journal,
    /// Its own device requests or its own flush.
    Own,
    /// The end of a checkpoint.
    Checkpoint,
}

/// Why an operation does not go on.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Stop {
    /// It will.
    Wait(Wait),
    /// It failed.
    Fail(PoolError),
}

impl From<Wait> for Stop {
    fn from(wait: Wait) -> Self {
        Self::Wait(wait)
    }
}

impl From<PoolError> for Stop {
    fn from(error: PoolError) -> Self {
        Self::Fail(error)
    }
}

/// A host operation in progress.
pub(crate) struct Op {
    pub(crate) tag: Tag,
    pub(crate) host: HostOp,
    /// Blocks planned.
    pub(crate) cursor: u64,
    /// Device requests in flight.
    pub(crate) outstanding: u32,
    pub(crate) error: Option<PoolError>,
    pub(crate) is_flushed: bool,
    pub(crate) is_locked: bool,
    /// Ring positions promised.
    pub(crate) promised: u64,
    pub(crate) holes: Vec<(u32, u32)>,
    pub(crate) unverified: u32,
    /// Since when it waits for space.
    pub(crate) since_ms: Option<u64>,
    /// Set when the change is made and only its flush is outstanding.
    pub(crate) answer: Option<Answer>,
    /// CRC-32C of the block that a write of a part became.
    pub(crate) merged: Option<u32>,
    /// The checkpoint whose end it waits for.
    pub(crate) checkpoint: Option<u64>,
}

/// A replica or snapshot.
#[derive(Clone)]
pub(crate) struct Object {
    pub(crate) record: ObjectRecord,
    /// Its place in the object table.
    pub(crate) slot: usize,
    /// Where its last new block went; of a deletion, how far it came.
    pub(crate) cursor: u64,
    /// Its deletion goes on once this checkpoint is durable.
    pub(crate) delete_after: u64,
    /// Until this journal block is durable, blocks born up to this epoch are not written in place: the snapshot that used them may come back.
    pub(crate) shared_until: (u64, u64),
    /// New blocks being written.
    pub(crate) taking: u64,
}

/// A map or dead list.
#[derive(Clone, Copy, Default)]
pub(crate) struct MapInfo {
    pub(crate) root: Option<NodePtr>,
    /// The map it is based on; 0 for none.
    pub(crate) base: u64,
}

/// A native pool.
pub struct Pool {
    pub(crate) uuid: Uuid,
    pub(crate) limits: Limits,
    pub(crate) mutation: Mutation,
    pub(crate) now_ms: u64,
    pub(crate) status: Status,
    pub(crate) opening: Option<Opening>,
    /// What the replay dropped, to be recorded before service begins.
    pub(crate) pending_voids: Vec<pool_format::Record>,
    pub(crate) devices: Devices,
    pub(crate) root: Root,
    pub(crate) space: Space,
    pub(crate) journal: Journal,
    pub(crate) flushes: Flushes,
    pub(crate) regions: Regions,
    pub(crate) objects: BTreeMap<u64, Object>,
    pub(crate) dirty_objects: BTreeSet<usize>,
    pub(crate) reserve: Reserve,
    /// Objects that are not live.
    pub(crate) going: usize,
    /// Labels of the disks, by number.
    pub(crate) labels: Vec<Label>,
    pub(crate) growth: Option<Growth>,
    pub(crate) claims: Option<Claims>,
    /// What the next root will say of each disk.
    pub(crate) states: Vec<DiskState>,
    pub(crate) relocation: Option<Relocation>,
    /// Slabs on disks that leave, less one on its way.
    pub(crate) moves_left: usize,
    /// Slabs with blocks that could not be read.
    pub(crate) unmovable: BTreeSet<u32>,
    /// Disks of the journal's copies in the checkpoint in progress, when they change.
    pub(crate) journal_next: Option<[u16; 2]>,
    pub(crate) scrubs: BTreeMap<u64, Scrub>,
    is_read_only: bool,
    /// Bitmaps that replace those of the newest root.
    pub(crate) rebuilt: BTreeMap<u32, Bitmap>,
    pub(crate) maps: BTreeMap<u64, MapInfo>,
    pub(crate) active: Overlay,
    pub(crate) frozen: Overlay,
    pub(crate) nodes: NodeCache,
    pub(crate) loading_nodes: BTreeSet<u64>,
    pub(crate) lost_nodes: BTreeSet<u64>,
    pub(crate) loading_bitmaps: BTreeSet<u32>,
    pub(crate) lost_bitmaps: BTreeSet<u32>,
    pub(crate) checkpoint: Option<Checkpoint>,
    pub(crate) wants_checkpoint: bool,
    pub(crate) epoch: u64,
    pub(crate) object_next: u64,
    pub(crate) map_next: u64,
    pub(crate) ops: BTreeMap<u64, Op>,
    pub(crate) op_next: u64,
    pub(crate) locks: Vec<Lock>,
    /// Something moved that others may wait for.
    pub(crate) again: bool,
    ready: VecDeque<u64>,
    waits: BTreeMap<Wait, Vec<u64>>,
    answers: VecDeque<(Tag, Result<Answer, PoolError>)>,
}

impl Pool {
    /// Begins opening the pool on disks of these sizes in blocks. [`Pool::status`] says how that went.
    pub fn open(disk_blocks: &[u64], limits: Limits, mutation: Mutation) -> Self {
        let mut pool = Self::blank(limits, mutation);
        pool.devices.is_dirty = vec![true; disk_blocks.len()];
        pool.begin_open(disk_blocks);
        pool
    }

    /// As [`Pool::open`], in the name of `claimant`: refused with [`PoolError::Held`] when another host holds a disk, and stopped with it when
    /// another takes one. Needs [`Pool::handle_time`] while it opens, too.
    pub fn open_claimed(
        disk_blocks: &[u64],
        limits: Limits,
        mutation: Mutation,
        claimant: Claimant,
    ) -> Self {
        let mut pool = Self::open(disk_blocks, limits, mutation);
        pool.claims = Some(Claims::new(claimant));
        pool
    }

    /// As [`Pool::open`], but nothing is ever written, and a pool with disks missing opens all the same: what lies on the others is read, what
    /// does not is answered with [`PoolError::MissingDisk`].
    pub fn open_read_only(disk_blocks: &[u64], limits: Limits) -> Self {
        let mut pool = Self::blank(limits, Mutation::None);
        pool.is_read_only = true;
        pool.devices.is_dirty = vec![false; disk_blocks.len()];
        pool.begin_open(disk_blocks);
        pool
    }

    /// As [`Pool::open`], with bitmaps that a check has rebuilt for the newest root, to be used in place of those on disk.
    pub fn open_rebuilt(
        disk_blocks: &[u64],
        limits: Limits,
        rebuilt: BTreeMap<u32, Bitmap>,
    ) -> Self {
        let mut pool = Self::open(disk_blocks, limits, Mutation::None);
        pool.rebuilt = rebuilt;
        pool
    }

    pub(crate) fn is_read_only(&self) -> bool {
        self.is_read_only
    }

    pub(crate) fn is_missing(&self, disk: usize) -> bool {
        self.devices.order.get(disk) == Some(&MISSING)
    }

    fn blank(limits: Limits, mutation: Mutation) -> Self {
        let uuid = [0; 16];
        let geometry = pool_format::Geometry::TINY;
        Self {
            uuid,
            limits,
            mutation,
            now_ms: 0,
            status: Status::Opening,
            opening: None,
            pending_voids: Vec::new(),
            devices: Devices::default(),
            root: crate::create::empty_root(),
            space: Space::new(geometry, Vec::new()),
            journal: Journal::new(uuid, geometry.journal_blocks, 0, (1, 0), 1, 0),
            flushes: Flushes::default(),
            regions: Regions::default(),
            objects: BTreeMap::new(),
            dirty_objects: BTreeSet::new(),
            reserve: Reserve::default(),
            going: 0,
            labels: Vec::new(),
            growth: None,
            claims: None,
            states: Vec::new(),
            relocation: None,
            moves_left: 0,
            unmovable: BTreeSet::new(),
            journal_next: None,
            scrubs: BTreeMap::new(),
            is_read_only: false,
            rebuilt: BTreeMap::new(),
            maps: BTreeMap::new(),
            active: Overlay::default(),
            frozen: Overlay::default(),
            nodes: NodeCache::new(limits.nodes_max),
            loading_nodes: BTreeSet::new(),
            lost_nodes: BTreeSet::new(),
            loading_bitmaps: BTreeSet::new(),
            lost_bitmaps: BTreeSet::new(),
            checkpoint: None,
            wants_checkpoint: false,
            epoch: 1,
            object_next: 1,
            map_next: 1,
            ops: BTreeMap::new(),
            op_next: 1,
            locks: Vec::new(),
            again: false,
            ready: VecDeque::new(),
            waits: BTreeMap::new(),
            answers: VecDeque::new(),
        }
    }

    /// Where the pool stands.
    pub fn status(&self) -> Status {
        self.status
    }

    /// Replicas and snapshots with their records, in the order they were created.
    pub fn objects(&self) -> impl Iterator<Item = &ObjectRecord> {
        self.objects.values().map(|object| &object.record)
    }

    /// The disks of the pool, by number.
    pub fn disks(&self) -> &[DiskEntry] {
        &self.root.disks
    }

    /// Regions open at this moment.
    pub fn open_regions(&self) -> usize {
        self.regions.open.len()
    }

    /// Whether nothing is in progress: no operation, request, adoption or deletion.
    pub fn is_idle(&self) -> bool {
        if self.is_read_only {
            return self.ops.is_empty() && self.devices.is_idle();
        }
        self.ops.is_empty()
            && self.devices.is_idle()
            && self.flushes.is_idle()
            && self.checkpoint.is_none()
            && !self.regions.is_sealing()
            && !self.regions.is_adopting()
            && !self.is_deleting()
    }

    /// Takes a host operation. Answered exactly once, under `tag`.
    pub fn submit(&mut self, tag: Tag, host: HostOp) {
        match self.status {
            Status::Ready => {}
            Status::Opening => return self.answers.push_back((tag, Err(PoolError::Busy))),
            Status::Failed(_) => return self.answers.push_back((tag, Err(PoolError::Faulted))),
        }
        let is_reading = matches!(
            host,
            HostOp::Read { .. } | HostOp::Extent { .. } | HostOp::Scrub { .. }
        );
        if self.is_read_only && !is_reading {
            return self
                .answers
                .push_back((tag, Err(PoolError::OpenedReadOnly)));
        }
        if self.ops.len() >= self.limits.operations_max {
            return self.answers.push_back((tag, Err(PoolError::Busy)));
        }
        let id = self.op_next;
        self.op_next += 1;
        let op = Op {
            tag,
            host,
            cursor: 0,
            outstanding: 0,
            error: None,
            is_flushed: false,
            is_locked: false,
            promised: 0,
            holes: Vec::new(),
            unverified: 0,
            since_ms: None,
            answer: None,
            merged: None,
            checkpoint: None,
        };
        self.ops.insert(id, op);
        self.ready.push_back(id);
        self.run();
    }

    /// Tells the time, in milliseconds from any beginning, never backwards.
    pub fn handle_time(&mut self, now_ms: u64) {
        self.now_ms = self.now_ms.max(now_ms);
        self.time_claims();
        if self.status == Status::Opening && self.claims.is_some() {
            self.run();
        }
        if self.status != Status::Ready || self.is_read_only {
            return;
        }
        let is_due =
            self.now_ms.saturating_sub(self.flushes.begun_ms) >= self.limits.flush_interval_ms;
        let last = self.journal.next - 1;
        let is_unsettled = self.journal.is_filling()
            || self.journal.settled + 1 < last
            || !self.space.quarantine.is_empty();
        if is_due && is_unsettled {
            // What is being filled now is settled by two runs.
            let newest = if self.journal.is_filling() {
                last + 1
            } else {
                last.saturating_sub(1)
            };
            self.flushes.want_settled(newest);
        }
        self.wake(Wait::Space);
        self.run();
    }

    /// The next request for a device.
    pub fn poll_request(&mut self) -> Option<Request> {
        self.devices.poll()
    }

    /// The next answer.
    pub fn poll_answer(&mut self) -> Option<(Tag, Result<Answer, PoolError>)> {
        self.answers.pop_front()
    }

    /// A device request ended.
    pub fn handle_done(&mut self, id: u64, result: DoneResult) {
        self.dispatch(id, result);
        if let Some(relocation) = &self.relocation {
            // It may wait for what others have in flight.
            self.ready.push_back(relocation.op);
        }
        self.run();
    }

    fn dispatch(&mut self, id: u64, result: DoneResult) {
        let Some((purpose, result)) = self.devices.take(id, result) else {
            return;
        };
        match purpose {
            Purpose::Write(piece) => self.handle_write_piece(piece, result),
            Purpose::Merge(piece) => self.handle_merge(piece, result),
            Purpose::Discard { address } => self.handle_discarded(address),
            Purpose::Read(piece) => self.handle_read_piece(piece, result),
            Purpose::Node { pointer, copy } => self.handle_node(pointer, copy, result),
            Purpose::Bitmap { slab, copy } => self.handle_bitmap(slab, copy, result),
            Purpose::Page { region } => self.handle_page(region, result),
            Purpose::Journal { sequence } => self.handle_journal_written(sequence, result),
            Purpose::Flush => self.handle_flushed(result),
            Purpose::Checkpoint => self.handle_checkpoint_written(result),
            Purpose::Seal => self.handle_seal_written(result),
            Purpose::Adopt { region } => self.handle_adopted(region, result),
            // A copy that cannot be repaired is found again when it is read.
            Purpose::Repair => {}
            Purpose::Open { what } => self.handle_open(what, result),
            Purpose::Scrub { op } => self.handle_scrub(op, result),
            Purpose::Grow => self.handle_grown(result),
            Purpose::Copy => self.handle_copied(result),
            Purpose::Claim { position } => self.handle_claim(position, result),
            // A disk that was removed may do what it likes.
            Purpose::Wipe => {}
        }
    }

    /// Runs what can run: operations first, then what goes on behind them, until nothing changes.
    pub(crate) fn run(&mut self) {
        let mut deletions = DELETIONS_PER_RUN;
        loop {
            self.again = false;
            while let Some(id) = self.ready.pop_front() {
                self.run_op(id);
            }
            while let Some(id) = self.devices.poll_lost() {
                self.again = true;
                self.dispatch(id, Err(DeviceError::Gone));
            }
            match self.status {
                Status::Ready if self.is_read_only => {}
                Status::Ready => {
                    self.step_quarantine();
                    self.step_seal();
                    self.step_adopt();
                    if deletions > 0 {
                        deletions -= 1;
                        self.step_delete();
                    }
                    self.step_checkpoint();
                    self.step_flush();
                    self.step_beat();
                }
                Status::Opening => {
                    if self.opening.as_ref().is_some_and(Opening::wants_checkpoint) {
                        self.step_checkpoint();
                    }
                    self.step_flush();
                    self.step_open();
                }
                Status::Failed(_) => self.fail_all(),
            }
            if self.ready.is_empty() && !self.again && !self.devices.has_lost() {
                return;
            }
        }
    }

    fn run_op(&mut self, id: u64) {
        let Some(mut op) = self.ops.remove(&id) else {
            return;
        };
        match self.step_op(id, &mut op) {
            Ok(answer) => self.finish_op(id, op, Ok(answer)),
            Err(Stop::Fail(error)) if op.outstanding > 0 => {
                op.error = Some(error);
                self.ops.insert(id, op);
            }
            Err(Stop::Fail(error)) => self.finish_op(id, op, Err(error)),
            Err(Stop::Wait(Wait::Now)) => {
                self.ops.insert(id, op);
                self.ready.push_back(id);
            }
            // Whoever it waits for resumes it.
            Err(Stop::Wait(Wait::Own)) => {
                self.ops.insert(id, op);
            }
            Err(Stop::Wait(wait)) => {
                self.ops.insert(id, op);
                self.waits.entry(wait).or_default().push(id);
            }
        }
    }

    fn step_op(&mut self, id: u64, op: &mut Op) -> Result<Answer, Stop> {
        if let Some(error) = op.error {
            return Err(if op.outstanding > 0 {
                Wait::Own.into()
            } else {
                error.into()
            });
        }
        if let Some(answer) = &op.answer {
            return self.await_flush(id, op.is_flushed, answer.clone());
        }
        match &op.host {
            HostOp::Read {
                object,
                block,
                count,
            } => self.step_read(id, op, (*object, *block, *count)),
            HostOp::Write {
                object, block, fua, ..
            } => self.step_write(id, op, (*object, *block, *fua)),
            HostOp::WritePart {
                object, block, fua, ..
            } => self.step_part(id, op, (*object, *block, *fua)),
            HostOp::Unmap {
                object,
                block,
                count,
            } => self.step_unmap(id, op, (*object, *block, *count)),
            HostOp::Flush => self.change_made(id, op, Answer::Done),
            HostOp::Create { .. }
            | HostOp::Snapshot { .. }
            | HostOp::Clone { .. }
            | HostOp::Delete { .. }
            | HostOp::Resize { .. } => self.step_object(id, op),
            HostOp::Checkpoint => {
                let wanted = *op.checkpoint.get_or_insert_with(|| {
                    // One in progress does not contain what came after it was frozen.
                    self.root.checkpoint + 1 + u64::from(self.checkpoint.is_some())
                });
                if self.root.checkpoint >= wanted {
                    return Ok(Answer::Done);
                }
                self.wants_checkpoint = true;
                Err(Wait::Checkpoint.into())
            }
            HostOp::Seal => {
                self.begin_seal(usize::MAX);
                Ok(Answer::Done)
            }
            HostOp::Extent { object, block } => self.step_extent((*object, *block)),
            HostOp::Scrub { from } => {
                let from = *from;
                self.step_scrub(id, op, from)
            }
            HostOp::AddDisk(_) | HostOp::GrowDisk { .. } => self.step_growth(id, &op.host),
            HostOp::Evacuate { .. }
            | HostOp::KeepDisk { .. }
            | HostOp::RemoveDisk { .. }
            | HostOp::Double => self.step_relocation(id, op),
            HostOp::Release => self.step_release(id, op),
        }
    }

    /// The change is made; answers when a flush that begins from here on is over.
    pub(crate) fn change_made(
        &mut self,
        id: u64,
        op: &mut Op,
        answer: Answer,
    ) -> Result<Answer, Stop> {
        op.answer = Some(answer);
        op.is_flushed = false;
        self.flushes.want(crate::flush::Waiter::Op(id));
        Err(Wait::Own.into())
    }

    fn await_flush(&mut self, _id: u64, is_flushed: bool, answer: Answer) -> Result<Answer, Stop> {
        if is_flushed {
            Ok(answer)
        } else {
            Err(Wait::Own.into())
        }
    }

    fn finish_op(&mut self, id: u64, op: Op, result: Result<Answer, PoolError>) {
        self.journal.promised -= op.promised;
        self.scrubs.remove(&id);
        if op.is_locked {
            self.unlock(id);
        }
        self.answers.push_back((op.tag, result));
        self.wake(Wait::Journal);
    }

    pub(crate) fn resume(&mut self, id: u64) {
        self.ready.push_back(id);
    }

    pub(crate) fn resume_flushed(&mut self, id: u64) {
        if let Some(op) = self.ops.get_mut(&id) {
            op.is_flushed = true;
        }
        self.resume(id);
    }

    pub(crate) fn wake(&mut self, wait: Wait) {
        if let Some(ids) = self.waits.remove(&wait) {
            self.ready.extend(ids);
        }
    }

    /// Stops the pool: a metadata write or a flush failed, and what is on disk is not what it should be.
    pub(crate) fn fault(&mut self) {
        self.status = Status::Failed(PoolError::Faulted);
    }

    fn fail_all(&mut self) {
        for op in std::mem::take(&mut self.ops).into_values() {
            self.answers.push_back((op.tag, Err(PoolError::Faulted)));
        }
    }

    /// The run of blocks from `key` on: its length, where it lies, and the journal block that says so (0 when a tree does).
    pub(crate) fn find(
        &mut self,
        map: u64,
        key: u64,
        max: u64,
    ) -> Result<(u64, Option<Placed>, u64), Stop> {
        let (mut map, mut max) = (map, max);
        loop {
            for overlay in [&self.active, &self.frozen] {
                match overlay.segment(map, key, max) {
                    Segment::Changed {
                        len,
                        value,
                        sequence,
                    } => return Ok((len, value, sequence)),
                    Segment::Unchanged { len } => max = len,
                }
            }
            let info = self.maps.get(&map).copied().unwrap_or_default();
            if info.base != 0 {
                map = info.base;
                continue;
            }
            return match tree::find(&mut self.nodes, info.root, key, max) {
                Ok((len, value)) => Ok((len, value, 0)),
                Err(miss) if self.lost_nodes.contains(&miss.0.address) => {
                    Err(PoolError::MapUnreadable.into())
                }
                Err(miss) => Err(self.load_node(miss.0).into()),
            };
        }
    }
}
