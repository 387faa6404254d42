//! Commands between their capsule and their answer: buffers, device operations, responses.

use std::time::Instant;

use block::{CountedOp, Request, Stamps, Waits};
use nvme_spec::opcode::nvm;
use nvme_spec::{Cqe, Sqe};
use nvme_target::{CmdId, CommandOrigin, DeviceKey, InCapsule, IoOp, Output, QpairId, ReplyData};
use sdk::block::{IoError, IoResult, Submitted};
use sdk::buf::{Buf, Payload, piece_len};
use sdk::fabric::ConnId;
use sdk::host::Host;
use units::BlockRange;

use super::admission::PeerId;
use super::{PersistJob, Shard};

/// The memory a step takes.
struct Need {
    cmd: CmdId,
    len: usize,
    /// The device lends it: charged like a buffer, and none is taken from the arena.
    lent: bool,
}

/// Bytes a host is charged for memory of `len` bytes: what is taken from the arena, which lends whole pieces.
const fn charge_of(len: usize, lent: bool) -> usize {
    if lent { len } else { piece_len(len) }
}

/// The memory a step was given.
enum Memory {
    /// A buffer of the arena.
    Buf(Buf),
    /// The device lends its own.
    Lent,
}

impl Memory {
    fn buf(self) -> Option<Buf> {
        match self {
            Self::Buf(buf) => Some(buf),
            Self::Lent => None,
        }
    }
}

/// What the engine holds for one command.
#[derive(Default)]
struct Held {
    cmd: Option<CmdId>,
    /// Data from the host, until the device takes it.
    data: Option<Buf>,
    /// Data for the host, until it is sent.
    reply: Option<Payload>,
    /// The target looks at fetched data itself.
    by_value: bool,
    /// Bytes charged to `peer`.
    charged: usize,
    peer: Option<PeerId>,
    received: Option<Instant>,
    qp: Option<QpairId>,
    /// How it is counted, should it come to a device.
    op: Option<CountedOp>,
    /// Device it was last given to.
    device: Option<DeviceKey>,
    /// Bytes it asked of devices.
    bytes: u64,
    waits: Waits,
    /// The wait it is in, and when that began.
    waiting: Option<(WaitFor, Instant)>,
}

/// What a command waits for before it comes to its device.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum WaitFor {
    /// Memory of the arena.
    Buffer,
    /// The host's data.
    HostData,
}

/// A command that waits, for listing.
pub(super) struct WaitingCommand {
    pub(super) cmd: CmdId,
    pub(super) on: WaitFor,
    /// Absent for a command that is not counted among those of devices.
    pub(super) op: Option<CountedOp>,
    pub(super) received: Instant,
    /// Waits that are over.
    pub(super) waits: Waits,
}

impl Held {
    /// The wait ends; its length in microseconds.
    fn end_wait(&mut self, now: Instant) -> u32 {
        let waited = self
            .waiting
            .take()
            .map(|(_, since)| now.saturating_duration_since(since).as_micros());
        u32::try_from(waited.unwrap_or_default()).unwrap_or(u32::MAX)
    }
}

/// Held data by command index.
pub(super) struct Commands {
    held: Vec<Held>,
}

impl Commands {
    pub(super) fn new(commands_max: usize) -> Self {
        Self {
            held: (0..commands_max).map(|_| Held::default()).collect(),
        }
    }

    fn of(&mut self, cmd: CmdId) -> &mut Held {
        &mut self.held[cmd.index()]
    }

    /// The command of a device operation or a fetch, unless it has ended in the meantime.
    fn by_tag(&mut self, tag: u64) -> Option<(CmdId, &mut Held)> {
        let cmd = self.cmd_of(tag)?;
        Some((cmd, self.of(cmd)))
    }

    /// Whether a tag belongs to a command of `qp`.
    pub(super) fn is_of(&self, tag: u64, qp: QpairId) -> bool {
        self.cmd_of(tag)
            .is_some_and(|cmd| self.held[cmd.index()].qp == Some(qp))
    }

