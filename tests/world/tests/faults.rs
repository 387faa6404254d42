//! Single faults: found and reported, never returned as data, and metadata survives them.

use pool_core::{Fault, Mutation, check};
use world::disk::Keep;
use world::faults::{inject, lose_a_disk, settled_pool};
use world::forge::Image;
use world::world::Reader;
use world::{Rng, World};

#[test]
fn one_bad_block_anywhere_costs_at_most_itself() {
    let (mut reported, mut count) = (0, 0);
    for seed in 0..12 {
        let injected = inject(seed, 100).unwrap_or_else(|what| panic!("{what}"));
        reported += injected.reported;
        count += injected.count;
    }
    assert!(reported * 50 > count, "{reported} of {count} hit data");
}

#[test]
fn forged_images_are_refused_or_served() {
    for seed in 0..8 {
        world::forge::forge(seed, 40);
    }
}

#[test]
fn with_a_disk_lost_the_rest_is_read() {
    let (mut right, mut missing) = (0, 0);
    for seed in 0..20 {
        let lost = lose_a_disk(seed).unwrap_or_else(|what| panic!("{what}"));
        (right, missing) = (right + lost.right, missing + lost.missing);
    }
    assert!(right > 0 && missing > 0, "{right} read, {missing} missing");
}

/// Both copies of all bitmaps are gone: the pool goes on with the space it knows to be free, and a check finds what leaked.
#[test]
fn lost_bitmaps_cost_space_and_nothing_else() {
    for seed in 0..6 {
        let mut rng = Rng::new(seed);
        let (disks, model) = settled_pool(&mut rng, seed.is_multiple_of(2));
        let image = Image::new(&disks);
        let mut hurt = disks.clone();
        for (disk, block) in image.places() {
            if &image.block((*disk, *block))[4..8] == b"BMP1" {
                hurt[*disk].replace(*block, &[0xEE; 4096]);
            }
        }
        let mut world = World::open(hurt, model, seed, Mutation::None);
        world.wait_open().expect("opens");
        for block in 0..10 {
            world.write(1, block * 3, 2, true);
            world.unmap(2, block * 2, 1);
            world.settle();
        }
        assert_eq!(world.scrub_all(), Ok(Vec::new()));
        world.copy(1);
        world.ask_checkpoint();
        world.settle();
        assert_eq!(world.wrong, None, "seed {seed}");
        let disks = world.cut(&mut |_, _| Keep::None);
        let report = check(&mut Reader(&disks)).expect("a pool");
        let is_space = |fault: &Fault| {
            matches!(
                fault,
                Fault::Leaked { .. } | Fault::FreeCount { .. } | Fault::BitmapLost { .. }
            )
        };
        assert!(!report.faults.is_empty() && report.faults.iter().all(is_space));
        let mut world = World::open(disks, world.model, seed, Mutation::None);
        world.wait_open().expect("opens again");
        world.compare_after_cut();
        assert_eq!(world.wrong, None, "seed {seed}");
    }
}
