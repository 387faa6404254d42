//! How connections end: at once, or after their last words; and those of hosts that stall.
//!
//! A connection that still has something to say (an answer, the terminate request) lingers: it sends that, ends the stream,
//! and takes in what its host had sent meanwhile, so that the kernel does not answer unread bytes with a reset that
//! overtakes those last words. It ends with the host's end of the stream, [`DRAIN_BYTES_MAX`], or [`LINGER`].

use std::io::IoSliceMut;
use std::time::{Duration, Instant};

use nvme_tcp::limits::PROGRESS_LOOK;
use sdk::fabric::FabricEvent;
use sdk::host::{Host, StreamError};

use crate::fabric::TcpFabric;

/// How long a connection that is being closed may take to deliver what it still has to say.
const LINGER: Duration = Duration::from_secs(1);
/// Bytes taken in while a connection lingers before it is closed regardless: more than the 6 MiB Linux receives ahead by
/// default, which is what a host may have sent before it could hear of its end.
const DRAIN_BYTES_MAX: usize = 8 << 20;

/// A connection that lingers.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Ending {
    /// Everything was sent and the stream ended.
    is_sent: bool,
    /// Bytes taken in since.
    drained: usize,
}

impl TcpFabric {
    /// Ends a connection for a reason of its own; what it has to say is still sent.
    pub(crate) fn fail(&mut self, host: &mut dyn Host, slot: usize, reason: &'static str) {
        if let Some(connection) = self.connections.get(slot) {
            self.shared.events.push_back(FabricEvent::Closed {
                conn: connection.id,
                reason,
            });
            self.linger(host, slot);
        }
    }

    /// Ends a connection once it has sent what is queued.
    pub(crate) fn linger(&mut self, host: &mut dyn Host, slot: usize) {
        let Some(connection) = self.connections.get_mut(slot) else {
            return;
        };
        self.shared.half_received -= connection.half_received();
        self.shared.kept -= connection.kept();
        connection.stop_receiving();
        if !connection.core.has_transmit() {
            self.drop_connection(host, slot);
            return;
        }
        connection.ending = Some(Ending::default());
        self.lingering
            .push_back((host.now() + LINGER, connection.id));
        Self::mark_dirty(&mut self.shared, slot, connection);
        host.pause_stream(connection.stream, false);
    }

    pub(crate) fn is_ending(&self, slot: usize) -> bool {
        self.connections
            .get(slot)
            .is_some_and(|connection| connection.ending.is_some())
    }

    /// The last words of a connection are with the kernel.
    pub(crate) fn end(&mut self, host: &mut dyn Host, slot: usize) {
        let Some(connection) = self.connections.get_mut(slot) else {
            return;
        };
        if let Some(ending) = &mut connection.ending {
            ending.is_sent = true;
        }
        host.end_stream(connection.stream);
        self.drain(host, slot);
    }

    /// Takes in what the host of a lingering connection sent, for nothing.
    pub(crate) fn drain(&mut self, host: &mut dyn Host, slot: usize) {
        let Some(connection) = self.connections.get_mut(slot) else {
            return;
        };
        let Some(ending) = &mut connection.ending else {
            return;
        };
        let mut sink = [IoSliceMut::new(&mut self.shared.staging)];
        let is_over = match host.recv(connection.stream, &mut sink) {
            Ok(received) => {
                ending.drained += received;
                ending.drained > DRAIN_BYTES_MAX
            }
            Err(StreamError::WouldBlock) => false,
            // A host that only ended its own sending may still read.
            Err(StreamError::Closed) => ending.is_sent,
            Err(StreamError::Failed(_)) => true,
        };
        if is_over {
            self.drop_connection(host, slot);
        }
    }

    pub(crate) fn drop_connection(&mut self, host: &mut dyn Host, slot: usize) {
        let Some(mut connection) = self.connections.try_remove(slot) else {
            return;
        };
        connection.clear();
        self.by_stream[(connection.stream.0 & 0xffff_ffff) as usize] = None;
        host.close_stream(connection.stream);
    }

    /// Time between two looks at hosts that owe bytes.
    pub(crate) fn look_period(&self) -> Duration {
        self.config.progress_timeout.min(PROGRESS_LOOK)
    }

    /// Looks at every watched connection, and ends those whose hosts have stalled.
    pub(crate) fn look_at_progress(&mut self, host: &mut dyn Host) {
        let now: Instant = host.now();
        let mut watched = std::mem::take(&mut self.shared.watched);
        watched.retain(|conn| {
            let Some(connection) = self.open(*conn) else {
                return false;
            };
            match connection.look_at_progress(now) {
                Ok(is_owed) => {
                    connection.is_watched = is_owed;
                    is_owed
                }
                Err(reason) => {
                    // Nobody would read a terminate request behind what is queued.
                    connection.clear();
                    self.fail(host, conn.slot(), reason);
                    false
                }
            }
        });
        self.look_at = (!watched.is_empty()).then(|| now + self.look_period());
        self.shared.watched = watched;
    }
}
