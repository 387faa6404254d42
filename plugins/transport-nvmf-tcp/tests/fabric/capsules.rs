//! Memory of capsules of which a part is missing.

use crate::support::{World, connect};
use nvme_spec::{Cqe, Sqe, Status};
use sdk::fabric::{ConnId, Fabric, FabricEvent};
use sdk::host::StreamId;
use transport_nvmf_tcp::TcpConfig;
use transport_nvmf_tcp::limits::{HALF_RECEIVED_BYTES_MAX, KEPT_BYTES_MAX, STAGING_BYTES};

/// Bytes of each write.
const LEN: usize = 8192;

/// A capsule of `sqe` with `data` (TCP Transport 1.0c §3.6.2.6).
fn capsule(sqe: &Sqe, data: &[u8]) -> Vec<u8> {
    let mut pdu = vec![0x04, 0, 72, 72];
    pdu.extend((72 + data.len() as u32).to_le_bytes());
    pdu.extend(sqe.0);
    pdu.extend(data);
    pdu
}

fn write(cid: u16) -> Vec<u8> {
    let data: Vec<u8> = (0..LEN)
        .map(|at| (at * 7 + usize::from(cid)) as u8)
        .collect();
    capsule(&Sqe::new(0x01, cid, 1), &data)
}

/// A connection after ICReq.
fn stranger(world: &mut World) -> StreamId {
    let stream = world.accept();
    let mut icreq = [0; 128];
    (icreq[2], icreq[4]) = (128, 128);
    world.host.feed(stream, &icreq);
    world.turn();
    stream
}

/// A connection that is queue 1.
fn connected(world: &mut World) -> (StreamId, ConnId) {
    let stream = stranger(world);
    world.host.feed(stream, &capsule(&connect(), &[0; 1024]));
    world.turn();
    let Some(FabricEvent::Capsule { conn, .. }) = world.next_event() else {
        panic!("no Connect")
    };
    let cqe = Cqe::new(0, Status::SUCCESS);
    world.fabric.respond(conn, &cqe, None, false);
    world.turn();
    (stream, conn)
}

#[test]
fn a_stranger_has_no_memory_until_its_connect_is_whole() {
    let mut world = World::new(TcpConfig::default());
    let whole = capsule(&connect(), &[7; 1024]);
    for cut in [72, 73, 72 + 1023] {
        let stream = stranger(&mut world);
        world.host.feed(stream, &whole[..cut]);
        world.turn();
        assert_eq!(world.host.allocated, 0, "cut at {cut}");
        world.host.feed(stream, &whole[cut..]);
        world.turn();
        assert_eq!(std::mem::take(&mut world.host.allocated), 4096);
        let Some(FabricEvent::Capsule {
            data: Some(data), ..
        }) = world.next_event()
        else {
            panic!("no Connect")
        };
        assert_eq!(data[..], [7; 1024]);
    }
}

#[test]
fn a_stranger_may_send_no_more_than_connect_has() {
    let mut world = World::new(TcpConfig::default());
    let stream = stranger(&mut world);
    let more = capsule(&connect(), &[0; 1028]);
    world.host.feed(stream, &more[..100]);
    world.turn();
    assert_eq!(world.closed(), ["capsule_too_large"]);
}

#[test]
fn half_capsules_share_an_allowance_and_arrive_whole_beyond_it() {
    let mut world = World::new(TcpConfig::default());
    for cut in [72, 73, 5000, 72 + LEN - 1] {
        let queues: Vec<_> = (0..100).map(|_| connected(&mut world)).collect();
        world.host.allocated = 0;
        for (cid, (stream, _)) in (0u16..).zip(&queues) {
            world.host.feed(*stream, &write(cid)[..cut]);
        }
        world.turn();
        // Of 800 KiB. It is all back after the round before, whose connections were closed.
        assert_eq!(world.host.allocated, HALF_RECEIVED_BYTES_MAX, "at {cut}");
        assert!(world.next_event().is_none());
        // Most of them end here; the others are closed as they are.
        for (cid, (stream, _)) in (0u16..).zip(&queues).filter(|(cid, _)| cid % 4 != 0) {
            world.host.feed(*stream, &write(cid)[cut..]);
            world.turn();
            let Some(FabricEvent::Capsule {
                conn,
                sqe,
                data: Some(data),
                ..
            }) = world.next_event()
            else {
                panic!("{cid} cut at {cut} is lost")
            };
            assert_eq!((conn, sqe.cid()), (queues[usize::from(cid)].1, cid));
            assert_eq!(data[..], write(cid)[72..]);
        }
        for (_, conn) in queues {
            world.fabric.close(&mut world.host, conn, "test");
        }
    }
}

#[test]
fn small_half_capsules_count_for_what_they_take() {
    let mut world = World::new(TcpConfig::default());
    let queues: Vec<_> = (0..200).map(|_| connected(&mut world)).collect();
    world.host.allocated = 0;
    for (stream, _) in queues {
        let whole = capsule(&Sqe::new(0x01, 1, 1), &[7; 16]);
        world.host.feed(stream, &whole[..72 + 15]);
    }
    world.turn();
    assert_eq!(world.host.allocated, HALF_RECEIVED_BYTES_MAX);
}

