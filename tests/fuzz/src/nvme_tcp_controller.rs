//! A controller connection against an arbitrary host: bytes in arbitrary pieces, an adaptor that answers, fetches,
//! cancels and sends in arbitrary order.
//!
//! Oracle: no panic; payload never leaves the range that was asked for; every token comes back exactly once; what is
//! queued stays bounded; a connection that is not connected carries no more data than Connect has, and is not told of too
//! many commands while there are fewer; no host that owes nothing stalls, and no debt goes unseen; after `clear` the connection wants to be
//! closed.

use std::mem::replace;
use std::time::{Duration, Instant};

use nvme_spec::fabrics::ConnectData;
use nvme_spec::opcode::{FABRICS, fabrics};
use nvme_spec::{Cqe, Sqe, Status};
use nvme_tcp::{
    Controller, ControllerConfig, ControllerEvent, DataToken, FaultKind, FetchTag, Incoming,
    PayloadDst, Want,
};
use nvme_tcp_pdu::{CapsuleCmd, DataHeader, Digests, Flags, IcReq, PduType};

use crate::stream::{Choices, Side, Stream, queued, receive};

const COMMANDS: usize = 8;
const IN_CAPSULE_MAX: u32 = 8192;
/// Choice of an answer that is none.
const FORGOTTEN: u8 = 0xfe;
/// Bytes not taken at which the adaptor stops to feed: the socket of a congested core is full.
const STREAM_MAX: usize = 1 << 16;

struct Adaptor {
    core: Controller,
    now: Instant,
    stream: Stream,
    /// Commands taken and not answered.
    open: Vec<u16>,
    /// Per tag: command, length, next offset.
    fetches: [Option<(u16, u32, u32)>; COMMANDS],
    draining: [bool; COMMANDS],
    tokens: [bool; COMMANDS],
}

/// Runs one input.
///
/// # Panics
/// When the oracle is broken.
pub fn run(input: &[u8]) {
    let mut choices = Choices(input);
    let now = Instant::now();
    let config = ControllerConfig {
        commands_max: COMMANDS,
        maxh2cdata: 4096,
        in_capsule_max: 4096,
        progress_timeout: Duration::from_secs(1),
        ..ControllerConfig::default()
    };
    let mut adaptor = Adaptor {
        core: Controller::new(config, now),
        now,
        stream: Stream::default(),
        open: Vec::new(),
        fetches: [None; COMMANDS],
        draining: [false; COMMANDS],
        tokens: [false; COMMANDS],
    };
    while !choices.0.is_empty() {
        let is_full = adaptor.stream.bytes.len() > STREAM_MAX;
        match choices.byte() % 9 {
            0..4 if is_full => {}
            0 => adaptor.stream.feed_raw(&mut choices),
            1 => adaptor.feed_icreq(&mut choices),
            2 => adaptor.feed_command(&mut choices),
            3 => adaptor.feed_data(&mut choices),
            4 => adaptor.answer(&mut choices),
            5 => adaptor.fetch(&mut choices),
            6 => adaptor.cancel(&mut choices),
            7 => adaptor.send(&mut choices),
            _ => {
                adaptor.now += Duration::from_millis(u64::from(choices.byte()));
                let _ = adaptor.core.handle_timeout(adaptor.now);
                adaptor.look_at_progress();
            }
        }
        receive(&mut adaptor);
    }
    let tokens = &mut adaptor.tokens;
    adaptor.core.clear(|token| {
        assert!(replace(&mut tokens[token.0 as usize], false));
    });
    assert!(!tokens.contains(&true), "a token was lost");
    assert_eq!(adaptor.core.want(), Want::Close);
}

impl Adaptor {
    fn feed_icreq(&mut self, choices: &mut Choices<'_>) {
        let req = IcReq {
            pfv: u16::from(choices.is_rare()),
            hpda_zb: choices.byte() % 33,
            digests: Digests::from_byte(choices.byte()),
            maxr2t_zb: 0,
        };
        self.stream.bytes.extend(req.to_bytes());
    }

    fn feed_command(&mut self, choices: &mut Choices<'_>) {
        let len = u32::from(choices.word() % 5000);
        let has_data = !choices.byte().is_multiple_of(2);
        let len = if has_data { len } else { 0 };
        // Mostly within what is accepted before Connect.
        let len = if self.core.is_connected() {
            len
        } else {
            len % 1100
        };
        // A Connect, whose answer ends the handshake if it is a success, or anything else.
        let sqe = match choices.byte() {
            cid @ 0xf0.. => {
                let mut sqe = Sqe::new(FABRICS, cid.into(), fabrics::CONNECT.into());
                // QID and SQSIZE (NVMe Base 2.0c §6.3).
                sqe.set_dword(10, u32::from(cid & 1) << 16);
                sqe.set_dword(11, u32::from(cid & 0xf));
                sqe
            }
            cid => Sqe::new(0, cid.into(), 0),
        };
        let common = self.stream.common(PduType::CapsuleCmd, len, Flags::NONE);
        let raw = CapsuleCmd { sqe }.to_bytes(common);
        self.stream.feed_header(&raw, choices.is_rare());
        self.stream.feed_payload(len, choices.is_rare());
    }

    fn feed_data(&mut self, choices: &mut Choices<'_>) {
        let ttag = u16::from(choices.byte() % 9);
        let known = self.fetches.get(usize::from(ttag)).copied().flatten();
        let (cccid, len, next) = known.unwrap_or((0, 4096, 0));
        let part = (len - next).min(4096);
        let part = match choices.byte() {
            0..200 => part,
            _ => u32::from(choices.word()).min(part),
        };
        let last = Flags::NONE.with_if(choices.byte() < 200, Flags::LAST);
        let data = DataHeader {
            cccid: cccid.wrapping_add(u16::from(choices.is_rare())),
            ttag,
            datao: next.wrapping_add(u32::from(choices.is_rare())),
            datal: part,
        };
        let common = self.stream.common(PduType::H2cData, part, last);
        self.stream.feed_header(&data.to_bytes(common), false);
        self.stream.feed_payload(part, choices.is_rare());
    }

