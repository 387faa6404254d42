//! PDUs and digests of the NVMe/TCP transport.
//!
//! Turns bytes into header structures and back, checks what can be checked without knowing the connection's past
//! (lengths, offsets, flags), and computes digests. Whether a PDU is welcome at this moment, and what follows from it,
//! is decided in `core/nvme-tcp`.
//!
//! Invariants:
//! - Parsing never panics and never reads beyond the slice given; what does not fit is a [`Malformed`].
//! - `parse(emit(v)) == v` for every value the constructors admit.
//! - Fields a peer may fill with anything stay representable; reserved bytes are ignored on parse and 0 on emit.
//!
//! Follows the NVM Express TCP Transport Specification, revision 1.0c.

#![no_std]
#![forbid(unsafe_code)]

mod data;
mod digest;
mod header;
mod init;
mod malformed;
mod term;

pub use data::{CapsuleCmd, CapsuleResp, DataHeader, R2t};
pub use digest::{DIGEST_LEN, Digest, crc32c};
pub use header::{CommonHeader, Digests, Flags, Layout, PduType, data_offset};
pub use init::{IcReq, IcResp};
pub use malformed::Malformed;
pub use term::{FatalStatus, TermReq};

/// Largest header of any PDU (ICReq and ICResp; TCP Transport 1.0c §3.6.2.2).
pub const HEADER_LEN_MAX: usize = 128;

/// Most bytes between the start of a PDU and its data: PDO is one byte, and a multiple of 4.
pub const DATA_OFFSET_MAX: usize = 252;

/// Least MAXH2CDATA a controller may announce, in bytes (TCP Transport 1.0c §3.6.2.3).
pub const MAXH2CDATA_MIN: u32 = 4096;

/// In-capsule data every controller accepts for Fabrics and Admin commands, in bytes (TCP Transport 1.0c §3.6.2.6).
pub const ADMIN_IN_CAPSULE_MAX: u32 = 8192;

fn u16_at(raw: &[u8], at: usize) -> u16 {
    u16::from_le_bytes([raw[at], raw[at + 1]])
}

fn u32_at(raw: &[u8], at: usize) -> u32 {
    u32::from_le_bytes([raw[at], raw[at + 1], raw[at + 2], raw[at + 3]])
}
