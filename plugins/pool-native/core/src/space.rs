//! Which blocks are in use: slabs, bitmaps, and the quarantine of freed blocks.
//!
//! A block has two states that differ for a while: *logical*, what records say, goes into checkpoints; *used* also covers blocks being written and
//! blocks in quarantine, and is what allocation looks at.
//!
//! Invariants: logical implies used; a bitmap in memory agrees with all records so far; changes of slabs not in memory wait in `pending`.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use pool_format::{Bitmap, Geometry, NO_TWIN, SLABS_PER_PAGE, SlabKind, SlabRecord};

pub(crate) struct Bits {
    pub(crate) used: Bitmap,
    pub(crate) logical: Bitmap,
}

/// Freed blocks that are not yet reusable.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Held {
    pub(crate) address: u64,
    pub(crate) len: u32,
    /// Journal block of the record that freed them; 0 when none had named them.
    pub(crate) sequence: u64,
    /// Operations up to this number may still read them.
    pub(crate) stamp: u64,
}

/// What a checkpoint in progress sees instead of later changes.
#[derive(Default)]
pub(crate) struct Frozen {
    pub(crate) bits: BTreeMap<u32, Bitmap>,
    pub(crate) slabs: BTreeMap<u32, SlabRecord>,
    pub(crate) pages: BTreeSet<usize>,
    /// Slabs whose bitmap is to be written.
    pub(crate) touched: BTreeSet<u32>,
}

/// Outcome of looking for free blocks.
pub(crate) enum Found {
    Run { address: u64, len: u32 },
    Load(u32),
    Assign(u32),
    Nothing,
}

pub(crate) struct Space {
    pub(crate) geometry: Geometry,
    pub(crate) slabs: Vec<SlabRecord>,
    pub(crate) bits: BTreeMap<u32, Bits>,
    pending: BTreeMap<u32, Vec<(u32, u32, bool)>>,
    pub(crate) quarantine: VecDeque<Held>,
    to_discard: VecDeque<Held>,
    /// By first address.
    pub(crate) discarding: BTreeMap<u64, Held>,
    dirty_pages: BTreeSet<usize>,
    dirty_bits: BTreeSet<u32>,
    pub(crate) frozen: Option<Frozen>,
    counts: Counts,
    /// Blocks being written to new places that no record names yet.
    taken: u64,
}

/// Slabs by use, kept up with every change.
#[derive(Clone, Copy, Default)]
struct Counts {
    free: usize,
    meta: usize,
    meta_free: usize,
    data_free: u64,
}

impl Counts {
    fn count(&mut self, record: &SlabRecord, nodes: usize, comes: bool) {
        let change =
            |count: &mut usize, by: usize| *count = if comes { *count + by } else { *count - by };
        match record.kind {
            SlabKind::Free => change(&mut self.free, 1),
            SlabKind::Meta => {
                change(&mut self.meta, 1);
                change(&mut self.meta_free, usize::from(record.free).min(nodes));
            }
            SlabKind::Data => {
                let by = u64::from(record.free);
                self.data_free = if comes {
                    self.data_free + by
                } else {
                    self.data_free - by
                };
            }
            SlabKind::MetaTwin | SlabKind::Table | SlabKind::TableTwin | SlabKind::Leaving => {}
        }
    }
}

impl Space {
    pub(crate) fn new(geometry: Geometry, slabs: Vec<SlabRecord>) -> Self {
        let mut counts = Counts::default();
        for record in &slabs {
            counts.count(record, geometry.node_blocks() as usize, true);
        }
        Self {
            counts,
            taken: 0,
            geometry,
            slabs,
            bits: BTreeMap::new(),
            pending: BTreeMap::new(),
            quarantine: VecDeque::new(),
            to_discard: VecDeque::new(),
            discarding: BTreeMap::new(),
            dirty_pages: BTreeSet::new(),
            dirty_bits: BTreeSet::new(),
            frozen: None,
        }
    }

