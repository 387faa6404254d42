//! Hosts that stop in the middle: when they are dropped, for what, and when they are not.

use crate::support::*;
use nvme_tcp::limits::PROGRESS_LOOK;
use nvme_tcp::*;
use nvme_tcp_pdu::*;
use std::time::{Duration, Instant};

const TIMEOUT: Duration = Duration::from_secs(30);

/// A connected controller that is looked at every second.
struct Looked {
    side: ControllerSide,
    now: Instant,
}

impl Looked {
    fn connected(header: bool, data: bool) -> Self {
        let now = Instant::now();
        let config = ControllerConfig {
            maxh2cdata: 1 << 20,
            progress_timeout: TIMEOUT,
            ..ControllerConfig::default()
        };
        let mut side = ControllerSide::new(config, now);
        side.may_omit_response = false;
        side.staged = icreq(header, data).to_bytes().to_vec();
        side.turn(now, &mut Seeded(0)).expect("a good ICReq");
        side.send(usize::MAX);
        if !header {
            side.connect(now, 1);
        }
        Self { side, now }
    }

    /// Takes `bytes` and sends `most`.
    fn exchange(&mut self, bytes: Vec<u8>, most: usize) -> usize {
        self.side.staged.extend(bytes);
        let turn = self.side.turn(self.now, &mut Seeded(0));
        turn.expect("a host within the protocol");
        self.side.send(most).len()
    }

    fn look(&mut self, incoming: Incoming) -> Result<bool, FaultKind> {
        self.now += PROGRESS_LOOK;
        let outcome = self.side.core.handle_progress(self.now, incoming);
        outcome.map_err(|fault| fault.kind)
    }

    fn open(&self) -> Incoming {
        Incoming::Open(self.side.staged.len())
    }

    /// Looks for as long as a host that does nothing is tolerated, and twice beyond.
    fn stalls(&mut self) -> FaultKind {
        assert!(self.side.core.is_owed(self.side.staged.len()));
        let since = self.now;
        loop {
            match self.look(self.open()) {
                Ok(is_owed) => assert!(is_owed && self.now < since + TIMEOUT + 2 * PROGRESS_LOOK),
                Err(kind) => {
                    assert!(self.now >= since + TIMEOUT);
                    assert_eq!(self.side.core.want(), Want::Close);
                    return kind;
                }
            }
        }
    }

    fn owes_nothing(&mut self) {
        assert!(!self.side.core.is_owed(self.side.staged.len()));
        assert_eq!(self.look(self.open()), Ok(false));
    }
}

#[test]
fn an_r2t_left_unanswered_is_a_stall() {
    let mut host = Looked::connected(false, false);
    host.owes_nothing();
    host.exchange(capsule(io(WRITE, 7, 0, 512 << 10), 0), usize::MAX);
    assert_eq!(host.stalls(), FaultKind::DataStalled);
}

#[test]
fn data_sent_halfway_is_a_stall_whether_or_not_its_pdu_is_complete() {
    for half in [true, false] {
        let mut host = Looked::connected(false, false);
        host.exchange(capsule(io(WRITE, 7, 0, 512 << 10), 0), usize::MAX);
        let mut data = h2c(Flags::NONE, 7, 0, 0, 256 << 10);
        data.truncate(if half { 100 << 10 } else { data.len() });
        for _ in 0..20 {
            assert_eq!(host.look(host.open()), Ok(true));
        }
        host.exchange(data, usize::MAX);
        assert_eq!(host.look(host.open()), Ok(true));
        assert_eq!(host.stalls(), FaultKind::DataStalled);
    }
}

