//! Draws that depend on their arguments and on nothing else, so that a run repeats from its seed.

/// What a draw is for; different purposes never share a draw.
#[derive(Clone, Copy)]
pub(crate) enum Purpose {
    /// The seed of a rule that was given none.
    RuleSeed = 1,
    /// Whether a rule hits.
    Chance = 2,
    /// How much of a delay's jitter is waited.
    Jitter = 3,
    /// The first bit that rots.
    RotFirst = 4,
    /// The step to the next bit.
    RotStep = 5,
    /// Bytes of a block that rots as a whole.
    RotNoise = 6,
}

/// 64 bits for the `number`-th draw of `purpose` under `seed`.
pub(crate) fn draw(seed: u64, purpose: Purpose, number: u64) -> u64 {
    let salted = scramble(seed ^ (purpose as u64).wrapping_mul(0xd6e8_feb8_6659_fd93));
    scramble(salted.wrapping_add(number.wrapping_mul(0x9e37_79b9_7f4a_7c15)))
}

/// The finishing steps of SplitMix64: each bit of the input reaches each bit of the output.
fn scramble(word: u64) -> u64 {
    let mut z = word.wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}
