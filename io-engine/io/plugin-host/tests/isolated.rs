//! Plugins on a reactor of their own: devices conform as they do without, and what goes wrong there stays there.

mod support;

use std::cell::Cell;
use std::collections::BTreeSet;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use conformance::host::TestHost;
use conformance::{Options, run_device};
use plugin_host::{Isolation, PluginHost};
use reactor::DriverChoice;
use sdk::block::{
    Device, DeviceDriver, Geometry, IoError, IoResult, IoTag, Op, OpenError, Queue, Submitted,
};
use sdk::buf::Buf;
use sdk::host::{FileDone, Host, OwnerId};
use sdk::plugin::Plugin;
use sdk::uri::DeviceUri;
use support::{Through, bad, example};
use tempfile::TempDir;
use units::BlockRange;

/// Far longer than an end takes to come back.
const PATIENCE: Duration = Duration::from_secs(30);

fn isolating(names: &[&str]) -> PluginHost {
    let names: BTreeSet<String> = names.iter().map(|name| (*name).to_owned()).collect();
    let isolation = Isolation::new(names, DriverChoice::Auto, Duration::from_secs(10));
    PluginHost::new(None, None).isolating(isolation)
}

fn loaded(path: &Path, name: &str) -> PluginHost {
    let host = isolating(&[name]);
    let info = host
        .load(path)
        .unwrap_or_else(|refusal| panic!("{refusal}"));
    assert!(info.isolated);
    host
}

fn linked(plugin: &'static Plugin) -> PluginHost {
    let host = isolating(&[plugin.name]);
    host.add(plugin).expect("it is taken");
    host
}

/// Opens devices as the engine does, for a kit whose host has no wakers: its queues ask to be looked at again and again.
struct Looking(PluginHost);

struct LookedAtQueue(Box<dyn Queue>);

impl DeviceDriver for Looking {
    fn schemes(&self) -> &'static [&'static str] {
        &["malloc", "uring", "cram"]
    }

    fn open(&self, uri: DeviceUri) -> Result<Box<dyn Device>, OpenError> {
        // The kit lets go of a device before its queue: it is closed when the queue is, soon after.
        let deadline = Instant::now() + Duration::from_millis(300);
        loop {
            match self.0.open_device(uri.text()) {
                Err(OpenError::InUse { .. }) if Instant::now() < deadline => {
                    std::thread::sleep(Duration::from_millis(1));
                }
                opened => {
                    return Ok(Box::new(Through {
                        device: opened?,
                        queue: |queue| Box::new(LookedAtQueue(queue)),
                    }));
                }
            }
        }
    }
}

impl Queue for LookedAtQueue {
    fn submit(&mut self, host: &mut dyn Host, tag: IoTag, op: Op) -> Submitted {
        self.0.submit(host, tag, op)
    }

    fn handle_file_done(&mut self, host: &mut dyn Host, done: FileDone) {
        self.0.handle_file_done(host, done);
    }

    fn poll_completion(&mut self) -> Option<(IoTag, IoResult)> {
        self.0.poll_completion()
    }

    fn poll_timeout(&self) -> Option<Instant> {
        Some(Instant::now() + Duration::from_micros(50))
    }

    /// The kit's time passes without waiting; the plugin's reactor needs some to answer.
    fn handle_timeout(&mut self, _: &mut dyn Host) {
        std::thread::sleep(Duration::from_micros(20));
    }

    fn set_geometry(&mut self, geometry: Geometry) {
        self.0.set_geometry(geometry);
    }

    fn close(&mut self, host: &mut dyn Host) {
        self.0.close(host);
    }
}

#[test]
fn an_isolated_ram_disk_conforms() {
    let make = || {
        let driver: Box<dyn DeviceDriver> = Box::new(Looking(linked(&device_mem::PLUGIN)));
        (driver, "malloc:///m?size_mb=8".to_owned())
    };
    let options = Options {
        resize: Some(Box::new(|_, geometry| Some(geometry.blocks))),
        ..Options::default()
    };
    run_device(&make, &options);
}

