//! Claims: which engine holds the disks of a pool (`docs/disk-format.md` §4.2, §5).
//!
//! Decides whether a pool may be opened here, and notices when somebody else took it. On one machine the driver's exclusive open of each disk comes
//! first and is what counts; claims are for disks that more than one machine reaches. Does not wait by itself: time comes in.
//!
//! Invariants, with `BEAT_MS` < `HOLD_MS` < `WATCH_MS` and `BEAT_MS` < `SETTLE_MS`:
//! - A disk whose claim another host raises is refused; one whose claim stood still for `WATCH_MS` is taken.
//! - Who takes disks over from another host serves no sooner than `SETTLE_MS` later, and only if the claims are still its own: who held them has
//!   found out by its next heartbeat.
//! - Who could not confirm its claims for `HOLD_MS` hands out no request but those that confirm them.

use std::collections::BTreeMap;

use pool_format::{CLAIM_BLOCK, Claim, Uuid};

use crate::api::{Done, DoneResult, PoolError, Source, Status, Target};
use crate::device::{MISSING, Purpose};
use crate::flush::Waiter;
use crate::pool::{Op, Pool, Stop, Wait};

/// Between two heartbeats, in milliseconds.
const BEAT_MS: u64 = 1000;
/// Without a confirmed claim for so long nothing is handed out.
const HOLD_MS: u64 = 3 * BEAT_MS;
/// How long a claim has to stand still before it is taken from another host.
const WATCH_MS: u64 = 5 * BEAT_MS;
/// How long a claim taken from another host has to stay before the pool is served.
const SETTLE_MS: u64 = 2 * BEAT_MS;

const _: () = assert!(BEAT_MS < HOLD_MS && HOLD_MS + BEAT_MS < WATCH_MS && BEAT_MS < SETTLE_MS);

/// Who opens a pool.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Claimant {
    /// The host: the same after each start of the machine, another on each machine.
    pub host: Uuid,
    /// Another after each start of the machine.
    pub boot: Uuid,
    /// The process, not 0.
    pub pid: u32,
    /// The time of day when the pool's clock began, in seconds since 1970; goes into the claim for people to read.
    pub began_s: u64,
}

/// Who holds a disk.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Holder {
    /// The host.
    pub host: Uuid,
    /// The process.
    pub pid: u32,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Phase {
    /// Reading what is there.
    Read,
    /// Another host's claim is watched until then; counted from the next time that comes in.
    Watch(Option<u64>),
    /// Reading it again.
    Again,
    /// Writing.
    Write,
    /// Waiting before it counts.
    Settle(Option<u64>),
    /// Reading whether it is still there.
    Confirm,
    /// It is held; the next heartbeat is due.
    Held(Option<u64>),
    /// A heartbeat reads.
    BeatRead,
    /// A heartbeat writes.
    BeatWrite,
    /// Being given back.
    Release,
}

/// The claims of a pool's disks, by position in the driver's list.
pub(crate) struct Claims {
    me: Claimant,
    phase: Phase,
    found: BTreeMap<usize, Claim>,
    written: BTreeMap<usize, Claim>,
    counter: u64,
    outstanding: usize,
    has_failed: bool,
    has_asked: bool,
    /// Another host may be about to take the same disks.
    must_settle: bool,
    /// When the heartbeat in progress began.
    beat_ms: u64,
    /// When the claims were last known to be held.
    confirmed_ms: Option<u64>,
    /// The operation that gives the disks back.
    release: Option<u64>,
}

impl Claims {
    pub(crate) fn new(me: Claimant) -> Self {
        Self {
            me,
            phase: Phase::Read,
            found: BTreeMap::new(),
            written: BTreeMap::new(),
            counter: 0,
            outstanding: 0,
            has_failed: false,
            has_asked: false,
            must_settle: false,
            beat_ms: 0,
            confirmed_ms: None,
            release: None,
        }
    }

    /// A claim of another host that was not given back. On this host the driver's lock has decided already.
    fn is_foreign(&self) -> bool {
        let mut found = self.found.values();
        found.any(|claim| claim.host != self.me.host && claim.pid != 0)
    }

