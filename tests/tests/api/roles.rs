//! Roles that administrators define, what they allow and to whom, and what nobody does to those who may more. Races are
//! judged by the log: every act must have been right at its position.

#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests fail by panicking")]

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use chrono::TimeDelta;
use fulexo_commands::context::Context;
use fulexo_commands::{ChallengePurpose, CommandError, Credentials, LoginResult};
use fulexo_domain::event::Actor;
use fulexo_domain::password::Password;
use fulexo_domain::permission::{Permission, Permissions};
use fulexo_domain::values::{AccountId, ApiKeyName, EmailAddress, Reason, RoleName};
use fulexo_tests::{
    Answer, Authenticator, Client, Database, Node, PASSWORD, leaves, log_size, operator, superuser, there,
};
use hyper::Method;
use serde_json::{Value, json};
use uuid::Uuid;

use crate::PERMISSIONS;

const BECAUSE: &str = "the marmalade affair of Thistlewood";

async fn define(client: &Client, role: &str, permissions: &[&str]) -> Answer {
    client.put(&format!("/v1/roles/{role}"), json!({"permissions": permissions, "reason": BECAUSE})).await
}

async fn retire(client: &Client, role: &str) -> Answer {
    client.delete_with(&format!("/v1/roles/{role}"), json!({"reason": BECAUSE})).await
}

async fn grant(client: &Client, account: Uuid, role: &str) -> Answer {
    client.post(&format!("/v1/accounts/{account}/roles"), json!({"role": role, "reason": BECAUSE})).await
}

async fn revoke(client: &Client, account: Uuid, role: &str) -> Answer {
    client.delete_with(&format!("/v1/accounts/{account}/roles/{role}"), json!({"reason": BECAUSE})).await
}

async fn act(client: &Client, account: Uuid, verb: &str) -> Answer {
    client.post(&format!("/v1/accounts/{account}/{verb}"), json!({"reason": BECAUSE})).await
}

/// Returns a customer who holds a role of this name with these permissions; defines the role if necessary.
async fn holder(node: &Node, admin: &Client, role: &str, permissions: &[&str]) -> Client {
    let client = node.customer().await;
    assert_eq!(define(admin, role, permissions).await.status, 200);
    assert_eq!(grant(admin, client.account, role).await.status, 204);
    client
}

async fn reads_audit(client: &Client) -> u16 {
    client.get("/v1/audit/events?limit=1").await.status
}

