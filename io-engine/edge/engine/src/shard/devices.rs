//! The devices of one shard, by place. A place is the target's [`DeviceKey`] and the reactor's [`OwnerId`].
//!
//! A place whose device was taken out to be opened again stays reserved: its key goes on to name that device and no other, and
//! I/O on it is answered `Gone`.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use block::{
    BlockDevice, CountedOp, DeviceConfig, Health, InflightIo, IoStats, Request, Stamps, Tally,
};
use nvme_target::DeviceKey;
use sdk::block::{Capabilities, Extent, Geometry, IoError, IoResult, Queue, QueueSeed, Submitted};
use sdk::host::{FileDone, Host, OwnerId};
use units::BlockRange;

/// What a device needs to work on a shard.
pub(crate) struct DeviceSetup {
    pub(crate) seed: Box<dyn QueueSeed>,
    pub(crate) geometry: Geometry,
    pub(crate) capabilities: Capabilities,
    pub(crate) config: DeviceConfig,
}

/// A device that was opened: what names it on its shard, and whether it is well.
pub(crate) type Placed = (DeviceKey, Arc<Health>);

enum Place {
    Free,
    /// Its device is being opened again.
    Reserved(Loss),
    Open(Box<Slot>),
}

/// What hosts have to be told of a device that was lost and opened again.
///
/// Writes acknowledged before may be gone with the cache they were in. A host that asks for them to be made durable is told so
/// by a flush that fails, once: the next would succeed, and a flush that succeeds promises that nothing before it is lost.
#[derive(Default)]
struct Loss {
    /// There were such writes.
    is_due: bool,
    /// Host NQNs that had a flush failed since.
    told: Told,
}

/// Host NQNs, the latest last.
#[derive(Clone, Default)]
struct Told(VecDeque<String>);

impl Told {
    /// Adds a host. Tells whether it was not there.
    fn add(&mut self, host: &str) -> bool {
        if self.0.iter().any(|told| told == host) {
            return false;
        }
        if self.0.len() == TOLD_MAX {
            self.0.pop_front();
        }
        self.0.push_back(host.to_owned());
        true
    }
}

/// Hosts remembered as told of a loss; one that is forgotten for a newer one is told again.
const TOLD_MAX: usize = 1024;

struct Slot {
    device: BlockDevice,
    geometry: Geometry,
    lends_reads: bool,
    /// Listed in `active`.
    is_active: bool,
    /// Listed in `behind`.
    is_behind: bool,
    /// Commands of hosts, from their reception to their answer.
    commands: Tally,
    /// The loss before this device was opened.
    loss: Loss,
    /// Hosts that had a flush failed because this device is lost.
    told: Told,
}

