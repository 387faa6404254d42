//! `mayastor.v1.StatsRpc`: pools, nexuses and replicas, of which this engine has none; and the reset of all counters.

use std::sync::Arc;

use engine::control::Engine;
use proto::mayastor::v1::stats_rpc_server::StatsRpc;
use proto::mayastor::v1::{
    ListStatsOption, NexusIoStatsResponse, PoolIoStatsResponse, ReplicaIoStatsResponse,
};
use tonic::{Request, Response, Status};

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
impl StatsRpc for Service {
    /// A name nobody has gives an empty list, as upstream.
    async fn get_pool_io_stats(
        &self,
        _: Request<ListStatsOption>,
    ) -> Result<Response<PoolIoStatsResponse>, Status> {
        Ok(Response::new(PoolIoStatsResponse { stats: Vec::new() }))
    }

    /// A name nobody has is NOT_FOUND, as upstream.
    async fn get_nexus_io_stats(
        &self,
        request: Request<ListStatsOption>,
    ) -> Result<Response<NexusIoStatsResponse>, Status> {
        match request.into_inner().name {
            Some(name) => Err(Status::not_found(format!("there is no nexus '{name}'"))),
            None => Ok(Response::new(NexusIoStatsResponse { stats: Vec::new() })),
        }
    }

    /// A name nobody has gives an empty list, as upstream.
    async fn get_replica_io_stats(
        &self,
        _: Request<ListStatsOption>,
    ) -> Result<Response<ReplicaIoStatsResponse>, Status> {
        Ok(Response::new(ReplicaIoStatsResponse { stats: Vec::new() }))
    }

    async fn reset_io_stats(&self, _: Request<()>) -> Result<Response<()>, Status> {
        self.engine.reset_stats().await;
        Ok(Response::new(()))
    }
}
