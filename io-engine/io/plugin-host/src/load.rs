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

/// Loads the file, for as long as the process, and finds its entry. Its constructors run. With the feature `layout` the root
/// module of a plugin of this minor version, if it carries one, is compared; minors differ in what was appended.
///
/// # Errors
/// [`Why::Load`] with the loader's words, [`Why::Layout`].
pub(crate) fn open(path: &Path, is_same_minor: bool) -> Result<IoeEntry, Why> {
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
    let library = std::mem::ManuallyDrop::new(library);
    #[cfg(feature = "layout")]
    check_layout(&library, is_same_minor)?;
    #[cfg(not(feature = "layout"))]
    let _ = (library, is_same_minor);
    Ok(entry)
}

#[cfg(feature = "layout")]
fn check_layout(library: &Library, is_same_minor: bool) -> Result<(), Why> {
    use sdk::bridge::layout::{LAYOUT_SYMBOL, Symbol, check_layout};
    // SAFETY: `abi_stable` says what the symbol is; nothing else is called so.
    let symbol = unsafe { library.get::<Symbol>(LAYOUT_SYMBOL.as_bytes()) };
    let Ok(symbol) = symbol.map(|symbol| *symbol) else {
        return Ok(());
    };
    if !is_same_minor {
        return Ok(());
    }
    // SAFETY: the symbol's address; the caller keeps the file loaded, and one that is refused here is not closed either.
    let checked = unsafe { check_layout(symbol) };
    checked.map_err(|report| {
        tracing::debug!("layout report of a refused plugin:\n{report}");
        Why::Layout {
            report: one_line(&report),
        }
    })
}

/// Longest report of a layout in a refusal, in characters; all of it is logged at level debug.
#[cfg(feature = "layout")]
const REPORT_CHARS: usize = 600;

#[cfg(feature = "layout")]
fn one_line(report: &str) -> String {
    // What the two sides look like in all comes before what differs.
    let differs = report.find("\nError:").map_or(report, |at| &report[at..]);
    let words: Vec<&str> = differs.split_whitespace().collect();
    let line = words.join(" ");
    match line.char_indices().nth(REPORT_CHARS) {
        Some((end, _)) => format!("{} ..", &line[..end]),
        None => line,
    }
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
