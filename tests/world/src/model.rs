//! What a host may expect, as plainly as it can be said: for each block the values written since the last flush.

use std::collections::BTreeMap;

/// Stamps of the eight sectors of a block; 0 is zero.
pub type Value = [u64; 8];

/// A value that was written.
#[derive(Clone, Copy, Debug)]
pub struct Entry {
    /// Order of submission.
    pub id: u64,
    /// What.
    pub value: Value,
    /// Whether the host was told.
    pub is_done: bool,
    /// Whether the host was told that it failed.
    pub is_failed: bool,
    /// The sectors it wrote, when not all: the others are those of the entry before it.
    pub part: Option<(usize, usize)>,
}

/// One block: oldest possible value first.
#[derive(Clone, Debug)]
pub struct Cell {
    /// What it may be after a cut.
    pub entries: Vec<Entry>,
}

impl Cell {
    fn zero() -> Self {
        Self {
            entries: vec![Entry {
                id: 0,
                value: [0; 8],
                is_done: true,
                is_failed: false,
                part: None,
            }],
        }
    }

    /// The newest entry the host was told of.
    pub fn last_done(&self) -> u64 {
        self.entries
            .iter()
            .rev()
            .find(|entry| entry.is_done)
            .map_or(0, |entry| entry.id)
    }

    /// Whether `value` is, sector by sector, one of the entries from `from` on.
    pub fn allows(&self, value: &Value, from: u64) -> bool {
        (0..8).all(|sector| {
            let mut entries = self.entries.iter().filter(|entry| entry.id >= from);
            entries.any(|entry| entry.value[sector] == value[sector])
        })
    }

    /// A write failed. What was written behind it to parts of the block may stand on it, or on what was there before.
    fn fail(&mut self, id: u64) {
        let Some(at) = self.entries.iter().position(|entry| entry.id == id) else {
            return;
        };
        for entry in &mut self.entries {
            entry.is_failed |= entry.id == id;
        }
        // What was there before: the newest that did not fail, in each of its variants, or any that failed since.
        let solid = self.entries[..at]
            .iter()
            .rposition(|entry| !entry.is_failed);
        let solid = solid.map_or(0, |solid| self.entries[solid].id);
        let first = self.entries.iter().position(|entry| entry.id == solid);
        let before: Vec<Value> = self.entries[first.unwrap_or(0).min(at)..at]
            .iter()
            .map(|entry| entry.value)
            .collect();
        let behind = self.entries[at + 1..].iter();
        let parts = behind.take_while(|entry| entry.part.is_some() || entry.is_failed);
        let parts: Vec<Entry> = parts.filter(|entry| entry.id != id).copied().collect();
        let others = before.iter().flat_map(|before| {
            parts.iter().map(|entry| {
                let mut other = *entry;
                let (start, end) = entry.part.unwrap_or((0, 8));
                other.value = *before;
                other.value[start..end].copy_from_slice(&entry.value[start..end]);
                other
            })
        });
        let others: Vec<Entry> = others.collect();
        for other in others {
            let is_same = |entry: &Entry| (entry.id, entry.value) == (other.id, other.value);
            if self.entries.iter().any(is_same) {
                continue;
            }
            let behind = self.entries.iter().rposition(|entry| entry.id == other.id);
            self.entries
                .insert(behind.map_or(self.entries.len(), |at| at + 1), other);
        }
    }

    /// The block was seen: that is what it is.
    pub fn settle(&mut self, value: Value) {
        self.entries = vec![Entry {
            id: 0,
            value,
            is_done: true,
            is_failed: false,
            part: None,
        }];
    }
}

/// A replica or snapshot.
#[derive(Clone, Debug)]
pub struct Volume {
    /// Its id in the pool, once known.
    pub id: Option<u64>,
    /// Its UUID, by which it is found again.
    pub uuid: [u8; 16],
    /// Whether it can be written.
    pub is_replica: bool,
    /// Whether its writes never fail for lack of space.
    pub is_thick: bool,
    /// Its blocks.
    pub cells: Vec<Cell>,
    /// Whether the host was told that it exists.
    pub is_certain: bool,
    /// Whether its deletion was asked for.
    pub is_going: bool,
    /// Whether the host was told that it is deleted.
    pub is_gone: bool,
    /// The size it had before a resize the host was not told of.
    pub other_size: Option<usize>,
}

/// Everything a host knows.
#[derive(Clone, Debug, Default)]
pub struct Model {
    /// Volumes by a number of their own.
    pub volumes: BTreeMap<u64, Volume>,
    next_volume: u64,
    next_entry: u64,
}

impl Model {
    /// Adds a volume of `size` blocks that read as zero.
    pub fn add(&mut self, size: usize) -> u64 {
        self.insert(true, vec![Cell::zero(); size])
    }

    fn insert(&mut self, is_replica: bool, cells: Vec<Cell>) -> u64 {
        self.next_volume += 1;
        let mut uuid = [0; 16];
        uuid[..8].copy_from_slice(&self.next_volume.to_le_bytes());
        let volume = Volume {
            id: None,
            uuid,
            is_replica,
            is_thick: false,
            cells,
            is_certain: false,
            is_going: false,
            is_gone: false,
            other_size: None,
        };
        self.volumes.insert(self.next_volume, volume);
        self.next_volume
    }

