//! An engine in miniature: it carries out what the target asks for, on disks in memory, and lets a test hold things back.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use nvme_spec::fabrics::{ConnectCommand, ConnectData, ConnectResult, PropertyCommand};
use nvme_spec::io::BlockCommand;
use nvme_spec::opcode::{admin, nvm};
use nvme_spec::register::{self, Cc, Csts};
use nvme_spec::{Cqe, Sgl, Sqe, Status};
use nvme_target::{
    AllowedHosts, CmdId, ControllerEvent, DeviceKey, DisconnectReason, InCapsule, IoError, IoOp,
    NamespaceCapabilities, NamespaceConfig, Output, PersistRequest, PersistToken, QpairId,
    ReplyData, SubsystemConfig, SubsystemId, Target, TargetConfig, TransportFacts,
};
use units::{BlockRange, BlockSize, Blocks};

pub(crate) const NQN: &str = "nqn.2019-05.io.openebs:disk";
pub(crate) const HOST_A: &str = "nqn.2014-08.org.nvmexpress:host-a";
pub(crate) const HOST_B: &str = "nqn.2014-08.org.nvmexpress:host-b";
pub(crate) const BLOCK: usize = 512;
pub(crate) const DISK_BLOCKS: u64 = 4096;

/// A completion as the host gets it.
#[derive(Clone, Debug)]
pub(crate) struct Reply {
    pub(crate) qp: QpairId,
    pub(crate) cqe: Cqe,
    pub(crate) data: Vec<u8>,
    pub(crate) success_flag_allowed: bool,
}

pub(crate) struct World {
    pub(crate) target: Target,
    pub(crate) now: Instant,
    pub(crate) subsystem: SubsystemId,
    pub(crate) replies: Vec<Reply>,
    pub(crate) disconnects: Vec<(QpairId, DisconnectReason)>,
    pub(crate) events: Vec<ControllerEvent>,
    pub(crate) associated: Vec<QpairId>,
    pub(crate) unrouted: Vec<(QpairId, Box<nvme_target::UnroutedConnect>)>,
    pub(crate) released: usize,
    pub(crate) forgotten: Vec<(QpairId, u16)>,
    /// Device operations are kept in `held_io` while this is on.
    pub(crate) hold_io: bool,
    pub(crate) held_io: Vec<(CmdId, DeviceKey, IoOp)>,
    pub(crate) io_log: Vec<IoOp>,
    /// Fetches are kept in `held_fetches` while this is on.
    pub(crate) hold_fetch: bool,
    pub(crate) held_fetches: Vec<(QpairId, CmdId, u16, bool)>,
    pub(crate) hold_persist: bool,
    pub(crate) held_persists: Vec<(PersistToken, Box<PersistRequest>)>,
    pub(crate) stored: BTreeMap<u32, Vec<u8>>,
    /// The next device operation fails with this.
    pub(crate) next_error: Option<IoError>,
    buffers: BTreeMap<usize, Vec<u8>>,
    /// Data the host sends when asked, by queue and command id.
    host_data: BTreeMap<(QpairId, u16), Vec<u8>>,
    disks: BTreeMap<DeviceKey, Vec<u8>>,
    next_cid: u16,
}

pub(crate) fn facts() -> TransportFacts {
    TransportFacts {
        traddr: "192.0.2.1".into(),
        trsvcid: "8420".into(),
        ipv6: false,
    }
}

pub(crate) fn host_id(name: &str) -> [u8; 16] {
    let mut id = [0x11; 16];
    id[0] = name.as_bytes()[name.len() - 1];
    id
}

pub(crate) fn namespace(nsid: u32) -> NamespaceConfig {
    NamespaceConfig {
        nsid,
        nguid: [nsid as u8; 16],
        uuid: [0x80 | nsid as u8; 16],
        eui64: [0; 8],
        block_size: BlockSize::B512,
        blocks: Blocks(DISK_BLOCKS),
        capabilities: NamespaceCapabilities {
            atomic_blocks: 8,
            volatile_cache: true,
            ..NamespaceCapabilities::FULL
        },
        read_only: false,
        device: DeviceKey(nsid),
        reservations: None,
    }
}

pub(crate) fn subsystem(nqn: &str) -> SubsystemConfig {
    SubsystemConfig {
        nqn: nqn.into(),
        serial: "DCS0123456789".into(),
        model: None,
        hosts: AllowedHosts::Any,
        cntlid_min: 1,
        cntlid_max: 0xffef,
        ana: true,
    }
}

/// A connected controller of a host.
#[derive(Clone, Debug)]
pub(crate) struct Host {
    pub(crate) admin: QpairId,
    pub(crate) io: QpairId,
    pub(crate) cntlid: u16,
}

