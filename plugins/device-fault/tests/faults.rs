//! Each fault as it is seen from above, and what it leaves on the medium below: all but lost and stuck ones.

#[expect(dead_code, reason = "each test file uses a part of the bench")]
mod support;

use std::time::Duration;

use sdk::block::{IoError, Op};
use units::BlockRange;

use support::{Bench, Slab, durable, is_ok, read, write, zeroes};

fn us(us: u64) -> Duration {
    Duration::from_micros(us)
}

#[test]
fn without_rules_it_is_the_device_below() {
    let mut bench = Bench::new(Slab::new(), "");
    assert!(is_ok(&bench.write(3, 2, 7)) && is_ok(&bench.flush()));
    assert_eq!(bench.read(2, 4), Ok(vec![0, 7, 7, 0]));
    assert_eq!(bench.slab.take_log(), ["w3+2", "flush", "r2+4", "r2+4"]);
    assert!(bench.queue.extents(BlockRange::new(0, 8)).is_some());
    assert_eq!(bench.device.name(), "f");
    assert_eq!(bench.device.capabilities().atomic_blocks, 8);
    assert!(bench.device.capabilities().volatile_cache);
}

#[test]
fn each_error_is_answered_and_the_device_below_is_not_asked() {
    let range = BlockRange::new(4, 2);
    for (kind, error) in [
        ("out-of-range", IoError::OutOfRange),
        ("no-space", IoError::NoSpace),
        ("medium", IoError::Medium(range)),
        ("gone", IoError::Gone),
        ("timeout", IoError::Timeout),
        ("not-supported", IoError::NotSupported),
        ("busy", IoError::Busy),
        ("compare-failed", IoError::CompareFailed(0)),
        ("aborted", IoError::Aborted),
    ] {
        let mut bench = Bench::new(Slab::new(), &format!("error,kind={kind},start=4,blocks=2"));
        assert!(is_ok(&bench.write(0, 4, 1)), "blocks before");
        assert!(is_ok(&bench.flush()), "a flush has no blocks");
        bench.slab.take_log();
        for op in [write(3, 5, 2), read(0, 8), zeroes(4, 2)] {
            let answer = bench.run(op).map(|_| ());
            assert_eq!(answer, Err(error), "{kind}");
        }
        assert!(bench.slab.take_log().is_empty(), "{kind}");
        assert_eq!(bench.slab.fills(0, 6), [1, 1, 1, 1, 0, 0]);
        assert_eq!(bench.services.counted("hits_error"), 3);
    }
}

#[test]
fn an_error_after_the_fact_has_happened() {
    for slab in [Slab::new(), Slab::new().pending()] {
        let rule = "error,kind=timeout,stage=complete,op=write+flush";
        let mut bench = Bench::new(slab, rule);
        assert_eq!(bench.write(1, 1, 9).map(|_| ()), Err(IoError::Timeout));
        assert_eq!(bench.flush().map(|_| ()), Err(IoError::Timeout));
        assert_eq!(bench.read(0, 2), Ok(vec![0, 9]));
        assert_eq!(bench.slab.take_log(), ["w1+1", "flush", "r0+2", "r0+2"]);
    }
}

#[test]
fn a_delay_before_submission_holds_the_operation() {
    let mut bench = Bench::new(Slab::new(), "delay,us=1500,op=write");
    let tag = bench.start_pending(write(0, 1, 1));
    assert!(bench.start(read(0, 1)).is_ok(), "others pass");
    assert!(bench.pass(us(1499)).is_empty());
    assert_eq!(bench.slab.take_log(), ["r0+1"]);
    let done = bench.pass(us(10));
    assert_eq!((done.len(), done[0].0, done[0].1), (1, tag, us(1)));
    assert_eq!(bench.slab.take_log(), ["w0+1"]);
    assert_eq!(bench.services.counted("hits_delay"), 1);
}

