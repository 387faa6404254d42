//! One thing wrong on a disk at a time: a flipped bit, an unreadable block, or a write that went elsewhere.
//!
//! What is asked: metadata survives, what is read is right or an error, and no more than the block that was hit is lost.

use pool_core::{Mutation, PoolError};

use crate::disk::Disk;
use crate::model::Model;
use crate::rng::Rng;
use crate::world::{World, new_disks};

/// What injections led to.
#[derive(Clone, Copy, Debug, Default)]
pub struct Injected {
    /// Injections made.
    pub count: u64,
    /// Where a block of a volume was reported as lost.
    pub reported: u64,
    /// Where everything was read as before.
    pub harmless: u64,
}

/// A pool that lived for a while and came to rest: no region is open. With `has_tail`, changes since the last checkpoint are in the journal.
///
/// # Panics
/// When that goes wrong.
pub fn settled_pool(rng: &mut Rng, has_tail: bool) -> (Vec<Disk>, Model) {
    let sizes = if rng.below(2) == 0 {
        vec![1000]
    } else {
        vec![950, 950]
    };
    let mut world = World::open(
        new_disks(&sizes, 4096, 48),
        Model::default(),
        rng.number(),
        Mutation::None,
    );
    world.wait_open().expect("a new pool opens");
    world.create(60);
    world.create(40);
    world.settle();
    for round in 0..30 {
        let volume = 1 + rng.below(2);
        let block = rng.below(35) as usize;
        world.write(volume, block, 1 + rng.below(5) as usize, false);
        world.settle();
        if round == 15 {
            world.copy(1);
            world.settle();
        }
    }
    world.ask_checkpoint();
    world.settle();
    if has_tail {
        for _ in 0..4 {
            world.write(1, rng.below(50) as usize, 3, true);
            world.settle();
        }
    }
    for _ in 0..4 {
        world.ask_seal();
        world.settle();
        world.flush();
        world.settle();
    }
    if !has_tail {
        world.ask_checkpoint();
        world.settle();
    }
    assert_eq!(world.wrong, None, "the pool to be hurt is well");
    (world.disks, world.model)
}

/// As [`settled_pool`], of two disks of which one is being emptied.
///
/// # Panics
/// When that goes wrong.
pub fn leaving_pool(rng: &mut Rng) -> (Vec<Disk>, Model) {
    let (mut disks, mut model) = settled_pool(rng, true);
    while disks.len() < 2 {
        (disks, model) = settled_pool(rng, true);
    }
    let mut world = World::open(disks, model, rng.number(), Mutation::None);
    world.wait_open().expect("a settled pool opens");
    for _ in 0..2 {
        world.evacuate(1);
        world.settle();
    }
    assert_eq!(world.wrong, None, "the pool to be hurt is well");
    (world.disks, world.model)
}

/// Hurts a settled pool `count` times, each time one block of one disk, and reads everything back.
///
/// # Errors
/// A sentence with the seed, when something wrong was returned as data, or more was lost than was hit.
pub fn inject(seed: u64, count: u64) -> Result<Injected, String> {
    let mut rng = Rng::new(seed);
    let (disks, model) = settled_pool(&mut rng, seed.is_multiple_of(2));
    let mut injected = Injected::default();
    for at in 0..count {
        let mut hurt = disks.clone();
        let disk = rng.below(hurt.len() as u64) as usize;
        let block = rng.below(hurt[disk].blocks());
        let how = rng.below(3);
        match how {
            0 => hurt[disk].rot(block, &mut rng),
            1 => hurt[disk].break_block(block),
            _ => {
                let from = rng.below(hurt[disk].blocks());
                hurt[disk].misdirect(from, block);
            }
        }
        injected.count += 1;
        let lost = look(hurt, &model, rng.number()).map_err(|what| {
            format!("seed {seed}, injection {at}: block {block} of disk {disk}, kind {how}: {what}")
        })?;
        if lost > 0 {
            injected.reported += 1;
        } else {
            injected.harmless += 1;
        }
    }
    Ok(injected)
}

/// Opens and reads every block; answers how many were reported as lost.
fn look(disks: Vec<Disk>, model: &Model, seed: u64) -> Result<u64, String> {
    let mut world = World::open(disks, model.clone(), seed, Mutation::None);
    world
        .wait_open()
        .map_err(|error| format!("does not open: {error}"))?;
    let bad = world
        .scrub_all()
        .map_err(|error| format!("a scrub ends with: {error}"))?;
    let mut lost = 0;
    for (number, volume) in &model.volumes {
        let mut here = 0;
        for (block, cell) in volume.cells.iter().enumerate() {
            match world.read_block(*number, block as u64) {
                Ok(value) if cell.allows(&value, 0) => {}
                Ok(value) => {
                    return Err(format!(
                        "block {block} of volume {number} reads {value:?}, not {:?}",
                        cell.entries
                    ));
                }
                Err(PoolError::Medium { .. }) => here += 1,
                Err(error) => {
                    return Err(format!("block {block} of volume {number} reads: {error}"));
                }
            }
        }
        if here > 1 {
            return Err(format!("{here} blocks of volume {number} are lost"));
        }
        lost += here;
    }
    // A block that a volume lost is rot that the scrub has found; one that only a snapshot on its way out used may be more.
    if (lost > 0) != (bad.len() == 1) {
        return Err(format!("{lost} blocks are lost, a scrub finds {bad:?}"));
    }
    Ok(lost)
}

