//! Which NVMe status a host gets for each kind of error a device has, with the fault device making the errors.
//!
//! The table in `docs/nvme-support.md` ("What a device answers becomes a status") says the same in words.

use std::sync::Arc;
use std::time::Duration;

use engine::control::dataplane::{Access, DataPlane, DeviceHandle, NamespaceSpec, SubsystemSpec};
use io_engine_perf::{Client, ClientError};
use nvme_spec::Status;
use nvme_spec::reservation::{
    ACQUIRE, Keys, PTPL_UNCHANGED, REGISTER, ReservationCommand, WRITE_EXCLUSIVE,
};

use crate::support::{Rig, config, namespace, pattern};

const URI: &str = "fault:///f?device=malloc:///m?size_mb=4";
/// Blocks of the disk.
const BLOCKS: u64 = (4 << 20) / 512;

struct Faults {
    rig: Rig,
    nqn: String,
    device: DeviceHandle,
}

impl Faults {
    fn new() -> Self {
        let mut plane = config();
        plane.device.deadline = Duration::from_secs(1);
        let mut rig = Rig::with(plane, Arc::default());
        let nqn = rig.serve("f", &[URI]);
        let device = rig.handle(URI);
        Self { rig, nqn, device }
    }

    fn client(&self) -> Client {
        self.rig.connect(&self.nqn)
    }

    /// Gives the device a command of its language.
    fn tell(&self, command: &str) {
        let told = self.rig.plane.command_device(self.device, command);
        let told = self.rig.runtime.block_on(told);
        told.unwrap_or_else(|problem| panic!("{command}: {problem}"));
    }

    /// Opens the device again once what an earlier deadline left in it has ended.
    fn reopen(&self) {
        self.rig.until("the device is open again", |rig| {
            let again = rig.plane.reopen_device(self.device, URI);
            rig.runtime.block_on(again).is_ok()
        });
    }
}

/// What a host does, by the name of the operation that fails in the device.
fn ask(client: &mut Client, verb: &str) -> Result<(), ClientError> {
    match verb {
        "read" => client.read(1, 8, 8).map(drop),
        "write" => client.write(1, 8, &pattern(1, 4096)),
        "compare" => client.compare(1, 8, &pattern(1, 4096)),
        "zeroes" => client.write_zeroes(1, 8, 8, false),
        "discard" => client.deallocate(1, &[(8, 8)]),
        "flush" => client.flush(1),
        _ => panic!("{verb} is no operation"),
    }
}

fn status(result: Result<(), ClientError>) -> Status {
    match result {
        Ok(()) => Status::SUCCESS,
        Err(error) => error.status().unwrap_or_else(|| panic!("{error}")),
    }
}

/// The kind of error, what the host does while every operation fails with it, and the status it gets.
const TABLE: [(&str, &str, Status); 29] = {
    let range = Status::LBA_OUT_OF_RANGE.dnr();
    let space = Status::CAPACITY_EXCEEDED.dnr();
    let read = Status::UNRECOVERED_READ_ERROR.dnr();
    let write = Status::WRITE_FAULT.dnr();
    let busy = Status::COMMAND_INTERRUPTED.with_crd(1);
    [
        // Base 2.0c §3.3.3.2.1: generic status, values of the NVM command set.
        ("out-of-range", "read", range),
        ("out-of-range", "write", range),
        ("out-of-range", "compare", range),
        ("out-of-range", "zeroes", range),
        ("no-space", "write", space),
        ("no-space", "zeroes", space),
        // Base 2.0c §3.3.3.2.1: media and data integrity errors; which one, says what the host did.
        ("medium", "read", read),
        ("medium", "compare", read),
        ("medium", "write", write),
        ("medium", "zeroes", write),
        ("medium", "discard", write),
        // Base 2.0c §3.3.3.2.1, figure 94. Without Do Not Retry, because the next attempt may be answered in time.
        ("timeout", "read", Status::INTERNAL_ERROR),
        ("timeout", "write", Status::INTERNAL_ERROR),
        ("timeout", "discard", Status::INTERNAL_ERROR),
        // Base 2.0c §5.17.2.1: the retry delay is CRDT1.
        ("busy", "read", busy),
        ("busy", "write", busy),
        ("busy", "compare", busy),
        ("busy", "zeroes", busy),
        ("compare-failed", "compare", Status::COMPARE_FAILURE.dnr()),
        ("aborted", "read", Status::ABORTED_SQ_DELETION),
        ("aborted", "write", Status::ABORTED_SQ_DELETION),
        ("aborted", "discard", Status::ABORTED_SQ_DELETION),
        // The device is offline from then on, whoever asks for whatever.
        ("gone", "read", Status::NAMESPACE_NOT_READY.dnr()),
        ("gone", "write", Status::NAMESPACE_NOT_READY.dnr()),
        ("gone", "discard", Status::NAMESPACE_NOT_READY.dnr()),
        ("not-supported", "read", Status::INVALID_OPCODE.dnr()),
        ("not-supported", "write", Status::INVALID_OPCODE.dnr()),
        // Zeroes are written instead, which fails in the same way; a discard is advice. The device is not asked for either again,
        // so these are the last.
        ("not-supported", "zeroes", Status::INVALID_OPCODE.dnr()),
        ("not-supported", "discard", Status::SUCCESS),
    ]
};

