//! What is generated from the tables' source is current: `src/pins.rs` (sizes, offsets, hashes) and the C header.
//!
//! The ignored test `write` writes the files.

mod header;
mod model;
mod pins;

use std::path::PathBuf;

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

/// The generated files and what they should hold.
fn generated() -> [(PathBuf, String); 2] {
    let model = model::Model::read(&root().join("src"));
    [
        (root().join("src/pins.rs"), pins::render(&model)),
        (
            root().join("include/io_engine_plugin.h"),
            header::render(&root(), &model),
        ),
    ]
}

#[test]
fn pins_and_header_are_current() {
    for (path, wanted) in generated() {
        let found = std::fs::read_to_string(&path).unwrap_or_default();
        if found == wanted {
            continue;
        }
        let line = found.lines().zip(wanted.lines()).position(|(a, b)| a != b);
        let shorter = found.lines().count().min(wanted.lines().count());
        panic!(
            "{} is not what its source says (first difference in line {}). If the contract was meant to change: \
             cargo test -p abi --features unpinned --test generated -- --ignored write",
            path.display(),
            line.unwrap_or(shorter) + 1,
        );
    }
}

#[test]
#[ignore = "writes the generated files, to be reviewed like any change of the contract"]
fn write() {
    for (path, wanted) in generated() {
        std::fs::write(&path, wanted).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    }
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
