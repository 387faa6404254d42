//! Open devices: opening, moving between shards, opening again after a loss, sizes, and waiting for what they still hold.
//!
//! Invariants:
//! - An open device has its queue on exactly one shard, its home, under one key. While it is opened again the key stays its
//!   own, so that the namespaces on it never reach another device.
//! - A device is opened again only when nothing is left in the old one: an operation that has not ended could overwrite what
//!   is written through the new one.

use std::collections::BTreeMap;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::{Duration, Instant};

use block::{DeviceConfig, Health};
use nvme_target::DeviceKey;
use sdk::block::{Device, DeviceDriver, Geometry, Support};
use sdk::uri::DeviceUri;
use tokio::sync::Notify;
use units::Blocks;
use uuid::Uuid;

use super::calls::{open_problem, shard_problem};
use super::exports::Exported;
use super::{DRAIN_MAX, Plane, Registry};
use crate::control::dataplane::{DeviceHandle, DeviceInfo, Problem, ProblemKind, Writers};
use crate::shard::{self, DeviceSetup, Placed, ShardError, Unsettled};

/// How long a device that is asked again and again whether it is idle is left alone.
const PAUSE: Duration = Duration::from_millis(5);
/// Scheme of devices that go wrong as told, and may hold operations back for ever.
const FAULTS: &str = "fault";
/// Longest wait for changes of data to end; the device deadline, if that is shorter: past it they are overdue.
const SETTLE_MAX: Duration = Duration::from_secs(10);

/// A device the control side has a handle of.
pub(super) struct Opened {
    pub(super) name: String,
    pub(super) scheme: String,
    /// None while it is opened again, and after that failed.
    pub(super) device: Option<Box<dyn Device>>,
    /// The size hosts know.
    geometry: Geometry,
    pub(super) home: usize,
    /// Its place on `home`; none while it is moving, and after a move that failed.
    pub(super) key: Option<DeviceKey>,
    /// Subsystem NQN and namespace id that refer to it.
    pub(super) used_by: Vec<(String, u32)>,
    /// How it is served over another protocol.
    pub(super) exported: Option<Exported>,
    is_reopening: bool,
}

impl Opened {
    /// Has a fault device answer what it holds back, which would keep it from being closed.
    fn let_go(&mut self) {
        if let Some(device) = self.device.as_deref_mut().filter(|_| self.scheme == FAULTS) {
            // One that refuses is closed like any other that holds on to something.
            let _ = device.handle_command("release");
        }
    }
}

/// How each device is. Apart from the registry, because it is asked for without waiting.
#[derive(Default)]
pub(super) struct Condition {
    states: RwLock<BTreeMap<DeviceHandle, State>>,
    /// A device went offline, or a host was told of a loss.
    changed: Arc<Notify>,
}

enum State {
    /// Its reactor tells.
    Watched(Arc<Health>),
    /// It is not open, for this reason.
    Closed(String),
}

impl Condition {
    fn set(&self, handle: DeviceHandle, state: State) {
        if let State::Watched(health) = &state {
            let changed = Arc::clone(&self.changed);
            health.listen(Arc::new(move || changed.notify_one()));
        }
        // A panic while the lock is held cannot leave a half-made change: each is one insertion or removal.
        let mut states = self.states.write().unwrap_or_else(PoisonError::into_inner);
        states.insert(handle, state);
    }

    /// Waits until something is to be looked at, since the last time.
    pub(super) async fn changed(&self) {
        self.changed.notified().await;
    }

    fn forget(&self, handle: DeviceHandle) {
        let mut states = self.states.write().unwrap_or_else(PoisonError::into_inner);
        states.remove(&handle);
    }

    /// Why a device does no I/O, if it does none.
    pub(super) fn fault(&self, handle: DeviceHandle) -> Option<String> {
        let states = self.states.read().unwrap_or_else(PoisonError::into_inner);
        match states.get(&handle)? {
            State::Watched(health) => {
                let reason = health.offline_reason()?;
                Some(format!("offline: {reason}; mend it, then bdev rescan"))
            }
            State::Closed(reason) => Some(reason.clone()),
        }
    }
}

impl Plane {
    /// The driver for a device URI, and the URI.
    fn driver_for(&self, text: &str) -> Result<(Arc<dyn DeviceDriver>, DeviceUri), Problem> {
        let uri = DeviceUri::parse(text)
            .map_err(|error| Problem::new(ProblemKind::InvalidUri, error.to_string()))?;
        self.drivers
            .of(&uri)
            .map(|driver| (driver, uri))
            .map_err(|error| Problem::new(ProblemKind::InvalidUri, error.to_string()))
    }

