//! Between the traits of this crate and the tables of [`abi`]: the only place where one becomes the other.
//!
//! *Outward* modules hand out a trait object as a table (a plugin's driver to the engine, the engine's services and
//! reactor to a plugin); *inward* ones take a table in as a trait object. The engine and every plugin built with this
//! crate carry both, because either side may own a device. Linked-in plugins come in by the same tables; of those that are
//! the engine's own, what is on a reactor is then used without ([`import_own`]).
//!
//! What the outward side promises:
//! - No panic leaves it: each call into the author's code is guarded; the first panic is logged, answered
//!   `IOE_PANICKED`, and the object is never entered again nor dropped, so that what it holds stays out of use.
//!
//! What the inward side checks, because a table may come from anywhere:
//! - Required functions are there; answers are in range; each operation ends once, with the payload it asked for. What
//!   is wrong is counted and logged with the plugin's name, and never passed on.
//!
//! What it cannot check: pointers. A plugin is as trusted as the engine itself (`docs/plugin-abi.md`).
#![expect(
    unsafe_code,
    reason = "function tables and raw pointers are what crosses; every other module stays safe because of this one"
)]

mod clock;
mod convert;
mod device_in;
mod device_out;
mod engine_in;
mod engine_out;
mod export_in;
mod export_out;
mod fabric_in;
mod fabric_out;
mod guard;
mod host_in;
mod host_out;
#[cfg(feature = "layout")]
pub mod layout;
mod pool_in;
mod pool_out;
mod queue_in;
mod queue_out;
mod root;
mod slots;
mod text;
mod watch;

pub use engine_out::EngineContext;
pub use guard::Faults;
pub use root::{Brought, Imported, enter, import, import_linked, import_own, note};
pub use watch::{Blocked, Watch};
