//! A reactor's part of the host over real sockets: nonblocking descriptors and `poll(2)`.

use std::fs::File;
use std::io::{ErrorKind, IoSlice, IoSliceMut, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::net::UnixListener;
use std::time::{Duration, Instant};

use conformance::host::TestHost;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use sdk::buf::Buf;
use sdk::host::{FileId, FileOp, Host, HostError, ListenerId, OwnerId, StreamError, StreamId};

enum Listener {
    Tcp(TcpListener),
    Unix(UnixListener),
}

struct Stream {
    // Vectored reads and writes of a file descriptor work on sockets as well.
    socket: File,
    generation: u32,
    paused: bool,
    /// A send was refused and nobody was told since.
    blocked: bool,
    /// May have bytes that no poll would tell of: it was just resumed.
    is_hot: bool,
}

/// What a turn of the host found.
pub(crate) enum Ready {
    Accepted(ListenerId, StreamId, Option<SocketAddr>),
    Readable(StreamId),
    Writable(StreamId),
}

/// See the module documentation.
pub(crate) struct SocketHost {
    inner: TestHost,
    now: Instant,
    /// Added to the clock.
    pub(crate) skew: Duration,
    listeners: Vec<Option<Listener>>,
    streams: Vec<Option<Stream>>,
    generation: u32,
    /// Whether there are buffers to give.
    pub(crate) has_buffers: bool,
    /// Most bytes one receive gives.
    pub(crate) recv_max: usize,
    /// Most bytes one send takes.
    pub(crate) send_max: usize,
}

impl SocketHost {
    pub(crate) fn new() -> Self {
        Self {
            inner: TestHost::new(),
            now: Instant::now(),
            skew: Duration::ZERO,
            listeners: Vec::new(),
            streams: Vec::new(),
            generation: 0,
            has_buffers: true,
            recv_max: usize::MAX,
            send_max: usize::MAX,
        }
    }

    /// Streams that are open.
    pub(crate) fn open_streams(&self) -> usize {
        self.streams.iter().flatten().count()
    }

    /// Waits up to `timeout` for something to do.
    pub(crate) fn turn(&mut self, timeout: Duration) -> Vec<Ready> {
        let mut ready = Vec::new();
        for (slot, stream) in self.streams.iter_mut().enumerate() {
            if let Some(stream) = stream.as_mut().filter(|stream| stream.is_hot) {
                stream.is_hot = false;
                ready.push(Ready::Readable(id(slot, stream.generation)));
            }
        }
        let timeout = if ready.is_empty() {
            timeout
        } else {
            Duration::ZERO
        };
        let polled = self.poll(timeout);
        self.now = Instant::now();
        for slot in 0..self.listeners.len() {
            self.accept(slot, &mut ready);
        }
        for (slot, readable, writable) in polled {
            let Some(stream) = &mut self.streams[slot] else {
                continue;
            };
            let id = id(slot, stream.generation);
            if writable && stream.blocked {
                stream.blocked = false;
                ready.push(Ready::Writable(id));
            }
            if readable && !stream.paused {
                ready.push(Ready::Readable(id));
            }
        }
        ready
    }

    fn poll(&mut self, timeout: Duration) -> Vec<(usize, bool, bool)> {
        let mut slots = Vec::new();
        let mut fds = Vec::new();
        for listener in self.listeners.iter().flatten() {
            let fd = match listener {
                Listener::Tcp(listener) => listener.as_fd(),
                Listener::Unix(listener) => listener.as_fd(),
            };
            fds.push(PollFd::from_borrowed_fd(fd, PollFlags::IN));
        }
        let first = fds.len();
        for (slot, stream) in self.streams.iter().enumerate() {
            let Some(stream) = stream else { continue };
            let mut flags = PollFlags::empty();
            flags.set(PollFlags::IN, !stream.paused);
            flags.set(PollFlags::OUT, stream.blocked);
            if !flags.is_empty() {
                fds.push(PollFd::from_borrowed_fd(stream.socket.as_fd(), flags));
                slots.push(slot);
            }
        }
        let timeout = Timespec::try_from(timeout).expect("a short time");
        let _ = poll(&mut fds, Some(&timeout));
        let ended = PollFlags::HUP | PollFlags::ERR;
        let events = fds[first..].iter().map(|fd| fd.revents());
        slots
            .into_iter()
            .zip(events)
            .map(|(slot, flags)| {
                let is = |flag: PollFlags| flags.intersects(flag | ended);
                (slot, is(PollFlags::IN), is(PollFlags::OUT))
            })
            .collect()
    }

    fn accept(&mut self, slot: usize, ready: &mut Vec<Ready>) {
        loop {
            let (fd, peer): (OwnedFd, _) = match &self.listeners[slot] {
                None => return,
                Some(Listener::Tcp(listener)) => match listener.accept() {
                    Ok((stream, peer)) => (tcp(stream), Some(peer)),
                    Err(_) => return,
                },
                Some(Listener::Unix(listener)) => match listener.accept() {
                    Ok((stream, _)) => {
                        stream.set_nonblocking(true).expect("nonblocking");
                        (stream.into(), None)
                    }
                    Err(_) => return,
                },
            };
            let stream = self.attach_stream(fd).expect("room");
            ready.push(Ready::Accepted(ListenerId(slot as u32), stream, peer));
        }
    }

    fn stream(&mut self, id: StreamId) -> Option<&mut Stream> {
        let stream = self.streams.get_mut((id.0 & 0xffff_ffff) as usize)?;
        let generation = (id.0 >> 32) as u32;
        stream
            .as_mut()
            .filter(|stream| stream.generation == generation)
    }
}

fn id(slot: usize, generation: u32) -> StreamId {
    StreamId(u64::from(generation) << 32 | slot as u64)
}

fn tcp(stream: TcpStream) -> OwnedFd {
    stream.set_nonblocking(true).expect("nonblocking");
    stream.set_nodelay(true).expect("a TCP option");
    stream.into()
}

fn stream_error(error: &std::io::Error) -> StreamError {
    match error.kind() {
        ErrorKind::WouldBlock => StreamError::WouldBlock,
        _ => StreamError::Failed(error.raw_os_error().unwrap_or(0)),
    }
}

impl Host for SocketHost {
    fn now(&self) -> Instant {
        self.now + self.skew
    }

    fn alloc(&mut self, len: usize) -> Option<Buf> {
        assert!(len > 0 && len <= 1 << 20, "a buffer of {len} bytes");
        self.has_buffers.then(|| Buf::from_heap(len))
    }

    fn adopt_file(&mut self, fd: OwnedFd, owner: OwnerId) -> Result<FileId, HostError> {
        self.inner.adopt_file(fd, owner)
    }

    fn close_file(&mut self, file: FileId) {
        self.inner.close_file(file);
    }

    fn submit_file(&mut self, file: FileId, user: u64, op: FileOp) -> Result<(), FileOp> {
        self.inner.submit_file(file, user, op)
    }

    fn recv(
        &mut self,
        stream: StreamId,
        bufs: &mut [IoSliceMut<'_>],
    ) -> Result<usize, StreamError> {
        let max = self.recv_max;
        let stream = self.stream(stream).ok_or(StreamError::Closed)?;
        let result = if max == usize::MAX {
            stream.socket.read_vectored(bufs)
        } else {
            let len = bufs[0].len().min(max);
            stream.socket.read(&mut bufs[0][..len])
        };
        match result {
            Ok(0) => Err(StreamError::Closed),
            Ok(received) => Ok(received),
            Err(error) => Err(stream_error(&error)),
        }
    }

    fn send(&mut self, stream: StreamId, bufs: &[IoSlice<'_>]) -> Result<usize, StreamError> {
        let max = self.send_max;
        let stream = self.stream(stream).ok_or(StreamError::Closed)?;
        let result = if max == usize::MAX {
            stream.socket.write_vectored(bufs)
        } else {
            stream.socket.write(&bufs[0][..bufs[0].len().min(max)])
        };
        result.map_err(|error| {
            let error = stream_error(&error);
            stream.blocked |= error == StreamError::WouldBlock;
            error
        })
    }

    fn pause_stream(&mut self, stream: StreamId, paused: bool) {
        if let Some(stream) = self.stream(stream) {
            stream.paused = paused;
            stream.is_hot = !paused;
        }
    }

    // NBD knows no last words: a connection is closed, never half of it.
    fn end_stream(&mut self, _: StreamId) {}

    fn close_stream(&mut self, stream: StreamId) {
        drop(self.detach_stream(stream));
    }

    fn detach_stream(&mut self, stream: StreamId) -> Option<OwnedFd> {
        self.stream(stream)?;
        let stream = self.streams[(stream.0 & 0xffff_ffff) as usize].take()?;
        Some(stream.socket.into())
    }

    fn attach_stream(&mut self, fd: OwnedFd) -> Result<StreamId, HostError> {
        self.generation += 1;
        let generation = self.generation;
        let stream = Stream {
            socket: File::from(fd),
            generation,
            paused: false,
            blocked: false,
            is_hot: true,
        };
        let free = self.streams.iter().position(Option::is_none);
        let slot = free.unwrap_or_else(|| {
            self.streams.push(None);
            self.streams.len() - 1
        });
        self.streams[slot] = Some(stream);
        Ok(id(slot, generation))
    }

    fn adopt_listener(&mut self, fd: OwnedFd, _: OwnerId) -> Result<ListenerId, HostError> {
        let link = std::fs::read_link(format!("/proc/self/fd/{}", fd.as_raw_fd()));
        assert!(link.is_ok_and(|link| link.to_string_lossy().starts_with("socket:")));
        let tcp = TcpListener::from(fd);
        self.listeners.push(Some(match tcp.local_addr() {
            Ok(_) => Listener::Tcp(tcp),
            Err(_) => Listener::Unix(UnixListener::from(OwnedFd::from(tcp))),
        }));
        Ok(ListenerId(self.listeners.len() as u32 - 1))
    }

    fn close_listener(&mut self, listener: ListenerId) {
        self.listeners[listener.0 as usize] = None;
    }
}
