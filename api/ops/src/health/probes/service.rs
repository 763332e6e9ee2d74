//! A node as its URL shows it: readiness, version, published checkpoint, clock and certificates. Three GET requests, bounded in
//! time and size, without credentials.

use std::time::{Duration, Instant};

use chrono::{DateTime, Utc};
use http_body_util::{BodyExt, Empty, Limited};
use hyper::Request;
use hyper::body::Bytes;
use hyper::header::{ACCEPT, DATE, HOST, USER_AGENT};
use hyper_util::rt::TokioIo;
use rustls::pki_types::{CertificateDer, ServerName};
use serde::Deserialize;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::timeout;
use url::{Position, Url};

use super::clock_reading::ClockReading;
use crate::clock::now;
use crate::tls::handshake::shake_hands;
use crate::tls::target::TlsTarget;

/// The length of the longest answer that is read, in bytes.
const MOST: usize = 1 << 20;

/// The address of a node, or of what stands before nodes.
#[derive(Clone, Debug)]
pub struct ServiceAddress {
    /// The URL below which the API is.
    pub url: Url,
    /// The name that its certificate must have.
    pub name: CertificateName,
}

/// The name that a certificate must have.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum CertificateName {
    /// The host of the URL.
    OfUrl,
    /// Another one: the URL leads to this machine.
    Given(ServerName<'static>),
    /// It is not known: the URL leads to this machine.
    Unknown,
}

/// A node, as far as it answered.
pub struct ObservedService {
    /// The URL, as findings name it.
    pub label: String,
    /// The target of the connection, with the name that the certificate must have.
    pub target: Result<TlsTarget, String>,
    /// The answer about readiness.
    pub readiness: Result<ReadinessReport, ServiceFault>,
    /// The time that it took.
    pub took: Duration,
    pub clock: Option<ClockReading>,
    pub version: Option<String>,
    /// The published checkpoint.
    pub checkpoint: Option<String>,
    /// The certificates and a stapled response. `None` without TLS, or without a handshake.
    pub shown: Option<ShownCertificates>,
}

/// The certificates of a handshake.
pub struct ShownCertificates {
    pub chain: Vec<CertificateDer<'static>>,
    pub is_stapled: bool,
}

/// The reason for which a node is not ready.
pub enum ServiceFault {
    /// Nobody answers in time.
    Down(String),
    /// It answers that it is not ready.
    NotReady { code: String, detail: String },
    /// The answer is not one of Fulexo.
    Strange(String),
}

/// The answer of `/health/ready`. Members that are missing are not known: the node may be of another version.
#[derive(Deserialize)]
pub struct ReadinessReport {
    pub log_size: u64,
    #[serde(default)]
    pub dependencies: Vec<ReportedPart>,
    #[serde(default)]
    pub projections: Vec<ReportedReadModel>,
    pub gate: ReportedGate,
    pub relay: Option<ReportedRelay>,
    pub tree: ReportedTree,
    pub checkpoint: ReportedCheckpoint,
    pub anchor: Option<ReportedAnchor>,
    #[serde(default)]
    pub keys: Vec<ReportedKey>,
    #[serde(default)]
    pub nodes: Vec<ReportedPart>,
}

/// A dependency, a node or a witness.
#[derive(Deserialize)]
pub struct ReportedPart {
    pub name: String,
    pub status: String,
}

/// A read model.
#[derive(Deserialize)]
pub struct ReportedReadModel {
    pub name: String,
    pub position: u64,
    pub version: u64,
    pub lag: u64,
    pub stopped: bool,
}

/// The gate.
#[derive(Deserialize)]
pub struct ReportedGate {
    pub stopped: bool,
}

/// The relay.
#[derive(Deserialize)]
pub struct ReportedRelay {
    pub lag: Option<u64>,
    pub stopped: bool,
}

/// The tree over the log.
#[derive(Deserialize)]
pub struct ReportedTree {
    pub size: u64,
    pub lag: u64,
    pub stopped: bool,
}

