//! The headers that tell a caller where they stand with a limit.

use chrono::TimeDelta;
use fulexo_domain::rate_limit;
use poem::http::{HeaderMap, HeaderName, HeaderValue};

/// A request's standing with a limit.
///
/// Shown as `RateLimit-Policy` and `RateLimit`, as draft-ietf-httpapi-ratelimit-headers has them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Standing(pub rate_limit::QuotaStatus);

impl Standing {
    /// Adds the two headers; another limit's may stand there already.
    pub fn write(&self, headers: &mut HeaderMap) {
        const POLICY: HeaderName = HeaderName::from_static("ratelimit-policy");
        const STATE: HeaderName = HeaderName::from_static("ratelimit");
        let Self(rate_limit::QuotaStatus { limit, quota, remaining, reset }) = self;
        let name = limit.as_str();
        let policy = format!("\"{name}\";q={};w={}", quota.requests(), whole_seconds(quota.window()));
        let state = format!("\"{name}\";r={remaining};t={}", whole_seconds(*reset));
        for (header, text) in [(POLICY, policy), (STATE, state)] {
            if let Ok(value) = HeaderValue::try_from(text) {
                headers.append(header, value);
            }
        }
    }
}

/// Returns whole seconds, rounded up.
pub fn whole_seconds(time: TimeDelta) -> i64 {
    time.num_seconds() + i64::from(time.subsec_nanos() > 0)
}
