//! Whole pools with metadata changed at will and every check made right again up to the root: checked, repaired, opened and used.
//!
//! Oracle: no panic, no write outside of a disk, an end; a repair makes no fault of another kind than it found, and a check after it ends.

use std::cell::RefCell;

use world::Rng;
use world::faults::{leaving_pool, settled_pool};
use world::forge::{Image, use_forged};
use world::model::Model;

/// Changes of one image, at most.
const CHANGES_MAX: usize = 8;

thread_local! {
    /// Made once: an input only changes a copy.
    static POOLS: RefCell<Vec<(Image, Model)>> = const { RefCell::new(Vec::new()) };
}

/// Runs one input: the first byte chooses the pool, then seven bytes a change: which block of metadata, which word of it, the new value.
pub fn run(input: &[u8]) {
    let Some((which, rest)) = input.split_first() else {
        return;
    };
    let (mut image, model) = pool(usize::from(which % 4));
    for change in rest.chunks_exact(7).take(CHANGES_MAX) {
        let places = image.places();
        let place = usize::from(u16::from_le_bytes([change[0], change[1]])) % places.len();
        let place = places[place];
        // Most structures have what matters at their beginning.
        let word = usize::from(change[2]) * if change[0] & 1 == 0 { 1 } else { 4 };
        let value = [change[3], change[4], change[5], change[6]];
        image.set(place, 4 * word, value);
        image.reseal(place, 0);
    }
    use_forged(&image, &model, &mut Rng::new(1));
}

fn pool(which: usize) -> (Image, Model) {
    POOLS.with_borrow_mut(|pools| {
        if pools.is_empty() {
            for seed in 0..4 {
                let mut rng = Rng::new(seed);
                let (disks, model) = match seed {
                    3 => leaving_pool(&mut rng),
                    _ => settled_pool(&mut rng, seed.is_multiple_of(2)),
                };
                pools.push((Image::new(&disks), model));
            }
        }
        pools[which].clone()
    })
}
