//! Counters and latencies of a device.

use std::time::Duration;

use crate::limits::LATENCY_BUCKETS;
use crate::request::OpKind;

/// Latencies, submission to completion, in nanoseconds at the granularity of a turn.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Latency {
    /// Sum; saturates.
    pub sum_ns: u64,
    /// Shortest, `u64::MAX` before the first.
    pub min_ns: u64,
    /// Longest.
    pub max_ns: u64,
    /// Bucket `i` counts latencies from `2^i` up to `2^(i+1)`; the first also counts zero.
    pub buckets: [u64; LATENCY_BUCKETS],
}

impl Default for Latency {
    fn default() -> Self {
        Self {
            sum_ns: 0,
            min_ns: u64::MAX,
            max_ns: 0,
            buckets: [0; LATENCY_BUCKETS],
        }
    }
}

impl Latency {
    #[inline]
    fn record(&mut self, ns: u64) {
        let bucket = (ns | 1).ilog2() as usize;
        self.buckets[bucket.min(LATENCY_BUCKETS - 1)] += 1;
        self.sum_ns = self.sum_ns.saturating_add(ns);
        self.min_ns = self.min_ns.min(ns);
        self.max_ns = self.max_ns.max(ns);
    }
}

/// Nanoseconds, saturating; spares the common case the 128-bit arithmetic.
#[inline]
fn nanos(duration: Duration) -> u64 {
    duration
        .as_secs()
        .saturating_mul(1_000_000_000)
        .saturating_add(u64::from(duration.subsec_nanos()))
}

/// Counters of one kind of operation.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct OpStats {
    /// Completed, with or without success.
    pub count: u64,
    /// Bytes of successful ones.
    pub bytes: u64,
    /// Failed ones among them.
    pub errors: u64,
    /// Latencies of all of them.
    pub latency: Latency,
}

/// Counters of one device on one reactor.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct IoStats {
    /// Reads.
    pub reads: OpStats,
    /// Writes.
    pub writes: OpStats,
    /// Discards.
    pub unmaps: OpStats,
    /// Write-zeroes.
    pub zeroes: OpStats,
    /// Flushes.
    pub flushes: OpStats,
    /// Compares and compare-and-writes.
    pub compares: OpStats,
    /// I/O answered `Timeout`.
    pub timeouts: u64,
    /// Completions that came after their I/O was answered `Timeout` or `Gone`.
    pub late_completions: u64,
    /// Completions nobody waited for: the device completed something twice or made a tag up.
    pub stray_completions: u64,
    /// I/O slower than the configured threshold.
    pub slow: u64,
}

impl IoStats {
    /// Counts a finished operation of `bytes` bytes.
    #[inline]
    pub(crate) fn record(&mut self, kind: OpKind, bytes: u64, ok: bool, latency: Duration) {
        let op = match kind {
            OpKind::Read => &mut self.reads,
            OpKind::Write => &mut self.writes,
            OpKind::Discard => &mut self.unmaps,
            OpKind::WriteZeroes => &mut self.zeroes,
            OpKind::Flush => &mut self.flushes,
            OpKind::Compare | OpKind::CompareAndWrite => &mut self.compares,
        };
        op.count += 1;
        if ok {
            op.bytes += bytes;
        } else {
            op.errors += 1;
        }
        op.latency.record(nanos(latency));
    }
}
