//! Operations in flight of a queue behind a table.

use abi::IoeBuf;
use units::BlockRange;

use super::convert::NO_BUF;
use crate::block::IoTag;

/// Operations of one queue in flight, at most; one more is answered `Busy`.
const INFLIGHT_MAX: usize = 1 << 16;

/// An operation in flight.
#[derive(Clone, Copy)]
pub(super) struct Entry {
    pub(super) tag: IoTag,
    pub(super) range: BlockRange,
    /// Bytes a read is to bring; none for everything else.
    pub(super) bytes: Option<u64>,
    /// The buffer the plugin has, while the operation is pending.
    pub(super) buf: IoeBuf,
    pub(super) generation: u32,
    pub(super) live: bool,
}

/// Operations in flight, by the number the plugin knows them by: slot in the low, generation in the high half.
#[derive(Default)]
pub(super) struct Slots {
    pub(super) entries: Vec<Entry>,
    pub(super) free: Vec<u32>,
}

impl Slots {
    #[inline]
    pub(super) fn insert(
        &mut self,
        tag: IoTag,
        range: BlockRange,
        bytes: Option<u64>,
    ) -> Option<u64> {
        let slot = match self.free.pop() {
            Some(slot) => slot,
            None if self.entries.len() >= INFLIGHT_MAX => return None,
            None => {
                self.entries.push(Entry {
                    tag,
                    range,
                    bytes,
                    buf: NO_BUF,
                    generation: 0,
                    live: false,
                });
                self.entries.len() as u32 - 1
            }
        };
        let entry = &mut self.entries[slot as usize];
        (entry.tag, entry.range, entry.bytes, entry.live) = (tag, range, bytes, true);
        entry.generation = entry.generation.wrapping_add(1);
        Some(u64::from(entry.generation) << 32 | u64::from(slot))
    }

    /// The entry of an operation in flight.
    #[inline]
    fn live(&mut self, number: u64) -> Option<&mut Entry> {
        let entry = self.entries.get_mut(number as u32 as usize)?;
        (entry.live && entry.generation == (number >> 32) as u32).then_some(entry)
    }

    /// Notes the buffer of a pending operation, unless that ended meanwhile.
    #[inline]
    pub(super) fn keep(&mut self, number: u64, buf: &IoeBuf) {
        if let Some(entry) = self.live(number) {
            entry.buf = *buf;
        }
    }

    /// The operation is over. `false` if it was before.
    #[inline]
    pub(super) fn free(&mut self, number: u64) -> bool {
        let Some(entry) = self.live(number) else {
            return false;
        };
        entry.live = false;
        self.free.push(number as u32);
        true
    }

    #[inline]
    pub(super) fn remove(&mut self, number: u64) -> Option<Entry> {
        let entry = *self.live(number)?;
        self.free(number).then_some(entry)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.free.len() == self.entries.len()
    }
}
