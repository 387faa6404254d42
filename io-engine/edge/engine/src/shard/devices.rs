//! The devices of one shard, by slot. A slot is the target's [`DeviceKey`] and the reactor's [`OwnerId`].

use std::time::Instant;

use block::{BlockDevice, DeviceConfig, InflightIo, IoStats, Request, Stamps};
use nvme_target::DeviceKey;
use sdk::block::{Capabilities, Geometry, IoError, IoResult, Queue, QueueSeed, Submitted};
use sdk::host::{FileDone, Host, OwnerId};
use units::BlockRange;

/// What a device needs to work on a shard.
pub(crate) struct DeviceSetup {
    pub(crate) seed: Box<dyn QueueSeed>,
    pub(crate) geometry: Geometry,
    pub(crate) capabilities: Capabilities,
    pub(crate) config: DeviceConfig,
}

struct Slot {
    device: BlockDevice,
    geometry: Geometry,
    lends_reads: bool,
    /// Listed in `active`.
    is_active: bool,
}

/// See the module documentation.
#[derive(Default)]
pub(super) struct Devices {
    slots: Vec<Option<Slot>>,
    /// Slots that may have completions or deadlines; a device leaves when it is idle.
    active: Vec<usize>,
}

impl Devices {
    /// Opens a device; the key names it from here on.
    ///
    /// # Errors
    /// What the device answers.
    pub(super) fn open(
        &mut self,
        host: &mut dyn Host,
        setup: DeviceSetup,
    ) -> Result<DeviceKey, IoError> {
        let free = self
            .slots
            .iter()
            .position(Option::is_none)
            .unwrap_or_else(|| {
                self.slots.push(None);
                self.slots.len() - 1
            });
        let queue: Box<dyn Queue> = setup.seed.open(host, OwnerId(free as u32))?;
        let device = BlockDevice::new(queue, setup.geometry, setup.capabilities, setup.config);
        self.slots[free] = Some(Slot {
            device,
            geometry: setup.geometry,
            lends_reads: setup.capabilities.lends_reads,
            is_active: false,
        });
        Ok(DeviceKey(free as u32))
    }

    /// Closes a device with nothing in flight; `false` if there is something.
    pub(super) fn close(&mut self, host: &mut dyn Host, key: DeviceKey) -> bool {
        let Some(slot) = self.slots.get_mut(key.0 as usize) else {
            return true;
        };
        if slot.as_ref().is_some_and(|slot| !slot.device.is_idle()) {
            return false;
        }
        if let Some(slot) = slot.take() {
            slot.device.close(host);
        }
        self.active.retain(|at| *at != key.0 as usize);
        true
    }

    /// Closes every device. One with I/O in flight is left to the reactor, which keeps its buffers until the kernel is
    /// done with them.
    pub(super) fn close_all(&mut self, host: &mut dyn Host) {
        for slot in self
            .slots
            .drain(..)
            .flatten()
            .filter(|slot| slot.device.is_idle())
        {
            slot.device.close(host);
        }
        self.active.clear();
    }

    /// Bytes of the buffer a read of `range` needs; `None` if the device lends its own or is gone.
    pub(super) fn read_buffer_len(&self, key: DeviceKey, range: BlockRange) -> Option<usize> {
        let slot = self.slots.get(key.0 as usize)?.as_ref()?;
        if slot.lends_reads {
            return None;
        }
        range
            .count
            .bytes(slot.geometry.block_size)
            .and_then(|bytes| usize::try_from(bytes).ok())
    }

    /// Starts a request; `tag` comes back with its completion.
    pub(super) fn submit(
        &mut self,
        host: &mut dyn Host,
        key: DeviceKey,
        tag: u64,
        request: Request,
        stamps: Stamps,
    ) -> Submitted {
        let Some(Some(slot)) = self.slots.get_mut(key.0 as usize) else {
            return Submitted::Done(Err(IoError::Gone));
        };
        let submitted = slot.device.submit(host, tag, request, stamps);
        if matches!(submitted, Submitted::Pending) || !slot.device.is_idle() {
            activate(slot, &mut self.active, key.0 as usize);
        }
        submitted
    }

