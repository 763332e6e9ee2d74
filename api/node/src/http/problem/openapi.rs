//! The problems of the OpenAPI document: the same list for every operation.

use poem_openapi::registry::{MetaHeader, MetaMediaType, MetaResponse, MetaResponses, Registry};
use poem_openapi::types::Type;
use poem_openapi::{ApiResponse, Object};

use super::{CONTENT_TYPE, FieldError, Problem, ProblemCodes};
use crate::vocabulary::Word;

impl ApiResponse for Problem {
    fn meta() -> MetaResponses {
        MetaResponses { responses: DOCUMENTED.iter().map(|(status, text)| documented(*status, text)).collect() }
    }

    fn register(registry: &mut Registry) {
        DocumentSchema::register(registry);
    }
}

/// The problems that any operation can answer. 405 and 501 are not among them: an operation allows its method.
const DOCUMENTED: [(u16, &str); 12] = [
    (
        400,
        "`invalid_input`: the request is malformed; `errors` has one entry per fault. `invalid_host`: the request does not \
         name exactly one host.",
    ),
    (
        401,
        "`unauthenticated`: the request has no credentials. `invalid_token`: the token is not valid. `invalid_credentials`: \
         the login is refused. `invalid_client`: the API key in HTTP Basic is not valid.",
    ),
    (
        403,
        "`permission_denied`: you lack the permission in `permission`. `step_up_required`: the call needs an elevated \
         session. `csrf_rejected`: a call by cookie has no valid `X-CSRF-Token`.",
    ),
    (404, "`not_found`: the path or the resource does not exist."),
    (406, "`not_acceptable`: the `Accept` header excludes every representation."),
    (408, "`slow_request`: the body did not arrive in time."),
    (409, "`conflict`, or a more specific code: the current state does not allow the change."),
    (413, "`body_too_large`: the body exceeds the size limit."),
    (
        415,
        "`unsupported_media_type`: the operation does not accept this `Content-Type`; `detail` has the accepted one. \
         `unsupported_encoding`: the body has a `Content-Encoding`.",
    ),
    (
        429,
        "`rate_limited`: the quota in `quota` is exhausted. `too_many_streams`: you have as many streams as one may have.",
    ),
    (500, "`internal`: the service failed. Give `instance` to the operator."),
    (
        503,
        "`overloaded`: the service is too busy. `unavailable`: a dependency is down. `timeout`: the response was not ready in \
         time. `locked_down`: a lockdown is in force.",
    ),
];

fn documented(status: u16, description: &'static str) -> MetaResponse {
    let headers = match status {
        401 => vec![documented_header::<String>("WWW-Authenticate", "The authentication scheme (RFC 6750).")],
        429 | 503 => {
            vec![documented_header::<u64>("Retry-After", "The time to wait before the next attempt, in seconds.")]
        }
        _ => Vec::new(),
    };
    MetaResponse {
        description,
        status: Some(status),
        status_range: None,
        content: vec![MetaMediaType { content_type: CONTENT_TYPE, schema: DocumentSchema::schema_ref() }],
        headers,
    }
}

fn documented_header<T: Type>(name: &str, description: &str) -> MetaHeader {
    MetaHeader {
        name: name.to_owned(),
        description: Some(description.to_owned()),
        required: true,
        deprecated: false,
        schema: T::schema_ref(),
    }
}

/// A problem (RFC 9457).
#[derive(Object)]
#[oai(rename = "Problem")]
struct DocumentSchema {
    /// The URL of the page that explains the code.
    #[oai(rename = "type")]
    kind: String,
    /// The title, the same for every problem of one kind.
    title: String,
    /// The HTTP status.
    status: u16,
    /// The explanation of this problem, for people.
    detail: String,
    /// The stable code of the problem, for programs.
    code: Word<ProblemCodes>,
    /// The request id, as `urn:uuid:<id>`.
    instance: Option<String>,
    /// The permission that you lack. Present for `permission_denied`.
    permission: Option<String>,
    /// The exhausted quota, as `RateLimit-Policy` names it. Present for `rate_limited`.
    quota: Option<String>,
    /// The faults of the input, one entry per fault. Present for `invalid_input`.
    errors: Option<Vec<FieldError>>,
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use fulexo_domain::permission::Permission;
    use poem::error::ResponseError;

    use super::*;

    #[test]
    fn every_status_a_constructor_can_answer_is_documented() {
        let documented: Vec<u16> = Problem::meta().responses.iter().filter_map(|one| one.status).collect();
        let wait = Duration::from_secs(1);
        for problem in [
            Problem::invalid_input(Vec::new()),
            Problem::invalid_host(),
            Problem::invalid_credentials(),
            Problem::unauthenticated(),
            Problem::invalid_token(),
            Problem::invalid_client(),
            Problem::step_up_required(),
            Problem::permission_denied(),
            Problem::lacks(Permission::AccountsRead),
            Problem::not_found(),
            Problem::not_acceptable(),
            Problem::slow_request(),
            Problem::conflict(""),
            Problem::body_too_large(1),
            Problem::unsupported_media_type("application/json"),
            Problem::unsupported_encoding(),
            Problem::rate_limited(wait),
            Problem::internal(""),
            Problem::locked_down(),
            Problem::overloaded(wait),
            Problem::unavailable(wait),
            Problem::timeout(),
        ] {
            assert!(documented.contains(&problem.status().as_u16()), "{problem:?}");
        }
    }
}
