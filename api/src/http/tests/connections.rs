//! What a peer may do with a connection, and what becomes of it.

use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time;

use super::*;

fn bounds() -> ListenerOptions {
    ListenerOptions { header_timeout: Duration::from_millis(100), ..ListenerOptions::default() }
}

/// How long the server keeps this stream open, and what it sent until then.
async fn lasts(stream: &mut TcpStream) -> (Duration, String) {
    let began = time::Instant::now();
    let mut bytes = Vec::new();
    let _ = time::timeout(Duration::from_secs(5), stream.read_to_end(&mut bytes)).await.expect("never closed");
    (began.elapsed(), String::from_utf8_lossy(&bytes).into_owned())
}

#[tokio::test]
async fn a_peer_that_says_nothing_is_dropped() {
    let server = start(EdgeOptions::default(), bounds()).await;
    let mut stream = TcpStream::connect(server.address).await.unwrap();
    let (after, said) = lasts(&mut stream).await;
    assert!(after >= Duration::from_millis(80) && said.is_empty(), "{after:?} {said}");
}

#[tokio::test]
async fn a_peer_that_drips_its_headers_is_dropped() {
    let server = start(EdgeOptions::default(), bounds()).await;
    let stream = TcpStream::connect(server.address).await.unwrap();
    let (mut read, mut write) = stream.into_split();
    let drip = tokio::spawn(async move {
        let _ = write.write_all(b"GET / HTTP/1.1\r\nx: ").await;
        while write.write_all(b"a").await.is_ok() {
            time::sleep(Duration::from_millis(10)).await;
        }
    });
    let mut answer = Vec::new();
    let _ = time::timeout(Duration::from_secs(5), read.read_to_end(&mut answer)).await.expect("never closed");
    drip.abort();
}

#[tokio::test]
async fn a_drip_after_a_good_request_is_dropped_too() {
    let server = start(EdgeOptions::default(), bounds()).await;
    let mut stream = TcpStream::connect(server.address).await.unwrap();
    stream.write_all(b"GET /v1/whoami HTTP/1.1\r\nhost: x\r\n\r\nGET /v1/who").await.unwrap();
    let (_, said) = lasts(&mut stream).await;
    assert_eq!(said.matches("HTTP/1.1 200").count(), 1, "{said}");
}

#[tokio::test]
async fn an_http_2_peer_that_asks_for_nothing_is_dropped() {
    let server = start(EdgeOptions::default(), bounds()).await;
    let mut stream = TcpStream::connect(server.address).await.unwrap();
    let empty_settings = [0, 0, 0, 4, 0, 0, 0, 0, 0];
    stream.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").await.unwrap();
    stream.write_all(&empty_settings).await.unwrap();
    let mut frame = [0; 9];
    stream.read_exact(&mut frame).await.unwrap();
    assert_eq!(frame[3], 4, "no SETTINGS: {frame:?}");
    lasts(&mut stream).await;
}

