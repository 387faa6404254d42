//! What one plugin does to the hosts of another: nothing. A load at a fifth of what the engine can goes on without an error while
//! another plugin panics, keeps operations for ever and is unloaded.
//!
//! It prints how long the slowest I/O in ten thousand took; `cargo test --release -p engine --test e2e isolation -- --nocapture`
//! has the figures of a release build. A plugin that blocks its reactor is not among the stories here: only one with a reactor of
//! its own (`isolate`) leaves the others' alone.

#![expect(
    clippy::print_stdout,
    reason = "the percentile is what the test is run for"
)]

use std::num::NonZeroU32;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use engine::control::dataplane::{DataPlane, DeviceHandle, ProblemKind};
use engine::plane::LINKED;
use io_engine_perf::load::{self, LoadOptions, Pattern};
use io_engine_perf::report::Report;
use io_engine_perf::{Client, HostIdentity, SessionOptions, Target};
use nvme_spec::Status;
use plugin_host::PluginHost;
use sdk::block::{
    Capabilities, Device, DeviceDriver, Geometry, IoError, IoResult, IoTag, Op, OpenError, Queue,
    QueueSeed, Submitted, Support,
};
use sdk::buf::Payload;
use sdk::host::{FileDone, Host, OwnerId};
use sdk::plugin::Plugin;
use sdk::uri::DeviceUri;
use units::{BlockSize, Blocks};

use crate::from_files::{build, file_of};
use crate::support::{Rig, config, pattern};

/// How long one piece of the load is, and the measurement of what the engine can.
const PIECE: Duration = Duration::from_secs(1);
/// Operations that may be overdue before a device is taken offline.
const OVERDUE_MAX: usize = 4;

#[test]
fn hosts_of_one_plugin_do_not_notice_what_another_does() {
    let host = PluginHost::new(None, None);
    for plugin in LINKED {
        if plugin.name != "device-fault" {
            let added = host.add_own(plugin);
            added.unwrap_or_else(|refusal| panic!("{refusal}"));
        }
    }
    // Not one of the engine's own: it is called through its tables, as one from a file is.
    let added = host.add(&PANICS);
    added.unwrap_or_else(|refusal| panic!("{refusal}"));
    let mut plane = config();
    plane.plugin_directories = vec![build(&["device-fault"])];
    plane.device.deadline = Duration::from_secs(1);
    plane.device.overdue_max = OVERDUE_MAX;
    let mut rig = Rig::with_plugins(plane, Arc::default(), &host);
    let nqn = rig.serve("good", &["malloc:///good?size_mb=64"]);

    let full = load::run(options(&rig, &nqn, 32, None)).unwrap();
    let rate = NonZeroU32::new((full.iops / 5.0) as u32).expect("the engine does something");
    println!("full load {:.0} IOPS, a fifth of it goes on", full.iops);
    let stories: [(&str, Story); 3] = [
        ("nothing else happens", |_| {}),
        ("another plugin panics", panics),
        ("another keeps its operations, and is unloaded", hangs),
    ];
    for (what, story) in stories {
        let worst = beside(&mut rig, &nqn, rate, story);
        println!("{what}: p99.99 {worst:.0} us");
    }
}

/// What happens to another plugin.
type Story = fn(&mut Rig);

/// Runs `story` beside the load, which must not meet an error. The highest 99.99th percentile of its pieces, in µs.
fn beside(rig: &mut Rig, nqn: &str, rate: NonZeroU32, story: Story) -> f64 {
    let is_over = Arc::new(AtomicBool::new(false));
    let (over, options) = (Arc::clone(&is_over), options(rig, nqn, 8, Some(rate)));
    let load = std::thread::spawn(move || {
        let mut pieces: Vec<Report> = Vec::new();
        while pieces.is_empty() || !over.load(Ordering::Relaxed) {
            pieces.push(load::run(options.clone()).expect("the load goes on"));
        }
        pieces
    });
    // Inside the first piece, not before it.
    std::thread::sleep(PIECE / 5);
    story(rig);
    is_over.store(true, Ordering::Relaxed);
    let pieces = load.join().expect("no panic");
    for piece in &pieces {
        assert_eq!(piece.errors, 0, "{:?}", piece.first_error);
        assert!(piece.reads > 0 && piece.writes > 0, "{piece}");
    }
    let slowest = pieces.iter().map(|piece| piece.latency_us_p9999);
    slowest.fold(0.0, f64::max)
}

fn options(rig: &Rig, nqn: &str, depth: u32, rate: Option<NonZeroU32>) -> LoadOptions {
    LoadOptions {
        target: Target::at(rig.address(), nqn),
        session: SessionOptions::new(HostIdentity::random().expect("random bytes")),
        nsid: None,
        pattern: Pattern::RandRw,
        mix: 70,
        block_len: 4096,
        depth,
        queues: 1,
        time: PIECE,
        warmup: Duration::ZERO,
        range: None,
        seed: 7,
        verify: false,
        verify_only: false,
        state: None,
        reconnect: None,
        sleep: true,
        rate,
        notice: |_| (),
    }
}

fn is(result: Result<(), io_engine_perf::ClientError>, expected: Status) {
    let error = result.expect_err("it fails");
    assert_eq!(error.status(), Some(expected), "{error}");
}

fn close(rig: &mut Rig, nqn: &str, device: DeviceHandle) {
    let (runtime, plane) = (&rig.runtime, &rig.plane);
    runtime.block_on(plane.remove_subsystem(nqn)).unwrap();
    rig.until("the device is closed", |rig| {
        runtime_close(rig, device).is_ok()
    });
}

