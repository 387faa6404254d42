//! Data that proves where and when it was written, and the memory of what was acknowledged.
//!
//! Every block carries its address, the run's seed, a generation and a CRC32C over all of it. A *unit* is the range one
//! I/O moves. For each unit the map remembers the last acknowledged generation and the last issued one; a unit has at
//! most one write in flight.
//!
//! What a read must find in each block of a unit: the acknowledged generation, or, while a write above it is neither
//! acknowledged nor refuted (its connection was lost), any generation from the acknowledged to the issued one, as each
//! block is written whole or not at all. Anything else is a loss, a tear or a misdirection.

use nvme_tcp::{Digest, crc32c};
use std::fmt;
use std::fs;
use std::io::{self, Write};
use std::path::Path;

const MAGIC: u64 = u64::from_le_bytes(*b"ioperf\0\x01");
const STATE_MAGIC: u64 = u64::from_le_bytes(*b"iostate\x01");
const CRC_AT: usize = 28;
const HEADER_LEN: usize = 32;

/// Most units one map holds; a larger range is refused (memory: 9 bytes a unit).
pub const UNITS_MAX: u64 = 1 << 28;

#[derive(Clone, Copy, Debug, Default)]
struct Unit {
    acked: u32,
    issued: u32,
    busy: bool,
}

/// What is known about every unit.
#[derive(Debug)]
pub struct Map {
    seed: u64,
    block_len: usize,
    unit_blocks: u64,
    units: Vec<Unit>,
}

/// A block that is not what it has to be.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Corruption {
    /// Its address.
    pub lba: u64,
    /// Oldest generation allowed, the acknowledged one.
    pub acked: u32,
    /// Newest generation allowed.
    pub issued: u32,
    /// What was there.
    pub found: Found,
}

/// What was in a block.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Found {
    /// Zeroes only.
    Zeroes,
    /// No block of ours, or one that fails its checksum.
    Garbage,
    /// A whole block of another run.
    OtherSeed(u64),
    /// A whole block of this run that belongs elsewhere.
    OtherAddress(u64),
    /// A whole block of this address, of a generation that is not allowed.
    Generation(u32),
}

impl fmt::Display for Corruption {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "block {}: expected generation ", self.lba)?;
        if self.acked == self.issued {
            write!(f, "{}", self.acked)?;
        } else {
            write!(f, "{} to {}", self.acked, self.issued)?;
        }
        match self.found {
            Found::Zeroes => f.write_str(", found zeroes"),
            Found::Garbage => f.write_str(", found data that fails its checksum"),
            Found::OtherSeed(seed) => write!(f, ", found data of seed {seed}"),
            Found::OtherAddress(lba) => write!(f, ", found data of block {lba}"),
            Found::Generation(generation) => write!(f, ", found generation {generation}"),
        }
    }
}

impl Map {
    /// A map of `units` units of `unit_blocks` blocks of `block_len` bytes (at least 64), nothing written.
    pub fn new(seed: u64, block_len: usize, unit_blocks: u64, units: u64) -> Self {
        assert!(units <= UNITS_MAX && block_len >= 64);
        Self {
            seed,
            block_len,
            unit_blocks,
            units: vec![Unit::default(); units as usize],
        }
    }

    /// Number of units.
    pub fn units(&self) -> u64 {
        self.units.len() as u64
    }

    /// Whether an I/O on the unit is in flight.
    pub fn is_busy(&self, unit: u64) -> bool {
        self.units[unit as usize].busy
    }

    /// Whether the unit has an acknowledged write, so that reading it proves something.
    pub fn is_written(&self, unit: u64) -> bool {
        self.units[unit as usize].acked > 0
    }

    /// Begins a write: fills `buffer` with the unit's next generation, which it returns.
    pub fn begin_write(&mut self, unit: u64, buffer: &mut [u8]) -> u32 {
        let state = &mut self.units[unit as usize];
        state.busy = true;
        state.issued += 1;
        let generation = state.issued;
        let first = unit * self.unit_blocks;
        for (block, lba) in buffer.chunks_exact_mut(self.block_len).zip(first..) {
            fill(block, self.seed, lba, generation);
        }
        generation
    }

    /// The write of `generation` was acknowledged.
    pub fn write_acked(&mut self, unit: u64, generation: u32) {
        let state = &mut self.units[unit as usize];
        state.acked = generation;
        state.busy = false;
    }

