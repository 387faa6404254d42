//! `mayastor.v1.HostRpc`.

use std::path::Path;
use std::sync::Arc;

use engine::control::block_devices::{self, Sources};
use engine::control::identity::NQN_PREFIX;
use engine::control::{Engine, usage};
use proto::mayastor::v1::host_rpc_server::HostRpc;
use proto::mayastor::v1::{
    ApiVersion, BackCompatMayastorFeatures, BlockDevice, GetMayastorResourceUsageResponse,
    ListBlockDevicesRequest, ListBlockDevicesResponse, ListNvmeControllersResponse,
    MayastorBugFixes, MayastorFeatures, MayastorInfoResponse, NvmfTargetInfo, RegisterRequest,
    ResourceUsage, StatNvmeControllerRequest, StatNvmeControllerResponse, TransportCaps,
    block_device,
};
use tonic::{Request, Response, Status};

#[derive(Debug)]
pub(crate) struct Service {
    engine: Arc<Engine>,
    endpoint: String,
}

impl Service {
    /// `endpoint` is the address and port of this gRPC server.
    pub(crate) fn new(engine: Arc<Engine>, endpoint: String) -> Self {
        Self { engine, endpoint }
    }

    /// The record registration with a control plane sends.
    fn registration(&self) -> RegisterRequest {
        let engine = &self.engine;
        let listeners = engine.reachable();
        RegisterRequest {
            id: engine.node_name().to_owned(),
            grpc_endpoint: self.endpoint.clone(),
            instance_uuid: Some(engine.instance().to_string()),
            api_version: vec![ApiVersion::V1 as i32],
            hostnqn: Some(format!("{NQN_PREFIX}node-name:{}", engine.node_name())),
            features: Some(MayastorFeatures {
                asymmetric_namespace_access: true,
                logical_volume_manager: Some(false),
                snapshot_rebuild: Some(false),
                rdma_capable_io_engine: Some(false),
                diskpool_encryption: Some(false),
                // No nexus can be created, so no layout is accepted.
                nexus_label_version: 0,
                grpc_tls: Some(false),
                // The number of this field is not confirmed: a wrong one would be read as something else.
                fips: None,
            }),
            bugfixes: Some(MayastorBugFixes {
                nexus_rebuild_replica_ancestry: false,
            }),
            version: Some(engine.version().to_owned()),
            nvmf_target: Some(NvmfTargetInfo {
                interface: None,
                address: listeners
                    .first()
                    .map(|address| address.ip().to_string())
                    .unwrap_or_default(),
                tcp: Some(!listeners.is_empty()),
                rdma: None,
            }),
            transport_caps: Some(TransportCaps {
                rdma_hca_present: std::fs::read_dir("/sys/class/infiniband")
                    .is_ok_and(|mut adapters| adapters.next().is_some()),
                nvme_rdma_module_loaded: Path::new("/sys/module/nvme_rdma").exists(),
            }),
        }
    }
}

#[tonic::async_trait]
impl HostRpc for Service {
    async fn get_mayastor_info(
        &self,
        _: Request<()>,
    ) -> Result<Response<MayastorInfoResponse>, Status> {
        Ok(Response::new(MayastorInfoResponse {
            version: self.engine.version().to_owned(),
            previous_features: Some(BackCompatMayastorFeatures {
                asymmetric_namespace_access: true,
            }),
            registration_info: Some(self.registration()),
        }))
    }

    async fn list_block_devices(
        &self,
        request: Request<ListBlockDevicesRequest>,
    ) -> Result<Response<ListBlockDevicesResponse>, Status> {
        let all = request.into_inner().all;
        let listed =
            tokio::task::spawn_blocking(move || block_devices::list(&Sources::default(), all))
                .await;
        let devices = listed
            .map_err(|_| Status::internal("listing the block devices failed unexpectedly"))?;
        Ok(Response::new(ListBlockDevicesResponse {
            devices: devices.into_iter().map(show).collect(),
        }))
    }

    async fn get_mayastor_resource_usage(
        &self,
        _: Request<()>,
    ) -> Result<Response<GetMayastorResourceUsageResponse>, Status> {
        let usage = usage::read();
        let usage = ResourceUsage {
            soft_faults: usage.soft_faults,
            hard_faults: usage.hard_faults,
            in_block_ops: usage.in_block_ops,
            out_block_ops: usage.out_block_ops,
            vol_csw: usage.vol_csw,
            invol_csw: usage.invol_csw,
            // Linux does not keep these (getrusage(2)).
            swaps: 0,
            ipc_msg_send: 0,
            ipc_msg_rcv: 0,
            signals: 0,
        };
        Ok(Response::new(GetMayastorResourceUsageResponse {
            usage: Some(usage),
        }))
    }

    /// The engine opens no NVMe controllers of others: none of its devices is an initiator.
    async fn list_nvme_controllers(
        &self,
        _: Request<()>,
    ) -> Result<Response<ListNvmeControllersResponse>, Status> {
        Ok(Response::new(ListNvmeControllersResponse {
            controllers: Vec::new(),
        }))
    }

    async fn stat_nvme_controller(
        &self,
        request: Request<StatNvmeControllerRequest>,
    ) -> Result<Response<StatNvmeControllerResponse>, Status> {
        let name = request.into_inner().name;
        Err(Status::not_found(format!(
            "there is no NVMe controller '{name}'; see controller list"
        )))
    }
}

fn show(device: block_devices::BlockDevice) -> BlockDevice {
    BlockDevice {
        devname: device.devname,
        devtype: device.devtype,
        devmajor: device.major,
        devminor: device.minor,
        model: device.model,
        devpath: device.devpath,
        devlinks: device.devlinks,
        size: device.size,
        partition: device.partition.map(|partition| block_device::Partition {
            parent: partition.parent,
            number: partition.number,
            name: partition.name,
            scheme: partition.scheme,
            typeid: partition.typeid,
            uuid: partition.uuid,
        }),
        filesystem: device
            .filesystem
            .map(|filesystem| block_device::Filesystem {
                fstype: filesystem.fstype,
                label: filesystem.label,
                uuid: filesystem.uuid,
                mountpoints: filesystem.mountpoints,
            }),
        available: device.available,
        connection_type: device.connection_type,
        is_rotational: device.is_rotational,
    }
}
