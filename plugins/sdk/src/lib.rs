//! What a plugin author sees: the contracts of devices and fabrics, and the operations a reactor lends.
//!
//! A plugin implements [`block::DeviceDriver`] (block devices by URI scheme), [`fabric::Fabric`] (an NVMe-oF transport),
//! [`export::ExportDriver`] (another protocol over the engine's devices) or [`pool::PoolDriver`] (pools of volumes). It owns no thread and makes no blocking call on the data path: files, sockets, buffers and time are lent
//! by the reactor that runs it, through [`host::Host`]; other devices, a store, counters and the log by the engine, through
//! [`services::Services`].
//!
//! Invariants every implementation may rely on and must keep:
//! - An object is used by one reactor only; nothing here is called concurrently.
//! - A [`buf::Buf`] has one owner. Handed to an operation, it belongs to that operation until its completion.
//! - Submission never blocks; each submitted operation completes exactly once.
//! - No value a device, a file or a peer may hold makes an implementation panic.

pub use abi;
pub use units;

pub mod block;
pub mod bridge;
pub mod buf;
pub mod export;
pub mod fabric;
pub mod host;
pub mod memory;
pub mod plugin;
pub mod pool;
pub mod services;
pub mod text;
pub mod uri;
