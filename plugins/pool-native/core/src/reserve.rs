//! Thick replicas: what is set aside for them, and what is left for others (`docs/disk-format.md` §5).
//!
//! A thick replica has its whole size reserved: `reserved` of its record is what it may still take, and sinks with every block it takes. Blocks
//! set aside are not placed: they are a number that others leave free, in data slabs and in free slabs, with the metadata they may need.
//!
//! Invariant: what is free in data slabs and in free slabs beyond the metadata reserve, and beyond what slabs of leaving disks go to, covers all
//! that is reserved.

use pool_format::{MovedClass, MovedOut, ObjectKind, ObjectState};

use crate::api::Mutation;
use crate::pool::{Object, Pool};

/// Entries of a leaf when it was split, at least: a map of so many blocks a leaf is never fuller of leaves.
const BLOCKS_PER_LEAF: u64 = 80;

/// Sums over live thick replicas.
#[derive(Clone, Copy, Default, Debug)]
pub(crate) struct Reserve {
    /// Blocks they may still take, less those being written.
    outstanding: u64,
    /// Nodes their maps and dead lists may need.
    nodes: u64,
}

/// Nodes that the map and dead list of a replica of this size may need at most.
fn nodes_of(size: u64) -> u64 {
    2 * (size / BLOCKS_PER_LEAF + 2)
}

/// Blocks an object may still begin to take.
fn outstanding(object: &Object) -> u64 {
    let reserved = object.record.reserved.min(object.record.size);
    reserved.saturating_sub(object.taking)
}

fn is_reserving(object: &Object) -> bool {
    let record = &object.record;
    record.is_thick && record.kind == ObjectKind::Replica && record.state == ObjectState::Live
}

impl Pool {
    /// Adds up anew, after objects came, went or changed their size.
    pub(crate) fn recount_reserve(&mut self) {
        let is_going = |object: &&Object| object.record.state != ObjectState::Live;
        self.going = self.objects.values().filter(is_going).count();
        let mut reserve = Reserve::default();
        for object in self.objects.values().filter(|object| is_reserving(object)) {
            let nodes = nodes_of(object.record.size);
            reserve.outstanding = reserve.outstanding.saturating_add(outstanding(object));
            reserve.nodes = reserve.nodes.saturating_add(nodes);
        }
        self.reserve = reserve;
    }

    /// Blocks set aside for thick replicas that they have not taken.
    pub fn reserved_blocks(&self) -> u64 {
        self.reserve.outstanding
    }

    /// Blocks set aside for thick replicas that nothing free stands for. Always none.
    pub fn uncovered_blocks(&self) -> u64 {
        let per_slab = u64::from(self.space.geometry.data_blocks());
        let slabs = self.space.free_slabs() as u64;
        let there = self.space.free_data() + per_slab * slabs;
        self.reserve.outstanding.saturating_sub(there)
    }

    /// Nodes kept for thick replicas.
    pub(crate) fn reserved_nodes(&self) -> usize {
        self.reserve.nodes as usize
    }

    pub(crate) fn is_thick(&self, object: u64) -> bool {
        self.objects.get(&object).is_some_and(is_reserving)
    }

    /// A thick replica begins to write `count` new blocks, or did not get to write them.
    pub(crate) fn count_taking(&mut self, object: u64, count: u64, begins: bool) {
        let Some(object) = self.objects.get_mut(&object).filter(|o| is_reserving(o)) else {
            return;
        };
        let before = outstanding(object);
        object.taking = if begins {
            object.taking + count
        } else {
            object.taking.saturating_sub(count)
        };
        let sum = &mut self.reserve.outstanding;
        *sum = sum
            .saturating_sub(before)
            .saturating_add(outstanding(object));
    }

