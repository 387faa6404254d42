//! What goes into and comes out of a pool.

use core::fmt;

use pool_format::{Malformed, Uuid};

/// Names a host operation; chosen by the driver, given back with the answer.
pub type Tag = u64;

/// Bounds of memory and time. All are kept.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Operations taken at once; more are answered [`PoolError::Busy`].
    pub operations_max: usize,
    /// Changes held in the overlay before a checkpoint begins; writes wait at twice as many.
    pub overlay_max: usize,
    /// Tree nodes kept in memory, 4 KiB each.
    pub nodes_max: usize,
    /// Integrity pages of sealed regions kept in memory, 4 KiB each.
    pub pages_max: usize,
    /// Regions open at once, 4 KiB each; another first write waits until some are sealed.
    pub regions_open_max: usize,
    /// Longest time between a change and the pool's own flush, in milliseconds.
    pub flush_interval_ms: u64,
    /// How long a write waits for space before it fails, in milliseconds.
    pub space_wait_ms: u64,
    /// Maps based on each other before a checkpoint is forced.
    pub bases_max: usize,
    /// Free slabs only metadata may take; at least 2.
    pub reserve_slabs: u32,
    /// Discards passed on to devices at once; 0 passes none on.
    pub discards_max: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            operations_max: 256,
            overlay_max: 16_384,
            nodes_max: 40_960,
            pages_max: 8192,
            regions_open_max: 1024,
            flush_interval_ms: 1000,
            space_wait_ms: 5000,
            bases_max: 8,
            reserve_slabs: 8,
            discards_max: 4,
        }
    }
}

/// What a host or the control plane asks for. Ranges are in blocks of 4096 bytes.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum HostOp {
    /// Reads; data arrives by [`DeviceOp::Read`] requests into the operation's buffer.
    Read {
        /// The replica or snapshot.
        object: u64,
        /// First block.
        block: u64,
        /// Blocks.
        count: u32,
    },
    /// Writes the operation's buffer.
    Write {
        /// The replica.
        object: u64,
        /// First block.
        block: u64,
        /// CRC-32C of each block, taken from memory nobody changes until the answer.
        crcs: Vec<u32>,
        /// Answered only when it is durable.
        fua: bool,
    },
    /// Writes some sectors of 512 bytes of one block. The operation's buffer is that block, zero around them; what lies there already is read
    /// into the rest of it by a [`Target::Merge`].
    WritePart {
        /// The replica.
        object: u64,
        /// The block.
        block: u64,
        /// First sector, 0 to 7.
        first: u8,
        /// Sectors, at least 1.
        count: u8,
        /// CRC-32C of the buffer as it is handed in.
        crc: u32,
        /// Answered only when it is durable.
        fua: bool,
    },
    /// Makes blocks read as zero and gives their space back: discard and write zeroes alike.
    Unmap {
        /// The replica.
        object: u64,
        /// First block.
        block: u64,
        /// Blocks.
        count: u64,
    },
    /// Makes everything answered before durable.
    Flush,
    /// Creates a replica.
    Create {
        /// Its UUID.
        uuid: Uuid,
        /// Its name, at most 128 bytes.
        name: String,
        /// Size in blocks.
        size: u64,
        /// Whether its whole size is set aside, so that a write to it never fails for lack of space.
        is_thick: bool,
        /// log2 of its logical block in bytes, 9 or 12; with 9 it takes [`HostOp::WritePart`].
        block_shift: u8,
    },
    /// Takes a snapshot of a replica.
    Snapshot {
        /// The replica.
        object: u64,
        /// UUID of the snapshot.
        uuid: Uuid,
        /// Its name.
        name: String,
    },
    /// Creates a replica that starts as a snapshot.
    Clone {
        /// The snapshot.
        object: u64,
        /// UUID of the clone.
        uuid: Uuid,
        /// Its name.
        name: String,
    },
    /// Deletes a replica or snapshot; answered when that is durable, space returns later.
    Delete {
        /// Which.
        object: u64,
    },
    /// Changes the size of a replica; what is cut off is unmapped first.
    Resize {
        /// The replica.
        object: u64,
        /// New size in blocks.
        size: u64,
    },
    /// Runs a checkpoint, answered when its root is durable.
    Checkpoint,
    /// Seals every idle open region.
    Seal,
    /// Where a replica or snapshot has data: the run of blocks from `block` on that are all held, or all holes.
    Extent {
        /// The replica or snapshot.
        object: u64,
        /// First block.
        block: u64,
    },
    /// Compares the blocks in use of one region with their checks: the first region from this one on that has any.
    Scrub {
        /// Number of the region.
        from: u64,
    },
    /// Adds a disk to the pool.
    AddDisk(NewDisk),
    /// Takes into use what a disk has become larger by.
    GrowDisk {
        /// Number of the disk in the pool.
        disk: u16,
        /// Its size in blocks from here on.
        blocks: u64,
    },
    /// Marks a disk as leaving, and moves the next slab that lies on it to another: answered with what is left there. Asked again and again, at the
    /// driver's own pace, until nothing is; also after a crash, which costs no more than the slab that was on its way.
    Evacuate {
        /// Number of the disk in the pool.
        disk: u16,
    },
    /// Takes a disk that was leaving back into service.
    KeepDisk {
        /// Number of the disk in the pool.
        disk: u16,
    },
    /// Removes a disk that is leaving and that nothing is left on. When it is answered, the disk is none of the pool's, and nothing is in flight there.
    RemoveDisk {
        /// Number of the disk in the pool.
        disk: u16,
    },
    /// Gives the disks back: everything is flushed and the claims say so, and nothing more is taken.
    Release,
    /// Moves the second copy of the next metadata slab of which both copies lie on one disk to another: answered with how many are left.
    Double,
}

