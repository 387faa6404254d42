//! The daemon as an operator meets it: started, used over its API and NVMe/TCP, killed, stopped, started wrongly.

mod edges;
mod plugins;
mod stopping;
mod support;
mod unit;
mod wrong;

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use io_engine_perf::Client;
use io_engine_perf::client::IoData;
use io_engine_perf::verify::Map;
use nvme_initiator::command;
use nvme_spec::reservation::{Keys, ReservationCommand};
use support::{
    Daemon, HOST_A, HOST_B, HOST_C, Setup, directory, directory_of_nobody, disk, give_away,
    pattern, until,
};

/// NVMe Base 2.0c §7.3: action 0 registers; CPTPL 3 asks for persistence through power loss.
const REGISTER_PERSISTENT: ReservationCommand = ReservationCommand {
    action: 0,
    ignore_existing_key: false,
    rtype: 0,
    cptpl: 3,
};
/// NVMe Base 2.0c §7.2: action 0 acquires; type 1 is Write Exclusive.
const ACQUIRE_WRITE_EXCLUSIVE: ReservationCommand = ReservationCommand {
    action: 0,
    ignore_existing_key: false,
    rtype: 1,
    cptpl: 0,
};

#[test]
fn data_identity_allow_list_and_reservations_survive_kill_9() {
    let dir = directory();
    let file = disk(dir.path(), "disk", 16);
    let setup = Setup::new(&dir.path().join("state"));
    let daemon = setup.start();
    let nqn = daemon.serve(&format!("aio://{}", file.display()), &[HOST_A, HOST_B]);
    let mut a = daemon.connect(&nqn, HOST_A);
    a.write(1, 8, &pattern(1, 4096)).unwrap();
    a.flush(1).unwrap();
    reserve(&mut a);
    let (uuid, subsystem) = (daemon.bdevs()[0].uuid.clone(), daemon.subsystem(&nqn));
    let on_the_wire = identity(&mut a);
    daemon.kill();

    let daemon = setup.start();
    assert_eq!(daemon.until_online(&nqn), subsystem_at(&daemon, subsystem));
    assert_eq!(daemon.bdevs()[0].uuid, uuid);
    let mut b = daemon.connect(&nqn, HOST_B);
    assert!(identity(&mut b) == on_the_wire);
    assert!(daemon.try_connect(&nqn, HOST_C).is_err(), "not on the list");
    assert!(b.read(1, 8, 8).unwrap() == pattern(1, 4096));
    // NVMe Base 2.0c §8.19: registrations and the reservation survive, so that B may read and not write.
    let status = b.write(1, 8, &pattern(2, 4096)).unwrap_err().status();
    let status = status.map(|status| (status.sct(), status.sc()));
    assert_eq!(status, Some((0, 0x83)), "Reservation Conflict");
    let mut a = daemon.connect(&nqn, HOST_A);
    a.write(1, 8, &pattern(3, 4096)).unwrap();
    assert!(b.read(1, 8, 8).unwrap() == pattern(3, 4096));
}

#[test]
fn acknowledged_writes_survive_kill_9_under_load() {
    let dir = directory();
    let file = disk(dir.path(), "disk", 16);
    let setup = Setup::new(&dir.path().join("state"));
    let mut daemon = setup.start();
    let nqn = daemon.serve(&format!("aio://{}", file.display()), &[]);
    let map = Arc::new(Mutex::new(Map::new(42, 512, UNIT_BLOCKS, UNITS)));
    for round in 0..5 {
        let writers = Writers::start(&daemon, &nqn, &map, round);
        until("a flushed batch from every host", || writers.is_warm());
        daemon.kill();
        writers.join();
        daemon = setup.start();
        daemon.until_online(&nqn);
        let mut host = daemon.connect(&nqn, HOST_A);
        let mut map = map.lock().unwrap();
        let written = (0..UNITS).filter(|unit| map.is_written(*unit)).count();
        assert!(written > 0, "nothing to check");
        for unit in 0..UNITS {
            let data = host.read(1, unit * UNIT_BLOCKS, UNIT_BLOCKS as u32);
            let judged = map.end_read(unit, &data.unwrap());
            judged.unwrap_or_else(|corruption| panic!("round {round}: {corruption}"));
        }
    }
}

