//! Checking what the newest root describes, offline: every node readable, allocation equal to reachability.
//!
//! Reads what a checkpoint made valid and nothing of the journal behind it.

use std::collections::BTreeSet;

use pool_format::{
    Area, Bitmap, Geometry, Label, Node, NodeBody, NodePtr, ObjectKind, ObjectRecord, ObjectState,
    Root, SlabKind, SlabRecord, Uuid, parse_object_page, parse_slab_page,
};

use crate::api::PoolError;

/// Where a check reads.
pub trait Blocks {
    /// Blocks of each disk, in the pool's order.
    fn sizes(&self) -> Vec<u64>;
    /// Block `block` of disk `disk`; `None` when it cannot be read.
    fn block(&mut self, disk: usize, block: u64) -> Option<Vec<u8>>;
}

/// What a check found.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct CheckReport {
    /// Replicas and snapshots.
    pub objects: usize,
    /// Addresses in use, nodes included.
    pub reachable: usize,
    /// Addresses marked as allocated that nothing uses.
    pub leaked: Vec<u64>,
    /// Addresses in use that are marked as free.
    pub unmarked: Vec<u64>,
    /// Nodes that no copy of is good.
    pub bad_nodes: Vec<u64>,
    /// Slabs whose bitmap no copy of is good.
    pub bad_bitmaps: Vec<u32>,
}

impl CheckReport {
    /// Whether nothing is wrong.
    pub fn is_clean(&self) -> bool {
        self.leaked.is_empty()
            && self.unmarked.is_empty()
            && self.bad_nodes.is_empty()
            && self.bad_bitmaps.is_empty()
    }
}

struct Checker<'a> {
    blocks: &'a mut dyn Blocks,
    uuid: Uuid,
    geometry: Geometry,
    slabs: Vec<SlabRecord>,
    used: BTreeSet<u64>,
    seen: BTreeSet<u64>,
    report: CheckReport,
}

/// Checks the pool on these disks.
///
/// # Errors
/// `NoPool`, `Damaged` when there is nothing to begin with.
pub fn check(blocks: &mut dyn Blocks) -> Result<CheckReport, PoolError> {
    let sizes = blocks.sizes();
    let first = blocks.block(0, 0).ok_or(PoolError::NoPool)?;
    let label = Label::parse(&first).map_err(PoolError::Malformed)?;
    let root = newest_root(blocks, &sizes, &label).ok_or(PoolError::Damaged("no valid root"))?;
    let mut checker = Checker {
        blocks,
        uuid: label.pool,
        geometry: label.geometry,
        slabs: Vec::new(),
        used: BTreeSet::new(),
        seen: BTreeSet::new(),
        report: CheckReport::default(),
    };
    let objects = checker.tables(&root)?;
    checker.report.objects = objects.len();
    for object in &objects {
        let is_between = object.state == ObjectState::Deleting
            && object.kind == ObjectKind::Snapshot
            && objects.iter().any(|other| other.previous == object.id);
        if !is_between {
            checker.tree(object.map_root);
        }
        checker.tree(object.dead_root);
    }
    checker.compare();
    Ok(checker.report)
}

