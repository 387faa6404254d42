//! Start: the store is replayed, then what the configuration declares is created.

use std::sync::Arc;
use std::time::Duration;

use engine_config::DeclaredDevice;

use super::dataplane::{Access, DeviceInfo, Problem};
use super::device_uri::Wanted;
use super::registry::{DeviceEntry, ExportEntry, SubsystemEntry};
use super::{Engine, identity};
use crate::store::{Change, Contents, StoreError};

/// How long a start waits for devices. Those that take longer are opened behind it: an engine with one hanging disk
/// serves the others at once (architecture §9: serving again within a second).
const START_GRACE: Duration = Duration::from_millis(500);
/// How long declared devices wait for remembered ones, which come first: what both name is remembered. Within the grace, so
/// that a remembered device that hangs keeps no declared one from being there when the start is done.
const DECLARED_WAIT: Duration = Duration::from_millis(250);

const _: () = assert!(DECLARED_WAIT.as_millis() < START_GRACE.as_millis());

impl Engine {
    /// Lists every remembered device and subsystem, then opens the devices, all at once, and serves each subsystem as
    /// soon as its devices are open; creates what is declared when they are open, or have taken long. Returns when done or
    /// after the grace.
    pub(super) async fn replay(self: &Arc<Self>) -> Result<(), StoreError> {
        let contents = self.store.load()?;
        self.forget_strays(&contents)?;
        let is_there = |(name, _): &(&String, _)| contents.devices.contains_key(*name);
        let losses = contents.losses.iter().filter(is_there);
        let losses = losses.map(|(name, record)| (name.clone(), record.clone()));
        self.write().losses.extend(losses);
        let mut opening = tokio::task::JoinSet::new();
        for (name, record) in contents.devices {
            let engine = Arc::clone(self);
            let uri = record.uri.clone();
            let open = Err("it is being opened".to_owned());
            self.write()
                .devices
                .insert(name.clone(), DeviceEntry { record, open });
            opening.spawn(async move { (name, engine.open(&uri).await) });
        }
        for (name, record) in contents.exports {
            let online = Err("its device is being opened".to_owned());
            self.write()
                .exports
                .insert(name, ExportEntry { record, online });
        }
        for (nqn, record) in contents.subsystems {
            let online = Err("its devices are being opened".to_owned());
            let is_empty = record.namespaces.is_empty();
            self.write()
                .subsystems
                .insert(nqn.clone(), SubsystemEntry { record, online });
            if is_empty {
                self.serve(&nqn).await;
            }
        }
        let engine = Arc::clone(self);
        let rest = tokio::spawn(async move {
            let mut replayed = std::pin::pin!(async {
                while let Some(opened) = opening.join_next().await {
                    match opened {
                        Ok((name, open)) => engine.handle_replayed(&name, open).await,
                        // Opening runs in a task of its own, so that this one has nothing to fail with.
                        Err(error) => {
                            tracing::error!(%error, "opening a device ended unexpectedly")
                        }
                    }
                }
            });
            let declared = engine.options.declared.iter();
            if tokio::time::timeout(DECLARED_WAIT, &mut replayed)
                .await
                .is_ok()
            {
                return engine.create_declared(declared).await;
            }
            let (pending, ready): (Vec<_>, Vec<_>) =
                declared.partition(|declared| engine.is_remembered_but_not_open(declared));
            tokio::join!(replayed, engine.create_declared(ready));
            engine.create_declared(pending).await;
        });
        if tokio::time::timeout(START_GRACE, rest).await.is_err() {
            tracing::warn!("some devices take long to open; the others are served meanwhile");
        }
        Ok(())
    }

    /// A remembered device opened or did not.
    async fn handle_replayed(self: &Arc<Self>, name: &str, open: Result<DeviceInfo, Problem>) {
        let _alone = self.changes.lock().await;
        let waiting = self
            .read()
            .devices
            .get(name)
            .is_some_and(|entry| entry.open.is_err());
        match open {
            // Destroyed, or opened by hand, in the meantime.
            Ok(info) if !waiting => self.close_quietly(&info).await,
            Ok(info) => {
                if let Err(problem) = self.tell_of_loss(name, &info).await {
                    self.close_quietly(&info).await;
                    return self.handle_unopened(name, &problem).await;
                }
                tracing::info!(device = %name, blocks = info.blocks, "device opened");
                if let Some(entry) = self.write().devices.get_mut(name) {
                    entry.open = Ok(info);
                }
                self.serve_users_of(name).await;
            }
            Err(problem) if waiting => self.handle_unopened(name, &problem).await,
            Err(_) => {}
        }
    }

