//! The reactors as the control side sees them: threads, device homes, the directory of subsystems.
//!
//! Does: start and stop reactor threads, keep each open device and the shard it lives on, bring the devices of a
//! subsystem together on one shard, keep every shard's discovery in step, carry reservation records to the store.
//! Does not: name, persist or identify anything (control does), nor touch I/O (shards do).
//!
//! Invariants: an open device has its queue on exactly one shard, its home; a subsystem and all its devices share one.

mod calls;
mod directory;
mod persist;
mod plugins;
mod settings;
mod shards;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use async_trait::async_trait;
use block::DeviceConfig;
use nvme_target::{
    AllowedHosts, DeviceKey, NamespaceConfig, PersistedReservations, SubsystemConfig,
};
use plugin_host::PluginHost;
use sdk::block::{Device, DeviceDriver, Geometry, Support};
use sdk::uri::{DeviceUri, UriError};
use tokio::sync::Mutex;
use units::Blocks;
use uuid::Uuid;

use crate::control::dataplane::{
    ControllerInfo, DataPlane, DeviceHandle, DeviceInfo, InflightIo, NamespaceSpec, Problem,
    ProblemKind, ReactorStats, SubsystemSpec,
};
use crate::control::stats::IoStats;
use crate::shard::{DeviceSetup, SubsystemSetup};

use calls::{open_problem, shard_problem};
use directory::Directory;
pub use persist::ReservationStore;
pub use plugins::{LINKED, linked};
pub use shards::PlaneConfig;
use shards::Shards;

/// How long a quiesced reactor may take to finish its device operations before it is stopped regardless.
const DRAIN_MAX: Duration = Duration::from_secs(10);

/// The reactors and what they serve.
pub struct Plane {
    shards: Shards,
    directory: Arc<Directory>,
    drivers: Arc<Vec<Box<dyn DeviceDriver>>>,
    reservations: Arc<dyn ReservationStore>,
    registry: Mutex<Registry>,
    device: DeviceConfig,
    started: (Instant, SystemTime),
}

#[derive(Default)]
struct Registry {
    next_handle: u64,
    devices: BTreeMap<DeviceHandle, Opened>,
    subsystems: BTreeMap<String, Served>,
}

