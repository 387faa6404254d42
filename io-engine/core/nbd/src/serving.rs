//! The transmission phase: requests in, I/O out, answers in any order.
//!
//! What a request costs is bounded: entries by the table, buffers by [`BYTES_IN_FLIGHT_MAX`], headers by the caller, who
//! asks [`Serving::want`] with what is unsent.

use std::collections::VecDeque;

use nbd_wire::{
    ChunkHeader, ChunkKind, Command, Descriptor, ErrorChunk, ErrorCode, Request, STATE_HOLE,
    STATE_ZERO, SimpleReply,
};

use crate::connection::Want;
use crate::failure::Failure;
use crate::fault::Fault;
use crate::limits::{
    BYTES_IN_FLIGHT_MAX, DESCRIPTORS_MAX, PAYLOAD_LEN_MAX, RANGE_SLICE_BYTES, STATUS_BYTES_MAX,
    TX_BYTES_HIGH,
};
use crate::pending::{Io, Pending, Slot, Table, Task, Work};
use crate::request::Chosen;
use crate::transmit::{DataToken, Transmit};

/// Number of `base:allocation` in answers.
pub(crate) const STATUS_CONTEXT: u32 = 1;

/// Data a read gave, held by the adaptor.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Data {
    /// The adaptor's name for it.
    pub token: DataToken,
    /// Bytes in it.
    pub len: usize,
}

/// A run of bytes with one status.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Span {
    /// How long it is.
    pub bytes: u64,
    /// Whether no space is taken for it.
    pub hole: bool,
    /// Whether it reads as zeroes.
    pub zero: bool,
}

/// Where in the stream of requests the connection is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Receiving {
    /// Before a request.
    Request,
    /// In the payload of the current slice of a write.
    Payload { slot: Slot, filled: u32 },
    /// In payload nobody wants.
    Skip(u32),
}

/// See the module documentation.
#[derive(Debug)]
pub(crate) struct Serving {
    pub(crate) chosen: Chosen,
    transfer_max: u32,
    table: Table,
    ready: VecDeque<Io>,
    /// Reads with more to read, once there is room.
    stalled: VecDeque<Slot>,
    bytes_in_flight: usize,
    receiving: Receiving,
    /// Room for the descriptors of one answer.
    descriptors: Vec<Descriptor>,
}

impl Serving {
    pub(crate) fn new(chosen: Chosen, transfer_max: u32, requests_max: usize) -> Self {
        Self {
            chosen,
            transfer_max,
            table: Table::new(requests_max),
            ready: VecDeque::with_capacity(requests_max),
            stalled: VecDeque::new(),
            bytes_in_flight: 0,
            receiving: Receiving::Request,
            descriptors: Vec::new(),
        }
    }

    /// What is to be received next, with `unsent` bytes of headers queued.
    #[inline]
    pub(crate) fn want(&self, unsent: usize) -> Want {
        match self.receiving {
            Receiving::Request => {
                let no_room = self.table.is_full()
                    || self.bytes_in_flight >= BYTES_IN_FLIGHT_MAX
                    || unsent >= TX_BYTES_HIGH;
                if no_room {
                    Want::Stopped
                } else {
                    Want::Header(Request::LEN)
                }
            }
            Receiving::Payload { slot, filled } => match self.table.peek(slot) {
                Some(entry) if !entry.in_flight => Want::Payload {
                    slot,
                    offset: filled,
                    len: entry.slice as u32 - filled,
                },
                _ => Want::Stopped,
            },
            Receiving::Skip(_) => Want::Header(1),
        }
    }

    /// Whether every request was answered.
    pub(crate) fn is_idle(&self) -> bool {
        self.table.len() == 0
    }

