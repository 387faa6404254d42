//! One command at a time, blocking: for tests, and for the parts of the tool that are not hot.

use crate::address::Target;
use crate::connection::ConnectionError;
use crate::session::{Session, SessionError, SessionOptions, completion};
use nvme_initiator::{DiscoveryError, DiscoveryReader, Event, NamespaceInfo, Transfer, command};
use nvme_spec::discovery::DiscoveryEntry;
use nvme_spec::event::AsyncEvent;
use nvme_spec::identify::{IdentifyCommand, PAGE_LEN};
use nvme_spec::io::DsmRange;
use nvme_spec::log::GetLogPage;
use nvme_spec::reservation::{Keys, ReservationCommand};
use nvme_spec::{Cqe, Sqe, Status};
use nvme_tcp::{CommandData, HostEvent};
use std::collections::VecDeque;
use std::fmt;
use std::time::{Duration, Instant};

/// Why a call did not succeed.
#[derive(Debug)]
pub enum ClientError {
    /// There is no association, or no longer.
    Session(SessionError),
    /// The controller completed the command with this status.
    Status(Cqe),
    /// Data arrived with a wrong digest.
    DataDigest,
    /// Success, with fewer bytes than asked for.
    DataShort,
    /// No completion within the timeout; the association is of no further use.
    Timeout,
    /// The request is longer than the client's buffers, or has no I/O queue to go to.
    Refused,
    /// The discovery log is not readable.
    Discovery(DiscoveryError),
}

impl fmt::Display for ClientError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Session(error) => error.fmt(f),
            Self::Status(cqe) => write!(f, "command failed with status {}", cqe.status),
            Self::DataDigest => f.write_str("data digest mismatch"),
            Self::DataShort => f.write_str("fewer bytes than asked for"),
            Self::Timeout => f.write_str("no completion in time"),
            Self::Refused => f.write_str("longer than the buffer, or no queue for it"),
            Self::Discovery(error) => error.fmt(f),
        }
    }
}

impl std::error::Error for ClientError {}

impl From<SessionError> for ClientError {
    fn from(error: SessionError) -> Self {
        Self::Session(error)
    }
}

impl From<ConnectionError> for ClientError {
    fn from(error: ConnectionError) -> Self {
        Self::Session(error.into())
    }
}

impl ClientError {
    /// The status, if the controller gave one.
    pub fn status(&self) -> Option<Status> {
        match self {
            Self::Status(cqe) => Some(cqe.status),
            Self::Session(_)
            | Self::DataDigest
            | Self::DataShort
            | Self::Timeout
            | Self::Refused
            | Self::Discovery(_) => None,
        }
    }
}

/// Data of a raw command.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum IoData<'a> {
    /// None.
    None,
    /// These bytes to the controller: inside the capsule if they fit, else when it asks for them.
    Out(&'a [u8]),
    /// These bytes to the controller, only when it asks for them.
    OutOnRequest(&'a [u8]),
    /// Up to so many bytes from the controller.
    In(u32),
}

/// A completed command.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Completed {
    /// Its completion, whatever the status.
    pub cqe: Cqe,
    /// Data received.
    pub data: Vec<u8>,
}

/// A blocking NVMe/TCP host with one or more I/O queues.
#[derive(Debug)]
pub struct Client {
    session: Session,
    timeout: Duration,
    buffer_len: usize,
    next_token: u32,
    async_events: VecDeque<AsyncEvent>,
}

impl Client {
    /// Connects and brings the controller up.
    ///
    /// # Errors
    /// [`ClientError::Session`].
    pub fn connect(target: &Target, options: SessionOptions) -> Result<Self, ClientError> {
        let timeout = options.timeout;
        let buffer_len = options.buffer_len;
        Ok(Self {
            session: Session::connect(target, options)?,
            timeout,
            buffer_len,
            next_token: 0,
            async_events: VecDeque::new(),
        })
    }

    /// The association, for what the bring-up learned.
    pub fn session(&self) -> &Session {
        &self.session
    }

    /// The namespaces found at bring-up.
    pub fn namespaces(&self) -> &[NamespaceInfo] {
        self.session.initiator().namespaces()
    }

    /// Any command on I/O queue `queue` (0 the first), waited for. Its command identifier is set here.
    ///
    /// # Errors
    /// [`ClientError`], but never `Status`: that is the caller's to judge.
    pub fn raw(
        &mut self,
        queue: usize,
        sqe: Sqe,
        data: IoData<'_>,
    ) -> Result<Completed, ClientError> {
        let mut completed = self.raw_all(queue, &[(sqe, data)])?;
        completed.pop().ok_or(ClientError::Timeout)
    }

