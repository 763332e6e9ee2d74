//! Peers that are slow before, in and after the handshake. The listener alone, with shorter limits than the service
//! has.

use std::sync::Arc;
use std::time::Duration;

use fulexo_node::clock;
use fulexo_node::http::listener;
use fulexo_node::http::listener_options::ListenerOptions;
use fulexo_node::tls::acceptor::Secured;
use fulexo_node::tls::certificate::Certificate;
use fulexo_node::tls::current::Current;
use fulexo_node::tls::server_config;
use fulexo_tests::{Client, eventually};
use poem::EndpointExt;
use poem::endpoint::make_sync;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::{sleep, timeout};

use crate::connect;
use crate::pki::Authority;

/// Listens for two connections at a time, with a second for a handshake with the first request, and less for a peer
/// that does not read.
async fn listen(authority: &Authority) -> u16 {
    let issued = authority.issue(&["localhost"]);
    let current = Arc::new(Current::default());
    let now = clock::now();
    current.replace(Certificate::from_pem(issued.chain.as_bytes(), issued.key.as_bytes(), now).unwrap());
    let acceptor = listener::bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let port = listener::port(&acceptor).unwrap();
    let secured = Secured::new(acceptor, server_config(current).unwrap());
    let options = ListenerOptions {
        max_connections: 2,
        header_timeout: Duration::from_secs(1),
        write_timeout: Duration::from_millis(200),
        ..ListenerOptions::default()
    };
    // This is more than the buffers of both ends hold, if a peer asks for it.
    let endpoint = make_sync(|request| match request.uri().path() {
        "/much" => "much".repeat(8 << 20),
        _ => "here".to_owned(),
    })
    .map_to_response();
    tokio::spawn(listener::serve(secured, endpoint, options, std::future::pending()));
    port
}

/// Reads until the service closes the connection.
async fn closes(stream: &mut (impl AsyncReadExt + Unpin)) -> Vec<u8> {
    let mut bytes = Vec::new();
    let _ = timeout(Duration::from_secs(60), stream.read_to_end(&mut bytes)).await.expect("never closed");
    bytes
}

#[tokio::test(flavor = "multi_thread")]
async fn who_does_not_begin_or_finish_a_handshake_is_dropped_and_hinders_nobody() {
    let authority = Authority::new();
    let port = listen(&authority).await;
    let client = Client { tls: Some(authority.believed()), ..Client::new(&format!("https://localhost:{port}")) };
    // Both places are taken by peers that stall, one of them within its ClientHello; then the next one is served.
    let mut silent = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
    let mut stalled = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
    stalled.write_all(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03").await.unwrap();
    let answer = timeout(Duration::from_secs(60), client.get("/")).await.expect("hindered");
    assert_eq!((answer.status, answer.text.as_str()), (200, "here"));
    assert!(closes(&mut silent).await.is_empty());
    assert!(closes(&mut stalled).await.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_handshake_that_drips_is_dropped() {
    let authority = Authority::new();
    let port = listen(&authority).await;
    let (mut read, mut write) = TcpStream::connect(("127.0.0.1", port)).await.unwrap().into_split();
    let drip = tokio::spawn(async move {
        let _ = write.write_all(b"\x16\x03\x01\x40\x00\x01\x00\x3f\xfc\x03\x03").await;
        while write.write_all(&[7]).await.is_ok() {
            // The bytes are so slow that the handshake never ends.
            sleep(Duration::from_millis(10)).await;
        }
    });
    closes(&mut read).await;
    drip.abort();
}

#[tokio::test(flavor = "multi_thread")]
async fn who_shakes_hands_and_asks_for_nothing_is_dropped() {
    let authority = Authority::new();
    let port = listen(&authority).await;
    let mut idle = connect(port, "localhost", &authority.believed()).await.unwrap();
    assert!(closes(&mut idle).await.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn who_stops_reading_is_dropped() {
    let authority = Authority::new();
    let port = listen(&authority).await;
    let config = authority.believed();
    let mut stuck = Vec::new();
    for _ in 0..2 {
        let mut stream = connect(port, "localhost", &config).await.unwrap();
        stream.write_all(b"GET /much HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
        stuck.push(stream);
    }
    // Both places come free although both streams are still open here.
    let client = Client { tls: Some(config), ..Client::new(&format!("https://localhost:{port}")) };
    eventually("a place comes free", async || client.get("/").await.status == 200).await;
    drop(stuck);
}
