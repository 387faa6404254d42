//! Results as Markdown for `docs/performance.md`, and as JSON with every sample.

use std::fmt::Write as _;

use serde_json::{Value, json};

use super::cases::{FILE_ADDED_US, IDLE_CPU_PERCENT, IDLE_RESIDENT_MIB};
use super::contender::{Contender, Driver};
use super::load::Initiator;
use super::results::{
    Case, FILE_ADDED_US_MAX, IDLE_CPU_PERCENT_MAX, IDLE_RESIDENT_MIB_MAX, Idle, Measured,
    NBD_CPU_RATIO_MAX, PLUGINS_RATIO, Results, Section, TABLE_CALL_NS_MAX, TableCall,
};
use super::stats::Median;

/// The whole report.
pub(crate) fn markdown(results: &Results) -> String {
    let mut out = String::new();
    for note in &results.notes {
        line(&mut out, &format!("- {note}"));
    }
    for initiator in [Initiator::Ours, Initiator::Spdk] {
        let cases = of_section(results, Section::Ram(initiator));
        if !cases.is_empty() {
            rate_table(&mut out, initiator, &cases);
            cost_table(&mut out, initiator, &cases);
        }
    }
    let plugins = of_section(results, Section::Plugins);
    if !plugins.is_empty() {
        plugins_table(&mut out, &plugins);
    }
    let nbd = of_section(results, Section::Nbd);
    if !nbd.is_empty() {
        nbd_table(&mut out, &nbd);
    }
    for driver in [Driver::Uring, Driver::Epoll] {
        let files = of_section(results, Section::File(driver));
        if !files.is_empty() {
            file_table(&mut out, driver, &files);
        }
    }
    if !results.idle.is_empty() {
        idle_table(&mut out, &results.idle);
    }
    if !results.table_calls.is_empty() {
        table_call_table(&mut out, &results.table_calls);
    }
    out
}

fn of_section(results: &Results, section: Section) -> Vec<&Case> {
    results
        .cases
        .iter()
        .filter(|case| case.section == section)
        .collect()
}

/// Rates and ratios on the RAM disk.
fn rate_table(out: &mut String, initiator: Initiator, cases: &[&Case]) {
    heading(
        out,
        &format!("RAM disk, {}: thousand I/Os a second", initiator.name()),
        &[
            "point",
            "predicted",
            "ours",
            "epoll",
            "SPDK",
            "limit",
            "ours / SPDK",
            "ours / limit",
            "epoll / ours",
        ],
    );
    for case in cases {
        // The prediction is for our initiator; another one has costs of its own.
        let predicted = case
            .prediction
            .filter(|_| initiator == Initiator::Ours)
            .map(|prediction| format!("{:.0}", prediction.kiops));
        row(
            out,
            &[
                case.point.to_string(),
                predicted.unwrap_or_else(dash),
                kiops(case, Contender::Ours),
                kiops(case, Contender::Epoll),
                kiops(case, Contender::Spdk),
                kiops(case, Contender::Limit),
                ratio(case, Contender::Ours, Contender::Spdk),
                ratio(case, Contender::Ours, Contender::Limit),
                ratio(case, Contender::Epoll, Contender::Ours),
            ],
        );
    }
}

/// What one I/O costs the server on the RAM disk.
fn cost_table(out: &mut String, initiator: Initiator, cases: &[&Case]) {
    let columns = [
        Contender::Ours,
        Contender::Epoll,
        Contender::Spdk,
        Contender::Limit,
    ];
    heading(
        out,
        &format!(
            "RAM disk, {}: cost of one I/O at the server (ours / epoll / SPDK / limit)",
            initiator.name()
        ),
        &[
            "point",
            "CPU µs predicted",
            "CPU µs",
            "system calls predicted",
            "system calls",
            "allocations",
            "mean latency µs",
        ],
    );
    for case in cases {
        let each = |figure: &dyn Fn(&Measured) -> Option<f64>, digits: usize| -> String {
            columns
                .iter()
                .map(|contender| number(case.of(*contender).and_then(figure), digits))
                .collect::<Vec<_>>()
                .join(" / ")
        };
        let median = |figure: fn(&super::load::Sample) -> f64| {
            move |measured: &Measured| measured.median(figure).map(|median| median.value)
        };
        row(
            out,
            &[
                case.point.to_string(),
                number(case.prediction.map(|prediction| prediction.cpu_us), 2),
                each(&median(|sample| sample.cpu_us), 2),
                number(case.prediction.map(|prediction| prediction.syscalls), 2),
                each(&|measured| measured.syscalls, 2),
                each(&|measured| measured.allocations, 3),
                each(&median(|sample| sample.latency_us), 1),
            ],
        );
    }
}

