//! Initiators: who puts load on a server, and what they report.
//!
//! Decides: command lines of the initiators and how their figures are read. The server's processor time is taken as a
//! rate over a window inside the measured part, so that connecting, warm-up and leaving do not count.

use std::path::Path;
use std::time::Duration;

use serde_json::Value;

use super::cases::{Operation, Point};
use super::contender::{Contender, SPDK_PERF_MIB, Server, Setup, Target};
use super::counters::{Counter, Counting};
use super::error::Error;
use super::machine::{CONGESTION_CONTROL, INITIATOR_CORE, SERVER_CORE};
use super::process::{Process, Program};
use super::procfs::CpuReading;

/// What an initiator may take beyond warm-up and measured time, for connecting and leaving.
const SLACK: Duration = Duration::from_secs(30);
/// Time our initiator takes to connect, at most; the window for processor time opens after it.
const CONNECT: Duration = Duration::from_millis(100);
/// The host `spdk_nvme_perf` connects as.
const SPDK_PERF_HOSTNQN: &str =
    "nqn.2014-08.org.nvmexpress:uuid:6d1c9a52-1f0b-4c55-9a57-8d3c6e0b7a11";

/// A program that loads a server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Initiator {
    /// `io-engine-perf`, polling on its core.
    Ours,
    /// `spdk_nvme_perf`.
    Spdk,
}

impl Initiator {
    /// Name in case names and tables.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Ours => "io-engine-perf",
            Self::Spdk => "spdk_nvme_perf",
        }
    }
}

/// How long one run loads its server.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Timing {
    pub(crate) warm_up: Duration,
    pub(crate) measure: Duration,
}

/// What one run measured.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Sample {
    /// I/Os a second.
    pub(crate) iops: f64,
    /// Mean time of one I/O as the initiator saw it, in µs.
    pub(crate) latency_us: f64,
    /// Processor time of the server for one I/O, in µs, all its threads together.
    pub(crate) cpu_us: f64,
}

/// Figures as an initiator prints them.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Figures {
    pub(crate) iops: f64,
    pub(crate) latency_us: f64,
}

/// Loads `server` once.
pub(crate) fn run(
    setup: &Setup,
    initiator: Initiator,
    server: &Server,
    point: Point,
    timing: Timing,
) -> Result<Sample, Error> {
    let mut loading = Loading::start(setup, initiator, server, point, timing)?;
    loading.wait_steady(setup)?;
    let first = CpuReading::take(server.process.id())?;
    setup.interrupt.pause(loading.window)?;
    let share = first.share_until(CpuReading::take(server.process.id())?);
    let figures = loading.finish(setup)?;
    Ok(Sample {
        iops: figures.iops,
        latency_us: figures.latency_us,
        cpu_us: share * 1e6 / figures.iops,
    })
}

/// Loads `server` once with `counter` attached to it; returns events per I/O.
pub(crate) fn count(
    setup: &Setup,
    initiator: Initiator,
    server: &Server,
    point: Point,
    timing: Timing,
    counter: &Counter,
) -> Result<f64, Error> {
    let mut loading = Loading::start(setup, initiator, server, point, timing)?;
    loading.wait_steady(setup)?;
    let counting = Counting::start(setup, counter, server.process.id(), loading.window)?;
    let rate = counting.finish(setup)?;
    Ok(rate / loading.finish(setup)?.iops)
}

/// An initiator at work.
struct Loading {
    initiator: Initiator,
    process: Process,
    within: Duration,
    /// When the load is known to be steady, once the initiator is connected.
    settle: Duration,
    /// Part of the measured time that is safe to look at from outside.
    window: Duration,
}

