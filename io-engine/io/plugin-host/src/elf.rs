//! Reads a plugin's descriptor out of its file, without loading it. Any file may be given.
//!
//! Follows System V gABI, "ELF Header", "Program Header" and "Note Section": numbers are little-endian, notes lie in
//! segments of type `PT_NOTE` and are padded to the segment's alignment of 4 or 8 bytes.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;

use abi::{IOE_MAGIC, IOE_NOTE_NAME, IOE_NOTE_TYPE, IOE_STAMPS_MAX, IoeDescriptor, IoeStamp};

use sdk::text::is_printable;

use crate::refusal::Why;

const HEADER_BYTES: u64 = 64;
const PROGRAM_HEADER_BYTES: u64 = 56;
const SECTION_HEADER_BYTES: u64 = 64;
const PT_LOAD: u32 = 1;
const PT_NOTE: u32 = 4;
const ET_DYN: u16 = 3;
/// Largest segment of notes read; a larger one has none of ours.
const NOTES_BYTES_MAX: u64 = 1 << 20;

/// `e_machine` of this engine.
pub(crate) const MACHINE: u16 = if cfg!(target_arch = "aarch64") {
    183
} else {
    62
};

/// A descriptor as it was read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Descriptor {
    /// Major version the plugin was built against.
    pub abi_major: u16,
    /// Minor version the plugin was built against.
    pub abi_minor: u16,
    /// Lowest minor version it can do with.
    pub needs_minor: u16,
    /// `IOE_KIND_*`.
    pub kinds: u32,
    /// `IOE_FLAG_*`.
    pub flags: u32,
    /// Name.
    pub name: String,
    /// Version.
    pub version: String,
    /// Who made it.
    pub vendor: String,
    /// Schemes and protocols, as the plugin lists them.
    pub serves: String,
    /// What its tables looked like.
    pub stamps: Vec<IoeStamp>,
}

/// Where the bytes of a file are.
enum Medium<'a> {
    File(File),
    Memory(&'a [u8]),
}

struct Reader<'a> {
    medium: Medium<'a>,
    len: u64,
}

impl Reader<'_> {
    fn bytes(&self, offset: u64, len: u64) -> Result<Vec<u8>, Why> {
        let end = offset.saturating_add(len);
        if end > self.len {
            return Err(Why::Truncated {
                wanted: end,
                found: self.len,
            });
        }
        match &self.medium {
            Medium::Memory(all) => Ok(all[offset as usize..end as usize].to_vec()),
            Medium::File(file) => {
                let mut bytes = vec![0; len as usize];
                file.read_exact_at(&mut bytes, offset)
                    .map_err(Why::Unreadable)?;
                Ok(bytes)
            }
        }
    }
}

fn u16_at(bytes: &[u8], at: usize) -> u16 {
    let mut raw = [0; 2];
    raw.copy_from_slice(&bytes[at..at + 2]);
    u16::from_le_bytes(raw)
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    let mut raw = [0; 4];
    raw.copy_from_slice(&bytes[at..at + 4]);
    u32::from_le_bytes(raw)
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    let mut raw = [0; 8];
    raw.copy_from_slice(&bytes[at..at + 8]);
    u64::from_le_bytes(raw)
}

/// Reads the descriptor of the plugin at `path`. Runs nothing of it.
///
/// # Errors
/// [`Why`] the file is no plugin for this machine, up to [`Why::BadDescriptor`].
pub fn read(path: &Path) -> Result<Descriptor, Why> {
    let file = File::open(path).map_err(Why::Unreadable)?;
    let metadata = file.metadata().map_err(Why::Unreadable)?;
    if !metadata.is_file() {
        return Err(Why::NotAFile);
    }
    find(&Reader {
        medium: Medium::File(file),
        len: metadata.len(),
    })
}

/// As [`read`], of a file in memory.
///
/// # Errors
/// As [`read`].
pub fn read_bytes(file: &[u8]) -> Result<Descriptor, Why> {
    find(&Reader {
        medium: Medium::Memory(file),
        len: file.len() as u64,
    })
}

fn find(reader: &Reader<'_>) -> Result<Descriptor, Why> {
    let header = header(reader)?;
    let programs = programs(reader, &header)?;
    let notes = programs
        .chunks_exact(PROGRAM_HEADER_BYTES as usize)
        .filter(|program| u32_at(program, 0) == PT_NOTE);
    for program in notes {
        let (offset, len, align) = (u64_at(program, 8), u64_at(program, 32), u64_at(program, 48));
        if len <= NOTES_BYTES_MAX
            && let Some(found) = find_note(&reader.bytes(offset, len)?, align)
        {
            return descriptor(found);
        }
    }
    Err(Why::NoDescriptor)
}

/// The file header, of a shared object for this machine.
fn header(reader: &Reader<'_>) -> Result<Vec<u8>, Why> {
    let begin = reader.bytes(0, reader.len.min(HEADER_BYTES))?;
    if !begin.starts_with(b"\x7fELF") {
        return Err(Why::NotElf);
    }
    let header = reader.bytes(0, HEADER_BYTES)?;
    match (header[4], header[5]) {
        (2, 1) => {}
        (1, _) => {
            return Err(Why::Class {
                found: "ELF, 32 bit",
            });
        }
        (2, 2) => {
            return Err(Why::Class {
                found: "ELF, big-endian",
            });
        }
        _ => {
            return Err(Why::Class {
                found: "ELF of an unknown class",
            });
        }
    }
    let (kind, found) = (u16_at(&header, 16), u16_at(&header, 18));
    if found != MACHINE {
        return Err(Why::Machine {
            found,
            wanted: MACHINE,
        });
    }
    if kind != ET_DYN {
        return Err(Why::NotShared { found: kind });
    }
    Ok(header)
}

