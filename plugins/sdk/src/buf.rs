//! Buffers: owned pieces of a reactor's arena, and payloads that may instead be lent by a device.
//!
//! Invariants: a [`Buf`] is the only way to reach its bytes, and gives them back to its arena when dropped; the bytes
//! of a lent [`Segment`] do not change while it exists.
#![expect(
    unsafe_code,
    reason = "buffers and segments are raw memory with an owner; this is the one door to their bytes"
)]

mod chunk;

use std::alloc::{Layout, alloc_zeroed, dealloc, handle_alloc_error};
use std::ffi::c_void;
use std::fmt;
use std::ops::{Deref, DerefMut};
use std::ptr::NonNull;
use std::rc::Rc;
use std::sync::Arc;

use abi::{IoeBuf, IoeSegment, IoeSegmentOps};
use smallvec::SmallVec;

pub use chunk::{AREA_BYTES, Chunk};

/// Alignment of every [`Buf`] in bytes: what `O_DIRECT` asks for at most.
pub const BUF_ALIGN: usize = 4096;

/// Bytes of a reactor's memory that a buffer of `len` bytes takes: however small, a piece of a power of two.
pub const fn piece_len(len: usize) -> usize {
    let least = if len < BUF_ALIGN { BUF_ALIGN } else { len };
    least.next_power_of_two()
}

/// Where a [`Buf`] came from and returns to.
pub trait BufHome {
    /// Takes back the `capacity` bytes at `ptr`, which nobody refers to any more. Must not panic but for a broken
    /// invariant of its own: the process ends then.
    fn give_back(&self, ptr: NonNull<u8>, capacity: usize);
}

/// An owned, page-aligned piece of a reactor's arena.
///
/// Its length is what was asked for (or less, after [`Buf::truncate`]); contents are whatever the last user left, so a
/// buffer goes to a peer only after a device or the engine has filled the part that is sent. Not `Send`: it belongs to
/// the reactor whose arena it is from.
///
/// It is kept in the form in which it crosses between engine and plugin, so that crossing costs nothing.
pub struct Buf {
    raw: IoeBuf,
}

impl Buf {
    /// Wraps `capacity` bytes at `ptr` of which the first `len` are in use.
    ///
    /// # Panics
    /// If `len` is greater than `capacity`, or `capacity` is 4 GiB or more.
    ///
    /// # Safety
    /// `ptr` must be valid for reads and writes of `capacity` initialised bytes, aligned to [`BUF_ALIGN`], reachable
    /// through nothing else until `home.give_back` is called, and stay mapped until then. `len <= capacity`.
    pub unsafe fn from_raw<H: BufHome + 'static>(
        ptr: NonNull<u8>,
        len: usize,
        capacity: usize,
        home: Rc<H>,
    ) -> Self {
        assert!(
            len <= capacity && u32::try_from(capacity).is_ok(),
            "a buffer of {capacity} bytes cannot hold {len}"
        );
        Self {
            raw: IoeBuf {
                data: ptr.as_ptr(),
                len: len as u32,
                capacity: capacity as u32,
                owner: Rc::into_raw(home).cast_mut().cast(),
                release: Some(release_to::<H>),
            },
        }
    }

    /// A buffer of `len` zero bytes on the heap: for tests and control paths; a reactor's data path has its arena.
    ///
    /// # Panics
    /// If `len` is 4 GiB or more.
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
        self.raw.capacity as usize
    }

    /// Shortens the buffer to `len` bytes; longer values change nothing.
    pub fn truncate(&mut self, len: usize) {
        self.raw.len = self.raw.len.min(u32::try_from(len).unwrap_or(u32::MAX));
    }

    /// The form in which it crosses; whoever has that owns the buffer.
    #[inline]
    pub(crate) fn into_abi(self) -> IoeBuf {
        let raw = self.raw;
        std::mem::forget(self);
        raw
    }

    /// Takes over a buffer that crossed; `None` for no buffer or one that breaks the contract.
    ///
    /// # Safety
    /// `raw` is what `into_abi` gave or a plugin of the same contract passes: its bytes and its release are valid and the
    /// caller owns it.
    #[inline]
    pub(crate) unsafe fn from_abi(raw: IoeBuf) -> Option<Self> {
        let usable = !raw.data.is_null() && raw.len <= raw.capacity && raw.release.is_some();
        usable.then_some(Self { raw })
    }
}

/// Gives a buffer back to its home and drops the share of the home the buffer held.
///
/// # Safety
/// As [`IoeBuf::release`]: called once, with what [`Buf::from_raw`] put into the buffer, on the thread of the home.
unsafe extern "C" fn release_to<H: BufHome>(owner: *mut c_void, data: *mut u8, capacity: u32) {
    // SAFETY: `owner` came out of `Rc::into_raw` of an `Rc<H>` in `from_raw` and is used up here.
    let home = unsafe { Rc::from_raw(owner.cast::<H>().cast_const()) };
    if let Some(ptr) = NonNull::new(data) {
        home.give_back(ptr, capacity as usize);
    }
}

impl Deref for Buf {
    type Target = [u8];

    #[inline]
    fn deref(&self) -> &[u8] {
        // SAFETY: `from_raw`'s caller guarantees `capacity >= len` valid, initialised bytes owned by this value.
        unsafe { std::slice::from_raw_parts(self.raw.data, self.raw.len as usize) }
    }
}