impl World {
    /// One subsystem with namespace 1 of [`DISK_BLOCKS`] 512-byte blocks.
    pub(crate) fn new() -> Self {
        Self::with(TargetConfig::default())
    }

    pub(crate) fn with(config: TargetConfig) -> Self {
        let now = Instant::now();
        let mut target = Target::new(config, now, 7).unwrap();
        let id = target.add_subsystem(subsystem(NQN)).unwrap();
        target.add_namespace(id, namespace(1)).unwrap();
        Self {
            target,
            now,
            subsystem: id,
            replies: Vec::new(),
            disconnects: Vec::new(),
            events: Vec::new(),
            associated: Vec::new(),
            unrouted: Vec::new(),
            released: 0,
            forgotten: Vec::new(),
            hold_io: false,
            held_io: Vec::new(),
            io_log: Vec::new(),
            hold_fetch: false,
            held_fetches: Vec::new(),
            hold_persist: false,
            held_persists: Vec::new(),
            stored: BTreeMap::new(),
            next_error: None,
            buffers: BTreeMap::new(),
            host_data: BTreeMap::new(),
            disks: BTreeMap::new(),
            next_cid: 100,
        }
    }

    pub(crate) fn cid(&mut self) -> u16 {
        self.next_cid = self.next_cid.wrapping_add(1);
        self.next_cid
    }

    /// Lets time pass; timers fire on the way.
    pub(crate) fn pass(&mut self, span: Duration) {
        let end = self.now + span;
        while let Some(due) = self.target.poll_timeout().filter(|due| *due <= end) {
            self.now = self.now.max(due);
            self.target.handle_timeout(self.now);
            self.pump();
        }
        self.now = end;
    }

    pub(crate) fn connection(&mut self) -> QpairId {
        self.target.handle_connected(self.now, facts()).unwrap()
    }

    /// Sends a capsule; `data` goes along or waits to be fetched, as the descriptor says.
    pub(crate) fn send(&mut self, qp: QpairId, sqe: &Sqe, data: &[u8]) {
        self.send_with(qp, sqe, data, true);
    }

    pub(crate) fn send_with(&mut self, qp: QpairId, sqe: &Sqe, data: &[u8], data_ok: bool) {
        let in_capsule = sqe.sgl().is_in_capsule() && !data.is_empty();
        let payload = if !in_capsule {
            self.host_data.insert((qp, sqe.cid()), data.to_vec());
            InCapsule::None
        } else if self.target.reads_payload(qp, sqe) {
            InCapsule::Bytes(data)
        } else {
            InCapsule::Held(data.len() as u32)
        };
        let cmd = self
            .target
            .handle_capsule(self.now, qp, sqe, payload, data_ok);
        if let (Some(cmd), InCapsule::Held(_)) = (cmd, payload) {
            self.buffers.insert(cmd.index(), data.to_vec());
        }
        self.pump();
    }

    /// Sends a capsule and takes its reply, which has to come at once.
    pub(crate) fn call(&mut self, qp: QpairId, sqe: &Sqe, data: &[u8]) -> Reply {
        self.send(qp, sqe, data);
        self.take(qp, sqe.cid())
            .unwrap_or_else(|| panic!("no reply to {sqe:?}"))
    }

    /// The reply to `cid` on `qp`, if it came.
    pub(crate) fn take(&mut self, qp: QpairId, cid: u16) -> Option<Reply> {
        let at = self
            .replies
            .iter()
            .position(|reply| reply.qp == qp && reply.cqe.cid == cid)?;
        Some(self.replies.remove(at))
    }

    pub(crate) fn status(&mut self, qp: QpairId, cid: u16) -> Option<Status> {
        self.take(qp, cid).map(|reply| reply.cqe.status)
    }

    /// Does everything the target asks for and the test does not hold.
    pub(crate) fn pump(&mut self) {
        while let Some(output) = self.target.poll_output() {
            match output {
                Output::Fetch {
                    qp,
                    cmd,
                    cid,
                    len,
                    by_value,
                } => {
                    assert!(len > 0);
                    if self.hold_fetch {
                        self.held_fetches.push((qp, cmd, cid, by_value));
                    } else {
                        self.deliver((qp, cmd, cid, by_value));
                    }
                }
                Output::Io {
                    cmd, device, op, ..
                } => {
                    self.io_log.push(op);
                    if self.hold_io {
                        self.held_io.push((cmd, device, op));
                    } else {
                        self.perform((cmd, device, op));
                    }
                }
                Output::Respond {
                    qp,
                    cmd,
                    cqe,
                    data,
                    success_flag_allowed,
                } => {
                    let buffer = cmd.and_then(|cmd| self.buffers.remove(&cmd.index()));
                    let data = match data {
                        ReplyData::None => Vec::new(),
                        ReplyData::Bytes(bytes) => bytes.to_vec(),
                        ReplyData::FromIo(len) => {
                            let buffer = buffer.expect("data of a read");
                            assert_eq!(buffer.len(), len as usize);
                            buffer
                        }
                    };
                    self.replies.push(Reply {
                        qp,
                        cqe,
                        data,
                        success_flag_allowed,
                    });
                }
                Output::Release { cmd } => {
                    self.released += 1;
                    self.buffers.remove(&cmd.index());
                }
                Output::Forgotten { qp, cid } => self.forgotten.push((qp, cid)),
                Output::Disconnect { qp, reason } => self.disconnects.push((qp, reason)),
                Output::Associated { qp } => self.associated.push(qp),
                Output::Unrouted { qp, connect } => self.unrouted.push((qp, connect)),
                Output::Persist { token, request } => {
                    if self.hold_persist {
                        self.held_persists.push((token, request));
                    } else {
                        self.store((token, request), true);
                    }
                }
                Output::Event(event) => self.events.push(*event),
            }
        }
    }

