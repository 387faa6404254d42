//! A pool of the size people have, on sparse disks: how many requests and how much memory opening it takes.

use std::fmt;
use std::time::{Duration, Instant};

use pool_core::{CreateDisk, CreatePool, Limits, Mutation, plan_create};
use pool_format::Geometry;

use crate::disk::Disk;
use crate::model::Model;
use crate::world::World;

/// Blocks of each of the two disks: 8 TiB.
const DISK_BLOCKS: u64 = 2 << 30;

/// UUID of the pool.
pub(crate) const UUID: pool_format::Uuid = [0xAB; 16];

/// What opening took.
#[derive(Clone, Copy, Debug)]
pub struct Opened {
    /// Replicas and snapshots.
    pub objects: u64,
    /// Device requests, reads and writes.
    pub requests: u64,
    /// Time the core took, with the simulated disks.
    pub took: Duration,
    /// Memory the process had before it opened the pool, and at most until it was open.
    pub resident_kib: (u64, u64),
}

impl fmt::Display for Opened {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} objects on 16 TiB: opened with {} requests in {:?}, {} MiB resident before, {} MiB at most",
            self.objects,
            self.requests,
            self.took,
            self.resident_kib.0 / 1024,
            self.resident_kib.1 / 1024
        )
    }
}

pub(crate) fn resident_kib(field: &str) -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find(|line| line.starts_with(field));
    let word = line.and_then(|line| line.split_whitespace().nth(1));
    word.and_then(|word| word.parse().ok()).unwrap_or(0)
}

/// Makes a pool of 16 TiB with so many replicas and snapshots of each, cuts the power, and opens it.
///
/// # Errors
/// What went wrong.
pub fn open_big(replicas: u64, snapshots: u64) -> Result<Opened, String> {
    let disks = make()?;
    let limits = Limits::default();
    let mut world = World::open_with(disks, Model::default(), 1, Mutation::None, limits);
    world.wait_open().map_err(|error| error.to_string())?;
    for replica in 0..replicas {
        world.create(200);
        world.settle();
        let volume = replica * (snapshots + 1) + 1;
        for snapshot in 0..snapshots {
            world.write(volume, (snapshot * 7) as usize, 3, false);
            world.copy(volume);
        }
        world.settle();
        // What the model remembers of the content is of no interest here.
        for volume in world.model.volumes.values_mut() {
            volume.cells = Vec::new();
        }
        if let Some(wrong) = world.wrong {
            return Err(wrong);
        }
    }
    let disks = world.cut(&mut |_, _| crate::disk::Keep::All);
    drop(world);
    // The peak counts from here on.
    std::fs::write("/proc/self/clear_refs", "5").map_err(|error| error.to_string())?;
    let before = resident_kib("VmRSS");
    let begun = Instant::now();
    let mut world = World::open_with(disks, Model::default(), 2, Mutation::None, limits);
    world.wait_open().map_err(|error| error.to_string())?;
    Ok(Opened {
        objects: world.pool.objects().count() as u64,
        requests: world.finished(),
        took: begun.elapsed(),
        resident_kib: (before, resident_kib("VmHWM")),
    })
}

pub(crate) fn make() -> Result<Vec<Disk>, String> {
    let mut disks = vec![Disk::new(DISK_BLOCKS, 4096), Disk::new(DISK_BLOCKS, 4096)];
    let member = |index: u8| CreateDisk {
        uuid: [index; 16],
        blocks: DISK_BLOCKS,
        atomic_unit: 4096,
    };
    let pool = CreatePool {
        uuid: UUID,
        name: "big".to_owned(),
        geometry: Geometry::DEFAULT,
        disks: vec![member(1), member(2)],
        created_s: 0,
    };
    for part in plan_create(&pool).map_err(|error| error.to_string())? {
        for write in part {
            let ids = disks[write.disk].submit(write.block, &write.bytes);
            disks[write.disk].complete(&ids);
        }
        for disk in &mut disks {
            let covered = disk.flush_begins();
            disk.flush_ends(&covered);
        }
    }
    Ok(disks)
}
