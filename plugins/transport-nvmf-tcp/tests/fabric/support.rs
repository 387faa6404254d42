//! A reactor with streams in memory, and a host at the other end.

use std::collections::{BTreeMap, VecDeque};
use std::io::{IoSlice, IoSliceMut};
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use conformance::host::TestHost;
use nvme_spec::fabrics::ConnectCommand;
use nvme_spec::{Cqe, Sgl, Sqe, Status};
use nvme_tcp::{Chunk, CommandData, Digest, Host as HostCore, HostConfig, HostEvent, Want};
use sdk::buf::Buf;
use sdk::fabric::{ConnId, Fabric, FabricEvent};
use sdk::host::{FileId, FileOp, Host, HostError, OwnerId, StreamError, StreamId};
use transport_nvmf_tcp::{TcpConfig, TcpFabric};

#[derive(Default)]
struct Stream {
    to_us: VecDeque<u8>,
    from_us: Vec<u8>,
    paused: bool,
    /// The host has ended its direction.
    is_over: bool,
    ended: bool,
    closed: bool,
}

/// A reactor whose sockets are byte queues.
pub(crate) struct StreamHost {
    pub(crate) inner: TestHost,
    /// Bytes of buffers given out, of whole pieces of the arena as a reactor has them.
    pub(crate) allocated: usize,
    /// There is no memory at the moment.
    pub(crate) is_short: bool,
    /// Most bytes one receive gives.
    pub(crate) recv_max: usize,
    /// Most bytes one send takes; 0 blocks.
    pub(crate) send_max: usize,
    streams: Vec<Stream>,
    blocked: Vec<StreamId>,
}

impl StreamHost {
    pub(crate) fn feed(&mut self, stream: StreamId, bytes: &[u8]) {
        self.streams[stream.0 as usize].to_us.extend(bytes);
    }

    pub(crate) fn sent(&self, stream: StreamId) -> &[u8] {
        &self.streams[stream.0 as usize].from_us
    }

    /// The host sends nothing more.
    pub(crate) fn finish(&mut self, stream: StreamId) {
        self.streams[stream.0 as usize].is_over = true;
    }

    /// Bytes the host sent that were not received.
    pub(crate) fn unread(&self, stream: StreamId) -> usize {
        self.streams[stream.0 as usize].to_us.len()
    }

    /// Whether our direction was ended.
    pub(crate) fn is_ended(&self, stream: StreamId) -> bool {
        self.streams[stream.0 as usize].ended
    }

    pub(crate) fn is_closed(&self, stream: StreamId) -> bool {
        self.streams[stream.0 as usize].closed
    }

    pub(crate) fn is_paused(&self) -> bool {
        self.streams.iter().any(|stream| stream.paused)
    }

    /// Lets sends that were refused be tried again.
    pub(crate) fn writable(&mut self) {
        assert!(!self.blocked.is_empty(), "nothing was refused");
    }
}

impl Host for StreamHost {
    fn now(&self) -> Instant {
        self.inner.now()
    }

    fn alloc(&mut self, len: usize) -> Option<Buf> {
        if self.is_short {
            return None;
        }
        let buf = self.inner.alloc(len);
        if buf.is_some() {
            self.allocated += len.max(4096).next_power_of_two();
        }
        buf
    }

    fn adopt_file(&mut self, fd: OwnedFd, owner: OwnerId) -> Result<FileId, HostError> {
        self.inner.adopt_file(fd, owner)
    }

    fn close_file(&mut self, file: FileId) {
        self.inner.close_file(file);
    }

    fn submit_file(&mut self, file: FileId, user: u64, op: FileOp) -> Result<(), FileOp> {
        self.inner.submit_file(file, user, op)
    }

