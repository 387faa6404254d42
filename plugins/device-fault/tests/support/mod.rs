//! A device to stand on that a test can look into, and a bench that drives a queue and its clock.

use std::collections::{BTreeSet, VecDeque};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use conformance::host::{Driven as _, TestHost};
use conformance::services::TestServices;
use sdk::block::{
    Capabilities, Device, DeviceDriver, Extent, Geometry, IoError, IoResult, IoTag, Op, OpenError,
    Queue, QueueSeed, Submitted, Support,
};
use sdk::buf::{Buf, Chunk, Payload, Segment, Segments};
use sdk::host::{FileDone, Host, OwnerId};
use sdk::services::Services;
use sdk::uri::DeviceUri;
use units::{BlockRange, BlockSize, Blocks};

/// Bytes of a block of the slab.
pub(crate) const BLOCK: usize = 512;

const BLOCKS: u64 = 16_384;

/// What lies under the fault device, and what it is told to do.
#[derive(Default)]
pub(crate) struct Medium {
    pub(crate) bytes: Vec<u8>,
    /// Every operation, in order: `w8+2`, `r0+1`, `z..`, `d..`, `flush`.
    pub(crate) log: Vec<String>,
    /// Answers everything with `Gone`.
    pub(crate) gone: bool,
    /// Completes later, and in reverse order.
    pub(crate) pending: bool,
    /// Keeps what is pending to itself.
    pub(crate) silent: bool,
    /// Fails writes with `NoSpace`.
    pub(crate) full: bool,
    /// What reads are lent from, so that a test sees who still has it.
    pub(crate) lent: Option<Arc<Chunk>>,
    /// Whether the device is open.
    pub(crate) open: bool,
}

/// Handle to a medium.
#[derive(Clone, Default)]
pub(crate) struct Slab(pub(crate) Arc<Mutex<Medium>>);

impl Slab {
    pub(crate) fn new() -> Self {
        let slab = Self::default();
        slab.with(|medium| medium.bytes = vec![0; BLOCKS as usize * BLOCK]);
        slab
    }

    pub(crate) fn with<T>(&self, work: impl FnOnce(&mut Medium) -> T) -> T {
        work(&mut self.0.lock().unwrap())
    }

    pub(crate) fn pending(self) -> Self {
        self.with(|medium| medium.pending = true);
        self
    }

    /// First byte of each of `count` blocks on the medium.
    pub(crate) fn fills(&self, start: u64, count: u64) -> Vec<u8> {
        let blocks = start as usize..(start + count) as usize;
        self.with(|medium| blocks.map(|block| medium.bytes[block * BLOCK]).collect())
    }

    pub(crate) fn bytes(&self, range: BlockRange) -> Vec<u8> {
        let from = range.start.0 as usize * BLOCK;
        self.with(|medium| medium.bytes[from..from + range.count.0 as usize * BLOCK].to_vec())
    }

    pub(crate) fn take_log(&self) -> Vec<String> {
        self.with(|medium| std::mem::take(&mut medium.log))
    }
}

/// Serves `slab:///s`.
pub(crate) struct SlabDriver(pub(crate) Slab);

struct SlabDevice(Slab);

struct SlabSeed(Slab);

struct SlabQueue {
    slab: Slab,
    done: VecDeque<(IoTag, IoResult)>,
    blocks: Blocks,
}

impl DeviceDriver for SlabDriver {
    fn schemes(&self) -> &'static [&'static str] {
        &["slab"]
    }

    fn open(&self, uri: DeviceUri) -> Result<Box<dyn Device>, OpenError> {
        uri.finish()?;
        if self
            .0
            .with(|medium| std::mem::replace(&mut medium.open, true))
        {
            return Err(OpenError::InUse {
                what: "slab:///s".to_owned(),
                holder: format!("this process (pid {})", std::process::id()),
            });
        }
        Ok(Box::new(SlabDevice(self.0.clone())))
    }
}

impl Drop for SlabDevice {
    fn drop(&mut self) {
        self.0.with(|medium| medium.open = false);
    }
}

impl Device for SlabDevice {
    fn name(&self) -> &str {
        "/slabs/s"
    }

    fn product_name(&self) -> &'static str {
        "Slab"
    }

    fn geometry(&self) -> Geometry {
        Geometry {
            block_size: BlockSize::B512,
            blocks: Blocks(BLOCKS),
        }
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities {
            write_zeroes: Support::Native,
            discard: Support::Native,
            volatile_cache: false,
            lends_reads: true,
            atomic_blocks: 8,
            direct: None,
        }
    }

    fn uuid(&self) -> Option<[u8; 16]> {
        None
    }

    fn open_queue(&mut self) -> Result<Box<dyn QueueSeed>, OpenError> {
        Ok(Box::new(SlabSeed(self.0.clone())))
    }

    fn resize(&mut self, _: Option<Blocks>) -> Result<Geometry, OpenError> {
        Ok(self.geometry())
    }
}

