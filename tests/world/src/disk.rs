//! A disk with a durable and a volatile half.
//!
//! A write is volatile when it completes; a flush makes durable what was complete before it was submitted. At a cut any subset of the rest may be
//! durable, writes in flight included, each atomic unit whole or not at all.

use std::collections::BTreeMap;
use std::rc::Rc;

use pool_format::BLOCK;

use crate::rng::Rng;

/// Content of a block.
pub type Block = Rc<[u8]>;

/// A block written, complete or in flight.
#[derive(Clone, Debug)]
struct Written {
    id: u64,
    block: u64,
    bytes: Block,
    is_complete: bool,
}

/// A simulated disk.
#[derive(Clone)]
pub struct Disk {
    zero: Block,
    durable: BTreeMap<u64, Block>,
    current: BTreeMap<u64, Block>,
    pending: Vec<Written>,
    next: u64,
    blocks: u64,
    atomic_unit: usize,
    latent: std::collections::BTreeSet<u64>,
    /// Whether two writes to one block at once are let pass: a forged image can make two things lie in one place.
    pub is_lenient: bool,
    /// Whether the pool was there before the disk.
    pub was_added: bool,
    /// Whether the pool was told that a disk leaves: what lay on two disks may lie on one since.
    pub is_shrunk: bool,
    /// Whether the disk was taken away: nobody may ask it for anything but its labels.
    pub is_detached: bool,
    /// Whether the disk can discard.
    pub discards: bool,
    /// Changes with each flush that made something durable.
    pub version: u64,
    /// Blocks written so far.
    pub writes: u64,
    /// Flushes completed so far.
    pub flushes: u64,
}

impl Disk {
    /// A disk of `blocks` blocks, all zero, that writes `atomic_unit` bytes whole or not at all.
    pub fn new(blocks: u64, atomic_unit: usize) -> Self {
        Self {
            zero: vec![0; BLOCK].into(),
            durable: BTreeMap::new(),
            current: BTreeMap::new(),
            pending: Vec::new(),
            next: 1,
            blocks,
            atomic_unit,
            latent: std::collections::BTreeSet::new(),
            is_lenient: false,
            was_added: false,
            is_shrunk: false,
            is_detached: false,
            discards: false,
            version: 0,
            writes: 0,
            flushes: 0,
        }
    }

    /// Its size.
    pub fn blocks(&self) -> u64 {
        self.blocks
    }

    /// A blank disk of the same make.
    pub fn like(&self, blocks: u64) -> Self {
        Self {
            was_added: true,
            ..Self::new(blocks, self.atomic_unit)
        }
    }

    /// Becomes larger.
    pub fn grow(&mut self, by: u64) {
        self.blocks += by;
    }

    /// Takes a write; it is in flight until [`Disk::complete`].
    ///
    /// # Panics
    /// When it goes past the end, or another write to one of its blocks is in flight: the pool promised not to.
    pub fn submit(&mut self, block: u64, bytes: &[u8]) -> Vec<u64> {
        let mut ids = Vec::new();
        assert!(!self.is_detached, "a write to a disk that was removed");
        for (i, piece) in bytes.chunks(BLOCK).enumerate() {
            let block = block + i as u64;
            assert!(block < self.blocks, "a write past the end, at {block}");
            let is_busy = self
                .pending
                .iter()
                .any(|other| other.block == block && !other.is_complete);
            assert!(
                !is_busy || self.is_lenient,
                "two writes to block {block} in flight"
            );
            let id = self.next;
            self.next += 1;
            self.pending.push(Written {
                id,
                block,
                bytes: piece.into(),
                is_complete: false,
            });
            ids.push(id);
        }
        ids
    }

    /// Takes a discard: what the blocks hold when it ends is anything but what they held.
    pub fn discard(&mut self, block: u64, count: u32) -> Vec<u64> {
        self.submit(block, &vec![0xD5; BLOCK * count as usize])
    }

    /// Completes a write.
    pub fn complete(&mut self, ids: &[u64]) {
        for written in &mut self.pending {
            if ids.contains(&written.id) {
                written.is_complete = true;
                self.latent.remove(&written.block);
                self.current
                    .insert(written.block, Rc::clone(&written.bytes));
                self.writes += 1;
            }
        }
    }