    /// Several commands on one I/O queue, queued together and all waited for; completions in the order of `commands`.
    ///
    /// # Errors
    /// As [`Self::raw`]; `Refused` also for more commands than the queue holds.
    pub fn raw_all(
        &mut self,
        queue: usize,
        commands: &[(Sqe, IoData<'_>)],
    ) -> Result<Vec<Completed>, ClientError> {
        let in_capsule_max = self.session.initiator().controller().in_capsule_max as usize;
        let queue_entries = self.session.initiator().controller().queue_entries as usize;
        let buffer_len = self.buffer_len;
        let connection = self
            .session
            .io()
            .get_mut(queue)
            .ok_or(ClientError::Refused)?;
        if commands.len() > queue_entries {
            return Err(ClientError::Refused);
        }
        for (cid, (sqe, data)) in commands.iter().enumerate() {
            let mut sqe = *sqe;
            sqe.set_cid(cid as u16);
            let (bytes, data): (&[u8], _) = match *data {
                IoData::None => (&[], CommandData::None),
                IoData::In(len) => (&[], CommandData::Read(len)),
                IoData::Out(bytes) if bytes.len() <= in_capsule_max => {
                    (bytes, CommandData::InCapsule(bytes.len() as u32))
                }
                IoData::Out(bytes) | IoData::OutOnRequest(bytes) => {
                    (bytes, CommandData::Write(bytes.len() as u32))
                }
            };
            if bytes.len() > buffer_len
                || matches!(data, CommandData::Read(len) if len as usize > buffer_len)
            {
                return Err(ClientError::Refused);
            }
            connection.buffer_mut(cid as u16)[..bytes.len()].copy_from_slice(bytes);
            if !connection.submit(&sqe, data) {
                return Err(ConnectionError::Closed.into());
            }
        }
        self.wait_all(queue, commands.len())
    }

    fn wait_all(&mut self, queue: usize, count: usize) -> Result<Vec<Completed>, ClientError> {
        let deadline = Instant::now() + self.timeout;
        let mut done: Vec<Option<Completed>> = vec![None; count];
        let mut left = count;
        let mut events: Vec<HostEvent> = Vec::new();
        while left > 0 {
            let now = Instant::now();
            if now >= deadline {
                return Err(ClientError::Timeout);
            }
            let connection = &mut self.session.io()[queue];
            connection.send(&mut events)?;
            connection.receive(now, &mut events)?;
            for event in events.drain(..) {
                let Some((cqe, data_len, data_ok)) = completion(event) else {
                    continue;
                };
                if !data_ok {
                    return Err(ClientError::DataDigest);
                }
                let data = connection.buffer(cqe.cid)[..data_len].to_vec();
                done[usize::from(cqe.cid)] = Some(Completed { cqe, data });
                left -= 1;
            }
            self.service(now)?;
            if left > 0 {
                self.session.sleep(deadline - now)?;
            }
        }
        Ok(done.into_iter().flatten().collect())
    }

    /// A raw command that has to succeed and to return all its data.
    fn io(&mut self, sqe: Sqe, data: IoData<'_>) -> Result<Vec<u8>, ClientError> {
        let done = self.raw(0, sqe, data)?;
        check(&done.cqe)?;
        match data {
            IoData::In(len) if done.data.len() < len as usize => Err(ClientError::DataShort),
            IoData::In(_) | IoData::None | IoData::Out(_) | IoData::OutOnRequest(_) => {
                Ok(done.data)
            }
        }
    }

    fn block_len(&self, nsid: u32) -> usize {
        let namespace = self.namespaces().iter().find(|n| n.nsid == nsid);
        namespace.map_or(512, |n| n.block_len as usize)
    }

    fn blocks(&self, nsid: u32, data: &[u8]) -> Result<u32, ClientError> {
        let block_len = self.block_len(nsid);
        if data.is_empty() || !data.len().is_multiple_of(block_len) {
            return Err(ClientError::Refused);
        }
        u32::try_from(data.len() / block_len).map_err(|_| ClientError::Refused)
    }

    /// Reads `blocks` blocks at `slba`.
    ///
    /// # Errors
    /// [`ClientError`].
    pub fn read(&mut self, nsid: u32, slba: u64, blocks: u32) -> Result<Vec<u8>, ClientError> {
        let len = blocks * self.block_len(nsid) as u32;
        self.io(command::read(0, nsid, slba, blocks), IoData::In(len))
    }

    /// Writes whole blocks at `slba`.
    ///
    /// # Errors
    /// [`ClientError`]; `Refused` if `data` is not a whole number of blocks.
    pub fn write(&mut self, nsid: u32, slba: u64, data: &[u8]) -> Result<(), ClientError> {
        let blocks = self.blocks(nsid, data)?;
        let sqe = command::write(0, nsid, slba, blocks, false);
        self.io(sqe, IoData::Out(data)).map(drop)
    }

    /// Compares whole blocks at `slba` with `data`; status Compare Failure if they differ.
    ///
    /// # Errors
    /// [`ClientError`].
    pub fn compare(&mut self, nsid: u32, slba: u64, data: &[u8]) -> Result<(), ClientError> {
        let blocks = self.blocks(nsid, data)?;
        let sqe = command::compare(0, nsid, slba, blocks);
        self.io(sqe, IoData::Out(data)).map(drop)
    }

    /// Writes `write` at `slba` if the blocks there equal `compare`, as one fused pair. Both completions, whatever their
    /// status.
    ///
    /// # Errors
    /// [`ClientError`], but never `Status`.
    pub fn fused_compare_write(
        &mut self,
        nsid: u32,
        slba: u64,
        compare: &[u8],
        write: &[u8],
    ) -> Result<(Cqe, Cqe), ClientError> {
        let blocks = self.blocks(nsid, compare)?;
        let (first, second) = command::fused_compare_write((0, 1), nsid, slba, blocks);
        let commands = [(first, IoData::Out(compare)), (second, IoData::Out(write))];
        let done = self.raw_all(0, &commands)?;
        Ok((done[0].cqe, done[1].cqe))
    }

    /// Flush.
    ///
    /// # Errors
    /// [`ClientError`].
    pub fn flush(&mut self, nsid: u32) -> Result<(), ClientError> {
        self.io(command::flush(0, nsid), IoData::None).map(drop)
    }

    /// Write Zeroes.
    ///
    /// # Errors
    /// [`ClientError`].
    pub fn write_zeroes(
        &mut self,
        nsid: u32,
        slba: u64,
        blocks: u32,
        deallocate: bool,
    ) -> Result<(), ClientError> {
        let sqe = command::write_zeroes(0, nsid, slba, blocks, deallocate);
        self.io(sqe, IoData::None).map(drop)
    }

    /// Dataset Management, deallocate: 1 to 256 ranges of (first block, blocks).
    ///
    /// # Errors
    /// [`ClientError`]; `Refused` for no or too many ranges.
    pub fn deallocate(&mut self, nsid: u32, ranges: &[(u64, u32)]) -> Result<(), ClientError> {
        if !(1..=256).contains(&ranges.len()) {
            return Err(ClientError::Refused);
        }
        let data: Vec<u8> = ranges
            .iter()
            .flat_map(|(slba, blocks)| {
                let range = DsmRange {
                    attributes: 0,
                    blocks: *blocks,
                    slba: *slba,
                };
                range.emit()
            })
            .collect();
        let sqe = command::deallocate(0, nsid, ranges.len() as u32);
        self.io(sqe, IoData::Out(&data)).map(drop)
    }

    /// Reservation Register.
    ///
    /// # Errors
    /// [`ClientError`].
    pub fn reservation_register(
        &mut self,
        nsid: u32,
        command: ReservationCommand,
        keys: Keys,
    ) -> Result<(), ClientError> {
        let sqe = command::reservation_register(0, nsid, command);
        self.io(sqe, IoData::Out(&keys.emit())).map(drop)
    }

    /// Reservation Acquire.
    ///
    /// # Errors
    /// [`ClientError`].
    pub fn reservation_acquire(
        &mut self,
        nsid: u32,
        command: ReservationCommand,
        keys: Keys,
    ) -> Result<(), ClientError> {
        let sqe = command::reservation_acquire(0, nsid, command);
        self.io(sqe, IoData::Out(&keys.emit())).map(drop)
    }

    /// Reservation Release with the current key.
    ///
    /// # Errors
    /// [`ClientError`].
    pub fn reservation_release(
        &mut self,
        nsid: u32,
        command: ReservationCommand,
        key: u64,
    ) -> Result<(), ClientError> {
        let sqe = command::reservation_release(0, nsid, command);
        self.io(sqe, IoData::Out(&key.to_le_bytes())).map(drop)
    }

    /// Reservation Report: `bytes` bytes of the status structure, a multiple of 4.
    ///
    /// # Errors
    /// [`ClientError`].
    pub fn reservation_report(
        &mut self,
        nsid: u32,
        bytes: u32,
        extended: bool,
    ) -> Result<Vec<u8>, ClientError> {
        let sqe = command::reservation_report(0, nsid, bytes, extended);
        self.io(sqe, IoData::In(bytes))
    }

    /// Any admin command, waited for, whatever its status. At most 64 KiB of data.
    ///
    /// # Errors
    /// [`ClientError`], but never `Status`.
    pub fn admin(&mut self, sqe: Sqe, data: Transfer) -> Result<Completed, ClientError> {
        let len = match &data {
            Transfer::None => 0,
            Transfer::Out(bytes) => bytes.len(),
            Transfer::In(len) => *len as usize,
        };
        if len > 64 * 1024 {
            return Err(ClientError::Refused);
        }
        let token = self.next_token;
        self.next_token = token.wrapping_add(1);
        if !self.session.submit_admin(token, sqe, data) {
            return Err(ClientError::Refused);
        }
        let deadline = Instant::now() + self.timeout;
        loop {
            let now = Instant::now();
            self.session.service(now)?;
            while let Some(event) = self.session.poll_event() {
                match event {
                    Event::AdminDone {
                        token: t,
                        cqe,
                        data,
                    } if t == token => {
                        return Ok(Completed { cqe, data });
                    }
                    Event::AsyncEvent(event) => self.async_events.push_back(event),
                    Event::AdminDone { .. } | Event::OpenQueue(_) | Event::Ready => {}
                }
            }
            if now >= deadline {
                return Err(ClientError::Timeout);
            }
            self.session.sleep(deadline - now)?;
        }
    }

    /// An admin command that reads data and has to succeed.
    ///
    /// # Errors
    /// [`ClientError`].
    pub fn admin_read(&mut self, sqe: Sqe, len: u32) -> Result<Vec<u8>, ClientError> {
        let done = self.admin(sqe, Transfer::In(len))?;
        check(&done.cqe)?;
        Ok(done.data)
    }

    /// Identify structure `cns` of namespace `nsid`, 4096 bytes.
    ///
    /// # Errors
    /// [`ClientError`].
    pub fn identify(&mut self, cns: u8, nsid: u32) -> Result<Vec<u8>, ClientError> {
        let command = IdentifyCommand {
            cns,
            cntid: 0,
            csi: 0,
        };
        self.admin_read(command.emit(0, nsid), PAGE_LEN as u32)
    }

    /// `bytes` bytes, a multiple of 4, of log page `lid`.
    ///
    /// # Errors
    /// [`ClientError`].
    pub fn log_page(&mut self, lid: u8, nsid: u32, bytes: u32) -> Result<Vec<u8>, ClientError> {
        let command = GetLogPage {
            lid,
            bytes: bytes.into(),
            ..GetLogPage::default()
        };
        self.admin_read(command.emit(0, nsid), bytes)
    }

    /// The discovery log of the controller connected to.
    ///
    /// # Errors
    /// [`ClientError`].
    pub fn discovery_log(&mut self) -> Result<Vec<DiscoveryEntry>, ClientError> {
        let mut reader = DiscoveryReader::new();
        while let Some(command) = reader.poll_command() {
            let data = self.admin_read(command.emit(0, 0), command.bytes as u32)?;
            reader.handle_data(&data).map_err(ClientError::Discovery)?;
        }
        Ok(reader.into_entries().1)
    }

    /// Waits at most `timeout` for an asynchronous event.
    ///
    /// # Errors
    /// [`ClientError::Session`] if the association ends meanwhile.
    pub fn async_event(&mut self, timeout: Duration) -> Result<Option<AsyncEvent>, ClientError> {
        let deadline = Instant::now() + timeout;
        loop {
            let now = Instant::now();
            self.service(now)?;
            if let Some(event) = self.async_events.pop_front() {
                return Ok(Some(event));
            }
            if now >= deadline {
                return Ok(None);
            }
            self.session.sleep(deadline - now)?;
        }
    }

    fn service(&mut self, now: Instant) -> Result<(), ClientError> {
        self.session.service(now)?;
        while let Some(event) = self.session.poll_event() {
            match event {
                Event::AsyncEvent(event) => self.async_events.push_back(event),
                Event::AdminDone { .. } | Event::OpenQueue(_) | Event::Ready => {}
            }
        }
        Ok(())
    }
}

/// The entries a discovery service offers.
///
/// # Errors
/// [`ClientError`].
pub fn discover(
    target: &Target,
    options: SessionOptions,
) -> Result<Vec<DiscoveryEntry>, ClientError> {
    let options = SessionOptions {
        io_queues: 0,
        ..options
    };
    Client::connect(target, options)?.discovery_log()
}

fn check(cqe: &Cqe) -> Result<(), ClientError> {
    if cqe.status.is_success() {
        Ok(())
    } else {
        Err(ClientError::Status(*cqe))
    }
}
