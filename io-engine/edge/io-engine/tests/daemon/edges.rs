//! Where an engine comes to its edges: more RAM than there is, files that are exchanged below it, writes that are lost.

use crate::support::{Daemon, HOST_A, HOST_B, Setup, directory, disk, pattern, until};

#[test]
fn ram_disks_stay_within_their_memory_also_when_they_are_remembered() {
    let dir = directory();
    let (state, config) = (dir.path().join("state"), dir.path().join("e.toml"));
    let start = |text: &str| {
        std::fs::write(&config, text).unwrap();
        let config = config.to_str().unwrap();
        Setup::new(&state).with(&["--config", config]).start()
    };
    let daemon = start("[memory]\nram_disks_mib_max = 64\n");
    daemon.create("malloc:///small?size_mb=8").unwrap();
    let large = daemon.serve("malloc:///large?size_mb=48", &[]);
    for uri in [
        "malloc:///more?size_mb=9",
        "malloc:///small?size_mb=17&resize",
    ] {
        let refused = daemon.create(uri).unwrap_err();
        let line = refused.message();
        assert!(
            line.contains("MiB are left of the 64 MiB that memory.ram_disks_mib_max gives"),
            "{line}"
        );
    }
    daemon.create("malloc:///small?size_mb=16&resize").unwrap();
    daemon.kill();

    // Both are remembered, and one of them fits: the other is not served, and not forgotten.
    let daemon = start("[memory]\nram_disks_mib_max = 47\n");
    until("the small one is back", || {
        daemon
            .bdevs()
            .iter()
            .any(|bdev| bdev.name == "small" && bdev.num_blocks == 16 << 11)
    });
    until("the large one is refused", || {
        let devices = daemon.devices();
        let large = devices.iter().find(|device| device.name == "large");
        large.unwrap().reason.contains("memory.ram_disks_mib_max")
    });
    assert!(!daemon.subsystem(&large).online);
    daemon.destroy("malloc:///small").unwrap();
    daemon.kill();
    let daemon = start("[memory]\nram_disks_mib_max = 48\n");
    daemon.until_online(&large);
}

#[test]
fn a_file_exchanged_below_its_device_is_told_and_its_hosts_see_no_other_content() {
    let dir = directory();
    let file = disk(dir.path(), "disk", 8);
    let daemon = Setup::new(&dir.path().join("state")).start();
    let nqn = daemon.serve(&format!("aio://{}", file.display()), &[]);
    let mut host = daemon.connect(&nqn, HOST_A);
    host.write(1, 0, &pattern(1, 4096)).unwrap();
    let name = file.to_str().unwrap();
    daemon.rescan(name, false).unwrap();
    assert_eq!(daemon.bdevs()[0].claimed_by, "NVMe-oF Target");

    std::fs::remove_file(&file).unwrap();
    std::fs::write(&file, vec![9; 16 << 20]).unwrap();
    let refused = daemon.rescan(name, false).unwrap_err();
    for part in [
        "was deleted, and another is in its place",
        "/proc/",
        "create it again",
    ] {
        assert!(refused.message().contains(part), "no '{part}' in {refused}");
    }
    let bdev = daemon.bdevs().remove(0);
    assert!(
        bdev.claimed_by
            .contains("NVMe-oF Target; warning: its file was deleted"),
        "{}",
        bdev.claimed_by
    );
    assert_eq!(bdev.num_blocks, 8 << 11);
    assert!(host.read(1, 0, 8).unwrap() == pattern(1, 4096));
}

#[test]
fn hosts_hear_of_lost_writes_also_after_kill_9() {
    let dir = directory();
    let file = disk(dir.path(), "disk", 8);
    let state = dir.path().join("state");
    let setup = Setup::new(&state).with(&["--metrics", "127.0.0.1:0"]);
    let lost = |daemon: &Daemon| {
        let page = crate::get(daemon.metrics().unwrap(), "/metrics");
        page.contains("io_engine_device_writes_lost{device=\"f\"} 1")
    };
    let daemon = setup.start();
    let nqn = daemon.serve(&format!("fault:///f?device=aio://{}", file.display()), &[]);
    let mut a = daemon.connect(&nqn, HOST_A);
    let mut b = daemon.connect(&nqn, HOST_B);
    a.write(1, 0, &pattern(1, 4096)).unwrap();
    b.write(1, 8, &pattern(2, 4096)).unwrap();
    assert!(!lost(&daemon));
    daemon.command("f", "add error kind=gone op=flush");
    b.flush(1).unwrap_err();
    until("the loss is stored", || lost(&daemon));
    daemon.kill();

    let daemon = setup.start();
    daemon.until_online(&nqn);
    assert!(lost(&daemon));
    let device = daemon.devices().remove(0);
    assert!(
        device.reason.contains("--accept-loss f"),
        "{}",
        device.reason
    );
    let mut a = daemon.connect(&nqn, HOST_A);
    let mut b = daemon.connect(&nqn, HOST_B);
    let status = a.flush(1).unwrap_err().status().unwrap();
    assert_eq!((status.sct(), status.sc()), (2, 0x80), "Write Fault");
    a.flush(1).unwrap();
    // This one knew before.
    b.flush(1).unwrap();
    daemon.rescan("f", true).unwrap();
    assert!(!lost(&daemon));
    daemon.kill();
    let daemon = setup.start();
    daemon.until_online(&nqn);
    assert!(!lost(&daemon));
    daemon.connect(&nqn, HOST_A).flush(1).unwrap();
}

#[test]
fn a_declared_device_that_is_remembered_otherwise_is_told() {
    let dir = directory();
    let (state, config) = (dir.path().join("state"), dir.path().join("e.toml"));
    let start = |uri: &str| {
        std::fs::write(&config, format!("[[device]]\nuri = \"{uri}\"\n")).unwrap();
        let config = config.to_str().unwrap();
        Setup::new(&state).with(&["--config", config]).start()
    };
    let daemon = start("malloc:///m?size_mb=8");
    until("it is created", || daemon.bdevs().len() == 1);
    assert_eq!(daemon.stop(), Some(0));
    let daemon = start("malloc:///m?size_mb=16");
    daemon.until_logged("the declared device is remembered with another URI");
    assert_eq!(daemon.bdevs()[0].num_blocks, 8 << 11);
    daemon.create("malloc:///m?size_mb=16&resize").unwrap();
    assert_eq!(daemon.stop(), Some(0));
    let daemon = start("malloc:///m?size_mb=16");
    until("it is back", || daemon.bdevs()[0].num_blocks == 16 << 11);
    assert!(
        !daemon.stderr().contains("remembered with another URI"),
        "{}",
        daemon.stderr()
    );
}
