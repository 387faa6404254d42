//! Fused compare-and-write (Base 2.0c §3.4.2, NVM Command Set 1.0c §2.1.5): two adjacent commands of a queue, carried out
//! as one or not at all.

use std::time::Instant;

use nvme_spec::io::{BlockCommand, FUSED_FIRST, FUSED_SECOND};
use nvme_spec::opcode::nvm;
use nvme_spec::{Sqe, Status};
use units::BlockRange;

use super::{Intent, io_status};
use crate::CmdId;
use crate::command::{Doom, NONE, State};
use crate::output::{IoError, IoOp, ReplyData};
use crate::qpair::Fused;
use crate::target::{InCapsule, Target};

impl Target {
    /// A command that is fused, or comes where the second half of a pair was due.
    pub(super) fn handle_fused(
        &mut self,
        now: Instant,
        q: u32,
        sqe: &Sqe,
        data: InCapsule<'_>,
    ) -> Option<CmdId> {
        let before = core::mem::replace(&mut self.qpairs[q].fused, Fused::Idle);
        if sqe.fused() == FUSED_SECOND {
            return match before {
                Fused::First(first) => self.fused_second(q, first, sqe, data),
                Fused::FirstFailed => {
                    self.refuse(q, sqe, Status::ABORTED_FAILED_FUSED);
                    None
                }
                Fused::Idle => {
                    self.refuse(q, sqe, Status::ABORTED_MISSING_FUSED);
                    None
                }
            };
        }
        // §3.4.2: a first half not followed by its second is aborted.
        if let Fused::First(first) = before {
            self.end_half(first, Doom::SecondMissing);
        }
        match sqe.fused() {
            0 => self.handle_plain_io(now, q, sqe, data),
            FUSED_FIRST => self.fused_first(q, sqe, data),
            _ => {
                self.refuse(q, sqe, Status::INVALID_FIELD.dnr());
                None
            }
        }
    }

    fn fused_first(&mut self, q: u32, sqe: &Sqe, data: InCapsule<'_>) -> Option<CmdId> {
        let admitted = self.fused_half(q, sqe, nvm::COMPARE, Intent::Read, data);
        let index = match admitted {
            Ok(index) => index,
            Err(status) => {
                self.qpairs[q].fused = Fused::FirstFailed;
                self.refuse(q, sqe, status);
                return None;
            }
        };
        // Marks a half whose partner is not known.
        self.commands[index].partner = index;
        self.qpairs[q].fused = Fused::First(index);
        Some(self.commands.id(index))
    }

    fn fused_second(
        &mut self,
        q: u32,
        first: u32,
        sqe: &Sqe,
        data: InCapsule<'_>,
    ) -> Option<CmdId> {
        let block = BlockCommand::parse(sqe);
        let half = &self.commands[first];
        let is_same_range =
            half.nsid == sqe.nsid() && half.start == block.slba && half.blocks == block.blocks;
        let admitted = if is_same_range {
            self.fused_half(q, sqe, nvm::WRITE, Intent::Write, data)
        } else {
            // NVM Command Set 1.0c §2.1.5: both halves name the same blocks.
            Err(Status::INVALID_FIELD.dnr())
        };
        let index = match admitted {
            Ok(index) => index,
            Err(status) => {
                self.end_half(first, Doom::PartnerFailed);
                self.refuse(q, sqe, status);
                return None;
            }
        };
        self.commands[index].fua = block.fua;
        self.commands[index].partner = first;
        self.commands[first].partner = index;
        let id = self.commands.id(index);
        self.start_pair(index);
        self.commands.check(id).map(|_| id)
    }

