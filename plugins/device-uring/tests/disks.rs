//! Block devices, on loop devices: skipped, with the reason on standard output, where this user cannot attach them.

use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use conformance::host::{Driven as _, TestHost};
use conformance::{Options, run_device};
use sdk::block::{Device, IoError, IoTag, Op, OpenError, Submitted};
use sdk::buf::Buf;
use sdk::uri::DeviceUri;
use units::BlockRange;

/// A file to attach.
fn image() -> (tempfile::TempDir, PathBuf) {
    let directory = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let path = directory.path().join("image");
    File::create_new(&path).unwrap().set_len(32 << 20).unwrap();
    (directory, path)
}

/// An attached loop device. A name that was given back may be another test's at once, so it is never attached again.
struct Loop {
    name: String,
    /// What the kernel says it stands on.
    backing: String,
}

impl Loop {
    /// `None`, and a line that says why, where there are no loop devices for this user.
    fn on(path: &Path, extra: &[&str]) -> Option<Self> {
        let mut command = Command::new("losetup");
        let output = command.args(["--find", "--show"]).args(extra).arg(path);
        let reason = match output.output() {
            Ok(output) if output.status.success() => {
                let name = String::from_utf8(output.stdout).unwrap().trim().to_owned();
                let backing = backing_file(&name).expect("attached");
                return Some(Self { name, backing });
            }
            Ok(output) => String::from_utf8_lossy(&output.stderr).trim().to_owned(),
            Err(error) => format!("losetup: {error}"),
        };
        let test = std::thread::current().name().unwrap_or_default().to_owned();
        // Past the test harness, which keeps what a passing test prints.
        let line = format!("\nskipped: {test}: no loop device: {reason}\n");
        std::io::stdout().write_all(line.as_bytes()).unwrap();
        None
    }
}

