//! Integrity regions: open, being sealed, and the pages of sealed ones in memory (`docs/disk-format.md` §5, §6 cases 7 to 11).
//!
//! Invariants: a region is written in only while it is open and not being sealed; an open region's page is in memory.

use std::collections::BTreeMap;
use std::rc::Rc;

use pool_format::{IntegrityPage, Record};

use crate::api::{Done, DoneResult, Mutation, Source, Target};
use crate::device::Purpose;
use crate::flush::Waiter;
use crate::pool::{Pool, Wait};

/// A region found open after a crash.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Adoption {
    /// Its checks are known as far as they can be.
    Done,
    /// Its content is to be read.
    Wanted,
    /// Its content is being read.
    Reading,
}

pub(crate) struct OpenRegion {
    pub(crate) page: IntegrityPage,
    /// Journal block of its open record.
    pub(crate) sequence: u64,
    /// Writes in flight.
    pub(crate) writes: u32,
    pub(crate) is_sealing: bool,
    pub(crate) adoption: Adoption,
    used: u64,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum SealStep {
    /// Writing pages; how many are outstanding.
    Pages(usize),
    /// Waiting for the flush of pages and data.
    Flush,
}

#[derive(Default)]
pub(crate) struct Regions {
    pub(crate) open: BTreeMap<u64, OpenRegion>,
    sealed: BTreeMap<u64, (Rc<IntegrityPage>, u64)>,
    by_use: BTreeMap<u64, u64>,
    /// Open regions whose checks are not known yet.
    unadopted: usize,
    tick: u64,
    loading: BTreeMap<u64, ()>,
    sealing: Option<(Vec<u64>, SealStep)>,
    pub(crate) is_flushed: bool,
}

impl Regions {
    fn sealed_page(&mut self, region: u64) -> Option<Rc<IntegrityPage>> {
        let (page, used) = self.sealed.get_mut(&region)?;
        self.by_use.remove(used);
        self.tick += 1;
        *used = self.tick;
        self.by_use.insert(self.tick, region);
        Some(Rc::clone(page))
    }

    fn keep_sealed(&mut self, region: u64, page: Rc<IntegrityPage>, most: usize) {
        self.forget(region);
        self.tick += 1;
        self.sealed.insert(region, (page, self.tick));
        self.by_use.insert(self.tick, region);
        while self.sealed.len() > most.max(4) {
            let Some((_, region)) = self.by_use.pop_first() else {
                break;
            };
            self.sealed.remove(&region);
        }
    }

    fn forget(&mut self, region: u64) {
        if let Some((_, used)) = self.sealed.remove(&region) {
            self.by_use.remove(&used);
        }
    }

    pub(crate) fn insert_open(
        &mut self,
        region: u64,
        page: IntegrityPage,
        sequence: u64,
        adoption: Adoption,
    ) {
        self.tick += 1;
        self.unadopted += usize::from(adoption != Adoption::Done);
        let open = OpenRegion {
            page,
            sequence,
            writes: 0,
            is_sealing: false,
            adoption,
            used: self.tick,
        };
        self.open.insert(region, open);
    }

    /// Whether a write in the region is in flight.
    pub(crate) fn is_written(&self, region: u64) -> bool {
        self.open.get(&region).is_some_and(|open| open.writes > 0)
    }

    pub(crate) fn is_sealing(&self) -> bool {
        self.sealing.is_some()
    }

    pub(crate) fn is_adopting(&self) -> bool {
        self.unadopted > 0
    }
}

impl Pool {
    /// Makes `region` ready for a write; in place only when its open record is durable.
    pub(crate) fn ready_region(&mut self, region: u64, in_place: bool) -> Result<(), Wait> {
        self.regions.tick += 1;
        let tick = self.regions.tick;
        if let Some(open) = self.regions.open.get_mut(&region) {
            if open.is_sealing {
                return Err(Wait::Region);
            }
            open.used = tick;
            let sequence = open.sequence;
            if in_place
                && sequence > self.journal.durable
                && self.mutation != Mutation::InPlaceBeforeOpen
            {
                self.flushes.want_durable(sequence);
                return Err(Wait::Durable);
            }
            return Ok(());
        }
        if self.regions.open.len() >= self.limits.regions_open_max {
            self.begin_seal(self.limits.regions_open_max.div_ceil(4));
            return Err(Wait::Region);
        }
        let page = self.region_page(region)?;
        let generation = page.generation;
        let sequence = self.journal.push(&Record::Open { region, generation });
        self.regions.forget(region);
        let page = IntegrityPage::clone(&page);
        self.regions
            .insert_open(region, page, sequence, Adoption::Done);
        self.ready_region(region, in_place)
    }

