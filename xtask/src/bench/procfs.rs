//! What the kernel knows about a running program: processor time and memory.

use std::fs;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use super::error::Error;

/// Processor time a process had used at one moment, all its threads together.
#[derive(Debug, Clone, Copy)]
pub(crate) struct CpuReading {
    at: Instant,
    used: Duration,
}

impl CpuReading {
    /// Reads the on-CPU time of every thread of `pid`, in nanoseconds as the scheduler counts it.
    ///
    /// # Errors
    /// `Machine` when the process is gone.
    pub(crate) fn take(pid: u32) -> Result<Self, Error> {
        let tasks = PathBuf::from(format!("/proc/{pid}/task"));
        let entries = fs::read_dir(&tasks).map_err(|source| Error::Machine {
            operation: "read processor time in",
            path: tasks,
            source,
        })?;
        let mut used_ns = 0;
        for entry in entries.flatten() {
            // A thread may end between the listing and the read; it used no time worth counting here.
            if let Ok(text) = fs::read_to_string(entry.path().join("schedstat")) {
                used_ns += on_cpu_ns(&text).unwrap_or(0);
            }
        }
        Ok(Self {
            at: Instant::now(),
            used: Duration::from_nanos(used_ns),
        })
    }

    /// Processor time used from `self` to `later`.
    pub(crate) fn used_until(self, later: Self) -> Duration {
        later.used.saturating_sub(self.used)
    }

    /// Share of one core used from `self` to `later`; 1.0 is a whole core.
    pub(crate) fn share_until(self, later: Self) -> f64 {
        let wall = later.at.duration_since(self.at).as_secs_f64();
        let used = self.used_until(later).as_secs_f64();
        if wall > 0.0 { used / wall } else { 0.0 }
    }
}

/// First field of `schedstat`: time on the processor in nanoseconds.
fn on_cpu_ns(schedstat: &str) -> Option<u64> {
    schedstat.split_whitespace().next()?.parse().ok()
}

/// Resident memory of `pid` in MiB, hugepages included.
///
/// # Errors
/// `Machine` when the process is gone.
pub(crate) fn resident_mib(pid: u32) -> Result<f64, Error> {
    let path = PathBuf::from(format!("/proc/{pid}/status"));
    let text = fs::read_to_string(&path).map_err(|source| Error::Machine {
        operation: "read memory in",
        path,
        source,
    })?;
    Ok(status_kib(&text, "VmRSS") / 1024.0 + status_kib(&text, "HugetlbPages") / 1024.0)
}

fn status_kib(status: &str, field: &str) -> f64 {
    status
        .lines()
        .find_map(|line| line.strip_prefix(field)?.strip_prefix(':'))
        .and_then(|rest| rest.split_whitespace().next()?.parse().ok())
        .unwrap_or(0.0)
}

/// The C library that `pid` has mapped, if it is linked to one.
pub(crate) fn c_library(pid: u32) -> Option<PathBuf> {
    let maps = fs::read_to_string(format!("/proc/{pid}/maps")).ok()?;
    maps.lines()
        .filter_map(|line| line.split_whitespace().nth(5))
        .find(|path| path.contains("/libc.so") || path.contains("/libc-"))
        .map(PathBuf::from)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn schedstat_begins_with_the_time_on_the_processor() {
        assert_eq!(on_cpu_ns("3674882 120 7\n"), Some(3_674_882));
        assert_eq!(on_cpu_ns(""), None);
    }

    #[test]
    fn status_fields_are_found_by_their_whole_name() {
        let status = "VmRSSx:\t1 kB\nVmRSS:\t  2048 kB\nHugetlbPages:\t 4096 kB\n";
        assert_eq!(status_kib(status, "VmRSS"), 2048.0);
        assert_eq!(status_kib(status, "HugetlbPages"), 4096.0);
        assert_eq!(status_kib(status, "VmSwap"), 0.0);
    }

    #[test]
    fn share_is_used_time_over_wall_time() {
        let start = Instant::now();
        let reading = |wall_ms, used_ms| CpuReading {
            at: start + Duration::from_millis(wall_ms),
            used: Duration::from_millis(used_ms),
        };
        let share = reading(0, 100).share_until(reading(200, 150));
        assert!((share - 0.25).abs() < 1e-9);
        assert_eq!(reading(0, 0).share_until(reading(0, 0)), 0.0);
    }

    #[test]
    fn this_process_has_used_time_and_memory() {
        let pid = std::process::id();
        assert!(CpuReading::take(pid).unwrap().used > Duration::ZERO);
        assert!(resident_mib(pid).unwrap() > 0.1);
    }
}
