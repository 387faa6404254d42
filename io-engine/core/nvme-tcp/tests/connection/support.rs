//! Two connections in memory: a host and a controller, joined by byte streams that are cut at random places.

use nvme_spec::fabrics::ConnectCommand;
use nvme_spec::{Cqe, Sgl, Sqe, Status};
use nvme_tcp::*;
use nvme_tcp_pdu::{CapsuleCmd, CommonHeader, DataHeader, Flags, IcReq, PduType};
use std::collections::VecDeque;
use std::time::Instant;

pub(crate) const DISK_LEN: usize = 1 << 20;
pub(crate) const WRITE: u8 = 1;
pub(crate) const READ: u8 = 2;
pub(crate) const FLUSH: u8 = 0;
pub(crate) const FABRICS: u8 = 0x7f;

/// SplitMix64.
pub(crate) struct Seeded(pub u64);

impl Seeded {
    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub(crate) fn below(&mut self, bound: u64) -> usize {
        (self.next() % bound) as usize
    }
}

/// A controller with a disk behind it that serves WRITE, READ and FLUSH of `dword 12` bytes at `dword 10`.
pub(crate) struct ControllerSide {
    pub(crate) core: Controller,
    pub(crate) disk: Vec<u8>,
    pub(crate) staged: Vec<u8>,
    pub(crate) events: Vec<ControllerEvent>,
    pub(crate) may_omit_response: bool,
    capsule: Vec<u8>,
    /// By tag: the command and its buffer.
    fetches: Vec<Option<(Sqe, Vec<u8>)>>,
    /// By token.
    reads: Vec<Option<Vec<u8>>>,
}

/// A host with one buffer per command identifier.
pub(crate) struct HostSide {
    pub(crate) core: Host,
    pub(crate) staged: Vec<u8>,
    pub(crate) buffers: Vec<Vec<u8>>,
    pub(crate) events: VecDeque<HostEvent>,
}

pub(crate) fn io(opcode: u8, cid: u16, at: usize, len: usize) -> Sqe {
    let mut sqe = Sqe::new(opcode, cid, 1);
    sqe.set_dword(10, at as u32);
    sqe.set_dword(12, len as u32);
    sqe
}

/// A Connect to queue `qid`, as large as there is one.
pub(crate) fn connect(cid: u16, qid: u16) -> Sqe {
    connect_sized(cid, qid, 1 << 16)
}

/// A Connect to queue `qid` of `entries` entries.
pub(crate) fn connect_sized(cid: u16, qid: u16, entries: u32) -> Sqe {
    let command = ConnectCommand {
        recfmt: 0,
        qid,
        queue_entries: entries,
        sq_flow_control_disabled: false,
        kato_ms: 0,
    };
    command.emit(cid, Sgl::in_capsule(0, 1024))
}

pub(crate) fn icreq(header: bool, data: bool) -> IcReq {
    IcReq {
        pfv: 0,
        hpda_zb: 0,
        digests: Digests { header, data },
        maxr2t_zb: 0,
    }
}

pub(crate) fn capsule(sqe: Sqe, data: usize) -> Vec<u8> {
    let pdo = if data > 0 { 72 } else { 0 };
    let header = CommonHeader::new(PduType::CapsuleCmd, Flags::NONE, pdo, 72 + data as u32);
    let mut raw = CapsuleCmd { sqe }.to_bytes(header).to_vec();
    raw.resize(72 + data, 0x5a);
    raw
}

pub(crate) fn h2c(flags: Flags, cccid: u16, ttag: u16, datao: u32, len: u32) -> Vec<u8> {
    let header = CommonHeader::new(PduType::H2cData, flags, 24, 24 + len);
    let data = DataHeader {
        cccid,
        ttag,
        datao,
        datal: len,
    };
    let mut raw = data.to_bytes(header).to_vec();
    raw.resize(24 + len as usize, 0x5a);
    raw
}

impl ControllerSide {
    /// Takes a Connect to queue `qid` and answers it.
    pub(crate) fn connect(&mut self, now: Instant, qid: u16) {
        self.staged.extend(capsule(connect(0, qid), 0));
        self.turn(now, &mut Seeded(0)).expect("a good Connect");
        self.send(usize::MAX);
    }

    pub(crate) fn new(config: ControllerConfig, now: Instant) -> Self {
        let commands = config.commands_max;
        Self {
            core: Controller::new(config, now),
            disk: vec![0; DISK_LEN],
            staged: Vec::new(),
            events: Vec::new(),
            may_omit_response: true,
            capsule: Vec::new(),
            fetches: vec![None; commands],
            reads: vec![None; commands],
        }
    }

