//! Where operations came from whose command ended before they did.
//!
//! A device may keep an operation past its deadline, when the host is answered. It is listed as long as it is there, and this is
//! what tells whose it was. One that outlives its connection before its deadline is listed without.

use std::collections::{BTreeMap, BTreeSet};

use nvme_target::{CommandOrigin, DeviceKey};

use super::Shard;
use super::devices::Devices;

/// Operations of which it is known; beyond, those of ended ones are forgotten, and if there are none, further ones are not kept.
const KEPT_MAX: usize = 1024;

/// Origins by device and tag.
#[derive(Default)]
pub(super) struct Origins(BTreeMap<(u32, u64), CommandOrigin>);

impl Origins {
    pub(super) fn of(&self, device: DeviceKey, tag: u64) -> Option<CommandOrigin> {
        self.0.get(&(device.0, tag)).cloned()
    }

    fn keep(&mut self, device: DeviceKey, tag: u64, origin: CommandOrigin) {
        if self.0.len() < KEPT_MAX {
            self.0.insert((device.0, tag), origin);
        }
    }

    /// Makes room, if there is none, by forgetting operations that ended.
    fn make_room(&mut self, devices: &Devices) {
        if self.0.len() < KEPT_MAX {
            return;
        }
        let keys: BTreeSet<u32> = self.0.keys().map(|(device, _)| *device).collect();
        let inflight = |key: u32| {
            let inflight = devices.inflight_on(DeviceKey(key));
            inflight.map(move |io| (key, io.tag))
        };
        let there: BTreeSet<(u32, u64)> = keys.into_iter().flat_map(inflight).collect();
        self.0.retain(|name, _| there.contains(name));
    }
}

impl Shard {
    /// Keeps the origins of operations that are answered while their devices have them.
    #[cold]
    pub(super) fn keep_origins(&mut self, expired: Vec<(DeviceKey, u64)>) {
        self.origins.make_room(&self.devices);
        for (device, tag) in expired {
            let cmd = self.commands.cmd_of(tag);
            if let Some(origin) = cmd.and_then(|cmd| self.target.origin(cmd)) {
                self.origins.keep(device, tag, origin);
            }
        }
    }
}
