//! How associations end: closing queues, dropping controllers, timers.

use std::time::Instant;

use crate::command::{Extra, NONE, State};
use crate::controller::Phase;
use crate::output::{ControllerEventKind, DisconnectReason, Output};
use crate::qpair::Role;
use crate::target::Target;

impl Target {
    /// When [`Target::handle_timeout`] is to be called next at the latest.
    pub fn poll_timeout(&self) -> Option<Instant> {
        self.deadline
    }

    /// Lets timers that are due fire: connections without Connect, keep alive.
    pub fn handle_timeout(&mut self, now: Instant) {
        if self.deadline.is_none_or(|deadline| now < deadline) {
            return;
        }
        self.deadline = None;
        let mut late = Vec::new();
        let mut next: Option<Instant> = None;
        let mut note = |deadline: Instant| {
            next = Some(next.map_or(deadline, |first| first.min(deadline)));
        };
        for (q, qpair) in self.qpairs.iter() {
            if let Role::Fresh(deadline) = qpair.role {
                if deadline <= now {
                    late.push(q);
                } else {
                    note(deadline);
                }
            }
        }
        let mut expired = Vec::new();
        for (index, controller) in self.controllers.iter_mut() {
            let Some(deadline) = controller.keep_alive.deadline else {
                continue;
            };
            if deadline > now {
                note(deadline);
                continue;
            }
            // Base 2.0c §3.9: with TBKAS any command restarts the timer, on whichever queue it came.
            let mut was_active = false;
            for q in core::iter::once(controller.admin_qp).chain(controller.io_qps.iter().copied())
            {
                if let Some(qpair) = self.qpairs.get_mut(q) {
                    was_active |= core::mem::take(&mut qpair.active);
                }
            }
            if was_active {
                controller.keep_alive.restart(controller.kind, now);
                if let Some(deadline) = controller.keep_alive.deadline {
                    note(deadline);
                }
            } else {
                expired.push(index);
            }
        }
        self.deadline = next;
        for q in late {
            self.close(q, DisconnectReason::ConnectTimeout);
        }
        for index in expired {
            // §3.9: the controller sets CFS and ends the association.
            self.announce(index, ControllerEventKind::KeepAliveExpired);
            self.drop_controller(index, DisconnectReason::KeepAliveExpired, true);
        }
    }

    /// Tells the engine to close `q`, after what was already emitted for it.
    pub(crate) fn close(&mut self, q: u32, reason: DisconnectReason) {
        if self.qpairs[q].role == Role::Closing {
            return;
        }
        let qp = self.qpair_id(q);
        self.outputs.push_back(Output::Disconnect { qp, reason });
        self.detach(q, reason);
    }

    /// Ends what `q` stands for: with an admin queue its controller.
    pub(crate) fn detach(&mut self, q: u32, reason: DisconnectReason) {
        let role = self.qpairs[q].role;
        match role {
            Role::Closing => {}
            Role::Fresh(_) => self.shut(q, None),
            Role::Io => {
                let index = self.qpairs[q].controller;
                self.shut(q, None);
                self.forget_io_queue(index, q);
            }
            Role::Admin => {
                let index = self.qpairs[q].controller;
                self.shut(q, None);
                let reason = match reason {
                    DisconnectReason::TransportGone => DisconnectReason::AdminQueueGone,
                    other => other,
                };
                self.drop_controller(index, reason, false);
            }
        }
    }

    /// Removes controller `index`: its queues are closed, its host is told of by an event.
    pub(crate) fn drop_controller(
        &mut self,
        index: u32,
        reason: DisconnectReason,
        close_admin: bool,
    ) {
        let controller = &mut self.controllers[index];
        controller.registers.phase = Phase::Fatal;
        let queues: Vec<u32> = core::mem::take(&mut controller.io_qps);
        let admin = controller.admin_qp;
        for q in queues.into_iter().chain(close_admin.then_some(admin)) {
            if q != NONE {
                let qp = self.qpair_id(q);
                self.outputs.push_back(Output::Disconnect { qp, reason });
                self.shut(q, None);
            }
        }
        self.announce(index, ControllerEventKind::Disconnected);
        if let Some(controller) = self.controllers.remove(index) {
            self.hosts.remove_controller(controller.host.index);
            if let Some(subsystem) = self.subsystems.get_mut(controller.subsystem) {
                subsystem.controllers.retain(|other| *other != index);
            }
        }
    }

    /// Closes the I/O queues of a controller that stays. With `drain`, counts their I/O still in the device.
    pub(crate) fn close_io_queues(&mut self, index: u32, drain: bool) {
        let generation = self.controllers.generation(index);
        let queues = core::mem::take(&mut self.controllers[index].io_qps);
        for q in queues.into_iter().filter(|q| *q != NONE) {
            let qp = self.qpair_id(q);
            self.outputs.push_back(Output::Disconnect {
                qp,
                reason: DisconnectReason::ControllerReset,
            });
            self.shut(q, drain.then_some((index, generation)));
        }
    }

    fn forget_io_queue(&mut self, index: u32, q: u32) {
        if let Some(controller) = self.controllers.get_mut(index) {
            for slot in controller.io_qps.iter_mut().filter(|slot| **slot == q) {
                *slot = NONE;
            }
        }
    }

    /// Lets go of every command of `q`: those in the device are released when they come back, the others at once. `drain`
    /// names the controller to be told of the former.
    fn shut(&mut self, q: u32, drain: Option<(u32, u32)>) {
        let qpair = &mut self.qpairs[q];
        if matches!(qpair.role, Role::Admin | Role::Io) {
            self.hosts.remove_queue(qpair.host);
        }
        qpair.role = Role::Closing;
        let stats = core::mem::take(&mut qpair.stats);
        let owner = qpair.controller;
        let mut at = core::mem::replace(&mut qpair.first, NONE);
        if let Some(controller) = self.controllers.get_mut(owner) {
            controller.stats.add(&stats);
        }
        let mut over = Vec::new();
        while at != NONE {
            let next = self.commands.next(at);
            self.commands.unlink(at, NONE);
            let command = &mut self.commands[at];
            command.qp = NONE;
            match command.state {
                State::InDevice => {
                    command.extra = drain.map(|controller| Box::new(Extra::Orphan { controller }));
                    if let Some((index, _)) = drain {
                        self.controllers[index].orphans += 1;
                    }
                }
                // Ends with the operation it joined, or when the store answers.
                State::FusedJoined | State::Persisting => {}
                State::Fetching
                | State::FusedReady
                | State::ReservationQueued
                | State::Draining
                | State::Aborting
                | State::Routing => over.push(at),
                State::Free | State::Ended => {}
            }
            at = next;
        }
        for index in over {
            self.forget_waiting(index);
            self.release(index);
        }
    }

    /// A command in the device at the shutdown of a controller came back.
    pub(crate) fn handle_orphan_ended(&mut self, controller: (u32, u32)) {
        if self.controllers.check(controller.0, controller.1).is_none() {
            return;
        }
        let controller = &mut self.controllers[controller.0];
        controller.orphans -= 1;
        if controller.orphans == 0 && controller.registers.phase == Phase::ShuttingDown {
            controller.registers.phase = Phase::ShutDown;
        }
    }
}
