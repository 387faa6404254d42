//! What the control side reads from a device URI: the name it will have, and the flags about an existing device.
//!
//! Everything else in it is the driver's to check.

use sdk::uri::{DeviceUri, UriError};

use super::dataplane::{Problem, ProblemKind};
use crate::store::DeviceRecord;

/// A device URI, as far as the control side reads it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Wanted {
    /// The URI as given.
    pub(super) text: String,
    /// Its scheme.
    pub(super) scheme: String,
    /// Name of the device: the path, for devices in memory without its leading slash.
    pub(super) name: String,
    /// What is asked of a device that exists already.
    pub(super) existing: Existing,
}

/// What a URI asks of a device that exists already.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Existing {
    /// Nothing: creating it again is refused.
    Refuse,
    /// `rescan`: take over the size of the medium.
    Rescan,
    /// `resize`: make it so large.
    Resize {
        /// `num_blocks`, or `None` when `size_bytes` is given.
        blocks: Option<u64>,
        /// `size_mb` in bytes.
        size_bytes: Option<u64>,
    },
}

impl Wanted {
    /// Reads `text`.
    ///
    /// # Errors
    /// `InvalidUri`.
    pub(super) fn parse(text: &str) -> Result<Self, Problem> {
        Self::read(text).map_err(|error| Problem::new(ProblemKind::InvalidUri, error.to_string()))
    }

    fn read(text: &str) -> Result<Self, UriError> {
        let mut uri = DeviceUri::parse(text)?;
        // A file is called by its path; any other device, those of loaded plugins too, by what its author put there.
        let is_file = matches!(uri.scheme(), "aio" | "uring");
        let path = uri.path();
        let name = if is_file {
            path
        } else {
            path.strip_prefix('/').unwrap_or(path)
        };
        if name.trim_matches('/').is_empty() {
            return Err(UriError::Malformed {
                uri: text.to_owned(),
                reason: "names no device; write e.g. aio:///path or malloc:///name?size_mb=64",
            });
        }
        let name = name.to_owned();
        let scheme = uri.scheme().to_owned();
        let existing = if uri.take_flag("rescan")? {
            Existing::Rescan
        } else if uri.take_flag("resize")? {
            let bytes = uri
                .take_number("size_mb")?
                .map(|mb| mb.saturating_mul(1 << 20));
            Existing::Resize {
                blocks: uri.take_number("num_blocks")?,
                size_bytes: bytes,
            }
        } else {
            Existing::Refuse
        };
        Ok(Self {
            text: text.to_owned(),
            scheme,
            name,
            existing,
        })
    }

    /// The URI without `resize` and `rescan`: what opens the device again after a restart.
    pub(super) fn lasting(&self) -> String {
        without(&self.text, |pair| {
            let name = pair.split('=').next().unwrap_or_default();
            matches!(name, "resize" | "rescan")
        })
    }

    /// Whether it is the URI of a device that exists, as it was given or as it is listed (with the uuid).
    pub(super) fn is_of(&self, record: &DeviceRecord) -> bool {
        let uuid = format!("uuid={}", record.uuid);
        let plain = |uri: &str| without(uri, |pair| pair == uuid);
        plain(&self.lasting()) == plain(&record.uri)
    }
}

/// A URI without some of its parameters.
fn without(uri: &str, drop: impl Fn(&str) -> bool) -> String {
    let Some((place, query)) = uri.split_once('?') else {
        return uri.to_owned();
    };
    let lasts = |pair: &&str| !pair.is_empty() && !drop(pair);
    let kept: Vec<&str> = query.split('&').filter(lasts).collect();
    if kept.is_empty() {
        place.to_owned()
    } else {
        format!("{place}?{}", kept.join("&"))
    }
}

#[cfg(test)]
mod tests {
    use sdk::text::{is_printable, printable};

    use super::*;

    #[test]
    fn names_follow_the_scheme() {
        let name = |uri: &str| Wanted::parse(uri).unwrap().name;
        assert_eq!(name("malloc:///m0?size_mb=4"), "m0");
        assert_eq!(name("null:///a/b?size_mb=4"), "a/b");
        assert_eq!(name("fault:///slow?device=aio:///dev/sdb"), "slow");
        assert_eq!(name("sparse:///s?size_mb=4"), "s");
        assert_eq!(name("aio:///dev/sdb"), "/dev/sdb");
        assert_eq!(name("uring:///tmp/my%20disk?blk_size=4096"), "/tmp/my disk");
        for bad in [
            "aio://",
            "malloc:///",
            "aio:///",
            "plain",
            "aio:///x?rescan=maybe",
        ] {
            assert_eq!(
                Wanted::parse(bad).unwrap_err().kind(),
                ProblemKind::InvalidUri,
                "{bad}"
            );
        }
    }

    #[test]
    fn names_that_do_not_print_are_refused_in_one_line() {
        for uri in [
            "aio:///d%0ax",
            "malloc:///m%1b[31m?size_mb=4",
            "malloc:///m\u{7f}?size_mb=4",
            "malloc:///m\u{202e}gpj?size_mb=4",
            "malloc:///m%e2%80%8b?size_mb=4",
            "malloc:///m?size_mb=4\r",
        ] {
            let refused = Wanted::parse(uri).unwrap_err();
            assert_eq!(refused.kind(), ProblemKind::InvalidUri);
            let text = refused.to_string();
            assert!(text.contains(&printable(uri)), "{text}");
            assert!(text.chars().all(is_printable), "{text:?}");
        }
        let malformed = Wanted::parse("a\nb").unwrap_err().to_string();
        assert!(malformed.contains("'a\\nb'"), "{malformed}");
        for good in [
            "aio:///tmp/my%20disk",
            "aio:///tmp/Gr\u{f6}\u{df}e-\u{65e5}\u{672c}",
            "malloc:///e\u{301}",
        ] {
            assert!(Wanted::parse(good).is_ok(), "{good}");
        }
    }

    #[test]
    fn a_device_is_known_by_its_uri_as_given_and_as_listed() {
        let uuid = uuid::Uuid::from_u128(7);
        let record = |uri: &str| DeviceRecord {
            uri: uri.to_owned(),
            uuid,
        };
        let is_of = |uri: &str, given: &str| Wanted::parse(uri).unwrap().is_of(&record(given));
        assert!(is_of("aio:///f", "aio:///f"));
        assert!(is_of(&format!("aio:///f?uuid={uuid}"), "aio:///f"));
        assert!(is_of(
            &format!("aio:///f?blk_size=512&rescan&uuid={uuid}"),
            "aio:///f?blk_size=512"
        ));
        assert!(!is_of("aio:///f?blk_size=4096", "aio:///f"));
        assert!(!is_of(
            "aio:///f?uuid=00000000-0000-0000-0000-000000000008",
            "aio:///f"
        ));
    }

    #[test]
    fn flags_about_an_existing_device_do_not_last() {
        let wanted = Wanted::parse("malloc:///m?size_mb=8&resize&uuid=x").unwrap();
        assert_eq!(
            wanted.existing,
            Existing::Resize {
                blocks: None,
                size_bytes: Some(8 << 20)
            }
        );
        assert_eq!(wanted.lasting(), "malloc:///m?size_mb=8&uuid=x");
        let wanted = Wanted::parse("aio:///f?rescan").unwrap();
        assert_eq!(
            (wanted.existing, wanted.lasting().as_str()),
            (Existing::Rescan, "aio:///f")
        );
    }
}
