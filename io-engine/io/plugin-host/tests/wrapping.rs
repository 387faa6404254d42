//! A device that stands on another plugin's device, opened by URI through the engine: every call and buffer crosses twice
//! each way, and the whole still conforms.

mod support;

use std::sync::Arc;
use std::time::Instant;

use conformance::{Options, run_device};
use plugin_host::PluginHost;
use sdk::block::{
    Device, DeviceDriver, Extent, Geometry, IoResult, IoTag, Op, OpenError, Queue, Submitted,
};
use sdk::host::{FileDone, Host};
use sdk::plugin::Plugin;
use sdk::services::Services;
use sdk::uri::DeviceUri;
use support::{ByHost, Through};
use units::BlockRange;

const PLUGIN: Plugin = Plugin {
    serves: "wrap",
    devices: Some(drivers),
    ..Plugin::new("wrapping", "1", "tests")
};

fn drivers() -> Vec<Box<dyn DeviceDriver>> {
    vec![Box::new(Driver)]
}

/// `wrap:///?on=URI`
struct Driver;

struct WrappedQueue(Box<dyn Queue>);

impl DeviceDriver for Driver {
    fn schemes(&self) -> &'static [&'static str] {
        &["wrap"]
    }

    fn open(&self, uri: DeviceUri) -> Result<Box<dyn Device>, OpenError> {
        Err(OpenError::Unsuitable {
            what: uri.text().to_owned(),
            reason: "needs an engine that opens what it wraps".to_owned(),
        })
    }

    fn open_with(
        &self,
        mut uri: DeviceUri,
        services: &Arc<dyn Services>,
    ) -> Result<Box<dyn Device>, OpenError> {
        let on = uri.take("on").unwrap_or_default();
        uri.finish()?;
        services.count("opened", 1);
        Ok(Box::new(Through {
            device: services.open_device(&on)?,
            queue: |queue| Box::new(WrappedQueue(queue)),
        }))
    }
}

impl Queue for WrappedQueue {
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
        self.0.poll_timeout()
    }

    fn handle_timeout(&mut self, host: &mut dyn Host) {
        self.0.handle_timeout(host);
    }

    fn extents(&mut self, range: BlockRange) -> Option<Vec<Extent>> {
        self.0.extents(range)
    }

    fn set_geometry(&mut self, geometry: Geometry) {
        self.0.set_geometry(geometry);
    }

    fn close(&mut self, host: &mut dyn Host) {
        self.0.close(host);
    }
}

fn by_host() -> ByHost {
    let by_host = ByHost::with(&device_mem::PLUGIN, &["wrap"]);
    by_host.host.add(&device_uring::PLUGIN).unwrap();
    by_host.host.add(&PLUGIN).unwrap();
    by_host
}

fn encoded(uri: &str) -> String {
    uri.replace('%', "%25")
        .replace('?', "%3f")
        .replace('&', "%26")
        .replace('=', "%3d")
}

#[test]
fn a_wrapped_ram_disk_conforms() {
    let on = encoded("malloc:///m?size_mb=8");
    let make = || {
        let driver: Box<dyn DeviceDriver> = Box::new(by_host());
        (driver, format!("wrap:///?on={on}"))
    };
    let options = Options {
        resize: Some(Box::new(|_, geometry| Some(geometry.blocks))),
        ..Options::default()
    };
    run_device(&make, &options);
}

#[test]
fn a_wrapped_file_conforms_its_file_operations_crossing_twice() {
    let directory = tempfile::tempdir().unwrap();
    let next = std::cell::Cell::new(0);
    let make = || {
        next.set(next.get() + 1);
        let path = directory.path().join(format!("disk{}", next.get()));
        let file = std::fs::File::create(&path).unwrap();
        file.set_len(8 << 20).unwrap();
        let on = encoded(&format!("aio://{}", path.display()));
        let driver: Box<dyn DeviceDriver> = Box::new(by_host());
        (driver, format!("wrap:///?on={on}"))
    };
    run_device(&make, &Options::default());
}

#[test]
fn what_the_inner_device_refuses_reads_the_same_outside_and_counters_are_kept() {
    let by_host = by_host();
    let open = |on: &str| {
        by_host
            .host
            .open_device(&format!("wrap:///?on={}", encoded(on)))
    };
    let error = |on: &str| open(on).err().expect("a refusal").to_string();
    assert_eq!(
        error("malloc:///m?size_mb=8&x=1"),
        "device URI 'malloc:///m': parameter 'x' is unknown; remove it"
    );
    assert_eq!(
        error("nothing:///m"),
        "device URI scheme 'nothing' is unknown; use one of: aio, malloc, null, uring, wrap"
    );
    let held = open("malloc:///m?size_mb=8").expect("a device");
    assert!(error("malloc:///m?size_mb=8").contains("in use by this process"));
    drop(held);
    open("malloc:///m?size_mb=8").expect("closed devices open again");
    let wrapping = by_host.host.plugins().pop().expect("the last plugin");
    assert_eq!(wrapping.counters, [("opened".to_owned(), 5)]);
}

#[test]
fn a_host_without_the_inner_plugin_says_so() {
    let host = PluginHost::new(None, None);
    host.add(&PLUGIN).unwrap();
    let error = host
        .open_device("wrap:///?on=malloc:///m")
        .err()
        .map(|error| error.to_string());
    assert_eq!(
        error.as_deref(),
        Some("device URI scheme 'malloc' is unknown; use one of: wrap")
    );
}
