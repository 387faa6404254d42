//! Both roles against each other over streams cut at random places, with every combination of digests and padding.

use crate::support::*;
use nvme_tcp::*;

struct Variant {
    host: HostConfig,
    controller: ControllerConfig,
    may_omit_response: bool,
}

fn variants() -> impl Iterator<Item = Variant> {
    (0..16).map(|bits: u32| Variant {
        host: HostConfig {
            header_digest: bits & 1 != 0,
            data_digest: bits & 2 != 0,
            data_alignment: if bits & 4 != 0 { 128 } else { 4 },
            commands_max: 16,
            ..HostConfig::default()
        },
        controller: ControllerConfig {
            maxh2cdata: 4096 << (bits % 3),
            commands_max: 16,
            ..ControllerConfig::default()
        },
        may_omit_response: bits & 8 != 0,
    })
}

/// Each command works on its own region of the disk, so that its outcome does not depend on order.
const REGION: usize = DISK_LEN / 16;

#[test]
fn data_arrives_whole_whatever_the_cuts() {
    // TCP Transport 1.0c §3.6.2.6 to §3.6.2.10: capsules, data and R2T in both directions.
    for (seed, variant) in variants().enumerate() {
        let mut pair = Pair::new(variant.host, variant.controller, seed as u64);
        pair.controller.may_omit_response = variant.may_omit_response;
        let mut model = vec![0; DISK_LEN];
        let mut expected: Vec<Option<(usize, Vec<u8>)>> = vec![None; 16];
        let mut done = 0;
        let mut submitted = 0;
        while done < 400 {
            if submitted < 400 {
                submitted += usize::from(submit(&mut pair, &mut model, &mut expected));
            }
            pair.step();
            while let Some(event) = pair.host.events.pop_front() {
                check(&pair, event, &mut expected);
                done += 1;
            }
        }
        assert_eq!(pair.controller.disk, model, "variant {seed}");
        pair.settle();
        assert_eq!(pair.controller.reads_held(), 0);
    }
}

/// Submits a random command if its identifier is free.
fn submit(pair: &mut Pair, model: &mut [u8], expected: &mut [Option<(usize, Vec<u8>)>]) -> bool {
    let cid = pair.seeded.below(16);
    if pair.host.core.is_busy(cid as u16) || expected[cid].is_some() {
        return false;
    }
    let len = 1 + pair.seeded.below(REGION as u64 / 2);
    let at = cid * REGION + pair.seeded.below(REGION as u64 / 2);
    let (opcode, data) = match pair.seeded.below(8) {
        0 => (FLUSH, CommandData::None),
        1..=3 => (READ, CommandData::Read(len as u32)),
        4..=5 if len <= 8192 => (WRITE, CommandData::InCapsule(len as u32)),
        _ => (WRITE, CommandData::Write(len as u32)),
    };
    let mut want = Vec::new();
    match data {
        CommandData::None => {}
        CommandData::Read(_) => {
            pair.host.buffers[cid] = vec![0xee; len];
            want = model[at..at + len].to_vec();
        }
        CommandData::InCapsule(_) | CommandData::Write(_) => {
            let seed = pair.seeded.next();
            let bytes: Vec<u8> = (0..len).map(|i| (seed >> (i % 57)) as u8).collect();
            model[at..at + len].copy_from_slice(&bytes);
            pair.host.buffers[cid] = bytes;
        }
    }
    expected[cid] = Some((want.len(), want));
    let sqe = io(opcode, cid as u16, at, len);
    assert!(pair.host.core.submit_command(&sqe, data));
    true
}

fn check(pair: &Pair, event: HostEvent, expected: &mut [Option<(usize, Vec<u8>)>]) {
    let HostEvent::Completion {
        cqe,
        data_len,
        data_ok,
    } = event
    else {
        panic!("{event:?}");
    };
    let cid = usize::from(cqe.cid);
    let (len, want) = expected[cid].take().expect("a submitted command");
    assert!(cqe.status.is_success() && data_ok, "{cqe:?}");
    assert_eq!(data_len as usize, len);
    if len > 0 {
        assert_eq!(pair.host.buffers[cid], want);
    }
}

#[test]
fn responses_without_data_are_one_gather_entry() {
    let mut pair = Pair::new(HostConfig::default(), ControllerConfig::default(), 1);
    for cid in 0..100 {
        let sqe = io(FLUSH, cid, 0, 0);
        assert!(pair.host.core.submit_command(&sqe, CommandData::None));
    }
    assert_eq!(pair.host.core.transmit().count(), 1);
    pair.controller.staged = pair.host.send(usize::MAX);
    let turn = pair.controller.turn(pair.now, &mut pair.seeded);
    turn.expect("a well-behaved host");
    let chunks: Vec<_> = pair.controller.core.transmit().collect();
    assert!(matches!(chunks[..], [Chunk::Bytes(bytes)] if bytes.len() == 100 * 24));
}

