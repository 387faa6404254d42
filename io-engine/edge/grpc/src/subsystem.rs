//! `io_engine.v1.SubsystemRpc`.

use std::sync::Arc;
use std::time::SystemTime;

use engine::control::dataplane::{ControllerInfo, Problem};
use engine::control::{Engine, SubsystemView};
use proto::io_engine::v1::subsystem_rpc_server::SubsystemRpc;
use proto::io_engine::v1::{
    AddNamespaceRequest, Controller, ListControllersRequest, ListControllersResponse,
    ListSubsystemsRequest, ListSubsystemsResponse, Namespace, RemoveNamespaceRequest,
    SetAllowedHostsRequest, Subsystem,
};
use tonic::{Request, Response, Status};

use crate::status::{Doing, status};

#[derive(Debug)]
pub(crate) struct Service {
    engine: Arc<Engine>,
}

impl Service {
    pub(crate) fn new(engine: Arc<Engine>) -> Self {
        Self { engine }
    }
}

fn reply(result: Result<SubsystemView, Problem>) -> Result<Response<Subsystem>, Status> {
    result
        .map(|view| Response::new(show(view)))
        .map_err(|problem| status(Doing::Other, &problem))
}

#[tonic::async_trait]
impl SubsystemRpc for Service {
    async fn list(
        &self,
        request: Request<ListSubsystemsRequest>,
    ) -> Result<Response<ListSubsystemsResponse>, Status> {
        let views = match request.into_inner().nqn {
            Some(nqn) => {
                let view = self.engine.subsystem(&nqn);
                vec![view.map_err(|problem| status(Doing::Other, &problem))?]
            }
            None => self.engine.subsystems(),
        };
        Ok(Response::new(ListSubsystemsResponse {
            subsystems: views.into_iter().map(show).collect(),
        }))
    }

    async fn set_allowed_hosts(
        &self,
        request: Request<SetAllowedHostsRequest>,
    ) -> Result<Response<Subsystem>, Status> {
        let request = request.into_inner();
        if request.allow_any_host && !request.allowed_hosts.is_empty() {
            let text = "allow_any_host and allowed_hosts exclude each other; give one of them";
            return Err(Status::invalid_argument(text));
        }
        let hosts = (!request.allow_any_host).then_some(request.allowed_hosts);
        reply(self.engine.set_allowed_hosts(&request.nqn, hosts).await)
    }

    async fn add_namespace(
        &self,
        request: Request<AddNamespaceRequest>,
    ) -> Result<Response<Subsystem>, Status> {
        let request = request.into_inner();
        reply(
            self.engine
                .add_namespace(&request.nqn, &request.bdev, request.nsid)
                .await,
        )
    }

    async fn remove_namespace(
        &self,
        request: Request<RemoveNamespaceRequest>,
    ) -> Result<Response<Subsystem>, Status> {
        let request = request.into_inner();
        reply(
            self.engine
                .remove_namespace(&request.nqn, request.nsid)
                .await,
        )
    }

    async fn list_controllers(
        &self,
        request: Request<ListControllersRequest>,
    ) -> Result<Response<ListControllersResponse>, Status> {
        let nqn = request.into_inner().nqn;
        let mut controllers = self.engine.controllers().await;
        controllers.retain(|controller| nqn.as_ref().is_none_or(|nqn| controller.subnqn == *nqn));
        let controllers = controllers.into_iter().map(show_controller).collect();
        Ok(Response::new(ListControllersResponse { controllers }))
    }
}

fn show(view: SubsystemView) -> Subsystem {
    let namespaces = view.namespaces.into_iter().map(|namespace| Namespace {
        nsid: namespace.nsid,
        bdev: namespace.bdev,
        uuid: namespace.uuid.to_string(),
        nguid: namespace.nguid.simple().to_string(),
        num_blocks: namespace.blocks,
        blk_size: namespace.block_size,
    });
    Subsystem {
        namespaces: namespaces.collect(),
        nqn: view.nqn,
        serial: view.serial,
        allow_any_host: view.allowed_hosts.is_none(),
        allowed_hosts: view.allowed_hosts.unwrap_or_default(),
        uris: view.uris,
        online: view.fault.is_none(),
        reason: view.fault.unwrap_or_default(),
    }
}

fn show_controller(controller: ControllerInfo) -> Controller {
    let since = controller
        .since
        .duration_since(SystemTime::UNIX_EPOCH)
        .unwrap_or_default();
    Controller {
        subnqn: controller.subnqn,
        hostnqn: controller.hostnqn,
        hostid: controller.hostid.to_string(),
        cntlid: controller.cntlid.into(),
        io_queues: controller.io_queues,
        kato_ms: controller.kato_ms,
        peer: controller
            .peer
            .map(|peer| peer.to_string())
            .unwrap_or_default(),
        since_unix_ms: since.as_millis() as u64,
    }
}
