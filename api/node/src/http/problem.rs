//! The format of every refusal: RFC 9457 `application/problem+json`.
//!
//! It names refusals and serialises them. It does not decide on them, and it does not know the request: the edge (`mod.rs`)
//! adds `instance` and the security headers.

mod code;
pub(super) mod conversion;
mod kind;
mod openapi;

use std::borrow::Cow;
use std::error::Error as StdError;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use fulexo_database::chain;
use fulexo_domain::permission::Permission;
use poem::Response;
use poem::error::ResponseError;
use poem::http::uri::Authority;
use poem::http::{HeaderName, HeaderValue, StatusCode, header};
use poem_openapi::Object;
use serde::Serialize;

pub use self::code::{Code, PAGE, ProblemCodes};
use self::kind::Kind;
use super::headers::LOG_POSITION;
use super::request_id::RequestId;
use super::standing::Standing;

/// The media type of a problem (RFC 9457 section 3).
pub const CONTENT_TYPE: &str = "application/problem+json";

/// A refusal, ready to be returned from a handler as the `Err` of its result.
///
/// The client receives the status, a stable code, a title, a detail and, for bad input, one entry per fault. The cause of an
/// internal problem goes to the log and never to the client.
#[derive(Clone, PartialEq)]
pub struct Problem(Box<Parts>); // Boxed, so that `Result<_, Problem>` stays small.

#[derive(Clone, PartialEq)]
struct Parts {
    kind: Kind,
    code: Code,
    detail: Cow<'static, str>,
    errors: Vec<FieldError>,
    retry_after: Option<Duration>,
    challenge: Option<&'static str>,
    /// The header of the status: `Allow`, `Accept` or `Accept-Encoding`.
    header: Option<(HeaderName, HeaderValue)>,
    standing: Option<Standing>,
    position: Option<u64>,
    /// The permission that the caller lacks.
    permission: Option<Permission>,
    /// The exhausted quota.
    quota: Option<&'static str>,
    cause: Option<String>,
}

/// The base of the URLs in responses: the public URL of the configuration, or the host of the request.
#[derive(Clone, Default)]
pub struct Base {
    /// The public URL, without a trailing slash.
    pub public: Option<Arc<str>>,
    /// The scheme: `http` or `https`.
    pub scheme: &'static str,
    /// The host and port of the request.
    pub host: Option<Authority>,
}

impl Base {
    /// Returns the URL of the page that explains a code. It is relative if no host is known.
    fn problem(&self, code: Code) -> String {
        let name = code.name;
        match (&self.public, &self.host) {
            (Some(public), _) => format!("{public}{PAGE}#{name}"),
            (None, Some(host)) => format!("{}://{host}{PAGE}#{name}", self.scheme),
            (None, None) => format!("{PAGE}#{name}"),
        }
    }
}

/// A fault of the input.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Object)]
#[oai(rename = "ProblemFieldError")]
pub struct FieldError {
    /// The JSON Pointer (RFC 6901) to the member. `/name` for a parameter, empty for the whole body.
    pub pointer: String,
    /// The requirement that the value does not meet. It never repeats the value.
    pub detail: String,
}

impl FieldError {
    /// Creates a fault of the member at `pointer`, a JSON Pointer such as `/password`.
    pub fn new(pointer: impl Into<String>, detail: impl Into<String>) -> Self {
        Self { pointer: pointer.into(), detail: detail.into() }
    }
}

impl Problem {
    /// 400: the input is not valid, with one entry per fault.
    pub fn invalid_input(errors: Vec<FieldError>) -> Self {
        let mut problem = Self::of(Kind::InvalidInput);
        problem.0.errors = errors;
        problem
    }

    /// 400: the request does not name exactly one valid host (RFC 9112, section 3.2).
    pub fn invalid_host() -> Self {
        Self::of(Kind::InvalidInput).with_code(Code::INVALID_HOST).with_detail(
            "The request does not name exactly one valid host. Send one Host header, or :authority in HTTP/2.",
        )
    }

    /// 401: the response to every refused login, regardless of the reason.
    pub fn invalid_credentials() -> Self {
        Self::of(Kind::InvalidCredentials).with_challenge("Bearer")
    }

    /// 401: the call needs credentials and has none. The challenge has no error code then (RFC 6750, section 3).
    pub fn unauthenticated() -> Self {
        Self::of(Kind::Unauthenticated).with_challenge("Bearer")
    }

    /// 401: the bearer token is malformed, expired, revoked or from another issuer (RFC 6750, section 3.1).
    pub fn invalid_token() -> Self {
        Self::of(Kind::InvalidToken).with_challenge("Bearer error=\"invalid_token\"")
    }

