//! From the first Connect to a list of namespaces, and the admin queue afterwards.
//!
//! | step | sends | on success |
//! |---|---|---|
//! | `OpenAdmin` | event `OpenQueue(0)` | `handle_queue_open` → `ConnectAdmin` |
//! | `ConnectAdmin` | Connect, queue 0 | `ReadCapabilities` |
//! | `ReadCapabilities` | Property Get CAP | `ReadVersion` |
//! | `ReadVersion` | Property Get VS | `Enable` |
//! | `Enable` | Property Set CC.EN | `AwaitReady` |
//! | `AwaitReady` | Property Get CSTS, every 10 ms | RDY → `IdentifyController` |
//! | `IdentifyController` | Identify CNS 01h | no I/O queues → `Ready`, else `SetQueueCount` |
//! | `SetQueueCount` | Set Features 07h | `ConnectIo` |
//! | `ConnectIo` | event `OpenQueue(n)`, Connect on each | all up → `ListNamespaces` |
//! | `ListNamespaces` | Identify CNS 02h | none → `Ready`, else `IdentifyNamespace` |
//! | `IdentifyNamespace` | Identify CNS 00h | `DescribeNamespace` |
//! | `DescribeNamespace` | Identify CNS 03h | next namespace, or `Ready` |
//! | `Ready` | Keep Alive, Asynchronous Event Request, the user's commands | |
//! | `Failed` | nothing | |
//!
//! Any error completion, short data or timeout leads to `Failed`; Base 2.0c §3.5.1 and §6.

use crate::association::{
    Command, ControllerInfo, Event, InitiatorConfig, NamespaceInfo, Step, Transfer,
};
use crate::command;
use crate::error::Error;
use crate::limits::{ADMIN_QUEUE_ENTRIES, NAMESPACES_MAX, READY_POLL_INTERVAL};
use nvme_spec::event::AsyncEvent;
use nvme_spec::fabrics::{
    CNTLID_DYNAMIC, ConnectCommand, ConnectData, ConnectResult, PropertyCommand,
};
use nvme_spec::feature::{NUMBER_OF_QUEUES, QueueCounts};
use nvme_spec::identify::{
    IdentifyCommand, IdentifyController, IdentifyNamespace, NamespaceDescriptors, PAGE_LEN, Page,
    cns, parse_namespace_list,
};
use nvme_spec::register::{self, Cap, Cc, Csts};
use nvme_spec::{Cqe, Sgl, Sqe};
use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// Whose an admin command is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Purpose {
    BringUp,
    KeepAlive,
    AsyncEvent,
    User(u32),
}

#[derive(Clone, Copy, Debug)]
struct Pending {
    purpose: Purpose,
    /// Bytes of data expected, all of which must come with success.
    data_len: u32,
    deadline: Option<Instant>,
}

/// One association with a controller. See the module's table.
#[derive(Debug)]
pub struct Initiator {
    config: InitiatorConfig,
    step: Step,
    error: Option<Error>,
    /// By command identifier.
    admin: Vec<Option<Pending>>,
    /// Deadline of each I/O queue's Connect, index `qid - 1`; `None` once it is connected or not begun.
    connects: Vec<Option<Instant>>,
    connected: u16,
    ready_poll: Option<Instant>,
    ready_deadline: Option<Instant>,
    keep_alive_at: Option<Instant>,
    info: ControllerInfo,
    nsids: Vec<u32>,
    namespaces: Vec<NamespaceInfo>,
    commands: VecDeque<Command>,
    events: VecDeque<Event>,
}

impl Initiator {
    /// An association that wants its admin queue opened.
    ///
    /// # Panics
    /// If `queue_entries` is not in 2 to 65536.
    pub fn new(config: InitiatorConfig) -> Self {
        assert!((2..=1 << 16).contains(&config.queue_entries));
        Self {
            step: Step::OpenAdmin,
            error: None,
            admin: vec![None; ADMIN_QUEUE_ENTRIES as usize - 1],
            connects: Vec::new(),
            connected: 0,
            ready_poll: None,
            ready_deadline: None,
            keep_alive_at: None,
            info: ControllerInfo {
                cntlid: CNTLID_DYNAMIC,
                version: 0,
                cap: Cap::parse(0),
                identify: Box::new([0; PAGE_LEN]),
                io_queues: 0,
                queue_entries: config.queue_entries,
                in_capsule_max: 0,
                transfer_max: None,
            },
            nsids: Vec::new(),
            namespaces: Vec::new(),
            commands: VecDeque::new(),
            events: VecDeque::from([Event::OpenQueue(0)]),
            config,
        }
    }

