//! Controller properties (Base 2.0c §3.1.3): offsets and the fields of CAP, CC and CSTS.

/// Offset of CAP (8 bytes): capabilities.
pub const CAP: u32 = 0x00;
/// Offset of VS (4 bytes): version.
pub const VS: u32 = 0x08;
/// Offset of CC (4 bytes): configuration.
pub const CC: u32 = 0x14;
/// Offset of CSTS (4 bytes): status.
pub const CSTS: u32 = 0x1c;
/// Offset of NSSR (4 bytes): NVM subsystem reset.
pub const NSSR: u32 = 0x20;
/// Offset of CRTO (4 bytes): ready timeouts.
pub const CRTO: u32 = 0x68;

/// Version 2.0.0 as VS and Identify's VER have it.
pub const VERSION_2_0: u32 = 0x0002_0000;

/// Controller capabilities, the fields that apply to fabrics.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Cap {
    /// Entries a queue may have at most, 2 to 65536.
    pub queue_entries_max: u32,
    /// Worst time for CSTS.RDY to follow CC.EN, in units of 500 ms.
    pub ready_timeout_500ms: u8,
    /// NVM command set (CSS bit 0).
    pub nvm_command_set: bool,
    /// One or more I/O command sets chosen by CSI (CSS bit 6).
    pub io_command_sets: bool,
    /// No I/O command set: discovery and administrative controllers (CSS bit 7).
    pub admin_only: bool,
    /// Controller ready with media (CRMS bit 0): CRTO is valid.
    pub ready_with_media: bool,
}

impl Cap {
    /// The register. CQR (contiguous queues) is 1 as fabrics require; page sizes are 4 KiB.
    pub const fn emit(&self) -> u64 {
        let mqes_zb = (self.queue_entries_max - 1) as u16;
        mqes_zb as u64
            | 1 << 16
            | (self.ready_timeout_500ms as u64) << 24
            | (self.nvm_command_set as u64) << 37
            | (self.io_command_sets as u64) << 43
            | (self.admin_only as u64) << 44
            | (self.ready_with_media as u64) << 59
    }

    /// Reads the register.
    pub const fn parse(raw: u64) -> Self {
        let mqes_zb = raw as u16;
        Self {
            queue_entries_max: mqes_zb as u32 + 1,
            ready_timeout_500ms: (raw >> 24) as u8,
            nvm_command_set: raw >> 37 & 1 != 0,
            io_command_sets: raw >> 43 & 1 != 0,
            admin_only: raw >> 44 & 1 != 0,
            ready_with_media: raw >> 59 & 1 != 0,
        }
    }
}

/// Controller configuration.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Cc(pub u32);

impl Cc {
    /// What a host writes to enable a controller: EN, CSS `css`, 64-byte SQEs, 16-byte CQEs.
    pub const fn enable(css: u8) -> Self {
        Self(1 | (css as u32 & 7) << 4 | 6 << 16 | 4 << 20)
    }

    /// EN: the controller shall process commands.
    pub const fn is_enabled(self) -> bool {
        self.0 & 1 != 0
    }

    /// CSS: 000b NVM, 110b all supported I/O command sets, 111b admin only.
    pub const fn css(self) -> u8 {
        (self.0 >> 4) as u8 & 7
    }

    /// MPS: memory page size as 2^(12 + MPS).
    pub const fn mps(self) -> u8 {
        (self.0 >> 7) as u8 & 0xf
    }

    /// AMS: arbitration mechanism.
    pub const fn ams(self) -> u8 {
        (self.0 >> 11) as u8 & 7
    }

    /// SHN: shutdown notification, 00b none, 01b normal, 10b abrupt.
    pub const fn shn(self) -> u8 {
        (self.0 >> 14) as u8 & 3
    }

    /// The same configuration with shutdown notification `shn`.
    pub const fn with_shn(self, shn: u8) -> Self {
        Self(self.0 & !(3 << 14) | (shn as u32 & 3) << 14)
    }

    /// IOSQES: log2 of the submission entry size.
    pub const fn iosqes(self) -> u8 {
        (self.0 >> 16) as u8 & 0xf
    }

    /// IOCQES: log2 of the completion entry size.
    pub const fn iocqes(self) -> u8 {
        (self.0 >> 20) as u8 & 0xf
    }
}

/// Controller status.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Csts(pub u32);

impl Csts {
    /// A status from its fields; `shst` is 0 none, 1 processing, 2 complete.
    pub const fn new(ready: bool, fatal: bool, shst: u8) -> Self {
        Self(ready as u32 | (fatal as u32) << 1 | (shst as u32 & 3) << 2)
    }

    /// RDY.
    pub const fn is_ready(self) -> bool {
        self.0 & 1 != 0
    }

    /// CFS: fatal status.
    pub const fn is_fatal(self) -> bool {
        self.0 & 2 != 0
    }

    /// SHST: 00b normal, 01b shutdown processing, 10b complete.
    pub const fn shst(self) -> u8 {
        (self.0 >> 2) as u8 & 3
    }
}
