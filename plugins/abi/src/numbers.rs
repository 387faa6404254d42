//! Numbers with a meaning: versions, statuses, kinds, flags. A number is never used twice, nor for another thing.

/// Major version: differs, and a plugin is refused.
pub const IOE_ABI_MAJOR: u16 = 1;
/// Minor version: grows when something is appended.
pub const IOE_ABI_MINOR: u16 = 1;
/// Both, as tables carry them.
pub const IOE_ABI_VERSION: u32 = 65537;

const _: () = assert!(IOE_ABI_VERSION == (IOE_ABI_MAJOR as u32) << 16 | IOE_ABI_MINOR as u32);

/// Done, without an error.
pub const IOE_OK: i32 = 0;
/// Begun; completes later.
pub const IOE_PENDING: i32 = 1;
/// The range is not on the device.
pub const IOE_OUT_OF_RANGE: i32 = 2;
/// No room on the device, or on what it stands on.
pub const IOE_NO_SPACE: i32 = 3;
/// Blocks could not be read or written; which, is in the detail.
pub const IOE_MEDIUM: i32 = 4;
/// The object is gone or was taken offline.
pub const IOE_GONE: i32 = 5;
/// No answer in time.
pub const IOE_TIMEOUT: i32 = 6;
/// Not a thing this object does. The answer to everything unknown.
pub const IOE_NOT_SUPPORTED: i32 = 7;
/// No room for another operation at the moment.
pub const IOE_BUSY: i32 = 8;
/// A compare found other data, at the byte given as the start of the detail.
pub const IOE_COMPARE_FAILED: i32 = 9;
/// Cancelled.
pub const IOE_ABORTED: i32 = 10;
/// The plugin's code panicked in this call or an earlier one; the object does nothing any more.
pub const IOE_PANICKED: i32 = 11;
/// Nothing to read, or no room to write, at the moment.
pub const IOE_WOULD_BLOCK: i32 = 12;
/// The peer closed its side.
pub const IOE_CLOSED: i32 = 13;
/// The operating system refused; its number is given beside.
pub const IOE_SYSTEM: i32 = 14;
/// A table of the host is full.
pub const IOE_TOO_MANY: i32 = 15;
/// Refused for a reason given as an `IoeFailure`.
pub const IOE_REFUSED: i32 = 16;
/// An argument is not one the contract allows.
pub const IOE_INVALID: i32 = 17;

/// Kind of a plugin: block devices.
pub const IOE_KIND_DEVICE: u32 = 1;
/// Kind of a plugin: pools.
pub const IOE_KIND_POOL: u32 = 2;
/// Kind of a plugin: NVMe-oF transports.
pub const IOE_KIND_FABRIC: u32 = 4;
/// Kind of a plugin: other protocols over devices.
pub const IOE_KIND_EXPORT: u32 = 8;

/// The plugin was built so that a panic ends the process. The engine refuses it.
pub const IOE_FLAG_PANIC_ABORT: u32 = 1;
/// The plugin carries an `abi_stable` root module to be checked.
pub const IOE_FLAG_LAYOUT: u32 = 2;

/// Operation: read.
pub const IOE_OP_READ: u32 = 1;
/// Operation: write.
pub const IOE_OP_WRITE: u32 = 2;
/// Operation: make a range read as zeroes.
pub const IOE_OP_WRITE_ZEROES: u32 = 3;
/// Operation: the contents of a range are not needed.
pub const IOE_OP_DISCARD: u32 = 4;
/// Operation: make completed writes durable.
pub const IOE_OP_FLUSH: u32 = 5;
/// Operation flag: durable on completion.
pub const IOE_OP_FUA: u32 = 1;
/// Operation flag of write zeroes: the device may deallocate.
pub const IOE_OP_DEALLOCATE: u32 = 2;

/// Support: not at all.
pub const IOE_SUPPORT_NONE: u32 = 0;
/// Support: in software, at about the cost of writing.
pub const IOE_SUPPORT_EMULATED: u32 = 1;
/// Support: by itself.
pub const IOE_SUPPORT_NATIVE: u32 = 2;
/// Capability flag: completed writes may be volatile until a flush.
pub const IOE_CAP_VOLATILE_CACHE: u32 = 1;
/// Capability flag: a read without a buffer is answered with lent segments.
pub const IOE_CAP_LENDS_READS: u32 = 2;
/// Whether `O_DIRECT` is in use: the question makes no sense.
pub const IOE_DIRECT_NA: u32 = 0;
/// `O_DIRECT` is not in use.
pub const IOE_DIRECT_NO: u32 = 1;
/// `O_DIRECT` is in use.
pub const IOE_DIRECT_YES: u32 = 2;

