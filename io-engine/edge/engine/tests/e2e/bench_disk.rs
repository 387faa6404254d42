//! A disk that holds writes back, fails, hangs and comes back when the test says so: `bench:///name`.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use sdk::block::{
    Capabilities, Device, DeviceDriver, Geometry, IoError, IoResult, IoTag, Op, OpenError, Queue,
    QueueSeed, Submitted, Support,
};
use sdk::buf::Payload;
use sdk::host::{FileDone, Host, OwnerId};
use sdk::uri::DeviceUri;
use units::{BlockRange, BlockSize, Blocks};

/// What a disk does and has.
pub(crate) struct Switches {
    /// Writes stay in the device.
    pub(crate) hold_writes: bool,
    /// So many of those held may end, the oldest first.
    pub(crate) let_go: usize,
    /// Every operation is answered `Gone`.
    pub(crate) gone: bool,
    /// It does not open.
    pub(crate) absent: bool,
    /// How long a submission blocks its reactor.
    pub(crate) stall: Duration,
    /// Flushes stay in the device.
    pub(crate) hold_flushes: bool,
    /// Its size.
    pub(crate) blocks: u64,
    pub(crate) block_size: BlockSize,
    data: BTreeMap<u64, Vec<u8>>,
    is_open: bool,
}

/// All disks, by name.
#[derive(Clone, Default)]
pub(crate) struct Bench(Arc<Mutex<BTreeMap<String, Disk>>>);

/// One disk.
#[derive(Clone)]
pub(crate) struct Disk(Arc<Mutex<Switches>>);

impl Bench {
    /// The disk `name`; it is there from the first call on.
    pub(crate) fn disk(&self, name: &str) -> Disk {
        let mut disks = self.0.lock().expect("no panic");
        let new = || Disk(Arc::new(Mutex::new(Switches::default())));
        disks.entry(name.to_owned()).or_insert_with(new).clone()
    }
}

impl Default for Switches {
    fn default() -> Self {
        Self {
            hold_writes: false,
            let_go: 0,
            gone: false,
            absent: false,
            stall: Duration::ZERO,
            hold_flushes: false,
            blocks: 2048,
            block_size: BlockSize::B512,
            data: BTreeMap::new(),
            is_open: false,
        }
    }
}

impl Disk {
    pub(crate) fn set(&self) -> MutexGuard<'_, Switches> {
        self.0.lock().expect("no panic")
    }
}

impl DeviceDriver for Bench {
    fn schemes(&self) -> &'static [&'static str] {
        &["bench"]
    }

    fn open(&self, uri: DeviceUri) -> Result<Box<dyn Device>, OpenError> {
        let name = uri.path().trim_start_matches('/').to_owned();
        let disk = self.disk(&name);
        let mut switches = disk.set();
        if switches.absent {
            return Err(OpenError::NotFound(name));
        }
        if std::mem::replace(&mut switches.is_open, true) {
            return Err(OpenError::InUse {
                what: name,
                holder: "this test".into(),
            });
        }
        let geometry = Geometry {
            block_size: switches.block_size,
            blocks: Blocks(switches.blocks),
        };
        drop(switches);
        Ok(Box::new(BenchDevice {
            name,
            geometry,
            disk,
        }))
    }
}

struct BenchDevice {
    name: String,
    geometry: Geometry,
    disk: Disk,
}

impl Drop for BenchDevice {
    fn drop(&mut self) {
        self.disk.set().is_open = false;
    }
}

impl Device for BenchDevice {
    fn name(&self) -> &str {
        &self.name
    }

    fn product_name(&self) -> &'static str {
        "Bench disk"
    }

    fn geometry(&self) -> Geometry {
        self.geometry
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities {
            write_zeroes: Support::None,
            discard: Support::None,
            volatile_cache: true,
            lends_reads: false,
            atomic_blocks: 1,
            direct: None,
        }
    }

    fn uuid(&self) -> Option<[u8; 16]> {
        None
    }

    fn open_queue(&mut self) -> Result<Box<dyn QueueSeed>, OpenError> {
        Ok(Box::new(BenchSeed(self.disk.clone())))
    }

    fn resize(&mut self, _: Option<Blocks>) -> Result<Geometry, OpenError> {
        self.geometry.blocks = Blocks(self.disk.set().blocks);
        Ok(self.geometry)
    }
}

struct BenchSeed(Disk);

impl QueueSeed for BenchSeed {
    fn open(self: Box<Self>, _: &mut dyn Host, _: OwnerId) -> Result<Box<dyn Queue>, IoError> {
        Ok(Box::new(BenchQueue {
            disk: self.0,
            held: VecDeque::new(),
        }))
    }
}

struct BenchQueue {
    disk: Disk,
    held: VecDeque<(IoTag, Op)>,
}

impl Queue for BenchQueue {
    fn submit(&mut self, _: &mut dyn Host, tag: IoTag, op: Op) -> Submitted {
        let mut disk = self.disk.set();
        if !disk.stall.is_zero() {
            let stall = disk.stall;
            drop(disk);
            std::thread::sleep(stall);
            disk = self.disk.set();
        }
        if disk.gone {
            return Submitted::Done(Err(IoError::Gone));
        }
        let is_held = match op {
            Op::Write { .. } => disk.hold_writes,
            Op::Flush => disk.hold_flushes,
            Op::Read { .. } | Op::WriteZeroes { .. } | Op::Discard { .. } => false,
        };
        if is_held {
            drop(disk);
            self.held.push_back((tag, op));
            return Submitted::Pending;
        }
        Submitted::Done(perform(&mut disk, op))
    }

    fn handle_file_done(&mut self, _: &mut dyn Host, _: FileDone) {}

    fn poll_completion(&mut self) -> Option<(IoTag, IoResult)> {
        let mut disk = self.disk.set();
        let (_, op) = self.held.front()?;
        match op {
            Op::Flush if disk.hold_flushes => return None,
            Op::Write { .. } if disk.hold_writes => disk.let_go = disk.let_go.checked_sub(1)?,
            _ => {}
        }
        let (tag, op) = self.held.pop_front()?;
        Some((tag, perform(&mut disk, op)))
    }

    fn set_geometry(&mut self, _: Geometry) {}

    fn close(&mut self, _: &mut dyn Host) {}
}

fn perform(disk: &mut Switches, op: Op) -> IoResult {
    let blocks = |range: BlockRange| range.start.0..range.start.0 + range.count.0;
    match op {
        Op::Read { range, buf } => {
            let mut buf = buf.ok_or(IoError::NotSupported)?;
            let size = disk.block_size.bytes() as usize;
            for (block, piece) in blocks(range).zip(buf.chunks_mut(size)) {
                match disk.data.get(&block) {
                    Some(bytes) => piece.copy_from_slice(bytes),
                    None => piece.fill(0),
                }
            }
            Ok(Some(Payload::Buf(buf)))
        }
        Op::Write { range, buf, .. } => {
            let size = disk.block_size.bytes() as usize;
            for (block, piece) in blocks(range).zip(buf.chunks(size)) {
                disk.data.insert(block, piece.to_vec());
            }
            Ok(None)
        }
        Op::Flush => Ok(None),
        Op::WriteZeroes { .. } | Op::Discard { .. } => Err(IoError::NotSupported),
    }
}