#[test]
fn a_second_engine_is_refused_and_the_holder_named() {
    let dir = directory();
    let file = disk(dir.path(), "disk", 16);
    let uri = format!("aio://{}", file.display());
    let (state, other) = (dir.path().join("state"), dir.path().join("other"));
    let first = Setup::new(&state).start();
    first.create(&uri).unwrap();
    let holder = format!("pid {}", first.pid());

    let (code, stderr) = Setup::new(&state)
        .with(&["--grpc", "127.0.0.1:0", "--nvmf", "127.0.0.1:0"])
        .refused();
    assert_eq!(code, Some(1), "{stderr}");
    for part in [state.to_str().unwrap(), &holder, "--state-dir"] {
        assert!(stderr.contains(part), "no '{part}' in {stderr}");
    }
    assert_eq!(stderr.lines().count(), 1, "{stderr}");

    let second = Setup::new(&other).start();
    let status = second.create(&uri).unwrap_err();
    assert_eq!(status.code(), tonic::Code::InvalidArgument);
    for part in [file.to_str().unwrap(), &holder] {
        assert!(status.message().contains(part), "no '{part}' in {status}");
    }
    assert!(second.bdevs().is_empty());

    first.kill();
    until("the file is free once its holder is gone", || {
        second.create(&uri).is_ok()
    });
}

#[test]
fn sigterm_ends_an_engine_with_hosts_in_order_and_its_state_comes_back() {
    let dir = directory();
    let file = disk(dir.path(), "disk", 16);
    let setup = Setup::new(&dir.path().join("state"));
    let daemon = setup.start();
    let nqn = daemon.serve(&format!("uring://{}", file.display()), &[]);
    daemon.serve("malloc:///ram?size_mb=8", &[HOST_B]);
    let mut host = daemon.connect(&nqn, HOST_A);
    host.write(1, 0, &pattern(1, 4096)).unwrap();
    let (bdevs, subsystem) = (daemon.bdevs(), daemon.subsystem(&nqn));
    assert_eq!(daemon.stop(), Some(0));
    assert!(host.read(1, 0, 8).is_err(), "the host was told");

    let daemon = setup.start();
    assert_eq!(daemon.until_online(&nqn), subsystem_at(&daemon, subsystem));
    let names = |bdevs: &[support::Bdev]| -> Vec<_> {
        let row = |bdev: &support::Bdev| (bdev.name.clone(), bdev.uuid.clone(), bdev.claimed);
        bdevs.iter().map(row).collect()
    };
    until("both devices are shared again", || {
        names(&daemon.bdevs()) == names(&bdevs)
    });
    let mut host = daemon.connect(&nqn, HOST_A);
    assert!(host.read(1, 0, 8).unwrap() == pattern(1, 4096));
    assert_eq!(daemon.stop(), Some(0));
}

#[test]
fn a_user_without_rights_serves_files_and_ram_on_either_driver() {
    let dir = directory_of_nobody();
    for driver in ["auto", "epoll"] {
        let file = disk(dir.path(), driver, 16);
        give_away(&file);
        let setup = Setup::new(&dir.path().join(format!("state-{driver}")));
        let daemon = setup.unprivileged(dir.path()).driver(driver).start();
        let file = format!("aio://{}", file.display());
        for uri in [file.as_str(), "malloc:///ram?size_mb=8"] {
            let nqn = daemon.serve(uri, &[]);
            let mut host = daemon.connect(&nqn, HOST_A);
            host.write(1, 0, &pattern(1, 65_536)).unwrap();
            host.flush(1).unwrap();
            assert!(host.read(1, 0, 128).unwrap() == pattern(1, 65_536), "{uri}");
        }
        assert_eq!(daemon.stop(), Some(0));
    }
}

