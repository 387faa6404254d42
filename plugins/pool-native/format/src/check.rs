//! Checks over structures and data (`docs/disk-format.md` §3, §9).

use core::fmt;

use crate::{BLOCK, Uuid};

/// Four bytes that say what a block is.
pub type Magic = [u8; 4];

/// Claim of a disk by an engine.
pub const CLAIM: Magic = *b"CLM1";
/// Root of a checkpoint.
pub const ROOT: Magic = *b"ROT1";
/// Journal block.
pub const JOURNAL: Magic = *b"JRN1";
/// Tree node.
pub const NODE: Magic = *b"NOD1";
/// Page of the slab or object table.
pub const TABLE: Magic = *b"TAB1";
/// Allocation bitmap of a slab.
pub const BITMAP: Magic = *b"BMP1";

/// Bytes of an envelope.
pub(crate) const ENVELOPE: usize = 32;

/// Why bytes are not the structure they were read as.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Malformed {
    /// Another magic, or none.
    Magic,
    /// The check does not match: torn, rotten, of another pool or of an earlier life of the disk.
    Crc,
    /// A length or count goes past the end.
    Length,
    /// The structure says it belongs elsewhere: a misdirected or stale block.
    Place,
    /// A major version this code does not know.
    Version(u16),
    /// Incompatible features this code does not know.
    Features(u64),
    /// A field has a value that means nothing; the name of the field.
    Value(&'static str),
}

impl fmt::Display for Malformed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Magic => write!(f, "not recognised"),
            Self::Crc => write!(f, "check does not match"),
            Self::Length => write!(f, "too short for what it holds"),
            Self::Place => write!(f, "belongs elsewhere"),
            Self::Version(major) => write!(f, "format version {major} is not known"),
            Self::Features(bits) => write!(f, "unknown incompatible features {bits:#x}"),
            Self::Value(field) => write!(f, "{field} has no meaning"),
        }
    }
}

impl std::error::Error for Malformed {}

/// What the envelope of a valid structure says.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Envelope {
    /// Check over the structure; pointers to it carry the same.
    pub crc: u32,
    /// Where it believes it lies.
    pub place: u64,
    /// Checkpoint or sequence number.
    pub generation: u64,
    /// Bytes covered, envelope included.
    pub length: usize,
}

impl Envelope {
    /// Fills the envelope of `bytes`, whose first 32 bytes are free, and pads to whole blocks. Returns the check.
    pub(crate) fn seal(
        bytes: &mut Vec<u8>,
        uuid: &Uuid,
        magic: Magic,
        place: u64,
        generation: u64,
    ) -> u32 {
        let length = bytes.len();
        bytes[4..8].copy_from_slice(&magic);
        bytes[8..16].copy_from_slice(&place.to_le_bytes());
        bytes[16..24].copy_from_slice(&generation.to_le_bytes());
        bytes[24..28].copy_from_slice(&(length as u32).to_le_bytes());
        bytes[28..32].fill(0);
        let crc = crc_after_uuid(uuid, &bytes[4..]);
        bytes[0..4].copy_from_slice(&crc.to_le_bytes());
        bytes.resize(length.next_multiple_of(BLOCK), 0);
        crc
    }

    /// Reads and verifies the envelope of `bytes`.
    ///
    /// # Errors
    /// `Magic`, `Length`, `Crc`; `Place` when `place` is given and another is found.
    pub fn open(
        bytes: &[u8],
        uuid: &Uuid,
        magic: Magic,
        place: Option<u64>,
    ) -> Result<Self, Malformed> {
        let head = bytes.get(..ENVELOPE).ok_or(Malformed::Length)?;
        if head[4..8] != magic {
            return Err(Malformed::Magic);
        }
        let u32_at =
            |at: usize| u32::from_le_bytes([head[at], head[at + 1], head[at + 2], head[at + 3]]);
        let u64_at = |at: usize| u64::from(u32_at(at)) | u64::from(u32_at(at + 4)) << 32;
        let length = u32_at(24) as usize;
        if length < ENVELOPE || length > bytes.len() {
            return Err(Malformed::Length);
        }
        let crc = u32_at(0);
        if crc != crc_after_uuid(uuid, &bytes[4..length]) {
            return Err(Malformed::Crc);
        }
        let found = Self {
            crc,
            place: u64_at(8),
            generation: u64_at(16),
            length,
        };
        match place {
            Some(place) if place != found.place => Err(Malformed::Place),
            Some(_) | None => Ok(found),
        }
    }
}

pub(crate) fn crc_after_uuid(uuid: &Uuid, bytes: &[u8]) -> u32 {
    crc32c::crc32c_append(crc32c::crc32c(uuid), bytes)
}

/// CRC-32C of `bytes`, as an adaptor computes it over a block of data.
pub fn plain_crc(bytes: &[u8]) -> u32 {
    crc32c::crc32c(bytes)
}

/// The check stored for a block of data at `address` in a slab of `generation`, whose CRC-32C is `plain`. Never 0, which means unknown.
pub fn stored_crc(plain: u32, address: u64, generation: u32) -> u32 {
    match plain ^ mix(address, generation) {
        0 => 1,
        crc => crc,
    }
}

fn mix(address: u64, generation: u32) -> u32 {
    let mut x = address
        .wrapping_mul(0x9E37_79B9_7F4A_7C15)
        .wrapping_add(u64::from(generation).wrapping_mul(0xC2B2_AE3D_27D4_EB4F));
    x ^= x >> 32;
    x = x.wrapping_mul(0xD6E8_FEB8_6659_FD93);
    (x >> 32) as u32
}
