//! Random operations against the plainest model there is: what each block last held, or that it may hold anything.

use std::collections::BTreeMap;

use sdk::block::{IoError, IoResult, Op};
use units::BlockRange;

use crate::device::pattern;
use crate::random::Random;
use crate::rig::Rig;

const OPERATIONS: usize = 4000;
const DEPTH: usize = 16;
const AREA_BYTES: u64 = 2 << 20;
const BLOCKS_MAX: u64 = 48;

/// What an operation in flight will mean once it is complete.
enum Effect {
    Reads,
    Writes(Vec<u8>),
    Zeroes,
    Discards,
    Nothing,
}

struct Model {
    block_bytes: usize,
    /// `None`: discarded or never written, may read as anything.
    blocks: Vec<Option<Vec<u8>>>,
    in_flight: BTreeMap<u64, (BlockRange, Effect)>,
    seed: u64,
}

/// Operations on disjoint ranges in flight together, compared with the model as they complete.
pub(crate) fn random_operations_match_the_model(mut rig: Rig, seed: u64) {
    let mut random = Random::new(seed);
    let area = AREA_BYTES >> rig.geometry.block_size.shift();
    let mut model = Model {
        block_bytes: rig.bytes(1),
        blocks: vec![None; area as usize],
        in_flight: BTreeMap::new(),
        seed,
    };
    for _ in 0..OPERATIONS {
        let count = 1 + random.below(BLOCKS_MAX);
        let range = BlockRange::new(random.below(area - count), count);
        while model.in_flight.len() >= DEPTH || model.is_in_flight(range) {
            let (tag, result) = rig.wait();
            model.complete(tag, result);
        }
        let (op, effect) = draw(&mut random, &mut rig, range);
        match rig.start(op) {
            Ok(result) => model.apply(range, effect, result),
            Err(tag) => {
                model.in_flight.insert(tag, (range, effect));
            }
        }
    }
    while !model.in_flight.is_empty() {
        let (tag, result) = rig.wait();
        model.complete(tag, result);
    }
    let whole = rig.read(BlockRange::new(0, area));
    model.compare(BlockRange::new(0, area), &whole);
    rig.finish();
}

fn draw(random: &mut Random, rig: &mut Rig, range: BlockRange) -> (Op, Effect) {
    let len = rig.bytes(range.count.0);
    match random.below(16) {
        0..=6 => {
            let bytes = pattern(random.bits(), len);
            let buf = rig.buf(&bytes);
            let fua = random.below(8) == 0;
            (Op::Write { range, buf, fua }, Effect::Writes(bytes))
        }
        7..=11 => {
            let lent = rig.capabilities.lends_reads && random.below(2) == 0;
            let buf = (!lent).then(|| rig.blank(len));
            (Op::Read { range, buf }, Effect::Reads)
        }
        12 | 13 => {
            let deallocate = random.below(2) == 0;
            let fua = random.below(4) == 0;
            let op = Op::WriteZeroes {
                range,
                deallocate,
                fua,
            };
            (op, Effect::Zeroes)
        }
        14 => (Op::Discard { range }, Effect::Discards),
        _ => (Op::Flush, Effect::Nothing),
    }
}

impl Model {
    fn is_in_flight(&self, range: BlockRange) -> bool {
        let mut ranges = self.in_flight.values().map(|(range, _)| *range);
        ranges.any(|other| other.overlaps(range))
    }

    fn complete(&mut self, tag: u64, result: IoResult) {
        let (range, effect) = self.in_flight.remove(&tag).expect("an operation in flight");
        self.apply(range, effect, result);
    }

    fn apply(&mut self, range: BlockRange, effect: Effect, result: IoResult) {
        let seed = self.seed;
        let payload = match (result, &effect) {
            (Ok(payload), _) => payload,
            (Err(IoError::NotSupported), Effect::Zeroes | Effect::Discards) => return,
            (Err(error), _) => panic!("{range}: {error} (seed {seed})"),
        };
        match effect {
            Effect::Reads => {
                let payload = payload.expect("a read gives data");
                let bytes: Vec<u8> = payload.pieces().flatten().copied().collect();
                self.compare(range, &bytes);
            }
            Effect::Writes(bytes) => {
                let blocks = bytes.chunks(self.block_bytes);
                for (block, bytes) in self.blocks_of(range).zip(blocks) {
                    *block = Some(bytes.to_vec());
                }
            }
            Effect::Zeroes => {
                let zeroes = vec![0; self.block_bytes];
                self.blocks_of(range)
                    .for_each(|block| *block = Some(zeroes.clone()));
            }
            Effect::Discards => self.blocks_of(range).for_each(|block| *block = None),
            Effect::Nothing => {}
        }
    }

    fn blocks_of(&mut self, range: BlockRange) -> impl Iterator<Item = &mut Option<Vec<u8>>> {
        let start = range.start.0 as usize;
        self.blocks[start..start + range.count.0 as usize].iter_mut()
    }

    fn compare(&mut self, range: BlockRange, bytes: &[u8]) {
        let (seed, block_bytes) = (self.seed, self.block_bytes);
        assert_eq!(bytes.len(), range.count.0 as usize * block_bytes);
        let first = range.start.0;
        let read = bytes.chunks(block_bytes);
        for (number, (block, read)) in self.blocks_of(range).zip(read).enumerate() {
            let same = block.as_ref().is_none_or(|block| block == read);
            assert!(
                same,
                "block {} is wrong (seed {seed})",
                first + number as u64
            );
        }
    }
}
