//! A pool that gets more room while it is used: a disk is added, a disk has become larger.

use pool_core::Mutation;
use world::World;
use world::model::Model;
use world::world::new_disks;

fn rest(world: &mut World) {
    for _ in 0..4 {
        world.settle();
        world.pass(1100);
    }
    world.settle();
    assert_eq!(world.wrong, None);
}

/// Writes ten blocks at a time until that is refused; answers how many blocks went in.
fn fill(world: &mut World, from: usize) -> usize {
    let before = world.refused;
    let mut block = from;
    while world.refused == before {
        world.write(1, block, 10, false);
        world.settle();
        assert_eq!(world.wrong, None);
        block += 10;
    }
    rest(world);
    block - 10 - from
}

fn full_world() -> World {
    let disks = new_disks(&[1000], 4096, 48);
    let mut world = World::open(disks, Model::default(), 3, Mutation::None);
    world.wait_open().expect("a new pool opens");
    world.create(4000);
    rest(&mut world);
    let first = fill(&mut world, 0);
    assert!(first > 100, "{first} blocks fit");
    world
}

fn reopen(world: World) -> World {
    let disks = world.cut(&mut |_, _| world::disk::Keep::None);
    let mut world = World::open(disks, world.model, 4, Mutation::None);
    world.wait_open().expect("opens after the cut");
    world.compare_after_cut();
    rest(&mut world);
    world
}

#[test]
fn a_disk_that_grew_gives_its_room() {
    let mut world = full_world();
    world.grow_disk(0, 600);
    rest(&mut world);
    assert_eq!(world.pool.disks()[0].blocks, 1600);
    let more = fill(&mut world, 1000);
    assert!(more >= 300, "{more} blocks fit in 600 more");
    world.flush();
    rest(&mut world);
    let mut world = reopen(world);
    world.check_space();
    assert_eq!(world.wrong, None);
    // The old end is data by now: the labels are found where they are.
    world.grow_disk(0, 5);
    let refused = world.refused;
    rest(&mut world);
    assert!(world.refused <= refused + 1, "too little to be worth it");
    world.grow_disk(0, 300);
    rest(&mut world);
    assert_eq!(world.pool.disks()[0].blocks, 1905);
}

#[test]
fn an_added_disk_gives_its_room_and_a_second_copy_of_the_root() {
    let mut world = full_world();
    world.add_disk(900);
    rest(&mut world);
    assert_eq!(world.pool.disks().len(), 2);
    let more = fill(&mut world, 1000);
    assert!(more >= 450, "{more} blocks fit on 900 more");
    world.flush();
    rest(&mut world);
    world.ask_checkpoint();
    rest(&mut world);
    let mut world = reopen(world);
    world.check_space();
    assert_eq!(world.wrong, None);
    // The new disk has a root and the journal: without the first one the pool is found and named.
    let left = vec![world.disks[1].clone()];
    let mut alone = World::open(left, world.model.clone(), 5, Mutation::None);
    assert_eq!(alone.wait_open(), Err(pool_core::PoolError::MissingDisk(0)));
    // A second one can be added, but not one that is a member.
    world.add_disk(600);
    rest(&mut world);
    assert_eq!(world.pool.disks().len(), 3);
}
