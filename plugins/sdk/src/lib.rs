//! What a plugin author sees: the contracts of devices and fabrics, and the operations a reactor lends.
//!
//! A plugin implements [`block::DeviceDriver`] (block devices by URI scheme) or [`fabric::Fabric`] (an NVMe-oF
//! transport). It owns no thread and makes no blocking call on the data path: files, sockets, buffers and time are lent
//! by the reactor that runs it, through [`host::Host`].
//!
//! Invariants every implementation may rely on and must keep:
//! - An object is used by one reactor only; nothing here is called concurrently.
//! - A [`buf::Buf`] has one owner. Handed to an operation, it belongs to that operation until its completion.
//! - Submission never blocks; each submitted operation completes exactly once.
//! - No value a device, a file or a peer may hold makes an implementation panic.

pub mod block;
pub mod buf;
pub mod fabric;
pub mod host;
pub mod memory;
pub mod text;
pub mod uri;
