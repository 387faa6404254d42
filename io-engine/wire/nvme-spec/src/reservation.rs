//! Reservation commands (Base 2.0c §7.2 to §7.5) and the report's data structures.

use crate::Sqe;
use crate::bytes::{array_at, put, u16_at, u32_at, u64_at};

/// RTYPE: write exclusive.
pub const WRITE_EXCLUSIVE: u8 = 1;
/// RTYPE: exclusive access.
pub const EXCLUSIVE_ACCESS: u8 = 2;
/// RTYPE: write exclusive, registrants only.
pub const WRITE_EXCLUSIVE_REGISTRANTS: u8 = 3;
/// RTYPE: exclusive access, registrants only.
pub const EXCLUSIVE_ACCESS_REGISTRANTS: u8 = 4;
/// RTYPE: write exclusive, all registrants.
pub const WRITE_EXCLUSIVE_ALL: u8 = 5;
/// RTYPE: exclusive access, all registrants.
pub const EXCLUSIVE_ACCESS_ALL: u8 = 6;

/// RREGA: register.
pub const REGISTER: u8 = 0;
/// RREGA: unregister.
pub const UNREGISTER: u8 = 1;
/// RREGA: replace.
pub const REPLACE: u8 = 2;

/// RACQA: acquire.
pub const ACQUIRE: u8 = 0;
/// RACQA: preempt.
pub const PREEMPT: u8 = 1;
/// RACQA: preempt and abort.
pub const PREEMPT_AND_ABORT: u8 = 2;

/// RRELA: release.
pub const RELEASE: u8 = 0;
/// RRELA: clear.
pub const CLEAR: u8 = 1;

/// CPTPL: no change.
pub const PTPL_UNCHANGED: u8 = 0;
/// CPTPL: reservations are lost on power loss.
pub const PTPL_OFF: u8 = 2;
/// CPTPL: reservations persist.
pub const PTPL_ON: u8 = 3;

/// Dword 10 of Register, Acquire and Release.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ReservationCommand {
    /// Action, meaning depends on the opcode.
    pub action: u8,
    /// Ignore existing key.
    pub ignore_existing_key: bool,
    /// Reservation type (Acquire and Release).
    pub rtype: u8,
    /// Change persist through power loss (Register).
    pub cptpl: u8,
}

impl ReservationCommand {
    /// Reads dword 10.
    pub const fn parse(sqe: &Sqe) -> Self {
        let cdw10 = sqe.dword(10);
        Self {
            action: cdw10 as u8 & 7,
            ignore_existing_key: cdw10 & 8 != 0,
            rtype: (cdw10 >> 8) as u8,
            cptpl: (cdw10 >> 30) as u8,
        }
    }

    /// Dword 10.
    pub const fn emit(&self) -> u32 {
        (self.action & 7) as u32
            | (self.ignore_existing_key as u32) << 3
            | (self.rtype as u32) << 8
            | (self.cptpl as u32 & 3) << 30
    }
}

/// Keys of Register (current, new), Acquire (current, preempted) and Release (current only).
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Keys {
    /// Current registration key (CRKEY).
    pub current: u64,
    /// New key (NRKEY) or key to preempt (PRKEY).
    pub other: u64,
}

impl Keys {
    /// Bytes of Register and Acquire data.
    pub const LEN: usize = 16;
    /// Bytes of Release data.
    pub const LEN_RELEASE: usize = 8;

    /// Reads 16 or 8 bytes; `None` for fewer than 8. With 8 bytes `other` is 0.
    pub fn parse(raw: &[u8]) -> Option<Self> {
        let current = u64::from_le_bytes(*raw.first_chunk()?);
        let other = raw
            .get(8..16)
            .and_then(|rest| rest.first_chunk())
            .map_or(0, |key| u64::from_le_bytes(*key));
        Some(Self { current, other })
    }

