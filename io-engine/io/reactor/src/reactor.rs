//! The reactor as its caller sees it, and the order of things within one turn.
//!
//! A turn is: account for the time since the last one; sleep or look; turn completions into events; accept; take
//! messages; offer hot streams. What each step does is in `core`.

use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;

use buffers::Arena;
use rustix::thread::{CpuSet, sched_setaffinity};
use sdk::host::{FileDone, OwnerId, StreamId};

use crate::config::{ReactorConfig, ReactorError};
use crate::core::Core;
use crate::driver::DriverKind;
use crate::listener::{ListenError, ListenerId};
use crate::mailbox::{Bell, Handle, Mailbox};
use crate::stats::{self, ReactorStats};

/// Messages taken in one turn, at most; the rest follow on the next turn.
const MESSAGES_PER_TURN: usize = 64;

/// Something for the reactor's caller to act on.
pub enum Event<M> {
    /// A peer connected.
    Accepted {
        /// Where it was accepted.
        listener: ListenerId,
        /// The new stream.
        stream: StreamId,
        /// Our end.
        local: SocketAddr,
        /// The peer's end.
        peer: SocketAddr,
    },
    /// A client connected to a listener that was lent ([`Host::adopt_listener`](sdk::host::Host::adopt_listener)).
    Arrived {
        /// Whose listener it is.
        owner: OwnerId,
        /// Where it was accepted.
        listener: ListenerId,
        /// The new stream.
        stream: StreamId,
        /// The client's end; none on a Unix socket.
        peer: Option<SocketAddr>,
    },
    /// Another thread called for an object, by its waker.
    Wake(OwnerId),
    /// The stream may have bytes or its end to receive. The owner receives until `WouldBlock`, or pauses it; a stream it
    /// leaves alone is offered every turn and keeps the reactor awake.
    Readable(StreamId),
    /// A stream that refused bytes takes them again, or has failed.
    Writable(StreamId),
    /// A file operation finished.
    FileDone {
        /// Whose it was.
        owner: OwnerId,
        /// How it ended.
        done: FileDone,
    },
    /// A message from another thread.
    Message(M),
}

impl<M> fmt::Debug for Event<M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Accepted { stream, peer, .. } => write!(f, "Accepted({stream:?} from {peer})"),
            Self::Arrived { owner, stream, .. } => write!(f, "Arrived({stream:?} for {owner:?})"),
            Self::Wake(owner) => write!(f, "Wake({owner:?})"),
            Self::Readable(stream) => write!(f, "Readable({stream:?})"),
            Self::Writable(stream) => write!(f, "Writable({stream:?})"),
            Self::FileDone { owner, done } => write!(f, "FileDone({owner:?}, {done:?})"),
            Self::Message(_) => f.write_str("Message(..)"),
        }
    }
}

/// One thread's event loop; see the crate's head. Made, used and dropped on one thread. `M` is what other threads send.
pub struct Reactor<M: Send + 'static> {
    pub(crate) core: Core,
    mailbox: Mailbox<M>,
}

impl<M: Send + 'static> Reactor<M> {
    /// Sets up a reactor for the calling thread, which must be the one that runs it.
    ///
    /// # Errors
    /// Any [`ReactorError`].
    pub fn new(config: ReactorConfig) -> Result<(Self, Handle<M>), ReactorError> {
        config.check()?;
        if let Some(cpu) = config.cpu {
            pin(cpu)?;
        }
        let bell = Bell::new().map_err(|e| ReactorError::Wake(e.into()))?;
        let (mailbox, handle) = Mailbox::new(config.mailbox, bell.clone());
        let core = Core::new(config, bell)?;
        Ok((Self { core, mailbox }, handle))
    }

    /// Listens on `addr`; `[::]` takes both address families. Returns the listener and its actual address. `backlog` is in
    /// connections.
    ///
    /// # Errors
    /// Any [`ListenError`].
    pub fn listen(
        &mut self,
        addr: SocketAddr,
        backlog: u32,
    ) -> Result<(ListenerId, SocketAddr), ListenError> {
        self.core.listen(addr, backlog)
    }

    /// Stops listening. Connections accepted before stay; one that is gone already is ignored.
    pub fn close_listener(&mut self, listener: ListenerId) {
        self.core.close_listener(listener);
    }

    /// One turn: appends what happened to `events`, sleeping first if there is nothing to do and spinning does not pay.
    ///
    /// `until` is when the caller wants to be woken at the latest (`None`: only by an event). A caller that has work left of
    /// its own passes a time that has come, and the turn does not sleep. Returning with no event is normal.
    pub fn turn(&mut self, until: Option<Instant>, events: &mut Vec<Event<M>>) {
        let before = events.len();
        self.core.begin_turn();
        let may_sleep = self.core.may_sleep(until);
        if !may_sleep || self.core.driver.holds_requests() {
            // The kernel serves a request at once if it can (cached data): that is work, and no reason to sleep.
            self.core.look();
        }
        if may_sleep && self.core.completions.is_empty() {
            self.sleep(until, events);
        }
        self.core.collect(events);
        if self.core.wakes.has_any() {
            events.extend(self.core.wakes.take().into_iter().map(Event::Wake));
        }
        for _ in 0..MESSAGES_PER_TURN {
            let Some(message) = self.mailbox.poll() else {
                break;
            };
            stats::add(&self.core.stats.messages, 1);
            events.push(Event::Message(message));
        }
        let found = events.len() - before;
        if found > 0 {
            self.core.did.work = true;
            self.core.did.receive = true;
            stats::add(&self.core.stats.events, found as u64);
        }
        self.core.offer(events);
    }

    /// Sleeps, unless something arrived just before.
    fn sleep(&mut self, until: Option<Instant>, events: &mut Vec<Event<M>>) {
        self.core.arm_all();
        self.core.bell.announce_sleep();
        // Anything sent before the announcement is found here; anything sent after it rings. See `mailbox`.
        if let Some(message) = self.mailbox.poll() {
            self.core.bell.announce_awake();
            stats::add(&self.core.stats.messages, 1);
            events.push(Event::Message(message));
            self.core.look();
        } else if self.core.driver.has_news() || self.core.wakes.has_any() {
            self.core.bell.announce_awake();
            self.core.look();
        } else {
            self.core.sleep(until);
        }
    }

    /// Figures, to be read from any thread at any time.
    pub fn stats(&self) -> Arc<ReactorStats> {
        self.core.stats.clone()
    }

    /// Which driver runs it.
    pub fn driver(&self) -> DriverKind {
        self.core.driver.kind()
    }

    /// The arena its buffers come from.
    pub fn arena(&self) -> &Arena {
        &self.core.arena
    }
}

fn pin(cpu: usize) -> Result<(), ReactorError> {
    if cpu >= CpuSet::MAX_CPU {
        return Err(ReactorError::Config("cpu"));
    }
    let mut set = CpuSet::new();
    set.set(cpu);
    sched_setaffinity(None, &set).map_err(|e| ReactorError::Pin(cpu, e.into()))
}
