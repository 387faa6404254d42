//! Loop devices: a file (or disk) and the loop device on it are two names of the same blocks, and the kernel lets both be
//! opened exclusively at once.
//!
//! Does: refuse a file or disk that a loop device stands on; claim what a loop device stands on together with it.
//! Does not: keep root from attaching a loop device to a file that is already served; the kernel has no lock against
//! that. What stands below is found by path, as `losetup` showed it: not when it was unlinked, renamed or attached in
//! another mount namespace.

use std::fs::{self, File};
use std::path::{Path, PathBuf};

use rustix::fs::{FileType, FlockOperation, Mode, OFlags, Stat, flock, major, minor, open, stat};
use rustix::io::Errno;
use sdk::block::OpenError;
use sdk::services::Level;

use crate::claim::Patience;
use crate::file::State;
use crate::holder;

/// Refuses what a loop device stands on; `numbers` are the disk's own number and those it shares blocks with, empty for
/// a regular file.
pub(crate) fn refuse_backing(path: &str, facts: &Stat, numbers: &[u64]) -> Result<(), OpenError> {
    let devices = fs::read_dir("/sys/block").into_iter().flatten().flatten();
    for device in devices {
        let Some(below) = backing_path(&device.path()) else {
            continue;
        };
        let Ok(below) = stat(&below) else { continue };
        if is_same(facts, numbers, &below) {
            let name = device.file_name();
            let name = name.to_string_lossy();
            return Err(OpenError::InUse {
                what: path.to_owned(),
                holder: format!(
                    "the loop device /dev/{name}; detach it (losetup -d /dev/{name}), or serve that instead"
                ),
            });
        }
    }
    Ok(())
}

/// Claims what the loop device of `facts` stands on, so that no engine serves it beside the loop device; `None` if it is
/// no loop device, or what it stands on cannot be reached. The claim is shared: two partitions of one loop device stand
/// on the same file, and `O_EXCL` keeps those apart.
pub(crate) fn claim_backing(
    path: &str,
    facts: &Stat,
    state: &State,
) -> Result<Option<File>, OpenError> {
    let (major, minor) = (major(facts.st_rdev), minor(facts.st_rdev));
    let place = PathBuf::from(format!("/sys/dev/block/{major}:{minor}"));
    // The loop device itself, or one level up from its partition.
    let below = backing_path(&place).or_else(|| backing_path(&place.join("..")));
    let Some(below) = below else { return Ok(None) };
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK | OFlags::NOCTTY;
    let Ok(file) = open(&below, flags, Mode::empty()).map(File::from) else {
        let below = below.display();
        state.log(
            Level::Warn,
            &format!(
                "{path}: cannot see whether {below}, the file below this loop device, is in use"
            ),
        );
        return Ok(None);
    };
    let patience = Patience::new();
    loop {
        match flock(&file, FlockOperation::NonBlockingLockShared) {
            Err(Errno::WOULDBLOCK) if patience.pause(|| false) => {}
            Err(Errno::WOULDBLOCK) => {
                let holder = stat(&below)
                    .map_or_else(|_| "another process".to_owned(), |s| holder::of_lock(&s));
                let below = below.display();
                return Err(OpenError::InUse {
                    what: path.to_owned(),
                    holder: format!("{holder}, which has {below}, the file below this loop device"),
                });
            }
            // Without locks (some network file systems) nobody else's claim could be seen either.
            Err(_) => return Ok(None),
            Ok(()) => return Ok(Some(file)),
        }
    }
}

/// What the loop device at `place` in `/sys` stands on.
fn backing_path(place: &Path) -> Option<PathBuf> {
    use std::os::unix::ffi::OsStringExt;
    let mut text = fs::read(place.join("loop/backing_file")).ok()?;
    text.pop_if(|byte| *byte == b'\n');
    (!text.is_empty()).then(|| PathBuf::from(std::ffi::OsString::from_vec(text)))
}

fn is_same(facts: &Stat, numbers: &[u64], below: &Stat) -> bool {
    match FileType::from_raw_mode(below.st_mode) {
        FileType::BlockDevice => numbers.contains(&below.st_rdev),
        _ => (facts.st_dev, facts.st_ino) == (below.st_dev, below.st_ino),
    }
}
