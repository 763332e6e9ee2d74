//! The data sealed alongside events: opened with a reason, on record before it is told, and told to nobody else.

use std::sync::Arc;

use chrono::TimeDelta;
use fulexo_tests::spec::{Operation, operations};
use fulexo_tests::{Answer, Client, Database, Node, log_size, superuser};
use hyper::Method;
use serde_json::{Value, json};

const ADDRESS: &str = "203.0.113.77";
const AGENT: &str = "Bandersnatch/7.7 (Jabberwock)";
const NAME: &str = "Žofie Thistlewood";
const EMAIL: &str = "zanzibar.quokka@heliotrope.example";
const REASON: &str = "ticket 4711, the marmalade affair";

/// A node that believes its proxy, and a person of whom every word is known.
async fn start() -> (Node, Client) {
    let database = Arc::new(Database::create().await);
    let mut env = database.env();
    env.insert("TRUSTED_PROXIES".into(), "127.0.0.1/32".into());
    let node = Node::with(&database, env).await;
    let mut client = node.anonymous();
    client.headers = vec![("x-forwarded-for".into(), ADDRESS.into()), ("user-agent".into(), AGENT.into())];
    let body = json!({"email": EMAIL, "password": fulexo_tests::PASSWORD, "display_name": NAME});
    let registered = client.post("/v1/auth/register", body).await;
    assert_eq!(registered.status, 201, "{registered:?}");
    client.account = registered.json["account_id"].as_str().unwrap().parse().unwrap();
    let login = client.post("/v1/auth/login", json!({"email": EMAIL, "password": fulexo_tests::PASSWORD})).await;
    client.log_in_with(&login);
    (node, client)
}

/// Returns the events of this type.
async fn events(reader: &Client, event_type: &str) -> Vec<Value> {
    let list = reader.get(&format!("/v1/audit/events?type={event_type}")).await;
    assert_eq!(list.status, 200, "{list:?}");
    list.json["items"].as_array().unwrap().clone()
}

async fn position_of(reader: &Client, event_type: &str, subject: &Client) -> u64 {
    let of_subject =
        events(reader, event_type).await.into_iter().find(|event| event["subject"] == json!(subject.account));
    of_subject.unwrap()["position"].as_u64().unwrap()
}

async fn unseal(client: &Client, position: u64) -> Answer {
    client.post(&format!("/v1/audit/events/{position}/unseal"), json!({"reason": REASON})).await
}

