//! A small NVMe/TCP target in memory, on a thread of its own: enough of a controller to drive the load generator and
//! the client against, with faults to order.

use io_engine_perf::socket;
use nvme_spec::fabrics::{ConnectResult, PropertyCommand};
use nvme_spec::identify::{IdentifyCommand, cns, namespace_list};
use nvme_spec::io::BlockCommand;
use nvme_spec::log::GetLogPage;
use nvme_spec::opcode::{FABRICS, admin, fabrics, nvm};
use nvme_spec::register::{self, Cap};
use nvme_spec::{Cqe, Sqe, Status};
use nvme_tcp::*;
use std::collections::VecDeque;
use std::io::{ErrorKind, IoSlice, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

pub(crate) const BLOCK_LEN: usize = 512;
const COMMANDS_MAX: usize = 128;
const IN_CAPSULE_MAX: u32 = 8192;

/// What the target does wrong, all off at first.
#[derive(Default)]
pub(crate) struct Faults {
    /// Every n-th write is acknowledged and dropped; 0 for none.
    pub(crate) lose_write_every: AtomicU64,
    /// Drop every connection at the next turn.
    pub(crate) disconnect: AtomicBool,
    /// Writes seen so far.
    pub(crate) writes: AtomicU64,
    /// Complete reads with an error.
    pub(crate) fail_reads: AtomicBool,
}

pub(crate) struct Target {
    pub(crate) address: SocketAddr,
    pub(crate) disk: Arc<Mutex<Vec<u8>>>,
    pub(crate) faults: Arc<Faults>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Target {
    pub(crate) fn start(blocks: usize) -> Self {
        let any = SocketAddr::from(([127, 0, 0, 1], 0));
        let listener = socket::listen(any, None).expect("a port");
        let disk = Arc::new(Mutex::new(vec![0; blocks * BLOCK_LEN]));
        let faults = Arc::new(Faults::default());
        let stop = Arc::new(AtomicBool::new(false));
        let address = listener.local_addr().expect("an address");
        let server = Server {
            disk: Arc::clone(&disk),
            faults: Arc::clone(&faults),
        };
        let over = Arc::clone(&stop);
        let thread = std::thread::spawn(move || run(&listener, server, &over));
        Self {
            address,
            disk,
            faults,
            stop,
            thread: Some(thread),
        }
    }
}

impl Drop for Target {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let outcome = thread.join();
            assert!(
                outcome.is_ok() || std::thread::panicking(),
                "target panicked"
            );
        }
    }
}

struct Server {
    disk: Arc<Mutex<Vec<u8>>>,
    faults: Arc<Faults>,
}

struct Peer {
    stream: TcpStream,
    core: Controller,
    staging: Vec<u8>,
    capsule: Vec<u8>,
    fetches: Vec<Option<(Sqe, Vec<u8>)>>,
    reads: Vec<Option<Vec<u8>>>,
    /// First of a fused pair and its data, waiting for the second.
    fused: Option<(Sqe, Vec<u8>)>,
}

fn run(listener: &TcpListener, mut server: Server, over: &AtomicBool) {
    let mut peers: VecDeque<Peer> = VecDeque::new();
    while !over.load(Ordering::Relaxed) {
        while let Ok((stream, _)) = listener.accept() {
            socket::prepare(&stream, None).expect("a socket");
            peers.push_back(Peer::new(stream));
        }
        if server.faults.disconnect.swap(false, Ordering::Relaxed) {
            peers.clear();
        }
        peers.retain_mut(|peer| peer.turn(&mut server));
        let sockets = peers.iter().map(|p| &p.stream as &dyn socket::AsFdDyn);
        let readable = sockets.chain(std::iter::once(listener as &dyn socket::AsFdDyn));
        let unsent = peers.iter().filter(|p| p.core.has_transmit());
        let writable = unsent.map(|p| &p.stream as &dyn socket::AsFdDyn);
        socket::wait(readable, writable, Duration::from_millis(5)).expect("poll");
    }
}

impl Peer {
    fn new(stream: TcpStream) -> Self {
        let config = ControllerConfig {
            in_capsule_max: IN_CAPSULE_MAX,
            maxh2cdata: 32768,
            commands_max: COMMANDS_MAX,
            ..ControllerConfig::default()
        };
        Self {
            stream,
            core: Controller::new(config, Instant::now()),
            staging: Vec::new(),
            capsule: Vec::new(),
            fetches: vec![None; COMMANDS_MAX],
            reads: vec![None; COMMANDS_MAX],
            fused: None,
        }
    }

    /// One turn; whether the connection stays.
    fn turn(&mut self, server: &mut Server) -> bool {
        let mut piece = [0; 65536];
        match self.stream.read(&mut piece) {
            Ok(0) => return false,
            Ok(len) => self.staging.extend_from_slice(&piece[..len]),
            Err(error) if error.kind() == ErrorKind::WouldBlock => {}
            Err(_) => return false,
        }
        self.take(server) && self.send()
    }

