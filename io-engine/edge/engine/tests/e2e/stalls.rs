//! Hosts that stop in the middle, and the last words of a connection, over real sockets.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::Arc;
use std::time::Duration;

use nvme_spec::fabrics::{ConnectCommand, ConnectData, ConnectResult, PropertyCommand};
use nvme_spec::{Sgl, Sqe};

use crate::support::{Rig, config, namespace, pattern};
use engine::control::dataplane::{DataPlane, SubsystemSpec};

const HOST: &str = "nqn.2014-08.org.nvmexpress:uuid:eeeeeeee-0000-0000-0000-000000000001";
const WRITE: u8 = 0x01;
const READ: u8 = 0x02;
/// Bytes of each command.
const LEN: usize = 256 << 10;
/// PDU types.
const C2H_TERM_REQ: u8 = 0x03;
const R2T: u8 = 0x09;

/// One queue of a host that sends what a test wants, byte by byte.
struct RawQueue {
    stream: TcpStream,
}

impl RawQueue {
    fn open(rig: &Rig) -> Self {
        let stream = TcpStream::connect(rig.address()).expect("the port is open");
        stream
            .set_read_timeout(Some(Duration::from_secs(10)))
            .expect("a timeout");
        let mut queue = Self { stream };
        let mut icreq = [0u8; 128];
        (icreq[2], icreq[4]) = (128, 128);
        queue.send(&icreq);
        queue.stream.read_exact(&mut icreq).expect("ICResp");
        queue
    }

    /// Connects as queue `qid` of controller `cntlid`; the controller it became.
    fn connect(rig: &Rig, nqn: &str, qid: u16, cntlid: u16) -> (Self, u16) {
        let mut queue = Self::open(rig);
        let command = ConnectCommand {
            recfmt: 0,
            qid,
            queue_entries: 128,
            sq_flow_control_disabled: true,
            kato_ms: 0,
        };
        let data = ConnectData::new([7; 16], cntlid, nqn, HOST).emit();
        let sqe = command.emit(0, Sgl::in_capsule(0, ConnectData::LEN as u32));
        queue.send(&capsule(&sqe, &data));
        let response = queue.pdu();
        assert_eq!(response[22..24], [0, 0], "status of Connect");
        let result = u64::from_le_bytes(response[8..16].try_into().expect("8 bytes"));
        (queue, ConnectResult::parse(result).cntlid)
    }

    fn send(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).expect("the engine reads");
    }

    /// The next PDU without data.
    fn pdu(&mut self) -> Vec<u8> {
        let mut pdu = vec![0; 24];
        self.stream.read_exact(&mut pdu).expect("a PDU");
        pdu
    }
}

/// An I/O queue, and the admin queue that keeps its controller.
fn connected(rig: &Rig, nqn: &str) -> (RawQueue, RawQueue) {
    let (mut admin, cntlid) = RawQueue::connect(rig, nqn, 0, 0xffff);
    // CC: enabled, entries of 64 and 16 bytes.
    admin.send(&capsule(&PropertyCommand::set(1, 0x14, 4, 0x46_0001), &[]));
    admin.pdu();
    let (queue, _) = RawQueue::connect(rig, nqn, 1, cntlid);
    (queue, admin)
}

fn capsule(sqe: &Sqe, data: &[u8]) -> Vec<u8> {
    let len = 72 + data.len() as u32;
    let data_offset = if data.is_empty() { 0 } else { 72 };
    let mut pdu = vec![0x04, 0, 72, data_offset];
    pdu.extend(len.to_le_bytes());
    pdu.extend(sqe.0);
    pdu.extend(data);
    pdu
}

/// A read or a write of `LEN` bytes from block 0 on.
fn io(opcode: u8, cid: u16) -> Sqe {
    let mut sqe = Sqe::new(opcode, cid, 1);
    sqe.set_flags(0x40);
    sqe.set_sgl(Sgl::transport(LEN as u32));
    sqe.set_dword(12, (LEN / 512 - 1) as u32);
    sqe
}

/// Serves a disk, to hosts that may stall for a second.
fn served() -> (Rig, String) {
    let mut plane = config();
    plane.tcp.progress_timeout = Duration::from_secs(1);
    let mut rig = Rig::with(plane, Arc::default());
    let nqn = rig.serve("d", &["malloc:///m?size_mb=16"]);
    (rig, nqn)
}

