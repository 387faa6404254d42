//! The command `pool`: checks, repairs, exports and prints a native pool that no engine has open.
//!
//! Decides: what a user is told about a pool, in which order things are put right, and the exit code. What a fault is and what bytes put it right
//! is decided in `pool-core`; this is a blocking driver of the same core over files and block devices.
//!
//! Invariants:
//! - Without `--repair` nothing is written to a disk, and disks are opened for reading.
//! - A repair overwrites only what failed its check, with what passed it, or what a rebuilt bitmap says once every tree was read. The only copy of
//!   anything is not touched.
//! - Disks that somebody holds are refused.
//!
//! Follows `docs/disk-format.md` §11.

#![forbid(unsafe_code)]

mod arguments;
mod check;
mod disks;
mod driver;
mod dump;
mod export;

use std::io::Write;

use arguments::Command;

/// How a run ended; the exit code of the command.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Outcome {
    /// 0: nothing is wrong.
    Clean,
    /// 1: something was wrong, and all of it is repaired.
    Repaired,
    /// 2: something is wrong, and some of it still is.
    FaultsLeft,
    /// 3: there is no pool that could be looked at, or a disk cannot be opened.
    NotOpened,
    /// 64: the command line means nothing.
    Usage,
}

impl Outcome {
    /// The exit code.
    pub fn code(self) -> u8 {
        match self {
            Self::Clean => 0,
            Self::Repaired => 1,
            Self::FaultsLeft => 2,
            Self::NotOpened => 3,
            Self::Usage => 64,
        }
    }
}

/// Runs the command with these words, without the program's name, and writes what a user should see to `out`.
///
/// # Errors
/// When `out` cannot be written.
pub fn run(words: &[String], out: &mut dyn Write) -> std::io::Result<Outcome> {
    match arguments::parse(words) {
        Ok(Command::Check(wanted)) => check::run(&wanted, out),
        Ok(Command::Dump { disks }) => dump::run(&disks, out),
        Ok(Command::Help) => {
            writeln!(out, "{}", arguments::HELP)?;
            Ok(Outcome::Clean)
        }
        Err(what) => {
            writeln!(out, "{what}\n{}", arguments::HELP)?;
            Ok(Outcome::Usage)
        }
    }
}