/// The engine with its plugins from files, against the one that has them linked in.
fn plugins_table(out: &mut String, cases: &[&Case]) {
    let (low, high) = PLUGINS_RATIO;
    heading(
        out,
        &format!(
            "Plugins from files (dynamic) against plugins linked in (ours), io-engine-perf; goal: interval within {low:.2} to {high:.2}"
        ),
        &[
            "point",
            "ours K IOPS",
            "dynamic K IOPS",
            "dynamic / ours",
            "CPU µs ours / dynamic",
            "CPU dynamic / ours",
        ],
    );
    let (ours, dynamic) = (Contender::Ours, Contender::Dynamic);
    for case in cases {
        let ratio = case.ratio(dynamic, ours).map_or_else(dash, |median| {
            let interval = median.interval.unwrap_or((0.0, f64::INFINITY));
            let is_met = interval.0 >= low && interval.1 <= high;
            format!("{}{}", with_interval(median, 3), mark(is_met))
        });
        let cpu_ratio = case.cpu_ratio(dynamic, ours);
        row(
            out,
            &[
                case.point.to_string(),
                kiops(case, ours),
                kiops(case, dynamic),
                ratio,
                format!("{} / {}", cpu(case, ours, 2), cpu(case, dynamic, 2)),
                cpu_ratio.map_or_else(dash, |median| with_interval(median, 3)),
            ],
        );
    }
}

/// The engine over NBD, against other servers.
fn nbd_table(out: &mut String, cases: &[&Case]) {
    heading(
        out,
        "NBD over a Unix socket, fio: thousand I/Os a second; the CPU goal is against the faster of the two",
        &[
            "point",
            "ours",
            "nbdkit",
            "qemu",
            "ours / nbdkit",
            "ours / qemu",
            "CPU µs ours / nbdkit / qemu",
            "CPU ours / faster",
        ],
    );
    let (ours, nbdkit, qemu) = (Contender::Ours, Contender::Nbdkit, Contender::Qemu);
    for case in cases {
        let better = case.best_of(&[nbdkit, qemu]);
        let cpu_ratio = better.and_then(|better| case.cpu_ratio(ours, better));
        let cpu_ratio = cpu_ratio.map_or_else(dash, |median| {
            let mark = mark(median.value <= NBD_CPU_RATIO_MAX);
            let goal = NBD_CPU_RATIO_MAX;
            format!("{}, goal ≤ {goal:.2}{mark}", with_interval(median, 2))
        });
        row(
            out,
            &[
                case.point.to_string(),
                kiops(case, ours),
                kiops(case, nbdkit),
                kiops(case, qemu),
                ratio(case, ours, nbdkit),
                ratio(case, ours, qemu),
                [ours, nbdkit, qemu]
                    .map(|contender| cpu(case, contender, 2))
                    .join(" / "),
                cpu_ratio,
            ],
        );
    }
}

