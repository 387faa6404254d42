//! The export over real sockets, with a client that says exactly what it is told to.

mod support;

use std::io::Write;
use std::os::unix::net::{UnixListener, UnixStream};
use std::time::Duration;

use nbd_wire::{
    Command, CommandFlags, ErrorCode, ExportChoice, OptionKind, ReplyKind, TransmissionFlags,
};
use sdk::block::{IoError, OpenError};
use sdk::export::{ExportSettings, VolumeId};
use units::BlockRange;

use support::disk::DiskSpec;
use support::raw::{Answer, Raw};
use support::{Server, settings, socket_path};

const NONE: CommandFlags = CommandFlags::NONE;
const MIB: usize = 1 << 20;

fn pattern(len: usize, seed: u32) -> Vec<u8> {
    let mut state = seed;
    (0..len)
        .map(|_| {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 24) as u8
        })
        .collect()
}

/// A server with settings changed by `change`.
fn server_with(spec: DiskSpec, change: impl FnOnce(&mut ExportSettings)) -> Server {
    let path = socket_path();
    let mut settings = settings(&path);
    change(&mut settings);
    Server::with(&settings, path, 1, vec![spec])
}

#[test]
fn data_of_any_size_comes_back_however_the_stream_is_cut() {
    for (recv_max, send_max, lends) in [
        (usize::MAX, usize::MAX, true),
        (usize::MAX, usize::MAX, false),
        (1, 100_000, true),
        (700, 3000, false),
    ] {
        let server = Server::start(DiskSpec {
            lends,
            ..DiskSpec::default()
        });
        server.tell(move |engine| {
            engine.seats[0].host.recv_max = recv_max;
            engine.seats[0].host.send_max = send_max;
        });
        let mut raw = Raw::open(&server.socket, "disk");
        let sizes = [512, 4096, 16 << 10, 20 << 10, 128 << 10, MIB];
        let largest = if recv_max == 1 { 20 << 10 } else { MIB };
        for len in sizes.into_iter().filter(|len| *len <= largest) {
            let data = pattern(len, len as u32);
            raw.write(MIB as u64, &data);
            assert!(raw.read_at(MIB as u64, len as u32) == data, "{len} bytes");
        }
    }
}

#[test]
fn payloads_beyond_one_transfer_are_taken_in_slices() {
    let server = Server::start(DiskSpec::default());
    let mut raw = Raw::open(&server.socket, "disk");
    let data = pattern(7 * MIB + 512, 5);
    raw.write(512, &data);
    assert!(raw.read_at(512, data.len() as u32) == data);
    let seen = server.tell(|engine| engine.disk().seen.clone());
    let writes: Vec<_> = seen.iter().filter(|(op, _)| *op == "write").collect();
    assert_eq!(writes.len(), 8);
    assert!(writes.iter().all(|(_, blocks)| *blocks <= 2048));
}

#[test]
fn many_requests_in_flight_are_answered_each_once() {
    let server = Server::start(DiskSpec::default());
    let mut raw = Raw::open(&server.socket, "disk");
    let mut bytes = Vec::new();
    let mut cookies = std::collections::BTreeSet::new();
    for at in 0..2000_u64 {
        let (cookie, request) = raw.request(Command::Write, NONE, (at % 1000) * 4096, 4096);
        bytes.extend(request);
        bytes.extend(vec![at as u8; 4096]);
        cookies.insert(cookie);
        let (cookie, request) = raw.request(Command::Read, NONE, at * 512, 512);
        bytes.extend(request);
        cookies.insert(cookie);
    }
    let mut writer = raw.stream.try_clone().expect("a second handle");
    let sender = std::thread::spawn(move || writer.write_all(&bytes).expect("sent"));
    while !cookies.is_empty() {
        let cookie = match raw.answer() {
            (Answer::Done(cookie) | Answer::Data(cookie, ..), true) => cookie,
            other => panic!("{other:?}"),
        };
        assert!(cookies.remove(&cookie), "{cookie} answered twice");
    }
    sender.join().expect("the sender");
}

