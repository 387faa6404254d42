//! Identify namespace, NVM command set (NVM Command Set 1.0c §4.1.5.1, figure 97) and the part independent of the command
//! set (Base 2.0c §5.17.2.8, figure 280).

use super::{PAGE_LEN, Page};
use crate::bytes::{array_at, put, u16_at, u32_at, u64_at, u128_at};

/// Fields of the Identify namespace structure that have a use here; all others are 0. One LBA format.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct IdentifyNamespace {
    /// Size in blocks.
    pub nsze: u64,
    /// Capacity in blocks.
    pub ncap: u64,
    /// Blocks in use.
    pub nuse: u64,
    /// Features: bit 0 thin, 1 atomic fields valid, 2 deallocated-block errors, 3 UID reuse, 4 preferred granularities valid.
    pub nsfeat: u8,
    /// LBA formats, at least 1 (NLBAF).
    pub formats: u8,
    /// Index of the format in use.
    pub flbas: u8,
    /// Multi-path: bit 0, may be attached to several controllers.
    pub nmic: u8,
    /// Reservation capabilities.
    pub rescap: u8,
    /// Deallocate features: bits 2:0 what deallocated blocks read as (1: zeroes), bit 3 Write Zeroes deallocates.
    pub dlfeat: u8,
    /// Blocks written atomically in normal operation; needs NSFEAT bit 1.
    pub atomic_blocks: u32,
    /// Blocks written atomically through power failure.
    pub atomic_blocks_power_fail: u32,
    /// Blocks of an atomic compare and write.
    pub atomic_compare_blocks: u32,
    /// Optimal I/O boundary in blocks, 0 none.
    pub noiob: u16,
    /// Capacity in bytes.
    pub nvmcap: u128,
    /// Preferred write granularity in blocks, at least 1; needs NSFEAT bit 4.
    pub preferred_write_granularity: u32,
    /// Preferred write alignment in blocks.
    pub preferred_write_alignment: u32,
    /// Preferred deallocate granularity in blocks.
    pub preferred_deallocate_granularity: u32,
    /// Preferred deallocate alignment in blocks.
    pub preferred_deallocate_alignment: u32,
    /// Optimal write size in blocks.
    pub optimal_write_size: u32,
    /// ANA group, 0 when ANA is not reported.
    pub anagrpid: u32,
    /// Attributes: bit 0 write protected.
    pub nsattr: u8,
    /// NGUID.
    pub nguid: [u8; 16],
    /// EUI64.
    pub eui64: [u8; 8],
    /// Format 0.
    pub format_0: LbaFormat,
}

/// An LBA format.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct LbaFormat {
    /// Metadata bytes a block.
    pub metadata_bytes: u16,
    /// log2 of the block size.
    pub block_shift: u8,
    /// Relative performance, 0 best.
    pub relative_performance: u8,
}

/// `count` as a 0's based word; 0 is taken for 1 and counts past 65536 for 65536.
const fn word_zb(count: u32) -> u16 {
    if count > 65536 {
        65535
    } else {
        count.saturating_sub(1) as u16
    }
}

impl IdentifyNamespace {
    /// The page.
    pub fn emit(&self) -> Page {
        let mut page = [0; PAGE_LEN];
        put(&mut page, 0, &self.nsze.to_le_bytes());
        put(&mut page, 8, &self.ncap.to_le_bytes());
        put(&mut page, 16, &self.nuse.to_le_bytes());
        page[24] = self.nsfeat;
        page[25] = self.formats.saturating_sub(1);
        page[26] = self.flbas;
        page[30] = self.nmic;
        page[31] = self.rescap;
        page[33] = self.dlfeat;
        for (at, blocks) in [
            (34, self.atomic_blocks),
            (36, self.atomic_blocks_power_fail),
            (38, self.atomic_compare_blocks),
            (64, self.preferred_write_granularity),
            (66, self.preferred_write_alignment),
            (68, self.preferred_deallocate_granularity),
            (70, self.preferred_deallocate_alignment),
            (72, self.optimal_write_size),
        ] {
            put(&mut page, at, &word_zb(blocks).to_le_bytes());
        }
        put(&mut page, 46, &self.noiob.to_le_bytes());
        put(&mut page, 48, &self.nvmcap.to_le_bytes());
        put(&mut page, 92, &self.anagrpid.to_le_bytes());
        page[99] = self.nsattr;
        put(&mut page, 104, &self.nguid);
        put(&mut page, 120, &self.eui64);
        let format = u32::from(self.format_0.metadata_bytes)
            | u32::from(self.format_0.block_shift) << 16
            | u32::from(self.format_0.relative_performance & 3) << 24;
        put(&mut page, 128, &format.to_le_bytes());
        page
    }

    /// Reads the page; nothing is validated.
    pub fn parse(page: &Page) -> Self {
        let count = |at| u32::from(u16_at(page, at)) + 1;
        Self {
            nsze: u64_at(page, 0),
            ncap: u64_at(page, 8),
            nuse: u64_at(page, 16),
            nsfeat: page[24],
            formats: page[25].saturating_add(1),
            flbas: page[26],
            nmic: page[30],
            rescap: page[31],
            dlfeat: page[33],
            atomic_blocks: count(34),
            atomic_blocks_power_fail: count(36),
            atomic_compare_blocks: count(38),
            noiob: u16_at(page, 46),
            nvmcap: u128_at(page, 48),
            preferred_write_granularity: count(64),
            preferred_write_alignment: count(66),
            preferred_deallocate_granularity: count(68),
            preferred_deallocate_alignment: count(70),
            optimal_write_size: count(72),
            anagrpid: u32_at(page, 92),
            nsattr: page[99],
            nguid: array_at(page, 104),
            eui64: array_at(page, 120),
            format_0: Self::format_at(page, 0),
        }
    }

    /// LBA format in use: FLBAS bits 3:0 with bits 6:5 above them (figure 97).
    pub fn format_in_use(page: &Page) -> LbaFormat {
        let index = usize::from(page[26] & 0xf) | usize::from(page[26] >> 5 & 3) << 4;
        Self::format_at(page, index)
    }

    fn format_at(page: &Page, index: usize) -> LbaFormat {
        let raw = u32_at(page, 128 + 4 * index);
        LbaFormat {
            metadata_bytes: raw as u16,
            block_shift: (raw >> 16) as u8,
            relative_performance: (raw >> 24) as u8 & 3,
        }
    }
}

/// Identify namespace, independent of the I/O command set.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct IndependentNamespace {
    /// Features: bit 3 UID reuse, bit 5 volatile write cache not present.
    pub nsfeat: u8,
    /// As in [`IdentifyNamespace`].
    pub nmic: u8,
    /// As in [`IdentifyNamespace`].
    pub rescap: u8,
    /// ANA group.
    pub anagrpid: u32,
    /// Attributes.
    pub nsattr: u8,
    /// Whether the namespace is ready (NSTAT bit 0).
    pub ready: bool,
}

impl IndependentNamespace {
    /// The page.
    pub fn emit(&self) -> Page {
        let mut page = [0; PAGE_LEN];
        page[0] = self.nsfeat;
        page[1] = self.nmic;
        page[2] = self.rescap;
        put(&mut page, 4, &self.anagrpid.to_le_bytes());
        page[8] = self.nsattr;
        page[14] = u8::from(self.ready);
        page
    }

    /// Reads the page.
    pub fn parse(page: &Page) -> Self {
        Self {
            nsfeat: page[0],
            nmic: page[1],
            rescap: page[2],
            anagrpid: u32_at(page, 4),
            nsattr: page[8],
            ready: page[14] & 1 != 0,
        }
    }
}