impl Drop for Loop {
    fn drop(&mut self) {
        // A failure would hide the one that ends the test.
        let _ = Command::new("losetup")
            .args(["--detach", &self.name])
            .status();
        // The kernel puts it off while anybody, a probe of the system's say, has the device open.
        let patience = Instant::now() + Duration::from_secs(5);
        while backing_file(&self.name).as_ref() == Some(&self.backing) && Instant::now() < patience
        {
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

fn backing_file(device: &str) -> Option<String> {
    let name = device.trim_start_matches("/dev/");
    fs::read_to_string(format!("/sys/block/{name}/loop/backing_file")).ok()
}

fn open(uri: &str) -> Result<Box<dyn Device>, OpenError> {
    device_uring::drivers()[0].open(DeviceUri::parse(uri).unwrap())
}

fn output(command: &mut Command) -> String {
    let output = command.output().unwrap();
    assert!(output.status.success(), "{command:?}: {output:?}");
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

#[test]
fn disks_with_both_block_sizes_conform() {
    for sector in [512, 4096] {
        let (_directory, image) = image();
        let Some(disk) = Loop::on(&image, &["--sector-size", &sector.to_string()]) else {
            return;
        };
        let make = || {
            let driver = device_uring::drivers().remove(0);
            (driver, format!("uring://{}", disk.name))
        };
        let uri = format!("uring://{}", disk.name);
        let geometry = open(&uri).unwrap().geometry();
        assert_eq!(geometry.block_size.bytes(), sector);
        assert_eq!(geometry.bytes(), 32 << 20);
        run_device(&make, &Options::default());
    }
}

#[test]
fn blocks_smaller_than_the_disks_are_refused() {
    let (_directory, image) = image();
    let Some(disk) = Loop::on(&image, &["--sector-size", "4096"]) else {
        return;
    };
    let error = open(&format!("aio://{}?blk_size=512", disk.name))
        .err()
        .unwrap();
    assert!(error.to_string().contains("leave out blk_size"), "{error}");
}

#[test]
fn a_read_only_disk_is_refused_with_the_fix() {
    let (_directory, image) = image();
    let Some(disk) = Loop::on(&image, &["--read-only"]) else {
        return;
    };
    let error = open(&format!("aio://{}", disk.name)).err().unwrap();
    assert!(error.to_string().contains("--setrw"), "{error}");
}

#[test]
fn a_mounted_disk_is_refused_and_the_mount_named() {
    let (directory, image) = image();
    let Some(disk) = Loop::on(&image, &[]) else {
        return;
    };
    output(Command::new("mkfs.ext4").args(["-q", &disk.name]));
    let target = directory.path().join("mount");
    fs::create_dir(&target).unwrap();
    output(Command::new("mount").arg(&disk.name).arg(&target));
    let opened = open(&format!("aio://{}", disk.name));
    output(Command::new("umount").arg(&target));
    match opened {
        Err(OpenError::InUse { holder, .. }) => {
            assert!(holder.contains(target.to_str().unwrap()), "{holder}");
        }
        Err(error) => panic!("{error}"),
        Ok(_) => panic!("opened a mounted disk"),
    }
}

#[test]
fn a_disk_that_was_pulled_is_gone_whatever_the_kernel_calls_it() {
    let (_directory, image) = image();
    let Some(disk) = Loop::on(&image, &[]) else {
        return;
    };
    let mut device = open(&format!("aio://{}", disk.name)).unwrap();
    let mut host = TestHost::new();
    let owner = host.owner();
    let mut queue = device.open_queue().unwrap().open(&mut host, owner).unwrap();
    let mut run = |op: Op| match queue.submit(&mut host, IoTag(1), op) {
        Submitted::Done(result) => result,
        Submitted::Pending => loop {
            if let Some((_, result)) = queue.poll_completion() {
                break result;
            }
            let done = host.next_file_done().expect("a completion");
            queue.handle_file_done(&mut host, done);
        },
    };
    let range = BlockRange::new(8, 8);
    let buf = || Buf::from_heap(4096);
    let read = || Op::Read {
        range,
        buf: Some(buf()),
    };
    let write = |fua| Op::Write {
        range,
        buf: buf(),
        fua,
    };
    run(write(true)).unwrap();
    // No size, as a disk has that was removed while it was open: the kernel fails writes for want of space and ends reads.
    OpenOptions::new()
        .write(true)
        .open(&image)
        .and_then(|file| file.set_len(0))
        .unwrap();
    output(Command::new("losetup").args(["--set-capacity", &disk.name]));
    for op in [read(), write(false), write(true)] {
        assert_eq!(run(op).unwrap_err(), IoError::Gone);
    }
}

fn holder_of(uri: &str) -> String {
    match open(uri) {
        Err(OpenError::InUse { holder, .. }) => holder,
        Err(error) => panic!("{error}"),
        Ok(_) => panic!("opened {uri}, which is in use"),
    }
}

#[test]
fn a_file_below_a_loop_device_is_refused_and_the_loop_device_named() {
    let (directory, image) = image();
    let Some(disk) = Loop::on(&image, &[]) else {
        return;
    };
    let link = directory.path().join("link");
    fs::hard_link(&image, &link).unwrap();
    for path in [&image, &link] {
        let holder = holder_of(&format!("aio://{}", path.display()));
        assert!(holder.contains(&disk.name), "{holder}");
        assert!(holder.contains("losetup -d"), "{holder}");
    }
    drop(disk);
    open(&format!("aio://{}", image.display())).unwrap();
}

#[test]
fn a_loop_device_on_a_file_that_is_served_is_refused_and_the_server_named() {
    let (_directory, image) = image();
    let file = format!("aio://{}", image.display());
    let served = open(&file).unwrap();
    let Some(disk) = Loop::on(&image, &[]) else {
        return;
    };
    let uri = format!("aio://{}", disk.name);
    let holder = holder_of(&uri);
    let me = format!("pid {} (", std::process::id());
    assert!(holder.contains(&me), "{holder}");
    assert!(holder.contains(image.to_str().unwrap()), "{holder}");
    drop(served);
    let _served = open(&uri).unwrap();
    let holder = holder_of(&file);
    assert!(holder.contains(&disk.name), "{holder}");
}

#[test]
fn a_disk_below_a_loop_device_is_refused_and_the_loop_device_named() {
    let (_directory, image) = image();
    let Some(disk) = Loop::on(&image, &[]) else {
        return;
    };
    let upper = Loop::on(Path::new(&disk.name), &[]).unwrap();
    let holder = holder_of(&format!("aio://{}", disk.name));
    assert!(holder.contains(&upper.name), "{holder}");
    drop(upper);
    open(&format!("aio://{}", disk.name)).unwrap();
}

#[test]
fn a_disk_and_its_partition_exclude_each_other_and_two_partitions_do_not() {
    let (_directory, image) = image();
    let Some(disk) = Loop::on(&image, &[]) else {
        return;
    };
    for (number, start) in [("1", "2048"), ("2", "8192")] {
        output(Command::new("addpart").args([&disk.name, number, start, "4096"]));
    }
    let (whole, first, second) = (
        format!("aio://{}", disk.name),
        format!("aio://{}p1", disk.name),
        format!("aio://{}p2", disk.name),
    );
    let one = open(&first).unwrap();
    let two = open(&second).unwrap();
    assert_eq!(one.geometry().bytes(), 2 << 20);
    holder_of(&whole);
    // The file below is in use by both, and stays so until the last of them is closed.
    let image = format!("aio://{}", image.display());
    holder_of(&image);
    drop((one, two));
    let all = open(&whole).unwrap();
    holder_of(&first);
    drop(all);
    for number in ["1", "2"] {
        output(Command::new("delpart").args([&disk.name, number]));
    }
}
