//! The stored form of a namespace's reservations.
//!
//! Little-endian, version first, CRC32C last:
//!
//! | offset | bytes | field |
//! |---|---|---|
//! | 0 | 4 | magic `NRSV` |
//! | 4 | 2 | version, 1 |
//! | 6 | 1 | reservation type, 0 for none (Base 2.0c figure 435 values) |
//! | 7 | 1 | flags (1: persist through power loss) |
//! | 8 | 4 | generation |
//! | 12 | 4 | number of registrants, n |
//! | 16 | 32 n | registrants: key (8), host identifier (16), flags (1: holder, 2: 128-bit host identifier), 7 reserved |
//! | 16 + 32 n | 4 | CRC32C of everything before |

use crate::limits::REGISTRANTS_MAX;

const MAGIC: [u8; 4] = *b"NRSV";
const VERSION: u16 = 1;
const HEADER_LEN: usize = 16;
const ENTRY_LEN: usize = 32;
const CRC_LEN: usize = 4;
const FLAG_HOLDER: u8 = 1;
const FLAG_EXTENDED: u8 = 2;

/// Reservations of one namespace as they survive a restart. Empty (no registrant) when persistence is off.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct PersistedReservations {
    /// Reservation type code 1 to 6, or 0 when there is no reservation.
    pub rtype: u8,
    /// Whether the host asked for persistence; without it nothing else is stored.
    pub ptpl: bool,
    /// Generation counter (PRgen).
    pub generation: u32,
    /// Registered hosts.
    pub registrants: Vec<PersistedRegistrant>,
}

/// One registered host.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct PersistedRegistrant {
    /// Registration key.
    pub key: u64,
    /// Host identifier; a 64-bit one has its upper eight bytes 0.
    pub host_id: [u8; 16],
    /// Whether the identifier is the 128-bit one.
    pub extended: bool,
    /// Whether this host holds the reservation.
    pub holder: bool,
}

/// Why a stored record was not believed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum RecordProblem {
    /// Shorter or longer than its registrant count says, or not a record at all.
    Malformed,
    /// A version this build does not know.
    VersionUnknown,
    /// The checksum does not match.
    ChecksumMismatch,
}

impl core::fmt::Display for RecordProblem {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str(match self {
            Self::Malformed => "reservation record is malformed",
            Self::VersionUnknown => "reservation record has an unknown version",
            Self::ChecksumMismatch => "reservation record fails its checksum",
        })
    }
}

impl core::error::Error for RecordProblem {}

impl PersistedReservations {
    /// Whether there is nothing to keep.
    pub fn is_empty(&self) -> bool {
        !self.ptpl && self.registrants.is_empty()
    }

    /// The record as stored.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut raw = Vec::with_capacity(HEADER_LEN + ENTRY_LEN * self.registrants.len() + CRC_LEN);
        raw.extend_from_slice(&MAGIC);
        raw.extend_from_slice(&VERSION.to_le_bytes());
        raw.push(self.rtype);
        raw.push(u8::from(self.ptpl));
        raw.extend_from_slice(&self.generation.to_le_bytes());
        raw.extend_from_slice(&(self.registrants.len() as u32).to_le_bytes());
        for registrant in &self.registrants {
            raw.extend_from_slice(&registrant.key.to_le_bytes());
            raw.extend_from_slice(&registrant.host_id);
            let holder = if registrant.holder { FLAG_HOLDER } else { 0 };
            let extended = if registrant.extended {
                FLAG_EXTENDED
            } else {
                0
            };
            raw.extend_from_slice(&[holder | extended, 0, 0, 0, 0, 0, 0, 0]);
        }
        let crc = crc32c(&raw);
        raw.extend_from_slice(&crc.to_le_bytes());
        raw
    }

    /// Reads a stored record.
    ///
    /// # Errors
    /// [`RecordProblem`] says why the bytes are not one; nothing is guessed.
    pub fn from_bytes(raw: &[u8]) -> Result<Self, RecordProblem> {
        let header: &[u8; HEADER_LEN] = raw.first_chunk().ok_or(RecordProblem::Malformed)?;
        if header[..4] != MAGIC {
            return Err(RecordProblem::Malformed);
        }
        if u16::from_le_bytes([header[4], header[5]]) != VERSION {
            return Err(RecordProblem::VersionUnknown);
        }
        let count = u32::from_le_bytes([header[12], header[13], header[14], header[15]]) as usize;
        if count > REGISTRANTS_MAX || raw.len() != HEADER_LEN + ENTRY_LEN * count + CRC_LEN {
            return Err(RecordProblem::Malformed);
        }
        let (body, crc) = raw.split_at(raw.len() - CRC_LEN);
        if crc != crc32c(body).to_le_bytes() {
            return Err(RecordProblem::ChecksumMismatch);
        }
        let registrants = body[HEADER_LEN..]
            .chunks_exact(ENTRY_LEN)
            .map(|entry| {
                let mut key = [0; 8];
                key.copy_from_slice(&entry[..8]);
                let mut host_id = [0; 16];
                host_id.copy_from_slice(&entry[8..24]);
                PersistedRegistrant {
                    key: u64::from_le_bytes(key),
                    host_id,
                    extended: entry[24] & FLAG_EXTENDED != 0,
                    holder: entry[24] & FLAG_HOLDER != 0,
                }
            })
            .collect();
        Ok(Self {
            rtype: header[6],
            ptpl: header[7] & 1 != 0,
            generation: u32::from_le_bytes([header[8], header[9], header[10], header[11]]),
            registrants,
        })
    }
}

/// CRC32C (Castagnoli), bit by bit: records are a few kilobytes at most and written on control commands only.
fn crc32c(bytes: &[u8]) -> u32 {
    let mut crc = !0u32;
    for byte in bytes {
        crc ^= u32::from(*byte);
        for _ in 0..8 {
            crc = (crc >> 1) ^ (0x82f6_3b78 & (crc & 1).wrapping_neg());
        }
    }
    !crc
}
