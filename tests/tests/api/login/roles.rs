//! Roles: in force at once, given with a reason, by nobody who does not hold them.

use fulexo_commands::CommandError;
use fulexo_domain::permission::{Permission, Permissions};
use fulexo_domain::values::{AccountId, Reason, RoleName};
use fulexo_tests::{Answer, Client, Node, operator};
use hyper::Method;
use serde_json::{Value, json};
use uuid::Uuid;

use super::log_size;

async fn grant(admin: &Client, account: Uuid, role: &str) -> Answer {
    admin.post(&format!("/v1/accounts/{account}/roles"), json!({"role": role, "reason": "they asked"})).await
}

async fn revoke(admin: &Client, account: Uuid, role: &str) -> Answer {
    delete(admin, &format!("/v1/accounts/{account}/roles/{role}"), json!({"reason": "done"})).await
}

async fn delete(admin: &Client, path: &str, body: Value) -> Answer {
    admin.send(Method::DELETE, path, Some("application/json"), &body.to_string()).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_grant_is_in_force_at_once_for_a_token_issued_before() {
    let node = Node::start().await;
    let (admin, ann) = (node.admin().await, node.customer().await);
    for _ in 0..20 {
        assert_eq!(ann.get("/v1/audit/events?limit=1").await.status, 403);
        assert_eq!(grant(&admin, ann.account, "auditor").await.status, 204);
        assert_eq!(ann.get("/v1/audit/events?limit=1").await.status, 200);
        assert_eq!(revoke(&admin, ann.account, "auditor").await.status, 200);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_revocation_is_in_force_at_once_for_a_token_issued_before() {
    let node = Node::start().await;
    let (admin, other) = (node.admin().await, node.admin().await);
    assert_eq!(other.get("/v1/accounts?limit=1").await.status, 200);
    assert_eq!(revoke(&admin, other.account, "admin").await.status, 200);
    assert_eq!(other.get("/v1/accounts?limit=1").await.status, 403);
    assert_eq!(grant(&other, other.account, "admin").await.status, 403, "and cannot be taken back");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_starts_later_knows_what_was_revoked_before() {
    let node = Node::start().await;
    let (admin, ann, bob) = (node.admin().await, node.auditor().await, node.customer().await);
    assert_eq!(revoke(&admin, ann.account, "auditor").await.status, 200);
    assert_eq!(bob.post_nothing("/v1/auth/logout").await.status, 204);
    let later = Node::join(&node.database).await;
    let at = |client: &Client| Client { url: later.url.clone(), ..client.clone() };
    assert_eq!(at(&ann).get("/v1/audit/events").await.status, 403);
    assert_eq!(at(&ann).get("/v1/auth/session").await.status, 200);
    assert_eq!(at(&bob).get("/v1/auth/session").await.status, 401);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_caller_sees_the_roles_of_now_and_not_those_of_the_token() {
    let node = Node::start().await;
    let (admin, ann) = (node.admin().await, node.customer().await);
    grant(&admin, ann.account, "auditor").await;
    let session = ann.get("/v1/auth/session").await;
    assert_eq!(session.json["roles"], json!(["auditor", "customer"]));
    assert_eq!(session.json["permissions"], json!(["roles.read", "policy.read", "audit.read", "metrics.read"]));
    revoke(&admin, ann.account, "auditor").await;
    revoke(&admin, ann.account, "customer").await;
    let session = ann.get("/v1/auth/session").await;
    assert_eq!((&session.json["roles"], &session.json["permissions"]), (&json!([]), &json!([])));
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_grants_what_they_do_not_hold() {
    // No built-in role may grant and holds less than an administrator, so this one is asked of the command itself.
    let node = Node::start().await;
    let ann = node.customer().await;
    let size = log_size(&node).await;
    let auditors = [Permission::RolesRead, Permission::PolicyRead, Permission::AuditRead, Permission::MetricsRead];
    let own = Permissions::of(&auditors).union(Permissions::of(&[Permission::RolesGrant]));
    let grant = async |role: &str| {
        let (role, reason) = (RoleName::parse(role).unwrap(), Reason::parse("they asked").unwrap());
        node.app().commands.grant_role(&operator(), own, AccountId(ann.account), role, reason).await
    };
    assert!(matches!(grant("admin").await, Err(CommandError::GrantExceedsOwn)));
    assert_eq!(log_size(&node).await, size);
    assert!(grant("auditor").await.is_ok(), "what is held can be granted");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_role_is_granted_once_and_revoked_once() {
    let node = Node::start().await;
    let (admin, ann) = (node.admin().await, node.customer().await);
    assert_eq!(grant(&admin, ann.account, "auditor").await.status, 204);
    let size = log_size(&node).await;
    let again = grant(&admin, ann.account, "auditor").await;
    assert_eq!((again.status, again.code()), (409, "role_held"), "{again:?}");
    assert_eq!(log_size(&node).await, size);
    assert_eq!(revoke(&admin, ann.account, "auditor").await.status, 200);
    let again = revoke(&admin, ann.account, "auditor").await;
    assert_eq!((again.status, again.code()), (409, "role_not_held"), "{again:?}");
    assert_eq!(log_size(&node).await, size + 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn twenty_grants_at_once_are_one() {
    let node = Node::start().await;
    let (admin, ann) = (node.admin().await, node.customer().await);
    let size = log_size(&node).await;
    let grants = futures_util::future::join_all((0..20).map(|_| grant(&admin, ann.account, "auditor"))).await;
    let granted = grants.iter().filter(|answer| answer.status == 204).count();
    assert_eq!(granted, 1, "{grants:?}");
    assert!(grants.iter().all(|answer| answer.status == 204 || answer.code() == "role_held"), "{grants:?}");
    assert_eq!(log_size(&node).await, size + 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_role_or_an_account_that_does_not_exist_is_refused() {
    let node = Node::start().await;
    let (admin, ann) = (node.admin().await, node.customer().await);
    let size = log_size(&node).await;
    for role in ["root", "Admin", "", "admin "] {
        let answer = grant(&admin, ann.account, role).await;
        assert_eq!((answer.status, answer.code()), (400, "invalid_input"), "{role:?}: {answer:?}");
        assert_eq!(answer.json["errors"][0]["pointer"], "/role");
    }
    for account in [Uuid::nil(), ann.session] {
        let answer = grant(&admin, account, "auditor").await;
        assert_eq!((answer.status, answer.code()), (404, "not_found"), "{answer:?}");
    }
    assert_eq!(log_size(&node).await, size);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_grant_and_a_revocation_need_a_reason() {
    let node = Node::start().await;
    let (admin, ann) = (node.admin().await, node.customer().await);
    let size = log_size(&node).await;
    let path = format!("/v1/accounts/{}/roles", ann.account);
    for body in [
        json!({"role": "auditor"}),
        json!({"role": "auditor", "reason": " "}),
        json!({"role": "auditor", "reason": "x".repeat(501)}),
    ] {
        let answer = admin.post(&path, body).await;
        assert_eq!((answer.status, &answer.json["errors"][0]["pointer"]), (400, &json!("/reason")), "{answer:?}");
    }
    for body in [json!({}), json!({"reason": ""}), json!({"reason": " "})] {
        let answer = delete(&admin, &format!("{path}/customer"), body).await;
        assert_eq!((answer.status, &answer.json["errors"][0]["pointer"]), (400, &json!("/reason")), "{answer:?}");
    }
    for query in ["", "?reason=", "?reason=%20"] {
        let answer = admin.delete(&format!("{path}/customer{query}")).await;
        assert_eq!((answer.status, &answer.json["errors"][0]["pointer"]), (400, &json!("/reason")), "{answer:?}");
    }
    assert_eq!(log_size(&node).await, size);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_reason_of_a_revocation_may_stand_in_the_query() {
    let node = Node::start().await;
    let (admin, ann) = (node.admin().await, node.auditor().await);
    let answer = admin.delete(&format!("/v1/accounts/{}/roles/auditor?reason=done", ann.account)).await;
    assert_eq!(answer.status, 200, "{answer:?}");
}