    /// 401: the credentials in HTTP Basic are not an active API key (RFC 6749, section 5.2; RFC 7617, section 2).
    pub fn invalid_client() -> Self {
        Self::of(Kind::InvalidToken)
            .with_code(Code::INVALID_CLIENT)
            .with_detail(
                "The API key in HTTP Basic is not valid. Send its id as the user name and its secret as the password.",
            )
            .with_challenge("Basic realm=\"fulexo\", charset=\"UTF-8\"")
    }

    /// 403: the call needs an elevated session.
    pub fn step_up_required() -> Self {
        Self::of(Kind::StepUpRequired)
    }

    /// 403: the caller is authenticated and not authorised.
    pub fn permission_denied() -> Self {
        Self::of(Kind::PermissionDenied)
    }

    /// 403: the caller is authenticated and lacks this permission.
    pub fn lacks(permission: Permission) -> Self {
        let mut problem = Self::of(Kind::PermissionDenied)
            .with_detail(format!("You need the permission `{}` for this call.", permission.as_str()));
        problem.0.permission = Some(permission);
        problem
    }

    /// 403: a call by cookie has no valid CSRF token, or comes from a page of another origin.
    pub fn csrf_rejected() -> Self {
        Self::of(Kind::PermissionDenied).with_code(Code::CSRF_REJECTED).with_detail(
            "A call by cookie needs a valid X-CSRF-Token and must not come from a page of another origin. Send the \
                 csrf_token of the login.",
        )
    }

    /// 404: the resource does not exist, or the caller may not know of it.
    pub fn not_found() -> Self {
        Self::of(Kind::NotFound)
    }

    /// 405: the path does not support the method. `allow` lists the methods that it supports (RFC 9110, section 15.5.6).
    pub fn method_not_allowed(allow: Option<HeaderValue>) -> Self {
        let mut problem = Self::of(Kind::MethodNotAllowed);
        problem.0.header = allow.map(|allow| (header::ALLOW, allow));
        problem
    }

    /// 406: no representation fits the `Accept` header.
    pub fn not_acceptable() -> Self {
        Self::of(Kind::NotAcceptable)
    }

    /// 408: the body did not arrive in time.
    pub fn slow_request() -> Self {
        Self::of(Kind::SlowRequest)
    }

    /// 409: the current state does not allow the change.
    pub fn conflict(detail: impl Into<Cow<'static, str>>) -> Self {
        Self::of(Kind::Conflict).with_detail(detail)
    }

    /// 413: the body has more than `limit` bytes.
    pub fn body_too_large(limit: usize) -> Self {
        Self::of(Kind::BodyTooLarge)
            .with_detail(format!("The body has more than {limit} bytes, the limit. Send a smaller body."))
    }

    /// 415: the operation accepts only the `Content-Type` in `readable` (RFC 9110, section 15.5.16).
    pub fn unsupported_media_type(readable: &'static str) -> Self {
        let mut problem = Self::of(Kind::UnsupportedMediaType)
            .with_detail(format!("The operation does not accept this Content-Type. Send Content-Type: {readable}."));
        problem.0.header = Some((header::ACCEPT, HeaderValue::from_static(readable)));
        problem
    }

    /// 415: the body has a content coding. The service accepts none (RFC 9110, section 15.5.16).
    pub fn unsupported_encoding() -> Self {
        let mut problem = Self::of(Kind::UnsupportedMediaType)
            .with_code(Code::UNSUPPORTED_ENCODING)
            .with_detail("The service does not accept a Content-Encoding. Send the body without one.");
        problem.0.header = Some((header::ACCEPT_ENCODING, HeaderValue::from_static("identity")));
        problem
    }

    /// 429: too many requests. `retry_after` is rounded up to whole seconds, at least one.
    pub fn rate_limited(retry_after: Duration) -> Self {
        Self::of(Kind::RateLimited).with_retry_after(retry_after)
    }

    /// Adds the exhausted quota, as configuration and headers name it.
    #[must_use]
    pub fn with_quota(mut self, quota: &'static str) -> Self {
        self.0.quota = Some(quota);
        self
    }

    /// 500: the service failed. `cause` and its sources are logged once, in the request's span.
    pub fn internal(cause: impl Into<Box<dyn StdError + Send + Sync>>) -> Self {
        let cause = cause.into();
        let mut problem = Self::of(Kind::Internal);
        problem.0.cause = Some(chain(cause.as_ref()).to_string());
        problem
    }

    /// 500: a handler panicked. `panic.rs` has logged the text.
    pub(super) fn panicked() -> Self {
        Self::of(Kind::Internal)
    }

    /// 501: the service does not support the method (RFC 9110, section 9.1).
    pub fn unknown_method() -> Self {
        Self::of(Kind::NotImplemented)
    }

