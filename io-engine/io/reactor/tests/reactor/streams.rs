//! Streams over the loopback interface.

use std::io::{IoSlice, IoSliceMut, Read, Write};
use std::net::{Ipv6Addr, SocketAddr, TcpStream};
use std::os::fd::AsFd;
use std::sync::atomic::Ordering::Relaxed;
use std::thread;
use std::time::{Duration, Instant};

use reactor::{Event, ListenError, Reactor, ReactorConfig, SocketOptions};
use rustix::net::sockopt;
use sdk::host::{Host, StreamError, StreamId};

use crate::common::{
    PATIENCE, config, connect, idle, on_each_driver, piece, receive, start, turn_until,
};

#[test]
fn bytes_go_both_ways() {
    on_each_driver(|driver| {
        let (mut reactor, _handle) = start(driver);
        let (stream, mut peer) = connect(&mut reactor);
        for round in 0..100u8 {
            peer.write_all(&[round; 72]).unwrap();
            assert_eq!(receive(&mut reactor, stream, 72), [round; 72]);
            let head = [round; 24];
            let gathered = [IoSlice::new(&head), IoSlice::new(&[1; 8])];
            assert_eq!(reactor.send(stream, &gathered), Ok(32));
            let mut answer = [0; 32];
            peer.read_exact(&mut answer).unwrap();
            assert_eq!((answer[0], answer[31]), (round, 1));
        }
    });
}

#[test]
fn received_bytes_fill_the_buffers_in_order() {
    on_each_driver(|driver| {
        let (mut reactor, _handle) = start(driver);
        let (stream, mut peer) = connect(&mut reactor);
        peer.write_all(b"headpayload").unwrap();
        let (mut head, mut payload) = ([0; 4], [0; 7]);
        turn_until(&mut reactor, |reactor, event| {
            let Event::Readable(_) = event else {
                return None;
            };
            let mut bufs = [IoSliceMut::new(&mut head), IoSliceMut::new(&mut payload)];
            reactor.recv(stream, &mut bufs).ok()
        });
        assert_eq!((&head, &payload), (b"head", b"payload"));
    });
}

#[test]
fn a_slow_reader_stops_the_sender_and_one_event_resumes_it() {
    on_each_driver(|driver| {
        const TOTAL: usize = 32 << 20;
        let (mut reactor, _handle) = start(driver);
        let (stream, mut peer) = connect(&mut reactor);
        let data: Vec<u8> = (0..1 << 20).map(|i| (i % 251) as u8).collect();
        let reader = thread::spawn(move || {
            let mut all = Vec::new();
            peer.read_to_end(&mut all).unwrap();
            all
        });
        let (mut sent, mut refused, mut resumed) = (0, 0, 0);
        let mut waits = false;
        while sent < TOTAL {
            if !waits {
                let at = sent % data.len();
                match reactor.send(stream, &piece(&data[at..])) {
                    Ok(n) => sent += n.min(TOTAL - sent),
                    Err(StreamError::WouldBlock) => (refused, waits) = (refused + 1, true),
                    Err(error) => panic!("{error:?}"),
                }
                continue;
            }
            turn_until(&mut reactor, |reactor, event| match event {
                Event::Writable(s) if s == stream => Some(()),
                Event::Readable(s) => {
                    let mut scratch = [0; 16];
                    let _ = reactor.recv(s, &mut [IoSliceMut::new(&mut scratch)]);
                    None
                }
                _ => None,
            });
            (resumed, waits) = (resumed + 1, false);
        }
        assert!(
            refused > 0,
            "the socket took {TOTAL} bytes without a reader keeping up"
        );
        assert_eq!(refused, resumed);
        reactor.close_stream(stream);
        idle(&mut reactor, Duration::from_millis(1));
        let all = reader.join().unwrap();
        assert!(all.len() >= TOTAL);
        assert!(
            all.iter()
                .enumerate()
                .all(|(i, &b)| b == (i % (1 << 20) % 251) as u8)
        );
    });
}

#[test]
fn the_end_of_the_peer_is_reported_once_the_bytes_are_read() {
    on_each_driver(|driver| {
        let (mut reactor, _handle) = start(driver);
        let (stream, mut peer) = connect(&mut reactor);
        idle(&mut reactor, Duration::from_millis(5));
        peer.write_all(b"last words").unwrap();
        drop(peer);
        assert_eq!(receive(&mut reactor, stream, 100), b"last words");
        let mut scratch = [0; 8];
        let again = reactor.recv(stream, &mut [IoSliceMut::new(&mut scratch)]);
        assert_eq!(again, Err(StreamError::Closed));
        // An ended stream wakes nobody, though its owner keeps it.
        let wakes = reactor.stats().hot_tries.load(Relaxed);
        idle(&mut reactor, Duration::from_millis(20));
        assert_eq!(reactor.stats().hot_tries.load(Relaxed), wakes);
    });
}

