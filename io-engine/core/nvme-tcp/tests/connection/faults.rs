//! Every way a peer can break the protocol: the fault, what the terminate request says, and that the connection ends.

use crate::support::*;
use nvme_spec::{Cqe, Status};
use nvme_tcp::limits::{TERMINATE_TIMEOUT, TX_BYTES_HIGH};
use nvme_tcp::*;
use nvme_tcp_pdu::*;
use std::time::{Duration, Instant};

/// A controller after ICReq, with digests as given.
fn controller(header: bool, data: bool) -> (ControllerSide, Instant) {
    let now = Instant::now();
    let config = ControllerConfig {
        commands_max: 4,
        maxh2cdata: 8192,
        ..ControllerConfig::default()
    };
    let mut side = ControllerSide::new(config, now);
    side.staged = icreq(header, data).to_bytes().to_vec();
    side.turn(now, &mut Seeded(0)).expect("a good ICReq");
    assert_eq!(side.send(usize::MAX).len(), 128);
    (side, now)
}

/// Feeds `bytes`, which must end the connection, and reads the terminate request.
fn ends(side: &mut ControllerSide, now: Instant, bytes: Vec<u8>) -> (FaultKind, u16, u32) {
    let header = bytes.clone();
    side.staged.extend(bytes);
    let fault = side.turn(now, &mut Seeded(0)).expect_err("a fault");
    assert_eq!(side.core.want(), Want::Flush);
    assert_eq!(side.core.poll_timeout(), Some(now + TERMINATE_TIMEOUT));
    let wire = side.send(usize::MAX);
    assert_eq!(side.core.want(), Want::Close);
    let term = TermReq::parse(&wire, PduType::C2hTermReq).expect("a terminate request");
    let copy = &wire[24..24 + usize::from(term.header_len)];
    assert_eq!(copy, &header[..copy.len()]);
    assert_eq!(fault.status.map(|status| status as u16), Some(term.fes));
    (fault.kind, term.fes, term.fei)
}

#[test]
fn before_icreq_nothing_else_is_heard() {
    let now = Instant::now();
    for raw in [
        capsule(io(FLUSH, 1, 0, 0), 0),
        h2c(Flags::LAST, 1, 0, 0, 16),
    ] {
        let mut side = ControllerSide::new(ControllerConfig::default(), now);
        let outcome = ends(&mut side, now, raw);
        assert_eq!(outcome, (FaultKind::UnexpectedPdu, 2, 0));
    }
}

#[test]
fn icreq_is_checked() {
    // TCP Transport 1.0c §3.6.2.2.
    let now = Instant::now();
    let with = |at: usize, value: u8| {
        let mut raw = icreq(false, false).to_bytes().to_vec();
        raw[at] = value;
        let mut side = ControllerSide::new(ControllerConfig::default(), now);
        ends(&mut side, now, raw)
    };
    assert_eq!(with(8, 1), (FaultKind::VersionUnsupported, 6, 8));
    assert_eq!(with(10, 32), (FaultKind::MalformedHeader, 1, 10));
    assert_eq!(with(4, 129), (FaultKind::MalformedHeader, 1, 4));
    assert_eq!(with(2, 72), (FaultKind::MalformedHeader, 1, 2));
    assert_eq!(with(0, 8), (FaultKind::MalformedHeader, 1, 0));
}

#[test]
fn what_a_host_may_not_send_ends_the_connection() {
    for raw in [
        icreq(false, false).to_bytes().to_vec(),
        CommonHeader::new(PduType::CapsuleResp, Flags::NONE, 0, 24)
            .to_bytes()
            .to_vec(),
    ] {
        let (mut side, now) = controller(false, false);
        let mut raw = raw;
        raw.resize(128, 0);
        let outcome = ends(&mut side, now, raw);
        assert_eq!(outcome, (FaultKind::UnexpectedPdu, 2, 0));
    }
}

#[test]
fn capsules_are_checked() {
    let bad = |change: fn(&mut Vec<u8>)| {
        let (mut side, now) = controller(false, false);
        let mut raw = capsule(io(WRITE, 1, 0, 512), 512);
        change(&mut raw);
        ends(&mut side, now, raw)
    };
    // TCP Transport 1.0c §3.6.2.6.
    let malformed = |field| (FaultKind::MalformedHeader, 1, field);
    assert_eq!(bad(|raw| raw[1] = 1), malformed(1));
    assert_eq!(bad(|raw| raw[1] = 2), malformed(1));
    assert_eq!(bad(|raw| raw[2] = 24), malformed(2));
    assert_eq!(bad(|raw| raw[3] = 70), malformed(3));
    assert_eq!(bad(|raw| raw[3] = 74), malformed(3));
    assert_eq!(bad(|raw| raw[4..8].fill(0)), malformed(4));
    let too_large = (FaultKind::CapsuleTooLarge, 1, 4);
    assert_eq!(bad(|raw| raw[5] = 0x40), too_large);
    assert_eq!(bad(|raw| raw[4..8].fill(0xff)), too_large);
}