    /// What was written is there no more: somebody else's claim is.
    fn taken(&self) -> Option<Holder> {
        let mut found = self.found.iter();
        let other = found.find(|(disk, claim)| {
            // An older one of its own: the last was not written.
            let is_mine =
                (claim.host, claim.boot, claim.pid) == (self.me.host, self.me.boot, self.me.pid);
            let written = self.written.get(disk);
            !is_mine && written.is_some_and(|written| written != *claim)
        });
        other.map(|(_, claim)| Holder {
            host: claim.host,
            pid: claim.pid,
        })
    }
}

impl Pool {
    /// Reads or writes the claims of disks, by position in the driver's list.
    fn ask_claims(&mut self, disks: &[usize], is_write: bool, pid: u32) {
        let (uuid, now_ms) = (self.uuid, self.now_ms);
        let Some(claims) = &mut self.claims else {
            return;
        };
        if is_write {
            claims.counter += 1;
        } else {
            claims.found.clear();
        }
        for position in disks.iter().copied() {
            claims.outstanding += 1;
            let purpose = Purpose::Claim { position };
            if !is_write {
                self.devices
                    .read_claim((position, CLAIM_BLOCK), Target::Core, purpose);
                continue;
            }
            let claim = Claim {
                host: claims.me.host,
                boot: claims.me.boot,
                pid,
                counter: claims.counter,
                time_s: claims.me.began_s + now_ms / 1000,
            };
            claims.written.insert(position, claim);
            let bytes = Source::Core(claim.emit(&uuid));
            self.devices
                .write_claim((position, CLAIM_BLOCK), bytes, purpose);
        }
    }

    pub(crate) fn handle_claim(&mut self, position: usize, result: DoneResult) {
        let uuid = self.uuid;
        let Some(claims) = &mut self.claims else {
            return;
        };
        claims.outstanding -= 1;
        match result {
            Ok(Done::Bytes(bytes)) => {
                // One that is torn or unreadable says nothing, and is written again.
                if let Ok(claim) = Claim::parse(&bytes, &uuid) {
                    claims.counter = claims.counter.max(claim.counter);
                    claims.found.insert(position, claim);
                }
            }
            Ok(Done::Nothing | Done::Crcs(_) | Done::Merged { .. }) => {}
            Err(_) => claims.has_failed |= claims.phase == Phase::Write,
        }
        if let Some(op) = claims.release {
            self.resume(op);
        }
        self.again = true;
    }

