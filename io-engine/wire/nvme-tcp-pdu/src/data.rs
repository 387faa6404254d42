//! Capsules, data PDUs and R2T: everything that is exchanged once a connection is set up
//! (TCP Transport 1.0c §3.6.2.6 to §3.6.2.10).
//!
//! The structures hold what follows the common header; the common header is parsed first and checked by
//! [`CommonHeader::layout`], because how many bytes to read depends on it.

use crate::{CommonHeader, Malformed, PduType, u16_at, u32_at};
use nvme_spec::{Cqe, Sqe};

/// Command capsule.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct CapsuleCmd {
    /// The submission queue entry.
    pub sqe: Sqe,
}

impl CapsuleCmd {
    /// Bytes of the header, common header included.
    pub const LEN: usize = PduType::CapsuleCmd.header_len();

    /// Reads the bytes after the common header; `raw` starts with the common header.
    ///
    /// # Errors
    /// `Truncated`.
    #[inline]
    pub fn parse(raw: &[u8]) -> Result<Self, Malformed> {
        let raw: &[u8; Self::LEN] = raw.first_chunk().ok_or(Malformed::Truncated)?;
        let mut sqe = [0; 64];
        sqe.copy_from_slice(&raw[CommonHeader::LEN..]);
        Ok(Self { sqe: Sqe(sqe) })
    }

    /// The header bytes.
    #[inline]
    pub fn to_bytes(&self, header: CommonHeader) -> [u8; Self::LEN] {
        let mut raw = [0; Self::LEN];
        raw[..CommonHeader::LEN].copy_from_slice(&header.to_bytes());
        raw[CommonHeader::LEN..].copy_from_slice(&self.sqe.0);
        raw
    }
}

/// Response capsule.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct CapsuleResp {
    /// The completion queue entry.
    pub cqe: Cqe,
}

impl CapsuleResp {
    /// Bytes of the header, common header included.
    pub const LEN: usize = PduType::CapsuleResp.header_len();

    /// Reads the bytes after the common header; `raw` starts with the common header.
    ///
    /// # Errors
    /// `Truncated`.
    #[inline]
    pub fn parse(raw: &[u8]) -> Result<Self, Malformed> {
        let raw: &[u8; Self::LEN] = raw.first_chunk().ok_or(Malformed::Truncated)?;
        let mut cqe = [0; Cqe::LEN];
        cqe.copy_from_slice(&raw[CommonHeader::LEN..]);
        Ok(Self {
            cqe: Cqe::from_bytes(&cqe),
        })
    }

    /// The header bytes.
    #[inline]
    pub fn to_bytes(&self, header: CommonHeader) -> [u8; Self::LEN] {
        let mut raw = [0; Self::LEN];
        raw[..CommonHeader::LEN].copy_from_slice(&header.to_bytes());
        raw[CommonHeader::LEN..].copy_from_slice(&self.cqe.to_bytes());
        raw
    }
}

/// H2CData and C2HData, which share their layout; C2HData reserves `ttag`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct DataHeader {
    /// CCCID: the command the data belongs to.
    pub cccid: u16,
    /// TTAG: the R2T the data answers; 0 in C2HData.
    pub ttag: u16,
    /// DATAO: offset in the command's buffer, in bytes.
    pub datao: u32,
    /// DATAL: bytes of data in this PDU.
    pub datal: u32,
}

impl DataHeader {
    /// Bytes of the header, common header included.
    pub const LEN: usize = PduType::H2cData.header_len();

    /// Reads the bytes after the common header; `raw` starts with the common header.
    ///
    /// # Errors
    /// `Truncated`.
    #[inline]
    pub fn parse(raw: &[u8]) -> Result<Self, Malformed> {
        let raw: &[u8; Self::LEN] = raw.first_chunk().ok_or(Malformed::Truncated)?;
        Ok(Self {
            cccid: u16_at(raw, 8),
            ttag: u16_at(raw, 10),
            datao: u32_at(raw, 12),
            datal: u32_at(raw, 16),
        })
    }

    /// The header bytes.
    #[inline]
    pub fn to_bytes(&self, header: CommonHeader) -> [u8; Self::LEN] {
        fields(header, self.cccid, self.ttag, self.datao, self.datal)
    }
}

/// Ready to Transfer.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct R2t {
    /// CCCID: the command whose data is asked for.
    pub cccid: u16,
    /// TTAG: the controller's name for this request, echoed in H2CData.
    pub ttag: u16,
    /// R2TO: offset in the command's buffer, in bytes.
    pub r2to: u32,
    /// R2TL: bytes asked for.
    pub r2tl: u32,
}

impl R2t {
    /// Bytes of the header, common header included.
    pub const LEN: usize = PduType::R2t.header_len();

    /// Reads the bytes after the common header; `raw` starts with the common header.
    ///
    /// # Errors
    /// `Truncated`.
    #[inline]
    pub fn parse(raw: &[u8]) -> Result<Self, Malformed> {
        let raw: &[u8; Self::LEN] = raw.first_chunk().ok_or(Malformed::Truncated)?;
        Ok(Self {
            cccid: u16_at(raw, 8),
            ttag: u16_at(raw, 10),
            r2to: u32_at(raw, 12),
            r2tl: u32_at(raw, 16),
        })
    }

    /// The header bytes.
    #[inline]
    pub fn to_bytes(&self, header: CommonHeader) -> [u8; Self::LEN] {
        fields(header, self.cccid, self.ttag, self.r2to, self.r2tl)
    }
}

#[inline]
fn fields(header: CommonHeader, cccid: u16, ttag: u16, offset: u32, len: u32) -> [u8; 24] {
    let mut raw = [0; 24];
    raw[..8].copy_from_slice(&header.to_bytes());
    raw[8..10].copy_from_slice(&cccid.to_le_bytes());
    raw[10..12].copy_from_slice(&ttag.to_le_bytes());
    raw[12..16].copy_from_slice(&offset.to_le_bytes());
    raw[16..20].copy_from_slice(&len.to_le_bytes());
    raw
}