    async fn handle_unopened(&self, name: &str, problem: &Problem) {
        tracing::error!(device = %name, %problem, "device is faulted; it keeps its record");
        if let Some(entry) = self.write().devices.get_mut(name) {
            entry.open = Err(problem.to_string());
        }
        self.serve_users_of(name).await;
    }

    /// Brings up the subsystems that wait for a device, or lists what keeps them down.
    pub(super) async fn serve_users_of(&self, device: &str) {
        let users = self.read().users_of(device);
        for nqn in users {
            self.serve(&nqn).await;
        }
        self.serve_export(device).await;
    }

    /// A reservation outlives its share, but neither its device nor a crash in the middle of a removal; nor does a loss.
    fn forget_strays(&self, contents: &Contents) -> Result<(), StoreError> {
        let known = |nqn: &String| {
            contents.subsystems.contains_key(nqn)
                || contents
                    .devices
                    .keys()
                    .any(|name| identity::nqn_of(name) == *nqn)
        };
        let nqns = self.store.reservation_nqns()?;
        let losses = contents.losses.keys();
        let losses = losses.filter(|name| !contents.devices.contains_key(*name));
        let stray: Vec<Change> = nqns
            .into_iter()
            .filter(|nqn| !known(nqn))
            .map(|nqn| Change::RemoveReservations(nqn, None))
            .chain(losses.map(|name| Change::RemoveLoss(name.clone())))
            .collect();
        if stray.is_empty() {
            Ok(())
        } else {
            self.store.commit(&stray)
        }
    }

    /// Whether a declared device is a remembered one that has not opened, so far or at all.
    fn is_remembered_but_not_open(&self, declared: &DeclaredDevice) -> bool {
        Wanted::parse(&declared.uri).is_ok_and(|wanted| {
            let state = self.read();
            let entry = state.devices.get(&wanted.name);
            entry.is_some_and(|entry| entry.open.is_err())
        })
    }

    /// Opens the devices that could not be opened while nobody served these schemes, and creates the declared ones.
    pub(super) async fn open_waiting(self: &Arc<Self>, schemes: &[String]) {
        // A device may stand on another, which its URI names.
        let needs = |uri: &str| {
            let mut schemes = schemes.iter();
            schemes.any(|scheme| uri.contains(&format!("{scheme}:")))
        };
        let waiting: Vec<String> = {
            let state = self.read();
            let devices = state.devices.iter();
            let waiting =
                devices.filter(|(_, entry)| entry.open.is_err() && needs(&entry.record.uri));
            waiting.map(|(name, _)| name.clone()).collect()
        };
        for device in waiting {
            if let Err(problem) = self.rescan_bdev(&device, false).await {
                tracing::error!(%device, %problem, "device stays faulted, although its plugin is there");
            }
        }
        let mut declared: Vec<&DeclaredDevice> = self.options.declared.iter().collect();
        declared.retain(|declared| needs(&declared.uri));
        self.create_declared(declared).await;
    }

    /// Creates and shares what the configuration declares, unless it exists, all at once: one that hangs delays only itself. A
    /// failure is logged.
    async fn create_declared(self: &Arc<Self>, devices: impl IntoIterator<Item = &DeclaredDevice>) {
        let mut creating = tokio::task::JoinSet::new();
        for declared in devices {
            let (engine, declared) = (Arc::clone(self), declared.clone());
            creating.spawn(async move { engine.create_one(&declared).await });
        }
        while let Some(created) = creating.join_next().await {
            if let Err(error) = created {
                tracing::error!(%error, "creating a declared device ended unexpectedly");
            }
        }
    }

    async fn create_one(self: &Arc<Self>, declared: &DeclaredDevice) {
        let uri = &declared.uri;
        let wanted = match Wanted::parse(uri) {
            Ok(wanted) => wanted,
            Err(problem) => {
                tracing::error!(%uri, %problem, "declared device not created");
                return;
            }
        };
        let name = &wanted.name;
        let remembered = self
            .read()
            .devices
            .get(name)
            .map(|entry| entry.record.clone());
        match remembered {
            Some(record) if !wanted.is_of(&record) => tracing::warn!(
                device = %name, declared = %uri, served = %record.uri,
                "the declared device is remembered with another URI and served by that; to change its size: \
                 io-engine-client bdev create with '&resize' (RAM) or bdev rescan (files), anything else: destroy it and start anew"
            ),
            Some(_) => {}
            None => {
                if let Err(problem) = self.create_bdev(uri).await {
                    tracing::error!(%uri, %problem, "declared device not created");
                    return;
                }
            }
        }
        if declared.share
            && let Err(problem) = self
                .share_bdev(
                    name,
                    declared.allowed_hosts.clone(),
                    Access::of(declared.read_only),
                )
                .await
        {
            tracing::error!(%uri, %problem, "declared device not shared");
        }
    }
}
