//! Every way a Linux host is asked to connect, with a little data through each.

use vm_tests::{Connection, Lab, Scenario, Vm};

pub(crate) const SCENARIO: Scenario = Scenario {
    name: "connect",
    about: "plain, with 4 queues asked for, with digests, over IPv6, and after disconnects",
    // The last connection is to a subsystem that does not exist.
    provokes: &["Connect Invalid Data Parameter", "failed to connect queue"],
    run,
};

fn run(vm: &mut Vm, lab: &mut Lab) {
    let engine = lab.engine(&[]);
    let share = engine.share_file("disk", 64, &[]);

    let plain = vm.connect(engine.port(), &share.nqn, "");
    assert_eq!(state(vm, &plain), "live");
    assert_eq!(
        vm.sh(&format!("blockdev --getsize64 {}", plain.disk)),
        (64 << 20).to_string()
    );
    write_and_read(vm, &plain, 0);
    vm.disconnect(&plain);

    let ways = [
        "-i 4",
        "-i 1 -Q 16",
        "--hdr-digest",
        "--data-digest",
        "-i 4 --hdr-digest --data-digest",
        "--keep-alive-tmo=3",
        "--disable-sqflow",
    ];
    for (earlier, options) in ways.iter().enumerate() {
        let connection = vm.connect(engine.port(), &share.nqn, options);
        // What the connection before wrote is there.
        read(vm, &connection, earlier);
        write_and_read(vm, &connection, earlier + 1);
        vm.disconnect(&connection);
    }

    let v6 = vm.connect_v6(engine.port_v6(), &share.nqn, "");
    read(vm, &v6, ways.len());
    write_and_read(vm, &v6, 8);

    // Two associations of one host to one subsystem, which the kernel joins into one multipath disk.
    let second = vm.connect(engine.port(), &share.nqn, "--duplicate-connect");
    assert_eq!(second.disk, v6.disk, "both paths lead to one disk");
    vm.disconnect(&v6);
    read(vm, &second, 8);
    write_and_read(vm, &second, 9);
    vm.disconnect(&second);

    let refused = vm.try_sh(&format!(
        "nvme connect -t tcp -a 10.0.2.2 -s {} -n nqn.2019-05.io.openebs:nobody",
        engine.port()
    ));
    assert!(
        !refused.success(),
        "a subsystem that does not exist is refused"
    );
}

fn state(vm: &mut Vm, connection: &Connection) -> String {
    vm.sh(&format!(
        "cat /sys/class/nvme/{}/state",
        connection.controller
    ))
}

/// Writes a MiB that depends on `seed`, once in small and once in large pieces, and reads both back.
fn write_and_read(vm: &mut Vm, connection: &Connection, seed: usize) {
    let disk = &connection.disk;
    vm.sh(&format!(
        "{} && dd if=/tmp/pattern of={disk} bs=4k oflag=direct conv=fsync 2>/dev/null && \
         dd if=/tmp/pattern of={disk} bs=1M seek=8 oflag=direct conv=fsync 2>/dev/null",
        pattern(seed)
    ));
    read(vm, connection, seed);
}

/// Reads past the page cache what [`write_and_read`] wrote: in large pieces what went in small ones, and the other way.
fn read(vm: &mut Vm, connection: &Connection, seed: usize) {
    let disk = &connection.disk;
    vm.sh(&format!(
        "{} && dd if={disk} bs=1M count=1 iflag=direct 2>/dev/null | cmp - /tmp/pattern && \
         dd if={disk} bs=4k skip=2048 count=256 iflag=direct 2>/dev/null | cmp - /tmp/pattern",
        pattern(seed)
    ));
}

fn pattern(seed: usize) -> String {
    format!("yes 'block {seed}' | head -c 1048576 >/tmp/pattern")
}