    /// Adds a snapshot or clone that is asked for at this moment: what was asked for before is in it.
    pub fn copy(&mut self, from: u64, is_replica: bool) -> u64 {
        let cells = self.volumes[&from].cells.clone();
        self.insert(is_replica, cells)
    }

    /// The next entry's id.
    pub fn next_id(&self) -> u64 {
        self.next_entry + 1
    }

    /// A write is asked for; answers its entry id.
    pub fn begin(
        &mut self,
        volume: u64,
        blocks: std::ops::Range<usize>,
        value: impl Fn(usize) -> Value,
    ) -> u64 {
        self.next_entry += 1;
        let id = self.next_entry;
        if let Some(volume) = self.volumes.get_mut(&volume) {
            for block in blocks {
                volume.cells[block].entries.push(Entry {
                    id,
                    value: value(block),
                    is_done: false,
                    is_failed: false,
                    part: None,
                });
            }
        }
        id
    }

    /// A write of some sectors of a block is asked for; answers its entry id.
    pub fn begin_part(
        &mut self,
        volume: u64,
        block: usize,
        sectors: std::ops::Range<usize>,
        stamp: u64,
    ) -> u64 {
        self.next_entry += 1;
        let id = self.next_entry;
        if let Some(volume) = self.volumes.get_mut(&volume) {
            let entries = &mut volume.cells[block].entries;
            // It stands on the newest entry; when that failed, also on the one before, and so on.
            let solid = entries.iter().rposition(|entry| !entry.is_failed);
            // A part that stands on one that failed is there twice, or more often.
            let solid = solid.map_or(0, |solid| entries[solid].id);
            let first = entries.iter().position(|entry| entry.id == solid);
            let bases: Vec<Value> = entries[first.unwrap_or(0)..]
                .iter()
                .map(|entry| entry.value)
                .collect();
            for mut value in bases {
                value[sectors.clone()].fill(stamp);
                entries.push(Entry {
                    id,
                    value,
                    is_done: false,
                    is_failed: false,
                    part: Some((sectors.start, sectors.end)),
                });
            }
        }
        id
    }

    /// The host is told that a write is done; `is_durable` when it was told that too.
    pub fn finish(&mut self, volume: u64, id: u64, is_durable: bool) {
        let Some(volume) = self.volumes.get_mut(&volume) else {
            return;
        };
        for cell in &mut volume.cells {
            if let Some(at) = cell.entries.iter().position(|entry| entry.id == id) {
                let all = cell.entries.iter_mut().filter(|entry| entry.id == id);
                all.for_each(|entry| entry.is_done = true);
                if is_durable {
                    cell.entries.drain(..at);
                }
            }
        }
    }

    /// The host is told that a write failed: any part of it may have happened, also in copies made meanwhile.
    pub fn fail(&mut self, id: u64) {
        for volume in self.volumes.values_mut() {
            for cell in &mut volume.cells {
                cell.fail(id);
            }
        }
    }

    /// For each block what a flush asked for at this moment covers.
    pub fn flush_begins(&self) -> BTreeMap<(u64, usize), u64> {
        let mut covered = BTreeMap::new();
        for (number, volume) in &self.volumes {
            for (block, cell) in volume.cells.iter().enumerate() {
                if cell.entries.len() > 1 {
                    covered.insert((*number, block), cell.last_done());
                }
            }
        }
        covered
    }

    /// The host is told that a flush is done.
    pub fn flush_ends(&mut self, covered: &BTreeMap<(u64, usize), u64>) {
        for ((number, block), id) in covered {
            let cell = self
                .volumes
                .get_mut(number)
                .and_then(|volume| volume.cells.get_mut(*block));
            if let Some(cell) = cell
                && let Some(at) = cell.entries.iter().position(|entry| entry.id == *id)
            {
                cell.entries.drain(..at);
            }
        }
    }

    /// A snapshot or clone is answered: its content is what was done or failed before it was asked for.
    pub fn pin(&mut self, copy: u64, of: u64) {
        let done: Vec<Vec<(u64, bool)>> = match self.volumes.get(&of) {
            Some(origin) => origin
                .cells
                .iter()
                .map(|cell| {
                    cell.entries
                        .iter()
                        .map(|entry| (entry.id, entry.is_done))
                        .collect()
                })
                .collect(),
            None => Vec::new(),
        };
        let Some(volume) = self.volumes.get_mut(&copy) else {
            return;
        };
        for (cell, known) in volume.cells.iter_mut().zip(done) {
            for entry in &mut cell.entries {
                entry.is_done |= known
                    .iter()
                    .any(|(id, is_done)| *id == entry.id && *is_done);
            }
            let oldest = known.first().map_or(0, |(id, _)| *id);
            // What the origin has forgotten was done, and overtaken by something done.
            let last = cell
                .entries
                .iter()
                .rposition(|entry| entry.is_done || entry.id < oldest && !entry.is_failed);
            if let Some(mut last) = last {
                while last > 0 && cell.entries[last - 1].id == cell.entries[last].id {
                    last -= 1;
                }
                cell.entries.drain(..last);
            }
        }
    }

    /// Sets the size of a volume; new blocks read as zero.
    pub fn resize(&mut self, volume: u64, size: usize) {
        if let Some(volume) = self.volumes.get_mut(&volume) {
            volume.cells.resize(size, Cell::zero());
        }
    }
}
