//! Requests to other HTTP services: bounded in size and time, over TLS by the machine's roots or over plain HTTP.

use std::time::Duration;

use fulexo_database::chain;
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Bytes;
use hyper::{HeaderMap, Request, StatusCode};
use hyper_rustls::{ConfigBuilderExt, HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use rustls::ClientConfig;
use tokio::time::timeout;

use crate::tls::provider::provider;

/// The time that a request may take, its answer included.
const PATIENCE: Duration = Duration::from_secs(30);

/// A request got no answer, or none that is taken.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct OutboundError(pub String);

/// An answer of another service.
pub struct OutboundAnswer {
    /// The status.
    pub status: StatusCode,
    /// The headers.
    pub headers: HeaderMap,
    /// The body.
    pub body: Bytes,
}

/// A client, which keeps its connections.
#[derive(Clone)]
pub struct OutboundClient {
    client: Client<HttpsConnector<HttpConnector>, Full<Bytes>>,
}

impl OutboundClient {
    /// Creates it.
    ///
    /// # Errors
    /// [`OutboundError`] if the machine has no root certificates.
    pub fn new() -> Result<Self, OutboundError> {
        let tls = ClientConfig::builder_with_provider(provider())
            .with_safe_default_protocol_versions()
            .map_err(|error| OutboundError(error.to_string()))?
            .with_native_roots()
            .map_err(|error| OutboundError(format!("this machine has no root certificates: {error}")))?
            .with_no_client_auth();
        let connector = HttpsConnectorBuilder::new().with_tls_config(tls).https_or_http().enable_http1().build();
        Ok(Self { client: Client::builder(TokioExecutor::new()).build(connector) })
    }

    /// Sends a request, and takes at most `most` bytes of its answer.
    ///
    /// # Errors
    /// [`OutboundError`].
    pub async fn send(&self, request: Request<Full<Bytes>>, most: usize) -> Result<OutboundAnswer, OutboundError> {
        let answered = async {
            let response = self.client.request(request).await.map_err(|error| chain(&error).to_string())?;
            let (head, body) = response.into_parts();
            let body = Limited::new(body, most).collect().await.map_err(|error| chain(&*error).to_string())?;
            Ok(OutboundAnswer { status: head.status, headers: head.headers, body: body.to_bytes() })
        };
        match timeout(PATIENCE, answered).await {
            Ok(answered) => answered.map_err(OutboundError),
            Err(_) => Err(OutboundError(format!("no answer within {} seconds", PATIENCE.as_secs()))),
        }
    }
}
