//! Figures of a reactor, readable from any thread.
//!
//! One writer (the reactor), any number of readers; each figure is exact by itself, and figures read together may be
//! a turn apart.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// System calls by kind, since the start.
#[derive(Debug, Default)]
pub struct Syscalls {
    /// Receives from streams.
    pub recv: AtomicU64,
    /// Sends to streams.
    pub send: AtomicU64,
    /// `io_uring_enter`, `epoll_wait`.
    pub enter: AtomicU64,
    /// `epoll_ctl`.
    pub control: AtomicU64,
    /// `accept4`.
    pub accept: AtomicU64,
}

/// Figures of one reactor. Times are nanoseconds since the start, sizes are bytes.
#[derive(Debug, Default)]
pub struct ReactorStats {
    /// Time in which something was done.
    pub busy_ns: AtomicU64,
    /// Time spent looking for work without finding any.
    pub spin_ns: AtomicU64,
    /// Time asleep.
    pub sleep_ns: AtomicU64,
    /// Calls of [`Reactor::turn`](crate::Reactor::turn).
    pub turns: AtomicU64,
    /// Times the thread slept and woke.
    pub wakes: AtomicU64,
    /// Events handed to the caller, except [`Event::Readable`](crate::Event::Readable) of hot streams.
    pub events: AtomicU64,
    /// Stream attempts offered without knowing of data, because the stream was hot.
    pub hot_tries: AtomicU64,
    /// Messages received.
    pub messages: AtomicU64,
    /// System calls.
    pub syscalls: Syscalls,
    /// Streams open.
    pub streams: AtomicU64,
    /// Files lent.
    pub files: AtomicU64,
    /// File operations finished, since the start.
    pub file_ops: AtomicU64,
    /// File operations in flight.
    pub file_ops_inflight: AtomicU64,
    /// File operations in flight for longer than `overdue_after`; looked at once a second.
    pub file_ops_overdue: AtomicU64,
    /// Buffer bytes those overdue operations hold.
    pub overdue_bytes: AtomicU64,
    /// Times accepting stopped for a while, for want of descriptors, memory or table room.
    pub accept_pauses: AtomicU64,
    /// Arena size.
    pub arena_bytes: AtomicU64,
    /// Arena bytes lent.
    pub arena_used_bytes: AtomicU64,
    /// The most arena bytes lent at once.
    pub arena_used_bytes_peak: AtomicU64,
    /// Buffer requests refused for want of space, since the start.
    pub arena_refusals: AtomicU64,
}

/// Adds to a figure of which the caller is the only writer: a load and a store, where `fetch_add` would lock the bus.
#[inline]
pub(crate) fn add(figure: &AtomicU64, n: u64) {
    figure.store(figure.load(Relaxed).wrapping_add(n), Relaxed);
}

/// Sets a figure.
#[inline]
pub(crate) fn set(figure: &AtomicU64, n: u64) {
    figure.store(n, Relaxed);
}
