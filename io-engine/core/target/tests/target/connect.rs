//! Connect, properties, the controller's states, and how associations end.

use std::time::Duration;

use nvme_spec::fabrics::{self, ConnectData, ConnectResult, InvalidParameter, PropertyCommand};
use nvme_spec::opcode::admin;
use nvme_spec::register::{self, Cap, Cc};
use nvme_spec::{Sgl, Sqe, Status};
use nvme_target::{ControllerEventKind, DisconnectReason, TargetConfig};

use crate::world::{HOST_A, HOST_B, NQN, World, facts, host_id};

fn data(host: &str) -> ConnectData {
    ConnectData::new(host_id(host), 0xffff, NQN, host)
}

#[test]
fn a_host_connects_and_enables_its_controller() {
    // Base 2.0c §6.3, §3.5.3.
    let mut world = World::new();
    let (admin, cntlid) = world.connect_admin(HOST_A, NQN);
    assert_eq!(cntlid, 1);
    assert_eq!(world.events[0].kind, ControllerEventKind::Connected);
    assert_eq!(world.events[0].hostnqn, HOST_A);

    let cap = Cap::parse(world.get_property(admin, register::CAP, 8).cqe.result);
    assert_eq!(cap.queue_entries_max, 128);
    assert!(cap.nvm_command_set);
    let vs = world.get_property(admin, register::VS, 4).cqe.result;
    assert_eq!(vs, 0x2_0000);
    assert!(!world.csts(admin).is_ready());
    world.enable(admin);
    let io = world.connect_io(HOST_A, cntlid, 1);
    assert_eq!(world.read(io, 0, 1).cqe.status, Status::SUCCESS);
}

#[test]
fn connect_data_may_be_fetched() {
    // NVMe/TCP 1.0c §3.2: data behind a transport descriptor come through R2T.
    let mut world = World::new();
    let qp = world.connection();
    let command = world.connect_sqe(0);
    let sqe = command.emit(1, Sgl::transport(1024));
    let reply = world.call(qp, &sqe, &data(HOST_A).emit());
    assert_eq!(reply.cqe.status, Status::SUCCESS);
    assert_eq!(world.target.commands_in_flight(), 0);
}

#[test]
fn a_bad_connect_is_refused_with_the_place_of_its_fault() {
    // Base 2.0c §6.3, figure 387.
    let mut world = World::new();
    let good = world.connect_sqe(0);
    let place = |status: Status, place: InvalidParameter| (status.dnr(), place.result());
    let bad = Status::CONNECT_INVALID_PARAMETERS;
    let mut cases = vec![
        (
            fabrics::ConnectCommand { recfmt: 1, ..good },
            data(HOST_A),
            place(
                Status::CONNECT_INCOMPATIBLE_FORMAT,
                InvalidParameter::Command(40),
            ),
        ),
        (
            fabrics::ConnectCommand {
                queue_entries: 1,
                ..good
            },
            data(HOST_A),
            place(bad, InvalidParameter::Command(44)),
        ),
        (
            fabrics::ConnectCommand {
                queue_entries: 5000,
                ..good
            },
            data(HOST_A),
            place(bad, InvalidParameter::Command(44)),
        ),
        (
            good,
            ConnectData {
                cntlid: 5,
                ..data(HOST_A)
            },
            place(bad, InvalidParameter::Data(16)),
        ),
        (
            good,
            ConnectData {
                host_id: [0; 16],
                ..data(HOST_A)
            },
            place(bad, InvalidParameter::Data(0)),
        ),
        (
            good,
            ConnectData {
                subnqn: [b'x'; 256],
                ..data(HOST_A)
            },
            place(bad, InvalidParameter::Data(256)),
        ),
        (
            good,
            ConnectData {
                hostnqn: [0; 256],
                ..data(HOST_A)
            },
            place(bad, InvalidParameter::Data(512)),
        ),
    ];
    for (command, data, expected) in cases.drain(..) {
        let qp = world.connection();
        let reply = world.try_connect(qp, command, data);
        assert_eq!((reply.cqe.status, reply.cqe.result), expected);
    }
    assert!(world.events.is_empty());
}