    fn region_page(&mut self, region: u64) -> Result<Rc<IntegrityPage>, Wait> {
        if let Some(page) = self.regions.sealed_page(region) {
            return Ok(page);
        }
        if self.regions.loading.insert(region, ()).is_none() {
            let address = self.space.geometry.region_page(region);
            let place = self
                .space
                .locate(address, 0)
                .expect("regions are derived from addresses in use");
            self.devices
                .read(place, 1, Target::Core, Purpose::Page { region });
        }
        Err(Wait::Page(region))
    }

    /// Checks to compare `count` blocks from `address` on with; all lie in one region.
    pub(crate) fn expected(&mut self, address: u64, count: u32) -> Result<Vec<u32>, Wait> {
        let Some((region, index)) = self.space.geometry.region_of(address) else {
            return Ok(vec![0; count as usize]);
        };
        let range = index as usize..(index + count) as usize;
        if let Some(open) = self.regions.open.get(&region) {
            return Ok(open.page.crcs[range].to_vec());
        }
        Ok(self.region_page(region)?.crcs[range].to_vec())
    }

    pub(crate) fn handle_page(&mut self, region: u64, result: DoneResult) {
        let address = self.space.geometry.region_page(region);
        let slab = self.space.geometry.slab_of(address) as usize;
        let generation = self.space.slabs.get(slab).map_or(0, |slab| slab.generation);
        let blocks = self.space.geometry.region_blocks;
        let page = match result {
            Ok(Done::Bytes(bytes)) => {
                IntegrityPage::parse(&bytes, &self.uuid, address, generation, blocks).ok()
            }
            Ok(Done::Nothing | Done::Crcs(_) | Done::Merged { .. }) | Err(_) => None,
        };
        // A page of an earlier life of the slab, or one that cannot be read, knows nothing: unverified, not lost.
        let page = page.unwrap_or_else(|| IntegrityPage::new(generation, blocks));
        self.regions.loading.remove(&region);
        self.regions
            .keep_sealed(region, Rc::new(page), self.limits.pages_max);
        self.wake(Wait::Page(region));
    }

    /// Checks of blocks just written.
    pub(crate) fn set_checks(&mut self, address: u64, crcs: &[u32]) {
        if let Some((region, index)) = self.space.geometry.region_of(address)
            && let Some(open) = self.regions.open.get_mut(&region)
        {
            let range = index as usize..index as usize + crcs.len();
            open.page.crcs[range].copy_from_slice(crcs);
        }
    }

    pub(crate) fn count_region_write(&mut self, address: u64, begins: bool) {
        if let Some((region, _)) = self.space.geometry.region_of(address) {
            self.disturb_scrubs(region);
        }
        if let Some((region, _)) = self.space.geometry.region_of(address)
            && let Some(open) = self.regions.open.get_mut(&region)
        {
            open.writes = if begins {
                open.writes + 1
            } else {
                open.writes - 1
            };
        }
    }

