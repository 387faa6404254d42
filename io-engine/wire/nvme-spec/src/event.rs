//! Asynchronous events (Base 2.0c §5.2).

/// An event as dword 0 of an Asynchronous Event Request's completion.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct AsyncEvent {
    /// Event type: 0 error, 1 SMART / health, 2 notice, 6 I/O command specific.
    pub kind: u8,
    /// Event information, meaning depends on the type.
    pub info: u8,
    /// Log page to read.
    pub log_page: u8,
}

impl AsyncEvent {
    /// Notice: namespace attributes changed (figure 148).
    pub const NAMESPACE_ATTRIBUTE_CHANGED: Self = Self {
        kind: 2,
        info: 0x00,
        log_page: crate::log::CHANGED_NAMESPACES,
    };
    /// Notice: asymmetric namespace access changed.
    pub const ANA_CHANGED: Self = Self {
        kind: 2,
        info: 0x03,
        log_page: crate::log::ANA,
    };
    /// Notice: discovery log page changed.
    pub const DISCOVERY_CHANGED: Self = Self {
        kind: 2,
        info: 0xf0,
        log_page: crate::log::DISCOVERY,
    };
    /// I/O command specific: reservation log page available (figure 149).
    pub const RESERVATION_LOG_AVAILABLE: Self = Self {
        kind: 6,
        info: 0x00,
        log_page: crate::log::RESERVATION_NOTIFICATION,
    };

    /// The completion's result.
    pub const fn result(self) -> u64 {
        self.kind as u64 | (self.info as u64) << 8 | (self.log_page as u64) << 16
    }

    /// Reads a completion's result.
    pub const fn parse(result: u64) -> Self {
        Self {
            kind: result as u8 & 7,
            info: (result >> 8) as u8,
            log_page: (result >> 16) as u8,
        }
    }
}

/// Bits of the asynchronous event configuration feature and of Identify's OAES (figures 275 and 322).
pub mod config {
    /// Health warnings, bits 7:0 (feature only).
    pub const SMART_MASK: u32 = 0x3f;
    /// Namespace attribute notices.
    pub const NAMESPACE_ATTRIBUTE: u32 = 1 << 8;
    /// Asymmetric namespace access change notices.
    pub const ANA_CHANGE: u32 = 1 << 11;
    /// Discovery log page change notices.
    pub const DISCOVERY_CHANGE: u32 = 1 << 31;
}
