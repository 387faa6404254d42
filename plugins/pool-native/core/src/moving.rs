//! A slab on its way to another place: what is alike in both, and which writes go to both (`docs/disk-format.md` §5, §6 case 24).
//!
//! Blocks below the cursor are alike. A write that lies below it goes to both places; any other goes to the old place alone, and takes the cursor
//! back to where it begins: what a host writes never waits for a copy, the copy does its part again.
//!
//! Invariant: a run is copied only while no write in flight touches it; a write that comes meanwhile makes the run void.

use std::collections::BTreeMap;

use crate::api::Source;
use pool_format::BLOCK;

/// Blocks copied with one request: 1 MiB.
pub(crate) const RUN_BLOCKS: u64 = 256;

/// A run being copied.
#[derive(Clone, Copy, Debug)]
struct Run {
    start: u64,
    count: u64,
    is_void: bool,
}

/// The chunk a slab leaves and the one it goes to.
#[derive(Debug)]
pub(crate) struct Moving {
    /// Disk and first block of the chunk it leaves.
    pub(crate) from: (usize, u64),
    /// Disk and first block of the chunk it goes to.
    pub(crate) to: (usize, u64),
    blocks: u64,
    cursor: u64,
    run: Option<Run>,
    /// Writes in flight, by request: first block in the chunk, and blocks.
    writes: BTreeMap<u64, (u64, u64)>,
    /// A checkpoint in progress names the new place.
    pub(crate) is_decided: bool,
    /// The new place failed a write.
    pub(crate) has_failed: bool,
    /// A deliberate bug: writes go to the old place alone, and nothing is copied again.
    pub(crate) forgets: bool,
}

impl Moving {
    pub(crate) fn new(from: (usize, u64), to: (usize, u64), blocks: u64) -> Self {
        Self {
            from,
            to,
            blocks,
            cursor: 0,
            run: None,
            writes: BTreeMap::new(),
            is_decided: false,
            has_failed: false,
            forgets: false,
        }
    }

    /// Where a block of the old place is in the chunk.
    fn offset(&self, (disk, block): (usize, u64)) -> Option<u64> {
        let is_here =
            disk == self.from.0 && (self.from.1..self.from.1 + self.blocks).contains(&block);
        is_here.then(|| block - self.from.1)
    }

    /// A write of the old place begins: answers where else it has to go.
    pub(crate) fn meet(&mut self, place: (usize, u64), count: u64) -> Option<(usize, u64)> {
        let at = self.offset(place)?;
        if self.forgets || self.has_failed {
            return None;
        }
        if at + count <= self.cursor {
            return Some((self.to.0, self.to.1 + at));
        }
        assert!(
            !self.is_decided,
            "a slab is exchanged when all of it is alike"
        );
        self.cursor = self.cursor.min(at);
        if let Some(run) = &mut self.run {
            run.is_void |= at < run.start + run.count && run.start < at + count;
        }
        None
    }

    /// A request that writes at a place, or at the new one for it, is in flight.
    pub(crate) fn begin_write(&mut self, id: u64, place: (usize, u64), count: u64) {
        if let Some(at) = self.offset(place) {
            self.writes.insert(id, (at, count));
        }
    }

    pub(crate) fn end_write(&mut self, id: u64) {
        self.writes.remove(&id);
    }

    /// The first block that may differ.
    pub(crate) fn cursor(&self) -> u64 {
        self.cursor
    }

    pub(crate) fn is_alike(&self) -> bool {
        self.cursor == self.blocks && self.run.is_none()
    }

    /// Nobody needs what lies between the cursor and `to`.
    pub(crate) fn skip_to(&mut self, to: u64) {
        self.cursor = self.cursor.max(to.min(self.blocks));
    }

    /// Begins to copy `count` blocks at the cursor, unless a write there is in flight.
    pub(crate) fn begin_run(&mut self, count: u64) -> bool {
        let (start, end) = (self.cursor, self.cursor + count);
        let is_written = |(at, count): &(u64, u64)| *at < end && start < *at + *count;
        if self.writes.values().any(is_written) && !self.forgets {
            return false;
        }
        self.run = Some(Run {
            start,
            count,
            is_void: false,
        });
        true
    }

    /// The run is copied, or was given up.
    pub(crate) fn end_run(&mut self, is_copied: bool) {
        if let Some(run) = self.run.take()
            && is_copied
            && !run.is_void
            && run.start == self.cursor
        {
            self.cursor = run.start + run.count;
        }
    }

    /// Whether a write came over the run.
    pub(crate) fn is_void(&self) -> bool {
        self.run.is_some_and(|run| run.is_void)
    }

    /// First block and blocks of the run being copied.
    pub(crate) fn run(&self) -> Option<(u64, u64)> {
        self.run.map(|run| (run.start, run.count))
    }
}

impl Source {
    /// How many blocks it is.
    pub(crate) fn blocks(&self) -> u64 {
        match self {
            Self::Core(bytes) => (bytes.len() / BLOCK) as u64,
            Self::Host { count, .. } => u64::from(*count),
        }
    }
}
