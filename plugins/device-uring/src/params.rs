//! What an `aio` or `uring` URI says.

use sdk::uri::{DeviceUri, UriError};
use units::BlockSize;

/// The parameters of a file URI.
pub(crate) struct Params {
    /// Absolute path of the file or block device.
    pub(crate) path: String,
    /// `None`: detect.
    pub(crate) block_size: Option<BlockSize>,
    pub(crate) uuid: Option<[u8; 16]>,
}

impl Params {
    /// Takes all parameters and refuses others.
    pub(crate) fn take(mut uri: DeviceUri) -> Result<Self, UriError> {
        let refused = |reason| UriError::Malformed {
            uri: uri.text().to_owned(),
            reason,
        };
        if !uri.authority().is_empty() {
            let reason = "names a host; a local path has three slashes, e.g. aio:///dev/sdb";
            return Err(refused(reason));
        }
        if uri.path().trim_matches('/').is_empty() {
            let reason = "names no file; write e.g. aio:///var/lib/disk.img";
            return Err(refused(reason));
        }
        let block_size = uri.take_number("blk_size");
        // On a device that is not open yet there is nothing to look at again.
        let rescan = uri.take_flag("rescan");
        let uuid = uri.take_uuid();
        // What nobody knows first: a misspelt parameter is often why another one is wrong.
        uri.clone().finish()?;
        rescan?;
        let block_size = match block_size? {
            None | Some(0) => None,
            Some(bytes) => {
                let size = u32::try_from(bytes).ok().and_then(BlockSize::from_bytes);
                let expected = "512 or 4096, or 0 to detect it";
                Some(size.ok_or_else(|| uri.bad("blk_size", bytes.to_string(), expected))?)
            }
        };
        Ok(Self {
            path: uri.path().to_owned(),
            block_size,
            uuid: uuid?,
        })
    }
}
