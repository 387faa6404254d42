//! What plugins may ask of a reactor ([`sdk::host::Host`]).

use std::io::{IoSlice, IoSliceMut};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::time::Instant;

use rustix::io::Errno;
use sdk::buf::Buf;
use sdk::host::{
    FileId, FileOp, Host, HostError, ListenerId, OwnerId, StreamError, StreamId, Waker,
};

use crate::core::{Core, source_of};
use crate::reactor::Reactor;
use crate::wakes::Caller;
use crate::{socket, stats};

impl<M: Send + 'static> Host for Reactor<M> {
    fn now(&self) -> Instant {
        self.core.now
    }

    fn alloc(&mut self, len: usize) -> Option<Buf> {
        self.core.arena.alloc(len)
    }

    fn adopt_file(&mut self, fd: OwnedFd, owner: OwnerId) -> Result<FileId, HostError> {
        self.core.files.adopt(fd, owner).ok_or(HostError::TooMany)
    }

    fn close_file(&mut self, file: FileId) {
        self.core.files.close(file);
    }

    fn submit_file(&mut self, file: FileId, user: u64, op: FileOp) -> Result<(), FileOp> {
        let index = self.core.files.begin(file, user, op, self.core.now)?;
        self.core.did.work = true;
        self.core.launch(index);
        Ok(())
    }

    fn recv(
        &mut self,
        stream: StreamId,
        bufs: &mut [IoSliceMut<'_>],
    ) -> Result<usize, StreamError> {
        self.core.recv(stream, bufs)
    }

    fn send(&mut self, stream: StreamId, bufs: &[IoSlice<'_>]) -> Result<usize, StreamError> {
        self.core.send(stream, bufs)
    }

    fn pause_stream(&mut self, stream: StreamId, paused: bool) {
        let Some(s) = self.core.streams.stream_mut(stream) else {
            return;
        };
        s.paused = paused;
        if !paused {
            // Bytes may have come meanwhile.
            self.core.streams.heat(stream);
        }
    }

    fn end_stream(&mut self, stream: StreamId) {
        if let Some(stream) = self.core.streams.stream_mut(stream) {
            socket::end(stream.fd.as_fd());
        }
    }

    fn close_stream(&mut self, stream: StreamId) {
        drop(self.core.take_stream(stream));
    }

    fn detach_stream(&mut self, stream: StreamId) -> Option<OwnedFd> {
        self.core.take_stream(stream)
    }

    fn attach_stream(&mut self, fd: OwnedFd) -> Result<StreamId, HostError> {
        let now = self.core.now;
        socket::configure(fd.as_fd(), &self.core.sockets, &mut self.core.log, now);
        self.core.streams.insert(fd, now).ok_or(HostError::TooMany)
    }

    fn adopt_listener(&mut self, fd: OwnedFd, owner: OwnerId) -> Result<ListenerId, HostError> {
        match self.core.adopt_listener(fd, owner) {
            Ok(adopted) => adopted.ok_or(HostError::TooMany),
            Err(errno) => Err(HostError::System(errno.raw_os_error())),
        }
    }

    fn close_listener(&mut self, listener: ListenerId) {
        self.core.close_listener(listener);
    }

    fn waker(&mut self, owner: OwnerId) -> Option<Waker> {
        let wakes = self.core.wakes.clone();
        Some(Waker::new(Arc::new(Caller { wakes, owner })))
    }
}

impl Core {
    fn recv(&mut self, id: StreamId, bufs: &mut [IoSliceMut<'_>]) -> Result<usize, StreamError> {
        let Some(stream) = self.streams.stream_mut(id) else {
            return Err(StreamError::Closed);
        };
        stats::add(&self.stats.syscalls.recv, 1);
        match socket::recv(stream.fd.as_fd(), bufs) {
            Ok(0) if bufs.iter().any(|b| !b.is_empty()) => {
                stream.ended = true;
                Err(StreamError::Closed)
            }
            // Asked for nothing.
            Ok(0) => Err(StreamError::WouldBlock),
            Ok(n) => {
                stream.note_data(self.now);
                self.did.work = true;
                self.did.receive = true;
                Ok(n)
            }
            Err(Errno::AGAIN) => {
                stream.note_nothing();
                Err(StreamError::WouldBlock)
            }
            Err(errno) => {
                stream.ended = true;
                Err(StreamError::Failed(errno.raw_os_error()))
            }
        }
    }

    fn send(&mut self, id: StreamId, bufs: &[IoSlice<'_>]) -> Result<usize, StreamError> {
        let Some(stream) = self.streams.stream_mut(id) else {
            return Err(StreamError::Closed);
        };
        stats::add(&self.stats.syscalls.send, 1);
        match socket::send(stream.fd.as_fd(), bufs) {
            Ok(n) => {
                self.did.work = true;
                self.did.send = true;
                Ok(n)
            }
            Err(Errno::AGAIN) => {
                self.want_room(id);
                Err(StreamError::WouldBlock)
            }
            Err(Errno::PIPE) => Err(StreamError::Closed),
            Err(errno) => Err(StreamError::Failed(errno.raw_os_error())),
        }
    }

    /// Takes a stream out of the table and the kernel's watches.
    fn take_stream(&mut self, id: StreamId) -> Option<OwnedFd> {
        let mut stream = self.streams.remove(id)?;
        self.driver
            .unwatch(stream.fd.as_fd(), source_of(id), &mut stream.watch);
        Some(stream.fd)
    }
}
