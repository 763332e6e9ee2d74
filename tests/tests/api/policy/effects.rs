//! The effects of a policy.

use chrono::{DateTime, TimeDelta, Utc};
use fulexo_commands::context::Context;
use fulexo_commands::{Credentials, LoginResult};
use fulexo_domain::event::Actor;
use fulexo_domain::password::Password;
use fulexo_domain::values::EmailAddress;
use fulexo_tests::{Authenticator, Client, Node, PASSWORD, eventually, operator, there};
use serde_json::json;
use uuid::Uuid;

use super::{BECAUSE, POLICY, WRONG, enforce, guess, log_in, log_in_twice, of_type, set_elevation, time};

#[tokio::test(flavor = "multi_thread")]
async fn a_threshold_of_three_locks_after_three() {
    let node = Node::start().await;
    let (admin, ann, bob) = (node.admin().await, node.customer().await, node.customer().await);
    enforce(&admin, |policy| policy["lockout"]["threshold"] = json!(3)).await;
    guess(&node, &ann.email, 2).await;
    assert_eq!(log_in(&node, &ann.email, PASSWORD, None).await.status, 200);
    guess(&node, &bob.email, 3).await;
    assert_eq!(log_in(&node, &bob.email, PASSWORD, None).await.status, 401);
    let locks = of_type(&node, "authentication.locked_out").await;
    assert_eq!(locks.len(), 1);
    assert_eq!((&locks[0]["subject"], &locks[0]["data"]["failures"]), (&json!(bob.account), &json!(3)));
}

