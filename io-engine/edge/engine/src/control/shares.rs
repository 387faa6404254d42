//! Serving devices: shares, allow lists, namespaces.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::dataplane::{Access, DeviceHandle, NamespaceSpec, Problem, ProblemKind, Writers};
use super::registry::{SubsystemEntry, no_device};
use super::{Bdev, Engine, SubsystemView, identity};
use crate::store::{Change, NamespaceRecord, SubsystemRecord};

/// Hosts on one allow list; more are refused.
pub(super) const ALLOWED_HOSTS_MAX: usize = 1024;
/// Namespaces of one subsystem, and the largest nsid; more are refused.
pub(super) const NAMESPACES_MAX: u32 = 256;
/// Subsystems of one engine, all of which may have one home reactor; more are refused (as many as the system we must be able to
/// replace).
pub(crate) const SUBSYSTEMS_MAX: u32 = 2048;

impl Engine {
    /// Exports a device under its own NQN, as namespace 1. `hosts` may connect; an empty list lets any host in.
    ///
    /// Sharing what is shared succeeds; a list that is not empty then replaces the allow list, an empty one leaves it
    /// (opening a restricted share to everybody takes [`Engine::set_allowed_hosts`]).
    ///
    /// # Errors
    /// `NotFound`, `Busy` while the device is faulted, `InvalidArgument` for a bad NQN, `ResourceExhausted`, `AlreadyExists` when it
    /// is shared with another access or over another protocol.
    pub async fn share_bdev(
        self: &Arc<Self>,
        name: &str,
        hosts: Vec<String>,
        access: Access,
    ) -> Result<Bdev, Problem> {
        let hosts = checked_hosts(hosts)?;
        let name = name.to_owned();
        self.change(|engine| async move { engine.share(&name, hosts, access).await })
            .await
    }

    /// Stops exporting a device, over whatever protocol. Done means that no host writes to it any longer. A device that is not exported, or does not
    /// exist, is left alone.
    ///
    /// # Errors
    /// `Busy` while its subsystem has further namespaces, or while it is a namespace of another subsystem; `Timeout` when writes of its hosts are still in the device after a
    /// bounded time. It is not exported then either, and a repetition waits for them again.
    pub async fn unshare_bdev(self: &Arc<Self>, name: &str) -> Result<(), Problem> {
        let name = name.to_owned();
        self.change(|engine| async move { engine.unshare(&name).await })
            .await
    }

    /// Replaces the allow list of a subsystem; `None` lets any host in, an empty list none. Done means that hosts which are not
    /// on it write no longer.
    ///
    /// # Errors
    /// `NotFound`, `InvalidArgument` for a bad NQN; `Timeout` when writes of hosts that are gone are still in a device after a
    /// bounded time. The list holds then, and a repetition waits for them again.
    pub async fn set_allowed_hosts(
        self: &Arc<Self>,
        nqn: &str,
        hosts: Option<Vec<String>>,
    ) -> Result<SubsystemView, Problem> {
        let hosts = hosts.map(checked_hosts).transpose()?;
        let nqn = nqn.to_owned();
        self.change(|engine| async move {
            engine.replace_hosts(&nqn, hosts).await?;
            engine.subsystem(&nqn)
        })
        .await
    }

    /// Adds a device to a subsystem, under `nsid` or the lowest free one.
    ///
    /// # Errors
    /// `NotFound`, `AlreadyExists` (the nsid, or the device in this subsystem), `InvalidArgument`, `Busy` while the
    /// device is faulted, `ResourceExhausted`.
    pub async fn add_namespace(
        self: &Arc<Self>,
        nqn: &str,
        bdev: &str,
        nsid: Option<u32>,
    ) -> Result<SubsystemView, Problem> {
        let (nqn, bdev) = (nqn.to_owned(), bdev.to_owned());
        self.change(|engine| async move {
            engine.attach(&nqn, &bdev, nsid, Access::ReadWrite).await?;
            engine.subsystem(&nqn)
        })
        .await
    }

    /// Takes a namespace out of a subsystem; its reservations are forgotten. Done means that no host writes to its device any
    /// longer.
    ///
    /// # Errors
    /// `NotFound`; `Timeout` when writes of hosts are still in the device after a bounded time. The namespace is gone then;
    /// unsharing or destroying the device waits for them again.
    pub async fn remove_namespace(
        self: &Arc<Self>,
        nqn: &str,
        nsid: u32,
    ) -> Result<SubsystemView, Problem> {
        let nqn = nqn.to_owned();
        self.change(|engine| async move {
            engine.detach(&nqn, nsid).await?;
            engine.subsystem(&nqn)
        })
        .await
    }

