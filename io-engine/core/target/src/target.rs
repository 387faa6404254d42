//! The target itself: its tables, what the engine calls on the data path, and how commands end.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use nvme_spec::log::ErrorLogEntry;
use nvme_spec::{Cqe, Sqe, Status, discovery, opcode};

use crate::command::{Commands, Extra, NONE, State};
use crate::config::{ConfigError, TargetConfig, TransportFacts};
use crate::connect::RefusedConnects;
use crate::controller::Controller;
use crate::discovery::Discovery;
use crate::hosts::Hosts;
use crate::output::{DisconnectReason, IoError, Output, ReplyData, UnroutedConnect};
use crate::qpair::{Qpair, Role};
use crate::reservation::Persists;
use crate::slab::Slab;
use crate::subsystem::{Subsystem, is_printable};
use crate::{CmdId, QpairId, limits};

/// Data that came in a command capsule.
#[derive(Clone, Copy, Debug)]
pub enum InCapsule<'a> {
    /// None.
    None,
    /// These bytes; required where [`Target::reads_payload`] says so.
    Bytes(&'a [u8]),
    /// That many bytes, which the engine keeps for the [`crate::IoOp`] of the command.
    Held(u32),
}

impl InCapsule<'_> {
    fn len(&self) -> usize {
        match self {
            Self::None => 0,
            Self::Bytes(bytes) => bytes.len(),
            Self::Held(len) => *len as usize,
        }
    }
}

/// All subsystems homed on one reactor, with their controllers and queue pairs. See the crate documentation.
#[derive(Debug)]
pub struct Target {
    pub(crate) config: TargetConfig,
    pub(crate) subsystems: Slab<Subsystem>,
    pub(crate) controllers: Slab<Controller>,
    pub(crate) qpairs: Slab<Qpair>,
    pub(crate) commands: Commands,
    pub(crate) hosts: Hosts,
    pub(crate) refused: RefusedConnects,
    pub(crate) outputs: VecDeque<Output>,
    /// Bytes of replies in `outputs`.
    pub(crate) reply_bytes: usize,
    pub(crate) discovery: Discovery,
    pub(crate) persists: Persists,
    /// Source of namespace and access epochs; 0 is never one.
    pub(crate) last_epoch: u64,
    /// Not later than any deadline there is.
    pub(crate) deadline: Option<Instant>,
    pub(crate) started: Instant,
}

/// Table slot of the discovery subsystem, the first one added.
pub(crate) const DISCOVERY_SUBSYSTEM: u32 = 0;

impl Target {
    /// An empty target. `seed` makes choices that need not be predictable (the first discovery controller id) differ
    /// between the targets of one engine.
    ///
    /// # Errors
    /// [`ConfigError::LimitInvalid`] or [`ConfigError::TextInvalid`] when a field of `config` is outside its range.
    pub fn new(config: TargetConfig, now: Instant, seed: u64) -> Result<Self, ConfigError> {
        let limits_ok = (1..=limits::SUBSYSTEMS_MAX).contains(&config.subsystems_max)
            && (1..=limits::CONTROLLERS_MAX).contains(&config.controllers_max)
            && (1..=limits::QPAIRS_MAX).contains(&config.qpairs_max)
            && config.host_controllers_max > 0
            && config.host_qpairs_max > 0
            && (1..=limits::IO_QUEUES_MAX).contains(&config.io_queues_per_controller)
            && (16..=limits::QUEUE_DEPTH_MAX).contains(&config.queue_depth)
            && config.mdts_bytes.is_power_of_two()
            && (limits::MDTS_BYTES_MIN..=limits::MDTS_BYTES_MAX).contains(&config.mdts_bytes)
            && config.in_capsule_bytes <= limits::IN_CAPSULE_BYTES_MAX
            && config.in_capsule_bytes.is_multiple_of(16)
            && (limits::ADMIN_RESERVE + 1..=limits::COMMANDS_MAX).contains(&config.commands_max);
        if !limits_ok {
            return Err(ConfigError::LimitInvalid);
        }
        if !is_printable(&config.model, 40) || !is_printable(&config.firmware, 8) {
            return Err(ConfigError::TextInvalid);
        }
        let mut subsystems = Slab::new(config.subsystems_max + 1);
        let first_cntlid = (seed ^ seed >> 16 ^ seed >> 32 ^ seed >> 48) as u16;
        let inserted = subsystems.insert(Subsystem::discovery(&config.model, first_cntlid));
        assert!(inserted.is_ok_and(|(index, _)| index == DISCOVERY_SUBSYSTEM));
        Ok(Self {
            subsystems,
            controllers: Slab::new(config.controllers_max),
            qpairs: Slab::new(config.qpairs_max),
            commands: Commands::new(config.commands_max),
            // A host holds a controller or a command at least.
            hosts: Hosts::new(config.controllers_max + config.commands_max),
            refused: RefusedConnects::default(),
            outputs: VecDeque::new(),
            reply_bytes: 0,
            discovery: Discovery::default(),
            persists: Persists::default(),
            last_epoch: 0,
            deadline: None,
            started: now,
            config,
        })
    }

