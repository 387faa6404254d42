//! The arena as its users see it: bytes that are theirs alone, and figures that add up.

use super::*;

const MIB: usize = 1 << 20;

#[test]
fn live_buffers_never_share_a_byte() {
    let arena = Arena::new(2 * MIB).unwrap();
    let lens = [1, 4096, 5000, 100_000, 8192, 300_000, 4096, 1];
    let mut bufs: Vec<Buf> = lens.iter().map(|&len| arena.alloc(len).unwrap()).collect();
    for (i, buf) in bufs.iter_mut().enumerate() {
        assert_eq!(buf.len(), lens[i]);
        assert_eq!(buf.as_ptr() as usize % PIECE_BYTES_MIN, 0);
        buf.fill(i as u8 + 1);
    }
    for (i, buf) in bufs.iter().enumerate() {
        assert!(
            buf.iter().all(|&b| b == i as u8 + 1),
            "buffer {i} was overwritten"
        );
    }
}

#[test]
fn exhaustion_is_refused_counted_and_recovers() {
    let arena = Arena::new(MIB).unwrap();
    let bufs: Vec<Buf> = std::iter::from_fn(|| arena.alloc(4096)).collect();
    assert_eq!(bufs.len(), 256);
    let stats = arena.stats();
    assert_eq!((stats.used_bytes, stats.refusals), (MIB, 1));
    drop(bufs);
    assert_eq!(arena.stats().used_bytes, 0);
    assert_eq!(arena.stats().used_bytes_peak, MIB);
    // The whole megabyte is one piece again.
    assert_eq!(arena.alloc(MIB).unwrap().capacity(), MIB);
}

#[test]
fn sizes_round_up_and_too_long_is_refused() {
    let arena = Arena::new(1).unwrap();
    assert_eq!(arena.stats().bytes, MIB);
    assert_eq!(arena.alloc(0).unwrap().capacity(), 4096);
    assert_eq!(arena.alloc(4097).unwrap().capacity(), 8192);
    assert!(arena.alloc(MIB + 1).is_none());
    assert_eq!(
        arena.stats().refusals,
        0,
        "asking for the impossible is no shortage"
    );
    assert!(matches!(Arena::new(0), Err(ArenaError::SizeOutOfRange)));
    assert!(matches!(
        Arena::new(usize::MAX),
        Err(ArenaError::SizeOutOfRange)
    ));
}

#[test]
fn memory_outlives_the_arena_while_a_buffer_is_held() {
    let arena = Arena::new(MIB).unwrap();
    let mut buf = arena.alloc(64 << 10).unwrap();
    drop(arena);
    buf.fill(7);
    assert!(buf.iter().all(|&b| b == 7));
}

#[test]
fn a_truncated_buffer_returns_all_of_its_piece() {
    let arena = Arena::new(MIB).unwrap();
    let mut buf = arena.alloc(10_000).unwrap();
    buf.truncate(10);
    assert_eq!(arena.stats().used_bytes, 16 << 10);
    drop(buf);
    assert_eq!(arena.stats().used_bytes, 0);
}
