//! The engine is killed under load, started again, and nothing is lost.

use std::time::Duration;

use vm_tests::{Lab, PATIENCE, Scenario, Vm};

pub(crate) const SCENARIO: Scenario = Scenario {
    name: "crash",
    about: "kill -9 under fio and restart: same identity and reservations, fio sees no error",
    // The controller's reconnect messages, and the multipath disk's while it has no path.
    provokes: &["nvme nvme0", "no usable path"],
    run,
};

fn run(vm: &mut Vm, lab: &mut Lab) {
    let engine = lab.engine(&[]);
    let share = engine.share_file("disk", 128, &[]);
    let connection = vm.connect(
        engine.port(),
        &share.nqn,
        "--reconnect-delay=1 --ctrl-loss-tmo=120",
    );
    let disk = &connection.disk;
    assert_eq!(connection.controller, "nvme0");

    // Registered to persist through power loss (CPTPL = 3), then held.
    vm.sh(&format!(
        "nvme resv-register {disk} -n 1 --nrkey=0xC3 --rrega=0 --cptpl=3"
    ));
    vm.sh(&format!(
        "nvme resv-acquire {disk} -n 1 --crkey=0xC3 --rtype=1 --racqa=0"
    ));
    let identity = identity(vm, disk);
    let reservation = reservation(vm, disk);
    assert_eq!(reservation["rtype"], 1);

    let job = vm.background(&format!(
        "fio --name=through-crash --filename={disk} --ioengine=libaio --direct=1 --iodepth=8 --rw=randwrite \
         --bssplit=4k/60:32k/40 --size=48m --time_based --runtime=25 --verify=crc32c --verify_fatal=1 \
         --verify_backlog=512 --minimal"
    ));
    std::thread::sleep(Duration::from_secs(6));
    assert!(vm.is_running(&job), "fio is writing");
    engine.kill9();
    std::thread::sleep(Duration::from_secs(2));
    assert!(vm.is_running(&job), "fio waits, it does not fail");
    engine.restart();
    vm.wait_until(
        "the host is back",
        PATIENCE,
        &format!(
            "[ \"$(cat /sys/class/nvme/{}/state)\" = live ]",
            connection.controller
        ),
    );
    vm.finish(job, Duration::from_secs(25) + 2 * PATIENCE);

    assert_eq!(
        self::identity(vm, disk),
        identity,
        "serial, NGUID and UUID are the same"
    );
    assert_eq!(
        self::reservation(vm, disk),
        reservation,
        "and so is the reservation"
    );
    vm.sh(&format!(
        "nvme resv-release {disk} -n 1 --crkey=0xC3 --rtype=1 --rrela=0"
    ));
}

fn identity(vm: &mut Vm, disk: &str) -> String {
    vm.sh(&format!(
        "nvme ns-descs {disk} && nvme id-ctrl {disk} | grep -E '^(sn|mn|subnqn) ' && nvme id-ns {disk} | grep -E '^(nguid|nsze|eui64) '"
    ))
}

/// What a reservation must be after a restart: all of it, the generation included, which counts changes and none was made. Only
/// the controller ID is that of the new association (NVMe Base 2.0 §7.5).
fn reservation(vm: &mut Vm, disk: &str) -> serde_json::Value {
    let mut report = vm.json(&format!("nvme resv-report {disk} -n 1 -e -o json"));
    let fields = report.as_object_mut().expect("a report");
    // Not zero, so that a counter that was lost would differ.
    assert_eq!(fields["gen"], 1, "the registration was counted: {fields:?}");
    for registrant in fields["regctlext"].as_array_mut().expect("registrants") {
        registrant
            .as_object_mut()
            .expect("a registrant")
            .remove("cntlid");
    }
    report
}
