//! Why a connection ended: what the peer did, for the terminate request, the log and the counters.

use nvme_tcp_pdu::{FatalStatus, Malformed};

/// A fatal error. The connection has queued what it still has to say (see [`crate::Want::Flush`]) and takes no more.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Fault {
    /// What happened.
    pub kind: FaultKind,
    /// FES of the terminate request queued for the peer, or received from it; `None` when there is none.
    pub status: Option<FatalStatus>,
    /// FEI that goes with `status`, 0 otherwise.
    pub info: u32,
}

macro_rules! kinds {
    ($($(#[$doc:meta])* $kind:ident = $name:literal,)*) => {
        /// The reasons a connection can end for, a small closed set that can be counted.
        #[derive(Clone, Copy, PartialEq, Eq, Debug)]
        #[repr(u8)]
        pub enum FaultKind {
            $($(#[$doc])* $kind,)*
        }

        impl FaultKind {
            /// Every kind, in order of its discriminant.
            pub const ALL: &'static [Self] = &[$(Self::$kind,)*];

            /// A stable name for metrics and logs.
            pub const fn name(self) -> &'static str {
                match self {
                    $(Self::$kind => $name,)*
                }
            }
        }
    };
}

kinds! {
    /// A header that no connection could accept: type, lengths, offsets or flags.
    MalformedHeader = "malformed_header",
    /// A PDU type that is not allowed in this state or direction.
    UnexpectedPdu = "unexpected_pdu",
    /// PFV of ICReq or ICResp is not 0.
    VersionUnsupported = "version_unsupported",
    /// ICResp enables a digest that was not asked for.
    DigestNotOffered = "digest_not_offered",
    /// The header digest does not match.
    HeaderDigest = "header_digest",
    /// More in-capsule data than the queue accepts.
    CapsuleTooLarge = "capsule_too_large",
    /// More commands outstanding than the queue has entries.
    TooManyCommands = "too_many_commands",
    /// H2CData names no outstanding R2T.
    UnknownTransferTag = "unknown_transfer_tag",
    /// The PDU names a command that is not outstanding, or not the one its tag belongs to.
    UnknownCommand = "unknown_command",
    /// Data does not continue where the previous data PDU ended.
    DataOutOfOrder = "data_out_of_order",
    /// Data or an R2T reaches past the command's buffer or the R2T.
    DataOutOfRange = "data_out_of_range",
    /// DATAL is above MAXH2CDATA, or is not the length of the data in the PDU.
    DataLength = "data_length",
    /// LAST_PDU is missing on the last data PDU, or set on another, or SUCCESS without LAST_PDU.
    LastFlag = "last_flag",
    /// An R2T for a command without data to send, or beyond MAXR2T.
    R2tNotAllowed = "r2t_not_allowed",
    /// The peer sent a terminate request.
    PeerTerminated = "peer_terminated",
    /// The connection was not set up in time.
    HandshakeTimeout = "handshake_timeout",
    /// A PDU that had begun did not arrive in time.
    CapsuleStalled = "capsule_stalled",
    /// Data that was asked for did not arrive in time.
    DataStalled = "data_stalled",
    /// The peer did not read what it asked for in time.
    ReaderStalled = "reader_stalled",
}

impl Fault {
    pub(crate) const fn new(kind: FaultKind, status: FatalStatus, info: u32) -> Self {
        Self {
            kind,
            status: Some(status),
            info,
        }
    }

    /// A fault in the header field at byte `offset`.
    pub(crate) const fn field(kind: FaultKind, offset: u32) -> Self {
        Self::new(kind, FatalStatus::InvalidHeaderField, offset)
    }

    /// A fault that is not told to the peer.
    pub(crate) const fn silent(kind: FaultKind) -> Self {
        Self {
            kind,
            status: None,
            info: 0,
        }
    }
}

impl From<Malformed> for Fault {
    fn from(malformed: Malformed) -> Self {
        Self::field(FaultKind::MalformedHeader, malformed.field_offset())
    }
}

impl core::fmt::Display for Fault {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str(self.kind.name())?;
        if let Some(status) = self.status {
            write!(f, " (FES {}, FEI {})", status as u16, self.info)?;
        }
        Ok(())
    }
}

impl core::error::Error for Fault {}
