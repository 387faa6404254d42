//! Nodes of maps and dead lists (`docs/disk-format.md` §4.5).

use crate::bytes::{Put, Reader};
use crate::check::ENVELOPE;
use crate::{Envelope, Malformed, NODE, Uuid};

/// Entries of a leaf.
pub const LEAF_MAX: usize = 168;
/// Entries of an inner node.
pub const INNER_MAX: usize = 126;
/// No tree is higher.
const HEIGHT_MAX: u8 = 12;
const ENTRIES_AT: usize = 64;
const LOW48: u64 = (1 << 48) - 1;

/// Pointer to a node.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct NodePtr {
    /// Where it lies.
    pub address: u64,
    /// Epoch it was written in.
    pub birth: u64,
    /// Its check.
    pub crc: u32,
    /// Levels of the tree under this pointer: 1 for a leaf.
    pub height: u8,
}

/// A run of blocks: of a map, `key` is the replica's block; of a dead list, the address.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Extent {
    /// First key.
    pub key: u64,
    /// Blocks, at least 1.
    pub len: u16,
    /// First address.
    pub address: u64,
    /// Epoch it was written in.
    pub birth: u64,
}

/// Entry of an inner node.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Inner {
    /// Least key under the child (of the first child: not above its keys).
    pub key: u64,
    /// The child.
    pub child: NodePtr,
}

/// Entries of a node.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum NodeBody {
    /// Level 0.
    Leaf(Vec<Extent>),
    /// Any other level.
    Inner(Vec<Inner>),
}

/// A node in memory.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Node {
    /// Map or dead list it was written for (it may be shared with later ones).
    pub map: u64,
    /// Epoch it was written in.
    pub birth: u64,
    /// 0 for a leaf.
    pub level: u8,
    /// Its entries.
    pub body: NodeBody,
}

impl Node {
    /// The block to write at `address` in `checkpoint`, and its check.
    pub fn emit(&self, uuid: &Uuid, address: u64, checkpoint: u64) -> (Vec<u8>, u32) {
        let mut out = vec![0; ENVELOPE];
        let count = match &self.body {
            NodeBody::Leaf(entries) => entries.len(),
            NodeBody::Inner(entries) => entries.len(),
        };
        out.put_u8(self.level);
        out.put_u8(0);
        out.put_u16(count as u16);
        out.put_zeros(4);
        out.put_u64(self.map);
        out.put_u64(self.birth);
        out.resize(ENTRIES_AT, 0);
        match &self.body {
            NodeBody::Leaf(entries) => {
                for entry in entries {
                    out.put_u64(entry.key);
                    out.put_u64(entry.address & LOW48 | u64::from(entry.len) << 48);
                    out.put_u64(entry.birth);
                }
            }
            NodeBody::Inner(entries) => {
                for entry in entries {
                    out.put_u64(entry.key);
                    out.put_u64(entry.child.address);
                    out.put_u64(entry.child.birth);
                    out.put_u32(entry.child.crc);
                    out.put_u32(0);
                }
            }
        }
        let crc = Envelope::seal(&mut out, uuid, NODE, address, checkpoint);
        (out, crc)
    }

    /// Parses the node `pointer` points at.
    ///
    /// # Errors
    /// As [`Envelope::open`]; `Crc` when it is not the node pointed at; `Length`, `Value` when its entries are not in order.
    pub fn parse(bytes: &[u8], uuid: &Uuid, pointer: &NodePtr) -> Result<Self, Malformed> {
        let envelope = Envelope::open(bytes, uuid, NODE, Some(pointer.address))?;
        if envelope.crc != pointer.crc {
            return Err(Malformed::Crc);
        }
        let mut r = Reader::new(&bytes[..envelope.length], ENVELOPE);
        let level = r.u8()?;
        r.skip(1)?;
        let count = usize::from(r.u16()?);
        r.skip(4)?;
        let (map, birth) = (r.u64()?, r.u64()?);
        if pointer.height > HEIGHT_MAX || level.checked_add(1) != Some(pointer.height) || count == 0
        {
            return Err(Malformed::Value("node level"));
        }
        let r = Reader::new(&bytes[..envelope.length], ENTRIES_AT);
        let body = if level == 0 {
            NodeBody::Leaf(parse_leaf(r, count)?)
        } else {
            NodeBody::Inner(parse_inner(r, count, level)?)
        };
        Ok(Self {
            map,
            birth,
            level,
            body,
        })
    }
}

fn parse_leaf(mut r: Reader<'_>, count: usize) -> Result<Vec<Extent>, Malformed> {
    if count > LEAF_MAX {
        return Err(Malformed::Length);
    }
    let mut entries = Vec::with_capacity(count);
    let mut free_from = 0;
    for _ in 0..count {
        let key = r.u64()?;
        let packed = r.u64()?;
        let entry = Extent {
            key,
            len: (packed >> 48) as u16,
            address: packed & LOW48,
            birth: r.u64()?,
        };
        let end = key.checked_add(u64::from(entry.len));
        if entry.len == 0 || key < free_from {
            return Err(Malformed::Value("extent"));
        }
        free_from = end.ok_or(Malformed::Value("extent"))?;
        entries.push(entry);
    }
    Ok(entries)
}

fn parse_inner(mut r: Reader<'_>, count: usize, level: u8) -> Result<Vec<Inner>, Malformed> {
    if count > INNER_MAX {
        return Err(Malformed::Length);
    }
    let mut entries: Vec<Inner> = Vec::with_capacity(count);
    for _ in 0..count {
        let key = r.u64()?;
        let child = NodePtr {
            address: r.u64()?,
            birth: r.u64()?,
            crc: r.u32()?,
            height: level,
        };
        r.skip(4)?;
        if entries.last().is_some_and(|last| last.key >= key) {
            return Err(Malformed::Value("node key"));
        }
        entries.push(Inner { key, child });
    }
    Ok(entries)
}
