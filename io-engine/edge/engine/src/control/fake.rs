//! A data plane made of lists, for tests of everything above it: it obeys, remembers, and fails on demand.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use plugin_host::{PluginInfo, Source};
use sdk::uri::DeviceUri;
use tokio::sync::Notify;
use uuid::Uuid;

use super::dataplane::{
    ControllerInfo, DataPlane, DeviceHandle, DeviceInfo, ExportSpec, InflightIo, NamespaceSpec,
    Problem, ProblemKind, ReactorStats, SubsystemSpec, Writers,
};
use super::stats::{CountedOp, IoStats};

/// The data plane; tests share it with the engine by `Arc`.
#[derive(Debug, Default)]
pub struct FakePlane {
    inner: Mutex<Inner>,
    changed: Arc<Notify>,
}

#[derive(Debug, Default)]
struct Inner {
    devices: BTreeMap<DeviceHandle, DeviceInfo>,
    subsystems: BTreeMap<String, SubsystemSpec>,
    exports: BTreeMap<DeviceHandle, ExportSpec>,
    stats: BTreeMap<DeviceHandle, IoStats>,
    broken: BTreeSet<String>,
    slow: BTreeMap<String, Duration>,
    refuse_subsystems: bool,
    lost: BTreeMap<DeviceHandle, String>,
    losses: BTreeMap<DeviceHandle, Vec<String>>,
    unsettled: BTreeSet<String>,
    settled: Vec<(Vec<String>, Writers)>,
    /// Schemes that files to be loaded serve, by file.
    offered: BTreeMap<String, String>,
    /// Schemes of files that were loaded.
    loaded: BTreeSet<String>,
    handles: u64,
}

impl FakePlane {
    /// Makes every opening of a device of this name fail, or succeed again.
    pub fn break_device(&self, name: &str, broken: bool) {
        let mut inner = self.lock();
        if broken {
            inner.broken.insert(name.to_owned());
        } else {
            inner.broken.remove(name);
        }
    }

    /// Makes every opening of a device of this name take an hour.
    pub fn hang_device(&self, name: &str) {
        self.slow_device(name, Duration::from_secs(3600));
    }

    /// Makes every opening of a device of this name take `time`.
    pub fn slow_device(&self, name: &str, time: Duration) {
        self.lock().slow.insert(name.to_owned(), time);
    }

    /// Takes the open device `name` offline, as if it had been lost.
    pub fn lose_device(&self, name: &str) {
        let mut inner = self.lock();
        let handle = inner.handle_of(name);
        inner.lost.extend(handle.map(|handle| {
            let reason = "offline: it is gone; mend it, then bdev rescan";
            (handle, reason.to_owned())
        }));
    }

    /// Loses writes of the open device `name`, of which `told` know.
    pub fn lose_writes(&self, name: &str, told: &[&str]) {
        let mut inner = self.lock();
        if let Some(handle) = inner.handle_of(name) {
            let told = told.iter().map(|host| (*host).to_owned()).collect();
            inner.losses.insert(handle, told);
        }
        self.changed.notify_one();
    }

    /// Hosts that know of the loss of the open device `name`, if there is one.
    pub fn loss_of(&self, name: &str) -> Option<Vec<String>> {
        let inner = self.lock();
        inner.losses.get(&inner.handle_of(name)?).cloned()
    }

    /// Makes writes stay in the device `name` for ever, or end.
    pub fn keep_writes(&self, name: &str, keep: bool) {
        let mut inner = self.lock();
        if keep {
            inner.unsettled.insert(name.to_owned());
        } else {
            inner.unsettled.remove(name);
        }
    }

    /// Makes `load_plugin` take `file`, which serves `scheme`.
    pub fn offer_plugin(&self, file: &str, scheme: &str) {
        let mut inner = self.lock();
        inner.offered.insert(file.to_owned(), scheme.to_owned());
    }

    /// What was waited for since the last call: devices and whose writes.
    pub fn settled(&self) -> Vec<(Vec<String>, Writers)> {
        std::mem::take(&mut self.lock().settled)
    }

    /// Makes `add_subsystem` fail, or succeed again.
    pub fn refuse_subsystems(&self, refuse: bool) {
        self.lock().refuse_subsystems = refuse;
    }

