//! Programs under measurement: started on one core, frozen while it is not their turn, gone when dropped.
//!
//! Invariants: a [`Process`] is killed and reaped when dropped; it dies with this program even when that is killed; its
//! output is in a file, so that no pipe fills and blocks it.

use std::ffi::OsString;
use std::fs::{self, File};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

use super::error::Error;
use super::machine::{INITIATOR_CORE, SERVER_CORE};
use super::machine::{Interrupt, POLL_INTERVAL};

/// How long a program has to end after SIGTERM before it is killed.
const STOP_GRACE: Duration = Duration::from_secs(5);

/// A program to start.
#[derive(Debug)]
pub(crate) struct Program {
    /// Short name for messages and for the output file.
    pub(crate) name: &'static str,
    pub(crate) path: PathBuf,
    pub(crate) arguments: Vec<OsString>,
    /// Cores it may run on, as `taskset` reads them; it may pin its threads further.
    pub(crate) cores: String,
}

impl Program {
    /// A program with arguments given as plain text.
    pub(crate) fn new(
        name: &'static str,
        path: impl Into<PathBuf>,
        core: usize,
        arguments: &[&str],
    ) -> Self {
        Self {
            name,
            path: path.into(),
            arguments: arguments.iter().map(OsString::from).collect(),
            cores: core.to_string(),
        }
    }

    /// Leaves it to the program which of the two cores its threads run on.
    pub(crate) fn on_both_cores(mut self) -> Self {
        self.cores = format!("{SERVER_CORE},{INITIATOR_CORE}");
        self
    }

    /// Adds one argument.
    pub(crate) fn with(mut self, argument: impl Into<OsString>) -> Self {
        self.arguments.push(argument.into());
        self
    }
}

/// A running program.
#[derive(Debug)]
pub(crate) struct Process {
    name: &'static str,
    child: Child,
    output: PathBuf,
    is_frozen: bool,
}

impl Process {
    /// Starts `program` on its core, its output going to a file in `directory`.
    ///
    /// # Errors
    /// `Machine` when the file cannot be made, `Start` when the program cannot.
    pub(crate) fn start(program: &Program, directory: &Path) -> Result<Self, Error> {
        let output = directory.join(format!("{}.log", program.name));
        let file = File::create(&output).map_err(|source| Error::Machine {
            operation: "create",
            path: output.clone(),
            source,
        })?;
        let errors = file.try_clone().map_err(|source| Error::Machine {
            operation: "share",
            path: output.clone(),
            source,
        })?;
        // `setpriv` and `taskset` replace themselves, so the child's process number is the program's. A process group of
        // its own keeps a terminal's Ctrl-C from it: this program ends it in order.
        let child = Command::new("setpriv")
            .args(["--pdeathsig", "KILL", "taskset", "--cpu-list"])
            .arg(&program.cores)
            .arg(&program.path)
            .args(&program.arguments)
            .stdin(Stdio::null())
            .stdout(file)
            .stderr(errors)
            .process_group(0)
            .spawn()
            .map_err(|source| Error::Start {
                program: program.path.clone(),
                source,
            })?;
        Ok(Self {
            name: program.name,
            child,
            output,
            is_frozen: false,
        })
    }

    /// Process number.
    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    /// File its output goes to.
    pub(crate) fn output(&self) -> &Path {
        &self.output
    }

    /// Stops the program where it stands (SIGSTOP), so that one that polls uses no time.
    pub(crate) fn freeze(&mut self) {
        if !self.is_frozen {
            self.signal(Signal::STOP);
            self.is_frozen = true;
        }
    }

    /// Lets a frozen program go on.
    pub(crate) fn thaw(&mut self) {
        if self.is_frozen {
            self.signal(Signal::CONT);
            self.is_frozen = false;
        }
    }

    /// Whether it has ended, and how.
    pub(crate) fn poll_exit(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().ok().flatten()
    }

