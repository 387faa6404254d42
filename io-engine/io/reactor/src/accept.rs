//! How a reactor listens and accepts.

use std::fmt;
use std::net::SocketAddr;
use std::os::fd::{AsFd, OwnedFd};

use sdk::host::{OwnerId, StreamId};

use crate::core::Core;
use crate::driver::{Direction, Source, Watch};
use crate::listener::{
    ACCEPTS_PER_TURN, Attempt, LISTENERS_MAX, ListenError, Listener, ListenerId,
};
use crate::reactor::Event;
use crate::socket::Ends;
use crate::{socket, stats};

impl Core {
    pub(crate) fn listen(
        &mut self,
        addr: SocketAddr,
        backlog: u32,
    ) -> Result<(ListenerId, SocketAddr), ListenError> {
        if self.listeners.list.len() >= LISTENERS_MAX {
            return Err(ListenError::TooMany);
        }
        let (fd, local) = socket::listen(addr, backlog).map_err(|e| ListenError::new(addr, e))?;
        Ok((self.add_listener(fd, None), local))
    }

    /// Takes over a listening socket; its connections are told to `owner`. `None` if there is no room.
    pub(crate) fn adopt_listener(
        &mut self,
        fd: OwnedFd,
        owner: OwnerId,
    ) -> rustix::io::Result<Option<ListenerId>> {
        // Accepting from one that blocks would stop the reactor.
        rustix::io::ioctl_fionbio(&fd, true)?;
        let has_room = self.listeners.list.len() < LISTENERS_MAX;
        Ok(has_room.then(|| self.add_listener(fd, Some(owner))))
    }

    fn add_listener(&mut self, fd: OwnedFd, owner: Option<OwnerId>) -> ListenerId {
        let id = ListenerId(self.listeners.next);
        self.listeners.next = self.listeners.next.wrapping_add(1);
        self.listeners.list.push(Listener {
            id,
            owner,
            fd,
            watch: Watch::default(),
            ready: true,
            paused_until: None,
        });
        id
    }

    pub(crate) fn close_listener(&mut self, id: ListenerId) {
        if let Some(at) = self.listeners.list.iter().position(|l| l.id == id) {
            let mut gone = self.listeners.list.swap_remove(at);
            let source = Source::Listener(gone.id.0);
            self.driver
                .unwatch(gone.fd.as_fd(), source, &mut gone.watch);
        }
    }

    pub(crate) fn accept<M>(&mut self, events: &mut Vec<Event<M>>) {
        while let Some((what, count)) = self.log.poll_summary(self.now) {
            tracing::warn!(what, count, "and as many more within a second");
        }
        for at in 0..self.listeners.list.len() {
            if self.listeners.list[at].is_due(self.now) {
                self.accept_from(at, events);
            }
            let Listener {
                id,
                fd,
                watch,
                ready,
                ..
            } = &mut self.listeners.list[at];
            if !*ready {
                let source = Source::Listener(id.0);
                // A listener that cannot be watched is tried again each turn.
                *ready = self
                    .driver
                    .watch(fd.as_fd(), source, Direction::Read, watch)
                    .is_err();
            }
        }
    }

    fn accept_from<M>(&mut self, at: usize, events: &mut Vec<Event<M>>) {
        self.listeners.list[at].paused_until = None;
        for _ in 0..ACCEPTS_PER_TURN {
            if !self.streams.has_room() {
                return self.pause_accepting(at, &"the reactor's stream table is full");
            }
            let (listener, owner) = (self.listeners.list[at].id, self.listeners.list[at].owner);
            stats::add(&self.stats.syscalls.accept, 1);
            match self.listeners.list[at].accept() {
                // Our own listeners are TCP: a connection without addresses is one that died in the queue.
                Attempt::Stream(_, None) if owner.is_none() => {}
                Attempt::Stream(fd, ends) => {
                    socket::configure(fd.as_fd(), &self.sockets, &mut self.log, self.now);
                    if let Some(stream) = self.streams.insert(fd, self.now) {
                        events.extend(arrival(listener, owner, stream, ends));
                    }
                }
                Attempt::Skip => {}
                Attempt::Empty => {
                    self.listeners.list[at].ready = false;
                    return;
                }
                Attempt::NoRoom(errno) => return self.pause_accepting(at, &errno),
            }
        }
    }

    /// Connections wait in the listen queue for a while; trying at once would only burn the CPU.
    fn pause_accepting(&mut self, at: usize, reason: &dyn fmt::Display) {
        let listener = &mut self.listeners.list[at];
        if self.log.admit(self.now, "accepting paused") {
            tracing::warn!(
                listener = listener.id.0,
                %reason,
                "cannot accept connections, pausing 100 ms"
            );
        }
        listener.pause(self.now);
        stats::add(&self.stats.accept_pauses, 1);
    }
}

/// The event of a new connection; none for one of ours that died in the queue.
fn arrival<M>(
    listener: ListenerId,
    owner: Option<OwnerId>,
    stream: StreamId,
    ends: Option<Ends>,
) -> Option<Event<M>> {
    match (owner, ends) {
        (Some(owner), ends) => Some(Event::Arrived {
            owner,
            listener,
            stream,
            peer: ends.map(|(_, peer)| peer),
        }),
        (None, Some((local, peer))) => Some(Event::Accepted {
            listener,
            stream,
            local,
            peer,
        }),
        (None, None) => None,
    }
}
