//! Creating, destroying and resizing devices.

use std::sync::Arc;

use uuid::Uuid;

use super::dataplane::{DeviceHandle, DeviceInfo, Problem, ProblemKind, Writers};
use super::device_uri::{Existing, Wanted};
use super::registry::{DeviceEntry, no_device};
use super::{Bdev, Engine, identity};
use crate::store::{Change, DeviceRecord};

impl Engine {
    /// Opens the device `uri` names and remembers it.
    ///
    /// A URI with `rescan` or `resize` changes the size of a device that exists; a faulted device of the same URI is
    /// opened again, one that was lost while it was served included: its identity, its shares and their hosts stay.
    ///
    /// # Errors
    /// `InvalidUri`, `AlreadyExists`, and whatever opening it meets. Nothing is remembered then.
    pub async fn create_bdev(self: &Arc<Self>, uri: &str) -> Result<Bdev, Problem> {
        let wanted = Wanted::parse(uri)?;
        let engine = Arc::clone(self);
        Self::to_its_end(async move { engine.create(wanted).await }).await
    }

    /// Closes the device `uri` created and forgets it with its identity and its reservations. Its own share ends. Done means
    /// that no host writes to it any longer and the engine has let go of it.
    ///
    /// # Errors
    /// `InvalidUri`, `NotFound`, `Busy` while it is a namespace of another subsystem; `Timeout` or `Busy` when the device does
    /// not give back what it holds: it is forgotten then, so that it does not come back with the next start, but listed till a
    /// repetition succeeds.
    pub async fn destroy_bdev(self: &Arc<Self>, uri: &str) -> Result<(), Problem> {
        let wanted = Wanted::parse(uri)?;
        self.change(|engine| async move { engine.destroy(wanted).await })
            .await
    }

    /// Opens a faulted device again, one that was lost while it was served included, or takes over the size of the medium of
    /// an open one. With `accept_loss`, hosts are not told any more of writes that were lost with it before.
    ///
    /// # Errors
    /// `NotFound`, `Unsupported`, `InvalidArgument` for a file whose path names another one, and whatever opening it meets.
    pub async fn rescan_bdev(
        self: &Arc<Self>,
        name: &str,
        accept_loss: bool,
    ) -> Result<Bdev, Problem> {
        let name = name.to_owned();
        self.change(|engine| async move {
            let entry = engine
                .read()
                .devices
                .get(&name)
                .cloned()
                .ok_or_else(|| no_device(&name))?;
            match &entry.open {
                Ok(info) if engine.plane().device_fault(info.handle).is_none() => {
                    engine
                        .resize(&name, info, None, entry.record.clone())
                        .await?
                }
                Ok(_) | Err(_) => engine.reopen(&name, entry).await?,
            }
            if accept_loss {
                engine.accept_loss(&name).await?;
            }
            engine.bdev(&name).ok_or_else(|| no_device(&name))
        })
        .await
    }

    /// Has a device obey a command of its own language (`docs/device-fault.md`), and answers what it says. What it changes is not
    /// remembered over a restart.
    ///
    /// # Errors
    /// `NotFound`, `Busy` while it is faulted, `InvalidArgument` for a command it does not know or a device without commands.
    pub async fn command_bdev(
        self: &Arc<Self>,
        name: &str,
        command: &str,
    ) -> Result<String, Problem> {
        let (name, command) = (name.to_owned(), command.to_owned());
        self.change(|engine| async move {
            let handle = engine.read().open_device(&name)?.1.handle;
            let answer = engine.plane().command_device(handle, &command).await?;
            tracing::info!(device = %name, %command, "device obeyed a command");
            Ok(answer)
        })
        .await
    }

    async fn create(self: &Arc<Self>, wanted: Wanted) -> Result<Bdev, Problem> {
        let name = &wanted.name;
        {
            let _alone = self.changes.lock().await;
            let existing = self.read().devices.get(name).cloned();
            if let Some(entry) = existing {
                self.create_existing(&wanted, entry).await?;
                return self.bdev(name).ok_or_else(|| no_device(name));
            }
            if !self.write().opening.insert(name.clone()) {
                let detail = format!("device '{name}' is being created already; wait for it");
                return Err(Problem::new(ProblemKind::AlreadyExists, detail));
            }
        }
        let opened = self.open(&wanted.lasting()).await;
        let _alone = self.changes.lock().await;
        self.write().opening.remove(name);
        self.remember_new(&wanted, opened?).await?;
        self.bdev(name).ok_or_else(|| no_device(name))
    }

    /// Whether a device of this name is on its way.
    #[cfg(test)]
    pub(super) fn is_being_created(&self, name: &str) -> bool {
        self.read().opening.contains(name)
    }

