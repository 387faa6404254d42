//! Every bound of the target, and the relations between them.

/// Subsystems a target can be configured for.
pub const SUBSYSTEMS_MAX: u32 = 4096;
/// Controllers a target can be configured for.
pub const CONTROLLERS_MAX: u32 = 1 << 16;
/// Queue pairs a target can be configured for.
pub const QPAIRS_MAX: u32 = 1 << 20;
/// Highest namespace id; namespace tables are dense up to the highest id in use.
pub const NAMESPACES_MAX: u32 = 1024;
/// I/O queues a controller can be configured for.
pub const IO_QUEUES_MAX: u16 = 1024;
/// Entries an I/O queue can be configured for.
pub const QUEUE_DEPTH_MAX: u16 = 4096;
/// Entries a host may ask for on an admin queue; more is answered Connect Invalid Parameters.
pub const ADMIN_QUEUE_DEPTH_MAX: u16 = 256;
/// Data bytes an admin or fabrics command capsule may carry. NVMe/TCP 1.0c §3.2: at least 8192 on the admin queue.
pub const ADMIN_IN_CAPSULE_BYTES: u32 = 8192;
/// Largest in-capsule data size of an I/O queue that can be configured.
pub const IN_CAPSULE_BYTES_MAX: u32 = 64 << 10;
/// Largest payload the target reads by value.
pub const PAYLOAD_READ_MAX: u32 = 4096;
/// Smallest and largest MDTS in bytes.
pub const MDTS_BYTES_MIN: u32 = 4096;
/// See [`MDTS_BYTES_MIN`].
pub const MDTS_BYTES_MAX: u32 = 8 << 20;
/// Commands in flight a target can be configured for.
pub const COMMANDS_MAX: u32 = 1 << 20;
/// Command slots only admin queues may take, so that keep alive and features are served while I/O hangs.
pub const ADMIN_RESERVE: u32 = 64;
/// Asynchronous event requests a controller keeps; one more is answered Asynchronous Event Request Limit Exceeded.
pub const AERS_MAX: usize = 4;
/// Events a controller keeps for a host that has no request outstanding; the oldest of the same kind absorbs repeats.
pub const EVENTS_PENDING_MAX: usize = 8;
/// Abort commands a controller keeps waiting for their victims; one more is answered Abort Command Limit Exceeded.
pub const ABORTS_MAX: usize = 4;
/// Error log entries a controller keeps; the oldest is overwritten.
pub const ERROR_LOG_ENTRIES: usize = 64;
/// Changed namespaces a log holds; more are reported as FFFFFFFFh alone (Base 2.0c §5.16.1.5).
pub const CHANGED_NAMESPACES_MAX: usize = 1024;
/// Ranges of one Dataset Management command.
pub const DSM_RANGES_MAX: u32 = 256;
/// Bytes one deallocate or write-zeroes step covers; longer ranges become several steps, one at a time.
pub const DISCARD_STEP_BYTES: u64 = 64 << 20;
/// Registrants of one namespace; one more is refused with Reservation Conflict.
pub const REGISTRANTS_MAX: usize = 128;
/// Reservation notifications a controller keeps; the newest absorbs the overflow (its count says how many were lost).
pub const RESERVATION_NOTIFICATIONS_MAX: usize = 32;
/// Reservation commands waiting for one namespace's earlier one to become durable; one more is retried by the host.
pub const RESERVATION_WAITERS_MAX: usize = 64;
/// Hosts in an allow list.
pub const ALLOWED_HOSTS_MAX: usize = 1024;
/// Discovery log entries one host is shown; later ones are left out.
pub const DISCOVERY_ENTRIES_MAX: usize = 4096;
/// How long a connection may stay without a Connect command, in milliseconds; then it is dropped.
pub const CONNECT_TIMEOUT_MS: u64 = 10_000;
/// Keep alive granularity, in milliseconds (Identify controller KAS is in units of 100 ms).
pub const KEEP_ALIVE_GRANULARITY_MS: u32 = 100;
/// Times the command slots still free a host may hold: one host alone gets three quarters of them, two get three sevenths
/// each, and so on; a command beyond is answered Command Interrupted.
pub const HOST_SLOTS_PER_FREE: u32 = 3;
/// One part in this many of the command slots is not for connections without Connect, whose peer may keep the data of its
/// Connect to itself; it is answered Command Interrupted.
pub const CONNECT_RESERVE_DIVISOR: u32 = 8;
/// Bytes of replies of the target's own (identify, logs) waiting to be taken by the engine; a log page beyond is answered
/// Command Interrupted.
pub const REPLY_BYTES_MAX: usize = 32 << 20;
/// Admin command slots a host may hold beyond that, so that it can still abort what it has in flight.
pub const HOST_ADMIN_SLOTS: u32 = ADMIN_RESERVE / 4;
/// Bytes of an NQN (Base 2.0c §4.5).
pub const NQN_BYTES_MAX: usize = 223;

const _: () = assert!(PAYLOAD_READ_MAX <= ADMIN_IN_CAPSULE_BYTES);
// 256 ranges of 16 bytes are the largest by-value payload.
const _: () = assert!(DSM_RANGES_MAX * 16 <= PAYLOAD_READ_MAX);
const _: () = assert!(MDTS_BYTES_MIN.is_power_of_two() && MDTS_BYTES_MAX.is_power_of_two());
const _: () = assert!(MDTS_BYTES_MIN >= PAYLOAD_READ_MAX);
const _: () = assert!(ADMIN_RESERVE < COMMANDS_MAX);
const _: () = assert!(REPLY_BYTES_MAX > MDTS_BYTES_MAX as usize);
const _: () = assert!(CHANGED_NAMESPACES_MAX >= NAMESPACES_MAX as usize);
const _: () = assert!(QUEUE_DEPTH_MAX >= ADMIN_QUEUE_DEPTH_MAX);
