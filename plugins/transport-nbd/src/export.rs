//! The connections of one reactor, as an export.

use std::collections::{BTreeMap, VecDeque};
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

use nbd_server::{Abilities, Connection, Event, ExportId, Exports, Want};
use sdk::block::{Extent, Geometry, IoResult, Support};
use sdk::export::{Export, ExportEvent, Volume, VolumeId};
use sdk::fabric::{ConnId, Parcel};
use sdk::host::{Host, ListenerId, StreamId};
use sdk::services::Services;
use slab::Slab;

use crate::client::{Client, Receiving, Served, split_token};
use crate::driver::Limits;
use crate::transmit::{self, Sent};

/// Bytes of one receive: 60 writes of 4 KiB.
const STAGING_BYTES: usize = 256 << 10;
/// How often deadlines are looked at while there are any: they are of seconds, and a late end harms nobody.
const SWEEP: Duration = Duration::from_secs(1);

/// See the crate documentation.
pub(crate) struct NbdExport {
    limits: Limits,
    listeners: Vec<ListenerId>,
    services: Arc<dyn Services>,
    exports: Exports,
    served: BTreeMap<VolumeId, Served>,
    clients: Slab<Client>,
    /// Client slot by stream slot.
    by_stream: Vec<Option<(StreamId, usize)>>,
    generation: u32,
    staging: Vec<u8>,
    events: VecDeque<ExportEvent>,
    /// Clients with something to send.
    dirty: Vec<usize>,
    /// Clients that do not receive, to be resumed.
    stopped: Vec<usize>,
    sweep_at: Option<Instant>,
}

/// A connection between two reactors.
struct Moving {
    core: Connection,
    rest: Vec<u8>,
    fd: OwnedFd,
    peer: Option<SocketAddr>,
}

impl NbdExport {
    pub(crate) fn new(
        limits: Limits,
        listeners: Vec<ListenerId>,
        services: Arc<dyn Services>,
    ) -> Self {
        Self {
            limits,
            listeners,
            services,
            exports: Exports::default(),
            served: BTreeMap::new(),
            clients: Slab::new(),
            by_stream: Vec::new(),
            generation: 0,
            staging: vec![0; STAGING_BYTES],
            events: VecDeque::new(),
            dirty: Vec::new(),
            stopped: Vec::new(),
            sweep_at: None,
        }
    }

    fn insert(&mut self, mut client: Client) -> usize {
        // 0 is for connections that never were.
        self.generation = self.generation.checked_add(1).unwrap_or(1);
        let entry = self.clients.vacant_entry();
        let slot = entry.key();
        client.id = ConnId(u64::from(self.generation) << 32 | slot as u64);
        let stream = client.stream;
        entry.insert(client);
        let at = (stream.0 & 0xffff_ffff) as usize;
        if self.by_stream.len() <= at {
            self.by_stream.resize(at + 1, None);
        }
        self.by_stream[at] = Some((stream, slot));
        slot
    }

    fn slot_of_stream(&self, stream: StreamId) -> Option<usize> {
        let at = (stream.0 & 0xffff_ffff) as usize;
        let (known, slot) = self.by_stream.get(at).copied().flatten()?;
        (known == stream).then_some(slot)
    }

    /// The slot of the connection called `conn`, if it is open.
    fn slot_of(&self, conn: ConnId) -> Option<usize> {
        let client = self.clients.get(conn.slot())?;
        (client.id == conn).then_some(conn.slot())
    }

    /// Lets deadlines be looked at `within` from `now` at the latest.
    fn arm(&mut self, now: Instant, within: Duration) {
        let at = now + within;
        self.sweep_at = Some(self.sweep_at.map_or(at, |earlier| earlier.min(at)));
    }

    /// Runs `step` on a client and acts on what it says.
    fn step(
        &mut self,
        host: &mut dyn Host,
        slot: usize,
        step: impl FnOnce(
            &mut Client,
            &mut dyn Host,
            &mut [u8],
            &Exports,
        ) -> Result<Option<Event>, &'static str>,
    ) {
        let Some(client) = self.clients.get_mut(slot) else {
            return;
        };
        match step(client, host, &mut self.staging, &self.exports) {
            Err(reason) => self.close_client(host, slot, reason),
            Ok(event) => {
                if let Some(event) = event {
                    self.handle_event(slot, event);
                }
                self.settle(host, slot);
            }
        }
    }

    fn handle_event(&mut self, slot: usize, event: Event) {
        let Some(client) = self.clients.get_mut(slot) else {
            return;
        };
        let conn = client.id;
        match event {
            Event::Entered(ExportId(id)) => {
                let volume = VolumeId(id);
                client.served = self.served.get(&volume).copied();
                client.away = None;
                self.events.push_back(ExportEvent::Opened {
                    conn,
                    peer: client.peer,
                    volume,
                });
            }
            Event::Away(ExportId(id)) => {
                let volume = VolumeId(id);
                client.away = Some(volume);
                self.events.push_back(ExportEvent::Move { conn, volume });
            }
        }
    }

