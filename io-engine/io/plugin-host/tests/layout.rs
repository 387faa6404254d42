//! Plugins that carry a root module of `abi_stable` (feature `layout`): one of the same layout loads, another is refused.
#![cfg(feature = "layout")]

mod support;

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use conformance::{Options, run_device};
use plugin_host::PluginHost;
use sdk::block::DeviceDriver;
use support::{ByHost, example, probe, root};

/// The child of a probe; run by [`plugin_host::Probe`] only.
#[test]
#[ignore = "is the child of other tests"]
fn probe_child() {
    plugin_host::probe_child().expect("standard input and output work");
}

/// The RAM disk as a file, with or without a root module.
fn build(features: &[&str]) -> PathBuf {
    let target = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("layout-{}", features.len()));
    let output = Command::new(env!("CARGO"))
        .args(["build", "--offline", "--quiet", "-p", "device-mem-plugin"])
        .args(features)
        .arg("--target-dir")
        .arg(&target)
        .current_dir(root())
        .output()
        .expect("cargo starts");
    let words = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{words}");
    target.join("debug/libdevice_mem_plugin.so")
}

/// A field of the capabilities, as the root module names it, and another of the same length.
const FIELD: (&[u8], &[u8]) = (b"atomic_blocks", b"atomic_blockz");

/// `file` with a root module that describes one field otherwise. Stamps are hashes, which it is not in.
fn with_another_layout(file: &Path) -> Vec<u8> {
    let mut bytes = std::fs::read(file).expect("a plugin");
    let mut replaced = 0;
    for at in 0..bytes.len() - FIELD.0.len() {
        if bytes[at..].starts_with(FIELD.0) {
            bytes[at..at + FIELD.0.len()].copy_from_slice(FIELD.1);
            replaced += 1;
        }
    }
    assert!(replaced > 0, "no root module describes the field");
    bytes
}

#[test]
fn a_root_module_of_the_same_layout_is_taken_and_another_refused() {
    let file = build(&["--features", "sdk/layout"]);
    let make = || {
        let host = PluginHost::new(None, None);
        host.load(&file)
            .unwrap_or_else(|refusal| panic!("{refusal}"));
        let schemes = &["malloc", "null"][..];
        let driver: Box<dyn DeviceDriver> = Box::new(ByHost { host, schemes });
        (driver, "malloc:///m?size_mb=8".to_owned())
    };
    run_device(&make, &Options::default());

    let directory = tempfile::tempdir().unwrap();
    let other = directory.path().join("other.so");
    std::fs::write(&other, with_another_layout(&file)).unwrap();
    for tried in [None, Some(probe(Duration::from_secs(60)))] {
        let host = PluginHost::new(tried, None);
        let refusal = host.load(&other).unwrap_err().to_string();
        let begin = format!(
            "plugin {} refused: its tables are laid out otherwise than this engine's, though their hashes agree",
            other.display()
        );
        assert!(refusal.starts_with(&begin), "{refusal}");
        assert!(!refusal.contains('\n'), "{refusal}");
        for side in [FIELD.0, FIELD.1] {
            let side = String::from_utf8_lossy(side);
            assert!(refusal.contains(&*side), "no {side}: {refusal}");
        }
        assert!(host.plugins().is_empty());
        host.load(&file).unwrap();
    }
}

#[test]
fn a_plugin_without_a_root_module_is_taken_by_its_hashes() {
    let host = PluginHost::new(None, None);
    host.load(&build(&[])).unwrap();
    let directory = tempfile::tempdir().unwrap();
    host.load(&example(directory.path())).unwrap();
    assert_eq!(host.schemes(), ["cram", "malloc", "null"]);
}
