//! Requests that no well-behaved client sends: their bytes go over the socket as they are.

use std::time::Duration;

use fulexo_tests::Answer;
use hyper::HeaderMap;
use hyper::header::{HeaderName, HeaderValue};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

/// Sends the bytes, and reads until the service closes the connection.
pub async fn exchange(url: &str, request: &[u8]) -> Answer {
    let mut stream = TcpStream::connect(url.strip_prefix("http://").unwrap()).await.unwrap();
    // The service may refuse, and close, before it has read everything.
    let _ = stream.write_all(request).await;
    let mut bytes = Vec::new();
    // Unread bytes do not keep its answer from arriving, though it may end in a reset.
    let _ = timeout(Duration::from_secs(60), stream.read_to_end(&mut bytes)).await.unwrap();
    parse(&bytes)
}

/// Sends a POST of these raw bytes.
pub async fn post(url: &str, path: &str, headers: &[&str], body: &[u8]) -> Answer {
    let lines: String = headers.iter().map(|line| format!("{line}\r\n")).collect();
    let length = body.len();
    let head =
        format!("POST {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-length: {length}\r\n{lines}\r\n");
    exchange(url, &[head.as_bytes(), body].concat()).await
}

/// Sends a POST of JSON in these bytes.
pub async fn post_json(url: &str, path: &str, body: &[u8]) -> Answer {
    post(url, path, &["content-type: application/json"], body).await
}

fn parse(bytes: &[u8]) -> Answer {
    let text = String::from_utf8_lossy(bytes);
    let (head, body) = text.split_once("\r\n\r\n").unwrap_or_else(|| panic!("no answer: {text:?}"));
    let mut lines = head.lines();
    let status = lines.next().unwrap().split(' ').nth(1).unwrap().parse().unwrap();
    let mut headers = HeaderMap::new();
    for line in lines {
        let (name, value) = line.split_once(':').unwrap();
        headers.append(name.parse::<HeaderName>().unwrap(), HeaderValue::from_str(value.trim()).unwrap());
    }
    Answer {
        status,
        headers,
        bytes: body.to_owned().into(),
        text: body.to_owned(),
        json: serde_json::from_str(body).unwrap_or_default(),
    }
}
