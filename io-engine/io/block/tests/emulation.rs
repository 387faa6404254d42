//! What the engine does for a device that cannot: zeroes, discard, compare, compare-and-write.

mod scripted;

use std::collections::BTreeMap;

use block::CountedOp;
use conformance::random::Random;
use scripted::*;
use sdk::block::{IoError, Submitted, Support};
use sdk::buf::{Payload, Segment, Segments};
use sdk::host::Host;
use units::BlockRange;

fn compare(start: u64, bytes: &[u8]) -> block::Request {
    block::Request::Compare {
        range: BlockRange::new(start, bytes.len() as u64 / 512),
        buf: filled(bytes),
    }
}

#[test]
fn zeroes_are_written_for_a_device_that_has_none() {
    let mut rig = Rig::with(|capabilities| capabilities.write_zeroes = Support::None);
    // 600 KiB in buffers of 256 KiB.
    let tag = rig.start(zeroes(7, 1200));
    for _ in 0..2 {
        rig.device_answers(None);
        assert!(rig.poll().is_none());
    }
    assert_eq!(
        rig.taken(),
        [
            "write zeroes 7+512 fua",
            "write zeroes 519+512 fua",
            "write zeroes 1031+176 fua"
        ]
    );
    rig.device_answers(None);
    let (answered, result) = rig.poll().unwrap();
    assert!(answered == tag && result.is_ok());
    assert_eq!(rig.stats().of(CountedOp::WriteZeroes).bytes, 1200 * 512);
    assert!(rig.device.is_idle());
}

#[test]
fn a_device_that_refuses_zeroes_is_believed() {
    let mut rig = Rig::new();
    rig.start(zeroes(0, 8));
    rig.device_answers(Some(IoError::NotSupported));
    assert!(rig.poll().is_none());
    rig.device_answers(None);
    rig.poll().unwrap().1.unwrap();
    rig.start(zeroes(8, 8));
    assert_eq!(
        rig.taken(),
        ["zero 0+8", "write zeroes 0+8 fua", "write zeroes 8+8 fua"]
    );
}

#[test]
fn an_error_on_the_way_ends_the_zeroing() {
    let mut rig = Rig::with(|capabilities| capabilities.write_zeroes = Support::None);
    rig.start(zeroes(0, 1200));
    rig.device_answers(Some(IoError::NoSpace));
    assert_eq!(rig.poll().unwrap().1.unwrap_err(), IoError::NoSpace);
    assert_eq!(rig.taken().len(), 1);
    assert!(rig.device.is_idle());
}

#[test]
fn without_a_buffer_zeroing_waits_for_a_turn_and_no_longer_than_the_deadline() {
    let mut rig = Rig::with(|capabilities| capabilities.write_zeroes = Support::None);
    rig.host.withhold_buffers(true);
    let first = rig.start(zeroes(0, 8));
    assert!(rig.device.has_waiting());
    rig.device.handle_turn(&mut rig.host);
    assert!(rig.taken().is_empty() && rig.poll().is_none());
    rig.host.withhold_buffers(false);
    rig.device.handle_turn(&mut rig.host);
    assert_eq!(rig.taken(), ["write zeroes 0+8 fua"]);
    rig.device_answers(None);
    assert_eq!(rig.poll().unwrap().0, first);
    rig.host.withhold_buffers(true);
    rig.start(zeroes(0, 8));
    rig.host.advance(DEADLINE);
    rig.device.handle_timeout(rig.host.now());
    assert_eq!(rig.poll().unwrap().1.unwrap_err(), IoError::Timeout);
    assert!(rig.device.is_idle() && rig.device.overdue() == 0);
}

