//! All services over a real loopback socket, with a fake data plane behind them.

use std::sync::Arc;
use std::time::Duration;

use engine::control::dataplane::DataPlane;
use engine::control::fake::FakePlane;
use engine::control::{Engine, Options};
use engine::store::Store;
use proto::io_engine::v1::engine_rpc_client::EngineRpcClient;
use proto::io_engine::v1::subsystem_rpc_client::SubsystemRpcClient;
use proto::io_engine::v1::{
    AddNamespaceRequest, DeviceState, GetIoStatsRequest, ListControllersRequest,
    ListInflightRequest, ListSubsystemsRequest, RemoveNamespaceRequest, RescanDeviceRequest,
    SetAllowedHostsRequest,
};
use proto::mayastor::v1::bdev_rpc_client::BdevRpcClient;
use proto::mayastor::v1::host_rpc_client::HostRpcClient;
use proto::mayastor::v1::stats_rpc_client::StatsRpcClient;
use proto::mayastor::v1::{
    Bdev, BdevShareRequest, BdevUnshareRequest, CreateBdevRequest, DestroyBdevRequest,
    ListBdevOptions, ListBlockDevicesRequest, ListStatsOption, ShareProtocol,
    StatNvmeControllerRequest,
};
use tokio::net::TcpListener;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Response, Status};

const M0: &str = "malloc:///m0?size_mb=1";
const NQN: &str = "nqn.2019-05.io.openebs:m0";

#[tokio::test]
async fn the_server_closes_one_connection_too_many_and_goes_on() {
    use tokio::io::AsyncReadExt;
    let server = Serving::start().await;
    let mut idle = Vec::new();
    for _ in 0..super::CONNECTIONS.per_address {
        idle.push(
            tokio::net::TcpStream::connect(server.address())
                .await
                .unwrap(),
        );
    }
    let mut refused = tokio::net::TcpStream::connect(server.address())
        .await
        .unwrap();
    assert!(matches!(refused.read(&mut [0; 64]).await, Ok(0) | Err(_)));
    drop(idle);
    let listed = async {
        loop {
            let Ok(channel) = server.try_channel().await else {
                continue;
            };
            if let Ok(reply) = EngineRpcClient::new(channel).list_reactors(()).await {
                return reply.into_inner();
            }
        }
    };
    let reply = tokio::time::timeout(Duration::from_secs(20), listed).await;
    assert_eq!(reply.expect("places are free again").reactors.len(), 1);
}

#[tokio::test]
async fn waits_for_memory_are_told() {
    let server = Serving::start().await;
    let mut engine = EngineRpcClient::new(server.channel().await);
    let reply = engine.list_reactors(()).await.unwrap().into_inner();
    let reactor = &reply.reactors[0];
    assert_eq!((reactor.memory_waits, reactor.memory_waiting), (11, 4));
}

#[tokio::test]
async fn a_device_from_creation_to_destruction() {
    let server = Serving::start().await;
    let mut bdev = BdevRpcClient::new(server.channel().await);
    let created = bdev
        .create(create(M0))
        .await
        .unwrap()
        .into_inner()
        .bdev
        .unwrap();
    assert_eq!(
        (created.name.as_str(), created.num_blocks, created.blk_size),
        ("m0", 2048, 512)
    );
    assert_eq!(
        (created.claimed, created.claimed_by.as_str()),
        (false, "Orphaned")
    );
    assert_eq!(created.share_uri, "bdev:///m0");
    assert_eq!(created.aliases, M0);
    assert_eq!(created.uri, format!("{M0}&uuid={}", created.uuid));
    assert_code(bdev.create(create(M0)).await, Code::AlreadyExists);

    let shared = bdev
        .share(share("m0", ShareProtocol::Nvmf))
        .await
        .unwrap()
        .into_inner()
        .bdev
        .unwrap();
    assert_eq!(shared.share_uri, format!("nvmf+tcp://127.0.0.1:8420/{NQN}"));
    assert_eq!(
        (shared.claimed, shared.claimed_by.as_str()),
        (true, "NVMe-oF Target")
    );
    assert_eq!(server.plane.served().len(), 1);

    bdev.unshare(BdevUnshareRequest { name: "m0".into() })
        .await
        .unwrap();
    bdev.unshare(BdevUnshareRequest {
        name: "gone".into(),
    })
    .await
    .unwrap();
    assert!(server.plane.served().is_empty());
    bdev.destroy(DestroyBdevRequest { uri: created.uri })
        .await
        .unwrap();
    assert!(list(&mut bdev, None).await.is_empty());
    assert_code(
        bdev.destroy(DestroyBdevRequest { uri: M0.into() }).await,
        Code::NotFound,
    );
}

