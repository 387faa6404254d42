//! Devices that are lost while hosts use them, and come back; and what is still in a device when its hosts are gone.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use block::stats::{CountedOp, OpStats};
use engine::control::dataplane::{
    DataPlane, DeviceHandle, Problem, ProblemKind, SubsystemSpec, Writers,
};
use engine::plane::ReservationStore;
use io_engine_perf::client::IoData;
use io_engine_perf::{Client, ClientError, HostIdentity, SessionOptions, Target};
use nvme_spec::Sgl;
use nvme_spec::io::BlockCommand;
use nvme_spec::opcode::nvm;
use nvme_spec::reservation::{Keys, ReservationCommand};
use units::BlockSize;

use crate::bench_disk::{Bench, Disk};
use crate::support::{Records, Rig, config, namespace, pattern};

const HOST_A: &str = "nqn.2014-08.org.nvmexpress:uuid:aaaaaaaa-0000-0000-0000-000000000001";
const HOST_B: &str = "nqn.2014-08.org.nvmexpress:uuid:bbbbbbbb-0000-0000-0000-000000000002";
const URI: &str = "bench:///d";

#[test]
fn a_lost_device_fails_at_once_is_shown_and_comes_back_under_its_hosts() {
    let (mut rig, disk) = bench();
    let nqn = rig.serve("d", &[URI]);
    let device = rig.handle(URI);
    let mut client = rig.connect(&nqn);
    client.write(1, 0, &pattern(1, 4096)).unwrap();
    assert_eq!(rig.plane.device_fault(device), None);

    disk.set().gone = true;
    is_not_ready(client.flush(1).unwrap_err());
    let fault = rig.plane.device_fault(device).unwrap();
    assert!(
        fault.contains("may be lost") && fault.contains("bdev rescan"),
        "{fault}"
    );
    disk.set().gone = false;
    // What the device says afterwards is not believed.
    is_not_ready(client.read(1, 0, 8).unwrap_err());

    disk.set().absent = true;
    let refused = reopen(&rig, device).unwrap_err();
    assert_eq!(refused.kind(), ProblemKind::NotFound);
    assert!(refused.to_string().contains("d: not found"), "{refused}");
    let fault = rig.plane.device_fault(device).unwrap();
    assert!(
        fault.contains("d: not found") && fault.contains("bdev rescan"),
        "{fault}"
    );
    is_not_ready(client.read(1, 0, 8).unwrap_err());
    // Another device opened meanwhile is not served in its place.
    rig.open("bench:///other");
    is_not_ready(client.write(1, 0, &pattern(9, 512)).unwrap_err());

    disk.set().absent = false;
    disk.set().block_size = BlockSize::B4096;
    let refused = reopen(&rig, device).unwrap_err();
    assert!(refused.to_string().contains("4096"), "{refused}");
    is_not_ready(client.read(1, 0, 8).unwrap_err());

    disk.set().block_size = BlockSize::B512;
    disk.set().blocks = 4096;
    let info = reopen(&rig, device).unwrap();
    assert_eq!((info.handle, info.blocks), (device, 4096));
    assert_eq!(rig.plane.device_fault(device), None);
    // The same connection, the same namespace; the host is told of the size.
    assert!(client.read(1, 0, 8).unwrap() == pattern(1, 4096));
    let event = client.async_event(Duration::from_secs(5)).unwrap();
    assert!(event.is_some(), "Base 2.0c §5.2: attributes changed");
    client.write(1, 4000, &pattern(2, 512)).unwrap();
    client.flush(1).unwrap();
}

