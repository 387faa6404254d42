//! The transport as a plugin: what the engine asks for becomes a [`TcpConfig`].

use std::sync::Arc;

use sdk::block::OpenError;
use sdk::fabric::{Fabric, FabricDriver, FabricSettings};
use sdk::plugin::Plugin;
use sdk::services::Services;

use crate::{TcpConfig, TcpFabric};

/// This plugin.
pub const PLUGIN: Plugin = Plugin {
    serves: "tcp",
    fabrics: Some(drivers),
    ..Plugin::new("transport-nvmf-tcp", env!("CARGO_PKG_VERSION"), "io-engine")
};

fn drivers() -> Vec<Box<dyn FabricDriver>> {
    vec![Box::new(TcpDriver)]
}

struct TcpDriver;

impl FabricDriver for TcpDriver {
    fn name(&self) -> &str {
        "tcp"
    }

    fn open(
        &self,
        settings: &FabricSettings,
        _: &Arc<dyn Services>,
    ) -> Result<Box<dyn Fabric>, OpenError> {
        Ok(Box::new(TcpFabric::new(TcpConfig {
            connections_max: settings.connections_max as usize,
            in_capsule_bytes: settings.in_capsule_bytes,
            transfer_bytes_max: settings.transfer_bytes_max,
            queue_depth: settings.queue_depth as usize,
            header_digest: settings.header_digest,
            data_digest: settings.data_digest,
            handshake_timeout: settings.handshake_timeout,
            progress_timeout: settings.progress_timeout,
        })))
    }
}
