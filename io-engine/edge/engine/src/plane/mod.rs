//! The reactors as the control side sees them: threads, device homes, the directory of subsystems.
//!
//! Does: start and stop reactor threads, keep each open device and the shard it lives on, bring the devices of a
//! subsystem together on one shard, keep every shard's discovery in step, carry reservation records to the store.
//! Does not: name, persist or identify anything (control does), nor touch I/O (shards do).
//!
//! Invariant: a subsystem and all its devices share a shard.

mod calls;
mod devices;
mod directory;
mod drivers;
mod exports;
mod persist;
mod plugins;
mod settings;
mod shards;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use async_trait::async_trait;
use block::DeviceConfig;
use nvme_target::{AllowedHosts, NamespaceConfig, PersistedReservations, SubsystemConfig};
use plugin_host::{PluginHost, PluginInfo};
use sdk::block::{DeviceDriver, Support};
use tokio::sync::Mutex;

use crate::control::dataplane::{
    ControllerInfo, DataPlane, DeviceHandle, DeviceInfo, ExportSpec, InflightIo, NamespaceSpec,
    Problem, ProblemKind, ReactorStats, SubsystemSpec, Writers,
};
use crate::control::stats::IoStats;
use crate::shard::SubsystemSetup;

use calls::shard_problem;
use devices::{Condition, Opened, find, not_open};
use directory::Directory;
use drivers::Drivers;
pub use drivers::check_uri;
use exports::Servers;
pub use persist::ReservationStore;
use plugins::Transport;
pub use plugins::{LINKED, linked, linked_into};
pub use settings::{connections_within, isolation, too_few_descriptors};
pub use shards::PlaneConfig;
use shards::Shards;

/// How long a quiesced reactor may take to finish its device operations before it is stopped regardless.
const DRAIN_MAX: Duration = Duration::from_secs(10);

/// The reactors and what they serve.
pub struct Plane {
    shards: Shards,
    directory: Arc<Directory>,
    drivers: Drivers,
    plugins: PluginHost,
    /// Where servers of other protocols listen, by protocol.
    export_listen: BTreeMap<String, Vec<String>>,
    /// Where plugins may be loaded from while the engine runs.
    plugin_directories: Vec<PathBuf>,
    reservations: Arc<dyn ReservationStore>,
    registry: Mutex<Registry>,
    condition: Condition,
    device: DeviceConfig,
    started: (Instant, SystemTime),
}

#[derive(Default)]
struct Registry {
    next_handle: u64,
    devices: BTreeMap<DeviceHandle, Opened>,
    subsystems: BTreeMap<String, Served>,
    servers: Servers,
}

struct Served {
    home: usize,
    hosts: AllowedHosts,
}

impl Plane {
    /// Starts the reactors and their listeners.
    ///
    /// # Errors
    /// `InvalidArgument` for a bad configuration, `Busy` for a port in use, `Internal` when a thread does not start.
    pub fn start(
        config: PlaneConfig,
        reservations: Arc<dyn ReservationStore>,
    ) -> Result<Arc<Self>, Problem> {
        Self::start_from(config, reservations, &linked(None, None))
    }

    /// Starts with the devices and the transport of these plugins.
    ///
    /// # Errors
    /// As [`Plane::start`]; `Internal` when no plugin brings the transport hosts come by.
    pub fn start_from(
        config: PlaneConfig,
        reservations: Arc<dyn ReservationStore>,
        plugins: &PluginHost,
    ) -> Result<Arc<Self>, Problem> {
        let drivers = Drivers::Plugins(plugins.clone());
        Self::assemble(config, reservations, drivers, plugins)
    }

    /// Starts with these device drivers and the linked-in transport.
    ///
    /// # Errors
    /// As [`Plane::start`].
    pub fn start_with(
        config: PlaneConfig,
        reservations: Arc<dyn ReservationStore>,
        drivers: Vec<Box<dyn DeviceDriver>>,
    ) -> Result<Arc<Self>, Problem> {
        let drivers = drivers.into_iter().map(Arc::from).collect();
        let drivers = Drivers::Fixed(drivers);
        Self::assemble(config, reservations, drivers, &linked(None, None))
    }

