//! Prometheus text of everything the engine counts.
//!
//! What it decides: names, labels and units (base units: seconds and bytes). What it does not: how it is served.

use std::fmt::{Display, Write};

use nvme_spec::nqn::DISCOVERY_NQN;

use crate::control::dataplane::ReactorStats;
use crate::control::stats::{BUCKETS, CountedOp, IoStats, OpStats, bucket_bound_ns};
use crate::control::usage;
use crate::control::{Engine, ObjectStats};

/// Content type of the text.
pub const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// Renders all metrics of `engine`.
pub async fn render(engine: &Engine) -> String {
    let mut page = Page::default();
    page.family(
        "io_engine_build_info",
        "gauge",
        "Version and node of the engine; always 1.",
    );
    page.sample(
        "io_engine_build_info",
        &[("version", engine.version()), ("node", engine.node_name())],
        1,
    );
    objects(&mut page, engine).await;
    reactors(&mut page, engine).await;
    page.family(
        "io_engine_dropped_total",
        "counter",
        "Connections and commands dropped or refused, by reason.",
    );
    for (reason, count) in engine.drop_counts().await {
        page.sample("io_engine_dropped_total", &[("reason", reason)], count);
    }
    subsystems(&mut page, engine).await;
    let usage = usage::read();
    page.family("process_resident_memory_bytes", "gauge", "Resident memory.");
    page.sample("process_resident_memory_bytes", &[], usage.resident_bytes);
    page.text
}

/// Suffix of a metric's name, its help, and where its value comes from.
type Column<T> = (&'static str, &'static str, fn(&T) -> u64);

async fn objects(page: &mut Page, engine: &Engine) {
    page.family(
        "io_engine_device_online",
        "gauge",
        "1 if the device does I/O, 0 if it did not open or was lost since.",
    );
    for bdev in engine.bdevs() {
        page.sample(
            "io_engine_device_online",
            &[("device", &bdev.name)],
            u8::from(bdev.fault.is_none()),
        );
    }
    page.family(
        "io_engine_device_offline",
        "gauge",
        "1 for each device that does no I/O: it did not open, or was lost since. The reason says why and what to do.",
    );
    for bdev in engine.bdevs() {
        if let Some(reason) = &bdev.fault {
            let labels = [("device", bdev.name.as_str()), ("reason", reason.as_str())];
            page.sample("io_engine_device_offline", &labels, 1);
        }
    }
    warnings(page, engine).await;
    page.family(
        "io_engine_device_size_bytes",
        "gauge",
        "Size of the device; 0 if it was not opened since the start.",
    );
    for bdev in engine.bdevs() {
        let bytes = bdev.blocks.saturating_mul(bdev.block_size.into());
        page.sample(
            "io_engine_device_size_bytes",
            &[("device", &bdev.name)],
            bytes,
        );
    }
    let stats = engine.io_stats().await;
    device_troubles(page, &stats);
    for kind in ["device", "subsystem"] {
        let of_kind = || stats.iter().filter(|object| object.kind == kind);
        let counters: [Column<OpStats>; 3] = [
            ("operations_total", "Completed operations.", |ops| ops.ops),
            ("bytes_total", "Bytes of successful operations.", |ops| {
                ops.bytes
            }),
            (
                "errors_total",
                "Operations that ended in an error.",
                |ops| ops.errors,
            ),
        ];
        for (suffix, help, value) in counters {
            let name = format!("io_engine_{kind}_{suffix}");
            page.family(&name, "counter", help);
            for object in of_kind() {
                for op in CountedOp::ALL {
                    let labels = [(kind, object.name.as_str()), ("operation", op.name())];
                    page.sample(&name, &labels, value(object.stats.of(op)));
                }
            }
        }
        latencies(page, kind, of_kind());
    }
}

/// What is not as it should be with devices that work.
async fn warnings(page: &mut Page, engine: &Engine) {
    page.family(
        "io_engine_device_warning",
        "gauge",
        "1 for each device that works and needs an operator (its file was deleted, ..). The reason says why and what to do.",
    );
    for (device, reason) in engine.device_warnings().await {
        let labels = [("device", device.as_str()), ("reason", reason.as_str())];
        page.sample("io_engine_device_warning", &labels, 1);
    }
    page.family(
        "io_engine_device_writes_lost",
        "gauge",
        "1 if writes hosts were told are done may be lost, and not all need to have heard of it.",
    );
    for bdev in engine.bdevs() {
        let labels = [("device", bdev.name.as_str())];
        let lost = u8::from(bdev.writes_lost);
        page.sample("io_engine_device_writes_lost", &labels, lost);
    }
}

