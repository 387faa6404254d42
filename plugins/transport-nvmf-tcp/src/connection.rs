//! One connection: its protocol core, its buffers, and how received bytes reach them.

use std::io::IoSliceMut;
use std::net::SocketAddr;
use std::time::Instant;

use nvme_spec::{Cqe, Sqe};
use nvme_tcp::{
    Controller, ControllerConfig, ControllerEvent, DataToken, FetchTag, Incoming, PayloadDst, Want,
};
use sdk::buf::{Buf, Payload, piece_len};
use sdk::fabric::ConnId;
use sdk::host::{Host, StreamError, StreamId};

use crate::TcpConfig;
use crate::ending::Ending;
use crate::limits::{DIRECT_MIN, REST_BYTES_MIN, STAGED_BESIDE_DIRECT};
use slab::Slab;

/// Data being fetched from the host.
pub(crate) struct Fetching {
    buf: Buf,
    token: u64,
}

/// Why a connection stopped receiving, or that it goes on.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Receiving {
    /// It takes what comes.
    Open,
    /// It waits for a buffer of this many bytes.
    NeedsBuffer(usize),
    /// The host does not read what it asked for.
    Congested,
    /// It is being closed.
    Ended,
}

/// What a connection has to tell.
pub(crate) enum Told {
    Ready,
    Capsule {
        sqe: Sqe,
        data: Option<Buf>,
        data_ok: bool,
    },
    Fetched {
        token: u64,
        buf: Buf,
        data_ok: bool,
    },
}

/// See the module documentation.
pub(crate) struct Connection {
    pub(crate) id: ConnId,
    pub(crate) stream: StreamId,
    pub(crate) local: SocketAddr,
    pub(crate) peer: SocketAddr,
    pub(crate) core: Controller,
    pub(crate) receiving: Receiving,
    /// Received and not taken by the core yet.
    rest: Vec<u8>,
    /// Buffer of the capsule being received.
    capsule: Option<Buf>,
    fetches: Slab<Fetching>,
    /// Bytes of the fetches outstanding.
    fetching_bytes: usize,
    /// Data the core has queued for sending.
    pub(crate) sending: Slab<Payload>,
    /// Bytes of the engine's own buffers among them.
    pub(crate) unsent_bytes: usize,
    /// Listed among the connections with something to send.
    pub(crate) is_dirty: bool,
    /// The socket takes nothing at the moment.
    pub(crate) is_blocked: bool,
    /// Listed among the connections whose hosts owe bytes.
    pub(crate) is_watched: bool,
    /// It is being closed.
    pub(crate) ending: Option<Ending>,
}

impl Connection {
    pub(crate) fn new(
        id: ConnId,
        stream: StreamId,
        local: SocketAddr,
        peer: SocketAddr,
        config: &TcpConfig,
        now: Instant,
    ) -> Self {
        let core = ControllerConfig {
            in_capsule_max: config.in_capsule_bytes,
            maxh2cdata: config.transfer_bytes_max,
            header_digest: config.header_digest,
            data_digest: config.data_digest,
            commands_max: config.queue_depth,
            handshake_timeout: config.handshake_timeout,
            progress_timeout: config.progress_timeout,
        };
        let core = Controller::new(core, now);
        Self::moved(id, stream, (local, peer), core, Vec::new())
    }

    /// A connection that was set up on another reactor.
    pub(crate) fn moved(
        id: ConnId,
        stream: StreamId,
        (local, peer): (SocketAddr, SocketAddr),
        core: Controller,
        rest: Vec<u8>,
    ) -> Self {
        Self {
            id,
            stream,
            local,
            peer,
            core,
            receiving: Receiving::Open,
            rest,
            capsule: None,
            fetches: Slab::new(),
            fetching_bytes: 0,
            sending: Slab::new(),
            unsent_bytes: 0,
            is_dirty: false,
            is_blocked: false,
            is_watched: false,
            ending: None,
        }
    }