    fn assemble(
        config: PlaneConfig,
        reservations: Arc<dyn ReservationStore>,
        drivers: Drivers,
        plugins: &PluginHost,
    ) -> Result<Arc<Self>, Problem> {
        let directory = Arc::new(Directory::default());
        let device = config.device.clone();
        let export_listen = config.export_listen.clone();
        let plugin_directories = config.plugin_directories.clone();
        let shards = Shards::start(
            config,
            Arc::clone(&directory),
            Arc::clone(&reservations),
            &Arc::new(Transport::of(plugins)?),
        )?;
        Ok(Arc::new(Self {
            shards,
            directory,
            drivers,
            plugins: plugins.clone(),
            export_listen,
            plugin_directories,
            reservations,
            registry: Mutex::new(Registry::default()),
            condition: Condition::default(),
            device,
            started: (Instant::now(), SystemTime::now()),
        }))
    }

    /// Stops serving: connections are closed, device operations end, threads exit. Devices are released.
    pub async fn stop(&self) {
        for shard in 0..self.shards.count() {
            // A reactor that does not answer is stopped with the process.
            let _ = self.shards.call(shard, |shard| shard.quiesce()).await;
        }
        let deadline = Instant::now() + DRAIN_MAX;
        for shard in 0..self.shards.count() {
            while Instant::now() < deadline
                && matches!(
                    self.shards.call(shard, |shard| shard.is_idle()).await,
                    Ok(false)
                )
            {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            let _ = self.shards.call(shard, |shard| shard.stop()).await;
        }
        self.shards.join().await;
        let mut registry = self.registry.lock().await;
        registry.devices.clear();
        registry.subsystems.clear();
        registry.servers.clear();
    }

    async fn namespace(
        &self,
        registry: &mut Registry,
        nqn: &str,
        home: usize,
        spec: &NamespaceSpec,
    ) -> Result<NamespaceConfig, Problem> {
        let reservations = self.load_reservations(nqn, spec.nsid).await?;
        let opened = find(registry, spec.device)?;
        if let Some((user, nsid)) = opened.used_by.first() {
            let name = &opened.name;
            let detail =
                format!("device '{name}' is namespace {nsid} of {user}; remove it there first");
            return Err(Problem::new(ProblemKind::Busy, detail));
        }
        if let Some(exported) = &opened.exported {
            let (name, protocol) = (&opened.name, &exported.protocol);
            let detail = format!("device '{name}' is shared over {protocol}; unshare it first");
            return Err(Problem::new(ProblemKind::Busy, detail));
        }
        let key = self.bring(spec.device, opened, home).await?;
        let device = opened.device.as_deref();
        let (geometry, capabilities) = device
            .map(|device| (device.geometry(), device.capabilities()))
            .ok_or_else(|| not_open(&opened.name))?;
        Ok(NamespaceConfig {
            nsid: spec.nsid,
            nguid: spec.nguid,
            uuid: *spec.uuid.as_bytes(),
            eui64: [0; 8],
            block_size: geometry.block_size,
            blocks: geometry.blocks,
            capabilities: nvme_target::NamespaceCapabilities {
                // The block layer writes zeroes itself where the device does not, and compares for it.
                write_zeroes: true,
                discard: capabilities.discard != Support::None,
                compare: true,
                discard_zeroes: false,
                volatile_cache: capabilities.volatile_cache,
                atomic_blocks: capabilities.atomic_blocks,
                preferred_blocks: 0,
            },
            read_only: spec.access.is_read_only(),
            device: key,
            reservations,
        })
    }

    async fn load_reservations(
        &self,
        nqn: &str,
        nsid: u32,
    ) -> Result<Option<PersistedReservations>, Problem> {
        let store = Arc::clone(&self.reservations);
        let (key, name) = (nqn.to_owned(), nqn.to_owned());
        let loaded = tokio::task::spawn_blocking(move || store.load(&key, nsid)).await;
        let bytes = match loaded {
            Ok(Ok(bytes)) => bytes,
            Ok(Err(reason)) => {
                let detail =
                    format!("reservations of {name} namespace {nsid} cannot be read: {reason}");
                return Err(Problem::new(ProblemKind::Internal, detail));
            }
            Err(_) => {
                return Err(Problem::new(
                    ProblemKind::Internal,
                    "the state store thread failed",
                ));
            }
        };
        let Some(bytes) = bytes else { return Ok(None) };
        PersistedReservations::from_bytes(&bytes).map(Some).map_err(|problem| {
            // Serving the namespace without its reservations would let a fenced host write.
            let detail = format!("reservations of {name} namespace {nsid} are not usable ({problem}); it is not served");
            Problem::new(ProblemKind::Internal, detail)
        })
    }

    async fn refresh_discovery(&self, registry: &Registry) -> Result<(), Problem> {
        let (entries, generation) = self.directory.publish(
            registry
                .subsystems
                .iter()
                .map(|(nqn, served)| (nqn.clone(), served.home, served.hosts.clone())),
        );
        for shard in 0..self.shards.count() {
            let entries = Arc::clone(&entries);
            self.shards
                .call(shard, move |shard| shard.set_discovery(entries, generation))
                .await?;
        }
        Ok(())
    }
}

fn allowed(hosts: Option<Vec<String>>) -> AllowedHosts {
    hosts.map_or(AllowedHosts::Any, AllowedHosts::Only)
}

fn no_subsystem(nqn: &str) -> Problem {
    Problem::new(
        ProblemKind::NotFound,
        format!("subsystem '{nqn}' is not served"),
    )
}

#[async_trait]
impl DataPlane for Plane {
    async fn open_device(&self, uri: &str) -> Result<DeviceInfo, Problem> {
        self.open(uri).await
    }

