//! A controller: its registers and what they decide, its host, features, events and logs.

use std::time::{Duration, Instant};

use nvme_spec::log::ErrorLogEntry;
use nvme_spec::register::{Cap, Cc, Csts};

use crate::command::NONE;
use crate::events::Events;
use crate::features::Features;
use crate::limits;
use crate::qpair::IoStats;
use crate::subsystem::Kind;

#[derive(Debug)]
pub(crate) struct Controller {
    pub(crate) kind: Kind,
    pub(crate) cntlid: u16,
    pub(crate) subsystem: u32,
    pub(crate) host: Host,
    pub(crate) admin_qp: u32,
    /// Queue pair of I/O queue `index + 1`, or [`NONE`].
    pub(crate) io_qps: Vec<u32>,
    pub(crate) registers: Registers,
    pub(crate) keep_alive: KeepAlive,
    pub(crate) features: Features,
    pub(crate) events: Events,
    pub(crate) errors: ErrorLog,
    /// Abort commands waiting for their victims.
    pub(crate) aborts: u32,
    /// Commands in the device whose queues a shutdown closed.
    pub(crate) orphans: u32,
    /// I/O of queues that are gone; queues present keep their own.
    pub(crate) stats: IoStats,
    pub(crate) created: Instant,
}

/// Who is connected.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Host {
    pub(crate) nqn: String,
    pub(crate) id: [u8; 16],
    /// Its place in [`crate::hosts::Hosts`].
    pub(crate) index: u32,
}

/// Where a controller is in its life (Base 2.0c §3.5, §3.6).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Phase {
    /// CC.EN is 0.
    Disabled,
    /// CC.EN is 1, CSTS.RDY is 1.
    Ready,
    /// Shutdown asked for, I/O still in flight.
    ShuttingDown,
    /// Shutdown complete.
    ShutDown,
    /// CSTS.CFS is 1.
    Fatal,
}

/// What a write to CC amounts to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum CcWrite {
    /// EN 0 to 1 with supported settings.
    Enable,
    /// EN 0 to 1 with settings the controller cannot serve.
    EnableUnsupported,
    /// EN 1 to 0: controller reset.
    Reset,
    /// SHN from 00b to 01b or 10b.
    Shutdown,
    /// Nothing the controller acts on.
    Nothing,
}

/// What a controller does after a write to CC.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Step {
    /// Enter the phase, nothing else.
    Enter(Phase),
    /// Disconnect the I/O queues, drop requests for events, then the phase.
    ResetTo(Phase),
    /// Disconnect the I/O queues; the phase ends when their I/O has ended.
    DrainTo(Phase),
    /// Stay.
    Stay,
}

impl Phase {
    /// The controller state table: Base 2.0c §3.5.3 (enable), §3.7.2 (reset), §3.6.1 (shutdown).
    pub(crate) const fn after(self, write: CcWrite) -> Step {
        match (self, write) {
            (Self::Disabled, CcWrite::Enable) => Step::Enter(Self::Ready),
            (Self::Disabled, CcWrite::EnableUnsupported) => Step::Enter(Self::Fatal),
            (Self::Disabled, CcWrite::Shutdown) => Step::Enter(Self::ShutDown),
            (Self::Ready, CcWrite::Shutdown) => Step::DrainTo(Self::ShuttingDown),
            (Self::Ready | Self::ShuttingDown | Self::ShutDown | Self::Fatal, CcWrite::Reset) => {
                Step::ResetTo(Self::Disabled)
            }
            (Self::ShutDown, CcWrite::Enable) => Step::Enter(Self::Ready),
            (Self::ShutDown, CcWrite::EnableUnsupported) => Step::Enter(Self::Fatal),
            (Self::Disabled, CcWrite::Reset | CcWrite::Nothing)
            | (
                Self::Ready | Self::ShuttingDown | Self::Fatal,
                CcWrite::Enable | CcWrite::EnableUnsupported | CcWrite::Nothing,
            )
            | (Self::ShutDown, CcWrite::Shutdown | CcWrite::Nothing)
            | (Self::ShuttingDown | Self::Fatal, CcWrite::Shutdown) => Step::Stay,
        }
    }

