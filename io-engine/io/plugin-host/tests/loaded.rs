//! Plugins loaded from files: one in C that keeps its promises conforms, those that break them are caught.

mod support;

use std::path::Path;

use conformance::host::TestHost;
use conformance::{Options, run_device};
use plugin_host::PluginHost;
use sdk::block::{DeviceDriver, IoError, IoResult, IoTag, Op, Queue, Submitted};
use sdk::buf::Buf;
use sdk::host::OwnerId;
use support::{ByHost, bad, example};
use units::BlockRange;

fn by_file(path: &Path, schemes: &'static [&'static str]) -> ByHost {
    let host = PluginHost::new(None, None);
    host.load(path)
        .unwrap_or_else(|refusal| panic!("{refusal}"));
    ByHost { host, schemes }
}

#[test]
fn the_example_in_c_conforms() {
    let directory = tempfile::tempdir().unwrap();
    let path = example(directory.path());
    let make = || {
        let driver: Box<dyn DeviceDriver> = Box::new(by_file(&path, &["cram"]));
        (driver, "cram:///m?size_mb=8".to_owned())
    };
    let options = Options {
        bad_uris: [
            "cram:///",
            "cram:///m",
            "cram:///m?size_mb=0",
            "cram:///m?size_mb=x",
            "cram:///m?size_mb=65537",
            "cram://host/m?size_mb=8",
        ]
        .map(str::to_owned)
        .to_vec(),
        ..Options::default()
    };
    run_device(&make, &options);
}

/// A queue of the fixture and its host.
struct Rig {
    by_host: ByHost,
    queue: Box<dyn Queue>,
    host: TestHost,
}

impl Rig {
    fn new(defines: &[&str]) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let by_host = by_file(&bad(directory.path(), defines), &["bad"]);
        let mut device = by_host.host.open_device("bad:///x").expect("a device");
        let mut host = TestHost::new();
        let seed = device.open_queue().expect("a queue");
        let queue = seed.open(&mut host, OwnerId(1)).expect("it starts");
        Self {
            by_host,
            queue,
            host,
        }
    }

    fn read(&mut self, tag: u64) -> Submitted {
        let op = Op::Read {
            range: BlockRange::new(0, 8),
            buf: Some(Buf::from_heap(4096)),
        };
        self.queue.submit(&mut self.host, IoTag(tag), op)
    }

    fn ends(&mut self) -> Vec<(u64, IoResult)> {
        std::iter::from_fn(|| self.queue.poll_completion())
            .map(|(tag, result)| (tag.0, result))
            .collect()
    }

    fn faults(&self) -> u64 {
        self.by_host.host.plugins()[0].faults
    }
}

fn is_fine(result: &IoResult) -> bool {
    matches!(result, Ok(Some(payload)) if payload.len() == 4096)
}

#[test]
fn an_end_that_is_polled_arrives() {
    let mut rig = Rig::new(&[]);
    assert!(matches!(rig.read(7), Submitted::Pending));
    let ends = rig.ends();
    assert!(ends.len() == 1 && ends[0].0 == 7 && is_fine(&ends[0].1));
    assert_eq!(rig.faults(), 0);
}

#[test]
fn an_operation_completed_twice_ends_once() {
    let mut rig = Rig::new(&["TWICE"]);
    assert!(matches!(rig.read(7), Submitted::Pending));
    let ends = rig.ends();
    assert!(ends.len() == 1 && is_fine(&ends[0].1), "{ends:?}");
    assert_eq!(rig.faults(), 1);

    let mut rig = Rig::new(&["TWICE_MIXED"]);
    assert!(matches!(rig.read(8), Submitted::Pending));
    let ends = rig.ends();
    assert!(ends.len() == 1 && is_fine(&ends[0].1), "{ends:?}");
    assert_eq!(rig.faults(), 1);
}

#[test]
fn an_operation_that_never_began_is_not_completed() {
    let mut rig = Rig::new(&["UNKNOWN"]);
    assert!(matches!(rig.read(7), Submitted::Pending));
    let ends = rig.ends();
    assert!(ends.len() == 1 && is_fine(&ends[0].1), "{ends:?}");
    assert_eq!(rig.faults(), 1);
}

#[test]
fn a_read_of_another_length_brings_no_data() {
    for defines in [&["SHORT_READ"][..], &["NO_BUFFER"], &["BAD_STATUS"]] {
        let mut rig = Rig::new(defines);
        match rig.read(7) {
            Submitted::Done(Err(IoError::Medium(range))) => {
                assert_eq!(range, BlockRange::new(0, 8));
            }
            other => panic!("{defines:?}: {other:?}"),
        }
        assert_eq!(rig.faults(), 1, "{defines:?}");
    }
}

#[test]
fn more_ends_than_there_is_room_for_are_not_believed() {
    let mut rig = Rig::new(&["TOO_MANY_ENDS"]);
    assert!(matches!(rig.read(7), Submitted::Pending));
    let ends = rig.ends();
    assert!(ends.len() == 1 && ends[0].0 == 7 && is_fine(&ends[0].1));
    assert!(rig.faults() > 0);
}

#[test]
fn a_queue_that_panicked_answers_gone_and_is_not_entered_again() {
    let mut rig = Rig::new(&["PANICS"]);
    assert!(matches!(rig.read(7), Submitted::Done(Err(IoError::Gone))));
    assert!(matches!(rig.read(8), Submitted::Done(Err(IoError::Gone))));
    assert!(rig.ends().is_empty());
    assert_eq!(rig.faults(), 1);
}

#[test]
fn a_device_that_is_none_is_refused_as_it_opens() {
    for (define, reason) in [
        ("BAD_BLOCK_SIZE", "its block size is neither 512 nor 4096"),
        ("NO_QUEUES", "its table lacks `queue_open`"),
    ] {
        let directory = tempfile::tempdir().unwrap();
        let by_host = by_file(&bad(directory.path(), &[define]), &["bad"]);
        let error = by_host
            .host
            .open_device("bad:///x")
            .err()
            .expect("a refusal");
        assert_eq!(
            error.to_string(),
            format!("a device of plugin 'bad': {reason}")
        );
    }
}
