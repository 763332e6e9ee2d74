//! The pages of other origins that may read answers: those of the exact origins configured, none by default
//! (<https://fetch.spec.whatwg.org/#http-cors-protocol>).
//!
//! In place of `poem::middleware::Cors`, which refuses every request with an origin that is not listed, those of the
//! service's own pages too. Here such a request is answered as any other, and the browser keeps the answer from the
//! page. `cookies.rs` decides what a foreign page may do with cookies.

use std::sync::Arc;

use poem::http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use poem::{Request, Response};

/// Origins, each as a browser writes it: `https://panel.example.com`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Origins(Arc<[HeaderValue]>);

const METHODS: HeaderValue = HeaderValue::from_static("GET, POST, PUT, PATCH, DELETE");
const HEADERS: HeaderValue = HeaderValue::from_static(
    "authorization, content-type, idempotency-key, last-event-id, log-min-position, x-csrf-token",
);
const EXPOSED: HeaderValue = HeaderValue::from_static(
    "content-disposition, export-from, export-until, log-checkpoint-size, log-position, ratelimit, ratelimit-policy, request-id, retry-after, www-authenticate",
);
/// Seconds for which a browser need not ask again.
const MAX_AGE: HeaderValue = HeaderValue::from_static("600");

impl Origins {
    /// An origin as a browser writes it (RFC 6454, section 6.2): scheme and host in lower case, the port unless it is
    /// the scheme's own, nothing after it. Plain HTTP for this machine alone.
    #[must_use]
    pub fn parse(text: &str) -> Option<HeaderValue> {
        let (scheme, authority) = text.split_once("://")?;
        let uri: poem::http::Uri = text.parse().ok()?;
        let host = uri.host()?;
        let own_port = match scheme {
            "https" => 443,
            "http" if matches!(host, "localhost" | "127.0.0.1" | "[::1]") => 80,
            _ => return None,
        };
        let is_plain = uri.authority()?.as_str() == authority
            && !authority.contains('@')
            && authority == authority.to_ascii_lowercase()
            && uri.port_u16() != Some(own_port)
            && (uri.port().is_some() || !authority.ends_with(':'));
        is_plain.then(|| HeaderValue::from_str(text).ok())?
    }

    /// A list of these origins.
    #[must_use]
    pub fn new(origins: Vec<HeaderValue>) -> Self {
        Self(origins.into())
    }

    /// The origin of a request, if it is one of these.
    pub(super) fn listed(&self, request: &Request) -> Option<HeaderValue> {
        if self.0.is_empty() {
            return None;
        }
        let origin = request.headers().get(header::ORIGIN)?;
        self.0.contains(origin).then(|| origin.clone())
    }

    /// Adds what lets a page of this origin read the answer, credentials included.
    pub(super) fn write(&self, headers: &mut HeaderMap, listed: Option<HeaderValue>) {
        if self.0.is_empty() {
            return;
        }
        // Also where there is no origin: a cache must not hand one page what another was told.
        headers.append(header::VARY, HeaderValue::from_name(header::ORIGIN));
        if let Some(origin) = listed {
            headers.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, origin);
            headers.insert(header::ACCESS_CONTROL_ALLOW_CREDENTIALS, HeaderValue::from_static("true"));
            headers.insert(header::ACCESS_CONTROL_EXPOSE_HEADERS, EXPOSED);
        }
    }
}

/// The answer to a browser that asks before it sends, if that is what this is.
pub(super) fn preflight(request: &Request) -> Option<Response> {
    let asks =
        request.method() == Method::OPTIONS && request.headers().contains_key(header::ACCESS_CONTROL_REQUEST_METHOD);
    asks.then(|| {
        let mut response = Response::default();
        response.set_status(StatusCode::NO_CONTENT);
        let headers = response.headers_mut();
        headers.insert(header::ACCESS_CONTROL_ALLOW_METHODS, METHODS);
        headers.insert(header::ACCESS_CONTROL_ALLOW_HEADERS, HEADERS);
        headers.insert(header::ACCESS_CONTROL_MAX_AGE, MAX_AGE);
        response
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_origin_is_written_as_browsers_write_it() {
        for origin in ["https://panel.example.com", "https://panel.example.com:8443", "http://localhost:3000"] {
            assert_eq!(Origins::parse(origin).unwrap(), origin);
        }
        for wrong in [
            "*",
            "null",
            "",
            "panel.example.com",
            "https://",
            "https://*.example.com/",
            "https://panel.example.com/",
            "https://Panel.example.com",
            "HTTPS://panel.example.com",
            "https://panel.example.com:443",
            "https://panel.example.com:",
            "http://panel.example.com",
            "https://user@panel.example.com",
            "https://panel.example.com/path",
            "https://panel.example.com?x",
            "ftp://panel.example.com",
        ] {
            assert_eq!(Origins::parse(wrong), None, "{wrong}");
        }
    }
}