/// A disk on its way out.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Leaving {
    /// Number of the disk in the pool.
    pub disk: u16,
    /// Slabs that still lie on it.
    pub slabs: u32,
    /// Of the slab on its way off it, the blocks that are copied.
    pub copied: u64,
}

/// A disk to be added. What is on it is lost.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct NewDisk {
    /// Its position in the driver's list, one no disk of the pool has.
    pub position: usize,
    /// UUID it gets.
    pub uuid: Uuid,
    /// Its size in blocks.
    pub blocks: u64,
    /// What it writes whole or not at all, in bytes.
    pub atomic_unit: u32,
}

/// What a scrub of one region found.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Scrubbed {
    /// The region; `None` when there was none left.
    pub region: Option<u64>,
    /// Where to go on.
    pub next: u64,
    /// Blocks that hold what their check says.
    pub verified: u32,
    /// Blocks in use without a check.
    pub unverified: u32,
    /// Blocks that were written in all the time and are left for the next time.
    pub busy: u32,
    /// Addresses of blocks that cannot be read, or hold something else.
    pub bad: Vec<u64>,
}

/// How an operation ended well.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Answer {
    /// Done.
    Done,
    /// Read. The driver zeroes `holes` (first block and count in the buffer); `unverified` blocks had no check to compare with.
    Read {
        /// Ranges that read as zero.
        holes: Vec<(u32, u32)>,
        /// Blocks nobody could check.
        unverified: u32,
    },
    /// The new object's id.
    Created {
        /// The id.
        object: u64,
    },
    /// A run of blocks.
    Extent {
        /// How many.
        len: u64,
        /// Where the first one lies; `None` for a hole.
        address: Option<u64>,
    },
    /// A region was scrubbed.
    Scrubbed(Scrubbed),
    /// A slab was moved, or none was left to be.
    Moved {
        /// Slabs left to be moved.
        left: u32,
    },
}

