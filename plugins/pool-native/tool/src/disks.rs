//! Files and block devices as disks, held so that no engine uses them meanwhile.

use std::fs::{File, OpenOptions};
use std::io::{self, Seek, SeekFrom};
use std::os::unix::fs::{FileExt, FileTypeExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use pool_core::{Blocks, Fix};
use pool_format::BLOCK;
use rustix::fs::{FlockOperation, OFlags, flock};

/// One disk.
pub(crate) struct Disk {
    pub(crate) path: PathBuf,
    pub(crate) blocks: u64,
    file: File,
}

/// The disks, in the order they were named.
pub(crate) struct Disks {
    pub(crate) all: Vec<Disk>,
}

impl Disks {
    /// Opens and claims them.
    ///
    /// # Errors
    /// A sentence naming the disk.
    pub(crate) fn open(paths: &[PathBuf], writes: bool) -> Result<Self, String> {
        let mut all = Vec::new();
        for path in paths {
            let disk = Disk::open(path, writes);
            all.push(disk.map_err(|error| format!("{}: {error}", path.display()))?);
        }
        Ok(Self { all })
    }

    /// Writes whole blocks.
    pub(crate) fn write(&self, disk: usize, block: u64, bytes: &[u8]) -> io::Result<()> {
        let disk = self.all.get(disk).ok_or(io::ErrorKind::NotFound)?;
        let is_inside = block + (bytes.len() / BLOCK) as u64 <= disk.blocks;
        if !is_inside {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        disk.file.write_all_at(bytes, block * BLOCK as u64)
    }

    /// Reads whole blocks.
    pub(crate) fn read(&self, disk: usize, block: u64, count: u32) -> io::Result<Vec<u8>> {
        let disk = self.all.get(disk).ok_or(io::ErrorKind::NotFound)?;
        if block.saturating_add(u64::from(count)) > disk.blocks {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        let mut bytes = vec![0; count as usize * BLOCK];
        disk.file.read_exact_at(&mut bytes, block * BLOCK as u64)?;
        Ok(bytes)
    }

    /// Makes what was written durable.
    pub(crate) fn sync(&self, disk: usize) -> io::Result<()> {
        let disk = self.all.get(disk).ok_or(io::ErrorKind::NotFound)?;
        disk.file.sync_data()
    }

    /// Writes good copies over bad ones.
    pub(crate) fn apply(&self, fixes: &[Fix]) -> io::Result<()> {
        for fix in fixes {
            self.write(fix.disk, fix.block, &fix.bytes)?;
        }
        (0..self.all.len()).try_for_each(|disk| self.sync(disk))
    }

    pub(crate) fn sizes(&self) -> Vec<u64> {
        self.all.iter().map(|disk| disk.blocks).collect()
    }
}

impl Blocks for Disks {
    fn sizes(&self) -> Vec<u64> {
        Self::sizes(self)
    }

    fn block(&mut self, disk: usize, block: u64) -> Option<Vec<u8>> {
        self.read(disk, block, 1).ok()
    }
}

impl Disk {
    fn open(path: &Path, writes: bool) -> io::Result<Self> {
        let is_device = std::fs::metadata(path)?.file_type().is_block_device();
        let mut options = OpenOptions::new();
        options.read(true).write(writes);
        if is_device {
            // Refused while mounted, or claimed by an engine.
            options.custom_flags(OFlags::EXCL.bits() as i32);
        }
        let mut file = options.open(path)?;
        let claim = if writes {
            FlockOperation::NonBlockingLockExclusive
        } else {
            FlockOperation::NonBlockingLockShared
        };
        flock(&file, claim).map_err(|_| io::Error::other("in use by another process"))?;
        let blocks = file.seek(SeekFrom::End(0))? / BLOCK as u64;
        Ok(Self {
            path: path.to_owned(),
            blocks,
            file,
        })
    }
}
