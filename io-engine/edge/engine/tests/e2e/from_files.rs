//! An engine nothing is linked into: devices and transport come from files, and nobody notices.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use engine::control::dataplane::{DataPlane, ProblemKind};
use engine::plane::LINKED;
use plugin_host::PluginHost;

use crate::support::{Rig, config, pattern};

/// What an engine needs at least.
const NAMES: [&str; 3] = ["device-mem", "device-uring", "transport-nvmf-tcp"];

pub(crate) fn file_of(name: &str) -> String {
    format!("lib{}_plugin.so", name.replace('-', "_"))
}

/// Where Cargo puts these plugins as files, built apart from this build's.
pub(crate) fn build(names: &[&str]) -> PathBuf {
    let target = Path::new(env!("CARGO_TARGET_TMPDIR")).join("plugins");
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
    target.join("debug")
}

/// The default set from files.
fn plugins() -> PluginHost {
    let directory = build(&NAMES);
    let host = PluginHost::new(None, None);
    for name in NAMES {
        let loaded = host.load(&directory.join(file_of(name)));
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

#[test]
fn a_plugin_is_loaded_and_unloaded_while_the_engine_runs() {
    let host = PluginHost::new(None, None);
    for plugin in LINKED {
        if plugin.name != "device-fault" {
            host.add_own(plugin)
                .unwrap_or_else(|refusal| panic!("{refusal}"));
        }
    }
    let mut config = config();
    config.plugin_directories = vec![build(&["device-fault"])];
    let rig = Rig::with_plugins(config, Arc::default(), &host);
    let (runtime, plane) = (&rig.runtime, &rig.plane);
    let uri = "fault:///f?device=malloc:///m?size_mb=4";
    let open = || runtime.block_on(plane.open_device(uri));
    let load = |file: &str| runtime.block_on(plane.load_plugin(file));
    let unload = |name: &str| runtime.block_on(plane.unload_plugin(name));

    assert_eq!(open().unwrap_err().kind(), ProblemKind::InvalidUri);
    assert_eq!(load("../x.so").unwrap_err().kind(), ProblemKind::NotFound);
    let file = file_of("device-fault");
    let loaded = load(&file).unwrap_or_else(|problem| panic!("{problem}"));
    assert_eq!(loaded.name, "device-fault");
    assert_eq!(load(&file).unwrap_err().kind(), ProblemKind::AlreadyExists);
    let device = open().unwrap_or_else(|problem| panic!("{problem}"));
    let listed = runtime.block_on(plane.command_device(device.handle, "list"));
    listed.unwrap_or_else(|problem| panic!("{problem}"));
    assert_eq!(
        unload("device-fault").unwrap_err().kind(),
        ProblemKind::Busy
    );
    assert_eq!(
        unload("device-mem").unwrap_err().kind(),
        ProblemKind::Unsupported
    );
    assert_eq!(unload("nothing").unwrap_err().kind(), ProblemKind::NotFound);
    runtime.block_on(plane.close_device(device.handle)).unwrap();
    unload("device-fault").unwrap_or_else(|problem| panic!("{problem}"));
    assert_eq!(open().unwrap_err().kind(), ProblemKind::InvalidUri);
    load(&file).unwrap_or_else(|problem| panic!("{problem}"));
    open().unwrap_or_else(|problem| panic!("{problem}"));
}