    /// Pretends that the device `name` was read from once.
    pub fn count_read(&self, name: &str, bytes: u64, ns: u64) {
        let mut inner = self.lock();
        let handle = inner.handle_of(name);
        if let Some(handle) = handle {
            inner
                .stats
                .entry(handle)
                .or_default()
                .of_mut(CountedOp::Read)
                .record(bytes, ns, false);
        }
    }

    /// Names of the open devices.
    pub fn open_devices(&self) -> Vec<String> {
        self.lock()
            .devices
            .values()
            .map(|info| info.name.clone())
            .collect()
    }

    /// Names served over another protocol.
    pub fn exported(&self) -> Vec<String> {
        let inner = self.lock();
        inner
            .exports
            .values()
            .map(|spec| spec.name.clone())
            .collect()
    }

    /// What the device `name` is served as over another protocol.
    pub fn export_of(&self, name: &str) -> Option<ExportSpec> {
        let inner = self.lock();
        let mut exports = inner.exports.values();
        exports.find(|spec| spec.name == name).cloned()
    }

    /// What is served.
    pub fn served(&self) -> Vec<SubsystemSpec> {
        self.lock().subsystems.values().cloned().collect()
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    fn handle_of(&self, name: &str) -> Option<DeviceHandle> {
        let mut devices = self.devices.values();
        let info = devices.find(|info| info.name == name)?;
        Some(info.handle)
    }
}

fn invalid(detail: impl ToString) -> Problem {
    Problem::new(ProblemKind::InvalidUri, detail.to_string())
}

fn missing(what: &str) -> Problem {
    Problem::new(ProblemKind::NotFound, format!("{what} is not there"))
}

#[async_trait]
impl DataPlane for FakePlane {
    async fn open_device(&self, text: &str) -> Result<DeviceInfo, Problem> {
        let mut uri = DeviceUri::parse(text).map_err(invalid)?;
        let is_loaded = self.lock().loaded.contains(uri.scheme());
        if !is_loaded && !matches!(uri.scheme(), "malloc" | "null" | "aio") {
            return Err(invalid(format!(
                "device URI scheme '{}' is unknown; use one of: malloc",
                uri.scheme()
            )));
        }
        let name = match uri.scheme() {
            "aio" => uri.path().to_owned(),
            _ => uri.path().trim_start_matches('/').to_owned(),
        };
        let size_mb = uri.take_number("size_mb").map_err(invalid)?.unwrap_or(1);
        let uuid = uri.take_uuid().map_err(invalid)?.map(Uuid::from_bytes);
        uri.finish().map_err(invalid)?;
        let slow = self.lock().slow.get(&name).copied();
        if let Some(time) = slow {
            tokio::time::sleep(time).await;
        }
        let mut inner = self.lock();
        if inner.broken.contains(&name) {
            return Err(missing(&name));
        }
        inner.handles += 1;
        let info = DeviceInfo {
            handle: DeviceHandle(inner.handles),
            name,
            product_name: "Fake disk".to_owned(),
            block_size: 512,
            blocks: size_mb * 2048,
            uuid,
            capabilities: "nothing native".to_owned(),
        };
        inner.devices.insert(info.handle, info.clone());
        Ok(info)
    }

    async fn close_device(&self, handle: DeviceHandle) -> Result<(), Problem> {
        let mut inner = self.lock();
        let used = inner
            .subsystems
            .values()
            .flat_map(|spec| &spec.namespaces)
            .any(|ns| ns.device == handle)
            || inner.exports.contains_key(&handle);
        if used {
            return Err(Problem::new(
                ProblemKind::Busy,
                "a namespace refers to the device",
            ));
        }
        inner
            .devices
            .remove(&handle)
            .map(|_| ())
            .ok_or_else(|| missing("the device"))
    }

    async fn resize_device(
        &self,
        handle: DeviceHandle,
        blocks: Option<u64>,
    ) -> Result<u64, Problem> {
        let mut inner = self.lock();
        let info = inner
            .devices
            .get_mut(&handle)
            .ok_or_else(|| missing("the device"))?;
        // A medium that is looked at again has grown by a block.
        info.blocks = blocks.unwrap_or(info.blocks + 1);
        Ok(info.blocks)
    }

