//! The frame of the handshake: greeting, option headers, headers of answers.

use crate::{ClientFlags, HandshakeFlags, Malformed, TransmissionFlags, array};
use crate::{u16_at, u32_at, u64_at};

/// `NBDMAGIC`.
const GREETING_MAGIC: u64 = 0x4e42_444d_4147_4943;
/// `IHAVEOPT`.
const OPTION_MAGIC: u64 = 0x4948_4156_454f_5054;
const REPLY_MAGIC: u64 = 0x0003_e889_0455_65a9;

/// Puts fixed-length fields one after another into a message.
#[inline(always)]
pub(crate) fn join<const N: usize>(parts: &[&[u8]]) -> [u8; N] {
    let mut raw = [0; N];
    let mut at = 0;
    for part in parts {
        if let Some(target) = raw.get_mut(at..at + part.len()) {
            target.copy_from_slice(part);
        }
        at += part.len();
    }
    raw
}

/// What the server says first (§Newstyle negotiation).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Greeting {
    /// What it offers.
    pub flags: HandshakeFlags,
}

impl Greeting {
    /// Bytes of it.
    pub const LEN: usize = 18;

    /// Reads it from the first [`Self::LEN`] bytes of `raw`.
    ///
    /// # Errors
    /// [`Malformed::TooShort`], [`Malformed::BadMagic`] (an oldstyle server among others).
    pub fn parse(raw: &[u8]) -> Result<Self, Malformed> {
        let flags = HandshakeFlags(u16_at(raw, 16)?);
        if u64_at(raw, 0)? != GREETING_MAGIC || u64_at(raw, 8)? != OPTION_MAGIC {
            return Err(Malformed::BadMagic);
        }
        Ok(Self { flags })
    }

    /// The bytes.
    pub fn to_bytes(self) -> [u8; Self::LEN] {
        join(&[
            &GREETING_MAGIC.to_be_bytes(),
            &OPTION_MAGIC.to_be_bytes(),
            &self.flags.0.to_be_bytes(),
        ])
    }
}

impl ClientFlags {
    /// Bytes of the client's answer to the greeting.
    pub const LEN: usize = 4;

    /// Reads the client's answer to the greeting.
    ///
    /// # Errors
    /// [`Malformed::TooShort`].
    pub fn parse(raw: &[u8]) -> Result<Self, Malformed> {
        Ok(Self(u32_at(raw, 0)?))
    }

    /// The bytes.
    pub fn to_bytes(self) -> [u8; Self::LEN] {
        self.0.to_be_bytes()
    }
}

/// What an option is about (§Option types).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum OptionKind {
    /// Choose an export, without a way to refuse it.
    ExportName,
    /// End the session.
    Abort,
    /// Name the exports.
    List,
    /// Go on under TLS.
    StartTls,
    /// Tell about an export.
    Info,
    /// Choose an export.
    Go,
    /// Answer with chunks from here on.
    StructuredReply,
    /// Name the metadata contexts.
    ListMetaContext,
    /// Choose metadata contexts.
    SetMetaContext,
    /// Use 64-bit headers (extension).
    ExtendedHeaders,
    /// Any other number.
    Unknown(u32),
}

impl OptionKind {
    /// The option with this number.
    pub const fn from_number(number: u32) -> Self {
        match number {
            1 => Self::ExportName,
            2 => Self::Abort,
            3 => Self::List,
            5 => Self::StartTls,
            6 => Self::Info,
            7 => Self::Go,
            8 => Self::StructuredReply,
            9 => Self::ListMetaContext,
            10 => Self::SetMetaContext,
            11 => Self::ExtendedHeaders,
            other => Self::Unknown(other),
        }
    }

    /// The option's number.
    pub const fn number(self) -> u32 {
        match self {
            Self::ExportName => 1,
            Self::Abort => 2,
            Self::List => 3,
            Self::StartTls => 5,
            Self::Info => 6,
            Self::Go => 7,
            Self::StructuredReply => 8,
            Self::ListMetaContext => 9,
            Self::SetMetaContext => 10,
            Self::ExtendedHeaders => 11,
            Self::Unknown(number) => number,
        }
    }
}

/// Header of an option the client sends.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct OptionHeader {
    /// Which.
    pub option: OptionKind,
    /// Bytes of data that follow.
    pub len: u32,
}

impl OptionHeader {
    /// Bytes of it.
    pub const LEN: usize = 16;

    /// Reads it from the first [`Self::LEN`] bytes of `raw`.
    ///
    /// # Errors
    /// [`Malformed::TooShort`], [`Malformed::BadMagic`].
    pub fn parse(raw: &[u8]) -> Result<Self, Malformed> {
        let len = u32_at(raw, 12)?;
        if u64_at(raw, 0)? != OPTION_MAGIC {
            return Err(Malformed::BadMagic);
        }
        Ok(Self {
            option: OptionKind::from_number(u32_at(raw, 8)?),
            len,
        })
    }

    /// The bytes.
    pub fn to_bytes(self) -> [u8; Self::LEN] {
        join(&[
            &OPTION_MAGIC.to_be_bytes(),
            &self.option.number().to_be_bytes(),
            &self.len.to_be_bytes(),
        ])
    }
}

