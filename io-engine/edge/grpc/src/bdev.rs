//! `mayastor.v1.BdevRpc`.

use std::sync::Arc;
use std::time::Duration;

use engine::control::dataplane::Access;
use engine::control::{self, Engine};
use proto::mayastor::v1::bdev_rpc_server::BdevRpc;
use proto::mayastor::v1::{
    Bdev, BdevShareRequest, BdevShareResponse, BdevUnshareRequest, CreateBdevRequest,
    CreateBdevResponse, DestroyBdevRequest, ListBdevOptions, ListBdevResponse, ShareProtocol,
};
use tonic::{Request, Response, Status};

use crate::status::{Doing, status};

/// How long a list waits for what devices have to say of themselves; one that hangs must not keep it.
const WARNINGS_WAIT: Duration = Duration::from_millis(250);

#[derive(Debug)]
pub(crate) struct Service {
    engine: Arc<Engine>,
}

impl Service {
    pub(crate) fn new(engine: Arc<Engine>) -> Self {
        Self { engine }
    }
}

#[tonic::async_trait]
impl BdevRpc for Service {
    async fn create(
        &self,
        request: Request<CreateBdevRequest>,
    ) -> Result<Response<CreateBdevResponse>, Status> {
        let uri = request.into_inner().uri;
        let bdev = self.engine.create_bdev(&uri).await;
        let bdev = bdev.map_err(|problem| status(Doing::OpenDevice, &problem))?;
        Ok(Response::new(CreateBdevResponse {
            bdev: Some(show(bdev)),
        }))
    }

    async fn destroy(&self, request: Request<DestroyBdevRequest>) -> Result<Response<()>, Status> {
        let uri = request.into_inner().uri;
        let done = self.engine.destroy_bdev(&uri).await;
        done.map(Response::new)
            .map_err(|problem| status(Doing::Other, &problem))
    }

    /// A name nobody has gives an empty list, as upstream.
    async fn list(
        &self,
        request: Request<ListBdevOptions>,
    ) -> Result<Response<ListBdevResponse>, Status> {
        // Without an answer in time, the warnings of the last look are shown.
        let _ = tokio::time::timeout(WARNINGS_WAIT, self.engine.device_warnings()).await;
        let bdevs = match request.into_inner().name {
            Some(name) => self.engine.bdev(&name).into_iter().collect(),
            None => self.engine.bdevs(),
        };
        Ok(Response::new(ListBdevResponse {
            bdevs: bdevs.into_iter().map(show).collect(),
        }))
    }

    async fn share(
        &self,
        request: Request<BdevShareRequest>,
    ) -> Result<Response<BdevShareResponse>, Status> {
        let request = request.into_inner();
        match ShareProtocol::try_from(request.protocol) {
            Ok(ShareProtocol::Nvmf) => {}
            Ok(ShareProtocol::None | ShareProtocol::Iscsi) | Err(_) => {
                let text = format!(
                    "device '{}' cannot be shared over protocol {}; use NVMF (1)",
                    request.name, request.protocol
                );
                return Err(Status::invalid_argument(text));
            }
        }
        let shared = self
            .engine
            .share_bdev(&request.name, request.allowed_hosts, Access::ReadWrite)
            .await;
        let bdev = shared.map_err(|problem| status(Doing::Other, &problem))?;
        Ok(Response::new(BdevShareResponse {
            bdev: Some(show(bdev)),
        }))
    }

    async fn unshare(&self, request: Request<BdevUnshareRequest>) -> Result<Response<()>, Status> {
        let name = request.into_inner().name;
        let done = self.engine.unshare_bdev(&name).await;
        done.map(Response::new)
            .map_err(|problem| status(Doing::Other, &problem))
    }
}

/// A device that does no I/O, or has a warning, says so where the claim stands; one that was not opened since the start has no
/// size.
fn show(bdev: control::Bdev) -> Bdev {
    let mut claimed_by = match (&bdev.fault, bdev.claimed) {
        (Some(reason), _) => format!("Faulted: {reason}"),
        (None, true) => match &bdev.protocol {
            Some(protocol) => format!("{} server", protocol.to_uppercase()),
            None => "NVMe-oF Target".to_owned(),
        },
        (None, false) => "Orphaned".to_owned(),
    };
    if let (None, Some(warning)) = (&bdev.fault, &bdev.warning) {
        // What there is to do about it is said by `bdev state`.
        let short = warning.split(';').next().unwrap_or_default();
        claimed_by = format!("{claimed_by}; warning: {short}");
    }
    Bdev {
        share_uri: bdev
            .share_uri
            .unwrap_or_else(|| format!("bdev:///{}", bdev.name)),
        uuid: bdev.uuid.to_string(),
        num_blocks: bdev.blocks,
        blk_size: bdev.block_size,
        claimed: bdev.claimed,
        claimed_by,
        aliases: bdev.uri.clone(),
        uri: with_uuid(&bdev.uri, &bdev.uuid.to_string()),
        product_name: bdev.product_name,
        name: bdev.name,
    }
}

/// The URI with the device's identity, unless it carries one.
fn with_uuid(uri: &str, uuid: &str) -> String {
    let query = uri.split_once('?').map(|(_, query)| query);
    let has = query.is_some_and(|query| query.split('&').any(|pair| pair.starts_with("uuid=")));
    match (has, query) {
        (true, _) => uri.to_owned(),
        (false, None) => format!("{uri}?uuid={uuid}"),
        (false, Some(_)) => format!("{uri}&uuid={uuid}"),
    }
}
