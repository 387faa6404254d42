//! Identify (Base 2.0c §5.17): the command, its data structures, 4096 bytes each.

mod controller;
mod namespace;

pub use controller::{IdentifyController, NvmControllerLimits, PowerState};
pub use namespace::{IdentifyNamespace, IndependentNamespace, LbaFormat};

use crate::Sqe;
use crate::bytes::put;
use crate::fabrics::FLAGS_SGL;
use crate::{Sgl, opcode};

/// Bytes of every Identify data structure.
pub const PAGE_LEN: usize = 4096;

/// Identify data.
pub type Page = [u8; PAGE_LEN];

/// Values of CNS (figure 273).
pub mod cns {
    /// Namespace, NVM command set.
    pub const NAMESPACE: u8 = 0x00;
    /// Controller.
    pub const CONTROLLER: u8 = 0x01;
    /// Active namespace ids above the given one.
    pub const ACTIVE_NAMESPACES: u8 = 0x02;
    /// Namespace identification descriptors.
    pub const NAMESPACE_DESCRIPTORS: u8 = 0x03;
    /// Namespace, specific to an I/O command set.
    pub const CSI_NAMESPACE: u8 = 0x05;
    /// Controller, specific to an I/O command set.
    pub const CSI_CONTROLLER: u8 = 0x06;
    /// Active namespace ids of an I/O command set.
    pub const CSI_ACTIVE_NAMESPACES: u8 = 0x07;
    /// Namespace, independent of the I/O command set.
    pub const INDEPENDENT_NAMESPACE: u8 = 0x08;
    /// Allocated namespace ids above the given one.
    pub const ALLOCATED_NAMESPACES: u8 = 0x10;
    /// Allocated namespace, NVM command set.
    pub const ALLOCATED_NAMESPACE: u8 = 0x11;
    /// Controllers attached to a namespace.
    pub const NAMESPACE_CONTROLLERS: u8 = 0x12;
    /// Controllers of the subsystem.
    pub const CONTROLLERS: u8 = 0x13;
    /// I/O command set combinations.
    pub const IO_COMMAND_SETS: u8 = 0x1c;
}

/// Dwords 10 and 11 of an Identify command.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct IdentifyCommand {
    /// Which structure.
    pub cns: u8,
    /// Controller id the structure starts at or is about.
    pub cntid: u16,
    /// I/O command set.
    pub csi: u8,
}

impl IdentifyCommand {
    /// Reads the dwords.
    pub const fn parse(sqe: &Sqe) -> Self {
        Self {
            cns: sqe.dword(10) as u8,
            cntid: (sqe.dword(10) >> 16) as u16,
            csi: (sqe.dword(11) >> 24) as u8,
        }
    }

    /// The entry asking about `nsid`, 4096 bytes moved by the transport.
    pub fn emit(&self, cid: u16, nsid: u32) -> Sqe {
        let mut sqe = Sqe::new(opcode::admin::IDENTIFY, cid, nsid);
        sqe.set_flags(FLAGS_SGL);
        sqe.set_sgl(Sgl::transport(PAGE_LEN as u32));
        sqe.set_dword(10, u32::from(self.cns) | u32::from(self.cntid) << 16);
        sqe.set_dword(11, u32::from(self.csi) << 24);
        sqe
    }
}

/// A namespace list (§4.4.2): up to 1024 ids in increasing order, 0 after the last; more are left out.
pub fn namespace_list(nsids: impl Iterator<Item = u32>) -> Page {
    let mut page = [0; PAGE_LEN];
    for (slot, nsid) in page.chunks_exact_mut(4).zip(nsids) {
        slot.copy_from_slice(&nsid.to_le_bytes());
    }
    page
}

/// The ids in a namespace list, up to the first 0.
pub fn parse_namespace_list(page: &Page) -> impl Iterator<Item = u32> + '_ {
    page.chunks_exact(4)
        .map(|raw| u32::from_le_bytes([raw[0], raw[1], raw[2], raw[3]]))
        .take_while(|nsid| *nsid != 0)
}

/// A controller list (§4.4.1): a count, then up to 2047 ids in increasing order; more are left out.
pub fn controller_list(cntlids: impl Iterator<Item = u16>) -> Page {
    let mut page = [0; PAGE_LEN];
    let mut count = 0u16;
    let (head, slots) = page.split_at_mut(2);
    for (slot, cntlid) in slots.chunks_exact_mut(2).zip(cntlids) {
        slot.copy_from_slice(&cntlid.to_le_bytes());
        count += 1;
    }
    head.copy_from_slice(&count.to_le_bytes());
    page
}

/// Namespace identification descriptors (§5.17.2.3): NGUID, UUID and EUI64 where not zero, and the command set.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct NamespaceDescriptors {
    /// EUI64, all zero when there is none.
    pub eui64: [u8; 8],
    /// NGUID, all zero when there is none.
    pub nguid: [u8; 16],
    /// UUID, all zero when there is none.
    pub uuid: [u8; 16],
    /// I/O command set; 0 is NVM.
    pub csi: u8,
}

impl NamespaceDescriptors {
    const EUI64: u8 = 1;
    const NGUID: u8 = 2;
    const UUID: u8 = 3;
    const CSI: u8 = 4;

    /// The page.
    pub fn emit(&self) -> Page {
        let mut page = [0; PAGE_LEN];
        let mut at = 0;
        let mut descriptor = |kind: u8, id: &[u8]| {
            page[at] = kind;
            page[at + 1] = id.len() as u8;
            put(&mut page, at + 4, id);
            at += 4 + id.len();
        };
        if self.eui64 != [0; 8] {
            descriptor(Self::EUI64, &self.eui64);
        }
        if self.nguid != [0; 16] {
            descriptor(Self::NGUID, &self.nguid);
        }
        if self.uuid != [0; 16] {
            descriptor(Self::UUID, &self.uuid);
        }
        descriptor(Self::CSI, &[self.csi]);
        page
    }

    /// Reads the page; unknown descriptors are skipped, reading stops at a malformed one.
    pub fn parse(page: &Page) -> Self {
        let mut out = Self::default();
        let mut rest = &page[..];
        while let [kind, len, _, _, tail @ ..] = rest {
            let Some(id) = tail.get(..usize::from(*len)) else {
                break;
            };
            match (*kind, id.len()) {
                (_, 0) => break,
                (Self::EUI64, 8) => out.eui64.copy_from_slice(id),
                (Self::NGUID, 16) => out.nguid.copy_from_slice(id),
                (Self::UUID, 16) => out.uuid.copy_from_slice(id),
                (Self::CSI, 1) => out.csi = id[0],
                _ => {}
            }
            rest = &tail[id.len()..];
        }
        out
    }
}

/// I/O command set structure (§5.17.2.19): one combination, holding the NVM command set alone.
pub fn io_command_sets() -> Page {
    let mut page = [0; PAGE_LEN];
    page[0] = 1;
    page
}
