//! What a check can find, and how it is put right.

use std::collections::BTreeMap;
use std::fmt;

use pool_format::Bitmap;

/// One thing wrong with a pool's metadata.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Fault {
    /// A disk of the pool is not among those given; its number.
    MissingDisk(u16),
    /// A label cannot be read or is older than the other: position of the disk, and whether it is the one at the end.
    Label {
        /// Position in the list of disks.
        disk: usize,
        /// Whether it is the last block.
        is_last: bool,
    },
    /// A copy of the newest root.
    RootCopy {
        /// Number of the disk in the pool.
        disk: u16,
        /// First block of the copy.
        block: u64,
    },
    /// A copy of a table page.
    TablePage {
        /// Position in the table space.
        position: u32,
        /// Which copy.
        copy: usize,
    },
    /// A copy of a journal block that was durable.
    JournalCopy {
        /// Sequence number of the block.
        sequence: u64,
        /// Which copy.
        copy: usize,
    },
    /// A journal block that was durable, in both copies: what it and later ones said is lost, and the pool does not open.
    JournalLost {
        /// Sequence number of the block.
        sequence: u64,
    },
    /// A copy of a tree node.
    NodeCopy {
        /// Its address.
        address: u64,
        /// Which copy.
        copy: usize,
    },
    /// A tree node, in both copies: what lies under it is unreadable.
    NodeLost {
        /// Its address.
        address: u64,
        /// A replica or snapshot that uses it.
        object: u64,
    },
    /// A tree names blocks where no data lies.
    Stray {
        /// First address.
        address: u64,
        /// Blocks.
        count: u32,
    },
    /// Blocks that two writes of different age claim.
    Crossed {
        /// First address.
        address: u64,
        /// Blocks.
        count: u32,
    },
    /// A copy of a bitmap.
    BitmapCopy {
        /// Its slab.
        slab: u32,
        /// Which copy.
        copy: u32,
    },
    /// A bitmap, in every copy.
    BitmapLost {
        /// Its slab.
        slab: u32,
    },
    /// Blocks marked as in use that nothing uses.
    Leaked {
        /// First address.
        address: u64,
        /// Blocks.
        count: u32,
    },
    /// Blocks in use that are marked as free.
    Unmarked {
        /// First address.
        address: u64,
        /// Blocks.
        count: u32,
    },
    /// A slab whose count of free blocks is not that of its bitmap.
    FreeCount {
        /// The slab.
        slab: u32,
        /// What its record says.
        says: u32,
        /// What its bitmap says.
        is: u32,
    },
}

impl Fault {
    /// Whether another copy is good: nothing is lost, and opening the pool, or a repair, writes the bad one again.
    pub fn has_good_copy(&self) -> bool {
        match self {
            Self::Label { .. }
            | Self::RootCopy { .. }
            | Self::TablePage { .. }
            | Self::JournalCopy { .. }
            | Self::NodeCopy { .. }
            | Self::BitmapCopy { .. } => true,
            Self::MissingDisk(_)
            | Self::JournalLost { .. }
            | Self::NodeLost { .. }
            | Self::Stray { .. }
            | Self::Crossed { .. }
            | Self::BitmapLost { .. }
            | Self::Leaked { .. }
            | Self::Unmarked { .. }
            | Self::FreeCount { .. } => false,
        }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::MissingDisk(disk) => write!(f, "disk {disk} of the pool is missing"),
            Self::Label { disk, is_last } => {
                let end = if *is_last { "last" } else { "first" };
                write!(f, "disk at position {disk}: {end} label is bad or old")
            }
            Self::RootCopy { disk, block } => {
                write!(f, "root: copy on disk {disk} at block {block} is bad")
            }
            Self::TablePage { position, copy } => {
                write!(f, "table page {position}: copy {copy} is bad")
            }
            Self::JournalCopy { sequence, copy } => {
                write!(f, "journal block {sequence}: copy {copy} is bad")
            }
            Self::JournalLost { sequence } => write!(
                f,
                "journal block {sequence}: both copies are bad, and it was durable: changes since are lost"
            ),
            Self::NodeCopy { address, copy } => {
                write!(f, "tree node {address}: copy {copy} is bad")
            }
            Self::NodeLost { address, object } => write!(
                f,
                "tree node {address}: both copies are bad; object {object} is unreadable below it"
            ),
            Self::Stray { address, count } => {
                write!(f, "blocks {address}+{count}: in use where no data lies")
            }
            Self::Crossed { address, count } => {
                write!(f, "blocks {address}+{count}: claimed by two writes")
            }
            Self::BitmapCopy { slab, copy } => {
                write!(f, "bitmap of slab {slab}: copy {copy} is bad")
            }
            Self::BitmapLost { slab } => write!(f, "bitmap of slab {slab}: every copy is bad"),
            Self::Leaked { address, count } => {
                write!(
                    f,
                    "blocks {address}+{count}: allocated, and nothing uses them"
                )
            }
            Self::Unmarked { address, count } => {
                write!(f, "blocks {address}+{count}: in use, and marked as free")
            }
            Self::FreeCount { slab, says, is } => {
                write!(
                    f,
                    "slab {slab}: {is} blocks are free, its record says {says}"
                )
            }
        }
    }
}

/// Good bytes for a bad place. What is overwritten failed its check; what is written passed it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Fix {
    /// Position of the disk in the list of disks.
    pub disk: usize,
    /// First block.
    pub block: u64,
    /// Whole blocks.
    pub bytes: Vec<u8>,
}

/// What a check found.
#[derive(Clone, Default)]
pub struct CheckReport {
    /// Replicas and snapshots.
    pub objects: usize,
    /// Blocks in use, nodes included.
    pub reachable: u64,
    /// What is wrong, each thing once.
    pub faults: Vec<Fault>,
    /// How copies are put right.
    pub fixes: Vec<Fix>,
    /// Bitmaps as they should have been at the checkpoint, of slabs where they are not. Empty when a tree is damaged: what it used is not known.
    pub rebuilt: BTreeMap<u32, Bitmap>,
}

impl CheckReport {
    /// Whether nothing is wrong.
    pub fn is_clean(&self) -> bool {
        self.faults.is_empty()
    }

    /// Whether nothing is wrong but copies that have a good one beside them.
    pub fn is_sound(&self) -> bool {
        self.faults.iter().all(Fault::has_good_copy)
    }
}

impl fmt::Debug for CheckReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CheckReport")
            .field("objects", &self.objects)
            .field("reachable", &self.reachable)
            .field("faults", &self.faults)
            .field("fixes", &self.fixes.len())
            .finish()
    }
}
