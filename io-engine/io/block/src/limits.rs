//! Bounds of the block layer.

use std::time::Duration;

/// Most bytes zeroed or discarded by one device operation; a longer request goes on piece by piece, so that freeing a
/// whole disk never holds up the reactor or sits in a device past its deadline.
pub const CLEAR_BYTES_MAX: u64 = 64 << 20;

/// Buffer sizes tried in turn for writing zeroes to a device that cannot zero by itself; with none of them to be had
/// the request waits for a later turn.
pub const ZERO_BUF_BYTES: [u64; 3] = [256 << 10, 64 << 10, 4 << 10];

/// Buffer sizes tried in turn for a compare that finds no buffer for all of its blocks; with none of them to be had it waits for
/// a later turn.
pub const COMPARE_BUF_BYTES: [u64; 2] = [64 << 10, 4 << 10];

/// Most compare-and-writes under way on one device; one more is answered `Busy`.
pub const COMPARE_AND_WRITE_MAX: usize = 64;

/// Most slow-I/O lines in a [`SLOW_LOG_WINDOW`]; further ones are counted and the count is logged with the next line.
pub const SLOW_LOG_MAX: u32 = 10;

/// Most operations of one object that end in a turn and began in an earlier one of which the turn's length is counted; one more
/// counts up to the turn's begin.
pub const ACROSS_MAX: usize = 1024;

/// Most operations that were done at once and had waited for long before that are judged, as slow or not, with the length of
/// their turn; one more is judged without.
pub const LATE_MAX: usize = 64;

/// See [`SLOW_LOG_MAX`].
pub const SLOW_LOG_WINDOW: Duration = Duration::from_secs(1);

// A zero buffer is whole blocks of the largest block size, and a reactor hands out buffers up to 1 MiB.
const _: () = assert!(ZERO_BUF_BYTES[2] == 4096 && ZERO_BUF_BYTES[0] <= 1 << 20);
const _: () = assert!(COMPARE_BUF_BYTES[1] == 4096 && COMPARE_BUF_BYTES[0].is_multiple_of(4096));
const _: () = assert!(CLEAR_BYTES_MAX.is_multiple_of(4096));
