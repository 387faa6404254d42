//! Data of options and of their answers.

use crate::handshake::join;
use crate::{Malformed, STRING_LEN_MAX, TransmissionFlags, u16_at, u32_at, u64_at};

/// A string of `len` bytes at `at`, and where it ends.
fn string(raw: &[u8], at: usize, len: u32) -> Result<(&[u8], usize), Malformed> {
    let len = len as usize;
    if len > STRING_LEN_MAX {
        return Err(Malformed::StringTooLong);
    }
    let end = at.checked_add(len).ok_or(Malformed::TooShort)?;
    Ok((raw.get(at..end).ok_or(Malformed::TooShort)?, end))
}

/// What kind of fact about an export is meant (`NBD_REP_INFO`).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum InfoKind {
    /// Size and flags.
    Export,
    /// Its canonical name.
    Name,
    /// A description for humans.
    Description,
    /// Size constraints.
    BlockSize,
    /// Any other number.
    Unknown(u16),
}

impl InfoKind {
    /// The kind with this number.
    pub const fn from_number(number: u16) -> Self {
        match number {
            0 => Self::Export,
            1 => Self::Name,
            2 => Self::Description,
            3 => Self::BlockSize,
            other => Self::Unknown(other),
        }
    }

    /// The kind's number.
    pub const fn number(self) -> u16 {
        match self {
            Self::Export => 0,
            Self::Name => 1,
            Self::Description => 2,
            Self::BlockSize => 3,
            Self::Unknown(number) => number,
        }
    }
}

/// Data of `NBD_OPT_INFO` and `NBD_OPT_GO`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ExportChoice<'a> {
    /// The export's name; empty for the default one.
    pub name: &'a [u8],
    /// Facts the client asks for.
    pub infos: InfoKinds<'a>,
}

impl<'a> ExportChoice<'a> {
    /// Reads it from all of `raw`.
    ///
    /// # Errors
    /// Any [`Malformed`] but `BadMagic` and `BadValue`.
    pub fn parse(raw: &'a [u8]) -> Result<Self, Malformed> {
        let (name, end) = string(raw, 4, u32_at(raw, 0)?)?;
        let count = u16_at(raw, end)?;
        let list = &raw[end + 2..];
        match list.len().cmp(&(usize::from(count) * 2)) {
            core::cmp::Ordering::Less => Err(Malformed::TooShort),
            core::cmp::Ordering::Greater => Err(Malformed::TooLong),
            core::cmp::Ordering::Equal => Ok(Self {
                name,
                infos: InfoKinds(list),
            }),
        }
    }

    /// Appends it to `out`, with `infos` for those of this value.
    pub fn emit(name: &[u8], infos: &[InfoKind], out: &mut impl Extend<u8>) {
        out.extend((name.len() as u32).to_be_bytes());
        out.extend(name.iter().copied());
        out.extend((infos.len() as u16).to_be_bytes());
        for kind in infos {
            out.extend(kind.number().to_be_bytes());
        }
    }
}

/// A list of kinds of facts.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct InfoKinds<'a>(&'a [u8]);

impl InfoKinds<'_> {
    /// Each of them.
    pub fn iter(&self) -> impl Iterator<Item = InfoKind> {
        self.0
            .chunks_exact(2)
            .map(|pair| InfoKind::from_number(u16::from_be_bytes([pair[0], pair[1]])))
    }

    /// Whether `kind` is among them.
    pub fn contains(&self, kind: InfoKind) -> bool {
        self.iter().any(|each| each == kind)
    }
}

/// Data of `NBD_OPT_LIST_META_CONTEXT` and `NBD_OPT_SET_META_CONTEXT`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct MetaQueries<'a> {
    /// The export's name; empty for the default one.
    pub name: &'a [u8],
    /// What is asked for.
    pub queries: Queries<'a>,
}