    pub(crate) fn store(
        &mut self,
        (token, request): (PersistToken, Box<PersistRequest>),
        ok: bool,
    ) {
        if ok {
            self.stored.insert(request.nsid, request.state.to_bytes());
        }
        self.target.handle_persisted(self.now, token, ok);
        self.pump();
    }

    /// Host data arrive for a fetch.
    pub(crate) fn deliver(&mut self, (qp, cmd, cid, by_value): (QpairId, CmdId, u16, bool)) {
        let data = self.host_data.remove(&(qp, cid)).unwrap_or_default();
        if by_value {
            self.target.handle_data(self.now, cmd, &data, true);
        } else {
            self.buffers.insert(cmd.index(), data);
            self.target.handle_data(self.now, cmd, &[], true);
        }
        self.pump();
    }

    /// What the device read for `cmd`.
    pub(crate) fn provide(&mut self, cmd: CmdId, data: Vec<u8>) {
        self.buffers.insert(cmd.index(), data);
    }

    /// The device does `op`.
    pub(crate) fn perform(&mut self, (cmd, device, op): (CmdId, DeviceKey, IoOp)) {
        let result = match self.next_error.take() {
            Some(error) => Err(error),
            None => self.on_disk(cmd, device, op),
        };
        self.target.handle_io_done(self.now, cmd, result);
        self.pump();
    }

    fn on_disk(&mut self, cmd: CmdId, device: DeviceKey, op: IoOp) -> Result<(), IoError> {
        let disk = self
            .disks
            .entry(device)
            .or_insert_with(|| vec![0; DISK_BLOCKS as usize * BLOCK]);
        let bytes = |range: BlockRange| {
            let start = range.start.0 as usize * BLOCK;
            start..start + range.count.0 as usize * BLOCK
        };
        let missing = Vec::new();
        match op {
            IoOp::Read { range } => {
                self.buffers
                    .insert(cmd.index(), disk[bytes(range)].to_vec());
            }
            IoOp::Write { range, .. } => {
                disk[bytes(range)].copy_from_slice(&self.buffers[&cmd.index()]);
            }
            IoOp::Flush => {}
            IoOp::WriteZeroes { range, .. } | IoOp::Discard { range } => disk[bytes(range)].fill(0),
            IoOp::Compare { range } => {
                if disk[bytes(range)] != self.buffers[&cmd.index()] {
                    return Err(IoError::CompareFailed);
                }
            }
            IoOp::CompareAndWrite { range, compare, .. } => {
                let expected = self.buffers.get(&compare.index()).unwrap_or(&missing);
                if disk[bytes(range)] != expected[..] {
                    return Err(IoError::CompareFailed);
                }
                disk[bytes(range)].copy_from_slice(&self.buffers[&cmd.index()]);
            }
        }
        Ok(())
    }

    pub(crate) fn disk(&mut self, nsid: u32, block: u64) -> &[u8] {
        let start = block as usize * BLOCK;
        &self.disks[&DeviceKey(nsid)][start..start + BLOCK]
    }

    pub(crate) fn connect_sqe(&mut self, qid: u16) -> ConnectCommand {
        ConnectCommand {
            recfmt: 0,
            qid,
            queue_entries: 32,
            sq_flow_control_disabled: false,
            kato_ms: if qid == 0 { 5_000 } else { 0 },
        }
    }

    pub(crate) fn try_connect(
        &mut self,
        qp: QpairId,
        command: ConnectCommand,
        data: ConnectData,
    ) -> Reply {
        let cid = self.cid();
        let sqe = command.emit(cid, Sgl::in_capsule(0, 1024));
        self.call(qp, &sqe, &data.emit())
    }

