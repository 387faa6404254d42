//! Power cuts, the quick part: some thousand cuts in random lives, every cut of one scripted life, and each deliberate bug found.
//! `cargo run --release -p world -- long --seeds 50000` is the long part.

use pool_core::Mutation;
use world::disk::Keep;
use world::model::Model;
use world::play::verify;
use world::world::{World, new_disks};
use world::{Plan, Rng, play};

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

/// Every subset of what is not durable while there are at most six blocks of it, sampled ones above.
fn cut_here(world: &World, rng: &mut Rng) -> u64 {
    let volatile: Vec<usize> = world.disks.iter().map(|disk| disk.volatile()).collect();
    let all: usize = volatile.iter().sum();
    let subsets = if all <= 6 { 1 << all } else { 12 };
    for subset in 0..subsets {
        let bits = if all <= 6 { subset } else { rng.number() };
        let disks = world.cut(&mut |disk, index| {
            let at: usize = volatile[..disk].iter().sum::<usize>() + index;
            if bits >> (at % 64) & 1 != 0 {
                Keep::All
            } else {
                Keep::None
            }
        });
        if let Err(what) = verify(
            disks,
            world.model.clone(),
            rng.number(),
            Mutation::None,
            subset == 0,
        ) {
            panic!(
                "subset {bits:#x} of {all}, after {} writes: {what}",
                world.writes_done
            );
        }
    }
    subsets
}

/// Lets the disks finish everything, and looks at a cut after each write.
fn cut_everywhere(world: &mut World, rng: &mut Rng, cuts: &mut u64) {
    let mut seen = world.writes_done;
    for _ in 0..2000 {
        if !world.finish_one() {
            return;
        }
        if world.writes_done != seen {
            seen = world.writes_done;
            *cuts += cut_here(world, rng);
        }
        assert_eq!(world.wrong, None);
    }
}

#[test]
fn each_metadata_operation_is_cut_after_each_write() {
    type Step = fn(&mut World);
    let script: [(&str, Step); 17] = [
        ("create", |world| world.create(30)),
        ("write", |world| world.write(1, 0, 9, false)),
        ("flush", World::flush),
        ("overwrite before settling", |world| {
            world.write(1, 4, 3, true)
        }),
        ("checkpoint", World::ask_checkpoint),
        ("overwrite in place", |world| world.write(1, 2, 4, true)),
        ("seal", World::ask_seal),
        ("overwrite a sealed region", |world| {
            world.write(1, 1, 2, true)
        }),
        ("snapshot", |world| world.copy(1)),
        ("overwrite after a snapshot", |world| {
            world.write(1, 0, 5, true)
        }),
        ("checkpoint after a snapshot", World::ask_checkpoint),
        ("clone", |world| world.copy(2)),
        ("write to the clone", |world| world.write(3, 3, 3, true)),
        ("discard", |world| world.unmap(1, 0, 3)),
        ("shrink", |world| world.resize(1, 8)),
        ("delete the clone", |world| world.delete(3)),
        ("delete the snapshot", |world| world.delete(2)),
    ];
    let mut cuts = 0;
    for disks in [1, 2] {
        let mut rng = Rng::new(disks);
        let sizes = vec![950; disks as usize];
        let mut world = World::open(
            new_disks(&sizes, 512, 48),
            Model::default(),
            disks,
            Mutation::None,
        );
        world.wait_open().expect("a new pool opens");
        for (name, step) in script {
            step(&mut world);
            cut_everywhere(&mut world, &mut rng, &mut cuts);
            for _ in 0..4 {
                world.pass(1100);
                cut_everywhere(&mut world, &mut rng, &mut cuts);
            }
            assert_eq!(world.outstanding(), 0, "{name} is answered");
        }
        world.check_space();
        assert_eq!(world.wrong, None);
    }
    assert!(cuts > 1000, "{cuts} cuts were looked at");
}

/// Seeds at which a bug shows, found by `world long --mutation`; a bug that no longer shows at any of them needs new ones.
fn is_caught(mutation: Mutation, seeds: impl Iterator<Item = u64>) {
    for seed in seeds {
        let plan = Plan {
            disks: 1 + seed % 2,
            mutation,
            ..Plan::default()
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
            is_caught(Mutation::$mutation, 1..300);
        }
    )*};
}

caught! {
    a_flush_that_flushes_nothing_is_caught: SkipHostFlush;
    a_root_without_a_barrier_is_caught: SkipRootBarrier;
    reuse_at_once_is_caught: ReuseAtOnce;
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
}
