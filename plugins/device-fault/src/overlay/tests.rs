//! The overlay against the plainest model there is, and its promises one by one.

use std::collections::BTreeMap;

use conformance::random::Random;

use super::*;

const SIZE: BlockSize = BlockSize::B512;

fn overlay(bytes_max: u64) -> Overlay {
    Overlay::new(SIZE, bytes_max)
}

fn block(fill: u8, blocks: u64) -> Vec<u8> {
    vec![fill; (blocks * 512) as usize]
}

/// What `blocks` blocks of 0xff read as through the overlay, one byte a block.
fn seen(overlay: &Overlay, start: u64, blocks: u64) -> Vec<u8> {
    let mut bytes = block(0xff, blocks);
    for patch in overlay.patches(BlockRange::new(start, blocks)) {
        bytes[patch.offset..patch.offset + patch.bytes.len()].copy_from_slice(&patch.bytes);
    }
    bytes
        .chunks(512)
        .map(|block| {
            assert!(block.iter().all(|byte| *byte == block[0]), "a mixed block");
            block[0]
        })
        .collect()
}

#[test]
fn random_writes_match_a_map_of_blocks() {
    let mut random = Random::new(3);
    let mut overlay = overlay(1 << 20);
    let mut model: BTreeMap<u64, u8> = BTreeMap::new();
    for round in 0..3000u64 {
        let range = BlockRange::new(random.below(60), 1 + random.below(12));
        let blocks = range.start.0..range.start.0 + range.count.0;
        match random.below(4) {
            0 => {
                overlay.drop_blocks(range);
                model.retain(|block, _| !blocks.contains(block));
            }
            1 => {
                overlay.absorb(range, None).unwrap();
                model.extend(blocks.map(|block| (block, 0)));
            }
            _ => {
                let fill = (round % 250) as u8 + 1;
                overlay
                    .absorb(range, Some(&block(fill, range.count.0)))
                    .unwrap();
                model.extend(blocks.map(|block| (block, fill)));
            }
        }
        let expected: Vec<u8> = (0..80)
            .map(|block| model.get(&block).copied().unwrap_or(0xff))
            .collect();
        assert_eq!(seen(&overlay, 0, 80), expected, "round {round}");
        assert_eq!(overlay.blocks(), model.len() as u64);
        let held: usize = overlay
            .runs
            .values()
            .map(|run| run.bytes.as_ref().map_or(0, Vec::len))
            .sum();
        assert_eq!(overlay.bytes, held as u64, "round {round}");
        for block in 0..80 {
            let touched = overlay.touches(BlockRange::new(block, 1));
            assert_eq!(touched, model.contains_key(&block), "block {block}");
        }
    }
}

#[test]
fn a_write_out_takes_what_was_there_and_keeps_what_came_after() {
    let mut overlay = overlay(1 << 20);
    overlay
        .absorb(BlockRange::new(0, 10), Some(&block(1, 10)))
        .unwrap();
    overlay.absorb(BlockRange::new(20, 2), None).unwrap();
    let upto = overlay.version();
    let piece = overlay.begin_piece(0, upto, 4).unwrap();
    assert_eq!(piece.range, BlockRange::new(0, 4));
    let mut bytes = block(9, 4);
    overlay.copy_piece(&piece, &mut bytes);
    assert_eq!(bytes, block(1, 4));
    overlay
        .absorb(BlockRange::new(2, 1), Some(&block(2, 1)))
        .unwrap();
    assert!(overlay.is_writing());
    overlay.end_piece(&piece, true);
    assert_eq!(seen(&overlay, 0, 6), [0xff, 0xff, 2, 0xff, 1, 1]);
    let piece = overlay.begin_piece(4, upto, 100).unwrap();
    assert_eq!(piece.range, BlockRange::new(4, 6));
    overlay.end_piece(&piece, true);
    let piece = overlay.begin_piece(10, upto, 100).unwrap();
    overlay.copy_piece(&piece, &mut bytes);
    assert_eq!(bytes[..1024], block(0, 2));
    overlay.end_piece(&piece, true);
    assert!(overlay.begin_piece(22, upto, 100).is_none());
    assert_eq!(overlay.blocks(), 1, "the newer write is still here");
    assert!(overlay.begin_piece(0, upto, 100).is_none());
}

#[test]
fn a_write_out_that_fails_keeps_its_blocks() {
    let mut overlay = overlay(1 << 20);
    overlay
        .absorb(BlockRange::new(5, 1), Some(&block(1, 1)))
        .unwrap();
    let piece = overlay.begin_piece(0, overlay.version(), 100).unwrap();
    overlay.end_piece(&piece, false);
    assert_eq!(seen(&overlay, 5, 1), [1]);
}

#[test]
fn blocks_under_way_count_as_held_even_after_a_power_cut() {
    let mut overlay = overlay(1 << 20);
    let range = BlockRange::new(5, 4);
    overlay.absorb(range, Some(&block(1, 4))).unwrap();
    let piece = overlay.begin_piece(0, overlay.version(), 100).unwrap();
    assert_eq!(overlay.power_cut(), 4);
    assert!(overlay.touches(range) && !overlay.is_empty());
    assert_eq!(seen(&overlay, 5, 4), [0xff; 4]);
    overlay.end_piece(&piece, true);
    assert!(!overlay.touches(range) && overlay.is_empty());
    assert_eq!(overlay.cuts(), 1);
}

#[test]
fn a_full_overlay_takes_nothing_and_keeps_what_it_has() {
    let mut overlay = overlay(4 * 512);
    overlay
        .absorb(BlockRange::new(0, 4), Some(&block(1, 4)))
        .unwrap();
    let more = overlay.absorb(BlockRange::new(3, 1), Some(&block(2, 1)));
    assert_eq!(more, Err(Full));
    assert_eq!(seen(&overlay, 0, 4), [1; 4]);
    overlay.drop_blocks(BlockRange::new(1, 2));
    overlay
        .absorb(BlockRange::new(9, 2), Some(&block(2, 2)))
        .unwrap();
    assert_eq!(seen(&overlay, 0, 4), [1, 0xff, 0xff, 1]);
}

#[test]
fn runs_are_bounded() {
    let mut overlay = overlay(1 << 40);
    let mut taken = 0;
    while overlay.absorb(BlockRange::new(taken * 2, 1), None).is_ok() {
        taken += 1;
    }
    assert_eq!(taken as usize, OVERLAY_RUNS_MAX - 1);
}

#[test]
fn blocks_at_the_end_of_the_address_space_are_no_trouble() {
    let mut overlay = overlay(1 << 20);
    overlay
        .absorb(BlockRange::new(u64::MAX - 1, 1), None)
        .unwrap();
    assert!(overlay.touches(BlockRange::new(u64::MAX - 2, 2)));
    overlay.drop_blocks(BlockRange::new(10, u64::MAX - 10));
    assert!(overlay.is_empty());
}
