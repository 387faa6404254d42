//! Transports and protocols through their tables: what is said on one side is heard on the other.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use conformance::host::TestHost;
use plugin_host::PluginHost;
use sdk::block::{Capabilities, Extent, Geometry, IoError, IoResult, Op, OpenError, Support};
use sdk::buf::{Buf, Chunk, Payload, Segment, Segments};
use sdk::export::{
    Export, ExportDriver, ExportEvent, ExportSeed, ExportServer, ExportSettings, Volume, VolumeId,
};
use sdk::fabric::{Attached, ConnId, Fabric, FabricDriver, FabricEvent, FabricSettings, Parcel};
use sdk::host::{Host, HostError, ListenerId, OwnerId, StreamId};
use sdk::plugin::Plugin;
use sdk::services::Services;
use units::{BlockRange, BlockSize, Blocks};

const PLUGIN: Plugin = Plugin {
    serves: "echo",
    fabrics: Some(fabrics),
    exports: Some(exports),
    ..Plugin::new("echo", "1", "tests")
};

fn fabrics() -> Vec<Box<dyn FabricDriver>> {
    vec![Box::new(EchoFabrics)]
}

fn exports() -> Vec<Box<dyn ExportDriver>> {
    vec![Box::new(EchoExports)]
}

fn host() -> (PluginHost, Arc<dyn Services>) {
    let host = PluginHost::new(None, None);
    host.add(&PLUGIN).unwrap();
    let services = host.services("test");
    (host, services)
}

// --- a transport that says what it heard ---

struct EchoFabrics;

#[derive(Default)]
struct EchoFabric {
    events: VecDeque<FabricEvent>,
    timeout: Option<Instant>,
    connections: usize,
    sent: Option<(ConnId, usize)>,
}

impl FabricDriver for EchoFabrics {
    fn name(&self) -> &str {
        "echo"
    }

    fn open(
        &self,
        settings: &FabricSettings,
        _: &Arc<dyn Services>,
    ) -> Result<Box<dyn Fabric>, OpenError> {
        if settings.queue_depth == 0 {
            return Err(OpenError::Unsuitable {
                what: "echo".to_owned(),
                reason: format!("{settings:?}"),
            });
        }
        Ok(Box::new(EchoFabric::default()))
    }
}

impl Fabric for EchoFabric {
    fn handle_accepted(
        &mut self,
        host: &mut dyn Host,
        stream: StreamId,
        local: SocketAddr,
        peer: SocketAddr,
    ) -> Option<ConnId> {
        self.connections += 1;
        self.timeout = Some(host.now() + Duration::from_secs(3));
        let conn = ConnId(stream.0);
        self.events
            .push_back(FabricEvent::Connected { conn, local, peer });
        (stream != StreamId(99)).then_some(conn)
    }

    fn handle_readable(&mut self, host: &mut dyn Host, stream: StreamId) {
        let data = host.alloc(512).map(|mut buf| {
            buf.fill(7);
            buf
        });
        let mut sqe = nvme_spec::Sqe::zeroed();
        sqe.set_cid(0x1234);
        self.events.push_back(FabricEvent::Capsule {
            conn: ConnId(stream.0),
            sqe,
            data,
            data_ok: false,
        });
    }

    fn handle_writable(&mut self, _: &mut dyn Host, _: StreamId) {
        panic!("told to");
    }

    fn poll_timeout(&self) -> Option<Instant> {
        self.timeout
    }

    fn handle_timeout(&mut self, _: &mut dyn Host) {
        self.timeout = None;
    }

    fn poll_event(&mut self) -> Option<FabricEvent> {
        self.events.pop_front()
    }

    fn fetch(&mut self, conn: ConnId, cid: u16, token: u64, mut buf: Buf) {
        buf[0] = cid as u8;
        self.events.push_back(FabricEvent::Fetched {
            conn,
            token,
            buf,
            data_ok: true,
        });
    }

    fn respond(
        &mut self,
        conn: ConnId,
        cqe: &nvme_spec::Cqe,
        data: Option<Payload>,
        implicit: bool,
    ) {
        let bytes: u32 = data
            .iter()
            .flat_map(Payload::pieces)
            .flatten()
            .map(|byte| u32::from(*byte))
            .sum();
        let mut sqe = nvme_spec::Sqe::zeroed();
        sqe.set_cid(cqe.cid);
        sqe.set_dword(10, bytes);
        self.events.push_back(FabricEvent::Capsule {
            conn,
            sqe,
            data: None,
            data_ok: implicit,
        });
    }

