//! The suite catches devices that break a promise: one defect at a time in a device that is otherwise right.

use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use conformance::{Options, run_device};
use sdk::block::{
    Capabilities, Device, DeviceDriver, Geometry, IoError, IoResult, IoTag, Op, OpenError, Queue,
    QueueSeed, Submitted, Support,
};
use sdk::buf::Payload;
use sdk::host::{FileDone, Host, OwnerId};
use sdk::uri::DeviceUri;
use units::{BlockRange, BlockSize, Blocks};

const GEOMETRY: Geometry = Geometry {
    block_size: BlockSize::B4096,
    blocks: Blocks(1024),
};

#[derive(Clone, Copy, PartialEq, Debug)]
enum Defect {
    None,
    LosesAWrite,
    ShiftsReads,
    ZeroesTooMuch,
    CompletesTwice,
    NeverCompletes,
    ReadsPastTheEnd,
    OpensTwice,
    IgnoresParameters,
}

struct Driver {
    defect: Defect,
    open: Arc<AtomicBool>,
}

struct Memory {
    defect: Defect,
    open: Arc<AtomicBool>,
    bytes: Arc<Mutex<Vec<u8>>>,
}

struct MemorySeed {
    defect: Defect,
    bytes: Arc<Mutex<Vec<u8>>>,
}

struct MemoryQueue {
    defect: Defect,
    bytes: Arc<Mutex<Vec<u8>>>,
    blocks: Blocks,
    writes: u64,
    done: VecDeque<(IoTag, IoResult)>,
}

impl DeviceDriver for Driver {
    fn schemes(&self) -> &'static [&'static str] {
        &["memory"]
    }

    fn open(&self, uri: DeviceUri) -> Result<Box<dyn Device>, OpenError> {
        if self.defect != Defect::IgnoresParameters {
            uri.finish()?;
        }
        let taken = self.open.swap(true, Ordering::Relaxed);
        if taken && self.defect != Defect::OpensTwice {
            return Err(OpenError::InUse {
                what: "memory".to_owned(),
                holder: format!("pid {}", std::process::id()),
            });
        }
        Ok(Box::new(Memory {
            defect: self.defect,
            open: self.open.clone(),
            bytes: Arc::new(Mutex::new(vec![0; GEOMETRY.bytes() as usize])),
        }))
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        self.open.store(false, Ordering::Relaxed);
    }
}

impl Device for Memory {
    fn name(&self) -> &str {
        "memory"
    }

    fn product_name(&self) -> &'static str {
        "Memory"
    }

    fn geometry(&self) -> Geometry {
        GEOMETRY
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities {
            write_zeroes: Support::Native,
            discard: Support::None,
            volatile_cache: false,
            lends_reads: false,
            atomic_blocks: 1,
            direct: None,
        }
    }

    fn uuid(&self) -> Option<[u8; 16]> {
        None
    }

    fn open_queue(&mut self) -> Result<Box<dyn QueueSeed>, OpenError> {
        Ok(Box::new(MemorySeed {
            defect: self.defect,
            bytes: self.bytes.clone(),
        }))
    }

    fn resize(&mut self, _: Option<Blocks>) -> Result<Geometry, OpenError> {
        Ok(GEOMETRY)
    }
}

impl QueueSeed for MemorySeed {
    fn open(self: Box<Self>, _: &mut dyn Host, _: OwnerId) -> Result<Box<dyn Queue>, IoError> {
        Ok(Box::new(MemoryQueue {
            defect: self.defect,
            bytes: self.bytes,
            blocks: GEOMETRY.blocks,
            writes: 0,
            done: VecDeque::new(),
        }))
    }
}

impl MemoryQueue {
    fn place(&self, range: BlockRange) -> Result<std::ops::Range<usize>, IoError> {
        if !range.is_within(self.blocks) {
            return Err(IoError::OutOfRange);
        }
        let start = (range.start.0 * 4096) as usize;
        Ok(start..start + (range.count.0 * 4096) as usize)
    }

    fn execute(&mut self, op: Op) -> IoResult {
        let bytes = self.bytes.clone();
        let mut bytes = bytes.lock().unwrap();
        match op {
            Op::Read { range, buf } => {
                let mut buf = buf.ok_or(IoError::NotSupported)?;
                let place = match self.place(range) {
                    Err(_) if self.defect == Defect::ReadsPastTheEnd => {
                        return Ok(Some(Payload::Buf(buf)));
                    }
                    place => place?,
                };
                buf.copy_from_slice(&bytes[place]);
                if self.defect == Defect::ShiftsReads && range.count.0 == 7 {
                    buf.rotate_left(1);
                }
                Ok(Some(Payload::Buf(buf)))
            }
            Op::Write { range, buf, .. } => {
                let place = self.place(range)?;
                self.writes += 1;
                if self.defect != Defect::LosesAWrite || self.writes != 500 {
                    bytes[place].copy_from_slice(&buf);
                }
                Ok(None)
            }
            Op::WriteZeroes { range, .. } => {
                let mut place = self.place(range)?;
                if self.defect == Defect::ZeroesTooMuch {
                    place.end = (place.end + 1).min(bytes.len());
                }
                bytes[place].fill(0);
                Ok(None)
            }
            Op::Discard { range } => self.place(range).and(Err(IoError::NotSupported)),
            Op::Flush => Ok(None),
        }
    }
}

impl Queue for MemoryQueue {
    fn submit(&mut self, _: &mut dyn Host, tag: IoTag, op: Op) -> Submitted {
        let flush = matches!(op, Op::Flush);
        let result = self.execute(op);
        if flush && self.defect == Defect::NeverCompletes {
            return Submitted::Pending;
        }
        if flush && self.defect == Defect::CompletesTwice {
            self.done.push_back((tag, Ok(None)));
        }
        self.done.push_back((tag, result));
        Submitted::Pending
    }

    fn handle_file_done(&mut self, _: &mut dyn Host, _: FileDone) {}

    fn poll_completion(&mut self) -> Option<(IoTag, IoResult)> {
        self.done.pop_front()
    }

    fn set_geometry(&mut self, geometry: Geometry) {
        self.blocks = geometry.blocks;
    }

    fn close(&mut self, _: &mut dyn Host) {}
}

fn complaint(defect: Defect) -> Option<String> {
    let make = || {
        let open = Arc::default();
        let driver: Box<dyn DeviceDriver> = Box::new(Driver { defect, open });
        (driver, "memory:///m".to_owned())
    };
    let run = AssertUnwindSafe(|| run_device(&make, &Options::default()));
    let panic = catch_unwind(run).err()?;
    let text = panic.downcast_ref::<String>().cloned();
    text.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned()))
}

#[test]
fn a_device_that_keeps_its_promises_passes() {
    assert_eq!(complaint(Defect::None), None);
}

#[test]
fn each_defect_is_found_and_named() {
    for (defect, expected) in [
        (Defect::LosesAWrite, "(seed "),
        (Defect::ShiftsReads, "does not read back"),
        (Defect::ZeroesTooMuch, "between"),
        (Defect::CompletesTwice, "twice"),
        (Defect::NeverCompletes, "never complete"),
        (Defect::ReadsPastTheEnd, "on 1024 blocks"),
        (Defect::OpensTwice, "opened twice"),
        (
            Defect::IgnoresParameters,
            "no_such_parameter=1: refused, but as",
        ),
    ] {
        let complaint = complaint(defect).unwrap_or_default();
        assert!(complaint.contains(expected), "{defect:?}: '{complaint}'");
    }
}