/// Histograms of objects of one kind.
fn latencies<'a>(page: &mut Page, kind: &str, objects: impl Iterator<Item = &'a ObjectStats>) {
    let name = format!("io_engine_{kind}_latency_seconds");
    let help = match kind {
        "device" => "Time from giving an operation to the device to its completion.",
        _ => {
            "Time from receiving a command to queueing its answer, waits for the host's data and for memory included."
        }
    };
    page.family(&name, "histogram", help);
    for object in objects {
        // An operation nobody used has no latencies worth 25 lines.
        for op in CountedOp::ALL
            .into_iter()
            .filter(|op| object.stats.of(*op).ops > 0)
        {
            let labels = [(kind, object.name.as_str()), ("operation", op.name())];
            page.histogram(&name, &labels, object.stats.of(op));
        }
    }
}

/// What devices did that they should not.
fn device_troubles(page: &mut Page, stats: &[ObjectStats]) {
    let counters: [Column<IoStats>; 4] = [
        (
            "timeouts_total",
            "Operations answered as timed out, the device not having answered.",
            |stats| stats.timeouts,
        ),
        (
            "late_completions_total",
            "Completions after their operation was answered as timed out or gone.",
            |stats| stats.late_completions,
        ),
        (
            "stray_completions_total",
            "Completions of operations that were not in the device.",
            |stats| stats.stray_completions,
        ),
        (
            "slow_total",
            "Operations slower than io.slow_io_ms, the wait for the host's data not counted.",
            |stats| stats.slow,
        ),
    ];
    for (suffix, help, value) in counters {
        let name = format!("io_engine_device_{suffix}");
        page.family(&name, "counter", help);
        for object in stats.iter().filter(|object| object.kind == "device") {
            page.sample(&name, &[("device", &object.name)], value(&object.stats));
        }
    }
}

async fn reactors(page: &mut Page, engine: &Engine) {
    let reactors = engine.reactors().await;
    page.family(
        "io_engine_reactor_seconds_total",
        "counter",
        "Time of a reactor at work, spinning and asleep.",
    );
    for (index, reactor) in reactors.iter().enumerate() {
        let index = index.to_string();
        let cpu = reactor.cpu.map(|cpu| cpu.to_string()).unwrap_or_default();
        for (state, ns) in [
            ("busy", reactor.busy_ns),
            ("spin", reactor.spin_ns),
            ("sleep", reactor.sleep_ns),
        ] {
            let labels = [
                ("reactor", index.as_str()),
                ("cpu", cpu.as_str()),
                ("driver", reactor.driver.as_str()),
                ("state", state),
            ];
            page.sample("io_engine_reactor_seconds_total", &labels, seconds(ns));
        }
    }
    let gauges: [Column<ReactorStats>; 6] = [
        (
            "connections",
            "Connections that live on the reactor, counted from their acceptance.",
            |r| r.connections,
        ),
        ("inflight", "Commands executing on the reactor.", |r| {
            r.inflight
        }),
        ("arena_bytes", "Size of the I/O memory.", |r| r.arena_bytes),
        ("arena_used_bytes", "I/O memory lent out.", |r| {
            r.arena_used_bytes
        }),
        (
            "arena_quarantined_bytes",
            "I/O memory held by overdue device operations.",
            |r| r.arena_quarantined_bytes,
        ),
        (
            "memory_waiting",
            "Steps of commands that wait for I/O memory.",
            |r| r.memory_waiting,
        ),
    ];
    for (suffix, help, value) in gauges {
        let name = format!("io_engine_reactor_{suffix}");
        page.family(&name, "gauge", help);
        for (index, reactor) in reactors.iter().enumerate() {
            page.sample(&name, &[("reactor", &index.to_string())], value(reactor));
        }
    }
    let name = "io_engine_reactor_memory_waits_total";
    page.family(
        name,
        "counter",
        "Steps of commands that had to wait for I/O memory.",
    );
    for (index, reactor) in reactors.iter().enumerate() {
        page.sample(
            name,
            &[("reactor", &index.to_string())],
            reactor.memory_waits,
        );
    }
}

async fn subsystems(page: &mut Page, engine: &Engine) {
    let controllers = engine.controllers().await;
    let subsystems = engine.subsystems();
    page.family(
        "io_engine_subsystem_online",
        "gauge",
        "1 if the subsystem is served.",
    );
    for subsystem in &subsystems {
        let online = u8::from(subsystem.fault.is_none());
        page.sample(
            "io_engine_subsystem_online",
            &[("subsystem", &subsystem.nqn)],
            online,
        );
    }
    page.family(
        "io_engine_subsystem_controllers",
        "gauge",
        "Hosts' associations with the subsystem, the discovery subsystem among them.",
    );
    let served = subsystems.iter().map(|subsystem| subsystem.nqn.as_str());
    for nqn in served.chain([DISCOVERY_NQN]) {
        let count = controllers
            .iter()
            .filter(|controller| controller.subnqn == nqn)
            .count();
        page.sample(
            "io_engine_subsystem_controllers",
            &[("subsystem", nqn)],
            count,
        );
    }
}

