//! The native pool's on-disk structures, as `docs/disk-format.md` draws them: parsed from bytes and emitted to bytes.
//!
//! Decides: where each field lies, what a valid structure is, where on a disk it goes. Does not decide when anything is written, and
//! reads nothing itself.
//!
//! Invariants: parsing never panics and never allocates more than its input justifies; `parse(emit(v)) == v`; a structure with a wrong
//! check, place or pool is never returned.
//!
//! Follows `docs/disk-format.md`, version 1.

#![forbid(unsafe_code)]

mod bitmap;
mod bytes;
mod check;
mod claim;
mod geometry;
mod integrity;
mod journal;
mod label;
mod node;
mod object;
mod record;
mod root;
mod table;

pub use bitmap::Bitmap;
pub use check::{
    BITMAP, CLAIM, Envelope, JOURNAL, Magic, Malformed, NODE, ROOT, TABLE, plain_crc, stored_crc,
};
pub use claim::{CLAIM_BLOCK, Claim};
pub use geometry::{Area, Geometry};
pub use integrity::IntegrityPage;
pub use journal::{JournalBlock, JournalHeader, RECORDS_AT};
pub use label::{Features, Label};
pub use node::{Extent, INNER_MAX, Inner, LEAF_MAX, Node, NodeBody, NodePtr};
pub use object::{OBJECT_BYTES, ObjectKind, ObjectRecord, ObjectState};
pub use record::{MAP_BLOCKS_MAX, MovedClass, MovedOut, Record, VoidEntry};
pub use root::{DirectoryEntry, DiskEntry, DiskState, Root, TableSlab};
pub use table::{
    NO_TWIN, OBJECTS_PER_PAGE, SLABS_PER_PAGE, SlabKind, SlabRecord, TableKind, emit_object_page,
    emit_slab_page, parse_object_page, parse_slab_page,
};

/// Bytes of a block, everywhere.
pub const BLOCK: usize = 4096;

/// A universally unique identifier, as 16 bytes.
pub type Uuid = [u8; 16];

#[cfg(test)]
mod tests;
