//! Connect: the first command of every queue, which makes a controller or adds a queue to one (Base 2.0c §6.3).

use std::time::{Duration, Instant};

use nvme_spec::fabrics::{
    CNTLID_DYNAMIC, ConnectCommand, ConnectData, ConnectResult, InvalidParameter,
};
use nvme_spec::register::{Cap, Cc};
use nvme_spec::{Sqe, Status};

use crate::command::{NONE, State};
use crate::controller::{Controller, ErrorLog, Host, KeepAlive, Phase, Registers};
use crate::events::Events;
use crate::features::Features;
use crate::output::{
    ControllerEvent, ControllerEventKind, DisconnectReason, Output, ReplyData, UnroutedConnect,
};
use crate::qpair::{IoStats, Role};
use crate::subsystem::Kind;
use crate::target::{InCapsule, Target, is_connect};
use crate::{CmdId, limits};

/// Connect commands refused since start, by reason.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct RefusedConnects {
    /// A field of the command or its data is wrong, or no reactor has the subsystem.
    pub invalid: u64,
    /// The host is not on the subsystem's allow list.
    pub host_not_allowed: u64,
    /// The target or the subsystem has no room for another controller.
    pub controllers_full: u64,
    /// The host has [`crate::TargetConfig::host_controllers_max`] controllers.
    pub host_controllers_full: u64,
    /// The host has [`crate::TargetConfig::host_qpairs_max`] connected queues.
    pub host_qpairs_full: u64,
}

/// Why a Connect is refused: a status, and for Connect Invalid Parameters the place.
type Refusal = (Status, u64);

/// No controller for this host at present; it may try again (Base 2.0c §6.3, figure 386).
const BUSY: Refusal = (Status::CONNECT_CONTROLLER_BUSY, 0);

const CONNECT_LEN: u32 = ConnectData::LEN as u32;

fn invalid(place: InvalidParameter) -> Refusal {
    (Status::CONNECT_INVALID_PARAMETERS.dnr(), place.result())
}

impl Target {
    /// A capsule on a connection without association: only Connect is allowed.
    pub(crate) fn handle_fresh(
        &mut self,
        now: Instant,
        q: u32,
        sqe: &Sqe,
        data: InCapsule<'_>,
    ) -> Option<CmdId> {
        if !is_connect(sqe) {
            // Base 2.0c §3.3.2.2: commands before Connect are out of sequence.
            self.answer(
                q,
                sqe.cid(),
                Status::COMMAND_SEQUENCE_ERROR.dnr(),
                0,
                ReplyData::None,
            );
            self.close(q, DisconnectReason::NotConnected);
            return None;
        }
        if self.qpairs[q].outstanding > 1 {
            // A second Connect while the first waits for routing.
            self.refuse(q, sqe, Status::COMMAND_SEQUENCE_ERROR.dnr());
            return None;
        }
        if let InCapsule::Bytes(bytes) = data
            && let Ok(bytes) = <&[u8; ConnectData::LEN]>::try_from(bytes)
            && self.locate(q, sqe, &data, CONNECT_LEN) == Ok(true)
        {
            return self.connect(now, q, sqe, bytes);
        }
        self.take_payload(now, q, sqe, data, CONNECT_LEN)
    }

    /// Connect data that had to be fetched.
    pub(crate) fn connect_fetched(&mut self, now: Instant, index: u32, sqe: &Sqe, data: &[u8]) {
        let q = self.commands[index].qp;
        // The slot goes back: Connect is answered without one unless it waits for routing.
        let head = self.commands.unlink(index, self.qpairs[q].first);
        self.qpairs[q].first = head;
        let id = self.commands.id(index);
        self.commands.end(index);
        self.outputs.push_back(Output::Release { cmd: id });
        match <&[u8; ConnectData::LEN]>::try_from(data) {
            Ok(data) => {
                self.connect(now, q, sqe, data);
            }
            Err(_) => self.refuse(q, sqe, Status::DATA_SGL_LENGTH_INVALID.dnr()),
        }
    }

