//! Load generator for any NVMe/TCP target, and a small blocking client for tests.
//!
//! [`load`] drives I/O queues as fast as one core can and measures; [`verify`] makes the data it writes checkable;
//! [`client`] is one command at a time; [`limit`] is a bare TCP pair with the same PDU sizes, which nothing that speaks
//! the protocol can beat. The protocol is decided in `nvme_tcp` and `nvme_initiator`; this crate moves bytes.
//!
//! Invariants:
//! - One thread drives everything; sockets are nonblocking, one receive and one gathered send a turn.
//! - Whatever the target does, a run ends: by its time, by an error, or by a timeout.

pub mod address;
pub mod client;
pub mod connection;
pub mod histogram;
pub mod limit;
pub mod load;
pub mod report;
pub mod session;
pub mod socket;
pub mod verify;

pub use address::{HostIdentity, Target};
pub use client::{Client, ClientError};
pub use session::{Session, SessionOptions};
