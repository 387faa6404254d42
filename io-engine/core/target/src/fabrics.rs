//! Fabrics commands after Connect: properties and Disconnect (Base 2.0c §6.4 to §6.6), and the controller states they drive.

use nvme_spec::fabrics::{PropertyCommand, disconnect_recfmt};
use nvme_spec::opcode::fabrics;
use nvme_spec::register::{CAP, CC, CRTO, CSTS, Cc, NSSR, VERSION_2_0, VS};
use nvme_spec::{Sqe, Status};

use crate::connect;
use crate::controller::{Phase, Step};
use crate::output::{DisconnectReason, Output, ReplyData};
use crate::qpair::Role;
use crate::target::Target;

impl Target {
    /// A fabrics command on a connected queue; answered at once.
    pub(crate) fn handle_fabrics(&mut self, q: u32, sqe: &Sqe) {
        let is_admin = self.qpairs[q].role == Role::Admin;
        match (sqe.fctype(), is_admin) {
            (fabrics::PROPERTY_GET, true) => self.property_get(q, sqe),
            (fabrics::PROPERTY_SET, true) => self.property_set(q, sqe),
            (fabrics::DISCONNECT, false) => self.disconnect_command(q, sqe),
            // §6.4: Disconnect deletes I/O queues only.
            (fabrics::DISCONNECT, true) => self.refuse(q, sqe, Status::INVALID_QUEUE_TYPE.dnr()),
            // §6.3: a queue is connected once.
            (fabrics::CONNECT, _) => self.refuse(q, sqe, Status::COMMAND_SEQUENCE_ERROR.dnr()),
            _ => self.refuse(q, sqe, Status::INVALID_OPCODE.dnr()),
        }
    }

    fn property_get(&mut self, q: u32, sqe: &Sqe) {
        let command = PropertyCommand::parse(sqe);
        let registers = &self.controllers[self.qpairs[q].controller].registers;
        let value = match (command.offset, command.width) {
            (CAP, Some(8)) => registers.cap.emit(),
            (VS, Some(4)) => u64::from(VERSION_2_0),
            (CC, Some(4)) => u64::from(registers.cc.0),
            (CSTS, Some(4)) => u64::from(registers.phase.csts().0),
            (CRTO, Some(4)) => u64::from(connect::CRTO),
            // §3.1.3.6: NSSR reads as 0; the reset itself is not supported (CAP.NSSRS is 0).
            (NSSR, Some(4)) => 0,
            // §6.5: anything else, or another width, is an invalid field. Without Do Not Retry: hosts' tools walk the
            // whole property space and take exactly this status for "not here" (nvme-cli up to 2.x compares it whole).
            _ => return self.refuse(q, sqe, Status::INVALID_FIELD),
        };
        self.answer(q, sqe.cid(), Status::SUCCESS, value, ReplyData::None);
    }

    fn property_set(&mut self, q: u32, sqe: &Sqe) {
        let command = PropertyCommand::parse(sqe);
        if (command.offset, command.width) != (CC, Some(4)) {
            return self.refuse(q, sqe, Status::INVALID_FIELD.dnr());
        }
        self.write_cc(q, Cc(command.value as u32));
        self.answer(q, sqe.cid(), Status::SUCCESS, 0, ReplyData::None);
    }

    fn write_cc(&mut self, q: u32, cc: Cc) {
        let index = self.qpairs[q].controller;
        let controller = &mut self.controllers[index];
        let write = controller.registers.classify(cc, controller.kind);
        let step = controller.registers.phase.after(write);
        controller.registers.cc = cc;
        match step {
            Step::Stay => {}
            Step::Enter(phase) => controller.registers.phase = phase,
            Step::ResetTo(phase) => {
                controller.registers.phase = phase;
                controller
                    .features
                    .reset(self.config.io_queues_per_controller);
                // §3.7.2: a controller reset deletes the I/O queues and forgets outstanding commands; on message-based
                // transports the admin queue stays. Requests for events get no answer, but their entries are free.
                let dropped = controller.events.reset();
                let qp = self.qpair_id(q);
                for cid in dropped {
                    self.qpairs[q].advance();
                    self.outputs.push_back(Output::Forgotten { qp, cid });
                }
                self.close_io_queues(index, false);
            }
            Step::DrainTo(phase) => {
                controller.registers.phase = phase;
                self.close_io_queues(index, true);
                let controller = &mut self.controllers[index];
                if controller.orphans == 0 {
                    controller.registers.phase = Phase::ShutDown;
                }
            }
        }
    }

    /// §6.4: the queue goes after the answer.
    fn disconnect_command(&mut self, q: u32, sqe: &Sqe) {
        if disconnect_recfmt(sqe) != 0 {
            return self.refuse(q, sqe, Status::CONNECT_INCOMPATIBLE_FORMAT.dnr());
        }
        self.answer(q, sqe.cid(), Status::SUCCESS, 0, ReplyData::None);
        self.close(q, DisconnectReason::HostRequest);
    }
}
