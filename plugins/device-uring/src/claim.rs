//! Opening a file or block device for this process alone.
//!
//! Two claims: `flock` on the open file, which sees through other paths and hard links because it is on the inode and,
//! being per open file, also refuses a second open by this process; and for block devices `O_EXCL`. Both end when the
//! last descriptor is closed, whatever way the process ends.
//!
//! What `O_EXCL` covers: mounted file systems, swap, device mapper (LVM, LUKS, multipath), RAID, and other programs that
//! claim the disk the same way; all of these on the disk, on a partition of it, and on the disk a partition is of. Two
//! partitions of one disk do not exclude each other. What it does not: programs that open the disk without claiming it
//! (`dd`, a virtual machine), and a loop device that stands on it, which [`loops`](crate::loops) looks for.

use std::fs::File;
use std::io;
use std::time::Instant;

use rustix::fs::{FileType, FlockOperation, Mode, OFlags, Stat, flock, fstat, open, stat};
use rustix::io::Errno;
use sdk::block::OpenError;

use crate::file::State;
use crate::holder;
use crate::limits::{ORPHANED_LOCK_MAX, ORPHANED_LOCK_PAUSE, PASSING_CLAIM_MAX};
use crate::loops;

/// What a path names.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Kind {
    /// A regular file.
    File,
    /// A block device.
    BlockDevice,
}

/// A claimed file.
pub(crate) struct Claimed {
    pub(crate) file: File,
    pub(crate) kind: Kind,
    pub(crate) stat: Stat,
    /// Opened with `O_DIRECT`; whether that works is another question.
    pub(crate) direct: bool,
    /// The claim on what a loop device stands on; ends with the device.
    pub(crate) backing: Option<File>,
}

/// Opens and claims `path`.
pub(crate) fn claim(path: &str, state: &State) -> Result<Claimed, OpenError> {
    // Looked at first: opening a FIFO would wait for its other end.
    let named = stat(path).map_err(|errno| refusal(path, errno))?;
    let kind = kind_of(path, &named)?;
    let (file, direct) = match open_claiming(path, kind, OFlags::DIRECT, &named) {
        Err(Errno::INVAL) => (open_claiming(path, kind, OFlags::empty(), &named), false),
        opened => (opened, true),
    };
    let file = match file {
        Err(Errno::BUSY) if kind == Kind::BlockDevice => {
            return Err(OpenError::InUse {
                what: path.to_owned(),
                holder: holder::of_block_device(&named),
            });
        }
        opened => opened.map_err(|errno| refusal(path, errno))?,
    };
    let stat = fstat(&file).map_err(|errno| refusal(path, errno))?;
    if kind_of(path, &stat)? != kind {
        return Err(unsuitable(
            path,
            "was replaced while it was opened; try again",
        ));
    }
    // Before the lock, which an engine that serves the loop device holds as well: the loop device is the better answer.
    let sharing = match kind {
        Kind::File => Vec::new(),
        Kind::BlockDevice => holder::sharing_blocks(stat.st_rdev),
    };
    loops::refuse_backing(path, &stat, &sharing)?;
    lock(path, &file, &stat)?;
    let backing = match kind {
        Kind::File => None,
        Kind::BlockDevice => loops::claim_backing(path, &stat, state)?,
    };
    Ok(Claimed {
        file,
        kind,
        stat,
        direct,
        backing,
    })
}

/// How long a claim by somebody else is waited for.
pub(crate) struct Patience {
    began: Instant,
}

impl Patience {
    pub(crate) fn new() -> Self {
        Self {
            began: Instant::now(),
        }
    }

    /// Whether to try again, after a pause: a claim that may be passing for a short time, one without a living owner for
    /// a long one.
    pub(crate) fn pause(&self, is_orphaned: impl FnOnce() -> bool) -> bool {
        let waited = self.began.elapsed();
        let again = waited < PASSING_CLAIM_MAX || (waited < ORPHANED_LOCK_MAX && is_orphaned());
        if again {
            std::thread::sleep(ORPHANED_LOCK_PAUSE);
        }
        again
    }
}