    /// A transport connection is up (for TCP: ICReq answered), without Connect so far.
    ///
    /// Beyond [`TargetConfig::qpairs_max`] there is no room: `None`, close the connection.
    pub fn handle_connected(&mut self, now: Instant, facts: TransportFacts) -> Option<QpairId> {
        let deadline = now + Duration::from_millis(limits::CONNECT_TIMEOUT_MS);
        let (index, generation) = self.qpairs.insert(Qpair::fresh(facts, deadline)).ok()?;
        self.arm(deadline);
        Some(QpairId { index, generation })
    }

    /// Whether the target must read the payload of `sqe` by value: pass [`InCapsule::Bytes`] then.
    #[inline]
    pub fn reads_payload(&self, qp: QpairId, sqe: &Sqe) -> bool {
        use nvme_spec::opcode::nvm;
        let is_io = self
            .qpairs
            .check(qp.index, qp.generation)
            .is_some_and(|index| self.qpairs[index].role == Role::Io);
        !(is_io && matches!(sqe.opcode(), nvm::WRITE | nvm::READ | nvm::COMPARE))
    }

    /// A command capsule arrived. `data_ok` is false when the transport found its data damaged (data digest).
    ///
    /// Returns the command's id when it stays in flight: in-capsule data the engine holds belong to it from here on.
    #[inline]
    pub fn handle_capsule(
        &mut self,
        now: Instant,
        qp: QpairId,
        sqe: &Sqe,
        data: InCapsule<'_>,
        data_ok: bool,
    ) -> Option<CmdId> {
        let q = self.qpairs.check(qp.index, qp.generation)?;
        let qpair = &mut self.qpairs[q];
        if qpair.role == Role::Closing {
            return None;
        }
        if qpair.outstanding >= qpair.entries {
            self.close(q, DisconnectReason::QueueOverflow);
            return None;
        }
        qpair.outstanding += 1;
        qpair.active = true;
        let role = qpair.role;
        if !data_ok {
            // NVMe/TCP 1.0c §3.4: a data digest error fails the command, not the connection.
            self.refuse(q, sqe, Status::TRANSIENT_TRANSPORT_ERROR);
            return None;
        }
        match role {
            Role::Io => self.handle_io(now, q, sqe, data),
            Role::Admin => self.handle_admin(now, q, sqe, data),
            Role::Fresh(_) => self.handle_fresh(now, q, sqe, data),
            Role::Closing => None,
        }
    }

    /// The data asked for by [`Output::Fetch`] are there; `data` is only looked at when they were asked for by value.
    pub fn handle_data(&mut self, now: Instant, cmd: CmdId, data: &[u8], data_ok: bool) {
        let Some(index) = self.commands.check(cmd) else {
            return;
        };
        let command = &mut self.commands[index];
        if command.state != State::Fetching {
            return;
        }
        if let Some(status) = command.doom.status() {
            self.finish_or_fail_pair(index, status);
        } else if !data_ok {
            self.finish_or_fail_pair(index, Status::TRANSIENT_TRANSPORT_ERROR);
        } else if let Some(Extra::Sqe(sqe)) = command.extra.as_deref() {
            let sqe = *sqe;
            command.extra = None;
            if data.len() == command.bytes as usize {
                self.handle_payload(now, index, &sqe, data);
            } else {
                self.finish(index, Status::DATA_TRANSFER_ERROR, ReplyData::None);
            }
        } else {
            self.handle_user_data(index);
        }
    }

    /// The operation of the last [`Output::Io`] for `cmd` ended.
    #[inline]
    pub fn handle_io_done(&mut self, _now: Instant, cmd: CmdId, result: Result<(), IoError>) {
        let Some(index) = self.commands.check(cmd) else {
            return;
        };
        let command = &self.commands[index];
        if command.state != State::InDevice {
            return;
        }
        if command.qp == NONE {
            self.release(index);
        } else {
            self.io_done(index, result);
        }
    }

