//! File operations on a real file, on both drivers.

use std::fs::{File, OpenOptions};
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};

use crate::common::{config, file_done, on_each_driver, start, turn_until};
use reactor::{Event, Reactor};
use sdk::buf::Buf;
use sdk::host::{FileDone, FileError, FileId, FileOp, Host, OwnerId};

const OWNER: OwnerId = OwnerId(3);

/// A file that is removed when the test ends.
struct Scratch(PathBuf);

impl Scratch {
    fn new(bytes: u64) -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let name = format!("reactor-test-{}-{number}", std::process::id());
        let path = std::env::temp_dir().join(name);
        File::create(&path).unwrap().set_len(bytes).unwrap();
        Self(path)
    }

    fn open(&self) -> OwnedFd {
        OpenOptions::new()
            .read(true)
            .write(true)
            .open(&self.0)
            .unwrap()
            .into()
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

fn read(host: &mut impl Host, offset: u64, len: usize) -> FileOp {
    let buf = host.alloc(len).unwrap();
    FileOp::Read {
        offset,
        buf,
        filled: 0,
    }
}

fn write(host: &mut impl Host, offset: u64, len: usize, byte: u8) -> FileOp {
    let mut buf = host.alloc(len).unwrap();
    buf.fill(byte);
    FileOp::Write {
        offset,
        buf,
        written: 0,
        durable: byte.is_multiple_of(2),
    }
}

fn run(reactor: &mut Reactor<u32>, file: FileId, op: FileOp) -> FileDone {
    reactor.submit_file(file, 77, op).unwrap();
    let done = file_done(reactor);
    assert_eq!(done.user, 77);
    done
}

fn buf_of(done: FileDone) -> Buf {
    match done.op {
        FileOp::Read { buf, .. } | FileOp::Write { buf, .. } => buf,
        FileOp::Sync | FileOp::PunchHole { .. } | FileOp::ZeroRange { .. } => panic!("no buffer"),
    }
}

#[test]
fn what_is_written_is_read_back() {
    on_each_driver(|driver| {
        let (mut reactor, _handle) = start(driver);
        let scratch = Scratch::new(1 << 20);
        let file = reactor.adopt_file(scratch.open(), OWNER).unwrap();
        for (byte, offset, len) in [(1u8, 0, 4096), (2, 8192, 512), (3, 65_536, 300_000)] {
            let op = write(&mut reactor, offset, len, byte);
            assert_eq!(run(&mut reactor, file, op).result, Ok(len as u32));
            assert_eq!(run(&mut reactor, file, FileOp::Sync).result, Ok(0));
            let op = read(&mut reactor, offset, len);
            let done = run(&mut reactor, file, op);
            assert_eq!(done.result, Ok(len as u32));
            assert!(buf_of(done).iter().all(|&b| b == byte));
        }
        reactor.close_file(file);
    });
}

#[test]
fn a_read_past_the_end_reports_what_there_was() {
    on_each_driver(|driver| {
        let (mut reactor, _handle) = start(driver);
        let scratch = Scratch::new(10_000);
        let file = reactor.adopt_file(scratch.open(), OWNER).unwrap();
        let op = read(&mut reactor, 4096, 16_384);
        assert_eq!(run(&mut reactor, file, op).result, Ok(10_000 - 4096));
        let op = read(&mut reactor, 1 << 30, 4096);
        assert_eq!(run(&mut reactor, file, op).result, Ok(0));
    });
}

#[test]
fn a_hole_and_a_zeroed_range_read_as_zeroes_and_keep_the_size() {
    on_each_driver(|driver| {
        let (mut reactor, _handle) = start(driver);
        let scratch = Scratch::new(1 << 20);
        let file = reactor.adopt_file(scratch.open(), OWNER).unwrap();
        let op = write(&mut reactor, 0, 1 << 20, 0xff);
        assert_eq!(run(&mut reactor, file, op).result, Ok(1 << 20));
        let hole = FileOp::PunchHole {
            offset: 4096,
            len: 1 << 18,
        };
        assert_eq!(run(&mut reactor, file, hole).result, Ok(0));
        let op = read(&mut reactor, 0, 12_288);
        let buf = buf_of(run(&mut reactor, file, op));
        assert!(buf[..4096].iter().all(|&b| b == 0xff) && buf[4096..].iter().all(|&b| b == 0));
        let zeroes = FileOp::ZeroRange {
            offset: 1 << 19,
            len: 1 << 20,
        };
        match run(&mut reactor, file, zeroes).result {
            Ok(0) => {
                let op = read(&mut reactor, 1 << 19, 4096);
                assert!(buf_of(run(&mut reactor, file, op)).iter().all(|&b| b == 0));
            }
            // Some file systems (tmpfs) cannot zero a range in place.
            other => assert_eq!(other, Err(FileError::NotSupported)),
        }
        assert_eq!(std::fs::metadata(&scratch.0).unwrap().size(), 1 << 20);
    });
}

#[test]
fn errors_keep_their_meaning_and_return_the_buffer() {
    on_each_driver(|driver| {
        let (mut reactor, _handle) = start(driver);
        let full = OpenOptions::new().write(true).open("/dev/full").unwrap();
        let file = reactor.adopt_file(full.into(), OWNER).unwrap();
        let op = write(&mut reactor, 0, 4096, 1);
        let done = run(&mut reactor, file, op);
        assert_eq!(done.result, Err(FileError::NoSpace));
        assert_eq!(buf_of(done).len(), 4096);
        let dir = reactor
            .adopt_file(File::open("/").unwrap().into(), OWNER)
            .unwrap();
        let op = read(&mut reactor, 0, 4096);
        assert!(matches!(
            run(&mut reactor, dir, op).result,
            Err(FileError::Other(_))
        ));
    });
}

#[test]
fn many_operations_complete_once_each_and_too_many_are_handed_back() {
    on_each_driver(|driver| {
        let (mut reactor, _handle) = start(driver);
        let scratch = Scratch::new(1 << 20);
        let file = reactor.adopt_file(scratch.open(), OWNER).unwrap();
        let limit = config(driver).limits.file_ops as u64;
        for round in 0..50 {
            for user in 0..limit {
                let op = read(&mut reactor, user * 4096, 4096);
                reactor.submit_file(file, round * limit + user, op).unwrap();
            }
            let op = read(&mut reactor, 0, 4096);
            assert!(
                reactor.submit_file(file, 0, op).is_err(),
                "the table is full"
            );
            let mut seen = vec![false; limit as usize];
            turn_until(&mut reactor, |_, event| {
                if let Event::FileDone { owner, done } = event {
                    assert_eq!((owner, done.result), (OWNER, Ok(4096)));
                    let slot = &mut seen[(done.user - round * limit) as usize];
                    assert!(!std::mem::replace(slot, true), "completed twice");
                }
                seen.iter().all(|&s| s).then_some(())
            });
        }
        assert_eq!(reactor.arena().stats().used_bytes, 0);
    });
}

#[test]
fn an_empty_operation_completes_like_any_other() {
    on_each_driver(|driver| {
        let (mut reactor, _handle) = start(driver);
        let scratch = Scratch::new(4096);
        let file = reactor.adopt_file(scratch.open(), OWNER).unwrap();
        let op = read(&mut reactor, 0, 0);
        assert_eq!(run(&mut reactor, file, op).result, Ok(0));
    });
}

/// A pipe never delivers: its read stays with the kernel for as long as nobody writes.
fn stuck_read(reactor: &mut Reactor<u32>) -> (FileId, std::io::PipeWriter) {
    let (reader, writer) = std::io::pipe().unwrap();
    let file = reactor.adopt_file(reader.into(), OWNER).unwrap();
    (file, writer)
}

#[test]
fn a_file_closed_during_an_operation_ends_after_it() {
    on_each_driver(|driver| {
        let (mut reactor, _handle) = start(driver);
        let scratch = Scratch::new(1 << 20);
        let file = reactor.adopt_file(scratch.open(), OWNER).unwrap();
        let op = read(&mut reactor, 0, 4096);
        reactor.submit_file(file, 5, op).unwrap();
        reactor.close_file(file);
        assert!(
            reactor.submit_file(file, 6, FileOp::Sync).is_err(),
            "closed for new operations"
        );
        let done = file_done(&mut reactor);
        assert_eq!((done.user, done.result), (5, Ok(4096)));
        reactor.close_file(file);
        assert!(
            reactor
                .submit_file(FileId(u32::MAX), 6, FileOp::Sync)
                .is_err()
        );
    });
}

#[test]
fn files_beyond_the_table_are_refused() {
    on_each_driver(|driver| {
        let (mut reactor, _handle) = start(driver);
        let adopt = |reactor: &mut Reactor<u32>| {
            reactor.adopt_file(File::open("/dev/null").unwrap().into(), OWNER)
        };
        let limit = config(driver).limits.files;
        let files: Vec<FileId> = (0..limit).map(|_| adopt(&mut reactor).unwrap()).collect();
        assert!(adopt(&mut reactor).is_err());
        reactor.close_file(files[2]);
        assert!(adopt(&mut reactor).is_ok());
    });
}

#[test]
fn a_reactor_that_ends_takes_its_operations_with_it() {
    on_each_driver(|driver| {
        let (mut reactor, _handle) = start(driver);
        let scratch = Scratch::new(1 << 20);
        let file = reactor.adopt_file(scratch.open(), OWNER).unwrap();
        let arena = reactor.arena().clone();
        for user in 0..16 {
            let op = write(&mut reactor, user * 65_536, 65_536, 7);
            reactor.submit_file(file, user, op).unwrap();
        }
        drop(reactor);
        assert_eq!(arena.stats().used_bytes, 0, "every buffer came home");
    });
}

#[test]
fn an_operation_that_hangs_is_cancelled_when_the_reactor_ends() {
    if reactor::probe().chosen != reactor::DriverKind::Uring {
        return;
    }
    let (mut reactor, _handle) = start(reactor::DriverChoice::Uring);
    let (pipe, _writer) = stuck_read(&mut reactor);
    let arena = reactor.arena().clone();
    let op = read(&mut reactor, u64::MAX, 4096);
    reactor.submit_file(pipe, 1, op).unwrap();
    reactor.turn(Some(std::time::Instant::now()), &mut Vec::new());
    assert_eq!(arena.stats().used_bytes, 4096, "the kernel has it");
    drop(reactor);
    assert_eq!(arena.stats().used_bytes, 0, "the kernel gave it back");
}

#[test]
fn an_exhausted_arena_refuses_and_recovers() {
    on_each_driver(|driver| {
        let (mut reactor, _handle) = start(driver);
        let bufs: Vec<Buf> = std::iter::from_fn(|| reactor.alloc(1 << 20)).collect();
        assert_eq!(bufs.len(), 4);
        assert!(reactor.alloc(1).is_none());
        drop(bufs);
        assert!(reactor.alloc(1).is_some());
        assert!(
            reactor.alloc((1 << 20) + 1).is_none(),
            "longer than any piece"
        );
    });
}