    /// The disk and block of an address; `copy` 1 is the twin of metadata. `None` for an address no slab has.
    pub(crate) fn locate(&self, address: u64, copy: usize) -> Option<(usize, u64)> {
        let mut slab = self.slabs.get(self.geometry.slab_of(address) as usize)?;
        if copy == 1 {
            slab = self.slabs.get(slab.twin as usize)?;
        }
        let offset = u64::from(self.geometry.offset_of(address));
        Some((
            usize::from(slab.disk),
            self.geometry.chunk(slab.chunk) + offset,
        ))
    }

    /// Whether an address is one where data lies.
    pub(crate) fn is_data(&self, address: u64) -> bool {
        let slab = self.slabs.get(self.geometry.slab_of(address) as usize);
        slab.is_some_and(|slab| slab.kind == SlabKind::Data)
            && self.geometry.region_of(address).is_some()
    }

    /// Changes a slab's record.
    pub(crate) fn set_slab(&mut self, slab: u32, record: SlabRecord) {
        let old = self.slabs[slab as usize];
        if let Some(frozen) = &mut self.frozen {
            frozen.slabs.entry(slab).or_insert(old);
        }
        self.replace(slab, record);
        self.dirty_pages.insert(slab as usize / SLABS_PER_PAGE);
    }

    fn replace(&mut self, slab: u32, record: SlabRecord) {
        let nodes = self.geometry.node_blocks() as usize;
        let old = std::mem::replace(&mut self.slabs[slab as usize], record);
        self.counts.count(&old, nodes, false);
        self.counts.count(&record, nodes, true);
    }

    /// Nodes in use, and free ones in metadata slabs.
    pub(crate) fn nodes(&self) -> (usize, usize) {
        let nodes = self.geometry.node_blocks() as usize;
        let used = self.counts.meta * nodes - self.counts.meta_free;
        (used, self.counts.meta_free)
    }

    /// Free nodes of metadata slabs.
    pub(crate) fn free_nodes(&self) -> usize {
        self.counts.meta_free
    }

    /// Free blocks of data slabs, without those being written; blocks in quarantine count as free.
    pub(crate) fn free_data(&self) -> u64 {
        self.counts.data_free.saturating_sub(self.taken)
    }

    /// Changes a slab's record in the checkpoint in progress and after.
    pub(crate) fn set_slab_frozen(&mut self, slab: u32, change: impl Fn(&mut SlabRecord)) {
        let mut record = self.slabs[slab as usize];
        change(&mut record);
        self.replace(slab, record);
        if let Some(frozen) = &mut self.frozen {
            if let Some(old) = frozen.slabs.get_mut(&slab) {
                change(old);
            }
            frozen.pages.insert(slab as usize / SLABS_PER_PAGE);
        }
    }

    /// Takes a free slab for data.
    pub(crate) fn assign(&mut self, slab: u32) -> SlabRecord {
        let old = self.slabs[slab as usize];
        let record = SlabRecord {
            kind: SlabKind::Data,
            generation: old.generation.wrapping_add(1),
            bitmap_crc: 0,
            bitmap_version: 0,
            twin: NO_TWIN,
            free: self.geometry.data_blocks() as u16,
            ..old
        };
        self.set_slab(slab, record);
        self.bits.insert(slab, self.empty_bits());
        record
    }

    pub(crate) fn empty_bits(&self) -> Bits {
        Bits {
            used: Bitmap::new(self.geometry.slab_blocks),
            logical: Bitmap::new(self.geometry.slab_blocks),
        }
    }

