//! Configuration changed while hosts are connected, over one and several reactors.

use std::sync::Arc;
use std::time::Duration;

use crate::bench_disk::Bench;
use crate::support::{Records, Rig, config, namespace, pattern};
use engine::control::dataplane::{DataPlane, ProblemKind, SubsystemSpec};
use io_engine_perf::client::discover;
use io_engine_perf::{HostIdentity, SessionOptions, Target};

const HOST_A: &str = "nqn.2014-08.org.nvmexpress:uuid:aaaaaaaa-0000-0000-0000-000000000001";
const HOST_B: &str = "nqn.2014-08.org.nvmexpress:uuid:bbbbbbbb-0000-0000-0000-000000000002";
const DISCOVERY: &str = "nqn.2014-08.org.nvmexpress.discovery";

#[test]
fn a_host_taken_off_the_list_is_disconnected_and_another_is_not() {
    let mut rig = Rig::new();
    let nqn = rig.serve("d", &["malloc:///m?size_mb=8"]);
    let mut a = rig.connect_as(&nqn, HOST_A, |_| {}).unwrap();
    let mut b = rig.connect_as(&nqn, HOST_B, |_| {}).unwrap();
    a.write(1, 0, &pattern(1, 512)).unwrap();
    rig.runtime
        .block_on(rig.plane.set_allowed_hosts(&nqn, Some(vec![HOST_B.into()])))
        .unwrap();
    assert!(a.read(1, 0, 1).is_err());
    assert!(b.read(1, 0, 1).unwrap() == pattern(1, 512));
    // Base 2.0c §6.3: Connect Invalid Host.
    let refused = rig
        .connect_as(&nqn, HOST_A, |_| {})
        .unwrap_err()
        .to_string();
    assert!(refused.contains("1/84"), "{refused}");
    rig.runtime
        .block_on(rig.plane.set_allowed_hosts(&nqn, None))
        .unwrap();
    rig.connect_as(&nqn, HOST_A, |_| {}).unwrap();
}

#[test]
fn namespaces_come_and_go_under_a_connected_host() {
    let mut rig = Rig::new();
    let nqn = rig.serve("d", &["malloc:///one?size_mb=8"]);
    let device = rig.open("malloc:///two?size_mb=4");
    let mut client = rig.connect(&nqn);
    rig.runtime
        .block_on(rig.plane.add_namespace(&nqn, namespace(7, device)))
        .unwrap();
    // Base 2.0c §5.2: Namespace Attribute Changed is a notice, event information 0.
    assert!(
        client
            .async_event(Duration::from_secs(5))
            .unwrap()
            .is_some(),
        "the host is told"
    );
    client.write_zeroes(7, 0, 8, false).unwrap();
    let problem = rig
        .runtime
        .block_on(rig.plane.close_device(device))
        .unwrap_err();
    assert_eq!(problem.kind(), ProblemKind::Busy);
    rig.runtime
        .block_on(rig.plane.remove_namespace(&nqn, 7))
        .unwrap();
    let status = client
        .write_zeroes(7, 0, 8, false)
        .unwrap_err()
        .status()
        .unwrap();
    assert_eq!(
        (status.sct(), status.sc()),
        (0, 0x0b),
        "Invalid Namespace or Format"
    );
    rig.runtime
        .block_on(rig.plane.close_device(device))
        .unwrap();
    client.write_zeroes(1, 0, 8, false).unwrap();
}

#[test]
fn a_grown_file_is_seen_by_a_connected_host() {
    let mut rig = Rig::new();
    let path = rig.file("grows", 8 << 20);
    let uri = format!("aio://{}", path.display());
    let device = rig.open(&uri);
    let nqn = String::from("nqn.2019-05.io.openebs:grows");
    let spec = SubsystemSpec {
        nqn: nqn.clone(),
        serial: "S".into(),
        allowed_hosts: None,
        namespaces: vec![namespace(1, device)],
    };
    rig.runtime.block_on(rig.plane.add_subsystem(spec)).unwrap();
    let mut client = rig.connect(&nqn);
    let last = (8 << 20) / 512;
    assert!(client.read(1, last, 1).is_err());
    std::fs::File::options()
        .write(true)
        .open(&path)
        .unwrap()
        .set_len(16 << 20)
        .unwrap();
    assert_eq!(
        rig.runtime
            .block_on(rig.plane.resize_device(device, None))
            .unwrap(),
        (16 << 20) / 512
    );
    assert!(
        client
            .async_event(Duration::from_secs(5))
            .unwrap()
            .is_some(),
        "the host is told"
    );
    client.write(1, last, &pattern(4, 512)).unwrap();
    assert!(client.read(1, last, 1).unwrap() == pattern(4, 512));
}

