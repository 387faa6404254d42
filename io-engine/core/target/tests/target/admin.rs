//! Identify, features, log pages, events, Abort.

use nvme_spec::event::AsyncEvent;
use nvme_spec::identify::{
    IdentifyController, IdentifyNamespace, IndependentNamespace, NamespaceDescriptors, Page, cns,
    parse_namespace_list,
};
use nvme_spec::io::{BlockCommand, NSID_ALL};
use nvme_spec::log::{self, AnaGroup, AnaHeader, ErrorLogEntry, HealthLog};
use nvme_spec::opcode::{admin, nvm};
use nvme_spec::{Sgl, Sqe, Status, ascii_trimmed, feature};

use crate::world::{DISK_BLOCKS, HOST_A, Host, NQN, Reply, World, host_id, namespace};

fn page(reply: &Reply) -> &Page {
    assert_eq!(reply.cqe.status, Status::SUCCESS);
    reply.data.as_slice().try_into().unwrap()
}

fn set_feature(world: &mut World, host: &Host, nsid: u32, fid: u8, value: u32) -> Reply {
    let mut sqe = Sqe::new(admin::SET_FEATURES, world.cid(), nsid);
    sqe.set_dword(10, u32::from(fid));
    sqe.set_dword(11, value);
    world.call(host.admin, &sqe, &[])
}

fn get_feature(
    world: &mut World,
    host: &Host,
    nsid: u32,
    fid: u8,
    select: u32,
    value: u32,
) -> Reply {
    let cdw10 = u32::from(fid) | select << 8;
    world.admin(host.admin, admin::GET_FEATURES, nsid, cdw10, value, 4096)
}

#[test]
fn the_controller_says_what_it_is() {
    // Base 2.0c §5.17.2.1.
    let mut world = World::new();
    let host = world.host(HOST_A);
    let reply = world.identify(host.admin, cns::CONTROLLER, 0);
    let id = IdentifyController::parse(page(&reply));
    assert_eq!(ascii_trimmed(&id.mn), Some("Mayastor NVMe controller"));
    assert_eq!(ascii_trimmed(&id.sn), Some("DCS0123456789"));
    assert_eq!(id.subnqn(), Some(NQN));
    assert_eq!(
        (id.cntlid, id.cntrltype, id.ver),
        (host.cntlid, 1, 0x2_0000)
    );
    assert_eq!(id.data_bytes_max(), Some(1 << 20));
    assert_eq!(id.in_capsule_bytes(), 8192);
    assert_eq!((id.sqes, id.cqes, id.kas_100ms), (0x66, 0x44, 1));
    // Compare, DSM, Write Zeroes, reservations; fused compare-and-write.
    assert_eq!((id.oncs, id.fuses), (0b10_1101, 1));
    assert_eq!((id.cmic, id.anacap, id.nanagrpid), (0b1011, 0x41, 1));
    assert_eq!(id.vwc, 0b111);
}

#[test]
fn capabilities_follow_the_namespaces() {
    let mut world = World::new();
    let mut poor = namespace(2);
    poor.capabilities.write_zeroes = false;
    poor.capabilities.compare = false;
    world.target.add_namespace(world.subsystem, poor).unwrap();
    let host = world.host(HOST_A);
    let reply = world.identify(host.admin, cns::CONTROLLER, 0);
    let id = IdentifyController::parse(page(&reply));
    assert_eq!((id.oncs, id.fuses), (0b10_0100, 0));
}

