//! The root of a checkpoint (`docs/disk-format.md` §4.3).

use crate::bytes::{Put, Reader};
use crate::check::ENVELOPE;
use crate::{BLOCK, Envelope, Geometry, Malformed, ROOT, Uuid};

/// State of a disk in its pool.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum DiskState {
    /// Takes new data.
    InService,
    /// Is being evacuated.
    Leaving,
    /// Was removed; its number stays taken.
    Gone,
}

/// One disk of the pool.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct DiskEntry {
    /// The disk's UUID.
    pub uuid: Uuid,
    /// Its size in blocks.
    pub blocks: u64,
    /// Its state.
    pub state: DiskState,
}

/// A pair of chunks that hold table pages.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct TableSlab {
    /// Disks of the two copies.
    pub disk: [u16; 2],
    /// Chunks of the two copies.
    pub chunk: [u32; 2],
    /// Slab number of the first.
    pub slab: u32,
}

/// Where a table page is, and its check.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct DirectoryEntry {
    /// Position in the table space.
    pub position: u32,
    /// CRC of the page.
    pub crc: u32,
}

/// Everything a checkpoint makes valid.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Root {
    /// Number of the checkpoint.
    pub checkpoint: u64,
    /// First journal block to replay.
    pub journal_start: u64,
    /// CRC of the journal block before it.
    pub journal_chain: u32,
    /// Raised by each open.
    pub era: u32,
    /// Epoch of new blocks.
    pub epoch: u64,
    /// Next object id.
    pub object_next: u64,
    /// Next id of a map or dead list.
    pub map_next: u64,
    /// Disks of the journal's copies.
    pub journal_disks: [u16; 2],
    /// Disks that hold roots.
    pub root_disks: [u16; 2],
    /// Disks by index.
    pub disks: Vec<DiskEntry>,
    /// Slabs in the pool.
    pub slabs: u32,
    /// The table space.
    pub table_slabs: Vec<TableSlab>,
    /// Pages of the slab table.
    pub slab_pages: Vec<DirectoryEntry>,
    /// Pages of the object table.
    pub object_pages: Vec<DirectoryEntry>,
    /// Regions open at the checkpoint.
    pub open_regions: Vec<u64>,
}

const ARRAYS_AT: usize = 128;

impl Root {
    /// The slot this root is written to.
    pub fn slot(&self) -> u64 {
        self.checkpoint % 2
    }

    /// Whether the disk of this number was removed.
    pub fn is_gone(&self, disk: usize) -> bool {
        let entry = self.disks.get(disk);
        entry.is_some_and(|entry| entry.state == DiskState::Gone)
    }

    /// Bytes this root takes, before padding to blocks; it must fit `root_blocks`.
    pub fn emitted_len(&self) -> usize {
        ARRAYS_AT
            + 32 * self.disks.len()
            + 16 * self.table_slabs.len()
            + 8 * (self.slab_pages.len() + self.object_pages.len() + self.open_regions.len())
    }

    /// Whole blocks to write.
    pub fn emit(&self, uuid: &Uuid) -> Vec<u8> {
        let mut out = vec![0; ENVELOPE];
        out.put_u64(self.journal_start);
        out.put_u32(self.journal_chain);
        out.put_u32(self.era);
        out.put_u64(self.epoch);
        out.put_u64(self.object_next);
        out.put_u64(self.map_next);
        for disk in self.journal_disks.iter().chain(&self.root_disks) {
            out.put_u16(*disk);
        }
        out.put_u32(self.disks.len() as u32);
        out.put_u32(self.slabs);
        out.put_u32(self.table_slabs.len() as u32);
        out.put_u32(self.slab_pages.len() as u32);
        out.put_u32(self.object_pages.len() as u32);
        out.put_u32(self.open_regions.len() as u32);
        out.resize(ARRAYS_AT, 0);
        for disk in &self.disks {
            out.put(&disk.uuid);
            out.put_u64(disk.blocks);
            out.put_u8(match disk.state {
                DiskState::InService => 1,
                DiskState::Leaving => 2,
                DiskState::Gone => 3,
            });
            out.put_zeros(7);
        }
        for slab in &self.table_slabs {
            out.put_u16(slab.disk[0]);
            out.put_u16(slab.disk[1]);
            out.put_u32(slab.chunk[0]);
            out.put_u32(slab.chunk[1]);
            out.put_u32(slab.slab);
        }
        for page in self.slab_pages.iter().chain(&self.object_pages) {
            out.put_u32(page.position);
            out.put_u32(page.crc);
        }
        for region in &self.open_regions {
            out.put_u64(*region);
        }
        Envelope::seal(&mut out, uuid, ROOT, self.slot(), self.checkpoint);
        out
    }

