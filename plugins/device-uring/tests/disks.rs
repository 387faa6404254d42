//! Block devices, on loop devices; run with `--ignored` as root.

use std::fs::{self, File};
use std::process::Command;

use conformance::{Options, run_device};
use sdk::block::{Device, OpenError};
use sdk::uri::DeviceUri;

struct Loop {
    name: String,
    directory: tempfile::TempDir,
}

impl Loop {
    fn new(sector: u32, read_only: bool) -> Self {
        let directory = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
        let path = directory.path().join("image");
        File::create_new(&path).unwrap().set_len(32 << 20).unwrap();
        let mut command = Command::new("losetup");
        command.args(["--find", "--show", "--sector-size", &sector.to_string()]);
        if read_only {
            command.arg("--read-only");
        }
        let name = output(command.arg(&path));
        Self { name, directory }
    }
}

impl Drop for Loop {
    fn drop(&mut self) {
        output(Command::new("losetup").args(["--detach", &self.name]));
    }
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
#[ignore = "needs root and loop devices"]
fn disks_with_both_block_sizes_conform() {
    for sector in [512, 4096] {
        let disk = Loop::new(sector, false);
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
#[ignore = "needs root and loop devices"]
fn blocks_smaller_than_the_disks_are_refused() {
    let disk = Loop::new(4096, false);
    let error = open(&format!("aio://{}?blk_size=512", disk.name))
        .err()
        .unwrap();
    assert!(error.to_string().contains("leave out blk_size"), "{error}");
}

#[test]
#[ignore = "needs root and loop devices"]
fn a_read_only_disk_is_refused_with_the_fix() {
    let disk = Loop::new(512, true);
    let error = open(&format!("aio://{}", disk.name)).err().unwrap();
    assert!(error.to_string().contains("--setrw"), "{error}");
}

#[test]
#[ignore = "needs root and loop devices"]
fn a_mounted_disk_is_refused_and_the_mount_named() {
    let disk = Loop::new(512, false);
    output(Command::new("mkfs.ext4").args(["-q", &disk.name]));
    let target = disk.directory.path().join("mount");
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
