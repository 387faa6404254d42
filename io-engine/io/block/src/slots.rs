//! The table of I/O in flight: slots with generations, in order of submission.
//!
//! Invariants: an occupied slot that is not overdue is on the list, oldest first, so the first has the nearest
//! deadline; a tag names a slot only while its generation matches, so late and double completions never reach a
//! successor.

use std::time::Instant;

use sdk::block::IoTag;
use units::BlockRange;

use crate::request::{OpKind, Stage, Waits};
use crate::work::Work;

const NONE: u32 = u32::MAX;

/// An I/O in flight; what remains to be done for it is kept beside it, because for most there is nothing to keep.
#[derive(Clone, Copy)]
pub(crate) struct Inflight {
    /// The caller's tag.
    pub(crate) tag: u64,
    pub(crate) kind: OpKind,
    pub(crate) range: BlockRange,
    /// A flush, or a change that must be durable on completion.
    pub(crate) durable: bool,
    /// Its host is gone: what the device has of it ends, and nothing follows.
    pub(crate) orphan: bool,
    pub(crate) received: Instant,
    pub(crate) waits: Waits,
    pub(crate) submitted: Instant,
    pub(crate) stage: Stage,
    /// Order of submission.
    pub(crate) sequence: u64,
    /// Of a flush: how many volatile changes had completed before it.
    pub(crate) covers: u64,
}

struct Slot {
    generation: u32,
    /// Neighbours on the list; `next` links free slots too.
    prev: u32,
    next: u32,
    io: Option<Inflight>,
}

/// The table. Its size is fixed.
pub(crate) struct Slots {
    slots: Vec<Slot>,
    /// By slot; [`Work::Single`] in free ones.
    works: Vec<Work>,
    free: u32,
    first: u32,
    last: u32,
    occupied: usize,
    sequence: u64,
}

impl Slots {
    pub(crate) fn new(capacity: usize) -> Self {
        let capacity = u32::try_from(capacity.max(1))
            .unwrap_or(NONE - 1)
            .min(NONE - 1);
        let slots = (0..capacity).map(|index| Slot {
            generation: 0,
            prev: NONE,
            next: if index + 1 < capacity {
                index + 1
            } else {
                NONE
            },
            io: None,
        });
        Self {
            slots: slots.collect(),
            works: (0..capacity).map(|_| Work::Single).collect(),
            free: 0,
            first: NONE,
            last: NONE,
            occupied: 0,
            sequence: 0,
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.occupied == 0
    }

    /// The slot the next [`Slots::occupy`] takes, with the tag a device would know it by; `None` when full.
    #[inline]
    pub(crate) fn vacant(&self) -> Option<(usize, IoTag)> {
        let slot = self.slots.get(self.free as usize)?;
        Some((self.free as usize, io_tag(self.free, slot.generation)))
    }

    /// Makes tags given out for a slot invalid, because the device has answered them.
    #[inline]
    pub(crate) fn renew(&mut self, index: usize) {
        let slot = &mut self.slots[index];
        slot.generation = slot.generation.wrapping_add(1);
    }

    /// A number larger than any before.
    pub(crate) fn next_sequence(&mut self) -> u64 {
        self.sequence += 1;
        self.sequence
    }

    /// Puts `io` into the slot [`Slots::vacant`] named, at the end of the list.
    #[inline]
    pub(crate) fn occupy(&mut self, io: Inflight) -> usize {
        let index = self.free as usize;
        let last = self.last;
        let slot = &mut self.slots[index];
        self.free = slot.next;
        slot.prev = last;
        slot.next = NONE;
        slot.io = Some(io);
        match self.slots.get_mut(last as usize) {
            Some(slot) => slot.next = index as u32,
            None => self.first = index as u32,
        }
        self.last = index as u32;
        self.occupied += 1;
        index
    }

    /// The tag of an occupied slot.
    pub(crate) fn tag_of(&self, index: usize) -> IoTag {
        io_tag(index as u32, self.slots[index].generation)
    }

    /// The slot a tag names, if it is still occupied by what the tag was made for.
    #[inline]
    pub(crate) fn find(&self, tag: IoTag) -> Option<usize> {
        let index = (tag.0 & u64::from(u32::MAX)) as usize;
        let slot = self.slots.get(index)?;
        (slot.io.is_some() && u64::from(slot.generation) == tag.0 >> 32).then_some(index)
    }

    /// The I/O in an occupied slot.
    #[inline]
    pub(crate) fn io(&mut self, index: usize) -> &mut Inflight {
        self.slots[index].io.as_mut().expect("an occupied slot")
    }

    /// What remains to be done for the I/O in a slot.
    #[inline]
    pub(crate) fn work(&mut self, index: usize) -> &mut Work {
        &mut self.works[index]
    }

    /// Takes a slot off the list and marks it overdue; it stays occupied until [`Slots::release`].
    pub(crate) fn expire(&mut self, index: usize) {
        self.unlink(index);
        self.io(index).stage = Stage::Overdue;
    }

    /// Empties an occupied slot.
    #[inline]
    pub(crate) fn release(&mut self, index: usize) -> Inflight {
        let slot = &mut self.slots[index];
        let io = slot.io.take().expect("an occupied slot");
        slot.generation = slot.generation.wrapping_add(1);
        if !matches!(self.works[index], Work::Single) {
            self.works[index] = Work::Single;
        }
        if io.stage != Stage::Overdue {
            self.unlink(index);
        }
        let free = self.free;
        self.slots[index].next = free;
        self.free = index as u32;
        self.occupied -= 1;
        io
    }

    /// The oldest I/O that is not overdue.
    pub(crate) fn oldest(&self) -> Option<(usize, &Inflight)> {
        let io = self.slots.get(self.first as usize)?.io.as_ref()?;
        Some((self.first as usize, io))
    }

    /// All I/O, overdue ones included.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (usize, &Inflight)> {
        let occupied = |(index, slot): (usize, &'_ Slot)| slot.io.is_some().then_some(index);
        let slots = &self.slots;
        slots
            .iter()
            .enumerate()
            .filter_map(occupied)
            .filter_map(|index| Some((index, slots[index].io.as_ref()?)))
    }

    fn unlink(&mut self, index: usize) {
        let (prev, next) = (self.slots[index].prev, self.slots[index].next);
        match self.slots.get_mut(prev as usize) {
            Some(slot) => slot.next = next,
            None => self.first = next,
        }
        match self.slots.get_mut(next as usize) {
            Some(slot) => slot.prev = prev,
            None => self.last = prev,
        }
    }
}

fn io_tag(index: u32, generation: u32) -> IoTag {
    IoTag(u64::from(generation) << 32 | u64::from(index))
}
