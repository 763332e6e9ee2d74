//! Tests of connections: what a peer may do with one, and how it ends.

use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};
use tokio::time;

use super::*;

fn bounds() -> ListenerOptions {
    ListenerOptions { header_timeout: Duration::from_millis(100), ..ListenerOptions::default() }
}

/// Returns the time for which the server keeps this stream open, and the text that it sent until then.
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
            // So slow that the headers never end.
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

/// A connection from one of the addresses of this machine.
async fn connect_from(address: &str, server: &EdgeServer) -> io::Result<TcpStream> {
    let socket = TcpSocket::new_v4()?;
    socket.bind(SocketAddr::new(address.parse().unwrap(), 0))?;
    socket.connect(server.address).await
}

/// Sends a request on this connection. Returns the answer, its head at least; nothing if the connection is closed.
async fn ask(stream: &mut TcpStream, path: &str) -> String {
    let _ = stream.write_all(format!("GET {path} HTTP/1.1\r\nhost: x\r\n\r\n").as_bytes()).await;
    let mut answer = vec![0; 16 * 1024];
    let read = time::timeout(Duration::from_secs(10), stream.read(&mut answer)).await.expect("no answer");
    String::from_utf8_lossy(&answer[..read.unwrap_or(0)]).into_owned()
}

#[tokio::test]
async fn one_address_that_takes_what_it_can_get_keeps_nobody_out() {
    let bounds = ListenerOptions { max_connections: 40, max_per_address: Some(8), ..ListenerOptions::default() };
    let server = start(EdgeOptions::default(), bounds).await;
    let mut greedy = Vec::new();
    for _ in 0..60 {
        greedy.push(connect_from("127.0.0.2", &server).await.unwrap());
    }
    let mut served = 0;
    for stream in &mut greedy {
        served += usize::from(ask(stream, "/v1/whoami").await.starts_with("HTTP/1.1 200"));
    }
    assert_eq!(served, 8);
    for other in ["127.0.0.3", "127.0.0.4"] {
        let mut stream = connect_from(other, &server).await.unwrap();
        assert!(ask(&mut stream, "/v1/whoami").await.starts_with("HTTP/1.1 200"), "{other}");
    }
    // The address may have back the connections that it gives up.
    greedy.clear();
    let again = time::timeout(Duration::from_secs(5), async {
        loop {
            let mut stream = connect_from("127.0.0.2", &server).await.unwrap();
            if ask(&mut stream, "/v1/whoami").await.starts_with("HTTP/1.1 200") {
                return;
            }
        }
    });
    again.await.expect("its share does not come back");
}

#[tokio::test]
async fn our_own_proxies_have_all_there_is() {
    let exempt = vec!["127.0.0.0/8".parse().unwrap()];
    let bounds = ListenerOptions { max_per_address: Some(1), exempt, ..ListenerOptions::default() };
    let server = start(EdgeOptions::default(), bounds).await;
    let mut streams = Vec::new();
    for _ in 0..10 {
        streams.push(connect_from("127.0.0.2", &server).await.unwrap());
    }
    for stream in &mut streams {
        assert!(ask(stream, "/v1/whoami").await.starts_with("HTTP/1.1 200"));
    }
}

#[tokio::test]
async fn a_full_listener_gives_the_place_of_the_longest_idle_and_cuts_none_that_works() {
    let bounds = ListenerOptions { max_connections: 3, ..ListenerOptions::default() };
    let server = start(EdgeOptions::default(), bounds).await;
    let mut working = TcpStream::connect(server.address).await.unwrap();
    // It lasts two seconds, and is not to end before the others have been answered.
    working.write_all(b"GET /v1/ticks?every_ms=200 HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").await.unwrap();
    let mut byte = [0];
    working.read_exact(&mut byte).await.unwrap();
    let mut silent = TcpStream::connect(server.address).await.unwrap();
    let mut used = TcpStream::connect(server.address).await.unwrap();
    assert!(ask(&mut used, "/v1/whoami").await.starts_with("HTTP/1.1 200"));
    let mut newcomer = TcpStream::connect(server.address).await.unwrap();
    assert!(ask(&mut newcomer, "/v1/whoami").await.starts_with("HTTP/1.1 200"));
    assert_eq!(lasts(&mut silent).await.1, "", "what never asked has been idle longest");
    assert!(ask(&mut used, "/v1/whoami").await.starts_with("HTTP/1.1 200"));
    assert_eq!(lasts(&mut working).await.1.matches("tick ").count(), 10);
}

