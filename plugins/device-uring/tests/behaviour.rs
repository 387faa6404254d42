//! What a file device does when files, the reactor or other processes misbehave.

mod common;

use std::fs::OpenOptions;
use std::io::{BufRead, BufReader, Read, Write};
use std::path::Path;
use std::process::{Command, Stdio};

use common::{Driven, FileDisk, open, read, write, write_fua, zeroes};
use sdk::block::{IoError, Op, OpenError, Submitted, Support};
use sdk::host::FileError;
use units::BlockRange;

const MEMORY: &str = "/dev/shm";

#[test]
fn a_file_cut_off_behind_our_back_gives_medium_errors_for_what_is_missing() {
    for directory in [MEMORY, env!("CARGO_TARGET_TMPDIR")] {
        let disk = FileDisk::new(directory, 1 << 20);
        let mut driven = Driven::open(&disk.uri("?blk_size=512"));
        let file = OpenOptions::new().write(true).open(disk.path()).unwrap();
        file.set_len(512 * 1000 + 100).unwrap();
        let range = BlockRange::new(996, 8);
        let missing = BlockRange::new(1000, 4);
        assert_eq!(
            driven.run(read(range)).unwrap_err(),
            IoError::Medium(missing)
        );
        let gone = BlockRange::new(1500, 8);
        assert_eq!(driven.run(read(gone)).unwrap_err(), IoError::Medium(gone));
        assert!(driven.run(read(BlockRange::new(992, 8))).is_ok());
        driven.close();
    }
}

#[test]
fn after_a_failed_flush_nothing_is_ever_acknowledged_again() {
    let disk = FileDisk::new(MEMORY, 1 << 20);
    let mut driven = Driven::open(&disk.uri(""));
    driven.run(write(BlockRange::new(0, 8))).unwrap();
    driven.host.fail_next(FileError::Medium);
    assert_eq!(driven.run(Op::Flush).unwrap_err(), IoError::Gone);
    // The kernel would report success from here on; the device must not.
    assert_eq!(driven.run(Op::Flush).unwrap_err(), IoError::Gone);
    assert_eq!(
        driven.run(read(BlockRange::new(0, 8))).unwrap_err(),
        IoError::Gone
    );
    // Another queue of the same device knows as well.
    driven.reopen_queue();
    assert_eq!(driven.run(Op::Flush).unwrap_err(), IoError::Gone);
    driven.close();
}

#[test]
fn flushes_that_come_during_a_failing_one_fail_too() {
    let disk = FileDisk::new(MEMORY, 1 << 20);
    let mut driven = Driven::open(&disk.uri(""));
    driven.host.fail_next(FileError::Medium);
    let tags: Vec<u64> = (0..5).map(|_| driven.start(Op::Flush).unwrap()).collect();
    let mut seen = Vec::new();
    while let Some((tag, result)) = driven.next() {
        assert_eq!(result.unwrap_err(), IoError::Gone);
        seen.push(tag);
    }
    seen.sort_unstable();
    assert_eq!(seen, tags);
    driven.close();
}

#[test]
fn flushes_in_flight_together_share_a_sync() {
    let disk = FileDisk::new(MEMORY, 1 << 20);
    let mut driven = Driven::open(&disk.uri(""));
    for _ in 0..10 {
        driven.start(Op::Flush).unwrap();
    }
    while let Some((_, result)) = driven.next() {
        result.unwrap();
    }
    assert_eq!(driven.host.counts().syncs, 2);
    driven.close();
}

#[test]
fn a_durable_write_without_o_direct_is_a_write_and_a_sync() {
    let disk = FileDisk::new(MEMORY, 1 << 20);
    let mut driven = Driven::open(&disk.uri(""));
    assert_eq!(driven.device.capabilities().direct, Some(false));
    driven.run(write_fua(BlockRange::new(0, 8))).unwrap();
    let counts = driven.host.counts();
    assert_eq!((counts.durable_writes, counts.syncs), (0, 1));
    driven.host.fail_next(FileError::NoSpace);
    let error = driven.run(write_fua(BlockRange::new(0, 8))).unwrap_err();
    assert_eq!(error, IoError::NoSpace);
    driven.run(Op::Flush).unwrap();
    driven.close();
}

