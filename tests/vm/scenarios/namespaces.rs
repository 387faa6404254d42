//! Namespaces come and go under a connected host.

use vm_tests::{Lab, PATIENCE, Scenario, Vm};

pub(crate) const SCENARIO: Scenario = Scenario {
    name: "namespaces",
    about: "a namespace added to and removed from a subsystem shows at the connected host",
    provokes: &[],
    run,
};

fn run(vm: &mut Vm, lab: &mut Lab) {
    let engine = lab.engine(&[]);
    let share = engine.share("malloc:///first?size_mb=16", &[]);
    let second = engine.client(&["bdev", "create", "malloc:///second?size_mb=24"]);

    let connection = vm.connect(engine.port(), &share.nqn, "");
    let other = connection.disk.replace("n1", "n2");
    assert!(!vm.try_sh(&format!("[ -b {other} ]")).success());

    engine.client(&["subsystem", "ns", "add", &share.nqn, &second, "--nsid", "2"]);
    vm.wait_until("second namespace", PATIENCE, &format!("[ -b {other} ]"));
    assert_eq!(
        vm.sh(&format!("blockdev --getsize64 {other}")),
        (24 << 20).to_string()
    );
    vm.sh(&format!(
        "dd if=/dev/zero of={other} bs=1M count=8 oflag=direct 2>/dev/null"
    ));
    assert!(
        engine
            .client(&["subsystem", "list", "-o", "json"])
            .contains(&share.nqn)
    );

    engine.client(&["subsystem", "ns", "remove", &share.nqn, "2"]);
    vm.wait_until(
        "second namespace gone",
        PATIENCE,
        &format!("[ ! -e {other} ]"),
    );
    // The first namespace has not noticed.
    vm.sh(&format!(
        "dd if=/dev/zero of={} bs=1M count=8 oflag=direct 2>/dev/null",
        connection.disk
    ));

    engine.client(&["subsystem", "ns", "add", &share.nqn, &second, "--nsid", "2"]);
    vm.wait_until(
        "second namespace again",
        PATIENCE,
        &format!("[ -b {other} ]"),
    );
}