struct Opened {
    device: Box<dyn Device>,
    home: usize,
    /// Its place on `home`; none while it is moving, and after a move that failed.
    key: Option<DeviceKey>,
    /// Subsystem NQN and namespace id that refer to it.
    used_by: Vec<(String, u32)>,
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
        Self::start_with(config, reservations, &linked(None, None))
    }

    /// Starts with the devices and the transport of these plugins.
    ///
    /// # Errors
    /// As [`Plane::start`]; `Internal` when no plugin brings the transport `tcp`.
    pub fn start_with(
        config: PlaneConfig,
        reservations: Arc<dyn ReservationStore>,
        plugins: &PluginHost,
    ) -> Result<Arc<Self>, Problem> {
        let directory = Arc::new(Directory::default());
        let device = config.device.clone();
        let shards = Shards::start(
            config,
            Arc::clone(&directory),
            Arc::clone(&reservations),
            plugins,
        )?;
        let drivers = plugins.drivers();
        Ok(Arc::new(Self {
            shards,
            directory,
            drivers: Arc::new(drivers),
            reservations,
            registry: Mutex::new(Registry::default()),
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
    }

    fn driver_for(&self, uri: &DeviceUri) -> Result<usize, Problem> {
        self.drivers
            .iter()
            .position(|driver| driver.schemes().contains(&uri.scheme()))
            .ok_or_else(|| {
                let mut known: Vec<&str> = self
                    .drivers
                    .iter()
                    .flat_map(|driver| driver.schemes())
                    .copied()
                    .collect();
                known.sort_unstable();
                let error = UriError::UnknownScheme {
                    scheme: uri.scheme().to_owned(),
                    known: known.join(", "),
                };
                Problem::new(ProblemKind::InvalidUri, error.to_string())
            })
    }

    /// Opens a queue of `device` on `home`.
    async fn place(&self, device: &mut Box<dyn Device>, home: usize) -> Result<DeviceKey, Problem> {
        let seed = device.open_queue().map_err(|error| open_problem(&error))?;
        let name = device.name().to_owned();
        let setup = DeviceSetup {
            seed,
            geometry: device.geometry(),
            capabilities: device.capabilities(),
            config: DeviceConfig {
                name: name.clone(),
                ..self.device.clone()
            },
        };
        let placed = self
            .shards
            .call(home, move |shard| shard.open_device(setup))
            .await?;
        placed.map_err(|error| shard_problem(&name, error))
    }

    /// Brings a device to `home`; it is not in use.
    async fn bring(&self, opened: &mut Opened, home: usize) -> Result<(), Problem> {
        if opened.home == home && opened.key.is_some() {
            return Ok(());
        }
        if let Some(key) = opened.key {
            let name = opened.device.name().to_owned();
            let closed = self
                .shards
                .call(opened.home, move |shard| shard.close_device(key))
                .await?;
            closed.map_err(|error| shard_problem(&name, error))?;
            // The slot is another device's from here on.
            opened.key = None;
        }
        opened.key = Some(self.place(&mut opened.device, home).await?);
        opened.home = home;
        Ok(())
    }

    async fn namespace(
        &self,
        registry: &mut Registry,
        nqn: &str,
        home: usize,
        spec: &NamespaceSpec,
    ) -> Result<NamespaceConfig, Problem> {
        let reservations = self.load_reservations(nqn, spec.nsid).await?;
        let opened = registry
            .devices
            .get_mut(&spec.device)
            .ok_or_else(|| no_device(spec.device))?;
        if let Some((user, nsid)) = opened.used_by.first() {
            let name = opened.device.name();
            let detail =
                format!("device '{name}' is namespace {nsid} of {user}; remove it there first");
            return Err(Problem::new(ProblemKind::Busy, detail));
        }
        self.bring(opened, home).await?;
        let key = opened.key.ok_or_else(|| no_device(spec.device))?;
        let geometry = opened.device.geometry();
        let capabilities = opened.device.capabilities();
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

fn no_device(handle: DeviceHandle) -> Problem {
    Problem::new(
        ProblemKind::NotFound,
        format!("device handle {} is not open", handle.0),
    )
}

fn no_subsystem(nqn: &str) -> Problem {
    Problem::new(
        ProblemKind::NotFound,
        format!("subsystem '{nqn}' is not served"),
    )
}

fn info(handle: DeviceHandle, device: &dyn Device) -> DeviceInfo {
    let geometry = device.geometry();
    DeviceInfo {
        handle,
        name: device.name().to_owned(),
        product_name: device.product_name().to_owned(),
        block_size: geometry.block_size.bytes(),
        blocks: geometry.blocks.0,
        uuid: device.uuid().map(Uuid::from_bytes),
        capabilities: describe(device),
    }
}

fn describe(device: &dyn Device) -> String {
    let capabilities = device.capabilities();
    let word = |support| match support {
        Support::None => "none",
        Support::Emulated => "emulated",
        Support::Native => "native",
    };
    let direct = match capabilities.direct {
        Some(true) => "O_DIRECT, ",
        Some(false) => "page cache (O_DIRECT refused), ",
        None => "",
    };
    format!(
        "{direct}discard {}, write zeroes {}, {} cache",
        word(capabilities.discard),
        word(capabilities.write_zeroes),
        if capabilities.volatile_cache {
            "volatile"
        } else {
            "no volatile"
        },
    )
}

#[async_trait]
impl DataPlane for Plane {
    async fn open_device(&self, uri: &str) -> Result<DeviceInfo, Problem> {
        let uri = DeviceUri::parse(uri)
            .map_err(|error| Problem::new(ProblemKind::InvalidUri, error.to_string()))?;
        let driver = self.driver_for(&uri)?;
        let drivers = Arc::clone(&self.drivers);
        let opened = tokio::task::spawn_blocking(move || drivers[driver].open(uri)).await;
        let mut device = match opened {
            Ok(device) => device.map_err(|error| open_problem(&error))?,
            Err(_) => {
                return Err(Problem::new(
                    ProblemKind::Internal,
                    "the device driver panicked while opening",
                ));
            }
        };
        let mut registry = self.registry.lock().await;
        let home = self
            .shards
            .least_loaded(registry.devices.values().map(|opened| opened.home));
        let key = self.place(&mut device, home).await?;
        let handle = DeviceHandle(registry.next_handle);
        registry.next_handle += 1;
        let info = info(handle, &*device);
        registry.devices.insert(
            handle,
            Opened {
                device,
                home,
                key: Some(key),
                used_by: Vec::new(),
            },
        );
        Ok(info)
    }

    async fn close_device(&self, handle: DeviceHandle) -> Result<(), Problem> {
        let mut registry = self.registry.lock().await;
        let opened = registry
            .devices
            .get(&handle)
            .ok_or_else(|| no_device(handle))?;
        if let Some((nqn, nsid)) = opened.used_by.first() {
            let detail = format!(
                "device '{}' is namespace {nsid} of {nqn}; unshare it first",
                opened.device.name()
            );
            return Err(Problem::new(ProblemKind::Busy, detail));
        }
        let (home, key, name) = (opened.home, opened.key, opened.device.name().to_owned());
        let deadline = Instant::now() + DRAIN_MAX;
        while let Some(key) = key {
            match self
                .shards
                .call(home, move |shard| shard.close_device(key))
                .await?
            {
                Ok(()) => break,
                Err(error) if Instant::now() >= deadline => {
                    return Err(shard_problem(&name, error));
                }
                Err(_) => tokio::time::sleep(Duration::from_millis(5)).await,
            }
        }
        if let Some(opened) = registry.devices.remove(&handle) {
            // Closing a file may block.
            let _ = tokio::task::spawn_blocking(move || drop(opened)).await;
        }
        Ok(())
    }

    async fn resize_device(
        &self,
        handle: DeviceHandle,
        blocks: Option<u64>,
    ) -> Result<u64, Problem> {
        let mut registry = self.registry.lock().await;
        let opened = registry
            .devices
            .get_mut(&handle)
            .ok_or_else(|| no_device(handle))?;
        let geometry: Geometry = opened
            .device
            .resize(blocks.map(Blocks))
            .map_err(|error| open_problem(&error))?;
        let (Some(key), name) = (opened.key, opened.device.name().to_owned()) else {
            // Without a place it has no queue to tell.
            return Ok(geometry.blocks.0);
        };
        let resized = self
            .shards
            .call(opened.home, move |shard| shard.resize_device(key, geometry))
            .await?;
        resized.map_err(|error| shard_problem(&name, error))?;
        Ok(geometry.blocks.0)
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
        self.refresh_discovery(&registry).await
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
        Ok(())
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
                all.push((*handle, calls::stats(&stats)));
            }
        }
        all
    }

    async fn subsystem_stats(&self) -> Vec<(String, IoStats)> {
        let by_device: BTreeMap<_, _> = self.device_stats().await.into_iter().collect();
        let registry = self.registry.lock().await;
        let mut all: BTreeMap<String, IoStats> = registry
            .subsystems
            .keys()
            .map(|nqn| (nqn.clone(), IoStats::default()))
            .collect();
        for (handle, opened) in &registry.devices {
            let Some(stats) = by_device.get(handle) else {
                continue;
            };
            for (nqn, _) in &opened.used_by {
                if let Some(sum) = all.get_mut(nqn) {
                    sum.merge(stats);
                }
            }
        }
        all.into_iter().collect()
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
                let device = registry
                    .devices
                    .iter()
                    .find(|(_, opened)| opened.home == shard && opened.key == Some(io.device))
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
}
