//! What the control plane changes while hosts are connected: subsystems, allow lists, namespaces.

use std::time::Instant;

use nvme_spec::event::AsyncEvent;
use units::Blocks;

use crate::config::{AllowedHosts, ConfigError, NamespaceConfig, SubsystemConfig};
use crate::output::DisconnectReason;
use crate::subsystem::{Kind, Subsystem, check_hosts, check_size};
use crate::target::{DISCOVERY_SUBSYSTEM, Target};
use crate::{DeviceKey, QpairId, SubsystemId};

/// A connected host, for listings.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ControllerInfo {
    /// Host NQN.
    pub hostnqn: String,
    /// Host identifier.
    pub hostid: [u8; 16],
    /// Controller id.
    pub cntlid: u16,
    /// I/O queues connected.
    pub io_queues: usize,
    /// Keep alive timeout in milliseconds, 0 for none.
    pub kato_ms: u32,
    /// Address the host connected to.
    pub traddr: String,
    /// Its admin queue's connection.
    pub admin: QpairId,
    /// When it connected.
    pub created: Instant,
}

impl Target {
    /// Adds a subsystem without namespaces.
    ///
    /// # Errors
    /// See [`ConfigError`]; nothing is changed then.
    pub fn add_subsystem(&mut self, config: SubsystemConfig) -> Result<SubsystemId, ConfigError> {
        if self.subsystem_id(&config.nqn).is_some() {
            return Err(ConfigError::NqnExists);
        }
        let subsystem = Subsystem::new(config, &self.config.model)?;
        let (index, generation) = self
            .subsystems
            .insert(subsystem)
            .map_err(|_| ConfigError::SubsystemsFull)?;
        Ok(SubsystemId { index, generation })
    }

    /// The NVM subsystem of that NQN, if it is here.
    pub fn subsystem_id(&self, nqn: &str) -> Option<SubsystemId> {
        self.subsystems
            .iter()
            .find(|(_, subsystem)| subsystem.nqn == nqn && subsystem.kind == Kind::Nvm)
            .map(|(index, _)| SubsystemId {
                index,
                generation: self.subsystems.generation(index),
            })
    }

    /// Removes a subsystem and disconnects its controllers.
    ///
    /// # Errors
    /// [`ConfigError::SubsystemUnknown`].
    pub fn remove_subsystem(&mut self, _now: Instant, id: SubsystemId) -> Result<(), ConfigError> {
        let index = self.check_subsystem(id)?;
        for controller in self.subsystems[index].controllers.clone() {
            self.drop_controller(controller, DisconnectReason::SubsystemRemoved, true);
        }
        self.subsystems.remove(index);
        Ok(())
    }

    /// Replaces the allow list; connected hosts that are not on the new one are disconnected.
    ///
    /// # Errors
    /// [`ConfigError::SubsystemUnknown`], [`ConfigError::HostsTooMany`].
    pub fn set_allowed_hosts(
        &mut self,
        _now: Instant,
        id: SubsystemId,
        hosts: AllowedHosts,
    ) -> Result<(), ConfigError> {
        let index = self.check_subsystem(id)?;
        check_hosts(&hosts)?;
        for controller in self.subsystems[index].controllers.clone() {
            if !hosts.allows(&self.controllers[controller].host.nqn) {
                self.drop_controller(controller, DisconnectReason::HostNotAllowed, true);
            }
        }
        self.subsystems[index].hosts = hosts;
        Ok(())
    }

    /// Adds a namespace; connected hosts are told.
    ///
    /// # Errors
    /// See [`ConfigError`].
    pub fn add_namespace(
        &mut self,
        id: SubsystemId,
        config: NamespaceConfig,
    ) -> Result<(), ConfigError> {
        let index = self.check_subsystem(id)?;
        let nsid = config.nsid;
        let epoch = self.next_epoch();
        self.subsystems[index].insert(config, epoch)?;
        self.namespace_changed(index, nsid);
        Ok(())
    }

