//! The Prometheus endpoint: `GET /metrics`.
//!
//! A connection carries one request and has [`CONNECTIONS`]' time for it, whatever it is slow at: the head, the reply, or
//! nothing at all. So a scraper that hangs or many that do nothing cost a bounded number of descriptors for a bounded time.

use std::future::poll_fn;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::State;
use axum::http::header::{CONNECTION, CONTENT_TYPE};
use axum::response::IntoResponse;
use axum::routing::get;
use axum::serve::Listener;
use engine::control::Engine;
use engine::metrics;
use engine_grpc::{BoundedListener, BoundedStream, ConnectionLimits};
use tokio::net::TcpListener;

/// Connections at a time and the life of one, which is the time a scrape has by default.
const CONNECTIONS: ConnectionLimits = ConnectionLimits {
    total: 64,
    per_address: 16,
    patience: Duration::from_secs(10),
    first_bytes: usize::MAX,
};
/// Rest after accepting failed, for instance for want of descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_secs(1);

/// Serves the metrics of `engine` on `listener` until `shutdown` ends.
pub(crate) async fn serve(
    engine: Arc<Engine>,
    listener: TcpListener,
    shutdown: impl Future<Output = ()> + Send + 'static,
) -> io::Result<()> {
    let router = Router::new()
        .route("/metrics", get(page))
        .with_state(engine);
    serve_router(router, listener, CONNECTIONS, shutdown).await
}

async fn serve_router(
    router: Router,
    listener: TcpListener,
    limits: ConnectionLimits,
    shutdown: impl Future<Output = ()> + Send + 'static,
) -> io::Result<()> {
    let listener = Scrapers(BoundedListener::new(listener, limits));
    axum::serve(listener, router)
        .with_graceful_shutdown(shutdown)
        .await
}

/// The listener in the server's terms.
struct Scrapers(BoundedListener);

impl Listener for Scrapers {
    type Io = BoundedStream;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (BoundedStream, SocketAddr) {
        loop {
            match poll_fn(|context| self.0.poll_accept(context)).await {
                Ok(accepted) => return accepted,
                Err(error) => {
                    tracing::warn!(%error, "cannot accept scrapers, pausing 1 s");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.0.local_addr()
    }
}

async fn page(State(engine): State<Arc<Engine>>) -> impl IntoResponse {
    let text = metrics::render(&engine).await;
    (
        [(CONTENT_TYPE, metrics::CONTENT_TYPE), (CONNECTION, "close")],
        text,
    )
}

#[cfg(test)]
mod tests;
