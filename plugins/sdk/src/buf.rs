//! Buffers: owned pieces of a reactor's arena, and payloads that may instead be lent by a device.
//!
//! Invariants: a [`Buf`] is the only way to reach its bytes, and gives them back to its arena when dropped; the bytes
//! of a lent [`Segment`] do not change while it exists.

mod chunk;

use std::alloc::{Layout, alloc_zeroed, dealloc, handle_alloc_error};
use std::fmt;
use std::ops::{Deref, DerefMut};
use std::ptr::NonNull;
use std::rc::Rc;
use std::sync::Arc;

use smallvec::SmallVec;

pub use chunk::{AREA_BYTES, Chunk};

/// Alignment of every [`Buf`] in bytes: what `O_DIRECT` asks for at most.
pub const BUF_ALIGN: usize = 4096;

/// Where a [`Buf`] came from and returns to.
pub trait BufHome {
    /// Takes back the `capacity` bytes at `ptr`, which nobody refers to any more.
    fn give_back(&self, ptr: NonNull<u8>, capacity: usize);
}

/// An owned, page-aligned piece of a reactor's arena.
///
/// Its length is what was asked for (or less, after [`Buf::truncate`]); contents are whatever the last user left, so a
/// buffer goes to a peer only after a device or the engine has filled the part that is sent. Not `Send`: it belongs to
/// the reactor whose arena it is from.
pub struct Buf {
    ptr: NonNull<u8>,
    len: usize,
    capacity: usize,
    home: Rc<dyn BufHome>,
}

impl Buf {
    /// Wraps `capacity` bytes at `ptr` of which the first `len` are in use.
    ///
    /// # Safety
    /// `ptr` must be valid for reads and writes of `capacity` initialised bytes, aligned to [`BUF_ALIGN`], reachable
    /// through nothing else until `home.give_back` is called, and stay mapped until then. `len <= capacity`.
    #[expect(
        unsafe_code,
        reason = "the arena hands out raw memory; this is the one door"
    )]
    pub unsafe fn from_raw(
        ptr: NonNull<u8>,
        len: usize,
        capacity: usize,
        home: Rc<dyn BufHome>,
    ) -> Self {
        assert!(
            len <= capacity,
            "a buffer of {capacity} bytes cannot hold {len}"
        );
        Self {
            ptr,
            len,
            capacity,
            home,
        }
    }

    /// A buffer of `len` zero bytes on the heap: for tests and control paths; a reactor's data path has its arena.
    ///
    /// # Panics
    /// If `len` is larger than an allocation can be.
    #[expect(
        unsafe_code,
        reason = "an aligned allocation needs the allocator itself"
    )]
    pub fn from_heap(len: usize) -> Self {
        let layout = heap_layout(len);
        // SAFETY: `heap_layout` never has size 0.
        let start = unsafe { alloc_zeroed(layout) };
        let Some(ptr) = NonNull::new(start) else {
            handle_alloc_error(layout)
        };
        // SAFETY: the allocation is zeroed, `len` bytes at least, aligned to `BUF_ALIGN`, and freed by `HeapHome` only.
        unsafe { Self::from_raw(ptr, len, len, Rc::new(HeapHome)) }
    }

    /// Bytes it can hold.
    pub fn capacity(&self) -> usize {
        self.capacity
    }

    /// Shortens the buffer to `len` bytes; longer values change nothing.
    pub fn truncate(&mut self, len: usize) {
        self.len = self.len.min(len);
    }
}

impl Deref for Buf {
    type Target = [u8];

    #[expect(unsafe_code, reason = "view of the owned bytes")]
    fn deref(&self) -> &[u8] {
        // SAFETY: `from_raw`'s caller guarantees `capacity >= len` valid, initialised bytes owned by this value.
        unsafe { std::slice::from_raw_parts(self.ptr.as_ptr(), self.len) }
    }
}

impl DerefMut for Buf {
    #[expect(unsafe_code, reason = "view of the owned bytes")]
    fn deref_mut(&mut self) -> &mut [u8] {
        // SAFETY: as for `deref`, and `&mut self` makes this the only view.
        unsafe { std::slice::from_raw_parts_mut(self.ptr.as_ptr(), self.len) }
    }
}