#[test]
fn a_delay_of_the_answer_holds_the_answer() {
    let mut bench = Bench::new(Slab::new().pending(), "delay,ms=20,stage=complete,op=write");
    let first = bench.start_pending(write(0, 1, 1));
    let second = bench.start_pending(write(1, 1, 2));
    assert_eq!(bench.poll().map(|done| done.0), None);
    assert_eq!(
        bench.slab.fills(0, 2),
        [1, 2],
        "the device below has done them"
    );
    let done = bench.pass(us(20_000));
    let mut tags: Vec<u64> = done.iter().map(|done| done.0).collect();
    tags.sort_unstable();
    assert_eq!(tags, [first, second]);
    assert!(
        done.iter()
            .all(|done| done.1 == us(20_000) && is_ok(&done.2))
    );
}

#[test]
fn delay_and_error_go_together() {
    let mut bench = Bench::new(Slab::new(), "delay,ms=3;error,kind=busy,op=read;delay,ms=4");
    let tag = bench.start_pending(read(0, 1));
    let done = bench.pass(us(10_000));
    assert_eq!((done[0].0, done[0].1), (tag, us(7_000)));
    assert!(matches!(done[0].2, Err(IoError::Busy)));
    assert!(bench.slab.take_log().is_empty());
}

#[test]
fn a_torn_write_leaves_its_first_blocks() {
    // Rule, answer, first byte of blocks 0 to 8 after writing 7 to blocks 1 to 7 over 1.
    for (rule, error, left) in [
        ("torn", None, [1, 7, 7, 7, 1, 1, 1, 1, 1]),
        ("torn,keep=1", None, [1, 7, 1, 1, 1, 1, 1, 1, 1]),
        ("torn,keep=0", None, [1; 9]),
        ("torn,keep=99", None, [1, 7, 7, 7, 7, 7, 7, 7, 1]),
        (
            "torn,keep=2,answer=gone",
            Some(IoError::Gone),
            [1, 7, 7, 1, 1, 1, 1, 1, 1],
        ),
        (
            "torn,keep=0,answer=medium,start=2,blocks=3",
            Some(IoError::Medium(BlockRange::new(2, 3))),
            [1; 9],
        ),
    ] {
        let mut bench = Bench::new(Slab::new(), "");
        assert!(is_ok(&bench.write(0, 9, 1)));
        bench.command(&format!("add {rule}"));
        let answer = bench.write(1, 7, 7);
        assert_eq!(answer.as_ref().err().copied(), error, "{rule}");
        assert_eq!(bench.slab.fills(0, 9), left, "{rule}");
        assert_eq!(bench.services.counted("hits_torn"), 1);
    }
}

#[test]
fn torn_zeroes_leave_old_data() {
    let mut bench = Bench::new(Slab::new().pending(), "torn,op=zeroes");
    assert!(
        is_ok(&bench.write(0, 4, 1)),
        "a write is not torn by this rule"
    );
    assert!(is_ok(&bench.run(zeroes(0, 4))));
    assert_eq!(bench.read(0, 4), Ok(vec![0, 0, 1, 1]));
    assert!(is_ok(&bench.run(zeroes(3, 1))), "half of one block is none");
    assert_eq!(bench.slab.fills(3, 1), [1]);
}

#[test]
fn a_misdirected_write_lands_elsewhere_and_round_the_end() {
    let last = 16_384 - 2;
    // Shift, where 2 blocks are written, where they land.
    for (shift, start, lands) in [
        (1, 10, 11),
        (-3, 10, 7),
        (100, 0, 100),
        (5, last, 4),
        (-1, 0, last),
        (16_383, 10, 10),
    ] {
        let mut bench = Bench::new(Slab::new(), &format!("misdirect,shift={shift}"));
        assert!(is_ok(&bench.write(start, 2, 7)), "nobody is told");
        assert_eq!(bench.slab.take_log(), [format!("w{lands}+2")], "{shift}");
        assert_eq!(bench.slab.fills(lands, 2), [7, 7]);
        if lands.abs_diff(start) > 2 {
            assert_eq!(bench.read(start, 2), Ok(vec![0, 0]), "{shift}");
        }
        assert_eq!(bench.services.counted("hits_misdirect"), 1);
    }
}

