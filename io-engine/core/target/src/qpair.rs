//! One queue pair: one transport connection and the commands on it.

use std::time::Instant;

use crate::command::NONE;
use crate::config::TransportFacts;

/// What a connection is for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Role {
    /// No Connect so far, to be dropped at the given time.
    Fresh(Instant),
    /// Admin queue.
    Admin,
    /// I/O queue.
    Io,
    /// Told to close; nothing that arrives matters.
    Closing,
}

/// Progress of a fused pair on a queue (Base 2.0c §3.4.2).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Fused {
    /// None under way.
    Idle,
    /// This command is a first half whose second has not arrived.
    First(u32),
    /// The first half failed; the second, if it is next, fails with it.
    FirstFailed,
}

/// Rights of a host on a namespace, remembered under the namespace's access epoch.
#[derive(Clone, Copy, Debug)]
pub(crate) struct AccessCache {
    pub(crate) epoch: u64,
    pub(crate) may_read: bool,
    pub(crate) may_write: bool,
}

/// I/O served, for the health log.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct IoStats {
    pub(crate) reads: u64,
    pub(crate) writes: u64,
    pub(crate) bytes_read: u64,
    pub(crate) bytes_written: u64,
    pub(crate) media_errors: u64,
}

impl IoStats {
    pub(crate) fn add(&mut self, other: &Self) {
        self.reads += other.reads;
        self.writes += other.writes;
        self.bytes_read += other.bytes_read;
        self.bytes_written += other.bytes_written;
        self.media_errors += other.media_errors;
    }
}

#[derive(Debug)]
pub(crate) struct Qpair {
    pub(crate) role: Role,
    /// Whether the host keeps the submission queue head pointer in view.
    pub(crate) flow_control: bool,
    /// Whether a command arrived since the keep alive timer last looked.
    pub(crate) active: bool,
    pub(crate) qid: u16,
    /// Head pointer reported to the host: completed commands modulo `entries`.
    pub(crate) sqhd: u32,
    pub(crate) entries: u32,
    pub(crate) outstanding: u32,
    pub(crate) subsystem: u32,
    pub(crate) controller: u32,
    /// Its host in [`crate::hosts::Hosts`], [`NONE`] before Connect.
    pub(crate) host: u32,
    /// Head of the list of its commands.
    pub(crate) first: u32,
    pub(crate) fused: Fused,
    pub(crate) access: AccessCache,
    pub(crate) stats: IoStats,
    pub(crate) facts: Box<TransportFacts>,
}

impl Qpair {
    pub(crate) fn fresh(facts: TransportFacts, deadline: Instant) -> Self {
        Self {
            role: Role::Fresh(deadline),
            flow_control: true,
            active: false,
            qid: 0,
            sqhd: 0,
            // Room for the Connect command alone; its SQSIZE says the rest.
            entries: 2,
            outstanding: 0,
            subsystem: NONE,
            controller: NONE,
            host: NONE,
            first: NONE,
            fused: Fused::Idle,
            access: AccessCache {
                epoch: 0,
                may_read: false,
                may_write: false,
            },
            stats: IoStats::default(),
            facts: Box::new(facts),
        }
    }

    /// Accounts for one completion and answers the head pointer for it.
    #[inline]
    pub(crate) fn advance(&mut self) -> u16 {
        self.outstanding -= 1;
        self.sqhd += 1;
        if self.sqhd >= self.entries {
            self.sqhd = 0;
        }
        // Base 2.0c §6.3: with flow control off the field is reserved, but for Connect's own answer.
        if self.flow_control {
            self.sqhd as u16
        } else {
            0
        }
    }
}
