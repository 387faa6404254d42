//! Requests and answers of the transmission phase.

use crate::handshake::join;
use crate::{CommandFlags, Malformed, STRING_LEN_MAX, u16_at, u32_at, u64_at};

const REQUEST_MAGIC: u32 = 0x2560_9513;
const SIMPLE_MAGIC: u32 = 0x6744_6698;
const CHUNK_MAGIC: u32 = 0x668e_33ef;

/// What a request asks for (§Request types).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Command {
    /// Data of a range.
    Read,
    /// New data for a range; it follows the request.
    Write,
    /// The end of the session; not answered.
    Disc,
    /// Durability of what was answered.
    Flush,
    /// A range is not needed.
    Trim,
    /// A range will be needed.
    Cache,
    /// Zeroes for a range.
    WriteZeroes,
    /// What a range holds.
    BlockStatus,
    /// Another size (extension).
    Resize,
    /// Any other number.
    Unknown(u16),
}

impl Command {
    /// The command with this number.
    pub const fn from_number(number: u16) -> Self {
        match number {
            0 => Self::Read,
            1 => Self::Write,
            2 => Self::Disc,
            3 => Self::Flush,
            4 => Self::Trim,
            5 => Self::Cache,
            6 => Self::WriteZeroes,
            7 => Self::BlockStatus,
            8 => Self::Resize,
            other => Self::Unknown(other),
        }
    }

    /// The command's number.
    pub const fn number(self) -> u16 {
        match self {
            Self::Read => 0,
            Self::Write => 1,
            Self::Disc => 2,
            Self::Flush => 3,
            Self::Trim => 4,
            Self::Cache => 5,
            Self::WriteZeroes => 6,
            Self::BlockStatus => 7,
            Self::Resize => 8,
            Self::Unknown(number) => number,
        }
    }
}

/// A request (§Request message).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Request {
    /// Flags of the command.
    pub flags: CommandFlags,
    /// What is asked for.
    pub command: Command,
    /// The client's name for it, given back with the answer.
    pub cookie: u64,
    /// First byte.
    pub offset: u64,
    /// Number of bytes.
    pub len: u32,
}

impl Request {
    /// Bytes of it.
    pub const LEN: usize = 28;

    /// Reads it from the first [`Self::LEN`] bytes of `raw`.
    ///
    /// # Errors
    /// [`Malformed::TooShort`], [`Malformed::BadMagic`].
    #[inline]
    pub fn parse(raw: &[u8]) -> Result<Self, Malformed> {
        let len = u32_at(raw, 24)?;
        if u32_at(raw, 0)? != REQUEST_MAGIC {
            return Err(Malformed::BadMagic);
        }
        Ok(Self {
            flags: CommandFlags(u16_at(raw, 4)?),
            command: Command::from_number(u16_at(raw, 6)?),
            cookie: u64_at(raw, 8)?,
            offset: u64_at(raw, 16)?,
            len,
        })
    }

    /// The bytes.
    pub fn to_bytes(self) -> [u8; Self::LEN] {
        join(&[
            &REQUEST_MAGIC.to_be_bytes(),
            &self.flags.0.to_be_bytes(),
            &self.command.number().to_be_bytes(),
            &self.cookie.to_be_bytes(),
            &self.offset.to_be_bytes(),
            &self.len.to_be_bytes(),
        ])
    }
}

/// Why a request failed (§Error values); 0 is success in a simple reply.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ErrorCode(pub u32);

impl ErrorCode {
    /// No error.
    pub const OK: Self = Self(0);
    /// Not permitted.
    pub const EPERM: Self = Self(1);
    /// The medium failed.
    pub const EIO: Self = Self(5);
    /// Out of memory.
    pub const ENOMEM: Self = Self(12);
    /// The request makes no sense.
    pub const EINVAL: Self = Self(22);
    /// No space, or beyond the end for what writes.
    pub const ENOSPC: Self = Self(28);
    /// Too much for one answer.
    pub const EOVERFLOW: Self = Self(75);
    /// Not possible on the condition given.
    pub const ENOTSUP: Self = Self(95);
    /// The server is going away.
    pub const ESHUTDOWN: Self = Self(108);
}

/// An answer without chunks; data of a read follows (§Simple reply message).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct SimpleReply {
    /// How it went.
    pub error: ErrorCode,
    /// Which request.
    pub cookie: u64,
}

impl SimpleReply {
    /// Bytes of it.
    pub const LEN: usize = 16;

    /// Reads it from the first [`Self::LEN`] bytes of `raw`.
    ///
    /// # Errors
    /// [`Malformed::TooShort`], [`Malformed::BadMagic`].
    pub fn parse(raw: &[u8]) -> Result<Self, Malformed> {
        let cookie = u64_at(raw, 8)?;
        if u32_at(raw, 0)? != SIMPLE_MAGIC {
            return Err(Malformed::BadMagic);
        }
        Ok(Self {
            error: ErrorCode(u32_at(raw, 4)?),
            cookie,
        })
    }

    /// The bytes.
    #[inline]
    pub fn to_bytes(self) -> [u8; Self::LEN] {
        join(&[
            &SIMPLE_MAGIC.to_be_bytes(),
            &self.error.0.to_be_bytes(),
            &self.cookie.to_be_bytes(),
        ])
    }
}

/// What a chunk carries (§Structured reply types).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ChunkKind {
    /// Nothing: the end of an answer.
    None,
    /// An offset, then data.
    OffsetData,
    /// An offset and a number of zeroes.
    OffsetHole,
    /// A metadata context and descriptors.
    BlockStatus,
    /// An error.
    Error,
    /// An error and where it is.
    ErrorOffset,
    /// Any other number.
    Unknown(u16),
}

