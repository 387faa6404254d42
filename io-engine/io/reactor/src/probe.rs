//! What io_uring is worth on this machine, for people.

use std::fmt;
use std::fs;

use rustix::io::Errno;

use crate::driver::{DriverKind, TaskRun, probe_ring};

/// Whether and how io_uring works here.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum RingState {
    /// It works; completions run as the text says.
    Available(&'static str),
    /// The kernel is built without it (`ENOSYS`), or a sandbox says so.
    Missing,
    /// Switched off by `kernel.io_uring_disabled`, whose value this is (1: for unprivileged users, 2: for all).
    Disabled(u8),
    /// A seccomp profile or security module forbids it (`EPERM`, `EACCES`).
    Forbidden,
    /// The kernel's io_uring lacks what the reactor needs (Linux 5.11).
    TooOld,
    /// Setting it up failed otherwise: the error number.
    Failed(i32),
}

/// The answer of [`probe`].
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct DriverReport {
    /// Kernel release, as `uname -r` says.
    pub kernel: String,
    /// State of io_uring.
    pub ring: RingState,
    /// What [`crate::DriverChoice::Auto`] chooses here.
    pub chosen: DriverKind,
}

impl fmt::Display for RingState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Available(mode) => write!(f, "io_uring works, {mode}"),
            Self::Missing => f.write_str("io_uring is missing from this kernel"),
            Self::Disabled(n) => {
                write!(f, "io_uring is switched off (kernel.io_uring_disabled={n})")
            }
            Self::Forbidden => {
                f.write_str("io_uring is forbidden by a seccomp profile or security module")
            }
            Self::TooOld => {
                f.write_str("io_uring of this kernel is too old (Linux 5.11 is needed)")
            }
            Self::Failed(errno) => write!(f, "io_uring failed with error {errno}"),
        }
    }
}

impl fmt::Display for DriverReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "Linux {}: {}; reactors run on {}",
            self.kernel, self.ring, self.chosen
        )
    }
}

/// Tries io_uring and says what was found. Cheap; changes nothing.
pub fn probe() -> DriverReport {
    let sysctl = fs::read_to_string("/proc/sys/kernel/io_uring_disabled").ok();
    let disabled = sysctl
        .and_then(|text| text.trim().parse().ok())
        .unwrap_or(0);
    let ring = match probe_ring() {
        Ok(mode) => RingState::Available(describe(mode)),
        Err(error) => diagnose(error.raw_os_error(), disabled),
    };
    let chosen = match &ring {
        RingState::Available(_) => DriverKind::Uring,
        RingState::Missing
        | RingState::Disabled(_)
        | RingState::Forbidden
        | RingState::TooOld
        | RingState::Failed(_) => DriverKind::Epoll,
    };
    let kernel = rustix::system::uname()
        .release()
        .to_string_lossy()
        .into_owned();
    DriverReport {
        kernel,
        ring,
        chosen,
    }
}

fn describe(mode: TaskRun) -> &'static str {
    match mode {
        TaskRun::Deferred => "completions run when asked for (best)",
        TaskRun::Cooperative => "completions run at system calls (Linux 6.1 does better)",
        TaskRun::Interrupting => "completions interrupt the thread (Linux 6.1 does better)",
    }
}

/// The state behind a failed set-up; `disabled` is the value of the sysctl.
fn diagnose(errno: Option<i32>, disabled: u8) -> RingState {
    let Some(number) = errno else {
        return RingState::TooOld;
    };
    match Errno::from_raw_os_error(number) {
        Errno::NOSYS => RingState::Missing,
        Errno::PERM | Errno::ACCESS if disabled > 0 => RingState::Disabled(disabled),
        Errno::PERM | Errno::ACCESS => RingState::Forbidden,
        Errno::INVAL => RingState::TooOld,
        _ => RingState::Failed(number),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_refusal_has_its_reason() {
        let of = |errno: Errno, disabled| diagnose(Some(errno.raw_os_error()), disabled);
        assert_eq!(of(Errno::NOSYS, 0), RingState::Missing);
        assert_eq!(of(Errno::PERM, 0), RingState::Forbidden);
        assert_eq!(of(Errno::PERM, 2), RingState::Disabled(2));
        assert_eq!(of(Errno::ACCESS, 0), RingState::Forbidden);
        assert_eq!(of(Errno::INVAL, 0), RingState::TooOld);
        assert_eq!(diagnose(None, 0), RingState::TooOld);
        assert_eq!(
            of(Errno::NOMEM, 0),
            RingState::Failed(Errno::NOMEM.raw_os_error())
        );
    }

    #[test]
    fn the_report_agrees_with_itself() {
        let report = probe();
        let works = matches!(report.ring, RingState::Available(_));
        assert_eq!(works, report.chosen == DriverKind::Uring);
        assert!(report.to_string().contains(&report.kernel));
    }
}
