//! The remains of a person in the database: nothing that can be read without the keys, which are not in it.

use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::{STANDARD, STANDARD_NO_PAD, URL_SAFE, URL_SAFE_NO_PAD};
use fulexo_tests::{Client, Column, Database, Node, columns};
use hyper::Method;
use serde_json::json;

use super::superuser;

const EMAIL: &str = "Zanzibar.Quokka@heliotrope.example";
const NAME: &str = "Wilhelmina Thistlewood";
const ADDRESS: &str = "203.0.113.77";
const AGENT: &str = "Bandersnatch/7.7 (Jabberwock)";
const REASON: &str = "because of the marmalade affair";
const PASSWORDS: [&str; 3] = ["correct-Horse7battery", "kestrel-Over9thefen", "Wrong-guess4ofmine"];

/// Returns the forms in which a text may have been written down.
fn spellings(needle: &[u8]) -> Vec<Vec<u8>> {
    let lower = needle.to_ascii_lowercase();
    let hex: String = needle.iter().map(|byte| format!("{byte:02x}")).collect();
    let mut spellings = vec![needle.to_vec(), lower.clone(), needle.to_ascii_uppercase(), hex.into_bytes()];
    for text in [needle, &lower] {
        for engine in [&STANDARD, &STANDARD_NO_PAD, &URL_SAFE, &URL_SAFE_NO_PAD] {
            spellings.push(engine.encode(text).into_bytes());
            // Inside a longer text it begins at any of three bits: this part is the same in each of them.
            for skipped in 0..3 {
                let whole = text.get(skipped..).unwrap_or_default();
                let whole = whole.get(..whole.len() / 3 * 3).unwrap_or_default();
                spellings.push(engine.encode(whole).into_bytes());
            }
        }
    }
    spellings
}

/// Returns the columns that hold the text.
fn found(columns: &[Column], needle: &[u8]) -> Vec<String> {
    assert!(needle.len() >= 8, "too short to be found by chance alone");
    let spellings = spellings(needle);
    let holds =
        |value: &Vec<u8>| spellings.iter().any(|spelling| value.windows(spelling.len()).any(|at| at == spelling));
    columns.iter().filter(|column| column.values.iter().any(holds)).map(|column| column.name.clone()).collect()
}

/// Has everything happen to an account, whose owner every word gives away.
async fn live(node: &Node) -> (Client, Vec<String>) {
    let mut secrets = PASSWORDS.map(str::to_owned).to_vec();
    let admin = node.admin().await;
    let mut client = node.anonymous();
    client.headers = vec![("x-forwarded-for".into(), ADDRESS.into()), ("user-agent".into(), AGENT.into())];
    let register = client.with_header("idempotency-key", "a key of theirs");
    let body = json!({"email": EMAIL, "password": PASSWORDS[0], "display_name": NAME});
    let registered = register.post("/v1/auth/register", body).await;
    assert_eq!(registered.status, 201, "{registered:?}");
    client.account = registered.json["account_id"].as_str().unwrap().parse().unwrap();

    let log_in = async |password: &str, key: &str| {
        let body = json!({"email": EMAIL, "password": password});
        client.with_header("idempotency-key", key).post("/v1/auth/login", body).await
    };
    assert_eq!(log_in(PASSWORDS[2], "another key").await.status, 401);
    let nobody = json!({"email": format!("not.{EMAIL}"), "password": PASSWORDS[2]});
    assert_eq!(client.post("/v1/auth/login", nobody).await.status, 401);
    let login = log_in(PASSWORDS[0], "a third key").await;
    let mut client = Client { email: EMAIL.into(), ..client.clone() };
    client.log_in_with(&login);
    let refresh = json!({"refresh_token": client.refresh_token});
    let refreshed = client.with_header("idempotency-key", "a fourth key").post("/v1/auth/refresh", refresh).await;
    for answer in [&login, &refreshed] {
        assert_eq!(answer.status, 200, "{answer:?}");
        let tokens = ["access_token", "refresh_token", "device_token"].map(|name| answer.json[name].as_str());
        secrets.extend(tokens.into_iter().flatten().map(str::to_owned));
    }
    client.log_in_with(&refreshed);
    let path = format!("/v1/accounts/{}/roles", client.account);
    let granted = admin.post(&path, json!({"role": "auditor", "reason": REASON})).await;
    assert_eq!(granted.status, 204, "{granted:?}");
    let reason = json!({"reason": REASON}).to_string();
    let revoked = admin.send(Method::DELETE, &format!("{path}/auditor"), Some("application/json"), &reason).await;
    assert_eq!(revoked.status, 200, "{revoked:?}");
    let change = json!({"current_password": PASSWORDS[0], "new_password": PASSWORDS[1]});
    let changed = client.with_header("idempotency-key", "a fifth key").post("/v1/me/password", change).await;
    assert_eq!(changed.status, 204, "{changed:?}");
    for _ in 0..5 {
        assert_eq!(log_in(PASSWORDS[2], "").await.status, 400, "an empty key is refused");
        let body = json!({"email": EMAIL, "password": PASSWORDS[2]});
        assert_eq!(client.post("/v1/auth/login", body).await.status, 401);
    }
    let last = super::log_size(node).await - 1;
    for list in ["/v1/accounts", "/v1/sessions", "/v1/audit/events"] {
        assert_eq!(admin.seeing(last).get(list).await.status, 200);
    }
    (client, secrets)
}

