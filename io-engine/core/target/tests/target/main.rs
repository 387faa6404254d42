//! Stories about the target as hosts see it, in virtual time and with a device in memory.

mod admin;
mod connect;
mod control;
mod fused;
mod hostile;
mod hosts;
mod io;
mod reservations;
mod world;
