//! What the control plane tells a target: its limits, its subsystems, their namespaces.

use units::{BlockSize, Blocks};

use crate::{DeviceKey, PersistedReservations};

/// Limits and identity of one [`crate::Target`]; fixed for its life.
#[derive(Clone, Debug)]
pub struct TargetConfig {
    /// Subsystems at once, 1 to [`crate::limits::SUBSYSTEMS_MAX`]; more are refused.
    pub subsystems_max: u32,
    /// Controllers at once over all subsystems (discovery included), at least 1; a Connect beyond is answered
    /// Connect Controller Busy.
    pub controllers_max: u32,
    /// Queue pairs (connections) at once; a connection beyond is disconnected at once.
    pub qpairs_max: u32,
    /// Controllers one host (host NQN) may have over all subsystems, at least 1; a Connect beyond is answered Connect
    /// Controller Busy.
    pub host_controllers_max: u32,
    /// Connected queues, admin queues included, one host (host NQN) may have over all subsystems, at least 1; a Connect
    /// beyond is answered Connect Controller Busy.
    pub host_qpairs_max: u32,
    /// I/O queues one controller may have, 1 to [`crate::limits::IO_QUEUES_MAX`].
    pub io_queues_per_controller: u16,
    /// Entries of an I/O queue, 16 to [`crate::limits::QUEUE_DEPTH_MAX`] (CAP.MQES).
    pub queue_depth: u16,
    /// Largest data transfer of one command, in bytes: a power of two, 4 KiB to 8 MiB (MDTS).
    pub mdts_bytes: u32,
    /// Data bytes an I/O command capsule may carry: a multiple of 16, 0 to 64 KiB (IOCCSZ). The admin queue always
    /// takes [`crate::limits::ADMIN_IN_CAPSULE_BYTES`].
    pub in_capsule_bytes: u32,
    /// Commands in flight over all queues; beyond it an I/O command is answered Command Interrupted (retryable).
    /// [`crate::limits::ADMIN_RESERVE`] of them serve admin queues only.
    pub commands_max: u32,
    /// Longest keep alive timeout granted, in milliseconds; a longer one is refused. 0 is no bound. A host that asks for
    /// none (0) gets none: the transport notices when it is gone.
    pub kato_ms_max: u32,
    /// Shorter keep alive timeouts are raised to this many milliseconds.
    pub kato_ms_min: u32,
    /// Command retry delays 1 to 3 in units of 100 ms (Identify controller CRDT1..3); a 0 is "no delay named".
    pub crdt_100ms: [u16; 3],
    /// Model number, at most 40 printable ASCII characters.
    pub model: String,
    /// Firmware revision, at most 8 printable ASCII characters.
    pub firmware: String,
    /// Whether [`crate::Output::Respond`] may allow the transport's success flag while SQ flow control is on. The host then
    /// learns the head pointer later; Linux and SPDK hosts accept it, a strict reading of NVMe/TCP does not.
    pub success_flag_with_flow_control: bool,
}

impl Default for TargetConfig {
    fn default() -> Self {
        Self {
            subsystems_max: 1024,
            controllers_max: 1024,
            qpairs_max: 4096,
            host_controllers_max: 512,
            host_qpairs_max: 2048,
            io_queues_per_controller: 32,
            queue_depth: 128,
            mdts_bytes: 1 << 20,
            in_capsule_bytes: 8192,
            commands_max: 16384,
            kato_ms_max: 0,
            kato_ms_min: 0,
            crdt_100ms: [0; 3],
            model: String::from("Mayastor NVMe controller"),
            firmware: String::from(env!("CARGO_PKG_VERSION")),
            success_flag_with_flow_control: false,
        }
    }
}

impl TargetConfig {
    /// The keep alive timeout for a host that asks for `asked` milliseconds.
    pub(crate) fn granted_kato_ms(&self, asked: u32) -> u32 {
        if asked == 0 {
            0
        } else {
            asked.max(self.kato_ms_min)
        }
    }
}

/// Which hosts a subsystem accepts, by host NQN.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub enum AllowedHosts {
    /// Every host.
    #[default]
    Any,
    /// Exactly these NQNs; an empty list accepts nobody.
    Only(Vec<String>),
}

impl AllowedHosts {
    /// Whether `hostnqn` may connect.
    pub fn allows(&self, hostnqn: &str) -> bool {
        match self {
            Self::Any => true,
            Self::Only(hosts) => hosts.iter().any(|host| host == hostnqn),
        }
    }
}

/// One NVM subsystem.
#[derive(Clone, Debug)]
pub struct SubsystemConfig {
    /// Its NQN, 1 to 223 bytes, not the discovery NQN.
    pub nqn: String,
    /// Serial number, at most 20 printable ASCII characters.
    pub serial: String,
    /// Model number in place of [`TargetConfig::model`], at most 40 printable ASCII characters.
    pub model: Option<String>,
    /// Who may connect.
    pub hosts: AllowedHosts,
    /// Lowest controller id given out, at least 1.
    pub cntlid_min: u16,
    /// Highest controller id given out, at most FFEFh, not below `cntlid_min`.
    pub cntlid_max: u16,
    /// Whether to report ANA (one optimized group holding every namespace).
    pub ana: bool,
}