impl QueueSeed for SlabSeed {
    fn open(self: Box<Self>, _: &mut dyn Host, _: OwnerId) -> Result<Box<dyn Queue>, IoError> {
        Ok(Box::new(SlabQueue {
            slab: self.0,
            done: VecDeque::new(),
            blocks: Blocks(BLOCKS),
        }))
    }
}

impl SlabQueue {
    fn place(&self, range: BlockRange) -> Result<std::ops::Range<usize>, IoError> {
        if !range.is_within(self.blocks) {
            return Err(IoError::OutOfRange);
        }
        let from = range.start.0 as usize * BLOCK;
        Ok(from..from + range.count.0 as usize * BLOCK)
    }

    fn execute(&self, medium: &mut Medium, op: Op) -> IoResult {
        medium.log.push(match &op {
            Op::Read { range, .. } => format!("r{range}"),
            Op::Write { range, fua, .. } => format!("{}{range}", if *fua { 'W' } else { 'w' }),
            Op::WriteZeroes { range, .. } => format!("z{range}"),
            Op::Discard { range } => format!("d{range}"),
            Op::Flush => "flush".to_owned(),
        });
        if medium.gone {
            return Err(IoError::Gone);
        }
        match op {
            Op::Read { range, buf } => {
                let bytes = &medium.bytes[self.place(range)?];
                if let Some(mut buf) = buf {
                    buf.copy_from_slice(bytes);
                    return Ok(Some(Payload::Buf(buf)));
                }
                let chunk: Arc<Chunk> = Arc::new(Box::<[u8]>::from(bytes).into());
                let len = chunk.len();
                medium.lent = Some(chunk.clone());
                let segment = Segment::new(chunk, 0, len).unwrap();
                Ok(Some(Payload::Lent(Segments::from_iter([segment]))))
            }
            Op::Write { .. } if medium.full => Err(IoError::NoSpace),
            Op::Write { range, buf, .. } => {
                assert_eq!(buf.len(), range.count.0 as usize * BLOCK, "{range}");
                let place = self.place(range)?;
                medium.bytes[place].copy_from_slice(&buf);
                Ok(None)
            }
            Op::WriteZeroes { range, .. } | Op::Discard { range } => {
                let place = self.place(range)?;
                medium.bytes[place].fill(0);
                Ok(None)
            }
            Op::Flush => Ok(None),
        }
    }
}

impl Queue for SlabQueue {
    fn submit(&mut self, _: &mut dyn Host, tag: IoTag, op: Op) -> Submitted {
        let slab = self.slab.clone();
        let mut medium = slab.0.lock().unwrap();
        let result = self.execute(&mut medium, op);
        if !medium.pending {
            return Submitted::Done(result);
        }
        self.done.push_front((tag, result));
        Submitted::Pending
    }

    fn handle_file_done(&mut self, _: &mut dyn Host, _: FileDone) {}

    fn poll_completion(&mut self) -> Option<(IoTag, IoResult)> {
        if self.slab.with(|medium| medium.silent) {
            return None;
        }
        self.done.pop_front()
    }

    fn extents(&mut self, range: BlockRange) -> Option<Vec<Extent>> {
        Some(vec![Extent {
            blocks: range.count,
            allocated: false,
            zero: true,
        }])
    }

    fn set_geometry(&mut self, geometry: Geometry) {
        self.blocks = geometry.blocks;
    }

    fn close(&mut self, _: &mut dyn Host) {}
}

/// Services that serve everything: the fault device, what it stands on, and RAM disks.
pub(crate) fn services(slab: &Slab) -> Arc<TestServices> {
    let mut drivers = device_fault::drivers();
    drivers.push(Box::new(SlabDriver(slab.clone())));
    drivers.extend(device_mem::drivers());
    TestServices::new(drivers)
}

/// A fault device over a slab, with a queue and a clock that moves only when told.
pub(crate) struct Bench {
    pub(crate) slab: Slab,
    pub(crate) services: Arc<TestServices>,
    pub(crate) device: Box<dyn Device>,
    pub(crate) queue: Box<dyn Queue>,
    pub(crate) host: TestHost,
    next_tag: u64,
    in_flight: BTreeSet<u64>,
}

impl Bench {
    pub(crate) fn new(slab: Slab, rules: &str) -> Self {
        Self::open(slab, &format!("fault:///f?device=slab:///s&rules={rules}"))
    }

    pub(crate) fn open(slab: Slab, uri: &str) -> Self {
        let services = services(&slab);
        let mut device = services.open_device(uri).unwrap_or_else(|e| panic!("{e}"));
        let mut host = TestHost::new();
        let owner = host.owner();
        let queue = device.open_queue().unwrap().open(&mut host, owner).unwrap();
        Self {
            slab,
            services,
            device,
            queue,
            host,
            next_tag: 1,
            in_flight: BTreeSet::new(),
        }
    }

    pub(crate) fn command(&mut self, text: &str) -> String {
        let answer = self.device.handle_command(text);
        answer.unwrap_or_else(|error| panic!("{text}: {error}"))
    }

