//! An open device with its queue and a host, and the checks that hold for every operation.

use std::collections::BTreeMap;
use std::sync::Arc;

use sdk::block::{
    Capabilities, Device, DeviceDriver, Geometry, IoResult, IoTag, Op, Queue, Submitted,
};
use sdk::buf::Buf;
use sdk::services::Services;
use sdk::uri::DeviceUri;
use units::BlockRange;

use crate::host::Driven;

/// A device under test.
pub(crate) struct Rig {
    pub(crate) driver: Box<dyn DeviceDriver>,
    pub(crate) services: Arc<dyn Services>,
    pub(crate) uri: String,
    pub(crate) device: Box<dyn Device>,
    pub(crate) queue: Box<dyn Queue>,
    pub(crate) host: Box<dyn Driven>,
    pub(crate) geometry: Geometry,
    pub(crate) capabilities: Capabilities,
    next_tag: u64,
    in_flight: BTreeMap<u64, &'static str>,
}

impl Rig {
    pub(crate) fn new(
        driver: Box<dyn DeviceDriver>,
        uri: String,
        mut host: Box<dyn Driven>,
        services: Arc<dyn Services>,
    ) -> Self {
        let mut device = open(&*driver, &uri, &services);
        let queue = open_queue(&mut *device, &mut *host);
        let geometry = device.geometry();
        let capabilities = device.capabilities();
        Self {
            driver,
            services,
            uri,
            device,
            queue,
            host,
            geometry,
            capabilities,
            next_tag: 1,
            in_flight: BTreeMap::new(),
        }
    }

    /// Bytes in `blocks` blocks.
    pub(crate) fn bytes(&self, blocks: u64) -> usize {
        (blocks << self.geometry.block_size.shift()) as usize
    }

    /// A buffer of the host's, with whatever its last user left, or of the heap while the host has none.
    pub(crate) fn blank(&mut self, len: usize) -> Buf {
        let buf = self.host.host().alloc(len);
        buf.unwrap_or_else(|| Buf::from_heap(len))
    }

    /// A buffer with the contents of `bytes`.
    pub(crate) fn buf(&mut self, bytes: &[u8]) -> Buf {
        let mut buf = self.blank(bytes.len());
        buf.copy_from_slice(bytes);
        buf
    }

    /// Submits an operation; its result, or its tag if it is pending.
    pub(crate) fn start(&mut self, op: Op) -> Result<IoResult, u64> {
        let tag = self.next_tag;
        self.next_tag += 1;
        let what = op_name(&op);
        match self.queue.submit(self.host.host(), IoTag(tag), op) {
            Submitted::Done(result) => Ok(result),
            Submitted::Pending => {
                self.in_flight.insert(tag, what);
                Err(tag)
            }
        }
    }

    /// Waits for the next completion, checking that it is of an operation in flight.
    pub(crate) fn wait(&mut self) -> (u64, IoResult) {
        loop {
            if let Some((IoTag(tag), result)) = self.queue.poll_completion() {
                let known = self.in_flight.remove(&tag);
                assert!(known.is_some(), "tag {tag} completed twice, or never began");
                return (tag, result);
            }
            if let Some(done) = self.host.next_file_done() {
                self.queue.handle_file_done(self.host.host(), done);
            } else if let Some(at) = self.queue.poll_timeout() {
                self.host.wait_until(at);
                self.queue.handle_timeout(self.host.host());
            } else {
                panic!("operations that never complete: {:?}", self.in_flight);
            }
        }
    }

    /// Submits an operation and waits for it alone.
    pub(crate) fn run(&mut self, op: Op) -> IoResult {
        match self.start(op) {
            Ok(result) => result,
            Err(tag) => {
                let (done, result) = self.wait();
                assert_eq!(done, tag, "the only operation in flight");
                result
            }
        }
    }

    pub(crate) fn write(&mut self, range: BlockRange, bytes: &[u8]) {
        let buf = self.buf(bytes);
        let result = self.run(Op::Write {
            range,
            buf,
            fua: false,
        });
        assert!(matches!(result, Ok(None)), "write {range}: {result:?}");
    }

    pub(crate) fn read(&mut self, range: BlockRange) -> Vec<u8> {
        let len = self.bytes(range.count.0);
        let buf = Some(self.blank(len));
        let read = self.read_op(Op::Read { range, buf }, range);
        if self.capabilities.lends_reads {
            let lent = self.read_op(Op::Read { range, buf: None }, range);
            assert!(read == lent, "lent and copied bytes differ at {range}");
        }
        read
    }

    fn read_op(&mut self, op: Op, range: BlockRange) -> Vec<u8> {
        match self.run(op) {
            Ok(Some(payload)) => {
                assert_eq!(payload.len(), self.bytes(range.count.0), "read {range}");
                payload.pieces().flatten().copied().collect()
            }
            other => panic!("read {range}: {other:?}"),
        }
    }

    /// Closes the queue; nothing may be in flight or left over.
    pub(crate) fn finish(mut self) -> (Box<dyn Device>, Box<dyn Driven>) {
        assert!(self.in_flight.is_empty(), "{:?}", self.in_flight);
        assert!(
            self.queue.poll_completion().is_none(),
            "one completion too many"
        );
        self.queue.close(self.host.host());
        drop(self.queue);
        (self.device, self.host)
    }
}

pub(crate) fn open(
    driver: &dyn DeviceDriver,
    uri: &str,
    services: &Arc<dyn Services>,
) -> Box<dyn Device> {
    let parsed = DeviceUri::parse(uri).expect("the URI under test is a URI");
    let checked = driver.check(parsed.clone());
    assert_eq!(checked, Ok(()), "{uri} is refused before it is opened");
    driver
        .open_with(parsed, services)
        .unwrap_or_else(|error| panic!("{uri} does not open: {error}"))
}

pub(crate) fn open_queue(device: &mut dyn Device, host: &mut dyn Driven) -> Box<dyn Queue> {
    let seed = device
        .open_queue()
        .unwrap_or_else(|error| panic!("{error}"));
    let owner = host.owner();
    seed.open(host.host(), owner)
        .unwrap_or_else(|error| panic!("no queue: {error}"))
}

fn op_name(op: &Op) -> &'static str {
    match op {
        Op::Read { .. } => "read",
        Op::Write { .. } => "write",
        Op::WriteZeroes { .. } => "write zeroes",
        Op::Discard { .. } => "discard",
        Op::Flush => "flush",
    }
}