    fn take(&mut self, server: &mut Server) -> bool {
        let mut at = 0;
        loop {
            let bytes = &self.staging[at..];
            let event = match self.core.want() {
                Want::Header(at_least) if bytes.len() < at_least => break,
                Want::Header(_) => match self.core.handle_header(Instant::now(), bytes) {
                    Ok(step) => {
                        at += step.taken;
                        step.event
                    }
                    Err(_) => break,
                },
                Want::Payload { dst, offset, len } => {
                    let part = bytes.len().min(len as usize);
                    if part == 0 {
                        break;
                    }
                    let (bytes, offset) = (&bytes[..part], offset as usize);
                    match dst {
                        PayloadDst::InCapsule => {
                            self.capsule.truncate(offset);
                            self.capsule.extend_from_slice(bytes);
                        }
                        PayloadDst::Fetch(tag) => {
                            let fetch = self.fetches[usize::from(tag.0)].as_mut();
                            let (_, buffer) = fetch.expect("an active fetch");
                            buffer[offset..offset + part].copy_from_slice(bytes);
                        }
                        PayloadDst::Discard(_) => {}
                    }
                    at += part;
                    let (staging, core) = (&self.staging, &mut self.core);
                    core.handle_payload(&staging[at - part..at])
                }
                Want::Congested | Want::Flush => break,
                Want::Close => return false,
            };
            if let Some(event) = event {
                self.event(event, server);
            }
        }
        self.staging.drain(..at);
        true
    }

    fn send(&mut self) -> bool {
        while let Some(order) = self.core.poll_digest_order() {
            let data = self.reads[order.token.0 as usize].as_ref();
            let (at, len) = (order.offset as usize, order.len as usize);
            let digest = crc32c(&data.expect("a queued read")[at..at + len]);
            self.core.handle_digest(order, digest);
        }
        while self.core.has_transmit() {
            let reads = &self.reads;
            let slices: Vec<_> = self
                .core
                .transmit()
                .take(512)
                .map(|chunk| match chunk {
                    Chunk::Bytes(bytes) => IoSlice::new(bytes),
                    Chunk::Data { token, offset, len } => {
                        let data = reads[token.0 as usize].as_ref();
                        let at = offset as usize;
                        IoSlice::new(&data.expect("a queued read")[at..at + len as usize])
                    }
                })
                .collect();
            let sent = match self.stream.write_vectored(&slices) {
                Ok(sent) => sent,
                Err(error) => return error.kind() == ErrorKind::WouldBlock,
            };
            drop(slices);
            let reads = &mut self.reads;
            self.core.handle_sent(sent, |token| {
                reads[token.0 as usize] = None;
            });
        }
        true
    }

    fn event(&mut self, event: ControllerEvent, server: &mut Server) {
        match event {
            ControllerEvent::Ready { .. } | ControllerEvent::FetchDrained { .. } => {}
            ControllerEvent::Capsule { sqe, data_len, .. } => {
                let data = core::mem::take(&mut self.capsule);
                assert_eq!(data.len(), data_len as usize);
                self.command(sqe, data, server);
            }
            ControllerEvent::Fetched { tag, .. } => {
                let fetch = self.fetches[usize::from(tag.0)].take();
                let (sqe, data) = fetch.expect("an active fetch");
                self.command(sqe, data, server);
            }
        }
    }

    fn command(&mut self, sqe: Sqe, data: Vec<u8>, server: &mut Server) {
        let takes_data = [nvm::WRITE, nvm::COMPARE].contains(&sqe.opcode());
        if takes_data && data.is_empty() && sqe.sgl().is_transport() {
            let free = self.fetches.iter().position(Option::is_none);
            let tag = free.expect("a free tag");
            let len = sqe.sgl().length();
            self.fetches[tag] = Some((sqe, vec![0; len as usize]));
            self.core.submit_fetch(sqe.cid(), FetchTag(tag as u16), len);
            return;
        }
        match (sqe.opcode(), sqe.fused()) {
            (FABRICS, _) => self.fabrics(&sqe),
            (nvm::COMPARE, 1) => self.fused = Some((sqe, data)),
            (nvm::WRITE, 2) => {
                let (first, compared) = self.fused.take().expect("the first of the pair");
                let at = BlockCommand::parse(&sqe).slba as usize * BLOCK_LEN;
                let mut disk = server.disk.lock().expect("the disk");
                let same = disk[at..at + compared.len()] == compared;
                let statuses = if same {
                    disk[at..at + data.len()].copy_from_slice(&data);
                    (Status::SUCCESS, Status::SUCCESS)
                } else {
                    (Status::COMPARE_FAILURE, Status::ABORTED_FAILED_FUSED)
                };
                self.respond(&first, statuses.0, 0);
                self.respond(&sqe, statuses.1, 0);
            }
            (nvm::READ, _) => self.read(&sqe, server),
            (nvm::WRITE, _) => self.write(&sqe, &data, server),
            (nvm::FLUSH, _) => self.respond(&sqe, Status::SUCCESS, 0),
            _ => self.admin(&sqe, server),
        }
    }