impl Loading {
    fn start(
        setup: &Setup,
        initiator: Initiator,
        server: &Server,
        point: Point,
        timing: Timing,
    ) -> Result<Self, Error> {
        let (program, timing) = match (initiator, server.contender) {
            (Initiator::Ours, Contender::Limit) => {
                (limit_client(setup, &server.target, point, timing), timing)
            }
            (Initiator::Ours, _) => (our_perf(setup, &server.target, point, timing), timing),
            (Initiator::Spdk, _) => {
                let timing = whole_seconds(timing);
                (spdk_perf(setup, &server.target, point, timing), timing)
            }
        };
        let process = Process::start(&program, &setup.work)?;
        Ok(Self {
            initiator,
            process,
            within: timing.warm_up + timing.measure + SLACK,
            settle: timing.warm_up + timing.measure / 10,
            window: timing.measure * 7 / 10,
        })
    }

    /// Waits until the initiator has connected, warmed up and is inside its measured time.
    fn wait_steady(&mut self, setup: &Setup) -> Result<(), Error> {
        match self.initiator {
            Initiator::Ours => setup.interrupt.pause(CONNECT)?,
            Initiator::Spdk => {
                self.process
                    .wait_until(self.within, &setup.interrupt, |process| {
                        process.printed().contains("Launching workers")
                    })?;
            }
        }
        setup.interrupt.pause(self.settle)
    }

    fn finish(mut self, setup: &Setup) -> Result<Figures, Error> {
        self.process.wait(self.within, &setup.interrupt)?;
        let printed = self.process.printed();
        let figures = match self.initiator {
            Initiator::Ours => parse_ours(&printed),
            Initiator::Spdk => parse_spdk(&printed),
        };
        figures.ok_or_else(|| unreadable(self.initiator.name(), self.process.output()))
    }
}

/// `spdk_nvme_perf` counts whole seconds only.
fn whole_seconds(timing: Timing) -> Timing {
    let whole = |length: Duration| Duration::from_secs(length.as_secs_f64().ceil().max(1.0) as u64);
    Timing {
        warm_up: whole(timing.warm_up),
        measure: whole(timing.measure),
    }
}

pub(crate) fn unreadable(program: &'static str, log: &Path) -> Error {
    Error::Unreadable {
        program,
        log: log.to_owned(),
    }
}

fn our_perf(setup: &Setup, target: &Target, point: Point, timing: Timing) -> Program {
    let operation = match point.operation {
        Operation::Read => "randread",
        Operation::Write => "randwrite",
    };
    let program = Program::new(
        "io-engine-perf",
        setup.binary("io-engine-perf"),
        INITIATOR_CORE,
        &["--queues", "1", "--rw", operation],
    )
    .with(format!("nvmf+tcp://{}/{}", target.address, target.nqn));
    with_shape(program, point, timing)
}

fn limit_client(setup: &Setup, target: &Target, point: Point, timing: Timing) -> Program {
    let program = Program::new(
        "limit-client",
        setup.binary("io-engine-perf"),
        INITIATOR_CORE,
        &["limit-client"],
    );
    let program = match point.operation {
        Operation::Read => program,
        Operation::Write => program.with("--write"),
    };
    with_shape(program.with(target.address.to_string()), point, timing)
}

/// What every command of `io-engine-perf` that puts on load is told.
fn with_shape(program: Program, point: Point, timing: Timing) -> Program {
    program
        .with("--block-size")
        .with(point.size_bytes().to_string())
        .with("--depth")
        .with(point.depth.to_string())
        .with("--warmup")
        .with(timing.warm_up.as_secs_f64().to_string())
        .with("--time")
        .with(timing.measure.as_secs_f64().to_string())
        .with("--congestion")
        .with(CONGESTION_CONTROL)
        .with("--busy-poll")
        .with("--format")
        .with("json")
}

