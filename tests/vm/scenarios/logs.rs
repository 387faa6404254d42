//! Every log page nvme-cli knows of, asked for.

use vm_tests::{Lab, Scenario, Vm};

pub(crate) const SCENARIO: Scenario = Scenario {
    name: "logs",
    about: "each log page is served, or refused as the specification says",
    provokes: &[],
    run,
};

/// NVMe Base 2.0 figure 95, status code type 1: Invalid Log Page.
const INVALID_LOG_PAGE: u16 = 0x109;
/// Generic status: Invalid Field in Command.
const INVALID_FIELD: u16 = 0x002;

fn run(vm: &mut Vm, lab: &mut Lab) {
    let engine = lab.engine(&[]);
    let share = engine.share("malloc:///logged?size_mb=16", &[]);
    let connection = vm.connect(engine.port(), &share.nqn, "");
    let (controller, disk) = (&connection.controller, &connection.disk);

    vm.sh(&format!(
        "dd if=/dev/zero of={disk} bs=4k count=100 oflag=direct 2>/dev/null"
    ));
    let smart = vm.json(&format!("nvme smart-log /dev/{controller} -o json"));
    assert_eq!(smart["critical_warning"], 0);
    let writes = smart["host_write_commands"].to_string();
    let writes: f64 = writes.trim_matches('"').parse().expect("a count of writes");
    assert!(writes >= 100.0, "100 writes are counted: {writes}");

    vm.sh(&format!("nvme error-log /dev/{controller}"));
    vm.sh(&format!("nvme fw-log /dev/{controller}"));
    vm.sh(&format!("nvme changed-ns-list-log /dev/{controller}"));
    // Without the command set (`-c`) nvme-cli 2.3 looks for PCI registers first, finds none, and prints nothing.
    let effects = vm.sh(&format!("nvme effects-log /dev/{controller} -c 0"));
    for command in [
        "Read",
        "Write",
        "Flush",
        "Write Zeroes",
        "Dataset Management",
        "Reservation Register",
    ] {
        assert!(
            effects.contains(command),
            "effects log names {command}: {effects}"
        );
    }
    let ana = vm.sh(&format!("nvme ana-log /dev/{controller}"));
    assert!(ana.contains("optimized"), "one optimized group: {ana}");
    let supported = vm.sh(&format!("nvme supported-log-pages /dev/{controller}"));
    assert!(
        supported.contains("SMART"),
        "the list names SMART: {supported}"
    );
    vm.sh(&format!("nvme resv-notif-log /dev/{controller}"));

    for page in (0x00..=0x1f).chain([0x70, 0x80, 0x81, 0xc0, 0xff]) {
        let output = vm.try_sh(&format!(
            "nvme get-log /dev/{controller} --log-id={page} --log-len=512"
        ));
        let status = super::nvme_status(&output.text);
        assert!(
            output.success() || matches!(status, Some(INVALID_LOG_PAGE | INVALID_FIELD)),
            "log page {page:#04x}: status {status:?}: {}",
            output.text
        );
    }
    // An offset that is not a multiple of four bytes, NVMe Base 2.0 §5.16.1.
    let odd = vm.try_sh(&format!(
        "nvme get-log /dev/{controller} --log-id=2 --log-len=16 --lpo=6"
    ));
    assert!(!odd.success(), "an odd offset is refused: {}", odd.text);
    assert_eq!(
        vm.sh(&format!("cat /sys/class/nvme/{controller}/state")),
        "live",
        "none of it disturbed the controller"
    );
}
