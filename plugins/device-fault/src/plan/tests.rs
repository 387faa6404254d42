//! The plan as a table: rules, an operation, a time, a verdict.

use super::*;
use crate::rule::parse;

fn plan(rules: &[&str]) -> Plan {
    let mut plan = Plan::new(7);
    for rule in rules {
        plan.add(parse(rule).unwrap_or_else(|error| panic!("{rule}: {error}")))
            .unwrap();
    }
    plan
}

/// `r`, `w`, `z`, `d`, each with blocks, or `f`.
fn ask(kind: char, start: u64, count: u64) -> Ask {
    let range = Some(BlockRange::new(start, count));
    let (kind, range) = match kind {
        'r' => (OpKind::Read, range),
        'w' => (OpKind::Write, range),
        'z' => (OpKind::Zeroes, range),
        'd' => (OpKind::Discard, range),
        _ => (OpKind::Flush, None),
    };
    let fua = false;
    Ask { kind, range, fua }
}

fn durable(ask: Ask) -> Ask {
    Ask { fua: true, ..ask }
}

fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

fn hits(plan: &mut Plan, ask: Ask, now: Duration) -> Option<u32> {
    plan.judge(ask, now).hit.map(|hit| hit.rule)
}

#[test]
fn a_rule_is_for_its_operations_and_blocks() {
    // For each rule the operations it hits, of those listed first.
    let all = [
        ('r', 0, 8),
        ('r', 8, 8),
        ('w', 0, 8),
        ('w', 15, 8),
        ('w', 16, 8),
        ('z', 8, 1),
        ('d', 0, 100),
        ('f', 0, 0),
    ];
    for (rule, expected) in [
        ("error", "11111111"),
        ("error,op=read", "11000000"),
        ("error,op=write+flush", "00111001"),
        ("error,start=8,blocks=8", "01010110"),
        ("error,op=write,start=16", "00011000"),
        ("error,blocks=1", "10100010"),
        ("torn", "00111100"),
        ("lose", "00111100"),
        ("lose,op=flush", "00000001"),
        ("misdirect", "00111000"),
        ("rot", "11000000"),
        ("stuck,op=discard", "00000010"),
    ] {
        let seen: String = all
            .iter()
            .map(|(kind, start, count)| {
                let hit = hits(&mut plan(&[rule]), ask(*kind, *start, *count), ms(0));
                if hit.is_some() { '1' } else { '0' }
            })
            .collect();
        assert_eq!(seen, expected, "{rule}");
    }
}

#[test]
fn the_blocks_hit_are_those_in_the_range_of_the_rule() {
    for (rule, start, count, blocks) in [
        ("error", 3, 9, BlockRange::new(3, 9)),
        ("error,start=5,blocks=2", 3, 9, BlockRange::new(5, 2)),
        ("error,start=5", 3, 9, BlockRange::new(5, 7)),
        ("error,blocks=4", 3, 9, BlockRange::new(3, 1)),
    ] {
        let verdict = plan(&[rule]).judge(ask('r', start, count), ms(0));
        assert_eq!(verdict.hit.unwrap().blocks, blocks, "{rule}");
    }
}

#[test]
fn a_durable_write_is_lost_only_if_the_rule_says_so() {
    let write = durable(ask('w', 0, 1));
    assert_eq!(hits(&mut plan(&["lose"]), write, ms(0)), None);
    assert_eq!(hits(&mut plan(&["lose,fua=yes"]), write, ms(0)), Some(1));
    assert_eq!(hits(&mut plan(&["torn"]), write, ms(0)), Some(1));
}

#[test]
fn skip_and_count_are_of_operations_the_rule_has_seen() {
    let mut plan = plan(&["error,op=read,skip=2,count=3"]);
    let mut pattern = String::new();
    for _ in 0..8 {
        assert_eq!(hits(&mut plan, ask('w', 0, 1), ms(0)), None);
        let hit = hits(&mut plan, ask('r', 0, 1), ms(0));
        pattern.push(if hit.is_some() { '1' } else { '0' });
    }
    assert_eq!(pattern, "00111000");
    assert!(
        plan.describe().contains("seen=8 hits=3"),
        "{}",
        plan.describe()
    );
}

#[test]
fn a_window_is_counted_from_the_first_operation_since_the_rule_came() {
    let mut plan = plan(&["error,from_ms=100,until_ms=200"]);
    for (at, hit) in [
        (5000, false),
        (5099, false),
        (5100, true),
        (5199, true),
        (5200, false),
        (9000, false),
    ] {
        assert_eq!(
            hits(&mut plan, ask('r', 0, 1), ms(at)).is_some(),
            hit,
            "{at}"
        );
    }
    plan.add(parse("error,until_ms=10").unwrap()).unwrap();
    assert_eq!(hits(&mut plan, ask('f', 0, 0), ms(9500)), Some(2));
    assert_eq!(hits(&mut plan, ask('f', 0, 0), ms(9509)), Some(2));
    assert_eq!(hits(&mut plan, ask('f', 0, 0), ms(9510)), None);
}

