//! A small engine round the export: one thread, any number of seats, RAM disks, real sockets.

#![allow(dead_code, reason = "each test file and the example use a part")]
#![allow(
    clippy::allow_attributes,
    reason = "what is unused differs from file to file"
)]

pub(crate) mod disk;
pub(crate) mod host;
pub(crate) mod raw;

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc;
use std::thread::JoinHandle;
use std::time::Duration;

use conformance::services::TestServices;
use sdk::export::{Export, ExportEvent, ExportServer, ExportSettings, Volume, VolumeId};
use sdk::fabric::ConnId;
use sdk::host::OwnerId;
use sdk::services::Services;

use disk::{Disk, DiskSpec};
use host::{Ready, SocketHost};

/// Turns wait so long for something to do; orders of a test wait as long at most.
const TURN: Duration = Duration::from_millis(1);

/// A seat and its reactor.
pub(crate) struct Seat {
    pub(crate) host: SocketHost,
    pub(crate) export: Box<dyn Export>,
}

/// Everything on the engine's thread.
pub(crate) struct Engine {
    pub(crate) seats: Vec<Seat>,
    pub(crate) disks: Vec<(usize, Disk)>,
    /// Connections served so far.
    pub(crate) opened: Vec<(ConnId, VolumeId)>,
    /// Why connections ended.
    pub(crate) closed: Vec<&'static str>,
    pub(crate) moves: usize,
}

impl Engine {
    fn turn(&mut self) {
        let wait = if self.seats.len() == 1 {
            TURN
        } else {
            TURN / 10
        };
        for at in 0..self.seats.len() {
            let seat = &mut self.seats[at];
            for ready in seat.host.turn(wait) {
                let (host, export) = (&mut seat.host, &mut seat.export);
                match ready {
                    Ready::Accepted(listener, stream, peer) => {
                        export.handle_accepted(host, listener, stream, peer);
                    }
                    Ready::Readable(stream) => export.handle_readable(host, stream),
                    Ready::Writable(stream) => export.handle_writable(host, stream),
                }
            }
            self.settle(at);
        }
    }

    /// Drains events and flushes until the seat has nothing to say.
    pub(crate) fn settle(&mut self, at: usize) {
        use sdk::host::Host;
        let seat = &mut self.seats[at];
        let now = seat.host.now();
        if seat.export.poll_timeout().is_some_and(|due| due <= now) {
            seat.export.handle_timeout(&mut seat.host);
        }
        loop {
            let mut is_quiet = true;
            while let Some(event) = self.seats[at].export.poll_event() {
                is_quiet = false;
                self.handle(at, event);
            }
            let seat = &mut self.seats[at];
            seat.export.flush(&mut seat.host);
            if is_quiet {
                return;
            }
        }
    }

    fn handle(&mut self, at: usize, event: ExportEvent) {
        let seat = &mut self.seats[at];
        match event {
            ExportEvent::Io { volume, token, op } => {
                let disk = disk(&mut self.disks, volume, at);
                if let Some(result) = disk.submit(&mut seat.host, token, op) {
                    seat.export.handle_io_done(&mut seat.host, token, result);
                }
            }
            ExportEvent::Extents {
                volume,
                token,
                range,
            } => {
                let extents = disk(&mut self.disks, volume, at).extents(range);
                seat.export.handle_extents(&mut seat.host, token, &extents);
            }
            ExportEvent::Move { conn, volume } => {
                let Some(parcel) = seat.export.detach(&mut seat.host, conn) else {
                    return;
                };
                self.moves += 1;
                let home = self.disks.iter().find(|(_, disk)| disk.volume.id == volume);
                let home = home.map_or(at, |(home, _)| *home);
                let seat = &mut self.seats[home];
                assert!(seat.export.attach(&mut seat.host, parcel));
                self.settle(home);
            }
            ExportEvent::Opened { conn, volume, .. } => self.opened.push((conn, volume)),
            ExportEvent::Closed { reason, .. } => self.closed.push(reason),
        }
    }

    /// Does what disks keep.
    pub(crate) fn release(&mut self) {
        for (home, disk) in &mut self.disks {
            let seat = &mut self.seats[*home];
            for (token, result) in disk.release(&mut seat.host) {
                seat.export.handle_io_done(&mut seat.host, token, result);
            }
        }
    }

    pub(crate) fn disk(&mut self) -> &mut Disk {
        &mut self.disks[0].1
    }

    /// Bytes by which the clocks of all seats are put forward.
    pub(crate) fn advance(&mut self, by: Duration) {
        for seat in &mut self.seats {
            seat.host.skew += by;
        }
    }

    /// Changes the size of the first disk.
    pub(crate) fn resize(&mut self, mib: u64) {
        let (_, disk) = &mut self.disks[0];
        let geometry = disk.resize(mib);
        for seat in &mut self.seats {
            seat.export.set_geometry(disk.volume.id, geometry);
        }
    }

    /// Stops serving the first disk.
    pub(crate) fn remove(&mut self) {
        let id = self.disks[0].1.volume.id;
        for seat in &mut self.seats {
            seat.export.remove_volume(&mut seat.host, id);
        }
    }
}

