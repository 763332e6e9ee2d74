//! Heads of requests that are refused before anything is read from them: methods that nobody here knows, fields that are sent
//! more often than they may be, and bodies in codings that nobody here reads. It reads no body, and decides for no path.

use poem::Request;
use poem::http::{HeaderMap, HeaderName, Method, header};

use super::cookies::CSRF_TOKEN;
use super::problem::{FieldError, Problem};

/// The methods of RFC 9110, section 9, and PATCH (RFC 5789).
const METHODS: [Method; 9] = [
    Method::GET,
    Method::HEAD,
    Method::POST,
    Method::PUT,
    Method::PATCH,
    Method::DELETE,
    Method::OPTIONS,
    Method::TRACE,
    Method::CONNECT,
];

/// The name of a method that is not a constant of the crate yet (draft-ietf-httpbis-safe-method-w-body).
const QUERY: &str = "QUERY";

/// The methods that are known. A path that lacks one of them answers 405; any other method is 501 everywhere.
pub(super) fn methods() -> impl Iterator<Item = Method> {
    METHODS.into_iter().chain(Method::from_bytes(QUERY.as_bytes()))
}

/// Fields that are not lists (RFC 9110, section 5.3), with their names as they are written. Of two lines, a proxy may
/// go by the one and a handler by the other. `Host` and `Content-Type` are looked at where they are read.
static SINGLE: [(HeaderName, &str); 5] = [
    (header::AUTHORIZATION, "Authorization"),
    (HeaderName::from_static("idempotency-key"), "Idempotency-Key"),
    (HeaderName::from_static("log-min-position"), "Log-Min-Position"),
    (header::ORIGIN, "Origin"),
    (CSRF_TOKEN, "X-CSRF-Token"),
];

/// Checks the head of a request.
///
/// # Errors
/// 501 for a method or a transfer coding that is not known, 400 for a field that is sent twice, 415 for a content coding.
pub(super) fn check(request: &Request) -> Result<(), Problem> {
    if !METHODS.contains(request.method()) && request.method().as_str() != QUERY {
        return Err(Problem::unknown_method());
    }
    let headers = request.headers();
    if !names_only(headers, header::TRANSFER_ENCODING, "chunked") {
        return Err(Problem::unknown_transfer_coding());
    }
    let twice = SINGLE.iter().filter(|(name, _)| headers.get_all(name).iter().nth(1).is_some());
    let faults: Vec<_> = twice.map(|(_, name)| FieldError::new(format!("/{name}"), "must be sent only once")).collect();
    if !faults.is_empty() {
        return Err(Problem::invalid_input(faults));
    }
    if names_only(headers, header::CONTENT_ENCODING, "identity") {
        Ok(())
    } else {
        Err(Problem::unsupported_encoding())
    }
}

/// `true` if a field that lists codings names no other than this one, in all of its lines. Empty members are none (RFC 9110,
/// section 5.6.1.2).
fn names_only(headers: &HeaderMap, field: HeaderName, coding: &str) -> bool {
    let is_fine = |member: &str| member.is_empty() || member.eq_ignore_ascii_case(coding);
    headers.get_all(field).iter().all(|line| {
        line.to_str().is_ok_and(|line| line.split(',').map(|member| member.trim_matches([' ', '\t'])).all(is_fine))
    })
}

#[cfg(test)]
mod tests {
    use poem::http::HeaderValue;

    use super::*;

    fn checked(method: &str, lines: &[(&str, &str)]) -> Result<(), &'static str> {
        let mut request = Request::builder().method(method.parse().unwrap());
        for (name, value) in lines {
            request = request.header(*name, HeaderValue::from_bytes(value.as_bytes()).unwrap());
        }
        check(&request.finish()).map_err(|problem| problem.code())
    }

    #[test]
    fn a_method_is_known_by_its_exact_name() {
        for method in methods() {
            assert_eq!(checked(method.as_str(), &[]), Ok(()), "{method}");
        }
        for method in ["get", "Post", "PROPFIND", "Query", "BREW", "M-SEARCH", "GETT", "!#$%&'*+-.^_`|~0"] {
            assert_eq!(checked(method, &[]), Err("not_implemented"), "{method}");
        }
    }

    #[test]
    fn a_body_is_read_in_no_other_coding_than_its_own() {
        let coded =
            |lines: &[&str]| checked("POST", &lines.iter().map(|line| ("content-encoding", *line)).collect::<Vec<_>>());
        for fine in [&[][..], &[""], &["identity"], &["Identity"], &["identity, identity"], &[" , identity,"]] {
            assert_eq!(coded(fine), Ok(()), "{fine:?}");
        }
        for other in [
            &["gzip"][..],
            &["GZIP"],
            &["br"],
            &["identity, gzip"],
            &["gzip, identity"],
            &["identity", "gzip"],
            &["", "deflate"],
            &["identity;q=1"],
            &["x-unknown"],
            &["é"],
        ] {
            assert_eq!(coded(other), Err("unsupported_encoding"), "{other:?}");
        }
    }

    #[test]
    fn a_transfer_coding_is_chunked_or_not_known() {
        assert_eq!(checked("POST", &[("transfer-encoding", "Chunked")]), Ok(()));
        for other in ["gzip, chunked", "identity", "chunked;x=y"] {
            assert_eq!(checked("POST", &[("transfer-encoding", other)]), Err("not_implemented"), "{other}");
        }
    }

    #[test]
    fn a_field_that_is_no_list_is_sent_once() {
        for (name, _) in &SINGLE {
            let once = [(name.as_str(), "a")];
            assert_eq!(checked("GET", &once), Ok(()), "{name}");
            for second in ["a", "b", ""] {
                assert_eq!(
                    checked("GET", &[once[0], (name.as_str(), second)]),
                    Err("invalid_input"),
                    "{name} {second}"
                );
            }
        }
    }
}
