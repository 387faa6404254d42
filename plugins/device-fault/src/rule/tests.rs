//! Texts and the rules they are, both ways; what is refused and how.

use super::*;

#[test]
fn a_text_is_the_rule_it_says() {
    let parsed = |text| parse(text).unwrap_or_else(|error| panic!("{text}: {error}"));
    for (text, canonical) in [
        ("delay,ms=5", "delay,us=5000,stage=submit,op=all"),
        (
            "delay us=7 jitter_us=3 stage=complete op=read",
            "delay,us=7,jitter_us=3,stage=complete,op=read",
        ),
        ("error", "error,kind=medium,stage=submit,op=all"),
        (
            "error,kind=busy,op=write+read,start=8",
            "error,kind=busy,stage=submit,op=read+write,start=8,blocks=18446744073709551607",
        ),
        ("torn", "torn,answer=ok,op=write+zeroes"),
        (
            "torn,keep=0,answer=aborted,op=write",
            "torn,keep=0,answer=aborted,op=write",
        ),
        ("lose", "lose,fua=no,op=write+zeroes"),
        ("lose,fua=yes,op=flush", "lose,fua=yes,op=flush"),
        ("misdirect", "misdirect,shift=1,op=write"),
        ("misdirect,shift=-9,op=read", "misdirect,shift=-9,op=read"),
        ("rot", "rot,bits=1,op=read"),
        ("rot,bits=all,op=write", "rot,bits=all,op=write"),
        ("stuck,stage=complete", "stuck,stage=complete,op=all"),
        (
            "stuck,blocks=1,skip=2,count=3,probability=0.25,seed=4,from_ms=5,until_ms=6",
            "stuck,stage=submit,op=all,start=0,blocks=1,skip=2,count=3,probability=0.250000,seed=4,from_ms=5,until_ms=6",
        ),
        (
            "error,probability=1",
            "error,kind=medium,stage=submit,op=all",
        ),
        (
            "error,probability=0.000001",
            "error,kind=medium,stage=submit,op=all,probability=0.000001",
        ),
    ] {
        let rule = parsed(text);
        assert_eq!(rule.to_string(), canonical, "{text}");
        assert_eq!(parsed(canonical), rule, "{text}");
    }
}

#[test]
fn every_error_kind_has_its_name() {
    for (kind, name) in ErrorKind::NAMES {
        let rule = parse(&format!("error,kind={name}")).unwrap();
        let stage = Stage::Submit;
        assert_eq!(rule.fault, Fault::Error { kind, stage });
        assert_eq!(kind.to_string(), name);
    }
}

#[test]
fn what_is_no_rule_is_refused_by_name() {
    let long = format!("error,kind={}", "x".repeat(2000));
    for (text, complaint) in [
        ("", "a rule is empty"),
        (" , ", "a rule is empty"),
        (long.as_str(), "longer than 1024"),
        ("explode", "fault 'explode' is unknown"),
        ("error,medium", "'medium' has no value"),
        ("error,op=read,op=write", "'op' is given twice"),
        ("error,bits=1", "fault 'error' does not know 'bits'"),
        ("delay", "fault 'delay' needs us="),
        ("delay,us=1,ms=1", "'ms' is '1', must be left out"),
        ("delay,us=0", "'us' is '0'"),
        ("delay,us=3600000001", "'us' is '3600000001'"),
        ("delay,ms=3600001", "'ms' is"),
        ("delay,us=+1", "'us' is '+1'"),
        ("delay,us=1,jitter_us=3600000001", "'jitter_us' is"),
        (
            "delay,us=1,stage=later",
            "'stage' is 'later', must be submit or complete",
        ),
        (
            "error,kind=eio",
            "'kind' is 'eio', must be one of: out-of-range,",
        ),
        ("error,op=erase", "'op' is 'erase'"),
        ("error,op=", "'op' is ''"),
        ("error,count=0", "'count' is '0'"),
        ("error,blocks=0", "'blocks' is '0'"),
        ("error,start=18446744073709551615", "'start' is"),
        ("error,probability=0", "'probability' is '0'"),
        ("error,probability=1.000001", "'probability' is"),
        ("error,probability=0.0000001", "'probability' is"),
        ("error,probability=.5", "'probability' is '.5'"),
        ("error,probability=-0.5", "'probability' is '-0.5'"),
        (
            "error,from_ms=5,until_ms=5",
            "'until_ms' is '5', must be later",
        ),
        ("error,from_ms=18446744073709551615", "'from_ms' is"),
        ("torn,op=read", "'op' is 'read', must be write, zeroes"),
        ("torn,answer=fine", "'answer' is 'fine'"),
        ("lose,op=discard", "nothing else can be lost"),
        ("lose,fua=1", "'fua' is '1', must be yes or no"),
        ("misdirect,op=flush", "nothing else can be misdirected"),
        ("misdirect,shift=0", "'shift' is '0'"),
        ("rot,op=zeroes", "nothing else carries data"),
        ("rot,bits=4097", "'bits' is '4097'"),
        ("rot,bits=0", "'bits' is '0'"),
    ] {
        let error = parse(text).expect_err(text).to_string();
        assert!(error.contains(complaint), "{text}: {error}");
    }
}