#[test]
fn a_large_clear_goes_in_pieces_and_lets_others_have_the_reactor() {
    let mut rig = Rig::new();
    // 160 MiB: pieces of 64, 64 and 32 MiB, each done at once by the device.
    for _ in 0..3 {
        rig.script().at_once.push_back(Ok(None));
    }
    let tag = rig.start(discard(5, 327_680));
    for _ in 0..2 {
        assert!(rig.poll().is_none());
        assert!(rig.device.wants_turn());
        rig.device.handle_turn(&mut rig.host);
    }
    let (answered, result) = rig.poll().unwrap();
    assert!(answered == tag && result.is_ok());
    assert!(!rig.device.wants_turn());
    assert_eq!(
        rig.taken(),
        [
            "discard 5+131072",
            "discard 131077+131072",
            "discard 262149+65536"
        ]
    );
}

#[test]
fn discard_is_advice() {
    let mut rig = Rig::with(|capabilities| capabilities.discard = Support::None);
    rig.answer(discard(0, 8)).unwrap();
    assert!(rig.taken().is_empty());
    let mut rig = Rig::new();
    rig.start(discard(0, 8));
    rig.device_answers(Some(IoError::NotSupported));
    rig.poll().unwrap().1.unwrap();
    rig.answer(discard(0, 8)).unwrap();
    assert_eq!(rig.taken(), ["discard 0+8"]);
}

#[test]
fn compare_names_the_first_byte_that_differs() {
    let mut rig = Rig::new();
    let expected = [7u8; 1024];
    rig.start(compare(3, &expected));
    rig.device_reads(&expected);
    assert!(matches!(rig.poll().unwrap().1, Ok(None)));
    let mut other = expected;
    other[513] = 8;
    other[1000] = 8;
    rig.start(compare(3, &expected));
    rig.device_reads(&other);
    let error = rig.poll().unwrap().1.unwrap_err();
    assert_eq!(error, IoError::CompareFailed(513));
    rig.start(compare(3, &expected));
    rig.device_reads(&expected[..512]);
    assert!(matches!(
        rig.poll().unwrap().1.unwrap_err(),
        IoError::Medium(_)
    ));
    assert_eq!(rig.taken(), ["read 3+2"; 3]);
    assert_eq!(rig.stats().of(CountedOp::Compare).ops, 3);
}

#[test]
fn compare_takes_lent_segments() {
    let mut rig = Rig::with(|capabilities| capabilities.lends_reads = true);
    rig.host.withhold_buffers(true);
    let mut segments = Segments::new();
    for bytes in [[1u8; 512], [2; 512], [3; 512]] {
        segments.push(
            Segment::new(
                std::sync::Arc::new(bytes.to_vec().into_boxed_slice().into()),
                0,
                512,
            )
            .unwrap(),
        );
    }
    let mut expected = [1u8; 1536];
    expected[512..1024].fill(2);
    expected[1024..].fill(3);
    let lent = Payload::Lent(segments.clone());
    rig.script().at_once.push_back(Ok(Some(lent)));
    rig.answer(compare(0, &expected)).unwrap();
    expected[1535] = 9;
    let lent = Payload::Lent(segments);
    rig.script().at_once.push_back(Ok(Some(lent)));
    let error = rig.answer(compare(0, &expected)).unwrap_err();
    assert_eq!(error, IoError::CompareFailed(1535));
}