    /// Takes bytes of requests, or of payload to be skipped: how many, and whether the client ends the session.
    ///
    /// # Errors
    /// [`Fault::BadMagic`], [`Fault::PayloadTooLong`].
    #[inline]
    pub(crate) fn handle_bytes(
        &mut self,
        bytes: &[u8],
        tx: &mut Transmit,
    ) -> Result<(usize, bool), Fault> {
        match self.receiving {
            Receiving::Payload { .. } => Ok((0, false)),
            Receiving::Skip(left) => {
                let taken = bytes.len().min(left as usize);
                self.receiving = match left - taken as u32 {
                    0 => Receiving::Request,
                    left => Receiving::Skip(left),
                };
                Ok((taken, false))
            }
            Receiving::Request if bytes.len() < Request::LEN => Ok((0, false)),
            Receiving::Request => {
                let request = Request::parse(bytes).map_err(|_| Fault::BadMagic)?;
                let ends = request.command == Command::Disc;
                if !ends {
                    self.handle_request(&request, tx)?;
                }
                Ok((Request::LEN, ends))
            }
        }
    }

    fn handle_request(&mut self, request: &Request, tx: &mut Transmit) -> Result<(), Fault> {
        let is_write = request.command == Command::Write;
        if is_write && request.len > PAYLOAD_LEN_MAX {
            return Err(Fault::PayloadTooLong);
        }
        match self.chosen.check(request, self.transfer_max) {
            Ok(pending) => self.begin(pending, tx),
            Err(failure) => {
                if is_write && request.len > 0 {
                    self.receiving = Receiving::Skip(request.len);
                }
                let writes = matches!(
                    request.command,
                    Command::Write | Command::WriteZeroes | Command::Trim
                );
                // §Error values: a trim behind the end is not the ENOSPC of a write.
                let is_trim = request.command == Command::Trim;
                self.refuse(request.cookie, failure, writes && !is_trim, tx);
            }
        }
        Ok(())
    }

    fn begin(&mut self, mut pending: Pending, tx: &mut Transmit) {
        match pending.task {
            Task::Cache if !self.chosen.caches => {
                // A hint about a cache the device does not have: there is nothing to fill.
                accept(pending.cookie, tx);
            }
            Task::Write => {
                pending.advance(u64::from(self.transfer_max));
                self.bytes_in_flight += pending.slice as usize;
                let slot = self.table.insert(pending);
                self.receiving = Receiving::Payload { slot, filled: 0 };
            }
            Task::Status { .. } => {
                pending.left = pending.left.min(u64::from(STATUS_BYTES_MAX));
                let slot = self.table.insert(pending);
                self.start_slice(slot);
            }
            Task::Read | Task::Cache | Task::Zero { .. } | Task::Trim | Task::Flush => {
                let slot = self.table.insert(pending);
                self.start_slice(slot);
            }
        }
    }

    /// Starts the I/O of the next slice; a write's starts when its payload is there.
    fn start_slice(&mut self, slot: Slot) {
        let (transfer, shift) = (u64::from(self.transfer_max), self.chosen.shift);
        let Some(entry) = self.table.entry(slot) else {
            return;
        };
        let max = match entry.task {
            Task::Read | Task::Cache | Task::Write => transfer,
            Task::Zero { .. } | Task::Trim => RANGE_SLICE_BYTES,
            Task::Flush | Task::Status { .. } => u64::MAX,
        };
        entry.advance(max);
        entry.in_flight = true;
        let range = entry.range(shift);
        let fua = entry.fua;
        let work = match entry.task {
            Task::Read | Task::Cache => {
                self.bytes_in_flight += entry.slice as usize;
                Work::Read(range)
            }
            Task::Write => Work::Write { range, fua },
            Task::Zero { deallocate } => Work::WriteZeroes {
                range,
                deallocate,
                fua,
            },
            Task::Trim => Work::Discard(range),
            Task::Flush => Work::Flush,
            Task::Status { .. } => Work::Extents(range),
        };
        self.ready.push_back(Io { slot, work });
    }

