//! What a plugin answers when it is loaded.

use crate::device::IoeDriver;
use crate::export::IoeExportDriver;
use crate::fabric::IoeFabricDriver;
use crate::host::IoeEngine;
use crate::pool::IoePoolDriver;

/// Name of the one function a plugin exports, of type [`IoeEntry`].
pub const IOE_ENTRY_SYMBOL: &str = "io_engine_plugin_v1";

/// The plugin's entry: fills `plugin` and answers `IOE_OK`, `IOE_REFUSED` or `IOE_PANICKED`. Called once, off the reactors;
/// `engine` stays valid as long as the process.
pub type IoeEntry = unsafe extern "C" fn(engine: *const IoeEngine, plugin: *mut IoePlugin) -> i32;

/// What a plugin brings. Arrays and everything in them are valid as long as the process. The engine fills in `size` and
/// zeroes the rest before the call.
#[repr(C)]
#[cfg_attr(feature = "layout", derive(abi_stable::StableAbi))]
#[derive(Clone, Copy)]
pub struct IoePlugin {
    /// Bytes of this struct.
    pub size: u32,
    /// `IOE_ABI_VERSION` of the plugin.
    pub version: u32,
    /// Device drivers.
    pub drivers: *const IoeDriver,
    /// How many.
    pub driver_count: u32,
    /// How many transports.
    pub fabric_count: u32,
    /// Transports.
    pub fabrics: *const IoeFabricDriver,
    /// Protocols.
    pub exports: *const IoeExportDriver,
    /// How many.
    pub export_count: u32,
    /// How many kinds of pool.
    pub pool_count: u32,
    /// Kinds of pool.
    pub pools: *const IoePoolDriver,
}
