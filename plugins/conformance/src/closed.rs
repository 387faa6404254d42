//! A queue that is gone: what stands in a rig between two queues.

use sdk::block::{Geometry, IoError, IoResult, IoTag, Op, Queue, Submitted};
use sdk::host::{FileDone, Host};

pub(crate) struct ClosedQueue;

impl Queue for ClosedQueue {
    fn submit(&mut self, _: &mut dyn Host, _: IoTag, _: Op) -> Submitted {
        Submitted::Done(Err(IoError::Gone))
    }

    fn handle_file_done(&mut self, _: &mut dyn Host, _: FileDone) {}

    fn poll_completion(&mut self) -> Option<(IoTag, IoResult)> {
        None
    }

    fn set_geometry(&mut self, _: Geometry) {}

    fn close(&mut self, _: &mut dyn Host) {}
}
