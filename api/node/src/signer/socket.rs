//! The signer behind a Unix socket: a process that neither the service nor its database can take over.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::io;
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use fulexo_database::chain;
use fulexo_tlog::extension::ExtensionError;
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::{Bytes, Incoming};
use hyper::header::CONTENT_TYPE;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::Semaphore;
use tokio::task::spawn_blocking;
use tokio::time::{sleep, timeout};

use super::log_signer::{LogSigner, SignerError, SigningRequest};
use super::wire::{LogState, MAX_REQUEST};
use crate::clock;

/// The most connections at a time: one of each node, and some.
const MAX_CONNECTIONS: usize = 64;
/// The time that a request may take to arrive, and an answer to leave.
const REQUEST_TIME: Duration = Duration::from_secs(10);
/// The media type of a size, as witnesses answer it.
pub const SIZE: &str = "text/x.tlog.size";
const TEXT: &str = "text/plain; charset=utf-8";

/// A signer that listens on a socket. Dropping it leaves the socket's file, which the next one replaces.
pub struct SignerSocket {
    listener: UnixListener,
    signer: Arc<LogSigner>,
}

impl SignerSocket {
    /// Listens on a socket that this user and its group may use.
    ///
    /// # Errors
    /// [`io::Error`]: for example if another process listens there.
    pub async fn listen(path: &Path, signer: Arc<LogSigner>) -> io::Result<Self> {
        match std::fs::symlink_metadata(path) {
            Ok(found) if !found.file_type().is_socket() => {
                return Err(io::Error::new(io::ErrorKind::AlreadyExists, "it exists, and is not a socket"));
            }
            Ok(_) if UnixStream::connect(path).await.is_ok() => {
                return Err(io::Error::new(io::ErrorKind::AddrInUse, "another process listens on it"));
            }
            // Left behind by a signer that ended, or not there.
            Ok(_) | Err(_) => {}
        }
        // Under another name until nobody else may use it.
        let mut new = path.as_os_str().to_owned();
        new.push(".new");
        let new = PathBuf::from(new);
        let _ = std::fs::remove_file(&new);
        let listener = UnixListener::bind(&new)?;
        std::fs::set_permissions(&new, std::fs::Permissions::from_mode(0o660))?;
        std::fs::rename(&new, path)?;
        Ok(Self { listener, signer })
    }

    /// Answers until cancelled.
    pub async fn run(self) {
        let places = Arc::new(Semaphore::new(MAX_CONNECTIONS));
        loop {
            let Ok(place) = Arc::clone(&places).acquire_owned().await else { return };
            let stream = match self.listener.accept().await {
                Ok((stream, _)) => stream,
                Err(error) => {
                    tracing::error!(error = %chain(&error), "a connection was not accepted");
                    sleep(Duration::from_millis(100)).await;
                    continue;
                }
            };
            let signer = Arc::clone(&self.signer);
            tokio::spawn(async move {
                let _place = place;
                let service = service_fn(move |request| {
                    let signer = Arc::clone(&signer);
                    async move { Ok::<_, Infallible>(answer(&signer, request).await) }
                });
                let connection = http1::Builder::new()
                    .timer(TokioTimer::new())
                    .header_read_timeout(REQUEST_TIME)
                    .keep_alive(false)
                    .serve_connection(TokioIo::new(stream), service);
                // A node that left, or was too slow.
                let _ = timeout(3 * REQUEST_TIME, connection).await;
            });
        }
    }
}

async fn answer(signer: &Arc<LogSigner>, request: Request<Incoming>) -> Response<Full<Bytes>> {
    match (request.method(), request.uri().path()) {
        (&Method::GET, "/log") => {
            let signer = Arc::clone(signer);
            match spawn_blocking(move || state(&signer)).await {
                Ok(Ok(state)) => response(StatusCode::OK, "application/json", state),
                Ok(Err(error)) => failed(&error),
                Err(_) => response(StatusCode::INTERNAL_SERVER_ERROR, TEXT, "the signer failed\n"),
            }
        }
        (&Method::POST, "/sign") => {
            let Some(body) = body(request).await else { return unreadable() };
            let Some(request) = SigningRequest::parse(&body) else {
                return unreadable();
            };
            let signer = Arc::clone(signer);
            match spawn_blocking(move || signer.sign(&request, clock::now())).await {
                Ok(Ok(lines)) => {
                    response(StatusCode::OK, TEXT, lines.iter().map(ToString::to_string).collect::<String>())
                }
                Ok(Err(error)) => failed(&error),
                Err(_) => response(StatusCode::INTERNAL_SERVER_ERROR, TEXT, "the signer failed\n"),
            }
        }
        (&Method::POST, "/witnesses") => {
            let Some(body) = body(request).await else { return unreadable() };
            let Ok(witnesses) = serde_json::from_slice::<BTreeMap<String, u64>>(&body) else { return unreadable() };
            let signer = Arc::clone(signer);
            match spawn_blocking(move || signer.remember(witnesses)).await {
                Ok(Ok(())) => response(StatusCode::NO_CONTENT, TEXT, ""),
                Ok(Err(error)) => failed(&error.into()),
                Err(_) => response(StatusCode::INTERNAL_SERVER_ERROR, TEXT, "the signer failed\n"),
            }
        }
        _ => response(StatusCode::NOT_FOUND, TEXT, "there is nothing here\n"),
    }
}

/// The body of a request; `None` if it is too long, or does not arrive in time.
async fn body(request: Request<Incoming>) -> Option<Bytes> {
    let body = Limited::new(request.into_body(), MAX_REQUEST).collect();
    Some(timeout(REQUEST_TIME, body).await.ok()?.ok()?.to_bytes())
}

fn unreadable() -> Response<Full<Bytes>> {
    response(StatusCode::BAD_REQUEST, TEXT, "this is not a request of a node\n")
}

fn state(signer: &LogSigner) -> Result<String, SignerError> {
    let keys = signer.keys().verifiers().iter().map(ToString::to_string).collect();
    let (last, witnesses) = signer.memory()?.map(|memory| (memory.last.to_string(), memory.witnesses)).unzip();
    let state = LogState { keys, last, witnesses: witnesses.unwrap_or_default() };
    serde_json::to_string(&state).map_err(|error| SignerError::Remote(error.to_string()))
}

fn failed(error: &SignerError) -> Response<Full<Bytes>> {
    let text = format!("{}\n", chain(error));
    let status = match error {
        SignerError::Extension(ExtensionError::NotLast { last }) => {
            return response(StatusCode::CONFLICT, SIZE, format!("{last}\n"));
        }
        SignerError::OtherLog => StatusCode::FORBIDDEN,
        SignerError::Extension(ExtensionError::Shrinks) => StatusCode::BAD_REQUEST,
        SignerError::Extension(ExtensionError::Inconsistent) => StatusCode::UNPROCESSABLE_ENTITY,
        SignerError::Memory(_) | SignerError::Key(_) | SignerError::Remote(_) => {
            tracing::error!(error = %chain(error), "a checkpoint was not signed");
            return response(StatusCode::INTERNAL_SERVER_ERROR, TEXT, text);
        }
    };
    tracing::error!(error = %chain(error), "a checkpoint was refused");
    response(status, TEXT, text)
}

fn response(status: StatusCode, content_type: &'static str, body: impl Into<Bytes>) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(body.into()));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, hyper::header::HeaderValue::from_static(content_type));
    response
}
