//! Actions of administrators on others, the checks that a known device is spared, and the second proof before sensitive
//! calls.

#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests fail by panicking")]

use chrono::TimeDelta;
use fulexo_domain::values::{AccountId, RoleName, SessionId};
use fulexo_node::clock;
use fulexo_tests::{Answer, Client, Node, PASSWORD, eventually, operator, superuser};
use hyper::Method as Verb;
use serde_json::{Value, json};

const BECAUSE: &str = "asked for at the desk";

async fn log_in(node: &Node, email: &str, password: &str, device_token: Option<&str>) -> Answer {
    let mut body = json!({"email": email, "password": password});
    if let Some(token) = device_token {
        body["device_token"] = token.into();
    }
    node.anonymous().post("/v1/auth/login", body).await
}

/// Five wrong guesses by a stranger.
async fn lock(node: &Node, email: &str) {
    for _ in 0..5 {
        assert_eq!(log_in(node, email, "not-the-Passw0rd!", None).await.status, 401);
    }
}

async fn act(admin: &Client, account: &Client, verb: &str) -> Answer {
    admin.post(&format!("/v1/accounts/{}/{verb}", account.account), json!({"reason": BECAUSE})).await
}

async fn events(node: &Node, account: &Client, position: u64) -> Vec<Value> {
    let auditor = node.auditor().await.seeing(position);
    let page = auditor.get(&format!("/v1/audit/events?limit=200&subject={}", account.account)).await;
    page.json["items"].as_array().unwrap().clone()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_suspended_account_is_out_at_once_and_comes_back_when_reinstated() {
    let node = Node::start().await;
    let (admin, ann) = (node.admin().await, node.customer().await);
    let other = node.log_in(&ann.email, ann.account).await;
    let suspended = act(&admin, &ann, "suspend").await;
    assert_eq!(suspended.status, 200, "{suspended:?}");
    for client in [&ann, &other] {
        assert_eq!(client.get("/v1/auth/session").await.status, 401, "every session ends");
        let refreshed = client.post("/v1/auth/refresh", json!({"refresh_token": client.refresh_token})).await;
        assert_eq!(refreshed.status, 401);
    }
    let right = log_in(&node, &ann.email, PASSWORD, None).await;
    let wrong = log_in(&node, &ann.email, "not-the-Passw0rd!", None).await;
    let told = |answer: &Answer| (answer.status, answer.code().to_owned(), answer.json["detail"].clone());
    assert_eq!(told(&right), told(&wrong), "the right password is told no more than a wrong one");

    let shown = admin.seeing(suspended.position()).get(&format!("/v1/accounts/{}", ann.account)).await;
    assert_eq!(shown.json["suspended"], json!(true));
    assert_eq!(act(&admin, &ann, "suspend").await.code(), "already_suspended");
    let reinstated = act(&admin, &ann, "reinstate").await;
    assert_eq!(reinstated.status, 200);
    assert_eq!(act(&admin, &ann, "reinstate").await.code(), "not_suspended");
    assert_eq!(log_in(&node, &ann.email, PASSWORD, None).await.status, 200);

    let events = events(&node, &ann, reinstated.position()).await;
    let reasons: Vec<_> = events.iter().filter_map(|event| event["data"]["reason"].as_str()).collect();
    assert_eq!(reasons, ["suspended", "wrong_password"], "the log keeps why");
    let sealed = events.iter().find(|event| event["type"] == "account.suspended").unwrap();
    assert_eq!(sealed["sealed"][0]["fields"], json!(["reason"]));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_login_that_is_under_way_does_not_outlive_a_suspension() {
    let node = Node::start().await;
    let admin = node.admin().await;
    for _ in 0..10 {
        let ann = node.customer().await;
        let (login, suspended) = tokio::join!(log_in(&node, &ann.email, PASSWORD, None), act(&admin, &ann, "suspend"));
        assert_eq!(suspended.status, 200);
        if login.status == 200 {
            let mut client = node.anonymous();
            client.log_in_with(&login);
            assert_eq!(client.get("/v1/auth/session").await.status, 401, "a session began and was not ended");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_administrator_lifts_a_lock_before_its_time() {
    let node = Node::start().await;
    let (admin, ann) = (node.admin().await, node.customer().await);
    lock(&node, &ann.email).await;
    assert_eq!(log_in(&node, &ann.email, PASSWORD, None).await.status, 401);
    let unlocked = act(&admin, &ann, "unlock").await;
    assert_eq!(unlocked.status, 200, "{unlocked:?}");
    let shown = admin.seeing(unlocked.position()).get(&format!("/v1/accounts/{}", ann.account)).await;
    assert_eq!(shown.json["locked"], json!(false));
    assert_eq!(log_in(&node, &ann.email, PASSWORD, None).await.status, 200);
    let events = events(&node, &ann, unlocked.position()).await;
    assert!(events.iter().any(|event| event["type"] == "authentication.lock_lifted"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stranger_locks_the_address_but_not_the_owners_device() {
    let node = Node::start().await;
    let (ann, eve) = (node.customer().await, node.customer().await);
    let device = |answer: &Answer| answer.json["device_token"].as_str().unwrap().to_owned();
    let own = device(&log_in(&node, &ann.email, PASSWORD, None).await);
    let foreign = device(&log_in(&node, &eve.email, PASSWORD, None).await);
    lock(&node, &ann.email).await;
    assert_eq!(log_in(&node, &ann.email, PASSWORD, None).await.status, 401, "an unknown device is locked out");
    assert_eq!(log_in(&node, &ann.email, PASSWORD, Some(&foreign)).await.status, 401, "and another account's device");
    assert_eq!(log_in(&node, &ann.email, PASSWORD, Some("garbage")).await.status, 401);
    let answer = log_in(&node, &ann.email, PASSWORD, Some(&own)).await;
    assert_eq!(answer.status, 200, "the owner's device is not");
    assert_eq!(device(&answer), own, "and is the same device again");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_known_device_has_no_more_guesses_than_anybody() {
    let node = Node::start().await;
    let ann = node.customer().await;
    let token = log_in(&node, &ann.email, PASSWORD, None).await.json["device_token"].as_str().unwrap().to_owned();
    for _ in 0..5 {
        assert_eq!(log_in(&node, &ann.email, "not-the-Passw0rd!", Some(&token)).await.status, 401);
    }
    assert_eq!(log_in(&node, &ann.email, PASSWORD, Some(&token)).await.status, 401, "the device is locked");
    assert_eq!(log_in(&node, &ann.email, PASSWORD, None).await.status, 200, "the address is not");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_administrator_ends_anybodys_session_and_a_customer_nobodys() {
    let node = Node::start().await;
    let (admin, ann, eve) = (node.admin().await, node.customer().await, node.customer().await);
    let path = format!("/v1/sessions/{}", ann.session);
    let body = json!({"reason": BECAUSE}).to_string();
    let end = |client: &Client, path: &str| {
        let (client, path, body) = (client.clone(), path.to_owned(), body.clone());
        async move { client.send(Verb::DELETE, &path, Some("application/json"), &body).await }
    };
    assert_eq!(end(&eve, &path).await.status, 403);
    assert_eq!(ann.get("/v1/auth/session").await.status, 200);
    let ended = end(&admin, &path).await;
    assert_eq!(ended.status, 200, "{ended:?}");
    assert_eq!(ann.get("/v1/auth/session").await.status, 401);
    assert_eq!(end(&admin, &path).await.status, 200, "ending it again is no error");
    assert_eq!(end(&admin, &format!("/v1/sessions/{}", operator().new_id())).await.status, 404);
    let empty = json!({"reason": " "}).to_string();
    assert_eq!(admin.send(Verb::DELETE, &path, Some("application/json"), &empty).await.status, 400);
    assert_eq!(admin.delete(&path).await.status, 200, "a reason may be left out");

    let again = node.log_in(&eve.email, eve.account).await;
    let all = admin.post_nothing(&format!("/v1/accounts/{}/sessions/revoke", eve.account)).await;
    assert_eq!((all.status, &all.json["revoked"]), (200, &json!(2)), "{all:?}");
    assert_eq!(again.get("/v1/auth/session").await.status, 401);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_step_up_allows_sensitive_calls_on_every_node_and_a_wrong_password_does_not() {
    let node = Node::start().await;
    let other = Node::join(&node.database).await;
    let (admin, ann) = (node.admin().await, node.customer().await);
    let admin = node.as_if_logged_in(TimeDelta::minutes(11), &admin, &["admin", "customer"]);
    assert_eq!(act(&admin, &ann, "suspend").await.code(), "step_up_required");
    let wrong = admin.post("/v1/auth/step-up", json!({"password": "not-the-Passw0rd!"})).await;
    assert_eq!((wrong.status, wrong.code()), (401, "invalid_credentials"));
    assert_eq!(act(&admin, &ann, "suspend").await.code(), "step_up_required");

    let elevated = admin.post("/v1/auth/step-up", json!({"password": PASSWORD})).await;
    assert_eq!(elevated.status, 200, "{elevated:?}");
    let until = |answer: &Answer| {
        answer.json["elevated_until"].as_str().unwrap().parse::<chrono::DateTime<chrono::Utc>>().unwrap()
    };
    assert_eq!(until(&admin.get("/v1/auth/session").await), until(&elevated));
    assert_eq!(act(&admin, &ann, "suspend").await.status, 200);
    let there = Client { url: other.url.clone(), ..admin.clone() };
    eventually("the other node learns of it", async || until(&there.get("/v1/auth/session").await) == until(&elevated))
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn guesses_at_step_up_count_as_those_at_login_from_the_same_device_do() {
    let node = Node::start().await;
    let ann = node.customer().await;
    let guess = || ann.post("/v1/auth/step-up", json!({"password": "not-the-Passw0rd!"}));
    for _ in 0..5 {
        assert_eq!(guess().await.status, 401);
    }
    let right = ann.post("/v1/auth/step-up", json!({"password": PASSWORD})).await;
    assert_eq!(right.status, 401, "not evaluated any more");
    let here = log_in(&node, &ann.email, PASSWORD, Some(&ann.device_token)).await;
    assert_eq!(here.status, 401, "the same lock");
    assert_eq!(log_in(&node, &ann.email, PASSWORD, None).await.status, 200, "and it is this device's alone");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restarted_node_knows_who_is_elevated() {
    let node = Node::start().await;
    let ann = node.customer().await;
    let elevated = ann.post("/v1/auth/step-up", json!({"password": PASSWORD})).await;
    let database = std::sync::Arc::clone(&node.database);
    let old = node.as_if_logged_in(TimeDelta::minutes(11), &ann, &["customer"]);
    node.stop().await;
    let node = Node::join(&database).await;
    let session = Client { url: node.url.clone(), ..old }.get("/v1/auth/session").await;
    assert_eq!(session.json["elevated_until"], elevated.json["elevated_until"]);
}

async fn revoke_admin(admin: &Client, of: &Client) -> Answer {
    let (path, body) = (format!("/v1/accounts/{}/roles/admin", of.account), json!({"reason": BECAUSE}).to_string());
    admin.send(Verb::DELETE, &path, Some("application/json"), &body).await
}

#[tokio::test(flavor = "multi_thread")]
async fn the_last_administrator_can_be_neither_demoted_nor_suspended() {
    let node = Node::start().await;
    let (one, other) = (node.admin().await, node.admin().await);
    assert_eq!(revoke_admin(&one, &other).await.status, 200, "one is left");
    assert_eq!(revoke_admin(&one, &other).await.code(), "role_not_held", "who is none is not the last");
    let last = revoke_admin(&one, &one).await;
    assert_eq!((last.status, last.code()), (409, "last_admin"), "{last:?}");
    let last = act(&one, &one, "suspend").await;
    assert_eq!((last.status, last.code()), (409, "last_admin"), "{last:?}");
    let third = node.admin().await;
    assert_eq!(act(&one, &third, "suspend").await.status, 200);
    assert_eq!(revoke_admin(&one, &one).await.code(), "last_admin", "who is suspended does not count");
}

#[tokio::test(flavor = "multi_thread")]
async fn two_administrators_who_demote_each_other_at_once_do_not_both_succeed() {
    for _ in 0..10 {
        let node = Node::start().await;
        let other_node = Node::join(&node.database).await;
        let (one, other) = (node.admin().await, node.admin().await);
        let elsewhere = Client { url: other_node.url.clone(), ..other.clone() };
        let (first, second) = tokio::join!(revoke_admin(&one, &other), revoke_admin(&elsewhere, &one));
        let mut statuses = [first.status, second.status];
        statuses.sort_unstable();
        assert_eq!(statuses[0], 200, "{first:?} {second:?}");
        assert!([401, 403, 409].contains(&statuses[1]), "{first:?} {second:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_grant_by_somebody_who_is_demoted_meanwhile_is_refused() {
    let node = Node::start().await;
    let (one, other, ann) = (node.admin().await, node.admin().await, node.customer().await);
    // The token, and this node's memory, are the earlier ones; the log says otherwise.
    let context = fulexo_commands::context::Context {
        actor: fulexo_domain::event::Actor::Account { id: other.account },
        ..operator()
    };
    let own = fulexo_domain::permission::Permissions::of(&fulexo_domain::permission::Permission::ALL);
    assert_eq!(revoke_admin(&one, &other).await.status, 200);
    let role = RoleName::parse("admin").unwrap();
    let reason = fulexo_domain::values::Reason::parse(BECAUSE).unwrap();
    let granted = node.app().commands.grant_role(&context, own, AccountId(ann.account), role, reason).await;
    assert!(matches!(granted, Err(fulexo_commands::CommandError::GrantExceedsOwn)));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_suspension_repeated_after_the_account_was_reinstated_ends_nothing() {
    let node = Node::start().await;
    let (admin, ann) = (node.admin().await, node.customer().await);
    let repeated = admin.with_header("idempotency-key", "a key");
    assert_eq!(act(&repeated, &ann, "suspend").await.status, 200);
    assert_eq!(act(&admin, &ann, "reinstate").await.status, 200);
    let again = node.log_in(&ann.email, ann.account).await;
    assert_eq!(act(&repeated, &ann, "suspend").await.status, 200);
    assert_eq!(again.get("/v1/auth/session").await.status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sign_out_of_an_account_repeated_ends_no_session_that_began_since() {
    let node = Node::start().await;
    let (admin, ann) = (node.admin().await.with_header("idempotency-key", "a key"), node.customer().await);
    let path = format!("/v1/accounts/{}/sessions/revoke", ann.account);
    assert_eq!(admin.post_nothing(&path).await.json["revoked"], json!(1));
    let again = node.log_in(&ann.email, ann.account).await;
    assert_eq!(admin.post_nothing(&path).await.json["revoked"], json!(1), "the same answer");
    assert_eq!(again.get("/v1/auth/session").await.status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_of_sessions_past_their_end_go_away_and_their_tokens_stay_refused() {
    let node = Node::start().await;
    let (ann, eve) = (node.customer().await, node.customer().await);
    assert_eq!(ann.post_nothing("/v1/auth/logout").await.status, 204);
    let pool = node.database.pool().await;
    let sweep = async || fulexo_projections::access::sweep(&pool, clock::now()).await.unwrap();
    let age = async |hours: i32| {
        let superuser = superuser(&node.database).await;
        sqlx::query("update access.session set ended_at = clock_timestamp() - make_interval(hours => $1) where ended_at is not null")
            .bind(hours)
            .execute(&superuser)
            .await
            .unwrap();
    };
    age(23).await;
    assert_eq!(sweep().await, 0, "a day has not gone by");
    age(25).await;
    assert_eq!(sweep().await, 1, "the ended one, and not the live one");
    let in_forty_days = clock::now() + TimeDelta::days(40);
    let swept = fulexo_projections::access::sweep(&pool, in_forty_days).await.unwrap();
    assert_eq!(swept, 0, "whatever a node's clock says, the database knows that they live");
    let standing = |client: &Client| {
        let (pool, account, session) = (pool.clone(), AccountId(client.account), SessionId(client.session));
        async move { fulexo_projections::access::session_access(&pool, account, session).await.unwrap().is_live }
    };
    assert_eq!((standing(&ann).await, standing(&eve).await), (false, true));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_account_made_by_an_administrator_begins_with_a_change_of_its_password() {
    let node = Node::start().await;
    let admin = node.admin().await;
    let body = json!({"email": "Bob@example.com", "display_name": "Bob", "roles": ["auditor"]});
    let keyed = admin.with_header("idempotency-key", "made once");
    let made = keyed.post("/v1/accounts", body.clone()).await;
    assert_eq!((made.status, &made.json["roles"]), (201, &json!(["auditor"])), "{made:?}");
    let again = keyed.post("/v1/accounts", body.clone()).await;
    assert_eq!(again.json, made.json, "the same account, and the same password");
    assert_eq!(admin.post("/v1/accounts", body).await.code(), "email_taken");

    let password = made.json["initial_password"].as_str().unwrap();
    let due = log_in(&node, "bob@example.com", password, None).await;
    assert_eq!((due.status, &due.json["status"]), (200, &json!("password_change_required")), "{due:?}");
    assert!(due.json.get("access_token").is_none(), "{due:?}");
    let mut half_way = node.anonymous();
    half_way.access_token = due.json["challenge_token"].as_str().map(str::to_owned);
    assert_eq!(half_way.get("/v1/me").await.status, 401, "good for one step alone");
    let change = json!({"current_password": password, "new_password": PASSWORD});
    assert_eq!(half_way.post("/v1/me/password", change.clone()).await.status, 204);
    assert_eq!(half_way.post("/v1/me/password", change).await.status, 401, "and for one time");
    let bob = log_in(&node, "bob@example.com", PASSWORD, None).await;
    assert_eq!(bob.json["status"], "authenticated", "{bob:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_makes_an_account_that_may_do_more_than_they() {
    let node = Node::start().await;
    let admin = node.admin().await;
    let desk = json!({"permissions": ["accounts.manage", "roles.grant"], "reason": BECAUSE});
    assert_eq!(admin.put("/v1/roles/desk", desk).await.status, 200);
    let maker = node.user(&["desk"]).await;
    let make = |name: &str, roles: Value| {
        maker.post("/v1/accounts", json!({"email": format!("{name}@example.com"), "roles": roles}))
    };
    assert_eq!(make("a", json!(["admin"])).await.code(), "grant_exceeds_own");
    assert_eq!(make("b", json!(["customer", "auditor"])).await.code(), "grant_exceeds_own");
    assert_eq!(make("c", json!(["desk", "customer"])).await.status, 201);
    let unknown = make("d", json!(["root"])).await;
    assert_eq!((unknown.status, &unknown.json["errors"][0]["pointer"]), (400, &json!("/roles")), "{unknown:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_name_is_changed_by_its_owner_or_by_an_administrator_and_shown_everywhere() {
    let node = Node::start().await;
    let (admin, ann, eve) = (node.admin().await, node.customer().await, node.customer().await);
    let path = format!("/v1/accounts/{}", ann.account);
    let patch = async |client: &Client, path: &str, name: Value| {
        let body = json!({"display_name": name}).to_string();
        client.send(Verb::PATCH, path, Some("application/json"), &body).await
    };
    let own = patch(&ann, "/v1/me", json!("Ann")).await;
    assert_eq!((own.status, &own.json["display_name"]), (200, &json!("Ann")), "{own:?}");
    let me = ann.seeing(own.position()).get("/v1/me").await;
    assert_eq!((&me.json["display_name"], &me.json["email"]), (&json!("Ann"), &json!(ann.email)));
    assert_eq!(patch(&eve, &path, json!("Eve was here")).await.status, 403);
    let by_admin = patch(&admin, &path, Value::Null).await;
    assert_eq!(by_admin.status, 200, "{by_admin:?}");
    let shown = admin.seeing(by_admin.position()).get(&path).await;
    assert_eq!((&shown.json["display_name"], &shown.json["email"]), (&Value::Null, &json!(ann.email)));
    let other = patch(&admin, "/v1/accounts/018f0000-0000-7000-8000-000000000000", json!("x")).await;
    assert_eq!(other.status, 404);
    let events = events(&node, &ann, by_admin.position()).await;
    let changed: Vec<_> = events.iter().filter(|event| event["type"] == "account.profile_changed").collect();
    assert_eq!(changed.len(), 2);
    assert!(changed.iter().all(|event| event["data"] == json!({})), "names are sealed");
}
