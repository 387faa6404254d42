//! `io_engine.v1.EngineRpc`.

use std::sync::Arc;
use std::time::Duration;

use engine::control::dataplane::Access;
use engine::control::stats::CountedOp;
use engine::control::{self, Engine, ObjectStats};
use plugin_host::{PluginInfo, Source};
use proto::io_engine::v1::engine_rpc_server::EngineRpc;
use proto::io_engine::v1::{
    CommandDeviceRequest, CommandDeviceResponse, Device, DeviceState, GetIoStatsRequest,
    GetIoStatsResponse, InflightIo, ListDevicesResponse, ListInflightRequest, ListInflightResponse,
    ListPluginsResponse, ListReactorsResponse, LoadPluginRequest, ObjectIoStats, OperationIoStats,
    Plugin, PluginCounter, Reactor, RescanDeviceRequest, ShareDeviceRequest, ShareDeviceResponse,
    Stage, UnloadPluginRequest,
};
use tonic::{Request, Response, Status};

use crate::status::{Doing, status};

/// Commands in one reply.
const INFLIGHT_MAX: usize = 1000;
/// Commands looked at when only some of them are wanted.
const INFLIGHT_SEARCHED_MAX: usize = 65_536;

/// Name of NVMe-oF among the protocols a device is shared over.
const NVMF: &str = "nvmf";

#[derive(Debug)]
pub(crate) struct Service {
    engine: Arc<Engine>,
}

impl Service {
    pub(crate) fn new(engine: Arc<Engine>) -> Self {
        Self { engine }
    }
}

fn show_plugin(plugin: PluginInfo) -> Plugin {
    let kinds = [(1, "device"), (2, "pool"), (4, "fabric"), (8, "export")];
    let kinds = kinds.iter().filter(|(bit, _)| plugin.kinds & bit != 0);
    let counter = |(name, value)| PluginCounter { name, value };
    Plugin {
        kinds: kinds.map(|(_, name)| (*name).to_owned()).collect(),
        abi: format!("{}.{}", plugin.abi.0, plugin.abi.1),
        path: match plugin.source {
            Source::Linked => None,
            Source::File(path) => Some(path.display().to_string()),
        },
        name: plugin.name,
        version: plugin.version,
        vendor: plugin.vendor,
        schemes: plugin.schemes,
        transports: plugin.transports,
        protocols: plugin.protocols,
        faults: plugin.faults,
        isolated: plugin.isolated,
        pools: plugin.pools,
        counters: plugin.counters.into_iter().map(counter).collect(),
    }
}

#[tonic::async_trait]
impl EngineRpc for Service {
    async fn list_reactors(
        &self,
        _: Request<()>,
    ) -> Result<Response<ListReactorsResponse>, Status> {
        let reactors = self
            .engine
            .reactors()
            .await
            .into_iter()
            .map(|reactor| Reactor {
                cpu: reactor.cpu,
                driver: reactor.driver,
                busy_ns: reactor.busy_ns,
                spin_ns: reactor.spin_ns,
                sleep_ns: reactor.sleep_ns,
                connections: reactor.connections,
                inflight: reactor.inflight,
                arena_bytes: reactor.arena_bytes,
                arena_used_bytes: reactor.arena_used_bytes,
                arena_quarantined_bytes: reactor.arena_quarantined_bytes,
                memory_waits: reactor.memory_waits,
                memory_waiting: reactor.memory_waiting,
            });
        Ok(Response::new(ListReactorsResponse {
            reactors: reactors.collect(),
        }))
    }

    async fn share_device(
        &self,
        request: Request<ShareDeviceRequest>,
    ) -> Result<Response<ShareDeviceResponse>, Status> {
        let ShareDeviceRequest {
            name,
            protocol,
            read_only,
            allowed_hosts,
        } = request.into_inner();
        let access = Access::of(read_only);
        let shared = match protocol.as_str() {
            NVMF => self.engine.share_bdev(&name, allowed_hosts, access).await,
            _ if !allowed_hosts.is_empty() => {
                let text = format!("{protocol} knows no hosts by NQN; leave allowed_hosts out");
                return Err(Status::invalid_argument(text));
            }
            _ => self.engine.export_bdev(&name, &protocol, access).await,
        };
        let bdev = shared.map_err(|problem| status(Doing::Other, &problem))?;
        Ok(Response::new(ShareDeviceResponse {
            uri: bdev.share_uri.unwrap_or_default(),
        }))
    }

    async fn command_device(
        &self,
        request: Request<CommandDeviceRequest>,
    ) -> Result<Response<CommandDeviceResponse>, Status> {
        let CommandDeviceRequest { name, command } = request.into_inner();
        let answer = self.engine.command_bdev(&name, &command).await;
        let answer = answer.map_err(|problem| status(Doing::Other, &problem))?;
        Ok(Response::new(CommandDeviceResponse { answer }))
    }

    async fn list_plugins(&self, _: Request<()>) -> Result<Response<ListPluginsResponse>, Status> {
        let plugins = self.engine.plugins().into_iter().map(show_plugin);
        Ok(Response::new(ListPluginsResponse {
            plugins: plugins.collect(),
        }))
    }

