//! Features (Base 2.0c §5.27): identifiers and the layout of their values.

use crate::Sqe;

/// Arbitration.
pub const ARBITRATION: u8 = 0x01;
/// Power management.
pub const POWER_MANAGEMENT: u8 = 0x02;
/// Temperature threshold.
pub const TEMPERATURE_THRESHOLD: u8 = 0x04;
/// Error recovery (NVM command set).
pub const ERROR_RECOVERY: u8 = 0x05;
/// Volatile write cache.
pub const VOLATILE_WRITE_CACHE: u8 = 0x06;
/// Number of queues.
pub const NUMBER_OF_QUEUES: u8 = 0x07;
/// Write atomicity normal (NVM command set).
pub const WRITE_ATOMICITY: u8 = 0x0a;
/// Asynchronous event configuration.
pub const ASYNC_EVENT_CONFIG: u8 = 0x0b;
/// Keep alive timer.
pub const KEEP_ALIVE_TIMER: u8 = 0x0f;
/// Host behavior support.
pub const HOST_BEHAVIOR_SUPPORT: u8 = 0x16;
/// Host identifier.
pub const HOST_IDENTIFIER: u8 = 0x81;
/// Reservation notification mask.
pub const RESERVATION_NOTIFICATION_MASK: u8 = 0x82;
/// Reservation persistence.
pub const RESERVATION_PERSISTENCE: u8 = 0x83;

/// SEL of Get Features: current value.
pub const SELECT_CURRENT: u8 = 0;
/// SEL: default value.
pub const SELECT_DEFAULT: u8 = 1;
/// SEL: saved value.
pub const SELECT_SAVED: u8 = 2;
/// SEL: capabilities of the feature.
pub const SELECT_SUPPORTED: u8 = 3;

/// Capability bit in the answer to [`SELECT_SUPPORTED`]: saveable.
pub const CAPABILITY_SAVEABLE: u32 = 1;
/// Capability bit: namespace specific.
pub const CAPABILITY_NS_SPECIFIC: u32 = 2;
/// Capability bit: changeable.
pub const CAPABILITY_CHANGEABLE: u32 = 4;

/// Bytes of the host behavior support structure (§5.27.1.18).
pub const HOST_BEHAVIOR_LEN: usize = 512;

/// Get or Set Features, dword 10.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct FeatureCommand {
    /// Feature identifier.
    pub fid: u8,
    /// Get: which value (SEL).
    pub select: u8,
    /// Set: keep through power cycles (SV).
    pub save: bool,
    /// Dword 11.
    pub value: u32,
}

impl FeatureCommand {
    /// Reads either command.
    pub const fn parse(sqe: &Sqe) -> Self {
        let cdw10 = sqe.dword(10);
        Self {
            fid: cdw10 as u8,
            select: (cdw10 >> 8) as u8 & 7,
            save: cdw10 >> 31 != 0,
            value: sqe.dword(11),
        }
    }
}

/// Value of [`NUMBER_OF_QUEUES`]: I/O submission and completion queues.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct QueueCounts {
    /// Submission queues, 1 to 65536.
    pub submission: u32,
    /// Completion queues, 1 to 65536.
    pub completion: u32,
}

impl QueueCounts {
    /// Reads dword 11 of the command or dword 0 of the completion.
    pub const fn parse(value: u32) -> Self {
        let (nsq_zb, ncq_zb) = (value & 0xffff, value >> 16);
        Self {
            submission: nsq_zb + 1,
            completion: ncq_zb + 1,
        }
    }

    /// The dword.
    pub const fn emit(&self) -> u32 {
        let (nsq_zb, ncq_zb) = (self.submission - 1, self.completion - 1);
        (nsq_zb & 0xffff) | (ncq_zb & 0xffff) << 16
    }
}