    /// Checks one half and takes its data; `FusedReady` when they are there, `Fetching` else.
    fn fused_half(
        &mut self,
        q: u32,
        sqe: &Sqe,
        opcode: u8,
        intent: Intent,
        data: InCapsule<'_>,
    ) -> Result<u32, Status> {
        if sqe.opcode() != opcode {
            // §3.4.2: compare, then write, is the only pair there is.
            return Err(Status::INVALID_FIELD.dnr());
        }
        let block = BlockCommand::parse(sqe);
        let (admitted, in_capsule) = self.admit_data(q, sqe, &block, intent, &data)?;
        let capabilities = self.subsystems[self.qpairs[q].subsystem]
            .namespace(sqe.nsid())
            .map(|namespace| namespace.capabilities);
        let unit = capabilities.map_or(1, |own| own.atomic_blocks.max(1));
        if !capabilities.is_some_and(|own| own.compare) {
            return Err(Status::INVALID_FIELD.dnr());
        }
        if block.blocks > unit {
            // NVM Command Set 1.0c §2.1.4.2: the atomic compare and write unit.
            return Err(Status::ATOMIC_WRITE_UNIT_EXCEEDED.dnr());
        }
        let index = self
            .allocate(q, sqe, State::FusedReady)
            .ok_or(Status::COMMAND_INTERRUPTED.with_crd(1))?;
        let command = &mut self.commands[index];
        command.nsid = sqe.nsid();
        command.ns_epoch = admitted.epoch;
        command.device = admitted.device;
        command.start = block.slba;
        command.blocks = block.blocks;
        command.bytes = admitted.bytes as u32;
        if !in_capsule {
            self.fetch(index, admitted.bytes as u32, false);
        }
        Ok(index)
    }

    /// Whether `index` is half of a fused pair that is not in the device.
    pub(super) fn is_fused_half(&self, index: u32) -> bool {
        self.commands[index].partner != NONE
    }

    /// The data of a half have been fetched.
    pub(super) fn fused_data_ready(&mut self, index: u32) {
        self.commands[index].state = State::FusedReady;
        let partner = self.commands[index].partner;
        if partner != index {
            self.start_pair(index);
        }
    }

    /// Starts the pair that `either` belongs to once both halves have their data.
    fn start_pair(&mut self, either: u32) {
        let other = self.commands[either].partner;
        let is_ready = |index: u32| self.commands[index].state == State::FusedReady;
        if !is_ready(either) || !is_ready(other) {
            return;
        }
        let (first, second) = if self.commands[either].opcode == nvm::COMPARE {
            (either, other)
        } else {
            (other, either)
        };
        // Between the halves the host may have lost its right to write.
        if let Err(status) = self.recheck(second) {
            return self.finish_or_fail_pair(second, status);
        }
        let command = &mut self.commands[first];
        command.state = State::FusedJoined;
        let range = BlockRange::new(command.start, u64::from(command.blocks));
        let op = IoOp::CompareAndWrite {
            range,
            compare: self.commands.id(first),
            fua: self.commands[second].fua,
        };
        self.submit(second, op);
    }

    /// The device answered for the pair whose second half is `second`.
    pub(super) fn fused_done(&mut self, second: u32, result: Result<(), IoError>) {
        let first = self.commands[second].partner;
        let bytes = u64::from(self.commands[second].bytes);
        let (first_status, second_status) = match result {
            Ok(()) => {
                let stats = &mut self.qpairs[self.commands[second].qp].stats;
                stats.reads += 1;
                stats.writes += 1;
                stats.bytes_written += bytes;
                (Status::SUCCESS, Status::SUCCESS)
            }
            // The comparison is the first half's to report, everything else may have been either's.
            Err(IoError::CompareFailed) => {
                (Status::COMPARE_FAILURE.dnr(), Status::ABORTED_FAILED_FUSED)
            }
            Err(error) => (Status::ABORTED_FAILED_FUSED, io_status(error, nvm::WRITE)),
        };
        self.finish(first, first_status, ReplyData::None);
        self.finish(second, second_status, ReplyData::None);
    }

    /// Ends a half without its partner: at once, or when its data, which cannot be called back, are here.
    fn end_half(&mut self, index: u32, doom: Doom) {
        let command = &mut self.commands[index];
        command.partner = NONE;
        command.doom = doom;
        if let (State::FusedReady, Some(status)) = (command.state, doom.status()) {
            self.finish(index, status, ReplyData::None);
        }
    }

    /// Ends `index` with `status`; if it is half of a fused pair, its other half with it.
    pub(crate) fn finish_or_fail_pair(&mut self, index: u32, status: Status) {
        let partner = self.commands[index].partner;
        if partner == NONE {
            return self.finish(index, status, ReplyData::None);
        }
        if partner == index {
            // The second half has not come; if it is next it fails too.
            let q = self.commands[index].qp;
            if self.qpairs[q].fused == Fused::First(index) {
                self.qpairs[q].fused = Fused::FirstFailed;
            }
            return self.finish(index, status, ReplyData::None);
        }
        self.commands[index].partner = NONE;
        self.finish(index, status, ReplyData::None);
        self.end_half(partner, Doom::PartnerFailed);
    }
}
