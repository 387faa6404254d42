//! How connections end: last words, and hosts that stop in the middle.

use std::sync::Arc;
use std::time::Duration;

use crate::support::{Peer, World};
use nvme_spec::{Cqe, Sqe, Status};
use nvme_tcp::{CommandData, HostConfig};
use sdk::buf::{Payload, Segment, Segments};
use sdk::fabric::{ConnId, Fabric, FabricEvent};
use sdk::host::StreamId;
use transport_nvmf_tcp::TcpConfig;

const TIMEOUT: Duration = Duration::from_secs(30);

/// PDU type of C2HTermReq.
const C2H_TERM_REQ: u8 = 0x03;

/// A world whose host broke the protocol and has more to say than was read.
fn after_garbage() -> (World, StreamId) {
    let mut world = World::new(TcpConfig::default());
    let stream = world.accept();
    world.host.recv_max = 100;
    world.host.feed(stream, &[0xff; 100]);
    world.turn();
    assert_eq!(world.closed(), ["malformed_header"]);
    (world, stream)
}

fn established() -> (World, Peer, ConnId) {
    let config = TcpConfig {
        progress_timeout: TIMEOUT,
        ..TcpConfig::default()
    };
    let mut world = World::new(config);
    let (peer, conn) = Peer::establish(&mut world, HostConfig::default());
    (world, peer, conn)
}

fn write(cid: u16) -> Sqe {
    Sqe::new(0x01, cid, 1)
}

/// Waits for longer than a host may stall: why the connection was closed.
fn stalls(world: &mut World) -> Vec<&'static str> {
    world.pass(TIMEOUT - Duration::from_secs(1));
    assert_eq!(world.closed(), [""; 0], "too early");
    let wakes = world.pass(Duration::from_secs(3));
    assert!(wakes <= 3, "{wakes} wake-ups in 3 s");
    assert_eq!(world.fabric.connections(), 0);
    assert!(world.host.is_closed(StreamId(0)));
    world.closed()
}

#[test]
fn a_terminate_request_is_not_lost_to_what_the_offender_sent_meanwhile() {
    // TCP Transport 1.0c §3.6.2.5: a fatal error is told by C2HTermReq before the connection is closed. A socket closed
    // with unread bytes is reset, and a reset takes the request with it.
    let (mut world, stream) = after_garbage();
    assert_eq!(world.host.sent(stream)[0], C2H_TERM_REQ);
    assert!(world.host.is_ended(stream) && !world.host.is_closed(stream));
    world.host.feed(stream, &[0xee; 5000]);
    world.turn();
    assert_eq!(world.host.unread(stream), 0);
    assert!(!world.host.is_closed(stream));
    world.host.finish(stream);
    world.turn();
    assert!(world.host.is_closed(stream));
    assert_eq!(world.fabric.connections(), 0);
    assert_eq!(world.closed(), [""; 0], "closed once");
}

#[test]
fn an_offender_that_stays_is_closed_in_time() {
    let (mut world, stream) = after_garbage();
    let at = world.fabric.poll_timeout().expect("a deadline");
    assert!(at - sdk::host::Host::now(&world.host) <= Duration::from_secs(1));
    world.pass(Duration::from_secs(1));
    assert!(world.host.is_closed(stream));
    assert_eq!(world.fabric.connections(), 0);
}

#[test]
fn an_offender_that_goes_on_sending_is_cut_off() {
    let (mut world, stream) = after_garbage();
    world.host.recv_max = usize::MAX;
    for _ in 0..9 {
        world.host.feed(stream, &vec![0xff; 1 << 20]);
        world.turn();
    }
    assert!(world.host.is_closed(stream));
}

