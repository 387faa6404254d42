//! Moving bytes with the cache in mind, for devices whose medium is memory much larger than the cache.
//!
//! Does: two hints to the processor that a plugin could not give without `unsafe`. Does not change what is read or
//! written: where a processor has no such hint, the plain operation is done.
//!
//! Measured (AMD EPYC, 256 MiB in pages of 4 KiB, random 4 KiB, median): a plain copy into such memory 470-540 ns, one
//! past the cache 240 ns; a copy out of it 560-590 ns, 360 ns if its first line was prefetched some turns of a loop before.
#![expect(
    unsafe_code,
    reason = "instructions of the processor that the standard library offers as unsafe functions only"
)]

/// Shorter copies are plain: they cost less than waiting for the write-combining buffers.
const PAST_CACHE_MIN: usize = 1024;

/// Copies `source` to `target`, which is not read into the cache to be overwritten and does not stay in it.
///
/// For targets that are large, cold and not read again soon. Both must be equally long; best when `target` starts at a
/// multiple of 64 bytes.
///
/// # Panics
/// If the lengths differ.
#[inline]
pub fn copy_past_cache(target: &mut [u8], source: &[u8]) {
    assert_eq!(target.len(), source.len(), "a copy has one length, not two");
    if source.len() < PAST_CACHE_MIN {
        target.copy_from_slice(source);
        return;
    }
    stream(target, source);
}

/// Tells the processor that `bytes` will be read soon. Costs about a nanosecond and waits for nothing.
///
/// Only the first cache line is fetched: the rest of a page follows by itself once reading has begun, while its address
/// translation and first line are what a reader would wait for.
#[inline]
pub fn prefetch(bytes: &[u8]) {
    #[cfg(target_arch = "x86_64")]
    {
        use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        // SAFETY: a prefetch of any address has no effect but on the cache.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(bytes.as_ptr().cast()) };
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = bytes;
}

#[cfg(target_arch = "x86_64")]
fn stream(target: &mut [u8], source: &[u8]) {
    use std::arch::x86_64::{__m128i, _mm_loadu_si128, _mm_sfence, _mm_stream_si128};

    const LINE: usize = 64;
    const VECTOR: usize = size_of::<__m128i>();

    let head = target.as_ptr().align_offset(LINE).min(target.len());
    let (head_target, target) = target.split_at_mut(head);
    let (head_source, source) = source.split_at(head);
    head_target.copy_from_slice(head_source);
    let (lines_target, tail_target) = target.as_chunks_mut::<LINE>();
    let (lines_source, tail_source) = source.as_chunks::<LINE>();
    for (to, from) in lines_target.iter_mut().zip(lines_source) {
        let (to, from) = (
            to.as_mut_ptr().cast::<__m128i>(),
            from.as_ptr().cast::<__m128i>(),
        );
        for at in 0..LINE / VECTOR {
            // SAFETY: both arrays are `LINE` bytes, so vector `at` is inside them; `to` is aligned to `LINE`, because
            // the head before the first line was chosen so and every line is `LINE` long.
            unsafe { _mm_stream_si128(to.add(at), _mm_loadu_si128(from.add(at))) };
        }
    }
    tail_target.copy_from_slice(tail_source);
    // SAFETY: a fence has no precondition. It orders the streamed bytes before everything that tells of them.
    unsafe { _mm_sfence() };
}

#[cfg(not(target_arch = "x86_64"))]
fn stream(target: &mut [u8], source: &[u8]) {
    target.copy_from_slice(source);
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every alignment of both ends, lengths round the threshold and round whole lines: the bytes outside stay.
    #[test]
    fn a_copy_past_the_cache_writes_its_range_and_nothing_else() {
        let source: Vec<u8> = (0..5000u32).map(|n| (n * 7 % 251) as u8).collect();
        for len in [0, 1, 1023, 1024, 1025, 1087, 1088, 4095, 4096, 4161] {
            for skew in [0, 1, 15, 16, 63] {
                let mut area = vec![0xee; 64 + skew + len + 64];
                let range = 64 + skew..64 + skew + len;
                copy_past_cache(&mut area[range.clone()], &source[skew..skew + len]);
                prefetch(&area[range.clone()]);
                assert!(area[range.clone()] == source[skew..skew + len]);
                assert!(area[..range.start].iter().all(|byte| *byte == 0xee));
                assert!(area[range.end..].iter().all(|byte| *byte == 0xee));
            }
        }
    }

    #[test]
    #[should_panic(expected = "one length")]
    fn lengths_that_differ_are_the_callers_mistake() {
        copy_past_cache(&mut [0; 4], &[0; 5]);
    }
}