#[test]
fn several_clients_see_each_others_writes() {
    let server = Server::start(DiskSpec::default());
    let mut clients: Vec<_> = (0..8).map(|_| Raw::open(&server.socket, "disk")).collect();
    assert!(clients[0].flags.has(TransmissionFlags::CAN_MULTI_CONN));
    for (at, client) in clients.iter_mut().enumerate() {
        client.write(at as u64 * 4096, &vec![at as u8 + 1; 4096]);
    }
    // §Transmission flags: a flush on one connection covers writes on all.
    let done = clients[3].call(Command::Flush, NONE, 0, 0, &[]);
    assert!(matches!(done[..], [Answer::Done(_)]));
    for client in &mut clients {
        let all = client.read_at(0, 8 * 4096);
        assert!(
            all.iter()
                .enumerate()
                .all(|(at, byte)| *byte as usize == at / 4096 + 1)
        );
    }
    assert_eq!(
        server.tell(|engine| engine.seats[0].export.connections()),
        8
    );
}

#[test]
fn lent_memory_is_stable_while_it_is_sent() {
    // A client asks for data, does not read it, and another one overwrites it.
    let server = Server::start(DiskSpec::default());
    let mut reader = Raw::open(&server.socket, "disk");
    let mut writer = Raw::open(&server.socket, "disk");
    let old = pattern(8 * MIB, 1);
    for (at, piece) in old.chunks(MIB).enumerate() {
        writer.write((at * MIB) as u64, piece);
    }
    let cookie = reader.submit(Command::Read, NONE, 0, 8 << 20, &[]);
    server.wait("all reads to be done", |engine| {
        let seen = &engine.disk().seen;
        seen.iter().filter(|(op, _)| *op == "read").count() == 8
    });
    for at in 0..8 {
        writer.write(at * MIB as u64, &vec![0xee; MIB]);
    }
    let mut back = vec![0; old.len()];
    loop {
        let (answer, is_last) = reader.answer();
        let Answer::Data(of, at, bytes) = answer else {
            panic!("{answer:?}")
        };
        assert_eq!(of, cookie);
        back[at as usize..at as usize + bytes.len()].copy_from_slice(&bytes);
        if is_last {
            break;
        }
    }
    assert!(back == old);
}

#[test]
fn errors_of_the_device_have_names_of_the_protocol() {
    let server = Server::start(DiskSpec::default());
    let mut raw = Raw::open(&server.socket, "disk");
    let medium = IoError::Medium(BlockRange::new(0, 1));
    for (error, write, read) in [
        (medium, ErrorCode::EIO, ErrorCode::EIO),
        (IoError::NoSpace, ErrorCode::ENOSPC, ErrorCode::ENOSPC),
        (IoError::OutOfRange, ErrorCode::ENOSPC, ErrorCode::EINVAL),
        (IoError::Gone, ErrorCode::ESHUTDOWN, ErrorCode::ESHUTDOWN),
        (IoError::Timeout, ErrorCode::EIO, ErrorCode::EIO),
        (IoError::NotSupported, ErrorCode::EINVAL, ErrorCode::EINVAL),
        (IoError::Busy, ErrorCode::EIO, ErrorCode::EIO),
        (IoError::Aborted, ErrorCode::EIO, ErrorCode::EIO),
    ] {
        server.tell(move |engine| engine.disk().faults.extend([error, error]));
        let data = [1; 512];
        assert_eq!(raw.fails(Command::Write, NONE, 0, 512, &data), write);
        assert_eq!(raw.fails(Command::Read, NONE, 0, 512, &[]), read);
    }
    raw.write(0, &[2; 512]);
}