#[test]
fn namespaces_are_described_in_every_form() {
    // Base 2.0c §5.17.2, NVM Command Set 1.0c §4.1.5.
    let mut world = World::new();
    world
        .target
        .add_namespace(world.subsystem, namespace(7))
        .unwrap();
    let host = world.host(HOST_A);
    let reply = world.identify(host.admin, cns::NAMESPACE, 1);
    let id = IdentifyNamespace::parse(page(&reply));
    assert_eq!(
        (id.nsze, id.ncap, id.nvmcap),
        (DISK_BLOCKS, DISK_BLOCKS, u128::from(DISK_BLOCKS) * 512)
    );
    assert_eq!(
        (id.format_0.block_shift, id.nguid, id.nmic, id.rescap),
        (9, [1; 16], 1, 0xff)
    );
    assert_eq!((id.atomic_compare_blocks, id.anagrpid), (8, 1));
    let ids = NamespaceDescriptors::parse(page(&world.identify(
        host.admin,
        cns::NAMESPACE_DESCRIPTORS,
        7,
    )));
    assert_eq!((ids.nguid, ids.uuid), ([7; 16], [0x87; 16]));
    let independent = IndependentNamespace::parse(page(&world.identify(
        host.admin,
        cns::INDEPENDENT_NAMESPACE,
        1,
    )));
    assert!(independent.ready);
    for list in [
        cns::ACTIVE_NAMESPACES,
        cns::ALLOCATED_NAMESPACES,
        cns::CSI_ACTIVE_NAMESPACES,
    ] {
        let reply = world.identify(host.admin, list, 0);
        assert_eq!(
            parse_namespace_list(page(&reply)).collect::<Vec<_>>(),
            [1, 7]
        );
        let reply = world.identify(host.admin, list, 1);
        assert_eq!(parse_namespace_list(page(&reply)).collect::<Vec<_>>(), [7]);
    }
    // Inactive: all zeroes. Impossible: an error.
    assert_eq!(
        world.identify(host.admin, cns::NAMESPACE, 2).data,
        [0; 4096]
    );
    for nsid in [0, 1025] {
        let status = world.identify(host.admin, cns::NAMESPACE, nsid).cqe.status;
        assert_eq!(status, Status::INVALID_NAMESPACE.dnr());
    }
    let all = IdentifyNamespace::parse(page(&world.identify(host.admin, cns::NAMESPACE, NSID_ALL)));
    assert_eq!((all.nsze, all.format_0.block_shift), (0, 9));
    for cns in [
        cns::CSI_NAMESPACE,
        cns::CSI_CONTROLLER,
        cns::ALLOCATED_NAMESPACE,
        cns::IO_COMMAND_SETS,
    ] {
        page(&world.identify(host.admin, cns, 1));
    }
    for cns in [cns::CONTROLLERS, cns::NAMESPACE_CONTROLLERS] {
        assert_eq!(world.identify(host.admin, cns, 1).data[..4], [1, 0, 1, 0]);
    }
    assert_eq!(
        world.identify(host.admin, 0x99, 1).cqe.status,
        Status::INVALID_FIELD.dnr()
    );
    // Another command set than NVM.
    let zoned = world.admin(
        host.admin,
        admin::IDENTIFY,
        1,
        u32::from(cns::CSI_NAMESPACE),
        2 << 24,
        4096,
    );
    assert_eq!(zoned.cqe.status, Status::INVALID_FIELD.dnr());
    // A buffer too small for the page.
    let short = world.admin(
        host.admin,
        admin::IDENTIFY,
        1,
        u32::from(cns::NAMESPACE),
        0,
        512,
    );
    assert_eq!(short.cqe.status, Status::DATA_SGL_LENGTH_INVALID.dnr());
}