    /// A record says that blocks are in use, or are not.
    pub(crate) fn record(&mut self, address: u64, len: u32, in_use: bool) {
        let slab = self.geometry.slab_of(address);
        let offset = self.geometry.offset_of(address);
        if slab as usize >= self.slabs.len() || offset + len > self.geometry.slab_blocks {
            return;
        }
        let mut record = self.slabs[slab as usize];
        if in_use {
            record.free = record.free.saturating_sub(len as u16);
        } else {
            record.free = record.free.saturating_add(len as u16);
        }
        self.set_slab(slab, record);
        self.dirty_bits.insert(slab);
        match self.bits.get_mut(&slab) {
            Some(bits) => {
                for block in offset..offset + len {
                    bits.logical.set(block, in_use);
                    if in_use {
                        bits.used.set(block, true);
                    }
                }
            }
            None => self
                .pending
                .entry(slab)
                .or_default()
                .push((offset, len, in_use)),
        }
    }

    /// Keeps freed blocks from being reused until they are released.
    pub(crate) fn hold(&mut self, held: Held) {
        let end = self.geometry.offset_of(held.address) + held.len;
        if (self.geometry.slab_of(held.address) as usize) < self.slabs.len()
            && end <= self.geometry.slab_blocks
        {
            self.quarantine.push_back(held);
        }
    }

    /// Drops the blocks from quarantine that `is_held` does not want there, by address and sequence number.
    pub(crate) fn hold_only(&mut self, is_held: impl Fn(u64, u64) -> bool) {
        for held in std::mem::take(&mut self.quarantine) {
            let mut run = Held { len: 0, ..held };
            for address in held.address..held.address + u64::from(held.len) {
                if is_held(address, held.sequence) {
                    if run.len == 0 {
                        run.address = address;
                    }
                    run.len += 1;
                } else if run.len > 0 {
                    self.quarantine.push_back(run);
                    run.len = 0;
                }
            }
            if run.len > 0 {
                self.quarantine.push_back(run);
            }
        }
    }

    /// Takes out of quarantine what `is_free` lets go.
    pub(crate) fn release(&mut self, is_free: impl Fn(&Held) -> bool) -> Vec<Held> {
        let all = std::mem::take(&mut self.quarantine).into_iter();
        let (gone, kept): (Vec<Held>, Vec<Held>) = all.partition(is_free);
        self.quarantine = kept.into();
        gone
    }

    /// Keeps released blocks until they are discarded, joined with what they continue, up to `most` blocks.
    pub(crate) fn hold_discard(&mut self, held: Held, most: u32) {
        match self.to_discard.back_mut() {
            Some(last)
                if last.address + u64::from(last.len) == held.address
                    && self.geometry.slab_of(last.address)
                        == self.geometry.slab_of(held.address)
                    && last.len + held.len <= most =>
            {
                last.len += held.len;
            }
            Some(_) | None => self.to_discard.push_back(held),
        }
    }

    /// The next blocks to discard, kept as being discarded.
    pub(crate) fn next_discard(&mut self) -> Option<Held> {
        let held = self.to_discard.pop_front()?;
        self.discarding.insert(held.address, held);
        Some(held)
    }

    /// Blocks in quarantine, and blocks waiting for their discard.
    pub(crate) fn reclaiming(&self) -> (u64, u64) {
        let sum = |held: &Held| u64::from(held.len);
        let discards = self.to_discard.iter().chain(self.discarding.values());
        (
            self.quarantine.iter().map(sum).sum(),
            discards.map(sum).sum(),
        )
    }

    pub(crate) fn unuse(&mut self, address: u64, len: u32) {
        let slab = self.geometry.slab_of(address);
        let offset = self.geometry.offset_of(address);
        if let Some(bits) = self.bits.get_mut(&slab) {
            for block in offset..offset + len {
                if !bits.logical.is_set(block) {
                    bits.used.set(block, false);
                }
            }
        }
    }

