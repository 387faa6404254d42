//! What the core costs a processor: operations against devices that answer at once and hold no data, so that next to nothing but the core is timed.
//!
//! Blocks of hosts all have one check, and reads of them give it back; blocks of the core are kept. Calls into the core go through the functions
//! `into_core_*`, which are not inlined: `valgrind --tool=callgrind --toggle-collect='*into_core*'` counts the core alone.

use std::collections::HashMap;
use std::fmt;
use std::rc::Rc;
use std::time::Duration;

use pool_core::{
    CreateDisk, CreatePool, DeviceOp, Done, DoneResult, HostOp, Limits, Mutation, Pool, Request,
    Source, Status, Target, plan_create,
};
use pool_format::{BLOCK, Geometry};

use crate::rng::Rng;

/// Blocks of the disk: 4 GiB.
const DISK_BLOCKS: u64 = 1 << 20;

/// Blocks of the replica.
const SIZE: u64 = 400_000;

/// Blocks of it that are written before anything is timed.
const WRITTEN: u64 = 20_000;

/// The check of every block a host writes.
const CRC: u32 = 0x5EED_CAFE;

/// What can be timed.
pub const OPERATIONS: [&str; 9] = [
    "read",
    "read-hole",
    "read-64",
    "overwrite",
    "overwrite-64",
    "first-write",
    "unmap",
    "flush",
    "snapshot",
];

/// What an operation cost.
#[derive(Clone, Copy, Debug)]
pub struct Cost {
    /// Which.
    pub operation: &'static str,
    /// How often.
    pub count: u64,
    /// Time on a processor, all in all.
    pub took: Duration,
    /// Device requests.
    pub requests: u64,
}

impl fmt::Display for Cost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let each = self.took.as_nanos() as f64 / self.count as f64;
        let requests = self.requests as f64 / self.count as f64;
        write!(
            f,
            "| {} | {each:.0} ns | {requests:.2} requests |",
            self.operation
        )
    }
}

#[inline(never)]
fn into_core_submit(pool: &mut Pool, tag: u64, op: HostOp) {
    pool.submit(tag, op);
}

#[inline(never)]
fn into_core_done(pool: &mut Pool, id: u64, result: DoneResult) {
    pool.handle_done(id, result);
}

#[inline(never)]
fn into_core_request(pool: &mut Pool) -> Option<Request> {
    pool.poll_request()
}

/// Devices that answer at once.
struct Bench {
    pool: Pool,
    blocks: HashMap<u64, Rc<[u8]>>,
    requests: u64,
    next_tag: u64,
}

impl Bench {
    fn new() -> Result<Self, String> {
        let disk = CreateDisk {
            uuid: [1; 16],
            blocks: DISK_BLOCKS,
            atomic_unit: 4096,
        };
        let pool = CreatePool {
            uuid: [0xAB; 16],
            name: "cpu".to_owned(),
            geometry: Geometry::DEFAULT,
            disks: vec![disk],
            created_s: 0,
        };
        let mut blocks = HashMap::new();
        for part in plan_create(&pool).map_err(|error| error.to_string())? {
            for write in part {
                for (i, bytes) in write.bytes.chunks(BLOCK).enumerate() {
                    blocks.insert(write.block + i as u64, bytes.into());
                }
            }
        }
        let limits = Limits {
            discards_max: 0,
            ..Limits::default()
        };
        let mut bench = Self {
            pool: Pool::open(&[DISK_BLOCKS], limits, Mutation::None),
            blocks,
            requests: 0,
            next_tag: 1,
        };
        bench.serve();
        if bench.pool.status() != Status::Ready {
            return Err(format!("{:?}", bench.pool.status()));
        }
        bench.all([HostOp::Create {
            uuid: [7; 16],
            name: "bench".to_owned(),
            size: SIZE,
            is_thick: false,
            block_shift: 12,
        }])?;
        for block in (0..WRITTEN).step_by(50) {
            bench.all([write(block, 50)])?;
        }
        bench.rest()?;
        Ok(bench)
    }

    /// Everything settled and in trees.
    fn rest(&mut self) -> Result<(), String> {
        for _ in 0..3 {
            self.all([HostOp::Flush])?;
        }
        self.all([HostOp::Checkpoint])
    }