    /// A write failed and has not happened.
    pub fn forget(&mut self, ids: &[u64]) {
        self.pending.retain(|written| !ids.contains(&written.id));
    }

    /// What a flush submitted at this moment will make durable.
    pub fn flush_begins(&self) -> Vec<u64> {
        self.pending
            .iter()
            .filter(|written| written.is_complete)
            .map(|written| written.id)
            .collect()
    }

    /// Completes a flush.
    pub fn flush_ends(&mut self, covered: &[u64]) {
        self.flushes += 1;
        self.version += u64::from(!covered.is_empty());
        let durable = &mut self.durable;
        self.pending.retain(|written| {
            let is_covered = covered.binary_search(&written.id).is_ok();
            if is_covered {
                durable.insert(written.block, Rc::clone(&written.bytes));
            }
            !is_covered
        });
    }

    /// Reads a block; `None` for a latent error.
    pub fn read(&self, block: u64) -> Option<Block> {
        if self.is_detached || self.latent.contains(&block) || block >= self.blocks {
            return None;
        }
        Some(Rc::clone(self.current.get(&block).unwrap_or(&self.zero)))
    }

    /// Blocks that are not durable yet, in flight included: a number for each write of one, oldest first.
    pub fn volatile(&self) -> Vec<u64> {
        self.pending.iter().map(|written| written.id).collect()
    }

    /// The disk after a power cut: `keep` decides for each atomic unit that is not durable, oldest first.
    pub fn cut(&self, keep: &mut dyn FnMut(usize) -> Keep) -> Self {
        let mut durable = self.durable.clone();
        for (index, written) in self.pending.iter().enumerate() {
            match keep(index) {
                Keep::None => {}
                Keep::All => {
                    durable.insert(written.block, Rc::clone(&written.bytes));
                }
                Keep::Torn(bits) => {
                    let mut bytes = durable.get(&written.block).unwrap_or(&self.zero).to_vec();
                    let units = bytes
                        .chunks_mut(self.atomic_unit)
                        .zip(written.bytes.chunks(self.atomic_unit));
                    for (i, (old, new)) in units.enumerate() {
                        if bits >> i & 1 != 0 {
                            old.copy_from_slice(new);
                        }
                    }
                    durable.insert(written.block, bytes.into());
                }
            }
        }
        Self {
            current: durable.clone(),
            durable,
            pending: Vec::new(),
            ..self.clone()
        }
    }

    /// The disk after its engine was killed and the machine went on: what was complete is readable and still volatile.
    pub fn killed(&self) -> Self {
        let mut disk = self.clone();
        let ids: Vec<u64> = disk.pending.iter().map(|written| written.id).collect();
        disk.complete(&ids);
        disk
    }

    /// Flips one bit of a block behind everyone's back.
    pub fn rot(&mut self, block: u64, rng: &mut Rng) {
        let mut bytes = self.current.get(&block).unwrap_or(&self.zero).to_vec();
        let bit = rng.below(8 * BLOCK as u64) as usize;
        bytes[bit / 8] ^= 1 << (bit % 8);
        let bytes: Block = bytes.into();
        self.current.insert(block, Rc::clone(&bytes));
        self.durable.insert(block, bytes);
    }

    /// The block at `to` has what was meant for `from`, as if a write had gone astray.
    pub fn misdirect(&mut self, from: u64, to: u64) {
        let bytes = Rc::clone(self.current.get(&from).unwrap_or(&self.zero));
        self.current.insert(to, Rc::clone(&bytes));
        self.durable.insert(to, bytes);
    }

    /// Replaces a block behind everyone's back.
    pub fn replace(&mut self, block: u64, bytes: &[u8]) {
        let bytes: Block = bytes.into();
        self.current.insert(block, Rc::clone(&bytes));
        self.durable.insert(block, bytes);
    }

    /// Makes a block unreadable until it is written.
    pub fn break_block(&mut self, block: u64) {
        self.latent.insert(block);
    }
}

/// What becomes of a block that was not durable at a cut.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Keep {
    /// It never reached the medium.
    None,
    /// It did.
    All,
    /// Only the atomic units whose bits are set did.
    Torn(u64),
}
