//! `malloc:///name`: a RAM disk.
//!
//! Every operation completes in `submit`. Reads are lent, writes are one copy. One queue at a time, because only the
//! queue touches the data; the data survives closing a queue and is given to the next one.

use std::sync::{Arc, Mutex, PoisonError};

use sdk::block::{Device, DeviceDriver, Geometry, IoError, IoResult, Op, OpenError};
use sdk::buf::Payload;
use sdk::uri::{DeviceUri, UriError};
use units::BlockRange;

use crate::chunks::Chunks;
use crate::claims::Claims;
use crate::device::{Medium, MemDisk, Worker};
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

    fn check(&self, uri: DeviceUri) -> Result<(), UriError> {
        params(uri).map(drop)
    }

    fn open(&self, uri: DeviceUri) -> Result<Box<dyn Device>, OpenError> {
        let params = params(uri)?;
        let claim = self.claims.claim("malloc", &params.name)?;
        let chunks = Chunks::new(params.geometry.bytes());
        let parked = Arc::new(Mutex::new(Some(chunks)));
        Ok(Box::new(MemDisk::new(claim, &params, Ram { parked })))
    }
}

/// The same URI creates the disk and, once it is there, resizes it; so the flag is known here too.
fn params(uri: DeviceUri) -> Result<Params, UriError> {
    Params::take(uri, |uri| uri.take_flag("resize").map(drop))
}

struct Ram {
    /// Where the data is while no queue has it.
    parked: Arc<Mutex<Option<Chunks>>>,
}

impl Medium for Ram {
    const PRODUCT_NAME: &'static str = "Malloc disk";
    const RESIZES: bool = true;
    type Worker = RamWorker;

    fn open_worker(&mut self, geometry: Geometry) -> Result<RamWorker, &'static str> {
        let mut parked = self.parked.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(mut chunks) = parked.take() else {
            return Err("a RAM disk has one queue, and it is open");
        };
        if chunks.resize(geometry.bytes()).is_err() {
            // As large as before, with all its data.
            *parked = Some(chunks);
            return Err("the system has no memory for it");
        }
        Ok(RamWorker {
            geometry,
            chunks: Some(chunks),
            parked: self.parked.clone(),
        })
    }
}

struct RamWorker {
    geometry: Geometry,
    /// Present until the queue is dropped.
    chunks: Option<Chunks>,
    parked: Arc<Mutex<Option<Chunks>>>,
}

impl Worker for RamWorker {
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
}

impl Drop for RamWorker {
    fn drop(&mut self) {
        // Back to the device, whose drop frees the memory on the control path rather than on the reactor.
        let mut parked = self.parked.lock().unwrap_or_else(PoisonError::into_inner);
        *parked = self.chunks.take();
    }
}
