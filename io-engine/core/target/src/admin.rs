//! Admin commands: which there are, Keep Alive, Abort, Asynchronous Event Request (Base 2.0c §5).

use std::time::Instant;

use nvme_spec::event::{AsyncEvent, config};
use nvme_spec::opcode::{FABRICS, admin};
use nvme_spec::{Sqe, Status};

use crate::command::{Doom, Extra, NONE, State};
use crate::controller::Phase;
use crate::output::ReplyData;
use crate::target::{InCapsule, Target};
use crate::{CmdId, features, limits};

impl Target {
    /// A command on an admin queue.
    pub(crate) fn handle_admin(
        &mut self,
        now: Instant,
        q: u32,
        sqe: &Sqe,
        data: InCapsule<'_>,
    ) -> Option<CmdId> {
        if sqe.opcode() == FABRICS {
            self.handle_fabrics(q, sqe);
            return None;
        }
        let controller = &mut self.controllers[self.qpairs[q].controller];
        // Base 2.0c §3.5.3: until CSTS.RDY is 1 only fabrics commands are processed; after a shutdown notification the
        // admin queue goes on (§3.6.1).
        if matches!(controller.registers.phase, Phase::Disabled | Phase::Fatal) {
            self.refuse(q, sqe, Status::COMMAND_SEQUENCE_ERROR.dnr());
            return None;
        }
        if sqe.fused() != 0 {
            // §3.4.2: no admin command can be fused.
            self.refuse(q, sqe, Status::INVALID_FIELD.dnr());
            return None;
        }
        match sqe.opcode() {
            admin::GET_LOG_PAGE => self.get_log_page(now, q, sqe),
            admin::IDENTIFY => self.identify(q, sqe),
            admin::ABORT => return self.abort(q, sqe),
            admin::SET_FEATURES => return self.set_features(now, q, sqe, data),
            admin::GET_FEATURES => self.get_features(q, sqe),
            admin::ASYNC_EVENT_REQUEST => self.async_event_request(q, sqe),
            admin::KEEP_ALIVE => {
                controller.keep_alive.restart(controller.kind, now);
                self.answer(q, sqe.cid(), Status::SUCCESS, 0, ReplyData::None);
            }
            // §3.3: queues are made by Connect on fabrics, so the PCIe commands for that are among the unknown.
            _ => self.refuse(q, sqe, Status::INVALID_OPCODE.dnr()),
        }
        None
    }

    /// By-value payload of an admin command, which is Set Features, is complete.
    pub(crate) fn admin_payload(&mut self, index: u32, data: &[u8]) {
        let q = self.commands[index].qp;
        match self.set_feature_data(q, data) {
            Ok(()) => self.finish(index, Status::SUCCESS, ReplyData::None),
            Err(status) => self.finish(index, status, ReplyData::None),
        }
    }

    /// Abort (§5.1): really ends what has not reached the device, and answers after it; bit 0 of the result says "not
    /// aborted" for everything else.
    fn abort(&mut self, q: u32, sqe: &Sqe) -> Option<CmdId> {
        let (sqid, cid) = (sqe.dword(10) as u16, (sqe.dword(10) >> 16) as u16);
        let controller = &mut self.controllers[self.qpairs[q].controller];
        if controller.aborts as usize >= limits::ABORTS_MAX {
            self.refuse(q, sqe, Status::ABORT_LIMIT_EXCEEDED);
            return None;
        }
        if sqid == 0 && controller.events.withdraw(cid) {
            self.answer(q, cid, Status::ABORT_REQUESTED, 0, ReplyData::None);
            self.answer(q, sqe.cid(), Status::SUCCESS, 0, ReplyData::None);
            return None;
        }
        let victim_queue = if sqid == 0 {
            q
        } else {
            let slot = usize::from(sqid) - 1;
            controller.io_qps.get(slot).copied().unwrap_or(NONE)
        };
        let victim = self.find_abortable(victim_queue, cid);
        if victim == NONE {
            self.answer(q, sqe.cid(), Status::SUCCESS, 1, ReplyData::None);
            return None;
        }
        let index = self.allocate_or_interrupt(q, sqe, State::Aborting)?;
        let id = self.commands.id(index);
        let victim_id = self.commands.id(victim);
        self.commands[index].extra = Some(Box::new(Extra::Victim(victim_id)));
        let controller = &mut self.controllers[self.qpairs[q].controller];
        controller.aborts += 1;
        let command = &mut self.commands[victim];
        command.watched = true;
        command.doom = Doom::AbortRequested;
        match command.state {
            // Its data are on their way and cannot be called back; it ends when they are here.
            State::Fetching | State::InDevice => {}
            State::FusedReady | State::ReservationQueued => {
                self.forget_waiting(victim);
                self.finish_or_fail_pair(victim, Status::ABORT_REQUESTED);
            }
            State::Free
            | State::Ended
            | State::FusedJoined
            | State::Persisting
            | State::Draining
            | State::Aborting
            | State::Routing => {}
        }
        self.commands.check(id).map(|_| id)
    }

