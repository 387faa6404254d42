//! A plugin that panics, wherever it does: the panic stays inside, the object is offline, everything else goes on.

mod support;

use conformance::host::TestHost;
use plugin_host::PluginHost;
use sdk::block::{
    Capabilities, Device, DeviceDriver, Geometry, IoError, IoResult, IoTag, Op, OpenError, Queue,
    QueueSeed, Submitted, Support,
};
use sdk::buf::{Buf, Payload};
use sdk::host::{FileDone, Host, OwnerId};
use sdk::plugin::Plugin;
use sdk::uri::DeviceUri;
use support::ByHost;
use units::{BlockRange, BlockSize, Blocks};

const PLUGIN: Plugin = Plugin {
    serves: "panic",
    devices: Some(drivers),
    ..Plugin::new("panicking", "1", "tests")
};

const AT_ENTRY: Plugin = Plugin {
    devices: Some(no_drivers),
    ..Plugin::new("panicking-at-entry", "1", "tests")
};

fn no_drivers() -> Vec<Box<dyn DeviceDriver>> {
    panic!("nothing to offer")
}

fn drivers() -> Vec<Box<dyn DeviceDriver>> {
    vec![Box::new(Driver)]
}

/// Panics in the call its URI names: `panic:///submit`.
struct Driver;

struct Faulty {
    at: String,
}

struct FaultyQueue {
    at: String,
    held: Vec<(IoTag, Buf)>,
}

fn panic_at(at: &str, here: &str) {
    assert!(at != here, "told to panic in {here}");
}

impl DeviceDriver for Driver {
    fn schemes(&self) -> &'static [&'static str] {
        &["panic"]
    }

    fn open(&self, uri: DeviceUri) -> Result<Box<dyn Device>, OpenError> {
        let at = uri.path().trim_start_matches('/').to_owned();
        panic_at(&at, "open");
        Ok(Box::new(Faulty { at }))
    }
}

impl Device for Faulty {
    fn name(&self) -> &str {
        &self.at
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
        panic_at(&self.at, "capabilities");
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
        panic_at(&self.at, "open_queue");
        Ok(Box::new(FaultySeed(self.at.clone())))
    }

    fn resize(&mut self, _: Option<Blocks>) -> Result<Geometry, OpenError> {
        panic_at(&self.at, "resize");
        Ok(self.geometry())
    }
}

impl Drop for Faulty {
    fn drop(&mut self) {
        panic_at(&self.at, "drop");
    }
}

struct FaultySeed(String);

impl QueueSeed for FaultySeed {
    fn open(self: Box<Self>, _: &mut dyn Host, _: OwnerId) -> Result<Box<dyn Queue>, IoError> {
        panic_at(&self.0, "start");
        Ok(Box::new(FaultyQueue {
            at: self.0,
            held: Vec::new(),
        }))
    }
}

impl Queue for FaultyQueue {
    fn submit(&mut self, _: &mut dyn Host, tag: IoTag, op: Op) -> Submitted {
        if self.at == "submit" && !self.held.is_empty() {
            panic!("told to panic in submit");
        }
        match op {
            Op::Read { buf: Some(buf), .. } => self.held.push((tag, buf)),
            _ => return Submitted::Done(Ok(None)),
        }
        Submitted::Pending
    }

    fn handle_file_done(&mut self, _: &mut dyn Host, _: FileDone) {}

    fn poll_completion(&mut self) -> Option<(IoTag, IoResult)> {
        panic_at(&self.at, "poll");
        let (tag, buf) = self.held.pop()?;
        Some((tag, Ok(Some(Payload::Buf(buf)))))
    }

    fn set_geometry(&mut self, _: Geometry) {}

    fn close(&mut self, _: &mut dyn Host) {
        panic_at(&self.at, "close");
    }
}

fn by_host() -> ByHost {
    ByHost::with(&PLUGIN, &["panic"])
}

fn faults(by_host: &ByHost) -> u64 {
    by_host.host.plugins()[0].faults
}

fn read(queue: &mut dyn Queue, host: &mut TestHost, tag: u64) -> Submitted {
    let op = Op::Read {
        range: BlockRange::new(0, 8),
        buf: Some(Buf::from_heap(4096)),
    };
    queue.submit(host, IoTag(tag), op)
}

