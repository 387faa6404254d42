//! What is lent beyond files and streams: listening sockets of a plugin's, and being called for by other threads.

use std::io::Write;
use std::net::{TcpListener, TcpStream};
use std::os::unix::net::{UnixListener, UnixStream};
use std::thread;
use std::time::Duration;

use reactor::Event;
use sdk::host::{Host, HostError, OwnerId};

use crate::common::{idle, on_each_driver, receive, start, turn_until};

#[test]
fn clients_of_a_lent_listener_arrive_at_its_owner() {
    on_each_driver(|driver| {
        let (mut reactor, _handle) = start(driver);
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("socket");
        let unix = UnixListener::bind(&path).unwrap();
        let tcp = TcpListener::bind("127.0.0.1:0").unwrap();
        let addr = tcp.local_addr().unwrap();
        let unix = reactor.adopt_listener(unix.into(), OwnerId(3)).unwrap();
        let tcp = reactor.adopt_listener(tcp.into(), OwnerId(4)).unwrap();
        for (is_unix, wanted, of) in [(true, unix, OwnerId(3)), (false, tcp, OwnerId(4))] {
            let mut client: Box<dyn Write> = match is_unix {
                true => Box::new(UnixStream::connect(&path).unwrap()),
                false => Box::new(TcpStream::connect(addr).unwrap()),
            };
            let (stream, peer) = turn_until(&mut reactor, |_, event| match event {
                Event::Arrived {
                    owner,
                    listener,
                    stream,
                    peer,
                } => {
                    assert_eq!((owner, listener), (of, wanted));
                    Some((stream, peer))
                }
                _ => None,
            });
            assert_eq!(peer.is_none(), is_unix);
            client.write_all(b"hello").unwrap();
            assert_eq!(receive(&mut reactor, stream, 5), b"hello");
        }
        Host::close_listener(&mut reactor, unix);
        // A ring lets go of what it watched on its next turn.
        idle(&mut reactor, Duration::from_millis(10));
        assert!(UnixStream::connect(&path).is_err());
    });
}

#[test]
fn listeners_beyond_the_limit_are_refused() {
    on_each_driver(|driver| {
        let (mut reactor, _handle) = start(driver);
        let mut last = None;
        for owner in 0..1000 {
            let listener = TcpListener::bind("127.0.0.1:0").unwrap();
            if let Err(error) = reactor.adopt_listener(listener.into(), OwnerId(owner)) {
                last = Some(error);
                break;
            }
        }
        assert_eq!(last, Some(HostError::TooMany));
    });
}

#[test]
fn an_owner_called_for_by_other_threads_is_told_at_least_once_and_soon() {
    on_each_driver(|driver| {
        let (mut reactor, _handle) = start(driver);
        let waker = reactor.waker(OwnerId(7)).unwrap();
        // Many calls before the turn are one event.
        for _ in 0..100 {
            waker.wake();
        }
        let mut events = Vec::new();
        reactor.turn(None, &mut events);
        assert!(
            matches!(events[..], [Event::Wake(OwnerId(7))]),
            "{events:?}"
        );
        events.clear();
        for round in 0..200u64 {
            let waker = waker.clone();
            let caller = thread::spawn(move || {
                thread::sleep(Duration::from_micros(round * 10 % 700));
                waker.wake();
            });
            // Without a deadline only the call can end this.
            while events.is_empty() {
                reactor.turn(None, &mut events);
            }
            assert!(
                matches!(events[..], [Event::Wake(OwnerId(7))]),
                "{events:?}"
            );
            events.clear();
            caller.join().unwrap();
        }
    });
}