    /// Begins a read.
    pub fn begin_read(&mut self, unit: u64) {
        self.units[unit as usize].busy = true;
    }

    /// An I/O ended without success: what it wrote, if it did, is uncertain.
    pub fn abandon(&mut self, unit: u64) {
        self.units[unit as usize].busy = false;
    }

    /// Ends a read and judges what it brought.
    ///
    /// # Errors
    /// The first block that is not what it has to be.
    pub fn end_read(&mut self, unit: u64, buffer: &[u8]) -> Result<(), Corruption> {
        let state = &mut self.units[unit as usize];
        state.busy = false;
        let Unit { acked, issued, .. } = *state;
        if acked == 0 {
            return Ok(());
        }
        let first = unit * self.unit_blocks;
        for (block, lba) in buffer.chunks_exact(self.block_len).zip(first..) {
            if let Err(found) = judge(block, self.seed, lba, acked, issued) {
                return Err(Corruption {
                    lba,
                    acked,
                    issued,
                    found,
                });
            }
        }
        Ok(())
    }

    /// Writes the map to `path`, replacing it whole.
    ///
    /// # Errors
    /// Those of the file system.
    pub fn save(&self, path: &Path) -> io::Result<()> {
        let mut raw = Vec::with_capacity(40 + self.units.len() * 8);
        for word in [
            STATE_MAGIC,
            self.seed,
            self.block_len as u64,
            self.unit_blocks,
            self.units(),
        ] {
            raw.extend_from_slice(&word.to_le_bytes());
        }
        for unit in &self.units {
            raw.extend_from_slice(&unit.acked.to_le_bytes());
            raw.extend_from_slice(&unit.issued.to_le_bytes());
        }
        raw.extend_from_slice(&crc32c(&raw).to_le_bytes());
        let mut scratch = path.as_os_str().to_owned();
        scratch.push(".new");
        let mut file = fs::File::create(&scratch)?;
        file.write_all(&raw)?;
        file.sync_all()?;
        fs::rename(&scratch, path)
    }

    /// Reads a map written by [`Self::save`].
    ///
    /// # Errors
    /// Those of the file system; `InvalidData` for anything but a whole map.
    pub fn load(path: &Path) -> io::Result<Self> {
        let raw = fs::read(path)?;
        let invalid = || io::Error::new(io::ErrorKind::InvalidData, "not a state file");
        let (body, crc) = raw.split_last_chunk::<4>().ok_or_else(invalid)?;
        let (head, body_units) = body.split_first_chunk::<40>().ok_or_else(invalid)?;
        let word = |index: usize| {
            let mut word = [0; 8];
            word.copy_from_slice(&head[index * 8..][..8]);
            u64::from_le_bytes(word)
        };
        let whole = u32::from_le_bytes(*crc) == crc32c(body);
        let (block_len, units) = (word(2), word(4));
        let fits = units <= UNITS_MAX && body_units.len() as u64 == units * 8;
        if !whole || word(0) != STATE_MAGIC || !fits || !(64..=65536).contains(&block_len) {
            return Err(invalid());
        }
        let (pairs, _) = body_units.as_chunks::<8>();
        let units = pairs.iter().map(|pair| Unit {
            acked: u32::from_le_bytes([pair[0], pair[1], pair[2], pair[3]]),
            issued: u32::from_le_bytes([pair[4], pair[5], pair[6], pair[7]]),
            busy: false,
        });
        Ok(Self {
            seed: word(1),
            block_len: block_len as usize,
            unit_blocks: word(3),
            units: units.collect(),
        })
    }

    /// Whether the map was made for this geometry.
    pub fn fits(&self, block_len: usize, unit_blocks: u64, units: u64) -> bool {
        (self.block_len, self.unit_blocks, self.units()) == (block_len, unit_blocks, units)
    }
}

/// Fills one block. The fill depends on everything in the header, so that two blocks never share their rest.
fn fill(block: &mut [u8], seed: u64, lba: u64, generation: u32) {
    block[..8].copy_from_slice(&MAGIC.to_le_bytes());
    block[8..16].copy_from_slice(&lba.to_le_bytes());
    block[16..24].copy_from_slice(&seed.to_le_bytes());
    block[24..28].copy_from_slice(&generation.to_le_bytes());
    let mut state = seed ^ lba.rotate_left(32) ^ u64::from(generation) ^ MAGIC;
    for word in block[HEADER_LEN..].chunks_mut(8) {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        word.copy_from_slice(&state.to_le_bytes()[..word.len()]);
    }
    let crc = checksum(block);
    block[CRC_AT..HEADER_LEN].copy_from_slice(&crc.to_le_bytes());
}

