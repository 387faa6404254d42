//! What one host may hold of the target, whoever else is there and wherever it connects from.

use nvme_spec::fabrics::ConnectData;
use nvme_spec::io::BlockCommand;
use nvme_spec::nqn::DISCOVERY_NQN;
use nvme_spec::opcode::{admin, nvm};
use nvme_spec::{Sgl, Sqe, Status};
use nvme_target::{AllowedHosts, RefusedConnects, TargetConfig, limits};

use crate::world::{HOST_A, HOST_B, NQN, World, host_id};

fn limited(host_controllers_max: u32, host_qpairs_max: u32) -> World {
    World::with(TargetConfig {
        host_controllers_max,
        host_qpairs_max,
        ..TargetConfig::default()
    })
}

fn admin_status(world: &mut World, host: &str, subnqn: &str) -> Status {
    let qp = world.connection();
    let command = world.connect_sqe(0);
    let data = ConnectData::new(host_id(host), 0xffff, subnqn, host);
    world.try_connect(qp, command, data).cqe.status
}

#[test]
fn a_host_has_so_many_controllers_and_no_more() {
    // Base 2.0c §6.3: Controller Busy, without Do Not Retry.
    let mut world = limited(2, 100);
    world
        .target
        .add_subsystem(crate::world::subsystem("nqn.x:other"))
        .unwrap();
    let (first, _) = world.connect_admin(HOST_A, NQN);
    // Over all subsystems, discovery among them.
    world.connect_admin(HOST_A, "nqn.x:other");
    for subnqn in [NQN, "nqn.x:other", DISCOVERY_NQN] {
        assert_eq!(
            admin_status(&mut world, HOST_A, subnqn),
            Status::CONNECT_CONTROLLER_BUSY
        );
    }
    assert_eq!(world.target.refused_connects().host_controllers_full, 3);
    // Another host is not concerned, and a place that is given back is there again.
    world.connect_admin(HOST_B, NQN);
    world.target.handle_disconnected(world.now, first);
    world.connect_admin(HOST_A, NQN);
}

#[test]
fn a_host_has_so_many_queues_and_no_more() {
    let mut world = limited(100, 3);
    let (admin, cntlid) = world.connect_admin(HOST_A, NQN);
    world.enable(admin);
    let first = world.connect_io(HOST_A, cntlid, 1);
    world.connect_io(HOST_A, cntlid, 2);
    let io_status = |world: &mut World| {
        let qp = world.connection();
        let command = world.connect_sqe(3);
        let data = ConnectData::new(host_id(HOST_A), cntlid, NQN, HOST_A);
        world.try_connect(qp, command, data).cqe.status
    };
    assert_eq!(io_status(&mut world), Status::CONNECT_CONTROLLER_BUSY);
    assert_eq!(
        admin_status(&mut world, HOST_A, NQN),
        Status::CONNECT_CONTROLLER_BUSY
    );
    assert_eq!(world.target.refused_connects().host_qpairs_full, 2);
    world.host(HOST_B);
    world.target.handle_disconnected(world.now, first);
    assert_eq!(io_status(&mut world), Status::SUCCESS);
}

#[test]
fn what_a_host_held_is_forgotten_with_it() {
    let mut world = limited(1, 3);
    world.hold_io = true;
    for round in 0..5 {
        let host = world.host(HOST_A);
        let one = BlockCommand {
            blocks: 1,
            ..BlockCommand::default()
        };
        let sqe = world.block_sqe(nvm::READ, one);
        world.send(host.io, &sqe, &[]);
        assert_eq!(world.target.hosts(), 1, "round {round}");
        world.target.handle_disconnected(world.now, host.admin);
        world.target.handle_disconnected(world.now, host.io);
        world.pump();
    }
    // The device still has a command of each association: the host they are charged to is the same one.
    assert_eq!(world.target.hosts(), 1);
    while let Some(held) = world.held_io.pop() {
        world.perform(held);
    }
    assert_eq!(world.target.hosts(), 0);
}

#[test]
fn refused_connects_are_counted_by_reason() {
    let mut world = World::with(TargetConfig {
        controllers_max: 1,
        ..TargetConfig::default()
    });
    let only = AllowedHosts::Only(vec![HOST_A.into()]);
    world
        .target
        .set_allowed_hosts(world.now, world.subsystem, only)
        .unwrap();
    admin_status(&mut world, HOST_B, NQN);
    world.connect_admin(HOST_A, NQN);
    admin_status(&mut world, HOST_A, NQN);
    let qp = world.connection();
    let command = world.connect_sqe(0);
    let wrong = ConnectData::new([0; 16], 0xffff, NQN, HOST_A);
    world.try_connect(qp, command, wrong);
    let qp = world.connection();
    let elsewhere = ConnectData::new(host_id(HOST_A), 0xffff, "nqn.x:nowhere", HOST_A);
    let sqe = world.connect_sqe(0).emit(1, Sgl::in_capsule(0, 1024));
    world.send(qp, &sqe, &elsewhere.emit());
    world.target.refuse_connect(world.now, qp);
    assert_eq!(
        world.target.refused_connects(),
        RefusedConnects {
            invalid: 2,
            host_not_allowed: 1,
            controllers_full: 1,
            ..RefusedConnects::default()
        }
    );
}

