//! Operations that get stuck: what holds them, what lets them go, and that closing leaves nothing behind.

#[expect(dead_code, reason = "each test file uses a part of the bench")]
mod support;

use std::sync::Arc;
use std::time::Duration;

use sdk::block::{IoError, Op};
use units::BlockRange;

use support::{Bench, Slab, contents, fills, is_ok, read, write};

const HOUR: Duration = Duration::from_secs(3600);
const LOOK: Duration = Duration::from_millis(10);

/// Time passes in steps, so that a queue that looks for commands a hundred times a second does not make a test long.
fn wait(bench: &mut Bench, by: Duration) -> usize {
    let mut completed = 0;
    for _ in 0..4 {
        bench.host.advance(by / 4);
        bench.queue.handle_timeout(&mut bench.host);
        while bench.poll().is_some() {
            completed += 1;
        }
    }
    completed
}

#[test]
fn a_stuck_operation_stays_until_it_is_released() {
    let mut bench = Bench::new(Slab::new(), "stuck,op=write");
    let first = bench.start_pending(write(0, 1, 1));
    let second = bench.start_pending(write(1, 1, 2));
    assert_eq!(bench.read(0, 2), Ok(vec![0, 0]), "others pass");
    assert_eq!(wait(&mut bench, HOUR), 0);
    assert!(bench.command("list").contains("held: 2\n"));
    assert_eq!(bench.command("release"), "released");
    let done = bench.pass(LOOK);
    assert_eq!(
        [done[0].0, done[1].0],
        [first, second],
        "in the order in which they came"
    );
    assert_eq!(bench.slab.fills(0, 2), [1, 2]);
    assert!(bench.command("list").contains("held: 0\n"));
    bench.start_pending(write(0, 1, 3));
    assert_eq!(wait(&mut bench, HOUR), 0, "the rule is still there");
    assert_eq!(bench.services.counted("hits_stuck"), 3);
}

#[test]
fn a_stuck_answer_is_of_an_operation_that_was_done() {
    for slab in [Slab::new(), Slab::new().pending()] {
        let mut bench = Bench::new(slab, "stuck,stage=complete");
        let tag = bench.start_pending(write(0, 1, 1));
        assert_eq!(wait(&mut bench, HOUR), 0);
        assert_eq!(bench.slab.fills(0, 1), [1]);
        bench.command("release");
        let done = bench.pass(LOOK);
        assert!(done.len() == 1 && done[0].0 == tag && is_ok(&done[0].2));
        let tag = bench.start_pending(read(0, 1));
        assert!(bench.poll().is_none());
        bench.command("remove all");
        let (_, _, result) = bench.pass(LOOK).pop().expect("the read");
        assert_eq!(fills(&contents(result.unwrap())), [1], "{tag}");
    }
}

#[test]
fn one_rule_is_released_or_removed_at_a_time() {
    let mut bench = Bench::new(
        Slab::new(),
        "stuck,op=write;stuck,op=flush;delay,ms=500,op=read",
    );
    let stuck_write = bench.start_pending(write(0, 1, 1));
    let stuck_flush = bench.start_pending(Op::Flush);
    let delayed = bench.start_pending(read(0, 1));
    bench.command("release 2");
    let done = bench.pass(LOOK);
    assert_eq!(
        done.iter().map(|done| done.0).collect::<Vec<_>>(),
        [stuck_flush]
    );
    bench.command("remove 1");
    let done = bench.pass(LOOK);
    assert_eq!(
        done.iter().map(|done| done.0).collect::<Vec<_>>(),
        [stuck_write]
    );
    bench.command("remove 3");
    assert!(bench.pass(LOOK).is_empty(), "a delay outlives its rule");
    bench.command("release");
    let done = bench.pass(LOOK);
    assert_eq!(
        done.iter().map(|done| done.0).collect::<Vec<_>>(),
        [delayed]
    );
}