#[test]
fn a_host_whose_acknowledged_writes_may_be_lost_hears_of_it_by_one_failed_flush() {
    let (mut rig, disk) = bench();
    let nqn = rig.serve("d", &[URI]);
    let device = rig.handle(URI);
    let mut a = rig.connect_as(&nqn, HOST_A, |_| {}).unwrap();
    let mut b = rig.connect_as(&nqn, HOST_B, |_| {}).unwrap();
    let lose = |probe: &mut Client, flush: bool| {
        disk.set().gone = true;
        let seen = if flush {
            probe.flush(1)
        } else {
            probe.read(1, 0, 1).map(|_| ())
        };
        is_not_ready(seen.unwrap_err());
        disk.set().gone = false;
        reopen(&rig, device).unwrap();
    };
    // All that was written is durable: nobody needs to hear anything.
    a.write(1, 0, &pattern(1, 512)).unwrap();
    a.flush(1).unwrap();
    lose(&mut a, false);
    a.flush(1).unwrap();
    b.flush(1).unwrap();

    b.write(1, 8, &pattern(2, 512)).unwrap();
    lose(&mut a, false);
    for host in [&mut a, &mut b] {
        let told = host.flush(1).unwrap_err().status().unwrap();
        assert_eq!((told.sct(), told.sc()), (2, 0x80), "Write Fault");
        host.flush(1).unwrap();
    }
    // Who saw a flush fail when it happened knows.
    b.write(1, 8, &pattern(3, 512)).unwrap();
    lose(&mut a, true);
    b.flush(1).unwrap_err();
    a.flush(1).unwrap();
    b.flush(1).unwrap();
}

#[test]
fn what_hosts_are_to_be_told_is_handed_over_and_taken_back() {
    let (mut rig, disk) = bench();
    let nqn = rig.serve("d", &[URI]);
    let device = rig.handle(URI);
    let mut a = rig.connect_as(&nqn, HOST_A, |_| {}).unwrap();
    let mut b = rig.connect_as(&nqn, HOST_B, |_| {}).unwrap();
    a.write(1, 0, &pattern(1, 512)).unwrap();
    assert!(rig.runtime.block_on(rig.plane.losses()).is_empty());
    disk.set().gone = true;
    is_not_ready(b.flush(1).unwrap_err());
    // Whoever stores it is woken, not asked to look every now and then.
    let woken = async { tokio::time::timeout(Duration::from_secs(20), rig.plane.changed()).await };
    rig.runtime.block_on(woken).unwrap();
    let told = rig.runtime.block_on(rig.plane.losses());
    assert_eq!(told, [(device, vec![HOST_B.to_owned()])]);
    disk.set().gone = false;
    reopen(&rig, device).unwrap();
    assert_eq!(rig.runtime.block_on(rig.plane.losses()), told);
    a.flush(1).unwrap_err();
    let both = rig.runtime.block_on(rig.plane.losses())[0].1.clone();
    assert_eq!(both, [HOST_B, HOST_A]);

    // As after a restart: another process knows it from the store.
    let set = |told: Option<&[&str]>| {
        let told = told.map(|told| told.iter().map(|host| (*host).to_owned()).collect());
        rig.runtime
            .block_on(rig.plane.set_loss(device, told))
            .unwrap();
    };
    set(Some(&[HOST_A]));
    a.flush(1).unwrap();
    let status = b.flush(1).unwrap_err().status().unwrap();
    assert_eq!((status.sct(), status.sc()), (2, 0x80), "Write Fault");
    b.flush(1).unwrap();
    set(Some(&[]));
    set(None);
    a.flush(1).unwrap();
    b.flush(1).unwrap();
    assert!(rig.runtime.block_on(rig.plane.losses()).is_empty());
}

