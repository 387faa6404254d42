//! The plugins that are linked in. They go through the same tables as those loaded from files.

use std::sync::Arc;

use plugin_host::{PluginHost, Probe, Store};
use sdk::plugin::Plugin;

/// The default set.
pub const LINKED: [&Plugin; 3] = [
    &device_mem::PLUGIN,
    &device_uring::PLUGIN,
    &transport_nvmf_tcp::PLUGIN,
];

/// A host with the default set. `probe` says how files are tried before they are loaded, `store` where plugins keep values.
///
/// # Panics
/// When two plugins of the default set serve the same: a mistake in this list.
pub fn linked(probe: Option<Probe>, store: Option<Arc<dyn Store>>) -> PluginHost {
    let host = PluginHost::new(probe, store);
    for plugin in LINKED {
        if let Err(refusal) = host.add(plugin) {
            panic!("{refusal}");
        }
    }
    host
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_default_set_serves_what_the_engine_needs() {
        let host = super::linked(None, None);
        assert_eq!(host.schemes(), ["aio", "malloc", "null", "uring"]);
        assert!(host.fabric("tcp").is_some());
    }
}
