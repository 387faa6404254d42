//! What operators are shown of a running engine: how long things take, and what is in flight.

use std::sync::Arc;
use std::time::{Duration, Instant};

use block::stats::{CountedOp, IoStats};
use engine::control::dataplane::{DataPlane, InflightIo};

use crate::bench_disk::Bench;
use crate::support::{Records, Rig, config, pattern};

const HOST: &str = "nqn.2014-08.org.nvmexpress:uuid:aaaaaaaa-0000-0000-0000-000000000001";

#[test]
fn what_a_ram_disk_does_at_once_takes_time() {
    for uri in ["malloc:///m?size_mb=16", "null:///n?size_mb=16"] {
        let mut rig = Rig::new();
        let nqn = rig.serve("d", &[uri]);
        let device = rig.handle(uri);
        let mut client = rig.connect(&nqn);
        let begun = Instant::now();
        // In its capsule, and asked for by R2T.
        for len in [4096, 16 << 10] {
            for at in 0..20 {
                client.write(1, at * 512, &pattern(at, len)).unwrap();
                client.read(1, at * 512, (len / 512) as u32).unwrap();
            }
        }
        client.flush(1).unwrap();
        let devices = rig.runtime.block_on(rig.plane.device_stats());
        let subsystems = rig.runtime.block_on(rig.plane.subsystem_stats());
        let passed = begun.elapsed().as_nanos() as u64;
        let of_device = devices.iter().find(|(handle, _)| *handle == device);
        let of_subsystem = subsystems.iter().find(|(name, _)| *name == nqn);
        let (of_device, of_subsystem) = (&of_device.unwrap().1, &of_subsystem.unwrap().1);
        for (op, ops) in [
            (CountedOp::Read, 40),
            (CountedOp::Write, 40),
            (CountedOp::Flush, 1),
        ] {
            takes_time(uri, of_device, op, ops);
            takes_time(uri, of_subsystem, op, ops);
            let (device, subsystem) = (of_device.of(op), of_subsystem.of(op));
            assert!(
                device.latency_ns_sum <= subsystem.latency_ns_sum,
                "{uri} {op:?}: the device's part is a part"
            );
        }
        // One at a time, so their times do not overlap.
        let sum: u64 = of_subsystem.ops.iter().map(|op| op.latency_ns_sum).sum();
        assert!(sum <= passed, "{uri}: {sum} ns in {passed} ns");
    }
}

fn takes_time(uri: &str, stats: &IoStats, op: CountedOp, ops: u64) {
    let of = stats.of(op);
    assert_eq!(of.ops, ops, "{uri} {op:?}");
    assert!(of.latency_ns_min > 0, "{uri} {op:?}");
    assert!(of.latency_ns_sum >= ops * of.latency_ns_min);
    assert!(of.latency_ns_sum <= ops * of.latency_ns_max);
    assert_eq!(of.histogram.iter().sum::<u64>(), ops, "{uri} {op:?}");
}

#[test]
fn what_is_overdue_is_listed_with_its_host() {
    let bench = Bench::default();
    let disk = bench.disk("d");
    let mut plane = config();
    plane.device.deadline = Duration::from_millis(300);
    let mut rig = Rig::with_store(plane, Arc::new(Records::default()), vec![Box::new(bench)]);
    let nqn = rig.serve("d", &["bench:///d"]);
    disk.set().hold_writes = true;
    let mut client = rig.connect_as(&nqn, HOST, |_| {}).unwrap();
    // Answered at its deadline; the device has it still.
    client.write(1, 0, &pattern(1, 512)).unwrap_err();
    let listed = inflight(&rig);
    is_of_the_host(&listed, &nqn, 1);
    assert!(stages(&listed[0]).contains(&"overdue"), "{listed:?}");
    drop(client);
    rig.until("the host is gone", |rig| rig.connections() == 0);
    is_of_the_host(&inflight(&rig), &nqn, 1);

    disk.set().hold_writes = false;
    rig.until("the device has let go", |rig| inflight(rig).is_empty());
}

fn inflight(rig: &Rig) -> Vec<InflightIo> {
    rig.runtime.block_on(rig.plane.inflight(100))
}

fn stages(io: &InflightIo) -> Vec<&str> {
    io.stages.iter().map(|(stage, _)| stage.as_str()).collect()
}

fn is_of_the_host(listed: &[InflightIo], nqn: &str, count: usize) {
    assert_eq!(listed.len(), count, "{listed:?}");
    for io in listed {
        assert_eq!(
            (io.subnqn.as_str(), io.hostnqn.as_str(), io.nsid),
            (nqn, HOST, 1),
            "{io:?}"
        );
        assert!(io.qid > 0 && io.operation == "write", "{io:?}");
    }
}
