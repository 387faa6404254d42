//! An arbitrary peer, an arbitrary device and an arbitrary store against `nvme-target`.
//!
//! Oracle: no panic; at most one response a capsule, and none is left without one, but for a few event requests, while its
//! connection stands; a command id is used only while it lives, ends once, and has at most
//! one fetch and one device operation out; outputs per input are bounded; when every connection is gone and the device has
//! answered, nothing is left. A model of the namespaces' sizes, kept from the control plane's calls alone, judges every range:
//! a device operation lies within its namespace as that is when it is handed out, and a host is told "out of range" only of
//! a range that is. At the end of each input the queues that still work are asked for the blocks round the end of every
//! namespace: the last one is served, the one behind it is not ([`edges`]).

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use arbitrary::{Result, Unstructured};
use nvme_spec::fabrics::{ConnectCommand, ConnectData, PropertyCommand};
use nvme_spec::nqn::DISCOVERY_NQN;
use nvme_spec::opcode::nvm;
use nvme_spec::register::{self, Cc};
use nvme_spec::{Sgl, Sqe, Status};
use nvme_target::{
    AllowedHosts, CmdId, DeviceKey, DiscoveredSubsystem, InCapsule, IoError, IoOp,
    NamespaceCapabilities, NamespaceConfig, Output, PersistToken, PersistedReservations, QpairId,
    ReplyData, SubsystemConfig, SubsystemId, Target, TargetConfig, TransportFacts, limits,
};
use units::{BlockRange, BlockSize, Blocks};

mod edges;

const NQN: &str = "nqn.2019-05.io.openebs:fuzz";
const HOSTS: [&str; 3] = ["nqn.h:a", "nqn.h:b", "nqn.h:c"];
const QUEUES_MAX: usize = 24;
const BLOCKS: u64 = 1 << 20;

/// What is out for a command that lives.
#[derive(Default)]
struct Live {
    generation: u32,
    /// Connection it came on.
    qp: Option<QpairId>,
    /// The command, when it came as one that is on its own.
    sqe: Option<Sqe>,
    fetch: Option<(u32, bool)>,
    io: bool,
}

struct Engine {
    target: Target,
    now: Instant,
    subsystem: SubsystemId,
    queues: Vec<QpairId>,
    /// Capsules sent, less responses got and those that get none, by connection.
    owed: BTreeMap<QpairId, usize>,
    /// Connections told to close.
    closing: BTreeSet<QpairId>,
    live: BTreeMap<usize, Live>,
    fetches: Vec<CmdId>,
    ios: Vec<CmdId>,
    persists: Vec<PersistToken>,
    /// Blocks of the namespaces there are.
    sizes: BTreeMap<u32, u64>,
    /// What the last input brought: answers, and operations for the device.
    answers: Vec<(QpairId, u16, Status)>,
    operations: Vec<(CmdId, IoOp)>,
}

impl Engine {
    fn new(u: &mut Unstructured<'_>) -> Result<Self> {
        let now = Instant::now();
        let config = TargetConfig {
            controllers_max: 6,
            qpairs_max: 20,
            io_queues_per_controller: 3,
            queue_depth: 16,
            commands_max: limits::ADMIN_RESERVE + 24,
            in_capsule_bytes: 4096,
            mdts_bytes: 1 << 16,
            kato_ms_max: if u.arbitrary()? { 10_000 } else { 0 },
            success_flag_with_flow_control: u.arbitrary()?,
            ..TargetConfig::default()
        };
        let mut target = Target::new(config, now, 1).expect("limits");
        let subsystem = target
            .add_subsystem(SubsystemConfig {
                nqn: NQN.into(),
                serial: "1".into(),
                model: None,
                hosts: AllowedHosts::Any,
                cntlid_min: 1,
                cntlid_max: 4,
                ana: u.arbitrary()?,
            })
            .expect("subsystem");
        let mut engine = Self {
            target,
            now,
            subsystem,
            queues: Vec::new(),
            owed: BTreeMap::new(),
            closing: BTreeSet::new(),
            live: BTreeMap::new(),
            fetches: Vec::new(),
            ios: Vec::new(),
            persists: Vec::new(),
            sizes: BTreeMap::new(),
            answers: Vec::new(),
            operations: Vec::new(),
        };
        engine.add_namespace(1, None);
        if u.arbitrary()? {
            for (cntlid, host) in (1u16..).zip(&HOSTS[..2]) {
                engine.connect(0, host, 0xffff, NQN, 16);
                let admin = *engine.queues.last().expect("connected");
                let enable = PropertyCommand::set(0, register::CC, 4, u64::from(Cc::enable(6).0));
                engine.capsule(admin, &enable, InCapsule::None, true);
                engine.connect(1, host, cntlid, NQN, 16);
            }
        }
        Ok(engine)
    }

