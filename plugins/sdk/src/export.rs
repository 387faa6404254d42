//! The export contract: a protocol of its own (NBD, vhost-user, ...) over devices of the engine.
//!
//! Three objects. [`ExportDriver`] names the protocol. [`ExportServer`] is one running server: it is opened on the
//! control path, where it binds its sockets. [`Export`] is the server's part on one reactor: it is told of streams,
//! volumes and finished I/O, and queues events; the engine drains them and starts the I/O. Nothing is sent before
//! [`Export::flush`], once a turn.
//!
//! Who does what: the export knows connections and its protocol; the engine knows devices, keeps their deadlines,
//! emulates what they lack, and decides on which reactor a device lives. A connection is accepted on any reactor; once
//! its client has named a volume that lives elsewhere, the export asks for a move ([`ExportEvent::Move`]) and the engine
//! carries it over, so that all connections of a volume meet on one core.
//!
//! Contract of I/O: each [`ExportEvent::Io`] is answered by one [`Export::handle_io_done`] with its token, in any order,
//! also when its connection is gone meanwhile: the export drops such an answer. The engine checks ranges; I/O in flight
//! together is not ordered, and a flush covers the writes that were answered before it was started.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use units::BlockRange;

use crate::block::{Capabilities, Extent, Geometry, IoResult, Op, OpenError};
use crate::fabric::{ConnId, Parcel};
use crate::host::{Host, HostError, ListenerId, OwnerId, StreamId};
use crate::services::Services;

/// Names a device served by an export; the engine's number, the same on every reactor, never used again.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct VolumeId(pub u64);

/// A device to be served.
#[derive(Clone, Debug)]
pub struct Volume {
    /// Its number.
    pub id: VolumeId,
    /// The name clients ask for; unique in the server, 1 to 255 bytes.
    pub name: String,
    /// Text for listings; may be empty.
    pub description: String,
    /// Size.
    pub geometry: Geometry,
    /// What the device does. The engine emulates zeroing; discard it passes on only where this says so.
    pub capabilities: Capabilities,
    /// Whether writes are refused. The engine refuses them too.
    pub read_only: bool,
    /// Whether the device lives on this reactor; only then may I/O be asked for here.
    pub is_here: bool,
}

/// How a server is run. Fields a protocol has no use for have no effect on it.
#[derive(Clone, Debug)]
pub struct ExportSettings {
    /// Where to listen: `tcp://ADDRESS:PORT` (port 0 picks one) or `unix:///PATH`. A protocol refuses others by name.
    pub listen: Vec<String>,
    /// Connections at once on one reactor; one more is closed as it is accepted.
    pub connections_max: usize,
    /// Largest transfer of one request in bytes, at most 1 MiB: what one buffer holds.
    pub transfer_bytes_max: u32,
    /// Requests of one connection in flight; beyond it the export stops reading.
    pub requests_max: usize,
    /// Time from accept until a volume is chosen.
    pub handshake_timeout: Duration,
}

impl Default for ExportSettings {
    fn default() -> Self {
        Self {
            listen: Vec::new(),
            connections_max: 1024,
            transfer_bytes_max: 1 << 20,
            requests_max: 128,
            handshake_timeout: Duration::from_secs(10),
        }
    }
}

/// What an export asks for or tells.
#[derive(Debug)]
pub enum ExportEvent {
    /// Start an operation on a volume that is here. Buffers come from [`Host::alloc`]; a read without a buffer is for
    /// devices that lend.
    Io {
        /// On what.
        volume: VolumeId,
        /// Comes back with the answer; the export's to choose.
        token: u64,
        /// What.
        op: Op,
    },
    /// Tell which parts of a range hold data, for block status. Answered by [`Export::handle_extents`].
    Extents {
        /// Of what.
        volume: VolumeId,
        /// Comes back with the answer.
        token: u64,
        /// Where.
        range: BlockRange,
    },
    /// The client of this connection chose a volume that is not here: carry the connection to it.
    Move {
        /// Which connection; it is not read from until it arrives.
        conn: ConnId,
        /// Where to.
        volume: VolumeId,
    },
    /// A connection chose a volume and serves it from here on (counted, logged).
    Opened {
        /// The connection.
        conn: ConnId,
        /// The client's end; none on a Unix socket.
        peer: Option<SocketAddr>,
        /// The volume.
        volume: VolumeId,
    },
    /// A connection is gone. No further event names it; answers to its I/O still come and are dropped.
    Closed {
        /// The connection.
        conn: ConnId,
        /// Why, as a stable word for logs and counters.
        reason: &'static str,
    },
}