impl ChunkKind {
    /// The kind with this number.
    pub const fn from_number(number: u16) -> Self {
        match number {
            0 => Self::None,
            1 => Self::OffsetData,
            2 => Self::OffsetHole,
            5 => Self::BlockStatus,
            0x8001 => Self::Error,
            0x8002 => Self::ErrorOffset,
            other => Self::Unknown(other),
        }
    }

    /// The kind's number.
    pub const fn number(self) -> u16 {
        match self {
            Self::None => 0,
            Self::OffsetData => 1,
            Self::OffsetHole => 2,
            Self::BlockStatus => 5,
            Self::Error => 0x8001,
            Self::ErrorOffset => 0x8002,
            Self::Unknown(number) => number,
        }
    }
}

/// Header of one chunk of an answer (§Structured reply chunk message).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ChunkHeader {
    /// Whether it is the last chunk of the answer.
    pub done: bool,
    /// What it carries.
    pub kind: ChunkKind,
    /// Which request.
    pub cookie: u64,
    /// Bytes that follow.
    pub len: u32,
}

impl ChunkHeader {
    /// Bytes of it.
    pub const LEN: usize = 20;
    /// Bytes of it with the offset of a data chunk.
    pub const DATA_LEN: usize = Self::LEN + 8;

    /// Reads it from the first [`Self::LEN`] bytes of `raw`. Flags other than the last chunk's are ignored.
    ///
    /// # Errors
    /// [`Malformed::TooShort`], [`Malformed::BadMagic`].
    pub fn parse(raw: &[u8]) -> Result<Self, Malformed> {
        let len = u32_at(raw, 16)?;
        if u32_at(raw, 0)? != CHUNK_MAGIC {
            return Err(Malformed::BadMagic);
        }
        Ok(Self {
            done: u16_at(raw, 4)? & 1 != 0,
            kind: ChunkKind::from_number(u16_at(raw, 6)?),
            cookie: u64_at(raw, 8)?,
            len,
        })
    }

    /// The bytes.
    #[inline]
    pub fn to_bytes(self) -> [u8; Self::LEN] {
        join(&[
            &CHUNK_MAGIC.to_be_bytes(),
            &u16::from(self.done).to_be_bytes(),
            &self.kind.number().to_be_bytes(),
            &self.cookie.to_be_bytes(),
            &self.len.to_be_bytes(),
        ])
    }

    /// The bytes before `data_len` (up to `u32::MAX - 8`) bytes of data that begin at `offset` of the export.
    #[inline]
    pub fn data(cookie: u64, done: bool, offset: u64, data_len: u32) -> [u8; Self::DATA_LEN] {
        let header = Self {
            done,
            kind: ChunkKind::OffsetData,
            cookie,
            len: data_len.saturating_add(8),
        };
        join(&[&header.to_bytes(), &offset.to_be_bytes()])
    }
}

/// Payload of an error chunk, without the offset of `ErrorOffset`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ErrorChunk<'a> {
    /// Why it failed, not 0.
    pub error: ErrorCode,
    /// A message for humans, at most [`STRING_LEN_MAX`] bytes.
    pub message: &'a [u8],
}

impl<'a> ErrorChunk<'a> {
    /// Reads it from the start of `raw`, and gives what follows.
    ///
    /// # Errors
    /// Any [`Malformed`] but `BadMagic` and `TooLong`.
    pub fn parse(raw: &'a [u8]) -> Result<(Self, &'a [u8]), Malformed> {
        let error = ErrorCode(u32_at(raw, 0)?);
        let len = usize::from(u16_at(raw, 4)?);
        if len > STRING_LEN_MAX {
            return Err(Malformed::StringTooLong);
        }
        if error == ErrorCode::OK {
            return Err(Malformed::BadValue);
        }
        let message = raw.get(6..6 + len).ok_or(Malformed::TooShort)?;
        Ok((Self { error, message }, &raw[6 + len..]))
    }

    /// Bytes of it.
    pub fn len(&self) -> u32 {
        6 + self.message.len() as u32
    }

    /// Never.
    pub fn is_empty(&self) -> bool {
        false
    }

    /// Appends it to `out`.
    pub fn emit(&self, out: &mut impl Extend<u8>) {
        out.extend(self.error.0.to_be_bytes());
        out.extend((self.message.len() as u16).to_be_bytes());
        out.extend(self.message.iter().copied());
    }
}

/// One extent in an answer to block status.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Descriptor {
    /// How long it is in bytes, not 0.
    pub len: u32,
    /// What it is: [`crate::STATE_HOLE`], [`crate::STATE_ZERO`].
    pub flags: u32,
}

impl Descriptor {
    /// Bytes of it.
    pub const LEN: usize = 8;

    /// Reads it from the first [`Self::LEN`] bytes of `raw`.
    ///
    /// # Errors
    /// [`Malformed::TooShort`], [`Malformed::BadValue`] for an empty extent.
    pub fn parse(raw: &[u8]) -> Result<Self, Malformed> {
        let (len, flags) = (u32_at(raw, 0)?, u32_at(raw, 4)?);
        if len == 0 {
            return Err(Malformed::BadValue);
        }
        Ok(Self { len, flags })
    }

    /// The bytes.
    pub fn to_bytes(self) -> [u8; Self::LEN] {
        join(&[&self.len.to_be_bytes(), &self.flags.to_be_bytes()])
    }
}
