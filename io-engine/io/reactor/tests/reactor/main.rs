//! A reactor against a real kernel, on each driver the machine has.

mod common;
mod figures;
mod files;
mod sleeping;
mod streams;
