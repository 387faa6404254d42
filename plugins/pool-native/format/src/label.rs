//! The label at both ends of a disk (`docs/disk-format.md` §4.1).

use crate::bytes::{Put, Reader};
use crate::{BLOCK, Geometry, Malformed, Uuid};

const MAGIC: &[u8; 8] = b"IOE-POOL";
const MAJOR: u16 = 1;
const NAME_MAX: usize = 64;

/// Feature bits of a pool.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Features {
    /// An engine that does not know these may read and write.
    pub compatible: u64,
    /// An engine that does not know these may read.
    pub read_only_compatible: u64,
    /// An engine that does not know these refuses.
    pub incompatible: u64,
}

/// What names a disk as a member of a pool.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Label {
    /// The pool.
    pub pool: Uuid,
    /// The disk.
    pub disk: Uuid,
    /// Number of the disk in the pool.
    pub index: u16,
    /// Bytes the device writes whole or not at all, at least 512.
    pub atomic_unit: u32,
    /// Feature bits.
    pub features: Features,
    /// Blocks of the disk, labels included.
    pub disk_blocks: u64,
    /// Sizes of the pool's structures.
    pub geometry: Geometry,
    /// The higher of two differing labels is the newer.
    pub sequence: u64,
    /// Seconds since 1970.
    pub created_s: u64,
    /// Name of the pool, at most 64 bytes; a longer one is cut when emitted.
    pub name: String,
}

impl Label {
    /// The block to write; `copy` 0 for the first, 1 for the last block of the disk.
    pub fn emit(&self, copy: u8) -> Vec<u8> {
        let mut out = Vec::with_capacity(BLOCK);
        out.put(MAGIC);
        out.put_u32(0);
        out.put_u16(MAJOR);
        out.put_u16(0);
        out.put(&self.pool);
        out.put(&self.disk);
        out.put_u16(self.index);
        out.put_u8(copy);
        out.put_u8(BLOCK.trailing_zeros() as u8);
        out.put_u32(self.atomic_unit);
        out.put_u64(self.features.compatible);
        out.put_u64(self.features.read_only_compatible);
        out.put_u64(self.features.incompatible);
        out.put_u64(self.disk_blocks);
        out.put_u32(self.geometry.slab_blocks);
        out.put_u32(self.geometry.region_blocks);
        out.put_u32(self.geometry.root_blocks);
        out.put_u32(self.geometry.journal_blocks);
        out.put_u64(self.sequence);
        out.put_u64(self.created_s);
        let mut cut = self.name.len().min(NAME_MAX);
        while !self.name.is_char_boundary(cut) {
            cut -= 1;
        }
        out.put_u8(cut as u8);
        out.put(&self.name.as_bytes()[..cut]);
        out.resize(BLOCK, 0);
        let crc = crc32c::crc32c(&out[12..]);
        out[8..12].copy_from_slice(&crc.to_le_bytes());
        out
    }

    /// # Errors
    /// `Magic` when the block is no label, `Crc`, `Version`, `Features` when it is one this code must not use, `Value`.
    pub fn parse(bytes: &[u8]) -> Result<Self, Malformed> {
        let bytes = bytes.get(..BLOCK).ok_or(Malformed::Length)?;
        if &bytes[..8] != MAGIC {
            return Err(Malformed::Magic);
        }
        let mut reader = Reader::new(bytes, 8);
        if reader.u32()? != crc32c::crc32c(&bytes[12..]) {
            return Err(Malformed::Crc);
        }
        let major = reader.u16()?;
        if major != MAJOR {
            return Err(Malformed::Version(major));
        }
        reader.skip(2)?;
        let pool = reader.uuid()?;
        let disk = reader.uuid()?;
        let index = reader.u16()?;
        reader.skip(1)?;
        if reader.u8()? != BLOCK.trailing_zeros() as u8 {
            return Err(Malformed::Value("block shift"));
        }
        let atomic_unit = reader.u32()?;
        let features = Features {
            compatible: reader.u64()?,
            read_only_compatible: reader.u64()?,
            incompatible: reader.u64()?,
        };
        if features.incompatible != 0 {
            return Err(Malformed::Features(features.incompatible));
        }
        let disk_blocks = reader.u64()?;
        let geometry = Geometry {
            slab_blocks: reader.u32()?,
            region_blocks: reader.u32()?,
            root_blocks: reader.u32()?,
            journal_blocks: reader.u32()?,
        };
        geometry.check()?;
        if disk_blocks < geometry.blocks_min() || disk_blocks > 1 << 48 {
            return Err(Malformed::Value("disk_blocks"));
        }
        let sequence = reader.u64()?;
        let created_s = reader.u64()?;
        let len = usize::from(reader.u8()?);
        if len > NAME_MAX {
            return Err(Malformed::Value("name"));
        }
        let name = core::str::from_utf8(reader.take(len)?)
            .map_err(|_| Malformed::Value("name"))?
            .to_owned();
        Ok(Self {
            pool,
            disk,
            index,
            atomic_unit,
            features,
            disk_blocks,
            geometry,
            sequence,
            created_s,
            name,
        })
    }
}
