//! Replicas and snapshots as sparse raw files.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::FileExt;
use std::path::Path;

use pool_core::{Answer, HostOp, PoolError};
use pool_format::{BLOCK, ObjectKind, ObjectRecord, ObjectState};

use crate::driver::Driver;

/// Blocks read at once.
const READ_BLOCKS: u64 = 256;

/// Writes every live object to a new file in `directory`, and says what could not be read. Answers whether all was.
///
/// # Errors
/// When a file or `out` cannot be written.
pub(crate) fn run(
    driver: &mut Driver<'_>,
    directory: &Path,
    out: &mut dyn Write,
) -> io::Result<bool> {
    std::fs::create_dir_all(directory)?;
    let objects: Vec<ObjectRecord> = driver.pool.objects().cloned().collect();
    let mut is_whole = true;
    for object in objects {
        if object.state != ObjectState::Live {
            continue;
        }
        let path = directory.join(file_name(&object));
        // An export never overwrites what somebody has.
        let file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .open(&path)
            .map_err(|error| {
                io::Error::new(error.kind(), format!("{}: {error}", path.display()))
            })?;
        file.set_len(object.size * BLOCK as u64)?;
        let lost = copy(driver, &object, &file)?;
        file.sync_all()?;
        let (lost, why) = lost;
        if lost == 0 {
            writeln!(out, "exported: {}", path.display())?;
        } else {
            is_whole = false;
            writeln!(
                out,
                "exported with {lost} blocks missing (zero in the file; first: {why}): {}",
                path.display()
            )?;
        }
    }
    Ok(is_whole)
}

/// Id and name: names are for people and may repeat, or mean something to a file system.
fn file_name(object: &ObjectRecord) -> String {
    let is_plain = |c: &char| c.is_ascii_alphanumeric() || "-_.".contains(*c);
    let name: String = object.name.chars().filter(is_plain).take(100).collect();
    let kind = match object.kind {
        ObjectKind::Replica => "replica",
        ObjectKind::Snapshot => "snapshot",
    };
    format!("{}-{kind}-{name}.raw", object.id)
}

/// Copies what can be read; answers how many blocks could not, and why the first of them could not.
fn copy(driver: &mut Driver<'_>, object: &ObjectRecord, file: &File) -> io::Result<(u64, String)> {
    let mut at = 0;
    let mut lost = 0;
    let mut why = String::new();
    let mut note = |blocks: u64, error: PoolError| {
        if lost == 0 {
            why = error.to_string();
        }
        lost += blocks;
    };
    while at < object.size {
        let extent = driver.call(HostOp::Extent {
            object: object.id,
            block: at,
        });
        let len = match extent {
            Ok(Answer::Extent { len, address: None }) => {
                at += len;
                continue;
            }
            Ok(Answer::Extent { len, .. }) => len.min(READ_BLOCKS),
            Ok(_) => 1,
            Err(error) => {
                note(1, error);
                at += 1;
                continue;
            }
        };
        match driver.read(object.id, at, len as u32) {
            Ok(bytes) => file.write_all_at(bytes, at * BLOCK as u64)?,
            Err(_) => {
                // One bad block does not take its neighbours along.
                for block in at..at + len {
                    match driver.read(object.id, block, 1) {
                        Ok(bytes) => file.write_all_at(bytes, block * BLOCK as u64)?,
                        Err(error) => note(1, error),
                    }
                }
            }
        }
        at += len;
    }
    Ok((lost, why))
}
