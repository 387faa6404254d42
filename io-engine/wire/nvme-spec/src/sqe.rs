//! Submission queue entry (NVMe Base 2.0c §3.3.3, figure 87) and the SGL descriptor in it (§4.1.2).

/// One 64-byte submission queue entry, as it crosses the wire.
///
/// Fields are read in place; nothing is validated, because every bit pattern is a possible command of a peer.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Sqe(pub [u8; 64]);

impl Sqe {
    /// An all-zero entry.
    pub const fn zeroed() -> Self {
        Self([0; 64])
    }

    /// An entry with opcode, command id and namespace id set, everything else 0.
    pub fn new(opcode: u8, cid: u16, nsid: u32) -> Self {
        let mut sqe = Self::zeroed();
        sqe.0[0] = opcode;
        sqe.set_cid(cid);
        sqe.set_dword(1, nsid);
        sqe
    }

    /// Opcode (CDW0 bits 7:0).
    pub const fn opcode(&self) -> u8 {
        self.0[0]
    }

    /// Fused operation (CDW0 bits 9:8): 0 normal, 1 first, 2 second, 3 reserved.
    pub const fn fused(&self) -> u8 {
        self.0[1] & 0b11
    }

    /// PSDT (CDW0 bits 15:14): how the data pointer is to be read; fabrics require 01b.
    pub const fn psdt(&self) -> u8 {
        self.0[1] >> 6
    }

    /// Command identifier (CDW0 bits 31:16).
    pub const fn cid(&self) -> u16 {
        u16::from_le_bytes([self.0[2], self.0[3]])
    }

    /// Sets the command identifier.
    pub fn set_cid(&mut self, cid: u16) {
        self.0[2..4].copy_from_slice(&cid.to_le_bytes());
    }

    /// Sets the fused operation and PSDT bits (byte 1).
    pub fn set_flags(&mut self, flags: u8) {
        self.0[1] = flags;
    }

    /// Fabrics command type, the byte where other commands have their namespace id (§6.1, figure 382).
    pub const fn fctype(&self) -> u8 {
        self.0[4]
    }

    /// Namespace identifier (dword 1).
    pub const fn nsid(&self) -> u32 {
        self.dword(1)
    }

    /// Dword `index`, 0 to 15.
    pub const fn dword(&self, index: usize) -> u32 {
        let at = index * 4;
        u32::from_le_bytes([self.0[at], self.0[at + 1], self.0[at + 2], self.0[at + 3]])
    }

    /// Sets dword `index`, 0 to 15.
    pub fn set_dword(&mut self, index: usize, value: u32) {
        self.0[index * 4..index * 4 + 4].copy_from_slice(&value.to_le_bytes());
    }

    /// Dwords `index` and `index + 1` as one little-endian quadword (used for SLBA in CDW10/11).
    pub const fn qword(&self, index: usize) -> u64 {
        self.dword(index) as u64 | (self.dword(index + 1) as u64) << 32
    }

    /// Sets dwords `index` and `index + 1`.
    pub fn set_qword(&mut self, index: usize, value: u64) {
        self.0[index * 4..index * 4 + 8].copy_from_slice(&value.to_le_bytes());
    }

    /// The SGL descriptor in the data pointer (bytes 24 to 39).
    pub fn sgl(&self) -> Sgl {
        let mut raw = [0; 16];
        raw.copy_from_slice(&self.0[24..40]);
        Sgl(raw)
    }

    /// Sets the SGL descriptor.
    pub fn set_sgl(&mut self, sgl: Sgl) {
        self.0[24..40].copy_from_slice(&sgl.0);
    }
}

impl core::fmt::Debug for Sqe {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("Sqe")
            .field("opcode", &format_args!("{:#04x}", self.opcode()))
            .field("cid", &self.cid())
            .field("nsid", &self.nsid())
            .field("cdw10", &format_args!("{:#x}", self.dword(10)))
            .field("cdw11", &format_args!("{:#x}", self.dword(11)))
            .field("cdw12", &format_args!("{:#x}", self.dword(12)))
            .finish_non_exhaustive()
    }
}

/// One 16-byte SGL descriptor (NVMe Base 2.0c §4.1.2, figure 93).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Sgl(pub [u8; 16]);

impl Sgl {
    /// Data block descriptor with offset subtype: data inside the capsule at `offset`.
    pub fn in_capsule(offset: u64, length: u32) -> Self {
        Self::with(0x01, offset, length)
    }

    /// Transport data block descriptor, subtype Ah: data moved by the transport (NVMe/TCP 1.0c §3.2).
    pub fn transport(length: u32) -> Self {
        Self::with(0x5a, 0, length)
    }

    fn with(identifier: u8, address: u64, length: u32) -> Self {
        let mut raw = [0; 16];
        raw[..8].copy_from_slice(&address.to_le_bytes());
        raw[8..12].copy_from_slice(&length.to_le_bytes());
        raw[15] = identifier;
        Self(raw)
    }

    /// Descriptor type and subtype, the last byte.
    pub const fn identifier(&self) -> u8 {
        self.0[15]
    }

    /// Whether this is [`Sgl::in_capsule`]'s kind.
    pub const fn is_in_capsule(&self) -> bool {
        self.identifier() == 0x01
    }

    /// Whether this is [`Sgl::transport`]'s kind.
    pub const fn is_transport(&self) -> bool {
        self.identifier() == 0x5a
    }

    /// Address, or for data inside a capsule its offset.
    pub fn address(&self) -> u64 {
        let mut raw = [0; 8];
        raw.copy_from_slice(&self.0[..8]);
        u64::from_le_bytes(raw)
    }

    /// Length in bytes.
    pub const fn length(&self) -> u32 {
        u32::from_le_bytes([self.0[8], self.0[9], self.0[10], self.0[11]])
    }
}
