//! What a run measured, as text or JSON.

use crate::histogram::Histogram;
use serde::Serialize;
use std::fmt;
use std::time::Duration;

/// Figures of one measured interval.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// What was run, in a few words.
    pub workload: String,
    /// Bytes per I/O.
    pub block_bytes: u64,
    /// Commands outstanding per queue.
    pub depth: u32,
    /// I/O queues.
    pub queues: u32,
    /// Length of the measured interval.
    pub seconds: f64,
    /// Reads completed in it.
    pub reads: u64,
    /// Writes completed in it.
    pub writes: u64,
    /// I/Os per second.
    pub iops: f64,
    /// Mebibytes per second.
    pub mib_per_s: f64,
    /// Mean latency in microseconds.
    pub latency_us_mean: f64,
    /// Median latency.
    pub latency_us_p50: f64,
    /// 99th percentile.
    pub latency_us_p99: f64,
    /// 99.9th percentile.
    pub latency_us_p999: f64,
    /// 99.99th percentile.
    pub latency_us_p9999: f64,
    /// Largest latency.
    pub latency_us_max: f64,
    /// CPU time of this process per I/O, in microseconds.
    pub cpu_us_per_io: f64,
    /// System calls on the data path of this process per I/O.
    pub system_calls_per_io: f64,
    /// I/Os that completed with an error, in the whole run.
    pub errors: u64,
    /// The first such error.
    pub first_error: Option<String>,
    /// Times the association was lost and made again.
    pub reconnects: u64,
    /// Longest time without an association, in seconds.
    pub outage_seconds_max: f64,
    /// Reads whose content was checked, in the whole run.
    pub verified: u64,
    /// Reads that found lost, torn or misplaced data.
    pub corruptions: u64,
    /// The first of them.
    pub first_corruption: Option<String>,
}

/// Counters over one interval, from which a report is made.
#[derive(Clone, Debug, Default)]
pub struct Interval {
    /// Latencies of completed I/Os.
    pub latency: Histogram,
    /// Reads completed.
    pub reads: u64,
    /// Writes completed.
    pub writes: u64,
    /// Length.
    pub length: Duration,
    /// CPU time used, in nanoseconds.
    pub cpu_ns: u64,
    /// System calls made.
    pub system_calls: u64,
}

impl Report {
    /// A report of `interval`, with everything that is not in it at zero.
    pub fn new(
        workload: String,
        block_bytes: u64,
        depth: u32,
        queues: u32,
        interval: &Interval,
    ) -> Self {
        let latency = &interval.latency;
        let done = (interval.reads + interval.writes) as f64;
        let seconds = interval.length.as_secs_f64();
        let rate = if seconds > 0.0 { done / seconds } else { 0.0 };
        Self {
            workload,
            block_bytes,
            depth,
            queues,
            seconds,
            reads: interval.reads,
            writes: interval.writes,
            iops: rate,
            mib_per_s: rate * block_bytes as f64 / (1 << 20) as f64,
            latency_us_mean: latency.mean_us(),
            latency_us_p50: latency.quantile_us(0.5),
            latency_us_p99: latency.quantile_us(0.99),
            latency_us_p999: latency.quantile_us(0.999),
            latency_us_p9999: latency.quantile_us(0.9999),
            latency_us_max: latency.max_us(),
            cpu_us_per_io: interval.cpu_ns as f64 / 1000.0 / done.max(1.0),
            system_calls_per_io: interval.system_calls as f64 / done.max(1.0),
            errors: 0,
            first_error: None,
            reconnects: 0,
            outage_seconds_max: 0.0,
            verified: 0,
            corruptions: 0,
            first_corruption: None,
        }
    }

    /// Whether everything that was asked for succeeded.
    pub fn is_clean(&self) -> bool {
        self.errors == 0 && self.corruptions == 0
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "{}, {} B, depth {} x {} queue(s), {:.1} s",
            self.workload, self.block_bytes, self.depth, self.queues, self.seconds
        )?;
        writeln!(
            f,
            "  IOPS         {:.0}   {:.1} MiB/s   ({} reads, {} writes)",
            self.iops, self.mib_per_s, self.reads, self.writes
        )?;
        writeln!(
            f,
            "  latency us   mean {:.1}   p50 {:.1}   p99 {:.1}   p99.9 {:.1}   p99.99 {:.1}   max {:.1}",
            self.latency_us_mean,
            self.latency_us_p50,
            self.latency_us_p99,
            self.latency_us_p999,
            self.latency_us_p9999,
            self.latency_us_max
        )?;
        writeln!(
            f,
            "  initiator    {:.2} us CPU and {:.2} system calls per I/O",
            self.cpu_us_per_io, self.system_calls_per_io
        )?;
        if self.reconnects > 0 {
            writeln!(
                f,
                "  reconnects   {}, longest outage {:.2} s",
                self.reconnects, self.outage_seconds_max
            )?;
        }
        if self.verified > 0 {
            writeln!(
                f,
                "  verified     {} reads, {} corrupt",
                self.verified, self.corruptions
            )?;
        }
        if let Some(corruption) = &self.first_corruption {
            writeln!(f, "  corruption   {corruption}")?;
        }
        write!(f, "  errors       {}", self.errors)?;
        if let Some(error) = &self.first_error {
            write!(f, ", the first: {error}")?;
        }
        writeln!(f)
    }
}
