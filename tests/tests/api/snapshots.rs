//! The length of a history costs nothing: loading begins at a snapshot, which the log must confirm. And a change
//! without effect does not lengthen it.

use chrono::TimeDelta;
use fulexo_domain::account::{AccountEvent, PasswordChangeCause};
use fulexo_domain::session::SessionEvent;
use fulexo_node::clock;
use fulexo_projections::snapshots::{SnapshotComparison, compare};
use fulexo_tests::{Answer, Client, Dice, Node, Program, leaves, lengthen, log_size, superuser};
use futures_util::future::join_all;
use hyper::Method;
use serde_json::{Value, json};
use uuid::Uuid;

const LONG: usize = 3_000;
const BECAUSE: &str = "to see whether it is recorded";

/// Returns an event that says nothing new about an account.
fn rehashed() -> AccountEvent {
    AccountEvent::PasswordChanged { how: PasswordChangeCause::Rehash }
}

/// Returns an event that leaves the session's refresh token as it is.
fn refreshed() -> SessionEvent {
    let now = clock::now();
    SessionEvent::Refreshed {
        generation: 1,
        grace_until: now + TimeDelta::seconds(10),
        idle_expires_at: now + TimeDelta::days(7),
    }
}

/// Returns the version of a stream's snapshot, and the version of the stream.
async fn versions(node: &Node, stream: Uuid, category: &str) -> (Option<i64>, i64) {
    let statement = "select (select version from log.snapshot where stream_id = $1 and category = $2),
                            (select version from log.stream where stream_id = $1 and category = $2)";
    let asked = sqlx::query_as(statement).bind(stream).bind(category);
    asked.fetch_one(&superuser(&node.database).await).await.unwrap()
}

async fn compared(node: &Node) -> SnapshotComparison {
    compare(&mut node.database.pool().await.acquire().await.unwrap()).await.unwrap()
}

async fn does(node: &Node, statement: &'static str, stream: Uuid) -> u64 {
    let done = sqlx::query(statement).bind(stream).execute(&superuser(&node.database).await).await;
    done.unwrap().rows_affected()
}

/// Returns what users see of themselves, without ids and times.
async fn sees(client: &Client) -> Value {
    let me = client.get("/v1/me").await;
    assert_eq!(me.status, 200, "{me:?}");
    let session = client.get("/v1/auth/session").await;
    assert_eq!(session.status, 200, "{session:?}");
    json!([
        me.json["display_name"],
        me.json["roles"],
        me.json["second_factor"],
        session.json["roles"],
        session.json["step_up_required"]
    ])
}

async fn refresh(node: &Node, client: &mut Client) -> Answer {
    let answer = node.anonymous().post("/v1/auth/refresh", json!({"refresh_token": client.refresh_token})).await;
    if answer.status == 200 {
        client.log_in_with(&answer);
    }
    answer
}

