//! A device that fails as it is told, under a real host: which status nvme-cli shows for each kind of failure. And one nobody may
//! write to.

use vm_tests::{Connection, Engine, Lab, Scenario, Vm};

pub(crate) const SCENARIO: Scenario = Scenario {
    name: "faults",
    about: "each kind of device error has its NVMe status at the host; a read-only share is a read-only disk",
    // Of commands that fail as they should.
    provokes: &["I/O error", "I/O Cmd", "Admin Cmd"],
    run,
};

/// Rule of the fault device, command of nvme-cli, status (NVMe Base 2.0c §3.3.3.2.1): type above, code below.
const TABLE: [(&str, &str, u16); 12] = [
    ("kind=medium", "read", 0x281),
    ("kind=medium", "compare", 0x281),
    ("kind=medium", "write", 0x280),
    ("kind=medium", "write-zeroes", 0x280),
    ("kind=no-space", "write", 0x081),
    ("kind=out-of-range", "read", 0x080),
    ("kind=timeout", "read", 0x006),
    ("kind=busy", "write", 0x021),
    ("kind=not-supported", "read", 0x001),
    ("kind=compare-failed", "compare", 0x285),
    ("kind=aborted", "read", 0x008),
    // The last: the device is offline from then on.
    ("kind=gone", "read", NOT_READY),
];
/// Generic status: Namespace Not Ready.
const NOT_READY: u16 = 0x082;
/// Generic status: Namespace is Write Protected.
const WRITE_PROTECTED: u16 = 0x020;
/// Generic status: LBA Out of Range.
const OUT_OF_RANGE: u16 = 0x080;
/// Media status: Compare Failure.
const COMPARE_FAILURE: u16 = 0x285;

fn run(vm: &mut Vm, lab: &mut Lab) {
    let engine = lab.engine(&[]);
    let share = engine.share("fault:///f?device=malloc:///below?size_mb=16", &[]);
    let port = engine.port();
    let host = vm.connect(port, &share.nqn, "");
    vm.sh("head -c 4096 /dev/urandom >/tmp/block; head -c 4096 /dev/zero >/tmp/zeroes");
    succeeds(vm, &host, "write", 0);
    for (rule, verb, expected) in TABLE {
        tell(engine, &format!("add error {rule} op=all"));
        assert_eq!(
            status(vm, &host, verb, 0),
            Some(expected),
            "{verb} with {rule}"
        );
        tell(engine, "remove all");
        if expected != NOT_READY {
            succeeds(vm, &host, "read", 0);
        }
    }
    assert_eq!(status(vm, &host, "write", 0), Some(NOT_READY));
    engine.client(&["bdev", "rescan", "f"]);
    succeeds(vm, &host, "write", 0);
    // The host's own mistakes.
    let blocks_of_16_mib = (16 << 20) / 512;
    let past = status(vm, &host, "read", blocks_of_16_mib - 4);
    assert_eq!(past, Some(OUT_OF_RANGE));
    vm.sh("cp /tmp/zeroes /tmp/block");
    assert_eq!(status(vm, &host, "compare", 0), Some(COMPARE_FAILURE));
    vm.disconnect(&host);
    read_only(vm, engine);
}

/// Linux does not even try to write; who goes round it is refused.
fn read_only(vm: &mut Vm, engine: &Engine) {
    engine.client(&["bdev", "create", "malloc:///fixed?size_mb=16"]);
    engine.client(&["bdev", "share", "fixed", "--read-only"]);
    let host = vm.connect(engine.port(), "nqn.2019-05.io.openebs:fixed", "");
    let name = host.disk.trim_start_matches("/dev/").to_owned();
    assert_eq!(vm.sh(&format!("cat /sys/block/{name}/ro")).trim(), "1");
    let refused = vm.try_sh(&format!(
        "dd if=/tmp/block of={} bs=4k count=1 oflag=direct",
        host.disk
    ));
    assert!(!refused.success(), "{}", refused.text);
    assert_eq!(status(vm, &host, "write", 0), Some(WRITE_PROTECTED));
    succeeds(vm, &host, "read", 0);
    vm.disconnect(&host);
}

/// Gives the fault device a command.
fn tell(engine: &Engine, command: &str) {
    let mut words = vec!["bdev", "command", "f"];
    words.extend(command.split(' '));
    engine.client(&words);
}

fn command(host: &Connection, verb: &str, block: u64) -> String {
    let data = match verb {
        "write-zeroes" => "",
        _ => " --data-size=4096 --data=/tmp/block",
    };
    let namespace = " --namespace-id=1";
    format!(
        "nvme {verb} {}{namespace} --start-block={block} --block-count=7{data}",
        host.disk
    )
}

/// The status of a command that fails.
fn status(vm: &mut Vm, host: &Connection, verb: &str, block: u64) -> Option<u16> {
    let told = vm.try_sh(&command(host, verb, block));
    let status = super::nvme_status(&told.text);
    assert!(status.is_some(), "{verb} at {block}: {}", told.text);
    status
}

fn succeeds(vm: &mut Vm, host: &Connection, verb: &str, block: u64) {
    vm.sh(&command(host, verb, block));
}
