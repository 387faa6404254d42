//! The tables as `abi_stable` sees them (feature `layout`): a root module in plugins, and its check in the engine.
//!
//! The module holds the type of the entry, from which every table of the contract can be reached. It is never run: its description
//! is compared with this side's, type by type, which names the field that differs where the pinned hashes only tell that one
//! does. A mismatch while the hashes agree means that a compiler lays the same source out in another way.

use abi::{IoeEngine, IoePlugin};
use abi_stable::StableAbi;
use abi_stable::library::{
    __call_root_module_loader, AbiHeaderRef, CheckTypeLayout, LibHeader, LibraryError,
    ROOT_MODULE_LOADER_NAME, ROOT_MODULE_LOADER_NAME_WITH_NUL, RootModule, RootModuleResult,
};
use abi_stable::prefix_type::PrefixTypeTrait;
use abi_stable::sabi_types::VersionStrings;

/// What a plugin built with the feature exports beside its entry.
#[repr(C)]
#[derive(StableAbi)]
#[sabi(kind(Prefix(prefix_ref = LayoutRef)))]
pub struct Layout {
    /// Its entry.
    #[sabi(last_prefix_field)]
    pub entry: unsafe extern "C" fn(engine: *const IoeEngine, plugin: *mut IoePlugin) -> i32,
}

impl RootModule for LayoutRef {
    abi_stable::declare_root_module_statics! {LayoutRef}

    const BASE_NAME: &'static str = "io_engine_plugin";
    const NAME: &'static str = "io-engine plugin";
    const VERSION_STRINGS: VersionStrings = abi_stable::package_version_strings!();
}

/// The symbol of the root module: a null-terminated name.
pub const LAYOUT_SYMBOL: &str = ROOT_MODULE_LOADER_NAME_WITH_NUL;

// The macro that exports the symbol writes its name out.
const _: () = {
    let (named, written) = (
        ROOT_MODULE_LOADER_NAME.as_bytes(),
        b"_1as_0lib_1header_0root_bmodule_bloader",
    );
    assert!(named.len() == written.len());
    let mut at = 0;
    while at < named.len() {
        assert!(named[at] == written[at]);
        at += 1;
    }
};

unsafe extern "C" fn nothing(_: *const IoeEngine, _: *mut IoePlugin) -> i32 {
    abi::IOE_NOT_SUPPORTED
}

fn module() -> LayoutRef {
    Layout { entry: nothing }.leak_into_prefix()
}

extern "C" fn make() -> RootModuleResult {
    __call_root_module_loader(module)
}

/// The root module of a plugin. For [`export_plugin!`](crate::export_plugin).
pub const fn header() -> LibHeader {
    // SAFETY: `make` answers with the module this header is told to be of.
    unsafe { LibHeader::from_constructor::<LayoutRef>(make, CheckTypeLayout::Yes) }
}

/// Compares a plugin's root module with this side's.
///
/// # Errors
/// What differs, in lines: this side's first, the plugin's second.
///
/// # Safety
/// `symbol` is the address of [`LAYOUT_SYMBOL`] in a file that stays loaded as long as the process.
pub unsafe fn check_layout(symbol: AbiHeaderRef) -> Result<(), String> {
    let checked = symbol
        .upgrade()
        .and_then(|header| header.ensure_layout::<LayoutRef>());
    checked.map_err(|error| match error {
        LibraryError::AbiInstability(report) => report.to_string(),
        other => other.to_string(),
    })
}

pub use abi_stable::library::{AbiHeaderRef as Symbol, LibHeader as Header};
