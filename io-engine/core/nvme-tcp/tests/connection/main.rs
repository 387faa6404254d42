//! The connection core against itself, against hostile peers, and its state matrix.

mod faults;
mod host_faults;
mod pair;
mod stalls;
mod states;
mod support;
