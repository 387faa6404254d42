//! [`PluginHost`]: the plugins of one engine and what they bring, by scheme, transport and protocol.

use std::collections::BTreeMap;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use sdk::block::{Device, DeviceDriver, OpenError};
use sdk::bridge::{Blocked, EngineContext, Faults, Imported, Watch, import_linked, import_own};
use sdk::export::ExportDriver;
use sdk::fabric::FabricDriver;
use sdk::plugin::Plugin;
use sdk::pool::PoolDriver;
use sdk::services::Services;
use sdk::uri::{DeviceUri, UriError};

use crate::check::check;
use crate::elf::{Descriptor, read};
use crate::isolate::{IsolatedDriver, Isolation, Seat};
use crate::load;
use crate::memory::{Ledger, MemoryLimits};
use crate::probe::Probe;
use crate::refusal::{Refusal, Why};
use crate::search::{Search, files_in};
use crate::services::{Counters, PluginServices, Store};

/// A call on a reactor that takes this long is told: a thousand times what one may take.
pub const BLOCKED: Duration = Duration::from_secs(1);
/// Pause between two looks for calls that block.
const LOOK: Duration = Duration::from_millis(250);

/// Where a plugin came from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// Linked into the engine.
    Linked,
    /// Loaded from a file.
    File(PathBuf),
}

/// A plugin, for listings.
#[derive(Clone, Debug)]
pub struct PluginInfo {
    /// Name.
    pub name: String,
    /// Version.
    pub version: String,
    /// Who made it.
    pub vendor: String,
    /// `IOE_KIND_*`.
    pub kinds: u32,
    /// ABI it was built against: major, minor.
    pub abi: (u16, u16),
    /// Where it came from.
    pub source: Source,
    /// Device schemes it serves.
    pub schemes: Vec<String>,
    /// Transports it brings.
    pub transports: Vec<String>,
    /// Protocols it brings.
    pub protocols: Vec<String>,
    /// Kinds of pool it brings.
    pub pools: Vec<String>,
    /// Whether its devices' queues are on a reactor of its own.
    pub isolated: bool,
    /// Broken promises since it was loaded.
    pub faults: u64,
    /// Its counters.
    pub counters: Vec<(String, u64)>,
}

/// The plugins of an engine. Any thread may use it; loading blocks.
#[derive(Clone)]
pub struct PluginHost {
    shared: Arc<Shared>,
    probe: Option<Probe>,
    store: Option<Arc<dyn Store>>,
    isolation: Option<Arc<Isolation>>,
}

/// What plugins may ask for.
pub(crate) struct Shared {
    table: Mutex<Table>,
    /// What plugins may keep data in; unbounded until it is set.
    memory: OnceLock<Ledger>,
}

#[derive(Default)]
struct Table {
    plugins: Vec<Loaded>,
    drivers: BTreeMap<String, (usize, Arc<dyn DeviceDriver>)>,
    fabrics: BTreeMap<String, (usize, Arc<dyn FabricDriver>)>,
    exports: BTreeMap<String, (usize, Arc<dyn ExportDriver>)>,
    pools: BTreeMap<String, (usize, Arc<dyn PoolDriver>)>,
}

struct Loaded {
    descriptor: Descriptor,
    source: Source,
    /// Device and inode of the file it was loaded from.
    identity: Option<(u64, u64)>,
    objects: Objects,
    /// Not unloaded.
    is_in: bool,
    /// Its own reactor, if it has one.
    seat: Option<Arc<Seat>>,
    faults: Arc<Faults>,
    watch: Arc<Watch>,
    counters: Arc<Counters>,
}

/// A plugin about to be taken in.
struct Newcomer {
    descriptor: Descriptor,
    source: Source,
    identity: Option<(u64, u64)>,
    imported: Imported,
    counters: Arc<Counters>,
    seat: Option<Arc<Seat>>,
}

/// What a plugin brought.
struct Objects {
    drivers: Vec<Arc<dyn DeviceDriver>>,
    fabrics: Vec<Arc<dyn FabricDriver>>,
    exports: Vec<Arc<dyn ExportDriver>>,
    pools: Vec<Arc<dyn PoolDriver>>,
}

impl PluginHost {
    /// An engine without plugins. `probe` says how files are tried first, `None` loads them at once (for a program that is
    /// itself only a trial); `store` is where plugins keep values.
    pub fn new(probe: Option<Probe>, store: Option<Arc<dyn Store>>) -> Self {
        Self {
            shared: Arc::new(Shared {
                table: Mutex::default(),
                memory: OnceLock::new(),
            }),
            probe,
            store,
            isolation: None,
        }
    }