    fn recv(
        &mut self,
        stream: StreamId,
        bufs: &mut [IoSliceMut<'_>],
    ) -> Result<usize, StreamError> {
        let Stream { to_us, is_over, .. } = &mut self.streams[stream.0 as usize];
        let queue = to_us;
        let mut left = self.recv_max.min(queue.len());
        let total = left;
        for buf in bufs {
            for byte in buf.iter_mut().take(left) {
                *byte = queue.pop_front().expect("counted");
                left -= 1;
            }
        }
        match total - left {
            0 if *is_over => Err(StreamError::Closed),
            0 => Err(StreamError::WouldBlock),
            taken => Ok(taken),
        }
    }

    fn send(&mut self, stream: StreamId, bufs: &[IoSlice<'_>]) -> Result<usize, StreamError> {
        let all: Vec<u8> = bufs.iter().flat_map(|buf| buf.iter().copied()).collect();
        let taken = all.len().min(self.send_max);
        if taken == 0 {
            self.blocked.push(stream);
            return Err(StreamError::WouldBlock);
        }
        self.streams[stream.0 as usize]
            .from_us
            .extend_from_slice(&all[..taken]);
        Ok(taken)
    }

    fn pause_stream(&mut self, stream: StreamId, paused: bool) {
        self.streams[stream.0 as usize].paused = paused;
    }

    fn end_stream(&mut self, stream: StreamId) {
        self.streams[stream.0 as usize].ended = true;
    }

    fn close_stream(&mut self, stream: StreamId) {
        self.streams[stream.0 as usize].closed = true;
    }

    fn detach_stream(&mut self, stream: StreamId) -> Option<OwnedFd> {
        self.streams[stream.0 as usize].closed = true;
        std::fs::File::open("/dev/null").ok().map(OwnedFd::from)
    }

    fn attach_stream(&mut self, _: OwnedFd) -> Result<StreamId, HostError> {
        self.streams.push(Stream::default());
        Ok(StreamId(self.streams.len() as u64 - 1))
    }
}

/// A fabric and the reactor it runs on.
pub(crate) struct World {
    pub(crate) host: StreamHost,
    pub(crate) fabric: TcpFabric,
}

impl World {
    pub(crate) fn new(config: TcpConfig) -> Self {
        let host = StreamHost {
            inner: TestHost::new(),
            allocated: 0,
            is_short: false,
            recv_max: usize::MAX,
            send_max: usize::MAX,
            streams: Vec::new(),
            blocked: Vec::new(),
        };
        Self {
            host,
            fabric: TcpFabric::new(config),
        }
    }

    pub(crate) fn accept(&mut self) -> StreamId {
        self.host.streams.push(Stream::default());
        let stream = StreamId(self.host.streams.len() as u64 - 1);
        let address = |text: &str| -> SocketAddr { text.parse().expect("an address") };
        self.fabric.handle_accepted(
            &mut self.host,
            stream,
            address("192.0.2.1:8420"),
            address("192.0.2.2:1000"),
        );
        stream
    }

    /// Lets every stream that may be read be read until it is empty, then flushes.
    pub(crate) fn turn(&mut self) {
        for _ in 0..1_000_000 {
            let ready = self
                .host
                .streams
                .iter()
                .position(|s| !s.paused && !s.closed && (!s.to_us.is_empty() || s.is_over));
            let Some(at) = ready else { break };
            self.fabric
                .handle_readable(&mut self.host, StreamId(at as u64));
            self.fabric.flush(&mut self.host);
        }
        self.fabric.flush(&mut self.host);
    }

    /// Lets time pass, waking the fabric when it wants to be woken; how often that was.
    pub(crate) fn pass(&mut self, time: Duration) -> usize {
        let end = self.host.now() + time;
        let mut wakes = 0;
        while let Some(at) = self.fabric.poll_timeout().filter(|at| *at <= end) {
            let now = self.host.now();
            self.host.inner.advance(at.saturating_duration_since(now));
            self.fabric.handle_timeout(&mut self.host);
            self.turn();
            wakes += 1;
            assert!(wakes < 10_000, "woken for nothing at {at:?}");
        }
        let now = self.host.now();
        self.host.inner.advance(end.saturating_duration_since(now));
        wakes
    }

    /// The reasons connections were closed for, since the last call; drops other events.
    pub(crate) fn closed(&mut self) -> Vec<&'static str> {
        let mut reasons = Vec::new();
        while let Some(event) = self.fabric.poll_event() {
            if let FabricEvent::Closed { reason, .. } = event {
                reasons.push(reason);
            }
        }
        reasons
    }

    pub(crate) fn signal_writable(&mut self) {
        for stream in std::mem::take(&mut self.host.blocked) {
            self.fabric.handle_writable(&mut self.host, stream);
        }
    }

    /// The next event that is not about the handshake.
    pub(crate) fn next_event(&mut self) -> Option<FabricEvent> {
        loop {
            match self.fabric.poll_event()? {
                FabricEvent::Connected { .. } => {}
                event => return Some(event),
            }
        }
    }

    pub(crate) fn buffer(&mut self, len: usize) -> Buf {
        self.host.alloc(len).expect("a buffer")
    }
}

/// A Connect to queue 1, of 128 entries.
pub(crate) fn connect() -> Sqe {
    let command = ConnectCommand {
        recfmt: 0,
        qid: 1,
        queue_entries: 128,
        sq_flow_control_disabled: false,
        kato_ms: 0,
    };
    command.emit(0, Sgl::in_capsule(0, 1024))
}

/// A host at the other end of stream 0.
pub(crate) struct Peer {
    core: HostCore,
    data: BTreeMap<u16, Vec<u8>>,
    read: usize,
    unparsed: Vec<u8>,
    pub(crate) completions: Vec<(u16, Status)>,
}

impl Peer {
    /// Connects to `world` and completes the transport's handshake.
    pub(crate) fn connect(world: &mut World, config: HostConfig) -> Self {
        let stream = world.accept();
        assert_eq!(stream, StreamId(0));
        let mut peer = Self {
            core: HostCore::new(config, world.host.now()),
            data: BTreeMap::new(),
            read: 0,
            unparsed: Vec::new(),
            completions: Vec::new(),
        };
        peer.exchange(world);
        assert!(peer.core.is_ready());
        peer
    }

