//! Browsers: tokens in cookies that no script can read, calls that no other site can make them send, and answers that
//! only the pages of listed origins can read.

#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests fail by panicking")]

use std::collections::BTreeMap;
use std::sync::Arc;

use chrono::TimeDelta;
use fulexo_tests::{Answer, Authenticator, Client, Database, Node, PASSWORD, leaves, log_size, operator};
use hyper::Method;
use serde_json::{Value, json};

const PANEL: &str = "https://panel.example.com";
const EVIL: &str = "https://panel.example.com.evil.example";
const ACCESS: &str = "__Host-fulexo-access";
const REFRESH: &str = "__Host-fulexo-refresh";
const DEVICE: &str = "__Host-fulexo-device";

/// A browser: what it keeps, and what its page was told.
#[derive(Clone)]
struct Browser {
    client: Client,
    cookies: BTreeMap<String, String>,
    csrf_token: Option<String>,
}

impl Browser {
    fn new(node: &Node) -> Self {
        Self { client: node.anonymous(), cookies: BTreeMap::new(), csrf_token: None }
    }

    /// Keeps the cookies that an answer sets, and removes those that it removes.
    fn keep(&mut self, answer: &Answer) {
        for line in answer.headers.get_all("set-cookie") {
            let line = line.to_str().unwrap();
            let (pair, attributes) = line.split_once("; ").unwrap();
            let (name, value) = pair.split_once('=').unwrap();
            assert!(attributes.starts_with("Path=/; Secure; HttpOnly; SameSite=Strict; Max-Age="), "{line}");
            if attributes.ends_with("Max-Age=0") {
                self.cookies.remove(name);
            } else {
                self.cookies.insert(name.to_owned(), value.to_owned());
            }
        }
        if let Some(token) = answer.json["csrf_token"].as_str() {
            self.csrf_token = Some(token.to_owned());
        }
    }

    fn cookie_line(&self) -> String {
        let cookies: Vec<String> = self.cookies.iter().map(|(name, value)| format!("{name}={value}")).collect();
        cookies.join("; ")
    }

    fn with(&self, headers: &[(&str, &str)]) -> Client {
        let client = self.client.with_header("cookie", &self.cookie_line());
        headers.iter().fold(client, |client, (name, value)| client.with_header(name, value))
    }

    fn token(&self) -> &str {
        self.csrf_token.as_deref().unwrap()
    }

    /// Returns a client that sends requests as the session's own page does.
    fn page(&self) -> Client {
        let own = self.client.url.clone();
        self.with(&[("x-csrf-token", self.token()), ("origin", &own), ("sec-fetch-site", "same-origin")])
    }

    async fn log_in(&mut self, email: &str) -> Answer {
        let body = json!({"email": email, "password": PASSWORD, "cookies": true});
        let answer = self.with(&[]).post("/v1/auth/login", body).await;
        self.keep(&answer);
        answer
    }
}

async fn logged_in(node: &Node, roles: &[&str]) -> (Browser, String) {
    let (email, _) = node.register(roles).await;
    let mut browser = Browser::new(node);
    let answer = browser.log_in(&email).await;
    assert_eq!(answer.status, 200, "{answer:?}");
    (browser, email)
}

async fn with_origins(origins: &str, more: &[(&str, &str)]) -> Node {
    let database = Arc::new(Database::create().await);
    let mut env = database.env();
    env.insert("FULEXO_CORS_ORIGINS".into(), origins.into());
    env.extend(more.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())));
    Node::with(&database, env).await
}