    /// Gives plugins taken in from here on a reactor of their own, where `isolation` names them.
    #[must_use]
    pub fn isolating(self, isolation: Isolation) -> Self {
        Self {
            isolation: Some(Arc::new(isolation)),
            ..self
        }
    }

    /// Bounds the memory plugins keep data in, from here on. The first call counts.
    pub fn limit_memory(&self, limits: MemoryLimits) {
        self.shared.memory.get_or_init(|| Ledger::new(limits));
    }

    /// Takes in a plugin that is linked into this program, through its tables.
    ///
    /// # Errors
    /// [`Why::Taken`], [`Why::NotIsolated`] or [`Why::Load`].
    pub fn add(&self, plugin: &'static Plugin) -> Result<(), Refusal> {
        self.add_by(plugin, import_linked)
    }

    /// As [`PluginHost::add`] for a plugin that is the program's own: what it has on reactors is used without its tables, and
    /// a panic there is the program's. One that is isolated is guarded like any other.
    ///
    /// # Errors
    /// As [`PluginHost::add`].
    pub fn add_own(&self, plugin: &'static Plugin) -> Result<(), Refusal> {
        match self.isolation_of(plugin.name) {
            Some(_) => self.add_by(plugin, import_linked),
            None => self.add_by(plugin, import_own),
        }
    }

    fn isolation_of(&self, plugin: &str) -> Option<&Isolation> {
        let isolation = self.isolation.as_deref()?;
        isolation.plugins.contains(plugin).then_some(isolation)
    }

    /// The reactor of its own that `descriptor`'s plugin is to have, if it is to have one.
    fn seat_for(&self, descriptor: &Descriptor) -> Result<Option<Arc<Seat>>, Why> {
        let Some(isolation) = self.isolation_of(&descriptor.name) else {
            return Ok(None);
        };
        if descriptor.kinds & !abi::IOE_KIND_DEVICE != 0 {
            return Err(Why::NotIsolated);
        }
        let seat = Seat::start(&descriptor.name, &isolation.reactor);
        seat.map(Some).map_err(|reason| Why::Load { reason })
    }

    fn add_by(
        &self,
        plugin: &'static Plugin,
        import: fn(&'static Plugin, &'static EngineContext) -> Result<Imported, String>,
    ) -> Result<(), Refusal> {
        let descriptor = Descriptor {
            abi_major: abi::IOE_ABI_MAJOR,
            abi_minor: abi::IOE_ABI_MINOR,
            needs_minor: 0,
            kinds: plugin.kinds(),
            flags: 0,
            name: plugin.name.to_owned(),
            version: plugin.version.to_owned(),
            vendor: plugin.vendor.to_owned(),
            serves: plugin.serves.to_owned(),
            stamps: abi::IOE_STAMPS.to_vec(),
        };
        let (context, counters) = self.context(plugin.name);
        let taken_in = self.seat_for(&descriptor).and_then(|seat| {
            let imported = import(plugin, context).map_err(|reason| Why::Load { reason })?;
            let newcomer = Newcomer {
                descriptor,
                source: Source::Linked,
                identity: None,
                imported,
                counters,
                seat,
            };
            self.shared.take_in(newcomer)
        });
        taken_in.map(drop).map_err(|why| Refusal {
            what: plugin.name.into(),
            why,
        })
    }

    /// Loads a file: its descriptor is read and checked, it is tried in a child, then loaded here. Blocks. The same file
    /// twice is refused for what it brings; one that was unloaded is taken in again, without entering it a second time.
    ///
    /// # Errors
    /// [`Refusal`] for any reason.
    pub fn load(&self, path: &Path) -> Result<PluginInfo, Refusal> {
        self.load_checked(path).map_err(|why| Refusal {
            what: path.to_owned(),
            why,
        })
    }

    /// Takes a plugin that was loaded out: nothing new is opened through it. What is open goes on, so the caller has closed
    /// it; the file stays mapped.
    ///
    /// # Errors
    /// [`Why::Unknown`], [`Why::BuiltIn`].
    pub fn unload(&self, name: &str) -> Result<(), Refusal> {
        self.shared.table().take_out(name).map_err(|why| Refusal {
            what: name.into(),
            why,
        })
    }