#[test]
fn every_feature_can_be_read_and_those_that_can_be_set() {
    // Base 2.0c §5.15, §5.27.
    let mut world = World::new();
    let host = world.host(HOST_A);
    let cases = [
        (feature::ARBITRATION, 0, 0x0102_0307, 0x0102_0307),
        (feature::POWER_MANAGEMENT, 0, 0x20, 0x20),
        (feature::TEMPERATURE_THRESHOLD, 0, 350, 350),
        (feature::ERROR_RECOVERY, 1, 9, 9),
        (feature::VOLATILE_WRITE_CACHE, 0, 1, 1),
        (feature::WRITE_ATOMICITY, 0, 1, 1),
        (feature::ASYNC_EVENT_CONFIG, 0, 0x100, 0x100),
        (feature::KEEP_ALIVE_TIMER, 0, 12_345, 12_400),
        (feature::RESERVATION_NOTIFICATION_MASK, 1, 0b110, 0b110),
        (feature::RESERVATION_PERSISTENCE, 1, 1, 1),
    ];
    for (fid, nsid, value, expected) in cases {
        assert_eq!(
            set_feature(&mut world, &host, nsid, fid, value).cqe.status,
            Status::SUCCESS,
            "{fid:#x}"
        );
        let current = get_feature(&mut world, &host, nsid, fid, 0, 0);
        assert_eq!(
            (current.cqe.status, current.cqe.result),
            (Status::SUCCESS, expected),
            "{fid:#x}"
        );
    }
    // Defaults are untouched, and nothing is saveable.
    assert_eq!(
        get_feature(&mut world, &host, 0, feature::ARBITRATION, 1, 0)
            .cqe
            .result,
        7
    );
    assert_eq!(
        get_feature(&mut world, &host, 0, feature::ARBITRATION, 2, 0)
            .cqe
            .result,
        7
    );
    assert_eq!(
        get_feature(&mut world, &host, 0, feature::ARBITRATION, 3, 0)
            .cqe
            .result,
        4
    );
    assert_eq!(
        get_feature(&mut world, &host, 1, feature::RESERVATION_PERSISTENCE, 3, 0)
            .cqe
            .result,
        6
    );
    let save = u32::from(feature::ARBITRATION) | 1 << 31;
    let saved = world.admin(host.admin, admin::SET_FEATURES, 0, save, 0, 0);
    assert_eq!(saved.cqe.status, Status::FEATURE_NOT_SAVEABLE.dnr());
    // Unknown, not changeable, out of range, out of sequence.
    for (fid, value, expected) in [
        (0x08, 0, Status::INVALID_FIELD.dnr()),
        (0x0d, 0, Status::INVALID_FIELD.dnr()),
        (
            feature::VOLATILE_WRITE_CACHE,
            0,
            Status::FEATURE_NOT_CHANGEABLE.dnr(),
        ),
        (feature::POWER_MANAGEMENT, 1, Status::INVALID_FIELD.dnr()),
        (
            feature::NUMBER_OF_QUEUES,
            0,
            Status::COMMAND_SEQUENCE_ERROR.dnr(),
        ),
        (
            feature::HOST_IDENTIFIER,
            1,
            Status::COMMAND_SEQUENCE_ERROR.dnr(),
        ),
        (
            feature::ASYNC_EVENT_CONFIG,
            1 << 31,
            Status::INVALID_FIELD.dnr(),
        ),
        (
            feature::RESERVATION_NOTIFICATION_MASK,
            1,
            Status::INVALID_NAMESPACE.dnr(),
        ),
    ] {
        let reply = set_feature(&mut world, &host, 0, fid, value);
        assert_eq!(reply.cqe.status, expected, "{fid:#x}");
    }
    let own = get_feature(&mut world, &host, 0, feature::HOST_IDENTIFIER, 0, 1);
    assert_eq!(own.data, host_id(HOST_A));
    let short = get_feature(&mut world, &host, 0, feature::HOST_IDENTIFIER, 0, 0);
    assert_eq!(short.cqe.status, Status::INVALID_FIELD.dnr());
}

#[test]
fn queues_are_granted_before_there_are_any() {
    // Base 2.0c §5.27.1.5.
    let mut world = World::new();
    let (admin_qp, cntlid) = world.connect_admin(HOST_A, NQN);
    world.enable(admin_qp);
    let host = Host {
        admin: admin_qp,
        io: admin_qp,
        cntlid,
    };
    let all = set_feature(
        &mut world,
        &host,
        0,
        feature::NUMBER_OF_QUEUES,
        99 | 99 << 16,
    );
    assert_eq!(all.cqe.result, 31 | 31 << 16);
    let few = set_feature(&mut world, &host, 0, feature::NUMBER_OF_QUEUES, 3 | 4 << 16);
    assert_eq!(few.cqe.result, 3 | 3 << 16);
    let bad = set_feature(&mut world, &host, 0, feature::NUMBER_OF_QUEUES, 0xffff);
    assert_eq!(bad.cqe.status, Status::INVALID_FIELD.dnr());
    for qid in 1..=4 {
        world.connect_io(HOST_A, cntlid, qid);
    }
}

