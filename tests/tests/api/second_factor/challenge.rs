//! The two steps of a login, and the validity of the token between them: one step, for five minutes, as long as the
//! account's factors do not change.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use chrono::TimeDelta;
use fulexo_commands::{Credentials, LoginResult};
use fulexo_domain::password::Password;
use fulexo_domain::values::{CodeInput, EmailAddress};
use fulexo_tests::{Client, Node, PASSWORD, operator};
use hyper::Method;
use serde_json::{Value, json};
use uuid::Uuid;

use super::{
    CONFIRM, NEW_PASSWORD, Owner, SECOND_FACTOR, TOTP, act, assert_no_token, assert_refused, challenge_of,
    change_policy, confirm, leaves_of, log_in, log_size, outcomes, present, recovery_codes, sessions, start, superuser,
};
use crate::seen;

/// Returns the challenge of a login this long ago.
async fn challenge_from(node: &Node, email: &str, ago: TimeDelta) -> String {
    let mut context = operator();
    context.now -= ago;
    let email = EmailAddress::parse(email).unwrap();
    let credentials = Credentials { email, password: Password::new(PASSWORD.to_owned()), device_token: None };
    match node.app().commands.login(&context, credentials).await.unwrap().value {
        LoginResult::Challenge(challenged) => challenged.token.to_string(),
        LoginResult::Session(_) => unreachable!("no second factor was asked for"),
    }
}

async fn change_password(client: &Client) {
    let change = json!({"current_password": PASSWORD, "new_password": NEW_PASSWORD});
    assert_eq!(client.post("/v1/me/password", change).await.status, 204);
}