    fn load_checked(&self, path: &Path) -> Result<PluginInfo, Why> {
        // A bare name would make the loader search its own path.
        let path = std::path::absolute(path).map_err(Why::Unreadable)?;
        let descriptor = read(&path)?;
        check(&descriptor)?;
        self.shared.is_free(&descriptor)?;
        let identity = identity_of(&path)?;
        if let Some(again) = self.shared.table().take_back(identity, &path) {
            return Ok(again);
        }
        if let Some(probe) = &self.probe {
            probe.run(&path)?;
        }
        let seat = self.seat_for(&descriptor)?;
        let is_same_minor = descriptor.abi_minor == abi::IOE_ABI_MINOR;
        let entry = load::open(&path, is_same_minor)?;
        let (context, counters) = self.context(&descriptor.name);
        let imported = load::enter(&descriptor.name, entry, context)?;
        self.shared.take_in(Newcomer {
            descriptor,
            source: Source::File(path),
            identity: Some(identity),
            imported,
            counters,
            seat,
        })
    }

    /// Loads what a search finds and tells what was refused. What an earlier plugin has is kept: a later file that brings
    /// the same is refused.
    pub fn load_all(&self, search: &Search) -> Vec<Refusal> {
        let mut refusals = Vec::new();
        let mut files = search.files.clone();
        for directory in &search.directories {
            match files_in(directory) {
                Ok(found) => files.extend(found),
                Err(error) => refusals.push(Refusal {
                    what: directory.clone(),
                    why: Why::Unreadable(error),
                }),
            }
        }
        refusals.extend(files.iter().filter_map(|file| self.load(file).err()));
        refusals
    }

    fn context(&self, plugin: &str) -> (&'static EngineContext, Arc<Counters>) {
        let counters = Arc::new(Counters::default());
        let services = PluginServices {
            plugin: plugin.to_owned(),
            engine: Arc::downgrade(&self.shared),
            store: self.store.clone(),
            counters: counters.clone(),
        };
        (EngineContext::new(Arc::new(services)), counters)
    }

    /// Opens a device through the plugin that serves its scheme. Blocks.
    ///
    /// # Errors
    /// Any [`OpenError`]; an unknown scheme is [`UriError::UnknownScheme`] with those there are.
    pub fn open_device(&self, uri: &str) -> Result<Box<dyn Device>, OpenError> {
        self.shared.open_device(uri)
    }

    /// The driver that serves a scheme.
    pub fn driver(&self, scheme: &str) -> Option<Arc<dyn DeviceDriver>> {
        let table = self.shared.table();
        table.drivers.get(scheme).map(|(_, driver)| driver.clone())
    }

    /// The plugin called `name`.
    pub fn plugin(&self, name: &str) -> Option<PluginInfo> {
        self.plugins()
            .into_iter()
            .find(|plugin| plugin.name == name)
    }

    /// The transport called `name`.
    pub fn fabric(&self, name: &str) -> Option<Arc<dyn FabricDriver>> {
        self.shared
            .table()
            .fabrics
            .get(name)
            .map(|(_, driver)| driver.clone())
    }

    /// The protocol called `name`.
    pub fn export(&self, name: &str) -> Option<Arc<dyn ExportDriver>> {
        self.shared
            .table()
            .exports
            .get(name)
            .map(|(_, driver)| driver.clone())
    }

    /// The kind of pool called `name`.
    pub fn pool(&self, name: &str) -> Option<Arc<dyn PoolDriver>> {
        self.shared
            .table()
            .pools
            .get(name)
            .map(|(_, driver)| driver.clone())
    }

    /// The device schemes there are, in order.
    pub fn schemes(&self) -> Vec<String> {
        self.shared.table().drivers.keys().cloned().collect()
    }

    /// The plugin that serves a scheme.
    pub fn plugin_of_scheme(&self, scheme: &str) -> Option<String> {
        let table = self.shared.table();
        let (at, _) = table.drivers.get(scheme)?;
        Some(table.plugins[*at].descriptor.name.clone())
    }

    /// Whether the plugin that serves a scheme has a reactor of its own.
    pub fn is_isolated(&self, scheme: &str) -> bool {
        let table = self.shared.table();
        let driver = table.drivers.get(scheme);
        driver.is_some_and(|(at, _)| table.plugins[*at].seat.is_some())
    }

    /// All plugins, in the order they were taken in.
    pub fn plugins(&self) -> Vec<PluginInfo> {
        let table = self.shared.table();
        let plugins = table.plugins.iter().enumerate();
        let listed = plugins.filter(|(_, loaded)| loaded.is_in);
        listed.map(|(at, loaded)| table.info(at, loaded)).collect()
    }

