//! H2CTermReq and C2HTermReq: the last words of a connection (TCP Transport 1.0c §3.6.2.4, §3.6.2.5).

use crate::{CommonHeader, Flags, HEADER_LEN_MAX, Malformed, PduType, u16_at, u32_at};

const LEN: usize = PduType::C2hTermReq.header_len();

/// Fatal Error Status.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u16)]
pub enum FatalStatus {
    /// A header field holds a value that is not allowed; FEI is its byte offset.
    InvalidHeaderField = 1,
    /// The PDU is not allowed in this state.
    SequenceError = 2,
    /// The header digest does not match; FEI is the digest received.
    HeaderDigestError = 3,
    /// Data outside the command's buffer or the R2T.
    DataOutOfRange = 4,
    /// More data than MAXH2CDATA (to the host), or more R2Ts than MAXR2T (to the controller).
    LimitExceeded = 5,
    /// A parameter is not supported; FEI is its byte offset.
    UnsupportedParameter = 6,
}

impl FatalStatus {
    /// The status with this value, or `None` for reserved ones.
    pub const fn from_raw(raw: u16) -> Option<Self> {
        Some(match raw {
            1 => Self::InvalidHeaderField,
            2 => Self::SequenceError,
            3 => Self::HeaderDigestError,
            4 => Self::DataOutOfRange,
            5 => Self::LimitExceeded,
            6 => Self::UnsupportedParameter,
            _ => return None,
        })
    }
}

/// A terminate request of either direction without the copy of the offending header that follows it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct TermReq {
    /// FES as received; [`FatalStatus`] names the defined values.
    pub fes: u16,
    /// FEI, whose meaning depends on FES.
    pub fei: u32,
    /// Bytes of the offending PDU's header that follow, 0 to 128.
    pub header_len: u8,
}

impl TermReq {
    /// Bytes before the copied header.
    pub const LEN: usize = LEN;
    /// Most bytes of the whole PDU.
    pub const PLEN_MAX: usize = LEN + HEADER_LEN_MAX;

    /// Reads the 24 header bytes of a PDU of type `pdu_type`.
    ///
    /// # Errors
    /// Those of [`CommonHeader::parse`], and `PduLengthInvalid` for a PLEN above 152.
    pub fn parse(raw: &[u8], pdu_type: PduType) -> Result<Self, Malformed> {
        let header = CommonHeader::parse(raw)?;
        if header.pdu_type != pdu_type {
            return Err(Malformed::UnknownType);
        }
        if header.plen as usize > Self::PLEN_MAX {
            return Err(Malformed::PduLengthInvalid);
        }
        if raw.len() < LEN {
            return Err(Malformed::Truncated);
        }
        Ok(Self {
            fes: u16_at(raw, 8),
            fei: u32_at(raw, 10),
            header_len: (header.plen as usize - LEN) as u8,
        })
    }

    /// The 24 header bytes; `header_len` bytes of the offending header are to follow.
    pub fn to_bytes(&self, pdu_type: PduType) -> [u8; LEN] {
        let plen = LEN as u32 + u32::from(self.header_len);
        let mut raw = [0; LEN];
        raw[..8].copy_from_slice(&CommonHeader::new(pdu_type, Flags::NONE, 0, plen).to_bytes());
        raw[8..10].copy_from_slice(&self.fes.to_le_bytes());
        raw[10..14].copy_from_slice(&self.fei.to_le_bytes());
        raw
    }
}
