//! The state directory: its lock, the database in it, and the marker that tells whether that is the right database.
//!
//! Decides: which database file may be used, and in which order the files come into being. Does not: know what the
//! database holds.
//!
//! Files: `lock` (held while the engine runs, with its process id), `state.redb` (the store, which carries an id made up
//! at its creation), `state.id` (the marker: the same id as text). The engine starts
//!
//! | `state.id` | `state.redb` | |
//! |---|---|---|
//! | none | none | with a new store |
//! | none | a store | with it, and writes the marker |
//! | id | the store with that id | with it |
//! | id | none, or a store with another id or none | not: this is not the store the directory had |
//! | any | 0 bytes | not: the engine never leaves such a file, something else emptied it |
//! | any | damaged | not, and the file is left as it is (see `check`) |
//!
//! Why a crash never leads to a refused start, nor past the marker. A new store is written under another name with its
//! id, synced, renamed to `state.redb`, and the directory synced; only then the marker is written the same way. Whatever
//! is cut off leaves one of:
//! 1. `state.redb.new` alone: removed at the next start, which begins anew. Nothing was acknowledged before.
//! 2. `state.redb` complete, no marker (`state.id.new` or nothing): row two, where the start goes on.
//! 3. Both.
//!
//! A marker without its store is none of these, because the store's name is durable before the marker has its own. A
//! database in use is changed by redb's commits only, which leave the previous or the next state of the same file.

use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind, Read, Seek, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use redb::{Database, ReadableDatabase, TableDefinition};
use uuid::Uuid;

use super::StoreError;
use super::check::check;
use super::guard::damage_is_error;

/// Name of the database in the state directory.
pub(super) const FILE: &str = "state.redb";
/// Name of the marker.
pub(super) const MARKER: &str = "state.id";
/// Name of the lock.
const LOCK: &str = "lock";
/// Ending of a file that is not complete.
const NEW: &str = "new";
/// Longest marker that is read; it is 37 bytes long.
const MARKER_LEN_MAX: u64 = 64;

const META: TableDefinition<&str, &[u8]> = TableDefinition::new("meta");
const ID: &str = "id";

/// A directory that is ours, and its database.
pub(super) struct Held {
    pub(super) lock: File,
    pub(super) database: Database,
    pub(super) file: PathBuf,
}

/// Takes the directory and opens its database, or makes a new one where there was none.
pub(super) fn open(dir: &Path) -> Result<Held, StoreError> {
    let unusable = |source| StoreError::Unusable {
        dir: dir.to_owned(),
        source,
    };
    create(dir).map_err(unusable)?;
    let lock = lock(dir)?;
    let file = dir.join(FILE);
    let marked = read_marker(dir).map_err(unusable)?;
    let database = match fs::metadata(&file) {
        Err(error) if error.kind() == ErrorKind::NotFound => {
            if marked != Marker::None {
                let problem = "is missing, and this directory had one";
                return Err(not_ours(dir, problem, &[MARKER], BEGIN_ANEW));
            }
            create_database(dir)?
        }
        Err(error) => return Err(unusable(error)),
        Ok(facts) if !facts.is_file() => {
            return Err(not_ours(dir, "is not a file", &[FILE, MARKER], BEGIN_ANEW));
        }
        Ok(facts) if facts.len() == 0 => {
            let problem = "is empty; the engine did not do that";
            return Err(not_ours(dir, problem, &[FILE, MARKER], BEGIN_ANEW));
        }
        Ok(_) => {
            let opened = check(&file).and_then(|()| damage_is_error(|| Ok(Database::open(&file)?)));
            opened.map_err(|error| database_error(&file, error))?
        }
    };
    let id =
        damage_is_error(|| read_id(&database)).map_err(|error| database_error(&file, error))?;
    match (marked, id) {
        (Marker::Id(marked), Some(id)) if marked == id => {}
        (Marker::Id(_) | Marker::Unreadable, _) => {
            let problem = "is not the one this directory had (its id is not the one in state.id)";
            return Err(not_ours(dir, problem, &[MARKER], "use it as it is"));
        }
        (Marker::None, id) => {
            let id = match id {
                Some(id) => id,
                None => write_id(&database).map_err(|error| database_error(&file, error))?,
            };
            write_marker(dir, id).map_err(unusable)?;
        }
    }
    Ok(Held {
        lock,
        database,
        file,
    })
}

const BEGIN_ANEW: &str = "start with an empty engine";

fn not_ours(
    dir: &Path,
    problem: &'static str,
    remove: &[&str],
    instead: &'static str,
) -> StoreError {
    let there = |name: &&str| fs::symlink_metadata(dir.join(name)).is_ok();
    StoreError::NotOurs {
        file: dir.join(FILE),
        problem,
        remove: remove
            .iter()
            .copied()
            .filter(|name| there(name))
            .map(|name| dir.join(name))
            .collect(),
        instead,
    }
}