/// See the module documentation.
#[derive(Default)]
pub(super) struct Devices {
    places: Vec<Place>,
    /// Places that may have completions or deadlines; a device leaves when it is idle.
    active: Vec<usize>,
    /// Places where something ended in this turn, to be counted with its length.
    behind: Vec<usize>,
    /// Operations answered while their device has them, of which nobody was told.
    expired: Vec<(DeviceKey, u64)>,
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
    ) -> Result<Placed, IoError> {
        let is_free = |place: &Place| matches!(place, Place::Free);
        let free = self.places.iter().position(is_free).unwrap_or_else(|| {
            self.places.push(Place::Free);
            self.places.len() - 1
        });
        self.open_at(host, free, setup, Loss::default())
    }

    /// Opens a device at the place that [`Devices::take_out`] reserved for it.
    ///
    /// # Errors
    /// What the device answers; `Gone` if the place is not reserved.
    pub(super) fn put_back(
        &mut self,
        host: &mut dyn Host,
        key: DeviceKey,
        setup: DeviceSetup,
    ) -> Result<Placed, IoError> {
        match self.places.get_mut(key.0 as usize) {
            Some(Place::Reserved(loss)) => {
                let loss = std::mem::take(loss);
                self.open_at(host, key.0 as usize, setup, loss)
            }
            Some(Place::Free | Place::Open(_)) | None => Err(IoError::Gone),
        }
    }

    fn open_at(
        &mut self,
        host: &mut dyn Host,
        at: usize,
        setup: DeviceSetup,
        loss: Loss,
    ) -> Result<Placed, IoError> {
        let queue: Box<dyn Queue> = match setup.seed.open(host, OwnerId(at as u32)) {
            Ok(queue) => queue,
            Err(error) => {
                if let Place::Reserved(kept) = &mut self.places[at] {
                    *kept = loss;
                }
                return Err(error);
            }
        };
        let device = BlockDevice::new(queue, setup.geometry, setup.capabilities, setup.config);
        let health = device.health();
        self.places[at] = Place::Open(Box::new(Slot {
            device,
            geometry: setup.geometry,
            lends_reads: setup.capabilities.lends_reads,
            is_active: false,
            is_behind: false,
            commands: Tally::default(),
            loss,
            told: Told::default(),
        }));
        Ok((DeviceKey(at as u32), health))
    }

    /// Closes a device with nothing in flight; `false` if there is something.
    pub(super) fn close(&mut self, host: &mut dyn Host, key: DeviceKey) -> bool {
        let closed = self.leave(host, key, |_| Place::Free);
        if let Some(place @ Place::Reserved(_)) = self.places.get_mut(key.0 as usize) {
            *place = Place::Free;
        }
        closed
    }

    /// Closes a device with nothing in flight and keeps its place; `false` if there is something.
    pub(super) fn take_out(&mut self, host: &mut dyn Host, key: DeviceKey) -> bool {
        self.leave(host, key, |slot| {
            let told = std::mem::take(&mut slot.told);
            let mut loss = std::mem::take(&mut slot.loss);
            if slot.device.has_unflushed() {
                loss = Loss { is_due: true, told };
            } else {
                told.0.iter().for_each(|host| _ = loss.told.add(host));
            }
            Place::Reserved(loss)
        })
    }

    fn leave(
        &mut self,
        host: &mut dyn Host,
        key: DeviceKey,
        next: impl FnOnce(&mut Slot) -> Place,
    ) -> bool {
        let at = key.0 as usize;
        let next = match self.places.get_mut(at) {
            None | Some(Place::Free) => return true,
            Some(Place::Open(slot)) if !slot.device.is_idle() => return false,
            Some(Place::Open(slot)) => next(slot),
            Some(Place::Reserved(_)) => return true,
        };
        if let Place::Open(slot) = std::mem::replace(&mut self.places[at], next) {
            slot.device.close(host);
        }
        self.active.retain(|other| *other != at);
        true
    }

    /// Closes every device. One with I/O in flight is left to the reactor, which keeps its buffers until the kernel is
    /// done with them.
    pub(super) fn close_all(&mut self, host: &mut dyn Host) {
        for place in self.places.drain(..) {
            if let Place::Open(slot) = place
                && slot.device.is_idle()
            {
                slot.device.close(host);
            }
        }
        self.active.clear();
    }

    #[inline]
    fn slot(&self, at: usize) -> Option<&Slot> {
        match self.places.get(at) {
            Some(Place::Open(slot)) => Some(slot),
            Some(Place::Free | Place::Reserved(_)) | None => None,
        }
    }

    #[inline]
    fn slot_mut(&mut self, at: usize) -> Option<&mut Slot> {
        match self.places.get_mut(at) {
            Some(Place::Open(slot)) => Some(slot),
            Some(Place::Free | Place::Reserved(_)) | None => None,
        }
    }

    /// Bytes of memory a read of `range` takes, and whether the device lends them; `None` if it is gone.
    pub(super) fn read_memory(&self, key: DeviceKey, range: BlockRange) -> Option<(usize, bool)> {
        let slot = self.slot(key.0 as usize)?;
        let bytes = range.count.bytes(slot.geometry.block_size)?;
        Some((usize::try_from(bytes).ok()?, slot.lends_reads))
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
        let at = key.0 as usize;
        let Some(Place::Open(slot)) = self.places.get_mut(at) else {
            return Submitted::Done(Err(IoError::Gone));
        };
        let submitted = slot.device.submit(host, tag, request, stamps);
        if matches!(submitted, Submitted::Pending) || !slot.device.is_idle() {
            activate(slot, &mut self.active, at);
        }
        note_behind(slot, &mut self.behind, at);
        submitted
    }

    pub(super) fn handle_file_done(&mut self, host: &mut dyn Host, owner: OwnerId, done: FileDone) {
        let at = owner.0 as usize;
        if let Some(Place::Open(slot)) = self.places.get_mut(at) {
            slot.device.handle_file_done(host, done);
            activate(slot, &mut self.active, at);
        }
    }

    /// Another thread called for the device.
    pub(super) fn handle_wake(&mut self, host: &mut dyn Host, owner: OwnerId) {
        let at = owner.0 as usize;
        if let Some(Place::Open(slot)) = self.places.get_mut(at) {
            slot.device.handle_wake(host);
            activate(slot, &mut self.active, at);
        }
    }

    /// The next completion of any device.
    pub(super) fn poll_completion(&mut self, host: &mut dyn Host) -> Option<(u64, IoResult)> {
        let mut at = 0;
        while let Some(index) = self.active.get(at).copied() {
            let Some(Place::Open(slot)) = self.places.get_mut(index) else {
                return None;
            };
            if let Some(completion) = slot.device.poll_completion(host) {
                while let Some(tag) = slot.device.poll_expired() {
                    self.expired.push((DeviceKey(index as u32), tag));
                }
                note_behind(slot, &mut self.behind, index);
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

    /// Operations answered while their device has them, since the last call. To be asked before an answer is passed on.
    #[inline]
    pub(super) fn take_expired(&mut self) -> Vec<(DeviceKey, u64)> {
        std::mem::take(&mut self.expired)
    }

    /// The turn ends, its answers on their way: counts what ended in it. `length` reads the clock, if it is needed.
    #[inline]
    pub(super) fn end_turn(&mut self, length: impl FnOnce() -> Duration) {
        if self.behind.is_empty() {
            return;
        }
        let length = length();
        for at in self.behind.drain(..) {
            if let Some(Place::Open(slot)) = self.places.get_mut(at) {
                slot.is_behind = false;
                slot.device.end_turn(length);
                slot.commands.end_turn(length);
            }
        }
    }

    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        self.active
            .iter()
            .filter_map(|at| self.slot(*at))
            .filter_map(|slot| slot.device.poll_timeout())
            .min()
    }

    pub(super) fn handle_timeout(&mut self, now: Instant) {
        self.each_active(|device| device.handle_timeout(now));
    }

    /// The host of these operations is gone.
    pub(super) fn orphan(&mut self, now: Instant, is_orphan: impl Fn(u64) -> bool) {
        self.each_active(|device| device.orphan(now, &is_orphan));
    }

    /// Goes on with requests of several pieces and with those that wait for a buffer. Once a turn.
    pub(super) fn handle_turn(&mut self, host: &mut dyn Host) {
        self.each_active(|device| {
            if device.has_waiting() || device.wants_turn() {
                device.handle_turn(host);
            }
        });
    }

    fn each_active(&mut self, mut work: impl FnMut(&mut BlockDevice)) {
        for at in &self.active {
            if let Some(Place::Open(slot)) = self.places.get_mut(*at) {
                work(&mut slot.device);
            }
        }
    }

    /// Whether the next turn should come without sleeping.
    pub(super) fn wants_turn(&self) -> bool {
        self.active
            .iter()
            .filter_map(|at| self.slot(*at))
            .any(|slot| slot.device.wants_turn())
    }

    /// What a range of a device holds; `None` if it is gone.
    pub(super) fn extents(&mut self, key: DeviceKey, range: BlockRange) -> Option<Vec<Extent>> {
        let slot = self.slot_mut(key.0 as usize)?;
        Some(slot.device.extents(range))
    }

    pub(super) fn set_geometry(&mut self, now: Instant, key: DeviceKey, geometry: Geometry) {
        if let Some(slot) = self.slot_mut(key.0 as usize) {
            slot.geometry = geometry;
            slot.device.set_geometry(now, geometry);
        }
    }

    /// Whether hosts are to be told that writes acknowledged before may be gone.
    #[inline]
    pub(super) fn has_loss_to_tell(&self, key: DeviceKey) -> bool {
        self.slot(key.0 as usize)
            .is_some_and(|slot| slot.loss.is_due)
    }

    /// Makes a flush of `host` fail for a loss before. Tells whether it is to: it is the first of that host since.
    pub(super) fn tell_loss(&mut self, key: DeviceKey, host: &str) -> bool {
        self.slot_mut(key.0 as usize).is_some_and(|slot| {
            let is_new = slot.loss.told.add(host);
            if is_new {
                slot.device.health().tell();
            }
            is_new
        })
    }

    /// A flush of `host` has failed, the device being lost.
    pub(super) fn note_told(&mut self, key: DeviceKey, host: &str) {
        match self.places.get_mut(key.0 as usize) {
            Some(Place::Open(slot)) => {
                if slot.told.add(host) {
                    slot.device.health().tell();
                }
            }
            Some(Place::Reserved(loss)) => _ = loss.told.add(host),
            Some(Place::Free) | None => {}
        }
    }

    /// Hosts that know of a loss others are to be told of; `None` if there is none.
    pub(super) fn loss(&self, key: DeviceKey) -> Option<Vec<String>> {
        let (told, later) = match self.places.get(key.0 as usize)? {
            Place::Free => return None,
            Place::Reserved(loss) => (loss.is_due.then_some(&loss.told)?, None),
            Place::Open(slot) => {
                let is_offline = slot.device.health().offline_reason().is_some();
                match is_offline && slot.device.has_unflushed() {
                    true => (&slot.told, None),
                    false => (
                        slot.loss.is_due.then_some(&slot.loss.told)?,
                        Some(&slot.told),
                    ),
                }
            }
        };
        let mut told = told.clone();
        later
            .into_iter()
            .flat_map(|later| &later.0)
            .for_each(|host| _ = told.add(host));
        Some(told.0.into())
    }

    /// Hosts other than `told` are to be told of a loss; with `None`, nobody is.
    pub(super) fn set_loss(&mut self, key: DeviceKey, told: Option<Vec<String>>) {
        let wanted = told.map_or_else(Loss::default, |told| Loss {
            is_due: true,
            told: Told(told.into()),
        });
        match self.places.get_mut(key.0 as usize) {
            Some(Place::Open(slot)) => slot.loss = wanted,
            Some(Place::Reserved(loss)) => *loss = wanted,
            Some(Place::Free) | None => {}
        }
    }

    /// Bytes of `range` of a device; 0 if it is gone.
    #[inline]
    pub(super) fn bytes_of(&self, key: DeviceKey, range: BlockRange) -> u64 {
        self.slot(key.0 as usize)
            .map_or(0, |slot| range.count.0 << slot.geometry.block_size.shift())
    }

    /// Counts a host's command whose answer goes with the end of this turn; `before` is its latency up to the turn's begin.
    #[inline]
    pub(super) fn record_command(
        &mut self,
        key: DeviceKey,
        op: CountedOp,
        bytes: u64,
        ok: bool,
        before: Duration,
    ) {
        let at = key.0 as usize;
        if let Some(Place::Open(slot)) = self.places.get_mut(at) {
            slot.commands.record_in_turn(op, bytes, ok, before);
            note_behind(slot, &mut self.behind, at);
        }
    }

    /// Operations of a device, from submission to completion.
    pub(super) fn stats(&self, key: DeviceKey) -> Option<IoStats> {
        Some(self.slot(key.0 as usize)?.device.stats().clone())
    }

    /// Commands on a device, from reception to answer.
    pub(super) fn command_stats(&self, key: DeviceKey) -> Option<IoStats> {
        Some(self.slot(key.0 as usize)?.commands.stats().clone())
    }

    /// Sets the counters of commands to zero: another subsystem has the device from here on.
    pub(super) fn reset_command_stats(&mut self, key: DeviceKey) {
        if let Some(slot) = self.slot_mut(key.0 as usize) {
            slot.commands = Tally::default();
        }
    }

    pub(super) fn reset_stats(&mut self) {
        for place in &mut self.places {
            if let Place::Open(slot) = place {
                slot.device.reset_stats();
                slot.commands = Tally::default();
            }
        }
    }

    /// I/O in flight, by device.
    pub(super) fn inflight(&self) -> impl Iterator<Item = (DeviceKey, InflightIo)> {
        (0..self.places.len())
            .filter_map(|at| self.slot(at).map(|slot| (at, slot)))
            .flat_map(|(at, slot)| {
                slot.device
                    .inflight()
                    .map(move |io| (DeviceKey(at as u32), io))
            })
    }

    /// I/O in flight on one device.
    pub(super) fn inflight_on(&self, key: DeviceKey) -> impl Iterator<Item = InflightIo> {
        self.slot(key.0 as usize)
            .into_iter()
            .flat_map(|slot| slot.device.inflight())
    }
}

fn activate(slot: &mut Slot, active: &mut Vec<usize>, at: usize) {
    if !slot.is_active {
        slot.is_active = true;
        active.push(at);
    }
}

#[inline]
fn note_behind(slot: &mut Slot, behind: &mut Vec<usize>, at: usize) {
    if !slot.is_behind && (slot.device.is_behind() || slot.commands.is_behind()) {
        slot.is_behind = true;
        behind.push(at);
    }
}
