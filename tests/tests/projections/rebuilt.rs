//! A view rebuilt from the log is the view that followed it.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use chrono::{DateTime, TimeDelta, Utc};
use fulexo_commands::RateLimitViolation;
use fulexo_domain::backup::{
    BackupCommand, BackupContent, BackupPart, BackupPartKind, BackupPlace, BackupRung, RungResult, RungVerdict,
};
use fulexo_domain::checkpoint::CheckpointRefusal;
use fulexo_domain::event::Actor;
use fulexo_domain::key::{KeyLabel, KeyPurpose};
use fulexo_domain::rate_limit::{RateLimitLayer, RouteGroup};
use fulexo_domain::values::{BackupLabel, Epoch, Sha256Hex, TreeRoot};
use fulexo_projections::feed::LogReader;
use fulexo_projections::read_models::Projection;
use fulexo_projections::rebuild::{RebuildOptions, RebuildProgress, RebuildReport, rebuild};
use fulexo_projections::replay::{ReadModelTable, live_checksum};
use fulexo_tests::{Answer, Authenticator, Client, Database, Mailbox, Node, PASSWORD, eventually, history, operator};
use serde_json::{Value, json};
use sqlx::AssertSqlSafe;
use tokio::sync::watch;
use uuid::Uuid;

use crate::replayed::scratch;
use crate::{caught_up, log_size, revoke, superuser};

