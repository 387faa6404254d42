//! `fault:///NAME?device=URI`: a block device that stands on another one and goes wrong as it is told.
//!
//! Does: finds the device below through the engine, passes operations on to it, and carries out rules on the way: delay,
//! error, torn write, lost write, misdirected operation, bit rot, stuck operation. Rules come with the URI (`rules=`) and
//! by command while the device is in use; upstream's `inject://` URIs are rules too. `docs/device-fault.md` has every
//! rule, key, default and range, and examples.
//!
//! Does not: hide the device below (size, block size, lent reads and identity are that one's), count or time I/O, keep
//! anything past its own end: rules of commands and what the overlay holds are gone with the device, as with a power cut.
//!
//! Invariants:
//! - Which operation a rule hits follows from the rules, their seeds and the order and time of the operations, from nothing
//!   else (module `plan`).
//! - Every operation completes once, a stuck one when it is let go. Closing a queue drops what it holds back.
//! - Without a rule and with nothing in the overlay, an operation costs one atomic load more.
//! - A block in the overlay is written below by its write-out only, so that a later write never loses against an earlier
//!   one (module `overlay`).
//! - Its own files, sockets, threads: none. File completions are all of the device below.
//!
//! The device says that it has a volatile cache, whatever the one below says: a rule that loses writes may come at any
//! time, and a host that was told of no cache would never flush.

#![forbid(unsafe_code)]

mod after;
mod claims;
mod command;
mod damage;
mod device;
mod draw;
mod held;
mod inject;
mod limits;
mod overlay;
mod plan;
mod queue;
mod rule;
mod shared;
mod writeback;

use sdk::block::DeviceDriver;
use sdk::plugin::Plugin;

/// This plugin.
pub const PLUGIN: Plugin = Plugin {
    serves: "fault",
    devices: Some(drivers),
    ..Plugin::new("device-fault", env!("CARGO_PKG_VERSION"), "io-engine")
};

/// The drivers of this plugin: `fault`.
pub fn drivers() -> Vec<Box<dyn DeviceDriver>> {
    vec![Box::new(device::FaultDriver::default())]
}
