//! The plugins that are linked in. They come in by the same tables as those loaded from files.

use std::path::Path;
use std::sync::Arc;

use plugin_host::{PluginHost, PluginInfo, Probe, Refusal, Store, Why};
use sdk::fabric::{Fabric, FabricDriver, FabricSettings};
use sdk::plugin::Plugin;
use sdk::services::Services;
use transport_nvmf_tcp::TcpConfig;

use super::Plane;
use crate::control::dataplane::{Problem, ProblemKind};

/// The default set.
pub const LINKED: [&Plugin; 5] = [
    &device_mem::PLUGIN,
    &device_uring::PLUGIN,
    &transport_nvmf_tcp::PLUGIN,
    &transport_nbd::PLUGIN,
    &device_fault::PLUGIN,
];

/// A host with the default set. `probe` says how files are tried before they are loaded, `store` where plugins keep values.
///
/// # Panics
/// When two plugins of the default set serve the same: a mistake in this list.
pub fn linked(probe: Option<Probe>, store: Option<Arc<dyn Store>>) -> PluginHost {
    match linked_into(PluginHost::new(probe, store)) {
        Ok(host) => host,
        Err(refusal) => panic!("{refusal}"),
    }
}

/// As [`linked`], into a host that was set up by the caller.
///
/// # Errors
/// When the host is to isolate a plugin that cannot be.
pub fn linked_into(host: PluginHost) -> Result<PluginHost, Refusal> {
    for plugin in LINKED {
        host.add_own(plugin)?;
    }
    Ok(host)
}

impl Plane {
    /// Loads a file of one of the plugin directories: whoever reaches the API must not choose what code runs here.
    pub(super) async fn load(&self, file: &str) -> Result<PluginInfo, Problem> {
        let is_name = Path::new(file).file_name().is_some_and(|name| name == file);
        let directories = self.plugin_directories.iter();
        let path = directories
            .map(|directory| directory.join(file))
            .find(|path| is_name && path.is_file());
        let Some(path) = path else {
            let directories = self.plugin_directories.iter();
            let list: Vec<String> = directories.map(|path| path.display().to_string()).collect();
            let detail = match list.is_empty() {
                true => "no plugin directory is configured ([plugins] directories)".to_owned(),
                false => format!(
                    "no plugin directory ({}) has a file '{file}'",
                    list.join(", ")
                ),
            };
            return Err(Problem::new(ProblemKind::NotFound, detail));
        };
        let plugins = self.plugins.clone();
        let loaded = tokio::task::spawn_blocking(move || plugins.load(&path)).await;
        match loaded {
            Ok(Ok(info)) => {
                let (name, version) = (&info.name, &info.version);
                tracing::info!(%name, %version, %file, "plugin loaded");
                Ok(info)
            }
            Ok(Err(refusal)) => Err(refused(&refusal)),
            Err(_) => Err(Problem::new(
                ProblemKind::Internal,
                format!("loading '{file}' panicked"),
            )),
        }
    }

    /// Takes a plugin out that nothing uses.
    pub(super) async fn unload(&self, name: &str) -> Result<(), Problem> {
        let registry = self.registry.lock().await;
        if let Some(plugin) = self.plugins.plugin(name) {
            let mut devices = registry.devices.values();
            let device = devices.find(|opened| plugin.schemes.contains(&opened.scheme));
            let user = device
                .map(|opened| format!("device '{}' is open; destroy it first", opened.name))
                .or_else(|| {
                    let mut protocols = plugin.protocols.iter();
                    let served = protocols.find(|protocol| registry.servers.has(protocol))?;
                    Some(format!(
                        "its server of {served} runs until the engine stops"
                    ))
                })
                .or_else(|| {
                    let has = plugin.transports.iter().any(|name| name == TRANSPORT);
                    has.then(|| "hosts are served by it".to_owned())
                });
            if let Some(user) = user {
                let detail = format!("plugin '{name}' is in use: {user}");
                return Err(Problem::new(ProblemKind::Busy, detail));
            }
        }
        let unloaded = self.plugins.unload(name);
        unloaded.map_err(|refusal| refused(&refusal))?;
        tracing::info!(%name, "plugin unloaded");
        Ok(())
    }
}

fn refused(refusal: &Refusal) -> Problem {
    let kind = match &refusal.why {
        Why::Unknown => ProblemKind::NotFound,
        Why::Taken { .. } => ProblemKind::AlreadyExists,
        Why::BuiltIn => ProblemKind::Unsupported,
        _ => ProblemKind::InvalidArgument,
    };
    Problem::new(kind, refusal.to_string())
}

/// The transport hosts come by.
const TRANSPORT: &str = "tcp";

/// A plugin's transport, to be opened on each reactor.
pub(super) struct Transport {
    driver: Arc<dyn FabricDriver>,
    services: Arc<dyn Services>,
}

impl Transport {
    /// The one plugin that brings it.
    ///
    /// # Errors
    /// `Internal` when there is none.
    pub(super) fn of(plugins: &PluginHost) -> Result<Self, Problem> {
        let Some(driver) = plugins.fabric(TRANSPORT) else {
            let detail = format!("no plugin brings the transport '{TRANSPORT}'");
            return Err(Problem::new(ProblemKind::Internal, detail));
        };
        Ok(Self {
            driver,
            services: plugins.services("engine"),
        })
    }

    /// Its part for the calling reactor.
    ///
    /// # Errors
    /// `Internal` with the plugin's words.
    pub(super) fn open(&self, tcp: &TcpConfig) -> Result<Box<dyn Fabric>, Problem> {
        let number = |value: usize| u32::try_from(value).unwrap_or(u32::MAX);
        let settings = FabricSettings {
            connections_max: number(tcp.connections_max),
            in_capsule_bytes: tcp.in_capsule_bytes,
            transfer_bytes_max: tcp.transfer_bytes_max,
            queue_depth: number(tcp.queue_depth),
            header_digest: tcp.header_digest,
            data_digest: tcp.data_digest,
            handshake_timeout: tcp.handshake_timeout,
            progress_timeout: tcp.progress_timeout,
        };
        let opened = self.driver.open(&settings, &self.services);
        opened.map_err(|error| {
            let detail = format!("transport '{TRANSPORT}': {error}");
            Problem::new(ProblemKind::Internal, detail)
        })
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_default_set_serves_what_the_engine_needs() {
        let host = super::linked(None, None);
        assert_eq!(host.schemes(), ["aio", "fault", "malloc", "null", "uring"]);
        assert!(host.fabric("tcp").is_some() && host.export("nbd").is_some());
    }
}