#[test]
fn a_missing_data_digest_is_a_stall() {
    let mut host = Looked::connected(false, true);
    host.exchange(capsule(io(WRITE, 7, 0, 512), 0), usize::MAX);
    let header = CommonHeader::new(PduType::H2cData, Flags::LAST.with(Flags::DDGST), 24, 540);
    let mut data = h2c(Flags::LAST, 7, 0, 0, 512);
    let fields = DataHeader::parse(&data).expect("our own header");
    data[..24].copy_from_slice(&fields.to_bytes(header));
    host.exchange(data, usize::MAX);
    assert_eq!(host.side.core.want(), Want::Header(DIGEST_LEN));
    assert_eq!(host.stalls(), FaultKind::DataStalled);
}

#[test]
fn half_a_capsule_is_a_stall_wherever_it_stops() {
    let whole = capsule(io(WRITE, 1, 0, 4096), 4096);
    for cut in [1, 7, 8, 71, 72, 73, 4167] {
        let mut host = Looked::connected(false, false);
        host.exchange(whole[..cut].to_vec(), usize::MAX);
        assert_eq!(host.stalls(), FaultKind::CapsuleStalled, "cut at {cut}");
    }
    let mut host = Looked::connected(false, false);
    host.exchange(whole, usize::MAX);
    host.owes_nothing();
}

#[test]
fn a_capsule_that_trickles_in_is_a_stall() {
    let mut host = Looked::connected(false, false);
    let whole = capsule(io(WRITE, 1, 0, 4096), 4096);
    let mut at = 80;
    host.exchange(whole[..at].to_vec(), usize::MAX);
    for look in 0.. {
        assert!(look < 40, "a byte at a time goes on for ever");
        host.exchange(whole[at..at + 10].to_vec(), usize::MAX);
        at += 10;
        if let Err(kind) = host.look(host.open()) {
            assert_eq!(kind, FaultKind::CapsuleStalled);
            return;
        }
    }
}

#[test]
fn not_reading_is_a_stall_and_reading_slowly_is_not() {
    let mut host = Looked::connected(false, false);
    host.exchange(capsule(io(READ, 1, 0, 512 << 10), 0), 1000);
    for _ in 0..50 {
        assert_eq!(host.look(host.open()), Ok(true));
        host.side.send(8 << 10);
    }
    host.side.send(64 << 10);
    assert_eq!(host.look(host.open()), Ok(true));
    assert_eq!(host.stalls(), FaultKind::ReaderStalled);
    assert_eq!(host.side.reads_held(), 1);
    let mut released = 0;
    host.side.core.clear(|_| released += 1);
    assert_eq!(released, 1);
}

#[test]
fn what_is_not_received_for_want_of_memory_is_not_owed() {
    let mut host = Looked::connected(false, false);
    host.exchange(
        capsule(io(WRITE, 1, 0, 4096), 4096)[..100].to_vec(),
        usize::MAX,
    );
    for _ in 0..100 {
        assert_eq!(host.look(Incoming::Held), Ok(true));
    }
    assert_eq!(host.stalls(), FaultKind::CapsuleStalled);
}

#[test]
fn a_cancelled_fetch_is_not_owed() {
    let mut host = Looked::connected(false, false);
    host.exchange(capsule(io(WRITE, 7, 0, 64 << 10), 0), usize::MAX);
    assert!(!host.side.core.cancel_fetch(FetchTag(0)));
    host.owes_nothing();
    // What comes all the same is dropped, and half of it would hold the connection up.
    host.exchange(
        h2c(Flags::LAST, 7, 0, 0, 64 << 10)[..5000].to_vec(),
        usize::MAX,
    );
    assert_eq!(host.stalls(), FaultKind::CapsuleStalled);
}

#[test]
fn the_handshake_has_its_own_deadline() {
    let mut host = Looked::connected(true, false);
    host.exchange(vec![0; 3], usize::MAX);
    for _ in 0..100 {
        assert_eq!(host.look(host.open()), Ok(true));
    }
    let fault = host.side.core.handle_timeout(host.now);
    assert_eq!(fault.map_err(|f| f.kind), Err(FaultKind::HandshakeTimeout));
    assert_eq!(host.look(host.open()), Ok(false));
}
