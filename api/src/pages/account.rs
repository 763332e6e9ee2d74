//! The pages of links in e-mails: password reset, address verification and the report of an intrusion.
//!
//! The token is in the fragment of the link, which browsers send neither to this server nor to a proxy. The script of the page
//! sends it to the API when a person presses the button. The pages have no personal data and are the same for everybody.

use fulexo_node::http::files::{Cache, File, PAGE, SCRIPT, STYLE};
use hyper::body::Bytes;
use poem::http::HeaderValue;

/// The content policy: our script and style, calls to our API, an icon. No form leaves the page, and no text becomes markup.
const POLICY: HeaderValue = HeaderValue::from_static(
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src data:; connect-src 'self'; base-uri 'none'; \
     form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'; trusted-types 'none'",
);

/// Returns the pages, their style and their script.
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
