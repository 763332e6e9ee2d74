//! HTTP/1.1 as bytes: one connection per request, bounded in size and time. It sends what no client library would, and reads
//! an answer whatever its framing.

use std::sync::Arc;
use std::time::{Duration, Instant};

use hyper_rustls::ConfigBuilderExt;
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use serde_json::Value;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;

use super::target::TestTarget;

/// The time in which an instance has to take a connection.
const CONNECT: Duration = Duration::from_secs(10);
/// The time that an instance has to read a request, and again to answer it, however slowly the pieces come.
const PATIENCE: Duration = Duration::from_secs(40);

/// A connection to the target.
pub trait Wire: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Wire for T {}

/// An answer.
#[derive(Clone, Debug, Default)]
pub struct TestAnswer {
    /// The status.
    pub status: u16,
    /// The headers, their names in lower case.
    pub headers: Vec<(String, String)>,
    /// The body.
    pub body: Vec<u8>,
    /// The time from the last byte of the request to the first byte of the answer.
    pub time: Duration,
}

impl TestAnswer {
    /// Returns the first header of a name, which is in lower case.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }

    /// Returns all headers of a name, which is in lower case.
    pub fn headers<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a str> {
        self.headers.iter().filter(move |(known, _)| known == name).map(|(_, value)| value.as_str())
    }

    /// Returns the body as text.
    #[must_use]
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// Returns the body as JSON; null if it is not JSON.
    #[must_use]
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_default()
    }

    /// Returns a member of the body that is text; empty if there is none.
    #[must_use]
    pub fn member(&self, name: &str) -> String {
        self.json().get(name).and_then(Value::as_str).unwrap_or_default().to_owned()
    }

    /// `true` if the request was granted.
    #[must_use]
    pub const fn is_success(&self) -> bool {
        matches!(self.status, 200..=299)
    }
}

/// Returns TLS as a client speaks it: with the roots of this machine, or those of `SSL_CERT_FILE`.
///
/// # Errors
/// If this machine has no roots.
pub fn tls() -> Result<TlsConnector, String> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| error.to_string())?
        .with_native_roots()
        .map_err(|error| format!("this machine has no root certificates: {error}"))?
        .with_no_client_auth();
    Ok(TlsConnector::from(Arc::new(config)))
}

/// Connects to the target; with TLS if a connector is given.
///
/// # Errors
/// If there is no connection.
pub async fn connect(target: &TestTarget, tls: Option<&TlsConnector>) -> Result<Box<dyn Wire>, String> {
    let connecting = async {
        let stream = TcpStream::connect(target.address).await.map_err(|error| error.to_string())?;
        stream.set_nodelay(true).map_err(|error| error.to_string())?;
        let Some(tls) = tls else { return Ok::<Box<dyn Wire>, String>(Box::new(stream)) };
        let name = ServerName::try_from(target.host.clone()).map_err(|error| error.to_string())?;
        let stream = tls.connect(name, stream).await.map_err(|error| error.to_string())?;
        Ok(Box::new(stream))
    };
    timeout(CONNECT, connecting).await.map_err(|_| "no connection in time".to_owned())?
}

/// Sends the bytes, and reads one answer of at most `most` bytes.
///
/// # Errors
/// If there is no answer that can be read.
pub async fn ask(wire: &mut dyn Wire, request: &[u8], most: usize) -> Result<TestAnswer, String> {
    // The instance may answer, and close, before it has read everything.
    let sent = timeout(PATIENCE, wire.write_all(request)).await.map_err(|_| "the request is not read".to_owned())?;
    let began = Instant::now();
    let (mut bytes, mut time) = (Vec::new(), None);
    let mut piece = vec![0; 16 * 1024];
    loop {
        let read = timeout(PATIENCE.saturating_sub(began.elapsed()), wire.read(&mut piece)).await;
        match read {
            Ok(Ok(length @ 1..)) => bytes.extend(piece.get(..length).unwrap_or_default()),
            // Unread bytes of a request may end an answer in a reset, and a stream of events goes on: its head is enough.
            Ok(Ok(_) | Err(_)) | Err(_) => break,
        }
        time.get_or_insert_with(|| began.elapsed());
        if bytes.len() > most || is_complete(&bytes) {
            break;
        }
    }
    let answer = parse(&bytes).map(|answer| TestAnswer { time: time.unwrap_or_default(), ..answer });
    answer.ok_or_else(|| match sent {
        Ok(()) if bytes.is_empty() => "the connection was closed without an answer".to_owned(),
        Ok(()) => "the answer is not HTTP".to_owned(),
        Err(error) => error.to_string(),
    })
}

