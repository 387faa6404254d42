//! Scrubbing: the blocks in use of one region compared with their checks, in the background of everything else (`docs/disk-format.md` §5).
//!
//! Decides which region comes next and what is rot. Does not decide when: the driver asks for one region at a time, at its own pace. A block
//! that seems wrong is read again alone, while nobody writes in its region, before it counts. What is found is reported: this pool has one copy.

use pool_format::{SlabKind, stored_crc};

use crate::api::{Answer, Done, DoneResult, Scrubbed, Target};
use crate::device::Purpose;
use crate::pool::{Op, Pool, Stop, Wait};

/// Reads of a block in a region that is being written in, before it is left for the next time.
const TRIES: u32 = 8;

/// A scrub of one region in progress.
#[derive(Default)]
pub(crate) struct Scrub {
    pub(crate) region: u64,
    /// Blocks to look at once more, first is next.
    suspects: Vec<u32>,
    /// The first block being read and what was expected from there on; 0 for blocks that do not matter.
    reading: (u32, Vec<u32>),
    /// What was read, once it has come.
    found: Option<Option<Vec<u32>>>,
    is_first: bool,
    tries: u32,
    /// Somebody wrote in the region since the read was asked for.
    is_disturbed: bool,
    done: Scrubbed,
}

impl Pool {
    pub(crate) fn step_scrub(&mut self, id: u64, op: &mut Op, from: u64) -> Result<Answer, Stop> {
        let Some(mut scrub) = self.scrubs.remove(&id) else {
            return self.begin_scrub(id, op, from);
        };
        if op.outstanding > 0 {
            self.scrubs.insert(id, scrub);
            return Err(Wait::Own.into());
        }
        let waits = self.judge(&mut scrub);
        let next = match waits {
            Ok(()) => self.read_suspect(id, op, &mut scrub),
            Err(wait) => Err(wait),
        };
        match next {
            Ok(true) => Ok(Answer::Scrubbed(scrub.done)),
            Ok(false) => {
                self.scrubs.insert(id, scrub);
                Err(Wait::Own.into())
            }
            Err(wait) => {
                self.scrubs.insert(id, scrub);
                Err(wait.into())
            }
        }
    }

    /// Finds the next region with blocks in use, and reads it.
    fn begin_scrub(&mut self, id: u64, op: &mut Op, from: u64) -> Result<Answer, Stop> {
        let per_slab = u64::from(self.space.geometry.regions());
        let end = self.space.slabs.len() as u64 * per_slab;
        let mut region = from;
        while region < end {
            let slab = (region / per_slab) as usize;
            let record = self.space.slabs[slab];
            if record.kind != SlabKind::Data || self.is_missing(usize::from(record.disk)) {
                region = (slab as u64 + 1) * per_slab;
                continue;
            }
            if !self.space.bits.contains_key(&(slab as u32)) {
                match self.load_bitmap(slab as u32) {
                    Wait::Now => {}
                    wait => return Err(wait.into()),
                }
            }
            let start = self.space.geometry.region_start(region);
            let count = self.space.geometry.region_blocks;
            if self.lost_bitmaps.contains(&(slab as u32)) {
                // What is free here may hold anything.
                region = (slab as u64 + 1) * per_slab;
                continue;
            }
            let in_use = self.space.in_use(start, count);
            if !in_use.contains(&true) {
                region += 1;
                continue;
            }
            let known = self.expected(start, count)?;
            let mut scrub = Scrub {
                region,
                is_first: true,
                ..Scrub::default()
            };
            scrub.done.region = Some(region);
            scrub.done.next = region + 1;
            let mut expected = Vec::with_capacity(known.len());
            for (known, in_use) in known.into_iter().zip(in_use) {
                scrub.done.unverified += u32::from(in_use && known == 0);
                scrub.done.verified += u32::from(in_use && known != 0);
                expected.push(if in_use { known } else { 0 });
            }
            self.read_scrub(id, op, &mut scrub, (0, expected));
            self.scrubs.insert(id, scrub);
            return Err(Wait::Own.into());
        }
        Ok(Answer::Scrubbed(Scrubbed {
            next: end,
            ..Scrubbed::default()
        }))
    }