#[test]
fn an_io_queue_must_match_its_admin_queue() {
    // Base 2.0c §6.3.
    let mut world = World::new();
    let (admin, cntlid) = world.connect_admin(HOST_A, NQN);
    let io = world.connect_sqe(1);
    let own = ConnectData {
        cntlid,
        ..data(HOST_A)
    };
    let attempt = |world: &mut World, command, data| {
        let qp = world.connection();
        let reply = world.try_connect(qp, command, data);
        (reply.cqe.status, reply.cqe.result)
    };
    let invalid =
        |place: InvalidParameter| (Status::CONNECT_INVALID_PARAMETERS.dnr(), place.result());
    // Before CC.EN.
    let early = attempt(&mut world, io, own);
    assert_eq!(early, invalid(InvalidParameter::Command(42)));
    world.enable(admin);
    let other_host = ConnectData {
        cntlid,
        ..ConnectData::new(host_id(HOST_A), cntlid, NQN, HOST_B)
    };
    assert_eq!(
        attempt(&mut world, io, other_host),
        invalid(InvalidParameter::Data(512))
    );
    let other_id = ConnectData {
        host_id: [9; 16],
        ..own
    };
    assert_eq!(
        attempt(&mut world, io, other_id),
        invalid(InvalidParameter::Data(0))
    );
    let other_controller = ConnectData { cntlid: 99, ..own };
    assert_eq!(
        attempt(&mut world, io, other_controller),
        invalid(InvalidParameter::Data(16))
    );
    let too_high = fabrics::ConnectCommand { qid: 33, ..io };
    assert_eq!(
        attempt(&mut world, too_high, own),
        invalid(InvalidParameter::Command(42))
    );
    assert_eq!(attempt(&mut world, io, own).0, Status::SUCCESS);
    assert_eq!(
        attempt(&mut world, io, own).0,
        Status::COMMAND_SEQUENCE_ERROR.dnr()
    );
}

#[test]
fn a_connect_for_a_subsystem_elsewhere_is_the_engines_to_route() {
    // Base 2.0c §6.3: an unknown subsystem is an invalid parameter; first the engine is asked.
    let mut world = World::new();
    let qp = world.connection();
    let command = world.connect_sqe(0);
    let elsewhere = ConnectData::new(host_id(HOST_A), 0xffff, "nqn.x:elsewhere", HOST_A);
    let sqe = command.emit(1, Sgl::in_capsule(0, 1024));
    world.send(qp, &sqe, &elsewhere.emit());
    let (asked, connect) = world.unrouted.pop().unwrap();
    assert_eq!((asked, connect.subnqn.as_str()), (qp, "nqn.x:elsewhere"));
    // A second Connect meanwhile is out of sequence.
    let again = command.emit(2, Sgl::in_capsule(0, 1024));
    assert_eq!(
        world.call(qp, &again, &elsewhere.emit()).cqe.status,
        Status::COMMAND_SEQUENCE_ERROR.dnr()
    );
    world.target.refuse_connect(world.now, qp);
    world.pump();
    let reply = world.take(qp, 1).unwrap();
    assert_eq!(
        (reply.cqe.status, reply.cqe.result),
        (
            Status::CONNECT_INVALID_PARAMETERS.dnr(),
            InvalidParameter::Data(256).result()
        )
    );

    // The home reactor takes the same Connect up.
    let mut home = World::new();
    home.target
        .add_subsystem(crate::world::subsystem("nqn.x:elsewhere"))
        .unwrap();
    let moved = home.target.handle_connected(home.now, facts()).unwrap();
    home.target.replay_connect(home.now, moved, &connect);
    home.pump();
    let reply = home.take(moved, 1).unwrap();
    assert_eq!(reply.cqe.status, Status::SUCCESS);
    assert_eq!(reply.cqe.sqhd, 1);
}

#[test]
fn only_allowed_hosts_connect() {
    // Base 2.0c §6.3: Connect Invalid Host.
    let mut world = World::new();
    let only = nvme_target::AllowedHosts::Only(vec![HOST_B.into()]);
    world
        .target
        .set_allowed_hosts(world.now, world.subsystem, only)
        .unwrap();
    let qp = world.connection();
    let command = world.connect_sqe(0);
    let reply = world.try_connect(qp, command, data(HOST_A));
    assert_eq!(reply.cqe.status, Status::CONNECT_INVALID_HOST.dnr());
    world.connect_admin(HOST_B, NQN);
}

#[test]
fn controller_ids_stay_in_their_window_and_are_reused_last() {
    // Base 2.0c §3.1.1, dynamic controllers.
    let mut world = World::new();
    let mut config = crate::world::subsystem("nqn.x:window");
    (config.cntlid_min, config.cntlid_max) = (10, 11);
    world.target.add_subsystem(config).unwrap();
    let (first, a) = world.connect_admin(HOST_A, "nqn.x:window");
    let (_, b) = world.connect_admin(HOST_A, "nqn.x:window");
    assert_eq!((a, b), (10, 11));
    let qp = world.connection();
    let command = world.connect_sqe(0);
    let third = ConnectData::new(host_id(HOST_A), 0xffff, "nqn.x:window", HOST_A);
    assert_eq!(
        world.try_connect(qp, command, third).cqe.status,
        Status::CONNECT_CONTROLLER_BUSY
    );
    world.target.handle_disconnected(world.now, first);
    let (_, c) = world.connect_admin(HOST_A, "nqn.x:window");
    assert_eq!(c, 10);
}