    async fn open_with(
        &self,
        driver: Arc<dyn DeviceDriver>,
        uri: DeviceUri,
    ) -> Result<Box<dyn Device>, Problem> {
        match tokio::task::spawn_blocking(move || driver.open(uri)).await {
            Ok(device) => device.map_err(|error| open_problem(&error)),
            Err(_) => Err(Problem::new(
                ProblemKind::Internal,
                "the device driver panicked while opening",
            )),
        }
    }

    pub(super) async fn open(&self, uri: &str) -> Result<DeviceInfo, Problem> {
        let (driver, uri) = self.driver_for(uri)?;
        let scheme = uri.scheme().to_owned();
        let mut device = self.open_with(driver, uri).await?;
        let mut registry = self.registry.lock().await;
        let home = self
            .shards
            .least_loaded(registry.devices.values().map(|opened| opened.home));
        let (key, health) = self.place(&mut *device, &scheme, home).await?;
        let handle = DeviceHandle(registry.next_handle);
        registry.next_handle += 1;
        self.condition.set(handle, State::Watched(health));
        let info = info(handle, &*device);
        let opened = Opened {
            name: info.name.clone(),
            scheme,
            geometry: device.geometry(),
            device: Some(device),
            home,
            key: Some(key),
            used_by: Vec::new(),
            exported: None,
            is_reopening: false,
        };
        registry.devices.insert(handle, opened);
        Ok(info)
    }

    fn setup(&self, device: &mut dyn Device, scheme: &str) -> Result<DeviceSetup, Problem> {
        // One operation past its deadline says that the reactor of an isolated plugin is blocked, and the next would wait as
        // long for nothing; elsewhere a plugin that loses single operations is borne with.
        let overdue_max = match self.plugins.is_isolated(scheme) {
            true => 0,
            false => self.device.overdue_max,
        };
        Ok(DeviceSetup {
            seed: device.open_queue().map_err(|error| open_problem(&error))?,
            geometry: device.geometry(),
            capabilities: device.capabilities(),
            config: DeviceConfig {
                name: device.name().to_owned(),
                overdue_max,
                ..self.device.clone()
            },
        })
    }

    /// Opens a queue of `device` on `home`.
    async fn place(
        &self,
        device: &mut dyn Device,
        scheme: &str,
        home: usize,
    ) -> Result<Placed, Problem> {
        let setup = self.setup(device, scheme)?;
        let placed = self
            .shards
            .call(home, move |shard| shard.open_device(setup))
            .await?;
        placed.map_err(|error| shard_problem(device.name(), error))
    }

    /// Brings a device, which no namespace refers to, to `home`.
    pub(super) async fn bring(
        &self,
        handle: DeviceHandle,
        opened: &mut Opened,
        home: usize,
    ) -> Result<DeviceKey, Problem> {
        let Some(device) = opened.device.as_deref_mut() else {
            return Err(not_open(&opened.name));
        };
        let mut loss = None;
        if let Some(key) = opened.key {
            if opened.home == home {
                return Ok(key);
            }
            let told = self.shards.call(opened.home, move |shard| shard.loss(key));
            loss = told.await?;
            let closed = self
                .shards
                .call(opened.home, move |shard| shard.close_device(key))
                .await?;
            closed.map_err(|error| shard_problem(&opened.name, error))?;
            // The place is another device's from here on.
            opened.key = None;
        }
        let (key, health) = self.place(device, &opened.scheme, home).await?;
        self.condition.set(handle, State::Watched(health));
        opened.key = Some(key);
        opened.home = home;
        if loss.is_some() {
            let moved = self
                .shards
                .call(home, move |shard| shard.set_loss(key, loss));
            moved.await?;
        }
        Ok(key)
    }

    /// Open devices of which hosts are to be told of a loss, with the hosts that know.
    pub(super) async fn told_of_losses(&self) -> Vec<(DeviceHandle, Vec<String>)> {
        let registry = self.registry.lock().await;
        let mut all = Vec::new();
        for (handle, opened) in &registry.devices {
            let Some(key) = opened.key else { continue };
            let loss = self.shards.call(opened.home, move |shard| shard.loss(key));
            if let Ok(Some(told)) = loss.await {
                all.push((*handle, told));
            }
        }
        all
    }

    pub(super) async fn tell_loss(
        &self,
        handle: DeviceHandle,
        told: Option<Vec<String>>,
    ) -> Result<(), Problem> {
        let mut registry = self.registry.lock().await;
        let opened = find(&mut registry, handle)?;
        let Some(key) = opened.key else {
            return Err(not_open(&opened.name));
        };
        let set = self
            .shards
            .call(opened.home, move |shard| shard.set_loss(key, told));
        set.await
    }

