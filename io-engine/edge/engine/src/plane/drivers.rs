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

/// Whether `text` is a device URI with a scheme the default set of plugins serves. Whether the device can be opened only
/// opening it tells.
///
/// # Errors
/// Says what to write.
pub fn check_uri(text: &str) -> Result<(), UriError> {
    let uri = DeviceUri::parse(text)?;
    let devices = LINKED.iter().filter(|plugin| plugin.devices.is_some());
    let mut known: Vec<&str> = devices
        .flat_map(|plugin| plugin.serves.split(','))
        .collect();
    known.sort_unstable();
    match known.contains(&uri.scheme()) {
        true => Ok(()),
        false => Err(UriError::UnknownScheme {
            scheme: uri.scheme().to_owned(),
            known: known.join(", "),
        }),
    }
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
            "null:///n",
        ] {
            check_uri(uri).unwrap();
        }
        let line = check_uri("spdk:///x").unwrap_err().to_string();
        assert!(
            line.ends_with("'spdk' is unknown; use one of: aio, fault, malloc, null, uring"),
            "{line}"
        );
        assert!(check_uri("/dev/sdb").is_err());
    }
}
