//! The fabric contract: an NVMe-oF transport carries capsules and data, the engine decides.
//!
//! A fabric runs on one reactor, is told of its streams, and queues events. The engine drains them, starts I/O, and
//! answers with [`Fabric::fetch`] and [`Fabric::respond`]; nothing is sent before [`Fabric::flush`], once a turn.
//! Subsystems, controllers and commands are the engine's; the fabric knows connections and command ids.

use std::any::Any;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use nvme_spec::{Cqe, Sqe};

use crate::block::OpenError;
use crate::buf::{Buf, Payload};
use crate::host::{Host, StreamId};
use crate::services::Services;

/// A connection, which is one queue pair: dense slot in the low, generation in the high half.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct ConnId(pub u64);

impl ConnId {
    /// The dense slot, for indexing tables.
    pub fn slot(self) -> usize {
        (self.0 & 0xffff_ffff) as usize
    }
}

/// What happened on a fabric.
#[derive(Debug)]
pub enum FabricEvent {
    /// The transport handshake is done; a Fabrics Connect may follow.
    Connected {
        /// The new connection.
        conn: ConnId,
        /// Our end.
        local: SocketAddr,
        /// The host's end.
        peer: SocketAddr,
    },
    /// A command arrived, with its in-capsule data if it carried any.
    Capsule {
        /// Where.
        conn: ConnId,
        /// The command.
        sqe: Sqe,
        /// In-capsule data.
        data: Option<Buf>,
        /// Whether the data passed its digest (`true` without one).
        data_ok: bool,
    },
    /// Data asked for by [`Fabric::fetch`] has arrived.
    Fetched {
        /// Where.
        conn: ConnId,
        /// The number given to `fetch`.
        token: u64,
        /// The buffer, filled.
        buf: Buf,
        /// Whether the data passed its digest (`true` without one).
        data_ok: bool,
    },
    /// The connection is gone; its fetches will not complete. No further event names it.
    Closed {
        /// Which.
        conn: ConnId,
        /// Why, as a stable word for logs and counters.
        reason: &'static str,
    },
}

/// A connection on its way to another reactor.
pub type Parcel = Box<dyn Any + Send>;

/// A connection taken over from another reactor.
#[derive(Clone, Copy, Debug)]
pub struct Attached {
    /// Its name here.
    pub conn: ConnId,
    /// Our end.
    pub local: SocketAddr,
    /// The host's end.
    pub peer: SocketAddr,
}

/// Limits of a transport on one reactor.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FabricSettings {
    /// Connections at once; one more is closed as it is accepted.
    pub connections_max: u32,
    /// In-capsule data of I/O queues, in bytes: 0 to 64 KiB.
    pub in_capsule_bytes: u32,
    /// Largest data transfer of one command in bytes: 4 KiB to 1 MiB.
    pub transfer_bytes_max: u32,
    /// Entries of the largest submission queue.
    pub queue_depth: u32,
    /// Whether header digests are granted to hosts that ask, where the transport has them.
    pub header_digest: bool,
    /// Whether data digests are granted to hosts that ask, where the transport has them.
    pub data_digest: bool,
    /// Time from accept to the end of Fabrics Connect; up to 49 days, in whole milliseconds.
    pub handshake_timeout: Duration,
    /// Time a host may go without sending what it owes or reading what it asked for; up to 49 days, in whole milliseconds.
    pub progress_timeout: Duration,
}

/// A kind of transport.
pub trait FabricDriver: Send + Sync {
    /// Its name, e.g. `tcp`.
    fn name(&self) -> &str;

    /// Makes its part for one reactor, on the reactor's thread.
    ///
    /// # Errors
    /// [`OpenError::Unsuitable`] for settings it cannot serve.
    fn open(
        &self,
        settings: &FabricSettings,
        services: &Arc<dyn Services>,
    ) -> Result<Box<dyn Fabric>, OpenError>;
}

/// One transport on one reactor.
///
/// Contract: a connection that fails is reported by one [`FabricEvent::Closed`], also before
/// [`FabricEvent::Connected`], so that every drop is counted. Calls that name a closed connection do nothing (their
/// buffers return to the arena).
pub trait Fabric {
    /// A host connected a stream; answers the connection's name, which later events use. `None` when there is no room: the
    /// stream is closed, and a [`FabricEvent::Closed`] that names no connection says so.
    fn handle_accepted(
        &mut self,
        host: &mut dyn Host,
        stream: StreamId,
        local: SocketAddr,
        peer: SocketAddr,
    ) -> Option<ConnId>;

    /// A stream may have bytes to read.
    fn handle_readable(&mut self, host: &mut dyn Host, stream: StreamId);

    /// A stream that refused bytes takes them again.
    fn handle_writable(&mut self, host: &mut dyn Host, stream: StreamId);

    /// When [`Fabric::handle_timeout`] wants to be called next.
    fn poll_timeout(&self) -> Option<Instant>;

    /// The time of [`Fabric::poll_timeout`] has come.
    fn handle_timeout(&mut self, host: &mut dyn Host);

    /// The next event.
    fn poll_event(&mut self) -> Option<FabricEvent>;

    /// Asks the host for `buf.len()` bytes of command `cid`; they arrive as [`FabricEvent::Fetched`] with `token`.
    fn fetch(&mut self, conn: ConnId, cid: u16, token: u64, buf: Buf);

    /// Answers a command: `data` first, if any, then the completion. `implicit` allows a successful completion to be
    /// implied by the last data (the host switched submission queue flow control off).
    fn respond(&mut self, conn: ConnId, cqe: &Cqe, data: Option<Payload>, implicit: bool);

    /// Command `cid` ended without an answer, and gets none: it no longer counts as outstanding. Its connection stays.
    fn forget(&mut self, conn: ConnId, cid: u16);

    /// Sends what is queued and resumes connections that waited for buffers. Once a turn.
    fn flush(&mut self, host: &mut dyn Host);

    /// Bytes of the payloads given to [`Fabric::respond`] on a connection that were sent since this was asked last; buffers have
    /// gone back to the arena, lent segments to their device. A connection that ends tells no more: what it held goes back by
    /// itself.
    fn poll_sent(&mut self) -> Option<(ConnId, usize)>;

    /// Closes a connection after sending what is queued, as far as the socket takes it in a bounded time. The name is
    /// free at once and no [`FabricEvent::Closed`] follows.
    fn close(&mut self, host: &mut dyn Host, conn: ConnId, reason: &'static str);

    /// Takes a connection off this reactor; `None` if it is gone or has unfinished commands. No `Closed` event follows.
    fn detach(&mut self, host: &mut dyn Host, conn: ConnId) -> Option<Parcel>;

    /// Takes over a connection another reactor's fabric of the same kind detached; `None` if there is no room.
    /// It counts as connected: no [`FabricEvent::Connected`] follows.
    fn attach(&mut self, host: &mut dyn Host, parcel: Parcel) -> Option<Attached>;

    /// Connections open at the moment.
    fn connections(&self) -> usize;
}
