//! Reservation commands between hosts (Base 2.0c §8.19). The rules themselves are tested beside the state.

use nvme_spec::event::AsyncEvent;
use nvme_spec::io::BlockCommand;
use nvme_spec::log::{RESERVATION_NOTIFICATION, ReservationNotification};
use nvme_spec::opcode::{admin, nvm};
use nvme_spec::reservation::{
    self as spec, Keys, RegisteredController, ReservationCommand, StatusHeader,
};
use nvme_spec::{Sgl, Sqe, Status, feature};
use nvme_target::{IoOp, PersistedReservations};

use crate::world::{HOST_A, HOST_B, Host, World, host_id, namespace};

fn command(action: u8, rtype: u8, cptpl: u8) -> ReservationCommand {
    ReservationCommand {
        action,
        ignore_existing_key: false,
        rtype,
        cptpl,
    }
}

fn sqe(world: &mut World, opcode: u8, fields: ReservationCommand) -> Sqe {
    let len = if opcode == nvm::RESERVATION_RELEASE {
        8
    } else {
        16
    };
    let mut sqe = Sqe::new(opcode, world.cid(), 1);
    sqe.set_flags(0x40);
    sqe.set_sgl(Sgl::in_capsule(0, len));
    sqe.set_dword(10, fields.emit());
    sqe
}

fn reserve(
    world: &mut World,
    host: &Host,
    opcode: u8,
    fields: ReservationCommand,
    keys: [u64; 2],
) -> Status {
    let sqe = sqe(world, opcode, fields);
    let keys = Keys {
        current: keys[0],
        other: keys[1],
    };
    let len = sqe.sgl().length() as usize;
    world.call(host.io, &sqe, &keys.emit()[..len]).cqe.status
}

fn register(world: &mut World, host: &Host, key: u64) {
    let fields = command(spec::REGISTER, 0, 0);
    let status = reserve(world, host, nvm::RESERVATION_REGISTER, fields, [0, key]);
    assert_eq!(status, Status::SUCCESS);
}

fn acquire(world: &mut World, host: &Host, rtype: u8, key: u64) -> Status {
    let fields = command(spec::ACQUIRE, rtype, 0);
    reserve(world, host, nvm::RESERVATION_ACQUIRE, fields, [key, 0])
}

fn report(world: &mut World, host: &Host) -> (StatusHeader, Vec<RegisteredController>) {
    let mut sqe = Sqe::new(nvm::RESERVATION_REPORT, world.cid(), 1);
    sqe.set_flags(0x40);
    sqe.set_sgl(Sgl::transport(512));
    sqe.set_dword(10, 512 / 4 - 1);
    sqe.set_dword(11, 1);
    let reply = world.call(host.io, &sqe, &[]);
    assert_eq!(reply.cqe.status, Status::SUCCESS);
    let header = StatusHeader::parse(reply.data.first_chunk().unwrap());
    let entries = reply.data[64..]
        .chunks_exact(64)
        .take(usize::from(header.registered))
        .map(|raw| RegisteredController::parse_extended(raw.first_chunk().unwrap()))
        .collect();
    (header, entries)
}

#[test]
fn a_reservation_keeps_other_hosts_from_writing() {
    let mut world = World::new();
    let (a, b) = (world.host(HOST_A), world.host(HOST_B));
    register(&mut world, &a, 0xa);
    assert_eq!(
        acquire(&mut world, &a, spec::WRITE_EXCLUSIVE, 0xa),
        Status::SUCCESS
    );
    assert_eq!(world.write(a.io, 0, &[1; 512]), Status::SUCCESS);
    assert_eq!(
        world.write(b.io, 0, &[2; 512]),
        Status::RESERVATION_CONFLICT.dnr()
    );
    assert_eq!(world.read(b.io, 0, 1).data, [1; 512]);
    assert_eq!(
        acquire(&mut world, &b, spec::WRITE_EXCLUSIVE, 0xb),
        Status::RESERVATION_CONFLICT.dnr(),
        "not a registrant"
    );
    // Exclusive access keeps readers out as well.
    let release = command(spec::RELEASE, spec::WRITE_EXCLUSIVE, 0);
    let status = reserve(&mut world, &a, nvm::RESERVATION_RELEASE, release, [0xa, 0]);
    assert_eq!(status, Status::SUCCESS);
    assert_eq!(world.write(b.io, 0, &[2; 512]), Status::SUCCESS);
    acquire(&mut world, &a, spec::EXCLUSIVE_ACCESS, 0xa);
    assert_eq!(
        world.read(b.io, 0, 1).cqe.status,
        Status::RESERVATION_CONFLICT.dnr()
    );
    let flush = Sqe::new(nvm::FLUSH, world.cid(), 1);
    assert_eq!(
        world.call(b.io, &flush, &[]).cqe.status,
        Status::RESERVATION_CONFLICT.dnr()
    );
}

