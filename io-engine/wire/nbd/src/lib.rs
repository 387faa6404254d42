//! Messages of the NBD protocol: fixed newstyle handshake, transmission with simple and structured replies.
//!
//! Turns bytes into structures and back, both directions of both roles. Whether a message is welcome at this moment, and
//! what follows from it, is decided in `core/nbd`.
//!
//! Invariants:
//! - Parsing never panics and never reads beyond the slice given; what does not fit is a [`Malformed`].
//! - `parse(emit(v)) == v` for every value whose strings are at most [`STRING_LEN_MAX`] long.
//! - Numbers a peer may fill with anything (option, reply type, command, flags, error) stay representable.
//! - No allocation: what has no fixed length is borrowed on parse and given to an `Extend` on emit.
//!
//! Follows the NBD protocol document (`doc/proto.md` of the NBD project), cited by the headings of its sections. All
//! numbers are big endian.

#![no_std]
#![forbid(unsafe_code)]

mod flags;
mod handshake;
mod malformed;
mod options;
mod transmission;

pub use flags::{ClientFlags, CommandFlags, HandshakeFlags, TransmissionFlags};
pub use handshake::{ExportReply, Greeting, OptionHeader, OptionKind, OptionReply, ReplyKind};
pub use malformed::Malformed;
pub use options::{
    BlockSizeInfo, ExportChoice, ExportInfo, Info, InfoKind, InfoKinds, MetaContext, MetaQueries,
    Queries, ServerEntry,
};
pub use transmission::{
    ChunkHeader, ChunkKind, Command, Descriptor, ErrorChunk, ErrorCode, Request, SimpleReply,
};

/// Longest string of the protocol, in bytes (§Conventions).
pub const STRING_LEN_MAX: usize = 4096;

/// Port registered for newstyle servers (§Newstyle negotiation).
pub const PORT: u16 = 10809;

/// Name of the one metadata context this crate knows (§`base:allocation` metadata context).
pub const BASE_ALLOCATION: &str = "base:allocation";

/// Flag of a block status descriptor: no space is taken for the extent.
pub const STATE_HOLE: u32 = 1 << 0;

/// Flag of a block status descriptor: the extent reads as zeroes.
pub const STATE_ZERO: u32 = 1 << 1;

/// `N` bytes at `at`.
fn array<const N: usize>(raw: &[u8], at: usize) -> Result<[u8; N], Malformed> {
    let end = at.checked_add(N).ok_or(Malformed::TooShort)?;
    raw.get(at..end)
        .and_then(|bytes| bytes.try_into().ok())
        .ok_or(Malformed::TooShort)
}

fn u16_at(raw: &[u8], at: usize) -> Result<u16, Malformed> {
    Ok(u16::from_be_bytes(array(raw, at)?))
}

fn u32_at(raw: &[u8], at: usize) -> Result<u32, Malformed> {
    Ok(u32::from_be_bytes(array(raw, at)?))
}

fn u64_at(raw: &[u8], at: usize) -> Result<u64, Malformed> {
    Ok(u64::from_be_bytes(array(raw, at)?))
}