#[test]
fn a_connection_that_is_gone_leaves_its_io_to_nobody() {
    let server = Server::start(DiskSpec {
        lends: false,
        ..DiskSpec::default()
    });
    server.tell(|engine| engine.disk().holds = true);
    let mut raw = Raw::open(&server.socket, "disk");
    raw.submit(Command::Read, NONE, 0, 4096, &[]);
    raw.submit(Command::Write, NONE, 0, 4096, &[1; 4096]);
    server.wait("the disk to hold both", |engine| engine.disk().held() == 2);
    drop(raw);
    server.wait("the connection to end", |engine| {
        engine.seats[0].export.connections() == 0
    });
    // The next connection takes its slot, and is not told of the old I/O.
    let mut next = Raw::open(&server.socket, "disk");
    next.submit(Command::Read, NONE, 8192, 512, &[]);
    server.wait("the disk to hold three", |engine| engine.disk().held() == 3);
    server.tell(support::Engine::release);
    let (answer, _) = next.answer();
    let Answer::Data(_, 8192, data) = answer else {
        panic!("{answer:?}")
    };
    assert_eq!(data.len(), 512);
    assert_eq!(
        server.tell(|engine| engine.closed.clone()),
        ["closed_by_client"]
    );
}

#[test]
fn answers_go_out_in_the_order_the_device_gives_them() {
    let server = Server::start(DiskSpec::default());
    let mut raw = Raw::open_simple(&server.socket, "disk");
    raw.write(0, &[1; 512]);
    raw.write(512, &[2; 512]);
    server.tell(|engine| engine.disk().holds = true);
    raw.submit(Command::Read, NONE, 0, 512, &[]);
    raw.submit(Command::Read, NONE, 512, 512, &[]);
    server.wait("the disk to hold both", |engine| engine.disk().held() == 2);
    server.tell(support::Engine::release);
    assert_eq!(raw.simple_data(512), [2; 512]);
    assert_eq!(raw.simple_data(512), [1; 512]);
}

#[test]
fn without_buffers_clients_wait_and_go_on() {
    let server = Server::start(DiskSpec {
        lends: false,
        ..DiskSpec::default()
    });
    let mut writer = Raw::open(&server.socket, "disk");
    let mut reader = Raw::open(&server.socket, "disk");
    server.tell(|engine| engine.seats[0].host.has_buffers = false);
    writer.submit(Command::Write, NONE, 0, 65536, &pattern(65536, 3));
    reader.submit(Command::Read, NONE, MIB as u64, 4096, &[]);
    reader.submit(Command::Flush, NONE, 0, 0, &[]);
    std::thread::sleep(Duration::from_millis(30));
    assert!(server.tell(|engine| engine.disk().seen.is_empty()));
    // Waiting for us is not the clients' fault, however long it lasts.
    for _ in 0..3 {
        server.tell(|engine| engine.advance(Duration::from_secs(25)));
        std::thread::sleep(Duration::from_millis(5));
    }
    assert_eq!(
        server.tell(|engine| engine.seats[0].export.connections()),
        2
    );
    server.tell(|engine| engine.seats[0].host.has_buffers = true);
    assert!(matches!(writer.answer().0, Answer::Done(_)));
    let answers = [reader.answer().0, reader.answer().0];
    assert!(answers.iter().any(|a| matches!(a, Answer::Done(_))));
    assert!(answers.iter().any(|a| matches!(a, Answer::Data(..))));
    assert!(writer.read_at(0, 65536) == pattern(65536, 3));
}

