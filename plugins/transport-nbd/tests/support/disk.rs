//! The engine's part: a RAM disk of `device-mem`, what of it was written, and faults on order.

use std::collections::VecDeque;

use conformance::services::TestServices;
use sdk::block::{Device, Extent, Geometry, IoError, IoResult, IoTag, Op, Queue, Submitted};
use sdk::export::{Volume, VolumeId};
use sdk::host::{Host, OwnerId};
use sdk::services::Services;
use units::{BlockRange, Blocks};

/// Bytes of the pieces in which holes are known.
const PIECE: u64 = 4096;

/// See the module documentation.
pub(crate) struct Disk {
    pub(crate) volume: Volume,
    device: Box<dyn Device>,
    queue: Option<Box<dyn Queue>>,
    /// Whether each piece was written and not given back since.
    written: Vec<bool>,
    /// Fails the next operations that are not flushes, in order.
    pub(crate) faults: VecDeque<IoError>,
    /// Keeps operations instead of doing them.
    pub(crate) holds: bool,
    held: Vec<(u64, Op)>,
    /// Operations seen, by name.
    pub(crate) seen: Vec<(&'static str, u64)>,
    /// Whether every operation is noted in `seen`.
    pub(crate) notes: bool,
}

/// What a disk is to be.
#[derive(Clone, Debug)]
pub(crate) struct DiskSpec {
    pub(crate) id: u64,
    pub(crate) name: &'static str,
    pub(crate) mib: u64,
    pub(crate) block_size: u32,
    pub(crate) read_only: bool,
    /// Whether reads are lent or copied into buffers.
    pub(crate) lends: bool,
    /// Seat it lives on.
    pub(crate) home: usize,
}

impl Default for DiskSpec {
    fn default() -> Self {
        Self {
            id: 1,
            name: "disk",
            mib: 64,
            block_size: 512,
            read_only: false,
            lends: true,
            home: 0,
        }
    }
}

impl Disk {
    pub(crate) fn new(spec: &DiskSpec) -> Self {
        let services = TestServices::new(device_mem::drivers());
        let uri = format!(
            "malloc:///{}?size_mb={}&blk_size={}",
            spec.name, spec.mib, spec.block_size
        );
        let device = services.open_device(&uri).expect("a RAM disk");
        let mut capabilities = device.capabilities();
        capabilities.lends_reads = spec.lends;
        capabilities.direct = Some(false);
        let geometry = device.geometry();
        Self {
            volume: Volume {
                id: VolumeId(spec.id),
                name: spec.name.to_owned(),
                description: format!("{} MiB of RAM", spec.mib),
                geometry,
                capabilities,
                read_only: spec.read_only,
                is_here: true,
            },
            device,
            queue: None,
            written: vec![false; (geometry.bytes() / PIECE) as usize],
            faults: VecDeque::new(),
            holds: false,
            held: Vec::new(),
            seen: Vec::new(),
            notes: true,
        }
    }

    /// Does `op`, or keeps or fails it as ordered.
    pub(crate) fn submit(&mut self, host: &mut dyn Host, token: u64, op: Op) -> Option<IoResult> {
        self.note(&op);
        if self.holds {
            self.held.push((token, op));
            return None;
        }
        if !matches!(op, Op::Flush)
            && let Some(error) = self.faults.pop_front()
        {
            return Some(Err(error));
        }
        assert!(
            !self.volume.read_only || matches!(op, Op::Read { .. } | Op::Flush),
            "{op:?} on a read-only volume"
        );
        self.mark(&op);
        Some(self.execute(host, op))
    }

    fn execute(&mut self, host: &mut dyn Host, op: Op) -> IoResult {
        let device = &mut self.device;
        let queue = self.queue.get_or_insert_with(|| {
            let seed = device.open_queue().expect("a queue");
            seed.open(host, OwnerId(1)).expect("a queue")
        });
        match queue.submit(host, IoTag(0), op) {
            Submitted::Done(result) => result,
            Submitted::Pending => panic!("a RAM disk answers at once"),
        }
    }

    /// Does what was kept, newest first.
    pub(crate) fn release(&mut self, host: &mut dyn Host) -> Vec<(u64, IoResult)> {
        self.holds = false;
        let mut done = Vec::new();
        while let Some((token, op)) = self.held.pop() {
            self.mark(&op);
            done.push((token, self.execute(host, op)));
        }
        done
    }

    pub(crate) fn held(&self) -> usize {
        self.held.len()
    }

    fn note(&mut self, op: &Op) {
        let (name, blocks) = match op {
            Op::Read { range, .. } => ("read", range.count.0),
            Op::Write {
                range, fua: false, ..
            } => ("write", range.count.0),
            Op::Write {
                range, fua: true, ..
            } => ("write fua", range.count.0),
            Op::WriteZeroes {
                range,
                deallocate: true,
                ..
            } => ("zero", range.count.0),
            Op::WriteZeroes { range, .. } => ("zero kept", range.count.0),
            Op::Discard { range } => ("discard", range.count.0),
            Op::Flush => ("flush", 0),
        };
        if self.notes {
            self.seen.push((name, blocks));
        }
    }

    fn mark(&mut self, op: &Op) {
        let (range, written) = match op {
            Op::Write { range, .. } => (*range, true),
            Op::WriteZeroes {
                range, deallocate, ..
            } => (*range, !deallocate),
            Op::Discard { range } => (*range, false),
            Op::Read { .. } | Op::Flush => return,
        };
        let shift = self.volume.geometry.block_size.shift();
        let (start, end) = (range.start.0 << shift, range.end().unwrap().0 << shift);
        let pieces = if written {
            start / PIECE..end.div_ceil(PIECE)
        } else {
            start.div_ceil(PIECE)..end / PIECE
        };
        for piece in pieces {
            self.written[piece as usize] = written;
        }
    }

    pub(crate) fn extents(&self, range: BlockRange) -> Vec<Extent> {
        let shift = self.volume.geometry.block_size.shift();
        let mut extents: Vec<Extent> = Vec::new();
        for block in range.start.0..range.end().unwrap().0 {
            let allocated = self.written[((block << shift) / PIECE) as usize];
            match extents.last_mut() {
                Some(last) if last.allocated == allocated => last.blocks.0 += 1,
                _ => extents.push(Extent {
                    blocks: Blocks(1),
                    allocated,
                    zero: !allocated,
                }),
            }
        }
        extents
    }

    /// Makes the disk this many MiB large.
    pub(crate) fn resize(&mut self, mib: u64) -> Geometry {
        let size = self.volume.geometry.block_size;
        let blocks = Blocks::from_bytes_floor(mib << 20, size);
        let geometry = self.device.resize(Some(blocks)).expect("resizable");
        if let Some(queue) = &mut self.queue {
            queue.set_geometry(geometry);
        }
        self.written
            .resize((geometry.bytes() / PIECE) as usize, false);
        self.volume.geometry = geometry;
        geometry
    }
}
