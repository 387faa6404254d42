//! What one side knows of itself ([`Image`]), the panic guard, and what is counted about the other side ([`Faults`]).

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use abi::IOE_PANICKED;

use super::clock::Clock;
use crate::services::{Level, Services};

/// The side that hands objects out: where its panics are logged and which clock it goes by.
pub(crate) struct Image {
    pub(crate) services: Arc<dyn Services>,
    pub(crate) clock: Clock,
}

impl Image {
    /// Runs the author's code; a panic is logged and becomes `None`.
    #[inline]
    pub(crate) fn guard<R>(&self, what: &str, code: impl FnOnce() -> R) -> Option<R> {
        match catch_unwind(AssertUnwindSafe(code)) {
            Ok(value) => Some(value),
            Err(panic) => {
                self.report(what, &*panic);
                None
            }
        }
    }

    /// As [`Image::guard`] for code that answers with a status.
    #[inline]
    pub(crate) fn status(&self, what: &str, code: impl FnOnce() -> i32) -> i32 {
        self.guard(what, code).unwrap_or(IOE_PANICKED)
    }

    #[cold]
    fn report(&self, what: &str, panic: &(dyn Any + Send)) {
        let words = panic
            .downcast_ref::<&str>()
            .copied()
            .or_else(|| panic.downcast_ref::<String>().map(String::as_str))
            .unwrap_or("no message");
        let line = format!("panicked in {what}: {words}");
        // A logger that panics as well has nobody to tell.
        let _ = catch_unwind(AssertUnwindSafe(|| self.services.log(Level::Error, &line)));
    }
}

/// Broken promises of one plugin, counted since it was loaded.
#[derive(Debug, Default)]
pub struct Faults {
    /// Objects that panicked.
    pub panics: AtomicU64,
    /// Completions of operations that had ended, or never begun.
    pub unknown_completions: AtomicU64,
    /// Answers that were not what was asked for: wrong length, unknown status, missing buffer.
    pub bad_answers: AtomicU64,
}

impl Faults {
    /// All of them.
    pub fn total(&self) -> u64 {
        let counters = [&self.panics, &self.unknown_completions, &self.bad_answers];
        counters
            .iter()
            .map(|counter| counter.load(Ordering::Relaxed))
            .sum()
    }

    /// Counts, and tells whether the line is worth logging: the first ones are.
    pub(crate) fn note(&self, counter: &AtomicU64) -> bool {
        let _ = self;
        counter.fetch_add(1, Ordering::Relaxed) < LINES_MAX
    }
}

/// Lines logged for one kind of fault of one plugin; the rest is only counted.
const LINES_MAX: u64 = 16;
