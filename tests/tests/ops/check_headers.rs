//! `fulexo check-headers`, against a service of ours and a bare server.

use std::collections::BTreeMap;
use std::time::Duration;

use fulexo_tests::{Node, Program};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::sleep;

use super::tls_servers::{certificate, listen, serve};
use super::{reported, rules};

#[tokio::test(flavor = "multi_thread")]
async fn a_service_of_ours_has_the_best_grade_on_every_page() {
    let node = Node::start().await;
    for path in ["/", "/docs", "/openapi.json", "/health", "/v1/me", "/nowhere"] {
        let (status, report) = reported(&["check-headers", &format!("{}{path}", node.url)], &BTreeMap::new());
        assert_eq!((status, &report["facts"]["grade"], rules(&report).len()), (0, &"A".into(), 0), "{path} {report:#}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bare_server_lacks_every_header() {
    let shown = certificate("localhost", (-1, 60), None);
    let answer = "HTTP/1.1 200 OK\r\nServer: nginx/1.22.1\r\nSet-Cookie: id=secret\r\nContent-Length: 0\r\n\r\n";
    let server = serve(vec![shown.der], &shown.key, answer).await;
    let (status, report) =
        reported(&["check-headers", &format!("https://localhost:{}/", server.port)], &BTreeMap::new());
    assert_eq!((status, &report["facts"]["grade"]), (1, &"F".into()), "{report:#}");
    assert_eq!(rules(&report).len(), 11, "{report:#}");
    assert!(!report.to_string().contains("secret"));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_that_does_not_come_or_does_not_end_is_bounded() {
    let silent = listen(async |stream: tokio::net::TcpStream| {
        sleep(Duration::from_secs(120)).await;
        drop(stream);
    })
    .await;
    let endless = listen(async |mut stream: tokio::net::TcpStream| {
        let _ = stream.write_all(b"HTTP/1.1 200 OK\r\n").await;
        while stream.write_all(b"a: b\r\n").await.is_ok() {}
    })
    .await;
    for server in [&silent, &endless] {
        let url = format!("http://127.0.0.1:{}/", server.port);
        let (status, report) = reported(&["check-headers", &url, "--timeout", "2"], &BTreeMap::new());
        assert_eq!((status, &report["verdict"]), (3, &"incomplete".into()), "{report:#}");
    }
    let body = listen(async |mut stream: tokio::net::TcpStream| {
        let _ = stream.read(&mut [0; 1024]).await;
        let _ = stream.write_all(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n").await;
        while stream.write_all(b"1\r\na\r\n").await.is_ok() {}
    })
    .await;
    let ended = Program::run(&["check-headers", &format!("http://127.0.0.1:{}/", body.port)], &BTreeMap::new());
    assert_eq!(ended.status.code(), Some(1), "the head is judged: {}", ended.said);
}