#[test]
fn an_isolated_file_conforms_its_operations_on_its_own_reactor() {
    let directory = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let next = Cell::new(0);
    let make = || {
        next.set(next.get() + 1);
        let path = directory.path().join(format!("disk{}", next.get()));
        let file = File::create_new(&path).expect("a new file");
        file.set_len(8 << 20).expect("room");
        let driver: Box<dyn DeviceDriver> = Box::new(Looking(linked(&device_uring::PLUGIN)));
        (driver, format!("uring://{}", path.display()))
    };
    run_device(&make, &Options::default());
}

#[test]
fn an_isolated_plugin_in_c_conforms() {
    let directory = tempfile::tempdir().unwrap();
    let path = example(directory.path());
    let make = || {
        let driver: Box<dyn DeviceDriver> = Box::new(Looking(loaded(&path, "example-c-ram")));
        (driver, "cram:///m?size_mb=8".to_owned())
    };
    run_device(&make, &Options::default());
}

#[test]
fn only_devices_are_isolated() {
    let host = isolating(&["both", "device-mem"]);
    let refusal = host.add(&BOTH).unwrap_err().to_string();
    assert_eq!(
        refusal,
        "plugin both refused: it brings more than devices, and only devices can have a reactor of their own; take it out of \
         plugins.isolate"
    );
    host.add_own(&device_mem::PLUGIN).unwrap();
    host.add_own(&device_uring::PLUGIN).unwrap();
    let isolated = |name: &str| host.plugin(name).unwrap().isolated;
    assert!(isolated("device-mem") && !isolated("device-uring"));
    assert!(host.is_isolated("malloc") && !host.is_isolated("uring"));
}

const BOTH: Plugin = Plugin {
    serves: "both",
    devices: Some(Vec::new),
    exports: Some(Vec::new),
    ..Plugin::new("both", "1", "tests")
};

/// A queue of the fixture, isolated, on a host that looks for ends by itself.
struct Rig {
    queue: Option<Box<dyn Queue>>,
    device: Option<Box<dyn Device>>,
    plugins: PluginHost,
    host: TestHost,
    directory: TempDir,
}

impl Rig {
    fn new(defines: &[&str]) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let plugins = loaded(&bad(directory.path(), defines), "bad");
        let uri = format!("bad://{}/gate", directory.path().display());
        let mut device = plugins.open_device(&uri).expect("a device");
        let mut host = TestHost::new();
        let seed = device.open_queue().expect("a queue");
        let queue = seed.open(&mut host, OwnerId(1)).expect("it starts");
        Self {
            queue: Some(queue),
            device: Some(device),
            plugins,
            host,
            directory,
        }
    }

    fn gate(&self) -> PathBuf {
        self.directory.path().join("gate")
    }

    /// The gate's path is that of the device.
    fn uri(&self) -> String {
        format!("bad://{}", self.gate().display())
    }

    fn submit(&mut self, tag: u64, op: Op) {
        let queue = self.queue.as_deref_mut().expect("it is open");
        let submitted = queue.submit(&mut self.host, IoTag(tag), op);
        assert!(matches!(submitted, Submitted::Pending), "{submitted:?}");
    }

    fn read(&mut self, tag: u64) {
        let (range, buf) = (BlockRange::new(0, 8), Some(Buf::from_heap(4096)));
        self.submit(tag, Op::Read { range, buf });
    }

    fn write(&mut self, tag: u64) {
        let (range, buf, fua) = (BlockRange::new(0, 8), Buf::from_heap(4096), false);
        self.submit(tag, Op::Write { range, buf, fua });
    }

    fn end(&mut self) -> Option<(u64, IoResult)> {
        let queue = self.queue.as_deref_mut().expect("it is open");
        let (tag, result) = queue.poll_completion()?;
        Some((tag.0, result))
    }

    fn wait(&mut self) -> (u64, IoResult) {
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(end) = self.end() {
                return end;
            }
            assert!(Instant::now() < deadline, "an end never comes");
            std::thread::sleep(Duration::from_micros(100));
        }
    }

    /// Waits for an end that is a read of `byte`.
    fn is_read_of(&mut self, tag: u64, byte: u8) {
        let (ended, result) = self.wait();
        assert_eq!(ended, tag);
        let Ok(Some(payload)) = result else {
            panic!("{result:?}")
        };
        let bytes: Vec<u8> = payload.pieces().flatten().copied().collect();
        assert!(bytes.len() == 4096 && bytes.iter().all(|found| *found == byte));
    }
}

