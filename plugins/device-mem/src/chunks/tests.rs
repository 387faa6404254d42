use super::*;

const CHUNK: u64 = CHUNK_BYTES as u64;

fn contents(chunks: &Chunks, offset: u64, len: usize) -> Vec<u8> {
    let mut bytes = vec![0xee; len];
    chunks.read(offset, &mut bytes);
    bytes
}

#[test]
fn memory_is_taken_by_writes_and_given_back_by_zeroes() {
    let mut chunks = Chunks::new(4 * CHUNK);
    assert!(contents(&chunks, CHUNK - 5, 10) == [0; 10]);
    chunks.zero(0, 4 * CHUNK).unwrap();
    assert_eq!(chunks.allocated(), 0);
    chunks.write(CHUNK - 1, &[1, 2]).unwrap();
    assert_eq!(chunks.allocated(), 2);
    chunks.zero(CHUNK - 1, 1).unwrap();
    assert_eq!(chunks.allocated(), 2);
    assert!(contents(&chunks, CHUNK - 1, 2) == [0, 2]);
    chunks.zero(0, 4 * CHUNK).unwrap();
    assert_eq!(chunks.allocated(), 0);
    assert!(contents(&chunks, CHUNK - 1, 2) == [0, 0]);
}

#[test]
fn a_last_chunk_that_ends_past_the_disk_is_freed_too() {
    let mut chunks = Chunks::new(CHUNK + 512);
    chunks.write(CHUNK, &[1; 512]).unwrap();
    chunks.zero(CHUNK, 512).unwrap();
    assert_eq!(chunks.allocated(), 0);
}

#[test]
fn a_lent_chunk_is_replaced_and_its_memory_used_again() {
    let mut chunks = Chunks::new(CHUNK);
    chunks.write(0, &[1; 4]).unwrap();
    let lent = chunks.lend(0, 4);
    let first = lent[0].as_ptr();
    chunks.write(1, &[2]).unwrap();
    assert!(*lent[0] == [1, 1, 1, 1]);
    assert!(contents(&chunks, 0, 4) == [1, 2, 1, 1]);
    drop(lent);
    // The second replacement finds the first chunk unused and copies into it.
    let lent = chunks.lend(0, 4);
    chunks.write(2, &[3]).unwrap();
    assert!(*lent[0] == [1, 2, 1, 1]);
    assert_eq!(chunks.lend(0, 4)[0].as_ptr(), first);
    assert!(contents(&chunks, 0, 4) == [1, 2, 3, 1]);
}

#[test]
fn a_chunk_that_is_not_lent_is_written_in_place() {
    let mut chunks = Chunks::new(CHUNK);
    chunks.write(0, &[1]).unwrap();
    let place = chunks.lend(0, 1)[0].as_ptr();
    chunks.write(0, &[2]).unwrap();
    assert_eq!(chunks.lend(0, 1)[0].as_ptr(), place);
}

#[test]
fn growing_shows_zeroes_where_old_data_was() {
    let mut chunks = Chunks::new(3 * CHUNK);
    chunks.write(0, &vec![7; 3 * CHUNK_BYTES]).unwrap();
    chunks.resize(CHUNK + 512).unwrap();
    assert_eq!((chunks.len(), chunks.allocated()), (CHUNK + 512, 2));
    chunks.resize(3 * CHUNK).unwrap();
    assert!(
        contents(&chunks, 0, CHUNK_BYTES + 512)
            .iter()
            .all(|b| *b == 7)
    );
    let grown = contents(&chunks, CHUNK + 512, 2 * CHUNK_BYTES - 512);
    assert!(grown.iter().all(|b| *b == 0));
}

#[test]
fn a_disk_with_much_memory_shrinks_at_once() {
    let count = INLINE_FREE_CHUNKS_MAX as u64 + 10;
    let mut chunks = Chunks::new(count * CHUNK);
    for number in 0..count {
        chunks.write(number * CHUNK, &[1]).unwrap();
    }
    chunks.resize(CHUNK).unwrap();
    assert_eq!(chunks.allocated(), 1);
}

/// A host reads all, takes nothing, and writes: it is lent copies once it pins too much, and everything is right after.
#[test]
fn readers_that_take_nothing_pin_a_bounded_number_of_replaced_chunks() {
    let mut chunks = Chunks::new(4 * CHUNK);
    let mut held = Vec::new();
    for round in 0..200u8 {
        for index in 0..4 {
            held.push((round, chunks.lend(index * CHUNK, 512)));
            chunks.write(index * CHUNK, &[round + 1; 512]).unwrap();
        }
        assert!(chunks.spares.len() <= REPLACED_CHUNKS_MAX + 4);
    }
    for (round, lent) in &held {
        assert!(lent.iter().all(|part| **part == [*round; 512]));
    }
    drop(held);
    drop(chunks.lend(0, 512));
    assert!(chunks.spares.len() <= SPARE_CHUNKS_MAX);
    assert!(contents(&chunks, 0, 512) == [200; 512]);
}
