//! Counters and latency histograms of devices and subsystems.
//!
//! What it decides: which operations are told apart, and the bounds of the histogram. What it does not: who counts, or
//! how counters travel between threads. A reactor keeps one `IoStats` per object and core and the sum is taken when asked.

/// Histogram buckets: powers of two of nanoseconds from 2^`BUCKET_SHIFT_MIN`, and one for everything above.
pub const BUCKETS: usize = 25;

/// The first bucket counts latencies below 2^`BUCKET_SHIFT_MIN` ns (1.024 µs).
pub const BUCKET_SHIFT_MIN: u32 = 10;

// The last bounded bucket ends above 8 s; anything slower than that has met the device deadline ladder.
const _: () = assert!((1u64 << (BUCKET_SHIFT_MIN + BUCKETS as u32 - 2)) > 8_000_000_000);

/// Index of the bucket that counts a latency of `ns`.
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
pub enum OpKind {
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

impl OpKind {
    /// Every kind, in the order of [`IoStats::ops`].
    pub const ALL: [OpKind; 6] = [
        OpKind::Read,
        OpKind::Write,
        OpKind::Discard,
        OpKind::WriteZeroes,
        OpKind::Flush,
        OpKind::Compare,
    ];

    /// The name used in metrics and lists.
    pub fn name(self) -> &'static str {
        match self {
            OpKind::Read => "read",
            OpKind::Write => "write",
            OpKind::Discard => "discard",
            OpKind::WriteZeroes => "write_zeroes",
            OpKind::Flush => "flush",
            OpKind::Compare => "compare",
        }
    }
}

/// Counters of one operation on one object.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct OpStats {
    /// Completed operations, successful or not.
    pub ops: u64,
    /// Bytes read, written, compared or deallocated by successful operations.
    pub bytes: u64,
    /// Operations that ended in an error.
    pub errors: u64,
    /// Sum of latencies in nanoseconds.
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
    pub fn record(&mut self, bytes: u64, ns: u64, failed: bool) {
        self.latency_ns_min = if self.ops == 0 {
            ns
        } else {
            self.latency_ns_min.min(ns)
        };
        self.latency_ns_max = self.latency_ns_max.max(ns);
        self.ops += 1;
        self.bytes += bytes;
        self.errors += u64::from(failed);
        self.latency_ns_sum = self.latency_ns_sum.saturating_add(ns);
        self.histogram[bucket_of(ns)] += 1;
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

/// Counters of one object, one [`OpStats`] an [`OpKind`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct IoStats {
    /// Indexed by `OpKind as usize`.
    pub ops: [OpStats; OpKind::ALL.len()],
}

impl IoStats {
    /// Counters of `kind`.
    pub fn of(&self, kind: OpKind) -> &OpStats {
        &self.ops[kind as usize]
    }

    /// Counters of `kind`, to count into.
    pub fn of_mut(&mut self, kind: OpKind) -> &mut OpStats {
        &mut self.ops[kind as usize]
    }

    /// Adds the counts of another core.
    pub fn merge(&mut self, other: &IoStats) {
        for (mine, theirs) in self.ops.iter_mut().zip(&other.ops) {
            mine.merge(theirs);
        }
    }
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
            (OpStats::default(), OpStats::default(), OpStats::default());
        for (index, ns) in [5_000, 700, 1_000_000, 90].into_iter().enumerate() {
            one.record(4096, ns, ns == 700);
            let half = if index % 2 == 0 {
                &mut left
            } else {
                &mut right
            };
            half.record(4096, ns, ns == 700);
        }
        left.merge(&right);
        assert_eq!(left, one);
        assert_eq!(
            (one.latency_ns_min, one.latency_ns_max, one.errors),
            (90, 1_000_000, 1)
        );
        left.merge(&OpStats::default());
        assert_eq!(
            left, one,
            "an idle core changes nothing, not even the minimum"
        );
    }
}
