//! One queue of a load: which identifiers are free, what each command in flight is about, and what comes next.

use super::{LoadError, LoadOptions, Pattern, Phase};
use crate::connection::Connection;
use crate::report::Interval;
use crate::session::{Session, completion};
use crate::verify::{Corruption, Map};
use nvme_initiator::command;
use nvme_spec::Cqe;
use nvme_spec::opcode::nvm;
use nvme_tcp::{CommandData, HostEvent};
use std::num::NonZeroU32;
use std::time::{Duration, Instant};

/// Attempts to find a unit without an I/O in flight, in verify mode.
const ATTEMPTS_MAX: u32 = 64;

/// What all queues share: geometry, choice of the next I/O, and counters.
pub(super) struct Work {
    nsid: u32,
    pub(super) namespace_block_len: usize,
    /// Bytes of the whole namespace.
    pub(super) namespace_bytes: u64,
    pub(super) unit_blocks: u32,
    pub(super) units: u64,
    block_len: u32,
    in_capsule_max: u32,
    pattern: Pattern,
    read_percent: u8,
    random: u64,
    pub(super) pace: Option<Pace>,
    pub(super) map: Option<Map>,
    /// Next unit to check at the end, and units whose check was lost with a connection.
    check_next: u64,
    check_again: Vec<u64>,
    pub(super) interval: Interval,
    pub(super) errors: u64,
    pub(super) first_error: Option<(u8, Cqe)>,
    pub(super) verified: u64,
    pub(super) corruptions: u64,
    pub(super) first_corruption: Option<Corruption>,
}

/// A fixed rate: when the next I/O is due.
pub(super) struct Pace {
    every: Duration,
    next: Instant,
}

impl Pace {
    fn new(now: Instant, rate: NonZeroU32) -> Self {
        Self {
            every: Duration::from_secs(1) / rate.get(),
            next: now,
        }
    }

    /// Time until the next I/O is due.
    pub(super) fn due(&self, now: Instant) -> Duration {
        self.next.saturating_duration_since(now)
    }

    /// Takes the next I/O if it is due; gives when it was.
    fn take(&mut self, now: Instant) -> Option<Instant> {
        let due = self.next;
        if due > now {
            return None;
        }
        self.next += self.every;
        Some(due)
    }
}

/// The I/O chosen next.
#[derive(Clone, Copy, Debug)]
struct Choice {
    unit: u64,
    is_read: bool,
}

#[derive(Clone, Copy, Debug)]
struct Slot {
    started: Instant,
    unit: u64,
    generation: u32,
    is_read: bool,
}

/// One queue.
pub(super) struct Lane {
    /// By command identifier.
    slots: Vec<Option<Slot>>,
    free: Vec<u16>,
    sequence: u64,
    pub(super) events: Vec<HostEvent>,
}

impl Work {
    pub(super) fn new(options: &LoadOptions, session: &Session) -> Result<Self, LoadError> {
        let controller = session.initiator().controller();
        let mut namespaces = session.initiator().namespaces().iter();
        let namespace = match options.nsid {
            Some(nsid) => namespaces.find(|namespace| namespace.nsid == nsid),
            None => namespaces.next(),
        };
        let namespace = namespace.ok_or(LoadError::NamespaceUnknown)?;
        let block_len = u64::from(options.block_len);
        let namespace_block_len = u64::from(namespace.block_len);
        let whole = namespace.blocks.saturating_mul(namespace_block_len);
        let range = options.range.map_or(whole, |range| range.min(whole));
        let fits = block_len > 0
            && block_len.is_multiple_of(namespace_block_len)
            && controller.transfer_max.is_none_or(|max| block_len <= max)
            && range >= block_len;
        if !fits {
            return Err(LoadError::BlockSizeUnfit);
        }
        Ok(Self {
            nsid: namespace.nsid,
            namespace_block_len: namespace.block_len as usize,
            namespace_bytes: whole,
            unit_blocks: options.block_len / namespace.block_len,
            units: range / block_len,
            block_len: options.block_len,
            in_capsule_max: controller.in_capsule_max,
            pattern: options.pattern,
            read_percent: options.pattern.read_percent(options.mix),
            random: options.seed | 1,
            pace: options.rate.map(|rate| Pace::new(Instant::now(), rate)),
            map: None,
            check_next: 0,
            check_again: Vec::new(),
            interval: Interval::default(),
            errors: 0,
            first_error: None,
            verified: 0,
            corruptions: 0,
            first_corruption: None,
        })
    }

