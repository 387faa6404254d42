//! What bit rot does to bytes.

use units::BlockSize;

use crate::draw::{Purpose, draw};
use crate::rule::Rot;

/// Damages the block at address `lba`, whose contents are `block`.
///
/// The same seed and address give the same bits (or, for [`Rot::All`], the same bytes) each time, so that a block read
/// twice is wrong in the same way twice.
pub(crate) fn damage(rot: Rot, seed: u64, lba: u64, block: &mut [u8]) {
    match rot {
        Rot::Bits(bits) => {
            let all = block.len() as u64 * 8;
            if all == 0 {
                return;
            }
            let first = draw(seed, Purpose::RotFirst, lba) % all;
            // The number of bits in a block is a power of two, so an odd step meets each bit once before it repeats.
            let step = (draw(seed, Purpose::RotStep, lba) % all) | 1;
            for number in 0..u64::from(bits) {
                let bit = (first + number * step) % all;
                block[(bit / 8) as usize] ^= 1 << (bit % 8);
            }
        }
        Rot::All => {
            let own = draw(seed, Purpose::RotNoise, lba);
            for (number, word) in block.chunks_mut(8).enumerate() {
                let noise = draw(own, Purpose::RotNoise, number as u64).to_le_bytes();
                word.copy_from_slice(&noise[..word.len()]);
            }
        }
    }
}

/// Damages each block of `bytes`, which begin with the block at address `lba`.
pub(crate) fn damage_blocks(rot: Rot, seed: u64, lba: u64, size: BlockSize, bytes: &mut [u8]) {
    for (number, block) in bytes.chunks_exact_mut(size.bytes() as usize).enumerate() {
        damage(rot, seed, lba + number as u64, block);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn as_many_bits_are_flipped_as_asked_for() {
        for bits in [1, 2, 7, 64, 4096] {
            for lba in 0..20 {
                let mut block = [0u8; 512];
                damage(Rot::Bits(bits), 9, lba, &mut block);
                let flipped: u32 = block.iter().map(|byte| byte.count_ones()).sum();
                assert_eq!(flipped, bits, "block {lba}");
            }
        }
    }

    #[test]
    fn a_block_rots_the_same_way_in_every_operation() {
        for rot in [Rot::Bits(3), Rot::All] {
            let (mut whole, mut part) = (vec![0x5a; 8 * 512], vec![0x5a; 512]);
            damage_blocks(rot, 1, 100, BlockSize::B512, &mut whole);
            damage_blocks(rot, 1, 103, BlockSize::B512, &mut part);
            assert_eq!(whole[3 * 512..4 * 512], part);
            let mut other = vec![0x5a; 512];
            damage_blocks(rot, 2, 103, BlockSize::B512, &mut other);
            assert_ne!(part, other, "another seed, other bits");
        }
    }
}
