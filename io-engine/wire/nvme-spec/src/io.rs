//! I/O commands of the NVM command set (NVM Command Set 1.0c §3.2) and what their dwords say.

use crate::bytes::{put, u32_at, u64_at};
use crate::fabrics::FLAGS_SGL;
use crate::{Sgl, Sqe};

/// Fused operation field: first command of a pair.
pub const FUSED_FIRST: u8 = 1;
/// Fused operation field: second command of a pair.
pub const FUSED_SECOND: u8 = 2;
/// Namespace id that means every namespace.
pub const NSID_ALL: u32 = 0xffff_ffff;

/// Read, Write, Compare and Write Zeroes: dwords 10 to 12.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct BlockCommand {
    /// First block.
    pub slba: u64,
    /// Blocks, 1 to 65536.
    pub blocks: u32,
    /// FUA.
    pub fua: bool,
    /// Limited retry.
    pub limited_retry: bool,
    /// Protection information field, 0 where the namespace has none.
    pub prinfo: u8,
    /// Write Zeroes: deallocate (DEAC); Read, Write and Compare: storage tag check in bit 24, not this bit.
    pub deallocate: bool,
    /// Storage tag check (bit 24).
    pub storage_tag_check: bool,
    /// Directive type (Write).
    pub directive: u8,
}

impl BlockCommand {
    /// Reads the dwords.
    #[inline]
    pub const fn parse(sqe: &Sqe) -> Self {
        let cdw12 = sqe.dword(12);
        let nlb_zb = cdw12 & 0xffff;
        Self {
            slba: sqe.qword(10),
            blocks: nlb_zb + 1,
            fua: cdw12 >> 30 & 1 != 0,
            limited_retry: cdw12 >> 31 != 0,
            prinfo: (cdw12 >> 26) as u8 & 0xf,
            deallocate: cdw12 >> 25 & 1 != 0,
            storage_tag_check: cdw12 >> 24 & 1 != 0,
            directive: (cdw12 >> 20) as u8 & 0xf,
        }
    }

    /// The entry of command `opcode` on `nsid`, data described by `sgl`.
    #[inline]
    pub fn emit(&self, opcode: u8, cid: u16, nsid: u32, sgl: Sgl) -> Sqe {
        let mut sqe = Sqe::new(opcode, cid, nsid);
        sqe.set_flags(FLAGS_SGL);
        sqe.set_sgl(sgl);
        sqe.set_qword(10, self.slba);
        let nlb_zb = self.blocks.wrapping_sub(1) & 0xffff;
        sqe.set_dword(
            12,
            nlb_zb
                | u32::from(self.directive & 0xf) << 20
                | u32::from(self.storage_tag_check) << 24
                | u32::from(self.deallocate) << 25
                | u32::from(self.prinfo & 0xf) << 26
                | u32::from(self.fua) << 30
                | u32::from(self.limited_retry) << 31,
        );
        sqe
    }
}

/// Dataset Management: dwords 10 and 11 (§3.2.3).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct DatasetManagement {
    /// Ranges, 1 to 256.
    pub ranges: u32,
    /// Deallocate (AD).
    pub deallocate: bool,
}

impl DatasetManagement {
    /// Reads the dwords.
    pub const fn parse(sqe: &Sqe) -> Self {
        let nr_zb = sqe.dword(10) & 0xff;
        Self {
            ranges: nr_zb + 1,
            deallocate: sqe.dword(11) & 0b100 != 0,
        }
    }

    /// The entry on `nsid`, ranges described by `sgl`.
    pub fn emit(&self, cid: u16, nsid: u32, sgl: Sgl) -> Sqe {
        let mut sqe = Sqe::new(crate::opcode::nvm::DATASET_MANAGEMENT, cid, nsid);
        sqe.set_flags(FLAGS_SGL);
        sqe.set_sgl(sgl);
        sqe.set_dword(10, self.ranges.wrapping_sub(1) & 0xff);
        sqe.set_dword(11, u32::from(self.deallocate) << 2);
        sqe
    }
}

/// One range of Dataset Management (§3.2.3, figure 42).
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct DsmRange {
    /// Context attributes, hints about use.
    pub attributes: u32,
    /// Blocks; not 0's based, may be 0.
    pub blocks: u32,
    /// First block.
    pub slba: u64,
}

impl DsmRange {
    /// Bytes on the wire.
    pub const LEN: usize = 16;

    /// Reads a range.
    pub fn parse(raw: &[u8; Self::LEN]) -> Self {
        Self {
            attributes: u32_at(raw, 0),
            blocks: u32_at(raw, 4),
            slba: u64_at(raw, 8),
        }
    }

    /// The bytes on the wire.
    pub fn emit(&self) -> [u8; Self::LEN] {
        let mut raw = [0; Self::LEN];
        put(&mut raw, 0, &self.attributes.to_le_bytes());
        put(&mut raw, 4, &self.blocks.to_le_bytes());
        put(&mut raw, 8, &self.slba.to_le_bytes());
        raw
    }
}