#[test]
fn a_loss_moves_with_its_device_to_another_reactor() {
    let mut two = config();
    two.cpus = vec![None, None];
    let mut rig = Rig::with(two, Arc::default());
    let paths = [rig.file("a", 8 << 20), rig.file("b", 8 << 20)];
    let uris = paths.map(|path| format!("aio://{}", path.display()));
    // The first goes to one reactor and the second to the other; a subsystem brings them together.
    let devices = [rig.open(&uris[0]), rig.open(&uris[1])];
    for device in devices {
        let told = Some(vec![HOST_A.to_owned()]);
        rig.runtime
            .block_on(rig.plane.set_loss(device, told))
            .unwrap();
    }
    let namespaces = [(1, devices[0]), (2, devices[1])];
    let nqn = "nqn.2019-05.io.openebs:d".to_owned();
    let spec = SubsystemSpec {
        nqn: nqn.clone(),
        serial: "DCS0123456789abcdef".into(),
        allowed_hosts: None,
        namespaces: namespaces
            .map(|(nsid, device)| namespace(nsid, device))
            .into(),
    };
    rig.runtime.block_on(rig.plane.add_subsystem(spec)).unwrap();
    let mut b = rig.connect_as(&nqn, HOST_B, |_| {}).unwrap();
    for nsid in [1, 2] {
        b.flush(nsid).unwrap_err();
        b.flush(nsid).unwrap();
    }
}

#[test]
fn a_file_is_opened_again_in_place() {
    let mut rig = Rig::new();
    let path = rig.file("f", 8 << 20);
    let uri = format!("aio://{}", path.display());
    let nqn = rig.serve("f", &[&uri]);
    let device = rig.handle(&uri);
    let mut client = rig.connect(&nqn);
    client.write(1, 0, &pattern(1, 4096)).unwrap();
    client.flush(1).unwrap();
    for _ in 0..20 {
        let again = rig.plane.reopen_device(device, &uri);
        rig.runtime.block_on(again).unwrap();
        assert!(client.read(1, 0, 8).unwrap() == pattern(1, 4096));
    }
    // The file was away, and a directory is in its place.
    let aside = path.with_extension("aside");
    std::fs::rename(&path, &aside).unwrap();
    std::fs::create_dir(&path).unwrap();
    let again = rig.plane.reopen_device(device, &uri);
    let refused = rig.runtime.block_on(again).unwrap_err().to_string();
    assert!(
        refused.contains(path.to_str().unwrap()) && refused.contains("is a directory; name"),
        "{refused}"
    );
    is_not_ready(client.read(1, 0, 8).unwrap_err());
    std::fs::remove_dir(&path).unwrap();
    std::fs::rename(&aside, &path).unwrap();
    let again = rig.plane.reopen_device(device, &uri);
    rig.runtime.block_on(again).unwrap();
    assert!(client.read(1, 0, 8).unwrap() == pattern(1, 4096));
    client.write(1, 8, &pattern(2, 4096)).unwrap();
    client.flush(1).unwrap();
}

#[test]
fn a_device_that_still_has_an_old_write_is_not_opened_again() {
    let (mut rig, disk) = bench_with(Duration::from_millis(300), 0);
    let nqn = rig.serve("d", &[URI]);
    let device = rig.handle(URI);
    disk.set().hold_writes = true;
    let mut client = rig.connect(&nqn);
    // One overdue write is one too many here.
    client.write(1, 0, &pattern(1, 512)).unwrap_err();
    let fault = rig.plane.device_fault(device).unwrap();
    assert!(fault.contains("did not end by its deadline"), "{fault}");
    let refused = reopen(&rig, device).unwrap_err();
    assert_eq!(refused.kind(), ProblemKind::Busy);
    assert!(
        refused.to_string().contains("1 operations from before"),
        "{refused}"
    );
    disk.set().hold_writes = false;
    reopen(&rig, device).unwrap();
    client.write(1, 0, &pattern(2, 512)).unwrap();
    assert!(client.read(1, 0, 1).unwrap() == pattern(2, 512));
}

#[test]
fn after_a_subsystem_is_withdrawn_its_hosts_writes_are_waited_for() {
    let (mut rig, disk) = bench();
    let nqn = rig.serve("d", &[URI]);
    let device = rig.handle(URI);
    disk.set().hold_writes = true;
    let client = rig.connect(&nqn);
    let writer = writing(client, 0);
    rig.until("the write is in the device", |rig| inflight(rig) == 1);
    rig.runtime
        .block_on(rig.plane.remove_subsystem(&nqn))
        .unwrap();
    assert!(writer.join().unwrap().is_err(), "its host is disconnected");
    let (done, settled) = settling(&rig, device, Writers::All);
    std::thread::sleep(Duration::from_millis(200));
    assert!(!done.load(Ordering::SeqCst), "the write may still land");
    disk.set().hold_writes = false;
    settled.join().unwrap().unwrap();
    assert_eq!(inflight(&rig), 0);
}

