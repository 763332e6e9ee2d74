//! The connections to a store, which a thread of its own has. Each request is bounded: its time by what it carries, its answer by
//! what is asked for.

use std::sync::Arc;
use std::sync::mpsc::{SyncSender, sync_channel};
use std::thread;
use std::time::Duration;

use fulexo_database::chain;
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Bytes;
use hyper::{HeaderMap, Request, StatusCode};
use hyper_rustls::{ConfigBuilderExt, HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use rustls::ClientConfig;
use tokio::sync::mpsc::{UnboundedSender, unbounded_channel};
use tokio::time::timeout;

use super::error::S3Error;
use crate::tls::handshake::provider;

/// The time for a connection.
const CONNECT: Duration = Duration::from_secs(15);
/// The time for an answer without a body to speak of.
const ANSWER: Duration = Duration::from_secs(60);
/// The slowest transfer that is waited for, in bytes per second.
const SLOWEST: u64 = 64 << 10;

/// An answer of a store.
pub struct StoreAnswer {
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub body: Bytes,
}

struct Job {
    request: Request<Full<Bytes>>,
    most: usize,
    patience: Duration,
    answer: SyncSender<Result<StoreAnswer, S3Error>>,
}

/// The connections. The thread ends with the last copy of this.
#[derive(Clone)]
pub struct Connection {
    jobs: Arc<UnboundedSender<Job>>,
}

impl Connection {
    /// Starts the thread.
    ///
    /// # Errors
    /// A sentence for the operator.
    pub fn start() -> Result<Self, String> {
        let tls = ClientConfig::builder_with_provider(provider())
            .with_safe_default_protocol_versions()
            .map_err(|error| error.to_string())?
            .with_native_roots()
            .map_err(|error| format!("this machine has no root certificates: {error}"))?
            .with_no_client_auth();
        let mut http = HttpConnector::new();
        http.set_connect_timeout(Some(CONNECT));
        http.set_nodelay(true);
        http.enforce_http(false);
        let connector =
            HttpsConnectorBuilder::new().with_tls_config(tls).https_or_http().enable_http1().wrap_connector(http);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let runtime = runtime.map_err(|error| format!("cannot start a runtime: {error}"))?;
        let (jobs, mut waiting) = unbounded_channel::<Job>();
        let run = move || {
            runtime.block_on(async move {
                let client = Client::builder(TokioExecutor::new())
                    .pool_timer(TokioTimer::new())
                    .pool_idle_timeout(Duration::from_secs(20))
                    .http1_max_buf_size(1 << 20)
                    .build(connector);
                // As many as there are callers, each of which waits.
                while let Some(job) = waiting.recv().await {
                    tokio::spawn(answer(client.clone(), job));
                }
            });
        };
        thread::Builder::new()
            .name("store".to_owned())
            .spawn(run)
            .map_err(|error| format!("cannot start a thread: {error}"))?;
        Ok(Self { jobs: Arc::new(jobs) })
    }

    /// Sends a request, and takes at most `most` bytes of its answer.
    pub fn send(&self, request: Request<Full<Bytes>>, carried: u64, most: usize) -> Result<StoreAnswer, S3Error> {
        let patience = ANSWER + Duration::from_secs(carried.max(most as u64) / SLOWEST);
        let gone = || S3Error::NoAnswer("the thread of the store has ended".to_owned());
        let (answer, answered) = sync_channel(1);
        self.jobs.send(Job { request, most, patience, answer }).map_err(|_| gone())?;
        answered.recv().map_err(|_| gone())?
    }
}

async fn answer(client: Client<HttpsConnector<HttpConnector>, Full<Bytes>>, job: Job) {
    let Job { request, most, patience, answer } = job;
    let answered = async {
        let response = client.request(request).await.map_err(|error| S3Error::NoAnswer(chain(&error).to_string()))?;
        let (head, body) = response.into_parts();
        let body =
            Limited::new(body, most).collect().await.map_err(|error| S3Error::NoAnswer(chain(&*error).to_string()))?;
        Ok(StoreAnswer { status: head.status, headers: head.headers, body: body.to_bytes() })
    };
    let result = match timeout(patience, answered).await {
        Ok(result) => result,
        Err(_) => Err(S3Error::NoAnswer(format!("no answer within {} seconds", patience.as_secs()))),
    };
    // The caller waits for it.
    let _ = answer.send(result);
}
