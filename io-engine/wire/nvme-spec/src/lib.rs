//! Structures and values of the NVM Express base and NVM command set specifications.
//!
//! Bytes only: little-endian encodings of what the standard lays out, and names for its values. What a value means for
//! a controller is decided in `core/`. Values a peer may invent stay representable (`u8` opcodes with constants), so
//! parsing never fails on an unknown one. Counts the standard stores as "number minus one" are plain counts here.
//!
//! Follows NVMe Base 2.0c, NVM Command Set 1.0c and NVMe over Fabrics (folded into Base 2.0).

#![no_std]
#![forbid(unsafe_code)]

#[cfg(test)]
extern crate std;

mod bytes;
mod cqe;
pub mod discovery;
pub mod event;
pub mod fabrics;
pub mod feature;
pub mod identify;
pub mod io;
pub mod log;
pub mod nqn;
pub mod opcode;
pub mod register;
pub mod reservation;
mod sqe;
pub mod status;
#[cfg(test)]
mod tests;

pub use bytes::{ascii_padded, ascii_trimmed};
pub use cqe::Cqe;
pub use sqe::{Sgl, Sqe};
pub use status::Status;