    /// Works off what is staged.
    pub(crate) fn turn(&mut self, now: Instant, seeded: &mut Seeded) -> Result<(), Fault> {
        loop {
            let event = match self.core.want() {
                Want::Header(at_least) => {
                    if self.staged.len() < at_least {
                        return Ok(());
                    }
                    let step = self.core.handle_header(now, &self.staged)?;
                    self.staged.drain(..step.taken);
                    if step.taken == 0
                        && matches!(self.core.want(), Want::Header(n) if n <= self.staged.len())
                    {
                        panic!("no progress although the wanted bytes are there");
                    }
                    step.event
                }
                Want::Payload { dst, offset, len } => {
                    let part = self.staged.len().min(len as usize);
                    if part == 0 {
                        return Ok(());
                    }
                    let part = 1 + seeded.below(part as u64);
                    let placed: Vec<u8> = self.staged.drain(..part).collect();
                    let at = offset as usize;
                    match dst {
                        PayloadDst::InCapsule => {
                            self.capsule.resize(at, 0);
                            self.capsule.extend_from_slice(&placed);
                        }
                        PayloadDst::Fetch(tag) => {
                            let fetch = self.fetches[usize::from(tag.0)].as_mut();
                            let (_, buffer) = fetch.expect("an active fetch");
                            buffer[at..at + part].copy_from_slice(&placed);
                        }
                        PayloadDst::Discard(_) => {}
                    }
                    self.core.handle_payload(&placed)
                }
                Want::Congested | Want::Flush | Want::Close => return Ok(()),
            };
            if let Some(event) = event {
                self.events.push(event);
                self.serve(event);
            }
        }
    }

    fn serve(&mut self, event: ControllerEvent) {
        match event {
            ControllerEvent::Ready { .. } | ControllerEvent::FetchDrained { .. } => {}
            ControllerEvent::Capsule {
                sqe,
                data_len,
                data_ok,
            } => self.command(sqe, data_len as usize, data_ok),
            ControllerEvent::Fetched { tag, data_ok } => {
                let fetch = self.fetches[usize::from(tag.0)].take();
                let (sqe, buffer) = fetch.expect("an active fetch");
                self.write(&sqe, &buffer, data_ok);
            }
        }
    }

    fn command(&mut self, sqe: Sqe, data_len: usize, data_ok: bool) {
        let (at, len) = (sqe.dword(10) as usize, sqe.dword(12) as usize);
        let cqe = Cqe::new(sqe.cid(), Status::SUCCESS);
        match sqe.opcode() {
            WRITE if data_len > 0 => {
                assert_eq!((data_len, self.capsule.len()), (len, len));
                let data = core::mem::take(&mut self.capsule);
                self.write(&sqe, &data, data_ok);
            }
            WRITE => {
                let free = self.fetches.iter().position(Option::is_none);
                let tag = FetchTag(free.expect("a free tag") as u16);
                self.fetches[usize::from(tag.0)] = Some((sqe, vec![0; len]));
                self.core.submit_fetch(sqe.cid(), tag, len as u32);
            }
            READ => {
                let free = self.reads.iter().position(Option::is_none);
                let token = free.expect("a free token");
                self.reads[token] = Some(self.disk[at..at + len].to_vec());
                let token = DataToken(token as u32);
                let omit = self.may_omit_response;
                assert!(self.core.submit_data(&cqe, len as u32, token, omit));
            }
            FLUSH | FABRICS => self.core.submit_response(&cqe),
            _ => self
                .core
                .submit_response(&Cqe::new(sqe.cid(), Status::INVALID_OPCODE)),
        }
    }

    fn write(&mut self, sqe: &Sqe, data: &[u8], data_ok: bool) {
        let at = sqe.dword(10) as usize;
        let status = if data_ok {
            self.disk[at..at + data.len()].copy_from_slice(data);
            Status::SUCCESS
        } else {
            Status::TRANSIENT_TRANSPORT_ERROR
        };
        self.core.submit_response(&Cqe::new(sqe.cid(), status));
    }

    /// Sends up to `most` bytes.
    pub(crate) fn send(&mut self, most: usize) -> Vec<u8> {
        while let Some(order) = self.core.poll_digest_order() {
            let data = self.reads[order.token.0 as usize].as_ref();
            let (at, len) = (order.offset as usize, order.len as usize);
            let digest = crc32c(&data.expect("a queued read")[at..at + len]);
            self.core.handle_digest(order, digest);
        }
        let reads = &self.reads;
        let wire = gather(self.core.transmit(), most, |token| {
            reads[token].as_deref().expect("a queued read")
        });
        let reads = &mut self.reads;
        self.core.handle_sent(wire.len(), |token| {
            assert!(reads[token.0 as usize].take().is_some(), "released twice");
        });
        wire
    }

