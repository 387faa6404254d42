//! Upstream's URIs as rules.

use super::*;

#[test]
fn a_uri_is_the_rule_it_says() {
    for (uri, rule) in [
        ("inject://d", "error,kind=medium,stage=submit,op=read+write"),
        (
            "inject://d?domain=child&op=r&stage=compl&method=status",
            "error,kind=medium,stage=complete,op=read",
        ),
        (
            "inject://d?domain=block&op=w&method=status-lvol-nospace&retries=3",
            "error,kind=no-space,stage=submit,op=write,count=3",
        ),
        (
            "inject://d?domain=bdev_io&op=rw&method=data&begin_at=100&end_at=2000",
            "rot,bits=all,op=read+write,from_ms=100,until_ms=2000",
        ),
        (
            "inject://d?offset=10240&num_blk=8&method=status-submit-read&op=r",
            "error,kind=gone,stage=submit,op=read,start=10240,blocks=8",
        ),
        (
            "inject://d?method=status-submit-write",
            "error,kind=gone,stage=submit,op=read+write",
        ),
        (
            "inject://d?method=status-admin",
            "error,kind=timeout,stage=submit,op=read+write",
        ),
        (
            "inject://d?num_blk=4",
            "error,kind=medium,stage=submit,op=read+write,start=0,blocks=4",
        ),
    ] {
        let injection = parse(uri).unwrap_or_else(|error| panic!("{uri}: {error}"));
        assert_eq!(injection.rule.to_string(), rule, "{uri}");
        assert_eq!(injection.device, "d");
        assert_eq!(injection.rule.inject.as_deref(), Some(uri));
    }
}

/// NVMe Base 2.0c §3.3.3.2.1.
#[test]
fn an_nvme_status_is_the_error_the_target_answers_it_for() {
    for (codes, kind) in [
        ("0-1", "not-supported"),
        ("0-4", "medium"),
        ("0-6", "timeout"),
        ("0-08", "aborted"),
        ("0-21", "busy"),
        ("0-80", "out-of-range"),
        ("0-81", "no-space"),
        ("2-80", "medium"),
        ("2-81", "medium"),
        ("2-85", "compare-failed"),
        ("3-0", "gone"),
        ("03-70", "gone"),
    ] {
        let injection = parse(&format!("inject://d?method=status-nvme-{codes}")).unwrap();
        let Fault::Error { kind: parsed, .. } = injection.rule.fault else {
            panic!("{codes}: {}", injection.rule);
        };
        assert_eq!(parsed.to_string(), kind, "{codes}");
    }
}

#[test]
fn the_device_may_be_a_path() {
    for (uri, device) in [
        ("inject:///tmp/disk0.img?op=r", "tmp/disk0.img"),
        ("inject://aio/disk?op=r", "aio/disk"),
    ] {
        assert_eq!(parse(uri).unwrap().device, device);
    }
}

#[test]
fn what_is_no_injection_is_refused_by_name() {
    for (uri, complaint) in [
        ("inject://?op=r", "names no device"),
        ("inject://d?domain=nexus", "'domain' is 'nexus'"),
        ("inject://d?op=read", "'op' is 'read'"),
        ("inject://d?stage=complete", "'stage' is 'complete'"),
        ("inject://d?method=explode", "'method' is 'explode'"),
        (
            "inject://d?method=status-nvme-0",
            "'method' is 'status-nvme-0'",
        ),
        ("inject://d?method=status-nvme-0-xx", "'method' is"),
        ("inject://d?method=status-nvme-0-100", "'method' is"),
        (
            "inject://d?method=status-nvme-0-83",
            "no device error stands for",
        ),
        ("inject://d?retries=0", "'retries' is '0'"),
        ("inject://d?num_blk=0", "'num_blk' is '0'"),
        ("inject://d?begin_at=x", "'begin_at' is 'x'"),
        (
            "inject://d?begin_at=5&end_at=4",
            "'end_at' is '4', must be later",
        ),
        ("inject://d?chance=1", "parameter 'chance' is unknown"),
        ("inject://d?op=r&op=w", "names a parameter twice"),
    ] {
        let error = parse(uri).expect_err(uri).to_string();
        assert!(error.contains(complaint), "{uri}: {error}");
    }
}
