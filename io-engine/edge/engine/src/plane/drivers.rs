//! Which device driver serves a URI.

use sdk::block::DeviceDriver;
use sdk::uri::{DeviceUri, UriError};

use super::plugins::LINKED;

/// Which of `drivers` serves the scheme of `uri`.
///
/// # Errors
/// `UnknownScheme`, with the schemes there are.
pub(super) fn position(
    drivers: &[Box<dyn DeviceDriver>],
    uri: &DeviceUri,
) -> Result<usize, UriError> {
    let mut schemes = drivers.iter().map(|driver| driver.schemes());
    let position = schemes.position(|schemes| schemes.contains(&uri.scheme()));
    position.ok_or_else(|| {
        let schemes = drivers.iter().flat_map(|driver| driver.schemes());
        let mut known: Vec<&str> = schemes.copied().collect();
        known.sort_unstable();
        UriError::UnknownScheme {
            scheme: uri.scheme().to_owned(),
            known: known.join(", "),
        }
    })
}

/// Whether `text` is a device URI that a driver of the default set of plugins takes, parameters included. Whether the device
/// can be opened only opening it tells.
///
/// # Errors
/// Says what to write.
pub fn check_uri(text: &str) -> Result<(), UriError> {
    let uri = DeviceUri::parse(text)?;
    let drivers: Vec<Box<dyn DeviceDriver>> = LINKED
        .iter()
        .filter_map(|plugin| plugin.devices)
        .flat_map(|make| make())
        .collect();
    drivers[position(&drivers, &uri)?].check(uri)
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
