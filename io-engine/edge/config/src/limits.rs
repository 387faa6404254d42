//! Ranges of the numbers a configuration may hold, and their defaults.
//!
//! A number outside its range stops the start (house style: nothing falls back silently).

use crate::bounded::Bounded;

/// Microseconds a reactor may look for work before it sleeps. 0 never spins.
pub type SpinUs = Bounded<0, 1_000>;
/// MiB of I/O memory of one reactor.
pub type ArenaMib = Bounded<8, 65_536>;
/// MiB of memory all RAM disks together may take; a disk beyond is refused. 0 allows none.
pub type RamDisksMib = Bounded<0, 16_777_216>;
/// Connections of all hosts on one reactor; a further one is closed at accept.
pub type Connections = Bounded<1, 65_535>;
/// Connections or controllers of one host, or connections of one address, on one reactor; a further one is refused.
pub type PerHost = Bounded<1, 65_535>;
/// I/O queues of one controller; Set Features (Number of Queues) answers at most this.
pub type Queues = Bounded<1, 128>;
/// Entries of one queue (MQES + 1).
pub type QueueDepth = Bounded<16, 4_096>;
/// Seconds of a keep-alive timeout.
pub type KeepAliveS = Bounded<1, 3_600>;
/// Seconds a host may go without moving the bytes it owes. Below 5 a few lost packets would already cost a connection.
pub type ProgressS = Bounded<5, 3_600>;
/// Milliseconds after which a command is logged as slow. 0 logs none.
pub type SlowMs = Bounded<0, 60_000>;
/// Seconds a device has to answer one operation.
pub type DeadlineS = Bounded<1, 29>;

/// Seconds a child process has to load a plugin.
pub type LoadTimeoutS = Bounded<1, 300>;

/// Default of `reactors.spin_us_max`: about twice the cost of one wake-up.
pub const SPIN_US: SpinUs = SpinUs::new_const(50);
/// Default of `reactors.spin_file_us_max`: an NVMe disk or a virtual one answers within it, a spinning disk does not.
pub const SPIN_FILE_US: SpinUs = SpinUs::new_const(200);
/// Default of `memory.arena_mib`.
pub const ARENA_MIB: ArenaMib = ArenaMib::new_const(64);
/// Default of `memory.ram_disks_mib_max`: all memory but one part in this many, less the arenas.
pub const MEMORY_SPARE_DIVISOR: u64 = 4;
/// Largest `memory.ram_disks_mib_max`: all memory but one part in this many, less the arenas.
pub const MEMORY_SPARE_DIVISOR_MAX: u64 = 16;
/// Default of `nvmf.connections_max`.
pub const CONNECTIONS: Connections = Connections::new_const(4_096);
/// Default of `nvmf.host_controllers_max`: more volumes than a node uses, fewer than would fill the tables.
pub const HOST_CONTROLLERS: PerHost = PerHost::new_const(512);
/// Default of `nvmf.host_connections_max`: one part in this many of `nvmf.connections_max`.
pub const HOST_CONNECTIONS_DIVISOR: u32 = 2;
/// Default of `nvmf.address_connections_max`: all of `nvmf.connections_max` but one part in this many, which one address
/// cannot take however many host NQNs it invents.
pub const ADDRESS_RESERVE_DIVISOR: u32 = 4;
/// Default of `nvmf.queues_max`.
pub const QUEUES: Queues = Queues::new_const(32);
/// Default of `nvmf.queue_depth_max`: what the Linux host asks for.
pub const QUEUE_DEPTH: QueueDepth = QueueDepth::new_const(128);
/// Default of `nvmf.keep_alive_s_min`.
pub const KEEP_ALIVE_S_MIN: KeepAliveS = KeepAliveS::new_const(1);
/// Default of `nvmf.keep_alive_s_max`: the association timeout of the system we must be able to replace.
pub const KEEP_ALIVE_S_MAX: KeepAliveS = KeepAliveS::new_const(120);
/// Default of `nvmf.progress_timeout_s`: the I/O timeout of a Linux host, which gives up its command by then.
pub const PROGRESS_S: ProgressS = ProgressS::new_const(30);
/// Default of `io.slow_io_ms`.
pub const SLOW_MS: SlowMs = SlowMs::new_const(1_000);
/// Default of `io.device_deadline_s`.
pub const DEADLINE_S: DeadlineS = DeadlineS::new_const(20);

/// Default of `plugins.load_timeout_s`.
pub const LOAD_TIMEOUT_S: LoadTimeoutS = LoadTimeoutS::new_const(10);

/// Smallest `nvmf.in_capsule_bytes`: one block of the smallest size.
pub const IN_CAPSULE_BYTES_MIN: u64 = 512;
/// Largest `nvmf.in_capsule_bytes`.
pub const IN_CAPSULE_BYTES_MAX: u64 = 65_536;
/// Default of `nvmf.in_capsule_bytes`.
pub const IN_CAPSULE_BYTES: u32 = 4_096;
/// Smallest `nvmf.transfer_kib_max`.
pub const TRANSFER_KIB_MIN: u64 = 4;
/// Largest `nvmf.transfer_kib_max`: the largest buffer of a reactor's arena.
pub const TRANSFER_KIB_MAX: u64 = 1_024;
/// Default of `nvmf.transfer_kib_max`.
pub const TRANSFER_KIB: u32 = 512;
/// Longest name of a TCP congestion control algorithm (`TCP_CA_NAME_MAX` less its NUL).
pub const CONGESTION_NAME_LEN_MAX: usize = 15;
/// Most addresses NVMe/TCP listens on.
pub const LISTENERS_MAX: usize = 16;
/// Most reactors.
pub const REACTORS_MAX: usize = 256;
/// CPU numbers are below this, as many as a process can be bound to.
pub const CPUS_MAX: u32 = 4_096;
/// Largest configuration file, in bytes; a larger one is refused.
pub const FILE_BYTES_MAX: u64 = 4 << 20;
/// Longest node name.
pub const NODE_NAME_LEN_MAX: usize = 128;

/// TCP port of NVMe-oF; also the port upstream serves every subsystem on.
pub const NVMF_PORT: u16 = 8420;
/// TCP port of the gRPC server.
pub const GRPC_PORT: u16 = 10124;

// A device gives up before the host does (30 s, the default I/O timeout of Linux).
const _: () = assert!(DeadlineS::MAX < 30);
const _: () = assert!(DEADLINE_S.get() as u64 * 1_000 > SLOW_MS.get() as u64);
