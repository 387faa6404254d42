//! The client and the load generator against a small target in memory, over real sockets.

mod target;

use io_engine_perf::address::{HostIdentity, Target as Address};
use io_engine_perf::client::{IoData, discover};
use io_engine_perf::limit::{client as limit_client, server as limit_server};
use io_engine_perf::load::{self, LoadError, LoadOptions, Pattern};
use io_engine_perf::{Client, SessionOptions, socket};
use nvme_spec::{Sqe, Status};
use std::net::SocketAddr;
use std::num::NonZeroU32;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use target::{BLOCK_LEN, Target};

const NQN: &str = "nqn.2019-05.io.openebs:test";

fn session() -> SessionOptions {
    SessionOptions::new(HostIdentity::random().expect("random bytes"))
}

fn client(target: &Target, options: SessionOptions) -> Client {
    Client::connect(&Address::at(target.address, NQN), options).expect("connected")
}

fn options(target: &Target) -> LoadOptions {
    LoadOptions {
        target: Address::at(target.address, NQN),
        session: session(),
        nsid: None,
        pattern: Pattern::RandRw,
        mix: 50,
        block_len: 4096,
        depth: 16,
        queues: 1,
        time: Duration::from_millis(300),
        warmup: Duration::ZERO,
        range: None,
        seed: 7,
        verify: true,
        verify_only: false,
        state: None,
        reconnect: None,
        sleep: true,
        rate: None,
        notice: |_| (),
    }
}

#[test]
fn what_the_target_grants_less_of_is_told_in_a_line_each() {
    static TOLD: std::sync::Mutex<Vec<String>> = std::sync::Mutex::new(Vec::new());
    let target = Target::start(1024);
    let report = load::run(LoadOptions {
        queues: 65,
        depth: 1024,
        block_len: 512,
        range: Some(1 << 40),
        time: Duration::from_millis(50),
        notice: |line| TOLD.lock().expect("no panic").push(line.to_owned()),
        ..options(&target)
    })
    .expect("the load runs");
    let bytes = 1024 * BLOCK_LEN;
    assert_eq!(
        *TOLD.lock().expect("no panic"),
        [
            format!(
                "--queues 65: the target grants {}, and so many are used",
                report.queues
            ),
            format!(
                "--depth 1024: queues of the target hold {}, and so many are used",
                report.depth
            ),
            format!(
                "--range 1099511627776: bytes of the namespace are {bytes}, and so many are used"
            ),
        ]
    );
}

#[test]
fn a_paced_load_keeps_to_its_rate_and_counts_from_when_an_io_was_due() {
    let target = Target::start(2048);
    for sleep in [false, true] {
        let rate = 500;
        let report = load::run(LoadOptions {
            rate: NonZeroU32::new(rate),
            verify: false,
            sleep,
            time: Duration::from_secs(1),
            ..options(&target)
        })
        .expect("the load runs");
        assert_eq!(report.errors, 0);
        let done = report.reads + report.writes;
        // Never more than were due; as many as were, but for those of a machine that was busy elsewhere in the end.
        assert!(
            done <= u64::from(rate) + 20 && done > u64::from(rate) / 2,
            "{done} of {rate}, sleep {sleep}"
        );
    }
}

#[test]
fn what_is_written_is_read_with_every_digest_and_length() {
    for bits in 0..4 {
        let target = Target::start(2048);
        let options = SessionOptions {
            header_digest: bits & 1 != 0,
            data_digest: bits & 2 != 0,
            ..session()
        };
        let mut client = client(&target, options);
        // In the capsule, by one R2T, by several.
        for blocks in [1, 16, 17, 256] {
            let data: Vec<u8> = (0..blocks * BLOCK_LEN).map(|i| (i % 251) as u8).collect();
            client.write(1, 3, &data).expect("written");
            let read = client.read(1, 3, blocks as u32).expect("read");
            assert_eq!(read, data);
        }
        client.flush(1).expect("flushed");
    }
}

#[test]
fn a_fused_pair_writes_only_what_compares() {
    let target = Target::start(64);
    let mut client = client(&target, session());
    let (old, new) = (vec![0; BLOCK_LEN], vec![1; BLOCK_LEN]);
    let (first, second) = client.fused_compare_write(1, 5, &old, &new).expect("done");
    assert!(first.status.is_success() && second.status.is_success());
    let (first, second) = client.fused_compare_write(1, 5, &old, &new).expect("done");
    assert_eq!(first.status, Status::COMPARE_FAILURE);
    assert_eq!(second.status, Status::ABORTED_FAILED_FUSED);
    assert_eq!(client.read(1, 5, 1).expect("read"), new);
}

#[test]
fn raw_commands_report_any_status() {
    let target = Target::start(64);
    let mut client = client(&target, session());
    let done = client
        .raw(0, Sqe::new(0x99, 0, 1), IoData::None)
        .expect("a completion");
    assert_eq!(done.cqe.status, Status::INVALID_OPCODE);
    let page = client
        .identify(nvme_spec::identify::cns::CONTROLLER, 0)
        .expect("a page");
    assert_eq!(page[77], 6);
    let error = client
        .write_zeroes(1, 0, 1, false)
        .expect_err("not supported");
    assert_eq!(error.status(), Some(Status::INVALID_OPCODE));
}

#[test]
fn discovery_reads_the_log() {
    let target = Target::start(64);
    let address = Address::at(target.address, nvme_spec::nqn::DISCOVERY_NQN);
    assert!(discover(&address, session()).expect("a log").is_empty());
}