#[test]
fn the_in_capsule_limit_is_the_queue_s_once_it_has_one() {
    let now = Instant::now();
    let too_large = (FaultKind::CapsuleTooLarge, 1, 4);
    let config = ControllerConfig {
        in_capsule_max: 4096,
        ..ControllerConfig::default()
    };
    // NVMe/TCP: IOCCSZ is about I/O queues, the admin queue takes 8192 bytes. Before Connect there is only that, with 1024.
    for (qid, len) in [(None, 1025), (Some(0), 8193), (Some(1), 4097)] {
        let mut side = ControllerSide::new(config.clone(), now);
        side.staged = icreq(false, false).to_bytes().to_vec();
        side.turn(now, &mut Seeded(0)).expect("a good ICReq");
        side.send(usize::MAX);
        if let Some(qid) = qid {
            side.connect(now, qid);
        }
        side.staged = capsule(io(WRITE, 1, 0, len - 1), len - 1);
        side.turn(now, &mut Seeded(0)).expect("within the limit");
        side.send(usize::MAX);
        let outcome = ends(&mut side, now, capsule(io(WRITE, 1, 0, len), len));
        assert_eq!(outcome, too_large, "{qid:?}");
    }
}

#[test]
fn a_header_digest_mismatch_is_fatal() {
    // TCP Transport 1.0c §3.6.2.5: FES 03h, FEI is the digest received.
    let (mut side, now) = controller(true, false);
    let header = CommonHeader::new(PduType::CapsuleCmd, Flags::HDGST, 0, 76);
    let sqe = io(FLUSH, 1, 0, 0);
    let mut raw = CapsuleCmd { sqe }.to_bytes(header).to_vec();
    raw.extend(0x1234_5678_u32.to_le_bytes());
    let outcome = ends(&mut side, now, raw);
    assert_eq!(outcome, (FaultKind::HeaderDigest, 3, 0x1234_5678));
}

#[test]
fn more_commands_than_the_queue_holds_are_refused() {
    let now = Instant::now();
    let config = ControllerConfig {
        commands_max: 4,
        ..ControllerConfig::default()
    };
    let mut core = Controller::new(config, now);
    let step = core.handle_header(now, &icreq(false, false).to_bytes());
    assert_eq!(step.expect("a good ICReq").taken, 128);
    for cid in 0..4 {
        let raw = capsule(io(FLUSH, cid, 0, 0), 0);
        assert!(core.handle_header(now, &raw).is_ok());
    }
    let raw = capsule(io(FLUSH, 4, 0, 0), 0);
    let fault = core.handle_header(now, &raw).expect_err("one too many");
    assert_eq!(fault.kind, FaultKind::TooManyCommands);
}

/// A connected core of queue 1 with `entries` entries, on a controller that takes 8 at most.
fn sized(entries: u32) -> (Controller, Instant) {
    let now = Instant::now();
    let config = ControllerConfig {
        commands_max: 8,
        ..ControllerConfig::default()
    };
    let mut core = Controller::new(config, now);
    assert!(!core.is_connected());
    for raw in [
        icreq(false, false).to_bytes().to_vec(),
        capsule(connect_sized(0, 1, entries), 0),
    ] {
        assert!(core.handle_header(now, &raw).is_ok());
    }
    core.submit_response(&Cqe::new(0, Status::SUCCESS));
    assert!(core.is_connected());
    (core, now)
}

/// Commands `core` takes until it has too many.
fn room(core: &mut Controller, now: Instant) -> usize {
    for taken in 0..100 {
        let raw = capsule(io(FLUSH, 50, 0, 0), 0);
        if let Err(fault) = core.handle_header(now, &raw) {
            assert_eq!(fault.kind, FaultKind::TooManyCommands);
            return taken;
        }
    }
    panic!("no limit");
}

#[test]
fn a_queue_holds_as_many_commands_as_its_connect_asked_for() {
    // NVMe Base 2.0c §6.3: SQSIZE, within what the controller is configured for.
    for (entries, expected) in [(3, 3), (8, 8), (9, 8), (1 << 16, 8)] {
        let (mut core, now) = sized(entries);
        assert_eq!(room(&mut core, now), expected, "{entries} entries");
    }
}

