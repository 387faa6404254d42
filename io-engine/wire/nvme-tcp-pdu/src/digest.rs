//! CRC32C digests (TCP Transport 1.0c §3.6.1, HDGST and DDGST: Castagnoli polynomial, initial value and final inversion all ones).

/// Bytes of a header or data digest.
pub const DIGEST_LEN: usize = 4;

/// CRC32C of `bytes`.
pub fn crc32c(bytes: &[u8]) -> u32 {
    ::crc32c::crc32c(bytes)
}

/// A digest over bytes that arrive in pieces.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Digest(u32);

impl Digest {
    /// The digest of no bytes.
    pub const fn new() -> Self {
        Self(0)
    }

    /// Adds the next bytes.
    #[inline]
    pub fn update(&mut self, bytes: &[u8]) {
        self.0 = ::crc32c::crc32c_append(self.0, bytes);
    }

    /// The digest of all bytes added so far.
    pub const fn value(self) -> u32 {
        self.0
    }
}
