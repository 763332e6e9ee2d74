//! Files that are served as they are, beside the application: the documentation and the account pages. It lists no
//! directory and reads no disk: every file is in the program.

use hyper::body::Bytes;
use poem::http::{HeaderName, HeaderValue, Method, header};
use poem::{Body, Endpoint, IntoEndpoint, IntoResponse, Request, Response};

use super::problem::Problem;
use super::trace;

/// A path and what is there.
pub struct File {
    pub(super) path: &'static str,
    pub(super) operation: &'static str,
    pub(super) content_type: &'static str,
    /// The one header in which the files differ.
    pub(super) header: Option<(HeaderName, HeaderValue)>,
    pub(super) bytes: Bytes,
}

pub(super) const SCRIPT: &str = "text/javascript; charset=utf-8";
pub(super) const STYLE: &str = "text/css; charset=utf-8";
pub(super) const PAGE: &str = "text/html; charset=utf-8";

/// Puts `files` beside `app`: their paths are answered here, all others by `app`. A poem `Route` could do the same, but
/// would parse each request's URI anew for it.
pub fn beside<A>(app: A, files: impl IntoIterator<Item = File>) -> impl Endpoint<Output = Response>
where
    A: IntoEndpoint,
    A::Endpoint: 'static,
{
    Beside { app: app.into_endpoint(), files: files.into_iter().collect() }
}

struct Beside<E> {
    app: E,
    files: Box<[File]>,
}

impl<E: Endpoint> Endpoint for Beside<E> {
    type Output = Response;

    async fn call(&self, request: Request) -> poem::Result<Response> {
        let Some(file) = self.files.iter().find(|file| file.path == request.uri().path()) else {
            return self.app.call(request).await.map(IntoResponse::into_response);
        };
        trace::name_operation(&request, file.operation);
        if ![Method::GET, Method::HEAD].contains(request.method()) {
            return Err(Problem::method_not_allowed(Some(HeaderValue::from_static("GET, HEAD"))).into());
        }
        Ok(file.response())
    }
}

impl File {
    fn response(&self) -> Response {
        let mut response = Response::default();
        response.set_body(Body::from_bytes(self.bytes.clone()));
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(self.content_type));
        if let Some((name, value)) = self.header.clone() {
            headers.insert(name, value);
        }
        response
    }
}