    /// The transport connection is gone. Idempotent.
    pub fn handle_disconnected(&mut self, _now: Instant, qp: QpairId) {
        let Some(q) = self.qpairs.check(qp.index, qp.generation) else {
            return;
        };
        self.detach(q, DisconnectReason::TransportGone);
        self.qpairs.remove(q);
    }

    /// Takes up a Connect that another reactor's target could not route; to be called right after
    /// [`Target::handle_connected`] in place of `handle_capsule`.
    pub fn replay_connect(&mut self, now: Instant, qp: QpairId, connect: &UnroutedConnect) {
        let Some(q) = self.qpairs.check(qp.index, qp.generation) else {
            return;
        };
        if !matches!(self.qpairs[q].role, Role::Fresh(_)) || self.qpairs[q].outstanding != 0 {
            return;
        }
        self.qpairs[q].outstanding += 1;
        self.connect(now, q, &connect.sqe, &connect.data);
    }

    /// Answers the Connect of [`Output::Unrouted`] with Connect Invalid Parameters: no reactor has the subsystem.
    pub fn refuse_connect(&mut self, _now: Instant, qp: QpairId) {
        if let Some(q) = self.qpairs.check(qp.index, qp.generation) {
            self.refuse_unrouted(q);
        }
    }

    /// The next thing to do.
    #[inline]
    pub fn poll_output(&mut self) -> Option<Output> {
        let output = self.outputs.pop_front();
        if let Some(Output::Respond {
            data: ReplyData::Bytes(bytes),
            ..
        }) = &output
        {
            self.reply_bytes -= bytes.len();
        }
        if let Some(Output::Respond { cmd: Some(cmd), .. } | Output::Release { cmd }) = output {
            self.commands.free(cmd.index);
        }
        output
    }

    /// Whether I/O commands would be answered Command Interrupted for want of a slot. An engine that stops parsing input
    /// while this holds pushes back on its hosts in place of failing their commands.
    pub fn is_full(&self) -> bool {
        self.commands.room() <= limits::ADMIN_RESERVE
    }

    /// Commands in flight, those counted whose last output was not taken so far.
    pub fn commands_in_flight(&self) -> u32 {
        self.commands.used()
    }

    /// Connections.
    pub fn qpairs(&self) -> usize {
        self.qpairs.len()
    }

    /// Hosts with a connected queue, or with a command that outlived its connection.
    pub fn hosts(&self) -> usize {
        self.hosts.len()
    }

    /// Connect commands refused since start.
    pub fn refused_connects(&self) -> RefusedConnects {
        self.refused
    }

    /// Log id of a subsystem's host connection: `(subsystem NQN, host NQN, controller id, queue id)`, once connected.
    pub fn describe(&self, qp: QpairId) -> Option<(&str, &str, u16, u16)> {
        let q = self.qpairs.check(qp.index, qp.generation)?;
        let qpair = &self.qpairs[q];
        let controller = self.controllers.get(qpair.controller)?;
        let subsystem = self.subsystems.get(controller.subsystem)?;
        Some((
            &subsystem.nqn,
            &controller.host.nqn,
            controller.cntlid,
            qpair.qid,
        ))
    }

    pub(crate) fn qpair_id(&self, q: u32) -> QpairId {
        QpairId {
            index: q,
            generation: self.qpairs.generation(q),
        }
    }

    pub(crate) fn next_epoch(&mut self) -> u64 {
        self.last_epoch += 1;
        self.last_epoch
    }

    /// A slot for a command of `q`, in state `state`.
    #[inline]
    pub(crate) fn allocate(&mut self, q: u32, sqe: &Sqe, state: State) -> Option<u32> {
        let qpair = &mut self.qpairs[q];
        let (reserve, extra) = match qpair.role {
            Role::Io => (limits::ADMIN_RESERVE, 0),
            Role::Admin | Role::Closing => (0, limits::HOST_ADMIN_SLOTS),
            // Peers that are nobody's host so far leave a part to those who are.
            Role::Fresh(_) => (
                self.config.commands_max / limits::CONNECT_RESERVE_DIVISOR,
                0,
            ),
        };
        let room = self.commands.room();
        let free = room.saturating_sub(limits::ADMIN_RESERVE);
        if room <= reserve || !self.hosts.may_add_command(qpair.host, free, extra) {
            return None;
        }
        let index = self
            .commands
            .insert(q, qpair.first, sqe.cid(), sqe.opcode())?;
        qpair.first = index;
        let command = &mut self.commands[index];
        command.state = state;
        command.host = qpair.host;
        self.hosts.add_command(qpair.host);
        Some(index)
    }

