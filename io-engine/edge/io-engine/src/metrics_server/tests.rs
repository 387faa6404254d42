//! Scrapers that behave, and connections that do not.

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::*;

const LIMITS: ConnectionLimits = ConnectionLimits {
    total: 3,
    per_address: 3,
    patience: Duration::from_millis(400),
    first_bytes: usize::MAX,
};

async fn start() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let router = Router::new().route("/metrics", get(|| async { "up 1\n" }));
    tokio::spawn(serve_router(
        router,
        listener,
        LIMITS,
        std::future::pending(),
    ));
    address
}

/// What the server says to `request` until it hangs up.
async fn ask(address: SocketAddr, request: &str) -> String {
    let mut stream = TcpStream::connect(address).await.unwrap();
    let mut reply = Vec::new();
    // The server may hang up before it has read everything.
    let _ = stream.write_all(request.as_bytes()).await;
    let _ = stream.read_to_end(&mut reply).await;
    String::from_utf8(reply).unwrap()
}

const SCRAPE: &str = "GET /metrics HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n";

#[tokio::test]
async fn connections_are_bounded_and_none_outlives_its_time() {
    let address = start().await;
    assert!(ask(address, SCRAPE).await.ends_with("up 1\n"));
    let mut silent = Vec::new();
    for text in ["", "GET /met", "GET /metrics HTTP/1.1\r\nHost: "] {
        let mut stream = TcpStream::connect(address).await.unwrap();
        stream.write_all(text.as_bytes()).await.unwrap();
        silent.push(stream);
    }
    // The fourth finds no place.
    assert_eq!(ask(address, SCRAPE).await, "");
    for mut stream in silent {
        let mut rest = Vec::new();
        let hung_up = stream.read_to_end(&mut rest);
        let ended = tokio::time::timeout(Duration::from_secs(20), hung_up).await;
        assert!(ended.is_ok(), "a connection that says nothing is closed");
    }
    assert!(ask(address, SCRAPE).await.ends_with("up 1\n"));
}
