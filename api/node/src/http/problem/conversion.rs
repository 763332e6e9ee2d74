//! The conversion of refusals of poem, poem-openapi and middleware into problems.

use fulexo_database::chain;
use poem::Response;
use poem::error::{CorsError, MethodNotAllowedError, NotFoundError, ReadBodyError};
use poem::http::{StatusCode, header};

use super::code::Code;
use super::kind::Kind;
use super::{Base, CONTENT_TYPE, Problem};
use crate::http::bad_input;
use crate::http::request_id::RequestId;

/// Converts the result of a handler into a response. Errors and bare refusals become problems; other responses stay.
pub fn answer(result: poem::Result<Response>, id: RequestId, base: &Base) -> Response {
    let response = match result {
        Ok(response) => response,
        Err(error) if error.is_from_response() => error.into_response(),
        Err(error) => return Problem::from(error).respond(Some(id), base),
    };
    if is_bare_refusal(&response) { refused(response, id, base) } else { response }
}

fn is_bare_refusal(response: &Response) -> bool {
    let status = response.status();
    (status.is_client_error() || status.is_server_error())
        && response.headers().get(header::CONTENT_TYPE).is_none_or(|is| is != CONTENT_TYPE)
}

/// Replaces the body of a bare refusal. Keeps the headers of middleware (`Allow`, `Retry-After`, CORS).
fn refused(mut response: Response, id: RequestId, base: &Base) -> Response {
    for name in [header::CONTENT_LENGTH, header::CONTENT_ENCODING, header::ETAG] {
        response.headers_mut().remove(name);
    }
    Problem::from_status(response.status()).write_into(&mut response, Some(id), base);
    response
}

impl From<poem::Error> for Problem {
    /// Converts an error of poem or poem-openapi. Its text may quote the input, for example a password, so it is not passed
    /// on.
    fn from(error: poem::Error) -> Self {
        if let Some(problem) = error.downcast_ref::<Self>() {
            problem.clone()
        } else if error.is::<NotFoundError>() {
            Self::not_found()
        } else if error.is::<MethodNotAllowedError>() {
            Self::method_not_allowed(None)
        } else if error.is::<CorsError>() {
            Self::permission_denied().with_code(Code::CROSS_ORIGIN_DENIED).with_detail(
                "This origin, method or header is not allowed across origins. Ask the operator to allow the origin in \
                     FULEXO_CORS_ORIGINS.",
            )
        } else if let Some(ReadBodyError::Io(_)) = error.downcast_ref() {
            Self::of(Kind::InvalidInput).with_detail("The body is incomplete or malformed. Send it again.")
        } else if let Some(problem) = bad_input::problem(&error) {
            problem
        } else if error.status().is_server_error() && error.status() != StatusCode::SERVICE_UNAVAILABLE {
            Self::internal(chain(&error).to_string())
        } else {
            Self::from_status(error.status())
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_problem_survives_the_way_through_a_poem_error() {
        let problem = Problem::rate_limited(Duration::from_millis(1500));
        assert_eq!(Problem::from(poem::Error::from(problem.clone())), problem);
    }

    #[tokio::test]
    async fn a_refusal_that_came_as_a_response_keeps_its_headers_and_loses_its_text() {
        let bare =
            || Response::builder().status(StatusCode::TOO_MANY_REQUESTS).header("ratelimit", "r=0").body("secret");
        for result in [Ok(bare()), Err(poem::Error::from_response(bare()))] {
            let response = answer(result, RequestId::draw(), &Base::default());
            assert_eq!(response.status(), 429);
            assert_eq!(response.content_type(), Some(CONTENT_TYPE));
            assert_eq!(response.header("ratelimit"), Some("r=0"));
            assert!(!response.into_body().into_string().await.unwrap().contains("secret"));
        }
    }
}
