//! Plugins in C, built on the spot, and a plugin host as a driver for the conformance kit.
#![allow(
    dead_code,
    clippy::allow_attributes,
    reason = "each test file uses its part, so an expectation would fail in some"
)]

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use plugin_host::{PluginHost, Probe};
use sdk::block::{
    Capabilities, Device, DeviceDriver, Geometry, IoError, OpenError, Queue, QueueSeed,
};
use sdk::host::{Host, OwnerId};
use sdk::plugin::Plugin;
use sdk::uri::DeviceUri;
use units::Blocks;

/// Opens devices as the engine does.
pub(crate) struct ByHost {
    pub(crate) host: PluginHost,
    pub(crate) schemes: &'static [&'static str],
}

impl ByHost {
    /// A host with one plugin linked in.
    pub(crate) fn with(plugin: &'static Plugin, schemes: &'static [&'static str]) -> Self {
        let host = PluginHost::new(None, None);
        host.add(plugin).expect("the plugin is taken");
        Self { host, schemes }
    }
}

impl DeviceDriver for ByHost {
    fn schemes(&self) -> &'static [&'static str] {
        self.schemes
    }

    fn open(&self, uri: DeviceUri) -> Result<Box<dyn Device>, OpenError> {
        self.host.open_device(uri.text())
    }
}

/// A device that stands on another and puts its own queues before the other's.
pub(crate) struct Through {
    pub(crate) device: Box<dyn Device>,
    pub(crate) queue: fn(Box<dyn Queue>) -> Box<dyn Queue>,
}

struct ThroughSeed {
    seed: Box<dyn QueueSeed>,
    queue: fn(Box<dyn Queue>) -> Box<dyn Queue>,
}

impl Device for Through {
    fn name(&self) -> &str {
        self.device.name()
    }

    fn product_name(&self) -> &str {
        self.device.product_name()
    }

    fn geometry(&self) -> Geometry {
        self.device.geometry()
    }

    fn capabilities(&self) -> Capabilities {
        self.device.capabilities()
    }

    fn uuid(&self) -> Option<[u8; 16]> {
        self.device.uuid()
    }

    fn open_queue(&mut self) -> Result<Box<dyn QueueSeed>, OpenError> {
        let (seed, queue) = (self.device.open_queue()?, self.queue);
        Ok(Box::new(ThroughSeed { seed, queue }))
    }

    fn resize(&mut self, blocks: Option<Blocks>) -> Result<Geometry, OpenError> {
        self.device.resize(blocks)
    }
}

impl QueueSeed for ThroughSeed {
    fn open(
        self: Box<Self>,
        host: &mut dyn Host,
        owner: OwnerId,
    ) -> Result<Box<dyn Queue>, IoError> {
        Ok((self.queue)(self.seed.open(host, owner)?))
    }
}

/// The workspace.
pub(crate) fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../..")
}

/// Builds a plugin from one C file with the system's compiler, which linking Rust needs as well.
pub(crate) fn build_c(source: &Path, defines: &[&str], to: &Path) {
    let output = Command::new("cc")
        .args(["-std=c11", "-Wall", "-Wextra", "-Werror", "-O1", "-g"])
        .args(["-fPIC", "-fvisibility=hidden", "-shared", "-o"])
        .arg(to)
        .arg("-I")
        .arg(root().join("plugins/abi/include"))
        .args(defines.iter().map(|define| format!("-D{define}")))
        .arg(source)
        .output()
        .expect("the C compiler starts");
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
}

/// The example in C, built into `directory`.
pub(crate) fn example(directory: &Path) -> PathBuf {
    let to = directory.join("libexample_c_ram.so");
    build_c(&root().join("plugins/examples/c-ram/ram.c"), &[], &to);
    to
}

/// The fixture that breaks the promises named.
pub(crate) fn bad(directory: &Path, defines: &[&str]) -> PathBuf {
    let to = directory.join(format!("libbad_{}.so", defines.join("_").to_lowercase()));
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/bad.c");
    build_c(&source, defines, &to);
    to
}

/// Tries files in this test program again, where its test `probe_child` takes them.
pub(crate) fn probe(deadline: Duration) -> Probe {
    Probe {
        program: std::env::current_exe().expect("the test has a path"),
        args: ["--exact", "probe_child", "--ignored", "--nocapture"]
            .map(Into::into)
            .to_vec(),
        deadline,
    }
}
