//! The devices on the real reactor, with both of its drivers: the conformance suite on their queues, and a
//! [`BlockDevice`] over them.

use std::cell::Cell;
use std::collections::VecDeque;
use std::fs::{File, OpenOptions};
use std::path::Path;
use std::time::{Duration, Instant};

use block::{BlockDevice, CountedOp, DeviceConfig, Request, Stamps, Waits};
use conformance::host::Driven;
use conformance::{Options, run_device};
use reactor::{DriverChoice, Event, Reactor, ReactorConfig};
use sdk::block::{Device, DeviceDriver, IoError, IoResult, Submitted, Support};
use sdk::buf::Buf;
use sdk::host::{FileDone, Host, OwnerId};
use sdk::uri::DeviceUri;
use units::BlockRange;

const OWNER: OwnerId = OwnerId(7);

struct OnReactor {
    reactor: Reactor<()>,
    events: Vec<Event<()>>,
    done: VecDeque<FileDone>,
}

impl OnReactor {
    fn new(driver: DriverChoice) -> Self {
        let config = ReactorConfig {
            driver,
            arena_bytes: 16 << 20,
            spin_us_max: 0,
            ..ReactorConfig::default()
        };
        let (reactor, _handle) = Reactor::new(config).expect("a reactor");
        Self {
            reactor,
            events: Vec::new(),
            done: VecDeque::new(),
        }
    }
}

impl Driven for OnReactor {
    fn host(&mut self) -> &mut dyn Host {
        &mut self.reactor
    }

    fn owner(&self) -> OwnerId {
        OWNER
    }

    fn next_file_done(&mut self) -> Option<FileDone> {
        let end = Instant::now() + Duration::from_secs(20);
        while self.done.is_empty() && Instant::now() < end {
            self.reactor.turn(Some(end), &mut self.events);
            for event in self.events.drain(..) {
                if let Event::FileDone { owner: OWNER, done } = event {
                    self.done.push_back(done);
                }
            }
        }
        self.done.pop_front()
    }
}

fn file_driver() -> Box<dyn DeviceDriver> {
    device_uring::drivers().remove(0)
}

fn files_conform(directory: &str, choice: DriverChoice, query: &'static str) {
    let directory = tempfile::tempdir_in(directory).expect("a directory");
    let count = Cell::new(0);
    let make = || {
        count.set(count.get() + 1);
        let path = directory.path().join(format!("disk{}", count.get()));
        let file = File::create_new(&path).expect("a new file");
        file.set_len(8 << 20).expect("room");
        (file_driver(), format!("uring://{}{query}", path.display()))
    };
    let options = Options {
        resize: Some(Box::new(|uri, geometry| {
            let place = uri.split('?').next().expect("a place");
            let path = Path::new(place.trim_start_matches("uring://"));
            let file = OpenOptions::new().write(true).open(path).expect("the file");
            file.set_len(geometry.bytes()).expect("room");
            None
        })),
        host: Box::new(move || Box::new(OnReactor::new(choice))),
        ..Options::default()
    };
    run_device(&make, &options);
}

#[test]
fn files_conform_on_the_best_driver() {
    files_conform(
        env!("CARGO_TARGET_TMPDIR"),
        DriverChoice::Auto,
        "?blk_size=4096",
    );
    files_conform("/dev/shm", DriverChoice::Auto, "");
}

#[test]
fn files_conform_on_epoll() {
    files_conform(env!("CARGO_TARGET_TMPDIR"), DriverChoice::Epoll, "");
    files_conform("/dev/shm", DriverChoice::Epoll, "?blk_size=4096");
}

/// A block device over a device, driven to the end of each request.
struct Disk {
    host: OnReactor,
    block: BlockDevice,
    _device: Box<dyn Device>,
    next_tag: u64,
}

impl Disk {
    fn open(driver: &dyn DeviceDriver, uri: &str, choice: DriverChoice) -> Self {
        let mut device = driver.open(DeviceUri::parse(uri).unwrap()).unwrap();
        let mut host = OnReactor::new(choice);
        let seed = device.open_queue().unwrap();
        let queue = seed.open(host.host(), OWNER).unwrap();
        let config = DeviceConfig {
            name: uri.to_owned(),
            deadline: Duration::from_secs(20),
            slow_io: Duration::from_secs(10),
            inflight_max: 64,
            overdue_max: 8,
        };
        let block = BlockDevice::new(queue, device.geometry(), device.capabilities(), config);
        Self {
            host,
            block,
            _device: device,
            next_tag: 0,
        }
    }

