//! Figures, printed for people: `cargo test --release -p reactor -- --ignored --nocapture figures`.
#![expect(clippy::print_stdout, reason = "printing is what these tests are for")]

use std::hint::black_box;
use std::io::{IoSliceMut, Read, Write};
use std::sync::atomic::Ordering::Relaxed;
use std::thread;
use std::time::{Duration, Instant};

use reactor::{Event, Reactor, ReactorConfig, ReactorStats};
use rustix::net::RecvFlags;
use rustix::time::{ClockId, clock_gettime};
use sdk::host::{FileOp, Host, OwnerId, StreamError};

use crate::common::{config, connect, on_each_driver, piece, start};

const ROUNDS: u32 = 50_000;

fn per_round(stats: &ReactorStats, elapsed: Duration) -> String {
    let of = |n: &std::sync::atomic::AtomicU64| n.load(Relaxed) as f64 / f64::from(ROUNDS);
    let calls = &stats.syscalls;
    format!(
        "{:.2} us, {:.2} recv, {:.2} send, {:.2} enter, {:.2} turns, {:.2} wakes; busy {} ms, spin {} ms, sleep {} ms",
        elapsed.as_secs_f64() * 1e6 / f64::from(ROUNDS),
        of(&calls.recv),
        of(&calls.send),
        of(&calls.enter),
        of(&stats.turns),
        of(&stats.wakes),
        stats.busy_ns.load(Relaxed) / 1_000_000,
        stats.spin_ns.load(Relaxed) / 1_000_000,
        stats.sleep_ns.load(Relaxed) / 1_000_000,
    )
}

/// What this thread has used of a CPU: short figures must not depend on what else runs.
fn cpu_time() -> Duration {
    let spent = clock_gettime(ClockId::ThreadCPUTime);
    Duration::new(spent.tv_sec as u64, spent.tv_nsec as u32)
}

#[test]
#[ignore = "prints figures, checks nothing but completion"]
fn echo() {
    on_each_driver(|driver| {
        for spin_us_max in [0, 100] {
            let settings = ReactorConfig {
                spin_us_max,
                ..config(driver)
            };
            let (mut reactor, _handle) = Reactor::<u32>::new(settings).unwrap();
            let (stream, mut peer) = connect(&mut reactor);
            let host = thread::spawn(move || {
                let mut answer = [0; 24];
                for _ in 0..ROUNDS {
                    peer.write_all(&[7; 72]).unwrap();
                    peer.read_exact(&mut answer).unwrap();
                }
            });
            let begun = Instant::now();
            let mut events = Vec::new();
            let mut scratch = [0; 4096];
            let (mut answered, mut pending) = (0, 0);
            while answered < ROUNDS {
                reactor.turn(None, &mut events);
                for event in events.drain(..) {
                    let Event::Readable(s) = event else { continue };
                    match reactor.recv(s, &mut [IoSliceMut::new(&mut scratch)]) {
                        Ok(n) => pending += n,
                        Err(StreamError::WouldBlock) => {}
                        Err(error) => panic!("{error:?}"),
                    }
                    if pending >= 72 {
                        pending -= 72;
                        reactor.send(stream, &piece(&[1; 24])).unwrap();
                        answered += 1;
                    }
                }
            }
            let elapsed = begun.elapsed();
            host.join().unwrap();
            let figures = per_round(&reactor.stats(), elapsed);
            println!("echo, {driver:?}, spin {spin_us_max} us: {figures}");
        }
    });
}

#[test]
#[ignore = "prints figures, checks nothing but completion"]
fn file_reads() {
    on_each_driver(|driver| {
        for depth in [1, 16] {
            let (mut reactor, _handle) = start(driver);
            let path = std::env::temp_dir().join(format!("reactor-figures-{}", std::process::id()));
            std::fs::write(&path, vec![1; 1 << 20]).unwrap();
            let file = std::fs::File::open(&path).unwrap().into();
            let file = reactor.adopt_file(file, OwnerId(1)).unwrap();
            let (mut started, mut done) = (0u64, 0);
            let mut events = Vec::new();
            let begun = Instant::now();
            while done < u64::from(ROUNDS) {
                while started - done < depth && started < u64::from(ROUNDS) {
                    let buf = reactor.alloc(4096).unwrap();
                    let op = FileOp::Read {
                        offset: started % 256 * 4096,
                        buf,
                        filled: 0,
                    };
                    reactor.submit_file(file, started, op).unwrap();
                    started += 1;
                }
                reactor.turn(None, &mut events);
                done += events
                    .drain(..)
                    .filter(|e| matches!(e, Event::FileDone { .. }))
                    .count() as u64;
            }
            let figures = per_round(&reactor.stats(), begun.elapsed());
            println!("4 KiB cached reads, {driver:?}, depth {depth}: {figures}");
            std::fs::remove_file(&path).unwrap();
        }
    });
}

#[test]
#[ignore = "prints figures, checks nothing but completion"]
fn empty_turns_and_buffers() {
    on_each_driver(|driver| {
        let (mut reactor, handle) = start(driver);
        let (stream, _peer) = connect(&mut reactor);
        let mut events = Vec::new();
        let now = Instant::now();
        let time = |what: &str, f: &mut dyn FnMut()| {
            let begun = cpu_time();
            for _ in 0..ROUNDS {
                f();
            }
            let ns = (cpu_time() - begun).as_nanos() / u128::from(ROUNDS);
            println!("{driver:?}: {what} {ns} ns");
        };
        time("turn with one hot stream", &mut || {
            reactor.turn(Some(now), &mut events);
            events.clear();
        });
        time("alloc and return of 4 KiB", &mut || {
            drop(black_box(reactor.alloc(4096)))
        });
        time("alloc and return of 128 KiB", &mut || {
            drop(black_box(reactor.alloc(128 << 10)))
        });
        time("message to an awake reactor and its turn", &mut || {
            handle.send(1).unwrap();
            reactor.turn(Some(now), &mut events);
            events.clear();
        });
        time("recv that finds nothing, stale id", &mut || {
            let mut scratch = [0; 64];
            let id = sdk::host::StreamId(1);
            let _ = black_box(reactor.recv(id, &mut [IoSliceMut::new(&mut scratch)]));
        });
        time("recv that finds nothing", &mut || {
            let mut scratch = [0; 64];
            let _ = black_box(reactor.recv(stream, &mut [IoSliceMut::new(&mut scratch)]));
        });
        let bare = reactor.detach_stream(stream).unwrap();
        time("the bare system call", &mut || {
            let mut scratch = [0; 64];
            let _ = black_box(rustix::net::recv(&bare, &mut scratch, RecvFlags::DONTWAIT));
        });
    });
}