fn assert_rejected(answer: &Answer) {
    assert_eq!((answer.status, answer.code()), (403, "csrf_rejected"), "{answer:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_login_by_cookie_tells_the_page_no_token_but_the_one_against_forgery() {
    let node = Node::start().await;
    let (email, _) = node.register(&["customer"]).await;
    let mut browser = Browser::new(&node);
    let answer = browser.log_in(&email).await;
    let fields: Vec<&String> = answer.json.as_object().unwrap().keys().collect();
    assert_eq!(fields, ["csrf_token", "expires_in", "session_id", "status"]);
    assert_eq!(answer.json["status"], "authenticated_by_cookie");
    assert_eq!(browser.cookies.keys().map(String::as_str).collect::<Vec<_>>(), [ACCESS, DEVICE, REFRESH]);
    for value in browser.cookies.values() {
        assert!(!answer.text.contains(value));
    }
    let session = browser.with(&[]).get("/v1/auth/session").await;
    assert_eq!((session.status, &session.json["csrf_token"]), (200, &answer.json["csrf_token"]), "{session:?}");
    assert_eq!(browser.with(&[]).get("/v1/me").await.json["email"], email);
    let bearer = node.customer().await.get("/v1/auth/session").await;
    assert!(bearer.json.get("csrf_token").is_none(), "{bearer:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn whatever_changes_something_by_cookie_needs_the_token_of_this_very_session_and_no_foreign_page() {
    let node = Node::start().await;
    let (browser, _) = logged_in(&node, &["admin", "customer"]).await;
    let (other, _) = logged_in(&node, &["admin", "customer"]).await;
    let document: Value = serde_json::from_str(
        &std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../openapi.json")).unwrap(),
    )
    .unwrap();
    let own = node.url.clone();
    let size = log_size(&node).await;
    let mut tried = 0;
    for (path, operations) in document["paths"].as_object().unwrap() {
        for (method, operation) in operations.as_object().unwrap() {
            let method: Method = method.to_uppercase().parse().unwrap();
            if operation["security"].as_array().is_none_or(Vec::is_empty) || method == Method::GET {
                continue;
            }
            let path = path.replace("{role}", "support");
            let path = path
                .split('/')
                .map(|part| if part.starts_with('{') { "01930000-0000-7000-8000-000000000000" } else { part });
            let path = path.collect::<Vec<_>>().join("/");
            let attempts: [&[(&str, &str)]; 7] = [
                &[],
                &[("origin", &own)],
                &[("x-csrf-token", "")],
                &[("x-csrf-token", other.token())],
                &[("x-csrf-token", browser.token()), ("origin", EVIL)],
                &[("x-csrf-token", browser.token()), ("origin", "null")],
                &[("x-csrf-token", browser.token()), ("sec-fetch-site", "cross-site")],
            ];
            for headers in attempts {
                let answer = browser.with(headers).send(method.clone(), &path, Some("application/json"), "{}").await;
                assert_eq!(answer.code(), "csrf_rejected", "{method} {path} {headers:?}: {answer:?}");
                assert_eq!(answer.status, 403);
                tried += 1;
            }
        }
    }
    assert!(tried >= 7 * 25, "{tried}");
    assert_eq!(log_size(&node).await, size, "nothing was done");
    assert_eq!(browser.page().post_nothing("/v1/auth/logout").await.status, 204);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_by_cookie_ends_with_its_cookies() {
    let node = Node::start().await;
    let (mut browser, _) = logged_in(&node, &["customer"]).await;
    let before = browser.clone();
    let answer = browser.page().post_nothing("/v1/auth/logout").await;
    assert_eq!(answer.status, 204, "{answer:?}");
    browser.keep(&answer);
    assert_eq!(browser.cookies.keys().collect::<Vec<_>>(), [DEVICE], "the device stays known");
    assert_eq!(before.with(&[]).get("/v1/me").await.status, 401);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bearer_token_needs_no_other() {
    let node = Node::start().await;
    let ann = node.customer().await;
    let (browser, _) = logged_in(&node, &["customer"]).await;
    let foreign = ann.with_header("origin", EVIL);
    assert_eq!(foreign.post_nothing("/v1/me/sessions/revoke-others").await.status, 200);
    // The header decides for a caller who sends both.
    let both = Client { access_token: ann.access_token.clone(), ..browser.with(&[]) };
    assert_eq!(both.get("/v1/me").await.json["email"], ann.email);
    assert_eq!(both.post_nothing("/v1/auth/logout").await.status, 204);
    assert_eq!(browser.with(&[]).get("/v1/me").await.status, 200, "the browser's own session goes on");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refresh_by_cookie_needs_the_token_and_spends_nothing_without_it() {
    let node = Node::start().await;
    let (mut browser, _) = logged_in(&node, &["customer"]).await;
    let (other, _) = logged_in(&node, &["customer"]).await;
    for headers in [&[][..], &[("x-csrf-token", other.token())], &[("x-csrf-token", browser.token()), ("origin", EVIL)]]
    {
        assert_rejected(&browser.with(headers).post("/v1/auth/refresh", json!({})).await);
    }
    let spent = browser.clone();
    // The access token may have ended by then: its cookie is gone.
    browser.cookies.remove(ACCESS);
    let answer = browser.page().post("/v1/auth/refresh", json!({})).await;
    assert_eq!((answer.status, &answer.json["status"]), (200, &json!("authenticated_by_cookie")), "{answer:?}");
    browser.keep(&answer);
    assert_ne!(browser.cookies[REFRESH], spent.cookies[REFRESH]);
    assert_eq!(browser.csrf_token, spent.csrf_token);
    assert_eq!(browser.with(&[]).get("/v1/me").await.status, 200);
    let types = node.app().commands.log().size().await.unwrap();
    let again = browser.page().post("/v1/auth/refresh", json!({})).await;
    assert_eq!(again.status, 200, "{again:?}");
    assert_eq!(log_size(&node).await, types + 1, "one refresh, and no reuse");
    let nothing = node.anonymous().post("/v1/auth/refresh", json!({})).await;
    assert_eq!((nothing.status, &nothing.json["errors"][0]["pointer"]), (400, &json!("/refresh_token")), "{nothing:?}");
    let garbage = Browser { cookies: [(REFRESH.to_owned(), "x".repeat(70))].into(), ..browser };
    assert_rejected(&garbage.page().post("/v1/auth/refresh", json!({})).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn no_foreign_page_logs_a_browser_in() {
    let node = Node::start().await;
    let (email, _) = node.register(&["customer"]).await;
    let size = log_size(&node).await;
    for headers in [&[("origin", EVIL)][..], &[("origin", "null")], &[("sec-fetch-site", "cross-site")]] {
        let body = json!({"email": email, "password": PASSWORD, "cookies": true});
        let answer = Browser::new(&node).with(headers).post("/v1/auth/login", body).await;
        assert_rejected(&answer);
        assert!(answer.header("set-cookie").is_none());
    }
    assert_eq!(log_size(&node).await, size);
}

#[tokio::test(flavor = "multi_thread")]
async fn only_an_access_token_is_taken_from_a_cookie() {
    let node = Node::start().await;
    let admin = node.admin().await;
    let expires_at = operator().now + TimeDelta::days(1);
    let key = json!({"name": "gateway", "permissions": ["audit.read"], "expires_at": expires_at});
    let key = admin.post("/v1/api-keys", key).await.json["secret"].as_str().unwrap().to_owned();
    let bearer = Client { access_token: Some(key.clone()), ..node.anonymous() };
    assert_eq!(bearer.get("/v1/audit/events").await.status, 200);
    let with = |name: &str, value: &str| node.anonymous().with_header("cookie", &format!("{name}={value}"));
    let token = admin.access_token.unwrap();
    for (name, value) in
        [(ACCESS, key.as_str()), (ACCESS, ""), ("fulexo-access", &token), ("__host-fulexo-access", &token)]
    {
        assert_eq!(with(name, value).get("/v1/audit/events").await.status, 401, "{name}={value}");
    }
    let twice = format!("{ACCESS}={token}; {ACCESS}={token}");
    assert_eq!(node.anonymous().with_header("cookie", &twice).get("/v1/me").await.status, 401);
    assert_eq!(with(ACCESS, &token).get("/v1/me").await.status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_factor_leads_to_cookies_too_and_a_challenge_to_none() {
    let node = Node::start().await;
    let ann = node.customer().await;
    let started = ann.post_nothing("/v1/me/second-factor/totp").await;
    let app = Authenticator::of(started.json["secret"].as_str().unwrap());
    let code = json!({"code": app.code(0)});
    assert_eq!(ann.post("/v1/me/second-factor/totp/confirm", code).await.status, 200);
    let mut browser = Browser::new(&node);
    let challenge = browser.log_in(&ann.email).await;
    assert_eq!(challenge.json["status"], "second_factor_required");
    assert!(browser.cookies.is_empty());
    let body = json!({"challenge_token": challenge.json["challenge_token"], "code": app.code(1), "cookies": true});
    let answer = browser.with(&[]).post("/v1/auth/second-factor", body).await;
    assert_eq!(answer.json["status"], "authenticated_by_cookie", "{answer:?}");
    browser.keep(&answer);
    assert_eq!(browser.with(&[]).get("/v1/me").await.status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_browser_is_known_again_by_its_cookie_when_strangers_have_locked_the_address() {
    let node = Node::start().await;
    let (mut browser, email) = logged_in(&node, &["customer"]).await;
    for _ in 0..6 {
        let wrong = json!({"email": email, "password": "not-the-Passw0rd!"});
        assert_eq!(node.anonymous().post("/v1/auth/login", wrong).await.status, 401);
    }
    assert_eq!(Browser::new(&node).log_in(&email).await.status, 401, "locked for whoever is not known");
    assert_eq!(browser.log_in(&email).await.status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn no_page_of_another_origin_reads_an_answer_unless_its_origin_is_listed() {
    let node = with_origins(&format!("{PANEL}, http://localhost:3000"), &[]).await;
    let from = |origin: &str| node.anonymous().with_header("origin", origin);
    for origin in [PANEL, "http://localhost:3000"] {
        for (answer, status) in [
            (from(origin).get("/health/live").await, 200),
            (from(origin).get("/v1/me").await, 401),
            (from(origin).get("/x").await, 404),
        ] {
            assert_eq!(answer.status, status);
            assert_eq!(answer.header("access-control-allow-origin"), Some(origin), "{answer:?}");
            assert_eq!(answer.header("access-control-allow-credentials"), Some("true"));
            assert!(answer.header("access-control-expose-headers").unwrap().contains("log-position"));
            assert_eq!(answer.header("vary"), Some("origin"));
        }
    }
    for origin in
        ["https://panel.example.com:8443", "http://panel.example.com", EVIL, "null", "https://PANEL.example.com", "*"]
    {
        let answer = from(origin).get("/health/live").await;
        assert_eq!(answer.status, 200, "the browser keeps it from the page");
        assert!(answer.header("access-control-allow-origin").is_none(), "{answer:?}");
        assert_eq!(answer.header("vary"), Some("origin"));
    }
    let by_default = Node::start().await.anonymous().with_header("origin", PANEL).get("/health/live").await;
    assert!(by_default.header("access-control-allow-origin").is_none() && by_default.header("vary").is_none());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_preflight_is_answered_to_listed_origins_alone() {
    let node = with_origins(PANEL, &[]).await;
    let ask = async |origin: &str, path: &str| {
        let client = node.anonymous().with_header("origin", origin).with_header("access-control-request-method", "PUT");
        client
            .with_header("access-control-request-headers", "authorization")
            .send(Method::OPTIONS, path, None, "")
            .await
    };
    for path in ["/v1/policy", "/v1/auth/login", "/no/such/path"] {
        let answer = ask(PANEL, path).await;
        assert_eq!((answer.status, answer.text.as_str()), (204, ""), "{answer:?}");
        assert_eq!(answer.header("access-control-allow-origin"), Some(PANEL));
        assert!(answer.header("access-control-allow-methods").unwrap().contains("PUT"));
        for header in ["authorization", "x-csrf-token", "idempotency-key", "content-type"] {
            assert!(answer.header("access-control-allow-headers").unwrap().contains(header));
        }
        let answer = ask(EVIL, path).await;
        assert!(matches!(answer.status, 404 | 405), "{answer:?}");
        assert!(answer.headers.keys().all(|name| !name.as_str().starts_with("access-control")), "{answer:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_listed_page_is_told_that_it_asks_too_often_and_may_act_by_cookie() {
    let node = with_origins(PANEL, &[("FULEXO_RATE_LIMITS", "login=2/1h")]).await;
    let (email, _) = node.register(&["customer"]).await;
    let panel = |browser: &Browser| browser.with(&[("origin", PANEL), ("sec-fetch-site", "same-site")]);
    let mut browser = Browser::new(&node);
    let body = json!({"email": email, "password": PASSWORD, "cookies": true});
    for status in [200, 200, 429] {
        let answer = panel(&browser).post("/v1/auth/login", body.clone()).await;
        assert_eq!(answer.status, status, "{answer:?}");
        assert_eq!(answer.header("access-control-allow-origin"), Some(PANEL));
        browser.keep(&answer);
    }
    let acting = browser.with(&[("origin", PANEL), ("x-csrf-token", browser.token())]);
    assert_eq!(acting.post_nothing("/v1/me/sessions/revoke-others").await.status, 200);
}

/// D4.
#[tokio::test(flavor = "multi_thread")]
async fn a_neighbours_cookie_hides_no_token_and_keeps_nobody_logged_in() {
    let node = Node::start().await;
    for neighbour in ["city=Zürich", "a", "", "=", "x=\"y; z\"", "__Host-other=1", "fulexo=ÿþ"] {
        let (mut browser, _) = logged_in(&node, &["customer"]).await;
        let page = |browser: &Browser, cookies: &str| {
            let client = browser.client.with_header("cookie", cookies).with_header("x-csrf-token", browser.token());
            client.with_header("sec-fetch-site", "same-origin")
        };
        let own = browser.cookie_line();
        for line in
            [format!("{neighbour}; {own}"), format!("{own};{neighbour}"), format!("{neighbour};{own};{neighbour}")]
        {
            assert_eq!(page(&browser, &line).get("/v1/me").await.status, 200, "{line}");
        }
        let refreshed = page(&browser, &format!("{neighbour}; {own}")).post("/v1/auth/refresh", json!({})).await;
        assert_eq!(refreshed.status, 200, "{neighbour}: {refreshed:?}");
        browser.keep(&refreshed);
        let page = page(&browser, &format!("{neighbour}; {}", browser.cookie_line()));
        assert_eq!(page.post_nothing("/v1/auth/logout").await.status, 204, "{neighbour}");
        assert_eq!(page.get("/v1/auth/session").await.status, 401, "{neighbour}");
    }
}

/// Returns the causes of the ends of sessions in the log, in their order.
async fn ends(node: &Node) -> Vec<Value> {
    let leaves = leaves(&node.database).await.into_iter();
    leaves.filter(|leaf| leaf["type"] == "session.revoked").map(|leaf| leaf["data"]["by"].clone()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_page_signs_out_also_when_its_access_token_has_run_out() {
    let node = Node::start().await;
    let expired = |browser: &Browser| {
        // The service signed it long ago, or with an earlier key.
        let (head, _) = browser.cookies[ACCESS].rsplit_once('.').unwrap();
        format!("{head}.AAAA")
    };
    for (sent, kept) in [("none", false), ("expired", true)] {
        let (mut browser, _) = logged_in(&node, &["customer"]).await;
        let access = expired(&browser);
        browser.cookies.remove(ACCESS);
        if kept {
            browser.cookies.insert(ACCESS.to_owned(), access);
        }
        assert_eq!(browser.page().get("/v1/me").await.status, 401, "{sent}");
        let before = ends(&node).await.len();
        // Nobody else's page, and no page that was not told the token.
        let own = browser.client.url.clone();
        for headers in [
            &[("origin", own.as_str())][..],
            &[("origin", &own), ("x-csrf-token", "wrong")],
            &[("origin", EVIL), ("x-csrf-token", browser.token())],
        ] {
            assert_rejected(&browser.with(headers).post_nothing("/v1/auth/logout").await);
        }
        assert_eq!(ends(&node).await.len(), before, "{sent}");

        let refresh = browser.cookies[REFRESH].clone();
        let answer = browser.page().post_nothing("/v1/auth/logout").await;
        assert_eq!(answer.status, 204, "{sent}: {answer:?}");
        assert!(answer.header("log-position").is_some(), "{sent}: {answer:?}");
        assert_eq!(ends(&node).await[before..], [json!("owner")], "{sent}");
        let gone = browser.page();
        browser.keep(&answer);
        assert_eq!(browser.cookies.keys().collect::<Vec<_>>(), [DEVICE], "{sent}");
        let body = json!({"refresh_token": refresh});
        assert_eq!(node.anonymous().post("/v1/auth/refresh", body).await.status, 401, "{sent}");

        // A tab that still has them sends it once more: there is nothing left to end.
        let again = gone.post_nothing("/v1/auth/logout").await;
        assert_eq!((again.status, again.header("log-position")), (204, None), "{sent}: {again:?}");
        assert_eq!(again.headers.get_all("set-cookie").iter().count(), 2, "{sent}: {again:?}");
        assert_eq!(ends(&node).await.len(), before + 1, "{sent}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refresh_cookie_signs_out_its_own_session_alone() {
    let node = Node::start().await;
    let (ann, _) = logged_in(&node, &["customer"]).await;
    let (mut eve, _) = logged_in(&node, &["customer"]).await;
    eve.cookies.remove(ACCESS);
    // One is another session's, with the token of her own; others are made up.
    let own = eve.cookies[REFRESH].clone();
    // The change is not in its last letter, some of whose bits mean nothing and must be zero.
    let altered = format!("{}{}{}", &own[..60], if &own[60..61] == "A" { 'B' } else { 'A' }, &own[61..]);
    for (refresh, status) in
        [(ann.cookies[REFRESH].clone(), 403), ("A".repeat(70), 403), ("x".to_owned(), 401), (altered, 204)]
    {
        eve.cookies.insert(REFRESH.to_owned(), refresh);
        let answer = eve.page().post_nothing("/v1/auth/logout").await;
        assert_eq!((answer.status, answer.header("log-position")), (status, None), "{answer:?}");
    }
    assert!(ends(&node).await.is_empty());
    // A caller who presents a token is judged by that token.
    eve.cookies.insert(REFRESH.to_owned(), own);
    let both = Client { access_token: Some("a.b.c".to_owned()), ..eve.page() };
    assert_eq!(both.post_nothing("/v1/auth/logout").await.code(), "invalid_token");
    // And nothing else is done by it.
    for path in ["/v1/auth/step-up", "/v1/me/recovery-codes"] {
        assert_eq!(eve.page().post(path, json!({"password": PASSWORD})).await.status, 401, "{path}");
    }
    assert!(ends(&node).await.is_empty());
    assert_eq!(ann.page().get("/v1/me").await.status, 200);
}
