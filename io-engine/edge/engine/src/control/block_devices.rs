//! Disks and partitions of the node.
//!
//! What it decides: what is listed and what counts as free. What it does not: opening anything but for a look at the
//! first sectors, to find file systems when udev's database does not tell.
//!
//! Facts come from sysfs, the udev database under `/run/udev/data` where there is one, and the mount table. A device is
//! free ("available") when it has a size, is not one of ours, has a major number of a kind that can hold a pool, no
//! file system and no mount, and: a disk has no partitions, a partition is of a Linux data type.

use std::collections::BTreeMap;
use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};

/// Model string of our own namespaces on a host; such a disk is never offered.
const OWN_MODEL: &str = "Mayastor NVMe controller";
/// Majors that may be offered: loop, sd, nbd, the local and experimental range, blkext (nvme and others).
const MAJORS: [std::ops::RangeInclusive<u32>; 5] = [7..=7, 8..=8, 43..=43, 240..=255, 259..=259];
/// Partition types for Linux data: GPT "Linux filesystem data", MBR 0x83.
const LINUX_TYPES: [&str; 2] = ["0fc63daf-8483-4772-8e79-3d69d8477de4", "0x83"];

/// A partition's place in its disk.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Partition {
    /// Kernel path of the disk.
    pub parent: String,
    /// Number.
    pub number: u32,
    /// Name in the table.
    pub name: String,
    /// `gpt` or `dos`.
    pub scheme: String,
    /// Type.
    pub typeid: String,
    /// Uuid.
    pub uuid: String,
}

/// A file system found on a device.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Filesystem {
    /// Kind.
    pub fstype: String,
    /// Label.
    pub label: String,
    /// Uuid.
    pub uuid: String,
    /// Where it is mounted.
    pub mountpoints: Vec<String>,
}

/// A disk or partition.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct BlockDevice {
    /// Device node.
    pub devname: String,
    /// `disk` or `partition`.
    pub devtype: String,
    /// Major number.
    pub major: u32,
    /// Minor number.
    pub minor: u32,
    /// Model.
    pub model: String,
    /// Kernel path below `/sys`.
    pub devpath: String,
    /// Links udev made.
    pub devlinks: Vec<String>,
    /// Size in units of 512 bytes.
    pub size: u64,
    /// Set for partitions.
    pub partition: Option<Partition>,
    /// Set when a file system was found or the device is mounted.
    pub filesystem: Option<Filesystem>,
    /// Free to use.
    pub available: bool,
    /// Bus.
    pub connection_type: String,
    /// Spinning disk.
    pub is_rotational: Option<bool>,
}

/// Where the facts are read; the root of the file system, except in tests.
#[derive(Clone, Debug)]
pub struct Sources {
    /// `/`.
    pub root: PathBuf,
}

impl Default for Sources {
    fn default() -> Self {
        Self {
            root: PathBuf::from("/"),
        }
    }
}

/// Lists disks and partitions in order of name: `all`, or those free to use. Blocks.
pub fn list(sources: &Sources, all: bool) -> Vec<BlockDevice> {
    let class = sources.root.join("sys/class/block");
    let mounts = Mounts::read(sources);
    let mut names: Vec<String> = fs::read_dir(class)
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| entry.file_name().into_string().ok())
        .collect();
    names.sort();
    let devices = names
        .iter()
        .filter_map(|name| device(sources, &mounts, name));
    devices.filter(|device| all || device.available).collect()
}