#[tokio::test]
async fn a_lost_device_is_shown_by_both_contracts_and_comes_back() {
    let server = Serving::start().await;
    let mut bdev = BdevRpcClient::new(server.channel().await);
    let mut engine = EngineRpcClient::new(server.channel().await);
    let created = bdev.create(create(M0)).await.unwrap().into_inner();
    let created = created.bdev.unwrap();
    bdev.share(share("m0", ShareProtocol::Nvmf)).await.unwrap();
    server.plane.lose_device("m0");
    let listed = list(&mut bdev, None).await.remove(0);
    assert_eq!(
        listed.claimed_by,
        "Faulted: offline: it is gone; mend it, then bdev rescan"
    );
    assert_eq!((listed.num_blocks, listed.claimed), (2048, true));
    let state = engine.list_devices(()).await.unwrap().into_inner();
    assert_eq!(state.devices[0].state(), DeviceState::Faulted);
    assert!(state.devices[0].reason.contains("it is gone"));

    server.plane.break_device("m0", true);
    assert_code(bdev.create(create(&created.uri)).await, Code::NotFound);
    server.plane.break_device("m0", false);
    let back = bdev
        .create(create(&created.uri))
        .await
        .unwrap()
        .into_inner();
    let back = back.bdev.unwrap();
    assert_eq!(
        (back.uuid, back.claimed_by.as_str()),
        (created.uuid, "NVMe-oF Target")
    );
    let online = engine.rescan_device(rescan("m0")).await;
    assert_eq!(online.unwrap().into_inner().state(), DeviceState::Online);

    server.plane.keep_writes("m0", true);
    let unshare = BdevUnshareRequest { name: "m0".into() };
    assert_code(bdev.unshare(unshare).await, Code::DeadlineExceeded);
}

#[tokio::test]
async fn bdev_refusals_have_upstreams_codes() {
    let server = Serving::start().await;
    let mut bdev = BdevRpcClient::new(server.channel().await);
    for uri in [
        "",
        "plain",
        "ftl:///x",
        "malloc:///x?block=512",
        "malloc:///x?uuid=1",
    ] {
        assert_code(bdev.create(create(uri)).await, Code::InvalidArgument);
    }
    server.plane.break_device("absent", true);
    assert_code(
        bdev.create(create("malloc:///absent")).await,
        Code::NotFound,
    );
    assert_code(
        bdev.share(share("none", ShareProtocol::Nvmf)).await,
        Code::NotFound,
    );
    bdev.create(create(M0)).await.unwrap();
    for protocol in [ShareProtocol::None, ShareProtocol::Iscsi] {
        assert_code(
            bdev.share(share("m0", protocol)).await,
            Code::InvalidArgument,
        );
    }
    let unknown = BdevShareRequest {
        protocol: 77,
        ..share("m0", ShareProtocol::Nvmf)
    };
    assert_code(bdev.share(unknown).await, Code::InvalidArgument);
    let bad_host = BdevShareRequest {
        allowed_hosts: vec!["x".into()],
        ..share("m0", ShareProtocol::Nvmf)
    };
    assert_code(bdev.share(bad_host).await, Code::InvalidArgument);
    assert!(list(&mut bdev, Some("none")).await.is_empty());
    assert_eq!(list(&mut bdev, Some("m0")).await.len(), 1);
}

#[tokio::test]
async fn a_request_beyond_the_limit_is_refused_and_the_server_lives() {
    let server = Serving::start().await;
    let mut bdev = BdevRpcClient::new(server.channel().await);
    let huge = "x".repeat(crate::REQUEST_BYTES_MAX + 1);
    assert_code(bdev.create(create(&huge)).await, Code::OutOfRange);
    assert!(list(&mut bdev, None).await.is_empty());
}

