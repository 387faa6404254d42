//! The embedded state store: created devices, subsystems, identities and reservations in one crash-safe file.
//!
//! What it decides: layout and encoding of the records, and that one engine at a time holds a state directory. What it
//! does not: what the records mean; `control` writes them before it acts and reads them back at start.
//!
//! Invariants:
//! - A change is durable when the call returns (redb commits with an fsync); several changes given together are all
//!   there after a crash, or none.
//! - A record that does not parse is an error naming file, table and key. It is never dropped or replaced by a default:
//!   an identity or a reservation that silently vanished would be believed by a host.
//! - The directory is held by an exclusive `flock` for as long as the store is open.
//! - A directory that had a store starts with that store or not at all: an emptied or exchanged file would be an engine
//!   that has forgotten its devices, identities and reservations (see [`directory`]).
//! - A damaged file is an error that names it, at the start (`check`) and later, although the database panics on some damage.
//!   After such a panic the store refuses everything: what the database holds in memory is not known any more.
//!
//! Records are a version byte followed by JSON: a handful of small records, read once at start, that a person must be
//! able to read when something went wrong. Reservation records are the target's own bytes.

mod check;
mod directory;
mod guard;

use std::collections::BTreeMap;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::{OnceLock, PoisonError, RwLock};

use redb::{Database, ReadableDatabase, ReadableTable, TableDefinition};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::plane::ReservationStore;

/// Version byte of every JSON record.
const RECORD_VERSION: u8 = 1;

const DEVICES: TableDefinition<&str, &[u8]> = TableDefinition::new("devices");
const SUBSYSTEMS: TableDefinition<&str, &[u8]> = TableDefinition::new("subsystems");
const EXPORTS: TableDefinition<&str, &[u8]> = TableDefinition::new("exports");
const LOSSES: TableDefinition<&str, &[u8]> = TableDefinition::new("losses");
const RESERVATIONS: TableDefinition<(&str, u32), &[u8]> = TableDefinition::new("reservations");

/// Why the store could not be opened, read or written. Prints as one line that names the place and the fix.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// Another process holds the directory.
    #[error("state directory {} is held by {holder}; stop it, or give another directory with --state-dir", dir.display())]
    Held {
        /// The directory.
        dir: PathBuf,
        /// `pid 12 (io-engine)`.
        holder: String,
    },
    /// The directory cannot be used.
    #[error("state directory {}: {}; give a writable directory with --state-dir", dir.display(), plain(source))]
    Unusable {
        /// The directory.
        dir: PathBuf,
        /// Why not.
        source: std::io::Error,
    },
    /// The database is damaged, of another format, or the medium failed.
    #[error("state store {}: {}; {}", file.display(), source.to_string().trim_end_matches('.'), remedy(source))]
    Database {
        /// The file.
        file: PathBuf,
        /// What the database says.
        source: Box<redb::Error>,
    },
    /// The directory had a store, and what is there is not that one.
    #[error(
        "state store {}: {problem}; restore it from a backup, or remove {} to {instead}",
        file.display(), remove.iter().map(|file| file.display().to_string()).collect::<Vec<_>>().join(" and ")
    )]
    NotOurs {
        /// The file.
        file: PathBuf,
        /// What is wrong with it.
        problem: &'static str,
        /// What to remove to go on without the store that was there.
        remove: Vec<PathBuf>,
        /// What the engine does then.
        instead: &'static str,
    },
    /// A record does not parse.
    #[error(
        "state store {}: record '{key}' of table '{table}' is damaged ({problem}); restore the file from a backup",
        file.display()
    )]
    Damaged {
        /// The file.
        file: PathBuf,
        /// The table.
        table: &'static str,
        /// The key.
        key: String,
        /// What is wrong.
        problem: String,
    },
}

impl StoreError {
    /// Whether the file system of the state directory has no room.
    pub fn is_full(&self) -> bool {
        let kind = match self {
            Self::Unusable { source, .. } => source.kind(),
            Self::Database { source, .. } => match &**source {
                redb::Error::Io(error) => error.kind(),
                _ => return false,
            },
            Self::Held { .. } | Self::NotOurs { .. } | Self::Damaged { .. } => return false,
        };
        use std::io::ErrorKind;
        matches!(kind, ErrorKind::StorageFull | ErrorKind::QuotaExceeded)
    }
}

/// A created device. The key is its name.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DeviceRecord {
    /// URI that opens it.
    pub uri: String,
    /// Identity; chosen at creation when neither URI nor device gave one, and kept.
    pub uuid: Uuid,
}

