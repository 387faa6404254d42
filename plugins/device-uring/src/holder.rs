//! Who has a file or disk that could not be claimed, from what the kernel tells in `/proc` and `/sys`; locks are read by
//! `lock-holder`.
//!
//! Best effort, for the text of a refusal: the refusal itself does not depend on it.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use rustix::fs::{Stat, major, makedev, minor};

/// A device number as `/proc` and `/sys` write it: decimal `major:minor`.
fn device_number(dev: u64) -> String {
    format!("{}:{}", major(dev), minor(dev))
}

/// The process that holds a lock on the file of `stat`.
pub(crate) fn of_lock(stat: &Stat) -> String {
    match lock_holder::owner(stat.st_dev, stat.st_ino) {
        Some(pid) => lock_holder::describe(pid),
        None => "another process that locked it (see lslocks)".to_owned(),
    }
}

/// Whether the owner of a lock on the file of `stat` is known to be a process that runs. One that cannot be found (a
/// file system that shows other device numbers, another PID namespace) may be ending.
pub(crate) fn is_alive(stat: &Stat) -> bool {
    lock_holder::owner(stat.st_dev, stat.st_ino).is_some_and(lock_holder::is_alive)
}

/// Whether there is a lock on the file of `stat` whose owner is known not to run.
pub(crate) fn is_orphaned(stat: &Stat) -> bool {
    lock_holder::owner(stat.st_dev, stat.st_ino).is_some_and(|pid| !lock_holder::is_alive(pid))
}

/// What uses the block device of `stat`, or a partition of it.
pub(crate) fn of_block_device(stat: &Stat) -> String {
    let number = device_number(stat.st_rdev);
    let place = Path::new("/sys/dev/block").join(&number);
    let numbers = with_partitions(&place, number);
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    if let Some(target) = mount_target(&mounts, &numbers) {
        return format!("the file system mounted at {target}");
    }
    for number in &numbers {
        let holders = Path::new("/sys/dev/block").join(number).join("holders");
        if let Some(name) = first_entry(&holders) {
            return format!("the device /dev/{name} built on it");
        }
    }
    // A lock tells of another engine, which claims with both.
    match lock_holder::owner(stat.st_dev, stat.st_ino) {
        Some(pid) => lock_holder::describe(pid),
        None => "the kernel or another program (see lsblk and fuser)".to_owned(),
    }
}

/// The numbers of a disk and its partitions.
fn with_partitions(place: &Path, own: String) -> BTreeSet<String> {
    let entries = fs::read_dir(place).into_iter().flatten().flatten();
    let partitions = entries
        .filter(|entry| entry.path().join("partition").exists())
        .filter_map(|entry| fs::read_to_string(entry.path().join("dev")).ok())
        .map(|number| number.trim().to_owned());
    partitions.chain([own]).collect()
}

/// The block devices that share blocks with device `dev`: itself, its partitions, and the disk it is a partition of.
pub(crate) fn sharing_blocks(dev: u64) -> Vec<u64> {
    let number = device_number(dev);
    let place = Path::new("/sys/dev/block").join(&number);
    let mut numbers = with_partitions(&place, number);
    if place.join("partition").exists()
        && let Ok(disk) = fs::read_to_string(place.join("../dev"))
    {
        numbers.insert(disk.trim().to_owned());
    }
    let parse = |number: &String| {
        let (major, minor) = number.split_once(':')?;
        Some(makedev(major.parse().ok()?, minor.parse().ok()?))
    };
    numbers.iter().filter_map(parse).collect()
}

/// Where one of the devices is mounted, from the text of `mountinfo`: the third field is the device, the fifth the
/// mount point.
pub(crate) fn mount_target(mounts: &str, numbers: &BTreeSet<String>) -> Option<String> {
    mounts.lines().find_map(|line| {
        let mut fields = line.split(' ').skip(2);
        let number = fields.next()?;
        let target = fields.nth(1)?;
        numbers.contains(number).then(|| target.to_owned())
    })
}

fn first_entry(directory: &Path) -> Option<String> {
    let entry = fs::read_dir(directory).ok()?.flatten().next()?;
    Some(entry.file_name().to_string_lossy().into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mounted_partition_is_found() {
        let mounts = "22 1 254:0 / / rw,relatime shared:1 - ext4 /dev/root rw\n\
                      40 22 8:17 / /data rw - xfs /dev/sdb1 rw\n";
        let numbers = BTreeSet::from(["8:16".to_owned(), "8:17".to_owned()]);
        assert_eq!(mount_target(mounts, &numbers).as_deref(), Some("/data"));
        assert_eq!(mount_target("x\n\n", &numbers), None);
    }
}
