//! Why bytes are not a message.

use core::fmt;

/// Why bytes are not the message they were taken for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Malformed {
    /// The message ends before its last field.
    TooShort,
    /// Bytes follow the last field.
    TooLong,
    /// A magic number is another one.
    BadMagic,
    /// A string is longer than [`crate::STRING_LEN_MAX`].
    StringTooLong,
    /// A number has a value the protocol excludes.
    BadValue,
}

impl fmt::Display for Malformed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::TooShort => "message is too short",
            Self::TooLong => "bytes follow the message",
            Self::BadMagic => "wrong magic number",
            Self::StringTooLong => "string is longer than 4096 bytes",
            Self::BadValue => "a field has a value the protocol excludes",
        })
    }
}

impl core::error::Error for Malformed {}
