//! Changes from the control plane while hosts are connected, and discovery.

use std::sync::Arc;
use std::time::Duration;

use nvme_spec::discovery::{DiscoveryEntry, DiscoveryHeader, SUBTYPE_CURRENT, SUBTYPE_NVM};
use nvme_spec::event::AsyncEvent;
use nvme_spec::fabrics::ConnectData;
use nvme_spec::identify::{IdentifyController, cns};
use nvme_spec::nqn::DISCOVERY_NQN;
use nvme_spec::register::Cc;
use nvme_spec::{Status, log};
use nvme_target::{
    AllowedHosts, ConfigError, DisconnectReason, DiscoveredSubsystem, Target, TargetConfig,
};
use units::Blocks;

use crate::world::{HOST_A, HOST_B, NQN, World, host_id, namespace, subsystem};

#[test]
fn a_host_taken_off_the_list_is_disconnected_others_stay() {
    let mut world = World::new();
    let (a, b) = (world.host(HOST_A), world.host(HOST_B));
    let only = AllowedHosts::Only(vec![HOST_B.into()]);
    world
        .target
        .set_allowed_hosts(world.now, world.subsystem, only)
        .unwrap();
    world.pump();
    let gone = DisconnectReason::HostNotAllowed;
    assert_eq!(world.disconnects, [(a.io, gone), (a.admin, gone)]);
    assert_eq!(world.read(b.io, 0, 1).cqe.status, Status::SUCCESS);
    let info = world.target.controllers(world.subsystem).unwrap();
    assert_eq!(
        (info.len(), info[0].hostnqn.as_str(), info[0].io_queues),
        (1, HOST_B, 1)
    );
}

#[test]
fn removing_a_subsystem_disconnects_its_hosts() {
    let mut world = World::new();
    let a = world.host(HOST_A);
    world
        .target
        .remove_subsystem(world.now, world.subsystem)
        .unwrap();
    world.pump();
    let gone = DisconnectReason::SubsystemRemoved;
    assert_eq!(world.disconnects, [(a.io, gone), (a.admin, gone)]);
    assert_eq!(
        world.target.remove_subsystem(world.now, world.subsystem),
        Err(ConfigError::SubsystemUnknown)
    );
    // A new subsystem in the same slot is not the old one.
    let id = world.target.add_subsystem(subsystem(NQN)).unwrap();
    assert_ne!(id, world.subsystem);
}

#[test]
fn a_resize_is_seen_at_once_and_told() {
    let mut world = World::new();
    let host = world.host(HOST_A);
    let aer = world.request_event(host.admin);
    world
        .target
        .resize_namespace(world.subsystem, 1, Blocks(100))
        .unwrap();
    world.pump();
    assert!(world.take(host.admin, aer).is_some());
    assert_eq!(world.read(host.io, 99, 1).cqe.status, Status::SUCCESS);
    assert_eq!(
        world.read(host.io, 100, 1).cqe.status,
        Status::LBA_OUT_OF_RANGE.dnr()
    );
    assert_eq!(
        world.target.resize_namespace(world.subsystem, 1, Blocks(0)),
        Err(ConfigError::SizeInvalid)
    );
}

#[test]
fn io_of_a_removed_namespace_is_answered_when_it_ends() {
    let mut world = World::new();
    let host = world.host(HOST_A);
    world.hold_io = true;
    let block = nvme_spec::io::BlockCommand {
        blocks: 1,
        ..Default::default()
    };
    let sqe = world.block_sqe(nvme_spec::opcode::nvm::READ, block);
    world.send(host.io, &sqe, &[]);
    world.target.remove_namespace(world.subsystem, 1).unwrap();
    assert_eq!(
        world.read(host.io, 0, 1).cqe.status,
        Status::INVALID_NAMESPACE.dnr()
    );
    let held = world.held_io.pop().unwrap();
    world.perform(held);
    assert_eq!(world.status(host.io, sqe.cid()), Some(Status::SUCCESS));
}

