//! What a plugin is: its name and what it brings.
//!
//! A plugin crate has one constant of this type and, to be loadable, one line in a crate of type `cdylib`:
//!
//! ```ignore
//! sdk::export_plugin!(my_device::PLUGIN);
//! ```
//!
//! The line puts the descriptor into the file and exports the entry, both with the guard against panics.

use abi::{IOE_KIND_DEVICE, IOE_KIND_EXPORT, IOE_KIND_FABRIC, IOE_KIND_POOL};

use crate::block::DeviceDriver;
use crate::export::ExportDriver;
use crate::fabric::FabricDriver;
use crate::pool::PoolDriver;

/// Makes a plugin's objects of one kind; called once.
pub type Makes<T> = fn() -> Vec<Box<T>>;

/// A plugin. Built with functions of its own where it brings something, `None` where not.
#[derive(Clone, Copy, Debug)]
pub struct Plugin {
    /// Name, at most 32 bytes: `device-mem`.
    pub name: &'static str,
    /// Version, at most 32 bytes; mostly `env!("CARGO_PKG_VERSION")`.
    pub version: &'static str,
    /// Who made it, at most 64 bytes.
    pub vendor: &'static str,
    /// Schemes and protocols, separated by commas, at most 128 bytes; for listings.
    pub serves: &'static str,
    /// Makes its device drivers.
    pub devices: Option<Makes<dyn DeviceDriver>>,
    /// Makes its transports.
    pub fabrics: Option<Makes<dyn FabricDriver>>,
    /// Makes its protocols.
    pub exports: Option<Makes<dyn ExportDriver>>,
    /// Makes its kinds of pool.
    pub pools: Option<Makes<dyn PoolDriver>>,
}

impl Plugin {
    /// A plugin that brings nothing yet.
    pub const fn new(name: &'static str, version: &'static str, vendor: &'static str) -> Self {
        Self {
            name,
            version,
            vendor,
            serves: "",
            devices: None,
            fabrics: None,
            exports: None,
            pools: None,
        }
    }

    /// The kinds it brings, as `IOE_KIND_*`.
    pub const fn kinds(&self) -> u32 {
        let mut kinds = 0;
        if self.devices.is_some() {
            kinds |= IOE_KIND_DEVICE;
        }
        if self.fabrics.is_some() {
            kinds |= IOE_KIND_FABRIC;
        }
        if self.exports.is_some() {
            kinds |= IOE_KIND_EXPORT;
        }
        if self.pools.is_some() {
            kinds |= IOE_KIND_POOL;
        }
        kinds
    }
}

/// Makes the crate a loadable plugin: its argument is a constant [`Plugin`](crate::plugin::Plugin). Once a crate, whose
/// type must be `cdylib` and whose panics must unwind: the engine refuses a plugin built with `panic = "abort"`.
#[macro_export]
macro_rules! export_plugin {
    ($plugin:expr) => {
        #[used]
        #[unsafe(link_section = ".note.io-engine")]
        static IO_ENGINE_NOTE: $crate::abi::IoeNote = $crate::bridge::note(
            &$plugin,
            if cfg!(panic = "abort") {
                $crate::abi::IOE_FLAG_PANIC_ABORT
            } else {
                0
            },
        );

        /// The plugin's entry.
        ///
        /// # Safety
        /// Called by the engine, once, with what the contract says.
        #[unsafe(no_mangle)]
        pub unsafe extern "C" fn io_engine_plugin_v1(
            engine: *const $crate::abi::IoeEngine,
            plugin: *mut $crate::abi::IoePlugin,
        ) -> i32 {
            // SAFETY: the engine's arguments, passed on.
            unsafe { $crate::bridge::enter(engine, plugin, &$plugin) }
        }

        $crate::export_layout!();
    };
}

/// Exports the root module of `abi_stable` (feature `layout` of this crate); a part of [`export_plugin!`](crate::export_plugin).
#[cfg(feature = "layout")]
#[macro_export]
macro_rules! export_layout {
    () => {
        /// The tables as `abi_stable` describes them.
        #[unsafe(export_name = "_1as_0lib_1header_0root_bmodule_bloader")]
        pub static IO_ENGINE_LAYOUT: $crate::bridge::layout::Header =
            $crate::bridge::layout::header();
    };
}

/// Exports nothing: this crate is built without its feature `layout`; a part of [`export_plugin!`](crate::export_plugin).
#[cfg(not(feature = "layout"))]
#[macro_export]
macro_rules! export_layout {
    () => {};
}
