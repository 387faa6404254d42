//! Capsules and data on their way, and connections that come, wait and move.

use std::time::Duration;

use crate::support::{Peer, World};
use nvme_spec::{Cqe, Sgl, Sqe, Status};
use nvme_tcp::{CommandData, HostConfig};
use sdk::buf::{Payload, Segment, Segments};
use sdk::fabric::{Fabric, FabricEvent};
use transport_nvmf_tcp::TcpConfig;

fn write(cid: u16) -> Sqe {
    Sqe::new(0x01, cid, 1)
}

fn pattern(len: usize) -> Vec<u8> {
    (0..len).map(|at| (at * 7 + at / 251) as u8).collect()
}

#[test]
fn a_small_write_arrives_with_its_data_however_the_stream_is_cut() {
    for (at, cut) in [1, 7, 24, 100, 4096, 4150, 4168, 4172, usize::MAX]
        .into_iter()
        .enumerate()
    {
        let mut world = World::new(TcpConfig::default());
        let config = HostConfig {
            data_digest: at % 2 == 1,
            ..HostConfig::default()
        };
        let (mut peer, _) = Peer::establish(&mut world, config);
        world.host.recv_max = cut;
        peer.submit(&write(3), CommandData::InCapsule(4096), pattern(4096));
        peer.exchange(&mut world);
        let Some(FabricEvent::Capsule {
            sqe,
            data: Some(data),
            data_ok,
            conn,
        }) = world.next_event()
        else {
            panic!("no capsule with cuts of {cut}");
        };
        assert_eq!((sqe.cid(), data_ok), (3, true));
        assert_eq!(&data[..], &pattern(4096)[..]);
        world
            .fabric
            .respond(conn, &Cqe::new(3, Status::SUCCESS), None, true);
        peer.exchange(&mut world);
        assert_eq!(peer.completions, [(3, Status::SUCCESS)]);
    }
}

#[test]
fn a_large_write_is_fetched_into_the_buffer_that_was_reserved_for_it() {
    // TCP Transport 1.0c §3.4: data of a command outside its capsule is moved by R2T and H2CData.
    for (cut, digests) in [(usize::MAX, false), (5000, true), (100_000, true)] {
        let mut world = World::new(TcpConfig::default());
        let config = HostConfig {
            header_digest: digests,
            data_digest: digests,
            ..HostConfig::default()
        };
        let mut peer = Peer::connect(&mut world, config);
        world.host.recv_max = cut;
        peer.submit(&write(9), CommandData::Write(128 << 10), pattern(128 << 10));
        peer.exchange(&mut world);
        let Some(FabricEvent::Capsule {
            conn, data: None, ..
        }) = world.next_event()
        else {
            panic!("no capsule")
        };
        let buf = world.buffer(128 << 10);
        world.fabric.fetch(conn, 9, 77, buf);
        peer.exchange(&mut world);
        let Some(FabricEvent::Fetched {
            token: 77,
            buf,
            data_ok: true,
            ..
        }) = world.next_event()
        else {
            panic!("not fetched")
        };
        assert_eq!(&buf[..], &pattern(128 << 10)[..]);
    }
}

#[test]
fn lent_segments_are_sent_in_order_through_a_socket_that_takes_little() {
    for (limit, digests) in [(usize::MAX, true), (1000, true), (1000, false)] {
        let mut world = World::new(TcpConfig::default());
        let config = HostConfig {
            header_digest: digests,
            data_digest: digests,
            ..HostConfig::default()
        };
        let mut peer = Peer::connect(&mut world, config);
        peer.submit(
            &Sqe::new(0x02, 5, 1),
            CommandData::Read(9000),
            vec![0; 9000],
        );
        peer.exchange(&mut world);
        let Some(FabricEvent::Capsule { conn, .. }) = world.next_event() else {
            panic!("no capsule")
        };
        let chunk: std::sync::Arc<sdk::buf::Chunk> =
            std::sync::Arc::new(pattern(12_000).into_boxed_slice().into());
        let mut segments = Segments::new();
        segments.push(Segment::new(chunk.clone(), 100, 4000).unwrap());
        segments.push(Segment::new(chunk.clone(), 4100, 5000).unwrap());
        world.host.send_max = limit;
        world.fabric.respond(
            conn,
            &Cqe::new(5, Status::SUCCESS),
            Some(Payload::Lent(segments)),
            true,
        );
        peer.exchange(&mut world);
        assert_eq!(peer.completions, [(5, Status::SUCCESS)]);
        assert_eq!(peer.data(5), &pattern(12_000)[100..9100]);
        assert_eq!(
            std::sync::Arc::strong_count(&chunk),
            1,
            "lent segments are released once sent"
        );
    }
}

