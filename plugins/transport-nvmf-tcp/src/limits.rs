//! Named limits of the connections of one reactor, with what happens at each.

/// Bytes of one receive: 60 in-capsule writes of 4 KiB.
pub const STAGING_BYTES: usize = 256 << 10;

/// Payload outstanding from which on it is received straight into its buffer.
pub(crate) const DIRECT_MIN: usize = 16 << 10;

/// Bytes staged behind a direct receive, and while large data is expected: the next header, and little of its data.
pub(crate) const STAGED_BESIDE_DIRECT: usize = 512;

/// Heap for received bytes that the engine cannot take so far (no buffer, or a host that does not read), on all connections of
/// a reactor together. Beyond it a connection receives [`STAGED_WHILE_SHORT`] at a time, and keeps no more than that: the kernel
/// keeps the rest, and TCP holds the host back.
pub const KEPT_BYTES_MAX: usize = 8 << 20;

/// Bytes of one receive while [`KEPT_BYTES_MAX`] is used up, or what makes the next capsule whole, if that is more.
pub(crate) const STAGED_WHILE_SHORT: usize = 4 << 10;

/// Heap of a connection that is kept for its next rest, in bytes: more is freed when a rest is shorter.
pub(crate) const REST_BYTES_MIN: usize = 4 << 10;

/// Most [`crate::TcpConfig::in_capsule_bytes`].
pub const IN_CAPSULE_BYTES_MAX: u32 = 64 << 10;

/// Bytes of the arena that capsules of which a part is missing may hold, on all connections of a reactor together. The engine
/// does not know of them, and so charges them to nobody: this is a sixteenth of the smallest arena. A capsule beyond it is
/// kept with its connection, which costs two copies more, until it is whole.
pub const HALF_RECEIVED_BYTES_MAX: usize = 512 << 10;

const _: () = assert!(STAGED_WHILE_SHORT < STAGING_BYTES && KEPT_BYTES_MAX > STAGING_BYTES);

// A capsule that is received whole fits behind the header of the next, and some capsules of any size get a buffer at once.
const _: () = assert!(IN_CAPSULE_BYTES_MAX as usize + STAGED_BESIDE_DIRECT <= STAGING_BYTES);
const _: () = assert!(IN_CAPSULE_BYTES_MAX as usize * 8 <= HALF_RECEIVED_BYTES_MAX);
