//! The arena: a region, the allocator over it, and what is counted about them.
#![expect(
    unsafe_code,
    reason = "vouches to the region that the allocator lends a page once"
)]

use std::cell::{Cell, RefCell};
use std::fmt;
use std::io;
use std::ptr::NonNull;
use std::rc::Rc;

use sdk::buf::{Buf, BufHome};

use crate::buddy::{Buddy, ORDERS, PAGES_MAX};
use crate::region::Region;
use crate::{PIECE_BYTES_MAX, PIECE_BYTES_MIN};

const _: () = assert!(PAGES_MAX as usize * PIECE_BYTES_MIN == PIECE_BYTES_MAX && ORDERS > 0);

/// Largest arena, in bytes: page numbers are 32 bits wide, and a size near the address space is a mistake.
const ARENA_BYTES_MAX: usize = 1 << 42;

/// Why there is no arena.
#[derive(Debug)]
pub enum ArenaError {
    /// The size is zero or above 4 TiB.
    SizeOutOfRange,
    /// The operating system refused the memory.
    Map(io::Error),
}

impl fmt::Display for ArenaError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::SizeOutOfRange => f.write_str("arena size must be between 1 byte and 4 TiB"),
            Self::Map(_) => f.write_str("cannot map the arena"),
        }
    }
}

impl std::error::Error for ArenaError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::SizeOutOfRange => None,
            Self::Map(source) => Some(source),
        }
    }
}

/// Figures of an arena, in bytes unless said otherwise.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct ArenaStats {
    /// Size of the arena.
    pub bytes: usize,
    /// Lent at the moment, in whole pieces.
    pub used_bytes: usize,
    /// The most that was ever lent at once.
    pub used_bytes_peak: usize,
    /// Number of requests refused for want of space, since the start.
    pub refusals: u64,
}

/// A bounded region of memory, lent piece by piece. Cloning gives another handle to the same arena.
#[derive(Clone)]
pub struct Arena {
    shared: Rc<Shared>,
}

struct Shared {
    region: Region,
    buddy: RefCell<Buddy>,
    used_bytes_peak: Cell<usize>,
    refusals: Cell<u64>,
}

impl Arena {
    /// Maps an arena of `bytes`, rounded up to a multiple of 1 MiB. Memory is taken from the system as it is touched.
    ///
    /// # Errors
    /// [`ArenaError::SizeOutOfRange`] for 0 and above 4 TiB, [`ArenaError::Map`] when the system refuses.
    pub fn new(bytes: usize) -> Result<Self, ArenaError> {
        if bytes == 0 || bytes > ARENA_BYTES_MAX {
            return Err(ArenaError::SizeOutOfRange);
        }
        let bytes = bytes.next_multiple_of(PIECE_BYTES_MAX);
        let region = Region::map(bytes).map_err(ArenaError::Map)?;
        let buddy = Buddy::new((bytes / PIECE_BYTES_MIN) as u32);
        Ok(Self {
            shared: Rc::new(Shared {
                region,
                buddy: RefCell::new(buddy),
                used_bytes_peak: Cell::new(0),
                refusals: Cell::new(0),
            }),
        })
    }

    /// A buffer of `len` bytes; its capacity is the next power of two of pages. `None` while no such piece is free
    /// (counted as a refusal) and for more than [`PIECE_BYTES_MAX`].
    pub fn alloc(&self, len: usize) -> Option<Buf> {
        let shared = &self.shared;
        let order = Buddy::order_for(len, PIECE_BYTES_MIN)?;
        let Some(page) = shared.buddy.borrow_mut().take(order) else {
            shared.refusals.set(shared.refusals.get() + 1);
            return None;
        };
        let used = shared.used_bytes();
        if used > shared.used_bytes_peak.get() {
            shared.used_bytes_peak.set(used);
        }
        let capacity = PIECE_BYTES_MIN << order;
        // SAFETY: the allocator has just taken `capacity` bytes at `page` off its free blocks and takes them back only
        // in `give_back`; `shared` owns the region.
        Some(unsafe { shared.region.lend(page, len, capacity, shared.clone()) })
    }

    /// Figures at the moment.
    pub fn stats(&self) -> ArenaStats {
        ArenaStats {
            bytes: self.shared.region.len(),
            used_bytes: self.shared.used_bytes(),
            used_bytes_peak: self.shared.used_bytes_peak.get(),
            refusals: self.shared.refusals.get(),
        }
    }

    /// Address and length of the whole region, for registering it with the kernel. The address is not to be followed.
    pub fn span(&self) -> (NonNull<u8>, usize) {
        (self.shared.region.base(), self.shared.region.len())
    }
}

impl fmt::Debug for Arena {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.stats().fmt(f)
    }
}

impl Shared {
    fn used_bytes(&self) -> usize {
        self.region.len() - self.buddy.borrow().pages_free() as usize * PIECE_BYTES_MIN
    }
}

impl BufHome for Shared {
    fn give_back(&self, ptr: NonNull<u8>, capacity: usize) {
        let page = self.region.page_of(ptr);
        let order = self.buddy.borrow_mut().give_back(page);
        assert_eq!(
            capacity,
            PIECE_BYTES_MIN << order,
            "a buffer changed its size"
        );
    }
}

#[cfg(test)]
mod tests;
