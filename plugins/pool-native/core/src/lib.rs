//! The native pool without I/O: what is written where and when, what a read means, and what a crash leaves.
//!
//! Decides everything `docs/disk-format.md` §5 and §6 say. A driver gives it host operations ([`Pool::submit`]), completions
//! ([`Pool::handle_done`]) and time ([`Pool::handle_time`]), and takes device requests ([`Pool::poll_request`]) and answers ([`Pool::poll_answer`]).
//! Does not touch payload: host data stays in the driver's buffers, and its CRC-32C comes in as a value.
//!
//! Invariants (the driver keeps the first two):
//! - A request is executed in any order with those outstanding; its completion is reported exactly once.
//! - A flush request makes durable what was reported complete before the request was taken.
//! - A block is written in place, and a freed block reused, only when its record is settled (§1).
//! - A checkpoint's root is written only after a flush that covers everything it names.
//!
//! Follows `docs/disk-format.md`, version 1.

#![forbid(unsafe_code)]

mod admit;
mod api;
mod check;
mod checkpoint;
mod claim;
mod create;
mod device;
mod fault;
mod flush;
mod grow;
mod journal;
mod leave;
mod moving;
mod nodes;
mod objects;
mod open;
mod overlay;
mod part;
mod pool;
mod quarantine;
mod read;
mod region;
mod relocate;
mod replay;
mod reserve;
mod sane;
mod scrub;
mod space;
mod tables;
mod tree;
mod unmap;
mod write;

pub use api::{
    Answer, DeviceError, DeviceOp, Done, DoneResult, HostOp, Leaving, Limits, Mutation, NewDisk,
    PoolError, Request, Scrubbed, Source, Status, Tag, Target,
};
pub use check::{Blocks, check};
pub use claim::{Claimant, Holder};
pub use create::{CreateDisk, CreatePool, CreateWrite, plan_create};
pub use fault::{CheckReport, Fault, Fix};
pub use pool::Pool;