    pub(super) fn handle_file_done(&mut self, host: &mut dyn Host, owner: OwnerId, done: FileDone) {
        if let Some(Some(slot)) = self.slots.get_mut(owner.0 as usize) {
            slot.device.handle_file_done(host, done);
            activate(slot, &mut self.active, owner.0 as usize);
        }
    }

    /// Another thread called for the device.
    pub(super) fn handle_wake(&mut self, host: &mut dyn Host, owner: OwnerId) {
        if let Some(Some(slot)) = self.slots.get_mut(owner.0 as usize) {
            slot.device.handle_wake(host);
            activate(slot, &mut self.active, owner.0 as usize);
        }
    }

    /// The next completion of any device.
    pub(super) fn poll_completion(&mut self, host: &mut dyn Host) -> Option<(u64, IoResult)> {
        let mut at = 0;
        while let Some(index) = self.active.get(at).copied() {
            let slot = self.slots[index].as_mut()?;
            if let Some(completion) = slot.device.poll_completion(host) {
                return Some(completion);
            }
            if slot.device.is_idle() {
                slot.is_active = false;
                self.active.swap_remove(at);
            } else {
                at += 1;
            }
        }
        None
    }

    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        self.active
            .iter()
            .filter_map(|at| self.slots[*at].as_ref())
            .filter_map(|slot| slot.device.poll_timeout())
            .min()
    }

    pub(super) fn handle_timeout(&mut self, now: Instant) {
        for at in &self.active {
            if let Some(slot) = self.slots[*at].as_mut() {
                slot.device.handle_timeout(now);
            }
        }
    }

    /// The host of these operations is gone.
    pub(super) fn orphan(&mut self, now: Instant, is_orphan: impl Fn(u64) -> bool) {
        for at in &self.active {
            if let Some(slot) = self.slots[*at].as_mut() {
                slot.device.orphan(now, &is_orphan);
            }
        }
    }

    /// Goes on with requests of several pieces and with those that wait for a buffer. Once a turn.
    pub(super) fn handle_turn(&mut self, host: &mut dyn Host) {
        for at in &self.active {
            if let Some(slot) = self.slots[*at].as_mut()
                && (slot.device.has_waiting() || slot.device.wants_turn())
            {
                slot.device.handle_turn(host);
            }
        }
    }

    /// Whether the next turn should come without sleeping.
    pub(super) fn wants_turn(&self) -> bool {
        self.active
            .iter()
            .filter_map(|at| self.slots[*at].as_ref())
            .any(|slot| slot.device.wants_turn())
    }

    pub(super) fn set_geometry(&mut self, now: Instant, key: DeviceKey, geometry: Geometry) {
        if let Some(Some(slot)) = self.slots.get_mut(key.0 as usize) {
            slot.geometry = geometry;
            slot.device.set_geometry(now, geometry);
        }
    }

    pub(super) fn stats(&self, key: DeviceKey) -> Option<IoStats> {
        Some(*self.slots.get(key.0 as usize)?.as_ref()?.device.stats())
    }

    pub(super) fn reset_stats(&mut self) {
        for slot in self.slots.iter_mut().flatten() {
            slot.device.reset_stats();
        }
    }

    /// I/O in flight, by device.
    pub(super) fn inflight(&self) -> impl Iterator<Item = (DeviceKey, InflightIo)> {
        self.slots
            .iter()
            .enumerate()
            .filter_map(|(at, slot)| slot.as_ref().map(|slot| (at, slot)))
            .flat_map(|(at, slot)| {
                slot.device
                    .inflight()
                    .map(move |io| (DeviceKey(at as u32), io))
            })
    }
}

fn activate(slot: &mut Slot, active: &mut Vec<usize>, at: usize) {
    if !slot.is_active {
        slot.is_active = true;
        active.push(at);
    }
}