/// A namespace of a subsystem.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NamespaceRecord {
    /// Namespace id.
    pub nsid: u32,
    /// Name of the device.
    pub device: String,
    /// Uuid descriptor.
    pub uuid: Uuid,
    /// NGUID.
    pub nguid: Uuid,
    /// Hosts may not change its blocks. Not written where they may, so that an engine that does not know it reads the record.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub read_only: bool,
}

/// A subsystem. The key is its NQN.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SubsystemRecord {
    /// Serial number.
    pub serial: String,
    /// Hosts that may connect; `None` lets any in.
    pub allowed_hosts: Option<Vec<String>>,
    /// Namespaces, ascending by nsid.
    pub namespaces: Vec<NamespaceRecord>,
}

/// A device served over another protocol than NVMe-oF. The key is the device's name.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ExportRecord {
    /// Protocol, as its plugin calls it.
    pub protocol: String,
    /// Clients may not change its blocks. Not written where they may, as in [`NamespaceRecord`].
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub read_only: bool,
}

/// Writes that were acknowledged may be gone from a device, and hosts are to be told. The key is the device's name.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LossRecord {
    /// NQNs of the hosts that know.
    pub told: Vec<String>,
}

/// Everything but reservations.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Contents {
    /// Devices by name.
    pub devices: BTreeMap<String, DeviceRecord>,
    /// Subsystems by NQN.
    pub subsystems: BTreeMap<String, SubsystemRecord>,
    /// Exports by device name.
    pub exports: BTreeMap<String, ExportRecord>,
    /// Losses by device name.
    pub losses: BTreeMap<String, LossRecord>,
}

/// A change to be made durable.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// Writes a device.
    PutDevice(String, DeviceRecord),
    /// Removes a device.
    RemoveDevice(String),
    /// Writes a subsystem.
    PutSubsystem(String, SubsystemRecord),
    /// Removes a subsystem; its reservations stay until told otherwise.
    RemoveSubsystem(String),
    /// Writes how a device is served over another protocol.
    PutExport(String, ExportRecord),
    /// Removes that.
    RemoveExport(String),
    /// Writes what hosts are to be told of a device.
    PutLoss(String, LossRecord),
    /// Removes that.
    RemoveLoss(String),
    /// Removes the reservations of one namespace, or of every namespace of a subsystem.
    RemoveReservations(String, Option<u32>),
}

/// The open store.
#[derive(Debug)]
pub struct Store {
    /// `None` after an I/O error, until it could be opened again.
    database: RwLock<Option<Database>>,
    /// What the database said when it panicked.
    damage: OnceLock<String>,
    file: PathBuf,
    /// Holds the directory; `None` in memory.
    _lock: Option<File>,
}

impl Store {
    /// Opens the store in `dir`, which is created (mode 0700) if it is missing.
    ///
    /// # Errors
    /// `Held`, `Unusable`, `NotOurs`, `Database`.
    pub fn open(dir: &Path) -> Result<Self, StoreError> {
        let held = directory::open(dir)?;
        let store = Self {
            database: RwLock::new(Some(held.database)),
            damage: OnceLock::new(),
            file: held.file,
            _lock: Some(held.lock),
        };
        store.commit(&[])?;
        Ok(store)
    }

    /// A store that ends with the process; for tests.
    ///
    /// # Errors
    /// `Database`.
    pub fn in_memory() -> Result<Self, StoreError> {
        let file = PathBuf::from("(memory)");
        let backend = redb::backends::InMemoryBackend::new();
        let database = Database::builder()
            .create_with_backend(backend)
            .map_err(|error| StoreError::Database {
                file: file.clone(),
                source: Box::new(error.into()),
            })?;
        let store = Self {
            database: RwLock::new(Some(database)),
            damage: OnceLock::new(),
            file,
            _lock: None,
        };
        store.commit(&[])?;
        Ok(store)
    }

    /// Reads every device and subsystem.
    ///
    /// # Errors
    /// `Database`, `Damaged`.
    pub fn load(&self) -> Result<Contents, StoreError> {
        Ok(Contents {
            devices: self.records(DEVICES)?,
            subsystems: self.records(SUBSYSTEMS)?,
            exports: self.records(EXPORTS)?,
            losses: self.records(LOSSES)?,
        })
    }