#[test]
fn a_connection_without_a_buffer_waits_and_then_goes_on() {
    let mut world = World::new(TcpConfig::default());
    let (mut peer, _) = Peer::establish(&mut world, HostConfig::default());
    world.host.inner.withhold_buffers(true);
    peer.submit(&write(1), CommandData::InCapsule(4096), pattern(4096));
    peer.submit(&write(2), CommandData::InCapsule(512), pattern(512));
    peer.exchange(&mut world);
    assert!(world.next_event().is_none());
    assert!(
        world.host.is_paused(),
        "a connection that waits is not read from"
    );
    world.host.inner.withhold_buffers(false);
    peer.exchange(&mut world);
    for (cid, len) in [(1, 4096), (2, 512)] {
        let Some(FabricEvent::Capsule {
            sqe,
            data: Some(data),
            ..
        }) = world.next_event()
        else {
            panic!("lost {cid}")
        };
        assert_eq!((sqe.cid(), &data[..]), (cid, &pattern(len)[..]));
    }
}

#[test]
fn a_connection_that_says_nothing_is_dropped_in_time() {
    let mut world = World::new(TcpConfig::default());
    let stream = world.accept();
    world.turn();
    let at = world.fabric.poll_timeout().expect("a deadline");
    world
        .host
        .inner
        .advance(at - sdk::host::Host::now(&world.host));
    world.fabric.handle_timeout(&mut world.host);
    world.turn();
    assert!(matches!(
        world.next_event(),
        Some(FabricEvent::Closed {
            reason: "handshake_timeout",
            ..
        })
    ));
    assert!(world.host.is_closed(stream));
}

#[test]
fn one_connection_too_many_is_closed_at_once() {
    let mut world = World::new(TcpConfig {
        connections_max: 1,
        ..TcpConfig::default()
    });
    world.accept();
    let second = world.accept();
    assert!(world.host.is_closed(second));
    assert!(matches!(
        world.next_event(),
        Some(FabricEvent::Closed {
            reason: "too_many_connections",
            ..
        })
    ));
    assert_eq!(world.fabric.connections(), 1);
}

#[test]
fn an_established_connection_has_no_handshake_deadline() {
    let mut world = World::new(TcpConfig::default());
    // Waits until nobody wants to be woken, longer than any deadline.
    Peer::establish(&mut world, HostConfig::default());
    assert!(world.next_event().is_none());
    assert_eq!(world.fabric.connections(), 1);
}

#[test]
fn a_host_that_does_not_read_is_not_read_from() {
    let config = TcpConfig {
        queue_depth: 16,
        ..TcpConfig::default()
    };
    let mut world = World::new(config);
    let mut peer = Peer::connect(&mut world, HostConfig::default());
    world.host.send_max = 0;
    for cid in 0..16 {
        peer.submit(
            &Sqe::new(0x02, cid, 1),
            CommandData::Read(4096),
            vec![0; 4096],
        );
    }
    peer.exchange(&mut world);
    let mut answered = 0;
    while let Some(FabricEvent::Capsule { conn, sqe, .. }) = world.next_event() {
        let buf = world.buffer(4096);
        world.fabric.respond(
            conn,
            &Cqe::new(sqe.cid(), Status::SUCCESS),
            Some(Payload::Buf(buf)),
            true,
        );
        world.turn();
        answered += 1;
    }
    assert_eq!(answered, 16);
    assert!(peer.completions.is_empty());
    world.host.send_max = usize::MAX;
    world.host.writable();
    world.signal_writable();
    peer.exchange(&mut world);
    assert_eq!(peer.completions.len(), 16);
}

#[test]
fn a_connection_moves_between_reactors_with_what_it_had_not_parsed() {
    let mut first = World::new(TcpConfig::default());
    let mut peer = Peer::connect(&mut first, HostConfig::default());
    let mut connect = Sqe::new(0x7f, 0, 0x01);
    connect.set_sgl(Sgl::in_capsule(0, 1024));
    peer.submit(&connect, CommandData::InCapsule(1024), pattern(1024));
    peer.exchange(&mut first);
    let Some(FabricEvent::Capsule { conn, .. }) = first.next_event() else {
        panic!("no capsule")
    };
    let parcel = first
        .fabric
        .detach(&mut first.host, conn)
        .expect("a quiet connection moves");
    assert_eq!(first.fabric.connections(), 0);

    let mut second = World::new(TcpConfig::default());
    let attached = second
        .fabric
        .attach(&mut second.host, parcel)
        .expect("room");
    second
        .fabric
        .respond(attached.conn, &Cqe::new(0, Status::SUCCESS), None, false);
    peer.moved();
    peer.exchange(&mut second);
    assert_eq!(peer.completions, [(0, Status::SUCCESS)]);
    // The answer to Connect ended the handshake, though another reactor had seen the command.
    second.pass(Duration::from_secs(60));
    assert_eq!(second.fabric.connections(), 1);
}