    /// Connects to queue 1 of a subsystem, and waits until nobody wants to be woken.
    pub(crate) fn establish(world: &mut World, config: HostConfig) -> (Self, ConnId) {
        let mut peer = Self::connect(world, config);
        peer.submit(&connect(), CommandData::InCapsule(1024), vec![0; 1024]);
        peer.exchange(world);
        let Some(FabricEvent::Capsule { conn, .. }) = world.next_event() else {
            panic!("no capsule")
        };
        let cqe = Cqe::new(0, Status::SUCCESS);
        world.fabric.respond(conn, &cqe, None, false);
        peer.exchange(world);
        peer.completions.clear();
        world.pass(Duration::from_secs(60));
        assert_eq!(
            world.fabric.poll_timeout(),
            None,
            "an idle host costs no wake-up"
        );
        (peer, conn)
    }

    /// Sends the first `most` bytes of what is queued, and takes no answer.
    pub(crate) fn send_part(&mut self, world: &mut World, most: usize) {
        let outgoing = self.outgoing();
        world.host.feed(StreamId(0), &outgoing[..most]);
        world.turn();
    }

    pub(crate) fn submit(&mut self, sqe: &Sqe, kind: CommandData, data: Vec<u8>) {
        self.data.insert(sqe.cid(), data);
        assert!(self.core.submit_command(sqe, kind));
    }

    pub(crate) fn data(&self, cid: u16) -> &[u8] {
        &self.data[&cid]
    }

    /// The connection is stream 0 of another world from here on.
    pub(crate) fn moved(&mut self) {
        self.read = 0;
    }

    /// Carries bytes both ways until neither side has any.
    pub(crate) fn exchange(&mut self, world: &mut World) {
        loop {
            let outgoing = self.outgoing();
            let idle = outgoing.is_empty();
            world.host.feed(StreamId(0), &outgoing);
            world.turn();
            world.signal_writable();
            world.turn();
            if !self.hear(world) && idle {
                return;
            }
        }
    }

    /// Takes what was sent; whether there was anything.
    pub(crate) fn hear(&mut self, world: &mut World) -> bool {
        let sent = world.host.sent(StreamId(0));
        let is_news = sent.len() > self.read;
        self.unparsed.extend_from_slice(&sent[self.read..]);
        self.read = sent.len();
        self.parse(world.host.now());
        is_news
    }

    fn outgoing(&mut self) -> Vec<u8> {
        while let Some(order) = self.core.poll_digest_order() {
            let mut digest = Digest::new();
            let data = &self.data[&(order.token.0 as u16)];
            digest.update(&data[order.offset as usize..(order.offset + order.len) as usize]);
            self.core.handle_digest(order, digest.value());
        }
        let mut bytes = Vec::new();
        for chunk in self.core.transmit() {
            match chunk {
                Chunk::Bytes(piece) => bytes.extend_from_slice(piece),
                Chunk::Data { token, offset, len } => {
                    let data = &self.data[&(token.0 as u16)];
                    bytes.extend_from_slice(&data[offset as usize..(offset + len) as usize]);
                }
            }
        }
        self.core.handle_sent(bytes.len());
        bytes
    }

    fn parse(&mut self, now: Instant) {
        loop {
            let event = match self.core.want() {
                Want::Header(least) if self.unparsed.len() >= least => {
                    let step = self
                        .core
                        .handle_header(now, &self.unparsed)
                        .expect("a well-behaved controller");
                    if step.taken == 0 {
                        return;
                    }
                    self.unparsed.drain(..step.taken);
                    step.event
                }
                Want::Payload { dst, offset, len } if !self.unparsed.is_empty() => {
                    let taken = self.unparsed.len().min(len as usize);
                    let bytes: Vec<u8> = self.unparsed.drain(..taken).collect();
                    let data = self.data.get_mut(&dst).expect("a command of ours");
                    data[offset as usize..offset as usize + taken].copy_from_slice(&bytes);
                    self.core.handle_payload(&bytes)
                }
                Want::Header(_)
                | Want::Payload { .. }
                | Want::Congested
                | Want::Flush
                | Want::Close => return,
            };
            if let Some(HostEvent::Completion { cqe, data_ok, .. }) = event {
                assert!(data_ok, "digest mismatch");
                self.completions.push((cqe.cid, cqe.status));
            }
        }
    }
}
