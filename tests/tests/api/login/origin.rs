//! The origin of a login: the socket, or the address that our own proxy reports.

use std::sync::Arc;

use fulexo_tests::{Client, Database, Node, PASSWORD};
use serde_json::{Value, json};

/// Logs in with these headers, and reads the address in the list of sessions.
async fn shown(node: &Node, headers: &[(&str, &str)]) -> Value {
    let (email, _) = node.register(&["customer"]).await;
    let mut client = node.anonymous();
    client.headers = headers.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
    let login = client.post("/v1/auth/login", json!({"email": email, "password": PASSWORD})).await;
    client.log_in_with(&login);
    let client = Client { headers: Vec::new(), ..client };
    let sessions = client.seeing(login.position()).get("/v1/me/sessions").await;
    assert_eq!(sessions.json["items"].as_array().map(Vec::len), Some(1), "{sessions:?}");
    sessions.json["items"][0].clone()
}

async fn behind(proxies: &str) -> Node {
    let database = Arc::new(Database::create().await);
    let mut env = database.env();
    env.insert("TRUSTED_PROXIES".into(), proxies.into());
    Node::with(&database, env).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_cannot_name_its_own_address() {
    let node = Node::start().await;
    let elsewhere = behind("192.0.2.0/24").await;
    for (name, value) in [
        ("x-forwarded-for", "203.0.113.9"),
        ("forwarded", "for=203.0.113.9"),
        ("x-real-ip", "203.0.113.9"),
        ("cf-connecting-ip", "203.0.113.9"),
        ("true-client-ip", "203.0.113.9"),
    ] {
        assert_eq!(shown(&node, &[(name, value)]).await["ip"], "127.0.0.1", "{name}");
        assert_eq!(shown(&elsewhere, &[(name, value)]).await["ip"], "127.0.0.1", "{name}: the proxy is another one");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_word_of_a_trusted_proxy_is_taken() {
    let node = behind("127.0.0.1/32").await;
    assert_eq!(shown(&node, &[("x-forwarded-for", "203.0.113.9")]).await["ip"], "203.0.113.9");
    assert_eq!(shown(&node, &[("forwarded", "for=203.0.113.9")]).await["ip"], "203.0.113.9");
    assert_eq!(shown(&node, &[]).await["ip"], "127.0.0.1");
}

#[tokio::test(flavor = "multi_thread")]
async fn of_a_proxys_list_only_what_it_wrote_itself_counts() {
    let node = behind("127.0.0.1/32").await;
    let forged = [("x-forwarded-for", "198.51.100.1, 203.0.113.9")];
    assert_eq!(shown(&node, &forged).await["ip"], "203.0.113.9");
    let forged = [("x-forwarded-for", "198.51.100.1, nonsense")];
    assert_eq!(shown(&node, &forged).await["ip"], "127.0.0.1");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_user_agent_of_the_login_is_shown_to_its_owner() {
    let node = Node::start().await;
    assert_eq!(shown(&node, &[("user-agent", "Quokka/7.7")]).await["user_agent"], "Quokka/7.7");
    assert_eq!(shown(&node, &[]).await["user_agent"], Value::Null);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_shows_where_it_began_and_where_it_was_last_refreshed_from() {
    let node = behind("127.0.0.0/8").await;
    let (email, account) = node.register(&["customer"]).await;
    let at = |ip: &'static str, browser: &'static str| {
        node.anonymous().with_header("x-forwarded-for", ip).with_header("user-agent", browser)
    };
    let login = json!({"email": email, "password": PASSWORD});
    let login = at("203.0.113.9", "Quokka/7.7").post("/v1/auth/login", login).await;
    let mut ann = Client { account, ..node.anonymous() };
    ann.log_in_with(&login);
    let shown = async |ann: &Client| ann.get("/v1/me/sessions").await.json["items"][0].clone();
    let origin = |session: &Value| {
        let text = |name: &str| session[name].as_str().map(str::to_owned);
        [text("ip"), text("user_agent"), text("last_seen_ip"), text("last_seen_user_agent")]
    };
    let expected = |from: [&str; 4]| from.map(|text| Some(text.to_owned()));
    let session = shown(&ann).await;
    assert_eq!(origin(&session), expected(["203.0.113.9", "Quokka/7.7", "203.0.113.9", "Quokka/7.7"]));
    assert_eq!(session["last_seen_at"], session["started_at"]);

    let elsewhere = at("198.51.100.7", "Quokka/7.8");
    let refreshed = elsewhere.post("/v1/auth/refresh", json!({"refresh_token": ann.refresh_token})).await;
    assert_eq!(refreshed.status, 200, "{refreshed:?}");
    let position = refreshed.position();
    ann.log_in_with(&refreshed);
    let session = shown(&ann).await;
    assert_eq!(origin(&session), expected(["203.0.113.9", "Quokka/7.7", "198.51.100.7", "Quokka/7.8"]));
    assert_ne!(session["last_seen_at"], session["started_at"]);
    let admin = node.admin().await;
    let of_ann = |as_of: String| format!("/v1/sessions?account_id={account}{as_of}");
    let listed = admin.get(&of_ann(String::new())).await.json["items"][0].clone();
    assert_eq!(origin(&listed), origin(&session), "{listed}");
    let before = admin.get(&of_ann(format!("&as_of={}", position - 1))).await.json["items"][0].clone();
    assert_eq!(before["last_seen_ip"], "203.0.113.9", "as it was before: {before}");
}