#[test]
fn bad_configuration_is_refused_by_kind() {
    let mut world = World::new();
    let id = world.subsystem;
    let mut nsid_zero = namespace(0);
    let target = &mut world.target;
    assert_eq!(
        target.add_namespace(id, nsid_zero.clone()),
        Err(ConfigError::NsidInvalid)
    );
    nsid_zero.nsid = 1;
    assert_eq!(
        target.add_namespace(id, nsid_zero),
        Err(ConfigError::NsidExists)
    );
    assert_eq!(
        target.remove_namespace(id, 9),
        Err(ConfigError::NamespaceUnknown)
    );
    assert_eq!(
        target.add_subsystem(subsystem(NQN)).err(),
        Some(ConfigError::NqnExists)
    );
    assert_eq!(
        target.add_subsystem(subsystem(DISCOVERY_NQN)).err(),
        Some(ConfigError::NqnInvalid)
    );
    assert_eq!(
        target.add_subsystem(subsystem("")).err(),
        Some(ConfigError::NqnInvalid)
    );
    let mut window = subsystem("nqn.x:a");
    window.cntlid_max = 0;
    assert_eq!(
        target.add_subsystem(window).err(),
        Some(ConfigError::CntlidRangeInvalid)
    );
    let mut text = subsystem("nqn.x:a");
    text.serial = "\u{e9}".into();
    assert_eq!(
        target.add_subsystem(text).err(),
        Some(ConfigError::TextInvalid)
    );
    let limit = TargetConfig {
        mdts_bytes: 5000,
        ..TargetConfig::default()
    };
    assert_eq!(
        Target::new(limit, world.now, 0).err(),
        Some(ConfigError::LimitInvalid)
    );
}

fn show(world: &mut World, names: &[(&str, AllowedHosts)], generation: u64) {
    let entries: Vec<DiscoveredSubsystem> = names
        .iter()
        .map(|(nqn, hosts)| DiscoveredSubsystem {
            nqn: (*nqn).into(),
            hosts: hosts.clone(),
        })
        .collect();
    world.target.set_discovery(Arc::from(entries), generation);
    world.pump();
}

#[test]
fn discovery_shows_a_host_what_it_may_connect_to() {
    // Base 2.0c §5.16.1.23, §3.1.2.3.
    let mut world = World::new();
    let only_b = AllowedHosts::Only(vec![HOST_B.into()]);
    show(
        &mut world,
        &[(NQN, AllowedHosts::Any), ("nqn.x:b", only_b)],
        5,
    );
    let (qp, _) = world.connect_admin(HOST_A, DISCOVERY_NQN);
    // Discovery hosts enable with entry sizes 0 or as for NVM.
    assert_eq!(world.set_cc(qp, Cc(1)), Status::SUCCESS);
    assert!(world.csts(qp).is_ready());
    let id = world.identify(qp, cns::CONTROLLER, 0);
    let id = IdentifyController::parse(id.data.as_slice().try_into().unwrap());
    assert_eq!((id.cntrltype, id.subnqn()), (2, Some(DISCOVERY_NQN)));
    assert_eq!(
        world.identify(qp, cns::NAMESPACE, 1).cqe.status,
        Status::INVALID_FIELD.dnr()
    );

    let page = world.log(qp, log::DISCOVERY, 4096).data;
    let header = DiscoveryHeader::parse(page.first_chunk().unwrap());
    assert_eq!((header.generation, header.records), (5, 2));
    let entry = |at: usize| DiscoveryEntry::parse(page[at..].first_chunk().unwrap());
    assert_eq!(
        (entry(1024).subtype, entry(1024).subnqn()),
        (SUBTYPE_CURRENT, Some(DISCOVERY_NQN))
    );
    assert_eq!(
        (
            entry(2048).subtype,
            entry(2048).subnqn(),
            entry(2048).traddr(),
            entry(2048).trsvcid()
        ),
        (SUBTYPE_NVM, Some(NQN), Some("192.0.2.1"), Some("8420"))
    );
    // Figure 264: bits 1:0 of TREQ would be taken for an offer of TLS, which is not there.
    assert_eq!((entry(2048).treq & 0b11, entry(2048).sectype), (0, 0));
    // Read in pieces it is the same page.
    let mut pieces = Vec::new();
    for offset in (0..3072u32).step_by(256) {
        let mut sqe = log::GetLogPage {
            lid: log::DISCOVERY,
            bytes: 256,
            offset: u64::from(offset),
            ..Default::default()
        }
        .emit(world.cid(), 0);
        sqe.set_dword(1, 0);
        pieces.extend(world.call(qp, &sqe, &[]).data);
    }
    assert_eq!(pieces, page[..3072]);
    // No I/O queues here.
    let io = world.connection();
    let command = world.connect_sqe(1);
    let data = ConnectData::new(host_id(HOST_A), 1, DISCOVERY_NQN, HOST_A);
    assert_eq!(
        world.try_connect(io, command, data).cqe.status,
        Status::INVALID_QUEUE_TYPE.dnr()
    );
}