#[test]
fn a_write_that_does_not_end_is_told_after_a_bounded_time() {
    let (mut rig, disk) = bench_with(Duration::from_millis(300), 64);
    let nqn = rig.serve("d", &[URI]);
    let device = rig.handle(URI);
    disk.set().hold_writes = true;
    let client = rig.connect(&nqn);
    let writer = writing(client, 0);
    rig.until("the write is in the device", |rig| inflight(rig) == 1);
    rig.runtime
        .block_on(rig.plane.remove_namespace(&nqn, 1))
        .unwrap();
    let settle = |writers| rig.runtime.block_on(rig.plane.settle(&[device], writers));
    let told = settle(Writers::All).unwrap_err();
    assert_eq!(told.kind(), ProblemKind::Timeout);
    assert!(
        told.to_string().contains("1 writes") && told.to_string().contains("'d'"),
        "{told}"
    );
    assert!(writer.join().unwrap().is_err(), "answered when overdue");
    // Answered, but still in the device: it counts as long as it is there.
    assert_eq!(
        settle(Writers::All).unwrap_err().kind(),
        ProblemKind::Timeout
    );
    assert_eq!(
        settle(Writers::Gone).unwrap_err().kind(),
        ProblemKind::Timeout
    );
    disk.set().hold_writes = false;
    settle(Writers::All).unwrap();
}

#[test]
fn after_a_host_is_taken_off_the_list_its_writes_are_waited_for_and_no_others() {
    let (mut rig, disk) = bench();
    let nqn = rig.serve("d", &[URI]);
    let device = rig.handle(URI);
    disk.set().hold_writes = true;
    let a = rig.connect_as(&nqn, HOST_A, |_| {}).unwrap();
    let b = rig.connect_as(&nqn, HOST_B, |_| {}).unwrap();
    let writer_a = writing(a, 0);
    rig.until("a's write is in the device", |rig| inflight(rig) == 1);
    let writer_b = writing(b, 8);
    rig.until("b's write is in the device", |rig| inflight(rig) == 2);
    let only_b = Some(vec![HOST_B.to_owned()]);
    rig.runtime
        .block_on(rig.plane.set_allowed_hosts(&nqn, only_b))
        .unwrap();
    assert!(writer_a.join().unwrap().is_err());
    let (done, settled) = settling(&rig, device, Writers::Gone);
    std::thread::sleep(Duration::from_millis(200));
    assert!(!done.load(Ordering::SeqCst), "a's write may still land");
    disk.set().let_go = 1;
    settled.join().unwrap().unwrap();
    assert_eq!(inflight(&rig), 1, "b's is not waited for");
    disk.set().hold_writes = false;
    // A message makes the reactor look at the device.
    rig.until("b's write has ended", |rig| inflight(rig) == 0);
    writer_b.join().unwrap().unwrap();
}

