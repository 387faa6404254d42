//! The controller role: takes commands and their data, sends data and completions.

use crate::Want;
use crate::fault::{Fault, FaultKind};
use crate::fetch::{Fetch, FetchTag, Progress};
use crate::limits::{COMMANDS_MAX, TRANSFER_LEN_MAX, TX_BYTES_HIGH};
use crate::link::{Link, Payload, Step, stream_methods, terminated};
use crate::receive::{Arrived, Receive};
use crate::stall::{Owed, StallWatch};
use crate::state::{Phase, Role};
use crate::transmit::DataToken;
use nvme_spec::fabrics::{ConnectCommand, ConnectData};
use nvme_spec::opcode::{FABRICS, fabrics};
use nvme_spec::{Cqe, Sqe, Status};
use nvme_tcp_pdu::{
    ADMIN_IN_CAPSULE_MAX, CapsuleCmd, CapsuleResp, CommonHeader, DataHeader, Digests, FatalStatus,
    Flags, IcReq, IcResp, MAXH2CDATA_MIN, PduType, R2t, data_offset,
};
use std::time::{Duration, Instant};

/// What a controller offers and tolerates on one connection.
#[derive(Clone, Debug)]
pub struct ControllerConfig {
    /// In-capsule data of an I/O queue, in bytes. The admin queue takes 8192; a connection whose Connect has not succeeded,
    /// the 1024 of Connect.
    pub in_capsule_max: u32,
    /// MAXH2CDATA: most data bytes of one H2CData PDU and of one R2T. At least 4096, a multiple of 4.
    pub maxh2cdata: u32,
    /// Whether header digests are used when the host asks for them.
    pub header_digest: bool,
    /// Whether data digests are used when the host asks for them.
    pub data_digest: bool,
    /// Most commands outstanding, the size of the largest submission queue: 1 to 65536. Once connected, a host may have as
    /// many as the queue it asked for has entries (SQSIZE), and no more than this; one that exceeds it is disconnected.
    pub commands_max: usize,
    /// Time from accept to the answer of a successful Connect.
    pub handshake_timeout: Duration,
    /// Time a host may go without moving the bytes it owes, once it is connected; see [`Controller::handle_progress`].
    pub progress_timeout: Duration,
}

impl Default for ControllerConfig {
    fn default() -> Self {
        Self {
            in_capsule_max: ADMIN_IN_CAPSULE_MAX,
            maxh2cdata: 1 << 20,
            header_digest: true,
            data_digest: true,
            commands_max: 128,
            handshake_timeout: Duration::from_secs(10),
            progress_timeout: Duration::from_secs(30),
        }
    }
}

/// Where received data goes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum PayloadDst {
    /// A buffer for the data of the capsule being received ([`Controller::capsule`] tells command and length).
    InCapsule,
    /// The buffer of an earlier [`Controller::submit_fetch`].
    Fetch(FetchTag),
    /// Nowhere: data of a cancelled fetch. Give it to `handle_payload` and drop it.
    Discard(FetchTag),
}

/// What a PDU meant.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ControllerEvent {
    /// ICReq was accepted and ICResp queued.
    Ready {
        /// Digests the connection uses.
        digests: Digests,
    },
    /// A command, with all its in-capsule data in place.
    Capsule {
        /// The command.
        sqe: Sqe,
        /// Bytes of in-capsule data, 0 if there is none.
        data_len: u32,
        /// Whether the data digest matched (true where digests are not used). A mismatch is not fatal: the command is
        /// to be completed with Transient Transport Error.
        data_ok: bool,
    },
    /// A fetch is complete; its tag is free.
    Fetched {
        /// Which one.
        tag: FetchTag,
        /// Whether every data digest matched (true where digests are not used).
        data_ok: bool,
    },
    /// A cancelled fetch has received the last bytes it had asked for; its tag is free.
    FetchDrained {
        /// Which one.
        tag: FetchTag,
    },
}

/// What [`Controller::handle_header`] did.
pub type ControllerStep = Step<ControllerEvent>;

/// How the adaptor stands to the incoming stream when it calls [`Controller::handle_progress`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Incoming {
    /// It receives. This many bytes have arrived and were not taken.
    Open(usize),
    /// It does not receive, for want of memory: what does not arrive is not the host's fault.
    Held,
}

/// A Connect that is being answered.
#[derive(Clone, Copy, Debug)]
struct Connecting {
    cid: u16,
    qid: u16,
    queue_entries: usize,
}