    /// Begins sealing at most `most` idle regions whose open record is durable, least recently used first, unless a seal is going on.
    pub(crate) fn begin_seal(&mut self, most: usize) {
        if self.regions.sealing.is_some() {
            return;
        }
        let durable = self.journal.durable;
        let idle = |open: &OpenRegion| open.writes == 0 && open.adoption == Adoption::Done;
        let mut chosen: Vec<_> = Vec::new();
        for (region, open) in self.regions.open.iter().filter(|(_, open)| idle(open)) {
            if open.sequence <= durable {
                chosen.push((open.used, *region));
            } else {
                self.flushes.want_durable(open.sequence);
            }
        }
        chosen.sort_unstable();
        chosen.truncate(most.max(1));
        let chosen: Vec<u64> = chosen.into_iter().map(|(_, region)| region).collect();
        if chosen.is_empty() {
            return;
        }
        for region in &chosen {
            if let Some(open) = self.regions.open.get_mut(region) {
                open.is_sealing = true;
            }
        }
        self.write_pages(&chosen);
        let step = SealStep::Pages(chosen.len());
        self.regions.sealing = Some((chosen, step));
    }

    /// Goes on with a seal: pages written, one flush for them and their data, records (§6 cases 9 and 10).
    pub(crate) fn step_seal(&mut self) {
        let Some((regions, step)) = self.regions.sealing.take() else {
            return;
        };
        let next = match step {
            SealStep::Pages(0) if self.mutation == Mutation::SealBeforePage => None,
            SealStep::Pages(0) => {
                self.regions.is_flushed = false;
                self.flushes.want(Waiter::Seal);
                Some(SealStep::Flush)
            }
            SealStep::Flush if self.regions.is_flushed => None,
            SealStep::Pages(_) | SealStep::Flush => Some(step),
        };
        match next {
            Some(next) => self.regions.sealing = Some((regions, next)),
            None => self.finish_seal(&regions),
        }
    }

    fn write_pages(&mut self, regions: &[u64]) {
        for region in regions {
            let address = self.space.geometry.region_page(*region);
            let place = self
                .space
                .locate(address, 0)
                .expect("an open region lies in a slab");
            if let Some(open) = self.regions.open.get_mut(region) {
                open.page.seals = open.page.seals.wrapping_add(1);
                let bytes = open.page.emit(&self.uuid, address);
                self.devices
                    .write(place, Source::Core(bytes), Purpose::Seal);
            }
        }
    }

    pub(crate) fn handle_seal_written(&mut self, result: DoneResult) {
        if result.is_err() {
            self.fault();
        }
        if let Some((_, SealStep::Pages(left))) = &mut self.regions.sealing {
            *left -= 1;
        }
    }

    fn finish_seal(&mut self, regions: &[u64]) {
        for region in regions {
            self.journal.push(&Record::Seal { region: *region });
            if let Some(open) = self.regions.open.remove(region) {
                self.regions
                    .keep_sealed(*region, Rc::new(open.page), self.limits.pages_max);
            }
        }
        self.wake(Wait::Region);
    }

    /// Reads the content of one region found open, at a time.
    pub(crate) fn step_adopt(&mut self) {
        if self.regions.unadopted == 0 {
            return;
        }
        if self
            .regions
            .open
            .values()
            .any(|open| open.adoption == Adoption::Reading)
        {
            return;
        }
        let wanted = self
            .regions
            .open
            .iter_mut()
            .find(|(_, open)| open.adoption == Adoption::Wanted);
        let Some((region, open)) = wanted else {
            return;
        };
        open.adoption = Adoption::Reading;
        let region = *region;
        let address = self.space.geometry.region_start(region);
        let place = self
            .space
            .locate(address, 0)
            .expect("checked when the region was found open");
        let count = self.space.geometry.region_blocks;
        self.devices
            .read(place, count, Target::Check, Purpose::Adopt { region });
    }

    /// What was read is the content, except where a write has said better meanwhile.
    pub(crate) fn handle_adopted(&mut self, region: u64, result: DoneResult) {
        let start = self.space.geometry.region_start(region);
        let Some(open) = self.regions.open.get_mut(&region) else {
            return;
        };
        open.adoption = Adoption::Done;
        self.regions.unadopted -= 1;
        if let Ok(Done::Crcs(plain)) = result {
            let generation = open.page.generation;
            for (index, crc) in open.page.crcs.iter_mut().enumerate() {
                if let (0, Some(plain)) = (*crc, plain.get(index)) {
                    *crc = pool_format::stored_crc(*plain, start + index as u64, generation);
                }
            }
        }
        self.wake(Wait::Region);
    }
}