    fn add_namespace(&mut self, nsid: u32, reservations: Option<PersistedReservations>) {
        let config = NamespaceConfig {
            nsid,
            nguid: [1; 16],
            uuid: [2; 16],
            eui64: [0; 8],
            block_size: if nsid % 2 == 1 {
                BlockSize::B512
            } else {
                BlockSize::B4096
            },
            blocks: Blocks(BLOCKS),
            capabilities: NamespaceCapabilities {
                atomic_blocks: 8,
                volatile_cache: true,
                ..NamespaceCapabilities::FULL
            },
            read_only: nsid % 4 == 3,
            device: DeviceKey(nsid),
            reservations,
        };
        // Refused when the id is taken: as good.
        if self.target.add_namespace(self.subsystem, config).is_ok() {
            self.sizes.insert(nsid, BLOCKS);
        }
    }

    fn remove_namespace(&mut self, nsid: u32) {
        if self.target.remove_namespace(self.subsystem, nsid).is_ok() {
            self.sizes.remove(&nsid);
        }
    }

    fn resize_namespace(&mut self, nsid: u32, blocks: u64) {
        let resized = self
            .target
            .resize_namespace(self.subsystem, nsid, Blocks(blocks));
        if resized.is_ok() {
            self.sizes.insert(nsid, blocks);
        }
    }

    fn connection(&mut self) {
        let facts = TransportFacts {
            traddr: "192.0.2.1".into(),
            trsvcid: "8420".into(),
            ipv6: false,
        };
        if self.queues.len() < QUEUES_MAX
            && let Some(qp) = self.target.handle_connected(self.now, facts)
        {
            self.queues.push(qp);
            self.owed.insert(qp, 0);
        }
    }

    fn connect(&mut self, qid: u16, host: &str, cntlid: u16, subnqn: &str, entries: u32) {
        self.connection();
        let Some(qp) = self.queues.last().copied() else {
            return;
        };
        let command = ConnectCommand {
            recfmt: 0,
            qid,
            queue_entries: entries,
            sq_flow_control_disabled: entries.is_multiple_of(2),
            kato_ms: 5_000,
        };
        let mut id = [7; 16];
        id[0] = host.as_bytes()[host.len() - 1];
        let data = ConnectData::new(id, cntlid, subnqn, host).emit();
        let sqe = command.emit(0, Sgl::in_capsule(0, 1024));
        self.capsule(qp, &sqe, InCapsule::Bytes(&data), true);
    }

    fn capsule(&mut self, qp: QpairId, sqe: &Sqe, data: InCapsule<'_>, data_ok: bool) {
        *self.owed.entry(qp).or_default() += 1;
        self.forget_last();
        let alone = (sqe.fused() == 0).then_some(*sqe);
        let cmd = self.target.handle_capsule(self.now, qp, sqe, data, data_ok);
        if let Some(cmd) = cmd {
            let live = self.meet(cmd);
            (live.qp, live.sqe) = (Some(qp), alone);
        }
        self.drain();
        if let Some(sqe) = alone {
            self.check_refusal(&sqe, |answer| answer.0 == qp);
        }
    }

    fn forget_last(&mut self) {
        self.answers.clear();
        self.operations.clear();
    }

    /// A block command that was told "out of range" in the last input is.
    fn check_refusal(&self, sqe: &Sqe, is_its: impl Fn(&(QpairId, u16, Status)) -> bool) {
        let is_refused = self.answers.iter().any(|answer| {
            is_its(answer) && answer.1 == sqe.cid() && answer.2 == Status::LBA_OUT_OF_RANGE.dnr()
        });
        let on_blocks = matches!(
            sqe.opcode(),
            nvm::READ | nvm::WRITE | nvm::COMPARE | nvm::WRITE_ZEROES
        );
        if is_refused && on_blocks {
            // NVM Command Set 1.0c §3.2: SLBA in dwords 10 and 11, NLB zero-based in dword 12.
            let slba = u64::from(sqe.dword(10)) | u64::from(sqe.dword(11)) << 32;
            let end = u128::from(slba) + u128::from(sqe.dword(12) & 0xffff) + 1;
            let size = self.sizes.get(&sqe.nsid()).copied().unwrap_or_default();
            assert!(end > u128::from(size), "{end} of {size} is in range");
        }
    }

