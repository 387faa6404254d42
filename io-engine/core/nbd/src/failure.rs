//! Why a request failed, and the one place where that becomes an error of the protocol.

use nbd_wire::ErrorCode;

/// Why a request failed: the device's reasons, then ours.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Failure {
    /// The device does not reach that far (any more).
    OutOfRange,
    /// The device has no room.
    NoSpace,
    /// The medium could not be read or written.
    Medium,
    /// The device is gone.
    Gone,
    /// The device did not answer in time.
    Timeout,
    /// The device does not do that.
    NotSupported,
    /// The device had no room for another operation.
    Busy,
    /// The operation was cancelled.
    Aborted,
    /// The device answered with another number of bytes.
    Miscounted,
    /// Offset or length is not a multiple of the block size.
    Unaligned,
    /// The length is 0.
    Empty,
    /// The range ends behind the export.
    BeyondEnd,
    /// The export is read-only.
    ReadOnly,
    /// The command is not known, or not offered for this export.
    UnknownCommand,
    /// A flag is not known, or not one of the command.
    UnknownFlag,
    /// A field that must be 0 is not.
    NotZero,
    /// Block status was asked for without a metadata context.
    NoContext,
    /// The length is more than one answer holds.
    TooLong,
    /// Zeroes were wanted fast and would not be.
    NotFast,
    /// The size is not the client's to change.
    ResizeRefused,
}

impl Failure {
    /// The protocol's error (§Error values) and a text for the client's user; `writes` says whether the request would
    /// have changed data.
    pub(crate) const fn code(self, writes: bool) -> (ErrorCode, &'static str) {
        match self {
            Self::OutOfRange | Self::BeyondEnd => (
                // §Error values: ENOSPC for what writes, EINVAL for everything else behind the end.
                if writes {
                    ErrorCode::ENOSPC
                } else {
                    ErrorCode::EINVAL
                },
                "range ends behind the export",
            ),
            Self::NoSpace => (ErrorCode::ENOSPC, "no space left on the device"),
            Self::Medium => (ErrorCode::EIO, "medium error"),
            Self::Gone => (ErrorCode::ESHUTDOWN, "the device is gone"),
            Self::Timeout => (ErrorCode::EIO, "the device did not answer in time"),
            // §Error values: ENOTSUP is for fast zeroes alone.
            Self::NotSupported => (ErrorCode::EINVAL, "the device does not do that"),
            Self::Busy => (ErrorCode::EIO, "the device is overloaded"),
            Self::Aborted => (ErrorCode::EIO, "the operation was cancelled"),
            Self::Miscounted => (ErrorCode::EIO, "the device answered with a wrong length"),
            Self::Unaligned => (
                ErrorCode::EINVAL,
                "offset or length is not a multiple of the block size",
            ),
            Self::Empty => (ErrorCode::EINVAL, "length is zero"),
            Self::ReadOnly => (ErrorCode::EPERM, "the export is read-only"),
            Self::UnknownCommand => (ErrorCode::EINVAL, "command is not supported"),
            Self::UnknownFlag => (ErrorCode::EINVAL, "command flag is not supported"),
            Self::NotZero => (ErrorCode::EINVAL, "offset and length must be zero"),
            Self::NoContext => (ErrorCode::EINVAL, "no metadata context was negotiated"),
            Self::TooLong => (
                ErrorCode::EOVERFLOW,
                "length is above the maximum payload size",
            ),
            Self::NotFast => (ErrorCode::ENOTSUP, "zeroes would not be fast"),
            Self::ResizeRefused => (ErrorCode::EPERM, "the server's operator sets the size"),
        }
    }
}