    fn run(&mut self, request: Request) -> IoResult {
        self.next_tag += 1;
        let host = &mut self.host.reactor;
        let stamps = Stamps {
            received: host.now(),
            waits: Waits::default(),
        };
        if let Submitted::Done(result) = self.block.submit(host, self.next_tag, request, stamps) {
            return result;
        }
        loop {
            if let Some((tag, result)) = self.block.poll_completion(&mut self.host.reactor) {
                assert_eq!(tag, self.next_tag);
                return result;
            }
            if self.block.has_waiting() {
                self.block.handle_turn(&mut self.host.reactor);
                continue;
            }
            let done = self.host.next_file_done().expect("a completion");
            self.block.handle_file_done(&mut self.host.reactor, done);
        }
    }

    fn buf(&mut self, byte: u8, len: usize) -> Buf {
        let mut buf = self.host.reactor.alloc(len).expect("a buffer");
        buf.fill(byte);
        buf
    }
}

/// Every request on one range, in an order in which each shows what the one before did.
fn every_request_does_what_it_says(mut disk: Disk) {
    let range = BlockRange::new(8, 16);
    let len = 16 << disk.block.geometry().block_size.shift();
    let buf = disk.buf(1, len);
    let fua = true;
    disk.run(Request::Write { range, buf, fua }).unwrap();
    let buf = disk.buf(1, len);
    disk.run(Request::Compare { range, buf }).unwrap();
    let (compare, write) = (disk.buf(2, len), disk.buf(3, len));
    let swap = Request::CompareAndWrite {
        range,
        compare,
        write,
        fua,
    };
    assert_eq!(disk.run(swap).unwrap_err(), IoError::CompareFailed(0));
    let (compare, write) = (disk.buf(1, len), disk.buf(3, len));
    let swap = Request::CompareAndWrite {
        range,
        compare,
        write,
        fua,
    };
    disk.run(swap).unwrap();
    let mut buf = disk.buf(3, len);
    buf[len - 1] = 4;
    let differs = disk.run(Request::Compare { range, buf }).unwrap_err();
    assert_eq!(differs, IoError::CompareFailed(len as u64 - 1));
    disk.run(Request::Flush).unwrap();
    for deallocate in [false, true] {
        let buf = disk.buf(5, len);
        disk.run(Request::Write { range, buf, fua }).unwrap();
        let zero = Request::WriteZeroes {
            range,
            deallocate,
            fua,
        };
        disk.run(zero).unwrap();
        let buf = disk.buf(0, len);
        disk.run(Request::Compare { range, buf }).unwrap();
    }
    let whole = BlockRange::new(0, disk.block.geometry().blocks.0);
    disk.run(Request::Discard { range: whole }).unwrap();
    let past = BlockRange::new(whole.count.0, 1);
    let error = disk.run(Request::Discard { range: past }).unwrap_err();
    assert_eq!(error, IoError::OutOfRange);
    disk.block.end_turn(Duration::from_micros(1));
    let stats = disk.block.stats();
    let compares = stats.of(CountedOp::Compare);
    assert_eq!((stats.of(CountedOp::Write).ops, compares.ops), (3, 6));
    assert_eq!((compares.errors, stats.stray_completions), (2, 0));
    assert!(disk.block.is_idle());
    disk.block.close(disk.host.host());
}

#[test]
fn every_request_works_on_a_file_with_both_drivers() {
    for choice in [DriverChoice::Auto, DriverChoice::Epoll] {
        for directory in [env!("CARGO_TARGET_TMPDIR"), "/dev/shm"] {
            let directory = tempfile::tempdir_in(directory).unwrap();
            let path = directory.path().join("disk");
            File::create_new(&path).unwrap().set_len(8 << 20).unwrap();
            let uri = format!("aio://{}", path.display());
            every_request_does_what_it_says(Disk::open(&*file_driver(), &uri, choice));
        }
    }
}

#[test]
fn every_request_works_on_a_ram_disk() {
    let drivers = device_mem::drivers();
    for uri in [
        "malloc:///m?size_mb=200",
        "malloc:///n?size_mb=8&blk_size=4096",
    ] {
        let disk = Disk::open(&*drivers[0], uri, DriverChoice::Epoll);
        assert_eq!(disk.block.capabilities().discard, Support::Native);
        every_request_does_what_it_says(disk);
    }
}