    /// Takes in a bitmap read from disk, brought up to date.
    pub(crate) fn load(&mut self, slab: u32, base: Bitmap) {
        if let Some(frozen) = &mut self.frozen {
            frozen.bits.entry(slab).or_insert_with(|| base.clone());
        }
        let mut logical = base;
        for (offset, len, in_use) in self.pending.remove(&slab).unwrap_or_default() {
            for block in offset..offset + len {
                logical.set(block, in_use);
            }
        }
        let mut used = logical.clone();
        let discards = self.to_discard.iter().chain(self.discarding.values());
        for held in self.quarantine.iter().chain(discards) {
            if self.geometry.slab_of(held.address) == slab {
                let offset = self.geometry.offset_of(held.address);
                for block in offset..offset + held.len {
                    used.set(block, true);
                }
            }
        }
        self.bits.insert(slab, Bits { used, logical });
    }

    /// Takes in a bitmap in place of the one on disk: the next checkpoint writes it.
    pub(crate) fn rebuild(&mut self, slab: u32, base: Bitmap) {
        let Some(record) = self.slabs.get(slab as usize).copied() else {
            return;
        };
        self.load(slab, base);
        self.dirty_bits.insert(slab);
        if record.kind == SlabKind::Data {
            let in_use = self.bits.get(&slab).map_or(0, |bits| bits.logical.count());
            let free = self.geometry.data_blocks().saturating_sub(in_use) as u16;
            self.set_slab(slab, SlabRecord { free, ..record });
        }
    }

    /// A slab with changes whose bitmap is not in memory.
    pub(crate) fn unloaded_change(&self) -> Option<u32> {
        self.pending.keys().next().copied()
    }

    /// Blocks for data on `disk`: near `cursor`, in a slab in memory, in one to be read, or in a free one when `may_assign`.
    pub(crate) fn find(&self, disk: u16, cursor: u64, want: u32, may_assign: bool) -> Found {
        let near = self.geometry.slab_of(cursor);
        let is_ours = |slab: u32| {
            let record = self.slabs.get(slab as usize);
            record.is_some_and(|record| record.kind == SlabKind::Data && record.disk == disk)
        };
        if is_ours(near)
            && want > 0
            && let Some(found) = self.run_in(near, self.geometry.offset_of(cursor), want)
        {
            return found;
        }
        let mine = self.bits.keys().copied().filter(|slab| is_ours(*slab));
        for slab in mine.take_while(|_| want > 0) {
            if let Some(found) = self.run_in(slab, 0, want) {
                return found;
            }
        }
        let free_here = self
            .slabs
            .iter()
            .enumerate()
            .filter(|(_, record)| record.disk == disk);
        let mut assignable = None;
        for (slab, record) in free_here {
            let slab = slab as u32;
            let is_data = record.kind == SlabKind::Data && record.free > 0 && want > 0;
            if is_data && !self.bits.contains_key(&slab) {
                return Found::Load(slab);
            }
            if record.kind == SlabKind::Free && assignable.is_none() {
                assignable = Some(slab);
            }
        }
        match assignable {
            Some(slab) if may_assign => Found::Assign(slab),
            Some(_) | None => Found::Nothing,
        }
    }

    fn run_in(&self, slab: u32, from: u32, want: u32) -> Option<Found> {
        let bits = self.bits.get(&slab)?;
        let blocks = self.geometry.slab_blocks;
        let is_free = |offset: u32| {
            let address = self.geometry.address(slab, offset);
            !bits.used.is_set(offset) && self.geometry.region_of(address).is_some()
        };
        let start = (from..blocks)
            .chain(0..from)
            .find(|offset| is_free(*offset))?;
        let len = (start..blocks)
            .take(want as usize)
            .take_while(|offset| is_free(*offset))
            .count();
        Some(Found::Run {
            address: self.geometry.address(slab, start),
            len: len as u32,
        })
    }

    /// Whether a block of a slab is in use, being written or in quarantine; so is every block of one whose bitmap is not in memory.
    pub(crate) fn is_used(&self, slab: u32, block: u32) -> bool {
        self.bits
            .get(&slab)
            .is_none_or(|bits| bits.used.is_set(block))
    }

