//! What a hostile controller can send to a host: always a fault, never a panic.

use crate::support::*;
use nvme_spec::{Cqe, Status};
use nvme_tcp::*;
use nvme_tcp_pdu::*;
use std::time::Instant;

/// A host after ICResp with a read of 8192 (cid 1), a write of 8192 (cid 2) and a flush (cid 3) outstanding.
fn host() -> (HostSide, Instant) {
    let now = Instant::now();
    let config = HostConfig {
        commands_max: 8,
        ..HostConfig::default()
    };
    let mut side = HostSide::new(config, now);
    side.staged = icresp(0, Digests::default()).to_vec();
    side.turn(now, &mut Seeded(0)).expect("a good ICResp");
    side.buffers[1] = vec![0; 8192];
    side.buffers[2] = vec![3; 8192];
    for (opcode, cid, data) in [
        (READ, 1, CommandData::Read(8192)),
        (WRITE, 2, CommandData::Write(8192)),
        (FLUSH, 3, CommandData::None),
    ] {
        assert!(side.core.submit_command(&io(opcode, cid, 0, 8192), data));
    }
    side.send(usize::MAX);
    (side, now)
}

fn icresp(pfv: u16, digests: Digests) -> [u8; 128] {
    IcResp {
        pfv,
        cpda_zb: 0,
        digests,
        maxh2cdata: 4096,
    }
    .to_bytes()
}

fn c2h(flags: Flags, cccid: u16, datao: u32, len: u32) -> Vec<u8> {
    let header = CommonHeader::new(PduType::C2hData, flags, 24, 24 + len);
    let data = DataHeader {
        cccid,
        ttag: 0,
        datao,
        datal: len,
    };
    let mut raw = data.to_bytes(header).to_vec();
    raw.resize(24 + len as usize, 0x5a);
    raw
}

fn r2t(cccid: u16, r2to: u32, r2tl: u32) -> Vec<u8> {
    let header = CommonHeader::new(PduType::R2t, Flags::NONE, 0, 24);
    R2t {
        cccid,
        ttag: 77,
        r2to,
        r2tl,
    }
    .to_bytes(header)
    .to_vec()
}

fn resp(cid: u16) -> Vec<u8> {
    let header = CommonHeader::new(PduType::CapsuleResp, Flags::NONE, 0, 24);
    let cqe = Cqe::new(cid, Status::SUCCESS);
    CapsuleResp { cqe }.to_bytes(header).to_vec()
}

fn fault(pdus: &[Vec<u8>]) -> (FaultKind, u16, u32) {
    let (mut side, now) = host();
    side.staged = pdus.concat();
    let fault = side.turn(now, &mut Seeded(0)).expect_err("a fault");
    let wire = side.send(usize::MAX);
    let term = wire.len() - 24 - 24.min(pdus.last().map_or(0, Vec::len));
    let term = TermReq::parse(&wire[term..], PduType::H2cTermReq).expect("a terminate request");
    assert_eq!(side.core.want(), Want::Close);
    (fault.kind, term.fes, term.fei)
}

#[test]
fn completions_are_checked() {
    let unknown = (FaultKind::UnknownCommand, 1, 20);
    assert_eq!(fault(&[resp(4)]), unknown);
    assert_eq!(fault(&[resp(0xffff)]), unknown);
    assert_eq!(fault(&[resp(3), resp(3)]), unknown);
}

#[test]
fn data_to_the_host_is_checked() {
    // TCP Transport 1.0c §3.6.2.9.
    let none = Flags::NONE;
    let unknown = (FaultKind::UnknownCommand, 1, 8);
    assert_eq!(fault(&[c2h(none, 0, 0, 512)]), unknown);
    assert_eq!(fault(&[c2h(none, 9, 0, 512)]), unknown);
    let range = (FaultKind::DataOutOfRange, 4, 0);
    assert_eq!(fault(&[c2h(none, 1, 0, 8196)]), range);
    assert_eq!(fault(&[c2h(none, 2, 0, 512)]), range);
    assert_eq!(
        fault(&[c2h(none, 1, 0, 8192), c2h(none, 1, 8192, 4)]),
        range
    );
    let order = (FaultKind::DataOutOfOrder, 1, 12);
    assert_eq!(fault(&[c2h(none, 1, 512, 512)]), order);
    let length = (FaultKind::DataLength, 1, 16);
    assert_eq!(fault(&[c2h(none, 1, 0, 0)]), length);
    let success = (FaultKind::LastFlag, 1, 1);
    assert_eq!(fault(&[c2h(Flags::SUCCESS, 1, 0, 512)]), success);
    let over = Flags::SUCCESS.with(Flags::LAST);
    let unknown = (FaultKind::UnknownCommand, 1, 8);
    assert_eq!(fault(&[c2h(over, 1, 0, 8192), c2h(none, 1, 0, 4)]), unknown);
}