fn seconds(ns: u64) -> f64 {
    ns as f64 / 1e9
}

/// The text under construction.
#[derive(Default)]
struct Page {
    text: String,
}

impl Page {
    fn family(&mut self, name: &str, kind: &str, help: &str) {
        // Writing into a string cannot fail; the same goes for every write below.
        let _ = writeln!(self.text, "# HELP {name} {help}\n# TYPE {name} {kind}");
    }

    fn sample(&mut self, name: &str, labels: &[(&str, &str)], value: impl Display) {
        let _ = writeln!(self.text, "{name}{} {value}", Labels(labels));
    }

    /// Buckets are cumulative and end with `+Inf`.
    fn histogram(&mut self, name: &str, labels: &[(&str, &str)], stats: &OpStats) {
        let mut below = 0;
        for index in 0..BUCKETS {
            below += stats.histogram[index];
            let bound =
                bucket_bound_ns(index).map_or("+Inf".to_owned(), |ns| seconds(ns).to_string());
            let mut all = labels.to_vec();
            all.push(("le", &bound));
            let _ = writeln!(self.text, "{name}_bucket{} {below}", Labels(&all));
        }
        let _ = writeln!(
            self.text,
            "{name}_sum{} {}",
            Labels(labels),
            seconds(stats.latency_ns_sum)
        );
        let _ = writeln!(self.text, "{name}_count{} {}", Labels(labels), stats.ops);
    }
}

/// `{a="x",b="y"}`, escaped; nothing without labels.
struct Labels<'a>(&'a [(&'a str, &'a str)]);

impl Display for Labels<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        for (index, (name, value)) in self.0.iter().enumerate() {
            let value = value
                .replace('\\', "\\\\")
                .replace('"', "\\\"")
                .replace('\n', "\\n");
            write!(
                f,
                "{}{name}=\"{value}\"",
                if index == 0 { '{' } else { ',' }
            )?;
        }
        if self.0.is_empty() {
            Ok(())
        } else {
            f.write_str("}")
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::Duration;

    use super::*;
    use crate::control::Options;
    use crate::control::dataplane::DataPlane;
    use crate::control::fake::FakePlane;
    use crate::store::Store;

    #[tokio::test]
    async fn devices_reactors_and_drops_are_on_the_page() {
        let plane = Arc::new(FakePlane::default());
        let data_plane: Arc<dyn DataPlane> = Arc::<FakePlane>::clone(&plane);
        let options = Options {
            node_name: "n".into(),
            version: "1".into(),
            advertise: None,
            open_deadline: Duration::from_secs(1),
            declared: Vec::new(),
        };
        let engine = Engine::start(Arc::new(Store::in_memory().unwrap()), data_plane, options)
            .await
            .unwrap();
        engine.create_bdev("aio:///a\"b").await.unwrap();
        plane.count_read("/a\"b", 4096, 1_500);
        plane.count_read("/a\"b", 4096, u64::MAX / 4);
        engine.create_bdev("aio:///lost").await.unwrap();
        plane.lose_device("/lost");
        let page = render(&engine).await;
        for line in [
            "io_engine_build_info{version=\"1\",node=\"n\"} 1",
            "io_engine_device_operations_total{device=\"/a\\\"b\",operation=\"read\"} 2",
            "io_engine_device_bytes_total{device=\"/a\\\"b\",operation=\"read\"} 8192",
            "io_engine_device_latency_seconds_bucket{device=\"/a\\\"b\",operation=\"read\",le=\"0.000001024\"} 0",
            "io_engine_device_latency_seconds_bucket{device=\"/a\\\"b\",operation=\"read\",le=\"0.000002048\"} 1",
            "io_engine_device_latency_seconds_bucket{device=\"/a\\\"b\",operation=\"read\",le=\"+Inf\"} 2",
            "io_engine_device_latency_seconds_count{device=\"/a\\\"b\",operation=\"read\"} 2",
            "io_engine_reactor_seconds_total{reactor=\"0\",cpu=\"0\",driver=\"epoll\",state=\"sleep\"} 0.000000997",
            "io_engine_dropped_total{reason=\"bad_pdu\"} 3",
            "io_engine_device_timeouts_total{device=\"/a\\\"b\"} 0",
            "io_engine_device_online{device=\"/a\\\"b\"} 1",
            "io_engine_device_online{device=\"/lost\"} 0",
            "io_engine_device_offline{device=\"/lost\",reason=\"offline: it is gone; mend it, then bdev rescan\"} 1",
        ] {
            assert!(
                page.lines().any(|found| found == line),
                "{line}\nin\n{page}"
            );
        }
    }
}
