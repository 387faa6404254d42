//! The disk under a served device goes away while a host uses it, and comes back.
//!
//! The engine runs in the guest and serves a disk that the guest has from a second engine outside: disconnected, it is gone
//! like one that was pulled out.

use std::time::{Duration, Instant};

use vm_tests::{Connection, Lab, PATIENCE, Scenario, Vm};

use super::inside::{self, CLIENT};

pub(crate) const SCENARIO: Scenario = Scenario {
    name: "device-loss",
    about: "a disk is pulled from under a connected host: errors, no hang; shown as lost; back by bdev rescan as itself",
    provokes: &[
        // Of the disk that was pulled.
        "no available path",
        // Of I/O that fails on the one served from it.
        "I/O error",
        "I/O Cmd",
        "critical medium error",
    ],
    run,
};

/// Longest time the host may wait for an answer: the engine's deadline of a device (20 s) and a slow machine.
const ANSWER_MAX: Duration = Duration::from_secs(25);
/// Media status: Write Fault.
const WRITE_FAULT: u16 = 0x280;
/// Generic status: Namespace Not Ready.
const NOT_READY: u16 = 0x082;

fn run(vm: &mut Vm, lab: &mut Lab) {
    inside::install(vm, lab);
    let outside = lab.engine(&[]);
    let share = outside.share_file("disk", 32, &[]);
    let port = outside.port();
    let pulled = vm.connect(port, &share.nqn, "");
    let engine = inside::start(vm, "loss", "auto");
    let uri = format!("aio://{}?blk_size=512", pulled.disk);
    let name = vm.sh(&format!("{CLIENT} bdev create '{uri}'"));
    vm.sh(&format!("{CLIENT} bdev share {name}"));
    let nqn = format!("nqn.2019-05.io.openebs:{name}");
    let host = vm.connect_to("-a 127.0.0.1 -s 8420", &nqn, "");
    let before = identity(vm, &host);

    vm.sh("head -c 4194304 /dev/urandom >/tmp/old; head -c 4096 /tmp/old >/tmp/block");
    let write = format!("dd if=/tmp/old of={} bs=256k oflag=direct", host.disk);
    vm.sh(&format!("{write} && nvme flush {} -n 1", host.disk));
    // Acknowledged, and not flushed: lost with the disk, for all anybody knows.
    vm.sh(&format!("{write} seek=32"));
    let reader = vm.background(&format!(
        "while dd if={} of=/dev/null bs=64k iflag=direct; do :; done",
        host.disk
    ));
    vm.disconnect(&pulled);
    vm.finish(reader, ANSWER_MAX);
    // The first errors came while the kernel still took the disk away: it is told from a bad block at the next I/O.
    refused_soon(vm, "write", &host);
    is_lost(vm, &name);
    refused_soon(vm, "read", &host);

    let refused = vm.try_sh(&format!("{CLIENT} bdev rescan {name}"));
    assert!(
        !refused.success() && refused.text.contains("not found"),
        "nothing to open: {}",
        refused.text
    );
    let again = vm.connect(port, &share.nqn, "");
    assert_eq!(again.disk, pulled.disk, "the disk has its name again");
    refused_soon(vm, "read", &host);
    vm.sh(&format!("{CLIENT} bdev rescan {name}"));
    assert!(vm.sh(&format!("{CLIENT} bdev state")).contains("online"));

    // The host hears once that writes before the last flush may be gone; then everything works.
    let flush = format!("nvme flush {} -n 1", host.disk);
    let told = vm.try_sh(&flush);
    assert_eq!(
        super::nvme_status(&told.text),
        Some(WRITE_FAULT),
        "{}",
        told.text
    );
    vm.sh(&flush);
    let read = format!("dd if={} bs=256k count=16 iflag=direct", host.disk);
    vm.sh(&format!("{read} 2>/dev/null | cmp - /tmp/old"));
    vm.sh(&format!("{write} seek=64 conv=fsync"));
    vm.sh(&format!("{read} skip=64 2>/dev/null | cmp - /tmp/old"));
    assert_eq!(
        identity(vm, &host),
        before,
        "it is the same disk, on the same connection"
    );

    vm.disconnect(&host);
    inside::stop(vm, engine);
    vm.disconnect(&again);
    vm.sh("rm -rf /opt/engine /run/state-loss");
}

/// The device is listed with its fault and the way out.
fn is_lost(vm: &mut Vm, name: &str) {
    let state = vm.sh(&format!("{CLIENT} bdev state"));
    let line = state.lines().find(|line| line.starts_with(name));
    let line = line.unwrap_or_else(|| panic!("{name} in:\n{state}"));
    assert!(
        line.contains("faulted") && line.contains("bdev rescan"),
        "{line}"
    );
}

/// The host's command is answered Namespace Not Ready, and not by waiting.
fn refused_soon(vm: &mut Vm, verb: &str, host: &Connection) {
    let start = Instant::now();
    let told = vm.try_sh_within(
        PATIENCE,
        &format!(
            "nvme {verb} {} --start-block=0 --block-count=7 --data-size=4096 --data=/tmp/block",
            host.disk
        ),
    );
    let status = super::nvme_status(&told.text);
    assert_eq!(status, Some(NOT_READY), "{verb}: {}", told.text);
    let took = start.elapsed();
    assert!(took < ANSWER_MAX, "{verb} took {took:?}");
}

fn identity(vm: &mut Vm, host: &Connection) -> String {
    let Connection {
        disk, controller, ..
    } = host;
    vm.sh(&format!(
        "nvme ns-descs {disk} && nvme id-ctrl {disk} | grep -E '^(sn|mn|subnqn|cntlid) ' && \
         nvme id-ns {disk} | grep -E '^(nguid|nsze|eui64) ' && cat /sys/class/nvme/{controller}/state"
    ))
}
