//! What is written to make disks a pool: everything but the labels first, then the labels (`docs/disk-format.md` §6 case 1).

use pool_format::{
    BLOCK, DirectoryEntry, DiskEntry, DiskState, Features, Geometry, Label, Root, SLABS_PER_PAGE,
    SlabKind, SlabRecord, TableSlab, Uuid, emit_slab_page,
};

use crate::api::PoolError;
use crate::tables::{free_slab, root_places};

/// A disk to become a member.
#[derive(Clone, Copy, Debug)]
pub struct CreateDisk {
    /// UUID it gets.
    pub uuid: Uuid,
    /// Its size in blocks.
    pub blocks: u64,
    /// What it writes whole or not at all, in bytes.
    pub atomic_unit: u32,
}

/// A pool to be made.
#[derive(Clone, Debug)]
pub struct CreatePool {
    /// UUID it gets.
    pub uuid: Uuid,
    /// Its name.
    pub name: String,
    /// Sizes of its structures.
    pub geometry: Geometry,
    /// Its disks, at least one.
    pub disks: Vec<CreateDisk>,
    /// Seconds since 1970.
    pub created_s: u64,
}

/// Whole blocks to write.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct CreateWrite {
    /// Position of the disk in [`CreatePool::disks`].
    pub disk: usize,
    /// First block.
    pub block: u64,
    /// What.
    pub bytes: Vec<u8>,
}

pub(crate) fn empty_root() -> Root {
    Root {
        checkpoint: 0,
        journal_start: 1,
        journal_chain: 0,
        era: 0,
        epoch: 1,
        object_next: 1,
        map_next: 1,
        journal_disks: [0, 0],
        root_disks: [0, 0],
        disks: Vec::new(),
        slabs: 0,
        table_slabs: Vec::new(),
        slab_pages: Vec::new(),
        object_pages: Vec::new(),
        open_regions: Vec::new(),
    }
}

/// The writes that make a pool, in two parts: the driver writes the first, flushes, writes the second (the labels), and flushes.
///
/// # Errors
/// `Malformed` for a geometry out of range, `Invalid` for no disks or one that is too small.
pub fn plan_create(pool: &CreatePool) -> Result<[Vec<CreateWrite>; 2], PoolError> {
    let geometry = pool.geometry;
    geometry.check().map_err(PoolError::Malformed)?;
    let is_small = |disk: &CreateDisk| disk.blocks < geometry.blocks_min() || disk.blocks > 1 << 48;
    if pool.disks.is_empty() || pool.disks.len() > 64 || pool.disks.iter().any(is_small) {
        return Err(PoolError::Invalid);
    }
    let mut slabs: Vec<SlabRecord> = Vec::new();
    for (disk, member) in pool.disks.iter().enumerate() {
        let chunks = 0..geometry.chunks(member.blocks);
        slabs.extend(chunks.map(|chunk| free_slab(disk as u16, chunk)));
    }
    let second = (pool.disks.len() > 1) as u16;
    let mut root = Root {
        checkpoint: 1,
        era: 1,
        journal_disks: [0, second],
        root_disks: [0, second],
        slabs: slabs.len() as u32,
        ..empty_root()
    };
    root.disks = pool
        .disks
        .iter()
        .map(|disk| DiskEntry {
            uuid: disk.uuid,
            blocks: disk.blocks,
            state: DiskState::InService,
        })
        .collect();
    add_table_slabs(&mut root, &mut slabs, &geometry)?;
    let mut first = Vec::new();
    for (page, records) in slabs.chunks(SLABS_PER_PAGE).enumerate() {
        let position = page as u32;
        let (bytes, crc) = emit_slab_page(records, &pool.uuid, (position, 1));
        let table = root.table_slabs[(position / geometry.slab_blocks) as usize];
        for copy in 0..2 {
            first.push(CreateWrite {
                disk: usize::from(table.disk[copy]),
                block: geometry.chunk(table.chunk[copy])
                    + u64::from(position % geometry.slab_blocks),
                bytes: bytes.clone(),
            });
        }
        root.slab_pages.push(DirectoryEntry { position, crc });
    }
    if root.emitted_len() > geometry.root_blocks as usize * BLOCK {
        return Err(PoolError::Invalid);
    }
    let bytes = root.emit(&pool.uuid);
    for (disk, block) in root_places(&geometry, &root) {
        let bytes = bytes.clone();
        first.push(CreateWrite { disk, block, bytes });
    }
    Ok([first, labels(pool)])
}

/// Takes slabs for the table space: twice the slab table, and as much again for objects.
fn add_table_slabs(
    root: &mut Root,
    slabs: &mut [SlabRecord],
    geometry: &Geometry,
) -> Result<(), PoolError> {
    let pages = slabs.len().div_ceil(SLABS_PER_PAGE);
    let count = (4 * pages + 16).div_ceil(geometry.slab_blocks as usize);
    for _ in 0..count {
        let take = |slabs: &[SlabRecord], disk: u16, not: usize| {
            let mut all = slabs.iter().enumerate();
            let found = all.find(|(slab, record)| {
                record.kind == SlabKind::Free && record.disk == disk && *slab != not
            });
            found.map(|(slab, _)| slab).ok_or(PoolError::Invalid)
        };
        let a = take(slabs, root.root_disks[0], usize::MAX)?;
        let b = take(slabs, root.root_disks[1], a)?;
        (slabs[a].kind, slabs[a].twin) = (SlabKind::Table, b as u32);
        (slabs[b].kind, slabs[b].twin) = (SlabKind::TableTwin, a as u32);
        root.table_slabs.push(TableSlab {
            disk: [slabs[a].disk, slabs[b].disk],
            chunk: [slabs[a].chunk, slabs[b].chunk],
            slab: a as u32,
        });
    }
    Ok(())
}

fn labels(pool: &CreatePool) -> Vec<CreateWrite> {
    let mut writes = Vec::new();
    for (index, disk) in pool.disks.iter().enumerate() {
        let label = Label {
            pool: pool.uuid,
            disk: disk.uuid,
            index: index as u16,
            atomic_unit: disk.atomic_unit,
            features: Features::default(),
            disk_blocks: disk.blocks,
            geometry: pool.geometry,
            sequence: 1,
            created_s: pool.created_s,
            name: pool.name.clone(),
        };
        let last = pool.geometry.last_label(disk.blocks);
        for (copy, block) in [(0, 0), (1, last)] {
            let bytes = label.emit(copy);
            writes.push(CreateWrite {
                disk: index,
                block,
                bytes,
            });
        }
    }
    writes
}