#[test]
fn zeroes_with_fua_are_synced() {
    let disk = FileDisk::new(MEMORY, 1 << 20);
    let mut driven = Driven::open(&disk.uri(""));
    driven
        .run(zeroes(BlockRange::new(0, 8), true, true))
        .unwrap();
    let counts = driven.host.counts();
    assert_eq!((counts.holes, counts.syncs), (1, 1));
    driven.close();
}

#[test]
fn a_refused_zero_range_becomes_a_hole_and_is_remembered() {
    let disk = FileDisk::new(MEMORY, 1 << 20);
    let mut driven = Driven::open(&disk.uri(""));
    let range = BlockRange::new(0, 64);
    driven.host.fail_next(FileError::NotSupported);
    driven.run(zeroes(range, false, false)).unwrap();
    driven.run(zeroes(range, false, false)).unwrap();
    let counts = driven.host.counts();
    assert_eq!((counts.zeroes, counts.holes), (0, 2));
    // With holes refused as well there is nothing left; the engine then writes zeroes.
    driven.host.fail_next(FileError::NotSupported);
    let error = driven.run(zeroes(range, true, false)).unwrap_err();
    assert_eq!(error, IoError::NotSupported);
    let error = driven.run(Op::Discard { range }).unwrap_err();
    assert_eq!(error, IoError::NotSupported);
    assert_eq!(driven.host.counts().holes, 2);
    driven.close();
}

#[test]
fn operations_a_full_reactor_hands_back_are_done_later_and_in_order() {
    let disk = FileDisk::new(MEMORY, 1 << 20);
    let mut driven = Driven::open(&disk.uri(""));
    let range = BlockRange::new(0, 8);
    let mut tags = vec![driven.start(write(range)).unwrap()];
    driven.host.refuse_next(1);
    tags.extend((0..4).map(|_| driven.start(read(range)).unwrap()));
    let mut seen = Vec::new();
    while let Some((tag, result)) = driven.next() {
        result.unwrap();
        seen.push(tag);
    }
    assert_eq!(seen, tags);
    driven.close();
}

#[test]
fn with_nothing_in_flight_a_full_reactor_means_busy() {
    let disk = FileDisk::new(MEMORY, 1 << 20);
    let mut driven = Driven::open(&disk.uri(""));
    for op in [read(BlockRange::new(0, 8)), Op::Flush] {
        driven.host.refuse_next(1);
        match driven.submit(op) {
            Submitted::Done(Err(IoError::Busy)) => {}
            other => panic!("{other:?}"),
        }
        assert!(driven.queue.poll_completion().is_none());
    }
    driven.run(Op::Flush).unwrap();
    driven.run(read(BlockRange::new(0, 8))).unwrap();
    driven.close();
}

#[test]
fn more_than_the_depth_is_busy() {
    let disk = FileDisk::new(MEMORY, 1 << 20);
    let mut driven = Driven::open(&disk.uri(""));
    let range = BlockRange::new(0, 1);
    let taken = (0..5000)
        .map_while(|_| driven.start(read(range)).ok())
        .count();
    assert_eq!(taken, 1024);
    let mut answered = 0;
    while driven.next().is_some() {
        answered += 1;
    }
    assert_eq!(answered, taken);
    driven.run(read(range)).unwrap();
    driven.close();
}

#[test]
fn errors_keep_their_meaning() {
    let disk = FileDisk::new(MEMORY, 1 << 20);
    let mut driven = Driven::open(&disk.uri(""));
    let range = BlockRange::new(3, 2);
    for (file, block) in [
        (FileError::Medium, IoError::Medium(range)),
        (FileError::NoSpace, IoError::NoSpace),
        (FileError::Gone, IoError::Gone),
        (FileError::Cancelled, IoError::Aborted),
        (FileError::Other(71), IoError::Medium(range)),
    ] {
        driven.host.fail_next(file);
        assert_eq!(driven.run(write(range)).unwrap_err(), block);
        driven.host.fail_next(file);
        assert_eq!(driven.run(read(range)).unwrap_err(), block);
    }
    driven.run(read(range)).unwrap();
    driven.close();
}

