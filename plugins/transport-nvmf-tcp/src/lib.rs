//! NVMe/TCP fabric: sockets and buffers around the protocol core.
//!
//! Does: receive what [`nvme_tcp::Controller`] wants to where it belongs, compute the digests it orders, gather what it
//! has to send. Does not: know a PDU (the core does) or a command (the engine does).
//!
//! Invariants:
//! - One large receive a connection and turn; payload of 16 KiB and more goes straight to its buffer.
//! - Half a capsule takes no memory of the arena, but for a small allowance that all connections share
//!   ([`limits::HALF_RECEIVED_BYTES_MAX`]). Beyond it, and before Connect, it stays with its connection until it is whole;
//!   then it is given a buffer, and the engine, which charges its host, hears of it in the same turn.
//! - A connection that waits for memory, or whose host does not read, is not read from.
//! - The staging area is shared; what a connection could not use yet is kept by it, at most one staging area, and a few KiB
//!   once all of them together keep [`limits::KEPT_BYTES_MAX`].
//! - A host's buffers outlive its connection by nothing: one that ends frees them at once, though its last words linger.
//! - A timer runs only while some host owes bytes, or a connection is being set up or ended.
//!
//! Follows the NVM Express TCP Transport Specification 1.0c.

mod connection;
mod driver;
mod ending;
mod fabric;
pub mod limits;
mod transmit;

pub use driver::PLUGIN;
pub use fabric::TcpFabric;

use std::time::Duration;

/// Limits of one reactor's NVMe/TCP connections.
#[derive(Clone, Debug)]
pub struct TcpConfig {
    /// Connections at once; one more is closed as it is accepted.
    pub connections_max: usize,
    /// In-capsule data of I/O queues, in bytes: 0 to [`limits::IN_CAPSULE_BYTES_MAX`]. Admin queues take 8 KiB.
    pub in_capsule_bytes: u32,
    /// Largest data transfer of one command in bytes, which is also MAXH2CDATA: 4 KiB to 1 MiB.
    pub transfer_bytes_max: u32,
    /// Entries of the largest submission queue, admin queues included. A host with more commands outstanding, or with more
    /// than the queue it asked for has entries, is disconnected.
    pub queue_depth: usize,
    /// Whether header digests are granted to hosts that ask.
    pub header_digest: bool,
    /// Whether data digests are granted to hosts that ask.
    pub data_digest: bool,
    /// Time from accept to the end of Fabrics Connect.
    pub handshake_timeout: Duration,
    /// Time a host may go without sending what it began or was asked for, or without reading what it asked for. Looked
    /// at once a second at most, so that a host has up to two seconds more.
    pub progress_timeout: Duration,
}

impl Default for TcpConfig {
    fn default() -> Self {
        Self {
            connections_max: 4096,
            in_capsule_bytes: 8192,
            transfer_bytes_max: 1 << 20,
            queue_depth: 1024,
            header_digest: true,
            data_digest: true,
            handshake_timeout: Duration::from_secs(10),
            progress_timeout: Duration::from_secs(30),
        }
    }
}
