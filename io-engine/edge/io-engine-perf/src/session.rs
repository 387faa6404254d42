//! One association with a subsystem: an admin queue and I/O queues, brought up by blocking, kept alive by calling.

use crate::address::{HostIdentity, Target};
use crate::connection::{Connection, ConnectionError};
use crate::socket;
use nvme_initiator::limits::ADMIN_QUEUE_ENTRIES;
use nvme_initiator::{Command, Event, Initiator, InitiatorConfig, Transfer};
use nvme_spec::Cqe;
use nvme_tcp::{CommandData, HostConfig, HostEvent};
use std::collections::VecDeque;
use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

/// Bytes of buffer of an admin command.
const ADMIN_BUFFER_LEN: usize = 64 * 1024;

/// In-capsule data of the admin queue and of Connect (TCP Transport 1.0c §3.6.2.6).
const ADMIN_IN_CAPSULE_MAX: usize = 8192;

/// How to connect.
#[derive(Clone, Debug)]
pub struct SessionOptions {
    /// Who asks.
    pub host: HostIdentity,
    /// Ask for header digests.
    pub header_digest: bool,
    /// Ask for data digests.
    pub data_digest: bool,
    /// TCP congestion control, the system's where `None`.
    pub congestion: Option<String>,
    /// I/O queues wanted; 0 for a discovery controller.
    pub io_queues: u16,
    /// Entries per I/O queue wanted, and commands it can have outstanding.
    pub queue_entries: u32,
    /// Bytes of buffer per I/O command.
    pub buffer_len: usize,
    /// Whether data read is kept in the buffers.
    pub placing: bool,
    /// Keep alive timeout; zero for none.
    pub keep_alive: Duration,
    /// Time for TCP connect, for each step of the bring-up, and for each admin command.
    pub timeout: Duration,
}

impl SessionOptions {
    /// One I/O queue of 32 entries with 128 KiB each, no digests, no keep alive, 10 s to connect.
    pub fn new(host: HostIdentity) -> Self {
        Self {
            host,
            header_digest: false,
            data_digest: false,
            congestion: None,
            io_queues: 1,
            queue_entries: 32,
            buffer_len: 128 * 1024,
            placing: true,
            keep_alive: Duration::ZERO,
            timeout: Duration::from_secs(10),
        }
    }
}

/// Why there is no association.
#[derive(Debug)]
pub enum SessionError {
    /// The target's address cannot be found or connected to.
    Connect(io::Error),
    /// A connection ended.
    Connection(ConnectionError),
    /// The controller refused, or did not answer.
    Association(nvme_initiator::Error),
}

impl fmt::Display for SessionError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Connect(error) => write!(f, "cannot connect: {error}"),
            Self::Connection(error) => error.fmt(f),
            Self::Association(error) => error.fmt(f),
        }
    }
}

impl std::error::Error for SessionError {}

impl From<ConnectionError> for SessionError {
    fn from(error: ConnectionError) -> Self {
        Self::Connection(error)
    }
}

impl From<nvme_initiator::Error> for SessionError {
    fn from(error: nvme_initiator::Error) -> Self {
        Self::Association(error)
    }
}

/// An association that is up. [`Session::service`] is to be called at least a few times per keep alive timeout.
#[derive(Debug)]
pub struct Session {
    options: SessionOptions,
    addresses: Vec<SocketAddr>,
    initiator: Initiator,
    admin: Option<Connection>,
    io: Vec<Connection>,
    /// Events the user has not taken.
    events: VecDeque<Event>,
    host_events: Vec<HostEvent>,
}

