//! The pages that links in mail lead to: a new password, a confirmed address, "this was not me".
//!
//! The token is in the link's fragment, so neither this server nor a proxy before it is told; the page's script sends it
//! to the API when a person asks for that. The pages hold nothing of anybody, and are the same for everybody.

use fulexo_node::http::files::{Cache, File, PAGE, SCRIPT, STYLE};
use hyper::body::Bytes;
use poem::http::HeaderValue;

/// Our script and style, calls to our API, an icon; no form leaves the page, and no text becomes markup.
const POLICY: HeaderValue = HeaderValue::from_static(
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src data:; connect-src 'self'; base-uri 'none'; \
     form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'; trusted-types 'none'",
);

/// All of them.
#[must_use]
pub fn files() -> [File; 5] {
    [
        page("/account/reset-password", "get_reset_password_page", include_str!("../../assets/reset-password.html")),
        page("/account/verify-email", "get_verify_email_page", include_str!("../../assets/verify-email.html")),
        page("/account/not-me", "get_not_me_page", include_str!("../../assets/not-me.html")),
        File {
            path: "/account/account.css",
            operation: "get_account_style",
            content_type: STYLE,
            policy: None,
            cache: Cache::Never,
            bytes: Bytes::from_static(include_bytes!("../../assets/account.css")),
        },
        File {
            path: "/account/account.js",
            operation: "get_account_script",
            content_type: SCRIPT,
            policy: None,
            cache: Cache::Never,
            bytes: Bytes::from_static(include_bytes!("../../assets/account.js")),
        },
    ]
}

fn page(path: &'static str, operation: &'static str, html: &'static str) -> File {
    let (policy, cache, bytes) = (Some(POLICY), Cache::Never, Bytes::from_static(html.as_bytes()));
    File { path, operation, content_type: PAGE, policy, cache, bytes }
}
