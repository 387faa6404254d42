//! Reservation commands as the target carries them out: in turn per namespace, durable before they take effect, and with
//! Preempt and Abort answered only when the preempted hosts' commands have ended (Base 2.0c §8.19).

use std::collections::VecDeque;
use std::time::Instant;

use nvme_spec::event::AsyncEvent;
use nvme_spec::opcode::nvm;
use nvme_spec::reservation::{Keys, RegisteredController, ReservationCommand, StatusHeader};
use nvme_spec::{Sqe, Status};

use super::state::{HostId, Outcome};
use crate::command::{Doom, Extra, NONE, State};
use crate::output::{Output, PersistRequest, ReplyData};
use crate::target::{InCapsule, Target};
use crate::{CmdId, PersistToken, SubsystemId, limits};

/// Changes being made durable, at most one a namespace, and commands waiting for their turn.
#[derive(Debug, Default)]
pub(crate) struct Persists {
    last_token: u64,
    pending: Vec<Pending>,
    /// Commands waiting, in order of arrival over all namespaces.
    waiting: VecDeque<u32>,
}

#[derive(Debug)]
struct Pending {
    token: PersistToken,
    subsystem: u32,
    nsid: u32,
    ns_epoch: u64,
    command: CmdId,
    /// Who asked, for the notifications.
    outcome: Outcome,
}

impl Target {
    /// Reservation Register, Acquire or Release: takes the keys, then its turn.
    pub(crate) fn reservation_command(
        &mut self,
        now: Instant,
        q: u32,
        sqe: &Sqe,
        data: InCapsule<'_>,
    ) -> Option<CmdId> {
        if self.subsystems[self.qpairs[q].subsystem]
            .namespace(sqe.nsid())
            .is_none()
        {
            self.refuse(q, sqe, Status::INVALID_NAMESPACE.dnr());
            return None;
        }
        let len = if sqe.opcode() == nvm::RESERVATION_RELEASE {
            Keys::LEN_RELEASE
        } else {
            Keys::LEN
        };
        self.take_payload(now, q, sqe, data, len as u32)
    }

    /// The keys of a reservation command are here.
    pub(crate) fn reservation_payload(&mut self, index: u32, sqe: &Sqe, data: &[u8]) {
        let Some(keys) = Keys::parse(data) else {
            return self.finish(
                index,
                Status::DATA_SGL_LENGTH_INVALID.dnr(),
                ReplyData::None,
            );
        };
        self.enter_reservation_queue(index, Extra::Reservation { sqe: *sqe, keys });
    }

    /// Carries command `index` out, or queues it behind one of the same namespace that is not durable so far.
    pub(crate) fn enter_reservation_queue(&mut self, index: u32, extra: Extra) {
        self.commands[index].extra = Some(Box::new(extra));
        let nsid = self.commands[index].nsid;
        let subsystem = self.qpairs[self.commands[index].qp].subsystem;
        if !self.is_persisting(subsystem, nsid) {
            return self.carry_out(index);
        }
        if self.persists.waiting.len() >= limits::RESERVATION_WAITERS_MAX {
            let status = Status::COMMAND_INTERRUPTED.with_crd(1);
            return self.finish(index, status, ReplyData::None);
        }
        self.commands[index].state = State::ReservationQueued;
        self.persists.waiting.push_back(index);
    }

    /// Takes command `index` out of the queue (it was aborted or its connection is gone).
    pub(crate) fn leave_reservation_queue(&mut self, index: u32) {
        self.persists.waiting.retain(|waiting| *waiting != index);
    }

    fn is_persisting(&self, subsystem: u32, nsid: u32) -> bool {
        self.persists
            .pending
            .iter()
            .any(|pending| pending.subsystem == subsystem && pending.nsid == nsid)
    }