#[tokio::test(flavor = "multi_thread")]
async fn with_lockout_switched_off_nobody_is_locked_and_who_was_is_free() {
    let node = Node::start().await;
    let (admin, ann, bob) = (node.admin().await, node.customer().await, node.customer().await);
    guess(&node, &bob.email, 5).await;
    assert_eq!(log_in(&node, &bob.email, PASSWORD, None).await.status, 401);
    enforce(&admin, |policy| policy["lockout"]["enabled"] = json!(false)).await;
    guess(&node, &ann.email, 20).await;
    assert_eq!(log_in(&node, &ann.email, PASSWORD, None).await.status, 200);
    assert_eq!(log_in(&node, &bob.email, PASSWORD, None).await.status, 200);
    assert_eq!(of_type(&node, "authentication.locked_out").await.len(), 1, "that of before");
    let failed = of_type(&node, "authentication.failed").await;
    assert_eq!(failed.iter().filter(|leaf| leaf["data"]["reason"] == "wrong_password").count(), 25, "all evaluated");
    enforce(&admin, |policy| policy["lockout"]["enabled"] = json!(true)).await;
    guess(&node, &ann.email, 5).await;
    assert_eq!(log_in(&node, &ann.email, PASSWORD, None).await.status, 401, "and on again");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lock_lasts_as_long_as_the_policy_says() {
    let node = Node::start().await;
    let admin = node.admin().await;
    for (duration, longest) in [(60, 86_400), (86_400, 604_800)] {
        let (email, account) = node.register(&["customer"]).await;
        enforce(&admin, |policy| {
            policy["lockout"]["threshold"] = json!(1);
            policy["lockout"]["duration_seconds"] = json!(duration);
            policy["lockout"]["max_duration_seconds"] = json!(longest);
        })
        .await;
        let asked = operator().now;
        guess(&node, &email, 1).await;
        let locks = of_type(&node, "authentication.locked_out").await;
        let lock = locks.iter().find(|leaf| leaf["subject"] == json!(account)).unwrap();
        let (until, duration) = (time(&lock["data"]["until"]), TimeDelta::seconds(duration));
        assert!((asked + duration..=time(&lock["time"]) + duration).contains(&until), "{lock}");
    }
}

async fn log_in_at(node: &Node, now: DateTime<Utc>, email: &str, password: &str) -> Option<LoginResult> {
    let context = Context { actor: Actor::Anonymous, now, ..operator() };
    let (email, password) = (EmailAddress::parse(email).unwrap(), Password::new(password.to_owned()));
    let login = node.app().commands.login(&context, Credentials { email, password, device_token: None }).await;
    login.ok().map(|done| done.value)
}

#[tokio::test(flavor = "multi_thread")]
async fn failures_further_apart_than_the_window_of_the_policy_do_not_add_up() {
    let node = Node::start().await;
    let (admin, ann, bob) = (node.admin().await, node.customer().await, node.customer().await);
    enforce(&admin, |policy| {
        policy["lockout"]["threshold"] = json!(2);
        policy["lockout"]["window_seconds"] = json!(60);
    })
    .await;
    let now = operator().now;
    for (client, wait, locks) in [(&ann, 61, 0), (&bob, 59, 1)] {
        for seconds in [0, wait] {
            assert!(log_in_at(&node, now + TimeDelta::seconds(seconds), &client.email, WRONG).await.is_none());
        }
        let locked = of_type(&node, "authentication.locked_out").await;
        assert_eq!(locked.iter().filter(|leaf| leaf["subject"] == json!(client.account)).count(), locks, "{wait}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_elevation_lasts_as_long_as_the_policy_says() {
    let node = Node::start().await;
    let (admin, other) = (node.admin().await, node.admin().await);
    let after = |minutes: i64| {
        let old = node.as_if_logged_in(TimeDelta::minutes(minutes), &other, &["admin"]);
        let path = format!("/v1/accounts/{}/unlock", Uuid::nil());
        async move { old.post(&path, json!({"reason": BECAUSE})).await.code().to_owned() }
    };
    assert_eq!(after(15).await, "step_up_required");
    set_elevation(&admin, 60).await;
    assert_ne!(after(15).await, "step_up_required");
    assert_ne!(after(55).await, "step_up_required");
    assert_eq!(after(61).await, "step_up_required");
    set_elevation(&admin, 1).await;
    assert_eq!(after(2).await, "step_up_required");
    let stepped = other.post("/v1/auth/step-up", json!({"password": PASSWORD})).await;
    assert_eq!(stepped.status, 200, "{stepped:?}");
    let elevated = of_type(&node, "session.elevated").await.remove(0);
    let until = time(&elevated["data"]["until"]);
    assert!(until <= time(&elevated["time"]) + TimeDelta::minutes(1), "{elevated}");
    assert!(until > time(&elevated["time"]), "{elevated}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_ends_unused_or_in_any_case_when_the_policy_says_so() {
    let node = Node::start().await;
    let admin = node.admin().await;
    enforce(&admin, |policy| {
        policy["sessions"]["idle_timeout_seconds"] = json!(300);
        policy["sessions"]["absolute_timeout_seconds"] = json!(700);
    })
    .await;
    let asked = operator().now;
    let ann = node.customer().await;
    let started = of_type(&node, "session.started").await.pop().unwrap();
    let idle = time(&started["data"]["idle_expires_at"]);
    let began = idle - TimeDelta::seconds(300);
    assert!((asked..=time(&started["time"])).contains(&began), "{started}");
    assert_eq!(time(&started["data"]["expires_at"]), began + TimeDelta::seconds(700));

    let at = |seconds: i64| Context { now: began + TimeDelta::seconds(seconds), ..operator() };
    let (commands, mut token) = (&node.app().commands, ann.refresh_token.clone());
    for seconds in [299, 598] {
        let done = commands.refresh(&at(seconds), &token, None).await;
        let Ok(done) = done else { unreachable!("at {seconds}") };
        token = done.value.refresh_token.to_string();
    }
    let refreshed = of_type(&node, "session.refreshed").await.pop().unwrap();
    assert_eq!(refreshed["data"]["idle_expires_at"], started["data"]["expires_at"], "no later than the end");
    assert!(commands.refresh(&at(701), &token, None).await.is_err(), "its end in any case");
    let bob = node.customer().await;
    let late = Context { now: operator().now + TimeDelta::seconds(301), ..operator() };
    assert!(commands.refresh(&late, &bob.refresh_token, None).await.is_err(), "unused");
    assert_eq!(of_type(&node, "session.expired").await.len(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_grace_of_a_spent_refresh_token_is_what_the_policy_says() {
    let node = Node::start().await;
    let admin = node.admin().await;
    for (grace, status) in [(60, 200), (0, 401)] {
        enforce(&admin, |policy| policy["sessions"]["refresh_grace_seconds"] = json!(grace)).await;
        let ann = node.customer().await;
        let refresh = || ann.post("/v1/auth/refresh", json!({"refresh_token": ann.refresh_token}));
        assert_eq!(refresh().await.status, 200);
        let refreshed = of_type(&node, "session.refreshed").await.pop().unwrap();
        let span = time(&refreshed["data"]["grace_until"]) - time(&refreshed["time"]);
        assert!(span <= TimeDelta::seconds(grace), "{refreshed}");
        assert_eq!(refresh().await.status, status, "{grace}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn as_many_old_passwords_may_not_come_back_as_the_policy_says() {
    const OTHER: &str = "kestrel-Over9thefen";
    let node = Node::start().await;
    let (admin, ann) = (node.admin().await, node.customer().await);
    let set = async |current: &str, new: &str| {
        let body = json!({"current_password": current, "new_password": new});
        ann.post("/v1/me/password", body).await.status
    };
    assert_eq!(set(PASSWORD, OTHER).await, 204);
    assert_eq!(set(OTHER, PASSWORD).await, 400, "one of the last five");
    enforce(&admin, |policy| policy["passwords"]["history"] = json!(1)).await;
    assert_eq!(set(OTHER, OTHER).await, 400, "the current one");
    assert_eq!(set(OTHER, PASSWORD).await, 204, "an old one");
    assert_eq!(set(PASSWORD, OTHER).await, 204, "and back");
    enforce(&admin, |policy| policy["passwords"]["history"] = json!(2)).await;
    assert_eq!(set(OTHER, "plover-Under7thedyke").await, 204);
    assert_eq!(set("plover-Under7thedyke", OTHER).await, 400, "one of the last two");
    assert_eq!(set("plover-Under7thedyke", PASSWORD).await, 204, "not one of the last two");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_password_older_than_the_policy_allows_is_changed_at_the_next_login() {
    let node = Node::start().await;
    let (admin, ann) = (node.admin().await, node.customer().await);
    let later = async |hours: i64| {
        let now = operator().now + TimeDelta::hours(hours);
        matches!(log_in_at(&node, now, &ann.email, PASSWORD).await, Some(LoginResult::Session(_)))
    };
    assert!(later(24 * 300).await, "it may grow old");
    enforce(&admin, |policy| policy["passwords"]["max_age_days"] = json!(1)).await;
    assert!(later(23).await);
    assert!(!later(25).await);
    assert_eq!(of_type(&node, "authentication.password_change_required").await.len(), 1);
    enforce(&admin, |policy| policy["passwords"]["max_age_days"] = json!(null)).await;
    assert!(later(25).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_role_that_requires_a_second_factor_allows_nothing_without_one_from_then_on() {
    let node = Node::start().await;
    let other = Node::join(&node.database).await;
    let (admin, auditor) = (node.admin().await, node.auditor().await);
    assert_eq!(auditor.get("/v1/audit/events?limit=1").await.status, 200);
    enforce(&admin, |policy| policy["second_factor"]["required_for"] = json!(["auditor"])).await;
    assert_eq!(auditor.get("/v1/audit/events?limit=1").await.status, 403, "at once");
    let elsewhere = there(&other, &auditor);
    eventually("elsewhere too", async || elsewhere.get("/v1/audit/events?limit=1").await.status == 403).await;
    let login = log_in(&node, &auditor.email, PASSWORD, None).await;
    assert_eq!(login.json["status"], "second_factor_enrolment_required", "{login:?}");
    let customer = node.customer().await;
    assert_eq!(log_in(&node, &customer.email, PASSWORD, None).await.json["status"], "authenticated");
    enforce(&admin, |policy| policy["second_factor"]["required_for"] = json!([])).await;
    assert_eq!(auditor.get("/v1/audit/events?limit=1").await.status, 200, "and back");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_administrator_who_requires_a_second_factor_of_themselves_gets_back_in_by_enrolling() {
    let node = Node::start().await;
    let admin = node.admin().await;
    enforce(&admin, |policy| policy["second_factor"]["required_for"] = json!(["admin"])).await;
    let refused = admin.get(POLICY).await;
    assert_eq!((refused.status, refused.code()), (403, "permission_denied"), "{refused:?}");
    let due = log_in(&node, &admin.email, PASSWORD, None).await;
    assert_eq!(due.json["status"], "second_factor_enrolment_required", "{due:?}");
    let token = due.json["challenge_token"].as_str().map(str::to_owned);
    let enrolling = Client { access_token: token, ..node.anonymous() };
    assert_eq!(enrolling.get(POLICY).await.status, 401, "good for the enrolment alone");
    let started = enrolling.post_nothing("/v1/me/second-factor/totp").await;
    assert_eq!(started.status, 200, "{started:?}");
    let app = Authenticator::of(started.json["secret"].as_str().unwrap());
    let confirmed = enrolling.post("/v1/me/second-factor/totp/confirm", json!({"code": app.code(-1)})).await;
    let code = confirmed.json["recovery_codes"][0].as_str().unwrap();
    let login = log_in_twice(&node, &admin, Some(code)).await;
    assert_eq!(login.status, 200, "{login:?}");
    let mut admin = admin.clone();
    admin.log_in_with(&login);
    assert_eq!(enforce(&admin, |policy| policy["lockout"]["threshold"] = json!(4)).await.json["version"], json!(3));
}
