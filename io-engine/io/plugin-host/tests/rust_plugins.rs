//! Plugins in Rust as files: the example with its own build, and one of the engine's own beside its rlib.

mod support;

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use conformance::{Options, run_device};
use plugin_host::{PluginHost, Source};
use sdk::block::DeviceDriver;
use support::{ByHost, probe, root};

/// The child of a probe; run by [`plugin_host::Probe`] only.
#[test]
#[ignore = "is the child of other tests"]
fn probe_child() {
    plugin_host::probe_child().expect("standard input and output work");
}

/// Builds with Cargo, apart from this build's files but kept from run to run.
fn build(args: &[&str], directory: &Path) -> PathBuf {
    let target = Path::new(env!("CARGO_TARGET_TMPDIR")).join("plugins");
    let output = Command::new(env!("CARGO"))
        .args(["build", "--offline", "--quiet"])
        .args(args)
        .arg("--target-dir")
        .arg(&target)
        .current_dir(directory)
        .output()
        .expect("cargo starts");
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    target.join("debug")
}

fn conforms(file: &Path, schemes: &'static [&'static str], uri: &str) {
    let make = || {
        let host = PluginHost::new(None, None);
        host.load(file)
            .unwrap_or_else(|refusal| panic!("{refusal}"));
        let driver: Box<dyn DeviceDriver> = Box::new(ByHost { host, schemes });
        (driver, uri.to_owned())
    };
    run_device(&make, &Options::default());
}

#[test]
fn the_example_is_built_alone_loaded_and_conforms() {
    let directory = root().join("plugins/examples/rust-sparse");
    let file = build(&[], &directory).join("libexample_rust_sparse.so");
    conforms(&file, &["sparse"], "sparse:///m?size_mb=8");
    let refused = build(&["--config", "profile.dev.panic=\"abort\""], &directory)
        .join("libexample_rust_sparse.so");
    let refusal = PluginHost::new(None, None)
        .load(&refused)
        .unwrap_err()
        .to_string();
    assert!(
        refusal
            .contains("it is built with panic=abort, so that a panic in it would end the engine"),
        "{refusal}"
    );
}

#[test]
fn the_ram_disk_as_a_file_is_what_it_is_linked_in() {
    let file = build(&["-p", "device-mem-plugin"], &root()).join("libdevice_mem_plugin.so");
    let host = PluginHost::new(Some(probe(Duration::from_secs(60))), None);
    host.load(&file)
        .unwrap_or_else(|refusal| panic!("{refusal}"));
    let listed = host.plugins();
    assert_eq!(listed[0].name, "device-mem");
    assert_eq!(listed[0].schemes, ["malloc", "null"]);
    assert!(
        matches!(&listed[0].source, Source::File(path) if path.ends_with("libdevice_mem_plugin.so"))
    );
    // The same plugin linked in as well has nothing left to bring.
    let refusal = host.add(&device_mem::PLUGIN).unwrap_err().to_string();
    assert!(
        refusal.contains("which plugin 'device-mem' has"),
        "{refusal}"
    );
    drop(host);
    conforms(&file, &["malloc", "null"], "malloc:///m?size_mb=8");
}
