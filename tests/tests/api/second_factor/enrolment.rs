//! The enrolment of a second factor: what is shown, what confirms it, and that nothing counts before.

use chrono::TimeDelta;
use fulexo_node::clock;
use fulexo_tests::{Answer, Authenticator, Node};
use futures_util::future::join_all;
use hyper::Method;
use serde_json::json;
use totp_rs::Totp;

use super::{
    CODES, CONFIRM, Owner, TOTP, assert_refused, assert_step_up_required, challenge_of, confirm, count,
    forget_the_last_code, leaves_of, log_in, log_size, me, present, recovery_codes, start, within_a_step,
};

#[track_caller]
fn assert_wrong_code(answer: &Answer) {
    let pointer = &answer.json["errors"][0]["pointer"];
    assert_eq!((answer.status, answer.code(), pointer), (400, "invalid_input", &json!("/code")), "{answer:?}");
}

/// Panics unless every tag is closed in its place; returns their names in the order in which they open.
fn tags(xml: &str) -> Vec<String> {
    let (mut names, mut open) = (Vec::new(), Vec::new());
    for part in xml.split('<').skip(1) {
        let (tag, text) = part.split_once('>').unwrap();
        assert!(!text.contains(['>', '&']), "{text}");
        let name = tag.trim_matches('/').split([' ', '\n']).next().unwrap().to_owned();
        if tag.starts_with(['?', '!']) {
            continue;
        } else if tag.starts_with('/') {
            assert_eq!(open.pop(), Some(name));
            continue;
        } else if !tag.ends_with('/') {
            open.push(name.clone());
        }
        assert_eq!(tag.matches('"').count() % 2, 0, "{tag}");
        names.push(name);
    }
    assert!(open.is_empty(), "{open:?}");
    names
}

