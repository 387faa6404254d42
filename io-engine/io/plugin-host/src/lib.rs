//! The engine's plugins: those linked in and those loaded from files, both through the tables of [`abi`].
//!
//! Decides: which file is a plugin this engine can load ([`read`], [`check`]), whether its first load may happen in this
//! process (it is tried in a child with a deadline first, [`Probe`]), which plugin serves a scheme ([`PluginHost`]), and how
//! a plugin that is isolated ([`Isolation`]) is reached on the reactor of its own.
//! Does not decide: what the calls mean (`docs/plugin-abi.md`) nor how they are guarded (`sdk::bridge`).
//!
//! Invariants:
//! - Nothing of a file runs before its descriptor was read and accepted, and nothing runs here before it ran in a child.
//! - A refusal is one line that names both sides; the engine goes on.
//! - A scheme, transport or protocol has one plugin; the second is refused as a whole.
//! - A loaded file is never unmapped: pointers into it may be anywhere.
//!
//! Follows the System V gABI (ELF header, program headers, notes).

mod check;
mod elf;
mod host;
mod isolate;
mod load;
mod memory;
mod probe;
mod refusal;
mod search;
mod services;

pub use check::check;
pub use elf::{Descriptor, read, read_bytes};
pub use host::{BLOCKED, PluginHost, PluginInfo, Source};
pub use isolate::Isolation;
pub use memory::{MemoryFigures, MemoryLimits, ReadMemory};
pub use probe::{Probe, probe_child};
pub use refusal::{Refusal, Why};
pub use search::{Search, files_in};
pub use services::Store;
