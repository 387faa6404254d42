//! `null:///name`: a device that forgets writes and reads as zeroes, for measuring everything above it.

use std::sync::Arc;

use sdk::block::{
    Capabilities, Device, DeviceDriver, Geometry, IoError, IoResult, IoTag, Op, OpenError, Queue,
    QueueSeed, Submitted, Support,
};
use sdk::buf::{Chunk, Payload, Segment, Segments};
use sdk::host::{FileDone, Host, OwnerId};
use sdk::uri::DeviceUri;
use units::{BlockRange, Blocks};

use crate::claims::{Claim, Claims};
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

    fn open(&self, mut uri: DeviceUri) -> Result<Box<dyn Device>, OpenError> {
        let params = Params::take(&mut uri)?;
        uri.finish()?;
        Ok(Box::new(NullDisk {
            claim: self.claims.claim("null", params.name)?,
            geometry: params.geometry,
            uuid: params.uuid,
            zeroes: Arc::new(Chunk::from(vec![0; NULL_AREA_BYTES].into_boxed_slice())),
        }))
    }
}

struct NullDisk {
    claim: Claim,
    geometry: Geometry,
    uuid: Option<[u8; 16]>,
    zeroes: Arc<Chunk>,
}

impl Device for NullDisk {
    fn name(&self) -> &str {
        self.claim.name()
    }

    fn product_name(&self) -> &'static str {
        "Null disk"
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
        Ok(Box::new(NullQueue {
            geometry: self.geometry,
            zeroes: self.zeroes.clone(),
        }))
    }

    fn resize(&mut self, blocks: Option<Blocks>) -> Result<Geometry, OpenError> {
        match blocks {
            None => Ok(self.geometry),
            Some(_) => Err(OpenError::Unsuitable {
                what: format!("null:///{}", self.claim.name()),
                reason: "a null disk cannot change its size".to_owned(),
            }),
        }
    }
}

struct NullQueue {
    geometry: Geometry,
    zeroes: Arc<Chunk>,
}

impl QueueSeed for NullQueue {
    fn open(self: Box<Self>, _: &mut dyn Host, _: OwnerId) -> Result<Box<dyn Queue>, IoError> {
        Ok(self)
    }
}

impl NullQueue {
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

    fn execute(&self, op: Op) -> IoResult {
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
}

impl Queue for NullQueue {
    fn submit(&mut self, _: &mut dyn Host, _: IoTag, op: Op) -> Submitted {
        Submitted::Done(self.execute(op))
    }

    fn handle_file_done(&mut self, _: &mut dyn Host, _: FileDone) {}

    fn poll_completion(&mut self) -> Option<(IoTag, IoResult)> {
        None
    }

    fn set_geometry(&mut self, geometry: Geometry) {
        self.geometry = geometry;
    }

    fn close(&mut self, _: &mut dyn Host) {}
}
