//! Peers that misbehave, beside one that does not.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use crate::support::{Rig, config, pattern};

/// A host that keeps writing and checking.
pub(crate) struct GoodHost {
    stop: Arc<AtomicBool>,
    rounds: Arc<AtomicU64>,
    thread: std::thread::JoinHandle<()>,
}

impl GoodHost {
    pub(crate) fn start(rig: &Rig, nqn: &str) -> Self {
        let mut client = rig.connect(nqn);
        let (stop, rounds) = (
            Arc::new(AtomicBool::new(false)),
            Arc::new(AtomicU64::new(0)),
        );
        let (stopped, counted) = (Arc::clone(&stop), Arc::clone(&rounds));
        let thread = std::thread::spawn(move || {
            while !stopped.load(Ordering::Relaxed) {
                let round = counted.load(Ordering::Relaxed);
                let data = pattern(round, 4096);
                client
                    .write(1, round % 1000 * 8, &data)
                    .expect("a good host's write");
                assert!(
                    client
                        .read(1, round % 1000 * 8, 8)
                        .expect("a good host's read")
                        == data
                );
                counted.store(round + 1, Ordering::Relaxed);
            }
        });
        Self {
            stop,
            rounds,
            thread,
        }
    }

    /// Waits until it has done 20 rounds more, then ends it; it must not have seen an error.
    pub(crate) fn goes_on(self, rig: &Rig) {
        let before = self.rounds.load(Ordering::Relaxed);
        rig.until("the good host goes on", |_| {
            self.thread.is_finished() || self.rounds.load(Ordering::Relaxed) >= before + 20
        });
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().expect("the good host saw no error");
    }
}

pub(crate) fn icreq() -> Vec<u8> {
    let mut pdu = vec![0u8; 128];
    pdu[0] = 0x00;
    pdu[2] = 128;
    pdu[4..8].copy_from_slice(&128u32.to_le_bytes());
    pdu
}

fn send(rig: &Rig, bytes: &[u8]) -> TcpStream {
    let mut stream = TcpStream::connect(rig.address()).expect("the port is open");
    stream
        .set_read_timeout(Some(Duration::from_secs(15)))
        .expect("a timeout");
    // The engine may close before everything is sent.
    let _ = stream.write_all(bytes);
    stream
}

/// Whether the engine ends the connection.
fn is_dropped(mut stream: TcpStream) -> bool {
    let mut sink = [0; 4096];
    loop {
        match stream.read(&mut sink) {
            Ok(0) => return true,
            Ok(_) => {}
            Err(error) => return error.kind() == std::io::ErrorKind::ConnectionReset,
        }
    }
}

#[test]
fn garbage_is_dropped_with_a_counted_reason_and_a_good_host_goes_on() {
    let mut rig = Rig::new();
    let nqn = rig.serve("d", &["malloc:///m?size_mb=16"]);
    let good = GoodHost::start(&rig, &nqn);

    assert!(is_dropped(send(&rig, &pattern(99, 5000))));
    rig.until("garbage is counted", |rig| {
        rig.drops("malformed_header") + rig.drops("unexpected_pdu") >= 1
    });

    // TCP Transport 1.0c §3.6.2.2: ICReq comes first.
    let mut capsule = vec![0u8; 72];
    capsule[..8].copy_from_slice(&[0x04, 0, 72, 0, 72, 0, 0, 0]);
    assert!(is_dropped(send(&rig, &capsule)));
    rig.until("a capsule before ICReq is counted", |rig| {
        rig.drops("unexpected_pdu") >= 1
    });

    // A length far beyond what any PDU may have.
    let mut oversized = [icreq(), vec![0u8; 72]].concat();
    oversized[128..136].copy_from_slice(&[0x04, 0, 72, 72, 0xff, 0xff, 0xff, 0x7f]);
    assert!(is_dropped(send(&rig, &oversized)));
    rig.until("an oversized PDU is counted", |rig| {
        rig.drops("capsule_too_large") + rig.drops("malformed_header") >= 2
    });

    // Data nobody asked for.
    let mut unsolicited = [icreq(), vec![0u8; 24 + 512]].concat();
    unsolicited[128..136].copy_from_slice(&[0x06, 0x04, 24, 24, 0x18, 0x02, 0, 0]);
    unsolicited[144..148].copy_from_slice(&512u32.to_le_bytes());
    assert!(is_dropped(send(&rig, &unsolicited)));
    rig.until("unsolicited data is counted", |rig| {
        rig.drops("unknown_transfer_tag") >= 1
    });

    // A command before Connect.
    let mut early = [icreq(), capsule.clone()].concat();
    early[136] = 0x02;
    assert!(is_dropped(send(&rig, &early)));

    good.goes_on(&rig);
}

