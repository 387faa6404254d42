//! Whether a database file is whole, found out on a copy in memory.
//!
//! Opening a file may write to it: the database repairs what a crash left by going back to the commit before. A damaged file
//! must be refused as it is, at each start, and never be taken back to an older state that hosts have been told is past;
//! so it is looked at where nothing is written. The file is small: records of what an operator created.
//!
//! Decides: which file is damaged. Does not: whose it is (`directory`), or what its records mean.

use std::cell::Cell;
use std::path::Path;
use std::rc::Rc;

use redb::backends::InMemoryBackend;
use redb::{Database, ReadableDatabase, ReadableTable, StorageBackend, TableError};

use super::guard::damage_is_error;

/// Reads all of the file, with all checksums.
///
/// # Errors
/// `Corrupted` and what else the database says of a file that is not whole; `Io` when it cannot be read.
pub(super) fn check(file: &Path) -> Result<(), redb::Error> {
    let bytes = std::fs::read(file)?;
    damage_is_error(|| whole(&bytes))
}

fn whole(bytes: &[u8]) -> Result<(), redb::Error> {
    let copy = InMemoryBackend::new();
    copy.set_len(bytes.len() as u64)?;
    copy.write(0, bytes)?;
    let is_after_crash = Rc::new(Cell::new(false));
    let repairs = Rc::clone(&is_after_crash);
    let mut database = Database::builder()
        .set_repair_callback(move |_| repairs.set(true))
        .create_with_backend(copy)?;
    // What the repair after a crash left is the last commit that was acknowledged, whatever the check mends in it.
    if !database.check_integrity()? && !is_after_crash.get() {
        let text = "a checksum does not match, or a commit is lost".to_owned();
        return Err(redb::Error::Corrupted(text));
    }
    let transaction = database.begin_read()?;
    for name in [
        super::DEVICES,
        super::SUBSYSTEMS,
        super::EXPORTS,
        super::LOSSES,
    ] {
        match transaction.open_table(name) {
            Err(TableError::TableDoesNotExist(_)) => {}
            table => table?.iter()?.try_for_each(|pair| pair.map(drop))?,
        }
    }
    match transaction.open_table(super::RESERVATIONS) {
        Err(TableError::TableDoesNotExist(_)) => {}
        table => table?.iter()?.try_for_each(|pair| pair.map(drop))?,
    }
    Ok(())
}