#[test]
fn host_behavior_comes_as_data() {
    // Base 2.0c §5.27.1.18.
    let mut world = World::new();
    let host = world.host(HOST_A);
    let mut data = [0; 512];
    data[0] = 1;
    for sgl in [Sgl::in_capsule(0, 512), Sgl::transport(512)] {
        let mut sqe = Sqe::new(admin::SET_FEATURES, world.cid(), 0);
        sqe.set_flags(0x40);
        sqe.set_sgl(sgl);
        sqe.set_dword(10, u32::from(feature::HOST_BEHAVIOR_SUPPORT));
        assert_eq!(
            world.call(host.admin, &sqe, &data).cqe.status,
            Status::SUCCESS
        );
        data[0] = 2;
        sqe.set_cid(world.cid());
        assert_eq!(
            world.call(host.admin, &sqe, &data).cqe.status,
            Status::INVALID_FIELD.dnr()
        );
        data[0] = 1;
    }
    let now = get_feature(&mut world, &host, 0, feature::HOST_BEHAVIOR_SUPPORT, 0, 0);
    assert_eq!((now.data.len(), now.data[0]), (512, 1));
}

#[test]
fn every_log_page_listed_can_be_read() {
    // Base 2.0c §5.16.1.1.
    let mut world = World::new();
    let host = world.host(HOST_A);
    let listed = world.log(host.admin, log::SUPPORTED, 1024).data;
    let lids: Vec<u8> = (0..=255)
        .filter(|lid| listed[usize::from(*lid) * 4] & 1 != 0)
        .collect();
    assert_eq!(lids, [0, 1, 2, 3, 4, 5, 0xc, 0x12, 0x13, 0x80]);
    for lid in 0..=255 {
        let status = world.log(host.admin, lid, 512).cqe.status;
        let expected = if lids.contains(&lid) {
            Status::SUCCESS
        } else {
            Status::INVALID_LOG_PAGE.dnr()
        };
        assert_eq!(status, expected, "{lid:#x}");
    }
    // Compare is an I/O command with an entry in the effects page.
    let effects = world.log(host.admin, log::EFFECTS, 4096).data;
    assert_eq!(effects[1024 + usize::from(nvm::COMPARE) * 4] & 1, 1);
    assert_eq!(effects[usize::from(admin::IDENTIFY) * 4] & 1, 1);
    // Linux warns of an I/O command that reports more than CSUPP and LBCC.
    for entry in effects[1024..2048].chunks_exact(4) {
        assert_eq!(u32::from_le_bytes(entry.try_into().unwrap()) & !0b11, 0);
    }
}

#[test]
fn a_refused_fabrics_command_is_logged_without_a_namespace() {
    // Base 2.0c §6: byte 4 of a fabrics command is its type, not a namespace.
    let mut world = World::new();
    let host = world.host(HOST_A);
    let refused = world.get_property(host.admin, 0xffc, 4);
    assert!(!refused.cqe.status.is_success());
    let page = world.log(host.admin, log::ERROR, 64).data;
    let entry = ErrorLogEntry::parse(page.first_chunk().unwrap());
    assert_eq!((entry.cid, entry.nsid), (refused.cqe.cid, 0));
}

#[test]
fn log_pages_are_read_in_pieces() {
    // Base 2.0c §5.16.1: offset in bytes, dword aligned, not past the end.
    let mut world = World::new();
    let host = world.host(HOST_A);
    let whole = world.log(host.admin, log::EFFECTS, 4096).data;
    let piece = |world: &mut World, offset: u64| {
        let mut sqe = Sqe::new(admin::GET_LOG_PAGE, world.cid(), 0);
        sqe.set_flags(0x40);
        sqe.set_sgl(Sgl::transport(64));
        sqe.set_dword(10, u32::from(log::EFFECTS) | 15 << 16);
        sqe.set_qword(12, offset);
        world.call(host.admin, &sqe, &[])
    };
    assert_eq!(piece(&mut world, 1024).data, whole[1024..1088]);
    assert_eq!(piece(&mut world, 4096).data, [0; 64]);
    for offset in [4100, 2, u64::MAX - 3] {
        assert_eq!(
            piece(&mut world, offset).cqe.status,
            Status::INVALID_FIELD.dnr()
        );
    }
}

