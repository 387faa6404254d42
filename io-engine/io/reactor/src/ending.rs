//! How a reactor ends without freeing memory under the kernel.

use std::mem;
use std::time::{Duration, Instant};

use crate::core::Core;
use crate::driver::{Completion, Direction, Source};
use crate::files::{Files, Step};

/// How long a reactor that ends waits for operations in flight before it leaves their memory to them.
const END_WAIT: Duration = Duration::from_secs(5);

impl Drop for Core {
    /// The kernel may still write into buffers of operations in flight: they are cancelled and waited for, and what does
    /// not end in time keeps its memory and descriptors for ever.
    fn drop(&mut self) {
        let give_up_at = Instant::now() + END_WAIT;
        // Operations the kernel never saw need no answer from it.
        for index in mem::take(&mut self.backlog) {
            self.files.finish_empty(index);
        }
        self.driver.cancel_all();
        self.driver.poll(&mut self.completions);
        self.bury_completions();
        while self.files.inflight() > 0 {
            let left = give_up_at.saturating_duration_since(Instant::now());
            if left.is_zero() {
                break;
            }
            self.bell.announce_sleep();
            if !self.driver.has_news() {
                // Another wake-up than a completion is possible, so this looks again soon.
                let _ = self.watch_bell();
                self.driver.sleep(
                    Some(left.min(Duration::from_millis(50))),
                    &mut self.completions,
                );
            }
            self.driver.poll(&mut self.completions);
            self.bury_completions();
        }
        if self.files.inflight() > 0 {
            let operations = self.files.inflight();
            tracing::error!(
                operations,
                "file operations never completed; their memory is left to the kernel"
            );
            mem::forget(mem::replace(&mut self.files, Files::new(0, 0)));
        }
    }
}

impl Core {
    /// Ends operations on a reactor that ends; nobody is told.
    fn bury_completions(&mut self) {
        let mut completions = mem::take(&mut self.completions);
        for Completion { token, result } in completions.drain(..) {
            match token.source() {
                Source::File(index) => {
                    if let Some(Step::Again) = self.files.handle_result(index, result) {
                        self.files.finish_empty(index);
                    }
                }
                Source::Bell => {
                    let watch = &mut self.bell_watch;
                    self.driver
                        .note_fired(self.bell.fd(), Source::Bell, Direction::Read, watch);
                    self.bell.silence();
                }
                Source::Nobody | Source::Stream(..) | Source::Listener(_) => {}
            }
        }
        self.completions = completions;
    }
}