#[test]
fn deadlines_end_connections_that_hold_something() {
    let server = server_with(DiskSpec::default(), |settings| {
        settings.handshake_timeout = Duration::from_secs(3);
    });
    let mut silent = Raw::connect(&server.socket);
    let mut idle = Raw::open(&server.socket, "disk");
    let mut stuck = Raw::open(&server.socket, "disk");
    stuck.submit(Command::Write, NONE, 0, 65536, &[1; 1000]);
    let mut deaf = Raw::open(&server.socket, "disk");
    deaf.submit(Command::Read, NONE, 0, 8 << 20, &[]);
    server.wait("four clients", |engine| {
        engine.seats[0].export.connections() == 4 && engine.disk().seen.len() >= 8
    });
    server.tell(|engine| engine.advance(Duration::from_secs(4)));
    server.wait("the handshake's deadline", |engine| {
        engine.closed == ["handshake_timeout"]
    });
    assert!(silent.is_closed());
    server.tell(|engine| engine.advance(Duration::from_secs(31)));
    server.wait("the clients' deadlines", |engine| {
        engine.closed[1..] == ["client_stalled", "client_stalled"]
    });
    // One that holds nothing stays.
    server.tell(|engine| engine.advance(Duration::from_secs(3600)));
    idle.write(0, &[1; 512]);
    assert!(
        server.tell(|engine| engine.seats[0].export.poll_timeout().is_none()),
        "nothing to wake for"
    );
}

#[test]
fn one_connection_too_many_is_closed_at_once() {
    let server = server_with(DiskSpec::default(), |settings| settings.connections_max = 2);
    let mut first = Raw::open(&server.socket, "disk");
    let second = Raw::open(&server.socket, "disk");
    let mut third = UnixStream::connect(&server.socket).expect("accepted by the system");
    let mut rest = Vec::new();
    let end = std::io::Read::read_to_end(&mut third, &mut rest);
    assert!(end.is_err() || rest.is_empty());
    assert_eq!(server.services.counted("connections_refused"), 1);
    first.write(0, &[1; 512]);
    drop(second);
    server.wait("room", |engine| engine.seats[0].export.connections() == 1);
    Raw::open(&server.socket, "disk").write(0, &[1; 512]);
}

#[test]
fn requests_beyond_the_limit_wait() {
    let server = server_with(DiskSpec::default(), |settings| settings.requests_max = 4);
    server.tell(|engine| engine.disk().holds = true);
    let mut raw = Raw::open(&server.socket, "disk");
    for at in 0..20 {
        raw.submit(Command::Read, NONE, at * 512, 512, &[]);
    }
    server.wait("four requests", |engine| engine.disk().held() == 4);
    std::thread::sleep(Duration::from_millis(20));
    assert_eq!(server.tell(|engine| engine.disk().held()), 4);
    server.tell(support::Engine::release);
    for _ in 0..20 {
        assert!(matches!(raw.answer().0, Answer::Data(..)));
    }
}

#[test]
fn a_goodbye_is_answered_with_the_rest_and_the_end() {
    let server = Server::start(DiskSpec::default());
    let mut raw = Raw::open(&server.socket, "disk");
    server.tell(|engine| engine.disk().holds = true);
    raw.submit(Command::Read, NONE, 0, 4096, &[]);
    raw.submit(Command::Disc, NONE, 0, 0, &[]);
    server.wait("the read", |engine| engine.disk().held() == 1);
    server.tell(support::Engine::release);
    assert!(matches!(raw.answer().0, Answer::Data(..)));
    assert!(raw.is_closed());
    server.wait("the end", |engine| engine.closed == ["disconnected"]);
}

#[test]
fn a_removed_volume_takes_its_connections_along() {
    let server = Server::start(DiskSpec::default());
    let mut raw = Raw::open(&server.socket, "disk");
    let mut waiting = Raw::connect(&server.socket);
    server.tell(support::Engine::remove);
    assert!(raw.is_closed());
    assert_eq!(
        server.tell(|engine| engine.closed.clone()),
        ["volume_removed"]
    );
    // A client in its handshake is told.
    let mut data = Vec::new();
    ExportChoice::emit(b"disk", &[], &mut data);
    let replies = waiting.option(OptionKind::Go, &data);
    assert_eq!(replies[0].0, ReplyKind::ErrUnknown);
}