    fn read_scrub(&mut self, id: u64, op: &mut Op, scrub: &mut Scrub, what: (u32, Vec<u32>)) {
        let address = self.space.geometry.region_start(scrub.region) + u64::from(what.0);
        let count = what.1.len() as u32;
        scrub.is_disturbed = self.regions.is_written(scrub.region);
        scrub.reading = what;
        scrub.found = None;
        if let Some(place) = self.space.locate(address, 0) {
            op.outstanding += 1;
            self.devices
                .read(place, count, Target::Check, Purpose::Scrub { op: id });
        }
    }

    pub(crate) fn handle_scrub(&mut self, id: u64, result: DoneResult) {
        if let Some(scrub) = self.scrubs.get_mut(&id) {
            scrub.found = Some(match result {
                Ok(Done::Crcs(crcs)) => Some(crcs),
                Ok(Done::Nothing | Done::Bytes(_) | Done::Merged { .. }) | Err(_) => None,
            });
        }
        if let Some(op) = self.ops.get_mut(&id) {
            op.outstanding -= 1;
            self.resume(id);
        }
    }

    /// Compares what came; what differs becomes a suspect, or is rot when it was one.
    fn judge(&mut self, scrub: &mut Scrub) -> Result<(), Wait> {
        let Some(found) = scrub.found.take() else {
            return Ok(());
        };
        let (first, expected) = std::mem::take(&mut scrub.reading);
        let start = self.space.geometry.region_start(scrub.region);
        let slab = self.space.geometry.slab_of(start) as usize;
        let generation = self.space.slabs[slab].generation;
        let differs = |i: usize, expected: u32| {
            let address = start + u64::from(first) + i as u64;
            let plain = found.as_ref().and_then(|found| found.get(i));
            expected != 0
                && plain.map(|plain| stored_crc(*plain, address, generation)) != Some(expected)
        };
        let bad: Vec<u32> = expected
            .iter()
            .enumerate()
            .filter(|(i, expected)| differs(*i, **expected))
            .map(|(i, _)| first + i as u32)
            .collect();
        if scrub.is_first {
            scrub.is_first = false;
            scrub.suspects = bad;
        } else if bad.is_empty() {
            scrub.suspects.remove(0);
        } else if !scrub.is_disturbed {
            scrub.suspects.remove(0);
            scrub.done.verified = scrub.done.verified.saturating_sub(1);
            scrub.done.bad.push(start + u64::from(bad[0]));
        } else {
            scrub.tries += 1;
            if scrub.tries > TRIES {
                scrub.tries = 0;
                scrub.suspects.remove(0);
                scrub.done.busy += 1;
            } else if self.regions.is_written(scrub.region) {
                return Err(Wait::Region);
            }
        }
        Ok(())
    }

    /// Reads the next suspect alone; answers whether there is none left.
    fn read_suspect(&mut self, id: u64, op: &mut Op, scrub: &mut Scrub) -> Result<bool, Wait> {
        while let Some(index) = scrub.suspects.first().copied() {
            let address = self.space.geometry.region_start(scrub.region) + u64::from(index);
            let expected = self.expected(address, 1)?;
            if !self.space.in_use(address, 1).contains(&true) {
                scrub.suspects.remove(0);
                continue;
            }
            self.read_scrub(id, op, scrub, (index, expected));
            return Ok(false);
        }
        Ok(true)
    }

    /// Scrubs of this region have to look again.
    pub(crate) fn disturb_scrubs(&mut self, region: u64) {
        for scrub in self.scrubs.values_mut() {
            scrub.is_disturbed |= scrub.region == region;
        }
    }
}
