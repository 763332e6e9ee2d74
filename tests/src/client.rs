//! A client that speaks HTTP or HTTPS over a socket, one connection per request, and remembers its tokens.

use std::sync::Arc;

use http_body_util::{BodyExt, Full};
use hyper::body::{Bytes, Incoming};
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper::client::conn::http2;
use hyper::header::{AUTHORIZATION, CONTENT_TYPE, HOST};
use hyper::http::request::Builder;
use hyper::{HeaderMap, Method, Request, Response};
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use serde_json::Value;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use uuid::Uuid;

/// A caller of the service.
#[derive(Clone, Default)]
pub struct Client {
    /// The address of the service, `http://host:port` or `https://host:port`.
    pub url: String,
    /// The TLS settings for an `https` URL, with the roots that the client trusts.
    pub tls: Option<Arc<ClientConfig>>,
    /// The access token that authenticates its requests, if any.
    pub access_token: Option<String>,
    /// The refresh token of the last login or refresh.
    pub refresh_token: String,
    /// The user's address, if the harness registered the user.
    pub email: String,
    /// The user's account, if the harness registered the user.
    pub account: Uuid,
    /// The user's session.
    pub session: Uuid,
    /// The token that identifies the user's device.
    pub device_token: String,
    /// Headers sent with each request.
    pub headers: Vec<(String, String)>,
}

/// The two manners in which a client leaves before it is answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Leave {
    /// HTTP/1.1: the client closes the connection.
    Close,
    /// HTTP/2: the client resets the stream, and the connection lives on.
    Reset,
}

/// An answer of the service.
#[derive(Debug, Clone)]
pub struct Answer {
    /// The status.
    pub status: u16,
    /// The headers.
    pub headers: HeaderMap,
    /// The body.
    pub bytes: Bytes,
    /// The body, as text.
    pub text: String,
    /// The body, as JSON; null if the body is not JSON.
    pub json: Value,
}

impl Answer {
    /// Returns a header, as text.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).and_then(|value| value.to_str().ok())
    }

    /// Returns the `code` of a problem.
    #[must_use]
    pub fn code(&self) -> &str {
        self.json.get("code").and_then(Value::as_str).unwrap_or_default()
    }

    /// Returns `Log-Position`; panics if it is missing.
    #[must_use]
    pub fn position(&self) -> u64 {
        self.header("log-position")
            .and_then(|text| text.parse().ok())
            .unwrap_or_else(|| panic!("no position: {self:?}"))
    }
}

impl Client {
    /// Returns a client that is not logged in.
    #[must_use]
    pub fn new(url: &str) -> Self {
        Self { url: url.to_owned(), ..Self::default() }
    }

    /// Takes over the tokens of a login or a refresh.
    pub fn log_in_with(&mut self, answer: &Answer) {
        let text = |name: &str| answer.json.get(name).and_then(Value::as_str).unwrap_or_default().to_owned();
        self.access_token = Some(text("access_token"));
        self.refresh_token = text("refresh_token");
        self.session = text("session_id").parse().unwrap_or_default();
        if answer.json.get("device_token").is_some() {
            self.device_token = text("device_token");
        }
    }

    /// Returns the same client, which sends one more header.
    #[must_use]
    pub fn with_header(&self, name: &str, value: &str) -> Self {
        let mut client = self.clone();
        client.headers.push((name.to_owned(), value.to_owned()));
        client
    }

    /// Returns the same client, which asks to see everything up to this position.
    #[must_use]
    pub fn seeing(&self, position: u64) -> Self {
        self.with_header("log-min-position", &position.to_string())
    }

    /// Sends a GET.
    pub async fn get(&self, path: &str) -> Answer {
        self.send(Method::GET, path, None, "").await
    }

    /// Sends a DELETE.
    pub async fn delete(&self, path: &str) -> Answer {
        self.send(Method::DELETE, path, None, "").await
    }

    /// Sends a PUT with a JSON body.
    pub async fn put(&self, path: &str, body: Value) -> Answer {
        self.send(Method::PUT, path, Some("application/json"), &body.to_string()).await
    }

    /// Sends a DELETE with a JSON body.
    pub async fn delete_with(&self, path: &str, body: Value) -> Answer {
        self.send(Method::DELETE, path, Some("application/json"), &body.to_string()).await
    }

    /// Sends a POST with a JSON body.
    pub async fn post(&self, path: &str, body: Value) -> Answer {
        self.send(Method::POST, path, Some("application/json"), &body.to_string()).await
    }

    /// Sends a POST without a body.
    pub async fn post_nothing(&self, path: &str) -> Answer {
        self.send(Method::POST, path, None, "").await
    }

    /// Sends any request.
    pub async fn send(&self, method: Method, path: &str, content_type: Option<&str>, body: &str) -> Answer {
        self.try_send(method, path, content_type, body).await.unwrap_or_else(|error| panic!("{path}: {error}"))
    }

