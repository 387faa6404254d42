//! Reservation records on their way to the store, one thread for all shards.

use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::time::Duration;

use reactor::Handle;

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

/// Starts the thread; it ends when every sender is gone.
pub(super) fn start(
    store: Arc<dyn ReservationStore>,
    handles: Receiver<Vec<Handle<Message>>>,
) -> std::io::Result<SyncSender<PersistJob>> {
    let (sender, jobs) = sync_channel::<PersistJob>(PERSIST_QUEUE_MAX);
    std::thread::Builder::new().name("reservations".into()).spawn(move || {
        let Ok(handles) = handles.recv() else { return };
        for job in jobs {
            let ok = match store.save(&job.nqn, job.nsid, &job.bytes) {
                Ok(()) => true,
                Err(reason) => {
                    tracing::error!(nqn = %job.nqn, nsid = job.nsid, %reason, "reservation record not stored");
                    false
                }
            };
            if let Some(handle) = handles.get(job.shard) {
                answer(handle, job.token, ok);
            }
        }
    })?;
    Ok(sender)
}

fn answer(handle: &Handle<Message>, token: nvme_target::PersistToken, ok: bool) {
    let mut message: Message = Box::new(move |shard| shard.handle_persisted(token, ok));
    // A full mailbox drains within a turn; a reactor that has stopped closes it.
    for _ in 0..1000 {
        match handle.send(message) {
            Ok(()) => return,
            Err(full) => message = full.0,
        }
        std::thread::sleep(Duration::from_millis(1));
    }
}