    fn forget(&mut self, conn: ConnId, cid: u16) {
        let mut sqe = nvme_spec::Sqe::zeroed();
        sqe.set_cid(cid);
        self.events.push_back(FabricEvent::Capsule {
            conn,
            sqe,
            data: None,
            data_ok: false,
        });
    }

    fn flush(&mut self, _: &mut dyn Host) {
        self.sent = Some((ConnId(6), 4096));
    }

    fn poll_sent(&mut self) -> Option<(ConnId, usize)> {
        self.sent.take()
    }

    fn close(&mut self, _: &mut dyn Host, conn: ConnId, reason: &'static str) {
        self.connections -= 1;
        self.events.push_back(FabricEvent::Closed { conn, reason });
    }

    fn detach(&mut self, _: &mut dyn Host, conn: ConnId) -> Option<Parcel> {
        (conn.0 < 100).then(|| Box::new(conn.0) as Parcel)
    }

    fn attach(&mut self, _: &mut dyn Host, parcel: Parcel) -> Option<Attached> {
        let number = *parcel.downcast::<u64>().ok()?;
        Some(Attached {
            conn: ConnId(number + 1),
            local: "127.0.0.1:8420".parse().ok()?,
            peer: "[::1]:9".parse().ok()?,
        })
    }

    fn connections(&self) -> usize {
        self.connections
    }
}

fn settings() -> FabricSettings {
    FabricSettings {
        connections_max: 11,
        in_capsule_bytes: 8192,
        transfer_bytes_max: 1 << 20,
        queue_depth: 33,
        header_digest: true,
        data_digest: false,
        handshake_timeout: Duration::from_millis(1500),
        progress_timeout: Duration::from_millis(2500),
    }
}

#[test]
fn a_transport_hears_and_says_everything() {
    let (plugins, services) = host();
    let driver = plugins.fabric("echo").expect("it was brought");
    assert_eq!(driver.name(), "echo");
    let none = FabricSettings {
        queue_depth: 0,
        ..settings()
    };
    let refusal = driver
        .open(&none, &services)
        .err()
        .expect("a refusal")
        .to_string();
    assert_eq!(refusal, format!("echo: {none:?}"));

    let mut fabric = driver.open(&settings(), &services).unwrap();
    let mut host = TestHost::new();
    let (local, peer) = (
        "10.0.0.1:8420".parse().unwrap(),
        "[fe80::1]:77".parse().unwrap(),
    );
    let named = fabric.handle_accepted(&mut host, StreamId(5), local, peer);
    assert_eq!(named, Some(ConnId(5)));
    match fabric.poll_event() {
        Some(FabricEvent::Connected {
            conn,
            local: l,
            peer: p,
        }) => assert_eq!((conn, l, p), (ConnId(5), local, peer)),
        other => panic!("{other:?}"),
    }
    assert!(fabric.poll_event().is_none());
    assert_eq!(
        fabric.poll_timeout(),
        Some(host.now() + Duration::from_secs(3))
    );
    host.advance(Duration::from_secs(3));
    fabric.handle_timeout(&mut host);
    assert_eq!(fabric.poll_timeout(), None);
    assert_eq!(fabric.connections(), 1);
    assert_eq!(fabric.poll_sent(), None);
    fabric.flush(&mut host);
    assert_eq!(fabric.poll_sent(), Some((ConnId(6), 4096)));
    assert_eq!(fabric.poll_sent(), None);

    fabric.handle_readable(&mut host, StreamId(5));
    match fabric.poll_event() {
        Some(FabricEvent::Capsule {
            sqe,
            data: Some(data),
            data_ok: false,
            ..
        }) => {
            assert_eq!(sqe.cid(), 0x1234);
            assert_eq!(*data, [7; 512]);
        }
        other => panic!("{other:?}"),
    }
    fabric.fetch(ConnId(5), 9, 99, Buf::from_heap(4096));
    match fabric.poll_event() {
        Some(FabricEvent::Fetched {
            token: 99,
            buf,
            data_ok: true,
            ..
        }) => assert_eq!((buf.len(), buf[0]), (4096, 9)),
        other => panic!("{other:?}"),
    }
}

