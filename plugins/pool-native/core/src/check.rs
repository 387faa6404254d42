//! Looks at the durable state: whether allocation equals reachability, and every copy is good (`docs/disk-format.md` §7, §11).
//!
//! Works on what the newest root made valid, and on the journal behind it only as far as its copies go: tree, tables and bitmaps of one root
//! agree whatever the journal says. Reads blocks one at a time through [`Blocks`], so that a test or an offline tool can lend them.
//!
//! Bounds: 32 bytes for each extent, 16 for each node.

use std::collections::{BTreeMap, BTreeSet};

use pool_format::{
    Area, BLOCK, Bitmap, DiskState, Geometry, JournalBlock, JournalHeader, Label, Node, NodeBody,
    NodePtr, ObjectKind, ObjectRecord, ObjectState, Root, SlabKind, SlabRecord, Uuid,
    parse_object_page, parse_slab_page,
};

use crate::api::PoolError;
use crate::fault::{CheckReport, Fault, Fix};
use crate::sane::{check_root, check_slabs};
use crate::tables::root_places;

/// Where a check reads.
pub trait Blocks {
    /// Blocks of each disk, in any order.
    fn sizes(&self) -> Vec<u64>;
    /// Block `block` of the disk at position `disk`; `None` when it cannot be read.
    fn block(&mut self, disk: usize, block: u64) -> Option<Vec<u8>>;
}

/// A run of addresses in use: first, blocks, birth.
type Used = (u64, u32, u64);

struct Checker<'a> {
    blocks: &'a mut dyn Blocks,
    uuid: Uuid,
    geometry: Geometry,
    root: Root,
    /// Position of each disk of the pool.
    order: Vec<Option<usize>>,
    slabs: Vec<SlabRecord>,
    used: Vec<Used>,
    seen: BTreeSet<u64>,
    report: CheckReport,
}

/// Checks the pool on these disks.
///
/// # Errors
/// `NoPool`, `Malformed`, `Damaged` when there is nothing to begin with.
pub fn check(blocks: &mut dyn Blocks) -> Result<CheckReport, PoolError> {
    let mut ends = Ends::read(blocks)?;
    let newest = ends.newest.clone();
    let root = newest_root(blocks, &ends, &newest).ok_or(PoolError::Damaged("no valid root"))?;
    check_root(&root, &newest.geometry)?;
    let mut report = CheckReport::default();
    ends.judge(&root, &mut report)?;
    let order = root.disks.iter().map(|entry| ends.find(&entry.uuid));
    let mut checker = Checker {
        blocks,
        uuid: newest.pool,
        geometry: newest.geometry,
        order: order.collect(),
        root,
        slabs: Vec::new(),
        used: Vec::new(),
        seen: BTreeSet::new(),
        report,
    };
    for (disk, place) in checker.order.iter().enumerate() {
        if place.is_none() && checker.root.disks[disk].state != DiskState::Gone {
            checker.report.faults.push(Fault::MissingDisk(disk as u16));
        }
    }
    checker.roots();
    let objects = checker.tables()?;
    checker.journal();
    checker.report.objects = objects.len();
    for object in &objects {
        let is_between = object.state == ObjectState::Deleting
            && object.kind == ObjectKind::Snapshot
            && objects.iter().any(|other| other.previous == object.id);
        if !is_between {
            checker.tree(object.map_root, object.id);
        }
        checker.tree(object.dead_root, object.id);
    }
    checker.compare();
    Ok(checker.report)
}

/// Labels by position and end.
struct Ends {
    labels: BTreeMap<(usize, bool), Label>,
    sizes: Vec<u64>,
    newest: Label,
}

impl Ends {
    fn read(blocks: &mut dyn Blocks) -> Result<Self, PoolError> {
        let sizes = blocks.sizes();
        let mut labels = BTreeMap::new();
        let mut error = PoolError::NoPool;
        for (disk, size) in sizes.iter().enumerate() {
            for (is_last, block) in [(false, 0), (true, size.saturating_sub(1))] {
                match Label::parse(&blocks.block(disk, block).unwrap_or_default()) {
                    Ok(label) => {
                        labels.insert((disk, is_last), label);
                    }
                    Err(
                        what @ (pool_format::Malformed::Version(_)
                        | pool_format::Malformed::Features(_)),
                    ) => error = PoolError::Malformed(what),
                    Err(_) => {}
                }
            }
        }
        let newest = labels.values().max_by_key(|label| label.sequence);
        let newest = newest.cloned().ok_or(error)?;
        let is_other =
            |label: &Label| label.pool != newest.pool || label.geometry != newest.geometry;
        if labels.values().any(is_other) {
            return Err(PoolError::Damaged("disks of different pools"));
        }
        Ok(Self {
            labels,
            sizes,
            newest,
        })
    }

