//! Facts sealed for nobody in particular: they are kept for a time, and go with the key of their month.

use chrono::TimeDelta;
use fulexo_commands::Retention;
use fulexo_node::clock;
use fulexo_tests::{Node, PASSWORD, eventually, superuser};
use serde_json::json;

#[tokio::test(flavor = "multi_thread")]
async fn the_key_of_a_month_goes_with_what_it_sealed_once_that_was_kept_long_enough() {
    let node = Node::start().await;
    let (pool, auditor) = (superuser(&node.database).await, node.auditor().await);
    let wrong = json!({"email": "nobody@example.com", "password": PASSWORD});
    assert_eq!(node.anonymous().post("/v1/auth/login", wrong).await.status, 401);
    let sealed = "select count(*) from log.sealed where period is not null";
    eventually("the attempt is recorded", async || {
        sqlx::query_scalar::<_, i64>(sealed).fetch_one(&pool).await.unwrap() > 0
    })
    .await;
    let persons = "select count(*) from log.sealed where subject_id is not null";
    let of_persons: i64 = sqlx::query_scalar(persons).fetch_one(&pool).await.unwrap();

    let retention = Retention::new(node.database.pool().await, TimeDelta::days(90));
    // The month that began before the retention did has ended later.
    let months =
        |before: i64| format!("date_trunc('month', now() - interval '90 days')::date - interval '{before} months'");
    for (before, kept) in [(0, 1), (1, 0)] {
        for table in ["vault.period_key", "log.sealed"] {
            let age = format!("update {table} set period = {} where period is not null", months(before));
            sqlx::query(sqlx::AssertSqlSafe(age)).execute(&pool).await.unwrap();
        }
        retention.sweep(clock::now()).await.unwrap();
        let keys: i64 = sqlx::query_scalar("select count(*) from vault.period_key").fetch_one(&pool).await.unwrap();
        let rows: i64 = sqlx::query_scalar(sealed).fetch_one(&pool).await.unwrap();
        assert_eq!((keys, rows > 0), (kept, kept > 0), "{before} months before");
    }
    assert_eq!(sqlx::query_scalar::<_, i64>(persons).fetch_one(&pool).await.unwrap(), of_persons);
    let failed = auditor.get("/v1/audit/events?type=authentication.failed").await;
    assert_eq!(
        (failed.status, failed.json["items"].as_array().unwrap().len()),
        (200, 1),
        "the event stays: {failed:?}"
    );
}
