//! What a root and a slab table must fulfil before anything is derived from them: checks that a CRC does not make.

use pool_format::{BLOCK, DiskState, Geometry, Root, SLABS_PER_PAGE, SlabKind, SlabRecord};

use crate::api::{Limits, PoolError};

pub(crate) fn check_root(root: &Root, geometry: &Geometry) -> Result<(), PoolError> {
    let chunks = |disk: u16| {
        root.disks
            .get(usize::from(disk))
            .map_or(0, |disk| geometry.chunks(disk.blocks))
    };
    for slab in &root.table_slabs {
        if (0..2).any(|copy| slab.chunk[copy] >= chunks(slab.disk[copy])) {
            return Err(PoolError::Damaged("a table slab lies outside its disk"));
        }
    }
    let positions = root.table_slabs.len() as u64 * u64::from(geometry.slab_blocks);
    let mut pages = root.slab_pages.iter().chain(&root.object_pages);
    // Counters that only grow by one have no way to get near the end of their range.
    let counters = [
        root.checkpoint,
        root.journal_start,
        root.epoch,
        root.object_next,
        root.map_next,
    ];
    if counters.iter().any(|counter| *counter > 1 << 60) {
        return Err(PoolError::Damaged("root"));
    }
    let is_gone = |disk: &u16| {
        let entry = root.disks.get(usize::from(*disk));
        entry.is_none_or(|entry| entry.state == DiskState::Gone)
    };
    if root
        .root_disks
        .iter()
        .chain(&root.journal_disks)
        .any(is_gone)
    {
        return Err(PoolError::Damaged("metadata on a disk that is gone"));
    }
    let is_outside = pages.any(|page| u64::from(page.position) >= positions);
    let is_short = root.slab_pages.len() != (root.slabs as usize).div_ceil(SLABS_PER_PAGE);
    if is_outside
        || is_short
        || root.journal_start == 0
        || root
            .disks
            .iter()
            .any(|disk| disk.blocks < geometry.blocks_min())
    {
        return Err(PoolError::Damaged("root"));
    }
    Ok(())
}

pub(crate) fn check_slabs(
    slabs: &[SlabRecord],
    root: &Root,
    geometry: &Geometry,
) -> Result<(), PoolError> {
    let mut chunks = std::collections::BTreeSet::new();
    for slab in slabs {
        let disk = root.disks.get(usize::from(slab.disk));
        let is_inside = disk.is_some_and(|disk| slab.chunk < geometry.chunks(disk.blocks));
        if !is_inside || !chunks.insert((slab.disk, slab.chunk)) {
            return Err(PoolError::Damaged(
                "a slab lies outside its disk or on another",
            ));
        }
        let is_gone = disk.is_some_and(|disk| disk.state == DiskState::Gone);
        if is_gone && slab.kind != SlabKind::Leaving {
            return Err(PoolError::Damaged("a slab lies on a disk that is gone"));
        }
    }
    for (number, slab) in slabs.iter().enumerate() {
        let other = match slab.kind {
            SlabKind::Meta => SlabKind::MetaTwin,
            SlabKind::MetaTwin => SlabKind::Meta,
            SlabKind::Table => SlabKind::TableTwin,
            SlabKind::TableTwin => SlabKind::Table,
            SlabKind::Free | SlabKind::Data | SlabKind::Leaving => continue,
        };
        let twin = slabs.get(slab.twin as usize);
        if !twin.is_some_and(|twin| twin.kind == other && twin.twin as usize == number) {
            return Err(PoolError::Damaged("a metadata slab without its twin"));
        }
    }
    for table in &root.table_slabs {
        let is_at = |slab: u32, copy: usize| {
            let slab = slabs.get(slab as usize);
            slab.filter(|slab| (slab.disk, slab.chunk) == (table.disk[copy], table.chunk[copy]))
        };
        let first = is_at(table.slab, 0).filter(|slab| slab.kind == SlabKind::Table);
        if first.and_then(|slab| is_at(slab.twin, 1)).is_none() {
            return Err(PoolError::Damaged("the root names another table slab"));
        }
    }
    if slabs.len() != root.slabs as usize {
        return Err(PoolError::Damaged("slab table"));
    }
    Ok(())
}

/// Bounds that a pool of this geometry needs kept, whatever was asked for.
pub(crate) fn fit(limits: Limits, geometry: &Geometry) -> Limits {
    // Open regions are listed in the root; half of it is theirs.
    let in_root = geometry.root_blocks as usize * BLOCK / 16;
    Limits {
        regions_open_max: limits.regions_open_max.clamp(4, in_root.max(4)),
        reserve_slabs: limits.reserve_slabs.max(2),
        ..limits
    }
}