#[test]
fn the_peer_sees_us_close_although_a_watch_was_armed() {
    on_each_driver(|driver| {
        let (mut reactor, _handle) = start(driver);
        let (stream, mut peer) = connect(&mut reactor);
        idle(&mut reactor, Duration::from_millis(5));
        reactor.close_stream(stream);
        idle(&mut reactor, Duration::from_millis(1));
        assert_eq!(peer.read(&mut [0; 8]).unwrap(), 0);
    });
}

#[test]
fn last_words_reach_a_peer_that_had_sent_more_than_was_read() {
    on_each_driver(|driver| {
        let (mut reactor, _handle) = start(driver);
        let (stream, mut peer) = connect(&mut reactor);
        peer.write_all(&[7; 10_000]).unwrap();
        assert_eq!(receive(&mut reactor, stream, 100).len(), 100);
        assert_eq!(reactor.send(stream, &piece(b"last words")), Ok(10));
        reactor.end_stream(stream);
        reactor.end_stream(StreamId(u64::MAX));
        let mut heard = Vec::new();
        peer.read_to_end(&mut heard).unwrap();
        assert_eq!(heard, b"last words");
        // The other direction goes on until the peer ends it too.
        peer.write_all(&[8; 100]).unwrap();
        drop(peer);
        // Until its end is reported, which is before the 20 000th byte.
        assert_eq!(receive(&mut reactor, stream, 20_000).len(), 10_000);
        reactor.close_stream(stream);
    });
}

#[test]
fn a_paused_stream_is_silent_until_it_is_resumed() {
    on_each_driver(|driver| {
        let (mut reactor, _handle) = start(driver);
        let (stream, mut peer) = connect(&mut reactor);
        for armed_first in [false, true] {
            if armed_first {
                idle(&mut reactor, Duration::from_millis(5));
            }
            reactor.pause_stream(stream, true);
            peer.write_all(b"held").unwrap();
            let mut events = Vec::new();
            let end = Instant::now() + Duration::from_millis(20);
            while Instant::now() < end {
                reactor.turn(Some(end), &mut events);
            }
            assert!(events.is_empty(), "{events:?}");
            reactor.pause_stream(stream, false);
            assert_eq!(receive(&mut reactor, stream, 4), b"held");
        }
    });
}

#[test]
fn a_stream_moves_to_another_reactor_with_bytes_waiting() {
    on_each_driver(|driver| {
        let (mut first, _handle) = start(driver);
        let (stream, mut peer) = connect(&mut first);
        idle(&mut first, Duration::from_millis(5));
        peer.write_all(b"on the way").unwrap();
        let fd = first.detach_stream(stream).unwrap();
        assert!(first.detach_stream(stream).is_none());
        let served = thread::spawn(move || {
            let (mut second, _handle) = start(driver);
            let stream = second.attach_stream(fd).unwrap();
            let got = receive(&mut second, stream, 10);
            second.send(stream, &piece(b"arrived")).unwrap();
            got
        });
        idle(&mut first, Duration::from_millis(5));
        assert_eq!(served.join().unwrap(), b"on the way");
        let mut answer = [0; 7];
        peer.read_exact(&mut answer).unwrap();
        assert_eq!(&answer, b"arrived");
    });
}

#[test]
fn a_stale_id_reaches_nobody() {
    on_each_driver(|driver| {
        let (mut reactor, _handle) = start(driver);
        let (old, _peer) = connect(&mut reactor);
        reactor.close_stream(old);
        let (new, mut peer) = connect(&mut reactor);
        assert_ne!(old, new);
        let mut scratch = [0; 8];
        peer.write_all(b"x").unwrap();
        assert_eq!(
            reactor.recv(old, &mut [IoSliceMut::new(&mut scratch)]),
            Err(StreamError::Closed)
        );
        assert_eq!(reactor.send(old, &piece(b"y")), Err(StreamError::Closed));
        reactor.close_stream(old);
        reactor.pause_stream(old, true);
        reactor.close_stream(StreamId(u64::MAX));
        assert_eq!(receive(&mut reactor, new, 1), b"x");
    });
}

#[test]
fn a_full_stream_table_makes_connections_wait_not_fail() {
    on_each_driver(|driver| {
        let mut settings = config(driver);
        settings.limits.streams = 1;
        let (mut reactor, _handle) = Reactor::<u32>::new(settings).unwrap();
        let (first, _peer) = connect(&mut reactor);
        let (_, addr) = reactor.listen(([127, 0, 0, 1], 0).into(), 16).unwrap();
        let mut waiting = TcpStream::connect(addr).unwrap();
        idle(&mut reactor, Duration::from_millis(20));
        let pauses = reactor.stats().accept_pauses.load(Relaxed);
        assert!((1..=3).contains(&pauses), "{pauses} attempts in 20 ms");
        reactor.close_stream(first);
        let second = turn_until(&mut reactor, |_, event| match event {
            Event::Accepted { stream, .. } => Some(stream),
            _ => None,
        });
        waiting.write_all(b"patient").unwrap();
        assert_eq!(receive(&mut reactor, second, 7), b"patient");
    });
}

/// Counts the lines of level WARN and above of the thread it is set for.
#[derive(Clone, Default)]
struct Warnings(std::sync::Arc<std::sync::atomic::AtomicU64>);