fn checksum(block: &[u8]) -> u32 {
    let mut digest = Digest::new();
    digest.update(&block[..CRC_AT]);
    digest.update(&block[HEADER_LEN..]);
    digest.value()
}

fn judge(block: &[u8], seed: u64, lba: u64, acked: u32, issued: u32) -> Result<(), Found> {
    let word = |at: usize| {
        let mut word = [0; 8];
        word.copy_from_slice(&block[at..at + 8]);
        u64::from_le_bytes(word)
    };
    let (generation, crc) = (word(24) as u32, (word(24) >> 32) as u32);
    if word(0) != MAGIC || crc != checksum(block) {
        let zeroes = block.iter().all(|byte| *byte == 0);
        return Err(if zeroes {
            Found::Zeroes
        } else {
            Found::Garbage
        });
    }
    if word(16) != seed {
        return Err(Found::OtherSeed(word(16)));
    }
    if word(8) != lba {
        return Err(Found::OtherAddress(word(8)));
    }
    if !(acked..=issued).contains(&generation) {
        return Err(Found::Generation(generation));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written() -> (Map, Vec<u8>) {
        let mut map = Map::new(7, 512, 2, 4);
        let mut buffer = vec![0; 1024];
        let generation = map.begin_write(1, &mut buffer);
        map.write_acked(1, generation);
        (map, buffer)
    }

    #[test]
    fn what_was_acknowledged_is_accepted_and_nothing_else() {
        let (mut map, first) = written();
        assert_eq!(map.end_read(1, &first), Ok(()));
        let found = |map: &mut Map, data: &[u8]| map.end_read(1, data).map_err(|e| e.found);
        assert_eq!(found(&mut map, &[0; 1024]), Err(Found::Zeroes));
        for at in [0, 30, 100, 511, 512, 1023] {
            let mut torn = first.clone();
            torn[at] ^= 1;
            assert_eq!(found(&mut map, &torn), Err(Found::Garbage), "byte {at}");
        }
        let swapped = [&first[512..], &first[..512]].concat();
        assert_eq!(found(&mut map, &swapped), Err(Found::OtherAddress(3)));
        let mut second = vec![0; 1024];
        let generation = map.begin_write(1, &mut second);
        map.write_acked(1, generation);
        assert_eq!(found(&mut map, &first), Err(Found::Generation(1)));
        assert_eq!(found(&mut map, &second), Ok(()));
        let mut other = Map::new(8, 512, 2, 4);
        other.begin_write(1, &mut second);
        assert_eq!(found(&mut map, &second), Err(Found::OtherSeed(8)));
    }

    #[test]
    fn an_unanswered_write_may_be_there_block_by_block() {
        let (mut map, first) = written();
        let mut second = vec![0; 1024];
        map.begin_write(1, &mut second);
        map.abandon(1);
        let mixed = [&second[..512], &first[512..]].concat();
        for data in [&first, &second, &mixed] {
            assert_eq!(map.end_read(1, data), Ok(()));
        }
        let mut third = vec![0; 1024];
        let generation = map.begin_write(1, &mut third);
        assert_eq!(generation, 3);
        map.write_acked(1, generation);
        assert!(map.end_read(1, &mixed).is_err());
    }

    #[test]
    fn the_map_survives_a_file_and_a_broken_one_is_refused() {
        let path = std::env::temp_dir().join(format!("io-engine-perf-{}", std::process::id()));
        let (map, first) = written();
        map.save(&path).expect("saved");
        let mut loaded = Map::load(&path).expect("loaded");
        assert!(loaded.fits(512, 2, 4) && loaded.is_written(1) && !loaded.is_written(0));
        assert_eq!(loaded.end_read(1, &first), Ok(()));
        let mut raw = fs::read(&path).expect("a file");
        raw[50] ^= 1;
        fs::write(&path, raw).expect("a file");
        assert!(Map::load(&path).is_err());
        fs::remove_file(&path).expect("a file");
    }
}