    /// Unparsed bytes, for a connection that moves; `None` while a command is being received or answered besides
    /// Connect, so that nothing is in a buffer of this reactor.
    pub(crate) fn into_core(self) -> Option<(Controller, Vec<u8>)> {
        let quiet = self.capsule.is_none() && self.fetches.is_empty() && self.sending.is_empty();
        (quiet && !self.core.has_transmit()).then_some((self.core, self.rest))
    }

    /// Bytes of the arena that the buffer of a capsule takes of which a part is missing.
    pub(crate) fn half_received(&self) -> usize {
        self.capsule
            .as_deref()
            .map_or(0, |data| piece_len(data.len()))
    }

    /// Receives once and takes what came. A capsule that is not whole may take `early_max` bytes of the arena.
    ///
    /// # Errors
    /// Why the connection is over.
    pub(crate) fn receive(
        &mut self,
        host: &mut dyn Host,
        staging: &mut [u8],
        early_max: usize,
        told: &mut impl FnMut(&mut Self, Told),
    ) -> Result<(), &'static str> {
        if self.receiving != Receiving::Open {
            return Ok(());
        }
        let kept = self.rest.len();
        let limit = if self.fetching_bytes >= DIRECT_MIN {
            STAGED_BESIDE_DIRECT
        } else {
            staging.len()
        };
        let limit = limit.max(self.staging_min()).min(staging.len());
        staging[..kept].copy_from_slice(&self.rest);
        self.rest.clear();
        let direct = if kept == 0 { self.direct_range() } else { None };
        let received = match direct {
            None => host.recv(
                self.stream,
                &mut [IoSliceMut::new(&mut staging[kept..limit])],
            ),
            Some((offset, len)) => {
                let (stream, beside) = (self.stream, &mut staging[..STAGED_BESIDE_DIRECT]);
                let Some(buf) = self.direct_buffer() else {
                    return Ok(());
                };
                host.recv(
                    stream,
                    &mut [
                        IoSliceMut::new(&mut buf[offset..offset + len]),
                        IoSliceMut::new(beside),
                    ],
                )
            }
        };
        let received = match received {
            Ok(received) => received,
            Err(error) => {
                self.rest.extend_from_slice(&staging[..kept]);
                return match error {
                    StreamError::WouldBlock => Ok(()),
                    StreamError::Closed => Err("closed_by_host"),
                    StreamError::Failed(_) => Err("connection_failed"),
                };
            }
        };
        let Some((offset, len)) = direct else {
            return self.take(host, &staging[..kept + received], early_max, told);
        };
        let placed = received.min(len);
        self.take_direct(offset, placed, told);
        self.take(host, &staging[..received - placed], early_max, told)
    }

    /// Goes on with what was kept, after whatever stopped receiving is over.
    ///
    /// # Errors
    /// Why the connection is over.
    pub(crate) fn resume(
        &mut self,
        host: &mut dyn Host,
        early_max: usize,
        told: &mut impl FnMut(&mut Self, Told),
    ) -> Result<(), &'static str> {
        self.receiving = Receiving::Open;
        let rest = std::mem::take(&mut self.rest);
        self.take(host, &rest, early_max, told)
    }

    /// Offset and length of payload to receive straight into its buffer.
    fn direct_range(&self) -> Option<(usize, usize)> {
        let Want::Payload { dst, offset, len } = self.core.want() else {
            return None;
        };
        let has_buffer = match dst {
            PayloadDst::InCapsule => self.capsule.is_some(),
            PayloadDst::Fetch(_) => true,
            PayloadDst::Discard(_) => false,
        };
        (has_buffer && len as usize >= DIRECT_MIN).then_some((offset as usize, len as usize))
    }

    fn direct_buffer(&mut self) -> Option<&mut Buf> {
        let Want::Payload { dst, .. } = self.core.want() else {
            return None;
        };
        match dst {
            PayloadDst::InCapsule => self.capsule.as_mut(),
            PayloadDst::Fetch(tag) => self
                .fetches
                .get_mut(usize::from(tag.0))
                .map(|fetching| &mut fetching.buf),
            PayloadDst::Discard(_) => None,
        }
    }

    fn take_direct(
        &mut self,
        offset: usize,
        placed: usize,
        told: &mut impl FnMut(&mut Self, Told),
    ) {
        let Want::Payload { dst, .. } = self.core.want() else {
            return;
        };
        let buf = match dst {
            PayloadDst::InCapsule => self.capsule.as_ref(),
            PayloadDst::Fetch(tag) => self
                .fetches
                .get(usize::from(tag.0))
                .map(|fetching| &fetching.buf),
            PayloadDst::Discard(_) => None,
        };
        let event = buf.and_then(|buf| self.core.handle_payload(&buf[offset..offset + placed]));
        self.tell(event, told);
    }

    /// Gives `bytes` to the core as far as it takes them and keeps the rest.
    fn take(
        &mut self,
        host: &mut dyn Host,
        mut bytes: &[u8],
        early_max: usize,
        told: &mut impl FnMut(&mut Self, Told),
    ) -> Result<(), &'static str> {
        loop {
            let event = match self.core.want() {
                Want::Header(least) => {
                    if bytes.len() < least {
                        break;
                    }
                    let step = self
                        .core
                        .handle_header(host.now(), bytes)
                        .map_err(|fault| fault.kind.name())?;
                    if step.taken == 0 {
                        break;
                    }
                    bytes = &bytes[step.taken..];
                    step.event
                }
                Want::Payload { dst, offset, len } => {
                    let has_destination = match dst {
                        PayloadDst::Fetch(_) | PayloadDst::Discard(_) => true,
                        PayloadDst::InCapsule => {
                            self.capsule.is_some()
                                || self.take_buffer(host, len as usize, bytes.len(), early_max)
                        }
                    };
                    if !has_destination || bytes.is_empty() {
                        break;
                    }
                    let (data, behind) = bytes.split_at(bytes.len().min(len as usize));
                    self.place(dst, offset as usize, data);
                    bytes = behind;
                    self.core.handle_payload(data)
                }
                Want::Congested => {
                    self.receiving = Receiving::Congested;
                    break;
                }
                Want::Flush | Want::Close => {
                    self.receiving = Receiving::Ended;
                    return Ok(());
                }
            };
            self.tell(event, told);
        }
        // What a long rest took is not kept for short ones.
        if self.rest.capacity() > REST_BYTES_MIN && bytes.len() <= REST_BYTES_MIN {
            self.rest = Vec::new();
        }
        self.rest.reserve_exact(bytes.len());
        self.rest.extend_from_slice(bytes);
        Ok(())
    }

    /// Heap that what was received and not taken so far occupies, in bytes.
    pub(crate) fn kept(&self) -> usize {
        self.rest.capacity()
    }

    /// Staging the next receive needs to get on, in bytes.
    pub(crate) fn staging_min(&self) -> usize {
        self.rest.len().max(self.awaited()) + STAGED_BESIDE_DIRECT
    }

    /// Bytes that make whole the capsule which is kept for want of a buffer.
    fn awaited(&self) -> usize {
        match self.core.want() {
            Want::Payload {
                dst: PayloadDst::InCapsule,
                len,
                ..
            } if self.capsule.is_none() => len as usize + self.core.data_digest_len(),
            Want::Payload { .. }
            | Want::Header(_)
            | Want::Congested
            | Want::Flush
            | Want::Close => 0,
        }
    }

    /// Takes a buffer for in-capsule data of `len` bytes, `there` of which, with what follows, have arrived. Before it is whole,
    /// its digest included, only for a host that is known, and out of `early_max` bytes. Whether there is one.
    fn take_buffer(
        &mut self,
        host: &mut dyn Host,
        len: usize,
        there: usize,
        early_max: usize,
    ) -> bool {
        let is_whole = there >= len + self.core.data_digest_len();
        if is_whole || self.core.is_connected() && piece_len(len) <= early_max {
            self.capsule = host.alloc(len);
        }
        if is_whole && self.capsule.is_none() {
            self.receiving = Receiving::NeedsBuffer(len);
        }
        self.capsule.is_some()
    }

    fn place(&mut self, dst: PayloadDst, offset: usize, data: &[u8]) {
        let buf = match dst {
            PayloadDst::InCapsule => self.capsule.as_mut(),
            PayloadDst::Fetch(tag) => self
                .fetches
                .get_mut(usize::from(tag.0))
                .map(|fetching| &mut fetching.buf),
            PayloadDst::Discard(_) => None,
        };
        if let Some(buf) = buf {
            buf[offset..offset + data.len()].copy_from_slice(data);
        }
    }

    fn tell(&mut self, event: Option<ControllerEvent>, told: &mut impl FnMut(&mut Self, Told)) {
        let Some(event) = event else { return };
        match event {
            ControllerEvent::Ready { .. } => told(self, Told::Ready),
            ControllerEvent::Capsule {
                sqe,
                data_len,
                data_ok,
            } => {
                let data = if data_len > 0 {
                    self.capsule.take()
                } else {
                    None
                };
                told(self, Told::Capsule { sqe, data, data_ok });
            }
            ControllerEvent::Fetched { tag, data_ok } => {
                if let Some(Fetching { buf, token }) = self.end_fetch(tag) {
                    told(
                        self,
                        Told::Fetched {
                            token,
                            buf,
                            data_ok,
                        },
                    );
                }
            }
            ControllerEvent::FetchDrained { tag } => drop(self.end_fetch(tag)),
        }
    }

    /// Starts a fetch into `buf`.
    pub(crate) fn fetch(&mut self, cid: u16, token: u64, buf: Buf) {
        let len = buf.len();
        self.fetching_bytes += len;
        let tag = self.fetches.insert(Fetching { buf, token });
        self.core
            .submit_fetch(cid, FetchTag(tag as u16), len as u32);
    }

    /// A command ended without an answer.
    pub(crate) fn forget(&mut self, cid: u16) {
        self.core.forget_command(cid);
    }

    /// Fetches outstanding.
    pub(crate) fn fetches(&self) -> usize {
        self.fetches.len()
    }

    fn end_fetch(&mut self, tag: FetchTag) -> Option<Fetching> {
        let fetching = self.fetches.try_remove(usize::from(tag.0))?;
        self.fetching_bytes -= fetching.buf.len();
        Some(fetching)
    }

    /// Queues an answer.
    pub(crate) fn respond(&mut self, cqe: &Cqe, data: Option<Payload>, implicit: bool) {
        match data {
            None => self.core.submit_response(cqe),
            Some(payload) => {
                let len = payload.len() as u32;
                self.unsent_bytes += payload.len();
                let token = self.sending.insert(payload);
                if !self
                    .core
                    .submit_data(cqe, len, DataToken(token as u32), implicit)
                {
                    self.unsent_bytes -= self.sending.remove(token).len();
                }
            }
        }
    }

    /// Whether the host owes bytes, or does not read.
    pub(crate) fn is_owed(&self) -> bool {
        self.core.is_owed(self.rest.len())
    }

    /// Looks whether the host moves what it owes, and whether to look again.
    ///
    /// # Errors
    /// Why the connection is over.
    pub(crate) fn look_at_progress(&mut self, now: Instant) -> Result<bool, &'static str> {
        let incoming = match self.receiving {
            Receiving::Open => Incoming::Open(self.rest.len()),
            Receiving::NeedsBuffer(_) | Receiving::Congested | Receiving::Ended => Incoming::Held,
        };
        self.core
            .handle_progress(now, incoming)
            .map_err(|fault| fault.kind.name())
    }

    /// Frees what was being received.
    pub(crate) fn stop_receiving(&mut self) {
        self.receiving = Receiving::Ended;
        self.rest = Vec::new();
        self.capsule = None;
        self.fetches.clear();
        self.fetching_bytes = 0;
    }

    /// Frees everything queued.
    pub(crate) fn clear(&mut self) {
        let sending = &mut self.sending;
        self.core.clear(|token| {
            sending.try_remove(token.0 as usize);
        });
        self.unsent_bytes = 0;
    }
}
