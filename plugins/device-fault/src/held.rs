//! Operations a queue holds back: delayed ones until their time, stuck ones until they are let go.
//!
//! Decides nothing about which to hold. Invariant: at most [`HELD_MAX`]; each is given back once, by
//! [`Held::take_due`] or [`Held::take_released`], or dropped with the queue.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use sdk::block::{IoResult, IoTag, Op};

use crate::limits::{HELD_MAX, LOOK_INTERVAL};
use crate::plan::{Plan, Verdict};
use crate::shared::later;

/// What becomes of an operation when it goes on.
#[derive(Debug)]
pub(crate) enum Next {
    /// It begins, under what is left of its verdict.
    Begin(Op, Verdict),
    /// It is answered; or, with a rule, its answer gets stuck.
    Answer(IoResult, Option<u32>),
}

/// An operation held back.
#[derive(Debug)]
pub(crate) struct Waiting {
    /// Whose it is.
    pub(crate) tag: IoTag,
    /// Its number in the plan.
    pub(crate) number: u64,
    /// The rule it is stuck by; a delayed one has none.
    pub(crate) rule: Option<u32>,
    /// What comes next.
    pub(crate) next: Next,
}

/// See the module documentation.
#[derive(Debug)]
pub(crate) struct Held {
    delayed: BTreeMap<(Instant, u64), Waiting>,
    stuck: Vec<Waiting>,
    look_at: Instant,
}

impl Held {
    /// Nothing held.
    pub(crate) fn new(now: Instant) -> Self {
        Self {
            delayed: BTreeMap::new(),
            stuck: Vec::new(),
            look_at: now,
        }
    }

    /// How many are held.
    pub(crate) fn len(&self) -> usize {
        self.delayed.len() + self.stuck.len()
    }

    /// Whether no more can be held.
    pub(crate) fn is_full(&self) -> bool {
        self.len() >= HELD_MAX
    }

    /// Holds an operation for `wait`, or, without, until it is let go.
    pub(crate) fn hold(&mut self, now: Instant, wait: Option<Duration>, waiting: Waiting) {
        if self.len() == 0 {
            self.look_at = later(now, LOOK_INTERVAL);
        }
        match wait {
            None => self.stuck.push(waiting),
            Some(wait) => {
                let at = (later(now, wait), waiting.number);
                self.delayed.insert(at, waiting);
            }
        }
    }

    /// When something is due, or it is time to look for commands.
    pub(crate) fn poll_timeout(&self) -> Option<Instant> {
        if self.len() == 0 {
            return None;
        }
        let due = self.delayed.keys().next().map(|(at, _)| *at);
        due.into_iter().chain([self.look_at]).min()
    }

    /// The next delayed operation whose time has come.
    pub(crate) fn take_due(&mut self, now: Instant) -> Option<Waiting> {
        let first = self.delayed.first_entry()?;
        (first.key().0 <= now).then(|| first.remove())
    }

    /// What the plan lets go, in the order in which it was held.
    pub(crate) fn take_released(&mut self, plan: &Plan) -> Vec<Waiting> {
        let is_free = |waiting: &mut Waiting| plan.is_released(waiting.number, waiting.rule);
        let mut free: Vec<Waiting> = self.stuck.extract_if(.., is_free).collect();
        let keys: Vec<(Instant, u64)> = self
            .delayed
            .iter()
            .filter(|(_, waiting)| plan.is_released(waiting.number, waiting.rule))
            .map(|(key, _)| *key)
            .collect();
        free.extend(keys.iter().filter_map(|key| self.delayed.remove(key)));
        free.sort_by_key(|waiting| waiting.number);
        free
    }

    /// It was looked for commands at `now`.
    pub(crate) fn looked(&mut self, now: Instant) {
        if self.look_at <= now {
            self.look_at = later(now, LOOK_INTERVAL);
        }
    }

    /// Drops everything, buffers and all, and returns how many that were.
    pub(crate) fn clear(&mut self) -> usize {
        let count = self.len();
        self.delayed.clear();
        self.stuck.clear();
        count
    }
}