#[test]
fn subsystems_count_commands_to_their_answer_and_devices_operations() {
    let (mut rig, disk) = bench();
    let nqn = rig.serve("d", &[URI]);
    let device = rig.handle(URI);
    let mut client = rig.connect(&nqn);
    client.write(1, 0, &pattern(1, 4096)).unwrap();
    // NVM Command Set 1.0c §3.2.4: a read with FUA writes the cache first, which takes the device a while here.
    disk.set().hold_flushes = true;
    let reading = std::thread::spawn(move || {
        let fua = BlockCommand {
            fua: true,
            blocks: 8,
            ..BlockCommand::default()
        };
        let read = fua.emit(nvm::READ, 0, 1, Sgl::transport(4096));
        client.raw(0, read, IoData::In(4096)).unwrap()
    });
    rig.until("the cache is being written", |rig| inflight(rig) == 1);
    std::thread::sleep(Duration::from_millis(50));
    disk.set().hold_flushes = false;
    rig.until("it is written", |rig| inflight(rig) == 0);
    assert!(reading.join().unwrap().data == pattern(1, 4096));

    let of_device = |op| stats_of(&rig, device, op);
    let of_subsystem = |op| {
        let all = rig.runtime.block_on(rig.plane.subsystem_stats());
        *all.iter().find(|(name, _)| *name == nqn).unwrap().1.of(op)
    };
    let held = 50_000_000;
    let (read, flush) = (of_device(CountedOp::Read), of_device(CountedOp::Flush));
    assert_eq!((read.ops, read.bytes, flush.ops), (1, 4096, 1));
    assert!(read.latency_ns_sum < held && flush.latency_ns_sum >= held);
    let (read, flush) = (
        of_subsystem(CountedOp::Read),
        of_subsystem(CountedOp::Flush),
    );
    assert_eq!((read.ops, read.bytes, flush.ops), (1, 4096, 0));
    assert!(read.latency_ns_sum >= held, "from reception to answer");
    assert_eq!(of_subsystem(CountedOp::Write).bytes, 4096);

    // What the subsystem counted stays its own when the device goes.
    rig.runtime
        .block_on(rig.plane.remove_namespace(&nqn, 1))
        .unwrap();
    let all = rig.runtime.block_on(rig.plane.subsystem_stats());
    assert_eq!(all[0].1.of(CountedOp::Read).ops, 1);
}

#[test]
fn waiting_for_the_hosts_data_is_neither_slow_nor_the_devices() {
    let bench = Bench::default();
    let mut plane = config();
    plane.device.slow_io = Duration::from_millis(200);
    let mut rig = Rig::with_store(
        plane,
        Arc::new(Records::default()),
        vec![Box::new(bench.clone())],
    );
    let nqn = rig.serve("d", &[URI]);
    let device = rig.handle(URI);
    let late = Arc::new(AtomicBool::new(false));
    let proxy = slow_way_back(rig.address(), Arc::clone(&late));
    let mut options = SessionOptions::new(HostIdentity::named(HOST_A));
    options.timeout = Duration::from_secs(20);
    let mut client = Client::connect(&Target::at(proxy, &nqn), options).unwrap();
    late.store(true, Ordering::SeqCst);
    let blocks = BlockCommand {
        blocks: 8,
        ..BlockCommand::default()
    };
    let write = blocks.emit(nvm::WRITE, 0, 1, Sgl::transport(4096));
    let data = pattern(1, 4096);
    let done = client.raw(0, write, IoData::OutOnRequest(&data)).unwrap();
    assert!(done.cqe.status.is_success());

    let late = LATE.as_nanos() as u64;
    let all = rig.runtime.block_on(rig.plane.subsystem_stats());
    assert!(all[0].1.of(CountedOp::Write).latency_ns_sum >= late);
    assert!(stats_of(&rig, device, CountedOp::Write).latency_ns_sum < late);
    let all = rig.runtime.block_on(rig.plane.device_stats());
    assert_eq!(all[0].1.slow, 0, "the host took that long, not we");
    // What takes as long here is.
    bench.disk("d").set().hold_flushes = true;
    let flushing = std::thread::spawn(move || client.flush(1));
    rig.until("the flush is in the device", |rig| inflight(rig) == 1);
    std::thread::sleep(Duration::from_millis(250));
    bench.disk("d").set().hold_flushes = false;
    rig.until("the flush has ended", |rig| inflight(rig) == 0);
    flushing.join().unwrap().unwrap();
    let all = rig.runtime.block_on(rig.plane.device_stats());
    assert_eq!(all[0].1.slow, 1);
}

