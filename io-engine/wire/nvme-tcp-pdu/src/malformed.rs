//! What can be wrong with the bytes of a PDU header.

/// Why bytes are not a PDU header. [`Malformed::field_offset`] is what a TermReq names as FEI.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Malformed {
    /// Fewer bytes than the header needs.
    Truncated,
    /// PDU-Type is not one this transport revision defines, or not the one expected.
    UnknownType,
    /// FLAGS disagrees with the digests agreed at connection set-up, or combines flags that exclude each other.
    FlagsInvalid,
    /// HLEN is not the length of this type's header.
    HeaderLengthInvalid,
    /// PDO points into the header, past the end, or is not aligned as agreed.
    DataOffsetInvalid,
    /// PLEN is not possible for this type.
    PduLengthInvalid,
    /// The type-specific field at this byte offset holds an impossible value.
    FieldInvalid(u8),
}

impl Malformed {
    /// Byte offset of the offending field in the header (TCP Transport 1.0c §3.6.2.4, FEI).
    pub const fn field_offset(self) -> u32 {
        match self {
            Self::Truncated | Self::UnknownType => 0,
            Self::FlagsInvalid => 1,
            Self::HeaderLengthInvalid => 2,
            Self::DataOffsetInvalid => 3,
            Self::PduLengthInvalid => 4,
            Self::FieldInvalid(at) => at as u32,
        }
    }
}

impl core::fmt::Display for Malformed {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self {
            Self::Truncated => f.write_str("header is cut short"),
            Self::UnknownType => f.write_str("PDU type is unknown or not expected"),
            Self::FlagsInvalid => f.write_str("flags do not match the agreed digests"),
            Self::HeaderLengthInvalid => f.write_str("HLEN does not match the PDU type"),
            Self::DataOffsetInvalid => f.write_str("PDO is out of range or not aligned"),
            Self::PduLengthInvalid => f.write_str("PLEN is not possible for the PDU type"),
            Self::FieldInvalid(at) => write!(f, "field at byte {at} is not valid"),
        }
    }
}

impl core::error::Error for Malformed {}
