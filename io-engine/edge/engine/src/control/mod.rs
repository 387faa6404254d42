//! The control side: which devices and subsystems exist, what they are called, and what is durable.
//!
//! What it decides: the order of storing and acting, identities, idempotence, what a failed device means for others.
//! What it does not: how a device does I/O or a subsystem is served ([`dataplane::DataPlane`]), nor the wire format of
//! requests (the gRPC crate).
//!
//! Invariants:
//! - Changes run one after another; a change that was started is finished even when its caller hangs up. A device that is
//!   opened for the first time is no change until it is open, so that one that hangs holds up nobody.
//! - A device record is stored once the device is open; everything a host can see (serial, uuid, NGUID, allow list) is
//!   stored before the subsystem or namespace is served; a removal is stored before it is carried out. So a crash at any
//!   point leaves a store whose replay is either the state before the change or the one after it.
//! - A device that cannot be opened keeps its record, is listed as faulted with the reason, is tried again on demand, and
//!   keeps no other device from being served. A subsystem is served when all of its devices are open: served without
//!   one, its hosts would drop that disk instead of waiting for it.
//! - A change of a faulted object's neighbours never waits for it: opening has a deadline.

pub mod block_devices;
pub mod dataplane;
pub mod declared;
pub mod identity;
pub mod usage;

mod bdevs;
mod device_uri;
mod exports;
mod losses;
mod registry;
mod replay;
mod shares;

#[cfg(any(test, feature = "fake"))]
pub mod fake;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::time::Duration;

use plugin_host::PluginInfo;
use uuid::Uuid;

use crate::store::{Change, Store, StoreError};
use dataplane::{ControllerInfo, DataPlane, InflightIo, Problem, ProblemKind, ReactorStats};
use registry::State;
use stats::IoStats;

pub use block::stats;
pub use registry::{Bdev, NamespaceView, SubsystemView};
pub(crate) use shares::SUBSYSTEMS_MAX;

/// What the control side is told at start.
#[derive(Clone, Debug)]
pub struct Options {
    /// Name of this node.
    pub node_name: String,
    /// Version text.
    pub version: String,
    /// Address told to clients when the target listens on all; `None` finds the one of the default route.
    pub advertise: Option<IpAddr>,
    /// Time a device has to open.
    pub open_deadline: Duration,
    /// Devices to create and share unless they exist.
    pub declared: Vec<engine_config::DeclaredDevice>,
}

/// The control object. Cheap to share; every method may be called from any task.
#[derive(Debug)]
pub struct Engine {
    plane: PlaneRef,
    store: Arc<Store>,
    options: Options,
    instance: Uuid,
    /// Held while a change is carried out.
    changes: tokio::sync::Mutex<()>,
    /// Held while losses are looked at and stored, which waits for no change.
    losses: tokio::sync::Mutex<()>,
    /// Never held across an await.
    state: RwLock<State>,
}

/// The data plane behind a pointer that prints.
struct PlaneRef(Arc<dyn DataPlane>);

impl std::fmt::Debug for PlaneRef {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("DataPlane")
    }
}

/// Counters of one object.
#[derive(Clone, Debug)]
pub struct ObjectStats {
    /// `device` or `subsystem`.
    pub kind: &'static str,
    /// Device name or subsystem NQN.
    pub name: String,
    /// Counters.
    pub stats: IoStats,
}

impl Engine {
    /// Takes over what `store` holds: opens its devices, serves its subsystems, then creates what is declared and does
    /// not exist. A device or subsystem that cannot be brought up is logged and listed as faulted; one that takes long
    /// is brought up after this returns.
    ///
    /// # Errors
    /// The store cannot be read, or a record in it is damaged.
    pub async fn start(
        store: Arc<Store>,
        plane: Arc<dyn DataPlane>,
        options: Options,
    ) -> Result<Arc<Self>, StoreError> {
        let engine = Arc::new(Self {
            plane: PlaneRef(plane),
            store,
            options,
            instance: Uuid::new_v4(),
            changes: tokio::sync::Mutex::new(()),
            losses: tokio::sync::Mutex::new(()),
            state: RwLock::new(State::default()),
        });
        engine.replay().await?;
        engine.watch_losses();
        Ok(engine)
    }