#[test]
fn metrics_count_what_a_host_did() {
    let dir = directory();
    let daemon = Setup::new(&dir.path().join("state"))
        .with(&["--metrics", "127.0.0.1:0"])
        .start();
    let metrics = daemon.metrics().expect("the ready line names the port");
    let nqn = daemon.serve("malloc:///ram?size_mb=8", &[]);
    let mut host = daemon.connect(&nqn, HOST_A);
    for block in 0..3 {
        host.write(1, block * 8, &pattern(block, 4096)).unwrap();
    }
    host.read(1, 0, 8).unwrap();
    let answer = get(metrics, "/metrics");
    let (head, page) = answer.split_once("\r\n\r\n").expect("a head and a body");
    assert!(head.starts_with("HTTP/1.1 200 "), "{head}");
    let head = head.to_ascii_lowercase();
    assert!(
        head.contains("content-type: text/plain; version=0.0.4"),
        "{head}"
    );
    for line in [
        "# TYPE io_engine_device_operations_total counter",
        "io_engine_device_online{device=\"ram\"} 1",
        "io_engine_device_size_bytes{device=\"ram\"} 8388608",
        "io_engine_device_operations_total{device=\"ram\",operation=\"write\"} 3",
        "io_engine_device_bytes_total{device=\"ram\",operation=\"write\"} 12288",
        "io_engine_device_errors_total{device=\"ram\",operation=\"write\"} 0",
        "io_engine_device_operations_total{device=\"ram\",operation=\"read\"} 1",
        "io_engine_device_latency_seconds_bucket{device=\"ram\",operation=\"write\",le=\"+Inf\"} 3",
        &format!("io_engine_subsystem_controllers{{subsystem=\"{nqn}\"}} 1"),
    ] {
        assert!(
            page.lines().any(|found| found == line),
            "{line}\nin\n{page}"
        );
    }
    assert!(get(metrics, "/").starts_with("HTTP/1.1 404 "));
}

#[test]
fn a_file_deleted_while_it_is_served_is_shown_with_a_way_back() {
    let dir = directory();
    let file = disk(dir.path(), "disk", 8);
    let daemon = Setup::new(&dir.path().join("state")).start();
    let nqn = daemon.serve(&format!("aio://{}", file.display()), &[]);
    assert_eq!(daemon.devices()[0].reason, "");
    std::fs::remove_file(&file).unwrap();
    let reason = daemon.devices().remove(0).reason;
    assert!(reason.contains("was deleted"), "{reason}");
    daemon.until_logged("was deleted");
    let mut host = daemon.connect(&nqn, HOST_A);
    host.write(1, 0, &pattern(1, 4096)).unwrap();
    host.flush(1).unwrap();
    let open = reason.split(' ').find(|word| word.starts_with("/proc/"));
    std::fs::copy(open.unwrap(), &file).unwrap();
    assert!(std::fs::read(&file).unwrap()[..4096] == pattern(1, 4096));
}

#[test]
fn a_file_that_refuses_o_direct_is_served_and_says_so() {
    let shm = tempfile::tempdir_in("/dev/shm").unwrap();
    let file = disk(shm.path(), "disk", 8);
    let dir = directory();
    let daemon = Setup::new(&dir.path().join("state")).start();
    let nqn = daemon.serve(&format!("aio://{}", file.display()), &[]);
    let capabilities = &daemon.devices()[0].capabilities;
    assert!(capabilities.contains("O_DIRECT refused"), "{capabilities}");
    daemon.until_logged("served without O_DIRECT");
    let mut host = daemon.connect(&nqn, HOST_A);
    host.write(1, 16, &pattern(1, 4096)).unwrap();
    host.flush(1).unwrap();
    assert!(host.read(1, 16, 8).unwrap() == pattern(1, 4096));
    assert!(std::fs::read(&file).unwrap()[8192..12_288] == pattern(1, 4096));
}

