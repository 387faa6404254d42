//! The connections of one reactor, as a fabric.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::time::Instant;

use nvme_spec::Cqe;
use nvme_tcp::Controller;
use sdk::buf::{Buf, Payload};
use sdk::fabric::{Attached, ConnId, Fabric, FabricEvent, Parcel};
use sdk::host::{Host, StreamId};
use slab::Slab;

use crate::TcpConfig;
use crate::connection::{Connection, Receiving, Told};
use crate::limits::{
    HALF_RECEIVED_BYTES_MAX, IN_CAPSULE_BYTES_MAX, KEPT_BYTES_MAX, STAGED_WHILE_SHORT,
    STAGING_BYTES,
};
use crate::transmit::{self, Sent};

/// See the crate documentation.
pub struct TcpFabric {
    pub(crate) config: TcpConfig,
    pub(crate) connections: Slab<Connection>,
    /// Connection slot by stream slot.
    pub(crate) by_stream: Vec<Option<(StreamId, usize)>>,
    generation: u64,
    pub(crate) shared: Shared,
    /// Connections that wait for a buffer or for their host to read, to be resumed.
    stopped: Vec<usize>,
    /// When handshakes run out, soonest first.
    deadlines: VecDeque<(Instant, ConnId)>,
    /// When connections that are being closed run out, soonest first.
    pub(crate) lingering: VecDeque<(Instant, ConnId)>,
    /// When to look at the progress of watched connections; `None` while there are none.
    pub(crate) look_at: Option<Instant>,
}

/// What all connections use, one at a time.
pub(crate) struct Shared {
    pub(crate) staging: Vec<u8>,
    /// Bytes of the arena that capsules which are not whole hold, on all connections.
    pub(crate) half_received: usize,
    /// Heap of what connections received and could not take, in bytes.
    pub(crate) kept: usize,
    pub(crate) events: VecDeque<FabricEvent>,
    dirty: Vec<usize>,
    /// Bytes of buffers sent, by connection.
    sent: Vec<(ConnId, usize)>,
    /// Connections whose hosts owe bytes, or did when they were last looked at.
    pub(crate) watched: Vec<ConnId>,
}

/// A connection between two reactors.
struct Moving {
    core: Controller,
    rest: Vec<u8>,
    fd: std::os::fd::OwnedFd,
    local: SocketAddr,
    peer: SocketAddr,
}

impl TcpFabric {
    /// A fabric without connections.
    ///
    /// # Panics
    /// If `config` is outside the ranges its fields document.
    pub fn new(config: TcpConfig) -> Self {
        assert!(config.in_capsule_bytes <= IN_CAPSULE_BYTES_MAX);
        Self {
            config,
            connections: Slab::new(),
            by_stream: Vec::new(),
            generation: 0,
            shared: Shared {
                staging: vec![0; STAGING_BYTES],
                half_received: 0,
                kept: 0,
                events: VecDeque::new(),
                dirty: Vec::new(),
                sent: Vec::new(),
                watched: Vec::new(),
            },
            stopped: Vec::new(),
            deadlines: VecDeque::new(),
            lingering: VecDeque::new(),
            look_at: None,
        }
    }

    fn insert(&mut self, make: impl FnOnce(ConnId) -> Connection) -> ConnId {
        self.generation += 1;
        let generation = self.generation;
        // The slot is not known before the insertion, the id is part of the connection.
        let placeholder = make(ConnId(0));
        let stream = placeholder.stream;
        let slot = self.connections.insert(placeholder);
        let id = ConnId(generation << 32 | slot as u64);
        if let Some(connection) = self.connections.get_mut(slot) {
            connection.id = id;
        }
        let at = (stream.0 & 0xffff_ffff) as usize;
        if self.by_stream.len() <= at {
            self.by_stream.resize(at + 1, None);
        }
        self.by_stream[at] = Some((stream, slot));
        id
    }

    fn slot_of_stream(&self, stream: StreamId) -> Option<usize> {
        let (known, slot) = self
            .by_stream
            .get((stream.0 & 0xffff_ffff) as usize)
            .copied()
            .flatten()?;
        (known == stream).then_some(slot)
    }

    /// The open connection called `conn`; not one that is being closed.
    pub(crate) fn open(&mut self, conn: ConnId) -> Option<&mut Connection> {
        self.connections
            .get_mut(conn.slot())
            .filter(|connection| connection.id == conn && connection.ending.is_none())
    }

    /// Has `connection` looked at as long as its host owes bytes.
    fn watch(shared: &mut Shared, connection: &mut Connection) {
        if !connection.is_watched && connection.is_owed() {
            connection.is_watched = true;
            shared.watched.push(connection.id);
        }
    }

    pub(crate) fn mark_dirty(shared: &mut Shared, slot: usize, connection: &mut Connection) {
        if !connection.is_dirty && !connection.is_blocked && connection.core.has_transmit() {
            connection.is_dirty = true;
            shared.dirty.push(slot);
        }
    }

