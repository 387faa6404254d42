//! The plan: the rules of a device, and what they say about each operation.
//!
//! Pure and deterministic: the same rules, operations and times give the same verdicts. No clock (time is handed in as a
//! duration since any fixed start), no I/O; carrying a verdict out is the queue's business.
//!
//! How an operation is judged, rule by rule in the order in which they were added:
//! 1. Is it for the rule: kind, blocks, durability, time? If not, the rule has not seen it.
//! 2. It is counted as seen. The first `skip` of those pass, as do all once `count` have hit; of the others each hits
//!    with the rule's probability, drawn from its seed and the number of the operation among those seen.
//! 3. All delays that hit add up. Of the other faults the first that hits is the one; rules for other faults behind it do
//!    not see the operation.
//!
//! Invariants: at most [`RULES_MAX`] rules; numbers are never used twice; a rule's draws depend on nothing but its seed
//! and its own count.

use std::fmt::Write as _;
use std::time::Duration;

use units::BlockRange;

use crate::draw::{Purpose, draw};
use crate::limits::RULES_MAX;
use crate::rule::{Fault, OpKind, Rule, Stage};

/// An operation, as far as rules look at it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Ask {
    /// Its kind.
    pub(crate) kind: OpKind,
    /// Its blocks; a flush has none.
    pub(crate) range: Option<BlockRange>,
    /// Whether it must be durable when it completes.
    pub(crate) fua: bool,
}

/// The fault that hit an operation.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Hit {
    /// Number of the rule.
    pub(crate) rule: u32,
    /// What it does.
    pub(crate) fault: Fault,
    /// Blocks of the operation that are in the rule's range.
    pub(crate) blocks: BlockRange,
    /// Seed of the rule.
    pub(crate) seed: u64,
}

/// What the rules say about an operation.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) struct Verdict {
    /// How long it waits before the device below gets it.
    pub(crate) delay_submit: Duration,
    /// How long its answer waits.
    pub(crate) delay_complete: Duration,
    /// What else happens to it.
    pub(crate) hit: Option<Hit>,
}

/// A rule with what became of it.
#[derive(Debug)]
struct Entry {
    id: u32,
    rule: Rule,
    seed: u64,
    /// Time of the first operation the device was given since the rule is there.
    started: Option<Duration>,
    seen: u64,
    hits: u64,
    /// Operations held with a number up to this one may go on.
    released: u64,
}

/// See the module documentation.
#[derive(Debug)]
pub(crate) struct Plan {
    seed: u64,
    entries: Vec<Entry>,
    last_id: u32,
    /// Operations ever held; each has its number.
    held: u64,
    /// Operations held with a number up to this one may go on, whatever holds them.
    released: u64,
}

/// There are [`RULES_MAX`] rules.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct TooManyRules;

impl Plan {
    /// A plan without rules.
    pub(crate) fn new(seed: u64) -> Self {
        Self {
            seed,
            entries: Vec::new(),
            last_id: 0,
            held: 0,
            released: 0,
        }
    }

    /// Whether there are no rules.
    pub(crate) fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Adds a rule behind the others and returns its number, from 1 up.
    ///
    /// # Errors
    /// [`TooManyRules`].
    pub(crate) fn add(&mut self, rule: Rule) -> Result<u32, TooManyRules> {
        if self.entries.len() >= RULES_MAX {
            return Err(TooManyRules);
        }
        let id = self.last_id.checked_add(1).ok_or(TooManyRules)?;
        self.last_id = id;
        let own = draw(self.seed, Purpose::RuleSeed, u64::from(id));
        self.entries.push(Entry {
            id,
            seed: rule.seed.unwrap_or(own),
            rule,
            started: None,
            seen: 0,
            hits: 0,
            released: 0,
        });
        Ok(id)
    }

    /// Removes a rule; `false` if there is none of that number.
    pub(crate) fn remove(&mut self, id: u32) -> bool {
        let before = self.entries.len();
        self.entries.retain(|entry| entry.id != id);
        self.entries.len() < before
    }

    /// Removes the rules made from this `inject://` URI and returns how many.
    pub(crate) fn remove_injected(&mut self, uri: &str) -> usize {
        let before = self.entries.len();
        self.entries
            .retain(|entry| entry.rule.inject.as_deref() != Some(uri));
        before - self.entries.len()
    }

    /// Removes every rule and returns how many there were.
    pub(crate) fn clear(&mut self) -> usize {
        let count = self.entries.len();
        self.entries.clear();
        count
    }

