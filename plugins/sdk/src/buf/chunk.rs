//! Memory a device lends from: heap bytes, or page-aligned pieces of areas that may be backed by huge pages.
//!
//! Invariants: a chunk is the only way to reach its bytes; an area stays mapped until its last chunk is gone.
#![expect(
    unsafe_code,
    reason = "maps areas, asks for huge pages and hands out disjoint pieces (docs/adr/0003)"
)]

use std::fmt;
use std::io;
use std::ops::{Deref, DerefMut};
use std::ptr::NonNull;
use std::sync::Arc;

use super::BUF_ALIGN;

/// Size and alignment of an area in bytes: one transparent huge page of x86-64 and of AArch64 with 4 KiB pages.
pub const AREA_BYTES: usize = 2 << 20;

/// Bytes a device owns and may lend.
///
/// They are behind a pointer of their own, so that the reference counts of many chunks lie close together: a count in
/// front of 128 KiB of data would cost a cache miss a read, and all counts would share one cache set.
pub struct Chunk(Bytes);

enum Bytes {
    Heap(Box<[u8]>),
    Piece(Piece),
}

/// `len` bytes at `ptr`, inside `area`.
struct Piece {
    ptr: NonNull<u8>,
    len: usize,
    _area: Arc<Area>,
}

// SAFETY: a piece owns its bytes as a `Box<[u8]>` does: no other piece of the area overlaps it, and the area itself is
// only kept alive, never read. Decided in docs/adr/0003.
unsafe impl Send for Piece {}
// SAFETY: as above; a shared piece gives shared views only.
unsafe impl Sync for Piece {}

/// One mapping of [`AREA_BYTES`], aligned to its size.
struct Area {
    base: NonNull<u8>,
}

// SAFETY: the address is used to unmap, once, when nobody refers to the area; any thread may do so.
unsafe impl Send for Area {}
// SAFETY: a shared area offers nothing.
unsafe impl Sync for Area {}

impl Chunk {
    /// Cuts a new area into chunks of `len` zero bytes each, aligned to [`BUF_ALIGN`]; `len` is a multiple of that and divides
    /// [`AREA_BYTES`]. The kernel is asked for a huge page, which saves address translations; whether it gives one changes
    /// nothing else. Memory is taken when it is first written, 2 MiB at once if the kernel did.
    ///
    /// # Errors
    /// Why the system refused the memory.
    ///
    /// # Panics
    /// If `len` does not divide the area or is not aligned.
    pub fn carve(len: usize) -> io::Result<impl Iterator<Item = Chunk>> {
        assert!(
            len > 0 && len.is_multiple_of(BUF_ALIGN) && AREA_BYTES.is_multiple_of(len),
            "an area is cut into equal, aligned chunks"
        );
        let area = Arc::new(Area::map()?);
        Ok((0..AREA_BYTES / len).map(move |index| {
            // SAFETY: `index * len` is below the size of the mapping.
            let ptr = unsafe { area.base.add(index * len) };
            Chunk(Bytes::Piece(Piece {
                ptr,
                len,
                _area: area.clone(),
            }))
        }))
    }

    /// Makes every byte zero; the memory of a piece of an area goes back to the system.
    pub fn clear(&mut self) {
        match &mut self.0 {
            Bytes::Heap(bytes) => bytes.fill(0),
            Bytes::Piece(piece) => piece.clear(),
        }
    }
}

impl From<Box<[u8]>> for Chunk {
    fn from(bytes: Box<[u8]>) -> Self {
        Self(Bytes::Heap(bytes))
    }
}

impl Deref for Chunk {
    type Target = [u8];

    #[inline]
    fn deref(&self) -> &[u8] {
        match &self.0 {
            Bytes::Heap(bytes) => bytes,
            // SAFETY: the piece's bytes are mapped and zero-filled while its area lives, and only this chunk reaches them.
            Bytes::Piece(piece) => unsafe {
                std::slice::from_raw_parts(piece.ptr.as_ptr(), piece.len)
            },
        }
    }
}

impl DerefMut for Chunk {
    #[inline]
    fn deref_mut(&mut self) -> &mut [u8] {
        match &mut self.0 {
            Bytes::Heap(bytes) => bytes,
            // SAFETY: as for `deref`, and `&mut self` makes this the only view.
            Bytes::Piece(piece) => unsafe {
                std::slice::from_raw_parts_mut(piece.ptr.as_ptr(), piece.len)
            },
        }
    }
}

