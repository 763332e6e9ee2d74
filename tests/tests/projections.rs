//! What readers see, and what gates a request, is derived from the log: again with the same result, and not at all
//! past an event that cannot be applied.

#![expect(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "tests fail by panicking")]

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use chrono::TimeDelta;
use fulexo_domain::account::AccountEvent;
use fulexo_domain::event::{Actor, Event, Recorded, Stream};
use fulexo_domain::leaf::{self, Draft, Prepared};
use fulexo_domain::session::{RevokedBy, SessionEvent};
use fulexo_domain::values::{AccountId, RoleName, SessionId};
use fulexo_projections::gate::{Claim, Gate, LEASE, Verdict};
use fulexo_projections::projection::Projection;
use fulexo_projections::rebuild::{Rebuilt, rebuild};
use fulexo_tests::{Client, Database, Node, PASSWORD, operator};
use serde_json::{Value, json};
use sqlx::{Connection, PgConnection};
use tokio::time::{sleep, timeout};
use uuid::Uuid;

async fn log_size(node: &Node) -> u64 {
    node.app().commands.log().size().await.unwrap()
}

async fn superuser(database: &Database) -> PgConnection {
    PgConnection::connect(&database.superuser_url()).await.unwrap()
}

/// Looks again and again, for ten seconds at most.
async fn eventually(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    let looking = async {
        while !holds().await {
            sleep(Duration::from_millis(20)).await;
        }
    };
    assert!(timeout(Duration::from_secs(10), looking).await.is_ok(), "never: {what}");
}

/// Until every view has seen everything that the log holds now.
async fn caught_up(node: &Node, reader: &Client) {
    let reader = reader.seeing(log_size(node).await - 1);
    for path in ["/v1/accounts", "/v1/sessions", "/v1/audit/events"] {
        let answer = reader.get(path).await;
        assert_eq!(answer.status, 200, "{answer:?}");
    }
}

/// Something of every kind.
async fn mixed_load(node: &Node) {
    let admin = node.admin().await;
    for _ in 0..4 {
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
        assert_eq!(admin.delete(&format!("{path}/customer?reason=r")).await.status, 204);
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
        assert!(node.app().commands.refresh(&later, &idle.refresh_token).await.is_err());
        let (locked, _) = node.register(&[]).await;
        for _ in 0..6 {
            for email in [locked.as_str(), "nobody@example.com"] {
                let body = json!({"email": email, "password": "wrong"});
                assert_eq!(node.anonymous().post("/v1/auth/login", body).await.status, 401);
            }
        }
    }
    caught_up(node, &admin).await;
}