#[test]
fn a_connect_on_a_connected_queue_is_not_taken_for_a_command_of_its_id() {
    let (mut core, now) = sized(3);
    let raw = capsule(connect_sized(7, 0, 1 << 16), 0);
    assert!(core.handle_header(now, &raw).is_ok());
    core.submit_response(&Cqe::new(7, Status::SUCCESS));
    assert_eq!(room(&mut core, now), 3);
}

#[test]
fn commands_that_get_no_answer_leave_their_room_to_others() {
    // NVMe Base 2.0c §3.7.2: a controller reset drops event requests.
    let (mut core, now) = sized(3);
    for round in 0..100u16 {
        for cid in [0, 1] {
            let raw = capsule(io(FLUSH, round * 2 + cid, 0, 0), 0);
            assert!(core.handle_header(now, &raw).is_ok());
        }
        for cid in [0, 1] {
            core.forget_command(round * 2 + cid);
        }
    }
    assert_eq!(room(&mut core, now), 3);
}

#[test]
fn data_is_checked_against_its_r2t() {
    // TCP Transport 1.0c §3.6.2.8. R2T: command 7, tag 0, offset 0, 8192 of 10000 bytes.
    let bad = |raw: Vec<u8>| {
        let (mut side, now) = controller(false, false);
        side.staged = capsule(io(WRITE, 7, 0, 10_000), 0);
        side.turn(now, &mut Seeded(0)).expect("a good command");
        let r2t = R2t::parse(&side.send(usize::MAX)).expect("an R2T");
        assert_eq!((r2t.cccid, r2t.ttag, r2t.r2to, r2t.r2tl), (7, 0, 0, 8192));
        ends(&mut side, now, raw)
    };
    let none = Flags::NONE;
    let tag = (FaultKind::UnknownTransferTag, 1, 10);
    assert_eq!(bad(h2c(none, 7, 1, 0, 512)), tag);
    assert_eq!(bad(h2c(none, 7, 0xffff, 0, 512)), tag);
    let command = (FaultKind::UnknownCommand, 1, 8);
    assert_eq!(bad(h2c(none, 8, 0, 0, 512)), command);
    let order = (FaultKind::DataOutOfOrder, 1, 12);
    assert_eq!(bad(h2c(none, 7, 0, 4, 512)), order);
    assert_eq!(bad(h2c(none, 7, 0, u32::MAX, 512)), order);
    let limit = (FaultKind::DataLength, 5, 0);
    assert_eq!(bad(h2c(Flags::LAST, 7, 0, 0, 8196)), limit);
    let last = (FaultKind::LastFlag, 1, 1);
    assert_eq!(bad(h2c(none, 7, 0, 0, 8192)), last);
    assert_eq!(bad(h2c(Flags::LAST, 7, 0, 0, 512)), last);
    let mut length = h2c(none, 7, 0, 0, 512);
    length[16] = 4;
    assert_eq!(bad(length), (FaultKind::DataLength, 1, 16));
    let empty = h2c(none, 7, 0, 0, 0);
    assert_eq!(bad(empty), (FaultKind::DataLength, 1, 4));
}

#[test]
fn data_past_the_r2t_is_out_of_range() {
    let (mut side, now) = controller(false, false);
    side.staged = capsule(io(WRITE, 7, 0, 600), 0);
    side.staged.extend(h2c(Flags::NONE, 7, 0, 0, 512));
    side.turn(now, &mut Seeded(0)).expect("within the R2T");
    side.send(usize::MAX);
    let outcome = ends(&mut side, now, h2c(Flags::LAST, 7, 0, 512, 512));
    assert_eq!(outcome, (FaultKind::DataOutOfRange, 4, 0));
}

#[test]
fn a_terminate_request_closes_without_an_answer() {
    let (mut side, now) = controller(false, false);
    let term = TermReq {
        fes: 3,
        fei: 9,
        header_len: 0,
    };
    side.staged = term.to_bytes(PduType::H2cTermReq).to_vec();
    let fault = side.turn(now, &mut Seeded(0)).expect_err("an end");
    assert_eq!(fault.kind, FaultKind::PeerTerminated);
    assert_eq!(fault.status, Some(FatalStatus::HeaderDigestError));
    assert_eq!(side.core.want(), Want::Close);
    assert!(!side.core.has_transmit());
}

