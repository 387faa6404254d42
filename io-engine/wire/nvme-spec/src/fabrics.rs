//! Fabrics commands: Connect, Property Get and Set, Disconnect (Base 2.0c §6).

use crate::bytes::{array_at, put, u16_at, u32_at, u64_at};
use crate::nqn::{NQN_FIELD_LEN, nqn_field, nqn_text};
use crate::opcode::{FABRICS, fabrics};
use crate::{Sgl, Sqe};

/// PSDT 01b in byte 1 of an entry: the data pointer is an SGL, as fabrics require.
pub const FLAGS_SGL: u8 = 0x40;

/// Controller id in Connect data asking for any controller (dynamic model).
pub const CNTLID_DYNAMIC: u16 = 0xffff;

/// A Connect command (§6.3, figure 385).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ConnectCommand {
    /// Record format; 0 is the only one.
    pub recfmt: u16,
    /// Queue: 0 admin, else I/O.
    pub qid: u16,
    /// Entries of the queue, 1 to 65536; the standard requires at least 2.
    pub queue_entries: u32,
    /// Whether the host asks for submission queue flow control to be off.
    pub sq_flow_control_disabled: bool,
    /// Keep alive timeout in milliseconds; 0 is none. Admin queue only.
    pub kato_ms: u32,
}

impl ConnectCommand {
    /// Offset of RECFMT in the entry, as Connect's error answers name it.
    pub const RECFMT_OFFSET: u16 = 40;
    /// Offset of QID.
    pub const QID_OFFSET: u16 = 42;
    /// Offset of SQSIZE.
    pub const SQSIZE_OFFSET: u16 = 44;
    /// Offset of KATO.
    pub const KATO_OFFSET: u16 = 48;

    /// Reads the fields of a Connect command.
    pub fn parse(sqe: &Sqe) -> Self {
        let sqsize_zb = u16_at(&sqe.0, 44);
        Self {
            recfmt: u16_at(&sqe.0, 40),
            qid: u16_at(&sqe.0, 42),
            queue_entries: u32::from(sqsize_zb) + 1,
            sq_flow_control_disabled: sqe.0[46] & 0b100 != 0,
            kato_ms: u32_at(&sqe.0, 48),
        }
    }

    /// The entry, with data (always 1024 bytes) described by `sgl`.
    pub fn emit(&self, cid: u16, sgl: Sgl) -> Sqe {
        let mut sqe = Sqe::new(FABRICS, cid, u32::from(fabrics::CONNECT));
        sqe.set_flags(FLAGS_SGL);
        sqe.set_sgl(sgl);
        let sqsize_zb = (self.queue_entries.clamp(1, 1 << 16) - 1) as u16;
        put(&mut sqe.0, 40, &self.recfmt.to_le_bytes());
        put(&mut sqe.0, 42, &self.qid.to_le_bytes());
        put(&mut sqe.0, 44, &sqsize_zb.to_le_bytes());
        sqe.0[46] = if self.sq_flow_control_disabled {
            0b100
        } else {
            0
        };
        put(&mut sqe.0, 48, &self.kato_ms.to_le_bytes());
        sqe
    }
}

/// Connect data (§6.3, figure 386).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ConnectData {
    /// Host identifier.
    pub host_id: [u8; 16],
    /// Controller asked for, [`CNTLID_DYNAMIC`] for any.
    pub cntlid: u16,
    /// Subsystem NQN field.
    pub subnqn: [u8; NQN_FIELD_LEN],
    /// Host NQN field.
    pub hostnqn: [u8; NQN_FIELD_LEN],
}

impl ConnectData {
    /// Bytes on the wire.
    pub const LEN: usize = 1024;
    /// Offset of HOSTID, as Connect's error answers name it.
    pub const HOSTID_OFFSET: u16 = 0;
    /// Offset of CNTLID.
    pub const CNTLID_OFFSET: u16 = 16;
    /// Offset of SUBNQN.
    pub const SUBNQN_OFFSET: u16 = 256;
    /// Offset of HOSTNQN.
    pub const HOSTNQN_OFFSET: u16 = 512;

    /// Data for `hostnqn` asking `subnqn` for controller `cntlid`.
    pub fn new(host_id: [u8; 16], cntlid: u16, subnqn: &str, hostnqn: &str) -> Self {
        Self {
            host_id,
            cntlid,
            subnqn: nqn_field(subnqn),
            hostnqn: nqn_field(hostnqn),
        }
    }