    /// Xorshift64*: good enough for addresses, and a few cycles.
    #[inline]
    fn random(&mut self) -> u64 {
        self.random ^= self.random >> 12;
        self.random ^= self.random << 25;
        self.random ^= self.random >> 27;
        self.random.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    /// A number below `bound`, from the upper bits.
    #[inline]
    fn below(&mut self, bound: u64) -> u64 {
        ((u128::from(self.random()) * u128::from(bound)) >> 64) as u64
    }

    pub(super) fn fill_noise(&mut self, buffer: &mut [u8]) {
        for word in buffer.chunks_mut(8) {
            let random = self.random().to_le_bytes();
            word.copy_from_slice(&random[..word.len()]);
        }
    }

    pub(super) fn is_checked(&self) -> bool {
        self.check_next == self.units && self.check_again.is_empty()
    }

    /// When the next I/O begins, if it may at `now`. Only the load has a pace, not the check of what it wrote.
    #[inline]
    fn begin(&mut self, now: Instant, phase: Phase) -> Option<Instant> {
        match (&mut self.pace, phase) {
            (Some(pace), Phase::WarmUp | Phase::Measure) => pace.take(now),
            (None, _) | (_, Phase::Drain | Phase::Check | Phase::Done) => Some(now),
        }
    }

    #[inline]
    fn choose(&mut self, phase: Phase, sequence: &mut u64) -> Option<Choice> {
        match phase {
            Phase::WarmUp | Phase::Measure => {}
            Phase::Check => return self.choose_check(),
            Phase::Drain | Phase::Done => return None,
        }
        for _ in 0..ATTEMPTS_MAX {
            let unit = if self.pattern.is_random() {
                self.below(self.units)
            } else {
                let unit = *sequence;
                *sequence = if unit + 1 == self.units { 0 } else { unit + 1 };
                unit
            };
            let mut is_read = match self.read_percent {
                100 => true,
                0 => false,
                percent => self.below(100) < u64::from(percent),
            };
            if let Some(map) = &self.map {
                if map.is_busy(unit) {
                    continue;
                }
                // A read proves something only where a write was acknowledged; others write first.
                is_read = is_read && (map.is_written(unit) || self.read_percent == 100);
            }
            return Some(Choice { unit, is_read });
        }
        None
    }

    fn choose_check(&mut self) -> Option<Choice> {
        let map = self.map.as_ref()?;
        let is_read = true;
        if let Some(unit) = self.check_again.pop() {
            return Some(Choice { unit, is_read });
        }
        while self.check_next < self.units {
            let unit = self.check_next;
            self.check_next += 1;
            if map.is_written(unit) {
                return Some(Choice { unit, is_read });
            }
        }
        None
    }
}

impl Lane {
    pub(super) fn new(depth: u32, sequence: u64) -> Self {
        Self {
            slots: vec![None; depth as usize],
            free: (0..depth as u16).rev().collect(),
            sequence,
            events: Vec::with_capacity(depth as usize + 8),
        }
    }

    pub(super) fn depth(&self) -> u32 {
        self.slots.len() as u32
    }

    pub(super) fn in_flight(&self) -> usize {
        self.slots.len() - self.free.len()
    }

    pub(super) fn is_overdue(&self, now: Instant, timeout: Duration) -> bool {
        let mut slots = self.slots.iter().flatten();
        slots.any(|slot| now.saturating_duration_since(slot.started) > timeout)
    }

