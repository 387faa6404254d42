//! One NVMe/TCP connection, controller or host role, as a sans-IO state machine.
//!
//! [`Controller`] and [`Host`] decide, PDU by PDU, what a connection receives next, what a PDU means, what is sent and
//! in which order, and when the peer has broken the protocol. They do not know what a command does, which queue the
//! connection is, or where its socket and buffers are.
//!
//! How an adaptor drives one, per turn:
//! 1. Receive into a staging area. While [`Controller::want`] names something and bytes are there:
//!    `Want::Header` → `handle_header` with everything staged, drop what it took (0: more bytes are needed);
//!    `Want::Payload` → copy from the staging area into the buffer, or receive straight into it, then `handle_payload`.
//!    Each of the two may return an event.
//! 2. Submit what follows from the events (`submit_*`).
//! 3. Answer every digest order, gather [`Controller::transmit`] into one send, report it by `handle_sent`.
//!
//! Invariants:
//! - No byte of a peer causes a panic; every violation is a [`Fault`] and ends the connection.
//! - No allocation per command once the queues have grown to the connection's depth.
//! - Payload is named, never touched, but for its digest.
//! - Time is an argument. It ends a connection for three things: set-up, delivery of the terminate request, and bytes owed
//!   ([`Controller::handle_progress`]).
//!
//! Follows the NVM Express TCP Transport Specification, revision 1.0c.

#![forbid(unsafe_code)]

mod controller;
mod fault;
mod fetch;
mod host;
pub mod limits;
mod link;
mod receive;
mod stall;
pub mod state;
mod transmit;

pub use controller::{
    Controller, ControllerConfig, ControllerEvent, ControllerStep, Incoming, PayloadDst,
};
pub use fault::{Fault, FaultKind};
pub use fetch::FetchTag;
pub use host::{CommandData, Host, HostConfig, HostEvent, HostStep};
pub use link::Step;
pub use nvme_tcp_pdu::{Digest, Digests, FatalStatus, crc32c};
pub use transmit::{Chunk, Chunks, DataToken, DigestOrder};

/// What a connection needs from its adaptor next; `D` names a payload's destination.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Want<D> {
    /// Bytes of a header, digest or padding: at least this many contiguous ones (at most 256), more are welcome.
    Header(usize),
    /// Data of the PDU whose header was handled last.
    Payload {
        /// Where the data goes.
        dst: D,
        /// Offset of the next byte in the destination.
        offset: u32,
        /// Bytes outstanding, at least 1; fewer may be given at a time.
        len: u32,
    },
    /// The peer does not read what it asked for: receive nothing until something was sent.
    Congested,
    /// A fault: receive nothing, send what is queued, then ask again.
    Flush,
    /// The connection is over: free what is queued with `clear`, close the socket.
    Close,
}