    /// Runs `step` on a connection and acts on what it says.
    fn step(
        &mut self,
        host: &mut dyn Host,
        slot: usize,
        step: impl FnOnce(
            &mut Connection,
            &mut dyn Host,
            (&mut [u8], usize),
            &mut dyn FnMut(&mut Connection, Told),
        ) -> Result<(), &'static str>,
    ) {
        let Some(connection) = self.connections.get_mut(slot) else {
            return;
        };
        let Shared {
            staging,
            half_received,
            kept,
            events,
            ..
        } = &mut self.shared;
        let mut tell =
            |connection: &mut Connection, told| events.push_back(event(connection, told));
        *half_received -= connection.half_received();
        let early_max = HALF_RECEIVED_BYTES_MAX.saturating_sub(*half_received);
        let room = match *kept >= KEPT_BYTES_MAX {
            true => connection.staging_min().max(STAGED_WHILE_SHORT),
            false => STAGING_BYTES,
        };
        let staging = &mut staging[..room.min(STAGING_BYTES)];
        *kept -= connection.kept();
        let outcome = step(connection, host, (staging, early_max), &mut tell);
        *half_received += connection.half_received();
        *kept += connection.kept();
        Self::mark_dirty(&mut self.shared, slot, connection);
        Self::watch(&mut self.shared, connection);
        match outcome {
            Ok(()) if connection.receiving == Receiving::Open => {}
            Ok(()) => {
                host.pause_stream(connection.stream, true);
                self.stopped.push(slot);
            }
            Err(reason) => self.fail(host, slot, reason),
        }
    }

    fn send(&mut self, host: &mut dyn Host, slot: usize) {
        let Some(connection) = self.connections.get_mut(slot) else {
            return;
        };
        connection.is_dirty = false;
        let unsent = connection.unsent_bytes;
        let outcome = transmit::send(connection, host);
        let sent = unsent - connection.unsent_bytes;
        if sent > 0 {
            self.shared.sent.push((connection.id, sent));
        }
        match outcome {
            Sent::All if connection.ending.is_some() => self.end(host, slot),
            Sent::All => {}
            Sent::Blocked => {
                connection.is_blocked = true;
                Self::watch(&mut self.shared, connection);
            }
            Sent::Failed if connection.ending.is_some() => self.drop_connection(host, slot),
            Sent::Failed => {
                connection.clear();
                self.fail(host, slot, "connection_failed");
            }
        }
    }

    /// Goes on with connections whose reason to stop is over.
    fn resume(&mut self, host: &mut dyn Host) {
        let stopped = std::mem::take(&mut self.stopped);
        for slot in stopped {
            let Some(connection) = self.connections.get_mut(slot) else {
                continue;
            };
            let over = match connection.receiving {
                Receiving::NeedsBuffer(_) => true,
                Receiving::Congested => !connection.core.is_congested(),
                Receiving::Open | Receiving::Ended => continue,
            };
            if !over {
                self.stopped.push(slot);
                continue;
            }
            let stream = connection.stream;
            host.pause_stream(stream, false);
            self.step(host, slot, |connection, host, (_, early_max), tell| {
                let tell = &mut |connection: &mut Connection, told| tell(connection, told);
                connection.resume(host, early_max, tell)
            });
        }
    }
}

/// Takes the first connection off `list` whose time has come.
fn pop_due(list: &mut VecDeque<(Instant, ConnId)>, now: Instant) -> Option<ConnId> {
    let (_, conn) = list.front().copied().filter(|(at, _)| *at <= now)?;
    list.pop_front();
    Some(conn)
}

fn event(connection: &Connection, told: Told) -> FabricEvent {
    let conn = connection.id;
    match told {
        Told::Ready => FabricEvent::Connected {
            conn,
            local: connection.local,
            peer: connection.peer,
        },
        Told::Capsule { sqe, data, data_ok } => FabricEvent::Capsule {
            conn,
            sqe,
            data,
            data_ok,
        },
        Told::Fetched {
            token,
            buf,
            data_ok,
        } => FabricEvent::Fetched {
            conn,
            token,
            buf,
            data_ok,
        },
    }
}

impl Fabric for TcpFabric {
    fn handle_accepted(
        &mut self,
        host: &mut dyn Host,
        stream: StreamId,
        local: SocketAddr,
        peer: SocketAddr,
    ) -> Option<ConnId> {
        if self.connections.len() >= self.config.connections_max {
            self.shared.events.push_back(FabricEvent::Closed {
                conn: ConnId(0),
                reason: "too_many_connections",
            });
            host.close_stream(stream);
            return None;
        }
        let (now, config) = (host.now(), self.config.clone());
        let id = self.insert(|id| Connection::new(id, stream, local, peer, &config, now));
        self.deadlines
            .push_back((now + self.config.handshake_timeout, id));
        Some(id)
    }

    fn handle_readable(&mut self, host: &mut dyn Host, stream: StreamId) {
        let Some(slot) = self.slot_of_stream(stream) else {
            return;
        };
        if self.is_ending(slot) {
            self.drain(host, slot);
            return;
        }
        self.step(
            host,
            slot,
            |connection, host, (staging, early_max), tell| {
                let tell = &mut |connection: &mut Connection, told| tell(connection, told);
                connection.receive(host, staging, early_max, tell)
            },
        );
    }