impl<'a> MetaQueries<'a> {
    /// Reads it from all of `raw`.
    ///
    /// # Errors
    /// Any [`Malformed`] but `BadMagic` and `BadValue`.
    pub fn parse(raw: &'a [u8]) -> Result<Self, Malformed> {
        let (name, end) = string(raw, 4, u32_at(raw, 0)?)?;
        let count = u32_at(raw, end)?;
        let list = &raw[end + 4..];
        let mut at = 0;
        for _ in 0..count {
            // Each query takes 4 bytes at least, so that a count beyond the data ends the loop early.
            (_, at) = string(list, at + 4, u32_at(list, at)?)?;
        }
        if at != list.len() {
            return Err(Malformed::TooLong);
        }
        Ok(Self {
            name,
            queries: Queries(list),
        })
    }

    /// Appends it to `out`.
    pub fn emit(name: &[u8], queries: &[&[u8]], out: &mut impl Extend<u8>) {
        out.extend((name.len() as u32).to_be_bytes());
        out.extend(name.iter().copied());
        out.extend((queries.len() as u32).to_be_bytes());
        for query in queries {
            out.extend((query.len() as u32).to_be_bytes());
            out.extend(query.iter().copied());
        }
    }
}

/// Queries for metadata contexts, checked when they were parsed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Queries<'a>(&'a [u8]);

impl<'a> Queries<'a> {
    /// Each of them.
    pub fn iter(&self) -> impl Iterator<Item = &'a [u8]> {
        let list = self.0;
        let mut at = 0;
        core::iter::from_fn(move || {
            let len = u32_at(list, at).ok()?;
            let (query, end) = string(list, at + 4, len).ok()?;
            at = end;
            Some(query)
        })
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// Data of `NBD_REP_SERVER`: an export in a list.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ServerEntry<'a> {
    /// Its name.
    pub name: &'a [u8],
    /// Its description, for humans; may be empty.
    pub description: &'a [u8],
}

impl<'a> ServerEntry<'a> {
    /// Reads it from all of `raw`.
    ///
    /// # Errors
    /// [`Malformed::TooShort`], [`Malformed::StringTooLong`].
    pub fn parse(raw: &'a [u8]) -> Result<Self, Malformed> {
        let (name, end) = string(raw, 4, u32_at(raw, 0)?)?;
        let description = &raw[end..];
        if description.len() > STRING_LEN_MAX {
            return Err(Malformed::StringTooLong);
        }
        Ok(Self { name, description })
    }

    /// Bytes of it.
    pub fn len(&self) -> u32 {
        (4 + self.name.len() + self.description.len()) as u32
    }

    /// Never.
    pub fn is_empty(&self) -> bool {
        false
    }

    /// Appends it to `out`.
    pub fn emit(&self, out: &mut impl Extend<u8>) {
        out.extend((self.name.len() as u32).to_be_bytes());
        out.extend(self.name.iter().copied());
        out.extend(self.description.iter().copied());
    }
}

/// `NBD_INFO_EXPORT`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ExportInfo {
    /// Size in bytes.
    pub size: u64,
    /// What the export can do.
    pub flags: TransmissionFlags,
}

/// `NBD_INFO_BLOCK_SIZE` (§Size constraints).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct BlockSizeInfo {
    /// What offsets and lengths are multiples of: a power of 2 up to 65536.
    pub minimum: u32,
    /// What they had better be multiples of: a power of 2, at least 512 and the minimum.
    pub preferred: u32,
    /// Most bytes of payload in one message.
    pub payload_max: u32,
}

