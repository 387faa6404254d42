//! The pool contract: disks in, volumes, snapshots and clones out. All on the control path; I/O goes through the devices a pool
//! opens.
//!
//! Who checks: the caller gives identities that are new and names that are not empty; the pool checks what its disks hold. A
//! call that fails leaves the pool as it was, unless the error says otherwise.

use std::sync::Arc;

use crate::block::{Device, OpenError};
use crate::services::Services;

/// Identity of a pool, volume, snapshot or clone.
pub type Identity = [u8; 16];

/// What a pool is to be, or which pool is meant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PoolSpec {
    /// Its name; empty when it is imported under whatever name it has.
    pub name: String,
    /// Its identity; `None` draws one, or takes the one it has.
    pub uuid: Option<Identity>,
    /// URIs of its disks, at least one.
    pub disks: Vec<String>,
    /// Bytes of a cluster, the unit of allocation; `None` is the pool's choice.
    pub cluster_bytes: Option<u64>,
}

/// How full a pool is. All sizes in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PoolUsage {
    /// Number of disks.
    pub disks: u32,
    /// Room for data.
    pub capacity_bytes: u64,
    /// Room taken.
    pub used_bytes: u64,
    /// Room promised to volumes; may be above the capacity where they are thin.
    pub committed_bytes: u64,
    /// A cluster.
    pub cluster_bytes: u64,
    /// Number of volumes, snapshots and clones.
    pub volumes: u64,
}

/// What an entry of a pool is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum VolumeKind {
    /// A volume of its own.
    Volume,
    /// A snapshot, never written.
    Snapshot {
        /// The volume it is of.
        of: Identity,
    },
    /// A volume that began as a snapshot.
    Clone {
        /// The snapshot it is of.
        of: Identity,
    },
}

/// A volume, snapshot or clone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VolumeInfo {
    /// Identity.
    pub uuid: Identity,
    /// Name.
    pub name: String,
    /// What it is.
    pub kind: VolumeKind,
    /// Whether space is taken when written.
    pub is_thin: bool,
    /// Its size in bytes.
    pub bytes: u64,
    /// Bytes taken by it alone.
    pub used_bytes: u64,
}

/// A volume to be made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NewVolume<'a> {
    /// Identity.
    pub uuid: Identity,
    /// Name.
    pub name: &'a str,
    /// Size in bytes.
    pub bytes: u64,
    /// Whether space is to be taken when written.
    pub is_thin: bool,
}

/// A kind of pool. May block; any thread, also several at a time.
pub trait PoolDriver: Send + Sync {
    /// Its name: `native`.
    fn name(&self) -> &'static str;

    /// Makes a pool on disks that hold none. `services` opens the disks.
    ///
    /// # Errors
    /// Any [`OpenError`]; the disks are as they were then, as far as the error does not say otherwise.
    fn create(
        &self,
        spec: &PoolSpec,
        services: &Arc<dyn Services>,
    ) -> Result<Box<dyn Pool>, OpenError>;

    /// Opens the pool that is on the disks; name and identity, where given, must be its own.
    ///
    /// # Errors
    /// Any [`OpenError`].
    fn import(
        &self,
        spec: &PoolSpec,
        services: &Arc<dyn Services>,
    ) -> Result<Box<dyn Pool>, OpenError>;
}

/// An open pool. May block; any thread, one call at a time. Dropped without [`Pool::close`] it is closed as after a crash.
pub trait Pool: Send {
    /// How full it is.
    ///
    /// # Errors
    /// Any [`OpenError`].
    fn usage(&mut self) -> Result<PoolUsage, OpenError>;

    /// The entry at a place in the list, by identity; `None` past the end.
    fn volume(&mut self, index: u64) -> Option<VolumeInfo>;

    /// Makes a volume.
    ///
    /// # Errors
    /// Any [`OpenError`].
    fn create_volume(&mut self, volume: &NewVolume<'_>) -> Result<(), OpenError>;

    /// Destroys a volume, snapshot or clone, which is not open.
    ///
    /// # Errors
    /// [`OpenError::NotFound`], [`OpenError::InUse`], and what the disks answer.
    fn destroy_volume(&mut self, uuid: &Identity) -> Result<(), OpenError>;

    /// Changes the size of a volume.
    ///
    /// # Errors
    /// As [`Pool::destroy_volume`], and [`OpenError::Unsuitable`] without room.
    fn resize_volume(&mut self, uuid: &Identity, bytes: u64) -> Result<(), OpenError>;

    /// Opens a volume, snapshot or clone as a device. The pool stays open as long as its devices.
    ///
    /// # Errors
    /// As [`Pool::destroy_volume`].
    fn open_volume(&mut self, uuid: &Identity) -> Result<Box<dyn Device>, OpenError>;

    /// Makes a snapshot of a volume, in constant time.
    ///
    /// # Errors
    /// As [`Pool::destroy_volume`].
    fn snapshot(&mut self, of: &Identity, uuid: &Identity, name: &str) -> Result<(), OpenError>;

    /// Makes a writable volume out of a snapshot, in constant time.
    ///
    /// # Errors
    /// As [`Pool::destroy_volume`].
    fn clone_snapshot(
        &mut self,
        of: &Identity,
        uuid: &Identity,
        name: &str,
    ) -> Result<(), OpenError>;

    /// Takes the present size of its disks into use, and the disk given, if any.
    ///
    /// # Errors
    /// Any [`OpenError`].
    fn grow(&mut self, disk: Option<&str>) -> Result<(), OpenError>;

    /// Checks its metadata; what is wrong, a line each. What does not fit into 64 KiB is left out.
    ///
    /// # Errors
    /// Any [`OpenError`] when it cannot be checked.
    fn check(&mut self) -> Result<Vec<String>, OpenError>;

    /// Closes it, whose devices are closed; with `destroy` after taking its label off the disks. It is closed whatever the
    /// answer.
    ///
    /// # Errors
    /// Any [`OpenError`].
    fn close(self: Box<Self>, destroy: bool) -> Result<(), OpenError>;
}
