//! Refused logins cannot be told apart, for any reason.

use fulexo_tests::{Node, PASSWORD};
use serde_json::json;

use super::log_in;
use crate::seen;

#[tokio::test(flavor = "multi_thread")]
async fn unknown_wrong_and_locked_look_the_same() {
    let node = Node::start().await;
    let nobody = node.anonymous();
    let (email, _) = node.register(&["customer"]).await;
    let unknown = log_in(&nobody, "nobody@example.com", PASSWORD).await;
    let wrong = log_in(&nobody, &email, "wrong").await;
    for _ in 0..4 {
        assert_eq!(seen(&log_in(&nobody, &email, "wrong").await), seen(&wrong), "also the one that locks");
    }
    let locked_wrong = log_in(&nobody, &email, "wrong").await;
    let locked_right = log_in(&nobody, &email, PASSWORD).await;
    for other in [&wrong, &locked_wrong, &locked_right] {
        assert_eq!(seen(&unknown), seen(other));
    }
    assert_eq!((unknown.status, unknown.code()), (401, "invalid_credentials"));
    assert_eq!(unknown.header("log-position"), None, "a position would say that something was recorded");
}

#[tokio::test(flavor = "multi_thread")]
async fn passwords_of_any_length_and_device_tokens_of_any_kind_look_the_same() {
    let node = Node::start().await;
    let nobody = node.anonymous();
    let wrong = log_in(&nobody, &node.register(&["customer"]).await.0, "wrong").await;
    for password in ["", "\u{0}", &"x".repeat(73), &"x".repeat(10_000), "pässwörd 🔑"] {
        let (email, _) = node.register(&["customer"]).await;
        assert_eq!(seen(&log_in(&nobody, &email, password).await), seen(&wrong), "{} bytes", password.len());
    }
    let (email, _) = node.register(&["customer"]).await;
    for device_token in ["", "x", &"A".repeat(43)] {
        let body = json!({"email": email, "password": "wrong", "device_token": device_token});
        assert_eq!(seen(&nobody.post("/v1/auth/login", body).await), seen(&wrong), "{device_token:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn refused_refreshes_look_the_same() {
    let node = Node::start().await;
    let (ended, spent) = (node.customer().await, node.customer().await);
    assert_eq!(ended.post_nothing("/v1/auth/logout").await.status, 204);
    let refresh = async |token: &str| node.anonymous().post("/v1/auth/refresh", json!({"refresh_token": token})).await;
    let second = refresh(&spent.refresh_token).await.json["refresh_token"].as_str().unwrap().to_owned();
    assert_eq!(refresh(&second).await.status, 200);
    let garbage = refresh("garbage").await;
    assert_eq!(garbage.status, 401);
    for token in [&ended.refresh_token, &spent.refresh_token, &second, &"A".repeat(70)] {
        assert_eq!(seen(&refresh(token).await), seen(&garbage));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unknown_address_costs_a_hash_as_a_known_one_does() {
    // At cost 12 a hash takes so long that nothing else matters.
    let database = std::sync::Arc::new(fulexo_tests::Database::create().await);
    let mut env = database.env();
    env.insert("FULEXO_BCRYPT_COST".into(), "12".into());
    let node = Node::with(&database, env).await;
    let (email, _) = node.register(&["customer"]).await;
    let nobody = node.anonymous();
    let time_of = async |address: &str| {
        let began = std::time::Instant::now();
        log_in(&nobody, address, "wrong").await;
        began.elapsed().as_secs_f64()
    };
    // The fastest of a few, in turn: any other work of the machine makes either one slower.
    let (mut known, mut unknown) = (f64::INFINITY, f64::INFINITY);
    for _ in 0..5 {
        known = known.min(time_of(&email).await);
        unknown = unknown.min(time_of("nobody@example.com").await);
    }
    assert!(unknown > known / 3.0, "known: {known:.3} s, unknown: {unknown:.3} s");
}