/// Data of `NBD_REP_INFO`: a fact about an export.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Info<'a> {
    /// Size and flags.
    Export(ExportInfo),
    /// Its canonical name.
    Name(&'a [u8]),
    /// A description for humans.
    Description(&'a [u8]),
    /// Size constraints.
    BlockSize(BlockSizeInfo),
    /// A fact of another kind, to be ignored.
    Unknown(u16, &'a [u8]),
}

impl<'a> Info<'a> {
    /// Reads it from all of `raw`.
    ///
    /// # Errors
    /// Any [`Malformed`] but `BadMagic`.
    pub fn parse(raw: &'a [u8]) -> Result<Self, Malformed> {
        let kind = InfoKind::from_number(u16_at(raw, 0)?);
        let data = &raw[2..];
        let fixed = |len: usize| match data.len().cmp(&len) {
            core::cmp::Ordering::Less => Err(Malformed::TooShort),
            core::cmp::Ordering::Greater => Err(Malformed::TooLong),
            core::cmp::Ordering::Equal => Ok(()),
        };
        let text = || {
            if data.len() <= STRING_LEN_MAX {
                Ok(data)
            } else {
                Err(Malformed::StringTooLong)
            }
        };
        match kind {
            InfoKind::Export => {
                fixed(10)?;
                Ok(Self::Export(ExportInfo {
                    size: u64_at(data, 0)?,
                    flags: TransmissionFlags(u16_at(data, 8)?),
                }))
            }
            InfoKind::Name => Ok(Self::Name(text()?)),
            InfoKind::Description => Ok(Self::Description(text()?)),
            InfoKind::BlockSize => {
                fixed(12)?;
                let info = BlockSizeInfo {
                    minimum: u32_at(data, 0)?,
                    preferred: u32_at(data, 4)?,
                    payload_max: u32_at(data, 8)?,
                };
                if !info.is_valid() {
                    return Err(Malformed::BadValue);
                }
                Ok(Self::BlockSize(info))
            }
            InfoKind::Unknown(number) => Ok(Self::Unknown(number, data)),
        }
    }

    /// Bytes of it.
    pub fn len(&self) -> u32 {
        2 + match self {
            Self::Export(_) => 10,
            Self::BlockSize(_) => 12,
            Self::Name(text) | Self::Description(text) | Self::Unknown(_, text) => {
                text.len() as u32
            }
        }
    }

    /// Never.
    pub fn is_empty(&self) -> bool {
        false
    }

    /// Appends it to `out`.
    pub fn emit(&self, out: &mut impl Extend<u8>) {
        let mut put = |kind: InfoKind, data: &[u8]| {
            out.extend(kind.number().to_be_bytes());
            out.extend(data.iter().copied());
        };
        match self {
            Self::Export(info) => {
                let data: [u8; 10] = join(&[&info.size.to_be_bytes(), &info.flags.0.to_be_bytes()]);
                put(InfoKind::Export, &data);
            }
            Self::Name(text) => put(InfoKind::Name, text),
            Self::Description(text) => put(InfoKind::Description, text),
            Self::BlockSize(info) => {
                let data: [u8; 12] = join(&[
                    &info.minimum.to_be_bytes(),
                    &info.preferred.to_be_bytes(),
                    &info.payload_max.to_be_bytes(),
                ]);
                put(InfoKind::BlockSize, &data);
            }
            Self::Unknown(number, data) => put(InfoKind::Unknown(*number), data),
        }
    }
}

impl BlockSizeInfo {
    /// Whether the values keep the relations the protocol demands.
    pub const fn is_valid(self) -> bool {
        self.minimum.is_power_of_two()
            && self.minimum <= 1 << 16
            && self.preferred.is_power_of_two()
            && self.preferred >= self.minimum
            && self.preferred >= 512
            && self.payload_max >= self.preferred
    }
}

/// Data of `NBD_REP_META_CONTEXT`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct MetaContext<'a> {
    /// Its number in answers to block status.
    pub id: u32,
    /// Its name.
    pub name: &'a [u8],
}

impl<'a> MetaContext<'a> {
    /// Reads it from all of `raw`.
    ///
    /// # Errors
    /// [`Malformed::TooShort`], [`Malformed::StringTooLong`].
    pub fn parse(raw: &'a [u8]) -> Result<Self, Malformed> {
        let id = u32_at(raw, 0)?;
        let name = &raw[4..];
        if name.len() > STRING_LEN_MAX {
            return Err(Malformed::StringTooLong);
        }
        Ok(Self { id, name })
    }

    /// Appends it to `out`.
    pub fn emit(&self, out: &mut impl Extend<u8>) {
        out.extend(self.id.to_be_bytes());
        out.extend(self.name.iter().copied());
    }
}
