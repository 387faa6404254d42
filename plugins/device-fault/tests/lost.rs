//! Writes that are lost until a flush, and what keeps them or loses them.

#[expect(dead_code, reason = "each test file uses a part of the bench")]
mod support;

use sdk::block::{IoError, Op};
use units::BlockRange;

use support::{Bench, Slab, durable, is_ok, write, zeroes};

fn slabs() -> [Slab; 2] {
    [Slab::new(), Slab::new().pending()]
}

#[test]
fn a_lost_write_is_read_back_and_reaches_the_medium_with_the_flush() {
    for slab in slabs() {
        let mut bench = Bench::new(slab, "lose");
        assert!(is_ok(&bench.write(4, 2, 7)));
        assert!(is_ok(&bench.run(zeroes(6, 1))));
        assert_eq!(bench.read(3, 5), Ok(vec![0, 7, 7, 0, 0]));
        assert_eq!(bench.slab.fills(3, 5), [0; 5]);
        assert!(bench.command("list").starts_with("overlay: 3 blocks\n"));
        assert!(bench.queue.extents(BlockRange::new(0, 8)).is_none());
        assert!(bench.queue.extents(BlockRange::new(8, 8)).is_some());
        bench.slab.take_log();
        assert!(is_ok(&bench.flush()));
        assert_eq!(bench.slab.fills(3, 5), [0, 7, 7, 0, 0]);
        assert_eq!(bench.slab.take_log(), ["w4+2", "w6+1", "flush"]);
        assert_eq!(bench.read(3, 5), Ok(vec![0, 7, 7, 0, 0]));
        assert!(bench.command("list").starts_with("overlay: 0 blocks\n"));
    }
}

#[test]
fn a_power_cut_loses_what_was_not_flushed() {
    for slab in slabs() {
        let mut bench = Bench::new(slab, "lose");
        assert!(is_ok(&bench.write(0, 4, 1)) && is_ok(&bench.flush()));
        assert!(is_ok(&bench.write(1, 2, 2)));
        assert_eq!(bench.read(0, 4), Ok(vec![1, 2, 2, 1]));
        let answer = bench.command("power-cut");
        assert_eq!(answer, "2 blocks of unflushed writes are lost");
        assert_eq!(bench.read(0, 4), Ok(vec![1, 1, 1, 1]));
        assert!(is_ok(&bench.flush()));
        assert_eq!(bench.slab.fills(0, 4), [1, 1, 1, 1]);
    }
}

#[test]
fn the_end_of_the_device_is_a_power_cut_and_the_end_of_a_queue_is_none() {
    let mut bench = Bench::new(Slab::new(), "lose");
    assert!(is_ok(&bench.write(0, 2, 5)));
    bench.reopen_queue();
    assert_eq!(bench.read(0, 2), Ok(vec![5, 5]));
    let slab = bench.slab.clone();
    drop(bench);
    let mut bench = Bench::new(slab, "");
    assert_eq!(bench.read(0, 2), Ok(vec![0, 0]));
}

#[test]
fn a_durable_write_is_durable_together_with_what_it_covers() {
    for slab in slabs() {
        let mut bench = Bench::new(slab, "lose");
        assert!(is_ok(&bench.run(durable(write(0, 1, 1)))));
        assert_eq!(bench.slab.take_log(), ["W0+1"], "it is not for the rule");
        assert!(is_ok(&bench.write(0, 4, 2)));
        assert!(is_ok(&bench.run(durable(write(1, 1, 3)))));
        let log = bench.slab.take_log();
        assert_eq!(log.last().map(String::as_str), Some("flush"), "{log:?}");
        bench.command("power-cut");
        assert_eq!(bench.read(0, 4), Ok(vec![2, 3, 2, 2]));
    }
}

#[test]
fn a_device_that_lies_loses_durable_writes_and_flushed_ones() {
    let mut bench = Bench::new(Slab::new(), "lose,fua=yes,op=write+flush");
    assert!(is_ok(&bench.run(durable(write(0, 1, 1)))));
    assert!(is_ok(&bench.write(1, 1, 2)) && is_ok(&bench.flush()));
    assert_eq!(bench.read(0, 2), Ok(vec![1, 2]));
    assert!(
        bench
            .slab
            .with(|medium| medium.log.iter().all(|op| op.starts_with('r')))
    );
    bench.command("power-cut");
    assert_eq!(bench.read(0, 2), Ok(vec![0, 0]));
}

#[test]
fn a_later_write_never_loses_against_an_earlier_lost_one() {
    for slab in slabs() {
        let mut bench = Bench::new(slab, "lose,count=1");
        assert!(is_ok(&bench.write(0, 4, 1)), "lost");
        assert!(is_ok(&bench.write(1, 1, 2)), "not lost, but over it");
        assert!(is_ok(&bench.run(zeroes(2, 1))));
        let range = BlockRange::new(3, 1);
        assert!(is_ok(&bench.run(Op::Discard { range })));
        assert!(is_ok(&bench.write(9, 1, 9)), "past it");
        assert_eq!(bench.slab.fills(9, 1), [9]);
        bench.command("remove all");
        assert!(
            is_ok(&bench.write(0, 1, 4)),
            "the overlay outlives its rule"
        );
        assert_eq!(bench.read(0, 3), Ok(vec![4, 2, 0]));
        assert!(is_ok(&bench.flush()));
        assert_eq!(bench.slab.fills(0, 3), [4, 2, 0]);
        bench.slab.take_log();
        assert!(is_ok(&bench.write(0, 1, 5)));
        assert_eq!(bench.slab.take_log(), ["w0+1"], "all as before");
    }
}

