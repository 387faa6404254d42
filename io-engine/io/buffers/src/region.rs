//! The mapped memory of an arena: obtaining it, naming addresses in it, giving it back.
//!
//! Invariant: `base` points to `len` zero-filled, readable and writable bytes, aligned to a page, owned by this value
//! and mapped until it is dropped.
#![expect(
    unsafe_code,
    reason = "mapping memory and handing out raw pieces of it"
)]

use std::io;
use std::ptr::NonNull;
use std::rc::Rc;

use sdk::buf::{Buf, BufHome};

use crate::PIECE_BYTES_MIN;

/// Anonymous memory of a fixed size.
pub(crate) struct Region {
    base: NonNull<u8>,
    len: usize,
}

impl Region {
    /// Maps `len` bytes, a multiple of the page size. Pages are populated when they are first touched.
    #[cfg(not(miri))]
    pub(crate) fn map(len: usize) -> io::Result<Self> {
        use rustix::mm::{MapFlags, ProtFlags, mmap_anonymous};
        let prot = ProtFlags::READ | ProtFlags::WRITE;
        // SAFETY: a null hint lets the kernel choose an address nothing else uses.
        let ptr = unsafe { mmap_anonymous(std::ptr::null_mut(), len, prot, MapFlags::PRIVATE)? };
        let base =
            NonNull::new(ptr.cast()).ok_or_else(|| io::Error::from(io::ErrorKind::OutOfMemory))?;
        Ok(Self { base, len })
    }

    /// Under Miri, which knows no `mmap`, the allocator provides the bytes.
    #[cfg(miri)]
    pub(crate) fn map(len: usize) -> io::Result<Self> {
        let layout = Self::layout(len);
        // SAFETY: `layout` has a size above zero, because callers ask for at least one piece.
        let ptr = unsafe { std::alloc::alloc_zeroed(layout) };
        let base = NonNull::new(ptr).ok_or_else(|| io::Error::from(io::ErrorKind::OutOfMemory))?;
        Ok(Self { base, len })
    }

    #[cfg(miri)]
    fn layout(len: usize) -> std::alloc::Layout {
        std::alloc::Layout::from_size_align(len, PIECE_BYTES_MIN).expect("a page-aligned size")
    }

    /// Bytes in all.
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// First byte, as an address that is only compared, never followed.
    pub(crate) fn base(&self) -> NonNull<u8> {
        self.base
    }

    /// The piece number of an address inside the region.
    pub(crate) fn page_of(&self, ptr: NonNull<u8>) -> u32 {
        let offset = ptr.addr().get() - self.base.addr().get();
        assert!(offset < self.len, "a buffer returned to another's arena");
        (offset / PIECE_BYTES_MIN) as u32
    }

    /// Wraps `capacity` bytes from page `page` on as a buffer of `len` bytes.
    ///
    /// # Safety
    /// The allocator must have marked these pages as lent to nobody else, and must not lend them again before
    /// `home.give_back` is called for them. `home` must keep this region alive.
    pub(crate) unsafe fn lend(
        &self,
        page: u32,
        len: usize,
        capacity: usize,
        home: Rc<impl BufHome + 'static>,
    ) -> Buf {
        let offset = page as usize * PIECE_BYTES_MIN;
        assert!(offset + capacity <= self.len, "a piece outside its region");
        // SAFETY: the assertion keeps the result inside the mapping, of which `base` has the provenance.
        let ptr = unsafe { self.base.add(offset) };
        // SAFETY: the bytes are mapped, zero-filled at first and thus initialised, page-aligned because `base` and
        // `offset` are; exclusive by this function's own contract.
        unsafe { Buf::from_raw(ptr, len, capacity, home) }
    }
}

impl Drop for Region {
    #[cfg(not(miri))]
    fn drop(&mut self) {
        // SAFETY: the mapping was made by `map` with this length, and every buffer holds a reference to the region's
        // owner, so none is left. A failure leaks the mapping, which harms nobody.
        let _ = unsafe { rustix::mm::munmap(self.base.as_ptr().cast(), self.len) };
    }

    #[cfg(miri)]
    fn drop(&mut self) {
        // SAFETY: allocated by `map` with the same layout; no buffer is left.
        unsafe { std::alloc::dealloc(self.base.as_ptr(), Self::layout(self.len)) };
    }
}