#[test]
fn the_report_lists_registrants_and_the_holder() {
    // Base 2.0c §7.4.
    let mut world = World::new();
    let (a, b) = (world.host(HOST_A), world.host(HOST_B));
    register(&mut world, &a, 0xa);
    register(&mut world, &b, 0xb);
    acquire(&mut world, &b, spec::WRITE_EXCLUSIVE_REGISTRANTS, 0xb);
    let (header, entries) = report(&mut world, &a);
    assert_eq!(
        (
            header.generation,
            header.rtype,
            header.registered,
            header.ptpl
        ),
        (2, spec::WRITE_EXCLUSIVE_REGISTRANTS, 2, false)
    );
    assert_eq!(
        entries[1],
        RegisteredController {
            cntlid: b.cntlid,
            holder: true,
            host_id: host_id(HOST_B),
            key: 0xb
        }
    );
    // A registrant stays one without a connection.
    world.target.handle_disconnected(world.now, b.admin);
    world.pump();
    assert_eq!(report(&mut world, &a).1[1].cntlid, 0xffff);
    // The 64-bit form cannot name fabrics hosts.
    let mut short = Sqe::new(nvm::RESERVATION_REPORT, world.cid(), 1);
    short.set_flags(0x40);
    short.set_sgl(Sgl::transport(64));
    short.set_dword(10, 15);
    assert_eq!(
        world.call(a.io, &short, &[]).cqe.status,
        Status::HOST_ID_INCONSISTENT_FORMAT.dnr()
    );
}

#[test]
fn persistent_reservations_are_durable_before_they_are_answered() {
    // Base 2.0c §8.19.9 (CPTPL) and our promise: durable, then visible.
    let mut world = World::new();
    let (a, b) = (world.host(HOST_A), world.host(HOST_B));
    world.hold_persist = true;
    let fields = command(spec::REGISTER, 0, spec::PTPL_ON);
    let first = sqe(&mut world, nvm::RESERVATION_REGISTER, fields);
    let keys = Keys {
        current: 0,
        other: 0xa,
    };
    world.send(a.io, &first, &keys.emit());
    assert_eq!(world.status(a.io, first.cid()), None);
    // Another host's command waits for its turn.
    let second = sqe(
        &mut world,
        nvm::RESERVATION_REGISTER,
        command(spec::REGISTER, 0, 0),
    );
    let keys = Keys {
        current: 0,
        other: 0xb,
    };
    world.send(b.io, &second, &keys.emit());
    assert_eq!(world.held_persists.len(), 1);
    let held = world.held_persists.pop().unwrap();
    world.store(held, true);
    assert_eq!(world.status(a.io, first.cid()), Some(Status::SUCCESS));
    assert_eq!(world.status(b.io, second.cid()), None);
    // The store fails: so does the command, and nothing has changed.
    let held = world.held_persists.pop().unwrap();
    world.store(held, false);
    assert_eq!(
        world.status(b.io, second.cid()),
        Some(Status::INTERNAL_ERROR)
    );
    world.hold_persist = false;
    assert_eq!(report(&mut world, &a).1.len(), 1);
    assert_eq!(
        acquire(&mut world, &a, spec::EXCLUSIVE_ACCESS, 0xa),
        Status::SUCCESS
    );

    // The engine restarts with what was stored.
    let record = PersistedReservations::from_bytes(&world.stored[&1]).unwrap();
    let mut again = World::new();
    again.target.remove_namespace(again.subsystem, 1).unwrap();
    let mut config = namespace(1);
    config.reservations = Some(record);
    again.target.add_namespace(again.subsystem, config).unwrap();
    let b = again.host(HOST_B);
    assert_eq!(
        again.read(b.io, 0, 1).cqe.status,
        Status::RESERVATION_CONFLICT.dnr()
    );
    let a = again.host(HOST_A);
    assert_eq!(again.read(a.io, 0, 1).cqe.status, Status::SUCCESS);
    let (header, _) = report(&mut again, &a);
    assert_eq!((header.ptpl, header.generation), (true, 1));
}