fn database_error(file: &Path, error: impl Into<redb::Error>) -> StoreError {
    StoreError::Database {
        file: file.to_owned(),
        source: Box::new(error.into()),
    }
}

fn create(dir: &Path) -> io::Result<()> {
    let mut builder = fs::DirBuilder::new();
    match builder.recursive(true).mode(0o700).create(dir) {
        Err(error)
            if matches!(
                error.kind(),
                ErrorKind::AlreadyExists | ErrorKind::NotADirectory
            ) =>
        {
            Err(io::Error::other(
                "it, or a part of its path, is not a directory",
            ))
        }
        created => created,
    }
}

/// A store with nothing in it but its id, complete under its name when this returns.
fn create_database(dir: &Path) -> Result<Database, StoreError> {
    let (file, unfinished) = (dir.join(FILE), dir.join(format!("{FILE}.{NEW}")));
    let unusable = |source| StoreError::Unusable {
        dir: dir.to_owned(),
        source,
    };
    remove_if_there(&unfinished).map_err(unusable)?;
    let database = Database::create(&unfinished).map_err(|error| database_error(&file, error))?;
    write_id(&database).map_err(|error| database_error(&file, error))?;
    fs::rename(&unfinished, &file)
        .and_then(|()| sync(dir))
        .map_err(unusable)?;
    Ok(database)
}

fn read_id(database: &Database) -> Result<Option<Uuid>, redb::Error> {
    let transaction = database.begin_read()?;
    let table = match transaction.open_table(META) {
        Err(redb::TableError::TableDoesNotExist(_)) => return Ok(None),
        table => table?,
    };
    let id = table.get(ID)?;
    Ok(id.and_then(|id| Uuid::from_slice(id.value()).ok()))
}

fn write_id(database: &Database) -> Result<Uuid, redb::Error> {
    let id = Uuid::new_v4();
    let transaction = database.begin_write()?;
    transaction
        .open_table(META)?
        .insert(ID, id.as_bytes().as_slice())?;
    transaction.commit()?;
    Ok(id)
}

#[derive(Debug, PartialEq, Eq)]
enum Marker {
    None,
    Id(Uuid),
    /// There, but holds no id: a store was here.
    Unreadable,
}

fn read_marker(dir: &Path) -> io::Result<Marker> {
    let file = match File::open(dir.join(MARKER)) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Marker::None),
        file => file?,
    };
    let mut text = Vec::new();
    file.take(MARKER_LEN_MAX).read_to_end(&mut text)?;
    let id = Uuid::try_parse_ascii(text.trim_ascii());
    Ok(id.map_or(Marker::Unreadable, Marker::Id))
}

fn write_marker(dir: &Path, id: Uuid) -> io::Result<()> {
    let unfinished = dir.join(format!("{MARKER}.{NEW}"));
    remove_if_there(&unfinished)?;
    let mut options = OpenOptions::new();
    let mut file = options
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(&unfinished)?;
    writeln!(file, "{id}")?;
    file.sync_all()?;
    fs::rename(&unfinished, dir.join(MARKER))?;
    sync(dir)
}

fn remove_if_there(file: &Path) -> io::Result<()> {
    match fs::remove_file(file) {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
        removed => removed,
    }
}

/// Makes the names in `dir` durable.
fn sync(dir: &Path) -> io::Result<()> {
    File::open(dir)?.sync_all()
}

/// Takes the directory's lock and writes our process id into it.
fn lock(dir: &Path) -> Result<File, StoreError> {
    let unusable = |source| StoreError::Unusable {
        dir: dir.to_owned(),
        source,
    };
    let path = dir.join(LOCK);
    let mut options = OpenOptions::new();
    options
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600);
    let mut file = options.open(path).map_err(unusable)?;
    match rustix::fs::flock(&file, rustix::fs::FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => {
            let write = |file: &mut File| {
                file.set_len(0)?;
                file.rewind()?;
                writeln!(file, "{}", std::process::id())
            };
            write(&mut file).map_err(unusable)?;
            Ok(file)
        }
        Err(rustix::io::Errno::WOULDBLOCK) => Err(StoreError::Held {
            dir: dir.to_owned(),
            holder: holder(&mut file),
        }),
        Err(error) => Err(unusable(error.into())),
    }
}

/// Who holds the lock: the kernel's list of locks knows; the number in the file is the fallback (the holder may live in
/// another process id namespace).
fn holder(file: &mut File) -> String {
    let facts = file.metadata().ok();
    let listed = facts.and_then(|facts| lock_holder::owner(facts.dev(), facts.ino()));
    let mut text = String::new();
    let written = || {
        file.read_to_string(&mut text).ok()?;
        text.trim().parse::<u32>().ok()
    };
    match listed.or_else(written) {
        Some(pid) => lock_holder::describe(pid),
        None => "another process".to_owned(),
    }
}
