//! xfs on a file-backed disk.

use vm_tests::{Lab, Scenario, Vm};

pub(crate) const SCENARIO: Scenario = Scenario {
    name: "xfs",
    about: "xfs is made, filled, unmounted and found intact on a new connection",
    provokes: &[],
    run,
};

fn run(vm: &mut Vm, lab: &mut Lab) {
    super::file_system::fill_and_remount(vm, lab, "xfs", "mkfs.xfs -q -f", "xfs_repair -n");
}