#[test]
fn connections_cut_anywhere_leave_nothing_behind() {
    let mut rig = Rig::new();
    let nqn = rig.serve("d", &["malloc:///m?size_mb=16"]);
    let good = GoodHost::start(&rig, &nqn);
    let mut connect = vec![0u8; 72 + 1024];
    connect[..8].copy_from_slice(&[0x04, 0, 72, 72, 0x48, 0x04, 0, 0]);
    connect[8] = 0x7f;
    connect[12] = 0x01;
    let bytes = [icreq(), connect].concat();
    for cut in (0..bytes.len()).step_by(13) {
        let stream = send(&rig, &bytes[..cut]);
        if cut % 2 == 0 {
            // Without a word, as a host that loses power but whose kernel still resets.
            drop(stream);
        } else {
            let _ = stream.shutdown(Shutdown::Both);
        }
    }
    rig.until("only the good host's connections are left", |rig| {
        rig.connections() <= 2
    });
    good.goes_on(&rig);
}

#[test]
fn a_connect_that_never_finishes_is_given_up() {
    let mut plane = config();
    plane.tcp.handshake_timeout = Duration::from_millis(300);
    let mut rig = Rig::with(plane, Arc::default());
    let nqn = rig.serve("d", &["malloc:///m?size_mb=16"]);
    let good = GoodHost::start(&rig, &nqn);
    let silent = send(&rig, &[]);
    let half = send(&rig, &icreq());
    assert!(is_dropped(silent));
    assert!(is_dropped(half));
    assert!(rig.drops("handshake_timeout") >= 2);
    good.goes_on(&rig);
}

/// Sockets that are opened and left idle.
const IDLE: usize = 3000;
/// Descriptors of the tests that run beside this one.
const DESCRIPTORS_BESIDE: u64 = 2000;

/// Raises the soft limit of descriptors to what is needed. `false`, and a line that says why, where the hard one is below.
fn may_open(needed: u64) -> bool {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let limit = getrlimit(Resource::Nofile);
    if limit.current.is_none_or(|current| current >= needed) {
        return true;
    }
    let raised = Rlimit {
        current: Some(needed),
        maximum: limit.maximum,
    };
    if setrlimit(Resource::Nofile, raised).is_ok() {
        return true;
    }
    let test = std::thread::current().name().unwrap_or_default().to_owned();
    let most = limit.maximum.unwrap_or(u64::MAX);
    // Past the test harness, which keeps what a passing test prints.
    let line =
        format!("\nskipped: {test}: {needed} open files are needed, RLIMIT_NOFILE allows {most}\n");
    std::io::stdout()
        .write_all(line.as_bytes())
        .expect("a line");
    false
}

#[test]
fn thousands_of_idle_sockets_and_one_too_many_do_not_disturb() {
    // Both ends are in this process.
    if !may_open(2 * IDLE as u64 + DESCRIPTORS_BESIDE) {
        return;
    }
    let mut plane = config();
    plane.tcp.connections_max = IDLE + 2;
    // A host that has not said who it is counts by address, and all of them have one.
    plane.target.host_qpairs_max = plane.target.qpairs_max;
    // Idle, not given up.
    plane.tcp.handshake_timeout = Duration::from_secs(600);
    let mut rig = Rig::with(plane, Arc::default());
    let nqn = rig.serve("d", &["malloc:///m?size_mb=16"]);
    let good = GoodHost::start(&rig, &nqn);
    let idle: Vec<_> = (0..IDLE).map(|_| send(&rig, &icreq())).collect();
    let refused = send(&rig, &icreq());
    assert!(is_dropped(refused));
    assert!(rig.drops("too_many_connections") >= 1);
    good.goes_on(&rig);
    drop(idle);
}