    /// Two slabs change places, as the root that was just written says.
    pub(crate) fn exchange(&mut self, first: u32, second: u32) {
        let (a, b) = (self.slabs[first as usize], self.slabs[second as usize]);
        for (slab, place) in [(first, b), (second, a)] {
            let record = &mut self.slabs[slab as usize];
            (record.disk, record.chunk) = (place.disk, place.chunk);
        }
    }

    pub(crate) fn free_slabs(&self) -> usize {
        self.counts.free
    }

    /// Blocks being written have been recorded, or given back.
    pub(crate) fn taken_no_more(&mut self, len: u32) {
        self.taken = self.taken.saturating_sub(u64::from(len));
    }

    /// Which of `count` blocks from `address` on are in use, by a bitmap in memory.
    pub(crate) fn in_use(&self, address: u64, count: u32) -> Vec<bool> {
        let offset = self.geometry.offset_of(address);
        match self.bits.get(&self.geometry.slab_of(address)) {
            Some(bits) => (offset..offset + count)
                .map(|block| bits.logical.is_set(block))
                .collect(),
            None => Vec::new(),
        }
    }

    /// More slabs, free ones.
    pub(crate) fn append(&mut self, slabs: Vec<SlabRecord>) {
        let nodes = self.geometry.node_blocks() as usize;
        for record in slabs {
            self.counts.count(&record, nodes, true);
            self.slabs.push(record);
        }
    }

    /// Marks blocks as being written.
    pub(crate) fn take(&mut self, address: u64, len: u32) {
        self.taken += u64::from(len);
        let (slab, offset) = (
            self.geometry.slab_of(address),
            self.geometry.offset_of(address),
        );
        let bits = self
            .bits
            .get_mut(&slab)
            .expect("blocks come from a bitmap in memory");
        for block in offset..offset + len {
            bits.used.set(block, true);
        }
    }

    /// Begins a checkpoint: what it will write is what is logical at this moment.
    pub(crate) fn freeze(&mut self) {
        let mut frozen = Frozen {
            pages: std::mem::take(&mut self.dirty_pages),
            touched: std::mem::take(&mut self.dirty_bits),
            ..Frozen::default()
        };
        for (slab, bits) in &self.bits {
            let is_meta = self.slabs[*slab as usize].kind == SlabKind::Meta;
            if frozen.touched.contains(slab) || is_meta {
                frozen.bits.insert(*slab, bits.logical.clone());
            }
        }
        self.frozen = Some(frozen);
    }

    /// Addresses for `count` nodes out of metadata slabs in memory, as many as there are.
    pub(crate) fn take_nodes(&mut self, count: usize) -> Vec<u64> {
        let mut taken = Vec::new();
        for (slab, bits) in &mut self.bits {
            if self.slabs[*slab as usize].kind != SlabKind::Meta {
                continue;
            }
            for offset in 0..self.geometry.node_blocks() {
                if taken.len() == count {
                    return taken;
                }
                if bits.used.set(offset, true) {
                    taken.push(self.geometry.address(*slab, offset));
                }
            }
        }
        taken
    }

    /// Gives back node addresses that were not used.
    pub(crate) fn return_nodes(&mut self, addresses: &[u64]) {
        for address in addresses {
            self.unuse(*address, 1);
        }
    }

    /// The checkpoint in progress uses a node, or stops using one.
    pub(crate) fn record_node(&mut self, address: u64, in_use: bool) {
        let (slab, offset) = (
            self.geometry.slab_of(address),
            self.geometry.offset_of(address),
        );
        if let Some(bits) = self.bits.get_mut(&slab) {
            bits.logical.set(offset, in_use);
        }
        if let Some(frozen) = &mut self.frozen {
            frozen.touched.insert(slab);
            if let Some(image) = frozen.bits.get_mut(&slab) {
                image.set(offset, in_use);
            }
        }
    }
}
