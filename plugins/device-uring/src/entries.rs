//! The table of operations in flight, by number.

use sdk::block::IoTag;
use units::BlockRange;

/// A write-zeroes.
#[derive(Clone, Copy)]
pub(crate) struct Zero {
    pub(crate) range: BlockRange,
    pub(crate) deallocate: bool,
    /// A shared sync follows.
    pub(crate) fua: bool,
}

/// What an operation is doing.
#[derive(Clone, Copy)]
pub(crate) enum Step {
    Read {
        range: BlockRange,
    },
    /// With `sync`, a shared sync follows the write.
    Write {
        range: BlockRange,
        sync: bool,
    },
    Zero(Zero),
    Discard {
        range: BlockRange,
    },
    Flush,
}

/// An operation in flight.
#[derive(Clone, Copy)]
pub(crate) struct Entry {
    pub(crate) tag: IoTag,
    pub(crate) step: Step,
}

/// The table; its size is fixed.
pub(crate) struct Entries {
    entries: Vec<Option<Entry>>,
    free: Vec<u32>,
}

impl Entries {
    pub(crate) fn new(capacity: usize) -> Self {
        Self {
            entries: vec![None; capacity],
            free: (0..capacity as u32).rev().collect(),
        }
    }

    /// Adds an entry and gives its number, or `None` when full.
    #[inline]
    pub(crate) fn insert(&mut self, entry: Entry) -> Option<u64> {
        let number = self.free.pop()?;
        self.entries[number as usize] = Some(entry);
        Some(u64::from(number))
    }

    /// The entry with this number, if there is one.
    #[inline]
    pub(crate) fn peek(&self, number: u64) -> Option<Entry> {
        *self.entries.get(usize::try_from(number).ok()?)?
    }

    /// Removes it.
    #[inline]
    pub(crate) fn remove(&mut self, number: u64) -> Option<Entry> {
        let slot = self.entries.get_mut(usize::try_from(number).ok()?)?;
        let entry = slot.take()?;
        self.free.push(number as u32);
        Some(entry)
    }
}
