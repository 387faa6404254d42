//! Half a minute of mixed sizes with a checksum in every block.

use std::time::Duration;

use vm_tests::{Lab, PATIENCE, Scenario, Vm};

pub(crate) const SCENARIO: Scenario = Scenario {
    name: "verify",
    about: "fio writes mixed sizes for 30 s and verifies crc32c, on a file and with digests",
    provokes: &[],
    run,
};

fn run(vm: &mut Vm, lab: &mut Lab) {
    let engine = lab.engine(&[]);
    let share = engine.share_file("disk", 128, &[]);
    let connection = vm.connect(engine.port(), &share.nqn, "-i 2 --hdr-digest --data-digest");
    let job = vm.background(&format!(
        "fio --name=verify --filename={} --ioengine=libaio --direct=1 --iodepth=16 --rw=randrw \
         --bssplit=512/10:4k/40:16k/20:64k/20:256k/10 --bs_unaligned=0 --size=64m --norandommap=0 \
         --time_based --runtime=30 --verify=crc32c --verify_fatal=1 --verify_backlog=256 --minimal",
        connection.disk
    ));
    vm.finish(job, Duration::from_secs(30) + 2 * PATIENCE);
}
