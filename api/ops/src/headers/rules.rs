//! The faults that `check-headers` knows. Remedies are lines of nginx; Fulexo itself sends all of them.

use crate::finding::{Rule, Severity};

macro_rules! rule {
    ($name:ident, $id:literal, $severity:ident, $title:literal, $remedy:literal, $reference:literal) => {
        pub const $name: Rule =
            Rule { id: $id, title: $title, severity: Severity::$severity, remedy: $remedy, reference: $reference };
    };
}

rule!(
    HSTS,
    "headers.hsts",
    High,
    "browsers are not told to use HTTPS only",
    "add_header Strict-Transport-Security \"max-age=31536000; includeSubDomains\" always;",
    "RFC 6797, section 6.1"
);
rule!(
    FRAMES,
    "headers.frames",
    Medium,
    "other sites may show this one in a frame",
    "add_header X-Frame-Options \"DENY\" always; or SAMEORIGIN, where pages of your own frame it",
    "RFC 7034; CSP 3, frame-ancestors"
);
rule!(
    SNIFFING,
    "headers.sniffing",
    Medium,
    "browsers may guess another type of content",
    "add_header X-Content-Type-Options \"nosniff\" always;",
    "Fetch, section 3.6"
);
rule!(
    XSS_FILTER,
    "headers.xss_filter",
    Low,
    "the filter of old browsers is switched on in the mode that can be abused",
    "add_header X-XSS-Protection \"1; mode=block\" always; or leave the header out: current browsers ignore it",
    "OWASP HTTP Headers Cheat Sheet"
);
rule!(
    NO_CSP,
    "headers.no_csp",
    High,
    "no Content-Security-Policy",
    "add_header Content-Security-Policy \"default-src 'self'; frame-ancestors 'none'\" always; for an API: default-src 'none'",
    "Content Security Policy Level 3"
);
rule!(
    WEAK_CSP,
    "headers.weak_csp",
    Medium,
    "the Content-Security-Policy allows scripts of others",
    "Name the sources of scripts one by one in script-src, without *, data:, http: and 'unsafe-eval', and give a default-src.",
    "Content Security Policy Level 3, section 6.1"
);
rule!(
    REFERRER,
    "headers.referrer",
    Low,
    "other sites learn the addresses of pages",
    "add_header Referrer-Policy \"no-referrer\" always;",
    "Referrer Policy, section 3"
);
rule!(
    PERMISSIONS,
    "headers.permissions",
    Low,
    "pages may ask for camera, microphone and position",
    "add_header Permissions-Policy \"camera=(), geolocation=(), microphone=(), payment=(), usb=()\" always;",
    "Permissions Policy, section 5"
);
rule!(
    ISOLATION,
    "headers.isolation",
    Low,
    "pages of other origins share a browser's process or read answers across origins",
    "Add Cross-Origin-Opener-Policy: same-origin, Cross-Origin-Resource-Policy: same-origin and \
     Cross-Origin-Embedder-Policy: require-corp.",
    "HTML, section 7.1.3; Fetch, section 3.7"
);
rule!(
    CACHED,
    "headers.cached",
    Low,
    "an answer with data may be kept by caches",
    "add_header Cache-Control \"no-store\" always; for answers that are not public",
    "RFC 9111, section 5.2.2.5"
);
rule!(
    DISCLOSURE,
    "headers.disclosure",
    Low,
    "the answer names the server's software and version",
    "server_tokens off; and remove X-Powered-By where it is set",
    "RFC 9110, section 10.2.4"
);
rule!(
    COOKIE,
    "headers.cookie",
    Medium,
    "a cookie lacks attributes that protect it",
    "Set Secure, HttpOnly and SameSite=Lax or Strict on each cookie that scripts need not read.",
    "RFC 6265, section 4.1.2; OWASP ASVS 3.4"
);
rule!(
    DUPLICATE,
    "headers.duplicate",
    Medium,
    "a header is sent twice: browsers differ in the one that they believe",
    "Send it from one place: either the service or the proxy (proxy_hide_header, then add_header).",
    "RFC 9110, section 5.3"
);
rule!(
    PLAIN,
    "headers.plain_http",
    High,
    "plain HTTP is answered without a redirect to HTTPS",
    "return 301 https://$host$request_uri; in the server of port 80",
    "RFC 6797, section 7.2"
);

/// All of them.
pub const RULES: [Rule; 14] = [
    HSTS,
    FRAMES,
    SNIFFING,
    XSS_FILTER,
    NO_CSP,
    WEAK_CSP,
    REFERRER,
    PERMISSIONS,
    ISOLATION,
    CACHED,
    DISCLOSURE,
    COOKIE,
    DUPLICATE,
    PLAIN,
];
