//! Completion queue entry (NVMe Base 2.0c §3.3.3.2, figure 89).

use crate::Status;

/// One completion queue entry; 16 bytes on the wire.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Cqe {
    /// Dwords 0 and 1: the command's result.
    pub result: u64,
    /// Submission queue head pointer.
    pub sqhd: u16,
    /// Submission queue identifier; reserved on fabrics (Base 2.0c §3.3.3.2), sent as 0.
    pub sqid: u16,
    /// Command identifier.
    pub cid: u16,
    /// Status; the phase bit is not used on fabrics and sent as 0.
    pub status: Status,
}

impl Cqe {
    /// Bytes on the wire.
    pub const LEN: usize = 16;

    /// A completion of `cid` with `status` and result 0.
    pub const fn new(cid: u16, status: Status) -> Self {
        Self {
            result: 0,
            sqhd: 0,
            sqid: 0,
            cid,
            status,
        }
    }

    /// The entry as it crosses the wire.
    pub fn to_bytes(&self) -> [u8; Self::LEN] {
        let mut raw = [0; Self::LEN];
        raw[..8].copy_from_slice(&self.result.to_le_bytes());
        raw[8..10].copy_from_slice(&self.sqhd.to_le_bytes());
        raw[10..12].copy_from_slice(&self.sqid.to_le_bytes());
        raw[12..14].copy_from_slice(&self.cid.to_le_bytes());
        raw[14..].copy_from_slice(&(self.status.0 << 1).to_le_bytes());
        raw
    }

    /// Reads an entry; any 16 bytes are one.
    pub fn from_bytes(raw: &[u8; Self::LEN]) -> Self {
        let mut result = [0; 8];
        result.copy_from_slice(&raw[..8]);
        Self {
            result: u64::from_le_bytes(result),
            sqhd: u16::from_le_bytes([raw[8], raw[9]]),
            sqid: u16::from_le_bytes([raw[10], raw[11]]),
            cid: u16::from_le_bytes([raw[12], raw[13]]),
            status: Status(u16::from_le_bytes([raw[14], raw[15]]) >> 1),
        }
    }
}