    /// Where the bring-up is.
    pub fn step(&self) -> Step {
        self.step
    }

    /// Why the association failed, if it has.
    pub fn error(&self) -> Option<Error> {
        self.error
    }

    /// The controller; complete from [`Event::Ready`] on.
    pub fn controller(&self) -> &ControllerInfo {
        &self.info
    }

    /// The namespaces; complete from [`Event::Ready`] on.
    pub fn namespaces(&self) -> &[NamespaceInfo] {
        &self.namespaces
    }

    /// The next command to put on a queue.
    pub fn poll_command(&mut self) -> Option<Command> {
        self.commands.pop_front()
    }

    /// The next event.
    pub fn poll_event(&mut self) -> Option<Event> {
        self.events.pop_front()
    }

    /// When [`Self::handle_timeout`] is to be called.
    pub fn poll_timeout(&self) -> Option<Instant> {
        let commands = self.admin.iter().flatten().filter_map(|p| p.deadline);
        let connects = self.connects.iter().copied().flatten();
        let timers = [self.ready_poll, self.ready_deadline, self.keep_alive_at];
        commands
            .chain(connects)
            .chain(timers.into_iter().flatten())
            .min()
    }

    /// The transport of queue `qid` is up, as [`Event::OpenQueue`] asked: Connect follows.
    pub fn handle_queue_open(&mut self, now: Instant, qid: u16) {
        match (self.step, qid) {
            (Step::OpenAdmin, 0) => {
                self.step = Step::ConnectAdmin;
                let entries = ADMIN_QUEUE_ENTRIES;
                let data = self.connect_data(CNTLID_DYNAMIC);
                let sqe = self.connect(0, entries).emit(0, Sgl::transport(0));
                self.send(now, Purpose::BringUp, sqe, data);
            }
            (Step::ConnectIo, 1..) if usize::from(qid) <= self.connects.len() => {
                let data = self.connect_data(self.info.cntlid);
                let command = self.connect(qid, self.info.queue_entries);
                let sqe = command.emit(0, Sgl::transport(0));
                self.connects[usize::from(qid) - 1] = Some(now + self.config.command_timeout);
                self.commands.push_back(Command { qid, sqe, data });
            }
            _ => {}
        }
    }

    /// Takes the completion of a command from [`Self::poll_command`], with the data received for it.
    ///
    /// # Errors
    /// What ended the association; also by [`Self::error`] from there on.
    pub fn handle_completion(
        &mut self,
        now: Instant,
        qid: u16,
        cqe: &Cqe,
        data: &[u8],
        data_ok: bool,
    ) -> Result<(), Error> {
        if let Some(error) = self.error {
            return Err(error);
        }
        let outcome = if qid == 0 {
            self.admin_completion(now, cqe, data, data_ok)
        } else {
            self.connect_completion(now, qid, cqe)
        };
        outcome.inspect_err(|error| self.fail(*error))
    }

    /// Acts on every deadline that has passed.
    ///
    /// # Errors
    /// What ended the association; also by [`Self::error`] from there on.
    pub fn handle_timeout(&mut self, now: Instant) -> Result<(), Error> {
        if let Some(error) = self.error {
            return Err(error);
        }
        self.timeouts(now).inspect_err(|error| self.fail(*error))
    }

    /// Queues an admin command under the user's `token`; whether there was room for it (only from [`Event::Ready`] on).
    pub fn submit_admin(&mut self, now: Instant, token: u32, sqe: Sqe, data: Transfer) -> bool {
        // One identifier stays free for Keep Alive.
        let free = self.admin.iter().filter(|slot| slot.is_none()).count();
        if self.step != Step::Ready || free < 2 {
            return false;
        }
        self.send(now, Purpose::User(token), sqe, data)
    }

