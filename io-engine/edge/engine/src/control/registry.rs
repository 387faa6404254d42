//! What exists: devices and subsystems with their stored records and their present state, and how they are shown.

use std::collections::{BTreeMap, BTreeSet};

use uuid::Uuid;

use super::Engine;
use super::dataplane::{
    Access, DeviceHandle, DeviceInfo, NamespaceSpec, Problem, ProblemKind, SubsystemSpec,
};
use super::identity;
use crate::store::{DeviceRecord, ExportRecord, LossRecord, SubsystemRecord};

/// A device and whether it is open.
#[derive(Clone, Debug)]
pub(super) struct DeviceEntry {
    pub(super) record: DeviceRecord,
    /// The open device, or why it is not open.
    pub(super) open: Result<DeviceInfo, String>,
}

/// A subsystem and whether it is served.
#[derive(Clone, Debug)]
pub(super) struct SubsystemEntry {
    pub(super) record: SubsystemRecord,
    /// Served, or why not.
    pub(super) online: Result<(), String>,
}

/// A device that is to be served over another protocol, and whether it is.
#[derive(Clone, Debug)]
pub(super) struct ExportEntry {
    pub(super) record: ExportRecord,
    /// Where clients reach it, or why it is not served.
    pub(super) online: Result<String, String>,
}

/// Everything that exists. Mirrors the store, plus what is open and served.
#[derive(Debug, Default)]
pub(super) struct State {
    pub(super) devices: BTreeMap<String, DeviceEntry>,
    pub(super) subsystems: BTreeMap<String, SubsystemEntry>,
    /// By name of the device.
    pub(super) exports: BTreeMap<String, ExportEntry>,
    /// By name of the device.
    pub(super) losses: BTreeMap<String, LossRecord>,
    /// Names of devices that are opened for the first time.
    pub(super) opening: BTreeSet<String>,
    /// What operators were told last of devices that work, by name.
    pub(super) warnings: BTreeMap<String, String>,
}

/// A device, as it is shown.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bdev {
    /// Name.
    pub name: String,
    /// Identity.
    pub uuid: Uuid,
    /// URI it was created from.
    pub uri: String,
    /// Size in blocks: the last one hosts were told of, 0 if it was not opened since the start.
    pub blocks: u64,
    /// Bytes a block; 0 if it was not opened since the start.
    pub block_size: u32,
    /// Driver; empty if it was not opened since the start.
    pub product_name: String,
    /// How operations are done; empty if it was not opened since the start.
    pub capabilities: String,
    /// Why it does no I/O: it did not open, or was lost since.
    pub fault: Option<String>,
    /// What an operator should know of it although it works, as of the last look.
    pub warning: Option<String>,
    /// Writes hosts were told are done may be lost, and hosts are to hear of it.
    pub writes_lost: bool,
    /// A subsystem uses it, or it is served over another protocol.
    pub claimed: bool,
    /// The other protocol it is served over, if it is.
    pub protocol: Option<String>,
    /// Where it can be reached, if it is shared: by its own subsystem, or over another protocol.
    pub share_uri: Option<String>,
}

/// A namespace, as it is shown.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NamespaceView {
    /// Namespace id.
    pub nsid: u32,
    /// Device.
    pub bdev: String,
    /// Uuid descriptor.
    pub uuid: Uuid,
    /// NGUID.
    pub nguid: Uuid,
    /// Size in blocks; 0 while the device is faulted.
    pub blocks: u64,
    /// Bytes a block; 0 while the device is faulted.
    pub block_size: u32,
}

/// A subsystem, as it is shown.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SubsystemView {
    /// NQN.
    pub nqn: String,
    /// Serial number.
    pub serial: String,
    /// Hosts that may connect; `None` lets any in.
    pub allowed_hosts: Option<Vec<String>>,
    /// Namespaces, ascending by nsid.
    pub namespaces: Vec<NamespaceView>,
    /// Where to connect to.
    pub uris: Vec<String>,
    /// Why it is not served.
    pub fault: Option<String>,
}

impl State {
    /// Name of an open device.
    pub(super) fn name_of(&self, handle: DeviceHandle) -> Option<&str> {
        let open =
            |entry: &DeviceEntry| entry.open.as_ref().is_ok_and(|info| info.handle == handle);
        self.devices
            .iter()
            .find(|(_, entry)| open(entry))
            .map(|(name, _)| name.as_str())
    }

    /// The device, open.
    pub(super) fn open_device(&self, name: &str) -> Result<(&DeviceRecord, &DeviceInfo), Problem> {
        let entry = self.devices.get(name).ok_or_else(|| no_device(name))?;
        match &entry.open {
            Ok(info) => Ok((&entry.record, info)),
            Err(reason) => Err(faulted(name, reason)),
        }
    }

    /// The subsystem.
    pub(super) fn subsystem(&self, nqn: &str) -> Result<&SubsystemEntry, Problem> {
        self.subsystems.get(nqn).ok_or_else(|| no_subsystem(nqn))
    }

    /// The subsystems that use a device.
    pub(super) fn users_of(&self, device: &str) -> Vec<String> {
        let uses =
            |entry: &SubsystemEntry| entry.record.namespaces.iter().any(|ns| ns.device == device);
        self.subsystems
            .iter()
            .filter(|(_, entry)| uses(entry))
            .map(|(nqn, _)| nqn.clone())
            .collect()
    }

    /// The first subsystem that uses a device, and under which nsid.
    pub(super) fn namespace_of(&self, device: &str) -> Option<(String, u32)> {
        self.subsystems.iter().find_map(|(nqn, entry)| {
            let mut namespaces = entry.record.namespaces.iter();
            let used = namespaces.find(|namespace| namespace.device == device)?;
            Some((nqn.clone(), used.nsid))
        })
    }