    /// An admin queue of `nqn` to `subnqn`, controller not enabled.
    pub(crate) fn connect_admin(&mut self, nqn: &str, subnqn: &str) -> (QpairId, u16) {
        let qp = self.connection();
        let command = self.connect_sqe(0);
        let data = ConnectData::new(host_id(nqn), 0xffff, subnqn, nqn);
        let reply = self.try_connect(qp, command, data);
        assert_eq!(reply.cqe.status, Status::SUCCESS);
        (qp, ConnectResult::parse(reply.cqe.result).cntlid)
    }

    pub(crate) fn connect_io(&mut self, nqn: &str, cntlid: u16, qid: u16) -> QpairId {
        let qp = self.connection();
        let command = self.connect_sqe(qid);
        let reply = self.try_connect(
            qp,
            command,
            ConnectData::new(host_id(nqn), cntlid, NQN, nqn),
        );
        assert_eq!(reply.cqe.status, Status::SUCCESS);
        qp
    }

    /// A host connected and enabled, with I/O queue 1.
    pub(crate) fn host(&mut self, nqn: &'static str) -> Host {
        let (admin, cntlid) = self.connect_admin(nqn, NQN);
        self.enable(admin);
        let io = self.connect_io(nqn, cntlid, 1);
        self.events.clear();
        Host { admin, io, cntlid }
    }

    pub(crate) fn get_property(&mut self, qp: QpairId, offset: u32, width: u8) -> Reply {
        let sqe = PropertyCommand::get(self.cid(), offset, width);
        self.call(qp, &sqe, &[])
    }

    pub(crate) fn set_cc(&mut self, qp: QpairId, cc: Cc) -> Status {
        let sqe = PropertyCommand::set(self.cid(), register::CC, 4, u64::from(cc.0));
        self.call(qp, &sqe, &[]).cqe.status
    }

    pub(crate) fn csts(&mut self, qp: QpairId) -> Csts {
        Csts(self.get_property(qp, register::CSTS, 4).cqe.result as u32)
    }

    pub(crate) fn enable(&mut self, admin: QpairId) {
        assert_eq!(self.set_cc(admin, Cc::enable(6)), Status::SUCCESS);
        assert!(self.csts(admin).is_ready());
    }

    /// A block command with its data in the capsule (write, compare) or to be returned (read).
    pub(crate) fn block_sqe(&mut self, opcode: u8, block: BlockCommand) -> Sqe {
        let len = block.blocks * BLOCK as u32;
        let sgl = match opcode {
            nvm::WRITE | nvm::COMPARE => Sgl::in_capsule(0, len),
            _ => Sgl::transport(len),
        };
        block.emit(opcode, self.cid(), 1, sgl)
    }

    pub(crate) fn write(&mut self, qp: QpairId, slba: u64, data: &[u8]) -> Status {
        let blocks = (data.len() / BLOCK) as u32;
        let block = BlockCommand {
            slba,
            blocks,
            ..BlockCommand::default()
        };
        let sqe = self.block_sqe(nvm::WRITE, block);
        self.call(qp, &sqe, data).cqe.status
    }

    pub(crate) fn read(&mut self, qp: QpairId, slba: u64, blocks: u32) -> Reply {
        let block = BlockCommand {
            slba,
            blocks,
            ..BlockCommand::default()
        };
        let sqe = self.block_sqe(nvm::READ, block);
        self.call(qp, &sqe, &[])
    }

    /// An admin command with dwords 10 and 11, data returned into `len` bytes.
    pub(crate) fn admin(
        &mut self,
        qp: QpairId,
        opcode: u8,
        nsid: u32,
        cdw10: u32,
        cdw11: u32,
        len: u32,
    ) -> Reply {
        let mut sqe = Sqe::new(opcode, self.cid(), nsid);
        sqe.set_flags(0x40);
        sqe.set_sgl(Sgl::transport(len));
        sqe.set_dword(10, cdw10);
        sqe.set_dword(11, cdw11);
        self.call(qp, &sqe, &[])
    }

    pub(crate) fn identify(&mut self, qp: QpairId, cns: u8, nsid: u32) -> Reply {
        self.admin(qp, admin::IDENTIFY, nsid, u32::from(cns), 0, 4096)
    }

    pub(crate) fn log(&mut self, qp: QpairId, lid: u8, bytes: u32) -> Reply {
        let numd_zb = bytes / 4 - 1;
        self.admin(
            qp,
            admin::GET_LOG_PAGE,
            0xffff_ffff,
            u32::from(lid) | numd_zb << 16,
            numd_zb >> 16,
            bytes,
        )
    }

    pub(crate) fn request_event(&mut self, qp: QpairId) -> u16 {
        let cid = self.cid();
        self.send(qp, &Sqe::new(admin::ASYNC_EVENT_REQUEST, cid, 0), &[]);
        cid
    }
}
