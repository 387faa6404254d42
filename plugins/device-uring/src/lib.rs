//! Files and block devices as block devices: `aio:///path` and `uring:///path`.
//!
//! Both schemes are served by the file operations the reactor lends; whether those go through io_uring or a thread is
//! the reactor's business. Parameters: `blk_size` 512 or 4096, or 0 to detect it (the default: a disk's own, 512 for a
//! file); `uuid`; `rescan` to look at the size of an open device again.
//!
//! Invariants:
//! - What is open here is open nowhere else: a lock on the inode, for disks also an exclusive open. A file and a loop
//!   device on it count as one.
//! - `O_DIRECT` is used where it works for the block size. Where not, the file is served through the page cache, a
//!   log line says why, and flush means the same: `fdatasync`.
//! - A flush is never answered with success for data the kernel could not write, neither the first time nor later.
//! - A file that was cut off behind our back gives medium errors, never zeroes.

#![forbid(unsafe_code)]

mod claim;
mod entries;
mod file;
mod holder;
mod limits;
mod loops;
mod params;
mod probe;
mod queue;

use sdk::block::DeviceDriver;
use sdk::plugin::Plugin;

/// This plugin.
pub const PLUGIN: Plugin = Plugin {
    serves: "aio,uring",
    devices: Some(drivers),
    ..Plugin::new("device-uring", env!("CARGO_PKG_VERSION"), "io-engine")
};

/// The drivers of this plugin: one for `aio` and `uring`.
pub fn drivers() -> Vec<Box<dyn DeviceDriver>> {
    vec![Box::new(file::FileDriver)]
}