    /// What the data plane is to serve for a record.
    ///
    /// # Errors
    /// `Busy` while one of its devices is faulted.
    pub(super) fn spec(
        &self,
        nqn: &str,
        record: &SubsystemRecord,
    ) -> Result<SubsystemSpec, Problem> {
        let namespaces = record.namespaces.iter().map(|namespace| {
            let (_, info) = self.open_device(&namespace.device)?;
            Ok(NamespaceSpec {
                nsid: namespace.nsid,
                device: info.handle,
                uuid: namespace.uuid,
                nguid: *namespace.nguid.as_bytes(),
                access: Access::of(namespace.read_only),
            })
        });
        Ok(SubsystemSpec {
            nqn: nqn.to_owned(),
            serial: record.serial.clone(),
            allowed_hosts: record.allowed_hosts.clone(),
            namespaces: namespaces.collect::<Result<_, Problem>>()?,
        })
    }
}

fn faulted(name: &str, reason: &str) -> Problem {
    let fix = "; mend it, then bdev rescan";
    let reason = reason.strip_suffix(fix).unwrap_or(reason);
    Problem::new(
        ProblemKind::Busy,
        format!("device '{name}' is faulted ({reason}){fix}"),
    )
}

/// There is no such device.
pub(super) fn no_device(name: &str) -> Problem {
    Problem::new(
        ProblemKind::NotFound,
        format!("there is no device '{name}'; see bdev list"),
    )
}

/// There is no such subsystem.
pub(super) fn no_subsystem(nqn: &str) -> Problem {
    Problem::new(
        ProblemKind::NotFound,
        format!("there is no subsystem '{nqn}'; see subsystem list"),
    )
}

impl Engine {
    /// Every device, in order of name, faulted ones included.
    pub fn bdevs(&self) -> Vec<Bdev> {
        let state = self.read();
        state
            .devices
            .iter()
            .map(|(name, entry)| self.show_device(&state, name, entry))
            .collect()
    }

    /// One device.
    pub fn bdev(&self, name: &str) -> Option<Bdev> {
        let state = self.read();
        state
            .devices
            .get(name)
            .map(|entry| self.show_device(&state, name, entry))
    }

    /// Name of an open device.
    pub fn device_name(&self, handle: DeviceHandle) -> Option<String> {
        self.read().name_of(handle).map(str::to_owned)
    }

    /// Every subsystem, in order of NQN.
    pub fn subsystems(&self) -> Vec<SubsystemView> {
        let state = self.read();
        state
            .subsystems
            .iter()
            .map(|(nqn, entry)| self.show_subsystem(&state, nqn, entry))
            .collect()
    }

    /// One subsystem.
    ///
    /// # Errors
    /// `NotFound`.
    pub fn subsystem(&self, nqn: &str) -> Result<SubsystemView, Problem> {
        let state = self.read();
        state
            .subsystem(nqn)
            .map(|entry| self.show_subsystem(&state, nqn, entry))
    }

    /// Why a device does no I/O, if it does none.
    pub(super) fn fault_of(&self, entry: &DeviceEntry) -> Option<String> {
        match &entry.open {
            Ok(info) => self.plane().device_fault(info.handle),
            Err(reason) => Some(reason.clone()),
        }
    }

    /// Refuses a device that was lost.
    pub(super) fn check_well(&self, name: &str, info: &DeviceInfo) -> Result<(), Problem> {
        match self.plane().device_fault(info.handle) {
            Some(reason) => Err(faulted(name, &reason)),
            None => Ok(()),
        }
    }

    fn show_device(&self, state: &State, name: &str, entry: &DeviceEntry) -> Bdev {
        let own = identity::nqn_of(name);
        let shared = state.users_of(name).contains(&own);
        let export = state.exports.get(name);
        let info = entry.open.as_ref().ok();
        Bdev {
            name: name.to_owned(),
            uuid: entry.record.uuid,
            uri: entry.record.uri.clone(),
            blocks: info.map_or(0, |info| info.blocks),
            block_size: info.map_or(0, |info| info.block_size),
            product_name: info
                .map(|info| info.product_name.clone())
                .unwrap_or_default(),
            capabilities: info
                .map(|info| info.capabilities.clone())
                .unwrap_or_default(),
            fault: self.fault_of(entry),
            warning: state.warnings.get(name).cloned(),
            writes_lost: state.losses.contains_key(name),
            claimed: !state.users_of(name).is_empty() || export.is_some(),
            protocol: export.map(|entry| entry.record.protocol.clone()),
            share_uri: match export {
                Some(entry) => entry.online.as_ref().ok().cloned(),
                None => shared
                    .then(|| self.share_uris(&own).into_iter().next())
                    .flatten(),
            },
        }
    }

    fn show_subsystem(&self, state: &State, nqn: &str, entry: &SubsystemEntry) -> SubsystemView {
        let namespaces = entry.record.namespaces.iter().map(|namespace| {
            let info = state
                .devices
                .get(&namespace.device)
                .and_then(|device| device.open.as_ref().ok());
            NamespaceView {
                nsid: namespace.nsid,
                bdev: namespace.device.clone(),
                uuid: namespace.uuid,
                nguid: namespace.nguid,
                blocks: info.map_or(0, |info| info.blocks),
                block_size: info.map_or(0, |info| info.block_size),
            }
        });
        SubsystemView {
            nqn: nqn.to_owned(),
            serial: entry.record.serial.clone(),
            allowed_hosts: entry.record.allowed_hosts.clone(),
            namespaces: namespaces.collect(),
            uris: self.share_uris(nqn),
            fault: entry.online.as_ref().err().cloned(),
        }
    }
}
