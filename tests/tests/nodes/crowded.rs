//! A node whose readers, or read models, take every connection that they may have: it judges and revokes all the same.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use fulexo_database::begin;
use fulexo_projections::gate::LEASE;
use fulexo_tests::{Database, Node, eventually, superuser};
use futures_util::future::join_all;
use sqlx::AssertSqlSafe;
use tokio::time::sleep;

use crate::enforcement;

/// In the middle of a storm of requests a new one takes seconds, which callers do not have.
#[tokio::test(flavor = "multi_thread")]
async fn a_node_has_opened_all_its_connections_before_requests_come_in() {
    let node = Node::start().await;
    let statement = "select count(*) from pg_stat_activity
         where datname = current_database() and application_name = 'fulexo'";
    let open: i64 = sqlx::query_scalar(statement).fetch_one(&superuser(&node.database).await).await.unwrap();
    assert_eq!(open, 16, "FULEXO_DATABASE_CONNECTIONS of the tests");
}

#[tokio::test(flavor = "multi_thread")]
async fn reads_that_do_not_end_take_neither_the_lease_nor_revocations_from_a_node() {
    let node = Node::start().await;
    let (admin, ann, bob) = (node.admin().await, node.customer().await, node.customer().await);
    let pool = superuser(&node.database).await;
    let mut held = begin(&pool).await.unwrap();
    sqlx::query("lock table read.account in access exclusive mode").execute(&mut *held).await.unwrap();
    let is_over = Arc::new(AtomicBool::new(false));
    let reading = (0..25).map(|_| {
        let (admin, is_over) = (admin.clone(), Arc::clone(&is_over));
        tokio::spawn(async move {
            while !is_over.load(Ordering::Relaxed) {
                admin.get("/v1/accounts").await;
            }
        })
    });
    let reading: Vec<_> = reading.collect();
    let waiting = async || -> i64 {
        sqlx::query_scalar(
            "select count(*) from pg_stat_activity where datname = current_database() and wait_event_type = 'Lock'",
        )
        .fetch_one(&pool)
        .await
        .unwrap()
    };
    eventually("every connection for readers waits", async || waiting().await >= 3).await;
    // An earlier lease has run out by then.
    sleep(2 * LEASE).await;
    eventually("it judges from memory", async || node.app().gate.holds_lease()).await;
    assert_eq!(ann.get("/v1/auth/session").await.status, 200);
    let answer = admin.delete(&format!("/v1/sessions/{}", ann.session)).await;
    assert_eq!(enforcement(&answer), (1, 1, vec![]));
    assert_eq!(ann.get("/v1/auth/session").await.status, 401);
    assert_eq!(node.anonymous().get("/health/ready").await.status, 200);
    assert!(waiting().await > 0, "all that happened while they did");
    is_over.store(true, Ordering::Relaxed);
    held.rollback().await.unwrap();
    for reader in reading {
        reader.await.unwrap();
    }
    assert_eq!(bob.get("/v1/auth/session").await.status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn read_models_that_wait_take_no_connection_from_commands() {
    let database = Arc::new(Database::create().await);
    let mut env = database.env();
    // A node takes at least this many: fewer to work with than there are read models.
    env.insert("FULEXO_DATABASE_CONNECTIONS".into(), "14".into());
    let node = Node::with(&database, env).await;
    let admin = node.admin().await;
    let pool = superuser(&database).await;
    let mut held = begin(&pool).await.unwrap();
    for table in ["account", "session", "role_grant", "metric", "audit"] {
        let statement = format!("lock table read.{table} in access exclusive mode");
        sqlx::query(AssertSqlSafe(statement)).execute(&mut *held).await.unwrap();
    }
    let first = node.customer().await;
    let waiting =
        "select count(*) from pg_stat_activity where datname = current_database() and wait_event_type = 'Lock'";
    let waiting = async || sqlx::query_scalar::<_, i64>(waiting).fetch_one(&pool).await.unwrap();
    // Of the two connections for what runs behind answers, the one that measures progress may have the other.
    eventually("read models wait", async || waiting().await >= 1).await;
    let customers = join_all((0..8).map(|_| node.customer())).await;
    for customer in customers.iter().chain([&first]) {
        let answer = admin.delete(&format!("/v1/sessions/{}", customer.session)).await;
        assert_eq!(enforcement(&answer), (1, 1, vec![]));
        assert_eq!(customer.get("/v1/auth/session").await.status, 401);
    }
    assert!(waiting().await >= 1, "all that happened while it did");
    held.rollback().await.unwrap();
}
