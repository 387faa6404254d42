//! What holds whatever the device does: one answer each, bounds, deadlines, counters.

mod scripted;

use std::time::Duration;

use block::{CountedOp, OpKind, Request, Stage, Waits};
use scripted::*;
use sdk::block::{Geometry, IoError, Submitted};
use sdk::buf::{Buf, Payload};
use sdk::host::Host;
use units::{BlockRange, BlockSize, Blocks};

#[test]
fn what_the_device_does_at_once_is_answered_at_once() {
    let mut rig = Rig::new();
    rig.script().at_once.push_back(Ok(None));
    assert!(matches!(rig.answer(write(0, 8)), Ok(None)));
    let buf = Payload::Buf(Buf::from_heap(4096));
    rig.script().at_once.push_back(Ok(Some(buf)));
    assert!(matches!(rig.answer(read(0, 8)), Ok(Some(_))));
    rig.script().at_once.push_back(Err(IoError::NoSpace));
    assert_eq!(rig.answer(write(0, 8)).unwrap_err(), IoError::NoSpace);
    assert!(rig.device.is_idle());
    assert!(rig.poll().is_none());
    let stats = rig.stats();
    let (reads, writes) = (stats.of(CountedOp::Read), stats.of(CountedOp::Write));
    assert_eq!((reads.ops, reads.bytes), (1, 4096));
    assert_eq!((writes.ops, writes.bytes, writes.errors), (2, 4096, 1));
    assert_eq!(writes.latency_ns_sum, 2_000, "the turn took 1 µs");
}

#[test]
fn what_the_device_does_at_once_takes_as_long_as_the_turn() {
    let mut rig = Rig::new();
    let us = Duration::from_micros;
    for (turn, ops) in [(5, 3), (40, 1), (900, 2)] {
        rig.host.advance(us(10_000));
        for _ in 0..ops {
            rig.script().at_once.push_back(Ok(None));
            rig.answer(write(0, 8)).unwrap();
        }
        // In the device for some turns, and found to be done at the begin of the last.
        rig.start(write(8, 8));
        rig.host.advance(us(70));
        rig.device_answers(None);
        rig.poll().unwrap().1.unwrap();
        assert!(rig.device.is_behind());
        rig.device.end_turn(us(turn));
        assert!(!rig.device.is_behind());
    }
    let writes = *rig.device.stats().of(CountedOp::Write);
    assert_eq!(writes.ops, 9);
    assert_eq!(
        (
            writes.latency_ns_sum,
            writes.latency_ns_min,
            writes.latency_ns_max
        ),
        (1000 * (3 * 5 + 40 + 2 * 900 + 3 * 70), 5_000, 900_000)
    );
    for (us, ops) in [(5, 3), (40, 1), (900, 2), (70, 3)] {
        let bucket = block::stats::bucket_of(us * 1000);
        assert_eq!(writes.histogram[bucket], ops, "{us} µs");
    }
}

#[test]
fn a_long_turn_makes_what_was_done_in_it_slow() {
    let mut rig = Rig::new();
    let ms = Duration::from_millis;
    let mut turn = |waited: &[u64], length| {
        for waited in waited {
            let stamps = block::Stamps {
                received: rig.host.now(),
                waits: Waits::default(),
            };
            rig.host.advance(ms(*waited));
            rig.script().at_once.push_back(Ok(None));
            let said = rig.device.submit(&mut rig.host, 1, write(0, 1), stamps);
            assert!(matches!(said, Submitted::Done(Ok(None))));
        }
        rig.device.end_turn(ms(length));
        rig.device.stats().slow
    };
    assert_eq!(turn(&[0, 0, 0], 999), 0);
    assert_eq!(turn(&[0, 0, 0], 1000), 3);
    assert_eq!(turn(&[700], 299), 3);
    assert_eq!(turn(&[700], 300), 4, "both together are slow");
    assert_eq!(turn(&[1000], 0), 5);
    assert_eq!(turn(&[0, 700, 10], 400), 6, "one of them");
    // Nothing is judged twice.
    assert_eq!(turn(&[], 5000), 6);
    // More than are judged one by one.
    let many = [600; block::limits::LATE_MAX + 10];
    assert_eq!(turn(&many, 2000), 6 + many.len() as u64);
}

