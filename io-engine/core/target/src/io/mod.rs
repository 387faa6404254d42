//! I/O commands (NVM Command Set 1.0c §3.2): checks, data, the device, the answer.

mod fused;
mod steps;

use std::time::Instant;

use nvme_spec::io::{BlockCommand, DatasetManagement, DsmRange, NSID_ALL};
use nvme_spec::opcode::{FABRICS, nvm};
use nvme_spec::{Sqe, Status};
use units::BlockRange;

use crate::command::{NONE, State};
use crate::limits::PAYLOAD_READ_MAX;
use crate::output::{IoError, IoOp, Output, ReplyData};
use crate::qpair::{AccessCache, Fused, Qpair};
use crate::subsystem::Namespace;
use crate::target::{InCapsule, Target};
use crate::{CmdId, DeviceKey};

/// What a command may want of a namespace under a reservation (Base 2.0c figure 421).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Intent {
    Read,
    Write,
}

/// A block command that passed its checks.
struct Admitted {
    epoch: u64,
    device: DeviceKey,
    bytes: u64,
    volatile_cache: bool,
}

impl Target {
    /// A command on an I/O queue.
    #[inline]
    pub(crate) fn handle_io(
        &mut self,
        now: Instant,
        q: u32,
        sqe: &Sqe,
        data: InCapsule<'_>,
    ) -> Option<CmdId> {
        let qpair = &self.qpairs[q];
        if sqe.fused() != 0 || qpair.fused != Fused::Idle {
            return self.handle_fused(now, q, sqe, data);
        }
        self.handle_plain_io(now, q, sqe, data)
    }

    /// A command that is not part of a fused pair.
    #[inline]
    fn handle_plain_io(
        &mut self,
        now: Instant,
        q: u32,
        sqe: &Sqe,
        data: InCapsule<'_>,
    ) -> Option<CmdId> {
        match sqe.opcode() {
            nvm::READ => self.read(q, sqe),
            nvm::WRITE | nvm::COMPARE => self.write_or_compare(q, sqe, data),
            nvm::FLUSH => self.flush(q, sqe),
            nvm::WRITE_ZEROES => self.write_zeroes(q, sqe),
            nvm::DATASET_MANAGEMENT => self.dataset_management(now, q, sqe, data),
            nvm::RESERVATION_REGISTER | nvm::RESERVATION_ACQUIRE | nvm::RESERVATION_RELEASE => {
                self.reservation_command(now, q, sqe, data)
            }
            nvm::RESERVATION_REPORT => {
                self.reservation_report(q, sqe);
                None
            }
            FABRICS => {
                self.handle_fabrics(q, sqe);
                None
            }
            _ => {
                self.refuse(q, sqe, Status::INVALID_OPCODE.dnr());
                None
            }
        }
    }

    #[inline]
    fn read(&mut self, q: u32, sqe: &Sqe) -> Option<CmdId> {
        let block = BlockCommand::parse(sqe);
        let admitted = match self.admit(q, sqe, &block, Intent::Read) {
            Ok(admitted) => admitted,
            Err(status) => {
                self.refuse(q, sqe, status);
                return None;
            }
        };
        // The host's buffer holds exactly the blocks (NVM Command Set 1.0c §3.2.4; SGLS bit 18 is 0).
        if let Err(status) = Self::check_reply_buffer(sqe, admitted.bytes)
            .and_then(|()| self.check_size(sqe, admitted.bytes))
        {
            self.refuse(q, sqe, status);
            return None;
        }
        let index = self.admit_slot(q, sqe, &block, &admitted)?;
        // §3.2.4: FUA on a read means from the medium: what the cache holds is written first.
        if block.fua && admitted.volatile_cache {
            self.commands[index].fua = true;
            return Some(self.submit(index, IoOp::Flush));
        }
        let range = BlockRange::new(block.slba, u64::from(block.blocks));
        Some(self.submit(index, IoOp::Read { range }))
    }

    #[inline]
    fn write_or_compare(&mut self, q: u32, sqe: &Sqe, data: InCapsule<'_>) -> Option<CmdId> {
        let block = BlockCommand::parse(sqe);
        let intent = if sqe.opcode() == nvm::WRITE {
            Intent::Write
        } else {
            Intent::Read
        };
        let (admitted, in_capsule) = match self.admit_data(q, sqe, &block, intent, &data) {
            Ok(both) => both,
            Err(status) => {
                self.refuse(q, sqe, status);
                return None;
            }
        };
        let index = self.admit_slot(q, sqe, &block, &admitted)?;
        self.commands[index].fua = block.fua;
        if in_capsule {
            let op = self.data_op(index);
            return Some(self.submit(index, op));
        }
        self.fetch(index, admitted.bytes as u32, false);
        Some(self.commands.id(index))
    }