#[test]
fn refusals_name_the_thing_and_the_fix() {
    let refusal = |uri: &str| open(uri).err().expect("refused").to_string();
    let directory = tempfile::tempdir_in(MEMORY).unwrap();
    let path = directory.path().display().to_string();
    let missing = refusal(&format!("aio://{path}/none"));
    let start = format!("{path}/none: not found; check the path");
    assert!(missing.starts_with(&start), "{missing}");
    let circle = format!("{path}/circle");
    std::os::unix::fs::symlink(&circle, &circle).unwrap();
    assert!(refusal(&format!("aio://{circle}")).contains("in a circle"));
    let long = format!("aio://{path}/{}", "x".repeat(300));
    assert!(refusal(&long).contains("too long a name"));
    let unknown = refusal("aio:///x?blk_size=1000&blksize=512");
    assert!(unknown.contains("'blksize' is unknown"), "{unknown}");
    assert!(refusal(&format!("aio://{path}")).contains("is a directory"));
    assert!(refusal("aio:///dev/zero").contains("is a character device"));
    let fifo = Path::new(&path).join("fifo");
    rustix::fs::mknodat(
        rustix::fs::CWD,
        &fifo,
        rustix::fs::FileType::Fifo,
        0o600.into(),
        0,
    )
    .unwrap();
    assert!(refusal(&format!("aio://{}", fifo.display())).contains("is a FIFO"));
    let disk = FileDisk::new(MEMORY, 0);
    assert!(refusal(&disk.uri("")).contains("truncate -s 10G"));
    let disk = FileDisk::new(MEMORY, 1000);
    assert!(refusal(&disk.uri("")).contains("truncate -s 1024"));
    let disk = FileDisk::new(MEMORY, 4096 + 512);
    assert!(refusal(&disk.uri("?blk_size=4096")).contains("truncate -s 8192"));
    assert!(open(&disk.uri("?blk_size=0")).is_ok());
}

#[test]
fn a_rescan_takes_over_what_a_restart_would_open_and_a_size_cannot_be_set() {
    let disk = FileDisk::new(MEMORY, 1 << 20);
    let mut device = open(&disk.uri("?rescan")).unwrap();
    disk.set_len((2 << 20) + 100);
    let error = device.resize(Some(units::Blocks(4096))).unwrap_err();
    assert!(error.to_string().contains("rescan"), "{error}");
    assert_eq!(device.geometry().blocks.0, 2048);
    let error = device.resize(None).unwrap_err();
    let whole = (2 << 20) + 512;
    let fix = format!("truncate -s {whole}");
    assert!(error.to_string().contains(&fix), "{error}");
    assert_eq!(device.geometry().blocks.0, 2048);
    disk.set_len(whole);
    assert_eq!(device.resize(None).unwrap().blocks.0, 4097);
    assert_eq!(device.geometry().blocks.0, 4097);
    drop(device);
    assert_eq!(open(&disk.uri("")).unwrap().geometry().blocks.0, 4097);
}

#[test]
fn a_file_emptied_under_its_device_leaves_the_size_and_fails_reads() {
    let disk = FileDisk::new(MEMORY, 1 << 20);
    let mut driven = Driven::open(&disk.uri(""));
    disk.set_len(0);
    let error = driven.device.resize(None).unwrap_err().to_string();
    assert!(error.contains("truncate -s 1048576"), "{error}");
    assert_eq!(driven.device.geometry().blocks.0, 2048);
    let range = BlockRange::new(0, 8);
    assert_eq!(driven.run(read(range)).unwrap_err(), IoError::Medium(range));
    disk.set_len(1 << 20);
    assert_eq!(driven.device.resize(None).unwrap().blocks.0, 2048);
    driven.run(read(range)).unwrap();
    driven.close();
}

#[test]
fn a_file_deleted_while_it_is_served_is_warned_about_with_a_way_back() {
    let disk = FileDisk::new(MEMORY, 1 << 20);
    let mut driven = Driven::open(&disk.uri(""));
    assert_eq!(driven.device.warning(), None);
    driven.run(write(BlockRange::new(0, 8))).unwrap();
    let link = format!("{}.link", disk.path());
    std::fs::hard_link(disk.path(), &link).unwrap();
    std::fs::remove_file(disk.path()).unwrap();
    assert_eq!(driven.device.warning(), None, "it has another name");
    std::fs::remove_file(&link).unwrap();
    let warning = driven.device.warning().unwrap();
    assert!(warning.contains(disk.path()), "{warning}");
    let copy = warning
        .split_whitespace()
        .find(|word| word.starts_with("/proc/"));
    assert_eq!(std::fs::read(copy.unwrap()).unwrap().len(), 1 << 20);
    driven.run(write(BlockRange::new(0, 8))).unwrap();
    driven.close();
}