/// Waits until the stalled queue is dropped for `reason` and what it held is free, then checks that another host is served.
fn is_freed(rig: &Rig, nqn: &str, reason: &str) {
    rig.until(reason, |rig| rig.drops(reason) == 1);
    rig.until("what it held is free", |rig| {
        let reactors = rig.runtime.block_on(DataPlane::reactors(&*rig.plane));
        reactors[0].arena_used_bytes == 0 && reactors[0].inflight == 0
    });
    let mut other = rig.connect(nqn);
    let data = pattern(1, 4096);
    other.write(1, 0, &data).expect("another host's write");
    assert!(other.read(1, 0, 8).expect("another host's read") == data);
}

#[test]
fn data_that_was_asked_for_and_does_not_come_costs_the_connection() {
    let (rig, nqn) = served();
    let (mut queue, _admin) = connected(&rig, &nqn);
    for cid in 0..20 {
        queue.send(&capsule(&io(WRITE, cid), &[]));
    }
    for _ in 0..20 {
        assert_eq!(queue.pdu()[0], R2T);
    }
    // Half of what the first R2T asked for.
    let mut half = vec![0x06, 0x04, 24, 24];
    half.extend((24 + LEN as u32).to_le_bytes());
    half.extend([0; 8]);
    half.extend((LEN as u32).to_le_bytes());
    half.extend([0; 4]);
    half.extend(vec![0; LEN / 2]);
    queue.send(&half);
    is_freed(&rig, &nqn, "data_stalled");
}

#[test]
fn a_write_that_waits_for_its_data_is_listed() {
    let mut rig = Rig::new();
    let device = rig.open("malloc:///m?size_mb=16");
    let nqn = String::from("nqn.2019-05.io.openebs:waits");
    let spec = SubsystemSpec {
        nqn: nqn.clone(),
        serial: "S".into(),
        allowed_hosts: None,
        namespaces: vec![namespace(1, device)],
    };
    rig.runtime.block_on(rig.plane.add_subsystem(spec)).unwrap();
    let (mut queue, _admin) = connected(&rig, &nqn);
    queue.send(&capsule(&io(WRITE, 7), &[]));
    assert_eq!(queue.pdu()[0], R2T);
    let listed = rig.runtime.block_on(rig.plane.inflight(10));
    let [write] = &listed[..] else {
        panic!("one command: {listed:?}");
    };
    assert_eq!(
        (write.subnqn.as_str(), write.hostnqn.as_str()),
        (nqn.as_str(), HOST)
    );
    assert_eq!((write.qid, write.cid, write.nsid), (1, 7, 1));
    assert_eq!(
        (write.device, write.operation.as_str()),
        (Some(device), "write")
    );
    let (stage, at) = write.stages.last().unwrap();
    assert_eq!((stage.as_str(), *at), ("waits_for_host_data", write.age));
}

#[test]
fn half_a_capsule_costs_the_connection() {
    for cut in [30, 72 + 2000] {
        let (rig, nqn) = served();
        let (mut queue, _admin) = connected(&rig, &nqn);
        queue.send(&capsule(&io(WRITE, 1), &[7; 4096])[..cut]);
        is_freed(&rig, &nqn, "capsule_stalled");
    }
}

#[test]
fn not_reading_costs_the_connection() {
    let (rig, nqn) = served();
    let (mut queue, _admin) = connected(&rig, &nqn);
    // More than both sockets take.
    for cid in 0..120 {
        queue.send(&capsule(&io(READ, cid), &[]));
    }
    is_freed(&rig, &nqn, "reader_stalled");
}

#[test]
fn an_idle_connection_stays_for_as_long_as_it_likes() {
    let (rig, nqn) = served();
    let (mut queue, _admin) = connected(&rig, &nqn);
    queue.send(&capsule(&io(READ, 1), &[]));
    let mut data = vec![0; 24 + LEN];
    queue.stream.read_exact(&mut data).expect("the data");
    std::thread::sleep(Duration::from_secs(4));
    queue.send(&capsule(&io(WRITE, 2), &[]));
    assert_eq!(queue.pdu()[0], R2T);
}

#[test]
fn an_offender_hears_why_though_it_had_sent_much_more() {
    // TCP Transport 1.0c §3.6.2.5. The socket is closed with a FIN, behind the terminate request, not with a reset.
    let (rig, _nqn) = served();
    for more in [0, 100_000, 3 << 20] {
        let mut queue = RawQueue::open(&rig);
        queue.send(&vec![0xff; 1000 + more]);
        let mut words = Vec::new();
        queue
            .stream
            .read_to_end(&mut words)
            .expect("an orderly end");
        assert_eq!(words.first(), Some(&C2H_TERM_REQ), "after {more} bytes");
        assert_eq!(words.len(), 24 + 8);
    }
    rig.until("the slots are free", |rig| rig.connections() == 0);
}
