//! NBD export: sockets and buffers around the protocol core.
//!
//! Does: bind TCP and Unix sockets, receive what [`nbd_server::Connection`] wants to where it belongs, carry its I/O to the
//! engine and the answers back, gather what it has to send. Does not: know a message (the core does) or a device (the
//! engine does).
//!
//! Invariants:
//! - Payload of 16 KiB and more is received straight into its buffer; what a device lends or a buffer holds is sent from
//!   where it lies.
//! - A connection that waits for memory, or whose client does not read, is not read from.
//! - The staging area is shared; what a connection could not use yet is kept by it, at most one staging area.
//! - An answer of the engine to a connection that is gone finds nobody: tokens carry the connection's generation.
//! - NBD knows no authentication and this server no TLS: a Unix socket is guarded by its file's permissions, a TCP one by
//!   the network.
//!
//! Follows the NBD protocol document (`doc/proto.md` and `doc/uri.md` of the NBD project).

#![forbid(unsafe_code)]

mod client;
mod driver;
mod export;
mod listen;
mod transmit;

use sdk::export::ExportDriver;
use sdk::plugin::Plugin;

/// This plugin.
pub const PLUGIN: Plugin = Plugin {
    serves: "nbd",
    exports: Some(exports),
    ..Plugin::new("transport-nbd", env!("CARGO_PKG_VERSION"), "io-engine")
};

/// The export protocols of this plugin: `nbd`.
pub fn exports() -> Vec<Box<dyn ExportDriver>> {
    vec![Box::new(driver::NbdDriver)]
}