#[test]
fn an_answer_reaches_a_host_that_is_sent_away() {
    let mut world = World::new(TcpConfig::default());
    let mut peer = Peer::connect(&mut world, HostConfig::default());
    peer.submit(&Sqe::new(0x7f, 4, 1), CommandData::None, vec![]);
    peer.exchange(&mut world);
    let Some(FabricEvent::Capsule { conn, .. }) = world.next_event() else {
        panic!("no capsule")
    };
    world.host.send_max = 10;
    let refused = Cqe::new(4, Status::CONNECT_INVALID_HOST);
    world.fabric.respond(conn, &refused, None, false);
    world
        .fabric
        .close(&mut world.host, conn, "host_not_allowed");
    // The name is free, whatever the host still says.
    world.fabric.respond(conn, &refused, None, false);
    peer.submit(&Sqe::new(0x7f, 5, 1), CommandData::None, vec![]);
    peer.exchange(&mut world);
    assert_eq!(peer.completions, [(4, Status::CONNECT_INVALID_HOST)]);
    assert!(world.next_event().is_none());
    world.host.finish(StreamId(0));
    world.turn();
    assert!(world.host.is_closed(StreamId(0)));
}

#[test]
fn a_host_that_leaves_data_it_was_asked_for_unsent_is_dropped() {
    for sent in [0, 100_000] {
        let (mut world, mut peer, conn) = established();
        let data = vec![7; 256 << 10];
        peer.submit(&write(9), CommandData::Write(256 << 10), data);
        peer.exchange(&mut world);
        assert!(matches!(
            world.next_event(),
            Some(FabricEvent::Capsule { .. })
        ));
        let buf = world.buffer(256 << 10);
        world.fabric.fetch(conn, 9, 77, buf);
        world.turn();
        if sent > 0 {
            peer.hear(&mut world);
            peer.send_part(&mut world, sent);
        }
        assert_eq!(stalls(&mut world), ["data_stalled"], "after {sent} bytes");
    }
}

#[test]
fn a_host_that_stops_inside_a_capsule_is_dropped() {
    for sent in [1, 72, 3000] {
        let (mut world, mut peer, _) = established();
        peer.submit(&write(9), CommandData::InCapsule(4096), vec![7; 4096]);
        peer.send_part(&mut world, sent);
        assert_eq!(
            stalls(&mut world),
            ["capsule_stalled"],
            "after {sent} bytes"
        );
    }
}

#[test]
fn a_host_that_does_not_read_is_dropped_and_what_it_held_is_free() {
    let (mut world, mut peer, conn) = established();
    let read = Sqe::new(0x02, 5, 1);
    peer.submit(&read, CommandData::Read(4096), vec![0; 4096]);
    peer.exchange(&mut world);
    let lent = Arc::new(sdk::buf::Chunk::from(vec![1u8; 4096].into_boxed_slice()));
    let mut segments = Segments::new();
    segments.push(Segment::new(lent.clone(), 0, 4096).expect("within"));
    let cqe = Cqe::new(5, Status::SUCCESS);
    world
        .fabric
        .respond(conn, &cqe, Some(Payload::Lent(segments)), true);
    world.host.send_max = 0;
    world.turn();
    assert_eq!(Arc::strong_count(&lent), 2);
    assert_eq!(stalls(&mut world), ["reader_stalled"]);
    assert_eq!(Arc::strong_count(&lent), 1);
}

#[test]
fn a_host_that_finishes_in_time_stays_and_costs_nothing_afterwards() {
    let (mut world, mut peer, _) = established();
    for round in 0..10 {
        peer.submit(&write(round), CommandData::InCapsule(4096), vec![7; 4096]);
        peer.send_part(&mut world, 3000);
        assert!(world.fabric.poll_timeout().is_some());
        world.pass(TIMEOUT * 2 / 3);
        world.host.feed(StreamId(0), &[7; 4096 + 72 - 3000]);
        world.turn();
        assert_eq!(world.closed(), [""; 0]);
    }
    world.pass(Duration::from_secs(2));
    assert_eq!(world.fabric.poll_timeout(), None);
}

#[test]
fn a_host_that_waits_for_our_memory_is_not_blamed() {
    let (mut world, mut peer, _) = established();
    world.host.inner.withhold_buffers(true);
    peer.submit(&write(1), CommandData::InCapsule(4096), vec![7; 4096]);
    peer.exchange(&mut world);
    world.pass(TIMEOUT * 3);
    assert_eq!(world.closed(), [""; 0]);
    world.host.inner.withhold_buffers(false);
    world.turn();
    assert!(matches!(
        world.next_event(),
        Some(FabricEvent::Capsule { data: Some(_), .. })
    ));
}
