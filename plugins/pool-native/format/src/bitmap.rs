//! Allocation bitmap of a slab (`docs/disk-format.md` §4.6).

use crate::bytes::{Put, Reader};
use crate::check::ENVELOPE;
use crate::{BITMAP, Envelope, Malformed, Uuid};

const BITS_AT: usize = 40;

/// One bit for each block of a slab; 1 is allocated.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Bitmap {
    words: Vec<u64>,
    blocks: u32,
}

impl Bitmap {
    /// All free.
    pub fn new(blocks: u32) -> Self {
        Self {
            words: vec![0; blocks.div_ceil(64) as usize],
            blocks,
        }
    }

    /// Whether `block` is allocated. Blocks past the end are.
    pub fn is_set(&self, block: u32) -> bool {
        block >= self.blocks || self.words[block as usize / 64] >> (block % 64) & 1 != 0
    }

    /// Marks `block`; answers whether that changed anything.
    ///
    /// # Panics
    /// When `block` is past the end.
    pub fn set(&mut self, block: u32, allocated: bool) -> bool {
        assert!(block < self.blocks, "a block of this slab");
        let word = &mut self.words[block as usize / 64];
        let before = *word;
        if allocated {
            *word |= 1 << (block % 64);
        } else {
            *word &= !(1 << (block % 64));
        }
        before != *word
    }

    /// Blocks allocated.
    pub fn count(&self) -> u32 {
        self.words.iter().map(|word| word.count_ones()).sum()
    }

    /// The block to write and its check.
    pub fn emit(&self, uuid: &Uuid, slab: u32, generation: u32, checkpoint: u64) -> (Vec<u8>, u32) {
        let mut out = vec![0; ENVELOPE];
        out.put_u32(generation);
        out.put_u32(0);
        for word in &self.words {
            out.put_u64(*word);
        }
        let crc = Envelope::seal(&mut out, uuid, BITMAP, u64::from(slab), checkpoint);
        (out, crc)
    }

    /// Parses the bitmap of `slab` whose slab record says `generation` and `crc`.
    ///
    /// # Errors
    /// As [`Envelope::open`]; `Crc` when it is not the one the record names; `Place` for another generation.
    pub fn parse(
        bytes: &[u8],
        uuid: &Uuid,
        (slab, generation, crc): (u32, u32, u32),
        blocks: u32,
    ) -> Result<Self, Malformed> {
        let envelope = Envelope::open(bytes, uuid, BITMAP, Some(u64::from(slab)))?;
        if envelope.crc != crc {
            return Err(Malformed::Crc);
        }
        let bytes = &bytes[..envelope.length];
        if Reader::new(bytes, ENVELOPE).u32()? != generation {
            return Err(Malformed::Place);
        }
        let mut r = Reader::new(bytes, BITS_AT);
        let mut bitmap = Self::new(blocks);
        for word in &mut bitmap.words {
            *word = r.u64()?;
        }
        Ok(bitmap)
    }
}
