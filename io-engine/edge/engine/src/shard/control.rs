//! What the control plane does on a shard, run as messages between turns.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;

use block::{InflightIo, IoStats};
use nvme_target::{
    AllowedHosts, CommandOrigin, ConfigError, ControllerInfo, DeviceKey, DiscoveredSubsystem,
    NamespaceConfig, PersistToken, SubsystemConfig, SubsystemId,
};
use sdk::block::{Geometry, IoError};
use sdk::host::Host;

use super::{DeviceSetup, Shard};

/// A subsystem to serve.
pub(crate) struct SubsystemSetup {
    pub(crate) config: SubsystemConfig,
    pub(crate) namespaces: Vec<NamespaceConfig>,
}

/// A subsystem that is served here.
struct SubsystemEntry {
    id: SubsystemId,
    namespaces: BTreeMap<u32, DeviceKey>,
}

/// Subsystems by NQN.
#[derive(Default)]
pub(super) struct Control {
    subsystems: BTreeMap<String, SubsystemEntry>,
}

/// Why a shard refused.
#[derive(Debug)]
pub(crate) enum ShardError {
    /// The target refused.
    Target(ConfigError),
    /// The device refused.
    Device(IoError),
    /// Operations are in flight.
    Busy,
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

/// A device operation in flight and the command it belongs to.
pub(crate) struct ListedIo {
    pub(crate) device: DeviceKey,
    pub(crate) io: InflightIo,
    /// Absent for a command that ended with its connection.
    pub(crate) origin: Option<CommandOrigin>,
    pub(crate) now: Instant,
}

/// Figures of a shard for people and metrics.
pub(crate) struct ShardFigures {
    pub(crate) connections: u64,
    pub(crate) inflight: u64,
    pub(crate) closed: Vec<(&'static str, u64)>,
    pub(crate) memory_waits: u64,
}

impl Shard {
    pub(crate) fn open_device(&mut self, setup: DeviceSetup) -> Result<DeviceKey, ShardError> {
        self.devices
            .open(&mut self.reactor, setup)
            .map_err(ShardError::Device)
    }

    pub(crate) fn close_device(&mut self, key: DeviceKey) -> Result<(), ShardError> {
        if self.devices.close(&mut self.reactor, key) {
            Ok(())
        } else {
            Err(ShardError::Busy)
        }
    }

    /// Tells a device and the namespaces on it of a new size.
    pub(crate) fn resize_device(
        &mut self,
        key: DeviceKey,
        geometry: Geometry,
    ) -> Result<(), ShardError> {
        self.devices.set_geometry(self.reactor.now(), key, geometry);
        for entry in self.control.subsystems.values() {
            for (nsid, device) in &entry.namespaces {
                if *device == key {
                    self.target
                        .resize_namespace(entry.id, *nsid, geometry.blocks)?;
                }
            }
        }
        Ok(())
    }

    /// Serves a subsystem: all of it or nothing.
    pub(crate) fn add_subsystem(&mut self, setup: SubsystemSetup) -> Result<(), ShardError> {
        let nqn = setup.config.nqn.clone();
        let id = self.target.add_subsystem(setup.config)?;
        let mut namespaces = BTreeMap::new();
        for namespace in setup.namespaces {
            namespaces.insert(namespace.nsid, namespace.device);
            if let Err(error) = self.target.add_namespace(id, namespace) {
                self.target.remove_subsystem(self.reactor.now(), id)?;
                return Err(error.into());
            }
        }
        self.control
            .subsystems
            .insert(nqn, SubsystemEntry { id, namespaces });
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
        Ok(())
    }

    pub(crate) fn remove_namespace(&mut self, nqn: &str, nsid: u32) -> Result<(), ShardError> {
        let entry = self
            .control
            .subsystems
            .get_mut(nqn)
            .ok_or(ConfigError::SubsystemUnknown)?;
        self.target.remove_namespace(entry.id, nsid)?;
        entry.namespaces.remove(&nsid);
        Ok(())
    }

    pub(crate) fn set_discovery(&mut self, entries: Arc<[DiscoveredSubsystem]>, generation: u64) {
        self.target.set_discovery(entries, generation);
    }

    pub(crate) fn handle_persisted(&mut self, token: PersistToken, ok: bool) {
        self.target.handle_persisted(self.reactor.now(), token, ok);
    }

    pub(crate) fn device_stats(&self, key: DeviceKey) -> Option<IoStats> {
        self.devices.stats(key)
    }

    pub(crate) fn reset_stats(&mut self) {
        self.devices.reset_stats();
    }

    pub(crate) fn inflight(&self) -> Vec<ListedIo> {
        let now = self.reactor.now();
        self.devices
            .inflight()
            .map(|(device, io)| {
                let origin = self
                    .commands
                    .cmd_of(io.tag)
                    .and_then(|cmd| self.target.origin(cmd));
                ListedIo {
                    device,
                    io,
                    origin,
                    now,
                }
            })
            .collect()
    }

    pub(crate) fn controllers(&self) -> Vec<ListedController> {
        let mut listed = Vec::new();
        for (nqn, entry) in &self.control.subsystems {
            for info in self.target.controllers(entry.id).unwrap_or_default() {
                let peer = self
                    .connections
                    .by_qpair(info.admin)
                    .map(|connection| connection.peer_addr);
                listed.push(ListedController {
                    subnqn: nqn.clone(),
                    info,
                    peer,
                });
            }
        }
        listed
    }

    pub(crate) fn figures(&self) -> ShardFigures {
        ShardFigures {
            connections: self.connections.iter().count() as u64,
            inflight: self.devices.inflight().count() as u64,
            closed: self
                .connections
                .closed
                .iter()
                .map(|(reason, count)| (*reason, *count))
                .collect(),
            memory_waits: self.admission.waits(),
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