    pub(crate) fn reads_held(&self) -> usize {
        self.reads.iter().flatten().count()
    }
}

impl HostSide {
    pub(crate) fn new(config: HostConfig, now: Instant) -> Self {
        let commands = config.commands_max;
        Self {
            core: Host::new(config, now),
            staged: Vec::new(),
            buffers: vec![Vec::new(); commands],
            events: VecDeque::new(),
        }
    }

    pub(crate) fn turn(&mut self, now: Instant, seeded: &mut Seeded) -> Result<(), Fault> {
        loop {
            let event = match self.core.want() {
                Want::Header(at_least) => {
                    if self.staged.len() < at_least {
                        return Ok(());
                    }
                    let step = self.core.handle_header(now, &self.staged)?;
                    self.staged.drain(..step.taken);
                    step.event
                }
                Want::Payload { dst, offset, len } => {
                    let part = self.staged.len().min(len as usize);
                    if part == 0 {
                        return Ok(());
                    }
                    let part = 1 + seeded.below(part as u64);
                    let placed: Vec<u8> = self.staged.drain(..part).collect();
                    let at = offset as usize;
                    self.buffers[usize::from(dst)][at..at + part].copy_from_slice(&placed);
                    self.core.handle_payload(&placed)
                }
                Want::Congested => unreachable!("a host is never congested"),
                Want::Flush | Want::Close => return Ok(()),
            };
            self.events.extend(event);
        }
    }

    pub(crate) fn send(&mut self, most: usize) -> Vec<u8> {
        while let Some(order) = self.core.poll_digest_order() {
            let data = &self.buffers[order.token.0 as usize];
            let (at, len) = (order.offset as usize, order.len as usize);
            self.core.handle_digest(order, crc32c(&data[at..at + len]));
        }
        let buffers = &self.buffers;
        let wire = gather(self.core.transmit(), most, |token| &buffers[token]);
        self.core.handle_sent(wire.len());
        while let Some(event) = self.core.poll_event() {
            self.events.push_back(event);
        }
        wire
    }
}

fn gather<'a>(chunks: Chunks<'_>, most: usize, data: impl Fn(usize) -> &'a [u8]) -> Vec<u8> {
    let mut wire = Vec::new();
    for chunk in chunks {
        match chunk {
            Chunk::Bytes(bytes) => wire.extend_from_slice(bytes),
            Chunk::Data { token, offset, len } => {
                let at = offset as usize;
                wire.extend_from_slice(&data(token.0 as usize)[at..at + len as usize]);
            }
        }
    }
    wire.truncate(most);
    wire
}

/// Both ends, set up, as queue 1.
pub(crate) struct Pair {
    pub(crate) host: HostSide,
    pub(crate) controller: ControllerSide,
    pub(crate) seeded: Seeded,
    pub(crate) now: Instant,
}

impl Pair {
    pub(crate) fn new(host: HostConfig, controller: ControllerConfig, seed: u64) -> Self {
        let now = Instant::now();
        let mut pair = Self {
            host: HostSide::new(host, now),
            controller: ControllerSide::new(controller, now),
            seeded: Seeded(seed),
            now,
        };
        pair.settle();
        assert!(matches!(
            pair.host.events.pop_front(),
            Some(HostEvent::Ready { .. })
        ));
        let sqe = connect(0, 1);
        assert!(pair.host.core.submit_command(&sqe, CommandData::None));
        pair.settle();
        assert!(matches!(
            pair.host.events.pop_front(),
            Some(HostEvent::Completion { cqe, .. }) if cqe.status.is_success()
        ));
        pair
    }

    /// Moves a random number of bytes in a random direction and lets the receiver work.
    pub(crate) fn step(&mut self) {
        let most = 1 + self.seeded.below(20_000);
        if self.seeded.below(2) == 0 {
            let wire = self.host.send(most);
            self.controller.staged.extend(wire);
            let turn = self.controller.turn(self.now, &mut self.seeded);
            turn.expect("a well-behaved host");
        } else {
            let wire = self.controller.send(most);
            self.host.staged.extend(wire);
            let turn = self.host.turn(self.now, &mut self.seeded);
            turn.expect("a well-behaved controller");
        }
    }

    /// Steps until nothing is on its way.
    pub(crate) fn settle(&mut self) {
        for _ in 0..100_000 {
            self.step();
            if !self.host.core.has_transmit() && !self.controller.core.has_transmit() {
                return;
            }
        }
        panic!("does not settle");
    }
}