/// Returns the same token with some bits of one byte of its content changed.
fn altered(token: &str, byte: usize, bits: u8) -> String {
    let mut bytes = URL_SAFE_NO_PAD.decode(token).unwrap();
    bytes[byte] ^= bits;
    URL_SAFE_NO_PAD.encode(bytes)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_login_with_a_second_factor_takes_two_steps() {
    let node = Node::start().await;
    let ann = Owner::customer(&node).await;
    let login = log_in(&node, &ann.client.email).await;
    let challenge = challenge_of(&login);
    for absent in ["access_token", "refresh_token", "session_id", "device_token"] {
        assert!(login.json.get(absent).is_none(), "{absent}: {login:?}");
    }
    assert_eq!((&login.json["methods"], &login.json["expires_in"]), (&json!(["totp", "recovery_code"]), &json!(300)));
    assert_eq!(login.header("cache-control"), Some("no-store"));
    let answer = present(&node, &challenge, &ann.code(&node).await).await;
    assert_eq!((answer.status, &answer.json["status"]), (200, &json!("authenticated")), "{answer:?}");
    let mut client = node.anonymous();
    client.log_in_with(&answer);
    let session = client.get("/v1/auth/session").await;
    assert_eq!((&session.json["methods"], session.status), (&json!(["pwd", "otp"]), 200));
    assert_eq!(client.post_nothing(TOTP).await.status, 200, "it is elevated");
    let succeeded = leaves_of(&node.database, ann.client.account, "authentication.succeeded").await;
    assert_eq!(succeeded.last().unwrap()["data"]["methods"], json!(["pwd", "otp"]));
    let required = leaves_of(&node.database, ann.client.account, "authentication.second_factor_required").await;
    assert_eq!(required.len(), 1);
    assert_eq!(required[0]["data"], json!({"enrolled": true}));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_password_leads_to_no_challenge() {
    let node = Node::start().await;
    let (ann, eve) = (Owner::customer(&node).await, node.customer().await);
    let wrong = |email: &str| {
        let (client, body) = (node.anonymous(), json!({"email": email, "password": "not-the-Passw0rd!"}));
        async move { client.post("/v1/auth/login", body).await }
    };
    assert_eq!(seen(&wrong(&ann.client.email).await), seen(&wrong(&eve.email).await), "nobody learns who has one");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_login_half_way_is_no_session() {
    let node = Node::start().await;
    let ann = Owner::customer(&node).await;
    let before = sessions(&node, ann.client.account).await;
    for _ in 0..3 {
        ann.challenge(&node).await;
    }
    assert_refused(&present(&node, &ann.challenge(&node).await, &ann.wrong_code()).await);
    assert_eq!(sessions(&node, ann.client.account).await, before);
    let shown = ann.client.seeing(log_size(&node).await - 1).get("/v1/me/sessions").await;
    assert_eq!(shown.json["items"].as_array().unwrap().len(), 1);
    assert_eq!(leaves_of(&node.database, ann.client.account, "session.started").await.len(), 1);
    let roots = "select count(*) from vault.refresh_root where account_id = $1";
    assert_eq!(super::count(&node, roots, ann.client.account).await, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_challenge_opens_nothing_by_itself() {
    let node = Node::start().await;
    let ann = Owner::customer(&node).await;
    let challenge = ann.challenge(&node).await;
    let bearer = Client { access_token: Some(challenge.clone()), ..node.anonymous() };
    for path in ["/v1/auth/session", "/v1/me", "/v1/me/sessions", "/v1/me/events"] {
        assert_no_token(&bearer.get(path).await);
    }
    let (pending, _) = start(&ann.client).await;
    assert_no_token(&bearer.post_nothing(TOTP).await);
    assert_no_token(&confirm(&bearer, &pending.code(1)).await);
    assert_no_token(&bearer.delete(TOTP).await);
    let change = json!({"current_password": PASSWORD, "new_password": NEW_PASSWORD});
    assert_no_token(&bearer.post("/v1/me/password", change).await);
    assert_refused(&node.anonymous().post("/v1/auth/refresh", json!({"refresh_token": challenge})).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn whatever_is_wrong_with_a_challenge_the_refusal_is_the_same() {
    let node = Node::start().await;
    let admin = node.admin().await;
    let (ann, eve) = (Owner::customer(&node).await, Owner::customer(&node).await);
    let good = ann.challenge(&node).await;
    let refused = seen(&present(&node, &good, &ann.wrong_code()).await);
    assert_eq!(refused.0, 401);
    assert!(!refused.1.contains_key("log-position"), "a position would say that something was recorded");

    let bytes = URL_SAFE_NO_PAD.decode(&good).unwrap();
    let others = URL_SAFE_NO_PAD.decode(eve.challenge(&node).await).unwrap();
    let of_eve = |range: std::ops::Range<usize>| {
        let mut bytes = bytes.clone();
        bytes[range.clone()].copy_from_slice(&others[range]);
        URL_SAFE_NO_PAD.encode(bytes)
    };
    let nobody = [&bytes[..2], Uuid::nil().as_bytes(), &bytes[18..]].concat();
    let [access, refresh, device] =
        [ann.client.access_token.clone().unwrap(), ann.client.refresh_token.clone(), ann.client.device_token.clone()];
    let mut wrong = vec![
        String::new(),
        "garbage".to_owned(),
        "\u{0}".to_owned(),
        "A".repeat(99),
        "ä".repeat(99),
        format!("{good}A"),
        format!("{good}="),
        format!(" {good}"),
        good.get(..98).unwrap().to_owned(),
        good.get(..50).unwrap().to_owned(),
        good.get(1..).unwrap().to_owned(),
        good.to_lowercase(),
        URL_SAFE_NO_PAD.encode(&bytes[..73]),
        URL_SAFE_NO_PAD.encode(nobody),
        // Another account replaces its own, and another's seal its seal.
        of_eve(2..18),
        of_eve(42..74),
        of_eve(2..74),
        access,
        refresh,
        device,
        challenge_from(&node, &ann.client.email, TimeDelta::minutes(6)).await,
    ];
    // The bytes hold its purpose, its account, its origin, its end, and the seal.
    wrong.extend((0..74).filter(|byte| *byte != 1).map(|byte| altered(&good, byte, 1)));
    wrong.extend((2..8).map(|bits| altered(&good, 0, bits)));
    wrong.push(altered(&good, 1, 1));
    let dora = node.user(&["auditor", "customer"]).await;
    change_policy(&admin, "/second_factor/required_for", json!(["auditor"])).await;
    let due = log_in(&node, &dora.email).await;
    assert_eq!(due.json["status"], json!("second_factor_enrolment_required"), "{due:?}");
    let due = due.json["challenge_token"].as_str().unwrap().to_owned();
    wrong.push(due);

    let code = ann.code(&node).await;
    for token in wrong {
        assert_eq!(seen(&present(&node, &token, &code).await), refused, "{token}");
    }
    assert_eq!(present(&node, &good, &code).await.status, 200, "nothing of all that has spent the code");
}

#[tokio::test(flavor = "multi_thread")]
async fn there_is_one_way_to_write_a_challenge() {
    let node = Node::start().await;
    let ann = Owner::customer(&node).await;
    let (challenge, code) = (ann.challenge(&node).await, ann.code(&node).await);
    for bit in 1..8 {
        assert_refused(&present(&node, &altered(&challenge, 1, 1 << bit), &code).await);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_challenge_is_good_for_five_minutes() {
    let node = Node::start().await;
    let ann = Owner::customer(&node).await;
    let late = challenge_from(&node, &ann.client.email, TimeDelta::minutes(5)).await;
    let code = ann.code(&node).await;
    for _ in 0..6 {
        assert_refused(&present(&node, &late, &code).await);
    }
    let expected = [("authentication.second_factor_required", 1), ("expired_challenge", 6)];
    let mut found = outcomes(&node.database, ann.client.account, "second_factor").await;
    found.insert("authentication.second_factor_required".to_owned(), 1);
    assert_eq!(found, expected.map(|(name, count)| (name.to_owned(), count)).into(), "none was evaluated or counted");
    let early = challenge_from(&node, &ann.client.email, TimeDelta::minutes(3)).await;
    assert_eq!(present(&node, &early, &code).await.status, 200);

    // The token is presented six minutes from now, by a clock that is right then.
    let mut later = operator();
    later.now += TimeDelta::minutes(6);
    let challenge = ann.challenge(&node).await;
    let code = ann.app.code(12);
    let answer = node.app().commands.second_factor(&later, &challenge, &CodeInput::new(&code)).await;
    assert!(matches!(answer, Err(fulexo_commands::CommandError::InvalidCredentials)));
    later.now -= TimeDelta::minutes(2);
    let code = ann.app.code(8);
    assert!(
        node.app().commands.second_factor(&later, &challenge, &CodeInput::new(&code)).await.is_ok(),
        "four minutes from now"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_login_repeated_under_its_key_gives_the_same_challenge() {
    let node = Node::start().await;
    let ann = Owner::customer(&node).await;
    let client = node.anonymous().with_header("idempotency-key", "a key");
    let body = json!({"email": ann.client.email, "password": PASSWORD});
    let first = challenge_of(&client.post("/v1/auth/login", body.clone()).await);
    let size = log_size(&node).await;
    assert_eq!(challenge_of(&client.post("/v1/auth/login", body).await), first);
    assert_eq!(log_size(&node).await, size);
    assert_eq!(present(&node, &first, &ann.code(&node).await).await.status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_login_repeated_under_its_key_gives_no_challenge_once_the_password_is_another() {
    let node = Node::start().await;
    let ann = Owner::customer(&node).await;
    let eve = node.anonymous().with_header("idempotency-key", "a key");
    let body = json!({"email": ann.client.email, "password": PASSWORD});
    challenge_of(&eve.post("/v1/auth/login", body.clone()).await);
    change_password(&ann.client).await;
    let again = eve.post("/v1/auth/login", body).await;
    let challenge = again.json["challenge_token"].as_str().unwrap_or("none");
    assert_refused(&present(&node, challenge, &ann.recovery[0]).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_login_that_hashes_the_password_anew_gives_a_challenge_that_is_good() {
    let node = Node::start().await;
    let ann = Owner::customer(&node).await;
    let mut env = node.database.env();
    env.insert("FULEXO_BCRYPT_COST".into(), "5".into());
    let costlier = Node::with(&node.database, env).await;
    let verifier = async || {
        let statement = "select verifier from vault.credential where account_id = $1 and kind = 'password'";
        let row = sqlx::query_scalar::<_, Vec<u8>>(statement).bind(ann.client.account);
        row.fetch_one(&superuser(&node.database).await).await.unwrap()
    };
    let before = verifier().await;
    let challenge = ann.challenge(&costlier).await;
    assert_ne!(verifier().await, before);
    assert_eq!(present(&node, &challenge, &ann.code(&node).await).await.status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_factor_set_up_at_one_node_is_asked_for_at_another_at_once() {
    let node = Node::start().await;
    let other = Node::join(&node.database).await;
    for _ in 0..5 {
        let ann = Owner::customer(&node).await;
        let challenge = ann.challenge(&other).await;
        assert_eq!(present(&node, &challenge, &ann.code(&node).await).await.status, 200, "and is one for both");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_password_makes_challenges_worthless() {
    let node = Node::start().await;
    let ann = Owner::customer(&node).await;
    let before = ann.challenge(&node).await;
    change_password(&ann.client).await;
    let code = ann.code(&node).await;
    assert_refused(&present(&node, &before, &code).await);
    assert_refused(&present(&node, &before, &ann.recovery[0]).await);
    let body = json!({"email": ann.client.email, "password": NEW_PASSWORD});
    let after = challenge_of(&node.anonymous().post("/v1/auth/login", body).await);
    assert_eq!(present(&node, &after, &code).await.status, 200);
    assert_eq!(present(&node, &after, &ann.recovery[0]).await.status, 200, "and neither was spent by it");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_second_factor_makes_challenges_of_the_old_one_worthless() {
    let node = Node::start().await;
    let ann = Owner::customer(&node).await;
    let before = ann.challenge(&node).await;
    let (app, secret) = start(&ann.client).await;
    let confirmed = confirm(&ann.client, &app.code(1)).await;
    assert_eq!(confirmed.status, 200, "{confirmed:?}");
    let new = Owner { client: ann.client, app, secret, recovery: recovery_codes(&confirmed) };
    let code = new.code(&node).await;
    assert_refused(&present(&node, &before, &code).await);
    assert_eq!(present(&node, &new.challenge(&node).await, &code).await.status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_challenge_and_a_code_of_two_accounts_do_not_go_together() {
    let node = Node::start().await;
    let (ann, eve) = (Owner::customer(&node).await, Owner::customer(&node).await);
    let (anns, eves) = (ann.challenge(&node).await, eve.challenge(&node).await);
    let (ann_code, eve_code) = (ann.code(&node).await, eve.code(&node).await);
    assert_refused(&present(&node, &anns, &eve_code).await);
    assert_refused(&present(&node, &eves, &ann_code).await);
    for (challenge, code, owner) in [(&anns, &ann_code, &ann), (&eves, &eve_code, &eve)] {
        let answer = present(&node, challenge, code).await;
        let mut client = node.anonymous();
        client.log_in_with(&answer);
        let session = client.get("/v1/auth/session").await;
        assert_eq!(session.json["account_id"], json!(owner.client.account));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_suspended_account_is_told_no_more_of_a_right_code_than_of_a_wrong_one() {
    let node = Node::start().await;
    let (admin, ann, eve) = (node.admin().await, Owner::customer(&node).await, Owner::customer(&node).await);
    let (one, other) = (ann.challenge(&node).await, ann.challenge_here(&node).await);
    let wrong_code = seen(&present(&node, &eve.challenge(&node).await, &eve.wrong_code()).await);
    let wrong_password = json!({"email": eve.client.email, "password": "not-the-Passw0rd!"});
    let wrong_password = seen(&node.anonymous().post("/v1/auth/login", wrong_password).await);
    assert_eq!(act(&admin, ann.client.account, "suspend").await.status, 200);

    assert_eq!(seen(&log_in(&node, &ann.client.email).await), wrong_password);
    let code = ann.code(&node).await;
    for challenge in [&one, &other] {
        assert_eq!(seen(&present(&node, challenge, &ann.wrong_code()).await), wrong_code);
        assert_eq!(seen(&present(&node, challenge, &code).await), wrong_code);
        assert_eq!(seen(&present(&node, challenge, &ann.code(&node).await).await), wrong_code);
        assert_eq!(seen(&present(&node, challenge, &ann.recovery[0]).await), wrong_code);
    }
    let found = outcomes(&node.database, ann.client.account, "second_factor").await;
    assert!(found["suspended"] >= 2 && found["wrong_code"] >= 2, "the log keeps which was which: {found:?}");
    assert_eq!(leaves_of(&node.database, ann.client.account, "session.started").await.len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_expired_password_is_changed_after_the_code_and_not_instead_of_it() {
    let node = Node::start().await;
    let (admin, ann) = (node.admin().await, Owner::customer(&node).await);
    assert_eq!(act(&admin, ann.client.account, "expire-password").await.status, 200);
    let challenge = ann.challenge(&node).await;
    let due = present(&node, &challenge, &ann.code(&node).await).await;
    assert_eq!((due.status, &due.json["status"]), (200, &json!("password_change_required")), "{due:?}");
    assert!(due.json.get("access_token").is_none());
    let token = due.json["challenge_token"].as_str().unwrap();
    assert_refused(&present(&node, token, &ann.code(&node).await).await);
    let bearer = Client { access_token: Some(token.to_owned()), ..node.anonymous() };
    for (method, path, body) in [
        (Method::GET, "/v1/auth/session", Value::Null),
        (Method::POST, TOTP, Value::Null),
        (Method::POST, CONFIRM, json!({"code": "123456"})),
        (Method::POST, SECOND_FACTOR, json!({"challenge_token": token, "code": "123456"})),
    ] {
        let content_type = (!body.is_null()).then_some("application/json");
        let body = if body.is_null() { String::new() } else { body.to_string() };
        assert_eq!(bearer.send(method, path, content_type, &body).await.status, 401, "{path}");
    }
    change_password(&bearer).await;
    let body = json!({"email": ann.client.email, "password": NEW_PASSWORD});
    let challenge = challenge_of(&node.anonymous().post("/v1/auth/login", body).await);
    assert_eq!(present(&node, &challenge, &ann.code(&node).await).await.json["status"], json!("authenticated"));
}
