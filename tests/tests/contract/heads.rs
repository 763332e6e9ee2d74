//! Heads of requests that HTTP forbids, or that nobody here reads: over the socket, as no client library would write
//! them.

use std::collections::{BTreeMap, BTreeSet};

use fulexo_tests::spec::{operations, sample};
use fulexo_tests::{Answer, Client, Node, PASSWORD};
use http_body_util::{BodyExt, Full};
use hyper::body::Bytes;
use hyper::client::conn::http2;
use hyper::{Method, Request};
use hyper_util::rt::{TokioExecutor, TokioIo};
use serde_json::json;
use tokio::net::TcpStream;

use crate::wire::exchange;
use crate::{assert_problem, pointers};

/// Sends a GET, with these lines after the first.
async fn get(client: &Client, target: &str, lines: &[&str]) -> Answer {
    let lines: String = lines.iter().map(|line| format!("{line}\r\n")).collect();
    exchange(&client.url, format!("GET {target} HTTP/1.1\r\nconnection: close\r\n{lines}\r\n").as_bytes()).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_that_does_not_name_one_host_is_refused() {
    let node = Node::start().await;
    let nobody = node.anonymous();
    for (target, hosts) in [
        ("/health/live", &["host: x"][..]),
        ("/health/live", &["host: x:8080"]),
        ("/health/live", &["host: [::1]:8080"]),
        ("http://y/health/live", &["host: x"]),
    ] {
        assert_eq!(get(&nobody, target, hosts).await.status, 200, "{target} {hosts:?}");
    }
    for (target, hosts) in [
        ("/health/live", &[][..]),
        ("/health/live", &["host:"]),
        ("/health/live", &["host: x", "host: x"]),
        ("/health/live", &["host: x", "host: y"]),
        ("/health/live", &["host: x", "host:"]),
        ("/health/live", &["host: x, y"]),
        ("/health/live", &["host: user@x"]),
        ("/health/live", &["host: user:secret@x"]),
        ("/health/live", &["host: x:port"]),
        ("/health/live", &["host: http://x"]),
        ("/health/live", &["host: x/y"]),
        ("/health/live", &["host: :80"]),
        ("http://x/health/live", &[]),
        ("http://user@x/health/live", &["host: x"]),
        ("http://x/health/live", &["host: user@x"]),
    ] {
        assert_problem(&get(&nobody, target, hosts).await, 400, "invalid_host");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn over_http_2_host_and_authority_are_the_same() {
    let node = Node::start().await;
    let own = node.url.strip_prefix("http://").unwrap();
    for (host, status) in [(None, 200), (Some(own), 200), (Some("other.example"), 400), (Some("user@x"), 400)] {
        let stream = TcpStream::connect(own).await.unwrap();
        let (mut sender, connection) = http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await.unwrap();
        tokio::spawn(connection);
        let mut request = Request::get(format!("{}/health/live", node.url));
        if let Some(host) = host {
            request = request.header("host", host);
        }
        let response = sender.send_request(request.body(Full::new(Bytes::new())).unwrap()).await.unwrap();
        assert_eq!(response.status(), status, "{host:?}");
        response.into_body().collect().await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_405_names_the_methods_that_there_are() {
    let node = Node::start().await;
    let nobody = node.anonymous();
    let mut paths: BTreeMap<String, BTreeSet<Method>> = BTreeMap::new();
    for operation in operations() {
        let target = operation.target(|_, _| json!("x"));
        let methods = paths.entry(target.split('?').next().unwrap().to_owned()).or_default();
        if operation.method == Method::GET {
            methods.insert(Method::HEAD);
        }
        methods.insert(operation.method.clone());
    }
    paths.insert("/docs".to_owned(), [Method::GET, Method::HEAD].into());
    paths.insert("/account/reset-password".to_owned(), [Method::GET, Method::HEAD].into());
    let known = "GET HEAD POST PUT PATCH DELETE OPTIONS TRACE CONNECT QUERY";
    for (path, methods) in paths {
        let mut names: Vec<&str> = methods.iter().map(Method::as_str).collect();
        names.sort_unstable();
        for method in known.split(' ').filter(|method| !names.contains(method)) {
            let head = format!("{method} {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n");
            let answer = exchange(&nobody.url, head.as_bytes()).await;
            assert_eq!(answer.status, 405, "{method} {path}: {answer:?}");
            assert_eq!(answer.header("allow"), Some(names.join(", ").as_str()), "{method} {path}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_method_that_nobody_here_knows_is_501_on_every_path() {
    let node = Node::start().await;
    for method in ["PROPFIND", "BREW", "get", "Query", "M-SEARCH", "!#$%&'*+-.^_`|~0"] {
        for path in ["/v1/me", "/v1/auth/login", "/health/live", "/docs", "/nothing", "*"] {
            let head = format!("{method} {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n");
            assert_problem(&exchange(&node.url, head.as_bytes()).await, 501, "not_implemented");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_in_a_coding_that_is_not_read_is_415_and_says_which_one_is() {
    let node = Node::start().await;
    let ann = node.customer().await;
    let body = json!({"email": ann.email, "password": PASSWORD}).to_string();
    let post = async |lines: &[&str]| {
        let lines: String = lines.iter().map(|line| format!("{line}\r\n")).collect();
        let (kind, length) = ("content-type: application/json", body.len());
        let head = format!(
            "POST /v1/auth/login HTTP/1.1\r\nhost: x\r\nconnection: close\r\n{kind}\r\ncontent-length: {length}\r\n{lines}\r\n"
        );
        exchange(&node.url, format!("{head}{body}").as_bytes()).await
    };
    for fine in [&[][..], &["content-encoding:"], &["content-encoding: Identity"], &["content-encoding: identity, ,"]] {
        assert_eq!(post(fine).await.status, 200, "{fine:?}");
    }
    for other in [
        &["content-encoding: gzip"][..],
        &["Content-Encoding: BR"],
        &["content-encoding: identity, gzip"],
        &["content-encoding: gzip, identity"],
        &["content-encoding: identity", "content-encoding: zstd"],
        &["content-encoding: aes128gcm"],
    ] {
        let answer = post(other).await;
        assert_problem(&answer, 415, "unsupported_encoding");
        assert_eq!(answer.header("accept-encoding"), Some("identity"), "{other:?}");
    }
    let chunked = format!(
        "POST /v1/auth/login HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-type: application/json\r\n\
         transfer-encoding: gzip, chunked\r\n\r\n{:x}\r\n{body}\r\n0\r\n\r\n",
        body.len()
    );
    assert_problem(&exchange(&node.url, chunked.as_bytes()).await, 501, "not_implemented");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_415_names_the_type_that_is_read() {
    let node = Node::start().await;
    let admin = node.admin().await;
    for operation in operations().iter().filter(|operation| operation.has_body()) {
        let target = operation.target(|name, schema| sample(name, schema, admin.account));
        for content_type in [None, Some("text/plain"), Some("application/xml")] {
            let answer = admin.send(operation.method.clone(), &target, content_type, "{}").await;
            assert_problem(&answer, 415, "unsupported_media_type");
            let readable = operation.content_type();
            let detail = answer.json["detail"].as_str().unwrap();
            assert!(detail.ends_with(&format!("Send Content-Type: {readable}.")), "{}: {detail}", operation.id);
            assert_eq!(answer.header("accept"), Some(readable), "{}", operation.id);
            assert_eq!(answer.header("accept-encoding"), None, "{}", operation.id);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_field_that_is_no_list_is_sent_once() {
    let node = Node::start().await;
    let ann = node.customer().await;
    let own = format!("authorization: Bearer {}", ann.access_token.as_ref().unwrap());
    assert_eq!(get(&ann, "/v1/me", &["host: x", &own]).await.status, 200);
    for other in
        [own.as_str(), "authorization: Bearer x.y.z", "Authorization: Basic eDp5", "AUTHORIZATION:", "authorization: x"]
    {
        for lines in [["host: x", &own, other], ["host: x", other, &own]] {
            let answer = get(&ann, "/v1/me", &lines).await;
            assert_problem(&answer, 400, "invalid_input");
            assert_eq!(pointers(&answer), ["/Authorization"], "{lines:?}");
        }
    }
    for (name, pointer) in [
        ("idempotency-key", "/Idempotency-Key"),
        ("log-min-position", "/Log-Min-Position"),
        ("origin", "/Origin"),
        ("x-csrf-token", "/X-CSRF-Token"),
    ] {
        let line = format!("{name}: 0");
        let answer = get(&ann, "/v1/me", &["host: x", &own, &line, &line]).await;
        assert_eq!((answer.status, pointers(&answer)), (400, vec![pointer]), "{name}");
    }
    // A field twice is refused on operations without credentials, too.
    let answer = get(&ann, "/health/live", &["host: x", &own, &own]).await;
    assert_problem(&answer, 400, "invalid_input");
}
