//! The pool kind: disks in, volumes, snapshots and clones out. All on the control path; I/O goes through devices.

use core::ffi::c_void;

use crate::device::IoeDevice;
use crate::host::IoeEngine;
use crate::value::{IoeFailure, IoeStr, IoeText};

/// A kind of pool.
#[repr(C)]
#[cfg_attr(feature = "layout", derive(abi_stable::StableAbi))]
#[derive(Clone, Copy)]
pub struct IoePoolDriver {
    /// Operations.
    pub table: *const IoePoolDriverTable,
    /// Passed as their first argument.
    pub context: *mut c_void,
}

/// What a pool is to be.
#[repr(C)]
#[cfg_attr(feature = "layout", derive(abi_stable::StableAbi))]
#[derive(Clone, Copy)]
pub struct IoePoolSpec {
    /// Bytes of this struct.
    pub size: u32,
    /// Number of `disks`.
    pub disk_count: u32,
    /// URIs of its disks.
    pub disks: *const IoeStr,
    /// Its name.
    pub name: IoeStr,
    /// Its identity; all zero: to be drawn.
    pub uuid: [u8; 16],
    /// Bytes of a cluster, the unit of allocation; 0: the pool's choice.
    pub cluster_bytes: u64,
}

/// Operations of a kind of pool. Any thread may call them, also at the same time; they may block. All required.
#[repr(C)]
#[cfg_attr(feature = "layout", derive(abi_stable::StableAbi))]
#[derive(Clone, Copy)]
pub struct IoePoolDriverTable {
    /// Bytes of this table.
    pub size: u32,
    /// `IOE_ABI_VERSION` of the plugin.
    pub version: u32,
    /// Its name, e.g. `native`.
    pub name: Option<unsafe extern "C" fn(driver: *mut c_void, name: *mut IoeText) -> i32>,
    /// Makes a pool on disks that hold none: `IOE_OK` or `IOE_REFUSED`.
    pub create: Option<
        unsafe extern "C" fn(
            driver: *mut c_void,
            engine: *const IoeEngine,
            spec: *const IoePoolSpec,
            pool: *mut IoePool,
            failure: *mut IoeFailure,
        ) -> i32,
    >,
    /// Opens the pool that is on the disks; name and identity, where given, must be its own: `IOE_OK` or `IOE_REFUSED`.
    pub import: Option<
        unsafe extern "C" fn(
            driver: *mut c_void,
            engine: *const IoeEngine,
            spec: *const IoePoolSpec,
            pool: *mut IoePool,
            failure: *mut IoeFailure,
        ) -> i32,
    >,
}

/// An open pool.
#[repr(C)]
#[cfg_attr(feature = "layout", derive(abi_stable::StableAbi))]
#[derive(Clone, Copy)]
pub struct IoePool {
    /// Operations.
    pub table: *const IoePoolTable,
    /// Passed as their first argument.
    pub context: *mut c_void,
}

/// How full a pool is.
#[repr(C)]
#[cfg_attr(feature = "layout", derive(abi_stable::StableAbi))]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IoePoolUsage {
    /// Bytes of this struct.
    pub size: u32,
    /// Number of disks.
    pub disk_count: u32,
    /// Bytes for data.
    pub capacity_bytes: u64,
    /// Bytes taken.
    pub used_bytes: u64,
    /// Bytes promised to volumes.
    pub committed_bytes: u64,
    /// Bytes of a cluster.
    pub cluster_bytes: u64,
    /// Number of volumes, snapshots and clones.
    pub volume_count: u64,
}

/// A volume, snapshot or clone of a pool.
#[repr(C)]
#[cfg_attr(feature = "layout", derive(abi_stable::StableAbi))]
#[derive(Clone, Copy)]
pub struct IoePoolVolume {
    /// Bytes of this struct.
    pub size: u32,
    /// `IOE_POOL_*`.
    pub flags: u32,
    /// Identity.
    pub uuid: [u8; 16],
    /// Of a snapshot or clone: what it is of; else zero.
    pub parent: [u8; 16],
    /// Bytes.
    pub bytes: u64,
    /// Bytes taken by it alone.
    pub used_bytes: u64,
    /// Name; room of the caller.
    pub name: IoeText,
}

/// Operations of a pool: they may block. Any thread, never two at a time. All required.
#[repr(C)]
#[cfg_attr(feature = "layout", derive(abi_stable::StableAbi))]
#[derive(Clone, Copy)]
pub struct IoePoolTable {
    /// Bytes of this table.
    pub size: u32,
    /// `IOE_ABI_VERSION` of the plugin.
    pub version: u32,
    /// How full it is.
    pub usage: Option<
        unsafe extern "C" fn(
            pool: *mut c_void,
            usage: *mut IoePoolUsage,
            failure: *mut IoeFailure,
        ) -> i32,
    >,
    /// The volume at a place in the list, by identity order: `IOE_OK`, or `IOE_GONE` past the end.
    pub volume: Option<
        unsafe extern "C" fn(pool: *mut c_void, index: u64, volume: *mut IoePoolVolume) -> i32,
    >,
    /// Makes a volume of `bytes`; `flags` is 0 or `IOE_POOL_THIN`.
    pub volume_create: Option<
        unsafe extern "C" fn(
            pool: *mut c_void,
            uuid: *const u8,
            name: IoeStr,
            bytes: u64,
            flags: u32,
            failure: *mut IoeFailure,
        ) -> i32,
    >,
    /// Destroys a volume, snapshot or clone.
    pub volume_destroy: Option<
        unsafe extern "C" fn(pool: *mut c_void, uuid: *const u8, failure: *mut IoeFailure) -> i32,
    >,
    /// Changes the size of a volume.
    pub volume_resize: Option<
        unsafe extern "C" fn(
            pool: *mut c_void,
            uuid: *const u8,
            bytes: u64,
            failure: *mut IoeFailure,
        ) -> i32,
    >,
    /// Opens a volume or snapshot as a device.
    pub volume_open: Option<
        unsafe extern "C" fn(
            pool: *mut c_void,
            uuid: *const u8,
            device: *mut IoeDevice,
            failure: *mut IoeFailure,
        ) -> i32,
    >,
    /// Makes a snapshot of a volume, in constant time.
    pub snapshot: Option<
        unsafe extern "C" fn(
            pool: *mut c_void,
            uuid: *const u8,
            snapshot: *const u8,
            name: IoeStr,
            failure: *mut IoeFailure,
        ) -> i32,
    >,
    /// Makes a writable volume out of a snapshot, in constant time.
    pub clone: Option<
        unsafe extern "C" fn(
            pool: *mut c_void,
            snapshot: *const u8,
            clone: *const u8,
            name: IoeStr,
            failure: *mut IoeFailure,
        ) -> i32,
    >,
    /// Takes the new size of its disks into use, and the disk given, if any.
    pub grow: Option<
        unsafe extern "C" fn(pool: *mut c_void, disk: IoeStr, failure: *mut IoeFailure) -> i32,
    >,
    /// Checks its metadata; the findings, a line each, in `report`. `IOE_OK` without findings, `IOE_MEDIUM` with.
    pub check: Option<
        unsafe extern "C" fn(
            pool: *mut c_void,
            report: *mut IoeText,
            failure: *mut IoeFailure,
        ) -> i32,
    >,
    /// Closes it, with `destroy` 1 after taking its label off the disks, and frees it; its devices are closed.
    pub close: Option<
        unsafe extern "C" fn(pool: *mut c_void, destroy: u32, failure: *mut IoeFailure) -> i32,
    >,
}
