//! Places, who gets them, and how they are given back.

use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::*;

#[tokio::test]
async fn connections_are_bounded_by_address_and_those_that_say_nothing_end() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let limits = ConnectionLimits {
        total: 10,
        per_address: 2,
        patience: Duration::from_millis(300),
        first_bytes: 24,
    };
    let mut listener = BoundedListener::new(listener, limits);
    let accepted = tokio::spawn(async move {
        let mut all = Vec::new();
        while all.len() < 3 {
            let next = std::future::poll_fn(|context| listener.poll_accept(context)).await;
            let (mut stream, _) = next.unwrap();
            all.push(tokio::spawn(async move {
                let mut bytes = Vec::new();
                let ended = stream.read_to_end(&mut bytes).await;
                (bytes.len(), ended.map_err(|error| error.kind()))
            }));
        }
        all
    });
    let connect = || TcpStream::connect(address);
    let mut talker = connect().await.unwrap();
    talker.write_all(&[7; 24]).await.unwrap();
    let mut silent = connect().await.unwrap();
    silent.write_all(&[7; 23]).await.unwrap();
    // The third from the address finds no place and is closed.
    let mut refused = connect().await.unwrap();
    assert!(matches!(refused.read(&mut [0; 1]).await, Ok(0) | Err(_)));
    // The silent one is given up; its place is the next one's.
    let mut rest = Vec::new();
    let _ = silent.read_to_end(&mut rest).await;
    let next = connect().await.unwrap();
    drop(next);
    let mut ends = Vec::new();
    talker.write_all(&[7; 10]).await.unwrap();
    drop(talker);
    for end in accepted.await.unwrap() {
        ends.push(end.await.unwrap());
    }
    assert_eq!(
        ends,
        [(34, Ok(34)), (23, Err(io::ErrorKind::TimedOut)), (0, Ok(0))]
    );
}
