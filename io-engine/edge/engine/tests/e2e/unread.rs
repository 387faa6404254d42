//! Hosts that ask and do not read what they get, on queues made by hand.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::Arc;

use nvme_spec::fabrics::{ConnectCommand, ConnectData, PropertyCommand};
use nvme_spec::io::BlockCommand;
use nvme_spec::opcode::{admin, nvm};
use nvme_spec::register::{self, Cc};
use nvme_spec::{Sgl, Sqe};

use crate::hostile::{GoodHost, icreq};
use crate::support::{Rig, config};

pub(crate) const HOST: &str =
    "nqn.2014-08.org.nvmexpress:uuid:eeeeeeee-0000-0000-0000-000000000001";
/// Bytes of one read.
const READ_BYTES: u32 = 128 << 10;

/// A command capsule (TCP Transport 1.0c §3.6.2.6) with `data` in it.
pub(crate) fn capsule(sqe: &Sqe, data: &[u8]) -> Vec<u8> {
    let len = 72 + data.len() as u32;
    let pdo = if data.is_empty() { 0 } else { 72 };
    let mut pdu = vec![0x04, 0, 72, pdo];
    pdu.extend(len.to_le_bytes());
    pdu.extend(sqe.0);
    pdu.extend(data);
    pdu
}

/// Sends a capsule and takes the answer, which has to be success: the low half of its first dword.
pub(crate) fn call(stream: &mut TcpStream, sqe: &Sqe, data: &[u8]) -> u16 {
    stream.write_all(&capsule(sqe, data)).expect("sent");
    let mut answer = [0; 24];
    stream.read_exact(&mut answer).expect("an answer");
    assert_eq!(answer[0], 0x05, "a response capsule");
    assert_eq!(answer[22..24], [0, 0], "success");
    u16::from_le_bytes([answer[8], answer[9]])
}

/// Queue `qid` of a controller, connected; and the controller's id.
pub(crate) fn queue(rig: &Rig, nqn: &str, qid: u16, cntlid: u16) -> (TcpStream, u16) {
    let mut stream = TcpStream::connect(rig.address()).expect("the port is open");
    stream.write_all(&icreq()).expect("sent");
    stream.read_exact(&mut [0; 128]).expect("ICResp");
    let (sqe, data) = connect(nqn, qid, cntlid);
    let cntlid = call(&mut stream, &sqe, &data);
    (stream, cntlid)
}

/// A Connect and its data.
pub(crate) fn connect(nqn: &str, qid: u16, cntlid: u16) -> (Sqe, [u8; ConnectData::LEN]) {
    let connect = ConnectCommand {
        recfmt: 0,
        qid,
        queue_entries: 128,
        sq_flow_control_disabled: false,
        kato_ms: 0,
    };
    let data = ConnectData::new([7; 16], cntlid, nqn, HOST).emit();
    (connect.emit(1, Sgl::in_capsule(0, data.len() as u32)), data)
}

pub(crate) fn admin_queue(rig: &Rig, nqn: &str) -> (TcpStream, u16) {
    let (mut stream, cntlid) = queue(rig, nqn, 0, 0xffff);
    let enable = PropertyCommand::set(2, register::CC, 4, u64::from(Cc::enable(6).0));
    call(&mut stream, &enable, &[]);
    (stream, cntlid)
}

#[test]
fn a_host_that_does_not_read_holds_its_share_and_no_more() {
    let mut plane = config();
    plane.reactor.arena_bytes = 8 << 20;
    let mut rig = Rig::with(plane, Arc::default());
    let disk = rig.file("disk", 256 << 20);
    let nqn = rig.serve("d", &[&format!("aio://{}", disk.display())]);
    let (_admin, cntlid) = admin_queue(&rig, &nqn);
    let mut queues = Vec::new();
    for qid in 1..=6 {
        let (mut stream, _) = queue(&rig, &nqn, qid, cntlid);
        let reads = (0..127u16).flat_map(|cid| {
            let read = BlockCommand {
                slba: u64::from(cid) * 256,
                blocks: READ_BYTES / 512,
                ..BlockCommand::default()
            };
            capsule(
                &read.emit(nvm::READ, cid, 1, Sgl::transport(READ_BYTES)),
                &[],
            )
        });
        stream.write_all(&reads.collect::<Vec<_>>()).expect("sent");
        queues.push(stream);
    }
    rig.until("its reads wait for memory", |rig| {
        rig.runtime
            .block_on(engine::control::dataplane::DataPlane::reactors(&*rig.plane))[0]
            .memory_waiting
            > 0
    });
    let inflight = engine::control::dataplane::DataPlane::inflight(&*rig.plane, 1000);
    let listed = rig.runtime.block_on(inflight);
    let waits = listed.iter().filter(|io| {
        let stage = io.stages.last().map(|(stage, _)| stage.as_str());
        stage == Some("waits_for_buffer") && io.operation == "read" && io.nsid == 1
    });
    assert!(waits.count() > 0, "{listed:?}");
    // What the sockets take is taken, and the arena is as full as it gets.
    let mut last = 0;
    rig.until("nothing moves", |rig| {
        let used = rig
            .runtime
            .block_on(engine::control::dataplane::DataPlane::reactors(&*rig.plane))[0]
            .arena_used_bytes;
        std::thread::sleep(std::time::Duration::from_millis(100));
        std::mem::replace(&mut last, used) == used && used > 0
    });
    assert!(
        last <= 7 << 20,
        "{last} bytes of 8 MiB, an eighth of them kept for others"
    );
    GoodHost::start(&rig, &nqn).goes_on(&rig);
    drop(queues);
}

#[test]
fn a_host_that_does_not_read_its_log_pages_is_dropped_before_they_fill_the_memory() {
    let mut rig = Rig::new();
    let nqn = rig.serve("d", &["malloc:///m?size_mb=16"]);
    let good = GoodHost::start(&rig, &nqn);
    let (mut stream, _) = admin_queue(&rig, &nqn);
    // The error log, padded to 1 MiB: what one command may transfer.
    let bytes = 1u32 << 20;
    let asked = (0..100u16).flat_map(|cid| {
        let mut sqe = Sqe::new(admin::GET_LOG_PAGE, cid, 0xffff_ffff);
        sqe.set_flags(0x40);
        sqe.set_sgl(Sgl::transport(bytes));
        let dwords_zb = bytes / 4 - 1;
        sqe.set_dword(10, 0x01 | dwords_zb << 16);
        sqe.set_dword(11, dwords_zb >> 16);
        capsule(&sqe, &[])
    });
    // The engine may close before everything is sent.
    let _ = stream.write_all(&asked.collect::<Vec<_>>());
    rig.until("it is dropped", |rig| rig.drops("replies_unread") == 1);
    good.goes_on(&rig);
}