    /// Computes what command `index` changes; applies it at once, or asks for it to be made durable first.
    fn carry_out(&mut self, index: u32) {
        let command = &self.commands[index];
        let (q, nsid) = (command.qp, command.nsid);
        let qpair = &self.qpairs[q];
        let (subsystem_index, controller) = (qpair.subsystem, qpair.controller);
        let host = self.controllers[controller].host.id;
        let Some(namespace) = self.subsystems[subsystem_index].namespace(nsid) else {
            return self.finish(index, Status::INVALID_NAMESPACE.dnr(), ReplyData::None);
        };
        let state = &namespace.reservations;
        let outcome = match command.extra.as_deref() {
            Some(Extra::Reservation { sqe, keys }) => {
                let fields = ReservationCommand::parse(sqe);
                match sqe.opcode() {
                    nvm::RESERVATION_REGISTER => state.register(&host, fields, *keys),
                    nvm::RESERVATION_ACQUIRE => state.acquire(&host, fields, *keys),
                    _ => state.release(&host, fields, *keys),
                }
            }
            Some(Extra::Persistence { ptpl }) => Ok(state.with_persistence(*ptpl)),
            _ => Err(Status::INTERNAL_ERROR),
        };
        let outcome = match outcome {
            Ok(outcome) => outcome,
            Err(status) => return self.finish(index, status, ReplyData::None),
        };
        let (old, new) = (state.record(), outcome.next.record());
        let ns_epoch = namespace.epoch;
        if old == new {
            self.apply(subsystem_index, nsid, index, outcome);
            return;
        }
        self.persists.last_token += 1;
        let token = PersistToken(self.persists.last_token);
        let request = Box::new(PersistRequest {
            subsystem: SubsystemId {
                index: subsystem_index,
                generation: self.subsystems.generation(subsystem_index),
            },
            nqn: self.subsystems[subsystem_index].nqn.clone(),
            nsid,
            device: namespace.device,
            state: new,
        });
        self.commands[index].state = State::Persisting;
        self.persists.pending.push(Pending {
            token,
            subsystem: subsystem_index,
            nsid,
            ns_epoch,
            command: self.commands.id(index),
            outcome,
        });
        self.outputs.push_back(Output::Persist { token, request });
    }

    /// The state of [`Output::Persist`] is durable (`ok`) or could not be stored; in the latter case the command fails and
    /// nothing changes.
    pub fn handle_persisted(&mut self, _now: Instant, token: PersistToken, ok: bool) {
        let Some(at) = self
            .persists
            .pending
            .iter()
            .position(|pending| pending.token == token)
        else {
            return;
        };
        let pending = self.persists.pending.remove(at);
        let (subsystem, nsid) = (pending.subsystem, pending.nsid);
        // The command outlives its connection for as long as it is being persisted.
        if let Some(index) = self.commands.check(pending.command) {
            self.end_persisted(index, pending, ok);
        }
        // Whatever became of it, others wait.
        self.resume_reservations(subsystem, nsid);
    }

    fn end_persisted(&mut self, index: u32, pending: Pending, ok: bool) {
        let is_same = self
            .subsystems
            .get(pending.subsystem)
            .and_then(|subsystem| subsystem.namespace(pending.nsid))
            .is_some_and(|namespace| namespace.epoch == pending.ns_epoch);
        if !ok {
            self.end(index, Status::INTERNAL_ERROR);
        } else if !is_same {
            self.end(index, Status::INVALID_NAMESPACE.dnr());
        } else {
            // Also when the host is gone: what is stored is what holds.
            self.apply(pending.subsystem, pending.nsid, index, pending.outcome);
        }
    }

    /// Lets the commands go on that waited for the namespace.
    fn resume_reservations(&mut self, subsystem: u32, nsid: u32) {
        while !self.is_persisting(subsystem, nsid) {
            let next = self.persists.waiting.iter().position(|index| {
                let command = &self.commands[*index];
                command.nsid == nsid
                    && self
                        .qpairs
                        .get(command.qp)
                        .is_some_and(|qpair| qpair.subsystem == subsystem)
            });
            let Some(index) = next.and_then(|at| self.persists.waiting.remove(at)) else {
                return;
            };
            self.carry_out(index);
        }
    }

    fn end(&mut self, index: u32, status: Status) {
        if self.commands[index].qp == NONE {
            self.release(index);
        } else {
            self.finish(index, status, ReplyData::None);
        }
    }

    /// Makes `outcome` the state of the namespace and answers command `index`.
    fn apply(&mut self, subsystem_index: u32, nsid: u32, index: u32, outcome: Outcome) {
        let epoch = self.next_epoch();
        if let Some(namespace) = self.subsystems[subsystem_index].namespace_mut(nsid) {
            namespace.reservations = outcome.next;
            namespace.access_epoch = epoch;
        }
        for (host, notice) in outcome.notices {
            self.notify(subsystem_index, nsid, &host, notice.code());
        }
        if self.commands[index].qp == NONE {
            return self.release(index);
        }
        let waits_for = self.doom_commands(subsystem_index, nsid, &outcome.abort);
        if waits_for.is_empty() {
            return self.finish(index, Status::SUCCESS, ReplyData::None);
        }
        let command = &mut self.commands[index];
        command.state = State::Draining;
        command.extra = Some(Box::new(Extra::Drain { waits_for }));
    }