fn runtime_close(rig: &Rig, device: DeviceHandle) -> Result<(), String> {
    let closed = rig.runtime.block_on(rig.plane.close_device(device));
    closed.map_err(|problem| problem.to_string())
}

/// A plugin panics in the middle of its hosts' I/O: they get an answer, all of them and from then on.
fn panics(rig: &mut Rig) {
    let uri = "panics:///p";
    let nqn = rig.serve("panics", &[uri]);
    let device = rig.handle(uri);
    let mut client = rig.connect(&nqn);
    client.write(1, 8, &pattern(1, 4096)).unwrap();
    is(
        client.write(1, 0, &pattern(1, 4096)),
        Status::NAMESPACE_NOT_READY.dnr(),
    );
    is(
        client.read(1, 8, 8).map(drop),
        Status::NAMESPACE_NOT_READY.dnr(),
    );
    let fault = rig.plane.device_fault(device).expect("it is offline");
    assert!(fault.contains("bdev rescan"), "{fault}");
    drop(client);
    close(rig, &nqn, device);
}

/// A plugin's device keeps what it is given: each I/O is answered at its deadline, the device is offline once too many are overdue;
/// when it lets go, it is closed and its plugin taken out.
fn hangs(rig: &mut Rig) {
    let file = file_of("device-fault");
    let loaded = rig.runtime.block_on(rig.plane.load_plugin(&file));
    loaded.unwrap_or_else(|problem| panic!("{problem}"));
    let uri = "fault:///f?device=malloc:///below?size_mb=4&rules=stuck";
    let nqn = rig.serve("hangs", &[uri]);
    let device = rig.handle(uri);
    let hosts: Vec<_> = (0..=OVERDUE_MAX)
        .map(|_| {
            let mut client: Client = rig.connect(&nqn);
            std::thread::spawn(move || client.read(1, 0, 8).map(drop))
        })
        .collect();
    for host in hosts {
        let answer = host.join().expect("no panic");
        let status = answer.expect_err("it fails").status();
        // The one that was too many took the rest along.
        let possible = [Status::INTERNAL_ERROR, Status::NAMESPACE_NOT_READY.dnr()];
        assert!(status.is_some_and(|status| possible.contains(&status)));
    }
    let fault = rig.plane.device_fault(device).expect("it is offline");
    assert!(fault.contains("never completed"), "{fault}");
    let told = rig.plane.command_device(device, "remove all");
    rig.runtime.block_on(told).unwrap();
    close(rig, &nqn, device);
    let unloaded = rig
        .runtime
        .block_on(rig.plane.unload_plugin("device-fault"));
    unloaded.unwrap_or_else(|problem| panic!("{problem}"));
    let opened = rig.runtime.block_on(rig.plane.open_device(uri));
    assert_eq!(opened.unwrap_err().kind(), ProblemKind::InvalidUri);
}

/// A device of 4 MiB that is not there and panics when block 0 is written.
const PANICS: Plugin = Plugin {
    serves: "panics",
    devices: Some(drivers),
    ..Plugin::new("panics", "1", "tests")
};

fn drivers() -> Vec<Box<dyn DeviceDriver>> {
    vec![Box::new(PanicsDriver)]
}

struct PanicsDriver;
struct PanicsDevice;
struct PanicsSeed;
struct PanicsQueue;

impl DeviceDriver for PanicsDriver {
    fn schemes(&self) -> &'static [&'static str] {
        &["panics"]
    }

    fn open(&self, _: DeviceUri) -> Result<Box<dyn Device>, OpenError> {
        Ok(Box::new(PanicsDevice))
    }
}

impl Device for PanicsDevice {
    fn name(&self) -> &str {
        "panics"
    }

    fn product_name(&self) -> &'static str {
        "Panicking device"
    }

    fn geometry(&self) -> Geometry {
        Geometry {
            block_size: BlockSize::B512,
            blocks: Blocks(8192),
        }
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities {
            write_zeroes: Support::None,
            discard: Support::None,
            volatile_cache: false,
            lends_reads: false,
            atomic_blocks: 1,
            direct: None,
        }
    }

    fn uuid(&self) -> Option<[u8; 16]> {
        None
    }

    fn open_queue(&mut self) -> Result<Box<dyn QueueSeed>, OpenError> {
        Ok(Box::new(PanicsSeed))
    }

    fn resize(&mut self, _: Option<Blocks>) -> Result<Geometry, OpenError> {
        Ok(self.geometry())
    }
}

impl QueueSeed for PanicsSeed {
    fn open(self: Box<Self>, _: &mut dyn Host, _: OwnerId) -> Result<Box<dyn Queue>, IoError> {
        Ok(Box::new(PanicsQueue))
    }
}

impl Queue for PanicsQueue {
    fn submit(&mut self, _: &mut dyn Host, _: IoTag, op: Op) -> Submitted {
        match op {
            Op::Write { range, .. } if range.start.0 == 0 => panic!("told to panic in submit"),
            Op::Read { buf: Some(buf), .. } => Submitted::Done(Ok(Some(Payload::Buf(buf)))),
            _ => Submitted::Done(Ok(None)),
        }
    }

    fn handle_file_done(&mut self, _: &mut dyn Host, _: FileDone) {}

    fn poll_completion(&mut self) -> Option<(IoTag, IoResult)> {
        None
    }

    fn set_geometry(&mut self, _: Geometry) {}

    fn close(&mut self, _: &mut dyn Host) {}
}