    fn records<R: DeserializeOwned>(
        &self,
        table: TableDefinition<'static, &'static str, &'static [u8]>,
    ) -> Result<BTreeMap<String, R>, StoreError> {
        let name = table_name(&table);
        let pairs = self.run(|database| {
            let transaction = database.begin_read()?;
            let table = transaction.open_table(table)?;
            let mut pairs = Vec::new();
            for pair in table.iter()? {
                let (key, value) = pair?;
                pairs.push((key.value().to_owned(), value.value().to_vec()));
            }
            Ok(pairs)
        })?;
        pairs
            .into_iter()
            .map(|(key, bytes)| match decode(&bytes) {
                Ok(record) => Ok((key, record)),
                Err(problem) => Err(StoreError::Damaged {
                    file: self.file.clone(),
                    table: name,
                    key,
                    problem,
                }),
            })
            .collect()
    }

    /// Makes `changes` durable, all or none.
    ///
    /// # Errors
    /// `Database`; nothing has changed then.
    pub fn commit(&self, changes: &[Change]) -> Result<(), StoreError> {
        self.run(|database| {
            let transaction = database.begin_write()?;
            {
                let mut devices = transaction.open_table(DEVICES)?;
                let mut subsystems = transaction.open_table(SUBSYSTEMS)?;
                let mut exports = transaction.open_table(EXPORTS)?;
                let mut losses = transaction.open_table(LOSSES)?;
                let mut reservations = transaction.open_table(RESERVATIONS)?;
                for change in changes {
                    match change {
                        Change::PutDevice(name, record) => {
                            devices.insert(name.as_str(), encode(record).as_slice())?;
                        }
                        Change::RemoveDevice(name) => {
                            devices.remove(name.as_str())?;
                        }
                        Change::PutSubsystem(nqn, record) => {
                            subsystems.insert(nqn.as_str(), encode(record).as_slice())?;
                        }
                        Change::RemoveSubsystem(nqn) => {
                            subsystems.remove(nqn.as_str())?;
                        }
                        Change::PutExport(name, record) => {
                            exports.insert(name.as_str(), encode(record).as_slice())?;
                        }
                        Change::RemoveExport(name) => {
                            exports.remove(name.as_str())?;
                        }
                        Change::PutLoss(name, record) => {
                            losses.insert(name.as_str(), encode(record).as_slice())?;
                        }
                        Change::RemoveLoss(name) => {
                            losses.remove(name.as_str())?;
                        }
                        Change::RemoveReservations(nqn, nsid) => {
                            let (first, last) = nsid.map_or((0, u32::MAX), |nsid| (nsid, nsid));
                            let range = (nqn.as_str(), first)..=(nqn.as_str(), last);
                            reservations.retain_in(range, |_, _| false)?;
                        }
                    }
                }
            }
            transaction.commit()?;
            Ok(())
        })
    }

    /// NQNs that have reservation records.
    ///
    /// # Errors
    /// `Database`.
    pub fn reservation_nqns(&self) -> Result<Vec<String>, StoreError> {
        self.run(|database| {
            let table = database.begin_read()?.open_table(RESERVATIONS)?;
            let mut nqns: Vec<String> = Vec::new();
            for pair in table.iter()? {
                let nqn = pair?.0.value().0.to_owned();
                if nqns.last() != Some(&nqn) {
                    nqns.push(nqn);
                }
            }
            Ok(nqns)
        })
    }

    /// Reads the reservation record of a namespace. Blocks.
    ///
    /// # Errors
    /// `Database`.
    pub fn load_reservation(&self, nqn: &str, nsid: u32) -> Result<Option<Vec<u8>>, StoreError> {
        self.run(|database| {
            let table = database.begin_read()?.open_table(RESERVATIONS)?;
            Ok(table.get((nqn, nsid))?.map(|value| value.value().to_vec()))
        })
    }

    /// Makes a reservation record durable in place of the previous one. Blocks.
    ///
    /// # Errors
    /// `Database`; the previous record stands then.
    pub fn save_reservation(&self, nqn: &str, nsid: u32, record: &[u8]) -> Result<(), StoreError> {
        self.run(|database| {
            let transaction = database.begin_write()?;
            transaction
                .open_table(RESERVATIONS)?
                .insert((nqn, nsid), record)?;
            transaction.commit()?;
            Ok(())
        })
    }