#[tokio::test(flavor = "multi_thread")]
async fn a_seed_is_shown_as_text_as_a_uri_and_as_a_qr_code_of_it() {
    let node = Node::start().await;
    let ann = node.customer().await;
    let started = ann.post_nothing(TOTP).await;
    assert_eq!(started.status, 200, "{started:?}");
    assert_eq!(started.header("cache-control"), Some("no-store"));
    let text = |name: &str| started.json[name].as_str().unwrap();
    let secret = text("secret");
    assert_eq!(secret.len(), 32, "20 bytes");
    assert!(secret.bytes().all(|byte| matches!(byte, b'A'..=b'Z' | b'2'..=b'7')), "base32");

    let uri: hyper::Uri = text("otpauth_uri").parse().unwrap();
    assert_eq!((uri.scheme_str(), uri.host()), (Some("otpauth"), Some("totp")));
    let label = uri.path().replace("%40", "@").replace("%3A", ":");
    assert_eq!(label, format!("/Fulexo:{}", ann.email));
    let query: Vec<_> = uri.query().unwrap().split('&').map(|pair| pair.split_once('=').unwrap()).collect();
    assert!(query.contains(&("secret", secret)) && query.contains(&("issuer", "Fulexo")), "{query:?}");
    for (name, value) in query {
        let default = [("algorithm", "SHA1"), ("digits", "6"), ("period", "30")].contains(&(name, value));
        assert!(default || ["secret", "issuer"].contains(&name), "{name}={value} is not what every app speaks");
    }
    let scanned = Totp::from_url(text("otpauth_uri")).unwrap();
    let app = Authenticator::of(secret);
    let now = || clock::now().timestamp().unsigned_abs();
    let same = within_a_step(async || scanned.generate(now()).to_string() == app.code(0)).await;
    assert!(same, "whoever scans it and whoever types it in see the same codes");
    assert_eq!(scanned.secret().to_base32(), secret);

    let names = tags(text("qr_svg"));
    assert_eq!(names.first().map(String::as_str), Some("svg"));
    assert!(names.contains(&"path".to_owned()) || names.len() > 100, "modules are drawn: {names:?}");
    let other = ann.post_nothing(TOTP).await;
    assert_ne!(other.json["qr_svg"], started.json["qr_svg"], "another seed is another picture");
    assert_wrong_code(&confirm(&ann, &app.code(0)).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_enrolment_replaces_the_pending_one() {
    let node = Node::start().await;
    let ann = node.customer().await;
    let (first, one) = start(&ann).await;
    let (second, other) = start(&ann).await;
    assert_ne!(one, other);
    assert_wrong_code(&confirm(&ann, &first.code(0)).await);
    assert_eq!(confirm(&ann, &second.code(1)).await.status, 200);
    let started = leaves_of(&node.database, ann.account, "account.second_factor_enrolment_started").await;
    assert_eq!(started.len(), 2);
    assert_eq!(leaves_of(&node.database, ann.account, "account.second_factor_enabled").await.len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_asked_before_a_code_was_right() {
    let node = Node::start().await;
    let ann = node.customer().await;
    let nothing = confirm(&ann, "123456").await;
    assert_eq!((nothing.status, nothing.code()), (409, "not_enrolling"), "{nothing:?}");
    let (app, _) = start(&ann).await;
    let login = log_in(&node, &ann.email).await;
    assert_eq!(login.json["status"], json!("authenticated"));
    let shown = me(&node, &ann).await;
    assert_eq!(shown.json["second_factor"], json!({"enabled": false, "required": false, "recovery_codes": 0}));
    for answer in [ann.post_nothing(CODES).await, ann.delete(TOTP).await] {
        assert_eq!((answer.status, answer.code()), (409, "no_second_factor"), "{answer:?}");
    }
    let confirmed = confirm(&ann, &app.code(0)).await;
    assert_eq!(confirmed.status, 200, "{confirmed:?}");
    let shown = ann.seeing(confirmed.position()).get("/v1/me").await;
    assert_eq!(shown.json["second_factor"], json!({"enabled": true, "required": false, "recovery_codes": 10}));
    challenge_of(&log_in(&node, &ann.email).await);
    assert_eq!(ann.get("/v1/auth/session").await.status, 200, "the session stays");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_code_confirms_nothing_and_the_problem_points_at_it() {
    let node = Node::start().await;
    let ann = node.customer().await;
    let (app, _) = start(&ann).await;
    let size = log_size(&node).await;
    let right = app.code(1);
    let malformed = ["", "12345", "1234567", "abcdef", "-12345", "+12345", "½12345", &format!("{right}0")];
    for code in malformed.into_iter().map(str::to_owned).chain([-20, -3, 4, 20].map(|step| app.code(step))) {
        assert_wrong_code(&confirm(&ann, &code).await);
    }
    assert_eq!(log_size(&node).await, size);
    assert_eq!(confirm(&ann, &right).await.status, 200, "wrong codes of one's own lock nobody out");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_code_that_confirmed_a_seed_is_spent_and_so_are_those_before_it() {
    let node = Node::start().await;
    let ann = node.customer().await;
    let (first, _) = start(&ann).await;
    let challenge = async || challenge_of(&log_in(&node, &ann.email).await);
    assert_eq!(confirm(&ann, &first.code(1)).await.status, 200);
    for step in [0, 1] {
        assert_refused(&present(&node, &challenge().await, &first.code(step)).await);
    }
    // An enrolment that is begun again has a seed of which nothing is spent.
    let (second, _) = start(&ann).await;
    assert_eq!(confirm(&ann, &second.code(0)).await.status, 200);
    assert_refused(&present(&node, &challenge().await, &second.code(0)).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_code_of_somebody_elses_enrolment_confirms_nothing() {
    let node = Node::start().await;
    let (ann, eve) = (node.customer().await, node.customer().await);
    let ((own, _), (others, _)) = (start(&ann).await, start(&eve).await);
    assert_wrong_code(&confirm(&eve, &own.code(0)).await);
    assert_eq!(confirm(&eve, &others.code(0)).await.status, 200);
    assert_eq!(log_in(&node, &ann.email).await.json["status"], json!("authenticated"));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_factor_in_use_stays_until_another_one_is_confirmed() {
    let node = Node::start().await;
    let ann = Owner::customer(&node).await;
    let (other, _) = start(&ann.client).await;
    let challenge = ann.challenge(&node).await;
    assert_refused(&present(&node, &challenge, &other.code(1)).await);
    assert_eq!(present(&node, &challenge, &ann.code(&node).await).await.status, 200);
    forget_the_last_code(&node, ann.client.account).await;
    let confirmed = confirm(&ann.client, &other.code(0)).await;
    assert_eq!(confirmed.status, 200, "{confirmed:?}");
    let new = Owner { app: other, recovery: recovery_codes(&confirmed), ..ann };
    let (old, challenge) = (Authenticator::of(&new.secret), new.challenge(&node).await);
    assert_refused(&present(&node, &challenge, &old.code(1)).await);
    assert_eq!(present(&node, &challenge, &new.app.code(1)).await.status, 200);
    assert_eq!(
        count(&node, "select count(*) from vault.credential where account_id = $1", new.client.account).await,
        2
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn whatever_changes_a_second_factor_needs_a_recent_login() {
    let node = Node::start().await;
    let (ann, older) = Owner::with_older_session(&node).await;
    let size = log_size(&node).await;
    let stale = node.as_if_logged_in(TimeDelta::minutes(11), &older, &["customer"]);
    let body = json!({"code": ann.code(&node).await}).to_string();
    for (method, path, body) in [
        (Method::POST, TOTP, ""),
        (Method::POST, CONFIRM, &body),
        (Method::DELETE, TOTP, ""),
        (Method::POST, CODES, ""),
    ] {
        let content_type = (!body.is_empty()).then_some("application/json");
        assert_step_up_required(&stale.send(method, path, content_type, body).await);
    }
    assert_eq!(log_size(&node).await, size);
    let fresh = node.as_if_logged_in(TimeDelta::minutes(9), &ann.client, &["customer"]);
    assert_eq!(fresh.post_nothing(TOTP).await.status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_enrolment_repeated_under_its_key_gives_the_same_seed_and_the_same_codes() {
    let node = Node::start().await;
    let ann = node.customer().await.with_header("idempotency-key", "a key");
    let first = ann.post_nothing(TOTP).await;
    let size = log_size(&node).await;
    let second = ann.post_nothing(TOTP).await;
    assert_eq!((second.status, &second.json), (200, &first.json));
    assert_eq!(log_size(&node).await, size);

    let code = Authenticator::of(first.json["secret"].as_str().unwrap()).code(0);
    let confirmed = confirm(&ann, &code).await;
    assert_eq!(confirmed.status, 200, "{confirmed:?}");
    let size = log_size(&node).await;
    let again = confirm(&ann, &code).await;
    assert_eq!((again.status, &again.json), (200, &confirmed.json));
    let other = confirm(&ann, "123456").await;
    assert_eq!((other.status, other.code()), (409, "idempotency_key_reused"));

    let issued = ann.post_nothing(CODES).await;
    let again = ann.post_nothing(CODES).await;
    assert_eq!((again.status, &again.json), (200, &issued.json));
    assert_ne!(issued.json, confirmed.json);
    assert_eq!(log_size(&node).await, size + 1);
    let owner = Owner {
        client: ann,
        app: Authenticator::of(first.json["secret"].as_str().unwrap()),
        secret: String::new(),
        recovery: recovery_codes(&again),
    };
    let challenge = owner.challenge(&node).await;
    assert_eq!(present(&node, &challenge, &owner.recovery[9]).await.status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn administrators_find_who_has_a_second_factor_and_who_has_none() {
    let node = Node::start().await;
    let (admin, ann, eve) = (node.admin().await, Owner::customer(&node).await, node.customer().await);
    start(&eve).await;
    let admin = admin.seeing(log_size(&node).await - 1);
    for (has, expected) in [(true, vec![ann.client.account]), (false, vec![admin.account, eve.account])] {
        let list = admin.get(&format!("/v1/accounts?second_factor={has}")).await;
        let items = list.json["items"].as_array().unwrap();
        let found: Vec<_> = items.iter().map(|item| item["account_id"].clone()).collect();
        assert_eq!(json!(found), json!(expected));
        assert!(items.iter().all(|item| item["second_factor"] == json!(has)), "{items:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn of_ten_confirmations_at_once_one_counts() {
    let node = Node::start().await;
    let ann = node.customer().await;
    let (app, secret) = start(&ann).await;
    let code = app.code(1);
    let answers = join_all((0..10).map(|_| confirm(&ann, &code))).await;
    let (right, wrong): (Vec<_>, Vec<_>) = answers.iter().partition(|answer| answer.status == 200);
    assert_eq!(right.len(), 1, "{answers:?}");
    assert!(wrong.iter().all(|answer| [400, 409].contains(&answer.status)), "{answers:?}");
    let stored = "select count(*) from vault.recovery_code where account_id = $1";
    assert_eq!(count(&node, stored, ann.account).await, 10);
    let owner = Owner { client: ann, app, secret, recovery: recovery_codes(right[0]) };
    let challenge = owner.challenge(&node).await;
    assert_eq!(present(&node, &challenge, &owner.recovery[0]).await.status, 200, "its codes are those that count");
}
