//! ext4 on a file-backed disk.

use vm_tests::{Lab, Scenario, Vm};

pub(crate) const SCENARIO: Scenario = Scenario {
    name: "ext4",
    about: "ext4 is made, filled, unmounted and found intact on a new connection",
    provokes: &[],
    run,
};

fn run(vm: &mut Vm, lab: &mut Lab) {
    super::file_system::fill_and_remount(vm, lab, "ext4", "mkfs.ext4 -q -F", "e2fsck -f -n");
}