#[test]
fn requests_for_data_are_checked() {
    // TCP Transport 1.0c §3.6.2.10.
    let not_allowed = (FaultKind::R2tNotAllowed, 1, 8);
    assert_eq!(fault(&[r2t(1, 0, 512)]), not_allowed);
    assert_eq!(fault(&[r2t(3, 0, 512)]), not_allowed);
    let unknown = (FaultKind::UnknownCommand, 1, 8);
    assert_eq!(fault(&[r2t(0, 0, 512)]), unknown);
    let range = (FaultKind::DataOutOfRange, 4, 0);
    assert_eq!(fault(&[r2t(2, 0, 8193)]), range);
    assert_eq!(fault(&[r2t(2, 0, 0)]), range);
    assert_eq!(fault(&[r2t(2, 0, u32::MAX)]), range);
    let order = (FaultKind::DataOutOfOrder, 1, 12);
    assert_eq!(fault(&[r2t(2, 4, 4)]), order);
    let limit = (FaultKind::R2tNotAllowed, 5, 0);
    assert_eq!(fault(&[r2t(2, 0, 512), r2t(2, 512, 512)]), limit);
}

#[test]
fn what_a_controller_may_not_send_ends_the_connection() {
    let header = CommonHeader::new(PduType::H2cData, Flags::NONE, 24, 24);
    let raw = [header.to_bytes().to_vec(), vec![0; 16]].concat();
    assert_eq!(fault(&[raw]), (FaultKind::UnexpectedPdu, 2, 0));
}

#[test]
fn data_is_sent_in_pieces_the_controller_takes() {
    // TCP Transport 1.0c §3.6.2.3 (MAXH2CDATA) and §3.6.2.8 (LAST_PDU on the last only).
    let (mut side, now) = host();
    side.staged = r2t(2, 0, 8192);
    side.turn(now, &mut Seeded(0)).expect("a good R2T");
    let wire = side.send(usize::MAX);
    assert_eq!(wire.len(), 2 * (24 + 4096));
    for (at, datao, last) in [(0, 0, false), (24 + 4096, 4096, true)] {
        let common = CommonHeader::parse(&wire[at..]).expect("a header");
        assert_eq!(common.flags.has(Flags::LAST), last);
        let data = DataHeader::parse(&wire[at..]).expect("a header");
        assert_eq!((data.cccid, data.ttag), (2, 77));
        assert_eq!((data.datao, data.datal), (datao, 4096));
    }
}

#[test]
fn icresp_is_checked() {
    let now = Instant::now();
    let first = |raw: &[u8]| {
        let mut core = Host::new(HostConfig::default(), now);
        let fault = core.handle_header(now, raw).expect_err("a fault");
        (fault.kind, fault.info)
    };
    let none = Digests::default();
    let both = Digests::from_byte(3);
    let version = (FaultKind::VersionUnsupported, 8);
    assert_eq!(first(&icresp(1, none)), version);
    let digest = (FaultKind::DigestNotOffered, 11);
    assert_eq!(first(&icresp(0, both)), digest);
    assert_eq!(first(&resp(0)), (FaultKind::UnexpectedPdu, 0));
}

#[test]
fn commands_wait_for_icresp() {
    let now = Instant::now();
    let mut core = Host::new(HostConfig::default(), now);
    assert!(!core.submit_command(&io(FLUSH, 0, 0, 0), CommandData::None));
    let deadline = core.poll_timeout().expect("a handshake deadline");
    let fault = core.handle_timeout(deadline).expect_err("too late");
    assert_eq!(fault.kind, FaultKind::HandshakeTimeout);
    assert_eq!(core.want(), Want::Close);
}

#[test]
fn garbage_never_panics() {
    let mut seeded = Seeded(5);
    for round in 0..3000 {
        let (mut side, now) = host();
        // Start from a valid PDU half of the time, so that the garbage gets past the header checks.
        let mut raw = match round % 6 {
            0 => c2h(Flags::LAST, 1, 0, 512),
            1 => r2t(2, 0, 4096),
            2 => resp(3),
            _ => vec![0; 64],
        };
        for _ in 0..1 + seeded.below(4) {
            let at = seeded.below(raw.len() as u64);
            raw[at] = seeded.next() as u8;
        }
        side.staged = raw;
        let _ = side.turn(now, &mut seeded);
        side.send(usize::MAX);
    }
}