#[tokio::test(flavor = "multi_thread")]
async fn a_long_history_answers_as_a_short_one_does_and_is_read_from_its_snapshot_on() {
    let node = Node::start().await;
    let (mut long, mut short) = (node.customer().await, node.customer().await);
    lengthen(&node, long.account, long.account, rehashed(), LONG).await;
    lengthen(&node, long.account, long.session, refreshed(), LONG).await;

    for name in ["Ann", "Änne", "安"] {
        for client in [&mut long, &mut short] {
            assert_eq!(client.seeing(log_size(&node).await - 1).get("/v1/me").await.status, 200);
            let changed = change_name(client, name).await;
            assert_eq!((changed.status, changed.json["display_name"].as_str()), (200, Some(name)), "{changed:?}");
            assert_eq!(refresh(&node, client).await.status, 200);
        }
        assert_eq!(sees(&long).await, sees(&short).await);
    }
    let (snapshot, version) = versions(&node, long.account, "account").await;
    assert!(version - snapshot.unwrap() < 32, "{snapshot:?} of {version}");
    let (snapshot, version) = versions(&node, long.session, "session").await;
    assert!(version - snapshot.unwrap() < 32, "{snapshot:?} of {version}");
    assert_eq!(versions(&node, short.account, "account").await.0, None, "a short one never has any");
    assert_eq!(compared(&node).await, SnapshotComparison { matching: 2, ..SnapshotComparison::default() });

    // A spent token stays spent, and a session's end stays its end, regardless of what was folded.
    let spent = long.refresh_token.clone();
    assert_eq!(long.post_nothing("/v1/auth/logout").await.status, 204);
    long.refresh_token = spent;
    assert_eq!(refresh(&node, &mut long).await.status, 401);
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_snapshot_that_the_log_does_not_bear_out_is_not_gone_by() {
    let node = Node::start().await;
    let mut ann = node.user(&["customer", "auditor"]).await;
    lengthen(&node, ann.account, ann.account, rehashed(), 40).await;
    let before = sees(&ann).await;
    for (what, statement) in [
        (
            "of another history",
            "update log.snapshot set leaf_hash = sha256('another'), state = replace(state, 'auditor', 'admin') where stream_id = $1",
        ),
        (
            "ahead of the log",
            "update log.snapshot set version = version + 1000, state = replace(state, 'auditor', 'admin') where stream_id = $1",
        ),
        (
            "in another format",
            "update log.snapshot set format = 77, state = replace(state, 'auditor', 'admin') where stream_id = $1",
        ),
        ("that cannot be read", "update log.snapshot set state = '{' where stream_id = $1"),
    ] {
        assert_eq!(does(&node, statement, ann.account).await, 1, "{what}");
        let tokens = refresh(&node, &mut ann).await;
        assert_eq!(tokens.status, 200, "{what}: {tokens:?}");
        assert_eq!(sees(&ann).await, before, "{what}");
        let (snapshot, version) = versions_of_ours(&node, ann.account).await;
        assert!(snapshot.is_some_and(|snapshot| snapshot <= version), "{what}: it is made again");
        assert_eq!(compared(&node).await.differing, 0, "{what}");
        does(&node, "delete from log.snapshot where stream_id = $1 and format = 77", ann.account).await;
    }
    node.stop().await;
}

/// Returns the version of an account's snapshot in the format of this build, and of its stream.
async fn versions_of_ours(node: &Node, account: Uuid) -> (Option<i64>, i64) {
    let statement = "select (select version from log.snapshot where stream_id = $1 and format <> 77),
                            (select version from log.stream where stream_id = $1 and category = 'account')";
    sqlx::query_as(statement).bind(account).fetch_one(&superuser(&node.database).await).await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn replay_finds_a_snapshot_that_says_what_never_happened() {
    let node = Node::start().await;
    let ann = node.customer().await;
    lengthen(&node, ann.account, ann.account, rehashed(), 40).await;
    assert_eq!(ann.get("/v1/me").await.status, 200);
    let replay = || Program::run(&["replay"], &node.database.env());
    let sound = replay();
    assert_eq!(sound.status.code(), Some(0), "{}{}", sound.said, sound.errors);
    assert!(sound.said.contains("snapshots: 1 agree, 0 differ, 0 unused"), "{}", sound.said);

    let forged = r#"update log.snapshot set state = replace(state, '"customer"', '"admin"') where stream_id = $1"#;
    assert_eq!(does(&node, forged, ann.account).await, 1);
    let found = replay();
    assert_eq!(found.status.code(), Some(1), "{}", found.said);
    assert!(found.said.contains(&format!("the snapshot of account {} differs", ann.account)), "{}", found.said);

    does(&node, "delete from log.snapshot where stream_id = $1", ann.account).await;
    assert_eq!(ann.get("/v1/me").await.status, 200);
    assert_eq!(
        compared(&node).await,
        SnapshotComparison { matching: 1, ..SnapshotComparison::default() },
        "it is made again"
    );
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_application_writes_snapshots_of_events_that_are_there_alone() {
    let node = Node::start().await;
    let pool = node.database.pool().await;
    for statement in [
        "insert into log.snapshot values (gen_random_uuid(), 'account', 1, 1, '', '{}')",
        "update log.snapshot set state = '{}'",
        "delete from log.snapshot",
    ] {
        let refused = sqlx::query(statement).execute(&pool).await.unwrap_err();
        assert_eq!(refused.as_database_error().and_then(|error| error.code()).as_deref(), Some("42501"), "{statement}");
    }
    let made_up =
        "select log.keep_snapshot(stream_id, category, 1::smallint, version, sha256('made up'), '{}') from log.event";
    node.customer().await;
    sqlx::query(made_up).execute(&pool).await.unwrap();
    let kept: i64 = sqlx::query_scalar("select count(*) from log.snapshot").fetch_one(&pool).await.unwrap();
    assert_eq!(kept, 0);
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_writes_at_two_nodes_at_once_no_snapshot_is_wrong() {
    let seed = 20_261_128;
    println!("seed {seed}");
    let first = Node::start().await;
    let second = Node::join(&first.database).await;
    let (admin, ann) = (first.admin().await, first.customer().await);
    lengthen(&first, ann.account, ann.account, rehashed(), 30).await;
    let mut sessions = Vec::new();
    for number in 0..8_u64 {
        let node = if number % 2 == 0 { &first } else { &second };
        let admin = Client { url: node.url.clone(), ..admin.clone() };
        sessions.push((number, node, admin, node.log_in(&ann.email, ann.account).await));
    }
    let writers = sessions.into_iter().map(|(number, node, admin, mut ann)| {
        let mut dice = Dice(seed + number);
        async move {
            for step in 0..25 {
                let roles = format!("/v1/accounts/{}/roles", ann.account);
                let answer = match dice.roll(6) {
                    0 => admin.post(&roles, json!({"role": "auditor", "reason": BECAUSE})).await,
                    1 => admin.delete_with(&format!("{roles}/auditor"), json!({"reason": BECAUSE})).await,
                    2 => refresh(node, &mut ann).await,
                    3 => ann.get("/v1/me").await,
                    _ => change_name(&ann, &format!("{number} {step}")).await,
                };
                assert!(answer.status < 500 || answer.status == 503, "{answer:?}");
            }
        }
    });
    join_all(writers).await;
    assert_eq!(ann.get("/v1/me").await.status, 200);
    let compared = compared(&first).await;
    assert!(compared.matching >= 1 && compared.differing == 0 && compared.unused == 0, "{compared:?}");
    second.stop().await;
    first.stop().await;
}

async fn change_name(client: &Client, name: &str) -> Answer {
    client.send(Method::PATCH, "/v1/me", Some("application/json"), &json!({"display_name": name}).to_string()).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_change_that_changes_nothing_is_no_event() {
    let node = Node::start().await;
    let (admin, ann, bob) = (node.admin().await, node.customer().await, node.customer().await);
    let (because, role) = (json!({"reason": BECAUSE}), json!({"permissions": ["audit.read"], "reason": BECAUSE}));
    let expires_at = clock::now() + TimeDelta::days(1);
    let key = json!({"name": "billing", "permissions": ["audit.read"], "expires_at": expires_at});
    let key = admin.post("/v1/api-keys", key).await;
    let key = format!("/v1/api-keys/{}", key.json["api_key_id"].as_str().unwrap());
    let expire = format!("/v1/accounts/{}/expire-password", bob.account);
    let define = async || admin.put("/v1/roles/support", role.clone()).await;
    let expire = async || admin.post(&expire, because.clone()).await;
    let revoke = async || admin.delete_with(&key, because.clone()).await;
    for first in [define().await, expire().await, revoke().await] {
        assert!(first.status < 300, "{first:?}");
    }
    let named = change_name(&ann, "Ann").await;
    assert_eq!(named.status, 200, "{named:?}");

    // But for the ends of single sessions, which follow the password's.
    let count = async || leaves(&node.database).await.iter().filter(|leaf| leaf["type"] != "session.revoked").count();
    let size = count().await;
    for again in [
        change_name(&ann, "Ann").await,
        // It is parsed before it is compared.
        change_name(&ann, "  Ann ").await,
    ] {
        assert_eq!((again.status, &again.json), (200, &named.json));
        assert_eq!(again.position(), named.position(), "where it has been so since");
    }
    let by_key = change_name(&ann.with_header("idempotency-key", "the same"), "Ann").await;
    assert_eq!((by_key.status, &by_key.json), (200, &named.json));
    assert_eq!(change_name(&ann.with_header("idempotency-key", "the same"), "Ann").await.json, named.json);
    let path = format!("/v1/accounts/{}", ann.account);
    let by_admin =
        admin.send(Method::PATCH, &path, Some("application/json"), &json!({"display_name": "Ann"}).to_string()).await;
    assert_eq!((by_admin.status, by_admin.json["display_name"].as_str()), (200, Some("Ann")), "{by_admin:?}");
    for again in [define().await, expire().await, revoke().await] {
        assert!(again.status < 300, "{again:?}");
    }
    assert_eq!(count().await, size);

    assert_eq!(change_name(&ann, "Anna").await.status, 200);
    assert_eq!(count().await, size + 1, "another name is one");
    node.stop().await;
}
