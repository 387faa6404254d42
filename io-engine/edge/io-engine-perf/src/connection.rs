//! One queue: a nonblocking socket, the host role of the protocol, and a buffer per command identifier.

use nvme_spec::Sqe;
use nvme_tcp::{Chunk, CommandData, Fault, Host, HostConfig, HostEvent, Want, crc32c};
use std::fmt;
use std::io::{self, ErrorKind, IoSlice, IoSliceMut, Read, Write};
use std::net::TcpStream;
use std::time::Instant;

/// Bytes received at a time where the destination is not known; a core's share of cache.
const STAGING_LEN: usize = 256 * 1024;

/// Outstanding payload from which it is received where it belongs, without a copy.
const DIRECT_LEN_MIN: usize = 16 * 1024;

/// Pieces of one gathered send.
const GATHER_MAX: usize = 256;

/// Why a connection is over.
#[derive(Debug)]
pub enum ConnectionError {
    /// The socket failed.
    Io(io::Error),
    /// The peer closed it.
    Closed,
    /// The peer broke the protocol, or said we did.
    Fault(Fault),
}

impl fmt::Display for ConnectionError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Io(error) => write!(f, "connection failed: {error}"),
            Self::Closed => f.write_str("connection closed by the target"),
            Self::Fault(fault) => write!(f, "protocol error: {fault}"),
        }
    }
}

impl std::error::Error for ConnectionError {}

impl From<io::Error> for ConnectionError {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            ErrorKind::ConnectionReset | ErrorKind::BrokenPipe => Self::Closed,
            _ => Self::Io(error),
        }
    }
}

/// A queue pair's connection.
#[derive(Debug)]
pub struct Connection {
    stream: TcpStream,
    host: Host,
    staging: Vec<u8>,
    /// Bytes at the start of `staging` that are received and not taken: less than a header.
    staged: usize,
    arena: Vec<u8>,
    /// Bytes a command may move.
    buffer_len: usize,
    /// From one command's buffer to the next.
    stride: usize,
    /// Whether received data is kept; a load that does not look at it saves the copy.
    placing: bool,
    system_calls: u64,
}

impl Connection {
    /// A connection over `stream` (nonblocking) with `buffer_len` bytes of buffer for each command identifier; without
    /// `placing` received data is not kept, and all commands write from one buffer, which stays in the cache: a load
    /// generator should cost less than what it measures.
    pub fn new(stream: TcpStream, config: HostConfig, buffer_len: usize, placing: bool) -> Self {
        let (buffers, stride) = if placing {
            (config.commands_max, buffer_len)
        } else {
            (1, 0)
        };
        Self {
            stream,
            host: Host::new(config, Instant::now()),
            staging: vec![0; STAGING_LEN],
            staged: 0,
            arena: vec![0; buffers * buffer_len],
            buffer_len,
            stride,
            placing,
            system_calls: 0,
        }
    }

    /// The socket.
    pub fn stream(&self) -> &TcpStream {
        &self.stream
    }

    /// Whether commands can be submitted.
    pub fn is_ready(&self) -> bool {
        self.host.is_ready()
    }

    /// Whether bytes wait for the socket to take them.
    #[inline]
    pub fn has_unsent(&self) -> bool {
        self.host.has_transmit()
    }

    /// System calls made so far.
    pub fn system_calls(&self) -> u64 {
        self.system_calls
    }

    /// The protocol's next deadline (set-up, or the last words).
    pub fn poll_timeout(&self) -> Option<Instant> {
        self.host.poll_timeout()
    }

    /// Acts on that deadline.
    ///
    /// # Errors
    /// [`ConnectionError::Fault`] if the target did not answer ICReq in time.
    pub fn handle_timeout(&mut self, now: Instant) -> Result<(), ConnectionError> {
        self.host
            .handle_timeout(now)
            .map_err(ConnectionError::Fault)
    }

    /// The buffer of command `cid`.
    #[inline]
    pub fn buffer(&self, cid: u16) -> &[u8] {
        let at = usize::from(cid) * self.stride;
        &self.arena[at..at + self.buffer_len]
    }

    /// The buffer of command `cid`, to fill before a write.
    #[inline]
    pub fn buffer_mut(&mut self, cid: u16) -> &mut [u8] {
        let at = usize::from(cid) * self.stride;
        &mut self.arena[at..at + self.buffer_len]
    }

    /// Queues a command; its data is, or goes to, the start of its buffer.
    ///
    /// # Panics
    /// If the identifier is in use or the data is longer than the buffer.
    #[inline]
    pub fn submit(&mut self, sqe: &Sqe, data: CommandData) -> bool {
        let len = match data {
            CommandData::None => 0,
            CommandData::Read(len) | CommandData::InCapsule(len) | CommandData::Write(len) => len,
        };
        assert!(
            len as usize <= self.buffer_len,
            "data longer than its buffer"
        );
        self.host.submit_command(sqe, data)
    }