#[test]
fn a_reservation_gets_its_answer_through_a_full_mailbox() {
    let gate = Arc::new(Mutex::new(()));
    let store = Arc::new(OddStore {
        gate: Arc::clone(&gate),
        ..OddStore::default()
    });
    let mut plane = config();
    plane.reactor.mailbox = 4;
    let bench = Bench::default();
    let mut rig = Rig::with_store(plane, store, vec![Box::new(bench.clone())]);
    let disk = bench.disk("d");
    let nqn = rig.serve("d", &[URI]);
    let a = rig.connect_as(&nqn, HOST_A, |_| {}).unwrap();
    let b = rig.connect_as(&nqn, HOST_B, |_| {}).unwrap();
    let closed = gate.lock().unwrap();
    let registering = std::thread::spawn(move || {
        let mut a = a;
        register(&mut a)?;
        register(&mut a)
    });
    std::thread::sleep(Duration::from_millis(200));
    // The reactor is stuck for longer than anybody should try, and its mailbox is full.
    disk.set().stall = Duration::from_millis(2_500);
    let writer = writing(b, 0);
    std::thread::sleep(Duration::from_millis(100));
    disk.set().stall = Duration::ZERO;
    let calls: Vec<_> = (0..16)
        .map(|_| {
            let plane = Arc::clone(&rig.plane);
            rig.runtime.spawn(async move { plane.drop_counts().await })
        })
        .collect();
    std::thread::sleep(Duration::from_millis(200));
    drop(closed);
    writer.join().unwrap().unwrap();
    registering.join().unwrap().unwrap();
    for call in calls {
        rig.runtime.block_on(call).unwrap();
    }
}

#[test]
fn a_store_that_panics_fails_one_reservation_and_no_other() {
    let store = Arc::new(OddStore::default());
    *store.panics.lock().unwrap() = 1;
    let mut rig = Rig::with_store(config(), store, vec![Box::new(Bench::default())]);
    let nqn = rig.serve("d", &[URI]);
    let mut client = rig.connect(&nqn);
    let status = register(&mut client).unwrap_err().status().unwrap();
    assert_eq!((status.sct(), status.sc()), (0, 0x06), "Internal Error");
    register(&mut client).unwrap();
}

#[test]
fn a_reservation_on_its_way_to_the_store_is_there_before_its_subsystem_is_gone() {
    let gate = Arc::new(Mutex::new(()));
    let store = Arc::new(OddStore {
        gate: Arc::clone(&gate),
        ..OddStore::default()
    });
    let records = Arc::clone(&store);
    let mut rig = Rig::with_store(config(), store, vec![Box::new(Bench::default())]);
    let nqn = rig.serve("d", &[URI]);
    let mut client = rig.connect(&nqn);
    let closed = gate.lock().unwrap();
    let registering = std::thread::spawn(move || register(&mut client));
    std::thread::sleep(Duration::from_millis(200));
    let (plane, name) = (Arc::clone(&rig.plane), nqn.clone());
    let removing = rig
        .runtime
        .spawn(async move { plane.remove_subsystem(&name).await });
    std::thread::sleep(Duration::from_millis(200));
    assert!(!removing.is_finished(), "a record would be written later");
    drop(closed);
    rig.runtime.block_on(removing).unwrap().unwrap();
    assert!(records.load(&nqn, 1).unwrap().is_some());
    assert!(
        registering.join().unwrap().is_err(),
        "its host was disconnected"
    );
}

/// By how much the engine's words are late.
const LATE: Duration = Duration::from_millis(400);

/// A way to the engine on which its words are late while `late` is set: R2T, for one, which makes the data late.
fn slow_way_back(engine: SocketAddr, late: Arc<AtomicBool>) -> SocketAddr {
    let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let address = listener.local_addr().unwrap();
    let pipe = |mut from: TcpStream, mut to: TcpStream, late: Option<Arc<AtomicBool>>| {
        std::thread::spawn(move || {
            let mut bytes = [0; 65_536];
            while let Ok(count @ 1..) = from.read(&mut bytes) {
                if late
                    .as_ref()
                    .is_some_and(|late| late.load(Ordering::SeqCst))
                {
                    std::thread::sleep(LATE);
                }
                if to.write_all(&bytes[..count]).is_err() {
                    return;
                }
            }
        });
    };
    std::thread::spawn(move || {
        for host in listener.incoming().flatten() {
            let engine = TcpStream::connect(engine).unwrap();
            pipe(host.try_clone().unwrap(), engine.try_clone().unwrap(), None);
            pipe(engine, host, Some(Arc::clone(&late)));
        }
    });
    address
}

