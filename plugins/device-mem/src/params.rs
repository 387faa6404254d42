//! What `malloc` and `null` URIs say: name, size, block size, identity.

use sdk::block::Geometry;
use sdk::uri::{DeviceUri, UriError};
use units::{BlockSize, Blocks};

use crate::limits::{DISK_BYTES_MAX, NAME_LEN_MAX};

/// The common parameters of both schemes.
pub(crate) struct Params {
    /// Path without its leading `/`.
    pub(crate) name: String,
    /// Size asked for.
    pub(crate) geometry: Geometry,
    /// Identity, if given.
    pub(crate) uuid: Option<[u8; 16]>,
}

impl Params {
    /// Takes the parameters and refuses others: first those nobody knows, because a misspelt one is often why another
    /// is missing. `own` takes what the scheme has beyond the common ones.
    pub(crate) fn take(
        mut uri: DeviceUri,
        own: impl FnOnce(&mut DeviceUri) -> Result<(), UriError>,
    ) -> Result<Self, UriError> {
        let name = device_name(&uri);
        let own = own(&mut uri);
        let block_size = uri.take_number("blk_size");
        let (size_mb, blocks) = (uri.take_number("size_mb"), uri.take_number("num_blocks"));
        let uuid = uri.take_uuid();
        uri.clone().finish()?;
        let name = name?;
        own?;
        let block_size = match block_size? {
            None => BlockSize::B512,
            Some(bytes) => u32::try_from(bytes)
                .ok()
                .and_then(BlockSize::from_bytes)
                .ok_or_else(|| uri.bad("blk_size", bytes.to_string(), "512 or 4096"))?,
        };
        Ok(Self {
            name,
            geometry: Geometry {
                block_size,
                blocks: count_blocks(&uri, size_mb?, blocks?, block_size)?,
            },
            uuid: uuid?,
        })
    }
}

fn device_name(uri: &DeviceUri) -> Result<String, UriError> {
    let refused = |reason| UriError::Malformed {
        uri: uri.text().to_owned(),
        reason,
    };
    if !uri.authority().is_empty() {
        return Err(refused(
            "names a host; a local device has three slashes, e.g. malloc:///name?size_mb=64",
        ));
    }
    let name = uri.path().strip_prefix('/').unwrap_or("");
    if name.is_empty() {
        return Err(refused(
            "names no device; write e.g. malloc:///name?size_mb=64",
        ));
    }
    if name.len() > NAME_LEN_MAX {
        return Err(refused("has a name of more than 200 bytes; shorten it"));
    }
    Ok(name.to_owned())
}

fn count_blocks(
    uri: &DeviceUri,
    size_mb: Option<u64>,
    num_blocks: Option<u64>,
    block_size: BlockSize,
) -> Result<Blocks, UriError> {
    const ONE_OF: &str = "given, or 'num_blocks', but not both";
    let (name, value, bytes) = match (size_mb, num_blocks) {
        (Some(size_mb), None) => ("size_mb", size_mb, size_mb.checked_mul(1 << 20)),
        (None, Some(blocks)) => ("num_blocks", blocks, Blocks(blocks).bytes(block_size)),
        (None, None) => {
            return Err(UriError::Malformed {
                uri: uri.text().to_owned(),
                reason: "has no size; add size_mb=64 (MiB) or num_blocks=131072",
            });
        }
        (Some(size_mb), Some(_)) => return Err(uri.bad("size_mb", size_mb.to_string(), ONE_OF)),
    };
    match bytes {
        Some(bytes) if (1..=DISK_BYTES_MAX).contains(&bytes) => {
            Ok(Blocks::from_bytes_floor(bytes, block_size))
        }
        _ => Err(uri.bad(
            name,
            value.to_string(),
            "at least 1 and at most 1 TiB in all",
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refusal(rest: &str) -> String {
        let uri = DeviceUri::parse(&format!("malloc://{rest}")).unwrap();
        Params::take(uri, |_| Ok(())).err().unwrap().to_string()
    }

    #[test]
    fn what_is_unknown_is_named_before_what_is_missing_or_wrong() {
        for rest in [
            "/m?bogus=1",
            "/m?bogus=1&size_mb=0",
            "/m?size_mb=x&bogus=1&uuid=1",
            "/?bogus=1",
        ] {
            let line = refusal(rest);
            assert!(line.contains("parameter 'bogus' is unknown"), "{line}");
        }
        assert!(refusal("/m").contains("has no size; add size_mb=64"));
        assert!(refusal("/m?size_mb=1&num_blocks=1").contains("but not both"));
        assert!(refusal("/").contains("names no device"));
        let long = format!("/{}?size_mb=1", "x".repeat(NAME_LEN_MAX + 1));
        assert!(refusal(&long).contains("more than 200 bytes"));
    }
}
