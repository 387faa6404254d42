//! Named limits of one association, with what happens at each.

use std::time::Duration;

/// Entries of the admin queue asked for (32 is what fabrics require a controller to support at least; Base 2.0c
/// §6.3). Further admin commands are refused until one completes.
pub const ADMIN_QUEUE_ENTRIES: u32 = 32;

/// Namespaces looked at during bring-up; more are not reported.
pub const NAMESPACES_MAX: usize = 1024;

/// Time between two looks at CSTS.RDY.
pub const READY_POLL_INTERVAL: Duration = Duration::from_millis(10);

/// Discovery log entries read at most; a longer page is an error.
pub const DISCOVERY_RECORDS_MAX: u64 = 4096;

/// Times the discovery log is read again because its generation changed meanwhile; then it is an error.
pub const DISCOVERY_RETRIES_MAX: u32 = 8;

/// Bytes of the discovery log asked for at a time.
pub const DISCOVERY_PIECE_LEN: u64 = 4096;

const _: () = assert!(DISCOVERY_PIECE_LEN.is_multiple_of(1024));
