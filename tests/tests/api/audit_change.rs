//! Before and after: an event that an administrator caused shows what it changed, worked out from the log when it is read.

use std::collections::{BTreeMap, BTreeSet};

use chrono::TimeDelta;
use fulexo_database::begin;
use fulexo_domain::change::{administrative_change, needs_previous};
use fulexo_domain::event::{Event, Stream};
use fulexo_domain::leaf;
use fulexo_domain::permission::Permission;
use fulexo_domain::role::RoleEvent;
use fulexo_domain::values::RoleName;
use fulexo_projections::read_models::audit;
use fulexo_tests::{Authenticator, Client, Dice, Node, draft, leaves, log_size, superuser};
use serde_json::{Value, json};
use sqlx::PgPool;

const BECAUSE: &str = "asked for at the desk";

/// An administrator, an account that they act on, and their last key.
struct World {
    node: Node,
    admin: Client,
    ann: Client,
    keys: Vec<Value>,
}

impl World {
    async fn begin() -> Self {
        let node = Node::start().await;
        let (admin, ann) = (node.admin().await, node.customer().await);
        Self { node, admin, ann, keys: Vec::new() }
    }

    async fn act(&self, verb: &str) {
        self.admin.post(&format!("/v1/accounts/{}/{verb}", self.ann.account), json!({"reason": BECAUSE})).await;
    }

    /// Has the administrator do something, which may be refused.
    async fn happen(&mut self, number: u64, dice: &mut Dice) {
        let because = || json!({"reason": BECAUSE});
        let of_account = format!("/v1/accounts/{}", self.ann.account);
        match number {
            0 => self.act("suspend").await,
            1 => self.act("reinstate").await,
            2 => self.act("expire-password").await,
            3 => self.act("unlock").await,
            4 => self.act("reset-second-factor").await,
            5 => {
                let role = dice.pick(&["auditor", "support"]);
                self.admin.post(&format!("{of_account}/roles"), json!({"role": role, "reason": BECAUSE})).await;
            }
            6 => {
                let role = dice.pick(&["auditor", "support"]);
                self.admin.delete_with(&format!("{of_account}/roles/{role}"), because()).await;
            }
            7 => {
                let permissions = dice.pick(&[&["accounts.read"][..], &["accounts.read", "sessions.read"], &[]]);
                let body = json!({"permissions": permissions, "reason": BECAUSE});
                self.admin.put("/v1/roles/support", body).await;
            }
            8 => {
                let role = dice.pick(&["guest", "visitor"]);
                let body = json!({"permissions": ["accounts.read"], "reason": BECAUSE});
                self.admin.put(&format!("/v1/roles/{role}"), body).await;
                self.admin.delete_with(&format!("/v1/roles/{role}"), because()).await;
            }
            9 => {
                let mut policy = self.admin.get("/v1/policy").await.json;
                policy.as_object_mut().unwrap().remove("version");
                policy["lockout"]["threshold"] = json!(dice.between(4, 7));
                policy["passwords"]["max_age_days"] = dice.pick(&[Some(90), Some(365), None]).into();
                policy["reason"] = json!(BECAUSE);
                self.admin.put("/v1/policy", policy).await;
            }
            10 => {
                let key = json!({"name": "billing", "permissions": ["sessions.revoke"],
                                 "expires_at": fulexo_node::clock::now() + TimeDelta::days(1)});
                self.keys.push(self.admin.post("/v1/api-keys", key).await.json["api_key_id"].clone());
            }
            11 => {
                let Some(key) = self.keys.pop() else { return };
                self.admin.delete_with(&format!("/v1/api-keys/{}", key.as_str().unwrap()), because()).await;
            }
            12 => {
                let scope = dice.pick(&["logins", "all"]);
                self.admin.post("/v1/lockdown", json!({"scope": scope, "reason": BECAUSE})).await;
            }
            13 => {
                self.admin.delete_with("/v1/lockdown", because()).await;
            }
            14 => {
                self.admin.post_nothing(&format!("{of_account}/sessions/revoke")).await;
            }
            15 => {
                let name = json!({"display_name": format!("Ann {}", dice.roll(9))});
                self.admin.send(hyper::Method::PATCH, &of_account, Some("application/json"), &name.to_string()).await;
            }
            _ => {
                let position = dice.roll(log_size(&self.node).await);
                self.admin.post(&format!("/v1/audit/events/{position}/unseal"), because()).await;
            }
        }
    }
}