    /// Like [`Self::allocate`], answering the command when there is no slot.
    #[inline]
    pub(crate) fn allocate_or_interrupt(&mut self, q: u32, sqe: &Sqe, state: State) -> Option<u32> {
        let index = self.allocate(q, sqe, state);
        if index.is_none() {
            // Base 2.0c §3.3.3.2.1: Command Interrupted asks for a retry, after CRDT1 where the host honours it.
            self.refuse(q, sqe, Status::COMMAND_INTERRUPTED.with_crd(1));
        }
        index
    }

    /// Asks the host for `bytes` of data for command `index`.
    pub(crate) fn fetch(&mut self, index: u32, bytes: u32, by_value: bool) {
        let command = &mut self.commands[index];
        command.bytes = bytes;
        command.state = State::Fetching;
        let (q, cid) = (command.qp, command.cid);
        let output = Output::Fetch {
            qp: self.qpair_id(q),
            cmd: self.commands.id(index),
            cid,
            len: bytes,
            by_value,
        };
        self.outputs.push_back(output);
    }

    /// Answers a command that never got a slot.
    pub(crate) fn answer(
        &mut self,
        q: u32,
        cid: u16,
        status: Status,
        result: u64,
        data: ReplyData,
    ) {
        self.respond(q, None, cid, status, result, data);
    }

    /// Answers a command that never got a slot with an error, and logs that.
    pub(crate) fn refuse(&mut self, q: u32, sqe: &Sqe, status: Status) {
        // A fabrics command has its type where others have a namespace (Base 2.0c §6) and names none.
        let nsid = if sqe.opcode() == opcode::FABRICS {
            0
        } else {
            sqe.nsid()
        };
        self.log_error(q, sqe.cid(), nsid, 0, status);
        self.respond(q, None, sqe.cid(), status, 0, ReplyData::None);
    }

    /// Ends an unlinked command.
    #[inline]
    fn end_command(&mut self, index: u32) {
        self.hosts.remove_command(self.commands[index].host);
        self.commands.end(index);
    }

    /// Ends command `index` with a response.
    #[inline]
    pub(crate) fn finish(&mut self, index: u32, status: Status, data: ReplyData) {
        self.finish_with(index, status, 0, data);
    }

    #[inline]
    pub(crate) fn finish_with(&mut self, index: u32, status: Status, result: u64, data: ReplyData) {
        let command = &self.commands[index];
        let (q, cid, watched) = (command.qp, command.cid, command.watched);
        let id = self.commands.id(index);
        if !status.is_success() {
            let (nsid, lba) = (command.nsid, command.start);
            self.log_error(q, cid, nsid, lba, status);
        }
        let head = self.commands.unlink(index, self.qpairs[q].first);
        self.qpairs[q].first = head;
        self.end_command(index);
        self.respond(q, Some(id), cid, status, result, data);
        if watched {
            self.handle_ended(id);
        }
    }

    #[inline]
    fn respond(
        &mut self,
        q: u32,
        cmd: Option<CmdId>,
        cid: u16,
        status: Status,
        result: u64,
        data: ReplyData,
    ) {
        let generation = self.qpairs.generation(q);
        let qpair = &mut self.qpairs[q];
        let sqhd = qpair.advance();
        if let ReplyData::Bytes(bytes) = &data {
            self.reply_bytes += bytes.len();
        }
        let success_flag_allowed = status.is_success()
            && result == 0
            && (!qpair.flow_control || self.config.success_flag_with_flow_control);
        self.outputs.push_back(Output::Respond {
            qp: QpairId {
                index: q,
                generation,
            },
            cmd,
            cqe: Cqe {
                result,
                sqhd,
                sqid: 0,
                cid,
                status,
            },
            data,
            success_flag_allowed,
        });
    }

    /// Ends a command whose connection is gone.
    pub(crate) fn release(&mut self, index: u32) {
        let id = self.commands.id(index);
        let command = &mut self.commands[index];
        let watched = command.watched;
        let extra = command.extra.take();
        let joined = command.partner;
        self.end_command(index);
        self.outputs.push_back(Output::Release { cmd: id });
        if joined != NONE && self.commands[joined].state == State::FusedJoined {
            self.release(joined);
        }
        if watched {
            self.handle_ended(id);
        }
        if let Some(Extra::Orphan { controller }) = extra.as_deref() {
            self.handle_orphan_ended(*controller);
        }
    }