    /// Removes a namespace; connected hosts are told. I/O already given to the device is answered when it ends.
    ///
    /// # Errors
    /// [`ConfigError::SubsystemUnknown`], [`ConfigError::NamespaceUnknown`].
    pub fn remove_namespace(&mut self, id: SubsystemId, nsid: u32) -> Result<(), ConfigError> {
        let index = self.check_subsystem(id)?;
        let subsystem = &mut self.subsystems[index];
        if subsystem.namespace(nsid).is_none() {
            return Err(ConfigError::NamespaceUnknown);
        }
        subsystem.namespaces[nsid as usize - 1] = None;
        self.namespace_changed(index, nsid);
        Ok(())
    }

    /// Changes the size of a namespace; connected hosts are told.
    ///
    /// # Errors
    /// [`ConfigError::SubsystemUnknown`], [`ConfigError::NamespaceUnknown`], [`ConfigError::SizeInvalid`].
    pub fn resize_namespace(
        &mut self,
        id: SubsystemId,
        nsid: u32,
        blocks: Blocks,
    ) -> Result<(), ConfigError> {
        let index = self.check_subsystem(id)?;
        let namespace = self.subsystems[index]
            .namespace_mut(nsid)
            .ok_or(ConfigError::NamespaceUnknown)?;
        check_size(blocks.0, namespace.block_size)?;
        if namespace.blocks != blocks.0 {
            namespace.blocks = blocks.0;
            self.namespace_changed(index, nsid);
        }
        Ok(())
    }

    /// Puts another device behind a namespace; commands in flight end on the old one. Hosts notice nothing.
    ///
    /// # Errors
    /// [`ConfigError::SubsystemUnknown`], [`ConfigError::NamespaceUnknown`].
    pub fn replace_device(
        &mut self,
        id: SubsystemId,
        nsid: u32,
        device: DeviceKey,
    ) -> Result<(), ConfigError> {
        let index = self.check_subsystem(id)?;
        let namespace = self.subsystems[index]
            .namespace_mut(nsid)
            .ok_or(ConfigError::NamespaceUnknown)?;
        namespace.device = device;
        Ok(())
    }

    /// Hosts connected to a subsystem.
    ///
    /// # Errors
    /// [`ConfigError::SubsystemUnknown`].
    pub fn controllers(&self, id: SubsystemId) -> Result<Vec<ControllerInfo>, ConfigError> {
        Ok(self.controllers_of(self.check_subsystem(id)?))
    }

    /// Hosts connected to the discovery subsystem.
    pub fn discovery_controllers(&self) -> Vec<ControllerInfo> {
        self.controllers_of(DISCOVERY_SUBSYSTEM)
    }

    fn controllers_of(&self, subsystem: u32) -> Vec<ControllerInfo> {
        self.subsystems[subsystem]
            .controllers
            .iter()
            .map(|index| {
                let controller = &self.controllers[*index];
                ControllerInfo {
                    hostnqn: controller.host.nqn.clone(),
                    hostid: controller.host.id,
                    cntlid: controller.cntlid,
                    io_queues: controller.qpairs().count() - 1,
                    kato_ms: controller.keep_alive.kato_ms,
                    traddr: self.qpairs[controller.admin_qp].facts.traddr.clone(),
                    admin: self.qpair_id(controller.admin_qp),
                    created: controller.created,
                }
            })
            .collect()
    }

    fn check_subsystem(&self, id: SubsystemId) -> Result<u32, ConfigError> {
        self.subsystems
            .check(id.index, id.generation)
            .filter(|index| self.subsystems[*index].kind == Kind::Nvm)
            .ok_or(ConfigError::SubsystemUnknown)
    }

    /// Tells the subsystem's controllers that `nsid` came, went or changed (Base 2.0c §5.2, §5.16.1.5).
    fn namespace_changed(&mut self, subsystem: u32, nsid: u32) {
        for index in self.subsystems[subsystem].controllers.clone() {
            self.controllers[index].events.namespace_changed(nsid);
            self.raise(index, AsyncEvent::NAMESPACE_ATTRIBUTE_CHANGED);
        }
    }
}
