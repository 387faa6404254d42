//! The controller role: takes commands and their data, sends data and completions.

use crate::Want;
use crate::fault::{Fault, FaultKind};
use crate::fetch::{Fetch, FetchTag, Progress};
use crate::limits::{COMMANDS_MAX, TRANSFER_LEN_MAX, TX_BYTES_HIGH};
use crate::link::{Link, Payload, terminated};
use crate::receive::{Arrived, Receive};
use crate::state::{Phase, Role};
use crate::transmit::{Chunks, DataToken, DigestOrder};
use nvme_spec::{Cqe, Sqe, Status};
use nvme_tcp_pdu::{
    ADMIN_IN_CAPSULE_MAX, CapsuleCmd, CapsuleResp, CommonHeader, DIGEST_LEN, DataHeader, Digests,
    FatalStatus, Flags, IcReq, IcResp, MAXH2CDATA_MIN, PduType, R2t, data_offset,
};
use std::time::{Duration, Instant};

/// What a controller offers and tolerates on one connection.
#[derive(Clone, Debug)]
pub struct ControllerConfig {
    /// In-capsule data of an I/O queue, in bytes. Before [`Controller::handle_established`] and on the admin queue the
    /// limit is at least 8192.
    pub in_capsule_max: u32,
    /// MAXH2CDATA: most data bytes of one H2CData PDU and of one R2T. At least 4096, a multiple of 4.
    pub maxh2cdata: u32,
    /// Whether header digests are used when the host asks for them.
    pub header_digest: bool,
    /// Whether data digests are used when the host asks for them.
    pub data_digest: bool,
    /// Most commands outstanding, the size of the largest submission queue: 1 to 65536. A host that exceeds it is
    /// disconnected.
    pub commands_max: usize,
    /// Time from accept to [`Controller::handle_established`].
    pub handshake_timeout: Duration,
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
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ControllerStep {
    /// Bytes taken off the front; 0 if more are needed first (how many, `want` tells).
    pub taken: usize,
    /// What they meant.
    pub event: Option<ControllerEvent>,
}

impl ControllerStep {
    const MORE: Self = Self {
        taken: 0,
        event: None,
    };