    /// Takes completions and fills the queue up again.
    #[inline]
    pub(super) fn turn(
        &mut self,
        now: Instant,
        phase: Phase,
        connection: &mut Connection,
        work: &mut Work,
    ) {
        let mut events = core::mem::take(&mut self.events);
        for event in events.drain(..) {
            self.complete(now, phase, connection, work, event);
        }
        self.events = events;
        while let Some(cid) = self.free.pop() {
            let Some(started) = work.begin(now, phase) else {
                self.free.push(cid);
                return;
            };
            let Some(choice) = work.choose(phase, &mut self.sequence) else {
                self.free.push(cid);
                return;
            };
            self.submit(started, connection, work, cid, choice);
        }
    }

    #[inline]
    fn submit(
        &mut self,
        started: Instant,
        connection: &mut Connection,
        work: &mut Work,
        cid: u16,
        choice: Choice,
    ) {
        let Choice { unit, is_read } = choice;
        let slba = unit * u64::from(work.unit_blocks);
        let mut slot = Slot {
            started,
            unit,
            generation: 0,
            is_read,
        };
        let len = work.block_len;
        let (sqe, data) = if is_read {
            if let Some(map) = &mut work.map {
                map.begin_read(unit);
            }
            let sqe = command::read(cid, work.nsid, slba, work.unit_blocks);
            (sqe, CommandData::Read(len))
        } else {
            if let Some(map) = &mut work.map {
                let buffer = &mut connection.buffer_mut(cid)[..len as usize];
                slot.generation = map.begin_write(unit, buffer);
            }
            let sqe = command::write(cid, work.nsid, slba, work.unit_blocks, false);
            let data = if len <= work.in_capsule_max {
                CommandData::InCapsule(len)
            } else {
                CommandData::Write(len)
            };
            (sqe, data)
        };
        self.slots[usize::from(cid)] = Some(slot);
        connection.submit(&sqe, data);
    }

    #[inline]
    fn complete(
        &mut self,
        now: Instant,
        phase: Phase,
        connection: &Connection,
        work: &mut Work,
        event: HostEvent,
    ) {
        let Some((cqe, data_len, data_ok)) = completion(event) else {
            return;
        };
        let slot = self.slots.get_mut(usize::from(cqe.cid));
        let Some(slot) = slot.and_then(Option::take) else {
            return;
        };
        self.free.push(cqe.cid);
        let whole = !slot.is_read || data_len == work.block_len as usize;
        if !cqe.status.is_success() || !data_ok || !whole {
            work.errors += 1;
            let opcode = if slot.is_read { nvm::READ } else { nvm::WRITE };
            work.first_error.get_or_insert((opcode, cqe));
            if let Some(map) = &mut work.map {
                map.abandon(slot.unit);
            }
            return;
        }
        if let Some(map) = &mut work.map {
            if slot.is_read {
                let checked = map.is_written(slot.unit);
                let outcome = map.end_read(slot.unit, &connection.buffer(cqe.cid)[..data_len]);
                work.verified += u64::from(checked);
                if let Err(corruption) = outcome {
                    work.corruptions += 1;
                    work.first_corruption.get_or_insert(corruption);
                }
            } else {
                map.write_acked(slot.unit, slot.generation);
            }
        }
        if phase == Phase::Measure {
            let latency = now.saturating_duration_since(slot.started);
            work.interval.latency.record(latency);
            work.interval.reads += u64::from(slot.is_read);
            work.interval.writes += u64::from(!slot.is_read);
        }
    }

    /// The connection is lost with everything in flight.
    pub(super) fn abandon(&mut self, work: &mut Work) {
        let Some(map) = &mut work.map else {
            return;
        };
        for slot in self.slots.iter_mut().filter_map(Option::take) {
            map.abandon(slot.unit);
            if slot.is_read {
                work.check_again.push(slot.unit);
            }
        }
    }
}
