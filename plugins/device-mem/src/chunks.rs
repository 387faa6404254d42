//! The contents of a RAM disk: a table of chunks, allocated when first written.
//!
//! Invariants: a chunk that is not allocated reads as zeroes; bytes lent out never change, because a chunk with a
//! lent segment is replaced, not written (copy on write); everything past the end of the disk is zero, so growing
//! after shrinking shows no old data.
//!
//! Chunks are cut from areas the kernel may back with huge pages, sixteen at a time: address translation is a fifth of the
//! cost of copying 4 KiB out of pages of 4 KiB.

use std::sync::Arc;

use sdk::block::IoError;
use sdk::buf::{Chunk, Segment, Segments};
use sdk::memory;

use crate::limits::{
    CHUNK_BYTES, FRESH_CHUNKS_MAX, INLINE_FREE_CHUNKS_MAX, REPLACED_CHUNKS_MAX, SPARE_CHUNKS_MAX,
};

/// A table of chunks. Offsets and lengths are bytes; the caller keeps them within [`Chunks::len`].
pub(crate) struct Chunks {
    table: Vec<Option<Arc<Chunk>>>,
    zeroes: Arc<Chunk>,
    /// Chunks replaced while lent, while their readers hold them; some whose readers are gone serve the next copies without an
    /// allocation.
    spares: Vec<Arc<Chunk>>,
    /// Chunks of zeroes nobody has used yet, or that were given back.
    fresh: Vec<Chunk>,
    len: u64,
}

/// The part of a range that lies in one chunk.
struct Part {
    index: usize,
    start: usize,
    len: usize,
}

impl Chunks {
    /// `len` zero bytes.
    pub(crate) fn new(len: u64) -> Self {
        Self {
            table: vec![None; chunk_count(len)],
            zeroes: Arc::new(Chunk::from(vec![0; CHUNK_BYTES].into_boxed_slice())),
            spares: Vec::with_capacity(SPARE_CHUNKS_MAX),
            fresh: Vec::with_capacity(FRESH_CHUNKS_MAX),
            len,
        }
    }

    /// Size in bytes.
    pub(crate) fn len(&self) -> u64 {
        self.len
    }

    /// Chunks that hold memory.
    #[cfg(test)]
    pub(crate) fn allocated(&self) -> usize {
        self.table.iter().flatten().count()
    }

    /// Lends `len` bytes from `offset`. Allocates only for more than two chunks.
    #[inline]
    pub(crate) fn lend(&mut self, offset: u64, len: usize) -> Segments {
        if self.spares.len() >= REPLACED_CHUNKS_MAX {
            self.sweep_spares();
            if self.spares.len() >= REPLACED_CHUNKS_MAX {
                return self.lend_copy(offset, len);
            }
        }
        let mut segments = Segments::new();
        for part in parts(offset, len) {
            let chunk = self.table[part.index].as_ref().unwrap_or(&self.zeroes);
            let segment = Segment::new(chunk.clone(), part.start, part.len);
            let segment = segment.expect("a part lies within its chunk");
            // It will be copied to a socket at the end of the turn, out of memory that is rarely in the cache.
            memory::prefetch(&segment);
            segments.push(segment);
        }
        segments
    }

    /// Lends a copy that no write has to leave alone.
    #[cold]
    fn lend_copy(&self, offset: u64, len: usize) -> Segments {
        let mut copy = vec![0; len].into_boxed_slice();
        self.read(offset, &mut copy);
        let segment = Segment::new(Arc::new(Chunk::from(copy)), 0, len);
        Segments::from_iter(segment)
    }

    /// Copies from `offset` into `target`.
    pub(crate) fn read(&self, offset: u64, target: &mut [u8]) {
        let mut rest = target;
        for part in parts(offset, rest.len()) {
            let (now, later) = rest.split_at_mut(part.len);
            let chunk = self.table[part.index].as_ref().unwrap_or(&self.zeroes);
            now.copy_from_slice(&chunk[part.start..part.start + part.len]);
            rest = later;
        }
    }

    /// Copies `source` to `offset`.
    ///
    /// # Errors
    /// [`IoError::NoSpace`] when the system has no memory; a part may have been written.
    #[inline]
    pub(crate) fn write(&mut self, offset: u64, source: &[u8]) -> Result<(), IoError> {
        let mut rest = source;
        for part in parts(offset, source.len()) {
            let (now, later) = rest.split_at(part.len);
            let end = part.start + part.len;
            memory::copy_past_cache(&mut self.writable(part.index)?[part.start..end], now);
            rest = later;
        }
        Ok(())
    }

