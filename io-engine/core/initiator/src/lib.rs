//! NVMe-oF host side: controller bring-up and command issue as a sans-IO state machine.
//!
//! [`Initiator`] takes an association from the first Connect to a list of namespaces, keeps it alive, and lends the
//! admin queue to its user. [`command`] builds the entries of I/O commands. [`DiscoveryReader`] reads a discovery log in
//! pieces. None of them knows sockets, PDUs or time; the adaptor runs a [`nvme_tcp::Host`] per queue, hands commands
//! over in one direction and completions in the other.
//!
//! It does not decide when to reconnect, and it does not see I/O commands: their identifiers, timeouts and buffers are
//! the adaptor's.
//!
//! Invariants:
//! - Everything a controller may answer ends in an event or an [`Error`], never in a panic.
//! - Every admin command ends: by its completion, or by a timeout that fails the association.
//!
//! Follows NVMe Base 2.0c §3.5 (initialization) and §6 (fabrics commands).

#![forbid(unsafe_code)]

mod association;
mod bringup;
pub mod command;
mod discovery;
mod error;
pub mod limits;

pub use association::{
    Command, ControllerInfo, Event, InitiatorConfig, NamespaceInfo, Step, Transfer,
};
pub use bringup::Initiator;
pub use discovery::{DiscoveryError, DiscoveryReader};
pub use error::Error;