/// A store that waits for a gate, and panics at its first so many records.
#[derive(Default)]
struct OddStore {
    records: Records,
    gate: Arc<Mutex<()>>,
    panics: Mutex<u32>,
}

impl ReservationStore for OddStore {
    fn load(&self, nqn: &str, nsid: u32) -> Result<Option<Vec<u8>>, String> {
        self.records.load(nqn, nsid)
    }

    fn save(&self, nqn: &str, nsid: u32, record: &[u8]) -> Result<(), String> {
        drop(self.gate.lock().unwrap());
        let mut panics = self.panics.lock().unwrap();
        if let Some(left) = panics.checked_sub(1) {
            *panics = left;
            drop(panics);
            panic!("a store that panics, as the test wants");
        }
        self.records.save(nqn, nsid, record)
    }
}

/// Registers with a key that lasts; the second time the key is replaced by itself.
fn register(client: &mut Client) -> Result<(), ClientError> {
    let command = ReservationCommand {
        action: 0,
        ignore_existing_key: true,
        rtype: 0,
        cptpl: 3,
    };
    let keys = Keys {
        current: 0,
        other: 0xa,
    };
    client.reservation_register(1, command, keys)
}

fn bench() -> (Rig, Disk) {
    bench_with(Duration::from_secs(20), 64)
}

fn bench_with(deadline: Duration, overdue_max: usize) -> (Rig, Disk) {
    let bench = Bench::default();
    let disk = bench.disk("d");
    let mut plane = config();
    plane.device.deadline = deadline;
    plane.device.overdue_max = overdue_max;
    let rig = Rig::with_store(plane, Arc::new(Records::default()), vec![Box::new(bench)]);
    (rig, disk)
}

fn reopen(
    rig: &Rig,
    device: DeviceHandle,
) -> Result<engine::control::dataplane::DeviceInfo, Problem> {
    rig.runtime.block_on(rig.plane.reopen_device(device, URI))
}

fn inflight(rig: &Rig) -> usize {
    rig.runtime.block_on(rig.plane.inflight(100)).len()
}

fn stats_of(rig: &Rig, device: DeviceHandle, op: CountedOp) -> OpStats {
    let all = rig.runtime.block_on(rig.plane.device_stats());
    let (_, stats) = all.iter().find(|(handle, _)| *handle == device).unwrap();
    *stats.of(op)
}

/// A host in the middle of a write of one block.
fn writing(mut client: Client, lba: u64) -> std::thread::JoinHandle<Result<(), ClientError>> {
    std::thread::spawn(move || client.write(1, lba, &pattern(lba, 512)))
}

/// A control plane that waits for writes to end; the flag says whether it was told that they have.
fn settling(
    rig: &Rig,
    device: DeviceHandle,
    writers: Writers,
) -> (
    Arc<AtomicBool>,
    std::thread::JoinHandle<Result<(), Problem>>,
) {
    let done = Arc::new(AtomicBool::new(false));
    let (told, plane) = (Arc::clone(&done), Arc::clone(&rig.plane));
    let runtime = rig.runtime.handle().clone();
    let waiting = std::thread::spawn(move || {
        let settled = runtime.block_on(plane.settle(&[device], writers));
        told.store(true, Ordering::SeqCst);
        settled
    });
    (done, waiting)
}

/// Base 2.0c figure 94: Namespace Not Ready, do not retry.
fn is_not_ready(error: ClientError) {
    let status = error.status().unwrap_or_else(|| panic!("{error}"));
    assert_eq!((status.sct(), status.sc()), (0, 0x82));
    assert!(status.is_dnr(), "{error}");
}
