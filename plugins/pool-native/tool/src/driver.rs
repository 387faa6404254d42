//! A blocking driver: every request is carried out at once, and time passes when there is nothing else to do.

use std::collections::BTreeMap;

use pool_core::{
    Answer, DeviceError, DeviceOp, Done, DoneResult, HostOp, Limits, Pool, PoolError, Request,
    Source, Status, Target,
};
use pool_format::{BLOCK, Bitmap, plain_crc};

use crate::disks::Disks;

/// Events without an answer before the pool is given up: more than any operation of a checked pool needs.
const TURNS_MAX: u64 = 50_000_000;

/// Time that passes when nothing is to do, in milliseconds.
const STEP_MS: u64 = 300;

/// An open pool.
pub(crate) struct Driver<'a> {
    disks: &'a Disks,
    pub(crate) pool: Pool,
    buffer: Vec<u8>,
    now_ms: u64,
    next_tag: u64,
}

fn limits() -> Limits {
    Limits {
        // Nobody else uses the pool: nothing that can be spared is done to its devices.
        discards_max: 0,
        ..Limits::default()
    }
}

impl<'a> Driver<'a> {
    /// Opens for reading.
    ///
    /// # Errors
    /// Why the pool refuses.
    pub(crate) fn open(disks: &'a Disks) -> Result<Self, PoolError> {
        let pool = Pool::open_read_only(&disks.sizes(), limits());
        Self::new(disks, pool)
    }

    /// Opens for repair, with bitmaps a check has rebuilt.
    ///
    /// # Errors
    /// Why the pool refuses.
    pub(crate) fn open_rebuilt(
        disks: &'a Disks,
        rebuilt: BTreeMap<u32, Bitmap>,
    ) -> Result<Self, PoolError> {
        let pool = Pool::open_rebuilt(&disks.sizes(), limits(), rebuilt);
        Self::new(disks, pool)
    }

    fn new(disks: &'a Disks, pool: Pool) -> Result<Self, PoolError> {
        let mut driver = Self {
            disks,
            pool,
            buffer: Vec::new(),
            now_ms: 0,
            next_tag: 1,
        };
        for _ in 0..TURNS_MAX {
            match driver.pool.status() {
                Status::Ready => return Ok(driver),
                Status::Failed(error) => return Err(error),
                Status::Opening => driver.turn(),
            }
        }
        Err(PoolError::Busy)
    }

    /// One request, or some time.
    fn turn(&mut self) {
        match self.pool.poll_request() {
            Some(request) => {
                let result = self.carry_out(&request);
                self.pool.handle_done(request.id, result);
            }
            None => {
                self.now_ms += STEP_MS;
                self.pool.handle_time(self.now_ms);
            }
        }
    }

    fn carry_out(&mut self, request: &Request) -> DoneResult {
        let medium = |_| DeviceError::Medium;
        match &request.op {
            DeviceOp::Read {
                block,
                count,
                target,
            } => {
                let bytes = self.disks.read(request.disk, *block, *count);
                self.deliver(*target, bytes.map_err(medium)?)
            }
            DeviceOp::Write {
                block,
                source: Source::Core(bytes),
            } => {
                let written = self.disks.write(request.disk, *block, bytes);
                written.map(|()| Done::Nothing).map_err(medium)
            }
            // No host writes through this driver.
            DeviceOp::Write { .. } => Err(DeviceError::Medium),
            DeviceOp::Discard { .. } => Ok(Done::Nothing),
            DeviceOp::Flush => {
                let synced = self.disks.sync(request.disk);
                synced.map(|()| Done::Nothing).map_err(medium)
            }
        }
    }

    fn deliver(&mut self, target: Target, bytes: Vec<u8>) -> DoneResult {
        let crcs = || Done::Crcs(bytes.chunks(BLOCK).map(plain_crc).collect());
        match target {
            Target::Core => Ok(Done::Bytes(bytes)),
            Target::Check => Ok(crcs()),
            Target::Host { at, .. } => {
                let at = at as usize * BLOCK;
                let done = crcs();
                let place = self.buffer.get_mut(at..at + bytes.len());
                place.ok_or(DeviceError::Medium)?.copy_from_slice(&bytes);
                Ok(done)
            }
            Target::Merge { .. } => Err(DeviceError::Medium),
        }
    }

    /// Runs one operation to its answer.
    ///
    /// # Errors
    /// What the pool answers.
    pub(crate) fn call(&mut self, op: HostOp) -> Result<Answer, PoolError> {
        let tag = self.next_tag;
        self.next_tag += 1;
        self.pool.submit(tag, op);
        for _ in 0..TURNS_MAX {
            if let Some((answered, result)) = self.pool.poll_answer() {
                if answered == tag {
                    return result;
                }
            } else {
                self.turn();
            }
        }
        Err(PoolError::Busy)
    }

    /// Reads blocks of an object; holes are zero.
    ///
    /// # Errors
    /// What the pool answers.
    pub(crate) fn read(&mut self, object: u64, block: u64, count: u32) -> Result<&[u8], PoolError> {
        self.buffer = vec![0; count as usize * BLOCK];
        let op = HostOp::Read {
            object,
            block,
            count,
        };
        self.call(op)?;
        Ok(&self.buffer)
    }

    /// Lets everything come to rest that goes on behind operations, and writes it into a checkpoint.
    ///
    /// # Errors
    /// What the pool answers.
    pub(crate) fn settle(&mut self) -> Result<(), PoolError> {
        for _ in 0..2 {
            for _ in 0..TURNS_MAX {
                if self.pool.is_idle() {
                    break;
                }
                if let Status::Failed(error) = self.pool.status() {
                    return Err(error);
                }
                self.turn();
            }
            self.call(HostOp::Checkpoint)?;
        }
        Ok(())
    }
}
