//! Bounds of the RAM devices.

/// Bytes in a chunk, the unit in which a RAM disk allocates, lends and frees.
///
/// As large as the largest common request, so that a read is one or two segments; small enough that copying a chunk
/// because it is lent (tens of microseconds) stays bearable. Memory is taken from the system an area
/// ([`sdk::buf::AREA_BYTES`]) at a time, and given back a chunk at a time.
pub(crate) const CHUNK_BYTES: usize = 128 * 1024;

/// Largest RAM or null disk, in bytes; a larger one is refused. Its chunk table takes 128 MiB.
pub(crate) const DISK_BYTES_MAX: u64 = 1 << 40;

/// Longest name, in bytes: what an NQN (223 bytes, NVMe Base 2.0c §4.5) has room for behind `nqn.2019-05.io.openebs:`. A
/// longer one is refused.
pub(crate) const NAME_LEN_MAX: usize = 200;

/// Replaced chunks kept for the next copy on write; more are freed when their last reader drops them.
pub(crate) const SPARE_CHUNKS_MAX: usize = 16;

/// Replaced chunks that readers still hold, from which on reads are lent copies of their own instead of chunks: a host that
/// reads and does not take its data, while it writes, holds 32 MiB this way, one version of what it had been lent, and what
/// its reads are charged for.
pub(crate) const REPLACED_CHUNKS_MAX: usize = 256;

/// Chunks of zeroes kept for the next write to a place that has none; further ones are unmapped with their areas.
pub(crate) const FRESH_CHUNKS_MAX: usize = 64;

/// Bytes of the zero area a null disk lends: the largest request is one segment.
pub(crate) const NULL_AREA_BYTES: usize = 1024 * 1024;

/// Chunks freed on the spot when a disk shrinks; more are freed by a thread, because unmapping takes microseconds each.
pub(crate) const INLINE_FREE_CHUNKS_MAX: usize = 256;

const _: () = assert!(CHUNK_BYTES.is_power_of_two() && CHUNK_BYTES >= 4096);
const _: () = assert!(FRESH_CHUNKS_MAX >= sdk::buf::AREA_BYTES / CHUNK_BYTES);
const _: () = assert!(NULL_AREA_BYTES >= CHUNK_BYTES);