#[test]
fn what_is_pending_is_answered_once_with_its_latency() {
    let mut rig = Rig::new();
    let tags = [rig.start(read(0, 8)), rig.start(Request::Flush)];
    rig.host.advance(Duration::from_micros(3));
    assert_eq!(rig.device.inflight().count(), 2);
    rig.device_answers_nth(1, None);
    rig.device_answers(None);
    let (tag, result) = rig.poll().unwrap();
    assert_eq!(tag, tags[1]);
    assert!(matches!(result, Ok(None)));
    let (tag, result) = rig.poll().unwrap();
    assert_eq!(tag, tags[0]);
    assert_eq!(result.unwrap().unwrap().len(), 4096);
    assert!(rig.poll().is_none());
    assert!(rig.device.is_idle());
    let reads = rig.stats().of(CountedOp::Read);
    assert_eq!(
        (
            reads.latency_ns_sum,
            reads.latency_ns_min,
            reads.latency_ns_max
        ),
        (3000, 3000, 3000)
    );
    assert_eq!(reads.histogram[block::stats::bucket_of(3000)], 1);
    rig.device.reset_stats();
    assert_eq!(rig.stats().of(CountedOp::Read).ops, 0);
}

#[test]
fn ranges_past_the_end_never_reach_the_device() {
    let mut rig = Rig::new();
    for (start, count) in [(1 << 20, 1), ((1 << 20) - 1, 2), (u64::MAX, 1)] {
        assert_eq!(
            rig.answer(read(start, count)).unwrap_err(),
            IoError::OutOfRange
        );
        assert_eq!(
            rig.answer(discard(start, count)).unwrap_err(),
            IoError::OutOfRange
        );
    }
    let smaller = Geometry {
        block_size: BlockSize::B512,
        blocks: Blocks(100),
    };
    let now = rig.host.now();
    rig.device.set_geometry(now, smaller);
    assert_eq!(rig.answer(write(99, 2)).unwrap_err(), IoError::OutOfRange);
    assert!(rig.taken().is_empty());
    rig.start(write(99, 1));
}

#[test]
fn another_block_size_takes_the_device_offline() {
    let mut rig = Rig::new();
    let tag = rig.start(read(0, 1));
    let now = rig.host.now();
    let other = Geometry {
        block_size: BlockSize::B4096,
        blocks: Blocks(1),
    };
    rig.device.set_geometry(now, other);
    assert_eq!(
        rig.device.health().offline_reason(),
        Some("its block size changed")
    );
    let (answered, result) = rig.poll().unwrap();
    assert_eq!((answered, result.unwrap_err()), (tag, IoError::Gone));
}

#[test]
fn one_more_than_allowed_in_flight_is_busy() {
    let mut rig = Rig::new();
    for _ in 0..INFLIGHT_MAX {
        rig.start(read(0, 1));
    }
    assert_eq!(rig.answer(read(0, 1)).unwrap_err(), IoError::Busy);
    rig.device_answers(None);
    rig.poll().unwrap().1.unwrap();
    rig.start(read(0, 1));
}

#[test]
fn an_overdue_io_is_answered_once_and_its_buffer_stays_with_the_device() {
    let mut rig = Rig::new();
    let tag = rig.start(read(0, 8));
    let started = rig.host.now();
    assert_eq!(rig.device.poll_timeout(), Some(started + DEADLINE));
    rig.host.advance(DEADLINE / 2);
    rig.device.handle_timeout(rig.host.now());
    assert!(rig.poll().is_none());
    rig.host.advance(DEADLINE / 2);
    rig.device.handle_timeout(rig.host.now());
    let (answered, result) = rig.poll().unwrap();
    assert_eq!((answered, result.unwrap_err()), (tag, IoError::Timeout));
    assert_eq!(rig.device.poll_timeout(), None);
    assert_eq!(rig.device.overdue(), 1);
    let listed: Vec<_> = rig.device.inflight().collect();
    assert_eq!((listed[0].tag, listed[0].stage), (tag, Stage::Overdue));
    assert_eq!(rig.device.poll_expired(), Some(tag));
    assert_eq!(rig.device.poll_expired(), None);
    assert!(!rig.device.is_idle(), "the device still has the buffer");
    rig.device_answers(None);
    assert!(rig.poll().is_none(), "answered already");
    assert!(rig.device.is_idle());
    assert_eq!(rig.stats().late_completions, 1);
    assert_eq!(rig.stats().timeouts, 1);
}

