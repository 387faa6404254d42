//! The host role: sends commands and their data, takes data and completions.

use crate::Want;
use crate::fault::{Fault, FaultKind};
use crate::limits::{COMMANDS_MAX, TRANSFER_LEN_MAX};
use crate::link::{Link, Payload, Step, stream_methods, terminated};
use crate::receive::{Arrived, Receive};
use crate::state::{Phase, Role};
use crate::transmit::DataToken;
use nvme_spec::{Cqe, Sgl, Sqe, Status};
use nvme_tcp_pdu::{
    CapsuleCmd, CapsuleResp, CommonHeader, DataHeader, Digests, FatalStatus, Flags, IcReq, IcResp,
    PduType, R2t, data_offset,
};
use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// What a host asks for and tolerates on one connection.
#[derive(Clone, Debug)]
pub struct HostConfig {
    /// Whether to ask for header digests.
    pub header_digest: bool,
    /// Whether to ask for data digests.
    pub data_digest: bool,
    /// Alignment of controller-to-host data, in bytes: a multiple of 4 up to 128.
    pub data_alignment: u32,
    /// Command identifiers used are below this, 1 to 65536.
    pub commands_max: usize,
    /// Time from connect to ICResp.
    pub handshake_timeout: Duration,
}

impl Default for HostConfig {
    fn default() -> Self {
        Self {
            header_digest: false,
            data_digest: false,
            data_alignment: 4,
            commands_max: 128,
            handshake_timeout: Duration::from_secs(10),
        }
    }
}

/// The data of a command. What is sent is named by [`DataToken`] of the command identifier.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum CommandData {
    /// None.
    None,
    /// Up to this many bytes from the controller.
    Read(u32),
    /// This many bytes to the controller, inside the capsule; at most what the controller said it takes (IOCCSZ).
    InCapsule(u32),
    /// This many bytes to the controller, when it asks for them.
    Write(u32),
}

/// What a PDU meant.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum HostEvent {
    /// ICResp was accepted; commands may be submitted.
    Ready {
        /// Digests the connection uses.
        digests: Digests,
    },
    /// A command is over; its identifier and buffers are free.
    Completion {
        /// What the controller said. Where it used the SUCCESS flag: success, result 0, and an SQHD that means nothing.
        cqe: Cqe,
        /// Bytes of data received, which may be fewer than asked for.
        data_len: u32,
        /// Whether every data digest matched (true where digests are not used).
        data_ok: bool,
    },
}

/// What [`Host::handle_header`] did.
pub type HostStep = Step<HostEvent>;

#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
enum Mode {
    #[default]
    Free,
    Busy,
    /// The completion arrived while data of the command was still queued; it is held back, so that the buffer is not
    /// reused under the send.
    Held,
}

/// One command identifier.
#[derive(Clone, Copy, Debug, Default)]
struct Slot {
    mode: Mode,
    data_ok: bool,
    /// Bytes the controller may send.
    read_len: u32,
    /// Bytes it has sent.
    read: u32,
    /// Bytes the controller may ask for.
    write_len: u32,
    /// Bytes it has asked for.
    asked: u32,
    /// Data ranges queued and not sent.
    queued: u32,
    /// FLAGS of the data PDU being received.
    flags: Flags,
    /// The completion held back.
    held: Cqe,
}

/// One TCP connection in host role. See the crate's documentation for how it is driven.
#[derive(Debug)]
pub struct Host {
    config: HostConfig,
    link: Link,
    /// MAXH2CDATA of the controller.
    maxh2cdata: u32,
    /// Alignment the controller asked for, in bytes.
    alignment: u32,
    rx: Receive<u16>,
    slots: Vec<Slot>,
    /// Completions held back until their data was sent.
    late: VecDeque<HostEvent>,
}

impl Host {
    stream_methods!(HostEvent);

