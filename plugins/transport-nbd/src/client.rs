//! One connection: its protocol core, its buffers, and how received bytes reach them.

use std::collections::VecDeque;
use std::io::IoSliceMut;
use std::net::SocketAddr;

use nbd_server::{
    Connection, Data, DataToken, Event, Exports, Failure, Io, Slot, Span, Want, Work,
};
use sdk::block::{Extent, IoError, IoResult, Op};
use sdk::buf::{Buf, Payload};
use sdk::export::{ExportEvent, VolumeId};
use sdk::fabric::ConnId;
use sdk::host::{Host, StreamError, StreamId};
use slab::Slab;
use units::{BlockRange, BlockSize};

/// Payload outstanding from which on it is received straight into its buffer.
const DIRECT_MIN: usize = 16 << 10;
/// Bytes staged behind a direct receive, and while large payload is expected: the next headers, and little of their data.
const STAGED_BESIDE_DIRECT: usize = 512;
/// Requests after a large write during which another one is expected: less is staged, because it would be copied.
const EXPECT_LARGE: u8 = 8;
/// Receives of one connection in a row, while each brings all that was asked for.
const RECEIVES_MAX: usize = 4;

/// Why a connection does not receive, or that it does.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Receiving {
    /// It takes what comes.
    Open,
    /// It waits for a buffer.
    NeedsBuffer,
    /// Its core wants nothing for the moment.
    Stopped,
    /// It receives nothing any more.
    Ended,
}

/// The volume a connection serves.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Served {
    pub(crate) id: VolumeId,
    pub(crate) block_size: BlockSize,
    /// Whether reads without a buffer are answered with lent segments.
    pub(crate) lends: bool,
}

/// See the module documentation.
pub(crate) struct Client {
    pub(crate) id: ConnId,
    pub(crate) stream: StreamId,
    pub(crate) peer: Option<SocketAddr>,
    pub(crate) core: Connection,
    pub(crate) served: Option<Served>,
    /// The volume it waits to be carried to.
    pub(crate) away: Option<VolumeId>,
    pub(crate) receiving: Receiving,
    /// Received and not taken by the core yet.
    rest: Vec<u8>,
    /// Payload of writes that is being received or waits to be given out, by request.
    payloads: Vec<Option<Buf>>,
    /// Read that waits for a buffer.
    held: Option<Io>,
    /// Data the core has queued for sending.
    pub(crate) sending: Slab<Payload>,
    /// Requests since the last large write; while they are few, the next large one is expected.
    since_large: u8,
    /// Listed among the connections with something to send.
    pub(crate) is_dirty: bool,
    /// Listed among the connections that do not receive.
    pub(crate) is_stopped: bool,
    /// The socket takes nothing at the moment.
    pub(crate) is_blocked: bool,
}

impl Client {
    /// A connection with `rest` received and not taken yet.
    pub(crate) fn new(
        stream: StreamId,
        peer: Option<SocketAddr>,
        core: Connection,
        rest: Vec<u8>,
    ) -> Self {
        Self {
            id: ConnId(0),
            stream,
            peer,
            core,
            served: None,
            away: None,
            receiving: Receiving::Open,
            rest,
            payloads: Vec::new(),
            held: None,
            sending: Slab::new(),
            since_large: EXPECT_LARGE,
            is_dirty: false,
            is_stopped: false,
            is_blocked: false,
        }
    }

    /// What moves to another reactor: nothing is in a buffer of this one before a volume is served.
    pub(crate) fn into_parts(self) -> (Connection, Vec<u8>) {
        (self.core, self.rest)
    }