#[test]
fn commands_before_connect_end_the_connection() {
    // Base 2.0c §3.3.2.2.
    let mut world = World::new();
    let qp = world.connection();
    let reply = world.call(qp, &PropertyCommand::get(3, register::CAP, 8), &[]);
    assert_eq!(reply.cqe.status, Status::COMMAND_SEQUENCE_ERROR.dnr());
    assert_eq!(world.disconnects, [(qp, DisconnectReason::NotConnected)]);
}

#[test]
fn a_connection_that_never_connects_is_dropped() {
    let mut world = World::new();
    let qp = world.connection();
    world.pass(Duration::from_secs(9));
    assert!(world.disconnects.is_empty());
    world.pass(Duration::from_secs(2));
    assert_eq!(world.disconnects, [(qp, DisconnectReason::ConnectTimeout)]);
}

#[test]
fn unknown_properties_are_invalid_fields() {
    // Base 2.0c §6.5, §6.6.
    let mut world = World::new();
    let (admin, _) = world.connect_admin(HOST_A, NQN);
    for (offset, width) in [
        (0x24, 8),
        (register::CAP, 4),
        (register::CC, 8),
        (0xffff_fff0, 4),
    ] {
        let status = world.get_property(admin, offset, width).cqe.status;
        assert_eq!(status, Status::INVALID_FIELD);
    }
    // As `nvme show-regs` walks: every property is there or not here, and the last, unknown one leaves no other error.
    for offset in (0..=0x3c).step_by(4) {
        let status = world.get_property(admin, offset, 4).cqe.status;
        assert!(
            matches!(status, Status::SUCCESS | Status::INVALID_FIELD),
            "{offset:#x}: {status:?}"
        );
    }
    let cap = PropertyCommand::set(9, register::CAP, 8, 1);
    assert_eq!(
        world.call(admin, &cap, &[]).cqe.status,
        Status::INVALID_FIELD.dnr()
    );
}

#[test]
fn an_unsupported_configuration_is_fatal_until_reset() {
    // Base 2.0c §3.1.3.5: settings outside what CAP offers.
    let mut world = World::new();
    let (admin, _) = world.connect_admin(HOST_A, NQN);
    world.set_cc(admin, Cc(1));
    assert!(world.csts(admin).is_fatal());
    world.set_cc(admin, Cc(0));
    world.enable(admin);
}

#[test]
fn a_controller_reset_closes_the_io_queues_and_keeps_the_admin_queue() {
    // Base 2.0c §3.7.2.
    let mut world = World::new();
    let host = world.host(HOST_A);
    world.request_event(host.admin);
    world.set_cc(host.admin, Cc(0));
    assert_eq!(
        world.disconnects,
        [(host.io, DisconnectReason::ControllerReset)]
    );
    assert!(!world.csts(host.admin).is_ready());
    let refused = world.identify(host.admin, 1, 0);
    assert_eq!(refused.cqe.status, Status::COMMAND_SEQUENCE_ERROR.dnr());
    world.target.handle_disconnected(world.now, host.io);
    world.enable(host.admin);
    let io = world.connect_io(HOST_A, host.cntlid, 1);
    assert_eq!(world.read(io, 0, 1).cqe.status, Status::SUCCESS);
}

#[test]
fn event_requests_that_a_reset_drops_are_named_and_their_entries_are_free() {
    // Base 2.0c §3.7.2. An admin queue of 32 entries, and many times as many requests.
    let mut world = World::new();
    let (admin, _) = world.connect_admin(HOST_A, NQN);
    let head = |world: &mut World| world.get_property(admin, register::CSTS, 4).cqe.sqhd;
    for _ in 0..100 {
        world.enable(admin);
        let before = head(&mut world);
        let dropped: Vec<_> = (0..4)
            .map(|_| (admin, world.request_event(admin)))
            .collect();
        world.set_cc(admin, Cc(0));
        assert_eq!(std::mem::take(&mut world.forgotten), dropped);
        // Four requests, the write to CC, the read of CSTS.
        assert_eq!(head(&mut world), (before + 6) % 32);
    }
    // A shutdown keeps them.
    world.enable(admin);
    let kept = world.request_event(admin);
    world.set_cc(admin, Cc::enable(6).with_shn(1));
    assert!(world.forgotten.is_empty() && world.take(admin, kept).is_none());
    assert!(world.disconnects.is_empty());
}

