//! Records of the journal (`docs/disk-format.md` §4.8).

use crate::bytes::{Put, Reader};
use crate::object::{ObjectRecord, ObjectState};
use crate::table::SlabRecord;
use crate::{BLOCK, Malformed, RECORDS_AT};

/// Blocks one map record can name; a longer write takes several.
pub const MAP_BLOCKS_MAX: usize = 64;

/// What becomes of blocks that a map stops using.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum MovedClass {
    /// Nobody else can use them: free.
    Free,
    /// An older snapshot may use them: into the dead list.
    Dead,
    /// An older snapshot owns them, and the object that lets go keeps no list: nothing.
    Kept,
}

impl MovedClass {
    fn code(self) -> u32 {
        match self {
            Self::Free => 1,
            Self::Dead => 2,
            Self::Kept => 3,
        }
    }

    fn from_code(code: u32) -> Result<Self, Malformed> {
        match code {
            1 => Ok(Self::Free),
            2 => Ok(Self::Dead),
            3 => Ok(Self::Kept),
            _ => Err(Malformed::Value("class")),
        }
    }
}

/// An extent a map stops using.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct MovedOut {
    /// Key it had in the map.
    pub key: u64,
    /// Where it lies.
    pub address: u64,
    /// Epoch it was written in.
    pub birth: u64,
    /// Blocks.
    pub len: u32,
    /// What becomes of it.
    pub class: MovedClass,
}

/// Blocks of a map record that never happened.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct VoidEntry {
    /// Journal block of the record.
    pub sequence: u64,
    /// Number of the record in it.
    pub record: u16,
    /// First block of the record that did not happen.
    pub first: u16,
    /// How many.
    pub count: u16,
}

/// One change.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Record {
    /// Blocks written to new places.
    Map {
        /// The map.
        map: u64,
        /// First block of the replica.
        block: u64,
        /// First address.
        address: u64,
        /// Epoch written in.
        birth: u64,
        /// Stored check of each block; 1 to 64.
        crcs: Vec<u32>,
        /// What lay there before.
        moved: Vec<MovedOut>,
    },
    /// Blocks that read as zero from here on.
    Unmap {
        /// The map.
        map: u64,
        /// First block.
        block: u64,
        /// Blocks.
        count: u64,
        /// What lay there.
        moved: Vec<MovedOut>,
    },
    /// The region's page is not to be believed from here on.
    Open {
        /// The region.
        region: u64,
        /// Generation of its slab.
        generation: u32,
    },
    /// The region's page is valid.
    Seal {
        /// The region.
        region: u64,
    },
    /// A slab has a new use or place.
    Slab {
        /// Its number.
        slab: u32,
        /// What it is.
        record: SlabRecord,
    },
    /// A new object.
    Object(Box<ObjectRecord>),
    /// A snapshot takes over the origin's map and dead list.
    Snapshot {
        /// The replica.
        origin: u64,
        /// Its new map.
        map: u64,
        /// Its new dead list.
        dead: u64,
        /// Epoch of new blocks from here on.
        epoch: u64,
        /// The snapshot.
        snapshot: Box<ObjectRecord>,
    },
    /// A new size.
    Resize {
        /// The object.
        object: u64,
        /// Size in blocks.
        size: u64,
        /// Blocks reserved.
        reserved: u64,
    },
    /// A new state; `None` when the object is gone.
    State {
        /// The object.
        object: u64,
        /// Its state.
        state: Option<ObjectState>,
    },
    /// Blocks of older map records that never happened.
    Void(Vec<VoidEntry>),
    /// An extent leaves one dead list, and joins another or is freed.
    Dead {
        /// Dead list it leaves.
        from: u64,
        /// Dead list it joins; 0 for none.
        to: u64,
        /// First address.
        address: u64,
        /// Blocks.
        count: u64,
        /// Epoch it was written in.
        birth: u64,
        /// What becomes of it.
        class: MovedClass,
    },
}

