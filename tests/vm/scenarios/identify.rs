//! What the subsystem says about itself, through nvme-cli and through the kernel.

use vm_tests::{Lab, Scenario, Vm};

pub(crate) const SCENARIO: Scenario = Scenario {
    name: "identify",
    about: "id-ctrl, id-ns, ns-descs, the lists and list-subsys say one consistent thing",
    provokes: &[],
    run,
};

fn run(vm: &mut Vm, lab: &mut Lab) {
    let engine = lab.engine(&[]);
    let share = engine.share(
        "malloc:///named?size_mb=16&blk_size=4096&uuid=0f5d6a54-6f8b-4c0f-9d54-1a2b3c4d5e6f",
        &[],
    );
    let connection = vm.connect(engine.port(), &share.nqn, "");
    let (controller, disk) = (&connection.controller, &connection.disk);

    let ctrl = vm.json(&format!("nvme id-ctrl /dev/{controller} -o json"));
    assert_eq!(ctrl["subnqn"], share.nqn.as_str());
    assert_eq!(ctrl["cntrltype"], 1, "an I/O controller");
    assert_ne!(ctrl["cntlid"], 0);
    assert!(
        !ctrl["sn"].as_str().unwrap_or_default().trim().is_empty(),
        "a serial number"
    );
    assert!(
        !ctrl["mn"].as_str().unwrap_or_default().trim().is_empty(),
        "a model number"
    );
    assert!(
        !ctrl["fr"].as_str().unwrap_or_default().trim().is_empty(),
        "a firmware revision"
    );
    let oncs = ctrl["oncs"].as_u64().expect("oncs");
    // NVMe Base 2.0 figure 275: compare, dataset management, write zeroes, reservations.
    for (bit, what) in [
        (0, "compare"),
        (2, "dataset management"),
        (3, "write zeroes"),
        (5, "reservations"),
    ] {
        assert_ne!(oncs & (1 << bit), 0, "ONCS offers {what}");
    }
    assert_ne!(ctrl["kas"], 0, "keep-alive granularity");

    let ns = vm.json(&format!("nvme id-ns {disk} -o json"));
    assert_eq!(ns["nsze"], 4096, "16 MiB of 4096-byte blocks");
    let format = ns["flbas"].as_u64().expect("flbas") & 0xf;
    assert_eq!(
        ns["lbafs"][usize::try_from(format).expect("small")]["ds"],
        12
    );
    assert_eq!(vm.sh(&format!("blockdev --getss {disk}")), "4096");

    let descriptors = vm.sh(&format!("nvme ns-descs {disk}")).to_lowercase();
    assert!(
        descriptors.contains("0f5d6a54-6f8b-4c0f-9d54-1a2b3c4d5e6f"),
        "the namespace's UUID is the device's: {descriptors}"
    );
    let kernel_nguid = vm.sh(&format!("cat /sys/block/$(basename {disk})/nguid"));
    let told_nguid = ns["nguid"].as_str().unwrap_or_default();
    assert_eq!(kernel_nguid.replace('-', ""), told_nguid);
    assert_ne!(told_nguid, "0".repeat(32));

    assert!(
        vm.sh(&format!("nvme list-ns /dev/{controller}"))
            .contains("0x1")
    );
    let listed = vm.json("nvme list -o json").to_string();
    assert!(
        listed.contains(disk.as_str()),
        "nvme list shows the disk: {listed}"
    );
    let subsystems = vm.json("nvme list-subsys -o json").to_string();
    assert!(
        subsystems.contains(&share.nqn),
        "list-subsys names it: {subsystems}"
    );
    assert!(
        subsystems.contains("live"),
        "and its path is live: {subsystems}"
    );
    // CAP, VS, CC and CSTS are the properties a fabrics controller has (NVMe Base 2.0 §3.1.3).
    for offset in ["0x0", "0x8", "0x14", "0x1c"] {
        vm.sh(&format!("nvme get-property /dev/{controller} -o {offset}"));
    }
    all_registers(vm, controller);
    vm.sh(&format!("nvme ns-rescan /dev/{controller}"));

    optional_identify(vm, controller);
}

/// The tool walks the whole property space and stops at an answer it does not take for "not here".
fn all_registers(vm: &mut Vm, controller: &str) {
    let shown = vm.sh(&format!("nvme show-regs /dev/{controller} -H"));
    let lower = shown.to_lowercase();
    for register in ["cap", "version", "cc", "csts"] {
        let is_named = |line: &str| line.trim_start().starts_with(register);
        assert!(lower.lines().any(is_named), "{register} in:\n{shown}");
    }
    let registers = vm.json(&format!("nvme show-regs /dev/{controller} -o json"));
    assert_eq!(registers["vs"], 0x2_0000, "NVMe 2.0: {registers}");
    for (register, what) in [("cc", "enabled"), ("csts", "ready")] {
        let value = registers[register].as_u64().expect("a number");
        assert_eq!(value & 1, 1, "{what}: {registers}");
    }
    let cap = registers["cap"].as_u64().expect("a number");
    assert_eq!(cap & 0xffff, 127, "queues of 128 entries: {registers}");
}

/// Identify structures a host may ask for: served, or refused with the status the specification names.
fn optional_identify(vm: &mut Vm, controller: &str) {
    for command in [
        "id-ns-granularity",
        "list-ctrl",
        "list-ns --all",
        "nvm-id-ctrl",
        "primary-ctrl-caps",
        "list-secondary",
        "cmdset-ind-id-ns -n 1",
        "nvm-id-ns -n 1",
        "id-nvmset",
        "id-uuid",
        "id-iocs",
        "id-domain",
        "list-endgrp",
    ] {
        let (verb, rest) = command.split_once(' ').unwrap_or((command, ""));
        let output = vm.try_sh(&format!("nvme {verb} /dev/{controller} {rest}"));
        // NVMe Base 2.0 §5.17.2: an unsupported CNS value is Invalid Field in Command.
        let status = super::nvme_status(&output.text);
        assert!(
            output.success() || matches!(status, Some(0x002 | 0x00b)),
            "{command}: status {status:?}: {}",
            output.text
        );
    }
}
