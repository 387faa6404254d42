//! Device URIs as an operator or a control plane may write them, up to the drivers' own parameters.
//!
//! Oracle: no panic; what parses is made of characters that print and parses to the same parts when each is encoded anew; a
//! refusal is one line that prints; a URI a driver takes is refused by name with one parameter more that nobody knows.

use sdk::block::DeviceDriver;
use sdk::text::is_printable;
use sdk::uri::{DeviceUri, UriError};

/// Runs one input.
///
/// # Panics
/// When the oracle is broken.
pub fn run(input: &[u8]) {
    let Ok(text) = std::str::from_utf8(input) else {
        return;
    };
    let uri = match DeviceUri::parse(text) {
        Ok(uri) => uri,
        Err(error) => return prints(&error),
    };
    for part in [uri.text(), uri.scheme(), uri.authority(), uri.path()] {
        assert!(part.chars().all(is_printable), "{part:?}");
    }
    assert_eq!(uri.text(), text);
    is_the_same_when_encoded(&uri);
    let mut drivers = device_mem::drivers();
    drivers.extend(device_uring::drivers());
    for driver in drivers {
        if driver.schemes().contains(&uri.scheme()) {
            check(&*driver, &uri);
        }
    }
}

fn check(driver: &dyn DeviceDriver, uri: &DeviceUri) {
    match driver.check(uri.clone()) {
        Err(error) => prints(&error),
        Ok(()) => {
            let joint = if uri.text().contains('?') { '&' } else { '?' };
            let more = format!("{}{joint}no_such_parameter=1", uri.text());
            let Ok(more) = DeviceUri::parse(&more) else {
                // Too long, or it has that parameter without effect, which the next line of a run would show.
                assert!(more.len() > sdk::uri::URI_LEN_MAX, "{more}");
                return;
            };
            match driver.check(more) {
                Err(UriError::UnknownParameter { name, .. }) => {
                    assert_eq!(name, "no_such_parameter");
                }
                other => panic!("{uri:?} with an unknown parameter: {other:?}"),
            }
        }
    }
}

/// Scheme, authority and path, each byte of the latter two percent-encoded, are the same URI without its parameters.
fn is_the_same_when_encoded(uri: &DeviceUri) {
    let path = match uri.path().strip_prefix('/') {
        Some(rest) => format!("/{}", encoded(rest)),
        None => {
            assert!(uri.path().is_empty(), "{uri:?}");
            String::new()
        }
    };
    let text = format!("{}://{}{path}", uri.scheme(), encoded(uri.authority()));
    if text.len() > sdk::uri::URI_LEN_MAX {
        return;
    }
    let again = DeviceUri::parse(&text).expect("the same parts");
    assert_eq!(
        (again.scheme(), again.authority(), again.path()),
        (uri.scheme(), uri.authority(), uri.path())
    );
}

fn encoded(part: &str) -> String {
    part.bytes().map(|byte| format!("%{byte:02x}")).collect()
}

fn prints(error: &UriError) {
    let line = error.to_string();
    assert!(line.chars().all(is_printable), "{line:?}");
}