    /// Checks and carries out a Connect; answers it unless its subsystem is not here.
    pub(crate) fn connect(
        &mut self,
        now: Instant,
        q: u32,
        sqe: &Sqe,
        raw: &[u8; ConnectData::LEN],
    ) -> Option<CmdId> {
        let command = ConnectCommand::parse(sqe);
        let data = ConnectData::parse(raw);
        let refusal = match self.check_connect(&command, &data) {
            Err(refusal) => refusal,
            Ok(None) => return self.unrouted(q, sqe, raw, &data),
            Ok(Some(subsystem)) => {
                let made = if command.qid == 0 {
                    self.connect_admin(now, q, subsystem, &command, &data)
                } else {
                    self.connect_io(q, subsystem, &command, &data)
                };
                match made {
                    Ok(cntlid) => {
                        self.connected(q, sqe, &command, cntlid);
                        return None;
                    }
                    Err(refusal) => refusal,
                }
            }
        };
        if refusal.0 == Status::CONNECT_INVALID_HOST.dnr() {
            self.refused.host_not_allowed += 1;
        } else if refusal != BUSY {
            // What is busy is counted where it was found: several limits answer that.
            self.refused.invalid += 1;
        }
        self.answer(q, sqe.cid(), refusal.0, refusal.1, ReplyData::None);
        None
    }

    /// Checks what needs no subsystem; answers the subsystem's slot, `None` when it is not here.
    fn check_connect(
        &self,
        command: &ConnectCommand,
        data: &ConnectData,
    ) -> Result<Option<u32>, Refusal> {
        if command.recfmt != 0 {
            let place = InvalidParameter::Command(ConnectCommand::RECFMT_OFFSET);
            return Err((Status::CONNECT_INCOMPATIBLE_FORMAT.dnr(), place.result()));
        }
        let entries_max = if command.qid == 0 {
            limits::ADMIN_QUEUE_DEPTH_MAX
        } else {
            self.config.queue_depth
        };
        if command.queue_entries < 2 || command.queue_entries > u32::from(entries_max) {
            return Err(invalid(InvalidParameter::Command(
                ConnectCommand::SQSIZE_OFFSET,
            )));
        }
        if data.hostnqn().is_none() {
            return Err(invalid(InvalidParameter::Data(ConnectData::HOSTNQN_OFFSET)));
        }
        // Base 2.0c §5.27.1.25: hosts of message-based controllers have a host identifier.
        if data.host_id == [0; 16] {
            return Err(invalid(InvalidParameter::Data(ConnectData::HOSTID_OFFSET)));
        }
        let subnqn = data
            .subnqn()
            .ok_or(invalid(InvalidParameter::Data(ConnectData::SUBNQN_OFFSET)))?;
        Ok(self
            .subsystems
            .iter()
            .find(|(_, subsystem)| subsystem.nqn == subnqn)
            .map(|(index, _)| index))
    }

    /// The subsystem may be another reactor's: the engine knows.
    fn unrouted(
        &mut self,
        q: u32,
        sqe: &Sqe,
        raw: &[u8; ConnectData::LEN],
        data: &ConnectData,
    ) -> Option<CmdId> {
        let Some(index) = self.allocate(q, sqe, State::Routing) else {
            self.refused.controllers_full += 1;
            self.answer(q, sqe.cid(), BUSY.0, BUSY.1, ReplyData::None);
            return None;
        };
        let connect = Box::new(UnroutedConnect {
            sqe: *sqe,
            data: *raw,
            subnqn: data.subnqn().unwrap_or_default().to_owned(),
            hostnqn: data.hostnqn().unwrap_or_default().to_owned(),
        });
        let output = Output::Unrouted {
            qp: self.qpair_id(q),
            connect,
        };
        self.outputs.push_back(output);
        Some(self.commands.id(index))
    }

    /// No reactor has the subsystem.
    pub(crate) fn refuse_unrouted(&mut self, q: u32) {
        let index = self.qpairs[q].first;
        if index == NONE || self.commands[index].state != State::Routing {
            return;
        }
        let (status, result) = invalid(InvalidParameter::Data(ConnectData::SUBNQN_OFFSET));
        self.refused.invalid += 1;
        self.finish_with(index, status, result, ReplyData::None);
    }

