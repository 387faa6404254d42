//! Discards and write zeroes: blocks that read as zero from here on (`docs/disk-format.md` §6 case 12).

use pool_format::{MovedOut, Record};

use crate::admit::Claim;
use crate::api::Answer;
use crate::pool::{Op, Pool, Stop, Wait};
use crate::write::MOVED_MAX;

/// Ring positions one step can fill.
const STEP_BLOCKS: u64 = 2;

impl Pool {
    pub(crate) fn step_unmap(
        &mut self,
        id: u64,
        op: &mut Op,
        what: (u64, u64, u64),
    ) -> Result<Answer, Stop> {
        let (object, block, count) = what;
        self.check_range(object, block, count)?;
        self.lock(id, op, (object, block, block + count), true)?;
        self.unmap_range(op, object, (block, block + count))?;
        Ok(Answer::Done)
    }

    /// Unmaps from the operation's cursor to `end`, in steps that each leave a whole record.
    pub(crate) fn unmap_range(
        &mut self,
        op: &mut Op,
        object: u64,
        (block, end): (u64, u64),
    ) -> Result<(), Stop> {
        self.admit(op, STEP_BLOCKS, Claim::Frees)?;
        while block + op.cursor < end {
            if !self.journal.has_room(0) {
                self.wants_checkpoint = true;
                return Err(Wait::Journal.into());
            }
            let start = block + op.cursor;
            let len = self.unmap_step(object, start, end)?;
            op.cursor += len;
        }
        Ok(())
    }

    /// Unmaps at most as many extents as a record holds; answers how many blocks that covered.
    fn unmap_step(&mut self, object: u64, start: u64, end: u64) -> Result<u64, Stop> {
        let record = &self.objects[&object].record;
        let (map, dead, own_after) = (record.map, record.dead, record.previous_epoch);
        let mut moved: Vec<MovedOut> = Vec::new();
        let mut at = start;
        while at < end && moved.len() < MOVED_MAX {
            let (len, value, _) = self.find(map, at, end - at)?;
            if let Some(placed) = value {
                moved.push(self.moved_out((at, len), placed, own_after));
            }
            at += len;
        }
        if !moved.is_empty() {
            let count = at - start;
            let sequence = self.journal.push(&Record::Unmap {
                map,
                block: start,
                count,
                moved: moved.clone(),
            });
            self.active.insert(map, start, count, None, sequence);
            self.account(object, 0, &moved);
            self.displace(dead, &moved, sequence);
        }
        Ok(at - start)
    }
}
