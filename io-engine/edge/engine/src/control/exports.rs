//! Serving devices over other protocols than NVMe-oF, as their plugins bring them (`nbd`).
//!
//! A device is served one way at a time: the writes of such clients pass by what NVMe hosts agree on (reservations).

use std::sync::Arc;

use super::dataplane::{Access, ExportSpec, Problem, ProblemKind, Writers};
use super::registry::{ExportEntry, no_device};
use super::shares::check_access;
use super::{Bdev, Engine};
use crate::store::{Change, ExportRecord};

/// Longest name a volume may have for its clients, in bytes.
const NAME_BYTES_MAX: usize = 255;

impl Engine {
    /// Serves a device over `protocol`, under its name without a leading slash. Serving what is served that way succeeds.
    ///
    /// # Errors
    /// `NotFound`, `Unsupported` when no plugin brings the protocol, `Busy` while the device is faulted or a namespace of a
    /// subsystem, `AlreadyExists` when it is served over another protocol or with another access, `InvalidArgument` for a name that
    /// is too long, and what opening the protocol's server meets.
    pub async fn export_bdev(
        self: &Arc<Self>,
        name: &str,
        protocol: &str,
        access: Access,
    ) -> Result<Bdev, Problem> {
        let (name, protocol) = (name.to_owned(), protocol.to_owned());
        self.change(|engine| async move { engine.export(&name, protocol, access).await })
            .await
    }

    async fn export(
        self: &Arc<Self>,
        name: &str,
        protocol: String,
        access: Access,
    ) -> Result<Bdev, Problem> {
        let spec = {
            let state = self.read();
            let (_, info) = state.open_device(name)?;
            if let Some(entry) = state.exports.get(name) {
                let there = &entry.record.protocol;
                if *there == protocol {
                    check_access(name, Access::of(entry.record.read_only), access)?;
                }
                if *there == protocol && entry.online.is_ok() {
                    drop(state);
                    return self.bdev(name).ok_or_else(|| no_device(name));
                }
                if *there != protocol {
                    let detail =
                        format!("device '{name}' is shared over {there} already; unshare it first");
                    return Err(Problem::new(ProblemKind::AlreadyExists, detail));
                }
            }
            self.check_well(name, info)?;
            if let Some(nqn) = state.users_of(name).first() {
                let detail =
                    format!("device '{name}' is a namespace of {nqn}; unshare it there first");
                return Err(Problem::new(ProblemKind::Busy, detail));
            }
            let volume = name.trim_start_matches('/');
            if volume.is_empty() || volume.len() > NAME_BYTES_MAX {
                let detail =
                    format!("device '{name}': a volume's name has 1 to {NAME_BYTES_MAX} bytes");
                return Err(Problem::new(ProblemKind::InvalidArgument, detail));
            }
            ExportSpec {
                device: info.handle,
                name: volume.to_owned(),
                protocol: protocol.clone(),
                access,
            }
        };
        let record = ExportRecord {
            protocol,
            read_only: access.is_read_only(),
        };
        self.persist(vec![Change::PutExport(name.to_owned(), record.clone())])
            .await?;
        let uri = match self.plane().add_export(spec).await {
            Ok(uri) => uri,
            Err(problem) => {
                self.persist(vec![Change::RemoveExport(name.to_owned())])
                    .await?;
                self.write().exports.remove(name);
                return Err(problem);
            }
        };
        tracing::info!(device = %name, %uri, "device shared");
        let online = Ok(uri);
        self.write()
            .exports
            .insert(name.to_owned(), ExportEntry { record, online });
        self.bdev(name).ok_or_else(|| no_device(name))
    }

    /// Ends how a device is served over another protocol. `false` if it is not.
    pub(super) async fn unexport(self: &Arc<Self>, name: &str) -> Result<bool, Problem> {
        if !self.read().exports.contains_key(name) {
            return Ok(false);
        }
        self.persist(vec![Change::RemoveExport(name.to_owned())])
            .await?;
        self.withdraw_export(name).await?;
        tracing::info!(device = %name, "device unshared");
        let device = {
            let state = self.read();
            let opened = state.open_device(name);
            opened.ok().map(|(_, info)| info.handle)
        };
        if let Some(device) = device {
            self.plane().settle(&[device], Writers::All).await?;
        }
        Ok(true)
    }

    /// Stops serving what is no longer in the store.
    pub(super) async fn withdraw_export(&self, name: &str) -> Result<(), Problem> {
        let served = {
            let state = self.read();
            let entry = state.exports.get(name);
            let device = state.open_device(name).ok().map(|(_, info)| info.handle);
            device.filter(|_| entry.is_some_and(|entry| entry.online.is_ok()))
        };
        if let Some(device) = served
            && let Err(problem) = self.plane().remove_export(device).await
            && problem.kind() != ProblemKind::NotFound
        {
            return Err(problem);
        }
        self.write().exports.remove(name);
        Ok(())
    }

    /// Starts to serve a remembered export, unless it is served; what keeps it from being served is listed.
    pub(super) async fn serve_export(&self, name: &str) {
        let spec = {
            let state = self.read();
            let Some(entry) = state.exports.get(name) else {
                return;
            };
            if entry.online.is_ok() {
                return;
            }
            let spec = |handle| ExportSpec {
                device: handle,
                name: name.trim_start_matches('/').to_owned(),
                protocol: entry.record.protocol.clone(),
                access: Access::of(entry.record.read_only),
            };
            state.open_device(name).map(|(_, info)| spec(info.handle))
        };
        let online = match spec {
            Ok(spec) => self.plane().add_export(spec).await,
            Err(problem) => Err(problem),
        };
        match &online {
            Ok(uri) => tracing::info!(device = %name, %uri, "device served"),
            Err(problem) => tracing::error!(device = %name, %problem, "device not served"),
        }
        if let Some(entry) = self.write().exports.get_mut(name) {
            entry.online = online.map_err(|problem| problem.to_string());
        }
    }
}