async fn rebuilt(node: &Node, projection: Projection) -> Rebuilt {
    rebuild(&node.database.pool().await, projection, |_, _| {}).await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rebuilt_view_is_the_live_view() {
    let node = Node::start().await;
    mixed_load(&node).await;
    let kinds = kinds(&node.database).await;
    assert_eq!(kinds.len(), 12, "the load is to make every kind of event there is: {kinds:?}");
    for projection in Projection::ALL {
        let rebuilt = rebuilt(&node, projection).await;
        assert!(rebuilt.is_same(), "{projection:?}: {rebuilt:?}");
        assert!(rebuilt.before.rows >= 20, "{projection:?}: {rebuilt:?}");
        assert_eq!(rebuilt.events, log_size(&node).await);
    }
}

/// The types of events in the log.
async fn kinds(database: &Database) -> Vec<String> {
    let statement = "select distinct convert_from(leaf, 'UTF8')::jsonb ->> 'type' as kind from log.event order by kind";
    sqlx::query_scalar(statement).fetch_all(&mut superuser(database).await).await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_view_rebuilt_twice_is_the_same() {
    let node = Node::start().await;
    mixed_load(&node).await;
    for projection in Projection::ALL {
        let (first, second) = (rebuilt(&node, projection).await, rebuilt(&node, projection).await);
        assert_eq!(first.at_same_position, second.at_same_position, "{projection:?}");
        assert!(second.is_same(), "{projection:?}: {second:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_view_that_was_altered_is_found_out_and_made_right() {
    let node = Node::start().await;
    mixed_load(&node).await;
    for (projection, alteration) in [
        (
            Projection::Accounts,
            "update read.account set roles = '{admin}' where account_id = (select min(account_id::text)::uuid from read.account where roles <> '{admin}')",
        ),
        (
            Projection::Sessions,
            "delete from read.session where session_id = (select max(session_id::text)::uuid from read.session)",
        ),
        (Projection::Audit, "update read.audit set subject_id = null where position = 0"),
    ] {
        let altered = sqlx::query(alteration).execute(&mut superuser(&node.database).await).await.unwrap();
        assert_eq!(altered.rows_affected(), 1, "{projection:?}");
        let found = rebuilt(&node, projection).await;
        assert!(!found.is_same(), "{projection:?}: {found:?}");
        assert!(rebuilt(&node, projection).await.is_same(), "{projection:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn commands_go_on_while_views_are_rebuilt() {
    let node = Node::start().await;
    mixed_load(&node).await;
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
        for _ in 0..5 {
            for projection in Projection::ALL {
                let rebuilt = rebuilt(&node, projection).await;
                assert!(rebuilt.is_same(), "{projection:?}: {rebuilt:?}");
            }
        }
        is_over.store(true, Ordering::Relaxed);
    };
    let (made, ()) = tokio::join!(commands, rebuilds);
    assert!(made > 0);
    caught_up(&node, &node.admin().await).await;
    for projection in Projection::ALL {
        assert!(rebuilt(&node, projection).await.is_same(), "{projection:?}, followed after it was rebuilt");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rebuild_that_is_broken_off_leaves_the_view_as_it_was() {
    let node = Node::start().await;
    mixed_load(&node).await;
    for projection in Projection::ALL {
        let pool = node.database.pool().await;
        let broken_off = tokio::spawn(async move { rebuild(&pool, projection, |_, _| panic!("broken off")).await });
        assert!(broken_off.await.unwrap_err().is_panic());
        let after = rebuilt(&node, projection).await;
        assert!(after.is_same() && after.before.rows > 0, "{projection:?}: {after:?}");
    }
}

/// A draft of an event about a stream of its own.
fn draft(event: impl Into<Event>, stream: Uuid) -> Prepared {
    let (event, id) = (event.into(), operator().new_id());
    let draft = Draft {
        id,
        stream: Stream { category: event.category(), id: stream },
        subject: Some(stream),
        actor: Actor::System,
        correlation: id,
        causation: None,
        policy_version: 1,
        event,
        sealed: Vec::new(),
    };
    draft.prepare().unwrap()
}

/// Appends a sound event and, right behind it, one of a type that nobody knows. Answers with the latter's position.
async fn poison(database: &Database) -> u64 {
    let (now, good) = (operator().now, Uuid::from_u128(1));
    let sound = draft(AccountEvent::Registered {}, good).leaf(now, 1);
    let text = String::from_utf8(sound.clone()).unwrap();
    let poison =
        text.replace("account.registered", "account.reinvented").replace(&good.to_string(), &Uuid::nil().to_string());

    let mut connection = superuser(database).await;
    let mut transaction = connection.begin().await.unwrap();
    let head: i64 =
        sqlx::query_scalar("select position from log.head for update").fetch_one(&mut *transaction).await.unwrap();
    sqlx::query("alter table log.event_0 disable trigger append_only").execute(&mut *transaction).await.unwrap();
    for (position, stream, leaf) in [(head, good, sound), (head + 1, Uuid::nil(), poison.into_bytes())] {
        let statement = "insert into log.event_0 (position, stream_id, category, version, leaf, leaf_hash)
                         values ($1, $2, 'account', 1, $3, $4)";
        let hash = leaf::hash(&leaf).to_vec();
        let insert = sqlx::query(statement).bind(position).bind(stream).bind(leaf).bind(hash);
        insert.execute(&mut *transaction).await.unwrap();
    }
    sqlx::query("alter table log.event_0 enable always trigger append_only").execute(&mut *transaction).await.unwrap();
    sqlx::query("update log.head set position = position + 2").execute(&mut *transaction).await.unwrap();
    transaction.commit().await.unwrap();
    head.unsigned_abs() + 1
}

async fn health(node: &Node) -> Value {
    let answer = node.anonymous().get("/health/ready").await;
    assert_eq!(answer.status, 200, "{answer:?}");
    answer.json
}

fn view<'a>(health: &'a Value, name: &str) -> &'a Value {
    health["projections"].as_array().unwrap().iter().find(|view| view["name"] == name).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn an_event_of_an_unknown_type_stops_every_view_before_it_and_shows_in_health() {
    let node = Node::start().await;
    let admin = node.admin().await;
    caught_up(&node, &admin).await;
    assert_eq!(health(&node).await["status"], "ok");
    let position = poison(&node.database).await;
    eventually("every view has stopped", async || {
        Projection::ALL.iter().all(|view| node.app().progress.of(*view).stopped_because.is_some())
    })
    .await;
    let health = health(&node).await;
    assert_eq!(health["status"], "degraded", "{health}");
    for projection in Projection::ALL {
        let view = view(&health, projection.as_str());
        assert_eq!((&view["stopped"], &view["status"]), (&json!(true), &json!("failed")), "{health}");
        assert_eq!(view["position"], position, "everything before it is applied: {health}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_event_of_an_unknown_type_is_not_skipped() {
    let node = Node::start().await;
    let admin = node.admin().await;
    let position = poison(&node.database).await;
    for _ in 0..5 {
        node.register(&["customer"]).await;
    }
    // Patience of a reader is two seconds: each view has tried again in that time.
    for path in ["/v1/accounts", "/v1/sessions", "/v1/audit/events"] {
        let answer = admin.seeing(log_size(&node).await - 1).get(path).await;
        assert_eq!((answer.status, answer.code()), (503, "behind"), "{path}: {answer:?}");
    }
    let last: i64 = sqlx::query_scalar("select max(position) from read.audit")
        .fetch_one(&mut superuser(&node.database).await)
        .await
        .unwrap();
    assert_eq!(last.unsigned_abs(), position - 1, "up to the event, and not past it");
    let health = health(&node).await;
    assert!(view(&health, "audit")["lag"].as_u64().unwrap() >= 5, "{health}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_view_that_cannot_apply_an_event_stops_alone_and_goes_on_once_it_can() {
    let node = Node::start().await;
    let admin = node.admin().await;
    caught_up(&node, &admin).await;
    let mut superuser = superuser(&node.database).await;
    let obstacle = "alter table read.session add constraint obstacle check (false) not valid";
    sqlx::query(obstacle).execute(&mut superuser).await.unwrap();
    let ann = node.customer().await;
    let admin = admin.seeing(log_size(&node).await - 1);
    let stopped = admin.get("/v1/sessions").await;
    assert_eq!((stopped.status, stopped.code()), (503, "behind"), "{stopped:?}");
    assert_eq!(admin.get("/v1/accounts").await.status, 200);
    assert_eq!(admin.get("/v1/audit/events").await.status, 200);
    assert_eq!(ann.get("/v1/auth/session").await.status, 200, "what gates a request is no view");
    let health = health(&node).await;
    assert_eq!(health["status"], "degraded", "{health}");
    let stopped = ["accounts", "sessions", "audit"].map(|name| view(&health, name)["stopped"].clone());
    assert_eq!(stopped, [json!(false), json!(true), json!(false)], "{health}");

    sqlx::query("alter table read.session drop constraint obstacle").execute(&mut superuser).await.unwrap();
    eventually("the view has caught up", async || self::health(&node).await["status"] == "ok").await;
    assert!(admin.get("/v1/sessions?limit=200").await.text.contains(&ann.session.to_string()), "nothing was left out");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_cannot_follow_the_log_asks_the_database_who_may_do_what() {
    let node = Node::start().await;
    let there = Node::join(&node.database).await;
    let (admin, ann, bob) = (node.admin().await, node.auditor().await, node.customer().await);
    poison(&node.database).await;
    eventually("the lease has run out", async || !there.app().gate.holds_lease()).await;

    let at = |client: &Client| Client { url: there.url.clone(), ..client.clone() };
    assert_eq!(at(&ann).get("/v1/audit/events").await.status, 200);
    let path = format!("/v1/accounts/{}/roles/auditor?reason=r", ann.account);
    assert_eq!(admin.delete(&path).await.status, 204);
    assert_eq!(at(&ann).get("/v1/audit/events").await.status, 403);
    assert_eq!(at(&ann).get("/v1/auth/session").await.status, 200);
    assert_eq!(at(&bob).get("/v1/auth/session").await.status, 200);
    assert_eq!(bob.post_nothing("/v1/auth/logout").await.status, 204);
    assert_eq!(at(&bob).get("/v1/auth/session").await.status, 401);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_can_ask_nobody_lets_nobody_in() {
    let node = Node::start().await;
    let (ann, bob) = (node.customer().await, node.customer().await);
    assert_eq!(bob.post_nothing("/v1/auth/logout").await.status, 204);
    node.app().pool.close().await;
    eventually("the lease has run out", async || !node.app().gate.holds_lease()).await;
    let answer = ann.get("/v1/auth/session").await;
    assert_eq!((answer.status, answer.code()), (503, "unavailable"), "{answer:?}");
    assert!(answer.header("retry-after").is_some(), "{answer:?}");
    assert_eq!(bob.get("/v1/auth/session").await.status, 401, "what has ended stays ended");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_without_its_database_is_not_ready_and_lives() {
    let node = Node::start().await;
    assert_eq!(health(&node).await["status"], "ok");
    node.app().pool.close().await;
    let ready = node.anonymous().get("/health/ready").await;
    assert_eq!((ready.status, ready.code()), (503, "unavailable"), "{ready:?}");
    assert!(ready.json["detail"].as_str().is_some_and(|detail| detail.contains("Postgres")), "{ready:?}");
    assert_eq!(node.anonymous().get("/health/live").await.status, 200);
}

/// A gate that knows nothing yet, and holds no lease.
async fn gate() -> Gate {
    let database = Database::create().await;
    Gate::open(&database.pool().await, TimeDelta::hours(1), operator().now).await.unwrap()
}

fn ann() -> (AccountId, SessionId) {
    (AccountId(Uuid::from_u128(1)), SessionId(Uuid::from_u128(2)))
}

/// What the gate says of a token that was issued at this position to somebody with these roles.
fn judged(gate: &Gate, position: u64, roles: &[&str]) -> Verdict {
    let roles: Vec<RoleName> = roles.iter().map(|role| RoleName::parse(role).unwrap()).collect();
    let (account, session) = ann();
    gate.judge(Claim { account, session, position, roles: &roles })
}

fn current(roles: &[&str]) -> Verdict {
    Verdict::Current(roles.iter().map(|role| RoleName::parse(role).unwrap()).collect())
}

fn at(position: u64, event: impl Into<Event>, stream: Uuid) -> Arc<Recorded> {
    Arc::new(draft(event, stream).recorded(position, operator().now, position + 1))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gate_without_a_lease_knows_nothing() {
    let gate = gate().await;
    assert_eq!(judged(&gate, 0, &[]), Verdict::Unknown);
    gate.renew_lease(Instant::now());
    assert_eq!(judged(&gate, 0, &["admin"]), current(&["admin"]));
    gate.renew_lease(Instant::now().checked_sub(LEASE).unwrap());
    assert_eq!(judged(&gate, 0, &["admin"]), Verdict::Unknown, "it has run out");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_that_has_ended_is_ended_with_or_without_a_lease() {
    let gate = gate().await;
    gate.observe(&[at(0, SessionEvent::Revoked { by: RevokedBy::Owner }, ann().1.0)]);
    assert_eq!(judged(&gate, 0, &[]), Verdict::Ended);
    gate.renew_lease(Instant::now());
    assert_eq!(judged(&gate, 9, &[]), Verdict::Ended);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gate_takes_a_role_change_for_what_it_came_after() {
    let gate = gate().await;
    gate.renew_lease(Instant::now());
    let auditor = RoleName::parse("auditor").unwrap();
    gate.observe(&[
        at(0, AccountEvent::RoleGranted { role: auditor.clone() }, ann().0.0),
        at(1, SessionEvent::Expired {}, Uuid::from_u128(3)),
        at(2, AccountEvent::RoleRevoked { role: RoleName::parse("admin").unwrap() }, ann().0.0),
        at(3, AccountEvent::RoleRevoked { role: auditor }, Uuid::from_u128(4)),
    ]);
    assert_eq!(
        judged(&gate, 1, &["admin"]),
        current(&[]),
        "admin was revoked after the token; auditor, before it, is not in it"
    );
    assert_eq!(
        judged(&gate, 2, &["admin"]),
        current(&["admin"]),
        "the token knows of the revocation, so this is a new grant"
    );
    assert_eq!(gate.applied(), 4);
}

#[tokio::test(flavor = "multi_thread")]
async fn events_told_twice_or_out_of_order_come_to_the_same() {
    let gate = gate().await;
    gate.renew_lease(Instant::now());
    let role = RoleName::parse("auditor").unwrap();
    let granted = at(1, AccountEvent::RoleGranted { role: role.clone() }, ann().0.0);
    let revoked = at(2, AccountEvent::RoleRevoked { role }, ann().0.0);
    gate.observe(&[Arc::clone(&revoked)]);
    assert_eq!(gate.applied(), 0, "the mark does not move over a gap");
    gate.observe(&[at(0, AccountEvent::Registered {}, ann().0.0), granted, revoked]);
    assert_eq!((gate.applied(), judged(&gate, 0, &["auditor"])), (3, current(&[])));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_older_than_the_gates_memory_is_unknown() {
    let gate = gate().await;
    gate.renew_lease(Instant::now());
    let (now, ended) = (operator().now, draft(SessionEvent::Expired {}, Uuid::from_u128(3)));
    // One more than it keeps.
    let events: Vec<_> = (0..=100_000).map(|position| Arc::new(ended.recorded(position, now, position + 1))).collect();
    gate.observe(&events);
    gate.renew_lease(Instant::now());
    assert_eq!(judged(&gate, 0, &[]), Verdict::Unknown, "what position 0 changed is forgotten");
    assert_eq!(judged(&gate, 1, &[]), current(&[]));
}
