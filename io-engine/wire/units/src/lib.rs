//! Sizes, block counts and addresses as types, so that a position is never taken for a count or a size.
//!
//! Pure arithmetic; every operation that could overflow or round says so in its name or returns `Option`.

#![no_std]
#![forbid(unsafe_code)]

use core::fmt;

/// Logical block size of a device: 512 or 4096 bytes.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum BlockSize {
    /// 512 bytes.
    B512,
    /// 4096 bytes.
    B4096,
}

impl BlockSize {
    /// The block size of exactly `bytes`, if the engine serves it.
    pub const fn from_bytes(bytes: u32) -> Option<Self> {
        match bytes {
            512 => Some(Self::B512),
            4096 => Some(Self::B4096),
            _ => None,
        }
    }

    /// Bytes in one block.
    pub const fn bytes(self) -> u32 {
        1 << self.shift()
    }

    /// log2 of the bytes in one block: 9 or 12.
    pub const fn shift(self) -> u32 {
        match self {
            Self::B512 => 9,
            Self::B4096 => 12,
        }
    }
}

/// Address of a logical block on one device.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct Lba(pub u64);

impl Lba {
    /// Byte offset of the block, or `None` past `u64::MAX` bytes.
    pub const fn byte_offset(self, size: BlockSize) -> Option<u64> {
        self.0.checked_mul(size.bytes() as u64)
    }
}

/// A number of logical blocks.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct Blocks(pub u64);

impl Blocks {
    /// Bytes in that many blocks, or `None` past `u64::MAX`.
    pub const fn bytes(self, size: BlockSize) -> Option<u64> {
        self.0.checked_mul(size.bytes() as u64)
    }

    /// Whole blocks in `bytes`; a rest smaller than a block is dropped.
    pub const fn from_bytes_floor(bytes: u64, size: BlockSize) -> Self {
        Self(bytes >> size.shift())
    }
}

/// A run of blocks: `start`, then `count` blocks.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct BlockRange {
    /// First block.
    pub start: Lba,
    /// Number of blocks, may be 0.
    pub count: Blocks,
}

impl BlockRange {
    /// A range from plain numbers.
    pub const fn new(start: u64, count: u64) -> Self {
        Self {
            start: Lba(start),
            count: Blocks(count),
        }
    }

    /// The block after the last one, or `None` past `u64::MAX`.
    pub const fn end(self) -> Option<Lba> {
        match self.start.0.checked_add(self.count.0) {
            Some(end) => Some(Lba(end)),
            None => None,
        }
    }

    /// Whether the whole range lies on a device of `blocks` blocks.
    pub const fn is_within(self, blocks: Blocks) -> bool {
        match self.end() {
            Some(end) => end.0 <= blocks.0,
            None => false,
        }
    }

    /// Whether the two ranges share a block.
    pub const fn overlaps(self, other: Self) -> bool {
        let (Some(a), Some(b)) = (self.end(), other.end()) else {
            return true;
        };
        self.start.0 < b.0 && other.start.0 < a.0
    }
}

impl fmt::Display for BlockRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}+{}", self.start.0, self.count.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_range_that_wraps_is_never_within() {
        assert!(!BlockRange::new(u64::MAX, 2).is_within(Blocks(u64::MAX)));
        assert!(BlockRange::new(8, 8).is_within(Blocks(16)));
        assert!(!BlockRange::new(9, 8).is_within(Blocks(16)));
    }

    #[test]
    fn touching_ranges_do_not_overlap() {
        assert!(!BlockRange::new(0, 8).overlaps(BlockRange::new(8, 8)));
        assert!(BlockRange::new(0, 9).overlaps(BlockRange::new(8, 8)));
    }
}