/// The published checkpoint.
#[derive(Deserialize)]
pub struct ReportedCheckpoint {
    pub status: String,
    pub size: u64,
    pub lag: u64,
    pub refused: bool,
}

/// The anchored checkpoint.
#[derive(Deserialize)]
pub struct ReportedAnchor {
    pub status: String,
    pub size: u64,
    pub lag: u64,
    #[serde(default)]
    pub witnesses: Vec<ReportedPart>,
}

/// A key in use.
#[derive(Deserialize)]
pub struct ReportedKey {
    pub kind: String,
    pub age: u64,
    pub due: bool,
    pub leaving: u64,
}

/// A refusal (RFC 9457).
#[derive(Default, Deserialize)]
struct RefusalBody {
    #[serde(default)]
    code: String,
    #[serde(default)]
    detail: String,
}

/// An answer.
struct ServiceAnswer {
    status: u16,
    date: Option<DateTime<Utc>>,
    body: Bytes,
}

impl ServiceAddress {
    /// Returns the URL as reports name it: without a query, and without a path that says nothing.
    #[must_use]
    pub fn label(&self) -> String {
        label(&self.url)
    }
}

impl ObservedService {
    /// Asks a node.
    pub async fn ask(address: &ServiceAddress, patience: Duration) -> Self {
        let asked = now();
        let (ready, metrics, checkpoint) = tokio::join!(
            get(address, "/health/ready", patience),
            get(address, "/metrics", patience),
            get(address, "/v1/audit/log/checkpoint", patience),
        );
        let ((answer, took), shown) = ready;
        let text = |fetched: ((Result<ServiceAnswer, String>, Duration), Option<ShownCertificates>)| {
            let answer = fetched.0.0.ok().filter(|answer| answer.status == 200)?;
            String::from_utf8(answer.body.to_vec()).ok()
        };
        Self {
            label: address.label(),
            target: target(address),
            clock: answer
                .as_ref()
                .ok()
                .and_then(|answer| Some(ClockReading::new(asked, took, answer.date?, Duration::from_secs(1)))),
            readiness: answer.map_err(ServiceFault::Down).and_then(readiness),
            took,
            version: text(metrics).as_deref().and_then(version),
            checkpoint: text(checkpoint),
            shown,
        }
    }

    /// Returns the readiness, if the node is ready.
    pub fn ready(&self) -> Option<&ReadinessReport> {
        self.readiness.as_ref().ok()
    }
}

fn label(url: &Url) -> String {
    url[..Position::AfterPath].trim_end_matches('/').to_owned()
}

fn target(address: &ServiceAddress) -> Result<TlsTarget, String> {
    let host = address.url.host_str().ok_or("the URL has no host")?;
    let port = address.url.port_or_known_default().ok_or("the URL has no port")?;
    let target = TlsTarget::parse(&format!("{host}:{port}"))?;
    Ok(match &address.name {
        CertificateName::Given(name) => TlsTarget { name: name.clone(), ..target },
        CertificateName::OfUrl | CertificateName::Unknown => target,
    })
}

fn readiness(answer: ServiceAnswer) -> Result<ReadinessReport, ServiceFault> {
    if answer.status == 200 {
        let read = serde_json::from_slice(&answer.body);
        return read.map_err(|error| ServiceFault::Strange(format!("/health/ready cannot be read: {error}")));
    }
    match serde_json::from_slice::<RefusalBody>(&answer.body) {
        Ok(RefusalBody { code, detail }) if answer.status == 503 => Err(ServiceFault::NotReady { code, detail }),
        Ok(_) | Err(_) => Err(ServiceFault::Strange(format!("/health/ready answers with status {}", answer.status))),
    }
}

