//! The plain listener alongside the TLS one: sends everybody to HTTPS, and answers ACME challenges. Nothing else is
//! said in the clear, and nobody is sent to a host that is not ours.
//!
//! It stands outside the edge: no `Strict-Transport-Security`, which has no place in plain HTTP (RFC 6797, section 7.2),
//! no problem bodies, no line in the log.

use std::sync::Arc;

use poem::http::{HeaderValue, Method, StatusCode, header};
use poem::{Endpoint, Request, Response};

use super::Tls;
use crate::http::authority;

const CHALLENGES: &str = "/.well-known/acme-challenge/";

/// Redirects to the TLS listener.
pub struct Redirect {
    tls: Arc<Tls>,
    /// The port of the TLS listener.
    port: u16,
}

impl Redirect {
    /// Redirects to this node's TLS, on this port.
    #[must_use]
    pub const fn new(tls: Arc<Tls>, port: u16) -> Self {
        Self { tls, port }
    }

    /// Answers 308, which keeps method and body (RFC 9110, section 15.4.9). 421 if the host is not ours.
    fn redirect(&self, request: &Request) -> Response {
        // `OPTIONS *` and CONNECT have no path that a host could be put in front of.
        let path = request.uri().path_and_query().map_or("/", |path| path.as_str());
        let Some(authority) = authority::of(request).ok().flatten().filter(|_| path.starts_with('/')) else {
            return answer(StatusCode::BAD_REQUEST);
        };
        let host = authority.host().to_ascii_lowercase();
        if !self.is_ours(&host) {
            return answer(StatusCode::MISDIRECTED_REQUEST);
        }
        // A client that names no port came to port 80, and 443 belongs to it, even if both are forwarded to other
        // ports. A client that names one came to this listener directly, and finds the TLS listener as directly.
        let location = match authority.port_u16() {
            Some(_) if self.port != 443 => format!("https://{host}:{}{path}", self.port),
            Some(_) | None => format!("https://{host}{path}"),
        };
        let Ok(location) = HeaderValue::from_str(&location) else { return answer(StatusCode::BAD_REQUEST) };
        let mut response = answer(StatusCode::PERMANENT_REDIRECT);
        response.headers_mut().insert(header::LOCATION, location);
        response
    }

    /// `true` if the certificate is for this host; before the first certificate, if it will be for this host.
    fn is_ours(&self, host: &str) -> bool {
        let bare = host.trim_start_matches('[').trim_end_matches(']');
        self.tls.names.iter().any(|name| name == bare)
            || self.tls.current.get().is_some_and(|certificate| certificate.is_for(bare))
    }

    /// The answer to a challenge (RFC 8555, section 8.3), under any name.
    async fn challenge(&self, token: &str) -> Response {
        let Some(answers) = &self.tls.answers else { return answer(StatusCode::NOT_FOUND) };
        let Some(text) = answers.answer(token).await else { return answer(StatusCode::NOT_FOUND) };
        let mut response = answer(StatusCode::OK);
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/octet-stream"));
        response.set_body(text);
        response
    }
}

impl Endpoint for Redirect {
    type Output = Response;

    async fn call(&self, request: Request) -> poem::Result<Response> {
        Ok(match request.uri().path().strip_prefix(CHALLENGES) {
            Some(token) if request.method() == Method::GET => self.challenge(token).await,
            Some(_) | None => self.redirect(&request),
        })
    }
}

fn answer(status: StatusCode) -> Response {
    let mut response = Response::builder().status(status).finish();
    let headers = response.headers_mut();
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    response
}
