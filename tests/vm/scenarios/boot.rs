//! The guest itself is what the other scenarios rely on.

use vm_tests::{HOST_NQN, Lab, PATIENCE, Scenario, Vm};

pub(crate) const SCENARIO: Scenario = Scenario {
    name: "boot",
    about: "the guest has a network, tools and the NVMe/TCP driver",
    provokes: &[],
    run,
};

fn run(vm: &mut Vm, _lab: &mut Lab) {
    vm.sh("grep -q '^nvme_tcp ' /proc/modules");
    vm.sh("[ -c /dev/nvme-fabrics ]");
    vm.sh("ip -4 addr show dev eth0 | grep -q 10.0.2.15");
    vm.sh("ip -6 addr show dev eth0 | grep -q fec0::15");
    assert_eq!(vm.sh("cat /etc/nvme/hostnqn"), HOST_NQN);
    assert!(vm.sh("nvme version").contains("2."));
    assert!(vm.sh("fio --version").starts_with("fio-"));
    vm.sh("mkfs.ext4 -V; mkfs.xfs -V; blkdiscard --version");

    let failed = vm.try_sh("echo to standard error >&2; exit 3");
    assert_eq!(
        (failed.status, failed.text.as_str()),
        (3, "to standard error\n")
    );

    let job = vm.background("sleep 1; echo done");
    assert!(vm.is_running(&job));
    assert_eq!(vm.finish(job, PATIENCE), "done");
}