    pub(super) async fn share(
        self: &Arc<Self>,
        name: &str,
        hosts: Vec<String>,
        access: Access,
    ) -> Result<Bdev, Problem> {
        let nqn = identity::nqn_of(name);
        if let Some(entry) = self.read().exports.get(name) {
            let protocol = &entry.record.protocol;
            let detail =
                format!("device '{name}' is shared over {protocol} already; unshare it first");
            return Err(Problem::new(ProblemKind::AlreadyExists, detail));
        }
        let shared = self.read().subsystem(&nqn).ok().map(|entry| {
            let mut namespaces = entry.record.namespaces.iter();
            let own = namespaces.find(|namespace| namespace.device == name);
            own.map(|namespace| Access::of(namespace.read_only))
        });
        if let Some(there) = shared {
            match there {
                Some(there) => check_access(name, there, access)?,
                // Its namespace was removed, and the subsystem stayed.
                None => self.attach(&nqn, name, None, access).await?,
            }
            if !hosts.is_empty() {
                self.replace_hosts(&nqn, Some(hosts)).await?;
            }
            return self.bdev(name).ok_or_else(|| no_device(name));
        }
        let record = {
            let state = self.read();
            let (device, info) = state.open_device(name)?;
            self.check_well(name, info)?;
            identity::validate_nqn("the subsystem of this device would be", &nqn)?;
            if state.subsystems.len() >= SUBSYSTEMS_MAX as usize {
                let detail = format!(
                    "{SUBSYSTEMS_MAX} subsystems exist, which is the most; unshare another device"
                );
                return Err(Problem::new(ProblemKind::ResourceExhausted, detail));
            }
            SubsystemRecord {
                serial: identity::serial_of(device.uuid),
                allowed_hosts: (!hosts.is_empty()).then_some(hosts),
                namespaces: vec![NamespaceRecord {
                    nsid: 1,
                    device: name.to_owned(),
                    uuid: device.uuid,
                    nguid: device.uuid,
                    read_only: access.is_read_only(),
                }],
            }
        };
        let spec = self.read().spec(&nqn, &record)?;
        self.persist(vec![Change::PutSubsystem(nqn.clone(), record.clone())])
            .await?;
        if let Err(problem) = self.plane().add_subsystem(spec).await {
            self.persist(vec![Change::RemoveSubsystem(nqn)]).await?;
            return Err(problem);
        }
        tracing::info!(%nqn, device = %name, "device shared");
        self.write().subsystems.insert(
            nqn,
            SubsystemEntry {
                record,
                online: Ok(()),
            },
        );
        self.bdev(name).ok_or_else(|| no_device(name))
    }

    async fn unshare(self: &Arc<Self>, name: &str) -> Result<(), Problem> {
        if self.unexport(name).await? {
            return Ok(());
        }
        let nqn = identity::nqn_of(name);
        let shared = self.read().subsystem(&nqn).cloned();
        let Ok(SubsystemEntry { record, .. }) = shared else {
            // Unshared before, when its hosts' writes had not ended; if others serve it, theirs are not waited for.
            let Some(elsewhere) = self.read().namespace_of(name) else {
                return self.settle(&[name], Writers::All).await;
            };
            self.settle(&[name], Writers::Gone).await?;
            // Its hosts go on writing, so it must not be told as done.
            let (other, nsid) = elsewhere;
            let detail = format!(
                "device '{name}' is namespace {nsid} of '{other}', which is not its own subsystem; remove it there \
                 (subsystem ns remove)"
            );
            return Err(Problem::new(ProblemKind::Busy, detail));
        };
        let namespaces = record.namespaces;
        if let Some(other) = namespaces.iter().find(|namespace| namespace.device != name) {
            let detail = format!(
                "subsystem '{nqn}' also serves device '{}'; remove namespace {} first (subsystem ns remove)",
                other.device, other.nsid
            );
            return Err(Problem::new(ProblemKind::Busy, detail));
        }
        self.persist(vec![Change::RemoveSubsystem(nqn.clone())])
            .await?;
        self.withdraw(&nqn).await?;
        tracing::info!(%nqn, "device unshared");
        self.settle(&[name], Writers::All).await
    }

