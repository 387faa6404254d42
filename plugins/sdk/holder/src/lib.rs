//! Which process holds a lock on a file, from what the kernel tells in `/proc`.
//!
//! Does: find the owner of a `flock` or `fcntl` lock by inode, say whether it runs, name a process for people.
//! Does not: decide anything. A refusal comes from the lock itself; this is for its text, and for how long a lock
//! nobody alive holds is waited for. Best effort: a file system that shows other device numbers here than to stat(2)
//! (btrfs, overlay), or an owner in another PID namespace, is not found.
//!
//! It stands beside the SDK because plugins and the engine both claim files, and share nothing else.

#![forbid(unsafe_code)]

use std::fs;

/// The process that holds a lock on an inode, `dev` and `inode` as stat(2) gives them.
pub fn owner(dev: u64, inode: u64) -> Option<u32> {
    owner_in(
        &fs::read_to_string("/proc/locks").unwrap_or_default(),
        dev,
        inode,
    )
}

/// The owner in the text of `/proc/locks`: `1: FLOCK ADVISORY WRITE 123 08:02:456 0 EOF`, device in hexadecimal.
/// Lines with `->` wait for a lock; pid 0 is a process that cannot be seen from here, -1 an open file's own lock.
fn owner_in(locks: &str, dev: u64, inode: u64) -> Option<u32> {
    let (major, minor) = device_number(dev);
    let place = format!("{major:02x}:{minor:02x}:{inode}");
    locks.lines().find_map(|line| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let [_, _, _, _, pid, file, ..] = fields[..] else {
            return None;
        };
        let pid: u32 = pid.parse().ok()?;
        (file == place && pid != 0).then_some(pid)
    })
}

/// Major and minor number, as makedev(3) of Linux packs them.
fn device_number(dev: u64) -> (u64, u64) {
    let major = (dev >> 8 & 0xfff) | (dev >> 32 & !0xfff);
    let minor = (dev & 0xff) | (dev >> 12 & !0xff & 0xffff_ffff);
    (major, minor)
}

/// Whether the process exists and is not at its end (a zombie holds no lock of its own any more).
pub fn is_alive(pid: u32) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    // The state follows the name, which is in parentheses and may hold any character.
    let state = stat
        .rsplit(") ")
        .next()
        .and_then(|rest| rest.chars().next());
    !matches!(state, None | Some('Z' | 'X'))
}

/// A process for people: `pid 12 (io-engine)`, or `pid 12 (io-engine, this process)`.
pub fn describe(pid: u32) -> String {
    let name = fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
    let this = (pid == std::process::id()).then_some("this process");
    let named = Some(name.trim()).filter(|name| !name.is_empty());
    let about: Vec<&str> = named.into_iter().chain(this).collect();
    if about.is_empty() {
        return format!("pid {pid}");
    }
    format!("pid {pid} ({})", about.join(", "))
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
                     4: FLOCK  ADVISORY  WRITE 74 fe:00:15 0 EOF\n\
                     5: FLOCK  ADVISORY  WRITE 75 103:1234:16 0 EOF\n";
        assert_eq!(owner_in(locks, 0xfe00, 12), Some(71));
        assert_eq!(owner_in(locks, 0x0006, 13), None);
        assert_eq!(owner_in(locks, 0xfe00, 14), None);
        assert_eq!(owner_in(locks, 0xfe00, 15), Some(74));
        // makedev(3): the upper bits of the minor number lie above the major's lower ones.
        assert_eq!(owner_in(locks, 0x0121_0334, 16), Some(75));
        assert_eq!(owner_in("", 0xfe00, 15), None);
    }

    #[test]
    fn a_lock_of_this_process_is_found_and_named() {
        use std::os::unix::fs::MetadataExt;
        let file = fs::File::open(std::env::current_exe().unwrap()).unwrap();
        rustix::fs::flock(&file, rustix::fs::FlockOperation::LockShared).unwrap();
        let facts = file.metadata().unwrap();
        let me = std::process::id();
        // Not found where the file system shows other device numbers in /proc/locks.
        if let Some(pid) = owner(facts.dev(), facts.ino()) {
            assert!(is_alive(pid));
        }
        assert!(is_alive(me) && !is_alive(u32::MAX));
        let text = describe(me);
        assert!(
            text.starts_with(&format!("pid {me} (")) && text.ends_with("this process)"),
            "{text}"
        );
        assert_eq!(describe(u32::MAX), format!("pid {}", u32::MAX));
    }
}
