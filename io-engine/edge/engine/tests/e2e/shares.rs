//! What one peer can take from the others without breaking the protocol: memory, connections, a place in a queue.

use std::io::{Read, Write};
use std::net::{Ipv6Addr, SocketAddr, TcpStream};
use std::sync::Arc;
use std::time::Duration;

use engine::control::dataplane::DataPlane;
use nvme_spec::fabrics::PropertyCommand;
use nvme_spec::io::BlockCommand;
use nvme_spec::opcode::{admin, nvm};
use nvme_spec::register::{self, Cc};
use nvme_spec::{Sgl, Sqe};
use transport_nvmf_tcp::limits::HALF_RECEIVED_BYTES_MAX;

use crate::hostile::{GoodHost, icreq};
use crate::support::{Rig, config, pattern};
use crate::unread::{admin_queue, call, capsule, connect, queue};

fn arena_used(rig: &Rig) -> usize {
    rig.runtime.block_on(rig.plane.reactors())[0].arena_used_bytes as usize
}

/// The most that is in use while nothing new is sent for a while.
fn most_used(rig: &Rig) -> usize {
    let look = |_| {
        std::thread::sleep(Duration::from_millis(10));
        arena_used(rig)
    };
    (0..50).map(look).max().unwrap_or_default()
}

#[test]
fn half_a_connect_holds_no_memory_and_the_other_half_is_served() {
    let mut rig = Rig::new();
    let nqn = rig.serve("d", &["malloc:///m?size_mb=16"]);
    let (sqe, data) = connect(&nqn, 0, 0xffff);
    let whole = capsule(&sqe, &data);
    let (first, last) = whole.split_at(whole.len() - 1);
    let strangers: Vec<_> = (0..200)
        .map(|_| {
            let mut stream = TcpStream::connect(rig.address()).expect("the port is open");
            stream.write_all(&icreq()).expect("sent");
            stream.read_exact(&mut [0; 128]).expect("ICResp");
            stream.write_all(first).expect("sent");
            stream
        })
        .collect();
    assert_eq!(most_used(&rig), 0, "of 200 strangers");
    GoodHost::start(&rig, &nqn).goes_on(&rig);
    for mut stream in strangers {
        stream.write_all(last).expect("sent");
        let mut answer = [0; 24];
        stream.read_exact(&mut answer).expect("an answer");
        assert_eq!(answer[22..24], [0, 0], "success");
    }
}

#[test]
fn a_stranger_with_more_than_connect_to_say_is_dropped() {
    let mut rig = Rig::new();
    let nqn = rig.serve("d", &["malloc:///m?size_mb=16"]);
    let (sqe, _) = connect(&nqn, 0, 0xffff);
    let mut stream = TcpStream::connect(rig.address()).expect("the port is open");
    let more = [icreq(), capsule(&sqe, &[0; 8192])[..100].to_vec()].concat();
    stream.write_all(&more).expect("sent");
    rig.until("it is dropped", |rig| rig.drops("capsule_too_large") == 1);
}

#[test]
fn half_capsules_hold_little_memory_on_however_many_queues_and_arrive_whole() {
    const QUEUES: u16 = 120;
    let mut plane = config();
    plane.target.io_queues_per_controller = QUEUES;
    let mut rig = Rig::with(plane, Arc::default());
    let nqn = rig.serve("d", &["malloc:///m?size_mb=16"]);
    let (_admin, cntlid) = admin_queue(&rig, &nqn);
    let write = |qid: u16| {
        let command = BlockCommand {
            slba: u64::from(qid) * 16,
            blocks: 16,
            ..BlockCommand::default()
        };
        let sqe = command.emit(nvm::WRITE, 5, 1, Sgl::in_capsule(0, 8192));
        capsule(&sqe, &pattern(qid.into(), 8192))
    };
    let mut queues: Vec<_> = (1..=QUEUES)
        .map(|qid| {
            let (mut stream, _) = queue(&rig, &nqn, qid, cntlid);
            stream.write_all(&write(qid)[..5000]).expect("sent");
            stream
        })
        .collect();
    let used = most_used(&rig);
    assert!(used <= HALF_RECEIVED_BYTES_MAX, "{used} bytes of 960 KiB");
    for (qid, stream) in (1..).zip(&mut queues) {
        stream.write_all(&write(qid)[5000..]).expect("sent");
        let mut answer = [0; 24];
        stream.read_exact(&mut answer).expect("an answer");
        assert_eq!(answer[22..24], [0, 0], "success on queue {qid}");
    }
    let mut reader = rig.connect(&nqn);
    for qid in 1..=QUEUES {
        let read = reader.read(1, u64::from(qid) * 16, 16).expect("a read");
        assert!(read == pattern(qid.into(), 8192), "what queue {qid} wrote");
    }
    rig.until("all is back", |rig| arena_used(rig) == 0);
}

