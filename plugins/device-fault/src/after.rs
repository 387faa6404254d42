//! What is still to be done to an operation once the device below has answered it.

use std::sync::Arc;
use std::time::Duration;

use sdk::block::{IoError, IoResult};
use sdk::buf::{Chunk, Payload, Segment, Segments};
use units::{BlockRange, BlockSize};

use crate::damage::damage_blocks;
use crate::overlay::Patch;
use crate::rule::Rot;

/// Damage to the data of a read.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ReadRot {
    /// How much.
    pub(crate) rot: Rot,
    /// Seed of the rule.
    pub(crate) seed: u64,
    /// The blocks that rot, all of them in the read.
    pub(crate) blocks: BlockRange,
}

/// See the module documentation.
#[derive(Debug, Default)]
pub(crate) struct After {
    /// The blocks the operation asked for, where that matters below.
    pub(crate) range: Option<BlockRange>,
    /// Newer data than the device below has.
    pub(crate) patches: Vec<Patch>,
    /// Damage.
    pub(crate) rot: Option<ReadRot>,
    /// The device below was given other blocks than were asked for.
    pub(crate) misdirected: bool,
    /// What is answered, whatever the device below says.
    pub(crate) answer: Option<IoError>,
    /// How long the answer waits.
    pub(crate) delay: Duration,
    /// The rule that holds the answer back.
    pub(crate) stuck: Option<u32>,
}

impl After {
    /// Whether nothing is to be done.
    pub(crate) fn is_nothing(&self) -> bool {
        self.patches.is_empty()
            && self.rot.is_none()
            && !self.misdirected
            && self.answer.is_none()
            && self.delay.is_zero()
            && self.stuck.is_none()
    }

    /// What the caller is told, given what the device below said. Delay and stuckness are left to the queue.
    pub(crate) fn answer(&self, size: BlockSize, result: IoResult) -> IoResult {
        if let Some(error) = self.answer {
            return Err(error);
        }
        match result {
            // The caller knows nothing of the blocks it did not ask for.
            Err(IoError::Medium(blocks)) if self.misdirected => {
                Err(IoError::Medium(self.range.unwrap_or(blocks)))
            }
            Ok(Some(payload)) if self.rot.is_some() || !self.patches.is_empty() => {
                Ok(Some(self.alter(size, payload)))
            }
            other => other,
        }
    }

    fn alter(&self, size: BlockSize, payload: Payload) -> Payload {
        match payload {
            Payload::Buf(mut buf) => {
                self.alter_bytes(size, &mut buf);
                Payload::Buf(buf)
            }
            // Lent bytes never change, so the altered ones are lent from a copy.
            lent @ Payload::Lent(_) => {
                let mut bytes: Vec<u8> = Vec::with_capacity(lent.len());
                lent.pieces()
                    .for_each(|piece| bytes.extend_from_slice(piece));
                self.alter_bytes(size, &mut bytes);
                let len = bytes.len();
                let copy: Arc<Chunk> = Arc::new(Chunk::from(bytes.into_boxed_slice()));
                match Segment::new(copy, 0, len) {
                    Some(segment) => Payload::Lent(Segments::from_iter([segment])),
                    // More than 4 GiB in one read: no device is asked for that.
                    None => lent,
                }
            }
        }
    }

    fn alter_bytes(&self, size: BlockSize, bytes: &mut [u8]) {
        for patch in &self.patches {
            let end = patch.offset.saturating_add(patch.bytes.len());
            if let Some(target) = bytes.get_mut(patch.offset..end) {
                target.copy_from_slice(&patch.bytes);
            }
        }
        let (Some(rot), Some(range)) = (self.rot, self.range) else {
            return;
        };
        let Some(first) = rot.blocks.start.0.checked_sub(range.start.0) else {
            return;
        };
        let from = (first << size.shift()) as usize;
        let to = from + (rot.blocks.count.0 << size.shift()) as usize;
        if let Some(rotten) = bytes.get_mut(from..to) {
            damage_blocks(rot.rot, rot.seed, rot.blocks.start.0, size, rotten);
        }
    }
}