#[test]
fn a_rescan_of_a_path_that_names_another_file_is_refused_and_changes_nothing() {
    let disk = FileDisk::new(MEMORY, 1 << 20);
    let mut driven = Driven::open(&disk.uri(""));
    let path = disk.path().to_owned();
    let refused = |driven: &mut Driven, what: &str| {
        let error = driven.device.resize(None).unwrap_err().to_string();
        assert!(error.contains(what) && error.contains("/proc/"), "{error}");
        assert_eq!(driven.device.geometry().blocks.0, 2048);
    };
    let aside = format!("{path}.aside");
    std::fs::rename(&path, &aside).unwrap();
    refused(&mut driven, "its file was moved away");
    std::fs::write(&path, vec![7; 2 << 20]).unwrap();
    refused(
        &mut driven,
        "another file is at its path, and its own was moved",
    );
    std::fs::remove_file(&aside).unwrap();
    refused(
        &mut driven,
        "its file was deleted, and another is in its place",
    );
    std::fs::remove_file(&path).unwrap();
    refused(&mut driven, "its file was deleted; the device goes on");
    driven.run(write(BlockRange::new(0, 8))).unwrap();
    driven.close();

    // Its own file under its own name again, by whatever way: nothing is wrong.
    let disk = FileDisk::new(MEMORY, 1 << 20);
    let mut driven = Driven::open(&disk.uri(""));
    std::fs::rename(disk.path(), format!("{}.aside", disk.path())).unwrap();
    std::os::unix::fs::symlink(format!("{}.aside", disk.path()), disk.path()).unwrap();
    disk.set_len(2 << 20);
    assert_eq!(driven.device.resize(None).unwrap().blocks.0, 4096);
    driven.close();
}

#[test]
fn a_file_in_memory_says_what_it_can_do() {
    let disk = FileDisk::new(MEMORY, 1 << 20);
    let uuid = "?uuid=3fa85f64-5717-4562-b3fc-2c963f66afa6";
    let device = open(&disk.uri(uuid)).unwrap();
    let capabilities = device.capabilities();
    assert_eq!(capabilities.direct, Some(false));
    assert_eq!(capabilities.discard, Support::Native);
    assert!(capabilities.volatile_cache);
    assert_eq!(device.uuid().unwrap()[..2], [0x3f, 0xa8]);
    assert_eq!(device.name(), disk.path());
}

#[test]
fn a_file_another_process_has_is_refused_and_the_process_named() {
    let disk = FileDisk::new(MEMORY, 1 << 20);
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args([
            "--exact",
            "child_that_holds_a_file",
            "--ignored",
            "--nocapture",
        ])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    writeln!(child.stdin.as_mut().unwrap(), "{}", disk.uri("")).unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    assert!(
        lines.any(|line| line.unwrap().contains("held")),
        "the child opens it"
    );
    match open(&disk.uri("")) {
        Err(OpenError::InUse { holder, .. }) => {
            assert!(
                holder.contains(&format!("pid {} (", child.id())),
                "{holder}"
            );
            assert!(!holder.contains("this process"), "{holder}");
        }
        Err(error) => panic!("{error}"),
        Ok(_) => panic!("opened twice"),
    }
    // A crash frees it.
    child.kill().unwrap();
    child.wait().unwrap();
    open(&disk.uri("")).unwrap();
}

#[test]
#[ignore = "the other process of a test: opens the URI on its standard input and holds it until that ends"]
fn child_that_holds_a_file() {
    let mut uri = String::new();
    std::io::stdin().read_line(&mut uri).unwrap();
    if uri.is_empty() {
        return;
    }
    let device = open(uri.trim()).unwrap();
    writeln!(std::io::stdout(), "held").unwrap();
    std::io::stdin().read_to_end(&mut Vec::new()).unwrap();
    drop(device);
}