/// A protocol devices can be served by.
pub trait ExportDriver: Send + Sync {
    /// The word a share names it by, e.g. `nbd`.
    fn protocol(&self) -> &'static str;

    /// Opens a server: binds its sockets. Runs on the control path and may block.
    ///
    /// # Errors
    /// [`OpenError::InUse`] for an address somebody listens on, [`OpenError::Unsuitable`] for one that is not the
    /// protocol's, [`OpenError::System`] for other refusals.
    fn open(
        &self,
        settings: &ExportSettings,
        services: &Arc<dyn Services>,
    ) -> Result<Box<dyn ExportServer>, OpenError>;
}

/// One running server, on the control path.
pub trait ExportServer: Send + Sync {
    /// The URI by which clients reach the volume called `name`, e.g. `nbd://127.0.0.1:10809/name`.
    fn uri(&self, name: &str) -> String;

    /// The part for the next reactor. Called once for each reactor, the first one first; that one takes the listening
    /// sockets along.
    ///
    /// # Errors
    /// [`OpenError::System`] when a descriptor cannot be duplicated.
    fn open_seat(&mut self) -> Result<Box<dyn ExportSeed>, OpenError>;
}

/// A reactor's part of a server, on its way there.
pub trait ExportSeed: Send {
    /// Makes it, on its reactor. Listening sockets are lent to the reactor here ([`Host::adopt_listener`]).
    ///
    /// # Errors
    /// [`HostError`] of the operations used.
    fn open(
        self: Box<Self>,
        host: &mut dyn Host,
        owner: OwnerId,
    ) -> Result<Box<dyn Export>, HostError>;
}

/// A server's part on one reactor. See the module documentation.
///
/// Calls that name a closed connection or a volume that is not known do nothing; buffers they carry return to the arena.
pub trait Export {
    /// A volume is served from here on. It is told to every reactor, to the one where it lives with `is_here`.
    fn add_volume(&mut self, volume: Volume);

    /// A volume is not served any more: its connections are closed; I/O in flight is still answered.
    fn remove_volume(&mut self, host: &mut dyn Host, id: VolumeId);

    /// A volume has this size from here on.
    fn set_geometry(&mut self, id: VolumeId, geometry: Geometry);

    /// A client connected. `peer` is none on a Unix socket.
    fn handle_accepted(
        &mut self,
        host: &mut dyn Host,
        listener: ListenerId,
        stream: StreamId,
        peer: Option<SocketAddr>,
    );

    /// A stream may have bytes to read.
    fn handle_readable(&mut self, host: &mut dyn Host, stream: StreamId);

    /// A stream that refused bytes takes them again.
    fn handle_writable(&mut self, host: &mut dyn Host, stream: StreamId);

    /// An operation ended.
    fn handle_io_done(&mut self, host: &mut dyn Host, token: u64, result: IoResult);

    /// What a range holds: extents in order from its first block, together at least one block and at most the range.
    fn handle_extents(&mut self, host: &mut dyn Host, token: u64, extents: &[Extent]);

    /// When [`Export::handle_timeout`] wants to be called next.
    fn poll_timeout(&self) -> Option<Instant>;

    /// The time of [`Export::poll_timeout`] has come.
    fn handle_timeout(&mut self, host: &mut dyn Host);

    /// The next event.
    fn poll_event(&mut self) -> Option<ExportEvent>;

    /// Sends what is queued and goes on with connections that waited for a buffer. Once a turn.
    fn flush(&mut self, host: &mut dyn Host);

    /// Takes a connection off this reactor, because of [`ExportEvent::Move`]; `None` if it is gone. No `Closed` follows.
    fn detach(&mut self, host: &mut dyn Host, conn: ConnId) -> Option<Parcel>;

    /// Takes over a connection another reactor's part of the same server detached, and goes on where it stopped: the
    /// volume it chose is here. `false` if there is no room; the connection is closed then.
    fn attach(&mut self, host: &mut dyn Host, parcel: Parcel) -> bool;

    /// Connections open at the moment.
    fn connections(&self) -> usize;

    /// Closes every connection and listener; no I/O is in flight.
    fn close(&mut self, host: &mut dyn Host);
}