#[test]
fn a_volume_that_grows_or_shrinks_is_served_at_its_size() {
    let server = Server::start(DiskSpec::default());
    let mut raw = Raw::open(&server.socket, "disk");
    assert_eq!(raw.size, 64 << 20);
    let end = 64 << 20;
    let data = [7; 4096];
    let refused = raw.fails(Command::Write, NONE, end, 4096, &data);
    assert_eq!(refused, ErrorCode::ENOSPC);
    server.tell(|engine| engine.resize(65));
    raw.write(end, &data);
    assert_eq!(raw.read_at(end, 4096), data);
    assert_eq!(Raw::open(&server.socket, "disk").size, 65 << 20);
    server.tell(|engine| engine.resize(32));
    assert_eq!(
        raw.fails(Command::Read, NONE, 32 << 20, 512, &[]),
        ErrorCode::EINVAL
    );
}

#[test]
fn trims_and_zeroes_are_seen_in_block_status() {
    let server = Server::start(DiskSpec::default());
    let mut raw = Raw::open(&server.socket, "disk");
    raw.write(0, &[1; 64 << 10]);
    let status =
        |raw: &mut Raw, flags| match raw.call(Command::BlockStatus, flags, 0, 128 << 10, &[])[..] {
            [Answer::Status(_, ref extents)] => extents.clone(),
            ref other => panic!("{other:?}"),
        };
    assert_eq!(status(&mut raw, NONE), [(64 << 10, 0), (64 << 10, 3)]);
    assert_eq!(status(&mut raw, CommandFlags::REQ_ONE), [(64 << 10, 0)]);
    raw.call(Command::Trim, NONE, 0, 16 << 10, &[]);
    raw.call(Command::WriteZeroes, NONE, 16 << 10, 16 << 10, &[]);
    let kept = CommandFlags::NO_HOLE | CommandFlags::FUA;
    raw.call(Command::WriteZeroes, kept, 32 << 10, 16 << 10, &[]);
    assert_eq!(
        status(&mut raw, NONE),
        [(32 << 10, 3), (32 << 10, 0), (64 << 10, 3)]
    );
    assert_eq!(raw.read_at(16 << 10, 32 << 10), vec![0; 32 << 10]);
    assert_eq!(raw.read_at(48 << 10, 16 << 10), vec![1; 16 << 10]);
}

#[test]
fn a_connection_is_carried_to_the_reactor_of_its_volume() {
    let path = socket_path();
    let spec = |id, name, home| DiskSpec {
        id,
        name,
        home,
        ..DiskSpec::default()
    };
    let disks = vec![spec(1, "near", 0), spec(2, "far", 1)];
    let server = Server::with(&settings(&path), path, 2, disks);
    let mut near = Raw::open(&server.socket, "near");
    let mut far = Raw::open(&server.socket, "far");
    assert_eq!(server.tell(|engine| engine.moves), 1);
    near.write(0, &[1; 4096]);
    far.write(0, &[2; 4096]);
    assert_eq!(near.read_at(0, 4096), [1; 4096]);
    assert_eq!(far.read_at(0, 4096), [2; 4096]);
    // Block status was negotiated before the move and holds behind it.
    let status = far.call(Command::BlockStatus, NONE, 0, 4096, &[]);
    assert!(matches!(status[..], [Answer::Status(..)]));
    // A client in a hurry sends requests behind its choice.
    let mut hasty = Raw::connect(&server.socket);
    let header = nbd_wire::OptionHeader {
        option: OptionKind::ExportName,
        len: 3,
    };
    let (_, read) = hasty.request(Command::Read, NONE, 0, 4096);
    hasty.send(&[&header.to_bytes()[..], b"far", &read].concat());
    hasty.read_vec(nbd_wire::ExportReply::LEN);
    assert_eq!(hasty.simple_data(4096), [2; 4096]);
    let (connections, opened) = server.tell(|engine| {
        let counts: Vec<_> = engine
            .seats
            .iter()
            .map(|s| s.export.connections())
            .collect();
        (counts, engine.opened.clone())
    });
    assert_eq!(connections, [1, 2]);
    let volumes: Vec<_> = opened.iter().map(|(_, volume)| *volume).collect();
    assert_eq!(volumes, [VolumeId(1), VolumeId(2), VolumeId(2)]);
}