    /// The 16 bytes on the wire; Release sends the first 8.
    pub fn emit(&self) -> [u8; Self::LEN] {
        let mut raw = [0; Self::LEN];
        put(&mut raw, 0, &self.current.to_le_bytes());
        put(&mut raw, 8, &self.other.to_le_bytes());
        raw
    }
}

/// Head of the Reservation Status data structure (§7.4, figures 437 and 438).
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct StatusHeader {
    /// Generation.
    pub generation: u32,
    /// Reservation type, 0 for none.
    pub rtype: u8,
    /// Registered controllers, that is entries of the structure.
    pub registered: u16,
    /// Persist through power loss state.
    pub ptpl: bool,
}

impl StatusHeader {
    /// Bytes before the first entry with 64-bit host identifiers.
    pub const LEN: usize = 24;
    /// Bytes before the first entry with 128-bit host identifiers.
    pub const LEN_EXTENDED: usize = 64;

    /// Writes the header; the bytes past the fields are left alone.
    pub fn emit(&self) -> [u8; Self::LEN] {
        let mut raw = [0; Self::LEN];
        put(&mut raw, 0, &self.generation.to_le_bytes());
        raw[4] = self.rtype;
        put(&mut raw, 5, &self.registered.to_le_bytes());
        raw[9] = u8::from(self.ptpl);
        raw
    }

    /// Reads the header.
    pub fn parse(raw: &[u8; Self::LEN]) -> Self {
        Self {
            generation: u32_at(raw, 0),
            rtype: raw[4],
            registered: u16_at(raw, 5),
            ptpl: raw[9] & 1 != 0,
        }
    }
}

/// One registered controller of the Reservation Status data structure (figures 439 and 440).
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct RegisteredController {
    /// Controller id, FFFFh when the host has no controller connected.
    pub cntlid: u16,
    /// Whether its host holds the reservation.
    pub holder: bool,
    /// Host identifier; a 64-bit one in the first eight bytes.
    pub host_id: [u8; 16],
    /// Registration key.
    pub key: u64,
}

impl RegisteredController {
    /// Bytes of an entry with a 64-bit host identifier.
    pub const LEN: usize = 24;
    /// Bytes of an entry with a 128-bit host identifier.
    pub const LEN_EXTENDED: usize = 64;

    /// The entry with a 64-bit host identifier.
    pub fn emit(&self) -> [u8; Self::LEN] {
        let mut raw = [0; Self::LEN];
        put(&mut raw, 0, &self.cntlid.to_le_bytes());
        raw[2] = u8::from(self.holder);
        put(&mut raw, 8, &self.host_id[..8]);
        put(&mut raw, 16, &self.key.to_le_bytes());
        raw
    }

    /// The entry with a 128-bit host identifier.
    pub fn emit_extended(&self) -> [u8; Self::LEN_EXTENDED] {
        let mut raw = [0; Self::LEN_EXTENDED];
        put(&mut raw, 0, &self.cntlid.to_le_bytes());
        raw[2] = u8::from(self.holder);
        put(&mut raw, 8, &self.key.to_le_bytes());
        put(&mut raw, 16, &self.host_id);
        raw
    }

    /// Reads an entry with a 64-bit host identifier.
    pub fn parse(raw: &[u8; Self::LEN]) -> Self {
        let mut host_id = [0; 16];
        host_id[..8].copy_from_slice(&raw[8..16]);
        Self {
            cntlid: u16_at(raw, 0),
            holder: raw[2] & 1 != 0,
            host_id,
            key: u64_at(raw, 16),
        }
    }

    /// Reads an entry with a 128-bit host identifier.
    pub fn parse_extended(raw: &[u8; Self::LEN_EXTENDED]) -> Self {
        Self {
            cntlid: u16_at(raw, 0),
            holder: raw[2] & 1 != 0,
            host_id: array_at(raw, 16),
            key: u64_at(raw, 8),
        }
    }
}
