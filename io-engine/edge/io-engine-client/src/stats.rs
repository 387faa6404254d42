//! `stats`: cumulative I/O counters.

use proto::io_engine::v1::engine_rpc_client::EngineRpcClient;
use proto::io_engine::v1::{GetIoStatsRequest, GetIoStatsResponse};
use proto::mayastor::v1::stats_rpc_client::StatsRpcClient;
use proto::mayastor::v1::{IoStats, ListStatsOption};

use crate::cli::Stats;
use crate::context::{Context, Failure};
use crate::output::{Table, Units, micros, size};

pub(crate) async fn run(context: Context, command: Stats) -> Result<(), Failure> {
    let mut client = StatsRpcClient::new(context.channel());
    let units = context.units;
    match command {
        Stats::Pool { name } => {
            let request = ListStatsOption { name };
            let reply = context
                .call("stats pool", client.get_pool_io_stats(request))
                .await?;
            context.table(&reply, |reply| upstream_table(reply.stats.iter(), units))
        }
        Stats::Nexus { name } => {
            let request = ListStatsOption { name };
            let reply = context
                .call("stats nexus", client.get_nexus_io_stats(request))
                .await?;
            context.table(&reply, |reply| upstream_table(reply.stats.iter(), units))
        }
        Stats::Replica { name } => {
            let request = ListStatsOption { name };
            let reply = context
                .call("stats replica", client.get_replica_io_stats(request))
                .await?;
            context.table(&reply, |reply| {
                upstream_table(
                    reply
                        .stats
                        .iter()
                        .filter_map(|replica| replica.stats.as_ref()),
                    units,
                )
            })
        }
        Stats::Device { name } => {
            let mut engine = EngineRpcClient::new(context.channel());
            let request = GetIoStatsRequest { name };
            let reply = context
                .call("stats device", engine.get_io_stats(request))
                .await?;
            context.table(&reply, |reply| device_table(reply, units))
        }
        Stats::Reset => {
            context
                .call("stats reset", client.reset_io_stats(()))
                .await?;
            context.line(&(), |()| "reset".to_owned())
        }
    }
}

fn upstream_table<'a>(all: impl Iterator<Item = &'a IoStats>, units: Option<Units>) -> Table {
    let mut table = Table::new(&[
        "NAME",
        ">NUM_RD_OPS",
        ">TOTAL_RD",
        ">NUM_WR_OPS",
        ">TOTAL_WR",
        ">NUM_UNMAP_OPS",
        ">TOTAL_UNMAPPED",
        ">RD_LAT",
        ">WR_LAT",
        ">UNMAP_LATENCY",
        ">MAX_RD_LAT",
        ">MIN_RD_LAT",
        ">MAX_WR_LAT",
        ">MIN_WR_LAT",
    ]);
    for stats in all {
        // Latencies travel in ticks; a rate of 0 would be a server's mistake, not worth a panic.
        let us = |ticks: u64| {
            let rate = u128::from(stats.tick_rate.max(1));
            (u128::from(ticks) * 1_000_000 / rate).to_string()
        };
        table.row(vec![
            stats.name.clone(),
            stats.num_read_ops.to_string(),
            size(stats.bytes_read, units),
            stats.num_write_ops.to_string(),
            size(stats.bytes_written, units),
            stats.num_unmap_ops.to_string(),
            size(stats.bytes_unmapped, units),
            us(stats.read_latency_ticks),
            us(stats.write_latency_ticks),
            us(stats.unmap_latency_ticks),
            us(stats.max_read_latency_ticks),
            us(stats.min_read_latency_ticks),
            us(stats.max_write_latency_ticks),
            us(stats.min_write_latency_ticks),
        ]);
    }
    table
}

fn device_table(reply: &GetIoStatsResponse, units: Option<Units>) -> Table {
    let mut table = Table::new(&[
        "KIND",
        "NAME",
        "OPERATION",
        ">OPS",
        ">BYTES",
        ">ERRORS",
        ">MEAN_US",
        ">MIN_US",
        ">MAX_US",
        ">P50_US",
        ">P99_US",
    ]);
    for object in &reply.objects {
        for stats in &object.operations {
            table.row(vec![
                object.kind.clone(),
                object.name.clone(),
                stats.operation.clone(),
                stats.ops.to_string(),
                size(stats.bytes, units),
                stats.errors.to_string(),
                micros(stats.latency_ns_sum.checked_div(stats.ops).unwrap_or(0)),
                micros(stats.latency_ns_min),
                micros(stats.latency_ns_max),
                percentile(&stats.latency_histogram, 0.50),
                percentile(&stats.latency_histogram, 0.99),
            ]);
        }
    }
    table
}

/// The bound of the bucket that holds the quantile: the latency lies below it (`<`), at most a factor of two.
fn percentile(histogram: &[u64], quantile: f64) -> String {
    let total: u64 = histogram.iter().sum();
    if total == 0 {
        return String::new();
    }
    let rank = ((total as f64 * quantile).ceil() as u64).max(1);
    let mut seen = 0;
    for (index, count) in histogram.iter().enumerate() {
        seen += count;
        if seen >= rank && index + 1 < histogram.len() {
            // Bucket i of the API counts latencies below 2^(10+i) ns.
            return format!("<{}", micros(1u64 << (10 + index as u32).min(63)));
        }
    }
    let last = 10 + (histogram.len() as u32).saturating_sub(2);
    format!(">={}", micros(1u64 << last.min(63)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ticks_become_microseconds() {
        let stats = IoStats {
            name: "r".into(),
            num_read_ops: 2,
            bytes_read: 8192,
            read_latency_ticks: 5_000,
            max_read_latency_ticks: 3_000,
            min_read_latency_ticks: 2_000,
            tick_rate: 1_000_000_000,
            ..Default::default()
        };
        let text = upstream_table([&stats].into_iter(), None).render(false);
        assert_eq!(text, "r  2  8192  0  0  0  0  5  0  0  3  2  0  0\n");
    }

    #[test]
    fn percentiles_name_the_bucket_bound() {
        assert_eq!(percentile(&[0, 0, 0], 0.5), "");
        assert_eq!(percentile(&[1, 98, 1], 0.5), "<2.05");
        assert_eq!(percentile(&[99, 1, 0], 0.99), "<1.02");
        assert_eq!(percentile(&[0, 0, 7], 0.5), ">=2.05");
    }
}
