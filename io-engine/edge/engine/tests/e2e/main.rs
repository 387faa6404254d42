//! The reactors end to end, over real sockets on loopback: data, live changes, hostile peers, restarts.

mod bench_disk;
mod data_path;
mod fault_status;
mod figures;
mod from_files;
mod hostile;
mod isolated;
mod isolation;
mod live_changes;
mod logs;
mod lost_devices;
mod memory;
mod nbd;
mod restart;
mod shares;
mod stalls;
mod support;
mod unread;