#[test]
fn without_a_buffer_for_all_of_it_a_compare_goes_in_pieces() {
    let mut rig = Rig::new();
    rig.host.limit_buffers(Some(4096));
    let old: Vec<u8> = (0..20 * 512).map(|at| (at / 512) as u8).collect();
    let new = [9; 20 * 512];
    let reads = ["read 5+8", "read 13+8", "read 21+4"];
    let caw = rig.start(compare_and_write(5, &old, &new));
    // Another change waits for all the pieces, as it would for one.
    let behind = rig.start(write(6, 1));
    for (piece, read) in old.chunks(4096).zip(reads) {
        assert!(rig.poll().is_none());
        assert_eq!(rig.taken(), [read]);
        rig.device_reads(piece);
    }
    assert!(rig.poll().is_none());
    assert_eq!(rig.taken(), ["write 5+20"]);
    rig.device_answers(None);
    let (answered, result) = rig.poll().unwrap();
    assert!(answered == caw && result.is_ok());
    assert!(rig.poll().is_none());
    assert_eq!(rig.taken(), ["write 6+1"]);
    rig.device_answers(None);
    assert_eq!(rig.poll().unwrap().0, behind);

    let mut other = old.clone();
    other[9000] ^= 1;
    rig.start(compare_and_write(5, &old, &new));
    for piece in other.chunks(4096) {
        assert!(rig.poll().is_none());
        rig.device_reads(piece);
    }
    let error = rig.poll().unwrap().1.unwrap_err();
    assert_eq!(error, IoError::CompareFailed(9000));
    assert_eq!(rig.taken(), reads, "and nothing is written");
}

#[test]
fn without_any_buffer_a_compare_waits_for_a_turn() {
    let mut rig = Rig::new();
    rig.host.withhold_buffers(true);
    let tag = rig.start(compare(3, &[7; 1024]));
    rig.device.handle_turn(&mut rig.host);
    assert!(rig.device.has_waiting() && rig.taken().is_empty());
    rig.host.withhold_buffers(false);
    rig.device.handle_turn(&mut rig.host);
    rig.device_reads(&[7; 1024]);
    let (answered, result) = rig.poll().unwrap();
    assert!(answered == tag && result.is_ok());
}

#[test]
fn compare_and_write_writes_only_what_compared() {
    let mut rig = Rig::new();
    let (old, new) = ([1u8; 512], [2u8; 512]);
    rig.start(compare_and_write(9, &old, &new));
    rig.device_reads(&old);
    assert!(rig.poll().is_none());
    assert_eq!(rig.taken(), ["read 9+1", "write 9+1"]);
    rig.device_answers(None);
    rig.poll().unwrap().1.unwrap();
    rig.start(compare_and_write(9, &old, &new));
    rig.device_reads(&new);
    let error = rig.poll().unwrap().1.unwrap_err();
    assert_eq!(error, IoError::CompareFailed(0));
    assert_eq!(rig.taken(), ["read 9+1"]);
    assert!(rig.device.is_idle());
}

#[test]
fn changes_of_the_range_wait_for_the_compare_and_write_and_others_do_not() {
    let mut rig = Rig::new();
    let (old, new) = ([1u8; 1024], [2u8; 1024]);
    let caw = rig.start(compare_and_write(10, &old, &new));
    let waiting = rig.start(write(11, 4));
    rig.start(write(12, 4));
    rig.start(read(10, 2));
    assert_eq!(rig.taken(), ["read 10+2", "write 12+4", "read 10+2"]);
    rig.device_reads(&old);
    assert!(rig.poll().is_none());
    assert_eq!(rig.taken(), ["write 10+2"]);
    rig.device_answers_nth(2, None);
    assert_eq!(rig.poll().unwrap().0, caw);
    assert!(rig.poll().is_none());
    assert_eq!(rig.taken(), ["write 11+4"]);
    rig.device_answers_nth(2, None);
    assert_eq!(rig.poll().unwrap().0, waiting);
}

#[test]
fn a_compare_and_write_waits_for_changes_before_it() {
    let mut rig = Rig::new();
    let (old, new) = ([0xaa; 512], [2u8; 512]);
    let before = rig.start(write(10, 1));
    let caw = rig.start(compare_and_write(10, &old, &new));
    let behind = rig.start(compare_and_write(10, &new, &old));
    assert_eq!(rig.taken(), ["write 10+1"]);
    rig.device_answers(None);
    assert_eq!(rig.poll().unwrap().0, before);
    assert!(rig.poll().is_none());
    assert_eq!(rig.taken(), ["read 10+1"]);
    rig.device_reads(&old);
    assert!(rig.poll().is_none());
    rig.device_answers(None);
    assert_eq!(rig.poll().unwrap().0, caw);
    assert!(rig.poll().is_none());
    assert_eq!(rig.taken(), ["write 10+1", "read 10+1"]);
    rig.device_reads(&old);
    let (answered, result) = rig.poll().unwrap();
    assert_eq!(answered, behind);
    assert_eq!(result.unwrap_err(), IoError::CompareFailed(0));
}

