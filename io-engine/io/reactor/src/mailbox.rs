//! Messages from other threads: a bounded queue and a bell that rings only when the reactor sleeps.
//!
//! Why no wake-up is lost. The sender (S1) puts its message, (S2) fences, (S3) reads `sleeping`. The reactor (R1) sets
//! `sleeping`, (R2) fences, (R3) looks into the queue, then sleeps on the eventfd. Both fences are `SeqCst`, so in their
//! single total order one comes first. If S2 precedes R2, R3 sees the message and the reactor does not sleep. If R2 precedes S2,
//! S3 sees `sleeping` and writes the eventfd, which stays readable until read: a sleep that begins later ends at once.
//! Several senders may see `sleeping`; the first to swap it writes, and one write is enough.

use std::fmt;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering, fence};
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};

use rustix::event::{EventfdFlags, eventfd};

/// The bell: an eventfd and whether it needs ringing.
pub(crate) struct Bell {
    fd: OwnedFd,
    sleeping: AtomicBool,
}

impl Bell {
    pub(crate) fn new() -> rustix::io::Result<Arc<Self>> {
        let fd = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        Ok(Arc::new(Self {
            fd,
            sleeping: AtomicBool::new(false),
        }))
    }

    pub(crate) fn fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }

    /// The reactor is about to sleep. After this it looks once more into everything that rings.
    pub(crate) fn announce_sleep(&self) {
        self.sleeping.store(true, Ordering::Relaxed);
        fence(Ordering::SeqCst);
    }

    /// The reactor is awake: nobody need ring.
    pub(crate) fn announce_awake(&self) {
        self.sleeping.store(false, Ordering::Relaxed);
    }

    /// Wakes the reactor if it sleeps. What it is woken for has been made visible before the call.
    pub(crate) fn ring(&self) {
        fence(Ordering::SeqCst);
        if self.sleeping.load(Ordering::Relaxed) && self.sleeping.swap(false, Ordering::Relaxed) {
            // Fails only when the counter is full, and then the descriptor is readable anyway.
            let _ = rustix::io::write(&self.fd, &1u64.to_ne_bytes());
        }
    }

    /// Makes the descriptor unreadable again.
    pub(crate) fn silence(&self) {
        let mut count = [0u8; 8];
        // Fails only when it is silent already.
        let _ = rustix::io::read(&self.fd, &mut count);
    }
}

/// A message that was not taken: the mailbox is full, or the reactor is gone ([`Handle::is_gone`]).
pub struct Full<M>(pub M);

impl<M> fmt::Debug for Full<M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Full(..)")
    }
}

impl<M> fmt::Display for Full<M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the reactor's mailbox is full, or the reactor is gone")
    }
}

impl<M> std::error::Error for Full<M> {}

/// Sends messages to one reactor, from any thread.
pub struct Handle<M> {
    sender: SyncSender<M>,
    bell: Arc<Bell>,
    life: Arc<Life>,
}

/// Whether the reactor still exists.
struct Life(AtomicBool);

impl<M> Clone for Handle<M> {
    fn clone(&self) -> Self {
        Self {
            sender: self.sender.clone(),
            bell: self.bell.clone(),
            life: self.life.clone(),
        }
    }
}

impl<M> fmt::Debug for Handle<M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Handle(..)")
    }
}

impl<M> Handle<M> {
    /// Sends `message`; it arrives as [`Event::Message`](crate::Event::Message), in the order of this handle's sends. Costs a
    /// system call only when the reactor sleeps.
    ///
    /// # Errors
    /// [`Full`] hands the message back.
    pub fn send(&self, message: M) -> Result<(), Full<M>> {
        match self.sender.try_send(message) {
            Ok(()) => {
                self.bell.ring();
                Ok(())
            }
            Err(TrySendError::Full(m) | TrySendError::Disconnected(m)) => Err(Full(m)),
        }
    }

    /// Whether the reactor has ended, so that no message will be taken any more.
    pub fn is_gone(&self) -> bool {
        !self.life.0.load(Ordering::Acquire)
    }
}

/// The reactor's end.
pub(crate) struct Mailbox<M> {
    receiver: Receiver<M>,
    life: Arc<Life>,
}

impl<M> Mailbox<M> {
    pub(crate) fn new(bound: usize, bell: Arc<Bell>) -> (Self, Handle<M>) {
        let (sender, receiver) = sync_channel(bound);
        let life = Arc::new(Life(AtomicBool::new(true)));
        let handle = Handle {
            sender,
            bell,
            life: life.clone(),
        };
        (Self { receiver, life }, handle)
    }

    /// The next message, if there is one.
    pub(crate) fn poll(&self) -> Option<M> {
        self.receiver.try_recv().ok()
    }
}

impl<M> Drop for Mailbox<M> {
    fn drop(&mut self) {
        self.life.0.store(false, Ordering::Release);
    }
}