    /// `len` bytes of payload arrived where [`Want::Payload`] said.
    pub(crate) fn handle_payload(&mut self, len: usize) {
        let Receiving::Payload { slot, filled } = self.receiving else {
            return;
        };
        let shift = self.chosen.shift;
        let Some(entry) = self.table.entry(slot).filter(|entry| !entry.in_flight) else {
            return;
        };
        let filled = filled as usize + len;
        assert!(filled <= entry.slice as usize, "more payload than wanted");
        let is_last = entry.left == 0;
        if filled < entry.slice as usize {
            let filled = filled as u32;
            self.receiving = Receiving::Payload { slot, filled };
            return;
        }
        entry.in_flight = true;
        let work = Work::Write {
            range: entry.range(shift),
            fua: entry.fua,
        };
        self.ready.push_back(Io { slot, work });
        self.receiving = if is_last {
            Receiving::Request
        } else {
            Receiving::Payload { slot, filled: 0 }
        };
    }

    /// The next I/O to be done.
    #[inline]
    pub(crate) fn poll_io(&mut self) -> Option<Io> {
        self.ready.pop_front()
    }

    /// A read ended with `data`: whether the data is sent, and stays with the adaptor until then.
    #[inline]
    pub(crate) fn handle_data(&mut self, slot: Slot, data: Data, tx: &mut Transmit) -> bool {
        let structured = self.chosen.structured;
        let Some(entry) = self.flying(slot) else {
            return false;
        };
        let counted = data.len as u64 == entry.slice && data.len > 0;
        match entry.task {
            Task::Read if counted => {}
            Task::Cache if counted => {
                self.bytes_in_flight -= data.len;
                self.end_slice(slot, tx);
                return false;
            }
            _ => {
                self.fail(slot, Failure::Miscounted, tx);
                return false;
            }
        }
        let Pending { cookie, left, .. } = *entry;
        let start = entry.slice_start();
        entry.in_flight = false;
        let len = data.len as u32;
        if structured {
            tx.push(&ChunkHeader::data(cookie, left == 0, start, len));
        } else {
            let error = ErrorCode::OK;
            tx.push(&SimpleReply { error, cookie }.to_bytes());
        }
        tx.push_data(data.token, len);
        if left == 0 {
            self.table.remove(slot);
        } else if self.bytes_in_flight < BYTES_IN_FLIGHT_MAX {
            self.start_slice(slot);
        } else {
            self.stalled.push_back(slot);
        }
        true
    }

    /// An operation without data ended.
    pub(crate) fn handle_done(
        &mut self,
        slot: Slot,
        result: Result<(), Failure>,
        tx: &mut Transmit,
    ) {
        let Some(entry) = self.flying(slot) else {
            return;
        };
        if let Err(failure) = result {
            return self.fail(slot, failure, tx);
        }
        match entry.task {
            // A read without data, or a status without extents.
            Task::Read | Task::Cache | Task::Status { .. } => {
                self.fail(slot, Failure::Miscounted, tx);
            }
            Task::Write => {
                self.bytes_in_flight -= entry.slice as usize;
                self.end_slice(slot, tx);
            }
            Task::Zero { .. } | Task::Trim | Task::Flush => self.end_slice(slot, tx),
        }
    }

    /// What a range holds, from its start.
    pub(crate) fn handle_extents(
        &mut self,
        slot: Slot,
        spans: impl Iterator<Item = Span>,
        tx: &mut Transmit,
    ) {
        let Some(entry) = self.flying(slot) else {
            return;
        };
        let Task::Status { one } = entry.task else {
            return self.fail(slot, Failure::Miscounted, tx);
        };
        let (cookie, whole) = (entry.cookie, entry.slice as u32);
        let most = if one { 1 } else { DESCRIPTORS_MAX };
        let mut found = std::mem::take(&mut self.descriptors);
        found.clear();
        let mut left = whole;
        for span in spans {
            let len = u64::from(left).min(span.bytes) as u32;
            if len == 0 {
                continue;
            }
            let hole = if span.hole { STATE_HOLE } else { 0 };
            let flags = hole | if span.zero { STATE_ZERO } else { 0 };
            if let Some(last) = found.last_mut().filter(|last| last.flags == flags) {
                last.len += len;
            } else if found.len() < most {
                found.push(Descriptor { len, flags });
            } else {
                break;
            }
            left -= len;
        }
        if found.is_empty() {
            // Not knowing is the same as data.
            let len = whole;
            found.push(Descriptor { len, flags: 0 });
        }
        let header = ChunkHeader {
            done: true,
            kind: ChunkKind::BlockStatus,
            cookie,
            len: (4 + found.len() * Descriptor::LEN) as u32,
        };
        tx.push(&header.to_bytes());
        tx.push(&STATUS_CONTEXT.to_be_bytes());
        for descriptor in &found {
            tx.push(&descriptor.to_bytes());
        }
        self.descriptors = found;
        self.table.remove(slot);
    }