    /// Waits for an orderly end.
    ///
    /// # Errors
    /// `Ended` for an exit code but 0, `Overdue`, `Interrupted`.
    pub(crate) fn wait(&mut self, within: Duration, interrupt: &Interrupt) -> Result<(), Error> {
        let deadline = Instant::now() + within;
        loop {
            if let Some(status) = self.poll_exit() {
                return if status.success() {
                    Ok(())
                } else {
                    Err(self.ended())
                };
            }
            if Instant::now() > deadline {
                return Err(self.overdue(within));
            }
            interrupt.pause(POLL_INTERVAL)?;
        }
    }

    /// Waits until a TCP connection to `address` is taken. Errors are those of [`Self::wait_until`].
    pub(crate) fn wait_listening(
        &mut self,
        address: SocketAddr,
        within: Duration,
        interrupt: &Interrupt,
    ) -> Result<(), Error> {
        self.wait_until(within, interrupt, |_| {
            TcpStream::connect_timeout(&address, POLL_INTERVAL).is_ok()
        })
    }

    /// Waits until `is_reached` says so.
    ///
    /// # Errors
    /// `Ended` when the program ends first, `Overdue`, `Interrupted`.
    pub(crate) fn wait_until(
        &mut self,
        within: Duration,
        interrupt: &Interrupt,
        is_reached: impl Fn(&Self) -> bool,
    ) -> Result<(), Error> {
        let deadline = Instant::now() + within;
        while !is_reached(self) {
            if self.poll_exit().is_some() {
                return Err(self.ended());
            }
            if Instant::now() > deadline {
                return Err(self.overdue(within));
            }
            interrupt.pause(POLL_INTERVAL)?;
        }
        Ok(())
    }

    /// Everything it has printed so far.
    pub(crate) fn printed(&self) -> String {
        fs::read_to_string(&self.output).unwrap_or_default()
    }

    fn ended(&self) -> Error {
        Error::Ended {
            program: self.name,
            log: self.output.clone(),
        }
    }

    fn overdue(&self, within: Duration) -> Error {
        Error::Overdue {
            program: self.name,
            within,
            log: self.output.clone(),
        }
    }

    fn signal(&self, signal: Signal) {
        let pid = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw);
        if let Some(pid) = pid {
            // Failing means it has ended, which whoever waits for it will see.
            let _ = kill_process(pid, signal);
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if self.poll_exit().is_some() {
            return;
        }
        self.thaw();
        self.signal(Signal::TERM);
        let deadline = Instant::now() + STOP_GRACE;
        while Instant::now() < deadline {
            if self.poll_exit().is_some() {
                return;
            }
            thread::sleep(POLL_INTERVAL);
        }
        // It is this program's own child and has not been reaped, so the number cannot be another's.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::procfs::CpuReading;

    fn shell(script: &str, name: &'static str) -> Process {
        let program = Program::new(name, "/bin/sh", 0, &["-c", script]);
        Process::start(&program, &std::env::temp_dir()).unwrap()
    }

    fn wait(process: &mut Process) -> Result<(), Error> {
        process.wait(Duration::from_secs(20), &Interrupt::never())
    }

    #[test]
    fn output_is_kept_and_exit_codes_are_told_apart() {
        let mut good = shell("echo figures", "bench-test-good");
        wait(&mut good).unwrap();
        assert_eq!(good.printed(), "figures\n");
        let mut bad = shell("exit 3", "bench-test-bad");
        assert!(matches!(wait(&mut bad), Err(Error::Ended { .. })));
    }

    #[test]
    fn a_frozen_program_uses_no_time_and_still_ends_when_dropped() {
        let mut busy = shell("while :; do :; done", "bench-test-busy");
        busy.freeze();
        // SIGSTOP is delivered at once to a running process, but not synchronously with kill(2).
        let state = format!("/proc/{}/stat", busy.id());
        let is_stopped = || fs::read_to_string(&state).unwrap().contains(") T ");
        while !is_stopped() {
            thread::yield_now();
        }
        let before = CpuReading::take(busy.id()).unwrap();
        thread::sleep(Duration::from_millis(30));
        assert_eq!(
            before.share_until(CpuReading::take(busy.id()).unwrap()),
            0.0
        );
        drop(busy);
        assert!(fs::read_to_string(&state).is_err(), "reaped");
    }
}
