//! What is generated from the tables' source is current: `src/pins.rs` (sizes, offsets, hashes) and the C header.
//!
//! With `IOE_BLESS=1` in the environment the files are written instead, to be reviewed like any change of the contract.

mod header;
mod model;
mod pins;

use std::path::{Path, PathBuf};

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

fn check(path: &Path, wanted: &str) {
    if std::env::var_os("IOE_BLESS").is_some() {
        std::fs::write(path, wanted).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
        return;
    }
    let found = std::fs::read_to_string(path).unwrap_or_default();
    if found == wanted {
        return;
    }
    let line = found.lines().zip(wanted.lines()).position(|(a, b)| a != b);
    panic!(
        "{} is not what its source says (first difference in line {}). If the contract was meant to change: \
         IOE_BLESS=1 cargo test -p abi --test generated",
        path.display(),
        line.map_or(found.lines().count().min(wanted.lines().count()), |at| at) + 1,
    );
}

#[test]
fn pins_and_header_are_current() {
    let model = model::Model::read(&root().join("src"));
    check(&root().join("src/pins.rs"), &pins::render(&model));
    check(
        &root().join("include/io_engine_plugin.h"),
        &header::render(&root(), &model),
    );
}

#[test]
fn a_changed_field_changes_the_hash_of_every_table_that_mentions_it() {
    let model = model::Model::read(&root().join("src"));
    let mut other = model::Model::read(&root().join("src"));
    other.rename_field("IoeOp", "tag", "label");
    let differ = |name: &str| model.hash(name) != other.hash(name);
    assert!(differ("IoeQueueTable"), "a queue takes operations");
    assert!(differ("IoeExportTable"), "an export asks for them");
    assert!(!differ("IoePoolTable"), "a pool never sees one");
}

#[test]
fn an_appended_field_keeps_the_offsets_before_it() {
    let model = model::Model::read(&root().join("src"));
    let mut other = model::Model::read(&root().join("src"));
    other.append_field("IoeDeviceTable", "later", "u64");
    let (old, _) = model.layout("IoeDeviceTable");
    let (new, _) = other.layout("IoeDeviceTable");
    assert_eq!(old[..], new[..old.len()]);
    assert_ne!(model.hash("IoeDeviceTable"), other.hash("IoeDeviceTable"));
}