    /// `len` bytes of data were sent and are free.
    pub(crate) fn handle_released(&mut self, len: u32) {
        self.bytes_in_flight -= len as usize;
        while self.bytes_in_flight < BYTES_IN_FLIGHT_MAX {
            let Some(slot) = self.stalled.pop_front() else {
                return;
            };
            self.start_slice(slot);
        }
    }

    /// The export has this size from here on.
    pub(crate) fn set_size(&mut self, bytes: u64) {
        self.chosen.size = bytes;
    }

    fn flying(&mut self, slot: Slot) -> Option<&mut Pending> {
        self.table.entry(slot).filter(|entry| entry.in_flight)
    }

    /// The current slice is done: on to the next, or the answer.
    fn end_slice(&mut self, slot: Slot, tx: &mut Transmit) {
        let transfer_max = u64::from(self.transfer_max);
        let Some(entry) = self.table.entry(slot) else {
            return;
        };
        entry.in_flight = false;
        match entry.task {
            Task::Write if entry.left > 0 => {
                entry.advance(transfer_max);
                self.bytes_in_flight += entry.slice as usize;
                return;
            }
            Task::Trim if entry.left == 0 && entry.fua => {
                // Devices have no durable discard; a flush behind it is one.
                entry.task = Task::Flush;
                entry.fua = false;
                self.start_slice(slot);
                return;
            }
            _ if entry.left > 0 => {
                self.start_slice(slot);
                return;
            }
            Task::Read
            | Task::Cache
            | Task::Write
            | Task::Zero { .. }
            | Task::Trim
            | Task::Flush
            | Task::Status { .. } => {}
        }
        accept(entry.cookie, tx);
        self.table.remove(slot);
    }

    /// Answers a request with an error and forgets it, and what of its payload is still to come.
    fn fail(&mut self, slot: Slot, failure: Failure, tx: &mut Transmit) {
        let Some(entry) = self.table.entry(slot) else {
            return;
        };
        let Pending {
            cookie,
            task,
            left,
            slice,
            ..
        } = *entry;
        match task {
            Task::Read | Task::Cache => self.bytes_in_flight -= slice as usize,
            Task::Write => {
                self.bytes_in_flight -= slice as usize;
                if left > 0 {
                    self.receiving = Receiving::Skip(left as u32);
                }
            }
            Task::Zero { .. } | Task::Trim | Task::Flush | Task::Status { .. } => {}
        }
        self.refuse(cookie, failure, task.writes() && task != Task::Trim, tx);
        self.table.remove(slot);
    }

    fn refuse(&self, cookie: u64, failure: Failure, writes: bool, tx: &mut Transmit) {
        let (error, message) = failure.code(writes);
        if !self.chosen.structured {
            return tx.push(&SimpleReply { error, cookie }.to_bytes());
        }
        let chunk = ErrorChunk {
            error,
            message: message.as_bytes(),
        };
        let header = ChunkHeader {
            done: true,
            kind: ChunkKind::Error,
            cookie,
            len: chunk.len(),
        };
        tx.push(&header.to_bytes());
        tx.write(|out| chunk.emit(out));
    }
}

/// Answers a request that gives no data; §Structured reply chunk message allows the short form.
fn accept(cookie: u64, tx: &mut Transmit) {
    let error = ErrorCode::OK;
    tx.push(&SimpleReply { error, cookie }.to_bytes());
}
