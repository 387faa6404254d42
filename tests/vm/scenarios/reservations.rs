//! Two hosts take turns holding one disk.

use vm_tests::{Connection, Lab, Scenario, Vm};

pub(crate) const SCENARIO: Scenario = Scenario {
    name: "reservations",
    about: "register, acquire, preempt, release and report between two hosts",
    provokes: &[
        "reservation conflict",
        "Reservation Conflict",
        "critical nexus error",
        "I/O Cmd",
        // The two things the kernel says about `multipath=N`.
        "multipathing not supported",
        "Support for shared namespaces without",
    ],
    run,
};

const HOST_A: &str = "--hostnqn=nqn.2014-08.org.nvmexpress:uuid:aaaaaaaa-0000-4000-8000-000000000001 \
                      --hostid=aaaaaaaa-0000-4000-8000-000000000001";
const HOST_B: &str = "--hostnqn=nqn.2014-08.org.nvmexpress:uuid:bbbbbbbb-0000-4000-8000-000000000002 \
                      --hostid=bbbbbbbb-0000-4000-8000-000000000002";

/// Generic status: Reservation Conflict.
const CONFLICT: u16 = 0x083;
/// Reservation type: Write Exclusive.
const WRITE_EXCLUSIVE: u64 = 1;

fn run(vm: &mut Vm, lab: &mut Lab) {
    let engine = lab.engine(&[]);
    let share = engine.share_file("disk", 16, &[]);
    vm.reload_nvme("multipath=N");
    let a = vm.connect(engine.port(), &share.nqn, HOST_A);
    // nvme-cli 2.3 takes a second host at the same address for the first one; this one comes over IPv6.
    let b = vm.connect_v6(engine.port_v6(), &share.nqn, HOST_B);
    assert_ne!(
        a.disk, b.disk,
        "without multipath each host has its own disk"
    );

    assert_eq!(report(vm, &a)["regctl"], 0);
    resv(vm, &a, "register", "--nrkey=0xA1 --rrega=0");
    resv(vm, &b, "register", "--nrkey=0xB2 --rrega=0");
    assert_eq!(report(vm, &b)["regctl"], 2, "both are registered");

    resv(vm, &a, "acquire", "--crkey=0xA1 --rtype=1 --racqa=0");
    assert_eq!(report(vm, &b)["rtype"], WRITE_EXCLUSIVE);
    assert!(write(vm, &a), "the holder writes");
    assert!(!write(vm, &b), "the other host does not");
    assert!(read(vm, &b), "but reads");
    refused(vm, &b, "acquire", "--crkey=0xB2 --rtype=1 --racqa=0");
    refused(
        vm,
        &b,
        "acquire",
        "--crkey=0xBAD --prkey=0xA1 --rtype=1 --racqa=1",
    );

    resv(
        vm,
        &b,
        "acquire",
        "--crkey=0xB2 --prkey=0xA1 --rtype=1 --racqa=1",
    );
    let status = report(vm, &b);
    assert_eq!(
        status["regctl"], 1,
        "preempting removed the old holder's registration"
    );
    assert!(write(vm, &b) && !write(vm, &a), "the roles have changed");
    let notices = vm.sh(&format!("nvme resv-notif-log /dev/{}", a.controller));
    assert!(
        !notices.is_empty(),
        "the preempted host has a notification log"
    );

    resv(vm, &b, "release", "--crkey=0xB2 --rtype=1 --rrela=0");
    assert_eq!(report(vm, &a)["rtype"], 0, "nobody holds it");
    assert!(write(vm, &a) && write(vm, &b));

    // Exclusive access keeps readers out, too.
    resv(vm, &a, "register", "--nrkey=0xA1 --rrega=0");
    resv(vm, &a, "acquire", "--crkey=0xA1 --rtype=2 --racqa=0");
    assert!(!read(vm, &b) && read(vm, &a));
    // Replace the key, then clear everything with it.
    resv(vm, &a, "register", "--crkey=0xA1 --nrkey=0xA3 --rrega=2");
    resv(vm, &a, "release", "--crkey=0xA3 --rrela=1");
    assert_eq!(
        report(vm, &b)["regctl"],
        0,
        "clear removes every registrant"
    );
    assert!(write(vm, &b) && read(vm, &b));

    vm.disconnect(&a);
    vm.disconnect(&b);
    vm.reload_nvme("");
}

fn resv(vm: &mut Vm, host: &Connection, verb: &str, options: &str) {
    vm.sh(&format!("nvme resv-{verb} {} -n 1 {options}", host.disk));
}

fn refused(vm: &mut Vm, host: &Connection, verb: &str, options: &str) {
    let output = vm.try_sh(&format!("nvme resv-{verb} {} -n 1 {options}", host.disk));
    assert_eq!(
        super::nvme_status(&output.text),
        Some(CONFLICT),
        "{verb} {options}: {}",
        output.text
    );
}

fn report(vm: &mut Vm, host: &Connection) -> serde_json::Value {
    vm.json(&format!("nvme resv-report {} -n 1 -e -o json", host.disk))
}

fn write(vm: &mut Vm, host: &Connection) -> bool {
    vm.try_sh(&format!(
        "dd if=/dev/zero of={} bs=4k count=1 oflag=direct",
        host.disk
    ))
    .success()
}

fn read(vm: &mut Vm, host: &Connection) -> bool {
    vm.try_sh(&format!(
        "dd if={} of=/dev/null bs=4k count=1 iflag=direct",
        host.disk
    ))
    .success()
}
