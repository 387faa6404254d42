//! The common header, its flags, and where header, padding, data and digests of a PDU lie.

use crate::{DIGEST_LEN, Malformed, u32_at};

/// PDU types (TCP Transport 1.0c §3.6.1, PDU-Type).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum PduType {
    /// Initialize Connection Request, host to controller.
    IcReq = 0x00,
    /// Initialize Connection Response, controller to host.
    IcResp = 0x01,
    /// Host to Controller Terminate Connection Request.
    H2cTermReq = 0x02,
    /// Controller to Host Terminate Connection Request.
    C2hTermReq = 0x03,
    /// Command Capsule, host to controller.
    CapsuleCmd = 0x04,
    /// Response Capsule, controller to host.
    CapsuleResp = 0x05,
    /// Host to Controller Data.
    H2cData = 0x06,
    /// Controller to Host Data.
    C2hData = 0x07,
    /// Ready to Transfer, controller to host.
    R2t = 0x09,
}

impl PduType {
    /// Every type, in order of its value.
    pub const ALL: [Self; 9] = [
        Self::IcReq,
        Self::IcResp,
        Self::H2cTermReq,
        Self::C2hTermReq,
        Self::CapsuleCmd,
        Self::CapsuleResp,
        Self::H2cData,
        Self::C2hData,
        Self::R2t,
    ];

    /// The type with this PDU-Type value.
    ///
    /// # Errors
    /// [`Malformed::UnknownType`] for values the transport revision does not define.
    pub const fn from_byte(raw: u8) -> Result<Self, Malformed> {
        Ok(match raw {
            0x00 => Self::IcReq,
            0x01 => Self::IcResp,
            0x02 => Self::H2cTermReq,
            0x03 => Self::C2hTermReq,
            0x04 => Self::CapsuleCmd,
            0x05 => Self::CapsuleResp,
            0x06 => Self::H2cData,
            0x07 => Self::C2hData,
            0x09 => Self::R2t,
            _ => return Err(Malformed::UnknownType),
        })
    }

    /// Bytes of this type's header, the only HLEN allowed for it (TCP Transport 1.0c §3.6.2).
    pub const fn header_len(self) -> usize {
        match self {
            Self::IcReq | Self::IcResp => 128,
            Self::CapsuleCmd => 72,
            Self::H2cTermReq
            | Self::C2hTermReq
            | Self::CapsuleResp
            | Self::H2cData
            | Self::C2hData
            | Self::R2t => 24,
        }
    }

    /// Whether a header digest follows the header when the connection uses them.
    pub const fn has_header_digest(self) -> bool {
        match self {
            Self::IcReq | Self::IcResp | Self::H2cTermReq | Self::C2hTermReq => false,
            Self::CapsuleCmd | Self::CapsuleResp | Self::H2cData | Self::C2hData | Self::R2t => {
                true
            }
        }
    }

    /// Whether the type may carry data (and then padding and a data digest).
    pub const fn has_data(self) -> bool {
        match self {
            Self::CapsuleCmd | Self::H2cData | Self::C2hData => true,
            Self::IcReq
            | Self::IcResp
            | Self::H2cTermReq
            | Self::C2hTermReq
            | Self::CapsuleResp
            | Self::R2t => false,
        }
    }

    /// The type's name in the specification.
    pub const fn name(self) -> &'static str {
        match self {
            Self::IcReq => "ICReq",
            Self::IcResp => "ICResp",
            Self::H2cTermReq => "H2CTermReq",
            Self::C2hTermReq => "C2HTermReq",
            Self::CapsuleCmd => "CapsuleCmd",
            Self::CapsuleResp => "CapsuleResp",
            Self::H2cData => "H2CData",
            Self::C2hData => "C2HData",
            Self::R2t => "R2T",
        }
    }
}

/// FLAGS of the common header (TCP Transport 1.0c §3.6.1). Undefined bits are kept and ignored.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Flags(pub u8);

impl Flags {
    /// No flag.
    pub const NONE: Self = Self(0);
    /// HDGSTF: a header digest follows the header.
    pub const HDGST: Self = Self(1 << 0);
    /// DDGSTF: a data digest follows the data.
    pub const DDGST: Self = Self(1 << 1);
    /// LAST_PDU: the last data PDU of this transfer.
    pub const LAST: Self = Self(1 << 2);
    /// SUCCESS (C2HData): the command completed with success, no response capsule follows.
    pub const SUCCESS: Self = Self(1 << 3);

    /// Both sets of flags.
    pub const fn with(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// `self` plus `other` where `on`.
    pub const fn with_if(self, on: bool, other: Self) -> Self {
        if on { self.with(other) } else { self }
    }

    /// Whether every flag of `other` is set.
    pub const fn has(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }
}

/// Which digests a connection uses.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Digests {
    /// A digest after each header (HDGST).
    pub header: bool,
    /// A digest after data (DDGST).
    pub data: bool,
}

impl Digests {
    /// From the DGST byte of ICReq or ICResp; reserved bits are ignored.
    pub const fn from_byte(raw: u8) -> Self {
        Self {
            header: raw & 1 != 0,
            data: raw & 2 != 0,
        }
    }