#[test]
fn as_many_subsystems_as_configured_are_served_and_one_more_is_refused() {
    const MOST: u32 = 2048;
    let mut world = World::with(TargetConfig {
        subsystems_max: MOST,
        ..TargetConfig::default()
    });
    let name = |number: u32| format!("nqn.2019-05.io.openebs:s{number}");
    for number in 1..MOST {
        world
            .target
            .add_subsystem(subsystem(&name(number)))
            .unwrap();
    }
    assert_eq!(
        world.target.add_subsystem(subsystem(&name(MOST))).err(),
        Some(ConfigError::SubsystemsFull)
    );
    let names: Vec<String> = (0..MOST).map(name).collect();
    let entries: Vec<(&str, AllowedHosts)> = names
        .iter()
        .map(|name| (name.as_str(), AllowedHosts::Any))
        .collect();
    show(&mut world, &entries, 9);
    let (qp, _) = world.connect_admin(HOST_A, DISCOVERY_NQN);
    assert_eq!(world.set_cc(qp, Cc(1)), Status::SUCCESS);
    let page = world.log(qp, log::DISCOVERY, 4096).data;
    let header = DiscoveryHeader::parse(page.first_chunk().unwrap());
    assert_eq!(header.records, u64::from(MOST) + 1);
    let (last, _) = world.connect_admin(HOST_A, &name(MOST - 1));
    assert_eq!(world.set_cc(last, Cc::enable(0)), Status::SUCCESS);
    let id = world.identify(last, cns::CONTROLLER, 0);
    let id = IdentifyController::parse(id.data.as_slice().try_into().unwrap());
    assert_eq!(id.subnqn(), Some(name(MOST - 1).as_str()));
}

#[test]
fn a_persistent_discovery_host_is_told_of_changes() {
    // Base 2.0c §3.1.2.3, figure 148 (discovery log page change).
    let mut world = World::new();
    let (qp, _) = world.connect_admin(HOST_A, DISCOVERY_NQN);
    world.set_cc(qp, Cc::enable(0));
    let aer = world.request_event(qp);
    show(&mut world, &[(NQN, AllowedHosts::Any)], 1);
    let event = world.take(qp, aer).unwrap();
    assert_eq!(
        AsyncEvent::parse(event.cqe.result),
        AsyncEvent::DISCOVERY_CHANGED
    );
}

#[test]
fn a_discovery_connection_without_keep_alive_ends_when_idle() {
    // Base 2.0c §3.1.2.3.3: two minutes.
    let mut world = World::new();
    let qp = world.connection();
    let command = nvme_spec::fabrics::ConnectCommand {
        kato_ms: 0,
        ..world.connect_sqe(0)
    };
    let data = ConnectData::new(host_id(HOST_A), 0xffff, DISCOVERY_NQN, HOST_A);
    world.try_connect(qp, command, data);
    world.pass(Duration::from_secs(119));
    assert!(world.disconnects.is_empty());
    world.pass(Duration::from_secs(122));
    assert_eq!(
        world.disconnects,
        [(qp, DisconnectReason::KeepAliveExpired)]
    );
}

#[test]
fn keep_alive_timeouts_are_kept_within_the_configured_bounds() {
    // Base 2.0c §3.9: the controller may refuse a timeout it does not support; a host may go without.
    let mut world = World::with(TargetConfig {
        kato_ms_min: 2_000,
        kato_ms_max: 60_000,
        ..TargetConfig::default()
    });
    let subsystem = world.target.subsystem_id(NQN).unwrap();
    for (asked, granted) in [
        (0, Some(0)),
        (500, Some(2_000)),
        (60_000, Some(60_000)),
        (60_001, None),
    ] {
        let qp = world.connection();
        let command = nvme_spec::fabrics::ConnectCommand {
            kato_ms: asked,
            ..world.connect_sqe(0)
        };
        let data = ConnectData::new(host_id(HOST_A), 0xffff, NQN, HOST_A);
        world.try_connect(qp, command, data);
        let listed = world.target.controllers(subsystem).unwrap();
        assert_eq!(
            listed.first().map(|controller| controller.kato_ms),
            granted,
            "asked for {asked} ms"
        );
        let now = world.now;
        world.target.handle_disconnected(now, qp);
        world.pump();
    }
}

#[test]
fn discovery_controllers_are_listed_apart() {
    let mut world = World::new();
    let (admin, cntlid) = world.connect_admin(HOST_A, DISCOVERY_NQN);
    let listed = world.target.discovery_controllers();
    assert_eq!(listed.len(), 1);
    assert_eq!(
        (
            listed[0].hostnqn.as_str(),
            listed[0].cntlid,
            listed[0].admin
        ),
        (HOST_A, cntlid, admin)
    );
    assert_eq!(listed[0].io_queues, 0);
    assert_eq!(
        world.target.controllers(world.subsystem).unwrap(),
        Vec::new()
    );
    world.target.handle_disconnected(world.now, admin);
    assert!(world.target.discovery_controllers().is_empty());
}

#[test]
fn each_queue_is_told_to_belong_to_a_host_before_its_connect_is_answered() {
    let mut world = World::new();
    let host = world.host(HOST_A);
    assert_eq!(world.associated, [host.admin, host.io]);
    assert_eq!(world.target.describe(host.io).unwrap().1, HOST_A);
}