/// Void entries in one record.
const VOIDS_MAX: usize = 200;

impl Record {
    /// Appends the record.
    ///
    /// # Panics
    /// When it is longer than a journal block holds: the caller cuts writes, unmaps and voids to size.
    pub fn emit(&self, out: &mut Vec<u8>) {
        let start = out.len();
        out.put_u8(self.code());
        out.put_zeros(7);
        self.emit_body(out);
        let length = out.len() - start;
        out.put_zeros(length.next_multiple_of(8) - length);
        let length = out.len() - start;
        assert!(length <= BLOCK - RECORDS_AT, "a record fits a block");
        out[start + 2..start + 4].copy_from_slice(&(length as u16).to_le_bytes());
    }

    fn code(&self) -> u8 {
        match self {
            Self::Map { .. } => 1,
            Self::Unmap { .. } => 2,
            Self::Open { .. } => 3,
            Self::Seal { .. } => 4,
            Self::Slab { .. } => 5,
            Self::Object(_) => 6,
            Self::Snapshot { .. } => 7,
            Self::Resize { .. } => 8,
            Self::State { .. } => 9,
            Self::Void(_) => 10,
            Self::Dead { .. } => 11,
        }
    }

    fn emit_body(&self, out: &mut Vec<u8>) {
        match self {
            Self::Map { .. } | Self::Unmap { .. } => self.emit_extents(out),
            Self::Open { region, generation } => {
                out.put_u64(*region);
                out.put_u32(*generation);
            }
            Self::Seal { region } => out.put_u64(*region),
            Self::Slab { slab, record } => {
                out.put_u32(*slab);
                out.put_u32(0);
                record.emit(out);
            }
            Self::Object(object) => object.emit(out),
            Self::Snapshot {
                origin,
                map,
                dead,
                epoch,
                snapshot,
            } => {
                put_all(out, &[*origin, *map, *dead, *epoch]);
                snapshot.emit(out);
            }
            Self::Resize {
                object,
                size,
                reserved,
            } => put_all(out, &[*object, *size, *reserved]),
            Self::State { object, state } => {
                out.put_u64(*object);
                out.put_u8(state.map_or(0, ObjectState::code));
            }
            Self::Void(entries) => put_voids(out, entries),
            Self::Dead {
                from,
                to,
                address,
                count,
                birth,
                class,
            } => {
                put_all(out, &[*from, *to, *address, *count, *birth]);
                out.put_u32(class.code());
            }
        }
    }

    /// Body of a map or unmap record.
    fn emit_extents(&self, out: &mut Vec<u8>) {
        if let Self::Map {
            map,
            block,
            address,
            birth,
            crcs,
            moved,
        } = self
        {
            put_all(out, &[*map, *block, *address, *birth]);
            out.put_u16(crcs.len() as u16);
            out.put_u16(moved.len() as u16);
            out.put_zeros(4);
            for crc in crcs {
                out.put_u32(*crc);
            }
            out.put_zeros(crcs.len() % 2 * 4);
            put_moved(out, moved);
        }
        if let Self::Unmap {
            map,
            block,
            count,
            moved,
        } = self
        {
            put_all(out, &[*map, *block, *count]);
            out.put_u16(moved.len() as u16);
            out.put_zeros(6);
            put_moved(out, moved);
        }
    }

