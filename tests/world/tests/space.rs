//! A pool that runs full: writes wait and then fail, what is there stays writable, and what is freed comes back.

use pool_core::Mutation;
use world::World;
use world::model::Model;
use world::world::new_disks;

/// Writes ten blocks at a time to fresh places until that is refused; answers how many blocks went in.
fn fill(world: &mut World, volume: u64, from: usize) -> usize {
    let before = world.refused;
    let mut block = from;
    while world.refused == before {
        world.write(volume, block, 10, false);
        world.settle();
        assert_eq!(world.wrong, None);
        block += 10;
    }
    block - 10 - from
}

fn rest(world: &mut World) {
    for _ in 0..4 {
        world.settle();
        world.pass(1100);
    }
    world.settle();
    assert_eq!(world.wrong, None);
}

#[test]
fn a_full_pool_refuses_new_blocks_only_and_gives_space_back() {
    let mut world = World::open(
        new_disks(&[1100], 4096, 48),
        Model::default(),
        5,
        Mutation::None,
    );
    world.wait_open().expect("a new pool opens");
    world.create(3000);
    world.settle();
    let first = fill(&mut world, 1, 0);
    assert!(first > 250, "{first} blocks fit");
    rest(&mut world);

    let refused = world.refused;
    world.write(1, 0, 10, true);
    world.write(1, 40, 10, true);
    world.read(1, 0, 60);
    rest(&mut world);
    assert_eq!(world.refused, refused, "what is there can be written");

    world.unmap(1, 0, 100);
    rest(&mut world);
    let again = fill(&mut world, 1, 2000);
    assert!(
        (90..=130).contains(&again),
        "{again} of 100 blocks came back"
    );

    world.copy(1);
    rest(&mut world);
    world.delete(1);
    rest(&mut world);
    assert_eq!(
        world.refused,
        refused + 1,
        "a snapshot and a deletion need no free blocks"
    );
    world.delete(2);
    world.check_space();
    assert_eq!(world.wrong, None);
    world.create(3000);
    world.settle();
    let second = fill(&mut world, 3, 0);
    assert!(
        second + 20 >= first,
        "{second} blocks fit where {first} did"
    );
    world.check_space();
    assert_eq!(world.wrong, None);
}

/// A thick replica in a pool that others have filled: every block of it can be written, over and over, also behind a snapshot.
#[test]
fn a_thick_replica_never_runs_out() {
    let mut world = World::open(
        new_disks(&[1600], 4096, 48),
        Model::default(),
        6,
        Mutation::None,
    );
    world.wait_open().expect("a new pool opens");
    world.create_as(150, true);
    world.create(3000);
    rest(&mut world);
    let thin = fill(&mut world, 2, 0);
    assert!(thin > 100, "{thin} blocks fit beside it");
    rest(&mut world);
    let refused = world.refused;
    for _ in 0..3 {
        for block in 0..15 {
            world.write(1, block * 10, 10, false);
            world.write(1, block * 7, 3, false);
        }
        rest(&mut world);
    }
    assert_eq!(world.refused, refused);
    assert_eq!(world.pool.reserved_blocks(), 0, "all of it is written");

    world.copy(1);
    rest(&mut world);
    assert_eq!(world.refused, refused + 1, "no room to write it once more");
    world.create_as(100, true);
    rest(&mut world);
    assert_eq!(world.refused, refused + 2, "no room to set aside");

    world.unmap(1, 0, 40);
    rest(&mut world);
    assert_eq!(world.pool.reserved_blocks(), 40);
    let again = fill(&mut world, 2, 2000);
    assert!(again <= 10, "{again} blocks of the reserve went to another");
    rest(&mut world);
    let refused = world.refused;
    world.write(1, 0, 40, true);
    rest(&mut world);
    assert_eq!(world.refused, refused);

    world.delete(2);
    rest(&mut world);
    world.copy(1);
    rest(&mut world);
    assert_eq!(world.refused, refused, "now there is room for a snapshot");
    assert_eq!(world.pool.reserved_blocks(), 150);
    world.create(3000);
    rest(&mut world);
    fill(&mut world, 6, 0);
    let refused = world.refused;
    world.write(1, 0, 50, true);
    world.write(1, 50, 50, true);
    world.write(1, 100, 50, true);
    rest(&mut world);
    assert_eq!(
        world.refused, refused,
        "what the snapshot holds is written anew"
    );
    world.unmap(1, 0, 10);
    rest(&mut world);
    assert_eq!(world.pool.reserved_blocks(), 10);
    world.delete(6);
    rest(&mut world);
    world.copy(1);
    rest(&mut world);
    assert_eq!(world.pool.reserved_blocks(), 150);
    for snapshot in [5, 7] {
        world.delete(snapshot);
        rest(&mut world);
    }
    let reserved = world.pool.reserved_blocks();
    assert_eq!(
        reserved, 10,
        "the snapshots are gone, and it has its blocks for itself"
    );
    world.check_space();
    assert_eq!(world.wrong, None);
}
