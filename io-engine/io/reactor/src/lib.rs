//! One thread's event loop: sockets, files, timers, messages and sleeping.
//!
//! Decides when the thread works, spins and sleeps, which streams are tried without asking and which are armed, and how
//! a file operation reaches the kernel (io_uring, or epoll and a small pool of threads). It does not decide what the bytes mean,
//! how long an operation may take, or who is fair to whom; its caller does.
//!
//! Invariants:
//! - Everything is bounded by [`Limits`]; nothing is allocated per operation, message or event in steady state.
//! - A buffer given to an operation belongs to the reactor until the kernel has completed it, whatever happens.
//! - No wake-up is lost: whatever arrives while the thread is about to sleep either is seen before, or ends the sleep.
//! - Nothing to do means asleep.
//!
//! Binding text: `docs/architecture.md` §3.

mod accept;
mod config;
mod core;
mod driver;
mod ending;
mod errno;
mod files;
mod host;
mod listener;
mod log_limit;
mod mailbox;
mod probe;
mod quota;
mod reactor;
mod socket;
mod spin;
mod stats;
mod streams;
mod wakes;

pub use config::{DriverChoice, Limits, ReactorConfig, ReactorError, SocketOptions};
pub use driver::DriverKind;
pub use listener::{ListenError, ListenerId};
pub use log_limit::LogLimit;
pub use mailbox::{Full, Handle};
pub use probe::{DriverReport, RingState, probe};
pub use reactor::{Event, Reactor};
pub use stats::{ReactorStats, Syscalls};
