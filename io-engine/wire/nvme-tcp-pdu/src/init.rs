//! ICReq and ICResp: what the two ends agree on before the first capsule (TCP Transport 1.0c §3.6.2.2, §3.6.2.3).

use crate::{CommonHeader, Digests, Flags, Malformed, PduType, u16_at, u32_at};

const LEN: usize = PduType::IcReq.header_len();

/// Initialize Connection Request.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct IcReq {
    /// PFV: PDU format version, 0 for this revision.
    pub pfv: u16,
    /// HPDA: alignment of controller-to-host data in dwords, 0's based, 0 to 31.
    pub hpda_zb: u8,
    /// Digests the host wants.
    pub digests: Digests,
    /// MAXR2T: outstanding R2Ts a command may have, 0's based.
    pub maxr2t_zb: u32,
}

/// Initialize Connection Response.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct IcResp {
    /// PFV: PDU format version, 0 for this revision.
    pub pfv: u16,
    /// CPDA: alignment of host-to-controller data in dwords, 0's based, 0 to 31.
    pub cpda_zb: u8,
    /// Digests the connection uses.
    pub digests: Digests,
    /// MAXH2CDATA: most data bytes of one H2CData PDU, at least 4096 and a multiple of 4.
    pub maxh2cdata: u32,
}

/// Bytes of alignment a 0's based HPDA or CPDA asks for.
const fn alignment(pda_zb: u8) -> u32 {
    (pda_zb as u32 + 1) * 4
}

fn parse(raw: &[u8], expected: PduType) -> Result<(u16, u8, Digests, u32), Malformed> {
    let header = CommonHeader::parse(raw)?;
    if header.pdu_type != expected {
        return Err(Malformed::UnknownType);
    }
    if header.plen as usize != LEN {
        return Err(Malformed::PduLengthInvalid);
    }
    if raw.len() < LEN {
        return Err(Malformed::Truncated);
    }
    if raw[10] > 31 {
        return Err(Malformed::FieldInvalid(10));
    }
    Ok((
        u16_at(raw, 8),
        raw[10],
        Digests::from_byte(raw[11]),
        u32_at(raw, 12),
    ))
}

fn emit(pdu_type: PduType, pfv: u16, pda: u8, digests: Digests, last: u32) -> [u8; LEN] {
    let mut raw = [0; LEN];
    raw[..8].copy_from_slice(&CommonHeader::new(pdu_type, Flags::NONE, 0, LEN as u32).to_bytes());
    raw[8..10].copy_from_slice(&pfv.to_le_bytes());
    raw[10] = pda;
    raw[11] = digests.to_byte();
    raw[12..16].copy_from_slice(&last.to_le_bytes());
    raw
}

impl IcReq {
    /// Bytes on the wire.
    pub const LEN: usize = LEN;

    /// Bytes of alignment HPDA asks for, 4 to 128.
    pub const fn alignment(&self) -> u32 {
        alignment(self.hpda_zb)
    }

    /// Reads a whole ICReq.
    ///
    /// # Errors
    /// Those of [`CommonHeader::parse`], `PduLengthInvalid`, and `FieldInvalid(10)` for an HPDA above 31.
    pub fn parse(raw: &[u8]) -> Result<Self, Malformed> {
        let (pfv, hpda_zb, digests, maxr2t_zb) = parse(raw, PduType::IcReq)?;
        Ok(Self {
            pfv,
            hpda_zb,
            digests,
            maxr2t_zb,
        })
    }

    /// The whole PDU.
    pub fn to_bytes(&self) -> [u8; Self::LEN] {
        emit(
            PduType::IcReq,
            self.pfv,
            self.hpda_zb,
            self.digests,
            self.maxr2t_zb,
        )
    }
}

impl IcResp {
    /// Bytes on the wire.
    pub const LEN: usize = LEN;

    /// Bytes of alignment CPDA asks for, 4 to 128.
    pub const fn alignment(&self) -> u32 {
        alignment(self.cpda_zb)
    }

    /// Reads a whole ICResp.
    ///
    /// # Errors
    /// Those of [`CommonHeader::parse`], `PduLengthInvalid`, `FieldInvalid(10)` for a CPDA above 31 and
    /// `FieldInvalid(12)` for a MAXH2CDATA below 4096 or not a multiple of 4.
    pub fn parse(raw: &[u8]) -> Result<Self, Malformed> {
        let (pfv, cpda_zb, digests, maxh2cdata) = parse(raw, PduType::IcResp)?;
        if maxh2cdata < crate::MAXH2CDATA_MIN || !maxh2cdata.is_multiple_of(4) {
            return Err(Malformed::FieldInvalid(12));
        }
        Ok(Self {
            pfv,
            cpda_zb,
            digests,
            maxh2cdata,
        })
    }

    /// The whole PDU.
    pub fn to_bytes(&self) -> [u8; Self::LEN] {
        emit(
            PduType::IcResp,
            self.pfv,
            self.cpda_zb,
            self.digests,
            self.maxh2cdata,
        )
    }
}