fn invented(host: u64) -> String {
    format!("nqn.2014-08.org.nvmexpress:uuid:ffffffff-0000-0000-0000-{host:012}")
}

#[test]
fn one_address_leaves_connections_to_others_whatever_hosts_it_invents() {
    let mut plane = config();
    plane.address_connections_max = 20;
    plane.nvmf.push(SocketAddr::from((Ipv6Addr::LOCALHOST, 0)));
    let mut rig = Rig::with(plane, Arc::default());
    let nqn = rig.serve("d", &["malloc:///m?size_mb=16"]);
    let good = GoodHost::start(&rig, &nqn);
    let one_queue = |at: usize, host: u64| {
        rig.connect_at(at, &nqn, &invented(host), |options| options.io_queues = 1)
    };
    // Two connections each, beside the two of the good host.
    let held: Vec<_> = (0..9)
        .map(|host| one_queue(0, host).expect("room"))
        .collect();
    assert!(one_queue(0, 9).is_err());
    assert!(rig.drops("too_many_connections_of_address") >= 1);
    drop(one_queue(1, 10).expect("room for another address"));
    good.goes_on(&rig);
    drop(held);
    rig.until("room again", |rig| rig.connections() == 0);
    let _ = one_queue(0, 11).expect("room for the address again");
}

#[test]
fn connections_that_move_between_reactors_are_not_counted_twice() {
    let mut plane = config();
    plane.cpus = vec![None, None, None];
    plane.address_connections_max = 3;
    let mut rig = Rig::with(plane, Arc::default());
    let subsystems: Vec<String> = (0..3)
        .map(|at| rig.serve(&format!("d{at}"), &[&format!("malloc:///m{at}?size_mb=16")]))
        .collect();
    for round in 0..20 {
        for nqn in &subsystems {
            let options = |options: &mut io_engine_perf::SessionOptions| options.io_queues = 1;
            let mut host = rig
                .connect_at(0, nqn, &invented(round), options)
                .unwrap_or_else(|error| panic!("round {round}: {error}"));
            host.write(1, 0, &pattern(round, 4096)).expect("a write");
            drop(host);
            rig.until("it is gone", |rig| {
                let reactors = rig.runtime.block_on(rig.plane.reactors());
                reactors.iter().all(|reactor| reactor.connections == 0)
            });
        }
    }
}

#[test]
fn a_host_may_reset_its_controller_as_often_as_it_likes() {
    // Base 2.0c §3.7.2: a reset drops the event requests, which are never answered.
    let mut rig = Rig::new();
    let nqn = rig.serve("d", &["malloc:///m?size_mb=16"]);
    let (mut stream, _) = admin_queue(&rig, &nqn);
    stream
        .set_read_timeout(Some(Duration::from_secs(10)))
        .expect("a timeout");
    let set = |value: Cc| PropertyCommand::set(9, register::CC, 4, u64::from(value.0));
    for _ in 0..200 {
        for cid in 10..14 {
            let request = Sqe::new(admin::ASYNC_EVENT_REQUEST, cid, 0);
            stream.write_all(&capsule(&request, &[])).expect("sent");
        }
        call(&mut stream, &set(Cc(0)), &[]);
        call(&mut stream, &set(Cc::enable(6)), &[]);
    }
    assert_eq!(rig.drops_total(), 0);
}