impl Session {
    /// Connects to `target` and brings everything up.
    ///
    /// # Errors
    /// [`SessionError`], after at most about a dozen times the timeout.
    pub fn connect(target: &Target, options: SessionOptions) -> Result<Self, SessionError> {
        let mut config = InitiatorConfig::new(&options.host.nqn, options.host.id, &target.nqn);
        config.io_queues = options.io_queues;
        config.queue_entries = options.queue_entries.clamp(2, 1 << 16);
        config.keep_alive = options.keep_alive;
        config.command_timeout = options.timeout;
        let mut session = Self {
            addresses: target.addresses().map_err(SessionError::Connect)?,
            initiator: Initiator::new(config),
            admin: None,
            io: Vec::new(),
            events: VecDeque::new(),
            host_events: Vec::new(),
            options,
        };
        while !session.events.contains(&Event::Ready) {
            let step = session.initiator.step();
            session.service(Instant::now())?;
            session.open_queues()?;
            session.service_io(Instant::now())?;
            if session.initiator.step() == step {
                session.sleep(Duration::from_millis(100))?;
            }
        }
        session.events.retain(|event| *event != Event::Ready);
        Ok(session)
    }

    /// What the bring-up learned.
    pub fn initiator(&self) -> &Initiator {
        &self.initiator
    }

    /// The I/O queues. They are driven by the user from the end of the bring-up on.
    pub fn io(&mut self) -> &mut [Connection] {
        &mut self.io
    }

    /// Next event of the association: asynchronous events and completed admin commands.
    pub fn poll_event(&mut self) -> Option<Event> {
        self.events.pop_front()
    }

    /// Queues an admin command; its end is [`Event::AdminDone`]. Whether there was room.
    pub fn submit_admin(&mut self, token: u32, sqe: nvme_spec::Sqe, data: Transfer) -> bool {
        self.initiator
            .submit_admin(Instant::now(), token, sqe, data)
    }

    /// Moves the admin queue: timers, commands, completions.
    ///
    /// # Errors
    /// [`SessionError`] if the association is over.
    pub fn service(&mut self, now: Instant) -> Result<(), SessionError> {
        self.initiator.handle_timeout(now)?;
        self.submit_commands();
        self.service_admin(now)?;
        self.submit_commands();
        if let Some(admin) = &mut self.admin {
            admin.send(&mut self.host_events)?;
        }
        while let Some(event) = self.initiator.poll_event() {
            self.events.push_back(event);
        }
        Ok(())
    }

    fn service_admin(&mut self, now: Instant) -> Result<(), SessionError> {
        let Some(admin) = &mut self.admin else {
            return Ok(());
        };
        admin.handle_timeout(now)?;
        admin.send(&mut self.host_events)?;
        while admin.receive(now, &mut self.host_events)? {}
        let mut events = core::mem::take(&mut self.host_events);
        for event in events.drain(..) {
            if let Some((cqe, data_len, data_ok)) = completion(event) {
                let admin = self.admin.as_ref().expect("it has just been used");
                let data = &admin.buffer(cqe.cid)[..data_len];
                self.initiator
                    .handle_completion(now, 0, &cqe, data, data_ok)?;
            }
        }
        self.host_events = events;
        Ok(())
    }

    /// When [`Self::service`] has something to do even if nothing arrives.
    pub fn poll_timeout(&self) -> Option<Instant> {
        let connections = self.admin.iter().chain(&self.io);
        let deadlines = connections.filter_map(Connection::poll_timeout);
        deadlines.chain(self.initiator.poll_timeout()).min()
    }

    /// Sleeps until a socket has something, a timer is due, or `most` is over.
    ///
    /// # Errors
    /// [`SessionError::Connect`] if `poll` fails.
    pub fn sleep(&self, most: Duration) -> Result<(), SessionError> {
        let left = self
            .poll_timeout()
            .map(|at| at.saturating_duration_since(Instant::now()));
        let connections = || self.admin.iter().chain(&self.io);
        let readable = connections().map(|c| c.stream() as &dyn socket::AsFdDyn);
        let writable = connections()
            .filter(|c| c.has_unsent())
            .map(|c| c.stream() as &dyn socket::AsFdDyn);
        let timeout = left.map_or(most, |left| left.min(most));
        socket::wait(readable, writable, timeout).map_err(SessionError::Connect)
    }