/// Sends the bytes, and reads everything until the instance closes the connection or is silent for this long,
/// at most for as long as an answer may take.
///
/// # Errors
/// If the request cannot be sent.
pub async fn exchange(wire: &mut dyn Wire, request: &[u8], silence: Duration) -> Result<Vec<u8>, String> {
    const MOST: usize = 256 * 1024;
    let _ = timeout(PATIENCE, wire.write_all(request)).await.map_err(|_| "the request is not read".to_owned())?;
    let (began, mut bytes) = (Instant::now(), Vec::new());
    let mut piece = vec![0; 16 * 1024];
    let left = || silence.min(PATIENCE.saturating_sub(began.elapsed()));
    while let Ok(Ok(length @ 1..)) = timeout(left(), wire.read(&mut piece)).await {
        bytes.extend(piece.get(..length).unwrap_or_default());
        if bytes.len() > MOST {
            break;
        }
    }
    Ok(bytes)
}

/// Counts the answers in what an instance has sent, and returns their statuses.
#[must_use]
pub fn statuses(bytes: &[u8]) -> Vec<u16> {
    let text = String::from_utf8_lossy(bytes);
    let after = text.split("HTTP/1.1 ").skip(1);
    after.filter_map(|rest| rest.get(..3)?.parse().ok()).collect()
}

/// `true` if the bytes hold a whole answer, by its length or its last chunk.
fn is_complete(bytes: &[u8]) -> bool {
    let Some((head, body)) = split(bytes) else { return false };
    let lines = head_lines(head);
    let of = |name: &str| lines.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str());
    if of("transfer-encoding").is_some_and(|coding| coding.eq_ignore_ascii_case("chunked")) {
        return unchunked(body).1;
    }
    of("content-length").and_then(|length| length.parse::<usize>().ok()).is_some_and(|length| body.len() >= length)
}

fn split(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let at = bytes.windows(4).position(|window| window == b"\r\n\r\n")?;
    Some((bytes.get(..at)?, bytes.get(at + 4..)?))
}

fn head_lines(head: &[u8]) -> Vec<(String, String)> {
    let text = String::from_utf8_lossy(head);
    let lines = text.split("\r\n").skip(1).filter_map(|line| line.split_once(':'));
    lines.map(|(name, value)| (name.to_ascii_lowercase(), value.trim().to_owned())).collect()
}

fn parse(bytes: &[u8]) -> Option<TestAnswer> {
    let (head, body) = split(bytes)?;
    let line = String::from_utf8_lossy(head.split(|byte| *byte == b'\r').next()?).into_owned();
    let status = line.strip_prefix("HTTP/1.")?.split(' ').nth(1)?.parse().ok()?;
    let headers = head_lines(head);
    let is_chunked = headers.iter().any(|(name, value)| name == "transfer-encoding" && value == "chunked");
    let body = if is_chunked { unchunked(body).0 } else { body.to_vec() };
    Some(TestAnswer { status, headers, body, time: Duration::ZERO })
}

/// Returns the chunks so far, and `true` if the last one is there.
fn unchunked(mut bytes: &[u8]) -> (Vec<u8>, bool) {
    let mut body = Vec::new();
    loop {
        let Some(at) = bytes.windows(2).position(|window| window == b"\r\n") else { return (body, false) };
        let size = String::from_utf8_lossy(bytes.get(..at).unwrap_or_default()).into_owned();
        let size = size.split(';').next().and_then(|size| usize::from_str_radix(size.trim(), 16).ok());
        let Some(size) = size else { return (body, false) };
        if size == 0 {
            return (body, true);
        }
        let from = at + 2;
        let Some(chunk) = from.checked_add(size).and_then(|to| bytes.get(from..to)) else { return (body, false) };
        body.extend(chunk);
        bytes = bytes.get(from + size + 2..).unwrap_or_default();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_read_by_its_length_or_its_chunks() {
        let whole = b"HTTP/1.1 200 OK\r\nA: b\r\nContent-Length: 2\r\n\r\nhi";
        let answer = parse(whole).unwrap();
        assert_eq!((answer.status, answer.header("a"), answer.text().as_str()), (200, Some("b"), "hi"));
        assert!(is_complete(whole) && !is_complete(&whole[..whole.len() - 1]));
        let chunked = b"HTTP/1.1 400 Bad\r\ntransfer-encoding: chunked\r\n\r\n2\r\nhi\r\n1;x\r\n!\r\n0\r\n\r\n";
        assert_eq!(parse(chunked).unwrap().text(), "hi!");
        assert!(is_complete(chunked) && !is_complete(&chunked[..chunked.len() - 6]));
    }

    #[test]
    fn garbage_is_no_answer() {
        for garbage in [&b""[..], b"HTTP/1.1 200 OK\r\n", b"\r\n\r\n", b"HTTP/1.1 x\r\n\r\n", b"HTTP/1.1\r\n\r\n"] {
            assert!(parse(garbage).is_none(), "{garbage:?}");
        }
        let huge = b"ffffffffffffffff\r\nx";
        assert_eq!(unchunked(huge), (vec![], false));
    }

    #[test]
    fn answers_are_counted() {
        assert_eq!(statuses(b"HTTP/1.1 400 Bad\r\n\r\nHTTP/1.1 200 OK\r\n\r\n"), [400, 200]);
        assert!(statuses(b"HTTP/1.1 ").is_empty());
    }
}