#[test]
fn a_whole_capsule_without_its_digest_is_half_a_capsule() {
    let mut world = World::new(TcpConfig::default());
    for _ in 0..100 {
        let stream = world.accept();
        let mut icreq = [0; 128];
        // DGST: data digests.
        (icreq[2], icreq[4], icreq[11]) = (128, 128, 2);
        world.host.feed(stream, &icreq);
        let digest = |mut pdu: Vec<u8>| {
            pdu[1] |= 2;
            let len = pdu.len() as u32 + 4;
            pdu[4..8].copy_from_slice(&len.to_le_bytes());
            let crc = nvme_tcp::crc32c(&pdu[72..]);
            pdu.extend(crc.to_le_bytes());
            pdu
        };
        world
            .host
            .feed(stream, &digest(capsule(&connect(), &[0; 1024])));
        world.turn();
        let Some(FabricEvent::Capsule { conn, data_ok, .. }) = world.next_event() else {
            panic!("no Connect")
        };
        assert!(data_ok);
        world
            .fabric
            .respond(conn, &Cqe::new(0, Status::SUCCESS), None, false);
        world.host.feed(stream, &digest(write(1))[..72 + LEN]);
        world.turn();
    }
    assert_eq!(world.host.allocated - 100 * 4096, HALF_RECEIVED_BYTES_MAX);
}

#[test]
fn large_capsules_arrive_whole_with_and_without_the_allowance() {
    let mut world = World::new(TcpConfig {
        in_capsule_bytes: 64 << 10,
        ..TcpConfig::default()
    });
    world.host.recv_max = 10_000;
    let data: Vec<u8> = (0..64usize << 10).map(|at| (at / 3) as u8).collect();
    let whole = capsule(&Sqe::new(0x01, 9, 1), &data);
    let queues: Vec<_> = (0..10).map(|_| connected(&mut world)).collect();
    world.host.allocated = 0;
    for (stream, _) in &queues {
        world.host.feed(*stream, &whole[..40_000]);
    }
    world.turn();
    assert_eq!(world.host.allocated, HALF_RECEIVED_BYTES_MAX);
    for (stream, conn) in queues {
        world.host.feed(stream, &whole[40_000..]);
        world.host.feed(stream, &write(10));
        world.turn();
        for expected in [&data[..], &write(10)[72..]] {
            let Some(FabricEvent::Capsule {
                conn: from,
                data: Some(data),
                ..
            }) = world.next_event()
            else {
                panic!("lost")
            };
            assert!(from == conn && data[..] == *expected);
        }
    }
}

#[test]
fn a_command_that_is_forgotten_leaves_its_room() {
    let mut world = World::new(TcpConfig::default());
    let (stream, conn) = connected(&mut world);
    let mut aer = capsule(&Sqe::new(0x0c, 3, 0), &[]);
    aer[3] = 0;
    for _ in 0..300 {
        world.host.feed(stream, &aer);
        world.turn();
        assert!(matches!(
            world.next_event(),
            Some(FabricEvent::Capsule { .. })
        ));
        world.fabric.forget(conn, 3);
    }
    assert_eq!(world.closed(), [""; 0]);
    // The queue has 128 entries.
    for _ in 0..129 {
        world.host.feed(stream, &aer);
    }
    world.turn();
    assert_eq!(world.closed(), ["too_many_commands"]);
}

#[test]
fn connections_that_wait_for_memory_keep_little_of_what_came_and_lose_nothing() {
    const WRITES: u16 = 24;
    let mut world = World::new(TcpConfig::default());
    let queues: Vec<_> = (0..100).map(|_| connected(&mut world)).collect();
    world.host.is_short = true;
    let all: Vec<u8> = (0..WRITES).flat_map(write).collect();
    for (stream, _) in &queues {
        world.host.feed(*stream, &all);
    }
    world.turn();
    assert!(world.next_event().is_none());
    let unread: usize = queues
        .iter()
        .map(|(stream, _)| world.host.unread(*stream))
        .sum();
    let kept = queues.len() * all.len() - unread;
    // One that was let in before, and one capsule for each.
    let most = KEPT_BYTES_MAX + STAGING_BYTES + queues.len() * (LEN + 1024);
    assert!(queues.len() * all.len() > 2 * most, "or nothing is shown");
    assert!(kept <= most, "{kept} bytes are kept");

    world.host.is_short = false;
    let mut next = vec![0; queues.len()];
    for _ in 0..100 {
        world.turn();
        while let Some(event) = world.next_event() {
            let FabricEvent::Capsule {
                conn,
                sqe,
                data: Some(data),
                ..
            } = event
            else {
                panic!("no capsule");
            };
            let at = queues.iter().position(|(_, known)| *known == conn).unwrap();
            assert_eq!(sqe.cid(), next[at]);
            assert!(data[..] == write(sqe.cid())[72..]);
            next[at] += 1;
        }
    }
    assert!(next.iter().all(|count| *count == WRITES), "{next:?}");
}