    /// Receives, and takes what came.
    ///
    /// # Errors
    /// Why the connection is over.
    pub(crate) fn receive(
        &mut self,
        host: &mut dyn Host,
        staging: &mut [u8],
        exports: &Exports,
    ) -> Result<Option<Event>, &'static str> {
        let mut event = None;
        for _ in 0..RECEIVES_MAX {
            if self.receiving != Receiving::Open {
                break;
            }
            let (is_full, led_to) = self.receive_once(host, staging, exports)?;
            event = event.or(led_to);
            if !is_full {
                break;
            }
        }
        Ok(event)
    }

    /// One receive: whether it brought all it had room for, so that more may be there.
    fn receive_once(
        &mut self,
        host: &mut dyn Host,
        staging: &mut [u8],
        exports: &Exports,
    ) -> Result<(bool, Option<Event>), &'static str> {
        let kept = self.rest.len();
        let direct = if kept == 0 { self.direct() } else { None };
        let (received, placed, room) = match direct {
            None => {
                let small = kept + STAGED_BESIDE_DIRECT;
                let limit = if self.since_large < EXPECT_LARGE {
                    small
                } else {
                    staging.len()
                };
                let limit = limit.max(small).min(staging.len());
                let mut bufs = [IoSliceMut::new(&mut staging[kept..limit])];
                (host.recv(self.stream, &mut bufs), 0, limit - kept)
            }
            Some((slot, offset, len)) => {
                let stream = self.stream;
                let Some(buf) = self.payload(slot) else {
                    return Ok((false, None));
                };
                let mut bufs = [
                    IoSliceMut::new(&mut buf[offset..offset + len]),
                    IoSliceMut::new(&mut staging[..STAGED_BESIDE_DIRECT]),
                ];
                let received = host.recv(stream, &mut bufs);
                (received, len, len + STAGED_BESIDE_DIRECT)
            }
        };
        let received = match received {
            Ok(received) => received,
            Err(StreamError::WouldBlock) => return Ok((false, None)),
            Err(StreamError::Closed) => return Err("closed_by_client"),
            Err(StreamError::Failed(_)) => return Err("connection_failed"),
        };
        let is_full = received == room;
        let event = if direct.is_some() {
            let placed = received.min(placed);
            self.core.handle_payload(host.now(), placed);
            self.take(host, &staging[..received - placed], exports)?
        } else {
            staging[..kept].copy_from_slice(&self.rest);
            self.rest.clear();
            self.take(host, &staging[..kept + received], exports)?
        };
        Ok((is_full, event))
    }

    /// Goes on with what was kept, after whatever stopped receiving is over.
    ///
    /// # Errors
    /// Why the connection is over.
    pub(crate) fn resume(
        &mut self,
        host: &mut dyn Host,
        exports: &Exports,
    ) -> Result<Option<Event>, &'static str> {
        self.receiving = Receiving::Open;
        self.core.note_resumed(host.now());
        let rest = std::mem::take(&mut self.rest);
        self.take(host, &rest, exports)
    }

    /// Goes on after it was carried here, or after the volume it waited for is gone.
    ///
    /// # Errors
    /// Why the connection is over.
    pub(crate) fn arrive(
        &mut self,
        host: &mut dyn Host,
        exports: &Exports,
    ) -> Result<Option<Event>, &'static str> {
        let event = self
            .core
            .handle_arrived(host.now(), exports)
            .map_err(|fault| fault.name())?;
        let later = self.resume(host, exports)?;
        Ok(event.or(later))
    }

    /// Slot, offset and length of payload to be received straight into its buffer.
    fn direct(&self) -> Option<(Slot, usize, usize)> {
        let Want::Payload { slot, offset, len } = self.core.want() else {
            return None;
        };
        let has_buffer = self
            .payloads
            .get(usize::from(slot.0))
            .is_some_and(Option::is_some);
        (has_buffer && len as usize >= DIRECT_MIN).then_some((slot, offset as usize, len as usize))
    }

    fn payload(&mut self, slot: Slot) -> Option<&mut Buf> {
        self.payloads.get_mut(usize::from(slot.0))?.as_mut()
    }

    /// Gives `bytes` to the core as far as it takes them and keeps the rest.
    fn take(
        &mut self,
        host: &mut dyn Host,
        mut bytes: &[u8],
        exports: &Exports,
    ) -> Result<Option<Event>, &'static str> {
        let mut event = None;
        loop {
            match self.core.want() {
                Want::Header(least) => {
                    if bytes.len() < least {
                        break;
                    }
                    let step = self
                        .core
                        .handle_header(host.now(), bytes, exports)
                        .map_err(|fault| fault.name())?;
                    event = event.or(step.event);
                    if step.taken == 0 {
                        break;
                    }
                    bytes = &bytes[step.taken..];
                    self.since_large = self.since_large.saturating_add(1);
                }
                Want::Payload { slot, offset, len } => {
                    if (offset + len) as usize >= DIRECT_MIN {
                        self.since_large = 0;
                    }
                    if !self.has_payload(host, slot, (offset + len) as usize) {
                        self.receiving = Receiving::NeedsBuffer;
                        break;
                    }
                    if bytes.is_empty() {
                        break;
                    }
                    let (data, behind) = bytes.split_at(bytes.len().min(len as usize));
                    let offset = offset as usize;
                    if let Some(buf) = self.payload(slot) {
                        buf[offset..offset + data.len()].copy_from_slice(data);
                    }
                    self.core.handle_payload(host.now(), data.len());
                    bytes = behind;
                }
                Want::Stopped => {
                    self.receiving = Receiving::Stopped;
                    break;
                }
                Want::Ended => {
                    self.receiving = Receiving::Ended;
                    return Ok(event);
                }
            }
        }
        self.rest.extend_from_slice(bytes);
        Ok(event)
    }

    /// Whether there is a buffer of `len` bytes for the payload of `slot`.
    fn has_payload(&mut self, host: &mut dyn Host, slot: Slot, len: usize) -> bool {
        let at = usize::from(slot.0);
        if self.payloads.len() <= at {
            self.payloads.resize_with(at + 1, || None);
        }
        if self.payloads[at].is_none() {
            self.payloads[at] = host.alloc(len);
        }
        self.payloads[at].is_some()
    }

    /// Asks for the I/O the core wants done; `false` when a read waits for a buffer.
    pub(crate) fn pump(&mut self, host: &mut dyn Host, events: &mut VecDeque<ExportEvent>) -> bool {
        let Some(served) = self.served else {
            return true;
        };
        while let Some(io) = self.held.take().or_else(|| self.core.poll_io()) {
            let token = token(self.id, io.slot);
            let op = match io.work {
                Work::Read(range) if served.lends => Op::Read { range, buf: None },
                Work::Read(range) => {
                    let Some(buf) = host.alloc(bytes(range, served.block_size)) else {
                        self.held = Some(io);
                        return false;
                    };
                    let buf = Some(buf);
                    Op::Read { range, buf }
                }
                Work::Write { range, fua } => {
                    let buf = self.payloads.get_mut(usize::from(io.slot.0));
                    let Some(buf) = buf.and_then(Option::take) else {
                        let failure = Err(Failure::Aborted);
                        self.core.handle_done(host.now(), io.slot, failure);
                        continue;
                    };
                    Op::Write { range, buf, fua }
                }
                Work::WriteZeroes {
                    range,
                    deallocate,
                    fua,
                } => Op::WriteZeroes {
                    range,
                    deallocate,
                    fua,
                },
                Work::Discard(range) => Op::Discard { range },
                Work::Flush => Op::Flush,
                Work::Extents(range) => {
                    events.push_back(ExportEvent::Extents {
                        volume: served.id,
                        token,
                        range,
                    });
                    continue;
                }
            };
            events.push_back(ExportEvent::Io {
                volume: served.id,
                token,
                op,
            });
        }
        true
    }

    /// The engine's answer to an I/O.
    pub(crate) fn handle_io_done(&mut self, host: &mut dyn Host, slot: Slot, result: IoResult) {
        let now = host.now();
        match result {
            Ok(Some(payload)) => {
                let len = payload.len();
                let at = self.sending.insert(payload);
                let token = DataToken(at as u32);
                if !self.core.handle_data(now, slot, Data { token, len }) {
                    self.sending.remove(at);
                }
            }
            Ok(None) => self.core.handle_done(now, slot, Ok(())),
            Err(error) => self.core.handle_done(now, slot, Err(failure(error))),
        }
    }

    /// The engine's answer to a question for extents.
    pub(crate) fn handle_extents(&mut self, host: &mut dyn Host, slot: Slot, extents: &[Extent]) {
        let Some(served) = self.served else { return };
        let spans = extents.iter().map(|extent| Span {
            bytes: extent.blocks.bytes(served.block_size).unwrap_or(u64::MAX),
            hole: !extent.allocated,
            zero: extent.zero,
        });
        self.core.handle_extents(host.now(), slot, spans);
    }

    /// Whether what stopped receiving is over.
    pub(crate) fn may_resume(&self) -> bool {
        match self.receiving {
            Receiving::NeedsBuffer => self.held.is_none(),
            Receiving::Stopped => self.held.is_none() && self.core.want() != Want::Stopped,
            Receiving::Open | Receiving::Ended => false,
        }
    }
}