    pub(crate) const fn csts(self) -> Csts {
        match self {
            Self::Disabled => Csts::new(false, false, 0),
            Self::Ready => Csts::new(true, false, 0),
            Self::ShuttingDown => Csts::new(true, false, 1),
            Self::ShutDown => Csts::new(true, false, 2),
            Self::Fatal => Csts::new(false, true, 0),
        }
    }
}

/// The properties that have state.
#[derive(Debug)]
pub(crate) struct Registers {
    pub(crate) cap: Cap,
    pub(crate) cc: Cc,
    pub(crate) phase: Phase,
}

impl Registers {
    /// What writing `cc` means here, CC still being the old one.
    pub(crate) const fn classify(&self, cc: Cc, kind: Kind) -> CcWrite {
        if self.cc.is_enabled() && !cc.is_enabled() {
            return CcWrite::Reset;
        }
        if self.cc.shn() == 0 && cc.shn() != 0 {
            return CcWrite::Shutdown;
        }
        // A controller that was shut down is enabled again by a write with EN still 1 only after a reset; an EN that was 0
        // when the shutdown came is a plain enable.
        if !self.cc.is_enabled() && cc.is_enabled() {
            return if Self::is_servable(cc, kind) {
                CcWrite::Enable
            } else {
                CcWrite::EnableUnsupported
            };
        }
        CcWrite::Nothing
    }

    /// Base 2.0c §3.1.3.5: the settings have to be among those CAP offers. Discovery hosts leave the entry sizes 0.
    const fn is_servable(cc: Cc, kind: Kind) -> bool {
        let common = cc.mps() == 0 && cc.ams() == 0;
        match kind {
            Kind::Discovery => common,
            Kind::Nvm => {
                common && matches!(cc.css(), 0 | 6 | 7) && cc.iosqes() == 6 && cc.iocqes() == 4
            }
        }
    }
}

/// The keep alive timer (Base 2.0c §3.9).
#[derive(Debug)]
pub(crate) struct KeepAlive {
    /// Timeout granted, in milliseconds; 0 when off.
    pub(crate) kato_ms: u32,
    /// When the association ends unless something arrives, `None` when off.
    pub(crate) deadline: Option<Instant>,
}

/// Idle time after which a discovery controller without keep alive is dropped (Base 2.0c §3.1.2.3.3: two minutes).
const DISCOVERY_IDLE: Duration = Duration::from_secs(120);

impl KeepAlive {
    pub(crate) fn new(kato_ms: u32, kind: Kind, now: Instant) -> Self {
        let mut timer = Self {
            kato_ms: Self::granted(kato_ms),
            deadline: None,
        };
        timer.restart(kind, now);
        timer
    }

    /// The timeout granted for `kato_ms`: rounded up to the granularity.
    pub(crate) fn granted(kato_ms: u32) -> u32 {
        kato_ms
            .checked_next_multiple_of(limits::KEEP_ALIVE_GRANULARITY_MS)
            .unwrap_or(u32::MAX - u32::MAX % limits::KEEP_ALIVE_GRANULARITY_MS)
    }

    pub(crate) fn restart(&mut self, kind: Kind, now: Instant) {
        let span = match (self.kato_ms, kind) {
            (0, Kind::Nvm) => None,
            (0, Kind::Discovery) => Some(DISCOVERY_IDLE),
            (ms, Kind::Nvm | Kind::Discovery) => Some(Duration::from_millis(u64::from(ms))),
        };
        self.deadline = span.and_then(|span| now.checked_add(span));
    }
}

/// The latest errors of a controller, newest first when read.
#[derive(Debug, Default)]
pub(crate) struct ErrorLog {
    entries: std::collections::VecDeque<ErrorLogEntry>,
    pub(crate) count: u64,
}

impl ErrorLog {
    pub(crate) fn push(&mut self, mut entry: ErrorLogEntry) {
        self.count += 1;
        entry.error_count = self.count;
        if self.entries.len() == limits::ERROR_LOG_ENTRIES {
            self.entries.pop_back();
        }
        self.entries.push_front(entry);
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &ErrorLogEntry> {
        self.entries.iter()
    }
}

impl Controller {
    /// Queue pairs of the controller that exist, admin first.
    pub(crate) fn qpairs(&self) -> impl Iterator<Item = u32> + '_ {
        core::iter::once(self.admin_qp)
            .chain(self.io_qps.iter().copied())
            .filter(|qp| *qp != NONE)
    }
}

#[cfg(test)]
mod tests;