#[test]
fn a_waiting_command_leaves_with_its_connection() {
    let mut world = World::new();
    let (a, b) = (world.host(HOST_A), world.host(HOST_B));
    world.hold_persist = true;
    let fields = command(spec::REGISTER, 0, spec::PTPL_ON);
    let keys = Keys {
        current: 0,
        other: 1,
    }
    .emit();
    let first = sqe(&mut world, nvm::RESERVATION_REGISTER, fields);
    world.send(a.io, &first, &keys);
    let second = sqe(&mut world, nvm::RESERVATION_REGISTER, fields);
    world.send(b.io, &second, &keys);
    world.target.handle_disconnected(world.now, b.io);
    world.target.handle_disconnected(world.now, a.io);
    world.pump();
    let held = world.held_persists.pop().unwrap();
    world.store(held, true);
    assert!(world.held_persists.is_empty());
    assert_eq!(world.target.commands_in_flight(), 0);
}

#[test]
fn persistence_is_a_feature_too() {
    // Base 2.0c §5.27.1.27.
    let mut world = World::new();
    let a = world.host(HOST_A);
    register(&mut world, &a, 0xa);
    assert!(world.stored.is_empty(), "without PTPL nothing is stored");
    let set = |world: &mut World, value| {
        let mut sqe = Sqe::new(admin::SET_FEATURES, world.cid(), 1);
        sqe.set_dword(10, u32::from(feature::RESERVATION_PERSISTENCE));
        sqe.set_dword(11, value);
        world.call(a.admin, &sqe, &[]).cqe.status
    };
    assert_eq!(set(&mut world, 1), Status::SUCCESS);
    let record = PersistedReservations::from_bytes(&world.stored[&1]).unwrap();
    assert_eq!((record.ptpl, record.registrants.len()), (true, 1));
    assert_eq!(set(&mut world, 0), Status::SUCCESS);
    let record = PersistedReservations::from_bytes(&world.stored[&1]).unwrap();
    assert!(record.is_empty());
}

#[test]
fn preempt_and_abort_waits_for_the_writes_of_the_preempted() {
    // Base 2.0c §8.19.7.
    let mut world = World::new();
    let (a, b) = (world.host(HOST_A), world.host(HOST_B));
    register(&mut world, &a, 0xa);
    register(&mut world, &b, 0xb);
    acquire(&mut world, &b, spec::WRITE_EXCLUSIVE, 0xb);
    // One write of B is in the device, one waits for its data.
    world.hold_io = true;
    let block = BlockCommand {
        blocks: 1,
        ..BlockCommand::default()
    };
    let in_device = world.block_sqe(nvm::WRITE, block);
    world.send(b.io, &in_device, &[2; 512]);
    world.hold_fetch = true;
    let fetching = block.emit(nvm::WRITE, world.cid(), 1, Sgl::transport(512));
    world.send(b.io, &fetching, &[3; 512]);
    let fields = command(spec::PREEMPT_AND_ABORT, spec::WRITE_EXCLUSIVE, 0);
    let preempt = sqe(&mut world, nvm::RESERVATION_ACQUIRE, fields);
    let keys = Keys {
        current: 0xa,
        other: 0xb,
    };
    world.send(a.io, &preempt, &keys.emit());
    assert_eq!(world.status(a.io, preempt.cid()), None);
    let fetch = world.held_fetches.pop().unwrap();
    world.deliver(fetch);
    assert_eq!(
        world.status(b.io, fetching.cid()),
        Some(Status::ABORTED_PREEMPT)
    );
    assert_eq!(world.status(a.io, preempt.cid()), None);
    let held = world.held_io.pop().unwrap();
    world.perform(held);
    assert_eq!(world.status(b.io, in_device.cid()), Some(Status::SUCCESS));
    assert_eq!(world.status(a.io, preempt.cid()), Some(Status::SUCCESS));
    world.hold_io = false;
    assert_eq!(
        world.write(b.io, 0, &[4; 512]),
        Status::RESERVATION_CONFLICT.dnr()
    );
    assert_eq!(world.write(a.io, 0, &[5; 512]), Status::SUCCESS);
}