/// What the device behind a namespace can do; what it lacks is not offered to hosts.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct NamespaceCapabilities {
    /// Serves Write Zeroes.
    pub write_zeroes: bool,
    /// Serves deallocation.
    pub discard: bool,
    /// Serves Compare and compare-and-write.
    pub compare: bool,
    /// Whether deallocated blocks read as zeroes (NSFEAT/DLFEAT).
    pub discard_zeroes: bool,
    /// Completed writes may be lost in a power failure until a flush (Identify controller VWC).
    pub volatile_cache: bool,
    /// Blocks written whole or not at all even through a power failure; 0 is read as 1.
    pub atomic_blocks: u32,
    /// Preferred I/O granularity and alignment in blocks (NPWG, NPWA, NPDG, NPDA); 0 when there is none.
    pub preferred_blocks: u32,
}

impl NamespaceCapabilities {
    /// Everything a device can offer, with single-block atomicity and no volatile cache.
    pub const FULL: Self = Self {
        write_zeroes: true,
        discard: true,
        compare: true,
        discard_zeroes: true,
        volatile_cache: false,
        atomic_blocks: 1,
        preferred_blocks: 0,
    };
}

/// One namespace of a subsystem.
#[derive(Clone, Debug)]
pub struct NamespaceConfig {
    /// Namespace id, 1 to [`crate::limits::NAMESPACES_MAX`].
    pub nsid: u32,
    /// Namespace globally unique identifier; all zero when there is none.
    pub nguid: [u8; 16],
    /// Namespace UUID (RFC 4122 byte order); all zero when there is none.
    pub uuid: [u8; 16],
    /// IEEE extended unique identifier; all zero when there is none.
    pub eui64: [u8; 8],
    /// Logical block size.
    pub block_size: BlockSize,
    /// Size in logical blocks, at least 1.
    pub blocks: Blocks,
    /// What its device can do.
    pub capabilities: NamespaceCapabilities,
    /// Hosts may not change its blocks. Fixed as long as the namespace is there.
    pub read_only: bool,
    /// The engine's name for the device.
    pub device: DeviceKey,
    /// Reservations restored from the store, if any were persisted.
    pub reservations: Option<PersistedReservations>,
}

/// Where a connection came in; shown in discovery answers on it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct TransportFacts {
    /// Local address as the host reached it, without brackets or scope (`192.0.2.1`, `2001:db8::1`).
    pub traddr: String,
    /// Local port.
    pub trsvcid: String,
    /// Whether `traddr` is IPv6.
    pub ipv6: bool,
}

/// One subsystem as discovery shows it; entries are filtered by the asking host.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct DiscoveredSubsystem {
    /// The subsystem's NQN.
    pub nqn: String,
    /// Who may see it: the hosts that may connect.
    pub hosts: AllowedHosts,
}

/// Why a configuration call was refused; the target is unchanged.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum ConfigError {
    /// NQN empty, too long, or the discovery NQN.
    NqnInvalid,
    /// A subsystem of that NQN exists.
    NqnExists,
    /// Serial, model or firmware text too long or not printable ASCII.
    TextInvalid,
    /// Controller id window empty or outside 1 to FFEFh.
    CntlidRangeInvalid,
    /// As many subsystems as [`TargetConfig::subsystems_max`] exist.
    SubsystemsFull,
    /// No such subsystem.
    SubsystemUnknown,
    /// Namespace id 0 or above the limit.
    NsidInvalid,
    /// The namespace id is taken.
    NsidExists,
    /// No such namespace.
    NamespaceUnknown,
    /// Size 0 or past what 64-bit byte addresses reach.
    SizeInvalid,
    /// A field of [`TargetConfig`] is outside its documented range.
    LimitInvalid,
    /// More allowed hosts than [`crate::limits::ALLOWED_HOSTS_MAX`].
    HostsTooMany,
}

impl core::fmt::Display for ConfigError {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str(match self {
            Self::NqnInvalid => "NQN is empty, too long or reserved",
            Self::NqnExists => "a subsystem of that NQN exists",
            Self::TextInvalid => {
                "serial, model or firmware text is too long or not printable ASCII"
            }
            Self::CntlidRangeInvalid => "controller id window is empty or outside 1 to 65519",
            Self::SubsystemsFull => "no room for another subsystem",
            Self::SubsystemUnknown => "no such subsystem",
            Self::NsidInvalid => "namespace id is 0 or too large",
            Self::NsidExists => "namespace id is taken",
            Self::NamespaceUnknown => "no such namespace",
            Self::SizeInvalid => "namespace size is 0 or too large",
            Self::LimitInvalid => "a limit is outside its range",
            Self::HostsTooMany => "too many allowed hosts",
        })
    }
}

impl core::error::Error for ConfigError {}
