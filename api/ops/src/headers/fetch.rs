//! One GET request, bounded in time and in the size of the head. Follows no redirect, keeps no connection, and judges no certificate: that is
//! `check-ssl`'s.

use std::time::Duration;

use http_body_util::Empty;
use hyper::body::Bytes;
use hyper::header::{ACCEPT, HOST, USER_AGENT};
use hyper::http::uri::PathAndQuery;
use hyper::{HeaderMap, Request, StatusCode};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::timeout;
use url::{Position, Url};

use crate::tls::handshake::shake_hands;
use crate::tls::target::TlsTarget;

/// The head of an answer.
#[derive(Debug)]
pub struct AnswerHead {
    /// The status.
    pub status: StatusCode,
    /// The headers.
    pub headers: HeaderMap,
}

/// Fetches a URL of http or https.
///
/// # Errors
/// A sentence for the operator.
pub async fn fetch(url: &Url, patience: Duration) -> Result<AnswerHead, String> {
    match timeout(patience, fetch_unbounded(url, patience)).await {
        Ok(fetched) => fetched,
        Err(_) => Err(format!("no answer within {} seconds", patience.as_secs_f32())),
    }
}

async fn fetch_unbounded(url: &Url, patience: Duration) -> Result<AnswerHead, String> {
    let host = url.host_str().ok_or("the URL has no host")?;
    let port = url.port_or_known_default().ok_or("the URL has no port")?;
    let target = TlsTarget::parse(&format!("{host}:{port}"))?;
    let stream = target.connect(patience).await.map_err(|error| error.to_string())?;
    if url.scheme() == "https" {
        let handshake = shake_hands(stream, &target.name, rustls::ALL_VERSIONS, patience).await;
        let handshake = handshake.map_err(|error| error.to_string())?;
        ask(handshake.stream, url).await
    } else {
        ask(stream, url).await
    }
}

async fn ask<S: AsyncRead + AsyncWrite + Send + Unpin + 'static>(stream: S, url: &Url) -> Result<AnswerHead, String> {
    let path: PathAndQuery = url[Position::BeforePath..Position::AfterQuery].parse().map_err(|_| "not a path")?;
    let (mut sender, connection) = hyper::client::conn::http1::Builder::new()
        .max_buf_size(64 * 1024)
        .handshake(TokioIo::new(stream))
        .await
        .map_err(|error| error.to_string())?;
    let connection = tokio::spawn(connection);
    let request = Request::get(path.as_str())
        .header(HOST, &url[Position::BeforeHost..Position::AfterPort])
        .header(USER_AGENT, "fulexo-check-headers")
        .header(ACCEPT, "*/*")
        .body(Empty::<Bytes>::new())
        .map_err(|error| error.to_string())?;
    let answer = sender.send_request(request).await.map_err(|error| error.to_string());
    let head = match answer {
        Ok(answer) => {
            // The body is not read: it may be endless.
            let (head, _) = answer.into_parts();
            Ok(AnswerHead { status: head.status, headers: head.headers })
        }
        Err(error) => Err(error),
    };
    connection.abort();
    head
}