    #[inline]
    const fn took(bytes: u32, event: Option<ControllerEvent>) -> Self {
        Self {
            taken: bytes as usize,
            event,
        }
    }
}

/// One TCP connection in controller role. See the crate's documentation for how it is driven.
#[derive(Debug)]
pub struct Controller {
    config: ControllerConfig,
    link: Link,
    /// In-capsule data accepted, in bytes.
    in_capsule_max: u32,
    /// Offset of data in C2HData: header, digest and the padding HPDA asks for.
    c2h_data_offset: u32,
    rx: Receive<PayloadDst>,
    /// The command whose in-capsule data is being received.
    capsule: Sqe,
    fetches: Vec<Fetch>,
    outstanding: usize,
}

/// Alignment asked of the host for its data, in bytes: the least, because the adaptor copies or places bytes anyway.
const HOST_DATA_ALIGNMENT: u32 = 4;

impl Controller {
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
            in_capsule_max: config.in_capsule_max.max(ADMIN_IN_CAPSULE_MAX),
            c2h_data_offset: data_offset(PduType::C2hData, Digests::default(), 4),
            rx: Receive::new(),
            capsule: Sqe::zeroed(),
            fetches: Vec::new(),
            outstanding: 0,
            config,
        }
    }

    /// What the adaptor should receive next.
    #[inline]
    pub fn want(&self) -> Want<PayloadDst> {
        match self.link.phase {
            Phase::Initializing | Phase::Ready if self.is_congested() => Want::Congested,
            Phase::Initializing | Phase::Ready => self.rx.want(),
            Phase::Terminating => Want::Flush,
            Phase::Closed => Want::Close,
        }
    }

    /// Whether more is queued for the peer than it should be allowed to leave unread.
    #[inline]
    pub fn is_congested(&self) -> bool {
        self.link.tx.bytes_queued() > TX_BYTES_HIGH
            || self.link.tx.ranges_queued() > self.config.commands_max
    }

    /// Whether data digests are used.
    pub fn has_data_digest(&self) -> bool {
        self.link.digests.data
    }

    /// The command whose in-capsule data is wanted. Meaningful while `want` says [`PayloadDst::InCapsule`].
    pub fn capsule(&self) -> &Sqe {
        &self.capsule
    }

    /// Takes a header, or a data digest, off the front of `bytes`, which holds what was received and not yet taken.
    ///
    /// Call it when [`Self::want`] says `Header`; at most one PDU's header is taken.
    ///
    /// # Errors
    /// A [`Fault`] ends the connection; `want` says `Flush` or `Close` from there on.
    pub fn handle_header(&mut self, now: Instant, bytes: &[u8]) -> Result<ControllerStep, Fault> {
        if self.rx.is_at_digest() {
            let Some(arrived) = self.rx.data_digest(bytes) else {
                return Ok(ControllerStep::MORE);
            };
            let event = self.data_arrived(arrived);
            return Ok(ControllerStep::took(DIGEST_LEN as u32, event));
        }
        self.header(bytes)
            .inspect_err(|fault| self.link.fail(now, fault, bytes))
    }

    /// Takes data that the adaptor has placed where [`Self::want`] said: the next `placed.len()` bytes, at most as many
    /// as were outstanding. The bytes are read only if data digests are used.
    ///
    /// # Panics
    /// If no data is wanted, or less.
    #[inline]
    pub fn handle_payload(&mut self, placed: &[u8]) -> Option<ControllerEvent> {
        let arrived = self.rx.placed(placed)?;
        self.data_arrived(arrived)
    }

    /// The connection belongs to a queue: ends the handshake deadline and sets the in-capsule data limit, in bytes.
    pub fn handle_established(&mut self, in_capsule_max: u32) {
        self.in_capsule_max = in_capsule_max.min(TRANSFER_LEN_MAX);
        self.link.established();
    }

    /// When [`Self::handle_timeout`] is to be called.
    pub fn poll_timeout(&self) -> Option<Instant> {
        self.link.deadline
    }

    /// Acts on a deadline that has passed; does nothing before it.
    ///
    /// # Errors
    /// [`FaultKind::HandshakeTimeout`] if the peer took too long; the connection is closed.
    pub fn handle_timeout(&mut self, now: Instant) -> Result<(), Fault> {
        self.link.handle_timeout(now)
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
        let free = fetch.cancel();
        self.rx
            .redirect(PayloadDst::Fetch(tag), PayloadDst::Discard(tag));
        free
    }

    /// Queues a completion. Does nothing once the connection has failed.
    #[inline]
    pub fn submit_response(&mut self, cqe: &Cqe) {
        self.outstanding = self.outstanding.saturating_sub(1);
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
        self.outstanding = self.outstanding.saturating_sub(1);
        let omit = may_omit_response && cqe.status == Status::SUCCESS && cqe.result == 0;
        self.queue_data(cqe.cid, len, token, omit);
        if !omit {
            self.queue_response(cqe);
        }
        true
    }

    /// The next data digest to compute. All are to be answered before [`Self::transmit`].
    #[inline]
    pub fn poll_digest_order(&mut self) -> Option<DigestOrder> {
        self.link.tx.poll_order()
    }

    /// The CRC32C of the range `order` named.
    pub fn handle_digest(&mut self, order: DigestOrder, digest: u32) {
        self.link.tx.handle_digest(order, digest);
    }

    /// Whether there is something to send.
    #[inline]
    pub fn has_transmit(&self) -> bool {
        !self.link.tx.is_empty()
    }

    /// Everything queued, in stream order, for one gathered send.
    ///
    /// # Panics
    /// If a digest order is open.
    #[inline]
    pub fn transmit(&self) -> Chunks<'_> {
        self.link.tx.chunks()
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
        if self.outstanding == self.config.commands_max {
            let status = FatalStatus::SequenceError;
            return Err(Fault::new(FaultKind::TooManyCommands, status, 0));
        }
        self.outstanding += 1;
        let CapsuleCmd { sqe } = CapsuleCmd::parse(bytes)?;
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
            PayloadDst::Fetch(tag) | PayloadDst::Discard(tag) => tag,
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

    fn queue_r2t(&mut self, tag: FetchTag) {
        let fetch = &mut self.fetches[usize::from(tag.0)];
        let (cccid, r2to, r2tl) = fetch.open_r2t(self.config.maxh2cdata);
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