#[test]
fn a_mixed_load_verifies_what_it_wrote() {
    for (block_len, queues) in [(4096, 1), (512, 3), (131_072, 2)] {
        let target = Target::start(8192);
        let mut options = options(&target);
        options.block_len = block_len;
        options.queues = queues;
        let report = load::run(options).expect("a report");
        assert!(report.is_clean(), "{report}");
        assert!(report.reads > 0 && report.writes > 0 && report.verified > 0);
        assert_eq!(report.queues, u32::from(queues));
    }
}

#[test]
fn a_lost_write_is_found() {
    let target = Target::start(1024);
    target.faults.lose_write_every.store(50, Ordering::Relaxed);
    let report = load::run(options(&target)).expect("a report");
    assert!(report.corruptions > 0, "{report}");
    assert!(!report.is_clean() && report.first_corruption.is_some());
}

#[test]
fn errors_are_counted_and_named() {
    let target = Target::start(1024);
    target.faults.fail_reads.store(true, Ordering::Relaxed);
    let mut options = options(&target);
    options.verify = false;
    let report = load::run(options).expect("a report");
    assert!(report.errors > 0 && !report.is_clean());
    assert!(report.first_error.expect("a name").contains("2/81"));
}

#[test]
fn a_lost_connection_is_made_again_and_nothing_is_lost() {
    let target = Target::start(1024);
    let mut options = options(&target);
    options.time = Duration::from_millis(2000);
    options.reconnect = Some(Duration::from_secs(5));
    options.queues = 2;
    let faults = Arc::clone(&target.faults);
    let breaker = std::thread::spawn(move || {
        for _ in 0..2 {
            let seen = faults.writes.load(Ordering::Relaxed);
            while faults.writes.load(Ordering::Relaxed) < seen + 20 {
                std::thread::sleep(Duration::from_millis(1));
            }
            faults.disconnect.store(true, Ordering::Relaxed);
        }
    });
    let report = load::run(options).expect("a report");
    breaker.join().expect("no panic");
    assert!(report.is_clean(), "{report}");
    assert!(report.reconnects >= 1);
}

#[test]
fn without_reconnect_a_lost_connection_ends_the_run() {
    let target = Target::start(1024);
    let mut options = options(&target);
    options.time = Duration::from_secs(20);
    let faults = Arc::clone(&target.faults);
    let breaker = std::thread::spawn(move || {
        std::thread::sleep(Duration::from_millis(200));
        faults.disconnect.store(true, Ordering::Relaxed);
    });
    assert!(matches!(load::run(options), Err(LoadError::Session(_))));
    breaker.join().expect("no panic");
}

#[test]
fn a_later_run_knows_what_was_acknowledged() {
    let target = Target::start(1024);
    let state = scratch("state");
    let mut first = options(&target);
    first.state = Some(state.clone());
    assert!(load::run(first.clone()).expect("a report").is_clean());

    let mut check = first.clone();
    check.verify = false;
    check.verify_only = true;
    let report = load::run(check.clone()).expect("a report");
    assert!(report.is_clean() && report.verified > 0, "{report}");

    // Another write run goes on from the state; then damage is found.
    assert!(load::run(first).expect("a report").is_clean());
    target.disk.lock().expect("the disk")[4096 * 3..4096 * 4].fill(0);
    let report = load::run(check).expect("a report");
    assert_eq!(report.corruptions, 1, "{report}");
    let text = report.first_corruption.expect("a description");
    assert!(
        text.starts_with("block 24: ") && text.ends_with("found zeroes"),
        "{text}"
    );
    std::fs::remove_file(state).expect("a file");
}

#[test]
fn unfit_sizes_are_refused() {
    let target = Target::start(64);
    for (block_len, range) in [(1000, None), (524_288, None), (4096, Some(512))] {
        let mut options = options(&target);
        options.block_len = block_len;
        options.range = range;
        assert!(matches!(load::run(options), Err(LoadError::BlockSizeUnfit)));
    }
    let mut options = options(&target);
    options.nsid = Some(2);
    assert!(matches!(
        load::run(options),
        Err(LoadError::NamespaceUnknown)
    ));
}

#[test]
fn the_bare_pair_moves_every_shape() {
    let any = SocketAddr::from(([127, 0, 0, 1], 0));
    let listener = socket::listen(any, None).expect("a port");
    let address = listener.local_addr().expect("an address");
    let over = Arc::new(AtomicBool::new(false));
    let is_over = Arc::clone(&over);
    let server = std::thread::spawn(move || {
        let options = limit_server::ServerOptions {
            sleep: true,
            ..Default::default()
        };
        limit_server::serve(&listener, &options, || is_over.load(Ordering::Relaxed))
    });
    for (is_write, block_len) in [
        (false, 4096),
        (true, 4096),
        (false, 131_072),
        (true, 131_072),
    ] {
        let report = limit_client::run(&limit_client::ClientOptions {
            address,
            is_write,
            block_len,
            depth: 8,
            time: Duration::from_millis(100),
            warmup: Duration::from_millis(20),
            congestion: None,
            sleep: true,
        })
        .expect("a report");
        assert!(report.iops > 100.0, "{report}");
        assert_eq!(report.writes > 0, is_write);
    }
    over.store(true, Ordering::Relaxed);
    server.join().expect("no panic").expect("no error");
}

fn scratch(name: &str) -> PathBuf {
    let name = format!("io-engine-perf-{name}-{}", std::process::id());
    std::env::temp_dir().join(name)
}