fn bytes(range: BlockRange, size: BlockSize) -> usize {
    (range.count.0 << size.shift()) as usize
}

/// The engine's name for an I/O: generation and slot of the connection, slot of the request.
fn token(conn: ConnId, slot: Slot) -> u64 {
    (conn.0 & !0xffff_ffff) | (conn.slot() as u64) << 16 | u64::from(slot.0)
}

/// What [`token`] put together.
pub(crate) fn split_token(token: u64) -> (ConnId, Slot) {
    let conn = ConnId((token & !0xffff_ffff) | (token >> 16 & 0xffff));
    (conn, Slot(token as u16))
}

/// The one place where errors of devices become the protocol's.
fn failure(error: IoError) -> Failure {
    match error {
        IoError::OutOfRange => Failure::OutOfRange,
        IoError::NoSpace => Failure::NoSpace,
        // A compare is never asked for; its failure is the device's.
        IoError::Medium(_) | IoError::CompareFailed(_) => Failure::Medium,
        IoError::Gone => Failure::Gone,
        IoError::Timeout => Failure::Timeout,
        IoError::NotSupported => Failure::NotSupported,
        IoError::Busy => Failure::Busy,
        IoError::Aborted => Failure::Aborted,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_names_connection_and_request() {
        let conn = ConnId(0xdead_beef_0000_ffff);
        let slot = Slot(0x7fff);
        assert_eq!(split_token(token(conn, slot)), (conn, slot));
    }
}