/// One TCP connection in controller role. See the crate's documentation for how it is driven.
#[derive(Debug)]
pub struct Controller {
    config: ControllerConfig,
    link: Link,
    /// In-capsule data accepted, in bytes.
    in_capsule_max: u32,
    /// Commands accepted at once.
    commands_max: usize,
    /// A Connect has succeeded.
    is_connected: bool,
    /// Offset of data in C2HData: header, digest and the padding HPDA asks for.
    c2h_data_offset: u32,
    rx: Receive<PayloadDst>,
    /// The command whose in-capsule data is being received.
    capsule: Sqe,
    fetches: Vec<Fetch>,
    outstanding: usize,
    connecting: Option<Connecting>,
    /// Bytes R2Ts have asked for.
    asked: u64,
    /// Bytes that came for them, or need not come.
    received: u64,
    stalls: StallWatch,
}

/// Data of the one command a connection has business sending before it is connected (NVMe Base 2.0c §6.3).
const CONNECT_DATA_LEN: u32 = ConnectData::LEN as u32;

/// Alignment asked of the host for its data, in bytes: the least, because the adaptor copies or places bytes anyway.
const HOST_DATA_ALIGNMENT: u32 = 4;

impl Controller {
    stream_methods!(ControllerEvent);

    /// A connection just accepted.
    ///
    /// # Panics
    /// If `config` is outside the ranges its fields document.
    pub fn new(config: ControllerConfig, now: Instant) -> Self {
        assert!((1..=COMMANDS_MAX).contains(&config.commands_max));
        assert!(config.maxh2cdata >= MAXH2CDATA_MIN && config.maxh2cdata.is_multiple_of(4));
        assert!(config.maxh2cdata <= TRANSFER_LEN_MAX && config.in_capsule_max <= TRANSFER_LEN_MAX);
        Self {
            link: Link::new(Role::Controller, now + config.handshake_timeout),
            // Until it has connected, nobody knows whose memory its data takes.
            in_capsule_max: CONNECT_DATA_LEN,
            commands_max: config.commands_max,
            is_connected: false,
            c2h_data_offset: data_offset(PduType::C2hData, Digests::default(), 4),
            rx: Receive::new(),
            capsule: Sqe::zeroed(),
            fetches: Vec::new(),
            outstanding: 0,
            connecting: None,
            asked: 0,
            received: 0,
            stalls: StallWatch::default(),
            config,
        }
    }

    /// What the adaptor should receive next.
    #[inline]
    pub fn want(&self) -> Want<PayloadDst> {
        if self.link.is_open() && self.is_congested() {
            return Want::Congested;
        }
        self.link.want(&self.rx)
    }

    /// Whether more is queued for the peer than it should be allowed to leave unread.
    #[inline]
    pub fn is_congested(&self) -> bool {
        self.link.tx.bytes_queued() > TX_BYTES_HIGH
            || self.link.tx.ranges_queued() > self.config.commands_max
    }

    /// Whether a Connect has succeeded, so that the engine knows whose connection it is.
    #[inline]
    pub fn is_connected(&self) -> bool {
        self.is_connected
    }

    /// Bytes of the digest behind the data of a PDU: 4, or 0 where data digests are not used.
    #[inline]
    pub fn data_digest_len(&self) -> usize {
        self.link.digests.data_len()
    }

    /// The command whose in-capsule data is wanted. Meaningful while `want` says [`PayloadDst::InCapsule`].
    pub fn capsule(&self) -> &Sqe {
        &self.capsule
    }

    /// Whether the host owes bytes, or does not read: whether to look at its progress. `staged` bytes have arrived and were
    /// not taken.
    #[inline]
    pub fn is_owed(&self, staged: usize) -> bool {
        staged > 0
            || self.asked > self.received
            || self.rx.receiving().is_some()
            || self.has_transmit()
    }

    /// Looks whether the host moves the bytes it owes. To be called every [`PROGRESS_LOOK`](crate::limits::PROGRESS_LOOK)
    /// from when [`Self::is_owed`] says so until this answers false: nothing is owed. Time between looks counts up to
    /// twice that period; the handshake has its own deadline and does not count.
    ///
    /// # Errors
    /// `CapsuleStalled`, `DataStalled` or `ReaderStalled` once nothing came for the progress timeout; the connection is
    /// closed, without a terminate request, because no FES stands for it.
    pub fn handle_progress(&mut self, now: Instant, incoming: Incoming) -> Result<bool, Fault> {
        let owed = match (self.link.phase, self.link.deadline) {
            (Phase::Terminating | Phase::Closed, _) => return Ok(false),
            (Phase::Initializing | Phase::Ready, Some(_)) => return Ok(true),
            (Phase::Initializing | Phase::Ready, None) => self.owed(incoming),
        };
        let timeout = self.config.progress_timeout;
        match self.stalls.look(now, timeout, &owed) {
            Ok(()) => Ok(!owed.is_nothing()),
            Err(kind) => {
                self.link.close();
                Err(Fault::silent(kind))
            }
        }
    }