#[test]
fn each_kind_of_device_error_has_its_status() {
    let faults = Faults::new();
    let mut client = faults.client();
    ask(&mut client, "write").unwrap();
    for (kind, verb, expected) in TABLE {
        faults.tell(&format!("add error kind={kind} op=all"));
        let found = status(ask(&mut client, verb));
        assert_eq!(found, expected, "{kind} on {verb}");
        if kind == "gone" {
            // Nothing is believed that it says afterwards.
            faults.tell("remove all");
            assert_eq!(status(ask(&mut client, "read")), expected);
            faults.reopen();
            // Opening it again brings back the rules of its URI, which has none.
            match status(ask(&mut client, "flush")) {
                Status::SUCCESS => {}
                // It had acknowledged writes that no flush made durable.
                told => assert_eq!(told, Status::WRITE_FAULT.dnr()),
            }
        } else {
            faults.tell("remove all");
        }
        ask(&mut client, "write").unwrap_or_else(|error| panic!("after {kind} on {verb}: {error}"));
        ask(&mut client, "read").unwrap_or_else(|error| panic!("after {kind} on {verb}: {error}"));
    }
}

#[test]
fn a_flush_that_fails_is_told_and_one_of_a_lost_device_takes_it_offline() {
    let faults = Faults::new();
    let mut client = faults.client();
    for (kind, expected) in [
        ("medium", Status::WRITE_FAULT.dnr()),
        ("no-space", Status::CAPACITY_EXCEEDED.dnr()),
        ("timeout", Status::INTERNAL_ERROR),
        // Base 2.0c §7.1: what was written before may be lost, so nothing read later can be trusted to be it.
        ("gone", Status::NAMESPACE_NOT_READY.dnr()),
    ] {
        ask(&mut client, "write").unwrap();
        faults.tell(&format!("add error kind={kind} op=flush"));
        assert_eq!(status(ask(&mut client, "flush")), expected, "{kind}");
        let read = status(ask(&mut client, "read"));
        if kind == "gone" {
            assert_eq!(read, expected);
            faults.reopen();
        } else {
            assert_eq!(read, Status::SUCCESS, "{kind}");
            faults.tell("remove all");
        }
        // This host saw the flush fail.
        ask(&mut client, "flush").unwrap();
    }
}

#[test]
fn an_operation_that_is_stuck_is_answered_at_its_deadline_and_ends_harmlessly() {
    let faults = Faults::new();
    let mut client = faults.client();
    ask(&mut client, "write").unwrap();
    for verb in ["read", "write", "discard"] {
        faults.tell("add stuck op=all count=1");
        assert_eq!(
            status(ask(&mut client, verb)),
            Status::INTERNAL_ERROR,
            "{verb}"
        );
        // Others are served meanwhile, elsewhere on the disk too.
        client.write(1, 4096, &pattern(2, 4096)).unwrap();
        assert!(client.read(1, 4096, 8).unwrap() == pattern(2, 4096));
        faults.tell("release");
        faults.tell("remove all");
        // Until it has ended nothing else may change these blocks: a host that comes too early is told to come again.
        faults.rig.until("the blocks are free again", |_| {
            ask(&mut client, "write").is_ok()
        });
        ask(&mut client, "read").unwrap();
    }
}

