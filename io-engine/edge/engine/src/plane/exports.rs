//! Devices served over other protocols: their servers, one for each protocol, and which device is served as which volume.
//!
//! A server is opened with the first device that is to be served by it, and listens until the engine stops: a client that
//! knows its address finds it again when devices come and go.

use std::collections::BTreeMap;
use std::sync::Arc;

use nvme_target::DeviceKey;
use sdk::block::Geometry;
use sdk::export::{ExportServer, ExportSettings, Volume, VolumeId};

use super::calls::open_problem;
use super::devices::{find, not_open};
use super::{Plane, Registry};
use crate::control::dataplane::{DeviceHandle, ExportSpec, Problem, ProblemKind};
use crate::shard::ServerKey;

/// Servers of other protocols.
#[derive(Default)]
pub(super) struct Servers {
    by_protocol: BTreeMap<String, Server>,
    next_key: usize,
    next_volume: u64,
}

struct Server {
    key: ServerKey,
    server: Box<dyn ExportServer>,
}

/// How a device is served over another protocol.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Exported {
    server: usize,
    pub(super) protocol: String,
    volume: VolumeId,
}

impl Exported {
    fn server(&self) -> ServerKey {
        ServerKey(self.server)
    }
}

impl Servers {
    /// Whether there is one of this protocol.
    pub(super) fn has(&self, protocol: &str) -> bool {
        self.by_protocol.contains_key(protocol)
    }

    /// Lets go of all of them; their parts are gone.
    pub(super) fn clear(&mut self) {
        self.by_protocol.clear();
    }
}

impl Plane {
    pub(super) async fn export(&self, spec: ExportSpec) -> Result<String, Problem> {
        let mut registry = self.registry.lock().await;
        let key = self.server_for(&mut registry, &spec.protocol).await?;
        let opened = find(&mut registry, spec.device)?;
        if let Some((nqn, nsid)) = opened.used_by.first() {
            let detail = format!(
                "device '{}' is namespace {nsid} of {nqn}; unshare it first",
                opened.name
            );
            return Err(Problem::new(ProblemKind::Busy, detail));
        }
        if let Some(exported) = &opened.exported {
            let detail = format!(
                "device '{}' is shared over {} already",
                opened.name, exported.protocol
            );
            return Err(Problem::new(ProblemKind::AlreadyExists, detail));
        }
        let home = opened.home;
        let device = self.bring(spec.device, opened, home).await?;
        let facts = opened.device.as_deref();
        let (geometry, capabilities) = facts
            .map(|device| (device.geometry(), device.capabilities()))
            .ok_or_else(|| not_open(&opened.name))?;
        registry.servers.next_volume += 1;
        let volume = Volume {
            id: VolumeId(registry.servers.next_volume),
            name: spec.name.clone(),
            description: String::new(),
            geometry,
            capabilities,
            read_only: spec.access.is_read_only(),
            is_here: false,
        };
        self.add_volume(key, &volume, home, device).await?;
        find(&mut registry, spec.device)?.exported = Some(Exported {
            server: key.0,
            protocol: spec.protocol.clone(),
            volume: volume.id,
        });
        let server = registry.servers.by_protocol.get(&spec.protocol);
        Ok(server.map_or_else(String::new, |entry| entry.server.uri(&spec.name)))
    }

    /// Tells the parts of a server of a volume: the one where it lives first, so that no client is carried to where it is not
    /// known.
    async fn add_volume(
        &self,
        key: ServerKey,
        volume: &Volume,
        home: usize,
        device: DeviceKey,
    ) -> Result<(), Problem> {
        let others = (0..self.shards.count()).filter(|shard| *shard != home);
        for shard in std::iter::once(home).chain(others) {
            let volume = volume.clone();
            self.shards
                .call(shard, move |shard| {
                    shard.add_volume(key, volume, home, device);
                })
                .await?;
        }
        Ok(())
    }

    pub(super) async fn unexport(&self, handle: DeviceHandle) -> Result<(), Problem> {
        let mut registry = self.registry.lock().await;
        let opened = find(&mut registry, handle)?;
        let Some(exported) = opened.exported.clone() else {
            let detail = format!("device '{}' is not shared", opened.name);
            return Err(Problem::new(ProblemKind::NotFound, detail));
        };
        let (key, volume) = (exported.server(), exported.volume);
        for shard in 0..self.shards.count() {
            self.shards
                .call(shard, move |shard| shard.remove_volume(key, volume))
                .await?;
        }
        opened.exported = None;
        Ok(())
    }

    /// Tells the parts of a server that a device has another size.
    pub(super) async fn resize_volume(
        &self,
        exported: &Exported,
        geometry: Geometry,
    ) -> Result<(), Problem> {
        let (key, volume) = (exported.server(), exported.volume);
        for shard in 0..self.shards.count() {
            self.shards
                .call(shard, move |shard| {
                    shard.resize_volume(key, volume, geometry);
                })
                .await?;
        }
        Ok(())
    }

    /// The server of a protocol; opened if it is the first use.
    async fn server_for(
        &self,
        registry: &mut Registry,
        protocol: &str,
    ) -> Result<ServerKey, Problem> {
        if let Some(server) = registry.servers.by_protocol.get(protocol) {
            return Ok(server.key);
        }
        let mut server = self.open_server(protocol).await?;
        let key = ServerKey(registry.servers.next_key);
        registry.servers.next_key += 1;
        for shard in 0..self.shards.count() {
            let opened = match server.open_seat() {
                Ok(seed) => {
                    let opened = self
                        .shards
                        .call(shard, move |shard| shard.open_part(key, seed))
                        .await?;
                    opened.map_err(|error| format!("{error:?}"))
                }
                Err(error) => Err(error.to_string()),
            };
            if let Err(reason) = opened {
                for shard in 0..shard {
                    // One that does not answer keeps its part for as long.
                    let _ = self
                        .shards
                        .call(shard, move |shard| shard.close_part(key))
                        .await;
                }
                let detail =
                    format!("the server of {protocol} does not start on reactor {shard}: {reason}");
                return Err(Problem::new(ProblemKind::Internal, detail));
            }
        }
        let entry = Server { key, server };
        registry
            .servers
            .by_protocol
            .insert(protocol.to_owned(), entry);
        Ok(key)
    }

    async fn open_server(&self, protocol: &str) -> Result<Box<dyn ExportServer>, Problem> {
        let Some(driver) = self.plugins.export(protocol) else {
            let detail = format!("no plugin serves protocol '{protocol}'; see plugin list");
            return Err(Problem::new(ProblemKind::Unsupported, detail));
        };
        let settings = ExportSettings {
            listen: self
                .export_listen
                .get(protocol)
                .cloned()
                .unwrap_or_default(),
            ..ExportSettings::default()
        };
        let services = self.plugins.services(protocol);
        let opening =
            tokio::task::spawn_blocking(move || driver.open(&settings, &Arc::clone(&services)));
        match opening.await {
            Ok(opened) => opened.map_err(|error| open_problem(&error)),
            Err(_) => Err(Problem::new(
                ProblemKind::Internal,
                format!("the server of {protocol} panicked while opening"),
            )),
        }
    }
}
