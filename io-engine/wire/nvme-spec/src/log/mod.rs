//! Log pages (Base 2.0c §5.16): the command and the pages' layouts.

mod health;

pub use health::{ErrorLogEntry, HealthLog};

use crate::Sqe;
use crate::bytes::{put, u16_at, u32_at, u64_at};
use crate::fabrics::FLAGS_SGL;
use crate::{Sgl, opcode};

/// Supported log pages.
pub const SUPPORTED: u8 = 0x00;
/// Error information.
pub const ERROR: u8 = 0x01;
/// SMART / health information.
pub const HEALTH: u8 = 0x02;
/// Firmware slot information.
pub const FIRMWARE: u8 = 0x03;
/// Changed namespace list.
pub const CHANGED_NAMESPACES: u8 = 0x04;
/// Commands supported and effects.
pub const EFFECTS: u8 = 0x05;
/// Asymmetric namespace access.
pub const ANA: u8 = 0x0c;
/// Feature identifiers supported and effects.
pub const FEATURE_EFFECTS: u8 = 0x12;
/// Management interface commands supported and effects.
pub const MI_EFFECTS: u8 = 0x13;
/// Discovery.
pub const DISCOVERY: u8 = 0x70;
/// Reservation notification.
pub const RESERVATION_NOTIFICATION: u8 = 0x80;

/// Dwords 10 to 14 of Get Log Page.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct GetLogPage {
    /// Log page identifier.
    pub lid: u8,
    /// Log specific field, 7 bits.
    pub lsp: u8,
    /// Retain asynchronous event.
    pub rae: bool,
    /// Bytes to return, a multiple of 4, at least 4.
    pub bytes: u64,
    /// Where to start: bytes, or an index when `offset_is_index`.
    pub offset: u64,
    /// Whether `offset` counts entries (OT).
    pub offset_is_index: bool,
    /// I/O command set (figure 195).
    pub csi: u8,
}

impl GetLogPage {
    /// Reads the dwords.
    pub const fn parse(sqe: &Sqe) -> Self {
        let (cdw10, cdw11) = (sqe.dword(10), sqe.dword(11));
        let numd_zb = cdw10 >> 16 | (cdw11 & 0xffff) << 16;
        Self {
            lid: cdw10 as u8,
            lsp: (cdw10 >> 8) as u8 & 0x7f,
            rae: cdw10 >> 15 & 1 != 0,
            bytes: (numd_zb as u64 + 1) * 4,
            offset: sqe.qword(12),
            offset_is_index: sqe.dword(14) >> 23 & 1 != 0,
            csi: (sqe.dword(14) >> 24) as u8,
        }
    }

    /// The entry, data moved by the transport. `bytes` is rounded up to a multiple of 4.
    pub fn emit(&self, cid: u16, nsid: u32) -> Sqe {
        let mut sqe = Sqe::new(opcode::admin::GET_LOG_PAGE, cid, nsid);
        let numd_zb = (self.bytes.div_ceil(4).clamp(1, 1 << 32) - 1) as u32;
        sqe.set_flags(FLAGS_SGL);
        sqe.set_sgl(Sgl::transport(numd_zb.saturating_add(1).saturating_mul(4)));
        sqe.set_dword(
            10,
            u32::from(self.lid)
                | u32::from(self.lsp & 0x7f) << 8
                | u32::from(self.rae) << 15
                | numd_zb << 16,
        );
        sqe.set_dword(11, numd_zb >> 16);
        sqe.set_qword(12, self.offset);
        sqe.set_dword(
            14,
            u32::from(self.offset_is_index) << 23 | u32::from(self.csi) << 24,
        );
        sqe
    }
}

/// Supported log pages (§5.16.1.1): bit 0 of each listed page's dword.
pub fn supported_log_pages(lids: &[u8]) -> [u8; 1024] {
    let mut raw = [0; 1024];
    for lid in lids {
        raw[usize::from(*lid) * 4] = 1;
    }
    raw
}

/// Effect bit: command (or feature) supported.
pub const EFFECT_SUPPORTED: u32 = 1;
/// Effect bit: logical block content may change.
pub const EFFECT_CONTENT: u32 = 2;

/// Scope bit of a command or feature: namespace.
pub const SCOPE_NAMESPACE: u32 = 1 << 20;
/// Scope bit: controller.
pub const SCOPE_CONTROLLER: u32 = 1 << 21;

/// Commands supported and effects (§5.16.1.6) from `(opcode, effects)` pairs.
pub fn command_effects(admin: &[(u8, u32)], io: &[(u8, u32)]) -> [u8; 4096] {
    let mut raw = [0; 4096];
    for (opcode, effects) in admin {
        put(&mut raw, usize::from(*opcode) * 4, &effects.to_le_bytes());
    }
    for (opcode, effects) in io {
        put(
            &mut raw,
            1024 + usize::from(*opcode) * 4,
            &effects.to_le_bytes(),
        );
    }
    raw
}