    /// Name of this node.
    pub fn node_name(&self) -> &str {
        &self.options.node_name
    }

    /// Version text.
    pub fn version(&self) -> &str {
        &self.options.version
    }

    /// New at every start.
    pub fn instance(&self) -> Uuid {
        self.instance
    }

    /// Addresses the target listens on, with the real ports.
    pub fn listening(&self) -> Vec<SocketAddr> {
        self.plane().listeners()
    }

    /// The plugins there are, in the order they were taken in.
    pub fn plugins(&self) -> Vec<PluginInfo> {
        self.plane().plugins()
    }

    /// Loads a plugin from one of the configured directories, and brings up the devices that waited for it.
    ///
    /// # Errors
    /// Those of [`DataPlane::load_plugin`]. A device that does not open is logged and stays faulted.
    pub async fn load_plugin(self: &Arc<Self>, file: &str) -> Result<PluginInfo, Problem> {
        let file = file.to_owned();
        let loaded = self
            .change(|engine| async move { engine.plane().load_plugin(&file).await })
            .await?;
        let (engine, schemes) = (Arc::clone(self), loaded.schemes.clone());
        // In a task of its own, which a caller that hangs up does not end.
        let waited = tokio::spawn(async move { engine.open_waiting(&schemes).await });
        if let Err(error) = waited.await {
            tracing::error!(%error, "opening the devices that waited for a plugin failed unexpectedly");
        }
        Ok(loaded)
    }

    /// Takes out a loaded plugin that nothing uses.
    ///
    /// # Errors
    /// Those of [`DataPlane::unload_plugin`].
    pub async fn unload_plugin(self: &Arc<Self>, name: &str) -> Result<(), Problem> {
        let name = name.to_owned();
        self.change(|engine| async move { engine.plane().unload_plugin(&name).await })
            .await
    }

    /// Addresses the target listens on, as a client can reach them.
    pub fn reachable(&self) -> Vec<SocketAddr> {
        let advertise = |address: SocketAddr| {
            if !address.ip().is_unspecified() {
                return address;
            }
            SocketAddr::new(
                self.options.advertise.unwrap_or_else(default_route_address),
                address.port(),
            )
        };
        let mut reachable: Vec<SocketAddr> = self
            .plane()
            .listeners()
            .into_iter()
            .map(advertise)
            .collect();
        reachable.dedup();
        reachable
    }

    /// Where to connect to a subsystem: `nvmf+tcp://ADDR:PORT/NQN`, one an address.
    pub fn share_uris(&self, nqn: &str) -> Vec<String> {
        self.reachable()
            .iter()
            .map(|address| format!("nvmf+tcp://{address}/{nqn}"))
            .collect()
    }

    /// Load of every reactor.
    pub async fn reactors(&self) -> Vec<ReactorStats> {
        self.plane().reactors().await
    }

    /// Commands that have not been answered, oldest first, at most `limit`.
    pub async fn inflight(&self, limit: usize) -> Vec<InflightIo> {
        self.plane().inflight(limit).await
    }

    /// Hosts' associations, ascending by subsystem and controller id.
    pub async fn controllers(&self) -> Vec<ControllerInfo> {
        let mut controllers = self.plane().controllers().await;
        controllers.sort_by(|a, b| (&a.subnqn, a.cntlid).cmp(&(&b.subnqn, b.cntlid)));
        controllers
    }

    /// Connections and commands dropped or refused since start, by reason.
    pub async fn drop_counts(&self) -> Vec<(&'static str, u64)> {
        self.plane().drop_counts().await
    }

