//! Sleeping and being woken: messages, timers, and what an idle reactor costs.

use std::io::Write;
use std::net::TcpStream;
use std::sync::Arc;
use std::sync::atomic::AtomicU32;
use std::sync::atomic::Ordering::Relaxed;
use std::thread;
use std::time::{Duration, Instant};

use reactor::{
    DriverChoice, DriverKind, Event, Full, Limits, Reactor, ReactorConfig, ReactorError,
    ReactorStats, probe,
};
use sdk::host::{Host, StreamId};

use crate::common::{PATIENCE, config, connect, idle, on_each_driver, receive, start, turn_until};

#[test]
fn a_message_wakes_a_sleeping_reactor() {
    on_each_driver(|driver| {
        let (mut reactor, handle) = start(driver);
        let stats = reactor.stats();
        let sender = thread::spawn(move || {
            // Once it has slept, it is asleep most of the time.
            while stats.turns.load(Relaxed) == 0 {
                thread::yield_now();
            }
            thread::sleep(Duration::from_millis(10));
            handle.send(42).unwrap();
        });
        let mut events = Vec::new();
        // Without a deadline only the message can end this turn.
        while events.is_empty() {
            reactor.turn(None, &mut events);
        }
        assert!(matches!(events[..], [Event::Message(42)]));
        sender.join().unwrap();
    });
}

#[test]
fn a_full_mailbox_hands_the_message_back() {
    on_each_driver(|driver| {
        let (mut reactor, handle) = start(driver);
        for n in 0..8 {
            handle.send(n).unwrap();
        }
        let Err(Full(message)) = handle.send(99) else {
            panic!("the mailbox holds 8")
        };
        assert_eq!(message, 99);
        let mut got = Vec::new();
        turn_until(&mut reactor, |_, event| {
            if let Event::Message(n) = event {
                got.push(n);
            }
            (got.len() == 8).then_some(())
        });
        assert_eq!(
            got,
            (0..8).collect::<Vec<_>>(),
            "in the order they were sent"
        );
        handle.send(100).unwrap();
        assert!(!handle.is_gone());
        drop(reactor);
        assert!(handle.is_gone());
        assert!(handle.send(1).is_err());
    });
}

/// One turn that something other than its deadline must end.
fn turn_promptly(reactor: &mut Reactor<u32>, events: &mut Vec<Event<u32>>) {
    let deadline = Instant::now() + PATIENCE;
    reactor.turn(Some(deadline), events);
    assert!(Instant::now() < deadline, "a wake-up was lost");
}

/// A ping-pong in which every message finds the other side asleep or just about to be: one lost wake-up stops it.
#[test]
fn no_wake_up_is_lost() {
    on_each_driver(|driver| {
        const ROUNDS: u32 = 20_000;
        let (mut ping, to_ping) = start(driver);
        let (ready, pong_handle) = std::sync::mpsc::channel();
        let pong = thread::spawn(move || {
            let (mut pong, to_pong) = start(driver);
            ready.send(to_pong).unwrap();
            let mut events = Vec::new();
            let mut next = 0;
            while next < ROUNDS {
                turn_promptly(&mut pong, &mut events);
                for event in events.drain(..) {
                    let Event::Message(n) = event else { continue };
                    assert_eq!(n, next);
                    next += 1;
                    to_ping.send(n).unwrap();
                }
            }
        });
        let to_pong = pong_handle.recv().unwrap();
        let mut events = Vec::new();
        for round in 0..ROUNDS {
            to_pong.send(round).unwrap();
            while events.is_empty() {
                turn_promptly(&mut ping, &mut events);
            }
            assert!(matches!(events[..], [Event::Message(n)] if n == round));
            events.clear();
        }
        pong.join().unwrap();
    });
}

#[test]
fn many_senders_lose_nothing() {
    on_each_driver(|driver| {
        const EACH: u32 = 5_000;
        let (mut reactor, handle) = start(driver);
        let refused = Arc::new(AtomicU32::new(0));
        let senders: Vec<_> = (0..4)
            .map(|_| {
                let (handle, refused) = (handle.clone(), refused.clone());
                thread::spawn(move || {
                    for n in 0..EACH {
                        while handle.send(n).is_err() {
                            refused.fetch_add(1, Relaxed);
                            thread::yield_now();
                        }
                    }
                })
            })
            .collect();
        let mut events = Vec::new();
        let mut got = 0;
        while got < 4 * EACH {
            turn_promptly(&mut reactor, &mut events);
            got += events
                .drain(..)
                .filter(|e| matches!(e, Event::Message(_)))
                .count() as u32;
        }
        for sender in senders {
            sender.join().unwrap();
        }
        reactor.turn(Some(Instant::now()), &mut events);
        assert!(events.is_empty());
    });
}

#[test]
fn a_turn_ends_at_its_deadline_not_before() {
    on_each_driver(|driver| {
        let (mut reactor, _handle) = start(driver);
        let begun = Instant::now();
        let until = begun + Duration::from_micros(20_500);
        let mut turns = 0;
        while Instant::now() < until {
            reactor.turn(Some(until), &mut Vec::new());
            turns += 1;
        }
        assert!(
            turns <= 3,
            "{turns} turns for one deadline: it did not sleep"
        );
        // A deadline that has come does not sleep at all.
        let wakes = reactor.stats().wakes.load(Relaxed);
        reactor.turn(Some(begun), &mut Vec::new());
        assert_eq!(reactor.stats().wakes.load(Relaxed), wakes);
    });
}