/// Reads everything after a cut with one disk of two lost besides: what may be there, or the name of the lost disk.
///
/// # Errors
/// What else was answered.
pub fn read_without(disks: &[Disk], model: &Model, gone: usize, seed: u64) -> Result<(), String> {
    let left = vec![disks[1 - gone].clone()];
    let mut world = World::open_read_only(left, model.clone(), seed);
    match world.wait_open() {
        Ok(()) => {}
        // A pool that was made of one disk has all its metadata there.
        Err(PoolError::NoPool | PoolError::Damaged(_)) if disks[1].was_added => return Ok(()),
        Err(error) => return Err(format!("does not open: {error}")),
    }
    let found: Vec<(u64, [u8; 16], u64)> = world
        .pool
        .objects()
        .filter(|object| object.state == pool_format::ObjectState::Live)
        .map(|object| (object.id, object.uuid, object.size))
        .collect();
    let numbers: Vec<u64> = world.model.volumes.keys().copied().collect();
    for number in numbers {
        let volume = world.model.volumes[&number].clone();
        let Some((id, _, size)) = found.iter().find(|(_, uuid, _)| *uuid == volume.uuid) else {
            if volume.is_certain && !volume.is_going {
                return Err(format!("volume {number} is lost"));
            }
            continue;
        };
        if let Some(volume) = world.model.volumes.get_mut(&number) {
            volume.id = Some(*id);
        }
        for (block, cell) in volume.cells.iter().enumerate().take(*size as usize) {
            match world.read_block(number, block as u64) {
                Ok(value) if cell.allows(&value, 0) => {}
                Err(PoolError::MissingDisk(disk)) if usize::from(disk) == gone => {}
                Err(PoolError::MapUnreadable) if disks[1].was_added => {}
                other => {
                    return Err(format!("block {block} of volume {number}: {other:?}"));
                }
            }
        }
    }
    Ok(())
}

/// What was read with one disk of two lost.
#[derive(Clone, Copy, Debug, Default)]
pub struct Lost {
    /// Blocks read as before.
    pub right: u64,
    /// Blocks on the lost disk, reported as that.
    pub missing: u64,
}

/// Takes each disk of a pool of two away in turn, and reads everything back from the other.
///
/// # Errors
/// A sentence with the seed, when something else than the right content or the name of the lost disk was answered.
pub fn lose_a_disk(seed: u64) -> Result<Lost, String> {
    let mut rng = Rng::new(seed);
    let (mut disks, mut model) = settled_pool(&mut rng, seed.is_multiple_of(2));
    while disks.len() < 2 {
        (disks, model) = settled_pool(&mut rng, seed.is_multiple_of(2));
    }
    let mut lost = Lost::default();
    for gone in 0..2 {
        let left = vec![disks[1 - gone].clone()];
        let mut refused = World::open(left.clone(), model.clone(), seed, Mutation::None);
        let error = refused.wait_open();
        if error != Err(PoolError::MissingDisk(gone as u16)) {
            return Err(format!("seed {seed}: opens for writing: {error:?}"));
        }
        let mut world = World::open_read_only(left.clone(), model.clone(), seed);
        world
            .wait_open()
            .map_err(|error| format!("seed {seed}, without disk {gone}: {error}"))?;
        for (number, volume) in &model.volumes {
            for (block, cell) in volume.cells.iter().enumerate() {
                match world.read_block(*number, block as u64) {
                    Ok(value) if cell.allows(&value, 0) => lost.right += 1,
                    Err(PoolError::MissingDisk(disk)) if usize::from(disk) == gone => {
                        lost.missing += 1
                    }
                    other => {
                        return Err(format!(
                            "seed {seed}, without disk {gone}: block {block} of volume {number}: {other:?}"
                        ));
                    }
                }
            }
        }
        world.write(1, 0, 1, false);
        if world.refused != 1 {
            return Err(format!("seed {seed}: takes a write with a disk missing"));
        }
        if world.disks[0].volatile() != left[0].volatile() {
            return Err(format!("seed {seed}: wrote with a disk missing"));
        }
    }
    Ok(lost)
}