    /// Parses the root in `slot`. `bytes` is the whole slot.
    ///
    /// # Errors
    /// As [`Envelope::open`]; `Length` and `Value` when the counts do not fit.
    pub fn parse(
        bytes: &[u8],
        uuid: &Uuid,
        slot: u64,
        geometry: &Geometry,
    ) -> Result<Self, Malformed> {
        let envelope = Envelope::open(bytes, uuid, ROOT, Some(slot))?;
        if envelope.generation % 2 != slot
            || envelope.length > geometry.root_blocks as usize * BLOCK
        {
            return Err(Malformed::Place);
        }
        let bytes = &bytes[..envelope.length];
        let mut r = Reader::new(bytes, ENVELOPE);
        let (journal_start, journal_chain, era) = (r.u64()?, r.u32()?, r.u32()?);
        let (epoch, object_next, map_next) = (r.u64()?, r.u64()?, r.u64()?);
        let journal_disks = [r.u16()?, r.u16()?];
        let root_disks = [r.u16()?, r.u16()?];
        let (disks, slabs, tables) = (r.u32()?, r.u32()?, r.u32()?);
        let (slab_pages, object_pages, regions) = (r.u32()?, r.u32()?, r.u32()?);
        let mut r = Reader::new(bytes, ARRAYS_AT);
        let disks = array(disks, 32, bytes.len(), || parse_disk(&mut r))?;
        let table_slabs = array(tables, 16, bytes.len(), || parse_table_slab(&mut r))?;
        let mut page = || {
            Ok(DirectoryEntry {
                position: r.u32()?,
                crc: r.u32()?,
            })
        };
        let slab_pages = array(slab_pages, 8, bytes.len(), &mut page)?;
        let object_pages = array(object_pages, 8, bytes.len(), &mut page)?;
        let open_regions = array(regions, 8, bytes.len(), || r.u64())?;
        let is_disk = |index: &u16| usize::from(*index) < disks.len();
        if !journal_disks.iter().chain(&root_disks).all(is_disk) {
            return Err(Malformed::Value("metadata disks"));
        }
        Ok(Self {
            checkpoint: envelope.generation,
            journal_start,
            journal_chain,
            era,
            epoch,
            object_next,
            map_next,
            journal_disks,
            root_disks,
            disks,
            slabs,
            table_slabs,
            slab_pages,
            object_pages,
            open_regions,
        })
    }
}

/// `count` elements of `size` bytes, refused before anything is allocated when the input cannot hold them.
fn array<T>(
    count: u32,
    size: usize,
    available: usize,
    mut element: impl FnMut() -> Result<T, Malformed>,
) -> Result<Vec<T>, Malformed> {
    if (count as usize).saturating_mul(size) > available {
        return Err(Malformed::Length);
    }
    (0..count).map(|_| element()).collect()
}

fn parse_disk(r: &mut Reader<'_>) -> Result<DiskEntry, Malformed> {
    let (uuid, blocks) = (r.uuid()?, r.u64()?);
    let state = match r.u8()? {
        1 => DiskState::InService,
        2 => DiskState::Leaving,
        3 => DiskState::Gone,
        _ => return Err(Malformed::Value("disk state")),
    };
    r.skip(7)?;
    Ok(DiskEntry {
        uuid,
        blocks,
        state,
    })
}

fn parse_table_slab(r: &mut Reader<'_>) -> Result<TableSlab, Malformed> {
    Ok(TableSlab {
        disk: [r.u16()?, r.u16()?],
        chunk: [r.u32()?, r.u32()?],
        slab: r.u32()?,
    })
}
