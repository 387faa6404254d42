//! Disks that leave a pool in use, and metadata that gets its second copy on another disk.

use pool_core::{Answer, Mutation, PoolError};
use pool_format::DiskState;
use world::World;
use world::disk::Keep;
use world::model::Model;
use world::world::{Reader, new_disks};

fn rest(world: &mut World) {
    for _ in 0..4 {
        world.settle();
        world.pass(1100);
    }
    world.settle();
    assert_eq!(world.wrong, None);
}

/// A pool of these disks with a replica of 200 blocks written, a snapshot of it, and half of it written again.
fn used(sizes: &[u64], seed: u64) -> World {
    let disks = new_disks(sizes, 4096, 48);
    let mut world = World::open(disks, Model::default(), seed, Mutation::None);
    world.wait_open().expect("a new pool opens");
    world.create(200);
    rest(&mut world);
    for block in 0..20 {
        world.write(1, block * 10, 10, false);
        world.settle();
    }
    world.copy(1);
    rest(&mut world);
    for block in 0..10 {
        world.write(1, block * 20, 7, false);
        world.settle();
    }
    world.ask_checkpoint();
    rest(&mut world);
    world
}

fn reopen(mut world: World, keep: Keep) -> World {
    let disks = world.cut(&mut |_, _| keep);
    let seed = world.rng.number();
    let mut world = World::open(disks, world.model, seed, Mutation::None);
    world.wait_open().expect("opens after the cut");
    world.compare_after_cut();
    assert_eq!(world.wrong, None);
    world
}

/// Empties a disk while a host writes; answers how many slabs that took.
fn empty(world: &mut World, disk: usize) -> u32 {
    for moved in 0..60 {
        world.evacuate(disk);
        world.write(1, moved as usize * 3, 20, false);
        world.write(1, moved as usize * 2, 5, true);
        world.read(1, 0, 200);
        rest(world);
        match world.relocated.take() {
            Some(Ok(Answer::Moved { left: 0 })) => return moved,
            Some(Ok(Answer::Moved { left })) => {
                let leaving = world.pool.leaving();
                assert_eq!((leaving.len(), leaving[0].slabs), (1, left));
            }
            other => panic!("{other:?}"),
        }
    }
    panic!("never empty");
}

#[test]
fn a_disk_is_emptied_and_removed_while_it_is_used() {
    for disk in 0..2 {
        let mut world = used(&[1500, 1500], 7);
        assert!(empty(&mut world, disk) > 0);
        world.check_space();
        assert_eq!(world.wrong, None);
        world.remove_disk(disk);
        rest(&mut world);
        assert_eq!(world.relocated, Some(Ok(Answer::Done)));
        assert_eq!(world.pool.disks()[disk].state, DiskState::Gone);
        // From here on a request to it fails the test.
        world.write(1, 30, 60, true);
        rest(&mut world);
        let mut world = reopen(world, Keep::None);
        rest(&mut world);
        world.check_space();
        assert_eq!(world.wrong, None);
        // Another takes its place, and the metadata its second copy there.
        world.add_disk(1200);
        rest(&mut world);
        assert_eq!(world.relocated, Some(Ok(Answer::Done)));
        assert!(world.pool.undoubled() > 0);
        while world.pool.undoubled() > 0 {
            world.double();
            rest(&mut world);
            assert!(matches!(world.relocated, Some(Ok(Answer::Moved { .. }))));
        }
        world.check_space();
        assert_eq!(world.wrong, None);
    }
}

#[test]
fn what_does_not_fit_is_refused_with_figures() {
    let mut world = used(&[1500, 700], 8);
    world.evacuate(0);
    rest(&mut world);
    match world.relocated {
        Some(Err(PoolError::NoRoom { needed, free })) => {
            assert!(needed > free, "{needed} needed, {free} free");
            assert_eq!(needed % 64, 0);
        }
        ref other => panic!("{other:?}"),
    }
    assert!(world.pool.leaving().is_empty(), "nothing has changed");
    world.remove_disk(0);
    rest(&mut world);
    assert!(matches!(
        world.relocated,
        Some(Err(PoolError::DiskInUse(slabs))) if slabs > 0
    ));
    let mut alone = used(&[1500], 9);
    alone.evacuate(0);
    rest(&mut alone);
    assert_eq!(alone.relocated, Some(Err(PoolError::Invalid)));
}

