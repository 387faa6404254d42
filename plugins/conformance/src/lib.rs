//! The test kit a block device must pass, and a host to drive one without a reactor.
//!
//! ```no_run
//! # fn check(make: &dyn Fn() -> (Box<dyn sdk::block::DeviceDriver>, String)) {
//! conformance::run_device(make, &conformance::Options::default());
//! # }
//! ```
//!
//! It checks the contract of [`sdk::block`], nothing about how a device keeps it. It is deliberately deterministic:
//! no threads, no clock, random operations from a seed that a failure prints.

#![forbid(unsafe_code)]

mod closed;
mod device;
pub mod host;
mod model;
pub mod random;
mod rig;
pub mod services;

pub use device::{Aliases, Options, Resize, run_device, try_device};