#[test]
fn shares_reservations_and_refusals_are_as_the_list_of_differences_says() {
    let dir = directory();
    let daemon = Setup::new(&dir.path().join("state")).start();
    let odd = dir.path().join("odd");
    std::fs::write(&odd, [0; 1000]).unwrap();
    let status = daemon.create(&format!("aio://{}", odd.display()));
    let status = status.unwrap_err();
    assert!(status.message().contains("truncate -s 1024"), "{status}");

    let (first, second) = ("malloc:///one?size_mb=8", "malloc:///two?size_mb=8");
    let nqn = daemon.serve(first, &[HOST_A]);
    daemon.share("one", &[HOST_A, HOST_B]);
    daemon.share("one", &[]);
    assert_eq!(daemon.subsystem(&nqn).allowed_hosts, [HOST_A, HOST_B]);

    let keep_alive = |seconds| {
        let timeout = Duration::from_secs(seconds);
        daemon.try_connect_for(&nqn, HOST_A, timeout).map(drop)
    };
    keep_alive(120).unwrap();
    assert!(keep_alive(121).is_err(), "beyond nvmf.keep_alive_s_max");

    reserve(&mut daemon.connect(&nqn, HOST_A));
    daemon.unshare("one");
    daemon.share("one", &[]);
    let mut b = daemon.connect(&nqn, HOST_B);
    let status = b.write(1, 0, &pattern(1, 4096)).unwrap_err().status();
    let status = status.map(|status| (status.sct(), status.sc()));
    assert_eq!(status, Some((0, 0x83)), "Reservation Conflict");

    daemon.create(second).unwrap();
    daemon.add_namespace(&nqn, "two");
    for uri in [first, second] {
        let status = daemon.destroy(uri).unwrap_err();
        assert_eq!(status.code(), tonic::Code::FailedPrecondition, "{uri}");
    }
    let nqn = daemon.serve("malloc:///three?size_mb=8", &[]);
    let mut host = daemon.connect(&nqn, HOST_A);
    daemon.destroy("malloc:///three").unwrap();
    assert!(host.read(1, 0, 8).is_err(), "the share ended");
}

#[test]
fn a_device_whose_file_is_gone_stays_listed_and_comes_back_with_its_identity() {
    let dir = directory();
    let file = disk(dir.path(), "disk", 8);
    let uri = format!("aio://{}", file.display());
    let setup = Setup::new(&dir.path().join("state"));
    let daemon = setup.start();
    let nqn = daemon.serve(&uri, &[]);
    let (bdev, subsystem) = (daemon.bdevs().remove(0), daemon.subsystem(&nqn));
    daemon.kill();
    let away = dir.path().join("away");
    std::fs::rename(&file, &away).unwrap();

    let daemon = setup.start();
    let listed = || daemon.bdevs().remove(0);
    until("the device is found missing", || {
        listed().claimed_by.contains("not found")
    });
    assert_eq!((listed().uuid, listed().num_blocks), (bdev.uuid, 0));
    assert!(!daemon.subsystem(&nqn).online);
    std::fs::rename(&away, &file).unwrap();
    daemon.create(&uri).unwrap();
    assert_eq!(daemon.until_online(&nqn), subsystem_at(&daemon, subsystem));
    daemon.connect(&nqn, HOST_A).read(1, 0, 8).unwrap();
}

/// Host A registers a key that survives power loss and takes the namespace for writing.
fn reserve(host: &mut Client) {
    let keys = |current, other| Keys { current, other };
    host.reservation_register(1, REGISTER_PERSISTENT, keys(0, 0xa))
        .unwrap();
    host.reservation_acquire(1, ACQUIRE_WRITE_EXCLUSIVE, keys(0xa, 0))
        .unwrap();
}