    /// Reads Connect data; any 1024 bytes are some.
    pub fn parse(raw: &[u8; Self::LEN]) -> Self {
        Self {
            host_id: array_at(raw, 0),
            cntlid: u16_at(raw, 16),
            subnqn: array_at(raw, 256),
            hostnqn: array_at(raw, 512),
        }
    }

    /// The bytes on the wire.
    pub fn emit(&self) -> [u8; Self::LEN] {
        let mut raw = [0; Self::LEN];
        put(&mut raw, 0, &self.host_id);
        put(&mut raw, 16, &self.cntlid.to_le_bytes());
        put(&mut raw, 256, &self.subnqn);
        put(&mut raw, 512, &self.hostnqn);
        raw
    }

    /// Subsystem NQN, if it is a valid one.
    pub fn subnqn(&self) -> Option<&str> {
        nqn_text(&self.subnqn)
    }

    /// Host NQN, if it is a valid one.
    pub fn hostnqn(&self) -> Option<&str> {
        nqn_text(&self.hostnqn)
    }
}

/// Which part of a Connect command a Connect Invalid Parameters status complains about (§6.3, figure 387).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum InvalidParameter {
    /// Byte offset in the submission queue entry (IATTR 0).
    Command(u16),
    /// Byte offset in the Connect data (IATTR 1).
    Data(u16),
}

impl InvalidParameter {
    /// Dword 0 of the completion: IPO in bits 15:0, IATTR in 23:16.
    pub const fn result(self) -> u64 {
        match self {
            Self::Command(offset) => offset as u64,
            Self::Data(offset) => offset as u64 | 1 << 16,
        }
    }

    /// Reads dword 0 of a completion.
    pub const fn parse(result: u64) -> Self {
        if result >> 16 & 0xff == 1 {
            Self::Data(result as u16)
        } else {
            Self::Command(result as u16)
        }
    }
}

/// Dword 0 of a successful Connect (§6.3, figure 387).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ConnectResult {
    /// Controller id of the association.
    pub cntlid: u16,
    /// Whether the host must authenticate (bit 17, ATR; the secure channel bit is not used here).
    pub auth_required: bool,
}

impl ConnectResult {
    /// As the completion's result.
    pub const fn result(self) -> u64 {
        self.cntlid as u64 | (self.auth_required as u64) << 17
    }

    /// Reads the completion's result.
    pub const fn parse(result: u64) -> Self {
        Self {
            cntlid: result as u16,
            auth_required: result & 0b11 << 17 != 0,
        }
    }
}

/// Property Get or Set (§6.5, §6.6).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct PropertyCommand {
    /// Register offset.
    pub offset: u32,
    /// Register width in bytes; `None` when ATTRIB names none.
    pub width: Option<u8>,
    /// Value to set; 0 for Get.
    pub value: u64,
}

impl PropertyCommand {
    /// Reads either command.
    pub fn parse(sqe: &Sqe) -> Self {
        Self {
            offset: u32_at(&sqe.0, 44),
            width: match sqe.0[40] & 0b111 {
                0 => Some(4),
                1 => Some(8),
                _ => None,
            },
            value: u64_at(&sqe.0, 48),
        }
    }

    /// A Property Get of the register at `offset`, `width` 4 or 8 bytes.
    pub fn get(cid: u16, offset: u32, width: u8) -> Sqe {
        Self::entry(fabrics::PROPERTY_GET, cid, offset, width, 0)
    }

    /// A Property Set of the register at `offset`, `width` 4 or 8 bytes.
    pub fn set(cid: u16, offset: u32, width: u8, value: u64) -> Sqe {
        Self::entry(fabrics::PROPERTY_SET, cid, offset, width, value)
    }

    fn entry(fctype: u8, cid: u16, offset: u32, width: u8, value: u64) -> Sqe {
        let mut sqe = Sqe::new(FABRICS, cid, u32::from(fctype));
        sqe.set_flags(FLAGS_SGL);
        sqe.0[40] = u8::from(width == 8);
        put(&mut sqe.0, 44, &offset.to_le_bytes());
        put(&mut sqe.0, 48, &value.to_le_bytes());
        sqe
    }
}

/// A Disconnect command (§6.4); record format 0.
pub fn disconnect(cid: u16) -> Sqe {
    let mut sqe = Sqe::new(FABRICS, cid, u32::from(fabrics::DISCONNECT));
    sqe.set_flags(FLAGS_SGL);
    sqe
}

/// Record format of a Disconnect command; 0 is the only one.
pub fn disconnect_recfmt(sqe: &Sqe) -> u16 {
    u16_at(&sqe.0, 40)
}