    /// A connection just established, with ICReq queued.
    ///
    /// # Panics
    /// If `config` is outside the ranges its fields document.
    pub fn new(config: HostConfig, now: Instant) -> Self {
        assert!((1..=COMMANDS_MAX).contains(&config.commands_max));
        let alignment = config.data_alignment;
        assert!((4..=128).contains(&alignment) && alignment.is_multiple_of(4));
        let mut link = Link::new(Role::Host, now + config.handshake_timeout);
        let req = IcReq {
            pfv: 0,
            hpda_zb: (alignment / 4 - 1) as u8,
            digests: Digests {
                header: config.header_digest,
                data: config.data_digest,
            },
            // One R2T outstanding per command: more gain nothing where a controller may ask for all data at once.
            maxr2t_zb: 0,
        };
        link.tx.push_bytes(&req.to_bytes());
        Self {
            link,
            maxh2cdata: 0,
            alignment: 4,
            rx: Receive::new(),
            slots: vec![Slot::default(); config.commands_max],
            late: VecDeque::new(),
            config,
        }
    }

    /// What the adaptor should receive next; a payload's destination is the command's buffer.
    #[inline]
    pub fn want(&self) -> Want<u16> {
        self.link.want(&self.rx)
    }

    /// Whether ICResp has arrived and the connection stands.
    pub fn is_ready(&self) -> bool {
        self.link.phase == Phase::Ready
    }

    /// Queues a command under its command identifier, with PSDT and SGL set to what `data` means on this transport.
    /// Whether it was queued: false unless the connection is ready.
    ///
    /// # Panics
    /// If the identifier is in use or not below `commands_max`, or a length is 0 or above 1 GiB.
    #[inline]
    pub fn submit_command(&mut self, sqe: &Sqe, data: CommandData) -> bool {
        if self.link.phase != Phase::Ready {
            return false;
        }
        let cid = sqe.cid();
        let mut slot = Slot {
            mode: Mode::Busy,
            data_ok: true,
            ..Slot::default()
        };
        let mut sqe = *sqe;
        // Base 2.0c §3.3.3.1: fabrics commands use SGLs (PSDT 01b).
        sqe.0[1] = sqe.0[1] & 0x3f | 0x40;
        let mut in_capsule = 0;
        match data {
            CommandData::None => sqe.set_sgl(Sgl::transport(0)),
            CommandData::Read(len) => {
                slot.read_len = checked(len);
                sqe.set_sgl(Sgl::transport(len));
            }
            CommandData::Write(len) => {
                slot.write_len = checked(len);
                sqe.set_sgl(Sgl::transport(len));
            }
            CommandData::InCapsule(len) => {
                in_capsule = checked(len);
                slot.queued = 1;
                sqe.set_sgl(Sgl::in_capsule(0, len));
            }
        }
        let place = &mut self.slots[usize::from(cid)];
        assert!(place.mode == Mode::Free, "command identifier in use");
        *place = slot;
        let capsule = CapsuleCmd { sqe };
        if in_capsule == 0 {
            let common = self.link.header_without_data(PduType::CapsuleCmd);
            self.link.queue_header(&capsule.to_bytes(common));
            return true;
        }
        let at = data_offset(PduType::CapsuleCmd, self.link.digests, self.alignment);
        let common = self
            .link
            .header_with_data(PduType::CapsuleCmd, Flags::NONE, at, in_capsule);
        self.link.queue_header(&capsule.to_bytes(common));
        let payload = Payload {
            token: DataToken(u32::from(cid)),
            offset: 0,
            len: in_capsule,
        };
        self.link.queue_payload(&common, payload);
        true
    }

    /// The first `sent` bytes of [`Self::transmit`], whose data tokens are command identifiers, are sent. Completions that waited for it come by
    /// [`Self::poll_event`].
    ///
    /// # Panics
    /// If more were sent than are queued.
    #[inline]
    pub fn handle_sent(&mut self, sent: usize) {
        let Self {
            link, slots, late, ..
        } = self;
        link.handle_sent(sent, |DataToken(cid)| {
            let slot = &mut slots[cid as usize];
            slot.queued -= 1;
            if slot.mode == Mode::Held && slot.queued == 0 {
                slot.mode = Mode::Free;
                late.push_back(slot.completion(slot.held));
            }
        });
    }

    /// Completions that had to wait until their command's data was sent. Ask after [`Self::handle_sent`].
    #[inline]
    pub fn poll_event(&mut self) -> Option<HostEvent> {
        self.late.pop_front()
    }

