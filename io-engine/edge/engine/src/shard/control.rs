//! What the control plane does on a shard, run as messages between turns.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;

use block::{CountedOp, InflightIo, IoStats, Stage, Waits};
use nvme_spec::nqn::DISCOVERY_NQN;
use nvme_target::{
    AllowedHosts, CommandOrigin, ConfigError, ControllerInfo, DeviceKey, DiscoveredSubsystem,
    NamespaceConfig, SubsystemConfig, SubsystemId,
};
use sdk::block::{Geometry, IoError};
use sdk::host::Host;

use super::commands::WaitFor;
use super::{DeviceSetup, Placed, Shard};

/// A subsystem to serve.
pub(crate) struct SubsystemSetup {
    pub(crate) config: SubsystemConfig,
    pub(crate) namespaces: Vec<NamespaceConfig>,
}

/// A subsystem that is served here.
struct SubsystemEntry {
    id: SubsystemId,
    namespaces: BTreeMap<u32, DeviceKey>,
    /// Counters of devices that were its namespaces, so that its own never go back.
    former: IoStats,
}

/// Whose changes of data are waited for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Writers {
    /// Everybody's: no host reaches the device any longer.
    All,
    /// Those whose host is gone or was answered already; others go on.
    Gone,
}

/// Changes of data that a device has not given back, by the tag of their command.
pub(crate) type Unsettled = Vec<(DeviceKey, u64)>;

/// Subsystems by NQN.
#[derive(Default)]
pub(super) struct Control {
    subsystems: BTreeMap<String, SubsystemEntry>,
}

impl Control {
    /// The subsystem that has a device.
    fn user_of(&mut self, key: DeviceKey) -> Option<&mut SubsystemEntry> {
        let mut entries = self.subsystems.values_mut();
        entries.find(|entry| entry.namespaces.values().any(|device| *device == key))
    }
}

/// Why a shard refused.
#[derive(Debug)]
pub(crate) enum ShardError {
    /// The target refused.
    Target(ConfigError),
    /// The device refused.
    Device(IoError),
    /// So many operations are in flight.
    Busy(usize),
}

impl From<ConfigError> for ShardError {
    fn from(error: ConfigError) -> Self {
        Self::Target(error)
    }
}

/// A controller and where its host is.
pub(crate) struct ListedController {
    pub(crate) subnqn: String,
    pub(crate) info: ControllerInfo,
    pub(crate) peer: Option<SocketAddr>,
}

/// Where a listed command is.
pub(crate) enum Whereabouts {
    /// In a device.
    Device(InflightIo),
    /// Before its device.
    Waiting {
        on: WaitFor,
        op: Option<CountedOp>,
        received: Instant,
        /// Waits that are over.
        waits: Waits,
    },
}

/// A device operation in flight and the command it belongs to, or a command that waits before it comes to a device.
pub(crate) struct ListedIo {
    /// Absent for a command without a namespace.
    pub(crate) device: Option<DeviceKey>,
    pub(crate) place: Whereabouts,
    /// Absent for an operation of another server, and for one that outlived its controller.
    pub(crate) origin: Option<CommandOrigin>,
    pub(crate) now: Instant,
}

/// Figures of a shard for people and metrics.
pub(crate) struct ShardFigures {
    pub(crate) connections: u64,
    pub(crate) inflight: u64,
    pub(crate) closed: Vec<(&'static str, u64)>,
    pub(crate) memory_waits: u64,
    pub(crate) memory_waiting: u64,
}

impl Shard {
    pub(crate) fn open_device(&mut self, setup: DeviceSetup) -> Result<Placed, ShardError> {
        self.devices
            .open(&mut self.reactor, setup)
            .map_err(ShardError::Device)
    }

    pub(crate) fn close_device(&mut self, key: DeviceKey) -> Result<(), ShardError> {
        if self.devices.close(&mut self.reactor, key) {
            Ok(())
        } else {
            Err(self.busy(key))
        }
    }

    fn busy(&self, key: DeviceKey) -> ShardError {
        ShardError::Busy(self.devices.inflight_on(key).count())
    }

    /// Closes a device that is to be opened again; namespaces keep its key and are answered `Gone` meanwhile.
    pub(crate) fn take_device_out(&mut self, key: DeviceKey) -> Result<(), ShardError> {
        let commands = self.devices.command_stats(key);
        if !self.devices.take_out(&mut self.reactor, key) {
            return Err(self.busy(key));
        }
        if let (Some(entry), Some(commands)) = (self.control.user_of(key), commands) {
            entry.former.merge(&commands);
        }
        Ok(())
    }

    /// Opens a device in the place of the one that was taken out, under the same key; hosts are told of a changed size.
    pub(crate) fn put_device_back(
        &mut self,
        key: DeviceKey,
        setup: DeviceSetup,
    ) -> Result<Placed, ShardError> {
        let geometry = setup.geometry;
        let placed = self
            .devices
            .put_back(&mut self.reactor, key, setup)
            .map_err(ShardError::Device)?;
        self.resize_device(key, geometry)?;
        Ok(placed)
    }

