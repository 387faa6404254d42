//! Little-endian fields at fixed offsets of fixed-size structures. Offsets are constants of this crate, so that an access
//! out of bounds is a bug of ours and never a peer's doing.

pub(crate) const fn u16_at(raw: &[u8], at: usize) -> u16 {
    u16::from_le_bytes([raw[at], raw[at + 1]])
}

pub(crate) const fn u32_at(raw: &[u8], at: usize) -> u32 {
    u32::from_le_bytes([raw[at], raw[at + 1], raw[at + 2], raw[at + 3]])
}

pub(crate) fn u64_at(raw: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(array_at(raw, at))
}

pub(crate) fn u128_at(raw: &[u8], at: usize) -> u128 {
    u128::from_le_bytes(array_at(raw, at))
}

pub(crate) fn array_at<const N: usize>(raw: &[u8], at: usize) -> [u8; N] {
    let mut out = [0; N];
    out.copy_from_slice(&raw[at..at + N]);
    out
}

pub(crate) fn put(raw: &mut [u8], at: usize, value: &[u8]) {
    raw[at..at + value.len()].copy_from_slice(value);
}

/// `text` cut to `N` bytes and padded with spaces, as the standard stores ASCII fields (Base 2.0c §1.8).
pub fn ascii_padded<const N: usize>(text: &str) -> [u8; N] {
    let mut out = [b' '; N];
    let len = text.len().min(N);
    out[..len].copy_from_slice(&text.as_bytes()[..len]);
    out
}

/// An ASCII field without its padding; `None` when it is not UTF-8.
pub fn ascii_trimmed(field: &[u8]) -> Option<&str> {
    let end = field
        .iter()
        .rposition(|byte| *byte != b' ' && *byte != 0)
        .map_or(0, |last| last + 1);
    core::str::from_utf8(&field[..end]).ok()
}
