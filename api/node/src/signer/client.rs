//! A node's way to the signer: in this process, or behind a socket.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use fulexo_tlog::checkpoint::Checkpoint;
use fulexo_tlog::extension::ExtensionError;
use fulexo_tlog::key::VerifierKey;
use fulexo_tlog::note::{MAX_NOTE, SignatureLine};
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Bytes;
use hyper::client::conn::http1;
use hyper::{Method, Request, StatusCode};
use hyper_util::rt::TokioIo;
use tokio::net::UnixStream;
use tokio::task::spawn_blocking;
use tokio::time::timeout;

use super::log_signer::{LogSigner, SignerError, SigningRequest};
use super::wire::LogState;
use crate::clock;

/// The time that a signature may take.
const SIGNING_TIME: Duration = Duration::from_secs(5);

/// The signer that a node asks.
#[derive(Clone)]
pub enum Signer {
    /// The one in this process.
    Here(Arc<LogSigner>),
    /// The one that listens on this socket.
    Socket(PathBuf),
}

/// The log as its signer knows it.
pub struct SignedLog {
    /// The keys that sign; the first one is named as the log.
    pub keys: Vec<VerifierKey>,
    /// The checkpoint that was signed last.
    pub last: Option<Checkpoint>,
    /// The size of the last checkpoint that each witness cosigned, by its name.
    pub witnesses: BTreeMap<String, u64>,
}

impl Signer {
    /// Asks for the log's keys and the last checkpoint.
    ///
    /// # Errors
    /// [`SignerError`].
    pub async fn log(&self) -> Result<SignedLog, SignerError> {
        match self {
            Self::Here(signer) => {
                let (memory, keys) = here(signer, |signer| Ok((signer.memory()?, signer.keys()))).await?;
                let (last, witnesses) = memory.map(|memory| (memory.last, memory.witnesses)).unzip();
                Ok(SignedLog { keys: keys.verifiers(), last, witnesses: witnesses.unwrap_or_default() })
            }
            Self::Socket(path) => {
                let (status, body) = exchange(path, Method::GET, "/log", String::new()).await?;
                let state =
                    (status == StatusCode::OK).then(|| serde_json::from_slice::<LogState>(&body).ok()).flatten();
                let read = state.and_then(|state| {
                    let keys = state.keys.iter().map(|key| VerifierKey::parse(key).ok()).collect::<Option<_>>()?;
                    let last = state.last.map(|last| Checkpoint::parse(&last)).transpose().ok()?;
                    Some(SignedLog { keys, last, witnesses: state.witnesses })
                });
                read.ok_or_else(|| refusal(status, &body))
            }
        }
    }

    /// Has a checkpoint signed by each of the log's keys, in their order.
    ///
    /// # Errors
    /// [`SignerError`].
    pub async fn sign(&self, request: SigningRequest) -> Result<Vec<SignatureLine>, SignerError> {
        match self {
            Self::Here(signer) => here(signer, move |signer| signer.sign(&request, clock::now())).await,
            Self::Socket(path) => {
                let (status, body) = exchange(path, Method::POST, "/sign", request.to_string()).await?;
                let text = std::str::from_utf8(&body).ok().filter(|_| status == StatusCode::OK);
                let lines = text.and_then(|text| text.lines().map(SignatureLine::parse).collect::<Option<Vec<_>>>());
                lines.ok_or_else(|| refusal(status, &body))
            }
        }
    }

    /// Has the signer remember the size of the last checkpoint that each witness cosigned, by its name.
    ///
    /// # Errors
    /// [`SignerError`].
    pub async fn remember(&self, witnesses: BTreeMap<String, u64>) -> Result<(), SignerError> {
        match self {
            Self::Here(signer) => here(signer, move |signer| Ok(signer.remember(witnesses)?)).await,
            Self::Socket(path) => {
                let body = serde_json::to_string(&witnesses).map_err(|error| SignerError::Remote(error.to_string()))?;
                let (status, body) = exchange(path, Method::POST, "/witnesses", body).await?;
                if status == StatusCode::NO_CONTENT { Ok(()) } else { Err(refusal(status, &body)) }
            }
        }
    }
}

/// Does what blocks on the disk.
async fn here<T: Send + 'static>(
    signer: &Arc<LogSigner>,
    work: impl FnOnce(&LogSigner) -> Result<T, SignerError> + Send + 'static,
) -> Result<T, SignerError> {
    let signer = Arc::clone(signer);
    match timeout(SIGNING_TIME, spawn_blocking(move || work(&signer))).await {
        Ok(Ok(done)) => done,
        Ok(Err(_)) | Err(_) => Err(SignerError::Remote("the signer does not respond".to_owned())),
    }
}

async fn exchange(
    path: &PathBuf,
    method: Method,
    target: &str,
    body: String,
) -> Result<(StatusCode, Bytes), SignerError> {
    let failed = |error: &dyn std::error::Error| SignerError::Remote(format!("{}: {error}", path.display()));
    let exchanged = async {
        let stream = UnixStream::connect(path).await.map_err(|error| failed(&error))?;
        let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(|error| failed(&error))?;
        let request = Request::builder().method(method).uri(target).header("host", "signer");
        let request = request.body(Full::new(Bytes::from(body))).map_err(|error| failed(&error))?;
        let answered = async {
            let response = sender.send_request(request).await.map_err(|error| failed(&error))?;
            let (head, body) = response.into_parts();
            let body = Limited::new(body, MAX_NOTE).collect().await.map_err(|error| failed(&*error))?;
            Ok((head.status, body.to_bytes()))
        };
        // The connection ends with the answer, or when this is dropped.
        tokio::select! {
            answered = answered => answered,
            Err(error) = connection => Err(failed(&error)),
        }
    };
    timeout(SIGNING_TIME, exchanged)
        .await
        .unwrap_or_else(|_| Err(SignerError::Remote(format!("{}: no answer in time", path.display()))))
}

/// The error of an answer other than signatures.
fn refusal(status: StatusCode, body: &[u8]) -> SignerError {
    let text = String::from_utf8_lossy(body);
    let text = text.trim_end();
    match status {
        StatusCode::FORBIDDEN => SignerError::OtherLog,
        StatusCode::UNPROCESSABLE_ENTITY => ExtensionError::Inconsistent.into(),
        StatusCode::CONFLICT => match text.parse() {
            Ok(last) => ExtensionError::NotLast { last }.into(),
            Err(_) => SignerError::Remote("the size in the signer's answer is none".to_owned()),
        },
        _ => SignerError::Remote(format!("{status}: {}", text.chars().take(500).collect::<String>())),
    }
}