    async fn reopen_device(&self, handle: DeviceHandle, _: &str) -> Result<DeviceInfo, Problem> {
        let mut inner = self.lock();
        let info = inner.devices.get(&handle).cloned();
        let info = info.ok_or_else(|| missing("the device"))?;
        if inner.broken.contains(&info.name) {
            let problem = missing(&info.name);
            inner.lost.insert(handle, problem.to_string());
            return Err(problem);
        }
        inner.lost.remove(&handle);
        Ok(info)
    }

    fn device_fault(&self, handle: DeviceHandle) -> Option<String> {
        self.lock().lost.get(&handle).cloned()
    }

    async fn settle(&self, devices: &[DeviceHandle], writers: Writers) -> Result<(), Problem> {
        let mut inner = self.lock();
        let infos = devices
            .iter()
            .filter_map(|handle| inner.devices.get(handle));
        let names: Vec<String> = infos.map(|info| info.name.clone()).collect();
        let held = names.iter().any(|name| inner.unsettled.contains(name));
        inner.settled.push((names, writers));
        match held {
            true => Err(Problem::new(ProblemKind::Timeout, "1 writes are left")),
            false => Ok(()),
        }
    }

    async fn add_subsystem(&self, spec: SubsystemSpec) -> Result<(), Problem> {
        let mut inner = self.lock();
        if inner.refuse_subsystems {
            return Err(Problem::new(
                ProblemKind::ResourceExhausted,
                "no room for a subsystem",
            ));
        }
        if inner.subsystems.contains_key(&spec.nqn) {
            return Err(Problem::new(
                ProblemKind::AlreadyExists,
                "the subsystem exists",
            ));
        }
        inner.subsystems.insert(spec.nqn.clone(), spec);
        Ok(())
    }

    async fn remove_subsystem(&self, nqn: &str) -> Result<(), Problem> {
        self.lock()
            .subsystems
            .remove(nqn)
            .map(|_| ())
            .ok_or_else(|| missing(nqn))
    }

    async fn set_allowed_hosts(
        &self,
        nqn: &str,
        hosts: Option<Vec<String>>,
    ) -> Result<(), Problem> {
        let mut inner = self.lock();
        let spec = inner.subsystems.get_mut(nqn).ok_or_else(|| missing(nqn))?;
        spec.allowed_hosts = hosts;
        Ok(())
    }

    async fn add_namespace(&self, nqn: &str, namespace: NamespaceSpec) -> Result<(), Problem> {
        let mut inner = self.lock();
        let spec = inner.subsystems.get_mut(nqn).ok_or_else(|| missing(nqn))?;
        spec.namespaces.push(namespace);
        Ok(())
    }

    async fn remove_namespace(&self, nqn: &str, nsid: u32) -> Result<(), Problem> {
        let mut inner = self.lock();
        let spec = inner.subsystems.get_mut(nqn).ok_or_else(|| missing(nqn))?;
        spec.namespaces.retain(|namespace| namespace.nsid != nsid);
        Ok(())
    }

    async fn command_device(&self, handle: DeviceHandle, command: &str) -> Result<String, Problem> {
        let inner = self.lock();
        let info = inner.devices.get(&handle);
        let info = info.ok_or_else(|| missing("the device"))?;
        match command {
            "list" => Ok(format!("nothing wrong with {}", info.name)),
            _ => Err(Problem::new(
                ProblemKind::InvalidArgument,
                format!("'{command}' is unknown"),
            )),
        }
    }

    async fn add_export(&self, spec: ExportSpec) -> Result<String, Problem> {
        let mut inner = self.lock();
        if spec.protocol != "nbd" {
            let detail = format!("no plugin serves protocol '{}'", spec.protocol);
            return Err(Problem::new(ProblemKind::Unsupported, detail));
        }
        let uri = format!("nbd://127.0.0.1:10809/{}", spec.name);
        inner.exports.insert(spec.device, spec);
        Ok(uri)
    }

    async fn remove_export(&self, device: DeviceHandle) -> Result<(), Problem> {
        let removed = self.lock().exports.remove(&device);
        removed.map(drop).ok_or_else(|| missing("the export"))
    }

