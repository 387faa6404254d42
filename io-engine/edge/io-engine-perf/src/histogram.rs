//! Latencies in fixed buckets: 64 per power of two, so that a quantile is within 1.6 % of the truth.

use std::time::Duration;

const SUB_SHIFT: u32 = 6;
const SUB: usize = 1 << SUB_SHIFT;
const POWERS: usize = 42;

/// A latency distribution. Recording is a few instructions and never allocates.
#[derive(Clone, Debug)]
pub struct Histogram {
    buckets: Vec<u64>,
    count: u64,
    sum_ns: u64,
    max_ns: u64,
}

impl Default for Histogram {
    fn default() -> Self {
        Self {
            buckets: vec![0; SUB * POWERS],
            count: 0,
            sum_ns: 0,
            max_ns: 0,
        }
    }
}

impl Histogram {
    /// Adds one latency. Values above about an hour count as an hour.
    #[inline]
    pub fn record(&mut self, latency: Duration) {
        let ns = latency.as_nanos().min(u128::from(u64::MAX)) as u64;
        let index = index(ns).min(self.buckets.len() - 1);
        self.buckets[index] += 1;
        self.count += 1;
        self.sum_ns = self.sum_ns.saturating_add(ns);
        self.max_ns = self.max_ns.max(ns);
    }

    /// Number of latencies.
    pub fn count(&self) -> u64 {
        self.count
    }

    /// Arithmetic mean in microseconds, 0 without values.
    pub fn mean_us(&self) -> f64 {
        if self.count == 0 {
            return 0.0;
        }
        self.sum_ns as f64 / self.count as f64 / 1000.0
    }

    /// Largest value in microseconds.
    pub fn max_us(&self) -> f64 {
        self.max_ns as f64 / 1000.0
    }

    /// The value in microseconds that a fraction `quantile` (0 to 1) of all values does not exceed.
    pub fn quantile_us(&self, quantile: f64) -> f64 {
        let rank = (quantile * self.count as f64).ceil() as u64;
        let mut seen = 0;
        for (index, count) in self.buckets.iter().enumerate() {
            seen += count;
            if seen >= rank && seen > 0 {
                return upper_ns(index).min(self.max_ns) as f64 / 1000.0;
            }
        }
        0.0
    }

    /// Forgets everything.
    pub fn clear(&mut self) {
        self.buckets.fill(0);
        self.count = 0;
        self.sum_ns = 0;
        self.max_ns = 0;
    }
}

#[inline]
fn index(ns: u64) -> usize {
    if ns < SUB as u64 {
        return ns as usize;
    }
    let power = 63 - ns.leading_zeros();
    let sub = (ns >> (power - SUB_SHIFT)) as usize & (SUB - 1);
    ((power - SUB_SHIFT + 1) as usize) * SUB + sub
}

/// Largest value of the bucket.
fn upper_ns(index: usize) -> u64 {
    if index < SUB {
        return index as u64;
    }
    let shift = (index / SUB - 1) as u32;
    ((SUB + index % SUB + 1) as u64) << shift
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_close_to_the_truth() {
        let mut histogram = Histogram::default();
        for us in 1..=10_000_u64 {
            histogram.record(Duration::from_micros(us));
        }
        for (quantile, truth) in [(0.5, 5000.0), (0.99, 9900.0), (0.999, 9990.0)] {
            let value = histogram.quantile_us(quantile);
            assert!((value / truth - 1.0).abs() < 0.016, "{quantile}: {value}");
        }
        assert!((histogram.mean_us() - 5000.5).abs() < 0.01);
        assert_eq!(histogram.quantile_us(1.0), 10_000.0);
    }

    #[test]
    fn every_value_has_a_bucket() {
        let mut histogram = Histogram::default();
        for ns in [0, 1, 63, 64, 65, u64::MAX] {
            histogram.record(Duration::from_nanos(ns));
            assert!(upper_ns(index(ns).min(SUB * POWERS - 1)) >= ns.min(1 << 40));
        }
        assert_eq!(histogram.count(), 6);
        histogram.clear();
        assert_eq!(histogram.quantile_us(0.5), 0.0);
    }
}
