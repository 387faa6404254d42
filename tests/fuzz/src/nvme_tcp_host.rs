//! A host connection against an arbitrary controller.
//!
//! Oracle: no panic; payload stays inside the command's buffer and comes in order; every completion is of a command in
//! flight and says how much arrived; data sent is inside what the command has; after `clear` the connection wants to be
//! closed.

use std::time::Instant;

use nvme_spec::{Cqe, Sqe, Status};
use nvme_tcp::{CommandData, Host, HostConfig, HostEvent, Want};
use nvme_tcp_pdu::{CapsuleResp, DataHeader, Digests, Flags, IcResp, PduType, R2t};

use crate::stream::{Choices, Side, Stream, queued, receive};

const COMMANDS: usize = 8;
/// Bytes of every command that has data.
const LEN: u32 = 6000;

struct Adaptor {
    core: Host,
    now: Instant,
    stream: Stream,
    /// Per command identifier: its data, if it is in flight, and how far data of a read has come.
    commands: [Option<(CommandData, u32)>; COMMANDS],
}

/// Runs one input.
///
/// # Panics
/// When the oracle is broken.
pub fn run(input: &[u8]) {
    let mut choices = Choices(input);
    let now = Instant::now();
    let config = HostConfig {
        header_digest: choices.byte() & 1 == 1,
        data_digest: choices.byte() & 1 == 1,
        commands_max: COMMANDS,
        ..HostConfig::default()
    };
    let mut adaptor = Adaptor {
        core: Host::new(config, now),
        now,
        stream: Stream::default(),
        commands: [None; COMMANDS],
    };
    while !choices.0.is_empty() {
        match choices.byte() % 8 {
            0 => adaptor.stream.feed_raw(&mut choices),
            1 => adaptor.feed_icresp(&mut choices),
            2 => adaptor.feed_response(&mut choices),
            3 => adaptor.feed_data(&mut choices),
            4 => adaptor.feed_r2t(&mut choices),
            5 => adaptor.submit(&mut choices),
            _ => adaptor.send(&mut choices),
        }
        receive(&mut adaptor);
    }
    adaptor.core.clear();
    assert_eq!(adaptor.core.want(), Want::Close);
}

impl Adaptor {
    fn feed_icresp(&mut self, choices: &mut Choices<'_>) {
        let resp = IcResp {
            pfv: u16::from(choices.is_rare()),
            cpda_zb: choices.byte() % 33,
            digests: Digests::from_byte(choices.byte()),
            maxh2cdata: 4096,
        };
        self.stream.bytes.extend(resp.to_bytes());
    }

    fn feed_response(&mut self, choices: &mut Choices<'_>) {
        let cqe = Cqe::new(u16::from(choices.byte() % 9), Status::SUCCESS);
        let common = self.stream.common(PduType::CapsuleResp, 0, Flags::NONE);
        let raw = CapsuleResp { cqe }.to_bytes(common);
        self.stream.feed_header(&raw, false);
    }

    fn feed_r2t(&mut self, choices: &mut Choices<'_>) {
        let r2t = R2t {
            cccid: u16::from(choices.byte() % 9),
            ttag: choices.word(),
            r2to: u32::from(choices.word()) % 8192,
            r2tl: u32::from(choices.word()) % 8192,
        };
        let common = self.stream.common(PduType::R2t, 0, Flags::NONE);
        self.stream.feed_header(&r2t.to_bytes(common), false);
    }

    fn feed_data(&mut self, choices: &mut Choices<'_>) {
        let cccid = u16::from(choices.byte() % 9);
        let known = self.commands.get(usize::from(cccid)).copied().flatten();
        let datao = match choices.byte() {
            0..200 => known.map_or(0, |(_, read)| read),
            _ => u32::from(choices.word()),
        };
        let datal = u32::from(choices.word()) % 7000 + 1;
        let flags = Flags(choices.byte() & 0b1100);
        let data = DataHeader {
            cccid,
            ttag: 0,
            datao,
            datal,
        };
        let common = self.stream.common(PduType::C2hData, datal, flags);
        self.stream.feed_header(&data.to_bytes(common), false);
        let flip = self.stream.digests.data && choices.is_rare();
        self.stream.feed_payload(datal, flip);
    }

    fn submit(&mut self, choices: &mut Choices<'_>) {
        let cid = choices.byte() % COMMANDS as u8;
        if self.core.is_busy(cid.into()) {
            return;
        }
        let data = match choices.byte() % 4 {
            0 => CommandData::None,
            1 => CommandData::Read(LEN),
            2 => CommandData::InCapsule(LEN),
            _ => CommandData::Write(LEN),
        };
        let sqe = Sqe::new(2, cid.into(), 1);
        if self.core.submit_command(&sqe, data) {
            self.commands[usize::from(cid)] = Some((data, 0));
        }
    }

    fn send(&mut self, choices: &mut Choices<'_>) {
        while let Some(order) = self.core.poll_digest_order() {
            assert!(order.offset + order.len <= LEN);
            self.core.handle_digest(order, 0);
        }
        let whole = queued(self.core.transmit(), |token, offset, len| {
            assert!(self.core.is_busy(token.0 as u16) && offset + len <= LEN);
        });
        self.core
            .handle_sent(usize::from(choices.word()).min(whole));
        while let Some(event) = self.core.poll_event() {
            self.event(event);
        }
    }
}

impl Side for Adaptor {
    type Dst = u16;
    type Event = HostEvent;

    fn stream(&mut self) -> &mut Stream {
        &mut self.stream
    }

    fn want(&self) -> Want<u16> {
        self.core.want()
    }

    fn header(&mut self, bytes: &[u8]) -> Option<(usize, Option<HostEvent>)> {
        let step = self.core.handle_header(self.now, bytes).ok()?;
        Some((step.taken, step.event))
    }

    fn payload(&mut self, dst: u16, offset: u32, len: u32, placed: &[u8]) -> Option<HostEvent> {
        let command = self.commands[usize::from(dst)].as_mut();
        let (data, read) = command.expect("a command in flight");
        assert_eq!((*data, *read), (CommandData::Read(LEN), offset));
        assert!(offset + len <= LEN);
        *read += placed.len() as u32;
        self.core.handle_payload(placed)
    }

    fn congested(&self) {
        panic!("a host is never congested");
    }

    fn event(&mut self, event: HostEvent) {
        match event {
            HostEvent::Ready { digests } => self.stream.digests = digests,
            HostEvent::Completion { cqe, data_len, .. } => {
                let command = self.commands[usize::from(cqe.cid)].take();
                let (_, read) = command.expect("a command in flight");
                assert_eq!(data_len, read);
                assert!(!self.core.is_busy(cqe.cid));
            }
        }
    }
}
