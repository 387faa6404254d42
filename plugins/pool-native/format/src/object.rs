//! Records of replicas and snapshots (`docs/disk-format.md` §4.4).

use crate::bytes::{Put, Reader};
use crate::node::NodePtr;
use crate::{Malformed, Uuid};

/// Bytes of an object record.
pub const OBJECT_BYTES: usize = 512;

const NAME_MAX: usize = 128;
const ATTRIBUTES_MAX: usize = 214;

/// What an object is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ObjectKind {
    /// Can be written.
    Replica,
    /// Never changes.
    Snapshot,
}

/// Where in its life an object is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ObjectState {
    /// In use.
    Live,
    /// Its space is being freed.
    Deleting,
    /// Deleted by its owner, kept for its clones.
    Discarded,
}

impl ObjectState {
    /// The byte on disk.
    pub fn code(self) -> u8 {
        match self {
            Self::Live => 1,
            Self::Deleting => 2,
            Self::Discarded => 3,
        }
    }

    /// # Errors
    /// `Value` for any other byte.
    pub fn from_code(code: u8) -> Result<Self, Malformed> {
        match code {
            1 => Ok(Self::Live),
            2 => Ok(Self::Deleting),
            3 => Ok(Self::Discarded),
            _ => Err(Malformed::Value("object state")),
        }
    }
}

/// A replica or snapshot.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ObjectRecord {
    /// Number, never used twice; not 0.
    pub id: u64,
    /// What it is.
    pub kind: ObjectKind,
    /// Where in its life it is.
    pub state: ObjectState,
    /// log2 of the logical block: 9 or 12.
    pub block_shift: u8,
    /// Whether its whole size is reserved.
    pub is_thick: bool,
    /// Disk its data goes to while it fits.
    pub home: u16,
    /// Its UUID.
    pub uuid: Uuid,
    /// Id of its map.
    pub map: u64,
    /// Map it is based on until the next checkpoint; 0 for none.
    pub base: u64,
    /// Id of its dead list.
    pub dead: u64,
    /// Size in blocks of 4096 bytes.
    pub size: u64,
    /// Blocks reserved for it.
    pub reserved: u64,
    /// The snapshot before it, or the one it was cloned from; 0 for none.
    pub previous: u64,
    /// Epoch of that snapshot: blocks born after it are this object's own (or its successors').
    pub previous_epoch: u64,
    /// Epoch of a snapshot.
    pub epoch: u64,
    /// Root of the map's tree.
    pub map_root: Option<NodePtr>,
    /// Root of the dead list's tree.
    pub dead_root: Option<NodePtr>,
    /// Blocks its map names.
    pub mapped: u64,
    /// Seconds since 1970.
    pub created_s: u64,
    /// Name, at most 128 bytes.
    pub name: String,
    /// What the control plane wants kept, at most 214 bytes.
    pub attributes: Vec<u8>,
}

fn put_root(out: &mut Vec<u8>, root: Option<&NodePtr>) {
    match root {
        Some(root) => {
            out.put_u64(root.address);
            out.put_u64(root.birth);
            out.put_u32(root.crc);
            out.put_u8(root.height);
            out.put_zeros(3);
        }
        None => out.put_zeros(24),
    }
}

fn parse_root(r: &mut Reader<'_>) -> Result<Option<NodePtr>, Malformed> {
    let root = NodePtr {
        address: r.u64()?,
        birth: r.u64()?,
        crc: r.u32()?,
        height: r.u8()?,
    };
    r.skip(3)?;
    Ok((root.height > 0).then_some(root))
}

impl ObjectRecord {
    /// Whether name and attributes fit the record.
    pub fn fits(&self) -> bool {
        self.name.len() <= NAME_MAX && self.attributes.len() <= ATTRIBUTES_MAX
    }

    /// Appends the 512 bytes.
    ///
    /// # Panics
    /// When [`ObjectRecord::fits`] does not hold.
    pub(crate) fn emit(&self, out: &mut Vec<u8>) {
        assert!(self.fits(), "checked when the object was created");
        let start = out.len();
        out.put_u64(self.id);
        out.put_u8(match self.kind {
            ObjectKind::Replica => 1,
            ObjectKind::Snapshot => 2,
        });
        out.put_u8(self.state.code());
        out.put_u8(self.block_shift);
        out.put_u8(u8::from(self.is_thick));
        out.put_u16(self.home);
        out.put_zeros(2);
        out.put(&self.uuid);
        for value in [
            self.map,
            self.base,
            self.dead,
            self.size,
            self.reserved,
            self.previous,
            self.previous_epoch,
            self.epoch,
        ] {
            out.put_u64(value);
        }
        put_root(out, self.map_root.as_ref());
        put_root(out, self.dead_root.as_ref());
        out.put_u64(self.mapped);
        out.put_u64(self.created_s);
        out.put_u8(self.name.len() as u8);
        out.put(self.name.as_bytes());
        out.resize(start + 296, 0);
        out.put_u16(self.attributes.len() as u16);
        out.put(&self.attributes);
        out.resize(start + OBJECT_BYTES, 0);
    }

    pub(crate) fn parse(r: &mut Reader<'_>) -> Result<Self, Malformed> {
        let bytes = r.take(OBJECT_BYTES)?;
        let mut r = Reader::new(bytes, 0);
        let id = r.u64()?;
        let kind = match r.u8()? {
            1 => ObjectKind::Replica,
            2 => ObjectKind::Snapshot,
            _ => return Err(Malformed::Value("object kind")),
        };
        let state = ObjectState::from_code(r.u8()?)?;
        let block_shift = r.u8()?;
        let is_thick = r.u8()? & 1 != 0;
        let home = r.u16()?;
        r.skip(2)?;
        let uuid = r.uuid()?;
        let (map, base, dead, size, reserved) = (r.u64()?, r.u64()?, r.u64()?, r.u64()?, r.u64()?);
        let (previous, previous_epoch, epoch) = (r.u64()?, r.u64()?, r.u64()?);
        let (map_root, dead_root) = (parse_root(&mut r)?, parse_root(&mut r)?);
        let (mapped, created_s) = (r.u64()?, r.u64()?);
        let len = usize::from(r.u8()?);
        if len > NAME_MAX {
            return Err(Malformed::Value("object name"));
        }
        let name = core::str::from_utf8(r.take(len)?)
            .map_err(|_| Malformed::Value("object name"))?
            .to_owned();
        let mut r = Reader::new(bytes, 296);
        let len = usize::from(r.u16()?);
        let attributes = r.take(len)?.to_vec();
        if id == 0 || map == 0 || dead == 0 || !matches!(block_shift, 9 | 12) || size > 1 << 48 {
            return Err(Malformed::Value("object"));
        }
        Ok(Self {
            id,
            kind,
            state,
            block_shift,
            is_thick,
            home,
            uuid,
            map,
            base,
            dead,
            size,
            reserved,
            previous,
            previous_epoch,
            epoch,
            map_root,
            dead_root,
            mapped,
            created_s,
            name,
            attributes,
        })
    }
}
