//! The connection core against itself, against hostile peers, and its state matrix.

mod faults;
mod host_faults;
mod pair;
mod states;
mod support;