#[test]
fn a_write_during_the_flush_is_neither_flushed_nor_forgotten() {
    let mut bench = Bench::new(Slab::new().pending(), "lose");
    assert!(is_ok(&bench.write(0, 3, 1)));
    bench.slab.with(|medium| medium.silent = true);
    let flush = bench.start_pending(Op::Flush);
    let second = bench.start_pending(Op::Flush);
    assert!(is_ok(&bench.write(1, 1, 2)), "lost in its turn");
    assert_eq!(bench.slab.fills(0, 3), [1, 1, 1], "what the flush writes");
    assert_eq!(bench.read_silently(0, 3), [1, 2, 1]);
    bench.slab.with(|medium| medium.silent = false);
    for expected in [flush, second] {
        let (tag, result) = bench.poll().expect("a flush");
        assert!(tag == expected && is_ok(&result), "{tag}: {result:?}");
    }
    // The first flush is of what was there when it came; the second takes the rest.
    let log = bench.slab.take_log();
    assert_eq!(log, ["w0+3", "r0+3", "flush", "w1+1", "flush"]);
    assert_eq!(bench.slab.fills(0, 3), [1, 2, 1]);
    assert_eq!(bench.in_flight(), 0);
}

#[test]
fn a_power_cut_during_a_flush_fails_the_flush() {
    let mut bench = Bench::new(Slab::new().pending(), "lose");
    assert!(is_ok(&bench.write(0, 1, 1)) && is_ok(&bench.write(9, 1, 1)));
    bench.slab.with(|medium| medium.silent = true);
    let flush = bench.start_pending(Op::Flush);
    let second = bench.start_pending(Op::Flush);
    bench.command("power-cut");
    // The write-out of block 0 is on its way below: a new write must not run into it.
    assert!(is_ok(&bench.run(zeroes(0, 1))));
    bench.slab.with(|medium| medium.silent = false);
    for expected in [flush, second] {
        let (tag, result) = bench.poll().expect("an answer");
        assert!(
            tag == expected && matches!(result, Err(IoError::Aborted)),
            "{result:?}"
        );
    }
    assert_eq!(bench.read(0, 1), Ok(vec![0]));
    assert!(is_ok(&bench.flush()));
    assert_eq!(
        (bench.slab.fills(0, 1), bench.slab.fills(9, 1)),
        (vec![0], vec![0])
    );
}

#[test]
fn a_flush_that_cannot_write_fails_and_may_be_tried_again() {
    for slab in slabs() {
        let mut bench = Bench::new(slab, "lose");
        assert!(is_ok(&bench.write(0, 2, 1)));
        bench.slab.with(|medium| medium.full = true);
        assert_eq!(bench.flush().map(|_| ()), Err(IoError::NoSpace));
        assert_eq!(bench.read(0, 2), Ok(vec![1, 1]));
        bench.slab.with(|medium| medium.full = false);
        assert!(is_ok(&bench.flush()));
        assert_eq!(bench.slab.fills(0, 2), [1, 1]);
    }
}

#[test]
fn a_full_overlay_writes_through_or_is_busy() {
    let uri = "fault:///f?device=slab:///s&rules=lose&overlay_mb=1";
    let mut bench = Bench::open(Slab::new(), uri);
    assert!(is_ok(&bench.write(0, 2048, 1)), "1 MiB");
    assert!(bench.slab.take_log().is_empty());
    assert!(is_ok(&bench.write(4000, 1, 2)));
    assert_eq!(bench.slab.take_log(), ["w4000+1"]);
    assert_eq!(bench.write(2047, 2, 2).map(|_| ()), Err(IoError::Busy));
    assert!(is_ok(&bench.flush()));
    let log = bench.slab.take_log();
    assert_eq!(
        log,
        ["w0+512", "w512+512", "w1024+512", "w1536+512", "flush"]
    );
    assert!(is_ok(&bench.write(2047, 2, 3)));
    assert_eq!(bench.read(2046, 3), Ok(vec![1, 3, 3]));
}

#[test]
fn without_buffers_of_the_host_a_flush_still_ends() {
    let mut bench = Bench::new(Slab::new(), "lose");
    assert!(is_ok(&bench.write(0, 2, 1)));
    bench.host.withhold_buffers(true);
    assert!(is_ok(&bench.flush()));
    assert_eq!(bench.slab.fills(0, 2), [1, 1]);
}

#[test]
fn a_torn_or_misdirected_write_over_the_overlay_is_seen() {
    let mut bench = Bench::new(Slab::new(), "lose,count=1");
    assert!(is_ok(&bench.write(0, 8, 1)));
    bench.command("add torn,count=1");
    assert!(is_ok(&bench.write(0, 4, 2)));
    bench.command("add misdirect,shift=4");
    assert!(is_ok(&bench.write(2, 2, 3)));
    let expected = vec![2, 2, 1, 1, 1, 1, 3, 3];
    assert_eq!(bench.read(0, 8), Ok(expected.clone()));
    assert!(is_ok(&bench.flush()));
    assert_eq!(bench.slab.fills(0, 8), expected);
}

impl Bench {
    /// A read while the device below keeps its completions: submitted, and answered once it speaks for a moment.
    fn read_silently(&mut self, start: u64, count: u64) -> Vec<u8> {
        let tag = self.start_pending(support::read(start, count));
        // The newest completion comes first, so this one is the read's.
        self.slab.with(|medium| medium.silent = false);
        let (done, result) = self.poll().expect("the read");
        self.slab.with(|medium| medium.silent = true);
        assert_eq!(done, tag);
        support::fills(&support::contents(result.expect("data")))
    }
}
