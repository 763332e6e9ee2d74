//! Texts that mean something to SQL or to a browser are plain text here, in every place that takes them.

use fulexo_tests::{Client, Node, superuser};
use hyper::Method;
use serde_json::{Value, json};
use sqlx::PgPool;

use crate::assert_problem;
use fulexo_tests::spec::operations;

const HOSTILE: [&str; 10] = [
    "' or '1'='1",
    "'; drop table log.event; --",
    "\"; delete from vault.credential; /*",
    "$1); update read.account set roles = '{admin}'; --",
    "\\'; select pg_sleep(10); --",
    "%' union select verifier from vault.credential --",
    "_%*?{}[]()$$",
    "{admin}",
    "<script>alert(1)</script>",
    "\u{2028}'\u{202e}--\u{feff}",
];

/// Returns the value with every text in it replaced.
fn with_texts(value: &Value, text: &str) -> Value {
    match value {
        Value::String(_) => json!(text),
        Value::Array(items) => items.iter().map(|item| with_texts(item, text)).collect(),
        Value::Object(members) => members.iter().map(|(name, value)| (name.clone(), with_texts(value, text))).collect(),
        other => other.clone(),
    }
}

/// Returns the text as it is written in a path or a query (RFC 3986, section 2.1).
fn encoded(text: &str) -> String {
    text.bytes().map(|byte| format!("%{byte:02x}")).collect()
}

/// Returns what a smuggled statement would change: tables, columns, roles and the sizes of tables that no test touches.
async fn inventory(pool: &PgPool) -> (i64, i64, Vec<(String, Vec<String>)>) {
    let columns: i64 =
        sqlx::query_scalar("select count(*) from information_schema.columns").fetch_one(pool).await.unwrap();
    let credentials: i64 = sqlx::query_scalar("select count(*) from vault.credential where kind = 'password'")
        .fetch_one(pool)
        .await
        .unwrap();
    let roles = "select account_id::text, roles from read.account order by 1";
    (columns, credentials, sqlx::query_as(roles).fetch_all(pool).await.unwrap())
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_sent_to_any_operation_reaches_sql_as_more_than_a_value() {
    let node = Node::start().await;
    let (email, account) = node.register(&["admin", "customer"]).await;
    node.log_in(&email, account).await;
    let pool = superuser(&node.database).await;
    let before = inventory(&pool).await;
    for operation in operations() {
        // An own operation may have ended the session.
        let admin = node.log_in(&email, account).await;
        for text in HOSTILE {
            let hostile = |_: &str, _: &Value| json!(encoded(text));
            let target = operation.target(hostile);
            let body = operation.body(account).filter(|_| operation.reads_json());
            let body = body.map(|body| with_texts(&body, text).to_string()).unwrap_or_default();
            let mut query = String::new();
            for name in operation.names("query") {
                query.push_str(&format!("{}{name}={}", if query.is_empty() { "?" } else { "&" }, encoded(text)));
            }
            let target = format!("{}{query}", target.split('?').next().unwrap());
            let client = admin.with_header("idempotency-key", "'; drop table log.command; --");
            for client in [&admin, &client] {
                let answer = operation.send(client, &target, &body).await;
                assert!(answer.status < 500, "{} {text}: {answer:?}", operation.id);
                if answer.status >= 400 {
                    assert_problem(&answer, answer.status, answer.code());
                }
            }
        }
    }
    assert_eq!(inventory(&pool).await, before);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_sent_comes_back_as_it_was_and_as_no_page() {
    let node = Node::start().await;
    let ann = node.customer().await;
    for text in HOSTILE {
        let body = json!({"display_name": text}).to_string();
        let answer = ann.send(Method::PATCH, "/v1/me", Some("application/json"), &body).await;
        if answer.status == 400 {
            // A name may not have control characters.
            assert!(text.contains('\u{2028}') || text.contains('\u{202e}'), "{text}: {answer:?}");
            continue;
        }
        let me = ann.seeing(answer.position()).get("/v1/me").await;
        assert_eq!(me.json["display_name"], text.trim(), "{me:?}");
        assert!(me.header("content-type").unwrap().starts_with("application/json"));
        assert_eq!(me.header("x-content-type-options"), Some("nosniff"));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn no_text_logs_anybody_in() {
    let node = Node::start().await;
    let (email, _) = node.register(&["admin"]).await;
    for text in HOSTILE {
        for (address, password) in [(email.clone(), text.to_owned()), (format!("{email}{text}"), text.to_owned())] {
            let body = json!({"email": address, "password": password, "device_token": text});
            let answer = node.anonymous().post("/v1/auth/login", body).await;
            assert!([400, 401].contains(&answer.status), "{answer:?}");
        }
        let stranger = Client { access_token: Some("x".into()), ..node.anonymous() };
        let answer = stranger.with_header("cookie", "__Host-fulexo-access=' or 1=1 --").get("/v1/me").await;
        assert_eq!(answer.status, 401, "{answer:?}");
    }
}
