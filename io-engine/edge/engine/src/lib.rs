//! The engine: reactors, devices, subsystems and their state.

pub mod control;
pub mod metrics;
pub mod peers;
pub mod plane;
mod shard;
pub mod store;