    /// Whether `cid` is in use.
    pub fn is_busy(&self, cid: u16) -> bool {
        self.slots
            .get(usize::from(cid))
            .is_some_and(|slot| slot.mode != Mode::Free)
    }

    /// The socket is gone, or the adaptor gives up: closes the connection and forgets every command. No completion
    /// follows for them.
    pub fn clear(&mut self) {
        self.link.tx.clear(|_| {});
        self.link.close();
        self.slots.fill(Slot::default());
        self.late.clear();
    }

    #[inline]
    fn header(&mut self, bytes: &[u8]) -> Result<HostStep, Fault> {
        let Some(common) = self.rx.common(bytes)? else {
            return Ok(HostStep::MORE);
        };
        let Some(next) = self.link.next(common.pdu_type)? else {
            return Ok(HostStep::MORE);
        };
        match common.pdu_type {
            PduType::C2hData => self.data(common, bytes),
            PduType::CapsuleResp => self.response(common, bytes),
            PduType::R2t => self.ready_to_transfer(common, bytes),
            PduType::IcResp => self.initialized(next, bytes),
            PduType::C2hTermReq => Err(terminated(bytes, PduType::C2hTermReq)),
            PduType::IcReq | PduType::H2cTermReq | PduType::CapsuleCmd | PduType::H2cData => {
                unreachable!("refused by the state table")
            }
        }
    }

    fn initialized(&mut self, next: Phase, bytes: &[u8]) -> Result<HostStep, Fault> {
        let resp = IcResp::parse(bytes)?;
        // TCP Transport 1.0c §3.6.2.3: PFV 0, and no digest that ICReq did not offer.
        if resp.pfv != 0 {
            let status = FatalStatus::UnsupportedParameter;
            return Err(Fault::new(FaultKind::VersionUnsupported, status, 8));
        }
        let digests = resp.digests;
        if digests.header && !self.config.header_digest || digests.data && !self.config.data_digest
        {
            return Err(Fault::field(FaultKind::DigestNotOffered, 11));
        }
        self.link.digests = digests;
        self.maxh2cdata = resp.maxh2cdata;
        self.alignment = resp.alignment();
        self.rx = Receive::new();
        self.link.phase = next;
        self.link.established();
        let event = HostEvent::Ready { digests };
        Ok(HostStep::took(IcResp::LEN as u32, Some(event)))
    }

    #[inline]
    fn data(&mut self, common: CommonHeader, bytes: &[u8]) -> Result<HostStep, Fault> {
        let digests = self.link.digests;
        let alignment = self.config.data_alignment;
        let Some(layout) = self.rx.head(common, bytes, digests, alignment)? else {
            return Ok(HostStep::MORE);
        };
        let header = DataHeader::parse(bytes)?;
        let slot = busy(&mut self.slots, header.cccid, 8)?;
        if header.datal != layout.data_len || layout.data_len == 0 {
            return Err(Fault::field(FaultKind::DataLength, 16));
        }
        if header.datao != slot.read {
            return Err(Fault::field(FaultKind::DataOutOfOrder, 12));
        }
        if layout.data_len > slot.read_len - slot.read {
            let status = FatalStatus::DataOutOfRange;
            return Err(Fault::new(FaultKind::DataOutOfRange, status, 0));
        }
        // TCP Transport 1.0c §3.6.2.9: SUCCESS only together with LAST_PDU.
        if common.flags.has(Flags::SUCCESS) && !common.flags.has(Flags::LAST) {
            return Err(Fault::field(FaultKind::LastFlag, 1));
        }
        slot.flags = common.flags;
        self.rx.expect(header.cccid, header.datao, layout);
        Ok(HostStep::took(layout.data_offset, None))
    }

    #[inline]
    fn data_arrived(&mut self, arrived: Arrived<u16>) -> Option<HostEvent> {
        let Arrived { dst, len, data_ok } = arrived;
        let slot = &mut self.slots[usize::from(dst)];
        slot.read += len;
        slot.data_ok &= data_ok;
        if slot.flags.has(Flags::SUCCESS) {
            return slot.complete(Cqe::new(dst, Status::SUCCESS));
        }
        None
    }

