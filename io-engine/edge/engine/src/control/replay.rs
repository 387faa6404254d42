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
        self.forget_stray_reservations(&contents)?;
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
                tracing::info!(device = %name, blocks = info.blocks, "device opened");
                if let Some(entry) = self.write().devices.get_mut(name) {
                    entry.open = Ok(info);
                }
                self.serve_users_of(name).await;
            }
            Err(problem) if waiting => {
                tracing::error!(device = %name, %problem, "device is faulted; it keeps its record");
                if let Some(entry) = self.write().devices.get_mut(name) {
                    entry.open = Err(problem.to_string());
                }
                self.serve_users_of(name).await;
            }
            Err(_) => {}
        }
    }

    /// Brings up the subsystems that wait for a device, or lists what keeps them down.
    pub(super) async fn serve_users_of(&self, device: &str) {
        let users = self.read().users_of(device);
        for nqn in users {
            self.serve(&nqn).await;
        }
        self.serve_export(device).await;
    }

    /// A reservation outlives its share, but neither its device nor a crash in the middle of a removal.
    fn forget_stray_reservations(&self, contents: &Contents) -> Result<(), StoreError> {
        let known = |nqn: &String| {
            contents.subsystems.contains_key(nqn)
                || contents
                    .devices
                    .keys()
                    .any(|name| identity::nqn_of(name) == *nqn)
        };
        let nqns = self.store.reservation_nqns()?;
        let stray: Vec<Change> = nqns
            .into_iter()
            .filter(|nqn| !known(nqn))
            .map(|nqn| Change::RemoveReservations(nqn, None))
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

    /// Creates and shares what the configuration declares, unless it exists. A failure is logged and holds up nothing.
    async fn create_declared(self: &Arc<Self>, devices: impl IntoIterator<Item = &DeclaredDevice>) {
        for declared in devices {
            let uri = &declared.uri;
            let name = match Wanted::parse(uri) {
                Ok(wanted) => wanted.name,
                Err(problem) => {
                    tracing::error!(%uri, %problem, "declared device not created");
                    continue;
                }
            };
            if self.bdev(&name).is_none()
                && let Err(problem) = self.create_bdev(uri).await
            {
                tracing::error!(%uri, %problem, "declared device not created");
                continue;
            }
            if declared.share
                && let Err(problem) = self
                    .share_bdev(
                        &name,
                        declared.allowed_hosts.clone(),
                        Access::of(declared.read_only),
                    )
                    .await
            {
                tracing::error!(%uri, %problem, "declared device not shared");
            }
        }
    }
}