    /// Takes the claims on the disks of a pool being opened; answers whether they are held.
    ///
    /// # Errors
    /// `Held` with the holder's name; `Device` when a claim cannot be written.
    pub(crate) fn step_claims(&mut self, disks: &[usize]) -> Result<bool, PoolError> {
        let Some(claims) = &mut self.claims else {
            return Ok(true);
        };
        if claims.outstanding > 0 {
            return Ok(false);
        }
        let pid = claims.me.pid;
        match claims.phase {
            Phase::Read if !claims.has_asked => {
                claims.has_asked = true;
                self.ask_claims(disks, false, pid);
            }
            Phase::Read => {
                let host = claims.me.host;
                let is_own = claims.found.values().all(|claim| claim.host == host);
                claims.must_settle = claims.found.is_empty() || !is_own;
                if claims.is_foreign() {
                    claims.written = claims.found.clone();
                    claims.phase = Phase::Watch(None);
                } else {
                    claims.phase = Phase::Write;
                    self.ask_claims(disks, true, pid);
                }
            }
            Phase::Watch(Some(until)) if self.now_ms >= until => {
                claims.phase = Phase::Again;
                self.ask_claims(disks, false, pid);
            }
            Phase::Again => {
                if let Some(holder) = claims.taken().filter(|holder| holder.pid != 0) {
                    return Err(PoolError::Held(holder));
                }
                claims.phase = Phase::Write;
                self.ask_claims(disks, true, pid);
            }
            Phase::Write if claims.has_failed => return Err(PoolError::Device),
            Phase::Write if claims.must_settle => claims.phase = Phase::Settle(None),
            Phase::Write => {
                claims.phase = Phase::Held(None);
                return Ok(true);
            }
            Phase::Settle(Some(until)) if self.now_ms >= until => {
                claims.phase = Phase::Confirm;
                self.ask_claims(disks, false, pid);
            }
            Phase::Confirm => {
                if let Some(holder) = claims.taken() {
                    return Err(PoolError::Held(holder));
                }
                claims.phase = Phase::Held(None);
                return Ok(true);
            }
            Phase::Watch(_) | Phase::Settle(_) => {}
            Phase::Held(_) | Phase::BeatRead | Phase::BeatWrite | Phase::Release => {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Time came in: waits count from here, heartbeats become due, and what was not confirmed for too long holds everything back.
    pub(crate) fn time_claims(&mut self) {
        let now_ms = self.now_ms;
        let Some(claims) = &mut self.claims else {
            return;
        };
        match &mut claims.phase {
            Phase::Watch(until) => {
                until.get_or_insert(now_ms + WATCH_MS);
            }
            Phase::Settle(until) => {
                until.get_or_insert(now_ms + SETTLE_MS);
            }
            Phase::Held(due) => {
                due.get_or_insert(now_ms + BEAT_MS);
            }
            Phase::Read
            | Phase::Again
            | Phase::Write
            | Phase::Confirm
            | Phase::BeatRead
            | Phase::BeatWrite
            | Phase::Release => {}
        }
        if self.status == Status::Ready {
            let confirmed = *claims.confirmed_ms.get_or_insert(now_ms);
            if now_ms - confirmed > HOLD_MS {
                self.devices.is_held = true;
            }
        }
    }

    /// Positions of the disks of an open pool.
    fn positions(&self) -> Vec<usize> {
        let order = self.devices.order.iter().copied();
        order.filter(|position| *position != MISSING).collect()
    }

    /// Goes on with a heartbeat: read, compared with what was written last, written anew.
    pub(crate) fn step_beat(&mut self) {
        let is_due = self
            .claims
            .as_ref()
            .is_some_and(|claims| match claims.phase {
                Phase::Held(Some(due)) => self.now_ms >= due,
                Phase::BeatRead | Phase::BeatWrite => claims.outstanding == 0,
                Phase::Read
                | Phase::Watch(_)
                | Phase::Again
                | Phase::Write
                | Phase::Settle(_)
                | Phase::Confirm
                | Phase::Held(None)
                | Phase::Release => false,
            });
        if !is_due {
            return;
        }
        let disks = self.positions();
        let Some(claims) = &mut self.claims else {
            return;
        };
        let pid = claims.me.pid;
        match claims.phase {
            Phase::Held(_) => {
                claims.phase = Phase::BeatRead;
                claims.beat_ms = self.now_ms;
                self.ask_claims(&disks, false, pid);
            }
            Phase::BeatRead => match claims.taken() {
                Some(holder) => {
                    // Not one request more: they are somebody else's disks.
                    self.devices.stop();
                    self.status = Status::Failed(PoolError::Held(holder));
                    self.again = true;
                }
                None => {
                    claims.phase = Phase::BeatWrite;
                    self.ask_claims(&disks, true, pid);
                }
            },
            Phase::BeatWrite => {
                claims.confirmed_ms = Some(claims.beat_ms);
                claims.phase = Phase::Held(Some(claims.beat_ms + BEAT_MS));
                self.devices.is_held = false;
            }
            Phase::Read
            | Phase::Watch(_)
            | Phase::Again
            | Phase::Write
            | Phase::Settle(_)
            | Phase::Confirm
            | Phase::Release => {}
        }
    }

    /// Gives the disks back: all is flushed, then the claims say so. The pool takes nothing more.
    pub(crate) fn step_release(&mut self, id: u64, op: &mut Op) -> Result<crate::Answer, Stop> {
        if op.cursor == 0 {
            op.cursor = 1;
            self.flushes.want(Waiter::Op(id));
        }
        if !op.is_flushed {
            return Err(Wait::Own.into());
        }
        let disks = self.positions();
        if let Some(claims) = &mut self.claims {
            claims.release = Some(id);
            if claims.outstanding > 0 {
                return Err(Wait::Own.into());
            }
            if claims.phase != Phase::Release {
                claims.phase = Phase::Release;
                self.ask_claims(&disks, true, 0);
                return Err(Wait::Own.into());
            }
        }
        self.claims = None;
        self.status = Status::Failed(PoolError::Released);
        Ok(crate::Answer::Done)
    }
}