#[test]
fn errors_and_io_are_counted() {
    // Base 2.0c §5.16.1.2, §5.16.1.3.
    let mut world = World::new();
    let host = world.host(HOST_A);
    for _ in 0..1000 {
        world.write(host.io, 0, &[1; 1024]);
        world.read(host.io, 0, 1);
    }
    let bad = world.read(host.io, DISK_BLOCKS, 1);
    assert!(!bad.cqe.status.is_success());
    let page = world.log(host.admin, log::HEALTH, 512).data;
    let health = HealthLog::parse(page.first_chunk().unwrap());
    assert_eq!((health.host_reads, health.host_writes), (1000, 1000));
    assert_eq!((health.data_units_read, health.data_units_written), (1, 2));
    assert_eq!((health.error_log_entries, health.temperature_k), (1, 298));
    let page = world.log(host.admin, log::ERROR, 4096).data;
    let entry = ErrorLogEntry::parse(page.first_chunk().unwrap());
    assert_eq!(
        (entry.error_count, entry.sqid, entry.cid, entry.status),
        (1, 1, bad.cqe.cid, Status::LBA_OUT_OF_RANGE.dnr())
    );
    // The ring keeps the newest 64.
    for _ in 0..70 {
        world.read(host.io, DISK_BLOCKS, 1);
    }
    let page = world.log(host.admin, log::ERROR, 4096).data;
    let first = ErrorLogEntry::parse(page.first_chunk().unwrap());
    let last = ErrorLogEntry::parse(page[63 * 64..].first_chunk().unwrap());
    assert_eq!((first.error_count, last.error_count), (71, 8));
}

#[test]
fn ana_reports_one_optimized_group() {
    // Base 2.0c §8.1, §5.16.1.13.
    let mut world = World::new();
    world
        .target
        .add_namespace(world.subsystem, namespace(4))
        .unwrap();
    let host = world.host(HOST_A);
    let page = world.log(host.admin, log::ANA, 64).data;
    let header = AnaHeader::parse(page.first_chunk().unwrap());
    let group = AnaGroup::parse(page[16..].first_chunk().unwrap());
    assert_eq!(
        (header.groups, group.group, group.namespaces, group.state),
        (1, 1, 2, 1)
    );
    assert_eq!(page[48..56], [1, 0, 0, 0, 4, 0, 0, 0]);
}

#[test]
fn a_fifth_event_request_is_too_many() {
    // Base 2.0c §5.2: AERL.
    let mut world = World::new();
    let host = world.host(HOST_A);
    let cids: Vec<u16> = (0..4).map(|_| world.request_event(host.admin)).collect();
    let fifth = world.request_event(host.admin);
    assert_eq!(
        world.status(host.admin, fifth),
        Some(Status::AER_LIMIT_EXCEEDED.dnr())
    );
    assert!(
        cids.iter()
            .all(|cid| world.take(host.admin, *cid).is_none())
    );
}

#[test]
fn an_event_is_told_once_until_its_page_is_read() {
    // Base 2.0c §5.2.
    let mut world = World::new();
    let host = world.host(HOST_A);
    let first = world.request_event(host.admin);
    let second = world.request_event(host.admin);
    for nsid in [2, 3] {
        world
            .target
            .add_namespace(world.subsystem, namespace(nsid))
            .unwrap();
    }
    world.pump();
    let event = world.take(host.admin, first).unwrap();
    assert_eq!(
        AsyncEvent::parse(event.cqe.result),
        AsyncEvent::NAMESPACE_ATTRIBUTE_CHANGED
    );
    assert!(world.take(host.admin, second).is_none());
    let changed = world.log(host.admin, log::CHANGED_NAMESPACES, 4096).data;
    assert_eq!(changed[..12], [2, 0, 0, 0, 3, 0, 0, 0, 0, 0, 0, 0]);
    world.target.remove_namespace(world.subsystem, 2).unwrap();
    world.pump();
    assert!(world.take(host.admin, second).is_some());
    assert_eq!(
        world.log(host.admin, log::CHANGED_NAMESPACES, 4096).data[..8],
        [2, 0, 0, 0, 0, 0, 0, 0]
    );
}

