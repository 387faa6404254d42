//! Power cuts, the quick part: some thousand cuts in random lives, every cut of one scripted life, and each deliberate bug found.
//! `cargo run --release -p world -- long --seeds 50000` is the long part.

use pool_core::Mutation;
use world::cuts::{Explorer, METADATA, run};
use world::{Plan, play};

fn plays(seeds: std::ops::Range<u64>, plan: Plan) {
    for seed in seeds {
        let disks = 1 + seed % 2;
        if let Err(failure) = play(seed, Plan { disks, ..plan }) {
            panic!("{failure}");
        }
    }
}

#[test]
fn random_lives_survive_cuts() {
    plays(0..120, Plan::default());
}

#[test]
fn short_lives_survive_many_cuts() {
    let plan = Plan {
        lives: 8,
        events: 60,
        ..Plan::default()
    };
    plays(1000..1080, plan);
}

/// A flush or a write of metadata fails now and then: the pool stops, and what it left is as after a cut.
#[test]
fn device_errors_are_survived() {
    let plan = Plan {
        errors: 8,
        ..Plan::default()
    };
    plays(3000..3060, plan);
}

/// Requests that get stuck for a while, so that much happens around them.
#[test]
fn stuck_requests_are_survived() {
    let plan = Plan {
        events: 1200,
        lives: 2,
        stuck: 25,
        ..Plan::default()
    };
    plays(4000..4040, plan);
}

/// Cut again before a checkpoint can end, the journal only grows: opening has to make room by itself.
#[test]
fn cut_after_cut_does_not_fill_the_journal() {
    let plan = Plan {
        lives: 60,
        events: 14,
        ..Plan::default()
    };
    plays(2000..2030, plan);
}

#[test]
fn each_metadata_operation_is_cut_at_every_moment() {
    for disks in [1, 2] {
        let mut explorer = Explorer::new(10, disks, Mutation::None);
        if let Err(what) = run(METADATA, disks, &mut explorer) {
            panic!("{what}");
        }
        assert!(explorer.cuts > 1000, "{} cuts", explorer.cuts);
        let many: u64 = explorer.in_full[7..].iter().sum();
        assert!(many > 0, "no moment with more than six volatile blocks");
    }
}

/// Seeds at which a bug shows, found by `world long --mutation`; a bug that no longer shows at any of them needs new ones.
fn is_caught(mutation: Mutation, seeds: impl Iterator<Item = u64>, plan: Plan) {
    for seed in seeds {
        let plan = Plan {
            disks: 1 + seed % 2,
            mutation,
            ..plan
        };
        // A bug may also break an assertion of the pool or the disks: that is caught, too.
        let outcome = std::panic::catch_unwind(|| play(seed, plan));
        if !matches!(outcome, Ok(Ok(_))) {
            return;
        }
    }
    panic!("{mutation:?} is not caught");
}

macro_rules! caught {
    ($($name:ident: $mutation:ident;)*) => {$(
        #[test]
        fn $name() {
            is_caught(Mutation::$mutation, 1..300, Plan::default());
        }
    )*};
}

caught! {
    a_flush_that_flushes_nothing_is_caught: SkipHostFlush;
    a_root_without_a_barrier_is_caught: SkipRootBarrier;
    reuse_at_once_is_caught: ReuseAtOnce;
    reuse_before_the_discard_is_over_is_caught: ReuseBeforeDiscard;
    writing_in_place_unsettled_is_caught: InPlaceUnsettled;
    writing_in_place_before_the_open_mark_is_caught: InPlaceBeforeOpen;
    writing_in_place_what_a_snapshot_uses_is_caught: InPlaceShared;
    trusting_the_tail_is_caught: TrustTail;
    replay_without_void_records_is_caught: SkipVoid;
    no_adoption_is_caught: SkipAdoption;
    a_seal_before_its_page_is_caught: SealBeforePage;
    reusing_nodes_at_once_is_caught: ReuseNodesAtOnce;
    forgetting_open_regions_is_caught: ForgetOpenRegions;
    forgetting_what_replay_displaces_is_caught: ForgetDisplaced;
    a_snapshot_that_does_not_wait_is_caught: SnapshotWithoutDrain;
    freeing_what_a_snapshot_uses_is_caught: FreeShared;
    moving_a_slab_without_its_writes_is_caught: MoveWithoutMirror;
    exchanging_a_slab_half_copied_is_caught: ExchangeHalfCopied;
    taking_what_is_set_aside_is_caught: IgnoreReserve;
}

/// The ring has to wrap while a checkpoint is going on: one of its writes is stuck and the host goes on flushing.
#[test]
fn trimming_the_journal_before_the_root_is_caught() {
    let plan = Plan {
        events: 2000,
        lives: 1,
        stuck: 25,
        ..Plan::default()
    };
    is_caught(Mutation::TrimBeforeRoot, 1..300, plan);
}