/// Feature identifiers supported and effects (§5.16.1.18): `scope` bits 31:20, supported bit 0.
pub fn feature_effects(features: &[(u8, u32)]) -> [u8; 1024] {
    let mut raw = [0; 1024];
    for (fid, effects) in features {
        put(&mut raw, usize::from(*fid) * 4, &effects.to_le_bytes());
    }
    raw
}

/// Firmware slot information (§5.16.1.4): slot 1 active, holding `revision`.
pub fn firmware_slots(revision: [u8; 8]) -> [u8; 512] {
    let mut raw = [0; 512];
    raw[0] = 1;
    put(&mut raw, 8, &revision);
    raw
}

/// ANA state of a group (§5.16.1.13).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum AnaState {
    /// Best path.
    Optimized = 0x1,
    /// Works, another path is better.
    NonOptimized = 0x2,
    /// Does not work at present.
    Inaccessible = 0x3,
    /// Will not work again.
    PersistentLoss = 0x4,
    /// Changing.
    Change = 0xf,
}

impl AnaState {
    /// The state of code `raw`, if there is one.
    pub const fn from_code(raw: u8) -> Option<Self> {
        Some(match raw & 0xf {
            0x1 => Self::Optimized,
            0x2 => Self::NonOptimized,
            0x3 => Self::Inaccessible,
            0x4 => Self::PersistentLoss,
            0xf => Self::Change,
            _ => return None,
        })
    }
}

/// Header of the ANA log page (figure 245).
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct AnaHeader {
    /// Change count of the page.
    pub change_count: u64,
    /// Group descriptors that follow.
    pub groups: u16,
}

impl AnaHeader {
    /// Bytes on the wire.
    pub const LEN: usize = 16;
    /// LSP bit: return groups only, without namespace ids.
    pub const LSP_GROUPS_ONLY: u8 = 1;

    /// The bytes on the wire.
    pub fn emit(&self) -> [u8; Self::LEN] {
        let mut raw = [0; Self::LEN];
        put(&mut raw, 0, &self.change_count.to_le_bytes());
        put(&mut raw, 8, &self.groups.to_le_bytes());
        raw
    }

    /// Reads a header.
    pub fn parse(raw: &[u8; Self::LEN]) -> Self {
        Self {
            change_count: u64_at(raw, 0),
            groups: u16_at(raw, 8),
        }
    }
}

/// Descriptor of one ANA group (figure 246), followed by its namespace ids, four bytes each.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct AnaGroup {
    /// Group id.
    pub group: u32,
    /// Namespace ids that follow.
    pub namespaces: u32,
    /// Change count of the group.
    pub change_count: u64,
    /// State code, see [`AnaState`].
    pub state: u8,
}

impl AnaGroup {
    /// Bytes before the namespace ids.
    pub const LEN: usize = 32;

    /// The bytes on the wire.
    pub fn emit(&self) -> [u8; Self::LEN] {
        let mut raw = [0; Self::LEN];
        put(&mut raw, 0, &self.group.to_le_bytes());
        put(&mut raw, 4, &self.namespaces.to_le_bytes());
        put(&mut raw, 8, &self.change_count.to_le_bytes());
        raw[16] = self.state & 0xf;
        raw
    }

    /// Reads a descriptor.
    pub fn parse(raw: &[u8; Self::LEN]) -> Self {
        Self {
            group: u32_at(raw, 0),
            namespaces: u32_at(raw, 4),
            change_count: u64_at(raw, 8),
            state: raw[16] & 0xf,
        }
    }
}

/// Reservation notification log page (§5.16.1.24).
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct ReservationNotification {
    /// Running number of the notification; 0 for an empty page.
    pub count: u64,
    /// 0 empty, 1 registration preempted, 2 reservation released, 3 reservation preempted.
    pub kind: u8,
    /// Further pages waiting.
    pub available: u8,
    /// Namespace.
    pub nsid: u32,
}

impl ReservationNotification {
    /// Bytes on the wire.
    pub const LEN: usize = 64;

    /// The bytes on the wire.
    pub fn emit(&self) -> [u8; Self::LEN] {
        let mut raw = [0; Self::LEN];
        put(&mut raw, 0, &self.count.to_le_bytes());
        raw[8] = self.kind;
        raw[9] = self.available;
        put(&mut raw, 12, &self.nsid.to_le_bytes());
        raw
    }

    /// Reads a page.
    pub fn parse(raw: &[u8; Self::LEN]) -> Self {
        Self {
            count: u64_at(raw, 0),
            kind: raw[8],
            available: raw[9],
            nsid: u32_at(raw, 12),
        }
    }
}
