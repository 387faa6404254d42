//! Whole pools with metadata changed at will and every check made right again up to the root: checked, repaired, opened and used.
//!
//! Oracle: no panic, no write outside of a disk, an end; a repair makes no fault of another kind than it found, and a check after it ends.

use std::cell::RefCell;

use world::Rng;
use world::disk::Disk;
use world::faults::settled_pool;
use world::forge::{Image, use_forged};
use world::model::Model;

/// Changes of one image, at most.
const CHANGES_MAX: usize = 8;

thread_local! {
    /// Made once: an input only changes a copy.
    static POOLS: RefCell<Vec<(Vec<Disk>, Model)>> = const { RefCell::new(Vec::new()) };
}

/// Runs one input: the first byte chooses the pool, then seven bytes a change: which block of metadata, which word of it, the new value.
pub fn run(input: &[u8]) {
    let Some((which, rest)) = input.split_first() else {
        return;
    };
    let (disks, model) = pool(usize::from(which % 4));
    let mut image = Image::new(&disks);
    for change in rest.chunks_exact(7).take(CHANGES_MAX) {
        let places = image.places();
        let place = places[usize::from(u16::from_le_bytes([change[0], change[1]])) % places.len()];
        // Most structures have what matters at their beginning.
        let word = usize::from(change[2]) * if change[0] & 1 == 0 { 1 } else { 4 };
        let at = 4 * word;
        image.disks[place.0][place.1][at..at + 4].copy_from_slice(&change[3..7]);
        image.reseal(place, 0);
    }
    use_forged(&mut image, &disks, &model, &mut Rng::new(1));
}

fn pool(which: usize) -> (Vec<Disk>, Model) {
    POOLS.with_borrow_mut(|pools| {
        if pools.is_empty() {
            for seed in 0..4 {
                pools.push(settled_pool(&mut Rng::new(seed), seed.is_multiple_of(2)));
            }
        }
        pools[which].clone()
    })
}
