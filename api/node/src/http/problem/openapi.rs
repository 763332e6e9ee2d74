//! How refusals look in the OpenAPI description: the same list on every operation.

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

/// What any operation may answer. 405 and 501 are not here: where there is an operation, the method is allowed.
const DOCUMENTED: [(u16, &str); 12] = [
    (400, "`invalid_input`: `errors` names each member at fault. `invalid_host`: not one `Host`."),
    (401, "`unauthenticated`, `invalid_token`, `invalid_credentials` from a login, or `invalid_client` by HTTP Basic."),
    (
        403,
        "`permission_denied`: `permission` is the one that the caller lacks. `step_up_required` for a sensitive call, `csrf_rejected` by cookie.",
    ),
    (404, "`not_found`"),
    (406, "`not_acceptable`"),
    (408, "`slow_request`: the body did not arrive in time."),
    (409, "`conflict`, or a narrower code where the operation names one."),
    (413, "`body_too_large`"),
    (
        415,
        "`unsupported_media_type`: `detail` names the one that is read. `unsupported_encoding`: a `Content-Encoding`.",
    ),
    (429, "`rate_limited`: `quota` is the one that is spent."),
    (500, "`internal`: quote `instance` to the operator."),
    (503, "`overloaded`, `unavailable`, `timeout`, or `locked_down` while an incident is contained."),
];

fn documented(status: u16, description: &'static str) -> MetaResponse {
    let headers = match status {
        401 => vec![documented_header::<String>("WWW-Authenticate", "The scheme to use (RFC 6750).")],
        429 | 503 => vec![documented_header::<u64>("Retry-After", "Seconds to wait before the next try.")],
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

/// A refusal (RFC 9457).
#[derive(Object)]
#[oai(rename = "Problem")]
struct DocumentSchema {
    /// The URL of the page that explains the code.
    #[oai(rename = "type")]
    kind: String,
    /// The same for every problem of one kind.
    title: String,
    /// The HTTP status.
    status: u16,
    /// What happened, for a person.
    detail: String,
    /// What happened, for a program; stable.
    code: Word<ProblemCodes>,
    /// `urn:uuid:` and the request id.
    instance: Option<String>,
    /// For `permission_denied`: the permission that the caller lacks.
    permission: Option<String>,
    /// For `rate_limited`: the quota that is spent, as `RateLimit-Policy` names it.
    quota: Option<String>,
    /// For bad input: one entry for each member at fault.
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
