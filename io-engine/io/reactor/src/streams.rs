//! The table of streams, and which of them are *hot*.
//!
//! A hot stream is offered to its owner every turn, who simply tries to receive: while data flows, no system call is
//! spent on asking whether there is some. Any other stream is *armed*: one readiness watch in the kernel, and no cost until it
//! fires. A paused or ended stream is neither.
//!
//! State, event, next state (reading side):
//!
//! | state  | data received | nothing for a while | thread sleeps | watch fires | paused | resumed | ended |
//! |--------|---------------|---------------------|---------------|-------------|--------|---------|-------|
//! | hot    | hot           | armed               | armed         | hot         | quiet  | hot     | quiet |
//! | armed  | armed         | armed               | armed         | hot         | quiet  | hot     | quiet |
//! | quiet  | quiet         | quiet               | quiet         | quiet       | quiet  | hot     | quiet |
//!
//! Invariants: a slot is in `hot` at most once; a stream that is neither hot, paused nor ended has its watch armed before the
//! thread sleeps; an id of an earlier tenant of a slot never reaches the present one.

use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use sdk::host::StreamId;

use crate::driver::Watch;

/// Fruitless tries in a row before a hot stream is armed instead; with [`HOT_IDLE`].
const HOT_MISSES: u32 = 4;

/// Time without data before a hot stream is armed instead: about two wakes, so that a stream which pauses between
/// commands is not armed and fired for each.
const HOT_IDLE: Duration = Duration::from_micros(50);

/// One connected socket.
pub(crate) struct Stream {
    pub(crate) fd: OwnedFd,
    pub(crate) watch: Watch,
    /// Offered every turn.
    hot: bool,
    /// No `Readable` events, by the owner's wish.
    pub(crate) paused: bool,
    /// The end or an error has been reported; nothing will come.
    pub(crate) ended: bool,
    /// The last try found nothing, so that the thread may sleep on this stream.
    drained: bool,
    /// The owner waits for room to send.
    pub(crate) wants_room: bool,
    misses: u32,
    last_data: Instant,
}

impl Stream {
    /// Bytes came at `now`.
    #[inline]
    pub(crate) fn note_data(&mut self, now: Instant) {
        self.drained = false;
        self.misses = 0;
        self.last_data = now;
    }

    /// Nothing was there.
    #[inline]
    pub(crate) fn note_nothing(&mut self) {
        self.drained = true;
        self.misses = self.misses.saturating_add(1);
    }

    fn is_cold(&self, now: Instant) -> bool {
        self.drained
            && self.misses >= HOT_MISSES
            && now.saturating_duration_since(self.last_data) >= HOT_IDLE
    }
}

struct Slot {
    generation: u32,
    /// In `Streams::hot`, possibly on behalf of an earlier tenant.
    listed: bool,
    stream: Option<Stream>,
}

/// All streams of a reactor.
pub(crate) struct Streams {
    slots: Vec<Slot>,
    free: Vec<u32>,
    hot: Vec<u32>,
    open: usize,
}

/// What one pass over the hot streams decides about each of them.
pub(crate) enum Verdict {
    /// Offer it to its owner.
    Offer(StreamId),
    /// Arm it.
    Arm(StreamId),
}

fn id_of(slot: u32, generation: u32) -> StreamId {
    StreamId(u64::from(generation) << 32 | u64::from(slot))
}

impl Streams {
    /// An empty table of `limit` slots.
    pub(crate) fn new(limit: u32) -> Self {
        let slot = |_| Slot {
            generation: 1,
            listed: false,
            stream: None,
        };
        Self {
            slots: (0..limit).map(slot).collect(),
            free: (0..limit).rev().collect(),
            hot: Vec::with_capacity(limit as usize),
            open: 0,
        }
    }

    pub(crate) fn open(&self) -> usize {
        self.open
    }

    pub(crate) fn has_room(&self) -> bool {
        !self.free.is_empty()
    }