    /// The command a tag belongs to, unless it has ended.
    pub(super) fn cmd_of(&self, tag: u64) -> Option<CmdId> {
        self.held
            .get((tag & 0xffff_ffff) as usize)?
            .cmd
            .filter(|cmd| tag_of(*cmd) == tag)
    }

    /// Commands that wait for memory or for their host's data.
    pub(super) fn waiting(&self) -> impl Iterator<Item = WaitingCommand> {
        self.held.iter().filter_map(|held| {
            Some(WaitingCommand {
                cmd: held.cmd?,
                on: held.waiting?.0,
                op: held.op,
                received: held.received?,
                waits: held.waits,
            })
        })
    }

    fn is_current(&self, cmd: CmdId) -> bool {
        self.held[cmd.index()].cmd == Some(cmd)
    }
}

/// Tag of a device operation or a fetch: the command's index and generation, so that a completion after the command's end is
/// recognised.
fn tag_of(cmd: CmdId) -> u64 {
    (cmd.generation() as u64) << 32 | cmd.index() as u64
}

impl Shard {
    pub(super) fn handle_capsule(
        &mut self,
        conn: ConnId,
        sqe: &Sqe,
        data: Option<Buf>,
        data_ok: bool,
    ) {
        let Some((connection, qp)) = self.connections.queue_of(conn) else {
            return;
        };
        let now = self.reactor.now();
        let in_capsule = data.as_deref().map_or(InCapsule::None, InCapsule::Bytes);
        let Some(cmd) = self
            .target
            .handle_capsule(now, qp, sqe, in_capsule, data_ok)
        else {
            return;
        };
        let charged = data
            .as_deref()
            .map_or(0, |data| charge_of(data.len(), false));
        if charged > 0 {
            self.admission.charge(connection.peer, charged);
        }
        *self.commands.of(cmd) = Held {
            cmd: Some(cmd),
            data,
            charged,
            peer: Some(connection.peer),
            received: Some(now),
            qp: Some(qp),
            op: counted_op(sqe.opcode()),
            ..Held::default()
        };
    }

    pub(super) fn handle_fetched(&mut self, tag: u64, buf: Buf, data_ok: bool) {
        let Some((cmd, held)) = self.commands.by_tag(tag) else {
            return;
        };
        let now = self.reactor.now();
        let waited = held.end_wait(now);
        held.waits.host_data_us = held.waits.host_data_us.saturating_add(waited);
        if held.by_value {
            self.target.handle_data(now, cmd, &buf, data_ok);
        } else {
            held.data = Some(buf);
            self.target.handle_data(now, cmd, &[], data_ok);
        }
    }

    /// Does what the target asks.
    pub(super) fn perform(&mut self, output: Output) {
        match output {
            Output::Io { .. } | Output::Fetch { .. } => self.perform_step(output),
            Output::Respond {
                qp,
                cmd,
                cqe,
                data,
                success_flag_allowed,
            } => {
                self.respond(qp, cmd, &cqe, data, success_flag_allowed);
            }
            Output::Release { cmd } => self.release(cmd),
            Output::Forgotten { qp, cid } => {
                if let Some(connection) = self.connections.by_qpair(qp) {
                    self.fabric.forget(connection.conn, cid);
                }
            }
            Output::Disconnect { qp, reason } => self.disconnect(qp, reason),
            Output::Associated { qp } => self.associate(qp),
            Output::Unrouted { qp, connect } => self.route_connect(qp, connect),
            Output::Persist { token, request } => {
                let job = PersistJob {
                    shard: self.index,
                    nqn: request.nqn,
                    nsid: request.nsid,
                    bytes: request.state.to_bytes(),
                    token,
                };
                if let Err(job) = self.surroundings.persist(job) {
                    self.target
                        .handle_persisted(self.reactor.now(), job.token, false);
                }
            }
            Output::Event(event) => self.log_controller(&event),
        }
    }

