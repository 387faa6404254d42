//! `malloc:///name`: a RAM disk.
//!
//! Every operation completes in `submit`. Reads are lent, writes are one copy. One queue at a time, because only the
//! queue touches the data; the data survives closing a queue and is given to the next one.
//!
//! Memory is taken when it is first written, but asked for at creation and growth, all of it: a disk that was promised and
//! then finds none would fail writes in the middle, or have the system kill the engine with every volume it serves.

use std::sync::{Arc, Mutex, PoisonError};

use sdk::block::{Device, DeviceDriver, Geometry, IoError, IoResult, Op, OpenError};
use sdk::buf::Payload;
use sdk::services::{MemoryShare, Services};
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
        self.create(uri, None)
    }

    fn open_with(
        &self,
        uri: DeviceUri,
        services: &Arc<dyn Services>,
    ) -> Result<Box<dyn Device>, OpenError> {
        self.create(uri, Some(services))
    }
}

impl RamDriver {
    fn create(
        &self,
        uri: DeviceUri,
        services: Option<&Arc<dyn Services>>,
    ) -> Result<Box<dyn Device>, OpenError> {
        let params = params(uri)?;
        let claim = self.claims.claim("malloc", &params.name)?;
        let bytes = params.geometry.bytes();
        let take = |services: &Arc<dyn Services>| MemoryShare::take(services, &claim.uri(), bytes);
        let share = services.map(take).transpose()?;
        let data = Data {
            chunks: Chunks::new(bytes),
            share: Arc::new(Mutex::new(share)),
        };
        let ram = Ram {
            share: data.share.clone(),
            parked: Arc::new(Mutex::new(Some(data))),
        };
        Ok(Box::new(MemDisk::new(claim, &params, ram)))
    }
}

/// The memory asked for; none where nobody counts.
type Share = Arc<Mutex<Option<MemoryShare>>>;

/// The contents, and the memory they may take: given back when both the device and its queue have let go.
struct Data {
    chunks: Chunks,
    share: Share,
}

/// The same URI creates the disk and, once it is there, resizes it; so the flag is known here too.
fn params(uri: DeviceUri) -> Result<Params, UriError> {
    Params::take(uri, |uri| uri.take_flag("resize").map(drop))
}

struct Ram {
    share: Share,
    /// Where the data is while no queue has it.
    parked: Arc<Mutex<Option<Data>>>,
}

impl Medium for Ram {
    const PRODUCT_NAME: &'static str = "Malloc disk";
    const RESIZES: bool = true;
    type Worker = RamWorker;

    fn open_worker(&mut self, geometry: Geometry) -> Result<RamWorker, &'static str> {
        let mut parked = self.parked.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(mut data) = parked.take() else {
            return Err("a RAM disk has one queue, and it is open");
        };
        if data.chunks.resize(geometry.bytes()).is_err() {
            // As large as before, with all its data.
            *parked = Some(data);
            return Err("the system has no memory for it");
        }
        Ok(RamWorker {
            geometry,
            data: Some(data),
            parked: self.parked.clone(),
        })
    }

    fn handle_resize(&mut self, bytes: u64) -> Result<(), OpenError> {
        let mut share = self.share.lock().unwrap_or_else(PoisonError::into_inner);
        share.as_mut().map_or(Ok(()), |share| share.resize(bytes))
    }
}

struct RamWorker {
    geometry: Geometry,
    /// Present until the queue is dropped.
    data: Option<Data>,
    parked: Arc<Mutex<Option<Data>>>,
}

impl Worker for RamWorker {
    #[inline]
    fn execute(&mut self, op: Op) -> IoResult {
        let Some(Data { chunks, .. }) = &mut self.data else {
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
        if let Some(Data { chunks, .. }) = &mut self.data
            && chunks.len() != geometry.bytes()
            && chunks.resize(geometry.bytes()).is_err()
        {
            // What lies behind the new end could not be zeroed and must not show again when the disk grows: without
            // memory for one chunk the disk is gone.
            self.data = None;
        }
        self.geometry = geometry;
    }
}

impl Drop for RamWorker {
    fn drop(&mut self) {
        // Back to the device, whose drop frees the memory on the control path rather than on the reactor.
        let mut parked = self.parked.lock().unwrap_or_else(PoisonError::into_inner);
        *parked = self.data.take();
    }
}
