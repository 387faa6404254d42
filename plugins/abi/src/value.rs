//! Values that cross the line: texts, buffers, operations and their ends.

use core::ffi::c_void;

/// UTF-8 text lent for the call; not terminated.
#[repr(C)]
#[cfg_attr(feature = "layout", derive(abi_stable::StableAbi))]
#[derive(Clone, Copy)]
pub struct IoeStr {
    /// First byte; null only with `len` 0.
    pub data: *const u8,
    /// Bytes.
    pub len: usize,
}

/// Room for text or bytes the callee writes. What does not fit is cut off, text at a whole character.
#[repr(C)]
#[cfg_attr(feature = "layout", derive(abi_stable::StableAbi))]
#[derive(Clone, Copy)]
pub struct IoeText {
    /// Room, of the caller.
    pub data: *mut u8,
    /// Bytes of room.
    pub capacity: u32,
    /// Bytes written by the callee.
    pub len: u32,
}

/// A buffer with one owner. Whoever has it may read and write `capacity` bytes and passes it on or releases it, once.
/// Belongs to the reactor it came from: never released on another thread.
#[repr(C)]
#[cfg_attr(feature = "layout", derive(abi_stable::StableAbi))]
#[derive(Clone, Copy)]
pub struct IoeBuf {
    /// First byte, aligned to 4096. Null stands for no buffer.
    pub data: *mut u8,
    /// Bytes in use.
    pub len: u32,
    /// Bytes there are.
    pub capacity: u32,
    /// Handle of whoever made it.
    pub owner: *mut c_void,
    /// Gives it back: called with `owner`, `data` and `capacity`.
    pub release: Option<unsafe extern "C" fn(owner: *mut c_void, data: *mut u8, capacity: u32)>,
}

/// How a lent segment is shared and given back. Called on the thread the segment was lent on.
#[repr(C)]
#[cfg_attr(feature = "layout", derive(abi_stable::StableAbi))]
#[derive(Clone, Copy)]
pub struct IoeSegmentOps {
    /// One more holder.
    pub retain: Option<unsafe extern "C" fn(owner: *mut c_void)>,
    /// One holder less.
    pub release: Option<unsafe extern "C" fn(owner: *mut c_void)>,
}

/// Bytes lent for reading. They do not change until released.
#[repr(C)]
#[cfg_attr(feature = "layout", derive(abi_stable::StableAbi))]
#[derive(Clone, Copy)]
pub struct IoeSegment {
    /// First byte.
    pub data: *const u8,
    /// Bytes, at least 1.
    pub len: u32,
    /// Zero.
    pub reserved: u32,
    /// Handle of the lender.
    pub owner: *mut c_void,
    /// Its operations; valid as long as the segment.
    pub ops: *const IoeSegmentOps,
}

/// A run of blocks.
#[repr(C)]
#[cfg_attr(feature = "layout", derive(abi_stable::StableAbi))]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IoeRange {
    /// First block.
    pub start: u64,
    /// Number of blocks.
    pub count: u64,
}

/// Size of a device.
#[repr(C)]
#[cfg_attr(feature = "layout", derive(abi_stable::StableAbi))]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IoeGeometry {
    /// Bytes in a block: 512 or 4096.
    pub block_size: u32,
    /// Zero.
    pub reserved: u32,
    /// Number of blocks.
    pub blocks: u64,
}

/// What a device does beyond reading, writing and flushing.
#[repr(C)]
#[cfg_attr(feature = "layout", derive(abi_stable::StableAbi))]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IoeCapabilities {
    /// Bytes of this struct.
    pub size: u32,
    /// `IOE_SUPPORT_*` of write zeroes.
    pub write_zeroes: u32,
    /// `IOE_SUPPORT_*` of discard.
    pub discard: u32,
    /// `IOE_CAP_*`.
    pub flags: u32,
    /// Blocks written whole or not at all on power loss, at least 1.
    pub atomic_blocks: u32,
    /// `IOE_DIRECT_*`.
    pub direct: u32,
}

/// An operation on a device.
#[repr(C)]
#[cfg_attr(feature = "layout", derive(abi_stable::StableAbi))]
#[derive(Clone, Copy)]
pub struct IoeOp {
    /// Bytes of this struct.
    pub size: u32,
    /// `IOE_OP_*`; an unknown one is answered `IOE_NOT_SUPPORTED`.
    pub kind: u32,
    /// `IOE_OP_FUA`, `IOE_OP_DEALLOCATE`.
    pub flags: u32,
    /// Zero.
    pub reserved: u32,
    /// Comes back with the end.
    pub tag: u64,
    /// On which blocks; empty for a flush.
    pub range: IoeRange,
    /// Buffer of a read or write, as long as the range; none for a read that is to be lent.
    pub buf: IoeBuf,
}