    /// Opens the connections the bring-up asks for.
    fn open_queues(&mut self) -> Result<(), SessionError> {
        let mut wanted = Vec::new();
        self.events.retain(|event| match event {
            Event::OpenQueue(qid) => {
                wanted.push(*qid);
                false
            }
            Event::Ready | Event::AdminDone { .. } | Event::AsyncEvent(_) => true,
        });
        for qid in wanted {
            let mut connection = self.open(qid)?;
            self.initialize(&mut connection)?;
            if qid == 0 {
                self.admin = Some(connection);
            } else {
                self.io.push(connection);
            }
            self.initiator.handle_queue_open(Instant::now(), qid);
        }
        Ok(())
    }

    fn open(&self, qid: u16) -> Result<Connection, SessionError> {
        let options = &self.options;
        let congestion = options.congestion.as_deref();
        let stream = socket::connect(&self.addresses, congestion, options.timeout)
            .map_err(SessionError::Connect)?;
        let (commands, buffer_len, placing) = if qid == 0 {
            (ADMIN_QUEUE_ENTRIES, ADMIN_BUFFER_LEN, true)
        } else {
            // Connect's data goes through a buffer too.
            let len = options.buffer_len.max(1024);
            (options.queue_entries, len, options.placing)
        };
        let config = HostConfig {
            header_digest: options.header_digest,
            data_digest: options.data_digest,
            commands_max: commands as usize,
            handshake_timeout: options.timeout,
            ..HostConfig::default()
        };
        Ok(Connection::new(stream, config, buffer_len, placing))
    }

    /// Waits for ICResp.
    fn initialize(&mut self, connection: &mut Connection) -> Result<(), SessionError> {
        while !connection.is_ready() {
            connection.send(&mut self.host_events)?;
            let timeout = self.options.timeout;
            let stream = connection.stream() as &dyn socket::AsFdDyn;
            socket::wait(std::iter::once(stream), std::iter::empty(), timeout)
                .map_err(SessionError::Connect)?;
            connection.receive(Instant::now(), &mut self.host_events)?;
            connection.handle_timeout(Instant::now())?;
        }
        self.host_events.clear();
        Ok(())
    }

    /// During bring-up, the I/O queues carry Connect only.
    fn service_io(&mut self, now: Instant) -> Result<(), SessionError> {
        for (index, connection) in self.io.iter_mut().enumerate() {
            connection.send(&mut self.host_events)?;
            connection.receive(now, &mut self.host_events)?;
            for event in self.host_events.drain(..) {
                if let Some((cqe, _, data_ok)) = completion(event) {
                    let qid = index as u16 + 1;
                    self.initiator
                        .handle_completion(now, qid, &cqe, &[], data_ok)?;
                }
            }
        }
        Ok(())
    }

    fn submit_commands(&mut self) {
        while let Some(Command { qid, sqe, data }) = self.initiator.poll_command() {
            let connection = match qid {
                0 => self.admin.as_mut(),
                qid => self.io.get_mut(usize::from(qid) - 1),
            };
            let Some(connection) = connection else {
                continue;
            };
            let data = match data {
                Transfer::None => CommandData::None,
                Transfer::In(len) => CommandData::Read(len),
                Transfer::Out(bytes) => {
                    let len = bytes.len();
                    connection.buffer_mut(sqe.cid())[..len].copy_from_slice(&bytes);
                    if len <= ADMIN_IN_CAPSULE_MAX {
                        CommandData::InCapsule(len as u32)
                    } else {
                        CommandData::Write(len as u32)
                    }
                }
            };
            connection.submit(&sqe, data);
        }
    }
}

/// Completion, bytes of data and whether they are good, if the event is one.
pub(crate) fn completion(event: HostEvent) -> Option<(Cqe, usize, bool)> {
    match event {
        HostEvent::Ready { .. } => None,
        HostEvent::Completion {
            cqe,
            data_len,
            data_ok,
        } => Some((cqe, data_len as usize, data_ok)),
    }
}
