//! Every feature identifier the specification gives a meaning, read back.

use vm_tests::{Lab, Scenario, Vm};

pub(crate) const SCENARIO: Scenario = Scenario {
    name: "features",
    about: "get-feature answers a value, or the status the specification names",
    provokes: &[],
    run,
};

/// Features a fabrics controller with reservations has, with options that make the request complete.
const PRESENT: &[(u8, &str, &str)] = &[
    (0x01, "arbitration", ""),
    (0x02, "power management", ""),
    (0x04, "temperature threshold", ""),
    (0x05, "error recovery", "-n 1"),
    (0x07, "number of queues", ""),
    (0x0a, "write atomicity", ""),
    (0x0b, "asynchronous event configuration", ""),
    (0x0f, "keep alive timer", ""),
    (0x81, "host identifier", "-c 1 -l 16"),
    (0x82, "reservation notification mask", "-n 1"),
    (0x83, "reservation persistence", "-n 1"),
];

fn run(vm: &mut Vm, lab: &mut Lab) {
    let engine = lab.engine(&[]);
    let share = engine.share("malloc:///featured?size_mb=16", &[]);
    let connection = vm.connect(engine.port(), &share.nqn, "--keep-alive-tmo=7");
    let controller = format!("/dev/{}", connection.controller);

    for (id, name, options) in PRESENT {
        let output = vm.try_sh(&format!("nvme get-feature {controller} -f {id} {options}"));
        assert!(output.success(), "{name} ({id:#04x}): {}", output.text);
    }
    for id in (0x01..=0x1f).chain(0x78..=0x85) {
        let output = vm.try_sh(&format!("nvme get-feature {controller} -f {id} -l 4096"));
        let status = super::nvme_status(&output.text);
        // Invalid Field: not supported. Invalid Namespace: needs a namespace. NVMe Base 2.0 §5.15.
        assert!(
            output.success() || matches!(status, Some(0x002 | 0x00b)),
            "feature {id:#04x}: status {status:?}: {}",
            output.text
        );
    }

    // The value the host set by connecting, in milliseconds, rounded up to the granularity.
    let kato = vm.sh(&format!("nvme get-feature {controller} -f 0x0f"));
    let value = kato
        .rsplit("0x")
        .next()
        .and_then(|digits| u32::from_str_radix(digits.trim(), 16).ok());
    assert!(
        value.is_some_and(|ms| (7_000..60_000).contains(&ms)),
        "keep alive: {kato}"
    );

    // A change is read back; a feature nobody has cannot be changed.
    vm.sh(&format!("nvme set-feature {controller} -f 0x0b -v 0x900"));
    assert!(
        vm.sh(&format!("nvme get-feature {controller} -f 0x0b"))
            .contains("900")
    );
    assert!(
        !vm.try_sh(&format!("nvme set-feature {controller} -f 0x7f -v 1"))
            .success()
    );
}
