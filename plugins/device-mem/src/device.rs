//! What RAM and null disks have in common: everything but the medium.
//!
//! A [`Medium`] makes one queue, changes its size or not, and does operations at once; [`MemDisk`] and [`MemQueue`] are
//! the SDK's device and queue around it.

use sdk::block::{
    Capabilities, Device, Geometry, IoError, IoResult, IoTag, Op, OpenError, Queue, QueueSeed,
    Submitted, Support,
};
use sdk::host::{FileDone, Host, OwnerId};
use units::Blocks;

use crate::claims::Claim;
use crate::limits::DISK_BYTES_MAX;
use crate::params::Params;

/// Where the data of a disk is, or is not.
pub(crate) trait Medium: Send + Sync + 'static {
    /// For people.
    const PRODUCT_NAME: &'static str;
    /// Whether the size can be set.
    const RESIZES: bool;
    /// What does the operations.
    type Worker: Worker;

    /// The worker of a queue for a disk of this size, or why there is none.
    fn open_worker(&mut self, geometry: Geometry) -> Result<Self::Worker, &'static str>;

    /// The disk is about to have this size in bytes.
    ///
    /// # Errors
    /// Why it may not; it keeps its size then.
    fn handle_resize(&mut self, _bytes: u64) -> Result<(), OpenError> {
        Ok(())
    }
}

/// The side of a medium that lives on a reactor.
pub(crate) trait Worker: Send + 'static {
    /// Does an operation.
    fn execute(&mut self, op: Op) -> IoResult;

    /// The disk has this size from here on.
    fn set_geometry(&mut self, geometry: Geometry);
}

/// A disk on a medium.
pub(crate) struct MemDisk<M> {
    claim: Claim,
    geometry: Geometry,
    uuid: Option<[u8; 16]>,
    medium: M,
}

impl<M> MemDisk<M> {
    /// The disk `params` ask for, under a name claimed for it.
    pub(crate) fn new(claim: Claim, params: &Params, medium: M) -> Self {
        Self {
            claim,
            geometry: params.geometry,
            uuid: params.uuid,
            medium,
        }
    }

    fn unsuitable(&self, reason: &str) -> OpenError {
        OpenError::Unsuitable {
            what: self.claim.uri(),
            reason: reason.to_owned(),
        }
    }
}

impl<M: Medium> Device for MemDisk<M> {
    fn name(&self) -> &str {
        self.claim.name()
    }

    fn product_name(&self) -> &'static str {
        M::PRODUCT_NAME
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
        match self.medium.open_worker(self.geometry) {
            Ok(worker) => Ok(Box::new(MemQueue(worker))),
            Err(reason) => Err(self.unsuitable(reason)),
        }
    }

    fn resize(&mut self, blocks: Option<Blocks>) -> Result<Geometry, OpenError> {
        let Some(blocks) = blocks else {
            return Ok(self.geometry);
        };
        if !M::RESIZES {
            return Err(self.unsuitable("cannot change its size; create another"));
        }
        let wanted = Geometry {
            blocks,
            ..self.geometry
        };
        if !(1..=DISK_BYTES_MAX).contains(&wanted.bytes()) {
            return Err(self.unsuitable("cannot be empty or larger than 1 TiB"));
        }
        self.medium.handle_resize(wanted.bytes())?;
        self.geometry = wanted;
        Ok(wanted)
    }
}

/// Seed and queue in one: there is nothing to register with the reactor.
struct MemQueue<W>(W);

impl<W: Worker> QueueSeed for MemQueue<W> {
    fn open(self: Box<Self>, _: &mut dyn Host, _: OwnerId) -> Result<Box<dyn Queue>, IoError> {
        Ok(self)
    }
}

impl<W: Worker> Queue for MemQueue<W> {
    fn submit(&mut self, _: &mut dyn Host, _: IoTag, op: Op) -> Submitted {
        Submitted::Done(self.0.execute(op))
    }

    fn handle_file_done(&mut self, _: &mut dyn Host, _: FileDone) {}

    fn poll_completion(&mut self) -> Option<(IoTag, IoResult)> {
        None
    }

    fn set_geometry(&mut self, geometry: Geometry) {
        self.0.set_geometry(geometry);
    }

    fn close(&mut self, _: &mut dyn Host) {}
}
