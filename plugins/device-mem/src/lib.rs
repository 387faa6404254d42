//! Block devices without a medium: `malloc:///name` (RAM) and `null:///name` (nothing at all).
//!
//! Parameters of both: exactly one of `size_mb` (MiB) and `num_blocks`; `blk_size` 512 (default) or 4096; `uuid`.
//! `malloc` takes `resize` as well: on a disk that exists, it changes the size.
//!
//! Invariants:
//! - An operation completes in `submit`; nothing is ever in flight.
//! - A read without a buffer is lent, without a copy and, up to two chunks, without an allocation; lent bytes never
//!   change.
//! - What was never written, was discarded or lies behind a grown end reads as zeroes.
//!
//! Compare is left to the engine, which reads and compares; there is nothing a RAM disk could do better.

#![forbid(unsafe_code)]

mod chunks;
mod claims;
mod device;
mod limits;
mod null;
mod params;
mod ram;

use sdk::block::DeviceDriver;
use sdk::plugin::Plugin;

/// This plugin.
pub const PLUGIN: Plugin = Plugin {
    serves: "malloc,null",
    devices: Some(drivers),
    ..Plugin::new("device-mem", env!("CARGO_PKG_VERSION"), "io-engine")
};

/// The drivers of this plugin: `malloc` and `null`.
pub fn drivers() -> Vec<Box<dyn DeviceDriver>> {
    vec![
        Box::new(ram::RamDriver::default()),
        Box::new(null::NullDriver::default()),
    ]
}