    /// Checks a command that brings data: the blocks, then where the data are (`true` in the capsule).
    #[inline]
    fn admit_data(
        &mut self,
        q: u32,
        sqe: &Sqe,
        block: &BlockCommand,
        intent: Intent,
        data: &InCapsule<'_>,
    ) -> Result<(Admitted, bool), Status> {
        let admitted = self.admit(q, sqe, block, intent)?;
        self.check_size(sqe, admitted.bytes)?;
        let in_capsule = self.locate(q, sqe, data, admitted.bytes as u32)?;
        Ok((admitted, in_capsule))
    }

    /// A transfer is at most MDTS long and exactly as long as its descriptor says.
    #[inline]
    fn check_size(&self, sqe: &Sqe, bytes: u64) -> Result<(), Status> {
        if bytes > u64::from(self.config.mdts_bytes) {
            // Base 2.0c §5.17.2.1, MDTS.
            return Err(Status::INVALID_FIELD.dnr());
        }
        if u64::from(sqe.sgl().length()) != bytes {
            return Err(Status::DATA_SGL_LENGTH_INVALID.dnr());
        }
        Ok(())
    }

    /// Checks that hold for every command on blocks.
    #[inline]
    fn admit(
        &mut self,
        q: u32,
        sqe: &Sqe,
        block: &BlockCommand,
        intent: Intent,
    ) -> Result<Admitted, Status> {
        let qpair = &mut self.qpairs[q];
        let namespace = self.subsystems[qpair.subsystem]
            .namespace(sqe.nsid())
            .ok_or(Status::INVALID_NAMESPACE.dnr())?;
        // Without protection information and directives the fields for them are 0 (NVM Command Set 1.0c §3.2.4, §3.2.6).
        if block.prinfo != 0 || block.storage_tag_check || block.directive != 0 {
            return Err(Status::INVALID_FIELD.dnr());
        }
        let supported = match sqe.opcode() {
            nvm::COMPARE => namespace.capabilities.compare,
            nvm::WRITE_ZEROES => namespace.capabilities.write_zeroes,
            _ => true,
        };
        if !supported {
            return Err(Status::INVALID_OPCODE.dnr());
        }
        let end = block.slba.checked_add(u64::from(block.blocks));
        if end.is_none_or(|end| end > namespace.blocks) {
            return Err(Status::LBA_OUT_OF_RANGE.dnr());
        }
        if namespace.read_only && intent == Intent::Write {
            // Base 2.0c §3.3.3.2.1: Namespace is Write Protected.
            return Err(Status::NAMESPACE_WRITE_PROTECTED.dnr());
        }
        if namespace.reservations.rtype.is_some() {
            let controller = qpair.controller;
            check_access(
                qpair,
                namespace,
                &self.controllers[controller].host.id,
                intent,
            )?;
        }
        Ok(Admitted {
            epoch: namespace.epoch,
            device: namespace.device,
            bytes: u64::from(block.blocks) << namespace.shift,
            volatile_cache: namespace.capabilities.volatile_cache,
        })
    }

    /// A slot with what [`Self::admit`] found; answers the command when there is none.
    #[inline]
    fn admit_slot(
        &mut self,
        q: u32,
        sqe: &Sqe,
        block: &BlockCommand,
        admitted: &Admitted,
    ) -> Option<u32> {
        let index = self.allocate_or_interrupt(q, sqe, State::InDevice)?;
        let command = &mut self.commands[index];
        command.nsid = sqe.nsid();
        command.ns_epoch = admitted.epoch;
        command.device = admitted.device;
        command.start = block.slba;
        command.blocks = block.blocks;
        command.bytes = admitted.bytes as u32;
        Some(index)
    }

    /// Gives command `index` to its device.
    #[inline]
    fn submit(&mut self, index: u32, op: IoOp) -> CmdId {
        let command = &mut self.commands[index];
        command.state = State::InDevice;
        let (q, device) = (command.qp, command.device);
        let cmd = self.commands.id(index);
        let output = Output::Io {
            qp: self.qpair_id(q),
            cmd,
            device,
            op,
        };
        self.outputs.push_back(output);
        cmd
    }

    /// The operation of a command whose data are there.
    #[inline]
    fn data_op(&self, index: u32) -> IoOp {
        let command = &self.commands[index];
        let range = BlockRange::new(command.start, u64::from(command.blocks));
        if command.opcode == nvm::COMPARE {
            IoOp::Compare { range }
        } else {
            IoOp::Write {
                range,
                fua: command.fua,
            }
        }
    }