    async fn close_device(&self, handle: DeviceHandle) -> Result<(), Problem> {
        self.close(handle).await
    }

    async fn reopen_device(&self, handle: DeviceHandle, uri: &str) -> Result<DeviceInfo, Problem> {
        self.reopen(handle, uri).await
    }

    fn device_fault(&self, handle: DeviceHandle) -> Option<String> {
        self.condition.fault(handle)
    }

    async fn resize_device(
        &self,
        handle: DeviceHandle,
        blocks: Option<u64>,
    ) -> Result<u64, Problem> {
        self.resize(handle, blocks).await
    }

    async fn settle(&self, devices: &[DeviceHandle], writers: Writers) -> Result<(), Problem> {
        Plane::settle(self, devices, writers).await
    }

    async fn add_subsystem(&self, spec: SubsystemSpec) -> Result<(), Problem> {
        let mut registry = self.registry.lock().await;
        let homes = registry.devices.values().map(|opened| opened.home);
        let first = spec
            .namespaces
            .first()
            .and_then(|spec| registry.devices.get(&spec.device));
        let home = first.map_or_else(|| self.shards.least_loaded(homes), |opened| opened.home);
        let mut namespaces = Vec::new();
        for namespace in &spec.namespaces {
            namespaces.push(
                self.namespace(&mut registry, &spec.nqn, home, namespace)
                    .await?,
            );
        }
        let hosts = allowed(spec.allowed_hosts);
        let config = SubsystemConfig {
            nqn: spec.nqn.clone(),
            serial: spec.serial,
            model: None,
            hosts: hosts.clone(),
            cntlid_min: 1,
            cntlid_max: 0xffef,
            ana: true,
        };
        let added = self
            .shards
            .call(home, move |shard| {
                shard.add_subsystem(SubsystemSetup { config, namespaces })
            })
            .await?;
        added.map_err(|error| shard_problem(&spec.nqn, error))?;
        for namespace in &spec.namespaces {
            if let Some(opened) = registry.devices.get_mut(&namespace.device) {
                opened.used_by.push((spec.nqn.clone(), namespace.nsid));
            }
        }
        registry.subsystems.insert(spec.nqn, Served { home, hosts });
        self.refresh_discovery(&registry).await
    }

