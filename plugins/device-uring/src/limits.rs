//! Bounds of a file queue.

use std::time::Duration;

/// Operations in flight on one queue; one more is answered `Busy`.
pub(crate) const DEPTH: usize = 1024;

/// Log lines about I/O errors of one queue; further errors are counted by the engine only.
pub(crate) const ERROR_LINES_MAX: u32 = 32;

/// What a file or disk may want its memory aligned to for `O_DIRECT`: the alignment of every buffer.
pub(crate) const MEMORY_ALIGN_MAX: u32 = sdk::buf::BUF_ALIGN as u32;

/// How long a lock whose owner is gone is waited for.
pub(crate) const ORPHANED_LOCK_MAX: Duration = Duration::from_secs(5);

/// How long any other claim is waited for before it is believed. A child of this or another process has copies of its
/// descriptors between `fork` and `exec`, `losetup` claims a device for a moment while it looks for a free one, and udev's probes
/// do so while they look what is on it.
pub(crate) const PASSING_CLAIM_MAX: Duration = Duration::from_millis(300);

/// Pause between two looks at such a lock.
pub(crate) const ORPHANED_LOCK_PAUSE: Duration = Duration::from_millis(10);

// A slot number and the number of the sync fit a completion's 64 bits whatever the depth.
const _: () = assert!(DEPTH < u32::MAX as usize);
