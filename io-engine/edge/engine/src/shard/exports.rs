//! Other protocols on one shard: its parts of servers, the volumes they serve, the I/O they asked for.
//!
//! Does: carry values between the parts, the devices and the reactor, as `shard` does for the fabric. Does not: know a
//! protocol (the plugin does) or a device.
//!
//! Invariants:
//! - A stream that reached a part is that part's; all others are the fabric's.
//! - Each operation a part asked for is answered to it once.
//! - A part takes memory only while a quarter of the arena is free: its clients are not counted like hosts, and must not
//!   starve them.

use std::collections::BTreeMap;
use std::io::{IoSlice, IoSliceMut};
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::time::Instant;

use block::{Request, Stamps, Waits};
use nvme_target::DeviceKey;
use reactor::Reactor;
use sdk::block::{Extent, Geometry, IoError, IoResult, Op, Submitted};
use sdk::buf::Buf;
use sdk::export::{Export, ExportEvent, ExportSeed, Volume, VolumeId};
use sdk::fabric::{ConnId, Parcel};
use sdk::host::{
    FileId, FileOp, Host, HostError, ListenerId, OwnerId, StreamError, StreamId, Waker,
};
use units::BlockRange;

use super::{Message, Shard};

/// Owner ids of parts begin here; smaller ones are places of devices.
const OWNERS: u32 = 1 << 31;

/// Names a server; the same on every shard.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct ServerKey(pub(crate) usize);

/// Where a volume lives.
#[derive(Clone, Copy)]
struct Home {
    shard: usize,
    /// Its device, if that is here.
    device: Option<DeviceKey>,
}

/// A server's part on this shard.
struct Part {
    export: Box<dyn Export>,
    volumes: BTreeMap<VolumeId, Home>,
}

/// An operation a part asked for.
#[derive(Clone, Copy, Default)]
struct Asked {
    part: usize,
    token: u64,
    generation: u32,
    is_live: bool,
}

/// See the module documentation.
pub(super) struct Exports {
    parts: Vec<Option<Part>>,
    /// Part by stream slot.
    by_stream: Vec<Option<(StreamId, usize)>>,
    asked: Vec<Asked>,
    free: Vec<usize>,
    /// Tags of commands have indices below this one.
    first_index: usize,
}

impl Exports {
    /// None yet. Tags of commands have indices below `first_index`.
    pub(super) fn new(first_index: usize) -> Self {
        Self {
            parts: Vec::new(),
            by_stream: Vec::new(),
            asked: Vec::new(),
            free: Vec::new(),
            first_index,
        }
    }

    /// The part a stream belongs to.
    fn part_of(&self, stream: StreamId) -> Option<usize> {
        let at = (stream.0 & 0xffff_ffff) as usize;
        let (known, part) = self.by_stream.get(at).copied().flatten()?;
        (known == stream).then_some(part)
    }

    /// A tag for an operation.
    fn begin(&mut self, part: usize, token: u64) -> u64 {
        let slot = self.free.pop().unwrap_or_else(|| {
            self.asked.push(Asked::default());
            self.asked.len() - 1
        });
        let asked = &mut self.asked[slot];
        *asked = Asked {
            part,
            token,
            generation: asked.generation.wrapping_add(1),
            is_live: true,
        };
        u64::from(asked.generation) << 32 | (self.first_index + slot) as u64
    }

    /// Part and token of an operation that ended.
    fn end(&mut self, tag: u64) -> Option<(usize, u64)> {
        let slot = ((tag & 0xffff_ffff) as usize).checked_sub(self.first_index)?;
        let asked = self.asked.get_mut(slot)?;
        if !asked.is_live || asked.generation != (tag >> 32) as u32 {
            return None;
        }
        asked.is_live = false;
        self.free.push(slot);
        Some((asked.part, asked.token))
    }

    fn part(&mut self, at: usize) -> Option<&mut Part> {
        self.parts.get_mut(at)?.as_mut()
    }

    /// When the first of the parts wants to be called.
    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        let parts = self.parts.iter().flatten();
        parts.filter_map(|part| part.export.poll_timeout()).min()
    }

    /// Connections open.
    pub(super) fn connections(&self) -> usize {
        let parts = self.parts.iter().flatten();
        parts.map(|part| part.export.connections()).sum()
    }
}

