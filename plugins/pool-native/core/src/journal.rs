//! The journal's writer: filling blocks, and what is durable and settled (`docs/disk-format.md` §1, §4.8).
//!
//! Invariants: `settled < durable < next`; blocks from `start` on are in the ring and not overwritten.

use std::collections::{BTreeMap, VecDeque};

use pool_format::{BLOCK, JournalHeader, RECORDS_AT, Record, Uuid};

/// Ring positions kept for flushes, seals and settling.
pub(crate) const RING_MARGIN: u64 = 10;

/// A finished block to write, twice.
pub(crate) struct Finished {
    pub(crate) sequence: u64,
    pub(crate) bytes: Vec<u8>,
}

pub(crate) struct Journal {
    uuid: Uuid,
    ring: u32,
    era: u32,
    chain: u32,
    filling: Vec<u8>,
    count: u16,
    /// Sequence number of the block being filled.
    pub(crate) next: u64,
    /// Oldest block a replay would need.
    pub(crate) start: u64,
    /// Newest block known to be durable.
    pub(crate) durable: u64,
    /// Everything up to here is settled.
    pub(crate) settled: u64,
    /// Newest checkpoint whose root is durable.
    pub(crate) checkpoint: u64,
    marks: VecDeque<(u64, u64)>,
    /// Blocks being written and how many copies are outstanding.
    outstanding: BTreeMap<u64, usize>,
    finished: VecDeque<Finished>,
    /// Ring positions promised to operations in progress.
    pub(crate) promised: u64,
}

impl Journal {
    /// A writer that goes on with block `next` behind a block with CRC `chain`.
    pub(crate) fn new(
        uuid: Uuid,
        ring: u32,
        era: u32,
        (next, chain): (u64, u32),
        start: u64,
        checkpoint: u64,
    ) -> Self {
        Self {
            uuid,
            ring,
            era,
            chain,
            filling: Vec::new(),
            count: 0,
            next,
            start,
            durable: next - 1,
            settled: start - 1,
            checkpoint,
            marks: VecDeque::new(),
            outstanding: BTreeMap::new(),
            finished: VecDeque::new(),
            promised: 0,
        }
    }

    pub(crate) fn era(&self) -> u32 {
        self.era
    }

    /// CRC of the newest closed block.
    pub(crate) fn chain(&self) -> u32 {
        self.chain
    }

    /// Appends a record; answers the sequence number of its block.
    pub(crate) fn push(&mut self, record: &Record) -> u64 {
        let before = self.filling.len();
        record.emit(&mut self.filling);
        if self.filling.len() > BLOCK - RECORDS_AT {
            let last = self.filling.split_off(before);
            self.close();
            self.filling = last;
        }
        self.count += 1;
        self.next
    }

    pub(crate) fn is_filling(&self) -> bool {
        self.count > 0
    }

    /// Finishes the block being filled, also when it is empty.
    pub(crate) fn close(&mut self) {
        assert!(
            self.next - self.start < u64::from(self.ring),
            "room was promised"
        );
        let header = JournalHeader {
            sequence: self.next,
            era: self.era,
            chain: self.chain,
            mark: self.durable,
            checkpoint: self.checkpoint,
        };
        let (bytes, crc) = header.emit(&self.uuid, self.ring, &self.filling, self.count);
        self.marks.push_back((self.next, self.durable));
        self.outstanding.insert(self.next, 2);
        self.finished.push_back(Finished {
            sequence: self.next,
            bytes,
        });
        self.chain = crc;
        self.filling.clear();
        self.count = 0;
        self.next += 1;
    }

    pub(crate) fn poll_finished(&mut self) -> Option<Finished> {
        self.finished.pop_front()
    }

    /// A finished block is being written to so many places.
    pub(crate) fn count_copies(&mut self, sequence: u64, copies: usize) {
        self.outstanding.insert(sequence, copies);
    }

    pub(crate) fn handle_written(&mut self, sequence: u64) {
        if let Some(left) = self.outstanding.get_mut(&sequence) {
            *left -= 1;
            if *left == 0 {
                self.outstanding.remove(&sequence);
            }
        }
    }

    /// Whether every block up to `sequence` is written.
    pub(crate) fn is_written(&self, sequence: u64) -> bool {
        self.outstanding
            .keys()
            .next()
            .is_none_or(|first| *first > sequence)
    }

    /// A flush made everything up to `sequence` durable.
    pub(crate) fn handle_durable(&mut self, sequence: u64) {
        self.durable = self.durable.max(sequence);
        while let Some((block, mark)) = self.marks.front().copied() {
            if block > self.durable {
                break;
            }
            self.settled = self.settled.max(mark);
            self.marks.pop_front();
        }
    }

    /// A durable root contains everything before `start`.
    pub(crate) fn handle_root(&mut self, checkpoint: u64, start: u64) {
        self.checkpoint = checkpoint;
        self.start = start;
        self.durable = self.durable.max(start - 1);
        self.settled = self.settled.max(start - 1);
    }

    /// Free ring positions.
    pub(crate) fn room(&self) -> u64 {
        u64::from(self.ring) - (self.next - self.start) - 1
    }

    /// Whether an operation that may fill `blocks` blocks can begin.
    pub(crate) fn has_room(&self, blocks: u64) -> bool {
        self.room() >= self.promised + blocks + RING_MARGIN
    }

    /// Whether a checkpoint should make room.
    pub(crate) fn is_half_full(&self) -> bool {
        self.next - self.start > u64::from(self.ring) / 2
    }
}
