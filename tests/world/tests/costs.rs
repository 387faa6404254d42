//! Device writes per host operation, counted: 4 KiB blocks, the journal's two copies included. Predicted beside counted.

use pool_core::Mutation;
use world::World;
use world::model::Model;
use world::world::new_disks;

struct Cost {
    blocks: f64,
    flushes: f64,
}

fn total(world: &World) -> (u64, u64) {
    let sum = |count: fn(&world::disk::Disk) -> u64| world.disks.iter().map(count).sum();
    (sum(|disk| disk.writes), sum(|disk| disk.flushes))
}

/// Runs `act` and what follows from it at once; answers the cost of each of its `count` operations.
fn cost(world: &mut World, count: u32, act: impl Fn(&mut World)) -> Cost {
    let before = total(world);
    act(world);
    world.settle();
    assert_eq!(world.wrong, None);
    let after = total(world);
    Cost {
        blocks: (after.0 - before.0) as f64 / f64::from(count),
        flushes: (after.1 - before.1) as f64 / f64::from(count),
    }
}

/// A pool of 64 MiB with one replica of 2,000 blocks, its first 600 written, settled and checkpointed.
fn world() -> World {
    let disks = new_disks(&[16_384], 4096, 1024);
    let mut world = World::open_with(
        disks,
        Model::default(),
        1,
        Mutation::None,
        pool_core::Limits {
            flush_interval_ms: 1_000_000,
            regions_open_max: 256,
            ..pool_core::Limits::default()
        },
    );
    world.wait_open().expect("a new pool opens");
    world.create(2000);
    world.settle();
    for block in 0..12 {
        world.write(1, block * 50, 50, false);
    }
    world.settle();
    world.flush();
    world.settle();
    world.ask_checkpoint();
    world.settle();
    world
}

fn seal_all(world: &mut World) {
    for _ in 0..3 {
        world.ask_seal();
        world.settle();
        world.flush();
        world.settle();
    }
}

/// Prints and holds the count to at most `most`.
#[expect(
    clippy::print_stderr,
    reason = "figures for docs/disk-format.md, shown with --nocapture"
)]
fn row(name: &str, predicted: &str, cost: &Cost, most: f64) {
    eprintln!(
        "| {name} | {predicted} | {:.2} blocks, {:.2} flushes |",
        cost.blocks, cost.flushes
    );
    assert!(cost.blocks <= most, "{name}: {} blocks", cost.blocks);
}

/// 64 single-block writes to blocks of a stride that keeps them apart.
fn scattered(world: &mut World, first: usize, stride: usize) {
    for i in 0..64 {
        world.write(1, first + i * stride, 1, false);
        if i % 32 == 31 {
            world.settle();
        }
    }
}

#[test]
fn writes_cost_what_was_predicted() {
    let mut w = world();
    let c = cost(&mut w, 64, |w| scattered(w, 0, 9));
    row("overwrite, region open", "1.00", &c, 1.0);
    seal_all(&mut w);
    let c = cost(&mut w, 64, |w| scattered(w, 0, 9));
    row(
        "overwrite, region sealed, 64 together",
        "1 + 2/batch",
        &c,
        1.25,
    );
    let c = cost(&mut w, 400, |w| {
        for i in 0..8 {
            w.write(1, 1000 + i * 50, 50, false);
        }
        w.settle();
        w.flush();
    });
    // Operations of 50 blocks: the cost of a block.
    row(
        "first write, sequential, a block of 50-block writes",
        "1.03",
        &Cost {
            blocks: c.blocks / 1.0,
            ..c
        },
        1.1,
    );
    let c = cost(&mut w, 64, |w| {
        scattered(w, 601, 6);
        w.flush();
    });
    row("first write, random, flushed after 64", "1.2 to 3", &c, 3.0);
    let c = cost(&mut w, 64, |w| {
        scattered(w, 601, 6);
        w.flush();
    });
    row(
        "overwrite of a block not yet settled",
        "1 + record",
        &c,
        3.0,
    );
    let c = cost(&mut w, 100, |w| {
        w.unmap(1, 1000, 100);
        w.flush();
    });
    row("discard, a block of 100", "1/batch", &c, 0.1);
}

#[test]
fn the_rest_costs_what_was_predicted() {
    let mut w = world();
    w.write(1, 5, 1, false);
    w.settle();
    let c = cost(&mut w, 1, World::flush);
    row("flush, nothing to journal", "0", &c, 0.0);
    w.write(1, 1500, 1, false);
    w.settle();
    let c = cost(&mut w, 1, World::flush);
    row("flush, records pending", "1 × 2 copies", &c, 2.0);
    let c = cost(&mut w, 1, |w| w.copy(1));
    row("snapshot", "1 to 3, × 2 copies", &c, 2.0);
    let c = cost(&mut w, 64, |w| {
        scattered(w, 0, 9);
        w.flush();
    });
    row("first write after a snapshot, depth 32", "3.1", &c, 3.1);
    let c = cost(&mut w, 1, |w| {
        w.write(1, 3, 1, false);
        w.settle();
        w.flush();
    });
    row(
        "first write after a snapshot, alone with a flush",
        "4 to 5",
        &c,
        5.0,
    );
    let c = cost(&mut w, 1, |w| w.copy(1));
    row("snapshot after changes", "1 to 3, × 2 copies", &c, 2.0);
    let open = w.pool.open_regions() as u32;
    let c = cost(&mut w, open, |w| {
        w.ask_seal();
        w.settle();
        w.flush();
    });
    row(
        "seal, each of all open regions",
        "1 + record/batch",
        &c,
        1.5,
    );
    let c = cost(&mut w, 1, World::ask_checkpoint);
    row(
        "checkpoint of what these rows changed",
        "not predicted",
        &c,
        200.0,
    );
}
