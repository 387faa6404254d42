//! The descriptor: who a plugin is and what it was built against, read from the file before it is loaded.
//!
//! It lies in an ELF note of the section [`IOE_NOTE_SECTION`] with the name [`IOE_NOTE_NAME`] and type [`IOE_NOTE_TYPE`].
//! It holds no pointer, so that it can be read without relocation.

/// Section of the note.
pub const IOE_NOTE_SECTION: &str = ".note.io-engine";
/// Name of the note, with its terminator.
pub const IOE_NOTE_NAME: &str = "io-engine\0";
/// Type of the note.
pub const IOE_NOTE_TYPE: u32 = 1;
/// First eight bytes of the descriptor: `IOEPLUGN`, as a little-endian number.
pub const IOE_MAGIC: u64 = 0x4e47_554c_5045_4f49;
/// Stamps a descriptor has room for.
pub const IOE_STAMPS_MAX: usize = 24;

/// What a table looked like when the plugin was built.
#[repr(C)]
#[cfg_attr(feature = "layout", derive(abi_stable::StableAbi))]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IoeStamp {
    /// `IOE_TABLE_*`.
    pub table: u32,
    /// Bytes of the table.
    pub size: u32,
    /// Hash over names and types of its fields, and of the values they mention.
    pub hash: u64,
    /// Size of the table in minor version 0 of the same major version.
    pub base_size: u32,
    /// Zero.
    pub reserved: u32,
    /// Hash of the table in minor version 0.
    pub base_hash: u64,
}

/// Who a plugin is. Texts are UTF-8, padded with zero bytes.
#[repr(C)]
#[cfg_attr(feature = "layout", derive(abi_stable::StableAbi))]
#[derive(Clone, Copy)]
pub struct IoeDescriptor {
    /// [`IOE_MAGIC`].
    pub magic: u64,
    /// Bytes of this struct.
    pub size: u32,
    /// Major version it was built against.
    pub abi_major: u16,
    /// Minor version it was built against.
    pub abi_minor: u16,
    /// Lowest minor version of the engine it can do with.
    pub needs_minor: u16,
    /// Number of stamps.
    pub stamp_count: u16,
    /// `IOE_KIND_*`.
    pub kinds: u32,
    /// `IOE_FLAG_*`.
    pub flags: u32,
    /// Zero.
    pub reserved: u32,
    /// Name.
    pub name: [u8; 32],
    /// Version.
    pub version: [u8; 32],
    /// Who made it.
    pub vendor: [u8; 64],
    /// Schemes and protocols, separated by commas; the tables decide, this is for listings.
    pub serves: [u8; 128],
    /// What the tables looked like.
    pub stamps: [IoeStamp; IOE_STAMPS_MAX],
}

/// The note, as it lies in the file.
#[repr(C)]
#[cfg_attr(feature = "layout", derive(abi_stable::StableAbi))]
#[derive(Clone, Copy)]
pub struct IoeNote {
    /// Bytes of the name.
    pub name_size: u32,
    /// Bytes of the descriptor.
    pub descriptor_size: u32,
    /// [`IOE_NOTE_TYPE`].
    pub kind: u32,
    /// [`IOE_NOTE_NAME`], padded.
    pub name: [u8; 12],
    /// The descriptor.
    pub descriptor: IoeDescriptor,
}
