//! Requests in flight: one entry each, by slot.
//!
//! Invariants: a slot is either free or holds one request; an entry's slices cover its range in order, the one in flight
//! ends at `at`.

use units::BlockRange;

/// Names a request in flight: a dense index below the configured number of requests.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Slot(pub u16);

/// An I/O to be done for a request.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Io {
    /// Which request; comes back with the answer.
    pub slot: Slot,
    /// What.
    pub work: Work,
}

/// What an I/O does.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Work {
    /// Reads a range of at most the configured transfer.
    Read(BlockRange),
    /// Writes the payload that was received for the slot.
    Write {
        /// Where.
        range: BlockRange,
        /// Durable when it is done.
        fua: bool,
    },
    /// Zeroes a range.
    WriteZeroes {
        /// Where.
        range: BlockRange,
        /// Whether space may be given back.
        deallocate: bool,
        /// Durable when it is done.
        fua: bool,
    },
    /// Gives a range back.
    Discard(BlockRange),
    /// Makes everything answered durable.
    Flush,
    /// Tells what a range holds.
    Extents(BlockRange),
}

/// What kind of request it is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Task {
    Read,
    Cache,
    Write,
    Zero { deallocate: bool },
    Trim,
    Flush,
    Status { one: bool },
}

impl Task {
    /// Whether it would change data.
    pub(crate) const fn writes(self) -> bool {
        match self {
            Self::Write | Self::Zero { .. } | Self::Trim => true,
            Self::Read | Self::Cache | Self::Flush | Self::Status { .. } => false,
        }
    }
}

/// A request in flight.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Pending {
    pub(crate) cookie: u64,
    pub(crate) task: Task,
    pub(crate) fua: bool,
    /// Byte behind the slices begun so far.
    pub(crate) at: u64,
    /// Bytes behind `at`.
    pub(crate) left: u64,
    /// Bytes of the current slice.
    pub(crate) slice: u64,
    /// Whether the current slice is with the device.
    pub(crate) in_flight: bool,
}

impl Pending {
    pub(crate) fn new(cookie: u64, task: Task, fua: bool, offset: u64, len: u64) -> Self {
        Self {
            cookie,
            task,
            fua,
            at: offset,
            left: len,
            slice: 0,
            in_flight: false,
        }
    }

    /// Goes on to the next slice, of at most `max` bytes.
    pub(crate) fn advance(&mut self, max: u64) {
        self.slice = self.left.min(max);
        self.at += self.slice;
        self.left -= self.slice;
    }

    /// First byte of the current slice.
    pub(crate) fn slice_start(&self) -> u64 {
        self.at - self.slice
    }

    /// Blocks of the current slice.
    pub(crate) fn range(&self, shift: u32) -> BlockRange {
        BlockRange::new(self.slice_start() >> shift, self.slice >> shift)
    }
}

/// All requests in flight of a connection.
#[derive(Debug)]
pub(crate) struct Table {
    entries: Vec<Option<Pending>>,
    free: Vec<u16>,
}

impl Table {
    pub(crate) fn new(capacity: usize) -> Self {
        let capacity = capacity as u16;
        Self {
            entries: vec![None; usize::from(capacity)],
            free: (0..capacity).rev().collect(),
        }
    }

    /// A slot for `pending`; the caller has seen that the table is not full.
    pub(crate) fn insert(&mut self, pending: Pending) -> Slot {
        let slot = self.free.pop().expect("a full table takes no request");
        self.entries[usize::from(slot)] = Some(pending);
        Slot(slot)
    }

    pub(crate) fn entry(&mut self, slot: Slot) -> Option<&mut Pending> {
        self.entries.get_mut(usize::from(slot.0))?.as_mut()
    }

    pub(crate) fn peek(&self, slot: Slot) -> Option<&Pending> {
        self.entries.get(usize::from(slot.0))?.as_ref()
    }

    pub(crate) fn remove(&mut self, slot: Slot) {
        if let Some(entry) = self.entries.get_mut(usize::from(slot.0))
            && entry.take().is_some()
        {
            self.free.push(slot.0);
        }
    }

    pub(crate) fn is_full(&self) -> bool {
        self.free.is_empty()
    }

    pub(crate) fn len(&self) -> usize {
        self.entries.len() - self.free.len()
    }
}
