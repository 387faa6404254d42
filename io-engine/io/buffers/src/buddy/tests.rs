//! The allocator against a model: a map of pages to the block that holds them.

use super::*;

/// A small deterministic generator; the sequence is part of the test.
struct Rng(u64);

impl Rng {
    fn below(&mut self, n: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 % n as u64) as usize
    }
}

/// Every invariant of the module head, checked from the tables alone.
fn check(buddy: &Buddy) {
    let mut owner = vec![None; buddy.pages.len()];
    let mut free = 0;
    for (first, page) in buddy.pages.iter().enumerate() {
        if page.state == State::Inside {
            continue;
        }
        let pages = 1usize << page.order;
        assert_eq!(first % pages, 0, "a block is aligned to its size");
        for (offset, slot) in owner[first..first + pages].iter_mut().enumerate() {
            assert_eq!(
                slot.replace(first),
                None,
                "page {} in two blocks",
                first + offset
            );
        }
        if page.state != State::Lent {
            free += pages as u32;
        }
        if page.state == State::Listed && (page.order as usize) < ORDERS - 1 {
            let twin = buddy.pages[first ^ pages];
            let is_whole = twin.state == State::Listed && twin.order == page.order;
            assert!(!is_whole, "two listed buddies at {first}");
        }
    }
    assert!(owner.iter().all(Option::is_some), "a page in no block");
    assert_eq!(free, buddy.pages_free());
    for order in 0..ORDERS {
        let (mut at, mut before, mut listed) = (buddy.heads[order], NONE, 0);
        while at != NONE {
            let page = buddy.pages[at as usize];
            assert_eq!(
                (page.state, page.order as usize, page.prev),
                (State::Listed, order, before)
            );
            (before, at, listed) = (at, page.next, listed + 1);
        }
        let count = |state| {
            let of_order = |p: &&Page| p.state == state && p.order as usize == order;
            buddy.pages.iter().filter(of_order).count()
        };
        assert_eq!(listed, count(State::Listed));
        assert_eq!(buddy.stacks[order].len(), count(State::Stacked));
    }
}

#[test]
fn random_lending_never_overlaps_and_always_becomes_whole_again() {
    const BLOCKS: u32 = 4;
    let rounds: u64 = if cfg!(miri) { 2 } else { 40 };
    for seed in 1..=rounds {
        let mut rng = Rng(0x9e37_79b9_7f4a_7c15_u64.wrapping_mul(seed));
        let mut buddy = Buddy::new(BLOCKS * PAGES_MAX);
        let mut lent = Vec::new();
        for step in 0..2000 {
            // Phases that mostly lend and phases that mostly return, so that both full and empty are visited.
            let lends = rng.below(10) < if step / 250 % 2 == 0 { 7 } else { 3 };
            if lends {
                let order = rng.below(ORDERS);
                match buddy.take(order) {
                    Some(page) => lent.push((page, order)),
                    None => assert!(
                        !is_free_run(&buddy, order),
                        "refused although a block of order {order} is free"
                    ),
                }
            } else if !lent.is_empty() {
                let (page, order) = lent.swap_remove(rng.below(lent.len()));
                assert_eq!(buddy.give_back(page), order);
            }
            if step % 50 == 0 {
                check(&buddy);
            }
        }
        for (page, _) in lent.drain(..) {
            buddy.give_back(page);
        }
        check(&buddy);
        assert_eq!(buddy.pages_free(), BLOCKS * PAGES_MAX);
        for _ in 0..BLOCKS {
            assert!(
                buddy.take(ORDERS - 1).is_some(),
                "not whole with seed {seed}"
            );
        }
        assert!(buddy.take(0).is_none());
    }
}

/// Whether an aligned run of free pages of `order` exists, by looking at lent blocks only.
fn is_free_run(buddy: &Buddy, order: usize) -> bool {
    let mut lent = vec![false; buddy.pages.len()];
    for (first, page) in buddy.pages.iter().enumerate() {
        if page.state == State::Lent {
            lent[first..first + (1 << page.order)].fill(true);
        }
    }
    lent.chunks(1 << order).any(|run| run.iter().all(|l| !l))
}

#[test]
fn every_order_sequence_of_three_is_exact() {
    for a in 0..ORDERS {
        for b in 0..ORDERS {
            for c in 0..ORDERS {
                let mut buddy = Buddy::new(PAGES_MAX);
                let taken: Vec<u32> = [a, b, c].iter().filter_map(|&o| buddy.take(o)).collect();
                check(&buddy);
                for page in taken.into_iter().rev() {
                    buddy.give_back(page);
                    check(&buddy);
                }
                assert!(buddy.take(ORDERS - 1).is_some(), "{a} {b} {c}");
            }
        }
    }
}

#[test]
fn order_is_the_smallest_that_fits() {
    assert_eq!(Buddy::order_for(0, 4096), Some(0));
    assert_eq!(Buddy::order_for(4096, 4096), Some(0));
    assert_eq!(Buddy::order_for(4097, 4096), Some(1));
    assert_eq!(Buddy::order_for(1 << 20, 4096), Some(8));
    assert_eq!(Buddy::order_for((1 << 20) + 1, 4096), None);
    assert_eq!(Buddy::order_for(usize::MAX, 4096), None);
}

#[test]
#[should_panic(expected = "a block returned twice")]
fn a_second_return_is_caught() {
    let mut buddy = Buddy::new(PAGES_MAX);
    let page = buddy.take(3).unwrap();
    buddy.give_back(page);
    buddy.give_back(page);
}