impl tracing::Subscriber for Warnings {
    fn enabled(&self, metadata: &tracing::Metadata<'_>) -> bool {
        *metadata.level() <= tracing::Level::WARN
    }
    fn new_span(&self, _: &tracing::span::Attributes<'_>) -> tracing::span::Id {
        tracing::span::Id::from_u64(1)
    }
    fn record(&self, _: &tracing::span::Id, _: &tracing::span::Record<'_>) {}
    fn record_follows_from(&self, _: &tracing::span::Id, _: &tracing::span::Id) {}
    fn event(&self, _: &tracing::Event<'_>) {
        self.0.fetch_add(1, Relaxed);
    }
    fn enter(&self, _: &tracing::span::Id) {}
    fn exit(&self, _: &tracing::span::Id) {}
}

#[test]
fn connections_that_find_no_room_do_not_fill_the_log() {
    let warnings = Warnings::default();
    tracing::subscriber::with_default(warnings.clone(), || {
        on_each_driver(|driver| {
            warnings.0.store(0, Relaxed);
            let mut settings = config(driver);
            settings.limits.streams = 1;
            let (mut reactor, _handle) = Reactor::<u32>::new(settings).unwrap();
            let (_first, _peer) = connect(&mut reactor);
            let (_, addr) = reactor.listen(([127, 0, 0, 1], 0).into(), 16).unwrap();
            let _waiting = TcpStream::connect(addr).unwrap();
            idle(&mut reactor, Duration::from_millis(450));
            let pauses = reactor.stats().accept_pauses.load(Relaxed);
            assert!(pauses >= 3, "{pauses}");
            assert_eq!(warnings.0.load(Relaxed), 1, "lines of {pauses} pauses");
        });
    });
}

#[test]
fn many_connections_at_once_are_all_accepted() {
    on_each_driver(|driver| {
        let (mut reactor, _handle) = start(driver);
        let (_, addr) = reactor.listen(([127, 0, 0, 1], 0).into(), 128).unwrap();
        let _peers: Vec<TcpStream> = (0..100)
            .map(|_| TcpStream::connect(addr).unwrap())
            .collect();
        let mut accepted = 0;
        turn_until(&mut reactor, |_, event| {
            accepted += usize::from(matches!(event, Event::Accepted { .. }));
            (accepted == 100).then_some(())
        });
    });
}

#[test]
fn the_unspecified_ipv6_address_serves_both_families() {
    on_each_driver(|driver| {
        let (mut reactor, _handle) = start(driver);
        let any = SocketAddr::from((Ipv6Addr::UNSPECIFIED, 0));
        let Ok((_, addr)) = reactor.listen(any, 16) else {
            return;
        };
        for ip in ["127.0.0.1", "::1"] {
            let to = SocketAddr::new(ip.parse().unwrap(), addr.port());
            let _peer = TcpStream::connect(to).unwrap();
            let (local, peer) = turn_until(&mut reactor, |_, event| match event {
                Event::Accepted { local, peer, .. } => Some((local, peer)),
                _ => None,
            });
            assert_eq!(local, to, "in the family the host used");
            assert_eq!(peer.ip(), to.ip());
        }
    });
}

#[test]
fn sockets_get_their_options() {
    on_each_driver(|driver| {
        let settings = ReactorConfig {
            sockets: SocketOptions {
                congestion: Some("reno".into()),
                user_timeout: Duration::from_millis(12_345),
            },
            ..config(driver)
        };
        let (mut reactor, _handle) = Reactor::<u32>::new(settings).unwrap();
        let (stream, _peer) = connect(&mut reactor);
        let fd = reactor.detach_stream(stream).unwrap();
        let fd = fd.as_fd();
        assert!(sockopt::tcp_nodelay(fd).unwrap());
        assert!(sockopt::socket_keepalive(fd).unwrap());
        assert_eq!(sockopt::tcp_user_timeout(fd).unwrap(), 12_345);
        assert_eq!(sockopt::tcp_congestion(fd).unwrap(), "reno");
    });
}

#[test]
fn an_address_in_use_is_said_to_be_in_use() {
    on_each_driver(|driver| {
        let (mut reactor, _handle) = start(driver);
        let (_, addr) = reactor.listen(([127, 0, 0, 1], 0).into(), 16).unwrap();
        assert!(matches!(reactor.listen(addr, 16), Err(ListenError::InUse(a)) if a == addr));
        let elsewhere = SocketAddr::from(([192, 0, 2, 1], 0));
        assert!(matches!(
            reactor.listen(elsewhere, 16),
            Err(ListenError::NotAvailable(_))
        ));
    });
}

#[test]
fn a_closed_listener_refuses_connections() {
    on_each_driver(|driver| {
        let (mut reactor, _handle) = start(driver);
        let (listener, addr) = reactor.listen(([127, 0, 0, 1], 0).into(), 16).unwrap();
        idle(&mut reactor, Duration::from_millis(5));
        reactor.close_listener(listener);
        reactor.close_listener(listener);
        idle(&mut reactor, Duration::from_millis(5));
        assert!(TcpStream::connect_timeout(&addr, PATIENCE).is_err());
    });
}