    /// Asks the host for the `len` bytes of command `cid`, under a free `tag` below `commands_max`. `Fetched` follows
    /// when all are there. Does nothing once the connection has failed.
    ///
    /// # Panics
    /// If `tag` is in use or out of range, or `len` is 0 or above 1 GiB.
    pub fn submit_fetch(&mut self, cid: u16, tag: FetchTag, len: u32) {
        assert!(
            (1..=TRANSFER_LEN_MAX).contains(&len),
            "fetch of {len} bytes"
        );
        let index = usize::from(tag.0);
        assert!(index < self.config.commands_max, "tag out of range");
        if self.link.phase != Phase::Ready {
            return;
        }
        if index >= self.fetches.len() {
            self.fetches.resize(index + 1, Fetch::default());
        }
        assert!(self.fetches[index].is_free(), "tag in use");
        self.fetches[index] = Fetch::start(cid, len);
        self.queue_r2t(tag);
    }

    /// Gives up a fetch. Its buffer is free at once: what still arrives is wanted as [`PayloadDst::Discard`]. Its tag is
    /// free if this returns true, and otherwise when [`ControllerEvent::FetchDrained`] comes. Once the connection has
    /// failed every tag is free, and this returns true.
    ///
    /// # Panics
    /// If `tag` is not in use on a connection that stands.
    pub fn cancel_fetch(&mut self, tag: FetchTag) -> bool {
        if self.link.phase != Phase::Ready {
            return true;
        }
        let fetch = &mut self.fetches[usize::from(tag.0)];
        assert!(!fetch.is_free() && !fetch.is_cancelled(), "tag not in use");
        // The host need not send it any more.
        self.received += u64::from(fetch.missing());
        let free = fetch.cancel();
        self.rx
            .redirect(PayloadDst::Fetch(tag), PayloadDst::Discard(tag));
        free
    }

    /// A command got no answer and will get none, though its connection stays: an event request that a controller reset
    /// dropped (NVMe Base 2.0c §3.7.2). It no longer counts as outstanding.
    pub fn forget_command(&mut self, cid: u16) {
        self.outstanding = self.outstanding.saturating_sub(1);
        self.connecting.take_if(|connect| connect.cid == cid);
    }

    /// Queues a completion. Does nothing once the connection has failed. That of a successful Connect ends the handshake
    /// deadline and sets the limits of in-capsule data and of commands outstanding to the queue's.
    #[inline]
    pub fn submit_response(&mut self, cqe: &Cqe) {
        self.answered(cqe);
        if self.link.phase == Phase::Ready {
            self.queue_response(cqe);
        }
    }

    /// Queues `len` bytes of data under `token` and the completion of their command. Whether it took the token: false
    /// once the connection has failed, or if `len` is 0.
    ///
    /// With `may_omit_response` a successful completion without a result travels as the SUCCESS flag of the data PDU,
    /// which is right only where the host has disabled submission queue flow control, as it carries no SQHD
    /// (TCP Transport 1.0c §3.6.2.9).
    #[inline]
    pub fn submit_data(
        &mut self,
        cqe: &Cqe,
        len: u32,
        token: DataToken,
        may_omit_response: bool,
    ) -> bool {
        if len == 0 || self.link.phase != Phase::Ready {
            self.submit_response(cqe);
            return false;
        }
        self.answered(cqe);
        let omit = may_omit_response && cqe.status == Status::SUCCESS && cqe.result == 0;
        self.queue_data(cqe.cid, len, token, omit);
        if !omit {
            self.queue_response(cqe);
        }
        true
    }

    /// The first `sent` bytes of [`Self::transmit`] are sent; `released` gets each token whose data is all gone.
    ///
    /// # Panics
    /// If more were sent than are queued.
    #[inline]
    pub fn handle_sent(&mut self, sent: usize, released: impl FnMut(DataToken)) {
        self.link.handle_sent(sent, released);
    }

    /// The socket is gone, or the adaptor gives up: closes the connection and reports every token still queued.
    pub fn clear(&mut self, released: impl FnMut(DataToken)) {
        self.link.tx.clear(released);
        self.link.close();
    }