#[test]
fn idle_streams_cost_nothing() {
    on_each_driver(|driver| {
        let (mut reactor, _handle) = start(driver);
        let (_, addr) = reactor.listen(([127, 0, 0, 1], 0).into(), 256).unwrap();
        let mut peers: Vec<TcpStream> = (0..200)
            .map(|_| TcpStream::connect(addr).unwrap())
            .collect();
        let mut streams: Vec<StreamId> = Vec::new();
        turn_until(&mut reactor, |_, event| {
            if let Event::Accepted { stream, .. } = event {
                streams.push(stream);
            }
            (streams.len() == 200).then_some(())
        });
        idle(&mut reactor, Duration::from_millis(20));
        let counts = |stats: &ReactorStats| {
            (
                stats.hot_tries.load(Relaxed),
                stats.turns.load(Relaxed),
                stats.syscalls.recv.load(Relaxed),
            )
        };
        let stats = reactor.stats();
        let before = counts(&stats);
        idle(&mut reactor, Duration::from_millis(100));
        let after = counts(&stats);
        assert_eq!(
            (after.0, after.2),
            (before.0, before.2),
            "idle streams were tried"
        );
        assert!(
            after.1 - before.1 <= 5,
            "{} turns while idle",
            after.1 - before.1
        );
        // One active stream among them is the only one looked at. Peers connect in the order they are accepted.
        let local = peers[150].local_addr().unwrap();
        peers[150].write_all(b"hello").unwrap();
        let active = turn_until(&mut reactor, |_, event| match event {
            Event::Readable(stream) => Some(stream),
            _ => None,
        });
        assert_eq!(receive(&mut reactor, active, 5), b"hello", "from {local}");
        idle(&mut reactor, Duration::from_millis(20));
        let tries = counts(&stats).0 - after.0;
        let turns = counts(&stats).1 - after.1;
        assert!(
            tries <= turns,
            "{tries} tries in {turns} turns: others were tried too"
        );
    });
}

#[test]
fn every_turn_is_accounted_for() {
    on_each_driver(|driver| {
        let begun = Instant::now();
        let (mut reactor, _handle) = start(driver);
        idle(&mut reactor, Duration::from_millis(50));
        reactor.turn(Some(begun), &mut Vec::new());
        let stats = reactor.stats();
        let sum = [&stats.busy_ns, &stats.spin_ns, &stats.sleep_ns].map(|n| n.load(Relaxed));
        let total: u64 = sum.iter().sum();
        let elapsed = begun.elapsed().as_nanos() as u64;
        assert!(total <= elapsed && sum[2] > sum[0], "{sum:?} of {elapsed}");
        assert!(stats.syscalls.enter.load(Relaxed) > 0);
    });
}

#[test]
fn a_reactor_without_spinning_sleeps_after_each_answer() {
    on_each_driver(|driver| {
        let settings = ReactorConfig {
            spin_us_max: 0,
            ..config(driver)
        };
        let (mut reactor, _handle) = Reactor::<u32>::new(settings).unwrap();
        let (stream, mut peer) = connect(&mut reactor);
        let stats = reactor.stats();
        for _ in 0..50 {
            peer.write_all(b"ask").unwrap();
            receive(&mut reactor, stream, 3);
            reactor
                .send(stream, &crate::common::piece(b"answer"))
                .unwrap();
            let (wakes, turns) = (stats.wakes.load(Relaxed), stats.turns.load(Relaxed));
            let until = Instant::now() + Duration::from_millis(2);
            while Instant::now() < until {
                idle(&mut reactor, Duration::from_millis(2));
            }
            assert!(stats.wakes.load(Relaxed) > wakes);
            assert!(stats.turns.load(Relaxed) - turns <= 10, "it spun");
        }
    });
}

#[test]
fn the_driver_is_the_one_asked_for() {
    let (reactor, _handle) = start(DriverChoice::Epoll);
    assert_eq!(reactor.driver(), DriverKind::Epoll);
    let chosen = probe().chosen;
    let (reactor, _handle) = start(DriverChoice::Auto);
    assert_eq!(reactor.driver(), chosen);
    match Reactor::<u32>::new(config(DriverChoice::Uring)) {
        Ok((reactor, _)) => assert_eq!(
            (reactor.driver(), chosen),
            (DriverKind::Uring, DriverKind::Uring)
        ),
        Err(error) => {
            assert!(matches!(error, ReactorError::Uring(_)));
            assert_eq!(chosen, DriverKind::Epoll);
        }
    }
}

#[test]
fn settings_out_of_range_are_named() {
    let refused = |settings: ReactorConfig| match Reactor::<u32>::new(settings) {
        Err(error) => error.to_string(),
        Ok(_) => panic!("accepted"),
    };
    let limits = Limits {
        file_ops: 0,
        ..Limits::default()
    };
    let message = refused(ReactorConfig {
        limits,
        ..ReactorConfig::default()
    });
    assert!(message.contains("limits.file_ops"), "{message}");
    let message = refused(ReactorConfig {
        mailbox: 1 << 20,
        ..ReactorConfig::default()
    });
    assert!(message.contains("mailbox"), "{message}");
    let message = refused(ReactorConfig {
        cpu: Some(1 << 20),
        ..ReactorConfig::default()
    });
    assert!(message.contains("cpu"), "{message}");
}