    /// Counters of every device and every subsystem, in order of name.
    pub async fn io_stats(&self) -> Vec<ObjectStats> {
        let by_handle = self.plane().device_stats().await;
        let subsystems = self.plane().subsystem_stats().await;
        let state = self.read();
        let mut all: Vec<ObjectStats> = by_handle
            .into_iter()
            .filter_map(|(handle, stats)| {
                let name = state.name_of(handle)?.to_owned();
                Some(ObjectStats {
                    kind: "device",
                    name,
                    stats,
                })
            })
            .chain(subsystems.into_iter().map(|(name, stats)| ObjectStats {
                kind: "subsystem",
                name,
                stats,
            }))
            .collect();
        all.sort_by(|a, b| (a.kind, &a.name).cmp(&(b.kind, &b.name)));
        all
    }

    /// What an operator should know about devices that are open and work (`its file was deleted`), by name.
    pub async fn device_warnings(&self) -> BTreeMap<String, String> {
        let of_plane = self.plane().device_warnings().await;
        let mut state = self.write();
        let mut warnings: BTreeMap<String, String> = of_plane
            .into_iter()
            .filter_map(|(handle, text)| Some((state.name_of(handle)?.to_owned(), text)))
            .collect();
        for name in state.losses.keys() {
            let text = losses::warning(name);
            let entry = warnings.entry(name.clone());
            entry
                .and_modify(|other| *other = format!("{other}; {text}"))
                .or_insert(text);
        }
        state.warnings = warnings.clone();
        warnings
    }

    /// Sets every counter to zero.
    pub async fn reset_stats(&self) {
        self.plane().reset_stats().await;
    }

    fn plane(&self) -> &dyn DataPlane {
        &*self.plane.0
    }

    fn read(&self) -> RwLockReadGuard<'_, State> {
        // A panic while the lock is held cannot leave a half-made change: each write is one insertion or removal.
        self.state.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, State> {
        self.state.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// Runs a change to its end, alone, whether or not the caller stays to hear the result.
    async fn change<T, F>(self: &Arc<Self>, work: impl FnOnce(Arc<Self>) -> F) -> Result<T, Problem>
    where
        T: Send + 'static,
        F: Future<Output = Result<T, Problem>> + Send + 'static,
    {
        let engine = Arc::clone(self);
        let work = work(Arc::clone(self));
        Self::to_its_end(async move {
            let _alone = engine.changes.lock().await;
            work.await
        })
        .await
    }

    /// Runs `work` to its end, whether or not the caller stays to hear the result.
    async fn to_its_end<T: Send + 'static>(
        work: impl Future<Output = Result<T, Problem>> + Send + 'static,
    ) -> Result<T, Problem> {
        match tokio::spawn(work).await {
            Ok(result) => result,
            Err(error) => {
                tracing::error!(%error, "a change of the configuration failed unexpectedly");
                let detail = "the change failed unexpectedly; see the engine's log";
                Err(Problem::new(ProblemKind::Internal, detail))
            }
        }
    }

    /// Makes changes durable.
    async fn persist(&self, changes: Vec<Change>) -> Result<(), Problem> {
        let store = Arc::clone(&self.store);
        let committed = tokio::task::spawn_blocking(move || store.commit(&changes)).await;
        match committed {
            Ok(Ok(())) => Ok(()),
            Ok(Err(error)) => {
                let kind = match error.is_full() {
                    true => ProblemKind::StoreFull,
                    false => ProblemKind::NotStored,
                };
                Err(Problem::new(kind, error.to_string()))
            }
            Err(_) => Err(Problem::new(
                ProblemKind::NotStored,
                "the state store failed unexpectedly",
            )),
        }
    }
}

/// The address the default route would send from; the loopback address without a route.
fn default_route_address() -> IpAddr {
    // Connecting a datagram socket sends nothing; the address is one reserved for documentation (RFC 5737).
    let probe = || {
        let socket = UdpSocket::bind(("0.0.0.0", 0))?;
        socket.connect(("192.0.2.1", 9))?;
        socket.local_addr()
    };
    match probe() {
        Ok(address) if !address.ip().is_unspecified() => address.ip(),
        _ => IpAddr::from([127, 0, 0, 1]),
    }
}