    /// A command id was named: it lives, under one generation.
    fn meet(&mut self, cmd: CmdId) -> &mut Live {
        let live = self.live.entry(cmd.index()).or_insert_with(|| Live {
            generation: cmd.generation(),
            ..Live::default()
        });
        assert_eq!(live.generation, cmd.generation(), "slot in use twice");
        live
    }

    /// A command ended.
    fn part(&mut self, cmd: CmdId) {
        if let Some(live) = self.live.remove(&cmd.index()) {
            assert_eq!(live.generation, cmd.generation());
            assert!(!live.io, "ended while the device has it");
        }
        self.fetches.retain(|fetch| *fetch != cmd);
    }

    fn drain(&mut self) {
        let mut outputs = 0;
        while let Some(output) = self.target.poll_output() {
            outputs += 1;
            assert!(outputs < 1000, "outputs without end");
            match output {
                Output::Fetch {
                    cmd, len, by_value, ..
                } => {
                    assert!(len > 0 && len <= 1 << 16);
                    assert!(!by_value || len <= limits::PAYLOAD_READ_MAX);
                    let live = self.meet(cmd);
                    assert!(live.fetch.is_none() && !live.io);
                    live.fetch = Some((len, by_value));
                    self.fetches.push(cmd);
                }
                Output::Io {
                    cmd, device, op, ..
                } => {
                    self.check_op(device, &op);
                    self.operations.push((cmd, op));
                    let live = self.meet(cmd);
                    assert!(!live.io, "two operations at once");
                    live.io = true;
                    self.ios.push(cmd);
                }
                Output::Respond {
                    qp,
                    cmd,
                    cqe,
                    data,
                    success_flag_allowed,
                } => {
                    let owed = self.owed.get_mut(&qp).expect("a connection");
                    *owed = owed.checked_sub(1).expect("one response a capsule");
                    assert!(!success_flag_allowed || cqe.status.is_success());
                    self.answers.push((qp, cqe.cid, cqe.status));
                    if let ReplyData::Bytes(bytes) = &data {
                        assert!(bytes.len() <= 1 << 16);
                    }
                    if let Some(cmd) = cmd {
                        self.part(cmd);
                    }
                }
                Output::Release { cmd } => self.part(cmd),
                Output::Forgotten { qp, .. } => {
                    assert!(!self.closing.contains(&qp));
                    let owed = self.owed.get_mut(&qp).expect("a connection");
                    *owed = owed.checked_sub(1).expect("a capsule without a response");
                }
                Output::Persist { token, request } => {
                    let raw = request.state.to_bytes();
                    assert_eq!(PersistedReservations::from_bytes(&raw), Ok(request.state));
                    self.persists.push(token);
                }
                Output::Associated { qp } => assert!(self.target.describe(qp).is_some()),
                Output::Disconnect { qp, .. } => {
                    self.closing.insert(qp);
                }
                Output::Unrouted { .. } | Output::Event(_) => {}
            }
        }
        self.check_owed();
    }

    /// On connections that stand every capsule is answered, in flight, or an event request: what the transport counts as
    /// outstanding goes back to none.
    fn check_owed(&self) {
        for qp in self.queues.iter().filter(|qp| !self.closing.contains(qp)) {
            let in_flight = self.live.values().filter(|live| live.qp == Some(*qp));
            let owed = self.owed[qp];
            assert!(
                owed <= in_flight.count() + limits::AERS_MAX,
                "{owed} capsules of {qp:?} are left without an answer"
            );
        }
    }

    fn io_done(&mut self, at: usize, error: Option<IoError>) {
        let cmd = self.ios.swap_remove(at);
        self.forget_last();
        self.live.get_mut(&cmd.index()).expect("lives").io = false;
        self.target
            .handle_io_done(self.now, cmd, error.map_or(Ok(()), Err));
        self.drain();
    }

