//! Bodies: too large, too slow, just right.

use std::time::Duration;

use super::*;

#[tokio::test]
async fn a_declared_body_over_the_limit_is_refused_before_it_is_sent() {
    let head = "POST /v1/login HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: 65537\r\n\r\n";
    let answer = server().await.raw(head).await;
    assert_eq!((answer.status, answer.code().as_str()), (413, "body_too_large"));
    assert_eq!(answer.header("connection"), Some("close"));
}

#[tokio::test]
async fn a_chunked_body_over_the_limit_is_refused_when_it_gets_there() {
    let chunk = format!("1000\r\n{}\r\n", "x".repeat(0x1000));
    let head =
        "POST /v1/login HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ntransfer-encoding: chunked\r\n\r\n";
    let answer = server().await.raw(&format!("{head}{}", chunk.repeat(17))).await;
    assert_eq!((answer.status, answer.code().as_str()), (413, "body_too_large"));
}

#[tokio::test]
async fn a_chunked_body_within_the_limit_passes() {
    let body = r#"{"email": "a@b", "password": "correct horse"}"#;
    let head = "POST /v1/login HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-type: application/json\r\ntransfer-encoding: chunked\r\n\r\n";
    let answer = server().await.raw(&format!("{head}{:x}\r\n{body}\r\n0\r\n\r\n", body.len())).await;
    assert_eq!((answer.status, answer.body.as_str()), (200, "\"correct horse\""));
}

#[tokio::test]
async fn a_body_that_dawdles_is_408_and_the_connection_ends() {
    let edge = EdgeOptions { body_timeout: Duration::from_millis(50), ..EdgeOptions::default() };
    let server = start(edge, ListenerOptions::default()).await;
    let head = "POST /v1/login HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: 10\r\n\r\n{";
    let answer = server.raw(head).await;
    assert_eq!((answer.status, answer.code().as_str()), (408, "slow_request"));
    assert_eq!(answer.header("connection"), Some("close"));
}

#[tokio::test]
async fn bodies_under_way_are_bounded_for_an_address_and_in_all() {
    let edge = EdgeOptions { body_budget: 50 * 1_000, ..EdgeOptions::default() };
    let server = start(edge, ListenerOptions::default()).await;
    let post = |length: usize| {
        format!(
            "POST /v1/login HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: {length}\r\n\r\n{{"
        )
    };
    let mut slow = TcpStream::connect(server.address).await.unwrap();
    slow.write_all(post(900).as_bytes()).await.unwrap();
    let refused = time::timeout(Duration::from_secs(5), async {
        loop {
            // Within what is left of its share, and answered at once, until the slow one is counted.
            let answer = server.post("/v1/login", &" ".repeat(200)).await;
            if answer.status == 503 {
                return answer;
            }
        }
    });
    let refused = refused.await.expect("what is declared is not counted");
    assert_eq!((refused.code().as_str(), refused.header("retry-after")), ("overloaded", Some("1")));
    assert_eq!(server.get("/v1/whoami").await.status, 200, "what has no body takes nothing");
    drop(slow);
    let admitted = time::timeout(Duration::from_secs(5), async {
        while server.post("/v1/login", &" ".repeat(200)).await.status != 400 {}
    });
    admitted.await.expect("what was taken does not come back");
}