fn open_queue(by_host: &ByHost, uri: &str, host: &mut TestHost) -> Box<dyn Queue> {
    let mut device = by_host.host.open_device(uri).expect("a device");
    let seed = device.open_queue().expect("a queue");
    seed.open(host, OwnerId(1)).expect("it starts")
}

#[test]
fn a_panic_in_the_entry_refuses_the_plugin() {
    let host = PluginHost::new(None, None);
    let refusal = host.add(&AT_ENTRY).unwrap_err().to_string();
    assert_eq!(
        refusal,
        "plugin panicking-at-entry refused: its entry panicked"
    );
    host.add(&PLUGIN).unwrap();
}

#[test]
fn a_panic_on_the_control_path_is_a_refusal() {
    let by_host = by_host();
    let error = |uri: &str| match by_host.host.open_device(uri) {
        Err(error) => error.to_string(),
        Ok(mut device) => match device.open_queue() {
            Err(error) => error.to_string(),
            Ok(_) => device.resize(None).expect_err("a refusal").to_string(),
        },
    };
    for (uri, who) in [
        ("panic:///open", "panic:///open"),
        ("panic:///open_queue", "open_queue"),
        ("panic:///resize", "resize"),
    ] {
        assert_eq!(
            error(uri),
            format!("{who}: the plugin panicked; its log line says where")
        );
    }
    assert_eq!(
        error("panic:///capabilities"),
        "a device of plugin 'panicking': it does not say how large it is or what it can do"
    );
    // Its drop panics, which is logged and harms nobody.
    drop(by_host.host.open_device("panic:///drop").expect("a device"));
    assert!(by_host.host.open_device("panic:///fine").is_ok());
}

#[test]
fn a_panic_in_submit_ends_everything_in_flight_with_gone() {
    let (by_host, mut host) = (by_host(), TestHost::new());
    let mut queue = open_queue(&by_host, "panic:///submit", &mut host);
    let mut other = open_queue(&by_host, "panic:///other", &mut host);
    assert!(matches!(
        read(&mut *queue, &mut host, 1),
        Submitted::Pending
    ));
    let second = read(&mut *queue, &mut host, 2);
    assert!(
        matches!(second, Submitted::Done(Err(IoError::Gone))),
        "{second:?}"
    );
    let ended = queue.poll_completion();
    assert!(
        matches!(ended, Some((IoTag(1), Err(IoError::Gone)))),
        "{ended:?}"
    );
    assert!(queue.poll_completion().is_none());
    let third = read(&mut *queue, &mut host, 3);
    assert!(
        matches!(third, Submitted::Done(Err(IoError::Gone))),
        "{third:?}"
    );
    queue.close(&mut host);
    drop(queue);
    assert_eq!(faults(&by_host), 1);
    // Another queue of the same plugin does not notice.
    assert!(matches!(
        read(&mut *other, &mut host, 4),
        Submitted::Pending
    ));
    assert!(matches!(
        other.poll_completion(),
        Some((IoTag(4), Ok(Some(_))))
    ));
}

#[test]
fn a_panic_in_any_other_call_of_a_queue_is_the_end_of_it_only() {
    let (by_host, mut host) = (by_host(), TestHost::new());
    let mut queue = open_queue(&by_host, "panic:///poll", &mut host);
    assert!(matches!(
        read(&mut *queue, &mut host, 1),
        Submitted::Pending
    ));
    let ended = queue.poll_completion();
    assert!(
        matches!(ended, Some((IoTag(1), Err(IoError::Gone)))),
        "{ended:?}"
    );
    let mut closing = open_queue(&by_host, "panic:///close", &mut host);
    closing.close(&mut host);
    drop(closing);
    let mut device = by_host
        .host
        .open_device("panic:///start")
        .expect("a device");
    let seed = device.open_queue().expect("a queue");
    let error = seed.open(&mut host, OwnerId(1)).err();
    assert_eq!(error, Some(IoError::Gone));
    assert_eq!(faults(&by_host), 3);
}
