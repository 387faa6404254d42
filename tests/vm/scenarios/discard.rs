//! Blocks given back, zeroed and compared.

use vm_tests::{Lab, Scenario, Vm};

pub(crate) const SCENARIO: Scenario = Scenario {
    name: "discard",
    about: "blkdiscard, write zeroes and compare do what they say, and only there",
    provokes: &[],
    run,
};

/// Generic media status: Compare Failure.
const COMPARE_FAILURE: u16 = 0x285;
/// Generic status: LBA Out of Range.
const OUT_OF_RANGE: u16 = 0x080;

fn run(vm: &mut Vm, lab: &mut Lab) {
    let engine = lab.engine(&[]);
    let file = engine.share_file("disk", 64, &[]);
    let ram = engine.share("malloc:///ram?size_mb=64", &[]);
    for share in [file, ram] {
        let connection = vm.connect(engine.port(), &share.nqn, "");
        discard_and_zero(vm, &connection.disk);
        compare(vm, &connection.disk);
        vm.disconnect(&connection);
    }
}

fn discard_and_zero(vm: &mut Vm, disk: &str) {
    vm.sh("yes pattern | head -c 16777216 >/tmp/pattern; head -c 4194304 /dev/zero >/tmp/zeroes");
    let refill = format!("dd if=/tmp/pattern of={disk} bs=1M oflag=direct conv=fsync 2>/dev/null");
    let read = |skip: u32, count: u32| {
        format!("dd if={disk} bs=1M skip={skip} count={count} iflag=direct 2>/dev/null")
    };
    for verb in ["blkdiscard -z", "blkdiscard"] {
        vm.sh(&refill);
        vm.sh(&format!("{verb} -o 4194304 -l 4194304 {disk}"));
        // A file and RAM both read zeroes where they were discarded.
        vm.sh(&format!("{} | cmp - /tmp/zeroes", read(4, 4)));
        vm.sh(&format!(
            "dd if=/tmp/pattern bs=1M count=4 2>/dev/null >/tmp/part; {} | cmp - /tmp/part",
            read(0, 4)
        ));
        vm.sh(&format!(
            "dd if=/tmp/pattern bs=1M skip=8 count=8 2>/dev/null >/tmp/part; {} | cmp - /tmp/part",
            read(8, 8)
        ));
    }
    vm.sh(&format!("blkdiscard {disk}"));
    vm.sh(&format!("{} | cmp - /tmp/zeroes", read(12, 4)));
    // Several ranges in one command, as a file system's trim sends them.
    vm.sh(&refill);
    vm.sh(&format!("nvme dsm {disk} -n 1 -d --blocks=8,8 --slbs=0,64"));
    vm.sh(&format!(
        "dd if={disk} bs=4k count=1 iflag=direct 2>/dev/null | cmp -n 4096 - /tmp/zeroes"
    ));
    vm.sh(&format!(
        "dd if={disk} bs=4k skip=8 count=1 iflag=direct 2>/dev/null | cmp -n 4096 - /tmp/zeroes"
    ));
    vm.sh(&format!("nvme flush {disk} -n 1"));
}

fn compare(vm: &mut Vm, disk: &str) {
    vm.sh(&format!(
        "yes same | head -c 4096 >/tmp/same; yes other | head -c 4096 >/tmp/other; \
         dd if=/tmp/same of={disk} bs=4k seek=2 oflag=direct 2>/dev/null"
    ));
    let command = |data: &str, block: u64| {
        format!(
            "nvme compare {disk} --start-block={block} --block-count=7 --data-size=4096 --data=/tmp/{data}"
        )
    };
    vm.sh(&command("same", 16));
    let differs = vm.try_sh(&command("other", 16));
    assert_eq!(
        super::nvme_status(&differs.text),
        Some(COMPARE_FAILURE),
        "{}",
        differs.text
    );
    // NVM Command Set 1.0c §3.2.3.2.1: a deallocated block has contents all the same, here zeroes.
    vm.sh(&format!(
        "blkdiscard -o 1048576 -l 1048576 {disk}; head -c 4096 /dev/zero >/tmp/none"
    ));
    vm.sh(&command("none", 2048));
    let unmapped = vm.try_sh(&command("same", 2048));
    assert_eq!(
        super::nvme_status(&unmapped.text),
        Some(COMPARE_FAILURE),
        "{}",
        unmapped.text
    );
    // The last seven blocks of the request lie past the end.
    let beyond = vm.try_sh(&command("same", (64 << 20) / 512 - 1));
    assert_eq!(
        super::nvme_status(&beyond.text),
        Some(OUT_OF_RANGE),
        "{}",
        beyond.text
    );
}