/// Locks the file for this process.
///
/// The kernel ends the ring of a killed process after the process is gone, and with it the last use of its files. A lock
/// without a living owner is therefore waited for, so that an engine which is started again at once gets its disks.
fn lock(path: &str, file: &File, stat: &Stat) -> Result<(), OpenError> {
    let patience = Patience::new();
    loop {
        match flock(file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => return Ok(()),
            Err(Errno::WOULDBLOCK) if patience.pause(|| !holder::is_alive(stat)) => {}
            Err(Errno::WOULDBLOCK) => {
                return Err(OpenError::InUse {
                    what: path.to_owned(),
                    holder: holder::of_lock(stat),
                });
            }
            Err(errno) => {
                return Err(OpenError::System {
                    what: format!("lock {path}"),
                    source: errno.into(),
                });
            }
        }
    }
}

/// A refusal the user can act on.
pub(crate) fn unsuitable(path: &str, reason: impl Into<String>) -> OpenError {
    OpenError::Unsuitable {
        what: path.to_owned(),
        reason: reason.into(),
    }
}

/// Opens the file; a disk that is busy is waited for as in [`lock`].
fn open_claiming(path: &str, kind: Kind, extra: OFlags, named: &Stat) -> Result<File, Errno> {
    let patience = Patience::new();
    loop {
        match open_file(path, kind, extra) {
            Err(Errno::BUSY)
                if kind == Kind::BlockDevice && patience.pause(|| holder::is_orphaned(named)) => {}
            opened => return opened,
        }
    }
}

fn open_file(path: &str, kind: Kind, extra: OFlags) -> Result<File, Errno> {
    let exclusive = match kind {
        Kind::File => OFlags::empty(),
        // Without O_CREAT, O_EXCL on a block device claims it against every other exclusive user.
        Kind::BlockDevice => OFlags::EXCL,
    };
    let flags = OFlags::RDWR | OFlags::CLOEXEC | exclusive | extra;
    open(path, flags, Mode::empty()).map(File::from)
}

fn kind_of(path: &str, stat: &Stat) -> Result<Kind, OpenError> {
    let refused = |what: &str| {
        let reason = format!("is {what}; name a regular file or a block device");
        Err(unsuitable(path, reason))
    };
    match FileType::from_raw_mode(stat.st_mode) {
        FileType::RegularFile => Ok(Kind::File),
        FileType::BlockDevice => Ok(Kind::BlockDevice),
        FileType::Directory => refused("a directory"),
        FileType::Fifo => refused("a FIFO"),
        FileType::Socket => refused("a socket"),
        FileType::CharacterDevice => refused("a character device"),
        _ => refused("no file"),
    }
}

/// Why `path` could not be opened, with the fix where there is one.
pub(crate) fn refusal(path: &str, errno: Errno) -> OpenError {
    let user = rustix::process::geteuid().as_raw();
    match errno {
        Errno::NOENT | Errno::NOTDIR => OpenError::NotFound(path.to_owned()),
        Errno::LOOP => unsuitable(
            path,
            "its symbolic links lead in a circle; name the file itself",
        ),
        Errno::NAMETOOLONG => unsuitable(
            path,
            "is too long a name for the file system; use a shorter one",
        ),
        Errno::ACCESS | Errno::PERM if user == 0 => unsuitable(
            path,
            "may not be written even by root; it is read-only (lsattr, blockdev --getro) or its container has no right \
             to the device",
        ),
        Errno::ACCESS | Errno::PERM => unsuitable(
            path,
            format!(
                "user {user} may not write it; give that user access (chmod, chown, group disk)"
            ),
        ),
        Errno::ROFS => unsuitable(
            path,
            "is on a read-only file system; remount that read-write (mount -o remount,rw)",
        ),
        Errno::NXIO | Errno::NODEV | Errno::NOMEDIUM => unsuitable(
            path,
            "has no device or medium behind it; check that it is attached",
        ),
        Errno::TXTBSY => OpenError::InUse {
            what: path.to_owned(),
            holder: "the kernel, as a running program or as swap".to_owned(),
        },
        errno => OpenError::System {
            what: format!("open {path}"),
            source: io::Error::from(errno),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refusals_say_what_to_do() {
        let text = |errno| refusal("/d", errno).to_string();
        assert!(text(Errno::NOENT).starts_with("/d: not found; check the path"));
        assert!(text(Errno::LOOP).contains("in a circle"));
        assert!(text(Errno::NAMETOOLONG).contains("shorter"));
        assert!(text(Errno::ACCESS).contains("may not"));
        assert!(text(Errno::ROFS).contains("remount"));
        assert!(text(Errno::NOMEDIUM).contains("attached"));
        assert!(text(Errno::MFILE).starts_with("open /d: "));
        assert!(matches!(
            refusal("/d", Errno::TXTBSY),
            OpenError::InUse { .. }
        ));
    }
}
