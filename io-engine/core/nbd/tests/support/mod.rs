//! A client's bytes on one side of the core, a model of a disk on the other.

#![allow(dead_code, reason = "each test file uses a part")]
#![allow(
    clippy::allow_attributes,
    reason = "what is unused differs from file to file"
)]

use std::collections::{BTreeMap, VecDeque};
use std::time::{Duration, Instant};

use nbd_server::{
    Abilities, Chunk, Connection, ConnectionConfig, Data, DataToken, Event, Export, ExportId,
    Exports, Failure, Fault, Io, Slot, Span, Want, Work,
};
use nbd_wire::{
    ClientFlags, Command, CommandFlags, ExportChoice, Greeting, InfoKind, MetaQueries,
    OptionHeader, OptionKind, OptionReply, ReplyKind, Request,
};
use units::{BlockRange, BlockSize};

pub(crate) const MIB: usize = 1 << 20;

pub(crate) fn export(id: u64, name: &str) -> Export {
    Export {
        id: ExportId(id),
        name: name.to_owned(),
        description: "a disk".to_owned(),
        block_size: BlockSize::B512,
        blocks: 2 << 20,
        read_only: false,
        is_here: true,
        abilities: Abilities {
            trim: true,
            fast_zero: true,
            cache: true,
            shared_flush: true,
        },
    }
}

pub(crate) fn exports(all: Vec<Export>) -> Exports {
    let mut exports = Exports::default();
    for export in all {
        exports.insert(export);
    }
    exports
}

/// A connection and both its neighbours. Reads give bytes of the offset's block number.
pub(crate) struct World {
    pub(crate) core: Connection,
    pub(crate) exports: Exports,
    pub(crate) now: Instant,
    /// Received and not taken.
    pub(crate) input: Vec<u8>,
    /// Sent by the core.
    pub(crate) output: VecDeque<u8>,
    pub(crate) events: Vec<Event>,
    pub(crate) fault: Option<Fault>,
    /// I/O given out and not answered.
    pub(crate) ios: VecDeque<Io>,
    pub(crate) payloads: BTreeMap<u16, Vec<u8>>,
    pub(crate) sending: BTreeMap<u32, Vec<u8>>,
    next_token: u32,
    /// What the client does not read stays queued.
    pub(crate) sends: bool,
    next_cookie: u64,
    pub(crate) written: BTreeMap<u64, Vec<u8>>,
}

pub(crate) fn config() -> ConnectionConfig {
    ConnectionConfig {
        transfer_bytes_max: MIB as u32,
        requests_max: 8,
        handshake_timeout: Duration::from_secs(10),
    }
}

impl World {
    pub(crate) fn new(all: Vec<Export>) -> Self {
        Self::with(config(), all)
    }

    pub(crate) fn with(config: ConnectionConfig, all: Vec<Export>) -> Self {
        let now = Instant::now();
        let mut world = Self {
            core: Connection::new(config, now),
            exports: exports(all),
            now,
            input: Vec::new(),
            output: VecDeque::new(),
            events: Vec::new(),
            fault: None,
            ios: VecDeque::new(),
            payloads: BTreeMap::new(),
            sending: BTreeMap::new(),
            next_token: 0,
            sends: true,
            next_cookie: 0,
            written: BTreeMap::new(),
        };
        world.turn();
        world
    }

    /// Past the greeting.
    pub(crate) fn greeted(all: Vec<Export>) -> Self {
        let mut world = Self::new(all);
        let greeting = world.take(Greeting::LEN);
        assert!(Greeting::parse(&greeting).is_ok());
        let flags = ClientFlags::FIXED_NEWSTYLE | ClientFlags::NO_ZEROES;
        world.feed(&flags.to_bytes());
        world
    }

    /// In transmission, with everything negotiated or nothing.
    pub(crate) fn serving(structured: bool) -> Self {
        Self::serving_of(export(1, "disk"), structured)
    }

    pub(crate) fn serving_of(export: Export, structured: bool) -> Self {
        let mut world = Self::greeted(vec![export]);
        if structured {
            world.option(OptionKind::StructuredReply, &[]);
            let mut query = Vec::new();
            MetaQueries::emit(b"disk", &[b"base:allocation"], &mut query);
            world.option(OptionKind::SetMetaContext, &query);
        }
        let replies = world.option(OptionKind::Go, &choice("disk"));
        assert_eq!(replies.last().unwrap().0, ReplyKind::Ack);
        assert_eq!(world.events.pop(), Some(Event::Entered(ExportId(1))));
        world
    }

    pub(crate) fn feed(&mut self, bytes: &[u8]) {
        self.input.extend_from_slice(bytes);
        self.turn();
    }

    /// Lets the core take what it wants, and sends what it has.
    pub(crate) fn turn(&mut self) {
        self.receive();
        while let Some(io) = self.core.poll_io() {
            self.ios.push_back(io);
        }
        if self.sends {
            self.send(usize::MAX);
        }
        // Sending may have made room.
        while let Some(io) = self.core.poll_io() {
            self.ios.push_back(io);
        }
    }