    /// Sends any request, to a service that may be gone.
    ///
    /// # Errors
    ///
    /// If there was no answer.
    pub async fn try_send(
        &self,
        method: Method,
        path: &str,
        content_type: Option<&str>,
        body: &str,
    ) -> Result<Answer, String> {
        read(self.open(method, path, content_type, body).await?).await
    }

    /// Sends any request, and returns once there is the head of an answer, whose body is still to be read.
    ///
    /// # Errors
    ///
    /// If there was no answer.
    pub async fn open(
        &self,
        method: Method,
        path: &str,
        content_type: Option<&str>,
        body: &str,
    ) -> Result<Response<Incoming>, String> {
        let (_, authority) = self.url.split_once("://").unwrap_or(("", &self.url));
        let text = |error: &dyn std::error::Error| error.to_string();
        let stream = TcpStream::connect(authority).await.map_err(|error| text(&error))?;
        let mut sender = if let Some(config) = &self.tls {
            let (host, _) = authority.rsplit_once(':').unwrap_or((authority, ""));
            let host = ServerName::try_from(host.to_owned()).map_err(|error| text(&error))?;
            let secured = TlsConnector::from(Arc::clone(config)).connect(host, stream);
            speak(secured.await.map_err(|error| text(&error))?).await?
        } else {
            speak(stream).await?
        };
        let request = self.request(method, path, content_type).header(HOST, authority);
        let request = request.body(Full::new(Bytes::from(body.to_owned()))).map_err(|error| text(&error))?;
        sender.send_request(request).await.map_err(|error| text(&error))
    }

    /// Sends any request over plain HTTP, and leaves when `then` is done. Returns the answer, if it came before that.
    pub async fn send_and_leave(
        &self,
        how: Leave,
        then: impl Future<Output = ()>,
        (method, path, content_type, body): (Method, &str, Option<&str>, &str),
    ) -> Option<Answer> {
        let (_, authority) = self.url.split_once("://").unwrap_or(("", &self.url));
        let io = TokioIo::new(TcpStream::connect(authority).await.ok()?);
        let whole = Full::new(Bytes::from(body.to_owned()));
        let request = self.request(method, path, content_type);
        match how {
            Leave::Close => {
                let (mut sender, connection) = handshake(io).await.ok()?;
                // The task drops the connection with its socket, in any state it has by then.
                let connection = tokio::spawn(connection);
                let answered = async {
                    read(sender.send_request(request.header(HOST, authority).body(whole).ok()?).await.ok()?).await.ok()
                };
                let answer = unless(then, answered).await;
                connection.abort();
                answer
            }
            Leave::Reset => {
                let (mut sender, connection) = http2::handshake(TokioExecutor::new(), io).await.ok()?;
                tokio::spawn(connection);
                let request = request.uri(format!("http://{authority}{path}")).body(whole).ok()?;
                let answered = async { read(sender.send_request(request).await.ok()?).await.ok() };
                unless(then, answered).await
            }
        }
    }

    pub(crate) fn request(&self, method: Method, path: &str, content_type: Option<&str>) -> Builder {
        let mut request = Request::builder().method(method).uri(path);
        if let Some(token) = &self.access_token {
            request = request.header(AUTHORIZATION, format!("Bearer {token}"));
        }
        if let Some(content_type) = content_type {
            request = request.header(CONTENT_TYPE, content_type);
        }
        for (name, value) in &self.headers {
            request = request.header(name, value);
        }
        request
    }
}

async fn unless<T>(then: impl Future<Output = ()>, answered: impl Future<Output = Option<T>>) -> Option<T> {
    tokio::select! {
        answer = answered => answer,
        () = then => None,
    }
}

pub(crate) async fn read(response: Response<Incoming>) -> Result<Answer, String> {
    let (parts, mut body) = response.into_parts();
    let is_endless = parts.headers.get(CONTENT_TYPE).is_some_and(|it| it == "text/event-stream");
    let bytes = if is_endless {
        // Its beginning is enough here; `EventSource` reads on.
        let first = body.frame().await.transpose().map_err(|error| error.to_string())?;
        first.and_then(|frame| frame.into_data().ok()).unwrap_or_default()
    } else {
        body.collect().await.map_err(|error| error.to_string())?.to_bytes()
    };
    let text = String::from_utf8_lossy(&bytes).into_owned();
    let json = serde_json::from_str(&text).unwrap_or(Value::Null);
    Ok(Answer { status: parts.status.as_u16(), headers: parts.headers, bytes, text, json })
}

async fn speak<S>(stream: S) -> Result<SendRequest<Full<Bytes>>, String>
where
    S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let (sender, connection) = handshake(TokioIo::new(stream)).await.map_err(|error| error.to_string())?;
    tokio::spawn(connection);
    Ok(sender)
}
