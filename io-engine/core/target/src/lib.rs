//! NVMe-oF target: subsystems, controllers, namespaces and reservations as a sans-IO state machine.
//!
//! **Decides** everything a host sees: who may connect, what a command means, which status it gets, who holds a
//! reservation, when an association has died. **Does not** move bytes, know sockets, devices or clocks: it is told what
//! arrived ([`Target::handle_capsule`], [`Target::handle_data`], [`Target::handle_io_done`], …) and asked what to do
//! ([`Target::poll_output`], [`Target::poll_timeout`]). User data never pass through; they belong to a command's slot
//! ([`CmdId::index`]) and stay the engine's.
//!
//! One [`Target`] lives on one reactor and has all subsystems homed there, each with all its controllers and queue pairs.
//! A Connect for a subsystem that lives elsewhere comes out as [`Output::Unrouted`].
//!
//! Invariants
//! - A capsule gets at most one [`Output::Respond`]; one that gets none while its connection stays is named by
//!   [`Output::Forgotten`]. A [`CmdId`] handed out ends with exactly one `Respond` or
//!   [`Output::Release`]; its slot is reused only after that output was taken with [`Target::poll_output`].
//! - Per command there is at most one [`Output::Fetch`], and at most one [`Output::Io`] unanswered.
//! - What the device has is never answered before the device gave it back, whatever happened to host or namespace.
//! - A reservation change with persistence on is answered, and takes effect, only when it is durable.
//! - A peer can neither panic nor grow the target: tables are bounded by [`TargetConfig`] and [`limits`].
//!
//! Follows NVMe Base 2.0c, NVM Command Set 1.0c and NVMe/TCP 1.0c; what is left out is in `docs/spec-exceptions.md`, what
//! is served in `docs/nvme-support.md`.
#![forbid(unsafe_code)]

mod admin;
mod association;
mod command;
mod config;
mod connect;
mod control;
mod controller;
mod discovery;
mod events;
mod fabrics;
mod features;
mod hosts;
mod identify;
mod ids;
mod io;
pub mod limits;
mod listing;
mod logs;
mod output;
mod qpair;
mod reservation;
mod slab;
mod subsystem;
mod target;

pub use config::{
    AllowedHosts, ConfigError, DiscoveredSubsystem, NamespaceCapabilities, NamespaceConfig,
    SubsystemConfig, TargetConfig, TransportFacts,
};
pub use connect::RefusedConnects;
pub use control::ControllerInfo;
pub use ids::{CmdId, DeviceKey, PersistToken, QpairId, SubsystemId};
pub use listing::CommandOrigin;
pub use output::{
    ControllerEvent, ControllerEventKind, DisconnectReason, IoError, IoOp, Output, PersistRequest,
    ReplyData, UnroutedConnect,
};
pub use reservation::{PersistedRegistrant, PersistedReservations, RecordProblem};
pub use target::{InCapsule, Target};