    /// Starts a thread that names, in the log, the plugin whose call blocks a reactor for [`BLOCKED`] or longer, once a call.
    /// It ends with the last clone of this host.
    ///
    /// # Errors
    /// When the system gives no thread.
    pub fn watch(&self) -> std::io::Result<()> {
        let shared = Arc::downgrade(&self.shared);
        let look = move || {
            while let Some(shared) = shared.upgrade() {
                for (plugin, isolated, blocked) in shared.table().blocked(Instant::now()) {
                    let (object, since_ms) = (blocked.object, blocked.since.as_millis());
                    let whose = match isolated {
                        true => "its own reactor",
                        false => "a reactor",
                    };
                    tracing::error!(
                        plugin,
                        object,
                        since_ms,
                        "a call into the plugin blocks {whose}"
                    );
                }
                drop(shared);
                std::thread::sleep(LOOK);
            }
        };
        let thread = std::thread::Builder::new().name("plugin-watch".to_owned());
        thread.spawn(look).map(drop)
    }

    /// The engine's services as a caller without a name of its own gets them: for drivers of tests.
    pub fn services(&self, name: &str) -> Arc<dyn Services> {
        Arc::new(PluginServices {
            plugin: name.to_owned(),
            engine: Arc::downgrade(&self.shared),
            store: self.store.clone(),
            counters: Arc::default(),
        })
    }
}

impl Table {
    fn info(&self, at: usize, loaded: &Loaded) -> PluginInfo {
        let Descriptor {
            abi_major,
            abi_minor,
            kinds,
            name,
            version,
            vendor,
            ..
        } = loaded.descriptor.clone();
        PluginInfo {
            name,
            version,
            vendor,
            kinds,
            abi: (abi_major, abi_minor),
            source: loaded.source.clone(),
            schemes: names_of(&self.drivers, at),
            transports: names_of(&self.fabrics, at),
            protocols: names_of(&self.exports, at),
            pools: names_of(&self.pools, at),
            isolated: loaded.seat.is_some(),
            faults: loaded.faults.total(),
            counters: loaded.counters.all(),
        }
    }

    /// Lists what the plugin at `at` brought.
    fn list(&mut self, at: usize) {
        let objects = &self.plugins[at].objects;
        for driver in &objects.drivers {
            for scheme in driver.schemes() {
                let entry = (at, driver.clone());
                self.drivers.insert((*scheme).to_owned(), entry);
            }
        }
        for driver in &objects.fabrics {
            let entry = (at, driver.clone());
            self.fabrics.insert(driver.name().to_owned(), entry);
        }
        for driver in &objects.exports {
            let entry = (at, driver.clone());
            self.exports.insert(driver.protocol().to_owned(), entry);
        }
        for driver in &objects.pools {
            let entry = (at, driver.clone());
            self.pools.insert(driver.name().to_owned(), entry);
        }
        self.plugins[at].is_in = true;
    }

    /// Lists what was loaded from the same file before and taken out since; its names are free.
    fn take_back(&mut self, identity: (u64, u64), path: &Path) -> Option<PluginInfo> {
        let is_it = |loaded: &Loaded| !loaded.is_in && loaded.identity == Some(identity);
        let at = self.plugins.iter().position(is_it)?;
        self.plugins[at].source = Source::File(path.to_owned());
        self.list(at);
        Some(self.info(at, &self.plugins[at]))
    }

    fn take_out(&mut self, name: &str) -> Result<(), Why> {
        let is_it = |loaded: &Loaded| loaded.is_in && loaded.descriptor.name == name;
        let at = self.plugins.iter().position(is_it).ok_or(Why::Unknown)?;
        if self.plugins[at].source == Source::Linked {
            return Err(Why::BuiltIn);
        }
        self.drivers.retain(|_, (of, _)| *of != at);
        self.fabrics.retain(|_, (of, _)| *of != at);
        self.exports.retain(|_, (of, _)| *of != at);
        self.pools.retain(|_, (of, _)| *of != at);
        self.plugins[at].is_in = false;
        Ok(())
    }

    /// Calls that block, with their plugin and whether it has a reactor of its own.
    fn blocked(&self, now: Instant) -> Vec<(String, bool, Blocked)> {
        let looked = self.plugins.iter().flat_map(|loaded| {
            let (name, isolated) = (&loaded.descriptor.name, loaded.seat.is_some());
            let blocked = loaded.watch.look(now, BLOCKED);
            blocked
                .into_iter()
                .map(move |blocked| (name.clone(), isolated, blocked))
        });
        looked.collect()
    }

