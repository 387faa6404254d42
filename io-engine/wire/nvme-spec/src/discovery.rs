//! Discovery log page (Base 2.0c §5.16.1.23): a 1024-byte header, then 1024-byte entries.

use crate::bytes::{array_at, put, u16_at, u64_at};
use crate::nqn::{NQN_FIELD_LEN, nqn_text};
use crate::{ascii_padded, ascii_trimmed};

/// TRTYPE: TCP.
pub const TRTYPE_TCP: u8 = 3;
/// ADRFAM: IPv4.
pub const ADRFAM_IPV4: u8 = 1;
/// ADRFAM: IPv6.
pub const ADRFAM_IPV6: u8 = 2;
/// SUBTYPE: another discovery subsystem.
pub const SUBTYPE_REFERRAL: u8 = 1;
/// SUBTYPE: NVM subsystem.
pub const SUBTYPE_NVM: u8 = 2;
/// SUBTYPE: the discovery subsystem the log comes from.
pub const SUBTYPE_CURRENT: u8 = 3;
/// TREQ: nothing is said about a secure channel.
///
/// What a controller without TLS says. "Not required" (10b) makes libnvme 1.3 (Debian 12) ask the kernel for TLS, and
/// `nvme connect-all` fails.
pub const TREQ_NOT_SPECIFIED: u8 = 0;
/// TREQ bit: SQ flow control may be disabled.
pub const TREQ_SQ_FLOW_CONTROL_DISABLE: u8 = 4;
/// EFLAGS bit: entry describes the same discovery subsystem on another interface (DUPRETINFO).
pub const EFLAG_DUPLICATE: u16 = 1;
/// EFLAGS bit: explicit persistent connections are supported (EPCSD).
pub const EFLAG_PERSISTENT: u16 = 2;
/// LSP bit of Get Log Page: extended discovery entries are asked for.
pub const LSP_EXTENDED: u8 = 1;

/// Header of the page.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct DiscoveryHeader {
    /// Generation counter.
    pub generation: u64,
    /// Entries in the page.
    pub records: u64,
    /// Record format, 0.
    pub record_format: u16,
}

impl DiscoveryHeader {
    /// Bytes on the wire.
    pub const LEN: usize = 1024;

    /// The bytes on the wire.
    pub fn emit(&self) -> [u8; Self::LEN] {
        let mut raw = [0; Self::LEN];
        put(&mut raw, 0, &self.generation.to_le_bytes());
        put(&mut raw, 8, &self.records.to_le_bytes());
        put(&mut raw, 16, &self.record_format.to_le_bytes());
        raw
    }

    /// Reads a header.
    pub fn parse(raw: &[u8; Self::LEN]) -> Self {
        Self {
            generation: u64_at(raw, 0),
            records: u64_at(raw, 8),
            record_format: u16_at(raw, 16),
        }
    }
}

/// One entry of the page (figure 264).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct DiscoveryEntry {
    /// Transport type.
    pub trtype: u8,
    /// Address family.
    pub adrfam: u8,
    /// What the NQN names: `SUBTYPE_*`.
    pub subtype: u8,
    /// Transport requirements.
    pub treq: u8,
    /// Port id.
    pub portid: u16,
    /// Controller id, FFFFh for the dynamic model.
    pub cntlid: u16,
    /// Largest admin submission queue in entries.
    pub admin_queue_entries_max: u16,
    /// Entry flags.
    pub eflags: u16,
    /// Transport service id (port), space padded.
    pub trsvcid: [u8; 32],
    /// Subsystem NQN field.
    pub subnqn: [u8; NQN_FIELD_LEN],
    /// Transport address, space padded.
    pub traddr: [u8; 256],
    /// TCP: security type, 0 none, 1 TLS 1.2, 2 TLS 1.3 (transport specific address subtype).
    pub sectype: u8,
}

impl DiscoveryEntry {
    /// Bytes on the wire.
    pub const LEN: usize = 1024;

    /// An entry for a TCP address, text fields padded.
    pub fn tcp(adrfam: u8, subtype: u8, subnqn: &str, traddr: &str, trsvcid: &str) -> Self {
        Self {
            trtype: TRTYPE_TCP,
            adrfam,
            subtype,
            treq: TREQ_NOT_SPECIFIED | TREQ_SQ_FLOW_CONTROL_DISABLE,
            portid: 0,
            cntlid: crate::fabrics::CNTLID_DYNAMIC,
            admin_queue_entries_max: 32,
            eflags: 0,
            trsvcid: ascii_padded(trsvcid),
            subnqn: crate::nqn::nqn_field(subnqn),
            traddr: ascii_padded(traddr),
            sectype: 0,
        }
    }

    /// The bytes on the wire.
    pub fn emit(&self) -> [u8; Self::LEN] {
        let mut raw = [0; Self::LEN];
        raw[0] = self.trtype;
        raw[1] = self.adrfam;
        raw[2] = self.subtype;
        raw[3] = self.treq;
        put(&mut raw, 4, &self.portid.to_le_bytes());
        put(&mut raw, 6, &self.cntlid.to_le_bytes());
        put(&mut raw, 8, &self.admin_queue_entries_max.to_le_bytes());
        put(&mut raw, 10, &self.eflags.to_le_bytes());
        put(&mut raw, 32, &self.trsvcid);
        put(&mut raw, 256, &self.subnqn);
        put(&mut raw, 512, &self.traddr);
        raw[768] = self.sectype;
        raw
    }

    /// Reads an entry; text is checked by the accessors.
    pub fn parse(raw: &[u8; Self::LEN]) -> Self {
        Self {
            trtype: raw[0],
            adrfam: raw[1],
            subtype: raw[2],
            treq: raw[3],
            portid: u16_at(raw, 4),
            cntlid: u16_at(raw, 6),
            admin_queue_entries_max: u16_at(raw, 8),
            eflags: u16_at(raw, 10),
            trsvcid: array_at(raw, 32),
            subnqn: array_at(raw, 256),
            traddr: array_at(raw, 512),
            sectype: raw[768],
        }
    }

    /// Subsystem NQN, if it is a valid one.
    pub fn subnqn(&self) -> Option<&str> {
        nqn_text(&self.subnqn)
    }

    /// Transport address without padding, if it is UTF-8.
    pub fn traddr(&self) -> Option<&str> {
        ascii_trimmed(&self.traddr)
    }

    /// Transport service id without padding, if it is UTF-8.
    pub fn trsvcid(&self) -> Option<&str> {
        ascii_trimmed(&self.trsvcid)
    }
}
