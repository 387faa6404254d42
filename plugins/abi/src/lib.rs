//! The binary contract between the engine and its plugins, as tables of function pointers and the values they carry.
//!
//! Declares layouts and numbers, nothing else: no function of this crate does anything at run time. What the calls mean
//! (ownership, threads, order, errors, what may change) is `docs/plugin-abi.md`; a Rust author uses `plugins/sdk`, a C
//! author `include/io_engine_plugin.h`, which is generated from this source.
//!
//! Invariants:
//! - Every type is `repr(C)` and made of integers, raw pointers, arrays and such structs. `Option` stands only round a
//!   function pointer, where the language guarantees that `None` is null: a table is read before it is checked.
//! - A table, and a value that may grow, begins with its size in bytes; fields are only ever appended within a major
//!   version. Sizes, offsets and hashes are pinned in `pins.rs`, which is generated and asserted at compile time.
//! - Pointers are 64 bits wide.
//!
//! References: System V gABI (ELF notes), generic ABI of the platform for `repr(C)`.

#![no_std]
#![forbid(unsafe_code)]

mod descriptor;
mod device;
mod export;
mod fabric;
mod host;
mod numbers;
#[cfg(not(feature = "unpinned"))]
mod pins;
mod pool;
mod root;
mod value;

pub use descriptor::*;
pub use device::*;
pub use export::*;
pub use fabric::*;
pub use host::*;
pub use numbers::*;
#[cfg(not(feature = "unpinned"))]
pub use pins::*;
pub use pool::*;
pub use root::*;
pub use value::*;

const _: () = assert!(
    size_of::<usize>() == 8,
    "the contract is for 64-bit systems"
);
