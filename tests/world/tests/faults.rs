//! Single faults: found and reported, never returned as data, and metadata survives them.

use world::faults::{inject, lose_a_disk};

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
