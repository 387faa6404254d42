//! The Prometheus endpoint: `GET /metrics`.

use std::sync::Arc;

use axum::Router;
use axum::extract::State;
use axum::http::header::CONTENT_TYPE;
use axum::response::IntoResponse;
use axum::routing::get;
use engine::control::Engine;
use engine::metrics;
use tokio::net::TcpListener;

/// Serves the metrics of `engine` on `listener` until `shutdown` ends.
pub(crate) async fn serve(
    engine: Arc<Engine>,
    listener: TcpListener,
    shutdown: impl Future<Output = ()> + Send + 'static,
) -> std::io::Result<()> {
    let router = Router::new()
        .route("/metrics", get(page))
        .with_state(engine);
    axum::serve(listener, router)
        .with_graceful_shutdown(shutdown)
        .await
}

async fn page(State(engine): State<Arc<Engine>>) -> impl IntoResponse {
    let text = metrics::render(&engine).await;
    ([(CONTENT_TYPE, metrics::CONTENT_TYPE)], text)
}