    /// Aborts the commands of `hosts` on the namespace that have not reached the device; answers those that have, to be
    /// waited for: no write of a preempted host may land after Preempt and Abort was answered (§8.19.7).
    fn doom_commands(&mut self, subsystem: u32, nsid: u32, hosts: &[HostId]) -> Vec<CmdId> {
        if hosts.is_empty() {
            return Vec::new();
        }
        let epoch = self.subsystems[subsystem]
            .namespace(nsid)
            .map_or(0, |namespace| namespace.epoch);
        let of_hosts = |q: u32| {
            self.qpairs.get(q).is_some_and(|qpair| {
                qpair.subsystem == subsystem
                    && self
                        .controllers
                        .get(qpair.controller)
                        .is_some_and(|controller| hosts.contains(&controller.host.id))
            })
        };
        let mut waits_for = Vec::new();
        let mut doomed = Vec::new();
        for (index, command) in self.commands.iter() {
            // A command whose connection is gone has no host to ask; it is waited for whoever sent it.
            let is_theirs = command.qp == NONE || of_hosts(command.qp);
            if command.ns_epoch != epoch || !is_theirs {
                continue;
            }
            match command.state {
                State::InDevice => {
                    doomed.push(index);
                    waits_for.push(self.commands.id(index));
                }
                State::Fetching => doomed.push(index),
                State::Free
                | State::Ended
                | State::FusedReady
                | State::FusedJoined
                | State::ReservationQueued
                | State::Persisting
                | State::Draining
                | State::Aborting
                | State::Routing => {}
            }
        }
        for index in doomed {
            self.commands[index].doom = Doom::Preempted;
            self.commands[index].watched = true;
        }
        waits_for
    }

    /// Tells the controllers of `host` about a change of the namespace's reservations (§8.19.10).
    fn notify(&mut self, subsystem: u32, nsid: u32, host: &HostId, code: u8) {
        let controllers = self.subsystems[subsystem].controllers.clone();
        for index in controllers {
            if self.controllers[index].host.id == *host && !self.is_notice_masked(index, nsid, code)
            {
                self.controllers[index].events.notify(code, nsid);
                self.raise(index, AsyncEvent::RESERVATION_LOG_AVAILABLE);
            }
        }
    }

    /// Reservation Report (§7.4).
    pub(crate) fn reservation_report(&mut self, q: u32, sqe: &Sqe) {
        let bytes = (u64::from(sqe.dword(10)) + 1) * 4;
        if let Err(status) = Self::check_reply_buffer(sqe, bytes) {
            return self.refuse(q, sqe, status);
        }
        // §7.4: hosts with 128-bit identifiers, which all fabrics hosts are, have to ask for the extended structure.
        if sqe.dword(11) & 1 == 0 {
            return self.refuse(q, sqe, Status::HOST_ID_INCONSISTENT_FORMAT.dnr());
        }
        let subsystem = &self.subsystems[self.qpairs[q].subsystem];
        let Some(namespace) = subsystem.namespace(sqe.nsid()) else {
            return self.refuse(q, sqe, Status::INVALID_NAMESPACE.dnr());
        };
        let state = &namespace.reservations;
        let mut entries = Vec::new();
        for registrant in &state.registrants {
            let mut entry = RegisteredController {
                cntlid: u16::MAX,
                holder: registrant.holder,
                host_id: registrant.host,
                key: registrant.key,
            };
            let before = entries.len();
            for index in &subsystem.controllers {
                let controller = &self.controllers[*index];
                if controller.host.id == registrant.host {
                    entry.cntlid = controller.cntlid;
                    entries.push(entry);
                }
            }
            // A registrant without a controller is listed under FFFFh, the dynamic controller id.
            if entries.len() == before {
                entries.push(entry);
            }
        }
        let header = StatusHeader {
            generation: state.generation,
            rtype: state.rtype.map_or(0, super::state::Rtype::code),
            registered: u16::try_from(entries.len()).unwrap_or(u16::MAX),
            ptpl: state.ptpl,
        };
        let mut page = Vec::with_capacity(
            StatusHeader::LEN_EXTENDED + entries.len() * RegisteredController::LEN_EXTENDED,
        );
        page.extend_from_slice(&header.emit());
        page.resize(StatusHeader::LEN_EXTENDED, 0);
        for entry in &entries {
            page.extend_from_slice(&entry.emit_extended());
        }
        self.reply_slice(q, sqe, &page, 0, bytes);
    }
}
