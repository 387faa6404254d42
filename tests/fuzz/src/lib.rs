//! The fuzz harnesses, one module per target: what an input's bytes do to the code under test, and what must hold after.
//!
//! Does: turns any bytes into calls, and panics when an oracle is broken; each module's head states its oracle.
//! Does not: choose inputs. libFuzzer does (`fuzz_targets/`), or the committed corpus and a seeded generator
//! (`tests/replay.rs`).
//!
//! Invariants:
//! - one input, one run: nothing survives a call of `run`, and only differences of the clock matter;
//! - the meaning of an input changes only together with its committed corpus.

#![forbid(unsafe_code)]

pub mod config;
pub mod device_uri;
pub mod nvme_spec;
pub mod nvme_tcp_controller;
pub mod nvme_tcp_host;
pub mod pdu_parse;
pub mod plugin_elf;
pub mod pool_format;
pub mod pool_image;
mod stream;
pub mod target;