    fn log_error(&mut self, q: u32, cid: u16, nsid: u32, lba: u64, status: Status) {
        let qpair = &self.qpairs[q];
        let sqid = qpair.qid;
        if let Some(controller) = self.controllers.get_mut(qpair.controller) {
            controller.errors.push(ErrorLogEntry {
                sqid,
                cid,
                status,
                parameter_location: u16::MAX,
                lba,
                nsid,
                trtype: discovery::TRTYPE_TCP,
                ..ErrorLogEntry::default()
            });
        }
    }

    /// By-value payload of command `index` is complete.
    fn handle_payload(&mut self, now: Instant, index: u32, sqe: &Sqe, data: &[u8]) {
        let q = self.commands[index].qp;
        match self.qpairs[q].role {
            Role::Fresh(_) => self.connect_fetched(now, index, sqe, data),
            Role::Admin => self.admin_payload(index, data),
            Role::Io => self.io_payload(index, sqe, data),
            Role::Closing => {}
        }
    }

    /// Where the data of a command with `len` bytes of host data are: `true` in its capsule, `false` to be fetched.
    ///
    /// Base 2.0c §4.1.2.1 and NVMe/TCP 1.0c §3.2: an offset descriptor for data in the capsule, a transport descriptor for
    /// data behind R2T; ICDOFF is 0.
    #[inline]
    pub(crate) fn locate(
        &self,
        q: u32,
        sqe: &Sqe,
        data: &InCapsule<'_>,
        len: u32,
    ) -> Result<bool, Status> {
        let sgl = sqe.sgl();
        if sqe.psdt() != 1 {
            return Err(Status::INVALID_FIELD.dnr());
        }
        if sgl.is_in_capsule() {
            let room = if self.qpairs[q].role == Role::Io {
                self.config.in_capsule_bytes
            } else {
                limits::ADMIN_IN_CAPSULE_BYTES
            };
            if sgl.address() != 0 {
                return Err(Status::SGL_OFFSET_INVALID.dnr());
            }
            if sgl.length() != len || data.len() != len as usize || len > room {
                return Err(Status::DATA_SGL_LENGTH_INVALID.dnr());
            }
            return Ok(true);
        }
        if !sgl.is_transport() || data.len() != 0 {
            return Err(Status::SGL_TYPE_INVALID.dnr());
        }
        if sgl.length() != len {
            return Err(Status::DATA_SGL_LENGTH_INVALID.dnr());
        }
        Ok(false)
    }

    /// Whether the host's buffer, which the transport fills, has room for `len` bytes.
    #[inline]
    pub(crate) fn check_reply_buffer(sqe: &Sqe, len: u64) -> Result<(), Status> {
        let sgl = sqe.sgl();
        if sqe.psdt() != 1 {
            return Err(Status::INVALID_FIELD.dnr());
        }
        if !sgl.is_transport() {
            return Err(Status::SGL_TYPE_INVALID.dnr());
        }
        if u64::from(sgl.length()) < len {
            return Err(Status::DATA_SGL_LENGTH_INVALID.dnr());
        }
        Ok(())
    }

    /// Takes a command whose payload of `len` bytes is read by value: at once from its capsule, or after a fetch.
    pub(crate) fn take_payload(
        &mut self,
        now: Instant,
        q: u32,
        sqe: &Sqe,
        data: InCapsule<'_>,
        len: u32,
    ) -> Option<CmdId> {
        let in_capsule = match self.locate(q, sqe, &data, len) {
            Ok(in_capsule) => in_capsule,
            Err(status) => {
                self.refuse(q, sqe, status);
                return None;
            }
        };
        let index = self.allocate_or_interrupt(q, sqe, State::Fetching)?;
        self.commands[index].nsid = sqe.nsid();
        self.commands[index].bytes = len;
        let id = self.commands.id(index);
        match data {
            InCapsule::Bytes(bytes) if in_capsule => self.handle_payload(now, index, sqe, bytes),
            // The engine kept bytes it was to pass by value: its bug, but the host gets an answer.
            InCapsule::Held(_) if in_capsule => {
                self.finish(index, Status::INTERNAL_ERROR, ReplyData::None);
            }
            InCapsule::None | InCapsule::Bytes(_) | InCapsule::Held(_) => {
                self.commands[index].extra = Some(Box::new(Extra::Sqe(*sqe)));
                self.fetch(index, len, true);
            }
        }
        self.commands.check(id).map(|_| id)
    }
}

/// Whether `sqe` is a Connect command.
pub(crate) fn is_connect(sqe: &Sqe) -> bool {
    sqe.opcode() == opcode::FABRICS && sqe.fctype() == opcode::fabrics::CONNECT
}