    /// A step that may need memory: performed if there is some, else queued.
    fn perform_step(&mut self, step: Output) {
        let Some(Need { cmd, len, lent }) = self.memory_needed(&step) else {
            return;
        };
        let charge = charge_of(len, lent);
        if len == 0 {
            self.start_step(step, None);
            return;
        }
        let Some(peer) = self.commands.of(cmd).peer else {
            return;
        };
        let may = !self.admission.is_waiting() && self.admission.may_take(peer, charge);
        let memory = may.then(|| self.take_memory(len, lent)).flatten();
        match memory {
            Some(memory) => self.start_charged(cmd, peer, step, charge, memory),
            None => {
                self.commands.of(cmd).waiting = Some((WaitFor::Buffer, self.reactor.now()));
                self.admission.wait(peer, charge, step);
            }
        }
    }

    /// Serves commands that waited for memory, as far as there is some. Tells whether it served any.
    pub(super) fn retry_waiting(&mut self) -> bool {
        let mut served = false;
        while let Some(waiting) = self.admission.next_eligible() {
            let Some(Need { cmd, len, lent }) = self.memory_needed(&waiting.step) else {
                continue;
            };
            match self.take_memory(len, lent) {
                Some(memory) => {
                    self.start_charged(cmd, waiting.peer, waiting.step, waiting.len, memory);
                }
                None => {
                    self.admission.put_back(waiting);
                    return served;
                }
            }
            served = true;
        }
        served
    }

    /// Memory for a step; `None` while the arena has none.
    fn take_memory(&mut self, len: usize, lent: bool) -> Option<Memory> {
        match lent {
            true => Some(Memory::Lent),
            false => self.reactor.alloc(len).map(Memory::Buf),
        }
    }

    fn start_charged(
        &mut self,
        cmd: CmdId,
        peer: PeerId,
        step: Output,
        charge: usize,
        memory: Memory,
    ) {
        self.admission.charge(peer, charge);
        let held = self.commands.of(cmd);
        held.charged += charge;
        let waited = held.end_wait(self.reactor.now());
        held.waits.buffer_us = held.waits.buffer_us.saturating_add(waited);
        self.start_step(step, memory.buf());
    }

    /// What a step needs; `None` if its command is gone.
    fn memory_needed(&mut self, step: &Output) -> Option<Need> {
        let (cmd, (len, lent)) = match step {
            Output::Fetch { cmd, len, .. } => (*cmd, (*len as usize, false)),
            Output::Io {
                cmd,
                device,
                op: IoOp::Read { range },
                ..
            } => (
                *cmd,
                self.devices
                    .read_memory(*device, *range)
                    .unwrap_or_default(),
            ),
            Output::Io { cmd, .. } => (*cmd, (0, false)),
            Output::Respond { .. }
            | Output::Release { .. }
            | Output::Forgotten { .. }
            | Output::Disconnect { .. }
            | Output::Associated { .. }
            | Output::Unrouted { .. }
            | Output::Persist { .. }
            | Output::Event(_) => return None,
        };
        self.commands
            .is_current(cmd)
            .then_some(Need { cmd, len, lent })
    }

    fn start_step(&mut self, step: Output, buf: Option<Buf>) {
        match step {
            Output::Fetch {
                qp,
                cmd,
                cid,
                by_value,
                ..
            } => {
                let now = self.reactor.now();
                let held = self.commands.of(cmd);
                held.by_value = by_value;
                held.waiting = Some((WaitFor::HostData, now));
                if let (Some(connection), Some(buf)) = (self.connections.by_qpair(qp), buf) {
                    self.fabric.fetch(connection.conn, cid, tag_of(cmd), buf);
                }
            }
            Output::Io {
                cmd, device, op, ..
            } => {
                let tag = tag_of(cmd);
                self.note_device(cmd, device, op);
                if op == IoOp::Flush && self.devices.has_loss_to_tell(device) && self.tell_loss(cmd)
                {
                    let nowhere = BlockRange::new(0, 0);
                    return self.finish_io(tag, Err(IoError::Medium(nowhere)));
                }
                let result = match self.request(cmd, op, buf) {
                    Some(request) => {
                        let held = self.commands.of(cmd);
                        let stamps = Stamps {
                            received: held.received.unwrap_or_else(|| self.reactor.now()),
                            waits: held.waits,
                        };
                        self.devices
                            .submit(&mut self.reactor, device, tag, request, stamps)
                    }
                    // The target never asks to write data it has not been given.
                    None => Submitted::Done(Err(IoError::Aborted)),
                };
                if let Submitted::Done(result) = result {
                    self.finish_io(tag, result);
                }
            }
            Output::Respond { .. }
            | Output::Release { .. }
            | Output::Forgotten { .. }
            | Output::Disconnect { .. }
            | Output::Associated { .. }
            | Output::Unrouted { .. }
            | Output::Persist { .. }
            | Output::Event(_) => {}
        }
    }