#[test]
fn an_evacuation_goes_on_after_a_cut_or_is_taken_back() {
    let mut world = used(&[1500, 1500], 10);
    world.evacuate(0);
    rest(&mut world);
    world.evacuate(0);
    for _ in 0..12 {
        world.finish_one();
    }
    let mut world = reopen(world, Keep::None);
    assert_eq!(world.pool.disks()[0].state, DiskState::Leaving);
    empty(&mut world, 0);
    world.keep_disk(0);
    rest(&mut world);
    assert_eq!(world.relocated, Some(Ok(Answer::Done)));
    world.check_space();
    let mut world = reopen(world, Keep::None);
    assert_eq!(world.pool.disks()[0].state, DiskState::InService);
    // The room is usable again: everything goes back.
    empty(&mut world, 1);
    world.check_space();
    assert_eq!(world.wrong, None);
}

/// A block that cannot be read would look whole where it is moved to, so it is not moved; writing it heals.
#[test]
fn an_unreadable_block_in_use_is_not_moved() {
    let mut world = used(&[1500, 1500], 11);
    world.flush();
    rest(&mut world);
    let home = usize::from(world.pool.objects().next().expect("the replica").home);
    // Whatever is in use on its disk: the first block of data there that holds something.
    let data = (0..1500)
        .rev()
        .find(|block| {
            let bytes = world.disks[home].read(*block).expect("readable");
            bytes[..8] == bytes[8..16] && bytes[..512] == bytes[512..1024] && bytes[0] != 0
        })
        .expect("data lies there");
    world.disks[home].break_block(data);
    let mut refused = None;
    for _ in 0..60 {
        world.evacuate(home);
        rest_but_refusals(&mut world);
        match world.relocated.take() {
            Some(Ok(Answer::Moved { left: 0 })) => break,
            Some(Ok(_)) => {}
            Some(Err(PoolError::Unreadable(address))) => {
                refused = Some(address);
                break;
            }
            other => panic!("{other:?}"),
        }
    }
    assert!(refused.is_some(), "an unreadable block was moved");
    for block in 0..20 {
        world.write(1, block * 10, 10, false);
        rest_but_refusals(&mut world);
    }
    world.delete(2);
    rest_but_refusals(&mut world);
    world.wrong = None;
    empty(&mut world, home);
    world.check_space();
    assert_eq!(world.wrong, None);
}

/// As [`rest`]: that the pool says what cannot be read is expected here.
fn rest_but_refusals(world: &mut World) {
    for _ in 0..4 {
        world.settle();
        if let Some(wrong) = &world.wrong {
            assert!(wrong.contains("cannot be read"), "{wrong}");
            world.wrong = None;
        }
        world.pass(1100);
    }
    world.settle();
}

/// A pool of one disk gets a second: when all metadata is doubled, it survives the loss of the first.
#[test]
fn doubled_metadata_survives_the_loss_of_the_first_disk() {
    let mut world = used(&[1500], 12);
    world.add_disk(1500);
    rest(&mut world);
    let before = world.pool.undoubled();
    assert!(before > 1, "{before} slabs to double");
    for left in (0..before).rev() {
        world.double();
        world.write(1, left as usize * 7, 9, false);
        rest(&mut world);
        assert_eq!(world.relocated, Some(Ok(Answer::Moved { left })));
    }
    world.flush();
    rest(&mut world);
    let report = pool_core::check(&mut Reader(&world.disks)).expect("there is a pool");
    assert!(report.is_clean(), "{report:?}");
    let disks = world.cut(&mut |_, _| Keep::All);
    let left = vec![disks[1].clone()];
    let mut world = World::open_read_only(left, world.model, 13);
    world.wait_open().expect("opens for reading");
    assert_eq!(world.pool.objects().count(), 2);
    for block in 0..200 {
        match world.read_block(1, block) {
            Ok(_) | Err(PoolError::MissingDisk(0)) => {}
            other => panic!("block {block}: {other:?}"),
        }
    }
}