    fn receive(&mut self) {
        loop {
            match self.core.want() {
                Want::Header(least) => {
                    if self.fault.is_some() || self.input.len() < least {
                        return;
                    }
                    match self
                        .core
                        .handle_header(self.now, &self.input, &self.exports)
                    {
                        Err(fault) => {
                            self.fault = Some(fault);
                            return;
                        }
                        Ok(step) => {
                            self.events.extend(step.event);
                            if step.taken == 0 {
                                let more = matches!(self.core.want(), Want::Header(n) if n > self.input.len());
                                assert!(more, "no progress");
                                return;
                            }
                            self.input.drain(..step.taken);
                        }
                    }
                }
                Want::Payload { slot, offset, len } => {
                    if self.input.is_empty() {
                        return;
                    }
                    let part = self.input.len().min(len as usize);
                    let buffer = self.payloads.entry(slot.0).or_default();
                    assert_eq!(buffer.len(), offset as usize);
                    buffer.extend(self.input.drain(..part));
                    self.core.handle_payload(self.now, part);
                }
                Want::Stopped | Want::Ended => return,
            }
        }
    }

    /// Sends up to `limit` bytes.
    pub(crate) fn send(&mut self, limit: usize) {
        let mut bytes = Vec::new();
        for chunk in self.core.transmit() {
            match chunk {
                Chunk::Bytes(piece) => bytes.extend_from_slice(piece),
                Chunk::Data { token, offset, len } => {
                    let data = &self.sending[&token.0];
                    bytes.extend_from_slice(&data[offset as usize..(offset + len) as usize]);
                }
            }
        }
        bytes.truncate(limit);
        let sending = &mut self.sending;
        self.core.handle_sent(self.now, bytes.len(), |token| {
            assert!(sending.remove(&token.0).is_some(), "released twice");
        });
        self.output.extend(bytes);
    }

    pub(crate) fn take(&mut self, len: usize) -> Vec<u8> {
        assert!(self.output.len() >= len, "{} of {len}", self.output.len());
        self.output.drain(..len).collect()
    }

    /// Sends an option and gives every answer to it.
    pub(crate) fn option(&mut self, option: OptionKind, data: &[u8]) -> Vec<(ReplyKind, Vec<u8>)> {
        let len = data.len() as u32;
        self.feed(&[&OptionHeader { option, len }.to_bytes()[..], data].concat());
        self.replies(option)
    }

    pub(crate) fn replies(&mut self, option: OptionKind) -> Vec<(ReplyKind, Vec<u8>)> {
        let mut replies = Vec::new();
        while !self.output.is_empty() {
            let reply = OptionReply::parse(&self.take(OptionReply::LEN)).unwrap();
            assert_eq!(reply.option, option);
            let data = self.take(reply.len as usize);
            replies.push((reply.kind, data));
        }
        replies
    }

    /// Sends a request and gives its cookie.
    pub(crate) fn request(
        &mut self,
        command: Command,
        flags: CommandFlags,
        offset: u64,
        len: u32,
    ) -> u64 {
        self.next_cookie += 1;
        let request = Request {
            flags,
            command,
            cookie: self.next_cookie,
            offset,
            len,
        };
        self.feed(&request.to_bytes());
        self.next_cookie
    }

    /// The oldest I/O, which is answered as a disk does; gives what it was.
    pub(crate) fn execute(&mut self) -> Work {
        let io = self.ios.pop_front().expect("an I/O");
        self.complete(io);
        self.turn();
        io.work
    }

    fn complete(&mut self, io: Io) {
        match io.work {
            Work::Read(range) => {
                let data = content(range);
                let len = data.len();
                let token = DataToken(self.next_token);
                self.next_token += 1;
                if self
                    .core
                    .handle_data(self.now, io.slot, Data { token, len })
                {
                    self.sending.insert(token.0, data);
                }
            }
            Work::Write { range, .. } => {
                let data = self.payloads.remove(&io.slot.0).expect("a payload");
                assert_eq!(data.len() as u64, range.count.0 << 9);
                self.written.insert(range.start.0 << 9, data);
                self.core.handle_done(self.now, io.slot, Ok(()));
            }
            Work::Extents(range) => {
                let bytes = range.count.0 << 9;
                let spans = [Span {
                    bytes,
                    hole: true,
                    zero: true,
                }];
                self.core
                    .handle_extents(self.now, io.slot, spans.into_iter());
            }
            Work::WriteZeroes { .. } | Work::Discard(_) | Work::Flush => {
                self.core.handle_done(self.now, io.slot, Ok(()));
            }
        }
    }

    /// The oldest I/O fails.
    pub(crate) fn fail(&mut self, failure: Failure) -> Slot {
        let io = self.ios.pop_front().expect("an I/O");
        self.payloads.remove(&io.slot.0);
        self.core.handle_done(self.now, io.slot, Err(failure));
        self.turn();
        io.slot
    }

    /// Everything given out is answered, and what follows.
    pub(crate) fn execute_all(&mut self) {
        while !self.ios.is_empty() {
            self.execute();
        }
    }
}

pub(crate) fn choice(name: &str) -> Vec<u8> {
    let mut data = Vec::new();
    let infos = [InfoKind::BlockSize, InfoKind::Name, InfoKind::Description];
    ExportChoice::emit(name.as_bytes(), &infos, &mut data);
    data
}

/// What the model disk holds.
pub(crate) fn content(range: BlockRange) -> Vec<u8> {
    (0..range.count.0)
        .flat_map(|at| [(range.start.0 + at) as u8; 512])
        .collect()
}
