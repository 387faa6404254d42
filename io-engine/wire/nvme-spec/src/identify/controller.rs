//! Identify controller (Base 2.0c §5.17.2.1, figure 275) and its NVM command set companion.

use super::{PAGE_LEN, Page};
use crate::bytes::{array_at, put, u16_at, u32_at};
use crate::nqn::{NQN_FIELD_LEN, nqn_text};

/// Fields of the Identify controller structure that a fabrics controller uses; all others are 0.
///
/// Named as in the standard; 0's based fields are plain counts.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct IdentifyController {
    /// PCI vendor id, 0 on fabrics unless meaningful.
    pub vid: u16,
    /// PCI subsystem vendor id.
    pub ssvid: u16,
    /// Serial number, space padded.
    pub sn: [u8; 20],
    /// Model number, space padded.
    pub mn: [u8; 40],
    /// Firmware revision, space padded.
    pub fr: [u8; 8],
    /// Recommended arbitration burst, as a power of two.
    pub rab: u8,
    /// IEEE OUI.
    pub ieee: [u8; 3],
    /// Multi-path capabilities: bit 0 several ports, 1 several controllers, 3 ANA.
    pub cmic: u8,
    /// Maximum data transfer as a power of two of CAP.MPSMIN pages; 0 no limit.
    pub mdts: u8,
    /// Controller id.
    pub cntlid: u16,
    /// Version.
    pub ver: u32,
    /// Optional asynchronous events supported.
    pub oaes: u32,
    /// Controller attributes.
    pub ctratt: u32,
    /// Controller type: 1 I/O, 2 discovery, 3 administrative.
    pub cntrltype: u8,
    /// Command retry delays 1 to 3 in units of 100 ms.
    pub crdt_100ms: [u16; 3],
    /// Optional admin commands.
    pub oacs: u16,
    /// Abort commands outstanding at once (ACL).
    pub abort_commands_max: u16,
    /// Asynchronous event requests outstanding at once (AERL).
    pub async_event_requests_max: u16,
    /// Firmware updates: bit 0 slot 1 read only, bits 3:1 number of slots.
    pub frmw: u8,
    /// Log page attributes.
    pub lpa: u8,
    /// Error log entries kept (ELPE).
    pub error_log_entries: u16,
    /// Warning composite temperature threshold, kelvin.
    pub wctemp: u16,
    /// Critical composite temperature threshold, kelvin.
    pub cctemp: u16,
    /// Keep alive granularity in units of 100 ms; 0 means keep alive is not supported.
    pub kas_100ms: u16,
    /// ANA transition time, seconds.
    pub anatt: u8,
    /// ANA capabilities.
    pub anacap: u8,
    /// Highest ANA group id.
    pub anagrpmax: u32,
    /// Number of ANA groups.
    pub nanagrpid: u32,
    /// Submission entry sizes: required in 3:0, maximum in 7:4, as powers of two.
    pub sqes: u8,
    /// Completion entry sizes.
    pub cqes: u8,
    /// Commands a queue may have outstanding, recommended maximum.
    pub maxcmd: u16,
    /// Highest namespace id.
    pub nn: u32,
    /// Optional NVM commands.
    pub oncs: u16,
    /// Fused operations: bit 0 compare and write.
    pub fuses: u16,
    /// Volatile write cache: bit 0 present, bits 2:1 flush behaviour for NSID FFFFFFFFh.
    pub vwc: u8,
    /// Blocks written atomically in normal operation (AWUN).
    pub atomic_blocks: u32,
    /// Blocks written atomically through power failure (AWUPF).
    pub atomic_blocks_power_fail: u32,
    /// Blocks of an atomic compare and write (ACWU); 0 or 1 are the same on the wire.
    pub atomic_compare_blocks: u32,
    /// SGL support.
    pub sgls: u32,
    /// Maximum number of allowed namespaces.
    pub mnan: u32,
    /// Subsystem NQN field.
    pub subnqn: [u8; NQN_FIELD_LEN],
    /// I/O queue command capsule size in units of 16 bytes.
    pub ioccsz_16b: u32,
    /// I/O queue response capsule size in units of 16 bytes.
    pub iorcsz_16b: u32,
    /// In-capsule data offset in units of 16 bytes.
    pub icdoff_16b: u16,
    /// Fabrics controller attributes: bit 0 static controller model.
    pub fcatt: u8,
    /// Data blocks an SGL may have.
    pub msdbd: u8,
    /// Optional fabrics commands: bit 0 Disconnect.
    pub ofcs: u16,
    /// Power state 0.
    pub power_state_0: PowerState,
}

/// A power state descriptor (figure 276), the fields that mean something for software controllers.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct PowerState {
    /// Maximum power in units of 10 mW.
    pub max_power_10mw: u16,
}