    /// Whether the host may have a controller of the subsystem on these terms.
    fn check_admin(
        &mut self,
        subsystem: u32,
        command: &ConnectCommand,
        data: &ConnectData,
    ) -> Result<(), Refusal> {
        let subsystem = &self.subsystems[subsystem];
        if !subsystem.hosts.allows(data.hostnqn().unwrap_or_default()) {
            let place = InvalidParameter::Data(ConnectData::HOSTNQN_OFFSET);
            return Err((Status::CONNECT_INVALID_HOST.dnr(), place.result()));
        }
        // §6.3: in the dynamic controller model the host asks for FFFFh.
        if data.cntlid != CNTLID_DYNAMIC {
            return Err(invalid(InvalidParameter::Data(ConnectData::CNTLID_OFFSET)));
        }
        let kato_max = self.config.kato_ms_max;
        if kato_max != 0 && command.kato_ms > kato_max {
            let place = InvalidParameter::Command(ConnectCommand::KATO_OFFSET);
            return Err((Status::KEEP_ALIVE_TIMEOUT_INVALID.dnr(), place.result()));
        }
        if self.controllers.is_full() {
            self.refused.controllers_full += 1;
            return Err(BUSY);
        }
        let (controllers, _) = self.hosts.held(data.hostnqn().unwrap_or_default());
        if controllers >= self.config.host_controllers_max {
            self.refused.host_controllers_full += 1;
            return Err(BUSY);
        }
        self.check_host_queues(data)
    }

    /// Whether the host may have one more connected queue.
    fn check_host_queues(&mut self, data: &ConnectData) -> Result<(), Refusal> {
        let (_, queues) = self.hosts.held(data.hostnqn().unwrap_or_default());
        if queues >= self.config.host_qpairs_max {
            self.refused.host_qpairs_full += 1;
            return Err(BUSY);
        }
        Ok(())
    }

    fn connect_admin(
        &mut self,
        now: Instant,
        q: u32,
        subsystem_index: u32,
        command: &ConnectCommand,
        data: &ConnectData,
    ) -> Result<u16, Refusal> {
        self.check_admin(subsystem_index, command, data)?;
        let subsystem = &mut self.subsystems[subsystem_index];
        let hostnqn = data.hostnqn().unwrap_or_default();
        let in_use = |cntlid| {
            subsystem
                .controllers
                .iter()
                .any(|index| self.controllers[*index].cntlid == cntlid)
        };
        let Some(cntlid) = subsystem.cntlids.first_free(in_use) else {
            self.refused.controllers_full += 1;
            return Err(BUSY);
        };
        let Some(host_index) = self.hosts.add_controller(hostnqn) else {
            self.refused.controllers_full += 1;
            return Err(BUSY);
        };
        let host = Host {
            nqn: hostnqn.to_owned(),
            id: data.host_id,
            index: host_index,
        };
        let keep_alive = KeepAlive::new(
            self.config.granted_kato_ms(command.kato_ms),
            subsystem.kind,
            now,
        );
        let deadline = keep_alive.deadline;
        let controller = Controller {
            kind: subsystem.kind,
            cntlid,
            subsystem: subsystem_index,
            host,
            admin_qp: q,
            io_qps: Vec::new(),
            registers: Registers {
                cap: capabilities(subsystem.kind, self.config.queue_depth),
                cc: Cc(0),
                phase: Phase::Disabled,
            },
            keep_alive,
            features: Features::new(
                u32::from(self.config.io_queues_per_controller),
                subsystem.notices(),
            ),
            events: Events::default(),
            errors: ErrorLog::default(),
            aborts: 0,
            orphans: 0,
            stats: IoStats::default(),
            created: now,
        };
        let inserted = self.controllers.insert(controller);
        let (index, _) = inserted.expect("room was checked, and nothing came in between");
        subsystem.controllers.push(index);
        let qpair = &mut self.qpairs[q];
        qpair.role = Role::Admin;
        qpair.controller = index;
        qpair.host = host_index;
        qpair.subsystem = subsystem_index;
        if let Some(deadline) = deadline {
            self.arm(deadline);
        }
        self.announce(index, ControllerEventKind::Connected);
        Ok(cntlid)
    }