    async fn load_plugin(
        &self,
        request: Request<LoadPluginRequest>,
    ) -> Result<Response<Plugin>, Status> {
        let loaded = self.engine.load_plugin(&request.into_inner().file).await;
        loaded
            .map(|plugin| Response::new(show_plugin(plugin)))
            .map_err(|problem| status(Doing::Other, &problem))
    }

    async fn unload_plugin(
        &self,
        request: Request<UnloadPluginRequest>,
    ) -> Result<Response<()>, Status> {
        let done = self.engine.unload_plugin(&request.into_inner().name).await;
        done.map(Response::new)
            .map_err(|problem| status(Doing::Other, &problem))
    }

    async fn list_inflight(
        &self,
        request: Request<ListInflightRequest>,
    ) -> Result<Response<ListInflightResponse>, Status> {
        let request = request.into_inner();
        let limit = match request.limit as usize {
            0 => INFLIGHT_MAX,
            limit => limit.min(INFLIGHT_MAX),
        };
        let all = request.nqn.is_none() && request.bdev.is_none();
        let found = self
            .engine
            .inflight(if all { limit } else { INFLIGHT_SEARCHED_MAX })
            .await;
        let shown = found.into_iter().map(|io| InflightIo {
            bdev: io
                .device
                .and_then(|device| self.engine.device_name(device))
                .unwrap_or_default(),
            subnqn: io.subnqn,
            hostnqn: io.hostnqn,
            cntlid: io.cntlid.into(),
            qid: io.qid.into(),
            cid: io.cid.into(),
            nsid: io.nsid,
            operation: io.operation,
            lba: io.lba,
            blocks: io.blocks,
            age_us: micros(io.age),
            stages: io
                .stages
                .into_iter()
                .map(|(name, at)| Stage {
                    name,
                    at_us: micros(at),
                })
                .collect(),
        });
        let wanted = |io: &InflightIo| {
            request.nqn.as_ref().is_none_or(|nqn| io.subnqn == *nqn)
                && request.bdev.as_ref().is_none_or(|bdev| io.bdev == *bdev)
        };
        Ok(Response::new(ListInflightResponse {
            ios: shown.filter(wanted).take(limit).collect(),
        }))
    }

    async fn list_devices(&self, _: Request<()>) -> Result<Response<ListDevicesResponse>, Status> {
        let mut warnings = self.engine.device_warnings().await;
        let warned = |bdev| {
            let mut device = show(bdev);
            if device.reason.is_empty() {
                device.reason = warnings.remove(&device.name).unwrap_or_default();
            }
            device
        };
        let devices = self.engine.bdevs().into_iter().map(warned).collect();
        Ok(Response::new(ListDevicesResponse { devices }))
    }

    async fn rescan_device(
        &self,
        request: Request<RescanDeviceRequest>,
    ) -> Result<Response<Device>, Status> {
        let RescanDeviceRequest { name, accept_loss } = request.into_inner();
        let device = self.engine.rescan_bdev(&name, accept_loss).await;
        device
            .map(|device| Response::new(show(device)))
            .map_err(|problem| status(Doing::Other, &problem))
    }

    async fn get_io_stats(
        &self,
        request: Request<GetIoStatsRequest>,
    ) -> Result<Response<GetIoStatsResponse>, Status> {
        let name = request.into_inner().name;
        let mut objects = self.engine.io_stats().await;
        if let Some(name) = name {
            objects.retain(|object| object.name == name);
            if objects.is_empty() {
                let text =
                    format!("there is no open device or served subsystem '{name}'; see bdev state");
                return Err(Status::not_found(text));
            }
        }
        Ok(Response::new(GetIoStatsResponse {
            objects: objects.into_iter().map(show_stats).collect(),
        }))
    }
}

fn micros(duration: Duration) -> u64 {
    duration.as_micros().try_into().unwrap_or(u64::MAX)
}

fn show(bdev: control::Bdev) -> Device {
    let state = if bdev.fault.is_some() {
        DeviceState::Faulted
    } else {
        DeviceState::Online
    };
    Device {
        name: bdev.name,
        uri: bdev.uri,
        uuid: bdev.uuid.to_string(),
        state: state as i32,
        reason: bdev.fault.unwrap_or_default(),
        num_blocks: bdev.blocks,
        blk_size: bdev.block_size,
        product_name: bdev.product_name,
        capabilities: bdev.capabilities,
    }
}

fn show_stats(object: ObjectStats) -> ObjectIoStats {
    let used = CountedOp::ALL
        .into_iter()
        .filter(|kind| object.stats.of(*kind).ops > 0);
    let operations = used.map(|kind| {
        let ops = object.stats.of(kind);
        OperationIoStats {
            operation: kind.name().to_owned(),
            ops: ops.ops,
            bytes: ops.bytes,
            errors: ops.errors,
            latency_ns_sum: ops.latency_ns_sum,
            latency_ns_min: ops.latency_ns_min,
            latency_ns_max: ops.latency_ns_max,
            latency_histogram: ops.histogram.to_vec(),
        }
    });
    ObjectIoStats {
        kind: object.kind.to_owned(),
        operations: operations.collect(),
        name: object.name,
    }
}
