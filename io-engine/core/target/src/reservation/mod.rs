//! Reservations of a namespace (Base 2.0c §8.19): who is registered, who holds, what that allows, and how commands change
//! it. [`commands`] connects this to the target.

mod commands;
mod persisted;
mod state;
#[cfg(test)]
mod tests;

pub(crate) use commands::Persists;
pub use persisted::{PersistedRegistrant, PersistedReservations, RecordProblem};
pub(crate) use state::Reservations;