#[test]
fn shutdown_completes_when_the_io_in_flight_has_ended() {
    // Base 2.0c §3.6.1.
    let mut world = World::new();
    let host = world.host(HOST_A);
    world.hold_io = true;
    let block = nvme_spec::io::BlockCommand {
        blocks: 1,
        ..Default::default()
    };
    let sqe = world.block_sqe(nvme_spec::opcode::nvm::READ, block);
    world.send(host.io, &sqe, &[]);
    world.set_cc(host.admin, Cc::enable(6).with_shn(1));
    assert_eq!(world.csts(host.admin).shst(), 1);
    assert_eq!(
        world.disconnects,
        [(host.io, DisconnectReason::ControllerReset)]
    );
    let held = world.held_io.pop().unwrap();
    world.perform(held);
    assert_eq!(world.csts(host.admin).shst(), 2);
    assert_eq!(world.released, 1);
    assert!(world.take(host.io, sqe.cid()).is_none());
}

#[test]
fn keep_alive_expiry_ends_the_association() {
    // Base 2.0c §3.9.
    let mut world = World::new();
    let host = world.host(HOST_A);
    for _ in 0..4 {
        world.pass(Duration::from_secs(4));
        let cid = world.cid();
        let alive = world.call(host.admin, &Sqe::new(admin::KEEP_ALIVE, cid, 0), &[]);
        assert_eq!(alive.cqe.status, Status::SUCCESS);
    }
    // Traffic on an I/O queue counts as well (CTRATT.TBKAS).
    for _ in 0..4 {
        world.pass(Duration::from_secs(4));
        world.read(host.io, 0, 1);
    }
    assert!(world.disconnects.is_empty());
    world.pass(Duration::from_secs(11));
    assert_eq!(
        world.disconnects,
        [
            (host.io, DisconnectReason::KeepAliveExpired),
            (host.admin, DisconnectReason::KeepAliveExpired)
        ]
    );
    let kinds: Vec<_> = world.events.iter().map(|event| event.kind).collect();
    assert_eq!(
        kinds,
        [
            ControllerEventKind::KeepAliveExpired,
            ControllerEventKind::Disconnected
        ]
    );
}

#[test]
fn losing_the_admin_connection_takes_the_io_queues_along() {
    let mut world = World::new();
    let host = world.host(HOST_A);
    world.target.handle_disconnected(world.now, host.admin);
    world.pump();
    assert_eq!(
        world.disconnects,
        [(host.io, DisconnectReason::AdminQueueGone)]
    );
    world.target.handle_disconnected(world.now, host.io);
    world.target.handle_disconnected(world.now, host.io);
    assert_eq!(world.target.qpairs(), 0);
    // The host comes back as a new controller.
    let again = world.host(HOST_A);
    assert_ne!(again.cntlid, host.cntlid);
}

#[test]
fn disconnect_deletes_an_io_queue_only() {
    // Base 2.0c §6.4.
    let mut world = World::new();
    let host = world.host(HOST_A);
    let on_admin = world.call(host.admin, &fabrics::disconnect(5), &[]);
    assert_eq!(on_admin.cqe.status, Status::INVALID_QUEUE_TYPE.dnr());
    let on_io = world.call(host.io, &fabrics::disconnect(6), &[]);
    assert_eq!(on_io.cqe.status, Status::SUCCESS);
    assert_eq!(
        world.disconnects,
        [(host.io, DisconnectReason::HostRequest)]
    );
    world.target.handle_disconnected(world.now, host.io);
    world.connect_io(HOST_A, host.cntlid, 1);
}

#[test]
fn without_flow_control_connect_answers_ffff() {
    // Base 2.0c §6.3.
    let mut world = World::new();
    let qp = world.connection();
    let command = fabrics::ConnectCommand {
        sq_flow_control_disabled: true,
        ..world.connect_sqe(0)
    };
    let reply = world.try_connect(qp, command, data(HOST_A));
    assert_eq!(reply.cqe.sqhd, 0xffff);
    assert!(ConnectResult::parse(reply.cqe.result).cntlid > 0);
}

#[test]
fn the_head_pointer_counts_completions_around_the_queue() {
    // Base 2.0c §3.3.3.2.
    let mut world = World::new();
    let host = world.host(HOST_A);
    let heads: Vec<u16> = (0..40)
        .map(|_| world.read(host.io, 0, 1).cqe.sqhd)
        .collect();
    let expected: Vec<u16> = (0..40).map(|n| (n + 2) % 32).collect();
    assert_eq!(heads, expected);
}

#[test]
fn no_more_controllers_than_configured() {
    let config = TargetConfig {
        controllers_max: 1,
        ..TargetConfig::default()
    };
    let mut world = World::with(config);
    world.connect_admin(HOST_A, NQN);
    let qp = world.connection();
    let command = world.connect_sqe(0);
    let reply = world.try_connect(qp, command, data(HOST_B));
    assert_eq!(reply.cqe.status, Status::CONNECT_CONTROLLER_BUSY);
}
