//! Commands between their capsule and their answer: buffers, device operations, responses.

use std::sync::Arc;
use std::time::Instant;

use block::{Request, Stamps};
use nvme_spec::{Cqe, Sqe};
use nvme_target::{CmdId, InCapsule, IoOp, Output, QpairId, ReplyData};
use sdk::block::{IoError, IoResult, Submitted};
use sdk::buf::{Buf, Chunk, Payload, Segment, Segments};
use sdk::fabric::ConnId;
use sdk::host::Host;

use super::admission::{PeerId, Waiting};
use super::{PersistJob, Shard};

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
        let Some(connection) = self.connections.by_conn(conn) else {
            return;
        };
        let now = self.reactor.now();
        let in_capsule = data.as_deref().map_or(InCapsule::None, InCapsule::Bytes);
        let Some(cmd) = self
            .target
            .handle_capsule(now, connection.qp, sqe, in_capsule, data_ok)
        else {
            return;
        };
        let charged = data.as_deref().map_or(0, <[u8]>::len);
        if charged > 0 {
            self.admission.charge(connection.peer, charged);
        }
        *self.commands.of(cmd) = Held {
            cmd: Some(cmd),
            data,
            reply: None,
            by_value: false,
            charged,
            peer: Some(connection.peer),
            received: Some(now),
            qp: Some(connection.qp),
        };
    }

    pub(super) fn handle_fetched(&mut self, tag: u64, buf: Buf, data_ok: bool) {
        let Some((cmd, held)) = self.commands.by_tag(tag) else {
            return;
        };
        let now = self.reactor.now();
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
            Output::Disconnect { qp, reason } => self.disconnect(qp, reason),
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
            Output::Event(event) => self.surroundings.controller_event(*event),
        }
    }

    /// A step that may need a buffer: performed if there is one, else queued.
    fn perform_step(&mut self, step: Output) {
        let Some((cmd, len)) = self.buffer_needed(&step) else {
            return;
        };
        if len == 0 {
            self.start_step(step, None);
            return;
        }
        let Some(peer) = self.commands.of(cmd).peer else {
            return;
        };
        let may = !self.admission.is_waiting() && self.admission.may_take(peer, len);
        match if may { self.reactor.alloc(len) } else { None } {
            Some(buf) => self.start_charged(cmd, peer, step, buf),
            None => self.admission.wait(Waiting { peer, len, step }),
        }
    }

    /// Serves commands that waited for memory, as far as there is some. Tells whether it served any.
    pub(super) fn retry_waiting(&mut self) -> bool {
        let (mut from, mut served) = (0, false);
        while let Some((at, waiting)) = self.admission.next_eligible(from) {
            let Some((cmd, _)) = self.buffer_needed(&waiting.step) else {
                from = at;
                continue;
            };
            match self.reactor.alloc(waiting.len) {
                Some(buf) => self.start_charged(cmd, waiting.peer, waiting.step, buf),
                None => {
                    self.admission.put_back(at, waiting);
                    return served;
                }
            }
            (from, served) = (at, true);
        }
        served
    }

    fn start_charged(&mut self, cmd: CmdId, peer: PeerId, step: Output, buf: Buf) {
        self.admission.charge(peer, buf.len());
        self.commands.of(cmd).charged += buf.len();
        self.start_step(step, Some(buf));
    }

    /// The command of a step and the bytes it needs; `None` if the command is gone.
    fn buffer_needed(&mut self, step: &Output) -> Option<(CmdId, usize)> {
        let (cmd, len) = match step {
            Output::Fetch { cmd, len, .. } => (*cmd, *len as usize),
            Output::Io {
                cmd,
                device,
                op: IoOp::Read { range },
                ..
            } => (
                *cmd,
                self.devices
                    .read_buffer_len(*device, *range)
                    .unwrap_or_default(),
            ),
            Output::Io { cmd, .. } => (*cmd, 0),
            Output::Respond { .. }
            | Output::Release { .. }
            | Output::Disconnect { .. }
            | Output::Unrouted { .. }
            | Output::Persist { .. }
            | Output::Event(_) => return None,
        };
        self.commands.is_current(cmd).then_some((cmd, len))
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
                self.commands.of(cmd).by_value = by_value;
                if let (Some(connection), Some(buf)) = (self.connections.by_qpair(qp), buf) {
                    self.fabric.fetch(connection.conn, cid, tag_of(cmd), buf);
                }
            }
            Output::Io {
                cmd, device, op, ..
            } => {
                let tag = tag_of(cmd);
                let result = match self.request(cmd, op, buf) {
                    Some(request) => {
                        let received = self
                            .commands
                            .of(cmd)
                            .received
                            .unwrap_or_else(|| self.reactor.now());
                        self.devices.submit(
                            &mut self.reactor,
                            device,
                            tag,
                            request,
                            Stamps { received },
                        )
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
            | Output::Disconnect { .. }
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

    /// A device operation ended.
    pub(super) fn finish_io(&mut self, tag: u64, result: IoResult) {
        let Some((cmd, held)) = self.commands.by_tag(tag) else {
            return;
        };
        let result = match result {
            Ok(payload) => {
                held.reply = payload;
                Ok(())
            }
            Err(error) => Err(target_error(error)),
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
        let payload = match data {
            ReplyData::None => None,
            ReplyData::FromIo(_) => cmd.and_then(|cmd| self.commands.of(cmd).reply.take()),
            ReplyData::Bytes(bytes) => lent(bytes),
        };
        if let Some(connection) = self.connections.by_qpair(qp) {
            self.fabric.respond(connection.conn, cqe, payload, implicit);
        }
        if let Some(cmd) = cmd {
            self.release(cmd);
        }
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

/// Bytes the target made, as a payload.
fn lent(bytes: Box<[u8]>) -> Option<Payload> {
    let len = bytes.len();
    let mut segments = Segments::new();
    segments.push(Segment::new(Arc::new(Chunk::from(bytes)), 0, len)?);
    Some(Payload::Lent(segments))
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
