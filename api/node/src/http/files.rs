//! Files that are served as they are, alongside the application: the documentation and the account pages. It lists no
//! directory and reads no disk: every file is in the program.

use std::io::Write;
use std::sync::OnceLock;

use flate2::Compression;
use flate2::write::GzEncoder;
use hyper::body::Bytes;
use poem::http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use poem::{Body, Endpoint, IntoEndpoint, IntoResponse, Request, Response};

use super::cached::{is_known, tag_of};
use super::problem::Problem;
use super::trace;

/// A path and what is there.
pub struct File {
    /// The path that it is served at.
    pub path: &'static str,
    /// Its operation in the service's log and metrics.
    pub operation: &'static str,
    /// `Content-Type`.
    pub content_type: &'static str,
    /// The content policy of a page.
    pub policy: Option<HeaderValue>,
    /// The time for which a client may keep it.
    pub cache: Cache,
    /// Its content.
    pub bytes: Bytes,
}

/// The time for which a client may keep a file.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Cache {
    /// Not at all: a page that is given a secret leaves no trace.
    Never,
    /// For any time, if it asks again before each use.
    Revalidated,
    /// For good: its address in the page has its hash.
    Forever,
}

/// A file as it is sent: as it is, and compressed once, since anybody may ask for it however often.
struct Served {
    file: File,
    plain: OnceLock<Representation>,
    /// The compressed form; `None` if the file does not gain by it.
    gzip: OnceLock<Option<Representation>>,
}

/// Bytes and their entity tag: each coding of a file has its own (RFC 9110, section 8.8.3.3).
struct Representation {
    bytes: Bytes,
    tag: String,
}

/// The least file, in bytes, that is compressed.
const WORTH_IT: usize = 1_024;

/// The media type of a script.
pub const SCRIPT: &str = "text/javascript; charset=utf-8";
/// The media type of a style sheet.
pub const STYLE: &str = "text/css; charset=utf-8";
/// The media type of a page.
pub const PAGE: &str = "text/html; charset=utf-8";

/// Serves `files` alongside `app`: their paths are answered here, all others by `app`. A poem `Route` could do the
/// same, but would parse each request's URI again for it.
pub fn beside<A>(app: A, files: impl IntoIterator<Item = File>) -> impl Endpoint<Output = Response>
where
    A: IntoEndpoint,
    A::Endpoint: 'static,
{
    Beside { app: app.into_endpoint(), files: files.into_iter().map(Served::new).collect() }
}

struct Beside<E> {
    app: E,
    files: Box<[Served]>,
}

impl<E: Endpoint> Endpoint for Beside<E> {
    type Output = Response;

    async fn call(&self, request: Request) -> poem::Result<Response> {
        let Some(served) = self.files.iter().find(|served| served.file.path == request.uri().path()) else {
            return self.app.call(request).await.map(IntoResponse::into_response);
        };
        trace::name_operation(&request, served.file.operation);
        if ![Method::GET, Method::HEAD].contains(request.method()) {
            return Err(Problem::method_not_allowed(Some(HeaderValue::from_static("GET, HEAD"))).into());
        }
        Ok(served.answer(&request))
    }
}

impl Served {
    fn new(file: File) -> Self {
        Self { file, plain: OnceLock::new(), gzip: OnceLock::new() }
    }

    /// The compressed form, made when it is first asked for.
    fn gzip(&self) -> Option<&Representation> {
        let bytes = &self.file.bytes;
        let make = || (bytes.len() >= WORTH_IT).then(|| compressed(bytes)).flatten().map(Representation::of);
        self.gzip.get_or_init(make).as_ref()
    }

    fn answer(&self, request: &Request) -> Response {
        let gzip = if takes_gzip(request.headers()) { self.gzip() } else { None };
        let plain = || self.plain.get_or_init(|| Representation::of(self.file.bytes.clone()));
        let representation = gzip.unwrap_or_else(plain);
        let mut response = Response::default();
        let headers = response.headers_mut();
        headers.insert(header::CACHE_CONTROL, self.file.cache.header());
        if let Some(policy) = self.file.policy.clone() {
            headers.insert(header::CONTENT_SECURITY_POLICY, policy);
        }
        if self.file.bytes.len() >= WORTH_IT {
            headers.insert(header::VARY, HeaderValue::from_static("accept-encoding"));
        }
        if let Ok(tag) = HeaderValue::from_str(&representation.tag) {
            headers.insert(header::ETAG, tag);
        }
        if is_known(request, &representation.tag) {
            response.set_status(StatusCode::NOT_MODIFIED);
            return response;
        }
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(self.file.content_type));
        if gzip.is_some() {
            headers.insert(header::CONTENT_ENCODING, HeaderValue::from_static("gzip"));
        }
        response.set_body(Body::from_bytes(representation.bytes.clone()));
        response
    }
}

impl Cache {
    const fn header(self) -> HeaderValue {
        HeaderValue::from_static(match self {
            Self::Never => "no-store",
            Self::Revalidated => "no-cache",
            Self::Forever => "public, max-age=31536000, immutable",
        })
    }
}

impl Representation {
    fn of(bytes: Bytes) -> Self {
        Self { tag: tag_of(&bytes), bytes }
    }
}

/// The gzip form (RFC 1952), where it is the shorter one.
pub fn compressed(bytes: &[u8]) -> Option<Bytes> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
    encoder.write_all(bytes).ok()?;
    encoder.finish().ok().filter(|gzip| gzip.len() < bytes.len()).map(Bytes::from)
}

/// `true` if `Accept-Encoding` takes gzip (RFC 9110, section 12.5.3): by its name, or by `*` where it is not named.
pub fn takes_gzip(headers: &HeaderMap) -> bool {
    let lines = headers.get_all(header::ACCEPT_ENCODING).iter().filter_map(|line| line.to_str().ok());
    let (mut named, mut any) = (None, None);
    for coding in lines.flat_map(|line| line.split(',')) {
        let mut parts = coding.split(';').map(str::trim);
        let name = parts.next().unwrap_or_default();
        let weight = parts.find_map(|part| part.strip_prefix("q=").or_else(|| part.strip_prefix("Q=")));
        let takes = weight.is_none_or(|weight| weight.parse::<f32>().is_ok_and(|weight| weight > 0.0));
        if name.eq_ignore_ascii_case("gzip") || name.eq_ignore_ascii_case("x-gzip") {
            named = Some(takes);
        } else if name == "*" {
            any = Some(takes);
        }
    }
    named.or(any).unwrap_or(false)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gzip_is_sent_to_whoever_takes_it_alone() {
        let takes = |lines: &[&'static str]| {
            let mut headers = HeaderMap::new();
            for line in lines {
                headers.append(header::ACCEPT_ENCODING, HeaderValue::from_static(line));
            }
            takes_gzip(&headers)
        };
        for lines in [&["gzip"][..], &["deflate, gzip;q=0.5, br"], &["*"], &["br", "GZIP ; q=1"], &["*;q=0, gzip"]] {
            assert!(takes(lines), "{lines:?}");
        }
        for lines in [&[][..], &[""], &["identity"], &["gzip;q=0"], &["br, *;q=0"], &["*, gzip;q=0.0"], &["gzip;q=x"]] {
            assert!(!takes(lines), "{lines:?}");
        }
    }
}
