//! The address that a login over HTTPS comes from.

use fulexo_tests::{Client, PASSWORD};
use serde_json::json;

use crate::Served;

/// Logs in with this header, and reads the address in the list of sessions.
async fn address(served: &Served, header: Option<(&str, &str)>) -> String {
    let (email, _) = served.node.register(&["customer"]).await;
    let mut client = served.anonymous();
    client.headers = header.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
    let login = client.post("/v1/auth/login", json!({"email": email, "password": PASSWORD})).await;
    client.log_in_with(&login);
    let client = Client { headers: Vec::new(), ..client };
    let sessions = client.seeing(login.position()).get("/v1/me/sessions").await;
    sessions.json["items"][0]["ip"].as_str().unwrap_or_else(|| panic!("{sessions:?}")).to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn it_is_the_sockets_whatever_the_client_says() {
    let served = Served::start().await;
    assert_eq!(address(&served, None).await, "127.0.0.1");
    assert_eq!(address(&served, Some(("x-forwarded-for", "203.0.113.9"))).await, "127.0.0.1");
}

#[tokio::test(flavor = "multi_thread")]
async fn it_is_what_a_trusted_proxy_that_speaks_tls_says() {
    let served = Served::with(&[("TRUSTED_PROXIES", "127.0.0.1/32")]).await;
    assert_eq!(address(&served, Some(("x-forwarded-for", "203.0.113.9"))).await, "203.0.113.9");
    assert_eq!(address(&served, None).await, "127.0.0.1");
}
