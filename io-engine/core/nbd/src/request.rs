//! Which requests are taken: what each command may carry, and the one order of the checks.

use nbd_wire::{Command, CommandFlags, Request};

use crate::exports::{Export, ExportId};
use crate::failure::Failure;
use crate::limits::PAYLOAD_LEN_MAX;
use crate::pending::{Pending, Task};

/// The export a connection has chosen, as far as requests need it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Chosen {
    pub(crate) id: ExportId,
    /// Size in bytes.
    pub(crate) size: u64,
    /// log2 of the block size.
    pub(crate) shift: u32,
    pub(crate) read_only: bool,
    pub(crate) trims: bool,
    pub(crate) zeroes_fast: bool,
    pub(crate) caches: bool,
    /// Structured replies were negotiated.
    pub(crate) structured: bool,
    /// `base:allocation` was negotiated for this export.
    pub(crate) status: bool,
}

impl Chosen {
    pub(crate) fn new(export: &Export, structured: bool, status: bool) -> Self {
        Self {
            id: export.id,
            size: export.bytes(),
            shift: export.block_size.shift(),
            read_only: export.read_only,
            trims: export.abilities.trim,
            zeroes_fast: export.abilities.fast_zero,
            caches: export.abilities.cache,
            structured,
            status,
        }
    }

    /// The request as an entry of the table, or why not. `transfer_max` is the largest payload in one piece.
    #[inline]
    pub(crate) fn check(&self, request: &Request, transfer_max: u32) -> Result<Pending, Failure> {
        let flags = request.flags;
        let task = self.task(request)?;
        if !flags.is_within(self.known_flags(task)) {
            return Err(Failure::UnknownFlag);
        }
        if task == Task::Flush {
            // §Request types, NBD_CMD_FLUSH: both fields are reserved.
            if request.len != 0 || request.offset != 0 {
                return Err(Failure::NotZero);
            }
            return Ok(Pending::new(request.cookie, task, false, 0, 0));
        }
        if self.read_only && task.writes() {
            return Err(Failure::ReadOnly);
        }
        if request.len == 0 {
            return Err(Failure::Empty);
        }
        let len = u64::from(request.len);
        if (request.offset | len) & ((1 << self.shift) - 1) != 0 {
            return Err(Failure::Unaligned);
        }
        let end = request.offset.checked_add(len);
        if end.is_none_or(|end| end > self.size) {
            return Err(Failure::BeyondEnd);
        }
        self.check_kind(request, task, transfer_max)?;
        let fua = flags.has(CommandFlags::FUA);
        Ok(Pending::new(request.cookie, task, fua, request.offset, len))
    }

    fn task(&self, request: &Request) -> Result<Task, Failure> {
        match request.command {
            Command::Read => Ok(Task::Read),
            Command::Write => Ok(Task::Write),
            Command::Flush => Ok(Task::Flush),
            Command::Trim if self.trims || self.read_only => Ok(Task::Trim),
            Command::Cache => Ok(Task::Cache),
            Command::WriteZeroes => Ok(Task::Zero {
                deallocate: !request.flags.has(CommandFlags::NO_HOLE),
            }),
            Command::BlockStatus if self.status => Ok(Task::Status {
                one: request.flags.has(CommandFlags::REQ_ONE),
            }),
            Command::BlockStatus => Err(Failure::NoContext),
            Command::Resize => Err(Failure::ResizeRefused),
            Command::Trim | Command::Disc | Command::Unknown(_) => Err(Failure::UnknownCommand),
        }
    }

    /// §Command flags: FUA is taken with everything, the others with their own command.
    fn known_flags(&self, task: Task) -> CommandFlags {
        let own = match task {
            Task::Read => CommandFlags::NONE.with_if(self.structured, CommandFlags::DF),
            Task::Zero { .. } => CommandFlags::NO_HOLE | CommandFlags::FAST_ZERO,
            Task::Status { .. } => CommandFlags::REQ_ONE,
            Task::Write | Task::Trim | Task::Flush | Task::Cache => CommandFlags::NONE,
        };
        own | CommandFlags::FUA
    }

    fn check_kind(&self, request: &Request, task: Task, transfer_max: u32) -> Result<(), Failure> {
        match task {
            Task::Read => {
                // A simple reply and a read that must not be fragmented are one piece, made from one transfer.
                let whole = !self.structured || request.flags.has(CommandFlags::DF);
                let most = if whole { transfer_max } else { PAYLOAD_LEN_MAX };
                if request.len > most {
                    return Err(Failure::TooLong);
                }
            }
            Task::Zero { deallocate } => {
                // §Request types, NBD_CMD_WRITE_ZEROES: refused where it is not known to be fast. Filling space may not be.
                let fast = self.zeroes_fast && deallocate;
                if request.flags.has(CommandFlags::FAST_ZERO) && !fast {
                    return Err(Failure::NotFast);
                }
            }
            Task::Write | Task::Trim | Task::Flush | Task::Cache | Task::Status { .. } => {}
        }
        Ok(())
    }
}
