//! The tables and the continuation of short transfers, without a kernel.

use std::fs::File as StdFile;

use buffers::Arena;
use sdk::buf::Buf;

use super::*;

const OWNER: OwnerId = OwnerId(9);

fn buf(len: usize) -> Buf {
    Arena::new(1 << 20).unwrap().alloc(len).unwrap()
}

fn read(len: usize) -> FileOp {
    FileOp::Read {
        offset: 1000,
        buf: buf(len),
        filled: 0,
    }
}

fn write(len: usize) -> FileOp {
    FileOp::Write {
        offset: 1000,
        buf: buf(len),
        written: 0,
        durable: false,
    }
}

fn table() -> (Files, FileId) {
    let mut files = Files::new(2, 2);
    let fd = StdFile::open("/dev/null").unwrap().into();
    let id = files.adopt(fd, OWNER).unwrap();
    (files, id)
}

fn errno(errno: Errno) -> i32 {
    -errno.raw_os_error()
}

#[test]
fn a_short_read_continues_where_it_stopped_until_the_end_of_the_file() {
    let mut op = read(4096);
    assert_eq!(advance(&mut op, 1024), None);
    let Some(Request::Read { len, offset, .. }) = next_request(&mut op) else {
        panic!()
    };
    assert_eq!((len, offset), (3072, 2024));
    assert_eq!(advance(&mut op, 0), Some(Ok(())), "end of the file");
    assert_eq!(moved(&op), 1024);
    let mut op = read(4096);
    assert_eq!(
        advance(&mut op, 1000),
        Some(Ok(())),
        "a part of a sector is the end as well"
    );
    let mut op = read(4096);
    assert_eq!(advance(&mut op, 4096), Some(Ok(())));
    assert!(next_request(&mut op).is_none());
}

#[test]
fn a_short_write_continues_and_one_that_moves_nothing_fails() {
    let mut op = write(4096);
    assert_eq!(advance(&mut op, 100), None);
    let Some(Request::Write { len, offset, .. }) = next_request(&mut op) else {
        panic!()
    };
    assert_eq!((len, offset), (3996, 1100));
    assert_eq!(advance(&mut op, 0), Some(Err(FileError::Medium)));
    assert_eq!(advance(&mut op, 3996), Some(Ok(())));
}

#[test]
fn interruptions_repeat_and_errors_end() {
    let mut op = read(512);
    assert_eq!(advance(&mut op, errno(Errno::INTR)), None);
    assert_eq!(advance(&mut op, errno(Errno::AGAIN)), None);
    assert_eq!(
        advance(&mut op, errno(Errno::NOSPC)),
        Some(Err(FileError::NoSpace))
    );
}

#[test]
fn positions_beyond_the_buffer_ask_for_nothing() {
    let mut op = FileOp::Read {
        offset: u64::MAX,
        buf: buf(512),
        filled: 600,
    };
    assert!(next_request(&mut op).is_none());
    assert_eq!(moved(&op), 512);
}

#[test]
fn the_operation_table_refuses_beyond_its_size_and_recovers() {
    let (mut files, id) = table();
    let now = Instant::now();
    let first = files.begin(id, 1, read(512), now).unwrap();
    files.begin(id, 2, FileOp::Sync, now).unwrap();
    assert!(files.begin(id, 3, FileOp::Sync, now).is_err());
    let Some(Step::Done(OWNER, done)) = files.handle_result(first, 512) else {
        panic!()
    };
    assert_eq!((done.user, done.result), (1, Ok(512)));
    assert!(
        files.handle_result(first, 512).is_none(),
        "an answer counts once"
    );
    assert!(files.begin(id, 3, FileOp::Sync, now).is_ok());
}

#[test]
fn a_closed_file_stays_open_for_its_last_operation_and_its_id_dies() {
    let (mut files, id) = table();
    let now = Instant::now();
    let op = files.begin(id, 1, FileOp::Sync, now).unwrap();
    files.close(id);
    assert!(files.request(op).is_some(), "the descriptor is still there");
    assert!(files.begin(id, 2, FileOp::Sync, now).is_err());
    assert_eq!(files.lent(), 1);
    assert!(files.handle_result(op, 0).is_some());
    assert_eq!(files.lent(), 0);
    let next = files
        .adopt(StdFile::open("/dev/null").unwrap().into(), OWNER)
        .unwrap();
    assert_ne!(next, id);
    files.close(id);
    assert_eq!(files.lent(), 1, "a stale id closes nothing");
}

#[test]
fn overdue_operations_are_counted_with_their_memory() {
    let (mut files, id) = table();
    let start = Instant::now();
    files.begin(id, 1, read(5000), start).unwrap();
    let later = start + Duration::from_secs(9);
    files.begin(id, 2, read(100), later).unwrap();
    assert_eq!(files.overdue(later, Duration::from_secs(10)), (0, 0));
    let late = start + Duration::from_secs(11);
    assert_eq!(files.overdue(late, Duration::from_secs(10)), (1, 8192));
}
