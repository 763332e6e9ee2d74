//! Where a login came from: the socket, or what our own proxy says of it.

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