#[test]
fn events_not_configured_are_not_told() {
    // Base 2.0c §5.27.1.8.
    let mut world = World::new();
    let host = world.host(HOST_A);
    set_feature(&mut world, &host, 0, feature::ASYNC_EVENT_CONFIG, 0);
    let cid = world.request_event(host.admin);
    world
        .target
        .add_namespace(world.subsystem, namespace(2))
        .unwrap();
    world.pump();
    assert!(world.take(host.admin, cid).is_none());
}

fn abort(world: &mut World, host: &Host, sqid: u16, cid: u16) -> Sqe {
    let mut sqe = Sqe::new(admin::ABORT, world.cid(), 0);
    sqe.set_dword(10, u32::from(sqid) | u32::from(cid) << 16);
    world.send(host.admin, &sqe, &[]);
    sqe
}

#[test]
fn abort_ends_what_has_not_reached_the_device() {
    // Base 2.0c §5.1.
    let mut world = World::new();
    let host = world.host(HOST_A);
    // An event request.
    let aer = world.request_event(host.admin);
    let sqe = abort(&mut world, &host, 0, aer);
    assert_eq!(world.status(host.admin, aer), Some(Status::ABORT_REQUESTED));
    assert_eq!(world.take(host.admin, sqe.cid()).unwrap().cqe.result, 0);
    // A write whose data are on their way: ends with them, the Abort after it.
    world.hold_fetch = true;
    let block = BlockCommand {
        blocks: 1,
        ..BlockCommand::default()
    };
    let write = block.emit(nvm::WRITE, world.cid(), 1, Sgl::transport(512));
    world.send(host.io, &write, &[1; 512]);
    let sqe = abort(&mut world, &host, 1, write.cid());
    assert!(world.take(host.admin, sqe.cid()).is_none());
    let fetch = world.held_fetches.pop().unwrap();
    world.deliver(fetch);
    assert_eq!(
        world.status(host.io, write.cid()),
        Some(Status::ABORT_REQUESTED)
    );
    assert_eq!(world.take(host.admin, sqe.cid()).unwrap().cqe.result, 0);
    assert!(world.io_log.is_empty());
    // A read in the device, and a command that is not there: not aborted.
    world.hold_io = true;
    let read = world.block_sqe(nvm::READ, block);
    world.send(host.io, &read, &[]);
    for (sqid, cid) in [(1, read.cid()), (1, 0xdead), (9, 1), (0, 1)] {
        let sqe = abort(&mut world, &host, sqid, cid);
        assert_eq!(world.take(host.admin, sqe.cid()).unwrap().cqe.result, 1);
    }
    assert_eq!(world.target.commands_in_flight(), 1);
}

#[test]
fn aborts_wait_in_bounded_number() {
    // Base 2.0c §5.1: ACL.
    let mut world = World::new();
    let host = world.host(HOST_A);
    world.hold_fetch = true;
    let block = BlockCommand {
        blocks: 1,
        ..BlockCommand::default()
    };
    let mut aborts = Vec::new();
    for _ in 0..5 {
        let write = block.emit(nvm::WRITE, world.cid(), 1, Sgl::transport(512));
        world.send(host.io, &write, &[1; 512]);
        aborts.push(abort(&mut world, &host, 1, write.cid()));
    }
    assert_eq!(
        world.status(host.admin, aborts[4].cid()),
        Some(Status::ABORT_LIMIT_EXCEEDED)
    );
    // The queue goes: the Aborts have succeeded.
    world.target.handle_disconnected(world.now, host.io);
    world.pump();
    for sqe in &aborts[..4] {
        assert_eq!(world.take(host.admin, sqe.cid()).unwrap().cqe.result, 0);
    }
    assert_eq!(world.target.commands_in_flight(), 0);
}

#[test]
fn unknown_admin_commands_are_invalid_opcodes() {
    let mut world = World::new();
    let host = world.host(HOST_A);
    for opcode in [admin::CREATE_SQ, admin::DELETE_CQ, 0x0d, 0x80, 0xc1] {
        let sqe = Sqe::new(opcode, world.cid(), 0);
        assert_eq!(
            world.call(host.admin, &sqe, &[]).cqe.status,
            Status::INVALID_OPCODE.dnr()
        );
    }
}
