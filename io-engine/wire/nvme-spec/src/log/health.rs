//! Error information and SMART / health log pages (Base 2.0c §5.16.1.2, §5.16.1.3).

use crate::Status;
use crate::bytes::{put, u16_at, u32_at, u64_at, u128_at};

/// One entry of the error log.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct ErrorLogEntry {
    /// Running number of the error; 0 marks an unused entry.
    pub error_count: u64,
    /// Submission queue.
    pub sqid: u16,
    /// Command.
    pub cid: u16,
    /// Status it was answered with.
    pub status: Status,
    /// Byte (7:0) and bit (10:8) of the command in error, FFFFh when not one.
    pub parameter_location: u16,
    /// First block in error.
    pub lba: u64,
    /// Namespace.
    pub nsid: u32,
    /// Transport type, 3 for TCP.
    pub trtype: u8,
}

impl ErrorLogEntry {
    /// Bytes on the wire.
    pub const LEN: usize = 64;

    /// The bytes on the wire.
    pub fn emit(&self) -> [u8; Self::LEN] {
        let mut raw = [0; Self::LEN];
        put(&mut raw, 0, &self.error_count.to_le_bytes());
        put(&mut raw, 8, &self.sqid.to_le_bytes());
        put(&mut raw, 10, &self.cid.to_le_bytes());
        put(&mut raw, 12, &(self.status.0 << 1).to_le_bytes());
        put(&mut raw, 14, &self.parameter_location.to_le_bytes());
        put(&mut raw, 16, &self.lba.to_le_bytes());
        put(&mut raw, 24, &self.nsid.to_le_bytes());
        raw[29] = self.trtype;
        raw
    }

    /// Reads an entry.
    pub fn parse(raw: &[u8; Self::LEN]) -> Self {
        Self {
            error_count: u64_at(raw, 0),
            sqid: u16_at(raw, 8),
            cid: u16_at(raw, 10),
            status: Status(u16_at(raw, 12) >> 1),
            parameter_location: u16_at(raw, 14),
            lba: u64_at(raw, 16),
            nsid: u32_at(raw, 24),
            trtype: raw[29],
        }
    }
}

/// SMART / health information.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct HealthLog {
    /// Critical warning bits.
    pub critical_warning: u8,
    /// Composite temperature, kelvin.
    pub temperature_k: u16,
    /// Available spare, percent.
    pub spare_percent: u8,
    /// Spare threshold, percent.
    pub spare_threshold_percent: u8,
    /// Percentage used.
    pub used_percent: u8,
    /// Data read, in thousands of 512-byte units.
    pub data_units_read: u128,
    /// Data written, in thousands of 512-byte units.
    pub data_units_written: u128,
    /// Read commands (Read and Compare).
    pub host_reads: u128,
    /// Write commands.
    pub host_writes: u128,
    /// Power cycles.
    pub power_cycles: u128,
    /// Power-on hours.
    pub power_on_hours: u128,
    /// Media and data integrity errors.
    pub media_errors: u128,
    /// Error log entries over the controller's life.
    pub error_log_entries: u128,
}

impl HealthLog {
    /// Bytes on the wire.
    pub const LEN: usize = 512;

    /// The bytes on the wire.
    pub fn emit(&self) -> [u8; Self::LEN] {
        let mut raw = [0; Self::LEN];
        raw[0] = self.critical_warning;
        put(&mut raw, 1, &self.temperature_k.to_le_bytes());
        raw[3] = self.spare_percent;
        raw[4] = self.spare_threshold_percent;
        raw[5] = self.used_percent;
        for (at, value) in [
            (32, self.data_units_read),
            (48, self.data_units_written),
            (64, self.host_reads),
            (80, self.host_writes),
            (112, self.power_cycles),
            (128, self.power_on_hours),
            (160, self.media_errors),
            (176, self.error_log_entries),
        ] {
            put(&mut raw, at, &value.to_le_bytes());
        }
        raw
    }

    /// Reads a page.
    pub fn parse(raw: &[u8; Self::LEN]) -> Self {
        Self {
            critical_warning: raw[0],
            temperature_k: u16_at(raw, 1),
            spare_percent: raw[3],
            spare_threshold_percent: raw[4],
            used_percent: raw[5],
            data_units_read: u128_at(raw, 32),
            data_units_written: u128_at(raw, 48),
            host_reads: u128_at(raw, 64),
            host_writes: u128_at(raw, 80),
            power_cycles: u128_at(raw, 112),
            power_on_hours: u128_at(raw, 128),
            media_errors: u128_at(raw, 160),
            error_log_entries: u128_at(raw, 176),
        }
    }
}