#[test]
fn too_many_overdue_take_the_device_offline() {
    let mut rig = Rig::new();
    let overdue: Vec<u64> = (0..=OVERDUE_MAX as u64)
        .map(|n| rig.start(read(n, 1)))
        .collect();
    rig.host.advance(DEADLINE / 2);
    let younger = rig.start(read(9, 1));
    rig.host.advance(DEADLINE / 2);
    rig.device.handle_timeout(rig.host.now());
    for tag in overdue {
        let (answered, result) = rig.poll().unwrap();
        assert_eq!((answered, result.unwrap_err()), (tag, IoError::Timeout));
    }
    let (answered, result) = rig.poll().unwrap();
    assert_eq!((answered, result.unwrap_err()), (younger, IoError::Gone));
    assert!(rig.device.health().offline_reason().is_some());
    assert_eq!(rig.answer(read(0, 1)).unwrap_err(), IoError::Gone);
    // What the device says afterwards changes nothing.
    for _ in 0..=OVERDUE_MAX + 1 {
        rig.device_answers(None);
    }
    assert!(rig.poll().is_none());
    assert!(rig.device.is_idle());
    assert_eq!(rig.device.overdue(), 0);
}

#[test]
fn a_change_is_refused_where_an_overdue_one_may_still_land() {
    let mut rig = Rig::new();
    rig.start(write(100, 8));
    rig.host.advance(DEADLINE);
    rig.device.handle_timeout(rig.host.now());
    rig.poll().unwrap().1.unwrap_err();
    for change in [write(107, 1), zeroes(96, 8), discard(100, 8)] {
        assert_eq!(rig.answer(change).unwrap_err(), IoError::Timeout);
    }
    let change = compare_and_write(100, &[0; 512], &[1; 512]);
    assert_eq!(rig.answer(change).unwrap_err(), IoError::Timeout);
    rig.taken();
    rig.start(read(100, 8));
    rig.start(write(108, 1));
    // The device lets go of the overdue write; from here on its range is free.
    rig.device_answers(None);
    assert!(rig.poll().is_none());
    rig.start(write(100, 8));
    assert_eq!(rig.taken(), ["read 100+8", "write 108+1", "write 100+8"]);
}

#[test]
fn completions_nobody_waits_for_are_counted_and_go_nowhere() {
    let mut rig = Rig::new();
    let first = rig.start(read(0, 8));
    let io_tag = rig.script().held[0].0;
    rig.device_answers(None);
    rig.poll().unwrap().1.unwrap();
    // The same tag again, while another I/O has the slot, and tags of nothing at all.
    let second = rig.start(write(0, 8));
    for tag in [io_tag.0, u64::MAX, 1 << 40 | 7] {
        let answer = (sdk::block::IoTag(tag), Ok(None));
        rig.script().answers.push_back(answer);
    }
    assert!(rig.poll().is_none());
    assert_eq!(rig.stats().stray_completions, 3);
    rig.device_answers(None);
    let (answered, result) = rig.poll().unwrap();
    assert!(answered == second && result.is_ok() && first != second);
}