    fn answer(&mut self, request: &Request) -> DoneResult {
        match &request.op {
            DeviceOp::Read {
                block,
                count,
                target: Target::Core,
            } => {
                let mut bytes = Vec::with_capacity(*count as usize * BLOCK);
                for block in *block..*block + u64::from(*count) {
                    match self.blocks.get(&block) {
                        Some(found) => bytes.extend_from_slice(found),
                        None => bytes.resize(bytes.len() + BLOCK, 0),
                    }
                }
                Ok(Done::Bytes(bytes))
            }
            DeviceOp::Read { count, .. } => Ok(Done::Crcs(vec![CRC; *count as usize])),
            DeviceOp::Write {
                block,
                source: Source::Core(bytes),
            } => {
                for (i, bytes) in bytes.chunks(BLOCK).enumerate() {
                    self.blocks.insert(*block + i as u64, bytes.into());
                }
                Ok(Done::Nothing)
            }
            DeviceOp::Write { .. } | DeviceOp::Discard { .. } | DeviceOp::Flush => {
                Ok(Done::Nothing)
            }
        }
    }

    fn serve(&mut self) {
        while let Some(request) = into_core_request(&mut self.pool) {
            self.requests += 1;
            let result = self.answer(&request);
            into_core_done(&mut self.pool, request.id, result);
        }
    }

    /// Runs operations together until all are answered.
    ///
    /// # Errors
    /// The first that fails.
    fn all(&mut self, operations: impl IntoIterator<Item = HostOp>) -> Result<(), String> {
        let mut left = 0;
        for operation in operations {
            into_core_submit(&mut self.pool, self.next_tag, operation);
            self.next_tag += 1;
            left += 1;
        }
        while left > 0 {
            self.serve();
            let before = left;
            while let Some((_, result)) = self.pool.poll_answer() {
                result.map_err(|error| error.to_string())?;
                left -= 1;
            }
            if left == before {
                return Err("never answered".to_owned());
            }
        }
        Ok(())
    }
}

/// Time this thread has had a processor: a neighbour's time does not count.
fn on_cpu() -> Duration {
    let said = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap_or_default();
    let nanos = said
        .split_whitespace()
        .next()
        .and_then(|word| word.parse().ok());
    Duration::from_nanos(nanos.unwrap_or(0))
}

fn write(block: u64, count: usize) -> HostOp {
    HostOp::Write {
        object: 1,
        block,
        crcs: vec![CRC; count],
        fua: false,
    }
}

fn read(block: u64, count: u32) -> HostOp {
    HostOp::Read {
        object: 1,
        block,
        count,
    }
}

/// Times `count` of one of [`OPERATIONS`], 32 together where they are a host's, on blocks of a run in which nothing else goes on.
///
/// # Errors
/// What failed; a name that is none of them.
pub fn time(operation: &str, count: u64) -> Result<Cost, String> {
    let known = OPERATIONS.into_iter().find(|known| *known == operation);
    let operation = known.ok_or(format!("{operation} is none of {OPERATIONS:?}"))?;
    let mut bench = Bench::new()?;
    let mut rng = Rng::new(1);
    // Regions open, pages and nodes in memory.
    for block in (0..WRITTEN).step_by(100) {
        bench.all([write(block, 1)])?;
        bench.all([read(block, 1)])?;
    }
    bench.rest()?;
    let mut next = WRITTEN;
    let mut one = |i: u64| match operation {
        "read" => read(rng.below(WRITTEN), 1),
        "read-hole" => read(WRITTEN + rng.below(SIZE - WRITTEN), 1),
        "read-64" => read(rng.below(WRITTEN - 64), 64),
        "overwrite" => write(rng.below(WRITTEN), 1),
        "overwrite-64" => write(rng.below((WRITTEN - 64) / 64) * 64, 64),
        "first-write" => {
            next += 1 + rng.below(3);
            write(next, 1)
        }
        "unmap" => HostOp::Unmap {
            object: 1,
            block: i % WRITTEN,
            count: 1,
        },
        "flush" => HostOp::Flush,
        _ => HostOp::Snapshot {
            object: 1,
            uuid: [(i % 251) as u8; 16],
            name: format!("s{i}"),
        },
    };
    let together = match operation {
        "flush" | "snapshot" => 1,
        _ => 32,
    };
    let before = bench.requests;
    let begun = on_cpu();
    let mut at = 0;
    while at < count {
        let end = (at + together).min(count);
        let batch: Vec<HostOp> = (at..end).map(&mut one).collect();
        bench.all(batch)?;
        at = end;
    }
    Ok(Cost {
        operation,
        count,
        took: on_cpu().saturating_sub(begun),
        requests: bench.requests - before,
    })
}
