//! What peers bring about, in the log: so many lines of one kind a second, the rest as a sum.
//!
//! Anybody who reaches the port can open and close connections, and connect to discovery; the log must not be theirs to
//! fill, nor may their noise hide what hosts of subsystems do: kinds are told apart by what it takes to cause them.

use std::net::SocketAddr;

use nvme_spec::nqn::DISCOVERY_NQN;
use nvme_target::{ControllerEvent, ControllerEventKind};
use sdk::host::Host;

use super::Shard;

/// Lines of one kind a second.
pub(super) const LINES_PER_SECOND: u32 = 10;

/// Ends that every host brings about in good order.
const ORDERLY: [&str; 4] = [
    "closed_by_host",
    "host_request",
    "controller_reset",
    "admin_queue_gone",
];

impl Shard {
    /// Counts and logs the end of a connection.
    pub(super) fn count_closed(&mut self, peer: SocketAddr, reason: &'static str) {
        self.connections.count_closed(reason);
        if !self.log.admit(self.reactor.now(), reason) {
            return;
        }
        if ORDERLY.contains(&reason) {
            tracing::debug!(%peer, reason, "connection closed");
        } else {
            tracing::info!(%peer, reason, "connection closed");
        }
    }

    /// Logs that a host came or went.
    pub(super) fn log_controller(&mut self, event: &ControllerEvent) {
        let is_discovery = event.subnqn == DISCOVERY_NQN;
        if !self
            .log
            .admit(self.reactor.now(), kind_of(event.kind, is_discovery))
        {
            return;
        }
        let ControllerEvent {
            kind,
            subnqn,
            hostnqn,
            cntlid,
            ..
        } = event;
        match kind {
            ControllerEventKind::Connected => {
                tracing::info!(%subnqn, %hostnqn, cntlid, "host connected");
            }
            ControllerEventKind::Disconnected => {
                tracing::info!(%subnqn, %hostnqn, cntlid, "host disconnected");
            }
            ControllerEventKind::KeepAliveExpired => {
                tracing::warn!(%subnqn, %hostnqn, cntlid, "host sent no keep alive in time, disconnecting it");
            }
        }
    }

    /// Tells of what was not written.
    pub(super) fn log_summaries(&mut self) {
        while let Some((what, count)) = self.log.poll_summary(self.reactor.now()) {
            tracing::info!(what, count, "and as many more within a second");
        }
    }
}

const fn kind_of(kind: ControllerEventKind, is_discovery: bool) -> &'static str {
    match (kind, is_discovery) {
        (ControllerEventKind::Connected, false) => "host connected",
        (ControllerEventKind::Disconnected, false) => "host disconnected",
        (ControllerEventKind::KeepAliveExpired, false) => "no keep alive",
        (ControllerEventKind::Connected, true) => "host connected to discovery",
        (ControllerEventKind::Disconnected, true) => "host disconnected from discovery",
        (ControllerEventKind::KeepAliveExpired, true) => "no keep alive to discovery",
    }
}
