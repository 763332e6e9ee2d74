//! The pages that links in mail lead to, over the wire.

use super::server;

const PAGES: [&str; 3] = ["/account/reset-password", "/account/verify-email", "/account/not-me"];

#[tokio::test]
async fn the_account_pages_run_our_script_alone_and_send_no_form() {
    let server = server().await;
    for path in PAGES {
        let page = server.get(path).await;
        assert_eq!((page.status, page.header("content-type")), (200, Some("text/html; charset=utf-8")), "{path}");
        assert_eq!(page.header("cache-control"), Some("no-store"));
        assert_eq!(page.header("referrer-policy"), Some("no-referrer"));
        assert_eq!(page.header("x-frame-options"), Some("DENY"));
        let policy = page.header("content-security-policy").unwrap();
        for rule in [
            "default-src 'none'",
            "script-src 'self'",
            "style-src 'self'",
            "connect-src 'self'",
            "form-action 'none'",
            "frame-ancestors 'none'",
        ] {
            assert!(policy.split("; ").any(|part| part == rule), "{path}: {policy}");
        }
        assert!(!policy.contains("unsafe"), "{policy}");
        // Nothing inline that the policy would silence, and nothing from elsewhere.
        let body = &page.body;
        assert!(body.starts_with("<!doctype html>\n<html lang=\"en\">"), "{path}");
        assert!(
            !body.contains("<style")
                && !body.contains("style=")
                && !body.contains(" onload")
                && !body.contains(" onclick"),
            "{path}"
        );
        let scripts: Vec<_> = body.split("<script").skip(1).collect();
        assert!(scripts.len() == 1 && scripts[0].starts_with(" src=\"account.js\" defer></script>"), "{path}");
        assert_eq!(body.matches("://").count(), body.matches("http://www.w3.org/2000/svg").count(), "{path}");
        assert!(body.contains(&format!("data-page=\"{}\"", path.trim_start_matches("/account/"))), "{path}");
    }
}

#[tokio::test]
async fn the_account_pages_script_writes_no_markup_and_keeps_no_token() {
    let server = server().await;
    let script = server.get("/account/account.js").await;
    assert_eq!(script.header("content-type"), Some("text/javascript; charset=utf-8"));
    for banned in
        ["innerHTML", "insertAdjacentHTML", "document.write", "eval(", "localStorage", "sessionStorage", "cookie"]
    {
        assert!(!script.body.contains(banned), "{banned}");
    }
    assert!(script.body.contains("history.replaceState(null, '', location.pathname)"));
    for call in ["password-reset/confirm", "email-verification", "not-me"] {
        assert!(script.body.contains(&format!("'../v1/auth/{call}'")), "{call}");
    }
    let style = server.get("/account/account.css").await;
    assert_eq!(style.header("content-type"), Some("text/css; charset=utf-8"));
    assert!(!style.body.contains("url(") && !style.body.contains("@import"));
}

#[tokio::test]
async fn the_account_pages_are_got_and_nothing_else_and_nothing_is_beside_them() {
    let server = server().await;
    for path in PAGES.into_iter().chain(["/account/account.js", "/account/account.css"]) {
        for method in ["POST", "PUT", "DELETE", "OPTIONS"] {
            let answer = server.send(method, path, &[], "").await;
            assert_eq!((answer.status, answer.code().as_str()), (405, "method_not_allowed"), "{method} {path}");
            assert_eq!(answer.header("allow"), Some("GET, HEAD"));
        }
        let head = server.send("HEAD", path, &[], "").await;
        assert_eq!((head.status, head.body.as_str()), (200, ""), "{path}");
    }
    for path in ["/account", "/account/", "/account/reset-password/", "/account/other", "/account/..%2fdocs"] {
        assert_eq!(server.get(path).await.status, 404, "{path}");
    }
}