    /// What the rules say about an operation given to the device at `now`.
    pub(crate) fn judge(&mut self, ask: Ask, now: Duration) -> Verdict {
        let mut verdict = Verdict::default();
        for entry in &mut self.entries {
            let started = *entry.started.get_or_insert(now);
            let is_delay = matches!(entry.rule.fault, Fault::Delay { .. });
            if !is_delay && verdict.hit.is_some() {
                continue;
            }
            let Some(blocks) = entry.covers(ask, now.saturating_sub(started)) else {
                continue;
            };
            if !entry.strikes() {
                continue;
            }
            match entry.rule.fault {
                Fault::Delay {
                    base,
                    jitter,
                    stage,
                } => {
                    let wait = base + entry.jitter(jitter);
                    match stage {
                        Stage::Submit => verdict.delay_submit += wait,
                        Stage::Complete => verdict.delay_complete += wait,
                    }
                }
                Fault::Error { .. }
                | Fault::Torn { .. }
                | Fault::Lose { .. }
                | Fault::Misdirect { .. }
                | Fault::Rot(_)
                | Fault::Stuck { .. } => {
                    verdict.hit = Some(Hit {
                        rule: entry.id,
                        fault: entry.rule.fault,
                        blocks,
                        seed: entry.seed,
                    });
                }
            }
        }
        verdict
    }

    /// A number for an operation that is held from here on; none if the rule that was to hold it is gone.
    pub(crate) fn hold(&mut self, rule: Option<u32>) -> Option<u64> {
        if let Some(id) = rule
            && !self.entries.iter().any(|entry| entry.id == id)
        {
            return None;
        }
        self.held += 1;
        Some(self.held)
    }

    /// Lets go what is held so far: all of it, or what a rule holds. `false` if there is no such rule.
    pub(crate) fn release(&mut self, id: Option<u32>) -> bool {
        match id {
            None => self.released = self.held,
            Some(id) => match self.entries.iter_mut().find(|entry| entry.id == id) {
                None => return false,
                Some(entry) => entry.released = self.held,
            },
        }
        true
    }

    /// Whether an operation held under `number` may go on: it was let go, or the rule that holds it is gone.
    pub(crate) fn is_released(&self, number: u64, rule: Option<u32>) -> bool {
        if number <= self.released {
            return true;
        }
        rule.is_some_and(|id| {
            let entry = self.entries.iter().find(|entry| entry.id == id);
            entry.is_none_or(|entry| number <= entry.released)
        })
    }

    /// One line a rule: number, text, how often it saw and hit.
    pub(crate) fn describe(&self) -> String {
        let mut text = String::new();
        for entry in &self.entries {
            let from = entry.rule.inject.as_ref();
            let from = from.map_or(String::new(), |uri| format!(" from {uri}"));
            // Writing to a string does not fail.
            let _ = writeln!(
                text,
                "rule {}: {} seen={} hits={}{from}",
                entry.id, entry.rule, entry.seen, entry.hits
            );
        }
        text
    }
}

impl Entry {
    /// The blocks of an operation the rule is for, `elapsed` after the rule's start; `None` if it is not for it.
    fn covers(&self, ask: Ask, elapsed: Duration) -> Option<BlockRange> {
        let rule = &self.rule;
        let in_time = elapsed >= rule.from && rule.until.is_none_or(|until| elapsed < until);
        let durable = matches!(rule.fault, Fault::Lose { fua: false }) && ask.fua;
        if !in_time || durable || !rule.ops.contains(ask.kind) {
            return None;
        }
        match (rule.range, ask.range) {
            (None, range) => Some(range.unwrap_or(BlockRange::new(0, 0))),
            (Some(_), None) => None,
            (Some(rule), Some(range)) => common(rule, range),
        }
    }

    /// Counts an operation the rule is for; whether it hits.
    fn strikes(&mut self) -> bool {
        self.seen = self.seen.saturating_add(1);
        if self.seen <= self.rule.skip || self.rule.count.is_some_and(|count| self.hits >= count) {
            return false;
        }
        let drawn = draw(self.seed, Purpose::Chance, self.seen) % 1_000_000;
        let hits = drawn < u64::from(self.rule.chance_ppm);
        self.hits += u64::from(hits);
        hits
    }

    fn jitter(&self, most: Duration) -> Duration {
        let most_us = most.as_micros() as u64;
        Duration::from_micros(draw(self.seed, Purpose::Jitter, self.seen) % (most_us + 1))
    }
}

/// The blocks two ranges share, at least one.
pub(crate) fn common(a: BlockRange, b: BlockRange) -> Option<BlockRange> {
    let start = a.start.0.max(b.start.0);
    let end = a.end()?.0.min(b.end()?.0);
    (start < end).then(|| BlockRange::new(start, end - start))
}

#[cfg(test)]
mod tests;