    fn handle_writable(&mut self, host: &mut dyn Host, stream: StreamId) {
        let Some(slot) = self.slot_of_stream(stream) else {
            return;
        };
        if let Some(connection) = self.connections.get_mut(slot) {
            connection.is_blocked = false;
            Self::mark_dirty(&mut self.shared, slot, connection);
        }
        let _ = host;
    }

    fn poll_timeout(&self) -> Option<Instant> {
        let handshake = self.deadlines.front().map(|(at, _)| *at);
        let linger = self.lingering.front().map(|(at, _)| *at);
        [handshake, linger, self.look_at]
            .into_iter()
            .flatten()
            .min()
    }

    fn handle_timeout(&mut self, host: &mut dyn Host) {
        let now = host.now();
        while let Some(conn) = pop_due(&mut self.deadlines, now) {
            let Some(connection) = self.open(conn) else {
                continue;
            };
            if let Err(fault) = connection.core.handle_timeout(now) {
                self.fail(host, conn.slot(), fault.kind.name());
            }
        }
        while let Some(conn) = pop_due(&mut self.lingering, now) {
            let slot = conn.slot();
            let connection = self.connections.get(slot);
            if connection.is_some_and(|connection| connection.id == conn) {
                self.drop_connection(host, slot);
            }
        }
        if self.look_at.is_some_and(|at| at <= now) {
            self.look_at_progress(host);
        }
    }

    fn poll_event(&mut self) -> Option<FabricEvent> {
        self.shared.events.pop_front()
    }

    fn fetch(&mut self, conn: ConnId, cid: u16, token: u64, buf: Buf) {
        let queue_depth = self.config.queue_depth;
        let Some(connection) = self.open(conn) else {
            return;
        };
        // Aborted commands may leave fetches behind that the host still serves; beyond the queue's depth it never will.
        if connection.fetches() < queue_depth {
            connection.fetch(cid, token, buf);
            if let Some(connection) = self.connections.get_mut(conn.slot()) {
                Self::mark_dirty(&mut self.shared, conn.slot(), connection);
                Self::watch(&mut self.shared, connection);
            }
        }
    }

    fn respond(&mut self, conn: ConnId, cqe: &Cqe, data: Option<Payload>, implicit: bool) {
        let Some(connection) = self.connections.get_mut(conn.slot()) else {
            return;
        };
        if connection.id != conn || connection.ending.is_some() {
            return;
        }
        connection.respond(cqe, data, implicit);
        Self::mark_dirty(&mut self.shared, conn.slot(), connection);
    }

    fn forget(&mut self, conn: ConnId, cid: u16) {
        if let Some(connection) = self.open(conn) {
            connection.forget(cid);
        }
    }

    fn flush(&mut self, host: &mut dyn Host) {
        while let Some(slot) = self.shared.dirty.pop() {
            self.send(host, slot);
        }
        if !self.stopped.is_empty() {
            self.resume(host);
        }
        if self.look_at.is_none() && !self.shared.watched.is_empty() {
            self.look_at = Some(host.now() + self.look_period());
        }
    }

    fn poll_sent(&mut self) -> Option<(ConnId, usize)> {
        self.shared.sent.pop()
    }

    fn close(&mut self, host: &mut dyn Host, conn: ConnId, _reason: &'static str) {
        if self.open(conn).is_some() {
            self.linger(host, conn.slot());
        }
    }

    fn detach(&mut self, host: &mut dyn Host, conn: ConnId) -> Option<Parcel> {
        self.open(conn)?;
        let slot = conn.slot();
        // The answer to ICReq may still be queued.
        self.send(host, slot);
        let connection = self.connections.try_remove(slot)?;
        self.shared.half_received -= connection.half_received();
        self.shared.kept -= connection.kept();
        self.by_stream[(connection.stream.0 & 0xffff_ffff) as usize] = None;
        let (stream, local, peer) = (connection.stream, connection.local, connection.peer);
        let Some((core, rest)) = connection.into_core() else {
            host.close_stream(stream);
            return None;
        };
        let fd = host.detach_stream(stream)?;
        Some(Box::new(Moving {
            core,
            rest,
            fd,
            local,
            peer,
        }))
    }

    fn attach(&mut self, host: &mut dyn Host, parcel: Parcel) -> Option<Attached> {
        let moving = parcel.downcast::<Moving>().ok()?;
        if self.connections.len() >= self.config.connections_max {
            return None;
        }
        let Moving {
            core,
            rest,
            fd,
            local,
            peer,
        } = *moving;
        let stream = host.attach_stream(fd).ok()?;
        let deadline = core.poll_timeout();
        self.shared.kept += rest.capacity();
        let conn = self.insert(|id| Connection::moved(id, stream, (local, peer), core, rest));
        if let Some(deadline) = deadline {
            // Out of order by the time it took to move, which only delays the ones behind it.
            self.deadlines.push_back((deadline, conn));
        }
        Some(Attached { conn, local, peer })
    }

    fn connections(&self) -> usize {
        self.connections.len()
    }
}
