//! What an open file or block device is like: size, block size, `O_DIRECT`, deallocation.
//!
//! Nothing here changes contents.

use std::fs::{self, File};
use std::io::{self, Seek, SeekFrom};
use std::os::unix::fs::FileExt;

use rustix::fs::{
    AtFlags, FallocateFlags, OFlags, StatxFlags, fallocate, fcntl_getfl, fcntl_setfl, fstatfs,
    ioctl_blksszget, major, minor, statx,
};
use sdk::block::{Geometry, OpenError, Support};
use sdk::buf::BUF_ALIGN;
use units::{BlockSize, Blocks};

use crate::claim::{Claimed, Kind, unsuitable};
use crate::limits::MEMORY_ALIGN_MAX;

/// File system types that keep files in memory, where `O_DIRECT` means nothing (statfs(2)).
const TMPFS_MAGIC: u64 = 0x0102_1994;
const RAMFS_MAGIC: u64 = 0x8584_58f6;

/// Size in bytes.
pub(crate) fn size_bytes(mut file: &File, kind: Kind) -> io::Result<u64> {
    match kind {
        Kind::File => Ok(file.metadata()?.len()),
        // A block device's metadata has no size; its end has a position.
        Kind::BlockDevice => file.seek(SeekFrom::End(0)),
    }
}

/// Size and block size. `wanted` is the block size asked for, if any.
pub(crate) fn geometry(
    path: &str,
    claimed: &Claimed,
    wanted: Option<BlockSize>,
) -> Result<Geometry, OpenError> {
    let system = |source| OpenError::System {
        what: format!("size of {path}"),
        source,
    };
    let block_size = match claimed.kind {
        Kind::File => wanted.unwrap_or(BlockSize::B512),
        Kind::BlockDevice => {
            let logical = ioctl_blksszget(&claimed.file).map_err(|errno| system(errno.into()))?;
            block_size_of_disk(path, logical, wanted)?
        }
    };
    let bytes = size_bytes(&claimed.file, claimed.kind).map_err(system)?;
    if bytes == 0 {
        let reason = match claimed.kind {
            Kind::File => "is empty; give it a size first, e.g. truncate -s 10G",
            Kind::BlockDevice => {
                "has no size; check that a medium, or the file of a loop device, is attached"
            }
        };
        return Err(unsuitable(path, reason));
    }
    check_whole_blocks(path, bytes, block_size)?;
    Ok(Geometry {
        block_size,
        blocks: Blocks::from_bytes_floor(bytes, block_size),
    })
}

/// Size of a file that is served with `served`, looked at again. What is refused here is what an open would refuse: a
/// size taken over must still be one after a restart.
pub(crate) fn new_geometry(
    path: &str,
    file: &File,
    kind: Kind,
    served: Geometry,
) -> Result<Geometry, OpenError> {
    let bytes = size_bytes(file, kind).map_err(|source| OpenError::System {
        what: format!("size of {path}"),
        source,
    })?;
    if bytes == 0 {
        let size = served.bytes();
        let lost = match kind {
            Kind::File => format!(
                "is empty, and what it held is gone; the device keeps its size of {size} bytes, and reads fail \
                 until the file has that size again: truncate -s {size}"
            ),
            Kind::BlockDevice => format!(
                "has no size; the device keeps its {size} bytes: check that a medium, or the file of a loop \
                 device, is attached"
            ),
        };
        return Err(unsuitable(path, lost));
    }
    check_whole_blocks(path, bytes, served.block_size)?;
    Ok(Geometry {
        blocks: Blocks::from_bytes_floor(bytes, served.block_size),
        ..served
    })
}

fn check_whole_blocks(path: &str, bytes: u64, block_size: BlockSize) -> Result<(), OpenError> {
    let rest = bytes % u64::from(block_size.bytes());
    if rest == 0 {
        return Ok(());
    }
    let whole = bytes - rest + u64::from(block_size.bytes());
    let reason = format!(
        "its size of {bytes} bytes is not a multiple of the block size {}; make it one, e.g. truncate -s {whole}",
        block_size.bytes()
    );
    Err(unsuitable(path, reason))
}

pub(crate) fn block_size_of_disk(
    path: &str,
    logical: u32,
    wanted: Option<BlockSize>,
) -> Result<BlockSize, OpenError> {
    let Some(own) = BlockSize::from_bytes(logical) else {
        let reason = format!("has blocks of {logical} bytes; only 512 and 4096 are served");
        return Err(unsuitable(path, reason));
    };
    match wanted {
        Some(wanted) if wanted < own => {
            let reason = format!("has blocks of {logical} bytes; leave out blk_size");
            Err(unsuitable(path, reason))
        }
        wanted => Ok(wanted.unwrap_or(own)),
    }
}

