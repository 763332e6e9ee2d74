//! One UUIDv7 for each request: in the extensions, in the `Request-Id` header, in every problem and log line.
//!
//! An id sent by the client is not believed: it could be made to match someone else's log lines.

use poem::http::{HeaderName, HeaderValue};
use uuid::Uuid;

/// The response header that carries the id.
pub const HEADER: HeaderName = HeaderName::from_static("request-id");

/// The id of one request. Handlers take it as `Data<&RequestId>`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RequestId(pub Uuid);

impl RequestId {
    #[expect(clippy::disallowed_methods, reason = "the edge is where ids are drawn")]
    pub(crate) fn draw() -> Self {
        Self(Uuid::now_v7())
    }

    /// The id as a URN (RFC 9562 section 4), the `instance` of a problem.
    pub fn urn(self) -> String {
        self.0.urn().to_string()
    }

    /// The id as a header value: 36 characters, lower case.
    pub(super) fn header_value(self) -> Option<HeaderValue> {
        HeaderValue::from_str(self.0.hyphenated().encode_lower(&mut Uuid::encode_buffer())).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_header_and_the_urn_name_the_same_version_7_id() {
        let id = RequestId::draw();
        assert_eq!(id.0.get_version_num(), 7);
        assert_eq!(id.header_value().unwrap().to_str().unwrap(), id.0.to_string());
        assert_eq!(id.urn(), format!("urn:uuid:{}", id.0));
    }
}
