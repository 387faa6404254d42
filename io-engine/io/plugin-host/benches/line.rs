//! What crossing the line costs: 4 KiB lent reads and writes of a `null` disk, as a trait object and through its tables.
//!
//! Prediction: a read crosses twice (submit and its return) and sets up an operation of 72 bytes, an end of 80 and a frame,
//! takes a slot and gives it back, and enters a guard: about 60 stores and loads that hit the cache and two indirect
//! calls, 10 to 20 ns at 3 GHz.
//!
//! `cargo bench -p plugin-host --bench line`. `--json` prints a line of JSON for each operation; `--instructions OPERATION WAY
//! COUNT` does nothing but COUNT operations one WAY (`direct` or `tables`), for counting by callgrind. `cargo xtask bench --only
//! table-call` does both.

use std::hint::black_box;
use std::time::Instant;

use conformance::host::TestHost;
use plugin_host::PluginHost;
use sdk::block::{Device, IoTag, Op, Queue, Submitted};
use sdk::host::OwnerId;
use sdk::uri::DeviceUri;
use units::BlockRange;

const ROUNDS: usize = 31;
const OPERATIONS: u64 = 200_000;
const URI: &str = "null:///n?size_mb=64";

fn queue(mut device: Box<dyn Device>, host: &mut TestHost) -> Box<dyn Queue> {
    let seed = device.open_queue().expect("a queue");
    // The queue does not need its device; the claim would go with it.
    std::mem::forget(device);
    seed.open(host, OwnerId(1)).expect("it starts")
}

fn direct() -> Box<dyn Device> {
    let drivers = device_mem::drivers();
    let driver = drivers
        .iter()
        .find(|driver| driver.schemes().contains(&"null"));
    let uri = DeviceUri::parse(URI).expect("a URI");
    driver.expect("a driver").open(uri).expect("a device")
}

fn through_tables() -> Box<dyn Device> {
    let host = PluginHost::new(None, None);
    host.add(&device_mem::PLUGIN).expect("the plugin is taken");
    host.open_device(URI).expect("a device")
}

/// Nanoseconds a read.
fn reads(queue: &mut dyn Queue, host: &mut TestHost, operations: u64) -> f64 {
    let start = Instant::now();
    for tag in 0..operations {
        let op = Op::Read {
            range: BlockRange::new(tag & 0xfff8, 8),
            buf: None,
        };
        let done = queue.submit(host, IoTag(tag), op);
        assert!(matches!(black_box(done), Submitted::Done(Ok(Some(_)))));
    }
    start.elapsed().as_nanos() as f64 / operations as f64
}

/// Nanoseconds a flush: the line with nothing behind it and no payload.
fn flushes(queue: &mut dyn Queue, host: &mut TestHost, operations: u64) -> f64 {
    let start = Instant::now();
    for tag in 0..operations {
        let done = queue.submit(host, IoTag(tag), Op::Flush);
        assert!(matches!(black_box(done), Submitted::Done(Ok(None))));
    }
    start.elapsed().as_nanos() as f64 / operations as f64
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

/// Times `operations` operations; nanoseconds for one.
type Timed = fn(&mut dyn Queue, &mut TestHost, u64) -> f64;

const TIMED: [(&str, Timed); 2] = [("lent read", reads), ("flush", flushes)];

/// Does what is to be counted.
fn count(operation: &str, way: &str, count: &str) {
    let mut host = TestHost::new();
    let device = match way {
        "direct" => direct(),
        "tables" => through_tables(),
        _ => panic!("{way} is neither direct nor tables"),
    };
    let mut queue = queue(device, &mut host);
    let known = TIMED.iter().find(|(name, _)| *name == operation);
    let (_, run) = known.expect("an operation of this benchmark");
    run(
        &mut *queue,
        &mut host,
        count.parse().expect("a number of operations"),
    );
}

#[expect(clippy::print_stdout, reason = "a benchmark prints its figures")]
fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if let Some(at) = arguments.iter().position(|word| word == "--instructions") {
        let [operation, way, operations] = &arguments[at + 1..at + 4] else {
            panic!("--instructions OPERATION WAY COUNT");
        };
        count(operation, way, operations);
        return;
    }
    let is_json = arguments.iter().any(|word| word == "--json");
    let mut host = TestHost::new();
    let mut direct = queue(direct(), &mut host);
    let mut tables = queue(through_tables(), &mut host);
    for (what, run) in TIMED {
        let (mut without, mut with) = (Vec::new(), Vec::new());
        for _ in 0..ROUNDS {
            without.push(run(&mut *direct, &mut host, OPERATIONS));
            with.push(run(&mut *tables, &mut host, OPERATIONS));
        }
        let (without, with) = (median(without), median(with));
        match is_json {
            true => println!(
                "{{\"operation\":\"{what}\",\"direct_ns\":{without:.2},\"tables_ns\":{with:.2}}}"
            ),
            false => println!(
                "{what}: {without:.1} ns as a trait object, {with:.1} ns through tables: {:.1} ns for the line",
                with - without
            ),
        }
    }
}
