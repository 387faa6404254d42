//! Reservation records on their way to the store, one thread for all shards.
//!
//! Each record taken has an outcome, and each outcome reaches its shard: a namespace whose record had none would hold up every
//! reservation command after it. No shard that is slow holds up the outcomes of others.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, SyncSender, sync_channel};

use reactor::Handle;
use tokio::sync::oneshot;

use crate::shard::{Message, PersistJob};

/// Records waiting for the store; one more is refused, which the host sees as a retryable error.
pub(super) const PERSIST_QUEUE_MAX: usize = 256;

/// Where reservation records live. Called from a thread that may block.
pub trait ReservationStore: Send + Sync + 'static {
    /// The record of a namespace, if there is one.
    ///
    /// # Errors
    /// A sentence naming what could not be read.
    fn load(&self, nqn: &str, nsid: u32) -> Result<Option<Vec<u8>>, String>;

    /// Makes the record durable in place of the previous one.
    ///
    /// # Errors
    /// A sentence naming what could not be written.
    fn save(&self, nqn: &str, nsid: u32, record: &[u8]) -> Result<(), String>;
}

/// What the thread is asked for.
pub(super) enum Job {
    /// To make a record durable.
    Save(PersistJob),
    /// To say when everything before it is done.
    Barrier(oneshot::Sender<()>),
}

/// A shard that waits for outcomes.
pub(super) struct Home {
    /// Its mailbox, to wake it.
    pub(super) handle: Handle<Message>,
    /// What became of its records. Bounded: a namespace has at most one record under way.
    pub(super) outcomes: Sender<Outcome>,
}

/// What became of a record: whether it is durable.
pub(super) type Outcome = (nvme_target::PersistToken, bool);

/// Starts the thread; it ends when every sender is gone.
pub(super) fn start(
    store: Arc<dyn ReservationStore>,
    homes: Receiver<Vec<Home>>,
) -> std::io::Result<SyncSender<Job>> {
    let (sender, jobs) = sync_channel::<Job>(PERSIST_QUEUE_MAX);
    std::thread::Builder::new()
        .name("reservations".into())
        .spawn(move || {
            let Ok(homes) = homes.recv() else { return };
            for job in jobs {
                let job = match job {
                    Job::Save(job) => job,
                    Job::Barrier(passed) => {
                        // Who gave up waiting does not want to know.
                        let _ = passed.send(());
                        continue;
                    }
                };
                let ok = save(&*store, &job);
                if let Some(home) = homes.get(job.shard) {
                    answer(home, job.token, ok);
                }
            }
        })?;
    Ok(sender)
}

/// Whether the record is durable.
fn save(store: &dyn ReservationStore, job: &PersistJob) -> bool {
    // A store that panics must not take the thread along: each record has an outcome, or its host and all that queue up behind
    // it wait for good.
    let save = || store.save(&job.nqn, job.nsid, &job.bytes);
    let reason = match catch_unwind(AssertUnwindSafe(save)) {
        Ok(Ok(())) => return true,
        Ok(Err(reason)) => reason,
        Err(_) => "the state store panicked".to_owned(),
    };
    tracing::error!(nqn = %job.nqn, nsid = job.nsid, %reason, "reservation record not stored");
    false
}

/// Leaves the outcome where the shard looks after every message, and wakes it. A full mailbox needs no waking: the shard has
/// messages to handle, and looks after each.
fn answer(home: &Home, token: nvme_target::PersistToken, ok: bool) {
    // A shard that has ended waits for nothing.
    if home.outcomes.send((token, ok)).is_ok() {
        let wake: Message = Box::new(|_| {});
        let _ = home.handle.send(wake);
    }
}