/// Operations as trait objects and through tables.
fn table_call_table(out: &mut String, calls: &[TableCall]) {
    heading(
        out,
        "A call through a plugin's table: an operation of `null` without and with it",
        &[
            "operation",
            "ns without",
            "ns with",
            "ns for the table",
            "instructions without / with",
        ],
    );
    for call in calls {
        let added = call.tables_ns - call.direct_ns;
        row(
            out,
            &[
                call.operation.clone(),
                format!("{:.1}", call.direct_ns),
                format!("{:.1}", call.tables_ns),
                format!(
                    "{added:.1}, goal ≤ {TABLE_CALL_NS_MAX:.0}{}",
                    mark(added <= TABLE_CALL_NS_MAX)
                ),
                format!(
                    "{} / {}",
                    number(call.direct_instructions, 0),
                    number(call.tables_instructions, 0)
                ),
            ],
        );
    }
}

/// The file served over TCP, against the bare file.
fn file_table(out: &mut String, driver: Driver, cases: &[&Case]) {
    heading(
        out,
        &format!(
            "File served by the {} driver, io-engine-perf, against SPDK (aio) and fio (io_uring, direct) on the same file",
            driver.name()
        ),
        &[
            "point",
            "fio K IOPS",
            "ours K IOPS",
            "SPDK K IOPS",
            "ours / fio",
            "ours / SPDK",
            "latency µs ours / SPDK / fio",
            "added µs (predicted)",
            "CPU µs ours / SPDK / fio",
        ],
    );
    for case in cases {
        let subject = case.section.subject();
        let each = |figure: fn(&super::load::Sample) -> f64| {
            [subject, Contender::Spdk, Contender::Fio]
                .map(|contender| {
                    let median = case
                        .of(contender)
                        .and_then(|measured| measured.median(figure));
                    number(median.map(|median| median.value), 1)
                })
                .join(" / ")
        };
        let added = if case.point.depth == 1 {
            case.added_latency_us().map_or_else(dash, |added| {
                let mark = mark(added.value <= FILE_ADDED_US_MAX);
                format!(
                    "{} ({FILE_ADDED_US:.0}), goal ≤ {FILE_ADDED_US_MAX:.0}{mark}",
                    with_interval(added, 1)
                )
            })
        } else {
            dash()
        };
        row(
            out,
            &[
                case.point.to_string(),
                kiops(case, Contender::Fio),
                kiops(case, subject),
                kiops(case, Contender::Spdk),
                ratio(case, subject, Contender::Fio),
                ratio(case, subject, Contender::Spdk),
                each(|sample| sample.latency_us),
                added,
                each(|sample| sample.cpu_us),
            ],
        );
    }
}

/// Servers with nothing to do.
fn idle_table(out: &mut String, idle: &[Idle]) {
    heading(
        out,
        "Idle",
        &[
            "server",
            "CPU % of a core",
            "predicted",
            "goal",
            "resident MiB",
            "predicted",
            "goal",
        ],
    );
    for idle in idle {
        let for_ours = |text: String| if idle.has_goal { text } else { dash() };
        let cpu_mark = mark(idle.cpu_percent < IDLE_CPU_PERCENT_MAX);
        let memory_mark = mark(idle.resident_mib < IDLE_RESIDENT_MIB_MAX);
        row(
            out,
            &[
                idle.server.to_owned(),
                format!("{:.2}", idle.cpu_percent),
                for_ours(format!("{IDLE_CPU_PERCENT:.1}")),
                for_ours(format!("< {IDLE_CPU_PERCENT_MAX:.0}{cpu_mark}")),
                format!("{:.0}", idle.resident_mib),
                for_ours(format!("{IDLE_RESIDENT_MIB:.0}")),
                for_ours(format!("< {IDLE_RESIDENT_MIB_MAX:.0}{memory_mark}")),
            ],
        );
    }
}

fn kiops(case: &Case, contender: Contender) -> String {
    let median = case
        .of(contender)
        .and_then(|measured| measured.median(|sample| sample.iops));
    number(median.map(|median| median.value / 1000.0), 1)
}

/// Processor time of one I/O, in µs.
fn cpu(case: &Case, contender: Contender, digits: usize) -> String {
    let median = case
        .of(contender)
        .and_then(|measured| measured.median(|sample| sample.cpu_us));
    number(median.map(|median| median.value), digits)
}