#[tokio::test]
async fn the_node_describes_itself() {
    let server = Serving::start().await;
    let mut host = HostRpcClient::new(server.channel().await);
    let info = host.get_mayastor_info(()).await.unwrap().into_inner();
    assert_eq!(info.version, "1.2.3");
    let registration = info.registration_info.unwrap();
    assert_eq!(registration.id, "node-1");
    assert_eq!(
        registration.hostnqn.unwrap(),
        "nqn.2019-05.io.openebs:node-name:node-1"
    );
    assert!(
        registration
            .grpc_endpoint
            .ends_with(&server.port.to_string())
    );
    assert_eq!(registration.nvmf_target.unwrap().tcp, Some(true));
    let usage = host
        .get_mayastor_resource_usage(())
        .await
        .unwrap()
        .into_inner()
        .usage
        .unwrap();
    assert!(usage.soft_faults > 0);
    assert!(
        host.list_nvme_controllers(())
            .await
            .unwrap()
            .into_inner()
            .controllers
            .is_empty()
    );
    assert_code(
        host.stat_nvme_controller(StatNvmeControllerRequest { name: "x".into() })
            .await,
        Code::NotFound,
    );
    let all = host
        .list_block_devices(ListBlockDevicesRequest { all: true })
        .await
        .unwrap()
        .into_inner()
        .devices;
    let free = host
        .list_block_devices(ListBlockDevicesRequest { all: false })
        .await
        .unwrap()
        .into_inner()
        .devices;
    assert!(free.len() <= all.len() && free.iter().all(|device| device.available));
}

#[tokio::test]
async fn counters_are_served_and_reset() {
    let server = Serving::start().await;
    server.share_m0().await;
    let mut stats = StatsRpcClient::new(server.channel().await);
    let mut engine = EngineRpcClient::new(server.channel().await);
    server.plane.count_read("m0", 4096, 5_000);
    let one = |name: &str| GetIoStatsRequest {
        name: Some(name.into()),
    };
    let objects = engine
        .get_io_stats(one("m0"))
        .await
        .unwrap()
        .into_inner()
        .objects;
    let read = &objects[0].operations[0];
    assert_eq!(
        (
            read.operation.as_str(),
            read.ops,
            read.bytes,
            read.latency_ns_max
        ),
        ("read", 1, 4096, 5_000)
    );
    assert_eq!(read.latency_histogram.iter().sum::<u64>(), 1);
    stats.reset_io_stats(()).await.unwrap();
    let objects = engine
        .get_io_stats(one("m0"))
        .await
        .unwrap()
        .into_inner()
        .objects;
    assert!(objects[0].operations.is_empty());
    assert_code(engine.get_io_stats(one("none")).await, Code::NotFound);

    let named = || ListStatsOption {
        name: Some("x".into()),
    };
    assert!(
        stats
            .get_pool_io_stats(named())
            .await
            .unwrap()
            .into_inner()
            .stats
            .is_empty()
    );
    assert!(
        stats
            .get_replica_io_stats(named())
            .await
            .unwrap()
            .into_inner()
            .stats
            .is_empty()
    );
    assert_code(stats.get_nexus_io_stats(named()).await, Code::NotFound);
    let all = ListStatsOption { name: None };
    assert!(
        stats
            .get_nexus_io_stats(all)
            .await
            .unwrap()
            .into_inner()
            .stats
            .is_empty()
    );
}