#[test]
fn answers_cross_with_buffers_and_lent_segments_which_come_back() {
    let (plugins, services) = host();
    let mut fabric = plugins
        .fabric("echo")
        .unwrap()
        .open(&settings(), &services)
        .unwrap();
    let chunk = Arc::new(Chunk::from(vec![3u8; 300].into_boxed_slice()));
    let mut segments = Segments::new();
    for at in [0, 100, 200] {
        segments.push(Segment::new(chunk.clone(), at, 100).unwrap());
    }
    let mut buf = Buf::from_heap(10);
    buf.fill(1);
    let data = [
        (Some(Payload::Lent(segments)), 900),
        (Some(Payload::Buf(buf)), 10),
        (None, 0),
    ];
    for (payload, sum) in data {
        let cqe = nvme_spec::Cqe::new(42, nvme_spec::Status::default());
        fabric.respond(ConnId(1), &cqe, payload, sum == 10);
        match fabric.poll_event() {
            Some(FabricEvent::Capsule { sqe, data_ok, .. }) => {
                assert_eq!((sqe.cid(), sqe.dword(10), data_ok), (42, sum, sum == 10));
            }
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(Arc::strong_count(&chunk), 1, "every segment was released");

    fabric.forget(ConnId(3), 0xfffe);
    match fabric.poll_event() {
        Some(FabricEvent::Capsule { conn, sqe, .. }) => {
            assert_eq!((conn, sqe.cid()), (ConnId(3), 0xfffe));
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn connections_move_between_parts_and_reasons_keep_their_words() {
    let (plugins, services) = host();
    let driver = plugins.fabric("echo").unwrap();
    let mut fabric = driver.open(&settings(), &services).unwrap();
    let mut other = driver.open(&settings(), &services).unwrap();
    let mut host = TestHost::new();
    let parcel = fabric.detach(&mut host, ConnId(7)).expect("a parcel");
    let attached = other.attach(&mut host, parcel).expect("it arrives");
    assert_eq!(attached.conn, ConnId(8));
    assert_eq!(attached.peer, "[::1]:9".parse().unwrap());
    assert!(fabric.detach(&mut host, ConnId(100)).is_none());
    drop(fabric.detach(&mut host, ConnId(9)));
    assert!(
        other.attach(&mut host, Box::new(7u64)).is_none(),
        "nobody's parcel"
    );

    let local = "10.0.0.1:8420".parse().unwrap();
    fabric.handle_accepted(&mut host, StreamId(5), local, local);
    assert!(fabric.poll_event().is_some());
    fabric.close(&mut host, ConnId(5), "keep_alive");
    assert!(matches!(
        fabric.poll_event(),
        Some(FabricEvent::Closed {
            conn: ConnId(5),
            reason: "keep_alive"
        })
    ));

    fabric.handle_writable(&mut host, StreamId(5));
    assert!(fabric.poll_event().is_none());
    assert_eq!(fabric.connections(), 0);
    assert_eq!(plugins.plugins()[0].faults, 1);
    other.handle_readable(&mut host, StreamId(1));
    assert!(other.poll_event().is_some(), "the other part goes on");
}

// --- a protocol that says what it heard ---

struct EchoExports;

struct EchoServer(Vec<String>);

struct EchoSeat;

#[derive(Default)]
struct EchoExport {
    events: VecDeque<ExportEvent>,
    volumes: Vec<Volume>,
    extents: Vec<Extent>,
}

impl ExportDriver for EchoExports {
    fn protocol(&self) -> &'static str {
        "echo"
    }

    fn open(
        &self,
        settings: &ExportSettings,
        _: &Arc<dyn Services>,
    ) -> Result<Box<dyn ExportServer>, OpenError> {
        match settings.listen.first() {
            None => Err(OpenError::NotFound("an address".to_owned())),
            Some(_) => Ok(Box::new(EchoServer(settings.listen.clone()))),
        }
    }
}

impl ExportServer for EchoServer {
    fn uri(&self, name: &str) -> String {
        format!("echo:{}/{name}", self.0.join("+"))
    }

    fn open_seat(&mut self) -> Result<Box<dyn ExportSeed>, OpenError> {
        match self.0.pop() {
            Some(_) => Ok(Box::new(EchoSeat)),
            None => Err(OpenError::NotFound("a seat".to_owned())),
        }
    }
}

impl ExportSeed for EchoSeat {
    fn open(
        self: Box<Self>,
        _: &mut dyn Host,
        owner: OwnerId,
    ) -> Result<Box<dyn Export>, HostError> {
        match owner {
            OwnerId(0) => Err(HostError::TooMany),
            _ => Ok(Box::new(EchoExport::default())),
        }
    }
}

impl Export for EchoExport {
    fn add_volume(&mut self, volume: Volume) {
        self.volumes.push(volume);
    }

    fn remove_volume(&mut self, _: &mut dyn Host, id: VolumeId) {
        self.volumes.retain(|volume| volume.id != id);
    }

    fn set_geometry(&mut self, id: VolumeId, geometry: Geometry) {
        for volume in self.volumes.iter_mut().filter(|volume| volume.id == id) {
            volume.geometry = geometry;
        }
    }

    /// Lists what it serves.
    fn handle_accepted(
        &mut self,
        _: &mut dyn Host,
        listener: ListenerId,
        stream: StreamId,
        peer: Option<SocketAddr>,
    ) {
        for volume in &self.volumes {
            let conn = ConnId(stream.0 + u64::from(listener.0));
            self.events.push_back(match volume.is_here {
                true => ExportEvent::Opened {
                    conn,
                    peer,
                    volume: VolumeId(volume.geometry.blocks.0),
                },
                false => ExportEvent::Move {
                    conn,
                    volume: volume.id,
                },
            });
        }
    }

    /// Asks for one of each.
    fn handle_readable(&mut self, host: &mut dyn Host, stream: StreamId) {
        let (volume, range) = (VolumeId(stream.0), BlockRange::new(8, 16));
        let mut buf = host.alloc(8192).expect("a buffer");
        buf.fill(9);
        let write = Op::Write {
            range,
            buf,
            fua: true,
        };
        let zero = Op::WriteZeroes {
            range,
            deallocate: true,
            fua: false,
        };
        let ops = [
            Op::Read { range, buf: None },
            write,
            zero,
            Op::Discard { range },
            Op::Flush,
        ];
        for (token, op) in (1..).zip(ops) {
            self.events.push_back(ExportEvent::Io { volume, token, op });
        }
        self.events.push_back(ExportEvent::Extents {
            volume,
            token: 6,
            range,
        });
    }

    fn handle_writable(&mut self, _: &mut dyn Host, _: StreamId) {}

    fn handle_io_done(&mut self, _: &mut dyn Host, token: u64, result: IoResult) {
        let reason = match result {
            Ok(Some(payload)) if payload.pieces().flatten().all(|byte| *byte == 5) => "data",
            Ok(Some(_)) => "other data",
            Ok(None) => "done",
            Err(IoError::NoSpace) => "no space",
            Err(IoError::Medium(range)) if range == BlockRange::new(3, 4) => "medium",
            Err(_) => "error",
        };
        let conn = ConnId(token);
        self.events.push_back(ExportEvent::Closed { conn, reason });
    }

    fn handle_extents(&mut self, _: &mut dyn Host, _: u64, extents: &[Extent]) {
        self.extents = extents.to_vec();
    }

    fn poll_timeout(&self) -> Option<Instant> {
        None
    }

    fn handle_timeout(&mut self, _: &mut dyn Host) {}

    fn poll_event(&mut self) -> Option<ExportEvent> {
        self.events.pop_front()
    }

    fn flush(&mut self, _: &mut dyn Host) {}

    fn detach(&mut self, _: &mut dyn Host, conn: ConnId) -> Option<Parcel> {
        Some(Box::new(conn.0))
    }

    fn attach(&mut self, _: &mut dyn Host, parcel: Parcel) -> bool {
        parcel.downcast::<u64>().is_ok_and(|number| *number == 4)
    }

    fn connections(&self) -> usize {
        self.extents.len()
    }

    fn close(&mut self, _: &mut dyn Host) {}
}

fn volume(id: u64, is_here: bool) -> Volume {
    Volume {
        id: VolumeId(id),
        name: format!("volume {id}"),
        description: "of a test".to_owned(),
        geometry: Geometry {
            block_size: BlockSize::B512,
            blocks: Blocks(100 + id),
        },
        capabilities: Capabilities {
            write_zeroes: Support::Native,
            discard: Support::Emulated,
            volatile_cache: true,
            lends_reads: true,
            atomic_blocks: 8,
            direct: Some(true),
        },
        read_only: true,
        is_here,
    }
}

fn export(plugins: &PluginHost, services: &Arc<dyn Services>) -> Box<dyn Export> {
    let settings = ExportSettings {
        listen: vec!["tcp://[::]:1".to_owned(), "unix:///x".to_owned()],
        ..ExportSettings::default()
    };
    let driver = plugins.export("echo").expect("it was brought");
    assert!(driver.open(&ExportSettings::default(), services).is_err());
    let mut server = driver.open(&settings, services).unwrap();
    assert_eq!(server.uri("a/b"), "echo:tcp://[::]:1+unix:///x/a/b");
    let mut host = TestHost::new();
    let refused = server
        .open_seat()
        .unwrap()
        .open(&mut host, OwnerId(0))
        .err();
    assert_eq!(refused, Some(HostError::TooMany));
    let part = server
        .open_seat()
        .unwrap()
        .open(&mut host, OwnerId(1))
        .unwrap();
    assert!(server.open_seat().is_err());
    part
}

#[test]
fn a_protocol_hears_of_volumes_and_asks_for_io() {
    let (plugins, services) = host();
    let mut part = export(&plugins, &services);
    let mut host = TestHost::new();
    part.add_volume(volume(1, true));
    part.add_volume(volume(2, false));
    part.add_volume(volume(3, true));
    part.remove_volume(&mut host, VolumeId(3));
    part.set_geometry(
        VolumeId(1),
        Geometry {
            block_size: BlockSize::B512,
            blocks: Blocks(555),
        },
    );
    let peer: Option<SocketAddr> = Some("1.2.3.4:5".parse().unwrap());
    part.handle_accepted(&mut host, ListenerId(10), StreamId(20), peer);
    let opened = part.poll_event();
    assert!(
        matches!(opened, Some(ExportEvent::Opened { conn: ConnId(30), peer: p, volume: VolumeId(555) }) if p == peer),
        "{opened:?}"
    );
    let moved = part.poll_event();
    assert!(
        matches!(
            moved,
            Some(ExportEvent::Move {
                conn: ConnId(30),
                volume: VolumeId(2)
            })
        ),
        "{moved:?}"
    );
    assert!(part.poll_event().is_none());

    part.handle_readable(&mut host, StreamId(1));
    let asked: Vec<String> = std::iter::from_fn(|| part.poll_event())
        .map(|event| format!("{event:?}"))
        .collect();
    let range = "BlockRange { start: Lba(8), count: Blocks(16) }";
    assert_eq!(
        asked,
        [
            format!(
                "Io {{ volume: VolumeId(1), token: 1, op: Read {{ range: {range}, buf: None }} }}"
            ),
            format!(
                "Io {{ volume: VolumeId(1), token: 2, op: Write {{ range: {range}, buf: Buf(8192/8192), fua: true }} }}"
            ),
            format!(
                "Io {{ volume: VolumeId(1), token: 3, op: WriteZeroes {{ range: {range}, deallocate: true, fua: false }} }}"
            ),
            format!("Io {{ volume: VolumeId(1), token: 4, op: Discard {{ range: {range} }} }}"),
            "Io { volume: VolumeId(1), token: 5, op: Flush }".to_owned(),
            format!("Extents {{ volume: VolumeId(1), token: 6, range: {range} }}"),
        ]
    );
}

#[test]
fn a_protocol_hears_how_io_ended() {
    let (plugins, services) = host();
    let mut part = export(&plugins, &services);
    let mut host = TestHost::new();
    let chunk = Arc::new(Chunk::from(vec![5u8; 64].into_boxed_slice()));
    let lent: Segments = [Segment::new(chunk.clone(), 0, 64).unwrap()]
        .into_iter()
        .collect();
    let results: [(IoResult, &str); 5] = [
        (Ok(Some(Payload::Lent(lent))), "data"),
        (Ok(Some(Payload::Buf(Buf::from_heap(16)))), "other data"),
        (Ok(None), "done"),
        (Err(IoError::NoSpace), "no space"),
        (Err(IoError::Medium(BlockRange::new(3, 4))), "medium"),
    ];
    for (token, (result, word)) in (0..).zip(results) {
        part.handle_io_done(&mut host, token, result);
        match part.poll_event() {
            Some(ExportEvent::Closed { conn, reason }) => {
                assert_eq!((conn, reason), (ConnId(token), word));
            }
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(Arc::strong_count(&chunk), 1);
    let extent = Extent {
        blocks: Blocks(8),
        allocated: true,
        zero: false,
    };
    part.handle_extents(&mut host, 6, &[extent, extent]);
    assert_eq!(part.connections(), 2);
    let parcel = part.detach(&mut host, ConnId(4)).expect("a parcel");
    assert!(part.attach(&mut host, parcel));
    let parcel = part.detach(&mut host, ConnId(5)).expect("a parcel");
    assert!(!part.attach(&mut host, parcel));
    part.close(&mut host);
}
