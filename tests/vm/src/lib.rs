//! Scenarios against a real Linux kernel: the harness.
//!
//! Does: boots Debian's kernel in QEMU ([`Vm`]), starts the engine beside it ([`Engine`]), runs scenarios in sequence and
//! reports each ([`Runner`]). The scenarios are in `scenarios/`, one a file.
//! Does not: install packages (xtask does), build the engine (xtask does), need root or KVM.
//!
//! Invariants:
//! - No port, path or process is shared with another run of this harness, or with an engine of the machine.
//! - Nothing outlives the run but the cache of kernel and initramfs, and files of failed scenarios.

mod artifacts;
mod engine;
mod runner;
mod vm;

pub use artifacts::{
    Artifacts, BUILDERS, HOST_ID, HOST_NQN, KERNEL_META_PACKAGE, TOOLS, missing_packages, prepare,
};
pub use engine::{Engine, Programs, Share};
pub use runner::{Lab, Runner, Scenario, Verdict};
pub use vm::{Accel, Connection, HOST_V4, HOST_V6, Job, Output, PATIENCE, Vm, report, tail};