    async fn create_existing(
        self: &Arc<Self>,
        wanted: &Wanted,
        entry: DeviceEntry,
    ) -> Result<(), Problem> {
        let name = &wanted.name;
        let exists = || {
            let detail =
                format!("device '{name}' exists already; destroy it first, or use another name");
            Problem::new(ProblemKind::AlreadyExists, detail)
        };
        let same_scheme = entry.record.uri.split("://").next() == Some(wanted.scheme.as_str());
        if self.fault_of(&entry).is_some() && wanted.is_of(&entry.record) {
            return self.reopen(name, entry).await;
        }
        match (&entry.open, wanted.existing) {
            (Err(_), _) | (Ok(_), Existing::Refuse) => Err(exists()),
            (Ok(_), Existing::Rescan | Existing::Resize { .. }) if !same_scheme => Err(exists()),
            (Ok(info), Existing::Rescan) => {
                self.resize(name, info, None, entry.record.clone()).await
            }
            (Ok(info), Existing::Resize { blocks, size_bytes }) => {
                let blocks = match (blocks, size_bytes) {
                    (Some(blocks), None) => blocks,
                    (None, Some(bytes)) => bytes / u64::from(info.block_size.max(1)),
                    (Some(_), Some(_)) | (None, None) => {
                        let detail = format!(
                            "device URI '{}': give exactly one of size_mb and num_blocks with resize",
                            wanted.text
                        );
                        return Err(Problem::new(ProblemKind::InvalidUri, detail));
                    }
                };
                let record = DeviceRecord {
                    uri: wanted.lasting(),
                    uuid: entry.record.uuid,
                };
                self.resize(name, info, Some(blocks), record).await
            }
        }
    }

    async fn remember_new(&self, wanted: &Wanted, info: DeviceInfo) -> Result<(), Problem> {
        let record = DeviceRecord {
            uri: wanted.lasting(),
            uuid: info.uuid.unwrap_or_else(Uuid::new_v4),
        };
        let accepted = self.accept_name(wanted, &info);
        let stored = match accepted {
            Ok(()) => {
                self.persist(vec![Change::PutDevice(wanted.name.clone(), record.clone())])
                    .await
            }
            Err(problem) => Err(problem),
        };
        if let Err(problem) = stored {
            self.close_quietly(&info).await;
            return Err(problem);
        }
        tracing::info!(
            device = %wanted.name, uuid = %record.uuid, blocks = info.blocks, block_size = info.block_size,
            capabilities = %info.capabilities, "device created"
        );
        self.write().devices.insert(
            wanted.name.clone(),
            DeviceEntry {
                record,
                open: Ok(info),
            },
        );
        Ok(())
    }

    /// The driver names the device; two names for one device, or one uuid for two, would confuse hosts.
    fn accept_name(&self, wanted: &Wanted, info: &DeviceInfo) -> Result<(), Problem> {
        if info.name != wanted.name {
            let detail = format!(
                "device URI '{}' opened a device called '{}'; use its own URI",
                wanted.text, info.name
            );
            return Err(Problem::new(ProblemKind::InvalidUri, detail));
        }
        let state = self.read();
        let twin = state
            .devices
            .iter()
            .find(|(_, entry)| Some(entry.record.uuid) == info.uuid);
        match twin {
            Some((twin, entry)) => {
                let uuid = entry.record.uuid;
                let detail = format!(
                    "device '{twin}' has uuid {uuid} already; give '{}' another",
                    wanted.name
                );
                Err(Problem::new(ProblemKind::AlreadyExists, detail))
            }
            None => Ok(()),
        }
    }

    async fn destroy(self: &Arc<Self>, wanted: Wanted) -> Result<(), Problem> {
        let name = wanted.name;
        let own = identity::nqn_of(&name);
        let entry = self
            .read()
            .devices
            .get(&name)
            .cloned()
            .ok_or_else(|| no_device(&name))?;
        if entry.record.uri.split("://").next() != Some(wanted.scheme.as_str()) {
            let detail = format!(
                "device '{name}' was created from '{}', not from '{}'",
                entry.record.uri, wanted.text
            );
            return Err(Problem::new(ProblemKind::NotFound, detail));
        }
        let users = self.read().users_of(&name);
        let only_here = |nqn: &String| {
            let state = self.read();
            let namespaces = state
                .subsystems
                .get(nqn)
                .map(|entry| entry.record.namespaces.len());
            *nqn == own && namespaces == Some(1)
        };
        if let Some(nqn) = users.iter().find(|nqn| !only_here(nqn)) {
            let detail = format!(
                "device '{name}' is a namespace of subsystem '{nqn}'; remove it there first (subsystem ns remove)"
            );
            return Err(Problem::new(ProblemKind::Busy, detail));
        }
        // One commit: a crash leaves the device and its share, or neither.
        let mut changes = vec![
            Change::RemoveDevice(name.clone()),
            Change::RemoveReservations(own.clone(), None),
        ];
        if !users.is_empty() {
            changes.push(Change::RemoveSubsystem(own.clone()));
        }
        changes.push(Change::RemoveExport(name.clone()));
        self.persist(changes).await?;
        self.withdraw_export(&name).await?;
        if !users.is_empty() {
            self.withdraw(&own).await?;
        }
        if let Ok(info) = &entry.open {
            let settled = self.plane().settle(&[info.handle], Writers::All).await;
            let closed = match settled {
                Ok(()) => self.plane().close_device(info.handle).await,
                Err(problem) => Err(problem),
            };
            closed.map_err(|problem| {
                let detail = format!("device '{name}' is forgotten, but not closed: {problem}");
                Problem::new(problem.kind(), detail)
            })?;
        }
        self.write().devices.remove(&name);
        self.forget_loss(&name).await?;
        // A host may have changed its registration while the subsystem was on its way out.
        self.persist(vec![Change::RemoveReservations(own, None)])
            .await?;
        tracing::info!(device = %name, "device destroyed");
        Ok(())
    }