    async fn replace_hosts(&self, nqn: &str, hosts: Option<Vec<String>>) -> Result<(), Problem> {
        let entry = self.read().subsystem(nqn)?.clone();
        let record = SubsystemRecord {
            allowed_hosts: hosts.clone(),
            ..entry.record.clone()
        };
        self.persist(vec![Change::PutSubsystem(nqn.to_owned(), record.clone())])
            .await?;
        self.remember(nqn, record);
        if entry.online.is_ok() {
            self.plane().set_allowed_hosts(nqn, hosts).await?;
        }
        tracing::info!(%nqn, "allow list replaced");
        let namespaces = entry.record.namespaces.iter();
        let devices: Vec<&str> = namespaces.map(|namespace| &*namespace.device).collect();
        self.settle(&devices, Writers::Gone).await
    }

    async fn attach(
        &self,
        nqn: &str,
        bdev: &str,
        nsid: Option<u32>,
        access: Access,
    ) -> Result<(), Problem> {
        let (before, record, spec) = {
            let state = self.read();
            let entry = state.subsystem(nqn)?;
            let (device, info) = state.open_device(bdev)?;
            self.check_well(bdev, info)?;
            let nsid = free_nsid(nqn, &entry.record, nsid)?;
            if let Some(there) = entry
                .record
                .namespaces
                .iter()
                .find(|namespace| namespace.device == bdev)
            {
                let detail = format!(
                    "device '{bdev}' is namespace {} of '{nqn}' already",
                    there.nsid
                );
                return Err(Problem::new(ProblemKind::AlreadyExists, detail));
            }
            let uuid = device.uuid;
            let mut record = entry.record.clone();
            record.namespaces.push(NamespaceRecord {
                nsid,
                device: bdev.to_owned(),
                uuid,
                nguid: uuid,
                read_only: access.is_read_only(),
            });
            record.namespaces.sort_by_key(|namespace| namespace.nsid);
            let spec = NamespaceSpec {
                nsid,
                device: info.handle,
                uuid,
                nguid: *uuid.as_bytes(),
                access,
            };
            (entry.clone(), record, spec)
        };
        let nsid = spec.nsid;
        // A reservation left by an earlier namespace of this id must not be believed of this one.
        self.persist(vec![
            Change::RemoveReservations(nqn.to_owned(), Some(nsid)),
            Change::PutSubsystem(nqn.to_owned(), record.clone()),
        ])
        .await?;
        if before.online.is_ok()
            && let Err(problem) = self.plane().add_namespace(nqn, spec).await
        {
            self.persist(vec![Change::PutSubsystem(nqn.to_owned(), before.record)])
                .await?;
            return Err(problem);
        }
        self.remember(nqn, record);
        tracing::info!(%nqn, nsid, device = %bdev, "namespace added");
        Ok(())
    }

    async fn detach(self: &Arc<Self>, nqn: &str, nsid: u32) -> Result<(), Problem> {
        let entry = self.read().subsystem(nqn)?.clone();
        let mut record = entry.record.clone();
        record.namespaces.retain(|namespace| namespace.nsid != nsid);
        let mut namespaces = entry.record.namespaces.iter();
        let device = namespaces.find(|namespace| namespace.nsid == nsid);
        let device = device.map(|namespace| namespace.device.clone());
        if record.namespaces.len() == entry.record.namespaces.len() {
            let detail = format!("subsystem '{nqn}' has no namespace {nsid}; see subsystem list");
            return Err(Problem::new(ProblemKind::NotFound, detail));
        }
        self.persist(vec![Change::PutSubsystem(nqn.to_owned(), record.clone())])
            .await?;
        self.remember(nqn, record);
        match entry.online {
            Ok(()) => self.plane().remove_namespace(nqn, nsid).await?,
            // The namespace taken out may have been the one whose device kept the subsystem down.
            Err(_) => self.serve(nqn).await,
        }
        // After the last command of a host that could have changed it.
        self.persist(vec![Change::RemoveReservations(nqn.to_owned(), Some(nsid))])
            .await?;
        tracing::info!(%nqn, nsid, "namespace removed");
        let device: Vec<&str> = device.iter().map(String::as_str).collect();
        self.settle(&device, Writers::All).await
    }

    /// Waits until what `writers` have in devices can no longer change their data. What is not open holds nothing.
    async fn settle(&self, devices: &[&str], writers: Writers) -> Result<(), Problem> {
        let handles: Vec<DeviceHandle> = {
            let state = self.read();
            let open = |name: &&str| Some(state.devices.get(*name)?.open.as_ref().ok()?.handle);
            devices.iter().filter_map(open).collect()
        };
        self.plane().settle(&handles, writers).await
    }

