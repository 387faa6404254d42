//! Plugins built against former versions of the contract, kept as source with the header of their time, load and conform.

mod support;

use std::process::Command;

use conformance::{Options, run_device};
use plugin_host::PluginHost;
use sdk::block::DeviceDriver;
use support::{ByHost, root};

#[test]
fn a_device_of_abi_1_0_loads_and_conforms() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("libram_1_0.so");
    let source = root().join("tests/compat/abi-1.0");
    let built = Command::new("cc")
        .args([
            "-std=c11",
            "-O1",
            "-fPIC",
            "-fvisibility=hidden",
            "-shared",
            "-o",
        ])
        .arg(&file)
        .arg("-I")
        .arg(&source)
        .arg(source.join("ram.c"))
        .status()
        .expect("the C compiler starts");
    assert!(built.success());
    let make = || {
        let host = PluginHost::new(None, None);
        host.load(&file)
            .unwrap_or_else(|refusal| panic!("{refusal}"));
        let schemes = &["cram"][..];
        let driver: Box<dyn DeviceDriver> = Box::new(ByHost { host, schemes });
        (driver, "cram:///m?size_mb=8".to_owned())
    };
    run_device(&make, &Options::default());
}