impl Drop for Buf {
    fn drop(&mut self) {
        self.home.give_back(self.ptr, self.capacity);
    }
}

impl fmt::Debug for Buf {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Buf({}/{})", self.len, self.capacity)
    }
}

/// Home of [`Buf::from_heap`].
struct HeapHome;

impl BufHome for HeapHome {
    #[expect(unsafe_code, reason = "frees what `from_heap` allocated")]
    fn give_back(&self, ptr: NonNull<u8>, capacity: usize) {
        // SAFETY: only `from_heap` makes buffers with this home, with this layout, and `Buf` gives back once.
        unsafe { dealloc(ptr.as_ptr(), heap_layout(capacity)) }
    }
}

fn heap_layout(len: usize) -> Layout {
    Layout::from_size_align(len.max(1), BUF_ALIGN).expect("a buffer fits the address space")
}

/// Bytes a device lends instead of copying them; unchanged until dropped.
#[derive(Clone)]
pub struct Segment {
    chunk: Arc<Chunk>,
    start: u32,
    len: u32,
}

impl Segment {
    /// `len` bytes of `chunk` from `start`, or `None` if they are not all inside it.
    pub fn new(chunk: Arc<Chunk>, start: usize, len: usize) -> Option<Self> {
        let end = start.checked_add(len)?;
        if end > chunk.len() || u32::try_from(end).is_err() {
            return None;
        }
        Some(Self {
            chunk,
            start: start as u32,
            len: len as u32,
        })
    }
}

impl Deref for Segment {
    type Target = [u8];

    #[inline]
    fn deref(&self) -> &[u8] {
        &self.chunk[self.start as usize..(self.start + self.len) as usize]
    }
}

impl fmt::Debug for Segment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Segment({})", self.len)
    }
}

/// Lent segments in order; two without an allocation.
pub type Segments = SmallVec<[Segment; 2]>;

/// Data on its way to a host: a buffer of the engine's, or segments a device lends.
#[derive(Debug)]
pub enum Payload {
    /// The engine's own buffer.
    Buf(Buf),
    /// Bytes lent by the device.
    Lent(Segments),
}

impl Payload {
    /// Bytes in all.
    pub fn len(&self) -> usize {
        match self {
            Self::Buf(buf) => buf.len(),
            Self::Lent(segments) => segments.iter().map(|s| s.len()).sum(),
        }
    }

    /// Whether it holds no byte.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The contiguous pieces, in order.
    pub fn pieces(&self) -> impl Iterator<Item = &[u8]> {
        let (buf, lent): (Option<&[u8]>, &[Segment]) = match self {
            Self::Buf(buf) => (Some(buf), &[]),
            Self::Lent(segments) => (None, segments),
        };
        buf.into_iter().chain(lent.iter().map(|s| &**s))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_segment_outside_its_chunk_is_refused() {
        let chunk: Arc<Chunk> = Arc::new(Chunk::from(vec![1, 2, 3, 4].into_boxed_slice()));
        assert!(Segment::new(chunk.clone(), 2, 3).is_none());
        assert!(Segment::new(chunk.clone(), usize::MAX, 2).is_none());
        assert_eq!(&*Segment::new(chunk, 1, 3).unwrap(), &[2, 3, 4]);
    }

    #[test]
    fn a_heap_buffer_is_zero_and_aligned() {
        for len in [0, 1, 512, 4096, 100_000] {
            let mut buf = Buf::from_heap(len);
            assert_eq!(buf.len(), len);
            assert_eq!(buf.as_ptr().align_offset(BUF_ALIGN), 0);
            assert!(buf.iter().all(|byte| *byte == 0));
            buf.fill(7);
        }
    }

    #[test]
    fn pieces_come_in_order() {
        let chunk: Arc<Chunk> = Arc::new(Chunk::from(vec![1, 2, 3, 4].into_boxed_slice()));
        let mut segments = Segments::new();
        segments.push(Segment::new(chunk.clone(), 2, 2).unwrap());
        segments.push(Segment::new(chunk, 0, 1).unwrap());
        let payload = Payload::Lent(segments);
        assert_eq!(payload.len(), 3);
        assert_eq!(
            payload.pieces().flatten().copied().collect::<Vec<_>>(),
            [3, 4, 1]
        );
    }
}