    async fn remove_subsystem(&self, nqn: &str) -> Result<(), Problem> {
        let mut registry = self.registry.lock().await;
        let home = registry
            .subsystems
            .get(nqn)
            .ok_or_else(|| no_subsystem(nqn))?
            .home;
        let name = nqn.to_owned();
        let removed = self
            .shards
            .call(home, move |shard| shard.remove_subsystem(&name))
            .await?;
        removed.map_err(|error| shard_problem(nqn, error))?;
        registry.subsystems.remove(nqn);
        for opened in registry.devices.values_mut() {
            opened.used_by.retain(|(user, _)| user != nqn);
        }
        self.refresh_discovery(&registry).await?;
        drop(registry);
        self.shards.persisted(home).await
    }

    async fn set_allowed_hosts(
        &self,
        nqn: &str,
        hosts: Option<Vec<String>>,
    ) -> Result<(), Problem> {
        let mut registry = self.registry.lock().await;
        let served = registry
            .subsystems
            .get_mut(nqn)
            .ok_or_else(|| no_subsystem(nqn))?;
        let (name, hosts) = (nqn.to_owned(), allowed(hosts));
        let policy = hosts.clone();
        let set = self
            .shards
            .call(served.home, move |shard| {
                shard.set_allowed_hosts(&name, policy)
            })
            .await?;
        set.map_err(|error| shard_problem(nqn, error))?;
        served.hosts = hosts;
        self.refresh_discovery(&registry).await
    }

    async fn add_namespace(&self, nqn: &str, spec: NamespaceSpec) -> Result<(), Problem> {
        let mut registry = self.registry.lock().await;
        let home = registry
            .subsystems
            .get(nqn)
            .ok_or_else(|| no_subsystem(nqn))?
            .home;
        let namespace = self.namespace(&mut registry, nqn, home, &spec).await?;
        let name = nqn.to_owned();
        let added = self
            .shards
            .call(home, move |shard| shard.add_namespace(&name, namespace))
            .await?;
        added.map_err(|error| shard_problem(nqn, error))?;
        if let Some(opened) = registry.devices.get_mut(&spec.device) {
            opened.used_by.push((nqn.to_owned(), spec.nsid));
        }
        Ok(())
    }

    async fn remove_namespace(&self, nqn: &str, nsid: u32) -> Result<(), Problem> {
        let mut registry = self.registry.lock().await;
        let home = registry
            .subsystems
            .get(nqn)
            .ok_or_else(|| no_subsystem(nqn))?
            .home;
        let name = nqn.to_owned();
        let removed = self
            .shards
            .call(home, move |shard| shard.remove_namespace(&name, nsid))
            .await?;
        removed.map_err(|error| shard_problem(nqn, error))?;
        for opened in registry.devices.values_mut() {
            opened
                .used_by
                .retain(|(user, used)| user != nqn || *used != nsid);
        }
        drop(registry);
        self.shards.persisted(home).await
    }

    async fn command_device(&self, handle: DeviceHandle, command: &str) -> Result<String, Problem> {
        self.command(handle, command).await
    }

    async fn add_export(&self, spec: ExportSpec) -> Result<String, Problem> {
        self.export(spec).await
    }

    async fn remove_export(&self, device: DeviceHandle) -> Result<(), Problem> {
        self.unexport(device).await
    }

    async fn device_warnings(&self) -> Vec<(DeviceHandle, String)> {
        let registry = self.registry.lock().await;
        let devices = registry.devices.iter();
        devices
            .filter_map(|(handle, opened)| Some((*handle, opened.device.as_ref()?.warning()?)))
            .collect()
    }