#[tokio::test]
async fn subsystems_namespaces_and_hosts() {
    let server = Serving::start().await;
    server.share_m0().await;
    let mut bdev = BdevRpcClient::new(server.channel().await);
    bdev.create(create("malloc:///m1")).await.unwrap();
    let mut client = SubsystemRpcClient::new(server.channel().await);

    let add = AddNamespaceRequest {
        nqn: NQN.into(),
        bdev: "m1".into(),
        nsid: None,
    };
    let subsystem = client
        .add_namespace(add.clone())
        .await
        .unwrap()
        .into_inner();
    assert_eq!(subsystem.namespaces[1].nsid, 2);
    assert_eq!(
        subsystem.namespaces[1].nguid,
        subsystem.namespaces[1].uuid.replace('-', "")
    );
    assert!(subsystem.online && subsystem.allow_any_host);
    assert_code(client.add_namespace(add).await, Code::AlreadyExists);
    assert_code(
        bdev.unshare(BdevUnshareRequest { name: "m0".into() }).await,
        Code::FailedPrecondition,
    );

    let host = "nqn.2014-08.org.example:h";
    let hosts = |any: bool, hosts: &[&str]| SetAllowedHostsRequest {
        nqn: NQN.into(),
        allow_any_host: any,
        allowed_hosts: hosts.iter().map(|host| (*host).to_owned()).collect(),
    };
    let subsystem = client
        .set_allowed_hosts(hosts(false, &[host]))
        .await
        .unwrap()
        .into_inner();
    assert_eq!(
        (subsystem.allow_any_host, subsystem.allowed_hosts),
        (false, vec![host.to_owned()])
    );
    assert_code(
        client.set_allowed_hosts(hosts(true, &[host])).await,
        Code::InvalidArgument,
    );
    let nobody = client
        .set_allowed_hosts(hosts(false, &[]))
        .await
        .unwrap()
        .into_inner();
    assert!(!nobody.allow_any_host && nobody.allowed_hosts.is_empty());
    assert_eq!(server.plane.served()[0].allowed_hosts, Some(Vec::new()));

    let remove = RemoveNamespaceRequest {
        nqn: NQN.into(),
        nsid: 2,
    };
    client.remove_namespace(remove.clone()).await.unwrap();
    assert_code(client.remove_namespace(remove).await, Code::NotFound);

    let of = |nqn: &str| ListControllersRequest {
        nqn: Some(nqn.into()),
    };
    let controllers = client
        .list_controllers(of(NQN))
        .await
        .unwrap()
        .into_inner()
        .controllers;
    assert_eq!(
        (controllers[0].cntlid, controllers[0].since_unix_ms),
        (1, 1000)
    );
    assert!(
        client
            .list_controllers(of("nqn.x"))
            .await
            .unwrap()
            .into_inner()
            .controllers
            .is_empty()
    );
    let unknown = ListSubsystemsRequest {
        nqn: Some("nqn.x".into()),
    };
    assert_code(client.list(unknown).await, Code::NotFound);
}

#[tokio::test]
async fn what_is_in_flight_can_be_asked_per_object() {
    let server = Serving::start().await;
    server.share_m0().await;
    let mut client = EngineRpcClient::new(server.channel().await);
    let ask = |nqn: Option<&str>, bdev: Option<&str>| ListInflightRequest {
        nqn: nqn.map(str::to_owned),
        bdev: bdev.map(str::to_owned),
        limit: 0,
    };
    let ios = client
        .list_inflight(ask(Some(NQN), Some("m0")))
        .await
        .unwrap()
        .into_inner()
        .ios;
    assert_eq!(
        (ios[0].bdev.as_str(), ios[0].age_us, ios[0].stages[1].at_us),
        ("m0", 2_000, 3)
    );
    assert!(
        client
            .list_inflight(ask(None, Some("m1")))
            .await
            .unwrap()
            .into_inner()
            .ios
            .is_empty()
    );
    let reactors = client
        .list_reactors(())
        .await
        .unwrap()
        .into_inner()
        .reactors;
    assert_eq!(
        (reactors[0].driver.as_str(), reactors[0].sleep_ns),
        ("epoll", 997)
    );
    let devices = client.list_devices(()).await.unwrap().into_inner().devices;
    assert_eq!(devices[0].state(), DeviceState::Online);
    let rescanned = client
        .rescan_device(rescan("m0"))
        .await
        .unwrap()
        .into_inner();
    assert_eq!(rescanned.num_blocks, 2049);
    assert_code(client.rescan_device(rescan("none")).await, Code::NotFound);
}

