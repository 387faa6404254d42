//! The machine under the benchmark: its cores, its settings, and the user's Ctrl-C.
//!
//! Decides: that a setting changed for a run is restored however the run ends, short of SIGKILL. Invariant: every
//! [`Setting`] writes back what it found, once, when dropped.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use super::error::Error;

/// Core of the server: reactor, SPDK target, limit server, and `fio` where it stands for a server.
pub(crate) const SERVER_CORE: usize = 0;
/// Core of the initiator, of control planes and of this program.
pub(crate) const INITIATOR_CORE: usize = 1;

/// Congestion control that both ends of every contender are pinned to.
pub(crate) const CONGESTION_CONTROL: &str = "reno";

/// Refuses a machine where server and initiator would share a core, and moves this program off the server's. Returns how
/// many cores there are.
pub(crate) fn claim_cores() -> Result<usize, Error> {
    let found = thread::available_parallelism().map_or(1, std::num::NonZero::get);
    if found < 2 {
        return Err(Error::TooFewCores { found });
    }
    let mut set = rustix::thread::CpuSet::new();
    set.set(INITIATOR_CORE);
    rustix::thread::sched_setaffinity(None, &set).map_err(|error| Error::Machine {
        operation: "pin this program to a core through",
        path: PathBuf::from("sched_setaffinity"),
        source: error.into(),
    })?;
    Ok(found)
}

/// A kernel setting changed for the length of a run.
#[derive(Debug)]
pub(crate) struct Setting {
    path: PathBuf,
    before: String,
}

impl Setting {
    /// Writes `value` to the file `path`, remembering what was there.
    ///
    /// # Errors
    /// `Machine` when the file cannot be read or written, which for settings under `/proc/sys` means: not root.
    pub(crate) fn change(path: impl Into<PathBuf>, value: &str) -> Result<Self, Error> {
        let path = path.into();
        let before = fs::read_to_string(&path).map_err(|source| Error::Machine {
            operation: "read setting",
            path: path.clone(),
            source,
        })?;
        write_setting(&path, value)?;
        Ok(Self {
            path,
            before: before.trim_end().to_owned(),
        })
    }

    /// What the file held before.
    pub(crate) fn before(&self) -> &str {
        &self.before
    }
}

impl Drop for Setting {
    fn drop(&mut self) {
        if let Err(error) = write_setting(&self.path, &self.before) {
            super::note(format_args!(
                "{error} failed; write '{}' to it by hand",
                self.before
            ));
        }
    }
}

fn write_setting(path: &Path, value: &str) -> Result<(), Error> {
    fs::write(path, value).map_err(|source| Error::Machine {
        operation: "change setting (as root)",
        path: path.to_owned(),
        source,
    })
}

/// Becomes set when the user or a supervisor asks the run to end.
#[derive(Debug, Clone)]
pub(crate) struct Interrupt(Arc<AtomicBool>);

impl Interrupt {
    /// Takes over SIGINT, SIGTERM and SIGHUP, so that the run can restore the machine before it ends.
    pub(crate) fn install() -> Result<Self, Error> {
        let flag = Arc::new(AtomicBool::new(false));
        for signal in [
            signal_hook::consts::SIGINT,
            signal_hook::consts::SIGTERM,
            signal_hook::consts::SIGHUP,
        ] {
            signal_hook::flag::register(signal, Arc::clone(&flag)).map_err(|source| {
                Error::Machine {
                    operation: "take over signals through",
                    path: PathBuf::from("sigaction"),
                    source,
                }
            })?;
        }
        Ok(Self(flag))
    }

    /// One that never comes.
    #[cfg(test)]
    pub(crate) fn never() -> Self {
        Self(Arc::default())
    }

    /// # Errors
    /// `Interrupted` once a signal has arrived.
    pub(crate) fn check(&self) -> Result<(), Error> {
        if self.0.load(Ordering::Relaxed) {
            Err(Error::Interrupted)
        } else {
            Ok(())
        }
    }

    /// Waits `length`, or until interrupted.
    pub(crate) fn pause(&self, length: Duration) -> Result<(), Error> {
        let end = Instant::now() + length;
        loop {
            self.check()?;
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(());
            }
            thread::sleep(left.min(POLL_INTERVAL));
        }
    }
}

/// How often waits look up. Fifty wakes a second on the initiator's core are below what the figures show.
pub(crate) const POLL_INTERVAL: Duration = Duration::from_millis(20);

/// Runnable and recently running work of others, as the kernel's one-minute load average gives it.
pub(crate) fn load_average() -> Option<f64> {
    let text = fs::read_to_string("/proc/loadavg").ok()?;
    text.split_whitespace().next()?.parse().ok()
}

/// A line that says what was measured on: processor, how many `cores` of it, kernel.
pub(crate) fn description(cores: usize) -> String {
    let field = |path: &str| {
        fs::read_to_string(path)
            .map(|text| text.trim().to_owned())
            .unwrap_or_default()
    };
    let processor = fs::read_to_string("/proc/cpuinfo")
        .ok()
        .and_then(|text| {
            let line = text.lines().find(|line| line.starts_with("model name"))?;
            line.split_once(": ").map(|(_, name)| name.to_owned())
        })
        .unwrap_or_else(|| "unknown processor".to_owned());
    format!(
        "{processor}, {cores} cores, Linux {}",
        field("/proc/sys/kernel/osrelease")
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_setting_is_written_back_when_dropped() {
        let path = std::env::temp_dir().join(format!("bench-setting-{}", std::process::id()));
        fs::write(&path, "bbr\n").unwrap();
        let setting = Setting::change(&path, "reno").unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "reno");
        assert_eq!(setting.before(), "bbr");
        drop(setting);
        assert_eq!(fs::read_to_string(&path).unwrap(), "bbr");
        fs::remove_file(&path).unwrap();
    }

    #[test]
    fn a_setting_that_is_not_there_is_named() {
        let error = Setting::change("/proc/sys/no/such", "1").unwrap_err();
        assert!(error.to_string().contains("/proc/sys/no/such"));
    }

    #[test]
    fn an_interrupt_ends_a_pause() {
        let interrupt = Interrupt(Arc::new(AtomicBool::new(true)));
        assert!(matches!(
            interrupt.pause(Duration::from_secs(3600)),
            Err(Error::Interrupted)
        ));
    }
}