/// File operation: read into the buffer.
pub const IOE_FILE_READ: u32 = 1;
/// File operation: write the buffer.
pub const IOE_FILE_WRITE: u32 = 2;
/// File operation: make completed writes durable.
pub const IOE_FILE_SYNC: u32 = 3;
/// File operation: deallocate a range.
pub const IOE_FILE_PUNCH_HOLE: u32 = 4;
/// File operation: write zeroes to a range.
pub const IOE_FILE_ZERO_RANGE: u32 = 5;
/// File operation flag of a write: durable on completion.
pub const IOE_FILE_DURABLE: u32 = 1;

/// Extent flag: space is taken for it.
pub const IOE_EXTENT_ALLOCATED: u32 = 1;
/// Extent flag: it reads as zeroes.
pub const IOE_EXTENT_ZERO: u32 = 2;

/// Log level: the operator has to act.
pub const IOE_LOG_ERROR: u32 = 1;
/// Log level: not as it should be.
pub const IOE_LOG_WARN: u32 = 2;
/// Log level: a normal event.
pub const IOE_LOG_INFO: u32 = 3;
/// Log level: for whoever looks for a fault.
pub const IOE_LOG_DEBUG: u32 = 4;

/// Failure: another reason; texts: what, why.
pub const IOE_FAIL_UNSUITABLE: u32 = 1;
/// Failure: the thing is not there; texts: what.
pub const IOE_FAIL_NOT_FOUND: u32 = 2;
/// Failure: in use; texts: what, by whom.
pub const IOE_FAIL_IN_USE: u32 = 3;
/// Failure: the operating system refused; texts: what; and its number.
pub const IOE_FAIL_SYSTEM: u32 = 4;
/// Failure: not a URI; texts: URI, what is wrong.
pub const IOE_FAIL_URI_MALFORMED: u32 = 5;
/// Failure: scheme not served; texts: scheme, schemes there are.
pub const IOE_FAIL_URI_SCHEME: u32 = 6;
/// Failure: parameter unknown; texts: URI, parameter.
pub const IOE_FAIL_URI_UNKNOWN: u32 = 7;
/// Failure: value of a parameter; texts: URI, parameter, value, what it must be.
pub const IOE_FAIL_URI_VALUE: u32 = 8;
/// Failure: there is no room for it; texts: what, why. Since 1.1; who does not know it takes it for another reason.
pub const IOE_FAIL_NO_ROOM: u32 = 9;

/// Family of an address: none (a Unix socket).
pub const IOE_ADDRESS_NONE: u32 = 0;
/// Family of an address: IPv4, in the first four bytes.
pub const IOE_ADDRESS_V4: u32 = 4;
/// Family of an address: IPv6.
pub const IOE_ADDRESS_V6: u32 = 6;

/// Fabric event: handshake done.
pub const IOE_FABRIC_CONNECTED: u32 = 1;
/// Fabric event: a command.
pub const IOE_FABRIC_CAPSULE: u32 = 2;
/// Fabric event: data asked for has arrived.
pub const IOE_FABRIC_FETCHED: u32 = 3;
/// Fabric event: a connection is gone.
pub const IOE_FABRIC_CLOSED: u32 = 4;
/// Fabric event flag: the data passed its digest.
pub const IOE_FABRIC_DATA_OK: u32 = 1;
/// Fabric answer flag: the data says that the command succeeded.
pub const IOE_FABRIC_IMPLICIT: u32 = 1;
/// Fabric settings flag: header digests are granted.
pub const IOE_FABRIC_HEADER_DIGEST: u32 = 1;
/// Fabric settings flag: data digests are granted.
pub const IOE_FABRIC_DATA_DIGEST: u32 = 2;

/// Export event: start an operation.
pub const IOE_EXPORT_IO: u32 = 1;
/// Export event: tell extents.
pub const IOE_EXPORT_EXTENTS: u32 = 2;
/// Export event: move a connection to its volume.
pub const IOE_EXPORT_MOVE: u32 = 3;
/// Export event: a connection serves a volume.
pub const IOE_EXPORT_OPENED: u32 = 4;
/// Export event: a connection is gone.
pub const IOE_EXPORT_CLOSED: u32 = 5;
/// Volume flag: writes are refused.
pub const IOE_VOLUME_READ_ONLY: u32 = 1;
/// Volume flag: it lives on this reactor.
pub const IOE_VOLUME_HERE: u32 = 2;

/// Pool volume flag: space is taken when written.
pub const IOE_POOL_THIN: u32 = 1;
/// Pool volume flag: a snapshot.
pub const IOE_POOL_SNAPSHOT: u32 = 2;
/// Pool volume flag: a clone of a snapshot.
pub const IOE_POOL_CLONE: u32 = 4;

/// Ask a device for the size of its medium, in place of a number of blocks.
pub const IOE_BLOCKS_OF_MEDIUM: u64 = 18446744073709551615;
/// No time: switches a timer off.
pub const IOE_NEVER: u64 = 0;
