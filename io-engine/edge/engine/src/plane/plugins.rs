//! The plugins that are linked in. They come in by the same tables as those loaded from files.

use std::sync::Arc;

use plugin_host::{PluginHost, Probe, Store};
use sdk::fabric::{Fabric, FabricDriver, FabricSettings};
use sdk::plugin::Plugin;
use sdk::services::Services;
use transport_nvmf_tcp::TcpConfig;

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
    let host = PluginHost::new(probe, store);
    for plugin in LINKED {
        if let Err(refusal) = host.add_own(plugin) {
            panic!("{refusal}");
        }
    }
    host
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
