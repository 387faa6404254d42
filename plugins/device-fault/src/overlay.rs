//! The overlay: writes that were acknowledged and are not on the device below yet.
//!
//! A table of runs of blocks, each with its data or zero. No I/O: the queue writes runs out and says when one is written.
//!
//! Invariants:
//! - Runs do not overlap. What is absorbed replaces what was there.
//! - A block whose write-out is under way counts as held until [`Overlay::end_piece`], even if it was dropped meanwhile, so
//!   that nothing else writes it on the device below at the same time.
//! - At most the byte limit given and [`OVERLAY_RUNS_MAX`] runs; what does not fit is not absorbed.

use std::collections::BTreeMap;

use units::{BlockRange, BlockSize};

use crate::limits::OVERLAY_RUNS_MAX;
use crate::plan::common;

#[derive(Debug)]
struct Run {
    count: u64,
    /// Nothing for zeroes.
    bytes: Option<Vec<u8>>,
    version: u64,
}

/// What a flush writes next.
#[derive(Debug)]
pub(crate) struct Piece {
    /// Where it goes.
    pub(crate) range: BlockRange,
    /// Its version, for [`Overlay::end_piece`].
    pub(crate) version: u64,
}

/// Data over a part of a read.
#[derive(Debug)]
pub(crate) struct Patch {
    /// First byte of the read it replaces.
    pub(crate) offset: usize,
    /// The bytes.
    pub(crate) bytes: Vec<u8>,
}

/// There is no room.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Full;

/// See the module documentation.
#[derive(Debug)]
pub(crate) struct Overlay {
    block_size: BlockSize,
    bytes_max: u64,
    bytes: u64,
    runs: BTreeMap<u64, Run>,
    version: u64,
    under_way: Option<BlockRange>,
    cuts: u64,
}

impl Overlay {
    /// An empty overlay for at most `bytes_max` bytes.
    pub(crate) fn new(block_size: BlockSize, bytes_max: u64) -> Self {
        Self {
            block_size,
            bytes_max,
            bytes: 0,
            runs: BTreeMap::new(),
            version: 0,
            under_way: None,
            cuts: 0,
        }
    }

    /// Whether it holds nothing and nothing is under way.
    pub(crate) fn is_empty(&self) -> bool {
        self.runs.is_empty() && self.under_way.is_none()
    }

    /// Blocks it holds.
    pub(crate) fn blocks(&self) -> u64 {
        self.runs.values().map(|run| run.count).sum()
    }

    /// Whether it holds a block of `range`.
    pub(crate) fn touches(&self, range: BlockRange) -> bool {
        let on_the_way = self.under_way.is_some_and(|other| other.overlaps(range));
        on_the_way || self.overlapping(range).next().is_some()
    }

    /// Takes in a write of `bytes`, as long as `range`, or of zeroes.
    ///
    /// # Errors
    /// [`Full`], and nothing is changed.
    pub(crate) fn absorb(&mut self, range: BlockRange, bytes: Option<&[u8]>) -> Result<(), Full> {
        if range.count.0 == 0 {
            return Ok(());
        }
        let grows = bytes.map_or(0, |bytes| bytes.len() as u64);
        // Cutting a run in two adds one, absorbing another.
        if self.bytes + grows > self.bytes_max || self.runs.len() + 2 > OVERLAY_RUNS_MAX {
            return Err(Full);
        }
        self.cut(range, None);
        self.version += 1;
        self.bytes += grows;
        let run = Run {
            count: range.count.0,
            bytes: bytes.map(<[u8]>::to_vec),
            version: self.version,
        };
        self.runs.insert(range.start.0, run);
        Ok(())
    }

    /// Forgets the blocks of `range`.
    pub(crate) fn drop_blocks(&mut self, range: BlockRange) {
        self.cut(range, None);
    }

    /// Forgets everything, as a power cut does, and returns how many blocks that were.
    pub(crate) fn power_cut(&mut self) -> u64 {
        let blocks = self.blocks();
        self.runs.clear();
        self.bytes = 0;
        self.cuts += 1;
        blocks
    }

    /// Power cuts so far.
    pub(crate) fn cuts(&self) -> u64 {
        self.cuts
    }

    /// The version of the newest write held; writes held later have a greater one.
    pub(crate) fn version(&self) -> u64 {
        self.version
    }

