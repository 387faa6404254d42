//! Counters and latency histograms of devices and subsystems.
//!
//! What it decides: which operations are told apart, and the bounds of the histogram. What it does not: who counts, or
//! how counters travel between threads. A reactor keeps one [`IoStats`] an object; the sum over reactors is taken when
//! asked.

use std::time::Duration;

use crate::request::OpKind;

/// Histogram buckets: powers of two of nanoseconds from 2^`BUCKET_SHIFT_MIN`, and one for everything above.
pub const BUCKETS: usize = 25;

/// The first bucket counts latencies below 2^`BUCKET_SHIFT_MIN` ns (1.024 µs).
pub const BUCKET_SHIFT_MIN: u32 = 10;

// The last bounded bucket ends above 8 s; anything slower than that has met the device deadline ladder.
const _: () = assert!((1u64 << (BUCKET_SHIFT_MIN + BUCKETS as u32 - 2)) > 8_000_000_000);

/// Index of the bucket that counts a latency of `ns`.
#[inline]
pub fn bucket_of(ns: u64) -> usize {
    let bits = u64::BITS - ns.leading_zeros();
    (bits.saturating_sub(BUCKET_SHIFT_MIN) as usize).min(BUCKETS - 1)
}

/// Upper bound of bucket `index` in nanoseconds, exclusive; `None` for the last one, which has no bound.
pub fn bucket_bound_ns(index: usize) -> Option<u64> {
    (index + 1 < BUCKETS).then(|| 1u64 << (BUCKET_SHIFT_MIN + index as u32))
}

/// The operations that are counted apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CountedOp {
    /// Read.
    Read,
    /// Write.
    Write,
    /// Discard (Dataset Management, deallocate).
    Discard,
    /// Write Zeroes.
    WriteZeroes,
    /// Flush.
    Flush,
    /// Compare, alone or fused.
    Compare,
}

impl CountedOp {
    /// Every kind, in the order of [`IoStats::ops`].
    pub const ALL: [CountedOp; 6] = [
        CountedOp::Read,
        CountedOp::Write,
        CountedOp::Discard,
        CountedOp::WriteZeroes,
        CountedOp::Flush,
        CountedOp::Compare,
    ];

    /// The name used in metrics and lists.
    pub const fn name(self) -> &'static str {
        match self {
            CountedOp::Read => "read",
            CountedOp::Write => "write",
            CountedOp::Discard => "discard",
            CountedOp::WriteZeroes => "write_zeroes",
            CountedOp::Flush => "flush",
            CountedOp::Compare => "compare",
        }
    }
}

impl From<OpKind> for CountedOp {
    #[inline]
    fn from(kind: OpKind) -> Self {
        match kind {
            OpKind::Read => Self::Read,
            OpKind::Write => Self::Write,
            OpKind::Discard => Self::Discard,
            OpKind::WriteZeroes => Self::WriteZeroes,
            OpKind::Flush => Self::Flush,
            OpKind::Compare | OpKind::CompareAndWrite => Self::Compare,
        }
    }
}

/// Counters of one operation on one object.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct OpStats {
    /// Completed operations, successful or not.
    pub ops: u64,
    /// Bytes read, written, compared or deallocated by successful operations.
    pub bytes: u64,
    /// Operations that ended in an error.
    pub errors: u64,
    /// Sum of latencies in nanoseconds; saturates.
    pub latency_ns_sum: u64,
    /// Smallest latency in nanoseconds; 0 while `ops` is 0.
    pub latency_ns_min: u64,
    /// Largest latency in nanoseconds.
    pub latency_ns_max: u64,
    /// Completed operations by latency, see [`bucket_of`].
    pub histogram: [u64; BUCKETS],
}

impl OpStats {
    /// Counts one completed operation that moved `bytes` (0 when it failed) and took `ns`.
    #[inline]
    pub fn record(&mut self, bytes: u64, ns: u64, failed: bool) {
        self.record_alike(1, bytes, u64::from(failed), ns);
    }

    /// Counts `ops` completed operations, at least 1, that moved `bytes` together and took `ns` each; `errors` of them failed.
    #[inline]
    pub fn record_alike(&mut self, ops: u64, bytes: u64, errors: u64, ns: u64) {
        self.latency_ns_min = if self.ops == 0 {
            ns
        } else {
            self.latency_ns_min.min(ns)
        };
        self.latency_ns_max = self.latency_ns_max.max(ns);
        self.ops += ops;
        self.bytes += bytes;
        self.errors += errors;
        self.latency_ns_sum = self.latency_ns_sum.saturating_add(ns.saturating_mul(ops));
        self.histogram[bucket_of(ns)] += ops;
    }

