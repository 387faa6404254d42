//! One NBD connection, server role, as a sans-IO state machine.
//!
//! [`Connection`] decides what is received next, what a message means, which I/O follows from a request, what is answered
//! and in which order, and when the client has broken the protocol. It does not know where sockets, buffers and devices
//! are, and touches no payload. [`Exports`] is what can be chosen.
//!
//! How an adaptor drives one, per turn:
//! 1. Receive. While [`Connection::want`] names something and bytes are there: `Want::Header` → `handle_header` with
//!    everything received, drop what it took (0: more bytes are needed); `Want::Payload` → bring the bytes into the buffer
//!    of that request, then `handle_payload`.
//! 2. Start what [`Connection::poll_io`] gives; report each by one of `handle_data`, `handle_done`, `handle_extents`.
//! 3. Gather [`Connection::transmit`] into one send, report it by `handle_sent`.
//!
//! Invariants:
//! - No byte of a client causes a panic; a violation that cannot be answered is a [`Fault`] and ends the connection.
//! - Every request is answered exactly once; each I/O given out is reported exactly once, also after a fault.
//! - At most one I/O of a request is in flight; large requests are cut into slices ([`limits`]).
//! - No allocation per request once the queues have grown to the connection's depth.
//! - Requests, bytes in flight and unsent answers are bounded; at a bound the connection stops receiving.
//! - Nothing here knows the time but for two deadlines: the handshake's, and that of a client that stands still while it
//!   holds memory of ours.
//!
//! Follows the NBD protocol document (`doc/proto.md` of the NBD project), cited by the headings of its sections. Left out:
//! TLS, extended headers, and the resize extension (a size is the operator's to change).

#![forbid(unsafe_code)]

mod connection;
mod exports;
mod failure;
mod fault;
mod handshake;
pub mod limits;
mod pending;
mod request;
mod serving;
mod transmit;

pub use connection::{Connection, ConnectionConfig, Event, Step, Want};
pub use exports::{Abilities, Export, ExportId, Exports};
pub use failure::Failure;
pub use fault::Fault;
pub use pending::{Io, Slot, Work};
pub use serving::{Data, Span};
pub use transmit::{Chunk, Chunks, DataToken};