    /// User data of a Write or Compare have been fetched. What was checked when the command came is checked again: the
    /// host had time to lose its reservation, and the namespace to go or shrink.
    pub(crate) fn handle_user_data(&mut self, index: u32) {
        if let Err(status) = self.recheck(index) {
            return self.finish_or_fail_pair(index, status);
        }
        if self.is_fused_half(index) {
            return self.fused_data_ready(index);
        }
        let op = self.data_op(index);
        self.submit(index, op);
    }

    pub(super) fn recheck(&mut self, index: u32) -> Result<(), Status> {
        let command = &self.commands[index];
        let intent = if command.opcode == nvm::WRITE {
            Intent::Write
        } else {
            Intent::Read
        };
        let qpair = &mut self.qpairs[command.qp];
        let namespace = self.subsystems[qpair.subsystem]
            .namespace(command.nsid)
            .filter(|namespace| namespace.epoch == command.ns_epoch)
            .ok_or(Status::INVALID_NAMESPACE.dnr())?;
        if command.start + u64::from(command.blocks) > namespace.blocks {
            return Err(Status::LBA_OUT_OF_RANGE.dnr());
        }
        let host = &self.controllers[qpair.controller].host.id;
        check_access(qpair, namespace, host, intent)
    }

    /// The device answered for command `index`, whose connection is there.
    #[inline]
    pub(crate) fn io_done(&mut self, index: u32, result: Result<(), IoError>) {
        let command = &self.commands[index];
        let opcode = command.opcode;
        if command.partner != NONE {
            return self.fused_done(index, result);
        }
        if let Err(error) = result {
            let status = io_status(error, opcode);
            if error == IoError::Medium {
                self.qpairs[command.qp].stats.media_errors += 1;
            }
            return self.finish(index, status, ReplyData::None);
        }
        let bytes = command.bytes;
        match opcode {
            nvm::READ if command.fua => {
                let range = BlockRange::new(command.start, u64::from(command.blocks));
                self.commands[index].fua = false;
                // The namespace may have gone or shrunk while the cache was written.
                if let Err(status) = self.recheck(index) {
                    return self.finish(index, status, ReplyData::None);
                }
                self.submit(index, IoOp::Read { range });
            }
            nvm::READ => {
                let stats = &mut self.qpairs[command.qp].stats;
                stats.reads += 1;
                stats.bytes_read += u64::from(bytes);
                self.finish(index, Status::SUCCESS, ReplyData::FromIo(bytes));
            }
            nvm::WRITE => {
                let stats = &mut self.qpairs[command.qp].stats;
                stats.writes += 1;
                stats.bytes_written += u64::from(bytes);
                self.finish(index, Status::SUCCESS, ReplyData::None);
            }
            nvm::COMPARE => {
                self.qpairs[command.qp].stats.reads += 1;
                self.finish(index, Status::SUCCESS, ReplyData::None);
            }
            _ => self.step_done(index),
        }
    }

    /// By-value payload of an I/O command is complete.
    pub(crate) fn io_payload(&mut self, index: u32, sqe: &Sqe, data: &[u8]) {
        if sqe.opcode() == nvm::DATASET_MANAGEMENT {
            let count = DatasetManagement::parse(sqe).ranges as usize;
            let ranges = data
                .chunks_exact(DsmRange::LEN)
                .take(count)
                .filter_map(|raw| raw.first_chunk())
                .map(DsmRange::parse)
                .collect();
            self.start_deallocate(index, sqe, ranges);
        } else {
            self.reservation_payload(index, sqe, data);
        }
    }

    fn dataset_management(
        &mut self,
        now: Instant,
        q: u32,
        sqe: &Sqe,
        data: InCapsule<'_>,
    ) -> Option<CmdId> {
        let command = DatasetManagement::parse(sqe);
        if let Err(status) = self.check_namespace_write(q, sqe) {
            self.refuse(q, sqe, status);
            return None;
        }
        // NVM Command Set 1.0c §3.2.3: the list has room for 256 ranges, of which NR says how many are meant. Linux always
        // sends all of it, so what lies behind the ranges is taken and not read.
        let named = command.ranges * DsmRange::LEN as u32;
        let len = sqe.sgl().length().clamp(named, PAYLOAD_READ_MAX);
        self.take_payload(now, q, sqe, data, len)
    }