fn spdk_perf(setup: &Setup, target: &Target, point: Point, timing: Timing) -> Program {
    let operation = match point.operation {
        Operation::Read => "randread",
        Operation::Write => "randwrite",
    };
    let tree = setup.spdk.clone().unwrap_or_default();
    // Line-buffered, so that the start of the load can be seen in its output file.
    Program::new("spdk_nvme_perf", "stdbuf", INITIATOR_CORE, &["-oL"])
        .with(tree.join("build/bin/spdk_nvme_perf"))
        .with("-c")
        .with(format!("{:#x}", 1 << INITIATOR_CORE))
        .with("-s")
        .with(SPDK_PERF_MIB)
        .with("-g")
        .with("-P")
        .with("1")
        .with("-w")
        .with(operation)
        .with("-q")
        .with(point.depth.to_string())
        .with("-o")
        .with(point.size_bytes().to_string())
        .with("-a")
        .with(timing.warm_up.as_secs().to_string())
        .with("-t")
        .with(timing.measure.as_secs().to_string())
        .with("-r")
        .with(format!(
            // Left to itself it connects with an empty host NQN, which NVMe-oF does not allow and we refuse.
            "trtype:TCP adrfam:IPv4 traddr:{} trsvcid:{} subnqn:{} hostnqn:{SPDK_PERF_HOSTNQN}",
            target.address.ip(),
            target.address.port(),
            target.nqn
        ))
}

/// Runs `fio` on the bare `file`, on the server's core.
pub(crate) fn run_fio(
    setup: &Setup,
    file: &Path,
    point: Point,
    timing: Timing,
) -> Result<Sample, Error> {
    let operation = match point.operation {
        Operation::Read => "randread",
        Operation::Write => "randwrite",
    };
    let program = Program::new(
        "fio",
        "fio",
        SERVER_CORE,
        &[
            "--name=bench",
            "--ioengine=io_uring",
            "--direct=1",
            "--norandommap",
            "--time_based",
            "--output-format=json",
        ],
    )
    .with(format!("--filename={}", file.display()))
    .with(format!("--rw={operation}"))
    .with(format!("--bs={}", point.size_bytes()))
    .with(format!("--iodepth={}", point.depth))
    .with(format!("--ramp_time={}ms", timing.warm_up.as_millis()))
    .with(format!("--runtime={}ms", timing.measure.as_millis()));
    let mut process = Process::start(&program, &setup.work)?;
    process.wait(timing.warm_up + timing.measure + SLACK, &setup.interrupt)?;
    parse_fio(&process.printed(), point.operation)
        .ok_or_else(|| unreadable("fio", process.output()))
}

/// Figures in the JSON of `io-engine-perf`.
fn parse_ours(printed: &str) -> Option<Figures> {
    let value = json_object(printed)?;
    let figures = Figures {
        iops: value.get("iops")?.as_f64()?,
        latency_us: value.get("latency_us_mean")?.as_f64()?,
    };
    measured(figures)
}

/// Figures in the table of `spdk_nvme_perf`: the line `Total : IOPS MiB/s average min max`.
fn parse_spdk(printed: &str) -> Option<Figures> {
    let line = printed
        .lines()
        .find(|line| line.trim_start().starts_with("Total"))?;
    let mut columns = line.split_once(':')?.1.split_whitespace();
    let iops = columns.next()?.parse().ok()?;
    let latency_us = columns.nth(1)?.parse().ok()?;
    measured(Figures { iops, latency_us })
}

/// Figures in the JSON of `fio`, with its own processor time as the server's.
pub(crate) fn parse_fio(printed: &str, operation: Operation) -> Option<Sample> {
    let value = json_object(printed)?;
    let job = value.pointer("/jobs/0")?;
    let side = match operation {
        Operation::Read => job.get("read")?,
        Operation::Write => job.get("write")?,
    };
    let figures = measured(Figures {
        iops: side.get("iops")?.as_f64()?,
        latency_us: side.pointer("/lat_ns/mean")?.as_f64()? / 1000.0,
    })?;
    let share = (job.get("usr_cpu")?.as_f64()? + job.get("sys_cpu")?.as_f64()?) / 100.0;
    Some(Sample {
        iops: figures.iops,
        latency_us: figures.latency_us,
        cpu_us: share * 1e6 / figures.iops,
    })
}