#[test]
fn a_host_is_told_of_its_own_mistakes_whatever_the_device_does() {
    let faults = Faults::new();
    let mut client = faults.client();
    let data = pattern(3, 4096);
    client.write(1, 8, &data).unwrap();
    // Whatever reaches the device fails in another way.
    faults.tell("add error kind=busy op=all");
    let past_the_end = BLOCKS - 4;
    // NVM Command Set 1.0c §3.2.4, §3.2.6: a range that is not in the namespace.
    for asked in [
        client.read(1, past_the_end, 8).map(drop),
        client.write(1, past_the_end, &data),
        client.write_zeroes(1, past_the_end, 8, false),
    ] {
        assert_eq!(status(asked), Status::LBA_OUT_OF_RANGE.dnr());
    }
    // Base 2.0c §3.2.1: no such namespace.
    let elsewhere = client.read(2, 0, 8).map(drop);
    assert_eq!(status(elsewhere), Status::INVALID_NAMESPACE.dnr());
    faults.tell("remove all");
    // NVM Command Set 1.0c §3.2.1: other data than there.
    let differs = client.compare(1, 8, &pattern(4, 4096));
    assert_eq!(status(differs), Status::COMPARE_FAILURE.dnr());
    client.compare(1, 8, &data).unwrap();
}

#[test]
fn a_reservation_refuses_before_the_device_is_asked() {
    // Base 2.0c §7.2: write exclusive.
    let faults = Faults::new();
    let mut holder = faults.client();
    let host = "nqn.2014-08.org.nvmexpress:uuid:22222222-2222-2222-2222-222222222222";
    let mut other = faults.rig.connect_as(&faults.nqn, host, |_| {}).unwrap();
    let command = |action, rtype| ReservationCommand {
        action,
        ignore_existing_key: false,
        rtype,
        cptpl: PTPL_UNCHANGED,
    };
    let keys = |current, other| Keys { current, other };
    holder
        .reservation_register(1, command(REGISTER, 0), keys(0, 7))
        .unwrap();
    holder
        .reservation_acquire(1, command(ACQUIRE, WRITE_EXCLUSIVE), keys(7, 0))
        .unwrap();
    faults.tell("add error kind=medium op=all");
    for verb in ["write", "zeroes", "discard"] {
        let expected = Status::RESERVATION_CONFLICT.dnr();
        assert_eq!(status(ask(&mut other, verb)), expected, "{verb}");
    }
    let read = Status::UNRECOVERED_READ_ERROR.dnr();
    assert_eq!(status(ask(&mut other, "read")), read, "reads are not");
    let write = Status::WRITE_FAULT.dnr();
    assert_eq!(
        status(ask(&mut holder, "write")),
        write,
        "nor is the holder"
    );
}

#[test]
fn a_read_only_namespace_refuses_before_the_device_is_asked() {
    // Base 2.0c §3.3.3.2.1: Namespace is Write Protected.
    let mut rig = Rig::new();
    let device = rig.open(URI);
    let nqn = "nqn.2019-05.io.openebs:f";
    let spec = SubsystemSpec {
        nqn: nqn.to_owned(),
        serial: "DCS0123456789abcdef".into(),
        allowed_hosts: None,
        namespaces: vec![NamespaceSpec {
            access: Access::ReadOnly,
            ..namespace(1, device)
        }],
    };
    let added = rig.runtime.block_on(rig.plane.add_subsystem(spec));
    added.unwrap_or_else(|problem| panic!("{problem}"));
    let mut client = rig.connect(nqn);
    for verb in ["write", "zeroes", "discard"] {
        let expected = Status::NAMESPACE_WRITE_PROTECTED.dnr();
        assert_eq!(status(ask(&mut client, verb)), expected, "{verb}");
    }
    assert!(client.read(1, 8, 8).unwrap().iter().all(|byte| *byte == 0));
    ask(&mut client, "flush").unwrap();
}