    /// Flush of one namespace or of all (Base 2.0c §7.1).
    fn flush(&mut self, q: u32, sqe: &Sqe) -> Option<CmdId> {
        let nsid = sqe.nsid();
        if nsid == NSID_ALL {
            let index = self.allocate_or_interrupt(q, sqe, State::InDevice)?;
            let id = self.commands.id(index);
            self.commands[index].nsid = NSID_ALL;
            self.commands[index].start = 0;
            self.flush_next(index);
            return self.commands.check(id).map(|_| id);
        }
        let qpair = &mut self.qpairs[q];
        let checked = self.subsystems[qpair.subsystem]
            .namespace(nsid)
            .ok_or(Status::INVALID_NAMESPACE.dnr())
            .and_then(|namespace| {
                let host = &self.controllers[qpair.controller].host.id;
                check_access(qpair, namespace, host, Intent::Write)
                    .map(|()| (namespace.epoch, namespace.device))
            });
        let (epoch, device) = match checked {
            Ok(both) => both,
            Err(status) => {
                self.refuse(q, sqe, status);
                return None;
            }
        };
        let index = self.allocate_or_interrupt(q, sqe, State::InDevice)?;
        let command = &mut self.commands[index];
        command.nsid = nsid;
        command.ns_epoch = epoch;
        command.device = device;
        Some(self.submit(index, IoOp::Flush))
    }

    fn write_zeroes(&mut self, q: u32, sqe: &Sqe) -> Option<CmdId> {
        let block = BlockCommand::parse(sqe);
        let admitted = match self.admit(q, sqe, &block, Intent::Write) {
            Ok(admitted) => admitted,
            Err(status) => {
                self.refuse(q, sqe, status);
                return None;
            }
        };
        let index = self.admit_slot(q, sqe, &block, &admitted)?;
        let command = &mut self.commands[index];
        command.fua = block.fua;
        command.deallocate = block.deallocate;
        let id = self.commands.id(index);
        self.zero_next(index);
        self.commands.check(id).map(|_| id)
    }

    /// Namespace and reservation checks of a command that changes blocks it names later.
    fn check_namespace_write(&mut self, q: u32, sqe: &Sqe) -> Result<(), Status> {
        let qpair = &mut self.qpairs[q];
        let namespace = self.subsystems[qpair.subsystem]
            .namespace(sqe.nsid())
            .ok_or(Status::INVALID_NAMESPACE.dnr())?;
        if !namespace.capabilities.discard {
            return Err(Status::INVALID_OPCODE.dnr());
        }
        if namespace.read_only {
            return Err(Status::NAMESPACE_WRITE_PROTECTED.dnr());
        }
        let host = &self.controllers[qpair.controller].host.id;
        check_access(qpair, namespace, host, Intent::Write)
    }
}

/// Whether the host of `qpair` may do `intent` under the namespace's reservation. The answer is remembered with the queue
/// pair until the namespace's access epoch changes.
pub(crate) fn check_access(
    qpair: &mut Qpair,
    namespace: &Namespace,
    host: &[u8; 16],
    intent: Intent,
) -> Result<(), Status> {
    if qpair.access.epoch != namespace.access_epoch {
        let access = namespace.reservations.access(host);
        qpair.access = AccessCache {
            epoch: namespace.access_epoch,
            may_read: access.read,
            may_write: access.write,
        };
    }
    let allowed = match intent {
        Intent::Read => qpair.access.may_read,
        Intent::Write => qpair.access.may_write,
    };
    if allowed {
        Ok(())
    } else {
        Err(Status::RESERVATION_CONFLICT.dnr())
    }
}

/// The status a host sees for a device's error; the one place where that is decided.
///
/// What may heal by itself is left retryable.
pub(crate) fn io_status(error: IoError, opcode: u8) -> Status {
    match error {
        IoError::OutOfRange => Status::LBA_OUT_OF_RANGE.dnr(),
        IoError::NoSpace => Status::CAPACITY_EXCEEDED.dnr(),
        IoError::Medium if matches!(opcode, nvm::READ | nvm::COMPARE) => {
            Status::UNRECOVERED_READ_ERROR.dnr()
        }
        IoError::Medium => Status::WRITE_FAULT.dnr(),
        IoError::CompareFailed => Status::COMPARE_FAILURE.dnr(),
        IoError::ReservationConflict => Status::RESERVATION_CONFLICT.dnr(),
        // Offline until an operator mends it. A path error without DNR would be retried on this path for ever by a host with
        // native multipath; Namespace Not Ready with DNR (Base 2.0c figure 94) ends the command at once, there and under
        // dm-multipath, and leaves the namespace and the connection for the day it is back.
        IoError::Gone => Status::NAMESPACE_NOT_READY.dnr(),
        IoError::Timeout => Status::INTERNAL_ERROR,
        IoError::NotSupported => Status::INVALID_OPCODE.dnr(),
        IoError::Aborted => Status::ABORTED_SQ_DELETION,
        IoError::Busy => Status::COMMAND_INTERRUPTED.with_crd(1),
        IoError::ReadOnly => Status::NAMESPACE_WRITE_PROTECTED.dnr(),
        IoError::Internal => Status::INTERNAL_ERROR,
    }
}
