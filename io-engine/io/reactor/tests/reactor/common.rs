//! A reactor under test, on each driver that works here.

use std::io::{IoSlice, IoSliceMut};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use reactor::{DriverChoice, DriverKind, Event, Handle, Limits, Reactor, ReactorConfig, probe};
use sdk::host::{FileDone, Host, StreamError, StreamId};

/// No test waits longer than this for something that must come.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

/// Small tables, so that their limits are in reach.
pub(crate) fn config(driver: DriverChoice) -> ReactorConfig {
    ReactorConfig {
        driver,
        arena_bytes: 4 << 20,
        mailbox: 8,
        limits: Limits {
            streams: 256,
            files: 8,
            file_ops: 16,
            file_threads: 2,
        },
        ..ReactorConfig::default()
    }
}

/// Runs `test` on epoll, and on io_uring where the machine has it.
pub(crate) fn on_each_driver(test: impl Fn(DriverChoice)) {
    test(DriverChoice::Epoll);
    if probe().chosen == DriverKind::Uring {
        test(DriverChoice::Uring);
    }
}

/// A reactor with default test settings.
pub(crate) fn start(driver: DriverChoice) -> (Reactor<u32>, Handle<u32>) {
    Reactor::new(config(driver)).unwrap()
}

/// Turns until `found` picks something out of the events; what came after it in the same turn is dropped.
pub(crate) fn turn_until<T>(
    reactor: &mut Reactor<u32>,
    mut found: impl FnMut(&mut Reactor<u32>, Event<u32>) -> Option<T>,
) -> T {
    let deadline = Instant::now() + PATIENCE;
    let mut events = Vec::new();
    loop {
        assert!(Instant::now() < deadline, "what was waited for never came");
        reactor.turn(
            Some(Instant::now() + Duration::from_millis(100)),
            &mut events,
        );
        for event in events.drain(..) {
            if let Some(value) = found(reactor, event) {
                return value;
            }
        }
    }
}

/// Turns for `time`, at least once, collecting nothing.
pub(crate) fn idle(reactor: &mut Reactor<u32>, time: Duration) {
    let end = Instant::now() + time;
    let mut events = Vec::new();
    loop {
        reactor.turn(Some(end), &mut events);
        for event in events.drain(..) {
            if let Event::Readable(stream) = event {
                let mut scratch = [0u8; 512];
                let _ = reactor.recv(stream, &mut [IoSliceMut::new(&mut scratch)]);
            }
        }
        if Instant::now() >= end {
            break;
        }
    }
}

/// The completion of the one operation in flight.
pub(crate) fn file_done(reactor: &mut Reactor<u32>) -> FileDone {
    turn_until(reactor, |_, event| match event {
        Event::FileDone { done, .. } => Some(done),
        _ => None,
    })
}

/// A connected pair: our stream, and the peer as a plain blocking socket.
pub(crate) fn connect(reactor: &mut Reactor<u32>) -> (StreamId, TcpStream) {
    let any = SocketAddr::from(([127, 0, 0, 1], 0));
    let (listener, addr) = reactor.listen(any, 16).unwrap();
    let peer = TcpStream::connect(addr).unwrap();
    peer.set_read_timeout(Some(PATIENCE)).unwrap();
    let stream = turn_until(reactor, |_, event| match event {
        Event::Accepted { stream, .. } => Some(stream),
        _ => None,
    });
    reactor.close_listener(listener);
    (stream, peer)
}

/// Receives exactly `want` bytes, or fewer if the stream ends.
pub(crate) fn receive(reactor: &mut Reactor<u32>, stream: StreamId, want: usize) -> Vec<u8> {
    let mut got = Vec::new();
    turn_until(reactor, |reactor, event| {
        if !matches!(event, Event::Readable(s) if s == stream) {
            return None;
        }
        let mut scratch = [0u8; 4096];
        let room = scratch.len().min(want - got.len());
        match reactor.recv(stream, &mut [IoSliceMut::new(&mut scratch[..room])]) {
            Ok(n) => got.extend_from_slice(&scratch[..n]),
            Err(StreamError::WouldBlock) => return None,
            Err(_) => return Some(()),
        }
        (got.len() == want).then_some(())
    });
    got
}

/// One piece as the argument of `send`.
pub(crate) fn piece(bytes: &[u8]) -> [IoSlice<'_>; 1] {
    [IoSlice::new(bytes)]
}
