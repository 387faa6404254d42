//! Counting what a server does while it is under load: system calls and allocations.
//!
//! Decides: which kernel events stand for them. Both are counted by `perf stat` attached to the running server, in runs of
//! their own, because counting slows what is counted. Allocations are calls into the C library's allocator, which is
//! where Rust's default allocator and SPDK's `malloc` both end.

use std::fs;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::Duration;

use super::contender::Setup;
use super::error::Error;
use super::machine::INITIATOR_CORE;
use super::process::{Process, Program};
use super::procfs;

/// Functions of the C library that hand out memory.
const ALLOCATORS: [&str; 5] = [
    "malloc",
    "calloc",
    "realloc",
    "posix_memalign",
    "aligned_alloc",
];
/// Group the probes are registered under, so that they can be taken away again.
const PROBE_GROUP: &str = "io_engine_bench";
/// How long `perf` may take beyond its window.
const SLACK: Duration = Duration::from_secs(10);

/// A set of events that `perf stat` can count.
#[derive(Debug)]
pub(crate) struct Counter {
    events: String,
}

/// The counters this machine and user can have. Each is `None` where the kernel, the rights or `perf` are lacking.
#[derive(Debug)]
pub(crate) struct Counters {
    pub(crate) syscalls: Option<Counter>,
    pub(crate) allocations: Option<Counter>,
    _probes: Option<Probes>,
}

impl Counters {
    /// None at all.
    pub(crate) const fn none() -> Self {
        Self {
            syscalls: None,
            allocations: None,
            _probes: None,
        }
    }

    /// Tries what can be counted here. `pid` is any process that uses the C library the servers use.
    pub(crate) fn probe(pid: u32) -> Self {
        let syscalls = Counter {
            events: "raw_syscalls:sys_enter".to_owned(),
        };
        let probes = procfs::c_library(pid).and_then(Probes::register);
        let allocations = Counter {
            events: format!("{PROBE_GROUP}:*"),
        };
        Self {
            syscalls: syscalls.works().then_some(syscalls),
            allocations: (probes.is_some() && allocations.works()).then_some(allocations),
            _probes: probes,
        }
    }
}

impl Counter {
    /// Counts over a trivial program: an event that cannot be opened makes `perf` fail or print no number.
    fn works(&self) -> bool {
        Command::new("perf")
            .args(["stat", "-x,", "-e", &self.events, "--", "true"])
            .output()
            .is_ok_and(|output| {
                output.status.success()
                    && sum_counts(&String::from_utf8_lossy(&output.stderr)).is_some()
            })
    }
}

/// Probes on the C library's allocator; taken away when dropped.
#[derive(Debug)]
struct Probes;

impl Probes {
    fn register(library: PathBuf) -> Option<Self> {
        // A leftover of a killed run would make the registration fail.
        Self::unregister();
        let mut perf = Command::new("perf");
        perf.args(["probe", "-q", "-x"]).arg(library);
        for function in ALLOCATORS {
            perf.args(["-a", &format!("{PROBE_GROUP}:{function}={function}")]);
        }
        let registered = perf
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status()
            .is_ok_and(|status| status.success());
        // Dropping the value takes away whatever part of them was registered.
        let probes = Self;
        registered.then_some(probes)
    }

    fn unregister() {
        let listed = fs::read_to_string("/sys/kernel/tracing/uprobe_events").unwrap_or_default();
        if listed.contains(PROBE_GROUP) {
            let _ = Command::new("perf")
                .args(["probe", "-q", "-d", &format!("{PROBE_GROUP}:*")])
                .stdout(Stdio::null())
                .stderr(Stdio::null())
                .status();
        }
    }
}

impl Drop for Probes {
    fn drop(&mut self) {
        Self::unregister();
    }
}

/// A count under way.
#[derive(Debug)]
pub(crate) struct Counting {
    process: Process,
    window: Duration,
}

impl Counting {
    /// Attaches to every thread of `pid` for `window`.
    pub(crate) fn start(
        setup: &Setup,
        counter: &Counter,
        pid: u32,
        window: Duration,
    ) -> Result<Self, Error> {
        let program = Program::new(
            "perf-stat",
            "perf",
            INITIATOR_CORE,
            &["stat", "-x,", "-e", &counter.events, "-p"],
        )
        .with(pid.to_string())
        .with("--")
        .with("sleep")
        .with(window.as_secs_f64().to_string());
        Ok(Self {
            process: Process::start(&program, &setup.work)?,
            window,
        })
    }

    /// Events a second.
    pub(crate) fn finish(mut self, setup: &Setup) -> Result<f64, Error> {
        self.process.wait(self.window + SLACK, &setup.interrupt)?;
        let count = sum_counts(&self.process.printed()).ok_or_else(|| Error::Unreadable {
            program: "perf",
            log: self.process.output().to_owned(),
        })?;
        Ok(count / self.window.as_secs_f64())
    }
}

/// Sum of the counts in `perf stat -x,` output; `None` when there is none or one could not be counted.
fn sum_counts(printed: &str) -> Option<f64> {
    let mut sum = None;
    for line in printed.lines() {
        let mut fields = line.split(',');
        let (Some(count), Some(event)) = (fields.next(), fields.nth(1)) else {
            continue;
        };
        if !event.contains(':') {
            continue;
        }
        // "<not counted>" stands for an event that was open while nothing ran.
        let count = if count == "<not counted>" {
            0.0
        } else {
            count.parse::<f64>().ok()?
        };
        sum = Some(sum.unwrap_or(0.0) + count);
    }
    sum
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_of_several_events_are_summed() {
        let printed = "20,,io_engine_bench:malloc,3797097,100.00,,\n5,,io_engine_bench:realloc,3797097,100.00,,\n";
        assert_eq!(sum_counts(printed), Some(25.0));
    }

    #[test]
    fn an_idle_server_counts_nothing_and_a_missing_event_is_no_count() {
        let idle = "<not counted>,,raw_syscalls:sys_enter,0,100.00,,\n";
        assert_eq!(sum_counts(idle), Some(0.0));
        let missing = "<not supported>,,raw_syscalls:sys_enter,0,100.00,,\n";
        assert_eq!(sum_counts(missing), None);
        assert_eq!(sum_counts("event syntax error\n"), None);
    }
}