/// How an operation ended.
#[repr(C)]
#[cfg_attr(feature = "layout", derive(abi_stable::StableAbi))]
#[derive(Clone, Copy)]
pub struct IoeDone {
    /// Bytes of this struct.
    pub size: u32,
    /// `IOE_OK` or an error.
    pub status: i32,
    /// The operation's.
    pub tag: u64,
    /// Blocks of a medium error; for a failed compare the byte, as `start`.
    pub detail: IoeRange,
    /// The buffer, filled, of a successful read; a buffer that only goes back in every other case; or none.
    pub buf: IoeBuf,
    /// Lent segments of a successful read without a buffer, together as long as the range. The array is the plugin's, read
    /// before the next call on the object; the segments belong to the receiver.
    pub segments: *const IoeSegment,
    /// How many.
    pub segment_count: u32,
    /// Zero.
    pub reserved: u32,
}

/// A file operation.
#[repr(C)]
#[cfg_attr(feature = "layout", derive(abi_stable::StableAbi))]
#[derive(Clone, Copy)]
pub struct IoeFileOp {
    /// Bytes of this struct.
    pub size: u32,
    /// `IOE_FILE_*`; an unknown one is refused.
    pub kind: u32,
    /// `IOE_FILE_DURABLE`.
    pub flags: u32,
    /// Bytes of the buffer already moved, to go on with a short read or write.
    pub moved: u32,
    /// First byte in the file.
    pub offset: u64,
    /// Bytes to deallocate or zero.
    pub len: u64,
    /// Buffer of a read or write.
    pub buf: IoeBuf,
}

/// A file operation that ended.
#[repr(C)]
#[cfg_attr(feature = "layout", derive(abi_stable::StableAbi))]
#[derive(Clone, Copy)]
pub struct IoeFileDone {
    /// Bytes of this struct.
    pub size: u32,
    /// `IOE_OK`, `IOE_MEDIUM`, `IOE_NO_SPACE`, `IOE_GONE`, `IOE_NOT_SUPPORTED`, `IOE_ABORTED` or `IOE_SYSTEM`.
    pub status: i32,
    /// The number given at submission.
    pub user: u64,
    /// Bytes moved by this operation.
    pub moved: u32,
    /// Number of the operating system, with `IOE_SYSTEM`.
    pub os_error: i32,
    /// The operation; its buffer belongs to the receiver.
    pub op: IoeFileOp,
}

/// Why something was refused, in words. The caller lends the room.
#[repr(C)]
#[cfg_attr(feature = "layout", derive(abi_stable::StableAbi))]
#[derive(Clone, Copy)]
pub struct IoeFailure {
    /// Bytes of this struct.
    pub size: u32,
    /// `IOE_FAIL_*`.
    pub kind: u32,
    /// Number of the operating system, with `IOE_FAIL_SYSTEM`.
    pub os_error: i32,
    /// Zero.
    pub reserved: u32,
    /// The texts that belong to the kind.
    pub texts: [IoeText; 4],
}

/// An IP address and port.
#[repr(C)]
#[cfg_attr(feature = "layout", derive(abi_stable::StableAbi))]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IoeAddress {
    /// `IOE_ADDRESS_*`.
    pub family: u32,
    /// Port.
    pub port: u32,
    /// Address, in network order.
    pub bytes: [u8; 16],
    /// Scope of an IPv6 address.
    pub scope: u32,
    /// Zero.
    pub reserved: u32,
}

/// A piece of memory to receive into or send from; laid out as the system's `struct iovec`.
#[repr(C)]
#[cfg_attr(feature = "layout", derive(abi_stable::StableAbi))]
#[derive(Clone, Copy)]
pub struct IoeIoVec {
    /// First byte.
    pub data: *mut u8,
    /// Bytes.
    pub len: usize,
}

/// A run of blocks with one status.
#[repr(C)]
#[cfg_attr(feature = "layout", derive(abi_stable::StableAbi))]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IoeExtent {
    /// How long it is.
    pub blocks: u64,
    /// `IOE_EXTENT_*`.
    pub flags: u32,
    /// Zero.
    pub reserved: u32,
}