    fn admin_completion(
        &mut self,
        now: Instant,
        cqe: &Cqe,
        data: &[u8],
        data_ok: bool,
    ) -> Result<(), Error> {
        let slot = self.admin.get_mut(usize::from(cqe.cid));
        let Some(pending) = slot.and_then(Option::take) else {
            let (qid, cid) = (0, cqe.cid);
            return Err(Error::CompletionUnknown { qid, cid });
        };
        let whole = data_ok && data.len() >= pending.data_len as usize;
        match pending.purpose {
            Purpose::BringUp => {
                let step = self.step;
                if !cqe.status.is_success() {
                    return Err(refused(step, cqe));
                }
                if !whole {
                    return Err(Error::StepDataInvalid { step });
                }
                self.advance(now, cqe, data)
            }
            Purpose::KeepAlive if cqe.status.is_success() => Ok(()),
            Purpose::KeepAlive => Err(Error::KeepAliveFailed),
            Purpose::AsyncEvent => {
                // A refused request is not repeated: the controller does not support it, or is about to go.
                if cqe.status.is_success() {
                    let event = AsyncEvent::parse(cqe.result);
                    self.events.push_back(Event::AsyncEvent(event));
                    self.post_async_event(now);
                }
                Ok(())
            }
            Purpose::User(_) if cqe.status.is_success() && !whole => {
                Err(Error::StepDataInvalid { step: Step::Ready })
            }
            Purpose::User(token) => {
                self.events.push_back(Event::AdminDone {
                    token,
                    cqe: *cqe,
                    data: data.to_vec(),
                });
                Ok(())
            }
        }
    }

    /// The command of the current step succeeded, all its data being there.
    fn advance(&mut self, now: Instant, cqe: &Cqe, data: &[u8]) -> Result<(), Error> {
        match self.step {
            Step::ConnectAdmin => {
                let result = ConnectResult::parse(cqe.result);
                if result.auth_required {
                    return Err(Error::AuthenticationRequired);
                }
                self.info.cntlid = result.cntlid;
                if !self.config.keep_alive.is_zero() {
                    self.keep_alive_at = Some(now + self.config.keep_alive / 2);
                }
                self.read_property(now, Step::ReadCapabilities, register::CAP, 8);
            }
            Step::ReadCapabilities => {
                self.info.cap = Cap::parse(cqe.result);
                let entries = self.info.cap.queue_entries_max.max(2);
                self.info.queue_entries = self.config.queue_entries.min(entries);
                self.read_property(now, Step::ReadVersion, register::VS, 4);
            }
            Step::ReadVersion => {
                self.info.version = cqe.result as u32;
                self.enable(now);
            }
            Step::Enable => {
                // CAP.TO is in units of 500 ms (Base 2.0c §3.1.3.1); 0 still gets one unit.
                let units = u32::from(self.info.cap.ready_timeout_500ms).max(1);
                self.ready_deadline = Some(now + Duration::from_millis(500) * units);
                self.read_property(now, Step::AwaitReady, register::CSTS, 4);
            }
            Step::AwaitReady => self.check_ready(now, Csts(cqe.result as u32))?,
            Step::IdentifyController => self.controller_identified(now, data)?,
            Step::SetQueueCount => self.open_io_queues(cqe.result as u32),
            Step::ListNamespaces => self.namespaces_listed(now, data)?,
            Step::IdentifyNamespace => self.namespace_identified(now, data)?,
            Step::DescribeNamespace => {
                let page = page(data, Step::DescribeNamespace)?;
                if let Some(namespace) = self.namespaces.last_mut() {
                    namespace.descriptors = NamespaceDescriptors::parse(page);
                }
                self.next_namespace(now);
            }
            // These steps send no admin command of their own.
            Step::OpenAdmin | Step::ConnectIo | Step::Ready | Step::Failed => {}
        }
        Ok(())
    }

    fn enable(&mut self, now: Instant) {
        self.step = Step::Enable;
        let cap = self.info.cap;
        // CSS: all I/O command sets where there are several, none for a discovery controller (Base 2.0c §3.1.3.5).
        let css = if cap.io_command_sets {
            0b110
        } else if cap.admin_only && !cap.nvm_command_set {
            0b111
        } else {
            0
        };
        let value = u64::from(Cc::enable(css).0);
        let sqe = PropertyCommand::set(0, register::CC, 4, value);
        self.send(now, Purpose::BringUp, sqe, Transfer::None);
    }