#[test]
fn a_compare_and_write_that_is_overdue_frees_its_range() {
    let mut rig = Rig::new();
    rig.start(compare_and_write(10, &[0; 512], &[1; 512]));
    rig.host.advance(DEADLINE / 2);
    let behind = rig.start(write(10, 1));
    rig.host.advance(DEADLINE / 2);
    rig.device.handle_timeout(rig.host.now());
    assert_eq!(rig.poll().unwrap().1.unwrap_err(), IoError::Timeout);
    // Only its read is in the device, and no write will follow.
    assert!(rig.poll().is_none());
    assert_eq!(rig.taken(), ["read 10+1", "write 10+1"]);
    rig.device_reads(&[0; 512]);
    assert!(rig.poll().is_none());
    rig.device_answers(None);
    assert_eq!(rig.poll().unwrap().0, behind);
    assert!(rig.device.is_idle());
}

#[test]
fn compare_and_writes_are_bounded() {
    let mut rig = Rig::new();
    for number in 0..block::limits::COMPARE_AND_WRITE_MAX as u64 {
        rig.start(compare_and_write(number, &[0; 512], &[1; 512]));
    }
    let one_more = compare_and_write(99, &[0; 512], &[1; 512]);
    assert_eq!(rig.answer(one_more).unwrap_err(), IoError::Busy);
}

/// Clients count a block up by compare-and-write, others overwrite blocks beside it, the device answers in any order:
/// the block ends at the number of successes.
#[test]
fn compare_and_write_is_atomic_in_any_order_of_completion() {
    let mut total = 0;
    for seed in 0..200 {
        let mut random = Random::new(seed);
        let mut rig = Rig::new();
        let mut medium: BTreeMap<u64, u8> = BTreeMap::new();
        let mut counting = BTreeMap::new();
        let mut successes = 0u8;
        for _ in 0..300 {
            let block = |medium: &BTreeMap<u64, u8>, at| medium.get(&at).copied().unwrap_or(0);
            if rig.device.inflight().count() < 12 {
                let request = match random.below(3) {
                    0 => write(20 + random.below(4), 1),
                    _ => {
                        let now = block(&medium, 10);
                        compare_and_write(10, &[now; 512], &[now.wrapping_add(1); 512])
                    }
                };
                let counts = matches!(request, block::Request::CompareAndWrite { .. });
                if let (tag, Submitted::Pending) = rig.submit(request) {
                    counting.insert(tag, counts);
                }
            }
            let held = rig.script().held.len() as u64;
            if held > 0 && random.below(3) > 0 {
                let at = random.below(held) as usize;
                let (tag, op) = rig.script().held.remove(at);
                let result = match op {
                    sdk::block::Op::Read { range, .. } => {
                        let byte = block(&medium, range.start.0);
                        Ok(Some(Payload::Buf(filled(&[byte; 512]))))
                    }
                    sdk::block::Op::Write { range, buf, .. } => {
                        medium.insert(range.start.0, buf[0]);
                        Ok(None)
                    }
                    other => panic!("{other:?}"),
                };
                rig.script().answers.push_back((tag, result));
            }
            while let Some((tag, result)) = rig.poll() {
                if counting.remove(&tag) == Some(true) && result.is_ok() {
                    successes += 1;
                }
            }
        }
        let counted = medium.get(&10).copied().unwrap_or(0);
        assert_eq!(counted, successes, "seed {seed}");
        total += u64::from(successes);
    }
    assert!(total > 2000, "the clients get somewhere: {total}");
}
