//! A reactor against a real kernel, on each driver the machine has.

mod common;
mod figures;
mod files;
mod lent;
mod sleeping;
mod streams;
