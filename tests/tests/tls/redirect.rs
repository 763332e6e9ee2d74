//! The plain listener: everybody is sent to HTTPS, at hosts of ours and nowhere else.

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::Served;

async fn served() -> (Served, u16) {
    let served = Served::with(&[("FULEXO_HTTP_PORT", "0")]).await;
    let port = served.node.http_port().unwrap();
    (served, port)
}

/// Sends a head as it is; returns status and headers, in lower case.
pub async fn head(port: u16, request: &str) -> String {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
    stream.write_all(format!("{request}\r\nconnection: close\r\n\r\n").as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await.unwrap();
    String::from_utf8(answer).unwrap().to_lowercase()
}

fn status(answer: &str) -> &str {
    answer.split(' ').nth(1).unwrap_or_else(|| panic!("no answer: {answer:?}"))
}

fn location(answer: &str) -> Option<&str> {
    answer.lines().find_map(|line| line.strip_prefix("location: "))
}

#[tokio::test(flavor = "multi_thread")]
async fn every_method_is_redirected_to_the_same_path_and_query() {
    let (served, port) = served().await;
    let tls = served.node.port();
    for method in ["GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS"] {
        let request = format!("{method} /v1/accounts?limit=1&email=a%20b HTTP/1.1\r\nhost: localhost:{port}");
        let answer = head(port, &request).await;
        let to = format!("https://localhost:{tls}/v1/accounts?limit=1&email=a%20b");
        assert_eq!((status(&answer), location(&answer)), ("308", Some(to.as_str())), "{answer}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn who_came_to_port_80_is_sent_to_443() {
    let (_served, port) = served().await;
    for (host, to) in [("localhost", "https://localhost/x"), ("LOCALHOST", "https://localhost/x")] {
        let answer = head(port, &format!("GET /x HTTP/1.1\r\nhost: {host}")).await;
        assert_eq!((status(&answer), location(&answer)), ("308", Some(to)), "{answer}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_is_sent_to_a_host_that_is_not_ours() {
    let (_served, port) = served().await;
    for (request, expected) in [
        ("GET / HTTP/1.1\r\nhost: evil.example", "421"),
        ("GET / HTTP/1.1\r\nhost: localhost.evil.example", "421"),
        ("GET http://evil.example/ HTTP/1.1\r\nhost: evil.example", "421"),
        ("GET http://evil.example/ HTTP/1.1\r\nhost: localhost", "421"),
        ("GET / HTTP/1.1\r\nhost: localhost\r\nhost: evil.example", "400"),
        ("GET / HTTP/1.1\r\nhost: localhost@evil.example", "400"),
        ("GET / HTTP/1.1\r\nhost: evil.example@localhost", "400"),
        ("GET / HTTP/1.1\r\nhost: localhost/evil.example", "400"),
        ("GET / HTTP/1.1\r\nhost: localhost evil.example", "400"),
        ("GET / HTTP/1.1\r\nhost:", "400"),
        ("GET / HTTP/1.0", "400"),
        ("OPTIONS * HTTP/1.1\r\nhost: localhost", "400"),
        ("CONNECT evil.example:443 HTTP/1.1\r\nhost: localhost", "421"),
        ("GET / HTTP/1.1\r\nhost: 127.0.0.2", "421"),
    ] {
        let answer = head(port, request).await;
        assert_eq!((status(&answer), location(&answer)), (expected, None), "{request}: {answer}");
    }
    // A path that looks like a host is a path.
    for (path, to) in [
        ("//evil.example/x", "https://localhost//evil.example/x"),
        ("/%0d%0aset-cookie:x=1", "https://localhost/%0d%0aset-cookie:x=1"),
        ("/?next=//evil.example", "https://localhost/?next=//evil.example"),
    ] {
        let answer = head(port, &format!("GET {path} HTTP/1.1\r\nhost: localhost")).await;
        assert_eq!((status(&answer), location(&answer)), ("308", Some(to)), "{answer}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn plain_answers_have_no_hsts_and_nothing_to_keep() {
    let (_served, port) = served().await;
    let answer = head(port, "GET / HTTP/1.1\r\nhost: localhost").await;
    let mut names: Vec<_> = answer.lines().skip(1).filter_map(|line| Some(line.split_once(": ")?.0)).collect();
    names.sort_unstable();
    let expected = ["cache-control", "connection", "content-length", "date", "location", "x-content-type-options"];
    assert_eq!(names, expected, "{answer}");
    assert!(answer.ends_with("\r\n\r\n") && answer.contains("\r\ncontent-length: 0\r\n"), "{answer}");
}

#[tokio::test(flavor = "multi_thread")]
async fn without_acme_no_challenge_is_answered() {
    let (_served, port) = served().await;
    let path = "/.well-known/acme-challenge/evaGxfADs6pSRb2LAv9IZf17Dt3juxGJ-PCt92wr-oA";
    assert_eq!(status(&head(port, &format!("GET {path} HTTP/1.1\r\nhost: localhost")).await), "404");
}

#[tokio::test(flavor = "multi_thread")]
async fn without_its_variable_there_is_no_plain_listener() {
    let served = Served::start().await;
    assert_eq!(served.node.http_port(), None);
}
