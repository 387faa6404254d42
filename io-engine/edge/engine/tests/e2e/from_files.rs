//! An engine nothing is linked into: devices and transport come from files, and nobody notices.

use std::path::Path;
use std::process::Command;
use std::sync::Arc;

use plugin_host::PluginHost;

use crate::support::{Rig, config, pattern};

/// The default set as files, built by Cargo apart from this build's.
fn plugins() -> PluginHost {
    let target = Path::new(env!("CARGO_TARGET_TMPDIR")).join("plugins");
    let names = ["device-mem", "device-uring", "transport-nvmf-tcp"];
    let mut cargo = Command::new(env!("CARGO"));
    cargo
        .args(["build", "--offline", "--quiet", "--target-dir"])
        .arg(&target);
    for name in names {
        cargo.args(["-p", &format!("{name}-plugin")]);
    }
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../..");
    let built = cargo.current_dir(root).status().expect("cargo starts");
    assert!(built.success());
    let host = PluginHost::new(None, None);
    for name in names {
        let file = format!("lib{}_plugin.so", name.replace('-', "_"));
        let loaded = host.load(&target.join("debug").join(file));
        loaded.unwrap_or_else(|refusal| panic!("{refusal}"));
    }
    host
}

#[test]
fn data_goes_through_plugins_that_were_loaded() {
    let plugins = plugins();
    let mut rig = Rig::with_plugins(config(), Arc::default(), &plugins);
    let file = format!("aio://{}", rig.file("disk", 64 << 20).display());
    let nqn = rig.serve("d", &["malloc:///m?size_mb=64", &file]);
    let mut client = rig.connect(&nqn);
    for nsid in [1, 2] {
        for (at, len) in [512, 4096, 8704, 65_536, 131_072].into_iter().enumerate() {
            let (lba, data) = (3 + at as u64 * 4096, pattern(at as u64, len));
            client.write(nsid, lba, &data).unwrap();
            let read = client.read(nsid, lba, (len / 512) as u32).unwrap();
            assert!(read == data, "{len} bytes of namespace {nsid}");
        }
        client.write_zeroes(nsid, 3, 1, true).unwrap();
        assert!(
            client
                .read(nsid, 3, 1)
                .unwrap()
                .iter()
                .all(|byte| *byte == 0)
        );
        client.flush(nsid).unwrap();
    }
    for plugin in plugins.plugins() {
        assert_eq!(plugin.faults, 0, "{}", plugin.name);
    }
}
