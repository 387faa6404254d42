//! Fused compare-and-write (Base 2.0c §3.4.2, NVM Command Set 1.0c §2.1.5).

use nvme_spec::io::{BlockCommand, FUSED_FIRST, FUSED_SECOND};
use nvme_spec::opcode::nvm;
use nvme_spec::{Sgl, Sqe, Status};
use nvme_target::{IoError, IoOp};

use crate::world::{HOST_A, Host, World};

fn half(world: &mut World, second: bool, slba: u64, in_capsule: bool) -> Sqe {
    let block = BlockCommand {
        slba,
        blocks: 1,
        ..BlockCommand::default()
    };
    let opcode = if second { nvm::WRITE } else { nvm::COMPARE };
    let sgl = if in_capsule {
        Sgl::in_capsule(0, 512)
    } else {
        Sgl::transport(512)
    };
    let mut sqe = block.emit(opcode, world.cid(), 1, sgl);
    let fused = if second { FUSED_SECOND } else { FUSED_FIRST };
    sqe.set_flags(0x40 | fused);
    sqe
}

fn pair(
    world: &mut World,
    host: &Host,
    expect: u8,
    new: u8,
    capsules: [bool; 2],
) -> [Option<Status>; 2] {
    let first = half(world, false, 4, capsules[0]);
    let second = half(world, true, 4, capsules[1]);
    world.send(host.io, &first, &[expect; 512]);
    assert_eq!(world.status(host.io, first.cid()), None);
    world.send(host.io, &second, &[new; 512]);
    [first, second].map(|sqe| world.status(host.io, sqe.cid()))
}

const BOTH: [Option<Status>; 2] = [Some(Status::SUCCESS), Some(Status::SUCCESS)];

#[test]
fn the_write_happens_only_if_the_blocks_compare() {
    let mut world = World::new();
    let host = world.host(HOST_A);
    for capsules in [[true, true], [false, true], [true, false], [false, false]] {
        world.write(host.io, 4, &[1; 512]);
        assert_eq!(pair(&mut world, &host, 1, 2, capsules), BOTH);
        assert_eq!(world.disk(1, 4)[0], 2);
        let failed = pair(&mut world, &host, 1, 3, capsules);
        assert_eq!(
            failed,
            [
                Some(Status::COMPARE_FAILURE.dnr()),
                Some(Status::ABORTED_FAILED_FUSED)
            ]
        );
        assert_eq!(world.disk(1, 4)[0], 2);
    }
    assert_eq!(world.target.commands_in_flight(), 0);
}

#[test]
fn data_may_arrive_in_either_order() {
    let mut world = World::new();
    let host = world.host(HOST_A);
    for order in [[0, 1], [1, 0]] {
        world.hold_fetch = true;
        let first = half(&mut world, false, 4, false);
        let second = half(&mut world, true, 4, false);
        world.send(host.io, &first, &[0; 512]);
        world.send(host.io, &second, &[0; 512]);
        let fetches: Vec<_> = world.held_fetches.drain(..).collect();
        let before = world.io_log.len();
        world.deliver(fetches[order[0]]);
        assert_eq!(world.io_log.len(), before, "half a pair does nothing");
        world.deliver(fetches[order[1]]);
        assert!(matches!(
            world.io_log.last(),
            Some(IoOp::CompareAndWrite { .. })
        ));
        let statuses = [first, second].map(|sqe| world.status(host.io, sqe.cid()));
        assert_eq!(statuses, BOTH);
    }
}

#[test]
fn halves_without_their_partner_are_aborted() {
    let mut world = World::new();
    let host = world.host(HOST_A);
    // A second half out of nowhere.
    let lone = half(&mut world, true, 4, true);
    let status = world.call(host.io, &lone, &[0; 512]).cqe.status;
    assert_eq!(status, Status::ABORTED_MISSING_FUSED);
    // A first half followed by something else, which goes on.
    let first = half(&mut world, false, 4, true);
    world.send(host.io, &first, &[0; 512]);
    assert_eq!(world.read(host.io, 0, 1).cqe.status, Status::SUCCESS);
    assert_eq!(
        world.status(host.io, first.cid()),
        Some(Status::ABORTED_MISSING_FUSED)
    );
    // The same while its data are on their way: it ends when they are here.
    world.hold_fetch = true;
    let first = half(&mut world, false, 4, false);
    world.send(host.io, &first, &[0; 512]);
    world.read(host.io, 0, 1);
    assert_eq!(world.status(host.io, first.cid()), None);
    let fetch = world.held_fetches.pop().unwrap();
    world.deliver(fetch);
    assert_eq!(
        world.status(host.io, first.cid()),
        Some(Status::ABORTED_MISSING_FUSED)
    );
}

#[test]
fn a_refused_half_takes_the_other_along() {
    let mut world = World::new();
    let host = world.host(HOST_A);
    // First refused.
    let mut first = half(&mut world, false, 4, true);
    first.set_dword(1, 9);
    let status = world.call(host.io, &first, &[0; 512]).cqe.status;
    assert_eq!(status, Status::INVALID_NAMESPACE.dnr());
    let second = half(&mut world, true, 4, true);
    let status = world.call(host.io, &second, &[0; 512]).cqe.status;
    assert_eq!(status, Status::ABORTED_FAILED_FUSED);
    // Second refused: another range.
    let first = half(&mut world, false, 4, true);
    world.send(host.io, &first, &[0; 512]);
    let second = half(&mut world, true, 5, true);
    let status = world.call(host.io, &second, &[0; 512]).cqe.status;
    assert_eq!(status, Status::INVALID_FIELD.dnr());
    assert_eq!(
        world.status(host.io, first.cid()),
        Some(Status::ABORTED_FAILED_FUSED)
    );
    assert!(world.io_log.is_empty());
}

#[test]
fn a_pair_is_at_most_as_large_as_is_atomic() {
    // NVM Command Set 1.0c §2.1.4.2.
    let mut world = World::new();
    let host = world.host(HOST_A);
    let block = BlockCommand {
        blocks: 9,
        ..BlockCommand::default()
    };
    let mut sqe = world.block_sqe(nvm::COMPARE, block);
    sqe.set_flags(0x40 | FUSED_FIRST);
    let status = world.call(host.io, &sqe, &[0; 9 * 512]).cqe.status;
    assert_eq!(status, Status::ATOMIC_WRITE_UNIT_EXCEEDED.dnr());
}

#[test]
fn a_device_error_fails_both_halves() {
    let mut world = World::new();
    let host = world.host(HOST_A);
    world.next_error = Some(IoError::Medium);
    assert_eq!(
        pair(&mut world, &host, 0, 1, [true, true]),
        [
            Some(Status::ABORTED_FAILED_FUSED),
            Some(Status::WRITE_FAULT.dnr())
        ]
    );
}

#[test]
fn a_pair_in_the_device_outlives_its_connection() {
    let mut world = World::new();
    let host = world.host(HOST_A);
    world.hold_io = true;
    assert_eq!(pair(&mut world, &host, 0, 1, [true, true]), [None, None]);
    world.target.handle_disconnected(world.now, host.io);
    world.pump();
    assert_eq!(world.released, 0);
    let held = world.held_io.pop().unwrap();
    world.perform(held);
    assert_eq!((world.released, world.target.commands_in_flight()), (2, 0));
}