fn disk(disks: &mut [(usize, Disk)], volume: VolumeId, at: usize) -> &mut Disk {
    let found = disks.iter_mut().find(|(_, disk)| disk.volume.id == volume);
    let (home, disk) = found.expect("a known volume");
    assert_eq!(*home, at, "I/O on a seat where the volume is not");
    disk
}

type Order = Box<dyn FnOnce(&mut Engine) + Send>;

/// A running engine.
pub(crate) struct Server {
    orders: Option<mpsc::Sender<Order>>,
    thread: Option<JoinHandle<()>>,
    server: Option<Box<dyn ExportServer>>,
    pub(crate) socket: PathBuf,
    pub(crate) services: Arc<TestServices>,
}

static SOCKETS: AtomicU64 = AtomicU64::new(0);

/// A path no other test uses.
pub(crate) fn socket_path() -> PathBuf {
    let number = SOCKETS.fetch_add(1, Ordering::Relaxed);
    std::env::temp_dir().join(format!("nbd-{}-{number}.sock", std::process::id()))
}

/// Settings that listen at `path` and at a TCP port the system picks.
pub(crate) fn settings(path: &std::path::Path) -> ExportSettings {
    ExportSettings {
        listen: vec![
            format!("unix://{}", path.display()),
            "tcp://127.0.0.1:0".to_owned(),
        ],
        ..ExportSettings::default()
    }
}

impl Server {
    /// One seat, one disk.
    pub(crate) fn start(spec: DiskSpec) -> Self {
        let path = socket_path();
        let settings = settings(&path);
        Self::with(&settings, path, 1, vec![spec])
    }

    pub(crate) fn with(
        settings: &ExportSettings,
        socket: PathBuf,
        seats: usize,
        specs: Vec<DiskSpec>,
    ) -> Self {
        let services = TestServices::new(Vec::new());
        let driver = transport_nbd::exports().remove(0);
        assert_eq!(driver.protocol(), "nbd");
        let lent: Arc<dyn Services> = services.clone();
        let mut server = driver.open(settings, &lent).expect("a server");
        let seeds: Vec<_> = (0..seats)
            .map(|_| server.open_seat().expect("a seat"))
            .collect();
        let (orders, taken) = mpsc::channel::<Order>();
        let thread = std::thread::spawn(move || {
            let mut engine = Engine {
                seats: Vec::new(),
                disks: Vec::new(),
                opened: Vec::new(),
                closed: Vec::new(),
                moves: 0,
            };
            for seed in seeds {
                let mut host = SocketHost::new();
                let export = seed.open(&mut host, OwnerId(1)).expect("a seat");
                engine.seats.push(Seat { host, export });
            }
            for spec in specs {
                let disk = Disk::new(&spec);
                for (at, seat) in engine.seats.iter_mut().enumerate() {
                    seat.export.add_volume(Volume {
                        is_here: at == spec.home,
                        ..disk.volume.clone()
                    });
                }
                engine.disks.push((spec.home, disk));
            }
            run(&mut engine, &taken);
        });
        Self {
            orders: Some(orders),
            thread: Some(thread),
            server: Some(server),
            socket,
            services,
        }
    }

    /// Runs `order` on the engine's thread and gives its answer.
    pub(crate) fn tell<T: Send + 'static>(
        &self,
        order: impl FnOnce(&mut Engine) -> T + Send + 'static,
    ) -> T {
        let (answer, answered) = mpsc::channel();
        let order: Order = Box::new(move |engine| {
            let _ = answer.send(order(engine));
        });
        let orders = self.orders.as_ref().expect("a running engine");
        orders.send(order).expect("a running engine");
        answered.recv().expect("a running engine")
    }

    /// Waits until `holds` does.
    pub(crate) fn wait(
        &self,
        what: &str,
        holds: impl Fn(&mut Engine) -> bool + Send + Clone + 'static,
    ) {
        for _ in 0..5000 {
            if self.tell(holds.clone()) {
                return;
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        panic!("waited in vain for: {what}");
    }

    /// The URI of a volume at the Unix socket.
    pub(crate) fn uri(&self, name: &str) -> String {
        self.server.as_ref().expect("running").uri(name)
    }

    /// Port of the TCP listener.
    pub(crate) fn tcp_address(&self) -> String {
        let lines = self.services.lines();
        let line = lines.iter().find(|(_, line)| line.contains("tcp://"));
        let (_, line) = line.expect("a TCP listener");
        line.split("tcp://").nth(1).expect("an address").to_owned()
    }

    /// Stops the engine; the server itself is dropped.
    pub(crate) fn stop(&mut self) {
        drop(self.orders.take());
        if let Some(thread) = self.thread.take() {
            let result = thread.join();
            if !std::thread::panicking() {
                result.expect("the engine's thread");
            }
        }
        drop(self.server.take());
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop();
    }
}

fn run(engine: &mut Engine, orders: &mpsc::Receiver<Order>) {
    loop {
        match orders.try_recv() {
            Ok(order) => {
                order(engine);
                for at in 0..engine.seats.len() {
                    engine.settle(at);
                }
            }
            Err(mpsc::TryRecvError::Empty) => engine.turn(),
            Err(mpsc::TryRecvError::Disconnected) => break,
        }
    }
    for seat in &mut engine.seats {
        seat.export.close(&mut seat.host);
        assert_eq!(seat.host.open_streams(), 0, "streams left open");
        assert_eq!(seat.export.connections(), 0);
    }
}