/// What an answer to an option says (§Option reply types).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ReplyKind {
    /// Done.
    Ack,
    /// An export.
    Server,
    /// A fact about an export.
    Info,
    /// A metadata context.
    MetaContext,
    /// The option is not known here.
    ErrUnsup,
    /// The option is forbidden.
    ErrPolicy,
    /// The option makes no sense, or not here.
    ErrInvalid,
    /// The option does not work on this platform.
    ErrPlatform,
    /// TLS comes first.
    ErrTlsReqd,
    /// No such export.
    ErrUnknown,
    /// The server is going away.
    ErrShutdown,
    /// The client must ask for the block size.
    ErrBlockSizeReqd,
    /// Too large a request.
    ErrTooBig,
    /// Any other number.
    Unknown(u32),
}

/// Set in the number of every error.
const ERROR: u32 = 1 << 31;

impl ReplyKind {
    /// The kind with this number.
    pub const fn from_number(number: u32) -> Self {
        const ERRORS: [ReplyKind; 9] = [
            ReplyKind::ErrUnsup,
            ReplyKind::ErrPolicy,
            ReplyKind::ErrInvalid,
            ReplyKind::ErrPlatform,
            ReplyKind::ErrTlsReqd,
            ReplyKind::ErrUnknown,
            ReplyKind::ErrShutdown,
            ReplyKind::ErrBlockSizeReqd,
            ReplyKind::ErrTooBig,
        ];
        let code = number & !ERROR;
        if number & ERROR != 0 && code >= 1 && code <= 9 {
            return ERRORS[code as usize - 1];
        }
        match number {
            1 => Self::Ack,
            2 => Self::Server,
            3 => Self::Info,
            4 => Self::MetaContext,
            other => Self::Unknown(other),
        }
    }

    /// The kind's number.
    pub const fn number(self) -> u32 {
        match self {
            Self::Ack => 1,
            Self::Server => 2,
            Self::Info => 3,
            Self::MetaContext => 4,
            Self::ErrUnsup => ERROR | 1,
            Self::ErrPolicy => ERROR | 2,
            Self::ErrInvalid => ERROR | 3,
            Self::ErrPlatform => ERROR | 4,
            Self::ErrTlsReqd => ERROR | 5,
            Self::ErrUnknown => ERROR | 6,
            Self::ErrShutdown => ERROR | 7,
            Self::ErrBlockSizeReqd => ERROR | 8,
            Self::ErrTooBig => ERROR | 9,
            Self::Unknown(number) => number,
        }
    }

    /// Whether it refuses the option.
    pub const fn is_error(self) -> bool {
        self.number() & ERROR != 0
    }
}

/// Header of an answer to an option.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct OptionReply {
    /// The option answered.
    pub option: OptionKind,
    /// What it says.
    pub kind: ReplyKind,
    /// Bytes of data that follow.
    pub len: u32,
}

impl OptionReply {
    /// Bytes of it.
    pub const LEN: usize = 20;

    /// Reads it from the first [`Self::LEN`] bytes of `raw`.
    ///
    /// # Errors
    /// [`Malformed::TooShort`], [`Malformed::BadMagic`].
    pub fn parse(raw: &[u8]) -> Result<Self, Malformed> {
        let len = u32_at(raw, 16)?;
        if u64_at(raw, 0)? != REPLY_MAGIC {
            return Err(Malformed::BadMagic);
        }
        Ok(Self {
            option: OptionKind::from_number(u32_at(raw, 8)?),
            kind: ReplyKind::from_number(u32_at(raw, 12)?),
            len,
        })
    }

    /// The bytes.
    pub fn to_bytes(self) -> [u8; Self::LEN] {
        join(&[
            &REPLY_MAGIC.to_be_bytes(),
            &self.option.number().to_be_bytes(),
            &self.kind.number().to_be_bytes(),
            &self.len.to_be_bytes(),
        ])
    }
}

/// The answer to `NBD_OPT_EXPORT_NAME`, which is none of the usual form.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ExportReply {
    /// Size of the export in bytes.
    pub size: u64,
    /// What it can do.
    pub flags: TransmissionFlags,
}

impl ExportReply {
    /// Bytes of it without the zeroes.
    pub const LEN: usize = 10;
    /// Zeroes that follow for clients that did not say [`ClientFlags::NO_ZEROES`].
    pub const ZEROES: usize = 124;

    /// Reads it from the first [`Self::LEN`] bytes of `raw`.
    ///
    /// # Errors
    /// [`Malformed::TooShort`].
    pub fn parse(raw: &[u8]) -> Result<Self, Malformed> {
        let raw: [u8; Self::LEN] = array(raw, 0)?;
        Ok(Self {
            size: u64_at(&raw, 0)?,
            flags: TransmissionFlags(u16_at(&raw, 8)?),
        })
    }

    /// The bytes.
    pub fn to_bytes(self) -> [u8; Self::LEN] {
        join(&[&self.size.to_be_bytes(), &self.flags.0.to_be_bytes()])
    }
}