    fn data(&mut self, at: usize, ok: bool, fill: u8) {
        let cmd = self.fetches.swap_remove(at);
        let alone = self.live.get(&cmd.index()).and_then(|live| live.sqe);
        self.forget_last();
        let fetch = self.live.get_mut(&cmd.index()).and_then(|live| live.fetch);
        let (len, by_value) = fetch.expect("fetching");
        let data = if by_value {
            vec![fill; len as usize]
        } else {
            Vec::new()
        };
        self.target.handle_data(self.now, cmd, &data, ok);
        self.drain();
        if let Some(sqe) = alone {
            self.check_refusal(&sqe, |_| true);
        }
    }

    /// The operation lies within its namespace as that is at the moment.
    fn check_op(&self, device: DeviceKey, op: &IoOp) {
        if let Some(range) = range_of(op) {
            let size = self.sizes.get(&device.0).copied();
            let size = size.expect("the namespace is there");
            let end = u128::from(range.start.0) + u128::from(range.count.0);
            assert!(
                range.count.0 > 0 && end <= u128::from(size),
                "{op:?} of {size}"
            );
        }
    }
}

/// Blocks of an operation.
fn range_of(op: &IoOp) -> Option<BlockRange> {
    match op {
        IoOp::Flush => None,
        IoOp::Read { range }
        | IoOp::Write { range, .. }
        | IoOp::WriteZeroes { range, .. }
        | IoOp::Discard { range }
        | IoOp::Compare { range }
        | IoOp::CompareAndWrite { range, .. } => Some(*range),
    }
}

const OPCODES: [u8; 16] = [
    0x00, 0x01, 0x02, 0x05, 0x08, 0x09, 0x0d, 0x0e, 0x11, 0x15, 0x06, 0x0a, 0x0c, 0x18, 0x7f, 0x08,
];
const ERRORS: [IoError; 12] = [
    IoError::OutOfRange,
    IoError::NoSpace,
    IoError::Medium,
    IoError::CompareFailed,
    IoError::ReservationConflict,
    IoError::Gone,
    IoError::Timeout,
    IoError::NotSupported,
    IoError::Aborted,
    IoError::Busy,
    IoError::ReadOnly,
    IoError::Internal,
];

/// A command that is often nearly right.
fn sqe(u: &mut Unstructured<'_>) -> Result<(Sqe, u32)> {
    let mut sqe = Sqe::zeroed();
    if u.ratio(1, 8)? {
        u.fill_buffer(&mut sqe.0)?;
    } else {
        sqe.0[0] = *u.choose(&OPCODES)?;
        sqe.set_flags(0x40 | *u.choose(&[0, 0, 0, 1, 2, 3])?);
        sqe.set_dword(1, *u.choose(&[1, 1, 1, 0, 2, 3, u32::MAX])?);
        for dword in 10..16 {
            let value = if u.arbitrary()? {
                u32::from(u.arbitrary::<u8>()?)
            } else {
                u.arbitrary()?
            };
            sqe.set_dword(dword, if u.ratio(1, 3)? { value } else { value & 7 });
        }
    }
    sqe.set_cid(u.arbitrary::<u8>()?.into());
    let len = *u.choose(&[8u32, 16, 48, 512, 1024, 4096, 65536])?;
    let in_capsule = len <= 8192 && u.arbitrary()?;
    let sgl = if in_capsule {
        Sgl::in_capsule(0, len)
    } else {
        Sgl::transport(len)
    };
    sqe.set_sgl(sgl);
    Ok((sqe, if in_capsule { len } else { 0 }))
}