#[test]
fn an_operation_done_at_once_and_completed_again_hits_no_successor() {
    let mut rig = Rig::new();
    rig.start(write(50, 1));
    let held = rig.script().held[0].0;
    rig.device_answers(None);
    rig.poll().unwrap().1.unwrap();
    rig.script().at_once.push_back(Ok(None));
    rig.answer(write(0, 8)).unwrap();
    let successor = rig.start(write(8, 8));
    // The tags the slot had before: of the held operation and of the one done at once.
    for generation in 0..2u64 {
        let tag = sdk::block::IoTag(held.0 + (generation << 32));
        rig.script().answers.push_back((tag, Ok(None)));
    }
    assert!(rig.poll().is_none());
    assert_eq!(rig.stats().stray_completions, 2);
    rig.device_answers(None);
    assert_eq!(rig.poll().unwrap().0, successor);
}

#[test]
fn a_read_with_the_wrong_length_is_a_medium_error() {
    let mut rig = Rig::new();
    let range = BlockRange::new(4, 8);
    rig.script().at_once.push_back(Ok(None));
    assert_eq!(rig.answer(read(4, 8)).unwrap_err(), IoError::Medium(range));
    rig.start(read(4, 8));
    rig.device_reads(&[0; 4095]);
    assert_eq!(rig.poll().unwrap().1.unwrap_err(), IoError::Medium(range));
    assert_eq!(rig.stats().of(CountedOp::Read).errors, 2);
}

#[test]
fn slow_io_is_counted_from_its_reception_without_waiting_for_the_host() {
    let mut rig = Rig::new();
    let ms = |ms: u64| Duration::from_millis(ms);
    let mut io = |host_data_us, before, device| {
        let stamps = block::Stamps {
            received: rig.host.now(),
            waits: Waits {
                host_data_us,
                buffer_us: 0,
            },
        };
        rig.host.advance(before);
        let said = rig.device.submit(&mut rig.host, 1, read(0, 1), stamps);
        assert!(matches!(said, Submitted::Pending));
        rig.host.advance(device);
        rig.device_answers(None);
        rig.poll().unwrap().1.unwrap();
        rig.stats().slow
    };
    assert_eq!(io(0, ms(600), ms(600)), 1);
    assert_eq!(io(0, ms(0), ms(600)), 1);
    // 5 s, of which the host took 4.6 to send its data.
    assert_eq!(io(4_600_000, ms(4_800), ms(200)), 1);
    assert_eq!(io(4_600_000, ms(5_000), ms(600)), 2);
}

#[test]
fn a_device_that_says_it_is_gone_is_offline_and_stays_so() {
    for (request, word) in [
        (Request::Flush, "flush"),
        (zeroes(0, 8), "flush"),
        (read(0, 8), "gone"),
        (write(0, 8), "gone"),
    ] {
        let mut rig = Rig::new();
        let health = rig.device.health();
        let first = rig.start(request);
        let other = rig.start(read(100, 8));
        assert_eq!(health.offline_reason(), None);
        rig.device_answers(Some(IoError::Gone));
        for tag in [first, other] {
            let (answered, result) = rig.poll().unwrap();
            assert_eq!(result.unwrap_err(), IoError::Gone);
            assert!(answered == tag || rig.device.overdue() == 1);
        }
        assert!(
            health.offline_reason().unwrap().contains(word),
            "{health:?}"
        );
        // A later success of the device is not believed.
        rig.taken();
        assert_eq!(rig.answer(Request::Flush).unwrap_err(), IoError::Gone);
        assert!(rig.taken().is_empty());
        rig.device_answers(None);
        assert!(rig.poll().is_none() && rig.device.is_idle());
    }
}

#[test]
fn a_refusal_at_once_takes_the_device_offline_too() {
    let mut rig = Rig::new();
    let pending = rig.start(write(8, 8));
    rig.script().at_once.push_back(Err(IoError::Gone));
    assert_eq!(rig.answer(Request::Flush).unwrap_err(), IoError::Gone);
    assert!(rig.device.health().offline_reason().is_some());
    let (answered, result) = rig.poll().unwrap();
    assert_eq!((answered, result.unwrap_err()), (pending, IoError::Gone));
}