#[test]
fn a_rule_removed_while_an_operation_is_delayed_does_not_hold_it() {
    let mut bench = Bench::new(Slab::new(), "delay,ms=50;stuck,op=write");
    let tag = bench.start_pending(write(0, 1, 1));
    bench.pass(LOOK);
    bench.command("remove 2");
    let done = bench.pass(Duration::from_millis(50));
    assert_eq!(done.iter().map(|done| done.0).collect::<Vec<_>>(), [tag]);
}

#[test]
fn a_stuck_operation_meets_the_device_as_it_is_when_it_goes_on() {
    let mut bench = Bench::new(Slab::new(), "stuck,count=2");
    bench.start_pending(write(0, 1, 1));
    bench.start_pending(write(100, 1, 1));
    let mut geometry = bench.device.geometry();
    geometry.blocks.0 = 50;
    bench.queue.set_geometry(geometry);
    bench.command("release");
    let mut done = bench.pass(LOOK);
    assert!(matches!(done.pop().unwrap().2, Err(IoError::OutOfRange)));
    assert!(is_ok(&done.pop().unwrap().2));
    bench.command("add stuck");
    bench.start_pending(write(0, 1, 1));
    bench.slab.with(|medium| medium.gone = true);
    bench.command("remove all");
    assert!(matches!(bench.pass(LOOK)[0].2, Err(IoError::Gone)));
}

#[test]
fn closing_drops_what_is_held_and_nothing_stays_behind() {
    for how in ["close", "drop"] {
        let mut bench = Bench::new(
            Slab::new(),
            "stuck,op=read,stage=complete;stuck,op=write;delay,ms=9,op=flush",
        );
        let range = BlockRange::new(0, 8);
        bench.start_pending(Op::Read { range, buf: None });
        bench.start_pending(write(0, 8, 1));
        bench.start_pending(Op::Flush);
        let lent = bench
            .slab
            .with(|medium| medium.lent.take())
            .expect("a lent chunk");
        assert_eq!(Arc::strong_count(&lent), 2, "the stuck answer has it");
        assert!(bench.command("list").contains("held: 3\n"));
        if how == "close" {
            bench.queue.close(&mut bench.host);
            assert!(bench.queue.poll_completion().is_none());
            assert!(bench.queue.poll_timeout().is_none());
        } else {
            let other = Bench::new(Slab::new(), "");
            bench.queue = other.queue;
        }
        assert_eq!(Arc::strong_count(&lent), 1, "{how}: a leak");
        assert!(bench.command("list").contains("held: 0\n"), "{how}");
        bench.reopen_queue();
        bench.command("remove all");
        assert_eq!(
            bench.read(0, 8),
            Ok(vec![0; 8]),
            "a stuck write is not done by closing"
        );
        assert!(is_ok(&bench.write(0, 1, 1)));
    }
}

#[test]
fn closing_in_the_middle_of_a_flush_keeps_the_overlay_usable() {
    let mut bench = Bench::new(Slab::new().pending(), "lose,count=1");
    assert!(is_ok(&bench.write(0, 2, 1)));
    bench.slab.with(|medium| medium.silent = true);
    bench.start_pending(Op::Flush);
    bench.reopen_queue();
    bench.slab.with(|medium| medium.silent = false);
    assert_eq!(bench.read(0, 2), Ok(vec![1, 1]));
    assert!(is_ok(&bench.flush()));
    assert_eq!(bench.slab.fills(0, 2), [1, 1]);
}

#[test]
fn no_more_than_the_limit_is_held() {
    let mut bench = Bench::new(Slab::new(), "stuck");
    for number in 0..4096 {
        bench.start_pending(write(number, 1, 1));
    }
    assert!(
        bench
            .start(write(5000, 1, 7))
            .is_ok_and(|result| is_ok(&result))
    );
    assert_eq!(bench.slab.fills(5000, 1), [7]);
    bench.command("release");
    assert_eq!(bench.pass(LOOK).len(), 4096);
}