#[test]
fn a_submit_that_blocks_returns_at_once_and_ends_late() {
    for define in ["BLOCKS", "SPINS"] {
        let mut rig = Rig::new(&[define]);
        std::fs::write(rig.gate(), "").unwrap();
        let begin = Instant::now();
        rig.read(1);
        rig.write(2);
        assert!(begin.elapsed() < Duration::from_millis(500), "{define}");
        std::thread::sleep(Duration::from_millis(100));
        assert!(rig.end().is_none(), "{define}: the plugin holds it");
        // The plugin's other devices would come to the same thread.
        let mut other = rig.plugins.open_device(&rig.uri()).unwrap();
        let error = other.open_queue().err().expect("a refusal").to_string();
        assert_eq!(
            error,
            "bad: the reactor of plugin 'bad' does not answer: a call into the plugin blocks it"
        );
        std::fs::remove_file(rig.gate()).unwrap();
        rig.is_read_of(1, 0x5a);
        let (tag, result) = rig.wait();
        assert!(tag == 2 && matches!(result, Ok(None)), "{result:?}");
        assert_eq!(rig.plugins.plugins()[0].faults, 0);
    }
}

#[test]
fn a_queue_dropped_with_a_blocked_operation_leaves_its_buffer_and_its_device_alone() {
    let mut rig = Rig::new(&["BLOCKS"]);
    std::fs::write(rig.gate(), "").unwrap();
    rig.read(1);
    // It is in the plugin by then; what was only on its way would be dropped.
    std::thread::sleep(Duration::from_millis(200));
    drop(rig.queue.take());
    let begin = Instant::now();
    drop(rig.device.take());
    let waited = begin.elapsed();
    assert!(
        waited >= Duration::from_secs(2) && waited < PATIENCE,
        "the device waits for its queue, for a bounded time: {waited:?}"
    );
    // The plugin writes to the buffer when the gate opens; nobody else has it by then.
    std::fs::remove_file(rig.gate()).unwrap();
    let mut device = reopened(&rig.plugins);
    assert!(device.open_queue().is_ok());
}

/// The fixture's device once its reactor answers again.
fn reopened(plugins: &PluginHost) -> Box<dyn Device> {
    plugins.open_device("bad:///x").expect("a device")
}

#[test]
fn a_plugin_that_panics_loses_the_buffer_and_nothing_else() {
    let mut rig = Rig::new(&["PANICS"]);
    rig.read(1);
    let (tag, result) = rig.wait();
    assert!(
        tag == 1 && matches!(result, Err(IoError::Gone)),
        "{result:?}"
    );
    rig.write(2);
    let (tag, result) = rig.wait();
    assert!(
        tag == 2 && matches!(result, Err(IoError::Gone)),
        "{result:?}"
    );
    assert_eq!(rig.plugins.plugins()[0].faults, 1);
}

#[test]
fn a_buffer_given_back_after_the_end_is_waited_for() {
    let mut rig = Rig::new(&["RELEASES_LATE"]);
    for tag in 1..100 {
        rig.write(tag);
        let (ended, result) = rig.wait();
        assert!(ended == tag && matches!(result, Ok(None)), "{result:?}");
    }
}

#[test]
fn a_read_answered_with_memory_of_the_plugins_own_is_copied() {
    let mut rig = Rig::new(&["OWN_MEMORY"]);
    for tag in 1..100 {
        rig.read(tag);
        rig.is_read_of(tag, 0x6b);
    }
}

#[test]
fn one_operation_too_many_is_answered_busy() {
    let mut rig = Rig::new(&["NEVER"]);
    let queue = rig.queue.as_deref_mut().expect("it is open");
    let mut pending = 0;
    loop {
        match queue.submit(&mut rig.host, IoTag(pending), Op::Flush) {
            Submitted::Pending => pending += 1,
            Submitted::Done(result) => {
                assert!(matches!(result, Err(IoError::Busy)), "{result:?}");
                break;
            }
        }
    }
    assert_eq!(pending, 1024);
}