#[test]
fn a_misdirected_read_has_the_data_of_other_blocks() {
    let mut bench = Bench::new(
        Slab::new().pending(),
        "misdirect,shift=4,op=read,start=0,blocks=4",
    );
    assert!(is_ok(&bench.write(0, 4, 1)) && is_ok(&bench.write(4, 4, 2)));
    assert_eq!(bench.read(0, 2), Ok(vec![2, 2]));
    assert_eq!(bench.read(4, 2), Ok(vec![2, 2]));
}

#[test]
fn rot_of_reads_leaves_the_medium_alone_and_repeats() {
    for slab in [Slab::new(), Slab::new().pending()] {
        let mut bench = Bench::new(slab, "rot,bits=3,start=2,blocks=2");
        assert!(is_ok(&bench.write(0, 8, 0x55)));
        // Lent bytes and copied ones rot alike: the bench compares them.
        let bytes = bench.read_bytes(0, 8).unwrap();
        let wrong: Vec<u32> = bytes
            .chunks(512)
            .map(|block| block.iter().map(|byte| (byte ^ 0x55).count_ones()).sum())
            .collect();
        assert_eq!(wrong, [0, 0, 3, 3, 0, 0, 0, 0]);
        assert_eq!(
            bench.read_bytes(0, 8).unwrap(),
            bytes,
            "the same bits again"
        );
        assert_eq!(bench.read_bytes(3, 1).unwrap(), bytes[3 * 512..4 * 512]);
        assert_eq!(bench.slab.bytes(BlockRange::new(0, 8)), [0x55; 8 * 512]);
        bench.command("remove all");
        assert_eq!(bench.read_bytes(2, 2).unwrap(), [0x55; 1024]);
    }
}

#[test]
fn rot_of_writes_stays_on_the_medium() {
    let mut bench = Bench::new(Slab::new(), "rot,op=write,start=1,blocks=1,count=1");
    assert!(is_ok(&bench.run(durable(write(0, 3, 0)))));
    let bytes = bench.slab.bytes(BlockRange::new(0, 3));
    let set: Vec<u32> = bytes
        .chunks(512)
        .map(|block| block.iter().map(|byte| byte.count_ones()).sum())
        .collect();
    assert_eq!(set, [0, 1, 0]);
    assert_eq!(bench.slab.take_log(), ["W0+3"], "still durable");
    assert!(is_ok(&bench.write(0, 3, 0)));
    assert_eq!(
        bench.slab.bytes(BlockRange::new(0, 3)),
        [0; 3 * 512],
        "once only"
    );
}

#[test]
fn chance_repeats_with_the_device_seed() {
    let trace = |seed: u64| -> Vec<bool> {
        let rules = "error,op=write,probability=0.3";
        let uri = format!("fault:///f?device=slab:///s&seed={seed}&rules={rules}");
        let mut bench = Bench::open(Slab::new(), &uri);
        (0..200).map(|at| bench.write(at, 1, 1).is_ok()).collect()
    };
    assert_eq!(trace(1), trace(1));
    assert_ne!(trace(1), trace(2));
}

#[test]
fn a_window_follows_the_clock() {
    let mut bench = Bench::new(Slab::new(), "error,from_ms=10,until_ms=20");
    bench.host.advance(Duration::from_secs(100));
    let mut answers = Vec::new();
    for _ in 0..5 {
        answers.push(bench.flush().is_ok());
        bench.host.advance(Duration::from_millis(5));
    }
    assert_eq!(answers, [true, true, false, false, true]);
}

#[test]
fn rules_change_while_the_device_is_in_use() {
    let mut bench = Bench::new(Slab::new(), "");
    assert!(is_ok(&bench.write(0, 1, 1)));
    let answer = bench.command("add error kind=no-space op=write count=1");
    assert_eq!(
        answer,
        "rule 1: error,kind=no-space,stage=submit,op=write,count=1"
    );
    assert_eq!(bench.write(0, 1, 2).map(|_| ()), Err(IoError::NoSpace));
    assert!(is_ok(&bench.write(0, 1, 3)));
    let list = bench.command("list");
    assert_eq!(
        list,
        "overlay: 0 blocks\nheld: 0\nrule 1: error,kind=no-space,stage=submit,op=write,count=1 seen=2 hits=1\n"
    );
    bench.command("add error");
    assert!(bench.flush().is_err());
    assert_eq!(bench.command("remove 2"), "1 rule removed");
    assert!(is_ok(&bench.flush()));
    assert_eq!(bench.command("remove all"), "1 rule removed");
    assert_eq!(
        bench.services.lines().len(),
        4,
        "one a change, and none for 'list'"
    );
}

