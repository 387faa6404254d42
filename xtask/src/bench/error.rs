//! Why a benchmark run stopped, in one line that names what to do when there is something to do.

use std::fmt;
use std::io;
use std::path::PathBuf;
use std::time::Duration;

/// What a benchmark run may fail with.
#[derive(Debug)]
pub(crate) enum Error {
    /// An option is unknown, lacks its value or has one that cannot be used.
    Option {
        option: String,
        problem: &'static str,
    },
    /// A file the run needs is not there.
    Missing { path: PathBuf, fix: &'static str },
    /// Server and initiator need a core each.
    TooFewCores { found: usize },
    /// The filters leave nothing to measure.
    NothingSelected,
    /// An operation of the machine failed.
    Machine {
        operation: &'static str,
        path: PathBuf,
        source: io::Error,
    },
    /// A program could not be started.
    Start { program: PathBuf, source: io::Error },
    /// A program ended when it should not have, or ended badly.
    Ended { program: &'static str, log: PathBuf },
    /// A program took longer than it may.
    Overdue {
        program: &'static str,
        within: Duration,
        log: PathBuf,
    },
    /// A program's output has not the figures it should have.
    Unreadable { program: &'static str, log: PathBuf },
    /// A connected host could not be set up or was dropped by the engine.
    Host {
        step: &'static str,
        source: io::Error,
    },
    /// The user stopped the run.
    Interrupted,
}

impl fmt::Display for Error {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Option { option, problem } => write!(
                out,
                "option '{option}' {problem}; `cargo xtask bench --help` lists them"
            ),
            Self::Missing { path, fix } => write!(out, "{} is missing; {fix}", path.display()),
            Self::TooFewCores { found } => write!(
                out,
                "{found} core to run on; server and initiator need one each, so give this machine two"
            ),
            Self::NothingSelected => write!(
                out,
                "--only leaves nothing to measure; `cargo xtask bench --list` prints the names"
            ),
            Self::Machine {
                operation,
                path,
                source,
            } => write!(out, "{operation} {}: {source}", path.display()),
            Self::Start { program, source } => {
                write!(out, "start {}: {source}", program.display())
            }
            Self::Ended { program, log } => write!(
                out,
                "{program} ended early or with an error; its output is in {}",
                log.display()
            ),
            Self::Overdue {
                program,
                within,
                log,
            } => write!(
                out,
                "{program} was not done within {within:?}; its output is in {}",
                log.display()
            ),
            Self::Unreadable { program, log } => write!(
                out,
                "{program} printed no figures; its output is in {}",
                log.display()
            ),
            Self::Host { step, source } => {
                write!(out, "the idle host could not {step}: {source}")
            }
            Self::Interrupted => write!(out, "interrupted; settings are restored"),
        }
    }
}

// The message of a cause stands in the message above, because the command line prints one line.
impl std::error::Error for Error {}
