//! The bounded buffer arena of a reactor.
//!
//! Decides which bytes a [`sdk::buf::Buf`] gets: one region, mapped once, from which page-aligned pieces of
//! 4 KiB · 2^k up to 1 MiB are lent and taken back. It does not decide who may have how many; callers reserve.
//!
//! Invariants:
//! - No two live buffers overlap; every buffer is aligned to its own size within the region, hence to a page.
//! - Free memory is whole: whatever was lent and came back, a request that fits the free space of an empty arena fits.
//! - Nothing is allocated or mapped after [`Arena::new`]; untouched pages cost no memory.
//! - The region stays mapped until the arena *and* the last buffer are gone.

mod arena;
mod buddy;
mod region;

pub use arena::{Arena, ArenaError, ArenaStats};

/// Smallest piece lent, in bytes.
pub const PIECE_BYTES_MIN: usize = sdk::buf::BUF_ALIGN;

/// Largest piece lent, in bytes; a longer request is refused.
pub const PIECE_BYTES_MAX: usize = PIECE_BYTES_MIN << (buddy::ORDERS - 1);

const _: () = assert!(PIECE_BYTES_MAX == 1 << 20);