/// Why an operation failed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum PoolError {
    /// Beyond the end of the object, or empty.
    OutOfRange,
    /// No such object, or it is being deleted.
    NoSuchObject,
    /// A snapshot cannot be written.
    ReadOnly,
    /// No space, also after waiting.
    NoSpace,
    /// A block fails its check or cannot be read: first block and count in the object.
    Medium {
        /// First block.
        block: u64,
        /// Blocks.
        count: u64,
    },
    /// The map of the object cannot be read in either copy.
    MapUnreadable,
    /// A device failed a write.
    Device,
    /// Too many operations at once.
    Busy,
    /// Name or attributes too long, or a size of 0.
    Invalid,
    /// No valid pool on these disks.
    NoPool,
    /// The pool was opened for reading only.
    OpenedReadOnly,
    /// A disk is missing; its number.
    MissingDisk(u16),
    /// Metadata fails its checks in every copy, or something newer says it should be there.
    Damaged(&'static str),
    /// A structure on disk means nothing.
    Malformed(Malformed),
    /// The pool stopped after an error of a metadata write or a flush.
    Faulted,
    /// There is not enough room elsewhere for what lies on a disk; both in blocks.
    NoRoom {
        /// What it takes, whole slabs.
        needed: u64,
        /// What is free on other disks and set aside for nothing else.
        free: u64,
    },
    /// A disk is not leaving, or so many slabs still lie on it.
    DiskInUse(u32),
    /// Another engine holds the disks.
    Held(crate::claim::Holder),
    /// The disks were given back.
    Released,
    /// A block in use cannot be read: it would look whole where it is moved to. Its address.
    Unreadable(u64),
}

impl fmt::Display for PoolError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::OutOfRange => write!(f, "out of range"),
            Self::NoSuchObject => write!(f, "no such replica or snapshot"),
            Self::ReadOnly => write!(f, "a snapshot cannot be written"),
            Self::NoSpace => write!(f, "no space"),
            Self::Medium { block, count } => write!(f, "medium error at {block}+{count}"),
            Self::MapUnreadable => write!(f, "map unreadable in both copies"),
            Self::Device => write!(f, "device error"),
            Self::Busy => write!(f, "too many operations"),
            Self::Invalid => write!(f, "invalid"),
            Self::NoPool => write!(f, "no pool on these disks"),
            Self::OpenedReadOnly => write!(f, "the pool was opened for reading only"),
            Self::MissingDisk(index) => write!(f, "disk {index} is missing"),
            Self::Damaged(what) => write!(f, "damaged: {what}"),
            Self::Malformed(what) => write!(f, "malformed: {what}"),
            Self::Faulted => write!(f, "the pool stopped after a device error"),
            Self::NoRoom { needed, free } => write!(
                f,
                "what lies on the disk needs {needed} blocks elsewhere, {free} are free"
            ),
            Self::DiskInUse(0) => write!(f, "the disk is in service"),
            Self::DiskInUse(slabs) => write!(f, "{slabs} slabs lie on the disk"),
            Self::Held(holder) => {
                write!(f, "held by process {} on host ", holder.pid)?;
                let mut host = holder.host.iter();
                host.try_for_each(|byte| write!(f, "{byte:02x}"))
            }
            Self::Released => write!(f, "the disks were given back"),
            Self::Unreadable(address) => {
                write!(f, "block {address} is in use and cannot be read")
            }
        }
    }
}

impl std::error::Error for PoolError {}

/// Where a read goes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Target {
    /// To the core: complete with [`Done::Bytes`].
    Core,
    /// Into the buffer of a host operation, from this block of it on: complete with [`Done::Crcs`].
    Host {
        /// The operation.
        tag: Tag,
        /// First block of its buffer.
        at: u32,
    },
    /// Into the one block of an operation's buffer, except for `count` sectors of 512 bytes from `first` on: complete with [`Done::Merged`].
    Merge {
        /// The operation.
        tag: Tag,
        /// First sector that stays as it is.
        first: u8,
        /// Sectors that stay.
        count: u8,
    },
    /// Nowhere: complete with [`Done::Crcs`].
    Check,
}

