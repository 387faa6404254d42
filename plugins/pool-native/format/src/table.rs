//! Pages of the slab table and the object table (`docs/disk-format.md` §4.4).

use crate::bytes::{Put, Reader};
use crate::check::ENVELOPE;
use crate::object::{OBJECT_BYTES, ObjectRecord};
use crate::{Envelope, Malformed, TABLE, Uuid};

/// Slab records on a page.
pub const SLABS_PER_PAGE: usize = 169;
/// Object records on a page.
pub const OBJECTS_PER_PAGE: usize = 7;
/// Twin of a slab that has none.
pub const NO_TWIN: u32 = u32::MAX;

const SLAB_BYTES: usize = 24;
const RECORDS_AT: usize = 40;

/// Which table a page belongs to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum TableKind {
    /// The slab table.
    Slabs,
    /// The object table.
    Objects,
}

impl TableKind {
    fn code(self) -> u8 {
        match self {
            Self::Slabs => 1,
            Self::Objects => 2,
        }
    }
}

/// What a slab is used for.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum SlabKind {
    /// Nothing.
    Free,
    /// Data of replicas.
    Data,
    /// Tree nodes.
    Meta,
    /// The second copy of a metadata slab.
    MetaTwin,
    /// Table pages.
    Table,
    /// The second copy of a table slab.
    TableTwin,
    /// Not to be used any more: its disk leaves.
    Leaving,
}

/// One slab.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct SlabRecord {
    /// Its use.
    pub kind: SlabKind,
    /// Which version of the bitmap is current, 0 or 1.
    pub bitmap_version: u8,
    /// Disk it lies on.
    pub disk: u16,
    /// Chunk of that disk.
    pub chunk: u32,
    /// Slab with the same bytes, or where this one moves; [`NO_TWIN`] for none.
    pub twin: u32,
    /// Raised when the slab leaves [`SlabKind::Free`].
    pub generation: u32,
    /// CRC of the current bitmap; 0 when none was written.
    pub bitmap_crc: u32,
    /// Free blocks.
    pub free: u16,
}

impl SlabRecord {
    /// Appends the 24 bytes.
    pub(crate) fn emit(&self, out: &mut Vec<u8>) {
        out.put_u8(match self.kind {
            SlabKind::Free => 0,
            SlabKind::Data => 1,
            SlabKind::Meta => 2,
            SlabKind::MetaTwin => 3,
            SlabKind::Table => 4,
            SlabKind::TableTwin => 5,
            SlabKind::Leaving => 6,
        });
        out.put_u8(self.bitmap_version & 1);
        out.put_u16(self.disk);
        out.put_u32(self.chunk);
        out.put_u32(self.twin);
        out.put_u32(self.generation);
        out.put_u32(self.bitmap_crc);
        out.put_u16(self.free);
        out.put_u16(0);
    }

    pub(crate) fn parse(r: &mut Reader<'_>) -> Result<Self, Malformed> {
        let kind = match r.u8()? {
            0 => SlabKind::Free,
            1 => SlabKind::Data,
            2 => SlabKind::Meta,
            3 => SlabKind::MetaTwin,
            4 => SlabKind::Table,
            5 => SlabKind::TableTwin,
            6 => SlabKind::Leaving,
            _ => return Err(Malformed::Value("slab kind")),
        };
        let record = Self {
            kind,
            bitmap_version: r.u8()? & 1,
            disk: r.u16()?,
            chunk: r.u32()?,
            twin: r.u32()?,
            generation: r.u32()?,
            bitmap_crc: r.u32()?,
            free: r.u16()?,
        };
        r.skip(2)?;
        Ok(record)
    }
}

fn emit_page(
    kind: TableKind,
    count: usize,
    uuid: &Uuid,
    (position, checkpoint): (u32, u64),
    records: impl FnOnce(&mut Vec<u8>),
) -> (Vec<u8>, u32) {
    let mut out = vec![0; ENVELOPE];
    out.put_u8(kind.code());
    out.put_zeros(3);
    out.put_u16(count as u16);
    out.put_zeros(2);
    records(&mut out);
    let crc = Envelope::seal(&mut out, uuid, TABLE, u64::from(position), checkpoint);
    (out, crc)
}

/// A page of the slab table and its check; `at` is its position and the checkpoint.
pub fn emit_slab_page(records: &[SlabRecord], uuid: &Uuid, at: (u32, u64)) -> (Vec<u8>, u32) {
    emit_page(TableKind::Slabs, records.len(), uuid, at, |out| {
        for record in records {
            record.emit(out);
        }
    })
}

/// A page of the object table and its check; `at` is its position and the checkpoint.
pub fn emit_object_page(records: &[ObjectRecord], uuid: &Uuid, at: (u32, u64)) -> (Vec<u8>, u32) {
    emit_page(TableKind::Objects, records.len(), uuid, at, |out| {
        for record in records {
            record.emit(out);
        }
    })
}

fn open_page<'a>(
    bytes: &'a [u8],
    kind: TableKind,
    uuid: &Uuid,
    position: u32,
    crc: u32,
    (size, most): (usize, usize),
) -> Result<(usize, Reader<'a>), Malformed> {
    let envelope = Envelope::open(bytes, uuid, TABLE, Some(u64::from(position)))?;
    if envelope.crc != crc {
        return Err(Malformed::Crc);
    }
    let bytes = &bytes[..envelope.length];
    let mut r = Reader::new(bytes, ENVELOPE);
    if r.u8()? != kind.code() {
        return Err(Malformed::Value("table"));
    }
    r.skip(3)?;
    let count = usize::from(r.u16()?);
    if count > most || RECORDS_AT + count * size > bytes.len() {
        return Err(Malformed::Length);
    }
    Ok((count, Reader::new(bytes, RECORDS_AT)))
}

/// Records of a page of the slab table whose pointer says `position` and `crc`.
///
/// # Errors
/// As [`Envelope::open`], `Crc` when it is not the page pointed at, `Value`, `Length`.
pub fn parse_slab_page(
    bytes: &[u8],
    uuid: &Uuid,
    position: u32,
    crc: u32,
) -> Result<Vec<SlabRecord>, Malformed> {
    let limits = (SLAB_BYTES, SLABS_PER_PAGE);
    let (count, mut r) = open_page(bytes, TableKind::Slabs, uuid, position, crc, limits)?;
    (0..count).map(|_| SlabRecord::parse(&mut r)).collect()
}

/// Records of a page of the object table whose pointer says `position` and `crc`.
///
/// # Errors
/// As [`parse_slab_page`].
pub fn parse_object_page(
    bytes: &[u8],
    uuid: &Uuid,
    position: u32,
    crc: u32,
) -> Result<Vec<ObjectRecord>, Malformed> {
    let limits = (OBJECT_BYTES, OBJECTS_PER_PAGE);
    let (count, mut r) = open_page(bytes, TableKind::Objects, uuid, position, crc, limits)?;
    (0..count).map(|_| ObjectRecord::parse(&mut r)).collect()
}