    /// 501: the service does not support the transfer coding of the body (RFC 9112, section 6.1).
    pub fn unknown_transfer_coding() -> Self {
        Self::of(Kind::NotImplemented).with_detail(
            "The service does not support this Transfer-Encoding. Send the body whole, or with Transfer-Encoding: chunked.",
        )
    }

    /// 503: a queue is full, and the service did nothing.
    pub fn overloaded(retry_after: Duration) -> Self {
        Self::of(Kind::Overloaded).with_retry_after(retry_after)
    }

    /// 503: a lockdown is in force, and the caller does not respond to it.
    pub fn locked_down() -> Self {
        Self::of(Kind::LockedDown).with_retry_after(Duration::from_secs(60))
    }

    /// 503: a dependency is down.
    pub fn unavailable(retry_after: Duration) -> Self {
        Self::of(Kind::Unavailable).with_retry_after(retry_after)
    }

    /// 503: the response was not ready in time. The call may have taken effect.
    pub fn timeout() -> Self {
        Self::of(Kind::Timeout).with_retry_after(Duration::from_secs(1))
    }

    /// Returns the problem for a bare status. An unknown status gets the problem of its class.
    pub fn from_status(status: StatusCode) -> Self {
        match status {
            StatusCode::UNAUTHORIZED => Self::unauthenticated(),
            StatusCode::FORBIDDEN => Self::permission_denied(),
            StatusCode::NOT_FOUND => Self::not_found(),
            StatusCode::METHOD_NOT_ALLOWED => Self::method_not_allowed(None),
            StatusCode::NOT_ACCEPTABLE => Self::not_acceptable(),
            StatusCode::REQUEST_TIMEOUT => Self::slow_request(),
            StatusCode::CONFLICT => Self::of(Kind::Conflict),
            StatusCode::PAYLOAD_TOO_LARGE => Self::of(Kind::BodyTooLarge),
            StatusCode::UNSUPPORTED_MEDIA_TYPE => Self::of(Kind::UnsupportedMediaType),
            StatusCode::TOO_MANY_REQUESTS => Self::rate_limited(Duration::from_secs(1)),
            StatusCode::NOT_IMPLEMENTED => Self::unknown_method(),
            StatusCode::SERVICE_UNAVAILABLE => Self::unavailable(Duration::from_secs(1)),
            status if status.is_client_error() => Self::invalid_input(Vec::new()),
            _ => Self::of(Kind::Internal),
        }
    }

    /// Replaces the code by a more specific one, such as `last_admin` for a conflict. Codes are part of the contract.
    #[must_use]
    pub fn with_code(mut self, code: Code) -> Self {
        debug_assert_eq!(code.status, self.0.kind.status().as_u16(), "{}", code.name);
        self.0.code = code;
        self
    }

    /// Replaces the detail. It says what is wrong, then what to do, and nothing that the caller may not know.
    #[must_use]
    pub fn with_detail(mut self, detail: impl Into<Cow<'static, str>>) -> Self {
        self.0.detail = detail.into();
        self
    }

    /// The stable code.
    pub fn code(&self) -> &'static str {
        self.0.code.name
    }

    /// The meaning of the code, as a sentence.
    pub fn meaning(&self) -> &'static str {
        self.0.code.meaning
    }

    /// The faults of the input, in the order of its members.
    pub fn errors(&self) -> &[FieldError] {
        &self.0.errors
    }

    fn of(kind: Kind) -> Self {
        Self(Box::new(Parts {
            kind,
            code: kind.code(),
            detail: Cow::Borrowed(kind.detail()),
            errors: Vec::new(),
            retry_after: None,
            challenge: None,
            header: None,
            standing: None,
            position: None,
            permission: None,
            quota: None,
            cause: None,
        }))
    }

    /// Adds the state of the quota, unless a quota has already refused the request.
    #[must_use]
    pub fn with_standing(mut self, standing: Standing) -> Self {
        self.0.standing.get_or_insert(standing);
        self
    }

    /// Adds the position of a change that is recorded although the call is refused.
    #[must_use]
    pub fn with_position(mut self, position: u64) -> Self {
        self.0.position = Some(position);
        self
    }

    fn with_retry_after(mut self, after: Duration) -> Self {
        self.0.retry_after = Some(after);
        self
    }

    fn with_challenge(mut self, challenge: &'static str) -> Self {
        self.0.challenge = Some(challenge);
        self
    }

    /// Creates the response, and logs the cause of an internal problem.
    pub(super) fn respond(&self, id: Option<RequestId>, base: &Base) -> Response {
        let mut response = Response::default();
        self.write_into(&mut response, id, base);
        response
    }

    fn write_into(&self, response: &mut Response, id: Option<RequestId>, base: &Base) {
        let parts = &self.0;
        if let Some(cause) = &parts.cause {
            tracing::error!(error = %cause, "internal problem");
        }
        let document = Document {
            r#type: base.problem(parts.code),
            title: parts.kind.title(),
            status: parts.kind.status().as_u16(),
            detail: &parts.detail,
            code: parts.code.name,
            instance: id.map(RequestId::urn),
            permission: parts.permission.map(Permission::as_str),
            quota: parts.quota,
            errors: &parts.errors,
        };
        response.set_status(parts.kind.status());
        // Strings and integers only: serialisation cannot fail.
        response.set_body(serde_json::to_vec(&document).unwrap_or_default());
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(CONTENT_TYPE));
        if let Some(after) = parts.retry_after {
            headers.insert(header::RETRY_AFTER, HeaderValue::from(whole_seconds(after)));
        }
        if let Some(challenge) = parts.challenge {
            headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static(challenge));
        }
        if let Some((name, value)) = &parts.header {
            headers.insert(name, value.clone());
        }
        if let Some(standing) = &parts.standing {
            standing.write(headers);
        }
        if let Some(position) = parts.position {
            headers.insert(LOG_POSITION, HeaderValue::from(position));
        }
    }
}