    async fn changed(&self) {
        self.condition.changed().await;
    }

    async fn losses(&self) -> Vec<(DeviceHandle, Vec<String>)> {
        self.told_of_losses().await
    }

    async fn set_loss(
        &self,
        handle: DeviceHandle,
        told: Option<Vec<String>>,
    ) -> Result<(), Problem> {
        self.tell_loss(handle, told).await
    }

    async fn device_stats(&self) -> Vec<(DeviceHandle, IoStats)> {
        let registry = self.registry.lock().await;
        let mut all = Vec::new();
        for (handle, opened) in &registry.devices {
            let Some(key) = opened.key else { continue };
            if let Ok(Some(stats)) = self
                .shards
                .call(opened.home, move |shard| shard.device_stats(key))
                .await
            {
                all.push((*handle, stats));
            }
        }
        all
    }

    async fn subsystem_stats(&self) -> Vec<(String, IoStats)> {
        let mut all = Vec::new();
        for shard in 0..self.shards.count() {
            if let Ok(stats) = self
                .shards
                .call(shard, |shard| shard.subsystem_stats())
                .await
            {
                all.extend(stats);
            }
        }
        all.sort_by(|a, b| a.0.cmp(&b.0));
        all
    }

    async fn reset_stats(&self) {
        for shard in 0..self.shards.count() {
            let _ = self.shards.call(shard, |shard| shard.reset_stats()).await;
        }
    }

    async fn drop_counts(&self) -> Vec<(&'static str, u64)> {
        let mut all: BTreeMap<&'static str, u64> = BTreeMap::new();
        for shard in 0..self.shards.count() {
            let Ok(figures) = self.shards.call(shard, |shard| shard.figures()).await else {
                continue;
            };
            for (reason, count) in figures.closed {
                *all.entry(reason).or_default() += count;
            }
        }
        all.into_iter().collect()
    }

    async fn reactors(&self) -> Vec<ReactorStats> {
        let mut all = Vec::new();
        for shard in 0..self.shards.count() {
            let figures = self.shards.call(shard, |shard| shard.figures()).await.ok();
            all.push(self.shards.reactor_stats(shard, figures.as_ref()));
        }
        all
    }

    async fn inflight(&self, limit: usize) -> Vec<InflightIo> {
        let registry = self.registry.lock().await;
        let mut all = Vec::new();
        for shard in 0..self.shards.count() {
            let Ok(listed) = self.shards.call(shard, |shard| shard.inflight()).await else {
                continue;
            };
            for io in listed {
                let is_meant = |opened: &Opened| opened.home == shard && opened.key == io.device;
                let device = registry
                    .devices
                    .iter()
                    .find(|(_, opened)| io.device.is_some() && is_meant(opened))
                    .map(|(handle, _)| *handle);
                all.push(calls::inflight(io, device));
            }
        }
        all.sort_by_key(|io| std::cmp::Reverse(io.age));
        all.truncate(limit);
        all
    }

    async fn controllers(&self) -> Vec<ControllerInfo> {
        let mut all = Vec::new();
        for shard in 0..self.shards.count() {
            let Ok(listed) = self.shards.call(shard, |shard| shard.controllers()).await else {
                continue;
            };
            all.extend(
                listed
                    .into_iter()
                    .map(|listed| calls::controller(listed, self.started)),
            );
        }
        all
    }

    fn listeners(&self) -> Vec<SocketAddr> {
        self.shards.listeners().to_vec()
    }

    async fn load_plugin(&self, file: &str) -> Result<PluginInfo, Problem> {
        self.load(file).await
    }

    async fn unload_plugin(&self, name: &str) -> Result<(), Problem> {
        self.unload(name).await
    }

    fn plugins(&self) -> Vec<PluginInfo> {
        self.plugins.plugins()
    }
}