    pub(crate) fn parse(r: &mut Reader<'_>) -> Result<Self, Malformed> {
        let code = r.u8()?;
        r.skip(1)?;
        let length = usize::from(r.u16()?);
        r.skip(4)?;
        let body = r.take(length.checked_sub(8).ok_or(Malformed::Length)?)?;
        let r = &mut Reader::new(body, 0);
        match code {
            1 => parse_map(r),
            2 => {
                let (map, block, count) = (r.u64()?, r.u64()?, r.u64()?);
                let moved = r.u16()?;
                r.skip(6)?;
                let moved = parse_moved(r, moved)?;
                Ok(Self::Unmap {
                    map,
                    block,
                    count,
                    moved,
                })
            }
            3 => Ok(Self::Open {
                region: r.u64()?,
                generation: r.u32()?,
            }),
            4 => Ok(Self::Seal { region: r.u64()? }),
            5 => {
                let slab = r.u32()?;
                r.skip(4)?;
                Ok(Self::Slab {
                    slab,
                    record: SlabRecord::parse(r)?,
                })
            }
            6 => Ok(Self::Object(Box::new(ObjectRecord::parse(r)?))),
            7 => Ok(Self::Snapshot {
                origin: r.u64()?,
                map: r.u64()?,
                dead: r.u64()?,
                epoch: r.u64()?,
                snapshot: Box::new(ObjectRecord::parse(r)?),
            }),
            8 => Ok(Self::Resize {
                object: r.u64()?,
                size: r.u64()?,
                reserved: r.u64()?,
            }),
            9 => {
                let object = r.u64()?;
                let state = match r.u8()? {
                    0 => None,
                    code => Some(ObjectState::from_code(code)?),
                };
                Ok(Self::State { object, state })
            }
            10 => parse_void(r),
            11 => Ok(Self::Dead {
                from: r.u64()?,
                to: r.u64()?,
                address: r.u64()?,
                count: r.u64()?,
                birth: r.u64()?,
                class: MovedClass::from_code(r.u32()?)?,
            }),
            _ => Err(Malformed::Value("record type")),
        }
    }
}

fn put_all(out: &mut Vec<u8>, values: &[u64]) {
    for value in values {
        out.put_u64(*value);
    }
}

fn put_voids(out: &mut Vec<u8>, entries: &[VoidEntry]) {
    assert!(entries.len() <= VOIDS_MAX, "cut by the caller");
    out.put_u16(entries.len() as u16);
    out.put_zeros(6);
    for entry in entries {
        out.put_u64(entry.sequence);
        out.put_u16(entry.record);
        out.put_u16(entry.first);
        out.put_u16(entry.count);
        out.put_u16(0);
    }
}

fn put_moved(out: &mut Vec<u8>, moved: &[MovedOut]) {
    for extent in moved {
        put_all(out, &[extent.key, extent.address, extent.birth]);
        out.put_u32(extent.len);
        out.put_u32(extent.class.code());
    }
}

fn parse_moved(r: &mut Reader<'_>, count: u16) -> Result<Vec<MovedOut>, Malformed> {
    let mut moved = Vec::new();
    for _ in 0..count {
        moved.push(MovedOut {
            key: r.u64()?,
            address: r.u64()?,
            birth: r.u64()?,
            len: r.u32()?,
            class: MovedClass::from_code(r.u32()?)?,
        });
    }
    Ok(moved)
}

fn parse_map(r: &mut Reader<'_>) -> Result<Record, Malformed> {
    let (map, block, address, birth) = (r.u64()?, r.u64()?, r.u64()?, r.u64()?);
    let (count, moved) = (usize::from(r.u16()?), r.u16()?);
    r.skip(4)?;
    if count == 0 || count > MAP_BLOCKS_MAX {
        return Err(Malformed::Value("map count"));
    }
    let crcs = (0..count).map(|_| r.u32()).collect::<Result<_, _>>()?;
    r.skip(count % 2 * 4)?;
    Ok(Record::Map {
        map,
        block,
        address,
        birth,
        crcs,
        moved: parse_moved(r, moved)?,
    })
}

fn parse_void(r: &mut Reader<'_>) -> Result<Record, Malformed> {
    let count = usize::from(r.u16()?);
    r.skip(6)?;
    if count > VOIDS_MAX {
        return Err(Malformed::Value("void count"));
    }
    let mut entries = Vec::with_capacity(count);
    for _ in 0..count {
        entries.push(VoidEntry {
            sequence: r.u64()?,
            record: r.u16()?,
            first: r.u16()?,
            count: r.u16()?,
        });
        r.skip(2)?;
    }
    Ok(Record::Void(entries))
}