#[test]
fn a_write_that_lost_its_right_while_fetching_is_refused() {
    let mut world = World::new();
    let (a, b) = (world.host(HOST_A), world.host(HOST_B));
    register(&mut world, &a, 0xa);
    world.hold_fetch = true;
    let block = BlockCommand {
        blocks: 1,
        ..BlockCommand::default()
    };
    let late = block.emit(nvm::WRITE, world.cid(), 1, Sgl::transport(512));
    world.send(b.io, &late, &[3; 512]);
    acquire(&mut world, &a, spec::WRITE_EXCLUSIVE, 0xa);
    let fetch = world.held_fetches.pop().unwrap();
    world.deliver(fetch);
    assert_eq!(
        world.status(b.io, late.cid()),
        Some(Status::RESERVATION_CONFLICT.dnr())
    );
    assert!(
        !world
            .io_log
            .iter()
            .any(|op| matches!(op, IoOp::Write { .. }))
    );
}

#[test]
fn preempted_hosts_are_notified_unless_they_mask_it() {
    // Base 2.0c §8.19.10, §5.16.1.24, §5.27.1.26.
    let mut world = World::new();
    let (a, b) = (world.host(HOST_A), world.host(HOST_B));
    let aer = world.request_event(b.admin);
    register(&mut world, &a, 0xa);
    register(&mut world, &b, 0xb);
    acquire(&mut world, &b, spec::WRITE_EXCLUSIVE, 0xb);
    let fields = command(spec::PREEMPT, spec::WRITE_EXCLUSIVE, 0);
    let preempt =
        |world: &mut World| reserve(world, &a, nvm::RESERVATION_ACQUIRE, fields, [0xa, 0xb]);
    assert_eq!(preempt(&mut world), Status::SUCCESS);
    let event = world.take(b.admin, aer).unwrap();
    assert_eq!(
        AsyncEvent::parse(event.cqe.result),
        AsyncEvent::RESERVATION_LOG_AVAILABLE
    );
    let page = world.log(b.admin, RESERVATION_NOTIFICATION, 64).data;
    let notification = ReservationNotification::parse(page.first_chunk().unwrap());
    assert_eq!(
        (
            notification.count,
            notification.kind,
            notification.nsid,
            notification.available
        ),
        (1, 1, 1, 0)
    );
    let page = world.log(b.admin, RESERVATION_NOTIFICATION, 64).data;
    assert_eq!(page, [0; 64]);

    // Masked: registration preempted is bit 1.
    let mut mask = Sqe::new(admin::SET_FEATURES, world.cid(), 1);
    mask.set_dword(10, u32::from(feature::RESERVATION_NOTIFICATION_MASK));
    mask.set_dword(11, 0b10);
    assert_eq!(world.call(b.admin, &mask, &[]).cqe.status, Status::SUCCESS);
    let aer = world.request_event(b.admin);
    register(&mut world, &b, 0xb);
    assert_eq!(preempt(&mut world), Status::SUCCESS);
    assert!(world.take(b.admin, aer).is_none());
}

#[test]
fn a_record_that_was_tampered_with_is_not_believed() {
    let mut world = World::new();
    let a = world.host(HOST_A);
    let fields = command(spec::REGISTER, 0, spec::PTPL_ON);
    reserve(&mut world, &a, nvm::RESERVATION_REGISTER, fields, [0, 0xa]);
    let raw = world.stored[&1].clone();
    assert_eq!(
        PersistedReservations::from_bytes(&raw).unwrap().to_bytes(),
        raw
    );
    for at in 0..raw.len() {
        let mut bad = raw.clone();
        bad[at] ^= 0x10;
        assert!(PersistedReservations::from_bytes(&bad).is_err());
        assert!(PersistedReservations::from_bytes(&raw[..at]).is_err());
    }
}