    /// Zeroes `len` bytes from `offset`; whole chunks give their memory back.
    ///
    /// # Errors
    /// [`IoError::NoSpace`] when a lent chunk must be copied and the system has no memory; a part may have been zeroed.
    pub(crate) fn zero(&mut self, offset: u64, len: u64) -> Result<(), IoError> {
        let end = offset + len;
        let mut at = offset;
        while at < end {
            let index = (at / CHUNK_BYTES as u64) as usize;
            let start = (at % CHUNK_BYTES as u64) as usize;
            let part = (end - at).min((CHUNK_BYTES - start) as u64) as usize;
            // The last chunk of a disk may end past the disk: bytes there are zero, so it may go too.
            if part == CHUNK_BYTES || (start == 0 && at + part as u64 == self.len) {
                self.give_back(index);
            } else if self.table[index].is_some() {
                self.writable(index)?[start..start + part].fill(0);
            }
            at += part as u64;
        }
        Ok(())
    }

    /// Grows with zeroes or cuts off.
    ///
    /// # Errors
    /// As for [`Chunks::zero`]; the size is then as before.
    pub(crate) fn resize(&mut self, len: u64) -> Result<(), IoError> {
        if len < self.len {
            let last_end = (chunk_count(len) * CHUNK_BYTES) as u64;
            let old = self.len;
            self.zero(len, last_end.min(old) - len)?;
            free(self.table.split_off(chunk_count(len)));
        } else {
            self.table.resize(chunk_count(len), None);
        }
        self.len = len;
        Ok(())
    }

    /// The bytes of a chunk for writing: allocated if need be, replaced by a copy while it is lent.
    #[inline]
    fn writable(&mut self, index: usize) -> Result<&mut [u8], IoError> {
        // Counts only grow through this table, on this thread, so a count of one stays one.
        let unique = self.table[index]
            .as_ref()
            .is_some_and(|chunk| Arc::strong_count(chunk) == 1);
        if !unique {
            self.replace(index)?;
        }
        let chunk = self.table[index].as_mut().and_then(Arc::get_mut);
        Ok(chunk.expect("a chunk that is not lent, or was just replaced, has one owner"))
    }

    #[cold]
    fn replace(&mut self, index: usize) -> Result<(), IoError> {
        let Some(old) = self.table[index].take() else {
            self.table[index] = Some(Arc::new(self.fresh_chunk()?));
            return Ok(());
        };
        let copy = match self.copy_of(&old) {
            Ok(copy) => copy,
            Err(error) => {
                self.table[index] = Some(old);
                return Err(error);
            }
        };
        self.table[index] = Some(copy);
        self.spares.push(old);
        if self.spares.len() > SPARE_CHUNKS_MAX {
            self.sweep_spares();
        }
        Ok(())
    }

    /// Frees replaced chunks whose readers are gone, but for some.
    fn sweep_spares(&mut self) {
        let mut unused = 0;
        self.spares.retain_mut(|spare| {
            let is_unused = Arc::get_mut(spare).is_some();
            unused += usize::from(is_unused);
            !is_unused || unused <= SPARE_CHUNKS_MAX
        });
    }

    fn copy_of(&mut self, contents: &Chunk) -> Result<Arc<Chunk>, IoError> {
        let free = self
            .spares
            .iter_mut()
            .position(|spare| Arc::get_mut(spare).is_some());
        let mut copy = match free {
            Some(at) => self.spares.swap_remove(at),
            None => Arc::new(self.fresh_chunk()?),
        };
        let bytes = Arc::get_mut(&mut copy).expect("found to have one owner, or just made");
        bytes.copy_from_slice(contents);
        Ok(copy)
    }

    /// A chunk of zeroes.
    fn fresh_chunk(&mut self) -> Result<Chunk, IoError> {
        if self.fresh.is_empty() {
            let chunks = Chunk::carve(CHUNK_BYTES).map_err(|_| IoError::NoSpace)?;
            self.fresh.extend(chunks);
        }
        self.fresh.pop().ok_or(IoError::NoSpace)
    }

    /// The chunk reads as zeroes from here on; its memory goes back when the last reader is done.
    fn give_back(&mut self, index: usize) {
        if let Some(mut chunk) = self.table[index].take().and_then(Arc::into_inner)
            && self.fresh.len() < FRESH_CHUNKS_MAX
        {
            chunk.clear();
            self.fresh.push(chunk);
        }
    }
}

fn chunk_count(len: u64) -> usize {
    len.div_ceil(CHUNK_BYTES as u64) as usize
}

#[inline]
fn parts(offset: u64, len: usize) -> impl Iterator<Item = Part> {
    let mut index = (offset / CHUNK_BYTES as u64) as usize;
    let mut start = (offset % CHUNK_BYTES as u64) as usize;
    let mut left = len;
    std::iter::from_fn(move || {
        if left == 0 {
            return None;
        }
        let len = left.min(CHUNK_BYTES - start);
        let part = Part { index, start, len };
        index += 1;
        start = 0;
        left -= len;
        Some(part)
    })
}

/// Frees cut-off chunks without holding up the reactor.
fn free(tail: Vec<Option<Arc<Chunk>>>) {
    if tail.iter().flatten().count() <= INLINE_FREE_CHUNKS_MAX {
        return;
    }
    // If no thread can be had, the closure with the chunks is dropped here, which frees them too.
    let _ = std::thread::Builder::new()
        .name("malloc-free".to_owned())
        .spawn(move || drop(tail));
}

#[cfg(test)]
mod tests;