/// The JSON object in an output that may have lines of log before it.
fn json_object(printed: &str) -> Option<Value> {
    let from_brace = printed
        .match_indices('{')
        .find(|(at, _)| *at == 0 || printed[..*at].ends_with('\n'))?
        .0;
    serde_json::Deserializer::from_str(&printed[from_brace..])
        .into_iter::<Value>()
        .next()?
        .ok()
}

/// A run that moved nothing measured nothing.
fn measured(figures: Figures) -> Option<Figures> {
    (figures.iops.is_finite() && figures.iops > 0.0).then_some(figures)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::machine::Interrupt;

    #[test]
    fn reads_the_table_of_spdk() {
        let printed = "Initialization complete. Launching workers.\n\
            Device Information  :       IOPS      MiB/s    Average        min        max\n\
            TCP (addr:127.0.0.1) NSID 1 from core  1:  1.00  2.00  3.00  4.00  5.00\n\
            =====\n\
            Total                                   :   15209.71      59.41      65.74      11.98   20145.83\n";
        let figures = parse_spdk(printed).unwrap();
        assert_eq!((figures.iops, figures.latency_us), (15209.71, 65.74));
        assert_eq!(parse_spdk("no table"), None);
    }

    #[test]
    fn reads_our_json_and_refuses_a_run_that_moved_nothing() {
        let figures =
            parse_ours("{\"workload\":\"x\",\"iops\":88000.5,\"latency_us_mean\":11.2}\n").unwrap();
        assert_eq!((figures.iops, figures.latency_us), (88000.5, 11.2));
        assert_eq!(parse_ours("{\"iops\":0.0,\"latency_us_mean\":0.0}"), None);
        assert_eq!(parse_ours("io-engine-perf: connection refused\n"), None);
    }

    #[test]
    fn our_initiator_is_told_everything_the_method_fixes() {
        let setup = Setup {
            cores: 2,
            binaries: "/b".into(),
            work: "/w".into(),
            spdk: None,
            interrupt: Interrupt::never(),
        };
        let target = Target {
            address: ([127, 0, 0, 1], 8420).into(),
            nqn: "nqn.x:disk".to_owned(),
        };
        let point = Point {
            operation: Operation::Write,
            size_kib: 4,
            depth: 8,
        };
        let timing = Timing {
            warm_up: Duration::from_millis(300),
            measure: Duration::from_secs(1),
        };
        let line = |program: Program| {
            let words: Vec<_> = program
                .arguments
                .iter()
                .map(|word| word.to_string_lossy().into_owned())
                .collect();
            words.join(" ")
        };
        let shape = "--block-size 4096 --depth 8 --warmup 0.3 --time 1 --congestion reno --busy-poll --format json";
        assert_eq!(
            line(our_perf(&setup, &target, point, timing)),
            format!("--queues 1 --rw randwrite nvmf+tcp://127.0.0.1:8420/nqn.x:disk {shape}")
        );
        assert_eq!(
            line(limit_client(&setup, &target, point, timing)),
            format!("limit-client --write 127.0.0.1:8420 {shape}")
        );
    }

    #[test]
    fn reads_fio_behind_its_warnings() {
        let printed = "fio: a note\n{\"jobs\": [{\"read\": {\"iops\": 2000.0, \"lat_ns\": {\"mean\": 90000.0}},\n\
            \"write\": {\"iops\": 0.0, \"lat_ns\": {\"mean\": 0.0}}, \"usr_cpu\": 1.0, \"sys_cpu\": 3.0}]}\n";
        let sample = parse_fio(printed, Operation::Read).unwrap();
        assert_eq!((sample.iops, sample.latency_us), (2000.0, 90.0));
        assert!((sample.cpu_us - 20.0).abs() < 1e-9);
        assert_eq!(parse_fio(printed, Operation::Write), None, "moved nothing");
    }

    #[test]
    fn spdk_is_given_whole_seconds() {
        let timing = whole_seconds(Timing {
            warm_up: Duration::from_millis(300),
            measure: Duration::from_millis(1500),
        });
        assert_eq!(timing.warm_up, Duration::from_secs(1));
        assert_eq!(timing.measure, Duration::from_secs(2));
    }
}