/// Sends reads until one is answered at once; says how many the target took.
fn take_slots(world: &mut World, host: &crate::world::Host) -> u32 {
    for taken in 0..10_000 {
        let sqe = world.block_sqe(
            nvm::READ,
            BlockCommand {
                blocks: 1,
                ..BlockCommand::default()
            },
        );
        world.send(host.io, &sqe, &[]);
        if let Some(status) = world.status(host.io, sqe.cid()) {
            assert_eq!(status, Status::COMMAND_INTERRUPTED.with_crd(1));
            return taken;
        }
    }
    panic!("slots without end");
}

#[test]
fn a_host_alone_leaves_command_slots_for_the_next() {
    // 24 slots beside the reserve: one host gets three quarters, a second one three quarters of what that left.
    let mut world = World::with(TargetConfig {
        commands_max: limits::ADMIN_RESERVE + 24,
        ..TargetConfig::default()
    });
    world.hold_io = true;
    let (greedy, modest) = (world.host(HOST_A), world.host(HOST_B));
    assert_eq!(take_slots(&mut world, &greedy), 18);
    assert_eq!(take_slots(&mut world, &modest), 5);
    // Under another NQN the greedy one would be another host; on another connection it is not.
    let again = world.host(HOST_A);
    assert_eq!(take_slots(&mut world, &again), 0);
    while let Some(held) = world.held_io.pop() {
        world.perform(held);
    }
    assert_eq!(take_slots(&mut world, &again), 18);
}

#[test]
fn admin_commands_that_never_get_their_data_leave_slots_for_other_hosts() {
    let mut world = World::with(TargetConfig {
        commands_max: limits::ADMIN_RESERVE + 4,
        ..TargetConfig::default()
    });
    world.hold_fetch = true;
    let (greedy, modest) = (world.host(HOST_A), world.host(HOST_B));
    let send = |world: &mut World, qp| {
        // Set Features, host behavior support: its data are fetched.
        let mut sqe = Sqe::new(admin::SET_FEATURES, world.cid(), 0);
        sqe.set_flags(0x40);
        sqe.set_dword(10, 0x16);
        sqe.set_sgl(Sgl::transport(512));
        world.send(qp, &sqe, &[0; 512]);
        world.status(qp, sqe.cid())
    };
    let mut held = 0;
    while send(&mut world, greedy.admin).is_none() {
        held += 1;
    }
    assert!((1..=limits::HOST_ADMIN_SLOTS + 4).contains(&held), "{held}");
    assert_eq!(send(&mut world, modest.admin), None);
}

#[test]
fn peers_that_keep_their_connect_to_themselves_leave_slots_for_hosts() {
    let mut world = World::with(TargetConfig {
        commands_max: limits::ADMIN_RESERVE + 16,
        ..TargetConfig::default()
    });
    let host = world.host(HOST_A);
    world.hold_fetch = true;
    let mut held = 0;
    let refused = loop {
        let qp = world.connection();
        let sqe = world.connect_sqe(0).emit(1, Sgl::transport(1024));
        world.send(qp, &sqe, &[0; 1024]);
        if let Some(status) = world.status(qp, 1) {
            break status;
        }
        held += 1;
    };
    assert_eq!(refused, Status::COMMAND_INTERRUPTED.with_crd(1));
    assert_eq!(held, (limits::ADMIN_RESERVE + 16) * 7 / 8);
    // What is left is the reserve of admin queues here; a real table has some for I/O too.
    let cid = world.cid();
    let mut sqe = Sqe::new(admin::SET_FEATURES, cid, 0);
    sqe.set_flags(0x40);
    sqe.set_dword(10, 0x16);
    sqe.set_sgl(Sgl::transport(512));
    world.send(host.admin, &sqe, &[0; 512]);
    assert_eq!(world.held_fetches.len(), held as usize + 1);
}

#[test]
fn log_pages_nobody_takes_are_bounded() {
    let mut world = World::new();
    let host = world.host(HOST_A);
    let bytes = 1u32 << 20;
    let mut queued = 0;
    for cid in 0..100 {
        let mut sqe = Sqe::new(admin::GET_LOG_PAGE, cid, 0xffff_ffff);
        sqe.set_flags(0x40);
        sqe.set_sgl(Sgl::transport(bytes));
        let dwords_zb = bytes / 4 - 1;
        sqe.set_dword(10, 0x01 | dwords_zb << 16);
        sqe.set_dword(11, dwords_zb >> 16);
        let none = nvme_target::InCapsule::None;
        world
            .target
            .handle_capsule(world.now, host.admin, &sqe, none, true);
    }
    world.pump();
    for cid in 0..100 {
        let reply = world.take(host.admin, cid).unwrap();
        if reply.cqe.status.is_success() {
            queued += reply.data.len();
        } else {
            assert_eq!(reply.cqe.status, Status::COMMAND_INTERRUPTED.with_crd(1));
        }
    }
    assert_eq!(queued, limits::REPLY_BYTES_MAX);
    // Taken, they are no burden any longer.
    assert_eq!(world.log(host.admin, 1, 4096).data.len(), 4096);
}
