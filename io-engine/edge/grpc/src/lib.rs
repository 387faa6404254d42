//! gRPC services of the engine.
//!
//! What it decides: how requests and replies map to the control side's calls and values, status codes, and the limits of
//! the server. What it does not: anything about devices or subsystems; there is no state here.
//!
//! Invariants:
//! - A change that was accepted is finished when the caller hangs up or the call times out (the control side's promise).
//! - Every message has a size limit, every call a deadline, every connection a number of calls at a time, and connections
//!   are bounded, in all and by address.
//! - Problems become status codes in one place ([`status`](status/index.html)), with the control side's sentence, which
//!   names the object and the fix.
//!
//! Contract: `mayastor.v1` as OpenEBS Mayastor serves it, `io_engine.v1` (ours), `grpc.health.v1`, reflection v1 and
//! v1alpha.

mod bdev;
mod connections;
mod engine_service;
mod host;
mod stats;
mod status;
mod subsystem;

#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::time::Duration;

use engine::control::Engine;
use proto::io_engine::v1::engine_rpc_server::EngineRpcServer;
use proto::io_engine::v1::subsystem_rpc_server::SubsystemRpcServer;
use proto::mayastor::v1::bdev_rpc_server::BdevRpcServer;
use proto::mayastor::v1::host_rpc_server::HostRpcServer;
use proto::mayastor::v1::stats_rpc_server::StatsRpcServer;
use tokio::net::TcpListener;
use tonic::server::NamedService;
use tonic::transport::Server;

pub use connections::{BoundedListener, BoundedStream, ConnectionLimits};

/// Largest request, in bytes: an allow list of the largest size fits.
pub const REQUEST_BYTES_MAX: usize = 1 << 20;
/// Time of one call; a change goes on behind it.
pub const CALL_TIMEOUT: Duration = Duration::from_secs(60);
/// Calls at a time on one connection; further ones wait.
pub const CALLS_PER_CONNECTION: usize = 64;
/// Connections at a time; one more is closed as it comes. From one address a quarter of them, so that one caller that leaks
/// connections does not lock out the rest. A connection has 10 s for the 24 bytes every HTTP/2 client begins with (RFC 9113
/// §3.4); from then on it is probed.
pub const CONNECTIONS: ConnectionLimits = ConnectionLimits {
    total: 256,
    per_address: 64,
    patience: Duration::from_secs(10),
    first_bytes: 24,
};
/// What reflection lists. Named, because the contract describes a service of the control plane too, which is called and
/// not served here.
const SERVED: [&str; 8] = [
    BdevRpcServer::<bdev::Service>::NAME,
    HostRpcServer::<host::Service>::NAME,
    StatsRpcServer::<stats::Service>::NAME,
    SubsystemRpcServer::<subsystem::Service>::NAME,
    EngineRpcServer::<engine_service::Service>::NAME,
    "grpc.health.v1.Health",
    "grpc.reflection.v1.ServerReflection",
    "grpc.reflection.v1alpha.ServerReflection",
];
/// A silent connection is probed after this time and dropped when it does not answer.
const KEEP_ALIVE: Duration = Duration::from_secs(20);

/// Why the server could not start or stopped.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// The descriptors of the services do not load: a build mistake.
    #[error("gRPC reflection: {0}")]
    Reflection(#[from] tonic_reflection::server::Error),
    /// The transport failed.
    #[error("gRPC server: {0}")]
    Transport(#[from] tonic::transport::Error),
}

/// Serves all services on `listener` until `shutdown` ends; calls being served then are answered first.
///
/// # Errors
/// `Reflection` before anything is served, `Transport` when accepting fails for good.
pub async fn serve(
    engine: Arc<Engine>,
    listener: TcpListener,
    shutdown: impl Future<Output = ()> + Send + 'static,
) -> Result<(), ServeError> {
    let endpoint = listener
        .local_addr()
        .map(|address| address.to_string())
        .unwrap_or_default();
    let bdev = BdevRpcServer::new(bdev::Service::new(Arc::clone(&engine)));
    let host = HostRpcServer::new(host::Service::new(Arc::clone(&engine), endpoint));
    let stats = StatsRpcServer::new(stats::Service::new(Arc::clone(&engine)));
    let subsystem = SubsystemRpcServer::new(subsystem::Service::new(Arc::clone(&engine)));
    let engine = EngineRpcServer::new(engine_service::Service::new(engine));

    let (reporter, health) = tonic_health::server::health_reporter();
    reporter.set_serving::<BdevRpcServer<bdev::Service>>().await;
    reporter.set_serving::<HostRpcServer<host::Service>>().await;
    reporter
        .set_serving::<StatsRpcServer<stats::Service>>()
        .await;
    reporter
        .set_serving::<SubsystemRpcServer<subsystem::Service>>()
        .await;
    reporter
        .set_serving::<EngineRpcServer<engine_service::Service>>()
        .await;

    let reflection = || {
        let builder = tonic_reflection::server::Builder::configure()
            .register_encoded_file_descriptor_set(proto::FILE_DESCRIPTOR_SET)
            .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
            .register_encoded_file_descriptor_set(tonic_reflection::pb::v1::FILE_DESCRIPTOR_SET)
            .register_encoded_file_descriptor_set(
                tonic_reflection::pb::v1alpha::FILE_DESCRIPTOR_SET,
            );
        SERVED
            .iter()
            .fold(builder, |builder, name| builder.with_service_name(*name))
    };
    let v1 = reflection().build_v1()?;
    let v1alpha = reflection().build_v1alpha()?;

    Server::builder()
        .timeout(CALL_TIMEOUT)
        .concurrency_limit_per_connection(CALLS_PER_CONNECTION)
        .max_concurrent_streams(CALLS_PER_CONNECTION as u32)
        .http2_keepalive_interval(Some(KEEP_ALIVE))
        .http2_keepalive_timeout(Some(KEEP_ALIVE))
        .add_service(health)
        .add_service(v1)
        .add_service(v1alpha)
        .add_service(bdev.max_decoding_message_size(REQUEST_BYTES_MAX))
        .add_service(host.max_decoding_message_size(REQUEST_BYTES_MAX))
        .add_service(stats.max_decoding_message_size(REQUEST_BYTES_MAX))
        .add_service(subsystem.max_decoding_message_size(REQUEST_BYTES_MAX))
        .add_service(engine.max_decoding_message_size(REQUEST_BYTES_MAX))
        .serve_with_incoming_shutdown(BoundedListener::new(listener, CONNECTIONS), shutdown)
        .await?;
    Ok(())
}