fn newest_root(blocks: &mut dyn Blocks, sizes: &[u64], label: &Label) -> Option<Root> {
    let mut newest: Option<Root> = None;
    for (disk, size) in sizes.iter().enumerate() {
        for area in [Area::Front, Area::Back] {
            for slot in 0..2 {
                let start = label.geometry.root_slot(*size, area, slot);
                let mut bytes = Vec::new();
                for i in 0..u64::from(label.geometry.root_blocks) {
                    bytes.extend(blocks.block(disk, start + i).unwrap_or_default());
                }
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

impl Checker<'_> {
    fn tables(&mut self, root: &Root) -> Result<Vec<ObjectRecord>, PoolError> {
        for page in &root.slab_pages {
            let uuid = self.uuid;
            let records = self.page(root, page.position, |bytes| {
                parse_slab_page(bytes, &uuid, page.position, page.crc).ok()
            });
            self.slabs.extend(records?);
        }
        let mut objects = Vec::new();
        for page in &root.object_pages {
            let uuid = self.uuid;
            objects.extend(self.page(root, page.position, |bytes| {
                parse_object_page(bytes, &uuid, page.position, page.crc).ok()
            })?);
        }
        Ok(objects)
    }

    fn page<T>(
        &mut self,
        root: &Root,
        position: u32,
        parse: impl Fn(&[u8]) -> Option<T>,
    ) -> Result<T, PoolError> {
        let slab = root
            .table_slabs
            .get((position / self.geometry.slab_blocks) as usize);
        let slab = slab.ok_or(PoolError::Damaged("root"))?;
        for copy in 0..2 {
            let block = self.geometry.chunk(slab.chunk[copy])
                + u64::from(position % self.geometry.slab_blocks);
            let bytes = self.blocks.block(usize::from(slab.disk[copy]), block);
            if let Some(found) = bytes.and_then(|bytes| parse(&bytes)) {
                return Ok(found);
            }
        }
        Err(PoolError::Damaged("a table page in both copies"))
    }

    fn read(&mut self, address: u64, copy: usize) -> Option<Vec<u8>> {
        let mut slab = *self.slabs.get(self.geometry.slab_of(address) as usize)?;
        if copy == 1 {
            slab = *self.slabs.get(slab.twin as usize)?;
        }
        let block = self.geometry.chunk(slab.chunk) + u64::from(self.geometry.offset_of(address));
        self.blocks.block(usize::from(slab.disk), block)
    }

    fn tree(&mut self, root: Option<NodePtr>) {
        let mut left: Vec<NodePtr> = root.into_iter().collect();
        while let Some(pointer) = left.pop() {
            // A node that was seen is shared, and so is everything under it.
            if !self.seen.insert(pointer.address) {
                continue;
            }
            self.used.insert(pointer.address);
            let node = (0..2).find_map(|copy| {
                Node::parse(&self.read(pointer.address, copy)?, &self.uuid, &pointer).ok()
            });
            match node.map(|node| node.body) {
                Some(NodeBody::Inner(entries)) => {
                    left.extend(entries.iter().map(|entry| entry.child))
                }
                Some(NodeBody::Leaf(entries)) => {
                    for entry in entries {
                        let offset = self.geometry.offset_of(entry.address);
                        let is_inside = offset + u32::from(entry.len) <= self.geometry.slab_blocks
                            && (self.geometry.slab_of(entry.address) as usize) < self.slabs.len();
                        if !is_inside {
                            self.report.bad_nodes.push(pointer.address);
                            continue;
                        }
                        self.used
                            .extend((0..u64::from(entry.len)).map(|i| entry.address + i));
                    }
                }
                None => self.report.bad_nodes.push(pointer.address),
            }
        }
    }

    fn compare(&mut self) {
        self.report.reachable = self.used.len();
        let mut marked = BTreeSet::new();
        for slab in 0..self.slabs.len() as u32 {
            let record = self.slabs[slab as usize];
            if !matches!(record.kind, SlabKind::Data | SlabKind::Meta) || record.bitmap_crc == 0 {
                continue;
            }
            let names = (slab, record.generation, record.bitmap_crc);
            let bitmap = (0..2).find_map(|copy| {
                let offset = self.geometry.bitmap(u32::from(record.bitmap_version), copy);
                let bytes = self.read(self.geometry.address(slab, offset), 0)?;
                Bitmap::parse(&bytes, &self.uuid, names, self.geometry.slab_blocks).ok()
            });
            let Some(bitmap) = bitmap else {
                self.report.bad_bitmaps.push(slab);
                continue;
            };
            let set = (0..self.geometry.slab_blocks).filter(|block| bitmap.is_set(*block));
            marked.extend(set.map(|block| self.geometry.address(slab, block)));
        }
        self.report.leaked = marked.difference(&self.used).copied().collect();
        self.report.unmarked = self.used.difference(&marked).copied().collect();
    }
}
