//! A plugin host as a driver, for the conformance kit.

use plugin_host::PluginHost;
use sdk::block::{Device, DeviceDriver, OpenError};
use sdk::plugin::Plugin;
use sdk::uri::DeviceUri;

/// Opens devices as the engine does.
pub(crate) struct ByHost {
    pub(crate) host: PluginHost,
}

impl ByHost {
    /// A host with one plugin linked in.
    pub(crate) fn with(plugin: &'static Plugin) -> Self {
        let host = PluginHost::new(None, None);
        host.add(plugin).expect("the plugin is taken");
        Self { host }
    }
}

impl DeviceDriver for ByHost {
    fn schemes(&self) -> &'static [&'static str] {
        &["malloc", "null"]
    }

    fn open(&self, uri: DeviceUri) -> Result<Box<dyn Device>, OpenError> {
        self.host.open_device(uri.text())
    }
}
