//! The story ext4 and xfs share: make, fill, remount on a new connection, compare.

use vm_tests::{Lab, PATIENCE, Vm};

/// Makes a file system with `mkfs`, fills it, unmounts, mounts it on a new connection and compares checksums.
pub(crate) fn fill_and_remount(vm: &mut Vm, lab: &mut Lab, kind: &str, mkfs: &str, check: &str) {
    let slow = 3 * PATIENCE;
    let engine = lab.engine(&[]);
    let share = engine.share_file("disk", 400, &[]);

    let first = vm.connect(engine.port(), &share.nqn, "");
    vm.sh_within(slow, &format!("{mkfs} {}", first.disk));
    vm.sh(&format!(
        "mkdir -p /mnt/disk && mount -t {kind} {} /mnt/disk",
        first.disk
    ));
    // Large files, many small ones, and some deleted again so that the allocator has holes to fill.
    vm.sh_within(
        slow,
        "cd /mnt/disk && for n in 1 2 3; do dd if=/dev/urandom of=large$n bs=1M count=16 2>/dev/null || exit 1; done; \
         mkdir small && for n in $(seq 120); do head -c $((n * 97)) large1 >small/$n || exit 1; done; \
         for n in $(seq 1 3 120); do rm small/$n; done; rm large2; \
         dd if=/dev/urandom of=large4 bs=64k count=160 2>/dev/null",
    );
    let sums = "cd /mnt/disk && find . -type f | sort | xargs sha256sum";
    let written = vm.sh_within(slow, sums);
    vm.sh_within(slow, "umount /mnt/disk");
    vm.disconnect(&first);

    let second = vm.connect(engine.port(), &share.nqn, "");
    vm.sh_within(slow, &format!("{check} {}", second.disk));
    vm.sh(&format!("mount -t {kind} {} /mnt/disk", second.disk));
    let read = vm.sh_within(slow, sums);
    assert_eq!(written.lines().count(), 83, "every file was listed");
    assert_eq!(written, read, "checksums on the new connection");
    vm.sh("fstrim -v /mnt/disk && umount /mnt/disk");
    vm.disconnect(&second);
}
