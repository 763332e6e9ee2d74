//! The removal of a second factor: by its owner, unless a role requires one, and by an administrator, when it is lost.

use chrono::{DateTime, TimeDelta, Utc};
use fulexo_node::clock;
use fulexo_tests::{Client, Node, PASSWORD, eventually, operator, there};
use hyper::Method;
use serde_json::json;
use uuid::Uuid;

use super::{
    BECAUSE, CODES, NEW_PASSWORD, Owner, STEP_UP, TOTP, act, assert_refused, assert_step_up_required, change_policy,
    confirm, count, forget_the_last_code, grant, leaves, leaves_of, log_in, me, present, refreshed, start, step_up,
};

const RESET: &str = "reset-second-factor";

/// Returns what the vault still has of second factors of an account.
async fn kept(node: &Node, account: Uuid) -> [i64; 3] {
    [
        count(node, "select count(*) from vault.credential where account_id = $1 and kind <> 'password'", account)
            .await,
        count(node, "select count(*) from vault.recovery_code where account_id = $1", account).await,
        count(node, "select count(*) from vault.attempt where account_id = $1 and factor = 'second_factor'", account)
            .await,
    ]
}

async fn elevated_until(client: &Client) -> DateTime<Utc> {
    client.get("/v1/auth/session").await.json["elevated_until"].as_str().unwrap().parse().unwrap()
}

/// Returns a user who may reset second factors, and nothing else.
async fn support(node: &Node, admin: &Client) -> Client {
    let role = json!({"permissions": ["accounts.manage"], "reason": BECAUSE});
    let defined = admin.put("/v1/roles/support", role).await;
    assert!([200, 201].contains(&defined.status), "{defined:?}");
    let sam = node.customer().await;
    assert_eq!(grant(admin, sam.account, "support").await.status, 204);
    sam
}