    fn find(&self, uuid: &Uuid) -> Option<usize> {
        let mut all = self.labels.iter();
        all.find(|(_, label)| label.disk == *uuid)
            .map(|((disk, _), _)| *disk)
    }

    /// Both labels of a disk of the pool say what the newer one says.
    ///
    /// # Errors
    /// `Damaged` when a disk is smaller than its label or the root says.
    fn judge(&mut self, root: &Root, report: &mut CheckReport) -> Result<(), PoolError> {
        let members = root.disks.iter();
        for entry in members.filter(|entry| entry.state != DiskState::Gone) {
            let Some(disk) = self.find(&entry.uuid) else {
                continue;
            };
            let both = [false, true].map(|is_last| self.labels.get(&(disk, is_last)).cloned());
            let newer = both.iter().flatten().max_by_key(|label| label.sequence);
            let Some(newer) = newer.cloned() else {
                continue;
            };
            if newer.disk_blocks > self.sizes[disk] || entry.blocks > self.sizes[disk] {
                return Err(PoolError::Damaged("a disk is smaller than it should be"));
            }
            // A device larger than its label says has the last one where the label says.
            let is_longer = self.sizes[disk] != newer.disk_blocks;
            for (copy, label) in both.iter().enumerate() {
                if label.as_ref() == Some(&newer) || copy == 1 && is_longer {
                    continue;
                }
                let is_last = copy == 1;
                report.faults.push(Fault::Label { disk, is_last });
                report.fixes.push(Fix {
                    disk,
                    block: if is_last { newer.disk_blocks - 1 } else { 0 },
                    bytes: newer.emit(copy as u8),
                });
            }
        }
        Ok(())
    }
}

fn newest_root(blocks: &mut dyn Blocks, ends: &Ends, label: &Label) -> Option<Root> {
    let mut newest: Option<Root> = None;
    for ((disk, _), end) in &ends.labels {
        for area in [Area::Front, Area::Back] {
            for slot in 0..2 {
                let start = label.geometry.root_slot(end.disk_blocks, area, slot);
                let bytes = read_blocks(blocks, *disk, start, label.geometry.root_blocks);
                if let Ok(root) = Root::parse(&bytes, &label.pool, slot, &label.geometry)
                    && newest
                        .as_ref()
                        .is_none_or(|newest| newest.checkpoint < root.checkpoint)
                {
                    newest = Some(root);
                }
            }
        }
    }
    newest
}

fn read_blocks(blocks: &mut dyn Blocks, disk: usize, start: u64, count: u32) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(count as usize * BLOCK);
    for i in 0..u64::from(count) {
        match blocks.block(disk, start + i) {
            Some(block) => bytes.extend(block),
            None => bytes.resize(bytes.len() + BLOCK, 0),
        }
    }
    bytes
}

