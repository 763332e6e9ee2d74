//! A caller leaves in the middle of its transaction. What the next one does on the same connection is done all the same.

use std::future::poll_fn;
use std::pin::pin;
use std::task::Poll;

use fulexo_database::begin;
use fulexo_tests::{Database, superuser};
use sqlx::postgres::PgPoolOptions;

/// Polls a future this many times, or to its end, and drops it.
async fn dropped_after(polls: u32, future: impl Future<Output = ()>) -> Option<()> {
    let (mut future, mut left) = (pin!(future), polls);
    poll_fn(|context| match left.checked_sub(1) {
        None => Poll::Ready(None),
        Some(fewer) => {
            left = fewer;
            let polled = future.as_mut().poll(context).map(Some);
            if left == 0 && polled.is_pending() { Poll::Ready(None) } else { polled }
        }
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_transaction_dropped_at_any_moment_does_not_undo_what_its_connection_does_next() {
    let database = Database::create().await;
    let observer = superuser(&database).await;
    sqlx::query("create table kept (number integer primary key)").execute(&observer).await.unwrap();
    // The next caller gets the connection of the one that left.
    let pool = PgPoolOptions::new().max_connections(1).connect(&database.superuser_url()).await.unwrap();
    let (mut ended, mut left) = (0, 0);
    for number in 1..=400_i32 {
        let transaction = async {
            let mut transaction = begin(&pool).await.unwrap();
            sqlx::query("insert into kept values ($1)").bind(-number).execute(&mut *transaction).await.unwrap();
            transaction.commit().await.unwrap();
        };
        match dropped_after(number.unsigned_abs() % 10, transaction).await {
            Some(()) => ended += 1,
            None => left += 1,
        }
        sqlx::query("insert into kept values ($1)").bind(number).execute(&pool).await.unwrap();
        let is_kept: bool = sqlx::query_scalar("select exists (select from kept where number = $1)")
            .bind(number)
            .fetch_one(&observer)
            .await
            .unwrap();
        assert!(is_kept, "number {number} was acknowledged, and is not there");
    }
    assert!(ended > 0 && left > 100, "{ended} transactions ended, {left} were left");
}