    #[inline]
    fn header(&mut self, bytes: &[u8]) -> Result<ControllerStep, Fault> {
        let Some(common) = self.rx.common(bytes)? else {
            return Ok(ControllerStep::MORE);
        };
        let Some(next) = self.link.next(common.pdu_type)? else {
            return Ok(ControllerStep::MORE);
        };
        match common.pdu_type {
            PduType::CapsuleCmd => self.command(common, bytes),
            PduType::H2cData => self.data(common, bytes),
            PduType::IcReq => self.initialize(next, bytes),
            PduType::H2cTermReq => Err(terminated(bytes, PduType::H2cTermReq)),
            PduType::IcResp
            | PduType::C2hTermReq
            | PduType::CapsuleResp
            | PduType::C2hData
            | PduType::R2t => unreachable!("refused by the state table"),
        }
    }

    #[inline]
    fn command(&mut self, common: CommonHeader, bytes: &[u8]) -> Result<ControllerStep, Fault> {
        let digests = self.link.digests;
        let Some(layout) = self.rx.head(common, bytes, digests, HOST_DATA_ALIGNMENT)? else {
            return Ok(ControllerStep::MORE);
        };
        if layout.data_len > self.in_capsule_max {
            return Err(Fault::field(FaultKind::CapsuleTooLarge, 4));
        }
        if self.outstanding >= self.commands_max {
            let status = FatalStatus::SequenceError;
            return Err(Fault::new(FaultKind::TooManyCommands, status, 0));
        }
        self.outstanding += 1;
        let CapsuleCmd { sqe } = CapsuleCmd::parse(bytes)?;
        if sqe.opcode() == FABRICS {
            self.note_connect(&sqe);
        }
        if layout.data_len > 0 {
            self.capsule = sqe;
            self.rx.expect(PayloadDst::InCapsule, 0, layout);
            return Ok(ControllerStep::took(layout.data_offset, None));
        }
        let event = ControllerEvent::Capsule {
            sqe,
            data_len: 0,
            data_ok: true,
        };
        Ok(ControllerStep::took(layout.data_offset, Some(event)))
    }

    fn data(&mut self, common: CommonHeader, bytes: &[u8]) -> Result<ControllerStep, Fault> {
        let digests = self.link.digests;
        let Some(layout) = self.rx.head(common, bytes, digests, HOST_DATA_ALIGNMENT)? else {
            return Ok(ControllerStep::MORE);
        };
        let header = DataHeader::parse(bytes)?;
        if layout.data_len == 0 {
            return Err(Fault::field(FaultKind::DataLength, 4));
        }
        let Some(fetch) = self.fetches.get(usize::from(header.ttag)) else {
            return Err(Fault::field(FaultKind::UnknownTransferTag, 10));
        };
        fetch.check(
            &header,
            common.flags,
            layout.data_len,
            self.config.maxh2cdata,
        )?;
        let tag = FetchTag(header.ttag);
        let dst = if fetch.is_cancelled() {
            PayloadDst::Discard(tag)
        } else {
            PayloadDst::Fetch(tag)
        };
        self.rx.expect(dst, header.datao, layout);
        Ok(ControllerStep::took(layout.data_offset, None))
    }

    fn initialize(&mut self, next: Phase, bytes: &[u8]) -> Result<ControllerStep, Fault> {
        let req = IcReq::parse(bytes)?;
        // TCP Transport 1.0c §3.6.2.2: PFV 0 is the only format of this revision.
        if req.pfv != 0 {
            let status = FatalStatus::UnsupportedParameter;
            return Err(Fault::new(FaultKind::VersionUnsupported, status, 8));
        }
        let digests = Digests {
            header: req.digests.header && self.config.header_digest,
            data: req.digests.data && self.config.data_digest,
        };
        let resp = IcResp {
            pfv: 0,
            cpda_zb: (HOST_DATA_ALIGNMENT / 4 - 1) as u8,
            digests,
            maxh2cdata: self.config.maxh2cdata,
        };
        self.link.digests = digests;
        self.c2h_data_offset = data_offset(PduType::C2hData, digests, req.alignment());
        self.link.tx.push_bytes(&resp.to_bytes());
        self.rx = Receive::new();
        // The handshake deadline goes on: it covers Connect too.
        self.link.phase = next;
        let event = ControllerEvent::Ready { digests };
        Ok(ControllerStep::took(IcReq::LEN as u32, Some(event)))
    }

