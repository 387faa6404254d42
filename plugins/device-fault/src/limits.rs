//! Bounds of the fault device.

use std::time::Duration;

/// Most rules of a device; one more is refused.
pub(crate) const RULES_MAX: usize = 64;

/// Longest text of one rule, in bytes; a longer one is refused.
pub(crate) const RULE_TEXT_MAX: usize = 1024;

/// Longest command, in bytes; a longer one is refused. A command carries one rule, which may be a URI.
pub(crate) const COMMAND_TEXT_MAX: usize = 4096;

/// Longest name of a device, in bytes; a longer one is refused.
pub(crate) const NAME_LEN_MAX: usize = 255;

/// Longest delay, and longest jitter, a rule may ask for; a longer one is refused.
pub(crate) const DELAY_MAX: Duration = Duration::from_secs(3600);

/// Most operations a queue holds back (delayed or stuck); further ones are not held but go on at once.
pub(crate) const HELD_MAX: usize = 4096;

/// How often a queue that holds operations looks whether a command lets them go.
pub(crate) const LOOK_INTERVAL: Duration = Duration::from_millis(10);

/// Most bits of one block that are flipped by a rule; more are refused. All bits of the smallest block.
pub(crate) const ROT_BITS_MAX: u32 = 4096;

/// Default of `overlay_mb`, in MiB.
pub(crate) const OVERLAY_MB: u64 = 64;

/// Largest `overlay_mb`, in MiB.
pub(crate) const OVERLAY_MB_MAX: u64 = 1024;

/// Most separate runs of blocks in an overlay. At this, or at `overlay_mb`, a write is not lost but written through; one that
/// overlaps what the overlay holds is answered `Busy`.
pub(crate) const OVERLAY_RUNS_MAX: usize = 65_536;

/// Most bytes a flush writes out of the overlay at once: one buffer of the reactor's.
pub(crate) const WRITEBACK_BYTES_MAX: u64 = 256 << 10;

// A block of either size fits one piece.
const _: () = assert!(WRITEBACK_BYTES_MAX.is_multiple_of(4096));
const _: () = assert!(ROT_BITS_MAX as usize == 512 * 8);
const _: () = assert!(RULE_TEXT_MAX < COMMAND_TEXT_MAX);