/// Serial number of the controller, and the namespace's list of identifiers.
///
/// NVMe Base 2.0c §5.17.2.1 (bytes 04 to 23: serial number) and §5.17.2.3 (CNS 03h).
fn identity(host: &mut Client) -> (Vec<u8>, Vec<u8>) {
    let controller = host.identify(1, 0).unwrap();
    (controller[4..24].to_vec(), host.identify(3, 1).unwrap())
}

/// What an earlier run said about a subsystem, at the addresses of this one.
fn subsystem_at(daemon: &Daemon, before: support::Subsystem) -> support::Subsystem {
    let uris = daemon.subsystem(&before.nqn).uris;
    support::Subsystem { uris, ..before }
}

/// Blocks a write moves.
const UNIT_BLOCKS: u64 = 8;
/// Units written to.
const UNITS: u64 = 512;
/// Writes a host has in flight.
const DEPTH: usize = 16;
/// Batches of so many writes between two flushes of a host.
const FLUSH_EVERY: u64 = 4;

/// Three hosts that write at random until they are cut off, and remember what was acknowledged.
struct Writers {
    flushed: Vec<Arc<AtomicU64>>,
    threads: Vec<JoinHandle<()>>,
}

impl Writers {
    fn start(daemon: &Daemon, nqn: &str, map: &Arc<Mutex<Map>>, round: u64) -> Self {
        let (mut flushed, mut threads) = (Vec::new(), Vec::new());
        for (index, host) in [HOST_A, HOST_B, HOST_C].into_iter().enumerate() {
            let count = Arc::new(AtomicU64::new(0));
            let client = daemon.connect(nqn, host);
            let (map, counted) = (Arc::clone(map), Arc::clone(&count));
            let seed = round * 3 + index as u64;
            threads.push(std::thread::spawn(move || {
                write_until_cut_off(client, &map, &counted, seed);
            }));
            flushed.push(count);
        }
        Self { flushed, threads }
    }

    /// Every host has had a few batches acknowledged and flushed.
    fn is_warm(&self) -> bool {
        let warm = |count: &Arc<AtomicU64>| count.load(Ordering::Relaxed) >= 3;
        self.flushed.iter().all(warm)
    }

    fn join(self) {
        for thread in self.threads {
            thread.join().expect("a host");
        }
    }
}

fn write_until_cut_off(mut client: Client, map: &Mutex<Map>, flushed: &AtomicU64, seed: u64) {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut buffers = vec![vec![0; (UNIT_BLOCKS * 512) as usize]; DEPTH];
    for batch in 1.. {
        let mut begun = Vec::new();
        for buffer in &mut buffers {
            let mut map = map.lock().expect("no panic");
            let unit = loop {
                state ^= state << 13;
                state ^= state >> 7;
                state ^= state << 17;
                if !map.is_busy(state % UNITS) {
                    break state % UNITS;
                }
            };
            begun.push((unit, map.begin_write(unit, buffer)));
        }
        let mut commands = Vec::new();
        for ((unit, _), buffer) in begun.iter().zip(&buffers) {
            let sqe = command::write(0, 1, unit * UNIT_BLOCKS, UNIT_BLOCKS as u32, false);
            commands.push((sqe, IoData::Out(buffer)));
        }
        let written = client.raw_all(0, &commands);
        let mut map = map.lock().expect("no panic");
        let Ok(written) = written else {
            // The connection is lost; which of the writes were done is open.
            return begun.iter().for_each(|(unit, _)| map.abandon(*unit));
        };
        for ((unit, generation), done) in begun.into_iter().zip(written) {
            assert!(done.cqe.status.is_success(), "{}", done.cqe.status);
            map.write_acked(unit, generation);
        }
        drop(map);
        if batch % FLUSH_EVERY == 0 {
            match client.flush(1) {
                Ok(()) => _ = flushed.fetch_add(1, Ordering::Relaxed),
                Err(_) => return,
            }
        }
    }
}

/// An HTTP answer, head and body.
fn get(address: SocketAddr, path: &str) -> String {
    let mut stream = TcpStream::connect(address).unwrap();
    write!(
        stream,
        "GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n"
    )
    .unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer
}