    #[inline]
    fn data_arrived(&mut self, arrived: Arrived<PayloadDst>) -> Option<ControllerEvent> {
        let Arrived { dst, len, data_ok } = arrived;
        let tag = match dst {
            PayloadDst::InCapsule => {
                return Some(ControllerEvent::Capsule {
                    sqe: self.capsule,
                    data_len: len,
                    data_ok,
                });
            }
            PayloadDst::Fetch(tag) => {
                self.received += u64::from(len);
                tag
            }
            PayloadDst::Discard(tag) => tag,
        };
        match self.fetches[usize::from(tag.0)].advance(len, data_ok) {
            Progress::Partial => None,
            Progress::AnotherR2t => {
                self.queue_r2t(tag);
                None
            }
            Progress::Done { data_ok } => Some(ControllerEvent::Fetched { tag, data_ok }),
            Progress::Drained => Some(ControllerEvent::FetchDrained { tag }),
        }
    }

    fn note_connect(&mut self, sqe: &Sqe) {
        // NVMe Base 2.0c §6.3: there is one Connect at a time, the first command of a queue; a refused one may be repeated.
        // One on a connected queue is refused, and must not be taken for another command of its id that succeeds.
        if !self.is_connected && self.connecting.is_none() && sqe.fctype() == fabrics::CONNECT {
            let command = ConnectCommand::parse(sqe);
            self.connecting = Some(Connecting {
                cid: sqe.cid(),
                qid: command.qid,
                queue_entries: command.queue_entries as usize,
            });
        }
    }

    /// A command is over.
    #[inline]
    fn answered(&mut self, cqe: &Cqe) {
        self.outstanding = self.outstanding.saturating_sub(1);
        let Some(connect) = self.connecting.take_if(|connect| connect.cid == cqe.cid) else {
            return;
        };
        if cqe.status.is_success() {
            // TCP Transport 1.0c §3.6.2.6: the admin queue takes 8192 bytes, whatever IOCCSZ says.
            self.in_capsule_max = match connect.qid {
                0 => ADMIN_IN_CAPSULE_MAX,
                _ => self.config.in_capsule_max,
            };
            self.commands_max = connect.queue_entries.min(self.config.commands_max);
            self.is_connected = true;
            self.link.established();
        }
    }

    fn owed(&self, incoming: Incoming) -> Owed {
        let receiving = self.rx.receiving();
        let (is_begun, placed_for) = match receiving {
            Some((PayloadDst::InCapsule | PayloadDst::Discard(_), _)) => (true, None),
            Some((PayloadDst::Fetch(tag), placed)) => (false, Some((tag, placed))),
            None => (matches!(incoming, Incoming::Open(1..)), None),
        };
        let outstanding = self.fetches.iter().enumerate().filter_map(|(at, fetch)| {
            let placed = placed_for.filter(|(tag, _)| usize::from(tag.0) == at);
            fetch.outstanding(placed.map_or(0, |(_, placed)| placed))
        });
        Owed {
            begun: is_begun.then(|| self.rx.parts()),
            oldest: outstanding.min_by_key(|oldest| oldest.due),
            asked: self.asked,
            received: self.received + placed_for.map_or(0, |(_, placed)| u64::from(placed)),
            sent: self.link.tx.sent(),
            queued: self.link.tx.queued(),
            is_open: incoming != Incoming::Held && !self.is_congested(),
        }
    }

    fn queue_r2t(&mut self, tag: FetchTag) {
        let fetch = &mut self.fetches[usize::from(tag.0)];
        let (cccid, r2to, r2tl) = fetch.open_r2t(self.config.maxh2cdata, &mut self.asked);
        let r2t = R2t {
            cccid,
            ttag: tag.0,
            r2to,
            r2tl,
        };
        let header = self.link.header_without_data(PduType::R2t);
        self.link.queue_header(&r2t.to_bytes(header));
    }

    #[inline]
    fn queue_response(&mut self, cqe: &Cqe) {
        let header = self.link.header_without_data(PduType::CapsuleResp);
        let resp = CapsuleResp { cqe: *cqe };
        self.link.queue_header(&resp.to_bytes(header));
    }

    #[inline]
    fn queue_data(&mut self, cid: u16, len: u32, token: DataToken, omit_response: bool) {
        let flags = Flags::LAST.with_if(omit_response, Flags::SUCCESS);
        let offset = self.c2h_data_offset;
        let common = self
            .link
            .header_with_data(PduType::C2hData, flags, offset, len);
        let data = DataHeader {
            cccid: cid,
            ttag: 0,
            datao: 0,
            datal: len,
        };
        let payload = Payload {
            token,
            offset: 0,
            len,
        };
        self.link.queue_data(common, data, payload);
    }
}