#[test]
fn upstream_injections_are_rules() {
    let mut bench = Bench::new(Slab::new(), "");
    let uri = "inject://f?op=w&method=status-lvol-nospace&retries=1&offset=8&num_blk=8";
    bench.command(uri);
    let below = "inject:///slabs/s?op=r&stage=compl&method=status-nvme-2-81";
    bench.command(&format!("add {below}"));
    assert!(is_ok(&bench.write(0, 8, 1)));
    assert_eq!(bench.write(8, 1, 1).map(|_| ()), Err(IoError::NoSpace));
    assert!(is_ok(&bench.write(8, 1, 1)));
    assert_eq!(
        bench.read(3, 2),
        Err(IoError::Medium(BlockRange::new(3, 2)))
    );
    assert!(
        bench
            .command("list")
            .contains(&format!("hits=1 from {uri}\n"))
    );
    assert_eq!(bench.command(&format!("remove {below}")), "1 rule removed");
    assert_eq!(bench.read(8, 1), Ok(vec![1]));
    let uri = "fault:///g?device=slab:///s&rules=inject://g%3Fmethod=data%26op=r";
    drop(bench);
    let mut bench = Bench::open(Slab::new(), uri);
    assert_ne!(bench.read_bytes(0, 4).unwrap(), [0; 2048]);
}

#[test]
fn commands_that_are_none_are_refused_by_name() {
    let mut bench = Bench::new(Slab::new(), "stuck");
    let long = format!("add {}", "x".repeat(5000));
    for (command, complaint) in [
        ("", "command '' is unknown; use one of: list, add RULE"),
        ("reboot now", "command 'reboot' is unknown"),
        ("add", "a rule is empty"),
        ("add explode", "fault 'explode' is unknown"),
        ("remove", "there is no rule ''"),
        ("remove 7", "there is no rule '7'"),
        (
            "remove inject://f?op=r",
            "there is no rule 'inject://f?op=r'",
        ),
        ("release 9", "there is no rule '9'"),
        ("release x", "there is no rule 'x'"),
        ("list all", "'list' does not take 'all'"),
        ("power-cut 1", "'power-cut' does not take '1'"),
        (
            "inject://other?op=r",
            "it names device 'other', this one is 'f' on '/slabs/s'",
        ),
        (long.as_str(), "longer than 4096"),
    ] {
        let error = bench.device.handle_command(command).expect_err(command);
        let text = error.to_string();
        assert!(text.contains(complaint), "{command}: {text}");
    }
    for _ in 1..64 {
        bench.command("add error");
    }
    let error = bench.device.handle_command("add error").unwrap_err();
    assert!(error.to_string().contains("there are 64 rules"), "{error}");
}

#[test]
fn a_device_that_goes_away_below_is_gone_above() {
    let mut bench = Bench::new(Slab::new().pending(), "delay,ms=5,op=write;lose,op=zeroes");
    let tag = bench.start_pending(write(0, 1, 1));
    assert!(is_ok(&bench.run(zeroes(8, 1))));
    bench.slab.with(|medium| medium.gone = true);
    let done = bench.pass(us(6_000));
    assert_eq!(done.len(), 1);
    assert!(done[0].0 == tag && matches!(done[0].2, Err(IoError::Gone)));
    assert_eq!(bench.read(0, 1), Err(IoError::Gone));
    assert_eq!(bench.flush().map(|_| ()), Err(IoError::Gone));
    assert_eq!(
        bench.run(Op::Flush).map(|_| ()),
        Err(IoError::Gone),
        "again"
    );
    bench.slab.with(|medium| medium.gone = false);
    assert!(is_ok(&bench.flush()), "what was not written is still to be");
    assert_eq!(
        bench.slab.take_log().last().map(String::as_str),
        Some("flush")
    );
}