#[tokio::test(flavor = "multi_thread")]
async fn its_owner_takes_it_away_and_nothing_is_left_of_it() {
    let node = Node::start().await;
    let (ann, older) = Owner::with_older_session(&node).await;
    let stale = node.as_if_logged_in(TimeDelta::minutes(11), &older, &["customer"]);
    assert_step_up_required(&stale.delete(TOTP).await);
    start(&ann.client).await;
    let challenge = ann.challenge(&node).await;
    assert_refused(&present(&node, &challenge, &ann.wrong_code()).await);
    assert_eq!(kept(&node, ann.client.account).await, [2, 10, 2], "of the account, and over all its devices");

    assert_eq!(step_up(&stale, &ann.code(&node).await).await.status, 200);
    let gone = stale.delete(TOTP).await;
    assert_eq!(gone.status, 204, "{gone:?}");
    assert_eq!(kept(&node, ann.client.account).await, [0, 0, 0]);
    let login = log_in(&node, &ann.client.email).await;
    assert_eq!((login.status, &login.json["status"]), (200, &json!("authenticated")));
    let me = ann.client.seeing(gone.position()).get("/v1/me").await;
    assert_eq!(me.json["second_factor"], json!({"enabled": false, "required": false, "recovery_codes": 0}));
    for code in [ann.code(&node).await, ann.recovery[0].clone()] {
        assert_refused(&present(&node, &challenge, &code).await);
        assert_refused(&step_up(&ann.client, &code).await);
    }
    let again = ann.client.delete(TOTP).await;
    assert_eq!((again.status, again.code()), (409, "no_second_factor"));
    let pending = confirm(&ann.client, "123456").await;
    assert_eq!((pending.status, pending.code()), (409, "not_enrolling"), "what was pending went with it");
    let disabled = leaves_of(&node.database, ann.client.account, "account.second_factor_disabled").await;
    assert_eq!((disabled.len(), &disabled[0]["data"]), (1, &json!({"by": "owner"})));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_password_alone_elevates_nobody_who_has_a_second_factor() {
    let node = Node::start().await;
    let ann = Owner::customer(&node).await;
    let stale = node.as_if_logged_in(TimeDelta::minutes(11), &ann.log_in(&node).await, &["customer"]);
    let counting = async || {
        let statement = "select coalesce(sum(cardinality(recent)), 0) from vault.attempt where account_id = $1";
        count(&node, statement, ann.client.account).await
    };
    let (before, counted) = (leaves(&node.database, ann.client.account).await.len(), counting().await);
    for password in [PASSWORD, "not-the-Passw0rd!"] {
        let refused = stale.post(STEP_UP, json!({"password": password})).await;
        assert_eq!((refused.status, refused.code()), (403, "code_required"), "{refused:?}");
    }
    assert_eq!(leaves(&node.database, ann.client.account).await.len(), before, "nothing was evaluated");
    assert_eq!(counting().await, counted, "nothing was counted");
    assert_step_up_required(&stale.delete(TOTP).await);
    assert_step_up_required(&stale.post_nothing(TOTP).await);
    assert_step_up_required(&stale.post_nothing(CODES).await);
    let change = json!({"current_password": PASSWORD, "new_password": NEW_PASSWORD});
    assert_step_up_required(&stale.post("/v1/me/password", change).await);
    assert_eq!(step_up(&stale, &ann.recovery[0]).await.status, 200);
    assert_eq!(stale.delete(TOTP).await.status, 204);
    assert_eq!(stale.post(STEP_UP, json!({"password": PASSWORD})).await.status, 200, "without a factor it does");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_password_elevated_before_there_was_a_second_factor_it_elevates_no_longer() {
    let node = Node::start().await;
    let other = Node::join(&node.database).await;
    let ann = node.customer().await;
    let by_login = node.log_in(&ann.email, ann.account).await;
    let by_step_up = node.log_in(&ann.email, ann.account).await;
    let by_step_up = node.as_if_logged_in(TimeDelta::minutes(11), &by_step_up, &["customer"]);
    let stepped_up = by_step_up.post(STEP_UP, json!({"password": PASSWORD})).await;
    assert_eq!(stepped_up.status, 200, "{stepped_up:?}");
    for client in [&by_login, &by_step_up] {
        assert_eq!(client.post_nothing(TOTP).await.status, 200, "a sensitive call");
    }
    let ann = Owner::of(ann).await;
    let change = json!({"current_password": PASSWORD, "new_password": NEW_PASSWORD});
    // Other nodes follow what an owner does within milliseconds, and are not waited for.
    let elsewhere = there(&other, &by_login);
    eventually("the other node knows of the factor", async || elevated_until(&elsewhere).await <= clock::now()).await;
    for client in [&by_login, &by_step_up, &refreshed(&by_login).await] {
        for client in [client, &there(&other, client)] {
            assert_step_up_required(&client.delete(TOTP).await);
            assert_step_up_required(&client.post_nothing(TOTP).await);
            assert_step_up_required(&client.post_nothing(CODES).await);
            assert_step_up_required(&client.post("/v1/me/password", change.clone()).await);
            let until = elevated_until(client).await;
            assert!(until <= clock::now(), "{until}");
        }
    }
    assert_eq!(step_up(&by_login, &ann.recovery[0]).await.status, 200);
    assert_eq!(by_login.delete(TOTP).await.status, 204);
    // It is the login that counts again, where nothing more can be presented.
    assert_eq!(by_step_up.post_nothing(TOTP).await.status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_session_that_confirms_a_factor_has_presented_it() {
    let node = Node::start().await;
    let admin = node.admin().await;
    let ann = Owner::of(node.auditor().await).await;
    change_policy(&admin, "/second_factor/required_for", json!(["auditor"])).await;
    let client = refreshed(&ann.client).await;
    assert_eq!(client.get("/v1/auth/session").await.json["methods"], json!(["pwd", "otp"]));
    assert_eq!(client.get("/v1/audit/events").await.status, 200, "its role requires one");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_factor_that_was_taken_away_is_set_up_anew() {
    let node = Node::start().await;
    let ann = Owner::customer(&node).await;
    assert_eq!(ann.client.delete(TOTP).await.status, 204);
    forget_the_last_code(&node, ann.client.account).await;
    let (old, new) = (ann.recovery.clone(), Owner::of(ann.client).await);
    assert_ne!(ann.secret, new.secret);
    let challenge = new.challenge(&node).await;
    assert_refused(&present(&node, &challenge, &old[0]).await);
    assert_refused(&present(&node, &challenge, &ann.app.code(1)).await);
    assert_eq!(present(&node, &challenge, &new.code(&node).await).await.status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn where_a_role_requires_one_it_is_replaced_and_not_taken_away() {
    let node = Node::start().await;
    let admin = node.admin().await;
    let ann = Owner::of(node.auditor().await).await;
    change_policy(&admin, "/second_factor/required_for", json!(["auditor"])).await;
    let refused = ann.client.delete(TOTP).await;
    assert_eq!((refused.status, refused.code()), (409, "second_factor_required"), "{refused:?}");
    let shown = me(&node, &ann.client).await;
    assert_eq!(shown.json["second_factor"], json!({"enabled": true, "required": true, "recovery_codes": 10}));

    let (app, secret) = start(&ann.client).await;
    let confirmed = confirm(&ann.client, &app.code(1)).await;
    assert_eq!(confirmed.status, 200, "{confirmed:?}");
    let ann = Owner { app, secret, recovery: super::recovery_codes(&confirmed), ..ann };
    let client = ann.log_in(&node).await;
    assert_eq!(client.delete(TOTP).await.code(), "second_factor_required");
    change_policy(&admin, "/second_factor/required_for", json!([])).await;
    assert_eq!(client.delete(TOTP).await.status, 204);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_administrator_resets_a_lost_one_with_a_reason_and_every_session_ends() {
    let node = Node::start().await;
    let (admin, ann) = (node.admin().await, Owner::customer(&node).await);
    let other = ann.log_in(&node).await;
    let challenge = ann.challenge(&node).await;
    for code in ann.wrong_codes(5) {
        assert_refused(&present(&node, &challenge, &code).await);
    }
    let reset = act(&admin, ann.client.account, RESET).await;
    assert_eq!(reset.status, 200, "{reset:?}");
    for client in [&ann.client, &other] {
        assert_eq!(client.get("/v1/auth/session").await.status, 401);
        assert_refused(&client.post("/v1/auth/refresh", json!({"refresh_token": client.refresh_token})).await);
    }
    for code in [ann.code(&node).await, ann.recovery[0].clone()] {
        assert_refused(&present(&node, &challenge, &code).await);
    }
    let login = log_in(&node, &ann.client.email).await;
    assert_eq!((login.status, &login.json["status"]), (200, &json!("authenticated")));
    let shown = admin.seeing(reset.position()).get(&format!("/v1/accounts/{}", ann.client.account)).await;
    let shown = ["second_factor", "recovery_codes", "locked"].map(|name| shown.json[name].clone());
    assert_eq!(shown, [json!(false), json!(0), json!(false)]);

    let disabled = leaves_of(&node.database, ann.client.account, "account.second_factor_disabled").await;
    assert_eq!((disabled.len(), &disabled[0]["data"]), (1, &json!({"by": "admin"})));
    assert_eq!(disabled[0]["actor"]["id"], json!(admin.account));
    assert_eq!(disabled[0]["sealed"][0]["fields"], json!(["reason"]));
    assert!(!disabled[0].to_string().contains(BECAUSE));
    let lifted = leaves_of(&node.database, ann.client.account, "authentication.lock_lifted").await;
    assert_eq!((lifted.len(), &lifted[0]["data"]), (1, &json!({"factor": "second_factor", "by": "reset"})));
    let ended = leaves_of(&node.database, ann.client.account, "session.revoked").await;
    assert_eq!(ended.len(), 2);
    assert!(ended.iter().all(|leaf| leaf["data"]["by"] == "second_factor_reset"), "{ended:?}");
    assert_eq!(kept(&node, ann.client.account).await, [0, 0, 0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reset_needs_the_permission_a_recent_login_a_reason_and_something_to_reset() {
    let node = Node::start().await;
    let (admin, eve) = (node.admin().await, node.customer().await);
    let ann = Owner::customer(&node).await;
    let path = format!("/v1/accounts/{}/{RESET}", ann.client.account);
    for client in [&eve, &ann.client] {
        let refused = client.post(&path, json!({"reason": BECAUSE})).await;
        assert_eq!((refused.status, refused.code()), (403, "permission_denied"), "{refused:?}");
    }
    let stale = node.as_if_logged_in(TimeDelta::minutes(11), &admin, &["admin"]);
    assert_step_up_required(&act(&stale, ann.client.account, RESET).await);
    for body in [json!({"reason": " "}), json!({})] {
        assert_eq!(admin.post(&path, body).await.status, 400);
    }
    assert_eq!(act(&admin, operator().new_id(), RESET).await.status, 404);
    let nothing = act(&admin, eve.account, RESET).await;
    assert_eq!((nothing.status, nothing.code()), (409, "no_second_factor"));
    ann.challenge(&node).await;
    assert_eq!(eve.get("/v1/auth/session").await.status, 200, "a reset of nothing ends no session");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reset_repeated_under_its_key_leaves_what_came_since() {
    let node = Node::start().await;
    let (admin, ann) = (node.admin().await.with_header("idempotency-key", "a key"), Owner::customer(&node).await);
    assert_eq!(act(&admin, ann.client.account, RESET).await.status, 200);
    forget_the_last_code(&node, ann.client.account).await;
    let again = Owner::of(node.log_in(&ann.client.email, ann.client.account).await).await;
    let size = leaves(&node.database, ann.client.account).await.len();
    assert_eq!(act(&admin, ann.client.account, RESET).await.status, 200);
    assert_eq!(leaves(&node.database, ann.client.account).await.len(), size);
    assert_eq!(again.client.get("/v1/auth/session").await.status, 200);
    again.log_in(&node).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn support_resets_customers_and_nobody_who_may_do_more() {
    let node = Node::start().await;
    let admin = node.admin().await;
    let sam = support(&node, &admin).await;
    let (ann, boss) = (Owner::customer(&node).await, Owner::of(node.admin().await).await);
    let auditor = Owner::of(node.auditor().await).await;
    let peer = Owner::customer(&node).await;
    assert_eq!(grant(&admin, peer.client.account, "support").await.status, 204);
    for above in [&boss, &auditor] {
        let refused = act(&sam, above.client.account, RESET).await;
        assert_eq!((refused.status, refused.code()), (403, "grant_exceeds_own"), "{refused:?}");
        above.challenge(&node).await;
        assert_eq!(above.client.get("/v1/auth/session").await.status, 200);
        assert!(leaves_of(&node.database, above.client.account, "account.second_factor_disabled").await.is_empty());
    }
    for below in [&ann, &peer] {
        assert_eq!(act(&sam, below.client.account, RESET).await.status, 200);
    }
    assert_eq!(act(&admin, boss.client.account, RESET).await.status, 200, "an administrator may");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_role_that_requires_a_second_factor_gives_no_rank_in_a_session_without_one() {
    let node = Node::start().await;
    let admin = Owner::of(node.admin().await).await;
    let admin = admin.log_in(&node).await;
    let boss = Owner::of(node.admin().await).await;
    let mia = support(&node, &admin).await;
    assert_eq!(grant(&admin, mia.account, "admin").await.status, 204);
    change_policy(&admin, "/second_factor/required_for", json!(["admin"])).await;
    let session = mia.get("/v1/auth/session").await;
    assert_eq!(session.json["permissions"], json!(["accounts.manage"]), "as support, she may");
    for verb in [RESET, "suspend", "expire-password"] {
        let refused = act(&mia, boss.client.account, verb).await;
        assert_eq!((refused.status, refused.code()), (403, "grant_exceeds_own"), "{verb}: {refused:?}");
    }
    // With a code it does, in the same session.
    let mia = Owner::of(mia).await;
    assert_eq!(step_up(&mia.client, &mia.code(&node).await).await.status, 200);
    let client = refreshed(&mia.client).await;
    assert_eq!(act(&client, boss.client.account, RESET).await.status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn taking_it_away_and_logging_in_by_it_at_once_end_as_one_after_the_other() {
    let node = Node::start().await;
    let admin = node.admin().await;
    for _ in 0..10 {
        let ann = Owner::customer(&node).await;
        let (challenge, code) = (ann.challenge(&node).await, ann.code(&node).await);
        let (login, reset) = tokio::join!(present(&node, &challenge, &code), act(&admin, ann.client.account, RESET));
        assert_eq!(reset.status, 200, "{reset:?}");
        if login.status == 200 {
            let mut client = node.anonymous();
            client.log_in_with(&login);
            assert_eq!(client.get("/v1/auth/session").await.status, 401, "a session began and was not ended");
        } else {
            assert_refused(&login);
        }
        let body = json!({"email": ann.client.email, "password": PASSWORD}).to_string();
        let after = node.anonymous().send(Method::POST, "/v1/auth/login", Some("application/json"), &body).await;
        assert_eq!(after.json["status"], json!("authenticated"));
    }
}