    /// Changes the size of an open device. `record` is what is remembered of it then.
    async fn resize(
        self: &Arc<Self>,
        name: &str,
        info: &DeviceInfo,
        blocks: Option<u64>,
        record: DeviceRecord,
    ) -> Result<(), Problem> {
        let size = self.plane().resize_device(info.handle, blocks).await?;
        // Applied first: a size the device refuses must not be what the next start asks for.
        let stored = self
            .persist(vec![Change::PutDevice(name.to_owned(), record.clone())])
            .await;
        if let Some(entry) = self.write().devices.get_mut(name) {
            if stored.is_ok() {
                entry.record = record;
            }
            if let Ok(info) = &mut entry.open {
                info.blocks = size;
            }
        }
        tracing::info!(device = %name, blocks = size, "device size taken over");
        stored
    }

    /// Opens a faulted device and brings up the subsystems that wait for it.
    async fn reopen(self: &Arc<Self>, name: &str, entry: DeviceEntry) -> Result<(), Problem> {
        let uri = &entry.record.uri;
        let opened = match &entry.open {
            // Lost while it was served: the subsystems go on, their hosts stay connected.
            Ok(info) => self.open_again(info.handle, uri).await,
            Err(_) => self.open_with_loss(name, uri).await,
        };
        let open = match (&opened, entry.open) {
            (Ok(info), _) => Ok(info.clone()),
            // What is wrong with it is the data plane's to tell.
            (Err(_), Ok(lost)) => Ok(lost),
            (Err(problem), Err(_)) => Err(problem.to_string()),
        };
        if let Some(entry) = self.write().devices.get_mut(name) {
            entry.open = open;
        }
        let info = opened?;
        tracing::info!(device = %name, blocks = info.blocks, "device opened again");
        self.serve_users_of(name).await;
        Ok(())
    }

    /// Opens a device that was not open since the start; what was lost with it before is told then.
    async fn open_with_loss(
        self: &Arc<Self>,
        name: &str,
        uri: &str,
    ) -> Result<DeviceInfo, Problem> {
        let info = self.open(uri).await?;
        if let Err(problem) = self.tell_of_loss(name, &info).await {
            self.close_quietly(&info).await;
            return Err(problem);
        }
        Ok(info)
    }

    /// Opens a lost device again within the deadline. One that answers later is back all the same.
    async fn open_again(
        self: &Arc<Self>,
        handle: DeviceHandle,
        uri: &str,
    ) -> Result<DeviceInfo, Problem> {
        let engine = Arc::clone(self);
        let text = uri.to_owned();
        let opening =
            tokio::spawn(async move { engine.plane().reopen_device(handle, &text).await });
        match tokio::time::timeout(self.options.open_deadline, opening).await {
            Ok(Ok(result)) => result,
            Ok(Err(error)) => Err(driver_failed(uri, &error)),
            Err(_) => Err(self.did_not_open(uri)),
        }
    }

    /// Opens a device within the deadline. One that answers later is closed.
    pub(super) async fn open(self: &Arc<Self>, uri: &str) -> Result<DeviceInfo, Problem> {
        let engine = Arc::clone(self);
        let text = uri.to_owned();
        let mut opening = tokio::spawn(async move { engine.plane().open_device(&text).await });
        let deadline = self.options.open_deadline;
        match tokio::time::timeout(deadline, &mut opening).await {
            Ok(Ok(result)) => result,
            Ok(Err(error)) => Err(driver_failed(uri, &error)),
            Err(_) => {
                let engine = Arc::clone(self);
                tokio::spawn(async move {
                    if let Ok(Ok(info)) = opening.await {
                        engine.close_quietly(&info).await;
                    }
                });
                Err(self.did_not_open(uri))
            }
        }
    }

    fn did_not_open(&self, uri: &str) -> Problem {
        let detail = format!(
            "device '{uri}' did not open within {} s; see whether it answers",
            self.options.open_deadline.as_secs()
        );
        Problem::new(ProblemKind::Timeout, detail)
    }

    /// Closes a device nobody needs; failing to is worth a line in the log only.
    pub(super) async fn close_quietly(&self, info: &DeviceInfo) {
        if let Err(problem) = self.plane().close_device(info.handle).await {
            tracing::warn!(device = %info.name, %problem, "device did not close");
        }
    }
}

fn driver_failed(uri: &str, error: &tokio::task::JoinError) -> Problem {
    tracing::error!(%uri, %error, "the driver failed unexpectedly");
    let detail = format!("device '{uri}': the driver failed unexpectedly; see the engine's log");
    Problem::new(ProblemKind::Internal, detail)
}