#[test]
fn silent_sockets_count_from_their_acceptance_and_one_address_has_so_many() {
    let mut plane = config();
    plane.target.host_qpairs_max = 20;
    let mut rig = Rig::with(plane, Arc::default());
    let nqn = rig.serve("d", &["malloc:///m?size_mb=16"]);
    let good = GoodHost::start(&rig, &nqn);
    // Not a byte is sent on them.
    let silent: Vec<_> = (0..20).map(|_| send(&rig, &[])).collect();
    rig.until("they are counted", |rig| rig.connections() == 22);
    assert!(is_dropped(send(&rig, &icreq())));
    rig.until("one too many is counted", |rig| {
        rig.drops("too_many_connections_of_address") == 1
    });
    // The host at the same address that has said who it is keeps what it has.
    good.goes_on(&rig);
    drop(silent);
    rig.until("room again", |rig| rig.connections() == 0);
    GoodHost::start(&rig, &nqn).goes_on(&rig);
}

#[test]
fn a_host_that_has_all_it_may_have_is_refused_and_its_neighbour_at_the_address_is_not() {
    // Base 2.0c §6.3: Connect Controller Busy.
    let mut plane = config();
    (
        plane.target.host_controllers_max,
        plane.target.host_qpairs_max,
    ) = (2, 8);
    // One NQN on two addresses is one host.
    plane.nvmf.push(std::net::SocketAddr::from((
        std::net::Ipv6Addr::LOCALHOST,
        0,
    )));
    let mut rig = Rig::with(plane, Arc::default());
    let nqn = rig.serve("d", &["malloc:///m?size_mb=16"]);
    let greedy = "nqn.2014-08.org.nvmexpress:uuid:cccccccc-0000-0000-0000-000000000001";
    let connect = |rig: &Rig, host: &str, at: usize, queues: u16| {
        rig.connect_at(at, &nqn, host, |options| options.io_queues = queues)
    };
    let first = connect(&rig, greedy, 0, 3).unwrap();
    let _second = connect(&rig, greedy, 1, 3).unwrap();
    for at in [0, 1] {
        let refused = connect(&rig, greedy, at, 1);
        assert!(refused.is_err(), "a third controller on address {at}");
    }
    assert_eq!(rig.drops("connect_host_controllers_full"), 2);
    drop(first);
    rig.until("its place is free", |rig| rig.connections() == 4);
    // Four connections are left to it: an admin queue and three of the four I/O queues.
    assert!(connect(&rig, greedy, 0, 4).is_err());
    assert_eq!(rig.drops("connect_host_connections_full"), 1);
    GoodHost::start(&rig, &nqn).goes_on(&rig);
}

/// A host that keeps 31 reads of 128 KiB in flight on each of its queues and discards the whole disk in between.
fn read_deep(
    mut client: io_engine_perf::Client,
    queues: u16,
    stop: &Arc<AtomicBool>,
    discards: bool,
) -> (Arc<AtomicU64>, std::thread::JoinHandle<()>) {
    let (stopped, done) = (Arc::clone(stop), Arc::new(AtomicU64::new(0)));
    let counted = Arc::clone(&done);
    let thread = std::thread::spawn(move || {
        while !stopped.load(Ordering::Relaxed) {
            for queue in 0..usize::from(queues) {
                let read = |at: u64| {
                    let mut sqe = nvme_spec::Sqe::new(0x02, 0, 1);
                    sqe.set_qword(10, 8192 + at * 256);
                    sqe.set_dword(12, 255);
                    (sqe, io_engine_perf::client::IoData::In(128 << 10))
                };
                let commands: Vec<_> = (0..31).map(read).collect();
                client
                    .raw_all(queue, &commands)
                    .expect("every host is served");
                counted.fetch_add(31, Ordering::Relaxed);
            }
            if discards {
                client.deallocate(1, &[(8192, 400_000)]).expect("a discard");
            }
        }
    });
    (done, thread)
}