    fn check_ready(&mut self, now: Instant, csts: Csts) -> Result<(), Error> {
        if csts.is_fatal() {
            return Err(Error::ControllerFatal);
        }
        if !csts.is_ready() {
            self.ready_poll = Some(now + READY_POLL_INTERVAL);
            return Ok(());
        }
        self.ready_deadline = None;
        self.identify(now, Step::IdentifyController, cns::CONTROLLER, 0);
        Ok(())
    }

    fn controller_identified(&mut self, now: Instant, data: &[u8]) -> Result<(), Error> {
        let page = page(data, Step::IdentifyController)?;
        let identify = IdentifyController::parse(page);
        self.info.in_capsule_max = identify.in_capsule_bytes();
        self.info.transfer_max = identify.data_bytes_max();
        *self.info.identify = *page;
        if self.config.io_queues == 0 {
            self.ready(now);
            return Ok(());
        }
        self.step = Step::SetQueueCount;
        let count = u32::from(self.config.io_queues);
        let counts = QueueCounts {
            submission: count,
            completion: count,
        };
        let sqe = command::set_feature(0, 0, NUMBER_OF_QUEUES, counts.emit());
        self.send(now, Purpose::BringUp, sqe, Transfer::None);
        Ok(())
    }

    fn open_io_queues(&mut self, granted: u32) {
        self.step = Step::ConnectIo;
        let granted = QueueCounts::parse(granted);
        let wanted = u32::from(self.config.io_queues);
        let count = wanted.min(granted.submission).min(granted.completion) as u16;
        self.info.io_queues = count;
        self.connects = vec![None; usize::from(count)];
        self.events.extend((1..=count).map(Event::OpenQueue));
    }

    fn connect_completion(&mut self, now: Instant, qid: u16, cqe: &Cqe) -> Result<(), Error> {
        let slot = self.connects.get_mut(usize::from(qid) - 1);
        if slot.and_then(Option::take).is_none() {
            let cid = cqe.cid;
            return Err(Error::CompletionUnknown { qid, cid });
        }
        if !cqe.status.is_success() {
            return Err(refused(Step::ConnectIo, cqe));
        }
        if ConnectResult::parse(cqe.result).auth_required {
            return Err(Error::AuthenticationRequired);
        }
        self.connected += 1;
        if self.connected == self.info.io_queues {
            self.identify(now, Step::ListNamespaces, cns::ACTIVE_NAMESPACES, 0);
        }
        Ok(())
    }

    fn namespaces_listed(&mut self, now: Instant, data: &[u8]) -> Result<(), Error> {
        let page = page(data, Step::ListNamespaces)?;
        self.nsids = parse_namespace_list(page).take(NAMESPACES_MAX).collect();
        self.nsids.reverse();
        self.next_namespace(now);
        Ok(())
    }

    fn next_namespace(&mut self, now: Instant) {
        match self.nsids.last() {
            Some(nsid) => self.identify(now, Step::IdentifyNamespace, cns::NAMESPACE, *nsid),
            None => self.ready(now),
        }
    }

    fn namespace_identified(&mut self, now: Instant, data: &[u8]) -> Result<(), Error> {
        let step = Step::IdentifyNamespace;
        let page = page(data, step)?;
        let Some(nsid) = self.nsids.pop() else {
            return Err(Error::StepDataInvalid { step });
        };
        let shift = IdentifyNamespace::format_in_use(page).block_shift;
        // A namespace that went away meanwhile reads as zeroes (Base 2.0c §5.17.2.1); others have LBADS 9 and up.
        if !(9..=16).contains(&shift) {
            self.next_namespace(now);
            return Ok(());
        }
        self.namespaces.push(NamespaceInfo {
            nsid,
            blocks: IdentifyNamespace::parse(page).nsze,
            block_len: 1 << shift,
            identify: Box::new(*page),
            descriptors: NamespaceDescriptors::default(),
        });
        let step = Step::DescribeNamespace;
        self.identify(now, step, cns::NAMESPACE_DESCRIPTORS, nsid);
        Ok(())
    }

    fn ready(&mut self, now: Instant) {
        self.step = Step::Ready;
        self.events.push_back(Event::Ready);
        if self.config.async_events {
            self.post_async_event(now);
        }
    }

    fn post_async_event(&mut self, now: Instant) {
        let sqe = command::async_event_request(0);
        self.send(now, Purpose::AsyncEvent, sqe, Transfer::None);
    }