#[test]
fn io_in_flight_is_listed_with_its_stage() {
    let mut rig = Rig::new();
    let caw = rig.start(compare_and_write(0, &[0; 512], &[1; 512]));
    rig.host.advance(Duration::from_secs(1));
    let waiting = rig.start(write(0, 1));
    let mut listed: Vec<_> = rig.device.inflight().collect();
    listed.sort_by_key(|io| io.tag);
    assert_eq!(
        (listed[0].tag, listed[0].op, listed[0].stage),
        (caw, OpKind::CompareAndWrite, Stage::Device)
    );
    assert_eq!(
        (listed[1].tag, listed[1].op, listed[1].stage),
        (waiting, OpKind::Write, Stage::Waiting)
    );
    assert_eq!(
        listed[1].submitted - listed[0].submitted,
        Duration::from_secs(1)
    );
    assert_eq!(listed[1].range, BlockRange::new(0, 1));
}

#[test]
fn a_write_whose_host_is_gone_cannot_overwrite_what_is_acknowledged_after_it() {
    let mut rig = Rig::new();
    let lost = rig.start(write(0, 8));
    assert_eq!(rig.taken().len(), 1, "the lost write is in the device");
    let now = rig.host.now();
    rig.device.orphan(now, |tag| tag == lost);

    let again = rig.start(write(4, 8));
    let elsewhere = rig.start(write(64, 8));
    assert_eq!(
        rig.taken().len(),
        1,
        "only the write elsewhere goes to the device"
    );
    rig.device_answers_nth(1, None);
    assert_eq!(rig.poll().unwrap().0, elsewhere);

    rig.device_answers(None);
    assert_eq!(rig.poll().unwrap().0, lost);
    assert!(rig.poll().is_none());
    assert_eq!(
        rig.taken().len(),
        1,
        "with the lost write done, the later one goes"
    );
    rig.device_answers(None);
    assert_eq!(rig.poll().unwrap().0, again);
    assert!(rig.device.is_idle());
}

#[test]
fn of_a_host_that_is_gone_the_device_gets_no_further_step() {
    let mut rig = Rig::with(|capabilities| capabilities.write_zeroes = sdk::block::Support::None);
    let (old, new) = ([7; 512], [8; 512]);
    let lost = [
        rig.start(zeroes(0, 1200)),
        rig.start(zeroes(600, 1200)),
        rig.start(compare_and_write(5000, &old, &new)),
    ];
    assert_eq!(rig.taken().len(), 3, "first pieces, and the compare's read");
    let now = rig.host.now();
    rig.device.orphan(now, |tag| lost.contains(&tag));
    rig.device_answers(None);
    rig.device_answers(None);
    rig.device_reads(&old);
    for tag in lost {
        let (answered, result) = rig.poll().unwrap();
        assert_eq!((answered, result.unwrap_err()), (tag, IoError::Aborted));
    }
    assert!(rig.taken().is_empty(), "neither pieces nor the write");
    assert!(rig.device.is_idle());
}

#[test]
fn acknowledged_changes_are_unflushed_until_a_flush_that_began_after_them() {
    let mut rig = Rig::new();
    assert!(!rig.device.has_unflushed());
    rig.start(write(0, 8));
    assert!(!rig.device.has_unflushed(), "not acknowledged");
    rig.start(Request::Flush);
    rig.device_answers(None);
    rig.poll().unwrap().1.unwrap();
    rig.device_answers(None);
    rig.poll().unwrap().1.unwrap();
    assert!(rig.device.has_unflushed(), "the flush began before");
    rig.start(Request::Flush);
    rig.device_answers(Some(IoError::Aborted));
    rig.poll().unwrap().1.unwrap_err();
    assert!(rig.device.has_unflushed(), "the flush failed");
    rig.script().at_once.push_back(Ok(None));
    rig.answer(Request::Flush).unwrap();
    assert!(!rig.device.has_unflushed());
    // Durable by itself.
    rig.start(zeroes(0, 8));
    rig.device_answers(None);
    rig.poll().unwrap().1.unwrap();
    assert!(!rig.device.has_unflushed());
    let mut rig = Rig::with(|capabilities| capabilities.volatile_cache = false);
    rig.script().at_once.push_back(Ok(None));
    rig.answer(write(0, 8)).unwrap();
    assert!(!rig.device.has_unflushed(), "there is no cache to lose");
}