#[test]
fn a_failed_connection_takes_what_an_adaptor_still_has_to_say() {
    let (mut side, now) = controller(false, false);
    side.staged = capsule(io(WRITE, 7, 0, 600), 0);
    side.staged.extend([0xff; 8]);
    let fault = side.turn(now, &mut Seeded(0)).expect_err("a fault");
    assert_eq!(fault.kind, FaultKind::MalformedHeader);
    let queued = side.core.transmit().count();
    side.core.submit_fetch(7, FetchTag(1), 600);
    assert!(side.core.cancel_fetch(FetchTag(0)));
    assert!(side.core.cancel_fetch(FetchTag(1)));
    let cqe = Cqe::new(7, Status::INTERNAL_ERROR);
    side.core.submit_response(&cqe);
    assert!(!side.core.submit_data(&cqe, 512, DataToken(0), false));
    assert_eq!(side.core.transmit().count(), queued);
}

#[test]
fn a_half_sent_pdu_is_finished_before_the_terminate_request() {
    let (mut side, now) = controller(false, false);
    side.may_omit_response = false;
    side.staged = capsule(io(READ, 1, 0, 4096), 0);
    side.turn(now, &mut Seeded(0)).expect("a good command");
    side.send(1000);
    side.staged = vec![0xff; 8];
    let fault = side.turn(now, &mut Seeded(0)).expect_err("a fault");
    assert_eq!(fault.kind, FaultKind::MalformedHeader);
    let rest = side.send(usize::MAX);
    assert_eq!(rest.len(), 24 + 4096 - 1000 + 24 + 24 + 8);
    assert_eq!(rest[rest.len() - 32], PduType::C2hTermReq as u8);
    assert_eq!(side.reads_held(), 0);
}

#[test]
fn a_peer_that_does_not_set_up_is_closed_at_its_deadline() {
    let now = Instant::now();
    let timeout = Duration::from_secs(3);
    let config = ControllerConfig {
        handshake_timeout: timeout,
        ..ControllerConfig::default()
    };
    let mut core = Controller::new(config.clone(), now);
    assert_eq!(core.poll_timeout(), Some(now + timeout));
    assert_eq!(core.handle_timeout(now), Ok(()));
    // ICReq alone does not stop the clock: Connect is part of the set-up.
    let step = core.handle_header(now, &icreq(false, false).to_bytes());
    assert!(step.is_ok());
    let fault = core.handle_timeout(now + timeout).expect_err("too late");
    assert_eq!(fault.kind, FaultKind::HandshakeTimeout);
    assert_eq!(core.want(), Want::Close);

    // Nor does a Connect that is refused; one that succeeds does.
    let mut core = Controller::new(config, now);
    let step = core.handle_header(now, &icreq(false, false).to_bytes());
    assert!(step.is_ok());
    for (cid, status, deadline) in [
        (3, Status::CONNECT_INVALID_HOST, Some(now + timeout)),
        (4, Status::SUCCESS, None),
    ] {
        let step = core.handle_header(now, &capsule(connect(cid, 1), 0));
        assert!(step.is_ok());
        // The answer of another command is none to Connect.
        core.submit_response(&Cqe::new(cid + 1, Status::SUCCESS));
        assert_eq!(core.poll_timeout(), Some(now + timeout));
        core.submit_response(&Cqe::new(cid, status));
        assert_eq!(core.poll_timeout(), deadline);
    }
    assert_eq!(core.handle_timeout(now + timeout * 100), Ok(()));
}

#[test]
fn a_peer_that_never_reads_its_terminate_request_is_closed() {
    let (mut side, now) = controller(false, false);
    side.staged = vec![0xff; 8];
    assert!(side.turn(now, &mut Seeded(0)).is_err());
    assert_eq!(side.core.handle_timeout(now + TERMINATE_TIMEOUT), Ok(()));
    assert_eq!(side.core.want(), Want::Close);
}

#[test]
fn a_peer_that_does_not_read_is_not_listened_to() {
    let (mut side, now) = controller(false, false);
    let mut sent = 0;
    while side.core.want() != Want::Congested {
        side.staged.extend(capsule(io(FLUSH, 0, 0, 0), 0));
        side.turn(now, &mut Seeded(0)).expect("good commands");
        sent += 1;
        assert!(sent <= TX_BYTES_HIGH / 24 + 1, "grows without bound");
    }
    side.send(48);
    assert_ne!(side.core.want(), Want::Congested);
}

#[test]
fn every_fault_kind_has_its_own_name() {
    let mut names: Vec<_> = FaultKind::ALL.iter().map(|kind| kind.name()).collect();
    names.sort_unstable();
    names.dedup();
    assert_eq!(names.len(), FaultKind::ALL.len());
}