impl IdentifyController {
    /// A structure with every field 0 or empty.
    pub const fn zeroed() -> Self {
        Self {
            vid: 0,
            ssvid: 0,
            sn: [b' '; 20],
            mn: [b' '; 40],
            fr: [b' '; 8],
            rab: 0,
            ieee: [0; 3],
            cmic: 0,
            mdts: 0,
            cntlid: 0,
            ver: 0,
            oaes: 0,
            ctratt: 0,
            cntrltype: 0,
            crdt_100ms: [0; 3],
            oacs: 0,
            abort_commands_max: 1,
            async_event_requests_max: 1,
            frmw: 0,
            lpa: 0,
            error_log_entries: 1,
            wctemp: 0,
            cctemp: 0,
            kas_100ms: 0,
            anatt: 0,
            anacap: 0,
            anagrpmax: 0,
            nanagrpid: 0,
            sqes: 0,
            cqes: 0,
            maxcmd: 0,
            nn: 0,
            oncs: 0,
            fuses: 0,
            vwc: 0,
            atomic_blocks: 1,
            atomic_blocks_power_fail: 1,
            atomic_compare_blocks: 1,
            sgls: 0,
            mnan: 0,
            subnqn: [0; NQN_FIELD_LEN],
            ioccsz_16b: 0,
            iorcsz_16b: 0,
            icdoff_16b: 0,
            fcatt: 0,
            msdbd: 0,
            ofcs: 0,
            power_state_0: PowerState { max_power_10mw: 0 },
        }
    }

    /// The page.
    pub fn emit(&self) -> Page {
        let mut page = [0; PAGE_LEN];
        put(&mut page, 0, &self.vid.to_le_bytes());
        put(&mut page, 2, &self.ssvid.to_le_bytes());
        put(&mut page, 4, &self.sn);
        put(&mut page, 24, &self.mn);
        put(&mut page, 64, &self.fr);
        page[72] = self.rab;
        put(&mut page, 73, &self.ieee);
        page[76] = self.cmic;
        page[77] = self.mdts;
        put(&mut page, 78, &self.cntlid.to_le_bytes());
        put(&mut page, 80, &self.ver.to_le_bytes());
        put(&mut page, 92, &self.oaes.to_le_bytes());
        put(&mut page, 96, &self.ctratt.to_le_bytes());
        page[111] = self.cntrltype;
        put(&mut page, 128, &self.crdt_100ms[0].to_le_bytes());
        put(&mut page, 130, &self.crdt_100ms[1].to_le_bytes());
        put(&mut page, 132, &self.crdt_100ms[2].to_le_bytes());
        put(&mut page, 256, &self.oacs.to_le_bytes());
        page[258] = byte_zb(self.abort_commands_max);
        page[259] = byte_zb(self.async_event_requests_max);
        page[260] = self.frmw;
        page[261] = self.lpa;
        page[262] = byte_zb(self.error_log_entries);
        put(&mut page, 266, &self.wctemp.to_le_bytes());
        put(&mut page, 268, &self.cctemp.to_le_bytes());
        put(&mut page, 320, &self.kas_100ms.to_le_bytes());
        page[342] = self.anatt;
        page[343] = self.anacap;
        put(&mut page, 344, &self.anagrpmax.to_le_bytes());
        put(&mut page, 348, &self.nanagrpid.to_le_bytes());
        self.emit_io(&mut page);
        page
    }

    fn emit_io(&self, page: &mut Page) {
        page[512] = self.sqes;
        page[513] = self.cqes;
        put(page, 514, &self.maxcmd.to_le_bytes());
        put(page, 516, &self.nn.to_le_bytes());
        put(page, 520, &self.oncs.to_le_bytes());
        put(page, 522, &self.fuses.to_le_bytes());
        page[525] = self.vwc;
        put(page, 526, &word_zb(self.atomic_blocks).to_le_bytes());
        put(
            page,
            528,
            &word_zb(self.atomic_blocks_power_fail).to_le_bytes(),
        );
        put(
            page,
            532,
            &word_zb(self.atomic_compare_blocks).to_le_bytes(),
        );
        put(page, 536, &self.sgls.to_le_bytes());
        put(page, 540, &self.mnan.to_le_bytes());
        put(page, 768, &self.subnqn);
        put(page, 1792, &self.ioccsz_16b.to_le_bytes());
        put(page, 1796, &self.iorcsz_16b.to_le_bytes());
        put(page, 1800, &self.icdoff_16b.to_le_bytes());
        page[1802] = self.fcatt;
        page[1803] = self.msdbd;
        put(page, 1804, &self.ofcs.to_le_bytes());
        put(page, 2048, &self.power_state_0.max_power_10mw.to_le_bytes());
    }

