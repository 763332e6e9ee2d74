//! The HTTP service of a witness (C2SP tlog-witness).
//!
//! | request | answer |
//! |---|---|
//! | `POST /add-checkpoint` | 200 and cosignatures; 400, 403, 404, 409, 422 as the specification says; 500 if the state cannot be kept |
//! | `GET /HASH/checkpoint` | 200 and the checkpoint that was cosigned last of the log whose origin has this hash; 404 |

use std::sync::Arc;
use std::time::Duration;

use fulexo_database::chain;
use fulexo_tlog::extension::ExtensionError;
use fulexo_tlog::submission::MAX_SUBMISSION;
use hyper::header::{ALLOW, CACHE_CONTROL, CONTENT_TYPE};
use poem::http::{HeaderValue, Method, StatusCode};
use poem::{Endpoint, Request, Response};
use tokio::sync::Semaphore;
use tokio::task::spawn_blocking;
use tokio::time::timeout;

use super::cosigner::{Refusal, Witness};
use crate::clock;
use crate::signer::SIZE;

/// The time that a submission may take to arrive.
const REQUEST_TIME: Duration = Duration::from_secs(10);
/// The submissions that are read and judged at a time, and those that wait for one of these places.
const JUDGED: usize = 16;
const WAITING: usize = 256;
const TEXT: &str = "text/plain; charset=utf-8";

/// The endpoint of a witness.
pub struct WitnessService {
    witness: Arc<Witness>,
    admitted: Arc<Semaphore>,
    judged: Arc<Semaphore>,
}

impl WitnessService {
    /// Creates it.
    #[must_use]
    pub fn new(witness: Arc<Witness>) -> Self {
        Self { witness, admitted: Arc::new(Semaphore::new(JUDGED + WAITING)), judged: Arc::new(Semaphore::new(JUDGED)) }
    }

    async fn add_checkpoint(&self, request: &mut Request) -> Response {
        let Ok(admitted) = Arc::clone(&self.admitted).try_acquire_owned() else {
            return response(StatusCode::SERVICE_UNAVAILABLE, TEXT, "the witness is busy: try again\n");
        };
        let body = request.take_body().into_bytes_limit(MAX_SUBMISSION);
        let body = match timeout(REQUEST_TIME, body).await {
            Ok(Ok(body)) => body,
            Ok(Err(_)) => return response(StatusCode::BAD_REQUEST, TEXT, "the body is too long, or did not arrive\n"),
            Err(_) => return response(StatusCode::REQUEST_TIMEOUT, TEXT, "the body did not arrive in time\n"),
        };
        let Ok(judged) = Arc::clone(&self.judged).acquire_owned().await else {
            return response(StatusCode::SERVICE_UNAVAILABLE, TEXT, "the witness is stopping\n");
        };
        let witness = Arc::clone(&self.witness);
        // Goes on although the client may leave, and keeps its places until it ends.
        let judgement = spawn_blocking(move || {
            let _places = (admitted, judged);
            witness.cosign(&body, clock::now())
        });
        match judgement.await {
            Ok(Ok(lines)) => response(StatusCode::OK, TEXT, lines.iter().map(ToString::to_string).collect::<String>()),
            Ok(Err(refusal)) => refused(&refusal),
            Err(_) => response(StatusCode::INTERNAL_SERVER_ERROR, TEXT, "the witness failed\n"),
        }
    }

    fn last(&self, path: &str) -> Response {
        let hash = path.strip_prefix('/').and_then(|path| path.strip_suffix("/checkpoint"));
        match hash.and_then(|hash| self.witness.last(hash)) {
            Some(note) => {
                let mut found = response(StatusCode::OK, TEXT, &*note);
                found.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("public, max-age=10"));
                found
            }
            None => response(StatusCode::NOT_FOUND, TEXT, "nothing was cosigned here\n"),
        }
    }
}

impl Endpoint for WitnessService {
    type Output = Response;

    async fn call(&self, mut request: Request) -> poem::Result<Response> {
        let path = request.uri().path().to_owned();
        Ok(match (path.as_str(), request.method()) {
            ("/add-checkpoint", &Method::POST) => self.add_checkpoint(&mut request).await,
            ("/add-checkpoint", _) => {
                let mut response = response(StatusCode::METHOD_NOT_ALLOWED, TEXT, "submit with POST\n");
                response.headers_mut().insert(ALLOW, HeaderValue::from_static("POST"));
                response
            }
            (path, &Method::GET | &Method::HEAD) => self.last(path),
            _ => response(StatusCode::NOT_FOUND, TEXT, "there is nothing here\n"),
        })
    }
}

fn refused(refusal: &Refusal) -> Response {
    let status = match refusal {
        Refusal::Malformed | Refusal::Extension(ExtensionError::Shrinks) => StatusCode::BAD_REQUEST,
        Refusal::UnknownLog => StatusCode::NOT_FOUND,
        Refusal::Signature(_) => StatusCode::FORBIDDEN,
        Refusal::Extension(ExtensionError::NotLast { last }) => {
            return response(StatusCode::CONFLICT, SIZE, format!("{last}\n"));
        }
        Refusal::Extension(ExtensionError::Inconsistent) => StatusCode::UNPROCESSABLE_ENTITY,
        Refusal::State(_) | Refusal::Key(_) => {
            tracing::error!(error = %chain(refusal), "a checkpoint was not cosigned");
            return response(StatusCode::INTERNAL_SERVER_ERROR, TEXT, "the witness cannot keep its state\n");
        }
    };
    response(status, TEXT, format!("{refusal}\n"))
}

fn response(status: StatusCode, content_type: &'static str, body: impl Into<String>) -> Response {
    Response::builder().status(status).header(CONTENT_TYPE, content_type).body(body.into())
}