fn device(sources: &Sources, mounts: &Mounts, name: &str) -> Option<BlockDevice> {
    let sys = fs::canonicalize(sources.root.join("sys/class/block").join(name)).ok()?;
    let (major, minor) = pair(&text(&sys.join("dev"))?)?;
    let number = text(&sys.join("partition")).and_then(|number| number.parse().ok());
    let disk = if number.is_some() {
        sys.parent()?.to_owned()
    } else {
        sys.clone()
    };
    let udev = Udev::read(sources, major, minor);
    let kernel_path = |path: &Path| {
        let below = path
            .strip_prefix(fs::canonicalize(sources.root.join("sys")).ok()?)
            .ok()?;
        Some(format!("/{}", below.display()))
    };
    let devname = format!("/dev/{}", name.replace('!', "/"));
    let model = udev
        .property("ID_MODEL")
        .map(str::to_owned)
        .or_else(|| text(&disk.join("device/model")));
    let partition = number.map(|number| Partition {
        parent: kernel_path(&disk).unwrap_or_default(),
        number,
        name: udev.value("ID_PART_ENTRY_NAME"),
        scheme: udev.value("ID_PART_ENTRY_SCHEME"),
        typeid: udev.value("ID_PART_ENTRY_TYPE"),
        uuid: udev.value("ID_PART_ENTRY_UUID"),
    });
    let mut device = BlockDevice {
        devtype: if partition.is_some() {
            "partition"
        } else {
            "disk"
        }
        .to_owned(),
        major,
        minor,
        model: model.unwrap_or_default(),
        devpath: kernel_path(&sys).unwrap_or_default(),
        devlinks: udev.links.clone(),
        size: text(&sys.join("size"))
            .and_then(|size| size.parse().ok())
            .unwrap_or(0),
        filesystem: filesystem(sources, mounts, &udev, &devname, (major, minor)),
        connection_type: udev.value("ID_BUS"),
        is_rotational: text(&disk.join("queue/rotational")).map(|rotational| rotational == "1"),
        partition,
        devname,
        available: false,
    };
    device.available = is_available(&device, has_partitions(&sys));
    Some(device)
}

fn is_available(device: &BlockDevice, has_partitions: bool) -> bool {
    let kind_fits = match &device.partition {
        None => !has_partitions,
        Some(partition) => LINUX_TYPES.contains(&partition.typeid.as_str()),
    };
    device.size > 0
        && device.model.replace('_', " ") != OWN_MODEL
        && MAJORS.iter().any(|majors| majors.contains(&device.major))
        && device.filesystem.is_none()
        && kind_fits
}

fn has_partitions(disk: &Path) -> bool {
    fs::read_dir(disk)
        .into_iter()
        .flatten()
        .flatten()
        .any(|entry| entry.path().join("partition").exists())
}

fn filesystem(
    sources: &Sources,
    mounts: &Mounts,
    udev: &Udev,
    devname: &str,
    number: (u32, u32),
) -> Option<Filesystem> {
    let mounted = mounts.of(number, devname);
    let mountpoints: Vec<String> = mounted.iter().map(|mount| mount.point.clone()).collect();
    if let Some(fstype) = udev.property("ID_FS_TYPE") {
        return Some(Filesystem {
            fstype: fstype.to_owned(),
            label: udev.value("ID_FS_LABEL"),
            uuid: udev.value("ID_FS_UUID"),
            mountpoints,
        });
    }
    if let Some(mount) = mounted.first() {
        return Some(Filesystem {
            fstype: mount.fstype.clone(),
            mountpoints,
            ..Filesystem::default()
        });
    }
    if udev.known {
        return None;
    }
    // Without udev's word, a device that carries a file system must not be offered as free.
    let node = sources.root.join(devname.trim_start_matches('/'));
    signature(&node).map(|fstype| Filesystem {
        fstype: fstype.to_owned(),
        ..Filesystem::default()
    })
}

