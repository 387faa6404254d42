//! What the engine puts round every device: range checks, emulation, deadlines, statistics, a list of what is in
//! flight.
//!
//! It decides when an I/O is answered and with what; the device decides how the medium is reached. It deliberately
//! does not order I/O (but for compare-and-write), cache, retry, or split reads and writes.
//!
//! Invariants:
//! - Every request is answered exactly once, whatever the device does: late, double and made-up completions are
//!   counted, never passed on.
//! - A buffer handed to the device belongs to it until its completion, however late; such I/O is bounded by
//!   [`DeviceConfig::overdue_max`], past which the device is offline.
//! - A change acknowledged to the caller is never overwritten by an older one that was answered `Timeout`, nor by one of a
//!   host that is gone.
//! - A device that said once that it is gone, or that written data may be lost, is never believed again: it is offline, and
//!   everything is answered `Gone` until somebody opens it anew.
//! - Nothing is allocated per I/O.

#![forbid(unsafe_code)]

mod device;
mod guards;
mod health;
pub mod limits;
mod request;
mod slots;
mod slow;
pub mod stats;
mod tally;
mod work;

pub use device::{BlockDevice, DeviceConfig};
pub use health::{Health, Listener};
pub use request::{InflightIo, OpKind, Request, Stage, Stamps, Waits};
pub use stats::{CountedOp, IoStats, OpStats};
pub use tally::Tally;