#[tokio::test(flavor = "multi_thread")]
async fn a_rebuilt_view_is_the_live_view() {
    let (node, mailbox) = start().await;
    mixed_load(&node, &mailbox, 4).await;
    assert_eq!(kinds(&node.database).await, every_kind(), "the load is to make every kind of event there is");
    for projection in Projection::ALL {
        assert!(rows(&node, projection).await >= 20, "{projection:?}");
        let rebuilt = rebuilt(&node, projection).await;
        assert!(rebuilt.comparison.is_same(), "{projection:?}: {rebuilt:?}");
        assert_eq!(rebuilt.comparison.position, log_size(&node).await, "{projection:?}");
        assert_eq!((rebuilt.events, rebuilt.version), (log_size(&node).await, 2));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_view_that_was_altered_is_found_out_and_made_right() {
    let (node, mailbox) = start().await;
    mixed_load(&node, &mailbox, 4).await;
    for (projection, alteration) in [
        (Projection::Accounts, "update read.account set roles = '{auditor}' where profile_position = 0"),
        (Projection::Sessions, "delete from read.session where started_position < 5"),
        (Projection::Roles, "update read.role_grant set granted_by_kind = 'system' where since = 1"),
        (Projection::Metrics, "update read.metric set events = events + 1 where first_position = 0"),
        (Projection::Audit, "update read.audit set subject_id = null where position = 0"),
        (
            Projection::Incidents,
            "update read.incident set severity = 'low' where since = (select min(since) from read.incident)",
        ),
    ] {
        let altered = sqlx::query(alteration).execute(&mut superuser(&node.database).await).await.unwrap();
        assert_eq!(altered.rows_affected(), 1, "{projection:?}");
        let found = rebuilt(&node, projection).await.comparison;
        assert!(
            found.differing >= 1 && found.examples.len() == found.differing.min(3) as usize,
            "{projection:?}: {found:?}"
        );
        assert!(rebuilt(&node, projection).await.comparison.is_same(), "{projection:?}");
    }
}

/// Rows that change repeatedly are held back, and not in the tables.
#[tokio::test(flavor = "multi_thread")]
async fn a_build_that_is_broken_off_goes_on_from_what_it_had_written_whatever_else_it_had_applied() {
    let database = Database::create().await;
    history::fill(&database, 60_000).await;
    let pool = database.pool().await;
    let options = RebuildOptions { program: "the same".into(), restart: false };
    for (_, outcome) in rebuild(&pool, &Projection::ALL, &options, |_, _| {}).await.unwrap() {
        outcome.unwrap();
    }
    for projection in [Projection::Accounts, Projection::Sessions] {
        let (only, applied) = ([projection], watch::Sender::new(0));
        let mut watched = applied.subscribe();
        let tell = |_, news| {
            if let RebuildProgress::Advanced { position } = news {
                applied.send_replace(position);
            }
        };
        tokio::select! {
            outcomes = rebuild(&pool, &only, &options, tell) => panic!("it is done already: {outcomes:?}"),
            position = watched.wait_for(|position| *position >= 40_000) => drop(position),
        }
        let mut begun = None;
        let tell = |_, news| {
            if let RebuildProgress::Started { position, .. } = news {
                begun = Some(position);
            }
        };
        let (_, outcome) = rebuild(&pool, &only, &options, tell).await.unwrap().remove(0);
        let rebuilt = outcome.unwrap();
        assert!(rebuilt.comparison.is_same(), "from {begun:?}: {rebuilt:?}");
        assert_eq!((rebuilt.version, rebuilt.events), (3, 60_000));
        assert!(begun.is_some_and(|position| position <= 40_000), "{begun:?}");
    }
    // Both versions were built in this way; a replay holds nothing back.
    let mut replayed = scratch(&database).await;
    let mut log = LogReader::over(&pool, 0..60_000);
    while let Some(batch) = log.next().await.unwrap() {
        replayed.apply(&batch).await.unwrap();
    }
    let mut live = pool.acquire().await.unwrap();
    for table in
        [ReadModelTable::Account, ReadModelTable::AccountPast, ReadModelTable::Session, ReadModelTable::SessionPast]
    {
        let built = live_checksum(&mut live, table, 60_000).await.unwrap();
        assert_eq!(built, replayed.checksum(table, 60_000).await.unwrap(), "{table:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn commands_go_on_while_views_are_rebuilt() {
    let (node, mailbox) = start().await;
    mixed_load(&node, &mailbox, 4).await;
    let is_over = AtomicBool::new(false);
    let commands = async {
        let mut made = 0;
        while !is_over.load(Ordering::Relaxed) {
            let client = node.customer().await;
            assert_eq!(client.post_nothing("/v1/auth/logout").await.status, 204);
            made += 1;
        }
        made
    };
    let rebuilds = async {
        for _ in 0..2 {
            for projection in Projection::ALL {
                let rebuilt = rebuilt(&node, projection).await;
                assert!(rebuilt.comparison.is_same(), "{projection:?}: {rebuilt:?}");
            }
        }
        is_over.store(true, Ordering::Relaxed);
    };
    let (made, ()) = tokio::join!(commands, rebuilds);
    assert!(made > 0);
    caught_up(&node, &node.admin().await).await;
    for projection in Projection::ALL {
        assert!(rebuilt(&node, projection).await.comparison.is_same(), "{projection:?}, followed after it was rebuilt");
    }
}

/// Starts a node whose mail is read.
pub async fn start() -> (Node, Mailbox) {
    let (database, mailbox) = (Arc::new(Database::create().await), Mailbox::create());
    let mut env = database.env();
    env.extend(mailbox.env());
    (Node::with(&database, env).await, mailbox)
}

/// Makes events of every kind, the daily part by this many people.
pub async fn mixed_load(node: &Node, mailbox: &Mailbox, people: usize) {
    mail_load(node, mailbox).await;
    let admin = node.admin().await;
    daily_load(node, &admin, people).await;
    rare_load(node, &admin).await;
    let lockdown = json!({"scope": "logins", "reason": "r"});
    assert_eq!(admin.post("/v1/lockdown", lockdown).await.status, 200);
    assert_eq!(admin.delete_with("/v1/lockdown", json!({"reason": "r"})).await.status, 200);
    for _ in 0..3 {
        incident_load(node, &admin).await;
    }
    let now = fulexo_node::clock::now();
    let commands = &node.app().commands;
    commands.record_ended_refusal(&operator(), CheckpointRefusal::Memory, now, now).await.unwrap();
    erasures(node, &admin).await;
    let (old, new) = (KeyLabel::parse("2025").unwrap(), KeyLabel::parse("2026").unwrap());
    commands.record_key_rotation(&operator(), KeyPurpose::Log, &old, &new).await.unwrap();
    commands.record_key_destruction(&operator(), KeyPurpose::Log, &old).await.unwrap();
    for command in backup_load(now) {
        commands.record_backup(&operator(), command).await.unwrap();
    }
    caught_up(node, &admin).await;
}

/// Returns a backup that is taken, verified and restored.
fn backup_load(began_at: DateTime<Utc>) -> [BackupCommand; 3] {
    let (sha256, epoch) = (Sha256Hex::parse(&"0f".repeat(32)).unwrap(), Epoch::from(Uuid::from_u128(1)));
    let backup = BackupContent {
        began_at,
        bytes: 1,
        epoch,
        manifest: sha256.clone(),
        name: BackupLabel::parse("20261201T061402Z-1").unwrap(),
        position: 1,
        root: TreeRoot::parse("47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=").unwrap(),
    };
    let (parts, place) =
        (vec![BackupPart { length: 1, part: BackupPartKind::Database, sha256 }], BackupPlace::Directory);
    let rungs = vec![RungResult { rung: BackupRung::Restore, verdict: RungVerdict::Passed }];
    [
        BackupCommand::Take { backup: backup.clone(), parts, place },
        BackupCommand::Verify { backup: backup.clone(), drill: None, place, rungs },
        BackupCommand::Restore { backup: Some(backup), epoch, erasures: 0, lost: Some(0), position: 1 },
    ]
}

/// Goes through an incident.
async fn incident_load(node: &Node, admin: &Client) {
    let ann = node.customer().await;
    let opened = admin.post("/v1/incidents", json!({"severity": "high", "summary": "s"})).await;
    assert_eq!(opened.status, 201, "{opened:?}");
    let path = format!("/v1/incidents/{}", opened.json["incident_id"].as_str().unwrap());
    let links = json!({"accounts": [ann.account], "events": [0, 1], "findings": ["log.gap"]});
    for (step, body) in [
        ("notes", json!({"note": "n", "links": links})),
        ("contain", json!({"reason": "r", "revoke_sessions": {"accounts": [ann.account]}})),
        ("eradicate", json!({"note": "n"})),
        ("recover", json!({"note": "n"})),
    ] {
        let answer = admin.post(&format!("{path}/{step}"), body).await;
        assert_eq!(answer.status, 200, "{step}: {answer:?}");
    }
    let changed = admin.send(hyper::Method::PATCH, &path, JSON, r#"{"severity": "critical"}"#).await;
    assert_eq!(changed.status, 200, "{changed:?}");
    let closed = admin.post(&format!("{path}/close"), json!({"lessons": "l"})).await;
    assert_eq!(closed.status, 200, "{closed:?}");
}

/// Withdraws an erasure, and carries one out.
async fn erasures(node: &Node, admin: &Client) {
    let ann = node.customer().await;
    assert_eq!(ann.post_nothing("/v1/me/erasure").await.status, 200);
    assert_eq!(ann.delete("/v1/me/erasure").await.status, 204);
    let path = format!("/v1/accounts/{}/erasure", ann.account);
    assert_eq!(admin.post(&path, json!({"reason": "r"})).await.status, 200);
    eventually("the erasure is completed", async || admin.get(&path).await.json["state"] == "completed").await;
}

/// Does what people do every day.
async fn daily_load(node: &Node, admin: &Client, people: usize) {
    for _ in 0..people {
        let mut ann = node.customer().await;
        let other = node.log_in(&ann.email, ann.account).await;
        let wrong = json!({"email": ann.email, "password": "wrong"});
        for _ in 0..2 {
            assert_eq!(node.anonymous().post("/v1/auth/login", wrong.clone()).await.status, 401);
        }
        let spent = ann.refresh_token.clone();
        for _ in 0..2 {
            let refreshed = ann.post("/v1/auth/refresh", json!({"refresh_token": ann.refresh_token})).await;
            assert_eq!(refreshed.status, 200, "{refreshed:?}");
            ann.log_in_with(&refreshed);
        }
        let path = format!("/v1/accounts/{}/roles", ann.account);
        let grant = admin.post(&path, json!({"role": "auditor", "reason": "r"})).await;
        assert_eq!(grant.status, 204, "{grant:?}");
        assert_eq!(revoke(admin, &format!("{path}/customer")).await, 200);
        let change = json!({"current_password": PASSWORD, "new_password": "kestrel-Over9thefen"});
        assert_eq!(other.post("/v1/me/password", change).await.status, 204);
        assert_eq!(node.anonymous().post("/v1/auth/refresh", json!({"refresh_token": spent})).await.status, 401);

        let (bob, carol) = (node.customer().await, node.customer().await);
        assert_eq!(bob.post("/v1/auth/refresh", json!({"refresh_token": bob.refresh_token})).await.status, 200);
        let second = node.log_in(&bob.email, bob.account).await;
        let third = second.post("/v1/auth/refresh", json!({"refresh_token": second.refresh_token})).await;
        let third = json!({"refresh_token": third.json["refresh_token"]});
        assert_eq!(node.anonymous().post("/v1/auth/refresh", third).await.status, 200);
        let reused = json!({"refresh_token": second.refresh_token});
        assert_eq!(node.anonymous().post("/v1/auth/refresh", reused).await.status, 401);
        assert_eq!(carol.post_nothing("/v1/auth/logout").await.status, 204);

        let idle = node.customer().await;
        let mut later = operator();
        later.now += TimeDelta::days(8);
        assert!(node.app().commands.refresh(&later, &idle.refresh_token, None).await.is_err());
        let (locked, _) = node.register(&[]).await;
        for _ in 0..6 {
            for email in [locked.as_str(), "nobody@example.com"] {
                let body = json!({"email": email, "password": "wrong"});
                assert_eq!(node.anonymous().post("/v1/auth/login", body).await.status, 401);
            }
        }
    }
}

/// Does what they do now and then: second factors, step-ups, a new browser; and what administrators do to accounts,
/// roles, keys and the policy.
async fn rare_load(node: &Node, admin: &Client) {
    second_factor_load(node, admin).await;
    let ann = node.customer().await;
    let because = json!({"reason": "r"});
    let act = async |verb: &str| {
        let answer = admin.post(&format!("/v1/accounts/{}/{verb}", ann.account), because.clone()).await;
        assert_eq!(answer.status, 200, "{verb}: {answer:?}");
    };
    let profile = ann.send(hyper::Method::PATCH, "/v1/me", JSON, r#"{"display_name": "Ann"}"#).await;
    assert_eq!(profile.status, 200, "{profile:?}");
    let moved = ann.with_header("user-agent", "curl/8.1");
    assert_eq!(moved.post("/v1/auth/refresh", json!({"refresh_token": ann.refresh_token})).await.status, 200);
    assert_eq!(moved.post("/v1/auth/step-up", json!({"password": PASSWORD})).await.status, 200);
    let device = ann.get("/v1/me/devices").await.json["items"][0]["device_id"].as_str().unwrap().to_owned();
    assert_eq!(ann.delete(&format!("/v1/me/devices/{device}")).await.status, 204);
    act("suspend").await;
    act("reinstate").await;
    for _ in 0..5 {
        assert_eq!(log_in(node, &ann, "wrong").await.status, 401);
    }
    act("unlock").await;
    act("expire-password").await;
    let due = log_in(node, &ann, PASSWORD).await;
    assert_eq!(due.json["status"], "password_change_required", "{due:?}");
    let change = json!({"current_password": PASSWORD, "new_password": "kestrel-Over9thefen"});
    assert_eq!(half_way(node, &due).post("/v1/me/password", change).await.status, 204);

    for permissions in [json!(["accounts.read"]), json!(["accounts.read", "sessions.read"])] {
        let defined = admin.put("/v1/roles/support", json!({"permissions": permissions, "reason": "r"})).await;
        assert_eq!(defined.status, 200, "{defined:?}");
    }
    assert_eq!(admin.delete_with("/v1/roles/support", because.clone()).await.status, 200);
    let registered = admin.get(&format!("/v1/audit/events?subject={}&limit=1", ann.account)).await;
    let path = format!("/v1/audit/events/{}/unseal", registered.json["items"][0]["position"]);
    assert_eq!(admin.post(&path, because.clone()).await.status, 200);
    assert_eq!(admin.get("/v1/audit/export?category=policy").await.status, 200);
    let search = json!({"address": "192.0.2.1", "reason": "r"});
    assert_eq!(admin.post("/v1/audit/addresses", search).await.status, 200);
    let expires_at = operator().now + TimeDelta::days(1);
    let key = json!({"name": "gateway", "permissions": ["audit.read"], "expires_at": expires_at});
    let key = admin.post("/v1/api-keys", key).await;
    let path = format!("/v1/api-keys/{}", key.json["api_key_id"].as_str().unwrap());
    assert_eq!(admin.delete_with(&path, because).await.status, 200);
    let mut policy = admin.get("/v1/policy").await.json;
    policy.as_object_mut().unwrap().remove("version");
    policy["reason"] = json!("r");
    policy["lockout"]["threshold"] = json!(6);
    assert_eq!(admin.put("/v1/policy", policy).await.status, 200);
    let now = operator().now;
    let refused = RateLimitViolation {
        layer: RateLimitLayer::Address,
        route: Some(RouteGroup::Login),
        actor: Actor::Anonymous,
        origin: Some("192.0.2.1".to_owned()),
        began_at: now,
        ended_at: now + TimeDelta::minutes(1),
        count: 7,
    };
    node.app().commands.record_violations(&operator(), &[refused]).await.unwrap();
}

const JSON: Option<&str> = Some("application/json");

/// Resets passwords and verifies addresses by mail.
async fn mail_load(node: &Node, mailbox: &Mailbox) {
    let ann = node.customer().await;
    assert_eq!(node.anonymous().post("/v1/auth/password-reset", json!({"email": ann.email})).await.status, 202);
    let token = mailbox.expect(&ann.email, "reset-password").await.token();
    let again = json!({"token": token, "new_password": PASSWORD});
    assert_eq!(node.anonymous().post("/v1/auth/password-reset/confirm", again).await.status, 400);
    let reset = json!({"token": token, "new_password": "kestrel-Over9thefen"});
    assert_eq!(node.anonymous().post("/v1/auth/password-reset/confirm", reset).await.status, 204);
}

/// Sets second factors up, asks for them, loses them and takes them away.
async fn second_factor_load(node: &Node, admin: &Client) {
    const TOTP: &str = "/v1/me/second-factor/totp";
    let (ann, bob) = (node.customer().await, node.customer().await);
    for client in [&ann, &bob] {
        let started = client.post_nothing(TOTP).await;
        let app = Authenticator::of(started.json["secret"].as_str().unwrap());
        let confirmed = client.post(&format!("{TOTP}/confirm"), json!({"code": app.code(0)})).await;
        assert_eq!(confirmed.status, 200, "{confirmed:?}");
    }
    let codes = ann.post_nothing("/v1/me/recovery-codes").await;
    assert_eq!(codes.status, 200, "{codes:?}");
    let challenge = log_in(node, &ann, PASSWORD).await;
    assert_eq!(challenge.json["status"], "second_factor_required", "{challenge:?}");
    for (code, status) in [(json!("00000-00000"), 401), (codes.json["recovery_codes"][0].clone(), 200)] {
        let body = json!({"challenge_token": challenge.json["challenge_token"], "code": code});
        assert_eq!(node.anonymous().post("/v1/auth/second-factor", body).await.status, status);
    }
    assert_eq!(ann.delete(TOTP).await.status, 204);
    let path = format!("/v1/accounts/{}/reset-second-factor", bob.account);
    assert_eq!(admin.post(&path, json!({"reason": "r"})).await.status, 200);
}

async fn log_in(node: &Node, client: &Client, password: &str) -> Answer {
    node.anonymous().post("/v1/auth/login", json!({"email": client.email, "password": password})).await
}

/// Returns a client that may take the step that a login led to.
fn half_way(node: &Node, login: &Answer) -> Client {
    Client { access_token: login.json["challenge_token"].as_str().map(str::to_owned), ..node.anonymous() }
}

/// Returns every type of event: each has a golden file.
fn every_kind() -> BTreeSet<String> {
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("golden");
    let leaves = std::fs::read_dir(golden).unwrap().map(|entry| entry.unwrap().path());
    let leaves = leaves.filter(|path| path.extension().is_some_and(|extension| extension == "json"));
    leaves
        .map(|path| {
            let leaf: Value = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
            leaf["type"].as_str().unwrap().to_owned()
        })
        .collect()
}

async fn rebuilt(node: &Node, projection: Projection) -> RebuildReport {
    crate::rebuilt(&node.database, projection).await.unwrap()
}

/// Counts the rows that readers see, all tables taken together.
async fn rows(node: &Node, projection: Projection) -> i64 {
    let mut rows = 0;
    for table in projection.tables() {
        let statement = AssertSqlSafe(format!("select count(*) from read.{table}"));
        rows += sqlx::query_scalar::<_, i64>(statement).fetch_one(&mut superuser(&node.database).await).await.unwrap();
    }
    rows
}

/// Returns the types of events in the log.
async fn kinds(database: &Database) -> BTreeSet<String> {
    let statement = "select distinct convert_from(leaf, 'UTF8')::jsonb ->> 'type' as kind from log.event";
    let kinds: Vec<String> = sqlx::query_scalar(statement).fetch_all(&mut superuser(database).await).await.unwrap();
    kinds.into_iter().collect()
}