#[test]
fn the_old_way_to_choose_works_and_a_wrong_name_ends_it() {
    let server = Server::start(DiskSpec::default());
    let mut raw = Raw::connect(&server.socket);
    let reply = raw.export_name("disk").expect("an answer");
    assert_eq!(reply.size, 64 << 20);
    raw.submit(Command::Read, NONE, 0, 512, &[]);
    assert_eq!(raw.simple_data(512), [0; 512]);
    let mut wrong = Raw::connect(&server.socket);
    assert!(wrong.export_name("other").is_err());
    server.wait("the end", |engine| engine.closed == ["unknown_export"]);
}

#[test]
fn noise_ends_a_connection_and_nothing_else() {
    let server = Server::start(DiskSpec::default());
    let mut good = Raw::open(&server.socket, "disk");
    for seed in 0..50 {
        let mut noisy = UnixStream::connect(&server.socket).expect("a server");
        let _ = noisy.write_all(&pattern(5000, seed));
        let mut raw = Raw::open(&server.socket, "disk");
        let _ = raw.stream.write_all(&pattern(5000, seed));
        assert!(raw.is_closed());
    }
    good.write(0, &[3; 512]);
    assert_eq!(good.read_at(0, 512), [3; 512]);
    server.wait("their end", |engine| {
        engine.seats[0].export.connections() == 1
    });
}

/// Opens a server without running it.
fn open(listen: &[String]) -> Result<Box<dyn sdk::export::ExportServer>, OpenError> {
    let services = conformance::services::TestServices::new(Vec::new());
    let services: std::sync::Arc<dyn sdk::services::Services> = services;
    let settings = ExportSettings {
        listen: listen.to_vec(),
        ..ExportSettings::default()
    };
    transport_nbd::exports()[0].open(&settings, &services)
}

#[test]
fn addresses_are_checked_before_anything_is_bound() {
    let path = socket_path();
    let good = format!("unix://{}", path.display());
    for bad in [
        "tcp://localhost",
        "tcp://1.2.3.4",
        "unix://rel",
        "http://x",
        "",
    ] {
        let error = open(&[good.clone(), bad.to_owned()]).err();
        assert!(
            matches!(error, Some(OpenError::Unsuitable { .. })),
            "{bad}: {error:?}"
        );
        assert!(!path.exists());
    }
    assert!(matches!(open(&[]), Err(OpenError::Unsuitable { .. })));
}

#[test]
fn a_socket_somebody_listens_on_is_in_use_and_a_dead_one_is_replaced() {
    let path = socket_path();
    let address = vec![format!("unix://{}", path.display())];
    // A listener that was dropped leaves its file behind.
    drop(UnixListener::bind(&path).expect("bound"));
    assert!(path.exists());
    let server = open(&address).expect("the dead one is replaced");
    assert!(matches!(open(&address), Err(OpenError::InUse { .. })));
    assert!(path.exists(), "the refused one leaves the file alone");
    let uri = server.uri("a b/c");
    assert!(uri.starts_with("nbd+unix:///a%20b/c?socket=/"), "{uri}");
    drop(server);
    assert!(!path.exists());
    // A file that is no socket is somebody's data.
    std::fs::write(&path, b"data").expect("written");
    assert!(open(&address).is_err());
    assert_eq!(std::fs::read(&path).expect("still there"), b"data");
    std::fs::remove_file(&path).expect("removed");
    let tcp = open(&["tcp://127.0.0.1:0".to_owned()]).expect("a server");
    let uri = tcp.uri("disk");
    let port: u16 = uri
        .strip_prefix("nbd://127.0.0.1:")
        .and_then(|rest| rest.strip_suffix("/disk"))
        .and_then(|port| port.parse().ok())
        .expect("the port the system picked");
    let again = open(&[format!("tcp://127.0.0.1:{port}")]);
    assert!(matches!(again, Err(OpenError::InUse { .. })));
}