/// Whether `O_DIRECT` works for blocks of this size, or why not.
pub(crate) fn check_direct(claimed: &Claimed, block_size: BlockSize) -> Result<(), String> {
    if !claimed.direct {
        return Err("the file system refuses O_DIRECT".to_owned());
    }
    let magic = fstatfs(&claimed.file).map(|fs| fs.f_type as u64);
    if claimed.kind == Kind::File && matches!(magic, Ok(TMPFS_MAGIC | RAMFS_MAGIC)) {
        return Err("the file system keeps files in memory".to_owned());
    }
    if let Ok(facts) = statx(&claimed.file, "", AtFlags::EMPTY_PATH, StatxFlags::DIOALIGN)
        && StatxFlags::from_bits_retain(facts.stx_mask).contains(StatxFlags::DIOALIGN)
    {
        check_alignment(
            facts.stx_dio_mem_align,
            facts.stx_dio_offset_align,
            block_size,
        )?;
    }
    // Kernels before 6.1 do not tell, and some file systems never do: try. The second block shows whether single
    // blocks may be addressed.
    let len = block_size.bytes() as usize;
    let mut area = vec![0; len + BUF_ALIGN];
    let start = area.as_ptr().align_offset(BUF_ALIGN).min(BUF_ALIGN);
    match claimed
        .file
        .read_at(&mut area[start..start + len], len as u64)
    {
        Err(error) if error.kind() == io::ErrorKind::InvalidInput => Err(format!(
            "the disk below does not transfer single blocks of {len} bytes"
        )),
        _ => Ok(()),
    }
}

/// Compares what statx(2) says with what the engine does: `memory` and `offset` alignment in bytes, 0 for "never".
pub(crate) fn check_alignment(
    memory: u32,
    offset: u32,
    block_size: BlockSize,
) -> Result<(), String> {
    if memory == 0 || offset == 0 {
        return Err("the file system does no O_DIRECT on this file".to_owned());
    }
    if memory > MEMORY_ALIGN_MAX {
        return Err(format!("it needs memory aligned to {memory} bytes"));
    }
    if offset > block_size.bytes() {
        let block = block_size.bytes();
        return Err(format!(
            "it needs transfers of {offset} bytes, and the block size is {block} (blk_size={offset} may help)"
        ));
    }
    Ok(())
}

/// Takes `O_DIRECT` off the open file.
pub(crate) fn clear_direct(path: &str, file: &File) -> Result<(), OpenError> {
    fcntl_getfl(file)
        .and_then(|flags| fcntl_setfl(file, flags - OFlags::DIRECT))
        .map_err(|errno| OpenError::System {
            what: format!("take O_DIRECT off {path}"),
            source: errno.into(),
        })
}

/// What can be said beforehand about (write zeroes, discard).
pub(crate) fn clearing(claimed: &Claimed, geometry: Geometry) -> (Support, Support) {
    match claimed.kind {
        Kind::File => {
            // A hole behind the end changes nothing, and shows whether the file system has holes.
            let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
            let len = u64::from(geometry.block_size.bytes());
            match fallocate(&claimed.file, flags, geometry.bytes(), len) {
                Ok(()) => (Support::Native, Support::Native),
                Err(_) => (Support::None, Support::None),
            }
        }
        // The kernel zeroes every disk, by writing if need be; deallocating needs the disk's own command.
        Kind::BlockDevice if write_zeroes_bytes_max(claimed) > 0 => {
            (Support::Native, Support::Native)
        }
        Kind::BlockDevice => (Support::Emulated, Support::None),
    }
}

/// Whether the kernel lets nobody write the disk; it finds that out only when one writes, not when one opens.
pub(crate) fn is_read_only(claimed: &Claimed) -> bool {
    let number = claimed.stat.st_rdev;
    let place = format!("/sys/dev/block/{}:{}/ro", major(number), minor(number));
    let text = fs::read_to_string(place).unwrap_or_default();
    claimed.kind == Kind::BlockDevice && text.trim() == "1"
}

fn write_zeroes_bytes_max(claimed: &Claimed) -> u64 {
    let number = claimed.stat.st_rdev;
    let place = format!("/sys/dev/block/{}:{}", major(number), minor(number));
    // A partition has no queue of its own; its disk, one level up, has.
    ["queue", "../queue"]
        .iter()
        .find_map(|queue| {
            fs::read_to_string(format!("{place}/{queue}/write_zeroes_max_bytes")).ok()
        })
        .and_then(|text| text.trim().parse().ok())
        .unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn direct_needs_what_single_blocks_offer() {
        use BlockSize::{B512, B4096};
        assert!(check_alignment(512, 512, B512).is_ok());
        assert!(check_alignment(4096, 4096, B4096).is_ok());
        assert!(check_alignment(4, 512, B4096).is_ok());
        let larger = check_alignment(512, 4096, B512).unwrap_err();
        assert!(larger.contains("blk_size=4096"), "{larger}");
        assert!(check_alignment(0, 0, B4096).is_err());
        assert!(check_alignment(8192, 512, B512).is_err());
    }

    #[test]
    fn a_disks_own_block_size_is_taken_and_smaller_ones_refused() {
        use BlockSize::{B512, B4096};
        let size = |logical, wanted| block_size_of_disk("/d", logical, wanted).ok();
        assert_eq!(size(512, None), Some(B512));
        assert_eq!(size(4096, None), Some(B4096));
        assert_eq!(size(512, Some(B4096)), Some(B4096));
        assert_eq!(size(4096, Some(B512)), None);
        assert_eq!(size(520, None), None);
    }
}