/// The types of events of which a golden one has a change, or may have one after another event.
fn administrative_types() -> BTreeSet<String> {
    let golden = std::fs::read_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/golden")).unwrap();
    let leaves =
        golden.map(|entry| entry.unwrap().path()).filter(|path| path.extension().is_some_and(|it| it == "json"));
    let types = leaves.filter_map(|path| {
        let recorded = leaf::decode(0, &std::fs::read(path).unwrap()).unwrap();
        let event = &recorded.event;
        let has_one = needs_previous(event) || administrative_change(event, None).is_some();
        has_one.then(|| recorded.event_type.to_string())
    });
    types.collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn every_change_begins_where_the_one_before_it_ended() {
    let mut world = World::begin().await;
    let mut dice = Dice(7);
    // The owner sets up a second factor, once: all else is the administrator's.
    let started = world.ann.post_nothing("/v1/me/second-factor/totp").await;
    let app = Authenticator::of(started.json["secret"].as_str().unwrap());
    let confirmed = world.ann.post("/v1/me/second-factor/totp/confirm", json!({"code": app.code(0)})).await;
    assert_eq!(confirmed.status, 200, "{confirmed:?}");
    for number in (0..17).chain([10, 11, 12, 13]) {
        world.happen(number, &mut dice).await;
    }
    for _ in 0..100 {
        let number = dice.roll(17);
        world.happen(number, &mut dice).await;
    }
    world.act("erasure").await;
    let admin = world.node.log_in(&world.admin.email, world.admin.account).await;

    let mut ends: BTreeMap<(String, String), Value> = BTreeMap::new();
    let mut seen = BTreeSet::new();
    for (position, leaf) in leaves(&world.node.database).await.iter().enumerate() {
        let event = admin.get(&format!("/v1/audit/events/{position}")).await;
        assert_eq!(event.status, 200, "{event:?}");
        let Some(change) = event.json["change"].as_array() else { continue };
        seen.insert(leaf["type"].as_str().unwrap().to_owned());
        for field in change {
            let of = (leaf["stream"].to_string() + &leaf["category"].to_string(), field["field"].to_string());
            assert_ne!(field["before"], field["after"], "{event:?}");
            // The owner set up the second factor, and sessions begin with a login.
            let begun = ["second_factor", "live"].contains(&field["field"].as_str().unwrap());
            match ends.insert(of, field["after"].clone()) {
                Some(end) if !begun => assert_eq!(field["before"], end, "{event:?}"),
                _ => {}
            }
        }
        for secret in [BECAUSE, world.ann.email.as_str(), "Ann "] {
            assert!(!event.json["change"].to_string().contains(secret), "{event:?}");
        }
    }
    assert_eq!(seen, administrative_types(), "every administrative type was seen, and no other has a change");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_change_says_what_it_was_and_what_it_is() {
    let mut world = World::begin().await;
    let mut dice = Dice(1);
    let shown = async |world: &World, event_type: &str| {
        let leaves = leaves(&world.node.database).await;
        let position = leaves.iter().rposition(|leaf| leaf["type"] == event_type).unwrap();
        let admin = world.node.log_in(&world.admin.email, world.admin.account).await;
        admin.get(&format!("/v1/audit/events/{position}")).await.json["change"].clone()
    };
    let field = |field: &str, before: Value, after: Value| json!({"field": field, "before": before, "after": after});
    world.act("suspend").await;
    assert_eq!(shown(&world, "account.suspended").await, json!([field("suspended", json!(false), json!(true))]));
    let body = json!({"role": "auditor", "reason": BECAUSE});
    world.admin.post(&format!("/v1/accounts/{}/roles", world.ann.account), body).await;
    let granted = json!([field("roles.auditor", json!(false), json!(true))]);
    assert_eq!(shown(&world, "account.role_granted").await, granted);
    for (permissions, status) in [(json!(["audit.read"]), 200), (json!(["audit.read", "roles.read"]), 200)] {
        let body = json!({"permissions": permissions, "reason": BECAUSE});
        let defined = world.admin.put("/v1/roles/support", body).await;
        assert_eq!(defined.status, status, "{defined:?}");
    }
    world.admin.delete_with("/v1/roles/support", json!({"reason": BECAUSE})).await;
    let retired = [
        field("status", json!("defined"), json!("retired")),
        field("permissions", json!(["roles.read", "audit.read"]), json!([])),
    ];
    assert_eq!(shown(&world, "role.retired").await, json!(retired));
    for scope in ["logins", "all"] {
        world.admin.post("/v1/lockdown", json!({"scope": scope, "reason": BECAUSE})).await;
    }
    assert_eq!(shown(&world, "lockdown.started").await, json!([field("scope", json!("logins"), json!("all"))]));
    world.happen(13, &mut dice).await;
    assert_eq!(shown(&world, "lockdown.lifted").await, json!([field("scope", json!("all"), Value::Null)]));
    let mut policy = world.admin.get("/v1/policy").await.json;
    policy.as_object_mut().unwrap().remove("version");
    policy["sessions"]["max_per_account"] = json!(7);
    policy["reason"] = json!(BECAUSE);
    assert_eq!(world.admin.put("/v1/policy", policy).await.status, 200);
    let changed = [field("version", json!(1), json!(2)), field("sessions.max_per_account", json!(100), json!(7))];
    assert_eq!(shown(&world, "policy.changed").await, json!(changed), "also a figure that the leaf leaves out");
    assert_eq!(shown(&world, "authentication.succeeded").await, Value::Null, "this is nobody's but the owner's");
}

/// Writes a stream of this many changes of a role, and its retirement, past the append function. Returns the position of the
/// last one.
async fn fill(node: &Node, pool: &PgPool, role: &RoleName, events: u64) -> u64 {
    let (stream, now) = (role.stream_id(), fulexo_node::clock::now());
    let scopes = [vec![Permission::AccountsRead], vec![Permission::AuditRead, Permission::AccountsRead]];
    let event = |version: u64| -> Event {
        let scope = |version: u64| scopes[usize::try_from(version % 2).unwrap()].clone();
        let role = role.clone();
        match version {
            1 => RoleEvent::Defined { role, permissions: scope(1) }.into(),
            version if version == events => RoleEvent::Retired { role }.into(),
            version => RoleEvent::PermissionsChanged { role, before: scope(version - 1), after: scope(version) }.into(),
        }
    };
    let mut transaction = begin(pool).await.unwrap();
    let head: i64 =
        sqlx::query_scalar("select position from log.head for update").fetch_one(&mut *transaction).await.unwrap();
    sqlx::query("alter table log.event_0 disable trigger append_only").execute(&mut *transaction).await.unwrap();
    for first in (1..=events).step_by(10_000) {
        let versions: Vec<u64> = (first..=events.min(first + 9_999)).collect();
        let leaves: Vec<Vec<u8>> = versions
            .iter()
            .map(|version| draft(event(*version), stream).encode().unwrap().leaf(now, *version))
            .collect();
        let hashes: Vec<Vec<u8>> = leaves.iter().map(|leaf| leaf::hash(leaf).to_vec()).collect();
        let versions: Vec<i64> = versions.iter().map(|version| version.cast_signed()).collect();
        sqlx::query(
            "insert into log.event_0 (position, stream_id, category, version, leaf, leaf_hash)
             select $1 + version - 1, $2, 'role', version, leaf, leaf_hash
             from unnest($3::bigint[], $4::bytea[], $5::bytea[]) u (version, leaf, leaf_hash)",
        )
        .bind(head)
        .bind(stream)
        .bind(versions)
        .bind(leaves)
        .bind(hashes)
        .execute(&mut *transaction)
        .await
        .unwrap();
    }
    sqlx::query("alter table log.event_0 enable always trigger append_only").execute(&mut *transaction).await.unwrap();
    let moved = sqlx::query("update log.head set position = position + $1").bind(events.cast_signed());
    moved.execute(&mut *transaction).await.unwrap();
    transaction.commit().await.unwrap();
    assert_eq!(log_size(node).await, head.unsigned_abs() + events);
    head.unsigned_abs() + events - 1
}

#[tokio::test(flavor = "multi_thread")]
async fn of_a_stream_of_100_000_events_two_are_read() {
    const EVENTS: u64 = 100_000;
    let node = Node::start().await;
    let auditor = node.auditor().await;
    let (pool, role) = (superuser(&node.database).await, RoleName::parse("support").unwrap());
    let last = fill(&node, &pool, &role, EVENTS).await;
    sqlx::query("analyze log.event_0").execute(&pool).await.unwrap();

    // The rows that the transaction of the question has fetched so far.
    const FETCHED: &str = "select coalesce(sum(idx_tup_fetch + seq_tup_read), 0)::bigint from pg_stat_xact_user_tables
                           where schemaname = 'log'";
    let stream = Stream { category: fulexo_domain::event::Category::Role, id: role.stream_id() };
    let mut transaction = begin(&pool).await.unwrap();
    let before: i64 = sqlx::query_scalar(FETCHED).fetch_one(&mut *transaction).await.unwrap();
    for version in [1, EVENTS / 2, EVENTS] {
        let found = audit::at_version(&mut transaction, stream, version).await.unwrap().unwrap();
        assert_eq!(found.position.unsigned_abs(), last - EVENTS + version);
    }
    let after: i64 = sqlx::query_scalar(FETCHED).fetch_one(&mut *transaction).await.unwrap();
    drop(transaction);
    assert!(after > before && after - before <= 12, "{} rows for three events", after - before);

    let retired = auditor.get(&format!("/v1/audit/events/{last}")).await;
    let expected = json!([
        {"field": "status", "before": "defined", "after": "retired"},
        {"field": "permissions", "before": ["audit.read", "accounts.read"], "after": []},
    ]);
    assert_eq!(retired.json["change"], expected, "{retired:?}");
    let middle = auditor.get(&format!("/v1/audit/events/{}", last - EVENTS / 2)).await;
    assert_eq!(middle.json["change"][0]["before"], json!(["audit.read", "accounts.read"]), "{middle:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_concluded_from_an_event_that_was_altered() {
    let node = Node::start().await;
    let admin = node.admin().await;
    for scope in ["logins", "all"] {
        assert_eq!(admin.post("/v1/lockdown", json!({"scope": scope, "reason": BECAUSE})).await.status, 200);
    }
    let last = log_size(&node).await - 1;
    let change = async || admin.get(&format!("/v1/audit/events/{last}")).await.json["change"].clone();
    assert_eq!(change().await[0]["before"], "logins");
    let pool = superuser(&node.database).await;
    for statement in [
        "alter table log.event_0 disable trigger append_only",
        "alter table log.event drop constraint event_leaf_hash",
        "update log.event_0 set leaf = replace(encode(leaf, 'escape'), '\"logins\"', '\"all\"')::bytea
         where category = 'lockdown' and version = 1",
    ] {
        sqlx::query(statement).execute(&pool).await.unwrap();
    }
    assert_eq!(change().await, Value::Null);
}