    fn request(&mut self, cmd: CmdId, op: IoOp, buf: Option<Buf>) -> Option<Request> {
        Some(match op {
            IoOp::Read { range } => Request::Read { range, buf },
            IoOp::Write { range, fua } => Request::Write {
                range,
                buf: self.commands.of(cmd).data.take()?,
                fua,
            },
            IoOp::Flush => Request::Flush,
            IoOp::WriteZeroes { range, unmap, fua } => Request::WriteZeroes {
                range,
                deallocate: unmap,
                fua,
            },
            IoOp::Discard { range } => Request::Discard { range },
            IoOp::Compare { range } => Request::Compare {
                range,
                buf: self.commands.of(cmd).data.take()?,
            },
            IoOp::CompareAndWrite {
                range,
                compare,
                fua,
            } => Request::CompareAndWrite {
                range,
                compare: self.commands.of(compare).data.take()?,
                write: self.commands.of(cmd).data.take()?,
                fua,
            },
        })
    }

    /// Notes what a command asks of a device; both halves of a fused pair are commands of their own.
    #[inline]
    fn note_device(&mut self, cmd: CmdId, device: DeviceKey, op: IoOp) {
        let (range, other) = match op {
            IoOp::Flush => (None, None),
            IoOp::CompareAndWrite { range, compare, .. } => (Some(range), Some(compare)),
            IoOp::Read { range }
            | IoOp::Write { range, .. }
            | IoOp::WriteZeroes { range, .. }
            | IoOp::Discard { range }
            | IoOp::Compare { range } => (Some(range), None),
        };
        let bytes = range.map_or(0, |range| self.devices.bytes_of(device, range));
        for cmd in std::iter::once(cmd).chain(other) {
            let held = self.commands.of(cmd);
            held.device = Some(device);
            held.bytes += bytes;
        }
    }

    /// Counts a command whose answer has just been queued and goes with the end of this turn, if it came to a device.
    #[inline]
    fn count_answered(&mut self, cmd: CmdId, ok: bool) {
        let held = self.commands.of(cmd);
        let (Some(device), Some(op), Some(received)) = (held.device, held.op, held.received) else {
            return;
        };
        let bytes = held.bytes;
        let before = self.reactor.now().saturating_duration_since(received);
        self.devices.record_command(device, op, bytes, ok, before);
    }

    /// Whether `cmd` is a Flush of a host that is to hear, by its failing, of writes lost with the device before.
    #[cold]
    fn tell_loss(&mut self, cmd: CmdId) -> bool {
        let Some((device, origin)) = self.flush_of(cmd) else {
            return false;
        };
        let is_due = self.devices.tell_loss(device, &origin.hostnqn);
        if is_due {
            tracing::warn!(
                hostnqn = %origin.hostnqn, subnqn = %origin.subnqn, nsid = origin.nsid,
                "flush failed: the device was lost before, and what this host wrote then may be gone"
            );
        }
        is_due
    }

    /// Device and origin of `cmd` if it is a Flush: the one command whose failing tells a host of what it wrote before.
    fn flush_of(&mut self, cmd: CmdId) -> Option<(DeviceKey, CommandOrigin)> {
        let held = self.commands.of(cmd);
        if held.op != Some(CountedOp::Flush) {
            return None;
        }
        Some((held.device?, self.target.origin(cmd)?))
    }