    fn connect_io(
        &mut self,
        q: u32,
        subsystem_index: u32,
        command: &ConnectCommand,
        data: &ConnectData,
    ) -> Result<u16, Refusal> {
        self.check_host_queues(data)?;
        let subsystem = &self.subsystems[subsystem_index];
        if subsystem.kind == Kind::Discovery {
            // §3.1.2.3: discovery controllers have no I/O queues.
            return Err((Status::INVALID_QUEUE_TYPE.dnr(), 0));
        }
        let index = subsystem
            .controllers
            .iter()
            .copied()
            .find(|index| self.controllers[*index].cntlid == data.cntlid)
            .ok_or(invalid(InvalidParameter::Data(ConnectData::CNTLID_OFFSET)))?;
        let controller = &mut self.controllers[index];
        // §6.3: host NQN and identifier are those of the admin queue.
        if data.hostnqn() != Some(controller.host.nqn.as_str()) {
            return Err(invalid(InvalidParameter::Data(ConnectData::HOSTNQN_OFFSET)));
        }
        if data.host_id != controller.host.id {
            return Err(invalid(InvalidParameter::Data(ConnectData::HOSTID_OFFSET)));
        }
        if controller.registers.phase != Phase::Ready
            || u32::from(command.qid) > controller.features.io_queues
        {
            return Err(invalid(InvalidParameter::Command(
                ConnectCommand::QID_OFFSET,
            )));
        }
        let slot = usize::from(command.qid) - 1;
        if controller.io_qps.len() <= slot {
            controller.io_qps.resize(slot + 1, NONE);
        }
        if controller.io_qps[slot] != NONE {
            return Err((Status::COMMAND_SEQUENCE_ERROR.dnr(), 0));
        }
        controller.io_qps[slot] = q;
        let host = controller.host.index;
        self.hosts.add_queue(host);
        let qpair = &mut self.qpairs[q];
        qpair.role = Role::Io;
        qpair.qid = command.qid;
        qpair.controller = index;
        qpair.host = host;
        qpair.subsystem = subsystem_index;
        Ok(data.cntlid)
    }

    /// Answers a successful Connect.
    fn connected(&mut self, q: u32, sqe: &Sqe, command: &ConnectCommand, cntlid: u16) {
        let qpair = &mut self.qpairs[q];
        qpair.entries = command.queue_entries;
        qpair.flow_control = !command.sq_flow_control_disabled;
        let qp = self.qpair_id(q);
        self.outputs.push_back(Output::Associated { qp });
        let result = ConnectResult {
            cntlid,
            auth_required: false,
        };
        self.answer(
            q,
            sqe.cid(),
            Status::SUCCESS,
            result.result(),
            ReplyData::None,
        );
        // §6.3: FFFFh in the head pointer grants the request to do without flow control.
        if command.sq_flow_control_disabled
            && let Some(Output::Respond { cqe, .. }) = self.outputs.back_mut()
        {
            cqe.sqhd = u16::MAX;
        }
    }

    /// Tells the engine about a controller.
    pub(crate) fn announce(&mut self, index: u32, kind: ControllerEventKind) {
        let controller = &self.controllers[index];
        let event = ControllerEvent {
            kind,
            subnqn: self.subsystems[controller.subsystem].nqn.clone(),
            hostnqn: controller.host.nqn.clone(),
            hostid: controller.host.id,
            cntlid: controller.cntlid,
        };
        self.outputs.push_back(Output::Event(Box::new(event)));
    }

    /// Makes sure that [`Target::handle_timeout`] is called at `deadline`.
    pub(crate) fn arm(&mut self, deadline: Instant) {
        self.deadline = Some(self.deadline.map_or(deadline, |first| first.min(deadline)));
    }
}

/// CSTS.RDY follows CC.EN at once; what CAP and CRTO promise leaves room for a busy reactor.
const READY_TIMEOUT_500MS: u8 = 20;

/// The ready timeout as CRTO has it: with media in bits 15:0.
pub(crate) const CRTO: u32 = READY_TIMEOUT_500MS as u32;

const _: () = assert!(Duration::from_millis(READY_TIMEOUT_500MS as u64 * 500).as_secs() == 10);

pub(crate) fn capabilities(kind: Kind, queue_depth: u16) -> Cap {
    Cap {
        queue_entries_max: u32::from(queue_depth),
        ready_timeout_500ms: READY_TIMEOUT_500MS,
        // A discovery controller offers the NVM set too: hosts of before 2.0 enable it with CSS 000b.
        nvm_command_set: true,
        io_command_sets: kind == Kind::Nvm,
        admin_only: false,
        ready_with_media: true,
    }
}