    /// Submits; a result, or the tag of a pending operation.
    pub(crate) fn start(&mut self, op: Op) -> Result<IoResult, u64> {
        let tag = self.next_tag;
        self.next_tag += 1;
        match self.queue.submit(&mut self.host, IoTag(tag), op) {
            Submitted::Done(result) => Ok(result),
            Submitted::Pending => {
                self.in_flight.insert(tag);
                Err(tag)
            }
        }
    }

    /// Submits something that must not complete at once; its tag.
    pub(crate) fn start_pending(&mut self, op: Op) -> u64 {
        self.start(op).expect_err("an operation that is held")
    }

    /// The next completion there is without time passing.
    pub(crate) fn poll(&mut self) -> Option<(u64, IoResult)> {
        loop {
            if let Some((IoTag(tag), result)) = self.queue.poll_completion() {
                assert!(self.in_flight.remove(&tag), "tag {tag} completed twice");
                return Some((tag, result));
            }
            let due = self.queue.poll_timeout()?;
            if due > self.host.now() {
                return None;
            }
            self.queue.handle_timeout(&mut self.host);
        }
    }

    /// Lets `by` pass, calling the queue at each time it asks for; what completes, with when.
    pub(crate) fn pass(&mut self, by: Duration) -> Vec<(u64, Duration, IoResult)> {
        let (start, mut done) = (self.host.now(), Vec::new());
        let end = start + by;
        loop {
            while let Some((tag, result)) = self.poll() {
                done.push((tag, self.host.now() - start, result));
            }
            let due = self.queue.poll_timeout().filter(|due| *due <= end);
            let at: Instant = due.unwrap_or(end);
            let step = at.saturating_duration_since(self.host.now());
            self.host.advance(step);
            if due.is_none() {
                return done;
            }
            self.queue.handle_timeout(&mut self.host);
        }
    }

    /// Submits and waits up to an hour.
    pub(crate) fn run(&mut self, op: Op) -> IoResult {
        match self.start(op) {
            Ok(result) => result,
            Err(tag) => {
                let start = self.host.now();
                loop {
                    if let Some((done, result)) = self.poll() {
                        assert_eq!(done, tag, "the only operation in flight");
                        return result;
                    }
                    let due = self.queue.poll_timeout().expect("it never completes");
                    let step = due.saturating_duration_since(self.host.now());
                    self.host.advance(step);
                    let waited = self.host.now() - start;
                    assert!(waited < Duration::from_secs(3600), "it never completes");
                    self.queue.handle_timeout(&mut self.host);
                }
            }
        }
    }

    /// Closes the queue and opens another one.
    pub(crate) fn reopen_queue(&mut self) {
        self.queue.close(&mut self.host);
        let owner = self.host.owner();
        let seed = self.device.open_queue().unwrap();
        self.queue = seed.open(&mut self.host, owner).unwrap();
        self.in_flight.clear();
    }

    pub(crate) fn write(&mut self, start: u64, count: u64, fill: u8) -> IoResult {
        self.run(write(start, count, fill))
    }

    /// Reads, lent and into a buffer, and wants both the same; the first byte of each block.
    pub(crate) fn read(&mut self, start: u64, count: u64) -> Result<Vec<u8>, IoError> {
        Ok(fills(&self.read_bytes(start, count)?))
    }

    pub(crate) fn read_bytes(&mut self, start: u64, count: u64) -> Result<Vec<u8>, IoError> {
        let copied = self.run(read(start, count)).map(contents)?;
        let range = BlockRange::new(start, count);
        let lent = self.run(Op::Read { range, buf: None }).map(contents)?;
        assert!(copied == lent, "lent and copied bytes differ");
        Ok(copied)
    }

    pub(crate) fn flush(&mut self) -> IoResult {
        self.run(Op::Flush)
    }

    pub(crate) fn in_flight(&self) -> usize {
        self.in_flight.len()
    }
}

pub(crate) fn contents(payload: Option<Payload>) -> Vec<u8> {
    let payload = payload.expect("a read gives data");
    payload.pieces().flatten().copied().collect()
}

pub(crate) fn fills(bytes: &[u8]) -> Vec<u8> {
    bytes.chunks(BLOCK).map(|block| block[0]).collect()
}

pub(crate) fn read(start: u64, count: u64) -> Op {
    Op::Read {
        range: BlockRange::new(start, count),
        buf: Some(Buf::from_heap(count as usize * BLOCK)),
    }
}

pub(crate) fn write(start: u64, count: u64, fill: u8) -> Op {
    let mut buf = Buf::from_heap(count as usize * BLOCK);
    buf.fill(fill);
    Op::Write {
        range: BlockRange::new(start, count),
        buf,
        fua: false,
    }
}

pub(crate) fn durable(op: Op) -> Op {
    match op {
        Op::Write { range, buf, .. } => Op::Write {
            range,
            buf,
            fua: true,
        },
        other => other,
    }
}

pub(crate) fn zeroes(start: u64, count: u64) -> Op {
    Op::WriteZeroes {
        range: BlockRange::new(start, count),
        deallocate: false,
        fua: false,
    }
}

pub(crate) fn is_ok(result: &IoResult) -> bool {
    matches!(result, Ok(None))
}
