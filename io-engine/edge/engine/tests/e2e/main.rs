//! The reactors end to end, over real sockets on loopback: data, live changes, hostile peers, restarts.

mod data_path;
mod from_files;
mod hostile;
mod live_changes;
mod restart;
mod support;
