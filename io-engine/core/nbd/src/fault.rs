//! Why a connection is over although the client did not end it.

use std::fmt;

/// What cannot be answered and therefore ends the connection.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Fault {
    /// A message does not begin as one: the stream is out of step, or it is not NBD.
    BadMagic,
    /// The client set flags nobody offered (§Client flags).
    UnknownClientFlags,
    /// An option is longer than any.
    OptionTooLong,
    /// `NBD_OPT_EXPORT_NAME` named no export; it has no other way to be refused.
    UnknownExport,
    /// A write is larger than [`crate::limits::PAYLOAD_LEN_MAX`].
    PayloadTooLong,
    /// No export was chosen in time.
    HandshakeTimeout,
    /// The client stands still in the middle of a payload or does not read answers.
    Stalled,
}

impl Fault {
    /// A stable word for logs and counters.
    pub const fn name(self) -> &'static str {
        match self {
            Self::BadMagic => "bad_magic",
            Self::UnknownClientFlags => "unknown_client_flags",
            Self::OptionTooLong => "option_too_long",
            Self::UnknownExport => "unknown_export",
            Self::PayloadTooLong => "payload_too_long",
            Self::HandshakeTimeout => "handshake_timeout",
            Self::Stalled => "client_stalled",
        }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl std::error::Error for Fault {}
