//! Devices served over NBD by the reactors, to real clients; one that is not installed is skipped with a printed reason.

#![expect(clippy::print_stdout, reason = "a test that is skipped says why")]

use std::path::Path;
use std::process::Command;
use std::sync::Arc;

use engine::control::dataplane::{
    Access, DataPlane, DeviceHandle, ExportSpec, Problem, ProblemKind,
};

use crate::support::{Rig, config, namespace, pattern};

/// A rig with this many reactors that serves NBD at a socket in its directory.
fn rig(reactors: usize) -> Rig {
    let mut config = config();
    config.cpus = vec![None; reactors];
    let socket = std::env::temp_dir().join(format!("nbd-{}.sock", uuid::Uuid::new_v4()));
    let address = format!("unix://{}", socket.display());
    config.export_listen = [("nbd".to_owned(), vec![address])].into();
    Rig::with(config, Arc::default())
}

fn export(rig: &Rig, device: DeviceHandle, name: &str) -> Result<String, Problem> {
    export_as(rig, device, name, Access::ReadWrite)
}

fn export_as(
    rig: &Rig,
    device: DeviceHandle,
    name: &str,
    access: Access,
) -> Result<String, Problem> {
    let spec = ExportSpec {
        device,
        name: name.to_owned(),
        protocol: "nbd".to_owned(),
        access,
    };
    rig.runtime.block_on(rig.plane.add_export(spec))
}

fn has(program: &str) -> bool {
    let found = Command::new(program).arg("--version").output().is_ok();
    if !found {
        println!("skipped: {program} is not installed");
    }
    found
}

/// Whether a client succeeds, and what it says.
fn run(program: &str, arguments: &[&str]) -> (bool, String) {
    let output = Command::new(program)
        .args(arguments)
        .output()
        .expect("the client starts");
    let text = [output.stdout, output.stderr].concat();
    (
        output.status.success(),
        String::from_utf8_lossy(&text).into_owned(),
    )
}

fn copy(from: &str, to: &str) {
    let (ok, text) = run("nbdcopy", &[from, to]);
    assert!(ok, "{from} to {to}: {text}");
}

fn image(path: &Path, bytes: usize) -> Vec<u8> {
    let mut image = vec![0; bytes];
    for (at, piece) in image.chunks_mut(64 << 10).enumerate() {
        if at % 4 == 0 {
            piece.copy_from_slice(&pattern(at as u64, 64 << 10));
        }
    }
    std::fs::write(path, &image).expect("written");
    image
}

/// Two devices live on two reactors, and clients reach both through one socket.
#[test]
fn images_come_back_equal_from_devices_of_every_reactor() {
    if !has("nbdcopy") || !has("nbdinfo") {
        return;
    }
    let mut rig = rig(2);
    let file = rig.file("disk", 16 << 20);
    let disks = [
        "malloc:///m?size_mb=16".to_owned(),
        format!("aio://{}", file.display()),
    ];
    let source = rig.file("source", 0);
    let wanted = image(&source, 16 << 20);
    for (at, disk) in disks.iter().enumerate() {
        let device = rig.open(disk);
        let uri =
            export(&rig, device, &format!("v{at}")).unwrap_or_else(|problem| panic!("{problem}"));
        let back = rig.file("back", 0);
        copy(&source.display().to_string(), &uri);
        copy(&uri, &back.display().to_string());
        assert!(std::fs::read(&back).expect("read") == wanted, "{disk}");
        let (ok, map) = run("nbdinfo", &["--map", &uri]);
        assert!(ok, "{map}");
    }
    let used: Vec<u64> = rig
        .runtime
        .block_on(rig.plane.device_stats())
        .into_iter()
        .map(|(_, stats)| stats.of(engine::control::stats::CountedOp::Write).ops)
        .collect();
    assert!(used.iter().all(|writes| *writes > 0), "{used:?}");
}

#[test]
fn a_device_is_served_one_way_at_a_time() {
    let mut rig = rig(1);
    let device = rig.open("malloc:///m?size_mb=4");
    export(&rig, device, "m").unwrap_or_else(|problem| panic!("{problem}"));
    let kind = |result: Result<(), Problem>| result.expect_err("refused").kind();
    assert_eq!(
        kind(export(&rig, device, "again").map(drop)),
        ProblemKind::AlreadyExists
    );
    assert_eq!(
        kind(rig.runtime.block_on(rig.plane.close_device(device))),
        ProblemKind::Busy
    );
    let subsystem = || engine::control::dataplane::SubsystemSpec {
        nqn: "nqn.2019-05.io.openebs:m".to_owned(),
        serial: "s".to_owned(),
        allowed_hosts: None,
        namespaces: vec![namespace(1, device)],
    };
    assert_eq!(
        kind(rig.runtime.block_on(rig.plane.add_subsystem(subsystem()))),
        ProblemKind::Busy
    );
    let done = |result: Result<(), Problem>| result.unwrap_or_else(|problem| panic!("{problem}"));
    done(rig.runtime.block_on(rig.plane.remove_export(device)));
    done(rig.runtime.block_on(rig.plane.add_subsystem(subsystem())));
    assert_eq!(kind(export(&rig, device, "m").map(drop)), ProblemKind::Busy);
    assert_eq!(
        kind(rig.runtime.block_on(rig.plane.remove_export(device))),
        ProblemKind::NotFound
    );
}

#[test]
fn a_read_only_export_says_so_and_refuses_writes() {
    if !has("nbdinfo") || !has("qemu-io") {
        return;
    }
    let mut rig = rig(1);
    let device = rig.open("malloc:///m?size_mb=4");
    let uri = export_as(&rig, device, "m", Access::ReadOnly);
    let uri = uri.unwrap_or_else(|problem| panic!("{problem}"));
    let (ok, text) = run("nbdinfo", &[&uri]);
    assert!(ok && text.contains("is_read_only: true"), "{text}");
    let (ok, text) = run("qemu-io", &["-f", "raw", "-c", "write 0 4k", &uri]);
    assert!(!ok || text.contains("failed"), "{text}");
    let (ok, text) = run(
        "qemu-io",
        &["-r", "-f", "raw", "-c", "read -P 0 0 4k", &uri],
    );
    assert!(ok && text.contains("read 4096/4096"), "{text}");
}

#[test]
fn a_client_sees_a_new_size_and_is_disconnected_with_the_share() {
    if !has("nbdinfo") {
        return;
    }
    let mut rig = rig(2);
    let device = rig.open("malloc:///m?size_mb=4");
    let uri = export(&rig, device, "m").unwrap_or_else(|problem| panic!("{problem}"));
    let size = || run("nbdinfo", &["--size", &uri]).1.trim().to_owned();
    assert_eq!(size(), (4 << 20).to_string());
    let grown = rig
        .runtime
        .block_on(rig.plane.resize_device(device, Some((8 << 20) / 512)));
    assert_eq!(grown.expect("resized"), (8 << 20) / 512);
    assert_eq!(size(), (8 << 20).to_string());
    let removed = rig.runtime.block_on(rig.plane.remove_export(device));
    removed.unwrap_or_else(|problem| panic!("{problem}"));
    let (ok, text) = run("nbdinfo", &["--size", &uri]);
    assert!(!ok, "{text}");
}
