//! A host taken off the allow list loses its connection; its neighbour notices nothing.

use vm_tests::{HOST_V6, Lab, PATIENCE, Scenario, Vm};

pub(crate) const SCENARIO: Scenario = Scenario {
    name: "allow-list",
    about: "a host taken off the allow list is disconnected and kept out, another keeps its I/O",
    // Only the second controller is thrown out.
    provokes: &["nvme1", "multipathing not supported"],
    run,
};

const STAYS: &str = "nqn.2014-08.org.nvmexpress:uuid:aaaaaaaa-0000-4000-8000-000000000001";
const STRANGER: &str = "nqn.2014-08.org.nvmexpress:uuid:cccccccc-0000-4000-8000-000000000003";
const LEAVES: &str = "nqn.2014-08.org.nvmexpress:uuid:bbbbbbbb-0000-4000-8000-000000000002";

fn run(vm: &mut Vm, lab: &mut Lab) {
    let engine = lab.engine(&[]);
    let share = engine.share("malloc:///guarded?size_mb=32", &[STAYS, LEAVES]);
    vm.reload_nvme("multipath=N");
    let stays = vm.connect(engine.port(), &share.nqn, &host(STAYS));
    // A list that does not name a host keeps it out from the start.
    refused(vm, engine.port_v6(), &share.nqn, STRANGER);
    // nvme-cli 2.3 takes a second host at the same address for the first one; the others come over IPv6.
    let leaves = vm.connect_v6(engine.port_v6(), &share.nqn, &host(LEAVES));
    assert_eq!(leaves.controller, "nvme1");

    let job = vm.background(&format!(
        "fio --name=neighbour --filename={} --ioengine=libaio --direct=1 --iodepth=4 --rw=randrw --bs=4k \
         --time_based --runtime=12 --verify=crc32c --verify_fatal=1 --size=8m --minimal",
        stays.disk
    ));
    engine.client(&["subsystem", "hosts", &share.nqn, "--allowed-host", STAYS]);
    vm.wait_until(
        "the host taken off is gone",
        PATIENCE,
        &format!("[ ! -e /sys/class/nvme/{} ]", leaves.controller),
    );
    refused(vm, engine.port_v6(), &share.nqn, LEAVES);
    vm.finish(job, PATIENCE);
    assert_eq!(
        vm.sh(&format!("cat /sys/class/nvme/{}/state", stays.controller)),
        "live"
    );

    engine.client(&["subsystem", "hosts", &share.nqn, "--any"]);
    let back = vm.connect_v6(engine.port_v6(), &share.nqn, &host(LEAVES));
    // Opening the list throws nobody out: a reconnect of the first host would also show as a kernel warning.
    for host in [&back, &stays] {
        vm.sh(&format!(
            "dd if={} of=/dev/null bs=4k count=16 iflag=direct 2>/dev/null",
            host.disk
        ));
    }
    vm.disconnect(&back);
    vm.disconnect(&stays);
    vm.reload_nvme("");
}

/// Tries to connect; the target must say Connect Invalid Host, which the kernel words so.
fn refused(vm: &mut Vm, port: u16, subsystem: &str, host_nqn: &str) {
    let connect = format!(
        "nvme connect -t tcp -a {HOST_V6} -s {port} -n {subsystem} {}",
        host(host_nqn)
    );
    assert!(!vm.try_sh(&connect).success(), "{host_nqn} is refused");
    let log = vm.sh("dmesg | tail -n 5");
    assert!(
        log.contains(&format!("is not allowed, hostnqn: {host_nqn}")),
        "refused as a host: {log}"
    );
}

fn host(nqn: &str) -> String {
    let id = nqn.rsplit(':').next().unwrap_or(nqn);
    // Gives up after four seconds, so that the scenario sees the end of a refused host.
    format!("--hostnqn={nqn} --hostid={id} --reconnect-delay=1 --ctrl-loss-tmo=4")
}