    /// After anything happened to a client: asks for its I/O, lists it where it belongs, closes it if it is over.
    fn settle(&mut self, host: &mut dyn Host, slot: usize) {
        let Some(client) = self.clients.get_mut(slot) else {
            return;
        };
        if !client.pump(host, &mut self.events) && client.receiving == Receiving::Open {
            client.receiving = Receiving::NeedsBuffer;
        }
        if client.core.has_transmit() && !client.is_dirty && !client.is_blocked {
            client.is_dirty = true;
            self.dirty.push(slot);
        }
        if client.core.is_over() {
            return self.close_client(host, slot, "disconnected");
        }
        if client.receiving != Receiving::Open && !client.is_stopped {
            client.is_stopped = true;
            host.pause_stream(client.stream, true);
            self.stopped.push(slot);
        }
        if matches!(client.core.want(), Want::Payload { .. }) && self.sweep_at.is_none() {
            self.arm(host.now(), SWEEP);
        }
    }

    fn close_client(&mut self, host: &mut dyn Host, slot: usize, reason: &'static str) {
        let Some(client) = self.clients.try_remove(slot) else {
            return;
        };
        self.by_stream[(client.stream.0 & 0xffff_ffff) as usize] = None;
        host.close_stream(client.stream);
        let conn = client.id;
        self.events.push_back(ExportEvent::Closed { conn, reason });
    }

    fn send(&mut self, host: &mut dyn Host, slot: usize) {
        let Some(client) = self.clients.get_mut(slot) else {
            return;
        };
        client.is_dirty = false;
        match transmit::send(client, host) {
            Sent::All => {}
            Sent::Blocked => {
                client.is_blocked = true;
                self.arm(host.now(), SWEEP);
            }
            Sent::Failed => return self.close_client(host, slot, "connection_failed"),
        }
        // What was sent has made room: large reads go on.
        self.settle(host, slot);
    }

    /// Goes on with clients whose reason to stop is over.
    fn resume(&mut self, host: &mut dyn Host) {
        if self.stopped.is_empty() {
            return;
        }
        for slot in std::mem::take(&mut self.stopped) {
            let Some(client) = self.clients.get_mut(slot).filter(|c| c.is_stopped) else {
                continue;
            };
            // A held read goes first.
            client.pump(host, &mut self.events);
            if !client.may_resume() {
                self.stopped.push(slot);
                continue;
            }
            client.is_stopped = false;
            host.pause_stream(client.stream, false);
            self.step(host, slot, |client, host, _, exports| {
                client.resume(host, exports)
            });
        }
    }

    /// The clients for which `is_meant` holds.
    fn slots(&self, is_meant: impl Fn(&Client) -> bool) -> Vec<usize> {
        let meant = self.clients.iter().filter(|(_, client)| is_meant(client));
        meant.map(|(slot, _)| slot).collect()
    }
}

impl Export for NbdExport {
    fn add_volume(&mut self, volume: Volume) {
        let capabilities = volume.capabilities;
        self.exports.insert(nbd_server::Export {
            id: ExportId(volume.id.0),
            name: volume.name,
            description: volume.description,
            block_size: volume.geometry.block_size,
            blocks: volume.geometry.blocks.0,
            read_only: volume.read_only,
            is_here: volume.is_here,
            abilities: Abilities {
                trim: capabilities.discard != Support::None,
                fast_zero: capabilities.write_zeroes == Support::Native,
                cache: capabilities.direct == Some(false),
                // The SDK's contract: a flush covers the volume's answered writes, whichever connection they came by.
                shared_flush: true,
            },
        });
        self.served.insert(
            volume.id,
            Served {
                id: volume.id,
                block_size: volume.geometry.block_size,
                lends: capabilities.lends_reads,
            },
        );
    }

    fn remove_volume(&mut self, host: &mut dyn Host, id: VolumeId) {
        self.exports.remove(ExportId(id.0));
        self.served.remove(&id);
        for slot in self.slots(|client| client.served.is_some_and(|served| served.id == id)) {
            self.close_client(host, slot, "volume_removed");
        }
        for slot in self.slots(|client| client.away == Some(id)) {
            if let Some(client) = self.clients.get_mut(slot) {
                client.away = None;
                client.is_stopped = false;
                host.pause_stream(client.stream, false);
            }
            self.step(host, slot, |client, host, _, exports| {
                client.arrive(host, exports)
            });
        }
    }

    fn set_geometry(&mut self, id: VolumeId, geometry: Geometry) {
        if let Some(export) = self.exports.by_id_mut(ExportId(id.0)) {
            export.block_size = geometry.block_size;
            export.blocks = geometry.blocks.0;
        }
        for (_, client) in &mut self.clients {
            if client.served.is_some_and(|served| served.id == id) {
                client.core.set_size(geometry.bytes());
            }
        }
    }

