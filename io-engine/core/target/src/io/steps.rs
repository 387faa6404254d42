//! Commands that take several device operations, one at a time: long Write Zeroes and deallocations, and Flush of every
//! namespace. Each step is bounded, so that one command cannot keep a device to itself.

use nvme_spec::io::{DatasetManagement, DsmRange, NSID_ALL};
use nvme_spec::opcode::nvm;
use nvme_spec::{Sqe, Status};
use units::{BlockRange, Blocks};

use super::{Intent, check_access};
use crate::command::{Extra, State};
use crate::limits;
use crate::output::{IoOp, Output, ReplyData};
use crate::target::Target;

impl Target {
    /// A step of command `index` ended well.
    pub(super) fn step_done(&mut self, index: u32) {
        let command = &self.commands[index];
        if let Some(status) = command.doom.status() {
            return self.finish(index, status, ReplyData::None);
        }
        match command.opcode {
            nvm::WRITE_ZEROES if command.blocks > 0 => self.zero_next(index),
            nvm::DATASET_MANAGEMENT => self.deallocate_next(index),
            nvm::FLUSH if command.nsid == NSID_ALL => self.flush_next(index),
            _ => self.finish(index, Status::SUCCESS, ReplyData::None),
        }
    }

    /// Blocks of one step in the namespace of command `index` and the size of that, or why it cannot go on.
    fn step_limits(&mut self, index: u32) -> Result<(u64, u64), Status> {
        let command = &self.commands[index];
        let qpair = &mut self.qpairs[command.qp];
        let namespace = self.subsystems[qpair.subsystem]
            .namespace(command.nsid)
            .filter(|namespace| namespace.epoch == command.ns_epoch)
            .ok_or(Status::INVALID_NAMESPACE.dnr())?;
        let host = &self.controllers[qpair.controller].host.id;
        check_access(qpair, namespace, host, Intent::Write)?;
        Ok((
            limits::DISCARD_STEP_BYTES >> namespace.shift,
            namespace.blocks,
        ))
    }

    /// The next part of a Write Zeroes.
    pub(super) fn zero_next(&mut self, index: u32) {
        let (limit, size) = match self.step_limits(index) {
            Ok(both) => both,
            Err(status) => return self.finish(index, status, ReplyData::None),
        };
        let command = &mut self.commands[index];
        let count = u64::from(command.blocks).min(limit);
        // The namespace may have shrunk since the step before.
        if command.start + count > size {
            return self.finish(index, Status::LBA_OUT_OF_RANGE.dnr(), ReplyData::None);
        }
        let op = IoOp::WriteZeroes {
            range: BlockRange::new(command.start, count),
            unmap: command.deallocate,
            fua: command.fua,
        };
        command.start += count;
        command.blocks -= count as u32;
        self.submit(index, op);
    }

    /// Ranges of a Dataset Management are known (NVM Command Set 1.0c §3.2.3).
    pub(super) fn start_deallocate(&mut self, index: u32, sqe: &Sqe, ranges: Vec<DsmRange>) {
        let command = &self.commands[index];
        let subsystem = self.qpairs[command.qp].subsystem;
        let Some(namespace) = self.subsystems[subsystem].namespace(sqe.nsid()) else {
            return self.finish(index, Status::INVALID_NAMESPACE.dnr(), ReplyData::None);
        };
        let (epoch, device, blocks) = (namespace.epoch, namespace.device, namespace.blocks);
        let is_within = |range: &DsmRange| {
            range
                .slba
                .checked_add(u64::from(range.blocks))
                .is_some_and(|end| end <= blocks)
        };
        if !ranges.iter().all(is_within) {
            return self.finish(index, Status::LBA_OUT_OF_RANGE.dnr(), ReplyData::None);
        }
        if !DatasetManagement::parse(sqe).deallocate {
            // §3.2.3: the other attributes are hints that may be ignored.
            return self.finish(index, Status::SUCCESS, ReplyData::None);
        }
        let command = &mut self.commands[index];
        command.nsid = sqe.nsid();
        command.ns_epoch = epoch;
        command.device = device;
        command.extra = Some(Box::new(Extra::Ranges { next: 0, ranges }));
        self.deallocate_next(index);
    }

    fn deallocate_next(&mut self, index: u32) {
        let (limit, size) = match self.step_limits(index) {
            Ok(both) => both,
            Err(status) => return self.finish(index, status, ReplyData::None),
        };
        let command = &mut self.commands[index];
        let mut step = None;
        if let Some(Extra::Ranges { next, ranges }) = command.extra.as_deref_mut() {
            while let Some(range) = ranges.get_mut(*next) {
                let count = u64::from(range.blocks).min(limit);
                if count > 0 {
                    step = Some(BlockRange::new(range.slba, count));
                    range.slba += count;
                    range.blocks -= count as u32;
                    break;
                }
                *next += 1;
            }
        }
        match step {
            // The namespace may have shrunk since the ranges were checked.
            Some(range) if !range.is_within(Blocks(size)) => {
                self.finish(index, Status::LBA_OUT_OF_RANGE.dnr(), ReplyData::None);
            }
            Some(range) => {
                self.submit(index, IoOp::Discard { range });
            }
            None => self.finish(index, Status::SUCCESS, ReplyData::None),
        }
    }

    /// The next namespace of a Flush of all; `start` is the last id done. Namespaces whose reservation keeps this host from
    /// writing have nothing of its to flush.
    pub(super) fn flush_next(&mut self, index: u32) {
        let command = &self.commands[index];
        let done = command.start;
        let qpair = &mut self.qpairs[command.qp];
        let host = &self.controllers[qpair.controller].host.id;
        let next = self.subsystems[qpair.subsystem]
            .active()
            .filter(|(nsid, _)| u64::from(*nsid) > done)
            .find(|(_, namespace)| check_access(qpair, namespace, host, Intent::Write).is_ok())
            .map(|(nsid, namespace)| (nsid, namespace.device));
        let Some((nsid, device)) = next else {
            return self.finish(index, Status::SUCCESS, ReplyData::None);
        };
        let command = &mut self.commands[index];
        command.start = u64::from(nsid);
        command.device = device;
        command.state = State::InDevice;
        let qp = command.qp;
        let output = Output::Io {
            qp: self.qpair_id(qp),
            cmd: self.commands.id(index),
            device,
            op: IoOp::Flush,
        };
        self.outputs.push_back(output);
    }
}