    fn answer(&mut self, choices: &mut Choices<'_>) {
        let Some(cid) = self.open.pop() else {
            return;
        };
        let fate = choices.byte();
        if fate == FORGOTTEN {
            return self.core.forget_command(cid);
        }
        let cqe = Cqe::new(cid, Status(u16::from(fate & 1)));
        let free = self.tokens.iter().position(|held| !held);
        match free {
            Some(token) if choices.byte() & 1 == 1 => {
                let len = u32::from(choices.word());
                let omit = choices.byte() & 1 == 1;
                let name = DataToken(token as u32);
                self.tokens[token] = self.core.submit_data(&cqe, len, name, omit);
            }
            _ => self.core.submit_response(&cqe),
        }
    }

    fn look_at_progress(&mut self) {
        let staged = self.stream.bytes.len();
        let is_owed = self.core.handle_progress(self.now, Incoming::Open(staged));
        match is_owed {
            Ok(false) => assert!(!self.is_up() || !self.core.is_owed(staged), "unseen debt"),
            Ok(true) => {}
            Err(fault) => {
                assert!(fault.status.is_none() && !self.is_up());
                // Only a host that owes something stalls.
                assert!(self.core.is_owed(staged), "no debt");
            }
        }
    }

    /// Data a capsule may carry.
    fn in_capsule_max(&self) -> u32 {
        if self.core.is_connected() {
            IN_CAPSULE_MAX
        } else {
            ConnectData::LEN as u32
        }
    }

    fn is_up(&self) -> bool {
        !matches!(self.core.want(), Want::Flush | Want::Close)
    }

    fn fetch(&mut self, choices: &mut Choices<'_>) {
        let tag = usize::from(choices.byte()) % COMMANDS;
        if self.fetches[tag].is_some() || self.draining[tag] || !self.is_up() {
            return;
        }
        let Some(cid) = self.open.last().copied() else {
            return;
        };
        let len = u32::from(choices.word()) + 1;
        self.core.submit_fetch(cid, FetchTag(tag as u16), len);
        self.fetches[tag] = Some((cid, len, 0));
    }

    fn cancel(&mut self, choices: &mut Choices<'_>) {
        let tag = usize::from(choices.byte()) % COMMANDS;
        if self.fetches[tag].take().is_some() {
            self.draining[tag] = !self.core.cancel_fetch(FetchTag(tag as u16));
        }
    }

    fn send(&mut self, choices: &mut Choices<'_>) {
        while let Some(order) = self.core.poll_digest_order() {
            assert!(self.tokens[order.token.0 as usize]);
            self.core.handle_digest(order, 0);
        }
        let held = self.tokens;
        let whole = queued(self.core.transmit(), |token, _, _| {
            assert!(held[token.0 as usize]);
        });
        assert_eq!(whole > 0, self.core.has_transmit());
        let sent = usize::from(choices.word()).min(whole);
        let tokens = &mut self.tokens;
        self.core.handle_sent(sent, |token| {
            assert!(replace(&mut tokens[token.0 as usize], false));
        });
    }
}

impl Side for Adaptor {
    type Dst = PayloadDst;
    type Event = ControllerEvent;

    fn stream(&mut self) -> &mut Stream {
        &mut self.stream
    }

    fn want(&self) -> Want<PayloadDst> {
        self.core.want()
    }

    fn header(&mut self, bytes: &[u8]) -> Option<(usize, Option<ControllerEvent>)> {
        match self.core.handle_header(self.now, bytes) {
            Ok(step) => Some((step.taken, step.event)),
            Err(fault) => {
                if fault.kind == FaultKind::TooManyCommands && !self.core.is_connected() {
                    assert_eq!(self.open.len(), COMMANDS, "commands counted twice");
                }
                None
            }
        }
    }

    fn payload(
        &mut self,
        dst: PayloadDst,
        offset: u32,
        len: u32,
        placed: &[u8],
    ) -> Option<ControllerEvent> {
        match dst {
            PayloadDst::InCapsule => assert!(offset + len <= self.in_capsule_max()),
            PayloadDst::Fetch(tag) => {
                let fetch = self.fetches[usize::from(tag.0)].as_mut();
                let (_, whole, next) = fetch.expect("an active fetch");
                assert_eq!(offset, *next);
                assert!(u64::from(offset) + u64::from(len) <= u64::from(*whole));
                *next += placed.len() as u32;
            }
            PayloadDst::Discard(tag) => assert!(self.draining[usize::from(tag.0)]),
        }
        self.core.handle_payload(placed)
    }

    fn congested(&self) {
        assert!(self.core.has_transmit(), "congested with nothing to send");
    }

    fn event(&mut self, event: ControllerEvent) {
        match event {
            ControllerEvent::Ready { digests } => self.stream.digests = digests,
            ControllerEvent::Capsule { sqe, data_len, .. } => {
                assert!(data_len <= self.in_capsule_max());
                self.open.push(sqe.cid());
                assert!(self.open.len() <= COMMANDS);
            }
            ControllerEvent::Fetched { tag, .. } => {
                let fetch = self.fetches[usize::from(tag.0)].take();
                let (_, len, next) = fetch.expect("an active fetch");
                assert_eq!(len, next);
            }
            ControllerEvent::FetchDrained { tag } => {
                assert!(replace(&mut self.draining[usize::from(tag.0)], false));
            }
        }
    }
}