    /// Reads the page; nothing is validated.
    pub fn parse(page: &Page) -> Self {
        Self {
            vid: u16_at(page, 0),
            ssvid: u16_at(page, 2),
            sn: array_at(page, 4),
            mn: array_at(page, 24),
            fr: array_at(page, 64),
            rab: page[72],
            ieee: array_at(page, 73),
            cmic: page[76],
            mdts: page[77],
            cntlid: u16_at(page, 78),
            ver: u32_at(page, 80),
            oaes: u32_at(page, 92),
            ctratt: u32_at(page, 96),
            cntrltype: page[111],
            crdt_100ms: [u16_at(page, 128), u16_at(page, 130), u16_at(page, 132)],
            oacs: u16_at(page, 256),
            abort_commands_max: u16::from(page[258]) + 1,
            async_event_requests_max: u16::from(page[259]) + 1,
            frmw: page[260],
            lpa: page[261],
            error_log_entries: u16::from(page[262]) + 1,
            wctemp: u16_at(page, 266),
            cctemp: u16_at(page, 268),
            kas_100ms: u16_at(page, 320),
            anatt: page[342],
            anacap: page[343],
            anagrpmax: u32_at(page, 344),
            nanagrpid: u32_at(page, 348),
            sqes: page[512],
            cqes: page[513],
            maxcmd: u16_at(page, 514),
            nn: u32_at(page, 516),
            oncs: u16_at(page, 520),
            fuses: u16_at(page, 522),
            vwc: page[525],
            atomic_blocks: u32::from(u16_at(page, 526)) + 1,
            atomic_blocks_power_fail: u32::from(u16_at(page, 528)) + 1,
            atomic_compare_blocks: u32::from(u16_at(page, 532)) + 1,
            sgls: u32_at(page, 536),
            mnan: u32_at(page, 540),
            subnqn: array_at(page, 768),
            ioccsz_16b: u32_at(page, 1792),
            iorcsz_16b: u32_at(page, 1796),
            icdoff_16b: u16_at(page, 1800),
            fcatt: page[1802],
            msdbd: page[1803],
            ofcs: u16_at(page, 1804),
            power_state_0: PowerState {
                max_power_10mw: u16_at(page, 2048),
            },
        }
    }

    /// Largest data transfer in bytes with 4 KiB pages; `None` when there is no limit, or none that 64 bits hold.
    pub fn data_bytes_max(&self) -> Option<u64> {
        if self.mdts == 0 {
            return None;
        }
        4096u64.checked_mul(1u64.checked_shl(u32::from(self.mdts))?)
    }

    /// Data bytes an I/O command capsule may carry; 0 when IOCCSZ leaves no room.
    pub fn in_capsule_bytes(&self) -> u32 {
        self.ioccsz_16b.saturating_mul(16).saturating_sub(64)
    }

    /// Subsystem NQN, if it is a valid one.
    pub fn subnqn(&self) -> Option<&str> {
        nqn_text(&self.subnqn)
    }
}

/// `count` as a 0's based byte; 0 is taken for 1 and counts past 256 for 256.
const fn byte_zb(count: u16) -> u8 {
    if count > 256 {
        255
    } else {
        count.saturating_sub(1) as u8
    }
}

/// `count` as a 0's based word; 0 is taken for 1 and counts past 65536 for 65536.
const fn word_zb(count: u32) -> u16 {
    if count > 65536 {
        65535
    } else {
        count.saturating_sub(1) as u16
    }
}

/// Identify controller of the NVM command set (NVM Command Set 1.0c §4.1.5.2, figure 101): sizes that MDTS does not bound.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct NvmControllerLimits {
    /// Verify size limit, as MDTS.
    pub vsl: u8,
    /// Write Zeroes size limit, as MDTS; 0 no limit.
    pub wzsl: u8,
    /// Write Uncorrectable size limit, as MDTS.
    pub wusl: u8,
    /// Dataset Management ranges limit; 0 no limit.
    pub dmrl: u8,
    /// Dataset Management range size limit in blocks; 0 no limit.
    pub dmrsl: u32,
    /// Dataset Management total size limit in blocks; 0 no limit.
    pub dmsl: u64,
}

impl NvmControllerLimits {
    /// The page.
    pub fn emit(&self) -> Page {
        let mut page = [0; PAGE_LEN];
        page[0] = self.vsl;
        page[1] = self.wzsl;
        page[2] = self.wusl;
        page[3] = self.dmrl;
        put(&mut page, 4, &self.dmrsl.to_le_bytes());
        put(&mut page, 8, &self.dmsl.to_le_bytes());
        page
    }

    /// Reads the page.
    pub fn parse(page: &Page) -> Self {
        Self {
            vsl: page[0],
            wzsl: page[1],
            wusl: page[2],
            dmrl: page[3],
            dmrsl: u32_at(page, 4),
            dmsl: crate::bytes::u64_at(page, 8),
        }
    }
}
