//! The fabric against the host role of the protocol core, over streams in memory.

mod capsules;
mod carrying;
mod ending;
mod support;