/// A ratio with its interval, and with its goal where ours has one.
fn ratio(case: &Case, above: Contender, below: Contender) -> String {
    let Some(median) = case.ratio(above, below) else {
        return dash();
    };
    let text = with_interval(median, 2);
    match case.goal(below).filter(|_| above == Contender::Ours) {
        Some(goal) => format!("{text}, goal {goal:.2}{}", mark(median.value >= goal)),
        None => text,
    }
}

fn with_interval(median: Median, digits: usize) -> String {
    match median.interval {
        Some((low, high)) => {
            format!(
                "{:.digits$} [{low:.digits$}, {high:.digits$}]",
                median.value
            )
        }
        None => format!("{:.digits$}", median.value),
    }
}

/// What stands behind a goal that is not met.
fn mark(is_met: bool) -> &'static str {
    if is_met { "" } else { " **missed**" }
}

fn number(value: Option<f64>, digits: usize) -> String {
    value.map_or_else(dash, |value| format!("{value:.digits$}"))
}

fn dash() -> String {
    "–".to_owned()
}

fn heading(out: &mut String, title: &str, columns: &[&str]) {
    line(out, "");
    line(out, &format!("### {title}"));
    line(out, "");
    line(out, &format!("| {} |", columns.join(" | ")));
    line(out, &format!("|{}", "---|".repeat(columns.len())));
}

fn row(out: &mut String, cells: &[String]) {
    line(out, &format!("| {} |", cells.join(" | ")));
}

fn line(out: &mut String, text: &str) {
    // Writing to a String does not fail.
    let _ = writeln!(out, "{text}");
}

/// One line about a finished case, for the terminal.
pub(crate) fn summary(case: &Case) -> String {
    let mut text = case.section.case_name(case.point);
    let subject = case.section.subject();
    for measured in &case.measured {
        let rate = kiops(case, measured.contender);
        let _ = write!(text, "  {} {rate} K", measured.contender.name());
        if measured.contender != subject {
            let ratio = ratio(case, subject, measured.contender);
            let _ = write!(text, " (ratio to it {ratio})");
        }
    }
    text
}

/// Every sample, for later questions.
pub(crate) fn samples(results: &Results) -> Value {
    let cases: Vec<Value> = results
        .cases
        .iter()
        .map(|case| {
            let measured: Vec<Value> = case.measured.iter().map(measured_value).collect();
            json!({
                "name": case.section.case_name(case.point),
                "predicted": case.prediction.map(|prediction| json!({
                    "kiops": prediction.kiops,
                    "cpu_us": prediction.cpu_us,
                    "syscalls": prediction.syscalls,
                })),
                "measured": measured,
            })
        })
        .collect();
    let idle: Vec<Value> = results
        .idle
        .iter()
        .map(|idle| {
            json!({
                "server": idle.server,
                "cpu_percent": idle.cpu_percent,
                "resident_mib": idle.resident_mib,
            })
        })
        .collect();
    let table_calls: Vec<Value> = results
        .table_calls
        .iter()
        .map(|call| {
            json!({
                "operation": call.operation,
                "direct_ns": call.direct_ns,
                "tables_ns": call.tables_ns,
                "direct_instructions": call.direct_instructions,
                "tables_instructions": call.tables_instructions,
            })
        })
        .collect();
    json!({ "notes": results.notes, "cases": cases, "idle": idle, "table_calls": table_calls })
}

fn measured_value(measured: &Measured) -> Value {
    let column = |figure: fn(&super::load::Sample) -> f64| -> Vec<f64> {
        measured.samples.iter().map(figure).collect()
    };
    json!({
        "contender": measured.contender.name(),
        "iops": column(|sample| sample.iops),
        "latency_us": column(|sample| sample.latency_us),
        "cpu_us": column(|sample| sample.cpu_us),
        "syscalls": measured.syscalls,
        "allocations": measured.allocations,
    })
}

#[cfg(test)]
#[path = "report_tests.rs"]
mod tests;
