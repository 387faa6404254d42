//! Named limits of one connection, with what happens at each.

use std::time::Duration;

use nbd_wire::STRING_LEN_MAX;

/// Largest option data that is looked at: two strings and room for queries. A larger option is skipped and refused with
/// `NBD_REP_ERR_TOO_BIG`.
pub const OPTION_LEN_MAX: usize = 16 << 10;

/// Largest option data that is skipped; a larger one ends the connection, because no option needs it.
pub const OPTION_SKIP_MAX: u32 = 1 << 20;

/// Largest payload of one request in either direction, which the protocol wants every server to take (§Size
/// constraints). A larger write ends the connection, a larger read is refused.
pub const PAYLOAD_LEN_MAX: u32 = 32 << 20;

/// Bytes of a trim or of zeroes given to the device at once; the rest follows when they are done, so that one client's
/// request for 4 GiB does not keep the device from another's.
pub const RANGE_SLICE_BYTES: u64 = 128 << 20;

/// Bytes of one block status that are looked up; clients ask again for what is behind them.
pub const STATUS_BYTES_MAX: u32 = 1 << 30;

/// Descriptors in one answer to block status; clients ask again for what is behind them.
pub const DESCRIPTORS_MAX: usize = 2048;

/// Bytes in buffers of one connection from which on it stops receiving, and large reads stop growing. One slice may be
/// above it.
pub const BYTES_IN_FLIGHT_MAX: usize = 16 << 20;

/// Unsent bytes of headers from which on a connection stops receiving until the client reads.
pub const TX_BYTES_HIGH: usize = 64 << 10;

/// Sent header bytes kept in front of unsent ones before they are moved down; below it moving costs more than memory.
pub(crate) const TX_COMPACT_MIN: usize = 32 << 10;

/// Time a client may take to send the next byte of a payload, or to read the next byte of an answer, before its
/// connection is closed: it holds buffers meanwhile.
pub const PROGRESS_TIMEOUT: Duration = Duration::from_secs(30);

/// Most requests one connection can be configured for: what a slot number holds.
pub const REQUESTS_MAX: usize = 1 << 15;

const _: () = assert!(OPTION_LEN_MAX > 2 * STRING_LEN_MAX + 16);
const _: () = assert!(TX_COMPACT_MIN < TX_BYTES_HIGH);
// A block status must fit the 32 bits of a descriptor, and all of one answer what a client takes for granted.
const _: () = assert!(STATUS_BYTES_MAX < u32::MAX);
const _: () = assert!(DESCRIPTORS_MAX * 8 < PAYLOAD_LEN_MAX as usize);
