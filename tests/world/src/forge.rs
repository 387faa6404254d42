//! Hostile images: metadata changed at will, with every check made right again up to the root.
//!
//! What is asked: refusal or service, never a panic, a write outside a disk, or work without end.

use std::collections::BTreeMap;
use std::rc::Rc;

use pool_core::{Mutation, Pool, check};
use pool_format::{BLOCK, plain_crc};

use crate::disk::Disk;
use crate::faults::settled_pool;
use crate::model::Model;
use crate::rng::Rng;
use crate::world::{Reader, World};

const MAGICS: [&[u8; 4]; 6] = [b"CLM1", b"ROT1", b"JRN1", b"NOD1", b"TAB1", b"BMP1"];
/// UUID of the pools of [`crate::world::new_disks`].
const UUID: [u8; 16] = [0xAB; 16];

/// A block of a disk.
pub type Place = (usize, u64);

/// Where metadata lies, and who carries whose check: found once, because a change moves neither.
#[derive(Debug)]
struct Index {
    places: Vec<Place>,
    /// For each place, where its check stands: place and byte.
    carriers: BTreeMap<Place, Vec<(Place, usize)>>,
}

impl Index {
    fn new(disks: &[Disk]) -> Self {
        let mut places = Vec::new();
        let mut checks: BTreeMap<[u8; 4], Vec<Place>> = BTreeMap::new();
        for (disk, blocks) in disks.iter().enumerate() {
            for block in 0..blocks.blocks() {
                let bytes = read(disks, (disk, block));
                let is_label = &bytes[..8] == b"IOE-POOL";
                if MAGICS.iter().any(|magic| bytes[4..8] == magic[..]) || is_label {
                    places.push((disk, block));
                    if !is_label {
                        checks
                            .entry(word(&bytes, 0))
                            .or_default()
                            .push((disk, block));
                    }
                }
            }
        }
        let mut carriers: BTreeMap<Place, Vec<(Place, usize)>> = BTreeMap::new();
        for place in &places {
            let bytes = read(disks, *place);
            for at in (32..BLOCK).step_by(4) {
                for carried in checks.get(&word(&bytes, at)).into_iter().flatten() {
                    if carried != place {
                        carriers.entry(*carried).or_default().push((*place, at));
                    }
                }
            }
        }
        Self { places, carriers }
    }
}

fn read(disks: &[Disk], (disk, block): Place) -> Rc<[u8]> {
    let bytes = disks[disk].read(block);
    bytes.unwrap_or_else(|| vec![0; BLOCK].into())
}

fn word(bytes: &[u8], at: usize) -> [u8; 4] {
    [bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]]
}

/// Disks to be changed at will; a copy shares what is not changed.
#[derive(Clone)]
pub struct Image {
    /// The disks.
    pub disks: Vec<Disk>,
    index: Rc<Index>,
}

impl Image {
    /// What is on these disks.
    pub fn new(disks: &[Disk]) -> Self {
        let mut disks = disks.to_vec();
        disks.iter_mut().for_each(|disk| disk.is_lenient = true);
        let index = Rc::new(Index::new(&disks));
        Self { disks, index }
    }

    /// Places of metadata, labels included.
    pub fn places(&self) -> &[Place] {
        &self.index.places
    }

    /// What a block holds.
    pub fn block(&self, place: Place) -> Rc<[u8]> {
        read(&self.disks, place)
    }

    /// Changes four bytes of a block, and no check.
    pub fn set(&mut self, place: Place, at: usize, value: [u8; 4]) {
        let mut bytes = read(&self.disks, place).to_vec();
        bytes[at..at + 4].copy_from_slice(&value);
        self.disks[place.0].replace(place.1, &bytes);
    }

    /// Makes the check of a block right, and everything that carries it, up to the root.
    pub fn reseal(&mut self, place: Place, depth: usize) {
        let bytes = read(&self.disks, place);
        if &bytes[..8] == b"IOE-POOL" {
            return self.set(place, 8, plain_crc(&bytes[12..]).to_le_bytes());
        }
        let length = u32::from_le_bytes(word(&bytes, 24)) as usize;
        if !(32..=BLOCK).contains(&length) || depth > 8 {
            return;
        }
        let seeded = [&UUID[..], &bytes[4..length]].concat();
        let new = plain_crc(&seeded).to_le_bytes();
        if word(&bytes, 0) == new {
            return;
        }
        self.set(place, 0, new);
        let index = Rc::clone(&self.index);
        for (carrier, at) in index.carriers.get(&place).into_iter().flatten() {
            self.set(*carrier, *at, new);
            self.reseal(*carrier, depth + 1);
        }
    }

    /// Changes a few bytes of one place of metadata to something a mean mind would choose.
    fn hurt(&mut self, rng: &mut Rng) {
        let place = self.places()[rng.below(self.places().len() as u64) as usize];
        for _ in 0..1 + rng.below(3) {
            let near = if rng.below(2) == 0 { 64 } else { 1024 };
            let at = 4 * rng.below(near) as usize;
            let old = u32::from_le_bytes(word(&read(&self.disks, place), at));
            let value: u32 = match rng.below(6) {
                0 => 0,
                1 => u32::MAX,
                2 => 1 << rng.below(32),
                3 => rng.below(70) as u32,
                4 => old.wrapping_add(1),
                _ => rng.number() as u32,
            };
            self.set(place, at, value.to_le_bytes());
        }
        self.reseal(place, 0);
    }
}

/// Opens `count` forged images, and uses those that open. Answers how many were tried.
///
/// # Panics
/// When the pool does: that is what is looked for.
pub fn forge(seed: u64, count: u64) -> u64 {
    let mut rng = Rng::new(seed);
    let (disks, model) = settled_pool(&mut rng, seed.is_multiple_of(2));
    let whole = Image::new(&disks);
    for _ in 0..count {
        let mut image = whole.clone();
        for _ in 0..1 + rng.below(2) {
            image.hurt(&mut rng);
        }
        use_forged(&image, &model, &mut rng);
    }
    count
}

/// Checks a forged image, repairs a copy of it as far as a repair goes, and uses what opens.
///
/// # Panics
/// When the pool does: that is what is looked for.
pub fn use_forged(image: &Image, model: &Model, rng: &mut Rng) {
    // Either answer is fine; not coming back is not.
    if let Ok(report) = check(&mut Reader(&image.disks))
        && !report.is_clean()
    {
        let mut repaired = image.disks.clone();
        for fix in &report.fixes {
            for (i, bytes) in fix.bytes.chunks(BLOCK).enumerate() {
                let block = fix.block + i as u64;
                assert!(block < repaired[fix.disk].blocks(), "a fix outside a disk");
                repaired[fix.disk].replace(block, bytes);
            }
        }
        let mut world = World::open(repaired, model.clone(), rng.number(), Mutation::None);
        let sizes: Vec<u64> = world.disks.iter().map(Disk::blocks).collect();
        let (limits, _) = world.setup();
        world.pool = Pool::open_rebuilt(&sizes, limits, report.rebuilt);
        exercise(&mut world, model);
    }
    let disks = image.disks.clone();
    let mut world = World::open(disks, model.clone(), rng.number(), Mutation::None);
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
    world.evacuate(0);
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
