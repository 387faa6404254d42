//! `malloc:///name`: a RAM disk.
//!
//! Every operation completes in `submit`. Reads are lent, writes are one copy. One queue at a time, because only the
//! queue touches the data; the data survives closing a queue and is given to the next one.

use std::sync::{Arc, Mutex, PoisonError};

use sdk::block::{
    Capabilities, Device, DeviceDriver, Geometry, IoError, IoResult, IoTag, Op, OpenError, Queue,
    QueueSeed, Submitted, Support,
};
use sdk::buf::Payload;
use sdk::host::{FileDone, Host, OwnerId};
use sdk::uri::DeviceUri;
use units::{BlockRange, Blocks};

use crate::chunks::Chunks;
use crate::claims::{Claim, Claims};
use crate::limits::DISK_BYTES_MAX;
use crate::params::Params;

/// Serves `malloc`.
#[derive(Default)]
pub(crate) struct RamDriver {
    claims: Claims,
}

impl DeviceDriver for RamDriver {
    fn schemes(&self) -> &'static [&'static str] {
        &["malloc"]
    }

    fn open(&self, mut uri: DeviceUri) -> Result<Box<dyn Device>, OpenError> {
        // The same URI creates the disk and, once it is there, resizes it; so the flag is known here too.
        uri.take_flag("resize")?;
        let params = Params::take(&mut uri)?;
        uri.finish()?;
        let claim = self.claims.claim("malloc", params.name)?;
        Ok(Box::new(RamDisk {
            claim,
            geometry: params.geometry,
            uuid: params.uuid,
            parked: Arc::new(Mutex::new(Some(Chunks::new(params.geometry.bytes())))),
        }))
    }
}

/// Where the data is while no queue has it.
type Parked = Arc<Mutex<Option<Chunks>>>;

struct RamDisk {
    claim: Claim,
    geometry: Geometry,
    uuid: Option<[u8; 16]>,
    parked: Parked,
}

impl Device for RamDisk {
    fn name(&self) -> &str {
        self.claim.name()
    }

    fn product_name(&self) -> &'static str {
        "Malloc disk"
    }

    fn geometry(&self) -> Geometry {
        self.geometry
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities {
            write_zeroes: Support::Native,
            discard: Support::Native,
            volatile_cache: false,
            lends_reads: true,
            atomic_blocks: 1,
            direct: None,
        }
    }

    fn uuid(&self) -> Option<[u8; 16]> {
        self.uuid
    }

    fn open_queue(&mut self) -> Result<Box<dyn QueueSeed>, OpenError> {
        let mut parked = self.parked.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(mut chunks) = parked.take() else {
            return Err(OpenError::Unsuitable {
                what: format!("malloc:///{}", self.claim.name()),
                reason: "a RAM disk has one queue, and it is open".to_owned(),
            });
        };
        if chunks.resize(self.geometry.bytes()).is_err() {
            return Err(OpenError::Unsuitable {
                what: format!("malloc:///{}", self.claim.name()),
                reason: "the system has no memory for it".to_owned(),
            });
        }
        Ok(Box::new(RamQueue {
            geometry: self.geometry,
            chunks: Some(chunks),
            parked: self.parked.clone(),
        }))
    }

    fn resize(&mut self, blocks: Option<Blocks>) -> Result<Geometry, OpenError> {
        if let Some(blocks) = blocks {
            let wanted = Geometry {
                blocks,
                ..self.geometry
            };
            if !(1..=DISK_BYTES_MAX).contains(&wanted.bytes()) {
                return Err(OpenError::Unsuitable {
                    what: format!("malloc:///{}", self.claim.name()),
                    reason: "cannot be empty or larger than 1 TiB".to_owned(),
                });
            }
            self.geometry = wanted;
        }
        Ok(self.geometry)
    }
}

/// Seed and queue in one: there is nothing to register with the reactor.
struct RamQueue {
    geometry: Geometry,
    /// Present until the queue is dropped.
    chunks: Option<Chunks>,
    parked: Parked,
}

impl QueueSeed for RamQueue {
    fn open(self: Box<Self>, _: &mut dyn Host, _: OwnerId) -> Result<Box<dyn Queue>, IoError> {
        Ok(self)
    }
}

impl RamQueue {
    #[inline]
    fn execute(&mut self, op: Op) -> IoResult {
        let Some(chunks) = &mut self.chunks else {
            return Err(IoError::Gone);
        };
        let shift = self.geometry.block_size.shift();
        let place = |range: BlockRange| {
            if range.is_within(self.geometry.blocks) {
                Ok((range.start.0 << shift, range.count.0 << shift))
            } else {
                Err(IoError::OutOfRange)
            }
        };
        match op {
            Op::Read { range, buf: None } => {
                let (offset, len) = place(range)?;
                Ok(Some(Payload::Lent(chunks.lend(offset, len as usize))))
            }
            Op::Read {
                range,
                buf: Some(mut buf),
            } => {
                let (offset, len) = place(range)?;
                let target = buf.get_mut(..len as usize).ok_or(IoError::OutOfRange)?;
                chunks.read(offset, target);
                Ok(Some(Payload::Buf(buf)))
            }
            Op::Write { range, buf, fua: _ } => {
                let (offset, len) = place(range)?;
                let source = buf.get(..len as usize).ok_or(IoError::OutOfRange)?;
                chunks.write(offset, source).map(|()| None)
            }
            Op::WriteZeroes { range, .. } | Op::Discard { range } => {
                let (offset, len) = place(range)?;
                chunks.zero(offset, len).map(|()| None)
            }
            Op::Flush => Ok(None),
        }
    }
}

impl Queue for RamQueue {
    fn submit(&mut self, _: &mut dyn Host, _: IoTag, op: Op) -> Submitted {
        Submitted::Done(self.execute(op))
    }

    fn handle_file_done(&mut self, _: &mut dyn Host, _: FileDone) {}

    fn poll_completion(&mut self) -> Option<(IoTag, IoResult)> {
        None
    }

    fn set_geometry(&mut self, geometry: Geometry) {
        if let Some(chunks) = &mut self.chunks
            && chunks.len() != geometry.bytes()
            && chunks.resize(geometry.bytes()).is_err()
        {
            // What lies behind the new end could not be zeroed and must not show again when the disk grows: without
            // memory for one chunk the disk is gone.
            self.chunks = None;
        }
        self.geometry = geometry;
    }

    fn close(&mut self, _: &mut dyn Host) {}
}

impl Drop for RamQueue {
    fn drop(&mut self) {
        // Back to the device, whose drop frees the memory on the control path rather than on the reactor.
        let mut parked = self.parked.lock().unwrap_or_else(PoisonError::into_inner);
        *parked = self.chunks.take();
    }
}