/// Asks until the status is this one; gives up after a time that only a fault needs.
async fn comes_to(client: &Client, path: &str, status: u16) -> bool {
    let asked = Instant::now();
    while asked.elapsed() < Duration::from_secs(30) {
        if client.get(path).await.status == status {
            return true;
        }
        // Between two tries.
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    false
}

#[track_caller]
fn assert_refused(answer: &Answer, status: u16, code: &str) {
    assert_eq!((answer.status, answer.code()), (status, code), "{answer:?}");
}

/// Starts two nodes that learn of each other only by asking the log.
async fn deaf_nodes() -> [Node; 2] {
    let database = Arc::new(Database::create().await);
    let mut env = database.env();
    env.remove("NATS_URL");
    [Node::with(&database, env.clone()).await, Node::with(&database, env).await]
}

/// Returns the arguments of a command by a caller whose token and whose node do not know yet what the log says.
fn stale(client: &Client) -> (Context, Permissions, Reason) {
    let context = Context { actor: Actor::Account { id: client.account }, ..operator() };
    (context, Permissions::of(&Permission::ALL), Reason::parse(BECAUSE).unwrap())
}

#[tokio::test(flavor = "multi_thread")]
async fn each_permission_allows_its_own_calls_and_no_others_also_by_a_token_of_before() {
    let node = Node::start().await;
    let (admin, ann, other) = (node.admin().await, node.customer().await, node.customer().await);
    let gone = node.customer().await.account;
    let mut policy = admin.get("/v1/policy").await.json;
    policy["reason"] = json!(BECAUSE);
    let (reason, path) = (json!({"reason": BECAUSE}), format!("/v1/accounts/{}", other.account));
    let calls = [
        (Method::GET, "/v1/accounts".to_owned(), Value::Null),
        (Method::POST, format!("{path}/unlock"), reason.clone()),
        (Method::POST, format!("/v1/accounts/{gone}/erasure"), reason),
        (Method::GET, "/v1/sessions".to_owned(), Value::Null),
        (Method::POST, format!("{path}/sessions/revoke"), Value::Null),
        (Method::GET, "/v1/roles".to_owned(), Value::Null),
        (Method::POST, format!("{path}/roles"), json!({"role": "customer", "reason": BECAUSE})),
        (Method::PUT, "/v1/roles/empty".to_owned(), json!({"permissions": [], "reason": BECAUSE})),
        (Method::GET, "/v1/policy".to_owned(), Value::Null),
        (Method::PUT, "/v1/policy".to_owned(), policy),
        (Method::GET, "/v1/api-keys".to_owned(), Value::Null),
        (Method::POST, "/v1/auth/introspect".to_owned(), json!("token=x")),
        (Method::GET, "/v1/audit/events".to_owned(), Value::Null),
    ];
    for permission in PERMISSIONS {
        let role = permission.replace('.', "-");
        let defined = define(&admin, &role, &[permission]).await.json;
        assert_eq!((&defined["role"], &defined["permissions"]), (&json!(role), &json!([permission])));
        assert_eq!(grant(&admin, ann.account, &role).await.status, 204);
        for (needed, (method, path, body)) in PERMISSIONS.iter().zip(&calls) {
            let (kind, text) = match body {
                Value::Null => (None, String::new()),
                Value::String(form) => (Some("application/x-www-form-urlencoded"), form.clone()),
                body => (Some("application/json"), body.to_string()),
            };
            let answer = ann.send(method.clone(), path, kind, &text).await;
            if *needed == permission {
                assert!([200, 204].contains(&answer.status) || answer.code() == "role_held", "{answer:?}");
            } else {
                assert_refused(&answer, 403, "permission_denied");
            }
        }
        assert_eq!(ann.get("/v1/auth/session").await.json["permissions"], json!([permission]));
        assert_eq!(revoke(&admin, ann.account, &role).await.status, 200);
        assert_eq!(ann.get("/v1/auth/session").await.json["permissions"], json!([]));
    }
}

async fn a_change_reaches(here: &Node, other: &Node) {
    let admin = here.admin().await;
    let ann = holder(here, &admin, "desk", &["accounts.read"]).await;
    let elsewhere = there(other, &ann);
    for _ in 0..5 {
        assert_eq!(define(&admin, "desk", &["audit.read"]).await.status, 200);
        assert_eq!((reads_audit(&ann).await, ann.get("/v1/accounts").await.status), (200, 403), "here at once");
        assert!(comes_to(&elsewhere, "/v1/accounts", 403).await && comes_to(&elsewhere, "/v1/audit/events", 200).await);
        assert_eq!(define(&admin, "desk", &["accounts.read"]).await.status, 200);
        assert_eq!((reads_audit(&ann).await, ann.get("/v1/accounts").await.status), (403, 200), "here at once");
        assert!(comes_to(&elsewhere, "/v1/audit/events", 403).await && comes_to(&elsewhere, "/v1/accounts", 200).await);
    }
    assert_eq!(revoke(&admin, ann.account, "desk").await.status, 200);
    assert!(comes_to(&elsewhere, "/v1/accounts", 403).await, "and so does a revocation");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_change_of_a_role_binds_tokens_of_before_here_at_once_and_soon_elsewhere() {
    let node = Node::start().await;
    a_change_reaches(&node, &Node::join(&node.database).await).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_change_of_a_role_reaches_other_nodes_without_nats() {
    let [here, other] = deaf_nodes().await;
    a_change_reaches(&here, &other).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_starts_later_knows_what_each_role_allows() {
    let node = Node::start().await;
    let admin = node.admin().await;
    let ann = holder(&node, &admin, "reader", &["accounts.read"]).await;
    let bob = holder(&node, &admin, "gone", &["audit.read"]).await;
    assert_eq!(define(&admin, "reader", &["audit.read"]).await.status, 200);
    assert_eq!(revoke(&admin, bob.account, "gone").await.status, 200);
    assert_eq!(retire(&admin, "gone").await.status, 200);
    let database = Arc::clone(&node.database);
    node.stop().await;
    let node = Node::join(&database).await;
    let (ann, bob, admin) = (there(&node, &ann), there(&node, &bob), there(&node, &admin));
    assert_eq!((reads_audit(&ann).await, ann.get("/v1/accounts").await.status), (200, 403));
    assert_eq!(reads_audit(&bob).await, 403);
    assert_refused(&define(&admin, "gone", &[]).await, 409, "role_retired");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_role_is_retired_when_nobody_holds_it_and_its_name_never_used_again() {
    let node = Node::start().await;
    let admin = node.admin().await;
    let ann = holder(&node, &admin, "desk", &["audit.read"]).await;
    assert_refused(&retire(&admin, "desk").await, 409, "role_in_use");
    assert_eq!(reads_audit(&ann).await, 200);
    assert_eq!(revoke(&admin, ann.account, "desk").await.status, 200);
    let retired = retire(&admin, "desk").await;
    assert_eq!(retired.status, 200, "{retired:?}");
    let size = log_size(&node).await;
    assert_refused(&retire(&admin, "desk").await, 409, "role_retired");
    assert_refused(&define(&admin, "desk", &["audit.read"]).await, 409, "role_retired");
    let granted = grant(&admin, ann.account, "desk").await;
    assert_eq!((granted.status, &granted.json["errors"][0]["pointer"]), (400, &json!("/role")), "{granted:?}");
    assert_refused(&retire(&admin, "never-defined").await, 404, "not_found");
    assert_eq!(log_size(&node).await, size);
    let listed = json!({"role": "desk", "permissions": [], "built_in": false, "retired": true, "holders": 0});
    let roles = node.auditor().await.get("/v1/roles").await;
    assert_eq!(roles.json["items"][3], listed);
    let built_in = |at: usize| (roles.json["items"][at]["role"].clone(), roles.json["items"][at]["built_in"].clone());
    assert_eq!([0, 1, 2].map(built_in), ["admin", "auditor", "customer"].map(|role| (json!(role), json!(true))));
    let permissions = node.auditor().await.get("/v1/permissions").await;
    let names = permissions.json["items"].as_array().unwrap().iter().map(|entry| entry["permission"].as_str().unwrap());
    assert_eq!(names.collect::<Vec<_>>(), PERMISSIONS);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_built_in_role_is_nobodys_to_change_or_retire() {
    let node = Node::start().await;
    let admin = node.admin().await;
    let size = log_size(&node).await;
    for role in ["admin", "auditor", "customer"] {
        assert_refused(&define(&admin, role, &["accounts.read"]).await, 409, "built_in_role");
        assert_refused(&retire(&admin, role).await, 409, "built_in_role");
    }
    assert_eq!(log_size(&node).await, size);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_wrong_with_a_request_is_named_and_nothing_happens() {
    let node = Node::start().await;
    let (admin, ann) = (node.admin().await, node.customer().await);
    let size = log_size(&node).await;
    let refused = async |method: Method, path: &str, body: Value, pointers: &[&str]| {
        let answer = admin.send(method, path, Some("application/json"), &body.to_string()).await;
        let named: Vec<_> =
            answer.json["errors"].as_array().into_iter().flatten().map(|e| e["pointer"].clone()).collect();
        assert_eq!((answer.status, named), (400, pointers.iter().map(|p| json!(p)).collect()), "{path} {body}");
    };
    let wrong = json!({"permissions": ["audit.read", "audit.write", "*", ""], "reason": " "});
    let pointers = ["/permissions/1", "/permissions/2", "/permissions/3", "/reason"];
    refused(Method::PUT, "/v1/roles/desk", wrong, &pointers).await;
    let many = json!({"permissions": vec!["audit.read"; PERMISSIONS.len() + 1], "reason": BECAUSE});
    refused(Method::PUT, "/v1/roles/desk", many, &["/permissions"]).await;
    for name in ["Desk", "1st", "a.b", "a%20b", "%C3%A4", "desk%00", "_x", &"x".repeat(64)] {
        let body = json!({"permissions": [], "reason": BECAUSE});
        refused(Method::PUT, &format!("/v1/roles/{name}"), body, &["/role"]).await;
        refused(Method::DELETE, &format!("/v1/roles/{name}"), json!({"reason": BECAUSE}), &["/role"]).await;
    }
    let path = format!("/v1/accounts/{}", ann.account);
    let long = "x".repeat(501);
    for (method, path, body) in [
        (Method::PUT, "/v1/roles/desk".to_owned(), json!({"permissions": ["audit.read"]})),
        (Method::DELETE, "/v1/roles/desk".to_owned(), json!({})),
        (Method::POST, format!("{path}/roles"), json!({"role": "auditor"})),
        (Method::DELETE, format!("{path}/roles/customer"), json!({})),
        (Method::POST, format!("{path}/suspend"), json!({})),
        (Method::POST, format!("{path}/expire-password"), json!({})),
        (Method::POST, format!("{path}/reset-second-factor"), json!({})),
    ] {
        refused(method.clone(), &path, body.clone(), &["/reason"]).await;
        let with = |name: &str, value: &str| {
            let mut body = body.clone();
            body["reason"] = json!(BECAUSE);
            body[name] = json!(value);
            body
        };
        refused(method.clone(), &path, with("reason", &long), &["/reason"]).await;
        for name in ["account_id", "built_in", "actor", "roles"] {
            refused(method.clone(), &path, with(name, "admin"), &[&format!("/{name}")]).await;
        }
    }
    for account in [Uuid::nil(), ann.session] {
        assert_refused(&grant(&admin, account, "auditor").await, 404, "not_found");
        assert_refused(&act(&admin, account, "expire-password").await, 404, "not_found");
        assert_refused(&act(&admin, account, "reset-second-factor").await, 404, "not_found");
    }
    assert_eq!(log_size(&node).await, size);
}

#[tokio::test(flavor = "multi_thread")]
async fn every_reason_is_sealed_and_stands_in_no_leaf() {
    let node = Node::start().await;
    let admin = node.admin().await;
    let ann = holder(&node, &admin, "desk", &["audit.read"]).await;
    assert_eq!(define(&admin, "desk", &[]).await.status, 200);
    assert_eq!(act(&admin, ann.account, "expire-password").await.status, 200);
    assert_eq!(revoke(&admin, ann.account, "desk").await.status, 200);
    let last = retire(&admin, "desk").await.position();
    let seen = node.auditor().await.seeing(last).get("/v1/audit/events?limit=200").await;
    let events = seen.json["items"].as_array().unwrap();
    for expected in [
        "role.defined",
        "role.permissions_changed",
        "role.retired",
        "account.role_granted",
        "account.role_revoked",
        "account.password_expired",
    ] {
        let by_admin = |event: &&Value| event["type"] == expected && event["actor"]["kind"] == "account";
        let event = events.iter().find(by_admin).unwrap();
        assert_eq!(event["sealed"][0]["fields"], json!(["reason"]), "{event}");
        assert_eq!(event["actor"], json!({"kind": "account", "id": admin.account}), "{event}");
    }
    let changed = events.iter().find(|event| event["type"] == "role.permissions_changed").unwrap();
    assert_eq!(changed["data"], json!({"role": "desk", "before": ["audit.read"], "after": []}));
    let leaves = leaves(&node.database).await;
    assert!(leaves.iter().all(|leaf| !leaf.to_string().contains("marmalade")));
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_makes_changes_or_gives_more_than_they_hold() {
    let node = Node::start().await;
    let (admin, auditor, ann) = (node.admin().await, node.auditor().await, node.customer().await);
    let hr = holder(&node, &admin, "hr", &["roles.grant", "roles.manage", "accounts.read"]).await;
    assert_eq!(define(&admin, "beyond", &["accounts.read", "audit.read"]).await.status, 200);
    let size = log_size(&node).await;
    for role in ["admin", "auditor", "beyond"] {
        for account in [ann.account, hr.account] {
            assert_refused(&grant(&hr, account, role).await, 403, "grant_exceeds_own");
        }
    }
    assert_refused(&revoke(&hr, admin.account, "admin").await, 403, "grant_exceeds_own");
    assert_refused(&revoke(&hr, auditor.account, "auditor").await, 403, "grant_exceeds_own");
    for permissions in [&["audit.read"][..], &["accounts.read", "policy.change"], &PERMISSIONS] {
        for role in ["new", "hr", "beyond"] {
            assert_refused(&define(&hr, role, permissions).await, 403, "grant_exceeds_own");
        }
    }
    assert_refused(&define(&hr, "beyond", &[]).await, 403, "grant_exceeds_own");
    assert_refused(&retire(&hr, "beyond").await, 403, "grant_exceeds_own");
    assert_refused(&act(&hr, ann.account, "suspend").await, 403, "permission_denied");
    assert_eq!(log_size(&node).await, size);

    assert_eq!(define(&hr, "within", &["accounts.read"]).await.status, 200);
    assert_eq!(grant(&hr, ann.account, "within").await.status, 204);
    assert_eq!(ann.get("/v1/accounts").await.status, 200);
    assert_eq!(grant(&hr, ann.account, "hr").await.status, 204, "all of what they hold themselves");
    assert_eq!(revoke(&hr, ann.account, "within").await.status, 200);
    assert_eq!(retire(&hr, "within").await.status, 200);
    assert_eq!(define(&hr, "hr", &["roles.grant", "roles.manage"]).await.status, 200, "less for themselves");
    assert_eq!(ann.get("/v1/accounts").await.status, 403, "and for all who hold it");
    assert_refused(
        &define(&hr, "hr", &["roles.grant", "roles.manage", "accounts.read"]).await,
        403,
        "grant_exceeds_own",
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn roles_are_defined_and_retired_by_those_who_may_after_a_login_of_lately() {
    let node = Node::start().await;
    let admin = node.admin().await;
    assert_eq!(define(&admin, "desk", &[]).await.status, 200);
    let size = log_size(&node).await;
    let grants = holder(&node, &admin, "grants", &["roles.grant", "roles.read"]).await;
    for client in [node.customer().await, node.auditor().await, grants] {
        assert_refused(&define(&client, "own", &[]).await, 403, "permission_denied");
        assert_refused(&retire(&client, "desk").await, 403, "permission_denied");
    }
    let stale = node.as_if_logged_in(TimeDelta::minutes(11), &admin, &["admin"]);
    assert_refused(&define(&stale, "own", &[]).await, 403, "step_up_required");
    assert_refused(&retire(&stale, "desk").await, 403, "step_up_required");
    assert!(
        leaves(&node.database)
            .await
            .iter()
            .skip(usize::try_from(size).unwrap())
            .all(|leaf| leaf["data"]["role"] != "own")
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_definition_or_a_retirement_is_done_once_however_often_it_is_asked_for() {
    let node = Node::start().await;
    let admin = node.admin().await;
    let size = log_size(&node).await;
    let at_once = (0..20).map(|_| define(&admin, "desk", &["accounts.read", "audit.read"]));
    let answers = futures_util::future::join_all(at_once).await;
    assert!(answers.iter().all(|answer| answer.status == 200), "{answers:?}");
    let again = define(&admin, "desk", &["audit.read", "accounts.read", "audit.read"]).await;
    assert_eq!((again.status, log_size(&node).await), (200, size + 1), "the same set records nothing: {again:?}");

    let keyed = admin.with_header("idempotency-key", "a key");
    assert_eq!(define(&keyed, "desk", &["audit.read"]).await.status, 200);
    assert_eq!(define(&admin, "desk", &[]).await.status, 200);
    assert_eq!(define(&keyed, "desk", &["audit.read"]).await.status, 200, "the same answer");
    assert_eq!(log_size(&node).await, size + 3, "and not done again");
    assert_refused(&define(&keyed, "desk", &[]).await, 409, "idempotency_key_reused");
    for _ in 0..2 {
        assert_eq!(retire(&keyed, "desk").await.status, 200);
    }
    assert_eq!(log_size(&node).await, size + 4);
    let fill = "insert into access.role (role, permissions, retired, position, changed_at)
                select 'r' || n, '{}', false, 0, now() from generate_series(1, 499) n";
    sqlx::query(fill).execute(&superuser(&node.database).await).await.unwrap();
    assert_refused(&define(&admin, "one-more", &[]).await, 409, "too_many");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_grant_at_the_same_time_as_a_change_was_within_the_granters_permissions() {
    let node = Node::start().await;
    let other = Node::join(&node.database).await;
    let admin = node.admin().await;
    let hr = there(&other, &holder(&node, &admin, "hr", &["roles.grant", "accounts.read"]).await);
    assert!(comes_to(&hr, "/v1/accounts", 200).await);
    for round in 0..20 {
        let (role, ann) = (format!("r{round}"), node.customer().await);
        assert_eq!(define(&admin, &role, &["accounts.read"]).await.status, 200);
        let changed = define(&admin, &role, &["accounts.read", "audit.read"]);
        let (granted, changed) = tokio::join!(grant(&hr, ann.account, &role), changed);
        assert_eq!(changed.status, 200, "{changed:?}");
        match granted.status {
            204 => assert!(granted.position() < changed.position(), "granted beyond the granter: {granted:?}"),
            _ => assert_refused(&granted, 403, "grant_exceeds_own"),
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_somebody_gives_while_they_lose_it_was_given_before() {
    let node = Node::start().await;
    let other = Node::join(&node.database).await;
    let admin = node.admin().await;
    assert_eq!(define(&admin, "reader", &["accounts.read"]).await.status, 200);
    for round in 0..20 {
        let (own, ann) = (format!("hr{round}"), node.customer().await);
        let hr = holder(&node, &admin, &own, &["roles.grant", "roles.manage", "accounts.read"]).await;
        let hr = there(&other, &hr);
        assert!(comes_to(&hr, "/v1/accounts", 200).await);
        let loses = async || match round % 3 {
            0 => revoke(&admin, hr.account, &own).await,
            1 => define(&admin, &own, &["roles.grant", "roles.manage"]).await,
            _ => act(&admin, hr.account, "suspend").await,
        };
        let made = format!("made{round}");
        let (granted, defined, lost) =
            tokio::join!(grant(&hr, ann.account, "reader"), define(&hr, &made, &["accounts.read"]), loses());
        assert!([200, 204].contains(&lost.status), "{lost:?}");
        let leaves = leaves(&node.database).await;
        let took = |leaf: &Value| match round % 3 {
            0 => leaf["type"] == "account.role_revoked" && leaf["data"]["role"] == *own,
            1 => leaf["type"] == "role.permissions_changed" && leaf["data"]["role"] == *own,
            _ => leaf["type"] == "account.suspended" && leaf["stream"] == json!(hr.account),
        };
        let lost_at = leaves.iter().position(took).unwrap();
        for answer in [granted, defined] {
            match answer.status {
                200 | 204 => assert!(answer.position() < lost_at as u64, "{lost_at}: {answer:?}"),
                status => assert!([401, 403].contains(&status), "{answer:?}"),
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_is_demoted_meanwhile_defines_retires_gives_and_takes_nothing() {
    let node = Node::start().await;
    let (admin, mallory, ann) = (node.admin().await, node.admin().await, node.customer().await);
    assert_eq!(define(&admin, "desk", &[]).await.status, 200);
    assert_eq!(revoke(&admin, mallory.account, "admin").await.status, 200);
    let size = log_size(&node).await;
    let ((context, own, reason), role) = (stale(&mallory), |name| RoleName::parse(name).unwrap());
    let (commands, account) = (&node.app().commands, AccountId(ann.account));
    let (name, ends) = (ApiKeyName::parse("billing").unwrap(), context.now + TimeDelta::days(1));
    for refused in [
        commands.define_role(&context, own, role("desk"), own, reason.clone()).await.err(),
        commands.define_role(&context, own, role("new"), Permissions::NONE, reason.clone()).await.err(),
        commands.retire_role(&context, own, role("desk"), reason.clone()).await.err(),
        commands.grant_role(&context, own, account, role("desk"), reason.clone()).await.err(),
        commands.revoke_role(&context, own, account, role("customer"), reason.clone()).await.err(),
        commands.suspend(&context, own, account, reason.clone()).await.err(),
        commands.expire_password(&context, own, account, reason).await.err(),
        commands.create_api_key(&context, own, name, Permissions::NONE, ends).await.err(),
    ] {
        assert!(matches!(refused, Some(CommandError::GrantExceedsOwn)), "{refused:?}");
    }
    assert_eq!(log_size(&node).await, size);
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_is_demoted_meanwhile_does_not_give_the_role_back_to_themselves() {
    let node = Node::start().await;
    let (admin, mallory) = (node.admin().await, node.admin().await);
    assert_eq!(revoke(&admin, mallory.account, "admin").await.status, 200);
    let ((context, own, reason), role) = (stale(&mallory), RoleName::parse("admin").unwrap());
    let granted = node.app().commands.grant_role(&context, own, AccountId(mallory.account), role, reason).await;
    assert!(matches!(granted, Err(CommandError::GrantExceedsOwn)), "they are an administrator again");
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_is_demoted_here_does_not_give_the_role_back_to_themselves_there() {
    let [here, other] = deaf_nodes().await;
    let admin = here.admin().await;
    for _ in 0..10 {
        let mallory = there(&other, &here.admin().await);
        assert!(comes_to(&mallory, "/v1/accounts", 200).await);
        assert_eq!(revoke(&admin, mallory.account, "admin").await.status, 200);
        let granted = grant(&mallory, mallory.account, "admin").await;
        assert_eq!(granted.status, 403, "they are an administrator again: {granted:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_is_suspended_meanwhile_does_not_reinstate_themselves() {
    let node = Node::start().await;
    let (admin, mallory) = (node.admin().await, node.admin().await);
    assert_eq!(act(&admin, mallory.account, "suspend").await.status, 200);
    let (context, own, reason) = stale(&mallory);
    let reinstated = node.app().commands.reinstate(&context, own, AccountId(mallory.account), reason).await;
    assert!(matches!(reinstated, Err(CommandError::GrantExceedsOwn)), "their account is in use again");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_retirement_and_a_grant_at_once_never_leave_a_role_that_allows_something() {
    let node = Node::start().await;
    let other = Node::join(&node.database).await;
    let (admin, auditor) = (node.admin().await, node.auditor().await);
    let elsewhere = there(&other, &admin);
    let mut retired_ones = Vec::new();
    for round in 0..20 {
        let (role, ann) = (format!("r{round}"), node.customer().await);
        assert_eq!(define(&admin, &role, &["audit.read"]).await.status, 200);
        let (granted, retired) = tokio::join!(grant(&elsewhere, ann.account, &role), retire(&admin, &role));
        match (granted.status, retired.status) {
            (204, 409) => {
                assert_eq!(retired.code(), "role_in_use");
                assert!(comes_to(&ann, "/v1/audit/events", 200).await, "it is held, and in use");
            }
            (204 | 400, 200) => {
                assert_eq!(reads_audit(&ann).await, 403, "a retired role allows something");
                assert_refused(&define(&admin, &role, &["audit.read"]).await, 409, "role_retired");
                retired_ones.push((role, ann, granted.status == 204));
            }
            _ => panic!("{granted:?} {retired:?}"),
        }
    }
    let later = Node::join(&node.database).await;
    for (role, ann, held) in retired_ones {
        assert_eq!(reads_audit(&there(&later, &ann)).await, 403);
        let listed = auditor.get("/v1/roles").await.json["items"].as_array().unwrap().clone();
        let listed = listed.into_iter().find(|item| item["role"] == *role).unwrap();
        assert_eq!((&listed["retired"], &listed["permissions"]), (&json!(true), &json!([])));
        assert_eq!(revoke(&admin, ann.account, &role).await.status, if held { 200 } else { 409 });
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn no_request_sent_after_a_revocation_was_answered_is_let_in() {
    let node = Node::start().await;
    let admin = node.admin().await;
    let ann = holder(&node, &admin, "desk", &["audit.read"]).await;
    let (let_in, over) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicBool::new(false)));
    let callers: Vec<_> = (0..12)
        .map(|_| {
            let (ann, let_in, over) = (ann.clone(), Arc::clone(&let_in), Arc::clone(&over));
            tokio::spawn(async move {
                let mut seen = Vec::new();
                loop {
                    let last = over.load(Ordering::SeqCst);
                    let (sent, status) = (Instant::now(), reads_audit(&ann).await);
                    seen.push((sent, status));
                    let_in.fetch_add(usize::from(status == 200), Ordering::SeqCst);
                    if last {
                        return seen;
                    }
                }
            })
        })
        .collect();
    while let_in.load(Ordering::SeqCst) < 50 {
        // Between two looks.
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert_eq!(revoke(&admin, ann.account, "desk").await.status, 200);
    let answered = Instant::now();
    over.store(true, Ordering::SeqCst);
    for caller in callers {
        let seen = caller.await.unwrap();
        let after: Vec<u16> = seen.iter().filter(|(sent, _)| *sent > answered).map(|(_, status)| *status).collect();
        assert!(!after.is_empty() && after.iter().all(|status| *status == 403), "{after:?}");
        assert!(seen.iter().all(|(_, status)| [200, 403].contains(status)));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_last_administrator_stays_whatever_a_role_of_ones_own_allows() {
    let node = Node::start().await;
    let admin = node.admin().await;
    let chief = holder(&node, &admin, "chief", &PERMISSIONS).await;
    let size = log_size(&node).await;
    for client in [&chief, &admin] {
        assert_refused(&revoke(client, admin.account, "admin").await, 409, "last_admin");
        assert_refused(&act(client, admin.account, "suspend").await, 409, "last_admin");
    }
    assert_eq!(log_size(&node).await, size);
    assert_eq!(grant(&chief, chief.account, "admin").await.status, 204, "who holds all of it may be one");
    assert_eq!(revoke(&chief, admin.account, "admin").await.status, 200, "and then there is another");
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_takes_the_use_or_a_factor_of_an_account_that_may_more_than_they() {
    let node = Node::start().await;
    let admin = node.admin().await;
    let desk = holder(&node, &admin, "desk", &["accounts.manage", "accounts.read"]).await;
    let peer = holder(&node, &admin, "desk", &["accounts.manage", "accounts.read"]).await;
    let reader = holder(&node, &admin, "reader", &["accounts.read"]).await;
    let above = holder(&node, &admin, "above", &["accounts.manage", "accounts.read", "audit.read"]).await;
    let verbs = ["suspend", "reinstate", "expire-password", "reset-second-factor"];
    let enrol = async |client: &Client| {
        let started = client.post_nothing("/v1/me/second-factor/totp").await;
        let code = Authenticator::of(started.json["secret"].as_str().unwrap()).code(0);
        let confirmed = client.post("/v1/me/second-factor/totp/confirm", json!({"code": code})).await;
        assert_eq!(confirmed.status, 200, "{confirmed:?}");
    };
    let frank = node.admin().await;
    enrol(&frank).await;
    assert_eq!(act(&admin, frank.account, "suspend").await.status, 200);
    assert_refused(&act(&desk, frank.account, "reinstate").await, 403, "grant_exceeds_own");
    assert_eq!(act(&admin, frank.account, "reinstate").await.status, 200);
    let auditor = node.auditor().await;
    let size = log_size(&node).await;
    for account in [admin.account, frank.account, auditor.account, above.account] {
        for verb in verbs.iter().filter(|verb| **verb != "reinstate") {
            assert_refused(&act(&desk, account, verb).await, 403, "grant_exceeds_own");
        }
    }
    assert_eq!(log_size(&node).await, size);
    assert_eq!(admin.get("/v1/auth/session").await.status, 200);

    for client in [node.customer().await, reader, peer] {
        enrol(&client).await;
        for verb in ["reset-second-factor", "expire-password", "suspend", "reinstate"] {
            let answer = act(&desk, client.account, verb).await;
            assert_eq!(answer.status, 200, "{verb}: {answer:?}");
        }
        assert_eq!(client.get("/v1/auth/session").await.status, 401);
    }
    let old = node.as_if_logged_in(TimeDelta::minutes(11), &desk, &["desk"]);
    for verb in verbs {
        assert_refused(&act(&old, above.account, verb).await, 403, "step_up_required");
        assert_refused(&act(&auditor, above.account, verb).await, 403, "permission_denied");
    }
}

const NEW: &str = "kestrel-Over9thefen";

async fn log_in(node: &Node, email: &str, password: &str) -> Answer {
    node.anonymous().post("/v1/auth/login", json!({"email": email, "password": password})).await
}

/// Returns a client with the token of the step to which a login led.
fn half_way(node: &Node, answer: &Answer) -> Client {
    assert_eq!((answer.status, &answer.json["status"]), (200, &json!("password_change_required")), "{answer:?}");
    assert_eq!((answer.json.get("access_token"), &answer.json["next"]), (None, &json!("/v1/me/password")));
    let token = answer.json["challenge_token"].as_str().unwrap().to_owned();
    Client { access_token: Some(token), ..node.anonymous() }
}

async fn change(client: &Client, current: &str, new: &str) -> Answer {
    client.post("/v1/me/password", json!({"current_password": current, "new_password": new})).await
}

#[tokio::test(flavor = "multi_thread")]
async fn an_expired_password_ends_every_session_and_leads_to_its_change_alone() {
    let node = Node::start().await;
    let (admin, ann) = (node.admin().await, node.customer().await);
    let also_ann = node.log_in(&ann.email, ann.account).await;
    let expired = act(&admin, ann.account, "expire-password").await;
    assert_eq!(expired.status, 200, "{expired:?}");
    for client in [&ann, &also_ann] {
        assert_eq!(client.get("/v1/auth/session").await.status, 401);
        let refresh = json!({"refresh_token": client.refresh_token});
        assert_eq!(client.post("/v1/auth/refresh", refresh).await.status, 401);
    }
    let account = format!("/v1/accounts/{}", ann.account);
    let shown = admin.seeing(expired.position()).get(&account).await;
    assert_eq!(shown.json["password_expired"], json!(true));
    assert_refused(&log_in(&node, &ann.email, NEW).await, 401, "invalid_credentials");
    let due = half_way(&node, &log_in(&node, &ann.email, PASSWORD).await);
    let token = due.access_token.clone().unwrap();

    let document: Value = serde_json::from_str(fulexo_api::routes::spec()).unwrap();
    for (path, methods) in document["paths"].as_object().unwrap() {
        for (method, meta) in methods.as_object().unwrap() {
            if meta["security"].as_array().is_none_or(Vec::is_empty) || meta["operationId"] == "change_my_password" {
                continue;
            }
            let path = path.replace(['{', '}'], "");
            let answer = due.send(method.to_uppercase().parse().unwrap(), &path, None, "").await;
            assert_refused(&answer, 401, "invalid_token");
        }
    }
    for (path, body) in [
        ("/v1/auth/second-factor", json!({"challenge_token": token, "code": "000000"})),
        ("/v1/auth/refresh", json!({"refresh_token": token})),
    ] {
        assert_eq!(node.anonymous().post(path, body).await.status, 401, "{path}");
    }
    assert_refused(&change(&due, NEW, NEW).await, 401, "invalid_credentials");
    for bad in [PASSWORD, "short"] {
        assert_eq!(change(&due, PASSWORD, bad).await.json["errors"][0]["pointer"], json!("/new_password"));
    }
    let changed = change(&due, PASSWORD, NEW).await;
    assert_eq!(changed.status, 204, "{changed:?}");
    assert_refused(&change(&due, NEW, "another-Kestrel7fen").await, 401, "invalid_token");
    assert_refused(&log_in(&node, &ann.email, PASSWORD).await, 401, "invalid_credentials");
    assert_eq!(log_in(&node, &ann.email, NEW).await.json["status"], json!("authenticated"));
    let shown = admin.seeing(changed.position()).get(&account).await;
    assert_eq!(shown.json["password_expired"], json!(false));
    let leaves = leaves(&node.database).await;
    let how = leaves.iter().filter(|leaf| leaf["type"] == "account.password_changed").map(|leaf| &leaf["data"]["how"]);
    assert_eq!(how.collect::<Vec<_>>(), ["expired"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn of_500_guesses_at_once_at_an_expired_password_five_are_evaluated() {
    let node = Node::start().await;
    let (admin, ann) = (node.admin().await, node.customer().await);
    assert_eq!(act(&admin, ann.account, "expire-password").await.status, 200);
    let due = half_way(&node, &log_in(&node, &ann.email, PASSWORD).await);
    let guesses = (0..500).map(|_| change(&due, "not-the-Passw0rd!", NEW));
    let mut answers = futures_util::future::join_all(guesses).await;
    // If the node was too busy to judge some, guesses are left.
    for _ in 0..5 {
        answers.push(change(&due, "not-the-Passw0rd!", NEW).await);
    }
    assert!(answers.iter().all(|answer| [401, 503].contains(&answer.status)), "{answers:?}");
    assert_refused(&change(&due, PASSWORD, NEW).await, 401, "invalid_credentials");
    let leaves = leaves(&node.database).await;
    let failed = leaves.iter().filter(|leaf| leaf["data"]["reason"] == "wrong_password").count();
    crate::assert_evaluated(failed, 5, &answers);
    assert!(leaves.iter().all(|leaf| leaf["type"] != "account.password_changed"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_password_older_than_the_policy_allows_is_changed_at_the_next_login() {
    let node = Node::start().await;
    let (admin, ann) = (node.admin().await, node.customer().await);
    let after = async |days: i64, password: &str| {
        let context = Context { now: operator().now + TimeDelta::days(days), actor: Actor::Anonymous, ..operator() };
        let (email, password) = (EmailAddress::parse(&ann.email).unwrap(), Password::new(password.to_owned()));
        let credentials = Credentials { email, password, device_token: None };
        node.app().commands.login(&context, credentials).await.ok().unwrap().value
    };
    assert!(matches!(after(100, PASSWORD).await, LoginResult::Session(_)), "it may grow old");
    let mut policy = admin.get("/v1/policy").await.json;
    policy["passwords"]["max_age_days"] = json!(90);
    policy["reason"] = json!(BECAUSE);
    let changed = admin.put("/v1/policy", policy).await;
    assert_eq!((changed.status, &changed.json["passwords"]["max_age_days"]), (200, &json!(90)), "{changed:?}");
    assert!(matches!(after(89, PASSWORD).await, LoginResult::Session(_)));
    let LoginResult::Challenge(due) = after(100, PASSWORD).await else { panic!("a password of 100 days is good") };
    assert_eq!(due.purpose, ChallengePurpose::PasswordChange);
    let client = Client { access_token: Some(due.token.to_string()), ..node.anonymous() };
    assert_eq!(change(&client, PASSWORD, NEW).await.status, 204);
    assert!(matches!(after(89, NEW).await, LoginResult::Session(_)));
    let last = leaves(&node.database).await;
    let changed = last.iter().rev().find(|leaf| leaf["type"] == "account.password_changed").unwrap();
    assert_eq!(changed["data"]["how"], "expired");
}