    /// Adds the counts of another core.
    pub fn merge(&mut self, other: &OpStats) {
        if other.ops == 0 {
            return;
        }
        self.latency_ns_min = if self.ops == 0 {
            other.latency_ns_min
        } else {
            self.latency_ns_min.min(other.latency_ns_min)
        };
        self.latency_ns_max = self.latency_ns_max.max(other.latency_ns_max);
        self.ops += other.ops;
        self.bytes += other.bytes;
        self.errors += other.errors;
        self.latency_ns_sum = self.latency_ns_sum.saturating_add(other.latency_ns_sum);
        for (mine, theirs) in self.histogram.iter_mut().zip(&other.histogram) {
            *mine += theirs;
        }
    }
}

/// Counters of one object, one [`OpStats`] a [`CountedOp`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct IoStats {
    /// Indexed by `CountedOp as usize`.
    pub ops: [OpStats; CountedOp::ALL.len()],
    /// I/O answered `Timeout` because the device did not answer within its deadline.
    pub timeouts: u64,
    /// Completions that came after their I/O was answered `Timeout` or `Gone`.
    pub late_completions: u64,
    /// Completions nobody waited for: the device completed something twice or made a tag up.
    pub stray_completions: u64,
    /// I/O slower than the configured threshold, waiting for the host's data not counted.
    pub slow: u64,
}

impl IoStats {
    /// Counters of `op`.
    pub fn of(&self, op: CountedOp) -> &OpStats {
        &self.ops[op as usize]
    }

    /// Counters of `op`, to count into.
    #[inline]
    pub fn of_mut(&mut self, op: CountedOp) -> &mut OpStats {
        &mut self.ops[op as usize]
    }

    /// Counts a finished operation of `bytes` bytes.
    #[inline]
    pub fn record(&mut self, op: CountedOp, bytes: u64, ok: bool, latency: Duration) {
        let bytes = if ok { bytes } else { 0 };
        self.of_mut(op).record(bytes, nanos(latency), !ok);
    }

    /// Counts `ops` finished operations, at least 1, of the same latency; `bytes` is what they moved together.
    #[inline]
    pub fn record_alike(
        &mut self,
        op: CountedOp,
        ops: u64,
        bytes: u64,
        errors: u64,
        latency: Duration,
    ) {
        self.of_mut(op)
            .record_alike(ops, bytes, errors, nanos(latency));
    }

    /// Adds the counts of another core.
    pub fn merge(&mut self, other: &IoStats) {
        for (mine, theirs) in self.ops.iter_mut().zip(&other.ops) {
            mine.merge(theirs);
        }
        self.timeouts += other.timeouts;
        self.late_completions += other.late_completions;
        self.stray_completions += other.stray_completions;
        self.slow += other.slow;
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buckets_partition_the_latencies() {
        assert_eq!(bucket_of(0), 0);
        assert_eq!(bucket_of(1023), 0);
        assert_eq!(bucket_of(1024), 1);
        assert_eq!(bucket_of(2047), 1);
        assert_eq!(bucket_of(2048), 2);
        assert_eq!(bucket_of(u64::MAX), BUCKETS - 1);
        for index in 0..BUCKETS - 1 {
            let bound = bucket_bound_ns(index).expect("bounded bucket");
            assert_eq!(bucket_of(bound - 1), index);
            assert_eq!(bucket_of(bound), index + 1);
        }
        assert_eq!(bucket_bound_ns(BUCKETS - 1), None);
    }

    #[test]
    fn merging_two_cores_equals_counting_on_one() {
        let (mut one, mut left, mut right) =
            (IoStats::default(), IoStats::default(), IoStats::default());
        for (index, us) in [5, 700, 1_000_000, 90].into_iter().enumerate() {
            let (op, latency) = (CountedOp::Write, Duration::from_micros(us));
            one.record(op, 4096, us != 700, latency);
            let half = if index % 2 == 0 {
                &mut left
            } else {
                &mut right
            };
            half.record(op, 4096, us != 700, latency);
        }
        (one.slow, left.slow, right.slow) = (3, 1, 2);
        left.merge(&right);
        assert_eq!(left, one);
        let writes = one.of(CountedOp::Write);
        assert_eq!(
            (writes.latency_ns_min, writes.latency_ns_max, writes.errors),
            (5_000, 1_000_000_000, 1)
        );
        assert_eq!(writes.bytes, 3 * 4096, "a failed one moved nothing");
        left.merge(&IoStats::default());
        assert_eq!(
            left, one,
            "an idle core changes nothing, not even the minimum"
        );
    }
}