impl Checker<'_> {
    fn read(&mut self, (disk, block): (usize, u64)) -> Option<Vec<u8>> {
        let position = (*self.order.get(disk)?)?;
        self.blocks.block(position, block)
    }

    fn is_there(&self, disk: usize) -> bool {
        self.order.get(disk).is_some_and(Option::is_some)
    }

    fn fix(&mut self, (disk, block): (usize, u64), bytes: Vec<u8>) {
        if let Some(Some(disk)) = self.order.get(disk).copied() {
            self.report.fixes.push(Fix { disk, block, bytes });
        }
    }

    /// Every copy of the newest root. One that was being written at a cut may be missing: opening writes it.
    fn roots(&mut self) {
        let root = self.root.clone();
        for (disk, block) in root_places(&self.geometry, &root) {
            let Some(Some(position)) = self.order.get(disk).copied() else {
                continue;
            };
            let bytes = read_blocks(self.blocks, position, block, self.geometry.root_blocks);
            let found = Root::parse(&bytes, &self.uuid, root.slot(), &self.geometry);
            if found.as_ref() != Ok(&root) {
                let disk_number = disk as u16;
                self.report.faults.push(Fault::RootCopy {
                    disk: disk_number,
                    block,
                });
                self.fix((disk, block), root.emit(&self.uuid));
            }
        }
    }

    fn tables(&mut self) -> Result<Vec<ObjectRecord>, PoolError> {
        let uuid = self.uuid;
        for page in self.root.slab_pages.clone() {
            let records = self.page(page.position, |bytes| {
                parse_slab_page(bytes, &uuid, page.position, page.crc).ok()
            });
            self.slabs.extend(records?);
        }
        check_slabs(&self.slabs, &self.root, &self.geometry)?;
        let mut objects = Vec::new();
        for page in self.root.object_pages.clone() {
            objects.extend(self.page(page.position, |bytes| {
                parse_object_page(bytes, &uuid, page.position, page.crc).ok()
            })?);
        }
        Ok(objects)
    }

    fn page<T>(
        &mut self,
        position: u32,
        parse: impl Fn(&[u8]) -> Option<T>,
    ) -> Result<T, PoolError> {
        let blocks = self.geometry.slab_blocks;
        let slab = self.root.table_slabs.get((position / blocks) as usize);
        let slab = *slab.ok_or(PoolError::Damaged("root"))?;
        let place = |copy: usize| {
            let block = self.geometry.chunk(slab.chunk[copy]) + u64::from(position % blocks);
            (usize::from(slab.disk[copy]), block)
        };
        let places = [place(0), place(1)];
        let copies = places.map(|place| self.read(place));
        let good = copies.each_ref().map(|bytes| {
            let bytes = bytes.as_ref()?;
            parse(bytes)
        });
        let best = good.iter().position(Option::is_some);
        let best = best.ok_or(PoolError::Damaged("a table page in both copies"))?;
        let is_bad = good[1 - best].is_none();
        if is_bad && self.is_there(places[1 - best].0) {
            let copy = 1 - best;
            self.report.faults.push(Fault::TablePage { position, copy });
            let bytes = copies[best].clone().unwrap_or_default();
            self.fix(places[copy], bytes);
        }
        let found = good.into_iter().nth(best).flatten();
        found.ok_or(PoolError::Damaged("a table page in both copies"))
    }

    /// Copies of journal blocks that were durable. What lies above the newest mark may be missing anywhere.
    fn journal(&mut self) {
        let ring = u64::from(self.geometry.journal_blocks);
        let (mut next, mut chain) = (self.root.journal_start, self.root.journal_chain);
        let (mut mark, mut bad) = (0, Vec::new());
        while next - self.root.journal_start < ring {
            let copies = [0, 1].map(|copy| self.journal_block(copy, next % ring));
            let is_next = |bytes: &Option<Vec<u8>>| {
                let block = JournalBlock::parse(bytes.as_deref()?, &self.uuid, next % ring).ok()?;
                let is_next = block.header.sequence == next && block.header.chain == chain;
                is_next.then_some((block.header.mark, block.crc))
            };
            let good = copies.each_ref().map(is_next);
            let Some((newest, crc)) = good[0].or(good[1]) else {
                break;
            };
            for copy in 0..2 {
                if good[copy].is_none() {
                    bad.push((next, copy, copies[1 - copy].clone().unwrap_or_default()));
                }
            }
            mark = mark.max(newest);
            (next, chain) = (next + 1, crc);
        }
        self.lost_journal(next);
        for (sequence, copy, bytes) in bad {
            let disk = usize::from(self.root.journal_disks[copy]);
            if sequence <= mark && self.is_there(disk) {
                self.report
                    .faults
                    .push(Fault::JournalCopy { sequence, copy });
                let block = self.geometry.journal(copy as u64) + sequence % ring;
                self.fix((disk, block), bytes);
            }
        }
    }

    /// A block behind the end of the chain that says the end was durable.
    fn lost_journal(&mut self, end: u64) {
        let ring = u64::from(self.geometry.journal_blocks);
        for place in 0..ring {
            for copy in 0..2 {
                let Some(bytes) = self.journal_block(copy, place) else {
                    continue;
                };
                if let Ok((header, _, _)) = JournalHeader::parse(&bytes, &self.uuid, place)
                    && header.sequence >= end
                    && header.mark >= end
                {
                    self.report
                        .faults
                        .push(Fault::JournalLost { sequence: end });
                    return;
                }
            }
        }
    }

    fn journal_block(&mut self, copy: usize, place: u64) -> Option<Vec<u8>> {
        let disk = usize::from(self.root.journal_disks[copy]);
        self.read((disk, self.geometry.journal(copy as u64) + place))
    }

    fn place(&self, address: u64, copy: usize) -> Option<(usize, u64)> {
        let mut slab = self.slabs.get(self.geometry.slab_of(address) as usize)?;
        if copy == 1 {
            slab = self.slabs.get(slab.twin as usize)?;
        }
        let block = self.geometry.chunk(slab.chunk) + u64::from(self.geometry.offset_of(address));
        Some((usize::from(slab.disk), block))
    }

    fn kind(&self, address: u64) -> Option<SlabKind> {
        let slab = self.slabs.get(self.geometry.slab_of(address) as usize);
        slab.map(|slab| slab.kind)
    }

    fn tree(&mut self, root: Option<NodePtr>, object: u64) {
        let mut left: Vec<NodePtr> = root.into_iter().collect();
        while let Some(pointer) = left.pop() {
            // A node that was seen is shared, and so is everything under it.
            if !self.seen.insert(pointer.address) {
                continue;
            }
            if self.kind(pointer.address) == Some(SlabKind::Meta) {
                self.used.push((pointer.address, 1, pointer.birth));
            }
            match self.node(&pointer).map(|node| node.body) {
                Some(NodeBody::Inner(entries)) => {
                    left.extend(entries.iter().map(|entry| entry.child))
                }
                Some(NodeBody::Leaf(entries)) => {
                    for entry in entries {
                        self.extent(entry.address, u32::from(entry.len), entry.birth);
                    }
                }
                None => self.report.faults.push(Fault::NodeLost {
                    address: pointer.address,
                    object,
                }),
            }
        }
    }

    fn node(&mut self, pointer: &NodePtr) -> Option<Node> {
        let address = pointer.address;
        if self.kind(address) != Some(SlabKind::Meta) {
            return None;
        }
        let places = [self.place(address, 0)?, self.place(address, 1)?];
        let copies = places.map(|place| self.read(place));
        let parse = |bytes: &Option<Vec<u8>>| {
            let bytes = bytes.as_deref()?;
            Node::parse(bytes, &self.uuid, pointer).ok()
        };
        let good = copies.each_ref().map(parse);
        let best = good.iter().position(Option::is_some)?;
        let copy = 1 - best;
        if good[copy].is_none() && self.is_there(places[copy].0) {
            self.report.faults.push(Fault::NodeCopy { address, copy });
            let bytes = copies[best].clone().unwrap_or_default();
            self.fix(places[copy], bytes);
        }
        good.into_iter().nth(best).flatten()
    }

    fn extent(&mut self, address: u64, count: u32, birth: u64) {
        let offset = self.geometry.offset_of(address);
        let is_inside =
            u64::from(offset) + u64::from(count) <= u64::from(self.geometry.slab_blocks);
        let is_placed = match self.kind(address).filter(|_| is_inside) {
            Some(SlabKind::Data) => {
                let last = address + u64::from(count) - 1;
                self.geometry.region_of(address).is_some()
                    && self.geometry.region_of(last).map(|(region, _)| region)
                        == self.geometry.region_of(address).map(|(region, _)| region)
            }
            // Dead lists name nodes, too.
            Some(SlabKind::Meta) => true,
            Some(
                SlabKind::Free
                | SlabKind::MetaTwin
                | SlabKind::Table
                | SlabKind::TableTwin
                | SlabKind::Leaving,
            )
            | None => false,
        };
        if is_placed {
            self.used.push((address, count, birth));
        } else {
            self.report.faults.push(Fault::Stray { address, count });
        }
    }

    fn compare(&mut self) {
        let mut used = std::mem::take(&mut self.used);
        used.sort_unstable();
        used.dedup();
        let mut in_use: BTreeMap<u32, Bitmap> = BTreeMap::new();
        let mut before: Option<Used> = None;
        for (address, count, birth) in used {
            if let Some((start, len, born)) = before
                && start + u64::from(len) > address
                && born != birth
            {
                let over = (start + u64::from(len)).min(address + u64::from(count)) - address;
                let count = over as u32;
                self.report.faults.push(Fault::Crossed { address, count });
            }
            let is_further = before
                .is_none_or(|(start, len, _)| start + u64::from(len) <= address + u64::from(count));
            if is_further {
                before = Some((address, count, birth));
            }
            let (slab, offset) = (
                self.geometry.slab_of(address),
                self.geometry.offset_of(address),
            );
            let blocks = self.geometry.slab_blocks;
            let bitmap = in_use.entry(slab).or_insert_with(|| Bitmap::new(blocks));
            (offset..offset + count).for_each(|block| {
                bitmap.set(block, true);
            });
        }
        self.report.reachable = in_use
            .values()
            .map(|bitmap| u64::from(bitmap.count()))
            .sum();
        for slab in 0..self.slabs.len() as u32 {
            if matches!(
                self.slabs[slab as usize].kind,
                SlabKind::Data | SlabKind::Meta
            ) {
                let is = in_use.remove(&slab);
                let is = is.unwrap_or_else(|| Bitmap::new(self.geometry.slab_blocks));
                self.compare_slab(slab, is);
            }
        }
        let is_lost = |fault: &Fault| matches!(fault, Fault::NodeLost { .. } | Fault::Stray { .. });
        if self.report.faults.iter().any(is_lost) {
            self.report.rebuilt.clear();
        }
    }

    fn compare_slab(&mut self, slab: u32, is: Bitmap) {
        let record = self.slabs[slab as usize];
        if !self.is_there(usize::from(record.disk)) {
            return;
        }
        let says = if record.bitmap_crc == 0 {
            Some(Bitmap::new(self.geometry.slab_blocks))
        } else {
            self.bitmap(slab, &record)
        };
        let Some(says) = says else {
            self.report.faults.push(Fault::BitmapLost { slab });
            self.report.rebuilt.insert(slab, is);
            return;
        };
        let before = self.report.faults.len();
        let mut run: Option<(u32, u32, bool)> = None;
        for block in 0..=self.geometry.slab_blocks {
            let is_last = block == self.geometry.slab_blocks;
            let differs = !is_last && says.is_set(block) != is.is_set(block);
            match run {
                Some((start, count, leaks)) if differs && says.is_set(block) == leaks => {
                    run = Some((start, count + 1, leaks));
                    continue;
                }
                Some((start, count, leaks)) => {
                    let address = self.geometry.address(slab, start);
                    self.report.faults.push(if leaks {
                        Fault::Leaked { address, count }
                    } else {
                        Fault::Unmarked { address, count }
                    });
                }
                None => {}
            }
            run = differs.then(|| (block, 1, says.is_set(block)));
        }
        let free = self.geometry.data_blocks().saturating_sub(says.count());
        if record.kind == SlabKind::Data && free != u32::from(record.free) {
            self.report.faults.push(Fault::FreeCount {
                slab,
                says: u32::from(record.free),
                is: free,
            });
        }
        if self.report.faults.len() > before {
            self.report.rebuilt.insert(slab, is);
        }
    }

    fn bitmap(&mut self, slab: u32, record: &SlabRecord) -> Option<Bitmap> {
        let names = (slab, record.generation, record.bitmap_crc);
        let is_meta = record.kind == SlabKind::Meta;
        let mut places = Vec::new();
        for twin in 0..=usize::from(is_meta) {
            for copy in 0..2 {
                let offset = self.geometry.bitmap(u32::from(record.bitmap_version), copy);
                places.push(self.place(self.geometry.address(slab, offset), twin)?);
            }
        }
        let copies: Vec<_> = places.iter().map(|place| self.read(*place)).collect();
        let parse = |bytes: &Option<Vec<u8>>| {
            let bytes = bytes.as_deref()?;
            Bitmap::parse(bytes, &self.uuid, names, self.geometry.slab_blocks).ok()
        };
        let good: Vec<_> = copies.iter().map(parse).collect();
        let best = good.iter().position(Option::is_some)?;
        for (copy, place) in places.into_iter().enumerate() {
            if good[copy].is_none() && self.is_there(place.0) {
                let number = copy as u32;
                self.report
                    .faults
                    .push(Fault::BitmapCopy { slab, copy: number });
                let bytes = copies[best].clone().unwrap_or_default();
                self.fix(place, bytes);
            }
        }
        good.into_iter().nth(best).flatten()
    }
}