    /// A record took `count` new blocks for a map, and `moved` went out of it: keeps the counts of the object that owns the map.
    pub(crate) fn account(&mut self, object: u64, count: u64, moved: &[MovedOut]) {
        let Some(object) = self.objects.get_mut(&object) else {
            return;
        };
        let is_reserving = is_reserving(object);
        let gone: u64 = moved.iter().map(|extent| u64::from(extent.len)).sum();
        object.record.mapped = (object.record.mapped + count).saturating_sub(gone);
        self.dirty_objects.insert(object.slot);
        if is_reserving {
            let before = outstanding(object);
            let own = moved
                .iter()
                .filter(|extent| extent.class == MovedClass::Free);
            let freed: u64 = own.map(|extent| u64::from(extent.len)).sum();
            // Freed first: a write may displace its own block when nothing is left to take.
            let reserved = (object.record.reserved + freed).saturating_sub(count);
            object.record.reserved = reserved.min(object.record.size);
            let sum = &mut self.reserve.outstanding;
            *sum = sum
                .saturating_sub(before)
                .saturating_add(outstanding(object));
        }
    }

    /// Free blocks in data slabs, those being written not counted; and free slabs beyond the metadata reserve, with `nodes` more for it.
    fn free_space(&self, nodes: u64) -> (u64, Option<u64>) {
        let per_slab = u64::from(self.space.geometry.node_blocks());
        let missing = self
            .reserve
            .nodes
            .saturating_add(nodes)
            .saturating_sub(self.space.free_nodes() as u64);
        let kept = u64::from(self.limits.reserve_slabs)
            + 2 * missing.div_ceil(per_slab)
            + self.moves_left as u64;
        let slabs = (self.space.free_slabs() as u64).checked_sub(kept);
        (self.space.free_data(), slabs)
    }

    /// Blocks set aside that others leave free.
    fn respected(&self) -> u64 {
        match self.mutation == Mutation::IgnoreReserve {
            true => 0,
            false => self.reserve.outstanding,
        }
    }

    /// Blocks others may take out of data slabs, and whether they may take a free slab.
    pub(crate) fn unreserved(&self) -> (u64, bool) {
        let per_slab = u64::from(self.space.geometry.data_blocks());
        let (free, slabs) = self.free_space(0);
        let slabs = slabs.unwrap_or(0);
        let outstanding = self.respected();
        let uncovered = |slabs: u64| outstanding.saturating_sub(per_slab.saturating_mul(slabs));
        let may_assign = slabs > 0 && free + per_slab > uncovered(slabs - 1);
        (free.saturating_sub(uncovered(slabs)), may_assign)
    }

    /// Whether a thick replica may take a free slab: one that was counted on, or one that nobody counts on.
    pub(crate) fn may_assign_thick(&self) -> bool {
        let (free, slabs) = self.free_space(0);
        self.space.free_slabs() > 0
            && (self.reserve.outstanding > free || slabs.is_some_and(|slabs| slabs > 0))
    }

    /// Whether `blocks` more can be set aside, for a thick replica that becomes `size` blocks larger.
    pub(crate) fn can_reserve(&self, blocks: u64, size: u64) -> bool {
        let per_slab = u64::from(self.space.geometry.data_blocks());
        let nodes = if size == 0 { 0 } else { nodes_of(size) };
        let (free, slabs) = self.free_space(nodes);
        let all = self.reserve.outstanding.saturating_add(blocks);
        slabs.is_some_and(|slabs| all <= free.saturating_add(per_slab.saturating_mul(slabs)))
    }

    /// Free slabs that are promised to somebody: to metadata, to slabs on disks that leave, to thick replicas.
    pub(crate) fn promised_slabs(&self) -> usize {
        let (_, slabs) = self.free_space(0);
        let free = self.space.free_slabs();
        let kept = slabs.map_or(free, |slabs| free - slabs as usize);
        kept + self.thick_slabs()
    }

    /// Free slabs that thick replicas count on for data.
    pub(crate) fn thick_slabs(&self) -> usize {
        let per_slab = u64::from(self.space.geometry.data_blocks());
        let uncovered = self.respected().saturating_sub(self.space.free_data());
        uncovered.div_ceil(per_slab) as usize
    }
}
