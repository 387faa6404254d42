//! Integrity page of a region (`docs/disk-format.md` §4.7).

use crate::bytes::{Put, Reader};
use crate::check::crc_after_uuid;
use crate::{BLOCK, Malformed, Uuid};

const MAGIC: &[u8; 4] = b"INT1";

/// Checks of a region's data blocks.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct IntegrityPage {
    /// Generation of the slab.
    pub generation: u32,
    /// Times the region was sealed.
    pub seals: u32,
    /// Stored check of each block; 0 is unknown.
    pub crcs: Vec<u32>,
}

impl IntegrityPage {
    /// A page that knows nothing.
    pub fn new(generation: u32, blocks: u32) -> Self {
        Self {
            generation,
            seals: 0,
            crcs: vec![0; blocks as usize],
        }
    }

    /// The block to write at `address`.
    pub fn emit(&self, uuid: &Uuid, address: u64) -> Vec<u8> {
        let mut out = vec![0; 4];
        out.put(MAGIC);
        out.put_u32(self.generation);
        out.put_u32(self.seals);
        for crc in &self.crcs {
            out.put_u32(*crc);
        }
        out.resize(BLOCK, 0);
        let crc = check(&out, uuid, address);
        out[..4].copy_from_slice(&crc.to_le_bytes());
        out
    }

    /// Parses the page at `address` of a region with `blocks` data blocks in a slab of `generation`.
    ///
    /// # Errors
    /// `Magic`, `Crc`, `Length`; `Place` for another generation of the slab.
    pub fn parse(
        bytes: &[u8],
        uuid: &Uuid,
        address: u64,
        generation: u32,
        blocks: u32,
    ) -> Result<Self, Malformed> {
        let bytes = bytes.get(..BLOCK).ok_or(Malformed::Length)?;
        if &bytes[4..8] != MAGIC {
            return Err(Malformed::Magic);
        }
        let mut r = Reader::new(bytes, 0);
        if r.u32()? != check(bytes, uuid, address) {
            return Err(Malformed::Crc);
        }
        r.skip(4)?;
        let (found, seals) = (r.u32()?, r.u32()?);
        if found != generation {
            return Err(Malformed::Place);
        }
        let crcs = (0..blocks).map(|_| r.u32()).collect::<Result<_, _>>()?;
        Ok(Self {
            generation,
            seals,
            crcs,
        })
    }
}

fn check(bytes: &[u8], uuid: &Uuid, address: u64) -> u32 {
    let seed = crc_after_uuid(uuid, &address.to_le_bytes());
    crc32c::crc32c_append(seed, &bytes[4..])
}
