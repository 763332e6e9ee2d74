//! Step-up by a code: it elevates the session, and the session is one of two factors from then on.

use chrono::TimeDelta;
use fulexo_tests::{Node, PASSWORD};
use serde_json::{Value, json};

use super::{CODES, Owner, STEP_UP, assert_refused, assert_step_up_required, leaves_of, log_size, refreshed, step_up};

#[tokio::test(flavor = "multi_thread")]
async fn a_code_elevates_the_session_and_adds_its_method() {
    let node = Node::start().await;
    let (ann, older) = Owner::with_older_session(&node).await;
    let stale = node.as_if_logged_in(TimeDelta::minutes(11), &older, &["customer"]);
    assert_step_up_required(&stale.post_nothing(CODES).await);
    assert_eq!(older.get("/v1/auth/session").await.json["methods"], json!(["pwd"]));
    let elevated = step_up(&stale, &ann.code(&node).await).await;
    assert_eq!(elevated.status, 200, "{elevated:?}");
    let session = stale.get("/v1/auth/session").await;
    assert_eq!(session.json["elevated_until"], elevated.json["elevated_until"]);
    assert_eq!(stale.post_nothing(CODES).await.status, 200);
    let after = refreshed(&older).await;
    assert_eq!(after.get("/v1/auth/session").await.json["methods"], json!(["pwd", "otp"]));
    assert_eq!(refreshed(&after).await.get("/v1/auth/session").await.json["methods"], json!(["pwd", "otp"]));

    let confirmed = leaves_of(&node.database, ann.client.account, "authentication.confirmed").await;
    assert_eq!((confirmed.len(), &confirmed[0]["data"]["factor"]), (1, &json!("second_factor")));
    let elevated = leaves_of(&node.database, ann.client.account, "session.elevated").await;
    assert_eq!((elevated.len(), &elevated[1]["data"]["methods"]), (2, &json!(["otp"])), "the first is the enrolment's");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_recovery_code_elevates_once() {
    let node = Node::start().await;
    let ann = Owner::customer(&node).await;
    let stale = node.as_if_logged_in(TimeDelta::minutes(11), &ann.client, &["customer"]);
    let elevated = step_up(&stale, &ann.recovery[7]).await;
    assert_eq!(elevated.status, 200, "{elevated:?}");
    let me = stale.seeing(elevated.position()).get("/v1/me").await;
    assert_eq!(me.json["second_factor"]["recovery_codes"], json!(9));
    assert_refused(&step_up(&stale, &ann.recovery[7]).await);
    assert_eq!(refreshed(&ann.client).await.get("/v1/auth/session").await.json["methods"], json!(["pwd", "otp"]));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_password_adds_no_second_method() {
    let node = Node::start().await;
    let ann = node.customer().await;
    assert_eq!(ann.post(STEP_UP, json!({"password": PASSWORD})).await.status, 200);
    assert_eq!(refreshed(&ann).await.get("/v1/auth/session").await.json["methods"], json!(["pwd"]));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_code_elevates_nothing() {
    let node = Node::start().await;
    let ((ann, older), eve) = (Owner::with_older_session(&node).await, Owner::customer(&node).await);
    let bob = node.customer().await;
    let stale = node.as_if_logged_in(TimeDelta::minutes(11), &older, &["customer"]);
    for code in [ann.wrong_code(), eve.code(&node).await, eve.recovery[0].clone()] {
        assert_refused(&step_up(&stale, &code).await);
    }
    assert_step_up_required(&stale.post_nothing(CODES).await);
    assert_eq!(refreshed(&older).await.get("/v1/auth/session").await.json["methods"], json!(["pwd"]));
    assert_refused(&step_up(&bob, &eve.code(&node).await).await);
    let failed = leaves_of(&node.database, bob.account, "authentication.failed").await;
    assert_eq!(failed[0]["data"]["reason"], json!("wrong_code"), "who has no second factor has no right code");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_step_up_takes_a_password_or_a_code_and_not_both_or_neither() {
    let node = Node::start().await;
    let ann = Owner::customer(&node).await;
    let (code, size) = (ann.code(&node).await, log_size(&node).await);
    let both = json!({"password": PASSWORD, "code": code});
    for body in [both, json!({}), json!({"password": Value::Null, "code": Value::Null}), json!({"otp": code})] {
        let answer = ann.client.post(STEP_UP, body).await;
        assert_eq!((answer.status, answer.code()), (400, "invalid_input"), "{answer:?}");
    }
    assert_eq!(log_size(&node).await, size);
    assert_eq!(step_up(&ann.client, &code).await.status, 200, "none of them has spent the code");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_step_up_by_code_repeated_under_its_key_gives_what_it_gave() {
    let node = Node::start().await;
    let ann = Owner::customer(&node).await;
    let client = ann.client.with_header("idempotency-key", "a key");
    let code = ann.code(&node).await;
    let first = step_up(&client, &code).await;
    let again = step_up(&client, &code).await;
    assert_eq!((again.status, &again.json), (200, &first.json), "{again:?}");
    let other = step_up(&client, &ann.wrong_code()).await;
    assert_eq!((other.status, other.code()), (409, "idempotency_key_reused"), "{other:?}");
    assert_eq!(leaves_of(&node.database, ann.client.account, "session.elevated").await.len(), 2, "and the enrolment's");
    let by_another_session = step_up(&ann.log_in(&node).await.with_header("idempotency-key", "a key"), &code).await;
    assert_ne!(by_another_session.status, 200, "{by_another_session:?}");
}
