//! Where things lie on a disk and in a slab (`docs/disk-format.md` §2).

use crate::Malformed;

/// Which end of a disk.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Area {
    /// Behind the first label.
    Front,
    /// Before the last label.
    Back,
}

/// Sizes chosen when a pool is created, in blocks; fields of the label.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Geometry {
    /// Blocks of a slab, 16 to 32,768.
    pub slab_blocks: u32,
    /// Data blocks that share an integrity page, 1 to 1,020.
    pub region_blocks: u32,
    /// Blocks of a root slot, 1 to 1,024.
    pub root_blocks: u32,
    /// Blocks of each copy of the journal, 16 to 1,048,576.
    pub journal_blocks: u32,
}

/// Bitmap places at the end of a slab: two versions, two copies.
const BITMAPS: u32 = 4;

impl Geometry {
    /// For disks.
    pub const DEFAULT: Self = Self {
        slab_blocks: 4096,
        region_blocks: 1020,
        root_blocks: 128,
        journal_blocks: 16_384,
    };

    /// Small enough for a pool of 4 MiB, with the same proportions.
    pub const TINY: Self = Self {
        slab_blocks: 64,
        region_blocks: 14,
        root_blocks: 2,
        journal_blocks: 48,
    };

    /// # Errors
    /// `Value` naming the first field out of its range.
    pub fn check(&self) -> Result<(), Malformed> {
        if !(16..=32_768).contains(&self.slab_blocks) {
            return Err(Malformed::Value("slab_blocks"));
        }
        if !(1..=1020).contains(&self.region_blocks) || self.region_blocks + 5 > self.slab_blocks {
            return Err(Malformed::Value("region_blocks"));
        }
        if !(1..=1024).contains(&self.root_blocks) {
            return Err(Malformed::Value("root_blocks"));
        }
        if !(16..=1 << 20).contains(&self.journal_blocks) {
            return Err(Malformed::Value("journal_blocks"));
        }
        Ok(())
    }

    /// Block of the last label on a disk of `disk_blocks`, which is at least [`Geometry::blocks_min`].
    pub fn last_label(&self, disk_blocks: u64) -> u64 {
        disk_blocks - 1
    }

    /// First block of a root slot (0 or 1) at one end.
    pub fn root_slot(&self, disk_blocks: u64, area: Area, slot: u64) -> u64 {
        let root = u64::from(self.root_blocks);
        match area {
            Area::Front => 2 + root * slot,
            Area::Back => disk_blocks - 1 - 2 * root + root * slot,
        }
    }

    /// First block of a copy (0 or 1) of the journal.
    pub fn journal(&self, copy: u64) -> u64 {
        2 + 2 * u64::from(self.root_blocks) + copy * u64::from(self.journal_blocks)
    }

    /// First block of a chunk.
    pub fn chunk(&self, chunk: u32) -> u64 {
        self.journal(2) + u64::from(chunk) * u64::from(self.slab_blocks)
    }

    /// Chunks on a disk of `disk_blocks`.
    pub fn chunks(&self, disk_blocks: u64) -> u32 {
        let around = self.chunk(0) + 2 * u64::from(self.root_blocks) + 1;
        let inside = disk_blocks.saturating_sub(around) / u64::from(self.slab_blocks);
        u32::try_from(inside).unwrap_or(u32::MAX - 1)
    }

    /// Blocks of the smallest disk that can be a member: room for four chunks.
    pub fn blocks_min(&self) -> u64 {
        self.chunk(4) + 2 * u64::from(self.root_blocks) + 1
    }

    /// Regions in a data slab.
    pub fn regions(&self) -> u32 {
        (self.slab_blocks - BITMAPS) / (self.region_blocks + 1)
    }

    /// Data blocks in a data slab.
    pub fn data_blocks(&self) -> u32 {
        self.regions() * self.region_blocks
    }

    /// Nodes a metadata slab has room for.
    pub fn node_blocks(&self) -> u32 {
        self.slab_blocks - BITMAPS
    }

    /// Block in a slab of a bitmap version (0 or 1) and copy (0 or 1).
    pub fn bitmap(&self, version: u32, copy: u32) -> u32 {
        self.slab_blocks - BITMAPS + 2 * copy + version
    }

    /// Slab of an address.
    pub fn slab_of(&self, address: u64) -> u32 {
        u32::try_from(address / u64::from(self.slab_blocks)).unwrap_or(u32::MAX)
    }

    /// Block in its slab of an address.
    pub fn offset_of(&self, address: u64) -> u32 {
        (address % u64::from(self.slab_blocks)) as u32
    }

    /// Address of a block in a slab.
    pub fn address(&self, slab: u32, offset: u32) -> u64 {
        u64::from(slab) * u64::from(self.slab_blocks) + u64::from(offset)
    }

    /// Region of a data address and the index of the block in it; `None` where no data lies.
    pub fn region_of(&self, address: u64) -> Option<(u64, u32)> {
        let offset = self.offset_of(address);
        let (region, index) = (
            offset / (self.region_blocks + 1),
            offset % (self.region_blocks + 1),
        );
        let is_data = region < self.regions() && index < self.region_blocks;
        is_data.then(|| {
            let slab = address / u64::from(self.slab_blocks);
            (slab * u64::from(self.regions()) + u64::from(region), index)
        })
    }

    /// Address of the first data block of a region.
    pub fn region_start(&self, region: u64) -> u64 {
        let (slab, inside) = (
            region / u64::from(self.regions()),
            region % u64::from(self.regions()),
        );
        slab * u64::from(self.slab_blocks) + inside * u64::from(self.region_blocks + 1)
    }

    /// Address of a region's integrity page.
    pub fn region_page(&self, region: u64) -> u64 {
        self.region_start(region) + u64::from(self.region_blocks)
    }
}
