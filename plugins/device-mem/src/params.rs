//! What `malloc` and `null` URIs say: name, size, block size, identity.

use sdk::block::{Geometry, OpenError};
use sdk::uri::{DeviceUri, UriError};
use units::{BlockSize, Blocks};

use crate::limits::DISK_BYTES_MAX;

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
    /// Takes the common parameters; the caller takes its own and calls [`DeviceUri::finish`].
    pub(crate) fn take(uri: &mut DeviceUri) -> Result<Self, OpenError> {
        let name = device_name(uri)?;
        let block_size = match uri.take_number("blk_size")? {
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
                blocks: take_blocks(uri, block_size)?,
            },
            uuid: uri.take_uuid()?,
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
    Ok(name.to_owned())
}

fn take_blocks(uri: &mut DeviceUri, block_size: BlockSize) -> Result<Blocks, UriError> {
    const ONE_OF: &str = "given, or 'num_blocks', but not both";
    let (name, value, bytes) = match (uri.take_number("size_mb")?, uri.take_number("num_blocks")?) {
        (Some(size_mb), None) => ("size_mb", size_mb, size_mb.checked_mul(1 << 20)),
        (None, Some(blocks)) => ("num_blocks", blocks, Blocks(blocks).bytes(block_size)),
        (None, None) => return Err(uri.bad("size_mb", String::new(), ONE_OF)),
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