    /// Hosts that know of a loss others are to be told of by a failed flush; `None` if there is none.
    pub(crate) fn loss(&self, key: DeviceKey) -> Option<Vec<String>> {
        self.devices.loss(key)
    }

    /// Hosts other than `told` are to be told of a loss by a failed flush each; with `None`, nobody is.
    pub(crate) fn set_loss(&mut self, key: DeviceKey, told: Option<Vec<String>>) {
        self.devices.set_loss(key, told);
    }

    /// Tells a device and the namespaces on it of a new size; nothing changes if the namespaces refuse it. Their rule is one
    /// on the size alone, so the first of them refuses for all.
    pub(crate) fn resize_device(
        &mut self,
        key: DeviceKey,
        geometry: Geometry,
    ) -> Result<(), ShardError> {
        for entry in self.control.subsystems.values() {
            for (nsid, device) in &entry.namespaces {
                if *device == key {
                    self.target
                        .resize_namespace(entry.id, *nsid, geometry.blocks)?;
                }
            }
        }
        self.devices.set_geometry(self.reactor.now(), key, geometry);
        Ok(())
    }

    /// Serves a subsystem: all of it or nothing.
    pub(crate) fn add_subsystem(&mut self, setup: SubsystemSetup) -> Result<(), ShardError> {
        let nqn = setup.config.nqn.clone();
        let id = self.target.add_subsystem(setup.config)?;
        let mut namespaces = BTreeMap::new();
        for namespace in setup.namespaces {
            namespaces.insert(namespace.nsid, namespace.device);
            self.devices.reset_command_stats(namespace.device);
            if let Err(error) = self.target.add_namespace(id, namespace) {
                self.target.remove_subsystem(self.reactor.now(), id)?;
                return Err(error.into());
            }
        }
        let entry = SubsystemEntry {
            id,
            namespaces,
            former: IoStats::default(),
        };
        self.control.subsystems.insert(nqn, entry);
        Ok(())
    }

    pub(crate) fn remove_subsystem(&mut self, nqn: &str) -> Result<(), ShardError> {
        let entry = self
            .control
            .subsystems
            .remove(nqn)
            .ok_or(ConfigError::SubsystemUnknown)?;
        Ok(self.target.remove_subsystem(self.reactor.now(), entry.id)?)
    }

    pub(crate) fn set_allowed_hosts(
        &mut self,
        nqn: &str,
        hosts: AllowedHosts,
    ) -> Result<(), ShardError> {
        let entry = self
            .control
            .subsystems
            .get(nqn)
            .ok_or(ConfigError::SubsystemUnknown)?;
        Ok(self
            .target
            .set_allowed_hosts(self.reactor.now(), entry.id, hosts)?)
    }

    pub(crate) fn add_namespace(
        &mut self,
        nqn: &str,
        namespace: NamespaceConfig,
    ) -> Result<(), ShardError> {
        let entry = self
            .control
            .subsystems
            .get_mut(nqn)
            .ok_or(ConfigError::SubsystemUnknown)?;
        let (nsid, device) = (namespace.nsid, namespace.device);
        self.target.add_namespace(entry.id, namespace)?;
        entry.namespaces.insert(nsid, device);
        self.devices.reset_command_stats(device);
        Ok(())
    }

    pub(crate) fn remove_namespace(&mut self, nqn: &str, nsid: u32) -> Result<(), ShardError> {
        let entry = self
            .control
            .subsystems
            .get_mut(nqn)
            .ok_or(ConfigError::SubsystemUnknown)?;
        self.target.remove_namespace(entry.id, nsid)?;
        let commands = entry
            .namespaces
            .remove(&nsid)
            .and_then(|device| self.devices.command_stats(device));
        if let Some(commands) = commands {
            entry.former.merge(&commands);
        }
        Ok(())
    }

    pub(crate) fn set_discovery(&mut self, entries: Arc<[DiscoveredSubsystem]>, generation: u64) {
        self.target.set_discovery(entries, generation);
    }

    /// Tells the target what became of reservation records.
    pub(super) fn take_persisted(&mut self) {
        while let Some((token, ok)) = self.surroundings.poll_persisted() {
            self.target.handle_persisted(self.reactor.now(), token, ok);
        }
    }

    pub(crate) fn device_stats(&self, key: DeviceKey) -> Option<IoStats> {
        self.devices.stats(key)
    }

    /// Counters of subsystems, by NQN.
    pub(crate) fn subsystem_stats(&self) -> Vec<(String, IoStats)> {
        let sum = |entry: &SubsystemEntry| {
            let mut sum = entry.former.clone();
            let devices = entry.namespaces.values();
            devices
                .filter_map(|device| self.devices.command_stats(*device))
                .for_each(|commands| sum.merge(&commands));
            sum
        };
        let subsystems = self.control.subsystems.iter();
        subsystems
            .map(|(nqn, entry)| (nqn.clone(), sum(entry)))
            .collect()
    }