    /// Starts to serve a remembered subsystem, unless it is served; what keeps it from being served is listed.
    pub(super) async fn serve(&self, nqn: &str) {
        let spec = {
            let state = self.read();
            let Some(entry) = state.subsystems.get(nqn) else {
                return;
            };
            if entry.online.is_ok() {
                return;
            }
            state.spec(nqn, &entry.record)
        };
        let online = match spec {
            Ok(spec) => self.plane().add_subsystem(spec).await,
            Err(problem) => Err(problem),
        };
        match &online {
            Ok(()) => tracing::info!(%nqn, "subsystem served"),
            Err(problem) => tracing::error!(%nqn, %problem, "subsystem not served"),
        }
        if let Some(entry) = self.write().subsystems.get_mut(nqn) {
            entry.online = online.map_err(|problem| problem.to_string());
        }
    }

    /// Stops serving a subsystem that is no longer in the store.
    ///
    /// # Errors
    /// When a reactor does not do it: the subsystem stays listed, because its hosts may still reach it.
    pub(super) async fn withdraw(&self, nqn: &str) -> Result<(), Problem> {
        let served = self
            .read()
            .subsystems
            .get(nqn)
            .is_some_and(|entry| entry.online.is_ok());
        if served && let Err(problem) = self.plane().remove_subsystem(nqn).await {
            tracing::warn!(%nqn, %problem, "subsystem not withdrawn");
            // A repetition after a removal that was done in part finds nothing.
            if problem.kind() != ProblemKind::NotFound {
                return Err(problem);
            }
        }
        self.write().subsystems.remove(nqn);
        Ok(())
    }

    fn remember(&self, nqn: &str, record: SubsystemRecord) {
        if let Some(entry) = self.write().subsystems.get_mut(nqn) {
            entry.record = record;
        }
    }
}

/// Each host once, in order; every NQN well-formed.
pub(super) fn checked_hosts(hosts: Vec<String>) -> Result<Vec<String>, Problem> {
    let hosts: Vec<String> = hosts
        .into_iter()
        .collect::<BTreeSet<_>>()
        .into_iter()
        .collect();
    if hosts.len() > ALLOWED_HOSTS_MAX {
        let detail = format!(
            "{} allowed hosts; give at most {ALLOWED_HOSTS_MAX}",
            hosts.len()
        );
        return Err(Problem::new(ProblemKind::InvalidArgument, detail));
    }
    for host in &hosts {
        identity::validate_nqn("allowed host", host)?;
    }
    Ok(hosts)
}

/// Refuses to share again what is shared with another access: its hosts would have to be disconnected.
pub(super) fn check_access(name: &str, there: Access, asked: Access) -> Result<(), Problem> {
    if there == asked {
        return Ok(());
    }
    let how = match there {
        Access::ReadOnly => "read-only",
        Access::ReadWrite => "for reading and writing",
    };
    let detail = format!("device '{name}' is shared {how} already; unshare it first");
    Err(Problem::new(ProblemKind::AlreadyExists, detail))
}

fn free_nsid(nqn: &str, record: &SubsystemRecord, wanted: Option<u32>) -> Result<u32, Problem> {
    let taken = |nsid: u32| {
        record
            .namespaces
            .iter()
            .any(|namespace| namespace.nsid == nsid)
    };
    match wanted {
        Some(nsid) if nsid == 0 || nsid > NAMESPACES_MAX => {
            let detail =
                format!("nsid {nsid} is not acceptable; give a number from 1 to {NAMESPACES_MAX}");
            Err(Problem::new(ProblemKind::InvalidArgument, detail))
        }
        Some(nsid) if taken(nsid) => {
            let detail = format!(
                "subsystem '{nqn}' has a namespace {nsid} already; leave --nsid out for a free one"
            );
            Err(Problem::new(ProblemKind::AlreadyExists, detail))
        }
        Some(nsid) => Ok(nsid),
        None => (1..=NAMESPACES_MAX)
            .find(|nsid| !taken(*nsid))
            .ok_or_else(|| {
                let detail =
                    format!("subsystem '{nqn}' has {NAMESPACES_MAX} namespaces, which is the most");
                Problem::new(ProblemKind::ResourceExhausted, detail)
            }),
    }
}
