//! Flush runs: close the journal, write it, flush every dirty disk (`docs/disk-format.md` §5).
//!
//! Invariant: who asked before a run closed the journal is served by it; who asked later, by the next.

use crate::api::{DoneResult, Mutation, Source};
use crate::device::{MISSING, Purpose};
use crate::pool::{Pool, Wait};

/// Who waits for a flush.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Waiter {
    /// A host operation.
    Op(u64),
    /// The checkpoint.
    Checkpoint,
    /// The seal in progress.
    Seal,
    /// The pool being opened.
    Open,
}

struct Run {
    target: u64,
    /// `None` while journal blocks are being written, then the flushes outstanding.
    flushing: Option<usize>,
    waiters: Vec<Waiter>,
}

#[derive(Default)]
pub(crate) struct Flushes {
    run: Option<Run>,
    next: Vec<Waiter>,
    durable: u64,
    settled: u64,
    /// When the last run began, in milliseconds.
    pub(crate) begun_ms: u64,
}

impl Flushes {
    /// Asks for a flush.
    pub(crate) fn want(&mut self, waiter: Waiter) {
        self.next.push(waiter);
    }

    /// Asks for runs until the journal block is durable.
    pub(crate) fn want_durable(&mut self, sequence: u64) {
        self.durable = self.durable.max(sequence);
    }

    /// Asks for runs until the journal block is settled.
    pub(crate) fn want_settled(&mut self, sequence: u64) {
        self.settled = self.settled.max(sequence);
    }

    pub(crate) fn is_running(&self) -> bool {
        self.run.is_some()
    }

    pub(crate) fn is_idle(&self) -> bool {
        self.run.is_none() && self.next.is_empty()
    }
}

impl Pool {
    /// Begins a run that is wanted, and moves the current one on.
    pub(crate) fn step_flush(&mut self) {
        let wants_settled = self.journal.settled < self.flushes.settled && self.journal.room() > 2;
        let wants_durable = self.journal.durable < self.flushes.durable;
        if self.flushes.run.is_none()
            && (!self.flushes.next.is_empty() || wants_settled || wants_durable)
        {
            if self.journal.is_filling() || wants_settled {
                self.journal.close();
            }
            self.flushes.begun_ms = self.now_ms;
            self.flushes.run = Some(Run {
                target: self.journal.next - 1,
                flushing: None,
                waiters: std::mem::take(&mut self.flushes.next),
            });
        }
        self.write_journal();
        let target = self
            .flushes
            .run
            .as_ref()
            .filter(|run| run.flushing.is_none())
            .map(|run| run.target);
        if target.is_some_and(|target| self.journal.is_written(target)) {
            self.flush_devices();
        }
    }

    fn flush_devices(&mut self) {
        let disks = self.devices.is_dirty.len().min(self.disks_in_use());
        let Some(run) = &mut self.flushes.run else {
            return;
        };
        let is_host = run
            .waiters
            .iter()
            .any(|waiter| matches!(waiter, Waiter::Op(_)));
        let mut count = 0;
        // A disk that is only being prepared is flushed apart, and may fail alone.
        for disk in 0..disks {
            if self.devices.is_dirty[disk]
                && self.devices.order.get(disk) != Some(&MISSING)
                && !self.root.is_gone(disk)
                && !(is_host && self.mutation == Mutation::SkipHostFlush)
            {
                self.devices.flush(disk, Purpose::Flush);
                count += 1;
            }
        }
        run.flushing = Some(count);
        if count == 0 {
            self.finish_flush();
        }
    }

    /// Writes finished journal blocks, both copies.
    pub(crate) fn write_journal(&mut self) {
        while let Some(block) = self.journal.poll_finished() {
            let place = block.sequence % u64::from(self.space.geometry.journal_blocks);
            let mut places = Vec::new();
            for disks in std::iter::once(self.root.journal_disks).chain(self.journal_next) {
                for (copy, disk) in disks.into_iter().enumerate() {
                    if !places.contains(&(copy, disk)) {
                        places.push((copy, disk));
                    }
                }
            }
            self.journal.count_copies(block.sequence, places.len());
            for (copy, disk) in places {
                let disk = usize::from(disk);
                let at = self.space.geometry.journal(copy as u64) + place;
                let purpose = Purpose::Journal {
                    sequence: block.sequence,
                };
                self.devices
                    .write((disk, at), Source::Core(block.bytes.clone()), purpose);
            }
        }
    }

    pub(crate) fn handle_journal_written(&mut self, sequence: u64, result: DoneResult) {
        if result.is_err() {
            self.fault();
        }
        self.journal.handle_written(sequence);
    }

    pub(crate) fn handle_flushed(&mut self, result: DoneResult) {
        if result.is_err() {
            // What a failed flush lost nobody knows: no later one may claim it.
            self.fault();
            return;
        }
        let Some(run) = &mut self.flushes.run else {
            return;
        };
        if let Some(left) = &mut run.flushing {
            *left -= 1;
            if *left == 0 {
                self.finish_flush();
            }
        }
    }

    fn finish_flush(&mut self) {
        let Some(run) = self.flushes.run.take() else {
            return;
        };
        self.journal.handle_durable(run.target);
        self.again = true;
        for waiter in run.waiters {
            match waiter {
                Waiter::Op(op) => self.resume_flushed(op),
                Waiter::Checkpoint => self.checkpoint_flushed(),
                Waiter::Seal => self.regions.is_flushed = true,
                Waiter::Open => self.opening_flushed(),
            }
        }
        self.wake(Wait::Durable);
        self.wake(Wait::Region);
    }
}
