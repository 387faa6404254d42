//! Which pages of an arena are free: a buddy allocator over page numbers. No memory is touched here.
//!
//! Free blocks of each order (4 KiB · 2^order) hang in doubly linked lists kept in side tables, last freed first, so
//! that the next borrower finds the bytes in cache. A small stack per order in front of the lists puts off merging:
//! the common cycle of lending and returning one size moves one number. It is merged back before a request is refused.
//!
//! Invariants: a page belongs to exactly one block; a block is lent, stacked or listed; two listed buddies of one order
//! never coexist.

/// Orders: blocks of 1, 2, 4, … 256 pages.
pub(crate) const ORDERS: usize = 9;

/// Pages of a block of the highest order.
pub(crate) const PAGES_MAX: u32 = 1 << (ORDERS - 1);

/// Blocks of one order that wait unmerged, at most; further ones are merged at once.
const STACKED_MAX: usize = 64;

const NONE: u32 = u32::MAX;

/// What the first page of a block is known as; other pages are [`State::Inside`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum State {
    /// Not the first page of a block.
    Inside,
    /// First page of a lent block.
    Lent,
    /// First page of a free block on its order's stack.
    Stacked,
    /// First page of a free block in its order's list.
    Listed,
}

#[derive(Clone, Copy)]
struct Page {
    prev: u32,
    next: u32,
    order: u8,
    state: State,
}

/// The allocator's tables.
pub(crate) struct Buddy {
    pages: Box<[Page]>,
    heads: [u32; ORDERS],
    stacks: [Vec<u32>; ORDERS],
    pages_free: u32,
}

impl Buddy {
    /// All of `pages` free; a multiple of [`PAGES_MAX`].
    pub(crate) fn new(pages: u32) -> Self {
        assert!(pages.is_multiple_of(PAGES_MAX) && pages < NONE);
        let blank = Page {
            prev: NONE,
            next: NONE,
            order: 0,
            state: State::Inside,
        };
        let mut buddy = Self {
            pages: vec![blank; pages as usize].into_boxed_slice(),
            heads: [NONE; ORDERS],
            stacks: std::array::from_fn(|_| Vec::with_capacity(STACKED_MAX)),
            pages_free: pages,
        };
        for block in (0..pages / PAGES_MAX).rev() {
            buddy.list(block * PAGES_MAX, ORDERS - 1);
        }
        buddy
    }

    /// The smallest order whose blocks hold `len` bytes of pages of `page` bytes; `None` above the largest.
    pub(crate) fn order_for(len: usize, page: usize) -> Option<usize> {
        let pages = len.div_ceil(page).max(1).checked_next_power_of_two()?;
        let order = pages.trailing_zeros() as usize;
        (order < ORDERS).then_some(order)
    }

    /// Pages lent to nobody.
    pub(crate) fn pages_free(&self) -> u32 {
        self.pages_free
    }

    /// Takes a block of `order`, or `None` when none is free even after merging.
    pub(crate) fn take(&mut self, order: usize) -> Option<u32> {
        let page = match self.stacks[order].pop() {
            Some(page) => page,
            None => self.take_listed(order).or_else(|| {
                self.merge_stacked();
                self.take_listed(order)
            })?,
        };
        self.pages[page as usize] = Page {
            prev: NONE,
            next: NONE,
            order: order as u8,
            state: State::Lent,
        };
        self.pages_free -= 1 << order;
        Some(page)
    }

    /// Takes back the lent block that starts at `page`; returns its order.
    pub(crate) fn give_back(&mut self, page: u32) -> usize {
        let entry = self.pages[page as usize];
        assert_eq!(entry.state, State::Lent, "a block returned twice");
        let order = entry.order as usize;
        self.pages_free += 1 << order;
        if self.stacks[order].len() < STACKED_MAX {
            self.pages[page as usize].state = State::Stacked;
            self.stacks[order].push(page);
        } else {
            self.merge(page, order);
        }
        order
    }

    /// Merges everything that waits, so that free memory is as whole as it can be.
    pub(crate) fn merge_stacked(&mut self) {
        for order in 0..ORDERS {
            while let Some(page) = self.stacks[order].pop() {
                self.merge(page, order);
            }
        }
    }

    /// Takes a block of `order` off the lists, splitting a larger one if need be.
    fn take_listed(&mut self, order: usize) -> Option<u32> {
        let mut found = (order..ORDERS).find(|&o| self.heads[o] != NONE)?;
        let page = self.heads[found];
        self.unlist(page, found);
        while found > order {
            found -= 1;
            self.list(page + (1 << found), found);
        }
        Some(page)
    }

    /// Lists a free block, joined with its buddy as often as that one is listed too.
    fn merge(&mut self, mut page: u32, mut order: usize) {
        while order + 1 < ORDERS {
            let buddy = page ^ (1 << order);
            let entry = self.pages[buddy as usize];
            if entry.state != State::Listed || entry.order as usize != order {
                break;
            }
            self.unlist(buddy, order);
            self.pages[page as usize].state = State::Inside;
            page = page.min(buddy);
            order += 1;
        }
        self.list(page, order);
    }

    fn list(&mut self, page: u32, order: usize) {
        let next = self.heads[order];
        if next != NONE {
            self.pages[next as usize].prev = page;
        }
        self.heads[order] = page;
        self.pages[page as usize] = Page {
            prev: NONE,
            next,
            order: order as u8,
            state: State::Listed,
        };
    }

    fn unlist(&mut self, page: u32, order: usize) {
        let Page { prev, next, .. } = self.pages[page as usize];
        match prev {
            NONE => self.heads[order] = next,
            _ => self.pages[prev as usize].next = next,
        }
        if next != NONE {
            self.pages[next as usize].prev = prev;
        }
        self.pages[page as usize].state = State::Inside;
    }
}

#[cfg(test)]
mod tests;