#[test]
fn a_device_that_says_it_is_empty_keeps_its_size() {
    let bench = Bench::default();
    let disk = bench.disk("d");
    let mut rig = Rig::with_store(
        config(),
        Arc::new(Records::default()),
        vec![Box::new(bench)],
    );
    let device = rig.open("bench:///d");
    let nqn = String::from("nqn.2019-05.io.openebs:empty");
    let spec = SubsystemSpec {
        nqn: nqn.clone(),
        serial: "S".into(),
        allowed_hosts: None,
        namespaces: vec![namespace(1, device)],
    };
    rig.runtime.block_on(rig.plane.add_subsystem(spec)).unwrap();
    let mut client = rig.connect(&nqn);
    disk.set().blocks = 0;
    let rescan = rig.plane.resize_device(device, None);
    let problem = rig.runtime.block_on(rescan).unwrap_err();
    assert_eq!(problem.kind(), ProblemKind::InvalidArgument);
    assert!(problem.to_string().contains("2048 blocks"), "{problem}");
    client.write(1, 2047, &pattern(5, 512)).unwrap();
    assert!(client.read(1, 2047, 1).unwrap() == pattern(5, 512));
    disk.set().blocks = 4096;
    let rescan = rig.plane.resize_device(device, None);
    assert_eq!(rig.runtime.block_on(rescan).unwrap(), 4096);
    client.write(1, 4095, &pattern(6, 512)).unwrap();
}

#[test]
fn subsystems_on_several_reactors_are_reached_through_one_port() {
    let mut plane = config();
    plane.cpus = vec![None, None, None];
    let mut rig = Rig::with(plane, Arc::default());
    let served: Vec<(String, u64)> = (0..6u64)
        .map(|at| {
            (
                rig.serve(&format!("s{at}"), &[&format!("malloc:///m{at}?size_mb=4")]),
                at,
            )
        })
        .collect();
    let mut clients: Vec<_> = served
        .iter()
        .map(|(nqn, at)| {
            let mut client = rig
                .connect_as(nqn, HOST_A, |options| options.io_queues = 3)
                .unwrap();
            client.write(1, 8, &pattern(*at, 8192)).unwrap();
            client
        })
        .collect();
    for (client, (_, at)) in clients.iter_mut().zip(&served) {
        assert!(client.read(1, 8, 16).unwrap() == pattern(*at, 8192));
    }
    let reactors = rig.runtime.block_on(rig.plane.reactors());
    assert!(
        reactors.iter().all(|reactor| reactor.connections == 8),
        "{reactors:?}"
    );
    assert_eq!(rig.runtime.block_on(rig.plane.controllers()).len(), 6);

    let options = SessionOptions::new(HostIdentity::named(HOST_B));
    let entries = discover(&Target::at(rig.address(), DISCOVERY), options).unwrap();
    let mut listed: Vec<_> = entries
        .iter()
        .map(|entry| text(&entry.subnqn))
        .filter(|nqn| nqn != DISCOVERY)
        .collect();
    listed.sort();
    assert_eq!(
        listed,
        served
            .iter()
            .map(|(nqn, _)| nqn.clone())
            .collect::<Vec<_>>()
    );
}

#[test]
fn devices_of_one_subsystem_are_brought_to_one_reactor() {
    let mut plane = config();
    plane.cpus = vec![None, None];
    let mut rig = Rig::with(plane, Arc::default());
    let file = rig.file("f", 8 << 20);
    let uris = [
        "malloc:///a?size_mb=4".to_owned(),
        format!("aio://{}", file.display()),
        "null:///n?size_mb=4".to_owned(),
    ];
    let nqn = rig.serve("d", &uris.each_ref().map(String::as_str));
    let mut client = rig.connect(&nqn);
    client.write(1, 0, &pattern(1, 4096)).unwrap();
    client.write(2, 0, &pattern(2, 4096)).unwrap();
    assert!(client.read(2, 0, 8).unwrap() == pattern(2, 4096));
    assert!(client.read(1, 0, 8).unwrap() == pattern(1, 4096));
    assert!(client.read(3, 0, 8).unwrap().iter().all(|byte| *byte == 0));
}

#[test]
fn removing_a_subsystem_disconnects_its_hosts_and_frees_its_devices() {
    let mut rig = Rig::new();
    let nqn = rig.serve("d", &["malloc:///m?size_mb=8"]);
    let mut client = rig.connect(&nqn);
    client.flush(1).unwrap();
    rig.runtime
        .block_on(rig.plane.remove_subsystem(&nqn))
        .unwrap();
    assert!(client.flush(1).is_err());
    let refused = rig
        .connect_as(&nqn, HOST_A, |_| {})
        .unwrap_err()
        .to_string();
    // Base 2.0c §6.3: an unknown subsystem NQN is Connect Invalid Parameters.
    assert!(refused.contains("1/82"), "{refused}");
}

#[test]
fn unknown_schemes_and_parameters_are_refused_by_name() {
    let rig = Rig::new();
    let refused = |uri: &str| {
        rig.runtime
            .block_on(rig.plane.open_device(uri))
            .unwrap_err()
    };
    let scheme = refused("ftl:///x");
    assert_eq!(scheme.kind(), ProblemKind::InvalidUri);
    assert_eq!(
        scheme.to_string(),
        "device URI scheme 'ftl' is unknown; use one of: aio, fault, malloc, null, uring"
    );
    let parameter = refused("malloc:///m?size_mb=8&blocksize=512");
    assert_eq!(parameter.kind(), ProblemKind::InvalidUri);
    assert!(parameter.to_string().contains("'blocksize'"), "{parameter}");
}

/// A text field padded with NUL.
fn text(field: &[u8]) -> String {
    String::from_utf8_lossy(field.split(|byte| *byte == 0).next().unwrap_or_default()).into_owned()
}
