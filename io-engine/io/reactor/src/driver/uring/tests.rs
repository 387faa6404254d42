//! The driver alone, in every completion mode a kernel may leave it with.

use std::os::fd::AsFd;
use std::ptr::NonNull;

use rustix::event::{EventfdFlags, eventfd};

use super::*;

/// A driver for each mode; none where io_uring does not work.
fn drivers() -> Vec<Uring> {
    if probe_ring().is_err() {
        return Vec::new();
    }
    [
        TaskRun::Deferred,
        TaskRun::Cooperative,
        TaskRun::Interrupting,
    ]
    .into_iter()
    .filter_map(|mode| build_with(mode, 4, 8).ok())
    .map(|ring| Uring::over(ring, Arc::default()))
    .collect()
}

fn wait_for(driver: &mut Uring, count: usize) -> Vec<Completion> {
    let mut out = Vec::new();
    for _ in 0..100 {
        driver.sleep(Some(Duration::from_millis(20)), &mut out);
        if out.len() >= count {
            break;
        }
    }
    out
}

#[test]
fn a_watch_fires_once_whether_the_event_comes_before_or_after_it() {
    for mut driver in drivers() {
        for late in [false, true] {
            let fd = eventfd(u32::from(!late), EventfdFlags::NONBLOCK).unwrap();
            let mut watch = Watch::default();
            let source = Source::Listener(5);
            driver
                .watch(fd.as_fd(), source, Direction::Read, &mut watch)
                .unwrap();
            driver
                .watch(fd.as_fd(), source, Direction::Read, &mut watch)
                .unwrap();
            let mut out = Vec::new();
            driver.poll(&mut out);
            if late {
                assert!(out.is_empty());
                rustix::io::write(&fd, &1u64.to_ne_bytes()).unwrap();
            }
            out.extend(wait_for(&mut driver, 1 - out.len()));
            assert_eq!(
                out.iter().map(|c| c.token.source()).collect::<Vec<_>>(),
                [source]
            );
            driver.poll(&mut out);
            assert_eq!(out.len(), 1);
        }
    }
}

#[test]
fn a_removed_watch_stays_silent_for_its_owner() {
    for mut driver in drivers() {
        let fd = eventfd(0, EventfdFlags::NONBLOCK).unwrap();
        let mut watch = Watch::default();
        driver
            .watch(
                fd.as_fd(),
                Source::Stream(1, 1),
                Direction::Read,
                &mut watch,
            )
            .unwrap();
        driver.unwatch(fd.as_fd(), Source::Stream(1, 1), &mut watch);
        assert!(!watch.read);
        // One answer for the watch (cancelled) and one for its removal.
        let out = wait_for(&mut driver, 2);
        assert!(out.iter().all(|c| c.result <= 0), "{out:?}");
    }
}

/// A watch that was woken, while what woke it was consumed by a direct receive, must not outlive its removal: it would
/// hold the socket open.
#[test]
fn a_watch_woken_in_vain_is_removed_all_the_same() {
    for mut driver in drivers() {
        let fd = eventfd(0, EventfdFlags::NONBLOCK).unwrap();
        let mut watch = Watch::default();
        let source = Source::Stream(1, 1);
        driver
            .watch(fd.as_fd(), source, Direction::Read, &mut watch)
            .unwrap();
        let mut out = Vec::new();
        driver.poll(&mut out);
        rustix::io::write(&fd, &1u64.to_ne_bytes()).unwrap();
        rustix::io::read(&fd, &mut [0; 8]).unwrap();
        driver.unwatch(fd.as_fd(), source, &mut watch);
        for _ in 0..100 {
            if out.iter().any(|c| c.token.source() == source) {
                break;
            }
            driver.sleep(Some(Duration::from_millis(5)), &mut out);
        }
        assert!(
            out.iter().any(|c| c.token.source() == source),
            "still armed: {out:?}"
        );
    }
}

#[test]
fn more_completions_than_the_queue_holds_all_arrive() {
    const REQUESTS: u32 = 200;
    for mut driver in drivers() {
        let file = std::fs::File::open("/dev/zero").unwrap();
        let mut memory = vec![1u8; 512 * REQUESTS as usize];
        let base = NonNull::new(memory.as_mut_ptr()).unwrap();
        for index in 0..REQUESTS {
            // SAFETY: within `memory`, which outlives the completions waited for below.
            let ptr = unsafe { base.add(512 * index as usize) };
            let request = Request::Read {
                ptr,
                len: 512,
                offset: 0,
            };
            assert!(
                driver.start(index, file.as_raw_fd(), request),
                "refused at {index}"
            );
        }
        let mut seen = vec![false; REQUESTS as usize];
        for completion in wait_for(&mut driver, REQUESTS as usize) {
            let Source::File(index) = completion.token.source() else {
                panic!()
            };
            assert_eq!(completion.result, 512);
            assert!(!std::mem::replace(&mut seen[index as usize], true));
        }
        assert!(seen.iter().all(|&s| s));
        assert!(memory.iter().all(|&b| b == 0));
    }
}

#[test]
fn a_sleep_ends_at_its_timeout() {
    for mut driver in drivers() {
        let begun = std::time::Instant::now();
        let mut out = Vec::new();
        driver.sleep(Some(Duration::from_millis(5)), &mut out);
        assert!(out.is_empty() && begun.elapsed() >= Duration::from_millis(5));
    }
}

#[test]
fn a_ring_that_does_not_fit_is_made_smaller() {
    let mut asked = Vec::new();
    let made = largest(8192, |sq, cq| {
        asked.push((sq, cq));
        match cq {
            0..=512 => Ok(cq),
            _ => Err(Errno::NOMEM.into()),
        }
    });
    assert_eq!(made.unwrap(), 512);
    assert_eq!(asked, [(1024, 8192), (1024, 2048), (256, 512)]);
    // Another refusal is the same for every size.
    let mut asked = 0;
    let refused = largest(8192, |_, _| -> io::Result<()> {
        asked += 1;
        Err(Errno::PERM.into())
    });
    assert_eq!(refused.unwrap_err().kind(), io::ErrorKind::PermissionDenied);
    assert_eq!(asked, 1);
    let none = largest(8192, |_, _| -> io::Result<()> { Err(Errno::NOMEM.into()) });
    assert_eq!(none.unwrap_err().kind(), io::ErrorKind::OutOfMemory);
}
