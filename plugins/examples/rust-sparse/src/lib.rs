//! A block device in Rust against the SDK alone: `sparse:///name?size_mb=N` is memory that is taken where something other
//! than zeroes is written.
//!
//! The three objects of every device: a driver that opens by URI, a device on the control path, a queue on a reactor.

#![forbid(unsafe_code)]

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};

use sdk::block::{
    Capabilities, Device, DeviceDriver, Extent, Geometry, IoError, IoResult, IoTag, Op, OpenError,
    Queue, QueueSeed, Submitted, Support,
};
use sdk::buf::Payload;
use sdk::host::{FileDone, Host, OwnerId};
use sdk::plugin::Plugin;
use sdk::units::{BlockRange, BlockSize, Blocks};
use sdk::uri::DeviceUri;

/// This plugin.
const PLUGIN: Plugin = Plugin {
    serves: "sparse",
    devices: Some(drivers),
    ..Plugin::new(
        "example-rust-sparse",
        env!("CARGO_PKG_VERSION"),
        "io-engine examples",
    )
};

// The one line that makes it loadable.
sdk::export_plugin!(PLUGIN);

const BLOCK: usize = 4096;

fn drivers() -> Vec<Box<dyn DeviceDriver>> {
    vec![Box::new(Driver::default())]
}

/// Names that are open, so that nothing is opened twice.
type Names = Arc<Mutex<BTreeSet<String>>>;

#[derive(Default)]
struct Driver {
    names: Names,
}

impl DeviceDriver for Driver {
    fn schemes(&self) -> &'static [&'static str] {
        &["sparse"]
    }

    fn open(&self, mut uri: DeviceUri) -> Result<Box<dyn Device>, OpenError> {
        let what = uri.text().to_owned();
        let unsuitable = |reason: &str| OpenError::Unsuitable {
            what: what.clone(),
            reason: reason.to_owned(),
        };
        let name = uri.path().trim_start_matches('/').to_owned();
        if name.is_empty() || !uri.authority().is_empty() {
            return Err(unsuitable("needs a name: sparse:///name?size_mb=64"));
        }
        let size_mb = uri.take_number("size_mb")?;
        let blocks = match size_mb {
            Some(size_mb @ 1..=1_048_576) => Blocks((size_mb << 20) / BLOCK as u64),
            _ => return Err(unsuitable("needs size_mb, from 1 to 1048576")),
        };
        // A parameter nobody took is refused by name.
        uri.finish()?;
        let mut names = self.names.lock().unwrap_or_else(PoisonError::into_inner);
        if !names.insert(name.clone()) {
            return Err(OpenError::InUse {
                what: name,
                holder: format!("this process (pid {})", std::process::id()),
            });
        }
        Ok(Box::new(Sparse {
            names: self.names.clone(),
            name,
            blocks,
            parked: Arc::default(),
        }))
    }
}

/// What was written, by block; absent blocks are zero.
type Contents = BTreeMap<u64, Box<[u8]>>;

struct Sparse {
    names: Names,
    name: String,
    blocks: Blocks,
    /// The contents while no queue has them.
    parked: Arc<Mutex<Contents>>,
}

impl Drop for Sparse {
    fn drop(&mut self) {
        let mut names = self.names.lock().unwrap_or_else(PoisonError::into_inner);
        names.remove(&self.name);
    }
}

impl Device for Sparse {
    fn name(&self) -> &str {
        &self.name
    }

    fn product_name(&self) -> &'static str {
        "Sparse memory"
    }

    fn geometry(&self) -> Geometry {
        Geometry {
            block_size: BlockSize::B4096,
            blocks: self.blocks,
        }
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities {
            write_zeroes: Support::Native,
            discard: Support::Native,
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
        Ok(Box::new(Seed {
            parked: self.parked.clone(),
            blocks: self.blocks,
        }))
    }

    fn resize(&mut self, blocks: Option<Blocks>) -> Result<Geometry, OpenError> {
        match blocks {
            None => Ok(self.geometry()),
            Some(_) => Err(OpenError::Unsuitable {
                what: self.name.clone(),
                reason: "it cannot change its size".to_owned(),
            }),
        }
    }
}