#[tokio::test]
async fn health_and_reflection_are_served() {
    use tonic_health::pb::health_client::HealthClient;
    use tonic_health::pb::{HealthCheckRequest, health_check_response::ServingStatus};
    use tonic_reflection::pb::v1::ServerReflectionRequest;
    use tonic_reflection::pb::v1::server_reflection_client::ServerReflectionClient;
    use tonic_reflection::pb::v1::server_reflection_request::MessageRequest;
    use tonic_reflection::pb::v1::server_reflection_response::MessageResponse;

    let server = Serving::start().await;
    let mut health = HealthClient::new(server.channel().await);
    for service in ["", "mayastor.v1.BdevRpc", "io_engine.v1.EngineRpc"] {
        let request = HealthCheckRequest {
            service: service.into(),
        };
        let reply = health.check(request).await.unwrap().into_inner();
        assert_eq!(reply.status(), ServingStatus::Serving, "{service}");
    }
    let mut reflection = ServerReflectionClient::new(server.channel().await);
    let request = ServerReflectionRequest {
        host: String::new(),
        message_request: Some(MessageRequest::ListServices(String::new())),
    };
    let replies = reflection
        .server_reflection_info(tokio_stream::iter([request]))
        .await
        .unwrap();
    let reply = replies.into_inner().message().await.unwrap().unwrap();
    let Some(MessageResponse::ListServicesResponse(list)) = reply.message_response else {
        panic!("not a list: {reply:?}");
    };
    let mut names: Vec<String> = list
        .service
        .into_iter()
        .map(|service| service.name)
        .collect();
    names.sort();
    // Without mayastor.v1.Registration, which is the control plane's.
    let served = [
        "grpc.health.v1.Health",
        "grpc.reflection.v1.ServerReflection",
        "grpc.reflection.v1alpha.ServerReflection",
        "io_engine.v1.EngineRpc",
        "io_engine.v1.SubsystemRpc",
        "mayastor.v1.BdevRpc",
        "mayastor.v1.HostRpc",
        "mayastor.v1.StatsRpc",
    ];
    assert_eq!(names, served);
}

#[tokio::test]
async fn shutting_down_ends_the_server() {
    let server = Serving::start().await;
    let channel = server.channel().await;
    server.stop.send(()).unwrap();
    tokio::time::timeout(Duration::from_secs(10), server.task)
        .await
        .unwrap()
        .unwrap();
    assert!(
        BdevRpcClient::new(channel)
            .list(ListBdevOptions { name: None })
            .await
            .is_err()
    );
}

/// A server on a port of its own.
struct Serving {
    plane: Arc<FakePlane>,
    port: u16,
    stop: oneshot::Sender<()>,
    task: JoinHandle<()>,
}

impl Serving {
    async fn start() -> Self {
        let plane = Arc::new(FakePlane::default());
        let data_plane: Arc<dyn DataPlane> = Arc::<FakePlane>::clone(&plane);
        let options = Options {
            node_name: "node-1".into(),
            version: "1.2.3".into(),
            advertise: None,
            open_deadline: Duration::from_secs(5),
            declared: Vec::new(),
        };
        let store = Arc::new(Store::in_memory().unwrap());
        let engine = Engine::start(store, data_plane, options).await.unwrap();
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let (stop, stopped) = oneshot::channel();
        let task = tokio::spawn(async move {
            let shutdown = async { stopped.await.unwrap_or(()) };
            crate::serve(engine, listener, shutdown).await.unwrap();
        });
        Self {
            plane,
            port,
            stop,
            task,
        }
    }

    fn address(&self) -> std::net::SocketAddr {
        ([127, 0, 0, 1], self.port).into()
    }

    async fn try_channel(&self) -> Result<Channel, tonic::transport::Error> {
        let uri = format!("http://{}", self.address());
        Endpoint::from_shared(uri)?.connect().await
    }

    async fn channel(&self) -> Channel {
        self.try_channel().await.unwrap()
    }

    async fn share_m0(&self) {
        let mut bdev = BdevRpcClient::new(self.channel().await);
        bdev.create(create(M0)).await.unwrap();
        bdev.share(share("m0", ShareProtocol::Nvmf)).await.unwrap();
    }
}

fn rescan(name: &str) -> RescanDeviceRequest {
    RescanDeviceRequest {
        name: name.to_owned(),
        accept_loss: false,
    }
}

fn create(uri: &str) -> CreateBdevRequest {
    CreateBdevRequest { uri: uri.into() }
}

fn share(name: &str, protocol: ShareProtocol) -> BdevShareRequest {
    BdevShareRequest {
        name: name.into(),
        protocol: protocol as i32,
        allowed_hosts: Vec::new(),
    }
}

async fn list(client: &mut BdevRpcClient<Channel>, name: Option<&str>) -> Vec<Bdev> {
    let options = ListBdevOptions {
        name: name.map(str::to_owned),
    };
    client.list(options).await.unwrap().into_inner().bdevs
}

fn assert_code<T: std::fmt::Debug>(result: Result<Response<T>, Status>, code: Code) {
    let status = result.expect_err("refused");
    assert_eq!(status.code(), code, "{}", status.message());
    assert!(!status.message().contains('\n'), "one line");
}