    /// What of `range` reads differently from the device below.
    pub(crate) fn patches(&self, range: BlockRange) -> Vec<Patch> {
        let shift = self.block_size.shift();
        let patch = |(start, run): (&u64, &Run)| {
            let shared = common(BlockRange::new(*start, run.count), range)?;
            let from = ((shared.start.0 - start) << shift) as usize;
            let len = (shared.count.0 << shift) as usize;
            let bytes = match &run.bytes {
                None => vec![0; len],
                Some(bytes) => bytes.get(from..from + len)?.to_vec(),
            };
            let offset = ((shared.start.0 - range.start.0) << shift) as usize;
            Some(Patch { offset, bytes })
        };
        self.overlapping(range).filter_map(patch).collect()
    }

    /// The first piece at or behind block `from` of version `upto` or older, at most `blocks_max` long. It is under way
    /// from here on.
    pub(crate) fn begin_piece(&mut self, from: u64, upto: u64, blocks_max: u64) -> Option<Piece> {
        let (start, run) = self
            .runs
            .range(from..)
            .find(|(_, run)| run.version <= upto)?;
        let range = BlockRange::new(*start, run.count.min(blocks_max));
        let version = run.version;
        self.under_way = Some(range);
        Some(Piece { range, version })
    }

    /// Copies the data of a piece just begun into `target`, as long as its range.
    pub(crate) fn copy_piece(&self, piece: &Piece, target: &mut [u8]) {
        target.fill(0);
        let held = self.runs.get(&piece.range.start.0);
        if let Some(bytes) = held.and_then(|run| run.bytes.as_deref()) {
            let len = bytes.len().min(target.len());
            target[..len].copy_from_slice(&bytes[..len]);
        }
    }

    /// The piece under way has ended. If it is `written`, what of it was not replaced meanwhile is on the device below
    /// and forgotten here.
    pub(crate) fn end_piece(&mut self, piece: &Piece, written: bool) {
        self.under_way = None;
        if written {
            self.cut(piece.range, Some(piece.version));
        }
    }

    /// Whether a piece is under way.
    pub(crate) fn is_writing(&self) -> bool {
        self.under_way.is_some()
    }

    fn overlapping(&self, range: BlockRange) -> impl Iterator<Item = (&u64, &Run)> {
        let end = range.end().map_or(u64::MAX, |end| end.0);
        // Runs do not overlap, so only the last one that begins before the range can reach into it.
        let before = self.runs.range(..range.start.0).next_back();
        let before = before.filter(move |(start, run)| *start + run.count > range.start.0);
        let within = self.runs.range(range.start.0.min(end)..end);
        before
            .into_iter()
            .chain(within)
            .filter(move |_| range.count.0 > 0)
    }

    /// Takes `range` out of the runs, or of those of one version.
    fn cut(&mut self, range: BlockRange, version: Option<u64>) {
        let Some(end) = range.end() else { return };
        let shift = self.block_size.shift();
        let starts: Vec<u64> = self
            .overlapping(range)
            .filter(|(_, run)| version.is_none_or(|version| run.version == version))
            .map(|(start, _)| *start)
            .collect();
        for start in starts {
            let Some(mut run) = self.runs.remove(&start) else {
                continue;
            };
            self.bytes -= run.bytes.as_ref().map_or(0, |bytes| bytes.len() as u64);
            let run_end = start + run.count;
            if run_end > end.0 {
                let from = ((end.0 - start) << shift) as usize;
                let tail = run.bytes.as_mut().map(|bytes| bytes.split_off(from));
                self.insert(end.0, run_end - end.0, tail, run.version);
            }
            if start < range.start.0 {
                let count = range.start.0 - start;
                let head = run.bytes.map(|mut bytes| {
                    bytes.truncate((count << shift) as usize);
                    bytes.shrink_to_fit();
                    bytes
                });
                self.insert(start, count, head, run.version);
            }
        }
    }

    fn insert(&mut self, start: u64, count: u64, bytes: Option<Vec<u8>>, version: u64) {
        self.bytes += bytes.as_ref().map_or(0, |bytes| bytes.len() as u64);
        let run = Run {
            count,
            bytes,
            version,
        };
        self.runs.insert(start, run);
    }
}

#[cfg(test)]
mod tests;