    /// Sends what is queued, as far as the socket takes it. Completions that waited for it are appended to `events`.
    ///
    /// # Errors
    /// [`ConnectionError`] if the socket failed.
    #[inline]
    pub fn send(&mut self, events: &mut Vec<HostEvent>) -> Result<(), ConnectionError> {
        while let Some(order) = self.host.poll_digest_order() {
            let at = order.token.0 as usize * self.stride + order.offset as usize;
            let digest = crc32c(&self.arena[at..at + order.len as usize]);
            self.host.handle_digest(order, digest);
        }
        while self.host.has_transmit() {
            let mut pieces = [IoSlice::new(&[]); GATHER_MAX];
            let mut count = 0;
            for chunk in self.host.transmit().take(GATHER_MAX) {
                pieces[count] = IoSlice::new(match chunk {
                    Chunk::Bytes(bytes) => bytes,
                    Chunk::Data { token, offset, len } => {
                        let at = token.0 as usize * self.stride + offset as usize;
                        &self.arena[at..at + len as usize]
                    }
                });
                count += 1;
            }
            self.system_calls += 1;
            match (&self.stream).write_vectored(&pieces[..count]) {
                Ok(sent) => self.host.handle_sent(sent),
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error.into()),
            }
            while let Some(event) = self.host.poll_event() {
                events.push(event);
            }
        }
        Ok(())
    }

    /// Receives once and takes in what came; whether anything did. Events are appended to `events`.
    ///
    /// # Errors
    /// [`ConnectionError`] if the connection is over.
    #[inline]
    pub fn receive(
        &mut self,
        now: Instant,
        events: &mut Vec<HostEvent>,
    ) -> Result<bool, ConnectionError> {
        self.system_calls += 1;
        let received = match self.direct() {
            Some((at, len)) => self.receive_direct(at, len, events),
            None => (&self.stream)
                .read(&mut self.staging[self.staged..])
                .inspect(|len| self.staged += len),
        };
        match received {
            Ok(0) => Err(ConnectionError::Closed),
            Ok(_) => {
                self.take(now, events)?;
                Ok(true)
            }
            Err(error) => match error.kind() {
                ErrorKind::WouldBlock | ErrorKind::Interrupted => Ok(false),
                _ => Err(error.into()),
            },
        }
    }

    /// Where to receive without a copy: place in the arena and length, if it is worth it.
    #[inline]
    fn direct(&self) -> Option<(usize, usize)> {
        match self.host.want() {
            Want::Payload { dst, offset, len }
                if self.placing && len as usize >= DIRECT_LEN_MIN && self.staged == 0 =>
            {
                let at = usize::from(dst) * self.stride + offset as usize;
                Some((at, len as usize))
            }
            Want::Payload { .. } | Want::Header(_) => None,
            Want::Congested | Want::Flush | Want::Close => None,
        }
    }

    /// Receives into the arena, and what follows into the staging area; bytes in all.
    fn receive_direct(
        &mut self,
        at: usize,
        len: usize,
        events: &mut Vec<HostEvent>,
    ) -> io::Result<usize> {
        let mut pieces = [
            IoSliceMut::new(&mut self.arena[at..at + len]),
            IoSliceMut::new(&mut self.staging[..]),
        ];
        let received = (&self.stream).read_vectored(&mut pieces)?;
        let placed = received.min(len);
        self.staged = received - placed;
        if placed > 0 {
            events.extend(self.host.handle_payload(&self.arena[at..at + placed]));
        }
        Ok(received)
    }

    #[inline]
    fn take(&mut self, now: Instant, events: &mut Vec<HostEvent>) -> Result<(), ConnectionError> {
        let mut at = 0;
        while at < self.staged {
            let bytes = &self.staging[at..self.staged];
            let event = match self.host.want() {
                Want::Header(at_least) => {
                    if bytes.len() < at_least {
                        break;
                    }
                    let step = self
                        .host
                        .handle_header(now, bytes)
                        .map_err(ConnectionError::Fault)?;
                    at += step.taken;
                    step.event
                }
                Want::Payload { dst, offset, len } => {
                    let bytes = &bytes[..bytes.len().min(len as usize)];
                    at += bytes.len();
                    if self.placing {
                        let to = usize::from(dst) * self.stride + offset as usize;
                        self.arena[to..to + bytes.len()].copy_from_slice(bytes);
                    }
                    self.host.handle_payload(bytes)
                }
                Want::Congested | Want::Flush | Want::Close => return Err(ConnectionError::Closed),
            };
            events.extend(event);
        }
        self.staging.copy_within(at..self.staged, 0);
        self.staged -= at;
        Ok(())
    }
}
