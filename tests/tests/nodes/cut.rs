//! A node that Postgres does not answer, and one whose renewal meets a revocation.

use std::sync::Arc;
use std::time::{Duration, Instant};

use fulexo_tests::{Cut, Database, Node, eventually, log_size, superuser, there};
use sqlx::AssertSqlSafe;
use tokio::time::sleep;

use crate::wire::{Fate, Rules, Wire};
use crate::{because, enforcement, everywhere};

const SESSION: &str = "/v1/auth/session";

/// Starts a node, and another one called `far` at the end of a wire; returns the wire, too.
async fn near_and_far() -> (Node, Node, Arc<Wire>) {
    let database = Arc::new(Database::create().await);
    let wire = Wire::start(&database.url()).await;
    let near = Node::join(&database).await;
    let mut env = database.env();
    env.insert("DATABASE_URL".into(), wire.url(&database.url()));
    env.insert("FULEXO_NODE_NAME".into(), "far".into());
    let far = Node::with(&database, env).await;
    (near, far, wire)
}

async fn is_cut_off(all: Fate) {
    let (near, far, wire) = near_and_far().await;
    let (admin, ann, bob) = (near.admin().await, near.customer().await, near.customer().await);
    eventually("both are let in from memory", async || {
        let position = log_size(&near).await;
        far.app().gate.holds_lease() && far.app().gate.applied() == position
    })
    .await;
    assert_eq!(everywhere(&[&far.url; 2].map(String::as_str), &ann, SESSION).await, [200; 2]);

    wire.rule(Rules { rest: all, renewals: all, heads: all, registry: all });
    let answer = admin.delete(&format!("/v1/sessions/{}", ann.session)).await;
    assert_eq!(enforcement(&answer), (1, 2, vec!["far".to_owned()]));
    let (ann_there, bob_there) = (there(&far, &ann), there(&far, &bob));
    let (gone, alive) = tokio::join!(ann_there.get(SESSION), bob_there.get(SESSION));
    assert!([401, 503].contains(&gone.status), "{gone:?}");
    assert_eq!((alive.status, alive.code()), (503, "unavailable"), "{alive:?}");

    wire.rule(Rules::default());
    eventually("it serves again", async || bob_there.get(SESSION).await.status == 200).await;
    assert_eq!(ann_there.get(SESSION).await.status, 401);
    eventually("it counts again", async || {
        let answer = admin.post(&format!("/v1/accounts/{}/unlock", bob.account), because()).await;
        enforcement(&answer) == (2, 2, vec![])
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_whose_database_is_cut_off_is_named_and_lets_nobody_in() {
    is_cut_off(Fate::Breaks).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_whose_database_does_not_answer_is_named_and_lets_nobody_in() {
    is_cut_off(Fate::Waits).await;
}

/// A NAT or a firewall forgot one connection: its packets are lost, and nobody says so.
#[tokio::test(flavor = "multi_thread")]
async fn a_connection_that_vanishes_costs_a_node_its_lease_for_seconds_at_most() {
    for rules in [
        Rules { registry: Fate::Vanishes, ..Rules::default() },
        Rules { renewals: Fate::Vanishes, ..Rules::default() },
        Rules { heads: Fate::Vanishes, ..Rules::default() },
    ] {
        let (_near, far, wire) = near_and_far().await;
        let (admin, ann) = (far.admin().await, far.customer().await);
        wire.rule(rules);
        wire.holds_an_answer().await;
        // The kernel would try for a quarter of an hour.
        eventually("it revokes, and judges from memory", async || {
            let answer = admin.delete(&format!("/v1/sessions/{}", ann.session)).await;
            answer.status == 200 && enforcement(&answer) == (2, 2, vec![]) && far.app().gate.holds_lease()
        })
        .await;
        assert_eq!(ann.get(SESSION).await.status, 401);
    }
}

/// A firewall that forgets what was silent for a while.
#[tokio::test(flavor = "multi_thread")]
async fn a_read_finds_another_connection_where_those_that_it_was_given_have_vanished() {
    let database = Arc::new(Database::create().await);
    let (cut, url) = Cut::of(&database.url()).await;
    let mut env = database.env();
    env.insert("DATABASE_URL".into(), url);
    let node = Node::with(&database, env).await;
    let admin = node.admin().await;
    assert_eq!(admin.get("/v1/accounts").await.status, 200);
    // The connections are silent for a while; those in use meanwhile are forgotten, too.
    sleep(Duration::from_secs(2)).await;
    cut.forget();
    eventually("it is current again, by connections made since", async || node.app().gate.holds_lease()).await;
    for _ in 0..3 {
        let answer = admin.get("/v1/accounts").await;
        assert_eq!(answer.status, 200, "{answer:?}");
    }
}

/// The server asks as often as a firewall needs to remember the connection.
#[tokio::test(flavor = "multi_thread")]
async fn the_server_keeps_silent_connections_alive_and_notices_those_whose_machine_has_vanished() {
    let database = Database::create().await;
    let pool = fulexo_node::database::connect(&database.url(), 1).await.unwrap();
    for (setting, seconds) in [("idle", "60"), ("interval", "10"), ("count", "3")] {
        let statement = AssertSqlSafe(format!("show tcp_keepalives_{setting}"));
        let shown: String = sqlx::query_scalar(statement).fetch_one(&pool).await.unwrap();
        assert_eq!(shown, seconds, "{setting}");
    }
}

/// A function of this database answers in the server's place.
#[tokio::test(flavor = "multi_thread")]
async fn a_standby_is_refused_at_the_start_and_by_every_connection_made_later() {
    let database = Database::create().await;
    let before = fulexo_node::database::connect(&database.url(), 1).await.unwrap();
    let pool = superuser(&database).await;
    for statement in [
        "create schema standby",
        "grant usage on schema standby to public",
        "create function standby.pg_is_in_recovery() returns boolean language sql as 'select true'",
        &format!("alter database {} set search_path = standby, pg_catalog", database.name),
    ] {
        sqlx::query(AssertSqlSafe(statement)).execute(&pool).await.unwrap();
    }
    let refused = fulexo_node::database::connect(&database.url(), 1).await.unwrap_err();
    assert!(refused.to_string().contains("standby"), "{refused}");
    assert!(before.acquire().await.is_err());
}

/// Anybody who may publish on NATS may ring without pause.
#[tokio::test(flavor = "multi_thread")]
async fn a_doorbell_that_rings_without_pause_costs_the_database_no_more_than_a_look_a_millisecond() {
    let (_near, far, wire) = near_and_far().await;
    let (before, began) = (wire.heads(), Instant::now());
    while began.elapsed() < Duration::from_millis(500) {
        far.app().doorbell.ring_here();
        tokio::task::yield_now().await;
    }
    let (looks, most) = (wire.heads() - before, began.elapsed().as_millis() as usize + 1);
    assert!(looks <= most, "{looks} of at most {most}");
    assert!(looks >= 2, "rings are heard");
}

#[tokio::test(flavor = "multi_thread")]
async fn where_the_registry_cannot_be_read_the_answer_says_that_it_is_recorded_and_can_be_asked_for_again() {
    let (_near, far, wire) = near_and_far().await;
    let (admin, ann) = (far.admin().await, far.auditor().await);
    wire.rule(Rules { registry: Fate::Waits, ..Rules::default() });
    let path = format!("/v1/accounts/{}/roles/auditor", ann.account);
    let admin = admin.with_header("idempotency-key", "a key");
    let answer = admin.delete_with(&path, because()).await;
    assert_eq!((answer.status, answer.code()), (503, "enforcement_unknown"), "{answer:?}");
    assert!(answer.header("retry-after").is_some(), "{answer:?}");
    let (recorded, size) = (answer.position(), log_size(&far).await);
    assert_eq!(recorded + 1, size);
    assert_eq!(ann.get("/v1/audit/events?limit=1").await.status, 403, "it is in force here");

    wire.rule(Rules::default());
    let again = admin.delete_with(&path, because()).await;
    let (_, nodes, _) = enforcement(&again);
    assert_eq!((nodes, log_size(&far).await), (2, size), "and not done again");
    assert!(again.json["position"].as_u64().unwrap() >= recorded, "{again:?}");
}

/// The log's head is read, then something is revoked, then a renewal arrives: the head that was read must not make a
/// lease of that renewal.
#[tokio::test(flavor = "multi_thread")]
async fn a_renewal_that_arrives_after_a_revocation_is_no_lease_before_the_log_is_read_again() {
    let (near, far, wire) = near_and_far().await;
    let (admin, ann) = (near.admin().await, near.customer().await);
    let pool = superuser(&near.database).await;
    let renewals = async || -> i64 {
        sqlx::query_scalar("select renewals from projection.node where name = 'far'").fetch_one(&pool).await.unwrap()
    };
    eventually("it is current", async || {
        far.app().gate.holds_lease() && far.app().gate.applied() == log_size(&near).await
    })
    .await;

    wire.rule(Rules { renewals: Fate::Breaks, ..Rules::default() });
    let left = || far.app().gate.lease_ends().unwrap().saturating_duration_since(Instant::now());
    eventually("a good part of its lease is over", async || left() < Duration::from_millis(1_000)).await;
    wire.rule(Rules { renewals: Fate::Breaks, heads: Fate::AnswerWaits, ..Rules::default() });
    wire.holds_an_answer().await;

    let before = (renewals().await, log_size(&near).await);
    let revoke = async {
        let answer = admin.delete(&format!("/v1/sessions/{}", ann.session)).await;
        (enforcement(&answer), far.app().gate.holds_lease(), there(&far, &ann).get(SESSION).await.status)
    };
    let renew = async {
        while log_size(&near).await == before.1 {
            sleep(Duration::from_millis(1)).await;
        }
        // This is time for the revoker to read the registry; if it is too short, it waits for the renewal, too.
        sleep(Duration::from_millis(100)).await;
        wire.rule(Rules { heads: Fate::AnswerWaits, ..Rules::default() });
        while renewals().await == before.0 {
            sleep(Duration::from_millis(1)).await;
        }
        // This is time for the head to be read.
        sleep(Duration::from_millis(50)).await;
        // The head that was read arrives, and no other.
        wire.rule(Rules { heads: Fate::Waits, ..Rules::default() });
    };
    let ((enforcement, has_lease, status), ()) = tokio::join!(revoke, renew);
    assert_eq!((enforcement, has_lease), ((1, 2, vec!["far".to_owned()]), false));
    assert_eq!(status, 401, "the database was asked");
    wire.rule(Rules::default());
}
