//! Hostile images: metadata changed at will, with every check made right again up to the root.
//!
//! What is asked: refusal or service, never a panic, a write outside a disk, or work without end.

use pool_core::{Blocks, Mutation, Pool, check};
use pool_format::{BLOCK, plain_crc};

use crate::disk::Disk;
use crate::faults::settled_pool;
use crate::model::Model;
use crate::rng::Rng;
use crate::world::World;

const MAGICS: [&[u8; 4]; 6] = [b"CLM1", b"ROT1", b"JRN1", b"NOD1", b"TAB1", b"BMP1"];
/// UUID of the pools of [`crate::world::new_disks`].
const UUID: [u8; 16] = [0xAB; 16];

/// The blocks of some disks, to be changed at will.
pub struct Image {
    /// Blocks by disk.
    pub disks: Vec<Vec<Vec<u8>>>,
}

impl Image {
    /// What is on these disks.
    pub fn new(disks: &[Disk]) -> Self {
        let all = |disk: &Disk| {
            (0..disk.blocks())
                .map(|block| {
                    disk.read(block)
                        .map_or(vec![0; BLOCK], |bytes| bytes.to_vec())
                })
                .collect()
        };
        Self {
            disks: disks.iter().map(all).collect(),
        }
    }

    /// Places of metadata, labels included.
    pub fn places(&self) -> Vec<(usize, usize)> {
        let mut places = Vec::new();
        for (disk, blocks) in self.disks.iter().enumerate() {
            for (block, bytes) in blocks.iter().enumerate() {
                if MAGICS.iter().any(|magic| bytes[4..8] == magic[..]) || &bytes[..8] == b"IOE-POOL"
                {
                    places.push((disk, block));
                }
            }
        }
        places
    }

    /// Makes the check of a block right, and everything that carries it, up to the root.
    pub fn reseal(&mut self, (disk, block): (usize, usize), depth: usize) {
        let bytes = &mut self.disks[disk][block];
        if &bytes[..8] == b"IOE-POOL" {
            let crc = plain_crc(&bytes[12..]);
            bytes[8..12].copy_from_slice(&crc.to_le_bytes());
            return;
        }
        let length = u32::from_le_bytes([bytes[24], bytes[25], bytes[26], bytes[27]]) as usize;
        if !(32..=BLOCK).contains(&length) || depth > 8 {
            return;
        }
        let old = [bytes[0], bytes[1], bytes[2], bytes[3]];
        let seeded = [&UUID[..], &bytes[4..length]].concat();
        let new = plain_crc(&seeded).to_le_bytes();
        bytes[..4].copy_from_slice(&new);
        if old == new {
            return;
        }
        for place in self.places() {
            let bytes = &mut self.disks[place.0][place.1];
            let mut has = false;
            for at in (32..BLOCK).step_by(4) {
                if bytes[at..at + 4] == old {
                    bytes[at..at + 4].copy_from_slice(&new);
                    has = true;
                }
            }
            if has && place != (disk, block) {
                self.reseal(place, depth + 1);
            }
        }
    }

    /// Changes a few bytes of one place of metadata to something a mean mind would choose.
    fn hurt(&mut self, rng: &mut Rng) {
        let places = self.places();
        let place = places[rng.below(places.len() as u64) as usize];
        let bytes = &mut self.disks[place.0][place.1];
        for _ in 0..1 + rng.below(3) {
            let near = if rng.below(2) == 0 { 64 } else { 1024 };
            let at = 4 * rng.below(near) as usize;
            let value: u32 = match rng.below(6) {
                0 => 0,
                1 => u32::MAX,
                2 => 1 << rng.below(32),
                3 => rng.below(70) as u32,
                4 => u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
                    .wrapping_add(1),
                _ => rng.number() as u32,
            };
            bytes[at..at + 4].copy_from_slice(&value.to_le_bytes());
        }
        self.reseal(place, 0);
    }

    /// Puts what was changed on the disks.
    pub fn write_back(&self, disks: &mut [Disk]) {
        for (disk, blocks) in disks.iter_mut().zip(&self.disks) {
            for (block, bytes) in blocks.iter().enumerate() {
                if disk
                    .read(block as u64)
                    .is_none_or(|old| old[..] != bytes[..])
                {
                    disk.replace(block as u64, bytes);
                }
            }
        }
    }
}

impl Blocks for Image {
    fn sizes(&self) -> Vec<u64> {
        self.disks.iter().map(|disk| disk.len() as u64).collect()
    }

    fn block(&mut self, disk: usize, block: u64) -> Option<Vec<u8>> {
        self.disks.get(disk)?.get(block as usize).cloned()
    }
}

/// Opens `count` forged images, and uses those that open. Answers how many were tried.
///
/// # Panics
/// When the pool does: that is what is looked for.
pub fn forge(seed: u64, count: u64) -> u64 {
    let mut rng = Rng::new(seed);
    let (disks, model) = settled_pool(&mut rng, seed.is_multiple_of(2));
    for _ in 0..count {
        let mut image = Image::new(&disks);
        for _ in 0..1 + rng.below(2) {
            image.hurt(&mut rng);
        }
        use_forged(&mut image, &disks, &model, &mut rng);
    }
    count
}

/// Checks a forged image, repairs a copy of it as far as a repair goes, and uses what opens.
///
/// # Panics
/// When the pool does: that is what is looked for.
pub fn use_forged(image: &mut Image, disks: &[Disk], model: &Model, rng: &mut Rng) {
    let mut forged = disks.to_vec();
    image.write_back(&mut forged);
    forged.iter_mut().for_each(|disk| disk.is_lenient = true);
    // Either answer is fine; not coming back is not.
    if let Ok(report) = check(image)
        && !report.is_clean()
    {
        for fix in &report.fixes {
            for (i, bytes) in fix.bytes.chunks(BLOCK).enumerate() {
                let block = fix.block as usize + i;
                image.disks[fix.disk][block] = bytes.to_vec();
            }
        }
        let mut repaired = forged.clone();
        image.write_back(&mut repaired);
        let mut world = World::open(repaired, model.clone(), rng.number(), Mutation::None);
        let sizes: Vec<u64> = world.disks.iter().map(Disk::blocks).collect();
        let (limits, _) = world.setup();
        world.pool = Pool::open_rebuilt(&sizes, limits, report.rebuilt);
        exercise(&mut world, model);
    }
    let mut world = World::open(forged, model.clone(), rng.number(), Mutation::None);
    exercise(&mut world, model);
}

fn exercise(world: &mut World, model: &Model) {
    if world.wait_open().is_err() {
        return;
    }
    let volumes: Vec<u64> = model.volumes.keys().copied().collect();
    for number in &volumes {
        for block in [0, 7, 20] {
            let _ = world.read_block(*number, block);
        }
    }
    world.write(1, 3, 4, true);
    world.unmap(2, 0, 20);
    world.copy(1);
    world.delete(2);
    let _ = world.scrub_all();
    world.ask_seal();
    world.ask_checkpoint();
    for _ in 0..3000 {
        if !world.finish_one() {
            world.pass(400);
        }
        if world.outstanding() == 0 && world.pool.is_idle() {
            break;
        }
    }
}