/// The program headers, after a look whether everything the headers speak of is there: the system's loader maps a file
/// that was cut off and dies on the first touch of what is missing.
fn programs(reader: &Reader<'_>, header: &[u8]) -> Result<Vec<u8>, Why> {
    let (offset, size, count) = (u64_at(header, 32), u16_at(header, 54), u16_at(header, 56));
    if u64::from(size) != PROGRAM_HEADER_BYTES {
        return Err(Why::NoDescriptor);
    }
    let programs = reader.bytes(offset, u64::from(count) * PROGRAM_HEADER_BYTES)?;
    let ends = programs
        .chunks_exact(PROGRAM_HEADER_BYTES as usize)
        .filter(|program| matches!(u32_at(program, 0), PT_LOAD | PT_NOTE))
        .map(|program| u64_at(program, 8).saturating_add(u64_at(program, 32)));
    let (sections, count) = (u64_at(header, 40), u64::from(u16_at(header, 60)));
    let sections_end = sections.saturating_add(count * SECTION_HEADER_BYTES);
    let wanted = ends.chain([sections_end]).max().unwrap_or(0);
    if wanted > reader.len {
        return Err(Why::Truncated {
            wanted,
            found: reader.len,
        });
    }
    Ok(programs)
}

/// The contents of our note among `notes`.
fn find_note(notes: &[u8], align: u64) -> Option<&[u8]> {
    let align = if align == 8 { 8 } else { 4 };
    let mut at = 0usize;
    while let Some(header) = notes.get(at..at.checked_add(12)?) {
        let (name_size, size, kind) = (u32_at(header, 0), u32_at(header, 4), u32_at(header, 8));
        let name_at = at + 12;
        let name = notes.get(name_at..name_at.checked_add(name_size as usize)?)?;
        let begin = (name_at + name_size as usize).checked_next_multiple_of(align)?;
        let end = begin.checked_add(size as usize)?;
        let contents = notes.get(begin..end)?;
        if name == IOE_NOTE_NAME.as_bytes() && kind == IOE_NOTE_TYPE {
            return Some(contents);
        }
        at = end.checked_next_multiple_of(align)?;
    }
    None
}

/// Bytes of a descriptor before its stamps.
const STAMPS_AT: usize = std::mem::offset_of!(IoeDescriptor, stamps);

fn descriptor(raw: &[u8]) -> Result<Descriptor, Why> {
    use std::mem::offset_of;
    let bad = |reason: String| Why::BadDescriptor { reason };
    if raw.len() < STAMPS_AT {
        return Err(bad(format!(
            "it has {} bytes, at least {STAMPS_AT} are needed",
            raw.len()
        )));
    }
    let magic = u64_at(raw, offset_of!(IoeDescriptor, magic));
    if magic != IOE_MAGIC {
        return Err(bad(format!(
            "it begins with {magic:016x}, not {IOE_MAGIC:016x}"
        )));
    }
    let count = usize::from(u16_at(raw, offset_of!(IoeDescriptor, stamp_count)));
    let room = (raw.len() - STAMPS_AT) / size_of::<IoeStamp>();
    if count > room {
        return Err(bad(format!(
            "it says {count} tables, and has room for {room}"
        )));
    }
    let stamps = raw[STAMPS_AT..]
        .chunks_exact(size_of::<IoeStamp>())
        .take(count.min(4 * IOE_STAMPS_MAX))
        .map(|stamp| IoeStamp {
            table: u32_at(stamp, offset_of!(IoeStamp, table)),
            size: u32_at(stamp, offset_of!(IoeStamp, size)),
            hash: u64_at(stamp, offset_of!(IoeStamp, hash)),
            base_size: u32_at(stamp, offset_of!(IoeStamp, base_size)),
            reserved: 0,
            base_hash: u64_at(stamp, offset_of!(IoeStamp, base_hash)),
        });
    let text = |at: usize, len: usize| -> String {
        let bytes = &raw[at..at + len];
        let end = bytes.iter().position(|byte| *byte == 0).unwrap_or(len);
        String::from_utf8_lossy(&bytes[..end]).into_owned()
    };
    let found = Descriptor {
        abi_major: u16_at(raw, offset_of!(IoeDescriptor, abi_major)),
        abi_minor: u16_at(raw, offset_of!(IoeDescriptor, abi_minor)),
        needs_minor: u16_at(raw, offset_of!(IoeDescriptor, needs_minor)),
        kinds: u32_at(raw, offset_of!(IoeDescriptor, kinds)),
        flags: u32_at(raw, offset_of!(IoeDescriptor, flags)),
        name: text(offset_of!(IoeDescriptor, name), 32),
        version: text(offset_of!(IoeDescriptor, version), 32),
        vendor: text(offset_of!(IoeDescriptor, vendor), 64),
        serves: text(offset_of!(IoeDescriptor, serves), 128),
        stamps: stamps.collect(),
    };
    // They go to logs and terminals.
    let texts = [&found.name, &found.version, &found.vendor, &found.serves];
    let odd = texts
        .into_iter()
        .find(|text| !text.chars().all(is_printable));
    if let Some(text) = odd {
        return Err(bad(format!("its text {text:?} does not print")));
    }
    Ok(found)
}