struct Seed {
    parked: Arc<Mutex<Contents>>,
    blocks: Blocks,
}

impl QueueSeed for Seed {
    fn open(self: Box<Self>, _: &mut dyn Host, _: OwnerId) -> Result<Box<dyn Queue>, IoError> {
        let contents = {
            let mut parked = self.parked.lock().unwrap_or_else(PoisonError::into_inner);
            std::mem::take(&mut *parked)
        };
        Ok(Box::new(SparseQueue {
            contents,
            parked: self.parked,
            blocks: self.blocks,
        }))
    }
}

struct SparseQueue {
    contents: Contents,
    parked: Arc<Mutex<Contents>>,
    blocks: Blocks,
}

impl SparseQueue {
    fn write(&mut self, range: BlockRange, bytes: &[u8]) {
        for (at, block) in bytes.chunks_exact(BLOCK).enumerate() {
            let number = range.start.0 + at as u64;
            if block.iter().all(|byte| *byte == 0) {
                self.contents.remove(&number);
            } else {
                self.contents.insert(number, block.into());
            }
        }
    }

    fn read(&self, range: BlockRange, bytes: &mut [u8]) {
        for (at, block) in bytes.chunks_exact_mut(BLOCK).enumerate() {
            match self.contents.get(&(range.start.0 + at as u64)) {
                Some(written) => block.copy_from_slice(written),
                None => block.fill(0),
            }
        }
    }

    fn forget(&mut self, range: BlockRange) {
        let end = range.start.0 + range.count.0;
        let numbers: Vec<u64> = self
            .contents
            .range(range.start.0..end)
            .map(|(at, _)| *at)
            .collect();
        for number in numbers {
            self.contents.remove(&number);
        }
    }

    fn execute(&mut self, op: Op) -> IoResult {
        let check = |range: BlockRange| {
            let is_within = range.is_within(self.blocks);
            is_within.then_some(()).ok_or(IoError::OutOfRange)
        };
        match op {
            Op::Read {
                range,
                buf: Some(mut buf),
            } => {
                check(range)?;
                self.read(range, &mut buf);
                Ok(Some(Payload::Buf(buf)))
            }
            // It does not lend, so nobody reads without a buffer.
            Op::Read { buf: None, .. } => Err(IoError::NotSupported),
            Op::Write { range, buf, .. } => {
                check(range)?;
                self.write(range, &buf);
                Ok(None)
            }
            Op::WriteZeroes { range, .. } | Op::Discard { range } => {
                check(range)?;
                self.forget(range);
                Ok(None)
            }
            Op::Flush => Ok(None),
        }
    }
}

impl Queue for SparseQueue {
    fn submit(&mut self, _: &mut dyn Host, _: IoTag, op: Op) -> Submitted {
        Submitted::Done(self.execute(op))
    }

    fn handle_file_done(&mut self, _: &mut dyn Host, _: FileDone) {}

    fn poll_completion(&mut self) -> Option<(IoTag, IoResult)> {
        None
    }

    fn extents(&mut self, range: BlockRange) -> Option<Vec<Extent>> {
        let written = self.contents.contains_key(&range.start.0);
        let end = range.start.0 + range.count.0;
        let run = (range.start.0..end)
            .take_while(|number| self.contents.contains_key(number) == written)
            .count();
        Some(vec![Extent {
            blocks: Blocks(run as u64),
            allocated: written,
            zero: !written,
        }])
    }

    fn set_geometry(&mut self, geometry: Geometry) {
        self.blocks = geometry.blocks;
    }

    fn close(&mut self, _: &mut dyn Host) {}
}

impl Drop for SparseQueue {
    fn drop(&mut self) {
        let mut parked = self.parked.lock().unwrap_or_else(PoisonError::into_inner);
        *parked = std::mem::take(&mut self.contents);
    }
}