    fn read(&mut self, sqe: &Sqe, server: &Server) {
        if sqe.nsid() != 1 {
            // Opcode 02h on the admin queue: Get Log Page.
            let command = GetLogPage::parse(sqe);
            let header = nvme_spec::discovery::DiscoveryHeader::default().emit();
            let from = (command.offset as usize).min(header.len());
            let to = (from + command.bytes as usize).min(header.len());
            self.data(sqe, header[from..to].to_vec());
            return;
        }
        if server.faults.fail_reads.load(Ordering::Relaxed) {
            self.respond(sqe, Status::UNRECOVERED_READ_ERROR, 0);
            return;
        }
        let command = BlockCommand::parse(sqe);
        let at = command.slba as usize * BLOCK_LEN;
        let len = command.blocks as usize * BLOCK_LEN;
        let data = server.disk.lock().expect("the disk")[at..at + len].to_vec();
        self.data(sqe, data);
    }

    fn write(&mut self, sqe: &Sqe, data: &[u8], server: &mut Server) {
        let writes = server.faults.writes.fetch_add(1, Ordering::Relaxed) + 1;
        let every = server.faults.lose_write_every.load(Ordering::Relaxed);
        if every == 0 || !writes.is_multiple_of(every) {
            let at = BlockCommand::parse(sqe).slba as usize * BLOCK_LEN;
            server.disk.lock().expect("the disk")[at..at + data.len()].copy_from_slice(data);
        }
        self.respond(sqe, Status::SUCCESS, 0);
    }

    fn admin(&mut self, sqe: &Sqe, server: &Server) {
        match sqe.opcode() {
            admin::IDENTIFY => {
                let blocks = server.disk.lock().expect("the disk").len() / BLOCK_LEN;
                self.data(sqe, identify(sqe, blocks as u64));
            }
            admin::SET_FEATURES => self.respond(sqe, Status::SUCCESS, 0x003f_003f),
            admin::KEEP_ALIVE => self.respond(sqe, Status::SUCCESS, 0),
            admin::ASYNC_EVENT_REQUEST => {}
            _ => self.respond(sqe, Status::INVALID_OPCODE, 0),
        }
    }

    fn fabrics(&mut self, sqe: &Sqe) {
        let result = match sqe.fctype() {
            fabrics::CONNECT => {
                let cntlid = 1;
                let auth_required = false;
                ConnectResult {
                    cntlid,
                    auth_required,
                }
                .result()
            }
            fabrics::PROPERTY_GET => match PropertyCommand::parse(sqe).offset {
                register::CAP => Cap {
                    queue_entries_max: COMMANDS_MAX as u32,
                    ready_timeout_500ms: 10,
                    ..Cap::parse(0)
                }
                .emit(),
                register::CSTS => 1,
                _ => 0x0002_0000,
            },
            _ => 0,
        };
        self.respond(sqe, Status::SUCCESS, result);
    }

    fn respond(&mut self, sqe: &Sqe, status: Status, result: u64) {
        let mut cqe = Cqe::new(sqe.cid(), status);
        cqe.result = result;
        self.core.submit_response(&cqe);
    }

    fn data(&mut self, sqe: &Sqe, data: Vec<u8>) {
        let free = self.reads.iter().position(Option::is_none);
        let token = free.expect("a free token");
        let len = data.len() as u32;
        self.reads[token] = Some(data);
        let cqe = Cqe::new(sqe.cid(), Status::SUCCESS);
        let token = DataToken(token as u32);
        self.core.submit_data(&cqe, len, token, true);
    }
}

fn identify(sqe: &Sqe, blocks: u64) -> Vec<u8> {
    let mut page = vec![0; 4096];
    match IdentifyCommand::parse(sqe).cns {
        cns::CONTROLLER => {
            // MDTS 6: 256 KiB; IOCCSZ: 64 + 8192 bytes in units of 16.
            page[77] = 6;
            page[1792..1796].copy_from_slice(&516_u32.to_le_bytes());
        }
        cns::ACTIVE_NAMESPACES => page = namespace_list([1].into_iter()).to_vec(),
        cns::NAMESPACE => {
            page[..8].copy_from_slice(&blocks.to_le_bytes());
            page[128 + 2] = 9;
        }
        _ => {}
    }
    page
}