impl fmt::Debug for Chunk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Chunk({})", self.len())
    }
}

impl Piece {
    fn clear(&mut self) {
        use rustix::mm::{Advice, madvise};
        // SAFETY: private anonymous memory that only this piece reaches; given back, it reads as zeroes.
        let given_back =
            unsafe { madvise(self.ptr.as_ptr().cast(), self.len, Advice::LinuxDontNeed) };
        if given_back.is_err() {
            // SAFETY: the bytes are this piece's, and `&mut self` makes this the only view.
            unsafe { std::ptr::write_bytes(self.ptr.as_ptr(), 0, self.len) };
        }
    }
}

impl Drop for Piece {
    fn drop(&mut self) {
        // Its neighbours may live long; what nobody can reach should not stay resident that long.
        self.clear();
    }
}

impl Area {
    fn map() -> io::Result<Self> {
        use rustix::mm::{Advice, MapFlags, ProtFlags, madvise, mmap_anonymous, munmap};
        let (len, prot) = (2 * AREA_BYTES, ProtFlags::READ | ProtFlags::WRITE);
        // SAFETY: a null hint lets the kernel choose an address nothing else uses.
        let start = unsafe { mmap_anonymous(std::ptr::null_mut(), len, prot, MapFlags::PRIVATE)? };
        let start = start.cast::<u8>();
        let head = start.align_offset(AREA_BYTES).min(AREA_BYTES);
        // SAFETY: `head` is at most half of the mapping, so all three parts are inside it; the parts before and behind
        // the aligned middle have just been mapped and nobody refers to them.
        let base = unsafe {
            let base = start.add(head);
            if head > 0 {
                munmap(start.cast(), head)?;
            }
            if head < AREA_BYTES {
                munmap(base.add(AREA_BYTES).cast(), AREA_BYTES - head)?;
            }
            // Refused where huge pages are not built in or switched off: then it is ordinary memory.
            let _ = madvise(base.cast(), AREA_BYTES, Advice::LinuxHugepage);
            base
        };
        let base = NonNull::new(base).ok_or(io::ErrorKind::OutOfMemory)?;
        Ok(Self { base })
    }
}

impl Drop for Area {
    fn drop(&mut self) {
        // SAFETY: mapped by `map`, unmapped once, and the last piece is gone.
        let unmapped = unsafe { rustix::mm::munmap(self.base.as_ptr().cast(), AREA_BYTES) };
        debug_assert!(unmapped.is_ok(), "an area could not be unmapped");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_area_is_cut_into_aligned_chunks_that_do_not_overlap() {
        let mut chunks: Vec<Chunk> = Chunk::carve(128 << 10).unwrap().collect();
        assert_eq!(chunks.len(), 16);
        for (index, chunk) in chunks.iter_mut().enumerate() {
            assert_eq!(chunk.as_ptr().align_offset(BUF_ALIGN), 0);
            assert!(chunk.iter().all(|byte| *byte == 0));
            chunk.fill(index as u8 + 1);
        }
        for (index, chunk) in chunks.iter().enumerate() {
            assert!(chunk.iter().all(|byte| *byte == index as u8 + 1));
        }
    }

    #[test]
    fn a_chunk_outlives_its_neighbours_on_another_thread() {
        let mut chunks: Vec<Chunk> = Chunk::carve(1 << 20).unwrap().collect();
        chunks[1].fill(9);
        let last = chunks.pop().unwrap();
        drop(chunks);
        let sum = std::thread::spawn(move || last.iter().map(|byte| u64::from(*byte)).sum::<u64>());
        assert_eq!(sum.join().unwrap(), 9 << 20);
    }

    #[test]
    fn a_cleared_chunk_is_zero_and_can_be_written_again() {
        let mut heap = Chunk::from(vec![7u8; 10].into_boxed_slice());
        heap.clear();
        assert_eq!(*heap, [0; 10]);
        let mut piece = Chunk::carve(4096).unwrap().next().unwrap();
        piece.fill(7);
        piece.clear();
        assert!(piece.iter().all(|byte| *byte == 0));
        piece[4095] = 1;
        assert_eq!(piece[4095], 1);
    }

    #[test]
    #[should_panic(expected = "equal, aligned chunks")]
    fn chunks_that_do_not_fill_an_area_are_the_callers_mistake() {
        drop(Chunk::carve(3 << 12));
    }
}