#[tokio::test]
async fn a_listener_full_of_work_still_answers_about_health_and_nothing_else() {
    let bounds = ListenerOptions { max_connections: 2, reserve: 1, ..ListenerOptions::default() };
    let server = start(EdgeOptions::default(), bounds).await;
    let mut hanging = Vec::new();
    for _ in 0..2 {
        let mut stream = TcpStream::connect(server.address).await.unwrap();
        stream.write_all(b"GET /v1/hang HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
        server.hangs().await;
        hanging.push(stream);
    }
    for (path, status) in [("/v1/whoami", "503"), ("/health/live", "404")] {
        // The reserved place comes back once its one answer is out.
        let answered = time::timeout(Duration::from_secs(5), async {
            loop {
                let mut stream = TcpStream::connect(server.address).await.unwrap();
                let answer = ask(&mut stream, path).await;
                if !answer.is_empty() {
                    return (answer, lasts(&mut stream).await);
                }
            }
        });
        let (answer, _) = answered.await.unwrap_or_else(|_| panic!("no answer to {path}"));
        assert!(answer.starts_with(&format!("HTTP/1.1 {status}")), "{answer}");
        assert!(answer.contains("connection: close") && answer.contains("x-frame-options"), "{answer}");
    }
}

#[tokio::test]
async fn a_connection_on_which_too_much_was_asked_ends() {
    let server = server().await;
    let mut stream = TcpStream::connect(server.address).await.unwrap();
    let request = b"GET /v1/fail/limited HTTP/1.1\r\nhost: x\r\n\r\nGET /v1/whoami HTTP/1.1\r\nhost: x\r\n\r\n";
    stream.write_all(request).await.unwrap();
    let (after, said) = lasts(&mut stream).await;
    assert!(said.starts_with("HTTP/1.1 429") && said.contains("connection: close"), "{said}");
    assert!(!said.contains("HTTP/1.1 200") && after < Duration::from_secs(4), "{after:?} {said}");
}

#[tokio::test]
async fn with_a_listener_of_one_place_a_silent_peer_makes_room() {
    let bounds = ListenerOptions { max_connections: 1, ..ListenerOptions::default() };
    let server = start(EdgeOptions::default(), bounds).await;
    let first = TcpStream::connect(server.address).await.unwrap();
    let mut second = TcpStream::connect(server.address).await.unwrap();
    second.write_all(b"GET /v1/whoami HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").await.unwrap();
    let mut byte = [0];
    assert_eq!(time::timeout(Duration::from_secs(5), second.read(&mut byte)).await.unwrap().unwrap(), 1);
    drop(first);
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
    // Time for the request to be read: before that the connection makes room as a silent one, and nothing is shown.
    time::sleep(Duration::from_millis(50)).await;
    // The only slot comes free although `stuck` is still open.
    let freed = time::timeout(Duration::from_secs(5), async { while server.get("/v1/whoami").await.status != 200 {} });
    freed.await.expect("it is not dropped");
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
        // The connection is to grow old before a hundred requests are through.
        time::sleep(Duration::from_millis(10)).await;
    }
    assert!(closed);
}

#[tokio::test]
async fn shutdown_lets_a_request_under_way_end_and_closes_idle_connections() {
    let edge = EdgeOptions { request_timeout: Duration::from_secs(2), ..EdgeOptions::default() };
    let mut server = start(edge, ListenerOptions::default()).await;
    let mut idle = TcpStream::connect(server.address).await.unwrap();
    idle.write_all(b"GET /v1/whoami HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
    let mut busy = TcpStream::connect(server.address).await.unwrap();
    busy.write_all(b"GET /v1/hang HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
    server.hangs().await;
    server.stop.take().unwrap().send(()).unwrap();
    let ((idle, answer), (busy, timeout)) = tokio::join!(lasts(&mut idle), lasts(&mut busy));
    assert!(answer.starts_with("HTTP/1.1 200") && timeout.starts_with("HTTP/1.1 503"), "{answer} {timeout}");
    assert!(idle < busy, "{idle:?} {busy:?}");
    time::timeout(Duration::from_secs(5), &mut server.task).await.expect("still serving").unwrap();
    assert!(TcpStream::connect(server.address).await.is_err());
}

#[tokio::test]
async fn shutdown_cuts_what_does_not_end() {
    let bounds = ListenerOptions { shutdown_grace: Duration::from_millis(50), ..ListenerOptions::default() };
    let mut server = start(EdgeOptions::default(), bounds).await;
    let mut busy = TcpStream::connect(server.address).await.unwrap();
    busy.write_all(b"GET /v1/hang HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
    server.hangs().await;
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