fn whole_seconds(after: Duration) -> u64 {
    let up = u64::from(after.subsec_nanos() > 0);
    after.as_secs().saturating_add(up).max(1)
}

// The blanket impl in poem turns this into `From<Problem> for poem::Error`.
impl ResponseError for Problem {
    fn status(&self) -> StatusCode {
        self.0.kind.status()
    }

    /// Creates the response outside of the edge, without `instance`.
    fn as_response(&self) -> Response {
        self.respond(None, &Base::default())
    }
}

impl StdError for Problem {}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.0.code.name, self.0.detail)
    }
}

impl fmt::Debug for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Problem")
            .field("code", &self.0.code.name)
            .field("detail", &self.0.detail)
            .field("errors", &self.0.errors)
            .field("cause", &self.0.cause)
            .finish_non_exhaustive()
    }
}

/// The body of the response. `DocumentSchema` in `openapi.rs` is the same document for OpenAPI, which needs owned fields.
#[derive(Serialize)]
struct Document<'a> {
    r#type: String,
    title: &'static str,
    status: u16,
    detail: &'a str,
    code: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    instance: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    permission: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    quota: Option<&'static str>,
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    errors: &'a [FieldError],
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn json(response: Response) -> serde_json::Value {
        response.into_body().into_json().await.unwrap()
    }

    #[tokio::test]
    async fn a_problem_is_written_as_rfc_9457_with_the_request_id() {
        let id = RequestId::draw();
        let problem = Problem::invalid_input(vec![FieldError::new("/password", "is too short")]);
        let response = problem.respond(Some(id), &Base::default());
        assert_eq!(response.status(), 400);
        assert_eq!(response.content_type(), Some(CONTENT_TYPE));
        assert_eq!(
            json(response).await,
            serde_json::json!({
                "type": "/problems#invalid_input",
                "title": "Invalid input",
                "status": 400,
                "detail": "The input is not valid. See `errors` for each fault.",
                "code": "invalid_input",
                "instance": format!("urn:uuid:{}", id.0),
                "errors": [{"pointer": "/password", "detail": "is too short"}],
            })
        );
    }

    #[tokio::test]
    async fn the_cause_of_an_internal_problem_is_not_sent() {
        let text = Problem::internal("connection to db-prod refused").respond(None, &Base::default());
        let text = text.into_body().into_string().await.unwrap();
        assert!(!text.contains("db-prod"), "{text}");
    }

    #[test]
    fn a_narrower_code_changes_the_type_with_it() {
        let problem = Problem::conflict("The last admin stays.").with_code(Code::LAST_ADMIN);
        assert_eq!(problem.code(), "last_admin");
        assert_eq!(problem.to_string(), "last_admin: The last admin stays.");
    }

    #[test]
    fn retry_after_is_rounded_up_and_never_zero() {
        let seconds = |millis| whole_seconds(Duration::from_millis(millis));
        assert_eq!([seconds(0), seconds(1), seconds(1000), seconds(1001)], [1, 1, 1, 2]);
    }

    #[test]
    fn an_unauthenticated_answer_carries_a_challenge_and_a_limit_its_wait() {
        let header =
            |problem: Problem, name: &str| problem.respond(None, &Base::default()).header(name).map(str::to_owned);
        assert_eq!(header(Problem::unauthenticated(), "www-authenticate").as_deref(), Some("Bearer"));
        assert_eq!(
            header(Problem::invalid_token(), "www-authenticate").as_deref(),
            Some("Bearer error=\"invalid_token\"")
        );
        assert_eq!(header(Problem::overloaded(Duration::from_secs(7)), "retry-after").as_deref(), Some("7"));
    }
}