    /// A device operation ended.
    pub(super) fn finish_io(&mut self, tag: u64, result: IoResult) {
        let Some((cmd, held)) = self.commands.by_tag(tag) else {
            return self.finish_asked(tag, result);
        };
        let result = match result {
            Ok(payload) => {
                held.reply = payload;
                Ok(())
            }
            Err(error) => {
                if error == IoError::Gone
                    && let Some((device, origin)) = self.flush_of(cmd)
                {
                    self.devices.note_told(device, &origin.hostnqn);
                }
                Err(target_error(error))
            }
        };
        self.target.handle_io_done(self.reactor.now(), cmd, result);
    }

    fn respond(
        &mut self,
        qp: QpairId,
        cmd: Option<CmdId>,
        cqe: &Cqe,
        data: ReplyData,
        implicit: bool,
    ) {
        if let Some(connection) = self.connections.by_qpair(qp) {
            let payload = match data {
                ReplyData::None => Some(None),
                ReplyData::FromIo(_) => {
                    Some(cmd.and_then(|cmd| self.take_reply(connection.conn, cmd)))
                }
                ReplyData::Bytes(bytes) => self.replies.reply(connection.peer, bytes).map(Some),
            };
            match payload {
                Some(payload) => self.fabric.respond(connection.conn, cqe, payload, implicit),
                None => self.drop_connection(connection, "replies_unread"),
            }
        }
        if let Some(cmd) = cmd {
            self.count_answered(cmd, cqe.status.is_success());
            self.release(cmd);
        }
    }

    /// What was read for `cmd`. It stays charged until the host has it, lent memory too, which its device cannot write or free
    /// meanwhile: one that does not read holds its share, and no more.
    fn take_reply(&mut self, conn: ConnId, cmd: CmdId) -> Option<Payload> {
        let held = self.commands.of(cmd);
        let reply = held.reply.take()?;
        let len = reply.len().min(held.charged);
        held.charged -= len;
        self.connections.add_unsent(conn, len);
        Some(reply)
    }

    fn release(&mut self, cmd: CmdId) {
        if !self.commands.is_current(cmd) {
            return;
        }
        let held = std::mem::take(self.commands.of(cmd));
        if let (Some(peer), true) = (held.peer, held.charged > 0) {
            self.admission.refund(peer, held.charged);
        }
    }
}

/// How a command is counted. On an admin queue the codes mean something else, but no device is asked there.
const fn counted_op(opcode: u8) -> Option<CountedOp> {
    match opcode {
        nvm::READ => Some(CountedOp::Read),
        nvm::WRITE => Some(CountedOp::Write),
        nvm::COMPARE => Some(CountedOp::Compare),
        nvm::FLUSH => Some(CountedOp::Flush),
        nvm::WRITE_ZEROES => Some(CountedOp::WriteZeroes),
        nvm::DATASET_MANAGEMENT => Some(CountedOp::Discard),
        _ => None,
    }
}

/// The one place where a device's errors become the target's.
fn target_error(error: IoError) -> nvme_target::IoError {
    match error {
        IoError::OutOfRange => nvme_target::IoError::OutOfRange,
        IoError::NoSpace => nvme_target::IoError::NoSpace,
        IoError::Medium(_) => nvme_target::IoError::Medium,
        IoError::Gone => nvme_target::IoError::Gone,
        IoError::Timeout => nvme_target::IoError::Timeout,
        IoError::NotSupported => nvme_target::IoError::NotSupported,
        IoError::Busy => nvme_target::IoError::Busy,
        IoError::CompareFailed(_) => nvme_target::IoError::CompareFailed,
        IoError::Aborted => nvme_target::IoError::Aborted,
    }
}

#[cfg(test)]
mod tests {
    use super::charge_of;

    #[test]
    fn small_buffers_are_charged_for_the_pieces_they_take() {
        assert_eq!(
            [1, 512, 4096, 4097, 65_536].map(|len| charge_of(len, false)),
            [4096, 4096, 4096, 8192, 65_536]
        );
        // What a device lends takes nothing of the arena.
        assert_eq!(charge_of(512, true), 512);
    }
}
