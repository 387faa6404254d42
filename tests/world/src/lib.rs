//! A world for the native pool: disks that lose power, tear, rot and answer in any order, a plain model of what a host may expect, and a driver
//! that plays random operations against both from one seed.
//!
//! Decides: what a device may do within the block contract (`docs/disk-format.md` §6), and what a reader may see after a cut. Knows nothing of
//! the pool's structures: the model is a list of values per block.
//!
//! A failure is a [`Failure`] that prints the line which plays it again.

#![forbid(unsafe_code)]

pub mod big;
pub mod cpu;
pub mod cuts;
pub mod disk;
pub mod faults;
pub mod forge;
pub mod huge;
pub mod model;
pub mod play;
pub mod rng;
pub mod world;

pub use play::{Failure, Plan, play};
pub use rng::Rng;
pub use world::World;