#[test]
fn chance_repeats_from_the_seed_and_keeps_its_share() {
    let run = |rules: &[&str], other: bool| {
        let mut plan = plan(rules);
        let mut pattern = Vec::new();
        for number in 0..10_000u64 {
            if other {
                // What a rule does not see does not shift its draws; nor does time.
                plan.judge(ask('f', 0, 0), ms(number));
            }
            pattern.push(hits(&mut plan, ask('r', number, 1), ms(number)).is_some());
        }
        pattern
    };
    let first = run(&["error,op=read,probability=0.1,seed=5"], false);
    assert_eq!(first, run(&["error,op=read,probability=0.1,seed=5"], true));
    assert_ne!(first, run(&["error,op=read,probability=0.1,seed=6"], false));
    assert_ne!(first, run(&["error,op=read,probability=0.1"], false));
    let share = first.iter().filter(|hit| **hit).count();
    assert!((850..1150).contains(&share), "{share} of 10000");
}

#[test]
fn delays_add_up_and_the_first_other_fault_counts() {
    let mut plan = plan(&[
        "delay,ms=1",
        "stuck,op=write",
        "delay,ms=10,op=read",
        "delay,ms=100,stage=complete",
        "error,count=1",
        "rot,op=read",
    ]);
    let verdict = plan.judge(ask('r', 0, 1), ms(0));
    assert_eq!(
        (verdict.delay_submit, verdict.delay_complete),
        (ms(11), ms(100))
    );
    assert_eq!(verdict.hit.unwrap().rule, 5);
    let verdict = plan.judge(ask('r', 0, 1), ms(0));
    assert_eq!(verdict.hit.unwrap().rule, 6, "the error is used up");
    let verdict = plan.judge(ask('w', 0, 1), ms(0));
    assert_eq!(
        (verdict.delay_submit, verdict.delay_complete),
        (ms(1), ms(100))
    );
    assert_eq!(verdict.hit.unwrap().rule, 2);
    // The rule behind the one that hit has not seen the write, so the first rot is still one.
    assert!(
        plan.describe().contains("op=read seen=1 hits=1"),
        "{}",
        plan.describe()
    );
}

#[test]
fn jitter_stays_within_its_bound() {
    let mut plan = plan(&["delay,us=100,jitter_us=50"]);
    let waits: Vec<Duration> = (0..1000)
        .map(|_| plan.judge(ask('r', 0, 1), ms(0)).delay_submit)
        .collect();
    let (least, most) = (waits.iter().min().unwrap(), waits.iter().max().unwrap());
    assert!(*least >= Duration::from_micros(100) && *most <= Duration::from_micros(150));
    assert!(
        most.as_micros() - least.as_micros() > 40,
        "{least:?} to {most:?}"
    );
}

#[test]
fn rules_are_bounded_and_their_numbers_are_used_once() {
    let mut plan = Plan::new(0);
    let rule = || parse("error").unwrap();
    for number in 1..=RULES_MAX as u32 {
        assert_eq!(plan.add(rule()), Ok(number));
    }
    assert_eq!(plan.add(rule()), Err(TooManyRules));
    assert!(plan.remove(3) && !plan.remove(3));
    assert_eq!(plan.add(rule()), Ok(RULES_MAX as u32 + 1));
    assert_eq!(plan.clear(), RULES_MAX);
    assert_eq!(plan.add(rule()), Ok(RULES_MAX as u32 + 2));
}

#[test]
fn what_is_held_is_let_go_by_release_and_by_removal() {
    let mut plan = plan(&["stuck", "stuck"]);
    let (a, b) = (plan.hold(Some(1)).unwrap(), plan.hold(Some(2)).unwrap());
    let delayed = plan.hold(None).unwrap();
    let free = |plan: &Plan| {
        [(a, Some(1)), (b, Some(2)), (delayed, None)].map(|(n, rule)| plan.is_released(n, rule))
    };
    assert_eq!(free(&plan), [false; 3]);
    assert!(plan.release(Some(2)));
    assert_eq!(free(&plan), [false, true, false]);
    let later = plan.hold(Some(2)).unwrap();
    assert!(!plan.is_released(later, Some(2)), "held after the release");
    assert!(plan.remove(1));
    assert_eq!(free(&plan), [true, true, false]);
    assert!(plan.release(None));
    assert_eq!(free(&plan), [true; 3]);
    assert!(!plan.release(Some(1)), "it is gone");
    assert_eq!(
        plan.hold(Some(1)),
        None,
        "a rule that is gone holds nothing"
    );
}