    fn handle_accepted(
        &mut self,
        host: &mut dyn Host,
        _: ListenerId,
        stream: StreamId,
        peer: Option<SocketAddr>,
    ) {
        if self.clients.len() >= self.limits.connections_max {
            self.services.count("connections_refused", 1);
            self.events.push_back(ExportEvent::Closed {
                conn: ConnId(0),
                reason: "too_many_connections",
            });
            host.close_stream(stream);
            return;
        }
        let core = Connection::new(self.limits.connection, host.now());
        let slot = self.insert(Client::new(stream, peer, core, Vec::new()));
        self.arm(host.now(), self.limits.connection.handshake_timeout);
        self.settle(host, slot);
    }

    fn handle_readable(&mut self, host: &mut dyn Host, stream: StreamId) {
        if let Some(slot) = self.slot_of_stream(stream) {
            self.step(host, slot, |client, host, staging, exports| {
                client.receive(host, staging, exports)
            });
        }
    }

    fn handle_writable(&mut self, host: &mut dyn Host, stream: StreamId) {
        let Some(slot) = self.slot_of_stream(stream) else {
            return;
        };
        if let Some(client) = self.clients.get_mut(slot) {
            client.is_blocked = false;
        }
        self.settle(host, slot);
    }

    fn handle_io_done(&mut self, host: &mut dyn Host, token: u64, result: IoResult) {
        let (conn, request) = split_token(token);
        let Some(slot) = self.slot_of(conn) else {
            return;
        };
        if let Some(client) = self.clients.get_mut(slot) {
            client.handle_io_done(host, request, result);
        }
        self.settle(host, slot);
    }

    fn handle_extents(&mut self, host: &mut dyn Host, token: u64, extents: &[Extent]) {
        let (conn, request) = split_token(token);
        let Some(slot) = self.slot_of(conn) else {
            return;
        };
        if let Some(client) = self.clients.get_mut(slot) {
            client.handle_extents(host, request, extents);
        }
        self.settle(host, slot);
    }

    fn poll_timeout(&self) -> Option<Instant> {
        self.sweep_at
    }

    fn handle_timeout(&mut self, host: &mut dyn Host) {
        let now = host.now();
        if self.sweep_at.is_none_or(|at| at > now) {
            return;
        }
        self.sweep_at = None;
        let mut late = Vec::new();
        let mut next: Option<Instant> = None;
        for (slot, client) in &mut self.clients {
            if client.receiving == Receiving::NeedsBuffer {
                // We keep the client waiting.
                client.core.note_resumed(now);
            }
            if let Err(fault) = client.core.handle_timeout(now) {
                late.push((slot, fault.name()));
            } else if let Some(at) = client.core.poll_timeout() {
                next = Some(next.map_or(at, |earlier| earlier.min(at)));
            }
        }
        for (slot, reason) in late {
            self.close_client(host, slot, reason);
        }
        self.sweep_at = next.map(|at| at.max(now + SWEEP));
    }

    fn poll_event(&mut self) -> Option<ExportEvent> {
        self.events.pop_front()
    }

    fn flush(&mut self, host: &mut dyn Host) {
        // Sending lets others resume, and resuming can answer at once: refused requests, options.
        self.resume(host);
        while !self.dirty.is_empty() {
            while let Some(slot) = self.dirty.pop() {
                self.send(host, slot);
            }
            self.resume(host);
        }
    }

    fn detach(&mut self, host: &mut dyn Host, conn: ConnId) -> Option<Parcel> {
        let slot = self.slot_of(conn)?;
        self.clients.get(slot).filter(|c| c.core.is_away())?;
        let client = self.clients.try_remove(slot)?;
        self.by_stream[(client.stream.0 & 0xffff_ffff) as usize] = None;
        let (stream, peer) = (client.stream, client.peer);
        let fd = host.detach_stream(stream)?;
        let (core, rest) = client.into_parts();
        Some(Box::new(Moving {
            core,
            rest,
            fd,
            peer,
        }))
    }

    fn attach(&mut self, host: &mut dyn Host, parcel: Parcel) -> bool {
        let Ok(moving) = parcel.downcast::<Moving>() else {
            return false;
        };
        if self.clients.len() >= self.limits.connections_max {
            return false;
        }
        let Moving {
            core,
            rest,
            fd,
            peer,
        } = *moving;
        let Ok(stream) = host.attach_stream(fd) else {
            return false;
        };
        let slot = self.insert(Client::new(stream, peer, core, rest));
        self.arm(host.now(), SWEEP);
        self.step(host, slot, |client, host, _, exports| {
            client.arrive(host, exports)
        });
        true
    }

    fn connections(&self) -> usize {
        self.clients.len()
    }

    fn close(&mut self, host: &mut dyn Host) {
        for listener in std::mem::take(&mut self.listeners) {
            host.close_listener(listener);
        }
        for slot in self.slots(|_| true) {
            self.close_client(host, slot, "server_closed");
        }
    }
}
