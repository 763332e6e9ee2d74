//! The security headers of every response, refusals included.
//!
//! Two of them a handler may set itself: `Content-Security-Policy` (a page needs more than an API) and
//! `Cache-Control` (public files may be kept). The rest is overwritten.

use poem::http::{HeaderMap, HeaderName, HeaderValue, header};

/// The size of a checkpoint that covers what a command recorded.
pub const CHECKPOINT_SIZE: HeaderName = HeaderName::from_static("log-checkpoint-size");
/// The position of the last event of a command, or of a view.
pub const LOG_POSITION: HeaderName = HeaderName::from_static("log-position");

/// Always these.
const FIXED: [(HeaderName, HeaderValue); 8] = [
    // Over plain HTTP too, where browsers ignore it (RFC 6797, section 8.1): a TLS proxy may stand in front.
    (header::STRICT_TRANSPORT_SECURITY, HeaderValue::from_static("max-age=31536000; includeSubDomains")),
    // The specification says SAMEORIGIN. Nothing of ours is framed, so DENY, which is stricter.
    (header::X_FRAME_OPTIONS, HeaderValue::from_static("DENY")),
    (header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff")),
    (header::REFERRER_POLICY, HeaderValue::from_static("no-referrer")),
    (
        HeaderName::from_static("permissions-policy"),
        HeaderValue::from_static("camera=(), geolocation=(), microphone=(), payment=(), usb=()"),
    ),
    (HeaderName::from_static("cross-origin-opener-policy"), HeaderValue::from_static("same-origin")),
    (HeaderName::from_static("cross-origin-resource-policy"), HeaderValue::from_static("same-origin")),
    (HeaderName::from_static("cross-origin-embedder-policy"), HeaderValue::from_static("require-corp")),
];

/// The headers that are added where the handler set none.
const DEFAULT: [(HeaderName, HeaderValue); 2] = [
    (header::CONTENT_SECURITY_POLICY, HeaderValue::from_static("default-src 'none'; frame-ancestors 'none'")),
    (header::CACHE_CONTROL, HeaderValue::from_static("no-store")),
];

/// Writes the headers. Names no server: `Server` is removed.
pub(super) fn secure(headers: &mut HeaderMap) {
    headers.reserve(FIXED.len() + DEFAULT.len() + 1);
    for (name, value) in FIXED {
        headers.insert(name, value);
    }
    for (name, value) in DEFAULT {
        headers.entry(name).or_insert(value);
    }
    headers.remove(header::SERVER);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_handler_may_widen_its_policy_and_its_caching_and_nothing_else() {
        let mut headers = HeaderMap::new();
        headers.insert(header::CONTENT_SECURITY_POLICY, HeaderValue::from_static("default-src 'self'"));
        headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("public"));
        headers.insert(header::X_FRAME_OPTIONS, HeaderValue::from_static("ALLOWALL"));
        headers.insert(header::SERVER, HeaderValue::from_static("secret/1.0"));
        secure(&mut headers);
        assert_eq!(headers[header::CONTENT_SECURITY_POLICY], "default-src 'self'");
        assert_eq!(headers[header::CACHE_CONTROL], "public");
        assert_eq!(headers[header::X_FRAME_OPTIONS], "DENY");
        assert!(!headers.contains_key(header::SERVER));
    }

    #[test]
    fn a_bare_response_gets_the_whole_list() {
        let mut headers = HeaderMap::new();
        secure(&mut headers);
        let mut lines: Vec<String> =
            headers.iter().map(|(name, value)| format!("{name}: {}", value.to_str().unwrap())).collect();
        lines.sort();
        assert_eq!(
            lines,
            [
                "cache-control: no-store",
                "content-security-policy: default-src 'none'; frame-ancestors 'none'",
                "cross-origin-embedder-policy: require-corp",
                "cross-origin-opener-policy: same-origin",
                "cross-origin-resource-policy: same-origin",
                "permissions-policy: camera=(), geolocation=(), microphone=(), payment=(), usb=()",
                "referrer-policy: no-referrer",
                "strict-transport-security: max-age=31536000; includeSubDomains",
                "x-content-type-options: nosniff",
                "x-frame-options: DENY",
            ]
        );
    }
}