/// An account whose only role has these permissions.
async fn with_permissions(node: &Node, admin: &Client, name: &str, permissions: &[&str]) -> Client {
    let defined = admin.put(&format!("/v1/roles/{name}"), json!({"permissions": permissions, "reason": "tests"})).await;
    assert_eq!(defined.status, 200, "{defined:?}");
    node.user(&[name]).await
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_sealed_is_opened_for_a_reason_that_stays_on_record() {
    let (node, ann) = start().await;
    let admin = node.admin().await;
    let login = position_of(&admin, "authentication.succeeded", &ann).await;
    let opened = unseal(&admin, login).await;
    assert_eq!(opened.status, 200, "{opened:?}");
    assert_eq!((&opened.json["position"], &opened.json["fields"]["ip"]), (&json!(login), &json!(ADDRESS)));
    assert_eq!(opened.json["fields"]["user_agent"], AGENT);
    assert_eq!(opened.json["fields"].get("email"), None);
    assert_eq!(opened.header("cache-control"), Some("no-store"));
    let registration = position_of(&admin, "account.registered", &ann).await;
    let opened = unseal(&admin, registration).await;
    assert_eq!(opened.json["fields"], json!({"email": EMAIL, "display_name": NAME}));

    let records = events(&admin.seeing(opened.position()), "audit.unsealed").await;
    let told: Vec<_> =
        records.iter().map(|record| (&record["data"], &record["actor"]["id"], &record["subject"])).collect();
    let fields = |names: &[&str], position: u64| json!({"position": position, "fields": names});
    let (admin_id, ann_id) = (json!(admin.account), json!(ann.account));
    assert_eq!(
        told,
        [
            (&fields(&["device", "ip", "user_agent"], login), &admin_id, &ann_id),
            (&fields(&["display_name", "email"], registration), &admin_id, &ann_id),
        ]
    );
    // The reason is sealed in its turn, and whom it concerns learns of it.
    let record = records[0]["position"].as_u64().unwrap();
    assert_eq!(unseal(&admin, record).await.json["fields"], json!({"reason": REASON}));
    let own = ann.get("/v1/me/events?order=desc").await;
    assert!(own.json["items"].as_array().unwrap().iter().any(|event| event["type"] == "audit.unsealed"), "{own:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reason_in_any_script_is_kept_whole() {
    let (node, ann) = start().await;
    let admin = node.admin().await;
    let reason = "理由".repeat(250);
    let suspended = admin.post(&format!("/v1/accounts/{}/suspend", ann.account), json!({"reason": reason})).await;
    assert!(suspended.status < 300, "{suspended:?}");
    let reader = admin.seeing(suspended.position());
    let opened = unseal(&admin, position_of(&reader, "account.suspended", &ann).await).await;
    assert_eq!(opened.json["fields"]["reason"], json!(reason));
}

#[tokio::test(flavor = "multi_thread")]
async fn who_may_not_open_it_is_refused_and_nothing_is_recorded() {
    let (node, ann) = start().await;
    let (admin, auditor) = (node.admin().await, node.auditor().await);
    let position = position_of(&admin, "account.registered", &ann).await;
    let old = node.as_if_logged_in(TimeDelta::minutes(11), &admin, &["admin"]);
    let key = json!({"name": "siem", "permissions": ["audit.read", "audit.unseal"],
                     "expires_at": fulexo_node::clock::now() + TimeDelta::days(1)});
    let key = admin.post("/v1/api-keys", key).await;
    let service = Client { access_token: key.json["secret"].as_str().map(str::to_owned), ..node.anonymous() };
    let without = with_permissions(&node, &admin, "reader", &["audit.read"]).await;
    let path = format!("/v1/audit/events/{position}/unseal");
    let ended = log_size(&node).await - 1;
    let nothing_sealed = events(&admin.seeing(ended), "role.defined").await;
    assert_eq!(nothing_sealed.len(), 1);

    let size = log_size(&node).await;
    for (client, status, code) in [
        (&node.anonymous(), 401, "unauthenticated"),
        (&ann, 403, "permission_denied"),
        (&auditor, 403, "permission_denied"),
        (&without, 403, "permission_denied"),
        (&old, 403, "step_up_required"),
        (&service, 401, "invalid_token"),
    ] {
        let refused = unseal(client, position).await;
        assert_eq!((refused.status, refused.code()), (status, code), "{refused:?}");
        assert!(!refused.text.contains(EMAIL), "{refused:?}");
    }
    for body in [json!({}), json!({"reason": ""}), json!({"reason": "x".repeat(501)}), json!({"reason": 1})] {
        assert_eq!(admin.post(&path, body).await.code(), "invalid_input");
    }
    assert_eq!(unseal(&admin, 1_000_000).await.code(), "not_found");
    assert_eq!(unseal(&admin, u64::MAX).await.code(), "not_found");
    assert_eq!(log_size(&node).await, size, "something was recorded");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_destroyed_or_never_sealed_is_not_opened_and_what_was_altered_neither() {
    let (node, ann) = start().await;
    let admin = node.admin().await;
    let pool = superuser(&node.database).await;
    let (registration, login) =
        (position_of(&admin, "account.registered", &ann).await, position_of(&admin, "session.started", &ann).await);
    let elevated = position_of(&admin, "account.role_granted", &admin).await;
    sqlx::query("alter table log.sealed disable trigger all").execute(&pool).await.unwrap();
    sqlx::query(
        "update log.sealed set ciphertext = set_byte(ciphertext, 0, get_byte(ciphertext, 0) # 1) where position = $1",
    )
    .bind(login as i64)
    .execute(&pool)
    .await
    .unwrap();
    let size = log_size(&node).await;
    assert_eq!(unseal(&admin, login).await.status, 500);
    sqlx::query("delete from vault.subject_key where subject_id = $1").bind(ann.account).execute(&pool).await.unwrap();
    assert_eq!(unseal(&admin, registration).await.code(), "nothing_sealed");
    sqlx::query("delete from log.sealed where position = $1").bind(elevated as i64).execute(&pool).await.unwrap();
    assert_eq!(unseal(&admin, elevated).await.code(), "nothing_sealed");
    assert_eq!(log_size(&node).await, size, "something was recorded");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_repeated_request_is_one_disclosure_and_each_other_one_is_its_own() {
    let (node, ann) = start().await;
    let admin = node.admin().await;
    let position = position_of(&admin, "account.registered", &ann).await;
    let once = admin.with_header("idempotency-key", "once");
    let (first, second) = tokio::join!(unseal(&once, position), unseal(&once, position));
    for answer in [&first, &second, &unseal(&once, position).await] {
        assert_eq!((answer.status, &answer.json["fields"]["email"]), (200, &json!(EMAIL)), "{answer:?}");
    }
    let other = once.post(&format!("/v1/audit/events/{position}/unseal"), json!({"reason": "another"})).await;
    assert_eq!(other.code(), "idempotency_key_reused");
    let last = log_size(&node).await - 1;
    assert_eq!(events(&admin.seeing(last), "audit.unsealed").await.len(), 1);

    let mut many = tokio::task::JoinSet::new();
    for _ in 0..8 {
        let admin = admin.clone();
        many.spawn(async move { unseal(&admin, position).await.status });
    }
    assert_eq!(many.join_all().await, [200; 8]);
    let last = log_size(&node).await - 1;
    assert_eq!(events(&admin.seeing(last), "audit.unsealed").await.len(), 9);
}

/// Calls an operation about this person, with the ids of theirs that there are.
async fn about(operation: &Operation, client: &Client, person: &Client, position: u64) -> Answer {
    let session = person.get("/v1/auth/session").await.json["session_id"].clone();
    let target = operation.target(|name, schema| match name {
        "session_id" => session.clone(),
        "position" => json!(position),
        "role" | "name" => json!("auditor"),
        _ => fulexo_tests::spec::sample(name, schema, person.account),
    });
    let body = operation.body(person.account).map(|body| operation.encoded(&body)).unwrap_or_default();
    operation.send(client, &target, &body).await
}

#[tokio::test(flavor = "multi_thread")]
async fn an_auditor_learns_nothing_of_a_person_from_any_operation_but_the_one_that_unseals() {
    let (node, ann) = start().await;
    let admin = node.admin().await;
    let suspended = admin.post(&format!("/v1/accounts/{}/suspend", ann.account), json!({"reason": REASON})).await;
    assert_eq!(suspended.status, 200, "{suspended:?}");
    let reinstated = admin.post(&format!("/v1/accounts/{}/reinstate", ann.account), json!({"reason": REASON})).await;
    assert_eq!(reinstated.status, 200, "{reinstated:?}");
    let mut ann = ann;
    let login = ann.post("/v1/auth/login", json!({"email": EMAIL, "password": fulexo_tests::PASSWORD})).await;
    ann.log_in_with(&login);
    let unsealing = ["audit.read", "audit.unseal", "metrics.read", "roles.read", "policy.read"];
    let readers = [node.auditor().await, with_permissions(&node, &admin, "investigator", &unsealing).await];
    let planted = [ADDRESS, AGENT, NAME, EMAIL, REASON, "Bandersnatch", "Thistlewood", "quokka", "marmalade"];

    let mut answered = 0;
    for reader in &readers {
        for position in 0..log_size(&node).await {
            for operation in operations() {
                let is_read = operation.method == Method::GET && !operation.path.starts_with("/v1/me");
                let concerns_position = operation.path.contains("{position}");
                if !is_read || (position > 0 && !concerns_position) {
                    continue;
                }
                let answer = about(&operation, reader, &ann, position).await;
                answered += usize::from(answer.status == 200);
                let headers = format!("{:?}", answer.headers);
                for word in planted {
                    let told = answer.text.contains(word) || headers.contains(word);
                    assert!(!told, "{} tells an auditor {word}: {answer:?}", operation.id);
                }
            }
        }
    }
    assert!(answered > 40, "only {answered} answers");
    // The search finds what is there.
    let position = position_of(&admin, "account.registered", &ann).await;
    let unsealed = unseal(&readers[1], position).await;
    assert!(unsealed.text.contains(EMAIL), "{unsealed:?}");
}
