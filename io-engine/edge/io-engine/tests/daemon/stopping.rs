//! Signals: which begin the stop, which are ignored, which cut it short.
//!
//! A call that never ends keeps the stop going for its whole bound, long enough to be interrupted.

use std::time::Duration;

use rustix::process::Signal;

use crate::support::{HOST_A, Setup, directory, disk, pattern};

#[test]
fn a_second_sigterm_does_not_cut_the_stop_short() {
    let dir = directory();
    let file = disk(dir.path(), "disk", 16);
    let setup = Setup::new(&dir.path().join("state"));
    let daemon = setup.start();
    let nqn = daemon.serve(&format!("aio://{}", file.display()), &[]);
    let mut host = daemon.connect(&nqn, HOST_A);
    host.write(1, 0, &pattern(1, 4096)).unwrap();
    daemon.begin_endless_call();
    daemon.signal(Signal::TERM);
    daemon.until_logged("signal=\"SIGTERM\"");
    daemon.signal(Signal::TERM);
    daemon.signal(Signal::INT);
    daemon.until_logged("stopping already");
    // Past the time within which a second signal counts as the same.
    std::thread::sleep(Duration::from_millis(1100));
    daemon.signal(Signal::TERM);
    assert_eq!(daemon.wait(), Some(0), "the stop went to its end");
}

#[test]
fn a_terminal_that_closes_stops_the_engine_in_order() {
    let dir = directory();
    let setup = Setup::new(&dir.path().join("state"));
    let daemon = setup.start();
    daemon.create("malloc:///ram?size_mb=8").unwrap();
    let log = daemon.log();
    daemon.signal(Signal::HUP);
    assert_eq!(daemon.wait(), Some(0));
    let log = log.lock().unwrap();
    assert!(log.contains("signal=\"SIGHUP\""), "{log}");
    assert!(log.contains("stopped"), "{log}");
}

#[test]
fn sigint_again_exits_at_once() {
    let dir = directory();
    let daemon = Setup::new(&dir.path().join("state")).start();
    daemon.begin_endless_call();
    daemon.signal(Signal::INT);
    daemon.until_logged("signal=\"SIGINT\"");
    std::thread::sleep(Duration::from_millis(1100));
    daemon.signal(Signal::INT);
    let stderr = daemon.log();
    assert_eq!(daemon.wait(), Some(130));
    let last = stderr.lock().unwrap().lines().last().map(str::to_owned);
    assert_eq!(
        last.as_deref(),
        Some("io-engine: SIGINT again: exiting at once")
    );
}
