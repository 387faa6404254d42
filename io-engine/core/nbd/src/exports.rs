//! What can be chosen: the exports of one server, by name.

use std::collections::BTreeMap;

use nbd_wire::{BlockSizeInfo, TransmissionFlags};
use units::BlockSize;

/// Names an export; the adaptor's number, never used again.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct ExportId(pub u64);

/// What an export's device does beyond reading, writing and flushing.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Abilities {
    /// Gives ranges back.
    pub trim: bool,
    /// Zeroes faster than by writing zeroes.
    pub fast_zero: bool,
    /// Reading warms a cache below, so that `NBD_CMD_CACHE` is worth a read.
    pub cache: bool,
    /// A flush covers writes of all connections.
    pub shared_flush: bool,
}

/// One export.
#[derive(Clone, Debug)]
pub struct Export {
    /// Its number.
    pub id: ExportId,
    /// Its name, 1 to 4096 bytes, unique.
    pub name: String,
    /// For humans; may be empty.
    pub description: String,
    /// Block size, which is the smallest request.
    pub block_size: BlockSize,
    /// Number of blocks.
    pub blocks: u64,
    /// Whether writes are refused.
    pub read_only: bool,
    /// Whether its I/O can be done where the connection is.
    pub is_here: bool,
    /// What its device does.
    pub abilities: Abilities,
}

impl Export {
    /// Size in bytes; saturates.
    pub(crate) fn bytes(&self) -> u64 {
        self.blocks
            .saturating_mul(u64::from(self.block_size.bytes()))
    }

    /// What a client is told it can do (§Transmission flags).
    pub(crate) fn flags(&self, structured: bool) -> TransmissionFlags {
        let writable = !self.read_only;
        // Read-only exports keep FLUSH and FUA: clients may send either, and there is nothing to make durable.
        (TransmissionFlags::HAS_FLAGS
            | TransmissionFlags::SEND_FLUSH
            | TransmissionFlags::SEND_FUA
            | TransmissionFlags::SEND_CACHE)
            .with_if(self.read_only, TransmissionFlags::READ_ONLY)
            .with_if(
                writable,
                TransmissionFlags::SEND_WRITE_ZEROES | TransmissionFlags::SEND_FAST_ZERO,
            )
            .with_if(
                writable && self.abilities.trim,
                TransmissionFlags::SEND_TRIM,
            )
            .with_if(structured, TransmissionFlags::SEND_DF)
            // Nothing is written through a read-only export, so that every flush covers all of it.
            .with_if(
                self.abilities.shared_flush || self.read_only,
                TransmissionFlags::CAN_MULTI_CONN,
            )
    }

    /// What a client is told about sizes (§Size constraints).
    pub(crate) fn block_sizes(&self, payload_max: u32) -> BlockSizeInfo {
        let minimum = self.block_size.bytes();
        let preferred = minimum.max(4096);
        BlockSizeInfo {
            minimum,
            preferred,
            payload_max: payload_max.max(preferred),
        }
    }
}

/// The exports of one server.
#[derive(Clone, Default, Debug)]
pub struct Exports {
    by_name: BTreeMap<String, Export>,
}

impl Exports {
    /// Adds an export; one of the same name is replaced.
    pub fn insert(&mut self, export: Export) {
        self.by_name.insert(export.name.clone(), export);
    }

    /// Takes an export away.
    pub fn remove(&mut self, id: ExportId) {
        self.by_name.retain(|_, export| export.id != id);
    }

    /// The export with this number.
    pub fn by_id_mut(&mut self, id: ExportId) -> Option<&mut Export> {
        self.by_name.values_mut().find(|export| export.id == id)
    }

    /// The export a client means by `name`: the empty one is that of the only export (§Option types,
    /// `NBD_OPT_EXPORT_NAME`).
    pub fn find(&self, name: &[u8]) -> Option<&Export> {
        if name.is_empty() {
            let mut all = self.by_name.values();
            return all.next().filter(|_| all.next().is_none());
        }
        self.by_name.get(std::str::from_utf8(name).ok()?)
    }

    /// All of them, by name.
    pub fn iter(&self) -> impl Iterator<Item = &Export> {
        self.by_name.values()
    }
}
