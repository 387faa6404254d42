//! House rules a program can check, executed.
//!
//! Does: reads `cargo metadata` and the sources, and finds what breaks a rule ([`arrows`], [`files`], [`sections`]). The tests
//! in `tests/` fail on every finding that no allow-list in this crate names.
//! Does not: replace clippy, rustfmt or a reviewer.
//!
//! Invariants: an allow-list only shrinks: an entry that excuses nothing any more is itself a finding.

pub mod arrows;
pub mod files;
pub mod sections;
pub mod source;

use std::path::{Path, PathBuf};

/// The workspace's root directory.
pub fn workspace() -> PathBuf {
    let manifest = Path::new(env!("CARGO_MANIFEST_DIR"));
    manifest.ancestors().nth(2).unwrap_or(manifest).to_owned()
}