    /// The DGST byte.
    pub const fn to_byte(self) -> u8 {
        self.header as u8 | (self.data as u8) << 1
    }

    /// FLAGS of a PDU with (`data`) or without data on a connection with these digests.
    pub const fn flags(self, data: bool) -> Flags {
        Flags::NONE
            .with_if(self.header, Flags::HDGST)
            .with_if(self.data && data, Flags::DDGST)
    }

    /// Bytes a header digest takes.
    pub const fn header_len(self) -> usize {
        if self.header { DIGEST_LEN } else { 0 }
    }

    /// Bytes a data digest takes.
    pub const fn data_len(self) -> usize {
        if self.data { DIGEST_LEN } else { 0 }
    }
}

/// The 8 bytes every PDU starts with (TCP Transport 1.0c §3.6.1).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct CommonHeader {
    /// PDU-Type.
    pub pdu_type: PduType,
    /// FLAGS.
    pub flags: Flags,
    /// HLEN: bytes of the header without digest.
    pub hlen: u8,
    /// PDO: offset of the data from the start of the PDU, 0 without data.
    pub pdo: u8,
    /// PLEN: bytes of the whole PDU.
    pub plen: u32,
}

impl CommonHeader {
    /// Bytes on the wire.
    pub const LEN: usize = 8;

    /// A header of `pdu_type` without data whose PDU is `plen` bytes long.
    pub const fn new(pdu_type: PduType, flags: Flags, pdo: u8, plen: u32) -> Self {
        Self {
            pdu_type,
            flags,
            hlen: pdu_type.header_len() as u8,
            pdo,
            plen,
        }
    }

    /// Reads the first 8 bytes of `raw`.
    ///
    /// # Errors
    /// `Truncated`, `UnknownType`, `HeaderLengthInvalid` (HLEN is fixed by the type), `PduLengthInvalid` (PLEN less
    /// than HLEN).
    #[inline]
    pub fn parse(raw: &[u8]) -> Result<Self, Malformed> {
        if raw.len() < Self::LEN {
            return Err(Malformed::Truncated);
        }
        let header = Self {
            pdu_type: PduType::from_byte(raw[0])?,
            flags: Flags(raw[1]),
            hlen: raw[2],
            pdo: raw[3],
            plen: u32_at(raw, 4),
        };
        if usize::from(header.hlen) != header.pdu_type.header_len() {
            return Err(Malformed::HeaderLengthInvalid);
        }
        if header.plen < u32::from(header.hlen) {
            return Err(Malformed::PduLengthInvalid);
        }
        Ok(header)
    }

    /// The 8 bytes.
    #[inline]
    pub const fn to_bytes(&self) -> [u8; Self::LEN] {
        let plen = self.plen.to_le_bytes();
        [
            self.pdu_type as u8,
            self.flags.0,
            self.hlen,
            self.pdo,
            plen[0],
            plen[1],
            plen[2],
            plen[3],
        ]
    }

    /// Where the parts of this PDU lie on a connection with `digests`, whose data in this direction starts at a
    /// multiple of `alignment` bytes (4 to 128).
    ///
    /// # Errors
    /// `FlagsInvalid` if the digest flags differ from `digests`; `DataOffsetInvalid`; `PduLengthInvalid`.
    #[inline]
    pub fn layout(&self, digests: Digests, alignment: u32) -> Result<Layout, Malformed> {
        let digest = self.pdu_type.has_header_digest() && digests.header;
        if self.flags.has(Flags::HDGST) != digest {
            return Err(Malformed::FlagsInvalid);
        }
        let prefix = u32::from(self.hlen) + if digest { DIGEST_LEN as u32 } else { 0 };
        if self.plen == prefix {
            return Ok(Layout {
                data_offset: prefix,
                data_len: 0,
                data_digest: false,
            });
        }
        if !self.pdu_type.has_data() || self.plen < prefix {
            return Err(Malformed::PduLengthInvalid);
        }
        if self.flags.has(Flags::DDGST) != digests.data {
            return Err(Malformed::FlagsInvalid);
        }
        let data_offset = u32::from(self.pdo);
        // TCP Transport 1.0c §3.6.1: PDO is a multiple of what HPDA or CPDA asked for.
        if data_offset < prefix || !data_offset.is_multiple_of(alignment) {
            return Err(Malformed::DataOffsetInvalid);
        }
        let around = data_offset + digests.data_len() as u32;
        if self.plen <= around {
            return Err(Malformed::PduLengthInvalid);
        }
        Ok(Layout {
            data_offset,
            data_len: self.plen - around,
            data_digest: digests.data,
        })
    }
}

/// Where the parts of one PDU lie.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Layout {
    /// Bytes before the data: header, header digest, padding. Without data: bytes of the whole PDU.
    pub data_offset: u32,
    /// Bytes of data.
    pub data_len: u32,
    /// Whether a data digest follows.
    pub data_digest: bool,
}

/// Offset of the data in a PDU of `pdu_type`: header and digest, rounded up to `alignment` bytes (4 to 128).
pub const fn data_offset(pdu_type: PduType, digests: Digests, alignment: u32) -> u32 {
    (pdu_type.header_len() + digests.header_len()).next_multiple_of(alignment as usize) as u32
}
