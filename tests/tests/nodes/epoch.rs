//! A backup is restored: the grants of an undone history are worth nothing in the one that took its place.

use std::sync::Arc;

use fulexo_database::begin;
use fulexo_tests::{Database, Node, eventually, log_size, superuser, there};
use sqlx::AssertSqlSafe;

const SESSION: &str = "/v1/auth/session";

/// Copies a database that nobody is connected to.
async fn copy(of: &Database, name: &str) -> Database {
    let pool = superuser(&Database { name: "postgres".to_owned() }).await;
    let statement = format!("create database {name} template {} owner fulexo_owner", of.name);
    sqlx::query(AssertSqlSafe(statement)).execute(&pool).await.unwrap();
    Database { name: name.to_owned() }
}

async fn change_epoch(database: &Database) {
    let pool = superuser(database).await;
    sqlx::query("update log.head set epoch = gen_random_uuid()").execute(&pool).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_of_an_undone_history_is_refused_and_one_from_before_it_is_good() {
    let node = Node::start().await;
    let ann = node.customer().await;
    let database = Arc::clone(&node.database);
    node.stop().await;
    let backup = copy(&database, &format!("{}_backup", database.name)).await;
    // The events from here on are lost.
    let node = Node::join(&database).await;
    let bob = node.log_in(&ann.email, ann.account).await;
    assert_eq!(bob.get(SESSION).await.status, 200);
    let undone = log_size(&node).await;
    node.stop().await;

    change_epoch(&backup).await;
    let restored = Node::join(&Arc::new(backup)).await;
    // The new history grows beyond the position at which the token was issued.
    while log_size(&restored).await <= undone {
        restored.log_in(&ann.email, ann.account).await;
    }
    eventually("it judges from memory", async || {
        restored.app().gate.holds_lease() && restored.app().gate.applied() > undone
    })
    .await;
    assert_eq!(there(&restored, &bob).get(SESSION).await.status, 401, "nobody knows this session");
    assert_eq!(there(&restored, &ann).get(SESSION).await.status, 200, "this one was there before");
    let carol = restored.log_in(&ann.email, ann.account).await;
    assert_eq!(carol.get(SESSION).await.status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_whose_log_is_replaced_judges_nothing_from_memory_any_more_and_says_so() {
    for how in ["epoch = gen_random_uuid()", "position = position - 1"] {
        let node = Node::start().await;
        let (ann, bob) = (node.customer().await, node.customer().await);
        assert_eq!(bob.post_nothing("/v1/auth/logout").await.status, 204);
        let pool = superuser(&node.database).await;
        sqlx::query(AssertSqlSafe(format!("update log.head set {how}"))).execute(&pool).await.unwrap();
        eventually("it is noticed", async || node.app().gate.is_replaced()).await;
        assert!(!node.app().gate.holds_lease());
        let ready = node.anonymous().get("/health/ready").await;
        assert_eq!((ready.status, ready.code()), (503, "log_replaced"), "{ready:?}");
        assert_eq!(ann.get(SESSION).await.status, 200, "the tables say so");
        assert_eq!(bob.get(SESSION).await.status, 401, "the tables say so");
        sqlx::query("update access.session set ended_at = null, ended_position = null").execute(&pool).await.unwrap();
        assert_eq!(bob.get(SESSION).await.status, 200, "what this node remembers is not what happened");
    }
}

/// A standby that lacked the last event was promoted, nobody changed the epoch, and the log has grown since.
#[tokio::test(flavor = "multi_thread")]
async fn a_node_notices_another_event_in_the_place_of_one_that_it_knows_though_the_log_is_longer() {
    let node = Node::start().await;
    let (ann, bob) = (node.customer().await, node.customer().await);
    assert_eq!(bob.post_nothing("/v1/auth/logout").await.status, 204);
    eventually("it judges from memory", async || node.app().gate.holds_lease()).await;
    let pool = superuser(&node.database).await;
    let mut other = begin(&pool).await.unwrap();
    for statement in [
        "alter table log.event_0 disable trigger append_only",
        // The event before the last takes the last one's place, and comes twice more.
        "create temporary table again on commit drop as
             select e.*, h.position - 1 as last from log.event e, log.head h where e.position = h.position - 2",
        "delete from log.event_0 where position = (select last from again)",
        "insert into log.event_0
             select last + n, stream_id, category, version, leaf, leaf_hash from again, generate_series(0, 2) n",
        "update log.head set position = position + 2",
    ] {
        sqlx::query(statement).execute(&mut *other).await.unwrap();
    }
    other.commit().await.unwrap();
    eventually("it is noticed", async || node.app().gate.is_replaced()).await;
    assert!(!node.app().gate.holds_lease());
    assert_eq!(ann.get(SESSION).await.status, 200, "the tables say so");
}