impl DerefMut for Buf {
    #[inline]
    fn deref_mut(&mut self) -> &mut [u8] {
        // SAFETY: as for `deref`, and `&mut self` makes this the only view.
        unsafe { std::slice::from_raw_parts_mut(self.raw.data, self.raw.len as usize) }
    }
}

impl Drop for Buf {
    fn drop(&mut self) {
        if let Some(release) = self.raw.release {
            // SAFETY: this value owns the buffer and ends here; buffers are not `Send`, so this is its thread.
            unsafe { release(self.raw.owner, self.raw.data, self.raw.capacity) }
        }
    }
}

impl fmt::Debug for Buf {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Buf({}/{})", self.raw.len, self.raw.capacity)
    }
}

/// Home of [`Buf::from_heap`].
struct HeapHome;

impl BufHome for HeapHome {
    fn give_back(&self, ptr: NonNull<u8>, capacity: usize) {
        // SAFETY: only `from_heap` makes buffers with this home, with this layout, and `Buf` gives back once.
        unsafe { dealloc(ptr.as_ptr(), heap_layout(capacity)) }
    }
}

fn heap_layout(len: usize) -> Layout {
    Layout::from_size_align(len.max(1), BUF_ALIGN).expect("a buffer fits the address space")
}

/// Bytes a device lends instead of copying them; unchanged until dropped. Like a [`Buf`], it has the form in which it
/// crosses.
#[repr(transparent)]
pub struct Segment {
    raw: IoeSegment,
}

impl Segment {
    /// `len` bytes of `chunk` from `start`, or `None` if they are not all inside it.
    #[inline]
    pub fn new(chunk: Arc<Chunk>, start: usize, len: usize) -> Option<Self> {
        let end = start.checked_add(len)?;
        let data = chunk.get(start..end)?.as_ptr();
        Some(Self {
            raw: IoeSegment {
                data,
                len: u32::try_from(len).ok()?,
                reserved: 0,
                owner: Arc::into_raw(chunk).cast_mut().cast(),
                ops: &CHUNK_OPS,
            },
        })
    }

    /// The form in which it crosses; whoever has that holds the segment.
    #[inline]
    pub(crate) fn into_abi(self) -> IoeSegment {
        let raw = self.raw;
        std::mem::forget(self);
        raw
    }

    /// Takes over a segment that crossed; `None` for one that breaks the contract.
    ///
    /// # Safety
    /// `raw` is what `into_abi` gave or a plugin of the same contract passes: its bytes and operations are valid until it
    /// is released, and the caller holds it.
    #[inline]
    pub(crate) unsafe fn from_abi(raw: IoeSegment) -> Option<Self> {
        if raw.data.is_null() || raw.ops.is_null() {
            return None;
        }
        // SAFETY: the operations are valid as long as the segment, by the caller's word.
        let ops = unsafe { &*raw.ops };
        (ops.retain.is_some() && ops.release.is_some()).then_some(Self { raw })
    }

    fn ops(&self) -> &IoeSegmentOps {
        // SAFETY: `new` and `from_abi` put operations here that live as long as the segment.
        unsafe { &*self.raw.ops }
    }
}

/// How segments of a [`Chunk`] are shared.
static CHUNK_OPS: IoeSegmentOps = IoeSegmentOps {
    retain: Some(retain_chunk),
    release: Some(release_chunk),
};

/// # Safety
/// `owner` is the chunk of a segment that is held.
unsafe extern "C" fn retain_chunk(owner: *mut c_void) {
    // SAFETY: `Segment::new` put an `Arc<Chunk>` there, of which the segment holds one count.
    unsafe { Arc::increment_strong_count(owner.cast::<Chunk>().cast_const()) }
}

/// # Safety
/// `owner` is the chunk of a segment that is held; it no longer is afterwards.
unsafe extern "C" fn release_chunk(owner: *mut c_void) {
    // SAFETY: as for `retain_chunk`.
    unsafe { Arc::decrement_strong_count(owner.cast::<Chunk>().cast_const()) }
}

impl Clone for Segment {
    fn clone(&self) -> Self {
        if let Some(retain) = self.ops().retain {
            // SAFETY: this value holds the segment.
            unsafe { retain(self.raw.owner) }
        }
        Self { raw: self.raw }
    }
}

impl Drop for Segment {
    #[inline]
    fn drop(&mut self) {
        if let Some(release) = self.ops().release {
            // SAFETY: this value holds the segment and ends here; segments are not `Send`, so this is its thread.
            unsafe { release(self.raw.owner) }
        }
    }
}

impl Deref for Segment {
    type Target = [u8];

    #[inline]
    fn deref(&self) -> &[u8] {
        // SAFETY: the bytes are valid and do not change while the segment is held.
        unsafe { std::slice::from_raw_parts(self.raw.data, self.raw.len as usize) }
    }
}

impl fmt::Debug for Segment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Segment({})", self.raw.len)
    }
}

/// Lent segments in order; two without an allocation.
pub type Segments = SmallVec<[Segment; 2]>;

/// Takes `segments` apart: the segments belong to whoever reads the array, which stays in `segments` and lies there until
/// that is moved or dropped.
#[inline]
pub(crate) fn apart(segments: &mut Segments) -> (*const IoeSegment, u32) {
    let count = segments.len() as u32;
    // SAFETY: zero is no longer than it was; what is left out is given away.
    unsafe { segments.set_len(0) };
    // A segment is laid out as what it holds.
    (segments.as_ptr().cast(), count)
}

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
