//! Requests that anybody may make, or that may take long, take a bounded part of the connections to the database.

use std::time::Duration;

use fulexo_database::begin;
use fulexo_tests::{Node, eventually, superuser};
use sqlx::Executor;
use tokio::task::JoinSet;
use tokio::time::timeout;

use crate::assert_problem;

#[tokio::test(flavor = "multi_thread")]
async fn however_many_ask_how_the_service_is_the_database_is_asked_once() {
    let node = Node::start().await;
    let other = superuser(&node.database).await;
    let mut locked = begin(&other).await.unwrap();
    locked.execute("lock table log.head in access exclusive mode").await.unwrap();
    let mut asking = JoinSet::new();
    for number in 0..40 {
        let nobody = node.anonymous();
        let path = if number % 2 == 0 { "/health/ready" } else { "/metrics" };
        asking.spawn(async move { nobody.get(path).await });
    }
    let judging = &node.app().judging;
    let mut most = 0;
    while !asking.is_empty() {
        most = most.max(usize::try_from(judging.size()).unwrap() - judging.num_idle());
        if let Ok(Some(answered)) = timeout(Duration::from_millis(5), asking.join_next()).await {
            let answer = answered.unwrap();
            assert!([200, 503].contains(&answer.status), "{answer:?}");
        }
    }
    assert!(most <= 1, "{most} connections that judge callers were taken");
    locked.rollback().await.unwrap();
    eventually("it is ready again", async || node.anonymous().get("/health/ready").await.status == 200).await;
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn lists_that_are_searched_wait_for_leave_and_others_do_not() {
    let node = Node::start().await;
    let admin = node.admin().await;
    let mut held = vec![node.app().look_back().await.unwrap()];
    while let Ok(Ok(leave)) = timeout(Duration::from_millis(50), node.app().look_back()).await {
        held.push(leave);
    }
    for path in ["/v1/audit/events?type=account.suspended", "/v1/accounts?suspended=true", "/v1/sessions?live=false"] {
        assert_problem(&admin.get(path).await, 503, "overloaded");
    }
    for path in ["/v1/audit/events", "/v1/accounts", "/v1/sessions"] {
        assert_eq!(admin.get(path).await.status, 200, "{path}");
    }
    drop(held);
    assert_eq!(admin.get("/v1/audit/events?type=account.suspended").await.status, 200);
    node.stop().await;
}