#[test]
fn a_greedy_host_does_not_starve_a_modest_one() {
    // One host with eight connections of many large reads, on two addresses under one NQN, beside a modest one at one of
    // those addresses that reads as large on two connections, and one that does a single small I/O at a time. The arena is too
    // small for what the greedy host asks.
    let mut plane = config();
    plane.reactor.arena_bytes = 8 << 20;
    plane.nvmf.push(std::net::SocketAddr::from((
        std::net::Ipv6Addr::LOCALHOST,
        0,
    )));
    let mut rig = Rig::with(plane, Arc::default());
    let disk = rig.file("disk", 256 << 20);
    // Reads take long on the disk, so that memory is what there is too little of, and not the CPU, of which eight threads get
    // more than two whatever the engine does.
    let slow = format!(
        "fault:///slow?device=aio://{}&rules=delay,ms=10,op=read",
        disk.display()
    );
    let nqn = rig.serve("d", &[&slow]);
    let stop = Arc::new(AtomicBool::new(false));
    let name =
        |host: u64| format!("nqn.2014-08.org.nvmexpress:uuid:cccccccc-0000-0000-0000-{host:012}");
    let greedy: Vec<_> = (0..8)
        .map(|session| {
            let host = rig.connect_at(session % 2, &nqn, &name(0), |options| options.io_queues = 2);
            read_deep(host.unwrap(), 2, &stop, session < 2)
        })
        .collect();
    let total = |hosts: &[(Arc<AtomicU64>, _)]| -> u64 {
        hosts
            .iter()
            .map(|(done, _)| done.load(Ordering::Relaxed))
            .sum()
    };
    rig.until("the greedy host is at full speed", |_| total(&greedy) > 500);
    let modest: Vec<_> = (0..2)
        .map(|_| {
            let host = rig.connect_at(0, &nqn, &name(1), |options| options.io_queues = 1);
            read_deep(host.unwrap(), 1, &stop, false)
        })
        .collect();
    let before = (total(&greedy), total(&modest));
    rig.until("both have done much", |_| total(&greedy) - before.0 > 4000);
    let (greedy_done, modest_done) = (total(&greedy) - before.0, total(&modest) - before.1);
    // By connection it would do a quarter of what the greedy host does, by address a fifth. By host it may do as much, less
    // what it loses by asking for the next reads only when all of the last ones are there.
    assert!(
        modest_done * 3 > greedy_done,
        "{modest_done} beside {greedy_done}"
    );
    GoodHost::start(&rig, &nqn).goes_on(&rig);
    stop.store(true, Ordering::Relaxed);
    for (_, thread) in greedy.into_iter().chain(modest) {
        thread.join().expect("every host is served");
    }
}

#[test]
fn a_host_that_falls_silent_is_freed_by_its_own_keep_alive() {
    // Base 2.0c §3.9: when the keep alive timer expires the association ends. The socket stays open all the while, as
    // that of a host which died without a word.
    let mut rig = Rig::new();
    let nqn = rig.serve("d", &["malloc:///m?size_mb=16"]);
    let good = GoodHost::start(&rig, &nqn);
    let silent = rig
        .connect_as(
            &nqn,
            "nqn.2014-08.org.nvmexpress:uuid:dddddddd-0000-0000-0000-000000000001",
            |options| {
                options.keep_alive = Duration::from_secs(1);
                options.io_queues = 4;
            },
        )
        .unwrap();
    rig.until("the silent host is dropped", |rig| {
        rig.drops("keep_alive_expired") >= 1
    });
    rig.until("only the good host's connections are left", |rig| {
        rig.connections() <= 2
    });
    good.goes_on(&rig);
    drop(silent);
}
