//! Named limits of one connection, with what happens at each.

use std::time::Duration;

/// Unsent header bytes above which a connection stops receiving ([`crate::Want::Congested`]) until the peer reads.
pub const TX_BYTES_HIGH: usize = 64 * 1024;

/// Sent header bytes kept in front of unsent ones before they are moved down; below it moving costs more than memory.
pub(crate) const TX_COMPACT_MIN: usize = 32 * 1024;

/// Time a connection that failed may take to deliver its terminate request before it is closed regardless; a peer
/// that reads at all needs far less.
pub const TERMINATE_TIMEOUT: Duration = Duration::from_secs(5);

/// How often a connection that owes bytes is to be looked at ([`crate::Controller::handle_progress`]): far below any
/// sensible progress timeout, and no cost.
pub const PROGRESS_LOOK: Duration = Duration::from_secs(1);

/// Bytes that count as progress: a host that moves fewer in a whole progress timeout, and owes more, has stalled. Far below
/// what any network moves, and too much for one that only pretends to go on.
pub const PROGRESS_BYTES: u64 = 64 * 1024;

/// Most commands one connection can be configured for: queue sizes are 16 bit (NVMe Base 2.0c §3.1.3.1, CAP.MQES).
pub const COMMANDS_MAX: usize = 1 << 16;

/// Most bytes one command may move in either direction; bounds offset arithmetic far below `u32::MAX`.
pub const TRANSFER_LEN_MAX: u32 = 1 << 30;

const _: () = assert!(TX_COMPACT_MIN < TX_BYTES_HIGH);