/// Where a write comes from.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Source {
    /// These whole blocks.
    Core(Vec<u8>),
    /// The buffer of a host operation.
    Host {
        /// The operation.
        tag: Tag,
        /// First block of its buffer.
        at: u32,
        /// Blocks.
        count: u32,
    },
}

/// What a device is asked to do; blocks of 4096 bytes.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum DeviceOp {
    /// Read `count` blocks.
    Read {
        /// First block.
        block: u64,
        /// Blocks.
        count: u32,
        /// Where they go.
        target: Target,
    },
    /// Write.
    Write {
        /// First block.
        block: u64,
        /// What.
        source: Source,
    },
    /// Nobody needs the content of these blocks any more. A device that cannot discard says at once that it has.
    Discard {
        /// First block.
        block: u64,
        /// Blocks.
        count: u32,
    },
    /// Make completed writes durable.
    Flush,
}

/// One request to one disk.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Request {
    /// Names the request in [`crate::Pool::handle_done`].
    pub id: u64,
    /// Position of the disk in the list given to [`crate::Pool::open`].
    pub disk: usize,
    /// What.
    pub op: DeviceOp,
}

/// What a device answered.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Done {
    /// Written, discarded or flushed.
    Nothing,
    /// Bytes read.
    Bytes(Vec<u8>),
    /// CRC-32C of each block read.
    Crcs(Vec<u32>),
    /// CRC-32C of the block read, and of the buffer it was merged into.
    Merged {
        /// Of the block read.
        old: u32,
        /// Of the buffer.
        new: u32,
    },
}

/// How a device failed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum DeviceError {
    /// The range cannot be read or written.
    Medium,
    /// The device is gone.
    Gone,
}

/// Result of a device request.
pub type DoneResult = Result<Done, DeviceError>;

/// Where a pool stands.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Status {
    /// Reading labels, tables and the journal.
    Opening,
    /// Serving.
    Ready,
    /// Refused or stopped.
    Failed(PoolError),
}

/// Deliberate bugs, one at a time, to see that the power cuts of `tests/world` find them. A pool runs with `None`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Mutation {
    /// None: as it should be.
    None,
    /// A host's flush is answered without flushing devices.
    SkipHostFlush,
    /// The root is written without a flush before it.
    SkipRootBarrier,
    /// Freed blocks are reused at once.
    ReuseAtOnce,
    /// Freed blocks are reused while their discard is going on.
    ReuseBeforeDiscard,
    /// Blocks are written in place although their record is not settled.
    InPlaceUnsettled,
    /// Blocks are written in place before their region's open record is durable.
    InPlaceBeforeOpen,
    /// Blocks that a snapshot uses are written in place.
    InPlaceShared,
    /// Replay believes records above the mark without looking at the data.
    TrustTail,
    /// What replay drops is not recorded.
    SkipVoid,
    /// Regions open at a crash are taken for sealed.
    SkipAdoption,
    /// A seal record is written before page and data are durable.
    SealBeforePage,
    /// The journal is trimmed before the root is durable.
    TrimBeforeRoot,
    /// Displaced tree nodes are reused before the root is durable.
    ReuseNodesAtOnce,
    /// A checkpoint forgets which regions are open.
    ForgetOpenRegions,
    /// Frees of a displaced extent are not made when its record is replayed.
    ForgetDisplaced,
    /// A snapshot does not wait for writes in flight.
    SnapshotWithoutDrain,
    /// Displaced blocks of a snapshot are freed instead of listed.
    FreeShared,
    /// What is written to a slab on its way to another place goes to the old one alone.
    MoveWithoutMirror,
    /// A slab is exchanged when half of it is copied.
    ExchangeHalfCopied,
    /// Others take what is set aside for thick replicas.
    IgnoreReserve,
}