async fn start() -> Node {
    let database = Arc::new(Database::create().await);
    let mut env = database.env();
    env.insert("TRUSTED_PROXIES".into(), "127.0.0.1/32".into());
    Node::with(&database, env).await
}

#[tokio::test(flavor = "multi_thread")]
async fn no_column_of_any_table_holds_personal_data_in_clear() {
    let node = start().await;
    let (client, _) = live(&node).await;
    let columns = columns(&superuser(&node.database).await).await;
    let whole = [EMAIL, NAME, ADDRESS, AGENT, REASON];
    let parts = [
        "Zanzibar.Quokka",
        "heliotrope.example",
        "Wilhelmina",
        "Thistlewood",
        "Bandersnatch",
        "Jabberwock",
        "marmalade",
    ];
    for needle in whole.into_iter().chain(parts) {
        assert_eq!(found(&columns, needle.as_bytes()), Vec::<String>::new(), "{needle} is in the database");
    }
    // The search finds texts that are known to be there.
    let ids = found(&columns, client.account.to_string().as_bytes());
    for expected in ["log.event.leaf", "log.stream.stream_id", "read.account.account_id", "access.session.account_id"] {
        assert!(ids.contains(&expected.to_owned()), "{expected} is not searched: {ids:?}");
    }
    let in_leaves = found(&columns, b"session.refreshed");
    assert!(in_leaves.contains(&"log.event.leaf".to_owned()), "{in_leaves:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn no_column_of_any_table_holds_a_password_or_a_token_or_a_bare_verifier() {
    let node = start().await;
    let (_, secrets) = live(&node).await;
    assert_eq!(secrets.len(), PASSWORDS.len() + 5);
    let columns = columns(&superuser(&node.database).await).await;
    for secret in &secrets {
        assert_eq!(found(&columns, secret.as_bytes()), Vec::<String>::new(), "a secret is in the database");
        // Of a token, this is the secret part: a signature, or the part after the ids.
        let last = secret.rsplit('.').next().unwrap();
        let Ok(bytes) = URL_SAFE_NO_PAD.decode(last) else { continue };
        let secret_part = bytes.get(bytes.len().saturating_sub(16)..).unwrap();
        assert_eq!(found(&columns, secret_part), Vec::<String>::new(), "the secret of a token is in the database");
    }
    for mark in [b"$2b$".as_slice(), b"$2a$", b"$2y$"] {
        let holds = |value: &Vec<u8>| value.windows(mark.len()).any(|at| at == mark);
        let bare: Vec<_> = columns.iter().filter(|column| column.values.iter().any(holds)).map(|c| &c.name).collect();
        assert!(bare.is_empty(), "a verifier stands bare in {bare:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_may_still_reads_all_of_it() {
    let node = start().await;
    let (client, _) = live(&node).await;
    let me = client.get("/v1/me").await;
    assert_eq!((&me.json["email"], &me.json["display_name"]), (&json!(EMAIL), &json!(NAME)));
    let session = client.get("/v1/me/sessions").await.json["items"][0].clone();
    assert_eq!((&session["ip"], &session["user_agent"]), (&json!(ADDRESS), &json!(AGENT)));
}
