//! The engine runs in the guest, on Debian's own kernel, and the host side is the same machine.

use std::path::Path;

use vm_tests::{Job, Lab, PATIENCE, Scenario, Vm};

pub(crate) const SCENARIO: Scenario = Scenario {
    name: "inside",
    about: "the engine inside the guest, on both drivers, found with connect-all",
    provokes: &[],
    run,
};

/// The engine's client inside the guest.
pub(super) const CLIENT: &str = "/opt/engine/io-engine-client -b http://127.0.0.1:10124";

fn run(vm: &mut Vm, lab: &mut Lab) {
    install(vm, lab);
    // A file system on a loop device takes O_DIRECT; the guest's root file system does not.
    vm.sh_within(
        3 * PATIENCE,
        "dd if=/dev/zero of=/tmp/backing bs=1M count=96 && mkfs.ext4 -q -F /tmp/backing && \
         mkdir -p /run/files && mount -o loop /tmp/backing /run/files && \
         truncate -s 32M /run/files/direct.img && truncate -s 32M /tmp/buffered.img",
    );
    for driver in ["uring", "epoll"] {
        serve_and_use(vm, driver);
    }
    vm.sh("umount /run/files; rm -rf /tmp/backing /tmp/buffered.img /opt/engine");
}

/// Puts the engine, its client and what they need into the guest.
pub(super) fn install(vm: &mut Vm, lab: &Lab) {
    let size = lab.put_engine_into_share(Path::new("/opt/engine"));
    assert!(size > 0, "there is an engine to run");
    vm.sh_within(
        3 * PATIENCE,
        "mkdir -p /mnt/share /opt && mount -t 9p -o trans=virtio,version=9p2000.L,msize=262144 share /mnt/share && \
         cp -r /mnt/share/engine /opt/ && \
         (cd /mnt/share/root && find . -type f | grep '\\.so' | while read -r lib; do \
            mkdir -p \"/$(dirname \"$lib\")\" && { [ -e \"/$lib\" ] || cp \"$lib\" \"/$lib\"; } || exit 1; done) && \
         umount /mnt/share",
    );
}

/// Starts the engine in the guest, with its state in `/run/state-NAME`, and waits until it answers.
pub(super) fn start(vm: &mut Vm, name: &str, driver: &str) -> Job {
    let engine = vm.background(&format!(
        "echo $$ >/run/engine.pid; exec /opt/engine/io-engine --config /opt/engine/engine.toml --driver {driver} --state-dir /run/state-{name} \
         --grpc 127.0.0.1:10124 --nvmf 127.0.0.1:8420"
    ));
    let list = format!("{CLIENT} bdev list");
    vm.wait_until("the engine answers", PATIENCE, &list);
    engine
}

/// Ends the engine in the guest, in order.
pub(super) fn stop(vm: &mut Vm, engine: Job) {
    vm.sh("kill -TERM $(cat /run/engine.pid)");
    vm.finish(engine, PATIENCE);
}

fn serve_and_use(vm: &mut Vm, driver: &str) {
    let engine = start(vm, driver, driver);
    for uri in [
        "aio:///run/files/direct.img?blk_size=512",
        "uring:///tmp/buffered.img?blk_size=512",
        "malloc:///ram?size_mb=32",
    ] {
        let name = vm.sh(&format!("{CLIENT} bdev create '{uri}'"));
        vm.sh(&format!("{CLIENT} bdev share {name}"));
    }
    let listed = vm.sh("nvme discover -t tcp -a 127.0.0.1 -s 8420");
    assert_eq!(
        listed.matches("subtype: nvme subsystem").count(),
        3,
        "{listed}"
    );
    vm.sh("nvme connect-all -t tcp -a 127.0.0.1 -s 8420");
    vm.wait_until(
        "three disks",
        PATIENCE,
        "[ $(ls /dev/nvme?n1 | wc -l) = 3 ]",
    );
    for disk in vm.sh("ls /dev/nvme?n1").lines() {
        vm.sh_within(
            3 * PATIENCE,
            &format!(
                "fio --name=inside --filename={disk} --ioengine=libaio --direct=1 --iodepth=8 --rw=randwrite \
                 --bssplit=4k/70:64k/30 --size=16m --verify=crc32c --verify_fatal=1 --minimal"
            ),
        );
    }
    vm.sh("nvme disconnect-all");
    stop(vm, engine);
}
