//! `null:///name`: a device that forgets writes and reads as zeroes, for measuring everything above it.

use std::sync::Arc;

use sdk::block::{Device, DeviceDriver, Geometry, IoError, IoResult, Op, OpenError};
use sdk::buf::{Chunk, Payload, Segment, Segments};
use sdk::uri::{DeviceUri, UriError};
use units::{BlockRange, Blocks};

use crate::claims::Claims;
use crate::device::{Medium, MemDisk, Worker};
use crate::limits::NULL_AREA_BYTES;
use crate::params::Params;

/// Serves `null`.
#[derive(Default)]
pub(crate) struct NullDriver {
    claims: Claims,
}

impl DeviceDriver for NullDriver {
    fn schemes(&self) -> &'static [&'static str] {
        &["null"]
    }

    fn check(&self, uri: DeviceUri) -> Result<(), UriError> {
        Params::take(uri, |_| Ok(())).map(drop)
    }

    fn open(&self, uri: DeviceUri) -> Result<Box<dyn Device>, OpenError> {
        let params = Params::take(uri, |_| Ok(()))?;
        let claim = self.claims.claim("null", &params.name)?;
        let zeroes = Arc::new(Chunk::from(vec![0; NULL_AREA_BYTES].into_boxed_slice()));
        Ok(Box::new(MemDisk::new(claim, &params, NoMedium { zeroes })))
    }
}

struct NoMedium {
    zeroes: Arc<Chunk>,
}

impl Medium for NoMedium {
    const PRODUCT_NAME: &'static str = "Null disk";
    const RESIZES: bool = false;
    type Worker = Nothing;

    fn open_worker(&mut self, geometry: Geometry) -> Result<Nothing, &'static str> {
        Ok(Nothing {
            geometry,
            zeroes: self.zeroes.clone(),
        })
    }
}

struct Nothing {
    geometry: Geometry,
    zeroes: Arc<Chunk>,
}

impl Nothing {
    fn check(&self, range: BlockRange) -> Result<(), IoError> {
        if range.is_within(self.geometry.blocks) {
            Ok(())
        } else {
            Err(IoError::OutOfRange)
        }
    }

    fn lend(&self, count: Blocks) -> Segments {
        let mut left = count.0 << self.geometry.block_size.shift();
        let mut segments = Segments::new();
        while left > 0 {
            let len = left.min(NULL_AREA_BYTES as u64);
            let segment = Segment::new(self.zeroes.clone(), 0, len as usize);
            segments.push(segment.expect("no longer than the zero area"));
            left -= len;
        }
        segments
    }
}

impl Worker for Nothing {
    fn execute(&mut self, op: Op) -> IoResult {
        match op {
            Op::Read { range, buf } => {
                self.check(range)?;
                Ok(Some(match buf {
                    None => Payload::Lent(self.lend(range.count)),
                    Some(mut buf) => {
                        buf.fill(0);
                        Payload::Buf(buf)
                    }
                }))
            }
            Op::Write { range, .. } | Op::WriteZeroes { range, .. } | Op::Discard { range } => {
                self.check(range).map(|()| None)
            }
            Op::Flush => Ok(None),
        }
    }

    fn set_geometry(&mut self, geometry: Geometry) {
        self.geometry = geometry;
    }
}