    fn timeouts(&mut self, now: Instant) -> Result<(), Error> {
        let is_over = |deadline: Option<Instant>| deadline.is_some_and(|at| at <= now);
        let overdue = self.admin.iter().flatten().find(|p| is_over(p.deadline));
        if let Some(pending) = overdue {
            return Err(match pending.purpose {
                Purpose::KeepAlive => Error::KeepAliveFailed,
                Purpose::BringUp | Purpose::AsyncEvent | Purpose::User(_) => {
                    Error::StepTimeout { step: self.step }
                }
            });
        }
        if self.connects.iter().any(|deadline| is_over(*deadline)) {
            let step = Step::ConnectIo;
            return Err(Error::StepTimeout { step });
        }
        if is_over(self.ready_deadline) {
            return Err(Error::ControllerNotReady);
        }
        if is_over(self.ready_poll) {
            self.ready_poll = None;
            self.read_property(now, Step::AwaitReady, register::CSTS, 4);
        }
        if is_over(self.keep_alive_at) {
            self.keep_alive_at = Some(now + self.config.keep_alive / 2);
            let is_open = |p: &Pending| p.purpose == Purpose::KeepAlive;
            if !self.admin.iter().flatten().any(is_open) {
                let sqe = command::keep_alive(0);
                self.send(now, Purpose::KeepAlive, sqe, Transfer::None);
            }
        }
        Ok(())
    }

    fn fail(&mut self, error: Error) {
        self.step = Step::Failed;
        self.error = Some(error);
        self.commands.clear();
        self.admin.fill(None);
        self.connects.clear();
        self.ready_poll = None;
        self.ready_deadline = None;
        self.keep_alive_at = None;
    }

    fn read_property(&mut self, now: Instant, step: Step, offset: u32, width: u8) {
        self.step = step;
        let sqe = PropertyCommand::get(0, offset, width);
        self.send(now, Purpose::BringUp, sqe, Transfer::None);
    }

    fn identify(&mut self, now: Instant, step: Step, cns: u8, nsid: u32) {
        self.step = step;
        let command = IdentifyCommand {
            cns,
            cntid: 0,
            csi: 0,
        };
        let sqe = command.emit(0, nsid);
        self.send(now, Purpose::BringUp, sqe, Transfer::In(PAGE_LEN as u32));
    }

    fn connect(&self, qid: u16, queue_entries: u32) -> ConnectCommand {
        let keep_alive_ms = self.config.keep_alive.as_millis();
        ConnectCommand {
            recfmt: 0,
            qid,
            queue_entries,
            sq_flow_control_disabled: self.config.sq_flow_control_disabled,
            kato_ms: if qid == 0 {
                u32::try_from(keep_alive_ms).unwrap_or(u32::MAX)
            } else {
                0
            },
        }
    }

    fn connect_data(&self, cntlid: u16) -> Transfer {
        let config = &self.config;
        let data = ConnectData::new(config.host_id, cntlid, &config.subnqn, &config.hostnqn);
        Transfer::Out(data.emit().to_vec())
    }

    /// Queues an admin command under a free identifier; whether there was one.
    fn send(&mut self, now: Instant, purpose: Purpose, mut sqe: Sqe, data: Transfer) -> bool {
        let Some(cid) = self.admin.iter().position(Option::is_none) else {
            return false;
        };
        sqe.set_cid(cid as u16);
        let timeout = match purpose {
            Purpose::BringUp | Purpose::User(_) => Some(self.config.command_timeout),
            Purpose::KeepAlive => Some(self.config.keep_alive),
            Purpose::AsyncEvent => None,
        };
        self.admin[cid] = Some(Pending {
            purpose,
            data_len: match &data {
                Transfer::In(len) => *len,
                Transfer::None | Transfer::Out(_) => 0,
            },
            deadline: timeout.map(|timeout| now + timeout),
        });
        self.commands.push_back(Command { qid: 0, sqe, data });
        true
    }
}

fn refused(step: Step, cqe: &Cqe) -> Error {
    Error::StepRefused {
        step,
        status: cqe.status,
        result: cqe.result,
    }
}

fn page(data: &[u8], step: Step) -> Result<&Page, Error> {
    data.first_chunk().ok_or(Error::StepDataInvalid { step })
}