    /// Refuses a name another plugin has.
    fn free<T: ?Sized>(
        &self,
        of: &BTreeMap<String, (usize, Arc<T>)>,
        kind: &str,
        name: &str,
    ) -> Result<(), Why> {
        match of.get(name) {
            None => Ok(()),
            Some((at, _)) => Err(Why::Taken {
                what: format!("{kind} '{name}'"),
                by: self.plugins[*at].descriptor.name.clone(),
            }),
        }
    }
}

fn names_of<T: ?Sized>(of: &BTreeMap<String, (usize, Arc<T>)>, plugin: usize) -> Vec<String> {
    let mine = of.iter().filter(|(_, (at, _))| *at == plugin);
    mine.map(|(name, _)| name.clone()).collect()
}

impl Shared {
    fn table(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn memory(&self) -> Option<&Ledger> {
        self.memory.get()
    }

    pub(crate) fn open_device(&self, uri: &str) -> Result<Box<dyn Device>, OpenError> {
        let uri = DeviceUri::parse(uri)?;
        let driver = {
            let table = self.table();
            match table.drivers.get(uri.scheme()) {
                Some((_, driver)) => driver.clone(),
                None => {
                    let known: Vec<&str> = table.drivers.keys().map(String::as_str).collect();
                    return Err(OpenError::Uri(UriError::UnknownScheme {
                        scheme: uri.scheme().to_owned(),
                        known: known.join(", "),
                    }));
                }
            }
        };
        driver.open(uri)
    }

    /// Refuses early, by what a descriptor lists, what [`Shared::take_in`] would refuse.
    fn is_free(&self, descriptor: &Descriptor) -> Result<(), Why> {
        let table = self.table();
        let listed = descriptor.serves.split(',').filter(|name| !name.is_empty());
        for name in listed {
            if descriptor.kinds & abi::IOE_KIND_DEVICE != 0 {
                table.free(&table.drivers, "scheme", name)?;
            }
            if descriptor.kinds & abi::IOE_KIND_FABRIC != 0 {
                table.free(&table.fabrics, "transport", name)?;
            }
            if descriptor.kinds & abi::IOE_KIND_EXPORT != 0 {
                table.free(&table.exports, "protocol", name)?;
            }
            if descriptor.kinds & abi::IOE_KIND_POOL != 0 {
                table.free(&table.pools, "kind of pool", name)?;
            }
        }
        Ok(())
    }

    fn take_in(&self, newcomer: Newcomer) -> Result<PluginInfo, Why> {
        let mut table = self.table();
        let Imported {
            brought,
            faults,
            watch,
        } = newcomer.imported;
        let seat = newcomer.seat;
        // The descriptor is the plugin's word; this is what it brought.
        let is_more =
            !brought.fabrics.is_empty() || !brought.exports.is_empty() || !brought.pools.is_empty();
        if seat.is_some() && is_more {
            return Err(Why::NotIsolated);
        }
        for driver in &brought.drivers {
            for scheme in driver.schemes() {
                table.free(&table.drivers, "scheme", scheme)?;
            }
        }
        for driver in &brought.fabrics {
            table.free(&table.fabrics, "transport", driver.name())?;
        }
        for driver in &brought.exports {
            table.free(&table.exports, "protocol", driver.protocol())?;
        }
        for driver in &brought.pools {
            table.free(&table.pools, "kind of pool", driver.name())?;
        }
        let at = table.plugins.len();
        let isolate = |driver: Box<dyn DeviceDriver>| -> Arc<dyn DeviceDriver> {
            match &seat {
                Some(seat) => Arc::new(IsolatedDriver::new(driver.into(), seat.clone())),
                None => driver.into(),
            }
        };
        let objects = Objects {
            drivers: brought.drivers.into_iter().map(isolate).collect(),
            fabrics: brought.fabrics.into_iter().map(Arc::from).collect(),
            exports: brought.exports.into_iter().map(Arc::from).collect(),
            pools: brought.pools.into_iter().map(Arc::from).collect(),
        };
        table.plugins.push(Loaded {
            descriptor: newcomer.descriptor,
            source: newcomer.source,
            identity: newcomer.identity,
            objects,
            is_in: false,
            seat,
            faults,
            watch,
            counters: newcomer.counters,
        });
        table.list(at);
        Ok(table.info(at, &table.plugins[at]))
    }
}

/// What tells a file from every other, also from a later one of its name.
fn identity_of(path: &Path) -> Result<(u64, u64), Why> {
    let metadata = std::fs::metadata(path).map_err(Why::Unreadable)?;
    Ok((metadata.dev(), metadata.ino()))
}
