//! Who has a file or disk that could not be claimed, from what the kernel tells in `/proc` and `/sys`.
//!
//! Best effort, for the text of a refusal: the refusal itself does not depend on it.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use rustix::fs::{Stat, major, minor};

/// A device number as `/proc` and `/sys` write it: decimal `major:minor`.
fn device_number(dev: u64) -> String {
    format!("{}:{}", major(dev), minor(dev))
}

/// The process that holds a lock on the file of `stat`.
pub(crate) fn of_lock(stat: &Stat) -> String {
    match owner(stat) {
        Some(pid) => process(pid),
        None => "another process that locked it (see lslocks)".to_owned(),
    }
}

/// Whether the owner of a lock on the file of `stat` is known to be a process that runs. One that cannot be found (a file
/// system that
/// shows other device numbers, another PID namespace) may be ending.
pub(crate) fn is_alive(stat: &Stat) -> bool {
    let Some(pid) = owner(stat) else {
        return false;
    };
    let state = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    // The state follows the name, which is in parentheses and may hold any character.
    let state = state
        .rsplit(") ")
        .next()
        .and_then(|rest| rest.chars().next());
    !matches!(state, None | Some('Z' | 'X'))
}

fn owner(stat: &Stat) -> Option<u32> {
    let locks = fs::read_to_string("/proc/locks").unwrap_or_default();
    let place = format!(
        "{:02x}:{:02x}:{}",
        major(stat.st_dev),
        minor(stat.st_dev),
        stat.st_ino
    );
    lock_owner(&locks, &place)
}

/// The owner of a lock on `place` (`major:minor:inode`, hexadecimal and decimal) in the text of `/proc/locks`.
/// Lines with `->` wait for a lock; pid 0 is a process that cannot be seen from here, -1 an open file's own lock.
pub(crate) fn lock_owner(locks: &str, place: &str) -> Option<u32> {
    locks.lines().find_map(|line| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let [_, _, _, _, pid, file, ..] = fields[..] else {
            return None;
        };
        let pid: u32 = pid.parse().ok()?;
        (file == place && pid != 0).then_some(pid)
    })
}

fn process(pid: u32) -> String {
    if pid == std::process::id() {
        return format!("this process (pid {pid})");
    }
    let name = fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
    match name.trim() {
        "" => format!("pid {pid}"),
        name => format!("{name} (pid {pid})"),
    }
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
    let locks = fs::read_to_string("/proc/locks").unwrap_or_default();
    let place = format!(
        "{:02x}:{:02x}:{}",
        major(stat.st_dev),
        minor(stat.st_dev),
        stat.st_ino
    );
    match lock_owner(&locks, &place) {
        Some(pid) => process(pid),
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
    fn the_owner_of_a_lock_is_found_by_inode() {
        let locks = "1: FLOCK  ADVISORY  WRITE 71 fe:00:12 0 EOF\n\
                     1: -> FLOCK  ADVISORY  WRITE 72 fe:00:12 0 EOF\n\
                     2: OFDLCK ADVISORY  READ  -1 00:06:13 0 EOF\n\
                     3: POSIX  ADVISORY  WRITE 0 fe:00:14 0 EOF\n\
                     nonsense\n\
                     4: FLOCK  ADVISORY  WRITE 74 fe:00:15 0 EOF\n";
        assert_eq!(lock_owner(locks, "fe:00:12"), Some(71));
        assert_eq!(lock_owner(locks, "00:06:13"), None);
        assert_eq!(lock_owner(locks, "fe:00:14"), None);
        assert_eq!(lock_owner(locks, "fe:00:15"), Some(74));
        assert_eq!(lock_owner("", "fe:00:15"), None);
    }

    #[test]
    fn a_mounted_partition_is_found() {
        let mounts = "22 1 254:0 / / rw,relatime shared:1 - ext4 /dev/root rw\n\
                      40 22 8:17 / /data rw - xfs /dev/sdb1 rw\n";
        let numbers = BTreeSet::from(["8:16".to_owned(), "8:17".to_owned()]);
        assert_eq!(mount_target(mounts, &numbers).as_deref(), Some("/data"));
        assert_eq!(mount_target("x\n\n", &numbers), None);
    }
}
