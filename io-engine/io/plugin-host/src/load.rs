//! Opens a file with the system's loader and enters it.
#![expect(
    unsafe_code,
    reason = "loading foreign code and calling its entry cannot be checked by anybody"
)]

use std::path::Path;

use abi::{IOE_ENTRY_SYMBOL, IoeEntry};
use libloading::os::unix::{Library, RTLD_LOCAL, RTLD_NOW};
use sdk::bridge::{EngineContext, Imported, import};

use crate::refusal::Why;

/// Loads the file, for as long as the process, and finds its entry. Its constructors run.
///
/// # Errors
/// [`Why::Load`] with the loader's words.
pub(crate) fn open(path: &Path) -> Result<IoeEntry, Why> {
    let refused = |error: libloading::Error| Why::Load {
        reason: format!("the system's loader refuses it: {error}"),
    };
    // SAFETY: the file's descriptor says that it is a plugin of this contract (`check`), and a child has loaded it without
    // harm (`Probe`); what its constructors do is trusted like the engine itself (docs/plugin-abi.md, "Trust").
    let library = unsafe { Library::open(Some(path), RTLD_NOW | RTLD_LOCAL) }.map_err(refused)?;
    // SAFETY: the contract says what the symbol is.
    let entry = unsafe { library.get::<IoeEntry>(IOE_ENTRY_SYMBOL.as_bytes()) };
    let entry = match entry {
        Ok(entry) => *entry,
        Err(error) => {
            return Err(Why::Load {
                reason: format!("it has a descriptor but no entry '{IOE_ENTRY_SYMBOL}': {error}"),
            });
        }
    };
    // Never unmapped: its code and constants may be pointed to from anywhere.
    std::mem::forget(library);
    Ok(entry)
}

/// Enters a plugin that was opened.
///
/// # Errors
/// [`Why::Load`] when it refuses, panics or brings what is not of the contract.
pub(crate) fn enter(
    name: &str,
    entry: IoeEntry,
    context: &'static EngineContext,
) -> Result<Imported, Why> {
    // SAFETY: the entry of a plugin of this contract, as in `open`; the registry enters each file once.
    unsafe { import(name, entry, context) }.map_err(|reason| Why::Load { reason })
}