    pub(crate) fn reset_stats(&mut self) {
        self.devices.reset_stats();
        for entry in self.control.subsystems.values_mut() {
            entry.former = IoStats::default();
        }
    }

    /// What `writers` have in these devices that may still change their data.
    pub(crate) fn unsettled(&self, devices: &[DeviceKey], writers: Writers) -> Unsettled {
        let is_meant = |io: &InflightIo| match writers {
            Writers::All => true,
            Writers::Gone => io.stage == Stage::Overdue || !self.is_connected(io.tag),
        };
        let changes = |device: &DeviceKey| {
            let device = *device;
            let inflight = self.devices.inflight_on(device);
            inflight
                .filter(|io| io.op.is_change() && is_meant(io))
                .map(move |io| (device, io.tag))
        };
        devices.iter().flat_map(changes).collect()
    }

    /// Those of `changes` that are not over.
    pub(crate) fn still_unsettled(&self, mut changes: Unsettled) -> Unsettled {
        changes.retain(|(device, tag)| {
            let mut inflight = self.devices.inflight_on(*device);
            inflight.any(|io| io.tag == *tag && io.op.is_change())
        });
        changes
    }

    /// Whether the host of an operation is there to be answered.
    fn is_connected(&self, tag: u64) -> bool {
        self.commands
            .cmd_of(tag)
            .and_then(|cmd| self.target.origin(cmd))
            .is_some()
    }

    /// What has been asked and is not done: operations in devices, and commands that wait for memory or for their host's data.
    pub(crate) fn inflight(&self) -> Vec<ListedIo> {
        let now = self.reactor.now();
        let in_devices = self.devices.inflight().map(|(device, io)| {
            let cmd = self.commands.cmd_of(io.tag);
            ListedIo {
                device: Some(device),
                place: Whereabouts::Device(io),
                origin: cmd
                    .and_then(|cmd| self.target.origin(cmd))
                    .or_else(|| self.origins.of(device, io.tag)),
                now,
            }
        });
        let waiting = self.commands.waiting().map(|waiting| {
            let origin = self.target.origin(waiting.cmd);
            let device = origin.as_ref().and_then(|origin| {
                let entry = self.control.subsystems.get(&origin.subnqn)?;
                entry.namespaces.get(&origin.nsid).copied()
            });
            ListedIo {
                device,
                place: Whereabouts::Waiting {
                    on: waiting.on,
                    op: waiting.op,
                    received: waiting.received,
                    waits: waiting.waits,
                },
                origin,
                now,
            }
        });
        in_devices.chain(waiting).collect()
    }

    pub(crate) fn controllers(&self) -> Vec<ListedController> {
        let subsystems = self.control.subsystems.iter();
        let served = subsystems.flat_map(|(nqn, entry)| {
            let infos = self.target.controllers(entry.id).unwrap_or_default();
            infos.into_iter().map(move |info| (nqn.as_str(), info))
        });
        let discovery = self.target.discovery_controllers().into_iter();
        let discovery = discovery.map(|info| (DISCOVERY_NQN, info));
        served
            .chain(discovery)
            .map(|(subnqn, info)| ListedController {
                subnqn: subnqn.to_owned(),
                peer: self
                    .connections
                    .by_qpair(info.admin)
                    .map(|connection| connection.peer_addr),
                info,
            })
            .collect()
    }

    pub(crate) fn figures(&self) -> ShardFigures {
        let refused = self.target.refused_connects();
        let refused = [
            ("connect_invalid", refused.invalid),
            ("connect_host_not_allowed", refused.host_not_allowed),
            ("connect_controllers_full", refused.controllers_full),
            (
                "connect_host_controllers_full",
                refused.host_controllers_full,
            ),
            ("connect_host_connections_full", refused.host_qpairs_full),
        ];
        ShardFigures {
            connections: (self.connections.iter().count() + self.exports.connections()) as u64,
            inflight: self.devices.inflight().count() as u64,
            closed: self
                .connections
                .closed
                .iter()
                .map(|(reason, count)| (*reason, *count))
                .chain(refused)
                .collect(),
            memory_waits: self.admission.waits(),
            memory_waiting: self.admission.waiting() as u64,
        }
    }

    /// Stops accepting and closes every connection; commands in flight are answered or dropped with them.
    pub(crate) fn quiesce(&mut self) {
        for listener in self.listeners.drain(..) {
            self.reactor.close_listener(listener);
        }
        let open: Vec<_> = self.connections.iter().collect();
        for connection in open {
            self.drop_connection(connection, "engine_stopping");
        }
        self.remove_volumes();
    }

    /// Whether every device operation has ended.
    pub(crate) fn is_idle(&self) -> bool {
        self.devices.inflight().next().is_none()
    }

    /// Ends [`Shard::run`] after this turn.
    pub(crate) fn stop(&mut self) {
        self.stopping = true;
    }
}
