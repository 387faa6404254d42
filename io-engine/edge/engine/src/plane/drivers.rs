//! Which device driver serves a URI.

use std::sync::Arc;

use plugin_host::PluginHost;
use sdk::block::DeviceDriver;
use sdk::uri::{DeviceUri, UriError};

use super::plugins::LINKED;

/// Where device drivers come from.
pub(super) enum Drivers {
    /// The plugins, as they are at the time of asking.
    Plugins(PluginHost),
    /// A fixed list.
    Fixed(Vec<Arc<dyn DeviceDriver>>),
}

impl Drivers {
    /// The driver that serves the scheme of `uri`.
    ///
    /// # Errors
    /// `UnknownScheme`, with the schemes there are.
    pub(super) fn of(&self, uri: &DeviceUri) -> Result<Arc<dyn DeviceDriver>, UriError> {
        let scheme = uri.scheme();
        let found = match self {
            Self::Plugins(plugins) => plugins.driver(scheme),
            Self::Fixed(drivers) => {
                let mut drivers = drivers.iter();
                let driver = drivers.find(|driver| driver.schemes().contains(&scheme));
                driver.cloned()
            }
        };
        found.ok_or_else(|| UriError::UnknownScheme {
            scheme: scheme.to_owned(),
            known: self.schemes().join(", "),
        })
    }

    fn schemes(&self) -> Vec<String> {
        match self {
            Self::Plugins(plugins) => plugins.schemes(),
            Self::Fixed(drivers) => {
                let schemes = drivers.iter().flat_map(|driver| driver.schemes());
                let mut known: Vec<String> = schemes.map(|scheme| (*scheme).to_owned()).collect();
                known.sort_unstable();
                known
            }
        }
    }
}

/// Whether `text` is a device URI that a driver of the default set of plugins takes, parameters included. Whether the device
/// can be opened only opening it tells.
///
/// # Errors
/// Says what to write.
pub fn check_uri(text: &str) -> Result<(), UriError> {
    let uri = DeviceUri::parse(text)?;
    let drivers = LINKED
        .iter()
        .filter_map(|plugin| plugin.devices)
        .flat_map(|make| make())
        .map(Arc::from);
    Drivers::Fixed(drivers.collect()).of(&uri)?.check(uri)
}

#[cfg(test)]
mod tests {
    use super::check_uri;

    #[test]
    fn a_uri_needs_a_scheme_that_is_served() {
        for uri in [
            "malloc:///m?size_mb=8",
            "aio:///x",
            "uring:///x",
            "null:///n?num_blocks=8",
        ] {
            check_uri(uri).unwrap();
        }
        let line = check_uri("spdk:///x").unwrap_err().to_string();
        assert!(
            line.ends_with("'spdk' is unknown; use one of: aio, fault, malloc, null, uring"),
            "{line}"
        );
        for bad in [
            "/dev/sdb",
            "null:///n",
            "aio:///x?bogus",
            "uring:///x?uuid=1",
        ] {
            assert!(check_uri(bad).is_err(), "{bad}");
        }
    }
}