fn step(engine: &mut Engine, u: &mut Unstructured<'_>) -> Result<()> {
    match u.int_in_range(0..=15)? {
        0 => engine.connection(),
        1 => {
            let host = *u.choose(&HOSTS)?;
            let subnqn = *u.choose(&[NQN, NQN, DISCOVERY_NQN, "nqn.x:unknown"])?;
            let cntlid = *u.choose(&[0xffff, 1, 2, 3])?;
            let qid = u.int_in_range(0..=4)?;
            let entries = u.int_in_range(0..=40)?;
            engine.connect(qid, host, cntlid, subnqn, entries);
        }
        2 => engine.now += Duration::from_millis(u.int_in_range(0..=6_000)?),
        3 => {
            engine.target.handle_timeout(engine.now);
        }
        4 if !engine.queues.is_empty() => {
            let at = u.choose_index(engine.queues.len())?;
            let qp = engine.queues.swap_remove(at);
            engine.target.handle_disconnected(engine.now, qp);
        }
        5 | 6 if !engine.ios.is_empty() => {
            let at = u.choose_index(engine.ios.len())?;
            let error = if u.arbitrary()? {
                None
            } else {
                Some(*u.choose(&ERRORS)?)
            };
            engine.io_done(at, error);
        }
        7 if !engine.fetches.is_empty() => {
            let at = u.choose_index(engine.fetches.len())?;
            let (ok, fill) = (u.ratio(9, 10)?, u.arbitrary::<u8>()? & 3);
            engine.data(at, ok, fill);
        }
        8 if !engine.persists.is_empty() => {
            let at = u.choose_index(engine.persists.len())?;
            let token = engine.persists.swap_remove(at);
            engine
                .target
                .handle_persisted(engine.now, token, u.arbitrary()?);
        }
        9 => control(engine, u)?,
        10 if !engine.queues.is_empty() => {
            let qp = *u.choose(&engine.queues)?;
            let value = *u.choose(&[0, 1, 0x46_0061, 0x46_4061, 0x46_0001])?;
            let set = PropertyCommand::set(9, register::CC, 4, value);
            engine.capsule(qp, &set, InCapsule::None, true);
        }
        11 if !engine.queues.is_empty() => {
            let qp = *u.choose(&engine.queues)?;
            engine.target.refuse_connect(engine.now, qp);
        }
        _ if !engine.queues.is_empty() => {
            let qp = *u.choose(&engine.queues)?;
            let (sqe, len) = sqe(u)?;
            let fill = u.arbitrary::<u8>()? & 3;
            let bytes = vec![fill; len as usize];
            let data = if len == 0 {
                InCapsule::None
            } else if engine.target.reads_payload(qp, &sqe) {
                InCapsule::Bytes(&bytes)
            } else {
                InCapsule::Held(len)
            };
            let ok = u.ratio(19, 20)?;
            engine.capsule(qp, &sqe, data, ok);
        }
        _ => {}
    }
    engine.drain();
    Ok(())
}

/// What the control plane does meanwhile.
fn control(engine: &mut Engine, u: &mut Unstructured<'_>) -> Result<()> {
    let nsid = u.int_in_range(1..=3)?;
    match u.int_in_range(0..=4)? {
        0 => engine.add_namespace(nsid, None),
        1 => engine.remove_namespace(nsid),
        2 => engine.resize_namespace(nsid, u.int_in_range(1..=BLOCKS)?),
        3 => {
            let hosts = if u.arbitrary()? {
                AllowedHosts::Any
            } else {
                AllowedHosts::Only(vec![HOSTS[0].into()])
            };
            let _ = engine
                .target
                .set_allowed_hosts(engine.now, engine.subsystem, hosts);
        }
        _ => {
            let shown = DiscoveredSubsystem {
                nqn: NQN.into(),
                hosts: AllowedHosts::Any,
            };
            engine
                .target
                .set_discovery(Arc::from([shown]), u.arbitrary()?);
        }
    }
    Ok(())
}

/// Runs one input.
///
/// # Panics
/// When the oracle is broken.
pub fn run(data: &[u8]) {
    let mut u = Unstructured::new(data);
    let Ok(mut engine) = Engine::new(&mut u) else {
        return;
    };
    while !u.is_empty() {
        if step(&mut engine, &mut u).is_err() {
            break;
        }
    }
    engine.drain();
    edges::probe(&mut engine);
    for qp in std::mem::take(&mut engine.queues) {
        engine.target.handle_disconnected(engine.now, qp);
    }
    engine.drain();
    while !engine.ios.is_empty() {
        engine.io_done(0, None);
    }
    for token in std::mem::take(&mut engine.persists) {
        engine.target.handle_persisted(engine.now, token, true);
        engine.drain();
    }
    assert_eq!(engine.target.commands_in_flight(), 0);
    assert_eq!(engine.target.qpairs(), 0);
    assert!(engine.live.is_empty());
}
