//! A file and a RAM disk that grow while a host is connected.

use vm_tests::{Lab, PATIENCE, Scenario, Vm};

pub(crate) const SCENARIO: Scenario = Scenario {
    name: "resize",
    about: "a file and a RAM disk grow while connected and the host sees it by itself",
    provokes: &[],
    run,
};

fn run(vm: &mut Vm, lab: &mut Lab) {
    let engine = lab.engine(&[]);
    let file = engine.share_file("disk", 64, &[]);
    let ram = engine.share("malloc:///ram?size_mb=32", &[]);

    let connection = vm.connect(engine.port(), &file.nqn, "");
    vm.sh(&format!("dd if=/dev/urandom of=/tmp/old bs=1M count=4 2>/dev/null; dd if=/tmp/old of={} bs=1M seek=60 oflag=direct 2>/dev/null", connection.disk));
    let path = engine.file("disk", 96);
    engine.client(&[
        "bdev",
        "create",
        &format!("aio://{}?blk_size=512&rescan", path.display()),
    ]);
    wait_for_size(vm, &connection.disk, 96 << 20);
    vm.sh(&format!(
        "dd if=/tmp/old of={} bs=1M seek=92 oflag=direct conv=fsync 2>/dev/null",
        connection.disk
    ));
    for place in [60, 92] {
        vm.sh(&format!(
            "dd if={} bs=1M skip={place} count=4 iflag=direct 2>/dev/null | cmp - /tmp/old",
            connection.disk
        ));
    }
    vm.disconnect(&connection);

    let connection = vm.connect(engine.port(), &ram.nqn, "");
    engine.client(&["bdev", "create", "malloc:///ram?size_mb=48&resize"]);
    wait_for_size(vm, &connection.disk, 48 << 20);
    vm.sh(&format!(
        "dd if=/tmp/old of={} bs=1M seek=44 oflag=direct 2>/dev/null",
        connection.disk
    ));
}

fn wait_for_size(vm: &mut Vm, disk: &str, bytes: u64) {
    vm.wait_until(
        "the new size",
        PATIENCE,
        &format!("size=$(blockdev --getsize64 {disk}); echo $size; [ $size = {bytes} ]"),
    );
}