    #[inline]
    fn response(&mut self, common: CommonHeader, bytes: &[u8]) -> Result<HostStep, Fault> {
        let Some(layout) = self.rx.head(common, bytes, self.link.digests, 4)? else {
            return Ok(HostStep::MORE);
        };
        let CapsuleResp { cqe } = CapsuleResp::parse(bytes)?;
        // The command identifier is at byte 12 of the completion, 20 of the PDU.
        let slot = busy(&mut self.slots, cqe.cid, 20)?;
        Ok(HostStep::took(layout.data_offset, slot.complete(cqe)))
    }

    fn ready_to_transfer(&mut self, common: CommonHeader, bytes: &[u8]) -> Result<HostStep, Fault> {
        let Some(layout) = self.rx.head(common, bytes, self.link.digests, 4)? else {
            return Ok(HostStep::MORE);
        };
        let r2t = R2t::parse(bytes)?;
        let slot = busy(&mut self.slots, r2t.cccid, 8)?;
        if slot.write_len == 0 {
            return Err(Fault::field(FaultKind::R2tNotAllowed, 8));
        }
        // TCP Transport 1.0c §3.6.2.2: MAXR2T 0 allows one R2T until its data was sent.
        if slot.queued > 0 {
            let status = FatalStatus::LimitExceeded;
            return Err(Fault::new(FaultKind::R2tNotAllowed, status, 0));
        }
        if r2t.r2to != slot.asked {
            return Err(Fault::field(FaultKind::DataOutOfOrder, 12));
        }
        if r2t.r2tl == 0 || r2t.r2tl > slot.write_len - slot.asked {
            let status = FatalStatus::DataOutOfRange;
            return Err(Fault::new(FaultKind::DataOutOfRange, status, 0));
        }
        slot.asked += r2t.r2tl;
        slot.queued = r2t.r2tl.div_ceil(self.maxh2cdata);
        self.queue_data(r2t);
        Ok(HostStep::took(layout.data_offset, None))
    }

    /// Queues what an R2T asked for, in PDUs of at most MAXH2CDATA.
    fn queue_data(&mut self, r2t: R2t) {
        let at = data_offset(PduType::H2cData, self.link.digests, self.alignment);
        let end = r2t.r2to + r2t.r2tl;
        let mut offset = r2t.r2to;
        while offset < end {
            let len = (end - offset).min(self.maxh2cdata);
            let flags = Flags::NONE.with_if(offset + len == end, Flags::LAST);
            let common = self.link.header_with_data(PduType::H2cData, flags, at, len);
            let data = DataHeader {
                cccid: r2t.cccid,
                ttag: r2t.ttag,
                datao: offset,
                datal: len,
            };
            let token = DataToken(u32::from(r2t.cccid));
            self.link
                .queue_data(common, data, Payload { token, offset, len });
            offset += len;
        }
    }
}

impl Slot {
    #[inline]
    fn completion(&self, cqe: Cqe) -> HostEvent {
        HostEvent::Completion {
            cqe,
            data_len: self.read,
            data_ok: self.data_ok,
        }
    }

    #[inline]
    fn complete(&mut self, cqe: Cqe) -> Option<HostEvent> {
        if self.queued > 0 {
            self.mode = Mode::Held;
            self.held = cqe;
            return None;
        }
        self.mode = Mode::Free;
        Some(self.completion(cqe))
    }
}

#[inline]
fn checked(len: u32) -> u32 {
    assert!(
        (1..=TRANSFER_LEN_MAX).contains(&len),
        "transfer of {len} bytes"
    );
    len
}

/// The slot of a command that is outstanding; `field` is where the PDU names it.
#[inline]
fn busy(slots: &mut [Slot], cid: u16, field: u32) -> Result<&mut Slot, Fault> {
    match slots.get_mut(usize::from(cid)) {
        Some(slot) if slot.mode == Mode::Busy => Ok(slot),
        Some(_) | None => Err(Fault::field(FaultKind::UnknownCommand, field)),
    }
}