    async fn changed(&self) {
        self.changed.notified().await;
    }

    async fn losses(&self) -> Vec<(DeviceHandle, Vec<String>)> {
        let inner = self.lock();
        let losses = inner.losses.iter();
        losses
            .map(|(handle, told)| (*handle, told.clone()))
            .collect()
    }

    async fn set_loss(
        &self,
        handle: DeviceHandle,
        told: Option<Vec<String>>,
    ) -> Result<(), Problem> {
        let mut inner = self.lock();
        match told {
            Some(told) => inner.losses.insert(handle, told),
            None => inner.losses.remove(&handle),
        };
        Ok(())
    }

    async fn device_stats(&self) -> Vec<(DeviceHandle, IoStats)> {
        let inner = self.lock();
        let stats = |handle: &DeviceHandle| inner.stats.get(handle).cloned().unwrap_or_default();
        inner
            .devices
            .keys()
            .map(|handle| (*handle, stats(handle)))
            .collect()
    }

    async fn subsystem_stats(&self) -> Vec<(String, IoStats)> {
        self.lock()
            .subsystems
            .keys()
            .map(|nqn| (nqn.clone(), IoStats::default()))
            .collect()
    }

    async fn reset_stats(&self) {
        self.lock().stats.clear();
    }

    async fn drop_counts(&self) -> Vec<(&'static str, u64)> {
        vec![("bad_pdu", 3), ("connect_timeout", 0)]
    }

    async fn reactors(&self) -> Vec<ReactorStats> {
        vec![ReactorStats {
            cpu: Some(0),
            driver: "epoll".to_owned(),
            busy_ns: 1,
            spin_ns: 2,
            sleep_ns: 997,
            memory_waits: 11,
            memory_waiting: 4,
            ..ReactorStats::default()
        }]
    }

    async fn inflight(&self, limit: usize) -> Vec<InflightIo> {
        let inner = self.lock();
        let ios = inner.subsystems.values().filter_map(|spec| {
            let namespace = spec.namespaces.first()?;
            Some(InflightIo {
                subnqn: spec.nqn.clone(),
                hostnqn: "nqn.2014-08.org.example:host".to_owned(),
                cntlid: 1,
                qid: 1,
                cid: 7,
                nsid: namespace.nsid,
                device: Some(namespace.device),
                operation: "read".to_owned(),
                lba: 8,
                blocks: 16,
                stages: vec![
                    ("received".to_owned(), Duration::ZERO),
                    ("submitted".to_owned(), Duration::from_micros(3)),
                ],
                age: Duration::from_millis(2),
            })
        });
        ios.take(limit).collect()
    }

    async fn controllers(&self) -> Vec<ControllerInfo> {
        let inner = self.lock();
        let controllers = inner.subsystems.keys().map(|nqn| ControllerInfo {
            subnqn: nqn.clone(),
            hostnqn: "nqn.2014-08.org.example:host".to_owned(),
            hostid: Uuid::from_u128(7),
            cntlid: 1,
            io_queues: 2,
            kato_ms: 5000,
            peer: Some(SocketAddr::from(([10, 0, 0, 9], 40_000))),
            since: SystemTime::UNIX_EPOCH + Duration::from_secs(1),
        });
        controllers.collect()
    }

    async fn load_plugin(&self, file: &str) -> Result<PluginInfo, Problem> {
        let mut inner = self.lock();
        let scheme = inner.offered.get(file).cloned();
        let scheme = scheme.ok_or_else(|| missing(file))?;
        inner.loaded.insert(scheme.clone());
        Ok(PluginInfo {
            name: file.to_owned(),
            version: "1".to_owned(),
            vendor: "tests".to_owned(),
            kinds: 1,
            abi: (1, 0),
            source: Source::File(file.into()),
            schemes: vec![scheme],
            transports: Vec::new(),
            protocols: Vec::new(),
            pools: Vec::new(),
            isolated: false,
            faults: 0,
            counters: Vec::new(),
        })
    }

    async fn unload_plugin(&self, name: &str) -> Result<(), Problem> {
        Err(missing(name))
    }

    fn listeners(&self) -> Vec<SocketAddr> {
        vec![SocketAddr::from(([127, 0, 0, 1], 8420))]
    }
}
