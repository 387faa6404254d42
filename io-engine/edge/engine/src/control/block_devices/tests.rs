//! A made-up machine: a disk with partitions, a bare disk, one of ours, a CD drive.

use super::*;

#[test]
fn only_free_devices_are_offered() {
    let machine = machine();
    let names = |all: bool| {
        let sources = Sources {
            root: machine.path().to_owned(),
        };
        list(&sources, all)
            .into_iter()
            .map(|device| device.devname)
            .collect::<Vec<_>>()
    };
    assert_eq!(
        names(true),
        [
            "/dev/nvme0n1",
            "/dev/sda",
            "/dev/sda1",
            "/dev/sda2",
            "/dev/sdb",
            "/dev/sdc",
            "/dev/sr0"
        ]
    );
    // sda has partitions, sda1 a file system, nvme0n1 is ours, sdc carries a file system udev did not tell of, sr0 is no disk.
    assert_eq!(names(false), ["/dev/sda2", "/dev/sdb"]);
}

#[test]
fn facts_come_from_sysfs_udev_and_the_mount_table() {
    let machine = machine();
    let sources = Sources {
        root: machine.path().to_owned(),
    };
    let all = list(&sources, true);
    let sda1 = all
        .iter()
        .find(|device| device.devname == "/dev/sda1")
        .unwrap();
    assert_eq!((sda1.major, sda1.minor, sda1.size), (8, 1, 1000));
    assert_eq!(sda1.devtype, "partition");
    assert_eq!(
        sda1.devlinks,
        ["/dev/disk/by-id/a", "/dev/disk/by-label/root"]
    );
    let partition = sda1.partition.as_ref().unwrap();
    assert_eq!((partition.number, partition.scheme.as_str()), (1, "gpt"));
    assert_eq!(partition.parent, "/devices/pci/sda");
    let filesystem = sda1.filesystem.as_ref().unwrap();
    assert_eq!(filesystem.fstype, "ext4");
    assert_eq!(filesystem.mountpoints, ["/", "/mnt/with space"]);
    assert_eq!(sda1.is_rotational, Some(true));
    let sdc = all
        .iter()
        .find(|device| device.devname == "/dev/sdc")
        .unwrap();
    assert_eq!(sdc.filesystem.as_ref().unwrap().fstype, "xfs");
}

#[test]
fn this_machine_can_be_listed() {
    for device in list(&Sources::default(), true) {
        assert!(device.devname.starts_with("/dev/") && !device.devtype.is_empty());
    }
}

fn machine() -> tempfile::TempDir {
    let root = tempfile::tempdir().unwrap();
    let put = |path: &str, text: &str| {
        let path = root.path().join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    };
    let disk = |name: &str, dev: &str, size: &str, parent: &str| {
        let sys = format!("sys/devices/pci/{parent}{name}");
        put(&format!("{sys}/dev"), dev);
        put(&format!("{sys}/size"), size);
        let link = root.path().join("sys/class/block").join(name);
        fs::create_dir_all(link.parent().unwrap()).unwrap();
        std::os::unix::fs::symlink(root.path().join(sys), link).unwrap();
    };
    disk("sda", "8:0\n", "3000\n", "");
    put("sys/devices/pci/sda/queue/rotational", "1\n");
    for (number, size) in [("1", "1000"), ("2", "2000")] {
        disk(
            &format!("sda{number}"),
            &format!("8:{number}"),
            size,
            "sda/",
        );
        put(
            &format!("sys/devices/pci/sda/sda{number}/partition"),
            number,
        );
    }
    disk("sdb", "8:16", "4000", "");
    disk("sdc", "8:32", "4000", "");
    put("dev/sdc", &format!("XFSB{}", "\0".repeat(4096)));
    disk("sr0", "11:0", "5000", "");
    disk("nvme0n1", "259:0", "6000", "");
    put(
        "sys/devices/pci/nvme0n1/device/model",
        "Mayastor NVMe controller\n",
    );
    let linux = "E:ID_PART_ENTRY_TYPE=0fc63daf-8483-4772-8e79-3d69d8477de4\n";
    put(
        "run/udev/data/b8:1",
        &format!(
            "S:disk/by-label/root\nS:disk/by-id/a\nE:ID_PART_ENTRY_SCHEME=gpt\n{linux}E:ID_FS_TYPE=ext4\n"
        ),
    );
    put(
        "run/udev/data/b8:2",
        &format!("E:ID_PART_ENTRY_SCHEME=gpt\n{linux}"),
    );
    put("run/udev/data/b8:16", "E:ID_BUS=ata\n");
    put(
        "proc/self/mountinfo",
        "22 1 8:1 / / rw - ext4 /dev/sda1 rw\n23 1 8:1 / /mnt/with\\040space rw - ext4 /dev/sda1 rw\n24 1 0:5 / /proc rw - proc proc rw\n",
    );
    root
}