/// The reactor, as a part sees it: it notes which streams are the part's and keeps memory for hosts.
struct PartHost<'a> {
    reactor: &'a mut Reactor<Message>,
    by_stream: &'a mut Vec<Option<(StreamId, usize)>>,
    part: usize,
}

fn note_stream(
    by_stream: &mut Vec<Option<(StreamId, usize)>>,
    stream: StreamId,
    part: Option<usize>,
) {
    let at = (stream.0 & 0xffff_ffff) as usize;
    if by_stream.len() <= at {
        by_stream.resize(at + 1, None);
    }
    by_stream[at] = part.map(|part| (stream, part));
}

impl Host for PartHost<'_> {
    fn now(&self) -> Instant {
        self.reactor.now()
    }

    fn alloc(&mut self, len: usize) -> Option<Buf> {
        let arena = self.reactor.arena().stats();
        let is_scarce = arena.used_bytes + len > arena.bytes - arena.bytes / 4;
        if is_scarce {
            return None;
        }
        self.reactor.alloc(len)
    }

    fn adopt_file(&mut self, fd: OwnedFd, owner: OwnerId) -> Result<FileId, HostError> {
        self.reactor.adopt_file(fd, owner)
    }

    fn close_file(&mut self, file: FileId) {
        self.reactor.close_file(file);
    }

    fn submit_file(&mut self, file: FileId, user: u64, op: FileOp) -> Result<(), FileOp> {
        self.reactor.submit_file(file, user, op)
    }

    fn recv(
        &mut self,
        stream: StreamId,
        bufs: &mut [IoSliceMut<'_>],
    ) -> Result<usize, StreamError> {
        self.reactor.recv(stream, bufs)
    }

    fn send(&mut self, stream: StreamId, bufs: &[IoSlice<'_>]) -> Result<usize, StreamError> {
        self.reactor.send(stream, bufs)
    }

    fn pause_stream(&mut self, stream: StreamId, paused: bool) {
        self.reactor.pause_stream(stream, paused);
    }

    fn end_stream(&mut self, stream: StreamId) {
        self.reactor.end_stream(stream);
    }

    fn close_stream(&mut self, stream: StreamId) {
        note_stream(self.by_stream, stream, None);
        self.reactor.close_stream(stream);
    }

    fn detach_stream(&mut self, stream: StreamId) -> Option<OwnedFd> {
        note_stream(self.by_stream, stream, None);
        self.reactor.detach_stream(stream)
    }

    fn attach_stream(&mut self, fd: OwnedFd) -> Result<StreamId, HostError> {
        let stream = self.reactor.attach_stream(fd)?;
        note_stream(self.by_stream, stream, Some(self.part));
        Ok(stream)
    }

    fn adopt_listener(&mut self, fd: OwnedFd, owner: OwnerId) -> Result<ListenerId, HostError> {
        self.reactor.adopt_listener(fd, owner)
    }

    fn close_listener(&mut self, listener: ListenerId) {
        self.reactor.close_listener(listener);
    }

    fn waker(&mut self, owner: OwnerId) -> Option<Waker> {
        self.reactor.waker(owner)
    }
}

impl Shard {
    /// Runs `code` on a part, with the reactor as it sees it.
    fn with_part<R>(
        &mut self,
        at: usize,
        code: impl FnOnce(&mut dyn Export, &mut PartHost<'_>) -> R,
    ) -> Option<R> {
        let Exports {
            parts, by_stream, ..
        } = &mut self.exports;
        let part = parts.get_mut(at)?.as_mut()?;
        let mut host = PartHost {
            reactor: &mut self.reactor,
            by_stream,
            part: at,
        };
        Some(code(&mut *part.export, &mut host))
    }

    /// Starts a server's part on this shard.
    ///
    /// # Errors
    /// What the part answers.
    pub(crate) fn open_part(
        &mut self,
        key: ServerKey,
        seed: Box<dyn ExportSeed>,
    ) -> Result<(), HostError> {
        let ServerKey(at) = key;
        if self.exports.parts.len() <= at {
            self.exports.parts.resize_with(at + 1, || None);
        }
        let owner = OwnerId(OWNERS + at as u32);
        let mut host = PartHost {
            reactor: &mut self.reactor,
            by_stream: &mut self.exports.by_stream,
            part: at,
        };
        let export = seed.open(&mut host, owner)?;
        self.exports.parts[at] = Some(Part {
            export,
            volumes: BTreeMap::new(),
        });
        Ok(())
    }

    /// Ends a server's part: its connections and listeners are closed. Answers to its I/O find nobody.
    pub(crate) fn close_part(&mut self, key: ServerKey) {
        self.with_part(key.0, |export, host| export.close(host));
        self.pump_part(key.0);
        if let Some(part) = self.exports.parts.get_mut(key.0) {
            *part = None;
        }
    }

    /// Ends all parts.
    pub(super) fn close_parts(&mut self) {
        for at in 0..self.exports.parts.len() {
            self.close_part(ServerKey(at));
        }
    }

    /// Serves a volume, or tells a part of one that is served by another shard.
    pub(crate) fn add_volume(
        &mut self,
        key: ServerKey,
        mut volume: Volume,
        home: usize,
        device: DeviceKey,
    ) {
        let is_here = home == self.index;
        let device = is_here.then_some(device);
        volume.is_here = is_here;
        if let Some(part) = self.exports.part(key.0) {
            let shard = home;
            part.volumes.insert(volume.id, Home { shard, device });
            part.export.add_volume(volume);
        }
    }

    /// Serves a volume no longer.
    pub(crate) fn remove_volume(&mut self, key: ServerKey, id: VolumeId) {
        self.with_part(key.0, |export, host| export.remove_volume(host, id));
        if let Some(part) = self.exports.part(key.0) {
            part.volumes.remove(&id);
        }
    }

    /// Serves no volume any longer, which closes the connections.
    pub(super) fn remove_volumes(&mut self) {
        for at in 0..self.exports.parts.len() {
            let volumes = self.exports.part(at).map(|part| &part.volumes);
            let ids: Vec<VolumeId> = volumes
                .into_iter()
                .flat_map(BTreeMap::keys)
                .copied()
                .collect();
            for id in ids {
                self.remove_volume(ServerKey(at), id);
            }
        }
    }

    /// A volume has this size from here on.
    pub(crate) fn resize_volume(&mut self, key: ServerKey, id: VolumeId, geometry: Geometry) {
        if let Some(part) = self.exports.part(key.0) {
            part.export.set_geometry(id, geometry);
        }
    }

    /// A client connected to a listener a part had lent.
    pub(super) fn handle_arrived(
        &mut self,
        owner: OwnerId,
        listener: ListenerId,
        stream: StreamId,
        peer: Option<SocketAddr>,
    ) {
        let part = owner.0.checked_sub(OWNERS).map(|at| at as usize);
        let Some(at) = part.filter(|at| self.exports.part(*at).is_some()) else {
            // A device lends no listeners; a part that is gone has none.
            return self.reactor.close_stream(stream);
        };
        note_stream(&mut self.exports.by_stream, stream, Some(at));
        self.with_part(at, |export, host| {
            export.handle_accepted(host, listener, stream, peer);
        });
    }

    /// A stream may have bytes.
    pub(super) fn handle_readable(&mut self, stream: StreamId) {
        match self.exports.part_of(stream) {
            Some(at) => {
                self.with_part(at, |export, host| export.handle_readable(host, stream));
            }
            None => self.fabric.handle_readable(&mut self.reactor, stream),
        }
    }

    /// A stream takes bytes again.
    pub(super) fn handle_writable(&mut self, stream: StreamId) {
        match self.exports.part_of(stream) {
            Some(at) => {
                self.with_part(at, |export, host| export.handle_writable(host, stream));
            }
            None => self.fabric.handle_writable(&mut self.reactor, stream),
        }
    }

    /// Tells parts whose time has come.
    pub(super) fn handle_part_timeouts(&mut self, now: Instant) {
        for at in 0..self.exports.parts.len() {
            self.with_part(at, |export, host| {
                if export.poll_timeout().is_some_and(|at| at <= now) {
                    export.handle_timeout(host);
                }
            });
        }
    }

    /// Sends what parts have queued.
    pub(super) fn flush_parts(&mut self) {
        for at in 0..self.exports.parts.len() {
            self.with_part(at, |export, host| export.flush(host));
        }
    }

    /// Does what parts ask for. Tells whether any asked.
    pub(super) fn pump_parts(&mut self) -> bool {
        let mut any = false;
        for at in 0..self.exports.parts.len() {
            any |= self.pump_part(at);
        }
        any
    }

    fn pump_part(&mut self, at: usize) -> bool {
        let mut any = false;
        while let Some(event) = self
            .exports
            .part(at)
            .and_then(|part| part.export.poll_event())
        {
            self.handle_part_event(at, event);
            any = true;
        }
        any
    }

    fn handle_part_event(&mut self, at: usize, event: ExportEvent) {
        match event {
            ExportEvent::Io { volume, token, op } => self.start_asked(at, volume, token, op),
            ExportEvent::Extents {
                volume,
                token,
                range,
            } => self.tell_extents(at, volume, token, range),
            ExportEvent::Move { conn, volume } => self.move_client(at, conn, volume),
            ExportEvent::Opened { peer, volume, .. } => self.log_client(peer, volume),
            ExportEvent::Closed { reason, .. } => self.count_client_closed(reason),
        }
    }

    fn device_of(&mut self, at: usize, volume: VolumeId) -> Option<DeviceKey> {
        self.exports.part(at)?.volumes.get(&volume)?.device
    }

    fn start_asked(&mut self, at: usize, volume: VolumeId, token: u64, op: Op) {
        let Some(device) = self.device_of(at, volume) else {
            return self.answer(at, token, Err(IoError::Gone));
        };
        let request = match op {
            Op::Read { range, buf } => Request::Read { range, buf },
            Op::Write { range, buf, fua } => Request::Write { range, buf, fua },
            Op::WriteZeroes {
                range,
                deallocate,
                fua,
            } => Request::WriteZeroes {
                range,
                deallocate,
                fua,
            },
            Op::Discard { range } => Request::Discard { range },
            Op::Flush => Request::Flush,
        };
        let stamps = Stamps {
            received: self.reactor.now(),
            waits: Waits::default(),
        };
        let tag = self.exports.begin(at, token);
        let submitted = self
            .devices
            .submit(&mut self.reactor, device, tag, request, stamps);
        if let Submitted::Done(result) = submitted {
            self.finish_asked(tag, result);
        }
    }

    /// An operation that is no command's ended.
    pub(super) fn finish_asked(&mut self, tag: u64, result: IoResult) {
        if let Some((at, token)) = self.exports.end(tag) {
            self.answer(at, token, result);
        }
    }

    fn answer(&mut self, at: usize, token: u64, result: IoResult) {
        self.with_part(at, |export, host| {
            export.handle_io_done(host, token, result);
        });
    }

    fn tell_extents(&mut self, at: usize, volume: VolumeId, token: u64, range: BlockRange) {
        let device = self.device_of(at, volume);
        let found = device.and_then(|device| self.devices.extents(device, range));
        // Without a device reads fail, which is what the client should meet.
        let unknown = Extent {
            blocks: range.count,
            allocated: true,
            zero: false,
        };
        let extents = found.unwrap_or_else(|| vec![unknown]);
        self.with_part(at, |export, host| {
            export.handle_extents(host, token, &extents);
        });
    }

    /// Carries a connection to where its volume lives.
    fn move_client(&mut self, at: usize, conn: ConnId, volume: VolumeId) {
        let home = self
            .exports
            .part(at)
            .and_then(|part| part.volumes.get(&volume).map(|home| home.shard));
        // A volume that is gone was told of to the part, which goes on with the connection.
        let Some(home) = home else { return };
        let detached = self.with_part(at, |export, host| export.detach(host, conn));
        let Some(parcel) = detached.flatten() else {
            return;
        };
        let arrive = move |shard: &mut Self| shard.take_client_in(at, parcel);
        if self.surroundings.send(home, Box::new(arrive)).is_err() {
            // The connection ended with the message.
            self.count_client_closed("reactor_busy");
        }
    }

    fn take_client_in(&mut self, at: usize, parcel: Parcel) {
        let taken = self.with_part(at, |export, host| export.attach(host, parcel));
        if taken != Some(true) {
            self.count_client_closed("too_many_connections");
        }
    }

    fn log_client(&mut self, peer: Option<SocketAddr>, volume: VolumeId) {
        if self.log.admit(self.reactor.now(), "client connected") {
            let peer = peer.map_or_else(|| "a local socket".to_owned(), |peer| peer.to_string());
            tracing::info!(%peer, volume = volume.0, "client connected");
        }
    }

    fn count_client_closed(&mut self, reason: &'static str) {
        self.connections.count_closed(reason);
        if self.log.admit(self.reactor.now(), reason) {
            tracing::debug!(reason, "client's connection closed");
        }
    }
}