/// Kind of the file system or container at the start of `node`, by its magic number.
fn signature(node: &Path) -> Option<&'static str> {
    // Superblock of ext2/3/4 at 1 KiB, btrfs at 64 KiB: one read covers them.
    let mut start = vec![0u8; 68 * 1024];
    let mut file = fs::File::open(node).ok()?;
    let mut filled = 0;
    while filled < start.len() {
        match file.read(&mut start[filled..]) {
            Ok(0) | Err(_) => break,
            Ok(read) => filled += read,
        }
    }
    let at = |offset: usize, magic: &[u8]| {
        offset + magic.len() <= filled && start[offset..].starts_with(magic)
    };
    let kinds: [(&str, usize, &[u8]); 7] = [
        ("ext4", 1080, &[0x53, 0xef]),
        ("xfs", 0, b"XFSB"),
        ("btrfs", 65_600, b"_BHRfS_M"),
        ("crypto_LUKS", 0, b"LUKS\xba\xbe"),
        ("LVM2_member", 512, b"LABELONE"),
        ("swap", 4086, b"SWAPSPACE2"),
        ("ntfs", 3, b"NTFS    "),
    ];
    kinds
        .iter()
        .find(|(_, offset, magic)| at(*offset, magic))
        .map(|(kind, _, _)| *kind)
}

fn text(path: &Path) -> Option<String> {
    fs::read_to_string(path)
        .ok()
        .map(|text| text.trim().to_owned())
}

fn pair(text: &str) -> Option<(u32, u32)> {
    let (major, minor) = text.split_once(':')?;
    Some((major.parse().ok()?, minor.parse().ok()?))
}

/// What udev knows about a device.
struct Udev {
    known: bool,
    links: Vec<String>,
    properties: BTreeMap<String, String>,
}

impl Udev {
    /// Lines of `/run/udev/data/b<major>:<minor>`: `S:link` below /dev, `E:KEY=value`.
    fn read(sources: &Sources, major: u32, minor: u32) -> Self {
        let file = sources.root.join(format!("run/udev/data/b{major}:{minor}"));
        let data = fs::read_to_string(file);
        let known = data.is_ok();
        let data = data.unwrap_or_default();
        let links = data
            .lines()
            .filter_map(|line| line.strip_prefix("S:"))
            .map(|link| format!("/dev/{link}"));
        let properties = data
            .lines()
            .filter_map(|line| line.strip_prefix("E:")?.split_once('='));
        let mut links: Vec<String> = links.collect();
        links.sort();
        Self {
            known,
            links,
            properties: properties
                .map(|(key, value)| (key.to_owned(), value.to_owned()))
                .collect(),
        }
    }

    fn property(&self, key: &str) -> Option<&str> {
        self.properties
            .get(key)
            .map(String::as_str)
            .filter(|value| !value.is_empty())
    }

    fn value(&self, key: &str) -> String {
        self.property(key).unwrap_or_default().to_owned()
    }
}

/// The mount table.
struct Mounts(Vec<Mount>);

struct Mount {
    number: (u32, u32),
    source: String,
    point: String,
    fstype: String,
}

impl Mounts {
    /// Lines of mountinfo (proc(5)): `36 35 98:0 /mnt1 /mnt2 rw - ext4 /dev/root rw`.
    fn read(sources: &Sources) -> Self {
        let table =
            fs::read_to_string(sources.root.join("proc/self/mountinfo")).unwrap_or_default();
        let mount = |line: &str| {
            let (left, right) = line.split_once(" - ")?;
            let mut left = left.split(' ').skip(2);
            let number = pair(left.next()?)?;
            let point = unescape(left.nth(1)?);
            let mut right = right.split(' ');
            let fstype = right.next()?.to_owned();
            let source = unescape(right.next().unwrap_or_default());
            Some(Mount {
                number,
                source,
                point,
                fstype,
            })
        };
        Self(table.lines().filter_map(mount).collect())
    }

    /// Mounts of a device: by number, or by name for file systems that number themselves (btrfs).
    fn of(&self, number: (u32, u32), devname: &str) -> Vec<&Mount> {
        self.0
            .iter()
            .filter(|mount| mount.number == number || mount.source == devname)
            .collect()
    }
}

/// Spaces and the like stand as octal escapes in the mount table.
fn unescape(text: &str) -> String {
    text.replace("\\040", " ")
        .replace("\\011", "\t")
        .replace("\\012", "\n")
        .replace("\\134", "\\")
}

#[cfg(test)]
mod tests;