#[test]
fn corrupt_data_is_reported_and_the_connection_stays() {
    // TCP Transport 1.0c §3.6.1 (DDGST): a data digest error is the command's, not the connection's.
    let config = HostConfig {
        data_digest: true,
        ..HostConfig::default()
    };
    let mut pair = Pair::new(config, ControllerConfig::default(), 1);
    for (cid, data) in [
        (0, CommandData::InCapsule(512)),
        (1, CommandData::Write(512)),
        (2, CommandData::Read(512)),
    ] {
        let opcode = if cid == 2 { READ } else { WRITE };
        pair.host.buffers[usize::from(cid)] = vec![7; 512];
        let sqe = io(opcode, cid, 0, 512);
        assert!(pair.host.core.submit_command(&sqe, data));
        loop {
            let mut to_controller = pair.host.send(usize::MAX);
            if to_controller.len() > 512 {
                let last = to_controller.len() - 5;
                to_controller[last] ^= 1;
            }
            pair.controller.staged.extend(to_controller);
            let turn = pair.controller.turn(pair.now, &mut pair.seeded);
            turn.expect("no fault");
            let mut to_host = pair.controller.send(usize::MAX);
            if to_host.len() > 512 {
                to_host[100] ^= 1;
            }
            pair.host.staged.extend(to_host);
            let turn = pair.host.turn(pair.now, &mut pair.seeded);
            turn.expect("no fault");
            if let Some(event) = pair.host.events.pop_front() {
                let HostEvent::Completion { cqe, data_ok, .. } = event else {
                    panic!("{event:?}");
                };
                let ok = cqe.status.is_success() && data_ok;
                assert!(!ok, "corruption of command {cid} was not noticed");
                break;
            }
        }
    }
    assert!(pair.controller.disk.iter().all(|byte| *byte == 0));
    let sqe = io(FLUSH, 5, 0, 0);
    assert!(pair.host.core.submit_command(&sqe, CommandData::None));
    pair.settle();
    assert_eq!(pair.host.events.len(), 1);
}

#[test]
fn a_completion_waits_for_its_data_to_leave() {
    let mut pair = Pair::new(HostConfig::default(), ControllerConfig::default(), 1);
    pair.host.buffers[3] = vec![1; 4096];
    let sqe = io(WRITE, 3, 0, 4096);
    let submitted = pair
        .host
        .core
        .submit_command(&sqe, CommandData::InCapsule(4096));
    assert!(submitted);
    // A controller may refuse a command once it has seen the first 72 bytes of its capsule.
    pair.host.send(100);
    let early = nvme_spec::Cqe::new(3, nvme_spec::Status::INVALID_OPCODE);
    pair.host.staged = response(&early);
    let turn = pair.host.turn(pair.now, &mut pair.seeded);
    turn.expect("not a fault");
    assert!(pair.host.events.is_empty() && pair.host.core.is_busy(3));
    pair.host.send(usize::MAX);
    assert!(matches!(
        pair.host.events.pop_front(),
        Some(HostEvent::Completion { cqe, .. }) if cqe == early
    ));
    assert!(!pair.host.core.is_busy(3));
}

fn response(cqe: &nvme_spec::Cqe) -> Vec<u8> {
    let mut raw = vec![5, 0, 24, 0, 24, 0, 0, 0];
    raw.extend(cqe.to_bytes());
    raw
}

#[test]
fn a_cancelled_fetch_is_drained_and_its_tag_reused() {
    let mut pair = Pair::new(HostConfig::default(), ControllerConfig::default(), 1);
    pair.host.buffers[0] = vec![9; 16384];
    let sqe = io(WRITE, 0, 0, 16384);
    let data = CommandData::Write(16384);
    assert!(pair.host.core.submit_command(&sqe, data));
    pair.controller.staged = pair.host.send(usize::MAX);
    let turn = pair.controller.turn(pair.now, &mut pair.seeded);
    turn.expect("no fault");
    pair.host.staged = pair.controller.send(usize::MAX);
    let turn = pair.host.turn(pair.now, &mut pair.seeded);
    turn.expect("no fault");
    // Cancelled in the middle of the data PDU: the rest is dropped, not placed.
    pair.controller.staged = pair.host.send(5000);
    let turn = pair.controller.turn(pair.now, &mut pair.seeded);
    turn.expect("no fault");
    assert!(!pair.controller.core.cancel_fetch(FetchTag(0)));
    assert!(matches!(
        pair.controller.core.want(),
        Want::Payload {
            dst: PayloadDst::Discard(FetchTag(0)),
            ..
        }
    ));
    pair.controller.staged = pair.host.send(usize::MAX);
    let turn = pair.controller.turn(pair.now, &mut pair.seeded);
    turn.expect("no fault");
    assert_eq!(
        pair.controller.events.last(),
        Some(&ControllerEvent::FetchDrained { tag: FetchTag(0) })
    );
    assert!(pair.controller.disk.iter().all(|byte| *byte == 0));
    pair.controller.core.submit_fetch(0, FetchTag(0), 512);
}

#[test]
fn a_connection_moves_between_threads() {
    fn is_send<T: Send>() {}
    is_send::<Controller>();
    is_send::<Host>();
    let pair = Pair::new(HostConfig::default(), ControllerConfig::default(), 1);
    let controller = std::thread::spawn(move || {
        let mut side = pair.controller;
        let sqe = io(FLUSH, 1, 0, 0);
        side.core
            .submit_response(&nvme_spec::Cqe::new(sqe.cid(), nvme_spec::Status::SUCCESS));
        side
    })
    .join()
    .expect("no panic");
    assert!(controller.core.has_transmit());
}