/// Finds the version in the metrics.
fn version(metrics: &str) -> Option<String> {
    let line = metrics.lines().find_map(|line| line.strip_prefix("fulexo_build_info{version=\""))?;
    let version = line.split_once('"')?.0;
    (version.len() <= 64).then(|| version.to_owned())
}

/// Makes one request; returns the answer with the time that it took, and the certificates.
async fn get(
    address: &ServiceAddress,
    path: &str,
    patience: Duration,
) -> ((Result<ServiceAnswer, String>, Duration), Option<ShownCertificates>) {
    let (began, mut shown) = (Instant::now(), None);
    let answer = match timeout(patience, get_unbounded(address, path, patience, &mut shown)).await {
        Ok(answer) => answer,
        Err(_) => Err(format!("no answer within {:.1} seconds", patience.as_secs_f32())),
    };
    ((answer, began.elapsed()), shown)
}

async fn get_unbounded(
    address: &ServiceAddress,
    path: &str,
    patience: Duration,
    shown: &mut Option<ShownCertificates>,
) -> Result<ServiceAnswer, String> {
    let target = target(address)?;
    // The host of the URL is connected to, and the name is what the certificate is asked for.
    let host = TlsTarget::parse(address.url.host_str().unwrap_or_default())?;
    let stream = TlsTarget { port: target.port, ..host }.connect(patience).await.map_err(|error| error.to_string())?;
    if address.url.scheme() != "https" {
        return request(stream, address, path).await;
    }
    let handshake = shake_hands(stream, &target.name, rustls::ALL_VERSIONS, patience).await;
    let handshake = handshake.map_err(|error| error.to_string())?;
    *shown = Some(ShownCertificates { chain: handshake.chain, is_stapled: handshake.is_stapled });
    request(handshake.stream, address, path).await
}

async fn request<S>(stream: S, address: &ServiceAddress, path: &str) -> Result<ServiceAnswer, String>
where
    S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let url = &address.url;
    let (mut sender, connection) = hyper::client::conn::http1::Builder::new()
        .max_buf_size(64 * 1024)
        .handshake(TokioIo::new(stream))
        .await
        .map_err(|error| error.to_string())?;
    let connection = tokio::spawn(connection);
    let host = match &address.name {
        CertificateName::Given(name) => name.to_str().into_owned(),
        CertificateName::OfUrl | CertificateName::Unknown => url[Position::BeforeHost..Position::AfterPort].to_owned(),
    };
    let request = Request::get(format!("{}{path}", url.path().trim_end_matches('/')))
        .header(HOST, host)
        .header(USER_AGENT, "fulexo-health-check")
        .header(ACCEPT, "*/*")
        .body(Empty::<Bytes>::new())
        .map_err(|error| error.to_string())?;
    let asking = async {
        let answer = sender.send_request(request).await.map_err(|error| error.to_string())?;
        let (head, body) = answer.into_parts();
        let date = head.headers.get(DATE).and_then(|date| date.to_str().ok());
        let date = date.and_then(|date| DateTime::parse_from_rfc2822(date).ok()).map(|date| date.to_utc());
        let body = Limited::new(body, MOST).collect().await.map_err(|error| error.to_string())?.to_bytes();
        Ok(ServiceAnswer { status: head.status.as_u16(), date, body })
    };
    let answer = asking.await;
    connection.abort();
    answer
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_version_is_read_from_the_metrics_and_from_nothing_else() {
        assert_eq!(version("# HELP\nfulexo_build_info{version=\"1.2.3\"} 1\n"), Some("1.2.3".to_owned()));
        assert_eq!(version("<html>"), None);
        assert_eq!(version(&format!("fulexo_build_info{{version=\"{}\"}} 1", "9".repeat(65))), None);
    }

    #[test]
    fn a_label_has_no_query() {
        assert_eq!(label(&Url::parse("https://a.example/base/?token=x").unwrap()), "https://a.example/base");
        assert_eq!(label(&Url::parse("http://127.0.0.1:8080").unwrap()), "http://127.0.0.1:8080");
    }
}
