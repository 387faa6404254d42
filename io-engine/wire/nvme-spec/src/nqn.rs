//! NVMe qualified names (Base 2.0c §4.5): UTF-8, at most 223 bytes, in a zero-padded 256-byte field.

/// Bytes of an NQN field in any structure.
pub const NQN_FIELD_LEN: usize = 256;
/// Longest NQN in bytes.
pub const NQN_LEN_MAX: usize = 223;
/// The well-known name of every discovery subsystem (§4.5).
pub const DISCOVERY_NQN: &str = "nqn.2014-08.org.nvmexpress.discovery";

/// The field holding `nqn`; a longer name is cut at [`NQN_LEN_MAX`] bytes.
pub fn nqn_field(nqn: &str) -> [u8; NQN_FIELD_LEN] {
    let mut out = [0; NQN_FIELD_LEN];
    let len = nqn.len().min(NQN_LEN_MAX);
    out[..len].copy_from_slice(&nqn.as_bytes()[..len]);
    out
}

/// The name in `field`: not empty, UTF-8, without control characters, ended by a NUL within 224 bytes; else `None`.
pub fn nqn_text(field: &[u8; NQN_FIELD_LEN]) -> Option<&str> {
    let len = field[..=NQN_LEN_MAX].iter().position(|byte| *byte == 0)?;
    let text = core::str::from_utf8(&field[..len]).ok()?;
    (!text.is_empty() && !text.chars().any(char::is_control)).then_some(text)
}