    /// Adopts a socket, hot. `None` when the table is full.
    pub(crate) fn insert(&mut self, fd: OwnedFd, now: Instant) -> Option<StreamId> {
        let index = self.free.pop()?;
        let slot = &mut self.slots[index as usize];
        slot.stream = Some(Stream {
            fd,
            watch: Watch::default(),
            hot: false,
            paused: false,
            ended: false,
            drained: false,
            wants_room: false,
            misses: 0,
            last_data: now,
        });
        let id = id_of(index, slot.generation);
        self.open += 1;
        self.heat(id);
        Some(id)
    }

    /// Takes a stream out; its id is stale from here on.
    pub(crate) fn remove(&mut self, id: StreamId) -> Option<Stream> {
        let slot = self.slot_mut(id)?;
        let stream = slot.stream.take()?;
        // Generation 0 is skipped, so that no id is all zeroes.
        slot.generation = slot.generation.wrapping_add(1).max(1);
        self.free.push((id.0 & 0xffff_ffff) as u32);
        self.open -= 1;
        Some(stream)
    }

    #[inline]
    fn slot_mut(&mut self, id: StreamId) -> Option<&mut Slot> {
        let slot = self.slots.get_mut((id.0 & 0xffff_ffff) as usize)?;
        (slot.generation == (id.0 >> 32) as u32).then_some(slot)
    }

    #[inline]
    pub(crate) fn stream_mut(&mut self, id: StreamId) -> Option<&mut Stream> {
        self.slot_mut(id)?.stream.as_mut()
    }

    /// The present id of a slot whose generation ends in `generation_low` under `mask`: how watch tokens name streams.
    pub(crate) fn by_token(&self, index: u32, generation_low: u32, mask: u32) -> Option<StreamId> {
        let slot = self.slots.get(index as usize)?;
        let is_same = slot.generation & mask == generation_low && slot.stream.is_some();
        is_same.then(|| id_of(index, slot.generation))
    }

    /// Makes a stream hot, unless it is paused or ended.
    pub(crate) fn heat(&mut self, id: StreamId) {
        let Some(slot) = self.slot_mut(id) else {
            return;
        };
        let Some(stream) = slot.stream.as_mut() else {
            return;
        };
        if stream.paused || stream.ended {
            return;
        }
        stream.hot = true;
        stream.drained = false;
        stream.misses = 0;
        if !slot.listed {
            slot.listed = true;
            self.hot.push((id.0 & 0xffff_ffff) as u32);
        }
    }

    /// Whether every hot stream was found empty at its last try.
    pub(crate) fn is_drained(&self) -> bool {
        let is_quiet = |s: &Stream| s.drained || s.paused || s.ended || !s.hot;
        self.hot
            .iter()
            .all(|&i| self.slots[i as usize].stream.as_ref().is_none_or(is_quiet))
    }

    /// Passes over the hot streams: those with prospects are offered, those gone cold (all, if `sleeping`) leave the list
    /// to be armed. Paused, ended and closed ones just leave it.
    pub(crate) fn review(&mut self, now: Instant, sleeping: bool, mut act: impl FnMut(Verdict)) {
        let mut at = 0;
        while at < self.hot.len() {
            let index = self.hot[at];
            let slot = &mut self.slots[index as usize];
            let id = id_of(index, slot.generation);
            let stays = match slot.stream.as_mut() {
                Some(s) if s.hot && !s.paused && !s.ended => {
                    if sleeping || s.is_cold(now) {
                        s.hot = false;
                        act(Verdict::Arm(id));
                        false
                    } else {
                        act(Verdict::Offer(id));
                        true
                    }
                }
                Some(s) => {
                    s.hot = false;
                    false
                }
                None => false,
            };
            if stays {
                at += 1;
            } else {
                slot.listed = false;
                self.hot.swap_remove(at);
            }
        }
    }
}

#[cfg(test)]
mod tests;