    /// The command `cid` of queue `q` if it can still be kept from happening, or [`NONE`].
    fn find_abortable(&self, q: u32, cid: u16) -> u32 {
        let Some(qpair) = self.qpairs.get(q) else {
            return NONE;
        };
        let mut at = qpair.first;
        while at != NONE {
            let command = &self.commands[at];
            if command.cid == cid {
                let more_steps = matches!(command.extra.as_deref(), Some(Extra::Ranges { .. }));
                let can = match command.state {
                    State::Fetching | State::FusedReady | State::ReservationQueued => true,
                    // Between the steps of a long deallocation.
                    State::InDevice => more_steps,
                    State::Free
                    | State::Ended
                    | State::FusedJoined
                    | State::Persisting
                    | State::Draining
                    | State::Aborting
                    | State::Routing => false,
                };
                return if can && command.doom == Doom::None {
                    at
                } else {
                    NONE
                };
            }
            at = self.commands.next(at);
        }
        NONE
    }

    /// A watched command ended: whoever waited for it goes on.
    pub(crate) fn handle_ended(&mut self, ended: CmdId) {
        let waiting: Vec<u32> = self
            .commands
            .iter()
            .filter(
                |(_, command)| match (command.state, command.extra.as_deref()) {
                    (State::Aborting, Some(Extra::Victim(victim))) => *victim == ended,
                    (State::Draining, Some(Extra::Drain { waits_for })) => {
                        waits_for.contains(&ended)
                    }
                    _ => false,
                },
            )
            .map(|(index, _)| index)
            .collect();
        for index in waiting {
            if self.commands[index].state == State::Aborting {
                self.forget_waiting(index);
                self.finish(index, Status::SUCCESS, ReplyData::None);
            } else if let Some(Extra::Drain { waits_for }) =
                self.commands[index].extra.as_deref_mut()
            {
                waits_for.retain(|id| *id != ended);
                if waits_for.is_empty() {
                    self.finish(index, Status::SUCCESS, ReplyData::None);
                }
            }
        }
    }

    /// Takes a command that is about to end out of what counts or queues it.
    pub(crate) fn forget_waiting(&mut self, index: u32) {
        let command = &self.commands[index];
        match command.state {
            State::Aborting => {
                let owner = self
                    .qpairs
                    .get(command.qp)
                    .map_or(NONE, |qpair| qpair.controller);
                if let Some(controller) = self.controllers.get_mut(owner) {
                    controller.aborts -= 1;
                }
            }
            State::ReservationQueued => self.leave_reservation_queue(index),
            State::Free
            | State::Ended
            | State::Fetching
            | State::FusedReady
            | State::FusedJoined
            | State::InDevice
            | State::Persisting
            | State::Draining
            | State::Routing => {}
        }
    }

    /// Asynchronous Event Request (§5.2): kept until there is something to tell.
    fn async_event_request(&mut self, q: u32, sqe: &Sqe) {
        let index = self.qpairs[q].controller;
        if !self.controllers[index].events.request(sqe.cid()) {
            return self.refuse(q, sqe, Status::AER_LIMIT_EXCEEDED.dnr());
        }
        self.report_events(index);
    }

    /// Answers requests while there are both requests and events.
    pub(crate) fn report_events(&mut self, index: u32) {
        while let Some((cid, event)) = self.controllers[index].events.report() {
            let q = self.controllers[index].admin_qp;
            self.answer(q, cid, Status::SUCCESS, event.result(), ReplyData::None);
        }
    }

    /// Raises `event` on controller `index` if the host configured it (§5.27.1.8).
    pub(crate) fn raise(&mut self, index: u32, event: AsyncEvent) {
        let controller = &mut self.controllers[index];
        let mask = match event {
            AsyncEvent::NAMESPACE_ATTRIBUTE_CHANGED => config::NAMESPACE_ATTRIBUTE,
            AsyncEvent::ANA_CHANGED => config::ANA_CHANGE,
            AsyncEvent::DISCOVERY_CHANGED => config::DISCOVERY_CHANGE,
            // Reservation notifications have their own mask feature, looked at where they are made.
            _ => 0,
        };
        if mask == 0 || controller.features.events & mask != 0 {
            controller.events.raise(event);
            self.report_events(index);
        }
    }

    /// Value of a reservation notification mask bit of controller `index` for `nsid`.
    pub(crate) fn is_notice_masked(&self, index: u32, nsid: u32, code: u8) -> bool {
        let masks = &self.controllers[index].features.reservation_mask;
        features::by_namespace(masks, nsid) >> code & 1 != 0
    }
}