    pub(super) async fn close(&self, handle: DeviceHandle) -> Result<(), Problem> {
        let mut registry = self.registry.lock().await;
        let opened = find(&mut registry, handle)?;
        if let Some((nqn, nsid)) = opened.used_by.first() {
            let detail = format!(
                "device '{}' is namespace {nsid} of {nqn}; unshare it first",
                opened.name
            );
            return Err(Problem::new(ProblemKind::Busy, detail));
        }
        if let Some(exported) = &opened.exported {
            let (name, protocol) = (&opened.name, &exported.protocol);
            let detail = format!("device '{name}' is shared over {protocol}; unshare it first");
            return Err(Problem::new(ProblemKind::Busy, detail));
        }
        opened.let_go();
        let (home, key, name) = (opened.home, opened.key, opened.name.clone());
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
                Err(_) => tokio::time::sleep(PAUSE).await,
            }
        }
        self.condition.forget(handle);
        if let Some(opened) = registry.devices.remove(&handle) {
            release(opened.device).await;
        }
        Ok(())
    }

    /// Closes a device and opens it again from `uri`, under the same handle and key. Namespaces stay, and I/O on them fails
    /// meanwhile, and if it does not open.
    pub(super) async fn reopen(
        &self,
        handle: DeviceHandle,
        uri: &str,
    ) -> Result<DeviceInfo, Problem> {
        let (driver, uri) = self.driver_for(uri)?;
        let (home, key) = {
            let mut registry = self.registry.lock().await;
            let opened = find(&mut registry, handle)?;
            if std::mem::replace(&mut opened.is_reopening, true) {
                let detail = format!(
                    "device '{}' is being opened already; wait for it",
                    opened.name
                );
                return Err(Problem::new(ProblemKind::Busy, detail));
            }
            opened.let_go();
            (opened.home, opened.key)
        };
        let taken_out = match key {
            Some(key) => self.take_out(home, key).await,
            None => Ok(()),
        };
        let old = {
            let mut registry = self.registry.lock().await;
            let opened = find(&mut registry, handle)?;
            if let Err(error) = taken_out {
                opened.is_reopening = false;
                return Err(still_held(&opened.name, error));
            }
            opened.device.take()
        };
        let text = "it is being opened again".to_owned();
        self.condition.set(handle, State::Closed(text));
        // The claim on the file ends with the old device.
        release(old).await;
        let device = self.open_with(driver, uri).await;
        let mut registry = self.registry.lock().await;
        let opened = find(&mut registry, handle)?;
        opened.is_reopening = false;
        let put_back = match device {
            Ok(device) => self.put_back(handle, opened, device).await,
            Err(problem) => Err(problem),
        };
        if let Err(problem) = &put_back {
            let reason = format!("{problem}; mend it, then bdev rescan");
            self.condition.set(handle, State::Closed(reason));
        }
        put_back
    }

    async fn take_out(&self, home: usize, key: DeviceKey) -> Result<(), ShardError> {
        let deadline = Instant::now() + DRAIN_MAX.min(self.device.deadline);
        loop {
            let taken = self
                .shards
                .call(home, move |shard| shard.take_device_out(key))
                .await;
            match taken {
                Ok(Ok(())) => return Ok(()),
                Ok(Err(error)) if Instant::now() >= deadline => return Err(error),
                // A reactor that does not answer has the device for as long.
                Err(_) => return Err(ShardError::Busy(0)),
                Ok(Err(_)) => tokio::time::sleep(PAUSE).await,
            }
        }
    }

    async fn put_back(
        &self,
        handle: DeviceHandle,
        opened: &mut Opened,
        mut device: Box<dyn Device>,
    ) -> Result<DeviceInfo, Problem> {
        let (known, found) = (opened.geometry, device.geometry());
        if found.block_size != known.block_size {
            let detail = format!(
                "device '{}' has blocks of {} bytes, and hosts know it with {}; give blk_size={2}, or destroy it and create it anew",
                opened.name,
                found.block_size.bytes(),
                known.block_size.bytes(),
            );
            return Err(Problem::new(ProblemKind::InvalidArgument, detail));
        }
        let (key, health) = match opened.key {
            Some(key) => {
                let setup = self.setup(&mut *device, &opened.scheme)?;
                let placed = self
                    .shards
                    .call(opened.home, move |shard| shard.put_device_back(key, setup))
                    .await?;
                placed.map_err(|error| shard_problem(&opened.name, error))?
            }
            None => {
                let (scheme, home) = (opened.scheme.as_str(), opened.home);
                self.place(&mut *device, scheme, home).await?
            }
        };
        self.condition.set(handle, State::Watched(health));
        if let Some(exported) = opened.exported.as_ref().filter(|_| found != known) {
            self.resize_volume(exported, found).await?;
        }
        let info = info(handle, &*device);
        opened.key = Some(key);
        opened.geometry = found;
        opened.device = Some(device);
        Ok(info)
    }

    /// Has a device obey a command of its own language; it answers with text.
    pub(super) async fn command(
        &self,
        handle: DeviceHandle,
        command: &str,
    ) -> Result<String, Problem> {
        let mut registry = self.registry.lock().await;
        let opened = find(&mut registry, handle)?;
        let Some(device) = opened.device.as_deref_mut() else {
            return Err(not_open(&opened.name));
        };
        let answer = device.handle_command(command);
        answer.map_err(|error| open_problem(&error))
    }

    pub(super) async fn resize(
        &self,
        handle: DeviceHandle,
        blocks: Option<u64>,
    ) -> Result<u64, Problem> {
        let mut registry = self.registry.lock().await;
        let opened = find(&mut registry, handle)?;
        let Some(device) = opened.device.as_deref_mut() else {
            return Err(not_open(&opened.name));
        };
        let geometry = device
            .resize(blocks.map(Blocks))
            .map_err(|error| open_problem(&error))?;
        if geometry.blocks.0 == 0 {
            let detail = format!(
                "device '{}' says it is empty; it keeps its size of {} blocks: give its medium a size, then rescan",
                opened.name, opened.geometry.blocks.0
            );
            return Err(Problem::new(ProblemKind::InvalidArgument, detail));
        }
        // Without a place it has no queue to tell.
        if let Some(key) = opened.key {
            let resized = self
                .shards
                .call(opened.home, move |shard| shard.resize_device(key, geometry))
                .await?;
            resized.map_err(|error| shard_problem(&opened.name, error))?;
        }
        // What its shard refused is not its size.
        opened.geometry = geometry;
        if let Some(exported) = &opened.exported {
            self.resize_volume(exported, geometry).await?;
        }
        Ok(geometry.blocks.0)
    }

    /// Waits, for a bounded time, until what `writers` have in the devices can no longer change their data.
    pub(super) async fn settle(
        &self,
        devices: &[DeviceHandle],
        writers: Writers,
    ) -> Result<(), Problem> {
        let mut homes: BTreeMap<usize, Vec<DeviceKey>> = BTreeMap::new();
        let mut names = Vec::new();
        {
            let registry = self.registry.lock().await;
            for opened in devices
                .iter()
                .filter_map(|handle| registry.devices.get(handle))
            {
                names.push(format!("'{}'", opened.name));
                homes.entry(opened.home).or_default().extend(opened.key);
            }
        }
        let deadline = Instant::now() + SETTLE_MAX.min(self.device.deadline);
        let whose = match writers {
            Writers::All => shard::Writers::All,
            Writers::Gone => shard::Writers::Gone,
        };
        let mut left: Vec<(usize, Unsettled)> = Vec::new();
        for (home, keys) in homes {
            let found = self
                .shards
                .call(home, move |shard| shard.unsettled(&keys, whose))
                .await?;
            left.push((home, found));
        }
        loop {
            left.retain(|(_, changes)| !changes.is_empty());
            if left.is_empty() {
                return Ok(());
            }
            if Instant::now() >= deadline {
                let count: usize = left.iter().map(|(_, changes)| changes.len()).sum();
                let detail = format!(
                    "{count} writes of hosts that are gone are still in device {} and may change its data until they end; \
                     look at io-engine-client inflight, then repeat the command to wait for them again",
                    names.join(", ")
                );
                return Err(Problem::new(ProblemKind::Timeout, detail));
            }
            tokio::time::sleep(PAUSE).await;
            for (home, changes) in &mut left {
                let before = std::mem::take(changes);
                *changes = self
                    .shards
                    .call(*home, move |shard| shard.still_unsettled(before))
                    .await?;
            }
        }
    }
}

pub(super) fn find(registry: &mut Registry, handle: DeviceHandle) -> Result<&mut Opened, Problem> {
    registry
        .devices
        .get_mut(&handle)
        .ok_or_else(|| no_device(handle))
}

/// Lets go of a device: closing a file may block.
async fn release(device: Option<Box<dyn Device>>) {
    let _ = tokio::task::spawn_blocking(move || drop(device)).await;
}

fn no_device(handle: DeviceHandle) -> Problem {
    Problem::new(
        ProblemKind::NotFound,
        format!("device handle {} is not open", handle.0),
    )
}

pub(super) fn not_open(name: &str) -> Problem {
    Problem::new(
        ProblemKind::Busy,
        format!("device '{name}' is not open; mend it, then bdev rescan"),
    )
}

fn still_held(name: &str, error: ShardError) -> Problem {
    match error {
        ShardError::Busy(count) => {
            let detail = format!(
                "device '{name}' cannot be opened again: {count} operations from before are still in it, and could overwrite \
                 later ones; try again when they have ended (io-engine-client inflight), or restart the engine"
            );
            Problem::new(ProblemKind::Busy, detail)
        }
        other => shard_problem(name, other),
    }
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