#[tokio::test]
async fn a_stream_outlives_the_looks_at_its_connection() {
    let bounds = ListenerOptions { header_timeout: Duration::from_millis(50), ..ListenerOptions::default() };
    let server = start(EdgeOptions::default(), bounds).await;
    let mut stream = TcpStream::connect(server.address).await.unwrap();
    stream.write_all(b"GET /v1/ticks HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
    let (after, said) = lasts(&mut stream).await;
    assert!(after >= Duration::from_millis(300), "{after:?}");
    assert_eq!(said.matches("tick ").count(), 10, "{said}");
    assert!(said.ends_with("0\r\n\r\n"), "{said}");
}

#[tokio::test]
async fn headers_beyond_the_bound_are_refused() {
    let answer = server().await.send("GET", "/v1/whoami", &[&format!("x: {}", "a".repeat(64 * 1024))], "").await;
    assert_eq!(answer.status, 431);
}

#[tokio::test]
async fn connections_beyond_the_bound_wait_their_turn() {
    let bounds = ListenerOptions { max_connections: 1, ..ListenerOptions::default() };
    let server = start(EdgeOptions::default(), bounds).await;
    let first = TcpStream::connect(server.address).await.unwrap();
    let mut second = TcpStream::connect(server.address).await.unwrap();
    second.write_all(b"GET /v1/whoami HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").await.unwrap();
    let mut byte = [0];
    assert!(time::timeout(Duration::from_millis(100), second.read(&mut byte)).await.is_err(), "served at once");
    drop(first);
    assert_eq!(time::timeout(Duration::from_secs(5), second.read(&mut byte)).await.unwrap().unwrap(), 1);
}

#[tokio::test]
async fn a_peer_that_stops_reading_is_dropped() {
    let bounds =
        ListenerOptions { write_timeout: Duration::from_millis(100), max_connections: 1, ..ListenerOptions::default() };
    let server = start(EdgeOptions::default(), bounds).await;
    let mut stuck = TcpStream::connect(server.address).await.unwrap();
    // More than the buffers of both ends hold.
    let request = "GET /docs/swagger-ui.js HTTP/1.1\r\nhost: x\r\n\r\n".repeat(20);
    stuck.write_all(request.as_bytes()).await.unwrap();
    time::sleep(Duration::from_millis(50)).await;
    // The only slot comes free although `stuck` is still open.
    assert_eq!(server.get("/v1/whoami").await.status, 200);
    drop(stuck);
}

#[tokio::test]
async fn an_old_connection_is_asked_to_go() {
    let bounds = ListenerOptions {
        header_timeout: Duration::from_millis(50),
        lifetime: Duration::from_millis(10),
        ..ListenerOptions::default()
    };
    let server = start(EdgeOptions::default(), bounds).await;
    let mut stream = TcpStream::connect(server.address).await.unwrap();
    let mut closed = false;
    for _ in 0..100 {
        let sent = stream.write_all(b"GET /v1/whoami HTTP/1.1\r\nhost: x\r\n\r\n").await.is_ok();
        let mut answer = [0; 4096];
        if !sent || !matches!(stream.read(&mut answer).await, Ok(1..)) {
            closed = true;
            break;
        }
        time::sleep(Duration::from_millis(10)).await;
    }
    assert!(closed);
}

#[tokio::test]
async fn shutdown_lets_a_request_under_way_end_and_closes_idle_connections() {
    let edge = EdgeOptions { request_timeout: Duration::from_millis(200), ..EdgeOptions::default() };
    let mut server = start(edge, ListenerOptions::default()).await;
    let mut idle = TcpStream::connect(server.address).await.unwrap();
    idle.write_all(b"GET /v1/whoami HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
    let mut busy = TcpStream::connect(server.address).await.unwrap();
    busy.write_all(b"GET /v1/fail/slow HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
    time::sleep(Duration::from_millis(50)).await;
    server.stop.take().unwrap().send(()).unwrap();
    let (after, said) = lasts(&mut idle).await;
    assert!(said.starts_with("HTTP/1.1 200") && after < Duration::from_millis(100), "{after:?} {said}");
    let (_, said) = lasts(&mut busy).await;
    assert!(said.starts_with("HTTP/1.1 503"), "{said}");
    time::timeout(Duration::from_secs(5), &mut server.task).await.expect("still serving").unwrap();
    assert!(TcpStream::connect(server.address).await.is_err());
}

#[tokio::test]
async fn shutdown_cuts_what_does_not_end() {
    let bounds = ListenerOptions { shutdown_grace: Duration::from_millis(50), ..ListenerOptions::default() };
    let mut server = start(EdgeOptions::default(), bounds).await;
    let mut busy = TcpStream::connect(server.address).await.unwrap();
    busy.write_all(b"GET /v1/fail/slow HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
    time::sleep(Duration::from_millis(20)).await;
    server.stop.take().unwrap().send(()).unwrap();
    time::timeout(Duration::from_secs(5), &mut server.task).await.expect("still serving").unwrap();
    let (_, said) = lasts(&mut busy).await;
    assert_eq!(said, "");
}

#[tokio::test]
async fn beyond_the_most_requests_in_flight_there_is_503_and_nobody_slow_to_send_takes_a_place() {
    let options = EdgeOptions { max_in_flight: 2, ..EdgeOptions::default() };
    let server = start(options, ListenerOptions::default()).await;
    let mut sending = TcpStream::connect(server.address).await.unwrap();
    let head = b"POST /v1/login HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: 60\r\n\r\n{";
    sending.write_all(head).await.unwrap();
    let mut hanging = Vec::new();
    for _ in 0..2 {
        let mut stream = TcpStream::connect(server.address).await.unwrap();
        stream.write_all(b"GET /v1/hang HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
        hanging.push(stream);
    }
    let refused = time::timeout(Duration::from_secs(5), async {
        loop {
            let answer = server.get("/v1/whoami").await;
            if answer.status == 503 {
                return answer;
            }
        }
    });
    let refused = refused.await.expect("the two are not counted");
    assert_eq!((refused.code().as_str(), refused.header("retry-after")), ("overloaded", Some("1")));
    assert_ne!(server.get("/health/live").await.status, 503, "health is asked for beside them");
    drop(hanging);
    let admitted =
        time::timeout(Duration::from_secs(5), async { while server.get("/v1/whoami").await.status != 200 {} });
    admitted.await.expect("places come back");
}