    /// Runs `work` and names the file in its error.
    ///
    /// After an I/O error the database refuses everything until it is opened again, which checks and repairs it as a
    /// restart would. That is tried here at the next use, so that a file system that was full is no reason to restart.
    fn run<T>(&self, work: impl Fn(&Database) -> Result<T, redb::Error>) -> Result<T, StoreError> {
        let attempt = || {
            if let Some(damage) = self.damage.get() {
                return Err(redb::Error::Corrupted(damage.clone()));
            }
            let database = self.database.read().unwrap_or_else(PoisonError::into_inner);
            let database = database.as_ref().ok_or(redb::Error::PreviousIo)?;
            guard::guarded(|| work(database)).unwrap_or_else(|damage| {
                let damage = self.damage.get_or_init(|| damage);
                Err(redb::Error::Corrupted(damage.clone()))
            })
        };
        let result = match attempt() {
            Err(redb::Error::PreviousIo) => self.reopen().and_then(|()| attempt()),
            result => result,
        };
        result.map_err(|error| StoreError::Database {
            file: self.file.clone(),
            source: Box::new(error),
        })
    }

    fn reopen(&self) -> Result<(), redb::Error> {
        let mut database = self
            .database
            .write()
            .unwrap_or_else(PoisonError::into_inner);
        // The old one holds the file's lock. Ours on the directory stays.
        let old = database.take();
        *database = Some(guard::damage_is_error(|| {
            drop(old);
            Ok(Database::open(&self.file)?)
        })?);
        tracing::info!(file = %self.file.display(), "state store opened again after an I/O error");
        Ok(())
    }
}

impl Drop for Store {
    fn drop(&mut self) {
        let database = self.database.get_mut();
        let database = database.unwrap_or_else(PoisonError::into_inner).take();
        if self.damage.get().is_some() {
            // Closing writes, and what it would write is not known.
            std::mem::forget(database);
            return;
        }
        let closed = guard::damage_is_error(|| {
            drop(database);
            Ok(())
        });
        if let Err(error) = closed {
            tracing::error!(file = %self.file.display(), %error, "state store not closed in order");
        }
    }
}

impl ReservationStore for Store {
    fn load(&self, nqn: &str, nsid: u32) -> Result<Option<Vec<u8>>, String> {
        self.load_reservation(nqn, nsid)
            .map_err(|error| error.to_string())
    }

    fn save(&self, nqn: &str, nsid: u32, record: &[u8]) -> Result<(), String> {
        self.save_reservation(nqn, nsid, record)
            .map_err(|error| error.to_string())
    }
}

fn table_name(table: &TableDefinition<'static, &'static str, &'static [u8]>) -> &'static str {
    use redb::TableHandle;
    let tables = [
        (DEVICES.name(), "devices"),
        (EXPORTS.name(), "exports"),
        (LOSSES.name(), "losses"),
    ];
    let known = tables.iter().find(|(name, _)| *name == table.name());
    known.map_or("subsystems", |(_, name)| name)
}

fn encode<R: Serialize>(record: &R) -> Vec<u8> {
    let mut bytes = vec![RECORD_VERSION];
    serde_json::to_writer(&mut bytes, record).expect("records have string keys and go to memory");
    bytes
}

fn decode<R: DeserializeOwned>(bytes: &[u8]) -> Result<R, String> {
    match bytes.split_first() {
        Some((&RECORD_VERSION, json)) => {
            serde_json::from_slice(json).map_err(|error| error.to_string())
        }
        Some((version, _)) => Err(format!(
            "it has version {version}, this engine knows {RECORD_VERSION}"
        )),
        None => Err("it is empty".to_owned()),
    }
}

/// The operating system's words without its error number.
fn plain(error: &std::io::Error) -> String {
    let text = error.to_string();
    text.split(" (os error")
        .next()
        .unwrap_or_default()
        .to_owned()
}

/// What to do about a database that does not work.
fn remedy(error: &redb::Error) -> &'static str {
    match error {
        redb::Error::Io(error) => match error.kind() {
            std::io::ErrorKind::StorageFull | std::io::ErrorKind::QuotaExceeded => {
                "free some space on its file system"
            }
            std::io::ErrorKind::PermissionDenied | std::io::ErrorKind::ReadOnlyFilesystem => {
                "let this user write it, or give another directory with --state-dir"
            }
            std::io::ErrorKind::InvalidData => RESTORE,
            _ => "check the disk it lies on",
        },
        _ => RESTORE,
    }
}

/// What to do about a database that is damaged.
const RESTORE: &str =
    "restore it from a backup, or remove it and state.id beside it to start with an empty engine";

#[cfg(test)]
mod tests;
